"""What is said of a point before it is trained: floors, implied noise, linear optimum."""

import math
from typing import NamedTuple

from vae_sweep.config import RunConfig
from vae_sweep.data.dataset import Dataset
from vae_sweep.theory.clipped import clipped_mse_pixel
from vae_sweep.theory.floor import Floor, head_floor
from vae_sweep.theory.linear import LinearGaussian, Optimum, log_density
from vae_sweep.vae import heads, likelihoods
from vae_sweep.vae.normalize import levels
from vae_sweep.vae.objective import implied_sigma
from vae_sweep.vae.point import Point

NAN = math.nan
UNKNOWN = Optimum(*(NAN for _ in Optimum._fields))


class Prediction(NamedTuple):
    """Of one point; nan where theory says nothing.

    `target_low`, `target_high`: range of the training targets. `outside`: share of them
    beyond the head's range; `floor_mse` (target space), `floor_mse_pixel` ([0, 1]
    space), `psnr_cap` (dB): what no network passes on the training images;
    `psnr_cap_val`, `psnr_cap_test`: on the others. `sigma`: noise in 8-bit levels,
    implied, or the linear optimum's where it is learned. `beta_pixel`: the beta of
    SSE + beta * KL in pixels that implies the same noise. The rest is the linear
    optimum: `kl` in nats per image, off by at most `kl_error` where the images are large,
    `psnr` in dB, both bits_per_dim as in metrics;
    `psnr_clipped`, and `bits_per_dim_clipped`, calibrated, are its own with outputs clipped
    to the head's range, if that is limited.
    """

    target_low: float
    target_high: float
    outside: float
    floor_mse: float
    floor_mse_pixel: float
    psnr_cap: float
    psnr_cap_val: float
    psnr_cap_test: float
    sigma: float
    beta_pixel: float
    active_units: float
    kl: float
    kl_error: float
    mse_pixel: float
    psnr: float
    psnr_clipped: float
    bits_per_dim_clipped: float
    bits_per_dim: float
    bits_per_dim_calibrated: float
    sentence: str
    curve: tuple[list[float], list[float]]  # KL in nats per image, PSNR in dB


def predict(config: RunConfig, point: Point, dataset: Dataset) -> Prediction:
    """What theory says of `config` on the training split of `dataset`, and each split's
    cap."""
    _, height, width = dataset.shape
    scale, latent = point.target.scale.numpy(), config.model.latent
    pixels = height * width * len(scale)
    spectrum = dataset.spectra.of(scale, latent)
    linear = spectrum and LinearGaussian(spectrum, scale, latent, height * width)
    optimum = _optimum(config, point, linear) if linear else UNKNOWN
    learned = implied_sigma(optimum.variance * point.target.scale**2)
    sigma = learned if math.isnan(point.sigma) else point.sigma
    low, high = _target_range(point, dataset)
    floor, val, test = (
        head_floor(heads.named(config.head), point.target, counts)
        for counts in (dataset.counts, dataset.val_counts, dataset.test_counts)
    )
    caps = {"training": floor.psnr_cap, "val": val.psnr_cap, "test": test.psnr_cap}
    clipped = _clipped(config, point, dataset, optimum, floor)
    calibrated = log_density(clipped, clipped * pixels, pixels)
    own_density = likelihoods.named(config.likelihood).kind == "density"
    return Prediction(
        target_low=low,
        target_high=high,
        outside=floor.outside,
        floor_mse=floor.mse,
        floor_mse_pixel=floor.mse_pixel,
        psnr_cap=floor.psnr_cap,
        psnr_cap_val=val.psnr_cap,
        psnr_cap_test=test.psnr_cap,
        sigma=sigma,
        beta_pixel=point.beta_pixel,
        active_units=optimum.active_units,
        kl=optimum.kl,
        kl_error=optimum.kl_error,
        mse_pixel=optimum.mse_pixel,
        psnr=_psnr(optimum.mse_pixel),
        psnr_clipped=_psnr(clipped),
        bits_per_dim=_bits(optimum.elbo, pixels) if own_density else math.nan,
        bits_per_dim_calibrated=_bits(optimum.elbo_calibrated, pixels),
        bits_per_dim_clipped=_bits(calibrated - optimum.kl, pixels),
        sentence=f"{_of_range(config.head, floor.outside, caps)}; "
        f"{_of_noise(config, point, optimum, sigma)}",
        curve=linear.curve() if linear else ([], []),
    )


def _optimum(config: RunConfig, point: Point, linear: LinearGaussian) -> Optimum:
    likelihood = likelihoods.named(config.likelihood)
    if likelihood.is_squared:
        in_target_space = point.variance / point.target.scale**2  # equal in all channels
        return linear.at(in_target_space[0].item())
    if likelihood.is_gaussian:
        return linear.learned(point.tempering)
    return UNKNOWN


def _psnr(mse_pixel: float) -> float:
    return -10 * math.log10(mse_pixel) if mse_pixel else math.inf


def _clipped(
    config: RunConfig, point: Point, dataset: Dataset, optimum: Optimum, floor: Floor
) -> float:
    """Squared error per element in [0, 1] space of the optimum within the head's range."""
    low, high = heads.named(config.head).range(point.target)
    if math.isnan(optimum.mse_pixel) or (low.isinf() & high.isinf()).all():
        return NAN
    return clipped_mse_pixel(
        *(optimum, dataset.spectra, point.target, config.model.latent),
        *((low, high), floor.mse_pixel),
    )


def _target_range(point: Point, dataset: Dataset) -> tuple[float, float]:
    """Lowest and highest target of the training split, over all channels."""
    t = point.target.forward(levels(len(dataset.counts))).squeeze(1)
    there = t[dataset.counts > 0]
    return there.min().item(), there.max().item()


def _bits(elbo: float, pixels: int) -> float:
    return -elbo / (pixels * math.log(2)) + 8


def _of_range(head: str, outside: float, caps: dict[str, float]) -> str:
    """Of a head's range; `outside` is a share, `caps` are dB by split."""
    if min(caps.values()) == math.inf:
        return f"{head} reaches every target"
    finite = [
        f"{cap:.2f} dB on the {split} images"
        for split, cap in caps.items()
        if cap < math.inf
    ]
    return (
        f"{100 * outside:.2g} % of the training targets lie outside {head}'s "
        f"range: no network can pass {', '.join(finite)}"
    )


def _of_noise(config: RunConfig, point: Point, optimum: Optimum, sigma: float) -> str:
    if point.beta == 0:
        return "beta=0 is a plain autoencoder: nothing limits its KL"
    if math.isnan(sigma):
        return f"likelihood={config.likelihood} has no linear optimum in closed form"
    noise = f"{'implied' if point.sigma > 0 else 'learned'} noise {_short(sigma)}/255"
    times = point.tempering / point.beta
    if times != 1:
        noise += f" (reduction={config.reduction} multiplies beta by {times:.4g})"
    latent, used = config.model.latent, optimum.active_units
    if math.isnan(used):
        return noise
    if used == 0 and optimum.mse_pixel == 0:
        return (
            f"{noise}, and the images do not vary: expect all {latent} latents to be unused"
        )
    if used == 0:
        return (
            f"{noise}, more than the images vary in any direction: expect all {latent} "
            f"latents to be unused"
        )
    rest = 255 * math.sqrt(optimum.mse_pixel)
    if 3 * sigma < rest:
        return (
            f"{noise} is far below the {_short(rest)}/255 that {latent} linear latents "
            f"leave as error: expect the KL term to have almost no effect"
        )
    if used < latent / 2:
        return f"{noise}: expect most latents to be unused, {used} of {latent} in use"
    return f"{noise} leaves {used} of {latent} latents in use"


def _short(sigma: float) -> str:
    return f"{sigma:.0f}" if sigma >= 9.95 else f"{sigma:.2g}"
