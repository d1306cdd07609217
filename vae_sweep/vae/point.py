"""What a grid point and its training images fix before any training."""

from typing import NamedTuple

import torch
from torch import Tensor

from vae_sweep.config import ERRORS, RunConfig
from vae_sweep.vae import objective, schedules
from vae_sweep.vae.heads import STANDARDIZED
from vae_sweep.vae.normalize import Affine, fit, moments


class Point(NamedTuple):
    """One run's constants, exact (float64)."""

    norm: Affine
    target: Affine
    zscore: Affine | None
    weights: tuple[float, float]  # (w_r, w_k) of the reduction
    beta: float  # the one the run trains towards
    variance: Tensor  # implied decoder variance [C], pixel units, at `beta`; or nan
    spread: float  # root mean square deviation of the targets from their mean

    @property
    def sigma(self) -> float:
        """Implied decoder noise in 8-bit levels; nan where beta implies none."""
        return objective.implied_sigma(self.variance)

    @property
    def beta_pixel(self) -> float:
        """The beta of SSE_u + beta * KL, in pixels, with the same noise; or nan."""
        return 2 * self.variance.mean().item()

    @property
    def tempering(self) -> float:
        """Nats of likelihood that the loss gives for a nat of KL: beta w_k / w_r."""
        return self.beta * self.weights[1] / self.weights[0]


def point(config: RunConfig, counts: Tensor, size: int) -> Point:
    """The constants of `config` on a training split with level `counts` [C, 256].

    `size` is H*W. Raises UserError where a normalization is undefined.
    """
    pixels, latent = len(counts) * size, config.model.latent
    target = fit(config.target_norm, counts)
    weights = objective.reduction_weights(config.reduction, pixels, latent)
    implied, power = objective.implied_variance, 1
    if config.likelihood == "l1":
        implied, power = objective.implied_laplace_variance, 2
    unit = implied(1.0, weights, target.scale).mean().item()
    beta = schedules.final_beta(config.beta, pixels, latent, unit, power)
    variance = implied(beta, weights, target.scale)
    # images of one color have no spread; a level's is as good a start as any
    std = moments(counts)[1].clamp(min=1 / 255) / target.scale
    return Point(
        norm=fit(config.norm, counts),
        target=target,
        zscore=fit("zscore", counts, f"head={STANDARDIZED}")
        if config.head == STANDARDIZED
        else None,
        weights=weights,
        beta=beta,
        variance=variance if config.likelihood in ERRORS else variance * torch.nan,
        spread=std.square().mean().sqrt().item(),
    )
