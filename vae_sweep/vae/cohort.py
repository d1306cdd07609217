"""R runs as one module: what differs between them, as tensors over R."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from vae_sweep.config import RunConfig
from vae_sweep.vae import heads, likelihoods, objective
from vae_sweep.vae.heads import Heads
from vae_sweep.vae.layers import DTYPES, of_runs
from vae_sweep.vae.likelihoods import Likelihoods, Noise
from vae_sweep.vae.networks import build
from vae_sweep.vae.normalize import Affine
from vae_sweep.vae.point import Point
from vae_sweep.vae.streams import Streams


class Forward(NamedTuple):
    """A pass over a batch: t, t_hat, a [R, B, C, H, W]; mu, logvar [R, B, D].

    `u` [R or 1, B, C, H, W] are the pixels; `t_hat` is the decoder's mean.
    """

    u: Tensor
    t: Tensor
    t_hat: Tensor
    a: Tensor
    mu: Tensor
    logvar: Tensor

    def sse(self) -> Tensor:
        """Squared error in target space per image, [R, B]."""
        return objective.squared_error(self.t, self.t_hat).sum((2, 3, 4))

    def kl(self) -> Tensor:
        """KL per image in nats, [R, B]."""
        return of_runs(objective.kl_divergence, self.mu, self.logvar)


class Cohort(nn.Module):
    """The networks of R runs with their normalizations, heads and loss weights.

    Configs must agree in model, precision and data; `shape` is the images' (C, H, W).
    """

    shift: Tensor
    scale: Tensor
    target_shift: Tensor
    target_scale: Tensor
    low: Tensor
    high: Tensor
    recon_weight: Tensor
    kl_weight: Tensor

    def __init__(
        self, configs: list[RunConfig], points: list[Point], shape: tuple[int, int, int]
    ):
        super().__init__()
        self.points = points
        self.pixels = shape[0] * shape[1] * shape[2]
        self.bf16 = configs[0].train.precision == "bf16"
        self.dtype = DTYPES[configs[0].train.precision]
        seeds = [config.seed for config in configs]
        self.model = build(configs[0].model, shape, Streams(seeds, "init").of_runs())
        chosen = [heads.named(config.head) for config in configs]
        targets = [p.target for p in points]
        self.heads = Heads(chosen, targets, [p.zscore for p in points])
        noises = [Noise(p.variance.sqrt(), p.spread, p.tempering) for p in points]
        of_runs = [likelihoods.named(config.likelihood) for config in configs]
        self.likelihoods = Likelihoods(of_runs, chosen, targets, noises)
        ranges = [h.range(target) for h, target in zip(chosen, targets, strict=True)]
        self._per_run("shift", [p.norm.shift for p in points])
        self._per_run("scale", [p.norm.scale for p in points])
        self._per_run("target_shift", [t.shift for t in targets])
        self._per_run("target_scale", [t.scale for t in targets])
        self.compares_inputs = all(config.target_norm == config.norm for config in configs)
        self._per_run("low", [low[:, None, None] for low, _ in ranges])
        self._per_run("high", [high[:, None, None] for _, high in ranges])
        w_r, w_k = torch.tensor([p.weights for p in points], dtype=torch.float64).T
        self.register_buffer("recon_weight", w_r, persistent=False)
        self.register_buffer("kl_weight", w_k, persistent=False)
        self.to(self.dtype)
        starts = [p.start for p in points if p.start is not None]
        if starts:
            centers, gains = (torch.stack(values) for values in zip(*starts, strict=True))
            self.model.start_output(gains, centers)

    def _per_run(self, name: str, values: list[Tensor]) -> None:
        """A buffer [R, 1, ...] of `values` [...], the 1 for the batch."""
        self.register_buffer(name, torch.stack(values)[:, None], persistent=False)

    @property
    def norm(self) -> Affine:
        """Of what the encoders see, [R, 1, C]."""
        return Affine(self.shift, self.scale)

    @property
    def target(self) -> Affine:
        """Of what the decoders are compared with, [R, 1, C]."""
        return Affine(self.target_shift, self.target_scale)

    @property
    def latent(self) -> int:
        """D, the size of mu."""
        return self.model.latent

    def pixels_of(self, images: Tensor) -> Tensor:
        """uint8 [B, C, H, W] (shared) or [R, B, C, H, W] -> u in [0, 1], [R or 1, ...]; on
        CPU channels-last, as the layers' activations."""
        u = images.to(self.shift.dtype) / 255
        if not images.is_cuda:
            rows = u.flatten(0, -4).contiguous(memory_format=torch.channels_last)
            u = rows.unflatten(0, u.shape[:-3])
        return u if u.ndim == 5 else u[None]

    def forward(self, u: Tensor, noise: Tensor) -> Forward:
        """u from `pixels_of`, noise [R, B, D] -> Forward."""
        x = self.norm.forward(u)
        with self._autocast(u):
            a, mu, logvar = self.model(x, noise)
        a, mu, logvar = (v.to(self.dtype) for v in (a, mu, logvar))
        t = x if self.compares_inputs else self.target.forward(u)
        t_hat = self.likelihoods.means(self.heads(a), a)
        return Forward(u, t, t_hat, a, mu, logvar)

    def encode(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """u from `pixels_of` -> mu, logvar, each [R, B, D]; in evaluation."""
        with self._autocast(u):
            mu, logvar = self.model.encode(self.norm.forward(u))
        return mu.to(self.dtype), logvar.to(self.dtype)

    def decode(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """z [R, B, D] -> the decoders' mean images in pixels, and what the heads are of,
        each [R, B, C, H, W]; in evaluation."""
        with self._autocast(z):
            a = self.model.decode(z)
        a = a.to(self.dtype)
        return self.target.inverse(self.likelihoods.means(self.heads(a), a)), a

    def _autocast(self, x: Tensor) -> torch.autocast:
        kind = x.device.type
        return torch.autocast(kind, torch.bfloat16, self.bf16, cache_enabled=False)

    def errors(self, forward: Forward) -> Tensor:
        """What the loss weighs with w_r, per image, [R, B]: a squared or absolute error
        in target space, or a negative log likelihood of the pixels in nats."""
        squared = [likelihood.is_squared for likelihood in self.likelihoods.likelihoods]
        sse = forward.sse() if any(squared) else None
        if sse is not None and all(squared):
            return sse
        u_hat = self.target.inverse(forward.t_hat)
        u = forward.u.expand_as(u_hat)
        rows = [
            sse[r]
            if sse is not None and squared[r]
            else self.likelihoods.error(r, u[r], u_hat[r], forward.a[r])
            for r in range(len(squared))
        ]
        return torch.stack(rows)

    def sse(self, forward: Forward, errors: Tensor) -> Tensor:
        """Squared error in target space per image, [R, B], where `errors` are those of
        `forward`: mostly they are it."""
        squared = [likelihood.is_squared for likelihood in self.likelihoods.likelihoods]
        return errors if all(squared) else forward.sse()

    def terms(self, forward: Forward, beta: Tensor) -> tuple[Tensor, Tensor]:
        """The loss's two terms, batch means, each [R]; beta is [R]."""
        return self.weighed(self.errors(forward), forward.kl(), beta)

    def weighed(self, errors: Tensor, kl: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
        """`terms` of `errors` and KL per image, each [R, B]."""
        return self.recon_weight * errors.mean(1), beta * self.kl_weight * kl.mean(1)
