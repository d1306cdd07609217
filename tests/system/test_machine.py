"""What a machine may refuse, as a line with a remedy."""

import errno
import os
import subprocess
import sys

import pytest

from vae_sweep.system.machine import of_system

REMEDIES = {
    errno.ENOSPC: "free space there, or set runs=FOLDER",
    errno.EDQUOT: "free space there",
    errno.EMFILE: "ulimit -n",
    errno.ENFILE: "no more open files",
    errno.ENOMEM: "train.workers=1 train.cohort=1",
    errno.EROFS: "a folder that can be written",
    errno.EACCES: "change its permissions",
    errno.EPERM: "change its permissions",
    errno.ENAMETOOLONG: "shorter names",
    errno.ELOOP: "symbolic link",
    errno.ENOTDIR: "a file is where a folder must be",
    errno.EIO: "set runs=FOLDER",
}


@pytest.mark.parametrize("number", REMEDIES)
def test_an_error_of_the_system_has_path_reason_and_remedy(number):
    said = of_system(OSError(number, os.strerror(number), "runs/main"))
    assert said.startswith(f"runs/main: {os.strerror(number)}; ")
    assert REMEDIES[number] in said
    assert "\n" not in said


def test_an_error_without_a_path():
    assert of_system(OSError(errno.EMFILE, "Too many open files")) == (
        "Too many open files; raise the number of open files: ulimit -n 4096"
    )
    assert of_system(OSError("odd")) == "odd; set runs=FOLDER to write elsewhere"


def test_nothing_to_write_to_is_standard_output():
    said = of_system(OSError(errno.ENOSPC, "No space left on device"))
    assert said == "standard output: No space left on device; free space where it leads"


PRINTS = """
from vae_sweep.system import machine
machine.start()
print("β → σ – − · é ☃")
"""


@pytest.mark.parametrize(
    ("encoding", "said"),
    [("ascii", "b > s - - - ? ?"), ("latin-1", "b > s - - · é ?"), ("utf-8", None)],
)
def test_characters_that_an_encoding_lacks_become_plain_ones(encoding, said):
    done = subprocess.run(
        [sys.executable, "-c", PRINTS],
        env={**os.environ, "PYTHONIOENCODING": encoding},
        capture_output=True,
        check=True,
    )
    assert done.stdout.decode(encoding).strip() == (said or "β → σ – − · é ☃")


LIMITS = """
import resource, sys
from vae_sweep.system import machine
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]), int(sys.argv[2])))
machine.start()
print(*resource.getrlimit(resource.RLIMIT_NOFILE), machine.open_files())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits of Linux")
@pytest.mark.parametrize(
    ("soft", "hard", "expected"),
    [
        (256, 10_000, "4096 10000 4096"),  # as macOS grants
        (256, 1000, "1000 1000 1000"),
        (5000, 10_000, "5000 10000 5000"),
        (16, 16, "16 16 16"),
    ],
)
def test_a_command_may_open_as_many_files_as_the_system_grants(soft, hard, expected):
    command = [sys.executable, "-c", LIMITS, str(soft), str(hard)]
    said = subprocess.run(command, capture_output=True, text=True, check=True)
    assert said.stdout.strip() == expected
