"""A whole grid on CPU beside the same points one after the other, in other hands.

    python -m benchmarks.speed            (needs `pip install -e .[bench]`)

Ours is a grid from validated configs to the table: worker processes, evaluations,
checkpoints and pictures at the default cadence included. The others only train: each is
timed on one point and multiplied by the number of points, which share nothing there. All
take turns, round by round, on the same images (random bytes) in memory.
"""

import contextlib
import io
import os
import platform
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from benchmarks import peers
from benchmarks.bare import bare_step
from benchmarks.configs import NARROW, WIDE, configs
from vae_sweep import grid
from vae_sweep.config import ConvConfig, RunConfig
from vae_sweep.training.device import keep_freed_memory

ROUNDS = 3
STEPS = 500
SETTINGS = {  # name -> (overrides, points)
    "default net, batch 128, 8 points": (WIDE, 8),
    "small net, batch 64, 16 points": ((*NARROW, "train.batch_size=64"), 16),
}
Seconds = Callable[[], float]  # of the whole grid


def configs_of(overrides: Sequence[str], points: int, path: Path) -> list[RunConfig]:
    """A grid over seeds; norms and heads cost the same."""
    common = [
        "data=npz",
        f"data.path={path}",
        "data.val_images=500",
        "data.test_images=500",
        "train.device=cpu",
        f"train.steps={STEPS}",
        "log.wandb.mode=disabled",
    ]
    return configs(points, *common, *overrides)


def ours(points: list[RunConfig]) -> Seconds:
    def seconds() -> float:
        with tempfile.TemporaryDirectory() as runs:
            start = time.perf_counter()
            with contextlib.redirect_stdout(io.StringIO()):
                grid.run([config.model_copy(update={"runs": runs}) for config in points])
            return time.perf_counter() - start

    return seconds


def one_by_one(train: Callable[[], None], points: int) -> Seconds:
    def seconds() -> float:
        start = time.perf_counter()
        train()
        return (time.perf_counter() - start) * points

    return seconds


def bare(images: Tensor, config: ConvConfig, batch: int, steps: int) -> Callable[[], None]:
    def train() -> None:
        step = bare_step(images, config, batch)
        for _ in range(steps):
            step()

    return train


def rows_of(
    overrides: Sequence[str], points: int, images: Tensor, path: Path
) -> dict[str, Seconds]:
    chosen = configs_of(overrides, points, path)
    model, batch = chosen[0].model, chosen[0].train.batch_size
    assert isinstance(model, ConvConfig)
    common = (images, model, batch, STEPS)
    in_bf16 = configs_of([*overrides, "train.precision=bf16"], points, path)
    return {
        "vae-sweep": ours(chosen),
        "vae-sweep, bf16": ours(in_bf16),
        "bare loop": one_by_one(bare(*common), points),
        "pythae": one_by_one(peers.pythae(*common), points),
        "Lightning, tensors": one_by_one(peers.lightning(*common, False), points),
        "Lightning, transforms": one_by_one(peers.lightning(*common, True), points),
    }


def measure(rows: dict[str, Seconds], name: str) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {row: [] for row in rows}
    for _ in track(range(ROUNDS), name, console=Console(stderr=True)):
        for row, seconds in rows.items():
            times[row].append(seconds())
    return times


def main() -> None:
    warnings.simplefilter("ignore")
    keep_freed_memory()
    only = sys.argv[1:]
    rng = np.random.default_rng(0)
    seen = STEPS * 128  # an epoch of the peers is as long as our training
    pixels = rng.integers(0, 256, (seen, 3, 32, 32), dtype=np.uint8)
    packages = ("torch", "pythae", "lightning")
    console = Console(width=100)
    console.print(
        f"{os.cpu_count()} CPU cores ({platform.machine()}), {torch.get_num_threads()} "
        f"threads, Python {platform.python_version()}, "
        + ", ".join(f"{name} {version(name)}" for name in packages)
        + f"; n = {ROUNDS} rounds, {STEPS} steps, fp32 unless said, medians"
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "images.npz"
        np.savez(path, images=pixels[:12_000].transpose(0, 2, 3, 1))
        for name, (overrides, points) in SETTINGS.items():
            if only and not any(part in name for part in only):
                continue
            rows = rows_of(overrides, points, torch.from_numpy(pixels), path)
            console.print(_table(name, measure(rows, name)))


def _table(name: str, times: dict[str, list[float]]) -> Table:
    table = Table(box=None, pad_edge=False, title=name, title_justify="left")
    table.add_column("")
    for header in ("grid, s", "vae-sweep / this", "bf16 / this"):
        table.add_column(header, justify="right")
    for row, seconds in times.items():
        ratios = [
            statistics.median(o / s for o, s in zip(times[mine], seconds, strict=True))
            for mine in ("vae-sweep", "vae-sweep, bf16")
        ]
        cells = (f"{ratio:.2f}" for ratio in ratios)
        table.add_row(row, f"{statistics.median(seconds):.1f}", *cells)
    return table


if __name__ == "__main__":
    main()
