"""Files that are replaced as a whole, whenever the process ends.

On Linux the new content has no name until it is complete (O_TMPFILE), so that a process
that is killed while it writes leaves nothing behind. Where the file system has no such
files, the content is written beside its place and moved there.
"""

import errno
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # Windows, which has no such locks
    fcntl = None

# what file systems without unnamed files answer to O_TMPFILE
UNSUPPORTED = (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL)
# and those without hard links to a link
UNLINKED = (*UNSUPPORTED, errno.EPERM, errno.ENOSYS, errno.EMLINK, errno.EXDEV)


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
    with _naming(path):
        if path.is_dir() and not path.is_symlink():
            put_aside(path)
        if not _replace_unnamed(path, write, sync):
            _replace_named(path, write, sync)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Errors of the system name `path`, whatever file they came of."""
    try:
        yield
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
    with _naming(path), path.open("r+b") as file:
        try:
            file.seek(size)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        except OSError:
            with suppress(OSError):
                os.ftruncate(file.fileno(), size)
            raise


def create(path: Path, content: bytes, sync: bool = False) -> bool:
    """Makes `path` where it is not there, with its whole `content` from the first moment;
    False where it is. Of any number of processes, on any number of machines that share the
    folder, one gets True. `sync` as in `write_atomically`.

    Raises:
        OSError: The file cannot be written; its `filename` is `path`.
    """
    with _naming(path), ExitStack() as stack:
        file = _open_unnamed(path.parent)
        if file is None:
            temporary = temporary_name(path)
            file = temporary.open("xb")
            stack.callback(_forget, temporary)
        stack.enter_context(file)
        file.write(content)
        file.flush()
        if sync:
            os.fsync(file.fileno())
        try:
            if isinstance(file.name, int):
                os.link(f"/proc/self/fd/{file.name}", path, src_dir_fd=file.name)
            else:
                os.link(file.name, path)
        except FileExistsError:  # perhaps NFS asked twice, as an answer was lost
            return os.fstat(file.fileno()).st_nlink == 2
        except OSError as error:
            if error.errno not in UNLINKED or not path.parent.is_dir():
                raise
            return _create_named(path, content)
    return True


def _create_named(path: Path, content: bytes) -> bool:
    """As `create`, where there are no links: the file is empty for a moment."""
    try:
        with path.open("xb") as file:
            file.write(content)
    except FileExistsError:
        return False
    return True


def clock(folder: Path) -> float:
    """Seconds since 1970 by the clock that the times of files in `folder` are of, which on
    a network disk is the server's.

    Raises:
        OSError: Nothing can be written there.
    """
    file = _open_unnamed(folder)
    if file is not None:
        with file:
            os.utime(file.fileno())
            return os.fstat(file.fileno()).st_mtime
    temporary = temporary_name(folder / "clock")
    try:
        temporary.open("xb").close()
        os.utime(temporary)
        return temporary.stat().st_mtime
    finally:
        _forget(temporary)


def put_aside(path: Path) -> Path:
    """Renames `path` to NAME.old-K, the first that is free, which is returned."""
    k = 1
    while (old := path.with_name(f"{path.name}.old-{k}")).exists():
        k += 1
    os.replace(path, old)
    return old


def temporary_name(path: Path) -> Path:
    """The name that the content of `path` has for a moment; a leading dot marks it."""
    return path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")


def _forget(path: Path) -> None:
    """Removes a temporary file; one that is gone, or cannot be removed, is no matter."""
    with suppress(OSError):
        path.unlink(missing_ok=True)


def leftovers(folder: Path) -> list[Path]:
    """What killed processes left in `folder` between writing and renaming."""
    return list(folder.glob(".*.tmp"))


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


def _open_unnamed(folder: Path) -> IO[bytes] | None:
    """A new file without a name, of which nothing is left; None where `folder`'s file
    system has none."""
    if not hasattr(os, "O_TMPFILE"):
        return None
    try:
        return open(os.open(folder, os.O_TMPFILE | os.O_RDWR, 0o666), "w+b")
    except OSError as error:
        if error.errno in UNSUPPORTED and folder.is_dir():
            return None
        raise


def _replace_unnamed(path: Path, write: Callable[[IO[bytes]], object], sync: bool) -> bool:
    """Whether the file system has unnamed files and `path` was replaced by one."""
    file = _open_unnamed(path.parent)
    if file is None:
        return False
    with file:
        descriptor = file.fileno()
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
        _forget(temporary)
        raise
