"""How a run looks in every picture. What tells runs apart cycles, so that any number of
points, heads and normalizations can be drawn."""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.colors import to_hex, to_rgb

from vae_sweep.records.results import labels, progress

# Okabe and Ito's palette, whose hues color-blind readers tell apart; its yellow is too
# pale for lines
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#4D4D4D")
SHADES = ((1.0, 0.0), (0.6, 0.4), (0.5, 0.0))  # of the palette: itself, lighter, darker
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


class Look(NamedTuple):
    """How a run looks in figures, tables and legends."""

    label: str  # what tells it from the others
    color: str  # hexadecimal
    dashes: str  # of its head, one of DASHES
    marker: str  # of its normalization, one of MARKERS; DIVERGED's where it diverged

    @property
    def line(self) -> Any:
        """matplotlib's style of its line."""
        dashes = tuple(map(float, self.dashes.split()))
        return (0, dashes) if dashes else "-"


def of_runs(finals: pd.DataFrame) -> dict[str, Look]:
    """run_id -> Look, each its own; a label says what became of a run that has not
    finished."""
    looks = _looks(finals, labels(finals))
    ends = {run["run_id"]: progress(run) for run in finals.to_dict("records")}
    return {
        run_id: look._replace(label=f"{look.label} ({ends[run_id]})")
        if ends[run_id] != "finished"
        else look
        for run_id, look in looks.items()
    }


def of_points(finals: pd.DataFrame) -> dict[str, Look]:
    """run_id -> Look, which runs that differ in seed share."""
    return _looks(finals, labels(finals.assign(seed=0)))


def _looks(finals: pd.DataFrame, names: dict[str, str]) -> dict[str, Look]:
    order = {name: i for i, name in enumerate(dict.fromkeys(names.values()))}
    heads = {head: i for i, head in enumerate(dict.fromkeys(finals["head"]))}
    norms = {norm: i for i, norm in enumerate(dict.fromkeys(finals["norm"]))}
    markers = [marker for marker in MARKERS if marker != DIVERGED]
    looks = {}
    for run in finals.to_dict("records"):
        name = names[run["run_id"]]
        marker = markers[norms[run["norm"]] % len(markers)]
        marker = DIVERGED if run["status"] == "diverged" else marker
        dashes = DASHES[heads[run["head"]] % len(DASHES)]
        looks[run["run_id"]] = Look(name, _color(order[name]), dashes, marker)
    return looks


def _color(i: int) -> str:
    """The palette, then its lighter, then its darker shades, then over again."""
    keep, add = SHADES[i // len(PALETTE) % len(SHADES)]
    rgb = np.array(to_rgb(PALETTE[i % len(PALETTE)]))
    return to_hex(tuple(keep * rgb + add))
