"""Named streams of random numbers: `seed` alone decides every draw of a run.

Streams of equal seed and name are equal, whatever else is in a cohort.
"""

import hashlib

import torch
from torch import Generator, Tensor


def stream(seed: int, name: str) -> Generator:
    """The CPU generator `name` of a run with `seed`; CPU, so that CUDA sees its numbers."""
    digest = hashlib.sha256(f"{name}:{seed}".encode()).digest()
    return Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


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
