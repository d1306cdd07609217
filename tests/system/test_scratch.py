"""The temporary folder of a process is gone once the process is, however it ended."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

PROCESS = """
import subprocess, sys, tempfile
from pathlib import Path
from vae_sweep.system import scratch
folder = scratch.use_own_folder()
assert scratch.use_own_folder() == folder
Path(tempfile.mkdtemp(), "file").write_text("left")
subprocess.run([sys.executable, "-c", "import tempfile; tempfile.mkstemp()"], check=True)
print(folder, flush=True)
{end}
"""
ENDS: dict[str, tuple[str, Callable[[subprocess.Popen], None]]] = {
    "returns": ("", lambda process: None),
    "raises": ("1 / 0", lambda process: None),
    "exits": ("import os; os._exit(3)", lambda process: None),
    "is killed": ("sys.stdin.read()", lambda process: process.kill()),
    "is interrupted with its group": (
        "sys.stdin.read()",
        lambda process: os.killpg(process.pid, signal.SIGINT),
    ),
    "is killed with its group": (
        "sys.stdin.read()",
        lambda process: os.killpg(process.pid, signal.SIGKILL),
    ),
}


@pytest.mark.parametrize("how", ENDS)
def test_nothing_is_left(tmp_path, how):
    code, end = ENDS[how]
    process = subprocess.Popen(
        [sys.executable, "-c", PROCESS.format(end=code)],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    folder = Path(process.stdout.readline().strip())
    assert folder.parent == tmp_path
    if code == "sys.stdin.read()":
        assert len(list(folder.rglob("*"))) == 3  # a folder and its file, and the child's
        assert folder.stat().st_mode & 0o777 == 0o700
    end(process)
    process.communicate(timeout=20)
    for _ in range(500):
        if not list(tmp_path.iterdir()):
            break
        time.sleep(0.01)
    assert list(tmp_path.iterdir()) == []
