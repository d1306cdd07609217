import math

import pytest
import torch
from helpers import TINY, make_config, make_images

from vae_sweep.vae.cohort import Cohort
from vae_sweep.vae.normalize import histograms
from vae_sweep.vae.point import point
from vae_sweep.vae.streams import Streams, stream

COUNTS = histograms(make_images(20))


def test_streams_are_told_apart_by_seed_and_name():
    draws = {
        (seed, name): torch.rand(1, generator=stream(seed, name)).item()
        for seed in (0, 1, 2**62)
        for name in ("init", "noise", "order0", "order1")
    }
    assert len(set(draws.values())) == len(draws)
    assert torch.rand(1, generator=stream(0, "init")).item() == draws[0, "init"]


def test_noise_of_equal_seeds_is_one_draw():
    noise = Streams([3, 5, 3], "noise").normal(4, 2)
    assert torch.equal(noise[0], noise[2])
    expected = torch.randn(4, 2, generator=stream(5, "noise"))
    assert torch.equal(noise[1], expected)


def test_a_point_by_hand():
    """sum, beta 1, [-1, 1]: v = (1/2)^2 / 2; tanh reaches every target."""
    constants = point(make_config("norm=minus1_1", "head=tanh"), COUNTS, 64)
    assert constants.variance.tolist() == [0.125] * 3
    assert constants.sigma == pytest.approx(255 * math.sqrt(0.125))
    assert constants.beta == 1


@pytest.mark.parametrize("target", ["unit", "minus1_1", "zscore", "raw255"])
@pytest.mark.parametrize("reduction", ["sum", "gaussian", "mean", "pixel_mean"])
def test_matched_points_have_one_sigma(target, reduction):
    config = make_config(
        "beta=matched", "beta.sigma=48", f"target={target}", f"reduction={reduction}"
    )
    assert point(config, COUNTS, 64).sigma == pytest.approx(48)


def test_the_decoder_is_compared_with_the_image_under_target():
    config = make_config(*TINY, "norm=raw255", "target=minus1_1", "train.precision=fp64")
    images = make_images(5)
    cohort = Cohort([config], [point(config, COUNTS, 64)], (3, 8, 8))
    seen = {}
    cohort.model.encoder.register_forward_pre_hook(lambda _, args: seen.update(x=args[0]))
    forward = cohort(cohort.pixels_of(images), torch.zeros(1, 5, 4).double())
    torch.testing.assert_close(seen["x"][0], images.double())
    torch.testing.assert_close(forward.t[0], images.double() / 127.5 - 1)
    u_hat = cohort.target.inverse(forward.t_hat)
    torch.testing.assert_close(u_hat, (forward.a + 1) / 2)  # a linear head
