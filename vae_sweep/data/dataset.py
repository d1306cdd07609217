"""A data set as a grid needs it: its images, and what is counted once for all points."""

import hashlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from vae_sweep.config import DataConfig
from vae_sweep.data import splits
from vae_sweep.data.cache import say
from vae_sweep.data.spectrum import Spectra
from vae_sweep.data.splits import Images
from vae_sweep.vae.normalize import histograms


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images with level counts [C, 256] and spectra of the training split."""

    images: Images
    counts: Tensor
    fingerprint: str
    spectra: Spectra

    @cached_property
    def val_counts(self) -> Tensor:
        """Level counts [C, 256] of the validation split."""
        return histograms(self.images.val)

    @cached_property
    def test_counts(self) -> Tensor:
        """Level counts [C, 256] of the test split."""
        return histograms(self.images.test)

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        height, width = self.images.train.shape[2:]
        return height, width


class Datasets:
    """The data sets of a grid, each loaded once."""

    def __init__(self):
        self.loaded: dict[DataConfig, Dataset] = {}
        self.lines: list[str] = []  # about them, see `say`

    def of(self, config: DataConfig) -> Dataset:
        if config not in self.loaded:
            self.loaded[config] = load(config, self.lines.append)
        return self.loaded[config]

    def say(self) -> None:
        """Says what was read, on stdout, and warnings on stderr, each line once. For when
        all points are validated: what is wrong with one is said alone."""
        for line in dict.fromkeys(self.lines):
            print(line, file=sys.stderr if line.startswith("warning: ") else sys.stdout)
        self.lines.clear()


def load(config: DataConfig, tell: Callable[[str], None] = say) -> Dataset:
    images = splits.load(config, tell)
    digest = fingerprint(images)
    spectra = Spectra(images.train.numpy(), digest, config.cache_dir)
    return Dataset(images, histograms(images.train), digest, spectra)


def fingerprint(images: Images) -> str:
    """A digest of every pixel and of the splits."""
    digest = hashlib.blake2b(digest_size=8)
    for split in images:
        digest.update(str(tuple(split.shape)).encode())
        digest.update(split.numpy().data)
    return digest.hexdigest()
