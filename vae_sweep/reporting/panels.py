"""What is drawn into axes: learning curves, rate against distortion, observed against
predicted. Every run's line states its run_id as gid."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from vae_sweep.records.results import Results
from vae_sweep.reporting.style import COLORS, DIVERGED, LIGHT, Look, Theme, name_axes

CURVES = {  # column of Results.curves -> (title, label of the y axis)
    "val/psnr": ("PSNR", "val PSNR (dB)"),
    "val/bits_per_dim_calibrated": ("Calibrated bits per dimension", "val bits/dim"),
    "val/kl": ("Rate", "val KL (nats per image)"),
}
TRAINING = {  # column of Results.training -> the same
    "loss": ("Training loss", "objective of the batch"),
    "mse": ("Training error", "MSE of the batch (target space)"),
    "kl": ("Training rate", "KL of the batch (nats per image)"),
}
COMPARED = {  # metric that is predicted -> what its axes say
    "psnr": "PSNR (dB)",
    "kl": "KL (nats per image)",
}

FEW = 3  # evaluations that still show a curve
LEAST_DB, LEAST_SHARE = 0.5, 0.04  # that the plane spans: of PSNR, and of the KL
NUMBER = FuncFormatter(lambda value, _: f"{value:g}")


def draw(
    frames: Sequence[Axes],
    results: Results,
    looks: Mapping[str, Look],
    theme: Theme = LIGHT,
    size: float = 9,
    over_seeds: bool = False,
) -> None:
    """Each of CURVES into its frame, and rate against distortion into the last."""
    for axes, column in zip(frames, CURVES, strict=False):
        draw_curves(axes, results.curves, column, looks, theme, size, over_seeds)
    draw_plane(frames[-1], results.finals, results.theory, looks, theme, size)


def draw_curves(
    axes: Axes,
    rows: pd.DataFrame,
    column: str,
    looks: Mapping[str, Look],
    theme: Theme = LIGHT,
    size: float = 9,
    over_seeds: bool = False,
) -> None:
    """`column` over the steps: a line per run over its finite rows, with a marker on the
    last.

    Args:
        rows: Results.curves or Results.training, or some of their rows.
        over_seeds: A line per point instead, the mean over its seeds, in a band from the
            least to the largest.
    """
    title, y = (CURVES | TRAINING).get(column, (column, column))
    name_axes(axes, title, "step", y, size)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    rows = rows[["run_id", "step", column]]
    rows = rows[np.isfinite(rows[column].to_numpy(dtype=float))]
    if over_seeds:
        points = rows["run_id"].map({run_id: look.label for run_id, look in looks.items()})
        for _, of_point in rows.groupby(points, sort=False):
            _draw_band(axes, of_point, column, looks, theme)
    else:
        for run_id, of_run in rows.groupby("run_id", sort=False):
            points = of_run[["step", column]].to_numpy(dtype=float)
            _line(axes, points, looks[str(run_id)], theme, gid=str(run_id))
    axes.autoscale_view()
    _fit(axes, _sound(rows, looks), column)


def _draw_band(
    axes: Axes,
    rows: pd.DataFrame,
    column: str,
    looks: Mapping[str, Look],
    theme: Theme,
) -> None:
    """Of one point: steps that all its sound seeds have."""
    sound = _sound(rows, looks)
    look = looks[str(sound["run_id"].iloc[0])]
    by_step = sound.groupby("step")[column].agg(["mean", "min", "max", "count"])
    seeds = len({*sound["run_id"]})
    by_step = by_step[by_step["count"] == seeds]
    color = theme.colors[look.hue]
    if seeds > 1:
        low, high = by_step["min"], by_step["max"]
        axes.fill_between(by_step.index, low, high, color=color, alpha=0.18, linewidth=0)
    points = by_step.reset_index()[["step", "mean"]].to_numpy(dtype=float)
    _line(axes, points, look, theme, gid=look.label)


def _line(axes: Axes, points: np.ndarray, look: Look, theme: Theme, gid: str) -> None:
    """A line through `points` [n, 2] with a marker on the last."""
    style: Any = {
        "color": theme.colors[look.hue],
        "linestyle": look.line,
        "linewidth": 1.4,
        "marker": look.marker,
        "markevery": [-1] if len(points) else [],
        "markersize": 7,
        "markeredgecolor": theme.paper,
        "markeredgewidth": 0.6,
        "zorder": 2.0 if look.hue < COLORS else 1.5,
        "gid": gid,
    }
    axes.add_line(Line2D(*points.T, **style))  # plot() takes four times as long


def draw_plane(
    axes: Axes,
    finals: pd.DataFrame,
    theory: pd.DataFrame,
    looks: Mapping[str, Look],
    theme: Theme = LIGHT,
    size: float = 9,
) -> None:
    """Rate and distortion of each run's last row; the PSNR caps of heads, and the curve of
    linear optima, where in view."""
    name_axes(axes, "Rate and distortion", "val KL (nats per image)", "val PSNR (dB)", size)
    ends = finals[["run_id", "val/kl", "val/psnr"]].dropna()
    for run_id, *point in ends.itertuples(index=False):
        _line(axes, np.array([point], dtype=float), looks[run_id], theme, gid=run_id)
    values = _sound(ends, looks)[["val/kl", "val/psnr"]].to_numpy(dtype=float)
    values = values[np.isfinite(values).all(axis=1)]
    if not len(values):
        return
    for side, column in enumerate(values.T):
        low, high = float(column.min()), float(column.max())
        least = LEAST_SHARE * abs(high) if side == 0 else LEAST_DB
        margin = 0.08 * (high - low) + max(0.0, least - (high - low)) / 2 or 1.0
        view = (low - margin, high + margin)
        threshold = linear_threshold(column)
        if threshold is not None:
            getattr(axes, f"set_{'xy'[side]}scale")("symlog", linthresh=threshold)
        getattr(axes, f"set_{'xy'[side]}lim")(view)
    _draw_caps(axes, finals, looks, theme, size)
    _draw_theory(axes, theory, theme, size)


def draw_compared(
    axes: Axes,
    finals: pd.DataFrame,
    name: str,
    looks: Mapping[str, Look],
    theme: Theme = LIGHT,
    size: float = 9,
) -> None:
    """Observed against predicted `name`, one of COMPARED: a marker per run that has both
    numbers, and the line where they are equal.

    The view is made for runs that did not diverge, where there are any.
    """
    words = COMPARED[name]
    title = f"{words.split(' (')[0]}, observed against predicted"
    name_axes(axes, title, f"predicted {words}", f"val {words}", size)
    pairs = finals.filter(["run_id", f"predicted_{name}", f"val/{name}"]).dropna()
    for run_id, *point in pairs.itertuples(index=False):
        _line(axes, np.array([point], dtype=float), looks[run_id], theme, gid=run_id)
    values = _sound(pairs, looks).iloc[:, 1:].to_numpy(dtype=float)
    values = values[np.isfinite(values).all(axis=1)]
    if not len(values):
        axes.text(0.5, 0.5, "no run has both", ha="center", transform=axes.transAxes)
        return
    threshold = linear_threshold(values)
    if threshold is not None:  # else most are one dot
        axes.set_xscale("symlog", linthresh=threshold)
        axes.set_yscale("symlog", linthresh=threshold)
    low, high = float(values.min()), float(values.max())
    margin = 0.06 * (high - low) or 1.0
    view = (low - margin, high + margin)
    axes.set(xlim=view, ylim=view)
    axes.plot(view, view, color=theme.quiet, ls=":", lw=1.6, zorder=1)


def _sound(rows: pd.DataFrame, looks: Mapping[str, Look]) -> pd.DataFrame:
    """The rows of runs that did not diverge, where any did not: a view is made for them."""
    diverged = [r for r in rows["run_id"].unique() if looks[r].marker == DIVERGED]
    sound = rows[~rows["run_id"].isin(diverged)]
    return sound if len(sound) else rows


def _fit(axes: Axes, rows: pd.DataFrame, column: str) -> None:
    """Sets scale and view of y.

    Logarithmic where most curves would be one line at the foot of a linear scale. The first
    tenth of the steps is out of view where it would take most of it, and FEW evaluations
    follow.
    """
    values, steps = rows[column].to_numpy(dtype=float), rows["step"].to_numpy()
    if not len(values):
        return
    late = steps >= 0.1 * steps.max()
    enough = len(np.unique(steps[late])) >= FEW  # else a curve would be a dot at the end
    settled = values[late] if enough else values
    threshold = linear_threshold(settled)
    log = threshold is not None and settled.min() > 0
    if log:
        axes.set_yscale("log")
        values, settled = values[values > 0], settled[settled > 0]
    elif threshold is not None:
        axes.set_yscale("symlog", linthresh=threshold)
    transform = axes.yaxis.get_transform()
    low, high = _span(transform.transform(settled))
    all_low, all_high = _span(transform.transform(values))
    if all_high - all_low < 2 * (high - low):
        low, high = all_low, all_high
    margin = 0.06 * (high - low) or 0.06 * abs(high) or 1.0
    axes.set_ylim(*transform.inverted().transform(np.array([low - margin, high + margin])))
    if log and high - low < 2:  # decades
        few = MaxNLocator(5) if high - low < 0.5 else LogLocator(subs=(1, 2, 5))
        axes.yaxis.set_major_locator(few)
        axes.yaxis.set_minor_formatter(NullFormatter())
    if threshold is None or (log and high - low < 2):
        axes.yaxis.set_major_formatter(NUMBER)


def linear_threshold(values: np.ndarray) -> float | None:
    """Up to where a symlog scale of `values` is linear; None where all of it should be."""
    typical = float(np.median(np.abs(values)))
    if np.abs(values).max() > 30 * typical > 0:
        return 10.0 ** math.floor(math.log10(typical))
    return None


def _span(values: np.ndarray) -> tuple[float, float]:
    return float(values.min()), float(values.max())


def _draw_caps(
    axes: Axes, finals: pd.DataFrame, looks: Mapping[str, Look], theme: Theme, size: float
) -> None:
    """Dashed lines at the val PSNR that no network exceeds with a head, where in view.

    One line per value: in the point's color, or gray where several points share it.
    """
    if "psnr_cap_val" not in finals:
        return
    low, high = axes.get_ylim()
    caps: dict[float, set[int]] = {}
    for run_id, cap in zip(finals["run_id"], finals["psnr_cap_val"], strict=True):
        # a cap just above the best run is why it stops there
        if low <= cap <= high + max(1, high - low):
            caps.setdefault(round(cap, 3), set()).add(looks[run_id].hue)
    axes.set_ylim(low, max([high, *(cap + 0.04 * (high - low) for cap in caps)]))
    low, high = axes.get_ylim()
    free = low
    for cap, hues in sorted(caps.items()):
        color = theme.colors[min(hues)] if len(hues) == 1 else theme.quiet
        axes.axhline(cap, color=color, linestyle=(0, (5, 3)), linewidth=1.2, zorder=1)
        if cap >= free:  # else the text would lie on the one below
            place = axes.get_yaxis_transform()
            text = f"cap {cap:.2f}"
            axes.text(1.01, cap, text, size=size - 2, va="center", transform=place)
            free = cap + 0.06 * (high - low)


def _draw_theory(axes: Axes, theory: pd.DataFrame, theme: Theme, size: float) -> None:
    """What linear VAEs reach at their optimum, the noise falling: a line per data set,
    latent size and shape of the target's scale; mostly that is one."""
    drawn: list[np.ndarray] = []
    for _, rows in theory.groupby("run_id", sort=False):
        points = rows[["kl", "psnr"]].to_numpy(dtype=float)
        if any(p.shape == points.shape and np.allclose(p, points) for p in drawn):
            continue
        name = None if drawn else "linear VAE at its optimum (theory)"
        axes.plot(*points.T, color=theme.quiet, ls=":", lw=1.6, zorder=1, label=name)
        drawn.append(points)
    if not drawn:
        return
    beside = np.linspace(*axes.get_xlim(), 50)
    heights = [np.interp(beside, *points.T) for points in drawn]
    _raise_to(axes, max(float(y.max()) for y in heights))
    low, high = axes.get_ylim()
    if any(((low < y) & (y < high)).any() for y in heights):
        axes.legend(loc="best", fontsize=size - 1, frameon=False)


def _raise_to(axes: Axes, top: float) -> None:
    """Widens the view upward, to twice its height at most, to show `top`."""
    low, high = axes.get_ylim()
    if high < top < high + (high - low):
        axes.set_ylim(low, top + 0.04 * (high - low))
