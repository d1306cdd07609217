import pytest
import torch
from helpers import make_images
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from vae_sweep.vae.heads import EPS, OURS, Heads, named
from vae_sweep.vae.normalize import fit, histograms

COUNTS = histograms(make_images(20))
NORMS = ("unit", "minus1_1", "zscore", "zscore_global", "raw255")
ZSCORE = fit("zscore", COUNTS)


def heads_of(*names: str, norm: str = "zscore") -> Heads:
    target = fit(norm, COUNTS)
    runs = len(names)
    return Heads([named(name) for name in names], [target] * runs, [ZSCORE] * runs).double()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("head", OURS)
def test_derivative_is_autograds(head: str, norm: str):
    heads = heads_of(head, norm=norm).eval()
    a = torch.randn(1, 4, 3, 5, 5, dtype=torch.float64, requires_grad=True)
    [expected] = torch.autograd.grad(heads(a).sum(), a)
    torch.testing.assert_close(heads.derivative(a), expected)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("head", ["tanh_rescaled", "sigmoid_rescaled"])
def test_rescaled_heads_cover_exactly_the_image_of_zero_one(head, norm):
    target = fit(norm, COUNTS)
    low, high = named(head).range(target)
    torch.testing.assert_close(low, target.forward(torch.zeros(3, 1, 1).double())[:, 0, 0])
    torch.testing.assert_close(high, target.forward(torch.ones(3, 1, 1).double())[:, 0, 0])
    extremes = torch.tensor([-50.0, 50.0]).double().view(1, 2, 1, 1, 1)
    out = heads_of(head, norm=norm)(extremes.expand(1, 2, 3, 1, 1))
    torch.testing.assert_close(out[0, 0, :, 0, 0], low)
    torch.testing.assert_close(out[0, 1, :, 0, 0], high)


@pytest.mark.parametrize("norm", NORMS)
def test_tanh_rescaled_is_minus1_1_with_tanh_in_pixels(norm):
    """Its pixels do not depend on the target: u_hat = (tanh(a) + 1) / 2."""
    target = fit(norm, COUNTS)
    a = torch.randn(1, 2, 3, 4, 4, dtype=torch.float64)
    u_hat = target.inverse(heads_of("tanh_rescaled", norm=norm)(a))
    torch.testing.assert_close(u_hat, (torch.tanh(a) + 1) / 2)


@given(st.floats(-30, 30), st.sampled_from(sorted(set(OURS) - {"tanh_standardized"})))
def test_outputs_stay_inside_the_closure_of_the_range(a: float, head):
    low, high = named(head).range(fit("zscore", COUNTS))
    out = heads_of(head)(torch.full((1, 1, 3, 1, 1), a, dtype=torch.float64))
    assert (out[0, 0, :, 0, 0] >= low - 1e-12).all()
    assert (out[0, 0, :, 0, 0] <= high + 1e-12).all()


def test_plain_ranges():
    target = fit("zscore", COUNTS)
    for head, ends in {"tanh": (-1, 1), "sigmoid": (0, 1), "hardtanh": (-1, 1)}.items():
        low, high = named(head).range(target)
        assert low.tolist() == [ends[0]] * 3
        assert high.tolist() == [ends[1]] * 3
    low, high = named("linear").range(target)
    assert low.isneginf().all()
    assert high.isposinf().all()


def batch_norm(a: Tensor, head: Heads | None = None) -> Tensor:
    """torch's batch normalization of tanh(a) [B, C, H, W], as pixels of z-scored data."""
    mean, var = (head.mean[0], head.var[0]) if head else (None, None)
    y = F.batch_norm(torch.tanh(a), mean, var, training=head is None, eps=EPS)
    return ZSCORE.inverse(y)


@pytest.mark.parametrize("norm", NORMS)
def test_tanh_standardized_is_batch_norm_in_training_with_its_gradient(norm):
    heads, target = heads_of("tanh_standardized", norm=norm).train(), fit(norm, COUNTS)
    weight = torch.randn(6, 3, 4, 5, dtype=torch.float64)
    for step in range(3):  # the running statistics never have a say
        a = (step + torch.randn(6, 3, 4, 5, dtype=torch.float64)).requires_grad_()
        u_hat = target.inverse(heads(a[None])[0])
        torch.testing.assert_close(u_hat, batch_norm(a))
        [found] = torch.autograd.grad((weight * u_hat).sum(), a)
        [expected] = torch.autograd.grad((weight * batch_norm(a)).sum(), a)
        torch.testing.assert_close(found, expected)


def test_tanh_standardized_evaluates_by_running_statistics_as_torch_keeps_them():
    """The first batch sets them; afterwards they are BatchNorm2d's."""
    heads = heads_of("tanh_standardized").train()
    torchs = torch.nn.BatchNorm2d(3, affine=False).double()
    for step in range(4):
        a = step + torch.randn(6, 3, 4, 5, dtype=torch.float64)
        heads(a[None])
        y = torch.tanh(a)
        if step == 0:
            assert torchs.running_mean is not None
            assert torchs.running_var is not None
            torchs.running_mean.copy_(y.mean((0, 2, 3)))
            torchs.running_var.copy_(y.var((0, 2, 3), correction=1))
        else:
            torchs(y)
        torch.testing.assert_close(heads.mean[0], torchs.running_mean)
        torch.testing.assert_close(heads.var[0], torchs.running_var)
    heads.eval()
    kept = {name: value.clone() for name, value in heads.state_dict().items()}
    a = 2 + torch.randn(1, 3, 4, 5, dtype=torch.float64)
    u_hat = fit("zscore", COUNTS).inverse(heads(a[None])[0])
    torch.testing.assert_close(u_hat, batch_norm(a, heads))
    assert all(torch.equal(heads.state_dict()[name], value) for name, value in kept.items())


def test_tanh_standardized_has_the_derivative_of_the_statistics_that_it_uses():
    """With them held, in training those of the batch."""
    heads = heads_of("tanh_standardized").train()
    a = torch.randn(1, 6, 3, 4, 5, dtype=torch.float64)
    y = torch.tanh(a)
    std = (y.var((1, 3, 4), correction=0, keepdim=True) + EPS).sqrt()
    torch.testing.assert_close(heads.derivative(a), (1 - y**2) / std)


def test_tanh_standardized_speaks_zscore_pixels_under_any_target():
    a = torch.randn(1, 8, 3, 4, 4, dtype=torch.float64)
    pixels = [
        fit(norm, COUNTS).inverse(heads_of("tanh_standardized", norm=norm)(a))
        for norm in NORMS
    ]
    for other in pixels[1:]:
        torch.testing.assert_close(other, pixels[0])


def test_runs_have_their_own_heads_and_statistics():
    a = torch.randn(3, 8, 3, 4, 4, dtype=torch.float64)
    names = ("tanh_standardized", "linear", "tanh_standardized")
    together = heads_of(*names)(a)
    for r, name in enumerate(names):
        torch.testing.assert_close(heads_of(name)(a[r : r + 1])[0], together[r])


def test_affine_needs_no_zscore_where_it_is_not_used():
    gain, bias = named("tanh").affine(fit("unit", COUNTS), None)
    assert gain.tolist() == [1, 1, 1]
    assert bias.tolist() == [0, 0, 0]


@pytest.mark.parametrize("training", [True, False])
def test_neighbors_of_one_head_in_one_go_are_as_each_alone(training, monkeypatch):
    """CUDA's way, on CPU."""
    names = ["tanh", "tanh", "tanh_standardized", "tanh_standardized", "linear", "tanh"]
    target = fit("minus1_1", COUNTS)
    zscore = fit("zscore", COUNTS)
    chosen = list(map(named, names))
    pair = [Heads(chosen, [target] * 6, [zscore] * 6).double() for _ in range(2)]
    for heads in pair:
        heads.train(training)
    monkeypatch.setattr(pair[1], "_parts", lambda a: pair[1].neighbors())
    assert [part for _, part in pair[1].neighbors()] == [
        *(slice(0, 2), slice(2, 4), slice(4, 5), slice(5, 6)),
    ]
    for _ in range(3):
        a = torch.randn(6, 5, 3, 4, 4, dtype=torch.float64)
        alone, together = pair[0](a), pair[1](a)
        torch.testing.assert_close(together, alone)
        torch.testing.assert_close(pair[1].derivative(a), pair[0].derivative(a))
    for name, value in pair[0].state_dict().items():
        torch.testing.assert_close(pair[1].state_dict()[name], value)
