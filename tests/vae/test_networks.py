import pytest
import torch
from helpers import make_config
from torch import Generator

from vae_sweep.config import RunConfig
from vae_sweep.errors import UserError
from vae_sweep.vae import heads
from vae_sweep.vae.networks import ConvVAE, check, resolutions


def vae(*overrides: str, shape=(3, 32, 32), runs: int = 2) -> ConvVAE:
    config = make_config(*overrides).model
    return ConvVAE(config, shape, [Generator().manual_seed(r) for r in range(runs)])


@pytest.mark.parametrize("kernel", [3, 4, 5])
@pytest.mark.parametrize("size", [(8, 8), (9, 15), (28, 28), (33, 20), (50, 64)])
def test_every_size_comes_back_as_it_went_in(size, kernel):
    model = vae(f"model.kernel={kernel}", "model=small", shape=(1, *size))
    x = torch.rand(2, 3, 1, *size)
    a, mu, logvar = model(x, torch.randn(2, 3, 64))
    assert a.shape == x.shape
    assert mu.shape == logvar.shape == (2, 3, 64)


def test_default_size_is_what_the_readme_says():
    parameters = sum(p.numel() for p in vae(runs=1).parameters())
    assert parameters == 725_779


@pytest.mark.parametrize("norm_layer", ["none", "batch", "group"])
@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "silu", "gelu", "tanh"])
def test_options_train(norm_layer, activation):
    model = vae(
        "model.widths=[8,16]",
        "model.depth=2",
        f"model.norm_layer={norm_layer}",
        f"model.activation={activation}",
    )
    a, mu, _ = model(torch.rand(2, 4, 3, 32, 32), torch.randn(2, 4, 128))
    (a.square().sum() + mu.square().sum()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_an_image_too_small_to_halve_is_refused():
    with pytest.raises(UserError, match=r"3 levels.*4x4 is too small.*at most 2"):
        resolutions(make_config().model, 4, 4)


def check_all(config: RunConfig, height: int) -> None:
    check(config, (3, height, height))
    heads.check(config.head, config.train.batch_size * height * height)


NORMED = ("model.widths=[4,8,1]", "train.batch_size=1")


@pytest.mark.parametrize(
    ("overrides", "height", "remedy"),
    [
        ((*NORMED, "model.norm_layer=batch"), 8, "train.batch_size=2 or fewer widths"),
        ((*NORMED, "model.norm_layer=group"), 8, "a larger width or fewer widths"),
        (("model=linear", "head=tanh_standardized", *NORMED[1:]), 1, "train.batch_size=2"),
    ],
)
def test_statistics_of_one_value_are_refused(overrides, height, remedy):
    config = make_config(*overrides)
    with pytest.raises(UserError, match=r"at least two values.*got one") as caught:
        check_all(config, height)
    assert remedy in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "height"),
    [
        ((*NORMED[:1], "train.batch_size=2", "model.norm_layer=batch"), 8),
        ((*NORMED, "model.norm_layer=batch"), 16),
        ((*NORMED, "model.norm_layer=none"), 8),
        (("model.widths=[4,8,2]", "train.batch_size=1", "model.norm_layer=group"), 8),
        (("head=tanh_standardized", "model.widths=[4]", "train.batch_size=1"), 2),
    ],
)
def test_statistics_of_two_values_are_not(overrides, height):
    config = make_config(*overrides)
    check_all(config, height)
    values = config.train.batch_size
    model = ConvVAE(config.model, (3, height, height), [Generator()])  # pyright: ignore
    model(torch.rand(1, values, 3, height, height), torch.randn(1, values, 128))


def test_posterior_sample_is_mu_plus_std_times_noise():
    model = vae().double()
    x = torch.rand(2, 3, 3, 32, 32, dtype=torch.float64)
    noise = torch.randn(2, 3, 128, dtype=torch.float64)
    a, mu, logvar = model(x, noise)
    std = torch.distributions.Normal(mu, (logvar / 2).exp()).stddev
    torch.testing.assert_close(a, model.decode(mu + std * noise))
