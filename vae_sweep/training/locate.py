"""Where each point of a grid is kept, and whether it has ended: without torch, so that a
grid that has ended costs little."""

from typing import NamedTuple

from vae_sweep.config import RunConfig
from vae_sweep.data import splits
from vae_sweep.data.dataset import Dataset, Datasets
from vae_sweep.records import loggers
from vae_sweep.records.run_folder import Kept, RunFolder
from vae_sweep.training import feasible


class Located(NamedTuple):
    """A point with its data and folder."""

    asked: RunConfig
    config: RunConfig  # `asked`, but the path of the images that a kept run states
    dataset: Dataset
    folder: RunFolder
    steps: int


def locate(configs: list[RunConfig], datasets: Datasets) -> list[Located]:
    """Every point, each once: what a command does with points begins here.

    Writes nothing but caches of images. `datasets` has lines to say of them.

    Raises:
        UserError: The images of a point cannot be had, or are not enough for it, or a
            logger of it is none.
    """
    kept = Kept()
    points = list({c.run_dir: c for c in configs}.values())
    for config in points:  # what needs no images, which may take long to get
        if not config.run_dir.exists():
            from vae_sweep.vae import point  # torch, which training needs anyway

            point.check(config)
        loggers.check(config)
        splits.named(config.data.name).check(config.data)
        if config.train.steps is not None:
            feasible.check_rate(config.train, config.train.steps)
    return [_located(config, datasets.of(config.data), kept) for config in points]


def _located(config: RunConfig, dataset: Dataset, kept: Kept) -> Located:
    steps = config.train.total_steps(len(dataset.splits.train))
    feasible.check_length(config.train, steps)
    feasible.check_rate(config.train, steps)
    found = kept.config_of(config, dataset.fingerprint, steps)
    folder = RunFolder(found, dataset.fingerprint, steps)
    return Located(config, found, dataset, folder, steps)
