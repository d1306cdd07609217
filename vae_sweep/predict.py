"""What theory says of a grid, without training: `python -m vae_sweep.predict ...`.

The same options as vae_sweep.run. Prints a table and a sentence per point, and writes
both to <runs>/<sweep>/predicted.csv.
"""

from typing import TYPE_CHECKING

from vae_sweep.system import stop

if TYPE_CHECKING:
    from vae_sweep.config import RunConfig

ABOUT = """\
Says what theory says of a grid of VAEs, without training any: the range of the targets
and what of them a head cannot reach, the decoder noise that beta implies, the optimum of
a linear VAE with that noise, and a sentence per point that warns where it should:
  python -m vae_sweep.predict norm=zscore,minus1_1 head=tanh,linear beta=0.1,1,4
The table goes to <runs>/<sweep>/predicted.csv, too. vae_sweep.run takes the same options
and trains the points."""


def predict_grid(configs: "list[RunConfig]") -> None:
    """Prints and writes the predictions of all points."""
    from vae_sweep.reporting import prediction_table

    prediction_table.run(configs)


def main() -> None:
    """The console script `vae-sweep-predict`."""
    with stop.handled():
        from vae_sweep.command import entry  # Hydra, whose import a signal may end

        entry.main(predict_grid, ABOUT)


if __name__ == "__main__":
    main()
