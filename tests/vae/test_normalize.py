import numpy as np
import pytest
import torch
from helpers import make_images
from hypothesis import given
from hypothesis import strategies as st

from vae_sweep.errors import UserError
from vae_sweep.vae.normalize import fit, histograms

NORMS = ("unit", "minus1_1", "zscore", "zscore_global", "raw255")


def test_histograms_count_every_level_by_brute_force():
    images = make_images(5)
    counts = histograms(images)
    for c in range(3):
        expected = np.bincount(images[:, c].numpy().ravel(), minlength=256)
        np.testing.assert_array_equal(counts[c], expected)


def test_zscore_agrees_with_numpy_over_all_pixels():
    images = make_images(50)
    u = images.numpy() / 255
    counts = histograms(images)
    zscore, pooled = fit("zscore", counts), fit("zscore_global", counts)
    np.testing.assert_allclose(zscore.shift, u.mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(zscore.scale, u.std((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(pooled.shift, [u.mean()] * 3, rtol=1e-12)
    np.testing.assert_allclose(pooled.scale, [u.std()] * 3, rtol=1e-12)


def test_fixed_normalizations_map_black_and_white():
    counts = histograms(make_images(2))
    ends = torch.tensor([0.0, 1.0]).expand(3, 1, 2).double()
    expected = {"unit": (0, 1), "minus1_1": (-1, 1), "raw255": (0, 255)}
    for norm, (black, white) in expected.items():
        x = fit(norm, counts).forward(ends)
        torch.testing.assert_close(x[..., 0], torch.full((3, 1), black).double())
        torch.testing.assert_close(x[..., 1], torch.full((3, 1), white).double())


@given(st.sampled_from(NORMS), st.integers(0, 1000), st.sampled_from([1, 3]))
def test_inverse_undoes_forward(norm: str, seed: int, channels: int):
    images = make_images(3, channels, seed=seed)
    affine = fit(norm, histograms(images))
    u = torch.rand(2, channels, 4, 4, dtype=torch.float64)
    torch.testing.assert_close(affine.inverse(affine.forward(u)), u, rtol=0, atol=1e-12)


def test_a_constant_channel_cannot_be_zscored():
    images = make_images(3)
    images[:, 1] = 7
    with pytest.raises(UserError, match=r"channel \[1\].*norm=unit"):
        fit("zscore", histograms(images))
    fit("zscore_global", histograms(images))


def test_a_norm_that_alters_what_it_is_given_alters_it_for_itself_alone(
    tmp_path, monkeypatch
):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "altering_norm.py").write_text(
        "from vae_sweep import Affine\n"
        "import torch\n"
        "def NORM(counts):\n"
        "    counts[:, :100] = 0\n"
        "    ones = torch.ones(len(counts))\n"
        "    return Affine(0 * ones, ones)\n"
    )
    counts = histograms(make_images(20))
    before = counts.clone()
    fit("altering_norm:NORM", counts)
    assert torch.equal(counts, before)
