"""What CUDA changes: nothing but rounding. Needs a device."""

import pytest
import torch
from helpers import TINY, make_config, make_images

from vae_sweep.data.random_transform import Random
from vae_sweep.training.device import EAGER
from vae_sweep.training.step import Trainer
from vae_sweep.vae.normalize import histograms
from vae_sweep.vae.point import point

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
STEPS = EAGER + 5  # eager ones, the capture, and replays


def trained(
    device: str, heads: tuple[str, ...], *overrides: str, transform=None
) -> Trainer:
    images = make_images(60)
    random = Random("data", images, transform) if transform else None
    base = [o for o in TINY if not o.startswith("train.device")]
    configs = [
        make_config(*base, f"head={head}", "train.precision=fp64", *overrides)
        for head in heads
    ]
    points = [point(config, histograms(images), 64) for config in configs]
    trainer = Trainer(configs, points, images.to(device), device, random=random)
    for _ in range(STEPS):
        trainer.update()
    return trainer


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("norm_layer", ["none", "batch", "group"])
def test_a_captured_cohort_trains_as_on_cpu(optimizer, norm_layer):
    options = (f"train.optimizer={optimizer}", f"model.norm_layer={norm_layer}")
    heads = ("linear", "tanh", "tanh", "tanh_standardized")
    ours, theirs = (trained(d, heads, *options) for d in ("cuda", "cpu"))
    torch.testing.assert_close(ours.losses.cpu(), theirs.losses, rtol=1e-9, atol=1e-9)
    for a, b in zip(ours.parameters, theirs.parameters, strict=True):
        torch.testing.assert_close(a.cpu(), b, rtol=1e-7, atol=1e-9)


def test_a_captured_step_notes_the_curve():
    ours, theirs = (
        trained(d, ("linear", "tanh_standardized"), "log.every=3") for d in ("cuda", "cpu")
    )
    assert [step for step, _ in ours.curve(0)] == [0, 3, 6]
    for (_, values), (_, expected) in zip(ours.curve(0), theirs.curve(0), strict=True):
        torch.testing.assert_close(
            torch.tensor(values), torch.tensor(expected), rtol=1e-9, atol=1e-9
        )


def test_a_captured_step_trains_on_random_draws():
    def binarize(u, generator):
        return torch.bernoulli(u, generator=generator)

    ours, theirs = (
        trained(d, ("linear", "tanh"), transform=binarize) for d in ("cuda", "cpu")
    )
    torch.testing.assert_close(ours.losses.cpu(), theirs.losses, rtol=1e-9, atol=1e-9)
    plain = trained("cpu", ("linear", "tanh"))
    assert (plain.losses != theirs.losses).all()


def test_a_run_goes_on_from_its_checkpoint():
    whole = trained("cuda", ("tanh", "linear"))
    states = [whole.state(r) for r in range(2)]
    again = trained("cuda", ("tanh", "linear"))
    again.restore(states)
    for trainer in (whole, again):
        trainer.update()
    torch.testing.assert_close(again.losses, whole.losses)
