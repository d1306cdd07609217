"""Whether two commits train at the same speed: their steps, in turns.

    python -m benchmarks.same_speed COMMIT [OTHER]

OTHER is the working tree unless named. Each has a process of its own, in one thread; the
two take turns, block by block, so that whatever else the machine does hits both. Prints
medians, and the median of the pairwise ratios OTHER / COMMIT.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import torch

from benchmarks.configs import NARROW, WIDE
from benchmarks.same_numbers import checkout

ROUNDS = 20
CASES = {  # name -> (overrides, runs, steps of a block)
    "default net, R = 1": (WIDE, 1, 4),
    "default net, R = 8": (WIDE, 8, 1),
    "small net, R = 1": ((*NARROW, "train.batch_size=32"), 1, 40),
    "small net, R = 8": ((*NARROW, "train.batch_size=32"), 8, 6),
}
# of any version: says that it is ready, then trains a block for each line that it reads
TRAINS = """
import sys, time, torch
try:
    from vae_sweep.command.entry import CONF, config_of
    from vae_sweep.training.device import keep_freed_memory
    from vae_sweep.training.step import Trainer
    from vae_sweep.vae.normalize import histograms
    from vae_sweep.vae.point import point
except ImportError:  # before the folders
    from vae_sweep.arguments import CONF
    from vae_sweep.command import config_of
    from vae_sweep.cohort import point
    from vae_sweep.normalize import histograms
    from vae_sweep.process import keep_freed_memory
    from vae_sweep.trainer import Trainer
from hydra import compose, initialize_config_dir
runs, steps, *overrides = sys.argv[1:]
keep_freed_memory()
images = torch.randint(0, 256, (5000, 3, 32, 32), dtype=torch.uint8)
with initialize_config_dir(str(CONF), version_base="1.3"):
    configs = [
        config_of(compose("config", [*overrides, f"seed={s}", "train.steps=100000"]))
        for s in range(int(runs))
    ]
counts = histograms(images)
points = [point(config, counts, 1024) for config in configs]
trainer = Trainer(configs, points, images, "cpu")
trainer.update()
print("ready", flush=True)
for _ in sys.stdin:
    start = time.perf_counter()
    for _ in range(int(steps)):
        trainer.update()
    print((time.perf_counter() - start) / int(steps), flush=True)
"""


class Version:
    """A process that trains with the code of a folder."""

    def __init__(self, code: Path, overrides: tuple[str, ...], runs: int, steps: int):
        command = [sys.executable, "-c", TRAINS, str(runs), str(steps)]
        environment = {**os.environ, "PYTHONPATH": str(code), "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [*command, "train.device=cpu", *overrides],
            env=environment,
            cwd=tempfile.gettempdir(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.asks, self.says = self.process.stdin, self.process.stdout
        assert self.says.readline() == "ready\n"

    def seconds(self) -> float:
        """A step, by a block of them."""
        self.asks.write("\n")
        self.asks.flush()
        return float(self.says.readline())

    def end(self) -> None:
        self.asks.close()
        self.process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.same_speed")
    parser.add_argument("commit")
    parser.add_argument("other", nargs="?", help="the working tree unless named")
    asked = parser.parse_args()
    print(
        f"n = {ROUNDS} rounds in turns, fp32, 1 thread, CPU {platform.machine()}, torch "
        f"{torch.__version__}"
    )
    print(f"{'':20s} {'first, ms':>10s} {'other, ms':>10s} {'other / first':>14s}")
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        codes = [
            stack.enter_context(checkout(commit, Path(name) / f"code {k}"))
            for k, commit in enumerate((asked.commit, asked.other))
        ]
        for case, (overrides, runs, steps) in CASES.items():
            versions = [Version(code, overrides, runs, steps) for code in codes]
            pairs: list[tuple[float, float]] = []
            for turn in range(ROUNDS + 1):
                first, other = versions if turn % 2 else versions[::-1]
                spent = {first: first.seconds(), other: other.seconds()}
                if turn:  # the first warms up
                    pairs.append((spent[versions[0]], spent[versions[1]]))
            for version in versions:
                version.end()
            ratio = statistics.median(b / a for a, b in pairs)
            before, after = (statistics.median(p[k] for p in pairs) * 1e3 for k in (0, 1))
            print(f"{case:20s} {before:10.2f} {after:10.2f} {ratio:14.3f}", flush=True)


if __name__ == "__main__":
    main()
