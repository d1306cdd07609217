"""Data sets as uint8 tensors in memory: made, downloaded, or read from the user's files.

Whatever the set, the splits are the same for every run: they do not depend on its seed.
What is slow to make is kept in `config.cache_dir`; without that a run goes on as well.
"""

import contextlib
import io
import sys
from http.client import HTTPException
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray
from torch import Tensor

from vae_sweep import dead_leaves, image_folder
from vae_sweep.cache import Pixels, cached_images, read_npz, say
from vae_sweep.config import (
    DataConfig,
    DeadLeavesConfig,
    ImageFolderConfig,
    NpzConfig,
    TorchvisionConfig,
    UserError,
)

MANY_PIXELS = 50_000_000  # take seconds to make, so a line says what goes on

TORCHVISION = {  # data.name -> class in torchvision.datasets
    "cifar10": "CIFAR10",
    "cifar100": "CIFAR100",
    "svhn": "SVHN",
    "mnist": "MNIST",
    "fashion_mnist": "FashionMNIST",
}
NPZ_KEYS = ("train_images", "val_images", "test_images", "images")


class Images(NamedTuple):
    """The three splits, each uint8 [n, C, H, W], contiguous, on the CPU."""

    train: Tensor
    val: Tensor
    test: Tensor


class _Splits(NamedTuple):
    """The splits a set comes with, [n, C, H, W]; None where it has no such split."""

    train: Pixels
    val: Pixels | None
    test: Pixels | None


def load(config: DataConfig) -> Images:
    """The images of `config`, split.

    Where the set has no test or validation split of its own, random images (always the
    same ones) are split off its training images, test first. Raises UserError where the
    set cannot be had, is malformed, or is too small for its splits.
    """
    if isinstance(config, DeadLeavesConfig):
        train, val, test = _dead_leaves(config)
    elif isinstance(config, ImageFolderConfig):
        train, val, test = image_folder.read(config)
    elif isinstance(config, NpzConfig):
        train, val, test = _npz(config)
    else:
        train, val, test = _torchvision(config)
    wanted = None if isinstance(config, TorchvisionConfig) else config.test_images
    train, test = _hold_out(train, test, wanted, "test")
    train, val = _hold_out(train, val, config.val_images, "val")
    splits = (_shuffled(train), _shuffled(val), np.ascontiguousarray(test))
    return Images(*map(torch.from_numpy, splits))


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


def _dead_leaves(config: DeadLeavesConfig) -> _Splits:
    n, size, seed = config.images, config.size, config.seed

    def make() -> Pixels:
        if n * size**2 > MANY_PIXELS:
            say(f"making {n} dead-leaves images of {size}x{size} (kept for next time)")
        return dead_leaves.generate(n, size, seed)

    name = f"dead_leaves-v{dead_leaves.VERSION}-n{n}-size{size}-seed{seed}.npz"
    return _Splits(cached_images(config.cache_dir / name, n, make), None, None)


# --- torchvision's sets ---


def _torchvision(config: TorchvisionConfig) -> _Splits:
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
    except (OSError, HTTPException, RuntimeError, ValueError, AssertionError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"data={config.name} could not be downloaded or read ({reason});\n"
            f"put {', '.join(names)} into {folder}, or use data=dead_leaves"
        ) from None
    return _Splits(train, None, test)


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


def _npz(config: NpzConfig) -> _Splits:
    path = Path(config.path).expanduser()
    rule = "data.path must be an .npz that holds train_images (with test_images, "
    rule += "val_images if there are any) or images alone"
    try:
        arrays = read_npz(path, NPZ_KEYS)
    except Exception as error:  # zip, zlib and numpy raise what they like
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise UserError(
            f"{rule}, got {path} ({reason});\nset data.path=FILE, or save it with "
            f"np.savez(FILE, images=array)"
        ) from None
    if set(arrays) != {"images"} and ("images" in arrays or "train_images" not in arrays):
        raise UserError(
            f"{rule}, got {path} with {', '.join(arrays)};\nrename or remove keys"
        )
    splits = {key: _channels_first(key, array) for key, array in arrays.items()}
    shapes = {key: images.shape[1:] for key, images in splits.items()}
    if len(set(shapes.values())) > 1:
        received = ", ".join(f"{key} {list(shape)}" for key, shape in shapes.items())
        raise UserError(
            f"all splits must have images of one shape, got {received} (C, H, W) in "
            f"{path};\nmake them equal"
        )
    train = splits.pop("images" if "images" in splits else "train_images")
    return _Splits(train, splits.get("val_images"), splits.get("test_images"))


def _channels_first(key: str, array: NDArray) -> Pixels:
    """[n, C, H, W] from [n, H, W] or [n, H, W, C]; UserError where it is neither."""
    images = array[..., None] if array.ndim == 3 else array
    shaped = images.ndim == 4 and images.size > 0 and images.shape[3] <= 4
    if array.dtype != np.uint8 or not shaped:
        raise UserError(
            f"{key} must be uint8 [n, H, W] or [n, H, W, C] with C in 1..4, got "
            f"{array.dtype} {list(array.shape)}; convert it (pixels 0..255) or "
            f"transpose it"
        )
    return images.transpose(0, 3, 1, 2)
