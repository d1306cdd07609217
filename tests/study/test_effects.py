"""Effects, factors and shares against numbers made by hand, and the stated margins."""

import math
import re

import numpy as np
import pandas as pd
import pytest
from planted import COUNTS, PIXELS, RECIPE, VARIANCE, Truth
from study import balance, effects, pages, trained
from study.effects import KL, MARGINS, PSNR, contrast, judged
from study.ledger import LEFT
from study.make import EXPERIMENTS

from vae_sweep.command import experiments
from vae_sweep.errors import UserError
from vae_sweep.records.comparisons import difference, holm, interval

TANH = {"norm": "zscore", "head": "tanh", "beta": RECIPE}
LINEAR = {"norm": "zscore", "head": "linear", "beta": RECIPE}


def test_a_family_is_judged_as_its_intervals_are():
    core = Truth().of("core")
    finals = core.results.finals
    heads = ("tanh", "tanh_rescaled", "hardtanh")
    points = {head: {**TANH, "head": head} for head in heads}
    found = judged([contrast(core, head, PSNR, points[head], LINEAR) for head in heads])
    plain = {h: difference(finals, "test/psnr", points[h], LINEAR) for h in heads}
    held = holm(plain, dict.fromkeys(heads, MARGINS["dB"]))
    for j in found:
        assert j.shown == plain[j.effect.said]
        assert j.held == held[j.effect.said]
        assert (j.decision == "undecided") == (j.p > 0.05)
    assert [j.decision for j in found] == ["lower", "equal within the margin", "lower"]


def test_a_ratio_is_judged_by_its_logarithm():
    balanced = Truth().of("balance")
    finals = balanced.results.finals
    one, other = balance.at_one("zscore"), balance.at_one("unit")
    [found] = judged([contrast(balanced, "", KL, one, other)])
    by_hand = [
        math.log(finals[keep]["test/kl"].iloc[0])
        for seed in range(5)
        for norm in ("zscore", "unit")
        for keep in [
            (finals["norm"] == norm)
            & (finals["target"] == norm)
            & (finals["seed"] == seed)
            & (finals["beta"] == "warmup1")
            & (finals["likelihood"] == "mse")
        ]
    ]
    logs = np.subtract(by_hand[::2], by_hand[1::2])
    assert found.shown == pytest.approx(interval(logs).mapped(math.exp))
    assert found.short == f"×{math.exp(logs.mean()):.2f}".removeprefix("×")
    assert found.effect.margin == pytest.approx(math.log(1.05))


def test_the_course_is_that_of_validation_images():
    core = Truth(at_half=0.5, spread=0.0).of("core")
    [found] = judged([contrast(core, "", PSNR, TANH, LINEAR)])
    assert found.half.estimate == pytest.approx(-1.0)
    assert found.end.estimate == pytest.approx(-2.0)
    assert found.change.estimate == pytest.approx(1.0)  # it is a larger loss
    assert found.moves == "still grows"


def test_half_of_training_is_the_nearest_evaluation():
    core = Truth().of("core")
    curves = core.results.curves
    finals = effects.snapshot(core, 0.5).set_index("run_id")
    expected = curves[curves["step"] == 500].set_index("run_id")["val/psnr"]
    pd.testing.assert_series_equal(finals["val/psnr"], expected[finals.index])
    early = effects.snapshot(core, 0.2).set_index("run_id")
    assert (early["val/psnr"] == 10.0).all()  # step 0 is nearer to 200 than 500 is


def test_the_noise_is_the_sweeps_own():
    balanced = Truth().of("balance").results.finals
    assert effects.matched_labels(balanced) == [
        f"warmup(matched{sigma})" for sigma in (16, 32, 64)
    ]
    assert effects.matched(balanced) == "warmup(matched32)"
    assert effects.noise(balanced, "warmup(matched32)") == "σ = 32"
    # of most runs, where several sweeps are one
    both = pd.concat([balanced, Truth().of("core").results.finals])
    assert effects.matched(both) == RECIPE
    with pytest.raises(UserError, match="beta=matched"):
        effects.matched(balanced[~balanced["beta"].str.contains("matched")])


def test_two_sweeps_are_joined_and_one_is_not_doubled():
    truth = Truth()
    core, likelihoods = truth.of("core"), truth.of("likelihoods")
    both = effects.joined(core, likelihoods).results
    finals = core.results.finals, likelihoods.results.finals
    assert len(both.finals) == sum(map(len, finals))
    assert set(both.curves["run_id"]) == set(both.finals["run_id"])
    assert effects.joined(core, core) is core


def test_the_recipe_is_what_most_runs_have():
    init = Truth().of("output_init")
    finals = init.results.finals
    mixed = effects.recipe(
        init._replace(
            results=type(init.results)(
                init.results.curves,
                pd.concat(
                    [finals, finals[finals["other"] == "output_init=random"].assign(seed=9)]
                ),
                init.results.theory,
            )
        )
    )
    assert set(mixed.results.finals["other"]) == {"output_init=random"}
    assert set(mixed.results.curves["run_id"]) == set(mixed.results.finals["run_id"])


@pytest.mark.parametrize("name", [n for n in EXPERIMENTS if n in experiments.available()])
def test_the_margins_are_those_stated_before_the_runs(name):
    """`# Margins: 0.3 dB of PSNR, 5 % of the KL.`, those that the experiment needs."""
    header = experiments.find(name).read_text().replace("\n# ", " ")
    [stated] = re.findall(r"# Margins: (.+?)\.$", header, re.M)
    margins = {
        f"{MARGINS['dB']} dB of PSNR",
        f"{MARGINS['bits/dim']} bits per dim",
        f"{100 * (MARGINS['×'] - 1):.0f} % of the KL",
        f"{LEFT} % of the spread of log KL",
    }
    said = stated.replace("calibrated bits", "bits").removesuffix(", at equal noise")
    assert {*said.split(", ")} <= margins


@pytest.mark.parametrize(("norm", "truth"), [("minus1_1", 4.0), ("zscore", 1 / VARIANCE)])
def test_the_factor_on_beta_is_measured(norm, truth):
    balanced = Truth().of("balance")
    [found] = judged([balance.measured_factor(balanced, "unit", norm)])
    assert found.shown.estimate == pytest.approx(truth, rel=5e-3)
    assert found.shown.n == 5
    [against] = judged([balance.against_theory(balanced, "unit", norm)])
    assert against.shown.estimate == pytest.approx(1, rel=5e-3)


def test_the_same_betas_count_for_every_seed():
    """KL of 1600 / beta and of 100 / beta, whose first value is 2 % less or more by seed:
    the same KL is at 16 / 0.98 or 16 / 1.02, also just beyond the last beta of the grid."""
    off = {0: 0.98, 1: 1.02, 2: 0.98, 3: 1.02}
    shared = {"head": "linear", "likelihood": "mse", "reduction": "sum"}
    shared |= {"status": "finished", "other": ""}
    rows = [
        {**shared, "norm": norm, "target": norm, "seed": seed, "beta_value": beta}
        | {"beta": f"warmup{beta:g}"}
        | {"test/kl": kl / beta * (off[seed] if (norm, beta) == ("unit", 1) else 1)}
        for norm, kl in {"unit": 100.0, "zscore": 1600.0}.items()
        for beta in (1.0, 4.0, 16.0)
        for seed in off
    ]
    logs = balance.factor("unit", "zscore")(pd.DataFrame(rows), "test")
    assert np.exp(logs).to_dict() == pytest.approx({s: 16 / k for s, k in off.items()})


def test_a_kl_that_does_not_fall_has_no_factor():
    balanced = Truth().of("balance")
    finals = balanced.results.finals
    finals.loc[finals["beta_value"] == 4, "test/kl"] = 900.0
    [found] = judged([balance.measured_factor(balanced, "unit", "minus1_1")])
    assert math.isnan(found.shown.estimate)
    assert found.decision == "undecided"


def test_the_exact_factor_against_numpy():
    variance = np.mean([p.var() for p in PIXELS])
    balanced = Truth().of("balance")
    assert balanced.counts.sum() == COUNTS.sum()
    assert balance.beta_factor(balanced, "unit", "minus1_1") == pytest.approx(4)
    assert balance.beta_factor(balanced, "unit", "zscore") == pytest.approx(1 / variance)
    raw = balance.beta_factor(balanced, "zscore", "raw255")
    assert raw == pytest.approx(variance * 255**2)


def test_what_equal_noise_leaves():
    finals = Truth(leak=0.1).of("balance").results.finals
    # log KL spreads by (0.4 - 0.1) ln at beta = 1, by 0.1 ln at equal noise
    assert balance.spread_left(finals).estimate == pytest.approx(100 / 3, rel=0.02)
    found = balance.kl_spread(finals, beta="warmup(matched32)")
    assert found.estimate == pytest.approx(100 * (VARIANCE**-0.1 - 1), rel=0.02)


def test_a_collapsed_noise_is_left_out():
    finals = Truth(leak=0.1).of("balance").results.finals
    label = "warmup(matched64)"
    finals.loc[(finals["beta"] == label) & (finals["norm"] == "unit"), "test/kl"] = 0.1
    assert balance.collapsed(finals, label)
    assert not balance.collapsed(finals, "warmup(matched32)")
    assert balance.spread_left(finals).estimate == pytest.approx(100 / 3, rel=0.02)


def of_runs(*rows: tuple[float, ...], **more) -> pd.DataFrame:
    """Runs of one point: (bits, psnr, kl) where the optimum has 7 bits and 20 dB."""
    core = Truth().of("core")
    return core.results.finals.iloc[: len(rows)].assign(
        **{
            "predicted_bits_per_dim_calibrated": 7.0,
            "predicted_psnr": 20.0,
            "psnr_cap": math.inf,
            **{
                f"test/{name}": [row[k] for row in rows]
                for k, name in enumerate(("bits_per_dim_calibrated", "psnr", "kl"))
            },
            **more,
        }
    )


PASS, NEAR, BEHIND = (6.9, 20.5, 90.0), (6.9, 19.9, 90.0), (7.3, 19.0, 90.0)
GONE = (7.5, 15.0, 0.4)


def test_the_share_that_passes_the_linear_optimum():
    found = trained.share([of_runs(PASS, NEAR), of_runs(BEHIND, GONE)])
    assert found == (4, 2, 1)
    assert str(found) == "50% of 4 runs pass it in calibrated bits, 25% in PSNR"


@pytest.mark.parametrize(
    ("more", "counted"),
    [
        ({"predicted_active_units": [0.0, 1.0]}, 1),
        ({"beta_value": [0.0, 1.0]}, 1),
        ({"psnr_cap": [21.0, math.inf]}, 1),
        ({"predicted_bits_per_dim_calibrated": [math.nan, 7.0]}, 1),
        ({"status": ["diverged", "finished"]}, 1),
        ({}, 2),
    ],
)
def test_which_runs_the_share_is_of(more, counted):
    assert trained.share([of_runs(PASS, PASS, **more)]).runs == counted


def test_what_fails_is_listed_with_the_reason():
    status = ["finished", "finished", "diverged", "finished"]
    sweep = of_runs(PASS, BEHIND, PASS, GONE, status=status)
    found = trained.failures({"core": sweep})
    listed = found[["experiment", "runs", "reason"]].to_numpy().tolist()
    assert listed == [
        ["core", "1 of 4", "below the optimum"],
        ["core", "1 of 4", "diverged"],
        ["core", "1 of 4", "KL below 0.5 nats"],
    ]
    assert found["bits per dim short of it"].iloc[0] == "0.300"
    page = "\n".join(pages.optimum({"core": sweep}))
    assert "| 1 of 4 | diverged |" in page


def test_a_capped_head_is_held_against_the_optimum_in_its_range():
    cap = {"psnr_cap": 21.0}
    assert trained.without_optimum(of_runs(BEHIND, **cap)) == 1
    clipped = {"predicted_bits_per_dim_clipped": 7.4}
    sweep = of_runs(BEHIND, GONE, **cap, **clipped, predicted_psnr_clipped=18.0)
    assert trained.without_optimum(sweep) == 0
    assert trained.compared(sweep)["bits"].tolist() == [True, False]
    assert trained.share([sweep]).runs == 0  # which is of heads that reach every target
    assert trained.share([sweep], capped=True) == trained.Share(2, 1, 1)
    page = "\n".join(pages.optimum({"core": sweep, "other": of_runs(BEHIND, **cap)}))
    assert "range: 50% of 2 runs pass it in calibrated bits, 50% in PSNR." in page
    assert "no closed form: 1 run." in page
