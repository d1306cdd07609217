"""What a command meets on a machine: streams, folders, and the system's errors."""

import codecs
import errno
import logging
import math
import os
import sys
from contextlib import suppress
from pathlib import Path

from vae_sweep.errors import UserError, shown

try:
    import resource
except ImportError:  # Windows, which has no such limits
    resource = None

MANY_FILES = 4096  # a sweep opens some per worker and per W&B run; macOS grants 256

FULL = "free space there, or set runs=FOLDER, data.cache=FOLDER or TMPDIR=FOLDER"
CLOSED = "change its permissions, or name another folder (runs=FOLDER, data.cache=FOLDER)"
# errno -> what a user can do about it
REMEDIES = {
    errno.ENOSPC: FULL,
    errno.EDQUOT: FULL,
    errno.EMFILE: "raise the number of open files: ulimit -n 4096",
    errno.ENFILE: "end other programs: this machine has no more open files to give",
    errno.ENOMEM: "end other programs, or set train.workers=1 train.cohort=1",
    errno.EROFS: "name a folder that can be written (runs=FOLDER, data.cache=FOLDER)",
    errno.EACCES: CLOSED,
    errno.EPERM: CLOSED,
    errno.ENAMETOOLONG: "choose shorter names of folders and of the sweep",
    errno.ELOOP: "remove the symbolic link that leads to itself, or name another folder",
    errno.ENOTDIR: "a file is where a folder must be; name another folder (runs=FOLDER)",
    errno.EEXIST: "a file is where a folder must be; name another folder (runs=FOLDER)",
}


def of_system(error: OSError) -> str:
    """A line of an error of the operating system: path, what is wrong, remedy."""
    reason = error.strerror or str(error) or type(error).__name__
    if error.filename is None and REMEDIES.get(error.errno or 0) == FULL:
        return f"standard output: {reason}; free space where it leads"
    remedy = REMEDIES.get(error.errno or 0, "set runs=FOLDER to write elsewhere")
    path = "" if error.filename is None else f"{shown(error.filename)[1:-1]}: "
    return f"{path}{reason}; {remedy}"


PLAIN = {"–": "-", "−": "-", "→": ">", "·": "-", "β": "b", "σ": "s", "…": "..."}


def _plainly(error: UnicodeError) -> tuple[str | bytes, int]:
    """Codecs' handler of characters that an encoding lacks: a likeness, else `?`."""
    assert isinstance(error, UnicodeEncodeError)
    lacking = error.object[error.start : error.end]
    return "".join(PLAIN.get(each, "?") for each in lacking), error.end


def start() -> None:
    """Makes what a command takes for granted, at its start.

    Closed streams lead nowhere, characters that a terminal cannot show become plain ones,
    and log files that cannot be written (W&B's, on a full disk) print no traceback. As many
    files may be open as the system lets a process ask for, up to MANY_FILES.
    Raises UserError where the working folder is gone.
    """
    logging.raiseExceptions = False
    # figures go to files, whatever a notebook's environment says; where matplotlib cannot
    # keep its fonts, it says so at length
    os.environ.pop("MPLBACKEND", None)
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    codecs.register_error("plain", _plainly)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:  # else the next file that is opened would get its number
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115
        elif mode == "w" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="plain")
    if resource is not None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = MANY_FILES if hard == resource.RLIM_INFINITY else min(MANY_FILES, hard)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            with suppress(OSError, ValueError):
                resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    try:
        os.getcwd()
    except OSError as error:
        raise UserError(
            f"the working folder must exist, got {error.strerror}; cd to one that does"
        ) from None


def open_files() -> float:
    """How many files this process may have open at a time."""
    if resource is None:
        return math.inf
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return math.inf if soft == resource.RLIM_INFINITY else soft


def memory() -> int:
    """Bytes that processes of this machine, or of this container, can have."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(physical, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):  # none, or "max"
        return physical
