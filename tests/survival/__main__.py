"""`python -m tests.survival --kills 150 --seed 0`: see the package's docstring.

Results are appended to <folder>/results.jsonl, so that the same command goes on where it
was stopped. Exit codes: 0 if all is well, 1 if a kill cost anything.
"""

import argparse
import hashlib
import json
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from .carry_out import Laboratory, Outcome, Result
from .plan import KINDS, PHASES, Case, cases

REPOSITORY = Path(__file__).parents[2]
BEGIN, END = "<!-- kills: make survival -->", "<!-- end of kills -->"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.survival", description=__doc__)
    parser.add_argument("--kills", type=int, default=150, help="at least so many")
    parser.add_argument("--seed", type=int, default=0, help="of kinds, times and sweeps")
    parser.add_argument("--folder", type=Path, default=REPOSITORY / ".survival")
    parser.add_argument("--case", type=int, help="this one alone, e.g. one that failed")
    parser.add_argument("--readme", type=Path, help="put the table into this file")
    asked = parser.parse_args(arguments)
    folder = asked.folder / f"{_code()}-seed{asked.seed}"
    folder.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # commands end with this one
    laboratory = Laboratory(folder.resolve())
    if asked.case is not None:
        case = next(c for c in cases(asked.seed) if c.number == asked.case)
        outcome = laboratory.carry_out(case)
        _say(case, outcome)
        return int(outcome.failed)
    started = time.monotonic()
    outcomes = _read(folder / "results.jsonl")
    known = {outcome.number for outcome in outcomes}
    for case in cases(asked.seed):
        if sum(len(o.kills) for o in outcomes) >= asked.kills:
            break
        if case.number in known:
            continue
        outcome = laboratory.carry_out(case)
        outcomes.append(outcome)
        with (folder / "results.jsonl").open("a") as file:
            file.write(json.dumps(outcome._asdict()) + "\n")
        done = sum(len(o.kills) for o in outcomes)
        print(f"{done}/{asked.kills} kills, {time.monotonic() - started:.0f} s", end="  ")
        _say(case, outcome)
    text = table(outcomes)
    (folder / "table.md").write_text(text)
    print(f"\n{text}\n{folder}")
    if asked.readme is not None:
        put_between(asked.readme, BEGIN, END, text)
    return int(any(outcome.failed for outcome in outcomes))


def _code() -> str:
    """A hash of the code that is killed, and of the code that kills it."""
    digest = hashlib.sha256()
    for part in ("vae_sweep", "hydra_plugins", "conf", "tests/survival"):
        for path in sorted((REPOSITORY / part).rglob("*")):
            if path.suffix in (".py", ".yaml"):
                digest.update(path.read_bytes())
    return digest.hexdigest()[:8]


def _read(path: Path) -> list[Outcome]:
    if not path.exists():
        return []
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [
        Outcome(**{**line, "kills": [Result(*kill) for kill in line["kills"]]})
        for line in lines
    ]


def _say(case: Case, outcome: Outcome) -> None:
    kills = ", ".join(
        f"{k.kind} at {k.after_start_s:.1f} s ({k.phase})" for k in outcome.kills
    )
    print(f"case {case.number}, {outcome.grid}: {kills or 'no kill in time'}", end="")
    print("" if outcome.failed else "  ok", flush=True)
    for kill in outcome.kills:
        for failure in kill.failures:
            print(f"    {kill.kind}: {failure}", flush=True)
    for failure in outcome.failures:
        print(f"    at the end: {failure}", flush=True)
    if outcome.failed:
        print(f"    kept: {outcome.folder}; {outcome.command}", flush=True)


def table(outcomes: list[Outcome]) -> str:
    """Markdown: a line per kind and phase, then the sum."""
    kills, failed, resumed = Counter(), Counter(), Counter()
    ended: dict[tuple[str, str], float] = {}
    gone: dict[tuple[str, str], float] = {}
    for outcome in outcomes:
        for k, kill in enumerate(outcome.kills):
            key = kill.kind, kill.phase
            last = k == len(outcome.kills) - 1
            kills[key] += 1
            resumed[key] += outcome.resumed
            failed[key] += bool(kill.failures or (last and outcome.failures))
            if kill.exit_s is not None:
                ended[key] = max(ended.get(key, 0), kill.exit_s)
            if kill.clean_s is not None:
                gone[key] = max(gone.get(key, 0), kill.clean_s)
    lines = [
        "| kind | phase | kills | sweeps that ended equal | failures | slowest exit (s) "
        "| all gone after (s) |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for key in sorted(kills, key=lambda k: (KINDS.index(k[0]), list(PHASES).index(k[1]))):
        spent = [f"{times[key]:.1f}" if key in times else "–" for times in (ended, gone)]
        cells = (*key, kills[key], resumed[key], failed[key], *spent)
        lines.append(f"| {' | '.join(map(str, cells))} |")
    worst = [f"{max(times.values(), default=0):.1f}" for times in (ended, gone)]
    total = ("all", "", kills.total(), resumed.total(), failed.total(), *worst)
    lines.append(f"| {' | '.join(map(str, total))} |")
    early = sum(k.phase == "first 3 s" for o in outcomes for k in o.kills)
    seconds = sum(outcome.seconds for outcome in outcomes)
    lines.append("")
    lines.append(
        f"{len(outcomes)} sweeps, {kills.total()} kills, {early} of them within 3 s after "
        f"training started; {seconds / 60:.0f} minutes."
    )
    return "\n".join(lines) + "\n"


def put_between(path: Path, begin: str, end: str, text: str) -> None:
    """Replaces what stands between two lines of a file."""
    before, _, rest = path.read_text().partition(begin)
    _, _, after = rest.partition(end)
    path.write_text(f"{before}{begin}\n{text}{end}{after}")


if __name__ == "__main__":
    sys.exit(main())
