"""The figures of the study: published sweeps as pictures that answer one question each.

A color is a normalization, or a point where several of one are compared; bands and
whiskers span what is said beside them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from study.balance import linear_runs
from study.effects import at_noise, at_typed
from study.published import NORMS, Published
from vae_sweep.config import Head, Norm
from vae_sweep.records.comparisons import Interval, of_point
from vae_sweep.records.results import Results
from vae_sweep.reporting import panels
from vae_sweep.reporting.style import (
    LIGHT,
    PALETTE,
    drawn,
    handles,
    name_axes,
    of_points,
    points_of,
)
from vae_sweep.theory.floor import head_floor
from vae_sweep.vae.heads import named
from vae_sweep.vae.normalize import fit, levels

COLORS: dict[str, str] = dict(zip(NORMS, PALETTE, strict=False))
MARKERS: dict[str, str] = dict(zip(NORMS, "os^", strict=True))
UNREACHABLE = PALETTE[3]
PLAIN = FuncFormatter(lambda value, _: f"{value:g}")

Points = Mapping[str, Mapping[str, Any]]  # label -> where (comparisons.of_point)


def _figure(width: float, height: float, rows: int = 1, columns: int = 1, **more: Any):
    """A figure of inches, and its axes [rows, columns]."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False, **more)
    for each in axes.flat:
        name_axes(each, "", "", "")
    return figure, axes


def _log_x(axes: Axes) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(10, numticks=12))
    axes.xaxis.set_major_formatter(PLAIN)
    axes.xaxis.set_minor_formatter(NullFormatter())


@drawn()
def ranges(counts: torch.Tensor, heads: Sequence[Head] = ("tanh", "sigmoid")) -> Figure:
    """Histograms of the targets under each normalization, with what a head cannot reach.

    `counts` [C, 256] as of normalize.histograms; all channels together.
    """
    figure, grid = _figure(10, 6.4, len(NORMS), len(heads))
    for row, norm in zip(grid, NORMS, strict=True):
        for axes, head in zip(row, heads, strict=True):
            _draw_range(axes, counts, norm, head)
    for axes in grid[:, 0]:
        axes.set_ylabel("density of targets", size=9)
    for axes in grid[-1]:
        axes.set_xlabel("target value", size=9)
    return figure


def _draw_range(axes: Axes, counts: torch.Tensor, norm: Norm, head: Head) -> None:
    target = fit(norm, counts)
    t = target.forward(levels(len(target.scale))).squeeze(1).numpy()
    low, high = (float(end.mean()) for end in named(head).range(target))
    edges = np.linspace(t.min(), t.max(), 65)
    near = 1e-6 * (edges[-1] - edges[0])  # a bin of no width would swallow its mass
    inside = [end for end in (low, high) if np.abs(edges - end).min() > near]
    inside = [end for end in inside if edges[0] < end < edges[-1]]
    edges = np.sort(np.concatenate([edges, inside]))
    mass, _ = np.histogram(t.ravel(), edges, weights=counts.numpy().ravel())
    widths = np.diff(edges)
    density = mass / mass.sum() / widths
    middle = (edges[1:] + edges[:-1]) / 2
    reached = (low <= middle) & (middle <= high)
    for mask, color in ((reached, "0.6"), (~reached, UNREACHABLE)):
        axes.bar(edges[:-1][mask], density[mask], widths[mask], align="edge", color=color)
    axes.axvspan(low, high, color=PALETTE[0], alpha=0.12, zorder=0)
    floor = head_floor(named(head), target, counts)
    said = "reaches every target"
    if floor.mse_pixel > 0:
        said = f"{floor.outside:.1%} out of reach: at most {floor.psnr_cap:.1f} dB"
    axes.set_title(f"{norm}, {head}: {said}", loc="left", size=9)
    margin = 0.04 * (max(t.max(), high) - min(t.min(), low))
    axes.set_xlim(min(t.min(), low) - margin, max(t.max(), high) + margin)
    axes.set_yticks([])


@drawn()
def curves(
    published: Published,
    panels: Mapping[str, Points],
    column: str = "val/psnr",
    y: str = "val PSNR (dB)",
) -> Figure:
    """Learning curves, a panel per title, with the same labels in each: means over
    seeds, bands from the least to the largest seed; step 0 is left out.

    Where a point's head has a floor on the validation images, of which sweeps know that
    state it, and `column` is val/psnr or val/mse_pixel, a dashed line shows it.
    """
    figure, grid = _figure(3.2 * len(panels) + 3, 3.8, 1, len(panels), sharey=True)
    rows = published.results.curves
    for axes, (title, points) in zip(grid[0], panels.items(), strict=True):
        name_axes(axes, title, "step", y if axes is grid[0, 0] else "")
        for i, (label, where) in enumerate(points.items()):
            runs = of_point(published.results.finals, where)
            of_runs = rows[rows["run_id"].isin(runs["run_id"]) & (rows["step"] > 0)]
            by_step = of_runs.groupby("step")[column]
            mean, low, high = by_step.mean(), by_step.min(), by_step.max()
            color = PALETTE[i % len(PALETTE)]
            line = "-" if i < len(PALETTE) else ":"
            axes.plot(mean.index, mean, line, color=color, label=label, marker=".")
            axes.fill_between(mean.index, low, high, color=color, alpha=0.2, linewidth=0)
            _draw_floor(axes, runs, column, color)
    grid[0, -1].legend(
        fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.01, 0.5)
    )
    return figure


def _draw_floor(axes: Axes, runs: pd.DataFrame, column: str, color: str) -> None:
    if column not in ("val/psnr", "val/mse_pixel") or "psnr_cap_val" not in runs:
        return
    cap = float(runs["psnr_cap_val"].iloc[0])
    floor = cap if column == "val/psnr" else 10 ** (-cap / 10)
    if np.isfinite(floor) and floor > 0:
        axes.axhline(floor, color=color, linestyle=(0, (5, 3)), linewidth=1.1)


@drawn()
def effects(rows: Mapping[str, Interval], x: str, log: bool = False) -> Figure:
    """Estimates with their 95% intervals, one line each, and a vertical line at no effect:
    0, or 1 of ratios, which are shown on a logarithmic axis."""
    figure, grid = _figure(8, 0.9 + 0.32 * len(rows))
    axes = grid[0, 0]
    if log:
        _log_x(axes)
        axes.xaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5), numticks=12))
    axes.axvline(1 if log else 0, color=LIGHT.quiet, linewidth=1)
    for i, row in enumerate(rows.values()):
        axes.plot([row.low, row.high], [i, i], color=PALETTE[0], linewidth=2.5, alpha=0.6)
        axes.plot([row.estimate], [i], "o", color=PALETTE[0], markersize=5)
    labels = [
        f"{label} ({row.lost} diverged)" if row.lost else label
        for label, row in rows.items()
    ]
    axes.set_yticks(range(len(rows)), labels, size=8)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    name_axes(axes, "", x, "")
    return figure


NAMED = 24  # points that a legend names


@drawn()
def sweep(results: Results) -> Figure:
    """Curves of any sweep, and its rate and distortion beside the linear optimum's. A color
    is a point, which runs that differ in seed share."""
    figure, grid = _figure(12, 7.5, 2, 2)
    looks = of_points(results.finals)
    panels.draw(list(grid.flat), results, looks)
    named = handles(points_of(looks).values())[:NAMED]
    figure.legend(handles=named, loc="outside lower center", ncols=3, fontsize=7)
    return figure


def _against(
    axes: Axes, runs: pd.DataFrame, x: str, y: str, predicted: str | None = None
) -> None:
    """Means over seeds of `y` over `x`, a line per normalization and reduction."""
    _log_x(axes)
    for key, rows in runs.groupby(["norm", "reduction"], sort=False):
        norm, reduction = map(str, key)
        means = rows.groupby(x)[[y, *([predicted] if predicted else [])]].mean()
        color, style = COLORS[norm], "-" if reduction == "sum" else "--"
        axes.plot(
            means.index,
            means[y],
            color=color,
            linestyle=style,
            marker=MARKERS[norm],
            markersize=5,
            label=f"{norm}, {reduction}",
        )
        if predicted and reduction == "sum":
            axes.plot(means.index, means[predicted], ":", color=color, linewidth=1.4)


BETA, SIGMA = "β as typed", "implied noise σ (8-bit levels)"


@drawn()
def collapse(published: Published) -> Figure:
    """The KL over beta, and over the implied noise; rate and distortion at equal beta,
    and at equal noise. Dotted: the linear optimum."""
    finals = published.results.finals
    runs = at_typed(linear_runs(finals))
    figure, grid = _figure(10.5, 7.2, 2, 2)
    kl = "test KL (nats per image)"
    for axes, x, label, title in (
        (grid[0, 0], "beta_value", BETA, "KL over β as typed"),
        (grid[0, 1], "implied_sigma", SIGMA, "KL over the noise that β implies"),
    ):
        _against(axes, runs, x, "test/kl", "predicted_kl")
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(PLAIN)
        axes.set_ylim(0.1, 2 * runs["test/kl"].max())
        axes.set_xlim(0.8 * runs[x].min(), 2 * runs[runs["test/kl"] > 0.1][x].max())
        name_axes(axes, title, label, kl)
    grid[0, 0].plot([], [], ":", color=LIGHT.quiet, label="linear optimum (theory)")
    grid[0, 0].legend(fontsize=7.5, frameon=False)
    equal = runs[runs["reduction"] == "sum"]
    _plane(grid[1, 0], published, equal, "beta_value", "β", "Points of equal β, joined")
    matched = at_noise(linear_runs(finals, reduction="sum"))
    title = "Points of equal noise, joined"
    _plane(grid[1, 1], published, matched, "implied_sigma", "σ", title)
    views = [axes.get_xlim() for axes in grid[1]], [axes.get_ylim() for axes in grid[1]]
    for axes in grid[1]:
        axes.set_xlim(0, max(high for _, high in views[0]))
        axes.set_ylim(min(low for low, _ in views[1]), max(high for _, high in views[1]))
    return figure


def _plane(
    axes: Axes, published: Published, runs: pd.DataFrame, by: str, name: str, title: str
) -> None:
    """PSNR over KL, means over seeds; what is equal in `by` is joined by a gray line."""
    name_axes(axes, title, "test KL (nats per image)", "test PSNR (dB)")
    runs = runs.assign(by=runs[by].round(4))
    means = runs.groupby(["by", "norm"], sort=False)[["test/kl", "test/psnr"]].mean()
    for value, rows in means.groupby(level=0):
        ordered = rows.sort_values("test/kl")
        axes.plot(*ordered.to_numpy().T, color=LIGHT.quiet, linewidth=1.2, zorder=1)
        x, y = ordered.iloc[-1]
        text = f"{name} {value:.3g}"
        place: Any = {"xytext": (-3, 5), "textcoords": "offset points", "ha": "right"}
        axes.annotate(text, (x, y), size=7, **place)
    for norm in NORMS:
        rows = means[means.index.get_level_values("norm") == norm]
        style: Any = {"linestyle": "", "markersize": 6, "markeredgecolor": "white"}
        style |= {"color": COLORS[norm], "marker": MARKERS[norm], "label": norm}
        axes.plot(*rows.to_numpy().T, **style)
    label: str | None = "linear optimum"
    for _, curve in published.results.theory.groupby("run_id", sort=False):
        inside = curve[curve["kl"] <= 1.1 * means["test/kl"].max()]
        axes.plot(inside["kl"], inside["psnr"], ":", color=LIGHT.quiet, label=label)
        label = None
    axes.set_ylim(means["test/psnr"].min() - 0.7, means["test/psnr"].max() + 1.5)
    axes.legend(fontsize=7.5, frameon=False, loc="lower right")


@drawn()
def activity(published: Published) -> Figure:
    """KL and active units over the implied noise, at constant and at matched beta."""
    runs = linear_runs(published.results.finals)
    runs = runs[runs["implied_sigma"] > 0]
    figure, grid = _figure(10.5, 3.8, 1, 2)
    for axes, column, predicted, label in (
        (grid[0, 0], "test/kl", "predicted_kl", "test KL (nats per image)"),
        (grid[0, 1], "test/active_units", "predicted_active_units", "active units"),
    ):
        _log_x(axes)
        for norm in NORMS:
            rows = runs[runs["norm"] == norm]
            style = {"color": COLORS[norm], "marker": MARKERS[norm], "alpha": 0.5}
            axes.plot(
                rows["implied_sigma"], rows[column], linestyle="", ms=4, label=norm, **style
            )
        theory = runs[runs["norm"] == "unit"].sort_values("implied_sigma")
        axes.plot(
            theory["implied_sigma"],
            theory[predicted],
            ":",
            color=LIGHT.quiet,
            label="linear optimum",
        )
        name_axes(axes, "", SIGMA, label)
    grid[0, 0].legend(fontsize=8, frameon=False)
    return figure


@drawn()
def shares(published: Published) -> Figure:
    """The reconstruction term's share of the loss, and of the two gradients' norms at
    the encoder, over beta and over the implied noise."""
    runs = at_typed(linear_runs(published.results.finals, reduction="sum"))
    recon, kl = runs["test/grad_norm_recon"], runs["test/grad_norm_kl"]
    runs = runs.assign(gradient=recon / (recon + kl))
    figure, grid = _figure(10.5, 6.4, 2, 2, sharey="row")
    for row, column, what in (
        (grid[0], "test/recon_share", "share of the loss"),
        (grid[1], "gradient", "share of gradient norms"),
    ):
        for axes, x, label in (
            (row[0], "beta_value", BETA),
            (row[1], "implied_sigma", SIGMA),
        ):
            _against(axes, runs, x, column)
            name_axes(axes, "", label, "")
        row[0].set_ylabel(f"reconstruction: {what}", size=9)
    grid[0, 0].set_title("Over β", loc="left", size=10)
    grid[0, 1].set_title("Over the implied noise", loc="left", size=10)
    grid[0, 0].legend(fontsize=8, frameon=False)
    return figure


@drawn()
def reconstructions(published: Published, points: Points) -> Figure:
    """The originals, then each point's reconstructions of them, by the lowest seed."""
    rows = {"original": (published.originals, "")}
    for label, where in points.items():
        run = of_point(published.results.finals, where).iloc[0]
        if run["run_id"] in published.pictures:
            number = f"{run['val/psnr']:.1f} dB, {run['val/kl']:.0f} nats"
            rows[label] = published.pictures[run["run_id"]], number
    height, width = published.originals.shape[:2]
    inches = 6.4 * height / width + 0.25
    figure, grid = _figure(6.5, inches * len(rows), len(rows))
    for axes, (label, (picture, number)) in zip(grid[:, 0], rows.items(), strict=True):
        axes.imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axes.set(xticks=[], yticks=[])
        axes.grid(False)
        axes.spines[:].set_visible(False)
        axes.set_title(label, loc="left", size=8, pad=2)
        axes.set_title(number, loc="right", size=8, pad=2)
    return figure
