"""What a release to come may add, tried on copies of this one: a metric, keys with neutral
values, another version of an option. Runs that are finished stay finished.

The golden sweeps, which the copies find, have version 1 of the metrics: so have the copies.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml
from test_golden import GOLDEN, SCHEMAS, TINY

from vae_sweep.records import reader, results

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
THEN = {"conf/metric/default.yaml": (("# @version 2\n", ""),)}
CHANGES = {  # file -> what stands there, and what the release to come has in its place
    "vae_sweep/training/metrics.py": (
        (
            '        Metric("kl", kl,',
            '        Metric("kl_per_unit", kl, lambda kl: kl / 4),\n'
            '        Metric("kl", kl,',
        ),
    ),
    "vae_sweep/config.py": (
        ("    eval_every: Count", "    ema: float = 0.0\n    eval_every: Count"),
        ("    norm: Norm\n", "    norm: Norm\n    palette: str = 'plain'\n"),
    ),
    "conf/head/tanh.yaml": (("head: tanh", "# @version 2\nhead: tanh"),),
    "conf/train/default.yaml": (("steps: 2500", "ema: 0.0\nsteps: 2500"),),
    "conf/config.yaml": (("seed: 0", "seed: 0\npalette: plain"),),
}


def copied(code: Path, changes: dict[str, tuple[tuple[str, str], ...]]) -> Path:
    """A copy of the product in `code`, with changes."""
    for part in ("vae_sweep", "conf", "experiments", "hydra_plugins"):
        shutil.copytree(ROOT / part, code / part)
    for name, pairs in changes.items():
        text = (code / name).read_text()
        for old, new in pairs:
            assert text.count(old) == 1, (name, old)
            text = text.replace(old, new)
        (code / name).write_text(text)
    return code


@pytest.fixture(scope="module")
def today(tmp_path_factory) -> Path:
    """The product, with the metrics of the golden sweeps."""
    return copied(tmp_path_factory.mktemp("today"), THEN)


@pytest.fixture(scope="module")
def release(tmp_path_factory) -> Path:
    """The same with CHANGES."""
    return copied(tmp_path_factory.mktemp("release"), THEN | CHANGES)


@pytest.fixture(params=(SCHEMAS[0], pytest.param(SCHEMAS[-1], marks=pytest.mark.long)))
def sweeps(request, tmp_path) -> Path:
    """Golden sweeps as runs/, beside their images."""
    shutil.copytree(GOLDEN / request.param, tmp_path / "runs")
    shutil.copy(GOLDEN / "images.npz", tmp_path)
    return tmp_path


def run(code: Path, folder: Path, *overrides: str, path: str = "images.npz") -> str:
    """The command's output, of `code` on the sweeps in `folder`."""
    data = ("data=npz", f"data.path={path}")
    done = subprocess.run(
        [sys.executable, "-m", "vae_sweep.run", "-m", *TINY, *data, *overrides],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(code), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*.*") if path.is_file()}


def test_finished_runs_stay_finished_with_the_same_ids(release, sweeps):
    before = contents(sweeps / "runs/finished")
    out = run(release, sweeps, "sweep=finished", "norm=zscore,unit", "head=linear")
    assert "2 points have ended already" in out
    assert "training" not in out
    after = contents(sweeps / "runs/finished")
    assert {path: after[path] for path in before} == before


def test_another_version_and_other_values_are_new_runs(release, sweeps):
    old = {path.name for path in (sweeps / "runs/finished").iterdir()}
    (sweeps / "experiments").mkdir()
    (sweeps / "experiments/new.yaml").write_text(
        "common: norm=unit\n"
        "grids: [head=linear train.ema=0.5, head=linear palette=odd, head=tanh]\n"
    )
    out = run(release, sweeps, "sweep=finished", "experiments=new")
    assert "training 3 points" in out
    new = {path.name for path in (sweeps / "runs/finished").glob("unit-*")} - old
    assert len(new) == 3
    read = results.load(sweeps / "runs/finished").finals  # by this release
    assert new <= set(read["run_id"])
    [tanh_id] = [name for name in new if "tanh" in name]
    stated = yaml.safe_load(
        (sweeps / "runs/finished" / tanh_id / "config.yaml").read_text()
    )
    assert stated["versions"] == {"head": 2}
    rows = pd.read_csv(sweeps / "runs/finished" / tanh_id / "metrics.csv")
    assert (rows["val/kl_per_unit"] == rows["val/kl"] / 4).all()


def test_an_interrupted_run_goes_on_with_the_columns_that_it_has(release, sweeps):
    sweep = sweeps / "runs/interrupted"
    [folder] = sweep.glob("zscore-linear-*")
    before = (folder / "metrics.csv").read_text()
    out = run(release, sweeps, "sweep=interrupted", "norm=zscore", "head=linear")
    assert "1 point goes on from step 20 of 40" in out
    after = (folder / "metrics.csv").read_text()
    assert after.startswith(before)
    assert reader.read_rows(folder).steps == [0, 10, 20, 30, 40]
    assert "kl_per_unit" not in after


def test_this_release_reads_what_the_one_to_come_wrote(release, today, sweeps):
    point = ("sweep=new", "norm=unit", "head=linear")
    run(release, sweeps, *point)
    loaded = results.load(sweeps / "runs/new")
    assert loaded.skipped == {}
    assert loaded.curves["val/kl_per_unit"].notna().all()
    out = run(today, sweeps, *point)  # its new keys have their neutral values
    assert "1 point has ended already" in out


def test_images_that_were_moved_retrain_nothing(today, sweeps):
    (sweeps / "mnt").mkdir()
    (sweeps / "images.npz").rename(sweeps / "mnt/pictures.npz")
    before = contents(sweeps / "runs/finished")
    grid = ("sweep=finished", "norm=zscore,unit", "head=linear")
    for path in ("mnt/pictures.npz", str(sweeps / "mnt/pictures.npz")):
        out = run(today, sweeps, *grid, path=path)
        assert "2 points have ended already" in out
        assert "training" not in out
    after = contents(sweeps / "runs/finished")
    assert {path: after[path] for path in before} == before
    point = ("sweep=interrupted", "norm=zscore", "head=linear")
    out = run(today, sweeps, *point, path="mnt/pictures.npz")
    assert "1 point goes on from step 20 of 40" in out


def test_other_images_under_the_old_path_are_other_runs(today, sweeps):
    import numpy as np

    with np.load(sweeps / "images.npz") as file:
        np.savez(sweeps / "images.npz", images=255 - file["images"])
    grid = ("sweep=finished", "norm=unit", "head=linear")
    assert "training 1 point" in run(today, sweeps, *grid)
