"""Nine statements about ranges and balance, each with its evidence and a verdict.

A verdict follows from intervals alone: a difference counts where its interval lies on
one side of 0, and two points are equal where the interval of their difference lies
within MARGIN. Everything is measured on the test split, read once.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from vae_sweep.intervals import Interval, bootstrap, difference, of_point
from vae_sweep.normalize import fit
from vae_sweep.published import Published, Study
from vae_sweep.theory import head_floor

MARGIN = 0.3  # dB that nobody would pay for
REMAINS = 0.1  # of a difference, that may remain where a cause is to explain it
SEEDS = 5  # fewer decide nothing
NORMS = ("unit", "minus1_1", "zscore")

Verdict = Literal["holds", "holds in part", "wrong", "not testable here"]
Where = Mapping[str, Any]


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


def ledger(study: Study) -> list[Entry]:
    """The nine entries, in order, judged by the published tables of a study."""
    return [
        _tanh_on_zscored_is_harmful(study),
        _weight_changes_with_range(study),
        _because_squared_error_scales(study),
        _minus1_1_is_no_problem(study),
        _doubling_fits_tanh(study),
        _standardizing_tanh_helps(study),
        _bounds_of_the_error(study),
        _kl_depends_on_the_encoder(study),
        _carries_over(study),
    ]


def _entry(
    statement: str, evidence: list[Evidence], verdict: Verdict, because: str
) -> Entry:
    if min(e.interval.n for e in evidence) < SEEDS:
        few = f"fewer than {SEEDS} seeds decide nothing; what is measured reads: {because}"
        return Entry(statement, evidence, "not testable here", few)
    return Entry(statement, evidence, verdict, because)


def graded(whole: bool, part: bool) -> Verdict:
    return "holds" if whole else "holds in part" if part else "wrong"


def equal(interval: Interval) -> bool:
    """Whether a difference in dB lies within MARGIN."""
    return interval.low > -MARGIN and interval.high < MARGIN


def matched(finals: pd.DataFrame) -> str:
    """The middle one of the labels of beta=matched under which linear heads ran."""
    runs = finals[(finals["head"] == "linear") & finals["beta"].str.startswith("matched")]
    labels = sorted(
        set(runs["beta"]), key=lambda label: float(label.removeprefix("matched"))
    )
    return labels[len(labels) // 2]


def tanh_cost(study: Study, norm: str, beta: str | None = None) -> Interval:
    """dB of test PSNR that a tanh head gains over a linear one in the first question."""
    finals = study.of("q1_range_mismatch").results.finals
    where = {"norm": norm, "beta": beta or matched(finals)}
    tanh, linear = ({**where, "head": head} for head in ("tanh", "linear"))
    return difference(finals, "test/psnr", tanh, linear)


def beyond_floor(study: Study) -> Interval:
    """Squared error of tanh on z-scored targets beyond its floor, over all of a linear
    head's, in percent. A clipped linear head would stay below 0."""
    finals = study.of("q1_range_mismatch").results.finals
    where = {"norm": "zscore", "beta": matched(finals)}
    tanh = of_point(finals, {**where, "head": "tanh"})
    linear = of_point(finals, {**where, "head": "linear"})["test/mse_pixel"]
    excess = tanh["test/mse_pixel"] - tanh["predicted_floor_mse_pixel"]
    return bootstrap((100 * (excess - linear) / linear).dropna().to_numpy())


def _tanh_on_zscored_is_harmful(study: Study) -> Entry:
    cost, beyond = tanh_cost(study, "zscore"), beyond_floor(study)
    without_kl = tanh_cost(study, "zscore", "0")
    finals = study.of("q1_range_mismatch").results.finals
    where = {"norm": "zscore", "beta": matched(finals)}
    heads = [{**where, "head": head} for head in ("tanh", "linear")]
    bits = difference(finals, "test/bits_per_dim_calibrated", heads[0], heads[1])
    worse, slower = cost.sign < 0 and without_kl.sign < 0, beyond.sign > 0
    because = (
        "quality is lower at equal noise and without KL"
        if worse
        else "quality is not lower throughout"
    )
    because += (
        "; what the head can reach is fitted worse too"
        if slower
        else "; beyond the floor of the range nothing is lost that can be told"
    )
    return _entry(
        "A tanh output against z-scored targets is harmful for optimization and quality.",
        [
            Evidence("tanh minus linear, test PSNR at one noise", cost, "dB"),
            Evidence("the same without KL", without_kl, "dB"),
            Evidence("the same at one noise, calibrated bits per dim", bits, "bits", 3),
            Evidence(
                "squared error beyond the floor, against all of the linear head's",
                beyond,
                "%",
                1,
            ),
        ],
        graded(worse and slower, worse or slower),
        because,
    )


def kl_gap(finals: pd.DataFrame, a: Where, b: Where) -> Interval:
    """Nats of test KL between two points."""
    return difference(finals, "test/kl", a, b)


def _linear(norm: str, beta: str, target: str | None = None) -> dict[str, str]:
    where = {"norm": norm, "head": "linear", "beta": beta}
    return where | ({"target": target} if target else {})


def _weight_changes_with_range(study: Study) -> Entry:
    finals = study.of("q4_balance").results.finals
    gaps = {
        f"{b} minus {a}": kl_gap(finals, _linear(b, "1"), _linear(a, "1"))
        for a, b in pairwise(NORMS)
    }
    moves = [gap.sign > 0 for gap in gaps.values()]
    return _entry(
        "The KL term's weight changes with the pixel range.",
        [Evidence(f"KL at β = 1, {k}", gap, "nats", 1) for k, gap in gaps.items()],
        graded(all(moves), any(moves)),
        "at one β a narrower range of the targets means fewer nats"
        if all(moves)
        else "at one β the KL does not follow the range throughout",
    )


def spread(finals: pd.DataFrame, wheres: Sequence[Where]) -> pd.Series:
    """Largest minus least test KL over points, in nats, by seed."""
    columns = [of_point(finals, where)["test/kl"] for where in wheres]
    table = pd.concat(columns, axis=1, join="inner")
    return table.max(axis=1) - table.min(axis=1)


def remaining(finals: pd.DataFrame, likelihood: str = "mse") -> Interval:
    """Percent of the KL's spread over normalizations at beta = 1 that remains at one
    noise: a matched one, or the one that `likelihood` finds."""
    equal_beta = spread(finals, [_linear(norm, "1") for norm in NORMS])
    beta = matched(finals) if likelihood == "mse" else "1"
    others = [{**_linear(norm, beta), "likelihood": likelihood} for norm in NORMS]
    left = spread(finals, others)
    return bootstrap((100 * left / equal_beta).dropna().to_numpy())


def target_and_input(finals: pd.DataFrame) -> tuple[Interval, Interval]:
    """Nats of test KL at beta = 1 that z-scoring adds: of the target, of the input."""
    across = _linear("unit", "1", target="zscore")
    return (
        kl_gap(finals, across, _linear("unit", "1")),
        kl_gap(finals, _linear("zscore", "1"), across),
    )


def _because_squared_error_scales(study: Study) -> Entry:
    finals = study.of("q4_balance").results.finals
    left, (by_target, by_input) = remaining(finals), target_and_input(finals)
    explained = left.high < 100 * REMAINS
    head = tanh_cost(study, "zscore").sign < 0
    because = (
        "with the noise held equal the differences in KL vanish"
        if explained
        else "differences in KL remain with the noise held equal"
    )
    because += (
        "; but a bounded head sees the range too, at any balance"
        if head
        else "; no head was seen to mind the range"
    )
    return _entry(
        "Range matters because MSE is not scale invariant.",
        [
            Evidence("of the KL's spread over ranges, left at one noise", left, "%", 1),
            Evidence("KL added by z-scoring the target alone", by_target, "nats", 1),
            Evidence("KL added by z-scoring the input as well", by_input, "nats", 1),
            Evidence(
                "tanh minus linear on z-scored targets at one noise",
                tanh_cost(study, "zscore"),
                "dB",
            ),
        ],
        graded(explained and not head, explained),
        because,
    )


def _minus1_1_is_no_problem(study: Study) -> Entry:
    finals = study.of("q2_make_it_fit").results.finals
    beta = matched(finals)
    ours = {"norm": "minus1_1", "head": "tanh", "beta": beta}
    against = {
        "z-score with a linear head": _linear("zscore", beta),
        "[0, 1] with sigmoid": {"norm": "unit", "head": "sigmoid", "beta": beta},
    }
    gaps = {k: difference(finals, "test/psnr", ours, w) for k, w in against.items()}
    no_worse = [gap.low > -MARGIN for gap in gaps.values()]
    return _entry(
        "It need not be a problem, since [-1,1] is also a normalization.",
        [Evidence(f"[-1, 1] with tanh minus {k}", g, "dB") for k, g in gaps.items()],
        graded(all(no_worse), any(no_worse)),
        f"it is {'shown' if all(no_worse) else 'not shown'} to be within {MARGIN} dB of "
        "both, or better",
    )


def _doubling_fits_tanh(study: Study) -> Entry:
    first = study.of("q1_range_mismatch")
    floor = head_floor("tanh", fit("minus1_1", first.counts), first.counts)
    cost = tanh_cost(study, "minus1_1")
    finals = study.of("q2_make_it_fit").results.finals
    beta = matched(finals)
    mended = {"norm": "zscore", "target": "minus1_1", "head": "tanh", "beta": beta}
    faulty = {"norm": "zscore", "head": "tanh", "beta": beta}
    gain = difference(finals, "test/psnr", mended, faulty)
    fits, helps = floor.outside == 0 and equal(cost), gain.sign > 0
    return _entry(
        "Mapping U in (0,1) to 2U-1 fits tanh.",
        [
            Evidence("tanh minus linear under [-1, 1]", cost, "dB"),
            Evidence("z-scored inputs, tanh: target [-1, 1] minus z-score", gain, "dB"),
        ],
        graded(fits and helps, floor.outside == 0 or helps),
        f"{floor.outside:.0%} of the targets lie beyond tanh's range"
        + (", and it is as good as a linear head" if fits else ""),
    )


def _standardizing_tanh_helps(study: Study) -> Entry:
    finals = study.of("q2_make_it_fit").results.finals
    beta = matched(finals)
    heads = {
        head: {"norm": "zscore", "head": head, "beta": beta}
        for head in ("tanh", "tanh_rescaled", "tanh_standardized")
    }
    ours = heads.pop("tanh_standardized")
    helps, against = (difference(finals, "test/psnr", ours, w) for w in heads.values())
    best = against.low > -MARGIN
    return _entry(
        "If inputs must be standardized, standardizing tanh's output helps match the "
        "range.",
        [
            Evidence("tanh_standardized minus tanh, z-score", helps, "dB"),
            Evidence("tanh_standardized minus tanh_rescaled", against, "dB"),
        ],
        graded(helps.sign > 0 and best, helps.sign > 0),
        f"{'a' if helps.sign > 0 else 'no'} gain is seen, and stretching tanh to the "
        f"targets' range is {'no better' if best else 'better still'}",
    )


def conversion(finals: pd.DataFrame, a: str, b: str) -> Interval:
    """The factor on beta that gives normalization `b` the KL that `a` has, measured.

    Between the betas of the grid log KL is taken as linear in log beta, and what lies
    below a nat is left out. The interval is that of the mean logarithm over seeds.
    """
    by_seed: list[float] = []
    curves = {norm: _kl_curves(finals, norm) for norm in (a, b)}
    for seed in curves[a].index.intersection(curves[b].index):
        wanted, offered = curves[a].loc[seed], curves[b].loc[seed]
        x, y = np.log(offered.index.to_numpy(float)), np.log(offered.to_numpy(float))
        inside = wanted[(wanted > 1) & (wanted < offered.max()) & (wanted > offered.min())]
        found = np.interp(np.log(inside), y[::-1], x[::-1])  # KL falls as beta rises
        if len(inside):
            by_seed.append(float(np.mean(found - np.log(inside.index.to_numpy(float)))))
    logs = bootstrap(by_seed)
    return Interval(
        math.exp(logs.estimate), math.exp(logs.low), math.exp(logs.high), logs.n
    )


def _kl_curves(finals: pd.DataFrame, norm: str) -> pd.DataFrame:
    """Test KL of linear heads at constant betas, rows by seed, columns by beta."""
    keep = (finals["norm"] == norm) & (finals["target"] == norm)
    keep &= (finals["head"] == "linear") & (finals["likelihood"] == "mse")
    keep &= (finals["reduction"] == "sum") & (finals["status"] == "finished")
    keep &= pd.to_numeric(finals["beta"], errors="coerce") > 0
    return finals[keep].pivot_table("test/kl", "seed", "beta_value").dropna()


def factor(published: Published, a: str, b: str) -> float:
    """The factor on beta that keeps the implied noise: (scale_a / scale_b)^2, with the
    channels' mean of the squared scales."""
    squares = [
        float(fit(norm, published.counts).scale.square().mean())  # pyright: ignore
        for norm in (a, b)
    ]
    return squares[0] / squares[1]


def _bounds_of_the_error(study: Study) -> Entry:
    published = study.of("q4_balance")
    measured = conversion(published.results.finals, "unit", "minus1_1")
    exact = factor(published, "unit", "minus1_1")
    two = measured.low < 2 < measured.high
    changes = measured.low > 1 or measured.high < 1
    because = (
        f"it must change, but the bounds are 1² = 1 and 2² = {exact:.0f}, and so is "
        f"the factor; 2 is {'not excluded' if two else 'excluded'}"
    )
    return _entry(
        "The weight must change, because squared errors are bounded by 1 in the [0,1] case "
        "and by 2 in the [-1,1] case.",
        [
            Evidence(
                "factor on β that gives [-1, 1] the KL of [0, 1], measured", measured, ""
            )
        ],
        graded(changes and two and exact == 2, changes),
        because,
    )


def _kl_depends_on_the_encoder(study: Study) -> Entry:
    published = study.of("q4_balance")
    curves = published.results.curves
    start = curves[curves["step"] == 0].groupby(["norm", "seed", "other"])["val/kl"]
    apart = bootstrap((start.max() - start.min()).to_numpy())
    by_target, _ = target_and_input(published.results.finals)
    formula, trained = apart.high < 1e-6, by_target.sign == 0
    return _entry(
        "The KL term itself depends only on the encoder and the prior.",
        [
            Evidence(
                "KL of untrained networks apart, over targets, heads and β, of one seed "
                "and input",
                apart,
                "nats",
                6,
            ),
            Evidence(
                "after training: KL added by z-scoring the target", by_target, "nats", 1
            ),
        ],
        graded(formula and trained, formula),
        "so it is computed; but what it comes to is settled in training against the "
        "other term, whose scale is the target's"
        if not trained
        else "neither its formula nor its trained value knows the target",
    )


def _carries_over(study: Study) -> Entry:
    without_kl = tanh_cost(study, "zscore", "0")
    fitting = tanh_cost(study, "minus1_1", "0")
    finals = study.of("without_batch_norm").results.finals
    where = {"norm": "zscore", "beta": matched(finals)}
    tanh, linear = ({**where, "head": head} for head in ("tanh", "linear"))
    plain = difference(finals, "test/psnr", tanh, linear)
    range_holds = without_kl.sign < 0 and plain.sign < 0 and equal(fitting)
    return _entry(
        "These points carry over to other networks.",
        [
            Evidence("no KL: tanh minus linear, z-score", without_kl, "dB"),
            Evidence("no KL: tanh minus linear, [-1, 1]", fitting, "dB"),
            Evidence("no batch norm: tanh minus linear, z-score", plain, "dB"),
        ],
        graded(False, range_holds or without_kl.sign < 0),
        "what concerns the range does, in an autoencoder without KL and in one without "
        "batch norm; the balance has no meaning without a second term, and other kinds "
        "of networks were not tried"
        if range_holds
        else "what concerns the range does not throughout",
    )
