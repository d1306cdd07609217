import math

import numpy as np
import pytest
from helpers import make_images
from scipy.stats import multivariate_normal
from sklearn.decomposition import PCA

from vae_sweep.data.spectrum import Spectra
from vae_sweep.theory.floor import head_floor
from vae_sweep.theory.linear import LinearGaussian
from vae_sweep.vae.heads import OURS, named
from vae_sweep.vae.normalize import fit, histograms

NORMS = ("unit", "minus1_1", "zscore", "zscore_global", "raw255")
IMAGES = make_images(40)
COUNTS = histograms(IMAGES)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("head", OURS)
def test_floor_is_the_distance_of_every_pixel_to_the_range_by_brute_force(head, norm):
    target = fit(norm, COUNTS)
    low, high = (end.numpy()[:, None, None] for end in named(head).range(target))
    t = target.forward(IMAGES.double() / 255).numpy()
    nearest = np.minimum(np.maximum(t, low), high)
    errors = (t - nearest) ** 2
    floor = head_floor(named(head), target, COUNTS)
    if errors.max() > 1e-20:
        assert floor.outside == pytest.approx((errors > 0).mean())
    scale = target.scale.numpy()[:, None, None]
    assert floor.mse == pytest.approx(errors.mean(), rel=1e-10, abs=1e-18)
    expected = (errors * scale**2).mean()
    assert floor.mse_pixel == pytest.approx(expected, rel=1e-10, abs=1e-18)


def test_psnr_cap_by_hand():
    # raw255 with tanh: everything above level 1 is out of reach, by (level - 1) / 255
    counts = histograms(IMAGES)
    levels = IMAGES.numpy().astype(float)
    expected = (np.clip(levels - 1, 0, None) ** 2).mean() / 255**2
    floor = head_floor(named("tanh"), fit("raw255", counts), counts)
    assert floor.psnr_cap == pytest.approx(-10 * math.log10(expected))


@pytest.mark.parametrize(
    ("norm", "head"),
    [
        ("minus1_1", "tanh"),
        ("unit", "sigmoid"),
        ("unit", "hardtanh"),
        ("zscore", "linear"),
        ("zscore", "tanh_rescaled"),
        ("raw255", "sigmoid_rescaled"),
        ("zscore", "tanh_standardized"),
    ],
)
def test_where_ranges_meet_there_is_no_floor(norm, head):
    floor = head_floor(named(head), fit(norm, COUNTS), COUNTS)
    assert floor == (0.0, 0.0, 0.0, math.inf)


# --- the linear optimum ---

SIZE, LATENT = 64, 12
SCALES = {
    "unit": np.ones(3),
    "minus1_1": np.full(3, 0.5),
    "by channel": np.array([0.2, 0.25, 0.5]),
}


@pytest.fixture(scope="module", params=SCALES)
def problem(request, tmp_path_factory):
    """(LinearGaussian, centered targets [n, N], scale [C])."""
    scale = SCALES[request.param]
    images = make_images(400).numpy()
    spectra = Spectra(images, "images", tmp_path_factory.mktemp("cache"))
    t = (images / 255 / scale[:, None, None]).reshape(len(images), -1)
    linear = LinearGaussian(spectra.of(scale, LATENT), scale, LATENT, SIZE)
    return linear, t - t.mean(0), scale


def decoder(t: np.ndarray, v: float) -> np.ndarray:
    """Tipping & Bishop's W = U (L - v)^(1/2), [N, q], from numpy's eigenvectors."""
    values, vectors = np.linalg.eigh(t.T @ t / len(t))
    values, vectors = values[::-1][:LATENT], vectors[:, ::-1][:, :LATENT]
    used = values > v
    return vectors[:, used] * np.sqrt(values[used] - v)


def marginal(t: np.ndarray, w: np.ndarray, v: float) -> float:
    """Mean log density of N(0, W W^T + v), which no ELBO of this decoder passes."""
    covariance = w @ w.T + v * np.eye(len(w))
    return multivariate_normal(None, covariance).logpdf(t).mean()


@pytest.mark.parametrize("quantile", [1, 5, 30])
def test_the_optimum_by_its_own_network(problem, quantile):
    """Build the decoder, take the exact posterior, and work out every expectation."""
    linear, t, scale = problem
    v = float(linear.values[min(quantile, LATENT - 1)] * (1.1 if quantile < 9 else 0.3))
    w = decoder(t, v)
    m = w.T @ w + v * np.eye(w.shape[1])
    mu = t @ w @ np.linalg.inv(m)
    posterior = v * np.linalg.inv(m)
    _, logdet = np.linalg.slogdet(posterior)
    kl = 0.5 * ((mu**2).sum(1) + np.trace(posterior) - len(m) - logdet).mean()
    residual = t - mu @ w.T
    spread = np.einsum("ik,kl,il->i", w, posterior, w)  # of W z at each pixel
    per_pixel = (residual**2).mean(0) + spread
    per_channel = per_pixel.reshape(3, -1).sum(1)

    best = linear.at(v)
    assert best.active_units == w.shape[1]
    assert best.kl == pytest.approx(kl, rel=1e-9)
    assert best.mse == pytest.approx(per_pixel.mean(), rel=1e-9)
    assert best.mse_pixel == pytest.approx((per_channel * scale**2).sum() / 192, rel=1e-9)
    jacobian = SIZE * np.log(scale).sum()
    assert best.elbo == pytest.approx(marginal(t, w, v) - jacobian, rel=1e-9)
    noise = best.mse_pixel
    calibrated = -96 * (math.log(2 * math.pi * noise) + 1) - kl
    assert best.elbo_calibrated == pytest.approx(calibrated, rel=1e-9)


def test_the_curve_runs_from_no_rate_to_where_distortion_ends(problem):
    """More rate than any beta in use asks for, and the error of PCA at its end."""
    linear, t, scale = problem
    kl, psnr = linear.curve()
    assert kl == sorted(kl)
    assert psnr == sorted(psnr)
    assert kl[0] == 0
    assert kl[-1] > 80
    _, vectors = np.linalg.eigh(t.T @ t)
    lost = t - t @ vectors[:, -LATENT:] @ vectors[:, -LATENT:].T
    error = (lost**2 * np.repeat(scale, SIZE) ** 2).mean()
    assert psnr[-1] == pytest.approx(-10 * math.log10(error), abs=0.01)


def test_no_other_decoder_is_better(problem):
    linear, t, scale = problem
    v = float(linear.values[6])
    best = linear.at(v).elbo + SIZE * np.log(scale).sum()
    rng = np.random.default_rng(0)
    w = decoder(t, v)
    for size in (1e-3, 1e-2, 1e-1):
        other = w + size * rng.normal(size=w.shape)
        assert marginal(t, other, v) < best


@pytest.mark.parametrize("tempering", [0.3, 1.0, 4.0, 30.0])
def test_the_learned_variance_is_the_best_of_a_fine_grid(problem, tempering):
    linear, _, _ = problem

    def loss(optimum):
        return -(optimum.elbo + optimum.kl) + tempering * optimum.kl

    found = linear.learned(tempering)
    grid = np.geomspace(found.variance / 30, found.variance * 30, 20_001)
    best = min((linear.at(v, tempering) for v in grid), key=loss)
    assert found.variance == pytest.approx(best.variance, rel=1e-3)
    assert loss(found) <= loss(best) + 1e-9
    # the noise is the squared error that it leaves
    assert found.variance == pytest.approx(found.mse, rel=1e-9)


def test_the_learned_variance_is_probabilistic_pcas(problem):
    linear, t, scale = problem
    pca = PCA(LATENT, svd_solver="full").fit(t)
    unbiased = (len(t) - 1) / len(t)  # scikit-learn divides by n - 1
    found = linear.learned(1.0)
    assert found.variance == pytest.approx(pca.noise_variance_ * unbiased, rel=1e-9)
    assert found.active_units == LATENT
    covariance = pca.get_covariance() * unbiased
    likelihood = multivariate_normal(None, covariance).logpdf(t).mean()
    expected = likelihood - SIZE * np.log(scale).sum()
    assert found.elbo == pytest.approx(expected, rel=1e-9)


def test_the_curve_falls_from_the_images_spread_to_what_the_latents_hold(problem):
    linear, _, _ = problem
    kl, psnr = linear.curve()
    assert kl[0] == 0
    assert psnr[0] == pytest.approx(-10 * math.log10(linear.total_pixel / 192))
    assert (np.diff(kl) >= 0).all()
    assert (np.diff(psnr) >= -1e-12).all()


def test_without_noise_the_kl_is_infinite(problem):
    linear, _, _ = problem
    best = linear.at(0.0)
    assert (best.kl, best.active_units) == (math.inf, LATENT)
    assert math.isnan(best.elbo)
    rest = (linear.total - linear.values.sum()) / 192
    assert best.mse == pytest.approx(rest)


@pytest.mark.parametrize("level", [0, 77, 255])
@pytest.mark.parametrize("n", [1, 20])
def test_images_that_do_not_vary_have_an_optimum_without_kl_and_no_curve(
    level, n, tmp_path
):
    images = np.full((n, 3, 4, 4), level, np.uint8)
    scale = np.ones(3)
    spectrum = Spectra(images, "constant", tmp_path).of(scale, 8)
    assert spectrum is not None
    linear = LinearGaussian(spectrum, scale, 8, 16)
    assert linear.curve() == ([], [])
    for variance in (0.0, 0.5):
        found = linear.at(variance)
        assert (found.active_units, found.kl, found.mse, found.mse_pixel) == (0, 0, 0, 0)
    assert linear.at(0.5).elbo == pytest.approx(-24 * math.log(2 * math.pi * 0.5))
    assert linear.learned(1.0).mse_pixel == 0
