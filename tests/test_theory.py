import math

import numpy as np
import pytest
from conftest import make_images

from vae_sweep.heads import BASES, range_of
from vae_sweep.normalize import fit, histograms
from vae_sweep.theory import head_floor

NORMS = ("unit", "minus1_1", "zscore", "zscore_global", "raw255")
IMAGES = make_images(40)
COUNTS = histograms(IMAGES)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("head", BASES)
def test_floor_is_the_distance_of_every_pixel_to_the_range_by_brute_force(head, norm):
    target = fit(norm, COUNTS)
    low, high = (end.numpy()[:, None, None] for end in range_of(head, target))
    t = target.forward(IMAGES.double() / 255).numpy()
    nearest = np.minimum(np.maximum(t, low), high)
    errors = (t - nearest) ** 2
    floor = head_floor(head, target, COUNTS)
    scale = target.scale.numpy()[:, None, None]
    assert floor.mse == pytest.approx(errors.mean(), rel=1e-10, abs=1e-18)
    expected = (errors * scale**2).mean()
    assert floor.mse_pixel == pytest.approx(expected, rel=1e-10, abs=1e-18)


def test_psnr_cap_by_hand():
    # raw255 with tanh: everything above level 1 is out of reach, by (level - 1) / 255
    counts = histograms(IMAGES)
    levels = IMAGES.numpy().astype(float)
    expected = (np.clip(levels - 1, 0, None) ** 2).mean() / 255**2
    floor = head_floor("tanh", fit("raw255", counts), counts)
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
    floor = head_floor(head, fit(norm, COUNTS), COUNTS)
    assert floor == (0.0, 0.0, math.inf)
