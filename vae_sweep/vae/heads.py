"""Output heads t_hat = g(a): function, derivative, and range, per run and channel.

A head is a function f followed by an affine map per channel: g(a) = gain * f(a) + bias.
Alone it has gain 1 and bias 0. `onto="target"` maps f's open range onto exactly the
target's image of [0, 1]; `onto="standardized"` standardizes f's output per channel, as a
batch normalization without weights (Ioffe & Szegedy 2015): by the batch's mean and std in
training, by running ones in evaluation. The result is z-scored data, which it then
expresses in target space.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vae_sweep import options
from vae_sweep.errors import UserError
from vae_sweep.vae.normalize import Affine

MOMENTUM, EPS = 0.1, 1e-5  # torch.nn.BatchNorm2d's
PIXELS = (1, 3, 4)  # axes of [R, B, C, H, W] that a channel's statistics run over
INF = float("inf")
EDGE = 1e-6  # how near to 0 and 1 the logit of a head that states none may come

Function = Callable[[Tensor], Tensor]  # elementwise


@dataclass(frozen=True)
class Head:
    """An elementwise function of the decoder's last pre-activation a, and its range.

    Args:
        function: f(a), elementwise, of a tensor of any shape.
        low, high: Ends of f's range, of its closure; -inf and inf where it has none.
        derivative: f'(a), elementwise; by autograd where it is None.
        onto: None: f's output is in target space as it is. "target": its range is mapped
            onto the target's image of [0, 1], per channel. "standardized": f's output is
            standardized per channel and expressed in target space.
        logit: The logit of (f(a) - low) / (high - low), of heads for likelihoods of values
            in [0, 1]; where it is None, of the output itself, kept 1e-6 from 0 and 1.
    """

    function: Function
    low: float
    high: float
    derivative: Function | None = None
    onto: Literal["target", "standardized"] | None = None
    logit: Function | None = None

    def affine(self, target: Affine, zscore: Affine | None) -> tuple[Tensor, Tensor]:
        """(gain, bias) float64 [C] after the function, in target space.

        Of a standardized one, the map that follows standardization; it needs `zscore`, the
        z-score normalization of the training split.
        """
        ones = torch.ones_like(target.scale)
        if self.onto == "target":
            low, high = -target.shift / target.scale, (1 - target.shift) / target.scale
            gain = (high - low) / (self.high - self.low)
            return gain, low - gain * self.low
        if self.onto == "standardized":
            assert zscore is not None
            shift = (zscore.shift - target.shift) / target.scale
            return zscore.scale / target.scale, shift
        return ones, torch.zeros_like(ones)

    def range(self, target: Affine) -> tuple[Tensor, Tensor]:
        """Closure of its range in target space, (low, high) float64 [C].

        A standardized one divides by a learned spread, so that nothing is out of its reach.
        """
        if self.onto == "standardized":
            return torch.full_like(target.scale, -INF), torch.full_like(target.scale, INF)
        gain, bias = self.affine(target, None)
        return gain * self.low + bias, gain * self.high + bias

    @property
    def is_unit(self) -> bool:
        """Whether its outputs on unit targets are probabilities, in [0, 1]."""
        one = torch.ones(1, dtype=torch.float64)
        low, high = self.range(Affine(0 * one, one))
        return (low.item(), high.item()) == (0, 1)

    def slope(self, a: Tensor) -> Tensor:
        """f'(a)."""
        if self.derivative is not None:
            return self.derivative(a)
        with torch.enable_grad():
            a = a.detach().requires_grad_()
            [slope] = torch.autograd.grad(self.function(a).sum(), [a])
        return slope

    def logits(self, a: Tensor) -> Tensor:
        """The logit of the output on unit targets, of a head that `is_unit`."""
        if self.logit is not None:
            return self.logit(a)
        share = (self.function(a) - self.low) / (self.high - self.low)
        return torch.logit(share, EDGE)


def identity(a: Tensor) -> Tensor:
    """The linear head's function."""
    return a


def _sigmoid_derivative(a: Tensor) -> Tensor:
    s = torch.sigmoid(a)
    return s * (1 - s)


def _tanh_derivative(a: Tensor) -> Tensor:
    return 1 - torch.tanh(a) ** 2


def _tanh(onto: Literal["target", "standardized"] | None = None) -> Head:
    # (1 + tanh(a)) / 2 = sigmoid(2 a)
    return Head(torch.tanh, -1.0, 1.0, _tanh_derivative, onto, lambda a: 2 * a)


def _sigmoid(onto: Literal["target"] | None = None) -> Head:
    return Head(torch.sigmoid, 0.0, 1.0, _sigmoid_derivative, onto, lambda a: a)


OURS: dict[str, Head] = {
    "linear": Head(identity, -INF, INF, torch.ones_like),
    "tanh": _tanh(),
    "sigmoid": _sigmoid(),
    "hardtanh": Head(F.hardtanh, -1.0, 1.0, lambda a: (a.abs() < 1).to(a.dtype)),
    "tanh_rescaled": _tanh("target"),
    "sigmoid_rescaled": _sigmoid("target"),
    "tanh_standardized": _tanh("standardized"),
}


def named(name: str) -> Head:
    """The head of a name; raises UserError as options.find."""
    what = "a Head(function, low, high)"
    return options.find(
        "head", name, OURS, lambda h: h if isinstance(h, Head) else None, what
    )


def check(name: str, values: int) -> None:
    """Raises UserError where a batch has too few `values` per channel for a head."""
    if named(name).onto == "standardized" and values == 1:
        raise UserError(
            f"head={name} needs at least two values per channel, got one: "
            f"train.batch_size=1 of 1x1 images; set train.batch_size=2"
        )


class Heads(nn.Module):
    """The heads of R runs: a [R, B, C, H, W] -> t_hat of the same shape.

    In training a standardized one uses the mean and the population variance of each channel
    of the batch, and the gradient flows through both. `mean` and `var` [R, C] are what it
    uses in evaluation: in training they move by MOMENTUM toward the batch's mean and
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
        each = zip(heads, targets, zscores, strict=True)
        maps = [head.affine(target, zscore) for head, target, zscore in each]
        for name, index in (("gain", 0), ("bias", 1)):
            stacked = torch.stack([m[index] for m in maps])[:, None, :, None, None]
            self.register_buffer(name, stacked, persistent=False)
        runs, channels = len(heads), len(targets[0].scale)
        self.register_buffer("mean", torch.zeros(runs, channels))
        self.register_buffer("var", torch.ones(runs, channels))
        self.register_buffer("seen", torch.zeros(runs))

    def forward(self, a: Tensor) -> Tensor:
        """Outputs of all heads, [R, B, C, H, W], in target space."""
        outputs = []
        for head, part in self._parts(a):
            y = head.function(a[part])
            if head.onto == "standardized":
                if self.training:
                    self._track(part, y.detach())
                mean, std = self._statistics(part, y)
                y = (y - mean) / std
            if head.onto is not None:
                y = y * self.gain[part].to(y) + self.bias[part].to(y)
            outputs.append(y)
        return _joined(outputs)

    def derivative(self, a: Tensor) -> Tensor:
        """g'(a), the shape of `a` [R, B, C, H, W]; a standardized one's statistics held."""
        outputs = []
        for head, part in self._parts(a):
            d = head.slope(a[part]) * self.gain[part].to(a)
            if head.onto == "standardized":
                d = d / self._statistics(part, head.function(a[part]))[1]
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
