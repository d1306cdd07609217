"""Chooses among ways to compute the same numbers by timing them, once for each machine."""

import statistics
import time
from collections.abc import Callable, Collection, Iterable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from vae_sweep.data.cache import cached_json, keep_json
from vae_sweep.vae.cohort import Cohort
from vae_sweep.vae.layers import WAYS, Conv

REPEATS = 5
GAIN = 0.95  # a larger cohort must take less than this share of the time per run


class Tuner:
    """What was timed on `device`, kept in a file of `cache`."""

    def __init__(self, cache: Path, device: torch.device):
        self.device = device
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
        self.path = cache / "tuning.json"
        self.where = f"{name}, torch {torch.__version__}"
        self.known = cached_json(self.path)

    def remember(self, what: str, find: Callable[[], str], answers: Collection[str]) -> str:
        """`find()`, or what it once said of `what` here, if that is one of `answers`."""
        kept = self.known.get(self.where, {}).get(what)
        if kept not in answers:
            kept = find()
            self.known = cached_json(self.path)  # another process may have added to it
            self.known.setdefault(self.where, {})[what] = kept
            keep_json(self.path, self.known)
        return kept

    def fastest(self, ways: dict[str, Callable[[], object]]) -> str:
        """The name of the fastest, each given as what runs it once."""
        return min(ways, key=lambda way: self.seconds(ways[way]))

    def seconds(self, run: Callable[[], object]) -> float:
        """Median of a few runs; infinite where there is no memory for one."""
        spent = []
        try:
            for _ in range(REPEATS + 2):  # the first ones warm up
                self._wait()
                start = time.perf_counter()
                run()
                self._wait()
                spent.append(time.perf_counter() - start)
        except torch.OutOfMemoryError:
            return float("inf")
        return statistics.median(spent[2:])

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def convolutions(cohort: Cohort) -> list[Conv]:
    """The convolutions of a cohort, in the order of its modules."""
    return [m for m in cohort.modules() if isinstance(m, Conv)]


def tune_layers(cohort: Cohort, images: Tensor, tuner: Tuner) -> None:
    """Sets the fastest way of each convolution for batches like uint8 `images` [B, ...]."""
    inputs: dict[Conv, Tensor] = {}
    convs = convolutions(cohort)
    hooks = [
        conv.register_forward_pre_hook(lambda conv, given: inputs.update({conv: given[0]}))
        for conv in convs
    ]
    u = cohort.pixels_of(images)
    runs = len(cohort.points)
    noise = torch.zeros(runs, u.shape[1], cohort.latent, dtype=u.dtype, device=u.device)
    training = cohort.training
    cohort.eval()  # running statistics stay as they are
    with torch.no_grad():
        cohort(u, noise)
    cohort.train(training)
    for hook in hooks:
        hook.remove()
    tf32 = torch.backends.cuda.matmul.fp32_precision == "tf32"
    for conv in convs:
        x = inputs[conv].detach().requires_grad_()
        ways = {way: _once(conv, way, x, cohort.bf16) for way in WAYS}
        kind = "transposed" if conv.transposed else "conv"
        shapes = f"{tuple(x.shape)} x {tuple(conv.weight.shape)}, {x.dtype}"
        options = f"stride {conv.stride}, bf16 {cohort.bf16}, tf32 {tf32}"
        what = f"{kind} {shapes}, {options}"
        find = partial(tuner.fastest, ways)
        chosen = tuner.remember(what, find, WAYS)
        conv.way = next(way for way in WAYS if way == chosen)


def _once(conv: Conv, way: str, x: Tensor, bf16: bool) -> Callable[[], object]:
    """The layer forward and backward."""

    def run() -> None:
        with torch.autocast(
            x.device.type, torch.bfloat16, enabled=bf16, cache_enabled=False
        ):
            y = getattr(conv, way)(x)
        torch.autograd.grad(y.sum(), [x, *conv.parameters()])

    return run


def best_size(sizes: Iterable[int], seconds: Callable[[int], float]) -> int:
    """Of rising cohort sizes, the last that still gained on the one before.

    `seconds` of a size is the time of its step; infinite where it does not fit.
    """
    best, least = 1, float("inf")
    for size in sizes:
        per_run = seconds(size) / size
        if per_run > GAIN * least:
            break
        best, least = size, per_run
    return best
