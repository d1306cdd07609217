"""The nine verdicts against planted truths: each comes out each way."""

from typing import Any

import pytest
from planted import Truth
from study import ledger
from study.answers import CONDITIONS

pytestmark = pytest.mark.slow

HOLDS, PART, WRONG, OPEN = "holds", "holds in part", "wrong", "not testable here"
LOUD: dict[str, Any] = {"spread": 5.0, "kl_spread": 0.7}  # too loud for five seeds


def entry(statement: int, **truth: Any) -> ledger.Entry:
    return ledger.ENTRIES[statement - 1](Truth(**truth))


@pytest.mark.parametrize(
    ("statement", "verdict", "truth"),
    [
        (1, HOLDS, {"clipped": -1.0}),  # tanh loses another dB
        (1, PART, {}),  # quality, by its range alone
        (1, WRONG, {"head_cost": 0.0, "clipped": 0.0}),
        (1, OPEN, LOUD),
        (2, HOLDS, {}),
        (2, PART, {"by_input": -0.5}),  # takes back what [-1, 1] to z-score does
        (2, WRONG, {"by_scale": False}),
        (2, OPEN, LOUD),
        (3, HOLDS, {"head_cost": 0.0}),
        (3, PART, {}),  # the noise explains the KL, but the head sees the range too
        (3, PART, {"head_cost": 0.0, "unit_gap": -1.0}),  # or the distortion does
        (3, WRONG, {"leak": -0.6}),
        (3, OPEN, LOUD),
        (4, HOLDS, {}),
        (4, PART, {"small_loss": -1.0, "reaching": {"sigmoid": -1.0}}),
        (4, WRONG, {"small_loss": -1.0}),
        (4, OPEN, LOUD),
        (5, HOLDS, {}),
        (5, PART, {"small_loss": -1.0}),  # behind a linear head, before leaving it
        (5, WRONG, {"small_loss": -1.0, "head_cost": -0.9}),
        (5, OPEN, LOUD),
        (6, HOLDS, {}),
        (6, PART, {"reaching": {"tanh_standardized": -1.0}}),
        (6, WRONG, {"reaching": {"tanh_standardized": -2.0}}),
        (6, WRONG, {"reaching": {"tanh_standardized": -3.0}}),
        (6, OPEN, LOUD),
        (7, HOLDS, {"power": 0.5}),  # the root of 4 is 2
        (7, PART, {}),  # it must change, by 4
        (7, WRONG, {"by_scale": False}),
        (7, OPEN, LOUD),
        (8, HOLDS, {"by_scale": False}),
        (8, PART, {"by_input": 0.5}),
        (8, WRONG, {}),
        (8, OPEN, LOUD),
        (9, HOLDS, {}),
        (9, PART, {"elsewhere": {"mnist": (0.0, -0.1)}}),
        (9, WRONG, {"elsewhere": dict.fromkeys(CONDITIONS, (0.0, -1.0))}),
        (9, OPEN, LOUD),
    ],
)
def test_each_verdict_comes_out_each_way(statement, verdict, truth):
    found = entry(statement, **truth)
    assert (found.verdict, found.because) == (verdict, found.because)


def test_few_seeds_decide_nothing():
    for found in ledger.ledger(Truth(seeds=4)):
        assert found.verdict == OPEN
        assert "it takes 5 seeds, there are 4" in found.because


def test_a_diverged_seed_is_named():
    found = entry(1, diverged=("tanh",), seeds=6)
    assert found.verdict == PART
    assert "(n = 5, 1 diverged)" in found.lines[0]
    assert "there are 4, 1 diverged" in entry(1, diverged=("tanh",)).because


def test_what_the_reason_says_follows_the_tables():
    assert "a factor of 2 is not measured, theory's 4.00 is measured" in entry(7).because
    assert "theory's 4.00 is not measured" in entry(7, power=0.5).because
    assert "not moved by the input's" in entry(8).because
    assert "7 of 8 cases" in entry(9, elsewhere={"mnist": (0.0, -0.1)}).because


def test_evidence_is_in_units_and_decided():
    first = entry(1).lines[0]
    assert first.startswith("quality, PSNR at equal noise: tanh − linear: −2.0")
    assert first.endswith(" dB, lower")
    assert entry(5).lines[0].endswith("equal within 0.3 dB")
    assert "×1.00 [1.00, 1.00], equal within 5 %" in entry(7).lines[2]
