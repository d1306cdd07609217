"""Affine normalizations x = (u - shift) / scale of pixels u in [0, 1], and back."""

from typing import NamedTuple

import torch
from torch import Tensor

from vae_sweep.config import Norm
from vae_sweep.errors import UserError


class Affine(NamedTuple):
    """x_c = (u_c - shift_c) / scale_c; shift and scale are [C], or [..., C] of several.

    A normalization that was fitted is float64 [C]; results have the type of what is given.
    """

    shift: Tensor
    scale: Tensor

    def forward(self, u: Tensor) -> Tensor:
        """Pixels to normalized values; `u` is [..., C, H, W]."""
        return (u - _per_channel(self.shift, u)) / _per_channel(self.scale, u)

    def inverse(self, x: Tensor) -> Tensor:
        """Normalized values to pixels, never clipped; `x` is [..., C, H, W]."""
        return x * _per_channel(self.scale, x) + _per_channel(self.shift, x)


def _per_channel(value: Tensor, like: Tensor) -> Tensor:
    return value.to(like)[..., None, None]


def histograms(images: Tensor) -> Tensor:
    """Counts of the 256 levels per channel, int64 [C, 256], of uint8 [n, C, H, W]."""
    channels = images.transpose(0, 1).flatten(1)
    return torch.stack([torch.bincount(c, minlength=256) for c in channels])


def levels(channels: int) -> Tensor:
    """Pixels u of all 256 levels, float64 [C, 1, 256]: an image one pixel high."""
    return (torch.arange(256, dtype=torch.float64) / 255).expand(channels, 1, -1)


def moments(counts: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (population) of each channel's pixels in [0, 1].

    float64 [C], exact to rounding, from level `counts` [C, 256].
    """
    level = levels(1).flatten()
    weight = counts.double() / counts.sum(1, keepdim=True)
    mean = weight @ level
    return mean, (weight * (level - mean[:, None]) ** 2).sum(1).sqrt()


def fit(norm: Norm, counts: Tensor, option: str | None = None) -> Affine:
    """The normalization `norm` for a training split with level `counts` [C, 256].

    Raises UserError where a standard deviation is 0; it names the `option` that needs the
    normalization, `norm` unless another is given.
    """
    channels = len(counts)
    if norm in ("unit", "minus1_1", "raw255"):
        fixed = {"unit": (0, 1), "minus1_1": (0.5, 0.5), "raw255": (0, 1 / 255)}
        shift, scale = fixed[norm]
        ones = torch.ones(channels, dtype=torch.float64)
        return Affine(shift * ones, scale * ones)
    if norm == "zscore_global":
        counts = counts.sum(0, keepdim=True).expand(channels, -1)
    mean, std = moments(counts)
    if (std == 0).any():
        constant = [c for c, s in enumerate(std.tolist()) if s == 0]
        remedy = "norm=unit or norm=minus1_1" if option is None else "another one"
        raise UserError(
            f"{option or f'norm {norm}'} divides by the standard deviation, which is 0 in "
            f"channel {constant} of the training images; use {remedy}"
        )
    return Affine(mean, std)
