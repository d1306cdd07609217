"""Runs the study and publishes it: `make study CIFAR="data=image_folder data.path=cifar"`.

Trains every experiment, writes its tables to experiments/results/, renders the notebooks
and a report of each sweep, and puts the answers and the collapse picture on the front
page, their numbers into docs/answers.md, losses in the wild into docs/in_the_wild.md, and
these and the counts of images into docs/calculator.html.
What is finished already is kept, so that the same command goes on. Each experiment names
its data set; `--place SET OPTIONS NAME` says where the images of one lie on this machine,
and what captions call them.
"""

import argparse
import hashlib
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import nbformat
import papermill

from study import calculator, figures, pages, published, wild
from study.published import Study
from vae_sweep.command import experiments
from vae_sweep.errors import UserError
from vae_sweep.files import write_atomically

ROOT = Path(__file__).parents[2]
EXPERIMENTS = (
    *("core", "balance", "original", "latents16", "without_batch_norm", "residual"),
    *("mnist", "output_init", "input_target", "likelihoods", "warmup"),
)
OWN_IMAGES = ("smoke", wild.NAME)  # experiments that bring theirs
RESULTS = ROOT / "experiments" / "results"
ANSWERS = ROOT / "docs" / "answers.md"
QUICKSTART = ROOT / "analysis" / "quickstart.ipynb"  # reads no sweep: it makes its own
NOTEBOOKS = sorted({*(ROOT / "analysis").glob("*.ipynb")} - {QUICKSTART})
COLLAPSE = ROOT / "docs" / "collapse.png"
PAGE, LIST = ROOT / "README.md", ROOT / "experiments" / "README.md"
WILD = ROOT / "docs" / "in_the_wild.md"


def render(notebook: Path, to: Path, sweep: Path | None = None) -> None:
    """Executes a notebook, on another `sweep` where given, and writes it to `to`.

    Raises papermill's PapermillExecutionError where a cell raises.
    """
    parameters = {} if sweep is None else {"sweep": str(sweep.resolve())}
    with tempfile.TemporaryDirectory() as folder:  # papermill writes after every cell
        executed = Path(folder) / notebook.name
        papermill.execute_notebook(
            str(notebook),
            str(executed),
            parameters,
            cwd=str(notebook.parent),
            progress_bar=False,
            log_output=False,
        )
        made = nbformat.read(executed, as_version=4)
    made.metadata.pop("papermill", None)  # times and paths, which change at each run
    for i, cell in enumerate(made.cells):
        cell["id"] = f"{notebook.stem[:2]}-{i:02d}"
        tags = cell.metadata.get("tags")
        cell["metadata"] = {"tags": tags} if tags else {}
    write_atomically(to, f"{nbformat.writes(made)}\n".encode())


def filled(page: str, name: str, content: str) -> str:
    """`page` with `content` between the two marks of `name`, which are HTML comments."""
    begin, end = f"<!-- {name}: make study -->\n", f"<!-- end of {name} -->\n"
    before, rest = page.split(begin)
    return f"{before}{begin}{content}\n{end}{rest.split(end)[1]}"


def front_page(page: str, study: Study) -> str:
    """The README with the answers."""
    return filled(page, "answers", pages.front(study))


def cost_list(page: str, study: Study) -> str:
    """experiments/README.md with what each experiment took."""
    lines = [
        "| experiment | runs | seeds | diverged | steps | core minutes |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for name in EXPERIMENTS:
        about, finals = study.of(name).about, study.of(name).results.finals
        lines.append(
            f"| `{name}` | {len(finals)} | {finals['seed'].nunique()} "
            f"| {(finals['status'] == 'diverged').sum()} | {about['steps']} "
            f"| {about['run_seconds'] / 60:.0f} |"
        )
    about = study.of(EXPERIMENTS[0]).about
    machine = f"{about['hardware']}, torch {about['versions']['torch']}."
    return filled(page, "cost", "\n".join([*lines, "", machine]))


class Place(NamedTuple):
    """Where the images of a data set lie, as options of vae_sweep.run, and their name."""

    options: list[str]
    name: str | None


NOWHERE = Place([], None)  # where the experiment itself says


def data_set(experiment: str) -> str:
    """What an experiment's `data=` says."""
    lines = {line for grid in experiments.load(experiment) for line in grid}
    [found] = [line for line in lines if line.startswith("data=")]
    return found.removeprefix("data=")


def check(places: Mapping[str, Place], options: list[str]) -> None:
    """Composes, validates and predicts every point before any trains.

    Raises UserError where an option is wrong, or would change which runs are published.
    """
    for word in [*options, *(word for place in places.values() for word in place.options)]:
        if word.lstrip("+").partition("=")[0] in ("experiments", "sweep", "runs"):
            raise UserError(f"the study names its own sweeps, got {word}; leave it out")
    for place, names in groupby(sorted(EXPERIMENTS, key=data_set), data_set):
        command = [sys.executable, "-m", "vae_sweep.predict", "-m"]
        command += [f"experiments={','.join(names)}", *options]
        command += places[place].options if place in places else []
        if subprocess.run(command, stdout=subprocess.DEVNULL).returncode:
            raise UserError(
                "places and options of the study are words as vae_sweep.run takes them; "
                "correct what is said above"
            )


def sweep_of(experiment: str, options: Sequence[str]) -> str:
    """The sweep of an experiment; with `options` one of its own, so that a table never has
    runs of other options."""
    if not options:
        return experiment
    return f"{experiment}-{hashlib.sha256(shlex.join(options).encode()).hexdigest()[:8]}"


def run(experiment: str, place: Place, options: Sequence[str] = ()) -> None:
    """Trains an experiment, publishes its tables and writes its report.

    Raises UserError where it could not be run; one with points that diverged has been.
    """
    sweep = sweep_of(experiment, options)
    command = [sys.executable, "-m", "vae_sweep.run", f"experiments={experiment}"]
    command += [f"sweep={sweep}", *place.options, *options]
    code = subprocess.run(command, env={"WANDB_MODE": "disabled", **os.environ}).returncode
    if code not in (0, 1):
        raise UserError(f"{experiment} ended with exit code {code}; correct what it says")
    folder = Path("runs", sweep)
    published.publish(folder, RESULTS / experiment, place.name)
    subprocess.run([sys.executable, "-m", "vae_sweep.report", folder], check=True)


def _words(options: str) -> list[str]:
    try:
        return shlex.split(options)
    except ValueError as error:
        raise UserError(
            f"a place's options are words as a shell reads them, got {options} ({error}); "
            f"close the quote"
        ) from None


def placed(given: Sequence[Sequence[str]]) -> dict[str, Place]:
    """Data set -> Place, of the values of each --place.

    Raises UserError where a data set is none of the study's, or a value is missing.
    """
    sets = sorted({data_set(name) for name in EXPERIMENTS})
    for k, values in enumerate(given):
        if values[:1] in [before[:1] for before in given[:k]]:
            raise UserError(f"a data set has one --place, got two of {values[0]}")
        if len(values) not in (2, 3) or values[0] not in sets:
            raise UserError(
                f"--place takes one of {', '.join(sets)}, its options of vae_sweep.run and "
                f"perhaps a name for captions; got {' '.join(values)}"
            )
    return {
        name: Place(_words(options), rest[0] if rest else None)
        for name, options, *rest in given
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--place", nargs="+", action="append", default=[], metavar="WORD")
    parser.add_argument("--render", action="store_true", help="no training, no tables")
    parser.add_argument("options", nargs="*", help="of vae_sweep.run, for every experiment")
    chosen = parser.parse_args()
    if chosen.render and (chosen.place or chosen.options):
        parser.error("--render trains nothing: leave --place and options out")
    if not chosen.render:
        places = placed(chosen.place)
        check(places, chosen.options)
        for experiment in OWN_IMAGES:
            run(experiment, NOWHERE)
        for experiment in EXPERIMENTS:
            place = places.get(data_set(experiment), NOWHERE)
            run(experiment, place, chosen.options)
    study = Study(RESULTS)  # read before a notebook is written
    for notebook in NOTEBOOKS:
        print(f"rendering {notebook.name}", flush=True)
        render(notebook, notebook)
    figures.collapse(study.of("balance")).savefig(COLLAPSE, dpi=110)
    PAGE.write_text(front_page(PAGE.read_text(), study))
    ANSWERS.write_text(pages.page(study))
    LIST.write_text(cost_list(LIST.read_text(), study))
    WILD.write_text(wild.page(study.of(wild.NAME)))
    calculator.PAGE.write_text(calculator.made())


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        sys.exit(130)
