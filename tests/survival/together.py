"""`python -m tests.survival.together --sweeps 12 --seed 0`: several commands on one sweep,
each killed at random moments and started again; what they leave equals one undisturbed.

Exit codes: 0 if all is well, 1 if a kill cost anything.
"""

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from . import checks
from .carry_out import Laboratory, _code_of
from .grids import GRIDS, Grid
from .sandbox import Attempt

COUNTS = (2, 4)  # commands at a time
KILLS = 5  # of a sweep, by SIGKILL or by SIGTERM


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.survival.together")
    parser.add_argument("--sweeps", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0, help="of moments and of who is hit")
    asked = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # commands end with this one
    rng, failed = np.random.default_rng(asked.seed), 0
    with tempfile.TemporaryDirectory() as folder:
        laboratory = Laboratory(Path(folder))
        for number in range(asked.sweeps):
            grid, count = GRIDS[number % len(GRIDS)], COUNTS[number // len(GRIDS) % 2]
            failures = carried_out(laboratory, f"sweep {number}", grid, count, rng)
            print(f"{grid.name}, {count} commands: {failures or 'ok'}", flush=True)
            failed += bool(failures)
    return int(failed > 0)


def carried_out(
    laboratory: Laboratory, name: str, grid: Grid, count: int, rng: np.random.Generator
) -> list[str]:
    """What is wrong with a sweep that `count` commands trained while they were killed."""
    reference = laboratory.reference(grid)
    sandbox = laboratory.sandbox(name, grid)
    try:
        running = [sandbox.start() for _ in range(count)]
        killed: list[Attempt] = []
        for _ in range(KILLS):
            time.sleep(rng.uniform(0.1, reference.table_s / 2))
            i = int(rng.integers(count))
            signum = rng.choice([signal.SIGKILL, signal.SIGTERM])
            with suppress(ProcessLookupError):
                os.killpg(running[i].process.pid, signum)
            running[i].wait()
            killed.append(running[i])
            running[i] = sandbox.start()
        codes = [each.wait() for each in running]
        failures = [
            f"exit code {code}" for code in codes if code not in (0, _code_of(grid))
        ]
        for each in [*killed, *running]:
            failures += checks.said_no_traceback(each)
        if not any(each.says_table() for each in [*killed, *running]):
            failures.append("nobody printed the table")
        left = [str(path) for path in sandbox.folder.glob("runs/*/*/claim-*")]
        return [*failures, *left, *checks.ended_like(sandbox, reference.sandbox)]
    finally:
        sandbox.clear()


if __name__ == "__main__":
    sys.exit(main())
