"""Every file of a sweep, damaged in every way: no traceback, no lost or wrong number.

`damage.py` has the kinds of damage and what is compared; `python tests/damage.py` tries
the same cases with all figures drawn, and makes the table.
"""

import gc
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import damage
import numpy as np
import pytest
import torch
from damage import ANY, Case, Damage, Workshop
from helpers import TINY, make_config, make_images

from vae_sweep.reporting import prediction_table
from vae_sweep.training.device import limited_threads
from vae_sweep.training.tune import Tuner

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def two_cores():
    with limited_threads(2):
        yield


@pytest.fixture(scope="module")
def workshop(tmp_path_factory) -> Iterator[Workshop]:
    made = Workshop(tmp_path_factory.mktemp("damage"))
    gc.collect()
    gc.freeze()  # else every collection goes through all modules, hundreds of times
    yield made
    gc.unfreeze()


# a third of the cases, of every kind and state; `make survival` tries them all
@pytest.mark.parametrize("case", damage.cases()[::3], ids=str)
def test_a_damaged_sweep_reads_and_ends_as_the_undamaged_one(
    workshop, tmp_path, case: Case
):
    outcome = workshop.try_out(case, tmp_path / "case", draws=False)
    shutil.rmtree(tmp_path)
    assert outcome.failures == []


DRAWN = (
    "metrics.csv, truncated, finished",
    "metrics.csv, missing, interrupted",
    "summary.json, predicted without fields, finished",
    "the run's folder, empty, interrupted",
)


@pytest.mark.parametrize("name", DRAWN)
def test_figures_of_a_damaged_sweep_are_drawn(workshop, tmp_path, name):
    [case] = [case for case in damage.cases() if str(case) == name]
    assert workshop.try_out(case, tmp_path / "case", draws=True).failures == []


@pytest.mark.parametrize("kind", ANY)
def test_predictions_replace_what_lies_in_their_place(tmp_path, kind):
    np.savez(tmp_path / "images.npz", images=make_images(60).permute(0, 2, 3, 1).numpy())
    data = ("data=npz", f"data.path={tmp_path}/images.npz", f"data.cache={tmp_path}/cache")
    config = make_config(*TINY, *data, f"runs={tmp_path}/runs")
    with damage.quiet():
        prediction_table.run([config])
        path = config.sweep_dir / "predicted.csv"
        whole = path.read_bytes()
        ANY[kind](path, path)
        prediction_table.run([config])
    assert path.read_bytes() == whole
    if kind == "a directory":
        assert (path.with_name("predicted.csv.old-1") / "inside").read_text() == "kept"


def of_device(timed: object) -> Damage:
    """Puts `timed` where the file has the answers of a device."""

    def replaced(value: object) -> object:
        if not isinstance(value, dict):
            return value
        if "what" in value:
            return timed
        return {key: replaced(inner) for key, inner in value.items()}

    def harm(path: Path, _: Path) -> None:
        path.write_text(json.dumps(replaced(json.loads(path.read_text()))))

    return harm


TIMINGS = {
    **{kind: harm for kind, harm in ANY.items() if kind != "missing"},
    "a list": damage.text("[]"),
    "a number": damage.text("7"),
    "a text of a device": of_device("fast"),
    "a list of a device": of_device(["fast"]),
    "a number as answer": of_device({"what": 7}),
    "a list as answer": of_device({"what": ["loop"]}),
    "an unknown answer": of_device({"what": "unheard"}),
    "nested too deep": damage.text("[" * 100_000),
    "no UTF-8": damage.text(b'{"a": "\xff"}'),
}


@pytest.mark.parametrize("kind", TIMINGS)
def test_damaged_timings_are_taken_anew(tmp_path, kind):
    device = torch.device("cpu")
    answers = ("loop", "grouped")
    Tuner(tmp_path, device).remember("what", lambda: "grouped", answers)
    path = tmp_path / "tuning.json"
    assert "grouped" in path.read_text()
    TIMINGS[kind](path, path)
    assert Tuner(tmp_path, device).remember("what", lambda: "loop", answers) == "loop"
    if kind != "a directory":
        assert "loop" in json.dumps(json.loads(path.read_text()))


def cut(folder: Path) -> None:
    for path in folder.iterdir():
        damage.truncated(path, path)


def blocked(folder: Path) -> None:
    for path in folder.iterdir():
        damage.a_directory(path, path)


HYDRAS = (
    lambda folder: shutil.rmtree(folder),
    cut,
    blocked,
    lambda folder: damage.a_file(folder, folder),
    lambda folder: damage.junk(folder / "config.yaml", folder),
)


def test_what_hydra_keeps_can_be_damaged_and_the_sweep_goes_on(tmp_path):
    """Also where a file stands in W&B's place: the command ends well and says so."""
    np.savez(tmp_path / "images.npz", images=make_images(60).permute(0, 2, 3, 1).numpy())
    options = [o for o in TINY if "wandb" not in o] + list(damage.SHARED)
    seeds = ",".join(map(str, range(len(HYDRAS))))
    arguments = (*options, "data=npz", "data.path=images.npz", f"seed={seeds}")

    def run(mode: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "vae_sweep.run", *arguments, f"log.wandb.mode={mode}"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )

    first = run("disabled")
    assert first.returncode == 0, first.stderr
    folders = sorted(p.parent for p in (tmp_path / "runs/main").glob("*/metrics.csv"))
    rows = [(folder / "metrics.csv").read_bytes() for folder in folders]
    assert len(folders) == len(HYDRAS)
    for folder, harm in zip(folders, HYDRAS, strict=True):
        assert (folder / ".hydra").is_dir()
        harm(folder / ".hydra")
    (folders[0] / "summary.json").unlink()  # one of them has something to log
    (tmp_path / "runs/main/wandb").write_text("in the way")
    again = run("offline")
    said = again.stdout + again.stderr
    assert "Traceback" not in said
    if again.returncode:
        assert again.returncode == 2
        assert ".hydra" in again.stderr
        assert again.stderr.count("\n") <= 2
    assert [(folder / "metrics.csv").read_bytes() for folder in folders] == rows
    assert json.loads((folders[0] / "summary.json").read_text())["status"] == "finished"
    assert (tmp_path / "runs/main/wandb").read_text() == "in the way"
