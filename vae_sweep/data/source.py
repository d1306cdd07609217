"""What a source of images gives, before it is split."""

from typing import NamedTuple

from vae_sweep.data.cache import Pixels


class Source(NamedTuple):
    """The splits that a set comes with, [n, C, H, W], None where it has no such split.

    `where` says where each lies, for sets that a user laid out; `notes` is what else a
    person should know of how they were read.
    """

    train: Pixels
    val: Pixels | None
    test: Pixels | None
    where: dict[str, str] | None = None
    notes: tuple[str, ...] = ()
