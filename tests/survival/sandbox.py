"""A folder in which the real command runs, is killed, and leaves things or does not.

Every process of the command is found by a variable in its environment, whoever its parent
or its session is.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from .grids import Grid

MARKER = "VAE_SWEEP_SURVIVAL"
LOOK_S = 0.01
TIMEOUT_S = 180  # for a command that is not killed
FOREIGN = re.compile(r"torchinductor_\w+")  # torch's empty folder for compiled kernels
TEMPORARY = re.compile(r".*\.tmp|tmp\w{8}|pymp-\w+|.*\.partial")


class Process(NamedTuple):
    """A live process of the command: pid and command line."""

    pid: int
    command: str


class Sandbox:
    """Runs one grid in `folder`; `images` holds what write_images wrote.

    HOME is `home`, that of all sandboxes: matplotlib takes seconds to list fonts once.
    """

    def __init__(self, folder: Path, grid: Grid, images: Path, home: Path):
        self.folder, self.grid = folder, grid
        self.marker = uuid.uuid4().hex
        for name in ("tmp", "cache"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        home.mkdir(parents=True, exist_ok=True)
        for source in images.iterdir():
            link = folder / source.name
            if not link.exists():
                link.symlink_to(source.absolute())
        repository = Path(__file__).parents[2]
        kept = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")}
        self.environment = {
            **kept,
            "PYTHONPATH": str(repository),
            "HOME": str(home.absolute()),
            "TMPDIR": str((folder / "tmp").absolute()),
            "VAE_SWEEP_CACHE": str((folder / "cache").absolute()),
            "WANDB_MODE": "offline",
            # on a machine that is busy otherwise, threads that wait for each other make
            # small networks many times slower
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "160",
            MARKER: self.marker,
        }
        self.attempts = 0

    @property
    def command(self) -> list[str]:
        return [sys.executable, "-m", "vae_sweep.run", *self.grid.arguments]

    @property
    def runs(self) -> dict[str, Path]:
        """run_id -> folder, of those that the sweep has."""
        folders = (self.folder / "runs" / "main").glob("*-*")
        return {f.name: f for f in sorted(folders) if f.is_dir()}

    @property
    def wandb(self) -> Path:
        return self.folder / "runs" / "main" / "wandb"

    def start(self) -> "Attempt":
        self.attempts += 1
        return Attempt(self, self.attempts)

    def processes(self) -> list[Process]:
        """Every live process that the command has started, itself included."""
        wanted = f"{MARKER}={self.marker}".encode()
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                if wanted not in (entry / "environ").read_bytes():
                    continue  # a zombie's is empty
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            found.append(Process(int(entry.name), line.strip()))
        return found

    def leftovers(self) -> list[str]:
        """Processes, temporary files and copies of images: none may be there for long."""
        found = [f"process {p.pid}: {p.command[:100]}" for p in self.processes()]
        for path in _below(self.folder / "tmp"):
            inside = path.relative_to(self.folder / "tmp")
            if not FOREIGN.fullmatch(inside.parts[0]):
                found.append(f"in TMPDIR: {inside}{_size(path)}")
        for root in ("runs", "cache"):
            for path in _below(self.folder / root):
                if TEMPORARY.fullmatch(path.name) and not self._is_wandbs(path):
                    found.append(f"temporary: {path.relative_to(self.folder)}")
        return found

    def _is_wandbs(self, path: Path) -> bool:
        return path.is_relative_to(self.wandb)

    def clear(self) -> None:
        """Ends and removes what is left, so that it is said once and disturbs no more."""
        for process in self.processes():
            with suppress(OSError):
                os.kill(process.pid, signal.SIGKILL)
        while self.processes():
            time.sleep(LOOK_S)
        if (self.folder / "tmp").exists():
            shutil.rmtree(self.folder / "tmp", ignore_errors=True)
            (self.folder / "tmp").mkdir(exist_ok=True)


def _below(folder: Path) -> list[Path]:
    """All that lies in a folder, which processes may be writing or removing."""
    found = []
    for parent, folders, files in os.walk(folder):  # passes over what is gone meanwhile
        found += [Path(parent, name) for name in (*folders, *files)]
    return sorted(found)


def _size(path: Path) -> str:
    with suppress(OSError):  # it is gone meanwhile
        return f" ({path.lstat().st_size} bytes)"
    return ""


class Attempt:
    """One start of the command, in a session of its own, output in files."""

    def __init__(self, sandbox: Sandbox, number: int):
        self.sandbox = sandbox
        self.out = sandbox.folder / f"{number}.out"
        self.err = sandbox.folder / f"{number}.err"
        self.started = time.monotonic()
        self.line_at: float | None = None  # seconds after the start
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self.process = subprocess.Popen(
                sandbox.command,
                cwd=sandbox.folder,
                env=sandbox.environment,
                stdout=out,
                stderr=err,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    @property
    def code(self) -> int | None:
        return self.process.poll()

    def said(self) -> str:
        return self.out.read_text(errors="replace")

    def complained(self) -> str:
        return self.err.read_text(errors="replace")

    def trains(self) -> bool:
        """Whether the line that says what is trained has appeared."""
        if self.line_at is None and re.search(r"^training \d+ point", self.said(), re.M):
            self.line_at = self.seconds
        return self.line_at is not None

    def says_table(self) -> bool:
        return "sigma: noise of the decoder" in self.said()

    def says_all(self) -> bool:
        """Whether its last line has appeared, after which it has nothing left to do."""
        return re.search(r"^W&B: ", self.said(), re.M) is not None

    def has_loaded(self, library: str) -> bool:
        try:
            return library in Path(f"/proc/{self.process.pid}/maps").read_text()
        except OSError:
            return False

    def workers(self) -> list[int]:
        """The processes under the command that train."""
        processes = self.sandbox.processes()
        return sorted(p.pid for p in processes if "vae_sweep.training.workers" in p.command)

    def wait_until(self, condition: Callable[[], bool]) -> bool:
        """Whether it came true; False where the command ended, or hung, before it did."""
        while not condition():
            self.trains()  # notes the time
            if self.code is not None or self.seconds > TIMEOUT_S:
                return False
            time.sleep(LOOK_S)
        return True

    def wait(self, timeout_s: float = TIMEOUT_S) -> int | None:
        """The exit code; None where the command still runs after `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while self.code is None and time.monotonic() < deadline:
            self.trains()
            time.sleep(LOOK_S)
        return self.code
