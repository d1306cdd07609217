"""A way around oneDNN: transposed convolutions into few channels, on CPU.

There oneDNN runs the forward of a transposed convolution at a tenth of its usual speed,
and a decoder ends in one. `python -m benchmarks.transposed`
times both ways on this machine: this file can go once oneDNN's is not slower.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

NARROW = 8  # output channels, fewer than a vector has


def pays(x: Tensor, weight: Tensor) -> bool:
    """Whether `Doubling` beats oneDNN for x [B, in, H, W], weight [in, out, 4, 4]."""
    few = weight.shape[1] < NARROW
    return few and not x.is_cuda and not torch.is_autocast_enabled("cpu")


class Doubling(torch.autograd.Function):
    """Transposed convolution of kernel 4, stride 2 and padding 1, as an ordinary one into
    the four pixels of each output block (Shi et al. 2016); zeros of its kernels included.
    The backward is oneDNN's own, which is best left as it is.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """[B, in, H, W], [in, out, 4, 4], [out] -> [B, out, 2H, 2W], channels-last."""
        ctx.save_for_backward(x, weight)
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
        return pixels.flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        """Gradients of x, weight and bias, by oneDNN."""
        x, weight = ctx.saved_tensors
        two, one, none = (2, 2), (1, 1), (0, 0)
        return torch.ops.aten.convolution_backward(
            *(gradients[0], x, weight, (weight.shape[1],), two, one, one, True, none, 1),
            ctx.needs_input_grad,
        )
