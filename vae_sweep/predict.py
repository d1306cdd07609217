"""What theory says of a grid, without training: `vae-sweep predict norm=zscore head=tanh`.

Prints a table and what it means in words, and writes the table to
<runs>/<sweep>/predicted.csv.
"""

from typing import TYPE_CHECKING

from vae_sweep.command import plain
from vae_sweep.system import stop

if TYPE_CHECKING:
    from vae_sweep.config import RunConfig

ABOUT = """\
Computes what is known of a grid of VAEs before training: which targets the head
cannot reach, the decoder noise that beta implies, the optimum of a linear VAE
with that noise, and warnings in words. It takes what `vae-sweep run` takes. The
table is also written to RUNS/SWEEP/predicted.csv."""
EXAMPLES = (
    "norm=zscore,minus1_1 head=tanh,linear beta=0.1,1,4",
    "data=cifar10 reduction=sum,mean",
    "experiments=core",
)


def predict_grid(configs: "list[RunConfig]") -> None:
    """Prints and writes the predictions of all points."""
    from vae_sweep.reporting import prediction_table

    prediction_table.run(configs)


def main() -> None:
    """`vae-sweep predict`."""
    with stop.handled():
        if not plain.helped("predict", ABOUT, EXAMPLES):
            from vae_sweep.command import entry  # Hydra, whose import a signal may end

            entry.main(predict_grid, ABOUT)


if __name__ == "__main__":
    main()
