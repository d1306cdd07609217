"""Our convolutional network and its loop as a tutorial would write them."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vae_sweep.config import ConvConfig
from vae_sweep.vae.cohort import Cohort


class Bare(nn.Module):
    """The network of `config` (kernel 4, without or with batch norm) for images
    [B, 3, 32, 32], as a tutorial would write it."""

    def __init__(self, config: ConvConfig):
        super().__init__()
        widths, latent = config.widths, config.latent
        self.latent = latent

        def after(width: int) -> list[nn.Module]:
            is_normed = config.norm_layer == "batch"
            return [*([nn.BatchNorm2d(width)] if is_normed else []), nn.SiLU()]

        encoder: list[nn.Module] = []
        for inputs, outputs in zip((3, *widths[:-1]), widths, strict=True):
            encoder += [nn.Conv2d(inputs, outputs, 4, 2, 1), *after(outputs)]
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
            decoder += [*after(inputs), nn.ConvTranspose2d(inputs, outputs, 4, 2, 1)]
        self.decoder = nn.Sequential(*decoder)

    def forward(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(x_hat, mu, logvar) of x [B, 3, 32, 32] and noise [B, D]."""
        mu, logvar = self.encoder(x).chunk(2, 1)
        return self.decoder(mu + torch.exp(logvar / 2) * noise), mu, logvar

    def terms(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(squared error, KL in nats), batch means of what is summed over an image."""
        noise = torch.randn(len(x), self.latent, device=x.device)
        x_hat, mu, logvar = self(x, noise)
        kl = 0.5 * (mu**2 + logvar.exp() - 1 - logvar).sum(1)
        sse = F.mse_loss(x_hat, x, reduction="none").sum((1, 2, 3))
        return sse.mean(), kl.mean()

    def take(self, cohort: Cohort) -> None:
        """Takes the weights of a cohort of one run."""
        theirs = [value[0] for value in cohort.model.state_dict().values()]
        names = [n for n in self.state_dict() if not n.endswith("num_batches_tracked")]
        self.load_state_dict(dict(zip(names, theirs, strict=True)), strict=False)


def bare_step(
    images: Tensor,
    config: ConvConfig,
    batch: int = 128,
    layout: torch.memory_format = torch.contiguous_format,
) -> Callable[[], None]:
    """One step of fused Adam on uint8 `images` [n, C, 32, 32] that are in memory."""
    model = Bare(config).to(images.device, memory_format=layout)  # pyright: ignore[reportCallIssue]
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    mean, std = torch.tensor([0.5, 0.25], device=images.device)

    def step() -> None:
        index = torch.randint(len(images), (batch,), device=images.device)
        x = ((images[index].float() / 255 - mean) / std).contiguous(memory_format=layout)
        optimizer.zero_grad()
        sse, kl = model.terms(x)
        (sse + kl).backward()
        optimizer.step()

    return step
