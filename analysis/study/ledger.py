"""Nine statements about ranges and balance, each with its evidence and a verdict.

A verdict follows from the decisions on the effects shown, which are a family of their own
under Holm's correction, and can come out each way. What holds by definition is no evidence:
it is said, and not counted. Everything is measured on the test split, read once.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from study import answers, effects
from study.answers import CONDITIONS, EQUAL, elsewhere, head_gap, range_alone, zscored
from study.balance import (
    against_theory,
    at_one,
    beta_factor,
    linear,
    measured_factor,
    spread_left,
)
from study.effects import BITS, KL, PSNR, Judged, contrast, judged, matched, recipe
from study.published import NORMS, Study
from vae_sweep.records.comparisons import Interval

SEEDS = 5  # fewer decide nothing
LEFT = 10  # percent of a spread that may be left where a cause is to explain it

Verdict = Literal["holds", "holds in part", "wrong", "not testable here"]


class Entry(NamedTuple):
    """A line of the ledger; `more` are lines of further evidence."""

    statement: str
    evidence: list[Judged]
    verdict: Verdict
    because: str
    more: tuple[str, ...] = ()

    @property
    def lines(self) -> list[str]:
        """The evidence in words."""
        told = [
            f"{j.effect.said}: {j.text}, "
            f"{j.decision.replace('the margin', effects.margin(j.effect.unit))}"
            for j in self.evidence
        ]
        return [*told, *self.more]


def _entry(
    statement: str,
    evidence: list[Judged],
    verdict: Verdict,
    because: str,
    more: tuple[str, ...] = (),
) -> Entry:
    fewest = min(evidence, key=lambda j: j.shown.n).shown
    if fewest.n < SEEDS:
        lost = f", {fewest.lost} diverged" if fewest.lost else ""
        because = f"it takes {SEEDS} seeds, there are {fewest.n}{lost}; so far: {because}"
        verdict = "not testable here"
    return Entry(statement, evidence, verdict, because, more)


def graded(parts: Sequence[bool | None]) -> Verdict:
    """Of a statement with several parts, each true, false or undecided (None)."""
    if all(parts):
        return "holds"
    if any(parts):
        return "holds in part"
    return "not testable here" if None in parts else "wrong"


def at_least(j: Judged) -> bool | None:
    """Whether a difference is higher or equal within the margin."""
    return None if j.decision == "undecided" else j.decision != "lower"


def above(j: Judged) -> bool | None:
    return None if j.decision == "undecided" else j.decision == "higher"


def below(j: Judged) -> bool | None:
    return None if j.decision == "undecided" else j.decision == "lower"


def equal(j: Judged) -> bool | None:
    return None if j.decision == "undecided" else j.decision == EQUAL


def every(parts: Sequence[bool | None]) -> bool | None:
    """Whether all are true: None where that is undecided."""
    if False in parts:
        return False
    return None if None in parts else True


def _tanh_on_zscored_is_harmful(study: Study) -> Entry:
    core = recipe(study.of("core"))
    family = [
        head_gap(core, "zscore", PSNR, "quality, PSNR at equal noise: tanh − linear"),
        head_gap(core, "zscore", BITS, "quality, calibrated: tanh − linear"),
        *range_alone(core),
    ]
    psnr, bits, clipped, beyond = found = judged(family)
    quality = every([below(psnr), above(bits)])
    optimization = below(beyond)
    return _entry(
        "A tanh output against z-scored targets is harmful for optimization and quality.",
        found,
        graded([quality, optimization]),
        f"quality is {_said(quality, 'lower')}; beyond what clipping to its range costs "
        f"({clipped.text}), more is {_said(optimization, 'lost')}",
    )


def _said(part: bool | None, what: str) -> str:
    return {True: what, False: f"not {what}", None: f"not decided to be {what}"}[part]


def _weight_changes_with_range(study: Study) -> Entry:
    published = recipe(study.of("balance"))
    pairs = zip(NORMS[1:], NORMS[:-1], strict=True)
    found = judged(
        [
            contrast(published, f"KL at β = 1, {b} over {a}", KL, at_one(b), at_one(a))
            for b, a in pairs
        ]
    )
    verdict = graded([above(j) for j in found])
    return _entry(
        "The KL term's weight changes with the pixel range.",
        found,
        verdict,
        "at one β, the smaller the range of the targets the fewer nats"
        if verdict == "holds"
        else "at one β, the KL is not shown to rise with the range throughout",
    )


def _because_squared_error_scales(study: Study) -> Entry:
    published = recipe(study.of("balance"))
    finals = published.results.finals
    noise = {"beta": matched(finals)}
    family = [
        *answers.at_equal_noise(published, KL, **noise),
        *answers.at_equal_noise(published, PSNR, **noise),
        head_gap(recipe(study.of("core")), "zscore"),
    ]
    found = judged(family)
    kl, psnr = every([equal(j) for j in found[:2]]), every([equal(j) for j in found[2:4]])
    head = at_least(found[4])
    left, optimal = spread_left(finals), spread_left(finals, "gaussian_optimal")
    kl, mostly = every([kl, _under(left, LEFT)]), _under(left, 50)
    return _entry(
        "Range matters because MSE is not scale invariant.",
        found,
        graded([kl, psnr, head, mostly]) if mostly is not False else "wrong",
        f"at equal noise the KL is {_said(kl, 'equal')} over normalizations, the PSNR is "
        f"{_said(psnr, 'equal')}, and tanh is {_said(head, 'level')} with a linear head",
        (
            f"of the spread of log KL over normalizations, left at equal noise: "
            f"{left.text(1)} %",
            f"left under a likelihood blind to the scale: {optimal.text(1)} %",
        ),
    )


def _under(found: Interval, bound: float) -> bool | None:
    """Whether what an interval estimates is under a bound; None where it holds it."""
    return True if found.high < bound else False if found.low > bound else None


def _minus1_1_is_no_problem(study: Study) -> Entry:
    core = recipe(study.of("core"))
    beta = matched(core.results.finals)
    ours = {"norm": "minus1_1", "head": "tanh", "beta": beta}
    against = {
        "z-score with a linear head": linear("zscore", beta=beta),
        "[0, 1] with sigmoid": {"norm": "unit", "head": "sigmoid", "beta": beta},
    }
    found = judged(
        [
            contrast(core, f"[-1, 1] with tanh − {label}, {unit}", quantity, ours, where)
            for quantity, unit in ((PSNR, "PSNR"), (BITS, "calibrated"))
            for label, where in against.items()
        ]
    )
    near = [at_least(j) for j in found[:2]]
    return _entry(
        "It need not be a problem, since [-1,1] is also a normalization.",
        found,
        graded(near),
        f"it is shown to be less than {effects.margin('dB')} behind {near.count(True)} of "
        f"these {len(near)}",
    )


def _doubling_fits_tanh(study: Study) -> Entry:
    core = recipe(study.of("core"))
    faulty = zscored(core.results.finals)
    label = "z-scored inputs, tanh: target [-1, 1] − target z-scored"
    cost, gain = found = judged(
        [
            head_gap(core, "minus1_1", PSNR, "on [-1, 1]: tanh − linear"),
            contrast(core, label, PSNR, {**faulty, "target": "minus1_1"}, faulty),
        ]
    )
    fits, helps = at_least(cost), above(gain)
    return _entry(
        "Mapping U in (0,1) to 2U-1 fits tanh.",
        found,
        graded([fits, helps]),
        f"on [-1, 1], all of which lies in tanh's range by definition, it is "
        f"{_said(fits, 'level')} with a linear head; PSNR is {_said(helps, 'higher')} than "
        "with z-scored targets",
    )


def _standardizing_tanh_helps(study: Study) -> Entry:
    core = recipe(study.of("core"))
    finals = core.results.finals
    ours = zscored(finals, "tanh_standardized")
    family = [
        contrast(core, "tanh_standardized − tanh, PSNR", PSNR, ours, zscored(finals)),
        contrast(core, "tanh_standardized − tanh, calibrated", BITS, ours, zscored(finals)),
        *(
            contrast(core, f"tanh_standardized − {h}", PSNR, ours, zscored(finals, h))
            for h in ("tanh_rescaled", "linear")
        ),
    ]
    gain, _, stretched, base = found = judged(family)
    helps, level = above(gain), every([at_least(stretched), at_least(base)])
    return _entry(
        "If inputs must be standardized, standardizing tanh's output helps match the "
        "range.",
        found,
        graded([helps, level]) if helps else graded([helps]),
        f"over a plain tanh PSNR is {_said(helps, 'higher')}; with tanh_rescaled and a "
        f"linear head it is {_said(level, 'level')}",
    )


def _bounds_of_the_error(study: Study) -> Entry:
    published = recipe(study.of("balance"))
    family = [
        measured_factor(published, "unit", "minus1_1"),
        measured_factor(published, "unit", "minus1_1", over=2),
        against_theory(published, "unit", "minus1_1"),
    ]
    changed, two, theory = found = judged(family)
    changes = above(changed)
    return _entry(
        "The weight must change, because squared errors are bounded by 1 in the [0,1] case "
        "and by 2 in the [-1,1] case.",
        found,
        graded([changes, equal(two)]) if changes else graded([changes]),
        f"that β must rise is {_said(changes, 'seen')}; a factor of 2 is "
        f"{_said(equal(two), 'measured')}, theory's "
        f"{beta_factor(published, 'unit', 'minus1_1'):.2f} is "
        f"{_said(equal(theory), 'measured')} (by definition the bounds are 1 and 4)",
    )


def _kl_depends_on_the_encoder(study: Study) -> Entry:
    published = recipe(study.of("input_target"))
    target, _, source, _ = found = judged(answers.by_door(published, KL))
    by_target = None if target.decision == "undecided" else target.decision != EQUAL
    by_input = None if source.decision == "undecided" else source.decision != EQUAL
    unmoved = None if by_target is None else not by_target
    return _entry(
        "The KL term itself depends only on the encoder and the prior.",
        found,
        graded([False, by_input] if unmoved is False else [unmoved]),
        "the formula has nothing else in it, which is a definition and no evidence; what "
        f"training makes of it is {_said(by_target, 'moved')} by the target's scale at one "
        f"input and {_said(by_input, 'moved')} by the input's at one target",
    )


def _carries_over(study: Study) -> Entry:
    core = recipe(study.of("core"))
    norms = ("zscore", "minus1_1")
    here = judged([head_gap(core, norm) for norm in norms])
    found = judged([e for norm in norms for e in elsewhere(study, norm)])
    n = len(CONDITIONS)
    same = [
        _same(here[k // n], j) for k, j in enumerate(found)
    ]  # the first n are those of z-scored targets
    return _entry(
        "These points carry over to other networks.",
        found,
        graded(same),
        f"the decisions on tanh against a linear head are those of the base in "
        f"{same.count(True)} of {len(same)} cases: {', '.join(CONDITIONS.values())}, each "
        "on z-scored and on [-1, 1] targets; other kinds of networks were not tried",
    )


def _same(a: Judged, b: Judged) -> bool | None:
    """Whether two decisions agree; None where one is undecided."""
    if "undecided" in (a.decision, b.decision):
        return None
    return a.decision == b.decision


ENTRIES = (
    _tanh_on_zscored_is_harmful,
    _weight_changes_with_range,
    _because_squared_error_scales,
    _minus1_1_is_no_problem,
    _doubling_fits_tanh,
    _standardizing_tanh_helps,
    _bounds_of_the_error,
    _kl_depends_on_the_encoder,
    _carries_over,
)


def ledger(study: Study) -> list[Entry]:
    """The nine entries, in order, judged by the published tables of a study."""
    return [entry(study) for entry in ENTRIES]
