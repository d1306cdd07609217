"""Effects of the study: differences paired over seeds, judged in families against margins.

What is compared is the test split at the end of training; beside it stands what the
validation images say at half of training and at its end.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from study.published import Published
from vae_sweep.errors import UserError
from vae_sweep.records import comparisons
from vae_sweep.records.comparisons import Decision, Interval, interval, of_point

# the smallest difference that matters, by unit, as the experiments' headers state it
MARGINS = {"dB": 0.3, "bits/dim": 0.02, "×": 1.05}
DIGITS = {"dB": 2, "bits/dim": 3, "×": 2}
SETTLED = 1 / 3  # of the margin: an effect that moved less since half of training

PSNR, BITS, KL = "psnr", "bits_per_dim_calibrated", "kl"
UNITS = {PSNR: "dB", BITS: "bits/dim", KL: "×"}

Where = Mapping[str, Any]
Measure = Callable[[pd.DataFrame, str], pd.Series]  # finals, split -> value by seed


class Effect(NamedTuple):
    """A difference, one value per seed; of a ratio (unit ×) its logarithm.

    `half` and `end` are the same on validation images, at half of training and at its end.
    `lost` counts seeds that diverged.
    """

    said: str
    unit: str
    by_seed: pd.Series
    half: pd.Series
    end: pd.Series
    lost: int = 0

    @property
    def margin(self) -> float:
        """In the unit of `by_seed`."""
        margin = MARGINS[self.unit]
        return math.log(margin) if self.unit == "×" else margin


class Judged(NamedTuple):
    """An effect with its interval at 95 %, what Holm's correction within its family leaves,
    and what became of it since half of training.

    `shown` and `held` are in the effect's unit, the latter at the level of Holm's step;
    `p` is the adjusted p-value, `decision` against the margin. `change` is that of the
    effect's size.
    """

    effect: Effect
    shown: Interval
    held: Interval
    p: float
    decision: Decision
    half: Interval
    end: Interval
    change: Interval
    moves: str

    @property
    def text(self) -> str:
        """`−1.73 [−1.76, −1.68] dB`, at 95 %."""
        return said(self.shown, self.effect.unit)

    @property
    def size(self) -> str:
        """The same without sign and lost seeds, for a sentence that says which way."""
        estimate, low, high = self.shown[:3]
        if estimate < 0:
            estimate, low, high = -estimate, -high, -low
        found = self.shown._replace(estimate=estimate, low=low, high=high, lost=0)
        return f"{found.text(DIGITS[self.effect.unit])} {self.effect.unit}"

    @property
    def short(self) -> str:
        """The estimate alone."""
        estimate = comparisons.exact(self.shown.estimate)
        return estimate.text(DIGITS[self.effect.unit], self.effect.unit != "×")


def said(found: Interval, unit: str) -> str:
    """An interval with its unit; a ratio is no difference and has no plus sign."""
    if not math.isfinite(found.estimate):
        return "not measured"
    text = found.text(DIGITS[unit], signed=unit != "×")
    return f"×{text}" if unit == "×" else f"{text} {unit}"


def judged(family: Sequence[Effect]) -> list[Judged]:
    """Decides the effects of a family, by Holm's correction within it."""
    found = [interval(e.by_seed.to_numpy(), lost=e.lost) for e in family]
    margins = [e.margin for e in family]
    held = _holm(found, margins)
    p = comparisons.holm_p_values(
        [i.p_value(m) for i, m in zip(found, margins, strict=True)]
    )
    changes = [_change(e) for e in family]
    moved = _holm(changes, [SETTLED * m for m in margins])
    return [
        Judged(
            effect=effect,
            shown=_in_unit(found[k], effect.unit),
            held=_in_unit(held[k], effect.unit),
            p=p[k],
            decision=held[k].decision(effect.margin),
            half=_in_unit(interval(effect.half.to_numpy()), effect.unit),
            end=_in_unit(interval(effect.end.to_numpy()), effect.unit),
            change=_in_unit(changes[k], effect.unit),
            moves=MOVES[moved[k].decision(SETTLED * effect.margin)],
        )
        for k, effect in enumerate(family)
    ]


MOVES: Mapping[Decision, str] = {
    "higher": "still grows",
    "lower": "shrinks",
    "equal within the margin": "settled",
    "undecided": "–",
}


def _holm(found: Sequence[Interval], margins: Sequence[float]) -> list[Interval]:
    labels = [str(k) for k in range(len(found))]
    family = dict(zip(labels, found, strict=True))
    adjusted = comparisons.holm(family, dict(zip(labels, margins, strict=True)))
    return [adjusted[label] for label in labels]


def _change(effect: Effect) -> Interval:
    """By how much the size of an effect rose since half of training."""
    change = (effect.end - effect.half).dropna()
    sign = -1 if effect.end.mean() < 0 else 1
    return interval(sign * change.to_numpy())


def _in_unit(found: Interval, unit: str) -> Interval:
    return found.mapped(math.exp) if unit == "×" else found


def snapshot(published: Published, share: float) -> pd.DataFrame:
    """Finals whose columns val/ are those of the evaluation nearest to a share of each
    run's steps."""
    finals, curves = published.results.finals, published.results.curves
    last = curves.groupby("run_id")["step"].transform("max")
    off = (curves["step"] - share * last).abs()
    nearest = curves.loc[off.groupby(curves["run_id"]).idxmin()]
    seen = nearest.filter(regex=r"^(run_id|val/.*)$")
    return finals.filter(regex=r"^(?!val/)").merge(seen, on="run_id")


def effect(
    published: Published, said: str, unit: str, measure: Measure, *points: Where
) -> Effect:
    """An effect as it is measured; diverged seeds of `points` count as lost."""
    finals = published.results.finals
    by_seed, half, end = (
        measure(frame, split).dropna().astype(float)
        for frame, split in (
            (finals, "test"),
            (snapshot(published, 0.5), "val"),
            (finals, "val"),
        )
    )
    lost = comparisons.diverged(finals, *points) if points else 0
    return Effect(said, unit, by_seed, half, end, lost)


def contrast(
    published: Published, said: str, quantity: str, a: Where, b: Where, of_b: str = ""
) -> Effect:
    """`quantity` of point a minus that of point b (or b's `of_b`); of a KL the ratio.

    Without values, hence without a decision, where the runs did not measure it.
    """
    unit = UNITS[quantity.removesuffix("_tanh_range").replace("_iw_", "_")]

    def measure(frame: pd.DataFrame, split: str) -> pd.Series:
        first = _values(frame, a, f"{split}/{quantity}", unit)
        return first - _values(frame, b, f"{split}/{of_b or quantity}", unit)

    return effect(published, said, unit, measure, a, b)


def minus(a: Effect, b: Effect, said: str) -> Effect:
    """What one effect has over another, by seed."""
    by_seed, half, end = (
        (first - second).dropna() for first, second in zip(a[2:5], b[2:5], strict=True)
    )
    return Effect(said, a.unit, by_seed, half, end, max(a.lost, b.lost))


def _values(frame: pd.DataFrame, where: Where, column: str, unit: str) -> pd.Series:
    runs = of_point(frame, where)
    values = runs[column] if column in runs else pd.Series(dtype=float)
    return values.map(math.log) if unit == "×" else values


def at_noise(finals: pd.DataFrame) -> pd.DataFrame:
    """The runs whose beta was solved for a noise, rather than typed."""
    return finals[finals["beta"].str.contains("matched")]


def at_typed(finals: pd.DataFrame) -> pd.DataFrame:
    """The runs whose beta was typed and is above 0, which has a logarithm."""
    return finals[~finals["beta"].str.contains("matched") & (finals["beta_value"] > 0)]


def matched_labels(finals: pd.DataFrame) -> list[str]:
    """The labels of beta at a matched noise, the noise rising.

    Raises UserError where there is none.
    """
    runs = at_noise(finals)
    if runs.empty:
        raise UserError(
            "a comparison at equal noise needs beta=matched; this sweep has none"
        )
    return [
        str(label)
        for label in runs.groupby("beta")["implied_sigma"].min().sort_values().index
    ]


def matched(finals: pd.DataFrame) -> str:
    """That of most runs, the middle one where several are that many."""
    labels = matched_labels(finals)
    counts = finals["beta"].value_counts()
    most = [label for label in labels if counts[label] == counts[labels].max()]
    return most[(len(most) - 1) // 2]


def noise(finals: pd.DataFrame, label: str) -> str:
    """The noise of a label in 8-bit levels: `σ = 30`."""
    return f"σ = {finals[finals['beta'] == label]['implied_sigma'].min():.3g}"


def recipe(published: Published) -> Published:
    """The runs with the settings, among those without a column of their own, that most
    runs have: all of them but in a sweep of several experiments."""
    finals = published.results.finals
    most = finals["other"].mode().iloc[0]
    return restricted(published, finals["other"] == most)


def restricted(published: Published, keep: pd.Series) -> Published:
    """Some of the runs; `keep` is by row of finals."""
    results = published.results
    finals = results.finals[keep]
    curves = results.curves[results.curves["run_id"].isin(finals["run_id"])]
    return published._replace(results=type(results)(curves, finals, results.theory))


def joined(a: Published, b: Published) -> Published:
    """The runs of two sweeps; of one where both are the same."""
    if a is b:
        return a
    (curves, finals, theory), (other_curves, other_finals, _) = (
        (p.results.curves, p.results.finals, p.results.theory) for p in (a, b)
    )
    finals = pd.concat([finals, other_finals], ignore_index=True)
    curves = pd.concat([curves, other_curves], ignore_index=True)
    return a._replace(results=type(a.results)(curves, finals, theory))


def settings(finals: pd.DataFrame, word: str) -> pd.Series:
    """Whether `word` is among each run's settings that have no column of their own."""
    has = [word in str(other).split() for other in finals["other"]]
    return pd.Series(has, index=finals.index)


def variant(published: Published, said: str, quantity: str, where: Where, base: str):
    """Point `where` without the setting `base` minus the one with it."""

    def chosen(frame: pd.DataFrame, has: bool) -> pd.DataFrame:
        part = frame[settings(frame, base) == has]
        return part[part["other"] == part["other"].mode().iloc[0]]

    def measure(frame: pd.DataFrame, split: str) -> pd.Series:
        other, own = (
            _values(chosen(frame, has), where, f"{split}/{quantity}", UNITS[quantity])
            for has in (False, True)
        )
        return other - own

    return effect(published, said, UNITS[quantity], measure)


HEADER = (
    "| comparison | difference [95 %] | p (Holm) | decision | by seed | half → end (val) "
    "| since half |\n|---|---|---|---|---|---|---|"
)


def rows(family: Sequence[Judged]) -> str:
    """A table in Markdown, an effect per line."""
    return "\n".join([HEADER, *map(_row, family)])


def _row(j: Judged) -> str:
    unit, digits = j.effect.unit, DIGITS[j.effect.unit]
    values = np.exp(j.effect.by_seed) if unit == "×" else j.effect.by_seed
    seeds = ", ".join(comparisons.exact(v).text(digits, unit != "×") for v in values)
    course = f"{said(j.half, unit)} → {said(j.end, unit)}"
    decision = j.decision.replace("the margin", margin(unit))
    cells = (j.effect.said, j.text, f"{j.p:.2g}", decision, seeds, course, j.moves)
    return f"| {' | '.join(cells)} |"


def margin(unit: str) -> str:
    """A unit's margin in words: `0.3 dB`, `10 %`."""
    if unit == "×":
        return f"{100 * (MARGINS[unit] - 1):.0f} %"
    return f"{MARGINS[unit]:g} {unit}"


def markdown(frame: pd.DataFrame, first: str = "") -> str:
    """A frame with text in its cells as a table, its index as the first column."""
    lines = [
        f"| {first} | {' | '.join(map(str, frame.columns))} |",
        f"|---|{'---|' * len(frame.columns)}",
    ]
    lines += [
        f"| {label} | {' | '.join(map(str, row))} |"
        for label, row in zip(frame.index, frame.to_numpy(), strict=True)
    ]
    return "\n".join(lines)
