"""Whether two commits give the same numbers: every cell of every run, bit by bit.

    python -m benchmarks.same_numbers COMMIT [OTHER]

trains the smoke experiment and two seeds of the headline grid with both (OTHER is the
working tree unless named), side by side on this machine, in one thread each. Runs are
matched by run_id. Exit code 1 where a run is missing, has another status, or a cell of a
column that both have differs. Columns that only one has are named and change nothing.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from benchmarks.configs import WIDE

REPOSITORY = Path(__file__).parents[1]
GRIDS = {
    "smoke": ("experiments=smoke",),
    "headline": (
        *("-m", "norm=zscore,minus1_1", "head=tanh,linear", "seed=0,1", *WIDE),
        *("train.steps=500", "train.eval_every=125"),
    ),
}
COMMON = ("train.device=cpu", "train.workers=1", "log.wandb.mode=disabled")


class Run(NamedTuple):
    """What a commit made of a point: the cells of metrics.csv as text, by column."""

    status: str
    columns: dict[str, list[str]]


class Difference(NamedTuple):
    """What two sweeps have not in common, in lines; `cells` were compared."""

    lines: list[str]
    cells: int
    only: set[str]  # columns that one of them has


@contextmanager
def checkout(commit: str | None, folder: Path):
    """A folder that holds `commit`, or the working tree itself."""
    if commit is None:
        yield REPOSITORY
        return
    git = ["git", "-C", str(REPOSITORY), "worktree"]
    subprocess.run([*git, "add", "--detach", "--quiet", folder, commit], check=True)
    try:
        yield folder
    finally:
        subprocess.run([*git, "remove", "--force", folder], check=True)


def start(code: Path, work: Path, grid: str) -> subprocess.Popen[bytes]:
    """Trains a grid with the code in `code`; records go to `work`."""
    work.mkdir(parents=True, exist_ok=True)
    environment = {
        **os.environ,
        **{"PYTHONPATH": str(code), "OMP_NUM_THREADS": "1"},
        "VAE_SWEEP_CACHE": str(work / "cache"),
    }
    options = [*GRIDS[grid], *COMMON, f"sweep={grid}"]
    command = [sys.executable, "-m", "vae_sweep.run", *options]
    with (work / f"{grid}.log").open("wb") as log:
        return subprocess.Popen(command, cwd=work, env=environment, stdout=log, stderr=log)


def read(sweep: Path) -> dict[str, Run]:
    """run_id -> what a sweep's folder holds of the run, whatever version wrote it."""
    runs = {}
    for folder in sorted(path.parent for path in sweep.glob("*/summary.json")):
        status = json.loads((folder / "summary.json").read_text())["status"]
        with (folder / "metrics.csv").open() as file:
            header, *rows = csv.reader(file)
        columns = {name: [row[i] for row in rows] for i, name in enumerate(header)}
        runs[folder.name] = Run(status, columns)
    return runs


def compare(first: dict[str, Run], other: dict[str, Run]) -> Difference:
    """Every cell of every run that both sweeps have."""
    lines = [f"{name}: in one only" for name in sorted(first.keys() ^ other.keys())]
    cells, only = 0, set()
    for name in sorted(first.keys() & other.keys()):
        a, b = first[name], other[name]
        only |= a.columns.keys() ^ b.columns.keys()
        if a.status != b.status:
            lines.append(f"{name}: {a.status}, {b.status}")
        for column in a.columns:
            if column not in b.columns:
                continue
            ours, theirs = a.columns[column], b.columns[column]
            if len(ours) != len(theirs):
                lines.append(f"{name} {column}: {len(ours)} rows, {len(theirs)}")
            cells += len(ours)
            for row, (x, y) in enumerate(zip(ours, theirs, strict=False)):
                if x != y:
                    lines.append(f"{name} {column}, row {row}: {x}, {y}")
    return Difference(lines, cells, only)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.same_numbers")
    parser.add_argument("commit")
    parser.add_argument("other", nargs="?", help="the working tree unless named")
    parser.add_argument("--grid", choices=GRIDS, help="this one alone")
    asked = parser.parse_args()
    grids = [asked.grid] if asked.grid else list(GRIDS)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with (
            checkout(asked.commit, folder / "code 1") as first,
            checkout(asked.other, folder / "code 2") as other,
        ):
            for grid in grids:
                codes = {folder / "1": first, folder / "2": other}
                processes = [start(code, work, grid) for work, code in codes.items()]
                for work, process in zip(codes, processes, strict=True):
                    if process.wait() not in (0, 1):
                        print((work / f"{grid}.log").read_text()[-2000:], file=sys.stderr)
                        return 2
        different = 0
        for grid in grids:
            both = [read(folder / n / "runs" / grid) for n in ("1", "2")]
            found = compare(*both)
            different += len(found.lines)
            print(
                f"{grid}: {len(both[0])} runs, {found.cells} cells, "
                f"{len(found.lines)} differences"
                + (f"; columns of one only: {sorted(found.only)}" if found.only else "")
            )
            for line in found.lines[:20]:
                print(f"  {line}")
    return int(different > 0)


if __name__ == "__main__":
    sys.exit(main())
