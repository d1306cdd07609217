"""The points of a grid, validated against their data and device before any trains."""

import sys
from collections.abc import Hashable
from typing import NamedTuple

import torch

from vae_sweep.config import RunConfig
from vae_sweep.data.dataset import Dataset, Datasets
from vae_sweep.records import loggers
from vae_sweep.records.checkpoint import State
from vae_sweep.records.run_folder import Kept, RunFolder
from vae_sweep.training import feasible
from vae_sweep.training.batches import total_steps
from vae_sweep.training.device import check_precision, resolve_device
from vae_sweep.vae import networks
from vae_sweep.vae.point import Point, point


class Prepared(NamedTuple):
    """A validated point with its data, folder and, where interrupted, checkpoint."""

    asked: RunConfig
    config: RunConfig  # `asked`, but the path of the images that a kept run states
    dataset: Dataset
    point: Point
    folder: RunFolder
    device: torch.device
    steps: int
    state: State | None = None
    evaluated: bool = False  # whether the row of the checkpoint's step is there

    @property
    def step(self) -> int:
        """The update it goes on from."""
        return self.state.step if self.state else 0

    @property
    def cohort_key(self) -> Hashable:
        """Runs of equal key may train as one; their learning rates may differ."""
        c = self.config
        train = c.train.model_copy(update={"lr": 1.0})
        start = self.step, self.state is not None, self.evaluated
        return self.device, c.model, c.data, train, c.log.reconstructions, start


def prepare(configs: list[RunConfig]) -> list[Prepared]:
    """Validates every point, each once: what a command does with points begins here.

    Warns on stderr of what trains without sense. Writes nothing.

    Raises:
        UserError: A point cannot be trained on its data and device; the first such.
    """
    datasets = Datasets()
    points = list({c.run_dir: c for c in configs}.values())
    for config in points:  # what needs no images, which may take long to get
        device = resolve_device(config.train.device)
        check_precision(config.train, device)
        loggers.wandb_mode(config.log.wandb)
        feasible.check_images(config.data)
        if config.train.steps is not None:
            feasible.check_rate(config.train, config.train.steps)
    kept = Kept()
    prepared = [_prepared(config, datasets.of(config.data), kept) for config in points]
    datasets.say()
    _warn(prepared)
    return prepared


def _prepared(config: RunConfig, dataset: Dataset, kept: Kept) -> Prepared:
    device = resolve_device(config.train.device)
    channels, height, width = dataset.images.train.shape[1:]
    networks.check(config, height, width)
    steps = total_steps(config.train, len(dataset.images.train))
    feasible.check_length(config.train, steps)
    feasible.check_rate(config.train, steps)
    feasible.check_memory(config, (channels, height, width), device)
    constants = point(config, dataset.counts, height * width)
    feasible.check_weight(config, constants)
    found = kept.config_of(config, dataset.fingerprint, steps)
    folder = RunFolder(found, dataset.fingerprint, steps)
    return Prepared(config, found, dataset, constants, folder, device, steps)


def _warn(prepared: list[Prepared]) -> None:
    """Each warning once, with the number of points that it is of."""
    counts: dict[str, int] = {}
    for p in prepared:
        for warning in feasible.warnings(p.config, p.steps):
            counts[warning] = counts.get(warning, 0) + 1
    for warning, count in counts.items():
        of = "" if count == len(prepared) else f" ({count} of {len(prepared)} points)"
        print(f"warning: {warning}{of}", file=sys.stderr)
