"""How a grid runs on this machine: in how many processes, and how many runs at once."""

import math
from collections.abc import Callable, Hashable
from itertools import count, pairwise, takewhile
from typing import NamedTuple

import torch
from torch import Tensor

from vae_sweep.config import RunConfig
from vae_sweep.errors import counted
from vae_sweep.system import machine
from vae_sweep.training.device import EAGER, Elsewhere, gpus_of
from vae_sweep.training.prepare import Prepared
from vae_sweep.training.step import Trainer
from vae_sweep.training.tune import Tuner, best_size
from vae_sweep.vae.cohort import Cohort
from vae_sweep.vae.point import Point

SMALL = 4e7  # bytes of activations per step: runs that keep less gain by training together,
LARGEST = 8  # up to so many (python -m benchmarks.fusion)
THROUGHPUT = 1e9  # bytes of activations that a core trains in a second, roughly
GPU = 50  # cores that a GPU is worth, roughly
WORTH = 10  # seconds of training that are worth the start of processes
ELSEWHERE = 64  # runs of a cohort on a GPU that is not here, to be timed
SHARE = 0.6  # of the memory that cohorts may take
TRIAL = 10  # steps that are timed for a cohort size on CUDA
TRIED = 100  # steps that doing so takes at most


class Plan(NamedTuple):
    """The cohorts of one device, and the processes that they run in.

    `workers` processes of `threads` threads, each with a GPU of its own on CUDA; one worker
    is this process itself.
    """

    device: torch.device
    workers: int
    threads: int
    cohorts: list[list[Prepared]]

    def __str__(self) -> str:
        sizes = [len(cohort) for cohort in self.cohorts]
        points = counted(sum(sizes), "point")
        how = f"cohorts of {', '.join(map(str, sorted(set(sizes), reverse=True)))}"
        if self.device.type == "cpu":
            threads = counted(self.threads, "thread")
            each = f"{self.workers} processes" if self.workers > 1 else "1 process"
            how = f"{each} of {threads}, {how}"
        elif self.workers > 1:
            how = f"{self.workers} processes with a GPU each, {how}"
        return f"training {points} on {self.device}: {how}"


def plans(todo: list[Prepared], grid: int) -> list[Plan]:
    """One plan per device. `grid` is the number of all points, ended ones included:
    threads per process are a function of it, so that a resumed grid computes as before.
    """
    by_device: dict[torch.device, list[Prepared]] = {}
    for p in todo:
        by_device.setdefault(p.device, []).append(p)
    return [_plan(device, points, grid) for device, points in by_device.items()]


def cohorts_elsewhere(todo: list[Prepared], elsewhere: Elsewhere) -> list[list[Prepared]]:
    """The cohorts of `todo`, each for a process that has all of `elsewhere` to itself. How
    many runs are fastest on a GPU is timed there, so that a cohort may be split again."""

    def largest(group: list[Prepared]) -> int:
        if group[0].device.type == "cpu":
            return _size_on_cpu(group[0], 1, elsewhere.memory or machine.memory())
        return ELSEWHERE

    return _cohorts(todo, largest, 1)


def _plan(device: torch.device, points: list[Prepared], grid: int) -> Plan:
    workers, threads, asked = 1, 1, points[0].config.train.workers
    if device.type == "cpu":
        cores = torch.get_num_threads()
        workers = min(cores, grid) if asked == "auto" else asked
        threads = max(1, cores // workers)
        if asked == "auto" and _seconds(points) < WORTH:
            workers = 1
    else:
        gpus = len(gpus_of(device))
        workers = gpus if asked == "auto" else min(asked, gpus)
        if asked == "auto" and _seconds(points) / GPU < WORTH:
            workers = 1

    def largest(group: list[Prepared]) -> int:
        if device.type == "cpu":
            return _size_on_cpu(group[0], workers, machine.memory())
        return _size_on_cuda(group, device, workers)

    cohorts = _cohorts(points, largest, workers)
    return Plan(device, min(workers, len(cohorts)), threads, cohorts)


def _cohorts(
    points: list[Prepared], largest: Callable[[list[Prepared]], int], workers: int
) -> list[list[Prepared]]:
    """Points that may train as one, in parts of at most what is asked for, or `largest`.

    The longest first: then no process is left alone with it at the end.
    """
    groups: dict[Hashable, list[Prepared]] = {}
    for p in points:
        groups.setdefault(p.cohort_key, []).append(p)
    cohorts: list[list[Prepared]] = []
    for group in groups.values():
        asked = group[0].config.train.cohort
        parts = math.ceil(len(group) / (largest(group) if asked == "auto" else asked))
        if asked == "auto":  # as many for each worker
            parts = min(len(group), workers * math.ceil(parts / workers))
        cohorts += _split(group, parts)
    return sorted(cohorts, key=lambda c: -len(c) * (c[0].steps - c[0].step))


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


def _split(group: list[Prepared], parts: int) -> list[list[Prepared]]:
    """Cohorts of nearly equal size."""
    group = sorted(group, key=lambda p: p.config.head)  # neighbors share kernels on CUDA
    bounds = [round(i * len(group) / parts) for i in range(parts + 1)]
    return [group[a:b] for a, b in pairwise(bounds)]


def _size_on_cpu(first: Prepared, workers: int, memory: int) -> int:
    batch, needs = first.config.train.batch_size, _footprint(first)
    if needs.activations * batch > SMALL:
        return 1  # runs side by side would only push each other out of the cache
    fitting = int(SHARE * memory / workers / needs.bytes(batch))
    return max(1, min(fitting, LARGEST))


def _size_on_cuda(group: list[Prepared], device: torch.device, workers: int) -> int:
    """The cohort size of the fastest step per run, timed once and remembered; on the first
    of several GPUs, which are taken to be alike."""
    first = group[0]
    config = first.config
    memory = torch.cuda.mem_get_info(device)[0]
    fitting = int(SHARE * memory / _footprint(first).bytes(config.train.batch_size))
    largest = max(1, min(fitting, math.ceil(len(group) / workers)))
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
