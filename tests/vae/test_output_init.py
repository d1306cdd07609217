"""model.output_init=data: the last layer starts from the targets' mean and deviation."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from helpers import TINY, make_config, make_images, prepared
from scipy.optimize import brentq
from torch import nn

from vae_sweep.errors import UserError
from vae_sweep.vae import own_network
from vae_sweep.vae.cohort import Cohort
from vae_sweep.vae.normalize import histograms
from vae_sweep.vae.point import point

IMAGES = make_images(40)
U = IMAGES.numpy() / 255
MEAN, STD = U.mean((0, 2, 3)), U.std((0, 2, 3))
NETWORKS = ("model=small model.widths=[4,8]", "model=linear")


def cohort_of(network: str, *overrides: str) -> Cohort:
    typed = (*network.split(), "model.latent=4", "train.precision=fp64", *overrides)
    config = make_config(*typed)
    return Cohort([config], [point(config, histograms(IMAGES), 64)], (3, 8, 8)).eval()


def affine(norm: str) -> tuple[np.ndarray, np.ndarray]:
    """(shift, scale) per channel."""
    shift, scale = {
        "unit": (0, 1),
        "minus1_1": (0.5, 0.5),
        "zscore": (MEAN, STD),
        "raw255": (0, 1 / 255),
    }[norm]
    return np.broadcast_to(shift, 3), np.broadcast_to(scale, 3)


# head -> (a and slope where it has the value y), by hand
BY_HAND = {
    "linear": lambda y: (y, 1.0),
    "hardtanh": lambda y: (y, 1.0),
    "tanh": lambda y: (np.arctanh(y), 1 - y**2),
    "sigmoid": lambda y: (np.log(y / (1 - y)), y * (1 - y)),
}


@pytest.mark.parametrize("norm", ["unit", "minus1_1", "zscore", "raw255"])
@pytest.mark.parametrize("head", BY_HAND)
def test_center_and_gain_by_hand(head, norm):
    shift, scale = affine(norm)
    mean, std = (MEAN - shift) / scale, STD / scale
    low, high = {"linear": (-math.inf, math.inf), "sigmoid": (0, 1)}.get(head, (-1, 1))
    edge = 0.01 * np.minimum(high - low, std)  # beyond its range, or at its end
    a, slope = BY_HAND[head](mean.clip(low + edge, high - edge))
    config = make_config(*TINY, f"norm={norm}", f"head={head}", "model.output_init=data")
    start = point(config, histograms(IMAGES), 64).start
    assert start is not None
    np.testing.assert_allclose(start.center, a, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(start.gain, std / slope, rtol=1e-9)


@pytest.mark.parametrize("norm", ["unit", "minus1_1", "zscore", "raw255"])
@pytest.mark.parametrize("head", ["tanh_rescaled", "sigmoid_rescaled"])
def test_a_rescaled_head_reaches_every_mean(head, norm):
    config = make_config(*TINY, f"norm={norm}", f"head={head}", "model.output_init=data")
    start = point(config, histograms(IMAGES), 64).start
    assert start is not None
    if head == "tanh_rescaled":  # u = (1 + tanh(a)) / 2
        a, slope = np.arctanh(2 * MEAN - 1), (1 - (2 * MEAN - 1) ** 2) / 2
    else:
        a, slope = np.log(MEAN / (1 - MEAN)), MEAN * (1 - MEAN)
    np.testing.assert_allclose(start.center, a, rtol=1e-9)
    np.testing.assert_allclose(start.gain, STD / slope, rtol=1e-9)


def test_a_standardizing_head_starts_where_it_is_steepest():
    config = make_config(*TINY, "head=tanh_standardized", "model.output_init=data")
    start = point(config, histograms(IMAGES), 64).start
    assert start is not None
    np.testing.assert_allclose(start.center, 0, atol=1e-12)
    np.testing.assert_allclose(start.gain, 1)


@pytest.mark.parametrize("likelihood", ["bernoulli", "continuous_bernoulli"])
@pytest.mark.parametrize("head", ["sigmoid", "tanh_rescaled"])
def test_images_that_are_made_of_logits(head, likelihood):
    typed = (f"head={head}", f"likelihood={likelihood}", "norm=unit")
    config = make_config(*TINY, *typed, "model.output_init=data")
    start = point(config, histograms(IMAGES), 64).start
    assert start is not None

    def image(logit: float) -> float:
        if likelihood == "bernoulli":
            return 1 / (1 + math.exp(-logit))
        return 0.5 + 0.5 / math.tanh(logit / 2) - 1 / logit if logit else 0.5

    per_logit = 2 if head == "tanh_rescaled" else 1  # logits of a
    for c in range(3):
        logit = brentq(lambda x, c=c: image(x) - MEAN[c], -9.1, 9, xtol=1e-12)
        slope = (image(logit + 1e-4) - image(logit - 1e-4)) / 2e-4 * per_logit
        assert start.center[c].item() == pytest.approx(logit / per_logit, abs=1e-6)
        assert start.gain[c].item() == pytest.approx(STD[c] / slope, rel=1e-4)


HEADS = ("linear", "tanh", "sigmoid", "tanh_rescaled", "tanh_standardized", "hardtanh")


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("head", HEADS)
def test_the_networks_start_there(head, network):
    data = ("model.output_init=data", f"head={head}", "target=unit")
    cohort, random = cohort_of(network, *data), cohort_of(network, *data[1:])
    x, noise = cohort.norm.forward(cohort.pixels_of(IMAGES)), torch.zeros(1, 40, 4)
    with torch.no_grad():
        a, usual = (each.model(x, noise)[0] for each in (cohort, random))
    start = cohort.points[0].start
    assert start is not None
    center, gain = (v[:, None, None] for v in start)
    model: Any = random.model
    last = model.from_latent if network == "model=linear" else model.decoder[-1]
    bias = last.bias[0].detach()
    bias = bias.view(3, 8, 8) if len(bias) > 3 else bias[:, None, None]
    torch.testing.assert_close(a[0], gain * (usual[0] - bias) + center)
    if head != "tanh_standardized":  # of running statistics 0 and 1
        flat = center.expand(1, 1, 3, 8, 8)
        mean = cohort.target.inverse(cohort.heads(flat))[0, 0].mean((1, 2))
        np.testing.assert_allclose(mean, MEAN, rtol=1e-6)


@pytest.mark.parametrize("network", NETWORKS)
def test_under_a_linear_head_all_targets_are_one_network_in_pixels(network):
    pixels = {}
    for target in ("unit", "minus1_1", "zscore"):
        typed = (f"target={target}", "head=linear", "model.output_init=data")
        cohort = cohort_of(network, "norm=zscore", *typed)
        noise = torch.randn(1, 40, 4, generator=torch.Generator().manual_seed(1)).double()
        with torch.no_grad():
            u_hat = cohort.target.inverse(cohort(cohort.pixels_of(IMAGES), noise).t_hat)
        pixels[target] = u_hat
    torch.testing.assert_close(pixels["unit"], pixels["zscore"], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(pixels["minus1_1"], pixels["zscore"], rtol=1e-10, atol=1e-12)


def test_only_another_value_is_another_run():
    usual, other = make_config(*TINY), make_config(*TINY, "model.output_init=data")
    assert "output_init" not in usual.decisive["model"]
    assert usual.run_id != other.run_id
    assert point(usual, histograms(IMAGES), 64).start is None


# --- a user's own ---


class Net(nn.Module):
    """Its last layer is `output`, whose kind is `last`."""

    def __init__(self, shape, latent, *, last: str = "conv", named: bool = True):
        super().__init__()
        c, h, w = shape
        self.encoder = nn.Linear(c * h * w, 2 * latent)
        self.start = nn.Linear(latent, 6 * h * w // 4)
        self.shape = (6, h // 2, w // 2)
        if last == "transposed":
            ends = [nn.ConvTranspose2d(6, c, 4, 2, 1)]
        elif last == "linear":
            ends = [
                nn.Flatten(),
                nn.Linear(6 * h * w // 4, c * h * w),
                nn.Unflatten(1, shape),
            ]
        else:
            ends = [nn.Upsample(scale_factor=2), nn.Conv2d(6, c, 3, padding=1)]
        ends += [nn.Tanh()] if last == "then tanh" else []
        self.ends = nn.Sequential(*ends)
        self.named = int(named)

    @property
    def output(self):
        if not self.named:
            raise AttributeError("output")
        return next(m for m in self.ends if hasattr(m, "bias"))

    def encode(self, x):
        return self.encoder(x.flatten(1)).chunk(2, 1)

    def decode(self, z):
        return self.ends(self.start(z).unflatten(1, self.shape))


@pytest.mark.parametrize("last", ["conv", "transposed", "linear"])
def test_a_users_last_layer_is_found(last):
    own_network.verify_output(lambda: Net((3, 8, 8), 4, last=last), (3, 8, 8), 4)


@pytest.mark.parametrize("parameters", [{"named": False}, {"last": "then tanh"}])
def test_what_is_no_last_layer_is_refused(parameters):
    with pytest.raises(UserError, match=r"must have its last layer.*set model.output"):
        own_network.verify_output(lambda: Net((3, 8, 8), 4, **parameters), (3, 8, 8), 4)


SOURCE = """
import torch
from torch import nn
from vae_sweep import Head

SOFTSIGN = Head(nn.functional.softsign, -1, 1)
JUMP = Head(lambda a: a + torch.sign(a), -float("inf"), float("inf"))


class Net(nn.Module):
    def __init__(self, shape, latent, *, called: str = "output"):
        super().__init__()
        self.shape, size = shape, shape[0] * shape[1] * shape[2]
        self.encoder = nn.Linear(size, 2 * latent)
        self.add_module(called, nn.Linear(latent, size))
        self.last = [called]

    def encode(self, x):
        return self.encoder(x.flatten(1)).chunk(2, 1)

    def decode(self, z):
        return getattr(self, self.last[0])(z).unflatten(1, self.shape)
"""


@pytest.fixture
def typed(tmp_path, monkeypatch, npz):
    """Points whose options are of a user's module."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    module = f"mine_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{module}.py").write_text(SOURCE)
    images = ("data=npz", f"data.path={npz()}")
    return lambda *overrides: make_config(
        *(o.replace("mine:", f"{module}:") for o in overrides),
        *(*images, "model.latent=4", "model.output_init=data", "train.batch_size=8"),
    )


def test_a_users_network_starts_from_the_data(typed):
    [p] = prepared([typed("model=mine:Net", "norm=unit")])
    cohort = Cohort([p.config], [p.point], p.dataset.shape)
    mean = p.dataset.images.train.double().mean((0, 2, 3)) / 255
    bias = cohort.model.network.output.bias[0].detach().view(3, 64)  # pyright: ignore
    np.testing.assert_allclose(bias.mean(1), mean, rtol=1e-5)
    with pytest.raises(UserError, match=r"Net \(mine_\w+\.py, line 10\): must have its"):
        prepared([typed("model=mine:Net", "model.called=end")])


def test_a_users_head_is_solved_for_the_mean(typed):
    [p] = prepared([typed("model=linear", "norm=unit", "head=mine:SOFTSIGN")])
    mean = p.dataset.images.train.double().mean((0, 2, 3)) / 255
    torch.testing.assert_close(p.point.start.center, mean / (1 - mean))


def test_a_users_head_without_the_mean_is_refused(typed):
    with pytest.raises(UserError, match=r"needs a head that can .* got head=mine_\w+:J"):
        prepared([typed("model=linear", "norm=unit", "head=mine:JUMP")])
