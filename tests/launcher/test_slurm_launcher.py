"""The launcher `slurm` without a Slurm: what it submits, says and refuses. `make slurm` has
the rest, on real daemons."""

import json
import os
import re
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import leave_signals, make_images
from submitit.core.utils import DelayedSubmission

from vae_sweep import status
from vae_sweep.command import entry
from vae_sweep.run import run_grid
from vae_sweep.system import stop

pytestmark = pytest.mark.slow

POINT = (
    *("model=mlp", "model.widths=[8]", "model.latent=2", "data=npz"),
    *("data.path=images.npz", "train.batch_size=8", "train.device=cpu", "log=[]"),
    *("train.steps=4", "train.eval_every=2"),
)
SBATCH = """\
#!/bin/sh
cat "$1" > script
test ! -e refusal || { cat refusal >&2; exit 1; }
echo "Submitted batch job 17"
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """To work in, with an sbatch that keeps the script and a squeue that says `queue`."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, content in {
        "sbatch": SBATCH,
        "srun": "#!/bin/sh\n",
        "squeue": "#!/bin/sh\ntest ! -e queue || cat queue\n",
    }.items():
        (programs / name).write_text(content)
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("VAE_SWEEP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)
    images = make_images(60).permute(0, 2, 3, 1).numpy()
    np.savez(tmp_path / "images.npz", images=images)
    return tmp_path


@pytest.fixture
def command(folder, monkeypatch, capsys):
    """`vae-sweep run` in this process: what it says on stdout and stderr."""

    def said(*arguments: str, code: int = 0) -> tuple[str, str]:
        with monkeypatch.context() as patched:
            patched.setattr(sys, "argv", ["run.py", *POINT, *arguments])
            patched.setenv("HYDRA_FULL_ERROR", "0")  # so that it is put back
            ended = 0
            try:
                entry.main(run_grid, "", is_portable=True)
            except SystemExit as exit_:
                ended = exit_.code
        out, err = capsys.readouterr()
        assert ended == code, err
        return out, err

    return said


def tasks(folder: Path, sweep: str = "main") -> list[DelayedSubmission]:
    """What was submitted, in the order of the tasks."""
    paths = (folder / "runs" / sweep / ".slurm").glob("17*_submitted.pkl")
    numbered = {int(re.search(r"(\d+)_sub", path.name)[1]): path for path in paths}
    return [DelayedSubmission.load(numbered[n]) for n in sorted(numbered)]


def is_named(task: DelayedSubmission) -> bool:
    """Whether its function was pickled by name; Hydra's scans load plugins anew."""
    module = "hydra_plugins.vae_sweep_launcher.slurm_task"
    return type(task.function) is sys.modules[module].Part


def points(task: DelayedSubmission) -> list[dict]:
    return json.loads(task.args[0])


SLURM = "hydra/launcher=slurm"


def test_cohorts_are_submitted_as_text_and_tasks_train_them(command, folder, capsys):
    out, err = command(SLURM, "seed=0,1", "model.latent=2,3", "beta=cyclical")
    assert "warning: beta.cycles" in err  # as a local run says
    assert "submitted 4 points as job 17 of 2 tasks, each 1 CPU, 240 minutes" in out
    assert "logs: runs/main/.slurm/17_*log.out; scancel 17" in out
    assert out.endswith("next: vae-sweep status runs/main\n")
    listed = json.loads((folder / "runs/main/sweep.json").read_text())["runs"]
    assert len(listed) == 4
    submitted = tasks(folder)
    assert [len(points(task)) for task in submitted] == [2, 2]
    assert all(is_named(task) for task in submitted)
    assert all(isinstance(task.args[0], str) for task in submitted)
    said = []
    for task in submitted:
        task.result()
        said.append(capsys.readouterr().out)
    assert ["picture: " in each for each in said] == [False, True]  # by who ended last
    assert len(list(folder.glob("runs/main/*/.hydra"))) == 4
    summaries = [json.loads(p.read_text()) for p in folder.glob("runs/main/*/summary.json")]
    assert {summary["status"] for summary in summaries} == {"finished"}
    assert all(SLURM in summary["command"] for summary in summaries)
    out, _ = command(SLURM, "seed=0,1", "model.latent=2,3", "beta=cyclical")
    assert "4 points have ended already" in out
    assert "submitted" not in out


def test_what_is_queued_is_not_submitted_again(command, folder):
    command(SLURM, "model.latent=2,3")
    (folder / "queue").write_text("16\n17_1\n")
    kept = folder / "runs/main/.slurm/17.json"
    [first, second] = json.loads(kept.read_text()).values()
    out, _ = command(SLURM, "model.latent=2,3")
    assert "queued already: 1 point, in job 17" in out
    assert "submitted 1 point as job 17 of 1 task" in out
    assert list(json.loads(kept.read_text()).values()) == [first]
    (folder / "queue").write_text("17\n")
    kept.write_text(json.dumps({"17": first + second}))
    out, _ = command(SLURM, "model.latent=2,3")
    assert "queued already: 2 points, in job 17" in out
    assert "submitted" not in out


def test_keys_are_sbatchs(command, folder):
    keys = {"partition": "a", "gpus_per_node": "a100:2", "mem_gb": 1.5, "cpus_per_task": 3}
    keys |= {"timeout_min": 90, "array_parallelism": 5, "signal_delay_s": 30, "name": "b"}
    keys |= {"setup": "['module load x']", "account": "c", "nodelist": "d"}
    typed = [f"hydra.launcher.{key}={value}" for key, value in keys.items()]
    more = "+hydra.launcher.additional_parameters={hold: true, licenses: e}"
    out, _ = command(SLURM, "seed=0,1,2", "train.cohort=1", *typed, more)
    assert "each 3 CPUs, 2 GPUs, 1.5 GB, 90 minutes" in out
    lines = set((folder / "script").read_text().splitlines())
    assert {
        *("#SBATCH --partition=a", "#SBATCH --gpus-per-node=a100:2", "#SBATCH --mem=1536M"),
        *("#SBATCH --cpus-per-task=3", "#SBATCH --time=90", "#SBATCH --array=0-2%3"),
        *("#SBATCH --signal=USR2@30", "#SBATCH --job-name=b", "module load x"),
        *("#SBATCH --account=c", "#SBATCH --nodelist=d", "#SBATCH --hold"),
        "#SBATCH --licenses=e",
    } <= lines
    [srun] = [line for line in lines if line.startswith("srun ")]
    assert "--cpus-per-task=3" in srun


def test_tasks_with_a_gpu_are_planned_for_it(command, folder):
    _, err = command(SLURM, "train.device=cuda", code=2)
    assert err == (
        "error: train.device=cuda needs a CUDA device, each task has 0; set "
        "hydra.launcher.gpus_per_node=1, or use train.device=auto or cpu\n"
    )
    _, err = command(SLURM, "hydra.launcher.gpus_per_node=a100", code=2)
    assert "gpus_per_node must be a number, or a type and a number, got 'a100'" in err
    gpu = ("train.device=auto", "hydra.launcher.gpus_per_node=1")
    command(SLURM, "seed=range(70)", *gpu)
    assert [len(points(task)) for task in tasks(folder)] == [35, 35]  # at most 64


def test_waiting_ends_with_the_queue_and_with_a_table(command, folder, monkeypatch):
    command(SLURM, "seed=0,1", "train.cohort=1")
    [first, _] = tasks(folder)
    first.result()
    (folder / "queue").write_text("17_1\n")
    looks = iter([lambda: None, (folder / "queue").unlink])
    monkeypatch.setattr("time.sleep", lambda _: next(looks)())
    waited = "hydra.launcher.wait=true"
    out, err = command(SLURM, "seed=0,1", "train.cohort=1", waited, code=1)
    assert "runs/main  interrupted: 1 finished, 1 waiting" in out
    assert out.index("queued already") < out.index("interrupted") < out.index("table: ")
    assert err.count("\n") == 1
    assert "-s1-" in err
    assert "has not ended; the same command continues it" in err


def test_what_is_to_be_repeated_is_put_aside_before(command, folder):
    """A task that is begun again must not repeat what it has ended."""
    command("seed=0,1")
    out, _ = command(SLURM, "seed=0,1", "rerun=all")
    assert "submitted 2 points" in out
    assert len(list(folder.glob("runs/main/*/summary.json.old-1"))) == 2
    assert not list(folder.glob("runs/main/*/summary.json"))
    [task] = tasks(folder)
    assert {point["rerun"] for point in points(task)} == {None}


def test_a_task_says_what_failed_and_ends_with_the_code_of_a_command(
    command, folder, capsys, monkeypatch
):
    command(SLURM, "seed=0")
    [task] = tasks(folder)
    (folder / "images.npz").rename(folder / "away.npz")
    with pytest.raises(SystemExit) as ended:
        task.result()
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("error: data.path must ")
    (folder / "away.npz").rename(folder / "images.npz")
    command(SLURM, "seed=1", "train.optimizer=sgd", "train.lr=1e30", "sweep=diverging")
    [task] = tasks(folder, "diverging")
    with pytest.raises(SystemExit) as ended:
        task.result()
    assert ended.value.code == 1
    assert "diverged at step" in capsys.readouterr().err


def test_a_preempted_task_asks_to_be_queued_again(folder, command):
    """SIGUSR2 ends training with a checkpoint, then does what submitit made of it; also
    where SIGTERM came before, which submitit passes over."""
    command(SLURM, "train.steps=100000", "train.eval_every=100000")
    [task] = tasks(folder)
    [run] = json.loads((folder / "runs/main/sweep.json").read_text())["runs"]
    beat = folder / "runs/main" / run / "progress.json"
    heard = []
    before = {s: signal.signal(s, lambda s, _: heard.append(s)) for s in stop.SIGNALS}

    class Sends:
        """Sends both once training has begun."""

        def __init__(self, function):
            self.function, self.sent = function, False

        def __call__(self):
            if beat.exists() and not self.sent:
                self.sent = True
                os.kill(os.getpid(), signal.SIGTERM)
                os.kill(os.getpid(), signal.SIGUSR2)
            return self.function()

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(stop, "requested", Sends(stop.requested))
        try:
            with pytest.raises(SystemExit) as ended:
                task.result()
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler)
    assert heard == [signal.SIGUSR2]
    assert ended.value.code == 128 + signal.SIGUSR2
    again = task._checkpoint_function()
    assert is_named(again)
    assert again.args == task.args
    assert (folder / "runs/main" / run / "state.safetensors").exists()


def test_what_is_missing_is_said_in_a_line_and_nothing_is_written(
    command, folder, monkeypatch
):
    monkeypatch.setitem(sys.modules, "submitit", None)
    _, err = command(SLURM, code=2)
    assert err == (
        "error: hydra/launcher=slurm needs submitit; pip install 'vae-sweep[slurm]'\n"
    )
    (folder / "programs/sbatch").unlink()
    (folder / "programs/squeue").unlink()
    monkeypatch.setenv("PATH", str(folder / "programs"))
    _, err = command(SLURM, code=2)
    assert err.startswith(
        "error: hydra/launcher=slurm needs Slurm, and there is no sbatch,"
    )
    assert "squeue on PATH" in err
    assert err.count("\n") == 1
    assert not (folder / "runs").exists()


def test_what_sbatch_says_is_passed_on(command, folder):
    (folder / "refusal").write_text(
        "sbatch: error: invalid partition specified: a\n"
        "sbatch: error: Batch job submission failed: Invalid partition name specified\n"
    )
    _, err = command(SLURM, "seed=0,1", "train.cohort=1", code=2)
    assert err == (
        "error: sbatch refuses the tasks: Batch job submission failed: Invalid partition "
        "name specified; set the keys of hydra.launcher to what the cluster has\n"
    )
    assert list((folder / "runs/main/.slurm").iterdir()) == []


def test_predictions_need_no_slurm(folder, capsys, monkeypatch):
    (folder / "programs/sbatch").unlink()
    from vae_sweep.predict import predict_grid

    monkeypatch.setattr(sys, "argv", ["predict.py", *POINT, SLURM])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    entry.main(predict_grid, "")
    assert "PSNR cap" in capsys.readouterr().out


def test_readers_pass_over_what_submitit_writes(command, folder, capsys, monkeypatch):
    command(SLURM, "seed=0,1")
    monkeypatch.setattr(sys, "argv", ["status.py", "runs/main"])
    leave_signals(monkeypatch)
    status.main()
    out = capsys.readouterr().out
    assert out.startswith("runs/main  waiting: 2 waiting · 0 %\n")
    assert "slurm/" not in out.replace("hydra/launcher=slurm", "")
