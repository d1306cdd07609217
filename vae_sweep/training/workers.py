"""Trains cohorts in worker processes: each takes the next one when it is free.

The images lie in a file without a name that all workers map, so that memory holds them
once and nothing is left of them. A worker writes the run folders itself; what a person or
a logger sees goes through the parent. Workers end with the parent, whatever ends it.
"""

import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing import connection, reduction
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vae_sweep.data.dataset import Images, random_of
from vae_sweep.data.random_transform import Random
from vae_sweep.errors import UserError
from vae_sweep.records.summary import Summary
from vae_sweep.system import stop
from vae_sweep.training.device import keep_freed_memory
from vae_sweep.training.loop import Paused, Progress, Run, train

TELL_S = 0.2  # seconds from one report of progress to the next
STOP_S = 3.0  # seconds that workers have for their last checkpoints
MAIN = (  # first of all, before torch is imported, it ties its life to the parent's
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from vae_sweep.system import stop; stop.end_with(int(sys.argv[2])); "
    "from vae_sweep.training.workers import work; work(*map(int, sys.argv[3:]))"
)


class Job(NamedTuple):
    """A cohort and the images it trains on; see loop.train."""

    runs: list[Run]
    images: Images
    random: Random | None = None


class WorkerDied(Exception):
    """A worker process ended before its cohort did."""


Outcome = list[Summary | None] | Exception


class Workers:
    """`count` processes of `threads` threads each, and the images they share.

    On leaving, workers that still train write checkpoints.
    """

    def __init__(self, count: int, threads: int, progress: Progress):
        self.progress, self.count, self.threads = progress, count, threads
        self.busy: dict[Connection, Job] = {}
        self.idle: list[Connection] = []
        self.ready: set[Connection] = set()  # those that have imported what they need
        self.processes: dict[Connection, subprocess.Popen[bytes]] = {}
        self.shared: dict[int, tuple[Images, _Shared]] = {}
        self._stack = ExitStack()
        try:
            for _ in range(count):
                self._start()
        except BaseException:
            self._end()
            raise

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def train(self, next_job: Callable[[], Job | None]) -> Iterator[tuple[Job, Outcome]]:
        """Trains what `next_job` gives, asked for whenever a worker is free.

        Yields each job with its summaries, or with what went wrong: WorkerDied where the
        process was killed, else what it raised. A dead worker is replaced.
        """
        while True:
            while self._has_room() and (job := next_job()) is not None:
                if not self.idle:
                    self._start()
                self._hand_over(self.idle.pop(), job)
            if not self.busy:
                return
            for link in connection.wait(list(self.busy)):
                assert isinstance(link, Connection)
                outcome = self._listen(link)
                if outcome is not None:
                    yield self.busy.pop(link), outcome

    def _has_room(self) -> bool:
        return bool(self.idle) or len(self.processes) < self.count

    def _start(self) -> None:
        link, process = _started(self.threads)
        self.processes[link] = process
        self.idle.append(link)

    def _hand_over(self, link: Connection, job: Job) -> None:
        logged = [run.logger is not None for run in job.runs]
        runs = [run._replace(logger=None) for run in job.runs]
        shared = self._share(job.images, job.random)
        self.busy[link] = job
        with suppress(ConnectionError):  # a dead worker is noticed when it is heard
            _send(link, runs, logged, shared.key, shared.shapes)
            reduction.send_handle(link, shared.descriptor, self.processes[link].pid)

    def _listen(self, link: Connection) -> Outcome | None:
        """Handles a worker's message; returns the outcome that ends its job."""
        try:
            kind, content = _receive(link)
        except (EOFError, ConnectionError):
            return self._bury(link)
        if kind in ("done", "raised"):
            self.idle.append(link)
            return content
        if kind == "ready":
            self.ready.add(link)
        elif kind == "logger":
            r, method, arguments = content
            getattr(self.busy[link].runs[r].logger, method)(*arguments)
        else:
            getattr(self.progress, kind)(*content)
        return None

    def _bury(self, link: Connection) -> WorkerDied:
        process = self.processes.pop(link)
        code = process.wait()
        link.close()
        how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        return WorkerDied(f"its worker process was ended {how}, perhaps for lack of memory")

    def _share(self, images: Images, random: Random | None = None) -> "_Shared":
        if id(images) not in self.shared:
            tensors = [*images, *([random.images] if random else [])]
            made = self._stack.enter_context(_shared(tensors, len(self.shared)))
            self.shared[id(images)] = images, made
        return self.shared[id(images)][1]

    def _end(self) -> None:
        """Lets busy workers write checkpoints, then ends all."""
        deadline = time.monotonic() + STOP_S
        waiting = self.ready & {*self.busy}
        for link in list(waiting):
            with suppress(OSError):
                _send(link, "stop")
        while waiting and (left := deadline - time.monotonic()) > 0:
            for link in connection.wait(list(waiting), left):
                assert isinstance(link, Connection)
                try:
                    kind, _ = _receive(link)
                except (EOFError, OSError):
                    kind = "raised"
                if kind in ("done", "raised", "paused"):
                    waiting.discard(link)
        for link, process in self.processes.items():
            process.kill()  # what it writes is whole at every moment
            process.wait()
            link.close()
        self._stack.close()


class _Shared(NamedTuple):
    """Images in a file: raw bytes of tensors, one after the other."""

    key: int
    descriptor: int
    shapes: list[tuple[int, ...]]


@contextmanager
def _shared(tensors: list[Tensor], key: int) -> Iterator[_Shared]:
    """Raises UserError where there is no room for the file."""
    with ExitStack() as stack:
        try:
            file = stack.enter_context(tempfile.TemporaryFile())
            for tensor in tensors:
                file.write(tensor.numpy().data)
            file.flush()
        except OSError as error:
            size = sum(tensor.nbytes for tensor in tensors) / 1e6
            raise UserError(
                f"worker processes share {size:.0f} MB of images in a file in "
                f"{tempfile.gettempdir()}: {error.strerror};\nmake room, set TMPDIR=FOLDER "
                f"or train.workers=1"
            ) from None
        yield _Shared(key, file.fileno(), [tuple(t.shape) for t in tensors])


def _mapped(descriptor: int, shapes: list[tuple[int, ...]]) -> list[Tensor]:
    """Tensors as read-only memory that all processes share."""
    with os.fdopen(descriptor, "rb") as file:
        whole = np.memmap(file, np.uint8, mode="c")  # "c": torch wants it writable
    tensors, start = [], 0
    for shape in shapes:
        size = int(np.prod(shape))
        tensors.append(torch.from_numpy(whole[start : start + size].reshape(shape)))
        start += size
    return tensors


def _started(threads: int) -> tuple[Connection, "subprocess.Popen[bytes]"]:
    """A new worker and the connection to it.

    A fresh interpreter that imports this module alone: a fork of a process that has
    threads may hang, and multiprocessing's spawn would run the user's main module again.
    """
    ours, theirs = socket.socketpair()
    with ours, theirs:
        arguments = (os.getpid(), theirs.fileno(), threads)
        # Ctrl-C reaches the whole group, but the parent handles it
        with stop.blocked():
            process = subprocess.Popen(
                [sys.executable, "-c", MAIN, json.dumps(sys.path), *map(str, arguments)],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )
        return Connection(ours.detach()), process


def _send(link: Connection, *content: Any) -> None:
    """By plain pickle: multiprocessing's own would put tensors into shared memory, of
    which containers have little."""
    link.send_bytes(pickle.dumps(content))


def _receive(link: Connection) -> Any:
    return pickle.loads(link.recv_bytes())


def work(descriptor: int, threads: int) -> None:
    """A worker's life."""
    link = Connection(descriptor)
    torch.set_num_threads(threads)
    keep_freed_memory()
    mapped: dict[int, list[Tensor]] = {}
    with suppress(EOFError, ConnectionError):
        _send(link, "ready", None)
        while True:
            message = _receive(link)
            if message == ("stop",):
                continue  # it came after the job had ended
            runs, logged, key, shapes = message
            received = reduction.recv_handle(link)
            if key in mapped:
                os.close(received)
            else:
                mapped = {key: _mapped(received, shapes)}
            _send(link, *_trained(link, runs, logged, mapped[key]))


def _trained(
    link: Connection, runs: list[Run], logged: list[bool], tensors: list[Tensor]
) -> tuple[str, Any]:
    told = _Told(link)
    runs = [
        run._replace(logger=_ToldLogger(link, r) if logged[r] else None)
        for r, run in enumerate(runs)
    ]
    try:
        train_images, val, test, *before = tensors
        images = Images(train_images, val, test)
        random = random_of(runs[0].config.data, before[0]) if before else None
        summaries = train(runs, images, torch.device("cpu"), told, random)
    except Paused:
        return "paused", None
    except ConnectionError:
        raise
    except Exception as error:
        error.add_note("in a worker process:\n" + traceback.format_exc())
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:  # some exceptions do not survive it
            error = RuntimeError(f"{type(error).__name__}: {error}")
        return "raised", error
    told.flush()
    return "done", summaries


class _Told:
    """A Progress that the parent shows."""

    def __init__(self, link: Connection):
        self.link, self.at = link, 0.0
        self.now: tuple[Sequence[Path], int] | None = None  # what is to be told

    def advance(self, runs: Sequence[Path], step: int) -> None:
        self.now = runs, step
        if time.monotonic() - self.at > TELL_S:
            self.flush()

    def flush(self) -> None:
        if self.now is not None:
            _send(self.link, "advance", self.now)
        self.now, self.at = None, time.monotonic()

    def row(self, run: Path, row: Mapping[str, float]) -> None:
        self.flush()
        _send(self.link, "row", (run, row))

    def ended(self, run: Path, summary: Summary) -> None:
        self.flush()
        _send(self.link, "ended", (run, summary))

    def leave(self, run: Path) -> None:
        _send(self.link, "leave", (run,))

    def say(self, text: str) -> None:
        _send(self.link, "say", (text,))

    def stopping(self) -> bool:
        return self.link.poll()  # while a job lasts, the parent says nothing but stop


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

    def finish(self, summary: Mapping[str, Any]) -> None:
        self._tell("finish", summary)
