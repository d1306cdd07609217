import io
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import TINY, make_config
from PIL import Image
from survival.checks import told_rows

from vae_sweep import grid
from vae_sweep.config import RunConfig
from vae_sweep.errors import UserError
from vae_sweep.records import loggers

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def home(lone_home):
    yield lone_home
    loggers.drain(lone_home, timeout_s=20)


@pytest.fixture
def config(npz) -> RunConfig:
    data = ("data=npz", f"data.path={npz()}", "data.cache=cache")
    steps = ("train.steps=20", "train.eval_every=10", "log.every=4", "train.workers=1")
    tiny = [o for o in TINY if "wandb" not in o]
    return make_config(*tiny, *data, *steps, "log=[tensorboard]")


def events(config: RunConfig):
    """What TensorBoard itself reads of a run."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = config.sweep_dir / "tensorboard" / config.run_id
    return EventAccumulator(str(folder), {"scalars": 0, "images": 0}).Reload()


def scalars(config: RunConfig) -> dict[int, dict[str, float]]:
    """step -> tag -> value; a tag that comes twice at a step fails."""
    found: dict[int, dict[str, float]] = {}
    read = events(config)
    for tag in read.Tags()["scalars"]:
        for event in read.Scalars(tag):
            assert tag not in found.setdefault(event.step, {})
            found[event.step][tag] = event.value
    return found


def expected(config: RunConfig) -> dict[int, dict[str, float]]:
    return {
        int(row["step"]): {k: v for k, v in row.items() if k not in ("step", "epoch")}
        for row in told_rows(config.run_dir)
    }


def assert_whole(config: RunConfig) -> None:
    found, wanted = scalars(config), expected(config)
    assert sorted(found) == sorted(wanted) == [0, 4, 8, 10, 12, 16, 20]
    for step, values in wanted.items():
        assert found[step] == pytest.approx(values, rel=1e-6, nan_ok=True)  # of float32


def test_a_run_has_every_row_and_picture_and_its_settings(config):
    grid.run([config])
    assert_whole(config)
    read = events(config)
    assert sorted(read.Tags()["images"]) == ["reconstructions", "samples"]
    for name in read.Tags()["images"]:
        assert [image.step for image in read.Images(name)] == [0, 10, 20]
        with (
            Image.open(io.BytesIO(read.Images(name)[-1].encoded_image_string)) as ours,
            Image.open(config.run_dir / f"{name}.png") as theirs,
        ):
            assert np.array_equal(np.asarray(ours), np.asarray(theirs))
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    content = read.PluginTagToContent("hparams")["_hparams_/session_start_info"]
    given = HParamsPluginData.FromString(content).session_start_info.hparams
    assert given["norm"].string_value == "zscore"
    assert given["beta.value"].number_value == 1
    assert given["model.widths"].string_value == "[4, 8]"
    assert given["data.binarize"].string_value == "false"
    assert "log.every" not in given
    [note] = loggers.notes([config])
    assert note.endswith("tensorboard --logdir runs/main/tensorboard")


def test_a_run_that_goes_on_has_every_step_once(config):
    """A killed one has rows beyond its checkpoint; the new logger is told all anew."""
    grid.run([config])
    logger = loggers.open_all(config)
    folder = config.run_dir
    rows, batches = (
        list(csv_rows(folder / name)) for name in ("metrics.csv", "training.csv")
    )
    loggers.tell(logger, rows, batches, [folder / "samples.png"])
    assert loggers.drain(folder)
    assert_whole(config)
    assert [image.step for image in events(config).Images("samples")] == [20]


def csv_rows(path: Path):
    import csv

    with path.open() as file:
        for row in csv.DictReader(file):
            yield {key: float(value or "nan") for key, value in row.items()}


@pytest.mark.parametrize("name", ["tensorboard", "trackio"])
def test_a_missing_package_is_said_before_training(monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    config = make_config(f"log=[{name}]")
    rule = rf"log={name} needs the package {name}.*pip install 'vae-sweep\[{name}\]'"
    with pytest.raises(UserError, match=rule):
        loggers.check(config)
    with pytest.raises(UserError, match=rule):
        grid.run([config])
    assert not Path("runs").exists()


def test_any_combination_is_a_choice():
    names = ("wandb", "trackio", "tensorboard")
    for chosen in ("wandb,trackio,tensorboard", "tensorboard", "trackio,wandb", ""):
        log = make_config(f"log=[{chosen}]").log
        assert [n for n in names if getattr(log, n) is not None] == [
            n for n in names if n in chosen
        ]
    with_project = make_config("log=[trackio]", "log.trackio.project=mine").log
    assert with_project.trackio.project == "mine"
    assert make_config("log=[trackio]").run_id == make_config("log=[wandb]").run_id
