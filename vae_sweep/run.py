"""Trains a grid: `python -m vae_sweep.run -m norm=zscore,minus1_1 head=tanh,linear`."""

from typing import Any

from omegaconf import DictConfig

from vae_sweep import command
from vae_sweep.command import config_of


def run_grid(configs: list[DictConfig]) -> list[Any]:
    """Trains all points; per point its summary, or the exception of one that diverged."""
    valid = [config_of(config) for config in configs]
    from vae_sweep import grid  # torch takes seconds to import, --help need not wait

    return grid.run(valid)


def run_point(config: DictConfig) -> Any:
    """Hydra's task: trains one point (what launchers other than `grid` call)."""
    [outcome] = run_grid([config])
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


run_point.grid = run_grid  # pyright: ignore[reportFunctionMemberAccess]


def main() -> None:
    """The console script `vae-sweep`."""
    command.main(run_point)


if __name__ == "__main__":
    main()
