"""The four questions, answered in sentences made from the published tables."""

from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import pandas as pd

from vae_sweep.balance import (
    beta_factor,
    by_door,
    kl_spread_left,
    linear,
    matched,
    measured_factor,
)
from vae_sweep.config import Head, Norm
from vae_sweep.intervals import Interval, difference, mean, table
from vae_sweep.ledger import BITS, MARGIN, PSNR, head_gap
from vae_sweep.normalize import fit
from vae_sweep.published import NORMS, Published, Study
from vae_sweep.theory import head_floor

Points = dict[str, dict[str, str]]

NATURAL: Mapping[Head, Norm] = {  # each head with the targets that its range was made for
    "linear": "zscore",
    "tanh_rescaled": "zscore",
    "sigmoid_rescaled": "zscore",
    "tanh_standardized": "zscore",
    "tanh": "minus1_1",
    "hardtanh": "minus1_1",
    "sigmoid": "unit",
}


def db(interval: Interval) -> str:
    return f"{interval.text(2, True)} dB"


def _listed(effects: Mapping[str, Interval], digits: int = 2) -> str:
    """All effects, the largest first."""
    order = sorted(effects, key=lambda label: -effects[label].estimate)
    return "; ".join(f"{label} {effects[label].text(digits, True)}" for label in order)


def range_mismatch(study: Study) -> str:
    """Q1: does it hurt that z-scored targets and tanh outputs have different ranges?"""
    published = study.of("q1_range_mismatch")
    finals, counts = published.results.finals, published.counts
    floor = head_floor("tanh", fit("zscore", counts), counts)
    cost = head_gap(study, {"norm": "zscore"})
    bits = head_gap(study, {"norm": "zscore"}, BITS)
    unit = {"norm": "unit", "beta": matched(finals)}
    sigmoid = difference(
        finals, PSNR, {**unit, "head": "sigmoid"}, {**unit, "head": "linear"}
    )
    return (
        f"{'Yes' if cost.sign < 0 else 'It is not seen to'}. tanh cannot reach "
        f"{floor.outside:.0%} of the z-scored training targets, which caps the PSNR on "
        f"them at {floor.psnr_cap:.1f} dB. Against a linear head at equal noise it comes "
        f"out {db(cost)} and {bits.text(3, True)} calibrated bits per dim; without KL, "
        f"{db(head_gap(study, {'norm': 'zscore', 'beta': '0'}))}. Where the range holds "
        f"the targets, the head matters less: tanh against linear under [-1, 1] "
        f"{db(head_gap(study, {'norm': 'minus1_1'}))}, sigmoid against linear under "
        f"[0, 1] {db(sigmoid)}."
    )


def fixes(finals: pd.DataFrame, column: str = PSNR) -> dict[str, Interval]:
    """What each way to make z-scored inputs fit adds to `column`, over tanh alone."""
    faulty = {"norm": "zscore", "head": "tanh", "beta": matched(finals)}
    ways: Points = {
        "target [-1, 1], tanh": {**faulty, "target": "minus1_1"},
        "linear head": {**faulty, "head": "linear"},
        "tanh_rescaled": {**faulty, "head": "tanh_rescaled"},
        "tanh_standardized": {**faulty, "head": "tanh_standardized"},
        "hardtanh": {**faulty, "head": "hardtanh"},
    }
    return {way: difference(finals, column, w, faulty) for way, w in ways.items()}


def make_it_fit(study: Study) -> str:
    """Q2: which pre-processing, or post-processing of the output, makes them fit?"""
    finals = study.of("q2_make_it_fit").results.finals
    gains, beta = fixes(finals), matched(finals)
    fit_now = sum(gain.low > MARGIN for gain in gains.values())
    plain = {"norm": "minus1_1", "head": "tanh", "beta": beta}
    gap = difference(finals, PSNR, plain, linear("zscore", beta))
    return (
        f"{fit_now} of {len(gains)} ways gain more than {MARGIN} dB over z-scored inputs "
        f"with a plain tanh (dB): {_listed(gains)}. Inputs and targets in [-1, 1] with a "
        f"plain tanh come out {db(gap)} from z-score with a linear head."
    )


def of_heads(finals: pd.DataFrame, likelihood: str, column: str) -> dict[str, Interval]:
    """`column` of each head at its natural target, minus a linear head's on z-scored
    targets."""
    beta = matched(finals) if likelihood == "mse" else "1"
    points = natural_points(finals, likelihood, beta)
    base = points.pop("linear")
    return {head: difference(finals, column, w, base) for head, w in points.items()}


def natural_points(finals: pd.DataFrame, likelihood: str, beta: str) -> Points:
    """Each head at its natural target, of those that finished."""
    there = finals[(finals["likelihood"] == likelihood) & (finals["beta"] == beta)]
    there = there[(there["status"] == "finished") & (there["reduction"] == "sum")]
    pairs = set(zip(there["norm"], there["target"], there["head"], strict=True))
    return {
        head: {"norm": norm, "head": head, "likelihood": likelihood, "beta": beta}
        for head, norm in NATURAL.items()
        if (norm, norm, head) in pairs
    }


def output_layer(study: Study) -> str:
    """Q3: should the output layer be something else?"""
    finals = study.of("q3_output_layer").results.finals
    heads, bits = of_heads(finals, "mse", PSNR), of_heads(finals, "mse", BITS)
    optimal = {**linear("zscore", "1"), "likelihood": "gaussian_optimal"}
    by_hand = matched(finals)
    gain = difference(finals, BITS, optimal, linear("zscore", by_hand))
    logistic = {**optimal, "likelihood": "discretized_logistic"}
    better = [head for head, gap in heads.items() if gap.low > MARGIN]
    sure = all(gap.high < MARGIN for gap in heads.values())
    lead = f"{', '.join(better)} gains" if better else "None is seen to gain"
    return (
        f"{'No' if sure else lead}: against a linear head on z-scored targets at equal "
        f"noise (dB), each on the targets of its range: {_listed(heads)}; in calibrated "
        f"bits per dim {_listed(bits, 3)}. The noise need not be set by hand: "
        f"gaussian_optimal finds it, σ = {mean(finals, 'test/sigma', optimal).text(1)} "
        f"levels, and changes the calibrated bits per dim of the linear head by "
        f"{gain.text(3, True)} against σ = {by_hand.removeprefix('matched')}. "
        f"discretized_logistic reaches "
        f"{mean(finals, 'test/bits_per_dim_discrete', logistic).text(3)} bits per dim of a "
        f"mass, which is not comparable with a density's."
    )


def balance(study: Study) -> str:
    """Q4: does the weight of the terms change with the scale, and how is it accounted?"""
    published = study.of("q4_balance")
    finals = published.results.finals
    at_one = [linear(norm, "1") for norm in NORMS]
    rises = [difference(finals, "test/kl", b, a).sign > 0 for a, b in pairwise(at_one)]
    kl = ", ".join(
        f"{mean(finals, 'test/kl', where).text(1)} ({where['norm']})" for where in at_one
    )
    multiply = " and ".join(
        f"{measured_factor(finals, 'unit', norm).text(2)} for {norm} (squared ratio of the "
        f"scales: {beta_factor(published, 'unit', norm):.2f})"
        for norm in NORMS[1:]
    )
    doors = by_door(finals)
    doors_said = "; ".join(f"{door} {added.text(1, True)}" for door, added in doors.items())
    return (
        f"{'Yes' if all(rises) else 'Not throughout'}. At β = 1 the KL is {kl} nats. To "
        f"give the KL of [0, 1], β must be multiplied by {multiply}. Of the spread of log "
        f"KL over normalizations, {kl_spread_left(finals).text(1)} % is left at equal "
        f"noise (`beta=matched`) and "
        f"{kl_spread_left(finals, 'gaussian_optimal').text(1)} % at the noise that "
        f"gaussian_optimal finds. Nats of KL that each scale adds: {doors_said}."
    )


QUESTIONS = (
    (
        "Does it hurt that z-scored targets and tanh outputs have different ranges?",
        "q1_range_mismatch",
        range_mismatch,
    ),
    (
        "Which pre-processing, or post-processing of the output, makes them fit?",
        "q2_make_it_fit",
        make_it_fit,
    ),
    ("Should the output layer be something else?", "q3_output_layer", output_layer),
    (
        "Does the weight of the two terms change with the scale of the input, and how is "
        "that accounted for?",
        "q4_balance",
        balance,
    ),
)


def four(study: Study) -> str:
    """The four answers as a numbered list in Markdown, with what they rest on."""
    lines = [f"{i}. **{q}** {of(study)}" for i, (q, _, of) in enumerate(QUESTIONS, 1)]
    captions: dict[str, list[str]] = {}
    for i, (_, experiment, _) in enumerate(QUESTIONS, 1):
        captions.setdefault(study.of(experiment).caption, []).append(str(i))
    rests = " ".join(f"{', '.join(who)}: {said}." for said, who in captions.items())
    means = "Means over seeds on the test split, [95% bootstrap intervals], paired by seed."
    return "\n".join([*lines, "", f"{means} {rests}"])


def beta_factors(published: Published) -> pd.DataFrame:
    """What to multiply beta by when the targets' normalization changes from row to
    column, so that the noise stays."""
    norms: tuple[Norm, ...] = (*NORMS, "raw255")
    rows = {
        a: {f"to {b}": f"{beta_factor(published, a, b):.4g}" for b in norms} for a in norms
    }
    return pd.DataFrame.from_dict(rows, orient="index")


def original_points(finals: pd.DataFrame) -> Points:
    """The set-up as it was asked about, and each change to it."""
    asked = {"norm": "zscore", "head": "tanh", "reduction": "mean", "beta": "1"}
    beta = matched(finals)
    equal = {"reduction": "sum", "beta": beta}
    noise = f"noise of {beta.removeprefix('matched')} levels"
    return {
        "as asked: z-score, tanh, mean reduction, β = 1": asked,
        "range fixed: tanh_rescaled": {**asked, "head": "tanh_rescaled"},
        "range fixed: linear head": {**asked, "head": "linear"},
        "range fixed: [-1, 1]": {**asked, "norm": "minus1_1"},
        "balance fixed: sum reduction": {**asked, "reduction": "sum"},
        f"balance fixed: {noise}": {**asked, **equal},
        f"both fixed: tanh_rescaled, {noise}": {
            **asked,
            **equal,
            "head": "tanh_rescaled",
        },
    }


def original(finals: pd.DataFrame) -> pd.DataFrame:
    """Test means over seeds of `original_points`, with intervals."""
    columns = {
        "σ (8-bit)": ("val/sigma", 0),
        "PSNR (dB)": (PSNR, 2),
        "KL (nats)": ("test/kl", 1),
        "active units": ("test/active_units", 1),
        "calibrated bits/dim": (BITS, 3),
    }
    return table(finals, original_points(finals), columns)


def advice(study: Study) -> pd.DataFrame:
    """What to do about a set-up, what it gained here (dB of test PSNR at equal noise,
    over leaving it), and beta's factor, which keeps the noise."""
    published = study.of("q2_make_it_fit")
    first = study.of("q1_range_mismatch").results.finals
    gains = fixes(published.results.finals)
    n = int(np.prod(published.about["images"]["shape"]))
    z = beta_factor(published, "zscore", "minus1_1")
    unit = {"norm": "unit", "beta": matched(first)}
    sigmoid = difference(first, PSNR, {**unit, "head": "sigmoid"}, {**unit, "head": "tanh"})
    ways = {
        "linear head": ("head=linear", "1"),
        "tanh_rescaled": ("head=tanh_rescaled", "1"),
        "target [-1, 1], tanh": ("target=minus1_1", f"{z:.3g}, the channels' mean"),
    }
    order = sorted(ways, key=lambda way: -gains[way].estimate)
    rows = [("z-scored inputs, tanh", ways[w][0], db(gains[w]), ways[w][1]) for w in order]
    rows += [
        ("[0, 1] images, tanh", "head=sigmoid", db(sigmoid), "1"),
        (
            "another change of the targets' scale",
            "beta=matched, or the factor",
            "",
            "(old scale / new scale)², scale as in (u - shift) / scale",
        ),
        ("F.mse_loss and KL.mean(), D latents", "sum both", "", f"{n} / D"),
        ("F.mse_loss and KL.sum(1).mean()", "sum the squared error", "", f"{n}"),
        ("1/2 before the summed squared error", "nothing; where dropped:", "", "2"),
        ("no idea what beta to take", "gaussian_optimal, or beta.sigma", "", ""),
    ]
    columns = ["if you have", "do", "gained", "multiply beta by"]
    return pd.DataFrame(rows, columns=columns).set_index("if you have")
