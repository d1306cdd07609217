"""The default network and its loop as a tutorial would write them."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vae_sweep.config import ConvConfig


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


def bare_step(
    images: Tensor,
    config: ConvConfig,
    batch: int = 128,
    layout: torch.memory_format = torch.contiguous_format,
) -> Callable[[], None]:
    """One step of fused Adam on uint8 `images` [n, C, 32, 32] that are in memory."""
    model = Bare(config).to(memory_format=layout)  # pyright: ignore[reportCallIssue]
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    mean, std = torch.tensor(0.5), torch.tensor(0.25)

    def step() -> None:
        index = torch.randint(len(images), (batch,))
        x = ((images[index].float() / 255 - mean) / std).contiguous(memory_format=layout)
        optimizer.zero_grad()
        model(x).backward()
        optimizer.step()

    return step
