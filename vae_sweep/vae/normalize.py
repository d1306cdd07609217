"""Affine normalizations x = (u - shift) / scale of pixels u in [0, 1], and back."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from vae_sweep import options
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


Norm = Callable[[Tensor], Affine]  # level counts [C, 256] -> Affine


def _per_channel(value: Tensor, like: Tensor) -> Tensor:
    """[..., C] as [..., C, 1, 1], or at every pixel where the channels of `like` are its
    innermost axis: three numbers along it take five times as long as whole rows."""
    value = value.to(like)[..., None, None]
    if like.is_cuda or like.stride(-3) != 1:
        return value
    last = value.movedim(-3, -1)
    rows = last.expand(*last.shape[:-3], *like.shape[-2:], -1).contiguous()
    return rows.movedim(-1, -3)


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


class Constant(Exception):
    """Of channels whose standard deviation is 0, which a normalization divides by."""

    def __init__(self, std: Tensor):
        super().__init__()
        self.channels = [c for c, s in enumerate(std.tolist()) if s == 0]


def _fixed(shift: float, scale: float) -> Norm:
    def of_images(counts: Tensor) -> Affine:
        ones = torch.ones(len(counts), dtype=torch.float64)
        return Affine(shift * ones, scale * ones)

    return of_images


def zscore(counts: Tensor) -> Affine:
    """Mean 0 and standard deviation 1 in each channel; raises Constant."""
    mean, std = moments(counts)
    if (std == 0).any():
        raise Constant(std)
    return Affine(mean, std)


def zscore_global(counts: Tensor) -> Affine:
    """The same with one mean and one standard deviation of all channels."""
    return zscore(counts.sum(0, keepdim=True).expand(len(counts), -1))


OURS: dict[str, Norm] = {
    "unit": _fixed(0, 1),
    "minus1_1": _fixed(0.5, 0.5),
    "zscore": zscore,
    "zscore_global": zscore_global,
    "raw255": _fixed(0, 1 / 255),
}


def named(name: str, group: str = "norm") -> Norm:
    """The normalization of a name; raises UserError as options.find."""
    what = "a function: level counts [C, 256] -> Affine(shift, scale)"
    return options.find(group, name, OURS, options.function, what)


def is_identity(name: str) -> bool:
    """Whether a normalization leaves pixels as they are, whatever the images."""
    counts = torch.arange(1, 257)[None]
    shift, scale = fit(name, counts)
    return (shift.item(), scale.item()) == (0, 1)


def fit(name: str, counts: Tensor, option: str | None = None) -> Affine:
    """The normalization `name` of a training split with level `counts` [C, 256].

    Raises UserError where it is undefined or cannot be inverted; it names the `option` that
    needs the normalization, `norm` unless another is given.
    """
    norm = named(name)
    try:
        found = norm(counts.clone())  # which others need as it is
    except Constant as error:
        remedy = "norm=unit or norm=minus1_1" if option is None else "another one"
        raise UserError(
            f"{option or f'norm {name}'} divides by the standard deviation, which is 0 in "
            f"channel {error.channels} of the training images; use {remedy}"
        ) from None
    except (Exception, SystemExit) as error:
        if not options.is_own(name):
            raise
        raise UserError(f"norm={name} raised {options.raised(error, name)}") from None
    return checked(found, len(counts), f"norm={name}") if options.is_own(name) else found


def checked(found: object, channels: int, what: str) -> Affine:
    """What a user's normalization gave, float64 [C]; UserError where it is no Affine that
    can be inverted."""
    rule = f"{what} must give Affine(shift, scale) with a finite number and a scale above 0"
    rule += f" for each of {channels} channels"
    if not (isinstance(found, tuple) and len(found) == 2):
        raise UserError(f"{rule}, got a {type(found).__name__}")
    try:
        shift, scale = (torch.as_tensor(v, dtype=torch.float64).flatten() for v in found)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{rule}, got {str(error).splitlines()[0]}") from None
    if len(shift) != channels or len(scale) != channels:
        raise UserError(f"{rule}, got {len(shift)} shifts and {len(scale)} scales")
    if not (shift.isfinite().all() and scale.isfinite().all() and (scale > 0).all()):
        got = f"shift {_short(shift)}, scale {_short(scale)}"
        raise UserError(f"{rule}, got {got}: it cannot be inverted")
    return Affine(shift, scale)


def _short(values: Tensor) -> str:
    return "[" + ", ".join(f"{v:.3g}" for v in values.tolist()) + "]"
