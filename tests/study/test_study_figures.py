"""The study's figures show the numbers of its tables: what is drawn is read back."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgba
from study import figures, published
from study.effects import recipe
from study.published import NORMS, Published, Study

from vae_sweep.records.comparisons import Interval
from vae_sweep.theory.floor import head_floor
from vae_sweep.vae.heads import named
from vae_sweep.vae.normalize import fit

RESULTS = Path(__file__).parents[2] / "experiments" / "results"


@pytest.fixture(scope="module")
def study() -> Study:
    return Study(RESULTS / "smoke")


@pytest.fixture(scope="module")
def balance(study) -> Published:
    return recipe(study.of("balance"))


def lines_of(axes) -> dict[str, np.ndarray]:
    """Label -> points [n, 2] of the lines that have a label."""
    return {line.get_label(): line.get_xydata() for line in axes.lines}


def test_ranges_show_all_the_mass_and_what_a_head_cannot_reach(balance):
    figure = figures.ranges(balance.counts, ("tanh", "sigmoid"))
    panels = iter(figure.axes)
    for norm in NORMS:
        for head in ("tanh", "sigmoid"):
            axes = next(panels)
            areas = [bar.get_width() * bar.get_height() for bar in axes.patches[:-1]]
            assert sum(areas) == pytest.approx(1, abs=1e-6)
            lost = sum(
                bar.get_width() * bar.get_height()
                for bar in axes.patches[:-1]
                if bar.get_facecolor() == to_rgba(figures.UNREACHABLE)
            )
            floor = head_floor(named(head), fit(norm, balance.counts), balance.counts)
            assert lost == pytest.approx(floor.outside, abs=0.02)
            assert f"{norm}, {head}: " in axes.get_title(loc="left")


def test_curves_are_means_over_seeds_in_bands(balance):
    where = {"norm": "unit", "head": "linear", "beta": "matched30"}
    figure = figures.curves(balance, {"panel": {"a": where}})
    finals, rows = balance.results.finals, balance.results.curves
    chosen = finals.query("norm == 'unit' and head == 'linear' and beta == 'matched30'")
    chosen = chosen.query("target == 'unit' and likelihood == 'mse' and reduction == 'sum'")
    of_runs = rows[rows["run_id"].isin(chosen["run_id"]) & (rows["step"] > 0)]
    means = of_runs.groupby("step").mean(numeric_only=True)["val/psnr"]
    drawn = lines_of(figure.axes[0])["a"]
    np.testing.assert_allclose(drawn[:, 0], means.index.to_numpy())
    np.testing.assert_allclose(drawn[:, 1], means.to_numpy())
    band = next(iter(figure.axes[0].collections))
    corners = np.asarray(band.get_paths()[0].vertices)[:, 1]
    assert corners.min() == pytest.approx(of_runs["val/psnr"].min())
    assert corners.max() == pytest.approx(of_runs["val/psnr"].max())


@pytest.mark.parametrize("log", [False, True])
def test_effects_are_points_in_their_intervals(log):
    rows = {
        "first": Interval(2.0, 1.0, 4.0, 5),
        "second": Interval(8.0, 8.0, 9.0, 5, lost=2),
    }
    figure = figures.effects(rows, "what", log)
    [axes] = figure.axes
    none, *drawn = [line.get_xydata().tolist() for line in axes.lines]
    assert none == [[1 if log else 0, 0], [1 if log else 0, 1]]
    figure.draw_without_rendering()
    shown = [text.get_text() for text in axes.get_xticklabels()]
    assert {"2", "5"} <= set(shown) if log else shown
    assert drawn == [[[1, 0], [4, 0]], [[2, 0]], [[8, 1], [9, 1]], [[8, 1]]]
    names = [text.get_text() for text in axes.get_yticklabels()]
    assert names == ["first", "second (2 diverged)"]


def test_the_collapse_shows_means_over_seeds_over_beta_and_over_the_noise(balance):
    figure = figures.collapse(balance)
    finals = balance.results.finals
    runs = finals.query("head == 'linear' and likelihood == 'mse' and reduction == 'sum'")
    runs = runs[runs["target"] == runs["norm"]]
    runs = runs[~runs["beta"].str.contains("matched")]
    runs = runs[runs["beta_value"] > 0]
    for axes, x in ((figure.axes[0], "beta_value"), (figure.axes[1], "implied_sigma")):
        drawn = lines_of(axes)
        for norm in NORMS:
            means = runs[runs["norm"] == norm].groupby(x)["test/kl"].mean()
            np.testing.assert_allclose(drawn[f"{norm}, sum"][:, 0], means.index)
            np.testing.assert_allclose(drawn[f"{norm}, sum"][:, 1], means)


def test_activity_shows_every_run(balance):
    figure = figures.activity(balance)
    kl, units = (lines_of(axes) for axes in figure.axes)
    for norm in NORMS:
        assert len(kl[norm]) == len(units[norm]) > 5
        both = {*map(tuple, kl[norm].round(4))}
        finals = balance.results.finals
        there = finals[finals["norm"] == norm][["implied_sigma", "test/kl"]]
        assert both <= {*map(tuple, there.to_numpy().round(4))}


def test_shares_are_of_one_whole(balance):
    figure = figures.shares(balance)
    for axes in figure.axes:
        for points in lines_of(axes).values():
            assert ((points[:, 1] > 0) & (points[:, 1] < 1)).all()
    gradients = lines_of(figure.axes[2])["unit, sum"][:, 1]
    assert (np.diff(gradients) < 0.2).all()  # the KL's share rises with beta


def test_reconstructions_are_the_published_pictures(study):
    core = recipe(study.of("core"))
    finals = core.results.finals.set_index("run_id")
    label, run_id = "a", next(name for name in core.pictures if name in finals.index)
    run = finals.loc[run_id]
    columns = ("norm", "target", "head", "likelihood", "reduction", "beta")
    where = {name: run[name] for name in columns}
    figure = figures.reconstructions(core, {label: where})
    shown = [axes.images[0].get_array() for axes in figure.axes]
    np.testing.assert_array_equal(shown[0], core.originals)
    np.testing.assert_array_equal(shown[1], core.pictures[run_id])
    assert f"{run['val/psnr']:.1f} dB" in figure.axes[1].get_title(loc="right")


def test_any_sweep_is_drawn_a_color_per_point(balance):
    results = published.results_of(RESULTS / "smoke")
    figure = figures.sweep(results)
    finals = results.finals
    drawn = {line.get_gid(): line for line in figure.axes[2].lines}  # the rate
    assert {*drawn} == {*finals["run_id"]}
    pair = finals.query("norm == 'unit' and head == 'sigmoid'")["run_id"]
    assert len({drawn[run_id].get_color() for run_id in pair}) == 1
    rows = results.curves.query(f"run_id == '{pair.iloc[0]}'")
    assert np.array_equal(np.asarray(drawn[pair.iloc[0]].get_ydata()), rows["val/kl"])
    [legend] = figure.legends
    assert len(legend.get_texts()) == figures.NAMED
