"""What a grid point and its training images fix before any training."""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from vae_sweep import options
from vae_sweep.config import RunConfig
from vae_sweep.errors import UserError
from vae_sweep.vae import checks, heads, likelihoods, normalize, objective, schedules
from vae_sweep.vae.heads import Head
from vae_sweep.vae.likelihoods import Likelihood
from vae_sweep.vae.normalize import Affine
from vae_sweep.vae.schedules import Implied

EDGE = 0.01  # see `start`
DOUBLINGS, HALVINGS = 20, 100  # of the interval in which a head's output is searched


class Start(NamedTuple):
    """Where the decoder's last layer starts, per channel [C]: as center + gain * W h."""

    center: Tensor
    gain: Tensor


class Point(NamedTuple):
    """One run's constants, exact (float64)."""

    norm: Affine
    target: Affine
    zscore: Affine | None
    weights: tuple[float, float]  # (w_r, w_k) of the reduction
    beta: float  # the one the run trains toward
    variance: Tensor  # implied decoder variance [C], pixel units, at `beta`; or nan
    spread: float  # root mean square deviation of the targets from their mean
    start: Start | None  # None: at random

    def normalization(self) -> dict[str, dict[str, list[float]]]:
        """Its normalizations as a summary states them."""
        affines = {"norm": self.norm, "target": self.target, "zscore": self.zscore}
        return {
            name: {"shift": a.shift.tolist(), "scale": a.scale.tolist()}
            for name, a in affines.items()
            if a is not None
        }

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
        return objective.tempering(self.beta, self.weights)


def check(config: RunConfig) -> None:
    """Raises UserError where options do not fit one another, or one cannot be had: what can
    be said before the images are read."""
    _check_own(config)
    head, likelihood = heads.named(config.head), likelihoods.named(config.likelihood)
    name = config.likelihood
    if likelihood.takes == "logit":
        if not normalize.is_identity(config.target_norm):
            raise UserError(
                f"likelihood={name} is defined on values in [0, 1] and needs target=unit, "
                f"got target={config.target_norm}; set target=unit"
            )
        if not head.is_unit:
            *some, last = [word for word, h in heads.OURS.items() if h.is_unit]
            raise UserError(
                f"likelihood={name} needs a head with outputs in (0, 1), got "
                f"head={config.head}; set head={', '.join(some)} or {last}"
            )
    objective.check_reduction(config.reduction, name, likelihood.is_squared)
    implied = Implied(1.0 if likelihood.noise == "implied" else math.nan)
    if math.isnan(schedules.final_beta(config.beta, 1, 1, implied)):
        raise UserError(
            f"beta={config.beta.name} solves for the noise that beta implies, but "
            f"likelihood={name} has one of its own or none; set beta=1"
        )


def _check_own(config: RunConfig) -> None:
    """Raises UserError where a user's own option is not what it says."""
    for group in ("norm", "target"):
        if options.is_own(name := getattr(config, group)):
            checks.own_norm(name, group)
    if options.is_own(config.head):
        checks.own_head(config.head)
    if options.is_own(config.likelihood):
        checks.own_likelihood(config.likelihood)
    if options.is_own(config.reduction):
        checks.own_reduction(config.reduction)
    if options.is_own(config.beta.name):
        checks.own_schedule(config.beta)


def point(config: RunConfig, counts: Tensor, size: int) -> Point:
    """The constants of `config` on a training split with level `counts` [C, 256].

    `size` is H*W. Raises UserError where a normalization is undefined.
    """
    pixels, latent = len(counts) * size, config.model.latent
    target = normalize.fit(config.target_norm, counts)
    weights = objective.reduction_weights(config.reduction, pixels, latent)
    likelihood, head = likelihoods.named(config.likelihood), heads.named(config.head)
    implied = Implied(math.nan)
    if likelihood.noise == "implied":
        one, two = (
            likelihood.variance(objective.tempering(beta, weights), target.scale)
            for beta in (1.0, 2.0)
        )
        implied = Implied(one.mean().item(), (two / one).mean().log2().item())
    beta = schedules.final_beta(config.beta, pixels, latent, implied)
    variance = torch.full_like(target.scale, torch.nan)
    if likelihood.noise == "implied":
        tempering = objective.tempering(beta, weights)
        variance = likelihood.variance(tempering, target.scale)
    mean, std = normalize.moments(counts)
    # images of one color have no spread; a level's is as good a start as any
    mean, std = target.forward(mean[:, None, None]).flatten(), std.clamp(min=1 / 255)
    std = std / target.scale
    needs = f"head={config.head}" if head.onto == "standardized" else None
    zscore = normalize.fit("zscore", counts, needs) if needs else None
    begin = None
    if config.model.output_init == "data":
        try:
            given = torch.stack([*target, mean, std, *(zscore or ())])
            numbers = tuple(map(tuple, given.tolist()))
            begin = _known_start(config.head, config.likelihood, numbers)
        except ValueError:
            raise UserError(
                f"model.output_init=data needs a head that can output the mean of the "
                f"targets and has a slope there, got head={config.head}; set "
                f"model.output_init=random"
            ) from None
    return Point(
        norm=normalize.fit(config.norm, counts),
        target=target,
        zscore=zscore,
        weights=weights,
        beta=beta,
        variance=variance,
        spread=std.square().mean().sqrt().item(),
        start=begin,
    )


@lru_cache(1_000)  # the points of a grid have few that differ
def _known_start(head: str, likelihood: str, given: tuple[tuple[float, ...], ...]) -> Start:
    """As `start`, of names and of rows: the target's shift and scale, mean, std, and the
    z-score's shift and scale of a head that standardizes."""
    shift, scale, mean, std, *zscore = torch.tensor(given, dtype=torch.float64)
    return start(
        heads.named(head),
        likelihoods.named(likelihood),
        Affine(shift, scale),
        Affine(*zscore) if zscore else None,
        mean,
        std,
    )


def start(
    head: Head,
    likelihood: Likelihood,
    target: Affine,
    zscore: Affine | None,
    mean: Tensor,
    std: Tensor,
) -> Start:
    """Where a last layer starts whose images are to be the targets' mean, with deviations
    that are as many of the targets' deviations as those of W h are of 1.

    A mean outside the head's range, or at its end, is moved into it by 1 % of the range or
    of the deviation, whichever is less. What standardizes is taken as if its statistics
    were 0 and 1.

    Args:
        zscore: Of a head that standardizes, the training split's.
        mean, std: Of the targets, in target space, float64 [C].

    Raises:
        ValueError: The head has no such output, or is flat there.
    """
    gain, bias = head.affine(target, zscore)
    low, high = gain * head.low + bias, gain * head.high + bias
    edge = EDGE * torch.minimum(high - low, std)
    wanted = mean.clamp(low + edge, high - edge)

    def output(a: Tensor) -> Tensor:
        if likelihood.mean is not None:
            return likelihood.mean(head.logits(a))
        return gain * head.function(a) + bias

    center = _solved(output, wanted).requires_grad_()
    [slope] = torch.autograd.grad(output(center).sum(), [center])
    if not (slope.isfinite() & (slope != 0)).all():
        raise ValueError("the head is flat there")
    return Start(center.detach(), std / slope)


def _solved(function: Callable[[Tensor], Tensor], wanted: Tensor) -> Tensor:
    """Where an elementwise monotone function has the values `wanted` [C], float64."""
    high = torch.ones_like(wanted)
    for _ in range(DOUBLINGS):
        beyond = (function(high) - wanted) * (function(-high) - wanted) > 0
        if not beyond.any():
            break
        high = torch.where(beyond, 2 * high, high)
    low, rises = -high, function(high) > function(-high)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if ((middle == low) | (middle == high)).all():  # no number is between them
            break
        above = (function(middle) > wanted) == rises
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    found = (low + high) / 2
    if not torch.allclose(function(found), wanted, rtol=1e-6, atol=1e-9):
        raise ValueError("the function has no such value")
    return found
