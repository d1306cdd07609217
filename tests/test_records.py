import json
import math

import numpy as np
import pytest
import torch
from conftest import TINY, make_config
from filelock import FileLock
from PIL import Image

from vae_sweep import records
from vae_sweep.config import UserError
from vae_sweep.records import COLUMNS, RunFolder, lock
from vae_sweep.trainer import State


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    folder = RunFolder(make_config(*TINY, f"runs={tmp_path}"), "abc")
    folder.open()
    return folder


def row_of(step: int, **values: float) -> dict[str, float]:
    return {"step": step, "epoch": step / 7, **values}


def test_rows_come_back_as_the_floats_they_were(folder):
    values = [1 / 3, 2e-300, math.inf, -7.0]
    for step, value in enumerate(values):
        folder.append(row_of(step, **{"val/kl": value}))
    back = folder.rows()
    assert [r["val/kl"] for r in back] == values
    assert [r["epoch"] for r in back] == [0, 1 / 7, 2 / 7, 3 / 7]
    assert math.isnan(back[0]["test/kl"])
    header = (folder.path / "metrics.csv").read_text().split("\n")[0]
    assert tuple(header.split(",")) == COLUMNS


def test_a_row_of_a_step_that_is_there_is_not_written_again(folder):
    folder.append(row_of(0))
    folder.append(row_of(10, **{"val/kl": 1.0}))
    folder.append(row_of(10, **{"val/kl": 2.0}))
    assert [(r["step"], r["val/kl"]) for r in folder.rows()][1:] == [(10, 1.0)]


@pytest.mark.parametrize("cut", [1, 5, 30])
def test_a_torn_row_is_dropped_and_written_anew(folder, cut):
    folder.append(row_of(0))
    folder.append(row_of(10, **{f"val/{n}": 0.123 for n in ("kl", "psnr")}))
    path = folder.path / "metrics.csv"
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    assert [r["step"] for r in folder.rows()] == [0]
    folder.append(row_of(10, **{f"val/{n}": 0.123 for n in ("kl", "psnr")}))
    assert path.read_bytes() == whole


def test_state_comes_back_bit_for_bit(folder):
    folder.append(row_of(17))
    tensors = {"w": torch.randn(3, 4), "generator.noise": torch.Generator().get_state()}
    folder.save_state(State(17, tensors))
    state, complaint = folder.load_state()
    assert complaint is None
    assert state is not None
    assert state.step == 17
    assert all(torch.equal(state.tensors[name], tensors[name]) for name in tensors)


@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_a_truncated_checkpoint_is_kept_aside_and_the_run_starts_over(folder, keep):
    folder.append(row_of(0))
    folder.save_state(State(17, {"w": torch.randn(300)}))
    path = folder.path / "state.safetensors"
    content = path.read_bytes()[:keep]
    path.write_bytes(content)
    state, complaint = folder.load_state()
    assert state is None
    assert "is truncated or damaged: starting over" in complaint
    assert (folder.path / "state.safetensors.old-1").read_bytes() == content
    assert (folder.path / "metrics.csv.old-1").exists()
    assert folder.rows() == []
    assert folder.load_state() == (None, None)


@pytest.mark.parametrize("content", ["garbage", "step,epoch\n1,2\n", "", None])
def test_damaged_rows_are_kept_aside_with_their_checkpoint(folder, content):
    folder.append(row_of(0))
    folder.append(row_of(17))
    folder.save_state(State(17, {"w": torch.ones(3)}))
    path = folder.path / "metrics.csv"
    cut = path.read_text().rpartition("17,")[0] + "17,oops\n"
    path.write_text(cut if content is None else content)
    state, complaint = folder.load_state()
    assert state is None
    assert "has no rows in metrics.csv: starting over" in complaint
    assert (folder.path / "metrics.csv.old-1").exists()
    assert (folder.path / "state.safetensors.old-1").exists()


def test_a_checkpoint_of_other_data_is_kept_aside(folder):
    folder.save_state(State(17, {"w": torch.ones(3)}))
    other = RunFolder(folder.config, "other images")
    state, complaint = other.load_state()
    assert state is None
    assert "is of another configuration or data" in complaint
    folder.save_state(State(18, {"w": torch.ones(3)}))
    other.load_state()
    kept = sorted(p.name for p in folder.path.glob("*.old-*"))
    assert kept == ["state.safetensors.old-1", "state.safetensors.old-2"]


def test_summary_is_of_this_configuration_and_data_only(folder):
    assert folder.summary() is None
    folder.append(row_of(20))
    folder.finish(
        {
            "status": "finished",
            "steps": 20,
            "psnr_cap": math.inf,
            "final": {"a": math.nan},
        }
    )
    summary = folder.summary()
    assert summary is not None
    assert summary["psnr_cap"] is None
    assert summary["final"] == {"a": None}
    assert set(summary["versions"]) >= {"torch", "vae-sweep"}
    assert RunFolder(folder.config, "other images").summary() is None
    for damage in ("{", "[]"):
        (folder.path / "summary.json").write_text(damage)
        assert folder.summary() is None


@pytest.mark.parametrize("content", [b"", b"garbage", b"\xff\x00\n"])
def test_a_finished_run_without_its_rows_has_not_ended(folder, content):
    folder.append(row_of(20))
    folder.finish({"status": "finished", "steps": 20})
    assert folder.summary() is not None
    (folder.path / "metrics.csv").write_bytes(content)
    assert folder.summary() is None


def test_a_run_that_diverged_may_have_none(folder):
    folder.finish({"status": "diverged", "steps": 3})
    assert folder.summary() is not None


def test_picture_is_originals_above_reconstructions(folder):
    rng = np.random.default_rng(0)
    for channels in (3, 1):
        a, b = rng.integers(0, 256, (2, 4, 5, 6, channels), dtype=np.uint8)
        pixels = np.asarray(Image.open(folder.save_picture(a, b)))
        assert pixels.shape[:2] == (10, 24)
        np.testing.assert_array_equal(pixels.reshape(10, 24, -1)[:5, 6:12], a[1])
        np.testing.assert_array_equal(pixels.reshape(10, 24, -1)[5:, 18:], b[3])


def test_a_sweep_folder_in_use_is_refused(tmp_path):
    with FileLock(tmp_path / ".lock"), pytest.raises(UserError, match="another sweep"):
        with lock(tmp_path):
            pytest.fail("locked twice")
    with lock(tmp_path):
        pass


def test_a_sweep_folder_that_cannot_be_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"must be writable.*set runs="):
        with lock(tmp_path / "file" / "sweep"):
            pytest.fail("locked a file")


def test_config_is_stated_in_the_folder(folder):
    import yaml

    stated = yaml.safe_load((folder.path / "config.yaml").read_text())
    assert stated == json.loads(folder.config.model_dump_json())


def test_the_environment_has_the_command_as_typed(monkeypatch):
    monkeypatch.setattr("sys.argv", ["run.py", "-m", "norm=unit", "data.path=my images"])
    records.environment.cache_clear()
    found = records.environment()
    records.environment.cache_clear()
    expected = "python -m vae_sweep.run -m norm=unit 'data.path=my images'"
    assert found["command"] == expected


@pytest.mark.parametrize(("steps", "same"), [(510, True), (500, True), (499, False)])
def test_a_warmup_that_follows_from_the_images_is_part_of_the_identity(
    tmp_path, steps, same
):
    """Of epochs the run_id says 50 steps, as it always did; the images say the rest."""
    config = make_config(*TINY, f"runs={tmp_path}", "train.epochs=3")
    assert config.decisive["train"]["lr_warmup"] == 50
    identity = RunFolder(config, "abc", steps).identity
    assert (identity == RunFolder(config, "abc").identity) == same
