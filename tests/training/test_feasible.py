"""What cannot train, or trains without sense: refused or warned of beforehand."""

import pytest
import torch
from helpers import TINY, make_config, prepared

from vae_sweep.errors import UserError
from vae_sweep.vae import networks
from vae_sweep.vae.networks import build


@pytest.fixture
def prepare_points(npz, tmp_path):
    path = npz()

    common = (*TINY, "data=npz", f"data.path={path}", f"runs={tmp_path}/runs")

    def prepare(*overrides: str):
        return prepared([make_config(*common, *overrides)])

    return prepare


REFUSED = {
    ("train.lr=1e-320",): "change a weight",
    ("train.lr=1e-12",): "change a weight in fp32",
    ("train.lr=1e-12", "train.precision=bf16"): "change a weight in bf16",
    ("train.lr=1e-25", "train.precision=fp64"): "change a weight in fp64",
    ("train.lr=1e39",): "fit float32",
    ("train.lr_warmup=1000000000000",): "train.lr_warmup=1000000000000 in 500 steps",
    ("train.clip=1e-20",): "raise train.lr or train.clip",
    ("train.optimizer=sgd", "train.clip=1e-20"): "a gradient must be able",
    ("train.epochs=1000000",): "at most 10,000,000 steps",
    ("beta.value=1e-30", "reduction=mean"): "weight in the loss must be 0 or from 1e-30",
    ("model.latent=1000000000",): "memory",
    ("model.widths=[1000000,1000000]",): "memory",
    ("train.batch_size=99",): "at most the number of training images",
    ("train.precision=tf32",): "tf32 needs a CUDA device",
}


@pytest.mark.parametrize("overrides", REFUSED)
def test_what_cannot_train_is_refused(prepare_points, overrides):
    with pytest.raises(UserError, match=REFUSED[overrides]):
        prepare_points(*overrides)


@pytest.mark.parametrize(
    "overrides",
    [
        ("train.lr=1e-9",),
        ("train.lr=1e-12", "train.precision=fp64"),
        ("train.optimizer=sgd", "train.lr=1e-9"),
        ("train.lr=1e30",),  # diverges: that is a result
        ("train.clip=1e-6",),
        ("beta=0",),
        ("train.epochs=2.5",),
    ],
)
def test_what_trains_is_not_and_is_not_warned_of(prepare_points, capsys, overrides):
    prepare_points(*(o.replace("beta=0", "beta.value=0") for o in overrides))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("train.steps=20", "train.lr_warmup=20"), "train.lr_warmup=20 is not over"),
        (("train.optimizer=adamw", "train.lr=0.1", "train.weight_decay=11"), "above 1"),
        (("train.momentum=0.5",), "no effect with train.optimizer=adam"),
        (("beta=cyclical", "beta.cycles=30", "train.steps=50"), "less than two steps"),
    ],
)
def test_what_trains_without_sense_is_warned_of_in_a_line(
    prepare_points, capsys, overrides, said
):
    prepare_points(*overrides)
    err = capsys.readouterr().err
    assert said in err
    assert err.startswith("warning: ")
    assert err.count("\n") == 1


def test_a_warning_of_many_points_is_said_once(npz, tmp_path, capsys):
    common = (*TINY, "data=npz", f"data.path={npz()}", f"runs={tmp_path}")
    odd = [make_config(*common, "train.momentum=0.5", f"seed={s}") for s in range(3)]
    prepared([*odd, make_config(*common)])
    [line] = capsys.readouterr().err.splitlines()
    assert line.endswith("(3 of 4 points)")


@pytest.mark.parametrize("images", [10**12, 10**9])
def test_dead_leaves_beyond_time_or_memory_are_refused(tmp_path, images):
    config = make_config(
        f"data.images={images}", f"runs={tmp_path}", f"data.cache={tmp_path}"
    )
    with pytest.raises(UserError, match=r"data\.images"):
        prepared([config])


@pytest.mark.parametrize(
    ("overrides", "shape"),
    [
        ((), (3, 32, 32)),
        (("model.depth=3", "model.norm_layer=batch"), (3, 32, 32)),
        (("model=residual",), (3, 32, 32)),
        (("model=residual", "model.depth=3", "model.norm_layer=none"), (1, 28, 28)),
        (("model.norm_layer=group", "model.kernel=5", "model.widths=[4,6]"), (1, 9, 13)),
        (("model.kernel=3", "model.widths=[8]"), (4, 5, 7)),
        (("model=linear", "model.latent=7"), (3, 8, 8)),
    ],
)
def test_parameters_are_counted_as_they_are_made(overrides, shape):
    model = make_config(*overrides).model
    made = build(model, shape, [torch.Generator()])
    counted, activations = networks.size(model, shape)
    assert counted == sum(p.numel() for p in made.parameters())
    assert activations > 0
