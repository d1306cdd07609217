"""The losses of popular code bases, written out by hand, against their grid points."""

import math
from collections.abc import Callable

import pytest
import torch
from helpers import make_images
from study import published, wild
from study.make import RESULTS, WILD
from torch import Tensor
from torch.nn.functional import softplus

from vae_sweep.config import RunConfig
from vae_sweep.errors import UserError
from vae_sweep.records.results import Results
from vae_sweep.vae import point as points
from vae_sweep.vae.cohort import Cohort, Forward
from vae_sweep.vae.normalize import histograms

LATENT = 16  # in place of theirs: no formula below has their number in it
LINES = {about.name: (about, config) for about, config in wild.points()}

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def error(u: Tensor, u_hat: Tensor) -> Tensor:
    return (u - u_hat) ** 2


def cross_entropy(u: Tensor, p: Tensor) -> Tensor:
    return -(u * p.log() + (1 - u) * (1 - p).log())


# Each a function of pixels u in [0, 1] and of the decoder's last pre-activation a, both
# [B, C, H, W], and of the KL of each latent [B, D].
THEIRS: dict[str, Loss] = {
    "PyTorch examples": lambda u, a, kl: cross_entropy(u, a.sigmoid()).sum() + kl.sum(),
    "Keras example": lambda u, a, kl: (
        cross_entropy(u, a.sigmoid()).mean(1).sum((1, 2)).mean() + kl.sum(1).mean()
    ),
    "Haiku example": lambda u, a, kl: (
        -(u * a - softplus(a)).sum((1, 2, 3)) + kl.sum(1)
    ).mean(),
    "PyTorch-VAE, VanillaVAE": lambda u, a, kl: (
        error(u, a.tanh()).mean() + 0.00025 * kl.sum(1).mean()
    ),
    "PyTorch-VAE, BetaVAE (H)": lambda u, a, kl: (
        error(u, a.tanh()).mean() + 10 * 0.00025 * kl.sum(1).mean()
    ),
    "pythae, VAE": lambda u, a, kl: (
        0.5 * error(u, a.sigmoid()).sum((1, 2, 3)) + kl.sum(1)
    ).mean(),
    "Lightning Bolts, VAE": lambda u, a, kl: error(u, a).mean() + 0.1 * kl.mean(),
    "disentanglement_lib, beta-VAE": lambda u, a, kl: (
        cross_entropy(u, a.sigmoid()).sum((1, 2, 3)).mean() + 4 * kl.sum(1).mean()
    ),
    "disentangling-vae, betaH": lambda u, a, kl: (
        cross_entropy(u, a.sigmoid()).sum() / len(u) + 10 * kl.mean(0).sum()
    ),
    "disentangling-vae, betaH, gaussian": lambda u, a, kl: (
        error(255 * u, 255 * a.sigmoid()).sum() / 255 / len(u) + 10 * kl.mean(0).sum()
    ),
    "disentangling-vae, betaH, laplace": lambda u, a, kl: (
        3 * (u - a.sigmoid()).abs().sum() / len(u) + 10 * kl.mean(0).sum()
    ),
    "Beta-VAE (1Konny), H": lambda u, a, kl: (
        error(u, a.sigmoid()).sum() / len(u) + 10 * kl.sum(1).mean()
    ),
    "world-models (ctallec)": lambda u, a, kl: error(u, a.sigmoid()).sum() + kl.sum(),
    "WorldModels (hardmaru)": lambda u, a, kl: (
        error(u, a.sigmoid()).sum((1, 2, 3)).mean()
        + kl.sum(1).clamp(min=0.5 * LATENT).mean()
    ),
    "sigma-VAE, optimal": lambda u, a, kl: gaussian(u, a, -1.0) + kl.sum(),
    "sigma-VAE, gaussian_vae": lambda u, a, kl: (
        gaussian(u, a, -6 + math.log1p(math.exp(6))) + kl.sum()
    ),
    "sigma-VAE, mse_vae": lambda u, a, kl: error(u, a.sigmoid()).mean() + kl.sum(),
    "VAE-Tensorflow (LynnHo)": lambda u, a, kl: (
        error(2 * u - 1, a.tanh()).mean() + 0.1 * kl.mean()
    ),
    "vae-celebA (yzwxx)": lambda u, a, kl: (
        0.005 * kl.sum(1).mean() + error(2 * u - 1, a.tanh()).mean()
    ),
    "VAE (podgorskiy)": lambda u, a, kl: (
        error(2 * u - 1, a.tanh()).mean() + 0.1 * kl.mean(1).mean()
    ),
    "Generative Deep Learning, faces": lambda u, a, kl: (
        10_000 * error(u, a.sigmoid()).mean((1, 2, 3)) + kl.sum(1)
    ).mean(),
    "CNN-VAE (LukeDitria)": lambda u, a, kl: error(2 * u - 1, a.tanh()).mean() + kl.mean(),
    "VQ-VAE (nadavbh12), CVAE": lambda u, a, kl: (
        error(2 * u - 1, a.tanh()).mean() + 0.1 * kl.sum() / (len(u) * 3 * 1024)
    ),
    "latent-diffusion, AutoencoderKL (f = 8)": lambda u, a, kl: (
        ((2 * u - 1 - a).abs().sum() + 1e-6 * kl.sum()) / len(u)
    ),
}


def gaussian(u: Tensor, a: Tensor, log_sigma: float) -> Tensor:
    """Negative log likelihood; a negative `log_sigma` is replaced by the errors' own."""
    squared = error(u, a.sigmoid())
    log_std = torch.tensor(log_sigma) if log_sigma > 0 else 0.5 * squared.mean().log()
    return (0.5 * squared / (2 * log_std).exp() + log_std).sum()


def small(config: RunConfig) -> RunConfig:
    """`config` with LATENT latents, in double precision."""
    model = config.model.model_copy(update={"latent": LATENT})
    train = config.train.model_copy(update={"precision": "fp64"})
    return config.model_copy(update={"model": model, "train": train})


@pytest.mark.parametrize("name", THEIRS)
def test_a_loss_has_the_gradients_of_its_point_up_to_one_factor(name):
    config = small(LINES[name][1])
    channels, size, _ = wild.shape(config)
    batch = 128 if name == "sigma-VAE, mse_vae" else 3  # its sum and mean are of a batch
    images = make_images(batch, channels, size)
    constants = points.point(config, histograms(images), size**2)
    cohort = Cohort([config], [constants], (channels, size, size))
    torch.manual_seed(0)
    a = torch.randn(1, *images.shape).double().requires_grad_()
    mu, logvar = (torch.randn(2, 1, batch, LATENT).double() * 2).unbind()
    mu, logvar = mu.requires_grad_(), logvar.requires_grad_()
    given = (a, mu, logvar)

    u = cohort.pixels_of(images)
    t, t_hat = cohort.target.forward(u), cohort.likelihoods.means(cohort.heads(a), a)
    terms = cohort.terms(
        Forward(u, t, t_hat, *given), torch.tensor([constants.beta]).double()
    )
    ours = torch.autograd.grad(sum(terms).sum(), given)

    each = 0.5 * (mu[0] ** 2 + logvar[0].exp() - 1 - logvar[0])
    theirs = torch.autograd.grad(THEIRS[name](images.double() / 255, a[0], each), given)

    factor = (ours[0] * theirs[0]).sum() / (theirs[0] ** 2).sum()  # of the error alone
    assert factor > 0
    for one, other in zip(ours, theirs, strict=True):
        assert one.abs().max() > 0
        torch.testing.assert_close(one, factor * other, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("name", LINES)
def test_a_line_is_a_point_that_can_be_trained(name):
    about, config = LINES[name]
    points.check(config)
    assert config.seed == 0
    assert not about.file.startswith("/")
    assert about.link.startswith(f"[{about.name}](https://github.com/{about.repository}/")


def test_there_are_at_least_fourteen_code_bases():
    repositories = {about.repository for about, _ in LINES.values()}
    assert len(repositories) >= 14
    assert len(LINES) == len(wild.points())  # no name twice


def test_the_implied_noise_by_hand():
    found = {loss.about.name: loss.sigma for loss in committed()}
    # SSE / N + 0.00025 KL, N = 64 * 64 * 3
    assert found["PyTorch-VAE, VanillaVAE"] == pytest.approx(
        255 * math.sqrt(0.00025 * 12_288 / 2), rel=1e-5
    )
    # 255 SSE + 10 KL
    assert found["disentangling-vae, betaH, gaussian"] == pytest.approx(
        255 * math.sqrt(10 / 255 / 2), rel=1e-5
    )
    # of 2u - 1: the absolute error of pixels is half of it, and a Laplace's deviation
    # sqrt(2) times its scale
    assert found["latent-diffusion, AutoencoderKL (f = 8)"] == pytest.approx(
        255 * math.sqrt(2) * 1e-6 / 2, rel=1e-5
    )
    assert math.isnan(found["PyTorch examples"])


def committed() -> list[wild.Loss]:
    return wild.losses(published.load(RESULTS / wild.NAME))


def test_the_document_is_what_the_committed_table_makes():
    assert WILD.read_text() == wild.page(published.load(RESULTS / wild.NAME))


def test_a_published_table_that_lacks_a_line_is_refused():
    table = published.load(RESULTS / wild.NAME)
    finals = table.results.finals.iloc[1:]
    results = Results(table.results.curves, finals, table.results.theory)
    with pytest.raises(UserError, match="publish"):
        wild.losses(table._replace(results=results))
