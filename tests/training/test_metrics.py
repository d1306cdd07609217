"""Each metric against a second way to compute it, over a split that is not a whole
number of batches."""

import math

import numpy as np
import pytest
import torch
from helpers import TINY, make_config, make_images
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from vae_sweep.training import metrics
from vae_sweep.vae.cohort import Cohort
from vae_sweep.vae.normalize import histograms
from vae_sweep.vae.point import point
from vae_sweep.vae.streams import Streams

IMAGES = make_images(21)
OVERRIDES = (
    ("norm=zscore", "head=tanh", "beta.value=0.7"),
    ("norm=minus1_1", "target=unit", "head=sigmoid", "reduction=mean", "seed=3"),
)


@pytest.fixture(scope="module")
def evaluated():
    configs = [make_config(*TINY, "train.precision=fp64", *o) for o in OVERRIDES]
    counts = histograms(IMAGES)
    points = [point(c, counts, 64) for c in configs]
    cohort = Cohort(configs, points, (3, 8, 8))
    for p in cohort.parameters():  # far from the start, so that nothing is near 0
        p.data *= 3
    beta = torch.tensor([p.beta for p in points])
    seeds = [c.seed for c in configs]
    values = metrics.evaluate(cohort, IMAGES, beta, seeds, chunk=8)
    return cohort, points, beta, seeds, values


@pytest.fixture(scope="module")
def by_hand(evaluated):
    """The whole split in one pass, in numpy, in pixels."""
    cohort, points, _, seeds, _ = evaluated
    noise = Streams(seeds, "evaluation")
    chunks = [noise.normal(n, 4) for n in (8, 8, 5)]
    u = cohort.pixels_of(IMAGES)
    with torch.no_grad():
        f = cohort(u, torch.cat(chunks, 1).double())
    results = []
    for r, p in enumerate(points):
        u_hat = p.target.inverse(f.t_hat[r]).numpy()
        results.append((u[0].numpy(), u_hat, f.mu[r], f.logvar[r], f.a[r]))
    return results


def test_names_are_complete(evaluated):
    values = evaluated[-1]
    assert tuple(values) == tuple(metrics.OURS)
    assert all(v.dtype == torch.float64 and v.shape == (2,) for v in values.values())


@pytest.mark.parametrize("r", [0, 1])
def test_errors_and_psnr(evaluated, by_hand, r):
    _, points, _, _, values = evaluated
    u, u_hat, *_ = by_hand[r]
    scale = points[r].target.scale.numpy()[:, None, None]
    assert values["mse_pixel"][r].item() == pytest.approx(((u - u_hat) ** 2).mean())
    expected = (((u - u_hat) / scale) ** 2).mean()
    assert values["mse"][r].item() == pytest.approx(expected)
    clipped = ((u - u_hat.clip(0, 1)) ** 2).mean()
    assert values["psnr"][r].item() == pytest.approx(10 * math.log10(1 / clipped))


@pytest.mark.parametrize("r", [0, 1])
def test_kl_loss_and_share(evaluated, by_hand, r):
    cohort, points, beta, _, values = evaluated
    _, _, mu, logvar, _ = by_hand[r]
    posterior = Normal(mu, (logvar / 2).exp())
    kl = kl_divergence(posterior, Normal(0.0, 1.0)).sum(1).mean().item()
    assert values["kl"][r].item() == pytest.approx(kl)
    w_r, w_k = points[r].weights
    recon = w_r * values["mse"][r].item() * cohort.pixels
    assert values["loss"][r].item() == pytest.approx(recon + beta[r].item() * w_k * kl)
    share = recon / (recon + beta[r].item() * w_k * kl)
    assert values["recon_share"][r].item() == pytest.approx(share)


@pytest.mark.parametrize("r", [0, 1])
def test_elbos_are_gaussian_log_densities(evaluated, by_hand, r):
    cohort, points, _, _, values = evaluated
    u, u_hat, *_ = by_hand[r]
    kl, mse = values["kl"][r].item(), ((u - u_hat) ** 2).mean()
    std = points[r].variance.sqrt()[:, None, None]
    density = Normal(torch.from_numpy(u_hat), std).log_prob(torch.from_numpy(u))
    elbo = density.sum((1, 2, 3)).mean().item() - kl
    assert values["elbo"][r].item() == pytest.approx(elbo)
    density = Normal(torch.from_numpy(u_hat), math.sqrt(mse)).log_prob(torch.from_numpy(u))
    calibrated = density.sum((1, 2, 3)).mean().item() - kl
    assert values["elbo_calibrated"][r].item() == pytest.approx(calibrated)
    bits = -calibrated / math.log(2) / cohort.pixels + 8
    assert values["bits_per_dim_calibrated"][r].item() == pytest.approx(bits)


@pytest.mark.parametrize("r", [0, 1])
def test_counts(evaluated, by_hand, r):
    _, points, _, _, values = evaluated
    u, _, mu, _, a = by_hand[r]
    active = (np.var(mu.numpy(), axis=0) > 0.01).sum()
    assert active > 0
    assert values["active_units"][r].item() == active
    if r == 0:  # tanh on z-scored targets
        t = points[0].target.forward(torch.from_numpy(u)).numpy()
        outside, slope = (np.abs(t) > 1).mean(), 1 - np.tanh(a.numpy()) ** 2
        assert outside > 0.2
    else:  # sigmoid on [0, 1]
        s = 1 / (1 + np.exp(-a.numpy()))
        outside, slope = 0.0, s * (1 - s)
    assert values["out_of_range"][r].item() == pytest.approx(outside)
    saturated = (np.abs(slope) < 0.05).mean()
    assert values["head_saturation"][r].item() == pytest.approx(saturated)


def test_gradient_norms_are_those_of_the_two_terms_alone(evaluated):
    cohort, points, beta, seeds, values = evaluated
    noise = Streams(seeds, "evaluation").normal(8, 4).double()
    u = cohort.pixels_of(IMAGES[:8])
    encoder = [p for n, p in cohort.named_parameters() if "encoder" in n or "to_" in n]
    for r in (0, 1):
        f = cohort(u, noise)
        w_r, w_k = points[r].weights
        sse = ((f.t[r] - f.t_hat[r]) ** 2).sum((1, 2, 3)).mean()
        kl = kl_divergence(Normal(f.mu[r], (f.logvar[r] / 2).exp()), Normal(0.0, 1.0)).sum(
            1
        )
        terms = {"recon": w_r * sse, "kl": beta[r] * w_k * kl.mean()}
        for name, term in terms.items():
            grads = torch.autograd.grad(term, encoder, retain_graph=True)
            expected = math.sqrt(sum(g[r].square().sum().item() for g in grads))
            assert values[f"grad_norm_{name}"][r].item() == pytest.approx(expected)


def test_no_noise_leaves_the_elbo_undefined_and_the_calibrated_one_defined():
    config = make_config(*TINY, "beta.value=0")
    counts = histograms(IMAGES)
    cohort = Cohort([config], [point(config, counts, 64)], (3, 8, 8))
    values = metrics.evaluate(cohort, IMAGES, torch.zeros(1), [0], chunk=8)
    assert values["elbo"].isnan().all()
    assert values["elbo_calibrated"].isfinite().all()


@pytest.mark.parametrize("norm", ["zscore", "minus1_1"])
def test_outputs_clipped_to_tanhs_range(norm):
    config = make_config(*TINY, f"norm={norm}", "head=linear", "train.precision=fp64")
    target = point(config, histograms(IMAGES), 64)
    cohort = Cohort([config], [target], (3, 8, 8))
    for p in cohort.parameters():
        p.data *= 6
    chosen = (*metrics.named("default"), *metrics.named("tanh_range"))
    found = metrics.evaluate(cohort, IMAGES, torch.ones(1), [0], chosen)
    values = {name: value.item() for name, value in found.items()}
    u = cohort.pixels_of(IMAGES)
    with torch.no_grad():
        f = cohort(u, Streams([0], "evaluation").normal(21, 4).double())
    t_hat = f.t_hat[0].numpy()
    assert 0.01 < (np.abs(t_hat) > 1).mean() < 0.99
    shift, scale = (v.numpy()[:, None, None] for v in target.target)
    error = IMAGES.numpy() / 255 - (t_hat.clip(-1, 1) * scale + shift)
    assert values["mse_pixel_tanh_range"] == pytest.approx((error**2).mean())
    shown = (t_hat.clip(-1, 1) * scale + shift).clip(0, 1)
    psnr = -10 * math.log10(((IMAGES.numpy() / 255 - shown) ** 2).mean())
    assert values["psnr_tanh_range"] == pytest.approx(psnr)
    std = math.sqrt((error**2).mean())
    density = Normal(0.0, std).log_prob(torch.from_numpy(error)).sum((1, 2, 3)).mean()
    bits = (values["kl"] - density.item()) / math.log(2) / cohort.pixels + 8
    assert values["bits_per_dim_calibrated_tanh_range"] == pytest.approx(bits)


def test_a_head_within_tanhs_range_is_not_clipped(evaluated):
    cohort, _, beta, seeds, values = evaluated
    found = metrics.evaluate(
        cohort, IMAGES, beta, seeds, metrics.named("tanh_range"), chunk=8
    )
    for name, value in found.items():
        assert value.equal(values[name.removesuffix("_tanh_range")])


# --- the gap between the aggregate posterior and the prior ---


def gap_of(mu: torch.Tensor, variance: torch.Tensor) -> float:
    """`prior_gap` of one run's posteriors, [n, D] each."""
    means = mu.mean(0), variance.mean(0), mu.mT @ mu / len(mu)
    return metrics.prior_gap(*(m[None] for m in means)).item()


def posteriors(n: int, latent: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(n)
    mix = torch.randn(latent, latent, generator=generator, dtype=torch.float64)
    mu = 0.3 + torch.randn(n, latent, generator=generator, dtype=torch.float64) @ mix
    return mu, torch.rand(n, latent, generator=generator, dtype=torch.float64) + 1e-3


@pytest.mark.parametrize("n", [1, 3, 5, 6, 400])  # images of five latents
def test_the_prior_gap_is_that_of_the_moments(n):
    """Moments by numpy, divergence by torch.distributions; within the mean KL."""
    mu, variance = posteriors(n)
    covariance = np.cov(mu.numpy(), rowvar=False, bias=True) + np.diag(variance.mean(0))
    gaussian = MultivariateNormal(mu.mean(0), torch.from_numpy(covariance))
    prior = MultivariateNormal(torch.zeros(5).double(), torch.eye(5).double())
    expected = kl_divergence(gaussian, prior).item()
    assert gap_of(mu, variance) == pytest.approx(expected, rel=1e-9)
    kl = kl_divergence(Normal(mu, variance.sqrt()), Normal(0.0, 1.0)).sum(1).mean()
    assert 0 < gap_of(mu, variance) <= kl.item() + 1e-9


def test_the_prior_gap_of_one_image_is_its_kl():
    mu, variance = posteriors(1)
    kl = kl_divergence(Normal(mu, variance.sqrt()), Normal(0.0, 1.0)).sum()
    assert gap_of(mu, variance) == pytest.approx(kl.item())


@pytest.mark.parametrize("noise", [1e-12, 1e-4, 0.3])
def test_the_prior_gap_of_a_linear_optimum_is_0(noise):
    """Probabilistic PCA by numpy: of 300 images in 8 dimensions, 4 latents, of which at
    the highest noise some have collapsed."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 8)) * np.geomspace(2, 0.05, 8)
    x -= x.mean(0)
    values, vectors = np.linalg.eigh(np.cov(x, rowvar=False, bias=True))
    values, vectors = values[::-1][:4], vectors[:, ::-1][:, :4]
    weight = vectors * np.sqrt(np.maximum(values - noise, 0))
    precision = weight.T @ weight + noise * np.eye(4)
    mu = x @ weight @ np.linalg.inv(precision)
    variance = np.broadcast_to(noise / np.diag(precision), mu.shape).copy()
    assert (values > 0.3).sum() < 4
    gap = gap_of(torch.from_numpy(mu), torch.from_numpy(variance))
    assert gap == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("variance", [0.0, 1e-30])
def test_the_prior_gap_of_three_images_without_noise_is_large_and_finite(variance):
    """Five latents, of which three images span two: the other three have the variance."""
    mu, ones = posteriors(3)
    gap = gap_of(mu, torch.full_like(ones, variance))
    floor = max(variance, metrics.SMALLEST_VARIANCE)
    assert gap == pytest.approx(-1.5 * math.log(floor), rel=0.1)


def test_the_prior_gap_of_a_run_that_broke_is_not_known_and_hides_no_other():
    mu, variance = posteriors(40)
    means = [mu.mean(0), variance.mean(0), mu.mT @ mu / len(mu)]
    both = [torch.stack([m, m * torch.nan]) for m in means]
    gaps = metrics.prior_gap(*both)
    assert gaps[0].item() == pytest.approx(gap_of(mu, variance))
    assert gaps[1].isnan()


@pytest.mark.parametrize("r", [0, 1])
def test_the_prior_gap_is_of_the_whole_split(evaluated, by_hand, r):
    _, _, mu, logvar, _ = by_hand[r]
    assert evaluated[-1]["prior_gap"][r].item() == pytest.approx(gap_of(mu, logvar.exp()))
