import json
import os
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from helpers import claim_elsewhere

from vae_sweep.records import claim as claims
from vae_sweep.records.claim import RENEW_S, STALE_S, Claims, Stated, holder, is_held, take

HERE = {"host": claims._own().host, "boot": claims._boot()}


@pytest.fixture
def run(tmp_path) -> Path:
    return tmp_path / "sweep" / "run"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_run_is_claimed_once_and_says_by_whom(run):
    mine = take(run)
    assert mine.is_held
    assert take(run) is None
    by = holder(run)
    assert (by.host, by.pid, by.released) == (HERE["host"], os.getpid(), False)
    assert by.start == Path(f"/proc/{os.getpid()}/stat").read_text().split()[21]
    assert names(run) == ["claim-1.json"]
    mine.remove()
    assert holder(run) is None
    assert names(run) == []


def test_a_process_of_this_machine_holds_a_run_while_it_is_there(run):
    start = claims._start(os.getppid())
    path = claim_elsewhere(run, age=1e6, **HERE, pid=os.getppid(), start=start)
    assert take(run) is None  # however long it has been silent
    path.unlink()
    claim_elsewhere(run, **HERE, pid=os.getppid(), start=f"{start}0")  # its number again
    assert take(run).path.name == "claim-2.json"
    assert names(run) == ["claim-2.json"]


def test_the_claim_of_a_process_that_was_killed_is_taken_over_at_once(run):
    claim_elsewhere(run, **HERE, pid=dead_pid(), start="123")
    assert not is_held(run)
    assert take(run).is_held


def test_one_that_has_ended_and_is_only_listed_is_not_there(run):
    """Nobody has asked how it ended, as in containers without an init."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        claim_elsewhere(run, **HERE, pid=process.pid, start=claims._start(process.pid))
        assert is_held(run)
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert not is_held(run)
    finally:
        process.communicate()


@pytest.mark.parametrize("boot", ["another start of it", "b"])
def test_a_claim_of_before_this_machine_started_is_judged_by_its_age(run, boot):
    stated = {"host": HERE["host"], "boot": boot, "pid": os.getppid()}
    claim_elsewhere(run, age=STALE_S - 10, **stated)
    assert take(run) is None
    claim_elsewhere(run, age=STALE_S + 10, **stated)
    assert take(run).is_held


def test_a_claim_of_a_day_to_come_holds_nothing(run):
    claim_elsewhere(run, age=-(STALE_S - 10))  # clocks differ a little
    assert is_held(run)
    claim_elsewhere(run, age=-86400.0)
    assert not is_held(run)
    assert take(run).is_held


@pytest.mark.parametrize("off", [-3600.0, 0.0, 3600.0])
def test_the_file_servers_clock_decides_not_this_machines(run, monkeypatch, off):
    real = time.time
    monkeypatch.setattr(claims, "_clocks", {})
    monkeypatch.setattr(claims.time, "time", lambda: real() + off)
    claim_elsewhere(run, age=STALE_S - 10)
    assert take(run) is None
    claim_elsewhere(run, age=STALE_S + 10)
    assert take(run).is_held


def test_the_server_is_asked_for_the_time_once_a_minute(run, monkeypatch):
    asked, real = [], claims.clock
    monkeypatch.setattr(claims, "_clocks", {})
    monkeypatch.setattr(
        claims, "clock", lambda folder: asked.append(folder) or real(folder)
    )
    claim_elsewhere(run)
    assert all(is_held(run) for _ in range(100))
    assert asked == [run.parent]
    assert names(run.parent) == ["run"]


def test_where_nothing_can_be_written_this_machines_clock_is_taken(run, monkeypatch):
    def closed(_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(claims, "_clocks", {})
    monkeypatch.setattr(claims, "clock", closed)
    claim_elsewhere(run, age=STALE_S - 10)
    assert is_held(run)
    claim_elsewhere(run, age=STALE_S + 10)
    assert not is_held(run)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"pid": "x"}', "\x00", "[" * 100_000])
def test_a_claim_that_cannot_be_read_is_judged_by_its_age(run, content):
    claim_elsewhere(run).write_text(content)
    assert str(holder(run)) == "another machine"
    assert take(run) is None
    claim_elsewhere(run, age=STALE_S + 10)
    assert take(run).is_held


def test_what_was_given_up_is_anybodys_and_its_number_is_not_used_again(run):
    first = take(run)
    first.release()
    assert json.loads(first.path.read_text())["released"]
    assert not is_held(run)
    second = take(run)
    assert names(run) == ["claim-2.json"]
    assert not first.is_held
    first.remove()
    first.release()
    assert second.is_held
    assert names(run) == ["claim-2.json"]


def test_a_claim_of_later_keys_is_read(run):
    claim_elsewhere(run, host="node1", pid=12, queue="long", schema=4)
    assert str(holder(run)) == "node1, process 12"


@pytest.mark.parametrize(
    ("restart", "array", "taken"),
    [("1", "5", True), ("0", "5", False), ("1", "6", False), ("1", None, False)],
)
def test_a_job_that_slurm_started_anew_takes_its_own_runs_over_at_once(
    run, monkeypatch, restart, array, taken
):
    claim_elsewhere(run, job="77_5_here", restart=0)
    names_of = {"ARRAY_JOB_ID": "77", "ARRAY_TASK_ID": array, "JOB_ID": "80"}
    if array is None:
        names_of = {"JOB_ID": "80"}
    for name, value in {
        **names_of,
        "RESTART_COUNT": restart,
        "CLUSTER_NAME": "here",
    }.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    found = take(run)
    assert (found is not None) == taken
    if taken:
        assert (found.stated.job, found.stated.restart) == ("77_5_here", 1)


def test_without_slurm_a_claim_has_no_job(run, monkeypatch):
    for name in ("ARRAY_JOB_ID", "JOB_ID"):
        monkeypatch.delenv(f"SLURM_{name}", raising=False)
    monkeypatch.setenv("SLURM_CLUSTER_NAME", "here")
    assert take(run).stated.job == ""


def test_claims_are_touched_while_a_step_lasts_and_given_up_at_the_end(run, monkeypatch):
    monkeypatch.setattr(claims, "RENEW_S", 0.01)
    with Claims() as held:
        claim = held.take(run)
        assert held.take(run) == claim
        os.utime(claim.path, (0, 0))
        deadline = time.monotonic() + 10
        while claim.path.stat().st_mtime == 0 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert time.time() - claim.path.stat().st_mtime < 20
    assert not is_held(run)
    assert holder(run) is None
    assert json.loads(claim.path.read_text())["released"]


def test_another_processs_claim_is_not_touched(run, monkeypatch):
    """The folder was removed, and another process has begun it anew."""
    monkeypatch.setattr(claims, "RENEW_S", 0.01)
    with Claims() as held:
        held.take(run)
        other = claim_elsewhere(run, age=1000)
        time.sleep(0.1)
        assert time.time() - other.stat().st_mtime > 900
    assert not json.loads(other.read_text()).get("released")


def test_an_ended_run_is_given_back_once_its_loggers_have_heard_all(run, monkeypatch):
    monkeypatch.setattr(claims, "RENEW_S", 0.01)
    owed = [True]
    with Claims() as held:
        held.take(run)
        held.end(run, lambda: owed[0])
        time.sleep(0.1)
        assert names(run) == ["claim-1.json"]
        owed[0] = False
        deadline = time.monotonic() + 10
        while names(run) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert names(run) == []
        held.end(run)
        held.take(run)
        held.end(run)
        assert names(run) == []


def test_a_run_that_was_lost_can_be_claimed_again(run):
    with Claims() as held:
        first = held.take(run)
        first.path.unlink()
        second = held.take(run)
        assert second.is_held
        assert second.stated.token != first.stated.token


def test_a_claim_that_a_call_forgot_holds_nothing(run, monkeypatch):
    """Of an earlier call in a notebook, which lives on."""
    claim = take(run)
    assert is_held(run)
    claims._tokens.clear()
    assert not is_held(run)
    assert take(run).path != claim.path


def test_a_claim_is_renewed_many_times_before_it_is_stale():
    assert 10 * RENEW_S < STALE_S


TAKE_ALL = """
import sys, time
from pathlib import Path
from vae_sweep.records import claim
folder, begin = Path(sys.argv[1]), Path(sys.argv[2])
print("ready", flush=True)
while not begin.exists(): pass
for run in sorted(folder.iterdir()):
    if claim.take(run): print(run.name)
print("done", flush=True)
time.sleep(60)  # else its claims are nobody's
"""


@pytest.mark.slow
def test_of_many_processes_one_gets_each_run(tmp_path):
    """Some are new, some were given up, some are of a process that was killed."""
    folder = tmp_path / "sweep"
    dead = {**HERE, "pid": dead_pid(), "start": "1"}
    for number in range(150):
        path = folder / f"{number:03}"
        path.mkdir(parents=True)
        if number % 3:
            claim_elsewhere(path, 4, **({"released": True} if number % 3 == 1 else dead))
    outputs, begin = [tmp_path / f"{k}.out" for k in range(4)], tmp_path / "begin"
    with ExitStack() as stack:
        for output in outputs:
            process = subprocess.Popen(
                [sys.executable, "-c", TAKE_ALL, str(folder), str(begin)],
                stdout=stack.enter_context(output.open("w")),
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
        for word in ("ready", "done"):
            deadline = time.monotonic() + 60
            while not all(word in output.read_text() for output in outputs):
                assert time.monotonic() < deadline, f"not {word}"
                time.sleep(0.01)
            begin.touch()
    taken = [line for output in outputs for line in output.read_text().split()]
    taken = [line for line in taken if line.isdecimal()]
    assert sorted(taken) == [f"{number:03}" for number in range(150)]
    for number in range(150):
        expected = "claim-5.json" if number % 3 else "claim-1.json"
        assert names(folder / f"{number:03}") == [expected]


def test_a_claim_states_its_schema():
    assert (
        json.loads(claims._encoded(Stated(schema=3, host="a")))["schema"] == claims.SCHEMA
    )
