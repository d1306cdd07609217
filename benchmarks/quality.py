"""Seconds until a VAE passes the linear optimum, ours and in other hands, on one core.

    python -m benchmarks.quality [overrides of vae_sweep.run]
                                          (needs `pip install -e .[bench]`)

The target is what the best linear VAE reaches at the same noise, in calibrated bits per
dim. All train the default network on the default images; of ours, z-score with a linear
head is judged. Ours is a grid of one point, or of the four headline points as one cohort
(then a quarter of the seconds is a point's), from validated configs on: reading the images,
evaluations, checkpoints and pictures included. The others' clocks start with the images in
memory and include their own validation after each epoch. CPU seconds are those of the whole
process; where the machine is idle they are the wall's.

A peer's usual recipe has the learning rate, batch and loss of its manual, and a constant
beta, chosen so that the loss implies the same noise. With our recipe it has our
normalization, initial weights, batch, and rate and beta at every step, and Adam's fused
update, which its manual does not name.

Every EVERY steps all are judged by the same code on the validation images, in a callback
of their own kind, whose time is not counted. A row is given up after PATIENCE times the
seconds of ours in the same round, or where its schedule ends.
"""

import contextlib
import io
import logging
import math
import os
import platform
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from typing import NamedTuple
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils.data import TensorDataset
from torchvision.transforms import ToTensor

from benchmarks import peers
from benchmarks.bare import Bare
from benchmarks.configs import configs
from vae_sweep import grid
from vae_sweep.config import ConvConfig, RunConfig
from vae_sweep.data.dataset import Dataset, load
from vae_sweep.theory.prediction import predict
from vae_sweep.training import loop
from vae_sweep.training.device import keep_freed_memory
from vae_sweep.training.step import Trainer
from vae_sweep.vae import objective, schedules
from vae_sweep.vae.cohort import Cohort
from vae_sweep.vae.point import point

OURS = "vae-sweep"
ROUNDS = 3
EVERY = 25  # steps
PATIENCE = 3  # times ours
CHUNK = 100  # images that are judged at once
HEADLINE = [(norm, head) for norm in ("zscore", "minus1_1") for head in ("linear", "tanh")]
FIXED = ("train.device=cpu", "train.workers=1", "log.wandb.mode=disabled")
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

See = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]


class Ended(BaseException):
    """The judge has seen enough. Nobody who catches errors catches it."""


def clock() -> NDArray[np.float64]:
    """Seconds of the wall and of the CPU, from some moment on."""
    return np.array([time.perf_counter(), time.process_time()])


class Judge:
    """Ends the training of a network that passes `target`, the calibrated bits per dim of a
    linear optimum, or that took `steps` or `most` seconds of the wall."""

    def __init__(
        self, images: Tensor, latent: int, target: float, steps: int, most: float = math.inf
    ):
        """`images` are uint8 [n, C, H, W]."""
        self.u = images.float() / 255
        generator = torch.Generator().manual_seed(0)
        self.noise = torch.randn(len(images), latent, generator=generator)
        self.target, self.steps, self.most = target, steps, most
        self.has_passed = False
        self.step, self.seconds, self.bits = 0, np.zeros(2), math.inf  # when last judged
        self.own: list[NDArray[np.float64]] = []  # seconds of each judgment

    def start(self) -> None:
        """From now on time is counted."""
        self.started = clock()

    def __call__(self, step: int, network: nn.Module, see: See) -> None:
        """Judges `network` after `step` steps; raises Ended.

        `see` maps pixels [n, C, H, W] and noise [n, D] to (u_hat, mu, logvar).
        """
        if step % EVERY and step < self.steps:
            return
        begin = clock()
        self.step, self.seconds = step, begin - self.started - sum(self.own)
        network.eval()
        self.bits = calibrated_bits(self.u, self.noise, see)
        network.train()
        self.has_passed = self.bits < self.target
        if self.has_passed or step >= self.steps or self.seconds[0] > self.most:
            raise Ended
        self.own.append(clock() - begin)


@torch.no_grad()
def calibrated_bits(u: Tensor, noise: Tensor, see: See) -> float:
    """Calibrated bits per dim of images u [n, C, H, W], z sampled by noise [n, D]."""
    errors, kls = [], []
    for part, drawn in zip(u.split(CHUNK), noise.split(CHUNK), strict=True):
        u_hat, mu, logvar = see(part, drawn)
        errors.append(objective.squared_error(part, u_hat).double().flatten(1).sum(1))
        kls.append(objective.kl_divergence(mu.double(), logvar.double()))
    sse, kl, pixels = torch.cat(errors).mean(), torch.cat(kls).mean(), u[0].numel()
    elbo = objective.elbo(sse[None], kl, sse[None] / pixels, pixels)
    return objective.bits_per_dim(elbo, pixels).item()


def train_ours(chosen: list[RunConfig], judge: Judge) -> None:
    """A grid of ours as one cohort, of which the first point is judged."""

    class Judged(Trainer):
        def __init__(self, configs: list[RunConfig], *args, **options):
            super().__init__(configs, *args, **options)
            assert len(configs) == len(chosen), "the grid is to be one cohort"
            r = [config.run_id for config in configs].index(chosen[0].run_id)

            def see(u: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
                seen = self.cohort(u[None], noise.expand(len(configs), -1, -1))
                u_hat = self.cohort.target.inverse(seen.t_hat)
                return u_hat[r], seen.mu[r], seen.logvar[r]

            self.see = see

        def update(self) -> None:
            super().update()
            judge(self.step, self.cohort, self.see)

    with tempfile.TemporaryDirectory() as runs, patch.object(loop, "Trainer", Judged):
        judge.start()
        grid.run([config.model_copy(update={"runs": runs}) for config in chosen])


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
        OURS: of_ours(HEADLINE[:1]),
        "vae-sweep, four at once": of_ours(HEADLINE),
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
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
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
                f"steps, {judge.seconds[0]:.1f} s, CPU {judge.seconds[1]:.1f} s"
            )
            if name == OURS and judge.has_passed:
                most = PATIENCE * judge.seconds[0]
    console = Console(width=120)
    packages = ", ".join(f"{p} {version(p)}" for p in ("torch", "pythae", "lightning"))
    console.print(
        f"1 of {os.cpu_count()} CPU cores ({platform.machine()}), 1 thread, Python "
        f"{platform.python_version()}, {packages}, fp32; n = {ROUNDS} seeds in turns, "
        f"medians (least to most); target {target:.4f} bits per dim at noise "
        f"{constants.sigma:.3g}/255"
    )
    console.print(_table(rows, results))
    own = [each[1] for judges in results.values() for judge in judges for each in judge.own]
    console.print(f"a judgment, not counted: {np.median(own) * 1e3:.0f} ms of CPU time")


def _table(rows: dict[str, Row], results: dict[str, list[Judge]]) -> Table:
    """The ratios are of the same round; those of a row that was given up are limits."""
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for header in ("s a point", "CPU s", "steps", "CPU ms a step", "ours / this", "CPU"):
        table.add_column(header, justify="right", no_wrap=True)
    ours = np.array([judge.seconds for judge in results[OURS]])
    for name, judges in results.items():
        each = np.array([judge.seconds for judge in judges]) / rows[name].points
        steps = np.array([judge.step for judge in judges])
        passed = sum(judge.has_passed for judge in judges)
        seconds, cpu = (_spread(column, ".1f") for column in each.T)
        taken = _spread(steps, ".0f")
        if passed < len(judges):
            low, high = each[:, 0].min(), each[:, 0].max()
            seconds = f"{passed} of {len(judges)} in {low:.0f}-{high:.0f}"
            taken = f"{min(judge.bits for judge in judges):.3f} bits"
        sign = "" if passed == len(judges) else "< "
        ratios = [f"{sign}{ratio:.2f}" for ratio in np.median(ours / each, axis=0)]
        step = f"{1e3 * np.median(each[:, 1] / steps):.1f}"
        table.add_row(name, seconds, cpu, taken, step, *ratios)
    return table


def _spread(values: NDArray, form: str) -> str:
    median, low, high = (format(f(values), form) for f in (np.median, np.min, np.max))
    return f"{median} ({low}-{high})"


if __name__ == "__main__":
    main()
