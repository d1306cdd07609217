"""What is left of the linear optimum where a head's range is limited."""

import math

import torch
from torch import Tensor

from vae_sweep.data.spectrum import Spectra, Spectrum
from vae_sweep.theory.linear import Optimum
from vae_sweep.vae.normalize import Affine

IMAGES = 250  # evenly spaced, that clipping is measured on; fewer that are large
NUMBERS = 2e7  # that these have at most
FAR = 1e9  # in target space: where a range that has one end is taken to have the other


def expected_error(
    t: Tensor, mean: Tensor, variance: Tensor, low: Tensor, high: Tensor
) -> Tensor:
    """E[(t - clip(x, low, high))^2] of x normal, elementwise; ends are finite.

    With a = (low - mean) / std, b = (high - mean) / std it is (t - low)^2 P(x < low)
    + (t - high)^2 P(x > high), and of what lies between (d^2 + var) (Phi(b) - Phi(a))
    - 2 d std (phi(a) - phi(b)) + var (a phi(a) - b phi(b)), where d = t - mean.
    """
    std = variance.sqrt().clamp(min=1e-12)
    a, b = (low - mean) / std, (high - mean) / std
    below, above = torch.special.ndtr(a), torch.special.ndtr(-b)
    density_a, density_b = _density(a), _density(b)
    d, between = t - mean, 1 - below - above
    return (
        (t - low) ** 2 * below
        + (t - high) ** 2 * above
        + (d**2 + variance) * between
        - 2 * d * std * (density_a - density_b)
        + variance * (a * density_a - b * density_b)
    )


def _density(x: Tensor) -> Tensor:
    return torch.exp(-0.5 * x**2) / math.sqrt(2 * math.pi)


def clipped_mse_pixel(
    optimum: Optimum,
    spectra: Spectra,
    target: Affine,
    latent: int,
    ends: tuple[Tensor, Tensor],
    floor_mse_pixel: float,
) -> float:
    """The linear optimum's expected squared error per element, in [0, 1] space, where its
    outputs are clipped to a head's range in target space.

    Its output of an image is normal, z being sampled: along an active direction the image's
    own coordinate is multiplied by s = 1 - v / lam, and has the variance s v. The optimum's
    own error and the head's floor are exact for the whole training split; what the error
    within the range differs from their sum is measured on at most IMAGES images of it.

    Args:
        ends: (low, high) of the head's range, [C] in target space.
        floor_mse_pixel: The head's floor on the training split, in [0, 1] space.
    """
    spectrum = spectra.of(target.scale.numpy(), latent)
    assert spectrum is not None
    count = max(1, min(IMAGES, int(NUMBERS / spectra.pixels)))
    chosen = spectra.images[:: max(1, len(spectra.images) // count)][:count]
    t = target.forward(torch.from_numpy(chosen) / 255.0).flatten(1)
    center = target.forward(torch.from_numpy(spectra.mean)).flatten().to(t)
    mean, variance = _output(t - center, spectrum, target, optimum)
    mean += center
    size = t.shape[1] // len(target.scale)
    low, high, scale = (
        v.clamp(-FAR, FAR).to(t).repeat_interleave(size) for v in (*ends, target.scale)
    )
    clipped = expected_error(t, mean, variance, low, high)
    of_optimum = (t - mean) ** 2 + variance
    of_floor = (t - torch.clamp(t, low, high)) ** 2
    more = (scale**2 * (clipped - of_optimum - of_floor)).mean().item()
    return optimum.mse_pixel + floor_mse_pixel + more


def _output(
    deviation: Tensor, spectrum: Spectrum, target: Affine, optimum: Optimum
) -> tuple[Tensor, Tensor]:
    """(mean [n, N], variance [N]) of the optimum's outputs, less the targets' mean, for
    images with `deviation` [n, N] from it in target space."""
    count, v = int(optimum.active_units), optimum.threshold
    unit = target.scale.square().mean()
    lam = torch.from_numpy(spectrum.values[:count]) / unit
    kept = 1 - v / lam
    vectors = torch.from_numpy(spectrum.vectors[:count]).to(deviation)
    coordinates = deviation @ vectors.T
    mean = (coordinates * kept.to(coordinates)) @ vectors
    return mean, (kept * v).to(vectors) @ vectors**2
