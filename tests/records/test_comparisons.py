import itertools
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from vae_sweep.errors import UserError
from vae_sweep.records.comparisons import (
    Interval,
    bootstrap,
    difference,
    mean,
    of_point,
    paired,
    table,
)


def finals(**columns) -> pd.DataFrame:
    """Two points, tanh and linear, of seeds 0, 1, 2, which tanh has in another order."""
    frame = pd.DataFrame(
        {
            "run_id": list("abcdef"),
            "norm": "zscore",
            "target": "zscore",
            "head": ["tanh"] * 3 + ["linear"] * 3,
            "likelihood": "mse",
            "reduction": "sum",
            "beta": "1",
            "seed": [2, 0, 1, 0, 1, 2],
            "other": "",
            "status": "finished",
            "test/psnr": [18.0, 17.0, 17.5, 20.0, 20.5, 20.25],
        }
    )
    return frame.assign(**columns)


TANH, LINEAR = {"norm": "zscore", "head": "tanh"}, {"norm": "zscore", "head": "linear"}


def test_pairs_are_made_by_seed():
    # by hand: seeds 0, 1, 2 are 17 - 20, 17.5 - 20.5, 18 - 20.25
    assert paired(finals(), "test/psnr", TANH, LINEAR).to_dict() == {0: -3, 1: -3, 2: -2.25}


def test_a_seed_that_only_one_point_has_is_left_out():
    some = finals(seed=[2, 0, 1, 0, 1, 7])
    assert paired(some, "test/psnr", TANH, LINEAR).to_dict() == {0: -3, 1: -3}


def test_pairing_takes_away_what_seeds_share():
    shared = np.array([10.0, -7.0, 3.0])
    frame = finals(**{"test/psnr": [*(shared[[2, 0, 1]] + 1), *shared]})
    found = difference(frame, "test/psnr", TANH, LINEAR)
    assert found == Interval(1, 1, 1, 3)


def test_diverged_seeds_are_counted():
    some = finals(status=["diverged"] + ["finished"] * 5)
    assert difference(some, "test/psnr", TANH, LINEAR)[3:] == (2, 1)
    assert mean(some, "test/psnr", TANH).text(1) == "17.2 [17.0, 17.5] (n = 2, 1 diverged)"
    assert mean(some, "test/psnr", LINEAR).lost == 0


def test_runs_that_did_not_finish_are_left_out():
    some = finals(status=["diverged"] + ["finished"] * 5)
    assert list(of_point(some, TANH)["test/psnr"]) == [17.0, 17.5]


def test_what_is_not_there_or_not_one_point_is_refused():
    with pytest.raises(UserError, match="head=sigmoid"):
        of_point(finals(), {"norm": "zscore", "head": "sigmoid"})
    with pytest.raises(UserError, match="target=unit"):
        of_point(finals(), {**TANH, "target": "unit"})
    with pytest.raises(UserError, match="latent=8"):
        of_point(finals(other=["latent=8", "", "", "", "", ""]), TANH)


def test_five_values_against_all_their_resamples():
    sample = [1.0, 2.0, 4.0, 8.0, 16.0]
    means = sorted(sum(draw) / 5 for draw in itertools.product(sample, repeat=5))
    # Hesterberg 2015: the tails of t, stretched by sqrt(n / (n - 1))
    tail = stats.norm.cdf(-math.sqrt(5 / 4) * stats.t.ppf(0.975, 4))
    low, high = np.quantile(means, [tail, 1 - tail])
    assert bootstrap(sample) == pytest.approx((6.2, low, high, 5, 0))
    assert low == means[2]  # of 3125, the third, where the plain interval has the 79th


def test_five_values_cover_their_mean():
    rng = np.random.default_rng(1)
    found = [bootstrap(rng.normal(size=5)) for _ in range(400)]
    assert 0.88 < np.mean([i.low <= 0 <= i.high for i in found]) < 0.96


def test_many_values_agree_with_students_t():
    sample = np.random.default_rng(2).normal(3, 2, size=200)
    t = stats.t.interval(0.95, 199, sample.mean(), stats.sem(sample))
    found = bootstrap(sample)
    assert (found.low, found.high) == pytest.approx(t, abs=0.03)


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=6))
def test_an_interval_lies_within_the_sample(values):
    found = bootstrap(values)
    slack = 1e-9 * max(map(abs, values), default=0)
    assert min(values) - slack <= found.low <= found.high <= max(values) + slack
    assert found.n == len(values)


def test_one_value_has_no_interval():
    found = bootstrap([3.0])
    assert found.estimate == 3
    assert math.isnan(found.low)
    assert found.sign == 0


@pytest.mark.parametrize(
    ("low", "high", "sign"), [(0.1, 2, 1), (-2, -0.1, -1), (-1, 1, 0), (0, 1, 0)]
)
def test_a_sign_needs_an_interval_on_one_side(low, high, sign):
    assert Interval((low + high) / 2, low, high, 5).sign == sign


def test_text():
    assert Interval(-1.734, -1.76, -1.684, 5).text() == "−1.73 [−1.76, −1.68]"
    assert Interval(1.734, 1.68, 1.76, 5).text(1, signed=True) == "+1.7 [+1.7, +1.8]"
    assert Interval(-0.001, -0.004, 0.2, 5).text(1) == "0.0 [0.0, 0.2]"
    assert Interval(2.0, 2.0, 2.0, 5).text(0) == "2"
    assert bootstrap([2.0]).text(1) == "2.0 (one seed)"
    assert Interval(math.inf, math.nan, math.nan, 5).text() == "–"


def test_table():
    frame = table(finals(), {"a": TANH, "b": LINEAR}, {"PSNR": ("test/psnr", 1)})
    assert list(frame.index) == ["a", "b"]
    assert frame.loc["b", "PSNR"].startswith("20.2 [20.")
