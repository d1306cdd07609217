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

POINT = "zscore · tanh · β 1"  # of a sweep that has no other


def drawn(folder: Path, ids: list[str] | None = None) -> Figure:
    figure = overview.overview(results.load(folder, ids), folder)
    figure.canvas.draw()
    return figure


def panel(figure: Figure, title: str) -> Axes:
    [axes] = [a for a in figure.axes if a.get_title(loc="left") == title]
    return axes


def curve(axes: Axes, point: str) -> list[list[float]]:
    """[[x, y], ...] of a point; in the plane of a run."""
    [line] = [line for line in axes.lines if line.get_gid() == point]
    return np.column_stack([line.get_xdata(), line.get_ydata()]).tolist()


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if text.get_text().strip()]


def pictures(figure: Figure) -> list[np.ndarray]:
    return [np.asarray(a.images[0].get_array()) for a in figure.axes if a.images]


def test_each_point_has_its_curve_with_exactly_its_numbers(tmp_path):
    one = write_run(tmp_path, summary())
    rows = ["10,1,5,6,0.7,1.5,4.5,-7,4,7.5,", "20,2,4,5,0.6,2.2,5.5,-6,3,7.25,5.5"]
    write_run(tmp_path, summary(), rows=rows, head="linear")
    figure = drawn(tmp_path)
    psnr, kl = panel(figure, "PSNR"), panel(figure, "Rate")
    assert curve(psnr, "tanh") == [[10, 3.01], [20, 6.02]]
    assert curve(psnr, "linear") == [[10, 1.5], [20, 2.2]]
    assert curve(kl, "linear") == [[10, 4.5], [20, 5.5]]
    bits = panel(figure, "Calibrated bits per dimension")
    assert curve(bits, "linear") == [[10, 7.5], [20, 7.25]]
    assert [a.get_xlabel() for a in (psnr, kl, bits)] == ["step"] * 3
    plane = panel(figure, "Rate and distortion")
    assert plane.get_xlabel() == "val KL (nats per image)"
    assert curve(plane, one) == [[12.34, 18.42]]  # summary.json's


def test_every_number_of_a_sound_run_is_in_view(tmp_path):
    one = write_run(tmp_path, summary())
    for axes, name in zip(drawn(tmp_path).axes[:4], [POINT] * 3 + [one], strict=True):
        for x, y in curve(axes, name):
            assert axes.get_xlim()[0] < x < axes.get_xlim()[1]
            assert axes.get_ylim()[0] < y < axes.get_ylim()[1]


def test_a_diverged_run_ends_at_its_last_finite_row_and_leaves_the_view(tmp_path):
    write_run(tmp_path, summary())
    rows = [ROWS[0], "20,2,4,5,4e9,-96,1e9,-1e12,3,6.5,", "30,3,,,,,,,,,"]
    ended = summary(status="diverged", diverged_at=30)
    write_run(tmp_path, ended, rows=rows, head="linear")
    figure = drawn(tmp_path)
    assert "diverged at step 30" in texts(figure)
    kl = panel(figure, "Rate")
    assert curve(kl, "linear") == [[10, 1.5], [20, 1e9]]
    assert kl.get_ylim()[1] < 3


def test_a_diverged_seed_is_in_no_mean(tmp_path):
    write_run(tmp_path, summary())
    ended = summary(status="diverged", diverged_at=30)
    write_run(tmp_path, ended, rows=["10,1,5,6,4e9,-96,1e9,-1e12,3,6.5,"], seed=1)
    figure = drawn(tmp_path)
    assert curve(panel(figure, "PSNR"), POINT) == [[10, 3.01], [20, 6.02]]
    assert "18.42 dB, 4.568 bits/dim, 1 of 2 diverged (seed 0)" in texts(figure)


def test_caps_are_lines_where_finite_and_in_view(tmp_path):
    write_run(tmp_path, summary(**cap(18.5)))
    write_run(tmp_path, summary(**cap(18.5)), seed=1)
    write_run(tmp_path, summary(**cap(19.0)), seed=2)
    write_run(tmp_path, summary(**cap(None)), head="linear")
    write_run(tmp_path, summary(**cap(40)), head="hardtanh")
    plane = panel(drawn(tmp_path), "Rate and distortion")
    still = [line for line in plane.lines if line.get_gid() is None]
    caps = [line.get_ydata() for line in still if line.get_linestyle() == "--"]
    assert sorted(float(np.asarray(y)[0]) for y in caps) == [18.5, 19.0]
    assert plane.get_ylim()[1] > 19.0
    assert "cap 18.50" in [text.get_text() for text in plane.texts]


def vary(run: Path, **final: float) -> None:
    content = json.loads((run / "summary.json").read_text())
    content["final"] |= {key.replace("val_", "val/"): v for key, v in final.items()}
    (run / "summary.json").write_text(json.dumps(content))


def paint(run: Path, originals: int, reconstructions: int, name="reconstructions") -> None:
    tiles = np.full((12, 24), originals, np.uint8)
    tiles[6:] = reconstructions
    Image.fromarray(tiles).save(run / f"{name}.png")


def test_a_point_has_one_strip_of_its_median_seed_below_the_originals(tmp_path):
    for head, better in (("tanh", 0), ("linear", 3)):
        for seed, psnr in enumerate((21.0, 19.0, 20.0)):
            run = tmp_path / write_run(tmp_path, summary(), head=head, seed=seed)
            vary(run, val_psnr=psnr + better)
            vary(run, val_bits_per_dim_calibrated=5.0 - better)
            paint(run, 50, 100 + 10 * seed + better)
            paint(run, 200 + seed, 200 + seed, "samples")
    figure = drawn(tmp_path)
    levels = [int(picture.max()) for picture in pictures(figure)]
    assert levels == [50, 123, 202, 120, 202]  # the best point first; seed 2 is the median
    assert all(len(picture) == 6 for picture in pictures(figure)[:2])
    said = texts(figure)
    assert said.index("linear") < said.index("tanh")
    assert "23.00 dB, 2.000 bits/dim (seed 2)" in said
    assert "originals, and below them reconstructions" in said
    assert "samples, decoded from the prior" in said


def test_other_originals_stand_above_their_own_strips(tmp_path):
    for data, level in (("mnist", 50), ("cifar10", 60)):
        paint(tmp_path / write_run(tmp_path, summary(), data__name=data), level, level + 1)
    figure = drawn(tmp_path)
    levels = [int(picture.max()) for picture in pictures(figure)]
    assert levels in ([50, 51, 60, 61], [60, 61, 50, 51])
    assert "originals (mnist), and below them reconstructions" in texts(figure)
    assert any("not comparable" in text.replace("\n", " ") for text in texts(figure))


def test_missing_and_damaged_pictures_are_left_out(tmp_path):
    run_id = write_run(tmp_path, summary())
    path = tmp_path / run_id / "reconstructions.png"
    for content in (b"", b"junk", path.read_bytes()[:60], None):
        path.unlink() if content is None else path.write_bytes(content)
        figure = drawn(tmp_path, [run_id])
        assert "no reconstructions to show" in texts(figure)
        assert pictures(figure) == []


@pytest.mark.parametrize(("points", "widths"), [(1, 3), (4, 3), (12, 3), (30, 3), (4, 16)])
def test_no_text_is_clipped_or_overlaps(tmp_path, points, widths):
    heads = ("tanh", "linear", "tanh_standardized")
    for head, beta in list(product(heads, range(1, 11)))[:points]:
        wide = [8 * beta] * widths if widths > 3 else [4, 8]  # a long label
        values = {"head": head, "beta__value": float(beta), "model__widths": wide}
        write_run(tmp_path, summary(), **values)
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
        if text in ticks:
            continue  # matplotlib keeps labels beyond the view
        assert box.x0 >= 0, text
        assert box.y0 >= 0, text
        assert box.x1 <= width, text
        assert box.y1 <= height, text
        for other, beside in shown[i + 1 :]:
            assert other in ticks or not box.overlaps(beside), (text, other)


def test_the_best_points_have_colors_and_strips_the_others_are_gray(tmp_path):
    for k in range(15):
        run = tmp_path / write_run(tmp_path, summary(), beta__value=float(k + 1))
        vary(run, val_bits_per_dim_calibrated=9.0 - k)
    figure = drawn(tmp_path)
    colors = {line.get_gid(): line.get_color() for line in figure.axes[0].lines}
    assert len(colors) == 15
    best = [colors[f"β {k + 1}"] for k in range(3, 15)]
    assert len({*best}) == overview.SHOWN == 12
    assert {colors[f"β {k + 1}"] for k in range(3)} == {"#d4d4d4"}
    named = [text for text in texts(figure) if text.startswith("β ")]
    assert named == [f"β {k}" for k in range(15, 3, -1)]
    note = "the best 12 in color, all of them in the report"
    assert any(note in text.replace("\n", " ") for text in texts(figure))


@pytest.mark.parametrize(
    "rows",
    [[], ROWS[:1], ["10,1,,,,,,,,,"], ["10,1,5,6,0.5,3.01,0,0,0,7,", "20,2,4,5,0,,0,,,,"]],
    ids=["none", "one", "empty", "collapsed"],
)
def test_few_numbers_are_drawn_too(tmp_path, rows):
    write_run(tmp_path, None, rows=rows)
    assert len(pictures(drawn(tmp_path))) == 2


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
    vary(tmp_path / run_id, val_psnr=18)
    assert "18.00 dB, 4.568 bits/dim" in texts(drawn(tmp_path))


def test_theory_is_one_line_where_runs_share_it(tmp_path):
    for seed in range(3):
        write_run(tmp_path, summary(), seed=seed)
    other = {"predicted": {"curve": [[0.0, 9.0], [2.0, 8.0]]}}
    write_run(tmp_path, summary(**other), model__latent=8)
    plane = panel(drawn(tmp_path), "Rate and distortion")
    dotted = [line for line in plane.lines if line.get_linestyle() == ":"]
    points = sorted(np.column_stack(line.get_data()).tolist() for line in dotted)
    assert points == [[[0, 2], [1.5, 4], [4, 7]], [[0, 2], [9, 8]]]


@pytest.mark.parametrize(("above", "in_view"), [(0.4, True), (100, False)])
def test_the_view_rises_to_a_theory_just_above(tmp_path, above, in_view):
    theory = [[0.0, 10.0, 20.0], [18.0, 18.42 + above, 18.42 + above]]
    write_run(tmp_path, summary(**{"predicted": {"curve": theory}}))
    plane = panel(drawn(tmp_path), "Rate and distortion")
    assert (plane.get_ylim()[1] > 18.42 + above) == in_view
    named = [t.get_text() for t in plane.get_legend().get_texts()] if in_view else []
    assert (plane.get_legend() is not None) == in_view == bool(named)
