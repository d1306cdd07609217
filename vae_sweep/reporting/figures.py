"""The figures of the report: the overview's panels, one by one, and what was predicted."""

import base64
import io
from collections.abc import Mapping
from typing import NamedTuple

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vae_sweep.records.results import Results
from vae_sweep.reporting import panels
from vae_sweep.reporting.style import Look

SIZE = (4.8, 3.5)  # inches: 8 points stay readable where a phone shows 360 pixels
COMPARED = {  # column of finals -> what its axes say
    "psnr": "PSNR (dB)",
    "kl": "KL (nats per image)",
}


class Picture(NamedTuple):
    """A figure as a data URL, with what it shows for those who do not see it."""

    title: str
    alt: str
    url: str


def draw(results: Results, looked: Mapping[str, Look]) -> list[Picture]:
    """The overview's panels, then observed against predicted PSNR and KL."""
    figures = [Figure(figsize=SIZE, layout="constrained") for _ in range(4)]
    frames = [figure.add_subplot() for figure in figures]
    panels.draw(frames, results, looked)
    for legend in filter(None, (axes.get_legend() for axes in frames)):
        legend.remove()  # it would lie on the curves; the page says it
    for name, words in COMPARED.items():
        figures.append(Figure(figsize=SIZE, layout="constrained"))
        frames.append(figures[-1].add_subplot())
        _compare(frames[-1], results.finals, name, words, looked)
    return [_picture(*pair) for pair in zip(figures, frames, strict=True)]


def _compare(
    axes: Axes,
    finals: pd.DataFrame,
    name: str,
    words: str,
    looked: Mapping[str, Look],
) -> None:
    """A marker per run that has both numbers, and the line where they are equal.

    The view is made for runs that did not diverge, where there are any.
    """
    title = f"{words.split(' (')[0]}, observed against predicted"
    panels.label(axes, title, f"predicted {words}", f"val {words}")
    pairs = finals.filter(["run_id", "status", f"predicted_{name}", f"val/{name}"]).dropna()
    for run_id, _, predicted, observed in pairs.itertuples(index=False):
        look = looked[run_id]
        axes.plot(
            [predicted],
            [observed],
            color=look.color,
            marker=look.marker,
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
    threshold = panels.linear_threshold(values)
    if threshold is not None:  # else most are one dot
        axes.set_xscale("symlog", linthresh=threshold)
        axes.set_yscale("symlog", linthresh=threshold)
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
