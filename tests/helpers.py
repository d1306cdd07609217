"""What several test files share: configs composed from conf/, and small images."""

from collections.abc import Iterable

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from torch import Tensor

from vae_sweep.command.entry import CONF, config_of
from vae_sweep.config import DataConfig, RunConfig
from vae_sweep.data import dataset
from vae_sweep.data.dataset import Datasets, Images
from vae_sweep.training.locate import locate
from vae_sweep.training.prepare import Prepared, prepare

TINY = (  # a network and a data set on which hundreds of steps take a second
    "model=small",
    "model.latent=4",
    "model.widths=[4,8]",
    "train.batch_size=8",
    "train.device=cpu",
    "log.wandb.mode=disabled",
)


def make_config(*overrides: str) -> RunConfig:
    """A RunConfig from conf/ with Hydra overrides, as the command line makes it."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return config_of(compose("config", list(overrides)))


def make_images(n: int, channels: int = 3, size: int = 8, seed: int = 0) -> Tensor:
    """uint8 [n, C, size, size]: smooth random fields with unequal channel statistics."""
    rng = np.random.default_rng(seed)
    small = rng.normal(size=(n, channels, size // 2, size // 2))
    fields = small.repeat(2, axis=2).repeat(2, axis=3)
    fields += 0.2 * rng.normal(size=fields.shape)
    center = np.linspace(100, 150, channels)[:, None, None]
    spread = np.linspace(40, 60, channels)[:, None, None]
    return torch.from_numpy((center + spread * fields).clip(0, 255).astype(np.uint8))


def load_images(config: DataConfig) -> Images:
    """The images of a data set, as training has them."""
    return dataset.load(config).images


def prepared(configs: Iterable[RunConfig]) -> list[Prepared]:
    """Points as the commands make them ready to train."""
    datasets = Datasets()
    ready = prepare(locate(list(configs), datasets))
    datasets.say()
    return ready
