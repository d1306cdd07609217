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
    difference,
    exact,
    holm,
    holm_p_values,
    interval,
    mean,
    of_point,
    over_seeds,
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
    assert difference(some, "test/psnr", TANH, LINEAR)[3:5] == (2, 1)
    assert mean(some, "test/psnr", TANH).text(1) == "17.2 [14.1, 20.4] (n = 2, 1 diverged)"
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


SAMPLE = [1.0, 2.0, 4.0, 8.0, 16.0]


@pytest.mark.parametrize("level", [0.8, 0.95, 0.999])
def test_an_interval_is_students_t(level):
    test = stats.ttest_1samp(SAMPLE, 0).confidence_interval(level)
    found = interval(SAMPLE, level)
    assert found == pytest.approx((6.2, test.low, test.high, 5, 0, level))
    assert interval(SAMPLE).at(level) == pytest.approx(found)


def test_a_difference_is_the_paired_t_test():
    some = finals()
    tanh, base = ([17.0, 17.5, 18.0], [20.0, 20.5, 20.25])  # by seed
    test = stats.ttest_rel(tanh, base)
    found = difference(some, "test/psnr", TANH, LINEAR, 0.9)
    low, high = test.confidence_interval(0.9)
    assert found == pytest.approx((-2.75, low, high, 3, 0, 0.9))
    assert found.p_value() == pytest.approx(test.pvalue)


def test_five_values_cover_their_mean():
    samples = np.random.default_rng(1).normal(size=(4000, 5))
    found = [interval(sample) for sample in samples]
    share = np.mean([i.low <= 0 <= i.high for i in found])
    assert abs(share - 0.95) < 3 * math.sqrt(0.95 * 0.05 / 4000)


def by_scipy(values, margin: float, level: float) -> str:
    """The three one-sided tests of a decision; equality by two one-sided tests (TOST)."""
    tail = (1 - level) / 2

    def p(at: float, alternative: str) -> float:
        return stats.ttest_1samp(values, at, alternative=alternative).pvalue

    if p(margin, "greater") < tail:
        return "higher"
    if p(-margin, "less") < tail:
        return "lower"
    if max(p(-margin, "greater"), p(margin, "less")) < tail:
        return "equal within the margin"
    return "undecided"


@pytest.mark.parametrize("level", [0.6, 0.95])
def test_decisions_are_those_of_one_sided_tests(level):
    rng = np.random.default_rng(4)
    seen = set()
    for _ in range(200):
        values = rng.normal(rng.uniform(-2, 2), rng.uniform(0.05, 0.8), size=4)
        found = interval(values, level)
        assert found.decision(1.0) == by_scipy(values, 1.0, level)
        p = found.p_value(1.0)
        assert (p < 1 - level) == (found.decision(1.0) != "undecided")
        # the least level that decides: just short of it does not
        assert p == 1 or found.at(1 - p - 1e-6).decision(1.0) != "undecided"
        assert p == 1 or found.at(1 - p + 1e-6).decision(1.0) == "undecided"
        seen.add(found.decision(1.0))
    assert len(seen) == 4


@pytest.mark.parametrize("truth", [0.0, 1.0, -1.0, 0.9, 1.1])
def test_a_decision_is_wrong_in_one_of_twenty_at_most(truth):
    right = {
        **dict.fromkeys((0.0, 0.9), "equal within the margin"),
        **{1.1: "higher"},
    }.get(truth)  # at the margin itself neither is
    samples = np.random.default_rng(5).normal(truth, 0.2, size=(2000, 5))
    made = [interval(sample).decision(1.0) for sample in samples]
    wrong = np.mean([d not in ("undecided", right) for d in made])
    assert wrong < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 2000)


@pytest.mark.parametrize(
    ("low", "high", "decided"),
    [
        (0.31, 2, "higher"),
        (-2, -0.31, "lower"),
        (-0.1, 0.2, "equal within the margin"),
        (0.1, 0.2, "equal within the margin"),  # seen, and too small to matter
        (0.2, 0.5, "undecided"),
        (-1, 1, "undecided"),
        (math.nan, math.nan, "undecided"),
    ],
)
def test_a_decision_is_about_the_margin(low, high, decided):
    assert Interval((low + high) / 2, low, high, 5).decision(0.3) == decided


def test_without_spread_a_value_decides():
    assert (exact(2.0).decision(0.3), exact(2.0).p_value(0.3)) == ("higher", 0)
    assert (exact(0.3).decision(0.3), exact(0.3).p_value(0.3)) == ("undecided", 1)
    assert interval([0.1] * 5).decision(0.3) == "equal within the margin"
    assert interval([0.0] * 5).p_value() == 1


def of_p(p: float) -> Interval:
    """Five values whose two-sided t test has this p-value."""
    t = stats.t.isf(p / 2, 4)
    spread = np.array([-2.0, -1, 0, 1, 2])
    return interval(spread + t * spread.std(ddof=1) / math.sqrt(5))


def test_holm_by_hand():
    # 0.01 <= 0.05 / 4; 0.016 <= 0.05 / 3; 0.03 > 0.05 / 2, so that 0.04 is not tested
    p = {"a": 0.03, "b": 0.01, "c": 0.04, "d": 0.016}
    family = {label: of_p(value) for label, value in p.items()}
    found = holm(family, dict.fromkeys(p, 0.0))
    assert list(found) == list(p)
    decided = {label for label, i in found.items() if i.decision() == "higher"}
    assert decided == {"b", "d"}
    levels = {label: 1 - i.level for label, i in found.items()}
    assert levels == pytest.approx({"a": 0.025, "b": 0.0125, "c": 0.025, "d": 0.05 / 3})
    # 4 * 0.01; 3 * 0.016; 2 * 0.03; and the last no less than that
    assert holm_p_values([*p.values()]) == pytest.approx([0.06, 0.04, 0.06, 0.048])


P_VALUES = st.lists(st.floats(1e-6, 0.999), min_size=1, max_size=7)


@given(P_VALUES)
def test_holm_by_brute_force(p):
    """By closed testing: a hypothesis is rejected where Bonferroni rejects every
    intersection that it is part of."""
    adjusted = holm_p_values(p)
    for i, found in enumerate(adjusted):
        others = [p[k] for k in range(len(p)) if k != i]
        worst = 0.0
        for picked in range(2 ** len(others)):
            subset = [p[i], *(q for k, q in enumerate(others) if picked >> k & 1)]
            worst = max(worst, min(len(subset) * min(subset), 1))
        assert found == pytest.approx(worst)


@given(P_VALUES)
def test_holm_rejects_all_that_bonferroni_does_and_keeps_the_order(p):
    adjusted = holm_p_values(p)
    assert all(a <= min(len(p) * q, 1) + 1e-12 for a, q in zip(adjusted, p, strict=True))
    assert all(a >= q for a, q in zip(adjusted, p, strict=True))
    order = np.argsort(p)
    assert (np.diff(np.array(adjusted)[order]) >= 0).all()


@given(P_VALUES, st.randoms())
def test_holm_does_not_depend_on_the_order(p, random):
    shuffled = [*range(len(p))]
    random.shuffle(shuffled)
    adjusted, again = holm_p_values(p), holm_p_values([p[k] for k in shuffled])
    assert [adjusted[k] for k in shuffled] == pytest.approx(again)
    family = {str(k): of_p(p[k]) for k in shuffled}
    decided = holm(family, dict.fromkeys(family, 0.0))
    for k, value in enumerate(adjusted):
        if abs(value - 0.05) > 1e-6:
            assert (decided[str(k)].decision() != "undecided") == (value < 0.05)


def test_a_family_is_rarely_wrong_anywhere():
    """Eight equal pairs, two unequal: at most one family in twenty has a false decision."""
    rng = np.random.default_rng(6)
    truths = np.array([0.0] * 8 + [1.0, -1.0])
    wrong = 0
    for _ in range(500):
        samples = rng.normal(truths[:, None], 0.3, size=(10, 5))
        family = {str(k): interval(sample) for k, sample in enumerate(samples)}
        found = holm(family, dict.fromkeys(family, 0.0))
        signs = [found[str(k)].sign for k in range(10)]
        wrong += any(s not in (0, np.sign(t)) for s, t in zip(signs, truths, strict=True))
    assert wrong / 500 < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 500)


@given(
    st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=6),
    st.floats(0, 100),
    st.floats(0.5, 0.99),
)
def test_a_decision_turns_with_the_difference(values, margin, level):
    turned = {"higher": "lower", "lower": "higher"}
    found = interval(values, level).decision(margin)
    again = interval([-v for v in values], level).decision(margin)
    assert again == turned.get(found, found)
    wider = interval(values, level).at((1 + level) / 2)
    assert wider.decision(margin) in (found, "undecided")


def test_one_value_has_no_interval():
    found = interval([3.0])
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
    assert interval([2.0]).text(1) == "2.0 (one seed)"
    assert Interval(math.inf, math.nan, math.nan, 5).text() == "–"


def test_table():
    frame = table(finals(), {"a": TANH, "b": LINEAR}, {"PSNR": ("test/psnr", 1)})
    assert list(frame.index) == ["a", "b"]
    assert frame.loc["b", "PSNR"].startswith("20.2 [19.")


def test_a_table_over_seeds_has_a_row_per_point():
    some = finals(status=["diverged"] + ["finished"] * 5).assign(**{"val/kl": math.nan})
    columns = {"test/psnr": ("PSNR", 1), "val/kl": ("KL", 1), "none": ("none", 1)}
    frame = over_seeds(some, columns)
    assert list(frame.columns) == ["norm", "head", "beta", "seeds", "PSNR"]
    assert frame["head"].tolist() == ["tanh", "linear"]
    assert frame["seeds"].tolist() == [2, 3]
    expected = [mean(some, "test/psnr", where).text(1) for where in (TANH, LINEAR)]
    assert frame["PSNR"].tolist() == expected
    own = over_seeds(some.assign(other=["a"] * 3 + ["b"] * 3), columns)
    assert own["other"].tolist() == ["a", "b"]
