import hashlib
import json
import math
import os
import re
import shutil

import numpy as np
import pytest
import torch
from filelock import FileLock
from helpers import TINY, claim_elsewhere, make_config
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from vae_sweep.errors import UserError
from vae_sweep.records import claim, reader, results, run_folder
from vae_sweep.records.checkpoint import State, StateShape
from vae_sweep.records.reader import Unreadable
from vae_sweep.records.run_folder import RecordsChanged, RunFolder, enter
from vae_sweep.records.summary import Summary
from vae_sweep.training.metrics import columns

ABOUT = Summary.of(
    {
        **{"status": "running", "beta": 1.0, "implied_sigma": 36.0, "psnr_cap": math.inf},
        **{"predicted": {}, "steps": 0, "total_steps": 100, "device": "cpu", "threads": 1},
        **{"command": "python -m vae_sweep.run", "versions": {"torch": "2"}},
        "commit": None,
    }
)
SHAPE = StateShape(  # of a run that has one tensor, and moments of it from step 1 on
    {"w": (torch.Size([3]), torch.float32)}, {"m": (torch.Size([3]), torch.float32)}
)


def state_of(step: int, fill: float = 1.0) -> State:
    moments = {"m": torch.full((3,), fill)} if step else {}
    return State(step, {"w": torch.full((3,), fill), **moments})


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    config = make_config(*TINY, f"runs={tmp_path}", "train.eval_every=10")
    folder = RunFolder(config, "abc")
    folder.open(ABOUT, columns(folder.config))
    return folder


def again(folder: RunFolder) -> RunFolder:
    """The same folder in a later process."""
    return RunFolder(folder.config, "abc")


def trained(folder: RunFolder, step: int) -> RunFolder:
    """`folder` after `step` steps, with its rows and a checkpoint; a later process's."""
    for at in range(0, step + 1, 10):
        folder.append(row_of(at, **{"val/kl": 0.1 + at}))
    folder.save_state(state_of(step))
    return again(folder)


def ended(folder: RunFolder, step: int = 20, **values: object) -> RunFolder:
    trained(folder, step)
    folder.finish(ABOUT.but(status="finished", steps=step, **values))
    return again(folder)


def row_of(step: int, **values: float) -> dict[str, float]:
    return {"step": step, "epoch": step / 7, **values}


def test_rows_come_back_as_the_floats_they_were(folder):
    values = [1 / 3, 2e-300, math.inf, -7.0]
    for step, value in enumerate(values):
        folder.append(row_of(step, **{"val/kl": value}))
    back = list(again(folder).rows())
    assert [r["val/kl"] for r in back] == values
    assert [r["epoch"] for r in back] == [0, 1 / 7, 2 / 7, 3 / 7]
    assert math.isnan(back[0]["test/kl"])
    header = (folder.path / "metrics.csv").read_text().split("\n")[0]
    assert tuple(header.split(",")) == columns(folder.config)


@pytest.mark.parametrize("step", [0, 7, 10, 20])
def test_state_comes_back_bit_for_bit(folder, step):
    later = trained(folder, 10 * (step // 10))
    state = State(step, {n: torch.randn(3) for n in state_of(step).tensors})
    folder.save_state(state)
    resumed = later.resume(SHAPE, 100)
    assert resumed.complaint is None
    assert resumed.state.step == step
    assert resumed.evaluated == (step % 10 == 0)
    assert all(torch.equal(resumed.state.tensors[n], t) for n, t in state.tensors.items())


@pytest.mark.parametrize("cut", [1, 5, 30])
def test_a_torn_row_is_dropped(folder, cut):
    later = trained(folder, 10)
    path = folder.path / "metrics.csv"
    whole = path.read_bytes()
    folder.append(row_of(20))
    path.write_bytes(path.read_bytes()[:-cut])
    assert later.resume(SHAPE, 100).evaluated
    assert path.read_bytes() == whole


def test_rows_beyond_the_checkpoint_are_written_again(folder):
    later = trained(folder, 10)
    whole = (folder.path / "metrics.csv").read_bytes()
    folder.append(row_of(20))
    assert later.resume(SHAPE, 100).state.step == 10
    assert (folder.path / "metrics.csv").read_bytes() == whole


def test_a_checkpoint_written_before_its_row_is_gone_on_from(folder):
    """As a signal leaves it at step 0 and at step 10, whose evaluation it broke off."""
    folder.save_state(state_of(0))
    assert again(folder).resume(SHAPE, 100)[1:] == (None, False)
    folder.append(row_of(0))
    folder.save_state(state_of(10))
    assert again(folder).resume(SHAPE, 100)[1:] == (None, False)


def test_a_run_killed_at_its_first_checkpoint_leaves_nothing(folder):
    folder.append(row_of(0))
    assert again(folder).resume(SHAPE, 100) == (None, None, False)
    assert not list(folder.path.glob("*.old-*"))
    assert list(again(folder).rows()) == []


def test_rows_without_a_checkpoint_are_kept_aside(folder):
    later = trained(folder, 20)
    (folder.path / "state.safetensors").unlink()
    resumed = later.resume(SHAPE, 100)
    assert resumed.state is None
    assert "has rows but no checkpoint: starting over" in resumed.complaint
    assert (folder.path / "metrics.csv.old-1").exists()


def test_pictures_of_a_run_that_is_repeated_are_kept(folder):
    later = trained(folder, 20)
    picture = folder.path / "reconstructions.png"
    picture.write_bytes(b"drawn")
    later.start_over()
    assert not picture.exists()
    assert (folder.path / "reconstructions.png.old-1").read_bytes() == b"drawn"


@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_a_truncated_checkpoint_is_kept_aside_and_the_run_starts_over(folder, keep):
    later = trained(folder, 20)
    path = folder.path / "state.safetensors"
    content = path.read_bytes()[:keep]
    path.write_bytes(content)
    resumed = later.resume(SHAPE, 100)
    assert resumed.state is None
    assert "is truncated or damaged: starting over" in resumed.complaint
    assert (folder.path / "state.safetensors.old-1").read_bytes() == content
    assert (folder.path / "metrics.csv.old-1").exists()
    assert list(later.rows()) == []
    assert later.resume(SHAPE, 100) == (None, None, False)


MISFITS = {
    "a tensor missing": ({"w": None}, "w is missing"),
    "a moment missing": ({"m": None}, "m is missing"),
    "a tensor extra": ({"x": torch.ones(2)}, "it has no place for x"),
    "another shape": ({"w": torch.ones(1, 3)}, r"w is torch.float32 \[1, 3\]"),
    "another type": ({"w": torch.ones(3).double()}, "w is torch.float64"),
    "a moment too short": ({"m": torch.ones(2)}, r"m is .* \[2\], must be .* \[3\]"),
}


@pytest.mark.parametrize("case", MISFITS)
def test_a_checkpoint_that_does_not_fit_is_kept_aside(folder, case):
    changes, complaint = MISFITS[case]
    later = trained(folder, 20)
    tensors = {**state_of(20).tensors, **changes}
    folder.save_state(State(20, {n: t for n, t in tensors.items() if t is not None}))
    resumed = later.resume(SHAPE, 100)
    assert resumed.state is None
    assert re.search(f"does not fit this run: {complaint}", str(resumed.complaint))
    assert (folder.path / "state.safetensors.old-1").exists()


@pytest.mark.parametrize("step", [-10, 110])
def test_a_checkpoint_of_an_impossible_step_is_kept_aside(folder, step):
    later = trained(folder, 20)
    folder.save_state(state_of(step))
    resumed = later.resume(SHAPE, 100)
    assert resumed.state is None
    assert f"its step is {step}, the run has 100" in resumed.complaint


def test_an_altered_checkpoint_is_kept_aside(folder):
    later = trained(folder, 20)
    path = folder.path / "state.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert "does not match its digest" in later.resume(SHAPE, 100).complaint


def last_line(text: str) -> str:
    return text.splitlines(keepends=True)[-1]


DAMAGES = {
    "junk": lambda text: "garbage",
    "another table": lambda text: "step,epoch\n1,2\n",
    "empty": lambda text: "",
    "no number": lambda text: text.replace("10.1", "oops"),
    "a digit": lambda text: text.replace("10.1", "10.2"),
    "a row missing": lambda text: text.replace(last_line(text), ""),
    "a row doubled": lambda text: text + last_line(text),
    "rows swapped": lambda text: "".join(
        [*text.splitlines(True)[:2], *reversed(text.splitlines(True)[2:])]
    ),
    "a column renamed": lambda text: text.replace("val/kl", "val/lk"),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_damaged_rows_are_kept_aside_with_their_checkpoint(folder, case):
    later = trained(folder, 20)
    path = folder.path / "metrics.csv"
    text = path.read_text()
    path.write_text(DAMAGES[case](text))
    assert path.read_text() != text
    resumed = later.resume(SHAPE, 100)
    assert resumed.state is None
    assert "starting over, kept state.safetensors.old-1" in resumed.complaint
    assert (folder.path / "metrics.csv.old-1").exists()


@pytest.mark.parametrize("case", DAMAGES)
def test_an_ended_run_with_other_rows_has_not_ended(folder, case):
    later = ended(folder)
    assert later.ended()[0].status == "finished"
    path = folder.path / "metrics.csv"
    path.write_text(DAMAGES[case](path.read_text()))
    summary, complaint = later.ended()
    assert summary is None
    assert "metrics.csv" in complaint


def test_a_checkpoint_of_other_data_is_kept_aside(folder):
    trained(folder, 20)
    other = RunFolder(folder.config, "other images")
    assert other.ended() == (None, None)
    resumed = other.resume(SHAPE, 100)
    assert resumed.state is None
    assert "is of another configuration or data" in resumed.complaint
    again(folder).save_state(state_of(20))
    other.resume(SHAPE, 100)
    kept = sorted(p.name for p in folder.path.glob("state*.old-*"))
    assert kept == ["state.safetensors.old-1", "state.safetensors.old-2"]


def test_a_summary_says_running_until_the_run_ends(folder):
    content = json.loads((folder.path / "summary.json").read_text())
    assert (content["status"], content["schema"]) == ("running", 3)
    assert content["total_steps"] == 100
    assert again(folder).ended() == (None, None)
    later = ended(folder, final={"a": math.nan})
    summary, complaint = later.ended()
    assert complaint is None
    assert summary.rows == 3
    rows = (folder.path / "metrics.csv").read_bytes()
    assert summary.metrics_sha256 == hashlib.sha256(rows).hexdigest()
    assert summary.psnr_cap is None
    assert summary.final == {"a": None}
    assert RunFolder(folder.config, "other images").ended() == (None, None)


SUMMARIES = {
    "torn": lambda text: text[:40],
    "a list": lambda text: "[]",
    "no text": lambda text: "\0\udcff",
    "another type": lambda text: text.replace('"steps": 20', '"steps": "20"'),
    "a key missing": lambda text: text.replace('"status"', '"state"'),
    "another number": lambda text: text.replace('"beta": 1.0', '"beta": 2.0'),
    "another status": lambda text: text.replace('"finished"', '"diverged"'),
    "nan": lambda text: text.replace('"beta": 1.0', '"beta": NaN'),
    "deep": lambda text: "[" * 100_000,
}


@pytest.mark.parametrize("case", SUMMARIES)
def test_a_damaged_summary_is_kept_aside_and_the_run_ends_again(folder, case):
    later = ended(folder)
    path = folder.path / "summary.json"
    text = path.read_text()
    path.write_text(SUMMARIES[case](text), errors="surrogateescape")
    damaged = path.read_bytes()
    assert damaged != text.encode()
    summary, complaint = later.ended()
    assert summary is None
    assert complaint.startswith("summary.json")
    assert later.resume(SHAPE, 20).state.step == 20  # with all of its rows
    later.open(ABOUT, columns(folder.config))
    assert (folder.path / "summary.json.old-1").read_bytes() == damaged
    later.finish(ABOUT.but(status="finished", steps=20))
    assert again(folder).ended()[0] is not None


def test_files_changed_while_a_run_trains_are_noticed(folder):
    trained(folder, 20)
    path = folder.path / "metrics.csv"
    whole = path.read_bytes()
    for content in (whole[:-5], whole + b"x", b""):
        path.write_bytes(content)
        for write in (
            lambda: folder.append(row_of(30)),
            lambda: folder.save_state(state_of(30)),
            lambda: folder.finish(ABOUT),
        ):
            with pytest.raises(RecordsChanged, match="removed or altered"):
                write()
        assert path.read_bytes() == content
    shutil.rmtree(folder.path)
    with pytest.raises(RecordsChanged):
        folder.append(row_of(30))


def test_what_is_of_the_wrong_kind_is_kept_aside(folder):
    later = ended(folder)
    for name in ("config.yaml", "reconstructions.png"):
        (folder.path / name).unlink(missing_ok=True)
        (folder.path / name).mkdir()
    (folder.path / ".hydra").write_text("a file")
    said = later.repair()
    assert len(said) == 4  # three, and config.yaml is written anew
    assert {p.name for p in folder.path.glob("*.old-1")} == {
        "config.yaml.old-1",
        "reconstructions.png.old-1",
        ".hydra.old-1",
    }
    assert (folder.path / ".hydra.old-1").read_text() == "a file"
    assert reader.read_config(folder.path) == folder.config
    assert later.repair() == []
    assert later.ended()[0] is not None


@pytest.mark.parametrize("name", ["config.yaml", "metrics.csv", "summary.json"])
def test_a_pipe_in_place_of_a_file_is_kept_aside_and_not_waited_for(folder, name):
    later = ended(folder)
    (folder.path / name).unlink()
    os.mkfifo(folder.path / name)
    with pytest.raises(UserError, match="pipe or device"):
        results.load(folder.path.parent)
    later.repair()
    assert (folder.path / f"{name}.old-1").is_fifo()
    assert later.resume(SHAPE, 100).state is None or name != "metrics.csv"


@pytest.mark.parametrize(
    "content", ["", "[1]", "norm: [", "norm: zscore", "\0", "a: &a [*a]"]
)
def test_a_damaged_configuration_is_written_anew(folder, content):
    path = folder.path / "config.yaml"
    right = path.read_text()
    path.write_text(content)
    with pytest.raises(Unreadable, match=r"config\.yaml"):
        reader.read_config(folder.path)
    [said] = folder.repair()
    assert "written anew, kept as config.yaml.old-1" in said
    assert path.read_text() == right
    assert (folder.path / "config.yaml.old-1").read_text() == content


def test_another_runs_configuration_is_found_out(folder, tmp_path):
    other = RunFolder(make_config(*TINY, f"runs={tmp_path}", "seed=7"), "abc")
    other.open(ABOUT, columns(folder.config))
    path = folder.path / "config.yaml"
    path.write_bytes((other.path / "config.yaml").read_bytes())
    assert reader.read_config(folder.path).seed == 7  # it is whole
    [said] = folder.repair()
    assert "another run's" in said
    path.write_text(path.read_text().replace("seed: 0", "seed: 1"))
    with pytest.raises(Unreadable, match="altered"):
        reader.read_config(folder.path)


def test_another_runs_summary_is_said_and_kept(folder, tmp_path):
    later = ended(folder)
    other = RunFolder(make_config(*TINY, f"runs={tmp_path}", "seed=1"), "abc")
    other.open(ABOUT.but(run_id=other.config.run_id), columns(folder.config))
    content = (other.path / "summary.json").read_bytes()
    (later.path / "summary.json").write_bytes(content)
    assert later.ended() == (None, "summary.json is another run's")
    later.open(ABOUT, columns(folder.config))
    assert (later.path / "summary.json.old-1").read_bytes() == content
    assert not reader.read_summary(later.path).states("run_id")


@pytest.mark.parametrize("change", ["another picture", "one pixel", "no PNG"])
def test_a_picture_that_the_run_did_not_draw_is_noticed(folder, change):
    pixels = np.zeros((2, 1, 4, 4, 3), np.uint8)
    path = folder.save_picture(*pixels)
    later = ended(folder)
    assert later.ended()[1] is None
    assert reader.read_picture(folder.path, later.ended()[0]) is not None
    pixels[0, 0, 0, 0] = 1 if change == "one pixel" else 200
    folder.save_picture(*pixels)
    if change == "no PNG":
        path.write_bytes(b"junk")
    summary, complaint = later.ended()
    assert summary is not None  # its numbers are whole
    assert complaint is not None
    assert "reconstructions.png is not the one that the run drew" in complaint
    assert reader.read_picture(folder.path, summary) is None


@pytest.mark.parametrize("damage", ["missing", "altered", "a folder"])
def test_a_damaged_training_curve_costs_no_result(folder, damage):
    folder.curve.append([(0, 1.0, 2.0, 3.0), (10, 1.5, 2.5, 3.5)])
    later = trained(folder, 20)
    if damage != "altered":
        folder.curve.path.unlink()
    if damage == "a folder":
        folder.curve.path.mkdir()
    if damage == "altered":
        folder.curve.path.write_text(folder.curve.path.read_text().replace("1.5", "1.6"))
    resumed = later.resume(SHAPE, 100)
    assert resumed.state.step == 20
    assert resumed.evaluated
    assert "training.csv" in resumed.complaint
    assert later.rows().steps == [0, 10, 20]
    assert len(later.training()) == 0


def test_a_run_that_starts_over_keeps_its_old_curve_aside(folder):
    folder.curve.append([(0, 1.0, 2.0, 3.0)])
    later = trained(folder, 20)
    (folder.path / "state.safetensors").unlink()
    assert "training.csv.old-1" in later.resume(SHAPE, 100).complaint
    assert not folder.curve.path.exists()


@pytest.mark.parametrize("damage", ["missing", "a digit", "a row more"])
def test_a_training_curve_that_the_run_did_not_write_is_left_out(folder, damage):
    folder.curve.append([(0, 1.0, 2.0, 3.0), (10, 1.5, 2.5, 3.5)])
    later = ended(folder)
    summary, complaint = later.ended()
    assert complaint is None
    assert later.training(summary).steps == [0, 10]
    text = folder.curve.path.read_text()
    folder.curve.path.write_text(
        text.replace("1.5", "1.6") if damage == "a digit" else text + "20,1,2,3\n"
    )
    if damage == "missing":
        folder.curve.path.unlink()
    summary, complaint = later.ended()
    assert summary.status == "finished"
    assert "training.csv is not the one that the run wrote" in complaint
    assert len(later.training(summary)) == 0


def test_a_damaged_curve_with_a_forged_digest_is_left_out(folder):
    later = ended(folder)
    folder.curve.path.write_text("step,loss,mse,kl\n0,one,2,3\n")
    digest = hashlib.sha256(folder.curve.path.read_bytes()).hexdigest()
    assert len(later.training(Summary(status="finished", training_sha256=digest))) == 0


def test_samples_are_a_picture_like_the_others(folder):
    pixels = np.zeros((2, 3, 4, 5, 2), np.uint8)  # two rows of three, two channels
    path = folder.save_picture(*pixels, name="samples.png")
    assert path == folder.path / "samples.png"
    with Image.open(path) as image:
        assert (image.size, image.mode) == ((15, 8), "L")
    later = ended(folder)
    summary, complaint = later.ended()
    assert complaint is None
    assert summary.samples_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert reader.read_picture(folder.path, summary, "samples.png") is not None
    folder.save_picture(*(pixels + 1), name="samples.png")
    assert reader.read_picture(folder.path, summary, "samples.png") is None
    assert "samples.png is not the one that the run drew" in later.ended()[1]


def to_schema(path, schema):
    """States another schema in a file of a run."""
    if path.suffix == ".yaml":
        path.write_text(
            path.read_text().replace(f"schema: {reader.SCHEMA}", f"schema: {schema}")
        )
    elif path.suffix == ".json":
        path.write_text(json.dumps({**json.loads(path.read_text()), "schema": schema}))
    else:
        with safe_open(path, "numpy") as file:
            meta = {**file.metadata(), "schema": str(schema)}
        save_file(load_file(path), path, meta)


@pytest.mark.parametrize("name", ["config.yaml", "summary.json", "state.safetensors"])
def test_what_a_later_version_wrote_is_refused_and_left_alone(folder, name):
    later = trained(folder, 20) if name == "state.safetensors" else ended(folder)
    to_schema(folder.path / name, reader.SCHEMA + 1)
    before = {path: path.read_bytes() for path in folder.path.iterdir()}
    said = rf"{name} was written by a later version \(schema .*update vae-sweep, or set"

    def go_on() -> None:
        later.repair()
        later.ended()
        later.resume(SHAPE, 100)

    with pytest.raises(UserError, match=said):
        go_on()
    assert {path: path.read_bytes() for path in folder.path.iterdir()} == before
    if name != "state.safetensors":
        with pytest.raises(UserError, match="later version"):
            results.load(folder.path.parent)


@pytest.mark.parametrize("schema", [True, "2", None, 2.0, []])
def test_a_schema_that_is_no_number_is_damage(folder, schema):
    ended(folder)
    to_schema(folder.path / "summary.json", schema)
    with pytest.raises(Unreadable, match=r"damaged|altered"):
        reader.read_summary(folder.path)


def test_picture_is_originals_above_reconstructions(folder):
    rng = np.random.default_rng(0)
    for channels in (3, 1):
        a, b = rng.integers(0, 256, (2, 4, 5, 6, channels), dtype=np.uint8)
        pixels = np.asarray(Image.open(folder.save_picture(a, b)))
        assert pixels.shape[:2] == (10, 24)
        np.testing.assert_array_equal(pixels.reshape(10, 24, -1)[:5, 6:12], a[1])
        np.testing.assert_array_equal(pixels.reshape(10, 24, -1)[5:, 18:], b[3])


def test_a_sweep_that_an_earlier_version_trains_is_refused(tmp_path):
    with FileLock(tmp_path / ".lock"):
        with pytest.raises(UserError, match=r"an earlier version .* is training in"):
            enter(tmp_path)
    enter(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] in ([".lock"], [])


def test_what_a_run_that_was_taken_over_wrote_is_its_last(folder):
    folder.claim = claim.take(folder.path)
    folder.append(row_of(0))
    before = {path: path.read_bytes() for path in folder.path.iterdir()}
    folder.claim.path.unlink()
    claim_elsewhere(folder.path, 2)
    curve = folder.path / "training.csv"
    for write in (
        lambda: folder.append(row_of(10)),
        lambda: folder.open(ABOUT, columns(folder.config)),
        lambda: folder.save_state(state_of(10)),
        lambda: folder.save_picture(np.zeros((1, 4, 4, 3), np.uint8)),
        lambda: folder.finish(ABOUT.but(status="finished")),
        lambda: folder.resume(SHAPE, 100),
    ):
        with pytest.raises(RecordsChanged, match="taken over by elsewhere, process 7"):
            write()
    del before[folder.claim.path]
    assert {path: path.read_bytes() for path in before} == before
    assert not curve.exists()


def test_a_sweep_folder_that_cannot_be_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"must be writable.*set runs="):
        enter(tmp_path / "file" / "sweep")


def test_config_is_stated_in_the_folder(folder):
    import yaml

    stated = yaml.safe_load((folder.path / "config.yaml").read_text())
    assert stated.pop("schema") == 3
    assert stated.pop("run_id") == folder.config.run_id
    assert stated == json.loads(folder.config.model_dump_json())


def test_the_environment_has_the_command_as_typed(monkeypatch):
    monkeypatch.setattr("sys.argv", ["run.py", "-m", "norm=unit", "data.path=my images"])
    found = run_folder.environment()
    expected = "python -m vae_sweep.run -m norm=unit 'data.path=my images'"
    assert found["command"] == expected
    with run_folder.carrying_out(["seed=3"]):
        assert run_folder.environment()["command"] == "python -m vae_sweep.run seed=3"
    assert run_folder.environment()["command"] == expected


@pytest.mark.parametrize(("steps", "same"), [(510, True), (500, True), (499, False)])
def test_a_warmup_that_follows_from_the_images_is_part_of_the_identity(
    tmp_path, steps, same
):
    """Of epochs the run_id says 50 steps, as it always did; the images say the rest."""
    config = make_config(*TINY, f"runs={tmp_path}", "train.epochs=3")
    assert config.decisive["train"]["lr_warmup"] == 50
    identity = RunFolder(config, "abc", steps).identity
    assert (identity == RunFolder(config, "abc").identity) == same


def test_a_version_is_stated_of_what_is_installed(monkeypatch):
    """torchvision is an extra."""
    known = run_folder.version

    def version(name):
        if name == "torchvision":
            raise run_folder.PackageNotFoundError(name)
        return known(name)

    monkeypatch.setattr(run_folder, "version", version)
    stated = run_folder._machine.__wrapped__()["versions"]
    assert stated.keys() == {*run_folder.DISTRIBUTIONS} - {"torchvision"}
