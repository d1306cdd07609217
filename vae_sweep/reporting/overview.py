"""The picture of a sweep: learning curves, rate against distortion, reconstructions."""

import hashlib
import io
import math
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import offset_copy
from PIL import Image

from vae_sweep.files import write_atomically
from vae_sweep.records.reader import read_picture
from vae_sweep.records.results import Results
from vae_sweep.records.summary import Summary
from vae_sweep.reporting import panels, style
from vae_sweep.reporting.style import Look

# inches
WIDTH = 14.0
LEFT, RIGHT = 0.9, 0.6  # of a panel's frame
PANEL, PANEL_GAP = 2.7, 0.85
TOP = 0.75
LEGEND_LINE = 0.19
STRIP, STRIP_TITLE = 1.2, 0.3  # the highest strip; the line above it
SHOWS = "vae-sweep results"  # key in a PNG
SHOWN = 24  # points with a legend entry and a strip; a larger grid shows its first


def overview(results: Results, folder: Path) -> Figure:
    """Curves of val MSE, KL and ELBO, rate against distortion, and reconstructions.

    `folder` is runs/<sweep>, with each point's reconstructions.png. A color is a point,
    a line style a head, a marker a normalization. Diverged runs end at their last finite
    row and, with the first tenth of the training, may leave the view.
    """
    looks = style.of_runs(results.finals)
    shown = dict(list(looks.items())[:SHOWN])
    columns = _columns(shown)
    lines = math.ceil(len(shown) / columns)
    legend = lines * LEGEND_LINE + 0.25
    cell = (WIDTH - LEFT - RIGHT) / columns
    pictures = {
        run.run_id: _picture(folder / run.run_id, run.summary)
        for run in results.runs
        if run.run_id in shown
    }
    strip = _strip_height(pictures.values(), cell - 0.2)
    height = TOP + 2 * (PANEL + PANEL_GAP) + legend + lines * (strip + STRIP_TITLE) + 0.15

    figure = Figure(figsize=(WIDTH, height))
    FigureCanvasAgg(figure)
    figure.text(
        LEFT / WIDTH, 1 - 0.27 / height, _heading(results, folder), size=12, va="center"
    )
    panels.draw(_frames(figure), results, looks)
    top = TOP + 2 * (PANEL + PANEL_GAP) - 0.1
    _draw_legend(figure, shown, columns, top)
    for i, (run_id, look) in enumerate(shown.items()):
        row, column = divmod(i, columns)
        y = top + legend + row * (strip + STRIP_TITLE) + STRIP_TITLE
        axes = _axes(figure, LEFT + column * cell, y, cell - 0.2, strip)
        psnr = results.finals["val/psnr"].iloc[i]
        _draw_strip(axes, pictures[run_id], look, psnr, first=column == 0)
    return figure


def save_overview(results: Results, folder: Path) -> Path:
    """Draws `overview` into folder/overview.png, replaced as a whole; returns its path.

    A picture that states what it shows is left as it is where that is still so.
    """
    path = folder / "overview.png"
    shown = hashlib.sha256(results.finals.to_csv().encode()).hexdigest()
    if _stated(path) != shown:
        content = io.BytesIO()
        figure = overview(results, folder)
        figure.savefig(content, format="png", dpi=130, metadata={SHOWS: shown})
        write_atomically(path, content.getvalue())
    return path


def _stated(path: Path) -> str | None:
    """The digest of the results that a whole picture shows; None where there is none."""
    with suppress(Exception):  # PIL's decoders raise what they like
        with Image.open(path) as image:
            image.load()
            return image.info.get(SHOWS)
    return None


def _heading(results: Results, folder: Path) -> str:
    runs = len(results.finals)
    text = f"{folder.resolve().name}: {runs} run{'s' if runs > 1 else ''}"
    if runs > SHOWN:
        text += f", the first {SHOWN} of them named below"
    return text


def _columns(looks: dict[str, Look]) -> int:
    """Legend entries and strips per line: a few, or as many as labels leave room for."""
    longest = max(len(look.label) for look in looks.values())
    room = int((WIDTH - LEFT - RIGHT) / (0.071 * (longest + 13)))  # at 8 points
    wanted = 2 if len(looks) <= 4 else 3 if len(looks) <= 12 else 4
    return max(1, min(room, wanted, len(looks)))


def _axes(figure: Figure, x: float, y: float, width: float, height: float) -> Axes:
    """Axes whose upper left corner is `x`, `y` inches from the figure's."""
    w, h = figure.get_size_inches()
    return figure.add_axes((x / w, 1 - (y + height) / h, width / w, height / h))


def _frames(figure: Figure) -> list[Axes]:
    """Of the panels, two by two."""
    width = WIDTH / 2 - LEFT - RIGHT
    corners = [
        (LEFT + column * WIDTH / 2, TOP + row * (PANEL + PANEL_GAP))
        for row in range(2)
        for column in range(2)
    ]
    return [_axes(figure, x, y, width, PANEL) for x, y in corners]


def _draw_legend(figure: Figure, looks: dict[str, Look], columns: int, top: float) -> None:
    """One entry per run, line by line as the strips, `top` inches below the upper edge."""
    handles = [
        Line2D([], [], color=s.color, linestyle=s.line, marker=s.marker, label=s.label)
        for s in looks.values()
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


def _picture(folder: Path, summary: Summary | None) -> np.ndarray | None:
    """reconstructions.png as uint8 [2H, nW] or [2H, nW, C]; None where there is none."""
    image = read_picture(folder, summary)
    return None if image is None else np.asarray(image)


def _strip_height(pictures: Iterable[np.ndarray | None], width: float) -> float:
    """Inches that the highest picture takes at `width` inches."""
    ratios = [p.shape[0] / p.shape[1] for p in pictures if p is not None]
    return min(STRIP, width * max(ratios, default=0.1))


def _draw_strip(
    axes: Axes, picture: np.ndarray | None, look: Look, psnr: float, first: bool
) -> None:
    """Originals above reconstructions, under the point's label and val PSNR."""
    number = f"   {psnr:.2f} dB" if math.isfinite(psnr) else ""
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    axes.set_anchor("NW")
    if picture is None:
        axes.text(0, 0.5, "no reconstructions to show", size=8, transform=axes.transAxes)
    else:
        axes.imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    if picture is not None and first:
        height = len(picture)
        axes.set_yticks([height / 4, height * 3 / 4], ["original", "recon."], size=8)
        axes.tick_params(length=0)
    figure = axes.get_figure(root=True)
    above = offset_copy(axes.transAxes, figure, x=6, y=8, units="points")
    marker = Line2D([0], [1], color=look.color, marker=look.marker, transform=above)
    axes.add_artist(marker).set_clip_on(False)
    beside = offset_copy(above, figure, x=8, units="points")
    text = look.label + number
    axes.text(0, 1, text, size=8, va="center_baseline", transform=beside)
