"""What must hold after a kill and after the sweep has ended."""

import csv
import json
import math
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from .sandbox import Attempt, Sandbox
from .wandb_files import history

GOES_ON = "the same command goes on from here"


def stopped_well(attempt: Attempt, code: int, expected: int) -> list[str]:
    """What a command that was asked to stop owes: an exit code, a line on how to go on."""
    failures = [] if code == expected else [f"exit code {code}, not {expected}"]
    lines = attempt.complained().splitlines()
    if len(lines) != 1 or GOES_ON not in lines[0]:
        shown = " / ".join(lines)[-300:] or "nothing"
        failures.append(f"stderr is not one line that says how to go on, but: {shown}")
    return failures


def said_no_traceback(attempt: Attempt) -> list[str]:
    text = attempt.said() + attempt.complained()
    if "Traceback" not in text:
        return []
    last = [line for line in text.splitlines() if line.strip()][-1]
    return [f"a traceback, which ends: {last[:200]}"]


def checkpoint_step(folder: Path) -> int | None:
    """The step of a run's checkpoint; None where there is no whole one."""
    try:
        with safe_open(folder / "state.safetensors", framework="numpy") as file:
            return int((file.metadata() or {})["step"])
    except (SafetensorError, OSError, KeyError, ValueError):
        return None


def ended_like(sandbox: Sandbox, reference: Sandbox) -> list[str]:
    """The runs of an ended sweep against those of one that nothing disturbed."""
    ours, theirs = sandbox.runs, reference.runs
    if ours.keys() != theirs.keys():
        return [f"runs {sorted(ours)} in place of {sorted(theirs)}"]
    failures = []
    for name in theirs:
        failures += [f"{name}: {f}" for f in _run_like(ours[name], theirs[name])]
        failures += [f"{name}: {f}" for f in wandb_failures(ours[name], sandbox.wandb)]
    if not (sandbox.folder / "runs/main/overview.png").exists():
        failures.append("no overview.png")
    return failures


def _run_like(ours: Path, theirs: Path) -> list[str]:
    failures = []
    for name in ("metrics.csv", "training.csv"):
        if _bytes(ours / name) != _bytes(theirs / name):
            failures.append(f"{name} differs")
    status, expected = _status(ours), _status(theirs)
    if status != expected:
        failures.append(f"status {status}, not {expected}")
    expected = checkpoint_step(theirs)
    if checkpoint_step(ours) != expected:
        failures.append(f"checkpoint of step {checkpoint_step(ours)}, not {expected}")
    return failures


def _bytes(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


def _status(folder: Path) -> str | None:
    try:
        return json.loads((folder / "summary.json").read_text())["status"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def told_rows(run: Path) -> list[dict[str, float]]:
    """What loggers are to hear of a run, in order: the rows of metrics.csv and training.csv
    by step; an empty cell is what was not measured."""
    by_step: dict[float, dict[str, float]] = {}
    for name, prefix in (("metrics.csv", ""), ("training.csv", "batch/")):
        with (run / name).open() as file:
            for row in csv.DictReader(file):
                step = float(row.pop("step"))
                values = {prefix + key: float(v) for key, v in row.items() if v}
                by_step.setdefault(step, {"step": step}).update(values)
    return [by_step[step] for step in sorted(by_step)]


def wandb_failures(run: Path, wandb: Path) -> list[str]:
    """Where the newest offline file of a run differs from its metrics.csv and
    training.csv."""
    segments = sorted(wandb.glob(f"offline-run-*-{run.name}"))
    if not segments:
        return ["W&B has no offline file"]
    logged: dict[float, list[dict[str, Any]]] = {}
    for row in history(segments[-1] / f"run-{run.name}.wandb"):
        if "step" in row:
            logged.setdefault(float(row["step"]), []).append(row)
    rows = told_rows(run)
    steps = [row["step"] for row in rows]
    counts = {step: len(found) for step, found in logged.items()}
    if counts != dict.fromkeys(steps, 1):
        missing = [int(step) for step in steps if step not in counts]
        double = [int(step) for step, n in counts.items() if n > 1]
        foreign = [int(step) for step in counts if step not in steps]
        return [f"W&B misses steps {missing}, has {double} twice, {foreign} besides"]
    failures = []
    for row in rows:
        [found] = logged[row["step"]]
        wrong = [key for key, value in row.items() if not _equal(found.get(key), value)]
        if wrong:
            failures.append(f"W&B has other values at step {int(row['step'])}: {wrong}")
    if rows:
        evaluated = max(row["step"] for row in rows if "epoch" in row)
        failures += _picture_failures(run, segments[-1], logged[evaluated][0])
    return failures


def _equal(found: Any, value: float) -> bool:
    if found is None:
        return False
    return float(found) == value or math.isclose(float(found), value, rel_tol=1e-15)


def _picture_failures(run: Path, segment: Path, last: dict[str, Any]) -> list[str]:
    failures = []
    for name in ("reconstructions", "samples"):
        path = last.get(f"{name}/path")
        if path is None:
            failures.append(f"W&B has no {name} at the last step")
        elif _bytes(segment / "files" / path) != _bytes(run / f"{name}.png"):
            failures.append(f"W&B's {name} of the last step are not {name}.png")
    return failures
