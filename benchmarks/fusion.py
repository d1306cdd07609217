"""Where runs that train as one beat runs that train alone, on one CPU core, and what the
planner chooses.

    python -m benchmarks.fusion

For nets and batches from tiny to large, the time of a step divided by the runs in it, for
cohorts of 1 to 16 runs, all sizes in turns.
"""

import os
import platform
import statistics
import time

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from benchmarks.configs import CONSTANT, NARROW, configs
from vae_sweep.config import RunConfig
from vae_sweep.training.device import keep_freed_memory
from vae_sweep.training.plan import SMALL, footprint
from vae_sweep.training.step import Trainer
from vae_sweep.vae.normalize import histograms
from vae_sweep.vae.point import point

SIZES = (1, 2, 4, 8, 16)
ROUNDS = 7
COMMON = ("train.device=cpu", "train.steps=1000000")
SECONDS = 0.3  # of a block, at least
NETS = (
    ([*NARROW, "model.widths=[4,8]", "model.latent=8", "train.batch_size=8"], 16),
    ([*NARROW, "model.widths=[8,16]", "model.latent=16", "train.batch_size=16"], 16),
    ([*CONSTANT, "model=linear", "train.batch_size=128"], 32),
    ([*NARROW, "train.batch_size=8"], 32),
    ([*NARROW, "train.batch_size=16"], 32),
    ([*NARROW, "train.batch_size=32"], 32),
    ([*NARROW, "train.batch_size=64"], 32),
    ([*CONSTANT, "model=conv", "train.batch_size=32"], 32),
    ([*CONSTANT, "model=conv", "train.batch_size=128"], 32),
)


def block(trainer: Trainer, steps: int) -> float:
    """Seconds per step and run."""
    start = time.perf_counter()
    for _ in range(steps):
        trainer.update()
    return (time.perf_counter() - start) / steps / len(trainer.seeds)


def measure(chosen: list[RunConfig], images: Tensor) -> tuple[list[float], int]:
    """(Seconds per run of each of SIZES, bytes of activations in a step of one run)."""
    counts = histograms(images)
    channels, height, width = images.shape[1:]
    points = [point(config, counts, height * width) for config in chosen]
    trainers = [Trainer(chosen[:n], points[:n], images, "cpu") for n in SIZES]
    steps = [max(1, round(SECONDS / (block(t, 3) * len(t.seeds)))) for t in trainers]
    times: list[list[float]] = [[] for _ in SIZES]
    for _ in range(ROUNDS):
        for spent, trainer, count in zip(times, trainers, steps, strict=True):
            spent.append(block(trainer, count))
    needs = footprint(chosen[0], points[0], (channels, height, width))
    medians = [statistics.median(spent) for spent in times]
    return medians, needs.activations * chosen[0].train.batch_size


def main() -> None:
    torch.set_num_threads(1)
    keep_freed_memory()
    console = Console(width=120)
    console.print(
        f"1 of {os.cpu_count()} CPU cores ({platform.machine()}), fp32, torch "
        f"{torch.__version__}; ms per step and run; n = {ROUNDS} rounds of "
        f"{SECONDS} s or more, medians"
    )
    table = Table(box=None, pad_edge=False)
    table.add_column("net, images")
    for header in ("MB", *(f"R = {n}" for n in SIZES), "fastest / alone", "planned"):
        table.add_column(header, justify="right")
    for overrides, size in track(NETS, "timing", console=Console(stderr=True)):
        images = torch.randint(0, 256, (1000, 3, size, size), dtype=torch.uint8)
        times, activations = measure(configs(SIZES[-1], *COMMON, *overrides), images)
        cells = [f"{spent * 1e3:.2f}" for spent in times]
        planned = "together" if activations <= SMALL else "alone"
        gain = f"{min(times) / times[0]:.2f}"
        name = f"{' '.join(overrides)}, {size}x{size}"
        table.add_row(name, f"{activations / 1e6:.1f}", *cells, gain, planned)
    console.print(table)


if __name__ == "__main__":
    main()
