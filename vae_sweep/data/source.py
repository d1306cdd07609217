"""What a source of images is, and what it gives before that is split."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from vae_sweep.data.cache import Pixels

if TYPE_CHECKING:
    from vae_sweep.data.random_transform import Transform

BINARY = "every pixel is black or white already"
DRAWN = "a random transform draws every batch anew, and the others once"


class Given(NamedTuple):
    """The splits that a set comes with, [n, C, H, W], None where it has no such split.

    `where` says where each lies, for sets of a user's own; `notes` is what else a person
    should know of how they were read. `transform`, where there is one, draws every batch
    anew: see random_transform.py.
    """

    train: Pixels
    val: Pixels | None
    test: Pixels | None
    where: dict[str, str] | None = None
    notes: tuple[str, ...] = ()
    transform: "Transform | None" = None


@dataclass(frozen=True)
class Source:
    """A source of images; each function takes its section of the config.

    Args:
        read: Gives the images; raises UserError where they cannot be had.
        check: Raises UserError of what can be said before anything is read.
        transform: Gives the random transform of `read` alone, for another process.
    """

    read: Callable[[Any], Given]
    check: Callable[[Any], None] = lambda config: None
    transform: "Callable[[Any], Transform | None]" = lambda config: None


def binarizable(source: Source) -> Source:
    """One of ours, whose images are drawn black and white where `data.binarize` is set."""

    def transform(config: Any) -> "Transform | None":
        if not config.binarize:
            return None
        from vae_sweep.data.random_transform import binarized  # torch

        return binarized

    def read(config: Any) -> Given:
        given = source.read(config)
        if not config.binarize:
            return given
        is_binary = not ((given.train > 0) & (given.train < 255)).any()
        note = f"data.binarize changes nothing: {BINARY}" if is_binary else DRAWN
        return given._replace(transform=transform(config), notes=(*given.notes, note))

    return replace(source, read=read, transform=transform)
