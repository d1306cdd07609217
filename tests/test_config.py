import re

import pytest
from conftest import make_config
from hydra.errors import HydraException
from pydantic import ValidationError

from vae_sweep.config import UserError


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("+typo=1", "unknown key typo"),
        ("+train.typo=1", r"unknown key train\.typo"),
        ("beta.value=-1", r"beta\.value: .*greater than or equal to 0, got -1"),
        ("beta.value=abc", r"beta\.value: .*valid number, got 'abc'"),
        ("beta.value=nan", r"beta\.value: .*finite number, got nan"),
        ("model.latent=0", r"model\.latent: .*greater than or equal to 1, got 0"),
        ("train.steps=1.5", r"train\.steps: .*integer, got 1.5"),
        ("train.steps=null", r"set train\.steps or train\.epochs"),
        ("train.device=gpu", r"train\.device: .*got 'gpu'"),
        ("sweep=a/b", r"sweep: .*got 'a/b'"),
        ("data=npz", r"data\.path is missing; set data\.path="),
        ("norm.x=1", "norm"),
        ("seed=true", r"seed: .*integer, got True"),
    ],
)
def test_bad_values_say_rule_value_and_remedy(override, complaint):
    with pytest.raises((UserError, HydraException), match=complaint) as error:
        make_config(override)
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


def test_run_id_is_stable():
    """A changed id orphans every finished run: change this only with the format."""
    assert make_config().run_id == "zscore-linear-b1-s0-" + make_config().run_id[-8:]
    assert make_config("seed=0").run_id == make_config().run_id


def test_epochs_replace_steps():
    train = make_config("train.epochs=2.5").train
    assert (train.steps, train.epochs) == (None, 2.5)
