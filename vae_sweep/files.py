"""Files that are replaced as a whole, whenever the process ends.

On Linux the new content has no name until it is complete (O_TMPFILE), so that a process
that is killed while it writes leaves nothing behind. Where the file system has no such
files, the content is written beside its place and moved there.
"""

import errno
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # Windows, which has no such locks
    fcntl = None

# what file systems without unnamed files answer to O_TMPFILE
UNSUPPORTED = (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL)


def write_atomically(path: Path, content: bytes, sync: bool = True) -> None:
    """Replaces `path` by `content`, which is on the disk before the name is; without
    `sync` it may be lost in a power cut.

    Raises:
        OSError: The file cannot be written. `path` is then what it was before, and its
            `filename` is `path`.
    """
    replace(path, lambda file: file.write(content), sync)


def replace(path: Path, write: Callable[[IO[bytes]], object], sync: bool = True) -> None:
    """Replaces `path` by what `write` writes into an open file. A folder of this name is
    put aside. `sync` as in `write_atomically`.

    Raises:
        OSError: As `write_atomically`.
    """
    try:
        if path.is_dir() and not path.is_symlink():
            put_aside(path)
        if not _replace_unnamed(path, write, sync):
            _replace_named(path, write, sync)
    except OSError as error:
        if error.errno is not None:
            error.filename, error.filename2 = str(path), None
        raise


def append(path: Path, size: int, content: bytes) -> None:
    """Adds `content` to `path`, which has `size` bytes, on the disk.

    Raises:
        OSError: It cannot be written. `path` is then what it was before, and its `filename`
            is `path`.
    """
    with path.open("r+b") as file:
        try:
            file.seek(size)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        except OSError as error:
            with suppress(OSError):
                os.ftruncate(file.fileno(), size)
            error.filename = str(path)
            raise


def put_aside(path: Path) -> Path:
    """Renames `path` to NAME.old-K, the first that is free, which is returned."""
    k = 1
    while (old := path.with_name(f"{path.name}.old-{k}")).exists():
        k += 1
    os.replace(path, old)
    return old


def temporary_name(path: Path) -> Path:
    """The name that the content of `path` has for a moment; a leading dot marks it."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def remove_leftovers(folder: Path) -> None:
    """Removes what killed processes left in `folder` between writing and renaming."""
    for left in folder.glob(".*.tmp"):
        with suppress(OSError):
            left.unlink()


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock file `path`; looking changes nothing."""
    if fcntl is None:
        return False
    with suppress(OSError), path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def _replace_unnamed(path: Path, write: Callable[[IO[bytes]], object], sync: bool) -> bool:
    """Whether the file system has unnamed files and `path` was replaced by one."""
    if not hasattr(os, "O_TMPFILE"):
        return False
    try:
        descriptor = os.open(path.parent, os.O_TMPFILE | os.O_RDWR, 0o666)
    except OSError as error:
        if error.errno in UNSUPPORTED and path.parent.is_dir():
            return False
        raise
    with open(descriptor, "w+b") as file:
        write(file)
        file.flush()
        if sync:
            os.fsync(descriptor)
        temporary = temporary_name(path)
        try:
            # A link cannot replace a name, so it gets one that can be renamed. Only with
            # a src_dir_fd does Python call linkat, which follows what /proc points to.
            os.link(f"/proc/self/fd/{descriptor}", temporary, src_dir_fd=descriptor)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EXDEV, errno.EPERM):  # no /proc, ...
                return False
            raise
        try:
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    return True


def _replace_named(path: Path, write: Callable[[IO[bytes]], object], sync: bool) -> None:
    temporary = temporary_name(path)
    try:
        with temporary.open("w+b") as file:
            write(file)
            file.flush()
            if sync:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
