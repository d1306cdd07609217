"""Every logged number, defined once. Means are over images, not over batches."""

import torch
from torch import Tensor

from vae_sweep import objective
from vae_sweep.cohort import Cohort, Forward, Streams

NAMES = (
    "loss",  # what is minimized, at the beta of the step
    "mse",  # per element, target space
    "mse_pixel",  # per element, [0, 1] space, unclipped
    "psnr",  # dB, of the mean squared error of the clipped images
    "kl",  # nats per image
    "elbo",  # nats per image, pixel space, at the implied variance
    "bits_per_dim",
    "elbo_calibrated",  # the same at the variance that fits best
    "bits_per_dim_calibrated",
    "recon_share",  # the reconstruction term's share of the loss
    "active_units",  # latents whose mean's variance over the split is above 0.01
    "grad_norm_recon",  # of the loss's two terms in the encoder's parameters, on the
    "grad_norm_kl",  # split's first batch
    "head_saturation",  # share of outputs where |g'| < 0.05
    "out_of_range",  # share of targets outside the head's range
)


class Sums:
    """Float64 sums over the images of a split, for R runs."""

    def __init__(self):
        self.images = 0
        self.total: dict[str, Tensor] = {}

    def add(self, values: dict[str, Tensor]) -> None:
        """Adds [R, B, ...] tensors, summed over B."""
        self.images += next(iter(values.values())).shape[1]
        for name, value in values.items():
            part = value.double().sum(1)
            self.total[name] = self.total[name] + part if name in self.total else part

    def mean(self, name: str) -> Tensor:
        return self.total[name] / self.images


def _per_image(cohort: Cohort, u: Tensor, forward: Forward) -> dict[str, Tensor]:
    """What is summed over images: [R, B], or [R, B, C] and [R, B, D] where it says so."""
    u_hat = cohort.to_pixels(forward.t_hat)
    outside = (forward.t < cohort.low) | (forward.t > cohort.high)
    saturated = cohort.heads.derivative(forward.a).abs() < 0.05
    return {
        "sse": forward.sse(),
        "sse_pixel": objective.squared_error(u, u_hat).sum((3, 4)),  # [R, B, C]
        "sse_clipped": objective.squared_error(u, u_hat.clamp(0, 1)).sum((2, 3, 4)),
        "kl": forward.kl(),
        "mu": forward.mu.double(),  # [R, B, D]
        "mu_squared": forward.mu.double() ** 2,  # [R, B, D]
        "outside": outside.expand_as(forward.a).double().mean((2, 3, 4)),
        "saturated": saturated.double().mean((2, 3, 4)),
    }


def _gradient_norms(cohort: Cohort, u: Tensor, noise: Tensor, beta: Tensor):
    """Norms [R] of the gradients of the two terms in the encoder's parameters."""
    parameters = cohort.model.encoder_parameters()
    recon, kl = cohort.terms(cohort(u, noise), beta)
    norms = []
    for term, keep in ((recon, True), (kl, False)):
        gradients = torch.autograd.grad(term.sum(), parameters, retain_graph=keep)
        rows = torch.cat([g.flatten(1) for g in gradients], 1).double()
        # row by row: a sum over [R, P] may round by R
        norms.append(torch.stack([row.square().sum().sqrt() for row in rows]))
    return norms[0], norms[1]


def evaluate(
    cohort: Cohort, images: Tensor, beta: Tensor, seeds: list[int], batch: int
) -> dict[str, Tensor]:
    """NAMES -> float64 [R] over uint8 `images` [n, C, H, W], with sampled z.

    `beta` [R] is that of the step. The noise is the same at every call.
    """
    was_training = cohort.training
    cohort.eval()
    noise_streams = Streams(seeds, "evaluation")
    sums = Sums()
    gradient_norms: tuple[Tensor, Tensor] | None = None
    for chunk in images.split(batch):
        u = cohort.pixels_of(chunk)
        noise = noise_streams.normal(len(chunk), cohort.latent).to(u)
        if gradient_norms is None:
            gradient_norms = _gradient_norms(cohort, u, noise, beta)
        with torch.no_grad():
            sums.add(_per_image(cohort, u, cohort(u, noise)))
    cohort.train(was_training)
    assert gradient_norms is not None
    return _derived(cohort, sums, beta.double(), gradient_norms)


def _derived(
    cohort: Cohort, sums: Sums, beta: Tensor, gradient_norms: tuple[Tensor, Tensor]
) -> dict[str, Tensor]:
    pixels, kl = cohort.pixels, sums.mean("kl")
    sse_pixel = sums.mean("sse_pixel")  # [R, C]
    mse_pixel = sse_pixel.sum(1) / pixels
    variance = torch.stack([p.variance for p in cohort.points]).to(kl)
    elbo = objective.elbo(sse_pixel, kl, variance, pixels)
    best = mse_pixel[:, None]
    calibrated = objective.elbo(sse_pixel.sum(1, keepdim=True), kl, best, pixels)
    recon = cohort.recon_weight.double() * sums.mean("sse")
    loss = recon + beta * cohort.kl_weight.double() * kl
    mu_variance = sums.mean("mu_squared") - sums.mean("mu") ** 2
    values = (
        loss,
        sums.mean("sse") / pixels,
        mse_pixel,
        -10 * torch.log10(sums.mean("sse_clipped") / pixels),
        kl,
        elbo,
        objective.bits_per_dim(elbo, pixels),
        calibrated,
        objective.bits_per_dim(calibrated, pixels),
        recon / loss,
        (mu_variance > 0.01).sum(1).double(),
        *gradient_norms,
        sums.mean("saturated"),
        sums.mean("outside"),
    )
    return dict(zip(NAMES, values, strict=True))
