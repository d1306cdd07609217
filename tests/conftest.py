"""What several test files share: configs composed from conf/, and small images."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hypothesis import settings
from torch import Tensor

os.environ["WANDB_MODE"] = "disabled"

from vae_sweep.command.entry import CONF, config_of
from vae_sweep.config import RunConfig

settings.register_profile("vae-sweep", deadline=None, derandomize=True)
settings.load_profile("vae-sweep")

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


@pytest.fixture
def npz(tmp_path: Path) -> Callable[..., Path]:
    """Writes make_images(...) as an npz that `data=npz` reads; returns its path."""

    def write(n: int = 120, channels: int = 3, size: int = 8) -> Path:
        images = make_images(n, channels, size).permute(0, 2, 3, 1).numpy()
        path = tmp_path / "images.npz"
        np.savez(path, images=images)
        return path

    return write


@pytest.fixture
def lone_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No WANDB_* variable, key or settings file of the machine reaches the test."""
    for name in [n for n in os.environ if n.startswith("WANDB_") or n == "NETRC"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path
