"""trackio's and TensorBoard's own pages of a sweep, served on loopback."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from helpers import TINY, Cli

pytestmark = [pytest.mark.browser, pytest.mark.slow]

POINTS = (
    *(option for option in TINY if "wandb" not in option),
    *("data=npz", "data.path=images.npz", "norm=zscore,unit", "train.steps=40"),
    *("train.eval_every=10", "log.every=4"),
)


@contextmanager
def serving(command: list[str], cli: Cli, address: Callable[[str], str | None]):
    """A server of `command`; gives its address, found in what it says, once it answers."""
    said = cli.folder / "server.out"
    with said.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=cli.folder,
            env={**os.environ, **cli.env, "BROWSER": "true", "PYTHONUNBUFFERED": "1"},
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    try:
        end = time.monotonic() + 60
        while not answers(found := address(said.read_text())):
            assert process.poll() is None, said.read_text()
            assert time.monotonic() < end, said.read_text()
            time.sleep(0.1)
        yield found
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def answers(url: str | None) -> bool:
    try:
        return url is not None and urlopen(url, timeout=1).status == 200
    except (URLError, OSError):
        return False


@pytest.fixture
def page(browser) -> Iterator:
    """A page that asks this machine alone."""
    context = browser.new_context(viewport={"width": 1280, "height": 1600})
    page = context.new_page()
    page.route(re.compile("^https?://(?!127[.]0[.]0[.]1)"), lambda route: route.abort())
    yield page
    context.close()


def folders(cli: Cli) -> list[Path]:
    found = cli.runs()
    assert len(found) == 2
    return found


def test_trackio_shows_the_curves_and_pictures_of_each_run(tmp_path, page):
    pytest.importorskip("trackio")
    cli = Cli(tmp_path)
    cli.env |= {"TRACKIO_DIR": str(tmp_path / "trackio"), "HF_HUB_OFFLINE": "1"}
    cli("-m", *POINTS, "log=[trackio]")

    def address(said: str) -> str | None:
        found = re.search(r"launched at: (http://127[^ \x1b]+)", said)
        return found and found[1]

    command = ["trackio.cli", "show", "--project", "vae-sweep"]
    with serving(command, cli, address) as url:
        page.goto(url)
        page.get_by_text("batch (3)").wait_for()
        page.get_by_text(re.compile(r"^val \(\d+\)$")).wait_for()
        for run in folders(cli):
            page.get_by_text(run.name).first.wait_for()
        page.get_by_text("Media & Tables").click()
        page.get_by_text("decoded from the prior").first.wait_for()
        page.get_by_text("above: originals").first.wait_for()


def test_tensorboard_shows_the_curves_and_pictures_of_each_run(tmp_path, page):
    cli = Cli(tmp_path)
    cli("-m", *POINTS, "log=[tensorboard]")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = str(tmp_path / "runs/main/tensorboard")
    command = ["tensorboard.main", "--logdir", folder, "--port", str(port)]
    url = f"http://127.0.0.1:{port}/"
    with serving([*command, "--host", "127.0.0.1"], cli, lambda _: url):
        page.goto(f"{url}#timeseries")
        page.get_by_text("batch/loss").first.wait_for()
        names = page.locator("body").inner_text().replace("\n", "").replace("\u200b", "")
        assert all(run.name in names for run in folders(cli))
        page.goto(f"{url}#images")
        page.get_by_text("tag: samples").first.wait_for()
        page.get_by_text("tag: reconstructions").first.wait_for()
        page.goto(f"{url}#hparams")
        page.get_by_text("beta.sigma").first.wait_for()
