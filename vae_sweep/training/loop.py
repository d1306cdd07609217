"""Trains a cohort of R runs together and writes down what happens; one run is R = 1."""

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from vae_sweep import options
from vae_sweep.config import RunConfig
from vae_sweep.data.dataset import Images
from vae_sweep.data.random_transform import Random
from vae_sweep.records.checkpoint import State, weights
from vae_sweep.records.heartbeat import Pulse
from vae_sweep.records.loggers import Logger, of_batch, tell
from vae_sweep.records.reader import CURVE, RECONSTRUCTIONS, SAMPLES
from vae_sweep.records.run_folder import RecordsChanged, RunFolder
from vae_sweep.records.summary import Summary
from vae_sweep.training.step import Trainer
from vae_sweep.vae.point import Point
from vae_sweep.vae.streams import stream

# steps, no more than the rows of the curve that the device keeps (step.KEPT): to fetch them
# and to look whether runs diverged, the host waits for the device
LOOK_EVERY = 25


class Run(NamedTuple):
    """One run of a cohort: what it is, where it is kept, and where it goes on from.

    `about` is what its summary says from the start; `evaluated`, whether the row of the
    step that it goes on from is there.
    """

    config: RunConfig
    point: Point
    about: Summary
    folder: RunFolder
    logger: Logger | None
    state: State | None
    evaluated: bool = False


class Progress(Protocol):
    """What a display shows of a cohort while it trains; runs are named by their folders."""

    def advance(self, runs: Sequence[Path], step: int) -> None:
        """These runs train, and have made `step` updates."""
        ...

    def row(self, run: Path, row: Mapping[str, float]) -> None:
        """A run was evaluated."""
        ...

    def ended(self, run: Path, summary: Summary) -> None:
        """A run has ended: finished, diverged or failed."""
        ...

    def leave(self, run: Path) -> None:
        """A run is another process's: it trains it, or has ended it."""
        ...

    def say(self, text: str) -> None:
        """A line for the user."""
        ...

    def stopping(self) -> bool:
        """Whether training is to write checkpoints and end, now."""
        ...


class Paused(Exception):
    """Training ended early, as `Progress.stopping` asked; checkpoints are written."""


def train(
    runs: list[Run],
    images: Images,
    device: torch.device,
    progress: Progress,
    random: Random | None = None,
) -> list[Summary | None]:
    """Trains `runs` (equal in model, data and train settings, at one step) to the end.

    Where the data has a random transform, `images` are fixed draws of it, which are
    evaluated, and `random` draws the batches.

    Rows, checkpoints, pictures and summaries go to each run's folder. Returns the
    summaries, in order; None of a run whose files were removed or altered meanwhile.

    Raises:
        Paused: `progress` asked to stop.
    """
    configs, points = [r.config for r in runs], [r.point for r in runs]
    for config in configs:
        options.check_sources(config.sources)
    images = Images(*(split.to(device) for split in images))
    trainer = Trainer(configs, points, images.train, device, random=random)
    states = [r.state for r in runs if r.state is not None]
    assert len(states) in (0, len(runs)), "runs with and without a checkpoint in a cohort"
    if states:
        trainer.restore(states)
    return Recorder(runs, trainer, images, progress).train()


def measured(images: Images) -> torch.Tensor:
    """The training images [n, C, H, W] on which train/ is measured, in evaluation mode: as
    many as there are of validation, drawn at random, the same whatever a run's seed."""
    count, draw = len(images.train), stream(0, "measured")
    chosen = torch.randperm(count, generator=draw)[: len(images.val)]
    return images.train[chosen.to(images.train.device)]


def _channels_last(images: torch.Tensor) -> np.ndarray:
    return images.permute(0, 2, 3, 1).cpu().numpy()


class Recorder:
    """Drives a trainer and writes down what it does."""

    def __init__(
        self, runs: list[Run], trainer: Trainer, images: Images, progress: Progress
    ):
        self.runs, self.trainer, self.images = runs, trainer, images
        self.progress = progress
        self.measured = measured(images)
        self.open = dict(enumerate(runs))  # not yet ended
        self.summaries: dict[int, Summary | None] = {}
        self.evaluated = trainer.step if runs[0].evaluated else -1  # the last such step
        self.looked = trainer.step  # of the batches before, the curve is known
        self.noted: dict[int, list[tuple[float, ...]]] = {}  # rows for training.csv
        # evaluations that loggers hear of with the loss of the batch of the same step
        self.awaiting: dict[int, tuple[dict[str, float], list[Path]]] = {}
        self.started = time.perf_counter()
        self.pulse = Pulse(trainer.step, trainer.steps)

    def train(self) -> list[Summary | None]:
        """Trains to the end, or until it is to stop: the summary of each run that ended."""
        trainer, every = self.trainer, self.trainer.config.eval_every
        for r, run in list(self.open.items()):
            self._guarded(r, self._tell_again, r, run)
        self.progress.advance(self._folders(), trainer.step)
        while trainer.step < trainer.steps and self.open:
            if trainer.step % every == 0 and trainer.step != self.evaluated:
                self._evaluate()
            self._pause()
            trainer.update()
            if trainer.step % LOOK_EVERY == 0 or self.awaiting:
                self._look()
            self.progress.advance(self._folders(), trainer.step)
        self._look()
        if self.open and trainer.step != self.evaluated:
            self._evaluate(last=True)
        for r in list(self.open):
            self._close(r)
        return [self.summaries[r] for r in range(len(self.runs))]

    def _tell_again(self, r: int, run: Run) -> None:
        """A logger that is opened anew hears of all rows; it skips those that it has."""
        if run.logger is None:
            return
        step, rows, pictures = self.trainer.step, [*run.folder.rows()], run.folder.pictures
        if self._has_batch(run, step) and rows and rows[-1]["step"] == step:
            self.awaiting[r] = rows.pop(), pictures
        tell(run.logger, rows, run.folder.training(), pictures)

    def _has_batch(self, run: Run, step: int) -> bool:
        """Whether the curve has the batch that a run trains on next at `step`."""
        return step % run.config.log.every == 0 and step < self.trainer.steps

    def _folders(self) -> list[Path]:
        """Of the runs that train."""
        return [run.folder.path for run in self.open.values()]

    def _pause(self) -> None:
        """Says how far the runs are, every few seconds, and gives those up that others have
        taken over; writes checkpoints and raises Paused where training is to end early."""
        if self.pulse.is_due:
            for r in list(self.open):
                self._guarded(r, lambda: None)
            self.pulse.beat(self._folders(), self.trainer.step)
        if self.progress.stopping():
            self._look()
            for r in list(self.open):
                self._guarded(r, self._save, r)
            raise Paused

    def _guarded(self, r: int, write: Any, *arguments: Any) -> None:
        """Calls `write`, where the run is still this process's. One that others took over,
        or whose files somebody changed meanwhile, is given up here."""
        folder = self.open[r].folder
        path = folder.path
        try:
            folder.check()
            write(*arguments)
            return
        except RecordsChanged as error:
            what = str(error)
        except FileNotFoundError:
            if path.is_dir():
                raise
            what = "removed"
        del self.open[r]
        self.awaiting.pop(r, None)
        self.summaries[r] = None
        self.progress.say(f"{path}: {what} while the run trained")

    def _evaluate(self, last: bool = False) -> None:
        """One row per open run, pictures and, unless it diverged, a checkpoint."""
        trainer = self.trainer
        self._look()
        measured = {
            "train": trainer.evaluate(self.measured, self._pause),
            "val": trainer.evaluate(self.images.val, self._pause),
        }
        if last:
            test, samples = self.images.test, trainer.config.importance_samples
            if samples:
                self.progress.say(
                    f"importance-weighted bound of {len(test):,} test images, {samples:,} "
                    f"samples each"
                )
            measured["test"] = trainer.evaluate(test, self._pause, samples)
        values = {
            f"{split}/{name}": value.tolist()
            for split, found in measured.items()
            for name, value in found.items()
        }
        epoch = trainer.step * trainer.config.batch_size / len(self.images.train)
        pictures = self._pictures()
        for r, run in list(self.open.items()):
            row = {"step": trainer.step, "epoch": epoch}
            row |= {key: value[r] for key, value in values.items()}
            if not math.isfinite(row["train/loss"] + row["val/loss"]):
                self._close(r, diverged_at=trainer.step)
                continue
            self._guarded(r, self._record, r, run, row, pictures[r])
        self.evaluated = trainer.step

    def _record(
        self,
        r: int,
        run: Run,
        row: dict[str, float],
        pictures: Mapping[str, list[np.ndarray]],
    ) -> None:
        save = run.folder.save_picture
        paths = [save(*rows, name=name) for name, rows in pictures.items()]
        run.folder.append(row)
        self._save(r)
        self.progress.row(run.folder.path, row)
        if run.logger is not None:
            self.awaiting[r] = row, paths
            if not self._has_batch(run, self.trainer.step):
                self._tell(r, run.logger)

    def _save(self, r: int) -> None:
        """A checkpoint, and before it the rows of training.csv that belong to it."""
        self._append_curve(r)
        self.open[r].folder.save_state(self.trainer.state(r))

    def _append_curve(self, r: int) -> None:
        said = self.open[r].folder.curve.append(self.noted.pop(r, ()))
        if said:
            self.progress.say(said)

    def _tell(self, r: int, logger: Logger, batch: Mapping[str, float] = {}) -> None:
        """Tells a logger of the evaluation that awaited its `batch`."""
        row, pictures = self.awaiting.pop(r)
        logger.row({**row, **batch})
        for path in pictures:
            logger.images(int(row["step"]), path)

    def _pictures(self) -> list[dict[str, list[np.ndarray]]]:
        """File's name -> rows of images, uint8 [n, H, W, C], per run: originals above
        reconstructions, and two rows of samples from the prior."""
        originals = self.images.val[: self.runs[0].config.log.reconstructions]
        made = self.trainer.reconstruct(originals)
        drawn = self.trainer.sample(2 * len(originals))
        shown = _channels_last(originals)
        return [
            {
                RECONSTRUCTIONS: [shown, _channels_last(reconstructions)],
                SAMPLES: np.split(_channels_last(samples), 2),
            }
            for reconstructions, samples in zip(made, drawn, strict=True)
        ]

    def _look(self) -> None:
        """Notes the curve up to here, and closes runs that diverged."""
        died = self.trainer.died.tolist()  # at whose step the loss was not finite
        for step, values in self.trainer.curve(self.looked):
            for r, run in self.open.items():
                if not 0 <= died[r] <= step:
                    self._note(r, run, (step, *(of_runs[r] for of_runs in values)))
        self.looked = self.trainer.step
        for r, step in enumerate(died):
            if step >= 0 and r in self.open:
                self._close(r, diverged_at=step)

    def _note(self, r: int, run: Run, row: tuple[float, ...]) -> None:
        """Keeps a row of training.csv for the next checkpoint, and tells it."""
        self.noted.setdefault(r, []).append(row)
        if run.logger is None:
            return
        batch = of_batch(int(row[0]), dict(zip(CURVE, row, strict=True)))
        if r in self.awaiting and self.awaiting[r][0]["step"] == batch["step"]:
            self._tell(r, run.logger, batch)
        else:
            run.logger.row(batch)

    def _close(self, r: int, diverged_at: int | None = None) -> None:
        self._guarded(r, self._finish, r, diverged_at)

    def _finish(self, r: int, diverged_at: int | None) -> None:
        run = self.open[r]
        self._append_curve(r)
        rows = run.folder.rows()
        summary = run.about.but(
            status="finished" if diverged_at is None else "diverged",
            final=rows[-1] if rows else {},
            diverged_at=diverged_at,
            steps=self.trainer.step,
            cohort_size=len(self.runs),
            kernels=self.trainer.kernels,
            threads=torch.get_num_threads(),
            seconds=time.perf_counter() - self.started,
        )
        run.folder.finish(summary)
        if diverged_at is None and not run.config.log.optimizer_state:
            run.folder.save_state(weights(self.trainer.state(r)))
        del self.open[r]
        self.summaries[r] = summary
        self.progress.ended(run.folder.path, summary)
        if run.logger is not None:
            if r in self.awaiting:  # it diverged on that batch
                self._tell(r, run.logger)
            run.logger.finish(summary.stated())
