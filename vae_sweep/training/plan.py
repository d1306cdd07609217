"""How a grid runs on this machine: in how many processes, and how many runs at once."""

import math
from collections.abc import Hashable
from itertools import count, pairwise, takewhile
from typing import NamedTuple

import torch
from torch import Tensor

from vae_sweep.config import RunConfig
from vae_sweep.system import machine
from vae_sweep.training.device import EAGER
from vae_sweep.training.prepare import Prepared
from vae_sweep.training.step import Trainer
from vae_sweep.training.tune import Tuner, best_size
from vae_sweep.vae.cohort import Cohort
from vae_sweep.vae.point import Point

SMALL = 4e7  # bytes of activations per step: runs that keep less gain by training together,
LARGEST = 8  # up to so many (python -m benchmarks.fusion)
THROUGHPUT = 1e9  # bytes of activations that a core trains in a second, roughly
WORTH = 10  # seconds of training that are worth the start of processes
SHARE = 0.6  # of the memory that cohorts may take
TRIAL = 10  # steps that are timed for a cohort size on CUDA
TRIED = 100  # steps that doing so takes at most


class Plan(NamedTuple):
    """The cohorts of one device, and the processes that they run in.

    `workers` processes of `threads` threads; one worker is this process itself.
    """

    device: torch.device
    workers: int
    threads: int
    cohorts: list[list[Prepared]]

    def __str__(self) -> str:
        sizes = [len(cohort) for cohort in self.cohorts]
        points = "1 point" if sum(sizes) == 1 else f"{sum(sizes)} points"
        how = f"cohorts of {', '.join(map(str, sorted(set(sizes), reverse=True)))}"
        if self.device.type == "cpu":
            threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
            each = f"{self.workers} processes" if self.workers > 1 else "1 process"
            how = f"{each} of {threads}, {how}"
        return f"training {points} on {self.device}: {how}"


def plans(todo: list[Prepared], grid: int) -> list[Plan]:
    """One plan per device. `grid` is the number of all points, ended ones included:
    threads per process are a function of it, so that a resumed grid computes as before.
    """
    by_device: dict[torch.device, list[Prepared]] = {}
    for p in todo:
        by_device.setdefault(p.device, []).append(p)
    return [_plan(device, points, grid) for device, points in by_device.items()]


def _plan(device: torch.device, points: list[Prepared], grid: int) -> Plan:
    workers = threads = 1
    if device.type == "cpu":
        cores, asked = torch.get_num_threads(), points[0].config.train.workers
        workers = min(cores, grid) if asked == "auto" else asked
        threads = max(1, cores // workers)
        if asked == "auto" and _seconds(points) < WORTH:
            workers = 1
    groups: dict[Hashable, list[Prepared]] = {}
    for p in points:
        groups.setdefault(p.cohort_key, []).append(p)
    cohorts = [part for group in groups.values() for part in _split(group, device, workers)]
    # the longest first: then no process is left alone with it at the end
    cohorts.sort(key=lambda cohort: -len(cohort) * (cohort[0].steps - cohort[0].step))
    return Plan(device, min(workers, len(cohorts)), threads, cohorts)


def _seconds(points: list[Prepared]) -> float:
    """Roughly what one core takes to train them."""
    needs: dict[Hashable, Footprint] = {}
    total = 0.0
    for p in points:
        if p.cohort_key not in needs:
            needs[p.cohort_key] = _footprint(p)
        images = p.config.train.batch_size * (p.steps - p.step)
        total += images * needs[p.cohort_key].activations / THROUGHPUT
    return total


def _split(
    group: list[Prepared], device: torch.device, workers: int
) -> list[list[Prepared]]:
    """Cohorts of nearly equal size, small enough for memory, as many for each worker."""
    asked = group[0].config.train.cohort
    if asked != "auto":
        largest = asked
    elif device.type == "cpu":
        largest = _size_on_cpu(group[0], workers)
    else:
        largest = _size_on_cuda(group, device)
    group = sorted(group, key=lambda p: p.config.head)  # neighbors share kernels on CUDA
    parts = math.ceil(len(group) / largest)
    if asked == "auto":
        parts = min(len(group), workers * math.ceil(parts / workers))
    bounds = [round(i * len(group) / parts) for i in range(parts + 1)]
    return [group[a:b] for a, b in pairwise(bounds)]


def _size_on_cpu(first: Prepared, workers: int) -> int:
    batch, needs = first.config.train.batch_size, _footprint(first)
    if needs.activations * batch > SMALL:
        return 1  # runs side by side would only push each other out of the cache
    fitting = int(SHARE * machine.memory() / workers / needs.bytes(batch))
    return max(1, min(fitting, LARGEST))


def _size_on_cuda(group: list[Prepared], device: torch.device) -> int:
    """The cohort size of the fastest step per run, timed once and remembered."""
    first = group[0]
    config = first.config
    memory = torch.cuda.mem_get_info(device)[0]
    fitting = int(SHARE * memory / _footprint(first).bytes(config.train.batch_size))
    largest = max(1, min(fitting, len(group)))
    if first.steps < TRIED:
        return largest
    sizes = [*takewhile(lambda n: n < largest, (2**k for k in count(3))), largest]
    shape = first.dataset.shape
    train = config.train.model_dump_json(exclude={"steps", "epochs", "lr", "eval_every"})
    what = f"cohort of at most {largest}: {config.model}, {shape}, {train}"
    tuner = Tuner(config.data.cache_dir, device)
    images, random = first.dataset.images.train.to(device), first.dataset.random

    def seconds(size: int) -> float:
        some = group[:size]
        configs, points = [p.config for p in some], [p.point for p in some]
        trainer = Trainer(configs, points, images, device, random=random)
        for _ in range(EAGER + 1):
            trainer.update()
        return tuner.seconds(lambda: [trainer.update() for _ in range(TRIAL)])

    answers = [str(size) for size in sizes]
    return int(tuner.remember(what, lambda: str(best_size(sizes, seconds)), answers))


class Footprint(NamedTuple):
    """Bytes of one run, measured on a forward pass of two images: its parameters, and what
    autograd keeps per image."""

    parameters: int
    activations: int

    def bytes(self, batch: int) -> int:
        """At the height of a training step: weights, two gradients and two moments;
        activations, and half as much again that passes."""
        return 5 * self.parameters + int(1.5 * self.activations * batch)


def footprint(config: RunConfig, point: Point, shape: tuple[int, int, int]) -> Footprint:
    """Of a run on images (C, H, W)."""
    cohort = Cohort([config], [point], shape)
    fixed = [*cohort.parameters(), *cohort.buffers()]
    own = {t.untyped_storage().data_ptr() for t in fixed}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    images = torch.zeros(2, *shape, dtype=torch.uint8)
    noise = torch.zeros(1, 2, cohort.latent, dtype=cohort.dtype)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        forward = cohort(cohort.pixels_of(images), noise)
        terms = cohort.terms(forward, torch.ones(1, dtype=cohort.dtype))
    del terms
    parameters = sum(p.numel() * p.element_size() for p in cohort.parameters())
    return Footprint(parameters, sum(kept.values()) // 2)


def _footprint(p: Prepared) -> Footprint:
    return footprint(p.config, p.point, p.dataset.shape)
