"""A user's own metric: what is refused, and how it stands beside ours from the run to the
page."""

import io
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import TINY, make_config, make_images, prepared
from rich.console import Console
from survival.wandb_files import history
from torch import Tensor

from vae_sweep import grid
from vae_sweep.config import RunConfig
from vae_sweep.errors import UserError
from vae_sweep.records import results
from vae_sweep.records.wandb_logger import wandb_folder
from vae_sweep.reporting import html, style, tables
from vae_sweep.system import stop
from vae_sweep.training import metrics
from vae_sweep.training.device import limited_threads
from vae_sweep.training.loop import measured
from vae_sweep.training.metrics import Metric, Pass
from vae_sweep.training.step import Trainer
from vae_sweep.vae.cohort import Cohort
from vae_sweep.vae.normalize import histograms
from vae_sweep.vae.point import point
from vae_sweep.vae.streams import Streams

ROOT = Path(__file__).parents[2]
HEAD = "import torch\nfrom vae_sweep.training.metrics import Metric\n"
MAE = """
MAE = Metric(
    "mae",
    lambda p: 255 * (p.u - p.u_hat).abs().mean((-3, -2, -1)),
    label="mean absolute error",
    unit="8-bit levels",
)
"""
COLUMN = "val mean absolute error (8-bit levels)"


@pytest.fixture
def mine(tmp_path, monkeypatch) -> Callable[[str], str]:
    """Writes a user's module that no other test imports; returns its name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)

    def write(source: str) -> str:
        name = f"mine_{tmp_path.name.replace('-', '_')}"
        (tmp_path / f"{name}.py").write_text(HEAD + source)
        return name

    return write


@pytest.fixture
def config_of(tmp_path, npz, mine):
    """Configs whose metrics are objects of a module of this source."""
    path = npz()

    def compose(
        source: str, *overrides: str, objects: str = "MAE", ours: str = "default"
    ) -> RunConfig:
        module = mine(source)
        names = ",".join(f"{module}:{name}" for name in objects.split(","))
        return make_config(
            *TINY, "data=npz", f"data.path={path}", f"runs={tmp_path}/runs",
            "train.steps=20", "train.eval_every=10", f"metric=[{ours},{names}]",
            *overrides,
        )  # fmt: skip

    return compose


# --- what is refused ---

FLAT = "lambda p: p.mu.mean(-1)"
REFUSED = {  # an object of line 3 -> what is said of it
    "3": r"must be a Metric\(name, per_image\), got a int \(mine_\w+\.py, line 3\)",
    f"Metric('Big', {FLAT})": r"\(mine_\w+\.py, line 3\): its name must be a lower-case",
    f"Metric('kl', {FLAT})": "its name must be its own, got kl, which one of ours has",
    f"Metric('psnr_tanh_range', {FLAT})": "got psnr_tanh_range, which one of ours has",
    f"Metric(['x'], {FLAT})": r"lower-case identifier, got \['x'\]",
    f"Metric('x', {FLAT}, label='a\\nb')": "its label must be a line of text",
    f"Metric('x', {FLAT}, digits=99)": "its digits must be 0 to 15, got 99",
    f"Metric('x', {FLAT}, best='most')": "its best must be highest or lowest, got 'most'",
    "Metric('x', ())": "per_image must be a function or several, got none",
    "Metric('x', 3)": "must be functions, got 3",
    "Metric('x', lambda p: p.v)": r"raised AttributeError in mine_\w+\.py, line 3: .*'v'",
    "Metric('x', lambda p: p.u.mean((-2, -1)).squeeze())": r"got float32 \[3\]",
    "Metric('x', lambda p: p.u)": r"\[R, B, K\] .* got float32 \[2, 3, 3, 8, 8\]",
    "Metric('x', lambda p: p.u.mean())": r"of 2 and 3, got float32 \[\]",
    "Metric('x', lambda p: (p.mu > 0).sum(-1))": r"floating .* got int64 \[2, 3\]",
    "Metric('x', lambda p: p.mu.tolist())": "floating .* got a list",
    "Metric('x', lambda p: (p.mu - p.mu.mean(1, keepdim=True)).sum(-1))": "beside others",
    "Metric('x', lambda p: p.mu[..., 0] * p.mu.mean(0)[..., 0])": "beside others",
    "Metric('x', lambda p: torch.rand(p.mu.shape[:2]))": "beside others",
    "Metric('x', lambda p: p.mu.mul_(2).sum(-1))": "must leave what it is given as it is",
    "Metric('x', lambda p: p.mu)": r"reduce must .* \[2\] of means \[2, 4\] of 2 runs, got",
    f"Metric('x', {FLAT}, lambda a, b: a)": "raised TypeError",
}


@pytest.mark.parametrize("metric", REFUSED)
def test_what_is_no_metric_is_refused_before_anything_is_written(
    config_of, tmp_path, metric
):
    config = config_of(f"MAE = {metric}\n")
    with pytest.raises(UserError, match=REFUSED[metric]) as error:
        grid.run([config])
    assert str(error.value).startswith(f"metric={config.metric[1]}")
    assert str(error.value).count("\n") < 2
    assert not (tmp_path / "runs").exists()


def test_two_own_metrics_of_one_name_are_refused(config_of):
    config = config_of(f"A = Metric('x', {FLAT})\nB = Metric('x', {FLAT})\n", objects="A,B")
    with pytest.raises(UserError, match=r":B \(.*line 4\): .* got x, which mine_\w+:A has"):
        prepared([config])


def test_a_metric_is_tried_on_images_as_the_run_has_them(config_of):
    """Images are 3 x 8 x 8 here, which a window of 9 does not fit."""
    source = "pool = torch.nn.functional.avg_pool3d\n"
    source += "MAE = Metric('x', lambda p: pool(p.a, (1, {0}, {0})).mean((-3, -2, -1)))\n"
    with pytest.raises(UserError, match="line 4"):
        prepared([config_of(source.format(9))])


@pytest.mark.parametrize("option", metrics.OPTIONS)
def test_ours_pass_the_check(option):
    for metric in metrics.named(option):
        metrics.check(metric, f"metric={option}")


def test_a_metric_that_is_not_a_users_is_refused_by_its_words_alone():
    with pytest.raises(UserError, match=r"^mse: raised ZeroDivisionError"):
        metrics.check(Metric("mse", lambda p: p.u / (1 // 0)), "mse")


# --- what it measures ---


def cohort_of(configs: list[RunConfig], images: Tensor) -> Cohort:
    counts = histograms(images)
    points = [point(c, counts, images.shape[2] * images.shape[3]) for c in configs]
    return Cohort(configs, points, (images.shape[1], images.shape[2], images.shape[3]))


def tail_of_vectors(p: Pass) -> Tensor:
    """Numbers that vector kernels round otherwise at the end of what they are given."""
    return (50 * p.mu).sigmoid()


@pytest.mark.parametrize("n", [5, 21, 70])
def test_a_runs_numbers_are_the_same_beside_others_bit_for_bit(n):
    images = make_images(n)
    chosen = [
        *(metric for option in metrics.OPTIONS.values() for metric in option),
        Metric("tail", tail_of_vectors, lambda mean: (mean - 1).sigmoid().sum(-1)),
        Metric("norm", lambda p: torch.linalg.matrix_norm(p.a, 2).mean(-1)),
        Metric("rms", (metrics.sse, metrics.kl), lambda sse, kl: (sse * kl).abs().sqrt()),
    ]
    configs = [make_config(*TINY, f"seed={s}", f"beta.value=0.{s + 1}") for s in range(3)]
    beta = torch.tensor([0.1, 0.2, 0.3])
    together = metrics.evaluate(cohort_of(configs, images), images, beta, [0, 1, 2], chosen)
    for r, config in enumerate(configs):
        cohort = cohort_of([config], images)
        alone = metrics.evaluate(cohort, images, beta[r : r + 1], [r], chosen)
        for name, values in alone.items():
            assert values.shape == (1,)
            a, b = values[0].item(), together[name][r].item()
            assert a == b or (math.isnan(a) and math.isnan(b)), name


def test_runs_of_a_cohort_have_the_same_metrics(config_of, mine):
    first = config_of(MAE)
    second = config_of(MAE, "head=tanh")
    plain = first.model_copy(update={"metric": ("default",), "sources": {}})
    keys = [p.cohort_key for p in prepared([first, second, plain])]
    assert keys[0] == keys[1] != keys[2]
    assert first.run_id != plain.run_id


@pytest.fixture
def swept(config_of):
    """A grid of two points and two seeds."""
    points = (("norm=unit", "head=linear"), ("norm=zscore", "head=tanh"))
    configs = [config_of(MAE, *p, f"seed={s}") for p in points for s in (0, 1)]
    with limited_threads(1):
        grid.run(configs)
    return configs


@pytest.mark.slow
def test_an_own_metric_from_the_rows_to_the_page(swept, tmp_path):
    for config in swept:
        rows = pd.read_csv(config.run_dir / "metrics.csv")
        assert len(rows) == 3
        [(images, p)] = [(each.dataset.images, each.point) for each in prepared([config])]
        cohort = Cohort([config], [p], (3, 8, 8)).eval()  # as at step 0
        for split, shown in (("train", measured(images)), ("val", images.val)):
            noise = Streams([config.seed], "evaluation")
            chunks = [noise.normal(len(part), 4) for part in shown.split(64)]
            with torch.no_grad():
                t_hat = cohort(cohort.pixels_of(shown), torch.cat(chunks, 1)).t_hat[0]
            shift, scale = (v.numpy()[:, None, None] for v in p.target)
            levels = 255 * (t_hat.numpy().astype(float) * scale + shift)
            expected = np.abs(shown.numpy() - levels).mean()
            assert rows[f"{split}/mae"][0] == pytest.approx(expected, rel=1e-6)
        assert rows["val/mae"].is_unique
        assert rows["test/mae"].notna().tolist() == [False, False, True]
        summary = json.loads((config.run_dir / "summary.json").read_text())
        assert summary["metrics"] == {
            "mae": {"label": "mean absolute error", "unit": "8-bit levels", "digits": 3}
        }
    read = f"""
import sys
from vae_sweep.records import results
from vae_sweep.reporting import html
loaded = results.load("{tmp_path}/runs/main")
assert loaded.skipped == {{}}
print(loaded.finals["val/mae"].tolist())
print(results.table(loaded)["{COLUMN}"].tolist())
page = html.page([__import__("pathlib").Path("{tmp_path}/runs/main")])
open("page.html", "w").write(page)
assert not [name for name in sys.modules if name.startswith("mine")]
"""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    next(tmp_path.glob("mine_*.py")).unlink()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", read],
        cwd=elsewhere,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    ends = {c.run_id: pd.read_csv(c.run_dir / "metrics.csv").iloc[-1] for c in swept}
    last = {run_id: float(row["val/mae"]) for run_id, row in ends.items()}
    expected = str([last[run_id] for run_id in sorted(last)])
    assert done.stdout.splitlines() == [expected, expected]
    page = (elsewhere / "page.html").read_text().replace(" <br>", " ")
    assert page.count(COLUMN) == 2  # of runs, and of means over seeds
    assert all(f"{value:.3f}" in page for value in last.values())


@pytest.mark.slow
def test_an_own_metric_is_printed(swept):
    loaded = results.load(swept[0].sweep_dir)
    for width in (200, 100):  # as a whole, and without predictions
        written = io.StringIO()
        tables.print_table(loaded, Console(file=written, width=width))
        lines = [line.rstrip() for line in written.getvalue().splitlines() if line.strip()]
        runs = next(n for n, line in enumerate(lines) if "sigma: noise" in line)
        lines = lines[:runs]  # without the means
        [header] = [n for n, line in enumerate(lines) if line.endswith("  run")]
        assert lines[header - 2].endswith("val mean")
        assert lines[header - 1].endswith("absolute error")
        assert lines[header].endswith("(8-bit levels)  run")
        values = [f"{value:.3f}" for value in loaded.finals["val/mae"]]
        last = [line.split()[-2:-1] for line in lines[header + 1 :]]  # a label may wrap
        assert [word for [word] in filter(None, last) if word in values] == values


@pytest.mark.slow
def test_means_over_seeds_have_the_spread_of_an_own_metric(swept):
    loaded = results.load(swept[0].sweep_dir, [c.run_id for c in swept])
    board = tables.means_table(loaded, style.of_points(loaded.finals))
    assert board is not None
    column = board.numbers.index(COLUMN)
    values = loaded.finals["val/mae"].to_numpy().reshape(2, 2)
    for row, seeds in zip(board.rows, values, strict=True):
        # of two values, d from their mean: half of a 95% interval is tan(0.475 pi) * d
        half = math.tan(0.475 * math.pi) * np.ptp(seeds) / 2
        cell = row.cells[column]
        assert (cell.text, cell.spread) == (
            f"{seeds.mean():.3f}",
            f"±{half:.3f}",
        )


@pytest.mark.slow
def test_an_interrupted_run_goes_on_with_its_column(config_of, monkeypatch):
    whole, cut = (config_of(MAE, f"sweep={name}") for name in ("whole", "cut"))
    update = Trainer.update

    def stopped(trainer):
        if trainer.step == 13:
            raise stop.Stopped(15)
        update(trainer)

    with limited_threads(1):
        grid.run([whole])
        with monkeypatch.context() as patched:
            patched.setattr(Trainer, "update", stopped)
            with pytest.raises(stop.Stopped):
                grid.run([cut])
        assert pd.read_csv(cut.run_dir / "metrics.csv")["step"].tolist() == [0, 10]
        grid.run([cut])
    kept = cut.run_dir / "metrics.csv"
    assert kept.read_text() == (whole.run_dir / "metrics.csv").read_text()
    assert pd.read_csv(kept)["val/mae"].notna().tolist() == [True] * 3


@pytest.mark.slow
def test_the_columns_of_tanhs_range_stand_beside_a_users_own(config_of, lone_home):
    sets, point = "default,tanh_range", ("head=linear", "log.wandb.mode=offline")
    config = config_of(MAE, *point, ours=sets)
    with limited_threads(1):
        grid.run([config])
    rows = pd.read_csv(config.run_dir / "metrics.csv")
    added = [metric.name for metric in metrics.named("tanh_range")]
    assert added == [
        *("psnr_tanh_range", "mse_pixel_tanh_range", "bits_per_dim_calibrated_tanh_range")
    ]
    for name in (*added, "mae"):
        assert rows[[f"train/{name}", f"val/{name}"]].notna().all(axis=None)
        assert rows[f"test/{name}"].notna().tolist() == [False, False, True]
    loaded = results.load(config.sweep_dir)
    last = loaded.finals.iloc[0]
    written = io.StringIO()
    tables.print_table(loaded, Console(file=written, width=400))
    printed = written.getvalue()
    page = html.page([config.sweep_dir])
    shown = results.table(loaded)
    where = "in tanh's range"
    columns = {
        added[0]: (f"val PSNR {where} (dB)", 2),
        added[1]: (f"val mean squared error {where} (pixels in [0, 1])", 5),
        added[2]: (f"val calibrated ELBO {where} (bits per dimension)", 3),
        "mae": (COLUMN, 3),
    }
    for name, (column, digits) in columns.items():
        value = last[f"val/{name}"]
        assert shown[column].tolist() == [value] == [rows[f"val/{name}"].iloc[-1]]
        assert f"{value:.{digits}f}" in printed
        assert f"{value:.{digits}f}" in page
    [file] = wandb_folder(config).glob("offline-run-*/*.wandb")
    told = [row for row in history(file) if "val/mae" in row]
    for name in added:
        assert [row[f"val/{name}"] for row in told] == rows[f"val/{name}"].tolist()
