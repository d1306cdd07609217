"""What a finished point costs apart from its training: compose, folders, records, W&B.

    python -m benchmarks.harness

Runs grids of FEW and of MANY points of a net so small that training is nothing, in
processes of their own and in turns, without and with W&B (offline); the slope is the
cost of a point. The picture is drawn once per grid and counted too.
"""

import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

FEW, MANY, REPEATS = 4, 24, 5
POINT = (
    *("data=npz", "data.path=images.npz", "model.widths=[4]", "model.latent=4"),
    *("train.batch_size=8", "train.steps=1", "train.device=cpu"),
)


def seconds(folder: Path, points: int, mode: str, sweep: str) -> float:
    seeds = ",".join(map(str, range(points)))
    command = [sys.executable, "-m", "vae_sweep.run", *POINT, f"seed={seeds}"]
    start = time.perf_counter()
    subprocess.run(
        [*command, f"log.wandb.mode={mode}", f"sweep={sweep}"],
        cwd=folder,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return time.perf_counter() - start


def help_seconds() -> float:
    start = time.perf_counter()
    command = [sys.executable, "-m", "vae_sweep.run", "--help"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    costs: dict[str, list[float]] = {"disabled": [], "offline": []}
    helps = []
    with tempfile.TemporaryDirectory() as name:
        images = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 3), dtype=np.uint8)
        np.savez(Path(name) / "images.npz", images=images)
        for repeat in range(REPEATS):
            for mode, values in costs.items():
                few = seconds(Path(name), FEW, mode, f"few-{mode}-{repeat}")
                many = seconds(Path(name), MANY, mode, f"many-{mode}-{repeat}")
                values.append((many - few) / (MANY - FEW))
            helps.append(help_seconds())
    print(f"n = {REPEATS}, {os.cpu_count()} cores, {platform.machine()}, medians")
    print(f"a point, W&B disabled  {statistics.median(costs['disabled']) * 1e3:7.0f} ms")
    print(f"a point, W&B offline   {statistics.median(costs['offline']) * 1e3:7.0f} ms")
    print(f"--help                 {statistics.median(helps) * 1e3:7.0f} ms")


if __name__ == "__main__":
    main()
