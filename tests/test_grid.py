import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import TINY, make_config, make_images

from vae_sweep import dataset, grid
from vae_sweep.config import RunConfig, UserError
from vae_sweep.data import Images
from vae_sweep.points import prepare
from vae_sweep.process import keep_freed_memory


@pytest.fixture
def config_of(tmp_path, npz):
    path = npz()

    def compose(*overrides: str) -> RunConfig:
        return make_config(
            *TINY, "data=npz", f"data.path={path}", f"runs={tmp_path}/runs",
            "train.steps=20", "train.eval_every=10", *overrides,
        )  # fmt: skip

    return compose


def rows_of(config: RunConfig) -> str:
    return (config.run_dir / "metrics.csv").read_text()


def test_fingerprint_sees_every_pixel_and_the_splits():
    images = make_images(10)
    whole = Images(images[:6], images[6:8], images[8:])
    digests = {dataset.fingerprint(whole)}
    digests.add(dataset.fingerprint(Images(images[:5], images[5:8], images[8:])))
    other = images.clone()
    other[9, 2, 7, 7] ^= 1
    digests.add(dataset.fingerprint(Images(other[:6], other[6:8], other[8:])))
    assert len(digests) == 3


def test_what_may_differ_inside_a_cohort_and_what_may_not(config_of):
    same = ["norm=unit", "target=raw255", "head=tanh", "beta.value=3", "train.lr=0.1"]
    other = ["model.latent=5", "train.clip=1", "train.precision=bf16"]
    base, *rest = prepare([config_of(*o) for o in ((), *((o,) for o in same + other))])
    alike = [p.cohort_key == base.cohort_key for p in rest]
    assert alike == [True] * len(same) + [False] * len(other)


def test_a_grid_over_networks_and_data_trains_every_point(config_of, tmp_path):
    gray = make_images(60, channels=1, size=9)[:, 0].numpy()
    np.savez(tmp_path / "gray.npz", images=gray)
    configs = [
        config_of("model.latent=3"),
        config_of("model.latent=5", "head=tanh_standardized"),
        config_of(f"data.path={tmp_path}/gray.npz", "norm=unit", "head=sigmoid"),
        config_of("norm=raw255", "head=hardtanh", "beta=cyclical"),
    ]
    summaries = grid.run(configs)
    assert [s["status"] for s in summaries] == ["finished"] * 4
    assert [s["run_id"] for s in summaries] == [c.run_id for c in configs]


def test_a_point_given_twice_trains_once(config_of, capsys):
    twin = config_of("target=zscore")
    first, second = grid.run([config_of(), twin])
    assert first == second
    assert "training 1 point on" in capsys.readouterr().out.replace("\n", " ")


def test_a_point_in_two_sweeps_is_two_runs(config_of):
    a, b = config_of("sweep=a"), config_of("sweep=b", "train.cohort=1")
    assert a.run_id == b.run_id
    grid.run([a, b])
    assert rows_of(a) == rows_of(b)
    assert a.run_dir != b.run_dir


def test_members_of_a_cohort_resume_from_where_each_stood(config_of, tmp_path):
    """Two of three runs were killed, at different checkpoints: their curves still
    equal those of runs that nothing interrupted."""
    overrides = (("head=tanh",), ("head=linear",), ("norm=unit", "seed=3"))
    whole = [config_of(*o, "sweep=whole") for o in overrides]
    grid.run(whole)
    killed = [config_of(*o) for o in overrides]
    grid.run(killed)
    (killed[0].run_dir / "summary.json").unlink()
    for name in ("summary.json", "state.safetensors", "metrics.csv"):
        (killed[1].run_dir / name).unlink()
    grid.run(killed)
    assert [rows_of(c) for c in killed] == [rows_of(c) for c in whole]


def test_other_images_under_the_same_path_start_over(config_of, npz, capsys):
    config = config_of()
    grid.run([config])
    before = rows_of(config)
    npz(n=130)
    grid.run([config])
    assert "is of another configuration or data" in capsys.readouterr().out
    assert rows_of(config) != before
    assert (config.run_dir / "metrics.csv.old-1").read_text() == before


def test_a_run_that_ends_not_finite_in_validation_is_diverged(config_of, monkeypatch):
    from vae_sweep import metrics

    real = metrics.evaluate

    def poisoned(cohort, images, *rest):
        values = real(cohort, images, *rest)
        if poisoned.calls >= 2:  # from the second evaluation on: train, val | train, val
            values["loss"][1] = torch.nan
        poisoned.calls += 1
        return values

    poisoned.calls = 0
    monkeypatch.setattr(metrics, "evaluate", poisoned)
    good, bad = config_of(), config_of("head=tanh")
    summary, outcome = grid.run([good, bad])
    assert summary["status"] == "finished"
    assert isinstance(outcome, grid.Diverged)
    assert pd.read_csv(bad.run_dir / "metrics.csv")["step"].tolist() == [0]
    stored = json.loads((bad.run_dir / "summary.json").read_text())
    assert (stored["status"], stored["diverged_at"]) == ("diverged", 10)
    assert stored["final"]["step"] == 0


def test_the_whole_grid_is_validated_before_a_point_trains(config_of, tmp_path):
    with pytest.raises(UserError, match="too small"):
        grid.run([config_of(), config_of("model.widths=[4,4,4,4,4]")])
    assert not Path(tmp_path / "runs").exists()


def test_freed_memory_is_kept_without_complaint():
    keep_freed_memory()
    assert torch.zeros(40_000_000).sum() == 0
