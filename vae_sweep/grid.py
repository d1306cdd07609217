"""A list of points, from validation to the table: what every launcher calls."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from vae_sweep import loggers, plots, results
from vae_sweep.config import Failed, RunConfig
from vae_sweep.console import Console
from vae_sweep.plan import Plan, plans
from vae_sweep.points import Prepared, prepare
from vae_sweep.predictions import predict
from vae_sweep.process import keep_freed_memory, limited_threads
from vae_sweep.progress import Display
from vae_sweep.records import lock
from vae_sweep.train import Run, train
from vae_sweep.workers import Job, Workers


class Diverged(Failed):
    """A run's loss was not finite; its rows end at the last finite one."""


def run(configs: list[RunConfig]) -> list[dict[str, Any] | Diverged]:
    """Trains all points that are not finished; returns each one's summary, in order.

    At the end prints the table, draws overview.png, and says where W&B's files lie.
    """
    console = Console(least=120)
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
                ended |= _train(console, todo, len(prepared))
            finally:
                loggers.drain(todo[0].config.sweep_dir)
        _report(console, [p.config for p in prepared])
    return [_outcome(c.run_id, ended[c.run_dir] or {}) for c in configs]


def _outcome(run_id: str, summary: dict[str, Any]) -> dict[str, Any] | Diverged:
    if summary["status"] == "diverged":
        return Diverged(
            f"{run_id} diverged at step {summary['diverged_at']}; lower train.lr, or set "
            f"train.clip=1"
        )
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


def _train(
    console: Console, todo: list[Prepared], count: int
) -> dict[Path, dict[str, Any]]:
    """Trains cohort after cohort, of a grid of `count` points; folder -> summary."""
    keep_freed_memory()
    remaining = sum(p.steps - p.step for p in todo)
    made = plans(todo, count)
    for plan in made:
        console.print(str(plan), highlight=False)
    summaries: dict[Path, dict[str, Any]] = {}
    with Display(console, remaining, len(todo)) as display:
        for plan in made:
            for job, ended in _carried_out(plan, display):
                paths = [run.folder.path for run in job.runs]
                summaries |= dict(zip(paths, ended, strict=True))
    return summaries


def _carried_out(
    plan: Plan, display: Display
) -> Iterator[tuple[Job, list[dict[str, Any]]]]:
    """Each cohort of the plan with its summaries, when it has ended."""
    jobs = (
        Job([_open(p) for p in cohort], cohort[0].dataset.images) for cohort in plan.cohorts
    )
    if plan.workers == 1:
        with limited_threads(plan.threads):
            for job in jobs:
                yield job, train(job.runs, job.images, plan.device, display)
        return
    with Workers(plan.workers, plan.threads, display) as workers:
        yield from workers.train(jobs)


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
