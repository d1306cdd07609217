"""Step time of one run (R = 1) beside a bare PyTorch loop with the same network.

    python -m benchmarks.step

Both hold the images in memory as uint8 and use fused Adam; they take turns, block by
block, so that whatever else the machine does hits both. Prints medians and the median of
the pairwise ratios. The bare loop runs in PyTorch's default layout and channels-last.
"""

import platform
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from benchmarks.bare import bare_step
from benchmarks.configs import WIDE, configs
from benchmarks.turns import in_turns
from vae_sweep.config import ConvConfig
from vae_sweep.training.device import keep_freed_memory
from vae_sweep.training.step import Trainer
from vae_sweep.vae.normalize import histograms
from vae_sweep.vae.point import point

BLOCKS, STEPS = 30, 10


def our_step(images: Tensor) -> Callable[[], object]:
    [config] = configs(1, *WIDE, "train.device=cpu", "train.steps=100000")
    constants = point(config, histograms(images), 32 * 32)
    return Trainer([config], [constants], images, "cpu").update


def seconds(step: Callable[[], object]) -> float:
    start = time.perf_counter()
    for _ in range(STEPS):
        step()
    return (time.perf_counter() - start) / STEPS


def main() -> None:
    keep_freed_memory()
    images = torch.randint(0, 256, (10_000, 3, 32, 32), dtype=torch.uint8)
    model = configs(1, *WIDE)[0].model
    assert isinstance(model, ConvConfig)
    steps = {
        "bare loop": bare_step(images, model),
        "bare loop, channels-last": bare_step(images, model, layout=torch.channels_last),
        "vae-sweep, R = 1": our_step(images),
    }
    times = in_turns({name: partial(seconds, s) for name, s in steps.items()}, BLOCKS)
    ours = times["vae-sweep, R = 1"]
    print(
        f"n = {BLOCKS} blocks of {STEPS} steps, batch 128, fp32, CPU {platform.machine()}, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}"
    )
    for name, values in times.items():
        ratio = statistics.median(o / v for o, v in zip(ours, values, strict=True))
        median = statistics.median(values) * 1e3
        print(f"{name:28s} {median:7.1f} ms   vae-sweep / this: {ratio:.3f}")


if __name__ == "__main__":
    main()
