"""A list of points, from validation to the table: what every launcher calls.

Torch is imported where something is to train: a sweep that has ended needs none.
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from vae_sweep.config import RunConfig
from vae_sweep.data.dataset import Datasets
from vae_sweep.errors import Failed, UserError, counted
from vae_sweep.records import claim, loggers, results, states
from vae_sweep.records.claim import Claims, Stated
from vae_sweep.records.find import is_run, run_folder
from vae_sweep.records.run_folder import ReadOnly, enter, list_runs
from vae_sweep.records.summary import Summary
from vae_sweep.reporting import overview, tables
from vae_sweep.reporting.console import Console
from vae_sweep.reporting.progress import Display, Shown
from vae_sweep.training.locate import Located, locate

if TYPE_CHECKING:
    from vae_sweep.training.device import Elsewhere
    from vae_sweep.training.extend import Begun
    from vae_sweep.training.prepare import Prepared

    Ready = dict[Path, Prepared]  # by folder

Look = tuple[Summary | None, str | None]  # of RunFolder.ended
ROUNDS = 2  # runs whose files are gone at the end are repeated once
LOOK_S = 2.0  # between two looks at what other processes train, where that is waited for
NAMED = 4  # processes that a line names


class Diverged(Failed):
    """A run's loss was not finite; its rows end at the last finite one."""


class Broken(Failed):
    """A run ended by an error, for lack of memory perhaps; its checkpoint is kept."""


class Ended(NamedTuple):
    """A point's folder and its summary, None where another process still trains it, or else
    the folder was removed meanwhile."""

    folder: Path
    summary: Summary | None
    is_elsewhere: bool = False


def run(configs: list[RunConfig], part: bool = False) -> list[Summary | Failed | None]:
    """`train` with what a command prints; a point's summary, or the error that says what
    became of it; None of one that another process still trains."""
    return [_outcome(each) for each in train(configs, Console(least=120), part=part)]


def train(
    configs: list[RunConfig],
    console: Console,
    table: bool = True,
    wait: bool = False,
    part: bool = False,
) -> list[Ended]:
    """Trains all points that have not ended; returns how each did, in order.

    Other processes may do the same at the same time, on this machine or others: each takes
    points that no other has, and takes over those of a process that is gone. Whoever finds
    all of its points ended prints the table (unless it is not wanted) and draws
    overview.png; `wait` says whether that is waited for. Where the points are a `part` of
    their sweep, whoever ends the last run of it does so, and of the whole sweep.

    Every point that is to train is validated before anything is written.
    """
    datasets = Datasets()
    located = locate(configs, datasets)
    points = list({p.folder.path: p for p in located}.values())
    folders = list(dict.fromkeys(c.sweep_dir for c in configs))
    there = list(filter(Path.is_dir, folders))
    try:
        for folder in there:
            enter(folder)
    except ReadOnly as error:
        ended = {p.folder.path: p.folder.ended()[0] for p in points}
        if any(_is_to_train(p, ended[p.folder.path]) for p in points):
            raise
        datasets.say(console.say)
        console.say(f"nothing can be written, so the sweep is only shown: {error}")
        elsewhere: dict[Path, Stated] = {}
        _report(console, points, elsewhere, table, draw=False, part=part)
    else:
        looks, ready, begun = _validated(points, console)
        datasets.say(console.say)
        for folder in folders:
            if folder not in there:
                enter(folder)
        with Claims() as claims:
            training = _Training(console, points, ready, begun, claims)
            training.run(looks, wait)
            ended, elsewhere = training.ended, training.elsewhere
        _report(console, points, elsewhere, table, draw=True, part=part)
    kept = {p.asked.run_dir: p.folder.path for p in located}
    paths = [kept[c.run_dir] for c in configs]
    return [Ended(path, ended[path], path in elsewhere) for path in paths]


def hand_out(
    configs: list[RunConfig],
    elsewhere: "Elsewhere",
    send: Callable[[list[list[RunConfig]]], None],
) -> list[Path] | None:
    """Validates and lists all points as `train` does, and has those that have not ended
    trained by others.

    Args:
        configs: The points.
        elsewhere: What each process has that trains a cohort.
        send: Called with the cohorts, the longest first, once the points are listed; each
            is for `run` as a part, in a process of its own on any machine that sees the
            sweep's folder. What is to be repeated is put aside by then, so that a cohort
            that is begun again goes on.

    Returns:
        The folders of the runs that were sent; None where all had ended.

    Raises:
        UserError: As `train`.
    """
    console, datasets = Console(least=120), Datasets()
    located = locate(configs, datasets)
    points = list({p.folder.path: p for p in located}.values())
    looks, ready, begun = _validated(points, console, elsewhere)
    if not ready:
        return None
    from vae_sweep.training.plan import cohorts_elsewhere

    datasets.say(console.say)
    for folder in dict.fromkeys(p.folder.path.parent for p in points):
        enter(folder)
    with Claims() as claims:
        todo = _Training(console, points, ready, begun, claims).begin_others(looks)
    if todo:
        asked = {p.folder.path: _begun_again(p.asked) for p in todo}
        cohorts = cohorts_elsewhere([ready[path] for path in asked], elsewhere)
        send([[asked[p.folder.path] for p in cohort] for cohort in cohorts])
    return [p.folder.path for p in todo]


def _begun_again(config: RunConfig) -> RunConfig:
    """`config` for a process that may be begun again: what it has ended it does not repeat;
    a run that failed goes on from its checkpoint, however often."""
    again = config.rerun if config.rerun == "failed" else None
    return config.model_copy(update={"rerun": again})


def report(configs: list[RunConfig]) -> list[Summary | Failed | None]:
    """The table and picture of points that others were to train; returns as `run`, a
    Broken of a point that has not ended."""
    points = locate(configs, Datasets())
    _report(Console(least=120), points, {}, table=True, draw=True)
    goes_on = "has not ended; the same command continues it"
    ended = [Ended(p.folder.path, p.folder.ended()[0]) for p in points]
    return [
        _outcome(each) if each.summary else Broken(f"{each.folder.name} {goes_on}")
        for each in ended
    ]


def _is_to_train(p: Located, summary: Summary | None) -> bool:
    """Whether a run has not ended, or is to be repeated."""
    return summary is None or p.config.rerun in ("all", summary.status)


def _validated(
    points: list[Located], console: Console, elsewhere: "Elsewhere | None" = None
) -> "tuple[dict[Path, Look], Ready, dict[Path, Begun]]":
    """What is there of all points, those that are to train, prepared for this process or
    one `elsewhere`, and what of these begins with another run; by folder, nothing written.
    Raises UserError where one cannot train."""
    _check_longer(points)
    looks = {p.folder.path: p.folder.ended() for p in points}
    ready: Ready = {}
    todo = [p for p in points if _is_to_train(p, looks[p.folder.path][0])]
    begun = _check_extended(console, _prepare(todo, ready, console, elsewhere))
    return looks, ready, begun


def _prepare(
    points: list[Located],
    ready: "Ready",
    console: Console,
    elsewhere: "Elsewhere | None" = None,
) -> "list[Prepared]":
    """Those of `points`, each prepared once; raises UserError as `prepare`."""
    new = [p for p in points if p.folder.path not in ready]
    if new:
        from vae_sweep.training.prepare import prepare

        ready |= {p.folder.path: p for p in prepare(new, console.say, elsewhere)}
    return [ready[p.folder.path] for p in points]


def _check_longer(points: list[Located]) -> None:
    """Raises UserError where a point is the very run that extend names, or has other
    settings than that."""
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
        if p.folder.path.exists():  # one that ended before is asked for nothing else
            from vae_sweep.training import extend

            extend.check_settings(p, named)


def _check_extended(console: Console, todo: "list[Prepared]") -> "dict[Path, Begun]":
    """What points begin with that go on from another run, by folder. Raises UserError
    where one cannot; says which points are new though the same of other steps are there."""
    if not todo:
        return {}
    from vae_sweep.training import extend

    begun = {p.folder.path: extend.begun(p) for p in todo if extend.is_due(p)}
    line = extend.others(todo)
    if line:
        console.say(line)
    return begun


class _Training:
    """Trains what has not ended, of points that other processes may train as well."""

    def __init__(
        self,
        console: Console,
        points: list[Located],
        ready: "Ready",
        begun: "dict[Path, Begun]",
        claims: Claims,
    ):
        self.console, self.points, self.claims = console, points, claims
        self.ready, self.begun = ready, begun
        self.names = results.labels(results.identities([p.config for p in points]))
        self.ended: dict[Path, Summary | None] = {}  # by folder
        self.elsewhere: dict[Path, Stated] = {}  # by whom points are trained

    def run(self, looks: dict[Path, Look], wait: bool) -> None:
        """Until every point has ended, or another process trains it; with `wait`, until
        that has ended it, too.

        Args:
            looks: Folder -> what the command saw of it at first.
        """
        self._begin(looks)
        self._settle()
        found = {path: summary for path, (summary, _) in looks.items()}
        seen = {path: s for path, s in found.items() if s and self.ended[path] is None}
        tries: Counter[Path] = Counter()
        joined = False
        while True:
            todo = [p for p in self._open() if tries[p.folder.path] < ROUNDS]
            if self.elsewhere and not joined and (todo or wait):
                joined = True
                self._say_joined(len(todo))
            if not todo and not (wait and self.elsewhere):
                break
            taken = self._train(todo, seen) if todo else {}
            if not taken:  # others were faster
                time.sleep(LOOK_S)
            tries.update(taken.keys())
            seen = {path: s for path, s in seen.items() if path not in taken}
            for p in self.points:  # of those that ended before, too, files may be gone
                summary, path = p.folder.ended()[0], p.folder.path
                self.ended[path] = None if summary == seen.get(path) else summary
                if self.ended[path] is not None:
                    self.claims.tidy(path)
        if self.elsewhere:
            self._say_left()

    def begin_others(self, looks: dict[Path, Look]) -> list[Located]:
        """The points that have not ended and that nobody trains, for others to train: what
        is to be repeated starts over."""
        from vae_sweep.training.take import starts_over

        self._begin(looks)
        todo = self._open()
        if self.elsewhere:
            self._say_joined(len(todo))
        for p in todo:
            (summary, _), path = looks[p.folder.path], p.folder.path
            if summary and starts_over(p.config, summary) and self.claims.take(path):
                p.folder.start_over()
                self.claims.give_up(path)
        return todo

    def _begin(self, looks: dict[Path, Look]) -> None:
        """Lists all points, and looks through those that have ended."""
        self._list()
        for p in self.points:
            self.ended[p.folder.path] = self._whole(p, looks[p.folder.path])
        _say_skipped(self.console, list(filter(None, self.ended.values())))

    def _open(self) -> list[Located]:
        """The points that have not ended and that nobody trains; notes the others."""
        left = [p for p in self.points if self.ended[p.folder.path] is None]
        held = {p.folder.path: claim.holder(p.folder.path) for p in left}
        self.elsewhere = {path: by for path, by in held.items() if by is not None}
        return [p for p in left if held[p.folder.path] is None]

    def _list(self) -> None:
        for folder in dict.fromkeys(p.folder.path.parent for p in self.points):
            stated = {
                p.folder.path.name: {
                    "total_steps": p.steps,
                    "label": self.names[p.config.run_id],
                }
                for p in self.points
                if p.folder.path.parent == folder
            }
            complaint = list_runs(folder, stated)
            if complaint:
                self.console.say(complaint)

    def _whole(self, p: Located, look: Look) -> Summary | None:
        """The summary of a run that has ended and is not to be repeated; its files are
        repaired, what is wrong with them is said."""
        summary, complaint = look
        if _is_to_train(p, summary):
            return None
        path = p.folder.path
        for done in p.folder.repair(lambda: self.claims.take(path) is not None):
            self.console.say(done)
        self.claims.end(path)
        self.claims.tidy(path)
        if complaint:
            self.console.say(f"{path}: {complaint}")
        return summary

    def _settle(self) -> None:
        """Tells loggers all of the runs that ended before they had heard of it."""
        owed = [
            p for p in self.points if self.ended[p.folder.path] and loggers.owes(p.config)
        ]
        owed = [p for p in owed if loggers.owed(p.config)]
        if not owed:
            return
        with loggers.settled(owed[0].config.sweep_dir):
            for p in owed:
                summary, path = self.ended[p.folder.path], p.folder.path
                if summary is None or self.claims.take(path) is None:
                    continue  # the process that trained it tells them just now
                logger = loggers.open_all(p.config, loggers.owed(p.config))
                if logger is not None:
                    rows, training = p.folder.rows(), p.folder.training(summary)
                    loggers.tell(logger, rows, training, p.folder.pictures)
                    logger.finish(summary.stated())
                self.claims.end(path, lambda config=p.config: loggers.owes(config))

    def _train(
        self, todo: list[Located], seen: dict[Path, Summary]
    ) -> dict[Path, Summary | None]:
        """Trains those of `todo` that no other process takes up; folder -> summary."""
        from vae_sweep.training.execute import execute
        from vae_sweep.training.plan import plans
        from vae_sweep.training.take import Takes

        takes = Takes(self.claims, seen, self.begun)
        prepared = _prepare(todo, self.ready, self.console)
        planned = [takes.planned(p) for p in prepared]
        _say_going_on(self.console, planned)
        made = plans(planned, len(self.points))
        for plan in made:
            self.console.print(str(plan), highlight=False)
        shown = {
            p.folder.path: Shown(self.names[p.config.run_id], p.step, p.steps)
            for p in planned
        }
        with (
            loggers.settled(todo[0].config.sweep_dir),
            Display(self.console, shown, made[0].workers) as display,
        ):
            return execute(made, display, takes)

    def _say_joined(self, left: int) -> None:
        points = counted(len(self.points), "point")
        rest = f"{left} of {points} left for this process"
        rest = rest if left else "waiting for the other processes to end"
        self.console.say(f"{self._by_others()}; {rest}")

    def _say_left(self) -> None:
        self.console.say(f"{self._by_others()}; whoever ends last prints the table")

    def _by_others(self) -> str:
        """Which machines train what this process does not."""
        named = Counter(map(str, self.elsewhere.values())).most_common()
        shown = [f"{count} by {who}" for who, count in named[:NAMED]]
        shown += [f"and {len(named) - NAMED} more"] if len(named) > NAMED else []
        are = "is" if len(self.elsewhere) == 1 else "are"
        who = named[0][0] if len(named) == 1 else "; ".join(shown)
        points = counted(len(self.elsewhere), "point")
        return f"{points} {are} being trained elsewhere ({who})"


def _outcome(ended: Ended) -> Summary | Failed | None:
    run_id, summary = ended.folder.name, ended.summary
    if summary is None and ended.is_elsewhere:
        return None
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
    statuses = Counter(summary.status for summary in ended)
    odd = [f"{statuses[name]} {name}" for name in ("diverged", "failed") if statuses[name]]
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


def _report(
    console: Console,
    points: list[Located],
    elsewhere: Mapping[Path, Stated],
    table: bool,
    draw: bool,
    part: bool = False,
) -> None:
    """Shows and draws what has been measured, of sweeps whose points have all ended; where
    the points are a `part` of a sweep, of the whole of it, once all has ended."""
    configs = [p.config for p in points]
    for folder in dict.fromkeys(c.sweep_dir for c in configs):
        here = [p for p in points if p.config.sweep_dir == folder]
        ids = [p.config.run_id for p in here if is_run(p.config.run_dir)]
        if not ids or any(p.folder.path in elsewhere for p in here):
            continue
        if part and set(states.read(folder).counts) - set(states.ENDED):
            continue
        whole = results.read(folder, ids, rest=True)
        alone = part or set(whole.finals["run_id"]) <= {*ids}
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
