"""The command, as a user types it: a process of its own, its folders, its exit code."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from filelock import FileLock
from helpers import TINY, Cli
from safetensors.torch import load_file
from survival.checks import told_rows
from survival.wandb_files import key_of, read_records

import vae_sweep

pytestmark = pytest.mark.slow

HEADLINE = ("-m", "norm=zscore,minus1_1", "head=tanh,linear")
SMALL = ("data=npz", "data.path=images.npz", *TINY, "train.steps=30", "train.eval_every=10")
PARTS = {
    "config.yaml",
    "metrics.csv",
    "training.csv",
    "summary.json",
    "state.safetensors",
    "reconstructions.png",
    "samples.png",
    ".hydra",
}


@pytest.fixture
def cli(tmp_path) -> Cli:
    return Cli(tmp_path)


@pytest.fixture(scope="module")
def grid(tmp_path_factory) -> tuple[Cli, str]:
    cli = Cli(tmp_path_factory.mktemp("grid"))
    cli.env["OMP_NUM_THREADS"] = "2"  # one for each of two processes
    out, _ = cli(*HEADLINE, *SMALL)
    return cli, out


def test_headline_leaves_four_whole_folders_a_table_and_a_picture(grid):
    cli, out = grid
    assert len(cli.runs()) == 4
    for folder in cli.runs():
        assert {p.name for p in folder.iterdir()} == PARTS
        rows = pd.read_csv(folder / "metrics.csv")
        assert rows["step"].tolist() == [0, 10, 20, 30]
        assert rows["test/mse"].notna().tolist() == [False, False, False, True]
        summary = json.loads((folder / "summary.json").read_text())
        assert summary["status"] == "finished"
        assert summary["final"]["val/kl"] == rows["val/kl"].iloc[-1]
        overrides = (folder / ".hydra" / "overrides.yaml").read_text()
        assert "head=" in overrides
    assert (cli.folder / "runs/main/overview.png").stat().st_size > 10_000
    for word in ("zscore", "minus1_1", "tanh", "linear", "overview.png"):
        assert word in out


def test_the_same_command_again_trains_nothing(grid):
    cli, first = grid
    files = [f / name for f in cli.runs() for name in PARTS - {".hydra"}]
    before = [f.stat().st_mtime_ns for f in files]
    out, _ = cli(*HEADLINE, *SMALL)
    assert "4 points have ended already" in out
    assert [f.stat().st_mtime_ns for f in files] == before
    table = [line for line in first.splitlines() if "tanh" in line and "step" not in line]
    assert all(line in out for line in table)


@pytest.mark.parametrize("way", ["hydra/launcher=basic", "train.workers=2"])
def test_every_way_to_run_gives_the_same_rows(grid, cli, way):
    """To the last bit where a run has as many threads, as here."""
    fused, _ = grid
    cli.env["OMP_NUM_THREADS"] = "1" if "basic" in way else "2"
    cli(*HEADLINE, *SMALL, way)
    assert [f.name for f in cli.runs()] == [f.name for f in fused.runs()]
    for ours, theirs in zip(cli.runs(), fused.runs(), strict=True):
        rows = (ours / "metrics.csv").read_text()
        assert rows == (theirs / "metrics.csv").read_text()


@pytest.mark.long
def test_the_launchers_agree_whatever_their_threads(cli):
    """`grid` is what a grid gets unasked; `basic` trains point after point."""
    for sweep, way in (("grid", []), ("basic", ["hydra/launcher=basic"])):
        steps = ("train.steps=20", "train.precision=fp64,fp32", f"sweep={sweep}")
        cli(*HEADLINE, *SMALL, *steps, *way)
    ours, theirs = cli.runs("grid"), cli.runs("basic")
    assert [f.name for f in ours] == [f.name for f in theirs]
    assert len(ours) == 8
    for a, b in zip(ours, theirs, strict=True):
        if "precision: fp64" in (a / "config.yaml").read_text():
            weights, expected = (load_file(f / "state.safetensors") for f in (a, b))
            kinds = {t.dtype for name, t in weights.items() if "weight" in name}
            assert kinds == {torch.float64}
            torch.testing.assert_close(weights, expected, rtol=0, atol=1e-10)
        else:
            first, other = (pd.read_csv(f / "metrics.csv").iloc[0] for f in (a, b))
            for name in ("loss", "grad_norm_recon", "grad_norm_kl"):
                assert first[f"train/{name}"] == pytest.approx(
                    other[f"train/{name}"], rel=1e-5
                )


def test_numbers_on_the_command_line_are_constant_betas(cli):
    cli("norm=unit", "beta=0.5,1,4", *SMALL)
    values = [json.loads((f / "summary.json").read_text())["beta"] for f in cli.runs()]
    assert sorted(values) == [0.5, 1, 4]


def rows_so_far(cli: Cli) -> list[Path]:
    return list(cli.folder.glob("runs/main/*/metrics.csv"))


def children(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in listed.read_text().split()] if listed.exists() else []


def is_alive(pid: int) -> bool:
    try:
        return "(zombie)" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


@pytest.mark.parametrize("workers", ["auto", "2"])
def test_killed_and_resumed_equals_uninterrupted_bit_for_bit(grid, cli, workers):
    whole, _ = grid
    cli.env["OMP_NUM_THREADS"] = "2"
    command = (*HEADLINE, *SMALL, f"train.workers={workers}")
    slow = cli.start(*command)
    deadline = time.monotonic() + 120
    while not any("\n10," in f.read_text() for f in rows_so_far(cli)):
        assert time.monotonic() < deadline
        assert slow.poll() is None
        time.sleep(0.002)
    workers_of_it = children(slow.pid)
    slow.send_signal(signal.SIGKILL)
    slow.communicate()
    while any(map(is_alive, workers_of_it)):  # they end when the parent does
        assert time.monotonic() < deadline
        time.sleep(0.01)
    states = [f.read_text() for f in cli.folder.glob("runs/main/*/summary.json")]
    assert sum('"status": "finished"' in state for state in states) < 4
    kept = {f.parent.name: f.read_text() for f in rows_so_far(cli)}
    assert kept
    cli(*command)
    for ours, theirs in zip(cli.runs(), whole.runs(), strict=True):
        rows = (ours / "metrics.csv").read_text()
        assert rows == (theirs / "metrics.csv").read_text()
        assert rows.startswith(kept.get(ours.name, "").rpartition("\n")[0])


def test_a_diverging_run_is_named_and_the_rest_finishes(cli):
    hot = ("train.optimizer=sgd", "train.lr=1e-5", "reduction=sum,mean")
    out, err = cli(*SMALL, *hot, "norm=raw255", "train.momentum=0", code=1)
    states = {
        s["run_id"]: s["status"]
        for s in (json.loads((f / "summary.json").read_text()) for f in cli.runs())
    }
    assert sorted(states.values()) == ["diverged", "finished"]
    [name] = [run_id for run_id, status in states.items() if status == "diverged"]
    [line] = err.splitlines()
    assert line.startswith(f"error: {name} diverged at step")
    assert "lower train.lr" in line
    assert "train.clip=1" in line
    rows = pd.read_csv(cli.folder / "runs/main" / name / "metrics.csv")
    assert len(rows) >= 1
    assert np.isfinite(rows["val/loss"]).all()
    assert "diverged" in out


BAD = {
    "an unknown group": (("nrm=unit",), "nrm"),
    "an unknown option": (("norm=foo",), "norm=foo"),
    "an unknown key": (("+typo=1",), "unknown option typo"),
    "negative beta": (("beta=-1",), "beta.value"),
    "no number": (("beta.value=abc",), "beta.value"),
    "another option's key": (("beta.cycles=2",), "beta.cycles belongs to beta=cyclical"),
    "no latents": (("model.latent=0",), "model.latent"),
    "an image too small": (("model.widths=[4,4,4,4,4]",), "8x8 is too small"),
    "one bad point of many": (("beta=1,2,-3",), "got -3"),
    "a batch too large": (("train.batch_size=999",), "train.batch_size"),
    "a missing folder": (("data=image_folder", "data.path=nowhere"), "nowhere"),
    "a missing file": (("data.path=nowhere.npz",), "nowhere.npz"),
    "broken syntax": (("norm=[unit",), "norm=[unit"),
    "a folder that cannot be": (("runs=images.npz",), "images.npz"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_said_in_a_line_and_trains_nothing(cli, case, monkeypatch, capsys):
    arguments, complaint = BAD[case]
    err = cli.refused(monkeypatch, capsys, *SMALL, *arguments)
    err = err.removeprefix("warning: data=npz is ignored: data=image_folder follows\n")
    assert complaint in err
    assert err.startswith("error: ")
    assert 1 <= err.count("\n") <= 2
    assert not list(cli.folder.glob("runs/main"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_cuda_asked_for_and_absent(cli):
    _, err = cli(*SMALL, "train.device=cuda", code=2)
    assert "needs a CUDA device" in err


def test_an_earlier_versions_sweep_in_the_folder(cli):
    (cli.folder / "runs/main").mkdir(parents=True)
    with FileLock(cli.folder / "runs/main/.lock"):
        _, err = cli(*SMALL, code=2)
    assert "an earlier version of vae-sweep is training in runs/main" in err


def test_a_truncated_checkpoint_is_said_and_kept(grid, cli):
    whole, _ = grid
    point = (*SMALL, "norm=zscore", "head=tanh")
    cli.env["OMP_NUM_THREADS"] = "1"  # as many as it has in the grid
    cli(*point)
    [folder] = cli.runs()
    (folder / "summary.json").unlink()
    state = folder / "state.safetensors"
    state.write_bytes(state.read_bytes()[:1000])
    out, _ = cli(*point)
    assert "is truncated or damaged: starting over" in out
    assert (folder / "state.safetensors.old-1").stat().st_size == 1000
    rows = (folder / "metrics.csv").read_text()
    assert rows == (whole.folder / "runs/main" / folder.name / "metrics.csv").read_text()


def test_wandb_files_read_back_hold_the_curves(cli):
    cli.env["WANDB_MODE"] = "offline"
    cli.env.pop("WANDB_DIR", None)
    # as a process leaves it to those that it starts, and which may outlive it
    cli.env["WANDB_SERVICE"] = "3-4711-tcp-localhost-4711"
    point = [o for o in SMALL if "wandb" not in o]
    out, err = cli(*point, "norm=zscore,unit")
    assert "wandb sync runs/main/wandb/offline-run-*" in out
    for folder in cli.runs():
        name = f"*{folder.name}/run-{folder.name}.wandb"
        files = list((cli.folder / "runs/main/wandb").glob(name))
        assert len(files) == 1, err
        [file] = files
        history: dict[float, dict[str, float]] = {}
        for record in read_records(file):
            items = {key_of(i): i.value_json for i in record.history.item}
            if "step" in items:
                step = float(items["step"])
                history.setdefault(step, {}).update(
                    {
                        k: float(v)
                        for k, v in items.items()
                        if "/" in k and v[0] in "-.0123456789"
                    }
                )
        rows = told_rows(folder)
        assert sorted(history) == [row["step"] for row in rows] == [0, 10, 20, 25, 30]
        for row in rows:
            expected = {k: v for k, v in row.items() if "/" in k}
            logged = {k: v for k, v in history[row["step"]].items() if k in expected}
            assert logged == pytest.approx(expected)


def test_diverged_runs_are_said_in_a_line_each_by_every_launcher(cli):
    hot = ("train.lr=1e30", "norm=raw255", "seed=0,1", "hydra/launcher=basic")
    _, err = cli(*SMALL, *hot, code=1)
    first, second = err.splitlines()
    assert "-s0-" in first
    assert "-s1-" in second


def test_all_options_are_listed_under_what_a_command_does(cli):
    out, _ = cli("--options")
    assert "head: hardtanh, linear" in out
    assert "original, output_init" in out
    assert out.startswith("Trains a grid of VAEs")
    out, _ = Cli(cli.folder, "predict")("--options")
    assert "head: hardtanh, linear" in out
    assert out.startswith("Computes what is known")


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("experiments=sm", "experiments=smoke"),
        ("experiments=mi", "experiments=mine"),
        ("head=sig", "head=sigmoid head=sigmoid_rescaled"),
        ("train.ste", "train.steps="),
    ],
)
def test_the_shell_completes_options_and_experiments(cli, typed, offered):
    (cli.folder / "experiments").mkdir()
    (cli.folder / "experiments" / "mine.yaml").write_text("grids: [norm=unit]\n")
    cli.env |= {"COMP_LINE": f"run {typed}"}
    out, _ = cli("-sc", "query=bash")
    assert out.split() == offered.split()


@pytest.mark.parametrize("module", ["run", "predict", "report"])
def test_the_version_is_the_products(cli, module):
    out, _ = Cli(cli.folder, module)("--version")
    assert out == f"vae-sweep {vae_sweep.__version__}\n"


def test_cfg_shows_a_point(cli):
    out, _ = cli("norm=unit", "--cfg", "job")
    assert "norm: unit" in out


SENSELESS = (
    ("train.batch_size=999",),
    ("train.precision=tf32",),
    ("model.latent=1000000000",),
    ("train.lr=1e-300",),
    ("beta=1e160",),
    ("train.step=1",),
)


@pytest.mark.parametrize("arguments", SENSELESS)
def test_predict_refuses_what_run_refuses_in_the_same_words(
    cli, arguments, monkeypatch, capsys
):
    ours = cli.refused(monkeypatch, capsys, *SMALL, *arguments)
    theirs = Cli(cli.folder, "predict")
    assert theirs.refused(monkeypatch, capsys, *SMALL, *arguments) == ours
    assert not (cli.folder / "runs").exists()


def test_mixed_betas_train_beside_each_other(cli):
    cli(*SMALL, "beta=0.5,matched", "-m", "beta.sigma=12", "norm=unit")
    labels = {f.name.split("-")[2] for f in cli.runs()}
    assert labels == {"b0.5", "bmatched12"}


def test_a_terminal_that_knows_ascii_only(cli):
    cli.env["PYTHONIOENCODING"] = "ascii"
    out, _ = Cli.__call__(cli, *SMALL, "norm=raw255", "head=tanh")
    assert "sigma" in out
    predict = Cli(cli.folder, "predict")
    predict.env["PYTHONIOENCODING"] = "ascii"
    out, _ = predict(*SMALL, "norm=raw255", "head=tanh")
    assert "no network can pass" in out


@pytest.mark.parametrize(
    "variables",
    [{"MPLBACKEND": "nope"}, {"HOME": "/proc/nope", "XDG_CACHE_HOME": ""}],
    ids=["backend", "home"],
)
def test_what_matplotlib_takes_from_the_environment_is_no_matter(cli, variables):
    cli.env |= variables
    _, err = cli(*SMALL, "norm=unit", "train.steps=2")
    assert err == ""
    assert (cli.folder / "runs/main/overview.png").stat().st_size > 10_000


def test_a_working_folder_that_was_deleted(cli, tmp_path):
    (tmp_path / "gone").mkdir()
    code = "import os, sys; os.rmdir(os.getcwd()); sys.argv[1:] = []; "
    code += "from vae_sweep.run import main; main()"
    command = [sys.executable, "-c", code]
    ended = subprocess.run(
        command, cwd=tmp_path / "gone", env=cli.env, capture_output=True, text=True
    )
    assert ended.returncode == 2
    assert "the working folder must exist" in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_output_into_a_closed_pipe_or_stream(cli):
    shell = f"{sys.executable} -m vae_sweep.run {' '.join(SMALL)} %s"
    for redirection, code in (("| head -0; exit ${PIPESTATUS[0]}", 141), (">&-", 0)):
        command = ["bash", "-c", shell % redirection]
        ended = subprocess.run(
            command, cwd=cli.folder, env=cli.env, capture_output=True, text=True
        )
        assert (ended.returncode, ended.stderr) == (code, "")


NOBODY = """
import pwd
def unknown(uid): raise KeyError(uid)
pwd.getpwuid = unknown
from vae_sweep.predict import main
main()
"""


def test_a_user_without_a_home_folder(cli):
    """HOME is not set and the uid has no entry in the password database."""
    del cli.env["HOME"], cli.env["VAE_SWEEP_CACHE"]
    command = [sys.executable, "-c", NOBODY, *SMALL]

    def ended(**env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=cli.folder, env={**cli.env, **env}, capture_output=True, text=True
        )

    refused = ended()
    assert refused.returncode == 2
    assert "set data.cache=FOLDER, VAE_SWEEP_CACHE=FOLDER or HOME" in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert ended(VAE_SWEEP_CACHE="cache").returncode == 0


def test_a_page_is_written_where_one_says(cli):
    cli(*SMALL)
    before = sorted((cli.folder / "runs").rglob("*"))
    out, _ = Cli(cli.folder, "report")("runs/main", "-o", "page.html")
    assert out.startswith("report: page.html")
    assert (cli.folder / "page.html").stat().st_size > 10_000
    assert sorted((cli.folder / "runs").rglob("*")) == before
    _, err = Cli(cli.folder, "report")("runs/main", "-o", "nowhere/page.html", code=2)
    assert "name another file: --output FILE" in err


@pytest.mark.parametrize(
    "overrides",
    [("train.lr=0.001,-1",), ("norm=unit,zscore", "likelihood=bernoulli", "head=sigmoid")],
)
def test_hydras_own_launcher_validates_all_points_before_any_trains(cli, overrides):
    _, err = cli(*SMALL, *overrides, "hydra/launcher=basic", code=2)
    assert err.startswith("error: ")
    assert "interpolation" not in err
    assert err.count("\n") <= 2
    assert not (cli.folder / "runs").exists()


def test_images_that_were_moved_leave_no_folder_of_their_new_path(cli):
    cli(*SMALL, "norm=unit")
    (cli.folder / "images.npz").rename(cli.folder / "moved.npz")
    out, _ = cli(*SMALL, "data.path=moved.npz", "norm=unit")
    assert "1 point has ended already" in out
    assert (
        len([path for path in (cli.folder / "runs/main").iterdir() if path.is_dir()]) == 1
    )


def test_no_experiment_is_what_there_is_unless_set(cli):
    out, _ = Cli(cli.folder, "predict")(*SMALL, "experiments=null", "norm=unit")
    assert "unit" in out


def test_a_wrong_value_of_an_experiment_names_the_experiment(cli):
    (cli.folder / "experiments").mkdir()
    (cli.folder / "experiments" / "mine.yaml").write_text("grids: [train.steps=x]\n")
    _, err = cli("experiments=mine", code=2)
    assert "train.steps: must be a whole number" in err
    assert "experiments=mine" in err
    assert not (cli.folder / "runs").exists()
