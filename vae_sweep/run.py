"""Trains a grid: `python -m vae_sweep.run norm=zscore,minus1_1 head=tanh,linear`."""

from typing import TYPE_CHECKING, Any

from vae_sweep.system import stop

if TYPE_CHECKING:
    from vae_sweep.config import RunConfig

ABOUT = """\
Trains a grid of VAEs over normalization x output head x beta, and compares them:
  python -m vae_sweep.run norm=zscore,minus1_1 head=tanh,linear
  python -m vae_sweep.run beta=0.1,1,4 data=cifar10 train.epochs=20 sweep=mine
  python -m vae_sweep.run experiments=core
Records, table and picture go to <runs>/<sweep>/. vae_sweep.predict takes the same options
and says, without training, what theory says of the points."""


def run_grid(configs: "list[RunConfig]") -> list[Any]:
    """Trains all points; per point its summary, or the exception of one that failed."""
    from vae_sweep import grid  # torch takes seconds to import, --help need not wait

    return grid.run(configs)


def main() -> None:
    """The console script `vae-sweep`."""
    with stop.handled():
        from vae_sweep.command import entry  # Hydra, whose import a signal may end

        entry.main(run_grid, ABOUT)


if __name__ == "__main__":
    main()
