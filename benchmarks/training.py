"""How the cost of training a grid grows with its points: wall time and peak memory.

    python -m benchmarks.training [overrides of vae_sweep.run]

Runs the command itself on 1, 2, 4 ... 64 seeds, each grid in a process of its own, and
adds up the memory of all its processes (shared pages once).
"""

import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.configs import WIDE

SIZES = (1, 2, 4, 8, 16, 32, 64)
STEPS = 50


def memory_of(pid: int) -> int:
    """Bytes of a process and its descendants, what they share counted in parts."""
    total = 0
    for child in [pid, *_descendants(pid)]:
        try:
            lines = Path(f"/proc/{child}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total * 1024


def _descendants(pid: int) -> list[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [d for child in map(int, children) for d in (child, *_descendants(child))]


def cost(command: list[str], folder: str) -> tuple[float, int, str]:
    """(seconds, peak bytes, output) of a command."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *command], cwd=folder, stdout=subprocess.PIPE, text=True
    )
    peak, ended = 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not ended.wait(0.2):
            peak = max(peak, memory_of(process.pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    out, _ = process.communicate()
    spent = time.perf_counter() - start
    ended.set()
    watcher.join()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed")
    return spent, peak, out


def main() -> None:
    console = Console(width=100)
    console.print(
        f"{os.cpu_count()} CPU cores ({platform.machine()}), torch {torch.__version__}; "
        f"n = 1, {STEPS} steps"
    )
    table = Table(box=None, pad_edge=False)
    for header in ("points", "wall, s", "s per point", "peak memory, GB", "plan"):
        table.add_column(header, justify="left" if header == "plan" else "right")
    run = ["-m", "vae_sweep.run", "-m", "log.wandb.mode=disabled", f"train.steps={STEPS}"]
    run += WIDE
    with tempfile.TemporaryDirectory() as folder:
        for size in SIZES:
            seeds = "seed=" + ",".join(map(str, range(size)))
            command = [*run, seeds, f"sweep=n{size}", *sys.argv[1:]]
            spent, peak, out = cost(command, folder)
            plan = next(line for line in out.splitlines() if "training" in line)
            how = plan.partition(": ")[2]
            cells = (f"{spent:.1f}", f"{spent / size:.2f}", f"{peak / 1e9:.2f}", how)
            table.add_row(str(size), *cells)
        console.print(table)


if __name__ == "__main__":
    main()
