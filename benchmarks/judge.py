"""When a network passes a linear optimum: whatever trains it calls a Judge as it goes."""

import math
import os
import pickle
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor, nn

from vae_sweep.config import RunConfig
from vae_sweep.training import execute, loop, workers
from vae_sweep.training.step import Trainer
from vae_sweep.vae import objective

EVERY = 25  # steps
CHUNK = 100  # images that are judged at once

See = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]


class Ended(BaseException):
    """The judge has seen enough. Nobody who catches errors catches it."""


def clock() -> float:
    """Seconds from some moment on, the same one for all processes."""
    return time.monotonic()


class Judge:
    """Ends the training of a network that passes `target`, the calibrated bits per dim of a
    linear optimum, or that took `steps` or `most` seconds."""

    def __init__(
        self, images: Tensor, latent: int, target: float, steps: int, most: float = math.inf
    ):
        """`images` are uint8 [n, C, H, W]."""
        self.u = images.float() / 255
        generator = torch.Generator().manual_seed(0)
        self.noise = torch.randn(len(images), latent, generator=generator)
        self.target, self.steps, self.most = target, steps, most
        self.has_passed = False
        self.step, self.seconds, self.bits = 0, 0.0, math.inf  # when last judged
        self.own: list[float] = []  # seconds of each judgment

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
        if self.has_passed or step >= self.steps or self.seconds > self.most:
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


def trained_by_us(train: Callable[[], object], judge: Judge, run_id: str, to: Path) -> None:
    """Calls `train` until `judge` ends it, who sees the run `run_id`, in whichever process
    that trains; `to` is a file that does not exist yet."""
    judge.start()
    to.write_bytes(pickle.dumps((judge, run_id)))
    begin, work = workers.MAIN.rsplit("from ", 1)
    watched = f"{begin}from benchmarks import judge; judge.watch({str(to)!r}); from {work}"

    def end(*_: object) -> None:
        raise Ended

    try:
        with (
            patch.object(loop, "Trainer", _judged(judge, run_id, to)),
            patch.object(workers, "MAIN", watched),
            patch.object(execute._Execution, "_failed", end),  # of a worker that has ended
        ):
            train()
    except Ended:
        vars(judge).update(vars(pickle.loads(to.read_bytes())[0]))


def watch(file: str) -> None:
    """In a worker process: what it trains is judged, and it ends with the judge."""
    path = Path(file)
    judge, run_id = pickle.loads(path.read_bytes())
    loop.Trainer = _judged(judge, run_id, path, leave=lambda: os._exit(0))


def _judged(
    judge: Judge, run_id: str, to: Path, leave: Callable[[], object] = lambda: None
) -> type[Trainer]:
    """A Trainer whose run `run_id`, if it has it, is judged; at the end the judge is
    written `to` a file, and `leave` called."""

    class Judged(Trainer):
        def __init__(self, configs: list[RunConfig], *args, **options):
            super().__init__(configs, *args, **options)
            ids = [config.run_id for config in configs]
            self.place = ids.index(run_id) if run_id in ids else None

        def see(self, u: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            assert self.place is not None
            seen = self.cohort(u[None], noise.expand(len(self.seeds), -1, -1))
            u_hat = self.cohort.target.inverse(seen.t_hat)
            return u_hat[self.place], seen.mu[self.place], seen.logvar[self.place]

        def update(self) -> None:
            super().update()
            if self.place is None:
                return
            try:
                judge(self.step, self.cohort, self.see)
            except Ended:
                to.write_bytes(pickle.dumps((judge, run_id)))
                leave()
                raise

    return Judged
