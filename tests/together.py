"""Processes that train one sweep, as commands do, on one machine or on what they take for
several: forks of a server that has imported everything, so that one starts in a moment.
"""

import multiprocessing
import os
import platform
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vae_sweep import grid
from vae_sweep.config import RunConfig
from vae_sweep.records import claim, reader
from vae_sweep.records.run_folder import RunFolder
from vae_sweep.system import stop

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    ["together", "matplotlib.figure", "vae_sweep.training.execute"]
)
PATIENCE_S = 100.0


def _train(
    configs: Sequence[RunConfig], output: Path, host: str | None, stale_s: float | None
) -> None:
    """A command's life. Each end of a run is noted in a file beside the sweep's."""
    with output.open("ab", buffering=0) as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
    if host is not None:
        platform.node = lambda: host
    if stale_s is not None:
        claim.STALE_S, claim.RENEW_S, claim.CLOCK_S = stale_s, stale_s / 10, stale_s
    torch.set_num_threads(1)
    real = RunFolder.finish

    def finish(self: RunFolder, summary: Any) -> None:
        real(self, summary)
        with (self.path.parent.parent / "ends").open("a") as ends:
            ends.write(f"{self.path.name}\n")

    RunFolder.finish = finish
    with stop.handled():
        outcomes = grid.run(list(configs))
    sys.exit(any(isinstance(each, Exception) for each in outcomes))


class Process:
    """One of them. What it says is in `output`; others' may be before it."""

    def __init__(
        self,
        configs: Sequence[RunConfig],
        output: Path,
        host: str | None = None,
        stale_s: float | None = None,
    ):
        self.output = output
        self.process = SERVER.Process(
            target=_train, args=(configs, output, host, stale_s), daemon=True
        )
        self.process.start()

    def signal(self, signum: int) -> None:
        os.kill(self.process.pid or 0, signum)

    def kill(self) -> None:
        self.process.kill()
        self.process.join()

    def said(self) -> str:
        try:
            return " ".join(self.output.read_text().split())
        except FileNotFoundError:  # it is only starting
            return ""

    def wait(self) -> int | None:
        """Its exit code; None where it goes on too long."""
        self.process.join(PATIENCE_S)
        return self.process.exitcode


def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.005)


def rows_of(config: RunConfig) -> bytes:
    path = config.run_dir / "metrics.csv"
    return path.read_bytes() if path.exists() else b""


def struggle(
    configs: Sequence[RunConfig], count: int, kills: int, seed: int, **options: Any
) -> list[Process]:
    """`count` processes train; at random moments one is killed, and another comes. Returns
    the last ones, which have ended."""
    rng = np.random.default_rng(seed)
    folder = configs[0].sweep_dir.parent
    names = iter(range(1000))

    def start() -> Process:
        return Process(configs, folder.parent / f"{next(names)}.out", **options)

    processes = [start() for _ in range(count)]
    for _ in range(kills):
        time.sleep(rng.uniform(0.02, 0.7))
        i = int(rng.integers(count))
        processes[i].kill()
        processes[i] = start()
    codes = [each.wait() for each in processes]
    assert codes == [0] * count, [each.said()[-300:] for each in processes]
    return processes


def check_whole(configs: Sequence[RunConfig], rows: Sequence[bytes]) -> None:
    """Every point has ended, once, with the `rows` that it has alone, and nothing but
    records is left."""
    folder = configs[0].sweep_dir
    assert [rows_of(config) for config in configs] == list(rows)
    for config in configs:
        summary = reader.read_summary(config.run_dir)
        assert summary is not None
        assert summary.status == "finished"
        left = [p.name for p in config.run_dir.iterdir() if p.name not in FILES]
        assert left == [], [p.read_text() for p in config.run_dir.glob("claim-*")]
    ends = Counter((folder.parent / "ends").read_text().split())
    assert max(ends.values()) == 1
    assert reader.read_sweep(folder).keys() == {config.run_id for config in configs}
    assert (folder / "table.csv").exists()
    assert (folder / "overview.png").exists()


FILES = (
    *("config.yaml", "metrics.csv", "training.csv", "summary.json", "state.safetensors"),
    *("reconstructions.png", "samples.png", ".hydra"),
)
