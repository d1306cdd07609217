"""Layers with a run axis against torch.nn layers, one per run."""

import pytest
import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from vae_sweep.vae import transposed
from vae_sweep.vae.layers import WAYS, BatchNorm, Conv, GroupNorm, Linear

RUNS = 3


def generators(*seeds: int) -> list[Generator]:
    return [Generator().manual_seed(seed) for seed in seeds]


def both(layer: nn.Module, x: Tensor) -> Tensor:
    """What a layer makes of x [R, ...], as on CUDA, which is what it makes of R tensors."""
    apart = torch.stack(layer([*x]))
    y = layer(x)
    torch.testing.assert_close(apart, y)
    return y


def x_of(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kernel", [3, 4, 5])
@pytest.mark.parametrize("transposed", [False, True])
def test_conv_is_torchs_per_run_with_gradients(transposed, kernel, way):
    extra = (1, 0) if transposed else (0, 0)
    conv = Conv(generators(0, 1, 2), 4, 6, kernel, 2, transposed, extra).double()
    x = x_of(RUNS, 2, 4, 7, 9)
    conv.way = way
    y = both(conv, x)
    weight = torch.randn_like(y)
    (y * weight).sum().backward()
    for r in range(RUNS):
        arguments = {"stride": 2, "padding": (kernel - 1) // 2, "dtype": torch.float64}
        if transposed:
            single = nn.ConvTranspose2d(4, 6, kernel, output_padding=extra, **arguments)
        else:
            single = nn.Conv2d(4, 6, kernel, **arguments)
        single.weight.data, single.bias.data = conv.weight[r].data, conv.bias[r].data
        alone = x[r].detach().requires_grad_()
        out = single(alone)
        (out * weight[r]).sum().backward()
        torch.testing.assert_close(y[r], out)
        torch.testing.assert_close(x.grad[r], alone.grad)
        torch.testing.assert_close(conv.weight.grad[r], single.weight.grad)
        torch.testing.assert_close(conv.bias.grad[r], single.bias.grad)


def test_linear_is_torchs_per_run():
    linear = Linear(generators(0, 1, 2), 5, 4).double()
    x = x_of(RUNS, 6, 5)
    for r in range(RUNS):
        expected = nn.functional.linear(x[r], linear.weight[r], linear.bias[r])
        torch.testing.assert_close(both(linear, x)[r], expected)


@pytest.mark.parametrize("apart", [True, False])
def test_batch_norm_is_torchs_per_run_in_training_and_evaluation(apart):
    norm = BatchNorm(RUNS, 4).double()
    singles = [nn.BatchNorm2d(4).double() for _ in range(RUNS)]
    for training in (True, True, False):
        norm.train(training)
        x = x_of(RUNS, 6, 4, 3, 5)
        y = norm([*x]) if apart else norm(x)
        for r, single in enumerate(singles):
            single.train(training)
            torch.testing.assert_close(y[r], single(x[r]))
            torch.testing.assert_close(norm.running_var[r], single.running_var)


@pytest.mark.parametrize(("channels", "groups"), [(32, 2), (12, 1)])
def test_group_norm_is_torchs_per_run(channels, groups):
    norm = GroupNorm(RUNS, channels).double()
    norm.weight.data.normal_()
    x = x_of(RUNS, 2, channels, 3, 5)
    for r in range(RUNS):
        single = nn.GroupNorm(groups, channels).double()
        single.weight.data = norm.weight[r].data
        torch.testing.assert_close(both(norm, x)[r], single(x[r]))


def test_equal_seeds_start_equal_and_runs_do_not_see_each_other():
    a, b = generators(1, 2)
    together = Conv([a, b, a], 3, 4, 3)
    assert torch.equal(together.weight[0], together.weight[2])
    assert not torch.equal(together.weight[0], together.weight[1])
    alone = Conv(generators(2), 3, 4, 3)
    assert torch.equal(together.weight[1], alone.weight[0])


def test_initial_weights_have_torchs_distribution():
    conv = Conv(generators(0), 16, 32, 4)
    reference = nn.Conv2d(16, 32, 4)
    bound = 1 / (16 * 16) ** 0.5
    assert conv.weight.abs().max() <= bound
    assert reference.weight.abs().max() <= bound
    assert conv.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.02)


SIZES = [  # of outputs, kernel; stride, padding, output_padding
    (3, 4, ((2, 2), (1, 1), (0, 0))),  # the narrow way
    (9, 4, ((2, 2), (1, 1), (0, 0))),
    (3, 4, ((2, 2), (1, 1), (1, 0))),
    (2, 3, ((2, 2), (1, 1), (0, 1))),
    (3, 5, ((1, 1), (2, 2), (0, 0))),
]


def operands(outputs: int, kernel: int, dtype: torch.dtype) -> list[Tensor]:
    g = torch.Generator().manual_seed(0)
    shapes = (2, 5, 4, 3), (5, outputs, kernel, kernel), (outputs,)
    return [torch.randn(s, generator=g, dtype=dtype).requires_grad_() for s in shapes]


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # torch's own
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("outputs", "kernel", "sizes"), SIZES)
def test_a_transposed_convolution_on_cpu_is_one(outputs, kernel, sizes, bias):
    """Neither forward nor backward are PyTorch's; gradcheck holds these to finite
    differences, backward, forward and batched."""
    given = operands(outputs, kernel, torch.float64)
    given[2].requires_grad_(bias)
    ours = transposed.convolved(*given, *sizes)
    theirs = F.conv_transpose2d(*given, *sizes)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradcheck(
        lambda *given: transposed.convolved(*given, *sizes),
        given,
        check_forward_ad=True,
        check_batched_grad=True,
    )


@pytest.mark.parametrize(("outputs", "kernel", "sizes"), SIZES)
def test_in_bfloat16_it_rounds_as_often(outputs, kernel, sizes):
    given = operands(outputs, kernel, torch.float32)
    found = []
    for convolve in (transposed.convolved, F.conv_transpose2d):
        with torch.autocast("cpu", torch.bfloat16):
            y = convolve(*given, *sizes)
        found.append([y, *torch.autograd.grad(y.float().square().sum(), given)])
    for ours, theirs in zip(*found, strict=True):
        assert ours.dtype == theirs.dtype
        torch.testing.assert_close(ours, theirs, rtol=2e-2, atol=2e-2 * theirs.std().item())


def test_convolutions_on_cpu_go_that_way(monkeypatch):
    went = []

    def convolved(x, weight, *given):
        went.append(weight.shape[1])
        return F.conv_transpose2d(x, weight, *given)

    monkeypatch.setattr(transposed, "convolved", convolved)
    x = [torch.zeros(1, 5, 4, 4)] * 2
    for outputs, is_transposed in ((3, True), (9, True), (7, False)):
        Conv(generators(0, 1), 5, outputs, 4, 2, is_transposed)(x)
    assert went == [3, 3, 9, 9]  # for each run


def test_the_narrow_way_is_for_few_channels():
    usual = (2, 2), (1, 1), (0, 0)
    assert transposed.doubles(torch.empty(5, 3, 4, 4), *usual)
    assert not transposed.doubles(torch.empty(5, 8, 4, 4), *usual)
    assert not transposed.doubles(torch.empty(5, 3, 6, 6), *usual)
    assert not transposed.doubles(torch.empty(5, 3, 4, 4), *usual[:2], (1, 0))
