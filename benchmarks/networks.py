"""What a step of our networks costs beside that of model=small.

    python -m benchmarks.networks

One run on one core; the networks take turns, block by block. Prints medians of CPU time,
and of the pairwise ratios.
"""

import os
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from benchmarks.configs import configs
from benchmarks.turns import in_turns
from vae_sweep.training.device import keep_freed_memory
from vae_sweep.training.step import Trainer
from vae_sweep.vae.normalize import histograms
from vae_sweep.vae.point import point

BLOCKS, STEPS = 9, 8
NETWORKS = (
    ("model=small", "model.norm_layer=none"),
    ("model=small",),
    ("model=residual",),
    ("model=residual", "model.depth=3"),
)


def step_of(images: Tensor, *overrides: str) -> Callable[[], None]:
    [config] = configs(1, "train.device=cpu", "train.steps=100000", *overrides)
    constants = point(config, histograms(images), 32 * 32)
    return Trainer([config], [constants], images, "cpu").update


def seconds(step: Callable[[], None]) -> float:
    """CPU seconds of a step."""
    start = time.process_time()
    for _ in range(STEPS):
        step()
    return (time.process_time() - start) / STEPS


def main() -> None:
    torch.set_num_threads(1)
    keep_freed_memory()
    images = torch.randint(0, 256, (2_000, 3, 32, 32), dtype=torch.uint8)
    print(
        f"n = {BLOCKS} blocks of {STEPS} steps, fp32, 1 of {os.cpu_count()} CPU cores "
        f"({platform.machine()}), torch {torch.__version__}"
    )
    for batch in (32, 128):
        size = f"train.batch_size={batch}"
        steps = {" ".join(n): step_of(images, *n, size) for n in NETWORKS}
        times = in_turns({name: partial(seconds, s) for name, s in steps.items()}, BLOCKS)
        small = times[" ".join(NETWORKS[0])]
        for name, values in times.items():
            ratio = statistics.median(t / s for t, s in zip(values, small, strict=True))
            median = statistics.median(values) * 1e3
            print(f"batch {batch:3d}  {name:35s} {median:6.1f} ms   {ratio:.2f}")


if __name__ == "__main__":
    main()
