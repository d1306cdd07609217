"""Carries plans out, cohort after cohort: what fails is tried again in smaller parts."""

import gc
from collections import deque
from collections.abc import Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import torch

from vae_sweep.errors import Failed, UserError
from vae_sweep.records import loggers
from vae_sweep.records.run_folder import RecordsChanged, environment
from vae_sweep.records.summary import Summary
from vae_sweep.system import stop
from vae_sweep.theory.prediction import predict
from vae_sweep.training import metrics
from vae_sweep.training.device import device_name, keep_freed_memory, limited_threads
from vae_sweep.training.loop import Paused, Progress, Run, train
from vae_sweep.training.plan import Plan
from vae_sweep.training.prepare import Prepared, resumed
from vae_sweep.training.take import Takes
from vae_sweep.training.workers import Job, Outcome, WorkerDied, Workers


def execute(
    plans: Sequence[Plan], display: Progress, takes: Takes
) -> dict[Path, Summary | None]:
    """Trains the runs of all plans to their ends, but for those that other processes take
    up first; folder -> summary, of those that were trained, or that others ended before:
    None where somebody removed the files meanwhile, or took the run over.

    Raises:
        UserError, Failed, OSError: What ends all runs alike; a full disk, say.
    """
    keep_freed_memory()
    summaries: dict[Path, Summary | None] = {}
    for plan in plans:
        execution = _Execution(plan, display, takes)
        execution.run()
        summaries |= execution.summaries
    return summaries


class _Attempt(NamedTuple):
    """A cohort to train, whether it `is_taken`, by this process, and how often a single run
    of it was ended already. One that `waits` was put off, as another process was at it."""

    cohort: list[Prepared]
    is_taken: bool = False
    tries: int = 0
    waits: bool = False


class _Execution:
    """Carries a plan out: what fails is tried again in smaller parts."""

    def __init__(self, plan: Plan, display: Progress, takes: Takes):
        self.plan, self.display, self.takes = plan, display, takes
        self.queue = deque(_Attempt(cohort) for cohort in plan.cohorts)
        self.current: dict[int, _Attempt] = {}  # by id of their jobs' lists of runs
        self.loggers: dict[Path, loggers.Logger | None] = {}
        self.summaries: dict[Path, Summary | None] = {}
        self.over: list[Prepared] = []  # whose claims can go, once more runs are claimed

    def run(self) -> None:
        with closing(self._outcomes()) as outcomes:
            for job, outcome in outcomes:
                attempt = self.current.pop(id(job.runs))
                if isinstance(outcome, Exception):
                    self._failed(attempt, outcome)
                else:
                    paths = [run.folder.path for run in job.runs]
                    self.summaries |= dict(zip(paths, outcome, strict=True))
                    self.over += attempt.cohort
        self._leave()

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
                device, random = self.plan.device, job.random
                return train(job.runs, job.images, device, self.display, random)
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
        """The next cohort, of what no other process has taken up meanwhile."""
        job = None
        while job is None and self.queue:
            attempt = self.queue.popleft()
            if not attempt.is_taken:
                attempt = self._taken(attempt)
            job = self._job(attempt)
        self._leave()
        return job

    def _taken(self, attempt: _Attempt) -> _Attempt:
        """Claims a cohort. What goes on from another step than its first follows alone; of
        a cohort that another process is just taking up the rest is left to it, at first."""
        groups: dict[Any, list[Prepared]] = {}
        for i, p in enumerate(attempt.cohort):
            found = self.takes.take(p, self.display.say)
            if isinstance(found, Prepared):
                groups.setdefault(found.cohort_key, []).append(found)
                continue
            self.display.leave(p.folder.path)
            if found is not None:
                self.summaries[p.folder.path] = found
            elif i == 0 and not attempt.waits and len(attempt.cohort) > 1:
                self.queue.append(_Attempt(attempt.cohort[1:], waits=True))
                break
        first, *others = groups.values() or ([],)
        self.queue.extendleft(_Attempt(group, is_taken=True) for group in others)
        return _Attempt(first, is_taken=True)

    def _job(self, attempt: _Attempt) -> Job | None:
        """A claimed cohort, opened; None where nothing is left of it."""
        runs, cohort = [], []
        for p in attempt.cohort:
            try:
                runs.append(self._open(p, self.plan.threads))
                cohort.append(p)
            except RecordsChanged as error:
                self._lost(p, error)
        if not runs:
            return None
        self.current[id(runs)] = attempt._replace(cohort=cohort)
        dataset = cohort[0].dataset
        return Job(runs, dataset.images, dataset.random)

    def _lost(self, p: Prepared, error: RecordsChanged) -> None:
        self.display.say(f"{p.folder.path}: {error} while the run trained")
        self.summaries[p.folder.path] = None
        self.over.append(p)

    def _leave(self) -> None:
        """Removes the claims of runs that have ended, and gives up the others that this
        process trains no more."""
        for p in self.over:
            if self.summaries.get(p.folder.path) is None:
                self.takes.give_up(p)
                self.display.leave(p.folder.path)
            else:
                self.takes.end(p)
        self.over.clear()

    def _open(self, p: Prepared, threads: int) -> Run:
        predicted = predict(p.config, p.point, p.dataset)
        about = Summary.of(
            {
                "status": "running",
                "run_id": p.config.run_id,
                "shape": p.dataset.shape,
                "normalization": p.point.normalization(),
                "beta": p.point.beta,
                "implied_sigma": p.point.sigma,
                "psnr_cap": predicted.psnr_cap,
                "predicted": predicted._asdict(),
                "steps": p.step,
                "total_steps": p.steps,
                "device": device_name(p.device),
                "threads": threads,
                **environment(),
                **metrics.stated(p.config),
            }
        )
        p.folder.open(about, metrics.columns(p.config))
        path = p.folder.path
        if path not in self.loggers:
            self.loggers[path] = loggers.open_all(p.config)
        logger = self.loggers[path]
        return Run(p.config, p.point, about, p.folder, logger, p.state, p.evaluated)

    def _failed(self, attempt: _Attempt, error: Exception) -> None:
        """Queues the runs again, in halves, or gives the only one up."""
        if isinstance(error, UserError | Failed | OSError):
            raise error  # of all runs alike: the disk is full, say
        left = []
        for p in attempt.cohort:
            try:
                p.folder.check()
            except RecordsChanged as changed:
                self._lost(p, changed)
                continue
            summary, _ = p.folder.ended()
            if summary is None:
                left.append(p)
            else:
                self.summaries[p.folder.path] = summary
                self.over.append(p)
        reason = str(error).partition("\n")[0] or type(error).__name__
        if len(left) == 1 and (attempt.tries > 0 or not isinstance(error, WorkerDied)):
            self._give_up(left[0], reason)
            return
        if left:
            more = f" and {len(left) - 1} more" if len(left) > 1 else ""
            name = left[0].config.run_id
            self.display.say(f"{name}{more}: {reason}; tried again, fewer at once")
        groups: dict[Any, list[Prepared]] = {}
        for p in resumed(left, self.display.say):
            groups.setdefault(p.cohort_key, []).append(p)
        for group in groups.values():
            tries = attempt.tries + (len(attempt.cohort) == 1)
            half = -(-len(group) // 2) if len(groups) == 1 else len(group)
            for part in filter(None, (group[:half], group[half:])):
                self.queue.append(_Attempt(part, is_taken=True, tries=tries))

    def _give_up(self, p: Prepared, reason: str) -> None:
        """Marks a run as failed; the others go on."""
        self.over.append(p)
        try:
            run = self._open(p, self.plan.threads)
            rows = p.folder.rows()
            final = rows[-1] if rows else {}
            summary = run.about.but(status="failed", reason=reason, final=final)
            p.folder.finish(summary)
        except RecordsChanged:
            self.summaries[p.folder.path] = None
            return
        self.summaries[p.folder.path] = summary
        self.display.ended(p.folder.path, summary)
        if run.logger is not None:
            run.logger.finish(summary.stated())
