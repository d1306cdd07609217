"""A temporary folder of this process, which is removed when it ends, however it ends.

W&B and others leave files in TMPDIR where they are killed. A small process of its own,
which signals to this one do not reach, waits for the end and removes the folder.
"""

import atexit
import os
import secrets
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

# reads to the end of the pipe, which is closed with the process that holds it
KEEPER = """
import shutil, sys
sys.stdin.buffer.read()
shutil.rmtree(sys.argv[1], ignore_errors=True)
"""


@cache
def use_own_folder() -> Path:
    """Makes the folder, where this process and those it starts keep temporary files.

    Raises OSError where the folder cannot be made, or no process be started.
    """
    folder = Path(tempfile.gettempdir()) / f"vae-sweep-{secrets.token_hex(4)}"
    keeper = subprocess.Popen(  # before the folder is there, so that it never stays
        [sys.executable, "-I", "-S", "-c", KEEPER, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=folder.parent,
        start_new_session=True,
    )
    folder.mkdir(mode=0o700)
    tempfile.tempdir = os.environ["TMPDIR"] = str(folder)
    # runs after the exit hooks of those that use the folder
    atexit.register(keeper.communicate)
    return folder
