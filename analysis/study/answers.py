"""The four questions, answered in sentences made from the published tables."""

from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import pandas as pd

from study.balance import (
    beta_factor,
    by_door,
    kl_spread_left,
    linear,
    matched,
    measured_factor,
)
from study.ledger import BITS, MARGIN, PSNR, head_gap
from study.published import NORMS, Published, Study
from vae_sweep.config import Head, Norm
from vae_sweep.records.comparisons import Interval, difference, mean, table
from vae_sweep.theory.floor import head_floor
from vae_sweep.vae import heads
from vae_sweep.vae.normalize import fit

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


def _listed(effects: Mapping[str, Interval]) -> str:
    """Effects in dB, the largest first."""
    order = sorted(effects, key=lambda label: -effects[label].estimate)
    return ", ".join(f"{label} {effects[label].text(2, True)}" for label in order)


def range_mismatch(study: Study) -> str:
    """Q1: does it hurt that z-scored targets and tanh outputs have different ranges?"""
    counts = study.of("q1_range_mismatch").counts
    floor = head_floor(heads.named("tanh"), fit("zscore", counts), counts)
    z = {"norm": "zscore"}
    cost, bits = head_gap(study, z), head_gap(study, z, BITS)
    return (
        f"{'Yes' if cost.sign < 0 else 'It is not seen to'}. tanh cannot reach "
        f"{floor.outside:.0%} of the z-scored targets, which caps it at "
        f"{floor.psnr_cap:.1f} dB on them. Against a linear head at equal noise it comes "
        f"out {db(cost)} and {bits.text(3, True)} calibrated bits per dim; without KL, "
        f"{db(head_gap(study, {**z, 'beta': '0'}))}; under [-1, 1], which it reaches, "
        f"{db(head_gap(study, {'norm': 'minus1_1'}))}."
    )


def fixes(finals: pd.DataFrame, column: str = PSNR) -> dict[str, Interval]:
    """What each way to make z-scored inputs fit adds to `column`, over tanh alone."""
    faulty = {"norm": "zscore", "head": "tanh", "beta": matched(finals)}
    ways: Points = {
        "target [-1, 1] with tanh": {**faulty, "target": "minus1_1"},
        "linear head": {**faulty, "head": "linear"},
        "tanh_rescaled": {**faulty, "head": "tanh_rescaled"},
        "tanh_standardized": {**faulty, "head": "tanh_standardized"},
        "hardtanh": {**faulty, "head": "hardtanh"},
    }
    return {way: difference(finals, column, w, faulty) for way, w in ways.items()}


def make_it_fit(study: Study) -> str:
    """Q2: which pre-processing, or post-processing of the output, makes them fit?"""
    finals = study.of("q2_make_it_fit").results.finals
    gains = fixes(finals)
    fit_now = {way: gain for way, gain in gains.items() if gain.low > MARGIN}
    others = {way: gain for way, gain in gains.items() if way not in fit_now}
    plain = {"norm": "minus1_1", "head": "tanh", "beta": matched(finals)}
    gap = difference(finals, PSNR, plain, linear("zscore", plain["beta"]))
    return (
        f"More than {MARGIN} dB over z-scored inputs with a plain tanh is gained by: "
        f"{_listed(fit_now) or 'none'}; not by: {_listed(others) or 'none'}. A plain tanh "
        f"with inputs and targets in [-1, 1] is {db(gap)} from z-score with a linear head."
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
    heads = of_heads(finals, "mse", PSNR)
    best, worst = (pick(heads, key=lambda h: heads[h].estimate) for pick in (max, min))
    better = [head for head, gap in heads.items() if gap.low > MARGIN]
    sure = all(gap.high < MARGIN for gap in heads.values())
    lead = f"{', '.join(better)} gains" if better else "None is seen to gain"
    optimal = {**linear("zscore", "1"), "likelihood": "gaussian_optimal"}
    by_hand = matched(finals)
    gain = difference(finals, BITS, optimal, linear("zscore", by_hand))
    return (
        f"{'No' if sure else lead}. Against a linear head on z-scored targets, at equal "
        f"noise and each on the targets of its range, the others come out between "
        f"{best}, {db(heads[best])}, and {worst}, {db(heads[worst])}. The noise need not "
        f"be set by hand: gaussian_optimal finds σ = "
        f"{mean(finals, 'test/sigma', optimal).text(1)} levels, {gain.text(3, True)} "
        f"calibrated bits per dim against σ = {by_hand.removeprefix('matched')}."
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
    return (
        f"{'Yes' if all(rises) else 'Not throughout'}. At β = 1 the KL is {kl} nats. To "
        f"give the KL of [0, 1], β must be multiplied by {multiply}. At equal noise "
        f"(`beta=matched`) {kl_spread_left(finals).text(1)} % of the spread of log KL over "
        f"normalizations is left, at the noise that gaussian_optimal finds "
        f"{kl_spread_left(finals, 'gaussian_optimal').text(1)} %. z-scoring adds "
        f"{doors['target z-scored, input [0, 1]'].text(1, True)} nats if the target's, "
        f"{doors['input z-scored, target [0, 1]'].text(1, True)} if the input's."
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
    means = "Means over seeds on the test split, [95 % t intervals], paired by seed."
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
        "target [-1, 1] with tanh": ("target=minus1_1", f"{z:.3g}, the channels' mean"),
    }
    order = sorted(ways, key=lambda way: -gains[way].estimate)
    rows = [("z-scored inputs, tanh", ways[w][0], db(gains[w]), ways[w][1]) for w in order]
    rows += [
        ("[0, 1] images, tanh", "head=sigmoid", db(sigmoid), "1"),
        (
            "another change of the targets' scale",
            "beta=matched, or the factor",
            "",
            "(old scale / new scale)²",
        ),
        ("F.mse_loss and KL.mean(), D latents", "sum both", "", f"{n} / D"),
        ("F.mse_loss and KL.sum(1).mean()", "sum the squared error", "", f"{n}"),
        ("1/2 before the summed squared error", "nothing; where dropped:", "", "2"),
        ("no idea what beta to take", "gaussian_optimal, or beta.sigma", "", ""),
    ]
    columns = ["if you have", "do", "gained", "multiply beta by"]
    return pd.DataFrame(rows, columns=columns).set_index("if you have")
