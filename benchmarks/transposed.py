"""A decoder's transposed convolutions, by oneDNN and by vae_sweep.vae.transposed, which is
to be removed once oneDNN is not slower.

    python -m benchmarks.transposed

Forward alone, and forward with backward, of channels-last images, in fp32 and bf16; both
ways take turns. Prints medians in milliseconds and the median of the pairwise ratios.
"""

import platform
import statistics
import time
from functools import partial
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.turns import in_turns
from vae_sweep.training.device import keep_freed_memory
from vae_sweep.vae.transposed import convolved

ROUNDS, CALLS = 30, 5
LAYERS = (  # batch, channels of inputs and of outputs, H and W of inputs
    *((128, 32, 3, 16), (64, 16, 3, 16), (128, 32, 3, 32)),
    *((128, 64, 32, 8), (128, 80, 64, 4), (32, 32, 16, 8)),
)
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
SIZES = (2, 2), (1, 1), (0, 0)


def seconds(way, tensors: list[Tensor], upstream: Tensor | None) -> float:
    start = time.perf_counter()
    for _ in range(CALLS):
        y = way(*tensors, *SIZES)
        if upstream is not None:
            torch.autograd.grad(y, tensors, upstream)
    return (time.perf_counter() - start) / CALLS


def main() -> None:
    keep_freed_memory()
    print(
        f"n = {ROUNDS} rounds of {CALLS} calls, CPU {platform.machine()}, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}"
    )
    print(
        "type  batch, channels, pixels      what                ours  oneDNN  ours / oneDNN"
    )
    for (name, dtype), (batch, inputs, outputs, side) in product(TYPES.items(), LAYERS):
        last = {"dtype": dtype, "memory_format": torch.channels_last}
        x = torch.randn(batch, inputs, side, side).to(**last)
        weight = torch.randn(inputs, outputs, 4, 4).to(**last)
        bias = torch.zeros(outputs, dtype=dtype)
        tensors = [t.requires_grad_() for t in (x, weight, bias)]
        upstream = torch.randn(batch, outputs, 2 * side, 2 * side).to(**last)
        for what, given in {"forward": None, "forward, backward": upstream}.items():
            ways = {"ours": convolved, "theirs": F.conv_transpose2d}
            times = in_turns(
                {k: partial(seconds, way, tensors, given) for k, way in ways.items()},
                ROUNDS,
            )
            pairs = zip(times["ours"], times["theirs"], strict=True)
            ratio = statistics.median(a / b for a, b in pairs)
            mine, other = (statistics.median(v) * 1e3 for v in times.values())
            layer = f"{batch:4d}, {inputs:2d} -> {outputs:2d}, {side:2d}x{side}"
            print(f"{name}  {layer:27s} {what:17s} {mine:7.2f} {other:7.2f} {ratio:14.2f}")


if __name__ == "__main__":
    main()
