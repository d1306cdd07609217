"""The order of eager calls, capture and replays, CUDA played by stand-ins; memory."""

import platform
import subprocess
import sys
from contextlib import contextmanager, nullcontext

import pytest
import torch

from vae_sweep.training.device import EAGER, Captured


class Graph:
    """Keeps what was launched under capture, and launches it at a replay."""

    recording: "Graph | None" = None

    def __init__(self):
        self.launched = []

    def replay(self):
        for launch in self.launched:
            launch()


class Stream:
    def __init__(self, log):
        self.log = log

    def wait_stream(self, other):
        self.log.append("wait")


@pytest.fixture
def cuda(monkeypatch):
    log = []

    @contextmanager
    def capture(graph):
        Graph.recording = graph
        yield
        Graph.recording = None

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", capture)
    monkeypatch.setattr(torch.cuda, "Stream", lambda: Stream(log))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: Stream(log))
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    return log


def test_every_call_is_one_step_whether_eager_captured_or_replayed(cuda):
    counter, python = torch.zeros(()), []

    def launch():
        counter.add_(1)

    def step():
        python.append(1)
        if Graph.recording is None:
            launch()
        else:  # a capture launches nothing
            Graph.recording.launched.append(launch)

    call = Captured(step)
    for calls in range(1, 11):
        call()
        assert counter == calls
    assert len(python) == EAGER + 1
    assert cuda == ["wait", "wait"] * EAGER  # aside, before and after each eager call


FAULTS = """
import resource, sys, torch
from vae_sweep.training.device import keep_freed_memory
torch.set_num_threads(1)
if sys.argv[1] == "kept":
    keep_freed_memory()
for numbers in (25_000_000, 24_000_000):  # glibc's memalign wants room to spare
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.empty(numbers).fill_(1)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's mallopt")
@pytest.mark.parametrize("memory", ["kept", "given back"])
def test_freed_memory_is_kept(memory):
    """100 MB are 24,414 pages of 4 KiB, each a fault when it is first written to; what is
    freed serves the next that needs less."""
    command = [sys.executable, "-c", FAULTS, memory]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    first, again = map(int, out.split())
    assert first > 20_000
    assert again < 500 if memory == "kept" else again > 20_000
