"""The importance-weighted bound of the log likelihood of images (Burda et al. 2016).

Of an image u and K samples z_k of its posterior q(z | u),

    ln 1/K sum_k p(u | z_k) p(z_k) / q(z_k | u)

is at most ln p(u) in expectation. It rises with K: at K = 1 it is the ELBO, of a KL that
is sampled, and it converges to ln p(u).

References:
    Burda, Grosse & Salakhutdinov 2016, Importance Weighted Autoencoders, equation 8.
"""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from vae_sweep.vae import objective
from vae_sweep.vae.cohort import Cohort
from vae_sweep.vae.layers import of_runs, reparameterized
from vae_sweep.vae.streams import Streams

PIXELS = 2**18  # of the samples that a run decodes at once; decides which noise they get


class Bounds(NamedTuple):
    """Means over images, nats per image, float64 [R]: under the runs' own likelihoods (nan
    where beta is 0, which implies no noise), and under a Gaussian density at the variance
    that fits best."""

    own: Tensor
    calibrated: Tensor


def bounds(
    cohort: Cohort,
    images: Tensor,
    samples: int,
    seeds: list[int],
    mse: Tensor,
    pause: Callable[[], None] = lambda: None,
) -> Bounds:
    """The bounds of R runs in evaluation mode; takes `samples` decoder passes per image.

    Args:
        images: uint8 [n, C, H, W].
        samples: K.
        seeds: Of the runs; they alone decide what is sampled.
        mse: Mean squared pixel error of the images per channel, [R, C]: of the Gaussian
            density, and of likelihoods that take their noise from it.
        pause: Called before each pass of the decoders; may raise.
    """
    noises = Streams(seeds, "importance")
    rows, runs = max(1, PIXELS // cohort.pixels), len(seeds)
    totals = torch.zeros(runs, 2, dtype=torch.float64, device=images.device)
    for part in images.split(max(1, rows // samples)):
        n, u = len(part), cohort.pixels_of(part)
        *_, mu, logvar = cohort(u, u.new_zeros(runs, n, cohort.latent))
        log_sums = [totals.new_full((2, n), -math.inf)] * runs
        for done in range(0, samples, rows):
            pause()
            count = min(rows, samples - done)
            noise = noises.normal(n * count, cohort.latent).to(u)
            seen, mus, logvars = (v.repeat_interleave(count, 1) for v in (u, mu, logvar))
            log_weights = _log_weights(cohort, seen, mus, logvars, noise, mse)
            # run by run: a sum or a vector kernel of all may round by R
            for r, weights in enumerate(log_weights):
                log_sum = weights.unflatten(1, (n, count)).logsumexp(2)
                log_sums[r] = torch.logaddexp(log_sums[r], log_sum)
        for r, log_sum in enumerate(log_sums):
            totals[r] += (log_sum - math.log(samples)).sum(1)
    return Bounds(*(totals / len(images)).T)


def _log_weights(
    cohort: Cohort, u: Tensor, mu: Tensor, logvar: Tensor, noise: Tensor, mse: Tensor
) -> Iterator[Tensor]:
    """ln p(u | z) p(z) / q(z | u) at z = mu + exp(logvar / 2) * noise under both densities,
    float64 [2, B] of each run; u is [R or 1, B, C, H, W], the next three are [R, B, D]."""
    z = of_runs(reparameterized, mu, logvar, noise)
    u_hat, a = cohort.decode(z)
    u = u.expand_as(u_hat)
    for r, error in enumerate(mse):
        std = cohort.likelihoods.std(r, error).to(u)
        own = cohort.likelihoods.log_prob(r, u[r], u_hat[r], a[r], std).double()
        own = own.where((std != 0).all(), torch.nan)
        sse = objective.squared_error(u[r], u_hat[r]).sum((1, 2, 3)).double()
        variance, pixels = error.mean()[None], cohort.pixels
        best = objective.gaussian_log_likelihood(sse[:, None], variance, pixels)
        squares = noise[r].double() ** 2 + logvar[r] - z[r].double() ** 2
        yield torch.stack([own, best]) + squares.sum(1) / 2
