"""The launcher `slurm` on real daemons: `make slurm`. Numbers are a local sweep's, byte for
byte, whatever happens to the tasks."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers import Cli

pytestmark = pytest.mark.slurm

HERE = Path(__file__).parent
PATIENCE_S = 90.0  # for what takes seconds on an idle machine
POINT = (
    *("model=mlp", "model.widths=[8]", "model.latent=2", "data=npz"),
    *("data.path=images.npz", "train.batch_size=8", "train.device=cpu", "log=[]"),
    *("train.steps=5000", "train.eval_every=1000", "train.cohort=1"),
)
SLURM = (*POINT, "hydra/launcher=slurm")
WAIT = "hydra.launcher.wait=true"


class Cluster:
    """The daemons, by the process that has them, and a folder to train in."""

    def __init__(self, folder: Path):
        self.process = subprocess.Popen(
            [sys.executable, HERE / "cluster.py", "--serve"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        ready = self.process.stdout.readline()
        assert ready, "the cluster did not start; make slurm installs what it needs"
        self.run, self.status = Cli(folder), Cli(folder, "status")
        for cli in (self.run, self.status):
            cli.env |= json.loads(ready)
            cli.env |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
        self.env, self.folder = self.run.env, folder

    def stop(self) -> None:
        self.process.stdin.close()
        self.process.stdout.close()
        assert self.process.wait(60) == 0

    def node(self, does: str, name: str) -> None:
        """`kill` or `resume` a node."""
        self.process.stdin.write(f"{does} {name}\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "done\n"

    def says(self, *command: str) -> str:
        done = subprocess.run(command, env=self.env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def accounts(self, job: str, column: str) -> list[str]:
        """A column of the job's tasks in Slurm's accounting."""
        asked = ("--duplicates", "--allocations", "--noheader", "--parsable2")
        said = self.says("sacct", "-j", job, *asked, f"--format={column}")
        return said.split("\n")

    def submitted(self, *arguments: str) -> str:
        """The job that a command submits."""
        out, _ = self.run(*SLURM, *arguments)
        return re.search(r"as job (\d+) of", out)[1]

    def rows(self, sweep: str) -> dict[str, str]:
        """run_id -> metrics.csv."""
        folders = (self.folder / "runs" / sweep).glob("*/metrics.csv")
        return {path.parent.name: path.read_text() for path in folders}

    def states(self, sweep: str) -> dict[str, str]:
        """run_id -> what it is."""
        [said] = json.loads(self.status(f"runs/{sweep}", "--json")[0])
        return {run["run_id"]: run["status"] for run in said["runs"]}

    def log(self, sweep: str, job: str) -> str:
        logs = sorted((self.folder / "runs" / sweep / ".slurm").glob(f"{job}_*log.out"))
        return "".join(path.read_text() for path in logs)

    def pid(self, sweep: str) -> int:
        """Of a process that trains."""
        [found] = (self.folder / "runs" / sweep).glob("*/claim-*.json")
        return json.loads(found.read_text())["pid"]

    def trains(self, sweep: str, runs: int = 1) -> bool:
        """Whether so many runs are past their first checkpoint."""
        return sum(rows.count("\n") > 2 for rows in self.rows(sweep).values()) == runs

    def is_over(self, job: str) -> bool:
        return job not in self.says("squeue", "--noheader", "--format=%A").split()


def until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("slurm"))
    yield made
    made.stop()


@pytest.fixture(scope="module")
def local(cluster) -> dict[str, str]:
    """What a sweep in one process of this machine measures."""
    cluster.run(*POINT, "seed=0,1", "sweep=local", "train.workers=1")
    return cluster.rows("local")


def same(cluster: Cluster, sweep: str, local: dict[str, str]) -> bool:
    """Whether a sweep's runs have all ended, with the local sweep's numbers."""
    rows = cluster.rows(sweep)
    assert set(cluster.states(sweep).values()) == {"finished"}
    return rows != {} and all(local[run_id] == content for run_id, content in rows.items())


def goes_on(cluster: Cluster, sweep: str, job: str) -> bool:
    """Whether the job's log says that it went on from between two checkpoints."""
    steps = re.findall(r"go(?:es)? on from steps? (\d+)", cluster.log(sweep, job))
    return steps != [] and all(int(step) % 1000 != 0 for step in steps)


def test_a_sweep_over_both_nodes(cluster, local):
    asked = ("seed=0,1", "sweep=both", "hydra.launcher.cpus_per_task=2", "train.workers=2")
    out, err = cluster.run(*SLURM, *asked, WAIT)
    assert "warning: " not in err
    assert "submitted 2 points as job" in out
    assert "of 2 tasks, each 2 CPUs, 240 minutes" in out
    assert "next: vae-sweep status runs/both" in out
    assert "table: runs/both/table.csv" in out
    job = re.search(r"as job (\d+) of", out)[1]
    assert sorted(cluster.accounts(job, "NodeList")) == ["n1", "n2"]
    until(lambda: cluster.accounts(job, "State,AllocCPUS") == ["COMPLETED|2"] * 2)
    assert same(cluster, "both", local)
    assert all((run / ".hydra").is_dir() for run in cluster.run.runs("both"))
    assert cluster.log("both", job).count("picture: ") == 1  # by who ended last
    out, _ = cluster.run(*SLURM, *asked)
    assert "2 points have ended already" in out
    assert "submitted" not in out


TWO = ("seed=0,1", "train.cohort=auto", "train.workers=2", "hydra.launcher.cpus_per_task=2")


@pytest.mark.parametrize(
    ("runs", "asked", "signals"),
    [(1, ("seed=0",), ["USR2"]), (2, TWO, ["TERM", "USR2"])],
    ids=["one process", "two processes"],
)
def test_a_preempted_task_goes_on_by_itself(cluster, local, runs, asked, signals):
    """With no time-out to spare: one that is preempted needs none."""
    sweep = "-".join(["preempted", *signals])
    asked = (*asked, f"sweep={sweep}", "hydra.launcher.max_num_timeout=0")
    job = cluster.submitted(*asked)
    until(lambda: cluster.trains(sweep, runs))
    for each in signals:
        cluster.says("scancel", f"--signal={each}", job)
    until(lambda: "Requeued job" in cluster.log(sweep, job))
    out, _ = cluster.run(*SLURM, *asked)
    assert f"queued already: {runs} point" in out
    assert "submitted" not in out
    until(lambda: cluster.is_over(job))
    assert goes_on(cluster, sweep, job)
    until(lambda: cluster.accounts(job, "State") == ["REQUEUED", "COMPLETED"])
    assert same(cluster, sweep, local)


def test_a_task_that_ran_out_of_time_too_often_leaves_a_checkpoint(cluster, local):
    """Of less than ten minutes submitit guarantees none, so that each end is a time-out."""
    short = ("hydra.launcher.timeout_min=5", "hydra.launcher.max_num_timeout=0")
    job = cluster.submitted("seed=0", "sweep=late", *short)
    until(lambda: cluster.trains("late"))
    cluster.says("scancel", "--signal=USR2", job)
    until(lambda: cluster.is_over(job))
    assert "timed-out too many times" in cluster.log("late", job)
    assert set(cluster.states("late").values()) == {"interrupted"}
    again = cluster.submitted("seed=0", "sweep=late", *short[:1], WAIT)
    assert goes_on(cluster, "late", again)
    assert same(cluster, "late", local)


def test_scancel_leaves_checkpoints_and_the_same_command_goes_on(cluster, local):
    job = cluster.submitted("seed=0,1", "sweep=cancelled")
    until(lambda: cluster.trains("cancelled", runs=2))
    cluster.says("scancel", job)
    until(lambda: cluster.is_over(job))
    until(lambda: [s[:9] for s in cluster.accounts(job, "State")] == ["CANCELLED"] * 2)
    assert set(cluster.states("cancelled").values()) == {"interrupted"}
    again = cluster.submitted("seed=0,1", "sweep=cancelled", WAIT)
    assert goes_on(cluster, "cancelled", again)
    assert same(cluster, "cancelled", local)


def test_a_killed_task_ends_the_wait_and_the_same_command_goes_on(cluster, local):
    waiting = cluster.run.start(*SLURM, "seed=0", "sweep=killed", WAIT)
    until(lambda: cluster.trains("killed"))
    os.kill(cluster.pid("killed"), signal.SIGKILL)
    _, err = waiting.communicate(timeout=PATIENCE_S)
    assert waiting.returncode == 1
    assert err.count("\n") == 1
    assert "has not ended; the same command continues it" in err
    assert set(cluster.states("killed").values()) == {"interrupted"}
    again = cluster.submitted("seed=0", "sweep=killed", WAIT)
    assert "goes on from step" in cluster.log("killed", again)
    assert same(cluster, "killed", local)


def test_a_node_that_goes_down_leaves_its_task_to_the_other(cluster, local):
    job = cluster.submitted("seed=0", "sweep=down")
    until(lambda: cluster.trains("down"))
    node = cluster.says("squeue", "--noheader", "--jobs", job, "--format=%N")
    cluster.node("kill", node)
    until(lambda: cluster.is_over(job))
    cluster.node("resume", node)
    assert "goes on from step" in cluster.log("down", job)
    other = {"n1": "n2", "n2": "n1"}[node]
    until(lambda: cluster.accounts(job, "State,NodeList")[-1] == f"COMPLETED|{other}")
    assert same(cluster, "down", local)
    job = cluster.submitted("seed=0", "sweep=up", f"hydra.launcher.nodelist={node}")
    until(lambda: cluster.is_over(job))
    assert same(cluster, "up", local)


def test_a_thousand_points_are_one_array(cluster):
    """Dry: the tasks are held, and none runs. What is submitted is looked at, and that the
    same command does not submit it again."""
    held = (
        "seed=range(1000)",
        "sweep=many",
        "+hydra.launcher.additional_parameters.hold=true",
    )
    job = cluster.submitted(*held)
    queued = cluster.says(
        "squeue", "--noheader", "--array", "--jobs", job, "--format=%i %T"
    )
    assert set(queued.split("\n")) == {f"{job}_{task} PENDING" for task in range(1000)}
    out, _ = cluster.run(*SLURM, *held)
    assert f"queued already: 1000 points, in job {job}" in out
    folder = cluster.folder / "runs" / "many"
    tasks = json.loads((folder / ".slurm" / f"{job}.json").read_text())
    assert len(tasks) == 1000
    runs = [Path(run).name for task in tasks.values() for run in task]
    assert sorted(runs) == sorted(json.loads((folder / "sweep.json").read_text())["runs"])
    assert len(list((folder / ".slurm").glob("*_submitted.pkl"))) == 1000
    assert set(cluster.states("many").values()) == {"waiting"}
    cluster.says("scancel", job)
    until(lambda: cluster.is_over(job))


@pytest.mark.parametrize(
    ("sweep", "asked", "said"),
    [
        ("nowhere", "hydra.launcher.partition=none", "Invalid partition name specified"),
        ("gpu", "hydra.launcher.gpus_per_node=1", "Invalid generic resource"),
    ],
)
def test_what_sbatch_refuses_is_passed_on_in_a_line(cluster, sweep, asked, said):
    _, err = cluster.run(*SLURM, f"sweep={sweep}", asked, code=2)
    assert err.count("\n") == 1
    assert said in err
    assert list((cluster.folder / "runs" / sweep / ".slurm").iterdir()) == []
