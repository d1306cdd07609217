import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from helpers import make_config
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from vae_sweep.config import ModelConfig, RunConfig
from vae_sweep.errors import UserError
from vae_sweep.training.device import limited_threads
from vae_sweep.vae import heads, own_network
from vae_sweep.vae.networks import ConvVAE, build, check, resolutions, size


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


def alone_as_together(
    config: ModelConfig, shape: tuple[int, int, int], batch: int
) -> Iterator[tuple[Any, Tensor, Tensor, tuple[Tensor, ...]]]:
    """Each of three runs alone, its input, its noise and its outputs: to the last bit what
    they are beside the others, and so are the gradients that it has now."""

    def built(*seeds: int) -> Any:
        return build(config, shape, [Generator().manual_seed(seed) for seed in seeds])

    together, alone = built(0, 1, 2), [built(seed) for seed in range(3)]
    x, noise = torch.randn(3, batch, *shape), torch.randn(3, batch, config.latent)
    outputs = together(x, noise)
    sum(output.square().sum() for output in outputs).backward()
    for r, one in enumerate(alone):
        given = x[r : r + 1], noise[r : r + 1]
        own = one(*given)
        sum(output.square().sum() for output in own).backward()
        assert all(torch.equal(a[r], b[0]) for a, b in zip(outputs, own, strict=True))
        pairs = zip(together.parameters(), one.parameters(), strict=True)
        assert all(torch.equal(p.grad[r], q.grad[0]) for p, q in pairs)
        yield one, *given, own


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("activation", ["silu", "gelu", "relu", "tanh"])
@pytest.mark.parametrize(
    ("shape", "batch"), [((1, 12, 12), 5), ((1, 28, 28), 10), ((3, 12, 12), 3)]
)
def test_odd_shapes_change_no_bit_beside_other_runs(shape, batch, activation, threads):
    """Whatever a run's numbers fill of the vectors that a kernel takes at once."""
    net = ("model=small", "model.widths=[4,8]", "model.norm_layer=none", "model.latent=3")
    config = make_config(*net, f"model.activation={activation}").model

    with limited_threads(threads):
        for _ in alone_as_together(config, shape, batch):
            pass


# --- residual ---


def test_a_residual_network_adds_inputs_to_convolutions():
    """Against the same layers written out."""
    model = vae("model=residual", "model.widths=[16]", "model.depth=3", runs=1).double()
    x = torch.randn(1, 5, 3, 32, 32, dtype=torch.float64)
    first, norm, _, *blocks = model.encoder

    def normalized(h: Tensor, norm: Any) -> Tensor:
        mean, var = h.mean((0, 2, 3)), h.var((0, 2, 3), correction=0)
        h = (h - mean[:, None, None]) / (var[:, None, None] + 1e-5).sqrt()
        h = h * norm.weight[0][:, None, None] + norm.bias[0][:, None, None]
        return h * torch.sigmoid(h)

    h = F.conv2d(x[0], first.weight[0], first.bias[0], stride=2, padding=1)
    h = normalized(h, norm)
    assert len(blocks) == 2
    for norm, _, conv in blocks:  # pyright: ignore
        h = h + F.conv2d(normalized(h, norm), conv.weight[0], conv.bias[0], padding=1)
    torch.testing.assert_close(model.encoder(x)[0], h)


@pytest.mark.parametrize("norm_layer", ["none", "batch", "group"])
@pytest.mark.parametrize("shape", [(3, 16, 16), (1, 12, 12), (3, 9, 15)])
def test_residual_runs_are_the_same_beside_others_bit_for_bit(shape, norm_layer):
    net = ("model=residual", "model.widths=[4,8]", "model.latent=3", "model.depth=3")
    config = make_config(*net, f"model.norm_layer={norm_layer}").model
    own_network.verify_runs(lambda generators: build(config, shape, generators), shape, 3)


def test_residual_of_nothing_is_refused():
    with pytest.raises(UserError, match=r"model\.depth=1 has none; set model\.depth=2"):
        make_config("model.residual=true")


def test_a_plain_network_is_the_run_that_it_was():
    assert "residual" not in make_config("model.depth=2").decisive["model"]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("activation", ["tanh", "silu"])
@pytest.mark.parametrize(("shape", "batch"), [((1, 28, 28), 20), ((3, 5, 7), 3)])
def test_an_mlp_is_torchs_of_each_run_with_gradients(shape, batch, activation, threads):
    """And beside others to the last bit what it is alone."""
    widths, latent, pixels = (24, 20), 5, math.prod(shape)
    config = make_config(
        "model=mlp",
        "model.widths=[24,20]",
        "model.latent=5",
        f"model.activation={activation}",
    ).model

    function = {"tanh": nn.Tanh, "silu": nn.SiLU}[activation]
    encoder = lambda: nn.Sequential(  # noqa: E731
        *(nn.Flatten(), nn.Linear(pixels, 24), function(), nn.Linear(24, 20), function()),
        nn.Linear(20, 2 * latent),
    )
    decoder = lambda: nn.Sequential(  # noqa: E731
        *(nn.Linear(latent, 20), function(), nn.Linear(20, 24), function()),
        *(nn.Linear(24, pixels), nn.Unflatten(1, shape)),
    )
    with limited_threads(threads):
        for one, x, noise, own in alone_as_together(config, shape, batch):
            single = nn.ModuleList([encoder(), decoder()])
            for p, q in zip(single.parameters(), one.parameters(), strict=True):
                p.data = q.data[0]
            mu, logvar = single[0](x[0]).chunk(2, 1)
            a = single[1](mu + (logvar / 2).exp() * noise[0])
            for output, expected in zip(own, (a, mu, logvar), strict=True):
                torch.testing.assert_close(output[0], expected)
            sum(output.square().sum() for output in (a, mu, logvar)).backward()
            for p, q in zip(single.parameters(), one.parameters(), strict=True):
                torch.testing.assert_close(q.grad[0], p.grad, rtol=1e-4, atol=1e-3)
            in_encoder = sum(p.numel() for p in single[0].parameters())
            assert in_encoder == sum(p.numel() for p in one.encoder_parameters())
    count = sum(p.numel() for p in single.parameters())
    outputs_of = 2 * sum(widths) + 2 * latent + pixels
    assert size(config, shape) == (count, outputs_of)


def test_the_mlp_unless_set_is_that_of_burda_et_al():
    config = make_config("model=mlp").model
    network = build(config, (1, 28, 28), [Generator()])
    weights = [tuple(p.shape[1:]) for p in network.parameters() if p.ndim == 3]
    encoder = [(200, 784), (200, 200), (100, 200)]
    assert weights == [*encoder, (200, 50), (200, 200), (784, 200)]
