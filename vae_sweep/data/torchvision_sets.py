"""torchvision's sets, downloaded on first use."""

import contextlib
import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from vae_sweep.config import TorchvisionConfig
from vae_sweep.data.cache import Pixels, say
from vae_sweep.data.source import Given, Source
from vae_sweep.errors import UserError

TORCHVISION = {  # data.name -> class in torchvision.datasets
    "cifar10": "CIFAR10",
    "cifar100": "CIFAR100",
    "svhn": "SVHN",
    "mnist": "MNIST",
    "fashion_mnist": "FashionMNIST",
}


def read(config: TorchvisionConfig) -> Given:
    """A set with its own test split.

    Raises:
        UserError: torchvision is not installed, or the set can neither be read nor
            downloaded.
    """
    try:
        from torchvision import datasets  # slow to import
    except ImportError as error:
        raise UserError(
            f"data={config.name} needs torchvision, which cannot be imported ({error}); "
            f"pip install 'vae-sweep[torchvision]'"
        ) from None
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
    return Given(train, None, test)


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


SOURCES = dict.fromkeys(TORCHVISION, Source(read))
