"""The points of a grid, validated against their data and device before any trains."""

from collections.abc import Hashable
from typing import NamedTuple

import torch

from vae_sweep import loggers, models
from vae_sweep.cohort import Point, point
from vae_sweep.config import RunConfig
from vae_sweep.dataset import Dataset, Datasets
from vae_sweep.records import RunFolder
from vae_sweep.trainer import State, check_precision, resolve_device, total_steps


class Prepared(NamedTuple):
    """A validated point with its data, folder and, where interrupted, checkpoint."""

    config: RunConfig
    dataset: Dataset
    point: Point
    folder: RunFolder
    device: torch.device
    steps: int
    state: State | None = None

    @property
    def step(self) -> int:
        """The update it goes on from."""
        return self.state.step if self.state else 0

    @property
    def cohort_key(self) -> Hashable:
        """Runs of equal key may train as one; their learning rates may differ."""
        c = self.config
        train = c.train.model_copy(update={"lr": 1.0})
        return self.device, c.model, c.data, train, c.log.reconstructions, self.step


def prepare(configs: list[RunConfig]) -> list[Prepared]:
    """Validates every point, each once.

    Raises UserError at the first that cannot run. Writes nothing.
    """
    datasets = Datasets()
    prepared = []
    for config in {c.run_dir: c for c in configs}.values():
        device = resolve_device(config.train.device)
        check_precision(config.train, device)
        loggers.wandb_mode(config.log.wandb)
        dataset = datasets.of(config.data)
        height, width = dataset.size
        models.check(config, height, width)
        steps = total_steps(config.train, len(dataset.images.train))
        constants = point(config, dataset.counts, height * width)
        folder = RunFolder(config, dataset.fingerprint)
        prepared.append(Prepared(config, dataset, constants, folder, device, steps))
    datasets.say()
    return prepared
