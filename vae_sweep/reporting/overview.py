"""The picture of a sweep: learning curves, rate against distortion, reconstructions."""

import hashlib
import io
import math
import textwrap
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import offset_copy
from PIL import Image

from vae_sweep.files import write_atomically
from vae_sweep.records.reader import SAMPLES, read_picture, read_reconstructions
from vae_sweep.records.results import Results, Run, data_sets, mixed, progress
from vae_sweep.reporting import panels, style
from vae_sweep.reporting.style import Look

# inches
WIDTH = 14.0
LEFT, RIGHT = 1.0, 0.85  # of a panel's frame
PANEL, PANEL_GAP = 2.9, 1.0
TOP = 1.25
STRIP_GAP, STRIP_HEAD = 0.14, 0.35  # between strips; above them
HIGH, ROOM = (0.72, 1.2), 8.0  # the highest strip, of many and of few; of all together
NAMES = 4.1  # where strips begin
SIZE = 12  # points of text: readable where the picture is shown at half its size
SHOWS = "vae-sweep results"  # key in a PNG
SHOWN = 12  # points with a color and a strip, the best; the report has the rest


class Strip(NamedTuple):
    """A point as the picture shows it: by its run of median PSNR."""

    look: Look
    run: Run
    data: str  # its data set
    seeds: int
    text: str  # its numbers, means over seeds
    originals: np.ndarray | None  # uint8 [H, nW] or [H, nW, C]
    reconstructions: np.ndarray | None
    samples: np.ndarray | None


def overview(results: Results, folder: Path) -> Figure:
    """Curves of val PSNR, calibrated bits per dimension and KL, rate against distortion,
    and reconstructions.

    Curves are means over the seeds of a point, in a band from the lowest to the highest. A
    color is a point, a line style a head, a marker a normalization. The best points, at
    most SHOWN, have a color and a strip; the others are gray. Diverged runs and the first
    tenth of the training may leave the view.

    Args:
        folder: runs/<sweep>, which names the picture.
    """
    finals = results.finals
    named = data_sets(results.runs)
    of_run = dict(zip(finals["run_id"], named, strict=True))
    best = _best_first(finals.assign(data=named))
    chosen = finals[finals["run_id"].isin([r for ids in best[:SHOWN] for r in ids])]
    looks = style.of_points(chosen)
    others = {
        run_id: look._replace(hue=style.COLORS, dashes="")
        for run_id, look in style.of_points(finals).items()
        if run_id not in looks
    }
    strips = [_strip(results, ids, looks[ids[0]], of_run) for ids in best[:SHOWN]]
    theme = style.LIGHT._replace(colors=(*style.LIGHT.colors, "#d4d4d4"))
    sets = list(dict.fromkeys(_key(strip.originals) for strip in strips))
    high = min(max(ROOM / len(strips), HIGH[0]), HIGH[1])
    heights = [_height(strip, high) for strip in strips]
    below = sum(heights) + len(strips) * STRIP_GAP
    below += len(sets) * (STRIP_HEAD + max(heights, default=0) + STRIP_GAP)
    height = TOP + 2 * (PANEL + PANEL_GAP) + below + 0.3

    with style.drawn(theme):
        figure = Figure(figsize=(WIDTH, height))
        FigureCanvasAgg(figure)
        _head(figure, results, folder, len(best))
        frames = _frames(figure)
        panels.draw(frames, results, {**others, **looks}, theme, SIZE, over_seeds=True)
        y = TOP + 2 * (PANEL + PANEL_GAP) - 0.1
        for key in sets:
            of_set = [strip for strip in strips if _key(strip.originals) == key]
            title = f" ({of_set[0].data})" if len(sets) > 1 else ""
            y = _draw_set(figure, of_set, y, high, title)
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


def _best_first(finals: pd.DataFrame) -> list[list[str]]:
    """The run_ids of each point, the best point first: by mean calibrated bits per
    dimension, else PSNR, of runs that did not diverge; data set by data set, of a column
    `data`."""
    looks = style.of_points(finals)
    finals = finals.assign(point=[looks[run_id].label for run_id in finals["run_id"]])
    sound = finals[finals["status"] != "diverged"].groupby("point")
    bits = sound["val/bits_per_dim_calibrated"].mean()
    psnr = sound["val/psnr"].mean()
    order = {name: i for i, name in enumerate(dict.fromkeys(finals["data"]))}

    def rank(group: tuple[str, pd.DataFrame]) -> tuple[float, float, float]:
        name, runs = group
        b, p = (float(means.get(name, math.nan)) for means in (bits, psnr))
        worst = math.inf
        return (
            order[runs["data"].iloc[0]],
            worst if math.isnan(b) else b,
            worst if math.isnan(p) else -p,
        )

    groups = sorted(((str(n), g) for n, g in finals.groupby("point", sort=False)), key=rank)
    return [group["run_id"].tolist() for _, group in groups]


def _strip(
    results: Results, ids: Sequence[str], look: Look, sets: Mapping[str, str]
) -> Strip:
    """Of a point's runs `ids`: the one of median PSNR that has a picture, if any has.
    `sets` are the data sets of all runs."""
    finals = results.finals.set_index("run_id", drop=False).loc[list(ids)]
    runs = {run.run_id: run for run in results.runs}
    sound = finals[finals["status"] != "diverged"]
    ranked = (sound if len(sound) else finals).sort_values("val/psnr")["run_id"].tolist()
    middle = (len(ranked) - 1) / 2
    nearest = sorted(range(len(ranked)), key=lambda i: abs(i - middle))
    run, halves = runs[ranked[nearest[0]]], None
    for other in (runs[ranked[i]] for i in nearest):
        halves = read_reconstructions(other.folder, other.summary)
        if halves is not None:
            run = other
            break
    samples = read_picture(run.folder, run.summary, SAMPLES)
    originals, reconstructions = map(np.asarray, halves) if halves else (None, None)
    return Strip(
        look,
        run,
        sets[run.run_id],
        len(ids),
        _numbers(finals, sound),
        originals,
        reconstructions,
        None if samples is None else np.asarray(samples),
    )


def _numbers(finals: pd.DataFrame, sound: pd.DataFrame) -> str:
    """What a strip says of its point."""
    if not len(sound):
        return progress(finals.iloc[0].to_dict())
    psnr = sound["val/psnr"].mean()
    bits = sound["val/bits_per_dim_calibrated"].mean()
    texts = [f"{psnr:.2f} dB"] if math.isfinite(psnr) else []
    texts += [f"{bits:.3f} bits/dim"] if math.isfinite(bits) else []
    open_runs = sound[sound["status"] != "finished"]
    if len(open_runs):
        texts.append(progress(open_runs.iloc[0].to_dict()).partition(":")[0])
    lost = len(finals) - len(sound)
    texts += [f"{lost} of {len(finals)} diverged"] if lost else []
    return ", ".join(texts)


def _key(originals: np.ndarray | None) -> bytes | None:
    """What tells images from others; None of none, which stand with no set."""
    return None if originals is None else hashlib.sha256(originals.tobytes()).digest()


def _head(figure: Figure, results: Results, folder: Path, points: int) -> None:
    height = figure.get_size_inches()[1]
    runs = len(results.finals)
    text = f"{folder.resolve().name}: {runs} run{'s' if runs > 1 else ''}"
    text += f", {points} point{'s' if points > 1 else ''}" if points < runs else ""
    x = LEFT / WIDTH
    figure.text(x, 1 - 0.3 / height, text, size=SIZE + 3, va="center")
    notes = ["best point first, by calibrated bits per dimension"] if points > 1 else []
    if mixed(results):
        notes.append("numbers of different data sets are not comparable")
    if points > SHOWN:
        notes.append(f"the best {SHOWN} in color, all of them in the report")
    if points < runs:
        notes.append("means over seeds, bands from the lowest to the highest")
        notes.append("pictures of the seed of median PSNR")
    said = textwrap.fill("; ".join(notes), LINE)
    color = style.LIGHT.quiet
    figure.text(x, 1 - 0.52 / height, said, size=SIZE - 1, va="top", color=color)


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


def _room(strip: Strip) -> float:
    """Inches that a row of pictures of a point may take: beside samples so much of it that
    both are of one height."""
    whole = WIDTH - NAMES - 0.3
    if strip.samples is None:
        return whole
    pictures = (strip.reconstructions, strip.samples)
    own, other = (1 if p is None else p.shape[1] / p.shape[0] for p in pictures)
    return (whole - 0.2) * own / (own + other)


def _height(strip: Strip, most: float) -> float:
    """Inches of a point's row."""
    if strip.reconstructions is None:
        return 0.5
    high, wide = strip.reconstructions.shape[:2]
    return max(0.5, min(most, _room(strip) * high / wide))


def _draw_set(
    figure: Figure, strips: list[Strip], y: float, most: float, title: str
) -> float:
    """The strips of points that reconstructed the same images, which stand above them;
    returns where the next may begin, inches from the figure's upper edge."""
    first = strips[0]
    h = figure.get_size_inches()[1]
    height = _height(first, most)
    y += STRIP_HEAD
    if first.originals is not None:
        if any(strip.samples is not None for strip in strips):
            x = (NAMES + _room(first) + 0.2) / WIDTH
            text = "samples, decoded from the prior"
            figure.text(x, 1 - (y + height) / h, text, size=SIZE - 1, va="bottom")
        text = f"originals{title}, and below them reconstructions"
        figure.text(NAMES / WIDTH, 1 - (y - 0.06) / h, text, size=SIZE - 1, va="bottom")
        _draw(figure, first.originals, NAMES, y, _room(first), height)
        y += height + STRIP_GAP
    for strip in strips:
        height = _height(strip, most)
        _draw_name(figure, strip, y, height)
        if strip.reconstructions is None:
            text = "no reconstructions to show"
            middle = 1 - (y + height / 2) / h
            figure.text(NAMES / WIDTH, middle, text, size=SIZE - 1, va="center")
        else:
            _draw(figure, strip.reconstructions, NAMES, y, _room(strip), height)
        if strip.samples is not None:
            x = NAMES + _room(strip) + 0.2
            _draw(figure, strip.samples, x, y, WIDTH - 0.3 - x, height)
        y += height + STRIP_GAP
    return y


def _draw(
    figure: Figure, picture: np.ndarray, x: float, y: float, width: float, height: float
) -> None:
    axes = _axes(figure, x, y, width, height)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    axes.set_anchor("NW")
    axes.imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="nearest")


def _draw_name(figure: Figure, strip: Strip, y: float, height: float) -> None:
    """A point's line and marker, its label, and its numbers below."""
    axes = _axes(figure, 0.3, y, NAMES - 0.5, height)
    axes.set_axis_off()
    axes.set(xlim=(0, NAMES - 0.5), ylim=(-0.5, 0.5))
    [handle] = style.handles([strip.look])
    handle.set_data([0, 0.45], [0, 0])
    handle.set(markevery=[], transform=axes.transData)
    axes.add_line(handle)
    axes.add_line(Line2D([0.22], [0], color=strip.look.color, marker=strip.look.marker))
    label = _broken(strip.look.label)
    seed = f" (seed {strip.run.config.seed})" if strip.seeds > 1 else ""
    above = offset_copy(axes.transData, figure, y=1, units="points")
    below = offset_copy(axes.transData, figure, y=-3, units="points")
    size = SIZE - 1 - min(3, label.count("\n"))
    axes.text(0.6, 0, label, size=size, va="bottom", transform=above)
    color = style.LIGHT.quiet
    more = {"size": SIZE - 2, "color": color, "transform": below}
    axes.text(0.6, 0, strip.text + seed, va="top", **more)


LETTERS, LINE = 38, 125  # of a label in a line; of the notes at the top


def _broken(label: str) -> str:
    """A long label in up to four lines."""
    lines = textwrap.wrap(
        label, LETTERS, break_on_hyphens=False, max_lines=4, placeholder=" ..."
    )
    return "\n".join(lines)
