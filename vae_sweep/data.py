"""Data sets as uint8 tensors in memory: made, downloaded, or read from the user's files.

Whatever the set, the splits are the same for every run: they do not depend on its seed.
What is slow to make is kept in `config.cache_dir`; without that a run goes on as well.
Of a user's own images, one line says what was read, and warnings follow what is odd.
"""

import contextlib
import hashlib
import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray
from torch import Tensor

from vae_sweep import dead_leaves, image_folder, system
from vae_sweep.cache import Pixels, cached_images, read_npz, say
from vae_sweep.config import (
    DataConfig,
    DeadLeavesConfig,
    ImageFolderConfig,
    NpzConfig,
    TorchvisionConfig,
    expanded,
)
from vae_sweep.errors import UserError
from vae_sweep.image_folder import Source

MANY_PIXELS = 50_000_000  # take seconds to make, so a line says what goes on

TORCHVISION = {  # data.name -> class in torchvision.datasets
    "cifar10": "CIFAR10",
    "cifar100": "CIFAR100",
    "svhn": "SVHN",
    "mnist": "MNIST",
    "fashion_mnist": "FashionMNIST",
}
NPZ_KEYS = ("train_images", "val_images", "test_images", "images")
DARK = 32  # levels: images that are nowhere brighter are mostly meant to be


class Images(NamedTuple):
    """The three splits, each uint8 [n, C, H, W], contiguous, on the CPU."""

    train: Tensor
    val: Tensor
    test: Tensor


def load(config: DataConfig, tell: Callable[[str], None] = say) -> Images:
    """The images of `config`, split; `tell` is given the lines about a user's own.

    Where the set has no test or validation split of its own, random images (always the
    same ones) are split off its training images, test first. Raises UserError where the
    set cannot be had, is malformed, or is too small for its splits.
    """
    if isinstance(config, DeadLeavesConfig):
        source = _dead_leaves(config)
    elif isinstance(config, ImageFolderConfig):
        source = image_folder.read(config)
    elif isinstance(config, NpzConfig):
        source = _npz(config)
    else:
        source = _torchvision(config)
    wanted = None if isinstance(config, TorchvisionConfig) else config.test_images
    train, test = _hold_out(source.train, source.test, wanted, "test")
    train, val = _hold_out(train, source.val, config.val_images, "val")
    splits = (_shuffled(train), _shuffled(val), np.ascontiguousarray(test))
    images = Images(*map(torch.from_numpy, splits))
    if isinstance(config, ImageFolderConfig | NpzConfig):
        tell(f"{config.path}: {_summary(source, images)}")
        for warning in [*_dark(source), *_shared(images)]:
            tell(f"warning: {warning}")
    return images


def _summary(source: Source, images: Images) -> str:
    """`train 40 (train/), val 10 (val/), test: 4 split off train; ignored: 20 .gif`."""
    own = {"train": source.train, "val": source.val, "test": source.test}
    splits = []
    for split, pixels in own.items():
        where = (source.where or {}).get(split)
        if pixels is None:
            count = len(images._asdict()[split])
            splits.append(f"{split}: {count} split off train")
        else:
            splits.append(f"{split} {len(pixels)}" + (f" ({where})" if where else ""))
    return "; ".join([", ".join(splits), *source.notes])


def _dark(source: Source) -> list[str]:
    """Of each split that the set comes with, a warning if its images are almost black."""
    own = {"train": source.train, "val": source.val, "test": source.test}
    tops = {split: int(pixels.max()) for split, pixels in own.items() if pixels is not None}
    return [
        f"no pixel of the {split} images is above {top} of 255: they are almost black; if "
        f"white is meant to be {max(top, 1)}, save them as 0..255"
        for split, top in tops.items()
        if top < DARK
    ]


def _shared(images: Images) -> list[str]:
    """Warnings of images that two splits share."""
    said = []
    digests = {split: _digests(pixels) for split, pixels in images._asdict().items()}
    for split, others in (("test", ("train", "val")), ("val", ("train",))):
        for other in others:
            there = set(digests[other])
            count = sum(digest in there for digest in digests[split])
            if count:
                said.append(
                    f"{count} of {len(digests[split])} {split} images are in {other} too, "
                    f"pixel by pixel: the {split} numbers are not of unseen images"
                )
    return said


def _digests(pixels: Tensor) -> list[bytes]:
    """One of each image."""
    each = pixels.flatten(1).numpy()
    return [hashlib.blake2b(image.data, digest_size=16).digest() for image in each]


def _shuffled(images: Pixels) -> Pixels:
    """In one fixed random order: folders are sorted by class, and a split's first images
    must stand for all of it."""
    return np.ascontiguousarray(images[np.random.default_rng(1).permutation(len(images))])


def _hold_out(
    train: Pixels, own: Pixels | None, wanted: int | None, split: str
) -> tuple[Pixels, Pixels]:
    """(train, split): the set's own split, or random images taken off `train`."""
    key = f"data.{split}_images"
    if own is not None:
        if wanted is not None:
            raise UserError(
                f"{key} must be null where the set has its own {split} split "
                f"(here of {len(own)} images), got {wanted}; set {key}=null"
            )
        return train, own
    n = len(train)
    count = max(1, min(1000, n // 10)) if wanted is None else wanted
    if count >= n:
        raise UserError(
            f"{key} are split off and must leave at least one image to train on, "
            f"got {count} of {n}; give more images or a smaller {key}"
        )
    held = np.zeros(n, bool)
    held[np.random.default_rng(0).permutation(n)[:count]] = True
    return train[~held], train[held]


# --- dead leaves ---


def _dead_leaves(config: DeadLeavesConfig) -> Source:
    n, size, seed = config.images, config.size, config.seed
    needed = 3 * n * size**2
    if needed > (there := system.memory()):
        raise UserError(
            f"all images are held in memory, got data.images={n} of {size}x{size}, which "
            f"take {needed / 2**30:.0f} of {there / 2**30:.0f} GiB; set fewer"
        )

    def make() -> Pixels:
        if n * size**2 > MANY_PIXELS:
            say(f"making {n} dead-leaves images of {size}x{size} (kept for next time)")
        return dead_leaves.generate(n, size, seed)

    name = f"dead_leaves-v{dead_leaves.VERSION}-n{n}-size{size}-seed{seed}.npz"
    return Source(cached_images(config.cache_dir / name, n, make), None, None)


# --- torchvision's sets ---


def _torchvision(config: TorchvisionConfig) -> Source:
    from torchvision import datasets  # slow to import

    dataset: Any = getattr(datasets, TORCHVISION[config.name])
    root = config.cache_dir / "torchvision"
    folder, names = _files(dataset, root)
    try:
        train, test = _open(dataset, root)
    except ModuleNotFoundError as error:
        raise UserError(
            f"data={config.name} needs {error.name}, which is not installed; "
            f"pip install {error.name}"
        ) from None
    except Exception as error:  # torchvision and scipy raise what they like
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"data={config.name} could not be downloaded or read ({reason});\n"
            f"put {', '.join(names)} into {folder}, or use data=dead_leaves"
        ) from None
    return Source(train, None, test)


def _files(dataset: Any, root: Path) -> tuple[Path, list[str]]:
    """The folder and names of the files that torchvision downloads."""
    if hasattr(dataset, "resources"):
        return root / dataset.__name__ / "raw", [name for name, _ in dataset.resources]
    if hasattr(dataset, "split_list"):
        return root, [dataset.split_list[split][1] for split in ("train", "test")]
    return root, [dataset.filename]


def _open(dataset: Any, root: Path) -> tuple[Pixels, Pixels]:
    """Train and test images [n, C, H, W]; downloaded where they are not there."""
    by_name = hasattr(dataset, "split_list")
    splits = (
        [{"split": "train"}, {"split": "test"}]
        if by_name
        else [{"train": True}, {"train": False}]
    )
    try:
        train, test = (_pixels(dataset(root, **split)) for split in splits)
    except RuntimeError:  # not there, or not whole
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / ".lock"), contextlib.ExitStack() as stack:
            say(f"downloading {dataset.__name__} into {root}")
            if not sys.stderr.isatty():  # torchvision's bar is for terminals
                stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
            train, test = (
                _pixels(dataset(root, download=True, **split)) for split in splits
            )
    return train, test


def _pixels(dataset: Any) -> Pixels:
    """[n, C, H, W] from torchvision's [n, H, W], [n, H, W, 3] or [n, 3, H, W]."""
    data = np.asarray(dataset.data)
    if data.ndim == 3:
        return data[:, None]
    return data.transpose(0, 3, 1, 2) if data.shape[3] == 3 else data


# --- arrays in an .npz ---


def _npz(config: NpzConfig) -> Source:
    """The arrays as they are: of four channels the last need not be an alpha."""
    path = expanded("data.path", config.path)
    rule = "data.path must be an .npz that holds train_images (with test_images, "
    rule += "val_images if there are any) or images alone"
    try:
        arrays, others = _read_npz(path)
    except Exception as error:  # zip, zlib and numpy raise what they like
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise UserError(
            f"{rule}, got {path} ({reason});\nset data.path=FILE, or save it with "
            f"np.savez(FILE, images=array)"
        ) from None
    if set(arrays) != {"images"} and ("images" in arrays or "train_images" not in arrays):
        raise UserError(f"{rule}, got {path} with {', '.join(arrays)};\nrename its keys")
    splits = {key: _channels_first(key, array) for key, array in arrays.items()}
    shapes = {key: images.shape[1:] for key, images in splits.items()}
    if len(set(shapes.values())) > 1:
        received = ", ".join(f"{key} {list(shape)}" for key, shape in shapes.items())
        raise UserError(
            f"all splits must have images of one shape, got {received} (C, H, W) in "
            f"{path};\nmake them equal"
        )
    train_key = "images" if "images" in splits else "train_images"
    channels = splits[train_key].shape[1]
    notes = []
    if channels in (2, 4):
        notes.append(
            f"{channels} channels, all of them data (if the last is an alpha, composite "
            f"the images and save 1 or 3)"
        )
    if others:
        notes.append(f"ignored: {', '.join(others)}")
    return Source(
        splits[train_key],
        splits.get("val_images"),
        splits.get("test_images"),
        {(key.removesuffix("_images") if "_" in key else "train"): key for key in splits},
        tuple(notes),
    )


def _read_npz(path: Path) -> tuple[dict[str, NDArray], list[str]]:
    """The arrays of NPZ_KEYS, and the keys of the others."""
    arrays = read_npz(path, NPZ_KEYS)
    with np.load(path, allow_pickle=False) as file:
        return arrays, [key for key in file.files if key not in arrays]


def _channels_first(key: str, array: NDArray) -> Pixels:
    """[n, C, H, W] from [n, H, W] or [n, H, W, C]; UserError where it is neither."""
    images = array[..., None] if array.ndim == 3 else array
    shaped = images.ndim == 4 and images.size > 0 and images.shape[3] <= 4
    if array.dtype != np.uint8 or not shaped:
        raise UserError(
            f"{key} must be uint8 [n, H, W] or [n, H, W, C] with C in 1..4, got "
            f"{array.dtype} {list(array.shape)}; convert it: {_remedy(array, shaped)}"
        )
    return images.transpose(0, 3, 1, 2)


def _remedy(array: NDArray, shaped: bool) -> str:
    """What makes uint8 images [n, H, W, C] of an array, in numpy or in words."""
    images = "images"
    if array.size == 0:
        return "it holds no images; leave it out"
    if not shaped:
        if array.ndim != 4 or not 0 < array.shape[1] <= 4:
            return "reshape or crop it, pixels 0..255"
        images += ".transpose(0, 2, 3, 1)"
    if array.dtype == np.uint8:
        return images
    if array.dtype == bool:
        return f"{images}.astype(np.uint8) * 255"
    low, high = (float(f(array)) for f in (np.min, np.max)) if _counts(array) else (-1, -1)
    if 0 <= low <= high <= 1:
        return f"({images} * 255).round().astype(np.uint8)"
    if -1 <= low < 0 < high <= 1:
        return f"({images} * 127.5 + 127.5).round().astype(np.uint8)"
    if 0 <= low <= high <= 255:
        return f"{images}.round().astype(np.uint8)"
    if array.dtype == np.uint16:
        return f"({images} / 257).round().astype(np.uint8)"
    return "scale its pixels to 0..255 and save them as uint8"


def _counts(array: NDArray) -> bool:
    """Whether it holds numbers that can be compared."""
    return array.size > 0 and array.dtype.kind in "iuf"
