"""Data sets as uint8 arrays in memory: made, downloaded, or read from the user's files.

Whatever the set, the splits are the same for every run: they do not depend on its seed.
What is slow to make is kept in `config.cache_dir`; without that a run goes on as well.
Of a user's own images, one line says what was read, and warnings follow what is odd.
"""

import hashlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from vae_sweep import options
from vae_sweep.config import DataConfig
from vae_sweep.data import dead_leaves, image_folder, npz, own, torchvision_sets
from vae_sweep.data.cache import Pixels
from vae_sweep.data.source import Given, Source, binarizable
from vae_sweep.errors import UserError

OURS: dict[str, Source] = {
    "dead_leaves": binarizable(dead_leaves.SOURCE),
    "image_folder": binarizable(image_folder.SOURCE),
    "npz": binarizable(npz.SOURCE),
    **{name: binarizable(each) for name, each in torchvision_sets.SOURCES.items()},
}
DARK = 32  # levels: images that are nowhere brighter are mostly meant to be


class Splits(NamedTuple):
    """The three splits, each uint8 [n, C, H, W], contiguous."""

    train: Pixels
    val: Pixels
    test: Pixels


def named(name: str) -> Source:
    """The source of a name; raises UserError as options.find."""
    return options.find("data", name, OURS, own.accepted, own.WHAT)


def split(given: Given, config: DataConfig, tell: Callable[[str], None]) -> Splits:
    """The images of `config` that its source gave, split; `tell` is given the lines about a
    user's own.

    Where the set has no test or validation split of its own, random images (always the
    same ones) are split off its training images, test first. Raises UserError where the
    set is too small for its splits.
    """
    wanted = getattr(config, "test_images", None)
    train, test = _hold_out(given.train, given.test, wanted, "test")
    train, val = _hold_out(train, given.val, config.val_images, "val")
    splits = Splits(
        _shuffled(train), _shuffled(val), np.require(test, np.uint8, ["C", "W"])
    )
    if given.where is not None:
        place = config.place or "name"
        tell(f"{getattr(config, place)}: {_summary(given, splits)}")
        for warning in [*_dark(given), *_shared(splits)]:
            tell(f"warning: {warning}")
    return splits


def _summary(given: Given, made: Splits) -> str:
    """`train 40 (train/), val 10 (val/), test: 4 split off train; ignored: 20 .gif`."""
    own = {"train": given.train, "val": given.val, "test": given.test}
    parts = []
    for split, pixels in own.items():
        where = (given.where or {}).get(split)
        if pixels is None:
            count = len(made._asdict()[split])
            parts.append(f"{split}: {count} split off train")
        else:
            parts.append(f"{split} {len(pixels)}" + (f" ({where})" if where else ""))
    return "; ".join([", ".join(parts), *given.notes])


def _dark(given: Given) -> list[str]:
    """Of each split that the set comes with, a warning if its images are almost black."""
    own = {"train": given.train, "val": given.val, "test": given.test}
    tops = {split: int(pixels.max()) for split, pixels in own.items() if pixels is not None}
    return [
        f"no pixel of the {split} images is above {top} of 255: they are almost black; if "
        f"white is meant to be {max(top, 1)}, save them as 0..255"
        for split, top in tops.items()
        if top < DARK
    ]


def _shared(splits: Splits) -> list[str]:
    """Warnings of images that two splits share."""
    said = []
    digests = {split: _digests(pixels) for split, pixels in splits._asdict().items()}
    for split, others in (("test", ("train", "val")), ("val", ("train",))):
        for other in others:
            there = set(digests[other])
            count = sum(digest in there for digest in digests[split])
            if count:
                said.append(
                    f"{count} of {len(digests[split])} {split} images are in {other} too, "
                    f"pixel by pixel: the {split} numbers do not measure unseen images"
                )
    return said


def _digests(pixels: Pixels) -> list[bytes]:
    """One of each image."""
    return [hashlib.blake2b(image.data, digest_size=16).digest() for image in pixels]


def _shuffled(images: Pixels) -> Pixels:
    """In one fixed random order: folders are sorted by class, and the first images of a
    split must be like all of it."""
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
