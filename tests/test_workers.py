import os
import signal
from multiprocessing import active_children

import pytest
from conftest import TINY, make_config

from vae_sweep import grid, loggers
from vae_sweep.config import Failed
from vae_sweep.points import prepare
from vae_sweep.predictions import predict
from vae_sweep.process import limited_threads
from vae_sweep.train import Run
from vae_sweep.workers import Job, WorkerDied, Workers


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
        self.steps, self.ids, self.said, self.on_row = 0, [], [], on_row

    def advance(self, run_steps):
        self.steps += run_steps

    def row(self, run_id, row):
        self.ids.append((run_id, row["step"]))
        self.on_row()

    def say(self, text):
        self.said.append(text)


class Kept:
    """A Logger that keeps its calls."""

    def __init__(self):
        self.calls = []

    def row(self, row):
        self.calls.append(("row", row["step"], row["val/kl"]))

    def images(self, step, path):
        assert path.exists()
        self.calls.append(("images", step))

    def finish(self, summary, exit_code=0):
        self.calls.append(("finish", summary["status"], exit_code))


def job_of(*configs, logger=None) -> Job:
    prepared = prepare(list(configs))
    runs = []
    for p in prepared:
        p.folder.open()
        predicted = predict(p.config, p.point, p.dataset)
        runs.append(Run(p.config, p.point, predicted, p.folder, logger, None))
    return Job(runs, prepared[0].dataset.images)


def test_workers_give_the_numbers_of_this_process_to_the_last_bit(config_of):
    overrides = (("head=tanh",), ("norm=unit", "seed=3"), ("model.latent=5",))
    apart = [config_of(*o, "train.workers=2", "sweep=apart") for o in overrides]
    here = [config_of(*o, "train.workers=1", "sweep=here") for o in overrides]
    summaries = grid.run(apart)
    grid.run(here)
    assert [s["run_id"] for s in summaries] == [c.run_id for c in apart]
    for a, b in zip(apart, here, strict=True):
        rows = (a.run_dir / "metrics.csv").read_text()
        assert rows == (b.run_dir / "metrics.csv").read_text()
        assert len(rows.splitlines()) == 4


def test_the_parent_hears_of_every_step_row_and_end(config_of):
    good, bad = config_of(), config_of("train.lr=1e30", "norm=raw255", "head=linear")
    heard, kept = Heard(), Kept()
    with Workers(1, 1, heard) as workers:
        [(_, summaries)] = workers.train(iter([job_of(good, bad, logger=kept)]))
    assert heard.steps == 2 * 20
    assert [s["status"] for s in summaries] == ["finished", "diverged"]
    assert (good.run_id, 20) in heard.ids
    assert len(heard.said) == 1
    assert "diverged" in heard.said[0]
    assert [c for c in kept.calls if c[0] == "finish"] == [
        ("finish", "diverged", 1),
        ("finish", "finished", 0),
    ]
    assert [c[1] for c in kept.calls if c[0] == "images"].count(20) == 1
    assert not active_children()


def test_a_killed_worker_is_named_and_its_runs_can_go_on(config_of):
    config, whole = config_of(), config_of("sweep=whole")

    def kill() -> None:
        for child in active_children():
            os.kill(child.pid, signal.SIGKILL)

    with Workers(1, 1, Heard(on_row=kill)) as workers:
        with pytest.raises(WorkerDied, match=config.run_id) as death:
            list(workers.train(iter([job_of(config)])))
    assert isinstance(death.value, Failed)
    assert "same command goes on" in str(death.value)
    assert not active_children()
    grid.run([config])
    grid.run([whole])
    rows = [(c.run_dir / "metrics.csv").read_text() for c in (config, whole)]
    assert rows[0] == rows[1]


def test_what_a_worker_raises_is_raised_here_with_its_place(config_of):
    config = config_of()
    job = job_of(config)
    (config.run_dir / "metrics.csv").mkdir()  # so that no row can be written
    with Workers(1, 1, Heard()) as workers:
        with pytest.raises(OSError, match="metrics") as raised:
            list(workers.train(iter([job])))
    assert "in a worker process" in raised.value.__notes__[0]
    assert not active_children()


def test_wandb_runs_live_in_the_parent(config_of, monkeypatch):
    kept = {}
    monkeypatch.setattr(
        loggers, "open_wandb", lambda config: kept.setdefault(config.run_id, Kept())
    )
    configs = [config_of("train.workers=2", f"seed={s}") for s in range(3)]
    grid.run(configs)
    assert [kept[c.run_id].calls[-1] for c in configs] == [("finish", "finished", 0)] * 3
