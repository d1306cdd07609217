"""What evaluations, pictures and checkpoints cost beside training, at the default cadence.

    python -m benchmarks.evaluation [overrides of vae_sweep.run]

Trains one run on one core and times what the recorder does between steps.
"""

import contextlib
import io
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.configs import configs
from vae_sweep import grid
from vae_sweep.training.loop import Recorder

REPEATS = 3


def timed(method: Callable[..., Any], spent: list[float]) -> Callable[..., Any]:
    """`method`, which adds its seconds to `spent`."""

    def call(*args: Any, **options: Any) -> Any:
        start = time.perf_counter()
        result = method(*args, **options)
        spent.append(time.perf_counter() - start)
        return result

    return call


def main() -> None:
    torch.set_num_threads(1)
    evaluating: list[float] = []
    whole: list[float] = []
    Recorder._evaluate = timed(Recorder._evaluate, evaluating)
    Recorder.train = timed(Recorder.train, whole)
    shares = []
    for seed in range(REPEATS):
        evaluating.clear()
        with (
            tempfile.TemporaryDirectory() as runs,
            contextlib.redirect_stdout(io.StringIO()),
        ):
            fixed = ("train.workers=1", "log.wandb.mode=disabled", f"runs={runs}")
            grid.run([configs(REPEATS, *fixed, *sys.argv[1:])[seed]])
        shares.append(sum(evaluating) / (whole[-1] - sum(evaluating)))
    print(
        f"1 of {os.cpu_count()} CPU cores ({platform.machine()}), torch "
        f"{torch.__version__}, n = {REPEATS}: evaluation takes "
        f"{statistics.median(shares):.1%} of the time of training ({whole[-1]:.0f} s)"
    )


if __name__ == "__main__":
    main()
