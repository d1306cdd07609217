"""Which process trains a run, of any number on any number of machines that share a folder.

A claim is a file claim-K.json in the run's folder, made by the process that trains it; of
several the one with the highest K counts. It is taken over by creating claim-(K+1), which
succeeds once, and whoever did then removes the lower ones, before it writes anything else.
So the holder is who finds its own file there. No name is used twice before the run has
ended, when its claim is removed: who looked at a claim long ago cannot take a later one.

Creating a file that is not there, and opening one, are asked of the file server, on NFS
too, where locks and listings may be late. A claim of this machine is alive while its
process is; one of another while its file is touched, by the clock of the file server.
"""

import errno
import json
import os
import platform
import re
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vae_sweep.files import clock, create, is_locked, write_atomically
from vae_sweep.records.reader import SCHEMA

NAME = re.compile(r"claim-([1-9]\d{0,8})\.json")
RENEW_S = 5.0  # between two touches of a claim
STALE_S = 60.0  # after which a claim of another machine that is not touched is nobody's
CLOCK_S = 60.0  # for which what is known of a file server's clock is good
GONE = (errno.ENOENT, errno.ENOTDIR, errno.ESTALE)


class Stated(BaseModel):
    """What a claim states.

    `host` is the machine, `boot` its start and, in a container, the container's (empty
    where that cannot be known). `start` tells process `pid` from another that had its
    number before. `job` is what a scheduler runs the process for, started `restart` times
    before; `time` is in seconds since 1970, by the clock of the host.
    """

    model_config = ConfigDict(frozen=True, extra="allow")
    schema_: int = Field(SCHEMA, alias="schema")
    host: str = "another machine"
    boot: str = ""
    pid: int = 0
    start: str = ""
    job: str = ""
    restart: int = 0
    token: str = ""
    time: float = 0.0
    released: bool = False  # by a process that was stopped before the run had ended

    def __str__(self) -> str:
        return f"{self.host}, process {self.pid}" if self.pid else self.host


class Claim(NamedTuple):
    """A claim of this process, or of the one that it works for."""

    path: Path
    stated: Stated

    @property
    def is_held(self) -> bool:
        """Whether no other process has taken the run over, and nobody removed its files."""
        found = _read(self.path)
        return found is not None and found.stated.token == self.stated.token

    def renew(self) -> None:
        """Says that the process is alive, by the clock of the file server."""
        with suppress(OSError):
            os.utime(self.path)

    def release(self) -> None:
        """Gives up a run that has not ended; the number stays taken."""
        if self.is_held:
            released = self.stated.model_copy(update={"released": True})
            write_atomically(self.path, _encoded(released), sync=False)

    def remove(self) -> None:
        """Removes the claim of a run that has ended."""
        if self.is_held:
            _remove(self.path)


class _Found(NamedTuple):
    stated: Stated
    touched: float  # by the clock of the file server


def holder(folder: Path) -> Stated | None:
    """Who trains the run in `folder`; None where nobody does."""
    while numbers := _numbers(folder):
        found = _read(_path(folder, max(numbers)))
        if found is not None:
            return found.stated if _is_alive(found, folder) else None
        if _numbers(folder) == numbers:  # a listing that is late
            return None
    return None


def is_held(folder: Path) -> bool:
    """Whether a process trains the run in `folder`, one of an earlier version as well, of
    which each locked a whole sweep."""
    return holder(folder) is not None or is_locked(folder.parent / ".lock")


def trains(sweep: Path) -> bool:
    """Whether a process trains a run of the sweep in `sweep`."""
    return any(is_held(path.parent) for path in sweep.glob("*/claim-*.json")) or is_locked(
        sweep / ".lock"
    )


def take(folder: Path) -> Claim | None:
    """Claims a run for this process; None where another has it.

    Raises:
        OSError: The folder cannot be made, or written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    last = max(_numbers(folder), default=0)
    if last:
        found = _read(_path(folder, last))
        if found is not None and _is_alive(found, folder):
            return None
    claim = Claim(_path(folder, last + 1), _own())
    _tokens.add(claim.stated.token)
    try:
        if create(claim.path, _encoded(claim.stated)) and _is_first(claim, last + 1):
            return claim
    except BaseException:
        with suppress(OSError):
            claim.remove()
        _tokens.discard(claim.stated.token)
        raise
    _tokens.discard(claim.stated.token)
    return None


def _is_first(claim: Claim, number: int) -> bool:
    """Whether no higher claim came before this new one, which then ends all lower ones."""
    folder = claim.path.parent
    numbers = _numbers(folder)
    if max(numbers, default=0) > number:
        _remove(claim.path)
        return False
    for lower in sorted(n for n in numbers if n < number):
        _remove(_path(folder, lower))
    return claim.is_held


class Claims:
    """The claims of this process, which a thread renews, however long a step takes."""

    def __init__(self) -> None:
        self._held: dict[Path, Claim] = {}  # by run's folder
        self._ended: dict[Path, Callable[[], bool]] = {}  # of those, what is still owed
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="claims", daemon=True)

    def __enter__(self) -> "Claims":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Gives up what has not ended."""
        self._over.set()
        with self._lock:
            for folder, claim in self._held.items():
                with suppress(OSError):
                    claim.remove() if folder in self._ended else claim.release()
                _tokens.discard(claim.stated.token)
            self._held.clear()

    def take(self, folder: Path) -> Claim | None:
        """Claims a run, or has it already; None where another process has it.

        Raises:
            OSError: As `take`.
        """
        with self._lock:
            held = self._held.get(folder)
            if held is not None and held.is_held:
                self._ended.pop(folder, None)
                return held
            claim = take(folder)
            if claim is not None:
                self._held[folder] = claim
            return claim

    def end(self, folder: Path, owes: Callable[[], bool] = lambda: False) -> None:
        """A run has ended: its claim is removed, once it `owes` nobody anything."""
        if folder in self._held:
            self._ended[folder] = owes
            self._leave(folder)

    def tidy(self, folder: Path) -> None:
        """Removes the claim on a run that has ended, of a process that was killed before it
        could."""
        with self._lock:
            if folder not in self._held and _numbers(folder):
                claim = take(folder)
                if claim is not None:
                    _tokens.discard(claim.stated.token)
                    claim.remove()

    def give_up(self, folder: Path) -> None:
        """A run has not ended, and is not trained any more."""
        with self._lock:
            claim = self._held.pop(folder, None)
            if claim is not None:
                with suppress(OSError):
                    claim.release()
                _tokens.discard(claim.stated.token)

    def _leave(self, folder: Path) -> None:
        with self._lock, suppress(OSError):
            if folder in self._held and folder in self._ended and not self._ended[folder]():
                claim = self._held.pop(folder)
                del self._ended[folder]
                _tokens.discard(claim.stated.token)
                claim.remove()

    def _renew(self) -> None:
        while not self._over.wait(RENEW_S):
            for folder in list(self._ended):
                self._leave(folder)
            for claim in list(self._held.values()):
                with suppress(OSError):
                    if claim.is_held:  # else it is another's by now
                        claim.renew()


# --- what is known of processes and machines ---

_tokens: set[str] = set()  # of this process's claims
_clocks: dict[int, tuple[float, float]] = {}  # device -> offset of its clock, when known


def _own() -> Stated:
    return Stated(
        schema=SCHEMA,
        host=platform.node(),
        boot=_boot(),
        pid=os.getpid(),
        start=_start(os.getpid()) or "",
        job=_job().job,
        restart=_job().restart,
        token=secrets.token_hex(8),
        time=time.time(),
    )


def _is_alive(found: _Found, folder: Path) -> bool:
    """Whether a claim's process is there, as far as can be known."""
    stated, job = found.stated, _job()
    if stated.released:
        return False
    if stated.job and stated.job == job.job and stated.restart < job.restart:
        return False  # a scheduler starts a job anew once it has ended it everywhere
    if (stated.host, stated.boot) == (platform.node(), _boot()):
        if stated.pid == os.getpid():
            return stated.token in _tokens
        if not _is_there(stated.pid) or _start(stated.pid) not in (None, stated.start):
            return False
        if stated.boot:
            return True
    # a date to come is of a clock that was wrong, and would hold the run until then
    return abs(_now(folder.parent) - found.touched) < STALE_S


def _is_there(pid: int) -> bool:
    """Whether a process runs on this machine."""
    if os.name != "posix":
        return True  # for all that is known
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return True


def _start(pid: int) -> str | None:
    """When a process of this machine started, in ticks after the machine did; empty of one
    that has ended and is only listed, None where it is not known."""
    with suppress(OSError, IndexError):
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if stat[0] in "ZX" else stat[19]
    return None


@cache
def _boot() -> str:
    """What tells this start of the machine, and in it this container, from others."""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    return ""


class _Job(NamedTuple):
    job: str
    restart: int


def _job() -> _Job:
    """The job of Slurm that this process belongs to, empty where there is none, and how
    often the job was started before."""
    get = os.environ.get
    array, restart = get("SLURM_ARRAY_JOB_ID"), get("SLURM_RESTART_COUNT", "")
    parts = (array, get("SLURM_ARRAY_TASK_ID")) if array else (get("SLURM_JOB_ID"),)
    job = "_".join(filter(None, (*parts, get("SLURM_CLUSTER_NAME"))))
    known = job if parts[0] else ""
    return _Job(known, int(restart) if restart.isdecimal() else 0)


def _now(folder: Path) -> float:
    """Seconds since 1970 by the clock of the machine that keeps `folder`; by this one's
    where nothing can be written there."""
    try:
        device = folder.stat().st_dev
        offset, known = _clocks.get(device, (0.0, -CLOCK_S))
        if time.monotonic() - known >= CLOCK_S:
            offset = clock(folder) - time.time()
            _clocks[device] = offset, time.monotonic()
    except OSError:
        offset = 0.0
    return time.time() + offset


# --- files ---


def _path(folder: Path, number: int) -> Path:
    return folder / f"claim-{number}.json"


def _numbers(folder: Path) -> set[int]:
    """Of the claims in a run's folder."""
    try:
        names = os.listdir(folder)
    except OSError:
        return set()
    return {int(found[1]) for found in map(NAME.fullmatch, names) if found}


def _read(path: Path) -> _Found | None:
    """A claim, opened so that NFS asks the server; None where there is none. What cannot
    be read states nothing, and is judged by its age.

    Raises:
        OSError: The server does not answer, say.
    """
    try:
        with path.open("rb") as file:
            content, touched = file.read(), os.fstat(file.fileno()).st_mtime
    except OSError as error:
        if error.errno in GONE:
            return None
        raise
    try:
        return _Found(Stated.model_validate(json.loads(content)), touched)
    except (ValueError, ValidationError, RecursionError):
        return _Found(Stated(schema=SCHEMA), touched)


def _encoded(stated: Stated) -> bytes:
    return stated.model_dump_json(by_alias=True).encode()


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        if error.errno not in GONE:
            raise
