"""Points that are to train, validated against their data and device before any does."""

import math
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import torch

from vae_sweep.config import RunConfig
from vae_sweep.data.dataset import Dataset
from vae_sweep.errors import UserError
from vae_sweep.records.checkpoint import State, StateShape
from vae_sweep.records.run_folder import RunFolder
from vae_sweep.system import machine
from vae_sweep.training import feasible, metrics
from vae_sweep.training.device import check_precision, resolve_device
from vae_sweep.training.locate import Located
from vae_sweep.training.step import state_shape
from vae_sweep.vae import heads, networks
from vae_sweep.vae.point import Point, point

SHARE = 0.9  # of the memory, that one run and its images may take


class Prepared(NamedTuple):
    """A validated point with its data, folder and, where interrupted, checkpoint."""

    config: RunConfig
    dataset: Dataset
    point: Point
    folder: RunFolder
    device: torch.device
    steps: int
    step: int = 0  # the update it goes on from, as far as is known before it is claimed
    state: State | None = None
    evaluated: bool = False  # whether the row of the checkpoint's step is there

    @property
    def cohort_key(self) -> Hashable:
        """Runs of equal key may train as one; their learning rates may differ."""
        c = self.config
        train = c.train.model_copy(update={"lr": 1.0})
        start = self.step, self.state is not None, self.evaluated
        log = c.log.reconstructions, c.log.every
        return self.device, c.model, c.data, c.metric, train, log, start


def prepare(located: list[Located], tell: Callable[[str], None]) -> list[Prepared]:
    """Validates points. Tells warnings of what trains without sense. Writes nothing.

    Raises:
        UserError: A point cannot be trained on its data and device; the first such.
    """
    prepared = [_prepared(each) for each in located]
    _warn(prepared, tell)
    return prepared


def _prepared(located: Located) -> Prepared:
    _, config, dataset, folder, steps = located
    device = resolve_device(config.train.device)
    check_precision(config.train, device)
    _, height, width = dataset.shape
    _check_memory(config, dataset.shape, device)  # before a network of a user's is made
    networks.check(config, dataset.shape)
    heads.check(config.head, config.train.batch_size * height * width)
    latent, precision = config.model.latent, config.train.precision
    metrics.check_own(config.metric, dataset.shape, latent, precision, device)
    constants = point(config, dataset.counts, height * width)
    _check_weight(config, constants)
    return Prepared(config, dataset, constants, folder, device, steps)


def _check_weight(config: RunConfig, point: Point) -> None:
    """Raises UserError where the KL's weight in the loss over- or underflows float32."""
    weight = point.beta * point.weights[1]
    finite = math.isfinite(point.beta) and bool(point.variance.isinf().logical_not().all())
    if finite and (point.beta == 0 or 1e-30 <= weight <= 1e18):
        return
    raise UserError(
        f"the KL's weight in the loss must be 0 or from 1e-30 to 1e+18, got {weight:.3g} "
        f"of beta={config.beta.label}, reduction={config.reduction} and these images; "
        f"set another {config.beta.key}"
    )


def _check_memory(
    config: RunConfig, shape: tuple[int, int, int], device: torch.device
) -> None:
    """Raises UserError where one run on images (C, H, W) is larger than the memory."""
    parameters, activations = networks.size(config.model, shape)
    width = 8 if config.train.precision == "fp64" else 4
    # weights, two gradients, two moments; of activations only what a forward pass keeps
    needed = width * (5 * parameters + activations * config.train.batch_size)
    cuda = device.type == "cuda"
    there = torch.cuda.mem_get_info(device)[1] if cuda else machine.memory()
    if needed > SHARE * there:
        raise UserError(
            f"a run must fit the {there / 1e9:.3g} GB of {device}'s memory, got "
            f"{float(parameters):.3g} parameters in batches of {config.train.batch_size}, "
            f"which take {needed / 1e9:.3g} GB at least; make the network smaller by the "
            f"keys of model, or lower train.batch_size"
        )


def _warn(prepared: list[Prepared], tell: Callable[[str], None]) -> None:
    """Each warning once, with the number of points that it is of."""
    counts: dict[str, int] = {}
    for p in prepared:
        for warning in feasible.warnings(p.config, p.steps):
            counts[warning] = counts.get(warning, 0) + 1
    for warning, count in counts.items():
        of = "" if count == len(prepared) else f" ({count} of {len(prepared)} points)"
        tell(f"warning: {warning}{of}")


def resumed(todo: list[Prepared], say: Callable[[str], None]) -> list[Prepared]:
    """Each with its checkpoint, if it has one that fits; `say` hears of the others."""
    shapes: dict[Any, StateShape] = {}
    found = []
    for p in todo:
        c = p.config
        key = c.model, c.data, c.train.optimizer, c.train.momentum, c.train.precision
        if key not in shapes:
            shapes[key] = state_shape(c, p.point, p.dataset.shape)
        resumed = p.folder.resume(shapes[key], p.steps)
        if resumed.complaint:
            say(resumed.complaint)
        state = resumed.state
        step = state.step if state else 0
        found.append(p._replace(step=step, state=state, evaluated=resumed.evaluated))
    return found
