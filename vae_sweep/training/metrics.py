"""Every logged number, defined once. Means are over images, not over batches."""

from collections.abc import Callable
from typing import get_args

import torch
from torch import Tensor

from vae_sweep.vae import objective
from vae_sweep.vae.cohort import Cohort, Forward
from vae_sweep.vae.likelihoods import Kind, Likelihood
from vae_sweep.vae.streams import Streams

NAMES = (
    "loss",  # what is minimized, at the beta of the step
    "mse",  # per element, target space
    "mse_pixel",  # per element, [0, 1] space, unclipped
    "psnr",  # dB, of the mean squared error of the clipped images
    "kl",  # nats per image
    "nll",  # nats per image, of the run's own density in pixel space, at its noise
    "elbo",
    "bits_per_dim",
    "nll_discrete",  # nats per image, of the run's own mass over the 256 levels
    "elbo_discrete",
    "bits_per_dim_discrete",
    "nll_bernoulli",  # nats per image; no probability of gray values
    "elbo_calibrated",  # of a Gaussian density at the variance that fits best
    "bits_per_dim_calibrated",
    "sigma",  # noise of the run's own likelihood, 8-bit levels
    "recon_share",  # the reconstruction term's share of the loss, unless a density's
    "active_units",  # latents whose mean's variance over the split is above 0.01
    "grad_norm_recon",  # of the loss's two terms in the encoder's parameters, on the
    "grad_norm_kl",  # split's first CHUNK images
    "head_saturation",  # share of outputs where |g'| < 0.05
    "out_of_range",  # share of targets outside the head's range
)

SPLITS = ("train", "val", "test")
COLUMNS = ("step", "epoch", *(f"{s}/{name}" for s in SPLITS for name in NAMES))

CHUNK = 64  # images that are evaluated at once


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
    u_hat = cohort.target.inverse(forward.t_hat)
    outside = (forward.t < cohort.low) | (forward.t > cohort.high)
    saturated = cohort.heads.derivative(forward.a).abs() < 0.05
    return {
        "sse": forward.sse(),
        "error": cohort.errors(forward),
        "sse_pixel": objective.squared_error(u, u_hat).sum((3, 4)),  # [R, B, C]
        "sse_clipped": objective.squared_error(u, u_hat.clamp(0, 1)).sum((2, 3, 4)),
        "kl": forward.kl(),
        "mu": forward.mu.double(),  # [R, B, D]
        "mu_squared": forward.mu.double() ** 2,  # [R, B, D]
        "outside": outside.expand_as(forward.a).double().mean((2, 3, 4)),
        "saturated": saturated.double().mean((2, 3, 4)),
    }


def _gradient_norms(cohort: Cohort, forward: Forward, beta: Tensor):
    """Norms [R] of the gradients of the two terms in the encoder's parameters."""
    parameters = cohort.model.encoder_parameters()
    recon, kl = cohort.terms(forward, beta)
    norms = []
    for term, keep in ((recon, True), (kl, False)):
        gradients = torch.autograd.grad(
            term.sum(), parameters, retain_graph=keep, materialize_grads=True
        )
        rows = torch.cat([g.flatten(1) for g in gradients], 1).double()
        # row by row: a sum over [R, P] may round by R
        norms.append(torch.stack([row.square().sum().sqrt() for row in rows]))
    return norms[0], norms[1]


def evaluate(
    cohort: Cohort,
    images: Tensor,
    beta: Tensor,
    seeds: list[int],
    chunk: int = CHUNK,
    pause: Callable[[], None] = lambda: None,
) -> dict[str, Tensor]:
    """NAMES -> float64 [R] over uint8 `images` [n, C, H, W], with sampled z.

    `beta` [R] is that of the step. The noise is the same at every call. `pause` is called
    before each chunk, and may raise.
    """
    was_training = cohort.training
    cohort.eval()
    noise_streams = Streams(seeds, "evaluation")
    sums = Sums()
    gradient_norms: tuple[Tensor, Tensor] | None = None
    for part in images.split(chunk):
        pause()
        u = cohort.pixels_of(part)
        noise = noise_streams.normal(len(part), cohort.latent).to(u)
        with torch.set_grad_enabled(gradient_norms is None):
            forward = cohort(u, noise)
        if gradient_norms is None:
            gradient_norms = _gradient_norms(cohort, forward, beta)
        with torch.no_grad():
            sums.add(_per_image(cohort, u, forward))
    cohort.train(was_training)
    assert gradient_norms is not None
    return _derived(cohort, sums, beta.double(), gradient_norms)


def _own_likelihood(cohort: Cohort, sums: Sums) -> tuple[Tensor, Tensor]:
    """(log likelihood in nats per image, noise in 8-bit levels), each [R]."""
    error, sse_pixel = sums.mean("error"), sums.mean("sse_pixel")
    size = cohort.pixels // sse_pixel.shape[1]
    values, sigmas = [], []
    with torch.no_grad():
        for r, mse in enumerate(sse_pixel / size):
            values.append(cohort.likelihoods.log_likelihood(r, error[r], mse, size))
            std = cohort.likelihoods.std(r, mse)
            sigmas.append(255 * std.square().mean().sqrt())
    return torch.stack(values), torch.stack(sigmas)


def _derived(
    cohort: Cohort, sums: Sums, beta: Tensor, gradient_norms: tuple[Tensor, Tensor]
) -> dict[str, Tensor]:
    pixels, kl = cohort.pixels, sums.mean("kl")
    chosen = cohort.likelihoods.likelihoods
    sse_pixel = sums.mean("sse_pixel")  # [R, C]
    mse_pixel = sse_pixel.sum(1) / pixels
    log_likelihood, sigma = _own_likelihood(cohort, sums)
    nll = {kind: _only(kind, chosen, -log_likelihood) for kind in get_args(Kind)}
    elbo, elbo_discrete = -nll["density"] - kl, -nll["mass"] - kl
    best = mse_pixel[:, None]
    calibrated = objective.elbo(sse_pixel.sum(1, keepdim=True), kl, best, pixels)
    # the mean over chunks of gaussian_optimal's error has each chunk's own noise
    optimal = _mask([each.noise == "optimal" for each in chosen], kl)
    error = torch.where(optimal, -log_likelihood, sums.mean("error"))
    recon = cohort.recon_weight.double() * error
    loss = recon + beta * cohort.kl_weight.double() * kl
    # a density's logarithm is no share of anything: it may have either sign
    is_share = [each.kind != "density" or each.noise == "implied" for each in chosen]
    mu_variance = sums.mean("mu_squared") - sums.mean("mu") ** 2
    bits, active = objective.bits_per_dim, (mu_variance > 0.01).sum(1)
    return {
        "loss": loss,
        "mse": sums.mean("sse") / pixels,
        "mse_pixel": mse_pixel,
        "psnr": -10 * torch.log10(sums.mean("sse_clipped") / pixels),
        "kl": kl,
        "nll": nll["density"],
        "elbo": elbo,
        "bits_per_dim": bits(elbo, pixels),
        "nll_discrete": nll["mass"],
        "elbo_discrete": elbo_discrete,
        "bits_per_dim_discrete": bits(elbo_discrete, pixels) - 8,  # a mass has no bin width
        "nll_bernoulli": nll["cross_entropy"],
        "elbo_calibrated": calibrated,
        "bits_per_dim_calibrated": bits(calibrated, pixels),
        "sigma": sigma,
        "recon_share": torch.where(_mask(is_share, kl), recon / loss, torch.nan),
        "active_units": active.double(),
        "grad_norm_recon": gradient_norms[0],
        "grad_norm_kl": gradient_norms[1],
        "head_saturation": sums.mean("saturated"),
        "out_of_range": sums.mean("outside"),
    }


def _mask(flags: list[bool], like: Tensor) -> Tensor:
    return torch.tensor(flags, device=like.device)


def _only(kind: Kind, chosen: list[Likelihood], values: Tensor) -> Tensor:
    """`values` [R] of the runs whose likelihood is of this kind, nan for the others."""
    return torch.where(
        _mask([each.kind == kind for each in chosen], values), values, torch.nan
    )
