"""extend=RUN: a run that is continued equals one that was trained to the end at once."""

import re
import shutil

import numpy as np
import pytest
from helpers import TINY, claim_elsewhere, make_config

from vae_sweep import grid
from vae_sweep.errors import UserError
from vae_sweep.records import reader
from vae_sweep.records.find import short_hash
from vae_sweep.records.rows import Rows
from vae_sweep.training import execute, extend, take
from vae_sweep.training.device import limited_threads


@pytest.fixture(autouse=True)
def one_core():
    with limited_threads(1):
        yield


@pytest.fixture
def config_of(npz, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = npz()

    def compose(*overrides):
        return make_config(
            "data=npz", f"data.path={path}", "data.cache=cache", *TINY,
            "train.steps=20", "train.eval_every=10", "train.workers=1",
            "train.lr_warmup=2", "train.lr_schedule=constant", "train.lr=0.01",
            "log.optimizer_state=true", "log.every=7", *overrides,
        )  # fmt: skip

    return compose


def rows_of(config) -> str:
    return (config.run_dir / "metrics.csv").read_text()


def extended(config, name: str):
    return config.model_copy(update={"extend": name})


# 20 steps are evaluated at 0, 10, 20 (and test there); with 8, at 0, 8, 16 and the end
@pytest.mark.parametrize("every", [10, 8])
@pytest.mark.parametrize("kind", ["adam", "sgd", "batch norm", "own draws"])
def test_a_continued_run_equals_one_of_all_its_steps(config_of, every, kind):
    given = {
        "adam": (),
        "sgd": ("train.optimizer=sgd", "train.lr=1e-4"),
        "batch norm": ("model.norm_layer=batch",),
        "own draws": ("data.binarize=true", "target=unit"),
    }[kind]
    given = (*given, f"train.eval_every={every}")
    first, more = config_of(*given), config_of(*given, "train.steps=50")
    whole = config_of(*given, "train.steps=50", "sweep=whole")
    grid.run([first])
    before = {path: path.read_bytes() for path in first.run_dir.iterdir()}
    [summary] = grid.run([extended(more, short_hash(first.run_id))])
    grid.run([whole])
    assert (summary.status, summary.steps, summary.total_steps) == ("finished", 50, 50)
    assert rows_of(more) == rows_of(whole)
    curves = [(c.run_dir / "training.csv").read_text() for c in (more, whole)]
    assert curves[0] == curves[1]
    assert more.run_id == whole.run_id != first.run_id
    assert {path: path.read_bytes() for path in first.run_dir.iterdir()} == before


def test_an_interrupted_run_is_continued_from_its_checkpoint(config_of, monkeypatch):
    """Without the optimizer's state being asked for: it is there until a run ends."""
    lean = "log.optimizer_state=false"
    first, more = config_of(lean, "train.steps=40"), config_of(lean, "train.steps=60")
    real = execute.train

    def killed(runs, *rest):
        from vae_sweep.training.loop import Recorder

        update = Recorder._evaluate

        def evaluate(self, last=False):
            update(self, last)
            if self.trainer.step == 20:
                raise OSError(28, "No space left on device", "x")

        with monkeypatch.context() as patched:
            patched.setattr(Recorder, "_evaluate", evaluate)
            return real(runs, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(execute, "train", killed)
        with pytest.raises(OSError, match="No space"):
            grid.run([first])
    assert reader.read_rows(first.run_dir).steps == [0, 10, 20]
    grid.run([extended(more, str(first.run_dir))])
    whole = config_of(lean, "train.steps=60", "sweep=whole")
    grid.run([whole])
    assert rows_of(more) == rows_of(whole)
    curves = [(c.run_dir / "training.csv").read_text() for c in (more, whole)]
    assert curves[0] == curves[1]


def test_the_same_command_again_goes_on_with_the_new_run(config_of, monkeypatch, capsys):
    first, more = config_of(), config_of("train.steps=50")
    grid.run([first])
    command = [extended(more, first.run_id)]
    with monkeypatch.context() as stopped:
        stopped.setattr(take, "resumed", None)  # killed once the copy is made
        with pytest.raises(TypeError):
            grid.run(command)
    assert reader.read_rows(more.run_dir).steps == [0, 10, 20]
    shutil.rmtree(first.run_dir)  # no longer needed
    grid.run(command)
    assert "1 point goes on from step 20 of 50" in capsys.readouterr().out
    [summary] = grid.run(command)
    assert summary.status == "finished"
    assert "ended already" in capsys.readouterr().out


REFUSED = {
    "another setting": (("head=linear",), r"got head=linear; type head=tanh"),
    "no more steps": (("train.steps=20",), r"than the run's 20; set train.steps=40"),
    "fewer steps": (("train.steps=10",), r"than the run's 20, got 10; set train.steps=40"),
    "a warmup that grows": (("train.lr_warmup=5",), r"type train.lr_warmup=2"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_continued_is_refused(config_of, case):
    given, said = REFUSED[case]
    first = config_of("head=tanh")
    grid.run([first])
    there = sorted(first.sweep_dir.rglob("*"))
    with pytest.raises(UserError, match=re.escape(said) if "=" in said else said):
        grid.run([extended(config_of("head=tanh", "train.steps=50", *given), first.run_id)])
    assert sorted(first.sweep_dir.rglob("*")) == there


@pytest.mark.parametrize(
    ("given", "what"),
    [
        (("train.lr_schedule=cosine",), "learning rate"),
        (("beta=warmup", "beta.value=1", "beta.fraction=0.5"), "beta"),
        (("beta=matched", "beta.sigma=30", "beta.fraction=0.5"), "beta"),
    ],
)
def test_schedules_that_follow_the_length_are_refused(config_of, given, what):
    first, more = config_of(*given), config_of(*given, "train.steps=50")
    grid.run([first])
    with pytest.raises(UserError, match=f"its {what} depends on the run's") as refused:
        grid.run([extended(more, first.run_id)])
    assert "set train.lr_schedule=constant beta=1" in str(refused.value)
    was, would = re.findall(r"was (\S+) of .* it is (\S+)\)", str(refused.value))[0]
    assert was != would
    assert not more.run_dir.exists()


def test_the_schedule_is_said_before_a_warm_up_that_follows_from_the_steps(config_of):
    given = "train.lr_warmup=auto", "train.lr_schedule=cosine"
    first, more = config_of(*given), config_of(*given, "train.steps=50")
    assert first.train.warmup(20) != more.train.warmup(50)
    grid.run([first])
    with pytest.raises(UserError, match="learning rate depends on the run's length"):
        grid.run([extended(more, first.run_id)])
    # under a constant rate the warm-up alone is in the way
    given = ("train.lr_warmup=auto",)
    first, more = config_of(*given), config_of(*given, "train.steps=50")
    grid.run([first])
    typed = f"type train.lr_warmup={first.train.warmup(20)}"
    with pytest.raises(UserError, match=typed):
        grid.run([extended(more, first.run_id)])


def test_a_point_that_ended_is_not_shown_for_another_run(config_of):
    first, other = config_of(), config_of("head=tanh", "train.steps=50")
    grid.run([first])
    grid.run([other])
    with pytest.raises(UserError, match="got head=tanh; type head=linear"):
        grid.run([extended(other, first.run_id)])


def test_other_data_is_said_by_its_name(config_of):
    first = config_of()
    grid.run([first])
    leaves = "data=dead_leaves", "data.images=80", "data.size=8", "data.test_images=10"
    other = make_config(*TINY, *leaves, "data.val_images=10", "train.steps=50")
    said = rf"got data=dead_leaves; type data=npz data\.path={first.data.path}, or leave"
    with pytest.raises(UserError, match=said):
        grid.run([extended(other, first.run_id)])


def test_a_schedule_in_the_way_is_said_before_a_state_that_was_not_kept(config_of):
    given = "train.lr_schedule=cosine", "log.optimizer_state=false"
    first = config_of(*given)
    grid.run([first])
    with pytest.raises(UserError, match="learning rate depends on the run's length"):
        grid.run([extended(config_of(*given, "train.steps=50"), first.run_id)])


def test_weights_alone_are_not_enough(config_of):
    first = config_of("log.optimizer_state=false")
    grid.run([first])
    with pytest.raises(UserError, match=r"log.optimizer_state=true for runs"):
        grid.run([extended(config_of("train.steps=50"), first.run_id)])


def test_other_images_and_a_sweep_that_trains_are_refused(config_of, npz):
    first = config_of("sweep=other")
    grid.run([first])
    more = extended(config_of("train.steps=50"), first.run_id)
    claim = claim_elsewhere(first.run_dir)
    with pytest.raises(UserError, match="trains now"):
        grid.run([more])
    claim.unlink()
    npz(n=130)
    with pytest.raises(UserError, match="other images"):
        grid.run([more])


def test_a_run_of_other_steps_is_named(config_of, capsys):
    grid.run([config_of(), config_of("seed=1")])
    capsys.readouterr()
    grid.run([config_of("train.steps=30"), config_of("train.steps=30", "seed=1")])
    said = " ".join(capsys.readouterr().out.split())
    assert (
        "2 points are new runs of 30 steps; the same settings ran 20 steps before" in said
    )
    assert (
        f"train.steps=30 extend={short_hash(config_of().run_id)} continues such a run"
        in said
    )
    grid.run([config_of("train.steps=30", "head=linear")])  # nothing like it
    assert "new run" not in capsys.readouterr().out


def test_one_that_cannot_be_continued_is_not_offered(config_of, capsys):
    cosine = "train.lr_schedule=cosine"
    grid.run([config_of(cosine)])
    grid.run([config_of(cosine, "train.steps=30")])
    out = capsys.readouterr().out
    assert "1 point is a new run of 30 steps" in out
    assert "extend=" not in out


def test_the_key_is_no_part_of_a_point(config_of):
    config = config_of()
    assert extended(config, "1a2b3c4d").run_id == config.run_id


@pytest.mark.parametrize("digits", ["12345e67", "12345678", "00001234", "1a2b3c4d"])
def test_a_hash_is_no_number(digits):
    from vae_sweep.command import arguments

    read = arguments.read([f"extend={digits}"])
    assert make_config(*read.lines).extend == digits


def test_rows_end_where_the_longer_run_goes_on():
    header = b"step,val/kl,test/kl\n"
    rows = Rows(header + b"0,1,\n10,2,\n20,3,4\n")
    assert extend.rows_until(rows, 20, True).lines == [
        *(header, b"0,1,\n", b"10,2,\n"),
        b"20,3,\n",
    ]
    assert extend.rows_until(rows, 20, False).steps == [0, 10]
    assert np.isnan(extend.rows_until(rows, 20, True)[2]["test/kl"])
