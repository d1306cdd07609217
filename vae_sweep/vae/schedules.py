"""Pure functions of the step: beta and the learning rate, as whole tables."""

import numpy as np

from vae_sweep.config import (
    BetaConfig,
    CyclicalBeta,
    MatchedBeta,
    NormalizedBeta,
    TrainConfig,
    WarmupBeta,
)


def final_beta(
    config: BetaConfig, pixels: int, latent: int, unit_variance: float, power: int = 1
) -> float:
    """The beta that a run trains towards, at which its ELBO and noise are quoted.

    `pixels` N, `latent` D; the implied decoder variance (pixel units squared, mean over
    channels) is `unit_variance` * beta^`power`: 1 for squared errors, 2 for absolute.
    """
    if isinstance(config, MatchedBeta):
        return ((config.sigma / 255) ** 2 / unit_variance) ** (1 / power)
    if isinstance(config, NormalizedBeta):
        return config.beta_norm * pixels / latent
    return config.value


def beta_multipliers(config: BetaConfig, steps: int) -> np.ndarray:
    """beta / final beta for steps 0 ... `steps`, float64 [steps + 1]."""
    progress = np.arange(steps + 1) / steps
    if isinstance(config, WarmupBeta):
        ramp = max(config.fraction, 1 / steps) if config.fraction > 0 else 0
        return np.minimum(progress / ramp, 1) if ramp else np.ones(steps + 1)
    if isinstance(config, CyclicalBeta):
        phase = (progress * config.cycles) % 1
        phase[-1] = 1  # the last cycle ends at full weight, not at a new start
        return np.minimum(phase / config.ramp, 1)
    return np.ones(steps + 1)


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
