"""What theory says of a grid, without training: `python -m vae_sweep.predict -m ...`.

The same options as vae_sweep.run. Prints a table and a sentence per point, and writes
both to <runs>/<sweep>/predicted.csv.
"""

from typing import Any

from omegaconf import DictConfig

from vae_sweep import command
from vae_sweep.command import config_of


def predict_grid(configs: list[DictConfig]) -> None:
    """Prints and writes the predictions of all points."""
    valid = [config_of(config) for config in configs]
    from vae_sweep import (
        prediction_table,  # torch takes seconds to import, --help need not wait
    )

    prediction_table.run(valid)


def predict_point(config: DictConfig) -> Any:
    """Hydra's task: one point (what launchers other than `grid` call)."""
    predict_grid([config])


predict_point.grid = predict_grid  # pyright: ignore[reportFunctionMemberAccess]


def main() -> None:
    """The console script `vae-sweep-predict`."""
    command.main(predict_point)


if __name__ == "__main__":
    main()
