"""A list of points, from validation to the table: what every launcher calls.

Torch is imported where something is to train: a sweep that has ended needs none.
"""

from collections import Counter
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from vae_sweep.config import RunConfig
from vae_sweep.data.dataset import Datasets
from vae_sweep.errors import Failed, UserError
from vae_sweep.records import loggers, results
from vae_sweep.records.find import run_folder
from vae_sweep.records.run_folder import ReadOnly, list_runs, lock
from vae_sweep.records.summary import Summary
from vae_sweep.reporting import overview, tables
from vae_sweep.reporting.console import Console
from vae_sweep.reporting.progress import Display, Shown
from vae_sweep.training.locate import Located, locate

if TYPE_CHECKING:
    from vae_sweep.training.prepare import Prepared

    Ready = dict[Path, Prepared]  # by folder

Look = tuple[Summary | None, str | None]  # of RunFolder.ended
ROUNDS = 2  # runs whose files are gone at the end are repeated once


class Diverged(Failed):
    """A run's loss was not finite; its rows end at the last finite one."""


class Broken(Failed):
    """A run ended by an error, for lack of memory perhaps; its checkpoint is kept."""


class Ended(NamedTuple):
    """A point's folder and its summary, None where the folder was removed meanwhile."""

    folder: Path
    summary: Summary | None


def run(configs: list[RunConfig]) -> list[Summary | Failed]:
    """`train` with what a command prints; a point's summary, or the error that says what
    became of it."""
    return [_outcome(*ended) for ended in train(configs, Console(least=120))]


def train(configs: list[RunConfig], console: Console, table: bool = True) -> list[Ended]:
    """Trains all points that have not ended; returns how each did, in order.

    Every point that is to train is validated before anything is written. At the end prints
    the table (unless it is not wanted), draws overview.png, and says what the loggers have
    to say.
    """
    datasets = Datasets()
    located = locate(configs, datasets)
    points = list({p.folder.path: p for p in located}.values())
    folders = list(dict.fromkeys(c.sweep_dir for c in configs))
    with ExitStack() as stack:
        there = list(filter(Path.is_dir, folders))  # others hold no run yet
        try:
            for folder in there:
                stack.enter_context(lock(folder))
        except ReadOnly as error:
            ended = {p.folder.path: p.folder.ended()[0] for p in points}
            if any(_is_to_train(p, ended[p.folder.path]) for p in points):
                raise
            datasets.say(console.say)
            console.say(f"nothing can be written, so the sweep is only shown: {error}")
            _report(console, [p.config for p in points], table, draw=False)
        else:
            _check_longer(points)
            looks = {p.folder.path: p.folder.ended() for p in points}
            ready: Ready = {}
            todo = [p for p in points if _is_to_train(p, looks[p.folder.path][0])]
            _check_extended(console, _prepare(todo, ready, console))
            datasets.say(console.say)
            for folder in folders:
                if folder not in there:  # then; another command may have made it since
                    stack.enter_context(lock(folder))
                    paths = (p.folder for p in points if p.config.sweep_dir == folder)
                    looks |= {each.path: each.ended() for each in paths}
            ended = _run_locked(console, points, looks, ready)
            _report(console, [p.config for p in points], table, draw=True)
    kept = {p.asked.run_dir: p.folder.path for p in located}
    return [Ended(kept[c.run_dir], ended[kept[c.run_dir]]) for c in configs]


def _is_to_train(p: Located, summary: Summary | None) -> bool:
    """Whether a run has not ended, or is to be repeated."""
    return summary is None or p.config.rerun in ("all", summary.status)


def _prepare(points: list[Located], ready: "Ready", console: Console) -> "list[Prepared]":
    """Those of `points`, each prepared once; raises UserError as `prepare`."""
    new = [p for p in points if p.folder.path not in ready]
    if new:
        from vae_sweep.training.prepare import prepare

        ready |= {p.folder.path: p for p in prepare(new, console.say)}
    return [ready[p.folder.path] for p in points]


def _check_longer(points: list[Located]) -> None:
    """Raises UserError where a point is the very run that extend names."""
    for p in points:
        if p.config.extend is None:
            continue
        named = Path()
        with suppress(UserError):  # said where the point has not begun with it
            named = run_folder(p.config.extend, p.config.sweep_dir.parent)
        if named.resolve() == p.folder.path.resolve():
            raise UserError(
                f"extend={p.config.extend} needs more steps than the run's {p.steps}; "
                f"set train.steps={2 * p.steps}, or leave extend out"
            )


def _check_extended(console: Console, todo: "list[Prepared]") -> None:
    """Raises UserError where a point cannot go on from the run that extend names; says
    which points are new though the same of other steps are there."""
    if not todo:
        return
    from vae_sweep.training import extend

    for p in filter(extend.is_due, todo):
        extend.begun(p)
    line = extend.others(todo)
    if line:
        console.say(line)


def _run_locked(
    console: Console, points: list[Located], looks: dict[Path, Look], ready: "Ready"
) -> dict[Path, Summary | None]:
    """Trains what has not ended; folder -> summary."""
    names = results.labels(results.identities([p.config for p in points]))
    for folder in dict.fromkeys(p.folder.path.parent for p in points):
        stated = {
            p.folder.path.name: {"total_steps": p.steps, "label": names[p.config.run_id]}
            for p in points
            if p.folder.path.parent == folder
        }
        complaint = list_runs(folder, stated)
        if complaint:
            console.say(complaint)
    ended = {p.folder.path: _ended(console, p, looks[p.folder.path]) for p in points}
    _say_skipped(console, list(filter(None, ended.values())))
    _settle(points, ended)
    for _ in range(ROUNDS):
        todo = [p for p in points if ended[p.folder.path] is None]
        if not todo:
            break
        with loggers.settled(todo[0].config.sweep_dir):
            ended |= _train(console, _prepare(todo, ready, console), len(points), names)
        for p in points:  # of those that ended before, too, the files may be gone
            if ended[p.folder.path] is not None:
                ended[p.folder.path] = _ended(console, p, p.folder.ended(), again=False)
    return ended


def _train(
    console: Console, todo: "list[Prepared]", count: int, names: dict[str, str]
) -> dict[Path, Summary | None]:
    """Trains `todo`, of `count` points that `names` tell apart; folder -> summary."""
    from vae_sweep.training import extend
    from vae_sweep.training.execute import execute
    from vae_sweep.training.plan import plans
    from vae_sweep.training.prepare import resumed

    for p in filter(extend.is_due, todo):
        p.folder.begin_with(*extend.begun(p))
    todo = resumed(todo, console.say)
    _say_going_on(console, todo)
    made = plans(todo, count)
    for plan in made:
        console.print(str(plan), highlight=False)
    shown = {p.folder.path: Shown(names[p.config.run_id], p.step, p.steps) for p in todo}
    with Display(console, shown, made[0].workers) as display:
        summaries = execute(made, display)
    return {p.folder.path: summaries.get(p.folder.path) for p in todo}


def _ended(console: Console, p: Located, look: Look, again: bool = True) -> Summary | None:
    """The summary of a run that ended and is not to be repeated; its files are repaired.

    With `again`, what a user asked to repeat is.
    """
    for done in p.folder.repair():
        console.say(done)
    summary, complaint = look
    if complaint and (again or summary is None):
        console.say(f"{p.folder.path}: {complaint}")
    if summary is None or not again or not _is_to_train(p, summary):
        return summary
    if summary.status != "failed" or p.config.rerun == "all":  # else it goes on
        p.folder.start_over()
    return None


def _settle(points: list[Located], ended: dict[Path, Summary | None]) -> None:
    """Tells loggers all of the runs that ended before they had heard of it."""
    owed = [p for p in points if ended[p.folder.path] and loggers.owed(p.config)]
    if not owed:
        return
    with loggers.settled(owed[0].config.sweep_dir):
        for p in owed:
            summary = ended[p.folder.path]
            logger = loggers.open_all(p.config, loggers.owed(p.config))
            if summary is not None and logger is not None:
                rows, training = p.folder.rows(), p.folder.training(summary)
                loggers.tell(logger, rows, training, p.folder.pictures)
                logger.finish(summary.stated())


def _outcome(folder: Path, summary: Summary | None) -> Summary | Failed:
    run_id = folder.name
    if summary is None or summary.status == "failed":
        removed = "its files were removed while it trained, again and again"
        reason = removed if summary is None else summary.reason
        return Broken(f"{run_id} failed: {reason}; rerun=failed continues it")
    if summary.status == "diverged":
        return Diverged(
            f"{run_id} diverged at step {summary.diverged_at}: its loss is not finite; "
            f"lower train.lr or set train.clip=1 (rerun=diverged repeats it as it is)"
        )
    return summary


def _say_skipped(console: Console, ended: list[Summary]) -> None:
    if not ended:
        return
    points = "1 point has" if len(ended) == 1 else f"{len(ended)} points have"
    counted = Counter(summary.status for summary in ended)
    odd = [f"{counted[name]} {name}" for name in ("diverged", "failed") if counted[name]]
    of_them = f" ({', '.join(odd)})" if odd else ""
    them = "it" if len(ended) == 1 else "them"
    console.say(f"{points} ended already{of_them}; rerun=all repeats {them}")


def _say_going_on(console: Console, todo: "list[Prepared]") -> None:
    """From which steps those go on that were interrupted."""
    begun = [p for p in todo if 0 < p.step < p.steps]
    if begun:
        points = "1 point goes" if len(begun) == 1 else f"{len(begun)} points go"
        low, high = min(p.step for p in begun), max(p.step for p in begun)
        steps = f"step {low}" if low == high else f"steps {low} to {high}"
        total = max(p.steps for p in begun)
        console.say(f"{points} on from {steps} of {total}")


def _report(console: Console, configs: list[RunConfig], table: bool, draw: bool) -> None:
    for folder in dict.fromkeys(c.sweep_dir for c in configs):
        ids = [c.run_id for c in configs if c.sweep_dir == folder and c.run_dir.is_dir()]
        if not ids:
            continue
        whole = results.read(folder, ids, rest=True)
        alone = set(whole.finals["run_id"]) <= {*ids}
        shown = whole if alone else results.read(folder, ids)
        if table:
            tables.print_table(shown, console)
        if draw:
            for line in results.left_out(whole):
                console.say(line)
            picture = overview.save_overview(whole, folder)
            written = tables.save_table(whole, folder)
            console.say(f"picture: {picture}")
            console.say(f"table: {written}")
    for note in loggers.notes(configs):
        console.say(note)
