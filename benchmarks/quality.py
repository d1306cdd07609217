"""Seconds until a VAE passes the linear optimum, ours and in other hands, on this machine.

    python -m benchmarks.quality [overrides of vae_sweep.run]
                                          (needs `pip install -e .[bench]`)

The target is what the best linear VAE reaches at the same noise, in calibrated bits per
dim. All train the default network on the default images; of ours, z-score with a linear
head is judged. Ours is the grid of the four headline points as the command trains it, a
process on each core (a quarter of the seconds is a point's), or a grid of one point, from
validated configs on: the start of processes, reading the images, evaluations, checkpoints
and pictures included. The others train a point with all cores as threads; their clocks
start with the images in memory and include their own validation after each epoch.

A peer's usual recipe has the learning rate, batch and loss of its manual, and a constant
beta, chosen so that the loss implies the same noise. With our recipe it has our
normalization, initial weights, batch, and rate and beta at every step, and Adam's fused
update, which its manual does not name.

Every EVERY steps all are judged by the same code on the validation images, in a callback
of their own kind, whose time is not counted. A row is given up after PATIENCE times the
seconds of ours in the same round, or where its schedule ends.
"""

import contextlib
import functools
import io
import logging
import math
import os
import platform
import sys
import tempfile
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.data import TensorDataset
from torchvision.transforms import ToTensor

from benchmarks import peers
from benchmarks.bare import Bare
from benchmarks.configs import configs
from benchmarks.judge import Ended, Judge, trained_by_us
from vae_sweep import grid
from vae_sweep.config import ConvConfig, RunConfig
from vae_sweep.data.dataset import Dataset, load
from vae_sweep.theory.prediction import predict
from vae_sweep.training.device import keep_freed_memory
from vae_sweep.vae import schedules
from vae_sweep.vae.cohort import Cohort
from vae_sweep.vae.point import point

OURS = "vae-sweep, a grid"
ROUNDS = 5
PATIENCE = 3  # times ours
HEADLINE = [(norm, head) for norm in ("zscore", "minus1_1") for head in ("linear", "tanh")]
FIXED = ("train.device=cpu", "log.wandb.mode=disabled")
USUAL = (  # of both manuals; steps that nobody waits for
    *("train.lr=0.001", "train.lr_schedule=constant", "train.lr_warmup=0"),
    *("beta.fraction=0", "train.steps=100000"),
)
# pythae's loss is half the squared error + beta * KL, over pixels in [0, 1]; its CIFAR-10
# example has batches of 100. Lightning's example is the mean squared error of ToTensor's
# images in batches of 32, to which beta * KL is added.
PYTHAE = ("reduction=gaussian",)
PYTHAE_USUAL = (*PYTHAE, "norm=unit", "train.batch_size=100", *USUAL)
LIGHTNING_USUAL = ("reduction=pixel_mean", "norm=unit", "train.batch_size=32", *USUAL)


def train_ours(chosen: list[RunConfig], judge: Judge) -> None:
    """A grid of ours, of which the first point is judged."""
    with tempfile.TemporaryDirectory() as folder:
        asked = [config.model_copy(update={"runs": f"{folder}/runs"}) for config in chosen]
        train = functools.partial(grid.run, asked)
        trained_by_us(train, judge, asked[0].run_id, Path(folder) / "judge")


def train_peer(
    until: peers.Until, config: RunConfig, dataset: Dataset, ours: bool, judge: Judge
) -> None:
    """A peer with the rate, beta, batch and loss weight of `config`; with `ours`, with our
    initial weights and the fused update too."""
    _, height, width = dataset.shape
    constants = point(config, dataset.counts, height * width)
    steps = config.train.total_steps(len(dataset.images.train))
    rates = config.train.lr * schedules.rate_multipliers(config.train, steps)
    betas = constants.beta * schedules.beta_multipliers(config.beta, steps)
    weight, _ = constants.weights
    recipe = peers.Recipe(
        config.train.batch_size, weight, rates.tolist(), betas.tolist(), fused=ours
    )
    assert isinstance(config.model, ConvConfig)
    judge.start()
    torch.manual_seed(config.seed)
    bare = Bare(config.model)
    if ours:
        bare.take(Cohort([config], [constants], dataset.shape))

    def see(u: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x_hat, mu, logvar = bare(constants.norm.forward(u), noise)
        return constants.norm.inverse(x_hat), mu, logvar

    until(bare, recipe, config.seed, lambda step: judge(step, bare, see))


class Row(NamedTuple):
    """A row of the table: how it trains with a seed, its steps, and the points that it
    trains at once."""

    train: Callable[[int, Judge], None]
    steps: int
    points: int = 1


def rows_of(dataset: Dataset, overrides: list[str]) -> dict[str, Row]:
    """All rows; what they train on is made here, ahead of their clocks."""
    train, val = dataset.images.train, dataset.images.val

    def of_ours(pairs: list[tuple[str, str]]) -> Row:
        grids = [
            configs(ROUNDS, f"norm={norm}", f"head={head}", *FIXED, *overrides)
            for norm, head in pairs
        ]
        return Row(
            lambda seed, judge: train_ours([each[seed] for each in grids], judge),
            grids[0][0].train.total_steps(len(train)),
            len(pairs),
        )

    def of_peer(until: peers.Until, *options: str, ours: bool = False) -> Row:
        chosen = configs(ROUNDS, *FIXED, *options, *overrides)
        return Row(
            lambda seed, judge: train_peer(until, chosen[seed], dataset, ours, judge),
            chosen[0].train.total_steps(len(train)),
        )

    [config] = configs(1, *FIXED, *overrides)
    _, height, width = dataset.shape
    norm = point(config, dataset.counts, height * width).norm
    pixels = [images.float() / 255 for images in (train, val)]
    zscored = [norm.forward(u) for u in pixels]
    tensors = [TensorDataset(x) for x in zscored]
    pictures = [peers.Pictures(images, ToTensor()) for images in (train, val)]
    return {
        OURS: of_ours(HEADLINE),
        "vae-sweep, a point": of_ours(HEADLINE[:1]),
        "pythae, usual recipe": of_peer(peers.pythae_until(*pixels), *PYTHAE_USUAL),
        "Lightning, usual recipe": of_peer(
            peers.lightning_until(*pictures), *LIGHTNING_USUAL
        ),
        "pythae, our recipe": of_peer(peers.pythae_until(*zscored), *PYTHAE, ours=True),
        "Lightning, our recipe": of_peer(peers.lightning_until(*tensors), ours=True),
    }


def judged(row: Row, seed: int, judge: Judge) -> Judge:
    """`judge`, after it ended the training of a row."""
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        contextlib.suppress(Ended),
    ):
        row.train(seed, judge)
    return judge


def main() -> None:
    cores = os.cpu_count() or 1
    torch.set_num_threads(cores)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    keep_freed_memory()
    overrides = sys.argv[1:]
    [config] = configs(1, *FIXED, *overrides)
    dataset = load(config.data)
    _, height, width = dataset.shape
    constants = point(config, dataset.counts, height * width)
    target = predict(config, constants, dataset).bits_per_dim_calibrated
    rows = rows_of(dataset, overrides)
    results: dict[str, list[Judge]] = {name: [] for name in rows}
    errors = Console(stderr=True, width=100)
    for seed in range(ROUNDS):
        most = math.inf
        for name, row in rows.items():
            limit = most * row.points
            judge = Judge(dataset.images.val, config.model.latent, target, row.steps, limit)
            results[name].append(judged(row, seed, judge))
            errors.print(
                f"seed {seed}, {name}: {judge.bits:.4f} bits per dim after {judge.step} "
                f"steps, {judge.seconds:.1f} s"
            )
            if name == OURS and judge.has_passed:
                most = PATIENCE * judge.seconds / row.points
    console = Console(width=120)
    packages = ", ".join(f"{p} {version(p)}" for p in ("torch", "pythae", "lightning"))
    console.print(
        f"{cores} CPU cores ({platform.machine()}), Python {platform.python_version()}, "
        f"{packages}, fp32; n = {ROUNDS} seeds in turns, medians (least to most); target "
        f"{target:.4f} bits per dim at noise {constants.sigma:.3g}/255"
    )
    console.print(_table(rows, results))
    own = [each for judges in results.values() for judge in judges for each in judge.own]
    console.print(f"a judgment, not counted: {np.median(own) * 1e3:.0f} ms")


def _table(rows: dict[str, Row], results: dict[str, list[Judge]]) -> Table:
    """The ratios are of the same round; those of a row that was given up are limits."""
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for header in ("s a point", "steps", "ms a step", f"{OURS} / this"):
        table.add_column(header, justify="right", no_wrap=True)
    ours = np.array([judge.seconds for judge in results[OURS]]) / rows[OURS].points
    for name, judges in results.items():
        each = np.array([judge.seconds for judge in judges]) / rows[name].points
        steps = np.array([judge.step for judge in judges])
        passed = sum(judge.has_passed for judge in judges)
        seconds, taken = _spread(each, ".1f"), _spread(steps, ".0f")
        if passed < len(judges):
            seconds = f"{passed} of {len(judges)} in {each.min():.0f}-{each.max():.0f}"
            taken = f"{min(judge.bits for judge in judges):.3f} bits"
        sign = "" if passed == len(judges) else "< "
        ratio = f"{sign}{np.median(ours / each):.2f}"
        table.add_row(name, seconds, taken, f"{1e3 * np.median(each / steps):.1f}", ratio)
    return table


def _spread(values: NDArray, form: str) -> str:
    median, low, high = (format(f(values), form) for f in (np.median, np.min, np.max))
    return f"{median} ({low}-{high})"


if __name__ == "__main__":
    main()
