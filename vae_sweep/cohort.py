"""R runs as one module: what differs between them, as tensors over R.

`seed` alone decides initial weights, batch order and noise, through one named stream
each: streams of equal seed are equal, whatever else is in the cohort.
"""

import hashlib
from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn

from vae_sweep import objective, schedules
from vae_sweep.config import ERRORS, Head, RunConfig
from vae_sweep.heads import STANDARDIZED, Heads, range_of
from vae_sweep.likelihoods import Likelihoods, Noise
from vae_sweep.models import build
from vae_sweep.normalize import Affine, fit, moments
from vae_sweep.theory import Floor, head_floor

DTYPES = {  # of weights and what is accumulated
    "fp32": torch.float32,
    "tf32": torch.float32,
    "bf16": torch.float32,
    "fp64": torch.float64,
}


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


class Point(NamedTuple):
    """One run's constants, exact (float64)."""

    norm: Affine
    target: Affine
    zscore: Affine | None
    weights: tuple[float, float]  # (w_r, w_k) of the reduction
    beta: float  # the one the run trains towards
    variance: Tensor  # implied decoder variance [C], pixel units, at `beta`; or nan
    spread: float  # root mean square deviation of the targets from their mean
    floor: Floor

    @property
    def sigma(self) -> float:
        """Implied decoder noise in 8-bit levels; nan where beta implies none."""
        return objective.implied_sigma(self.variance)

    @property
    def beta_pixel(self) -> float:
        """The beta of SSE_u + beta * KL, in pixels, with the same noise; or nan."""
        return 2 * self.variance.mean().item()

    @property
    def tempering(self) -> float:
        """Nats of likelihood that the loss gives for a nat of KL: beta w_k / w_r."""
        return self.beta * self.weights[1] / self.weights[0]


def point(config: RunConfig, counts: Tensor, size: int) -> Point:
    """The constants of `config` on a training split with level `counts` [C, 256].

    `size` is H*W. Raises UserError where a normalization is undefined.
    """
    pixels, latent = len(counts) * size, config.model.latent
    target = fit(config.target_norm, counts)
    weights = objective.reduction_weights(config.reduction, pixels, latent)
    implied, power = objective.implied_variance, 1
    if config.likelihood == "l1":
        implied, power = objective.implied_laplace_variance, 2
    unit = implied(1.0, weights, target.scale).mean().item()
    beta = schedules.final_beta(config.beta, pixels, latent, unit, power)
    variance = implied(beta, weights, target.scale)
    # images of one colour have no spread; a level's is as good a start as any
    std = moments(counts)[1].clamp(min=1 / 255) / target.scale
    return Point(
        norm=fit(config.norm, counts),
        target=target,
        zscore=fit("zscore", counts, f"head={STANDARDIZED}")
        if config.head == STANDARDIZED
        else None,
        weights=weights,
        beta=beta,
        variance=variance if config.likelihood in ERRORS else variance * torch.nan,
        spread=std.square().mean().sqrt().item(),
        floor=head_floor(config.head, target, counts),
    )


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
        return objective.kl_divergence(self.mu, self.logvar)


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
        heads: list[Head] = [config.head for config in configs]
        targets = [p.target for p in points]
        self.heads = Heads(heads, targets, [p.zscore for p in points])
        noises = [Noise(p.variance.sqrt(), p.spread) for p in points]
        self.likelihoods = Likelihoods(
            [config.likelihood for config in configs], heads, targets, noises
        )
        ranges = [range_of(*each) for each in zip(heads, targets, strict=True)]
        self._per_channel("shift", [p.norm.shift for p in points])
        self._per_channel("scale", [p.norm.scale for p in points])
        self._per_channel("target_shift", [t.shift for t in targets])
        self._per_channel("target_scale", [t.scale for t in targets])
        self._per_channel("low", [low for low, _ in ranges])
        self._per_channel("high", [high for _, high in ranges])
        w_r, w_k = torch.tensor([p.weights for p in points], dtype=torch.float64).T
        self.register_buffer("recon_weight", w_r, persistent=False)
        self.register_buffer("kl_weight", w_k, persistent=False)
        self.to(self.dtype)

    def _per_channel(self, name: str, values: list[Tensor]) -> None:
        stacked = torch.stack(values)[:, None, :, None, None]
        self.register_buffer(name, stacked, persistent=False)

    @property
    def latent(self) -> int:
        return self.model.latent

    def pixels_of(self, images: Tensor) -> Tensor:
        """uint8 [B, C, H, W] (shared) or [R, B, C, H, W] -> u in [0, 1], [R or 1, ...]."""
        u = images.to(self.shift.dtype) / 255
        return u if u.ndim == 5 else u[None]

    def to_pixels(self, t_hat: Tensor) -> Tensor:
        """u_hat = scale * t_hat + shift, unclipped."""
        return t_hat * self.target_scale + self.target_shift

    def forward(self, u: Tensor, noise: Tensor) -> Forward:
        """u from `pixels_of`, noise [R, B, D] -> Forward."""
        x = (u - self.shift) / self.scale
        with torch.autocast(u.device.type, torch.bfloat16, self.bf16, cache_enabled=False):
            a, mu, logvar = self.model(x, noise)
        a, mu, logvar = (v.to(self.dtype) for v in (a, mu, logvar))
        t = (u - self.target_shift) / self.target_scale
        t_hat = self.heads(a)
        if "continuous_bernoulli" in self.likelihoods.names:
            runs = enumerate(zip(t_hat, a, strict=True))
            t_hat = torch.stack([self.likelihoods.mean(r, *each) for r, each in runs])
        return Forward(u, t, t_hat, a, mu, logvar)

    def errors(self, forward: Forward) -> Tensor:
        """What the loss weighs with w_r, per image, [R, B]: a squared or absolute error
        in target space, or a negative log likelihood of the pixels in nats."""
        sse, names = forward.sse(), self.likelihoods.names
        if set(names) == {"mse"}:
            return sse
        u_hat = self.to_pixels(forward.t_hat)
        u = forward.u.expand_as(u_hat)
        rows = [
            sse[r]
            if name == "mse"
            else self.likelihoods.error(r, u[r], u_hat[r], forward.a[r])
            for r, name in enumerate(names)
        ]
        return torch.stack(rows)

    def terms(self, forward: Forward, beta: Tensor) -> tuple[Tensor, Tensor]:
        """The loss's two terms, batch means, each [R]; beta is [R]."""
        recon = self.recon_weight * self.errors(forward).mean(1)
        return recon, beta * self.kl_weight * forward.kl().mean(1)
