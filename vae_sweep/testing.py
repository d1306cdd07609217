"""Checks of options, for the tests of whoever writes one: `testing.check_head(SOFTSIGN)`.

Each takes an object, or the name of one, ours (`"tanh"`) or `"module:object"`. It returns
nothing where the object is what it says, and raises UserError with what was found where it
is not. A grid checks the options of its points in the same way before anything trains.
"""

import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np
from hydra import compose, initialize_config_dir
from PIL import Image
from torch import nn

from vae_sweep import options
from vae_sweep.command.entry import CONF, config_of
from vae_sweep.config import RunConfig
from vae_sweep.data import own
from vae_sweep.data.dataset import load
from vae_sweep.errors import UserError
from vae_sweep.records import loggers
from vae_sweep.records.reader import PICTURES
from vae_sweep.training import metrics
from vae_sweep.training.metrics import Metric
from vae_sweep.vae import (
    checks,
    heads,
    likelihoods,
    networks,
    normalize,
    objective,
    own_network,
    schedules,
)
from vae_sweep.vae.adapter import Stacked
from vae_sweep.vae.heads import Head
from vae_sweep.vae.likelihoods import Likelihood
from vae_sweep.vae.normalize import Norm
from vae_sweep.vae.objective import Reduction
from vae_sweep.vae.schedules import Schedule

Shape = tuple[int, int, int]


def _named(group: str, given: Any, named: Callable[[str], Any], kind: Any) -> Any:
    """(object, what it is called in a message); UserError where it is no `kind`."""
    what = f"{group}={given}" if isinstance(given, str) else group
    found = named(given) if isinstance(given, str) else given
    if not (callable(found) if kind is Callable else isinstance(found, kind)):
        wanted = "a function" if kind is Callable else f"a {kind.__name__}"
        raise UserError(f"{what} must be {wanted}, got a {type(found).__name__}")
    return found, what


def check_norm(norm: Norm | str) -> None:
    """A function: level counts [C, 256] -> Affine. Raises UserError where it gives no
    affine map that can be inverted, or not the same one twice."""
    checks.check_norm(*_named("norm", norm, normalize.named, Callable))


def check_head(head: Head | str) -> None:
    """Raises UserError where outputs leave the range that it declares or stay within,
    where its derivative is not that of its function by finite differences, where no
    gradient flows, or where it is not elementwise."""
    checks.check_head(*_named("head", head, heads.named, Head))


def check_likelihood(likelihood: Likelihood | type[Likelihood] | str) -> None:
    """Raises UserError where a density does not integrate to 1, masses do not sum to 1,
    log_prob is not elementwise, or where what it says of its noise is not so."""
    if isinstance(likelihood, type):
        likelihood = likelihood()
    checks.check_likelihood(
        *_named("likelihood", likelihood, likelihoods.named, Likelihood)
    )


def check_reduction(reduction: Reduction | str) -> None:
    """Raises UserError where the two weights are no positive numbers."""
    checks.check_reduction(*_named("reduction", reduction, objective.reduction, Callable))


def check_schedule(
    schedule: Schedule | Callable[..., Schedule] | str, **parameters: Any
) -> None:
    """Raises UserError where the final beta or the multiplier is not finite or below 0, or
    the multiplier does not end at 1.

    Args:
        schedule: The object, or a function of `parameters` that returns it.
        parameters: The keys beta.*; those that are missing have their defaults.
    """
    if isinstance(schedule, str):
        typed = [f"beta.{key}={value}" for key, value in parameters.items()]
        config = _config(f"beta={schedule}", *typed).beta
        found, what = schedules.schedule(config), f"beta={schedule}"
    else:
        made = schedule(**parameters) if callable(schedule) else schedule
        found, what = _named("beta", made, str, Schedule)
    checks.check_schedule(found, what)


def check_network(
    network: Callable[..., nn.Module] | str,
    shape: Shape = (3, 32, 32),
    latent: int = 8,
    **parameters: Any,
) -> None:
    """Raises UserError where a network's outputs are not what they must be, or where
    several runs beside one another do not give what each gives alone, bit for bit on CPU.

    Args:
        network: A class of torch.nn.Module for one run, or a function that makes one.
        shape: The images' (C, H, W).
        latent: D, the size of mu and logvar.
        parameters: The keys model.*; those that are missing have their defaults.
    """
    if isinstance(network, str) and not options.is_own(network):
        typed = [f"model.{key}={value}" for key, value in parameters.items()]
        config = _config(f"model={network}", f"model.latent={latent}", *typed)
        networks.check(config, shape)
        own_network.verify_runs(
            lambda generators: networks.build(config.model, shape, generators),
            shape,
            latent,
        )
        return
    found: Any = options.own("model", network) if isinstance(network, str) else network
    what = f"model={network}" if isinstance(network, str) else "model"
    if own_network.accept(found) is None:
        raise UserError(f"{what} must be {own_network.WHAT}, got a {type(found).__name__}")

    def make() -> nn.Module:
        return found(shape, latent, **parameters)

    try:
        own_network.verify(make, shape, latent)
        own_network.verify_runs(
            lambda generators: Stacked(make, shape, latent, generators), shape, latent
        )
    except UserError as error:
        raise UserError(f"{what}: {error}") from None


def check_data(source: Any, /, **parameters: Any) -> None:
    """Raises UserError where a source does not give uint8 images of one shape, the same
    ones when it is asked again, or where its random transform does not draw as it must.

    Args:
        source: A function or class of `parameters`, or a torch Dataset.
        parameters: The keys data.*; those that are missing have their defaults.
    """
    if isinstance(source, str) and not options.is_own(source):
        typed = [f"data.{key}={value}" for key, value in parameters.items()]
        config = _config(f"data={source}", *typed).data
        found = [load(config, lambda line: None).fingerprint for _ in range(2)]
        if found[0] != found[1]:
            raise UserError(f"data={source}: other images when it is asked again")
    elif isinstance(source, str):
        own.check(options.own("data", source), f"data={source}", **parameters)
    else:
        own.check(source, **parameters)


def check_metric(metric: Metric | str) -> None:
    """Raises UserError where a metric does not give a number per image and run, or where a
    run's depends on those beside it."""
    if isinstance(metric, str):
        for each in metrics.named(metric):
            metrics.check(each, f"metric={metric}")
        return
    metrics.check(*_named("metric", metric, str, Metric))


def check_logger(logger: Callable[[RunConfig], Any] | str, *overrides: str) -> None:
    """Opens a logger for a run in a temporary folder, tells it rows, pictures and the
    end. Raises UserError where it lacks a method or raises.

    Args:
        logger: A class that is called with a RunConfig, or a function that makes one.
        overrides: Of the run, as they are typed: "log.wandb.mode=offline".
    """
    what = f"log={logger}" if isinstance(logger, str) else "log"
    made = loggers.named(logger) if isinstance(logger, str) else logger
    rows: list[dict[str, float]] = [
        {"step": 0.0, "epoch": 0.0, "val/kl": 3.5, "batch/loss": 4.5},
        {"step": 5.0, "batch/loss": 4.5},
        {"step": 10.0, "epoch": 1.0, "val/kl": 3.5},
    ]
    with tempfile.TemporaryDirectory() as folder:
        config = _config("sweep=check", f"runs='{folder}'", *overrides)
        config.run_dir.mkdir(parents=True)
        pictures = [config.run_dir / name for name in PICTURES]
        for picture in pictures:
            Image.fromarray(np.zeros((16, 64, 3), np.uint8)).save(picture)
        if wrong := loggers.complaint(made) if callable(made) else "cannot be called":
            raise UserError(f"{what} {wrong}")
        try:
            opened: Any = made(config)
            if lacks := loggers.missing(opened):
                raise UserError(f"{what} makes a {type(opened).__name__} that has {lacks}")
            for row in rows:
                opened.row(row)
                for picture in pictures if "epoch" in row else ():
                    opened.images(int(row["step"]), picture)
            opened.finish({"status": "finished", "steps": 10, "final": rows[-1]})
        except UserError:
            raise
        except Exception as error:
            said = options.raised(error, str(logger))
            raise UserError(f"{what}: raised {said}") from error


def _config(*overrides: str) -> RunConfig:
    """A point, as the command line composes it."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return config_of(compose("config", list(overrides)))
