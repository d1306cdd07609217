"""Named streams of random numbers: `seed` alone decides every draw of a run.

Streams of equal seed and name are equal, whatever else is in a cohort.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Generator, Tensor


def seed_of(content: bytes) -> int:
    """A seed that follows from `content`."""
    return int.from_bytes(hashlib.sha256(content).digest()[:8], "little") >> 1


def stream(seed: int, name: str) -> Generator:
    """The CPU generator `name` of a run with `seed`; CPU, so that CUDA sees its numbers."""
    return Generator().manual_seed(seed_of(f"{name}:{seed}".encode()))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """PyTorch's own CPU generator starts from `seed`, and afterwards is what it was."""
    before = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(before)


class Streams:
    """The stream `name` of every run: drawn once per distinct seed, given to all."""

    def __init__(self, seeds: list[int], name: str):
        distinct = list(dict.fromkeys(seeds))
        self.generators = [stream(seed, name) for seed in distinct]
        self.index = [distinct.index(seed) for seed in seeds]

    def of_runs(self) -> list[Generator]:
        """One generator per run; runs of equal seed share the object."""
        return [self.generators[i] for i in self.index]

    def normal(self, batch: int, latent: int) -> Tensor:
        """Standard normal float32 [R, B, D]."""
        draws = [torch.randn(batch, latent, generator=g) for g in self.generators]
        return torch.stack(draws)[self.index]
