"""Validated configs for benchmarks that call the library instead of the command."""

from hydra import compose, initialize_config_dir

from vae_sweep.command.entry import CONF, config_of
from vae_sweep.config import RunConfig


def configs(runs: int, *overrides: str) -> list[RunConfig]:
    """A point with Hydra's `overrides`, once for each of the seeds 0 ... `runs` - 1."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return [
            config_of(compose("config", [*overrides, f"seed={seed}"]))
            for seed in range(runs)
        ]
