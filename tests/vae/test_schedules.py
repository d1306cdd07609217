import numpy as np
import pytest
from helpers import make_config
from hypothesis import given
from hypothesis import strategies as st

from vae_sweep.config import (
    ConstantBeta,
    CyclicalBeta,
    MatchedBeta,
    NormalizedBeta,
    WarmupBeta,
)
from vae_sweep.vae import objective, schedules


def test_warmup_rises_linearly_then_stays():
    config = WarmupBeta(name="warmup", value=2.0, fraction=0.5)
    expected = [0, 0.25, 0.5, 0.75, 1, 1, 1, 1, 1]
    np.testing.assert_allclose(schedules.beta_multipliers(config, 8), expected)


def test_warmup_over_no_steps_is_constant():
    config = WarmupBeta(name="warmup", value=2.0, fraction=0.0)
    np.testing.assert_array_equal(schedules.beta_multipliers(config, 3), np.ones(4))


def test_cyclical_by_hand():
    config = CyclicalBeta(name="cyclical", value=1.0, cycles=2, ramp=0.5)
    expected = [0, 0.5, 1, 1, 0, 0.5, 1, 1, 1]
    np.testing.assert_allclose(schedules.beta_multipliers(config, 8), expected)


@given(st.integers(1, 50), st.integers(1, 7), st.floats(0.05, 1))
def test_multipliers_lie_in_zero_one_and_end_at_one(steps, cycles, ramp):
    for config in (
        ConstantBeta(name="constant", value=3.0),
        WarmupBeta(name="warmup", value=3.0, fraction=ramp),
        CyclicalBeta(name="cyclical", value=3.0, cycles=cycles, ramp=ramp),
    ):
        values = schedules.beta_multipliers(config, steps)
        assert values.shape == (steps + 1,)
        assert (values >= 0).all()
        assert (values <= 1).all()
        assert values[-1] == pytest.approx(1)


def test_normalized_beta_is_higginss():
    config = NormalizedBeta(name="normalized", beta_norm=0.5)
    assert (
        schedules.final_beta(config, 3072, 128, schedules.Implied(1.0)) == 0.5 * 3072 / 128
    )


@given(
    st.floats(0.5, 200),
    st.sampled_from(["sum", "gaussian", "mean", "pixel_mean"]),
    st.floats(0.01, 255),
)
def test_matched_beta_implies_the_sigma_asked_for(sigma, reduction, scale):
    import torch

    weights = objective.reduction_weights(reduction, 3072, 128)
    scales = scale * torch.tensor([0.9, 1.0, 1.2], dtype=torch.float64)
    unit = objective.implied_variance(1.0, weights, scales).mean().item()
    config = MatchedBeta(name="matched", sigma=sigma)
    beta = schedules.final_beta(config, 3072, 128, schedules.Implied(unit))
    variance = objective.implied_variance(beta, weights, scales)
    assert objective.implied_sigma(variance) == pytest.approx(sigma, rel=1e-9)


def test_a_matched_beta_rises_to_its_noise_and_is_one_where_there_is_none_to_match():
    config = MatchedBeta(name="matched", sigma=25.5, fraction=0.5)
    expected = [0, 0.25, 0.5, 0.75, 1, 1, 1, 1, 1]
    np.testing.assert_allclose(schedules.beta_multipliers(config, 8), expected)
    final = schedules.final_beta
    assert final(config, 3072, 128, schedules.Implied(0.5)) == pytest.approx(0.02)
    assert final(config, 3072, 128, schedules.Implied(np.nan)) == 1


def test_learning_rate_warms_up_and_decays_by_cosine():
    train = make_config("train.lr_warmup=3", "train.steps=10").train
    rates = schedules.rate_multipliers(train, 10)
    cosine = 0.5 * (1 + np.cos(np.pi * np.arange(10) / 10))
    expected = cosine * np.minimum(1, np.arange(1, 11) / 4)
    np.testing.assert_allclose(rates, expected)
    flat = make_config("train.lr_schedule=constant").train
    assert schedules.rate_multipliers(flat, 600)[599] == 1


def test_a_short_run_reaches_its_learning_rate():
    """Of 20 steps the first two warm up; a warm-up of 50 would let it learn nothing."""
    train = make_config("train.steps=20", "train.lr_schedule=constant").train
    expected = np.minimum(1, np.arange(1, 21) / 3)
    np.testing.assert_allclose(schedules.rate_multipliers(train, 20), expected)
