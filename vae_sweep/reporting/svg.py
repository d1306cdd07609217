"""matplotlib's figures as SVG inside a page: it draws what stands still, the runs are
paths of their own, which the page's script and its colors reach.

A path has a vertex per row, so that the script reads values off it.
"""

import io
import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from vae_sweep.reporting.style import LIGHT, MARKERS, Look

VERTICES = 40_000  # of a figure, all runs together
MOST, LEAST = 300, 20  # of a run
# what matplotlib wrote -> what the page's style says
COLORS = {
    LIGHT.ink: "var(--ink)",
    LIGHT.quiet: "var(--quiet)",
    LIGHT.grid: "var(--grid)",
    **{color: f"var(--h{i})" for i, color in enumerate(LIGHT.colors)},
}


class Picture(NamedTuple):
    """A figure as SVG, with what it shows for those who do not see it."""

    title: str
    alt: str
    svg: str


def picture(
    figure: Figure, axes: Axes, looks: Mapping[str, Look], place: Mapping[str, int]
) -> Picture:
    """`figure`, whose lines with a run_id as gid become paths of that run.

    Args:
        axes: Its only ones.
        looks: run_id -> Look.
        place: run_id -> number of the run in the page.
    """
    lines = [(gid, line) for line in axes.lines if (gid := line.get_gid())]
    for _, line in lines:
        line.remove()
    title, number = axes.get_title(loc="left"), len(lines)
    alt = f"{axes.get_ylabel()} over {axes.get_xlabel()}, {number} runs"
    still = _still(figure, axes)
    width, height = (72 * inches for inches in figure.get_size_inches())
    box = axes.get_window_extent()  # 72 dpi, so points
    most = max(LEAST, min(MOST, VERTICES // max(1, number)))
    runs = "".join(
        _run(line, axes, height, looks[run_id], place[run_id], most)
        for run_id, line in lines
    )
    name = f"clip-{re.sub('[^a-z]+', '-', title.lower())}"
    frame = f'x="{box.x0:.1f}" y="{height - box.y1:.1f}" '
    frame += f'width="{box.width + 5:.1f}" height="{box.height:.1f}"'
    svg = (
        f'<svg viewBox="0 0 {width:g} {height:g}" aria-hidden="true"'
        f' data-x="{_axis(axes.xaxis, box.x0, box.x1)}"'
        f' data-y="{_axis(axes.yaxis, height - box.y0, height - box.y1)}"'
        f' data-names="{axes.get_xlabel()}|{axes.get_ylabel()}">'
        f"{still}"
        f'<clipPath id="{name}"><rect {frame}/></clipPath>'
        f'<g class="runs" clip-path="url(#{name})">{runs}</g></svg>'
    )
    return Picture(title, alt, svg)


def _still(figure: Figure, axes: Axes) -> str:
    """The figure without its runs: what stands between <svg> and </svg>."""
    content = io.StringIO()
    settings: Any = {"svg.hashsalt": axes.get_title(loc="left"), "svg.fonttype": "none"}
    with mpl.rc_context(settings):  # the same page from the same runs
        figure.patch.set_visible(False)
        axes.patch.set_visible(False)
        figure.savefig(content, format="svg", metadata=dict.fromkeys(EMPTY), dpi=72)
    text = content.getvalue()
    text = text[text.index("<defs>") : text.rindex("</svg>")]
    text = re.sub(r'<g id="[^"]*_\d+"', "<g", text)  # each figure has a figure_1
    text = re.sub(r"<!--.*?-->", "", text)
    text = text.replace("'DejaVu Sans', ", "").replace(", sans-serif", "")
    text = re.sub(r"font: ([0-9.]+px)[^;\"]*", r"font-size: \1", text)
    text = re.sub(r"\s*\n\s*", " ", text)
    return re.sub(r"#[0-9a-f]{6}\b", lambda found: COLORS.get(found[0], found[0]), text)


EMPTY = ("Date", "Creator", "Format", "Type")  # of matplotlib's metadata


def _run(
    line: Line2D, axes: Axes, height: float, look: Look, number: int, most: int
) -> str:
    """A run's path, with its marker at the last vertex; "" where it has none."""
    points = np.column_stack(line.get_data()).astype(float)
    if len(points) > most:
        points = points[
            np.unique(np.linspace(0, len(points) - 1, most).round().astype(int))
        ]
    placed = axes.transData.transform(points)  # at 72 dpi: points
    placed = placed[np.isfinite(placed).all(axis=1)]
    if not len(placed):
        return ""
    left, right = axes.get_xlim()
    digits = 2  # where x is a step, enough to tell it from the next
    if axes.get_xlabel() == "step":
        digits = max(1, math.ceil(math.log10(2 * (right - left) / 300)))
    y = np.clip(height - placed[:, 1], -1e5, 1e5)  # what has left the view by far
    pairs = zip(placed[:, 0], y, strict=True)
    vertices = "L".join(f"{x:.{digits}f} {y:.2f}" for x, y in pairs)
    dashes = f' stroke-dasharray="{_dashes(look)}"' if look.dashes else ""
    marker = list(MARKERS).index(look.marker)
    return (
        f'<g data-run="{number}" class="h{look.hue}"><path d="M{vertices}"{dashes}/>'
        f'<use href="#m{marker}" x="{placed[-1, 0]:.1f}" y="{y[-1]:.1f}"/></g>'
    )


def _dashes(look: Look) -> str:
    return " ".join(f"{1.4 * float(n):g}" for n in look.dashes.split())


def _axis(axis: Axis, start: float, end: float) -> str:
    """Scale, its linear part, and the view: points and values of both ends."""
    low, high = map(float, axis.get_view_interval())
    linear = getattr(axis.get_transform(), "linthresh", 0)
    return f"{axis.get_scale()} {linear:g} {start:.4f} {end:.4f} {low!r} {high!r}"
