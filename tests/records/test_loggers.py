import json
import logging
import re
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
from helpers import TINY, Cli, make_config
from survival.checks import told_rows
from survival.wandb_files import history

from vae_sweep import grid, options
from vae_sweep.config import RunConfig
from vae_sweep.errors import UserError
from vae_sweep.records import loggers
from vae_sweep.records.wandb_logger import wandb_folder

pytestmark = pytest.mark.slow

MINE = """
import json, os, sys, time


class Told:
    def __init__(self, config):
        self.path = config.run_dir / f"{type(self).__name__}.jsonl"
        self.write("begin", config.run_id)

    def write(self, *what):
        with self.path.open("a") as file:
            file.write(json.dumps(what) + "\\n")

    def row(self, row):
        self.write("row", row)

    def images(self, step, path):
        self.write("images", step, path.name)

    def finish(self, summary):
        self.write("finish", summary["status"], summary["final"])


class Second(Told):
    pass


def second(config):
    return Second(config)


class NotAtStart(Told):
    def __init__(self, config):
        raise RuntimeError("no start")


class NotInRow(Told):
    def row(self, row):
        if row["step"] == 10:
            raise RuntimeError("no row")
        super().row(row)


class NotInFinish(Told):
    def finish(self, summary):
        raise RuntimeError("no finish")


class Leaves(Told):
    def row(self, row):
        sys.exit(3)


def nothing(config):
    return None


class Waits(Told):
    def finish(self, summary):
        while not os.path.exists("go"):
            time.sleep(0.05)
        super().finish(summary)


INSTANCE = Second.__new__(Second)
TEXT = "text"


class Half:
    def __init__(self, config): ...
    def row(self, row): ...


class Needs(Told):
    def __init__(self): ...


def needs(config, folder): ...


class Asked(Told):
    shown_as = "Asked's own name"

    @staticmethod
    def is_on(config):
        if config.seed == 2:
            raise KeyError("seed 2")
        return config.seed != 1

    @classmethod
    def note(cls, config):
        return f"{cls.__name__}: 6 / {3 - config.seed} is {6 // (3 - config.seed)}"

    @staticmethod
    def teardown():
        with open("teardown", "a") as file:
            file.write("x")
        raise RuntimeError("no end")


class Unasked(Told):
    '''Methods of a run that have the names of what a class is asked.'''

    def is_on(self): ...
    def note(self): ...
    def teardown(self):
        raise AssertionError
"""
LINE = {text.strip(): n for n, text in enumerate(MINE.splitlines(), 1)}
STEPS = [0, 10, 20]


@pytest.fixture(autouse=True)
def home(lone_home, monkeypatch):
    (lone_home / "mine.py").write_text(MINE)
    monkeypatch.syspath_prepend(lone_home)
    yield lone_home
    loggers.drain(lone_home, timeout_s=20)
    sys.modules.pop("mine", None)
    for cached in (options._own, options.source_file):
        cached.cache_clear()


@pytest.fixture
def config_of(npz):
    data = ("data=npz", f"data.path={npz()}", "data.cache=cache")
    steps = ("train.steps=20", "train.eval_every=10", "train.workers=1")
    tiny = [o for o in TINY if "wandb" not in o]

    def compose(log: str, *overrides: str) -> RunConfig:
        wandb = ("log.wandb.mode=offline",) if "wandb" in log else ()
        return make_config(*tiny, *data, *steps, f"log=[{log}]", *wandb, *overrides)

    return compose


def told(run: Path, name: str) -> list[list]:
    file = run / f"{name}.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    return [json.loads(line) for line in lines]


PICTURES = ("reconstructions.png", "samples.png")


def heard(row: dict[str, float]) -> list[list]:
    """A row as Told writes it down, with the pictures of an evaluation."""
    pictures = PICTURES if "epoch" in row else ()
    return [["row", row], *(["images", int(row["step"]), name] for name in pictures)]


def assert_whole(run: Path, name: str, status: str = "finished") -> None:
    """One logger from begin to end, as a run of one process tells it."""
    rows = [what for row in told_rows(run) for what in heard(row)]
    final = json.loads((run / "summary.json").read_text())["final"]
    expected = [["begin", run.name], *rows, ["finish", status, final]]
    assert told(run, name) == expected


def assert_wandb_whole(config: RunConfig) -> None:
    [file] = wandb_folder(config).glob(f"offline-run-*-{config.run_id}/*.wandb")
    own = ("_", "reconstructions/", "samples/")
    rows = [
        {k: v for k, v in row.items() if not k.startswith(own)} for row in history(file)
    ]
    assert rows == told_rows(config.run_dir)


def owed(run: Path) -> list[str]:
    return sorted(path.name for path in run.glob(".*-owed"))


def test_several_loggers_hear_all_that_worker_processes_do(config_of, capsys):
    log = "wandb,mine:Told,mine:second"
    overrides = ("train.workers=2", "log.every=4")
    configs = [config_of(log, f"seed={s}", *overrides) for s in range(2)]
    summaries = grid.run(configs)
    assert [s.status for s in summaries] == ["finished"] * 2
    assert "2 processes" in capsys.readouterr().out
    for config in configs:
        rows = told_rows(config.run_dir)
        assert [row["step"] for row in rows] == [0, 4, 8, 10, 12, 16, 20]
        assert ["epoch" in row for row in rows] == [row["step"] in STEPS for row in rows]
        assert ["batch/kl" in row for row in rows] == [True] * 3 + [
            False,
            True,
            True,
            False,
        ]
        assert_whole(config.run_dir, "Told")
        assert_whole(config.run_dir, "Second")
        assert_wandb_whole(config)
        assert owed(config.run_dir) == []


def test_a_run_that_diverges_says_so_to_its_logger(config_of):
    config = config_of("mine:Told", "train.lr=1e30", "norm=raw255")
    grid.run([config])
    [end] = [what for what in told(config.run_dir, "Told") if what[0] == "finish"]
    assert end[1] == "diverged"


@pytest.mark.parametrize(
    ("bad", "error", "calls"),
    [
        ("NotAtStart", 'raise RuntimeError("no start")', []),
        (
            "NotInRow",
            'raise RuntimeError("no row")',
            ["begin", "row", "images", "images"],
        ),
        (
            "NotInFinish",
            'raise RuntimeError("no finish")',
            ["begin", *["row", "images", "images"] * 3],
        ),
        ("Leaves", "sys.exit(3)", ["begin"]),
    ],
)
def test_a_logger_that_raises_is_off_with_one_warning_and_the_others_complete(
    config_of, caplog, bad, error, calls
):
    log = f"wandb,mine:{bad},mine:Told"
    configs = [config_of(log, f"seed={s}") for s in range(2)]
    summaries = grid.run(configs)
    assert [s.status for s in summaries] == ["finished"] * 2
    [warning] = [r for r in caplog.records if r.levelno >= logging.WARNING]
    kind = "SystemExit" if bad == "Leaves" else "RuntimeError"
    place = f"({kind} in mine.py, line {LINE[error]}: "
    run_id = configs[0].run_id
    assert f"mine:{bad} is off for {run_id} {place}" in warning.getMessage()
    assert "Training continues" in warning.getMessage()
    for config in configs:
        assert [what[0] for what in told(config.run_dir, bad)] == calls
        assert_whole(config.run_dir, "Told")
        assert_wandb_whole(config)
        assert owed(config.run_dir) == [f".mine.{bad}-owed"]


def test_a_function_that_makes_no_logger_is_off_with_one_warning(config_of, caplog):
    config = config_of("mine:nothing,mine:Told")
    grid.run([config])
    [warning] = [r for r in caplog.records if r.levelno >= logging.WARNING]
    lacks = "a NoneType has no row and no images and no finish"
    assert lacks in warning.getMessage()
    assert_whole(config.run_dir, "Told")


def test_the_command_ends_well_where_a_logger_raises(home):
    cli = Cli(home)
    data = ("data=npz", "data.path=images.npz", "train.steps=4", "train.eval_every=2")
    tiny = [o for o in TINY if "wandb" not in o]
    out, err = cli(*tiny, *data, "log=[mine:NotInFinish,mine:Told]", code=0)
    assert err.count("mine:NotInFinish is off for") == 1
    assert "no finish" in err
    assert "W&B" not in out + err
    [run] = cli.runs()
    assert_whole(run, "Told")


def lines_of(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []


def until(holds, process) -> None:
    end = time.monotonic() + 60
    while not holds():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.02)


SLOW = ("data=npz", "data.path=images.npz", "train.steps=4000", "train.eval_every=20")


def test_a_killed_run_tells_a_new_logger_all_rows_when_it_goes_on(home):
    cli = Cli(home)
    tiny = [o for o in TINY if "wandb" not in o]
    arguments = [*tiny, *SLOW, "log=[mine:Told]", "log.every=10"]
    process = cli.start(*arguments)
    until(lambda: any(home.glob("runs/main/*/Told.jsonl")), process)
    [run] = cli.runs()
    until(lambda: len(lines_of(run / "metrics.csv")) > 4, process)
    process.kill()
    process.communicate()
    assert owed(run) == [".mine.Told-owed"]
    before = len(told(run, "Told"))
    process = cli.start(*arguments)
    until(lambda: len(told(run, "Told")) > before + 8, process)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate()
    assert process.returncode == 143, err
    after = told(run, "Told")[before:]
    assert [what[0] for what in after].count("begin") == 1
    rows = [row for kind, row, *_ in after if kind == "row"]
    recorded = told_rows(run)
    assert rows[:-1] == recorded[: len(rows) - 1]
    assert rows[-1].items() <= recorded[len(rows) - 1].items()  # its batch was to come
    assert sum("batch/mse" in row for row in rows) > 4
    assert len(rows) > 4


def test_a_run_killed_before_its_logger_had_the_end_is_told_by_the_next_command(home):
    cli = Cli(home)
    data = ("data=npz", "data.path=images.npz", "train.steps=20", "train.eval_every=10")
    tiny = [o for o in TINY if "wandb" not in o]
    arguments = [*tiny, *data, "log=[mine:Waits,mine:Told]"]
    process = cli.start(*arguments)
    until(lambda: any(home.glob("runs/main/*/Waits.jsonl")), process)
    [run] = cli.runs()
    until(lambda: '"finished"' in (run / "summary.json").read_text(), process)
    until(lambda: len(told(run, "Waits")) == 10, process)
    process.kill()
    process.communicate()
    before = (run / "summary.json").read_bytes()
    assert owed(run) == [".mine.Told-owed", ".mine.Waits-owed"]
    (home / "go").touch()
    (run / "Waits.jsonl").unlink()
    (run / "Told.jsonl").unlink()
    cli(*arguments)
    rows = [["row", row] for row in told_rows(run)]
    final = json.loads(before)["final"]
    for name in ("Waits", "Told"):
        assert told(run, name) == [
            ["begin", run.name],
            *rows,
            *(["images", 20, name] for name in PICTURES),
            ["finish", "finished", final],
        ]
    assert owed(run) == []
    cli(*arguments)
    assert len(told(run, "Told")) == 7  # nothing more
    assert (run / "summary.json").read_bytes() == before


def test_what_only_one_logger_lacks_only_that_one_is_told(config_of, home):
    config = config_of("mine:Waits,mine:Told")
    (home / "go").touch()
    grid.run([config])
    (config.run_dir / ".mine.Waits-owed").touch()
    grid.run([config])
    assert [what[0] for what in told(config.run_dir, "Waits")].count("begin") == 2
    assert_whole(config.run_dir, "Told")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "INSTANCE",
            r"must be a class with row, .*got a Second \(mine.py, line ",
        ),
        ("TEXT", r"must be a class .*got a str \(mine.py, line "),
        ("Half", r"\(mine.py, line \d+\) has no images and no finish"),
        ("Needs", r"\(mine.py, line \d+\) is called with a run's RunConfig alone, but too"),
        ("needs", r"RunConfig alone, but missing a required argument: 'folder'"),
        ("Tol", r"mine.py has no Tol; did you mean mine:Told"),
    ],
)
def test_a_wrong_logger_is_refused_before_training(home, monkeypatch, capsys, name, said):
    cli = Cli(home)
    data = ("data=npz", "data.path=images.npz")
    err = cli.refused(monkeypatch, capsys, *data, f"log=[mine:{name}]", "seed=0,1")
    assert re.search(rf"log=mine:{name}\b.*{said}", err)
    assert err.count("\n") <= 2
    assert not (home / "runs").exists()


def test_a_logger_hears_each_step_once(config_of, home):
    """A cohort that is tried again tells all its rows again."""
    config = config_of("mine:Told")
    config.run_dir.mkdir(parents=True)
    logger = loggers.open_all(config)
    rows = [{"step": float(s), "val/kl": s + 0.5, "val/nll": float("nan")} for s in STEPS]
    picture = home / "picture.png"
    picture.touch()
    batches = [{"step": float(s), "loss": -s, "mse": 1.0, "kl": 2.0} for s in (0, 5, 10)]
    for part in (rows[:2], rows):
        loggers.tell(logger, part, batches, [picture])
    loggers.tell(logger, rows, batches, [picture])
    assert loggers.drain(home)
    batch = {s: {"batch/loss": -s, "batch/mse": 1.0, "batch/kl": 2.0} for s in (0, 5, 10)}
    row = [["row", {"step": s, "val/kl": s + 0.5, **batch.get(s, {})}] for s in (0, 10, 20)]
    between = ["row", {"step": 5, **batch[5]}]
    pictures = [["images", s, "picture.png"] for s in (10, 20)]
    expected = [row[0], between, row[1], pictures[0], row[2], pictures[1]]
    assert told(config.run_dir, "Told")[1:] == expected


def test_what_a_class_is_asked_without_a_run(config_of, home, caplog):
    on, off, odd, last = (config_of("mine:Asked", f"seed={s}") for s in range(4))
    for config in (on, off):
        config.run_dir.mkdir(parents=True)
    assert loggers.open_all(off) is None
    logger = loggers.open_all(on)
    logger.row({"step": 0.0, "epoch": 0.0})
    assert loggers.drain(home)
    assert (home / "teardown").read_text() == "x"
    assert not caplog.records
    with pytest.raises(UserError, match=r"log=mine:Asked cannot be used: KeyError in mine"):
        loggers.check(odd)
    loggers.check(on)
    assert loggers.notes([on, off, on]) == ["Asked: 6 / 3 is 2", "Asked: 6 / 2 is 3"]
    [line] = loggers.notes([last])
    assert line.startswith("Asked's own name: ZeroDivisionError in mine.py, line ")


def test_methods_of_a_run_are_not_asked_of_the_class(config_of, home):
    config = config_of("mine:Unasked")
    loggers.check(config)
    grid.run([config])
    assert loggers.notes([config]) == []
    assert_whole(config.run_dir, "Unasked")


def test_no_logger_at_all(config_of, capsys):
    config = config_of("")
    assert loggers.open_all(config) is None
    grid.run([config])
    assert loggers.notes([config]) == []
    assert capsys.readouterr().out.splitlines()[-1].startswith("table: ")


def test_the_one_that_hangs_is_named(config_of, home, caplog):
    config = config_of("mine:Told,mine:Waits")
    config.run_dir.mkdir(parents=True)
    logger = loggers.open_all(config)
    logger.finish({"status": "finished", "final": {}})
    started = time.monotonic()
    assert not loggers.drain(home / "runs", timeout_s=0.5)
    assert time.monotonic() - started < 5
    [warning] = caplog.records
    assert warning.getMessage().startswith("mine:Waits did not finish within 0.5 s")
    (home / "go").touch()
    for thread in threading.enumerate():
        if thread.name == "loggers":
            thread.join(10)
    assert owed(config.run_dir) == []
