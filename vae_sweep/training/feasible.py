"""What cannot train on this machine, or trains without sense: said beforehand."""

import math

import numpy as np

from vae_sweep.config import MOST_STEPS, RunConfig, TrainConfig
from vae_sweep.errors import UserError

# Weights change by at most about the learning rate per step. A change below this does not
# even move a weight of a thousandth: the spacing of floats there is 2^-24 (2^-53) of it.
LEAST_CHANGE = {"fp32": 1e-3 * 2**-24, "fp64": 1e-3 * 2**-53}
ADAM_EPSILON = 1e-8  # PyTorch's: gradients far below it move nothing
LARGEST_RATE = float(np.finfo(np.float32).max)


def check_length(config: TrainConfig, steps: int) -> None:
    """Raises UserError where `steps`, of train.epochs, are more than a run may have."""
    if steps > MOST_STEPS:
        raise UserError(
            f"a run has at most {MOST_STEPS:,} steps, got train.epochs={config.epochs:g}, "
            f"which are {steps:,} on these images; set a smaller train.epochs"
        )


def check_rate(config: TrainConfig, steps: int) -> None:
    """Raises UserError where no step can move a weight, or a rate overflows.

    `steps` are all of the run.
    """
    if config.lr > LARGEST_RATE:
        raise UserError(f"train.lr must fit float32, got {config.lr:g}; set a smaller one")
    peak = config.lr * min(1.0, steps / (config.warmup(steps) + 1))
    clip = math.inf if config.clip is None else config.clip
    if config.optimizer == "sgd":
        change, what = peak * min(clip / (1 - config.momentum), 1e30), "gradient"
    else:
        change, what = peak * min(1.0, clip / ADAM_EPSILON), "step of Adam"
    least = LEAST_CHANGE["fp64" if config.precision == "fp64" else "fp32"]
    if change >= least:
        return
    got = [f"train.lr={config.lr:g}"]
    if peak < config.lr:
        got.append(f"train.lr_warmup={config.lr_warmup} in {steps} steps")
    if config.clip is not None:
        got.append(f"train.clip={config.clip:g}")
    raise UserError(
        f"a {what} must be able to change a weight in {config.precision}, which takes "
        f"{least:.1g} or more, got at most {change:.1g} by {', '.join(got)}; raise train.lr"
        + ("" if config.clip is None else " or train.clip")
    )


def warnings(config: RunConfig, steps: int) -> list[str]:
    """What trains, but hardly as it was meant; a sentence each."""
    train, found = config.train, []
    warmup = train.warmup(steps)
    if warmup >= steps and warmup:
        found.append(
            f"train.lr_warmup={warmup} is not over when the run ends at step {steps}, so "
            f"its learning rate never reaches train.lr; train.lr_warmup=auto is a tenth of "
            f"the run"
        )
    if train.optimizer != "adam" and train.lr * train.weight_decay > 1:
        found.append(
            f"train.lr={train.lr:g} times train.weight_decay={train.weight_decay:g} is "
            f"above 1, so each step flips the sign of the weights; lower one of them"
        )
    if train.optimizer != "sgd" and train.momentum != 0.9:
        found.append(
            f"train.momentum={train.momentum:g} has no effect with train.optimizer="
            f"{train.optimizer}; only sgd uses it"
        )
    return found + config.beta.warnings(steps)
