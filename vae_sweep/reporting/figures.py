"""Figures of any sweep: DataFrames of Results in, matplotlib's Figure out.

In a notebook `figures.curves(found.curves.query("head == 'tanh'"))` shows itself; `savefig`
writes it. Each takes the theme `light`, which is also for print, or `dark`.
"""

from collections.abc import Iterator

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from vae_sweep.records.results import Results
from vae_sweep.reporting import panels, style
from vae_sweep.reporting.style import LIGHT, THEMES, Look, Theme, ThemeName

SIZE = (4.8, 3.5)  # inches: 8 points stay readable where a phone shows 360 pixels
PAGE = 10  # points of text in a report, which shows them smaller
NAMED = 24  # points that a legend names


def curves(
    rows: pd.DataFrame,
    column: str = "val/psnr",
    over_seeds: bool = True,
    theme: ThemeName = "light",
) -> Figure:
    """Learning curves: `column` over the steps.

    Args:
        rows: `Results.curves` or `Results.training`, or some of their rows.
        column: One of theirs.
        over_seeds: Means over the seeds of a point, in a band from the least to the
            largest; otherwise a line per run.
        theme: `light` or `dark`.

    Returns:
        A figure with a legend of the points below.
    """
    looks = style.of_points(rows)
    with style.drawn(THEMES[theme]):
        figure, axes = _figure()
        panels.draw_curves(axes, rows, column, looks, THEMES[theme], over_seeds=over_seeds)
        _legend(figure, looks, THEMES[theme])
    return figure


def rate_distortion(
    finals: pd.DataFrame, theory: pd.DataFrame | None = None, theme: ThemeName = "light"
) -> Figure:
    """PSNR over KL at each run's last row, with the caps of heads.

    Args:
        finals: `Results.finals`, or some of its rows.
        theory: `Results.theory`, whose curves of linear optima are drawn as well.
        theme: `light` or `dark`.
    """
    looks = style.of_points(finals)
    known = pd.DataFrame({"run_id": [], "kl": [], "psnr": []}) if theory is None else theory
    with style.drawn(THEMES[theme]):
        figure, axes = _figure()
        panels.draw_plane(axes, finals, known, looks, THEMES[theme])
        _legend(figure, looks, THEMES[theme])
    return figure


def predicted(
    finals: pd.DataFrame, name: str = "psnr", theme: ThemeName = "light"
) -> Figure:
    """Observed against predicted values: a marker per run.

    Args:
        finals: `Results.finals`, or some of its rows.
        name: `psnr` (dB) or `kl` (nats per image).
        theme: `light` or `dark`.
    """
    looks = style.of_points(finals)
    with style.drawn(THEMES[theme]):
        figure, axes = _figure()
        panels.draw_compared(axes, finals, name, looks, THEMES[theme])
        _legend(figure, looks, THEMES[theme])
    return figure


def of_page(results: Results, looks: dict[str, Look]) -> Iterator[tuple[Figure, Axes]]:
    """The figures of a report, made one by one: curves, rate and distortion, observed
    against predicted, and the curves of training batches where there are any."""
    with style.drawn(LIGHT):
        for column in panels.CURVES:
            figure, axes = _plain()
            panels.draw_curves(axes, results.curves, column, looks, size=PAGE)
            yield figure, axes
        figure, axes = _plain(right=0.87)  # beside which caps are named
        panels.draw_plane(axes, results.finals, results.theory, looks, size=PAGE)
        if legend := axes.get_legend():
            legend.remove()  # the page says it
        yield figure, axes
        for name in panels.COMPARED:
            figure, axes = _plain()
            panels.draw_compared(axes, results.finals, name, looks, size=PAGE)
            yield figure, axes
        for column in panels.TRAINING if len(results.training) else ():
            figure, axes = _plain()
            panels.draw_curves(axes, results.training, column, looks, size=PAGE)
            yield figure, axes


def _plain(right: float = 0.97) -> tuple[Figure, Axes]:
    """Axes in margins that suit every page: a layout that measures takes half the time."""
    figure = Figure(figsize=SIZE, dpi=72)
    FigureCanvasAgg(figure)
    return figure, figure.add_axes((0.17, 0.16, right - 0.17, 0.75))


def _figure() -> tuple[Figure, Axes]:
    figure = Figure(figsize=SIZE, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def _legend(figure: Figure, looks: dict[str, Look], theme: Theme) -> None:
    """Below the axes, which keep their height."""
    points = list(style.points_of(looks).values())
    handles = style.handles(points[:NAMED], theme)
    if len(points) > NAMED:
        handles.append(Line2D([], [], linestyle="", label=f"{len(points) - NAMED} more"))
    columns = 1 if max(len(look.label) for look in points) > 30 else 2
    width, height = figure.get_size_inches()
    lines = -(-len(handles) // columns)
    figure.set_size_inches(1.3 * width, height + 0.19 * lines)
    figure.legend(
        handles=handles,
        loc="outside lower left",
        ncols=columns,
        fontsize=8,
        frameon=False,
        handlelength=3.5,
    )
