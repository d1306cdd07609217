"""The decoder's last layer, by oneDNN and by vae_sweep.vae.transposed, which is to be
removed once oneDNN is not slower.

    python -m benchmarks.transposed

Forward alone, and forward with backward, of channels-last images; both ways take turns.
Prints medians in milliseconds and the median of the pairwise ratios.
"""

import platform
import statistics
import time
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.turns import in_turns
from vae_sweep.training.device import keep_freed_memory
from vae_sweep.vae.transposed import Doubling

ROUNDS, CALLS = 30, 5
LAYERS = ((128, 64, 16), (64, 16, 16), (128, 32, 64))  # batch, channels, H and W of inputs


def theirs(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.conv_transpose2d(x, weight, bias, stride=2, padding=1)


def ours(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    y = Doubling.apply(x, weight, bias)
    assert isinstance(y, Tensor)
    return y


def seconds(way, tensors: list[Tensor], backward: bool) -> float:
    start = time.perf_counter()
    for _ in range(CALLS):
        y = way(*tensors)
        if backward:
            torch.autograd.grad(y.sum(), tensors)
    return (time.perf_counter() - start) / CALLS


def main() -> None:
    keep_freed_memory()
    print(
        f"n = {ROUNDS} rounds of {CALLS} calls, 3 output channels, fp32, CPU "
        f"{platform.machine()}, {torch.get_num_threads()} threads, torch "
        f"{torch.__version__}"
    )
    print("batch, channels, pixels    what                ours  oneDNN  ours / oneDNN")
    for batch, channels, side in LAYERS:
        x = torch.randn(batch, channels, side, side).to(memory_format=torch.channels_last)
        weight = torch.randn(channels, 3, 4, 4).to(memory_format=torch.channels_last)
        tensors = [t.requires_grad_() for t in (x, weight, torch.zeros(3))]
        for backward in (False, True):
            ways = {"ours": ours, "theirs": theirs}
            measured = {k: partial(seconds, w, tensors, backward) for k, w in ways.items()}
            times = in_turns(measured, ROUNDS)
            pairs = zip(times["ours"], times["theirs"], strict=True)
            ratio = statistics.median(a / b for a, b in pairs)
            what = "forward, backward" if backward else "forward"
            mine, other = (statistics.median(v) * 1e3 for v in times.values())
            print(
                f"{batch:5d}, {channels:8d}, {side:2d}x{side:<2d}    {what:17s} "
                f"{mine:7.2f} {other:7.2f} {ratio:14.2f}"
            )


if __name__ == "__main__":
    main()
