"""Squared error, KL, reductions, implied noise and the ELBO."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from vae_sweep import options
from vae_sweep.errors import UserError


def squared_error(t: Tensor, t_hat: Tensor) -> Tensor:
    """(t - t_hat)^2, elementwise."""
    return (t - t_hat) ** 2


def kl_divergence(mu: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(mu, exp(logvar)) || N(0, I)) per image, nats: [..., D] -> [...].

    Kingma & Welling 2014, appendix B.
    """
    return 0.5 * (mu**2 + logvar.exp() - 1 - logvar).sum(-1)


Reduction = Callable[[int, int], tuple[float, float]]  # (N, D) -> (w_r, w_k)


def _half(pixels: int, latent: int) -> tuple[float, float]:
    return 0.5, 1.0


# of the objective w_r * SSE_t + beta * w_k * KL
OURS: dict[str, Reduction] = {
    "sum": lambda pixels, latent: (1.0, 1.0),
    "gaussian": _half,
    "mean": lambda pixels, latent: (1 / pixels, 1 / latent),
    "pixel_mean": lambda pixels, latent: (1 / pixels, 1.0),
}


def reduction(name: str) -> Reduction:
    """The reduction of a name; raises UserError as options.find."""
    what = "a function (N, D) -> (w_r, w_k)"
    return options.find("reduction", name, OURS, options.function, what)


def check_reduction(name: str, likelihood: str, is_squared: bool) -> None:
    """Raises UserError where a reduction has no meaning for a likelihood's error."""
    if reduction(name) is _half and not is_squared:
        raise UserError(
            f"reduction={name} is the factor 1/2 of a Gaussian's squared error, and "
            f"likelihood={likelihood} has no squared error; set reduction=sum"
        )


def reduction_weights(name: str, pixels: int, latent: int) -> tuple[float, float]:
    """(w_r, w_k) of the objective w_r * SSE_t + beta * w_k * KL; pixels N, latent D."""
    return reduction(name)(pixels, latent)


def tempering(beta: float, weights: tuple[float, float]) -> float:
    """Nats of likelihood that the loss gives for a nat of KL: beta w_k / w_r."""
    w_r, w_k = weights
    return beta * w_k / w_r


def implied_variance(beta: float, weights: tuple[float, float], scale: Tensor) -> Tensor:
    """Decoder variance v_c = (beta w_k / w_r) scale_c^2 / 2 in pixel units, [C].

    The objective divided by beta * w_k is sum_c SSE_u,c / (2 v_c) + KL.
    """
    return tempering(beta, weights) * scale**2 / 2


def implied_sigma(variance: Tensor) -> float:
    """Implied decoder noise in 8-bit levels, from v_c [C] averaged over channels."""
    return 255 * math.sqrt(variance.mean().item())


def implied_laplace_variance(
    beta: float, weights: tuple[float, float], scale: Tensor
) -> Tensor:
    """Variance v_c = 2 b_c^2 in pixel units, [C], of the Laplace decoder that an absolute
    error implies: divided by beta * w_k the objective is sum_c SAE_u,c / b_c + KL, with
    b_c = (beta w_k / w_r) scale_c.
    """
    return 2 * (tempering(beta, weights) * scale) ** 2


def gaussian_log_likelihood(sse: Tensor, variance: Tensor, pixels: int) -> Tensor:
    """Log density in nats per image of a Gaussian with variance v_c, in pixel space.

    `sse` [..., C] is the squared pixel error per image and channel, `variance` [..., C],
    `pixels` N = C*H*W. Where v is 0 the density is undefined: nan.
    """
    per_channel = pixels / variance.shape[-1]
    value = -per_channel / 2 * torch.log(2 * math.pi * variance) - sse / (2 * variance)
    return torch.where((variance > 0).all(-1), value.sum(-1), torch.nan)


def elbo(sse: Tensor, kl: Tensor, variance: Tensor, pixels: int) -> Tensor:
    """Pixel-space ELBO in nats per image of a Gaussian decoder; `kl` [...] in nats."""
    return gaussian_log_likelihood(sse, variance, pixels) - kl


def bits_per_dim(elbo: Tensor, pixels: int) -> Tensor:
    """-ELBO / (N ln 2) + 8: bits per 8-bit level; the 8 is log2 of the levels in [0, 1]."""
    return -elbo / (pixels * math.log(2)) + 8
