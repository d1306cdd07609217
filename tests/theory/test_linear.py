"""Linear VAEs, trained with sampled z as any other, reach probabilistic PCA's optimum."""

import numpy as np
import pytest
import torch
from helpers import make_config
from scipy.linalg import subspace_angles
from torch import Tensor

from vae_sweep.data.spectrum import Spectra
from vae_sweep.theory.linear import LinearGaussian
from vae_sweep.training.step import Trainer
from vae_sweep.vae.networks import LinearVAE
from vae_sweep.vae.normalize import histograms
from vae_sweep.vae.point import point

pytestmark = pytest.mark.slow

LATENT, SIZE, V = 6, 64, 0.03  # V: decoder variance in pixels


def images_of_few_directions(n: int = 2000) -> Tensor:
    """uint8 [n, 3, 8, 8]: four cosines of falling strength, and noise."""
    rng = np.random.default_rng(0)
    x = (np.arange(8) + 0.5) / 8
    waves = [np.cos(np.pi * k * x) for k in range(4)]
    patterns = [np.outer(waves[i], waves[j]) for i, j in ((0, 1), (1, 0), (1, 1), (2, 1))]
    tints = np.array([[1, 1, 1], [1, 0.5, 0], [0, 1, -1], [1, -1, 0.5]])
    strength = np.array([40, 25, 18, 14])
    z = rng.normal(size=(n, 4)) * strength
    fields = np.einsum("nk,kc,khw->nchw", z, tints, np.array(patterns))
    fields += 10 * rng.normal(size=fields.shape)
    return torch.from_numpy((127 + fields).clip(0, 255).round().astype(np.uint8))


IMAGES = images_of_few_directions()
COUNTS = histograms(IMAGES)
# Adam's steps do not shrink with the data's scale, so each has its own learning rate
RATES = {"unit": 0.05, "minus1_1": 0.05, "zscore_global": 0.02, "zscore": 0.02}


def train(norm: str) -> Trainer:
    """To the end, with the beta that means noise V under `norm`."""
    config = make_config(
        *(f"norm={norm}", "model=linear", f"model.latent={LATENT}", "head=linear"),
        *("reduction=gaussian", "beta=matched", f"beta.sigma={255 * V**0.5}"),
        *(f"train.lr={RATES[norm]}", "train.steps=6000", "train.batch_size=100"),
        "train.device=cpu",
    )
    trainer = Trainer([config], [point(config, COUNTS, SIZE)], IMAGES, "cpu")
    for _ in range(trainer.steps):
        trainer.update()
    return trainer


LONG = [pytest.param(norm, marks=pytest.mark.long) for norm in ("unit", "zscore_global")]


@pytest.mark.parametrize("norm", ["minus1_1", "zscore", *LONG])
def test_it_ends_at_the_closed_form(norm, tmp_path):
    trained = train(norm)
    constants = trained.cohort.points[0]
    scale = constants.target.scale.numpy()
    spectra = Spectra(IMAGES.numpy(), "images", tmp_path)
    linear = LinearGaussian(spectra.of(scale, LATENT), scale, LATENT, SIZE)
    v = (constants.variance / constants.target.scale**2)[0].item()
    best = linear.at(v)
    assert 2 <= best.active_units < LATENT
    values = {name: value.item() for name, value in trained.evaluate(IMAGES).items()}
    assert values["elbo"] == pytest.approx(best.elbo, abs=0.5)
    assert values["kl"] == pytest.approx(best.kl, rel=0.01)
    assert values["mse"] == pytest.approx(best.mse, rel=0.01)
    assert values["mse_pixel"] == pytest.approx(best.mse_pixel, rel=0.01)
    assert values["active_units"] == best.active_units

    model = trained.cohort.model
    assert isinstance(model, LinearVAE)
    columns = model.from_latent.weight[0].detach().double().numpy()
    used = np.argsort(-np.linalg.norm(columns, axis=0))[: int(best.active_units)]
    t = constants.target.forward(IMAGES.double() / 255).flatten(1).numpy()
    vectors = np.linalg.eigh(np.cov(t.T))[1][:, ::-1][:, : len(used)]
    assert np.degrees(subspace_angles(columns[:, used], vectors)).max() < 5


def test_its_posterior_variance_is_the_same_for_every_image():
    config = make_config("model=linear", "train.precision=fp64")
    trainer = Trainer([config], [point(config, COUNTS, SIZE)], IMAGES, "cpu")
    cohort = trainer.cohort
    f = cohort(cohort.pixels_of(IMAGES[:5]), torch.zeros(1, 5, 32).double())
    assert f.logvar.shape == f.mu.shape == (1, 5, 32)
    assert (f.logvar == f.logvar[:, :1]).all()
    # linear: the mean of two images maps to the mean of their latents
    u = cohort.pixels_of(IMAGES[:2])
    both = cohort(u, torch.zeros(1, 2, 32).double())
    middle = cohort(u.mean(1, keepdim=True), torch.zeros(1, 1, 32).double())
    torch.testing.assert_close(middle.mu[:, 0], both.mu.mean(1))
    torch.testing.assert_close(middle.t_hat[:, 0], both.t_hat.mean(1))
