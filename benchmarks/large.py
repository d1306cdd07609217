"""What a large sweep costs beside its training, in CPU time and memory.

    python -m benchmarks.large

1,000 points are composed, validated and planned; 1,000 that have ended are asked for again,
which trains nothing; `vae_sweep.results` reads 2,000 runs; `--help`. Each in processes of
its own, imports included. Trains 2,000 runs of one step first, which takes minutes.
"""

import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml

ROUNDS = 5
POINTS = (
    *("norm=unit,minus1_1,zscore,zscore_global", "beta=0.1,0.5,1,2,4"),
    "head=linear,tanh,tanh_rescaled,hardtanh,sigmoid_rescaled",
)
TINY = (
    *("data=npz", "data.path=images.npz", "data.cache=cache", "model=small"),
    *("model.widths=[4]", "model.latent=2", "train.batch_size=8", "train.workers=1"),
    *("train.steps=1", "train.eval_every=1", "log.wandb.mode=disabled"),
)
RUN = ("-m", "vae_sweep.run", *POINTS, *TINY)
PLAN = """
from vae_sweep.command import entry
def grid(configs):
    from vae_sweep.data.dataset import Datasets
    from vae_sweep.training.locate import locate
    from vae_sweep.training.plan import plans
    from vae_sweep.training.prepare import prepare
    points = prepare(locate(configs, Datasets()), print)
    [made] = plans(points, len(points))
    print(made)
entry.main(grid, "")
"""
LOAD = "import vae_sweep; print(len(vae_sweep.results('runs/large').finals))"


class Cost(NamedTuple):
    """CPU seconds, and the most memory in MB, of a process; at least this one's own, which
    therefore imports little."""

    cpu: float
    memory: float


def cost(folder: Path, *command: str) -> Cost:
    with (folder / "log.txt").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, *command], cwd=folder, stdout=log, stderr=log
        )
        _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit((folder / "log.txt").read_text()[-2000:])
    return Cost(used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)


def main() -> None:
    print(
        f"{os.cpu_count()} CPU cores ({platform.machine()}), Python "
        f"{platform.python_version()}, torch {version('torch')}; n = {ROUNDS}, medians"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pixels = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 3), np.uint8)
        np.savez(folder / "images.npz", images=pixels)
        thousand, two_thousand = "seed=range(10)", "seed=range(20)"
        plan = ("-c", PLAN, *POINTS, *TINY, thousand, "sweep=planned")
        imports = ("-c", "import torch, vae_sweep.training.plan, vae_sweep.command.entry")
        cases = {
            "1,000 points composed, validated, planned": plan,
            "  of which the imports take": imports,
        }
        cost(folder, *RUN, two_thousand, "sweep=large")
        for path in (folder / "runs/large").glob("*/config.yaml"):
            if yaml.safe_load(path.read_text())["seed"] < 10:
                shutil.copytree(path.parent, folder / "runs/main" / path.parent.name)
        cases |= {
            "1,000 points that have ended asked for again": (*RUN, thousand),
            "vae_sweep.results of 2,000 runs": ("-c", LOAD),
            "--help": ("-m", "vae_sweep.run", "--help"),
        }
        for what, command in cases.items():
            costs = [cost(folder, *command) for _ in range(ROUNDS + 1)][1:]
            cpu, memory = (statistics.median(values) for values in zip(*costs, strict=True))
            print(f"{what:46s} {cpu:5.1f} s of CPU {memory:6.0f} MB", flush=True)


if __name__ == "__main__":
    main()
