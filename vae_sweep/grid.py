"""A list of points, from validation to the table: what every launcher calls."""

import ctypes
import sys
from collections.abc import Hashable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console

from vae_sweep import loggers, models, plots, results
from vae_sweep.cohort import Point, point
from vae_sweep.config import RunConfig
from vae_sweep.dataset import Dataset, Datasets
from vae_sweep.predictions import predict
from vae_sweep.progress import Display
from vae_sweep.records import RunFolder, lock
from vae_sweep.train import Run, train
from vae_sweep.trainer import State, resolve_device, total_steps


class Diverged(Exception):
    """A run's loss was not finite; its rows end at the last finite one."""


class Prepared(NamedTuple):
    """A validated point with its data, folder and, where interrupted, checkpoint."""

    config: RunConfig
    dataset: Dataset
    point: Point
    folder: RunFolder
    device: torch.device
    steps: int
    state: State | None = None

    @property
    def cohort_key(self) -> Hashable:
        """Runs of equal key train as one."""
        c = self.config
        alone = None if c.train.fuse else c.run_id
        step = self.state.step if self.state else 0
        return c.model, c.data, c.train, c.log.reconstructions, step, alone


def prepare(configs: list[RunConfig]) -> list[Prepared]:
    """Validates every point against its data and device, before any trains.

    Raises UserError at the first that cannot run. Writes nothing.
    """
    datasets = Datasets()
    prepared = []
    for config in {c.run_dir: c for c in configs}.values():
        device = resolve_device(config.train.device)
        loggers.wandb_mode(config.log.wandb)
        dataset = datasets.of(config.data)
        height, width = dataset.size
        models.check(config.model, height, width)
        steps = total_steps(config.train, len(dataset.images.train))
        constants = point(config, dataset.counts, height * width)
        folder = RunFolder(config, dataset.fingerprint)
        prepared.append(Prepared(config, dataset, constants, folder, device, steps))
    return prepared


def run(configs: list[RunConfig]) -> list[dict[str, Any] | Diverged]:
    """Trains all points that are not finished; returns each one's summary, in order.

    At the end prints the table, draws overview.png, and says where W&B's files lie.
    """
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, 120)  # a log file has no edge at 80
    prepared = prepare(configs)
    with ExitStack() as stack:
        for folder in dict.fromkeys(c.sweep_dir for c in configs):
            stack.enter_context(lock(folder))
        ended = {p.folder.path: p.folder.summary() for p in prepared}
        todo = [p for p in prepared if ended[p.folder.path] is None]
        _say_skipped(console, len(prepared) - len(todo))
        todo = [_resume(console, p) for p in todo]
        if todo:
            try:
                ended |= _train(console, todo)
            finally:
                loggers.drain(todo[0].config.sweep_dir)
        _report(console, [p.config for p in prepared])
    outcomes = [_outcome(c.run_id, ended[c.run_dir] or {}) for c in configs]
    for outcome in outcomes:
        if isinstance(outcome, Diverged):
            console.print(str(outcome), highlight=False, markup=False, soft_wrap=True)
    return outcomes


def _outcome(run_id: str, summary: dict[str, Any]) -> dict[str, Any] | Diverged:
    if summary["status"] == "diverged":
        return Diverged(f"{run_id} diverged at step {summary['diverged_at']}")
    return summary


def _say_skipped(console: Console, count: int) -> None:
    if count:
        points = "1 point is" if count == 1 else f"{count} points are"
        console.print(f"{points} finished already; remove a run's folder to repeat it")


def _resume(console: Console, prepared: Prepared) -> Prepared:
    state, complaint = prepared.folder.load_state()
    if complaint:
        console.print(complaint, highlight=False, markup=False, soft_wrap=True)
    return prepared._replace(state=state)


def _train(console: Console, todo: list[Prepared]) -> dict[Path, dict[str, Any]]:
    """Trains cohort after cohort; folder -> summary."""
    keep_freed_memory()
    cohorts: dict[Hashable, list[Prepared]] = {}
    for p in todo:
        cohorts.setdefault(p.cohort_key, []).append(p)
    remaining = sum(p.steps - (p.state.step if p.state else 0) for p in todo)
    sizes = ", ".join(str(len(c)) for c in cohorts.values())
    where = ", ".join(dict.fromkeys(str(p.device) for p in todo))
    console.print(f"training {len(todo)} points on {where}, cohorts of {sizes}")
    summaries: dict[Path, dict[str, Any]] = {}
    with Display(console, remaining, len(todo)) as display:
        for cohort in cohorts.values():
            display.start_cohort(len(cohort))
            runs = [_open(p) for p in cohort]
            made = train(runs, cohort[0].dataset.images, cohort[0].device, display)
            summaries |= {p.folder.path: s for p, s in zip(cohort, made, strict=True)}
    return summaries


def _open(p: Prepared) -> Run:
    p.folder.open()
    predicted = predict(p.config, p.point, p.dataset)
    logger = loggers.open_wandb(p.config)
    return Run(p.config, p.point, predicted, p.folder, logger, p.state)


def _report(console: Console, configs: list[RunConfig]) -> None:
    for folder in dict.fromkeys(c.sweep_dir for c in configs):
        ids = [c.run_id for c in configs if c.sweep_dir == folder]
        loaded = results.load(folder, ids)
        results.print_table(loaded, console)
        path = plots.save_overview(loaded, folder)
        console.print(f"picture: {path}", highlight=False, soft_wrap=True)
    notes = dict.fromkeys(loggers.wandb_note(c) for c in configs)
    console.print("\n".join(notes), highlight=False, markup=False, soft_wrap=True)


def keep_freed_memory() -> None:
    """Lets glibc reuse large blocks: it would return those over 32 MB to the kernel at
    every free, and fresh pages at every step cost a third of the time on CPU."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):
            trim_threshold, mmap_threshold, largest = -1, -3, 2**31 - 1
            libc.mallopt(trim_threshold, largest)
            libc.mallopt(mmap_threshold, largest)
