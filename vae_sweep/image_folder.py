"""Any folder that torchvision's ImageFolder reads, decoded once."""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable
from functools import partial
from multiprocessing.pool import ThreadPool
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from rich.console import Console
from rich.progress import track

from vae_sweep.cache import Pixels, cached_images, say
from vae_sweep.config import ImageFolderConfig, UserError

FOLDER_VERSION = 1  # of the cache: raise it when the same files give other bytes
SPLITS = ("train", "val", "test")
MANY_FILES = 5_000  # take seconds to decode, so a bar or a line says what goes on


def read(
    config: ImageFolderConfig,
) -> tuple[Pixels, Pixels | None, Pixels | None]:
    """(train, val, test), each [n, C, H, W], or None where the folder has no such split.

    Raises UserError for a folder that is missing, empty or cannot be read, for a corrupt
    image, and for images of several sizes where none is asked for.
    """
    root = Path(config.path).expanduser().absolute()
    try:
        if not root.is_dir():
            raise UserError(
                f"data.path must be a folder of images, got {config.path}, which is "
                f"{'a file' if root.exists() else 'not there'}; set data.path=FOLDER"
            )
        listings = {name: _list(root / name) for name in _splits(root)}
    except OSError as error:
        raise UserError(
            f"data.path must be a folder that can be listed, got {error.filename} "
            f"({error.strerror}); mend its permissions or set data.path=FOLDER"
        ) from None
    for name, files in listings.items():
        if not files:
            raise UserError(
                f"data.path must hold images (.jpg, .png, ...), in class folders or "
                f"directly, got none in {root / name}; set data.path=FOLDER"
            )
    files = [file for listing in listings.values() for file in listing]
    cache = config.cache_dir / f"image_folder-{_key(root, files, config)}.npz"
    images = cached_images(cache, len(files), partial(_decode_all, files, config))
    ends = np.cumsum([len(listing) for listing in listings.values()])
    splits = dict(zip(listings, np.split(images, ends[:-1]), strict=True))
    return splits.get("train", images), splits.get("val"), splits.get("test")


def _splits(root: Path) -> list[str]:
    """The folders in `root` that are splits; "", which is `root` itself, where none are."""
    with os.scandir(root) as entries:  # unlike is_dir, names `root` where it is closed
        there = {entry.name for entry in entries if entry.name in SPLITS and entry.is_dir()}
    if not there >= {"train", "test"}:
        return [""]
    return [name for name in SPLITS if name in there]


def _list(folder: Path) -> list[str]:
    """Paths as ImageFolder finds them, or of the images directly in `folder`.

    Raises OSError for a folder anywhere in it that is closed: ImageFolder skips those.
    """
    from torchvision.datasets import ImageFolder
    from torchvision.datasets.folder import is_image_file

    for _ in os.walk(folder, onerror=_raise, followlinks=True):
        pass
    in_classes = []
    with contextlib.suppress(FileNotFoundError):  # no class folders
        in_classes = [file for file, _ in ImageFolder(folder, allow_empty=True).samples]
    return in_classes or sorted(
        str(path) for path in folder.iterdir() if is_image_file(path.name)
    )


def _raise(error: OSError) -> None:
    raise error


def _key(root: Path, files: list[str], config: ImageFolderConfig) -> str:
    """A hash of the names, sizes and times of the files, and of what is made of them."""
    try:
        stats = [os.stat(file) for file in files]
    except OSError as error:
        raise UserError(
            f"images must be readable, got {error.filename} ({error.strerror}); "
            f"mend or remove it"
        ) from None
    listing = [
        (file.removeprefix(str(root)), stat.st_size, stat.st_mtime_ns)
        for file, stat in zip(files, stats, strict=True)
    ]
    content = json.dumps([FOLDER_VERSION, config.size, config.grayscale, listing])
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _decode_all(files: list[str], config: ImageFolderConfig) -> Pixels:
    """All images, [n, C, H, W]."""
    mode = "L" if config.grayscale else "RGB"
    decode = partial(_decode, size=config.size, mode=mode)
    with ThreadPool() as pool:
        decoded: Iterable[Pixels] = pool.imap(decode, files, chunksize=64)
        if len(files) >= MANY_FILES:
            console = Console(stderr=True)
            text = f"decoding {len(files)} images"
            if console.is_terminal:
                decoded = track(decoded, text, len(files), console=console)
            else:
                say(f"{text} of {config.path} (kept for next time)")
        shape = _decode(files[0], config.size, mode).shape
        out = np.empty((len(files), *shape), np.uint8)
        for i, image in enumerate(decoded):
            if image.shape != shape:
                raise UserError(
                    f"all images must have one size, got {shape[2]}x{shape[1]} in "
                    f"{files[0]} and {image.shape[2]}x{image.shape[1]} in {files[i]};\n"
                    f"set data.size=32 (or another size)"
                )
            out[i] = image
    return out


def _decode(file: str, size: int | None, mode: str) -> Pixels:
    """One image, [C, H, W]; resized (bilinear, antialiased) and cropped to `size`."""
    try:
        with Image.open(file) as image:
            if image.mode.startswith(("I", "F")):  # PIL would clip it to white
                raise ValueError(f"more than 8 bits a channel, mode {image.mode}")
            pixels = image.convert(mode)
    except Exception as error:  # PIL's decoders raise what they like
        raise UserError(
            f"images must be readable 8-bit files, got {file} ({error}); mend or remove it"
        ) from None
    if size is not None:
        pixels = ImageOps.fit(pixels, (size, size), Image.Resampling.BILINEAR)
    array = np.asarray(pixels)
    return array[None] if mode == "L" else array.transpose(2, 0, 1)
