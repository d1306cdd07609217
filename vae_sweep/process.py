"""How this process treats memory and cores."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch


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
