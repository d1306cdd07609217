"""The shapes that docstrings state, a name for each axis: R runs of S seeds, a batch of
B, C channels of H x W, D latents."""

import pytest
import torch
from helpers import TINY, make_config, make_images
from jaxtyping import Float, Float64, Int64, UInt8, jaxtyped
from torch import Tensor

from vae_sweep.training import metrics
from vae_sweep.training.batches import Feed
from vae_sweep.training.step import Trainer
from vae_sweep.vae import normalize, objective
from vae_sweep.vae.cohort import Cohort
from vae_sweep.vae.layers import BatchNorm, Conv, GroupNorm, Linear
from vae_sweep.vae.point import point
from vae_sweep.vae.streams import Streams, stream

SEEDS = [0, 1, 0]
IMAGES = make_images(11, channels=3, size=8)[..., :6]  # 8 x 6
SIZES = {"R": 3, "S": 2, "B": 5, "C": 3, "H": 8, "W": 6, "D": 4}
LIKELIHOODS = ("mse", "l1", "gaussian_learned", "discretized_gaussian")


def is_shaped(tensor: Tensor, kind, axes: str) -> bool:
    """Whether it has the axes, each as long as SIZES says."""
    with jaxtyped("context"):
        for name, size in SIZES.items():  # binds the names
            assert isinstance(torch.zeros(size), Float[Tensor, name])
        return isinstance(tensor, kind[Tensor, axes])


def test_the_check_sees_a_wrong_shape():
    assert is_shaped(torch.zeros(3, 5), Float, "R B")
    assert not is_shaped(torch.zeros(5, 3), Float, "R B")
    assert not is_shaped(torch.zeros(3, 5, dtype=torch.int64), Float, "R B")


def configs_of(*overrides: str):
    common = (*TINY, "train.batch_size=5", "train.steps=6", "train.device=cpu")
    return [make_config(*common, f"seed={seed}", *overrides) for seed in SEEDS]


def points_of(configs):
    counts = normalize.histograms(IMAGES)
    return [point(config, counts, 8 * 6) for config in configs]


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("head", ["linear", "tanh_standardized"])
@pytest.mark.parametrize("model", ["small", "linear"])
def test_a_cohort(likelihood, head, model):
    overrides = (f"likelihood={likelihood}", f"head={head}", f"model={model}")
    base = [o for o in TINY if not o.startswith("model")]
    latent = ["model.latent=4"] if model == "linear" else list(TINY[1:3])
    configs = [
        make_config(*base, *overrides, *latent, f"seed={seed}", "train.batch_size=5")
        for seed in SEEDS
    ]
    cohort = Cohort(configs, points_of(configs), (3, 8, 6))
    u = cohort.pixels_of(IMAGES[:5])
    assert is_shaped(u, Float, "1 B C H W")
    own = IMAGES[:5].expand(3, -1, -1, -1, -1)
    assert is_shaped(cohort.pixels_of(own), Float, "R B C H W")
    noise = Streams(SEEDS, "noise").normal(5, 4)
    assert is_shaped(noise, Float, "R B D")
    forward = cohort(u, noise)
    for name in ("t_hat", "a"):
        assert is_shaped(getattr(forward, name), Float, "R B C H W"), name
    for name in ("mu", "logvar"):
        assert is_shaped(getattr(forward, name), Float, "R B D"), name
    assert is_shaped(forward.u, Float, "1 B C H W")
    assert is_shaped(forward.sse(), Float, "R B")
    assert is_shaped(forward.kl(), Float, "R B")
    assert is_shaped(cohort.errors(forward), Float, "R B")
    for term in cohort.terms(forward, torch.ones(3)):
        assert is_shaped(term, Float, "R")
    assert is_shaped(cohort.heads.derivative(forward.a), Float, "R B C H W")
    assert is_shaped(cohort.target.inverse(forward.t_hat), Float, "R B C H W")
    mse = torch.ones(3)
    assert is_shaped(cohort.likelihoods.std(0, mse), Float, "C")
    a, mu, logvar = cohort.model(cohort.norm.forward(u), noise)
    assert is_shaped(a, Float, "R B C H W")
    assert is_shaped(mu, Float, "R B D")
    assert is_shaped(logvar, Float, "R B D")


def test_a_normalization():
    counts = normalize.histograms(IMAGES)
    assert is_shaped(counts, Int64, "C 256")
    assert is_shaped(normalize.levels(3), Float64, "C 1 256")
    for moment in normalize.moments(counts):
        assert is_shaped(moment, Float64, "C")
    fitted = normalize.fit("zscore", counts)
    for value in fitted:
        assert is_shaped(value, Float64, "C")
    assert is_shaped(fitted.forward(IMAGES[:5] / 255), Float, "B C H W")
    scale = fitted.scale
    assert is_shaped(objective.implied_variance(1.0, (1.0, 1.0), scale), Float64, "C")


def test_layers():
    generators = [stream(seed, "init") for seed in SEEDS]
    x = torch.zeros(3, 5, 3, 8, 6)
    assert is_shaped(Conv(generators, 3, 7, 4, 2)(x), Float, "R B 7 4 3")
    up = Conv(generators, 3, 7, 4, 2, transposed=True)
    assert is_shaped(up(x), Float, "R B 7 16 12")
    for way in ("loop", "grouped", "products"):
        assert is_shaped(getattr(up, way)(x), Float, "R B 7 16 12"), way
    assert is_shaped(Linear(generators, 4, 7)(torch.zeros(3, 5, 4)), Float, "R B 7")
    for norm in (BatchNorm, GroupNorm):
        assert is_shaped(norm(3, 3)(x), Float, "R B C H W")


def test_batches():
    configs = configs_of()
    block = Feed(configs, points_of(configs), len(IMAGES), 6).block(1, 2)
    assert is_shaped(block.images, Int64, "2 S B")
    assert is_shaped(block.noise, Float, "2 S B D")
    assert is_shaped(block.beta, Float, "2 R")
    assert is_shaped(block.rate, Float, "2")


def test_the_step_and_what_it_measures():
    configs = configs_of()
    trainer = Trainer(configs, points_of(configs), IMAGES, "cpu")
    trainer.update()
    assert is_shaped(trainer.losses, Float, "R")
    assert is_shaped(trainer.died, Int64, "R")
    assert is_shaped(trainer.beta, Float, "R")
    assert is_shaped(trainer.reconstruct(IMAGES[:5]), UInt8, "R B C H W")
    values = trainer.evaluate(IMAGES[:5])
    assert tuple(values) == tuple(metrics.OURS)
    for name, value in values.items():
        assert is_shaped(value, Float64, "R"), name
