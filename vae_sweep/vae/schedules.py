"""Pure functions of the step: beta and the learning rate, as whole tables."""

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vae_sweep import options
from vae_sweep.config import BetaConfig, TrainConfig
from vae_sweep.errors import UserError

Progress = NDArray[np.float64]  # shares of a run's steps, from 0 to 1


class Implied(NamedTuple):
    """The decoder variance that beta implies, pixel units squared, mean over channels:
    `at_one` * beta^`power`. nan where the likelihood has a noise of its own or none."""

    at_one: float
    power: float = 1.0

    def beta(self, variance: float) -> float:
        """The beta that implies `variance`."""
        return (variance / self.at_one) ** (1 / self.power)


@dataclass(frozen=True)
class Schedule:
    """What beta is over a run.

    Args:
        final: The beta that a run trains toward, at which its ELBO and noise are quoted: a
            number, or a function of the pixels N, the latent size D, and the Implied noise.
        multiplier: beta / final beta, a function of the share of the steps done, an array
            from 0 to 1; 1 throughout unless set.
    """

    final: float | Callable[[int, int, Implied], float]
    multiplier: Callable[[Progress], Progress] = np.ones_like


def constant(*, value: float) -> Schedule:
    """The same beta at every step."""
    return Schedule(value)


def warmup(*, value: float, fraction: float) -> Schedule:
    """Linear from 0 to `value` over the first `fraction` of the steps."""
    return Schedule(value, _rising(fraction))


def _rising(fraction: float) -> Callable[[Progress], Progress]:
    """Linear from 0 to 1 over the first `fraction` of the steps."""
    if not fraction:
        return np.ones_like
    return lambda progress: np.minimum(progress / fraction, 1)


def cyclical(*, value: float, cycles: int, ramp: float) -> Schedule:
    """`cycles` ramps from 0 to `value`, each rising for `ramp` of it (Fu et al. 2019)."""

    def multiplier(progress: Progress) -> Progress:
        phase = (progress * cycles) % 1
        phase[progress == 1] = 1  # the last cycle ends at full weight, not at a new start
        return np.minimum(phase / ramp, 1)

    return Schedule(value, multiplier)


def matched(*, sigma: float, fraction: float) -> Schedule:
    """Solves for beta so that the implied decoder noise is `sigma` 8-bit levels, and rises
    to it over the first `fraction` of the steps; 1 where the likelihood has a noise of its
    own or none, so that beta implies none."""

    def final(pixels: int, latent: int, implied: Implied) -> float:
        return 1.0 if math.isnan(implied.at_one) else implied.beta((sigma / 255) ** 2)

    return Schedule(final, _rising(fraction))


def normalized(*, beta_norm: float) -> Schedule:
    """beta = beta_norm * N / D (Higgins et al. 2017)."""
    return Schedule(lambda pixels, latent, implied: beta_norm * pixels / latent)


OURS: dict[str, Callable[..., Schedule]] = {
    f.__name__: f for f in (constant, warmup, cyclical, matched, normalized)
}


def schedule(config: BetaConfig) -> Schedule:
    """The schedule of a config; raises UserError where a user's own is none."""
    name, keys = config.name, config.model_dump(exclude={"name"})
    if not options.is_own(name):
        return OURS[name](**keys)
    what = "a Schedule(final, multiplier), or a function of keywords that returns one"
    return options.find("beta", name, {}, lambda given: _made(name, given, keys), what)


def _made(name: str, given: Any, keys: dict[str, Any]) -> Schedule | None:
    if not callable(given) or inspect.isclass(given):
        return given if isinstance(given, Schedule) else None
    try:
        made = given(**keys)
    except (Exception, SystemExit) as error:
        raise UserError(f"beta={name} raised {options.raised(error, name)}") from None
    return made if isinstance(made, Schedule) else None


def final_beta(config: BetaConfig, pixels: int, latent: int, implied: Implied) -> float:
    """The beta that a run trains toward; pixels N, latent D."""
    final = schedule(config).final
    return final(pixels, latent, implied) if callable(final) else float(final)


def beta_multipliers(config: BetaConfig, steps: int) -> NDArray[np.float64]:
    """beta / final beta for steps 0 ... `steps`, float64 [steps + 1]."""
    progress = np.arange(steps + 1) / steps
    return np.asarray(schedule(config).multiplier(progress), dtype=np.float64)


def rate_multipliers(config: TrainConfig, steps: int) -> np.ndarray:
    """Learning rate / `lr` of the updates 0 ... `steps` - 1, float64 [steps].

    Linear warmup over `config.warmup(steps)` steps, times cosine decay to 0 at `steps`
    (Loshchilov & Hutter 2017) or constant.
    """
    step = np.arange(steps)
    warmup = np.minimum(1.0, (step + 1) / (config.warmup(steps) + 1))
    if config.lr_schedule == "cosine":
        return warmup * 0.5 * (1 + np.cos(np.pi * step / steps))
    return warmup
