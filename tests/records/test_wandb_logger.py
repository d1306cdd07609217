import json
import logging
import math
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import TINY, make_config, make_images
from PIL import Image
from survival.checks import told_rows
from survival.wandb_files import key_of, read_records

from vae_sweep import grid
from vae_sweep.config import RunConfig
from vae_sweep.errors import UserError
from vae_sweep.records import loggers
from vae_sweep.records.loggers import Logger, drain, open_all
from vae_sweep.records.wandb_logger import WandbLogger, wandb_folder, wandb_mode

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def home(lone_home):
    yield lone_home
    drain(lone_home, timeout_s=20)


def config_of(home: Path, *overrides: str, mode: str = "offline") -> RunConfig:
    return make_config(f"runs={home}/runs", f"log.wandb.mode={mode}", *overrides)


def opened(config: RunConfig) -> Logger:
    logger = open_all(config)
    assert logger is not None
    return logger


def rows_of(scale: float, steps: tuple[int, ...] = (0, 50, 100)) -> list[dict]:
    return [
        {
            "step": float(s),
            "epoch": s / 25,
            "train/loss": scale * s,
            "val/kl": s + scale,
        }
        for s in steps
    ]


def read_run(
    config: RunConfig, part: int = 0, run_id: str | None = None
) -> SimpleNamespace:
    """What a run's `.wandb` file holds; `part` counts the runs with its id by time."""
    folder = wandb_folder(config)
    files = sorted(folder.glob(f"offline-run-*-{run_id or config.run_id}*/*.wandb"))
    records = read_records(files[part])
    kinds = [record.WhichOneof("record_type") for record in records]
    history = [
        {key_of(item): json.loads(item.value_json) for item in record.history.item}
        for record, kind in zip(records, kinds, strict=True)
        if kind == "history"
    ]
    summary = {}
    for record in records:
        for item in record.summary.update:
            summary[key_of(item)] = json.loads(item.value_json)
    run = records[kinds.index("run")].run
    return SimpleNamespace(
        folder=files[part].parent,
        run=run,
        config={key_of(u): json.loads(u.value_json) for u in run.config.update},
        metrics=[r.metric for r in records if r.HasField("metric")],
        history=history,
        summary=summary,
        exit_codes=[r.exit.exit_code for r in records if r.HasField("exit")],
    )


def curves(history: list[dict]) -> list[dict]:
    """The history's rows, without wandb's own keys and the pictures'."""
    own = ("_", "reconstructions/", "samples/")
    return [{k: v for k, v in row.items() if not k.startswith(own)} for row in history]


def test_an_offline_run_holds_the_rows_and_the_point(home):
    config = config_of(home, "sweep=main")
    logger = opened(config)
    rows = rows_of(0.1, (0, 50, 100, 150))
    for row in rows:
        logger.row({**row, "test/psnr": math.nan})
    png = home / "reconstructions.png"
    Image.fromarray(np.zeros((4, 8, 3), np.uint8)).save(png)
    logger.images(150, png)
    logger.finish({"status": "diverged", "val/kl": 7.5, "seconds": 2.0})
    assert drain(config.sweep_dir)

    read = read_run(config)
    picture = read.history[-1]["reconstructions/path"]
    assert curves(read.history) == rows
    assert [row["_step"] for row in read.history] == [0, 50, 100, 150]
    assert (read.folder / "files" / picture).read_bytes() == png.read_bytes()
    assert read.run.run_id == read.run.display_name == config.run_id
    assert (read.run.run_group, read.run.project) == ("main", "vae-sweep")
    values = {key: read.config[key] for key in config.model_dump()}
    assert values == config.model_dump(mode="json")
    named, glob = read.metrics
    assert named.name == "step"
    assert (glob.glob_name, glob.step_metric) == ("*", "step")
    assert read.summary["status"] == "diverged"
    assert read.summary["val/kl"] == 7.5
    assert read.summary["train/loss"] == rows[-1]["train/loss"]
    assert read.exit_codes == [1]


def test_a_run_without_rows_has_no_history(home):
    config = config_of(home)
    opened(config).finish({"status": "failed"})
    assert drain(home)
    read = read_run(config)
    assert curves(read.history) in ([], [{}])
    assert (read.summary["status"], read.exit_codes) == ("failed", [1])


def test_three_open_runs_keep_their_rows_apart(home):
    configs = [config_of(home, f"seed={seed}") for seed in range(3)]
    open_runs = [opened(config) for config in configs]
    tables = [rows_of(seed + 1.0) for seed in range(3)]
    for together in zip(*tables, strict=True):
        for logger, row in zip(open_runs, together, strict=True):
            logger.row(row)
    for logger in reversed(open_runs):
        logger.finish({"status": "finished"})
    assert drain(home)
    for config, table in zip(configs, tables, strict=True):
        read = read_run(config)
        assert curves(read.history) == table
        assert read.exit_codes == [0]


def test_the_newest_file_of_a_resumed_run_holds_every_row_once(home):
    """A resumed run tells all its rows again; the older file is moved aside."""
    config = config_of(home)
    rows = rows_of(1.0, (0, 50, 100, 150))
    for part in (rows[:2], rows):
        logger = opened(config)
        for row in part:
            logger.row(row)
        logger.row({**part[0], "train/loss": -1.0})  # W&B has that row
        logger.finish({"status": "finished"})
        assert drain(home)
        time.sleep(1)  # folders are named by the second
    found = read_run(config)
    assert curves(found.history) == rows
    assert [row["_step"] for row in found.history] == [0, 50, 100, 150]
    assert len(list(wandb_folder(config).glob("offline-run-*"))) == 1
    [old] = wandb_folder(config).glob(f"superseded/offline-run-*-{config.run_id}/*.wandb")
    kinds = [record.WhichOneof("record_type") for record in read_records(old)]
    assert kinds.count("history") == 2


def test_a_run_that_ended_before_wandb_had_heard_of_it_is_told_later(home, monkeypatch):
    """A signal drops what waits for W&B; by then the run may have its summary."""
    np.savez(home / "images.npz", images=make_images(60).permute(0, 2, 3, 1).numpy())
    data = (*TINY, "data=npz", "data.path=images.npz", "data.cache=cache")
    steps = ("train.steps=20", "train.eval_every=10", "train.workers=1")
    config = config_of(home, *data, *steps, "log.wandb.mode=offline")
    with monkeypatch.context() as deaf:
        deaf.setattr(loggers, "_submit", lambda name, task: None)
        grid.run([config])
    assert (config.run_dir / ".wandb-owed").exists()
    assert not list(wandb_folder(config).glob("offline-run-*"))
    before = (config.run_dir / "summary.json").read_bytes()
    grid.run([config])
    read = read_run(config)
    assert curves(read.history) == told_rows(config.run_dir)
    for name in ("reconstructions", "samples"):
        picture = read.folder / "files" / read.history[-1][f"{name}/path"]
        assert picture.read_bytes() == (config.run_dir / f"{name}.png").read_bytes()
    assert (read.summary["status"], read.exit_codes) == ("finished", [0])
    assert not (config.run_dir / ".wandb-owed").exists()
    grid.run([config])
    assert len(list(wandb_folder(config).glob("offline-run-*"))) == 1
    assert (config.run_dir / "summary.json").read_bytes() == before


def test_rows_that_the_server_has_are_not_sent_again(home, monkeypatch):
    """Online, wandb.init says which step of the run is the next."""
    sent = []
    run = SimpleNamespace(
        starting_step=101,
        log=lambda values, step=None, commit=None: sent.append((step, values)),
        define_metric=lambda *_, **__: None,
        summary={},
        finish=lambda exit_code: None,
    )
    monkeypatch.setattr("wandb.init", lambda **_: run)
    logger = opened(config_of(home, mode="online"))
    for row in rows_of(1.0, (0, 50, 100, 150)):
        logger.row(row)
    logger.images(100, home / "picture.png")  # of a row that is closed
    logger.finish({"status": "finished"})
    assert drain(home)
    assert [step for step, values in sent if values] == [150]


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_where_wandb_dir_cannot_be_written_the_sweep_has_the_files(
    home, monkeypatch, place
):
    """Not the TMPDIR that all share, where a printed glob names others' runs, too."""
    (home / "file").write_text("no folder can be made here")
    monkeypatch.setenv("WANDB_DIR", str(home / place))
    config = config_of(home)
    logger = opened(config)
    logger.row(rows_of(1.0)[0])
    logger.finish({"status": "finished"})
    assert drain(home)
    note = WandbLogger.note(config)
    folder = Path(note.split(" ")[1].rstrip(";"))
    assert folder == config.sweep_dir / "wandb"
    assert list(folder.glob(f"offline-run-*-{config.run_id}/*.wandb"))


def test_wandb_variables_fill_what_is_null(home, monkeypatch):
    monkeypatch.setenv("WANDB_DIR", str(home / "elsewhere"))
    monkeypatch.setenv("WANDB_PROJECT", "theirs")
    monkeypatch.setenv("WANDB_ENTITY", "team")
    monkeypatch.setenv("WANDB_RUN_GROUP", "together")
    config = config_of(home)
    opened(config).finish({"status": "finished"})
    named = config_of(home, "seed=1", "log.wandb.project=mine")
    opened(named).finish({"status": "finished"})
    assert drain(home)
    assert wandb_folder(config) == home / "elsewhere" / "wandb"
    run = read_run(config).run
    assert (run.project, run.entity, run.run_group) == ("theirs", "team", "together")
    assert read_run(named).run.project == "mine"


# wandb never closes the agent's file
@pytest.mark.filterwarnings("ignore:.*agent.yaml:pytest.PytestUnraisableExceptionWarning")
def test_the_first_run_under_an_agent_is_the_agents_the_others_are_their_own(
    home, monkeypatch
):
    settings = home / "agent.yaml"  # what the agent writes, and names in the environment
    settings.write_text("norm:\n  value: zscore\nbeta.value:\n  value: 1\n")
    agent = {"SWEEP_ID": "s3w7", "RUN_ID": "a1b2", "SWEEP_PARAM_PATH": str(settings)}
    for name, value in {**agent, "PROJECT": "theirs"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    configs = [config_of(home, f"seed={seed}", "sweep=main") for seed in range(3)]
    open_runs = [opened(config) for config in configs]
    for seed, logger in enumerate(open_runs):
        logger.row(rows_of(seed + 1.0)[0])
        logger.finish({"status": "finished"})
    assert drain(home)

    ids = ["a1b2", *(config.run_id for config in configs[1:])]
    sweeps = ["s3w7", "", ""]
    for seed, (config, run_id, sweep) in enumerate(zip(configs, ids, sweeps, strict=True)):
        read = read_run(config, run_id=run_id)
        run = read.run
        assert (run.run_id, run.sweep_id) == (run_id, sweep)
        assert (run.display_name, run.run_group) == (config.run_id, "main")
        assert run.project == "theirs"
        assert curves(read.history) == rows_of(seed + 1.0)[:1]
        assert (read.config["seed"], read.config["norm"]) == (seed, "zscore")
        assert read.config["beta"] == {"name": "constant", "value": 1}
        assert read.config["beta.value"] == 1


KEY = "a" * 40
NETRC = f"machine api.wandb.ai login user password {KEY}"


@pytest.mark.parametrize(
    ("mode", "variables", "files", "resolved"),
    [
        ("auto", {}, {}, "offline"),
        ("auto", {"WANDB_API_KEY": KEY}, {}, "online"),
        ("auto", {"WANDB_API_KEY": ""}, {}, "offline"),
        ("auto", {"WANDB_IDENTITY_TOKEN_FILE": "token"}, {}, "online"),
        ("auto", {}, {".netrc": NETRC}, "online"),
        ("auto", {}, {"_netrc": NETRC}, "online"),
        ("auto", {}, {".netrc": "machine example.org password x"}, "offline"),
        ("auto", {}, {".netrc": "not a netrc"}, "offline"),
        ("auto", {"NETRC": "~/keys"}, {"keys": NETRC}, "online"),
        ("auto", {"NETRC": "~/none"}, {".netrc": NETRC}, "offline"),
        ("auto", {"WANDB_BASE_URL": "https://w.org"}, {".netrc": NETRC}, "offline"),
        (
            "auto",
            {"WANDB_BASE_URL": "https://w.org"},
            {".netrc": "machine w.org login user password x"},
            "online",
        ),
        ("auto", {}, {".config/wandb/settings": f"[default]\napi_key={KEY}"}, "online"),
        (
            "auto",
            {"WANDB_API_KEY": KEY},
            {"wandb/settings": "[default]\nmode = offline"},
            "offline",
        ),
        (
            "auto",
            {"WANDB_API_KEY": KEY, "WANDB_CONFIG_DIR": "~/c"},
            {"c/settings": "[default]\nmode = disabled"},
            "disabled",
        ),
        ("auto", {}, {"wandb/settings": "no section"}, "offline"),
        ("auto", {"WANDB_MODE": "online"}, {}, "online"),
        ("auto", {"WANDB_MODE": "offline", "WANDB_API_KEY": KEY}, {}, "offline"),
        ("auto", {"WANDB_MODE": "dryrun", "WANDB_API_KEY": KEY}, {}, "offline"),
        ("auto", {"WANDB_MODE": "run"}, {}, "online"),
        ("auto", {"WANDB_MODE": "disabled", "WANDB_API_KEY": KEY}, {}, "disabled"),
        ("auto", {"WANDB_DISABLED": "true", "WANDB_API_KEY": KEY}, {}, "disabled"),
        ("auto", {"WANDB_DISABLED": "false"}, {}, "offline"),
        ("online", {"WANDB_MODE": "disabled"}, {}, "online"),
        ("offline", {"WANDB_API_KEY": KEY}, {}, "offline"),
        ("disabled", {"WANDB_MODE": "online"}, {}, "disabled"),
    ],
)
def test_mode(home, monkeypatch, mode, variables, files, resolved):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    for name, text in files.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(text)
    assert wandb_mode(config_of(home, mode=mode).log.wandb) == resolved


def test_a_wrong_mode_in_the_environment_is_the_users_to_correct(home, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "ofline")
    with pytest.raises(UserError, match="got 'ofline'; correct it"):
        loggers.check(config_of(home, mode="auto"))


def test_disabled_opens_nothing(home):
    config = config_of(home, mode="disabled")
    assert open_all(config) is None
    assert WandbLogger.note(config) == "W&B: disabled"
    assert drain(home)


def test_the_note_says_how_to_sync_and_where_it_went(home):
    folder = home / "runs" / "main" / "wandb"
    assert WandbLogger.note(config_of(home, "sweep=main")) == "W&B: no files were written"
    folder.mkdir(parents=True)
    assert WandbLogger.note(config_of(home, "sweep=main")) == (
        f"W&B: {folder}; sync it with: wandb sync {folder}/offline-run-*"
    )
    online = config_of(home, "sweep=main", "log.wandb.project=p", mode="online")
    assert WandbLogger.note(online) == "W&B: online, project p, group main"


class FakeRun:
    starting_step = 0

    def __init__(self, fake: "FakeWandb", run_id: str) -> None:
        self.fake, self.run_id, self.summary = fake, run_id, {}
        self.settings = SimpleNamespace(sync_dir=f"wandb/offline-run-0-{run_id}")

    def define_metric(self, *args, **kwargs) -> None: ...

    def log(self, values, step=None, commit=None) -> None:
        self.fake.call("log", self.run_id, step)

    def finish(self, exit_code) -> None:
        self.fake.call("finish", self.run_id, exit_code)


class FakeWandb:
    """A wandb module that records calls; `on` maps a call's name to what it does."""

    def __init__(self, **on) -> None:
        self.on, self.calls = on, []

    def call(self, name, *args) -> None:
        self.calls.append((name, *args))
        if name in self.on:
            self.on[name](*args)

    def init(self, id, mode, **kwargs) -> FakeRun:
        self.call("init", id, mode)
        return FakeRun(self, id)

    def setup(self, settings) -> None: ...

    def teardown(self) -> None:
        self.call("teardown")

    def Settings(self, **settings) -> dict:
        return settings


def install(monkeypatch, **on) -> FakeWandb:
    fake = FakeWandb(**on)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return fake


def train(config: RunConfig) -> None:
    logger = opened(config)
    for row in rows_of(1.0):
        logger.row(row)
    logger.images(100, Path("nowhere.png"))
    logger.finish({"status": "finished"})


def fail(*args) -> None:
    raise RuntimeError("no luck")


@pytest.mark.parametrize("call", ["init", "log", "finish"])
def test_a_failing_call_switches_off_one_run_and_says_so_once(
    home, monkeypatch, caplog, call
):
    bad, good = config_of(home), config_of(home, "seed=1")

    def fail_for_bad(run_id, *args):
        if run_id == bad.run_id:
            fail()

    fake = install(monkeypatch, **{call: fail_for_bad})
    fake.Image = lambda path, caption: path
    train(bad)
    train(good)
    assert drain(home)
    (warning,) = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert "no luck" in warning.getMessage()
    assert str(bad.run_dir) in warning.getMessage()
    assert [c for c in fake.calls if c[1:2] == (bad.run_id,)][-1][0] == call
    assert ("finish", good.run_id, 0) in fake.calls


def test_a_failure_common_to_a_cohort_is_said_once(home, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "wandb", None)  # makes `import wandb` fail
    for seed in range(3):
        train(config_of(home, f"seed={seed}"))
    assert drain(home)
    assert [r.levelname for r in caplog.records].count("WARNING") == 1


def test_what_cannot_start_online_is_kept_offline(home, monkeypatch, caplog):
    def online_fails(run_id, mode):
        if mode == "online":
            fail()

    fake = install(monkeypatch, init=online_fails)
    configs = [config_of(home, f"seed={s}", mode="online") for s in range(3)]
    for config in configs:
        opened(config).finish({"status": "finished"})
    assert drain(home)
    modes = [c[2] for c in fake.calls if c[0] == "init"]
    assert modes == ["online", "offline", "offline", "offline"]
    (warning,) = caplog.records
    assert f"wandb sync {wandb_folder(configs[0])}" in warning.getMessage()


def test_a_hanging_wandb_blocks_neither_training_nor_the_end(home, monkeypatch, caplog):
    started, release = threading.Event(), threading.Event()

    def hang(*args):
        started.set()
        release.wait()

    fake = install(monkeypatch, log=hang)
    train(config_of(home))
    assert started.wait(10)
    assert not drain(home / "runs", timeout_s=0.1)
    assert str(home / "runs") in caplog.records[-1].getMessage()
    assert fake.calls[-1] == ("teardown",)  # which takes wandb's exit hook away
    release.set()
    for thread in threading.enumerate():
        if thread.name == "loggers":
            thread.join(10)
    assert [c[0] for c in fake.calls] == ["init", "log", "teardown"]


SERVICE_DIES = """
import os, signal, sys, time
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from helpers import make_config
from vae_sweep.records.loggers import drain, open_all

config = make_config("runs=" + sys.argv[2], "log.wandb.mode=offline")
logger = open_all(config)
logger.row({"step": 0.0, "epoch": 0.0})
while "WANDB_SERVICE" not in os.environ or not list(Path(sys.argv[2]).glob("*/wandb/*")):
    time.sleep(0.05)
time.sleep(0.5)
children = Path(f"/proc/{os.getpid()}/task").glob("*/children")
for pid in " ".join(file.read_text() for file in children).split():
    os.kill(int(pid), signal.SIGKILL)
time.sleep(0.2)
logger.row({"step": 1.0, "epoch": 0.0})
logger.finish({"status": "finished"})
drain(config.sweep_dir)
print("trained")
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads /proc")
def test_a_dying_service_process_costs_one_warning(home):
    ended = subprocess.run(
        [sys.executable, "-c", SERVICE_DIES, str(Path(__file__).parents[1]), str(home)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (0, "trained\n"), ended.stderr
    assert ended.stderr.count("W&B is off for") == 1
    assert ended.stderr.count("\n") == 1


def test_importing_the_module_leaves_wandb_and_torch_alone():
    code = "import sys, vae_sweep.records.loggers; "
    code += "print({'wandb', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr
