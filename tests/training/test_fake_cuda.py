"""The step on a CUDA device that is not there: its tensors have shapes and a device, and no
values. A tensor on the wrong device, and a value that the host waits for, are errors.

Backward passes and the fused optimizer have no kernels without values: gradients are zeros
on the parameters' device, and the optimizer does nothing.
"""

import pytest
import torch
from helpers import TINY, make_config, make_images
from test_step import EVERYTHING, FOUR
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily

from vae_sweep.config import RunConfig
from vae_sweep.data.random_transform import Random
from vae_sweep.training import step
from vae_sweep.training.batches import Feed
from vae_sweep.training.step import Trainer
from vae_sweep.vae.cohort import Cohort
from vae_sweep.vae.normalize import histograms
from vae_sweep.vae.point import point

IMAGES = make_images(64)
COUNTS = histograms(IMAGES)
OWN = """
from torch import nn

class Net(nn.Module):
    def __init__(self, shape, latent):
        super().__init__()
        c, h, w = self.shape = shape
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(c * h * w, 2 * latent))
        self.decoder = nn.Sequential(nn.Linear(latent, 16), nn.BatchNorm1d(16), nn.SiLU())
        self.out = nn.Linear(16, c * h * w)

    def encode(self, x):
        return self.encoder(x).chunk(2, 1)

    def decode(self, z):
        return self.out(self.decoder(z)).unflatten(1, self.shape)
"""


def _apply(module: nn.Module, function, recurse=True) -> nn.Module:
    """nn.Module's own, which cannot put a tensor of another kind in a parameter's place."""
    moved = {p: nn.Parameter(function(p.detach())) for p in module.parameters()}
    for each in module.modules():
        for kept in vars(each).values():
            if isinstance(kept, list):
                kept[:] = [moved.get(value, value) for value in kept]
        for name, value in each._parameters.items():
            each._parameters[name] = moved.get(value)
        for name, value in each._buffers.items():
            each._buffers[name] = None if value is None else function(value)
    return module


def no_gradients(outputs, inputs, grad=torch.autograd.grad, **options):
    if not outputs.is_cuda:  # an own network is looked through on the host
        return grad(outputs, inputs, **options)
    assert outputs.requires_grad
    assert all(i.is_cuda for i in inputs)
    return [torch.zeros_like(i) for i in inputs]


class HostCohort(Cohort):
    """Networks begin on the host, with values."""

    def __init__(self, *arguments):
        with unset_fake_temporarily():
            super().__init__(*arguments)


class HostFeed(Feed):
    """So do batches and noise."""

    def __init__(self, *arguments):
        with unset_fake_temporarily():
            super().__init__(*arguments)

    def block(self, step, count):
        with unset_fake_temporarily():
            return super().block(step, count)


@pytest.fixture(autouse=True)
def cuda(monkeypatch):
    monkeypatch.setattr(nn.Module, "_apply", _apply)
    monkeypatch.setattr(step, "Cohort", HostCohort)
    monkeypatch.setattr(step, "Feed", HostFeed)
    monkeypatch.setattr(torch.autograd, "grad", no_gradients)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self)
    monkeypatch.setattr("vae_sweep.training.optimizer.Optimizer.step", lambda self: None)
    monkeypatch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda *_: True)


def config_of(*overrides: str, remove: tuple[str, ...] = ()) -> RunConfig:
    typed = {override.partition("=")[0] for override in overrides} | {*remove}
    base = [line for line in TINY if line.partition("=")[0] not in typed]
    ways = () if "train.kernels" in typed else ("train.kernels=grouped",)  # not timed
    return make_config(*base, *ways, *overrides)


def binarized(u, generator):
    return torch.bernoulli(u, generator=generator)


def check(*configs: RunConfig, transform=None) -> None:
    """A step, an evaluation and the pictures."""
    points = [point(config, COUNTS, 64) for config in configs]
    random = Random("data", IMAGES, transform) if transform else None
    with FakeTensorMode(allow_non_fake_inputs=True):
        images = torch.empty(IMAGES.shape, dtype=torch.uint8, device="cuda")
        trainer = Trainer([*configs], points, images, "cuda", random=random)
        trainer._load(trainer.feed.block(0, trainer.ahead))
        trainer._step()
        for live in (trainer.losses, trainer.died, trainer._curve, trainer.rows.gradients):
            assert live.is_cuda
        samples = trainer.config.importance_samples
        measured = trainer.evaluate(images[:20], samples=samples)
        pictures = trainer.reconstruct(images[:4]), trainer.sample(4)
    assert {(m.device.type, m.shape, m.dtype) for m in measured.values()} == {
        ("cuda", (len(configs),), torch.float64)
    }
    shape = len(configs), 4, *IMAGES.shape[1:]
    assert {(p.device.type, p.shape, p.dtype) for p in pictures} == {
        ("cuda", shape, torch.uint8)
    }


CNN = "model.widths", "model.norm_layer"


@pytest.mark.parametrize(
    ("common", "remove"),
    [
        ((), ()),
        (("model.norm_layer=batch", "train.kernels=loop", "train.precision=tf32"), ()),
        (("model.norm_layer=group", "train.kernels=products", "train.precision=bf16"), ()),
        (("train.clip=1", "train.optimizer=sgd", "train.momentum=0.9"), ()),
        (("metric=[default,tanh_range]", "train.importance_samples=8"), ()),
        (("model=conv", "train.precision=bf16"), CNN[:1]),
        (("model=residual", "train.precision=fp64"), CNN[:1]),
        (("model=mlp",), CNN),
        (("model=linear",), CNN),
    ],
    ids=lambda options: " ".join(options) or "-",
)
def test_no_tensor_is_elsewhere_and_no_value_is_waited_for(common, remove):
    """All heads, likelihoods, normalizations, reductions and kinds of beta among them."""
    groups = (*FOUR, *EVERYTHING, ("beta=cyclical",), ("beta=matched",))
    check(*(config_of(*o, *common, remove=remove) for o in groups))


def test_a_single_run_and_random_draws():
    check(config_of())
    check(config_of(), config_of("seed=1"), transform=binarized)


def test_an_own_network(tmp_path, monkeypatch):
    (tmp_path / "fakenet.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    own = "model=fakenet:Net", "model.latent=4"
    check(*(config_of(*o, *own, remove=CNN) for o in FOUR))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (lambda kl: kl + torch.ones(2, 8), "(same|different) device"),
        (lambda kl: kl * kl.sum().item(), "scalar"),
        (lambda kl: kl.clamp(max=float(kl[0, 0])), "scalar"),
        (lambda kl: kl[kl > 0].expand_as(kl), "nonzero"),
    ],
)
def test_the_check_finds_what_it_is_for(monkeypatch, fault, message):
    errors = Cohort.weighed

    def weighed(self, errors_, kl, beta):
        return errors(self, errors_, fault(kl), beta)

    monkeypatch.setattr(Cohort, "weighed", weighed)
    with pytest.raises(Exception, match=message):
        check(config_of(), config_of("seed=1"))
