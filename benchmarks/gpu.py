"""Cohorts on a CUDA device beside separate runs, and beside what the device can do.

    python -m benchmarks.gpu

A model-step is one step of one run. Takes the default net at batch 128 in fp32, TF32 and
bf16: a bare loop (eager, fused Adam), one run captured as a CUDA graph, and cohorts of R
runs captured as one. All take turns. Beside them the bytes and FLOP that a step cannot do
without, per second, as shares of what a plain copy and a large matrix product reach here.
`--sizes 1 8 64` takes these R alone, `--precisions` and `--rounds` less of the rest.
`--device=cpu` runs the same on CPU with few steps, to see that it works.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.bare import bare_step
from benchmarks.configs import WIDE, configs
from vae_sweep.config import ConvConfig, RunConfig
from vae_sweep.training.plan import footprint
from vae_sweep.training.step import Trainer
from vae_sweep.vae.normalize import histograms
from vae_sweep.vae.point import point

PRECISIONS = ("fp32", "tf32", "bf16")
SHAPE = (3, 32, 32)


def configs_of(runs: int, precision: str, device: str) -> list[RunConfig]:
    common = (f"train.device={device}", "train.steps=1000000")
    return configs(runs, *WIDE, *common, f"train.precision={precision}")


def cohort(images: Tensor, runs: int, precision: str, device: str) -> Trainer:
    chosen = configs_of(runs, precision, device)
    counts = histograms(images.cpu())
    points = [point(config, counts, SHAPE[1] * SHAPE[2]) for config in chosen]
    return Trainer(chosen, points, images, device)


class Clock:
    """Seconds per call, by turns."""

    def __init__(self, device: str, steps: int):
        self.cuda, self.steps = device != "cpu", steps

    def seconds(self, call: Callable[[], object]) -> float:
        self._wait()
        start = time.perf_counter()
        for _ in range(self.steps):
            call()
        self._wait()
        return (time.perf_counter() - start) / self.steps

    def warm(self, call: Callable[[], object]) -> float:
        """Seconds per call, once it has run: libraries are loaded then."""
        call()
        return self.seconds(call)

    def _wait(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()

    def turns(self, calls: dict[str, Callable[[], object]], rounds: int):
        """Medians of each over `rounds` rounds, after one that warms up."""
        times: dict[str, list[float]] = {name: [] for name in calls}
        for turn in range(rounds + 1):
            for name, call in calls.items():
                spent = self.seconds(call)
                if turn:
                    times[name].append(spent)
        return {name: statistics.median(values) for name, values in times.items()}


def ceilings(clock: Clock, device: str, size: int) -> tuple[float, dict[str, float]]:
    """(bytes per second of a copy, FLOP per second of a matrix product by precision)."""
    source = torch.randn(size * size * 8, device=device)
    into = torch.empty_like(source)
    rate = 2 * source.nbytes / clock.warm(lambda: into.copy_(source))
    flops = {}
    for precision in PRECISIONS:
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        a = torch.randn(size, size, device=device, dtype=dtype)
        allowed = "tf32" if precision == "tf32" else "ieee"
        torch.backends.cuda.matmul.fp32_precision = allowed
        flops[precision] = 2 * size**3 / clock.warm(lambda a=a: a @ a)
    return rate, flops


def necessary(images: Tensor, precision: str) -> tuple[float, float]:
    """(bytes, FLOP) of a model-step: activations written, read forward and backward;
    weights read twice, gradients and Adam's moments read and written; all products."""
    [config] = configs_of(1, "fp32", "cpu")
    p = point(config, histograms(images.cpu()), SHAPE[1] * SHAPE[2])
    needs = footprint(config, p, SHAPE)
    half = 0.5 if precision == "bf16" else 1.0
    traffic = 3 * half * needs.activations * config.train.batch_size
    trainer = Trainer([config], [p], images.cpu(), "cpu")
    with FlopCounterMode(display=False) as counter:
        trainer.update()
    return traffic + 9 * needs.parameters, counter.get_total_flops()


def rows(
    images: Tensor, precision: str, sizes: list[int], clock: Clock, rounds: int, device: str
) -> dict[str, tuple[float, int]]:
    """name -> (seconds per model-step, peak bytes)."""
    model = configs_of(1, precision, device)[0].model
    assert isinstance(model, ConvConfig)
    eager = bare_step(images, model)
    autocast = torch.autocast(images.device.type, torch.bfloat16, precision == "bf16")
    calls: dict[str, Callable[[], object]] = {"separate, eager": autocast(eager)}
    runs, memory = {"separate, eager": 1}, {"separate, eager": 0}
    for size in sizes:
        name = f"R = {size}"
        if clock.cuda:
            torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated() if clock.cuda else 0
        trainer = cohort(images, size, precision, device)
        for _ in range(8):  # eager, then captured
            trainer.update()
        calls[name], runs[name] = trainer.update, size
        memory[name] = torch.cuda.max_memory_allocated() - before if clock.cuda else 0
    times = clock.turns(calls, rounds)
    return {name: (spent / runs[name], memory[name]) for name, spent in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--sizes", type=int, nargs="+")
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS)
    parser.add_argument("--rounds", type=int)
    args = parser.parse_args()
    device = args.device
    on_cpu = device == "cpu"
    clock = Clock(device, 2 if on_cpu else 50)
    sizes = args.sizes or ([1, 2] if on_cpu else [1, 2, 4, 8, 16, 32, 64, 128, 256])
    rounds, size = args.rounds or (1 if on_cpu else 7), 512 if on_cpu else 8192
    images = torch.randint(0, 256, (10_000, *SHAPE), dtype=torch.uint8, device=device)
    copy, products = ceilings(clock, device, size)
    console = Console(width=110)
    name = "CPU" if on_cpu else torch.cuda.get_device_name()
    console.print(
        f"{name}, torch {torch.__version__}; n = {rounds} rounds of {clock.steps} steps, "
        f"medians; copy {copy / 1e9:.0f} GB/s, products "
        + ", ".join(f"{p} {f / 1e12:.1f}" for p, f in products.items())
        + " TFLOP/s"
    )
    for precision in args.precisions or PRECISIONS[:: 2 if on_cpu else 1]:
        found = rows(images, precision, sizes, clock, rounds, device)
        traffic, flops = necessary(images, precision)
        console.print(
            _table(precision, found, (traffic, flops), (copy, products[precision]))
        )


def _table(
    precision: str,
    found: dict[str, tuple[float, int]],
    needs: tuple[float, float],
    limits: tuple[float, float],
) -> Table:
    table = Table(title=precision, title_justify="left", box=None, pad_edge=False)
    headers = ("us a model-step", "x eager", "x captured alone", "of copy", "of products")
    for header in ("", *headers, "peak GB"):
        table.add_column(header, justify="right" if header else "left")
    eager, alone = found["separate, eager"][0], found["R = 1"][0]
    for name, (spent, memory) in found.items():
        shares = (
            f"{n / spent / limit:.0%}" for n, limit in zip(needs, limits, strict=True)
        )
        ratios = (f"{eager / spent:.2f}", f"{alone / spent:.2f}")
        size = f"{memory / 1e9:.2f}" if memory else ""
        table.add_row(name, f"{spent * 1e6:.1f}", *ratios, *shares, size)
    return table


if __name__ == "__main__":
    main()
