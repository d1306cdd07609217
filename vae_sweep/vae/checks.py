"""Whether an option is what it says: range and derivative of a head, the integral of a
density, the inverse of a normalization. What a user's own must pass before anything trains.

Every check raises UserError with what was found; `what` names the option as it was typed.
"""

import math
from collections.abc import Callable
from functools import cache
from typing import Any, NoReturn, get_args

import numpy as np
import torch
from torch import Tensor

from vae_sweep import options
from vae_sweep.config import BetaConfig
from vae_sweep.errors import UserError
from vae_sweep.vae import heads, likelihoods, normalize, objective, schedules
from vae_sweep.vae.heads import Head
from vae_sweep.vae.likelihoods import Kind, Likelihood
from vae_sweep.vae.normalize import Affine, Norm
from vae_sweep.vae.objective import Reduction
from vae_sweep.vae.schedules import Implied, Schedule

STEP = 1e-5  # of finite differences, in float64
CLOSE = 1e-4  # relative, of derivatives by finite differences
NORMALIZED = 1e-3  # how far from 1 a density may integrate by quadrature
REACHED = 0.01  # of a range, that a head's outputs may stay away from its ends


def _refuse(what: str, rule: str, found: str) -> NoReturn:
    raise UserError(f"{what}: {rule}, got {found}")


def _called(what: str, name: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """`function(*arguments)`; `name` is that of the function in a message."""
    try:
        return function(*arguments)
    except (Exception, SystemExit) as error:
        said = options.raised(error, what.partition("=")[2])
        raise UserError(f"{what}: its {name} raised {said}") from error


def _values_of(what: str, name: str, function: Callable[..., Any], *at: Tensor) -> Tensor:
    """`function` at tensors that broadcast to the shape of the first."""
    y = _called(what, name, function, *at)
    if not isinstance(y, Tensor) or y.shape != at[0].shape:
        found = list(y.shape) if isinstance(y, Tensor) else f"a {type(y).__name__}"
        rule = f"its {name} must return a tensor of the shape that it is given"
        _refuse(what, f"{rule}, {list(at[0].shape)}", str(found))
    if y.dtype != at[0].dtype:
        _refuse(what, f"its {name} must return the type that it is given", str(y.dtype))
    if bool(y.isnan().any()):
        found = f"nan at {_at(at, y.isnan())}"
        _refuse(what, f"its {name} must be a number everywhere", found)
    return y


def _check_elementwise(
    what: str, name: str, function: Callable[..., Any], *at: Tensor
) -> None:
    """Refuses a function whose value at a place depends on other places; `at` are images
    [B, C, H, W], or what broadcasts to them."""
    whole = _values_of(what, name, function, *at)
    every = [x.expand_as(at[0]).flatten() for x in at]
    for place, value in enumerate(whole.flatten()):
        alone = _values_of(
            what, name, function, *(x[place].view(1, 1, 1, 1) for x in every)
        )
        if not torch.allclose(alone.flatten(), value, rtol=1e-9, atol=1e-12):
            _refuse(what, f"its {name} must be elementwise", "values that depend on others")


def _drawn(low: float, high: float) -> Tensor:
    """Numbers as an image batch has, float64 [2, 3, 2, 2]."""
    generator = torch.Generator().manual_seed(0)
    shape = (2, 3, 2, 2)
    return low + (high - low) * torch.rand(shape, dtype=torch.float64, generator=generator)


def _at(arguments: tuple[Tensor, ...], where: Tensor) -> str:
    values = (f"{x.expand_as(where)[where][0].item():.4g}" for x in arguments)
    return ", ".join(values)


# --- heads ---


def check_head(head: Head, what: str = "head") -> None:
    """Range, derivative, gradient and logit of a head.

    Raises:
        UserError: Its outputs leave the range that it declares or stay far within, its
            derivative is not that of its function by finite differences, or it is not
            elementwise.
    """
    if not (isinstance(head.low, int | float) and isinstance(head.high, int | float)):
        _refuse(what, "low and high must be numbers", f"{head.low!r} and {head.high!r}")
    if not head.low < head.high:
        _refuse(what, "low must be below high", f"{head.low:g} and {head.high:g}")
    if head.onto not in (None, "target", "standardized"):
        _refuse(what, "onto must be None, 'target' or 'standardized'", repr(head.onto))
    if head.onto == "target" and not math.isfinite(head.high - head.low):
        _refuse(what, "onto='target' needs a finite range", f"{head.low:g}..{head.high:g}")
    _check_elementwise(what, "function", head.function, _drawn(-3, 3))
    far = torch.logspace(-3, 6, 400, dtype=torch.float64)
    a = torch.cat([-far.flip(0), torch.linspace(-12, 12, 4801).double(), far])
    y = _values_of(what, "function", head.function, a)
    _check_range(head, a, y, what)
    near = a[a.abs() < 12]
    slope = _slope_by_differences(head.function, near)
    smooth = slope.isfinite()  # elsewhere it has a kink
    _compare(what, "gradient by autograd", _gradient(head, near, what), near, slope, smooth)
    if head.derivative is not None:
        stated = _values_of(what, "derivative", head.derivative, near)
        _compare(what, "derivative", stated, near, slope, smooth)
    if head.logit is not None:
        logit = _values_of(what, "logit", head.logit, near)
        share = (head.function(near) - head.low) / (head.high - head.low)
        wrong = (torch.sigmoid(logit) - share).abs() > 1e-6
        if bool(wrong.any()):
            found = f"{torch.sigmoid(logit)[wrong][0]:.4g} for {share[wrong][0]:.4g}"
            rule = "the sigmoid of its logit must be (output - low) / (high - low)"
            _refuse(what, rule, f"{found} at {_at((near,), wrong)}")


def _check_range(head: Head, a: Tensor, y: Tensor, what: str) -> None:
    span = head.high - head.low
    slack = 1e-6 * (span if math.isfinite(span) else 1)
    outside = (y < head.low - slack) | (y > head.high + slack)
    if bool(outside.any()):
        found = f"{y[outside][0]:.6g} at {_at((a,), outside)}"
        _refuse(what, f"its outputs must lie in {head.low:g}..{head.high:g}", found)
    for end, name, reached, sign in (
        (head.low, "low", y.min().item(), -1),
        (head.high, "high", y.max().item(), 1),
    ):
        if math.isfinite(end):
            far = abs(reached - end) > REACHED * (span if math.isfinite(span) else 1)
        else:  # unbounded outputs still grow, however slowly
            bounded = (sign * y[a.abs() <= 1e3]).max().item()
            far = abs(sign * reached - bounded) <= 1e-3 * max(1.0, abs(bounded))
        if far:
            rule = f"{name} must be where its outputs end, which caps a run's PSNR"
            _refuse(what, rule, f"{name}={end:g} where they end at {reached:.4g}")


def _slope_by_differences(function: Callable[[Tensor], Tensor], a: Tensor) -> Tensor:
    """Central differences; nan near a kink, where those of both sides differ."""
    here, left, right = function(a), function(a - STEP), function(a + STEP)
    before, after = (here - left) / STEP, (right - here) / STEP
    slope = (right - left) / (2 * STEP)
    kink = (after - before).abs() > 1e-2 * (1 + slope.abs())
    return torch.where(kink, torch.nan, slope)


def _gradient(head: Head, a: Tensor, what: str) -> Tensor:
    x = a.clone().requires_grad_()
    y = _called(what, "function", head.function, x)
    if not y.requires_grad:
        _refuse(what, "gradients must flow through its function", "none")
    [gradient] = torch.autograd.grad(y.sum(), [x], allow_unused=True)
    if gradient is None or not bool(gradient.any()):
        _refuse(what, "gradients must flow through its function", "none")
    return gradient


def _compare(
    what: str, name: str, stated: Tensor, a: Tensor, slope: Tensor, smooth: Tensor
) -> None:
    wrong = smooth & ((stated - slope).abs() > CLOSE * (1 + slope.abs()))
    if bool(wrong.any()):
        found = f"{stated[wrong][0]:.4g} where finite differences give "
        found += f"{slope[wrong][0]:.4g}, at {_at((a,), wrong)}"
        _refuse(what, f"its {name} must be that of its function", found)


# --- likelihoods ---

MEANS, STDS = (0.0, 0.03, 0.5, 0.8), (0.02, 0.15, 1.0)
LOGITS = (-6.0, -0.5, 0.0, 2.0)


def check_likelihood(likelihood: Likelihood, what: str = "likelihood") -> None:
    """Normalization, noise and mean of a likelihood.

    Raises:
        UserError: A density does not integrate to 1, the masses of the 256 levels do not
            sum to 1, log_prob is not elementwise, or what it says of its noise is not so.
    """
    if likelihood.kind not in get_args(Kind):
        _refuse(
            what, f"kind must be one of {', '.join(get_args(Kind))}", repr(likelihood.kind)
        )
    noises = ("learned", "optimal", "implied", "none")
    if likelihood.noise not in noises:
        _refuse(what, f"noise must be one of {', '.join(noises)}", repr(likelihood.noise))
    if likelihood.takes not in ("image", "logit"):
        _refuse(what, "takes must be image or logit", repr(likelihood.takes))
    if likelihood.takes == "logit" and likelihood.noise != "none":
        _refuse(what, "takes='logit' needs noise='none'", repr(likelihood.noise))
    u, std = _drawn(0, 1), _drawn(0.1, 1)[0, :, :1, :1]
    given = _drawn(-2, 2) if likelihood.takes == "logit" else _drawn(0, 1).flip(0)
    _check_elementwise(what, "log_prob", likelihood.log_prob, u, given, std)
    givens = LOGITS if likelihood.takes == "logit" else MEANS
    for given in givens:
        for std in STDS if likelihood.noise != "none" else (math.nan,):
            _check_normalized(likelihood, given, std, what)
    if likelihood.noise == "implied":
        _check_implied(likelihood, what)
    if likelihood.noise == "optimal" or (
        likelihood.is_gaussian and _is_density(likelihood)
    ):
        _check_gaussian(likelihood, what)


def _is_density(likelihood: Likelihood) -> bool:
    return likelihood.kind == "density"


def _log_prob(likelihood: Likelihood, u: Tensor, given: float, std: float, what: str):
    like = torch.full_like(u, given), torch.full_like(u, std)
    return _called(what, "log_prob", likelihood.log_prob, u, *like)


def _check_normalized(likelihood: Likelihood, given: float, std: float, what: str) -> None:
    levels = torch.linspace(0, 1, 256, dtype=torch.float64)
    at = (levels, torch.full_like(levels, given), torch.full_like(levels, std))
    log_prob = _values_of(what, "log_prob", likelihood.log_prob, *at)
    where = f"logit {given:g}" if likelihood.takes == "logit" else f"mean {given:g}"
    where += "" if math.isnan(std) else f", std {std:g}"
    if likelihood.kind == "mass":
        total = log_prob.exp().sum().item()
        if abs(total - 1) > NORMALIZED:
            rule = "the masses of the 256 levels must sum to 1"
            _refuse(what, rule, f"{total:.4g} (at {where})")
    elif likelihood.kind == "cross_entropy":
        if bool((log_prob > 1e-9).any()):
            _refuse(what, "a cross entropy has no negative value", f"one (at {where})")
    else:
        inside, mean = _integrals(likelihood, given, std, what)
        total = inside
        if likelihood.takes == "image" and abs(inside - 1) > NORMALIZED:
            total = _integral_of_all(likelihood, given, std, what)
        if abs(total - 1) > NORMALIZED:
            _refuse(what, "its density must integrate to 1", f"{total:.4g} (at {where})")
        if likelihood.takes == "logit":
            logit = torch.tensor(given, dtype=torch.float64)
            of_logit: Any = likelihood.mean or torch.sigmoid
            stated = _called(what, "mean", of_logit, logit)
            if abs(float(stated) - mean) > NORMALIZED:
                rule = "its mean must be that of its density"
                _refuse(what, rule, f"{float(stated):.4g} for {mean:.4g} (at {where})")


def _integrals(
    likelihood: Likelihood, given: float, std: float, what: str
) -> tuple[float, float]:
    """(integral, integral of u times it) of the density over [0, 1], by Gauss-Legendre on
    pieces that are short near the mean."""
    edges = torch.linspace(0, 1, 201, dtype=torch.float64)
    x, w = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(16))
    low, high = edges[:-1, None], edges[1:, None]
    u = ((low + high + (high - low) * x) / 2).flatten()
    weight = ((high - low) / 2 * w).flatten()
    density = _log_prob(likelihood, u, given, std, what).exp()
    return (weight * density).sum().item(), (weight * density * u).sum().item()


def _integral_of_all(likelihood: Likelihood, given: float, std: float, what: str) -> float:
    """Integral of the density over all real u = mean + std tan(angle)."""
    angle = (torch.arange(200_001, dtype=torch.float64) + 0.5) / 200_001 - 0.5
    angle = math.pi * angle
    density = _log_prob(likelihood, given + std * angle.tan(), given, std, what).exp()
    terms = density * std / angle.cos() ** 2 * (math.pi / len(angle))
    return terms[terms.isfinite()].sum().item()


def _check_implied(likelihood: Likelihood, what: str) -> None:
    """-error / tempering must be ln p up to a constant, at the implied noise."""
    scale = torch.tensor([0.5, 2.0], dtype=torch.float64)
    u = torch.linspace(0, 1, 101, dtype=torch.float64)
    for tempering in (0.1, 1.0, 8.0):
        variance = _called(what, "variance", likelihood.variance, tempering, scale)
        if not isinstance(variance, Tensor) or variance.shape != scale.shape:
            _refuse(what, "its variance must be a tensor [C]", repr(variance))
        for s, v in zip(scale.tolist(), variance.tolist(), strict=True):
            mean = torch.full_like(u, 0.3)
            std = torch.full_like(u, math.sqrt(v))
            log_prob = likelihood.log_prob(u, mean, std)
            log_prob = log_prob - likelihood.log_prob(mean, mean, std)
            error = _values_of(what, "error", likelihood.error, (u - mean) / s)
            if not torch.allclose(log_prob, -error / tempering, rtol=1e-6, atol=1e-9):
                _refuse(
                    what,
                    "at the noise that beta implies, ln p must be -error / tempering and a "
                    "constant",
                    f"another density (at tempering {tempering:g})",
                )


def _check_gaussian(likelihood: Likelihood, what: str) -> None:
    u = torch.linspace(0, 1, 101, dtype=torch.float64)
    mean, std = torch.full_like(u, 0.3), torch.full_like(u, 0.2)
    expected = likelihoods.gaussian(u, mean, std)
    if not torch.allclose(likelihood.log_prob(u, mean, std), expected, rtol=1e-6):
        rule = "is_gaussian=True and noise='optimal' need a Gaussian log_prob"
        _refuse(what, rule, "another density")


# --- norms, reductions, schedules ---


def check_norm(norm: Norm, what: str = "norm") -> None:
    """A normalization of made-up images with one and with three channels.

    Raises:
        UserError: It gives no affine map that can be inverted, or not the same one twice.
    """
    generator = torch.Generator().manual_seed(0)
    for channels in (1, 3):
        counts = torch.randint(1, 1000, (channels, 256), generator=generator)
        counts[:, :20] *= 9  # neither uniform nor symmetric
        found, again = (
            normalize.checked(_called(what, "function", norm, given), channels, what)
            for given in (counts.clone(), counts.clone())
        )
        if not all(map(torch.equal, found, again)):
            _refuse(what, "the same images must give the same normalization", "another")
        u = normalize.levels(channels)
        if not torch.allclose(found.inverse(found.forward(u)), u, atol=1e-9):
            _refuse(what, "it must be invertible", f"shift and scale {_values(found)}")


def _values(affine: Affine) -> str:
    return ", ".join(f"{v:.3g}" for part in affine for v in part.tolist())


def check_reduction(reduction: Reduction, what: str = "reduction") -> None:
    """Raises UserError where the weights of the two terms are no positive numbers."""
    for pixels, latent in ((3072, 128), (784, 2), (1, 1)):
        weights = _called(what, "function", reduction, pixels, latent)
        try:
            w_r, w_k = map(float, weights)
        except (TypeError, ValueError):
            _refuse(what, "it must return two numbers (w_r, w_k)", repr(weights))
        if not (0 < w_r < math.inf and 0 < w_k < math.inf):
            _refuse(what, "its weights must be finite and above 0", f"{w_r:g} and {w_k:g}")


def check_schedule(schedule: Schedule, what: str = "beta") -> None:
    """Raises UserError where a schedule gives no finite beta from 0 up, or does not end at
    its final value."""
    for implied in (Implied(0.01), Implied(2.0, 2.0)):
        final = schedule.final
        if callable(final):
            final = _called(what, "final", final, 3072, 128, implied)
        if not isinstance(final, int | float) or not 0 <= final < math.inf:
            _refuse(what, "its final beta must be finite and 0 or more", repr(final))
    progress = np.arange(1001) / 1000
    found = _called(what, "multiplier", schedule.multiplier, progress.copy())
    values = np.asarray(found)
    if values.shape != progress.shape or values.dtype.kind not in "fiu":
        rule = f"its multiplier must return an array of numbers, {list(progress.shape)}"
        _refuse(what, rule, f"{values.dtype} {list(values.shape)}")
    if not (np.isfinite(values).all() and (values >= 0).all()):
        wrong = int(np.flatnonzero(~(np.isfinite(values) & (values >= 0)))[0])
        rule = "its multiplier must be finite and from 0"
        _refuse(what, rule, f"{values[wrong]:g} at progress {progress[wrong]:g}")
    if abs(values[-1] - 1) > 1e-6:
        _refuse(what, "its multiplier must end at 1, the final beta", f"{values[-1]:g}")


# --- of the options that a point names ---


@cache
def own_head(name: str) -> None:
    """Checks the user's head of this name, once."""
    check_head(heads.named(name), f"head={name}")


@cache
def own_likelihood(name: str) -> None:
    """Checks the user's likelihood of this name, once."""
    check_likelihood(likelihoods.named(name), f"likelihood={name}")


@cache
def own_norm(name: str, group: str) -> None:
    """Checks the user's normalization of this name, once."""
    check_norm(normalize.named(name, group), f"{group}={name}")


@cache
def own_reduction(name: str) -> None:
    """Checks the user's reduction of this name, once."""
    check_reduction(objective.reduction(name), f"reduction={name}")


def own_schedule(config: BetaConfig) -> None:
    """Checks the user's beta schedule of this point."""
    check_schedule(schedules.schedule(config), f"beta={config.name}")
