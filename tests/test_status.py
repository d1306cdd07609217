"""What `vae-sweep status` and `vae-sweep show` print, of folders and of points."""

import json
import re
import shutil

import pytest
from helpers import Cli, said_by, summary, write_run

from vae_sweep import show, status
from vae_sweep.reporting import settings


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    folder = tmp_path / "runs" / "main"
    write_run(folder, summary(steps=20, total_steps=20))
    write_run(folder, summary(status="diverged", diverged_at=7, total_steps=20), seed=1)
    write_run(folder, summary(status="running", total_steps=20), seed=2)
    return folder


def said(module, capsys, monkeypatch, *arguments: str, code: int = 0) -> str:
    out, err = said_by(module, capsys, monkeypatch, *arguments, code=code)
    return out or err


def test_a_sweep_lists_its_runs(sweep, capsys, monkeypatch):
    out = said(status, capsys, monkeypatch, "runs/main")
    lines = out.splitlines()
    assert lines[0].startswith(
        "runs/main  interrupted: 1 finished, 1 interrupted, 1 diverged · 66 %"
    )
    rows = {line.split()[-1]: line.split() for line in lines[2:5]}
    states = {row[2]: row[3] for row in rows.values()}
    assert states == {"finished": "20/20", "diverged": "7/20", "interrupted": "0/20"}
    assert all(len(name) == 8 for name in rows)


def test_of_many_runs_those_that_need_a_look_are_listed(sweep, capsys, monkeypatch):
    monkeypatch.setattr(status, "LISTED", 2)
    lines = said(status, capsys, monkeypatch, "runs/main").splitlines()
    assert [line.split()[2] for line in lines[2:4]] == ["diverged", "interrupted"]
    assert lines[4] == "and 1 more; --all lists every run"
    assert "finished" in said(status, capsys, monkeypatch, "runs/main", "--all")


def test_without_a_folder_there_is_a_line_for_each_sweep(sweep, capsys, monkeypatch):
    write_run(sweep.parent / "other", summary(steps=20))
    lines = said(status, capsys, monkeypatch).splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["runs/main", "interrupted:"],
        ["runs/other", "ended:"],
    ]


def test_several_folders_and_json(sweep, capsys, monkeypatch):
    write_run(sweep.parent / "other", summary(steps=20))
    out = said(status, capsys, monkeypatch, "runs/main", "runs/other")
    assert "runs/main  interrupted" in out
    assert "runs/other  ended: 1 finished" in out
    told = json.loads(said(status, capsys, monkeypatch, "runs/main", "--json"))
    assert told[0]["counts"] == {"finished": 1, "diverged": 1, "interrupted": 1}
    assert {run["status"] for run in told[0]["runs"]} == {*told[0]["counts"]}


def test_a_run_of_a_later_version_is_counted(sweep, capsys, monkeypatch):
    run_id = write_run(sweep, summary(schema=99), seed=3)
    out = said(status, capsys, monkeypatch, "runs/main")
    assert "1 left out" in out
    assert f"left out 1: {run_id} (summary.json was written by a" in out


def test_a_copy_is_left_out_and_nothing_but_damage_is_no_end(sweep, capsys, monkeypatch):
    run_id = write_run(sweep, summary(run_id="of its own"), seed=5)
    (sweep / run_id).rename(sweep / "of its own")
    shutil.copytree(sweep / "of its own", sweep / "copy")
    out = said(status, capsys, monkeypatch, "runs/main")
    assert "left out 1: copy (copy of of its own)" in out
    damaged = sweep.parent / "damaged"
    run_id = write_run(damaged, summary())
    (damaged / run_id / "summary.json").write_text("{")
    assert "unreadable: 1 left out" in said(status, capsys, monkeypatch, "runs/damaged")


@pytest.mark.parametrize(
    "stated",
    [{"total_steps": "x"}, {"total_steps": [1]}, {"total_steps": -5}, {"label": 5}],
)
def test_a_damaged_list_is_not_read(sweep, capsys, monkeypatch, stated):
    about = {"command": "c", "time": "2026-01-01T00:00:00+00:00", **stated}
    content = {"schema": 3, "runs": {"unit-linear-b1-s9-00000000": about}}
    (sweep / "sweep.json").write_text(json.dumps(content))
    assert "waiting" not in said(status, capsys, monkeypatch, "runs/main")


@pytest.mark.parametrize("width", ["40", "80"])
def test_lines_fit_a_narrow_terminal(sweep, capsys, monkeypatch, width):
    monkeypatch.setattr(status.Console, "is_terminal", True)
    monkeypatch.setenv("COLUMNS", width)
    monkeypatch.setenv("TERM", "xterm")
    out = said(status, capsys, monkeypatch, "runs/main")
    lines = re.sub(r"\x1b\[[0-9;]*m", "", out).splitlines()
    assert ("steps/s" in lines[1]) == (width == "80")
    assert all(len(line) <= int(width) for line in lines[1:5])


def test_a_run_is_shown_by_its_hash(sweep, capsys, monkeypatch):
    run_id = write_run(sweep, summary(steps=20), seed=4, head="linear")
    out = said(show, capsys, monkeypatch, run_id[-8:])
    lines = out.splitlines()
    assert lines[0].endswith(f"runs/main/{run_id}")
    assert lines[1] == "finished"
    assert "head: linear" in lines
    assert "  widths: [4, 8]" in lines
    numbers = {line.split()[0]: line.split()[1:] for line in lines if line.split()}
    assert numbers["psnr"] == ["–", "6.02", "5.5"]  # of the last row: val and test
    assert numbers["loss"] == ["4", "5", "–"]
    assert "metrics.csv" in numbers
    assert "progress" not in out


def test_a_point_is_shown_as_yaml_with_its_prediction(tmp_path, capsys, monkeypatch):
    from vae_sweep.command import entry

    cli = Cli(tmp_path)
    monkeypatch.chdir(tmp_path)
    for name, value in cli.env.items():
        monkeypatch.setenv(name, value)
    small = ("data=npz", "data.path=images.npz", "model.widths=[4,8]", "model.latent=4")
    for typed in (("norm=zscore", "head=tanh"), ("norm=zscore,unit", "head=tanh")):
        monkeypatch.setattr("sys.argv", ["vae-sweep", *typed, *small])
        monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
        entry.main(show.show_grid, "")
    out = capsys.readouterr().out
    one, several = out.split("# what all 2 points have")
    assert "# to be kept in runs/main/zscore-tanh-" in one
    assert "norm: zscore\n" in one
    assert "  name: matched\n  sigma: 30.0\n" in one
    assert "no network can pass" in one
    assert "norm: zscore\n" not in several
    assert "# where they differ\nnorm: zscore, unit\n" in several
    assert not (tmp_path / "runs").exists()


def test_what_differs_is_left_out_of_what_is_shared():
    a = {"norm": "unit", "beta": {"name": "matched", "sigma": 30}, "seed": 0}
    b = {"norm": "zscore", "beta": {"name": "constant", "value": 1}, "seed": 0}
    shared, differ = settings._shared([a, b])
    assert shared == {"seed": 0}
    assert differ == {
        "norm": ["unit", "zscore"],
        "beta.name": ["matched", "constant"],
        "beta.sigma": ["30"],
        "beta.value": ["1"],
    }
