"""What a machine may refuse, as a line with a remedy."""

import errno
import os

import pytest

from vae_sweep.system import of_system

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
