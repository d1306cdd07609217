"""What benchmarks measure with, where a wrong number would not show."""

import math

import numpy as np
import pytest
import torch

from benchmarks import quality
from benchmarks.bare import Bare
from benchmarks.configs import configs
from vae_sweep.vae.cohort import Cohort
from vae_sweep.vae.normalize import histograms
from vae_sweep.vae.point import point


def test_the_bare_network_is_ours():
    [config] = configs(1, "model.latent=5", "model.widths=[4,6]", "norm=minus1_1")
    images = torch.randint(0, 256, (7, 3, 32, 32), dtype=torch.uint8)
    cohort = Cohort([config], [point(config, histograms(images), 1024)], (3, 32, 32))
    bare = Bare(config.model)
    bare.take(cohort)
    noise = torch.randn(7, 5)
    for is_training in (True, False):  # by the batch's statistics, then by running ones
        bare.train(is_training)
        cohort.train(is_training)
        theirs = bare(images / 255 * 2 - 1, noise)
        seen = cohort(cohort.pixels_of(images), noise[None])
        for value, ours in zip(theirs, (seen.t_hat, seen.mu, seen.logvar), strict=True):
            torch.testing.assert_close(value, ours[0], rtol=1e-4, atol=1e-5)


def test_calibrated_bits_are_those_of_a_known_error_and_kl():
    images, latent = 250, 2
    u, noise = torch.rand(images, 3, 4, 4), torch.randn(images, latent)
    means = torch.linspace(0, 2, images)  # the KL of N(m, 1) in each latent is m^2 / 2

    def see(part: torch.Tensor, drawn: torch.Tensor):
        at = (u[:, None] == part).flatten(2).all(2).nonzero()[:, 0]
        mu = means[at][:, None].expand(-1, latent)
        return part + 0.1 * (-1) ** at[:, None, None, None], mu, torch.zeros_like(mu)

    kl = latent * (np.linspace(0, 2, images) ** 2).mean() / 2
    expected = math.log2(0.1 * math.sqrt(2 * math.pi * math.e)) + 8 + kl / 48 / math.log(2)
    assert quality.calibrated_bits(u, noise, see) == pytest.approx(expected, rel=1e-5)


@pytest.fixture
def clock(monkeypatch):
    """Seconds, in a list, that pass only when a test says so; half of them on the CPU."""
    seconds = [0.0]
    monkeypatch.setattr(quality, "clock", lambda: np.array([1.0, 0.5]) * seconds[0])
    return seconds


def train(judge: quality.Judge, network: torch.nn.Module, see: quality.See, clock):
    """A thousand steps of a second each, unless the judge ends them."""
    judge.start()
    for step in range(1, 1000):
        clock[0] += 1
        judge(step, network, see)


def test_a_judge_leaves_its_own_time_apart(clock):
    errors = iter([0.2, 0.1, 0.01])

    def see(u: torch.Tensor, noise: torch.Tensor):
        clock[0] += 5  # a judgment takes 5 s
        return u + next(errors), torch.zeros_like(noise), torch.zeros_like(noise)

    images = torch.zeros(4, 3, 2, 2, dtype=torch.uint8)
    judge = quality.Judge(images, 2, target=5.0, steps=1000)
    network = torch.nn.Identity()
    with pytest.raises(quality.Ended):
        train(judge, network, see, clock)
    # log2(0.1 sqrt(2 pi e)) + 8 = 6.73; with 0.01 it is 3.40
    assert judge.has_passed
    assert judge.bits == pytest.approx(3.403, abs=1e-3)
    assert judge.step == 3 * quality.EVERY
    assert judge.seconds.tolist() == [judge.step, judge.step / 2]
    assert network.training


@pytest.mark.parametrize(("steps", "most"), [(30, math.inf), (1000, 20)])
def test_a_judge_gives_up_after_steps_or_seconds(steps, most, clock):
    images = torch.zeros(4, 3, 2, 2, dtype=torch.uint8)
    judge = quality.Judge(images, 2, 0.0, steps, most)

    def see(u: torch.Tensor, noise: torch.Tensor):
        return u + 1, torch.zeros_like(noise), torch.zeros_like(noise)

    with pytest.raises(quality.Ended):
        train(judge, torch.nn.Identity(), see, clock)
    assert not judge.has_passed
    assert judge.step == (30 if steps == 30 else quality.EVERY)
