"""Floors: lower bounds of the error that a head's range sets, exact, before training."""

import math
from typing import NamedTuple

from torch import Tensor

from vae_sweep.vae.heads import Head
from vae_sweep.vae.normalize import Affine, levels


class Floor(NamedTuple):
    """Lower bounds of the error of any network with a given head.

    `outside` is the share of targets beyond its range, `mse` per element in target
    space, `mse_pixel` per element in [0, 1] space, the latter also as `psnr_cap` in dB
    (inf where the head reaches every target).
    """

    outside: float
    mse: float
    mse_pixel: float
    psnr_cap: float


def head_floor(head: Head, target: Affine, counts: Tensor) -> Floor:
    """E[dist(t, closure of the head's range)^2] over images with level `counts` [C, 256].

    Exact: every pixel is one of 256 levels, and each pixel can be fitted on its own.
    """
    t = target.forward(levels(len(counts))).squeeze(1)
    low, high = head.range(target)
    distance = t - t.clamp(low[:, None], high[:, None])
    weight = counts.double() / counts.sum(1, keepdim=True)
    squared = (weight * distance**2).sum(1)
    mse, mse_pixel = squared.mean().item(), (squared * target.scale**2).mean().item()
    # A target at the very edge of the range leaves rounding, not a floor.
    if mse_pixel < 1e-20:
        return Floor(0.0, 0.0, 0.0, math.inf)
    outside = (weight * (distance != 0)).sum(1).mean().item()
    return Floor(outside, mse, mse_pixel, -10 * math.log10(mse_pixel))
