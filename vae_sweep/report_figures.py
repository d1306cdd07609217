"""The figures of the report: the overview's panels, one by one, and what was predicted."""

import base64
import io
import math
from collections.abc import Mapping
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure

from vae_sweep import panels
from vae_sweep.plots import PALETTE
from vae_sweep.results import Results, labels

SIZE = (4.8, 3.5)  # inches: 8 points stay readable where a phone shows 360 pixels
# of heads, as in SVG's stroke-dasharray, in widths of the line
DASHES = ("", "4 2", "1 1.5", "6 1.5 1 1.5", "8 3", "4 1 1 1 1 1", "1 3")
SHAPES = {  # of normalizations: matplotlib's marker -> path about (0, 0), 8 wide
    "o": "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z",
    "s": "M-3.5 -3.5h7v7h-7z",
    "^": "M0 -4.5L4.5 3.5H-4.5z",
    "D": "M0 -4.5L4.5 0L0 4.5L-4.5 0z",
    "v": "M0 4.5L4.5 -3.5H-4.5z",
    "X": "M-4 -2L-2 -4L0 -2L2 -4L4 -2L2 0L4 2L2 4L0 2L-2 4L-4 2L-2 0z",  # diverged
}
SHADES = ((1.0, 0.0), (0.6, 0.4), (0.5, 0.0))  # of the palette: itself, lighter, darker
COLORS = len(SHADES) * len(PALETTE)  # then over again
COMPARED = {  # column of finals -> what its axes say
    "psnr": "PSNR (dB)",
    "kl": "KL (nats per image)",
}


class Look(NamedTuple):
    """How a run looks in figures, table and legend; runs that differ in seed share it."""

    point: str  # what tells it from others, but for the seed
    color: str  # hexadecimal
    dashes: str
    shape: str  # key of SHAPES


class Picture(NamedTuple):
    """A figure as a data URL, with what it shows for those who do not see it."""

    title: str
    alt: str
    url: str


def looks(finals: pd.DataFrame) -> dict[str, Look]:
    """run_id -> Look: a colour per point, dashes per head, a shape per normalization."""
    points = labels(finals.assign(seed=0))
    order = {point: i for i, point in enumerate(dict.fromkeys(points.values()))}
    heads = list(dict.fromkeys(finals["head"]))
    norms = list(dict.fromkeys(finals["norm"]))
    shapes = [shape for shape in SHAPES if shape != "X"]
    found = {}
    for run in finals.to_dict("records"):
        point = points[run["run_id"]]
        shape = shapes[norms.index(run["norm"])]
        shape = "X" if run["status"] == "diverged" else shape
        dashes = DASHES[heads.index(run["head"])]
        found[run["run_id"]] = Look(point, _color(order[point]), dashes, shape)
    return found


def draw(results: Results, looked: Mapping[str, Look]) -> list[Picture]:
    """The overview's panels, then observed against predicted PSNR and KL."""
    figures = [Figure(figsize=SIZE, layout="constrained") for _ in range(4)]
    frames = [figure.add_subplot() for figure in figures]
    styles = {run_id: _style(look) for run_id, look in looked.items()}
    panels.draw(frames, results, styles)
    for legend in filter(None, (axes.get_legend() for axes in frames)):
        legend.remove()  # it would lie on the curves; the page says it
    for name, words in COMPARED.items():
        figures.append(Figure(figsize=SIZE, layout="constrained"))
        frames.append(figures[-1].add_subplot())
        _compare(frames[-1], results.finals, name, words, styles)
    return [_picture(*pair) for pair in zip(figures, frames, strict=True)]


def _color(i: int) -> str:
    keep, add = SHADES[i % COLORS // len(PALETTE)]
    rgb = np.array(to_rgb(PALETTE[i % len(PALETTE)]))
    return to_hex(tuple(keep * rgb + add))


def _style(look: Look) -> panels.Style:
    dashes = tuple(map(float, look.dashes.split()))
    line = (0, dashes) if dashes else "-"
    return panels.Style(look.point, look.color, line, look.shape)


def _compare(
    axes: Axes,
    finals: pd.DataFrame,
    name: str,
    words: str,
    styles: Mapping[str, panels.Style],
) -> None:
    """A marker per run that has both numbers, and the line where they are equal.

    The view is made for runs that did not diverge, where there are any.
    """
    axes.set_title(
        f"{words.split(' (')[0]}, observed against predicted", loc="left", size=10
    )
    axes.set_xlabel(f"predicted {words}", size=9)
    axes.set_ylabel(f"val {words}", size=9)
    axes.tick_params(labelsize=8, which="both")
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    pairs = finals.filter(["run_id", "status", f"predicted_{name}", f"val/{name}"]).dropna()
    for run_id, _, predicted, observed in pairs.itertuples(index=False):
        style = styles[run_id]
        axes.plot(
            [predicted],
            [observed],
            color=style.color,
            marker=style.marker,
            markersize=7,
            markeredgecolor="white",
            markeredgewidth=0.6,
            gid=run_id,
        )
    sound = pairs.query("status != 'diverged'")
    values = (sound if len(sound) else pairs).iloc[:, 2:].to_numpy(dtype=float)
    if not len(values):
        axes.text(0.5, 0.5, "no run has both", ha="center", transform=axes.transAxes)
        return
    typical = float(np.median(np.abs(values)))
    if np.abs(values).max() > 30 * typical > 0:  # as panels: else most are one dot
        scale = {"linthresh": 10.0 ** math.floor(math.log10(typical))}
        axes.set_xscale("symlog", **scale)
        axes.set_yscale("symlog", **scale)
    low, high = float(values.min()), float(values.max())
    margin = 0.06 * (high - low) or 1.0
    view = (low - margin, high + margin)
    axes.set(xlim=view, ylim=view)
    axes.plot(view, view, color="0.45", ls=":", lw=1.6, zorder=1)


def _picture(figure: Figure, axes: Axes) -> Picture:
    content = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "vae-sweep"}):  # the same page from the same runs
        figure.savefig(content, format="svg", metadata={"Date": None})
    url = "data:image/svg+xml;base64," + base64.b64encode(content.getvalue()).decode()
    drawn = sum(line.get_gid() is not None for line in axes.lines)
    alt = f"{axes.get_ylabel()} over {axes.get_xlabel()}, {drawn} runs"
    return Picture(axes.get_title(loc="left"), alt, url)
