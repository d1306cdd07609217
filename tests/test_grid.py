import errno
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import TINY, claim_elsewhere, make_config, make_images, prepared
from safetensors.torch import load_file

from vae_sweep import grid
from vae_sweep.config import RunConfig
from vae_sweep.data.dataset import fingerprint
from vae_sweep.errors import UserError
from vae_sweep.records import reader, results
from vae_sweep.records.run_folder import ReadOnly, RunFolder
from vae_sweep.system import stop
from vae_sweep.training import execute, plan
from vae_sweep.training.device import limited_threads
from vae_sweep.training.plan import plans
from vae_sweep.training.step import Trainer

pytestmark = pytest.mark.slow


@pytest.fixture
def config_of(tmp_path, npz):
    path = npz()

    def compose(*overrides: str) -> RunConfig:
        return make_config(
            *TINY, "data=npz", f"data.path={path}", f"runs={tmp_path}/runs",
            "train.steps=20", "train.eval_every=10", *overrides,
        )  # fmt: skip

    return compose


@pytest.fixture
def one_core():
    """Grids of other sizes have other threads, which round otherwise."""
    with limited_threads(1):
        yield


def rows_of(config: RunConfig) -> str:
    return (config.run_dir / "metrics.csv").read_text()


def test_fingerprint_sees_every_pixel_and_the_splits():
    images = make_images(10).numpy()
    digests = {fingerprint((images[:6], images[6:8], images[8:]))}
    digests.add(fingerprint((images[:5], images[5:8], images[8:])))
    other = images.copy()
    other[9, 2, 7, 7] ^= 1
    digests.add(fingerprint((other[:6], other[6:8], other[8:])))
    assert len(digests) == 3


def test_what_may_differ_inside_a_cohort_and_what_may_not(config_of):
    same = ["norm=unit", "target=raw255", "head=tanh", "beta.value=3", "train.lr=0.1"]
    other = ["model.latent=5", "train.clip=1", "train.precision=bf16"]
    base, *rest = prepared([config_of(*o) for o in ((), *((o,) for o in same + other))])
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
    assert [s.status for s in summaries] == ["finished"] * 4
    assert [s.run_id for s in summaries] == [c.run_id for c in configs]


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
    from vae_sweep.training import metrics

    real = metrics.evaluate

    def poisoned(*arguments, **options):
        values = real(*arguments, **options)
        if poisoned.calls >= 2:  # from the second evaluation on: train, val | train, val
            values["loss"][1] = torch.nan
        poisoned.calls += 1
        return values

    poisoned.calls = 0
    monkeypatch.setattr(metrics, "evaluate", poisoned)
    good, bad = config_of(), config_of("head=tanh")
    summary, outcome = grid.run([good, bad])
    assert summary.status == "finished"
    assert isinstance(outcome, grid.Diverged)
    assert pd.read_csv(bad.run_dir / "metrics.csv")["step"].tolist() == [0]
    stored = json.loads((bad.run_dir / "summary.json").read_text())
    assert (stored["status"], stored["diverged_at"]) == ("diverged", 10)
    assert stored["final"]["step"] == 0


def test_a_cohort_that_does_not_fit_into_memory_is_halved(
    one_core, config_of, monkeypatch, capsys
):
    """Down to one run; a run that fails alone is marked, the others finish."""
    sizes, real = [], execute.train

    def short(runs, *rest):
        sizes.append(len(runs))
        if len(runs) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")
        if any(run.point.beta == 2 for run in runs):
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return real(runs, *rest)

    monkeypatch.setattr(execute, "train", short)
    betas = [f"beta.value={b}" for b in (1, 2, 3, 4, 5)]
    configs = [config_of(b, "train.cohort=5", "train.workers=1") for b in betas]
    outcomes = grid.run(configs)
    assert sizes[:3] == [5, 3, 2]
    assert 1 in sizes
    assert isinstance(outcomes[1], grid.Broken)
    assert "can't allocate memory" in str(outcomes[1])
    assert [o.status for i, o in enumerate(outcomes) if i != 1] == ["finished"] * 4
    assert "tried again, fewer at once" in capsys.readouterr().out
    monkeypatch.undo()
    whole = [config_of(b, "train.cohort=5", "sweep=whole") for b in betas]
    grid.run(whole)
    for i, (a, b) in enumerate(zip(configs, whole, strict=True)):
        assert i == 1 or rows_of(a) == rows_of(b)
    rerun = [c.model_copy(update={"rerun": "failed"}) for c in configs]
    assert [o.status for o in grid.run(rerun)] == ["finished"] * 5


def test_a_full_disk_ends_the_grid_and_keeps_what_was_measured(
    one_core, config_of, monkeypatch
):
    from vae_sweep import files

    config, real = config_of("train.workers=1"), files.os.fsync

    def full(descriptor):
        if full.calls > 7:
            raise OSError(errno.ENOSPC, "No space left on device")
        full.calls += 1
        real(descriptor)

    full.calls = 0
    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as raised:
        grid.run([config])
    assert Path(raised.value.filename).parent == config.run_dir
    kept = rows_of(config)
    assert kept.count("\n") > 1
    assert not list(config.run_dir.glob(".*"))
    monkeypatch.undo()
    whole = config_of("sweep=whole", "train.workers=1")
    grid.run([config])
    grid.run([whole])
    assert rows_of(config) == rows_of(whole)
    assert rows_of(config).startswith(kept)


@pytest.mark.parametrize("lost", ["folder", "metrics.csv", "a row"])
@pytest.mark.parametrize("at", [0, 10])
def test_records_that_vanish_meanwhile_are_noticed_and_the_run_repeated(
    one_core, config_of, monkeypatch, capsys, lost, at
):
    from vae_sweep.training.loop import Recorder

    good, bad = config_of("seed=1"), config_of()
    real = Recorder._evaluate

    def vanish(self, last=False):
        real(self, last)
        if self.trainer.step == at and not (bad.run_dir.parent / "once").exists():
            (bad.run_dir.parent / "once").write_text("")
            path = bad.run_dir / "metrics.csv"
            if lost == "folder":
                shutil.rmtree(bad.run_dir)
            elif lost == "metrics.csv":
                path.unlink()
            else:
                path.write_text(path.read_text().rpartition(f"\n{at},")[0] + "\n")

    monkeypatch.setattr(Recorder, "_evaluate", vanish)
    outcomes = grid.run([good, bad])
    assert [o.status for o in outcomes] == ["finished"] * 2
    assert "while the run trained" in capsys.readouterr().out
    whole = config_of("sweep=whole")
    grid.run([whole])
    assert rows_of(bad) == rows_of(whole)


def test_a_folder_removed_after_its_run_ended_is_repeated(config_of, monkeypatch):
    first, second = (config_of(f"seed={s}", "train.cohort=1") for s in (0, 1))
    real = execute.train

    def remove(runs, *rest):
        if runs[0].config.seed == 1 and not (first.run_dir.parent / "once").exists():
            (first.run_dir.parent / "once").write_text("")
            shutil.rmtree(first.run_dir)
        return real(runs, *rest)

    monkeypatch.setattr(execute, "train", remove)
    outcomes = grid.run([first, second])
    assert [o.status for o in outcomes] == ["finished"] * 2
    assert rows_of(first).count("\n") == 4


@pytest.mark.parametrize("wanted", ["all", "diverged"])
def test_rerun_repeats_and_keeps_what_was_there(config_of, wanted):
    good, bad = config_of(), config_of("train.lr=1e30", "norm=raw255", "head=linear")
    grid.run([good, bad])
    before = rows_of(bad)
    rerun = [c.model_copy(update={"rerun": wanted}) for c in (good, bad)]
    summary, outcome = grid.run(rerun)
    assert summary.status == "finished"
    assert isinstance(outcome, grid.Diverged)
    assert "train.clip=1" in str(outcome)
    assert (bad.run_dir / "metrics.csv.old-1").read_text() == before == rows_of(bad)
    assert (good.run_dir / "metrics.csv.old-1").exists() == (wanted == "all")


def test_the_picture_shows_the_sweep_and_the_table_this_commands_points(
    config_of, monkeypatch, capsys
):
    grid.run([config_of()])
    shown = []
    monkeypatch.setattr(grid.overview, "save_overview", lambda loaded, folder: shown.append(
        loaded.finals["run_id"].tolist()) or folder)  # fmt: skip
    capsys.readouterr()
    grid.run([config_of("seed=7")])
    assert shown == [[config_of("seed=7").run_id, config_of().run_id]]
    (config_of().run_dir / "config.yaml").write_text("[")
    grid.run([config_of("seed=7")])
    assert "left out 1 run: " in capsys.readouterr().out
    assert shown[1] == [config_of("seed=7").run_id]


def test_a_run_opens_with_everything_that_is_known(config_of, monkeypatch):
    opened = {}

    def train(runs, *rest):
        for run in runs:
            path = run.folder.path / "summary.json"
            opened[run.config.run_id] = json.loads(path.read_text())
        raise stop.Stopped(15)

    monkeypatch.setattr(execute, "train", train)
    config = config_of("norm=zscore", "head=tanh", "train.workers=1")
    with pytest.raises(stop.Stopped):
        grid.run([config])
    summary = opened[config.run_id]
    assert (summary["status"], summary["total_steps"], summary["schema"]) == (
        "running",
        20,
        reader.SCHEMA,
    )
    assert summary["psnr_cap"] == summary["predicted"]["psnr_cap"] < 40
    assert summary["device"] == "cpu"
    assert set(summary) >= {"command", "versions", "processor", "threads", "commit"}


def test_the_whole_grid_is_validated_before_a_point_trains(config_of, tmp_path):
    with pytest.raises(UserError, match="too small"):
        grid.run([config_of(), config_of("model.widths=[4,4,4,4,4]")])
    assert not Path(tmp_path / "runs").exists()


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_finished_run_keeps_its_weights_and_more_where_asked(config_of, optimizer):
    options = (f"train.optimizer={optimizer}", "train.workers=1")
    lean = config_of(*options)
    whole = config_of(*options, "log.optimizer_state=true", "sweep=whole")
    assert lean.run_id == whole.run_id
    grid.run([lean])
    grid.run([whole])
    kept, all_ = (load_file(c.run_dir / "state.safetensors") for c in (lean, whole))
    rest = all_.keys() - kept.keys()
    moments = {"adam": {"exp_avg", "exp_avg_sq"}, "sgd": {"momentum_buffer"}}
    assert rest == {"generator.noise", *(f"optimizer.{m}" for m in moments[optimizer])}
    for name, tensor in kept.items():
        assert torch.equal(tensor, all_[name])
    assert sum(t.numel() for t in kept.values()) > 0


@pytest.mark.parametrize("lost", ["summary.json", "config.yaml"])
def test_weights_and_rows_are_enough_to_be_finished(config_of, monkeypatch, lost):
    """No update is made again where a finished run lost what says that it is one."""
    config = config_of("train.workers=1")
    [first] = grid.run([config])
    rows, before = rows_of(config), (config.run_dir / "summary.json").read_bytes()
    (config.run_dir / lost).unlink()
    monkeypatch.setattr(Trainer, "update", lambda self: pytest.fail("an update"))
    [again] = grid.run([config])
    assert again.status == "finished"
    assert again.final == first.final
    assert rows_of(config) == rows
    if lost == "config.yaml":
        assert (config.run_dir / "summary.json").read_bytes() == before
    assert sorted(p.name for p in config.run_dir.iterdir()) == [
        *("config.yaml", "metrics.csv", "reconstructions.png", "samples.png"),
        *("state.safetensors", "summary.json", "training.csv"),
    ]


def test_a_sweep_lists_its_runs_before_they_begin(config_of, monkeypatch):
    configs = [config_of(f"seed={seed}", "train.workers=1") for seed in range(3)]
    folder = configs[0].sweep_dir
    seen = []

    def look(*_):
        seen.append(results.load(folder))
        raise OSError(errno.ENOSPC, "No space left on device", "x")

    grid.run(configs[:1])
    with monkeypatch.context() as stopped:
        stopped.setattr(RunFolder, "save_state", look)
        stopped.setattr(plan, "plans", lambda todo, count: plans(todo[:1], count))
        with pytest.raises(OSError, match="No space"):
            grid.run(configs)
    [loaded] = seen
    assert set(loaded.finals["run_id"]) == {c.run_id for c in configs[:2]}
    assert loaded.waiting == [configs[2].run_id]
    first, second = [json.loads(path.read_text()) for path in reader.lists(folder)]
    assert first["schema"] == second["schema"] == reader.SCHEMA
    assert list(first["runs"]) == [configs[0].run_id]
    assert list(second["runs"]) == [c.run_id for c in configs[1:]]
    listed = reader.read_sweep(folder)
    assert list(listed) == [c.run_id for c in configs]
    keys = {"command", "time", "total_steps", "label"}
    assert all(about.keys() == keys for about in listed.values())
    grid.run(configs)
    assert reader.read_sweep(folder) == listed
    assert len(reader.lists(folder)) == 2
    assert results.load(folder).waiting == []


@pytest.mark.parametrize("content", ["", "[]", '{"runs": 3}', '{"schema": 3, "runs": [1]}'])
def test_a_damaged_list_of_runs_is_put_aside(config_of, content, capsys):
    config = config_of("train.workers=1")
    config.sweep_dir.mkdir(parents=True)
    path = config.sweep_dir / "sweep.json"
    path.write_text(content)
    grid.run([config])
    assert path.with_name("sweep.json.old-1").read_text() == content
    assert "written anew, kept as sweep.json.old-1" in capsys.readouterr().out
    assert reader.read_sweep(config.sweep_dir).keys() == {config.run_id}
    path.write_text(content)
    assert results.load(config.sweep_dir).waiting == []


def test_the_list_of_a_later_version_is_refused_and_left_alone(config_of):
    config = config_of("train.workers=1")
    config.sweep_dir.mkdir(parents=True)
    path = config.sweep_dir / "sweep.json"
    path.write_text('{"schema": 99, "runs": {}}')
    with pytest.raises(UserError, match=r"sweep.json was written by a later version"):
        grid.run([config])
    assert path.read_text() == '{"schema": 99, "runs": {}}'


def test_a_run_that_another_command_began_meanwhile_is_left_to_it(
    config_of, monkeypatch, capsys
):
    """It made the folder while this one prepared its points, which takes seconds."""
    config, other, real = config_of(), config_of("seed=1"), grid._prepare

    def prepare(points, ready, console, *rest):
        claim_elsewhere(config.run_dir)
        return real(points, ready, console, *rest)

    monkeypatch.setattr(grid, "_prepare", prepare)
    theirs, ours = grid.run([config, other])
    assert theirs is None
    assert ours.status == "finished"
    assert [path.name for path in config.run_dir.iterdir()] == ["claim-1.json"]
    assert not list(other.run_dir.glob("claim-*"))
    said = " ".join(capsys.readouterr().out.split())
    assert (
        "1 point is being trained elsewhere (elsewhere, process 7); 1 of 2 points left for "
        "this process" in said
    )
    assert "whoever ends last prints the table" in said
    assert not (config.sweep_dir / "table.csv").exists()


def test_a_sweep_that_another_command_ended_meanwhile_is_not_trained_again(
    config_of, monkeypatch
):
    config, real = config_of(), grid._prepare

    def prepare(points, ready, console, *rest):
        with monkeypatch.context() as alone:
            alone.setattr(grid, "_prepare", real)
            grid.run([config])
        monkeypatch.setattr(execute, "train", None)  # what follows trains nothing
        return real(points, ready, console, *rest)

    monkeypatch.setattr(grid, "_prepare", prepare)
    [summary] = grid.run([config])
    assert summary.status == "finished"
    assert not list(config.run_dir.glob("*.old-*"))


def test_what_cannot_be_written_is_not_repeated_in_silence(config_of, monkeypatch):
    config = config_of()
    grid.run([config])

    def closed(folder):
        raise ReadOnly(f"the sweep folder {folder} must be writable")

    monkeypatch.setattr(grid, "enter", closed)
    [summary] = grid.run([config])  # it has ended: only looked at
    assert summary.status == "finished"
    with pytest.raises(ReadOnly):
        grid.run([config.model_copy(update={"rerun": "all"})])


@pytest.mark.parametrize("change", ["cut", "removed"])
def test_lost_weights_of_a_finished_run_are_said(config_of, capsys, change):
    config = config_of()
    [before] = grid.run([config])
    weights = config.run_dir / "state.safetensors"
    assert "state.safetensors" not in capsys.readouterr().out
    if change == "cut":
        weights.write_bytes(weights.read_bytes()[:-40])
    else:
        weights.unlink()
    [after] = grid.run([config])
    assert after == before
    said = " ".join(capsys.readouterr().out.split())
    assert "state.safetensors is missing or damaged: the run's weights are lost" in said
    assert "rerun=all repeats" in said


@pytest.mark.parametrize("name", ["summary.json", "metrics.csv", "config.yaml"])
def test_what_may_not_be_read_is_no_damage(config_of, monkeypatch, name):
    """On a network disk, say: nothing is put aside, nothing trains."""
    config = config_of()
    grid.run([config])
    files = {f: f.read_bytes() for f in config.run_dir.glob("*.*")}
    real = reader._content

    def refuse(path):
        if path.name == name:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(reader, "_content", refuse)
    with pytest.raises(UserError, match=f"{name} cannot be read: Permission denied"):
        grid.run([config])
    assert {f: f.read_bytes() for f in config.run_dir.glob("*.*")} == files
