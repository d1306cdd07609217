"""What is slow to make, kept as .npz files; without a cache a run goes on as well."""

import contextlib
import json
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from vae_sweep.files import replace

Pixels = NDArray[np.uint8]


def cached(
    path: Path,
    make: Callable[[], dict[str, NDArray]],
    fits: Callable[[dict[str, NDArray]], bool],
) -> dict[str, NDArray]:
    """`make()`, or what an earlier call kept of it at `path` (.npz) if that `fits`."""
    with contextlib.suppress(Exception):  # whatever ails a cache file, it is remade
        arrays = read_npz(path)
        if fits(arrays):
            return arrays
    arrays = make()
    _replace(path, lambda file: np.savez(file, allow_pickle=False, **arrays))
    return arrays


def cached_json(path: Path) -> dict[str, Any]:
    """What keep_json kept at `path`; {} where there is nothing that can be read."""
    with contextlib.suppress(OSError, ValueError):
        content = json.loads(path.read_text())
        if isinstance(content, dict):
            return content
    return {}


def keep_json(path: Path, content: dict[str, Any]) -> None:
    _replace(path, lambda file: file.write(json.dumps(content, indent=1).encode()))


def _replace(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Replaces `path`; without room or permission, nothing."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        replace(path, write)


def cached_images(path: Path, n: int, make: Callable[[], Pixels]) -> Pixels:
    """The same for `n` images [n, C, H, W]."""

    def fits(arrays: dict[str, NDArray]) -> bool:
        images = arrays["images"]
        return images.dtype == np.uint8 and images.ndim == 4 and len(images) == n

    return cached(path, lambda: {"images": make()}, fits)["images"]


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
    console = Console(stderr=True)
    console.print(text, highlight=False, markup=False, soft_wrap=True)
