"""The page's figures show the runs' numbers: what is drawn is read back."""

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from helpers import ROWS, summary, write_run
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

import vae_sweep
from vae_sweep.records import results
from vae_sweep.reporting import figures, panels, style


@pytest.fixture
def loaded(tmp_path):
    for seed, psnr in ((0, 6.5), (1, 7.5)):
        predicted = summary()["predicted"] | {"psnr": psnr}
        write_run(tmp_path, summary(predicted=predicted), seed=seed)
    write_run(tmp_path, summary(predicted={}), head="linear")
    return results.load(tmp_path)


@pytest.fixture
def frames(loaded):
    return [axes for _, axes in figures.of_page(loaded, style.of_points(loaded.finals))]


def markers_of(axes) -> dict[str, list[float]]:
    """run_id -> the point of its marker."""
    return {
        line.get_gid(): line.get_xydata()[-1].tolist()
        for line in axes.lines
        if line.get_gid()
    }


def test_observed_against_predicted(loaded, frames):
    finals = loaded.finals.set_index("run_id")
    for axes, name in zip(frames[4:], ("psnr", "kl"), strict=True):
        drawn = markers_of(axes)
        assert len(drawn) == 2  # of the runs that have a prediction
        for run_id, (x, y) in drawn.items():
            assert x == finals.loc[run_id, f"predicted_{name}"]
            assert y == finals.loc[run_id, f"val/{name}"]
        equal = next(line for line in axes.lines if line.get_gid() is None)
        np.testing.assert_array_equal(*equal.get_xydata().T)


def test_the_panels_show_every_row(loaded, frames):
    steps = [float(row.split(",")[0]) for row in ROWS]
    for axes, column in zip(frames, panels.CURVES, strict=False):
        for line in axes.lines:
            run = loaded.curves[loaded.curves["run_id"] == line.get_gid()]
            assert line.get_xdata().tolist() == steps
            assert line.get_ydata().tolist() == run[column].tolist()
    plane = markers_of(frames[3])
    for run_id, point in plane.items():
        last = loaded.finals.set_index("run_id").loc[run_id]
        assert point == last[["val/kl", "val/psnr"]].tolist()


def test_looks_cycle_where_there_are_more_heads_and_norms_than_styles():
    count = 2 * max(style.COLORS, len(style.DASHES), len(style.MARKERS))
    finals = pd.DataFrame(
        {
            "run_id": [f"r{i:02d}" for i in range(count)],
            "norm": [f"n{i}" for i in range(count)],
            "target": [f"n{i}" for i in range(count)],
            "head": [f"h{i}" for i in range(count)],
            **dict.fromkeys(("likelihood", "reduction", "beta", "other"), "x"),
            "seed": 0,
            "status": "finished",
        }
    )
    looks = style.of_points(finals)
    assert style.of_points(finals[::-1]) == looks
    assert len(looks) == count
    assert {look.marker for look in looks.values()} == {*style.MARKERS} - {style.DIVERGED}
    assert {look.dashes for look in looks.values()} == {*style.DASHES}
    assert looks["r00"].hue == looks[f"r{style.COLORS}"].hue != looks["r01"].hue


@pytest.mark.parametrize(("later", "shown"), [(2, True), (3, False)])
def test_the_first_row_leaves_the_view_only_where_a_curve_remains(tmp_path, later, shown):
    """PSNR rises from 3 dB at step 0 to 20 dB, where it hardly moves any more."""
    rows = ["0,1,5,6,0.5,3.01,1.5,-9,4,7,"]
    rows += [f"{10 * k},1,5,6,0.1,{20 + k / 9},2,-8,4,7," for k in range(1, later + 1)]
    write_run(tmp_path, None, rows=rows)
    loaded = results.load(tmp_path)
    frames = [Figure().add_subplot() for _ in range(4)]
    panels.draw(frames, loaded, style.of_points(loaded.finals))
    assert (frames[0].get_ylim()[0] <= 3.01) == shown


def test_means_over_seeds_stand_in_a_band_from_the_lowest_to_the_highest(tmp_path):
    for seed, more in enumerate((0.0, 1.0, 5.0)):
        rows = [f"{k},1,5,6,0.5,{k + more},1,-9,4,7," for k in (10, 20, 30)]
        rows = rows[:2] if seed == 2 else rows  # one that is not so far yet
        write_run(tmp_path, None, rows=rows, seed=seed)
    rows = ["10,1,5,6,0.5,1e9,1,-9,4,7,"]
    write_run(tmp_path, summary(status="diverged"), rows=rows, seed=3)
    figure = vae_sweep.figures.curves(results.load(tmp_path).curves.query("seed < 3"))
    [axes] = figure.axes
    [line] = axes.lines
    assert line.get_xydata().tolist() == [[10, 12], [20, 22]]
    [band] = axes.collections
    corners = band.get_paths()[0].vertices
    assert {tuple(corner) for corner in corners.tolist()} == {
        *((10, 10), (20, 20), (10, 15), (20, 25))
    }


def test_functions_for_notebooks_draw_what_they_are_given(loaded):
    chosen = loaded.finals.query("head == 'tanh'")
    for figure in (
        vae_sweep.figures.curves(loaded.curves.query("head == 'tanh'"), over_seeds=False),
        vae_sweep.figures.rate_distortion(chosen, loaded.theory),
        vae_sweep.figures.predicted(chosen, "kl", theme="dark"),
    ):
        assert {*markers_of(figure.axes[0])} == {*chosen["run_id"]}
        figure.canvas.draw()
    dark = to_rgb(style.THEMES["dark"].paper)
    assert figure.get_facecolor()[:3] == dark
    assert figure.axes[0].xaxis.label.get_color() == style.THEMES["dark"].ink


# Machado, Oliveira & Fernandes 2009: what is left of linear RGB without one kind of cones
BLIND = {
    "protan": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216)),
    "deutan": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413)),
    "tritan": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602)),
}
THIRD = {
    "protan": (-0.003882, -0.048116, 1.051998),
    "deutan": (-0.011820, 0.042940, 0.968881),
    "tritan": (0.004733, 0.691367, 0.303900),
}


def linear(color: str) -> np.ndarray:
    c = np.array(to_rgb(color))
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def oklab(rgb: np.ndarray) -> np.ndarray:
    """Ottosson 2020."""
    to_lms = np.array(
        [
            [0.4122214708, 0.5363325363, 0.0514459929],
            [0.2119034982, 0.6806995451, 0.1073969566],
            [0.0883024619, 0.2817188376, 0.6299787005],
        ]
    )
    to_lab = np.array(
        [
            [0.2104542553, 0.7936177850, -0.0040720468],
            [1.9779984951, -2.4285922050, 0.4505937099],
            [0.0259040371, 0.7827717662, -0.8086757660],
        ]
    )
    return to_lab @ np.cbrt(np.clip(to_lms @ rgb, 0, None))


@pytest.mark.parametrize("palette", [style.PALETTE, style.DARK_PALETTE])
def test_color_blind_readers_tell_the_palette_apart(palette):
    for matrix in [np.eye(3), *(np.array([*BLIND[k], THIRD[k]]) for k in BLIND)]:
        seen = [oklab(np.clip(matrix @ linear(c), 0, 1)) for c in palette]
        apart = [np.linalg.norm(a - b) for a, b in combinations(seen, 2)]
        assert min(apart) > 0.07  # three and a half times what is just noticed


def contrast(one: str, other: str) -> float:
    """WCAG 2.2."""
    luminance = [linear(c) @ (0.2126, 0.7152, 0.0722) for c in (one, other)]
    return float((max(luminance) + 0.05) / (min(luminance) + 0.05))


@pytest.mark.parametrize("name", style.THEMES)
def test_writing_and_lines_stand_out_from_their_ground(name):
    theme = style.THEMES[name]
    assert contrast(theme.ink, theme.paper) > 12
    assert contrast(theme.quiet, theme.paper) > 4.5
    assert min(contrast(c, theme.paper) for c in theme.colors[: len(style.PALETTE)]) > 2.2
    if name == "dark":
        assert min(contrast(c, theme.paper) for c in theme.colors) > 2.2
