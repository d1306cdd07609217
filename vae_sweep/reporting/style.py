"""How every figure, table and page looks: colors of two themes, and what tells runs apart.

What tells runs apart cycles, so that any number of points, heads and normalizations can be
drawn.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.lines import Line2D

from vae_sweep.records.results import labels

# Okabe and Ito's palette, whose hues color-blind readers tell apart; its yellow is too
# pale for lines
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#4D4D4D")
# the same hues on dark ground, moved until no two are closer, to any color-blind reader,
# than the closest two above
DARK_PALETTE = (
    *("#2D73BE", "#FF6A12", "#0BB075", "#B98FD0", "#BDD5EF", "#F7C04A", "#FFFFE3"),
)
SHADES = ((1.0, 0.0), (0.6, 0.4), (0.5, 0.0))  # of the palette: itself, lighter, darker
DARK_SHADES = ((1.0, 0.0), (0.6, 0.4), (0.7, 0.05))
COLORS = len(SHADES) * len(PALETTE)
# of heads, as in SVG's stroke-dasharray, in widths of the line
DASHES = ("", "4 2", "1 1.5", "6 1.5 1 1.5", "8 3", "4 1 1 1 1 1", "1 3")
DIVERGED = "X"
MARKERS = {  # of normalizations: matplotlib's marker -> path about (0, 0), 8 wide
    "o": "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z",
    "s": "M-3.5 -3.5h7v7h-7z",
    "^": "M0 -4.5L4.5 3.5H-4.5z",
    "D": "M0 -4.5L4.5 0L0 4.5L-4.5 0z",
    "v": "M0 4.5L4.5 -3.5H-4.5z",
    DIVERGED: "M-4 -2L-2 -4L0 -2L2 -4L4 -2L2 0L4 2L2 4L0 2L-2 4L-4 2L-2 0z",
}

ThemeName = Literal["light", "dark"]


class Theme(NamedTuple):
    """Colors of a figure's ground, its writing, and its points."""

    paper: str
    ink: str
    quiet: str  # what stands behind the runs: theory, caps that several share
    grid: str
    colors: tuple[str, ...]  # COLORS of them, by Look.hue


def _colors(palette: tuple[str, ...], shades: Any) -> tuple[str, ...]:
    """The palette, then its lighter, then its darker shades."""
    rgb = [np.array(to_rgb(color)) for color in palette]
    return tuple(to_hex(tuple(keep * c + add)) for keep, add in shades for c in rgb)


THEMES: dict[ThemeName, Theme] = {
    "light": Theme("#ffffff", "#1a1a1a", "#737373", "#e4e7ea", _colors(PALETTE, SHADES)),
    "dark": Theme(
        "#16181a", "#e8e8e8", "#9a9a9a", "#33383d", _colors(DARK_PALETTE, DARK_SHADES)
    ),
}
LIGHT = THEMES["light"]


class Look(NamedTuple):
    """How a run looks in figures, tables and legends."""

    label: str  # what tells it from the others
    hue: int  # of its point, an index of Theme.colors
    dashes: str  # of its head, one of DASHES
    marker: str  # of its normalization, one of MARKERS; DIVERGED's where it diverged

    @property
    def color(self) -> str:
        """On white; hexadecimal."""
        return LIGHT.colors[self.hue]

    @property
    def line(self) -> Any:
        """matplotlib's style of its line."""
        dashes = tuple(map(float, self.dashes.split()))
        return (0, dashes) if dashes else "-"


def of_points(runs: pd.DataFrame) -> dict[str, Look]:
    """run_id -> Look, which runs that differ in seed share.

    `runs` has results.IDENTITY, of one or several rows per run, and the status where it is
    known.
    """
    runs = runs.drop_duplicates("run_id")
    return _looks(runs, labels(runs.assign(seed=0)))


def points_of(looks: dict[str, Look]) -> dict[str, Look]:
    """Point -> its look, which is a diverged run's only where all its runs diverged."""
    points: dict[str, Look] = {}
    for look in looks.values():
        if look.label not in points or points[look.label].marker == DIVERGED:
            points[look.label] = look
    return points


def _looks(runs: pd.DataFrame, names: dict[str, str]) -> dict[str, Look]:
    ordered = runs.sort_values("run_id")  # a run looks the same in whatever order it comes
    points = dict.fromkeys(names[run_id] for run_id in ordered["run_id"])
    order = {name: i for i, name in enumerate(points)}
    heads = {head: i for i, head in enumerate(dict.fromkeys(ordered["head"]))}
    norms = {norm: i for i, norm in enumerate(dict.fromkeys(ordered["norm"]))}
    markers = [marker for marker in MARKERS if marker != DIVERGED]
    looks = {}
    for run in runs.to_dict("records"):
        name = names[run["run_id"]]
        marker = markers[norms[run["norm"]] % len(markers)]
        marker = DIVERGED if run.get("status") == "diverged" else marker
        dashes = DASHES[heads[run["head"]] % len(DASHES)]
        looks[run["run_id"]] = Look(name, order[name] % COLORS, dashes, marker)
    return looks


@contextmanager
def drawn(theme: Theme = LIGHT) -> Iterator[None]:
    """matplotlib's settings of every figure, for what is made in this context."""
    ink = dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"),
        theme.ink,
    )
    faces = ("figure.facecolor", "axes.facecolor", "savefig.facecolor")
    ground = dict.fromkeys(faces, theme.paper)
    settings: Any = {**ink, **ground, "grid.color": theme.grid, "grid.linewidth": 0.7}
    with mpl.rc_context(settings):
        yield


def name_axes(axes: Axes, title: str, x: str, y: str, size: float = 9) -> None:
    """What every panel has: a title, names of both axes, a light grid; `size` in points."""
    axes.set_title(title, loc="left", size=size + 1)
    axes.set_xlabel(x, size=size)
    axes.set_ylabel(y, size=size)
    axes.tick_params(labelsize=size - 1, which="both")
    axes.grid(True)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def handles(looks: Iterable[Look], theme: Theme = LIGHT) -> list[Line2D]:
    """A line with its marker per point."""
    return [
        Line2D(
            [],
            [],
            color=theme.colors[look.hue],
            linestyle=look.line,
            marker=look.marker,
            label=look.label,
        )
        for look in looks
    ]
