"""The picture of a sweep: learning curves, rate against distortion, reconstructions."""

import io
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from matplotlib.transforms import offset_copy
from PIL import Image

from vae_sweep.results import Results, labels

# Okabe and Ito's palette, whose hues colour-blind readers tell apart; its yellow is too
# pale for lines
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#4D4D4D")
LINES = ("-", "--", "-.", ":", (0, (6, 1, 1, 1, 1, 1)), (0, (8, 3)), (0, (1, 3)))
MARKERS = ("o", "s", "^", "D", "v")

PANELS = {  # column of curves -> (title, label of the y axis)
    "val/mse_pixel": ("Distortion", "val pixel MSE (pixels in [0, 1])"),
    "val/kl": ("Rate", "val KL (nats per image)"),
    "val/elbo": ("ELBO at each run's implied noise", "val ELBO (nats per image)"),
}

# inches
WIDTH = 14.0
LEFT, RIGHT = 0.9, 0.6  # of a panel's frame
PANEL, PANEL_GAP = 2.7, 0.85
TOP = 0.75
LEGEND_LINE = 0.19
STRIP, STRIP_TITLE = 1.2, 0.3  # the highest strip; the line above it
SHOWN = 60  # points with a legend entry and a strip; a larger grid shows its first

NUMBER = FuncFormatter(lambda value, _: f"{value:g}")


class Style(NamedTuple):
    """How a point looks in every panel."""

    label: str
    color: Any
    line: Any  # of its head
    marker: str  # of its normalization, a cross where it diverged


def overview(results: Results, folder: Path) -> Figure:
    """Curves of val MSE, KL and ELBO, rate against distortion, and reconstructions.

    `folder` is runs/<sweep>, with each point's reconstructions.png. A colour is a point,
    a line style a head, a marker a normalization. Diverged runs end at their last finite
    row and, with the first tenth of the training, may leave the view.
    """
    styles = _styles(results.finals)
    shown = dict(list(styles.items())[:SHOWN])
    columns = _columns(shown)
    lines = math.ceil(len(shown) / columns)
    legend = lines * LEGEND_LINE + 0.25
    cell = (WIDTH - LEFT - RIGHT) / columns
    pictures = {run_id: _picture(folder / run_id) for run_id in shown}
    strip = _strip_height(pictures.values(), cell - 0.2)
    height = TOP + 2 * (PANEL + PANEL_GAP) + legend + lines * (strip + STRIP_TITLE) + 0.15

    figure = Figure(figsize=(WIDTH, height))
    FigureCanvasAgg(figure)
    figure.text(
        LEFT / WIDTH, 1 - 0.27 / height, _heading(results, folder), size=12, va="center"
    )
    _draw_panels(_panels(figure), results, styles)
    top = TOP + 2 * (PANEL + PANEL_GAP) - 0.1
    _draw_legend(figure, shown, columns, top)
    for i, (run_id, style) in enumerate(shown.items()):
        row, column = divmod(i, columns)
        y = top + legend + row * (strip + STRIP_TITLE) + STRIP_TITLE
        axes = _axes(figure, LEFT + column * cell, y, cell - 0.2, strip)
        psnr = results.finals["val/psnr"].iloc[i]
        _draw_strip(axes, pictures[run_id], style, psnr, first=column == 0)
    return figure


def save_overview(results: Results, folder: Path) -> Path:
    """Draws `overview` into folder/overview.png, replaced as a whole; returns its path."""
    content = io.BytesIO()
    overview(results, folder).savefig(content, format="png", dpi=130)
    path = folder / "overview.png"
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(content.getvalue())
    os.replace(temporary, path)
    return path


def _heading(results: Results, folder: Path) -> str:
    runs = len(results.finals)
    text = f"{folder.resolve().name}: {runs} run{'s' if runs > 1 else ''}"
    if runs > SHOWN:
        text += f", the first {SHOWN} of them named below"
    return text


def _styles(finals: pd.DataFrame) -> dict[str, Style]:
    """run_id -> Style. Heads and norms take styles in the order of their appearance."""
    heads = list(dict.fromkeys(finals["head"]))
    norms = list(dict.fromkeys(finals["norm"]))
    names = labels(finals)
    styles = {}
    for i, run in enumerate(finals.to_dict("records")):
        label, marker = names[run["run_id"]], MARKERS[norms.index(run["norm"])]
        if run["status"] == "diverged":
            at = run["diverged_at"]
            step = f" at step {at:.0f}" if math.isfinite(at) else ""
            label, marker = f"{label} (diverged{step})", "X"
        elif run["status"] == "running":
            label = f"{label} (not finished)"
        line = LINES[heads.index(run["head"])]
        styles[run["run_id"]] = Style(label, _color(i), line, marker)
    return styles


def _color(i: int) -> tuple[float, float, float]:
    """The palette, then its lighter, then its darker shades, then over again."""
    r, g, b = to_rgb(PALETTE[i % len(PALETTE)])
    keep, add = ((1.0, 0.0), (0.6, 0.4), (0.5, 0.0))[i // len(PALETTE) % 3]
    return keep * r + add, keep * g + add, keep * b + add


def _columns(styles: dict[str, Style]) -> int:
    """Legend entries and strips per line: a few, or as many as labels leave room for."""
    longest = max(len(style.label) for style in styles.values())
    room = int((WIDTH - LEFT - RIGHT) / (0.071 * (longest + 13)))  # at 8 points
    wanted = 2 if len(styles) <= 4 else 3 if len(styles) <= 12 else 4
    return max(1, min(room, wanted, len(styles)))


def _axes(figure: Figure, x: float, y: float, width: float, height: float) -> Axes:
    """Axes whose upper left corner is `x`, `y` inches from the figure's."""
    w, h = figure.get_size_inches()
    return figure.add_axes((x / w, 1 - (y + height) / h, width / w, height / h))


def _panels(figure: Figure) -> list[Axes]:
    """Two by two."""
    width = WIDTH / 2 - LEFT - RIGHT
    corners = [
        (LEFT + column * WIDTH / 2, TOP + row * (PANEL + PANEL_GAP))
        for row in range(2)
        for column in range(2)
    ]
    return [_axes(figure, x, y, width, PANEL) for x, y in corners]


def _draw_panels(panels: list[Axes], results: Results, styles: dict[str, Style]) -> None:
    sound = _sound(results)
    for axes, (column, (title, y_label)) in zip(panels, PANELS.items(), strict=False):
        _label(axes, title, "step", y_label)
        _draw_curves(axes, results.curves, "step", column, styles)
        _fit(axes, "y", sound, column, log=column == "val/mse_pixel")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes = panels[-1]
    _label(axes, "Rate and distortion", "val KL (nats per image)", "val PSNR (dB)")
    _draw_curves(axes, results.curves, "val/kl", "val/psnr", styles)
    for line in axes.lines:
        line.set(linestyle="-", linewidth=0.8)
    _fit(axes, "x", sound, "val/kl")
    _fit(axes, "y", sound, "val/psnr")
    _draw_caps(axes, results.finals, styles)


def _label(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_title(title, loc="left", size=10)
    axes.set_xlabel(x, size=9)
    axes.set_ylabel(y, size=9)
    axes.tick_params(labelsize=8, which="both")
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_curves(
    axes: Axes, curves: pd.DataFrame, x: str, y: str, styles: dict[str, Style]
) -> None:
    """A line per run over its finite rows, with a marker on the last."""
    for run_id, rows in curves.groupby("run_id", sort=False):
        style = styles[str(run_id)]
        points = rows[[x, y]].to_numpy(dtype=float)
        points = points[np.isfinite(points).all(axis=1)]
        axes.plot(
            *points.T,
            color=style.color,
            linestyle=style.line,
            linewidth=1.4,
            marker=style.marker,
            markevery=[-1] if len(points) else [],
            markersize=7,
            markeredgecolor="white",
            markeredgewidth=0.6,
            gid=str(run_id),
        )


def _sound(results: Results) -> pd.DataFrame:
    """The rows that the view is made for: of runs that did not diverge, where any did."""
    runs = results.finals.query("status != 'diverged'").filter(items=["run_id"])
    sound = results.curves.merge(runs, on="run_id")
    return sound if len(sound) else results.curves


def _fit(axes: Axes, side: str, rows: pd.DataFrame, column: str, log: bool = False) -> None:
    """Sets scale and view of `side`, x or y.

    symlog where a linear scale would flatten most curves to one line. The first tenth of
    the steps is out of view where it would take most of it.
    """
    axis = axes.xaxis if side == "x" else axes.yaxis
    set_scale = getattr(axes, f"set_{side}scale")
    values = rows[column].to_numpy(dtype=float)
    steps = rows["step"].to_numpy()
    usable = np.isfinite(values) & ((values > 0) | (not log))
    if not usable.any():
        return
    late = usable & (steps >= 0.1 * steps.max())
    settled = values[late] if late.any() else values[usable]
    typical = float(np.median(np.abs(settled)))
    if log:
        set_scale("log")
    elif np.abs(settled).max() > 30 * typical > 0:
        set_scale("symlog", linthresh=10.0 ** math.floor(math.log10(typical)))
    transform = axis.get_transform()
    low, high = _span(transform.transform(settled))
    all_low, all_high = _span(transform.transform(values[usable]))
    if all_high - all_low < 2 * (high - low):
        low, high = all_low, all_high
    margin = 0.06 * (high - low) or 0.06 * abs(high) or 1.0
    view = transform.inverted().transform(np.array([low - margin, high + margin]))
    getattr(axes, f"set_{side}lim")(*view)
    decades = high - low if log else 0
    if log and decades < 2:
        few = MaxNLocator(5) if decades < 0.5 else LogLocator(subs=(1, 2, 5))
        axis.set_major_locator(few)
        axis.set_minor_formatter(NullFormatter())
    if axis.get_scale() != "symlog" and decades < 2:
        axis.set_major_formatter(NUMBER)


def _span(values: np.ndarray) -> tuple[float, float]:
    return float(values.min()), float(values.max())


def _draw_caps(axes: Axes, finals: pd.DataFrame, styles: dict[str, Style]) -> None:
    """Dashed lines at the PSNR that no network exceeds with a head, where in view.

    One line per value: in the run's colour, or gray where several runs share it.
    """
    low, high = axes.get_ylim()
    caps: dict[float, list[Style]] = {}
    for run_id, cap in zip(finals["run_id"], finals["psnr_cap"], strict=True):
        if low <= cap <= high + 1:  # a cap just above the best run is why it stops there
            caps.setdefault(round(cap, 3), []).append(styles[run_id])
    axes.set_ylim(low, max([high, *(cap + 0.04 * (high - low) for cap in caps)]))
    low, high = axes.get_ylim()
    free = low
    for cap, of in sorted(caps.items()):
        color = of[0].color if len(of) == 1 else "0.35"
        axes.axhline(cap, color=color, linestyle=(0, (5, 3)), linewidth=1.2, zorder=1)
        if cap >= free:  # else the text would lie on the one below
            place = axes.get_yaxis_transform()
            axes.text(1.01, cap, f"cap {cap:.2f}", size=7, va="center", transform=place)
            free = cap + 0.06 * (high - low)


def _draw_legend(
    figure: Figure, styles: dict[str, Style], columns: int, top: float
) -> None:
    """One entry per run, line by line as the strips, `top` inches below the upper edge."""
    handles = [
        Line2D([], [], color=s.color, linestyle=s.line, marker=s.marker, label=s.label)
        for s in styles.values()
    ]
    by_column = [h for column in range(columns) for h in handles[column::columns]]
    width, height = figure.get_size_inches()
    figure.legend(
        handles=by_column,
        loc="upper left",
        bbox_to_anchor=(LEFT / width, 1 - top / height),
        borderaxespad=0,
        ncols=columns,
        fontsize=8,
        frameon=False,
        handlelength=3.5,
    )


def _picture(folder: Path) -> np.ndarray | None:
    """reconstructions.png as uint8 [2H, nW] or [2H, nW, C]; None where there is none."""
    try:
        with Image.open(folder / "reconstructions.png") as image:
            return np.asarray(image)
    except FileNotFoundError:
        return None


def _strip_height(pictures: Iterable[np.ndarray | None], width: float) -> float:
    """Inches that the highest picture takes at `width` inches."""
    ratios = [p.shape[0] / p.shape[1] for p in pictures if p is not None]
    return min(STRIP, width * max(ratios, default=0.1))


def _draw_strip(
    axes: Axes, picture: np.ndarray | None, style: Style, psnr: float, first: bool
) -> None:
    """Originals above reconstructions, under the point's label and val PSNR."""
    number = f"   {psnr:.2f} dB" if math.isfinite(psnr) else ""
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    axes.set_anchor("NW")
    if picture is None:
        axes.text(0, 0.5, "no reconstructions yet", size=8, transform=axes.transAxes)
    else:
        axes.imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    if picture is not None and first:
        height = len(picture)
        axes.set_yticks([height / 4, height * 3 / 4], ["original", "recon."], size=8)
        axes.tick_params(length=0)
    figure = axes.get_figure(root=True)
    above = offset_copy(axes.transAxes, figure, x=6, y=8, units="points")
    marker = Line2D([0], [1], color=style.color, marker=style.marker, transform=above)
    axes.add_artist(marker).set_clip_on(False)
    beside = offset_copy(above, figure, x=8, units="points")
    text = style.label + number
    axes.text(0, 1, text, size=8, va="center_baseline", transform=beside)
