"""Trains a grid: `vae-sweep norm=zscore,minus1_1 head=tanh,linear`."""

from typing import TYPE_CHECKING, Any

from vae_sweep.command import plain
from vae_sweep.system import stop

if TYPE_CHECKING:
    from vae_sweep.config import RunConfig

ABOUT = """\
Trains a grid of VAEs over normalization x output head x beta, and compares
them: commas make a grid. Records, table and picture go to RUNS/SWEEP/. The same
command again skips what has ended and continues what was interrupted."""
EXAMPLES = (
    "norm=zscore,minus1_1 head=tanh,linear",
    "beta=0.1,1,4 data=cifar10 train.epochs=20 sweep=mine",
    "experiments=core",
)


def run_grid(configs: "list[RunConfig]") -> list[Any]:
    """Trains all points; per point its summary, or the exception of one that failed."""
    from vae_sweep import grid  # torch takes seconds to import, --help need not wait

    return grid.run(configs)


def main() -> None:
    """`vae-sweep run`."""
    with stop.handled():
        if not plain.helped("run", ABOUT, EXAMPLES):
            from vae_sweep.command import entry  # Hydra, whose import a signal may end

            entry.main(run_grid, ABOUT, is_portable=True)


if __name__ == "__main__":
    main()
