"""One case: a sweep is started, killed, looked at, and goes on until it ends."""

import os
import shlex
import shutil
import signal
import time
from pathlib import Path
from typing import NamedTuple

from . import checks
from .grids import Grid, write_images
from .plan import EARLY, Case, Kill
from .sandbox import LOOK_S, Attempt, Sandbox

GONE_S = 5.0  # after a kill nothing may be left
PATIENCE_S = 30.0  # to see how late a command ends that ends too late
SIGNALS = {
    "group SIGKILL": signal.SIGKILL,
    "parent SIGKILL": signal.SIGKILL,
    "worker SIGKILL": signal.SIGKILL,
    "SIGTERM": signal.SIGTERM,
    "group SIGTERM": signal.SIGTERM,
    "SIGINT": signal.SIGINT,
    "group SIGINT": signal.SIGINT,
}
TRIES = 3  # to see whether a sweep that does not go on is blocked for good
CODES = {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: 143, signal.SIGINT: 130}


class Reference(NamedTuple):
    """A sweep that nothing disturbed; times in seconds after its start."""

    sandbox: Sandbox
    line_s: float  # when it said what it trains
    table_s: float


class Result(NamedTuple):
    """What came of one kill. `phase` is that in which it fell; times in seconds.

    `exit_s` is how long the command took to end, `clean_s` until nothing was left.
    """

    kind: str
    phase: str
    after_start_s: float
    after_line_s: float | None
    exit_code: int | None
    exit_s: float | None
    clean_s: float | None
    failures: list[str]


class Outcome(NamedTuple):
    """A case: its kills, and how its sweep ended."""

    number: int
    grid: str
    command: str
    kills: list[Result]
    resumed: bool
    failures: list[str]
    seconds: float
    folder: str

    @property
    def failed(self) -> bool:
        return bool(self.failures) or any(kill.failures for kill in self.kills)


class Laboratory:
    """The sandboxes of a set of cases in `folder`, and one reference for each grid."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.images = folder / "images"
        if not self.images.exists():
            write_images(self.images)
        self._references: dict[str, Reference] = {}

    def sandbox(self, name: str, grid: Grid) -> Sandbox:
        path = self.folder / name.replace(" ", "-")
        shutil.rmtree(path, ignore_errors=True)
        return Sandbox(path, grid, self.images, self.folder / "home")

    def reference(self, grid: Grid) -> Reference:
        """The grid trained in one go. AssertionError where that alone goes wrong."""
        if grid.name not in self._references:
            sandbox = self.sandbox(f"reference {grid.name}", grid)
            attempt = sandbox.start()
            table_s = None
            while attempt.code is None:
                if attempt.trains() and table_s is None and attempt.says_table():
                    table_s = attempt.seconds
                time.sleep(LOOK_S)
            failures = checks.said_no_traceback(attempt)
            failures += checks.ended_like(sandbox, sandbox)
            failures += _left_after(sandbox, time.monotonic())[1]
            said = f"{grid.name}: {failures}\n{attempt.said()}{attempt.complained()}"
            assert not failures, said
            assert attempt.code == _code_of(grid), said
            assert attempt.line_at is not None, said
            timed = Reference(sandbox, attempt.line_at, table_s or attempt.seconds)
            self._references[grid.name] = timed
        return self._references[grid.name]

    def carry_out(self, case: Case) -> Outcome:
        """Does what the case says; the folder of a case that failed is kept."""
        reference = self.reference(case.grid)
        sandbox = self.sandbox(f"case {case.number}", case.grid)
        try:
            return self._carry_out(case, sandbox, reference)
        finally:
            sandbox.clear()

    def _carry_out(self, case: Case, sandbox: Sandbox, reference: Reference) -> Outcome:
        started = time.monotonic()
        results: list[Result] = []
        failures: list[str] = []
        attempt = sandbox.start()
        for kill in case.kills:
            if attempt is None:
                attempt = sandbox.start()
            result = _killed(attempt, kill, reference)
            if result is None:  # it ended before its time came
                continue
            results.append(result)
            if attempt.code is not None:
                attempt = None
        for _ in range(TRIES):
            attempt = attempt or sandbox.start()
            wrong = _ended(attempt, case.grid)
            failures += wrong
            if not wrong:
                failures += checks.ended_like(sandbox, reference.sandbox)
                break
            attempt = None
        failures += _left_after(sandbox, time.monotonic())[1]
        outcome = Outcome(
            case.number,
            case.grid.name,
            shlex.join(["python", *sandbox.command[1:]]),
            results,
            not failures,
            failures,
            time.monotonic() - started,
            str(sandbox.folder),
        )
        if not outcome.failed:
            shutil.rmtree(sandbox.folder, ignore_errors=True)
        return outcome


def _code_of(grid: Grid) -> int:
    return 1 if grid.name == "a run diverges" else 0


def _ended(attempt: Attempt, grid: Grid) -> list[str]:
    """A command that nothing disturbs any more: it must end by itself."""
    code = attempt.wait()
    failures = checks.said_no_traceback(attempt)
    if code is None:
        failures.append("the command hangs")
        attempt.sandbox.clear()
        attempt.wait()
    elif code != _code_of(grid):
        last = " / ".join(attempt.complained().splitlines()[-2:])
        failures.append(f"the command that goes on: exit code {code}; {last[:300]}")
    return failures


def _killed(attempt: Attempt, kill: Kill, reference: Reference) -> Result | None:
    """Kills at the planned moment; None where the command ended before."""
    if not _reached(attempt, kill, reference):
        return None
    sent = SIGNALS[kill.kind]
    targets = attempt.workers() if kill.kind == "worker SIGKILL" else [attempt.process.pid]
    if not targets:
        return None
    trains, table = attempt.trains(), attempt.says_table()
    at, line_at, began = attempt.seconds, attempt.line_at, time.monotonic()
    try:
        if kill.kind.startswith("group"):
            os.killpg(attempt.process.pid, sent)
        else:
            os.kill(targets[int(kill.at * 1000) % len(targets)], sent)
    except ProcessLookupError:
        return None
    after_line = at - line_at if trains and line_at is not None else None
    phase = _phase(kill, after_line, table)
    if kill.kind == "worker SIGKILL":  # the command goes on and is judged at its end
        return Result(kill.kind, phase, at, after_line, None, None, None, [])
    code = attempt.wait(PATIENCE_S)
    exit_s = time.monotonic() - began
    failures = checks.said_no_traceback(attempt)
    if code is None:
        failures.append(f"still runs {PATIENCE_S:g} s after the signal")
    elif sent != signal.SIGKILL:
        finished = code == 0 and attempt.says_table()  # before the signal was noticed
        ends = code == -sent and attempt.says_all()  # Python itself was ending
        if not finished and not ends:
            failures += checks.stopped_well(attempt, code, CODES[sent])
        if exit_s > GONE_S:
            failures.append(f"took {exit_s:.1f} s to end")
        failures += _no_checkpoint(attempt, after_line)
    clean_s, left = _left_after(attempt.sandbox, began)
    failures += left
    attempt.sandbox.clear()
    attempt.wait()
    return Result(kill.kind, phase, at, after_line, code, exit_s, clean_s, failures)


def _reached(attempt: Attempt, kill: Kill, reference: Reference) -> bool:
    """Waits for the moment of the kill; False where the command ended before."""
    line_s, lasts_s = reference.line_s, reference.table_s - reference.line_s
    later_s = min(3, lasts_s / 2)  # after the line, where "training" begins
    events = {
        "composing": (lambda: attempt.has_loaded("pydantic_core"), 0.5),
        "importing": (lambda: attempt.has_loaded("libtorch"), 0.7 * line_s),
        "before": (lambda: attempt.seconds > line_s - 0.5, 0.5),
        "first 3 s": (attempt.trains, 3.0),
        "training": (
            lambda: attempt.trains() and attempt.seconds > (attempt.line_at or 0) + later_s,
            lasts_s - later_s,
        ),
        "ending": (attempt.says_table, 1.5),
    }
    event, length = events[kill.phase]
    if not attempt.wait_until(event):
        return False
    moment = attempt.seconds + kill.at * length
    if not attempt.wait_until(lambda: attempt.seconds >= moment):
        return False
    return kill.kind != "worker SIGKILL" or attempt.wait_until(
        lambda: bool(attempt.workers()) or attempt.says_table()
    )


def _phase(kill: Kill, after_line: float | None, table: bool) -> str:
    """The phase in which a kill fell, which may not be the one that was planned."""
    if table:
        return "ending"
    if after_line is not None:
        return "first 3 s" if after_line <= 3 else "training"
    return kill.phase if kill.phase in EARLY else "before"


def _no_checkpoint(attempt: Attempt, after_line: float | None) -> list[str]:
    """Of a sparse grid, where the steps between its two evaluations were lost."""
    if not attempt.sandbox.grid.is_sparse or after_line is None:
        return []
    trained = [line for line in attempt.said().splitlines() if line.startswith("step 0 ")]
    if not trained or after_line < 1.5 or attempt.says_table():
        return []
    steps = [checks.checkpoint_step(folder) for folder in attempt.sandbox.runs.values()]
    return [] if any(steps) else ["no checkpoint was made when the signal came"]


def _left_after(sandbox: Sandbox, began: float) -> tuple[float | None, list[str]]:
    """(seconds after `began` until nothing was left, []), or (None, what is left)."""
    while True:
        left = sandbox.leftovers()
        spent = time.monotonic() - began
        if not left or spent >= GONE_S:
            return (None if left else spent), [f"left: {each}" for each in left]
        time.sleep(0.05)
