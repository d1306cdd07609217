"""The command where room, descriptors, a home or permissions are short.

Each time: a line with a path or setting and a remedy, no traceback, no partial file, and
what was measured is kept, so that the same command ends equal once there is enough.
"""

import contextlib
import errno
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import damage
import numpy as np
import pytest
from helpers import TINY, make_config, make_images

from vae_sweep.command import entry
from vae_sweep.training.device import limited_threads

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="Linux's limits and mounts"),
]

POINT = (
    *("data=npz", "data.path=images.npz", "data.cache=cache", *TINY),
    *("train.steps=40", "train.eval_every=10", "train.lr=0.001", "beta=constant"),
    "model.output_init=random",
)
HEADS = ("tanh", "linear")
OPTIONS = ("-m", f"head={','.join(HEADS)}", *POINT)
WORKERS = ("train.workers=2", "train.cohort=1")
STRANGER = 54321  # a uid without an entry in passwd


def furnish(folder: Path) -> None:
    images = make_images(600).permute(0, 2, 3, 1).numpy()
    np.savez(folder / "images.npz", images=images)
    for name in ("home", "tmp"):
        (folder / name).mkdir()


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """As each of two processes on two cores has."""
    with limited_threads(1):
        yield


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> dict[str, bytes]:
    """The rows of a sweep that had enough of everything."""
    folder = tmp_path_factory.mktemp("undisturbed")
    furnish(folder)
    with contextlib.chdir(folder):
        return ended()


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch) -> Path:
    furnish(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    return tmp_path


def ended() -> dict[str, bytes]:
    """The rows after the same points were trained to their end, in this process."""
    with damage.drawing(False):
        said, error = damage.command_of([make_config(*POINT, f"head={h}") for h in HEADS])
    assert error is None, said
    return rows()


def run(
    *options: str,
    module: str = "run",
    before: tuple[str, ...] = (),
    limits: Callable[[], None] | None = None,
    stdout: int = subprocess.PIPE,
    **variables: str | None,
) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of the command; a variable of None is unset."""
    environment = {**os.environ, **variables}
    process = subprocess.run(
        [*before, sys.executable, "-m", f"vae_sweep.{module}", *options],
        env={name: value for name, value in environment.items() if value is not None},
        preexec_fn=limits,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=300,
    )
    assert "Traceback" not in process.stderr, process.stderr
    return process.returncode, process.stdout or "", process.stderr


def rows(runs: Path = Path("runs")) -> dict[str, bytes]:
    return {f.parent.name: f.read_bytes() for f in runs.glob("main/*/metrics.csv")}


def temporary() -> list[Path]:
    found = [p for p in Path().rglob(".*.tmp") if p.is_file()]
    return found + [p for p in Path("tmp").iterdir() if "torchinductor" not in p.name]


@pytest.fixture
def assert_goes_on(undisturbed) -> Callable[[], None]:
    """Nothing partial is left, the rows so far are right, and the rest follows."""

    def check() -> None:
        kept = rows()
        assert temporary() == []
        assert ended() == undisturbed
        for name, content in kept.items():
            assert undisturbed[name].startswith(content)

    return check


def assert_said(err: str, *words: str) -> None:
    """The last that is said is an error, of one or two lines, with a remedy."""
    assert err.count("error: ") == 1, err
    said = err[err.index("error: ") :]
    assert 1 <= said.count("\n") <= 2, err
    for word in words:
        assert re.search(word, said), (word, said)


@pytest.fixture
def mounted(tmp_path) -> Iterator[Callable[..., Path]]:
    """Mounts a small file system of so many KiB, or gives it more."""
    made: list[Path] = []

    def mount(name: str, kib: int) -> Path:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        again = ["remount,"] if folder in made else [""]
        line = [
            "mount",
            "-t",
            "tmpfs",
            "-o",
            f"{again[0]}size={kib}k",
            "tmpfs",
            str(folder),
        ]
        if os.geteuid() or subprocess.run(line, capture_output=True).returncode:
            pytest.skip("a small file system needs root and the right to mount")
        made.append(folder)
        return folder

    yield mount
    for folder in set(made):
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize(("kib", "options"), [(32, ()), (96, WORKERS)])
def test_a_full_disk(mounted, assert_goes_on, kib, options):
    """Full at the first files, and somewhere between checkpoints."""
    mounted("runs", kib)
    code, _, err = run(*OPTIONS, *options)
    assert code in (1, 2)
    assert_said(err, "runs/main", "[Nn]o space left|full", "free|set runs=")
    mounted("runs", 50_000)
    assert_goes_on()


@pytest.mark.parametrize("number", range(0, 24, 3))
def test_a_disk_that_is_full_from_some_write_on(monkeypatch, assert_goes_on, number):
    """The kernel says so of a file's content when that must reach the disk."""
    configs = [make_config(*POINT, f"head={h}") for h in HEADS]
    real, calls = os.fsync, []

    def fsync(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) > number:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    with monkeypatch.context() as full, damage.drawing(False):
        full.setattr(os, "fsync", fsync)
        _, error = damage.command_of(configs)
    assert len(calls) > number
    assert isinstance(error, damage.ALLOWED)
    assert_said(f"error: {entry.one_line(error)}\n", "runs/main", "[Nn]o space left|full")
    assert_goes_on()


def test_files_may_not_become_as_large_as_a_checkpoint(assert_goes_on):
    def limits() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))

    code, _, err = run(*OPTIONS, *WORKERS, limits=limits)
    assert code in (1, 2)
    assert_said(err, "runs/main|TMPDIR", "[Ff]ile too large")
    assert_goes_on()


def test_a_full_folder_for_temporary_files(mounted, assert_goes_on):
    mounted("tmp", 16)
    code, _, err = run(*OPTIONS, *WORKERS)
    if code:  # images that workers share may need no file
        assert_said(err, "TMPDIR")
    assert_goes_on()


@pytest.mark.parametrize(
    ("count", "options"),
    [
        pytest.param(16, WORKERS, marks=pytest.mark.long),
        (48, (*WORKERS, "log.wandb.mode=offline")),
    ],
    ids=["16", "48 with W&B"],
)
def test_few_file_descriptors(assert_goes_on, count, options):
    def limits() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, count))

    code, _, err = run(*OPTIONS, *options, limits=limits)
    if code:
        assert_said(err, "[Tt]oo many open files", "ulimit -n")
    elif "log.wandb.mode=offline" in options:
        assert re.search(r"W&B is off .*ulimit -n", err)
    assert_goes_on()


def as_stranger() -> tuple[str, ...]:
    """A command line that starts a command as a user who may read all and write nothing.

    Root's Python may lie where others cannot read, so that right is kept.
    """
    user = ("setpriv", f"--reuid={STRANGER}", f"--regid={STRANGER}", "--clear-groups")
    reads = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")
    line = (*user, *reads)
    works = shutil.which("setpriv") and not os.geteuid()
    if not works or subprocess.run([*line, sys.executable, "-c", ""]).returncode:
        pytest.skip("another user is tried as root, with setpriv")
    return line


def test_a_user_without_home_and_name(place, undisturbed):
    """No HOME, no entry in passwd, no cache named: containers often start so."""
    line = as_stranger()
    os.chown(place, STRANGER, STRANGER)
    os.chown(place / "tmp", STRANGER, STRANGER)
    nobody = dict.fromkeys(("HOME", "USER", "LOGNAME", "VAE_SWEEP_CACHE"))
    unnamed = [option for option in OPTIONS if not option.startswith("data.cache")]
    code, out, err = run(*unnamed, before=line, **nobody)
    if code:
        assert_said(err, "HOME|VAE_SWEEP_CACHE|data.cache")
        code, out, err = run(*OPTIONS, before=line, **nobody)
    assert code == 0, err
    assert rows() == undisturbed
    assert "overview.png" in out


@pytest.fixture
def reader(place) -> Iterator[tuple[str, ...]]:
    """How to start a command as someone who cannot write into runs/."""
    line = as_stranger() if not os.geteuid() else ()
    if line:
        for name in ("home", "tmp"):
            os.chown(place / name, STRANGER, STRANGER)
    yield line
    for path in Path("runs").rglob("*"):
        path.chmod(0o755)


def close_to_writers() -> None:
    for path in [*Path("runs").rglob("*"), Path("runs")]:
        path.chmod(0o555 if path.is_dir() else 0o444)


def test_a_finished_sweep_that_cannot_be_written_is_shown(place, reader):
    code, first, _ = run(*OPTIONS)
    assert code == 0
    close_to_writers()
    before = {p: p.stat().st_mtime_ns for p in Path("runs").rglob("*")}
    home = str(place / "home")
    code, out, err = run(*OPTIONS, before=reader, HOME=home)
    assert code == 0, err
    table = [line for line in first.splitlines() if re.match(r"(tanh|linear) +[\d–]", line)]
    assert len(table) == 2
    assert all(line in out for line in table)
    code, _, err = run("runs/main", module="report", before=reader, HOME=home)
    assert code == 2
    assert_said(err, "runs/main/report.html", "[Pp]ermission denied")
    assert {p: p.stat().st_mtime_ns for p in Path("runs").rglob("*")} == before


def test_an_unfinished_sweep_that_cannot_be_written_is_refused(place, reader):
    code, _, _ = run(*OPTIONS)
    assert code == 0
    Path(next(Path("runs/main").glob("*/summary.json"))).unlink()
    close_to_writers()
    code, _, err = run(*OPTIONS, before=reader, HOME=str(place / "home"))
    assert code == 2
    assert_said(err, "runs/main", "writable|[Pp]ermission denied", "set runs=")


def test_nowhere_to_print(assert_goes_on):
    """A full device behind stdout: training may end, in a line, and goes on later."""
    with open("/dev/full", "w") as full:
        code, _, err = run(*OPTIONS, stdout=full.fileno())
    assert code in (1, 2)
    assert_said(err, "[Nn]o space left")
    assert_goes_on()
