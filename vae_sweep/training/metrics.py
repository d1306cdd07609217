"""Every logged number: what is measured of each image, and what its mean over a split says.

A metric is one object, ours or a user's own. Means are over images, not over batches.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, NamedTuple, get_args

import torch
from torch import Tensor

from vae_sweep import options
from vae_sweep.config import RunConfig
from vae_sweep.errors import UserError, shown
from vae_sweep.records.summary import Best
from vae_sweep.training.bound import Bounds, bounds
from vae_sweep.vae import objective
from vae_sweep.vae.cohort import DTYPES, Cohort, Forward
from vae_sweep.vae.likelihoods import Kind
from vae_sweep.vae.streams import Streams

SPLITS = ("train", "val", "test")
CHUNK = 64  # images that are evaluated at once
MOST_DIGITS = 15
SMALLEST_VARIANCE = 1e-100  # whose inverse is a float64
NEAR = 1e-3  # of a metric's largest value: as much may rounding do


class Pass(NamedTuple):
    """A pass over a batch of B images of R runs; a metric may use any of it.

    `u`, `u_hat`, `t`, `t_hat`, `a` and `slope` are [R, B, C, H, W]: pixels in [0, 1] and
    their reconstruction (unclipped), both in target space, the decoder's last
    pre-activation, and the head's derivative there. `mu` and `logvar` are [R, B, D], of the
    posterior. `low` and `high` [R, 1, C, 1, 1] are the ends of the head's range in target
    space, `scale` of the same shape is a unit of target space in pixels. `error` [R, B] is
    what the loss weighs of each image.
    """

    u: Tensor
    u_hat: Tensor
    t: Tensor
    t_hat: Tensor
    a: Tensor
    mu: Tensor
    logvar: Tensor
    low: Tensor
    high: Tensor
    scale: Tensor
    slope: Tensor
    error: Tensor

    @classmethod
    def of(cls, cohort: Cohort, forward: Forward) -> "Pass":
        """What a cohort's pass says, of all its runs."""
        _, t, t_hat, a, mu, logvar = forward
        u_hat = cohort.target.inverse(t_hat)
        u, t = forward.u.expand_as(u_hat), t.expand_as(t_hat)
        slope = cohort.heads.derivative(a)
        error = cohort.errors(forward)
        seen = (u, u_hat, t, t_hat, a, mu, logvar)
        scale = cohort.target.scale[..., None, None]
        return cls(*seen, cohort.low, cohort.high, scale, slope, error)

    @classmethod
    def made_up(cls, shape: tuple[int, int, int], latent: int, like: Tensor) -> "Pass":
        """Of three random images (C, H, W) of two runs; `like` has the type and device."""
        generator = torch.Generator().manual_seed(0)

        def normal(*size: int) -> Tensor:
            return torch.randn(2, *size, generator=generator, dtype=torch.float64).to(like)

        u, u_hat, a, slope = (normal(3, *shape).sigmoid() for _ in range(4))
        mu, logvar = normal(3, latent), normal(3, latent)
        ends = normal(1, shape[0], 1, 1)
        low, high, scale = (torch.full_like(ends, v) for v in (-1.0, 1.0, 0.5))
        t, t_hat, error = 2 * u - 1, 2 * u_hat - 1, normal(3).abs()
        return cls(u, u_hat, t, t_hat, a, mu, logvar, low, high, scale, slope, error)


@dataclass(frozen=True)
class Total:
    """What ours sum over the images of a pass themselves, where a value of each would take
    much memory: `of_pass` -> floating [R, ...]."""

    of_pass: Callable[[Pass], Tensor]

    def __call__(self, p: Pass) -> Tensor:
        """The sum over a pass, floating [R, ...]."""
        return self.of_pass(p)


PerImage = Callable[[Pass], Tensor]  # -> floating [R, B] or [R, B, K]


@dataclass(frozen=True)
class Metric:
    """A number of a run on the images of a split.

    Args:
        name: Of its columns, `val/<name>` and those of the other splits: a lower-case
            identifier.
        per_image: What is measured of each image: given a Pass, a floating tensor [R, B] or
            [R, B, K]. A tuple of such functions where one is not enough.
        reduce: The number, [R], of the means over the split's images, float64 [R] or [R, K]
            of each function; the mean itself unless set.
        label, unit: As tables show it: `val <label> (<unit>)`.
        digits: Decimals in tables.
        best: Which end is better, `highest` or `lowest`: tables mark that point.
        of_split: What ours have in place of `reduce` where means do not do: the number of a
            Split.
    """

    name: str
    per_image: PerImage | tuple[PerImage, ...]
    reduce: Callable[..., Tensor] = lambda mean: mean
    label: str = ""
    unit: str = ""
    digits: int = 3
    best: Best = ""
    of_split: "Callable[[Split], Tensor] | None" = None

    @property
    def functions(self) -> tuple[PerImage, ...]:
        """The functions of an image whose means `reduce` gets."""
        return self.per_image if isinstance(self.per_image, tuple) else (self.per_image,)

    def value(self, split: "Split") -> Tensor:
        """The number, float64 [R]."""
        if self.of_split is not None:
            return self.of_split(split)
        return _of_each(self.reduce, *map(split.mean, self.functions)).double()


def _of_each(function: Callable[..., Tensor], *values: Tensor) -> Tensor:
    """`function` of tensors [R, ...]: on CUDA at once; on CPU of each run alone, as sums
    and vector kernels may round one run's numbers otherwise beside another's."""
    if values[0].is_cuda:
        return function(*values)
    rows = (tuple(v[r : r + 1] for v in values) for r in range(len(values[0])))
    return torch.cat([function(*row) for row in rows])


class Split:
    """What a split says of R runs: means over its images, and what is made of them.

    `means` has float64 [R] or [R, K] per function; `beta` and `gradient_norms` (of the
    loss's two terms) are float64 [R]. `bounds` is there where samples are asked for.
    """

    bounds: Bounds

    def __init__(
        self,
        cohort: Cohort,
        means: Mapping[PerImage, Tensor],
        beta: Tensor,
        gradient_norms: tuple[Tensor, Tensor],
    ):
        self.cohort, self.beta, self.gradient_norms = cohort, beta, gradient_norms
        self._means = means
        self.pixels = cohort.pixels
        self.likelihoods = cohort.likelihoods.likelihoods

    def mean(self, function: PerImage) -> Tensor:
        """The mean of a function over the split's images, float64 [R] or [R, K]."""
        return self._means[function]

    @property
    def mse_pixel(self) -> Tensor:
        """Mean squared error per element in [0, 1] space, unclipped, [R]."""
        return self.mean(sse_pixel).sum(1) / self.pixels

    @property
    def mse_channel(self) -> Tensor:
        """`mse_pixel` of each channel, [R, C]."""
        sse = self.mean(sse_pixel)
        return sse / (self.pixels // sse.shape[1])

    @cached_property
    def _own(self) -> tuple[Tensor, Tensor]:
        size = self.pixels // self.mean(sse_pixel).shape[1]
        values, stds = [], []
        with torch.no_grad():
            for r, mse in enumerate(self.mse_channel):
                of_run = self.mean(error)[r]
                likelihoods = self.cohort.likelihoods
                values.append(likelihoods.log_likelihood(r, of_run, mse, size))
                stds.append(likelihoods.std(r, mse).square().mean().sqrt())
        return torch.stack(values), torch.stack(stds)

    @property
    def log_likelihood(self) -> Tensor:
        """Of the runs' own likelihoods, nats per image."""
        return self._own[0]

    @property
    def std(self) -> Tensor:
        """Noise of the runs' own likelihoods, in pixels."""
        return self._own[1]

    def nll(self, kind: Kind) -> Tensor:
        """Minus `log_likelihood` of the runs whose likelihood is of this kind, else nan."""
        chosen = self.where([each.kind == kind for each in self.likelihoods])
        return torch.where(chosen, -self.log_likelihood, torch.nan)

    def elbo(self, kind: Kind) -> Tensor:
        """The ELBO in nats per image, [R]; nan where the likelihood is of another kind."""
        return -self.nll(kind) - self.mean(kl)

    def elbo_calibrated(self, squared_error: PerImage) -> Tensor:
        """Of a Gaussian density at the variance that fits best the images' errors in
        pixels, whose squares `squared_error` sums per channel."""
        sse = self.mean(squared_error).sum(1, keepdim=True)
        return objective.elbo(sse, self.mean(kl), sse / self.pixels, self.pixels)

    def bits_per_dim(self, elbo: Tensor) -> Tensor:
        """Bits per dimension of an ELBO in nats per image."""
        return objective.bits_per_dim(elbo, self.pixels)

    @property
    def recon(self) -> Tensor:
        """The loss's reconstruction term."""
        # the mean over chunks of gaussian_optimal's error has each chunk's own noise
        optimal = self.where([each.noise == "optimal" for each in self.likelihoods])
        weighed = torch.where(optimal, -self.log_likelihood, self.mean(error))
        return self.cohort.recon_weight.double() * weighed

    @property
    def loss(self) -> Tensor:
        """The objective per image, [R]."""
        return self.recon + self.beta * self.cohort.kl_weight.double() * self.mean(kl)

    @property
    def recon_share(self) -> Tensor:
        """The reconstruction term's share of the loss, [R]; nan where it has none."""
        # a density's logarithm is no share of anything: it may have either sign
        is_share = [e.kind != "density" or e.noise == "implied" for e in self.likelihoods]
        return torch.where(self.where(is_share), self.recon / self.loss, torch.nan)

    def where(self, flags: list[bool]) -> Tensor:
        """`flags` as a bool tensor [R] on the device."""
        return torch.tensor(flags, device=self.beta.device)


IMAGE = (-3, -2, -1)  # axes of [R, B, C, H, W]


def sse(p: Pass) -> Tensor:
    """Squared error per image in target space, [R, B]."""
    return objective.squared_error(p.t, p.t_hat).sum(IMAGE)


def error(p: Pass) -> Tensor:
    """The reconstruction error that the objective weighs, [R, B]."""
    return p.error


def sse_pixel(p: Pass) -> Tensor:
    """Per channel, [R, B, C]."""
    return objective.squared_error(p.u, p.u_hat).sum((-2, -1))


def sse_clipped(p: Pass) -> Tensor:
    """Squared error per image in [0, 1] space, of clipped outputs, [R, B]."""
    return objective.squared_error(p.u, p.u_hat.clamp(0, 1)).sum(IMAGE)


def in_tanh_range(p: Pass) -> Tensor:
    """u_hat of the outputs clipped to [-1, 1] in target space; equal to it where none is
    outside."""
    return p.u_hat + p.scale * (p.t_hat.clamp(-1, 1) - p.t_hat)


def sse_tanh_range(p: Pass) -> Tensor:
    """`sse_pixel` of `in_tanh_range`, [R, B, C]."""
    return objective.squared_error(p.u, in_tanh_range(p)).sum((-2, -1))


def sse_clipped_tanh_range(p: Pass) -> Tensor:
    """`sse_clipped` of `in_tanh_range`, [R, B]."""
    return objective.squared_error(p.u, in_tanh_range(p).clamp(0, 1)).sum(IMAGE)


def kl(p: Pass) -> Tensor:
    """KL per image against N(0, I), nats, [R, B]."""
    return objective.kl_divergence(p.mu, p.logvar)


def mu(p: Pass) -> Tensor:
    """[R, B, D]."""
    return p.mu.double()


def mu_squared(p: Pass) -> Tensor:
    """[R, B, D]."""
    return p.mu.double() ** 2


def _mu_products(p: Pass) -> Tensor:
    mu = p.mu.to(torch.float64, copy=True)  # where a product's factors begin, it may round
    return mu.mT @ mu


mu_products = Total(_mu_products)  # of each two latents, [R, D, D]


def posterior_variance(p: Pass) -> Tensor:
    """[R, B, D]."""
    return p.logvar.double().exp()


def outside(p: Pass) -> Tensor:
    """The share of targets that the head does not reach."""
    return ((p.t < p.low) | (p.t > p.high)).double().mean(IMAGE)


def saturated(p: Pass) -> Tensor:
    """The share of outputs where the head is flat."""
    return (p.slope.abs() < 0.05).double().mean(IMAGE)


def _active(mu: Tensor, mu_squared: Tensor) -> Tensor:
    """Latents whose mean varies over the split (Burda et al. 2016)."""
    return (mu_squared - mu**2 > 0.01).sum(-1).double()


def prior_gap(mu: Tensor, variance: Tensor, mu_products: Tensor) -> Tensor:
    """KL(N(m, S) || N(0, I)) in nats, of the mean m and the covariance S of the aggregate
    posterior q(z), the mean of q(z | u) over a split's images.

    S = Cov(mu) + diag(mean variance). As ln N(m, S) - ln N(0, I) is quadratic, its mean is
    the same under q(z) and N(m, S), so that KL(q || N(0, I)) = KL(q || N(m, S)) + this: the
    gap that Hoffman & Johnson take out of the mean KL is at least so large, and this is at
    most the mean KL. It is 0 at the optimum of a linear VAE. The second term of S keeps it
    positive definite however few the images are; where these are no more than the latents,
    Cov(mu) lacks directions and the number says so of the split, not of the network.

    Args:
        mu: Mean over images, float64 [R, D], as the others.
        variance: Mean variance of the posterior, [R, D].
        mu_products: Mean of mu mu^T, [R, D, D].

    Returns:
        [R].

    References:
        Hoffman & Johnson 2016, ELBO surgery.
    """
    covariance = mu_products - mu[..., :, None] * mu[..., None, :]
    variance = variance.clamp(min=SMALLEST_VARIANCE)
    # S = V^1/2 (I + A) V^1/2, where A has no negative eigenvalue, and of those that are 0
    # rounding makes noise
    width = variance.rsqrt()
    scaled = covariance * width[..., :, None] * width[..., None, :]
    known = scaled.isfinite().all(-1).all(-1)
    values = torch.linalg.eigvalsh(scaled.where(known[..., None, None], 0))
    noise = values[..., -1:] * mu.shape[-1] * torch.finfo(values.dtype).eps
    log_det = (variance.log() + torch.log1p(values.where(values > noise, 0))).sum(-1)
    squares = mu_products.diagonal(dim1=-2, dim2=-1).sum(-1)
    gap = (variance.sum(-1) + squares - mu.shape[-1] - log_det) / 2
    return gap.where(known, torch.nan)


def _psnr(split: Split, squared_error: PerImage) -> Tensor:
    return -10 * torch.log10(split.mean(squared_error) / split.pixels)


LIKELIHOOD = error, sse_pixel  # what the run's own is computed from
NATS, BITS = "nats per image", "bits per dimension"

OURS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        # what is minimized, at the beta of the step
        Metric("loss", (*LIKELIHOOD, kl), label="loss", of_split=lambda s: s.loss),
        Metric(
            "mse", sse, label="mean squared error", unit="target space",
            of_split=lambda s: s.mean(sse) / s.pixels
        ),
        Metric(
            "mse_pixel", sse_pixel, label="mean squared error", unit="pixels in [0, 1]",
            of_split=lambda s: s.mse_pixel
        ),
        Metric(
            "psnr", sse_clipped, label="PSNR", unit="dB",
            of_split=lambda s: _psnr(s, sse_clipped)
        ),
        Metric("kl", kl, label="KL", unit=NATS),
        # of the run's own density in pixel space, at its noise
        Metric(
            "nll", LIKELIHOOD, label="negative log likelihood", unit=NATS,
            of_split=lambda s: s.nll("density")
        ),
        Metric(
            "elbo", (*LIKELIHOOD, kl), label="ELBO", unit=NATS,
            of_split=lambda s: s.elbo("density")
        ),
        Metric(
            "bits_per_dim", (*LIKELIHOOD, kl), label="ELBO", unit=BITS,
            of_split=lambda s: s.bits_per_dim(s.elbo("density"))
        ),
        # of the run's own mass over the 256 levels, which has no bin width
        Metric(
            "nll_discrete", LIKELIHOOD, label="discrete negative log likelihood", unit=NATS,
            of_split=lambda s: s.nll("mass")
        ),
        Metric(
            "elbo_discrete", (*LIKELIHOOD, kl), label="discrete ELBO", unit=NATS,
            of_split=lambda s: s.elbo("mass")
        ),
        Metric(
            "bits_per_dim_discrete", (*LIKELIHOOD, kl), label="discrete ELBO", unit=BITS,
            of_split=lambda s: s.bits_per_dim(s.elbo("mass")) - 8
        ),
        # no probability of gray values
        Metric(
            "nll_bernoulli", LIKELIHOOD, label="cross entropy", unit=NATS,
            of_split=lambda s: s.nll("cross_entropy")
        ),
        Metric(
            "elbo_calibrated", (sse_pixel, kl), label="calibrated ELBO", unit=NATS,
            of_split=lambda s: s.elbo_calibrated(sse_pixel)
        ),
        Metric(
            "bits_per_dim_calibrated", (sse_pixel, kl), label="calibrated ELBO", unit=BITS,
            of_split=lambda s: s.bits_per_dim(s.elbo_calibrated(sse_pixel))
        ),
        Metric(
            "sigma", LIKELIHOOD, label="noise of the likelihood", unit="8-bit levels",
            of_split=lambda s: 255 * s.std
        ),
        Metric(
            "recon_share", (*LIKELIHOOD, kl), label="reconstruction's share of the loss",
            of_split=lambda s: s.recon_share
        ),
        Metric("active_units", (mu, mu_squared), _active, "active latents", digits=0),
        Metric(
            "prior_gap", (mu, posterior_variance, mu_products), prior_gap,
            "gap of the aggregate posterior to the prior", "nats", digits=2
        ),
        # of the loss's two terms in the encoder's parameters, on the first CHUNK images
        Metric(
            "grad_norm_recon", (), label="gradient norm of the reconstruction",
            of_split=lambda s: s.gradient_norms[0]
        ),
        Metric(
            "grad_norm_kl", (), label="gradient norm of the KL",
            of_split=lambda s: s.gradient_norms[1]
        ),
        Metric("head_saturation", saturated, label="share of outputs where |g'| < 0.05"),
        Metric("out_of_range", outside, label="share of targets outside the head's range"),
    )
}  # fmt: skip

# of the test split, where train.importance_samples asks for them
BOUNDS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        # of the run's own likelihood, whatever its kind
        Metric(
            "nll_iw", LIKELIHOOD, label="importance-weighted NLL", unit=NATS, digits=2,
            of_split=lambda s: -s.bounds.own
        ),
        # of a Gaussian density at the variance that fits best
        Metric(
            "nll_iw_calibrated", sse_pixel, label="calibrated importance-weighted NLL",
            unit=NATS, digits=2, best="lowest", of_split=lambda s: -s.bounds.calibrated
        ),
        Metric(
            "bits_per_dim_iw_calibrated", sse_pixel, unit=BITS,
            label="calibrated importance-weighted NLL", best="lowest",
            of_split=lambda s: s.bits_per_dim(s.bounds.calibrated)
        ),
    )
}  # fmt: skip


# what a network whose range is tanh's would score with these outputs: range alone
_TANH_RANGE = (
    Metric(
        "psnr_tanh_range", sse_clipped_tanh_range, label="PSNR in tanh's range", unit="dB",
        digits=2, best="highest", of_split=lambda s: _psnr(s, sse_clipped_tanh_range)
    ),
    Metric(
        "mse_pixel_tanh_range", sse_tanh_range, digits=5, best="lowest",
        label="mean squared error in tanh's range", unit="pixels in [0, 1]",
        of_split=lambda s: s.mean(sse_tanh_range).sum(1) / s.pixels
    ),
    Metric(
        "bits_per_dim_calibrated_tanh_range", (sse_tanh_range, kl),
        label="calibrated ELBO in tanh's range", unit=BITS, best="lowest",
        of_split=lambda s: s.bits_per_dim(s.elbo_calibrated(sse_tanh_range))
    ),
)  # fmt: skip
OPTIONS = {"default": tuple(OURS.values()), "tanh_range": _TANH_RANGE}


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
    chosen: Sequence[Metric] = tuple(OURS.values()),
    chunk: int = CHUNK,
    pause: Callable[[], None] = lambda: None,
    samples: int = 0,
) -> dict[str, Tensor]:
    """Name -> float64 [R] of `chosen`, over uint8 `images` [n, C, H, W], with sampled z.

    `beta` [R] is that of the step. The noise is the same at every call. `pause` is called
    before each chunk, and may raise. With `samples` of each image, BOUNDS are there too.
    """
    chosen = (*chosen, *(BOUNDS.values() if samples else ()))
    was_training = cohort.training
    cohort.eval()
    noise_streams = Streams(seeds, "evaluation")
    functions = dict.fromkeys(f for metric in chosen for f in metric.functions)
    totals: dict[PerImage, Tensor] = {}
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
            seen = Pass.of(cohort, forward)
            for function in functions:
                values = _of_each(lambda *v, f=function: f(Pass(*v)), *seen).double()
                total = values if isinstance(function, Total) else values.sum(1)
                totals[function] = totals[function] + total if function in totals else total
    assert gradient_norms is not None
    means = {function: total / len(images) for function, total in totals.items()}
    split = Split(cohort, means, beta.double(), gradient_norms)
    if samples:
        with torch.no_grad():
            mse = split.mse_channel
            split.bounds = bounds(cohort, images, samples, seeds, mse, pause)
    cohort.train(was_training)
    return {metric.name: metric.value(split) for metric in chosen}


def named(name: str) -> tuple[Metric, ...]:
    """The metrics of a name: a set of ours, or a user's own one; raises as
    options.find."""
    return options.find(
        "metric",
        name,
        OPTIONS,
        lambda given: (given,) if isinstance(given, Metric) else None,
        "a Metric(name, per_image)",
    )


def of(names: Sequence[str]) -> tuple[Metric, ...]:
    """All metrics of `config.metric`; UserError where two have one name."""
    found: list[Metric] = []
    ours = (*OPTIONS.values(), tuple(BOUNDS.values()))
    owner = {m.name: "one of ours" for metrics in ours for m in metrics}
    for option in names:
        metrics = named(option)
        for metric in metrics if options.is_own(option) else ():
            if metric.name in owner:
                raise UserError(
                    f"metric={option} ({options.where(option)}): its name must be its own, "
                    f"got {metric.name}, which {owner[metric.name]} has"
                )
            owner[metric.name] = option
        found += metrics
    return tuple(found)


def columns(config: RunConfig) -> tuple[str, ...]:
    """The columns of a run's metrics.csv."""
    names = [metric.name for metric in of(config.metric)]
    columns = [f"{split}/{name}" for split in SPLITS for name in names]
    columns += [f"test/{name}" for name in BOUNDS if config.train.importance_samples]
    return ("step", "epoch", *columns)


def stated(config: RunConfig) -> dict[str, Any]:
    """What a summary states of metrics that not every run has, for readers without their
    code."""
    more = [("val", metric) for metric in of(config.metric) if metric.name not in OURS]
    more += [("test", m) for m in BOUNDS.values() if config.train.importance_samples]
    about = {
        m.name: {"label": m.label, "unit": m.unit, "digits": m.digits}
        | ({"split": split} if split != "val" else {})
        | ({"best": m.best} if m.best else {})
        for split, m in more
    }
    return {"metrics": about} if about else {}


@cache
def check_own(
    names: tuple[str, ...],
    shape: tuple[int, int, int],
    latent: int,
    precision: str,
    device: torch.device,
) -> None:
    """Raises UserError as `check` and `of`, of the own metrics among `names`, tried on
    images (C, H, W) of the shape, type and device that the runs have."""
    like = torch.empty(0, dtype=DTYPES[precision], device=device)
    for name in filter(options.is_own, names):
        for metric in named(name):
            check(metric, f"metric={name}", Pass.made_up(shape, latent, like))
    of(names)


def check(metric: Metric, what: str, example: Pass | None = None) -> None:
    """Tries a metric on a pass over made-up images, of several runs.

    Args:
        metric: The object.
        what: What names it in a message: metric=module:object, of a user's own.
        example: The pass; over images of 3 x 8 x 8 pixels unless given.

    Raises:
        UserError: It is not what a Metric must be; says what was found, and in which line.
    """
    p = Pass.made_up((3, 8, 8), 4, torch.empty(0)) if example is None else example
    name = what.partition("=")[2]
    own = options.is_own(name)
    try:
        with torch.no_grad():
            wrong = _misstated(metric) or _wrong(metric, p)
    except Exception as error:
        said = options.raised(error, name) if own else repr(error)
        raise UserError(f"{what}: raised {said}") from error
    if wrong:
        raise UserError(f"{what}{f' ({options.where(name)})' if own else ''}: {wrong}")


def _misstated(metric: Metric) -> str | None:
    """What is wrong with what a metric states."""
    if not (isinstance(metric.name, str) and re.fullmatch("[a-z][a-z0-9_]*", metric.name)):
        return f"its name must be a lower-case identifier, got {shown(metric.name)}"
    for key, text in (("label", metric.label), ("unit", metric.unit)):
        if not (isinstance(text, str) and text.isprintable()):
            return f"its {key} must be a line of text, got {shown(text)}"
    if not (isinstance(metric.digits, int) and 0 <= metric.digits <= MOST_DIGITS):
        return f"its digits must be 0 to {MOST_DIGITS}, got {shown(metric.digits)}"
    if metric.best not in (ends := get_args(Best)):
        return f"its best must be {' or '.join(ends[1:])}, got {shown(metric.best)}"
    functions = *metric.functions, metric.reduce
    if len(functions) == 1 and metric.of_split is None:
        return "per_image must be a function or several, got none"
    for wrong in (each for each in functions if not callable(each)):
        return f"per_image and reduce must be functions, got {shown(wrong)}"
    return None


def _wrong(metric: Metric, p: Pass) -> str | None:
    """What is wrong with what a metric's functions do, which may raise."""
    runs, images = p.error.shape
    means = []
    for function in dict.fromkeys(metric.functions):
        given = Pass(*(v.clone() for v in p))
        values = function(given)
        if not all(map(torch.equal, given, p)):
            return "per_image must leave what it is given as it is, got one that changes it"
        if isinstance(function, Total):
            means.append(values / images)
            continue
        if wrong := _misshapen(values, runs, images):
            return wrong
        alone = [function(each) for each in _single(p)]
        for value in alone:
            if wrong := _misshapen(value, 1, 1):
                return wrong
        if not _near(torch.cat([v.flatten() for v in alone]), values.flatten()):
            return (
                "per_image must be a function of one image of one run, got other values "
                "for an image alone than beside others"
            )
        means.append(values.double().mean(1))
    if metric.of_split is not None:
        return None
    number = _of_each(metric.reduce, *means)
    is_floating = isinstance(number, Tensor) and number.is_floating_point()
    if not (is_floating and number.shape == (runs,)):
        given = " and ".join(str(list(mean.shape)) for mean in means)
        rule = f"reduce must return a floating tensor [{runs}] of means {given}"
        return f"{rule} of {runs} runs, got {_kind(number)}"
    return None


def _misshapen(values: Any, runs: int, images: int) -> str | None:
    """What is wrong with what a function per image returned."""
    is_floating = isinstance(values, Tensor) and values.is_floating_point()
    if is_floating and values.shape[:2] == (runs, images) and values.ndim <= 3:
        return None
    return (
        f"per_image must return a floating tensor [R, B] or [R, B, K] of R runs and B "
        f"images, here of {runs} and {images}, got {_kind(values)}"
    )


def _single(p: Pass) -> Iterator[Pass]:
    """The passes of each run over each image alone, in order."""
    runs, images = p.error.shape
    for r in range(runs):
        for b in range(images):
            alone = (v[r : r + 1] for v in p)  # `low` and `high` have one for all images
            parts = (v[:, b : b + 1] if v.shape[1] == images else v for v in alone)
            yield Pass(*(v.clone() for v in parts))


def _near(a: Tensor, b: Tensor) -> bool:
    a, b = a.double(), b.double()
    size = b[b.isfinite()].abs().max().item() if b.isfinite().any() else 0.0
    return torch.allclose(a, b, rtol=0, atol=NEAR * size, equal_nan=True)


def _kind(value: Any) -> str:
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
