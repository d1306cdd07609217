"""Signals in processes of their own: what is said, how fast, with which code."""

import os
import signal
import subprocess
import sys
import time

import pytest

from vae_sweep.command import entry
from vae_sweep.system import stop

pytestmark = pytest.mark.slow

SIGNALS = [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR2, 140)]


def started(code: str) -> subprocess.Popen[str]:
    """A process that runs `code` after stop.install and has printed `ready`."""
    head = "import time, sys\nfrom vae_sweep.system import stop\nstop.install()\n"
    process = subprocess.Popen(
        [sys.executable, "-c", head + code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    return process


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=20)
    return process.returncode, out, err


@pytest.mark.parametrize(("signum", "code"), SIGNALS)
def test_a_signal_raises_at_once_and_cleans_up(signum, code):
    process = started(
        "try:\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(60)\n"
        "except stop.Stopped as stopped:\n"
        "    print('cleaned', flush=True)\n"
        "    stop.end(stopped)\n"
    )
    process.send_signal(signum)
    returned, out, err = ended(process)
    assert (returned, out) == (code, "cleaned\n")
    assert err.count("\n") == 1
    assert "the same command goes on from here" in err


@pytest.mark.parametrize(("signum", "code"), SIGNALS)
def test_deferred_signals_wait_until_training_has_looked(signum, code):
    process = started(
        "try:\n"
        "    with stop.deferred():\n"
        "        print('ready', flush=True)\n"
        "        while not stop.requested():\n"
        "            time.sleep(0.01)\n"
        "        print('saved', flush=True)\n"
        "    print('never')\n"
        "except stop.Stopped as stopped:\n"
        "    stop.end(stopped)\n"
    )
    process.send_signal(signum)
    process.send_signal(signum)  # `timeout` and terminals send two
    returned, out, _ = ended(process)
    assert (returned, out) == (code, "saved\n")


def test_a_signal_between_two_stretches_is_noticed_at_the_next():
    process = started(
        "try:\n"
        "    with stop.deferred():\n"
        "        print('ready', flush=True)\n"
        "        time.sleep(1)\n"
        "except stop.Stopped as stopped:\n"
        "    pass\n"
        "try:\n"
        "    with stop.deferred():\n"
        "        print('never')\n"
        "except stop.Stopped as stopped:\n"
        "    stop.end(stopped)\n"
    )
    process.send_signal(signal.SIGTERM)
    returned, out, _ = ended(process)
    assert (returned, out) == (143, "")


def test_an_error_that_a_signal_leads_to_on_its_way_out_is_not_said():
    """OmegaConf, interrupted half-way, raises AttributeError where it cleans up."""
    process = started(
        "with stop.handled():\n"
        "    try:\n"
        "        with stop.undisguised():\n"
        "            try:\n"
        "                print('ready', flush=True)\n"
        "                time.sleep(60)\n"
        "            finally:\n"
        "                None.flags\n"
        "    except Exception as error:\n"
        "        print(error)\n"
        "        sys.exit(2)\n"
    )
    process.send_signal(signal.SIGINT)
    returned, out, err = ended(process)
    assert (returned, out) == (130, "")
    assert err.count("\n") == 1


def test_an_interrupted_command_does_not_say_what_hydra_makes_of_it(monkeypatch, capsys):
    def interrupted(_):
        signal.raise_signal(signal.SIGINT)

    def task_function(*_, **__):
        def decorated(task):
            def run():
                try:
                    interrupted(task)
                finally:
                    raise AttributeError("'NoneType' has no _invalidate_flags_cache")

            return run

        return decorated

    monkeypatch.setattr("sys.argv", ["run.py"])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setattr(entry.hydra, "main", task_function)
    monkeypatch.setattr(stop, "_received", None)
    before = signal.signal(signal.SIGINT, stop._handle)
    try:
        with pytest.raises(stop.Stopped):
            entry.main(lambda configs: None, "")
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err == ""


def test_a_long_computation_is_ended_by_the_thread():
    process = started(
        "import hashlib\n"
        "print('ready', flush=True)\n"
        "hashlib.pbkdf2_hmac('sha256', b'', b'', 200_000_000)\n"
    )
    time.sleep(0.5)  # now it computes
    begun = time.monotonic()
    process.send_signal(signal.SIGTERM)
    returned, _, err = ended(process)
    assert returned == 143
    assert "the same command goes on from here" in err
    assert time.monotonic() - begun >= stop.GRACE_S


def test_a_command_that_is_done_ends_as_it_would_have_ended():
    code = (
        "import atexit, sys, time\n"
        "from vae_sweep.system import stop\n"
        "def last():\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(1)\n"
        "atexit.register(last)\n"
        "with stop.handled():\n"
        "    sys.exit(2)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 2
    process.stdout.close()


def test_processes_started_while_signals_are_blocked_never_get_them():
    code = "import time; print('ready', flush=True); time.sleep(2); print('lived')"
    with stop.blocked():
        child = subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True
        )
    assert child.stdout.readline() == "ready\n"
    for signum in stop.SIGNALS:
        os.kill(child.pid, signum)
    assert child.communicate()[0] == "lived\n"
    assert child.returncode == 0
