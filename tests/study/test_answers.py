"""The answers against planted truths: each comes out each way, in a sentence."""

import re
from typing import Any

import pytest
from planted import Truth
from study import answers, pages
from study.answers import (
    balance,
    make_it_fit,
    output_layer,
    range_mismatch,
    ranges_or_balance,
)
from study.published import Unpublished

pytestmark = pytest.mark.slow

LOUD: dict[str, Any] = {"spread": 5.0, "kl_spread": 0.7}  # too loud for five seeds


@pytest.mark.parametrize(
    ("question", "truth", "parts"),
    [
        (
            ranges_or_balance,
            {},
            ["The balance: ", "correcting the range adds +0.4", "the balance (σ = 30) +3."],
        ),
        (ranges_or_balance, {"range_gain": 4.0}, ["The ranges: ", "both +4.5"]),
        (ranges_or_balance, {"range_gain": 3.0}, ["Both alike: "]),
        (ranges_or_balance, {"range_gain": 0.0, "balance_gain": 0.0}, ["Neither: "]),
        (ranges_or_balance, {"range_gain": -4.0, "balance_gain": 0.1}, ["if either: "]),
        (ranges_or_balance, {"range_gain": 0.1, "balance_gain": -4.0}, ["if either: "]),
        (ranges_or_balance, LOUD, ["Undecided: "]),
        (
            range_mismatch,
            {},
            ["Yes: tanh cannot reach 42%", "loses 2.0", "4 of 4 other conditions (1.9"],
        ),
        (range_mismatch, {"elsewhere": {"mnist": (0.0, 0.0)}}, ["likewise in 3 of 4"]),
        (range_mismatch, {"head_cost": 0.0}, ["No: tanh is within 0.3 dB of a linear"]),
        (range_mismatch, {"head_cost": 1.0}, ["No, tanh gains "]),
        (range_mismatch, {"small_loss": -1.0}, ["on [-1, 1] it loses 1.0"]),
        (range_mismatch, {"small_loss": 1.0}, ["on [-1, 1] it gains "]),
        (range_mismatch, LOUD, ["Undecided: ", "on [-1, 1] it is undecided."]),
        (
            make_it_fit,
            {},
            ["PSNR rises with `head=", "within 0.3 dB with `head=hardtanh`"],
        ),
        (
            make_it_fit,
            {"head_cost": 0.0},
            ["PSNR stays within 0.3 dB with ", "`head=linear` +0.0"],
        ),
        (make_it_fit, {"head_cost": 2.0}, ["falls with ", "`head=linear` −1.99"]),
        (make_it_fit, LOUD, ["targets, PSNR is undecided with "]),
        (output_layer, {}, ["Yes, on z-scored", "gains 2.0", "9 within", " saves 0."]),
        (output_layer, {"head_cost": 0.0}, ["No: linear is within 0.3 dB of tanh"]),
        (output_layer, {"head_cost": 1.0}, ["No: linear loses 0.99"]),
        (
            output_layer,
            {"reaching": {"sigmoid": 1.0, "tanh_rescaled": -1.0}},
            ["5 within 0.3 dB, 1 better, 3 worse;"],
        ),
        (
            output_layer,
            {"optimal_bits": 0.0},
            ["fitting the noise (`gaussian_optimal`) is as good as setting it."],
        ),
        (output_layer, {"optimal_bits": 0.1}, ["costs 0.1"]),
        (output_layer, LOUD, ["Undecided on z-scored", "`gaussian_optimal` is undecided"]),
        (
            balance,
            {},
            [
                "Yes: at `beta=1`, z-scoring [0, 1] images multiplies KL by 2.7",
                "within 5 %)",
            ],
        ),
        (
            balance,
            {"power": 0.8},
            ["(theory: 12.1, excluded, over 5 % off)", "PSNR equal within"],
        ),
        (balance, {"power": -1.0}, ["Reversed: ", "multiplies KL by 0.37"]),
        (balance, {"by_scale": False}, ["No: at `beta=1`", "multiplying β by 1.0"]),
        (balance, {"leak": 0.2, "unit_gap": -1.0}, ["KL is not equal, PSNR not equal."]),
        (balance, LOUD, ["Undecided: ", "no factor on β was", "PSNR undecided."]),
    ],
)
def test_each_answer_comes_out_each_way(question, truth, parts):
    sentence = question(Truth(**truth)).sentence
    for part in parts:
        assert part in sentence
    assert len(sentence.split()) <= 40


def test_rows_of_a_question_are_one_family():
    found = make_it_fit(Truth())
    rows = [j for family in found.tables.values() for j in family]
    # the most certain of m is held against 0.05 / m, and the others against more
    levels = sorted(1 - j.held.level for j in rows)
    assert levels[0] == pytest.approx(0.05 / len(rows))
    assert levels[-1] == pytest.approx(0.05)
    assert all(j.p < 0.05 for j in rows)


def test_what_moves_is_said():
    def moves(**truth: Any) -> str:
        return range_mismatch(Truth(**truth)).tables["PSNR"][0].moves

    assert moves() == "settled"
    assert moves(at_half=0.7) == "still grows"
    assert moves(at_half=1.3) == "shrinks"
    assert moves(at_half=0.7, spread=5.0) == "–"
    told = pages.limits(Truth(at_half=0.7), range_mismatch(Truth(at_half=0.7)))[-1]
    assert "Not settled when training ended: zscore: tanh − linear (still grows)" in told


def test_capacity_is_compared_with_the_base():
    truth = Truth(elsewhere={"latents16": (-0.5, 0.0)})
    [found] = range_mismatch(truth).tables["How capacity changes what tanh loses"]
    assert found.decision == "higher"
    assert found.shown.estimate == pytest.approx(1.5, abs=0.1)
    [none] = range_mismatch(Truth()).tables["How capacity changes what tanh loses"]
    assert none.decision == "equal within the margin"


def test_a_control_that_was_not_measured_decides_nothing():
    class Bare(Truth):
        def of(self, experiment: str):
            published = super().of(experiment)
            dropped = published.results.finals.filter(regex=r"^(?!.*(tanh_range|_iw_))")
            results = type(published.results)(
                published.results.curves, dropped, published.results.theory
            )
            return published._replace(results=results)

    found = range_mismatch(Bare())
    clipped, _ = found.tables[answers.CLIPPED]
    assert (clipped.text, clipped.decision) == ("not measured", "undecided")
    assert found.sentence.startswith("Yes")


def test_the_early_pressure_and_the_start_are_compared_by_setting():
    family = balance(Truth()).tables["What early KL pressure and the last layer's start do"]
    found = {j.effect.said: round(j.shown.estimate, 1) for j in family}
    assert found["zscore, σ = 30, PSNR: β warmed up − constant"] == 1.0
    assert found["zscore, σ = 90, PSNR: β warmed up − constant"] == 1.0
    assert found["zscore, σ = 30, PSNR: start at the data − random"] == 0.5
    assert len(found) == 3 * 2 * (2 + 1)


def test_the_front_page_has_a_sentence_per_question():
    said = pages.front(Truth())
    bullets = [line for line in said.splitlines() if line.startswith("- **")]
    assert len(bullets) == 5
    assert "paired by seed; planted; 1000 steps of batch 1, 5 seeds; none, torch 0." in said


def test_what_is_not_published_is_not_answered():
    class Young(Truth):
        def of(self, experiment):
            if experiment not in ("core", "original"):
                raise Unpublished(experiment)
            return super().of(experiment)

    said = pages.front(Young())
    bullets = [line for line in said.splitlines() if line.startswith("- **")]
    assert len(bullets) == 2
    assert "The grids behind 3 more questions are still being trained." in said
    whole = pages.page(Young())
    assert [line for line in bullets if line.removeprefix("- **").split("**")[0] in whole]
    assert "## Are the networks trained?" in whole


def test_the_page_shows_pairs_limits_and_commands():
    truth = Truth()
    page = pages.page(truth)
    for question in answers.QUESTIONS:
        answer = question(truth)
        assert f"## {answer.question}\n\n{answer.sentence}\n" in page
        for name in answer.experiments:
            assert f"`python -m vae_sweep.run experiments={name}`, commit 012345" in page
    row = next(line for line in page.splitlines() if "zscore: tanh − linear" in line)
    by_seed = row.split(" | ")[4].split(", ")
    assert len(by_seed) == 5
    assert all(re.fullmatch(r"−[12]\.\d\d", text) for text in by_seed)
    assert "runs pass it in calibrated bits" in page


def test_advice_is_by_the_images_own_scale():
    frame = pages.advice(Truth())
    # 3 * 8 * 8 pixels; F.mse_loss divides by them
    assert frame.loc["F.mse_loss and KL.sum(1).mean()", "multiply beta by"] == "192"
    gained = frame[frame.index == "z-scored inputs, tanh"]["gained"].tolist()
    assert len(gained) == 3
    assert all(re.match(r"\+(1\.[89]|2\.[01])", text) for text in gained)
