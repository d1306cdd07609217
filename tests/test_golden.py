"""Run folders written by earlier versions stay readable, finished, and can be resumed.

They have version 1 of the metrics, so that what is typed today names other runs. Where a
test says `as_then`, the version is 1 again: what it tries is whether files are found, read
and gone on with.
"""

import json
import math
import shutil
from pathlib import Path

import pandas as pd
import pytest
from helpers import make_config

from vae_sweep import grid, options, report
from vae_sweep.config import RunConfig
from vae_sweep.records import reader, results
from vae_sweep.training.device import limited_threads

pytestmark = pytest.mark.slow

GOLDEN = Path(__file__).parent / "golden"
SCHEMAS = ("schema1", "schema2", "schema3")
SWEEPS = ("finished", "interrupted", "diverged", "image_folder")
TINY = (
    *("model=small", "model.latent=4", "model.widths=[4,8]", "model.norm_layer=none"),
    *("train.batch_size=8", "train.lr=0.001", "beta=constant", "model.output_init=random"),
    *("train.device=cpu", "train.workers=1", "train.eval_every=10", "train.steps=40"),
    *("log.reconstructions=4", "log.wandb.mode=disabled", "data.cache=cache"),
)
NPZ = ("data=npz", "data.path=images.npz")
FOLDER = (
    *("data=image_folder", "data.path=folder", "norm=minus1_1", "head=tanh"),
    *("train.steps=null", "train.epochs=170", "train.eval_every=255"),
)


BLACK = ("data.background=black",)
BACKGROUND = {"schema1": (), "schema2": BLACK, "schema3": BLACK}  # of image_folder


@pytest.fixture(params=SCHEMAS)
def schema(request) -> str:
    return request.param


@pytest.fixture
def golden(schema, tmp_path, monkeypatch) -> Path:
    """A copy of the sweeps as ./runs, beside their images."""
    shutil.copytree(GOLDEN / schema, tmp_path / "runs")
    shutil.copytree(GOLDEN / "folder", tmp_path / "folder")
    shutil.copy(GOLDEN / "images.npz", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs"


@pytest.fixture
def as_then(monkeypatch) -> None:
    """What is typed names the runs that it named then."""
    stated = options.version
    monkeypatch.setattr(
        options,
        "version",
        lambda group, name: 1 if group == "metric" else stated(group, name),
    )


def config(sweep: str, *overrides: str) -> RunConfig:
    return make_config(*TINY, *overrides, f"sweep={sweep}")


def folders(sweep: Path) -> dict[str, Path]:
    return {path.name: path for path in sweep.iterdir() if path.is_dir()}


@pytest.mark.parametrize("sweep", SWEEPS)
def test_they_are_read_and_reported(golden, sweep):
    loaded = results.load(golden / sweep)
    assert loaded.skipped == {}
    assert set(loaded.finals["run_id"]) == set(folders(golden / sweep))
    expected = {"finished": "finished", "image_folder": "finished"}.get(sweep, sweep)
    assert set(loaded.finals["status"]) == {expected}
    for run_id, folder in folders(golden / sweep).items():
        rows = pd.read_csv(folder / "metrics.csv")
        read = loaded.curves[loaded.curves["run_id"] == run_id]
        assert read["step"].tolist() == rows["step"].tolist()
        assert read["val/kl"].tolist() == rows["val/kl"].tolist()
        assert reader.read_config(folder).run_id == run_id
    assert report.write(golden / sweep).stat().st_size > 10_000


@pytest.mark.usefixtures("as_then")
def test_finished_runs_are_skipped_by_the_command_that_made_them(golden, schema):
    configs = [
        *(config("finished", *NPZ, f"norm={n}", "head=linear") for n in ("zscore", "unit")),
        config(
            *("finished", *NPZ, "norm=zscore", "head=tanh", "seed=1"),
            "likelihood=gaussian_learned",
        ),
        config("image_folder", *FOLDER, *BACKGROUND[schema]),
        config("diverged", *NPZ, "norm=raw255", "head=linear", "train.lr=1e30"),
    ]
    files = {f: f.read_bytes() for c in configs for f in c.run_dir.glob("*.*")}
    assert len(files) == 5 * 5
    outcomes = grid.run(configs)
    assert [isinstance(o, grid.Diverged) for o in outcomes] == [False] * 4 + [True]
    assert {f: f.read_bytes() for f in files} == files


@pytest.mark.usefixtures("as_then")
def test_an_interrupted_run_goes_on(golden):
    point = config("interrupted", *NPZ, "norm=zscore", "head=linear")
    kept = (point.run_dir / "metrics.csv").read_text()
    assert kept.count("\n") == 1 + 3
    with limited_threads(1):
        [summary] = grid.run([point])
    assert summary.status == "finished"
    rows = (point.run_dir / "metrics.csv").read_text()
    assert rows.startswith(kept)
    assert not list(point.run_dir.glob("*.old-*"))
    whole = pd.read_csv(golden / "finished" / point.run_id / "metrics.csv")
    resumed = pd.read_csv(point.run_dir / "metrics.csv")
    of_train = [name for name in whole if name.startswith("train/")]  # other images
    whole, resumed = whole.drop(columns=of_train), resumed.drop(columns=of_train)
    pd.testing.assert_frame_equal(resumed, whole, rtol=1e-3, atol=1e-6)
    stated = json.loads((point.run_dir / "summary.json").read_text())
    assert stated["schema"] == reader.SCHEMA
    assert stated["rows"] == 5
    # its curve begins where it went on, and those before had none
    training = results.load(golden / "interrupted").training
    assert training[["run_id", "step"]].values.tolist() == [[point.run_id, 25]]
    for name in ("training.csv", "samples.png"):
        assert (point.run_dir / name).exists()


@pytest.mark.parametrize("sweep", ["finished", "interrupted"])
def test_what_is_typed_today_makes_new_runs_beside_them(golden, sweep):
    """train/ is measured on other images since version 2 of the metrics, and no
    metrics.csv has both."""
    before = {f: f.read_bytes() for f in (golden / sweep).glob("*/*.*")}
    point = config(sweep, *NPZ, "norm=zscore", "head=linear")
    assert not point.run_dir.exists()
    with limited_threads(1):
        [summary] = grid.run([point])
    assert summary.status == "finished"
    assert {f: f.read_bytes() for f in before} == before
    found = results.load(golden / sweep)
    assert found.skipped == {}
    both = found.finals[(found.finals["norm"] == "zscore") & (found.finals["seed"] == 0)]
    both = both[both["head"] == "linear"].set_index("run_id")
    assert len(both) == 2
    new = both.pop("other")
    assert "versions.metric=2" in new.pop(point.run_id)
    assert "versions.metric=1" in new.item()
    status = both.pop("status")
    assert status.pop(point.run_id) == "finished"
    assert status.item() == sweep


@pytest.mark.parametrize("schema", ["schema1"], indirect=True)
def test_old_runs_of_tanh_standardized_are_what_they_were(golden):
    """The head has another version now: the same command makes another run."""
    [old] = (golden / "finished").glob("zscore-tanh_standardized*")
    before = {f: f.read_bytes() for f in old.glob("*.*")}
    point = config("finished", *NPZ, "norm=zscore", "head=tanh_standardized")
    assert point.run_id != old.name
    [summary] = grid.run([point])
    assert summary.status == "finished"
    assert {f: f.read_bytes() for f in before} == before
    loaded = results.load(golden / "finished")
    both = loaded.finals[loaded.finals["head"] == "tanh_standardized"]
    both = both[both["norm"] == "zscore"]
    assert both["other"].nunique() == 2  # the table tells them apart
    assert math.isfinite(both["val/psnr"].min())


@pytest.mark.usefixtures("as_then")
@pytest.mark.parametrize("lost", ["last row", "all rows"])
def test_a_finished_run_without_its_rows_is_repeated(golden, lost):
    point = config("finished", *NPZ, "norm=zscore", "head=linear")
    path = point.run_dir / "metrics.csv"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-1] if lost == "last row" else lines[:1]))
    with limited_threads(1):
        [summary] = grid.run([point])
    assert summary.status == "finished"
    assert path.read_text().count("\n") == len(lines)
    assert (point.run_dir / "metrics.csv.old-1").exists()
