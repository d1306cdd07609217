"""A residual network of a user's own, stacked over the runs by vae_sweep.vae.adapter, and
the same network written with the run axis, by vae_sweep.vae.layers.

    python -m benchmarks.own_network

Forward and backward with equal weights; outputs and gradients are compared first. Both take
turns on one core. With transposed convolutions and without, of one run and of 8; the last
one has `.view`, which keeps its tensors from being channels-last. Prints medians in
milliseconds and the median of the pairwise ratios.
"""

import os
import platform
import statistics
import time
from functools import partial

import torch
from rich.console import Console
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from vae_sweep.training.device import keep_freed_memory
from vae_sweep.vae.adapter import Stacked
from vae_sweep.vae.layers import BatchNorm, Conv, Linear

SHAPE, LATENT, WIDTHS, BLOCKS = (3, 32, 32), 64, (32, 64), 2
ROUNDS = 9
NETWORKS = {  # name -> (transposed, batch norm, flattened by view)
    "transposed": (True, False, False),
    "upsampled": (False, False, False),
    "transposed, batch norm": (True, True, False),
    "upsampled, view": (False, False, True),
}
SIZES = ((1, 128), (8, 64))  # runs, batch


class Make:
    """The layers of one run, of torch."""

    def __init__(self, transposed: bool, norm: bool, view: bool):
        self.is_transposed, self.is_normed, self.has_view = transposed, norm, view

    def conv(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Module:
        return nn.Conv2d(inputs, outputs, kernel, stride, padding=(kernel - 1) // 2)

    def transposed(self, inputs: int, outputs: int) -> nn.Module:
        return nn.ConvTranspose2d(inputs, outputs, 4, 2, 1)

    def linear(self, inputs: int, outputs: int) -> nn.Module:
        return nn.Linear(inputs, outputs)

    def batch_norm(self, width: int) -> nn.Module:
        return nn.BatchNorm2d(width)

    def doubled(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2)


class MakeStacked(Make):
    """The layers of R runs, of vae_sweep.vae.layers."""

    def __init__(self, runs: int, *kind: bool):
        super().__init__(*kind)
        self.generators = [Generator() for _ in range(runs)]

    def conv(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Module:
        return Conv(self.generators, inputs, outputs, kernel, stride)

    def transposed(self, inputs: int, outputs: int) -> nn.Module:
        return Conv(self.generators, inputs, outputs, 4, 2, transposed=True)

    def linear(self, inputs: int, outputs: int) -> nn.Module:
        return Linear(self.generators, inputs, outputs)

    def batch_norm(self, width: int) -> nn.Module:
        return BatchNorm(len(self.generators), width)

    def doubled(self, x: Tensor) -> Tensor:
        return F.interpolate(x.flatten(0, 1), scale_factor=2).unflatten(0, x.shape[:2])


class Block(nn.Module):
    """x + conv(silu(norm(conv(x)))), then silu."""

    def __init__(self, make: Make, width: int):
        super().__init__()
        self.first, self.second = make.conv(width, width, 3), make.conv(width, width, 3)
        self.norm = make.batch_norm(width) if make.is_normed else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(x + self.second(F.silu(self.norm(self.first(x)))))


class Up(nn.Module):
    """Twice the height and width: a transposed convolution, or copies and a convolution."""

    def __init__(self, make: Make, inputs: int, outputs: int):
        super().__init__()
        self.make = make
        to = make.transposed if make.is_transposed else partial(make.conv, kernel=3)
        self.layer = to(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x if self.make.is_transposed else self.make.doubled(x))


class Residual(nn.Module):
    """A residual VAE; of one run [B, ...] or of R [R, B, ...] by what `make` makes."""

    def __init__(self, make: Make):
        super().__init__()
        channels, height, width = SHAPE
        self.has_view = make.has_view
        low, high = WIDTHS
        self.bottom = (high, height // 4, width // 4)
        features = high * height * width // 16
        self.encoder = nn.Sequential(
            *(make.conv(channels, low, 4, 2), nn.SiLU()),
            *(Block(make, low) for _ in range(BLOCKS)),
            *(make.conv(low, high, 4, 2), nn.SiLU()),
            *(Block(make, high) for _ in range(BLOCKS)),
        )
        self.to_posterior = make.linear(features, 2 * LATENT)
        self.from_latent = make.linear(LATENT, features)
        self.decoder = nn.Sequential(
            *(Block(make, high) for _ in range(BLOCKS)),
            *(Up(make, high, low), nn.SiLU()),
            *(Block(make, low) for _ in range(BLOCKS)),
            Up(make, low, channels),
        )

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.encoder(x)
        flat = h.view(len(h), -1) if self.has_view else h.flatten(-3)
        mu, logvar = self.to_posterior(flat).chunk(2, -1)
        return mu, logvar

    def decode(self, z: Tensor) -> Tensor:
        return self.decoder(self.from_latent(z).unflatten(-1, self.bottom))


class WithRunAxis(Residual):
    def forward(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mu, logvar = self.encode(x)
        return self.decode(mu + torch.exp(0.5 * logvar) * noise), mu, logvar


def step(network: nn.Module, x: Tensor, noise: Tensor) -> list[Tensor]:
    """[a, mu, logvar, gradients ...] of a forward and a backward pass."""
    outputs = network(x, noise)
    loss = torch.stack([y.square().mean((1, 2)).sum() for y in map(_flat, outputs)]).sum()
    return [*outputs, *torch.autograd.grad(loss, list(network.parameters()))]


def _flat(y: Tensor) -> Tensor:
    return y.flatten(2)


def seconds(network: nn.Module, x: Tensor, noise: Tensor) -> float:
    start = time.perf_counter()
    step(network, x, noise)
    return time.perf_counter() - start


def measure(kind: tuple[bool, bool, bool], runs: int, batch: int) -> tuple[float, ...]:
    """(ms of the stacked one, ms of the other, ratio), medians."""
    torch.manual_seed(0)
    generators = [Generator().manual_seed(r) for r in range(runs)]
    stacked = Stacked(lambda: Residual(Make(*kind)), SHAPE, LATENT, generators)
    written = WithRunAxis(MakeStacked(runs, *kind[:2], False))
    state = stacked.network.state_dict()
    written.load_state_dict({n: state[n] for n in written.state_dict()})
    x, noise = torch.randn(runs, batch, *SHAPE), torch.randn(runs, batch, LATENT)
    for mine, theirs in zip(step(stacked, x, noise), step(written, x, noise), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-5)
    pairs = []
    for turn in range(ROUNDS + 1):
        order = (stacked, written) if turn % 2 else (written, stacked)
        times = {id(network): seconds(network, x, noise) for network in order}
        pairs.append((times[id(stacked)], times[id(written)]))
    pairs = pairs[1:]  # the first warms up
    mine, theirs = (statistics.median(p[i] for p in pairs) for i in (0, 1))
    return mine * 1e3, theirs * 1e3, statistics.median(a / b for a, b in pairs)


def main() -> None:
    torch.set_num_threads(1)
    keep_freed_memory()
    console = Console(width=120)
    console.print(
        f"1 of {os.cpu_count()} CPU cores ({platform.machine()}), fp32, torch "
        f"{torch.__version__}; ms of a forward and a backward pass; n = {ROUNDS} rounds, "
        f"medians"
    )
    console.print("decoder                 R  batch  own network  with run axis  ratio")
    for name, kind in NETWORKS.items():
        for runs, batch in SIZES:
            mine, theirs, ratio = measure(kind, runs, batch)
            times = f"{mine:11.1f}  {theirs:13.1f}  {ratio:5.2f}"
            console.print(f"{name:22s}  {runs}  {batch:5d}  {times}")


if __name__ == "__main__":
    main()
