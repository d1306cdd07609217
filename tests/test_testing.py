"""vae_sweep.testing accepts every option of ours, and refuses a wrong one of each kind."""

import math
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import make_images
from test_extending import FILES
from torch import nn

from vae_sweep import Affine, Head, Likelihood, Metric, Schedule, options, testing
from vae_sweep.errors import UserError
from vae_sweep.vae import schedules

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture
def images(tmp_path, monkeypatch) -> Path:
    """An .npz of images, in the working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VAE_SWEEP_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "images.npz"
    np.savez(path, images=make_images(60).permute(0, 2, 3, 1).numpy())
    return path


ALONE = {  # group -> its check, which needs nothing but the name
    "norm": testing.check_norm,
    "head": testing.check_head,
    "likelihood": testing.check_likelihood,
    "reduction": testing.check_reduction,
    "beta": testing.check_schedule,
}


@pytest.mark.parametrize(
    ("group", "name"), [(group, name) for group in ALONE for name in options.words(group)]
)
def test_our_options(group, name):
    ALONE[group](name)


@pytest.mark.parametrize("name", options.words("model"))
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 20)])
def test_our_networks(name, shape):
    testing.check_network(name, shape, 5)


def test_our_metrics():
    testing.check_metric("default")


def test_our_images(images, tmp_path):
    small = {"images": 40, "size": 8, "val_images": 4, "test_images": 4}
    testing.check_data("dead_leaves", **small)
    testing.check_data("npz", path=images)
    shutil.copytree(GOLDEN / "folder", tmp_path / "folder")
    testing.check_data("image_folder", path=tmp_path / "folder", size=8)


def test_our_sets_that_are_downloaded(images, monkeypatch):
    """As torchvision gives them."""
    from torchvision import datasets

    class Set:
        def __init__(self, root, train=True, split="train", download=False):
            rng = np.random.default_rng(train and split == "train")
            self.data = rng.integers(0, 256, (60, 32, 32, 3), np.uint8)

        filename, resources = "file", ()

    for name, set_ in {
        **{"cifar10": "CIFAR10", "cifar100": "CIFAR100", "svhn": "SVHN"},
        **{"mnist": "MNIST", "fashion_mnist": "FashionMNIST"},
    }.items():
        monkeypatch.setattr(datasets, set_, Set)
        testing.check_data(name)


@pytest.mark.slow
def test_our_loggers(lone_home):
    testing.check_logger("wandb", "log.wandb.mode=offline")


@pytest.mark.slow
def test_the_options_of_the_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for block in FILES:
        (tmp_path / block.file).write_text(block.code)
    testing.check_norm("robust:ROBUST")
    testing.check_head("softsign:SOFTSIGN")
    testing.check_head("softsign:RESCALED")
    testing.check_likelihood("student:Student")
    testing.check_reduction("half_mean:HALF_MEAN")
    testing.check_schedule("cosine:cosine", share=0.25)
    testing.check_network("residual:Residual", blocks=3)
    testing.check_data("squares:Squares", images=50)
    testing.check_data("binary:binarized", images=50)
    testing.check_metric("mae:MAE")
    testing.check_logger("film:Film")
    for block in FILES:  # other tests have files of these names
        sys.modules.pop(block.file.removesuffix(".py"), None)


class Gaussian(Likelihood):
    """Without its constant."""

    def log_prob(self, u, given, std):
        return -(((u - given) / std) ** 2) / 2 - std.log()


class Narrow(nn.Module):
    """Of another latent size than asked for."""

    def __init__(self, shape, latent):
        super().__init__()
        self.into = nn.Linear(math.prod(shape), latent + 1)
        self.out, self.shape = nn.Linear(latent, math.prod(shape)), shape

    def encode(self, x):
        mu = self.into(x.flatten(1))
        return mu, 0 * mu

    def decode(self, z):
        return self.out(z).unflatten(1, self.shape)


class Deaf:
    """A logger without images."""

    def __init__(self, config): ...
    def row(self, row): ...
    def finish(self, summary): ...


class Loud(Deaf):
    def images(self, step, path):
        raise OSError("no room")


def flat(counts: torch.Tensor) -> Affine:
    return Affine(torch.zeros(len(counts)), torch.zeros(len(counts)))


def floats() -> np.ndarray:
    return np.random.default_rng(0).random((20, 8, 8, 3))


def others() -> np.ndarray:
    return np.random.default_rng().integers(0, 256, (20, 8, 8, 3), np.uint8)


@pytest.mark.parametrize(
    ("check", "wrong", "found"),
    [
        (
            testing.check_norm,
            lambda c: Affine(torch.zeros(len(c)), torch.zeros(len(c))),
            "inv",
        ),
        (testing.check_head, Head(torch.tanh, -1, 0.5), "must lie in -1..0.5, got"),
        (testing.check_head, Head(torch.tanh, -1, 1, torch.tanh), "derivative"),
        (testing.check_likelihood, Gaussian, "must integrate to 1, got 2.507"),
        (
            testing.check_reduction,
            lambda pixels, latent: (1.0, -1.0),
            "above 0, got 1 and -1",
        ),
        (testing.check_schedule, Schedule(1.0, lambda p: p / 2), "end at 1, .* got 0.5"),
        (testing.check_network, Narrow, r"\[2, 8\].*got.*\[2, 9\]"),
        (testing.check_data, floats, "uint8.*got float64"),
        (testing.check_data, others, "the same whenever they are read"),
        (testing.check_metric, Metric("odd", lambda p: p.u.mean()), "must|got"),
        (testing.check_logger, Deaf, "has no images"),
        (testing.check_logger, Loud, "raised OSError.*no room"),
    ],
)
def test_a_wrong_one_is_refused_with_what_was_found(check, wrong, found, images):
    with pytest.raises(UserError, match=found):
        check(wrong)


@pytest.mark.parametrize(
    "check",
    [getattr(testing, name) for name in dir(testing) if name.startswith("check_")],
    ids=lambda check: check.__name__,
)
@pytest.mark.parametrize("thing", [3, None, object()], ids=["3", "None", "object"])
def test_what_is_no_option_at_all_is_refused(check, thing, images):
    with pytest.raises(UserError, match=r"must|cannot"):
        check(thing)


def test_every_schedule_of_ours_has_a_file():
    assert sorted(schedules.OURS) == sorted(options.words("beta"))
