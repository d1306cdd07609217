import re

import pytest
from helpers import make_config, with_first_metrics
from hydra.errors import HydraException
from pydantic import ValidationError

from vae_sweep import options
from vae_sweep.config import GROUPS, validate
from vae_sweep.errors import UserError, nearest


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("+typo=1", "unknown key typo; --options"),
        ("+train.typo=1", r"unknown key train\.typo"),
        ("+train.step=1", r"unknown key train\.step; did you mean train\.steps\?"),
        ("+beta.sigma=1", r"beta\.sigma belongs to beta=matched"),
        ("train.optimizer=adma", r"got 'adma'; did you mean adam\?"),
        (
            "train.workers=0",
            r"train\.workers: must be 'auto' or greater than or equal to 1",
        ),
        ("model.widths=[4,-1]", r"^model\.widths: .*greater than or equal to 1, got -1"),
        (
            "beta.value=1e160",
            r"beta\.value: must be 0 or from 1e-30 to 1e\+15.*got 1e\+160",
        ),
        ("beta.value=1e-320", r"beta\.value: must be 0 or from 1e-30"),
        ("train.steps=1000000000000", r"less than or equal to 10000000"),
        ("train.epochs=1e300", r"train\.epochs: "),
        ("train.batch_size=9223372036854775808", r"train\.batch_size: "),
        ("train.device=cuda:-1", r"train\.device: must be auto, cpu, cuda or cuda:N"),
        ("train.device=cuda:99999999999999999999", r"cuda:N with N from 0 to 127"),
        ("train.device=cuda:128", r"cuda:N with N from 0 to 127"),
        ("train.device='cuda:٣'", r"cuda:N with N from 0 to 127"),
        ("model.depth=100000000", r"model\.depth: "),
        ("log.reconstructions=1000000000", r"log\.reconstructions: "),
        ("log.wandb.project=a/b", r"log\.wandb\.project: .*none of /"),
        ("sweep=null", r"sweep: must be text, got null"),
        ("runs=null", r"runs: must be text, got null"),
        ("runs=''", r"runs: must be a path"),
        ("rerun=never", r"rerun: must be 'diverged', 'failed' or 'all'"),
        ("sweep=${run_id:}", "type the value itself"),
        ("sweep=${sweep}", "type the value itself"),
        ("sweep=${oc.env:NOPE_NOPE}", "type the value itself"),
        ("data=image_folder data.path=x data.size=1000000000", r"data\.size: "),
        ("beta.value=-1", r"beta\.value: .*greater than or equal to 0, got -1"),
        ("beta.value=abc", r"beta\.value: .*a number, got 'abc'"),
        ("beta.value=nan", r"beta\.value: .*finite number, got nan"),
        ("model.latent=0", r"model\.latent: .*greater than or equal to 1, got 0"),
        ("train.steps=1.5", r"train\.steps: must be a whole number, got 1.5"),
        ("train.steps=null", r"set train\.steps or train\.epochs"),
        ("train.device=gpu", r"train\.device: .*got 'gpu'"),
        ("sweep=a/b", r"sweep: must be 1 to 100 letters .* got 'a/b'"),
        ("model.widths=[]", r"model\.widths: must have at least 1 item, got \[\]"),
        ("model.widths=3", r"model\.widths: must be a list, got 3"),
        ("log.wandb.entity=3", r"log\.wandb\.entity: must be text, got 3"),
        ("data=npz", r"data\.path is missing; set data\.path="),
        ("norm.x=1", "norm"),
        ("seed=true", r"seed: must be a whole number, got true"),
    ],
)
def test_bad_values_say_rule_value_and_remedy(override, complaint):
    with pytest.raises((UserError, HydraException), match=complaint) as error:
        make_config(*override.split(" "))
    assert str(error.value).count("\n") < 2 or not isinstance(error.value, UserError)


def test_config_is_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        make_config().seed = 3


@pytest.mark.parametrize(
    "override",
    [
        "log.wandb.mode=offline",
        "log.reconstructions=3",
        "train.device=cpu",
        "train.cohort=1",
        "runs=elsewhere",
        "sweep=other",
        "data.cache=elsewhere",
        "target=zscore",  # what `same` means under norm=zscore
    ],
)
def test_run_id_ignores_what_does_not_decide_the_numbers(override):
    assert make_config(override).run_id == make_config().run_id


@pytest.mark.parametrize(
    "override",
    [
        "seed=1",
        "norm=unit",
        "target=unit",
        "head=tanh",
        "beta.value=2",
        "train.lr=0.01",
        "model.latent=64",
        "data.images=1000",
        "train.eval_every=7",
    ],
)
def test_run_id_follows_what_decides_the_numbers(override):
    assert make_config(override).run_id != make_config().run_id


def test_run_id_is_readable_and_fit_for_folders_and_wandb():
    config = make_config("head=tanh", "beta=matched", "beta.sigma=1e-7", "seed=12")
    assert re.fullmatch(r"zscore-tanh-bmatched1e-07-s12-[0-9a-f]{8}", config.run_id)
    longest = make_config(
        "norm=zscore_global", "target=minus1_1", "head=tanh_standardized",
        "reduction=pixel_mean", "beta=normalized", "seed=123456789012",
    )  # fmt: skip
    assert len(longest.run_id) <= 64
    assert re.fullmatch(r"[A-Za-z0-9._-]+", longest.run_id)


@pytest.mark.parametrize(
    ("overrides", "run_id"),
    [
        ("", "zscore-linear-b1-s0-19b4a167"),
        ("seed=0", "zscore-linear-b1-s0-19b4a167"),
        ("head=tanh norm=minus1_1 seed=7", "minus1_1-tanh-b1-s7-63f18bc9"),
        (
            "beta=matched beta.sigma=12 beta.fraction=0 norm=unit target=zscore",
            "unit-zscore-linear-bmatched12-s0-a9bd565c",
        ),
        ("head=tanh_standardized", "zscore-tanh_standardized-b1-s0-50f29e4d"),
        (
            "likelihood=bernoulli target=unit head=sigmoid reduction=pixel_mean",
            "zscore-unit-sigmoid-bernoulli-pixel_mean-b1-s0-517766c2",
        ),
        (
            "model=small model.norm_layer=none train.epochs=3 data=mnist",
            "zscore-linear-b1-s0-2898b313",
        ),
    ],
)
def test_run_id_is_stable(overrides, run_id):
    """A changed id orphans every finished run."""
    assert with_first_metrics(make_config(*overrides.split())).run_id == run_id


def test_run_ids_of_the_metrics_of_today_are_stable():
    assert make_config().run_id == "zscore-linear-b1-s0-e3f0f0b8"


def test_a_metric_that_is_defined_anew_makes_new_runs(monkeypatch):
    """One metrics.csv never mixes definitions."""
    before = make_config()
    stated = options.version
    monkeypatch.setattr(
        options,
        "version",
        lambda group, name: 3 if group == "metric" else stated(group, name),
    )
    after = make_config()
    assert (before.versions, after.versions) == ({"metric": 2}, {"metric": 3})
    first = with_first_metrics(before)
    assert len({each.run_id for each in (first, before, after)}) == 3
    assert after.settings["versions"] == {**dict.fromkeys(GROUPS, 1), "metric": 3}
    assert make_config("head=tanh_standardized").versions == {"head": 2, "metric": 3}


def test_epochs_replace_steps():
    train = make_config("train.epochs=2.5").train
    assert (train.steps, train.epochs) == (None, 2.5)


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("runs", "~nobody-of-that-name/x"),
        ("data.cache", "~nobody-of-that-name"),
        ("data.path", "~nobody-of-that-name/images.npz"),
    ],
)
def test_a_home_folder_that_is_not_known_is_said(key, path):
    typed = ["data=npz", "data.path=x.npz"] if key == "data.path" else []
    with pytest.raises(UserError, match=f"{key} begins with ~.*set {key}=FOLDER"):
        make_config(*typed, f"{key}='{path}'")


def test_a_nul_byte_or_a_path_too_long_is_said():
    values = make_config().model_dump()
    for path in ("a\0b", "x" * 5000, "ß" * 2049, " ", "a/" * 101):
        with pytest.raises(UserError, match="runs: must be a path"):
            validate({**values, "runs": path})
    assert validate({**values, "runs": "x" * 4096}).runs == "x" * 4096


def test_what_was_received_is_shown_in_part():
    values = make_config().model_dump()
    with pytest.raises(UserError) as error:
        validate({**values, "norm": ["x"] * 10_000, "seed": 10**5000})
    assert len(str(error.value)) < 400


def test_nearest():
    words = ["train.steps", "train.lr", "norm", "model.latent"]
    assert nearest("train.step", words) == "train.steps"
    assert nearest("lr", words) == "train.lr"
    assert nearest("NORM", words) == "norm"
    assert nearest("latnet", words) == "model.latent"
    assert nearest("quite-something-else", words) is None


IDS = {  # of release 0.1.0, when the warm-up's default was 50 steps whatever the run's
    (): "zscore-linear-b1-s0-19b4a167",
    ("train.steps=500",): "zscore-linear-b1-s0-19b4a167",
    ("train.steps=2000",): "zscore-linear-b1-s0-fc865d76",
    ("train.epochs=3",): "zscore-linear-b1-s0-be21d32a",
    ("train.lr_warmup=4", "train.steps=40"): "zscore-linear-b1-s0-be04fd14",
    ("train.lr_warmup=50", "train.steps=100"): "zscore-linear-b1-s0-c885bd08",
    ("train.lr_warmup=0",): "zscore-linear-b1-s0-9f65cb16",
    ("rerun=all",): "zscore-linear-b1-s0-19b4a167",
}


@pytest.mark.parametrize("overrides", IDS)
def test_run_ids_of_earlier_releases_stay(overrides):
    assert with_first_metrics(make_config(*overrides)).run_id == IDS[overrides]


@pytest.mark.parametrize(
    ("steps", "warmup"),
    [(1, 0), (9, 0), (10, 1), (20, 2), (499, 49), (500, 50), (10**6, 50)],
)
def test_the_warmup_is_a_tenth_of_the_run_at_most_50(steps, warmup):
    config = make_config(f"train.steps={steps}")
    assert config.train.warmup(steps) == warmup
    assert config.decisive["train"]["lr_warmup"] == warmup
    explicit = make_config(f"train.steps={steps}", f"train.lr_warmup={warmup}")
    assert explicit.run_id == config.run_id


def test_a_changed_copy_has_an_id_of_its_own():
    config = make_config()
    assert config.run_id == make_config().run_id
    other = config.model_copy(update={"seed": config.seed + 1})
    assert other.run_id == make_config(f"seed={config.seed + 1}").run_id != config.run_id
    assert other.model_copy(update={"seed": config.seed}) == config
