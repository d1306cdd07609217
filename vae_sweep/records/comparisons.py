"""Points of a sweep over their seeds: means, paired differences, decisions.

Intervals are Student's t. A difference is judged against a margin that was stated before
the runs, and several are judged together by Holm's step-down correction.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from scipy import special  # stats takes three times as long to import

from vae_sweep.errors import UserError
from vae_sweep.records import results

LEVEL = 0.95
POINT = ("norm", "target", "head", "likelihood", "reduction", "beta", "other")

Decision = Literal["higher", "lower", "equal within the margin", "undecided"]


class Interval(NamedTuple):
    """An estimate with its confidence interval of a `level`, from `n` values.

    `lost` counts seeds that are not among them because a run diverged.
    """

    estimate: float
    low: float
    high: float
    n: int
    lost: int = 0
    level: float = LEVEL

    @property
    def sign(self) -> int:
        """-1 or 1 where the interval lies on one side of 0, else 0."""
        return int(self.low > 0) - int(self.high < 0)

    def at(self, level: float) -> "Interval":
        """The interval of another level, of a mean that is in the unit of its values."""
        if self.n < 2 or not math.isfinite(self.low):
            return self._replace(level=level)
        half = self._error * _far(level, self.n)
        low, high = self.estimate - half, self.estimate + half
        return self._replace(low=low, high=high, level=level)

    @property
    def _error(self) -> float:
        """The standard error of the mean."""
        return (self.high - self.low) / 2 / _far(self.level, self.n)

    def decision(self, margin: float = 0.0) -> Decision:
        """What the interval says of a difference: `higher` where it lies above `margin`,
        `lower` below -`margin`, `equal within the margin` between the two.

        Each of the three is a one-sided test, of which only one can be wrong at a time, at
        (1 - level) / 2; equality is two of them at once (Schuirmann 1987). Any other
        interval is `undecided`: it fits too few values, or the truth is near the margin.

        References:
            Goeman, Solari & Stijnen 2010, Three-sided hypothesis testing.
        """
        if self.low > margin:
            return "higher"
        if self.high < -margin:
            return "lower"
        if -margin < self.low and self.high < margin:
            return "equal within the margin"
        return "undecided"

    def p_value(self, margin: float = 0.0) -> float:
        """The least 1 - level at which `decision` is not `undecided`; 1 where there is no
        interval."""
        if self.n < 2 or not math.isfinite(self.low):
            return 1.0
        above, below = self.estimate - margin, self.estimate + margin
        if self.low == self.high:
            return float(above == 0 or below == 0)
        t = max(above, -below, min(-above, below)) / self._error
        return min(2 * float(special.stdtr(self.n - 1, -t)), 1.0)

    def mapped(self, rising: Callable[[float], float]) -> "Interval":
        """In another unit, by a function that rises."""
        return self._replace(
            estimate=rising(self.estimate), low=rising(self.low), high=rising(self.high)
        )

    def text(self, digits: int = 2, signed: bool = False) -> str:
        """`-3.28 [-3.30, -3.26]`, in `digits` decimals; one number where it is exact or
        of one seed, a dash where it is infinite or not known."""
        if not math.isfinite(self.estimate):
            return "–"
        estimate, low, high = (_decimal(v, digits, signed) for v in self[:3])
        left_out = f" (n = {self.n}, {self.lost} diverged)" if self.lost else ""
        if self.n == 1:
            return f"{estimate} (one seed)"
        if self.low == self.high:
            return estimate + left_out
        return f"{estimate} [{low}, {high}]{left_out}"


def exact(value: float) -> Interval:
    """What is known without measuring."""
    return Interval(value, value, value, 10**9)


@cache
def _far(level: float, n: int) -> float:
    """How many standard errors an interval of n values goes to either side."""
    return float(special.stdtrit(n - 1, (1 + level) / 2))


def _decimal(value: float, digits: int, signed: bool) -> str:
    """With a true minus sign, and none before a zero."""
    rounded = round(value, digits) + 0.0
    text = f"{rounded:+.{digits}f}" if signed and rounded else f"{rounded:.{digits}f}"
    return text.replace("-", "−")


def interval(
    values: Sequence[float] | np.ndarray, level: float = LEVEL, lost: int = 0
) -> Interval:
    """The mean of independent, roughly normal values and its Student's t interval.

    One value, or one that is not finite, has none: nan.
    """
    sample = np.asarray(values, dtype=float)
    n, mean = len(sample), float(sample.mean()) if len(sample) else math.nan
    if n < 2 or not np.isfinite(sample).all():
        return Interval(mean, math.nan, math.nan, n, lost, level)
    if np.ptp(sample) == 0:  # of which a mean may differ by rounding
        return Interval(sample[0], sample[0], sample[0], n, lost, level)
    half = float(sample.std(ddof=1)) / math.sqrt(n) * _far(level, n)
    return Interval(mean, mean - half, mean + half, n, lost, level)


def holm(
    family: Mapping[str, Interval], margins: Mapping[str, float], level: float = LEVEL
) -> dict[str, Interval]:
    """The differences of a family, each at the level at which Holm's step decides it.

    The least p-value of m is held against (1 - level) / m, the next against
    (1 - level) / (m - 1); from the first that is too large on, all are undecided. So the
    probability that any `decision(margin)` of the family is wrong is at most 1 - `level`.
    The intervals show these tests; they do not hold all truths at once.

    Args:
        family: Label -> difference, as measured.
        margins: Label -> margin, in the unit of its difference.
        level: That of the family.

    References:
        Holm 1979, A simple sequentially rejective multiple test procedure.
    """
    order = sorted(family, key=lambda label: family[label].p_value(margins[label]))
    left, adjusted = len(order), {}
    for label in order:
        allowed = (1 - level) / left
        adjusted[label] = family[label].at(1 - allowed)
        left -= adjusted[label].decision(margins[label]) != "undecided"
    return {label: adjusted[label] for label in family}


def holm_p_values(p_values: Sequence[float]) -> list[float]:
    """Adjusted by Holm: the least 1 - level of the family at which each is decided."""
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    steps = p[order] * np.arange(len(p), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return adjusted.tolist()


def of_point(
    finals: pd.DataFrame, where: Mapping[str, Any], status: str = "finished"
) -> pd.DataFrame:
    """The runs of one point that ended so, by seed.

    `where` gives columns of results.IDENTITY; `target` is `norm`, `likelihood` mse and
    `reduction` sum unless it says otherwise. Raises UserError where that fits no run
    that finished, or several points.
    """
    wanted = {"likelihood": "mse", "reduction": "sum", **where}
    wanted.setdefault("target", wanted["norm"])
    keep = np.ones(len(finals), dtype=bool)
    for column, value in wanted.items():
        keep &= (finals[column] == value).to_numpy()
    found = finals[keep].set_index("seed").sort_index()
    text = " ".join(f"{column}={value}" for column, value in wanted.items())
    if not (found["status"] == "finished").any():
        raise UserError(f"a comparison needs finished runs of {text}; this sweep has none")
    if len({*map(tuple, found.filter(items=list(POINT)).to_numpy())}) > 1:
        others = ", ".join(map(repr, found["other"].unique()))
        raise UserError(f"a comparison needs one point, got several of {text}: {others}")
    return found[found["status"] == status]


def diverged(finals: pd.DataFrame, *wheres: Mapping[str, Any]) -> int:
    """How many seeds one of the points lost."""
    if not (finals["status"] == "diverged").any():
        return 0
    lost = [set(of_point(finals, where, "diverged").index) for where in wheres]
    return len(set().union(*lost))


def mean(
    finals: pd.DataFrame, column: str, where: Mapping[str, Any], level: float = LEVEL
) -> Interval:
    """Of `column` over the seeds of one point."""
    values = of_point(finals, where)[column].to_numpy()
    return interval(values, level, diverged(finals, where))


def paired(
    finals: pd.DataFrame, column: str, a: Mapping[str, Any], b: Mapping[str, Any]
) -> pd.Series:
    """`column` of point `a` minus that of point `b`, by seed: the seeds that both have.

    Two points of one seed see the same batches and noise, so that what is common to
    them cancels.
    """
    difference = of_point(finals, a)[column] - of_point(finals, b)[column]
    return difference.dropna()


def difference(
    finals: pd.DataFrame,
    column: str,
    a: Mapping[str, Any],
    b: Mapping[str, Any],
    level: float = LEVEL,
) -> Interval:
    """The interval of `paired`, in the unit of `column`."""
    values = paired(finals, column, a, b).to_numpy()
    return interval(values, level, diverged(finals, a, b))


def table(
    finals: pd.DataFrame,
    points: Mapping[str, Mapping[str, Any]],
    columns: Mapping[str, tuple[str, int]],
) -> pd.DataFrame:
    """Means with t intervals as text: a row per label of `points`, a column per label of
    `columns`, each of which names a column of finals and the decimals."""
    rows = {
        label: {
            name: mean(finals, column, where).text(digits)
            for name, (column, digits) in columns.items()
        }
        for label, where in points.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index")


def over_seeds(
    finals: pd.DataFrame, columns: Mapping[str, tuple[str, int]] = results.NUMBERS
) -> pd.DataFrame:
    """A row per point of a sweep, whatever options it has: what tells it from the others,
    how many of its seeds finished, and means over them with t intervals as text.

    Args:
        finals: As of results.Results, or some of its rows.
        columns: Column of `finals` -> header and decimals, as results.numbers has them;
            those that no run has are left out.
    """
    there = {c: columns[c] for c in columns if c in finals and finals[c].notna().any()}
    rows = []
    for _, runs in finals.groupby(list(POINT), sort=False):
        ended = runs[runs["status"] == "finished"]
        lost = int((runs["status"] == "diverged").sum())
        texts = {
            header: interval(ended[column].to_numpy(), lost=lost).text(digits)
            for column, (header, digits) in there.items()
        }
        rows.append({**runs.iloc[0][[*POINT]], "seeds": len(ended), **texts})
    frame = pd.DataFrame(rows)
    kept = results.distinguishing(frame.assign(seed=0)).columns
    return frame.filter(items=[*kept, "seeds", *(header for header, _ in there.values())])
