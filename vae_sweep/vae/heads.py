"""Output heads t_hat = g(a): function, derivative, and range, per run and channel.

Every head is a base function followed by an affine map per channel:
g(a) = gain * f(a) + bias. `tanh` has gain 1 and bias 0; the `_rescaled` ones map
f's open range onto exactly the target's image of [0, 1]; `tanh_standardized`
standardizes tanh's output per channel, as a batch normalization without weights (Ioffe &
Szegedy 2015): by the batch's mean and std in training, by running ones in evaluation.
The result is z-scored data, which it then expresses in target space.
"""

from collections.abc import Callable
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vae_sweep.config import Head
from vae_sweep.vae.normalize import Affine

MOMENTUM, EPS = 0.1, 1e-5  # torch.nn.BatchNorm2d's
STANDARDIZED: Head = "tanh_standardized"
PIXELS = (1, 3, 4)  # axes of [R, B, C, H, W] that a channel's statistics run over


class Base(NamedTuple):
    """A scalar function with its derivative and its (open or closed) range."""

    function: Callable[[Tensor], Tensor]
    derivative: Callable[[Tensor], Tensor]
    low: float
    high: float


def _sigmoid_derivative(a: Tensor) -> Tensor:
    s = torch.sigmoid(a)
    return s * (1 - s)


INF = float("inf")
LINEAR = Base(lambda a: a, torch.ones_like, -INF, INF)
TANH = Base(torch.tanh, lambda a: 1 - torch.tanh(a) ** 2, -1.0, 1.0)
SIGMOID = Base(torch.sigmoid, _sigmoid_derivative, 0.0, 1.0)
HARDTANH = Base(F.hardtanh, lambda a: (a.abs() < 1).to(a.dtype), -1.0, 1.0)

BASES: dict[Head, Base] = {
    "linear": LINEAR,
    "tanh": TANH,
    "sigmoid": SIGMOID,
    "hardtanh": HARDTANH,
    "tanh_rescaled": TANH,
    "sigmoid_rescaled": SIGMOID,
    "tanh_standardized": TANH,
}


def affine_of(head: Head, target: Affine, zscore: Affine | None) -> tuple[Tensor, Tensor]:
    """(gain, bias) float64 [C] after the base function, in target space.

    For tanh_standardized the map that follows standardization; it needs `zscore`, the
    z-score normalization of the training split.
    """
    ones = torch.ones_like(target.scale)
    if head.endswith("_rescaled"):
        base = BASES[head]
        low, high = -target.shift / target.scale, (1 - target.shift) / target.scale
        gain = (high - low) / (base.high - base.low)
        return gain, low - gain * base.low
    if head == "tanh_standardized":
        assert zscore is not None
        return zscore.scale / target.scale, (zscore.shift - target.shift) / target.scale
    return ones, torch.zeros_like(ones)


def range_of(head: Head, target: Affine) -> tuple[Tensor, Tensor]:
    """Closure of the head's range in target space, (low, high) float64 [C].

    tanh_standardized divides by a learned spread, so that nothing is out of its reach.
    """
    if head == "tanh_standardized":
        return torch.full_like(target.scale, -INF), torch.full_like(target.scale, INF)
    base = BASES[head]
    gain, bias = affine_of(head, target, None)
    return gain * base.low + bias, gain * base.high + bias


class Heads(nn.Module):
    """The heads of R runs: a [R, B, C, H, W] -> t_hat of the same shape.

    In training tanh_standardized uses the mean and the population variance of each channel
    of the batch, and the gradient flows through both. `mean` and `var` [R, C] are what it
    uses in evaluation: in training they move by MOMENTUM towards the batch's mean and
    unbiased variance, as in torch.nn.BatchNorm2d. The first batch sets them (`seen` [R]
    says whether there was one), so that an early evaluation is not mixed with the initial 0
    and 1. Other heads leave them alone.
    """

    gain: Tensor
    bias: Tensor
    mean: Tensor
    var: Tensor
    seen: Tensor

    def __init__(
        self, heads: list[Head], targets: list[Affine], zscores: list[Affine | None]
    ):
        super().__init__()
        self.heads = heads
        maps = [affine_of(*each) for each in zip(heads, targets, zscores, strict=True)]
        for name, index in (("gain", 0), ("bias", 1)):
            stacked = torch.stack([m[index] for m in maps])[:, None, :, None, None]
            self.register_buffer(name, stacked, persistent=False)
        runs, channels = len(heads), len(targets[0].scale)
        self.register_buffer("mean", torch.zeros(runs, channels))
        self.register_buffer("var", torch.ones(runs, channels))
        self.register_buffer("seen", torch.zeros(runs))

    def forward(self, a: Tensor) -> Tensor:
        outputs = []
        for head, part in self._parts(a):
            y = BASES[head].function(a[part])
            if head == STANDARDIZED:
                if self.training:
                    self._track(part, y.detach())
                mean, std = self._statistics(part, y)
                y = (y - mean) / std
            if head in (STANDARDIZED, "tanh_rescaled", "sigmoid_rescaled"):
                y = y * self.gain[part].to(y) + self.bias[part].to(y)
            outputs.append(y)
        return _joined(outputs)

    def derivative(self, a: Tensor) -> Tensor:
        """g'(a), the shape of `a` [R, B, C, H, W]; tanh_standardized's statistics held."""
        outputs = []
        for head, part in self._parts(a):
            d = BASES[head].derivative(a[part]) * self.gain[part].to(a)
            if head == STANDARDIZED:
                d = d / self._statistics(part, BASES[head].function(a[part]))[1]
            outputs.append(d)
        return _joined(outputs)

    def _parts(self, a: Tensor) -> list[tuple[Head, slice]]:
        """Runs that are computed in one go: on CUDA neighbors of equal head; on CPU each
        alone, as vector kernels may round the ends of what they are given otherwise."""
        if not a.is_cuda:
            return [(head, slice(r, r + 1)) for r, head in enumerate(self.heads)]
        return self.neighbors()

    def neighbors(self) -> list[tuple[Head, slice]]:
        """Each head with the runs that follow one another with it."""
        parts, start = [], 0
        for head, group in groupby(self.heads):
            stop = start + len(list(group))
            parts.append((head, slice(start, stop)))
            start = stop
        return parts

    def _track(self, part: slice, y: Tensor) -> None:
        var, mean = torch.var_mean(y, dim=PIXELS, correction=1)
        rate = torch.where(self.seen[part] > 0, MOMENTUM, 1.0)[:, None]
        self.mean[part].lerp_(mean.to(self.mean), rate.to(self.mean))
        self.var[part].lerp_(var.to(self.var), rate.to(self.var))
        self.seen[part] = 1.0

    def _statistics(self, part: slice, y: Tensor) -> tuple[Tensor, Tensor]:
        """(mean, std) [r, 1, C, 1, 1]: in training those of `y` [r, B, C, H, W]."""
        if self.training:
            var, mean = torch.var_mean(y, dim=PIXELS, correction=0, keepdim=True)
        else:
            mean, var = (
                v[part].to(y)[:, None, :, None, None] for v in (self.mean, self.var)
            )
        return mean, (var + EPS).sqrt()


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)
