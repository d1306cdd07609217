"""A run's folder as training writes it: configuration, rows, checkpoint, pictures, summary.

Rows are appended and flushed to disk; everything else is replaced as a whole, so that a
kill at any moment leaves whole files. What does not fit is put aside as NAME.old-K, never
overwritten.
"""

import hashlib
import io
import json
import math
import os
import platform
import secrets
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from datetime import datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import yaml
from PIL import Image
from safetensors import SafetensorError, safe_open

from vae_sweep.config import RunConfig
from vae_sweep.errors import UserError
from vae_sweep.files import (
    append,
    clock,
    create,
    is_locked,
    leftovers,
    put_aside,
    write_atomically,
)
from vae_sweep.records import claim, heartbeat, reader
from vae_sweep.records.claim import Claim
from vae_sweep.records.curve import CurveFile
from vae_sweep.records.reader import (
    METRICS,
    PICTURES,
    RECONSTRUCTIONS,
    SCHEMA,
    TRAINING,
    LeftAlone,
    Unreadable,
    check_schema,
)
from vae_sweep.records.rows import Rows
from vae_sweep.records.summary import Summary

if TYPE_CHECKING:
    from vae_sweep.records.checkpoint import State, StateShape

FILES = (
    *("config.yaml", METRICS, TRAINING, "summary.json", "state.safetensors"),
    *PICTURES,
)
DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # libyaml's, many times faster
DISTRIBUTIONS = ("vae-sweep", "torch", "torchvision", "numpy", "hydra-core")

Row = Mapping[str, float]


class RecordsChanged(Exception):
    """Somebody removed or altered a run's files while it trained, or took the run over."""


class ReadOnly(UserError):
    """A sweep folder cannot be written."""


class Resumed(NamedTuple):
    """Where a run goes on: its checkpoint, None at the start, and what was put aside."""

    state: "State | None"
    complaint: str | None = None
    evaluated: bool = False  # whether the row of the checkpoint's step is there


class Kept:
    """The runs that sweeps hold already, found by what they are, wherever their images
    lay when they were trained."""

    def __init__(self) -> None:
        self._configs: dict[Path, dict[str, list[RunConfig]]] = {}

    def config_of(self, config: RunConfig, fingerprint: str, steps: int) -> RunConfig:
        """`config`, or where its run is kept under another path of the same images, that
        run's: then its id, and its folder, are that run's as well."""
        if config.data.place is None:
            return config
        if config.run_dir.exists():
            return config
        for kept in self._of(config.sweep_dir).get(_without_path(config), ()):
            found = config.model_copy(update={"data": kept.data})
            folder = RunFolder(found, fingerprint, steps)
            if folder.stated_identity() == folder.identity:
                return found
        return config

    def _of(self, folder: Path) -> dict[str, list[RunConfig]]:
        if folder not in self._configs:
            found: dict[str, list[RunConfig]] = {}
            for path in sorted(folder.glob("*/config.yaml")):
                with suppress(Unreadable):
                    config = reader.read_config(path.parent)
                    if config.run_id == path.parent.name:
                        found.setdefault(_without_path(config), []).append(config)
            self._configs[folder] = found
        return self._configs[folder]


def _without_path(config: RunConfig) -> str:
    settings = config.settings
    return json.dumps({**settings, "data": {**settings["data"], config.data.place: ""}})


def enter(folder: Path) -> None:
    """Makes a sweep's folder, in which any number of processes may train.

    Raises:
        ReadOnly: It cannot be made, or written.
        UserError: A process of an earlier version, which shares it with nobody, trains it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        clock(folder)  # writes a file
    except OSError as error:
        raise ReadOnly(
            f"the sweep folder {folder} must be writable: {error.strerror}; "
            f"set runs=FOLDER or sweep=NAME"
        ) from None
    if is_locked(folder / ".lock"):
        raise UserError(
            f"an earlier version of vae-sweep is training in {folder} and cannot share it; "
            f"wait until it ends, or set sweep=NAME"
        )


def list_runs(folder: Path, runs: Mapping[str, Mapping[str, Any]]) -> str | None:
    """States that a sweep is to hold these runs, too: which there are is then known before
    they have folders. The first command's list is sweep.json; each that adds runs has a
    file of its own beside it. Returns what was wrong with a list that was put aside.

    Args:
        folder: The sweep's.
        runs: run_id -> what is stated of the run beside the command and the time:
            total_steps, and the label that tells it from the command's others.

    Raises UserError where a later version of vae-sweep wrote a list.
    """
    complaints = []
    listed: dict[str, Any] = {}
    for path in reader.lists(folder):
        try:
            listed |= reader.read_list(path)
        except LeftAlone as error:
            raise _refusal(folder, error) from None
        except Unreadable as error:
            with suppress(FileNotFoundError):  # another command was faster
                kept = put_aside(path).name
                complaints.append(f"{folder}/{error}; written anew, kept as {kept}")
    new = {run_id: stated for run_id, stated in runs.items() if run_id not in listed}
    if new:
        about = {
            "command": environment()["command"],
            "time": datetime.now().astimezone().isoformat(timespec="seconds"),
        }
        stated = {run_id: {**about, **new[run_id]} for run_id in new}
        content = json.dumps({"schema": SCHEMA, "runs": stated}, indent=1).encode()
        if not create(folder / "sweep.json", content, sync=True):
            create(folder / f"sweep-{secrets.token_hex(4)}.json", content, sync=True)
    return _joined(*complaints)


class RunFolder:
    """`runs/<sweep>/<run_id>/` of one config, trained on data with `fingerprint`.

    `steps` are those of the run where `train.epochs` sets them: what then follows from
    the images is part of the identity, though not of the run_id.
    """

    def __init__(self, config: RunConfig, fingerprint: str, steps: int | None = None):
        self.config = config
        self.path = config.run_dir
        self.images = fingerprint
        decisive = {**config.decisive, "images": fingerprint}
        if steps is not None:
            warmup = config.train.warmup(steps)
            if warmup != decisive["train"]["lr_warmup"]:
                decisive["lr_warmup"] = warmup
        content = json.dumps(decisive, sort_keys=True)
        self.identity = hashlib.sha256(content.encode()).hexdigest()[:16]
        self.columns: tuple[str, ...] = ()  # of a metrics.csv that begins; see open
        self._kept: Rows | None = None  # what metrics.csv holds, once this process writes
        self.curve = CurveFile(self.path)
        self.claim: Claim | None = None  # of the process that trains it

    def check(self) -> None:
        """Raises RecordsChanged where this process has the run no more; asked before
        anything is written."""
        if self.claim is None or self.claim.is_held:
            return
        if not self.path.is_dir():
            raise RecordsChanged("the folder was removed")
        by = claim.holder(self.path)
        raise RecordsChanged(f"taken over by {by}," if by else "its claim was removed")

    # --- what is there ---

    def stated_identity(self) -> str | None:
        """What the folder says that it is of, in its summary or else in its checkpoint."""
        with suppress(Unreadable):
            summary = reader.read_summary(self.path)
            if summary is not None:
                return summary.identity
        from vae_sweep.records import checkpoint  # torch, of which ended runs need none

        with suppress(Unreadable):
            return checkpoint.read_about(self.path / "state.safetensors").get("identity")
        return None

    def ended(self) -> tuple[Summary | None, str | None]:
        """(summary or None, complaint or None): of a run that ended and has its rows.

        The complaint says what is wrong with the files of a run that seems to have ended.
        Raises UserError where a later version of vae-sweep wrote them.
        """
        try:
            summary = reader.read_summary(self.path)
            if summary is None:
                return None, None
            if summary.identity != self.identity:
                other = summary.run_id not in (None, self.config.run_id)
                return None, "summary.json is another run's" if other else None
            if summary.status == "running":
                return None, None
            if reader.has_rows(self.path, summary):
                return summary, self._complaint(summary)
        except LeftAlone as error:
            raise _refusal(self.path, error) from None
        except Unreadable as error:
            return None, str(error)
        return None, "metrics.csv has other rows than its summary states"

    def _complaint(self, summary: Summary) -> str | None:
        """What is wrong with the files of an ended run beside its rows."""
        path = self.path / "state.safetensors"
        try:
            with safe_open(path, framework="numpy"):  # its length is what its head states
                pass
        except PermissionError:
            pass  # whole, for all that is known
        except (SafetensorError, OSError):
            if summary.status == "finished":
                return (
                    f"{path.name} is missing or damaged: the run's weights are lost, its "
                    f"numbers are whole; rerun=all repeats the run"
                )
        if summary.training_sha256 not in (None, self.curve.sha256):
            return (
                f"{TRAINING} is not the one that the run wrote, and is left out of curves; "
                f"rerun=all repeats the run"
            )
        for picture in filter(Path.is_file, self.pictures):
            with suppress(OSError):
                if not reader.is_picture_of(summary, picture.read_bytes(), picture.name):
                    return (
                        f"{picture.name} is not the one that the run drew, and is left "
                        f"out of pictures; rerun=all repeats the run"
                    )
        return None

    def clear_way(self) -> list[str]:
        """Puts aside what is in the folder's place and is none; returns what was done."""
        if not self.path.exists() or self.path.is_dir():
            return []
        return [f"{self.path} is of the wrong kind: kept as {put_aside(self.path).name}"]

    def repair(self, may: Callable[[], bool] = lambda: True) -> list[str]:
        """Makes the files of an existing folder such that they can be read and replaced.

        Puts aside what is a folder in place of a file, or a file in place of a folder, and
        writes config.yaml anew where it is not this run's. Returns what was done.

        Args:
            may: Asked before anything is changed.

        Raises UserError as `ended`.
        """
        hydra, config = self.path / ".hydra", self.path / "config.yaml"
        files = [self.path / name for name in FILES]
        odd = [path for path in files if path.exists() and not path.is_file()]
        if hydra.exists() and (
            not hydra.is_dir() or any(not path.is_file() for path in hydra.iterdir())
        ):
            odd.append(hydra)
        left = leftovers(self.path)
        complaint = None
        if any(path.exists() and path not in odd for path in files):
            complaint = self._of_config(config in odd)
        if not (odd or left or complaint) or not may():
            return []
        done = [f"{p} is of the wrong kind: kept as {put_aside(p).name}" for p in odd]
        for path in left:
            with suppress(OSError):
                path.unlink(missing_ok=True)
        if complaint:
            kept = f", kept as {put_aside(config).name}" if config.exists() else ""
            self._write_config()
            done.append(f"{self.path}: {complaint}; written anew{kept}")
        return done

    def _of_config(self, is_odd: bool) -> str | None:
        """What is wrong with config.yaml, which `is_odd` says is no file at all."""
        if is_odd:
            return "config.yaml is missing"
        try:
            right = reader.read_config(self.path).decisive == self.config.decisive
            return None if right else "config.yaml is another run's"
        except LeftAlone as error:
            raise _refusal(self.path, error) from None
        except Unreadable as error:
            return str(error)

    def begun(self) -> int:
        """The step that its checkpoint states, 0 without one that can be read; changes
        nothing.

        Raises:
            UserError: A later version of vae-sweep wrote it, or it may not be read.
        """
        from vae_sweep.records import checkpoint  # torch, of which ended runs need none

        path = self.path / "state.safetensors"
        if not path.exists():
            return 0
        try:
            about = checkpoint.read_about(path)
            if (schema := about.get("schema", "1")).isdecimal():
                check_schema(path.name, int(schema))
            reader.read_rows(self.path)
            return max(0, int(about["step"]))
        except LeftAlone as error:
            raise _refusal(self.path, error) from None
        except (Unreadable, KeyError, ValueError):
            return 0

    def resume(self, shape: "StateShape", steps: int) -> Resumed:
        """Where the run goes on of `steps`; metrics.csv and training.csv then have the rows
        up to there.

        A checkpoint that does not fit `shape`, or whose rows in metrics.csv are not there,
        is put aside with the rows, and so are rows without a checkpoint: the run starts
        over. Where those in training.csv are not there, that file alone begins anew.

        Raises:
            RecordsChanged: As `check`.
        """
        self.check()
        self._kept = None
        try:
            state, kept, about = self._checkpoint(shape, steps)
        except _Unfit as error:
            complaint = self._set_aside(str(error))
            return Resumed(None, _joined(complaint, self.curve.resume({})))
        if state is None:
            complaint = self._forget_rows()
            return Resumed(None, _joined(complaint, self.curve.resume({})))
        if kept.content != (self._content() or b""):
            write_atomically(self.path / METRICS, kept.content)
        return Resumed(state, self.curve.resume(about), state.step in kept.steps)

    def left(self, shape: "StateShape", steps: int) -> "tuple[State | None, Rows, bytes]":
        """The checkpoint, None where there is none, and what belongs to it of metrics.csv
        and of training.csv; changes nothing.

        Raises:
            UserError: They are damaged, or do not fit a run of `shape` and `steps`.
        """
        try:
            state, rows, about = self._checkpoint(shape, steps)
        except _Unfit as error:
            raise UserError(
                f"{self.path}/state.safetensors {error}; choose another run"
            ) from None
        return state, rows, self.curve.of(about) or b""

    def begin_with(self, state: "State", rows: Rows, training: bytes) -> None:
        """Begins the run with what another one left; what is there already, and is no
        such beginning, is put aside."""
        if self._content() not in (None, rows.content):
            self.start_over()
        self.path.mkdir(parents=True, exist_ok=True)
        self._write_config()
        write_atomically(self.path / METRICS, rows.content)
        self.curve.begin_with(training)
        self._kept = rows
        self.save_state(state)

    def _checkpoint(
        self, shape: "StateShape", steps: int
    ) -> "tuple[State | None, Rows, dict[str, str]]":
        from vae_sweep.records import checkpoint  # torch, of which ended runs need none

        path = self.path / "state.safetensors"
        if not path.exists():
            return None, Rows(b""), {}
        try:
            about = checkpoint.read_about(path)
            if (schema := about.get("schema", "1")).isdecimal():
                check_schema(path.name, int(schema))
            if about.get("identity") != self.identity:
                raise _Unfit("is of another configuration or data")
            state = checkpoint.read(path, about)
            stated = int(about["rows"]) if "rows" in about else None
        except LeftAlone as error:
            raise _refusal(self.path, error) from None
        except (Unreadable, ValueError) as error:
            raise _Unfit(str(error)) from error
        misfit = shape.misfit(state, steps)
        if misfit:
            raise _Unfit(f"does not fit this run: {misfit}")
        rows = self._rows_of(state.step, stated, about.get("rows_sha256"))
        return state, rows, about

    def _rows_of(self, step: int, stated: int | None, sha256: str | None) -> Rows:
        """The rows that belong to a checkpoint of `step`."""
        try:
            rows = reader.read_rows(self.path)
            if stated is None:  # schema 1: checkpoints were written after their row
                stated = sum(s <= step for s in rows.steps)
            kept = rows.first(stated)
        except LeftAlone as error:
            raise _refusal(self.path, error) from None
        except Unreadable as error:
            raise _Unfit(f"has no rows: {error}") from None
        every = self.config.train.eval_every
        due = [s for s in range(0, step + 1, every) if s < step]
        same = kept.steps[-1:] == [step] if sha256 is None else kept.sha256 == sha256
        if not (same and kept.steps in (due, [*due, step])):
            raise _Unfit("does not match the rows of metrics.csv")
        return kept

    def _content(self) -> bytes | None:
        path = self.path / METRICS
        with suppress(OSError):
            return path.read_bytes() if path.is_file() else None
        return None

    def _forget_rows(self) -> str | None:
        """Puts aside what has no checkpoint. A run that was killed at its first one leaves
        nothing: its row of step 0 is made again as it was."""
        rows = self.path / METRICS
        try:
            summary = reader.read_summary(self.path)
            own = summary is None or summary.identity == self.identity
            running = summary is not None and summary.status == "running"
            if own and running and reader.read_rows(self.path).steps in ([], [0]):
                rows.unlink(missing_ok=True)
                return None
        except Unreadable as error:
            return self._set_aside(f"cannot be used ({error})", "summary.json")
        if rows.exists():
            return self._set_aside("has rows but no checkpoint", METRICS)
        why = "has no rows" if own else "is of another configuration or data"
        return self._set_aside(why, "summary.json")

    def _set_aside(self, why: str, first: str = "state.safetensors") -> str | None:
        """Renames checkpoint, rows, summary and pictures to NAME.old-K; None if nothing is
        there."""
        moved = [
            put_aside(self.path / name).name
            for name in dict.fromkeys((first, METRICS, TRAINING, "summary.json", *PICTURES))
            if (self.path / name).exists()
        ]
        if not moved:
            return None
        return f"{self.path / first} {why}: starting over, kept {', '.join(moved)}"

    def start_over(self) -> None:
        """Puts aside what the run left, so that it is repeated from its first step."""
        self._set_aside("is repeated")

    # --- what training writes ---

    def open(self, summary: Summary, columns: Sequence[str]) -> None:
        """Makes the folder, and states configuration and `summary`, which says running.

        `columns` are those of a metrics.csv that begins here.

        Raises:
            RecordsChanged: As `check`.
        """
        self.check()
        self.columns = tuple(columns)
        self.path.mkdir(parents=True, exist_ok=True)
        self._write_config()
        try:
            there = reader.read_summary(self.path)
            own = there is None or there.identity == self.identity
        except Unreadable:
            own = False
        if not own:
            put_aside(self.path / "summary.json")
        heartbeat.remove(self.path)
        self._write_summary(summary.but(status="running"))

    def _write_config(self) -> None:
        head = {"schema": SCHEMA, "run_id": self.config.run_id}
        values = {**head, **self.config.model_dump(mode="json")}
        text = yaml.dump(values, Dumper=DUMPER, sort_keys=False)
        write_atomically(self.path / "config.yaml", text.encode())

    def rows(self) -> Rows:
        """The rows that this run has written.

        Raises:
            RecordsChanged: metrics.csv does not hold what this process wrote, or as
                `check`.
        """
        self.check()
        try:
            if self._kept is None:
                self._kept = reader.read_rows(self.path)
            elif (self._content() or b"") != self._kept.content:
                raise RecordsChanged("metrics.csv was removed or altered")
        except Unreadable as error:
            raise RecordsChanged(str(error)) from None
        if not self.path.is_dir():
            raise RecordsChanged("the folder was removed")
        return self._kept

    def training(self, summary: Summary | None = None) -> Rows:
        """The rows of training.csv; none where they are not those that `summary` states, or
        cannot be read."""
        with suppress(Unreadable, ValueError):
            rows = reader.read_training(self.path, summary)
            _ = rows.numbers  # parsed here, even where a digest says that they are whole
            return rows
        return Rows(b"")

    def append(self, row: Row) -> None:
        """Adds a row of a later step than those that are there.

        A file keeps the columns that it began with: a metric that came since is not in it,
        one that this version lacks is empty.

        Raises:
            RecordsChanged: As `rows`.
        """
        kept = self.rows()
        path = self.path / METRICS
        columns = kept.columns or self.columns
        cells = (_cell(row.get(key, math.nan)) for key in columns)
        line = (",".join(cells) + "\n").encode()
        if not kept.content:
            header = (",".join(columns) + "\n").encode()
            write_atomically(path, header + line)
            self._kept = Rows(header + line)
            return
        append(path, len(kept.content), line)
        self._kept = kept.followed_by(line)

    def save_state(self, state: "State") -> None:
        """Writes the checkpoint, which states the rows that belong to it."""
        from vae_sweep.records import checkpoint  # torch, of which ended runs need none

        rows = self.rows()
        about = {
            "schema": str(SCHEMA),
            "identity": self.identity,
            "rows": str(len(rows)),
            "rows_sha256": rows.sha256,
            **self.curve.stated(),
        }
        content = checkpoint.encoded(state, about)
        write_atomically(self.path / "state.safetensors", content)

    def save_picture(self, *rows: np.ndarray, name: str = RECONSTRUCTIONS) -> Path:
        """Writes a picture of PICTURES: rows of images, uint8 [n, H, W, C] each."""
        self.rows()
        picture = np.concatenate([np.concatenate(list(row), axis=1) for row in rows])
        if picture.shape[2] not in (3, 4):
            picture = picture[:, :, 0]  # gray, or the first of two channels
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, "png")
        write_atomically(self.path / name, buffer.getvalue())
        return self.path / name

    @property
    def pictures(self) -> list[Path]:
        """The pictures of the last evaluation, whether they are there or not."""
        return [self.path / name for name in PICTURES]

    def finish(self, summary: Summary) -> None:
        """Writes summary.json, which makes the run an ended one."""
        rows = self.rows()
        about: dict[str, Any] = {"rows": len(rows), "metrics_sha256": rows.sha256}
        about["training_sha256"] = self.curve.sha256
        for picture in filter(Path.is_file, self.pictures):  # of a run without rows none
            digest = hashlib.sha256(picture.read_bytes()).hexdigest()
            about[PICTURES[picture.name]] = digest
        heartbeat.remove(self.path)  # first: of an ended run nobody would remove it
        self._write_summary(summary.but(**about))

    def _write_summary(self, summary: Summary) -> None:
        content = {**summary.stated(), "identity": self.identity, "images": self.images}
        content["schema"] = SCHEMA  # not that of a summary which an earlier version wrote
        content["checksum"] = reader.checksum(content)
        text = json.dumps(content, indent=2, allow_nan=False)
        write_atomically(self.path / "summary.json", text.encode())


def _refusal(folder: Path, error: LeftAlone) -> UserError:
    return UserError(f"{folder}/{error}; {error.remedy}, or set sweep=NAME")


def _joined(*complaints: str | None) -> str | None:
    return "; ".join(filter(None, complaints)) or None


class _Unfit(Exception):
    """Why a checkpoint cannot be gone on from."""


def _cell(value: float) -> str:
    if math.isnan(value):
        return ""
    return str(int(value)) if value % 1 == 0 and abs(value) < 1e15 else repr(float(value))


_arguments: ContextVar[Sequence[str] | None] = ContextVar("arguments", default=None)


@contextmanager
def carrying_out(arguments: Sequence[str]) -> Iterator[None]:
    """Records state the command that had these arguments, not this process's own."""
    token = _arguments.set(arguments)
    try:
        yield
    finally:
        _arguments.reset(token)


def environment() -> dict[str, Any]:
    """The command, versions of what computes, this checkout's commit, and the machine."""
    typed = _arguments.get()
    arguments = sys.argv[1:] if typed is None else typed
    command = shlex.join(["python", "-m", "vae_sweep.run", *arguments])
    return {"command": command, **_machine()}


@cache
def _machine() -> dict[str, Any]:
    here = Path(__file__).parent
    git = ["git", "-C", str(here), "rev-parse", "HEAD"]
    try:
        commit = subprocess.run(git, capture_output=True, text=True).stdout.strip()
    except OSError:
        commit = ""
    versions = {}
    for name in DISTRIBUTIONS:
        with suppress(PackageNotFoundError):  # torchvision is an extra
            versions[name] = version(name)
    return {
        "versions": versions,
        "commit": commit or None,
        "processor": processor(),
    }


def processor() -> str:
    """Cores and model of this machine's CPU."""
    lines: list[str] = []
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.split(":", 1)[1].strip() for line in lines if "model name" in line]
    model = models[0] if models else platform.processor() or platform.machine()
    return f"{os.cpu_count()} CPU cores ({model})"
