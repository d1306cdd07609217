"""The closed-form optimum of linear VAEs with a Gaussian decoder."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vae_sweep.data.spectrum import Spectrum


class Optimum(NamedTuple):
    """A linear VAE with a Gaussian decoder at its best.

    `variance` is the decoder's, in target space. `kl`, `elbo` and `elbo_calibrated`
    (pixel space) are in nats per image, `mse` per element in target space, `mse_pixel`
    in [0, 1] space, with z sampled. Without noise KL is inf and the ELBO nan. Directions
    whose eigenvalue exceeds `threshold`, v, are active. `kl_error`, nats, is what `kl` may
    be off by, to first order, where the eigenvalues are not exact.
    """

    variance: float
    threshold: float
    active_units: float  # a count
    kl: float
    mse: float
    mse_pixel: float
    elbo: float
    elbo_calibrated: float
    kl_error: float


def log_density(variance: float, sse: float, pixels: int) -> float:
    """Of a Gaussian, nats, at a squared error summed over `pixels`; nan without noise."""
    if variance <= 0:
        return math.nan
    return -pixels / 2 * math.log(2 * math.pi * variance) - sse / (2 * variance)


class LinearGaussian:
    """The optima of linear VAEs with `latent` latents on targets of `scale` [C].

    Probabilistic PCA (Tipping & Bishop 1999, Lucas et al. 2019): direction i of the
    targets' principal components, of eigenvalue lam_i, is active iff lam_i > v and
    i <= D. It then costs 1/2 ln(lam_i / v) nats and leaves the squared error v, else
    lam_i.
    """

    def __init__(
        self, spectrum: Spectrum, scale: NDArray[np.float64], latent: int, size: int
    ):
        """`size` is H*W."""
        unit = np.sqrt(np.mean(scale**2))
        self.size, self.pixels, self.scale = size, size * len(scale), scale
        self.values = spectrum.values[:latent] / unit**2  # lam, at most D of them
        error = np.zeros(1) if spectrum.error is None else spectrum.error[:latent]
        self.error = np.broadcast_to(error / unit**2, self.values.shape)
        self.total = (spectrum.total / scale**2).sum()  # of all lam
        # squared error in pixels: all of it, and of a unit of each direction's
        self.total_pixel = spectrum.total.sum()
        self.to_pixels = (spectrum.shares[:latent] * scale**2).sum(1)

    def at(self, variance: float, tempering: float = 1.0) -> Optimum:
        """The optimum for a decoder of `variance` in target space.

        The loss is `tempering` * KL - ln p, so that v = tempering * variance.
        """
        v = tempering * variance
        lam = self.values[self.values > v]
        kl = 0.5 * float(np.log(lam / v).sum()) if v > 0 else math.inf if len(lam) else 0.0
        sse = self.total - (lam - v).sum()
        sse_pixel = self.total_pixel - ((lam - v) * self.to_pixels[: len(lam)]).sum()
        sse, sse_pixel = max(float(sse), 0.0), max(float(sse_pixel), 0.0)
        jacobian = self.size * float(np.log(self.scale).sum())
        calibrated = log_density(sse_pixel / self.pixels, sse_pixel, self.pixels)
        return Optimum(
            variance=variance,
            threshold=v,
            active_units=len(lam),
            kl=kl,
            mse=sse / self.pixels,
            mse_pixel=sse_pixel / self.pixels,
            elbo=log_density(variance, sse, self.pixels) - jacobian - kl,
            elbo_calibrated=calibrated - kl,
            kl_error=0.5 * float((self.error[: len(lam)] / lam).sum()),
        )

    def learned(self, tempering: float) -> Optimum:
        """The optimum where the decoder's one variance in target space is learned too.

        Its variance is then the mean squared error: with q active directions
        N * variance = q * v + the other lam's sum, and v = tempering * variance.
        """
        q = np.arange(len(self.values) + 1)
        rest = self.total - np.concatenate([[0.0], np.cumsum(self.values)])
        free = self.pixels - tempering * q
        possible = np.divide(rest, free, where=free > 0, out=np.full(len(q), np.inf))
        variance = np.maximum(possible, 0)
        v = tempering * variance
        active = (self.values[None, :] > v[:, None]).sum(1)
        optima = [self.at(x, tempering) for x in variance[(active == q) & (variance > 0)]]
        if not optima:  # the latents hold all there is: the density has no upper limit
            return self.at(0.0)
        if len(optima) == 1:  # of which the KL may be infinite
            return optima[0]
        return max(optima, key=lambda o: o.elbo + o.kl - tempering * o.kl)

    def curve(self, points: int = 64) -> tuple[list[float], list[float]]:
        """(KL in nats per image, PSNR in dB) of optima, the noise falling from where
        all units are unused to a thousandth of the least direction's deviation. Empty
        where the images do not vary: there is nothing to trade."""
        if self.values[0] <= 0:
            return [], []
        low = max(self.values[-1], self.values[0] * 1e-6) * 1e-6
        optima = [self.at(v) for v in np.geomspace(self.values[0], low, points)]
        psnr = [-10 * math.log10(max(o.mse_pixel, 1e-30)) for o in optima]
        return [o.kl for o in optima], psnr
