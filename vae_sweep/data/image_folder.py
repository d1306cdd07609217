"""A folder of images, decoded once: what decode.py makes of the files that layout.py finds.

The cache knows images by the content of their files, so that it holds for a folder that is
moved or copied, and for no other.
"""

import hashlib
import json
import warnings
from collections.abc import Iterable
from functools import partial
from multiprocessing.pool import ThreadPool

import numpy as np
from numpy.typing import NDArray

from vae_sweep.config import ImageFolderConfig, expanded
from vae_sweep.data import layout
from vae_sweep.data.cache import Pixels, are_images, cached, tracked
from vae_sweep.data.decode import Done, decode
from vae_sweep.data.source import Given, Source
from vae_sweep.errors import UserError

VERSION = 2  # of the cache: raise it when the same files give other bytes
MANY_FILES = 5_000  # take seconds to decode, so a bar or a line says what goes on
DIGEST = 16  # bytes
NAMED = 5  # files that cannot be read, in a message


def read(config: ImageFolderConfig) -> Given:
    """The images of a folder, each as a person sees it.

    Raises UserError for a folder that is missing, empty or cannot be read, for a corrupt
    image, and for images of several sizes where none is asked for.
    """
    root = expanded("data.path", config.path).absolute()
    try:
        if not root.is_dir():
            raise UserError(
                f"data.path must be a folder of images, got {config.path}, which is "
                f"{'a file' if root.exists() else 'not there'}; set data.path=FOLDER"
            )
        found = layout.find(root)
    except OSError as error:
        raise UserError(
            f"data.path must be a folder that can be listed, got {error.filename or root} "
            f"({error.strerror}); fix its permissions or set data.path=FOLDER"
        ) from None
    files = [file for listing in found.splits.values() for file in listing]
    images, done = _decoded(files, config)
    ends = np.cumsum([len(listing) for listing in found.splits.values()])
    splits = dict(zip(found.splits, np.split(images, ends[:-1]), strict=True))
    return Given(
        splits["train"],
        splits.get("val"),
        splits.get("test"),
        found.where,
        tuple(_notes(found, done, config)),
    )


def _notes(found: layout.Layout, done: NDArray, config: ImageFolderConfig) -> list[str]:
    background = config.background
    said = {
        Done.TURNED: "turned upright by EXIF",
        Done.COMPOSITED: f"transparent, put on {background}",
        Done.ROUNDED: "of 16 bits, rounded to 8",
        Done.CUT: "of several frames, cut to the first",
    }
    counts = {text: int((done & flag != 0).sum()) for flag, text in said.items()}
    seen = [f"{count} {text}" for text, count in counts.items() if count]
    ignored = [f"ignored: {found.ignored}"] if found.ignored else []
    return [*seen, *found.notes, *ignored]


def _decoded(files: list[str], config: ImageFolderConfig) -> tuple[Pixels, NDArray]:
    """All images, [n, C, H, W], and Done of each, uint8 [n]."""
    digests = _digests(files)

    def fits(arrays: dict[str, NDArray]) -> bool:
        n = len(files)
        return are_images(arrays["images"], n) and arrays["done"].shape == (n,)

    made_of = [VERSION, config.size, config.grayscale, config.background, digests]
    key = hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:32]
    path = config.cache_dir / f"image_folder-{key}.npz"
    arrays = cached(path, partial(_decode_all, files, digests, config), fits)
    return arrays["images"], arrays["done"]


def _digests(files: list[str]) -> list[str]:
    """One of the content of each file."""
    with ThreadPool() as pool:
        return pool.map(lambda file: _digest(_content(file)), files, chunksize=64)


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=DIGEST).hexdigest()


def _content(file: str) -> bytes:
    try:
        with open(file, "rb") as stream:
            return stream.read()
    except OSError as error:
        raise UserError(
            f"images must be readable, got {file} ({error.strerror}); "
            f"fix it or move it elsewhere"
        ) from None


def _decode_all(
    files: list[str], digests: list[str], config: ImageFolderConfig
) -> dict[str, NDArray]:
    """`images` [n, C, H, W] and `done` [n]."""
    with ThreadPool() as pool, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, of metadata and of large images
        one = partial(_decode, config=config)
        given = zip(files, digests, strict=True)
        decoded: Iterable[tuple[Pixels, Done] | str] = pool.imap(one, given, chunksize=64)
        if len(files) >= MANY_FILES:
            text = f"decoding {len(files)} images"
            more = f" of {config.path} (kept for next time)"
            decoded = tracked(decoded, len(files), text, more)
        out, done = None, np.zeros(len(files), np.uint8)
        broken = []
        for i, made in enumerate(decoded):
            if isinstance(made, str):
                broken.append(made)
                continue
            image, flags = made
            if out is None:
                out = _room(len(files), image.shape)
            if image.shape != out.shape[1:]:
                raise UserError(
                    f"all images must have one size, got {out.shape[3]}x{out.shape[2]} in "
                    f"{files[0]} and {image.shape[2]}x{image.shape[1]} in {files[i]};\n"
                    f"set data.size=32 (or another size)"
                )
            out[i], done[i] = image, flags
        if broken:
            raise UserError(_of_broken(broken))
    assert out is not None
    return {"images": out, "done": done}


def _room(n: int, shape: tuple[int, ...]) -> Pixels:
    try:
        return np.empty((n, *shape), np.uint8)
    except MemoryError:
        size = n * int(np.prod(shape)) / 2**30
        raise UserError(
            f"all images are held in memory, here {n} of {shape[2]}x{shape[1]}, "
            f"{size:.0f} GiB; set data.size=64 (or another size)"
        ) from None


def _of_broken(files: list[str]) -> str:
    """All of them are named at once: each takes another look at the whole folder."""
    more = len(files) - NAMED
    named = ", ".join(files[:NAMED]) + (f" and {more} more" if more > 0 else "")
    those = "it or move it" if len(files) == 1 else "them or move them"
    return f"images must be readable, got {named}; fix {those} elsewhere"


def _decode(given: tuple[str, str], config: ImageFolderConfig) -> tuple[Pixels, Done] | str:
    """The image of a file and its digest, or the file and why it cannot be read."""
    file, digest = given
    content = _content(file)
    if _digest(content) != digest:
        raise UserError(
            f"images must not change while they are read, got {file}; "
            f"start again when nothing writes into its folder"
        )
    try:
        return decode(content, config.background_rgb, config.size, config.grayscale)
    except MemoryError:
        reason = "too large for the memory; set a smaller data.size"
    except Exception as error:  # Pillow's decoders raise what they like
        reason = " ".join(str(error).split()) or type(error).__name__
    return f"{file} ({reason})"


SOURCE = Source(read)
