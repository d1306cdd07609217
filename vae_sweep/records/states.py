"""How far the runs of a sweep are, from what is on disk: without torch and pandas, so that
it can be asked again and again while the sweep trains."""

import json
import struct
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Literal, NamedTuple

from vae_sweep.errors import UserError, no_folder
from vae_sweep.records import claim, heartbeat, reader
from vae_sweep.records.find import copies, is_run
from vae_sweep.records.heartbeat import Heartbeat
from vae_sweep.records.reader import Unreadable
from vae_sweep.records.summary import Summary

Status = Literal["running", "interrupted", "failed", "diverged", "waiting", "finished"]
ENDED = ("finished", "diverged", "failed")


class State(NamedTuple):
    """A run of a sweep.

    Of its `total` steps, None where they are not known, `step` are done: of a run that
    diverged those before its loss was not finite, of an interrupted one those that it goes
    on from. `rate` is in steps a second; `silent` are the seconds since the process that
    trains it, or did, was last heard of.
    """

    run_id: str
    status: Status
    step: int = 0
    total: int | None = None
    rate: float | None = None
    silent: float | None = None
    reason: str | None = None
    label: str | None = None  # what tells it from the others of its command

    @property
    def left(self) -> float | None:
        """Seconds of training, where it trains."""
        if not self.rate or self.total is None:
            return None
        return (self.total - self.step) / self.rate


class Sweep(NamedTuple):
    """A sweep: its runs in the order in which they were asked for, and folder -> reason of
    those that cannot be read. `command` is the last that asked for a run."""

    folder: Path
    runs: list[State]
    skipped: dict[str, str]
    command: str | None

    @property
    def counts(self) -> Counter[str]:
        """Status -> number of runs."""
        return Counter(run.status for run in self.runs)

    @property
    def rate(self) -> float:
        """Steps per second, of all runs together."""
        return sum(run.rate or 0.0 for run in self.runs)

    @property
    def steps(self) -> tuple[int, int]:
        """(done, in all): what has ended counts as done, and what waits, where its steps
        are not known, as the others do."""
        known = [run.total for run in self.runs if run.total is not None]
        usual = int(median(known)) if known else 0
        totals = [usual if run.total is None else run.total for run in self.runs]
        done = [
            total if run.status in ENDED else run.step
            for run, total in zip(self.runs, totals, strict=True)
        ]
        return sum(done), sum(totals)

    @property
    def left(self) -> float | None:
        """Seconds until all runs have ended; None where none trains or no rate is known."""
        done, total = self.steps
        alone = [run.left for run in self.runs if run.left is not None]
        return max([(total - done) / self.rate, *alone]) if self.rate else None


def is_sweep(folder: Path) -> bool:
    """Whether a folder holds runs, or is to hold some."""
    if not folder.is_dir():
        return False
    return (folder / "sweep.json").is_file() or any(map(is_run, folder.iterdir()))


def sweeps_in(folder: Path) -> list[Path]:
    """The sweeps of a folder that holds several, by name."""
    return sorted(path for path in folder.iterdir() if is_sweep(path))


def read(folder: Path) -> Sweep:
    """The sweep in `folder`, whether or not a process trains it now.

    Raises:
        UserError: There is no such folder, or it holds no runs.
    """
    if not folder.is_dir():
        raise UserError(f"a sweep is a folder runs/<sweep>; {no_folder(folder)}")
    if not is_sweep(folder):
        hint = "; vae-sweep show prints a run" if is_run(folder) else ""
        raise UserError(f"{folder} holds no runs{hint}")
    listed = reader.read_sweep(folder)
    there = {path.name for path in folder.iterdir() if is_run(path)}
    runs, skipped = [], {}
    stated: dict[str, str] = {}
    for run_id in [*listed, *sorted(there - listed.keys())]:
        if run_id not in there:
            total, label = (listed[run_id].get(key) for key in ("total_steps", "label"))
            runs.append(State(run_id, "waiting", total=total, label=label))
            continue
        try:
            state = _state(folder / run_id, stated)
            label = listed[run_id].get("label") if run_id in listed else None
            runs.append(state._replace(label=label))
        except Unreadable as error:
            skipped[run_id] = str(error)
    copied = copies(stated)
    skipped |= {name: f"copy of {of}" for name, of in copied.items()}
    runs = [run for run in runs if run.run_id not in copied]
    if any(run.status == "running" for run in runs):  # the others' turn comes
        runs = [
            run._replace(status="waiting") if run.status == "interrupted" else run
            for run in runs
        ]
    commands = [about["command"] for about in listed.values() if "command" in about]
    return Sweep(folder, runs, skipped, str(commands[-1]) if commands else None)


def _state(folder: Path, stated: dict[str, str]) -> State:
    """The state of a run; notes in `stated` the run_id that its summary has.

    Raises Unreadable where the summary is damaged, or of a later version.
    """
    summary = reader.read_summary(folder)
    stated[folder.name] = summary.run_id if summary and summary.run_id else folder.name
    if summary is not None and summary.status != "running":
        return _ended(folder.name, summary)
    held, beat = claim.is_held(folder), heartbeat.read(folder)
    if held and beat is not None:
        return _training(folder.name, beat)
    total = _total(folder, summary)
    if held:  # of an earlier version, or its process is only starting
        return State(folder.name, "running", _last_row(folder), total)
    step, silent = _checkpoint(folder), beat.age if beat else None
    return State(folder.name, "interrupted", step, total, silent=silent)


def _ended(name: str, summary: Summary) -> State:
    total = summary.total_steps if summary.states("total_steps") else summary.steps
    diverged = summary.diverged_at
    step = summary.steps or 0 if diverged is None else diverged
    assert summary.status != "running"
    return State(name, summary.status, step, total, reason=summary.reason)


def _training(name: str, beat: Heartbeat) -> State:
    return State(name, "running", beat.step, beat.total_steps, beat.rate, beat.age)


def _total(folder: Path, summary: Summary | None) -> int | None:
    """The steps that a run is to have."""
    if summary is not None and summary.total_steps is not None:
        return summary.total_steps
    return reader.read_config(folder).train.steps  # early versions had no summary yet


def _last_row(folder: Path) -> int:
    return max(reader.read_rows(folder).steps, default=0)


def _checkpoint(folder: Path) -> int:
    """The step that a checkpoint's head states: 0 without one that can be read."""
    try:
        with (folder / "state.safetensors").open("rb") as file:
            [length] = struct.unpack("<Q", file.read(8))
            return int(json.loads(file.read(min(length, 2**24)))["__metadata__"]["step"])
    except (OSError, ValueError, KeyError, TypeError, struct.error):
        return 0


def order(runs: Sequence[State]) -> list[State]:
    """Those that need a person first, then those that train, the rest as they came."""
    first: tuple[Status, ...] = ("failed", "diverged", "interrupted", "running")
    return sorted(runs, key=lambda run: [*first, run.status].index(run.status))
