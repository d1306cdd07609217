"""Nine statements about ranges and balance, each with its evidence and a verdict.

A verdict follows from the intervals shown. A difference is seen where its interval lies
on one side of 0; two points are equal within a margin where the interval of their
difference lies within it. What no interval decides is not testable here. Everything is
measured on the test split, read once.
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Literal, NamedTuple

from study.balance import (
    beta_factor,
    by_door,
    kl_spread_left,
    linear,
    matched,
    measured_factor,
)
from study.published import NORMS, Study
from vae_sweep.records.comparisons import Interval, difference, exact, interval, of_point
from vae_sweep.theory.floor import head_floor
from vae_sweep.vae import heads
from vae_sweep.vae.normalize import fit

MARGIN = 0.3  # dB, a convention: 7 % of the squared error
LEFT = 10.0  # percent of a spread that may be left where a cause is to explain it
SEEDS = 5  # fewer decide nothing

Verdict = Literal["holds", "holds in part", "wrong", "not testable here"]
Where = Mapping[str, Any]
PSNR, BITS = "test/psnr", "test/bits_per_dim_calibrated"


class Evidence(NamedTuple):
    """A measured quantity, said in words, with its interval."""

    said: str
    interval: Interval
    unit: str
    digits: int = 2

    def __str__(self) -> str:
        return f"{self.said}: {self.interval.text(self.digits)} {self.unit}".rstrip()


class Entry(NamedTuple):
    """A line of the ledger."""

    statement: str
    evidence: list[Evidence]
    verdict: Verdict
    because: str


def ledger(study: Study, margin: float = MARGIN) -> list[Entry]:
    """The nine entries, in order, judged by the published tables of a study.

    `margin` is in dB.
    """
    return [
        _tanh_on_zscored_is_harmful(study),
        _weight_changes_with_range(study),
        _because_squared_error_scales(study),
        _minus1_1_is_no_problem(study, margin),
        _doubling_fits_tanh(study, margin),
        _standardizing_tanh_helps(study, margin),
        _bounds_of_the_error(study),
        _kl_depends_on_the_encoder(study),
        _carries_over(study, margin),
    ]


def _entry(
    statement: str, evidence: list[Evidence], verdict: Verdict, because: str
) -> Entry:
    fewest = min(evidence, key=lambda e: e.interval.n).interval
    if fewest.n < SEEDS:
        lost = f", {fewest.lost} diverged" if fewest.lost else ""
        because = f"it takes {SEEDS} seeds, there are {fewest.n}{lost}; so far: {because}"
        verdict = "not testable here"
    return Entry(statement, evidence, verdict, because)


def graded(whole: bool, part: bool, refuted: bool) -> Verdict:
    """The first that applies; where none does, the intervals are too wide."""
    if whole:
        return "holds"
    return "holds in part" if part else "wrong" if refuted else "not testable here"


def within(interval: Interval, margin: float) -> bool:
    """Whether a difference in dB is shown to be less than `margin`."""
    return interval.low > -margin and interval.high < margin


def head_gap(study: Study, where: Where, column: str = PSNR) -> Interval:
    """`column` of a tanh head minus a linear one's, in the first question, at equal
    noise unless `where` has a beta."""
    finals = study.of("q1_range_mismatch").results.finals
    common = {"beta": matched(finals), **where}
    heads = ({**common, "head": head} for head in ("tanh", "linear"))
    return difference(finals, column, *heads)


def beyond_floor(study: Study) -> Interval:
    """Percent by which the squared error of tanh on z-scored targets, its floor taken
    away, exceeds all of a linear head's. Above 0 more than the range is lost. Below 0
    nothing follows: a linear head clipped to the range would be below, too."""
    finals = study.of("q1_range_mismatch").results.finals
    where = {"norm": "zscore", "beta": matched(finals)}
    tanh = of_point(finals, {**where, "head": "tanh"})
    base = of_point(finals, {**where, "head": "linear"})["test/mse_pixel"]
    excess = tanh["test/mse_pixel"] - tanh["predicted_floor_mse_pixel"]
    return interval((100 * (excess - base) / base).dropna().to_numpy())


def _tanh_on_zscored_is_harmful(study: Study) -> Entry:
    z = {"norm": "zscore"}
    cost, without_kl = head_gap(study, z), head_gap(study, {**z, "beta": "0"})
    beyond = beyond_floor(study)
    both = (cost, without_kl)
    worse, slower = all(c.sign < 0 for c in both), beyond.sign > 0
    quality = "quality is lower" if worse else "quality is not seen to be lower throughout"
    training = (
        "more is lost than the floor of the range"
        if slower
        else "harm to the optimization beyond the floor of the range is not shown"
    )
    return _entry(
        "A tanh output against z-scored targets is harmful for optimization and quality.",
        [
            Evidence("tanh minus linear, PSNR at equal noise", cost, "dB"),
            Evidence("PSNR without KL", without_kl, "dB"),
            Evidence("KL at equal noise", head_gap(study, z, "test/kl"), "nats", 1),
            Evidence("calibrated, at equal noise", head_gap(study, z, BITS), "bits/dim", 3),
            Evidence(
                "share of outputs where the gradient dies",
                head_gap(study, z, "test/head_saturation"),
                "",
                3,
            ),
            Evidence("error beyond the floor against a linear head's", beyond, "%", 1),
        ],
        graded(worse and slower, worse or slower, all(c.low > -MARGIN for c in both)),
        f"{quality}; {training}",
    )


def _weight_changes_with_range(study: Study) -> Entry:
    finals = study.of("q4_balance").results.finals
    gaps = {
        f"{b} minus {a}": difference(finals, "test/kl", linear(b, "1"), linear(a, "1"))
        for a, b in pairwise(NORMS)
    }
    signs = [gap.sign for gap in gaps.values()]
    return _entry(
        "The KL term's weight changes with the pixel range.",
        [Evidence(f"KL at β = 1, {k}", gap, "nats", 1) for k, gap in gaps.items()],
        graded(min(signs) > 0, max(signs) > 0, max(signs) <= 0),
        "at one β, the smaller the range of the targets the fewer nats"
        if min(signs) > 0
        else "at one β, the KL does not rise with the range throughout",
    )


def _because_squared_error_scales(study: Study) -> Entry:
    finals = study.of("q4_balance").results.finals
    left, optimal = kl_spread_left(finals), kl_spread_left(finals, "gaussian_optimal")
    head = head_gap(study, {"norm": "zscore"})
    explained = left.high < LEFT and optimal.high < LEFT
    mostly = left.high < 50
    amount = f"less than {LEFT:.0f} %" if explained else "part"
    return _entry(
        "Range matters because MSE is not scale invariant.",
        [
            Evidence(
                "of the spread of log KL over ranges, left at equal noise", left, "%", 1
            ),
            Evidence("left under a likelihood blind to the scale", optimal, "%", 1),
            Evidence("tanh minus linear on z-scored targets, equal noise", head, "dB"),
        ],
        graded(explained and head.sign >= 0, mostly, left.low > 50),
        f"{amount} of the KL's spread over ranges is left once the scale of the error is "
        "accounted for"
        + ("; but at equal noise a bounded head sees the range" if head.sign < 0 else ""),
    )


def _minus1_1_is_no_problem(study: Study, margin: float) -> Entry:
    finals = study.of("q2_make_it_fit").results.finals
    beta = matched(finals)
    ours = {"norm": "minus1_1", "head": "tanh", "beta": beta}
    against = {
        "z-score with a linear head": linear("zscore", beta),
        "[0, 1] with sigmoid": {"norm": "unit", "head": "sigmoid", "beta": beta},
    }
    gaps = [difference(finals, PSNR, ours, where) for where in against.values()]
    near = [gap.low > -margin for gap in gaps]
    evidence = [
        Evidence(
            f"[-1, 1] with tanh minus {label}", difference(finals, *what), unit, digits
        )
        for label, where in against.items()
        for what, unit, digits in (
            ((PSNR, ours, where), "dB", 2),
            ((BITS, ours, where), "bits/dim", 3),
        )
    ]
    return _entry(
        "It need not be a problem, since [-1,1] is also a normalization.",
        evidence,
        graded(all(near), any(near), all(gap.high < -margin for gap in gaps)),
        f"of the two, {sum(near)} {'is' if sum(near) == 1 else 'are'} shown to be less "
        f"than {margin} dB better",
    )


def _doubling_fits_tanh(study: Study, margin: float) -> Entry:
    first = study.of("q1_range_mismatch")
    tanh, target = heads.named("tanh"), fit("minus1_1", first.counts)
    outside = head_floor(tanh, target, first.counts).outside
    cost = head_gap(study, {"norm": "minus1_1"})
    finals = study.of("q2_make_it_fit").results.finals
    faulty = {"norm": "zscore", "head": "tanh", "beta": matched(finals)}
    gain = difference(finals, PSNR, {**faulty, "target": "minus1_1"}, faulty)
    fits, helps = outside == 0 and within(cost, margin), gain.sign > 0
    return _entry(
        "Mapping U in (0,1) to 2U-1 fits tanh.",
        [
            Evidence("targets beyond tanh's range", exact(100 * outside), "%", 0),
            Evidence("tanh minus linear under [-1, 1], equal noise", cost, "dB"),
            Evidence("z-scored inputs, tanh: target [-1, 1] minus z-score", gain, "dB"),
        ],
        graded(fits and helps, fits or helps, gain.high <= 0),
        f"tanh reaches all targets and is {'shown' if fits else 'not shown'} to be within "
        f"{margin} dB of a linear head"
        + (", a small loss being seen" if fits and cost.sign < 0 else ""),
    )


def _standardizing_tanh_helps(study: Study, margin: float) -> Entry:
    finals = study.of("q2_make_it_fit").results.finals
    common = {"norm": "zscore", "beta": matched(finals)}
    ours = {**common, "head": "tanh_standardized"}
    tanh, stretched = ({**common, "head": h} for h in ("tanh", "tanh_rescaled"))
    reach = difference(finals, "test/out_of_range", ours, tanh)
    gain, against = (difference(finals, PSNR, ours, w) for w in (tanh, stretched))
    bits = difference(finals, BITS, ours, tanh)
    matches, helps = reach.sign < 0, gain.sign > 0
    return _entry(
        "If inputs must be standardized, standardizing tanh's output helps match the "
        "range.",
        [
            Evidence("tanh_standardized minus tanh: targets out of range", reach, "", 3),
            Evidence("PSNR", gain, "dB"),
            Evidence("calibrated", bits, "bits/dim", 3),
            Evidence("tanh_standardized minus tanh_rescaled, PSNR", against, "dB"),
        ],
        graded(
            matches and helps and against.low > -margin,
            matches or helps,
            gain.high < margin,
        ),
        f"the range is {'matched' if matches else 'not matched'}, "
        f"{'a' if helps else 'no'} gain in PSNR is shown"
        + (", and stretching tanh to the targets' range does better" * (against.sign < 0)),
    )


def _bounds_of_the_error(study: Study) -> Entry:
    published = study.of("q4_balance")
    bounds = [
        float(1 / fit(norm, published.counts).scale.square().min())
        for norm in ("unit", "minus1_1")
    ]
    found = measured_factor(published.results.finals, "unit", "minus1_1")
    scales = exact(beta_factor(published, "unit", "minus1_1"))
    changes, two = found.low > 1, found.low <= 2 <= found.high
    return _entry(
        "The weight must change, because squared errors are bounded by 1 in the [0,1] case "
        "and by 2 in the [-1,1] case.",
        [
            Evidence("largest squared error on [0, 1]", exact(bounds[0]), "", 0),
            Evidence("largest squared error on [-1, 1]", exact(bounds[1]), "", 0),
            Evidence("squared ratio of the scales", scales, ""),
            Evidence("factor on β that gives [-1, 1] the KL of [0, 1]", found, ""),
        ],
        graded(changes and bounds[1] == 2, changes, found.high < 1.5),
        f"{'it must change' if changes else 'that it must change is not seen'}; the bound "
        f"is {bounds[1]:.0f}, and a factor of 2 is "
        f"{'not ' if two or not changes else ''}excluded",
    )


def _kl_depends_on_the_encoder(study: Study) -> Entry:
    published = study.of("q4_balance")
    curves = published.results.curves
    start = curves[curves["step"] == 0].groupby(["seed", "norm"])["val/kl"]
    apart = 100 * (start.max() / start.min() - 1)
    untrained = interval(apart.groupby("seed").max().to_numpy())
    moved = by_door(published.results.finals)["target z-scored, input [0, 1]"]
    formula = untrained.high < 0.01
    return _entry(
        "The KL term itself depends only on the encoder and the prior.",
        [
            Evidence(
                "KL of untrained networks apart, of one seed and input, over targets and β",
                untrained,
                "%",
                4,
            ),
            Evidence("after training, z-scoring the target adds", moved, "nats", 1),
        ],
        graded(formula, False, untrained.low > 0.01),
        ("equal encoders have equal KL" if formula else "equal encoders differ in KL")
        + ("; what training makes of it follows the target's scale" * (moved.sign != 0)),
    )


def _carries_over(study: Study, margin: float) -> Entry:
    without_kl = head_gap(study, {"norm": "zscore", "beta": "0"})
    fitting = head_gap(study, {"norm": "minus1_1", "beta": "0"})
    finals = study.of("without_batch_norm").results.finals
    where = {"norm": "zscore", "beta": matched(finals)}
    heads = ({**where, "head": head} for head in ("tanh", "linear"))
    plain = difference(finals, PSNR, *heads)
    costs = without_kl.sign < 0, plain.sign < 0
    return _entry(
        "These points carry over to other networks.",
        [
            Evidence("no KL: tanh minus linear, z-score", without_kl, "dB"),
            Evidence("no KL: tanh minus linear, [-1, 1]", fitting, "dB"),
            Evidence("no batch norm: tanh minus linear, z-score", plain, "dB"),
        ],
        graded(False, any(costs), without_kl.low > -margin and plain.low > -margin),
        f"the cost of the range is seen in {sum(costs)} of 2 other networks, one without "
        "a KL term (an autoencoder that still samples z) and one without batch norm; with "
        "one term there is no balance, and other kinds of networks were not tried",
    )
