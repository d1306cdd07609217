"""The linear optimum within a head's range, against sampling."""

import math

import numpy as np
import pytest
import torch
from helpers import TINY, make_config, make_images
from scipy import stats

from vae_sweep.data.dataset import Dataset
from vae_sweep.data.spectrum import Spectra
from vae_sweep.data.splits import Splits
from vae_sweep.theory import clipped
from vae_sweep.theory.linear import LinearGaussian
from vae_sweep.theory.prediction import Prediction, predict
from vae_sweep.vae.point import point

IMAGES = make_images(300)


def test_expected_error_by_sampling():
    rng = np.random.default_rng(0)
    for t, mean, std, low, high in (
        *((0.3, 0.2, 0.5, -1, 1), (1.4, 0.9, 0.7, -1, 1), (-3, -2, 0.1, -1, 1)),
        *((0.5, 3, 0.4, 0, 1), (0.2, 0.5, 2.0, 0, 0.4), (0.2, 0.9, 1e-9, -1, 1)),
    ):
        error = (t - rng.normal(mean, std, 400_000).clip(low, high)) ** 2
        numbers = torch.tensor((t, mean, std**2, low, high), dtype=torch.float64)
        found = clipped.expected_error(*numbers)
        margin = 4 * error.std() / math.sqrt(len(error)) + 1e-12
        assert found.item() == pytest.approx(error.mean(), abs=margin)


@pytest.fixture
def dataset(tmp_path) -> Dataset:
    spectra = Spectra(IMAGES.numpy(), "images", tmp_path)
    return Dataset(Splits(*[IMAGES.numpy()] * 3), "images", spectra)


def predicted(dataset: Dataset, *overrides: str) -> Prediction:
    config = make_config(*TINY, "model.latent=12", *overrides)
    return predict(config, point(config, dataset.counts, 64), dataset)


def sampled_psnr(shift, scale, beta: float, latent: int, low, high) -> float:
    """Of a probabilistic PCA of the images, in numpy, with z drawn from its posterior."""
    u = IMAGES.numpy() / 255
    t = ((u - shift) / scale).reshape(len(u), -1)
    center = t.mean(0)
    lam, vectors = np.linalg.eigh(np.cov(t.T, bias=True))
    lam, vectors = lam[::-1][:latent], vectors[:, ::-1][:, :latent]
    v = beta / 2
    active = lam > v
    assert active.sum() > 0
    weights = vectors[:, active] * np.sqrt(lam[active] - v)
    covariance = np.linalg.inv(weights.T @ weights / v + np.eye(active.sum()))
    mu = (t - center) @ weights @ covariance.T / v
    rng = np.random.default_rng(1)
    total, draws = 0.0, 300
    root = np.linalg.cholesky(covariance)
    for _ in range(draws):
        z = mu + rng.normal(size=mu.shape) @ root.T
        t_hat = (z @ weights.T + center).reshape(u.shape).clip(low, high)
        total += ((u - (t_hat * scale + shift)) ** 2).mean()
    return -10 * math.log10(total / draws)


U = IMAGES.numpy() / 255
CHANNELS = (1, 3, 1, 1)
MEAN, STD = (f(U, (0, 2, 3)).reshape(CHANNELS) for f in (np.mean, np.std))
RANGES = {  # (norm, head) -> shift, scale, ends of the range
    ("zscore", "tanh"): (MEAN, STD, -1, 1),
    ("zscore", "sigmoid"): (MEAN, STD, 0, 1),
    ("zscore", "tanh_rescaled"): (MEAN, STD, -MEAN / STD, (1 - MEAN) / STD),
    ("unit", "sigmoid"): (0, 1, 0, 1),
    ("minus1_1", "hardtanh"): (0.5, 0.5, -1, 1),
}


@pytest.mark.parametrize("beta", [0.02, 0.5])
@pytest.mark.parametrize(("norm", "head"), RANGES)
def test_against_sampled_latents(dataset, norm, head, beta, monkeypatch):
    shift, scale, low, high = RANGES[norm, head]
    expected = sampled_psnr(shift, scale, beta, 12, low, high)
    typed = (f"norm={norm}", f"head={head}", f"beta.value={beta}")
    some = predicted(dataset, *typed).psnr_clipped
    assert some == pytest.approx(expected, abs=0.05)  # of 250 of the 300 images
    monkeypatch.setattr(clipped, "IMAGES", 300)
    found = predicted(dataset, *typed)
    assert found.psnr_clipped == pytest.approx(expected, abs=0.01)
    noise = stats.norm(scale=math.sqrt(10 ** (-found.psnr_clipped / 10)))
    pixels = 3 * 64
    nats = pixels * noise.entropy() + found.kl
    assert found.bits_per_dim_clipped == pytest.approx(nats / pixels / math.log(2) + 8)


@pytest.mark.parametrize("head", ["linear", "tanh_standardized"])
def test_without_a_range_there_is_nothing_to_clip(dataset, head):
    assert math.isnan(predicted(dataset, f"head={head}").psnr_clipped)


def test_a_likelihood_without_an_optimum_has_none(dataset):
    typed = ("norm=unit", "head=sigmoid", "likelihood=bernoulli")
    assert math.isnan(predicted(dataset, *typed).psnr_clipped)


def test_a_learned_noise_has_its_own_optimum(dataset):
    found = predicted(dataset, "head=tanh", "likelihood=gaussian_learned")
    v = (found.sigma / 255) ** 2 / (STD**2).mean()
    expected = sampled_psnr(MEAN, STD, 2 * v, 12, -1, 1)
    assert found.psnr_clipped == pytest.approx(expected, abs=0.05)


def test_a_range_beyond_all_outputs_takes_nothing(dataset):
    config = make_config(*TINY, "norm=unit")
    target = point(config, dataset.counts, 64).target
    spectrum = dataset.spectra.of(target.scale.numpy(), 4)
    assert spectrum is not None
    optimum = LinearGaussian(spectrum, target.scale.numpy(), 4, 64).at(0.05)
    inf = torch.full((3,), math.inf).double()
    found = clipped.clipped_mse_pixel(optimum, dataset.spectra, target, 4, (-inf, inf), 0.0)
    assert found == pytest.approx(optimum.mse_pixel, rel=1e-5)
