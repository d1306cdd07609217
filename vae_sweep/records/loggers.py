"""Where rows go besides the local records: the loggers of a run, ours and a user's.

A logger may fail or be slow; training never notices. All calls run on one daemon thread,
and a call that raises switches that run's logger off, with one warning. The records in the
run's folder are the truth.
"""

import inspect
import logging
import math
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Protocol

from vae_sweep import options
from vae_sweep.config import RunConfig
from vae_sweep.errors import UserError, reason
from vae_sweep.records.tensorboard_logger import TensorboardLogger
from vae_sweep.records.trackio_logger import TrackioLogger
from vae_sweep.records.wandb_logger import WandbLogger
from vae_sweep.system import stop

log = logging.getLogger("vae_sweep")


class Logger(Protocol):
    """What a logger is told about one run; a user's is written like this.

    `module:object` names what makes it: a class, or a function, that is called with the
    RunConfig of the run. All calls come from one thread, in order; one that raises is the
    last. A run that goes on after a kill has a new logger, which is told all rows again.

    A class may have, besides, static or class methods that are asked without a run:
    `is_on(config)`, whether it is wanted (it raises UserError where something is wrong,
    before anything trains); `note(config)`, a line for the end of the command; and
    `teardown()`, called once no run is left. `shown_as` is its name in messages, if it has
    another than the one that is typed.
    """

    def row(self, row: Mapping[str, float]) -> None:
        """What was measured at a `step`, of which each comes once, in order: of a training
        batch `batch/loss`, `batch/mse` and `batch/kl`, every `log.every` steps; at an
        evaluation also `epoch`, `train/...`, `val/...`, `test/...`."""
        ...

    def images(self, step: int, path: Path) -> None:
        """A PNG, before the row of a later step. Its `path.stem` tells which:
        `reconstructions`, below their originals, or `samples`, decoded from the prior."""
        ...

    def finish(self, summary: Mapping[str, Any]) -> None:
        """What summary.json has, `status` and `final` among it; nothing follows."""
        ...


METHODS = ("row", "images", "finish")
OURS: dict[str, Callable[[RunConfig], Logger]] = {
    "wandb": WandbLogger,
    "trackio": TrackioLogger,
    "tensorboard": TensorboardLogger,
}


def named(name: str) -> Callable[[RunConfig], Logger]:
    """What makes the logger `name` of a run.

    Raises:
        UserError: A user's object cannot, as far as it shows before it is called.
    """
    what = "a class with row, images and finish, or a function that makes such an object"
    return options.find("log", name, OURS, lambda given: _accepted(given, name), what)


def _accepted(given: Any, name: str) -> Any:
    """What `options.find` accepts of a user's object: None where it cannot be called."""
    if not callable(given):
        return None
    wrong = complaint(given)
    if wrong:
        raise UserError(
            f"log={name} ({options.where(name)}) {wrong}; docs/extending.md shows a logger"
        )
    return given


def complaint(given: Callable[..., Any]) -> str:
    """Why a class or function makes no logger, as far as it shows; "" where it may."""
    lacks = missing(given) if inspect.isclass(given) else ""
    if lacks:
        return f"has {lacks}"
    with suppress(ValueError):  # a class in C, whose parameters are not known
        try:
            inspect.signature(given).bind("the RunConfig")
        except TypeError as error:
            return f"is called with a run's RunConfig alone, but {error}"
    return ""


def missing(made: Any) -> str:
    """The methods of a logger that a class or object lacks, as a message lists them."""
    lacking = [name for name in METHODS if not callable(getattr(made, name, None))]
    return " and ".join(f"no {name}" for name in lacking)


def check(config: RunConfig) -> None:
    """Raises UserError where a logger of a run is none, or cannot log as things are."""
    for name in _chosen(config):
        _is_on(name, config)


def open_all(config: RunConfig, names: Iterable[str] | None = None) -> Logger | None:
    """The loggers of one run as one, or None where it has none; no call blocks or raises.

    Args:
        names: Those to open; all that are on, unless given. Until one has its end, the
            run's folder says that it is owed something.
    """
    if names is None:
        names = [name for name in _chosen(config) if _is_on(name, config)]
    opened = [_Guarded(name, config) for name in names]
    return _All(opened) if opened else None


def owed(config: RunConfig) -> list[str]:
    """The loggers that were not told all of a run, for a signal, a kill or a failure."""
    return [
        name
        for name in _chosen(config)
        if _debt(name, config).exists() and _is_on(name, config)
    ]


def owes(config: RunConfig) -> bool:
    """Whether a logger of a run, which may be off, was not told all of it yet."""
    return any(_debt(name, config).exists() for name in _chosen(config))


def tell(
    logger: Logger,
    rows: Iterable[Mapping[str, float]],
    training: Iterable[Mapping[str, float]],
    pictures: Iterable[Path],
) -> None:
    """All rows so far, of evaluations and of training.csv, and the pictures of the last
    evaluation; those that it has are skipped."""
    by_step = {int(row["step"]): dict(row) for row in rows}
    evaluated = max(by_step, default=None)
    for row in training:
        step = int(row["step"])
        by_step[step] = by_step.get(step, {}) | of_batch(step, row)
    for step in sorted(by_step):
        logger.row(by_step[step])
        if step == evaluated:
            for picture in filter(Path.exists, pictures):
                logger.images(step, picture)


def of_batch(step: int, row: Mapping[str, float]) -> dict[str, float]:
    """A row of training.csv as loggers are told it."""
    rest = {f"batch/{key}": value for key, value in row.items() if key != "step"}
    return {"step": step, **rest}


def notes(configs: Iterable[RunConfig]) -> list[str]:
    """Lines for the user at the end: what the loggers of these runs have to say."""
    found: dict[str, None] = {}
    for config in configs:
        for name in _chosen(config):
            note = _hook(name, "note")
            if note is not None:
                try:
                    found[str(note(config))] = None
                except Exception as error:
                    found[f"{_shown(name)}: {_said(error, name)}"] = None
    return list(found)


def abandon() -> None:
    """Drops what loggers have not done yet: the next start of the sweep tells it again."""
    global _worker
    with _worker_lock:
        if _worker is not None:
            _worker.abandon()
        _worker = None


@contextmanager
def settled(records: Path) -> Iterator[None]:
    """Waits, at the end, for loggers to have what they were told; a signal drops that.

    `records` is what a warning names where one hangs.
    """
    try:
        yield
    except stop.Stopped:
        abandon()
        raise
    finally:
        drain(records)


def drain(records: Path, timeout_s: float = 60) -> bool:
    """Wait for the loggers at the end of the process; False, with a warning, where one
    hangs.

    Call it in a `finally`, once every run is finished. It also tears down what loggers
    share.
    """
    global _worker
    with _worker_lock:
        worker, _worker = _worker, None
        used = list(_used)
        _used.clear()
    if worker is None:
        return True
    for name in used:
        worker.submit(name, lambda name=name: _tear_down(name))
    in_time = worker.close(timeout_s)
    if not in_time:
        log.warning(
            "%s did not finish within %g s; its data may lack the end. "
            "The local records are complete: %s",
            *(_shown(worker.busy), timeout_s, records),
        )
        # takes exit hooks away at once, then waits where nobody waits for it
        last = threading.Thread(target=lambda: [*map(_tear_down, used)], daemon=True)
        last.start()
        last.join(1)
    _warned.clear()
    return in_time


def _chosen(config: RunConfig) -> list[str]:
    """The loggers of a run by their names: ours have a section each."""
    ours = [name for name in OURS if getattr(config.log, name) is not None]
    return [*ours, *config.log.own]


def _debt(name: str, config: RunConfig) -> Path:
    """The file in a run's folder that is there until a logger was told all."""
    return config.run_dir / f".{name.replace(':', '.')}-owed"


def _hook(name: str, hook: str) -> Callable[..., Any] | None:
    """What a logger's class answers without a run, if it does."""
    made = named(name)
    found = inspect.getattr_static(made, hook, None)
    return getattr(made, hook) if isinstance(found, staticmethod | classmethod) else None


def _is_on(name: str, config: RunConfig) -> bool:
    is_on = _hook(name, "is_on")
    try:
        return is_on is None or bool(is_on(config))
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"log={name} cannot be used: {_said(error, name)}") from None


def _tear_down(name: str) -> None:
    teardown = _hook(name, "teardown")
    if teardown is not None:
        # SystemExit: some leave with the exit code of a service of theirs
        with suppress(Exception, SystemExit):
            teardown()


def _shown(name: str) -> str:
    return getattr(named(name), "shown_as", name)


def _said(error: BaseException, name: str) -> str:
    """An exception in a line, with the line of a user's file that it came from."""
    return options.raised(error, name) if options.is_own(name) else reason(error)


class _Worker:
    """One daemon thread that runs what is submitted, in order."""

    def __init__(self) -> None:
        self.busy = ""  # the logger whose task runs
        self._tasks: SimpleQueue[tuple[str, Callable[[], None]] | None] = SimpleQueue()
        self._abandoned = threading.Event()
        self._thread = threading.Thread(target=self._work, name="loggers", daemon=True)
        self._thread.start()

    def submit(self, name: str, task: Callable[[], None]) -> None:
        self._tasks.put((name, task))

    def abandon(self) -> None:
        self._abandoned.set()

    def close(self, timeout_s: float) -> bool:
        """Whether all tasks were done in time; those that were not are dropped."""
        self._tasks.put(None)
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            self._abandoned.set()
        return not self._abandoned.is_set()

    def _work(self) -> None:
        while (given := self._tasks.get()) is not None and not self._abandoned.is_set():
            self.busy, task = given
            task()


_worker: _Worker | None = None
_worker_lock = threading.Lock()
_used: dict[str, None] = {}  # names of loggers that were opened
_warned: set[str] = set()  # causes of failures, said once


def _submit(name: str, task: Callable[[], None]) -> None:
    global _worker
    with _worker_lock:
        _worker = _worker or _Worker()
        _used[name] = None
        _worker.submit(name, task)


class _Guarded:
    """A run's logger `name`, driven from the worker thread only; off once a call raises."""

    def __init__(self, name: str, config: RunConfig) -> None:
        self._name, self._config = name, config
        self._logger: Any = None
        self._failed = False
        self._told = -1  # the last step that it has
        self._pictured: dict[str, int] = {}  # picture -> the last step that it has it of
        with suppress(OSError):
            _debt(name, config).touch()
        self._submit(self._open)

    def row(self, row: Mapping[str, float]) -> None:
        # nan is "not measured here": left out, so that no panel is made of it
        values = {key: value for key, value in row.items() if not math.isnan(value)}
        step = values["step"] = int(row["step"])

        def tell_row() -> None:
            if step > self._told:  # a cohort that is tried again tells all its rows again
                self._logger.row(values)
                self._told = step

        self._submit(tell_row)

    def images(self, step: int, path: Path) -> None:
        def tell_images() -> None:
            if self._pictured.get(path.name, -1) < step == self._told:
                self._logger.images(step, path)
                self._pictured[path.name] = step

        self._submit(tell_images)

    def finish(self, summary: Mapping[str, Any]) -> None:
        values = dict(summary)

        def finish_run() -> None:
            self._logger.finish(values)
            with suppress(OSError):
                _debt(self._name, self._config).unlink(missing_ok=True)

        self._submit(finish_run)

    def _submit(self, call: Callable[[], None]) -> None:
        _submit(self._name, lambda: self._attempt(call))

    def _attempt(self, call: Callable[[], None]) -> None:
        if self._failed:
            return
        try:
            call()
        except BaseException as error:  # SystemExit, say: this thread is all loggers'
            self._failed = True
            self._warn(_said(error, self._name))

    def _warn(self, said: str) -> None:
        # what hits all runs of a cohort alike is said once
        cause = f"{self._name} {said}".replace(self._config.run_id, "")
        log.log(
            logging.DEBUG if cause in _warned else logging.WARNING,
            "%s is off for %s (%s). Training continues; the local records: %s",
            *(_shown(self._name), self._config.run_id, said, self._config.run_dir),
        )
        _warned.add(cause)

    def _open(self) -> None:
        logger = named(self._name)(self._config)
        if lacks := missing(logger):
            raise TypeError(f"a {type(logger).__name__} has {lacks}")
        self._logger = logger


class _All:
    """Several loggers of one run."""

    def __init__(self, loggers: list[_Guarded]) -> None:
        self._loggers = loggers

    def row(self, row: Mapping[str, float]) -> None:
        for each in self._loggers:
            each.row(row)

    def images(self, step: int, path: Path) -> None:
        for each in self._loggers:
            each.images(step, path)

    def finish(self, summary: Mapping[str, Any]) -> None:
        for each in self._loggers:
            each.finish(summary)
