"""Layers whose parameters carry a leading run axis R.

On CUDA so do activations, and what a convolution is computed by is found by timing: there
are several ways to the same numbers. On CPU activations are a list of R tensors, one for
each run, and a layer is a kernel call for each, channels-last: grouped kernels are slower
there, and a run's bits then cannot depend on which runs stand beside it.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from vae_sweep.vae import transposed as on_cpu

Way = Literal["loop", "grouped", "products"]
WAYS: tuple[Way, ...] = get_args(Way)
Runs = list[Tensor] | Tensor  # activations: on CPU R tensors, on CUDA one [R, ...]
ALIGNED = 16  # numbers, of four bytes, in a cache line
DTYPES = {  # of weights and what is accumulated
    "fp32": torch.float32,
    "tf32": torch.float32,
    "bf16": torch.float32,
    "fp64": torch.float64,
}


def _uniform(shape: tuple[int, ...], bound: float, generators: list[Generator]):
    """U(-bound, bound) float32 [R, *shape]; runs that share a generator share the draw."""
    drawn: dict[int, Tensor] = {}
    for g in generators:
        if id(g) not in drawn:
            drawn[id(g)] = torch.empty(shape).uniform_(-bound, bound, generator=g)
    return nn.Parameter(torch.stack([drawn[id(g)] for g in generators]))


def apart(x: Tensor) -> Sequence[Tensor]:
    """[R, ...] -> R tensors [...]; the only one of one run is a view, without a copy."""
    return [x.squeeze(0)] if len(x) == 1 else x.unbind(0)


def together(ys: Sequence[Tensor]) -> Tensor:
    """R tensors [...] -> [R, ...]; a gradient goes back in the strides that it comes in."""
    return ys[0].unsqueeze(0) if len(ys) == 1 else torch.stack(list(ys))


def separate(x: Tensor) -> Runs:
    """What layers are given of x [R, ...].

    On CPU each tensor begins on a cache line, as that of one run alone does: matrix
    products round by where in memory their factors begin.
    """
    if x.is_cuda:
        return x
    rows = apart(x)
    return list(rows) if x.stride(0) % ALIGNED == 0 else [row.clone() for row in rows]


def joined(ys: Runs) -> Tensor:
    """[R, ...] of what layers give; gradients begin as `separate` has it."""
    if isinstance(ys, Tensor):
        return ys
    size = ys[0].numel()
    extra = -size % ALIGNED
    if len(ys) == 1 or not extra:
        return together(ys)
    rows = torch.stack([F.pad(y.flatten(), (0, extra)) for y in ys])
    return rows[:, :size].unflatten(1, ys[0].shape)


class _Laid(torch.autograd.Function):
    """Lays activations [B, C, H, W] of one layout out in another, and gradients back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, after: torch.memory_format, before: Any) -> Tensor:
        ctx.before = before
        return x.contiguous(memory_format=after)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return gradients[0].contiguous(memory_format=ctx.before), None, None


def flattened(x: Runs) -> Runs:
    """[..., C, H, W] -> [..., C*H*W]."""
    if isinstance(x, Tensor):
        return x.flatten(-3)
    layouts = torch.contiguous_format, torch.channels_last
    return [_Laid.apply(y, *layouts).flatten(1) for y in x]


def unflattened(x: Runs, shape: tuple[int, int, int]) -> Runs:
    """[..., C*H*W] -> [..., C, H, W]."""
    if isinstance(x, Tensor):
        return x.unflatten(-1, shape)
    layouts = torch.channels_last, torch.contiguous_format
    return [_Laid.apply(y.unflatten(1, shape), *layouts) for y in x]


def _unstack(x: Tensor) -> list[Tensor]:
    """[R, B, C, H, W] -> R tensors [B, C, H, W]; gradients stay channels-last."""
    return [y.permute(0, 3, 1, 2) for y in apart(x.permute(0, 1, 3, 4, 2))]


def stack(ys: Sequence[Tensor]) -> Tensor:
    """R tensors [B, C, H, W] -> [R, B, C, H, W], channels-last in memory."""
    rows = [y.permute(0, 2, 3, 1) for y in ys]
    # of one channel a kernel may return another layout, which one run alone would keep
    rows = [rows[0].contiguous()] if len(rows) == 1 else rows
    return together(rows).permute(0, 1, 4, 2, 3)


def laid_out(ys: Sequence[Tensor]) -> Tensor:
    """R tensors [B, C, H, W] -> [R, B, C, H, W], in memory as one run alone would be:
    convolutions and sums round by that."""
    is_last = ys[0].is_contiguous(memory_format=torch.channels_last)
    return stack(ys) if is_last else together(ys)


def _merge(x: Tensor) -> Tensor:
    """[R, B, C, H, W] -> [B, R*C, H, W]: a view where `x` came out of _split."""
    runs, batch, channels, height, width = x.shape
    return x.transpose(0, 1).reshape(batch, runs * channels, height, width)


def _split(y: Tensor, runs: int) -> Tensor:
    """[B, R*C, H, W] -> [R, B, C, H, W], a view."""
    return y.unflatten(1, (runs, -1)).transpose(0, 1)


def of_runs(function: Callable[..., Tensor], *given: Tensor) -> Tensor:
    """`function` of small tensors [R, ...], on CPU as of each run alone, bit for bit."""
    if given[0].is_cuda or len(given[0]) == 1:
        return function(*given)
    return joined([function(*rows) for rows in zip(*map(apart, given), strict=True)])


def reparameterized(mu: Tensor, logvar: Tensor, noise: Tensor) -> Tensor:
    """z = mu + exp(logvar / 2) * noise, each [..., D]."""
    return mu + torch.exp(0.5 * logvar) * noise


def sample(mu: Runs, logvar: Runs, noise: Tensor) -> Runs:
    """`reparameterized` of all runs; noise is [R, B, D]."""
    if isinstance(mu, Tensor) and isinstance(logvar, Tensor):
        return reparameterized(mu, logvar, noise)
    return list(map(reparameterized, mu, logvar, apart(noise)))


class Conv(nn.Module):
    """Conv2d or ConvTranspose2d per run: [R, B, in, H, W] -> [R, B, out, H', W'].

    Initial weights are PyTorch's own: U(-1/sqrt(fan_in), 1/sqrt(fan_in)).
    `output_padding` (transposed only) adds rows and columns at the end.
    """

    def __init__(
        self,
        generators: list[Generator],
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int = 1,
        transposed: bool = False,
        output_padding: tuple[int, int] = (0, 0),
    ):
        super().__init__()
        self.transposed, self.stride, self.padding = (
            transposed,
            stride,
            (kernel - 1) // 2,
        )
        self.kernel, self.output_padding = kernel, output_padding
        self.way: Way | None = None  # None: the device's usual one
        shape = (inputs, outputs) if transposed else (outputs, inputs)
        # PyTorch takes fan_in from dimension 1 of the weight, transposed or not.
        bound = 1 / math.sqrt(shape[1] * kernel * kernel)
        self.weight = _uniform((*shape, kernel, kernel), bound, generators)
        self.bias = _uniform((outputs,), bound, generators)

    def forward(self, x: Runs) -> Runs:
        """[R, B, in, H, W] -> [R, B, out, H', W'], or a list over the runs of both."""
        if isinstance(x, Tensor):
            return getattr(self, self.chosen(x.device))(x)
        if self.way in (None, "loop"):
            return self.of_each(x)
        return _unstack(getattr(self, self.way)(stack(x)))

    def chosen(self, device: torch.device) -> Way:
        """Which of WAYS it goes on `device`."""
        return self.way or ("grouped" if device.type == "cuda" else "loop")

    def of_each(self, x: Sequence[Tensor]) -> list[Tensor]:
        """R tensors [B, in, H, W] -> R tensors [B, out, H', W'], channels-last."""
        layout = torch.channels_last
        weights = [w.contiguous(memory_format=layout) for w in apart(self.weight)]
        return list(map(self._convolve, x, weights, apart(self.bias)))

    def loop(self, x: Tensor) -> Tensor:
        """A call for each run, channels-last."""
        return stack(self.of_each(_unstack(x)))

    def grouped(self, x: Tensor) -> Tensor:
        """All runs in one call with R groups."""
        runs = len(self.weight)
        weight, bias = self.weight.flatten(0, 1), self.bias.flatten()
        return _split(self._convolve(_merge(x), weight, bias, runs), runs)

    def products(self, x: Tensor) -> Tensor:
        """One batched matrix product over the runs, of patches or into patches."""
        runs, batch, inputs, height, width = x.shape
        rows = x.permute(0, 1, 3, 4, 2)  # channels last
        if self.transposed:
            matrix = self.weight.flatten(2)  # [R, in, out * k * k]
            patches = rows.reshape(runs, -1, inputs) @ matrix
            patches = patches.view(runs * batch, height * width, -1).mT
            least = self.kernel - 2 * self.padding
            tall, wide = (
                (n - 1) * self.stride + least + extra
                for n, extra in zip((height, width), self.output_padding, strict=True)
            )
            y = F.fold(patches, (tall, wide), self.kernel, 1, self.padding, self.stride)
            return y.unflatten(0, (runs, batch)) + self.bias[:, None, :, None, None]
        rows = F.pad(rows, (0, 0, *(self.padding,) * 4))
        window = (self.kernel, self.stride)
        patches = rows.unfold(2, *window).unfold(3, *window)  # [R, B, H', W', in, k, k]
        tall, wide = patches.shape[2:4]
        matrix = self.weight.flatten(2).mT  # [R, in * k * k, out]
        patches = patches.reshape(runs, -1, matrix.shape[1])
        y = torch.baddbmm(self.bias[:, None], patches, matrix)
        return y.view(runs, batch, tall, wide, -1).permute(0, 1, 4, 2, 3)

    def _convolve(self, x: Tensor, weight: Tensor, bias: Tensor, groups: int = 1):
        if not self.transposed:
            return F.conv2d(x, weight, bias, self.stride, self.padding, 1, groups)
        stride, padding = (self.stride, self.stride), (self.padding, self.padding)
        sizes = stride, padding, self.output_padding
        if groups == 1 and not x.is_cuda:
            return on_cpu.convolved(x, weight, bias, *sizes)
        return F.conv_transpose2d(x, weight, bias, *sizes, groups)


def start_layer(
    weight: Tensor, bias: Tensor, axis: int, gain: Tensor, center: Tensor
) -> None:
    """Makes W h + b of a layer gain * W h + center, per channel [R, C].

    `axis` of `weight` [R, ...] has the outputs of `bias` [R, K]: channels, or all pixels of
    one channel after the other.
    """
    each = bias.shape[1] // gain.shape[1]
    shape = [len(weight), *(1 for _ in weight.shape[1:])]
    shape[axis] = bias.shape[1]
    with torch.no_grad():
        weight.mul_(gain.repeat_interleave(each, 1).view(shape).to(weight))
        bias.copy_(center.repeat_interleave(each, 1))


class Linear(nn.Module):
    """Affine map per run: [R, B, in] -> [R, B, out]; initialized as torch.nn.Linear."""

    def __init__(self, generators: list[Generator], inputs: int, outputs: int):
        super().__init__()
        bound = 1 / math.sqrt(inputs)
        self.weight = _uniform((outputs, inputs), bound, generators)
        self.bias = _uniform((outputs,), bound, generators)

    def forward(self, x: Runs) -> Runs:
        """[R, B, in] -> [R, B, out], or a list over the runs of both."""
        if isinstance(x, Tensor):
            return torch.baddbmm(self.bias[:, None], x, self.weight.mT)
        return list(map(F.linear, x, apart(self.weight), apart(self.bias)))


class Elementwise(nn.Module):
    """A function of activations without parameters."""

    def __init__(self, function: nn.Module):
        super().__init__()
        self.function = function

    def forward(self, x: Runs) -> Runs:
        """The function of each element."""
        return self.function(x) if isinstance(x, Tensor) else list(map(self.function, x))


class Residual(nn.Sequential):
    """x plus what its layers make of x, of the same shape."""

    def forward(self, input: Runs) -> Runs:
        """The input plus what the layers make of it."""
        found = super().forward(input)
        if isinstance(input, Tensor):
            return input + found
        return [x + y for x, y in zip(input, found, strict=True)]


class BatchNorm(nn.Module):
    """BatchNorm2d per run over [R, B, C, H, W], with torch's momentum and eps."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, runs: int, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(runs, channels))
        self.bias = nn.Parameter(torch.zeros(runs, channels))
        self.register_buffer("running_mean", torch.zeros(runs, channels))
        self.register_buffer("running_var", torch.ones(runs, channels))

    def forward(self, x: Runs) -> Runs:
        """[R, B, C, H, W], standardized per run and channel."""
        state = (self.running_mean, self.running_var, self.weight, self.bias)

        def normed(y: Tensor, mean: Tensor, var: Tensor, weight: Tensor, bias: Tensor):
            return F.batch_norm(y, mean, var, weight, bias, self.training)

        if isinstance(x, Tensor):
            return _split(normed(_merge(x), *(s.flatten() for s in state)), len(x))
        return list(map(normed, x, *map(apart, state)))


class GroupNorm(nn.Module):
    """GroupNorm per run over [R, B, C, H, W]: groups of 16 channels, or of all."""

    def __init__(self, runs: int, channels: int):
        super().__init__()
        self.groups = channels // 16 if channels % 16 == 0 else 1
        self.weight = nn.Parameter(torch.ones(runs, channels))
        self.bias = nn.Parameter(torch.zeros(runs, channels))

    def forward(self, x: Runs) -> Runs:
        """[R, B, C, H, W], standardized per run, image and group."""
        if isinstance(x, Tensor):
            weight, bias = self.weight.flatten(), self.bias.flatten()
            y = F.group_norm(_merge(x), len(x) * self.groups, weight, bias)
            return _split(y, len(x))
        given = zip(x, apart(self.weight), apart(self.bias), strict=True)
        return [F.group_norm(y, self.groups, w, b) for y, w, b in given]
