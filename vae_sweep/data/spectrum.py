"""The principal components of a training split: what theory needs to know of the images."""

import hashlib
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vae_sweep.data.cache import cached, say

VERSION = 2  # of the cache: raise it when the same images give other numbers
LARGEST = 64 * 64 * 3  # pixels N; a covariance [N, N] above is beyond a laptop's memory
LEAST = 512  # components kept, where there are so many
CHUNK = 1024  # images; see _products
FEW = 2  # images fewer than 1/FEW of the pixels: their inner products are the less to do
SLOW = 2e12  # multiplications that take seconds, so a line says what goes on


class Spectrum(NamedTuple):
    """Eigenvalues of the covariance of u_c / ratio_c over a training split, float64.

    `ratio` [C] is a normalization's scale_c over its root mean square `unit`, so that
    normalizations of one shape share a spectrum: those of t are `values` / unit^2.
    `values` [K] descend; `vectors` [K, N], float32, are the unit eigenvectors; `shares`
    [K, C] say how much of each lies in each channel (rows sum to 1); `total` [C] is the
    variance of the pixels u, summed.
    """

    values: NDArray[np.float64]
    vectors: NDArray[np.float32]
    shares: NDArray[np.float64]
    total: NDArray[np.float64]


class Spectra:
    """The spectra of one training split: computed once, kept in `cache` for later."""

    def __init__(self, images: NDArray[np.uint8], digest: str, cache: Path):
        """`images` [n, C, H, W]; `digest` tells them from others."""
        self.images, self.digest, self.cache = images, digest, cache
        self.known: dict[tuple[float, ...], Spectrum] = {}
        self._covariance: NDArray[np.float64] | None = None

    @property
    def pixels(self) -> int:
        """N = C*H*W."""
        return int(np.prod(self.images.shape[1:]))

    def of(self, scale: NDArray[np.float64], latent: int) -> Spectrum | None:
        """The spectrum for targets of `scale` [C], of at least `latent` components or all.

        None where the images are larger than LARGEST.
        """
        if self.pixels > LARGEST:
            return None
        ratio = scale / np.sqrt(np.mean(scale**2))
        ratio = np.round(ratio, 12)  # scales that differ by a factor agree up to rounding
        count = min(self.pixels, max(LEAST, latent))
        key = (count, *ratio.tolist())
        if key not in self.known:
            self.known[key] = self._read(ratio, count)
        return self.known[key]

    def _read(self, ratio: NDArray[np.float64], count: int) -> Spectrum:
        named = hashlib.sha256(ratio.tobytes()).hexdigest()[:8]
        name = f"spectrum-v{VERSION}-{self.digest}-{named}-k{count}.npz"

        def make() -> dict[str, NDArray]:
            if FEW * len(self.images) < self.pixels:
                return of_few(self.images, ratio, count)._asdict()
            return decompose(self.covariance(), ratio, count)._asdict()

        def fits(arrays: dict[str, NDArray]) -> bool:
            spectrum = Spectrum(**arrays)
            return spectrum.shares.shape == (
                count,
                len(ratio),
            ) and spectrum.vectors.shape == (count, self.pixels)

        return Spectrum(**cached(self.cache / name, make, fits))

    @cached_property
    def mean(self) -> NDArray[np.float64]:
        """The mean image [C, H, W], in pixels u."""
        return self.images.mean(0, dtype=np.float64) / 255

    def covariance(self) -> NDArray[np.float64]:
        if self._covariance is None:
            if len(self.images) * self.pixels**2 > SLOW:
                say(
                    f"principal components of {len(self.images)} images of "
                    f"{self.pixels} values (kept for next time)"
                )
            self._covariance = covariance(self.images)
        return self._covariance


def covariance(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Covariance (population) of the pixels u in [0, 1] of uint8 [n, ...]: [N, N].

    The sums are exact: see _products.
    """
    n, pixels = len(images), images[0].size
    sums = np.zeros(pixels)
    products = np.zeros((pixels, pixels))
    for start in range(0, n, CHUNK):
        levels = images[start : start + CHUNK].reshape(-1, pixels).astype(np.float32) - 128
        sums += levels.sum(0, dtype=np.float64)
        products += _products(levels)
    mean = sums / n
    products /= n
    products -= np.multiply.outer(mean, mean)
    products /= 255**2
    return products


def _products(levels: NDArray[np.float32]) -> NDArray[np.float32]:
    """levels^T levels.

    Exact in float32: products of levels in -128..127 are integers of at most 2^14, and
    CHUNK = 2^10 of them sum to at most 2^24, up to which float32 has every integer.
    """
    return levels.T @ levels


def decompose(
    covariance: NDArray[np.float64], ratio: NDArray[np.float64], count: int
) -> Spectrum:
    """The `count` largest components of `covariance` [N, N]."""
    pixels, channels = len(covariance), len(ratio)
    per_pixel = np.repeat(ratio, pixels // channels)
    scaled = covariance / per_pixel / per_pixel[:, None]
    # scipy's can compute `count` of them alone, but no signal is heard meanwhile
    values, vectors = np.linalg.eigh(scaled)
    values, vectors = values[-count:], vectors[:, -count:]
    energy = (vectors**2).reshape(channels, -1, count).sum(1).T  # [K, C]
    total = np.diag(covariance).reshape(channels, -1).sum(1)
    ordered = np.ascontiguousarray(vectors[:, ::-1].T, np.float32)
    return Spectrum(np.maximum(values[::-1], 0), ordered, energy[::-1], total)


def of_few(images: NDArray[np.uint8], ratio: NDArray[np.float64], count: int) -> Spectrum:
    """`decompose` of the covariance of `images` [n, C, H, W], from their inner products.

    These are a matrix [n, n], whose eigenvalues are those of the covariance [N, N], apart
    from zeros (Turk & Pentland 1991, "Eigenfaces for recognition"). Components beyond the
    images' own have the eigenvalue 0, and equal shares.
    """
    n, channels = images.shape[:2]
    u = images.reshape(n, channels, -1).astype(np.float64)
    u -= u.mean(0)  # of integers, so that images of one color have exact zeros
    u /= 255
    total = (u**2).sum((0, 2)) / n
    u /= ratio[:, None]
    rows = u.reshape(n, -1)
    found, vectors = np.linalg.eigh(rows @ rows.T / n)
    kept = min(count, int((found > 1e-12 * found[-1]).sum()))
    values, shares = np.zeros(count), np.full((count, channels), 1 / channels)
    values[:kept] = found[::-1][:kept]
    components = vectors[:, ::-1][:, :kept].T @ rows  # of squared length n * value
    energy = (components**2).reshape(kept, channels, u.shape[2]).sum(2)
    shares[:kept] = energy / energy.sum(1, keepdims=True)
    ordered = np.zeros((count, rows.shape[1]), np.float32)
    ordered[:kept] = components / np.sqrt(n * values[:kept, None])
    return Spectrum(values, ordered, shares, total)
