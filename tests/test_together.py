"""Several processes on one sweep: each point is trained once, as by one alone."""

import signal
import sys
import time

import pytest
from helpers import TINY, claim_elsewhere, make_config
from together import Process, check_whole, rows_of, struggle, until

from vae_sweep import grid
from vae_sweep.config import RunConfig
from vae_sweep.records import reader
from vae_sweep.records.run_folder import RunFolder
from vae_sweep.reporting.console import Console
from vae_sweep.training.device import limited_threads

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="no processes are forked there"),
]
SOME = ["seed=0", "seed=1", "head=tanh", "model.latent=3", "norm=unit", "beta.value=2"]


@pytest.fixture
def configs_of(tmp_path, npz):
    path = npz()

    def of(*each: str, sweep: str = "main", steps: int = 40) -> list[RunConfig]:
        common = (
            *(*TINY, "data=npz", f"data.path={path}", f"runs={tmp_path}/{sweep}"),
            *(f"train.steps={steps}", "train.eval_every=10", "train.cohort=1"),
            *("train.workers=1", "train.lr=0.001", f"data.cache={tmp_path}/cache"),
        )
        return [make_config(*common, override) for override in each]

    return of


@pytest.fixture
def alone(configs_of):
    """The rows of points that one process trains."""

    def of(*each: str, **options) -> list[bytes]:
        configs = configs_of(*each, sweep="alone", **options)
        with limited_threads(1):
            grid.run(configs)
        return [rows_of(config) for config in configs]

    return of


@pytest.mark.parametrize(
    ("count", "kills", "seed"), [(2, 4, 0), pytest.param(4, 6, 1, marks=pytest.mark.long)]
)
def test_killed_processes_end_with_every_point_once(configs_of, alone, count, kills, seed):
    configs = configs_of(*SOME)
    last = struggle(configs, count, kills, seed)
    check_whole(configs, alone(*SOME))
    assert any("overview.png" in each.said() for each in last)


@pytest.mark.parametrize("age", [0, 70])
def test_the_claim_of_a_process_that_was_killed_as_its_run_ended_is_removed(
    configs_of, monkeypatch, age
):
    """By the next command, and by one that trains the other runs meanwhile; that of a
    process which may be there still is left to it."""
    configs = configs_of("seed=0", "seed=1")
    grid.run(configs)
    left = claim_elsewhere(configs[0].run_dir, age=age)
    assert [s.status for s in grid.run(configs)] == ["finished"] * 2
    assert left.exists() == (age == 0)
    left.unlink(missing_ok=True)

    real, claims = RunFolder.finish, []

    def finish(self, summary):
        claims.append(claim_elsewhere(configs[0].run_dir, age=age))
        real(self, summary)

    monkeypatch.setattr(RunFolder, "finish", finish)
    grid.run([configs[0], configs_of("seed=2")[0]])
    assert [each.exists() for each in claims] == [age == 0]


def test_two_that_start_at_once_where_nothing_is(configs_of, alone, tmp_path):
    configs = configs_of(*SOME)
    assert not configs[0].sweep_dir.exists()
    first, second = struggle(configs, 2, 0, 0)
    check_whole(configs, alone(*SOME))
    said = first.said() + second.said()
    assert "picture:" in said
    assert "being trained elsewhere" in said or said.count("picture:") == 2
    assert len(reader.lists(configs[0].sweep_dir)) in (1, 2)


def test_one_that_is_suspended_loses_its_run_and_says_so(configs_of, alone, tmp_path):
    """On another machine than the one that takes it over, whose process is there still."""
    configs = configs_of("seed=0", steps=400)
    slow = Process(configs, tmp_path / "slow.out", host="a", stale_s=1.0)
    until(lambda: rows_of(configs[0]).count(b"\n") > 3)
    slow.signal(signal.SIGSTOP)
    try:
        time.sleep(1.1)
        fast = Process(configs, tmp_path / "fast.out", host="b", stale_s=1.0)
        until(lambda: "goes on from step" in fast.said())
        until(lambda: [*configs[0].run_dir.glob("claim-2.json")])
        slow.signal(signal.SIGCONT)
        codes = slow.wait(), fast.wait()
    finally:
        slow.kill()
    assert codes == (0, 0), slow.said()
    assert "taken over by b, process" in slow.said()
    assert "1 point is being trained elsewhere (b, process" in slow.said()
    assert "picture:" in fast.said()
    check_whole(configs, alone("seed=0", steps=400))


@pytest.mark.parametrize("age", [0, 70])
def test_a_claim_of_another_machine_is_left_or_taken_over(configs_of, capsys, age):
    configs = configs_of("seed=0", "seed=1")
    claim_elsewhere(configs[0].run_dir, age=age)
    first, second = grid.run(configs)
    assert second.status == "finished"
    assert (first is None) == (age == 0)
    assert ("being trained elsewhere" in capsys.readouterr().out) == (age == 0)


def test_one_that_joins_while_the_other_prepares_its_points(configs_of, alone, tmp_path):
    configs = configs_of(*SOME)
    first = Process(configs, tmp_path / "first.out")
    until(configs[0].sweep_dir.exists)
    second = Process(configs, tmp_path / "second.out")
    assert (first.wait(), second.wait()) == (0, 0)
    check_whole(configs, alone(*SOME))


def test_what_another_process_repeated_meanwhile_is_not_repeated_again(
    configs_of, tmp_path, monkeypatch
):
    """Both were asked for rerun=all, and both saw the same run."""
    [config] = configs_of("seed=0")
    grid.run([config])
    repeated, real = config.model_copy(update={"rerun": "all"}), grid._prepare

    def prepare(points, ready, console, *rest):
        with monkeypatch.context() as other:
            other.setattr(grid, "_prepare", real)
            [summary] = grid.run([repeated])
        assert summary.status == "finished"
        monkeypatch.setattr(grid, "_prepare", real)
        return real(points, ready, console, *rest)

    monkeypatch.setattr(grid, "_prepare", prepare)
    [summary] = grid.run([repeated])
    assert summary.status == "finished"
    assert len([*config.run_dir.glob("summary.json.old-*")]) == 1


def test_a_run_to_be_repeated_that_another_process_trains_is_left_alone(configs_of, capsys):
    [config] = configs_of("seed=0")
    [before] = grid.run([config])
    claim_elsewhere(config.run_dir)
    assert grid.run([config.model_copy(update={"rerun": "all"})]) == [None]
    assert "1 point is being trained elsewhere" in capsys.readouterr().out
    assert reader.read_summary(config.run_dir) == before


def test_a_call_waits_for_what_others_train(configs_of, monkeypatch, tmp_path):
    """And takes over what becomes nobody's meanwhile."""
    monkeypatch.setattr(grid, "LOOK_S", 0.01)
    configs = configs_of("seed=0", "seed=1")
    claim = claim_elsewhere(configs[0].run_dir, age=58)
    ended = grid.train(configs, Console(least=120), wait=True)
    assert [each.summary.status for each in ended] == ["finished"] * 2
    assert not claim.exists()
