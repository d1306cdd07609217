"""Covariance and principal components against numpy and scikit-learn."""

import numpy as np
import pytest
from helpers import make_images
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.decomposition import PCA

from vae_sweep.data import spectrum
from vae_sweep.data.spectrum import Spectra

IMAGES = make_images(150).numpy()
EQUAL = np.ones(3)
UNEQUAL = np.array([0.2, 0.25, 0.5])


def upper(matrix: np.ndarray) -> np.ndarray:
    return matrix[np.triu_indices(len(matrix))]


@given(
    hnp.arrays(np.uint8, st.tuples(st.integers(1, 9), st.just(1), st.just(2), st.just(2)))
)
def test_covariance_is_numpys(images):
    flat = images.reshape(len(images), -1) / 255
    expected = np.cov(flat.T, bias=True)
    np.testing.assert_allclose(
        upper(spectrum.covariance(images)), upper(expected), atol=1e-14
    )


@pytest.mark.parametrize("level", [0, 255, 127, 128])
def test_sums_of_the_largest_products_are_exact(level):
    """Whole chunks of extreme levels: float32 holds every partial sum."""
    images = np.full((2 * spectrum.CHUNK + 3, 1, 2, 2), level, np.uint8)
    images[0] = 255 - level
    n = len(images)
    squares = ((images[:, 0].reshape(n, 4).astype(object) - 128) ** 2).sum(0)
    mean = (images[:, 0].reshape(n, 4).astype(object) - 128).sum(0)
    expected = [(s / n - (m / n) ** 2) / 255**2 for s, m in zip(squares, mean, strict=True)]
    variances = np.diag(spectrum.covariance(images))
    np.testing.assert_allclose(variances, expected, rtol=1e-12, atol=1e-15)


def spectrum_of(scale: np.ndarray, tmp_path, latent: int = 8) -> spectrum.Spectrum:
    found = Spectra(IMAGES, "digest", tmp_path).of(scale, latent)
    assert found is not None
    return found


@pytest.mark.parametrize("scale", [EQUAL, UNEQUAL])
def test_components_are_scikit_learns(scale, tmp_path):
    found = spectrum_of(scale, tmp_path)
    unit = np.sqrt(np.mean(scale**2))
    t = (IMAGES / 255 / scale[:, None, None]).reshape(len(IMAGES), -1)
    pca = PCA(svd_solver="full").fit(t)
    n = len(t)
    expected = pca.explained_variance_ * (n - 1) / n  # scikit-learn divides by n - 1
    np.testing.assert_allclose(
        found.values[: n - 1] / unit**2, expected[: n - 1], rtol=1e-9
    )
    shares = (pca.components_**2).reshape(-1, 3, 64).sum(2)
    np.testing.assert_allclose(found.shares[:100], shares[:100], rtol=1e-6)
    np.testing.assert_allclose(found.shares.sum(1), 1)
    cosines = (pca.components_ * found.vectors[:n]).sum(1)
    np.testing.assert_allclose(np.abs(cosines[:100]), 1, rtol=1e-4)
    np.testing.assert_allclose(found.total, (IMAGES / 255).var(0).sum((1, 2)))


def test_scales_that_differ_by_a_factor_share_a_spectrum(tmp_path):
    spectra = Spectra(IMAGES, "digest", tmp_path)
    assert spectra.of(0.3 * UNEQUAL, 8) is spectra.of(7.0 * UNEQUAL, 20)
    assert spectra.of(UNEQUAL, 8) is not spectra.of(EQUAL, 8)
    assert len(list(tmp_path.iterdir())) == 2


def test_it_is_kept_for_next_time_and_remade_where_damaged(tmp_path, monkeypatch):
    first = spectrum_of(UNEQUAL, tmp_path)
    [file] = tmp_path.iterdir()
    made = []
    real = spectrum.covariance
    monkeypatch.setattr(spectrum, "covariance", lambda x: made.append(1) or real(x))
    again = spectrum_of(UNEQUAL, tmp_path)
    assert not made
    for kept, fresh in zip(again, first, strict=True):
        np.testing.assert_array_equal(kept, fresh)
    file.write_bytes(file.read_bytes()[:-100])
    np.testing.assert_array_equal(spectrum_of(UNEQUAL, tmp_path).values, first.values)
    assert made == [1]
    Spectra(IMAGES, "other images", tmp_path).of(UNEQUAL, 8)
    assert made == [1, 1]


def test_as_many_components_as_latents(tmp_path, monkeypatch):
    monkeypatch.setattr(spectrum, "LEAST", 10)
    assert len(spectrum_of(EQUAL, tmp_path, latent=4).values) == 10
    assert len(spectrum_of(EQUAL, tmp_path, latent=30).values) == 30
    assert len(spectrum_of(EQUAL, tmp_path, latent=10_000).values) == 192


def test_images_too_large_have_none(tmp_path, monkeypatch):
    monkeypatch.setattr(spectrum, "LARGEST", 191)
    assert Spectra(IMAGES, "digest", tmp_path).of(EQUAL, 8) is None


@pytest.mark.parametrize("scale", [EQUAL, UNEQUAL])
def test_few_images_have_the_components_of_their_covariance(scale, tmp_path):
    few, count = IMAGES[:20], 40  # of 192 pixels; 19 directions hold all that varies
    ratio = scale / np.sqrt(np.mean(scale**2))
    expected = spectrum.decompose(spectrum.covariance(few), ratio, count)
    found = spectrum.of_few(few, ratio, count)
    np.testing.assert_allclose(found.values, expected.values, atol=1e-12)
    np.testing.assert_allclose(found.shares[:19], expected.shares[:19], atol=1e-9)
    np.testing.assert_allclose(found.shares.sum(1), 1)
    np.testing.assert_allclose(found.total, expected.total)
    cached = Spectra(few, "digest", tmp_path).of(scale, 8)
    assert cached is not None
    np.testing.assert_allclose(cached.values[:count], found.values)


def test_few_images_of_one_color_do_not_vary():
    found = spectrum.of_few(np.full((3, 1, 4, 4), 9, np.uint8), np.ones(1), 4)
    assert found.values.tolist() == [0] * 4
    assert found.total.tolist() == [0]


@pytest.mark.parametrize("scale", [EQUAL, UNEQUAL])
def test_the_leading_components_are_those_of_the_whole_covariance(scale):
    images = make_images(400, size=16).numpy()  # 768 pixels
    ratio = scale / np.sqrt(np.mean(scale**2))
    expected = spectrum.decompose(spectrum.covariance(images), ratio, 16)
    found = spectrum.leading(images, ratio, 16)
    off = np.abs(found.values - expected.values)
    assert (off <= found.error + 1e-6 * expected.values).all()  # products are float32
    np.testing.assert_allclose(found.values, expected.values, rtol=1e-5)
    np.testing.assert_allclose(found.shares, expected.shares, atol=1e-4)
    np.testing.assert_allclose(found.total, expected.total, rtol=1e-6)
    cosines = (found.vectors * expected.vectors).sum(1)
    np.testing.assert_allclose(np.abs(cosines), 1, rtol=1e-4)


@pytest.mark.parametrize("distinct", [1, 3])
def test_directions_that_do_not_vary_have_the_eigenvalue_zero(distinct):
    images = make_images(distinct, size=16).numpy().repeat(30, 0)
    found = spectrum.leading(images, np.ones(3), 8)
    assert (found.values[distinct - 1 :] <= 1e-6 * found.total.sum()).all()
    assert np.isfinite(found.values).all()
    np.testing.assert_allclose(found.values.sum(), found.total.sum(), rtol=1e-5, atol=1e-9)


def test_large_images_have_as_many_as_there_are_latents_in_steps(tmp_path, monkeypatch):
    monkeypatch.setattr(spectrum, "WHOLE", 191)
    monkeypatch.setattr(spectrum, "MEMORY", 0)
    monkeypatch.setattr(spectrum, "STEP", 8)
    spectra = Spectra(IMAGES, "digest", tmp_path)
    found = spectra.of(EQUAL, 5)
    assert found is spectra.of(EQUAL, 8)
    assert len(found.values) == 8
    assert len(spectra.of(EQUAL, 9).values) == 16
    again = Spectra(IMAGES, "digest", tmp_path).of(EQUAL, 8)
    np.testing.assert_array_equal(again.error, found.error)
    whole = spectrum.decompose(spectrum.covariance(IMAGES), EQUAL, 8)
    np.testing.assert_allclose(found.values, whole.values, rtol=1e-5)
