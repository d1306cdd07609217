import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import make_config, make_images
from torch import Generator, Tensor, nn

from vae_sweep.config import OwnModel, RunConfig
from vae_sweep.errors import UserError
from vae_sweep.training.plan import footprint
from vae_sweep.training.step import Trainer, state_shape
from vae_sweep.training.tune import Tuner, tune_layers
from vae_sweep.vae import networks
from vae_sweep.vae.adapter import Stacked, drawing
from vae_sweep.vae.normalize import histograms
from vae_sweep.vae.own_network import verify, verify_runs
from vae_sweep.vae.point import point
from vae_sweep.vae.streams import Streams, stream

IMAGES = make_images(64)
COUNTS = histograms(IMAGES)
SHAPE, LATENT = (3, 8, 8), 4
NUMBER = count()

NET = """
import torch
from torch import nn
from torch.nn import functional as F


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.a = nn.Conv2d(width, width, 3, padding=1)
        self.b = nn.Conv2d(width, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, x):
        return torch.relu(x + self.b(torch.relu(self.norm(self.a(x)))))


class Net(nn.Module):
    def __init__(self, shape, latent, *, blocks: int = 1, width: int = 4):
        super().__init__()
        c, h, w = shape
        size = width * h * w // 4
        self.down = nn.Conv2d(c, width, 4, 2, 1)
        self.encoder = nn.Sequential(*(Block(width) for _ in range(blocks)))
        self.to_mu, self.to_logvar = nn.Linear(size, latent), nn.Linear(size, latent)
        self.start = nn.Linear(latent, size)
        self.bottom = (width, h // 2, w // 2)
        self.decoder = nn.Sequential(Block(width), nn.ConvTranspose2d(width, c, 4, 2, 1))

    def encode(self, x):
        h = self.encoder(self.down(x)).flatten(1)
        return self.to_mu(h), self.to_logvar(h)

    def decode(self, z):
        return self.decoder(self.start(z).unflatten(1, self.bottom))


class Drops(Net):
    def encode(self, x):
        mu, logvar = super().encode(F.dropout(x, 0.5, self.training))
        return mu, logvar

    def decode(self, z):
        return super().decode(F.dropout(z, 0.3))  # in evaluation, too


class Frozen(Net):
    def __init__(self, shape, latent):
        super().__init__(shape, latent)
        self.down.requires_grad_(False)


class Tied(Net):
    def __init__(self, shape, latent):
        super().__init__(shape, latent)
        self.to_logvar.weight = self.to_mu.weight


class Reassigns(Net):
    def __init__(self, shape, latent):
        super().__init__(shape, latent)
        self.register_buffer("mean", torch.ones(shape[0], 1, 1))
        self.register_buffer("passes", torch.zeros((), dtype=torch.int64))

    def encode(self, x):
        x = x * self.mean  # the backward pass needs the old one
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.mean((0, 2, 3))[:, None, None]
            self.passes = self.passes + 1
        return super().encode(x)


class Views(Net):
    def encode(self, x):
        h = self.encoder(self.down(x))
        h = h.view(len(h), -1)
        return self.to_mu(h), self.to_logvar(h)


class Normed(Net):
    def __init__(self, shape, latent):
        super().__init__(shape, latent)
        nn.utils.parametrizations.spectral_norm(self.to_mu)
        nn.utils.parametrizations.weight_norm(self.down)


class Linear(nn.Module):
    def __init__(self, shape, latent):
        super().__init__()
        self.shape = shape
        size = shape[0] * shape[1] * shape[2]
        self.to_mu, self.from_z = nn.Linear(size, latent), nn.Linear(latent, size)
        self.logvar = nn.Parameter(torch.zeros(latent))

    def encode(self, x):
        mu = self.to_mu(x.flatten(1))
        return mu, self.logvar.expand_as(mu)

    def decode(self, z):
        return self.from_z(z).view(-1, *self.shape)
"""
KINDS = ("Net", "Drops", "Frozen", "Tied", "Reassigns", "Views", "Normed", "Linear")

Write = Callable[[str], str]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes a module of a name that no other has, and returns the name."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def written(source: str) -> str:
        name = f"mine_{next(NUMBER)}"
        (tmp_path / f"{name}.py").write_text(source)
        return name

    return written


@pytest.fixture
def module(write: Write) -> str:
    return write(NET)


def config_of(model: str, *overrides: str) -> RunConfig:
    common = ("train.batch_size=8", "train.device=cpu", "train.steps=40")
    own = (f"model={model}", f"model.latent={LATENT}", "log.wandb.mode=disabled")
    return make_config(*own, *common, *overrides)


def class_of(model: str) -> Any:
    module, _, name = model.partition(":")
    return getattr(sys.modules[module], name)


def maker(model: str) -> Callable[[], nn.Module]:
    return lambda: class_of(model)(SHAPE, LATENT)


def trainer_of(*configs: RunConfig) -> Trainer:
    points = [point(c, COUNTS, 64) for c in configs]
    return Trainer(list(configs), points, IMAGES, "cpu")


def three(model: str, *overrides: str) -> list[RunConfig]:
    options = (("seed=0", "head=tanh"), ("seed=1", "beta.value=4"), ("seed=2",))
    return [config_of(model, *each, *overrides) for each in options]


def same(mine: dict[str, Tensor], its: dict[str, Tensor]) -> bool:
    return mine.keys() == its.keys() and all(mine[n].equal(its[n]) for n in its)


def test_initial_weights_are_drawn_by_torch_from_each_runs_stream(module):
    config = config_of(f"{module}:Net", "model.blocks=2")
    before = torch.get_rng_state()
    built = networks.build(config.model, SHAPE, Streams([7, 3, 7], "init").of_runs())
    assert torch.get_rng_state().equal(before)
    seed = torch.randint(2**63 - 1, (), generator=stream(3, "init")).item()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(seed))
        expected = class_of(f"{module}:Net")(SHAPE, LATENT, blocks=2).state_dict()
    stacked = {n.removeprefix("network."): t for n, t in built.state_dict().items()}
    assert same({n: t[1] for n, t in stacked.items()}, expected)
    assert all(t[0].equal(t[2]) for t in stacked.values())
    assert not stacked["down.weight"][0].equal(stacked["down.weight"][1])


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", [k for k in KINDS if k != "Drops"])
def test_outputs_gradients_and_buffers_are_those_of_modules_alone(module, kind, training):
    config_of(f"{module}:{kind}")  # imports it
    generators = [Generator().manual_seed(r) for r in range(3)]
    make = maker(f"{module}:{kind}")
    stacked = Stacked(make, SHAPE, LATENT, generators).double().train(training)
    alone = [make().double().train(training) for _ in range(3)]
    state = stacked.network.state_dict()
    for r, one in enumerate(alone):
        one.load_state_dict({name: t[r] for name, t in state.items()})
    x = torch.randn(3, 5, *SHAPE, dtype=torch.float64)
    noise = torch.randn(3, 5, LATENT, dtype=torch.float64)
    outputs = stacked(x, noise)
    (outputs[0].square().sum() + outputs[1].sum() + outputs[2].exp().sum()).backward()
    gradients = {n: p.grad for n, p in stacked.network.named_parameters()}
    for r, one in enumerate(alone):
        net: Any = one
        mu, logvar = net.encode(x[r])
        a = net.decode(mu + (logvar / 2).exp() * noise[r])
        (a.square().sum() + mu.sum() + logvar.exp().sum()).backward()
        for mine, its in zip(outputs, (a, mu, logvar), strict=True):
            torch.testing.assert_close(mine[r], its)
        for name, p in one.named_parameters():
            if p.requires_grad:
                assert gradients[name] is not None
                torch.testing.assert_close(gradients[name][r], p.grad)
        for name, b in one.state_dict().items():
            torch.testing.assert_close(stacked.network.state_dict()[name][r], b)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_decode_alone_is_that_of_the_module_and_keeps_its_buffers(module, kind):
    config_of(f"{module}:{kind}")  # imports it
    generators = [Generator().manual_seed(r) for r in range(3)]
    stacked = Stacked(maker(f"{module}:{kind}"), SHAPE, LATENT, generators).eval()
    before = {name: t.clone() for name, t in stacked.state_dict().items()}
    z = torch.randn(3, 5, LATENT)
    a = stacked.decode(z)
    assert same(stacked.state_dict(), before)
    for r in range(3):
        one: Any = maker(f"{module}:{kind}")().eval()
        one.load_state_dict({n.removeprefix("network."): t[r] for n, t in before.items()})
        with drawing(z[r]):
            torch.testing.assert_close(a[r], one.decode(z[r]))


@pytest.mark.parametrize("kind", KINDS)
def test_neighbors_change_no_bit_of_training_and_evaluation(module, kind):
    configs = three(f"{module}:{kind}", "train.clip=1")
    together, backward = trainer_of(*configs), trainer_of(*configs[::-1])
    alone = trainer_of(configs[1])
    for _ in range(4):
        for trainer in (together, backward, alone):
            trainer.update()
    its, rows = alone.state(0).tensors, alone.evaluate(IMAGES, samples=3)
    for trainer in (together, backward):
        assert same(trainer.state(1).tensors, its)
        found = trainer.evaluate(IMAGES, samples=3)
        assert all(found[n][1].nan_to_num().equal(rows[n][0].nan_to_num()) for n in rows)
        assert trainer.reconstruct(IMAGES[:5])[1].equal(alone.reconstruct(IMAGES[:5])[0])
    assert state_shape(configs[1], alone.cohort.points[0], SHAPE).misfit(
        together.state(1), 40
    ) is None  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_run_goes_on_bit_for_bit_beside_others(module, kind):
    configs = three(f"{module}:{kind}")
    whole, first, after = (trainer_of(*configs) for _ in range(3))
    for _ in range(3):
        first.update()
    after.restore([first.state(r) for r in (0, 1, 2)])
    fewer = trainer_of(configs[2], configs[0])
    fewer.restore([first.state(r) for r in (2, 0)])
    for _ in range(6):
        whole.update()
    for _ in range(3):
        after.update()
        fewer.update()
    for r in range(3):
        assert same(after.state(r).tensors, whole.state(r).tensors)
    assert same(fewer.state(0).tensors, whole.state(2).tensors)
    assert same(fewer.state(1).tensors, whole.state(0).tensors)


def test_what_a_module_draws_changes_from_step_to_step(module):
    config_of(f"{module}:Drops")
    stacked = Stacked(maker(f"{module}:Drops"), SHAPE, LATENT, [Generator(), Generator()])
    x, (one, other) = torch.ones(2, 5, *SHAPE), torch.randn(2, 5, LATENT)
    before = torch.get_rng_state()
    a, mu, _ = stacked(x, torch.stack([one, other]))
    again, *_ = stacked(x, torch.stack([one, other]))
    assert torch.get_rng_state().equal(before)
    assert a.equal(again)
    assert not mu[0].equal(mu[1])  # equal weights and images, other noise


def test_buffers_follow_each_run_in_place(module):
    trainer = trainer_of(*three(f"{module}:Reassigns"))
    places = {n: b.data_ptr() for n, b in trainer.cohort.named_buffers()}
    for _ in range(3):
        trainer.update()
    state = trainer.cohort.state_dict()
    assert state["model.network.passes"].tolist() == [3, 3, 3]
    assert state["model.network.encoder.0.norm.num_batches_tracked"].tolist() == [3, 3, 3]
    assert len(state["model.network.mean"].flatten(1).unique(dim=0)) == 3
    assert places == {n: b.data_ptr() for n, b in trainer.cohort.named_buffers()}


def test_frozen_and_tied_parameters_stay_so(module):
    frozen, tied = (trainer_of(*three(f"{module}:{kind}")) for kind in ("Frozen", "Tied"))
    before = frozen.cohort.state_dict()["model.network.down.weight"].clone()
    frozen.update()
    tied.update()
    assert frozen.cohort.state_dict()["model.network.down.weight"].equal(before)
    weights = [
        tied.state(2).tensors[f"model.network.{n}.weight"] for n in ("to_mu", "to_logvar")
    ]
    assert weights[0].equal(weights[1])


def test_modes_reach_the_module(module):
    trainer = trainer_of(*three(f"{module}:Net"))
    network: Any = trainer.cohort.model.network
    assert network.encoder[0].norm.training
    trainer.cohort.eval()
    assert not network.encoder[0].norm.training


def test_encoder_parameters_are_those_of_mu_and_logvar(module):
    config = config_of(f"{module}:Frozen")
    built = networks.build(config.model, SHAPE, [Generator()])
    found = {id(p) for p in built.encoder_parameters()}
    names = {n.partition(".")[2] for n, p in built.named_parameters() if id(p) in found}
    parts = ("a.weight", "a.bias", "b.weight", "b.bias", "norm.weight", "norm.bias")
    heads = {f"{n}.{of}" for n in ("to_mu", "to_logvar") for of in ("weight", "bias")}
    assert names == heads | {f"encoder.0.{part}" for part in parts}


@pytest.mark.parametrize(("kind", "layout"), [("Net", 1), ("Views", 0), ("Linear", 1)])
def test_tensors_are_channels_last_where_the_module_takes_them(module, kind, layout):
    config = config_of(f"{module}:{kind}")
    built: Any = networks.build(config.model, SHAPE, [Generator()])
    assert built.layout == (torch.contiguous_format, torch.channels_last)[layout]


def test_parameters_are_counted_as_they_are_made(write, module):
    slow = write("""
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, shape, latent):
        super().__init__()
        self.start = nn.Parameter(torch.rand(3 + int(torch.ones(()).item())))

    def encode(self, x): ...

    def decode(self, z): ...
""")
    config = config_of(f"{module}:Net", "model.width=6", "model.blocks=3")
    counted, activations = networks.size(config.model, SHAPE)
    built = networks.build(config.model, SHAPE, [Generator()])
    assert counted == sum(p.numel() for p in built.parameters())
    assert activations == 3 * 8 * 8 + 2 * LATENT
    assert networks.size(OwnModel(name=f"{slow}:Net", latent=2), SHAPE)[0] == 4


def builder(name: str):
    """What makes the stacked network of one run per generator."""
    make = maker(name)
    return lambda generators: Stacked(make, SHAPE, LATENT, generators)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp64"])
@pytest.mark.parametrize("kind", KINDS)
def test_sound_networks_pass(module, kind, precision):
    config = config_of(f"{module}:{kind}", f"train.precision={precision}")
    networks.check(config, SHAPE)
    verify_runs(builder(f"{module}:{kind}"), SHAPE, LATENT)


def test_the_planner_and_the_tuner_take_it(module, tmp_path):
    config = config_of(f"{module}:Net")
    constants = point(config, COUNTS, 64)
    needs = footprint(config, constants, SHAPE)
    assert needs.parameters >= 4 * networks.size(config.model, SHAPE)[0]
    assert needs.activations > 4 * 3 * 8 * 8
    trainer = trainer_of(config)
    before = trainer.state(0).tensors
    tune_layers(trainer.cohort, IMAGES[:8], Tuner(tmp_path, torch.device("cpu")))
    assert same(trainer.state(0).tensors, before)
    assert trainer.kernels == []


BROKEN = """
import itertools
import numpy as np
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, shape, latent):
        super().__init__()
        self.shape, self.latent, size = shape, latent, shape[0] * shape[1] * shape[2]
        self.enc, self.dec = nn.Linear(size, 2 * latent), nn.Linear(latent, size)
        {init}

    def encode(self, x):
        {encode}
        mu, logvar = self.enc(x.flatten(1)).chunk(2, 1)
        return {encoded}

    def {decode}(self, z):
        return {decoded}
"""
DEFAULTS = {
    "init": "pass",
    "encode": "pass",
    "encoded": "mu, logvar",
    "decode": "decode",
    "decoded": "self.dec(z).view(-1, *self.shape)",
}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"init": "raise ValueError('bad')"}, r"made: ValueError in .*py, line 13: bad"),
        ({"encode": "self.nothing()"}, r"encode of \[2, 3, 8, 8\] .*line 16: .*nothing"),
        ({"decoded": "z @ z"}, r"decode of \[2, 4\] in training.*RuntimeError .*line 21"),
        ({"encoded": "mu[:, :3], logvar"}, r"mu must be \[2, 4\].*got \[2, 3\]"),
        ({"encoded": "mu, logvar.squeeze()[0]"}, r"logvar must be \[2, 4\].*got \[4\]"),
        ({"encoded": "mu.squeeze(0), logvar"}, r"must be \[1, 4\].*\[4\] in evaluation"),
        ({"encoded": "mu"}, r"return \(mu, logvar\), got a Tensor"),
        ({"encoded": "mu, 0.5"}, r"logvar must be \[2, 4\].*got a float"),
        ({"decoded": "self.dec(z)"}, r"decode returns must be \[2, 3, 8, 8\].*\[2, 192\]"),
        ({"encoded": "mu.long(), logvar"}, "mu must be floating, got torch.int64"),
        ({"encoded": "mu / 0, logvar"}, "mu must be finite, got inf"),
        ({"decoded": "self.dec(z * torch.nan).view(-1, *self.shape)"}, "finite, got nan"),
        ({"init": "self.requires_grad_(False)"}, "must have parameters to train"),
        ({"init": "self.enc.requires_grad_(False)"}, "that mu or logvar depends on"),
        ({"init": "self.enc = nn.LazyLinear(8)"}, r"enc\.weight is lazy"),
        ({"init": "self.w = nn.Parameter(torch.ones(2) * 1j)"}, "real parameters, got w"),
        ({"decode": "decoded"}, "has no decode; define it"),
        (
            {"init": "self.enc.weight.data *= np.random.rand()"},
            "torch's own generator alone",
        ),
        ({"encode": "x = x * np.random.rand()"}, "equal outputs for equal inputs"),
        (
            {"init": "self.n = itertools.count()", "encode": "x = x + next(self.n)"},
            "equal outputs for equal inputs",
        ),
        (
            {"init": "self.n = 0", "encode": "self.n += 1"},
            "numbers .*got n = 3 after 0",
        ),
        (
            {"init": "self.ws = [self.enc.weight]", "encode": "x = x + self.ws[0].mean()"},
            "keeps a parameter where it is not registered",
        ),
        (
            {
                "init": "self.register_buffer('n', torch.zeros(()), persistent=False)",
                "encode": "self.n += 1",
            },
            "must keep n, which changes, in its state_dict",
        ),
        (
            {"encode": "self.register_buffer('late', torch.zeros(1))"},
            "buffers in __init__, got late later",
        ),
    ],
)
def test_a_network_that_cannot_train_is_refused_with_its_line(write, changes, said):
    module = write(BROKEN.format(**{**DEFAULTS, **changes}))
    config = config_of(f"{module}:Net")
    with pytest.raises(UserError, match=said) as caught:
        networks.check(config, SHAPE)
    assert str(caught.value).startswith(f"model={module}:Net ({module}.py, line 8): ")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("class Net:\n    def __init__(self, shape, latent): pass", "got the class Net"),
        ("def Net(shape, latent): return {}", "must be a torch.nn.Module .*got a dict"),
    ],
)
def test_what_is_no_module_is_refused(write, source, said):
    module = write(source)
    with pytest.raises(UserError, match=rf"{said}"):
        networks.check(config_of(f"{module}:Net"), SHAPE)


def test_a_batch_of_one_is_tried_where_one_trains(write):
    norm = {
        "init": "self.norm = nn.BatchNorm1d(latent)",
        "encoded": "self.norm(mu), logvar",
    }
    module = write(BROKEN.format(**{**DEFAULTS, **norm}))
    networks.check(config_of(f"{module}:Net"), SHAPE)
    with pytest.raises(UserError, match="more than 1 value per channel"):
        networks.check(config_of(f"{module}:Net", "train.batch_size=1"), SHAPE)


def test_a_module_that_draws_is_refused_on_cuda(module):
    config_of(f"{module}:Drops")
    verify(maker(f"{module}:Net"), SHAPE, LATENT, cuda=True)
    with pytest.raises(UserError, match=r"draws random numbers.*set train\.device=cpu"):
        verify(maker(f"{module}:Drops"), SHAPE, LATENT, cuda=True)


def test_runs_that_share_what_they_must_not_are_found(write):
    state = {
        "init": "self.seen = torch.zeros(())",
        "encode": "self.seen += 1; x = x * self.seen",
    }
    module = write(BROKEN.format(**{**DEFAULTS, **state}))
    config_of(f"{module}:Net")
    with pytest.raises(UserError, match="whatever runs train beside it"):
        verify_runs(builder(f"{module}:Net"), SHAPE, LATENT)
