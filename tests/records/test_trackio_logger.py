"""trackio in the command as a user starts it: its folder is read from the environment when
it is first imported."""

import json
import signal
import sqlite3
import time
from pathlib import Path

import pytest
from helpers import TINY, Cli
from survival.checks import told_rows

pytest.importorskip("trackio")
pytestmark = pytest.mark.slow

POINT = (
    *(option for option in TINY if "wandb" not in option),
    *("data=npz", "data.path=images.npz", "log=[trackio,tensorboard]", "log.every=4"),
)
SHORT = ("train.steps=20", "train.eval_every=10")


@pytest.fixture
def cli(tmp_path) -> Cli:
    cli = Cli(tmp_path)
    cli.env |= {"TRACKIO_DIR": str(tmp_path / "trackio"), "HOME": str(tmp_path)}
    cli.env |= {"HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "error::ResourceWarning"}
    return cli


def logged(cli: Cli, table: str, columns: str) -> list[tuple]:
    with sqlite3.connect(cli.folder / "trackio" / "vae-sweep.db") as connection:
        found = connection.execute(f"SELECT {columns} FROM {table}").fetchall()
    connection.close()
    return found


def assert_whole(cli: Cli, run: Path) -> None:
    """Each row of a run once, with all values, and its pictures beside them."""
    numbers: dict[int, dict[str, float]] = {}
    pictures: dict[str, dict[int, str]] = {"reconstructions": {}, "samples": {}}
    for name, step, text in logged(cli, "metrics", "run_name, step, metrics"):
        if name != run.name:
            continue
        values = json.loads(text)
        if pictures.keys() & values:
            for stem, image in values.items():
                pictures[stem][step] = image["file_path"]
        else:
            assert step not in numbers
            numbers[step] = values
    expected = {
        int(row["step"]): {k: v for k, v in row.items() if k not in ("step", "epoch")}
        for row in told_rows(run)
    }
    assert numbers == expected
    for stem, files in pictures.items():
        last = cli.folder / "trackio" / "media" / files[max(expected)]
        assert last.read_bytes() == (run / f"{stem}.png").read_bytes()


def test_each_point_is_a_run_with_rows_pictures_and_settings(cli):
    out, err = cli("-m", *POINT, *SHORT, "norm=zscore,unit")
    assert err == ""
    assert "* " not in out  # trackio's own words
    assert "trackio: project vae-sweep, group main; look at it with: trackio show" in out
    for run in cli.runs():
        assert_whole(cli, run)
    settings = {
        n: json.loads(text) for n, text in logged(cli, "configs", "run_name, config")
    }
    assert {s["norm"] for s in settings.values()} == {"zscore", "unit"}
    assert all(s["_Group"] == "main" and s["train.steps"] == 20 for s in settings.values())
    cli("-m", *POINT, *SHORT, "norm=zscore", "sweep=other")  # of the same name
    ids = set(logged(cli, "metrics", "run_id, run_name"))
    assert (len(ids), len({name for _, name in ids})) == (3, 2)


@pytest.mark.long
def test_a_killed_run_goes_on_as_the_same_run(cli):
    long = (*POINT, "train.steps=1200", "train.eval_every=20", "log.every=10")
    process = cli.start(*long)
    end = time.monotonic() + 100
    while not list(cli.folder.glob("trackio/media/*/*/300")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    [run] = cli.runs()
    [before] = set(logged(cli, "metrics", "run_id, run_name"))
    _, err = cli(*long)
    assert err == ""
    assert set(logged(cli, "metrics", "run_id, run_name")) == {before}
    assert_whole(cli, run)
