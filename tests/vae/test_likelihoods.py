"""Each likelihood against torch.distributions, scipy or numerical integrals."""

import math

import numpy as np
import pytest
import torch
from helpers import TINY, make_config, make_images
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats
from torch.distributions import Bernoulli, ContinuousBernoulli, Laplace, Normal

from vae_sweep.errors import UserError
from vae_sweep.training import metrics
from vae_sweep.vae import likelihoods, schedules
from vae_sweep.vae.cohort import Cohort
from vae_sweep.vae.likelihoods import OURS
from vae_sweep.vae.normalize import histograms
from vae_sweep.vae.point import check, point
from vae_sweep.vae.schedules import Implied, Schedule
from vae_sweep.vae.streams import Streams

IMAGES = make_images(21)
COUNTS = histograms(IMAGES)
LEVELS = torch.arange(256, dtype=torch.float64) / 255
DISCRETE = ("discretized_logistic", "discretized_gaussian")


@pytest.mark.parametrize("name", DISCRETE)
@given(st.floats(-2, 3), st.floats(math.log(1e-4), math.log(100)))
def test_masses_of_all_levels_sum_to_one(name, u_hat, log_std):
    std = torch.tensor(math.exp(log_std), dtype=torch.float64)
    mean = torch.full_like(LEVELS, u_hat)
    mass = OURS[name].log_prob(LEVELS, mean, std).exp()
    assert mass.sum().item() == pytest.approx(1, rel=1e-9)


@pytest.mark.parametrize("name", DISCRETE)
def test_masses_are_differences_of_scipys_cdf(name):
    u_hat, std = 0.3, 0.02
    if name == "discretized_gaussian":
        cdf = stats.norm(u_hat, std).cdf
    else:
        cdf = stats.logistic(u_hat, std * math.sqrt(3) / math.pi).cdf
    edges = np.concatenate([[-np.inf], (np.arange(255) + 0.5) / 255, [np.inf]])
    expected = np.diff(cdf(edges))
    mean = torch.full_like(LEVELS, u_hat)
    log_mass = OURS[name].log_prob(LEVELS, mean, torch.tensor(std, dtype=torch.float64))
    central = expected > 1e-9  # scipy's difference has no digits beyond
    np.testing.assert_allclose(log_mass.exp()[central], expected[central], rtol=1e-6)


@pytest.mark.parametrize("name", DISCRETE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_far_tails_have_finite_values_and_gradients(name, dtype):
    u = torch.tensor([0.0, 0.0, 1.0, 1.0, 0.5, 0.5], dtype=dtype)
    u_hat = torch.tensor([-3.0, 4.0, 4.0, -3.0, 4.0, -3.0], dtype=dtype)
    for value in (1e-3, 0.2, 10.0):
        mean = u_hat.clone().requires_grad_()
        std = torch.tensor(value, dtype=dtype, requires_grad=True)
        log_mass = OURS[name].log_prob(u, mean, std)
        assert log_mass.isfinite().all()
        assert (log_mass <= 0).all()
        for gradient in torch.autograd.grad(log_mass.sum(), (mean, std)):
            assert gradient.isfinite().all()


def test_gaussian_and_laplace_agree_with_torch_distributions():
    u, u_hat, std = torch.rand(3, 50, dtype=torch.float64) + 0.01
    expected = Normal(u_hat, std).log_prob(u)
    torch.testing.assert_close(likelihoods.gaussian(u, u_hat, std), expected)
    laplace = Laplace(u_hat, std / math.sqrt(2))
    torch.testing.assert_close(laplace.stddev, std)
    torch.testing.assert_close(likelihoods.laplace(u, u_hat, std), laplace.log_prob(u))


def test_bernoulli_agrees_with_torch_distributions():
    logit = torch.linspace(-30, 30, 41, dtype=torch.float64)
    for u in (torch.zeros(41).double(), torch.ones(41).double()):
        expected = Bernoulli(logits=logit).log_prob(u)
        torch.testing.assert_close(likelihoods.bernoulli(u, logit), expected)


PROBABILITIES = [1e-9, 1e-4, 0.1, 0.3, 0.49, 0.4999, 0.49999999, 0.5]


@pytest.mark.parametrize("p", PROBABILITIES + [1 - p for p in PROBABILITIES])
def test_continuous_bernoulli_is_a_density_over_the_unit_interval(p):
    """The constant is one over the integral, found numerically; 1/2 included."""
    logit = torch.tensor(math.log(p) - math.log1p(-p), dtype=torch.float64)
    integral, _ = integrate.quad(lambda u: p**u * (1 - p) ** (1 - u), 0, 1, epsabs=1e-13)
    constant = likelihoods.continuous_bernoulli_constant(logit).item()
    assert math.exp(constant) == pytest.approx(1 / integral, rel=1e-9)
    moment, _ = integrate.quad(lambda u: u * p**u * (1 - p) ** (1 - u), 0, 1, epsabs=1e-13)
    mean = likelihoods.continuous_bernoulli_mean(logit).item()
    assert mean == pytest.approx(moment / integral, rel=1e-9)


@given(st.floats(-40, 40))
def test_continuous_bernoulli_is_right_in_float32_and_so_is_its_slope(value):
    """To 1e-6, the neighbourhood of 0 included; the slope is the exact derivative."""
    logit = torch.tensor(value, dtype=torch.float32, requires_grad=True)
    constant = likelihoods.continuous_bernoulli_constant(logit)
    x = logit.item()
    exact = math.log(x / math.tanh(x / 2)) if abs(x) > 1e-8 else math.log(2)
    assert constant.item() == pytest.approx(exact, abs=1e-6)
    [slope] = torch.autograd.grad(constant, logit)
    exact = 1 / x - 1 / math.sinh(x) if abs(x) > 1e-3 else x / 6
    assert slope.item() == pytest.approx(exact, abs=1e-5)


def test_continuous_bernoulli_agrees_with_torch_distributions():
    logit = torch.linspace(-8, 8, 33, dtype=torch.float64)
    u = torch.rand(33, dtype=torch.float64)
    reference = ContinuousBernoulli(logits=logit)
    value = likelihoods.continuous_bernoulli(u, logit)
    torch.testing.assert_close(value, reference.log_prob(u), rtol=1e-4, atol=1e-4)
    mean = likelihoods.continuous_bernoulli_mean(logit)
    torch.testing.assert_close(mean, reference.mean, rtol=1e-3, atol=1e-3)


def cohort_of(*overrides: str, learned: float = 0.05) -> tuple[Cohort, torch.Tensor]:
    """One run with weights far from the start, and its beta [1]."""
    config = make_config(*TINY, "train.precision=fp64", *overrides)
    constants = point(config, COUNTS, 64)
    cohort = Cohort([config], [constants], (3, 8, 8))
    for p in cohort.model.parameters():
        p.data *= 3
    cohort.likelihoods.log_variance.data += learned
    return cohort, torch.tensor([constants.beta])


def evaluated(*overrides: str, batch: int = 8) -> dict[str, float]:
    cohort, beta = cohort_of(*overrides)
    values = metrics.evaluate(cohort, IMAGES, beta, [0], chunk=batch)
    return {name: value.item() for name, value in values.items()}


def log_mass(distribution, low, high) -> torch.Tensor:
    """From the tail that keeps its digits."""
    left = distribution.cdf(high) - distribution.cdf(low)
    right = distribution.sf(low) - distribution.sf(high)
    mass = np.where(low.numpy() > distribution.mean(), right, left)
    return torch.from_numpy(np.log(mass))


def by_hand(name: str, *overrides: str) -> tuple[float, float]:
    """(mean log likelihood in nats per image, noise in 8-bit levels), in pixels, from
    torch.distributions and scipy."""
    cohort, _ = cohort_of(*overrides)
    p = cohort.points[0]
    noise = Streams([0], "evaluation")
    draws = torch.cat([noise.normal(n, 4) for n in (8, 8, 5)], 1).double()
    u = cohort.pixels_of(IMAGES)
    with torch.no_grad():
        f = cohort(u, draws)
    a, u, u_hat = f.a[0], u[0], p.target.inverse(f.t_hat[0])
    scale = p.target.scale[:, None, None]
    ratio = math.exp(0.5 * likelihoods.LOG_VARIANCE_GAIN * 0.05)
    std = ratio * p.spread * scale
    if name == "gaussian_optimal":
        std = scale * ((u - u_hat) / scale).square().mean().sqrt()
    elif name == "l1":  # the objective is |t - t_hat| + beta KL
        std = math.sqrt(2) * p.beta * scale
    elif name == "mse":
        std = p.variance.sqrt()[:, None, None]
    logistic = stats.logistic(u_hat, std * math.sqrt(3) / math.pi)
    bins = (u - 0.5 / 255).where(u > 0, -torch.inf), (u + 0.5 / 255).where(u < 1, torch.inf)
    log_prob = {
        "mse": lambda: Normal(u_hat, std).log_prob(u),
        "gaussian_learned": lambda: Normal(u_hat, std).log_prob(u),
        "gaussian_optimal": lambda: Normal(u_hat, std).log_prob(u),
        "l1": lambda: Laplace(u_hat, std / math.sqrt(2)).log_prob(u),
        "laplace": lambda: Laplace(u_hat, std / math.sqrt(2)).log_prob(u),
        "discretized_logistic": lambda: log_mass(logistic, *bins),
        "discretized_gaussian": lambda: log_mass(stats.norm(u_hat, std), *bins),
        "bernoulli": lambda: u * torch.sigmoid(a).log() + (1 - u) * torch.sigmoid(-a).log(),
        "continuous_bernoulli": lambda: ContinuousBernoulli(logits=a).log_prob(u),
    }[name]()
    if OURS[name].takes == "logit":
        std = torch.tensor(math.nan)
    sigma = 255 * torch.as_tensor(std).square().mean().sqrt().item()
    return log_prob.sum((1, 2, 3)).mean().item(), sigma


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("target", ["unit", "minus1_1", "zscore", "raw255"])
def test_log_likelihoods_in_pixels_of_a_split(name, target):
    """With all constants, over batches of unequal size, each in the column of its kind."""
    if OURS[name].takes == "logit" and target != "unit":
        pytest.skip("refused")
    head = "sigmoid" if OURS[name].takes == "logit" else "linear"
    overrides = (f"likelihood={name}", f"target={target}", f"head={head}", "beta.value=0.5")
    values = evaluated(*overrides)
    log_likelihood, sigma = by_hand(name, *overrides)
    rel = 1e-4 if name == "continuous_bernoulli" else 1e-7
    columns = {"density": "nll", "mass": "nll_discrete", "cross_entropy": "nll_bernoulli"}
    mine = columns.pop(OURS[name].kind)
    assert values[mine] == pytest.approx(-log_likelihood, rel=rel)
    assert all(math.isnan(values[other]) for other in columns.values())
    assert values["sigma"] == pytest.approx(sigma, nan_ok=True)
    elbo = log_likelihood - values["kl"]
    pixels = 3 * 64
    if OURS[name].kind == "density":
        assert values["elbo"] == pytest.approx(elbo, rel=rel)
        bits = -elbo / pixels / math.log(2) + 8
        assert values["bits_per_dim"] == pytest.approx(bits, rel=rel)
        assert math.isnan(values["elbo_discrete"])
    elif OURS[name].kind == "mass":
        assert values["elbo_discrete"] == pytest.approx(elbo, rel=rel)
        bits = -elbo / pixels / math.log(2)
        assert values["bits_per_dim_discrete"] == pytest.approx(bits, rel=rel)
        assert math.isnan(values["bits_per_dim"])
    if name not in ("mse", "l1"):
        expected = -log_likelihood + 0.5 * values["kl"]
        assert values["loss"] == pytest.approx(expected, rel=rel)
    assert math.isfinite(values["elbo_calibrated"])


def test_the_loss_of_l1_is_the_absolute_error_in_target_space():
    cohort, beta = cohort_of("likelihood=l1", "target=minus1_1", "reduction=mean")
    u = cohort.pixels_of(IMAGES)
    f = cohort(u, torch.zeros(1, 21, 4).double())
    recon, kl = cohort.terms(f, beta.double())
    torch.testing.assert_close(recon[0], (f.t - f.t_hat).abs().mean())
    torch.testing.assert_close(kl[0], f.kl().mean() / 4)


def test_matched_l1_has_the_noise_asked_for():
    for target in ("unit", "zscore", "raw255"):
        overrides = ("likelihood=l1", "beta=matched", "beta.sigma=30", f"target={target}")
        assert evaluated(*overrides)["sigma"] == pytest.approx(30)


SCALED = ("unit", "minus1_1", "zscore_global", "raw255")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gaussian_optimal", "gaussian_learned", "laplace"])
def test_noises_of_their_own_are_blind_to_the_targets_scale(name):
    """Pixels that do not depend on the target: one loss, one gradient, one noise."""
    seen = {}
    for target in SCALED:
        common = (f"likelihood={name}", "head=tanh_rescaled", f"target={target}")
        cohort, beta = cohort_of("norm=minus1_1", *common)
        f = cohort(cohort.pixels_of(IMAGES), torch.ones(1, 21, 4).double())
        recon, kl = cohort.terms(f, beta.double())
        loss = (recon + kl).sum()
        gradients = torch.autograd.grad(
            loss, list(cohort.parameters()), materialize_grads=True
        )
        values = metrics.evaluate(cohort, IMAGES, beta, [0], chunk=8)
        seen[target] = (loss, gradients, values["sigma"], values["elbo"])
    for target in SCALED[1:]:
        torch.testing.assert_close(seen[target], seen["unit"], rtol=1e-9, atol=1e-9)


def test_a_bigger_batch_sees_another_noise_but_evaluation_does_not():
    """gaussian_optimal's noise is the batch's in training and the split's in evaluation."""
    small = evaluated("likelihood=gaussian_optimal", batch=5)
    large = evaluated("likelihood=gaussian_optimal", batch=21)
    # the draws of z differ with the batches, the noise must only follow the error
    for values in (small, large):
        optimal = -0.5 * 192 * (math.log(2 * math.pi * values["mse"]) + 1)
        scale = point(make_config(*TINY), COUNTS, 64).target.scale
        optimal -= 64 * scale.log().sum().item()
        assert values["nll"] == pytest.approx(-optimal)


@pytest.mark.slow
def test_the_learned_noise_finds_the_error():
    """With the network held, steps on log_variance end at the mean squared error."""
    cohort, beta = cohort_of("likelihood=gaussian_learned", "target=unit")
    u = cohort.pixels_of(IMAGES)
    noise = torch.zeros(1, 21, 4).double()
    optimizer = torch.optim.Adam([cohort.likelihoods.log_variance], lr=0.02)
    for _ in range(400):
        recon, _ = cohort.terms(cohort(u, noise), beta.double())
        optimizer.zero_grad()
        recon.sum().backward()
        optimizer.step()
    with torch.no_grad():
        mse = (u - cohort.target.inverse(cohort(u, noise).t_hat)).square().mean()
        std = cohort.likelihoods.std(0, torch.zeros(3).double())
    assert std[0].item() == pytest.approx(mse.sqrt().item(), rel=1e-3)


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        (["likelihood=bernoulli", "norm=zscore"], "needs target=unit, got target=zscore"),
        (
            ["likelihood=continuous_bernoulli", "norm=unit", "head=linear"],
            r"outputs in \(0, 1\), got head=linear",
        ),
        (["likelihood=l1", "reduction=gaussian"], "set reduction=sum"),
        (["likelihood=cauchy"], "cauchy"),
    ],
)
def test_combinations_without_a_meaning_are_refused(overrides, complaint):
    with pytest.raises(Exception, match=complaint) as error:
        check(make_config(*overrides))
    if "cauchy" not in complaint:
        assert isinstance(error.value, UserError)
        assert "set " in str(error.value)


def test_a_schedule_that_needs_an_implied_noise_says_so_where_there_is_none(monkeypatch):
    def final(pixels: int, latent: int, implied: Implied) -> float:
        return implied.beta(0.01)

    monkeypatch.setitem(schedules.OURS, "constant", lambda value: Schedule(final))
    check(make_config("likelihood=mse"))
    with pytest.raises(UserError, match="has one of its own or none; set beta=1"):
        check(make_config("likelihood=gaussian_learned"))


@pytest.mark.parametrize("head", ["sigmoid_rescaled", "tanh_rescaled"])
def test_rescaled_heads_give_bernoulli_their_logit(head):
    """The likelihood from the logit is the one from the head's output."""
    overrides = ("likelihood=bernoulli", "target=unit", f"head={head}")
    cohort, _ = cohort_of(*overrides)
    u = cohort.pixels_of(IMAGES)
    f = cohort(u, torch.zeros(1, 21, 4).double())
    expected = u * f.t_hat.log() + (1 - u) * (1 - f.t_hat).log()
    torch.testing.assert_close(cohort.errors(f), -expected.sum((2, 3, 4)))


def test_continuous_bernoullis_reconstruction_is_its_mean():
    overrides = ("likelihood=continuous_bernoulli", "target=unit", "head=sigmoid")
    cohort, _ = cohort_of(*overrides)
    f = cohort(cohort.pixels_of(IMAGES), torch.zeros(1, 21, 4).double())
    expected = ContinuousBernoulli(logits=f.a).mean
    torch.testing.assert_close(f.t_hat, expected, rtol=1e-3, atol=1e-3)
