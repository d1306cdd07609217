"""Trains cohorts in worker processes: each takes the next one when it is free.

The images lie in files that all workers map, so that memory holds them once. A worker
writes the run folders itself; what a person or W&B sees goes through the parent.
"""

import pickle
import signal
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing import connection, get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file

from vae_sweep.config import Failed
from vae_sweep.data import Images
from vae_sweep.process import keep_freed_memory
from vae_sweep.train import Progress, Run, train

TELL_S = 0.2  # seconds from one report of progress to the next


class Job(NamedTuple):
    """A cohort and the images it trains on."""

    runs: list[Run]
    images: Images


class WorkerDied(Failed):
    """A worker process ended before its cohort did."""


class Workers:
    """`count` processes of `threads` threads each, and the images they share."""

    def __init__(self, count: int, threads: int, progress: Progress):
        self.progress = progress
        self.busy: dict[Connection, Job] = {}
        self.shared: dict[int, tuple[Images, Path]] = {}
        self._stack = ExitStack()
        try:
            folder = self._stack.enter_context(tempfile.TemporaryDirectory())
            self.folder = Path(folder)
            started = [_worker(threads) for _ in range(count)]
            self.links = [self._stack.enter_context(each) for each in started]
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def train(self, jobs: Iterator[Job]) -> Iterator[tuple[Job, list[dict[str, Any]]]]:
        """Trains all jobs, drawn when a worker is free; yields each with its summaries.

        Raises what a worker raised, and WorkerDied where one was killed.
        """
        for link in self.links:
            self._hand_over(link, jobs)
        while self.busy:
            for link in connection.wait(list(self.busy)):
                assert isinstance(link, Connection)
                summaries = self._listen(link)
                if summaries is not None:
                    yield self.busy.pop(link), summaries
                    self._hand_over(link, jobs)

    def _hand_over(self, link: Connection, jobs: Iterator[Job]) -> None:
        job = next(jobs, None)
        if job is None:
            return
        logged = [run.logger is not None for run in job.runs]
        runs = [run._replace(logger=None) for run in job.runs]
        self.busy[link] = job
        with suppress(ConnectionError):  # a dead worker is noticed when it is heard
            _send(link, runs, logged, self._file(job.images))

    def _listen(self, link: Connection) -> list[dict[str, Any]] | None:
        """Handles a worker's message; returns the summaries that end its job."""
        try:
            kind, content = _receive(link)
        except (EOFError, ConnectionError):
            raise WorkerDied(self._obituary(link)) from None
        if kind == "done":
            return content
        if kind == "raised":
            raise content
        if kind == "logger":
            r, method, arguments = content
            getattr(self.busy[link].runs[r].logger, method)(*arguments)
        else:
            getattr(self.progress, kind)(*content)
        return None

    def _obituary(self, link: Connection) -> str:
        first, *others = (run.config.run_id for run in self.busy[link].runs)
        more = f" and {len(others)} more" if others else ""
        return (
            f"a worker process was killed while it trained {first}{more}, perhaps for "
            f"lack of memory;\nthe same command goes on from the last checkpoint; "
            f"train.workers=1 train.cohort=1 needs the least memory"
        )

    def _file(self, images: Images) -> Path:
        """Where workers find `images`."""
        if id(images) not in self.shared:
            path = self.folder / f"images{len(self.shared)}.safetensors"
            save_file(images._asdict(), path)
            self.shared[id(images)] = images, path
        return self.shared[id(images)][1]


@contextmanager
def _worker(threads: int) -> Iterator[Connection]:
    """A connection to a new process, which is gone afterwards."""
    spawn = get_context("spawn")  # a fork of a process that has threads may hang
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=_work, args=(theirs, threads), daemon=True)
    process.start()
    theirs.close()
    try:
        yield ours
    finally:
        process.terminate()  # what it writes is whole at every moment
        process.join()
        ours.close()


def _send(link: Connection, *content: Any) -> None:
    """By plain pickle: multiprocessing's own would put tensors into shared memory, of
    which containers have little."""
    link.send_bytes(pickle.dumps(content))


def _receive(link: Connection) -> Any:
    return pickle.loads(link.recv_bytes())


def _work(link: Connection, threads: int) -> None:
    """A worker's life. It ends with the parent's, when the pipe breaks."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    torch.set_num_threads(threads)
    keep_freed_memory()
    mapped: dict[Path, Images] = {}
    with suppress(EOFError, ConnectionError):
        while True:
            runs, logged, path = _receive(link)
            if path not in mapped:
                mapped = {path: Images(**load_file(path))}
            _send(link, *_trained(link, runs, logged, mapped[path]))


def _trained(
    link: Connection, runs: list[Run], logged: list[bool], images: Images
) -> tuple[str, Any]:
    told = _Told(link)
    runs = [
        run._replace(logger=_ToldLogger(link, r) if logged[r] else None)
        for r, run in enumerate(runs)
    ]
    try:
        summaries = train(runs, images, torch.device("cpu"), told)
    except ConnectionError:
        raise
    except Exception as error:
        error.add_note("in a worker process:\n" + traceback.format_exc())
        return "raised", error
    told.flush()
    return "done", summaries


class _Told:
    """A Progress that the parent shows."""

    def __init__(self, link: Connection):
        self.link, self.steps, self.at = link, 0, 0.0

    def advance(self, run_steps: int) -> None:
        self.steps += run_steps
        if time.monotonic() - self.at > TELL_S:
            self.flush()

    def flush(self) -> None:
        _send(self.link, "advance", (self.steps,))
        self.steps, self.at = 0, time.monotonic()

    def row(self, run_id: str, row: Mapping[str, float]) -> None:
        self.flush()
        _send(self.link, "row", (run_id, row))

    def say(self, text: str) -> None:
        _send(self.link, "say", (text,))


class _ToldLogger:
    """The Logger of run `r`, which the parent has."""

    def __init__(self, link: Connection, r: int):
        self.link, self.r = link, r

    def _tell(self, method: str, *arguments: Any) -> None:
        _send(self.link, "logger", (self.r, method, arguments))

    def row(self, row: Mapping[str, float]) -> None:
        self._tell("row", row)

    def images(self, step: int, path: Path) -> None:
        self._tell("images", step, path)

    def finish(self, summary: Mapping[str, Any], exit_code: int = 0) -> None:
        self._tell("finish", summary, exit_code)
