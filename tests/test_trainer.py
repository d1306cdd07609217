import itertools
import math
from typing import get_args

import pytest
import torch
from conftest import TINY, make_config, make_images
from torch.func import functional_call

from vae_sweep.cohort import point
from vae_sweep.config import Head, Norm, Reduction, RunConfig, UserError, validate
from vae_sweep.normalize import histograms
from vae_sweep.trainer import Trainer, resolve_device, total_steps

IMAGES = make_images(64)
COUNTS = histograms(IMAGES)
BETAS = ("constant", "warmup", "cyclical", "matched", "normalized")
KEYS = ("norm", "target", "head", "reduction")
FOUR = (
    ("norm=zscore", "head=tanh"),
    ("norm=minus1_1", "head=linear", "seed=1"),
    ("norm=raw255", "head=tanh_standardized", "beta.value=4"),
    ("norm=unit", "head=sigmoid", "reduction=mean", "beta=warmup"),
)


def config_of(*overrides: str) -> RunConfig:
    return make_config(*TINY, "train.steps=40", *overrides)


def trainer_of(*configs: RunConfig) -> Trainer:
    points = [point(c, COUNTS, 64) for c in configs]
    return Trainer(list(configs), points, IMAGES, "cpu")


@pytest.mark.parametrize("norm_layer", ["none", "batch", "group"])
def test_k_runs_together_are_k_runs_alone_in_float64(norm_layer):
    common = ("train.precision=fp64", "train.clip=5", f"model.norm_layer={norm_layer}")
    configs = [config_of(*o, *common) for o in FOUR]
    together = trainer_of(*configs)
    losses = torch.stack([together.update() for _ in range(20)])
    for r, config in enumerate(configs):
        alone = trainer_of(config)
        single = torch.cat([alone.update() for _ in range(20)])
        torch.testing.assert_close(losses[:, r], single, rtol=1e-10, atol=0)
        mine, its = together.state(r).tensors, alone.state(0).tensors
        assert mine.keys() == its.keys()
        for name in mine:
            torch.testing.assert_close(mine[name], its[name], rtol=1e-9, atol=1e-10)


def test_grouped_layers_train_as_per_run_layers(monkeypatch):
    """CUDA's way through the convolutions, on CPU."""
    from vae_sweep.layers import Conv

    configs = [config_of(*o, "train.precision=fp64") for o in FOUR]
    per_run = trainer_of(*configs)
    expected = torch.stack([per_run.update() for _ in range(5)])
    monkeypatch.setattr(Conv, "forward", Conv.grouped)
    grouped = trainer_of(*configs)
    losses = torch.stack([grouped.update() for _ in range(5)])
    torch.testing.assert_close(losses, expected, rtol=1e-10, atol=0)


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_a_neighbours_nan_changes_no_bit(optimizer):
    overrides = (f"train.optimizer={optimizer}", "train.clip=1", "train.lr=0.0001")
    configs = [config_of(*o, *overrides) for o in FOUR]
    clean, dirty = trainer_of(*configs), trainer_of(*configs)
    with torch.no_grad():
        dirty.cohort.model.to_posterior.weight[1] = math.nan
    for _ in range(5):
        clean.update()
        losses = dirty.update()
    assert losses.isnan().tolist() == [False, True, False, False]
    assert dirty.alive.tolist() == [True, False, True, True]
    for r in (0, 2, 3):
        ours, theirs = dirty.state(r).tensors, clean.state(r).tensors
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_order_and_size_of_the_cohort_change_no_bit_on_cpu():
    configs = [config_of(*o) for o in FOUR]
    forward, backward = trainer_of(*configs), trainer_of(*configs[::-1])
    alone = trainer_of(configs[2])
    for _ in range(5):
        for trainer in (forward, backward, alone):
            trainer.update()
    mine = forward.state(2).tensors
    for other in (backward.state(1).tensors, alone.state(0).tensors):
        assert all(torch.equal(mine[name], other[name]) for name in mine)


def test_matched_gradients_are_equal_up_to_the_square_of_the_scale():
    """One sigma, one encoder input, pixels that do not depend on the target: the
    objective under scale s is that of unit targets over s^2."""
    gradients = {}
    for target in ("unit", "minus1_1", "zscore_global", "raw255"):
        config = config_of(
            "norm=minus1_1", f"target={target}", "head=tanh_rescaled",
            "beta=matched", "beta.sigma=20", "train.precision=fp64",
        )  # fmt: skip
        trainer = trainer_of(config)
        trainer.update()
        scale = trainer.cohort.points[0].target.scale[0].item()
        gradients[target] = trainer.weights.grad * scale**2
        assert trainer.cohort.points[0].sigma == pytest.approx(20)
    for target in ("minus1_1", "zscore_global", "raw255"):
        unit = gradients["unit"]
        torch.testing.assert_close(gradients[target], unit, rtol=1e-10, atol=1e-10)


def test_matched_targets_train_as_one_run_in_float64():
    """SGD with the learning rate times scale^2: 50 steps, every loss in pixels."""
    seen = {}
    for target in ("unit", "minus1_1", "zscore_global", "raw255"):
        common = ("norm=minus1_1", f"target={target}", "head=tanh_rescaled")
        matched = ("beta=matched", "beta.sigma=20", "train.precision=fp64")
        config = config_of(*common, *matched, "train.optimizer=sgd", "train.steps=60")
        scale = point(config, COUNTS, 64).target.scale[0].item()
        rate = config.train.model_copy(update={"lr": 2e-4 * scale**2})
        trainer = trainer_of(config.model_copy(update={"train": rate}))
        losses = torch.cat([trainer.update() for _ in range(50)]) * scale**2
        values = trainer.evaluate(IMAGES)
        seen[target] = (losses, values["mse_pixel"], values["kl"], trainer.weights.data)
    assert seen["unit"][0][-1] < 0.75 * seen["unit"][0][0]  # it did train
    for target in ("minus1_1", "zscore_global", "raw255"):
        torch.testing.assert_close(seen[target], seen["unit"], rtol=1e-9, atol=1e-9)


def test_seed_alone_decides_weights_batches_and_noise():
    a, b, c = config_of(*FOUR[0]), config_of(*FOUR[3]), config_of(*FOUR[0], "seed=7")
    trainer = trainer_of(a, b, c)
    weight = trainer.cohort.model.to_posterior.weight
    assert torch.equal(weight[0], weight[1])
    assert not torch.equal(weight[0], weight[2])
    batch = trainer.batch()
    assert batch.shape == (3, 8, 3, 8, 8)
    assert torch.equal(batch[0], batch[1])
    assert not torch.equal(batch[0], batch[2])
    noise = trainer.noise.normal(8, 4)
    assert torch.equal(noise[0], noise[1])
    assert not torch.equal(noise[0], noise[2])
    assert torch.equal(trainer_of(c).batch(), batch[2])


def test_an_epoch_visits_every_image_once():
    trainer = trainer_of(config_of("train.batch_size=16"))
    seen = []
    for step in range(4):
        trainer.step = step
        seen.append(trainer.batch())
    visited = torch.cat(seen).flatten(1).numpy()
    assert sorted(map(bytes, visited)) == sorted(map(bytes, IMAGES.flatten(1).numpy()))


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_an_update_is_torchs_optimizer_on_the_plain_loss(optimizer):
    """One run against a loop written with torch.optim alone."""
    config = config_of(
        f"train.optimizer={optimizer}", "train.precision=fp64", "train.lr=0.001",
        "train.lr_schedule=constant", "train.lr_warmup=0", "train.weight_decay=0.01",
        "reduction=gaussian", "beta.value=2", "norm=minus1_1", "head=tanh",
    )  # fmt: skip
    trainer, reference = trainer_of(config), trainer_of(config)
    model = reference.cohort.model
    parameters = {n: p.detach().clone() for n, p in model.named_parameters()}
    for p in parameters.values():
        p.requires_grad_()
    options = {"lr": 0.001, "weight_decay": 0.01}
    plain = {
        "adam": lambda p: torch.optim.Adam(p, **options, foreach=False),
        "adamw": lambda p: torch.optim.AdamW(p, **options, foreach=False),
        "sgd": lambda p: torch.optim.SGD(p, momentum=0.9, **options, foreach=False),
    }[optimizer](list(parameters.values()))
    for step in range(5):
        reference.step = step
        x = reference.batch().double()[None] / 255 * 2 - 1
        noise = reference.noise.normal(8, 4).double()
        a, mu, logvar = functional_call(model, parameters, (x, noise))
        kl = 0.5 * (mu**2 + logvar.exp() - logvar - 1).sum(-1).mean()
        loss = 0.5 * ((torch.tanh(a) - x) ** 2).sum((2, 3, 4)).mean() + 2 * kl
        plain.zero_grad()
        loss.backward()
        plain.step()
        torch.testing.assert_close(trainer.update()[0], loss.detach())
    for name, p in trainer.cohort.model.named_parameters():
        torch.testing.assert_close(p, parameters[name])


def test_clipping_is_per_run():
    configs = [config_of(*o, "train.clip=0.5", "train.precision=fp64") for o in FOUR[:2]]
    free = trainer_of(*[config_of(*o, "train.precision=fp64") for o in FOUR[:2]])
    clipped = trainer_of(*configs)
    free.update()
    clipped.update()
    for r in (0, 1):
        raw, cut = free.weights.grad[r], clipped.weights.grad[r]
        assert raw.norm() > 0.5
        torch.testing.assert_close(cut, raw * 0.5 / raw.norm())


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("norm_layer", ["none", "batch"])
def test_a_restored_trainer_goes_on_bit_for_bit(optimizer, norm_layer):
    options = (f"train.optimizer={optimizer}", f"model.norm_layer={norm_layer}")
    slow = (*options, "train.lr=0.0001", "train.clip=1")
    configs = [config_of(*o, *slow) for o in FOUR]
    whole, first = trainer_of(*configs), trainer_of(*configs)
    for _ in range(23):
        whole.update()
    for _ in range(11):
        first.update()
    second = trainer_of(*configs)
    second.restore([first.state(r) for r in range(4)])
    for _ in range(12):
        second.update()
    for r in range(4):
        ours, its = second.state(r), whole.state(r)
        assert ours.step == its.step == 23
        assert all(torch.equal(ours.tensors[n], its.tensors[n]) for n in its.tensors)


def test_evaluation_leaves_training_alone():
    looked, blind = trainer_of(config_of(*FOUR[2])), trainer_of(config_of(*FOUR[2]))
    for _ in range(4):
        looked.update()
        blind.update()
        looked.evaluate(IMAGES[:20])
        looked.reconstruct(IMAGES[:4])
    ours, theirs = looked.state(0).tensors, blind.state(0).tensors
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_bf16_is_near_fp32():
    exact, rough = (trainer_of(config_of(f"train.precision={p}")) for p in ("fp32", "bf16"))
    for _ in range(10):
        expected, loss = exact.update(), rough.update()
    assert loss.item() != expected.item()
    assert loss.item() == pytest.approx(expected.item(), rel=0.05)


def test_lengths():
    train = config_of("train.epochs=2").train
    assert total_steps(train, 64) == 16
    assert total_steps(config_of().train, 64) == 40
    with pytest.raises(UserError, match=r"batch_size must be at most .* 5; got 8"):
        total_steps(train, 5)


def test_absent_cuda_is_refused_and_auto_falls_back(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert resolve_device("auto").type == "cpu"
    with pytest.raises(UserError, match=r"cuda:1 needs a CUDA device.*train.device"):
        resolve_device("cuda:1")


def test_every_combination_trains_as_one_cohort():
    """norm x target x head x reduction, with every kind of beta among them."""
    betas = [make_config(f"beta={name}").beta for name in BETAS]
    base = config_of("train.batch_size=2", "model.widths=[4]").model_dump()
    grid = itertools.product(
        get_args(Norm), ("same", *get_args(Norm)), get_args(Head), get_args(Reduction)
    )
    configs = [
        validate(base | dict(zip(KEYS, point, strict=True)) | {"beta": beta.model_dump()})
        for point, beta in zip(grid, itertools.cycle(betas), strict=False)
    ]
    assert len(configs) == 5 * 6 * 7 * 4
    trainer = trainer_of(*configs)
    for _ in range(2):
        losses = trainer.update()
    assert losses.isfinite().all()
    assert trainer.alive.all()
    u_hat = trainer.reconstruct(IMAGES[:2])
    assert u_hat.shape == (840, 2, 3, 8, 8)
