"""Procedural color images by the dead-leaves model (Lee, Mumford & Huang 2001).

Discs fall onto the image until they cover it, later ones over earlier ones. Their radii
have density ~ r^-3, which makes the statistics scale-invariant: occlusion, edges and a
power spectrum near 1/f^2, as in natural images. Colors follow CIFAR-10's per-channel
means and standard deviations. No download, any number, size and seed.

Few large leaves of unlike colors (data.radius_min, data.correlation) are images that a
small network learns to show within a minute, color included.
"""

import math
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vae_sweep.config import DeadLeavesConfig
from vae_sweep.data.cache import Pixels, cached_images, say
from vae_sweep.data.source import Given, Source
from vae_sweep.errors import UserError
from vae_sweep.system import machine

VERSION = 1  # of the images: raise it whenever the same seed gives other bytes

MOST_PIXELS = 2 * 10**9  # about five minutes on a core
MANY_PIXELS = 50_000_000  # take seconds to make, so a line says what goes on

LAYERS = 4.0  # discs over each pixel, on average: exp(-4) of it shows the background
SUPERSAMPLING = 2  # painted at twice the size, then averaged: antialiased edges

MEAN = np.array([0.491, 0.482, 0.447])  # CIFAR-10's training images
STD = np.array([0.247, 0.243, 0.262])
CIFAR10 = np.array([[1.0, 0.92, 0.81], [0.92, 1.0, 0.91], [0.81, 0.91, 1.0]])
SPREAD = 1.13  # makes up for what clipping to [0, 1] and antialiasing take from STD

LUMA = (19595, 38470, 7471)  # 0.299, 0.587, 0.114 of 2^16, as Pillow's convert("L")

CHUNK = 2**22  # supersampled pixels painted at once; part of VERSION


class Leaves(NamedTuple):
    """Radii, in supersampled pixels, and the correlation of colors, [3, 3]."""

    smallest: float
    largest: float
    correlation: NDArray


def check(config: DeadLeavesConfig) -> None:
    """Raises UserError where the images take too long to make or more than memory."""
    pixels = config.images * config.size**2
    if pixels > MOST_PIXELS or 3 * 3 * pixels > machine.memory():
        raise UserError(
            f"dead-leaves images have at most {MOST_PIXELS:,} pixels together and fit "
            f"memory, got data.images={config.images} of data.size={config.size}; "
            f"set a smaller one"
        )


def read(config: DeadLeavesConfig) -> Given:
    """The images, none held out. Raises UserError where they do not fit memory."""
    n, size, seed = config.images, config.size, config.seed
    radii, correlation = config.radii, config.correlation
    needed = 3 * n * size**2
    if needed > (there := machine.memory()):
        raise UserError(
            f"all images are held in memory, got data.images={n} of {size}x{size}, which "
            f"take {needed / 2**30:.0f} of {there / 2**30:.0f} GiB; set fewer"
        )

    def make() -> Pixels:
        if n * size**2 > MANY_PIXELS:
            say(f"making {n} dead-leaves images of {size}x{size} (kept for next time)")
        images = generate(n, size, seed, radii, correlation)
        return gray(images) if config.grayscale else images

    leaves = f"radii{radii[0]:.9g}to{radii[1]:.9g}-correlation{correlation}"
    color = "-gray" if config.grayscale else ""
    name = f"dead_leaves-v{VERSION}-n{n}-size{size}-seed{seed}-{leaves}{color}.npz"
    return Given(cached_images(config.cache_dir / name, n, make), None, None)


def generate(
    images: int,
    size: int,
    seed: int,
    radii: tuple[float, float],
    correlation: float | None = None,
) -> NDArray[np.uint8]:
    """Dead-leaves images, uint8 [images, 3, size, size].

    The bytes follow from the arguments: numpy's PCG64, seeded with `seed`, draws all.

    Args:
        images, size: How many, of how many pixels in either direction.
        radii: Of the smallest and of the largest leaf, pixels.
        correlation: Of the colors of each two channels; those of CIFAR-10 where None.
    """
    between = CIFAR10 if correlation is None else np.where(np.eye(3), 1, correlation)
    leaves = Leaves(radii[0] * SUPERSAMPLING, radii[1] * SUPERSAMPLING, between)
    rng = np.random.default_rng(seed)
    side = size * SUPERSAMPLING
    out = np.empty((images, 3, size, size), np.uint8)
    step = max(1, CHUNK // side**2)
    for start in range(0, images, step):
        chunk = out[start : start + step]
        canvas = _paint(rng, len(chunk), side, leaves)
        blocks = canvas.view(np.uint8).reshape(
            len(chunk), size, SUPERSAMPLING, size, SUPERSAMPLING, 4
        )
        mean = np.full((len(chunk), size, size, 4), SUPERSAMPLING**2 // 2, np.uint16)
        for i, j in product(range(SUPERSAMPLING), repeat=2):
            mean += blocks[:, :, i, :, j]  # five times faster than blocks.sum
        mean //= SUPERSAMPLING**2
        chunk[:] = mean[..., :3].transpose(0, 3, 1, 2)
    return out


def gray(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Luma (ITU-R BT.601) of colored images: uint8 [n, 3, H, W] -> [n, 1, H, W]."""
    red, green, blue = (
        weight * images[:, [c]].astype(np.uint32) for c, weight in enumerate(LUMA)
    )
    return ((red + green + blue + 2**15) >> 16).astype(np.uint8)


def _paint(
    rng: np.random.Generator, n: int, side: int, leaves: Leaves
) -> NDArray[np.uint32]:
    """n canvases of packed colors, [n * side * side]."""
    radii = _radii(rng, n, side, leaves)  # [discs, n]
    centers = rng.uniform(-1, 1, (2, *radii.shape)) * (side / 2 + radii) + side / 2
    colors = _colors(rng, (len(radii) + 1, n), leaves.correlation)
    canvas = np.repeat(colors[-1], side * side)  # the hindmost leaf covers all
    # One disc of every image at a time: within a round no pixel is written twice.
    for r, x, y, color in zip(radii, *centers, colors[:-1], strict=True):
        _paint_discs(canvas, side, r, x, y, color)
    return canvas


def _radii(rng: np.random.Generator, n: int, side: int, leaves: Leaves) -> NDArray:
    """Radii of the discs that may touch an image, [discs, n].

    A disc of radius r may touch the image if its center lies in a square of side + 2r:
    the density among these discs is r^-3 (side + 2r)^2, drawn by its inverse CDF.
    """
    r = np.geomspace(leaves.smallest, leaves.largest, 1000)
    integral = 4 * np.log(r) - 4 * side / r - side**2 / (2 * r**2)
    cdf = integral - integral[0]
    covered = np.pi * np.log(r[-1] / r[0])  # of the plane, by discs of density r^-3
    discs = math.ceil(LAYERS * cdf[-1] / covered)
    return np.interp(rng.random((discs, n)), cdf / cdf[-1], r)


def _colors(
    rng: np.random.Generator, shape: tuple[int, ...], correlation: NDArray
) -> NDArray[np.uint32]:
    """Colors with CIFAR-10's means and deviations, one uint32 (r, g, b, 0) each."""
    mixing = np.linalg.cholesky(correlation * np.outer(STD, STD)) * SPREAD
    rgb = MEAN + rng.standard_normal((*shape, 3)) @ mixing.T
    packed = np.zeros((*shape, 4), np.uint8)
    packed[..., :3] = np.rint(255 * rgb.clip(0, 1))
    return packed.view(np.uint32)[..., 0]


def _paint_discs(
    canvas: NDArray[np.uint32],
    side: int,
    r: NDArray,
    x: NDArray,
    y: NDArray,
    color: NDArray[np.uint32],
) -> None:
    """Paints one disc on each canvas, row by row: r, x, y, color are [n]."""
    top = np.ceil(y - r - 0.5).clip(0, side).astype(np.int64)
    bottom = np.floor(y + r + 0.5).clip(0, side).astype(np.int64)
    rows = (bottom - top).clip(0)
    disc = np.repeat(np.arange(len(r)), rows)  # one entry per row of a disc
    row = _ranges(top, rows)
    half = np.sqrt((r[disc] ** 2 - (row + 0.5 - y[disc]) ** 2).clip(0))
    left = np.ceil(x[disc] - half - 0.5).clip(0, side).astype(np.int64)
    right = np.floor(x[disc] + half + 0.5).clip(0, side).astype(np.int64)
    widths = (right - left).clip(0)
    pixels = _ranges((disc * side + row) * side + left, widths)
    canvas[pixels] = np.repeat(color[disc], widths)


def _ranges(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """start, start + 1, ... (`length` of them) for each pair, one after the other."""
    before = np.cumsum(lengths) - lengths
    return np.repeat(starts - before, lengths) + np.arange(lengths.sum())


SOURCE = Source(read, check)
