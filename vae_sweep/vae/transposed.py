"""Transposed convolutions on CPU, around what oneDNN does slowly.

Its forward into few channels, in which a decoder ends, runs at a tenth of the usual speed,
and of its backward the gradient of the bias takes up to a third, where a sum takes a
hundredth. `python -m benchmarks.transposed` times both ways on this machine: this file can
go once oneDNN's is not slower.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

NARROW = 8  # output channels, fewer than a vector has

Size = tuple[int, int]


def convolved(
    x: Tensor, weight: Tensor, bias: Tensor, stride: Size, padding: Size, added: Size
) -> Tensor:
    """As torch.nn.functional.conv_transpose2d, whose output_padding is `added`."""
    if not doubles(weight, stride, padding, added):
        y = F.conv_transpose2d(x, weight, None, stride, padding, added)
        return y + bias.to(y.dtype)[:, None, None]
    given = x, weight, bias
    if torch.is_autocast_enabled("cpu"):  # which does not reach into a function
        low = torch.get_autocast_dtype("cpu")
        given = x.to(low), weight.to(low), bias.to(low)
    y = _Doubling.apply(*given)
    assert isinstance(y, Tensor)
    return y


def doubles(weight: Tensor, stride: Size, padding: Size, added: Size) -> bool:
    """Whether it is one into few channels that doubles height and width."""
    kernel = tuple(weight.shape[2:])
    usual = (kernel, stride, padding, added) == ((4, 4), (2, 2), (1, 1), (0, 0))
    return usual and weight.shape[1] < NARROW


class _Doubling(torch.autograd.Function):
    """Forward [B, in, H, W], [in, out, 4, 4], [out] -> [B, out, 2H, 2W], channels-last: an
    ordinary convolution into the four pixels of each output block (Shi et al. 2016); zeros
    of its kernels included. The backward is oneDNN's own, without the bias."""

    generate_vmap_rule = True  # a user's network may be differentiated by torch.func

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        taps = weight.flip(2, 3).transpose(0, 1)
        kernels = torch.stack(
            [
                F.pad(taps[:, :, i::2, j::2], (j, 1 - j, i, 1 - i))
                for i in (0, 1)
                for j in (0, 1)
            ]
        )  # [4, out, in, 3, 3]
        kernels = kernels.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        blocks = F.conv2d(x, kernels, bias.repeat(4), padding=1).permute(0, 2, 3, 1)
        pixels = blocks.unflatten(3, (2, 2, -1)).transpose(2, 3)  # [B, H, 2, W, 2, out]
        batch, height, _, width, _, outputs = pixels.shape
        size = batch, outputs, 2 * height, 2 * width
        strides = size[1] * size[2] * size[3], 1, size[1] * size[3], size[1]
        y = pixels.new_empty_strided(size, strides)  # no view: jvp's is none
        rows = y.permute(0, 2, 3, 1).unflatten(1, (height, 2)).unflatten(3, (width, 2))
        rows.copy_(pixels)
        return y

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])
        ctx.save_for_forward(*inputs[:2])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        [of_y], (x, weight) = gradients, ctx.saved_tensors
        with_x, with_weight, with_bias = ctx.needs_input_grad
        of_x, of_weight, _ = torch.ops.aten.convolution_backward(
            *(of_y, x, weight, None, (2, 2), (1, 1), (1, 1), True, (0, 0), 1),
            (with_x, with_weight, False),
        )
        return of_x, of_weight, of_y.sum((0, 2, 3)) if with_bias else None

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> Tensor:
        (x, weight), (of_x, of_weight, of_bias) = ctx.saved_tensors, tangents
        y = F.conv_transpose2d(of_x, weight, of_bias, 2, 1)
        return y + F.conv_transpose2d(x, of_weight, None, 2, 1)
