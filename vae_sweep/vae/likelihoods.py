"""Log likelihoods of pixels, elementwise in nats with all constants, and those of R runs.

Three kinds that no column mixes: a `density` over [0, 1] (its value changes with the unit
of the pixels, here u in [0, 1]), a `mass` over the 256 levels, and Bernoulli's cross
entropy, which is a probability of black and white only and of gray values none.
"""

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.special import log_ndtr

from vae_sweep.config import ERRORS, UNIT_INTERVAL, Head, Likelihood
from vae_sweep.vae import objective
from vae_sweep.vae.normalize import Affine

Kind = Literal["density", "mass", "bernoulli"]
KINDS: dict[Likelihood, Kind] = {
    "mse": "density",
    "l1": "density",
    "laplace": "density",
    "gaussian_learned": "density",
    "gaussian_optimal": "density",
    "continuous_bernoulli": "density",
    "discretized_logistic": "mass",
    "discretized_gaussian": "mass",
    "bernoulli": "bernoulli",
}
# a on unit targets -> the logit of the head's output, which these multiply
LOGIT_GAIN: dict[Head, float] = {"sigmoid": 1, "sigmoid_rescaled": 1, "tanh_rescaled": 2}
# steps of Adam are of the size of the learning rate; ln v has to go further than weights
LOG_VARIANCE_GAIN = 10.0
SERIES_BELOW = 0.1  # logits where a power series replaces 0 / 0


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


LOCATED = {  # ln p(u; u_hat, std), the noise being learned or the batch's own
    "laplace": laplace,
    "gaussian_learned": gaussian,
    "gaussian_optimal": gaussian,
    "discretized_logistic": discretized_logistic,
    "discretized_gaussian": discretized_gaussian,
}
UNIT = {"bernoulli": bernoulli, "continuous_bernoulli": continuous_bernoulli}


class Noise(NamedTuple):
    """What is known of a decoder's noise before training.

    `implied` is the standard deviation per channel [C] in pixels that beta implies, nan
    where the likelihood has its own; `start` is the data's, one number in target space.
    """

    implied: Tensor
    start: float


class Likelihoods(nn.Module):
    """The likelihoods of R runs.

    `log_variance` [R, 1] is learned where the likelihood has a noise to learn, one
    number per run: ln of its variance in target space over that of the data, divided by
    LOG_VARIANCE_GAIN. Starting at the data's makes it blind to the target's scale.
    """

    scale: Tensor

    def __init__(
        self,
        names: list[Likelihood],
        heads: list[Head],
        targets: list[Affine],
        noises: list[Noise],
    ):
        super().__init__()
        self.names, self.heads, self.noises = names, heads, noises
        self.log_variance = nn.Parameter(torch.zeros(len(names), 1))
        scale = torch.stack([t.scale for t in targets])  # [R, C]
        self.register_buffer("scale", scale, persistent=False)

    def std(self, r: int, mse: Tensor) -> Tensor:
        """Standard deviation of run r's noise per channel [C], in pixels.

        `mse` [C] is the mean squared pixel error per channel, which gaussian_optimal
        takes its noise from. nan for Bernoulli's two, which have none.
        """
        name, scale = self.names[r], self.scale[r].to(mse)
        if name in (*ERRORS, *UNIT_INTERVAL):
            return self.noises[r].implied.to(mse)
        if name == "gaussian_optimal":  # one variance in target space
            return scale * (mse / scale**2).mean().sqrt()
        ratio = torch.exp(0.5 * LOG_VARIANCE_GAIN * self.log_variance[r])
        return scale * ratio.to(mse) * self.noises[r].start

    def mean(self, r: int, t_hat: Tensor, a: Tensor) -> Tensor:
        """The decoder's mean image in target space, from the head's output [B, C, H, W]."""
        if self.names[r] != "continuous_bernoulli":
            return t_hat
        return continuous_bernoulli_mean(LOGIT_GAIN[self.heads[r]] * a)

    def error(self, r: int, u: Tensor, u_hat: Tensor, a: Tensor) -> Tensor:
        """What run r's loss weighs with w_r, per image [B]; arguments [B, C, H, W].

        The absolute error in target space for l1; for all others but mse, whose squared
        error needs no pixels, the negative log likelihood of the pixels in nats.
        """
        name, scale = self.names[r], self.scale[r][:, None, None]
        if name in UNIT:
            return -UNIT[name](u, LOGIT_GAIN[self.heads[r]] * a).sum((1, 2, 3))
        if name == "l1":
            return ((u - u_hat).abs() / scale).sum((1, 2, 3))
        std = self.std(r, ((u - u_hat) ** 2).mean((0, 2, 3)))
        return -LOCATED[name](u, u_hat, std[:, None, None]).sum((1, 2, 3))

    def log_likelihood(self, r: int, error: Tensor, mse: Tensor, size: int) -> Tensor:
        """Mean log likelihood of a split's images, nats per image, from means over it.

        `error` as above, `mse` [C] the squared pixel error per channel, `size` H*W. At
        the implied noise (nan where beta is 0, which implies none), at the learned
        one, or for gaussian_optimal at the split's own.
        """
        name, std = self.names[r], self.std(r, mse)
        if name in ("mse", "gaussian_optimal"):
            pixels = size * len(mse)
            return objective.gaussian_log_likelihood(size * mse, std**2, pixels)
        if name != "l1":
            return -error
        b = std / math.sqrt(2)  # [C], the same in target space for all channels
        value = -error * (self.scale[r] / b)[0] - size * (2 * b).log().sum()
        return torch.where(b[0] > 0, value, torch.nan)
