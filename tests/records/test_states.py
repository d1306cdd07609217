"""How far runs are, as the folders say that the product's own writer made."""

import json
import os
import platform
import subprocess
import time

import pytest
import torch
from filelock import FileLock
from helpers import claim_elsewhere, make_config, summary, write_run

from vae_sweep.errors import UserError
from vae_sweep.records import heartbeat, reader, states
from vae_sweep.records.checkpoint import State
from vae_sweep.records.claim import Claims
from vae_sweep.records.heartbeat import Heartbeat, Pulse
from vae_sweep.records.run_folder import RunFolder, list_runs
from vae_sweep.records.summary import Summary

COLUMNS = ("step", "epoch", "val/psnr")


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """Makes the folder of a run of 100 steps, by its seed, at a checkpoint of `step`."""
    monkeypatch.chdir(tmp_path)

    def opened(seed: int, step: int = 0) -> RunFolder:
        config = make_config("sweep=s", f"seed={seed}", "train.steps=100", "log=[]")
        folder = RunFolder(config, "images")
        about = Summary(status="running", run_id=config.run_id, steps=0, total_steps=100)
        folder.open(about, COLUMNS)
        for each in range(0, step + 1, 50):
            folder.append({"step": each, "epoch": 0, "val/psnr": 1})
        folder.save_state(State(step, {"w": torch.zeros(2)}))
        return folder

    return opened


def ended(folder: RunFolder, **changes) -> None:
    summary = reader.read_summary(folder.path)
    assert summary is not None
    folder.finish(summary.but(**{"status": "finished", "steps": 100, **changes}))


def beat_of(folder: RunFolder, **changes) -> None:
    """A progress.json, of this process unless another is given."""
    values = {"schema": 3, "step": 60, "total_steps": 100, "rate": 4.0}
    values |= {"time": time.time(), "host": platform.node(), "pid": os.getpid()}
    (folder.path / "progress.json").write_text(json.dumps(values | changes))


def dead_pid() -> int:
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_every_state_is_told_from_the_others(sweep):
    kinds = ["finished", "diverged", "failed", "training", "resting"]
    folders = {kind: sweep(seed, 50) for seed, kind in enumerate(kinds)}
    ended(folders["finished"])
    ended(folders["diverged"], status="diverged", diverged_at=7)
    ended(folders["failed"], status="failed", reason="no memory", steps=50)
    beat_of(folders["training"])
    beat_of(folders["resting"], pid=dead_pid(), time=time.time() - 90, step=80)
    place = folders["finished"].path.parent
    ids = {kind: folder.path.name for kind, folder in folders.items()}
    stated = {name: {"total_steps": 100} for name in ids.values()}
    list_runs(place, {**stated, "not-begun": {"total_steps": 300, "label": "tanh"}})
    with Claims() as claims:
        claims.take(folders["training"].path)
        found = {run.run_id: run for run in states.read(place).runs}
        assert [*found] == [*ids.values(), "not-begun"]
    of = {kind: found[name] for kind, name in ids.items()}
    assert (of["finished"].status, of["finished"].step) == ("finished", 100)
    assert (of["diverged"].status, of["diverged"].step) == ("diverged", 7)
    assert of["failed"][1:4] == ("failed", 50, 100)
    assert of["failed"].reason == "no memory"
    assert of["training"][1:5] == ("running", 60, 100, 4.0)
    assert of["training"].left == 10
    # it trained before, and its turn has not come: it goes on from its checkpoint
    assert of["resting"][1:5] == ("waiting", 50, 100, None)
    assert found["not-begun"][1:4] == ("waiting", 0, 300)
    assert found["not-begun"].label == "tanh"
    killed = {run.run_id: run for run in states.read(place).runs}  # nobody has claimed one
    assert killed[ids["training"]][1:4] == ("interrupted", 50, 100)
    assert killed[ids["resting"]].status == "interrupted"
    assert killed[ids["resting"]].silent == pytest.approx(90, abs=5)


def test_steps_rate_and_time_of_a_sweep(sweep):
    done, one, two = (sweep(seed) for seed in range(3))
    ended(done)
    beat_of(one, step=60, rate=4.0)  # 10 s left
    beat_of(two, step=20, rate=1.0)  # 80 s left
    place = done.path.parent
    names = [*(folder.path.name for folder in (done, one, two)), "a"]
    list_runs(place, {name: {"total_steps": 100} for name in names})
    with Claims() as claims:
        for folder in (one, two):
            claims.take(folder.path)
        found = states.read(place)
    assert found.steps == (100 + 60 + 20, 400)
    assert found.rate == 5
    assert found.left == 80  # the slowest alone; 220 steps at 5 in a second are fewer
    assert found.counts == {"finished": 1, "running": 2, "waiting": 1}


def test_a_process_of_another_machine_is_alive_while_it_is_heard_of(sweep):
    folder = sweep(0, 50)
    beat_of(folder, host="elsewhere", pid=1)
    claim_elsewhere(folder.path, age=50)
    assert states.read(folder.path.parent).runs[0].status == "running"
    claim_elsewhere(folder.path, age=70)
    [run] = states.read(folder.path.parent).runs
    assert (run.status, run.step) == ("interrupted", 50)
    claim_elsewhere(folder.path, released=True)
    assert states.read(folder.path.parent).runs[0].status == "interrupted"


def test_a_sweep_that_an_earlier_version_trains_is_running(sweep):
    """It locks the sweep and claims no run."""
    folder = sweep(0, 50)
    with FileLock(folder.path.parent / ".lock"):
        assert states.read(folder.path.parent).runs[0].status == "running"
    assert states.read(folder.path.parent).runs[0].status == "interrupted"


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"schema": 99, "step": 1}', "\x00"])
def test_a_progress_file_that_cannot_be_read_is_none(sweep, content):
    folder = sweep(0, 50)
    (folder.path / "progress.json").write_text(content)
    assert heartbeat.read(folder.path) is None
    assert states.read(folder.path.parent).runs[0][1:4] == ("interrupted", 50, 100)


def test_a_run_of_a_later_version_is_left_out_and_counted(sweep):
    good, later = sweep(0), sweep(1)
    path = later.path / "summary.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema": 99}))
    found = states.read(good.path.parent)
    assert [run.run_id for run in found.runs] == [good.path.name]
    assert "later version" in found.skipped[later.path.name]


def test_runs_without_a_summary_as_early_versions_left_them(tmp_path):
    write_run(tmp_path / "s", None)
    write_run(tmp_path / "s", summary(), seed=1)
    found = states.read(tmp_path / "s")
    assert sorted(run.status for run in found.runs) == ["finished", "interrupted"]
    assert {run.total for run in found.runs} == {20, None}


def test_what_is_no_sweep_is_refused(tmp_path):
    with pytest.raises(UserError, match="there is no folder"):
        states.read(tmp_path / "nowhere")
    with pytest.raises(UserError, match="holds no runs"):
        states.read(tmp_path)
    run_id = write_run(tmp_path / "s", summary())
    with pytest.raises(UserError, match="vae-sweep show prints a run"):
        states.read(tmp_path / "s" / run_id)


def test_a_pulse_beats_every_few_seconds_and_costs_little(tmp_path, monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr(heartbeat.time, "monotonic", lambda: clock[0])
    pulse, folders = Pulse(10, 100), [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
    pulse.beat(folders, 10)
    first = heartbeat.read(folders[1])
    assert isinstance(first, Heartbeat)
    assert (first.step, first.total_steps, first.rate) == (10, 100, None)
    assert (first.host, first.pid) == (platform.node(), os.getpid())
    clock[0] += heartbeat.EVERY_S - 1
    assert not pulse.is_due
    clock[0] += 1
    pulse.beat(folders, 30)
    assert heartbeat.read(folders[0]).rate == 20 / heartbeat.EVERY_S

    def slow(*_, **__):
        clock[0] += 1.0  # for each of two files: 2 s, of which 200 are a hundredth

    clock[0] += heartbeat.EVERY_S
    monkeypatch.setattr(heartbeat, "write_atomically", slow)
    pulse.beat(folders, 40)
    monkeypatch.undo()
    assert pulse._due == pytest.approx(clock[0] - 2 + 200)


def test_a_pulse_that_cannot_write_is_no_matter(tmp_path):
    Pulse(0, 10).beat([tmp_path / "gone"], 5)
    assert not (tmp_path / "gone").exists()


def test_a_run_that_is_killed_once_its_summary_is_written_leaves_no_progress(
    sweep, monkeypatch
):
    folder, real = sweep(0, step=100), RunFolder._write_summary
    beat_of(folder)

    def killed(self, summary):
        real(self, summary)
        raise KeyboardInterrupt

    monkeypatch.setattr(RunFolder, "_write_summary", killed)
    with pytest.raises(KeyboardInterrupt):
        ended(folder)
    summary = reader.read_summary(folder.path)
    assert summary is not None
    assert summary.status == "finished"
    assert not (folder.path / "progress.json").exists()


def test_the_order_begins_with_what_needs_a_look():
    kinds = ["finished", "waiting", "running", "interrupted", "diverged", "failed"]
    runs = [states.State(kind, kind) for kind in kinds]
    assert [run.status for run in states.order(runs)] == [
        *("failed", "diverged", "interrupted", "running", "finished", "waiting"),
    ]
