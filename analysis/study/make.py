"""Runs the study and publishes it: `make study DATA="data=image_folder data.path=cifar"`.

Trains every experiment, writes its tables to experiments/results/, renders the notebooks
and a report of each sweep, and puts the four answers and the collapse picture on the
front page. What is finished already is kept, so that the same command goes on.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import papermill

from study import figures, pages, published
from study.published import Study
from vae_sweep.errors import UserError

ROOT = Path(__file__).parents[2]
EXPERIMENTS = (
    *("core", "balance", "original", "latents16", "without_batch_norm", "residual"),
    *("mnist", "output_init", "input_target", "likelihoods", "warmup"),
)
RESULTS = ROOT / "experiments" / "results"
ANSWERS = ROOT / "docs" / "answers.md"
NOTEBOOKS = sorted((ROOT / "analysis").glob("0*.ipynb"))
COLLAPSE = ROOT / "docs" / "collapse.png"
PAGE, LIST = ROOT / "README.md", ROOT / "experiments" / "README.md"


def render(notebook: Path, to: Path, sweep: Path | None = None) -> None:
    """Executes a notebook, on another `sweep` where given, and writes it to `to`.

    Raises papermill's PapermillExecutionError where a cell raises.
    """
    parameters = {} if sweep is None else {"sweep": str(sweep.resolve())}
    papermill.execute_notebook(
        str(notebook),
        str(to),
        parameters,
        cwd=str(notebook.parent),
        progress_bar=False,
        log_output=False,
    )
    made = nbformat.read(to, as_version=4)
    made.metadata.pop("papermill", None)  # times and paths, which change at each run
    for i, cell in enumerate(made.cells):
        cell["id"] = f"{notebook.stem[:2]}-{i:02d}"
        tags = cell.metadata.get("tags")
        cell["metadata"] = {"tags": tags} if tags else {}
    nbformat.write(made, to)


def filled(page: str, name: str, content: str) -> str:
    """`page` with `content` between the two marks of `name`, which are HTML comments."""
    begin, end = f"<!-- {name}: make study -->\n", f"<!-- end of {name} -->\n"
    before, rest = page.split(begin)
    return f"{before}{begin}{content}\n{end}{rest.split(end)[1]}"


def front_page(page: str, study: Study) -> str:
    """The README with the four answers."""
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
    return filled(page, "cost", "\n".join([*lines, "", study.of(EXPERIMENTS[0]).caption]))


def check(data: list[str]) -> None:
    """Composes, validates and predicts every point before any trains."""
    names = f"experiments={','.join(EXPERIMENTS)}"
    command = [sys.executable, "-m", "vae_sweep.predict", "-m", names, *data]
    if subprocess.run(command, stdout=subprocess.DEVNULL).returncode:
        raise UserError("the study's options are those of vae_sweep.run; correct the above")


def run(experiment: str, data: list[str], data_name: str | None) -> None:
    """Trains an experiment, publishes its tables and writes its report.

    Raises UserError where it could not be run; one with points that diverged has been.
    """
    command = [sys.executable, "-m", "vae_sweep.run", f"experiments={experiment}", *data]
    code = subprocess.run(command, env={"WANDB_MODE": "disabled", **os.environ}).returncode
    if code not in (0, 1):
        raise UserError(f"{experiment} ended with exit code {code}; correct what it says")
    folder = Path("runs", experiment)
    published.publish(folder, RESULTS / experiment, data_name)
    subprocess.run([sys.executable, "-m", "vae_sweep.report", folder], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-name", help="what to call the images in captions")
    parser.add_argument("--render", action="store_true", help="no training, no tables")
    parser.add_argument("data", nargs="*", help="options of vae_sweep.run: data=...")
    chosen = parser.parse_args()
    if not chosen.render:
        check(chosen.data)
        run("smoke", [], None)  # on images of its own
        for experiment in EXPERIMENTS:
            run(experiment, chosen.data, chosen.data_name)
    for notebook in NOTEBOOKS:
        print(f"rendering {notebook.name}", flush=True)
        render(notebook, notebook)
    study = Study(RESULTS)
    figures.collapse(study.of("balance")).savefig(COLLAPSE, dpi=110)
    PAGE.write_text(front_page(PAGE.read_text(), study))
    ANSWERS.write_text(pages.page(study))
    LIST.write_text(cost_list(LIST.read_text(), study))


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
