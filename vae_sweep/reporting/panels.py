"""The panels of a sweep's picture: learning curves, and rate against distortion."""

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from vae_sweep.records.results import Results
from vae_sweep.reporting.style import Look

PANELS = {  # column of curves -> (title, label of the y axis)
    "val/mse_pixel": ("Distortion", "val pixel MSE (pixels in [0, 1])"),
    "val/kl": ("Rate", "val KL (nats per image)"),
    "val/elbo": ("ELBO of each run's density, at its noise", "val ELBO (nats per image)"),
}
DISCRETE = {  # instead of the last, where no run has a density
    "val/elbo_discrete": ("ELBO over the 256 levels", "val ELBO (nats per image)"),
}

FEW = 3  # evaluations that still show a curve
NUMBER = FuncFormatter(lambda value, _: f"{value:g}")


def draw(frames: list[Axes], results: Results, looks: Mapping[str, Look]) -> None:
    """Each of PANELS into its frame, and rate against distortion into the last."""
    sound = _sound(results)
    measured = {column for column in results.curves if any(results.curves[column].notna())}
    only_masses = {*DISCRETE} <= measured and "val/elbo" not in measured
    shown = [*PANELS.items()]
    shown[-1:] = DISCRETE.items() if only_masses else shown[-1:]
    for axes, (column, (title, y_label)) in zip(frames, shown, strict=False):
        label(axes, title, "step", y_label)
        _draw_curves(axes, results.curves, "step", column, looks)
        _fit(axes, "y", sound, column, log=column == "val/mse_pixel")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes = frames[-1]
    label(axes, "Rate and distortion", "val KL (nats per image)", "val PSNR (dB)")
    _draw_curves(axes, results.curves, "val/kl", "val/psnr", looks)
    for line in axes.lines:
        line.set(linestyle="-", linewidth=0.8)
    _fit(axes, "x", sound, "val/kl")
    _fit(axes, "y", sound, "val/psnr")
    _draw_caps(axes, results.finals, looks)
    _draw_theory(axes, results.theory)


def label(axes: Axes, title: str, x: str, y: str) -> None:
    """What every panel has: a title, names of both axes, a light grid."""
    axes.set_title(title, loc="left", size=10)
    axes.set_xlabel(x, size=9)
    axes.set_ylabel(y, size=9)
    axes.tick_params(labelsize=8, which="both")
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_curves(
    axes: Axes, curves: pd.DataFrame, x: str, y: str, looks: Mapping[str, Look]
) -> None:
    """A line per run over its finite rows, with a marker on the last."""
    for run_id, rows in curves.groupby("run_id", sort=False):
        look = looks[str(run_id)]
        points = rows[[x, y]].to_numpy(dtype=float)
        points = points[np.isfinite(points).all(axis=1)]
        axes.plot(
            *points.T,
            color=look.color,
            linestyle=look.line,
            linewidth=1.4,
            marker=look.marker,
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
    the steps is out of view where it would take most of it, and FEW evaluations follow.
    """
    axis = axes.xaxis if side == "x" else axes.yaxis
    set_scale = getattr(axes, f"set_{side}scale")
    values = rows[column].to_numpy(dtype=float)
    steps = rows["step"].to_numpy()
    usable = np.isfinite(values) & ((values > 0) | (not log))
    if not usable.any():
        return
    late = usable & (steps >= 0.1 * steps.max())
    enough = len(np.unique(steps[late])) >= FEW  # else a curve would be a dot at the end
    settled = values[late] if enough else values[usable]
    threshold = linear_threshold(settled)
    if log:
        set_scale("log")
    elif threshold is not None:
        set_scale("symlog", linthresh=threshold)
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


def linear_threshold(values: np.ndarray) -> float | None:
    """Up to where a symlog scale of `values` is linear; None where all of it should be."""
    typical = float(np.median(np.abs(values)))
    if np.abs(values).max() > 30 * typical > 0:
        return 10.0 ** math.floor(math.log10(typical))
    return None


def _span(values: np.ndarray) -> tuple[float, float]:
    return float(values.min()), float(values.max())


def _draw_caps(axes: Axes, finals: pd.DataFrame, looks: Mapping[str, Look]) -> None:
    """Dashed lines at the val PSNR that no network exceeds with a head, where in view.

    One line per value: in the run's color, or gray where several runs share it.
    """
    low, high = axes.get_ylim()
    caps: dict[float, list[Look]] = {}
    for run_id, cap in zip(finals["run_id"], finals["psnr_cap_val"], strict=True):
        if low <= cap <= high + 1:  # a cap just above the best run is why it stops there
            caps.setdefault(round(cap, 3), []).append(looks[run_id])
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


def _draw_theory(axes: Axes, theory: pd.DataFrame) -> None:
    """What linear VAEs reach at their optimum, the noise falling: a line per data set,
    latent size and shape of the target's scale; mostly that is one."""
    drawn: list[np.ndarray] = []
    for _, rows in theory.groupby("run_id", sort=False):
        points = rows[["kl", "psnr"]].to_numpy(dtype=float)
        if any(p.shape == points.shape and np.allclose(p, points) for p in drawn):
            continue
        label = None if drawn else "linear VAE at its optimum (theory)"
        axes.plot(*points.T, color="0.45", ls=":", lw=1.6, zorder=1, label=label)
        drawn.append(points)
    if drawn:
        axes.legend(loc="best", fontsize=7, frameon=False)
        _raise_to(axes, np.concatenate(drawn))


def _raise_to(axes: Axes, points: np.ndarray) -> None:
    """Widens the view upward, to twice its height at most, to show points (x, y)."""
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    x, y = points.T
    beside = y[(left <= x) & (x <= right)]
    if len(beside) and high < beside.max() < high + (high - low):
        axes.set_ylim(low, beside.max() + 0.04 * (high - low))
