"""What a source of images is, and what it gives before that is split."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from vae_sweep.data.cache import Pixels

if TYPE_CHECKING:
    from vae_sweep.data.random_transform import Transform


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
