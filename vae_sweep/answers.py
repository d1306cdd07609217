"""The four questions, answered in sentences made from the published tables."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import pandas as pd

from vae_sweep import ledger
from vae_sweep.config import Head
from vae_sweep.intervals import Interval, difference, mean, table
from vae_sweep.ledger import NORMS, conversion, factor, matched, remaining, tanh_cost
from vae_sweep.normalize import fit
from vae_sweep.published import Published, Study
from vae_sweep.theory import head_floor

Points = dict[str, dict[str, str]]

# each head with the targets that its range was made for
NATURAL: Mapping[Head, str] = {
    "linear": "zscore",
    "tanh_rescaled": "zscore",
    "sigmoid_rescaled": "zscore",
    "tanh_standardized": "zscore",
    "tanh": "minus1_1",
    "hardtanh": "minus1_1",
    "sigmoid": "unit",
}
REACHING = ("linear", "tanh_rescaled", "sigmoid_rescaled", "tanh", "hardtanh", "sigmoid")


def range_mismatch(study: Study) -> str:
    """Q1: does it hurt that z-scored targets and tanh outputs have different ranges?"""
    published = study.of("q1_range_mismatch")
    counts = published.counts
    floor = head_floor("tanh", fit("zscore", counts), counts)
    cost, fitting = tanh_cost(study, "zscore"), tanh_cost(study, "minus1_1")
    finals = published.results.finals
    where = {"norm": "zscore", "beta": matched(finals)}
    tanh, linear = ({**where, "head": head} for head in ("tanh", "linear"))
    bits = difference(finals, "test/bits_per_dim_calibrated", tanh, linear)
    hurts = "Yes" if cost.sign < 0 else "It was not seen to"
    return (
        f"{hurts}. tanh cannot reach {floor.outside:.0%} of the z-scored targets, which "
        f"caps it at {floor.psnr_cap:.1f} dB whatever the network. Against a linear head "
        f"at the same noise it comes out {db(cost)} and {bits.text(3, True)} bits per "
        f"dim; without any KL, {db(tanh_cost(study, 'zscore', '0'))}. Under [-1, 1], "
        f"which tanh reaches, the same comparison gives {db(fitting)}."
    )


def mends(finals: pd.DataFrame) -> dict[str, Interval]:
    """dB of test PSNR that each way to make z-scored inputs fit gains over tanh alone."""
    beta = matched(finals)
    faulty = {"norm": "zscore", "head": "tanh", "beta": beta}
    ways: Points = {
        "target [-1, 1], tanh": {**faulty, "target": "minus1_1"},
        "linear head": {**faulty, "head": "linear"},
        "tanh_rescaled": {**faulty, "head": "tanh_rescaled"},
        "tanh_standardized": {**faulty, "head": "tanh_standardized"},
        "hardtanh": {**faulty, "head": "hardtanh"},
    }
    return {way: difference(finals, "test/psnr", w, faulty) for way, w in ways.items()}


def make_it_fit(study: Study) -> str:
    """Q2: which pre-processing, or post-processing of the output, makes them fit?"""
    finals = study.of("q2_make_it_fit").results.finals
    gains = mends(finals)
    order = sorted(gains, key=lambda way: -gains[way].estimate)
    said = "; ".join(f"{way} {gains[way].text(2, True)}" for way in order)
    helping = [way for way in order if gains[way].low > ledger.MARGIN]
    beta = matched(finals)
    plain = difference(
        finals,
        "test/psnr",
        {"norm": "minus1_1", "head": "tanh", "beta": beta},
        {"norm": "zscore", "head": "linear", "beta": beta},
    )
    return (
        f"{len(helping)} of {len(order)} ways gain more than {ledger.MARGIN} dB, in dB "
        f"over z-scored inputs with a plain tanh: {said}. [-1, 1] for inputs and "
        f"targets with a plain tanh is "
        f"{db(plain)} against z-score with a linear head."
    )


def of_heads(finals: pd.DataFrame, likelihood: str, column: str) -> dict[str, Interval]:
    """`column` of each head at its natural target, minus the linear head's."""
    beta = matched(finals) if likelihood == "mse" else "1"
    points = {
        head: {"norm": norm, "head": head, "likelihood": likelihood, "beta": beta}
        for head, norm in NATURAL.items()
        if has(finals, norm, head, likelihood)
    }
    base = points.pop("linear")
    return {head: difference(finals, column, w, base) for head, w in points.items()}


def has(finals: pd.DataFrame, norm: str, head: str, likelihood: str) -> bool:
    """Whether a finished run of the point is there."""
    same = (finals["norm"] == norm) & (finals["target"] == norm)
    same &= (finals["head"] == head) & (finals["likelihood"] == likelihood)
    return bool((same & (finals["status"] == "finished")).any())


def output_layer(study: Study) -> str:
    """Q3: should the output layer be something else?"""
    finals = study.of("q3_output_layer").results.finals
    heads = of_heads(finals, "mse", "test/psnr")
    reach = {h: v for h, v in heads.items() if h in REACHING}
    worst, best = (pick(reach, key=lambda h: reach[h].estimate) for pick in (min, max))
    optimal, fixed = (
        {"norm": "zscore", "head": "linear", "likelihood": name, "beta": beta}
        for name, beta in (("gaussian_optimal", "1"), ("mse", matched(finals)))
    )
    bits = difference(finals, "test/bits_per_dim_calibrated", optimal, fixed)
    sigma = mean(finals, "test/sigma", optimal)
    logistic = {**optimal, "likelihood": "discretized_logistic"}
    discrete = mean(finals, "test/bits_per_dim_discrete", logistic)
    will_do = all(v.low < ledger.MARGIN for v in reach.values())
    by_hand = matched(finals).removeprefix("matched")
    return (
        f"{'A linear head will do' if will_do else 'A linear head can be bettered'}: of "
        f"those that reach every target the others lie between {worst} "
        f"{db(reach[worst])} and {best} {db(reach[best])} of it. The noise is another "
        f"matter: gaussian_optimal finds it, σ = {sigma.text(1)} levels, and changes the "
        f"calibrated bits per dim by {bits.text(3, True)} against σ = {by_hand} set by "
        f"hand. discretized_logistic reaches {discrete.text(3)} bits per dim, in a unit "
        f"of its own."
    )


def balance(study: Study) -> str:
    """Q4: does the weight of the terms change with the scale, and how is it accounted?"""
    published = study.of("q4_balance")
    finals = published.results.finals
    kl = [{"norm": norm, "head": "linear", "beta": "1"} for norm in NORMS]
    rises = all(difference(finals, "test/kl", b, a).sign > 0 for a, b in pairwise(kl))
    at_one = ", ".join(
        f"{mean(finals, 'test/kl', where).estimate:.1f} ({where['norm']})" for where in kl
    )
    multiply = " and ".join(
        f"{conversion(finals, 'unit', norm).text(2)} for {norm} (in theory "
        f"{factor(published, 'unit', norm):.2f})"
        for norm in NORMS[1:]
    )
    left, optimal = remaining(finals), remaining(finals, "gaussian_optimal")
    by_target, by_input = ledger.target_and_input(finals)
    return (
        f"{'Yes' if rises else 'Not throughout'}. At β = 1 the KL is {at_one} nats. To "
        f"give the KL of [0, 1], β must be multiplied by {multiply}: the square of the "
        f"scales' ratio. With the noise held equal (`beta=matched`) {left.text(1)} % of "
        f"the spread is left, with the noise found by gaussian_optimal {optimal.text(1)} "
        f"%. It is the target's scale: z-scoring it adds {by_target.text(1)} nats, "
        f"z-scoring the input {by_input.text(1)}."
    )


QUESTIONS = (
    (
        "Does it hurt that z-scored targets and tanh outputs have different ranges?",
        range_mismatch,
    ),
    (
        "Which pre-processing, or post-processing of the output, makes them fit?",
        make_it_fit,
    ),
    ("Should the output layer be something else?", output_layer),
    (
        "Does the weight of the two terms change with the scale of the input, and how is "
        "that accounted for?",
        balance,
    ),
)


def four(study: Study) -> str:
    """The four answers as a numbered list in Markdown, with what they rest on."""
    lines = [f"{i}. **{q}** {of(study)}" for i, (q, of) in enumerate(QUESTIONS, 1)]
    base = study.of("q1_range_mismatch").caption
    return "\n".join(
        [
            *lines,
            "",
            f"Means over seeds, [95% bootstrap intervals], paired by seed. {base}.",
        ]
    )


def db(interval: Interval) -> str:
    return f"{interval.text(2, True)} dB"


def factors(published: Published) -> pd.DataFrame:
    """What to multiply beta by when the targets' normalization changes from row to
    column, so that the noise stays (channels' mean of the squared scale)."""
    rows = {
        a: {f"to {b}": f"{factor(published, a, b):.4g}" for b in (*NORMS, "raw255")}
        for a in (*NORMS, "raw255")
    }
    return pd.DataFrame.from_dict(rows, orient="index")


def original(finals: pd.DataFrame) -> pd.DataFrame:
    """The set-up as it was asked about, and each change to it: test means over seeds
    with 95% intervals."""
    return table(
        finals,
        ORIGINAL,
        {
            "σ (8-bit)": ("val/sigma", 0),
            "PSNR (dB)": ("test/psnr", 2),
            "KL (nats)": ("test/kl", 1),
            "active units": ("test/active_units", 1),
            "calibrated bits/dim": ("test/bits_per_dim_calibrated", 3),
        },
    )


_ASKED = {"norm": "zscore", "head": "tanh", "reduction": "mean", "beta": "1"}
ORIGINAL: Points = {
    "as asked: z-score, tanh, mean reduction, β = 1": _ASKED,
    "range mended: tanh_rescaled": {**_ASKED, "head": "tanh_rescaled"},
    "range mended: linear head": {**_ASKED, "head": "linear"},
    "range mended: [-1, 1]": {**_ASKED, "norm": "minus1_1"},
    "balance mended: sum reduction": {**_ASKED, "reduction": "sum"},
    "balance mended: noise of 30 levels": {
        **_ASKED,
        "reduction": "sum",
        "beta": "matched30",
    },
    "both mended: tanh_rescaled, noise of 30 levels": {
        **_ASKED,
        "head": "tanh_rescaled",
        "reduction": "sum",
        "beta": "matched30",
    },
}


def advice(published: Published) -> pd.DataFrame:
    """What to do about a set-up, with beta's factor where it changes."""
    n = int(np.prod(published.about["images"]["shape"]))
    z = factor(published, "zscore", "minus1_1")
    u = factor(published, "unit", "minus1_1")
    rows: Sequence[tuple[str, str, str]] = (
        ("z-scored inputs, tanh", "keep the inputs; target=minus1_1", f"{z:.3g}"),
        ("z-scored inputs, tanh", "or head=linear, or tanh_rescaled", "1"),
        ("[0, 1] images, tanh", "2u - 1 as target, or head=sigmoid", f"{u:.3g}, or 1"),
        ("[-1, 1] or z-scored, sigmoid", "head=linear or sigmoid_rescaled", "1"),
        ("any change of the target's scale", "beta=matched, or the factor", "scale ratio²"),
        (
            "F.mse_loss + KL.mean(), D latents",
            "sum over pixels and latents",
            f"{n} / D",
        ),
        ("F.mse_loss + KL.sum(1).mean()", "sum over pixels", f"{n}"),
        ("1/2 before the squared error", "leave it out", "2"),
        ("no idea what beta to take", "likelihood=gaussian_optimal, or beta.sigma", "–"),
    )
    frame = pd.DataFrame(rows, columns=["if you have", "do", "multiply beta by"])
    return frame.set_index("if you have")
