"""A data set as a grid needs it: its images, and what is counted once for all points.

What needs tensors imports torch when it is first asked for: to see that a sweep has ended
takes none.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from vae_sweep.config import DataConfig
from vae_sweep.data import splits
from vae_sweep.data.cache import Pixels, say
from vae_sweep.data.spectrum import Spectra
from vae_sweep.data.splits import Splits

if TYPE_CHECKING:
    from torch import Tensor

    from vae_sweep.data.random_transform import Random, Transform


class Images(NamedTuple):
    """The three splits as tensors, each uint8 [n, C, H, W]."""

    train: "Tensor"
    val: "Tensor"
    test: "Tensor"


@dataclass(frozen=True, eq=False)
class Dataset:
    """The splits, and the spectra of the training split.

    Where the data has a random transform both are of fixed draws of it; `random` has the
    training images before it.
    """

    splits: Splits
    fingerprint: str
    spectra: Spectra
    random: "Random | None" = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        channels, height, width = self.splits.train.shape[1:]
        return channels, height, width

    @cached_property
    def images(self) -> Images:
        """On the CPU, in the memory of `splits`."""
        import torch

        return Images(*map(torch.from_numpy, self.splits))

    @cached_property
    def counts(self) -> "Tensor":
        """Level counts [C, 256] of the training split."""
        return _counts(self.images.train)

    @cached_property
    def val_counts(self) -> "Tensor":
        """Level counts [C, 256] of the validation split."""
        return _counts(self.images.val)

    @cached_property
    def test_counts(self) -> "Tensor":
        """Level counts [C, 256] of the test split."""
        return _counts(self.images.test)


def _counts(images: "Tensor") -> "Tensor":
    from vae_sweep.vae.normalize import histograms

    return histograms(images)


class Datasets:
    """The data sets of a grid, each loaded once."""

    def __init__(self):
        self.loaded: dict[DataConfig, Dataset] = {}
        self.lines: list[str] = []  # about them, see `say`

    def of(self, config: DataConfig) -> Dataset:
        """The data set of `config`, loaded at the first call."""
        if config not in self.loaded:
            self.loaded[config] = load(config, self.lines.append)
        return self.loaded[config]

    def say(self, tell: Callable[[str], None]) -> None:
        """Tells what was read, and warnings, each line once. For when all points are
        validated: what is wrong with one is said alone."""
        for line in dict.fromkeys(self.lines):
            tell(line)
        self.lines.clear()


def load(config: DataConfig, tell: Callable[[str], None] = say) -> Dataset:
    """Reads a source and splits it; `tell` gets a line for each thing to say of it."""
    given = splits.named(config.name).read(config)
    made = splits.split(given, config, tell)
    if given.transform is not None:
        return _drawn(made, given.transform, config)
    digest = fingerprint(made)
    return Dataset(made, digest, Spectra(made.train, digest, config.cache_dir))


def _drawn(before: Splits, transform: "Transform", config: DataConfig) -> Dataset:
    import torch

    from vae_sweep.data.random_transform import Random, fixed

    what, images = f"data={config.name}", Images(*map(torch.from_numpy, before))
    draws = (fixed(what, transform, t, s) for s, t in images._asdict().items())
    made = Splits(*(draw.numpy() for draw in draws))
    digest = fingerprint((*before, *made))
    spectra = Spectra(made.train, digest, config.cache_dir)
    return Dataset(made, digest, spectra, Random(what, images.train, transform))


def random_of(config: DataConfig, images: "Tensor") -> "Random":
    """The Random of `config` again from its images, in another process."""
    from vae_sweep.data.random_transform import Random

    transform = splits.named(config.name).transform(config)
    assert transform is not None
    return Random(f"data={config.name}", images, transform)


def fingerprint(made: tuple[Pixels, ...]) -> str:
    """A digest of every pixel and of the splits."""
    digest = hashlib.blake2b(digest_size=8)
    for split in made:
        digest.update(str(tuple(split.shape)).encode())
        digest.update(split.data)
    return digest.hexdigest()
