"""A run by its folder, its run_id, or its short hash."""

import re

import pytest

from vae_sweep.errors import UserError
from vae_sweep.records.find import run_folder, short_hash

ONE, TWO = "zscore-tanh-b1-s0-0e718e1e", "zscore-linear-b1-s0-0e71ffff"


@pytest.fixture
def runs(tmp_path):
    for sweep, run_id in (("a", ONE), ("a", TWO), ("b", TWO)):
        folder = tmp_path / "runs" / sweep / run_id
        folder.mkdir(parents=True)
        (folder / "config.yaml").touch()
    return tmp_path / "runs"


def test_every_name_of_a_run(runs, monkeypatch):
    monkeypatch.chdir(runs.parent)
    names = [
        f"runs/a/{ONE}",
        runs / "a" / ONE,
        f"a/{ONE}",
        ONE,
        "0e718e1e",
        "0E718",
        "0e718",
    ]
    assert {run_folder(name).resolve() for name in names} == {runs / "a" / ONE}
    assert run_folder(ONE, runs=runs) == runs / "a" / ONE
    assert run_folder("0e71f", runs=runs / "b") == runs / "b" / TWO  # one sweep's folder


@pytest.mark.parametrize("name", ["0e71", "0e71ffff", TWO])
def test_a_name_of_several_runs(runs, name):
    with pytest.raises(UserError, match=r"means [23] runs: .*; name the folder"):
        run_folder(name, runs)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("0e7", "the first 4 to 8 digits of the hash at its end; got '0e7'"),
        ("ffff0000", "none of the 3 runs"),
        (ONE.replace("8e1e", "8e1f"), f"did you mean {ONE}?"),
        ("0e718e1f", "did you mean 0e718e1e?"),
        ("a", f"a sweep of 2, not a run; name one of its runs, such as {{runs}}/a/{TWO}"),
        ("", "got ''"),
    ],
)
def test_a_name_of_no_run(runs, name, said):
    with pytest.raises(UserError, match=re.escape(said.format(runs=runs))):
        run_folder(name, runs)


def test_nothing_to_look_in(tmp_path):
    with pytest.raises(UserError, match=r"no folder .*none; name the run's folder"):
        run_folder("0e718e1e", tmp_path / "none")
    with pytest.raises(UserError, match=r"holds no runs"):
        run_folder("0e718e1e", tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file is a file; name the run's folder"):
        run_folder("0e718e1e", tmp_path / "file")


def test_short_hash():
    assert short_hash(ONE) == "0e718e1e"
    assert short_hash("renamed-by-hand") == "renamed-by-hand"
