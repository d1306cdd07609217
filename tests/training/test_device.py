"""The order of eager calls, capture and replays; CUDA itself is played by stand-ins."""

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
