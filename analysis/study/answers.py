"""The questions, answered by rules from the published tables: a sentence, its numbers."""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from study import effects, trained
from study.balance import (
    against_theory,
    at_one,
    beta_factor,
    collapsed,
    kl_spread,
    linear,
)
from study.effects import (
    BITS,
    KL,
    PSNR,
    Effect,
    Judged,
    Where,
    contrast,
    judged,
    margin,
    matched,
    matched_labels,
    noise,
    recipe,
)
from study.published import NORMS, Published, Study
from vae_sweep.config import Norm
from vae_sweep.records.comparisons import Decision, table
from vae_sweep.theory.floor import head_floor
from vae_sweep.vae import heads
from vae_sweep.vae.normalize import fit

EQUAL: Decision = "equal within the margin"
CONDITIONS = {  # experiment -> what is changed of `core`
    "latents16": "16 latents",
    "without_batch_norm": "no batch norm",
    "residual": "a residual network",
    "mnist": "MNIST",
}
CONSTANT = "beta.fraction=0.0"  # the setting of a matched beta that does not rise to it
RANDOM = "output_init=random"  # of a last layer that does not start at the data
IW = "bits_per_dim_iw_calibrated"  # the importance-weighted bound (Burda et al. 2016)
CLIPPED = "A linear head clipped to [-1, 1]: the range alone, and all else"
LIKELIHOODS = ("mse", "gaussian_optimal", "discretized_logistic")
FIXES = {  # what is typed -> how it changes the z-scored, tanh point
    "head=linear": {"head": "linear"},
    "head=tanh_rescaled": {"head": "tanh_rescaled"},
    "head=sigmoid_rescaled": {"head": "sigmoid_rescaled"},
    "head=tanh_standardized": {"head": "tanh_standardized"},
    "head=hardtanh": {"head": "hardtanh"},
    "target=minus1_1": {"target": "minus1_1"},
    "norm=minus1_1": {"norm": "minus1_1", "target": "minus1_1"},
    "norm=unit": {"norm": "unit", "target": "unit"},
}


class Answer(NamedTuple):
    """A question, the sentence that answers it, and what the sentence rests on.

    `tables` are families of judged effects by title, all corrected together; `more` are
    further tables and remarks in Markdown. `experiments` are those that it rests on.
    """

    question: str
    sentence: str
    tables: Mapping[str, Sequence[Judged]]
    more: Sequence[str]
    experiments: Sequence[str]


def _judged(tables: Mapping[str, Sequence[Effect]]) -> dict[str, list[Judged]]:
    """Judges the effects of several tables as one family."""
    flat = judged([effect for family in tables.values() for effect in family])
    given = iter(flat)
    return {title: [next(given) for _ in family] for title, family in tables.items()}


def zscored(finals: pd.DataFrame, head: str = "tanh") -> dict[str, str]:
    """The point of a head on z-scored inputs and targets at the sweep's noise."""
    return {"norm": "zscore", "target": "zscore", "head": head, "beta": matched(finals)}


def head_gap(
    published: Published, norm: str, quantity: str = PSNR, label: str = ""
) -> Effect:
    """A tanh head minus a linear one at equal noise."""
    finals = published.results.finals
    tanh, base = (
        {"norm": norm, "target": norm, "head": head, "beta": matched(finals)}
        for head in ("tanh", "linear")
    )
    return contrast(published, label or f"{norm}: tanh − linear", quantity, tanh, base)


def range_alone(published: Published, quantity: str = PSNR) -> list[Effect]:
    """The clip control on z-scored targets: what a linear head loses where its outputs are
    clipped to tanh's range, and what tanh loses beyond that."""
    finals = published.results.finals
    tanh, base = zscored(finals), zscored(finals, "linear")
    clipped = f"{quantity}_tanh_range"
    return [
        contrast(published, "linear, clipped − linear", clipped, base, base, quantity),
        contrast(published, "tanh − linear, clipped", quantity, tanh, base, clipped),
    ]


def elsewhere(study: Study, norm: str) -> list[Effect]:
    """The gap of the heads with one condition changed."""
    return [
        head_gap(recipe(study.of(name)), norm, label=f"{said}, {norm}: tanh − linear")
        for name, said in CONDITIONS.items()
    ]


def range_mismatch(study: Study) -> Answer:
    """Q1: does it hurt that z-scored targets and tanh outputs have different ranges?"""
    core = recipe(study.of("core"))
    counts = core.counts
    outside = head_floor(heads.named("tanh"), fit("zscore", counts), counts).outside
    changed = elsewhere(study, "zscore")
    tables = _judged(
        {
            "PSNR": [head_gap(core, norm) for norm in ("zscore", "minus1_1", "unit")],
            "Calibrated bits per dim (lower is better)": [
                head_gap(core, norm, BITS) for norm in ("zscore", "minus1_1", "unit")
            ],
            "Importance-weighted bound, bits per dim": [
                head_gap(core, norm, IW) for norm in ("zscore", "minus1_1")
            ],
            CLIPPED: range_alone(core),
            "One condition changed": changed,
            "How capacity changes what tanh loses": [
                effects.minus(
                    changed[0], head_gap(core, "zscore"), "16 latents − the base's"
                )
            ],
        }
    )
    cost, fitting, *_ = tables["PSNR"]
    elsewhere_too = tables["One condition changed"]
    same = [j for j in elsewhere_too if j.decision == cost.decision]
    lead = {
        "lower": f"Yes: tanh cannot reach {outside:.0%} of z-scored targets and loses "
        f"{cost.size} to linear heads at equal noise",
        "higher": f"No, tanh gains {cost.size} over a linear head at equal noise",
        EQUAL: f"No: tanh is within {margin('dB')} of a linear head at equal noise, "
        f"{cost.text}",
        "undecided": f"Undecided: tanh minus a linear head at equal noise is {cost.text}",
    }[cost.decision]
    on_minus1_1 = {
        "lower": f"on [-1, 1] it loses {fitting.size}",
        "higher": f"on [-1, 1] it gains {fitting.size}",
        EQUAL: f"on [-1, 1] they are within {margin('dB')}",
        "undecided": "on [-1, 1] it is undecided",
    }[fitting.decision]
    also = f"; likewise in {len(same)} of {len(elsewhere_too)} other conditions"
    if same and cost.decision in ("lower", "higher"):
        sizes = [abs(j.shown.estimate) for j in same]
        also += f" ({min(sizes):.2f} to {max(sizes):.2f} dB)"
    return Answer(
        "Does it hurt that z-scored targets and tanh outputs have different ranges?",
        f"{lead}; {on_minus1_1}{also if cost.decision != 'undecided' else ''}.",
        tables,
        [],
        ("core", *CONDITIONS),
    )


def fixes(published: Published, quantity: str = PSNR) -> list[Effect]:
    """What each way to make z-scored inputs fit adds, over tanh alone."""
    faulty = zscored(published.results.finals)
    return [
        contrast(published, way, quantity, {**faulty, **change}, faulty)
        for way, change in FIXES.items()
    ]


def make_it_fit(study: Study) -> Answer:
    """Q2: which pre-processing, or post-processing of the output, makes them fit?"""
    core = recipe(study.of("core"))
    base = zscored(core.results.finals, "linear")
    rest = {way: change for way, change in FIXES.items() if way != "head=linear"}
    faulty = zscored(core.results.finals)
    tables = _judged(
        {
            "PSNR over z-scored inputs with tanh": fixes(core),
            "Calibrated bits per dim over the same (lower is better)": fixes(core, BITS),
            "PSNR against a linear head on z-scored targets": [
                contrast(core, f"{way} − head=linear", PSNR, {**faulty, **change}, base)
                for way, change in rest.items()
            ],
        }
    )
    gains = tables["PSNR over z-scored inputs with tanh"]
    groups = {
        "rises with": "higher",
        f"stays within {margin('dB')} with": EQUAL,
        "falls with": "lower",
        "is undecided with": "undecided",
    }
    parts = [
        f"{words} {listed}"
        for words, decision in groups.items()
        if (listed := _listed([j for j in gains if j.decision == decision]))
    ]
    return Answer(
        "Which pre-processing, or post-processing of the output, makes them fit?",
        f"Against tanh on z-scored targets, PSNR {'; '.join(parts)} (dB).",
        tables,
        [],
        ("core",),
    )


def _listed(found: Sequence[Judged]) -> str:
    """Options with what they add, the largest first."""
    order = sorted(found, key=lambda j: -j.shown.estimate)
    return ", ".join(f"`{j.effect.said}` {j.short}" for j in order)


def output_points(finals: pd.DataFrame, likelihood: str) -> dict[str, Where]:
    """Each normalization and head of a likelihood, at the sweep's noise or a beta of 1:
    `zscore, linear` and so on."""
    runs = finals[(finals["likelihood"] == likelihood) & (finals["reduction"] == "sum")]
    if likelihood == "mse":
        runs = runs[runs["beta"] == matched(finals)]
    else:
        runs = runs[runs["beta_value"] == 1]
    runs = runs[(runs["status"] == "finished") & (runs["norm"] == runs["target"])]
    keys = ["norm", "head", "beta", "likelihood"]
    points = runs[["target", *keys]].drop_duplicates().to_dict("records")
    return {f"{p['norm']}, {p['head']}": {str(k): v for k, v in p.items()} for p in points}


def reaching(published: Published, likelihood: str) -> dict[str, Where]:
    """Those of `output_points` whose head is bounded and reaches every target."""
    finals = published.results.finals
    free = finals[np.isinf(finals["psnr_cap"]) & (finals["norm"] == finals["target"])]
    points = output_points(finals, likelihood)
    there = set(free["norm"] + ", " + free["head"])
    return {
        label: point
        for label, point in points.items()
        if label in there and point["head"] != "linear"
    }


def with_heads(study: Study) -> Published:
    """The likelihoods' runs, with those of `core` as the ones of a squared error."""
    return recipe(effects.joined(study.of("core"), study.of("likelihoods")))


def output_layer(study: Study) -> Answer:
    """Q3: should the output layer be something else?"""
    published = with_heads(study)
    finals = published.results.finals
    asked: list[Effect] = []
    others: list[Effect] = []
    for likelihood in LIKELIHOODS:
        points = output_points(finals, likelihood)
        base, tanh = points["zscore, linear"], points["zscore, tanh"]
        for quantity in (PSNR, BITS) if likelihood == "mse" else (BITS,):
            key = f"{likelihood}, {effects.UNITS[quantity]}"
            asked += [contrast(published, f"{key}: linear − tanh", quantity, base, tanh)]
            others += [
                contrast(published, f"{key}: {label} − linear", quantity, point, base)
                for label, point in reaching(published, likelihood).items()
            ]
    by_hand = output_points(finals, "mse")["zscore, linear"]
    free = output_points(finals, "gaussian_optimal")["zscore, linear"]
    title = (
        "Bounded heads that reach every target, against a linear one on z-scored targets"
    )
    tables = _judged(
        {
            "tanh replaced": asked,
            title: others,
            "The noise fitted rather than set": [
                contrast(published, "linear: gaussian_optimal − mse", BITS, free, by_hand)
            ],
        }
    )
    replaced = tables["tanh replaced"][0]
    in_psnr = [j for j in tables[title] if j.effect.unit == "dB"]
    lead = {
        "higher": f"Yes, on z-scored targets: linear gains {replaced.size} over tanh",
        "lower": f"No: linear loses {replaced.size} to tanh on z-scored targets",
        EQUAL: f"No: linear is within {margin('dB')} of tanh on z-scored targets",
        "undecided": f"Undecided on z-scored targets: linear minus tanh is {replaced.text}",
    }[replaced.decision]
    found = tables["The noise fitted rather than set"][0]
    likelihood = {
        "lower": f"`gaussian_optimal` saves {-found.shown.estimate:.3f} bits per dim",
        "higher": f"`gaussian_optimal` costs {found.shown.estimate:.3f} bits per dim",
        EQUAL: "fitting the noise (`gaussian_optimal`) is as good as setting it",
        "undecided": "`gaussian_optimal` is undecided",
    }[found.decision]
    return Answer(
        "Should the output layer be something else?",
        f"{lead}; of {len(in_psnr)} pairs of norm and bounded head that reach every "
        f"target, {_counted(in_psnr)}; {likelihood}.",
        tables,
        [],
        ("core", "likelihoods"),
    )


def _counted(family: Sequence[Judged]) -> str:
    """`3 are equal within 0.3 dB, 1 is undecided`."""
    words = {
        EQUAL: f"within {margin('dB')}",
        "higher": "better",
        "lower": "worse",
        "undecided": "undecided",
    }
    counts = {
        said: sum(j.decision == decision for j in family)
        for decision, said in words.items()
    }
    return ", ".join(f"{n} {said}" for said, n in counts.items() if n) or "none was tried"


def at_equal_noise(published: Published, quantity: str, **more: Any) -> list[Effect]:
    """Linear heads at equal noise against the one on z-scored targets."""
    how = "gaussian_optimal" if "likelihood" in more else "equal noise"
    return [
        contrast(
            published,
            f"{how}, {_of(quantity)}: {norm} against zscore",
            quantity,
            linear(norm, **more),
            linear("zscore", **more),
        )
        for norm in ("unit", "minus1_1")
    ]


def by_door(published: Published, quantity: str) -> list[Effect]:
    """What z-scoring the target does under either input, and the input under either
    target, at a beta of 1."""
    pairs = {
        "target z-scored, input [0, 1]": (("unit", "zscore"), ("unit", "unit")),
        "target z-scored, input z-scored": (("zscore", "zscore"), ("zscore", "unit")),
        "input z-scored, target [0, 1]": (("zscore", "unit"), ("unit", "unit")),
        "input z-scored, target z-scored": (("zscore", "zscore"), ("unit", "zscore")),
    }
    return [
        contrast(published, f"{_of(quantity)}: {said}", quantity, at_one(*a), at_one(*b))
        for said, (a, b) in pairs.items()
    ]


def balance(study: Study) -> Answer:
    """Q4: does the weight of the terms change with the scale, and how is it accounted?"""
    published = recipe(study.of("balance"))
    equal = matched(published.results.finals)
    free = {"beta_value": 1.0, "likelihood": "gaussian_optimal"}
    doors = recipe(study.of("input_target"))
    theory = "The factor on β against theory"
    equal_kl, equal_psnr = "KL at equal noise", "PSNR at equal noise"
    tables = _judged(
        {
            "KL at β = 1": [
                contrast(published, f"KL of {b} over {a}", KL, at_one(b), at_one(a))
                for a, b in (*pairwise(NORMS), (NORMS[0], NORMS[-1]))
            ],
            theory: [against_theory(published, "unit", b) for b in NORMS[1:]],
            equal_kl: at_equal_noise(published, KL, beta=equal),
            equal_psnr: at_equal_noise(published, PSNR, beta=equal),
            "At the noise that gaussian_optimal finds": [
                *at_equal_noise(published, KL, **free),
                *at_equal_noise(published, PSNR, **free),
            ],
            "Input or target, without batch norm": [
                *by_door(doors, KL),
                *by_door(doors, PSNR),
            ],
            "What early KL pressure and the last layer's start do": [
                *_variants(study.of("warmup"), CONSTANT, "β warmed up − constant"),
                *_variants(study.of("output_init"), RANDOM, "start at the data − random"),
            ],
        }
    )
    at_1, factor = tables["KL at β = 1"][2], tables[theory][1]
    scale2 = beta_factor(published, "unit", "zscore")
    measured = factor.shown.mapped(lambda ratio: ratio * scale2).text(1)
    times = (
        f"at `beta=1`, z-scoring [0, 1] images multiplies KL by {at_1.shown.estimate:.2f}"
    )
    lead = {
        "higher": f"Yes: {times}",
        "lower": f"Reversed: {times}",
        EQUAL: f"No: {times}",
        "undecided": f"Undecided: {times}",
    }[at_1.decision]
    fits = {
        EQUAL: f"within {margin('×')}",
        "undecided": "undecided",
    }.get(factor.decision, f"over {margin('×')} off")
    inside = factor.shown.low <= 1 <= factor.shown.high
    fits = f"{'confirmed' if inside else 'excluded'}, {fits}"
    undone = f"multiplying β by {measured} undoes that (theory: {scale2:.1f}, {fits})"
    if math.isnan(factor.shown.low):
        undone = "no factor on β was found that undoes that"
    return Answer(
        "Does the weight of the two terms change with the scale of the input, and how is "
        "that accounted for?",
        f"{lead}; {undone}. At equal noise KL is {_agreed(tables[equal_kl])}, PSNR "
        f"{_agreed(tables[equal_psnr])}.",
        tables,
        [every_noise(published), beta_factors(published)],
        ("balance", "input_target", "warmup", "output_init"),
    )


def _variants(published: Published, base: str, said: str) -> list[Effect]:
    """Linear heads without a setting minus those with it, under each normalization and at
    each noise of those with it; none where the sweep has none of them."""
    finals = published.results.finals
    own = finals[effects.settings(finals, base)]
    return [
        effects.variant(
            published,
            f"{norm}, {noise(finals, label)}, {_of(quantity)}: {said}",
            quantity,
            linear(norm, beta=label),
            base,
        )
        for label in (matched_labels(own) if len(own) < len(finals) and len(own) else [])
        for quantity in (PSNR, KL)
        for norm in NORMS
    ]


def _of(quantity: str) -> str:
    return {PSNR: "PSNR", KL: "KL"}[quantity]


def _agreed(family: Sequence[Judged]) -> str:
    """Of normalizations: `equal within 10 %`, `not equal`, or `undecided`."""
    decisions = {j.decision for j in family}
    if decisions == {EQUAL}:
        return f"equal within {margin(family[0].effect.unit)}"
    return "not equal" if decisions & {"higher", "lower"} else "undecided"


def every_noise(published: Published) -> str:
    """How far KL and PSNR are apart over normalizations, at β = 1 and each noise."""
    finals = published.results.finals
    lines = [
        "| linear heads | largest KL over the least | unit − zscore, PSNR |",
        "|---|---|---|",
    ]
    points: dict[str, dict[str, Any]] = {"β = 1": {"beta_value": 1.0}}
    points |= {noise(finals, label): {"beta": label} for label in matched_labels(finals)}
    for said, where in points.items():
        if "beta" in where and collapsed(finals, where["beta"]):
            lines.append(f"| {said} | collapsed: a KL below {trained.COLLAPSED} nats | |")
            continue
        apart = kl_spread(finals, **where)
        unit, zscore = (linear(norm, **where) for norm in ("unit", "zscore"))
        [gap] = judged([contrast(published, "", PSNR, unit, zscore)])
        lines.append(f"| {said} | {apart.text(1, True)} % | {gap.text} |")
    return "\n".join(["Each for itself, at 95 %:", "", *lines])


def beta_factors(published: Published) -> str:
    """What to multiply beta by when the targets' normalization changes from row to
    column, so that the noise stays."""
    norms: tuple[Norm, ...] = (*NORMS, "raw255")
    lines = [
        "Factor on β that keeps the noise, from row to column (exact, on these images):",
        "",
        f"| | {' | '.join(norms)} |",
        f"|---|{'---|' * len(norms)}",
    ]
    for a in norms:
        cells = [f"{beta_factor(published, a, b):.4g}" for b in norms]
        lines.append(f"| {a} | {' | '.join(cells)} |")
    return "\n".join(lines)


def original_points(finals: pd.DataFrame) -> dict[str, Where]:
    """The set-up as it was asked about, and each change to it."""
    asked = {"norm": "zscore", "head": "tanh", "reduction": "mean", "beta_value": 1.0}
    of_noise = {"norm": "zscore", "reduction": "sum", "beta": matched(finals)}
    equal = f"noise of {noise(finals, matched(finals))} levels"
    return {
        "original: z-score, tanh, mean reduction, β = 1": asked,
        "range fixed: tanh_rescaled": {**asked, "head": "tanh_rescaled"},
        "range fixed: linear head": {**asked, "head": "linear"},
        "range fixed: [-1, 1]": {**asked, "norm": "minus1_1"},
        "balance fixed: sum reduction": {**asked, "reduction": "sum"},
        f"balance fixed: {equal}": {**of_noise, "head": "tanh"},
        f"both fixed: tanh_rescaled, {equal}": {**of_noise, "head": "tanh_rescaled"},
    }


def original(finals: pd.DataFrame) -> pd.DataFrame:
    """Test means over seeds of `original_points`, with intervals."""
    columns = {
        "σ (8-bit)": ("implied_sigma", 0),
        "PSNR (dB)": ("test/psnr", 2),
        "KL (nats)": ("test/kl", 1),
        "active units": ("test/active_units", 1),
        "calibrated bits/dim": ("test/bits_per_dim_calibrated", 3),
    }
    return table(finals, original_points(finals), columns)


def ranges_or_balance(study: Study) -> Answer:
    """The question as it was asked: is it the ranges, or the balance of the terms?"""
    published = recipe(study.of("original"))
    finals = published.results.finals
    asked, ranges, _, _, _, balanced, both = original_points(finals).values()
    ways = {
        "range fixed (tanh_rescaled)": ranges,
        "balance fixed (matched noise)": balanced,
        "both fixed": both,
    }

    def gains(quantity: str) -> list[Effect]:
        return [contrast(published, k, quantity, way, asked) for k, way in ways.items()]

    by_range, by_balance, by_both = gains(PSNR)
    beyond = effects.minus(by_both, by_range, "both fixed − range fixed")
    tables = _judged(
        {
            "PSNR over the original set-up": [by_range, by_balance, by_both],
            "Are the two independent?": [
                beyond,
                effects.minus(beyond, by_balance, "both fixed − the sum of each"),
            ],
            "Which matters more": [
                contrast(published, "balance fixed − range fixed", PSNR, balanced, ranges)
            ],
            "Calibrated bits per dim over the same (lower is better)": gains(BITS),
        }
    )
    first, second, together = tables["PSNR over the original set-up"]
    equal = noise(finals, matched(finals))
    more = tables["Which matters more"][0].decision
    either = "higher" in (first.decision, second.decision)
    lead = {
        "higher": f"The balance{'' if second.decision == 'higher' else ', if either'}",
        "lower": f"The ranges{'' if first.decision == 'higher' else ', if either'}",
        EQUAL: "Both alike" if either else "Neither",
        "undecided": "Undecided",
    }[more]
    return Answer(
        "Is it the ranges that don't meet, or the balance of the two terms?",
        f"{lead}: with z-scored images, tanh, both terms as means, β = 1, correcting the "
        f"range adds {first.text}, the balance ({equal}) {second.text}, both "
        f"{together.text} of PSNR.",
        tables,
        [effects.markdown(original(finals))],
        ("original",),
    )


QUESTIONS: Sequence[Callable[[Study], Answer]] = (
    ranges_or_balance,
    range_mismatch,
    make_it_fit,
    output_layer,
    balance,
)
