"""Trains a cohort of R runs together and writes down what happens; one run is R = 1."""

import math
import time
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import torch

from vae_sweep.cohort import Point
from vae_sweep.config import RunConfig
from vae_sweep.data import Images
from vae_sweep.loggers import Logger
from vae_sweep.predictions import Prediction
from vae_sweep.records import RunFolder
from vae_sweep.trainer import State, Trainer

TRAIN_IMAGES = 256  # on which train/ is measured: the first ones, in evaluation mode
LOOK_EVERY = 25  # steps: to look whether runs diverged, the host waits for the device


class Run(NamedTuple):
    """One run of a cohort: what it is, where it is kept, and where it goes on from."""

    config: RunConfig
    point: Point
    predicted: Prediction
    folder: RunFolder
    logger: Logger | None
    state: State | None


class Progress(Protocol):
    """What a display shows of a cohort while it trains."""

    def advance(self, run_steps: int) -> None:
        """So many steps of one run have passed."""
        ...

    def row(self, run_id: str, row: Mapping[str, float]) -> None: ...

    def say(self, text: str) -> None: ...


def train(
    runs: list[Run], images: Images, device: torch.device, progress: Progress
) -> list[dict[str, Any]]:
    """Trains `runs` (equal in model, data and train settings, at one step) to the end.

    Rows, checkpoints, pictures and summaries go to each run's folder. Returns the
    summaries, in order.
    """
    configs, points = [r.config for r in runs], [r.point for r in runs]
    images = Images(*(split.to(device) for split in images))
    trainer = Trainer(configs, points, images.train, device)
    if runs[0].state is not None:
        trainer.restore([r.state for r in runs if r.state is not None])
    return Recorder(runs, trainer, images, progress).train()


class Recorder:
    """Drives a trainer and writes down what it does."""

    def __init__(
        self, runs: list[Run], trainer: Trainer, images: Images, progress: Progress
    ):
        self.runs, self.trainer, self.images = runs, trainer, images
        self.progress = progress
        self.open = dict(enumerate(runs))  # not yet ended
        self.summaries: dict[int, dict[str, Any]] = {}
        self.last: dict[int, dict[str, float]] = {}
        self.started = time.perf_counter()

    def train(self) -> list[dict[str, Any]]:
        trainer, every = self.trainer, self.trainer.config.eval_every
        while trainer.step < trainer.steps and self.open:
            if trainer.step % every == 0 and trainer.step != self._resumed_at():
                self._evaluate()
            trainer.update()
            if trainer.step % LOOK_EVERY == 0:
                self._close_diverged()
            self.progress.advance(len(self.runs))
        self._close_diverged()
        if self.open:
            self._evaluate(last=True)
        for r, run in list(self.open.items()):
            self._close(r, run)
        return [self.summaries[r] for r in range(len(self.runs))]

    def _resumed_at(self) -> int | None:
        state = self.runs[0].state
        return state.step if state is not None else None

    def _evaluate(self, last: bool = False) -> None:
        """One row per open run, pictures and, unless it diverged, a checkpoint."""
        trainer = self.trainer
        splits = {"train": self.images.train[:TRAIN_IMAGES]}
        splits |= {"val": self.images.val} | ({"test": self.images.test} if last else {})
        values = {
            f"{split}/{name}": value.tolist()
            for split, images in splits.items()
            for name, value in trainer.evaluate(images).items()
        }
        epoch = trainer.step * trainer.config.batch_size / len(self.images.train)
        pictures = self._pictures()
        for r, run in list(self.open.items()):
            row = {"step": trainer.step, "epoch": epoch}
            row |= {key: value[r] for key, value in values.items()}
            if not math.isfinite(row["train/loss"] + row["val/loss"]):
                self._close(r, run, diverged_at=trainer.step)
                continue
            self._record(r, run, row, pictures[r])

    def _record(self, r: int, run: Run, row: dict[str, float], picture: Any) -> None:
        run.folder.append(row)
        run.folder.save_state(self.trainer.state(r))
        path = run.folder.save_picture(*picture)
        self.last[r] = row
        self.progress.row(run.config.run_id, row)
        if run.logger is not None:
            run.logger.row(row)
            run.logger.images(self.trainer.step, path)

    def _pictures(self) -> list[Any]:
        """(originals, reconstructions) uint8 [n, H, W, C] per run."""
        originals = self.images.val[: self.runs[0].config.log.reconstructions]
        made = self.trainer.reconstruct(originals)
        shown = originals.permute(0, 2, 3, 1).cpu().numpy()
        return [(shown, r.permute(0, 2, 3, 1).cpu().numpy()) for r in made]

    def _close_diverged(self) -> None:
        for r, step in enumerate(self.trainer.died.tolist()):
            if step >= 0 and r in self.open:  # its loss before that update
                self._close(r, self.open[r], diverged_at=step)

    def _close(self, r: int, run: Run, diverged_at: int | None = None) -> None:
        del self.open[r]
        kept = run.folder.rows()
        summary: dict[str, Any] = {
            "status": "finished" if diverged_at is None else "diverged",
            "run_id": run.config.run_id,
            "final": self.last.get(r) or (kept[-1] if kept else {}),
            "diverged_at": diverged_at,
            "beta": run.point.beta,
            "implied_sigma": run.point.sigma,
            "psnr_cap": run.point.floor.psnr_cap,
            "predicted": run.predicted._asdict(),
            "steps": self.trainer.step,
            "cohort_size": len(self.runs),
            "kernels": self.trainer.kernels,
            "seconds": time.perf_counter() - self.started,
            "device": _device_name(self.trainer.device),
        }
        run.folder.finish(summary)
        self.summaries[r] = summary
        if diverged_at is not None:
            said = f"diverged at step {diverged_at}: its loss is not finite"
            self.progress.say(f"{run.config.run_id} {said}")
        if run.logger is not None:
            run.logger.finish(summary, exit_code=int(diverged_at is not None))


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
