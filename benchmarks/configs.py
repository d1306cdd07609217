"""Validated configs for benchmarks that call the library instead of the command."""

from hydra import compose, initialize_config_dir

from vae_sweep.command.entry import CONF, config_of
from vae_sweep.config import RunConfig

# The nets of the tables, whatever the defaults are.
CONSTANT = ("beta=constant", "train.lr=0.001")
WIDE = (*CONSTANT, "model=conv", "train.batch_size=128")  # "default net"
NARROW = (*CONSTANT, "model=small", "model.norm_layer=none")


def configs(runs: int, *overrides: str) -> list[RunConfig]:
    """A point with Hydra's `overrides`, once for each of the seeds 0 ... `runs` - 1."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return [
            config_of(compose("config", [*overrides, f"seed={seed}"]))
            for seed in range(runs)
        ]
