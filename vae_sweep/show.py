"""What a point is set to and what theory says of it, or what a run is:
`vae-sweep show norm=zscore head=tanh`, `vae-sweep show runs/main/RUN`."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from vae_sweep.command import plain
from vae_sweep.system import stop

if TYPE_CHECKING:
    from vae_sweep.config import RunConfig

ABOUT = """\
Prints the settings of a point as YAML, and its prediction. Or a recorded run,
named by its folder, its run_id or the hash at the end of that: how it ended,
its settings, its numbers and its files. Writes nothing."""
EXAMPLES = ("norm=zscore head=tanh", "1a2b3c4d", "runs/main/RUN_ID")


def show_grid(configs: "list[RunConfig]") -> None:
    """Prints the settings and the predictions of points."""
    from vae_sweep.reporting import settings

    settings.print_points(configs)


def main() -> None:
    """`vae-sweep show`. Exit codes: 0, 2 bad input."""
    words = sys.argv[1:]
    if words and not words[0].startswith("-") and _is_run(words[0]):
        parser = plain.Parser("show", ABOUT, EXAMPLES)
        parser.add_argument("run", nargs="+")
        folder = "folder of the sweeps; runs unless set"
        parser.add_argument("--runs", default="runs", help=folder)
        plain.main(parser, _show_runs)
        return
    with stop.handled():
        if not plain.helped("show", ABOUT, EXAMPLES):
            from vae_sweep.command import entry  # Hydra, whose import a signal may end

            entry.main(show_grid, ABOUT)


def _is_run(word: str) -> bool:
    """Whether a word names a run and is no option; a sweep's name may have `=` in it."""
    return "=" not in word or Path(word).is_dir()


def _show_runs(typed: argparse.Namespace) -> None:
    from vae_sweep.records.find import run_folder
    from vae_sweep.reporting import settings

    for name in typed.run:
        settings.print_run(run_folder(name, typed.runs))


if __name__ == "__main__":
    main()
