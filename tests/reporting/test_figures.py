"""The page's figures show the runs' numbers: what is drawn is read back."""

import numpy as np
import pandas as pd
import pytest
from helpers import ROWS, summary, write_run
from matplotlib.figure import Figure

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
def frames(loaded, monkeypatch):
    """The axes of `figures.draw`, in place of the pictures that are made of them."""
    monkeypatch.setattr(figures, "_picture", lambda figure, axes: axes)
    return figures.draw(loaded, style.of_points(loaded.finals))


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
    for axes, column in zip(frames, panels.PANELS, strict=False):
        for line in axes.lines:
            run = loaded.curves[loaded.curves["run_id"] == line.get_gid()]
            assert line.get_xdata().tolist() == steps
            assert line.get_ydata().tolist() == run[column].tolist()
    plane = markers_of(frames[3])
    for run_id, point in plane.items():
        last = loaded.curves[loaded.curves["run_id"] == run_id].iloc[-1]
        assert point == last[["val/kl", "val/psnr"]].tolist()


def test_looks_cycle_where_there_are_more_heads_and_norms_than_styles():
    count = 2 * max(style.COLORS, len(style.DASHES), len(style.MARKERS))
    finals = pd.DataFrame(
        {
            "run_id": [f"r{i}" for i in range(count)],
            "norm": [f"n{i}" for i in range(count)],
            "target": [f"n{i}" for i in range(count)],
            "head": [f"h{i}" for i in range(count)],
            **dict.fromkeys(("likelihood", "reduction", "beta", "other"), "x"),
            "seed": 0,
            "status": "finished",
        }
    )
    looks = style.of_points(finals)
    assert len(looks) == count
    assert {look.marker for look in looks.values()} == {*style.MARKERS} - {style.DIVERGED}
    assert {look.dashes for look in looks.values()} == {*style.DASHES}
    assert looks["r0"].color == looks[f"r{style.COLORS}"].color != looks["r1"].color


@pytest.mark.parametrize(("later", "shown"), [(2, True), (3, False)])
def test_the_first_row_leaves_the_view_only_where_a_curve_remains(tmp_path, later, shown):
    """Pixel MSE falls from 0.5 at step 0 to 0.1, where it hardly moves any more."""
    rows = ["0,1,5,6,0.5,3.01,1.5,-9,4,7,"]
    rows += [f"{10 * k},1,5,6,{0.1 - k / 1e4},10,2,-8,4,7," for k in range(1, later + 1)]
    write_run(tmp_path, None, rows=rows)
    loaded = results.load(tmp_path)
    frames = [Figure().add_subplot() for _ in range(4)]
    panels.draw(frames, loaded, style.of_runs(loaded.finals))
    assert (frames[0].get_ylim()[1] >= 0.5) == shown
