"""What is slow to make, kept as .npz files; without a cache a run goes on as well.

Each file states what it is of and a checksum of it, so that a file that is damaged, of
something else, or no file at all is made again.
"""

import contextlib
import hashlib
import json
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from vae_sweep.files import replace

Pixels = NDArray[np.uint8]
T = TypeVar("T")
CHECKSUM = "checksum"  # the array, or the key of a JSON object, that holds it


def cached(
    path: Path,
    make: Callable[[], dict[str, NDArray]],
    fits: Callable[[dict[str, NDArray]], bool],
) -> dict[str, NDArray]:
    """`make()`, or what an earlier call kept of it at `path` (.npz) if that `fits`."""
    with contextlib.suppress(Exception):  # whatever ails a cache file, it is remade
        arrays = read_npz(path)
        if bytes(arrays.pop(CHECKSUM)) == _checksum(path, arrays) and fits(arrays):
            return arrays
    arrays = make()
    checked = {**arrays, CHECKSUM: np.frombuffer(_checksum(path, arrays), np.uint8)}
    _replace(path, lambda file: np.savez(file, allow_pickle=False, **checked))
    return arrays


def _checksum(path: Path, arrays: dict[str, NDArray]) -> bytes:
    """Of the arrays and of the file's name, which tells what they are of."""
    digest = hashlib.blake2b(path.name.encode(), digest_size=16)
    for key, array in sorted(arrays.items()):
        digest.update(f"{key} {array.dtype.str} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.digest()


def cached_json(path: Path) -> dict[str, Any]:
    """What keep_json kept at `path`; {} where there is nothing that can be read."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        kept = json.loads(path.read_text())
        if isinstance(kept, dict) and isinstance(content := kept.get("content"), dict):
            return content if kept.get(CHECKSUM) == _json_checksum(content) else {}
    return {}


def keep_json(path: Path, content: dict[str, Any]) -> None:
    """Writes `content` with its checksum, as a whole."""
    kept = {CHECKSUM: _json_checksum(content), "content": content}
    _replace(path, lambda file: file.write(json.dumps(kept, indent=1).encode()))


def _json_checksum(content: dict[str, Any]) -> str:
    canonical = json.dumps(content, sort_keys=True)
    return hashlib.blake2b(canonical.encode(), digest_size=16).hexdigest()


def _replace(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Replaces `path`; without room or permission, nothing."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        replace(path, write)


def cached_images(path: Path, n: int, make: Callable[[], Pixels]) -> Pixels:
    """As `cached`, for `n` images [n, C, H, W]."""

    def fits(arrays: dict[str, NDArray]) -> bool:
        return are_images(arrays["images"], n)

    return cached(path, lambda: {"images": make()}, fits)["images"]


def are_images(array: NDArray, n: int) -> bool:
    """Whether it is uint8 [n, C, H, W]."""
    return array.dtype == np.uint8 and array.ndim == 4 and len(array) == n


def read_npz(path: Path, keys: Iterable[str] | None = None) -> dict[str, NDArray]:
    """Those of `keys` (or all) that the file holds; any exception if it is unreadable."""
    if not path.is_file() and path.exists():  # a device or pipe may have no end
        raise ValueError("it is no file")
    with path.open("rb") as stream:
        if not zipfile.is_zipfile(stream):
            raise ValueError("it is no whole .npz archive")
        stream.seek(0)
        with np.load(stream, allow_pickle=False) as file:  # checks the CRCs
            wanted = file.files if keys is None else keys
            arrays = {key: file[key] for key in wanted if key in file.files}
            if not arrays:
                raise ValueError(f"its keys are {', '.join(file.files) or 'none'}")
            return arrays


def say(text: str) -> None:
    """Prints a line on stderr."""
    console = Console(stderr=True, force_jupyter=False)  # plain text there, too
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def tracked(items: Iterable[T], count: int, text: str, more: str) -> Iterable[T]:
    """`items`, `count` of them that take long: with a bar on a terminal, else after a line,
    `text` and `more`."""
    console = Console(stderr=True, force_jupyter=False)  # plain text there, too
    if console.is_terminal:
        return track(items, text, count, console=console)
    say(f"{text}{more}")
    return items
