"""Fixtures of all tests, and what they take for granted."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings

os.environ["WANDB_MODE"] = "disabled"

from helpers import CHROMIUM, make_images

from vae_sweep.system import stop

settings.register_profile("vae-sweep", deadline=None, derandomize=True)
settings.load_profile("vae-sweep")


@pytest.fixture(autouse=True)
def unhandled() -> Iterator[None]:
    """No test leaves behind what ends this process by a signal of a later one."""
    before = [signal.getsignal(signum) for signum in stop.SIGNALS]
    yield
    assert [signal.getsignal(signum) for signum in stop.SIGNALS] == before
    assert "stop" not in {thread.name for thread in threading.enumerate()}


@pytest.fixture
def npz(tmp_path: Path) -> Callable[..., Path]:
    """Writes make_images(...) as an npz that `data=npz` reads; returns its path."""

    def write(n: int = 120, channels: int = 3, size: int = 8) -> Path:
        images = make_images(n, channels, size).permute(0, 2, 3, 1).numpy()
        path = tmp_path / "images.npz"
        np.savez(path, images=images)
        return path

    return write


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium, driven by playwright; of tests that are marked `browser`."""
    from playwright.sync_api import sync_playwright

    if CHROMIUM is None:
        pytest.skip("needs chromium or google-chrome on PATH")
    with sync_playwright() as started:
        found = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def lone_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No WANDB_* variable, key or settings file of the machine reaches the test."""
    for name in [n for n in os.environ if n.startswith("WANDB_") or n == "NETRC"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path
