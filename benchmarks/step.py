"""Step time of one run (R = 1) beside a bare PyTorch loop with the same network.

    python -m benchmarks.step

Both hold the images in memory as uint8 and use fused Adam; they take turns, block by
block, so that whatever else the machine does hits both. Prints medians and the median of
the pairwise ratios. The bare loop runs in PyTorch's default layout and channels-last.
"""

import platform
import statistics
import time
from collections.abc import Callable

import torch
from hydra import compose, initialize_config_dir
from torch import Tensor, nn
from torch.nn import functional as F

from vae_sweep.cohort import point
from vae_sweep.command import CONF, config_of
from vae_sweep.config import ConvConfig
from vae_sweep.grid import keep_freed_memory
from vae_sweep.normalize import histograms
from vae_sweep.trainer import Trainer

BLOCKS, STEPS = 30, 10


class Bare(nn.Module):
    """The default network (kernel 4, no norm layer), as a tutorial would write it."""

    def __init__(self, config: ConvConfig):
        super().__init__()
        widths, latent = config.widths, config.latent
        encoder: list[nn.Module] = []
        for inputs, outputs in zip((3, *widths[:-1]), widths, strict=True):
            encoder += [nn.Conv2d(inputs, outputs, 4, 2, 1), nn.SiLU()]
        self.bottom = (widths[-1], 32 >> len(widths), 32 >> len(widths))
        features = self.bottom[0] * self.bottom[1] * self.bottom[2]
        self.encoder = nn.Sequential(
            *encoder, nn.Flatten(), nn.Linear(features, 2 * latent)
        )
        decoder: list[nn.Module] = [
            nn.Linear(latent, features),
            nn.Unflatten(1, self.bottom),
        ]
        for inputs, outputs in zip(widths[::-1], (*widths[-2::-1], 3), strict=True):
            decoder += [nn.SiLU(), nn.ConvTranspose2d(inputs, outputs, 4, 2, 1)]
        self.decoder = nn.Sequential(*decoder)

    def forward(self, x: Tensor) -> Tensor:
        mu, logvar = self.encoder(x).chunk(2, 1)
        x_hat = self.decoder(mu + torch.exp(logvar / 2) * torch.randn_like(mu))
        kl = 0.5 * (mu**2 + logvar.exp() - 1 - logvar).sum(1)
        return (F.mse_loss(x_hat, x, reduction="none").sum((1, 2, 3)) + kl).mean()


def bare_step(images: Tensor, config: ConvConfig, layout: torch.memory_format):
    model = Bare(config).to(memory_format=layout)  # pyright: ignore[reportCallIssue]
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    mean, std = torch.tensor(0.5), torch.tensor(0.25)

    def step() -> None:
        index = torch.randint(len(images), (128,))
        x = ((images[index].float() / 255 - mean) / std).contiguous(memory_format=layout)
        optimizer.zero_grad()
        model(x).backward()
        optimizer.step()

    return step


def our_step(images: Tensor) -> Callable[[], object]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = config_of(compose("config", ["train.device=cpu", "train.steps=100000"]))
    constants = point(config, histograms(images), 32 * 32)
    return Trainer([config], [constants], images, "cpu").update


def seconds(step: Callable[[], object]) -> float:
    start = time.perf_counter()
    for _ in range(STEPS):
        step()
    return (time.perf_counter() - start) / STEPS


def main() -> None:
    keep_freed_memory()
    images = torch.randint(0, 256, (10_000, 3, 32, 32), dtype=torch.uint8)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        model = config_of(compose("config")).model
    assert isinstance(model, ConvConfig)
    steps = {
        "bare loop": bare_step(images, model, torch.contiguous_format),
        "bare loop, channels-last": bare_step(images, model, torch.channels_last),
        "vae-sweep, R = 1": our_step(images),
    }
    times: dict[str, list[float]] = {name: [] for name in steps}
    for block in range(BLOCKS + 1):
        for name, step in steps.items():
            spent = seconds(step)
            if block:  # the first warms up
                times[name].append(spent)
    ours = times["vae-sweep, R = 1"]
    print(
        f"n = {BLOCKS} blocks of {STEPS} steps, batch 128, fp32, CPU {platform.machine()}, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}"
    )
    for name, values in times.items():
        ratio = statistics.median(o / v for o, v in zip(ours, values, strict=True))
        median = statistics.median(values) * 1e3
        print(f"{name:28s} {median:7.1f} ms   vae-sweep / this: {ratio:.3f}")


if __name__ == "__main__":
    main()
