import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from helpers import ROWS, cap, summary, write_run
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from vae_sweep.records import results
from vae_sweep.reporting import overview


def drawn(folder: Path, ids: list[str] | None = None) -> Figure:
    figure = overview.overview(results.load(folder, ids), folder)
    figure.canvas.draw()
    return figure


def panel(figure: Figure, y_label: str) -> Axes:
    [axes] = [a for a in figure.axes if a.get_ylabel() == y_label]
    return axes


def curve(axes: Axes, run_id: str) -> list[list[float]]:
    """[[x, y], ...] of a run."""
    [line] = [line for line in axes.lines if line.get_gid() == run_id]
    return np.column_stack([line.get_xdata(), line.get_ydata()]).tolist()


def legend(figure: Figure) -> list[str]:
    [found] = figure.legends
    return [text.get_text() for text in found.get_texts()]


def test_each_run_has_its_curve_with_exactly_its_numbers(tmp_path):
    one = write_run(tmp_path, summary())
    rows = ["10,1,5,6,0.7,1.5,4.5,-7,4,7,", "20,2,4,5,0.6,2.2,5.5,-6,3,6.5,5.5"]
    two = write_run(tmp_path, summary(), rows=rows, head="linear")
    figure = drawn(tmp_path)
    mse = panel(figure, "val pixel MSE (pixels in [0, 1])")
    assert mse.get_yscale() == "log"
    assert curve(mse, one) == [[10, 0.5], [20, 0.25]]
    assert curve(mse, two) == [[10, 0.7], [20, 0.6]]
    kl = panel(figure, "val KL (nats per image)")
    assert curve(kl, two) == [[10, 4.5], [20, 5.5]]
    elbo = panel(figure, "val ELBO (nats per image)")
    assert curve(elbo, one) == [[10, -9], [20, -8]]
    assert [a.get_xlabel() for a in (mse, kl, elbo)] == ["step"] * 3
    plane = panel(figure, "val PSNR (dB)")
    assert plane.get_xlabel() == "val KL (nats per image)"
    assert curve(plane, one) == [[1.5, 3.01], [2.5, 6.02]]
    assert legend(figure) == ["linear", "tanh"]  # by name of the folder


def test_every_number_of_a_sound_run_is_in_view(tmp_path):
    one = write_run(tmp_path, summary())
    for axes in drawn(tmp_path).axes[:4]:
        for x, y in curve(axes, one):
            assert axes.get_xlim()[0] < x < axes.get_xlim()[1]
            assert axes.get_ylim()[0] < y < axes.get_ylim()[1]


def test_a_diverged_run_ends_at_its_last_finite_row_and_leaves_the_view(tmp_path):
    sound = write_run(tmp_path, summary())
    rows = [ROWS[0], "20,2,4,5,4e9,-96,1e9,-1e12,3,6.5,", "30,3,,,,,,,,,"]
    ended = summary(status="diverged", diverged_at=30)
    bad = write_run(tmp_path, ended, rows=rows, seed=1)
    figure = drawn(tmp_path, [sound, bad])
    assert legend(figure) == ["seed 0", "seed 1 (diverged at step 30)"]
    kl = panel(figure, "val KL (nats per image)")
    assert curve(kl, bad) == [[10, 1.5], [20, 1e9]]
    assert kl.get_ylim()[1] < 3


def test_caps_are_lines_where_finite_and_in_view(tmp_path):
    write_run(tmp_path, summary(**cap(5.5)))
    write_run(tmp_path, summary(**cap(5.5)), seed=1)
    write_run(tmp_path, summary(**cap(6.5)), seed=2)
    write_run(tmp_path, summary(**cap(None)), head="linear")
    write_run(tmp_path, summary(**cap(40)), head="hardtanh")
    plane = panel(drawn(tmp_path), "val PSNR (dB)")
    caps = [line.get_ydata() for line in plane.lines if line.get_linestyle() == "--"]
    assert sorted(float(np.asarray(y)[0]) for y in caps) == [5.5, 6.5]
    assert plane.get_ylim()[1] > 6.5
    assert "cap 5.50" in [text.get_text() for text in plane.texts]


def test_strips_show_the_pictures_beside_label_and_psnr(tmp_path):
    one = write_run(tmp_path, summary())
    two = write_run(tmp_path, None, seed=1)
    (tmp_path / two / "reconstructions.png").unlink()
    figure = drawn(tmp_path, [one, two])
    first, second = figure.axes[4:]
    [image] = first.images
    saved = np.asarray(Image.open(tmp_path / one / "reconstructions.png"))
    np.testing.assert_array_equal(image.get_array(), saved)
    assert image.get_clim() == (0, 255)
    assert "seed 0   18.42 dB" in [text.get_text() for text in first.texts]
    texts = [text.get_text() for text in second.texts]
    assert texts == [
        "no reconstructions to show",
        "seed 1 (interrupted, step 20)   6.02 dB",
    ]


def test_a_damaged_picture_is_left_out(tmp_path):
    run_id = write_run(tmp_path, summary())
    path = tmp_path / run_id / "reconstructions.png"
    for content in (b"", b"junk", path.read_bytes()[:60]):
        path.write_bytes(content)
        texts = [text.get_text() for text in drawn(tmp_path, [run_id]).axes[4].texts]
        assert texts[0] == "no reconstructions to show"


@pytest.mark.parametrize("points", [1, 4, 12, 30])
def test_no_text_is_clipped_or_overlaps(tmp_path, points):
    heads = ("tanh", "linear", "tanh_standardized")
    for head, beta in list(product(heads, range(1, 11)))[:points]:
        write_run(tmp_path, summary(), head=head, beta__value=float(beta))
    figure = drawn(tmp_path)
    boxes = {}
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        if text.get_visible() and text.get_text().strip():
            boxes[id(text)] = (text.get_text(), text.get_window_extent())
    width, height = figure.bbox.size
    shown = list(boxes.values())
    ticks = {t.get_text() for a in figure.axes for t in a.get_xticklabels()}
    ticks |= {t.get_text() for a in figure.axes for t in a.get_yticklabels()}
    for i, (text, box) in enumerate(shown):
        if text in ticks - {"original", "recon."}:
            continue  # matplotlib keeps labels beyond the view
        assert box.x0 >= 0, text
        assert box.y0 >= 0, text
        assert box.x1 <= width, text
        assert box.y1 <= height, text
        for other, beside in shown[i + 1 :]:
            assert other in ticks or not box.overlaps(beside), (text, other)


def test_colours_differ_between_points(tmp_path):
    ids = [write_run(tmp_path, summary(), seed=seed) for seed in range(18)]
    axes = drawn(tmp_path, ids).axes[0]
    assert len({line.get_color() for line in axes.lines}) == 18


def test_a_grid_too_large_names_its_first_points(tmp_path, monkeypatch):
    monkeypatch.setattr(overview, "SHOWN", 2)
    for seed in range(4):
        write_run(tmp_path, summary(), seed=seed)
    figure = drawn(tmp_path)
    assert len(legend(figure)) == 2
    assert len(figure.axes[0].lines) == 4
    assert "the first 2 of them" in figure.texts[0].get_text()


@pytest.mark.parametrize(
    "rows",
    [[], ROWS[:1], ["10,1,,,,,,,,,"], ["10,1,5,6,0.5,3.01,0,0,0,7,", "20,2,4,5,0,,0,,,,"]],
    ids=["none", "one", "empty", "collapsed"],
)
def test_few_numbers_are_drawn_too(tmp_path, rows):
    write_run(tmp_path, None, rows=rows)
    assert len(drawn(tmp_path).axes) == 5


def test_the_file_is_replaced_as_a_whole(tmp_path):
    run_id = write_run(tmp_path, summary())
    (tmp_path / "overview.png").write_bytes(b"old")
    path = overview.save_overview(results.load(tmp_path), tmp_path)
    assert path == tmp_path / "overview.png"
    with Image.open(path) as image:
        assert image.size[0] == 14 * 130
    assert {p.name for p in tmp_path.iterdir()} == {run_id, "overview.png"}


def test_numbers_that_json_wrote_as_integers_are_drawn(tmp_path):
    run_id = write_run(tmp_path, summary())
    path = tmp_path / run_id / "summary.json"
    content = json.loads(path.read_text())
    content["final"]["val/psnr"] = 18
    path.write_text(json.dumps(content))
    texts = [text.get_text() for text in drawn(tmp_path).axes[4].texts]
    assert texts == ["zscore · tanh · β 1   18.00 dB"]


def test_theory_is_one_line_where_runs_share_it(tmp_path):
    for seed in range(3):
        write_run(tmp_path, summary(), seed=seed)
    other = {"predicted": {"curve": [[0.0, 9.0], [2.0, 8.0]]}}
    write_run(tmp_path, summary(**other), model__latent=8)
    plane = panel(drawn(tmp_path), "val PSNR (dB)")
    dotted = [line for line in plane.lines if line.get_linestyle() == ":"]
    points = sorted(np.column_stack(line.get_data()).tolist() for line in dotted)
    assert points == [[[0, 2], [1.5, 4], [4, 7]], [[0, 2], [9, 8]]]
    [entry] = plane.get_legend().get_texts()
    assert "theory" in entry.get_text()


@pytest.mark.parametrize(("above", "in_view"), [(3, True), (100, False)])
def test_the_view_rises_to_a_theory_just_above(tmp_path, above, in_view):
    theory = [[0.0, 1.5, 2.5], [6.0, 6.2, 6.02 + above]]
    write_run(tmp_path, summary(**{"predicted": {"curve": theory}}))
    plane = panel(drawn(tmp_path), "val PSNR (dB)")
    assert (plane.get_ylim()[1] > 6.02 + above) == in_view


def test_discrete_likelihoods_have_a_panel_of_their_own(tmp_path):
    """Never beside a density, whose nats are other nats."""
    columns = "step,epoch,val/kl,val/psnr,val/mse_pixel,val/elbo_discrete"
    run_id = write_run(tmp_path, summary(), rows=[], likelihood="discretized_gaussian")
    text = columns + "\n10,1,2,3,0.5,-900\n20,2,3,4,0.4,-800\n"
    (tmp_path / run_id / "metrics.csv").write_text(text)
    axes = panel(drawn(tmp_path), "val ELBO (nats per image)")
    assert "256 levels" in axes.get_title(loc="left")
    assert curve(axes, run_id) == [[10, -900], [20, -800]]
    write_run(tmp_path, summary())
    axes = panel(drawn(tmp_path), "val ELBO (nats per image)")
    assert "density" in axes.get_title(loc="left")
    assert curve(axes, run_id) == []
