"""What training asks of the machine: its device, precision, threads and memory."""

import ctypes
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch

from vae_sweep.config import TrainConfig
from vae_sweep.errors import UserError

EAGER = 3  # calls before a capture: libraries choose algorithms, optimizers make state


class Elsewhere(NamedTuple):
    """What a process on another machine is given: GPUs, and bytes of memory, None where
    that is not known. `remedy` says how to get a GPU."""

    gpus: int
    memory: int | None
    remedy: str


def resolve_device(name: str, elsewhere: Elsewhere | None = None) -> torch.device:
    """`auto` is CUDA where there is one, `cuda` all GPUs that this process sees, `cuda:1`
    one of them; UserError where CUDA is asked for and absent."""
    if elsewhere is None:
        gpus, where, remedy = torch.cuda.device_count(), "this machine", ""
    else:
        gpus, where, remedy = elsewhere.gpus, "each task", f"{elsewhere.remedy}, or "
    if name == "auto":
        there = gpus > 0 if elsewhere else torch.cuda.is_available()
        return torch.device("cuda" if there else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= gpus:
        raise UserError(
            f"train.device={name} needs a CUDA device, {where} has {gpus}; "
            f"{remedy}use train.device=auto or cpu"
        )
    return device


def gpus_of(device: torch.device) -> list[str]:
    """The GPUs that are meant, as CUDA_VISIBLE_DEVICES names them: one by an index, else
    all that this process sees."""
    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    seen = named.split(",")[:count] if named else [str(i) for i in range(count)]
    return seen if device.index is None else [seen[device.index]]


def set_precision(config: TrainConfig) -> None:
    """Whether this process may round float32 factors to TF32 on CUDA, as cuDNN would."""
    allowed = "tf32" if config.precision == "tf32" else "ieee"
    torch.backends.cudnn.conv.fp32_precision = allowed  # pyright: ignore
    torch.backends.cuda.matmul.fp32_precision = allowed


def check_precision(config: TrainConfig, device: torch.device) -> None:
    """Raises UserError where `device` has no such precision."""
    if config.precision == "tf32" and device.type != "cuda":
        raise UserError(
            f"train.precision=tf32 needs a CUDA device, got {device}; "
            f"use train.precision=fp32"
        )


def device_name(device: torch.device) -> str:
    """As records state it: the GPU's own name, or `cpu`."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


@contextmanager
def limited_threads(count: int) -> Iterator[None]:
    """PyTorch computes on `count` threads meanwhile."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def keep_freed_memory() -> None:
    """Lets glibc reuse large blocks: it would return those over 32 MB to the kernel at
    every free, and fresh pages at every step cost a third of the time on CPU."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):
            trim_threshold, mmap_threshold, largest = -1, -3, 2**31 - 1
            libc.mallopt(trim_threshold, largest)
            libc.mallopt(mmap_threshold, largest)


class Captured:
    """A step as a CUDA graph, one launch for all of its kernels.

    Calls `step` as it is at first, then replays what one call launched.
    `step` must read and write the same memory at every call and never wait for the
    device. Everything runs on the current stream.
    """

    def __init__(self, step: Callable[[], None]):
        self.step, self.calls = step, 0
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self) -> None:
        """Takes a step."""
        if self.graph is not None:
            self.graph.replay()
        elif self.calls < EAGER:
            self._aside()
        else:
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):  # launches nothing
                self.step()
            self.graph.replay()
        self.calls += 1

    def _aside(self) -> None:
        """On a stream of its own, as a capture wants it before."""
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            self.step()
        torch.cuda.current_stream().wait_stream(aside)
