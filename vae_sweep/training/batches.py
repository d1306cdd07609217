"""What a cohort needs at each step, made ahead on the host: batches, noise, beta, rate.

The streams are drawn on the CPU, so that a run sees the same numbers on every device;
blocks of several steps keep a fast device from waiting for them.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from vae_sweep.config import RunConfig
from vae_sweep.data.random_transform import Random
from vae_sweep.vae import schedules
from vae_sweep.vae.point import Point
from vae_sweep.vae.streams import Streams, stream


class Block(NamedTuple):
    """K steps of R runs with S distinct seeds.

    `images` are the numbers of those in the batch, int64 [K, S, B]; where the data has a
    random transform, the pixels u [K, S, B, C, H, W] that it made of them.
    """

    images: Tensor
    noise: Tensor  # standard normal float32 [K, S, B, D]
    beta: Tensor  # [K, R]
    rate: Tensor  # what the learning rate is multiplied with, [K]


class Feed:
    """Blocks for the runs of `configs` on a training split of `images` images, of which
    `random` draws the batches where the data has a random transform."""

    def __init__(
        self,
        configs: Sequence[RunConfig],
        points: Sequence[Point],
        images: int,
        steps: int,
        random: Random | None = None,
    ):
        self.train, self.latent = configs[0].train, configs[0].model.latent
        self.images, self.steps, self.random = images, steps, random
        seeds = [config.seed for config in configs]
        self.seeds = list(dict.fromkeys(seeds))
        self.seed_of = torch.tensor([self.seeds.index(seed) for seed in seeds])  # [R]
        self.noise = Streams(self.seeds, "noise")
        columns = [
            schedules.beta_multipliers(c.beta, steps) * p.beta
            for c, p in zip(configs, points, strict=True)
        ]
        self.betas = torch.from_numpy(np.stack(columns, 1))  # [steps + 1, R]
        multipliers = schedules.rate_multipliers(self.train, steps)
        self.rates = torch.from_numpy(multipliers)
        self._orders: tuple[int, Tensor] | None = None
        self._before = [g.get_state() for g in self.noise.generators]

    def block(self, step: int, count: int) -> Block:
        """Steps `step` to `step + count`; the noise is whatever its streams give next."""
        self._before = [g.get_state() for g in self.noise.generators]
        return Block(
            torch.stack([self._images(s) for s in range(step, step + count)]),
            torch.stack([self._noise(self.noise) for _ in range(count)]),
            self.betas[step : step + count],
            self.rates[step : step + count],
        )

    def _noise(self, streams: Streams) -> Tensor:
        return streams.normal(self.train.batch_size, self.latent)

    def _images(self, step: int) -> Tensor:
        """What a Block holds of a step's images."""
        batch, random = self.batch(step), self.random
        if random is None:
            return batch
        each = zip(batch, self.seeds, strict=True)
        return torch.stack([random.batch(index, seed, step) for index, seed in each])

    def batch(self, step: int) -> Tensor:
        """[S, B]: epoch e visits the training split in the order of stream `order<e>`."""
        size = self.train.batch_size
        epoch, batch = divmod(step, self.images // size)
        if self._orders is None or self._orders[0] != epoch:
            streams = [stream(seed, f"order{epoch}") for seed in self.seeds]
            orders = [torch.randperm(self.images, generator=g) for g in streams]
            self._orders = epoch, torch.stack(orders)
        return self._orders[1][:, batch * size : (batch + 1) * size]

    def state(self, r: int, used: int) -> Tensor:
        """Run r's noise generator after `used` steps of the last block."""
        generator = torch.Generator()
        generator.set_state(self._before[int(self.seed_of[r])])
        for _ in range(used):
            torch.randn(self.train.batch_size, self.latent, generator=generator)
        return generator.get_state()

    def restore(self, states: Sequence[Tensor]) -> None:
        """Goes on from one generator state per run."""
        for seed, state in zip(self.seed_of.tolist(), states, strict=True):
            self.noise.generators[seed].set_state(state)
        self._before = [g.get_state() for g in self.noise.generators]
