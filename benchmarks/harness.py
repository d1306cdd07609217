"""What a finished point costs apart from its training: compose, folders, records, W&B.

    python -m benchmarks.harness

Runs grids of 24 and of 72 points of a net so small that training is nothing, fused into
one cohort, in processes of their own and in turns; the slope is the cost of a point, its
two evaluations and its share of the table and of the curves included. Grids over seeds,
without and with W&B (offline), and over norm x head: each choice of groups is composed by
Hydra once.
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

REPEATS = 5
FEW, MANY = 24, 72
SEEDS = {n: ["seed=" + ",".join(map(str, range(n)))] for n in (FEW, MANY)}
HEADS = "linear,tanh,sigmoid,hardtanh,tanh_rescaled,sigmoid_rescaled"
GROUPS = {
    FEW: ["norm=unit,zscore,minus1_1,zscore_global", f"head={HEADS}"],
    MANY: [
        "norm=unit,zscore,minus1_1,zscore_global",
        f"head={HEADS}",
        "reduction=sum,gaussian,mean",
    ],
}
KINDS = {  # name -> (overrides by number of points, W&B mode)
    "a point, seeds, W&B disabled": (SEEDS, "disabled"),
    "a point, seeds, W&B offline": (SEEDS, "offline"),
    "a point, norm x head, W&B disabled": (GROUPS, "disabled"),
}
POINT = (
    *("data=npz", "data.path=images.npz", "model.widths=[4]", "model.latent=4"),
    *("train.batch_size=8", "train.steps=1", "train.cohort=72", "train.device=cpu"),
)


def seconds(folder: Path, overrides: list[str], mode: str, sweep: str) -> float:
    command = [sys.executable, "-m", "vae_sweep.run", *POINT, *overrides]
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
    costs: dict[str, list[float]] = {name: [] for name in KINDS}
    helps = []
    with tempfile.TemporaryDirectory() as folder:
        images = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 3), dtype=np.uint8)
        np.savez(Path(folder) / "images.npz", images=images)
        for repeat in range(REPEATS):
            for i, (name, (points, mode)) in enumerate(KINDS.items()):
                few, many = (
                    seconds(Path(folder), points[n], mode, f"{i}-{n}-{repeat}")
                    for n in (FEW, MANY)
                )
                costs[name].append((many - few) / (MANY - FEW))
            helps.append(help_seconds())
    print(f"n = {REPEATS}, {os.cpu_count()} cores, {platform.machine()}, medians")
    for name, values in costs.items():
        print(f"{name:35s} {statistics.median(values) * 1e3:5.0f} ms")
    print(f"{'--help':35s} {statistics.median(helps) * 1e3:5.0f} ms")


if __name__ == "__main__":
    main()
