import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from helpers import TINY, make_config, prepared

from vae_sweep import grid
from vae_sweep.data.dataset import Images
from vae_sweep.records import loggers
from vae_sweep.records.summary import Summary
from vae_sweep.training import workers
from vae_sweep.training.device import limited_threads
from vae_sweep.training.loop import Run
from vae_sweep.training.metrics import columns
from vae_sweep.training.step import state_shape
from vae_sweep.training.workers import Job, WorkerDied, Workers

pytestmark = pytest.mark.slow


@pytest.fixture
def config_of(tmp_path, npz):
    path = npz()

    def compose(*overrides: str):
        return make_config(
            *TINY, "data=npz", f"data.path={path}", f"runs={tmp_path}/runs",
            "train.steps=20", "train.eval_every=10", *overrides,
        )  # fmt: skip

    return compose


@pytest.fixture(autouse=True)
def one_core():
    """Here as in a worker: another number of threads may round otherwise."""
    with limited_threads(1):
        yield


class Heard:
    """A Progress that keeps what it is told."""

    def __init__(self, on_row=lambda: None):
        self.steps, self.ids, self.said, self.on_row = {}, [], [], on_row
        self.statuses = {}

    def advance(self, runs, step):
        assert all(self.steps.get(run, 0) <= step for run in runs)
        self.steps |= dict.fromkeys(runs, step)

    def row(self, run, row):
        self.ids.append((run.name, row["step"]))
        self.on_row()

    def ended(self, run, summary):
        self.statuses[run] = summary.status

    def say(self, text):
        self.said.append(text)

    def stopping(self):
        return False


class Kept:
    """A Logger that keeps its calls."""

    def __init__(self):
        self.calls = []

    def row(self, row):
        self.calls.append(("row", row["step"], row["val/kl"]))

    def images(self, step, path):
        assert path.exists()
        self.calls.append(("images", step))

    def finish(self, summary):
        self.calls.append(("finish", summary["status"]))


def job_of(*configs, logger=None) -> Job:
    points, runs = prepared(configs), []
    for p in points:
        about = Summary(
            status="running", run_id=p.config.run_id, steps=0, total_steps=p.steps
        )
        p.folder.open(about, columns(p.config))
        runs.append(Run(p.config, p.point, about, p.folder, logger, None))
    return Job(runs, points[0].dataset.images)


def carried_out(workers: Workers, *jobs: Job) -> list:
    waiting = list(jobs)
    return [o for _, o in workers.train(lambda: waiting.pop(0) if waiting else None)]


def alive(pids) -> list[int]:
    """Those that still run; a zombie does not."""
    states = [Path(f"/proc/{pid}/stat") for pid in pids]
    running = [s.exists() and s.read_text().rpartition(")")[2].split()[0] for s in states]
    return [p for p, state in zip(pids, running, strict=True) if state not in (False, "Z")]


def test_workers_give_the_numbers_of_this_process_to_the_last_bit(config_of):
    overrides = (("head=tanh",), ("norm=unit", "seed=3"), ("model.latent=5",))
    apart = [config_of(*o, "train.workers=2", "sweep=apart") for o in overrides]
    here = [config_of(*o, "train.workers=1", "sweep=here") for o in overrides]
    summaries = grid.run(apart)
    grid.run(here)
    assert [s.run_id for s in summaries] == [c.run_id for c in apart]
    for a, b in zip(apart, here, strict=True):
        rows = (a.run_dir / "metrics.csv").read_text()
        assert rows == (b.run_dir / "metrics.csv").read_text()
        assert len(rows.splitlines()) == 4


def test_the_parent_hears_of_every_step_row_and_end(config_of):
    good, bad = config_of(), config_of("train.lr=1e30", "norm=raw255", "head=linear")
    heard, kept = Heard(), Kept()
    with Workers(1, 1, heard) as workers:
        [summaries] = carried_out(workers, job_of(good, bad, logger=kept))
        pids = [process.pid for process in workers.processes.values()]
    assert heard.steps[good.run_dir] == 20
    assert [s.status for s in summaries] == ["finished", "diverged"]
    assert (good.run_id, 20) in heard.ids
    assert heard.statuses == {good.run_dir: "finished", bad.run_dir: "diverged"}
    assert [c for c in kept.calls if c[0] == "finish"] == [
        ("finish", "diverged"),
        ("finish", "finished"),
    ]
    assert [c[1] for c in kept.calls if c[0] == "images"].count(20) == 2  # two pictures
    assert not alive(pids)


def test_a_killed_worker_is_replaced_for_the_next_job(config_of):
    first, second = config_of(), config_of("seed=1")
    heard = Heard()
    with Workers(1, 1, heard) as workers:
        heard.on_row = lambda: [p.kill() for p in workers.processes.values()]
        [death] = carried_out(workers, job_of(first))
        heard.on_row = lambda: None
        [summaries] = carried_out(workers, job_of(second))
    assert isinstance(death, WorkerDied)
    assert "ended by SIGKILL" in str(death)
    assert summaries[0].status == "finished"


class Killer(Heard):
    """Kills the workers at the rows numbered `at`."""

    def __init__(self, monkeypatch, at):
        super().__init__(self.kill)
        self.at, self.count, started = at, 0, workers._started
        self.processes = []

        def start(*how):
            link, process = started(*how)
            self.processes.append(process)
            return link, process

        monkeypatch.setattr(workers, "_started", start)

    def advance(self, runs, step):
        """A run that is tried again goes on from its checkpoint, behind what it said."""
        self.steps |= dict.fromkeys(runs, step)

    def kill(self):
        self.count += 1
        if self.count in self.at:
            for process in self.processes:
                process.kill()

    def __call__(self, *_):
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


@pytest.mark.parametrize("cohort", [1, 4])
def test_what_a_killed_worker_trained_is_tried_again(config_of, monkeypatch, cohort):
    def grid_of(sweep: str):
        seeds = [f"seed={s}" for s in range(4)]
        more = ("train.workers=2", f"train.cohort={cohort}", f"sweep={sweep}")
        return [config_of(s, *more) for s in seeds]

    killer = Killer(monkeypatch, {3})
    monkeypatch.setattr(grid, "Display", killer)
    killed = grid_of("killed")
    if cohort == 4:
        more = ("train.workers=2", "sweep=killed", "norm=unit", "model.latent=5")
        killed.append(config_of(*more))
    assert {s.status for s in grid.run(killed)} == {"finished"}
    assert any("tried again" in text for text in killer.said)
    monkeypatch.undo()
    whole = grid_of("whole")
    grid.run(whole)
    for a, b in zip(killed, whole, strict=False):
        rows = (a.run_dir / "metrics.csv").read_text()
        assert rows == (b.run_dir / "metrics.csv").read_text()


def test_a_run_whose_worker_dies_again_is_marked_failed_and_the_others_finish(
    config_of, monkeypatch
):
    configs = [
        config_of("train.workers=2", "train.cohort=1", f"seed={s}") for s in range(4)
    ]
    lethal = configs[1].run_id
    killer = Killer(monkeypatch, set())
    monkeypatch.setattr(grid, "Display", killer)
    monkeypatch.setenv("LETHAL", lethal)
    monkeypatch.setattr(
        workers,
        "MAIN",
        "import os, signal\n"
        "from vae_sweep.records.run_folder import RunFolder\n"
        "append = RunFolder.append\n"
        "def deadly(self, row):\n"
        "    if self.config.run_id == os.environ['LETHAL'] and row['step'] == 10:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    append(self, row)\n"
        "RunFolder.append = deadly\n" + workers.MAIN,
    )
    outcomes = grid.run(configs)
    assert isinstance(outcomes[1], grid.Broken)
    assert "rerun=failed" in str(outcomes[1])
    assert [o.status for o in outcomes[::2]] == ["finished"] * 2
    summary = json.loads((configs[1].run_dir / "summary.json").read_text())
    assert summary["status"] == "failed"
    assert "SIGKILL" in summary["reason"]
    monkeypatch.undo()
    again = grid.run(configs)  # is not repeated unasked
    assert isinstance(again[1], grid.Broken)
    rerun = [c.model_copy(update={"rerun": "failed"}) for c in configs]
    assert [o.status for o in grid.run(rerun)] == ["finished"] * 4
    assert (configs[1].run_dir / "metrics.csv").read_text().count("\n") == 4


FULL_DISK = """
import os
def fsync(descriptor):
    raise OSError(28, "No space left on device")
os.fsync = fsync
"""


def test_errors_that_all_runs_would_meet_end_the_grid(config_of, monkeypatch):
    job = job_of(config_of())
    monkeypatch.setattr(workers, "MAIN", FULL_DISK + workers.MAIN)
    with Workers(1, 1, Heard()) as one:
        [raised] = carried_out(one, job)
    assert isinstance(raised, OSError)
    assert "reconstructions.png" in raised.filename
    assert "in a worker process" in raised.__notes__[0]


def test_busy_workers_write_checkpoints_when_they_are_left(config_of):
    config = config_of("train.steps=100000", "train.eval_every=50000", "train.workers=2")
    heard = Heard()
    with Workers(1, 1, heard) as workers:
        job = job_of(config)
        steps = workers.train(lambda: job if not workers.busy else None)
        heard.on_row = lambda: (_ for _ in ()).throw(KeyboardInterrupt)
        with pytest.raises(KeyboardInterrupt):
            next(steps)
        time.sleep(1)
        pids = [process.pid for process in workers.processes.values()]
    assert not alive(pids)
    [p] = prepared([config])
    shape = state_shape(p.config, p.point, (3, 8, 8))
    assert p.folder.resume(shape, p.steps).state.step > 0


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_each_worker_sees_a_gpu_of_its_own(config_of, monkeypatch):
    """CPUs stand in for the GPUs; a worker that replaces a dead one has that one's."""
    on_cpu = workers.MAIN.replace("*sys.argv[3:]", "*sys.argv[3:5], 'cpu'")
    assert on_cpu != workers.MAIN
    monkeypatch.setattr(workers, "MAIN", on_cpu)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5,7")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    configs = [config_of(f"seed={seed}") for seed in range(4)]

    def seen(process) -> str:
        variables = Path(f"/proc/{process.pid}/environ").read_text().split("\0")
        [value] = [v for v in variables if v.startswith("CUDA_VISIBLE_DEVICES=")]
        return value.partition("=")[2]

    with Workers(2, 1, Heard(), torch.device("cuda")) as two:
        first, second = two.processes.values()
        assert [seen(first), seen(second)] == ["3", "5"]
        second.kill()
        outcomes = carried_out(two, *(job_of(config) for config in configs))
        assert sum(isinstance(each, WorkerDied) for each in outcomes) == 1
        assert sum(isinstance(each, list) for each in outcomes) == 3
        assert {seen(process) for process in two.processes.values()} == {"3", "5"}


@pytest.mark.skipif(sys.platform != "linux", reason="a parent-death signal")
def test_workers_end_with_a_killed_parent_and_leave_no_images(tmp_path):
    code = (
        "import os, signal, sys, torch\n"
        "from vae_sweep.data.dataset import Images\n"
        "from vae_sweep.training.workers import Workers\n"
        "workers = Workers(2, 1, None)\n"
        "workers._share(Images(*[torch.zeros(9, 3, 8, 8, dtype=torch.uint8)] * 3))\n"
        "print(*[p.pid for p in workers.processes.values()], flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    killed = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True
    )
    pids = [int(pid) for pid in killed.stdout.split()]
    assert killed.returncode == -signal.SIGKILL
    assert len(pids) == 2
    deadline = time.monotonic() + 5
    while alive(pids):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert list(tmp_path.iterdir()) == []


def test_workers_see_the_images_that_were_shared():
    images = Images(*(torch.randint(0, 256, (n, 3, 4, 5)).byte() for n in (7, 2, 3)))
    with workers._shared(images, 0) as shared:
        mapped = workers._mapped(os.dup(shared.descriptor), shared.shapes)
    assert all(torch.equal(a, b) for a, b in zip(images, mapped, strict=True))


def test_a_script_without_a_main_guard_trains_in_workers(config_of, tmp_path):
    config = config_of("train.workers=2", "seed=0")
    code = (
        "from pathlib import Path\n"
        "from vae_sweep import grid\n"
        "from vae_sweep.config import RunConfig\n"
        "with open('ran', 'a') as file:\n"
        "    file.write('x')\n"
        "config = RunConfig.model_validate_json(Path('config.json').read_text())\n"
        "configs = [config.model_copy(update={'seed': s}) for s in range(2)]\n"
        "print([s.status for s in grid.run(configs)])\n"
    )
    (tmp_path / "script.py").write_text(code)
    (tmp_path / "config.json").write_text(config.model_dump_json())
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True
    )
    assert "2 processes" in done.stdout, done.stderr
    assert "['finished', 'finished']" in done.stdout
    assert (tmp_path / "ran").read_text() == "x"


def test_loggers_live_in_the_parent(config_of, monkeypatch):
    kept = {}
    monkeypatch.setattr(
        loggers, "open_all", lambda config: kept.setdefault(config.run_id, Kept())
    )
    configs = [config_of("train.workers=2", f"seed={s}") for s in range(3)]
    grid.run(configs)
    assert [kept[c.run_id].calls[-1] for c in configs] == [("finish", "finished")] * 3
