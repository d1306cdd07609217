"""How far sweeps are, while they train and afterwards: `vae-sweep status runs/main`."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from vae_sweep.command import plain
from vae_sweep.errors import UserError, no_folder
from vae_sweep.records import states
from vae_sweep.records.find import short_hash
from vae_sweep.records.heartbeat import SILENT_S
from vae_sweep.records.states import State, Sweep
from vae_sweep.reporting.console import Console
from vae_sweep.reporting.progress import NARROW, STYLES, duration, in_steps

if TYPE_CHECKING:
    from rich.console import RenderableType

ABOUT = """\
Shows the state of each run of a sweep: running, interrupted, finished,
diverged, failed or waiting. It only reads, also while the sweep trains. Without
a folder: a line for each sweep in runs/."""
EXAMPLES = ("", "runs/main", "runs/main --all", "runs/main runs/other --json")
LISTED = 30  # runs that are listed one by one; of a larger sweep those that need a look
WORDS = ("running", "finished", "waiting", "interrupted", "diverged", "failed")


def main() -> None:
    """`vae-sweep status`. Exit codes: 0, 2 bad input."""
    parser = plain.Parser("status", ABOUT, EXAMPLES)
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER")
    parser.add_argument("--all", action="store_true", help="list every run")
    parser.add_argument("--json", action="store_true", help="for scripts: all numbers")
    plain.main(parser, _run)


def _run(typed: argparse.Namespace) -> None:
    folders: list[Path] = typed.folders or [Path("runs")]
    found: list[Sweep] = []
    whole = 0  # folders that are sweeps
    for folder in folders:
        inside = _sweeps_in(folder)
        whole += not inside
        found += [states.read(each) for each in inside or [folder]]
    if typed.json:
        print(json.dumps([_plain(sweep) for sweep in found], indent=1))
        return
    console = Console(least=80)
    if whole < len(folders) and not typed.all:
        console.print(_lines(found, console.width))
        return
    for number, sweep in enumerate(found):
        if number:
            console.print()
        _print(sweep, console, len(sweep.runs) if typed.all else LISTED)


def _sweeps_in(folder: Path) -> list[Path]:
    """The sweeps of a folder that holds several; none of a sweep's own."""
    if not folder.is_dir():
        raise UserError(f"{no_folder(folder)}; name one: vae-sweep status FOLDER")
    if states.is_sweep(folder):
        return []
    found = states.sweeps_in(folder)
    if not found and not states.is_run(folder):
        raise UserError(f"{folder} holds no runs and no sweeps; name a folder runs/<sweep>")
    return found


def _plain(sweep: Sweep) -> dict[str, object]:
    """As JSON has it."""
    done, total = sweep.steps
    return {
        "folder": str(sweep.folder),
        "counts": dict(sweep.counts),
        "steps": done,
        "total_steps": total,
        "rate": sweep.rate,
        "left": sweep.left,
        "runs": [run._asdict() for run in sweep.runs],
        "skipped": sweep.skipped,
    }


def _lines(sweeps: Sequence[Sweep], width: int) -> Table:
    """A line for each sweep."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(overflow="fold")
    table.add_column()
    if width >= NARROW:
        table.add_column(justify="right", no_wrap=True)
        table.add_column(justify="right", no_wrap=True)
    for sweep in sweeps:
        words = Text(f"{_word(sweep)}: ", _style(_word(sweep))) + Text(_counted(sweep))
        cells: list[RenderableType] = [Text(str(sweep.folder)), words]
        if width >= NARROW:
            cells += [_share(sweep) if _goes_on(sweep) else "", _left(sweep)]
        table.add_row(*cells)
    return table


def _word(sweep: Sweep) -> str:
    """What a sweep as a whole is."""
    counts = sweep.counts
    if counts["running"]:
        return "training"
    if counts.keys() == {"waiting"}:
        return "waiting"
    if not counts:
        return "unreadable"
    return "interrupted" if counts["interrupted"] or counts["waiting"] else "ended"


def _goes_on(sweep: Sweep) -> bool:
    return _word(sweep) not in ("ended", "unreadable")


def _style(word: str) -> str:
    return {"training": "bold green", "interrupted": "yellow", **STYLES}.get(word, "bold")


def _counted(sweep: Sweep) -> str:
    counts = sweep.counts
    said = [f"{counts[word]} {word}" for word in WORDS if counts[word]]
    said += [f"{len(sweep.skipped)} left out"] if sweep.skipped else []
    return ", ".join(said)


def _share(sweep: Sweep) -> str:
    done, total = sweep.steps
    return f"{100 * done // total} %" if total else ""


def _left(sweep: Sweep) -> str:
    return f"{duration(sweep.left)} left" if sweep.left is not None else ""


def summed_up(sweep: Sweep) -> Text:
    """A line: counts, and how much is done and left."""
    word = _word(sweep)
    rate = f"{in_steps(sweep.rate)} steps/s" if sweep.rate else ""
    parts = [_counted(sweep), _share(sweep) if _goes_on(sweep) else "", rate, _left(sweep)]
    line = Text.assemble((f"{sweep.folder}", "bold"), "  ", (word, _style(word)), ": ")
    return line + Text(" · ".join(filter(None, parts)))


def _print(sweep: Sweep, console: Console, most: int) -> None:
    """A sweep: its counts, then its runs, or those that need a look."""
    word = _word(sweep)
    console.print(summed_up(sweep), soft_wrap=True)
    chosen = sweep.runs
    if len(chosen) > most:
        odd = [r for r in states.order(chosen) if r.status not in ("finished", "waiting")]
        chosen = odd[:most]
    if chosen:
        console.print(_table(sweep.folder, chosen, console))
    if len(chosen) < len(sweep.runs):
        more = len(sweep.runs) - len(chosen)
        console.print(f"and {more} more; --all lists every run", style="dim")
    for run in chosen:
        if run.status == "failed" and run.reason:
            said = f"{short_hash(run.run_id)} failed: {run.reason}"
            console.say(said)
    if sweep.skipped:
        name, why = next(iter(sweep.skipped.items()))
        said = f"left out {len(sweep.skipped)}: {name} ({why})"
        console.say(said)
    if word in ("interrupted", "waiting") and sweep.command:
        said = f"continue with: {sweep.command}"
        console.say(said)


def _table(folder: Path, runs: Sequence[State], console: Console) -> Table:
    wide = console.width >= NARROW
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("point", overflow="ellipsis", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for name in ("step", "steps/s", "left") if wide else ("step",):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("run", no_wrap=True)
    names = _names(folder, runs)
    for run in runs:
        step = f"{run.step}/{run.total or '?'}"
        cells = [names[run.run_id], run.status, step]
        if wide:
            cells += [in_steps(run.rate) if run.rate else "", _of_time(run)]
        cells.append(short_hash(run.run_id))
        style = {"interrupted": "yellow", **STYLES}.get(run.status)
        table.add_row(*map(Text, cells), style=style)
    unlimited = console.options.update_width(1000)
    if console.measure(table, options=unlimited).maximum > console.width:
        table.expand, table.columns[0].ratio = True, 1  # the names give way
    return table


def _of_time(run: State) -> str:
    """How long a run still takes; else since when nothing is heard of it."""
    if run.status == "running" and (run.silent or 0) < SILENT_S:
        return duration(run.left) if run.left is not None else ""
    if run.silent is None or run.status not in ("running", "interrupted"):
        return ""
    return f"{duration(run.silent)} ago"


def _names(folder: Path, runs: Sequence[State]) -> dict[str, str]:
    """run_id -> what tells the run from the others that are listed; where some have no
    configuration yet, what told it from the others of its command."""
    from vae_sweep.records import reader, results  # pandas, which a line needs not

    try:
        configs = [reader.read_config(folder / run.run_id) for run in runs]
    except reader.Unreadable:
        return {run.run_id: run.label or run.run_id.rpartition("-")[0] for run in runs}
    ids = [run.run_id for run in runs]
    return results.labels(results.identities(configs).assign(run_id=ids))


if __name__ == "__main__":
    main()
