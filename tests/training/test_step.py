import itertools
import math
from contextlib import nullcontext
from functools import partial

import numpy as np
import pytest
import torch
from helpers import TINY, make_config, make_images
from torch.distributions import Normal, kl_divergence
from torch.func import functional_call
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode

from vae_sweep.config import RunConfig, validate
from vae_sweep.errors import UserError
from vae_sweep.options import words
from vae_sweep.training import loop
from vae_sweep.training.device import resolve_device
from vae_sweep.training.step import KEPT, Trainer
from vae_sweep.vae import networks
from vae_sweep.vae.layers import Conv
from vae_sweep.vae.normalize import histograms
from vae_sweep.vae.point import point
from vae_sweep.vae.streams import Streams

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


EVERYTHING = (
    ("norm=unit", "head=sigmoid", "likelihood=bernoulli"),
    ("norm=unit", "head=tanh_rescaled", "likelihood=continuous_bernoulli", "seed=3"),
    ("norm=zscore", "head=tanh_standardized", "likelihood=gaussian_learned"),
    ("norm=minus1_1", "head=hardtanh", "likelihood=gaussian_optimal", "beta=warmup"),
    ("norm=raw255", "head=linear", "likelihood=discretized_logistic", "seed=5"),
    ("norm=unit", "head=linear", "likelihood=l1", "train.lr=0.01"),
    ("norm=unit", "head=tanh", "likelihood=laplace"),
    ("norm=zscore", "head=tanh", "likelihood=discretized_gaussian"),
)


def config_of(*overrides: str) -> RunConfig:
    # a slow start, so that what rounding differs in stays small
    return make_config(*TINY, "train.steps=40", "train.lr_warmup=50", *overrides)


def trainer_of(*configs: RunConfig, ahead: int | None = None) -> Trainer:
    points = [point(c, COUNTS, 64) for c in configs]
    return Trainer(list(configs), points, IMAGES, "cpu", ahead)


def updated(trainer: Trainer) -> torch.Tensor:
    """The losses [R] before an update."""
    trainer.update()
    return trainer.losses.clone()


@pytest.mark.parametrize("norm_layer", ["none", "batch", "group"])
def test_k_runs_together_are_k_runs_alone_in_float64(norm_layer):
    common = ("train.precision=fp64", "train.clip=5", f"model.norm_layer={norm_layer}")
    configs = [config_of(*o, *common) for o in FOUR]
    together = trainer_of(*configs)
    losses = torch.stack([updated(together) for _ in range(20)])
    for r, config in enumerate(configs):
        alone = trainer_of(config)
        single = torch.cat([updated(alone) for _ in range(20)])
        torch.testing.assert_close(losses[:, r], single, rtol=1e-10, atol=0)
        mine, its = together.state(r).tensors, alone.state(0).tensors
        assert mine.keys() == its.keys()
        for name in mine:
            torch.testing.assert_close(mine[name], its[name], rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(
    "model",
    [
        *((f"model.norm_layer={name}",) for name in ("none", "batch", "group")),
        ("~model.norm_layer", "model=mlp", "model.latent=4"),
        ("~model.norm_layer", "~model.widths", "model=linear", "model.latent=4"),
    ],
)
def test_layers_with_a_run_axis_train_as_per_run_layers(model, monkeypatch):
    """CUDA's way through all layers, on CPU."""
    removed = {line[1:] for line in model if line.startswith("~")}
    kept = [line for line in TINY if line.partition("=")[0] not in {*removed, "model"}]
    rest = [line for line in model if not line.startswith("~")]
    small = [] if removed else ["model=small"]
    common = (*small, *kept, *rest, "train.steps=40", "train.precision=fp64")
    configs = [make_config(*common, *o) for o in FOUR]
    per_run = trainer_of(*configs)
    expected = torch.stack([updated(per_run) for _ in range(5)])
    monkeypatch.setattr(networks, "separate", lambda x: x)
    monkeypatch.setattr(Conv, "chosen", lambda self, device: "grouped")
    grouped = trainer_of(*configs)
    losses = torch.stack([updated(grouped) for _ in range(5)])
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
        losses = updated(dirty)
    assert losses.isnan().tolist() == [False, True, False, False]
    assert dirty.died.tolist() == [-1, 0, -1, -1]
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
        gradients[target] = trainer.rows.gradients * scale**2
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
        losses = torch.cat([updated(trainer) for _ in range(50)]) * scale**2
        values = trainer.evaluate(IMAGES)
        seen[target] = (losses, values["mse_pixel"], values["kl"], trainer.rows.values)
    assert seen["unit"][0][-1] < 0.75 * seen["unit"][0][0]  # it did train
    for target in ("minus1_1", "zscore_global", "raw255"):
        torch.testing.assert_close(seen[target], seen["unit"], rtol=1e-9, atol=1e-9)


def test_seed_alone_decides_weights_batches_and_noise():
    a, b, c = config_of(*FOUR[0]), config_of(*FOUR[3]), config_of(*FOUR[0], "seed=7")
    trainer = trainer_of(a, b, c)
    weight = trainer.cohort.model.to_posterior.weight
    assert torch.equal(weight[0], weight[1])
    assert not torch.equal(weight[0], weight[2])
    block = trainer.feed.block(0, 2)
    assert block.images.shape == (2, 2, 8)  # two steps, two seeds, eight images
    assert trainer.feed.seed_of.tolist() == [0, 0, 1]
    assert not torch.equal(block.images[0, 0], block.images[0, 1])
    assert not torch.equal(block.noise[0, 0], block.noise[0, 1])
    alone = trainer_of(c).feed.block(0, 2)
    assert torch.equal(alone.images[:, 0], block.images[:, 1])
    assert torch.equal(alone.noise[:, 0], block.noise[:, 1])


# --- the training curve ---


def test_the_curve_is_of_the_batch_before_the_update():
    """Against the pass of the same weights by hand: numpy in target space, and
    torch.distributions."""
    options = ("log.every=3", "train.precision=fp64", "train.lr_warmup=0")
    configs = [config_of(*o, *options) for o in (*FOUR, *EVERYTHING)]
    trainer = trainer_of(*configs)
    expected = []
    for step in range(8):
        noise = Streams(trainer.seeds, "noise")
        for _ in range(step + 1):
            drawn = noise.normal(8, 4).double()
        index = trainer.feed.batch(step)[trainer.feed.seed_of]
        f = trainer.cohort(trainer.cohort.pixels_of(IMAGES[index]), drawn)
        t, t_hat = f.t.detach().numpy(), f.t_hat.detach().numpy()
        posterior = Normal(f.mu, (f.logvar / 2).exp())
        kl = kl_divergence(posterior, Normal(0.0, 1.0)).sum(-1).mean(1)
        expected.append([((t - t_hat) ** 2).mean((1, 2, 3, 4)), kl.detach().numpy()])
        loss = updated(trainer)
        expected[-1].insert(0, loss.numpy())
    found = trainer.curve(0)
    assert [step for step, _ in found] == [0, 3, 6]
    for step, values in found:
        np.testing.assert_allclose(values, expected[step], rtol=1e-10)
    assert trainer.curve(4) == found[2:]
    assert trainer.curve(7) == []


def test_the_curve_changes_no_bit_by_its_neighbors():
    configs = [
        config_of(*o, "train.lr=0.0001", "log.every=2") for o in (*FOUR, *EVERYTHING)
    ]
    together = trainer_of(*configs)
    for _ in range(5):
        together.update()
    for r, config in enumerate(configs):
        alone = trainer_of(config)
        for _ in range(5):
            alone.update()
        for (_, ours), (_, its) in zip(together.curve(0), alone.curve(0), strict=True):
            assert [values[r] for values in ours] == [value for [value] in its]


def test_the_device_keeps_the_last_rows_of_the_curve():
    trainer = trainer_of(config_of("log.every=1"), ahead=4)
    for _ in range(KEPT + 5):
        trainer.update()
    assert [step for step, _ in trainer.curve(0)] == list(range(5, KEPT + 5))
    assert loop.LOOK_EVERY <= KEPT


def test_an_epoch_visits_every_image_once():
    feed = trainer_of(config_of("train.batch_size=16")).feed
    visited = torch.cat([feed.batch(step)[0] for step in range(4)])
    assert sorted(visited.tolist()) == list(range(64))
    assert not torch.equal(feed.batch(0), feed.batch(4))  # another order


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
        x = IMAGES[reference.feed.batch(step)].double() / 255 * 2 - 1
        noise = reference.feed.noise.normal(8, 4).double()
        a, mu, logvar = functional_call(model, parameters, (x, noise))
        kl = 0.5 * (mu**2 + logvar.exp() - logvar - 1).sum(-1).mean()
        loss = 0.5 * ((torch.tanh(a) - x) ** 2).sum((2, 3, 4)).mean() + 2 * kl
        plain.zero_grad()
        loss.backward()
        plain.step()
        torch.testing.assert_close(updated(trainer)[0], loss.detach())
    for name, p in trainer.cohort.model.named_parameters():
        torch.testing.assert_close(p, parameters[name])


def test_clipping_is_per_run():
    configs = [config_of(*o, "train.clip=0.5", "train.precision=fp64") for o in FOUR[:2]]
    free = trainer_of(*[config_of(*o, "train.precision=fp64") for o in FOUR[:2]])
    clipped = trainer_of(*configs)
    free.update()
    clipped.update()
    for r in (0, 1):
        raw, cut = free.rows.gradients[r], clipped.rows.gradients[r]
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
        expected, loss = updated(exact), updated(rough)
    assert loss.item() != expected.item()
    assert loss.item() == pytest.approx(expected.item(), rel=0.05)


def test_lengths():
    train = config_of("train.epochs=2").train
    assert train.total_steps(64) == 16
    assert config_of().train.total_steps(64) == 40
    with pytest.raises(UserError, match=r"batch_size must be at most .* 5; got 8"):
        train.total_steps(5)


def test_absent_cuda_is_refused_and_auto_falls_back(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert resolve_device("auto").type == "cpu"
    with pytest.raises(UserError, match=r"cuda:1 needs a CUDA device.*train.device"):
        resolve_device("cuda:1")


@pytest.mark.slow
def test_every_combination_trains_as_one_cohort():
    """norm x target x head x reduction, with every kind of beta among them."""
    betas = [make_config(f"beta={name}").beta for name in BETAS]
    base = config_of("train.batch_size=2", "model.widths=[4]").model_dump()
    grid = itertools.product(
        words("norm"), words("target"), words("head"), words("reduction")
    )
    configs = [
        validate(base | dict(zip(KEYS, point, strict=True)) | {"beta": beta.model_dump()})
        for point, beta in zip(grid, itertools.cycle(betas), strict=False)
    ]
    assert len(configs) == 5 * 6 * 7 * 4
    trainer = trainer_of(*configs)
    for _ in range(2):
        losses = updated(trainer)
    assert losses.isfinite().all()
    assert (trainer.died < 0).all()
    u_hat = trainer.reconstruct(IMAGES[:2])
    assert u_hat.shape == (840, 2, 3, 8, 8)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_blocks_made_ahead_change_no_bit_and_can_be_left_anywhere(optimizer):
    options = (f"train.optimizer={optimizer}", "train.lr=0.0001", "train.clip=1")
    configs = [config_of(*o, *options) for o in FOUR]
    one, many = trainer_of(*configs), trainer_of(*configs, ahead=8)
    for _ in range(13):
        torch.testing.assert_close(updated(many), updated(one), rtol=0, atol=0)
    left = [many.state(r) for r in range(4)]
    for r in range(4):
        ours, theirs = left[r].tensors, one.state(r).tensors
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    resumed = trainer_of(*configs, ahead=5)
    resumed.restore(left)
    for _ in range(27):  # to the end, over an epoch's end, in blocks cut short
        torch.testing.assert_close(updated(resumed), updated(one), rtol=0, atol=0)
    assert resumed.step == resumed.steps == 40


class Device(TorchDispatchMode):
    """Fails where the host reads a value or brings one, which no CUDA capture allows.

    (It cannot see tolist() and numpy(), which on CPU ask nobody.)
    """

    FORBIDDEN = (
        torch.ops.aten._local_scalar_dense.default,  # item(), bool()
        torch.ops.aten.nonzero.default,
        torch.ops.aten.masked_select.default,
        torch.ops.aten.lift_fresh.default,  # torch.tensor(...)
    )

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        asks = function in self.FORBIDDEN
        if function.overloadpacket in (torch.ops.aten.index, torch.ops.aten.index_put_):
            asks = any(i is not None and i.dtype == torch.bool for i in args[1])
        assert not asks, f"{function} needs the host"
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "asks",
    [
        lambda x: x.sum().item(),
        lambda x: 1 if x.sum() > 0 else 2,
        lambda x: x[x > 0],
        lambda x: x.add_(torch.tensor(1.0)),
    ],
)
def test_the_watch_on_the_device_sees_who_asks(asks):
    with Device(), pytest.raises(AssertionError, match="needs the host"):
        asks(torch.ones(3))


def capturable(trainer: Trainer) -> Trainer:
    """With tensors for rates, as on CUDA, and the plainest optimizer that reads them."""
    groups = trainer.optimizer.param_groups
    for group in groups:
        group["lr"] = torch.tensor(group["lr"])

    def step() -> None:
        for group in groups:
            for row in group["params"]:
                row.data.sub_(0.1 * group["lr"] * row.grad)

    trainer.optimizer.step = step
    return trainer


def check_replay(configs: list[RunConfig]) -> None:
    """What a CUDA graph does, on CPU: the step's operations are traced once, and their
    repetition, with no Python between, is as good as the step."""
    stepped, replayed = (capturable(trainer_of(*configs, ahead=4)) for _ in range(2))

    traced: list[GraphModule] = []

    def trace() -> None:
        nothing = torch.zeros(())  # make_fx wants an argument
        with Device():
            graph = make_fx(lambda _: replayed._step())(nothing)
        replayed._run_step = torch.no_grad()(partial(graph, nothing))
        traced.append(graph)

    for step in range(11):  # over the ends of blocks, which come into the same place
        if step == 5:
            replayed._run_step = trace
        stepped.update()
        replayed.update()
        assert torch.equal(stepped.losses, replayed.losses)
        assert torch.equal(stepped.rows.values, replayed.rows.values)
    assert [step for step, _ in stepped.curve(0)] == [0, 3, 6, 9]
    assert stepped.curve(0) == replayed.curve(0)
    for mine, its in zip(replayed.cohort.buffers(), stepped.cohort.buffers(), strict=True):
        assert torch.equal(mine, its)
    assert len(traced) == 1
    assert (replayed.died < 0).all()


@pytest.mark.slow
@pytest.mark.parametrize("norm_layer", ["none", "batch", "group"])
def test_a_step_never_asks_the_device_and_replays_from_what_it_launched(norm_layer):
    common = (f"model.norm_layer={norm_layer}", "train.clip=1", "log.every=3")
    check_replay([config_of(*o, *common) for o in EVERYTHING])


OWN = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, shape, latent):
        super().__init__()
        c, h, w = shape
        self.down = nn.Sequential(nn.Conv2d(c, 4, 4, 2, 1), nn.BatchNorm2d(4), nn.SiLU())
        self.to_posterior = nn.Linear(h * w, 2 * latent)
        self.up = nn.Sequential(
            nn.Linear(latent, h * w), nn.Unflatten(1, (4, h // 2, w // 2)),
            nn.ConvTranspose2d(4, c, 4, 2, 1),
        )
        self.register_buffer("scale", torch.ones(()))

    def encode(self, x):
        if self.training:
            self.scale = 0.9 * self.scale + 0.1 * x.std()
        return self.to_posterior(self.down(x / self.scale).flatten(1)).chunk(2, 1)

    def decode(self, z):
        return self.up(z)
"""


def test_an_own_networks_step_replays_from_what_it_launched(tmp_path, monkeypatch):
    (tmp_path / "mine_step.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("vae_sweep.vae.adapter.drawing", nullcontext)  # as on CUDA
    common = ("train.batch_size=8", "train.steps=40", "train.clip=1", "train.device=cpu")
    own = ("model=mine_step:Net", "model.latent=4", "log.wandb.mode=disabled", *common)
    own += ("log.every=3",)
    check_replay([make_config(*own, f"seed={seed}") for seed in range(3)])


def test_learning_rates_of_one_cohort_may_differ():
    rates = (0.001, 0.01, 0.001, 0.1)
    configs = [config_of(*o, f"train.lr={r}") for o, r in zip(FOUR, rates, strict=True)]
    together = trainer_of(*configs)
    for _ in range(5):
        together.update()
    for r, config in enumerate(configs):
        alone = trainer_of(config)
        for _ in range(5):
            alone.update()
        mine, its = together.state(r).tensors, alone.state(0).tensors
        assert all(torch.equal(mine[name], its[name]) for name in its)
