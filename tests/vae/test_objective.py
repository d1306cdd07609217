import math

import numpy as np
import pytest
import torch
from helpers import make_images
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Independent, Normal, kl_divergence

from vae_sweep.vae import objective
from vae_sweep.vae.normalize import fit, histograms
from vae_sweep.vae.objective import reduction_weights as weights_of

REDUCTIONS = ("sum", "gaussian", "mean", "pixel_mean")


def test_kl_agrees_with_torch_distributions():
    mu, logvar = torch.randn(2, 3, 5, 7, dtype=torch.float64)
    posterior = Independent(Normal(mu, (logvar / 2).exp()), 1)
    prior = Independent(Normal(torch.zeros_like(mu), 1.0), 1)
    expected = kl_divergence(posterior, prior)
    torch.testing.assert_close(objective.kl_divergence(mu, logvar), expected)


def test_elbo_is_the_gaussian_log_density_minus_kl():
    u, u_hat = torch.rand(2, 4, 3, 5, 5, dtype=torch.float64)
    variance = torch.tensor([0.01, 0.02, 0.05], dtype=torch.float64)
    kl = torch.rand(4, dtype=torch.float64)
    log_density = Normal(u_hat, variance.sqrt()[:, None, None]).log_prob(u)
    sse = ((u - u_hat) ** 2).sum((2, 3))
    value = objective.elbo(sse, kl, variance, pixels=75)
    torch.testing.assert_close(value, log_density.sum((1, 2, 3)) - kl)


def test_elbo_without_noise_is_undefined():
    zero = torch.zeros(3, dtype=torch.float64)
    value = objective.elbo(torch.ones(2, 3).double(), torch.ones(2), zero, 12)
    assert value.isnan().all()


def test_bits_per_dim_by_hand():
    # a uniform density over [0, 1] costs exactly 8 bits per 8-bit level
    assert objective.bits_per_dim(torch.tensor(0.0), 3072).item() == 8
    one_nat_each = objective.bits_per_dim(torch.tensor(-3072.0), 3072).item()
    assert one_nat_each == pytest.approx(8 + 1 / math.log(2), rel=1e-6)


def test_implied_sigma_of_the_plain_sum_on_zero_one_images_by_hand():
    # sum reduction, beta 1: SSE + KL = SSE / (2 * 1/2) + KL, sigma = sqrt(1/2)
    variance = objective.implied_variance(1.0, (1.0, 1.0), torch.ones(3).double())
    assert objective.implied_sigma(variance) == pytest.approx(255 * math.sqrt(0.5))
    # the mean of both terms on [-1, 1]: v = (N / D) * (1/2)^2 / 2
    weights = objective.reduction_weights("mean", 3072, 32)
    variance = objective.implied_variance(1.0, weights, torch.full((3,), 0.5).double())
    assert objective.implied_sigma(variance) == pytest.approx(255 * math.sqrt(12))


@given(
    st.sampled_from(REDUCTIONS),
    st.sampled_from(["unit", "minus1_1", "zscore", "zscore_global", "raw255"]),
    st.floats(1e-3, 1e3),
)
def test_the_objective_is_a_gaussian_decoder_of_the_implied_noise(reduction, norm, beta):
    """(w_r SSE_t + beta w_k KL) / (beta w_k) = sum_c SSE_u,c / (2 v_c) + KL."""
    target = fit(norm, histograms(make_images(10)))
    w_r, w_k = objective.reduction_weights(reduction, 75, 4)
    u, u_hat = torch.rand(2, 3, 5, 5, dtype=torch.float64)
    kl = 3.0
    sse_t = ((target.forward(u) - target.forward(u_hat)) ** 2).sum()
    loss = w_r * sse_t + beta * w_k * kl
    v = objective.implied_variance(beta, (w_r, w_k), target.scale)
    expected = (((u - u_hat) ** 2).sum((1, 2)) / (2 * v)).sum() + kl
    np.testing.assert_allclose(loss / (beta * w_k), expected, rtol=1e-10)


def test_reductions_are_the_averages_they_are_named_after():
    t, t_hat = torch.rand(2, 4, 3, 5, 5, dtype=torch.float64)
    kl = torch.rand(4, 6, dtype=torch.float64)  # per latent
    sse, total = ((t - t_hat) ** 2).sum((1, 2, 3)), kl.sum(1)
    mse = torch.nn.functional.mse_loss(t_hat, t)

    def loss(name):
        w_r, w_k = weights_of(name, 75, 6)
        return (w_r * sse + w_k * total).mean()

    torch.testing.assert_close(loss("mean"), mse + kl.mean())
    torch.testing.assert_close(loss("pixel_mean"), mse + kl.sum(1).mean())
    torch.testing.assert_close(loss("sum"), 75 * mse + total.mean())
    torch.testing.assert_close(loss("gaussian"), 75 * mse / 2 + total.mean())
