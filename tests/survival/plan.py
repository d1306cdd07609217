"""Which sweep is killed how and when: drawn from a seed, so that a run can be repeated."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from .grids import GRIDS, Grid

KINDS = (
    *("group SIGKILL", "parent SIGKILL", "worker SIGKILL"),
    *("SIGTERM", "group SIGTERM", "SIGINT", "group SIGINT"),
)
PHASES = {  # phase -> how many of a deck of kills
    "composing": 2,  # the command imports its first modules, Hydra composes
    "importing": 2,  # torch is imported
    "before": 2,  # the last 0.5 s before "training ... points"
    "first 3 s": 9,  # after it; workers import
    "training": 7,  # any later time
    "ending": 2,  # table, picture, W&B
}
EARLY = ("composing", "importing", "before")
SUCCESSIVE = (1, 1, 1, 2, 2, 3)  # kills of one sweep, one after the other


class Kill(NamedTuple):
    """A kill of `kind`, at the share `at` (in [0, 1)) of the phase."""

    kind: str
    phase: str
    at: float


class Case(NamedTuple):
    """A sweep and the kills it gets, each of the command that goes on after the last."""

    number: int
    grid: Grid
    kills: tuple[Kill, ...]


class _Deck:
    """Draws every card once before any comes again, in random order."""

    def __init__(self, cards: list, rng: np.random.Generator):
        self.cards, self.rng, self.left = cards, rng, []

    def draw(self):
        if not self.left:
            self.left = [self.cards[i] for i in self.rng.permutation(len(self.cards))]
        return self.left.pop()


def cases(seed: int) -> Iterator[Case]:
    """Cases without end; whoever carries them out stops at enough kills."""
    rng = np.random.default_rng(seed)
    kinds = _Deck(list(KINDS), rng)
    phases = _Deck([phase for phase, n in PHASES.items() for _ in range(n)], rng)
    grids, lengths = _Deck(list(GRIDS), rng), _Deck(list(SUCCESSIVE), rng)
    number = 0
    while True:
        drawn = [
            Kill(kinds.draw(), phases.draw(), round(float(rng.random()), 3))
            for _ in range(lengths.draw())
        ]
        yield Case(number, _grid_for(drawn, grids), tuple(map(_possible, drawn)))
        number += 1


def _grid_for(kills: list[Kill], grids: _Deck) -> Grid:
    while True:
        grid = grids.draw()
        if grid.has_workers or all(kill.kind != "worker SIGKILL" for kill in kills):
            return grid


def _possible(kill: Kill) -> Kill:
    """Workers are there only while the sweep trains."""
    trains = kill.phase in ("first 3 s", "training")
    if kill.kind != "worker SIGKILL" or trains:
        return kill
    return kill._replace(phase="training" if kill.phase == "ending" else "first 3 s")


def small() -> list[Case]:
    """Seven kills, one of each kind, in a minute and a half, for the test suite."""
    two, sparse = GRIDS[0], next(grid for grid in GRIDS if grid.is_sparse)
    kills = [
        (two, ("group SIGKILL", "first 3 s", 0.2), ("SIGINT", "composing", 0.5)),
        (two, ("worker SIGKILL", "training", 0.1), ("group SIGTERM", "first 3 s", 0.9)),
        (
            sparse,
            ("SIGTERM", "first 3 s", 0.7),
            ("group SIGINT", "training", 0.1),
            ("parent SIGKILL", "first 3 s", 0.6),
        ),
    ]
    return [
        Case(n, grid, tuple(Kill(*each) for each in drawn))
        for n, (grid, *drawn) in enumerate(kills)
    ]
