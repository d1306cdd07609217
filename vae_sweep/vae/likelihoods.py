"""Log likelihoods of pixels, elementwise in nats with all constants, and those of R runs.

Three kinds that no column mixes: a `density` over [0, 1] (its value changes with the unit
of the pixels, here u in [0, 1]), a `mass` over the 256 levels, and a `cross_entropy` as
Bernoulli's, which is a probability of black and white only and of gray values none.
"""

import inspect
import math
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.special import log_ndtr

from vae_sweep import options
from vae_sweep.vae import objective
from vae_sweep.vae.heads import Head
from vae_sweep.vae.normalize import Affine

Kind = Literal["density", "mass", "cross_entropy"]
# steps of Adam are of the size of the learning rate; ln v has to go further than weights
LOG_VARIANCE_GAIN = 10.0
SERIES_BELOW = 0.1  # logits where a power series replaces 0 / 0


class Likelihood:
    """A likelihood of pixels u in [0, 1], given what the decoder says of them.

    A likelihood of your own is a subclass with `log_prob`, and with those of the attributes
    below that differ from the default:

    Args:
        kind: "density" over [0, 1], "mass" over the 256 levels, or "cross_entropy".
        noise: Where its standard deviation comes from. "learned": one number per run, the
            same in target space for all channels. "optimal": what fits a batch best, of
            Gaussians. "implied": beta's, and `error` is what the loss weighs. "none".
        takes: What `log_prob` is given of the decoder: its mean "image" in pixels, or the
            "logit" of it, of values in [0, 1].
        is_gaussian: Whether its noise is Gaussian, a bin's width being nothing beside it: a
            linear VAE's optimum is then known.
        mean: The mean image in [0, 1] from the logit; None where that is its sigmoid.
    """

    kind: ClassVar[Kind] = "density"
    noise: ClassVar[Literal["learned", "optimal", "implied", "none"]] = "learned"
    takes: ClassVar[Literal["image", "logit"]] = "image"
    is_gaussian: ClassVar[bool] = False
    is_squared: ClassVar[bool] = (
        False  # its error is the squared one, which needs no pixels
    )
    mean: ClassVar[Any] = None

    def log_prob(self, u: Tensor, given: Tensor, std: Tensor) -> Tensor:
        """ln p(u), elementwise in nats.

        Args:
            u: Pixels in [0, 1], [B, C, H, W].
            given: The mean image, or its logit (see `takes`), of the same shape.
            std: Standard deviation of the noise in pixels, [C, 1, 1].
        """
        raise NotImplementedError("define log_prob")

    def error(self, difference: Tensor) -> Tensor:
        """What the loss weighs of t - t_hat, elementwise; of implied noise alone."""
        raise NotImplementedError

    def variance(self, tempering: float, scale: Tensor) -> Tensor:
        """The noise's variance per channel in pixels, [C], at which the loss is
        `tempering` * (KL - ln p): implied noise. `scale` [C] is the target's."""
        raise NotImplementedError

    def of_split(self, error: Tensor, mse: Tensor, about: "Split") -> Tensor:
        """Mean log likelihood of a split's images, nats per image.

        `error` is the mean of what the loss weighs, `mse` [C] the squared pixel error.
        """
        if self.noise != "implied":
            return -error
        zero = torch.zeros_like(about.std)
        peak = about.size * self.log_prob(zero, zero, about.std).sum()
        value = -error / about.tempering + peak
        return torch.where(about.std[0] > 0, value, torch.nan)


class Split(NamedTuple):
    """What a log likelihood of a whole split needs: `std` [C] in pixels, `size` H*W, the
    target's `scale` [C], and nats of likelihood that the loss gives for a nat of KL."""

    std: Tensor
    size: int
    scale: Tensor
    tempering: float


def gaussian(u: Tensor, u_hat: Tensor, std: Tensor) -> Tensor:
    """ln N(u; u_hat, std^2)."""
    return -0.5 * ((u - u_hat) / std) ** 2 - std.log() - 0.5 * math.log(2 * math.pi)


def laplace(u: Tensor, u_hat: Tensor, std: Tensor) -> Tensor:
    """ln of Laplace's density with standard deviation `std`, scale b = std / sqrt(2)."""
    return -math.sqrt(2) * (u - u_hat).abs() / std - std.log() - 0.5 * math.log(2)


def bernoulli(u: Tensor, logit: Tensor) -> Tensor:
    """u ln p + (1 - u) ln(1 - p), p = sigmoid(logit)."""
    return u * logit - F.softplus(logit)


def continuous_bernoulli(u: Tensor, logit: Tensor) -> Tensor:
    """`bernoulli`, normalized over [0, 1] (Loaiza-Ganem & Cunningham 2019)."""
    return bernoulli(u, logit) + continuous_bernoulli_constant(logit)


def continuous_bernoulli_constant(logit: Tensor) -> Tensor:
    """ln C of C p^u (1 - p)^(1 - u), which is a density over [0, 1].

    C = 2 atanh(1 - 2p) / (1 - 2p) = l / tanh(l / 2) in the logit l, and 2 at l = 0.
    """
    near = logit.abs() < SERIES_BELOW
    x = torch.where(near, logit, 0.0)
    series = math.log(2) + torch.log1p(x**2 / 12 - x**4 / 720 + x**6 / 30240)
    far = torch.where(near, 1.0, logit)
    return torch.where(near, series, (far / torch.tanh(far / 2)).log())


def continuous_bernoulli_mean(logit: Tensor) -> Tensor:
    """E[u] = 1/2 + coth(l / 2) / 2 - 1 / l in the logit l; it is not p."""
    near = logit.abs() < SERIES_BELOW
    x = torch.where(near, logit, 0.0)
    series = 0.5 + x / 12 - x**3 / 720 + x**5 / 30240
    far = torch.where(near, 1.0, logit)
    return torch.where(near, series, 0.5 + 0.5 / torch.tanh(far / 2) - 1 / far)


def discretized_logistic(u: Tensor, u_hat: Tensor, std: Tensor) -> Tensor:
    """ln of the logistic's mass in the bin of level 255 u (Salimans et al. 2017).

    256 bins of width 1/255 around the levels, those of 0 and 255 open outwards; the
    logistic has mean `u_hat` and standard deviation `std`.
    """
    scale = std * (math.sqrt(3) / math.pi)
    above, below = (u - u_hat + 1 / 510) / scale, (u - u_hat - 1 / 510) / scale
    left, right = F.logsigmoid(above), F.logsigmoid(-below)  # ln of CDF, ln of 1 - CDF
    # sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a))
    inner = left + right + _log1mexp(1 / (255 * scale)).expand_as(u_hat)
    return _with_open_ends(u, left, inner, right)


def discretized_gaussian(u: Tensor, u_hat: Tensor, std: Tensor) -> Tensor:
    """The same for a Gaussian with mean `u_hat` and standard deviation `std`."""
    above, below = (u - u_hat + 1 / 510) / std, (u - u_hat - 1 / 510) / std
    flip = above + below > 0  # the left tail keeps its digits, the right one is near 1
    high, low = torch.where(flip, -below, above), torch.where(flip, -above, below)
    cdf_high, cdf_low = log_ndtr(high), log_ndtr(low)
    inner = cdf_high + _log1mexp(cdf_high - cdf_low)
    return _with_open_ends(u, log_ndtr(above), inner, log_ndtr(-below))


def _with_open_ends(u: Tensor, first: Tensor, inner: Tensor, last: Tensor) -> Tensor:
    ends = torch.where(u < 0.5 / 255, first, last)
    return torch.where((u > 0.5 / 255) & (u < 254.5 / 255), inner, ends)


def _log1mexp(x: Tensor) -> Tensor:
    """ln(1 - exp(-x)) of x > 0 (Maechler 2012)."""
    small = x < math.log(2)
    near, far = torch.where(small, x, 1.0), torch.where(small, 1.0, x)
    return torch.where(small, (-torch.expm1(-near)).log(), torch.log1p(-(-far).exp()))


class _Squared(Likelihood):
    """The squared error in target space: a Gaussian of the noise that beta implies."""

    noise, is_squared = "implied", True

    def log_prob(self, u: Tensor, given: Tensor, std: Tensor) -> Tensor:
        return gaussian(u, given, std)

    def error(self, difference: Tensor) -> Tensor:
        return difference**2

    def variance(self, tempering: float, scale: Tensor) -> Tensor:
        return objective.implied_variance(tempering, (1.0, 1.0), scale)

    def of_split(self, error: Tensor, mse: Tensor, about: Split) -> Tensor:
        pixels = about.size * len(mse)
        return objective.gaussian_log_likelihood(about.size * mse, about.std**2, pixels)


class _Absolute(Likelihood):
    """The absolute error in target space: Laplace's density of the noise that beta
    implies."""

    noise = "implied"

    def log_prob(self, u: Tensor, given: Tensor, std: Tensor) -> Tensor:
        return laplace(u, given, std)

    def error(self, difference: Tensor) -> Tensor:
        return difference.abs()

    def variance(self, tempering: float, scale: Tensor) -> Tensor:
        return objective.implied_laplace_variance(tempering, (1.0, 1.0), scale)

    def of_split(self, error: Tensor, mse: Tensor, about: Split) -> Tensor:
        b = about.std / math.sqrt(2)  # [C], the same in target space for all channels
        value = -error * (about.scale / b)[0] - about.size * (2 * b).log().sum()
        return torch.where(b[0] > 0, value, torch.nan)


class _Laplace(Likelihood):
    def log_prob(self, u: Tensor, given: Tensor, std: Tensor) -> Tensor:
        return laplace(u, given, std)


class _Gaussian(Likelihood):
    is_gaussian = True

    def log_prob(self, u: Tensor, given: Tensor, std: Tensor) -> Tensor:
        return gaussian(u, given, std)


class _OptimalGaussian(_Gaussian):
    """At the standard deviation of the batch's own errors (Rybkin et al. 2021)."""

    noise = "optimal"
    of_split = _Squared.of_split


class _Bernoulli(Likelihood):
    kind, noise, takes = "cross_entropy", "none", "logit"

    def log_prob(self, u: Tensor, given: Tensor, std: Tensor) -> Tensor:
        return bernoulli(u, given)


class _ContinuousBernoulli(Likelihood):
    noise, takes = "none", "logit"
    mean = staticmethod(continuous_bernoulli_mean)

    def log_prob(self, u: Tensor, given: Tensor, std: Tensor) -> Tensor:
        return continuous_bernoulli(u, given)


class _DiscretizedLogistic(Likelihood):
    kind = "mass"

    def log_prob(self, u: Tensor, given: Tensor, std: Tensor) -> Tensor:
        return discretized_logistic(u, given, std)


class _DiscretizedGaussian(Likelihood):
    kind, is_gaussian = "mass", True

    def log_prob(self, u: Tensor, given: Tensor, std: Tensor) -> Tensor:
        return discretized_gaussian(u, given, std)


OURS: dict[str, Likelihood] = {
    "mse": _Squared(),
    "l1": _Absolute(),
    "laplace": _Laplace(),
    "gaussian_learned": _Gaussian(),
    "gaussian_optimal": _OptimalGaussian(),
    "bernoulli": _Bernoulli(),
    "continuous_bernoulli": _ContinuousBernoulli(),
    "discretized_logistic": _DiscretizedLogistic(),
    "discretized_gaussian": _DiscretizedGaussian(),
}


def _accept(given: Any) -> Likelihood | None:
    if inspect.isclass(given) and issubclass(given, Likelihood):
        try:
            return given()
        except Exception:  # it has parameters; no key sets them
            return None
    return given if isinstance(given, Likelihood) else None


def named(name: str) -> Likelihood:
    """The likelihood of a name; raises UserError as options.find."""
    return options.find(
        "likelihood",
        name,
        OURS,
        _accept,
        "a Likelihood, or a class of it without parameters",
    )


class Noise(NamedTuple):
    """What is known of a decoder's noise before training.

    `implied` is the standard deviation per channel [C] in pixels that beta implies, nan
    where the likelihood has its own; `start` is the data's, one number in target space;
    `tempering` is as in Split.
    """

    implied: Tensor
    start: float
    tempering: float


class Likelihoods(nn.Module):
    """The likelihoods of R runs.

    `log_variance` [R, 1] is learned where the likelihood has a noise to learn, one
    number per run: ln of its variance in target space over that of the data, divided by
    LOG_VARIANCE_GAIN. Starting at the data's makes it blind to the target's scale.
    """

    scale: Tensor

    def __init__(
        self,
        likelihoods: list[Likelihood],
        heads: list[Head],
        targets: list[Affine],
        noises: list[Noise],
    ):
        super().__init__()
        self.likelihoods, self.heads, self.noises = likelihoods, heads, noises
        self.log_variance = nn.Parameter(torch.zeros(len(likelihoods), 1))
        scale = torch.stack([t.scale for t in targets])  # [R, C]
        self.register_buffer("scale", scale, persistent=False)

    def std(self, r: int, mse: Tensor) -> Tensor:
        """Standard deviation of run r's noise per channel [C], in pixels.

        `mse` [C] is the mean squared pixel error per channel, which optimal noise is taken
        from. nan where there is no noise.
        """
        noise, scale = self.likelihoods[r].noise, self.scale[r].to(mse)
        if noise in ("implied", "none"):
            return self.noises[r].implied.to(mse)
        if noise == "optimal":  # one variance in target space
            return scale * (mse / scale**2).mean().sqrt()
        ratio = torch.exp(0.5 * LOG_VARIANCE_GAIN * self.log_variance[r])
        return scale * ratio.to(mse) * self.noises[r].start

    def means(self, t_hat: Tensor, a: Tensor) -> Tensor:
        """The decoders' mean images in target space, from the heads' outputs and what these
        are of, [R, B, C, H, W]."""
        if not any(likelihood.mean for likelihood in self.likelihoods):
            return t_hat
        rows = []
        for r, likelihood in enumerate(self.likelihoods):
            mean = likelihood.mean
            rows.append(t_hat[r] if mean is None else mean(self.heads[r].logits(a[r])))
        return torch.stack(rows)

    def error(self, r: int, u: Tensor, u_hat: Tensor, a: Tensor) -> Tensor:
        """What run r's loss weighs with w_r, per image [B]; arguments [B, C, H, W].

        An error in target space where beta implies the noise; for all others the negative
        log likelihood of the pixels in nats.
        """
        likelihood, scale = self.likelihoods[r], self.scale[r][:, None, None]
        if likelihood.noise == "implied":
            return likelihood.error((u - u_hat) / scale).sum((1, 2, 3))
        mse = u.new_zeros(len(scale))
        if likelihood.noise == "optimal":  # the only one that is taken from it
            mse = ((u - u_hat) ** 2).mean((0, 2, 3))
        return -self.log_prob(r, u, u_hat, a, self.std(r, mse))

    def log_prob(self, r: int, u: Tensor, u_hat: Tensor, a: Tensor, std: Tensor) -> Tensor:
        """ln p of run r's pixels per image, [B], with noise `std` [C]; as `error`."""
        likelihood = self.likelihoods[r]
        given = self.heads[r].logits(a) if likelihood.takes == "logit" else u_hat
        return likelihood.log_prob(u, given, std[:, None, None]).sum((1, 2, 3))

    def log_likelihood(self, r: int, error: Tensor, mse: Tensor, size: int) -> Tensor:
        """Mean log likelihood of a split's images, nats per image, from means over it.

        `error` as above, `mse` [C] the squared pixel error per channel, `size` H*W. At
        the implied noise (nan where beta is 0, which implies none), at the learned
        one, or at the split's own where it is optimal.
        """
        about = Split(self.std(r, mse), size, self.scale[r], self.noises[r].tempering)
        return self.likelihoods[r].of_split(error, mse, about)
