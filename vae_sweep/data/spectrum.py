"""The principal components of a training split: what theory needs to know of the images."""

import hashlib
import warnings
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vae_sweep.data.cache import cached, say

VERSION = 2  # of the cache: raise it when the same images give other numbers
LARGEST = 256 * 256 * 3  # pixels N, of which there is a spectrum
WHOLE = 64 * 64  # pixels N, up to which the covariance [N, N] is decomposed
LEAST = 512  # components kept of these, where there are so many
STEP = 64  # of larger images as many as there are latents, in steps of so many
MORE = 32  # directions beside them that are searched, so that the last ones converge, too
ITERATIONS = 20  # at most; some 8 reach TOLERANCE
TOLERANCE = 1e-7  # of all variance: an eigenvalue's residual
CHUNK = 1024  # images; see _products
FEW = 2  # images fewer than 1/FEW of the pixels: their inner products are the less to do
MEMORY = 1e9  # bytes of such images
SLOW = 2e12  # multiplications that take seconds, so a line says what goes on


class Spectrum(NamedTuple):
    """Eigenvalues of the covariance of u_c / ratio_c over a training split, float64.

    `ratio` [C] is a normalization's scale_c over its root mean square `unit`, so that
    normalizations of one shape share a spectrum: those of t are `values` / unit^2.
    `values` [K] descend; `vectors` [K, N], float32, are the unit eigenvectors; `shares`
    [K, C] say how much of each lies in each channel (rows sum to 1); `total` [C] is the
    variance of the pixels u, summed. An exact eigenvalue lies within `error` [K] of each of
    `values`; None where the covariance was decomposed as a whole.
    """

    values: NDArray[np.float64]
    vectors: NDArray[np.float32]
    shares: NDArray[np.float64]
    total: NDArray[np.float64]
    error: NDArray[np.float64] | None = None


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
        count = max(LEAST, latent) if self.pixels <= WHOLE else -(-latent // STEP) * STEP
        count = min(self.pixels, count)
        key = (count, *ratio.tolist())
        if key not in self.known:
            self.known[key] = self._read(ratio, count)
        return self.known[key]

    def _read(self, ratio: NDArray[np.float64], count: int) -> Spectrum:
        named = hashlib.sha256(ratio.tobytes()).hexdigest()[:8]
        name = f"spectrum-v{VERSION}-{self.digest}-{named}-k{count}.npz"

        def make() -> dict[str, NDArray]:
            found = self._found(ratio, count)._asdict()
            return {name: array for name, array in found.items() if array is not None}

        def fits(arrays: dict[str, NDArray]) -> bool:
            spectrum = Spectrum(**arrays)
            shapes = spectrum.shares.shape, spectrum.vectors.shape
            return shapes == ((count, len(ratio)), (count, self.pixels))

        return Spectrum(**cached(self.cache / name, make, fits))

    def _found(self, ratio: NDArray[np.float64], count: int) -> Spectrum:
        """By the way that is the least to do."""
        n, is_small = len(self.images), self.pixels <= WHOLE
        if FEW * n < self.pixels and (is_small or 8 * n * self.pixels <= MEMORY):
            return of_few(self.images, ratio, count)
        if is_small:
            return decompose(self.covariance(), ratio, count)
        return leading(self.images, ratio, count)

    @cached_property
    def mean(self) -> NDArray[np.float64]:
        """The mean image [C, H, W], in pixels u."""
        return self.images.mean(0, dtype=np.float64) / 255

    def covariance(self) -> NDArray[np.float64]:
        """Of the images' pixels u, float64 [N, N]; computed once."""
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
    energy = _energy(vectors, channels)
    total = np.diag(covariance).reshape(channels, -1).sum(1)
    ordered = np.ascontiguousarray(vectors[:, ::-1].T, np.float32)
    return Spectrum(np.maximum(values[::-1], 0), ordered, energy[::-1], total)


def _energy(vectors: NDArray[np.float64], channels: int) -> NDArray[np.float64]:
    """Of unit vectors [N, K], what lies in each channel: [K, C]."""
    return (vectors**2).reshape(channels, -1, vectors.shape[1]).sum(1).T


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


def leading(images: NDArray[np.uint8], ratio: NDArray[np.float64], count: int) -> Spectrum:
    """The `count` largest components of the covariance of `images` [n, C, H, W], without
    that covariance: LOBPCG (Knyazev 2001) only multiplies by it, some 8 times."""
    from scipy.sparse.linalg import LinearOperator, lobpcg  # slow, and few commands need it

    n, channels = images.shape[:2]
    flat = images.reshape(n, -1)
    pixels = flat.shape[1]
    mean = flat.mean(0, dtype=np.float64).astype(np.float32)
    divisor = (255 * np.repeat(ratio, pixels // channels)).astype(np.float32)

    def chunks():
        for start in range(0, n, CHUNK):
            yield (flat[start : start + CHUNK] - mean) / divisor

    def times(x: NDArray) -> NDArray[np.float64]:
        block = np.ascontiguousarray(x.reshape(pixels, -1), np.float32)
        product = np.zeros(block.shape)
        for u in chunks():
            product += u.T @ (u @ block)
        return product / n

    variance = sum((u.astype(np.float64) ** 2).sum(0) for u in chunks()) / n
    of_channels = np.reshape(variance, (channels, -1)).sum(1)
    most = min(count + MORE, pixels)
    say(
        f"the first {count} principal components of {n} images of {pixels} values (kept "
        f"for next time)"
    )
    start = np.random.default_rng(0).normal(size=(pixels, most))
    operator: Any = LinearOperator((pixels, pixels), times, matmat=times, dtype=float)  # pyright: ignore
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the last directions need not converge
        values, vectors = lobpcg(
            operator,
            start,
            tol=TOLERANCE * of_channels.sum(),
            maxiter=ITERATIONS,
            largest=True,
        )
    values, vectors = np.maximum(values[:count], 0), vectors[:, :count]
    error = np.linalg.norm(times(vectors) - values * vectors, axis=0)
    shares = _energy(vectors, channels)
    return Spectrum(
        values,
        np.ascontiguousarray(vectors.T, np.float32),
        shares / shares.sum(1, keepdims=True),
        of_channels * ratio**2,
        error,
    )
