"""Differences between points of a sweep, paired over seeds, with bootstrap intervals."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from vae_sweep.errors import UserError

FEW = 6  # values, all of whose resamples are taken; of more, RESAMPLES at random
RESAMPLES = 9999
POINT = ("norm", "target", "head", "likelihood", "reduction", "beta", "other")


class Interval(NamedTuple):
    """An estimate with its confidence interval, from `n` values.

    `lost` counts seeds that are not among them because a run diverged.
    """

    estimate: float
    low: float
    high: float
    n: int
    lost: int = 0

    @property
    def sign(self) -> int:
        """-1 or 1 where the interval lies on one side of 0, else 0."""
        return int(self.low > 0) - int(self.high < 0)

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


def _decimal(value: float, digits: int, signed: bool) -> str:
    """With a true minus sign, and none before a zero."""
    rounded = round(value, digits) + 0.0
    text = f"{rounded:+.{digits}f}" if signed and rounded else f"{rounded:.{digits}f}"
    return text.replace("-", "−")


def bootstrap(
    values: Sequence[float] | np.ndarray, level: float = 0.95, lost: int = 0
) -> Interval:
    """The mean of independent values and its expanded percentile interval.

    Of five normal values the plain percentile interval covers the mean four times out
    of five. The percentiles are therefore taken as far out as those of Student's t
    (Hesterberg 2015, What teachers should know about the bootstrap, section 4.3), which
    covers it nine times out of ten; exact over all resamples of FEW values. One value
    has no interval: nan.
    """
    sample = np.asarray(values, dtype=float)
    n = len(sample)
    if n < 2 or not np.isfinite(sample).all():
        return Interval(
            float(sample.mean()) if n else math.nan, math.nan, math.nan, n, lost
        )
    if np.ptp(sample) == 0:  # nothing to resample
        same = float(sample[0])
        return Interval(same, same, same, n, lost)
    far = stats.t.ppf((1 + level) / 2, n - 1) * math.sqrt(n / (n - 1))
    tail = float(stats.norm.sf(far))
    if n <= FEW:
        means = np.mean(list(itertools.product(sample, repeat=n)), axis=1)
    else:
        rng = np.random.default_rng(0)
        means = rng.choice(sample, (RESAMPLES, n)).mean(axis=1)
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(float(sample.mean()), float(low), float(high), n, lost)


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
    if len(found.filter(items=list(POINT)).drop_duplicates()) > 1:
        others = ", ".join(map(repr, found["other"].unique()))
        raise UserError(f"a comparison needs one point, got several of {text}: {others}")
    return found[found["status"] == status]


def _diverged(finals: pd.DataFrame, *wheres: Mapping[str, Any]) -> int:
    """How many seeds one of the points lost."""
    lost = [set(of_point(finals, where, "diverged").index) for where in wheres]
    return len(set().union(*lost))


def mean(finals: pd.DataFrame, column: str, where: Mapping[str, Any]) -> Interval:
    """Of `column` over the seeds of one point."""
    values = of_point(finals, where)[column].to_numpy()
    return bootstrap(values, lost=_diverged(finals, where))


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
    finals: pd.DataFrame, column: str, a: Mapping[str, Any], b: Mapping[str, Any]
) -> Interval:
    """The interval of `paired`, in the unit of `column`."""
    values = paired(finals, column, a, b).to_numpy()
    return bootstrap(values, lost=_diverged(finals, a, b))


def table(
    finals: pd.DataFrame,
    points: Mapping[str, Mapping[str, Any]],
    columns: Mapping[str, tuple[str, int]],
) -> pd.DataFrame:
    """Means with intervals as text: a row per label of `points`, a column per label of
    `columns`, each of which names a column of finals and the decimals."""
    rows = {
        label: {
            name: mean(finals, column, where).text(digits)
            for name, (column, digits) in columns.items()
        }
        for label, where in points.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index")
