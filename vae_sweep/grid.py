"""A list of points, from validation to the table: what every launcher calls."""

import gc
from collections import Counter, deque
from collections.abc import Generator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, NamedTuple

import torch

from vae_sweep.config import RunConfig
from vae_sweep.errors import Failed, UserError
from vae_sweep.records import loggers, results
from vae_sweep.records.checkpoint import StateShape
from vae_sweep.records.run_folder import (
    ReadOnly,
    RecordsChanged,
    environment,
    list_runs,
    lock,
)
from vae_sweep.records.summary import Summary
from vae_sweep.reporting import overview, tables
from vae_sweep.reporting.console import Console
from vae_sweep.reporting.progress import Display
from vae_sweep.system import stop
from vae_sweep.theory.prediction import predict
from vae_sweep.training.device import device_name, keep_freed_memory, limited_threads
from vae_sweep.training.loop import Paused, Run, train
from vae_sweep.training.metrics import COLUMNS
from vae_sweep.training.plan import Plan, plans
from vae_sweep.training.prepare import Prepared, prepare
from vae_sweep.training.step import state_shape
from vae_sweep.training.workers import Job, Outcome, WorkerDied, Workers

ROUNDS = 2  # runs whose files are gone at the end are repeated once


class Diverged(Failed):
    """A run's loss was not finite; its rows end at the last finite one."""


class Broken(Failed):
    """A run ended by an error, for lack of memory perhaps; its checkpoint is kept."""


def run(configs: list[RunConfig]) -> list[Summary | Failed]:
    """Trains all points that have not ended; returns each one's summary, in order.

    At the end prints the table, draws overview.png, and says where W&B's files lie.
    """
    console = Console(least=120)
    points = prepare(configs)
    prepared = list({p.folder.path: p for p in points}.values())
    with ExitStack() as stack:
        try:
            for folder in dict.fromkeys(c.sweep_dir for c in configs):
                stack.enter_context(lock(folder))
        except ReadOnly as error:
            ended = {p.folder.path: p.folder.ended()[0] for p in prepared}
            if not all(ended.values()):
                raise
            _say(console, f"only looked at: {error}")
            _report(console, [p.config for p in prepared], draw=False)
        else:
            ended = _run_locked(console, prepared)
            _report(console, [p.config for p in prepared], draw=True)
    kept = {p.asked.run_dir: p for p in points}
    return [
        _outcome(p.config.run_id, ended[p.folder.path])
        for p in (kept[c.run_dir] for c in configs)
    ]


def _run_locked(console: Console, prepared: list[Prepared]) -> dict[Path, Summary | None]:
    """Trains what has not ended; folder -> summary."""
    for folder in dict.fromkeys(p.folder.path.parent for p in prepared):
        names = [p.folder.path.name for p in prepared if p.folder.path.parent == folder]
        list_runs(folder, names)
    ended = {p.folder.path: _ended(console, p) for p in prepared}
    _say_skipped(console, list(filter(None, ended.values())))
    _settle(prepared, ended)
    for _ in range(ROUNDS):
        todo = [p for p in prepared if ended[p.folder.path] is None]
        if not todo:
            break
        with loggers.settled(todo[0].config.sweep_dir):
            todo = _resumed(console, todo)
            _say_going_on(console, todo)
            ended |= _train(console, todo, len(prepared))
        for p in prepared:  # of those that ended before, too, the files may be gone
            if ended[p.folder.path] is not None:
                ended[p.folder.path] = _ended(console, p, again=False)
    return ended


def _settle(prepared: list[Prepared], ended: dict[Path, Summary | None]) -> None:
    """Tells W&B all of the runs that ended before it had heard of it."""
    owed = [p for p in prepared if ended[p.folder.path] and loggers.is_owed(p.config)]
    if not owed:
        return
    with loggers.settled(owed[0].config.sweep_dir):
        for p in owed:
            summary, logger = ended[p.folder.path], loggers.open_wandb(p.config)
            if summary is not None and logger is not None:
                loggers.tell(logger, p.folder.rows(), p.folder.picture)
                logger.finish(summary.stated(), exit_code=int(summary.status != "finished"))


def _ended(console: Console, p: Prepared, again: bool = True) -> Summary | None:
    """The summary of a run that ended and is not to be repeated; its files are repaired."""
    for done in p.folder.repair():
        _say(console, done)
    summary, complaint = p.folder.ended()
    if complaint and (again or summary is None):
        _say(console, f"{p.folder.path}: {complaint}")
    wanted = p.config.rerun
    if summary is None or not again or wanted is None:
        return summary
    status = summary.status
    if wanted == "all" or (wanted == "diverged" and status == "diverged"):
        p.folder.start_over()
        return None
    return None if wanted == status == "failed" else summary


def _outcome(run_id: str, summary: Summary | None) -> Summary | Failed:
    if summary is None or summary.status == "failed":
        removed = "its files were removed again and again"
        reason = removed if summary is None else summary.reason
        return Broken(f"{run_id} failed: {reason}; rerun=failed goes on with it")
    if summary.status == "diverged":
        return Diverged(
            f"{run_id} diverged at step {summary.diverged_at}: its loss is not finite; "
            f"lower train.lr or set train.clip=1 (rerun=diverged repeats it as it is)"
        )
    return summary


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def _say_skipped(console: Console, ended: list[Summary]) -> None:
    if not ended:
        return
    points = "1 point has" if len(ended) == 1 else f"{len(ended)} points have"
    counted = Counter(summary.status for summary in ended)
    odd = [f"{counted[name]} {name}" for name in ("diverged", "failed") if counted[name]]
    of_them = f" ({', '.join(odd)})" if odd else ""
    them = "it" if len(ended) == 1 else "them"
    _say(console, f"{points} ended already{of_them}; rerun=all repeats {them}")


def _resumed(console: Console, todo: list[Prepared]) -> list[Prepared]:
    """Each with its checkpoint, if it has one that fits."""
    shapes: dict[Any, StateShape] = {}
    found = []
    for p in todo:
        c = p.config
        key = c.model, c.data, c.train.optimizer, c.train.momentum, c.train.precision
        if key not in shapes:
            image = p.dataset.images.train.shape[1:]
            shapes[key] = state_shape(c, p.point, (image[0], image[1], image[2]))
        resumed = p.folder.resume(shapes[key], p.steps)
        if resumed.complaint:
            _say(console, resumed.complaint)
        found.append(p._replace(state=resumed.state, evaluated=resumed.evaluated))
    return found


def _say_going_on(console: Console, todo: list[Prepared]) -> None:
    """From which steps those go on that were interrupted."""
    begun = [p for p in todo if 0 < p.step < p.steps]
    if begun:
        points = "1 point goes" if len(begun) == 1 else f"{len(begun)} points go"
        low, high = min(p.step for p in begun), max(p.step for p in begun)
        steps = f"step {low}" if low == high else f"steps {low} to {high}"
        total = max(p.steps for p in begun)
        _say(console, f"{points} on from {steps} of {total}")


class _Attempt(NamedTuple):
    """A cohort to train, and how often a single run of it was ended already."""

    cohort: list[Prepared]
    tries: int = 0


def _train(
    console: Console, todo: list[Prepared], count: int
) -> dict[Path, Summary | None]:
    """Trains cohort after cohort, of a grid of `count` points; folder -> summary."""
    keep_freed_memory()
    remaining = sum(p.steps - p.step for p in todo)
    made = plans(todo, count)
    for plan in made:
        console.print(str(plan), highlight=False)
    with Display(console, remaining, len(todo)) as display:
        training = [_Training(console, plan, display) for plan in made]
        for each in training:
            each.run()
    trained: dict[Path, Summary | None] = {p.folder.path: None for p in todo}
    for each in training:
        trained |= each.summaries
    return trained


class _Training:
    """Carries a plan out: what fails is tried again in smaller parts."""

    def __init__(self, console: Console, plan: Plan, display: Display):
        self.console, self.plan, self.display = console, plan, display
        self.queue = deque(_Attempt(cohort) for cohort in plan.cohorts)
        self.current: dict[int, _Attempt] = {}  # by id of their jobs' lists of runs
        self.loggers: dict[Path, loggers.Logger | None] = {}
        self.summaries: dict[Path, Summary | None] = {}

    def run(self) -> None:
        with closing(self._outcomes()) as outcomes:
            for job, outcome in outcomes:
                attempt = self.current.pop(id(job.runs))
                if isinstance(outcome, Exception):
                    self._failed(attempt, outcome)
                else:
                    paths = [run.folder.path for run in job.runs]
                    self.summaries |= dict(zip(paths, outcome, strict=True))

    def _outcomes(self) -> Generator[tuple[Job, Outcome]]:
        plan = self.plan
        if plan.workers > 1:
            with Workers(plan.workers, plan.threads, self.display) as workers:
                yield from workers.train(self._next)
            return
        with limited_threads(plan.threads):
            while (job := self._next()) is not None:
                yield job, self._trained_here(job)

    def _trained_here(self, job: Job) -> Outcome:
        with stop.deferred():
            try:
                return train(job.runs, job.images, self.plan.device, self.display)
            except Paused:
                return []  # stop.deferred raises
            except Exception as error:
                # not its traceback and causes, which hold every tensor of the cohort
                error.__cause__ = error.__context__ = None
                failed = error.with_traceback(None)
        gc.collect()
        if self.plan.device.type == "cuda":
            torch.cuda.empty_cache()
        return failed

    def _next(self) -> Job | None:
        if not self.queue:
            return None
        attempt = self.queue.popleft()
        threads = self.plan.threads
        runs = [self._open(p, threads) for p in attempt.cohort]
        self.current[id(runs)] = attempt
        return Job(runs, attempt.cohort[0].dataset.images)

    def _open(self, p: Prepared, threads: int) -> Run:
        predicted = predict(p.config, p.point, p.dataset)
        about = Summary.of(
            {
                "status": "running",
                "run_id": p.config.run_id,
                "beta": p.point.beta,
                "implied_sigma": p.point.sigma,
                "psnr_cap": predicted.psnr_cap,
                "predicted": predicted._asdict(),
                "steps": p.step,
                "total_steps": p.steps,
                "device": device_name(p.device),
                "threads": threads,
                **environment(),
            }
        )
        p.folder.open(about, COLUMNS)
        path = p.folder.path
        if path not in self.loggers:
            self.loggers[path] = loggers.open_wandb(p.config)
        logger = self.loggers[path]
        return Run(p.config, p.point, about, p.folder, logger, p.state, p.evaluated)

    def _failed(self, attempt: _Attempt, error: Exception) -> None:
        """Queues the runs again, in halves, or gives the only one up."""
        if isinstance(error, UserError | Failed | OSError):
            raise error  # of all runs alike: the disk is full, say
        left = []
        for p in attempt.cohort:
            summary, _ = p.folder.ended()
            if summary is None:
                left.append(p)
            else:
                self.summaries[p.folder.path] = summary
        reason = str(error).partition("\n")[0] or type(error).__name__
        if len(left) == 1 and (attempt.tries > 0 or not isinstance(error, WorkerDied)):
            self._give_up(left[0], reason)
            return
        if left:
            more = f" and {len(left) - 1} more" if len(left) > 1 else ""
            name = left[0].config.run_id
            self.display.say(f"{name}{more}: {reason}; tried again, fewer at once")
        groups: dict[Any, list[Prepared]] = {}
        for p in _resumed(self.console, left):
            groups.setdefault(p.cohort_key, []).append(p)
        for group in groups.values():
            tries = attempt.tries + (len(attempt.cohort) == 1)
            half = -(-len(group) // 2) if len(groups) == 1 else len(group)
            for part in filter(None, (group[:half], group[half:])):
                self.queue.append(_Attempt(part, tries))

    def _give_up(self, p: Prepared, reason: str) -> None:
        """Marks a run as failed; the others go on."""
        self.display.say(f"{p.config.run_id} failed: {reason}")
        run = self._open(p, self.plan.threads)
        try:
            rows = p.folder.rows()
            final = rows[-1] if rows else {}
            summary = run.about.but(status="failed", reason=reason, final=final)
            p.folder.finish(summary)
        except RecordsChanged:
            return
        self.summaries[p.folder.path] = summary
        if run.logger is not None:
            run.logger.finish(summary.stated(), exit_code=1)


def _report(console: Console, configs: list[RunConfig], draw: bool) -> None:
    for folder in dict.fromkeys(c.sweep_dir for c in configs):
        ids = [c.run_id for c in configs if c.sweep_dir == folder and c.run_dir.is_dir()]
        if not ids:
            continue
        whole = results.read(folder, ids, rest=True)
        alone = set(whole.finals["run_id"]) <= {*ids}
        shown = whole if alone else results.read(folder, ids)
        tables.print_table(shown, console)
        if draw:
            for line in results.left_out(whole):
                _say(console, line)
            path = overview.save_overview(whole, folder)
            _say(console, f"picture: {path}")
    notes = dict.fromkeys(loggers.wandb_note(c) for c in configs)
    _say(console, "\n".join(notes))
