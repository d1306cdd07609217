"""Hydra's joblib launcher: point by point, in processes of its own."""

import pytest
from helpers import Cli

pytestmark = pytest.mark.long

POINT = (
    *("model=mlp", "model.widths=[8]", "model.latent=2", "data=npz", "log=[]"),
    *("data.path=images.npz", "train.batch_size=8", "train.device=cpu"),
    *("train.steps=4", "train.eval_every=2"),
)
JOBLIB = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")


def test_points_of_joblib_are_those_of_the_grid(tmp_path):
    run = Cli(tmp_path)
    run.env["OMP_NUM_THREADS"] = "1"
    run(*POINT, "seed=0,1,2", "sweep=together")
    run(*POINT, "seed=0,1,2", "sweep=apart", *JOBLIB)
    together, apart = run.runs("together"), run.runs("apart")
    assert [folder.name for folder in apart] == [folder.name for folder in together]
    for ours, theirs in zip(apart, together, strict=True):
        for name in ("metrics.csv", "training.csv"):
            assert (ours / name).read_text() == (theirs / name).read_text()
        assert (ours / ".hydra" / "config.yaml").is_file()
    out, _ = run(*POINT, "seed=0,1,2", "sweep=apart", *JOBLIB)
    assert out.count("1 point has ended already") == 3


def test_what_failed_in_joblibs_processes_ends_the_command_as_it_would_here(tmp_path):
    run = Cli(tmp_path)
    _, err = run(*POINT, "train.optimizer=sgd", "train.lr=0.1,1e30", *JOBLIB, code=1)
    assert err.count("\n") == 1
    assert "diverged at step" in err
    _, err = run(*POINT, "data.path=none.npz", "seed=0,1", *JOBLIB, code=2)
    assert err.count("error: ") == 1
    assert err.startswith("error: data.path must ")
