"""Differences between points of a sweep, paired over seeds, with bootstrap intervals."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from vae_sweep.config import UserError

RESAMPLES = 9999
POINT = ("norm", "target", "head", "likelihood", "reduction", "beta", "other")


class Interval(NamedTuple):
    """An estimate with its confidence interval, from `n` values."""

    estimate: float
    low: float
    high: float
    n: int

    @property
    def sign(self) -> int:
        """-1 or 1 where the interval lies on one side of 0, else 0."""
        return int(self.low > 0) - int(self.high < 0)

    def scaled(self, factor: float) -> "Interval":
        """In another unit."""
        low, high = sorted((self.low * factor, self.high * factor))
        return Interval(self.estimate * factor, low, high, self.n)

    def text(self, digits: int = 2, signed: bool = False) -> str:
        """`-3.28 [-3.30, -3.26]`, in `digits` decimals; one number where it is exact,
        a dash where it is infinite or not known."""
        if not math.isfinite(self.estimate):
            return "–"
        estimate, low, high = (_decimal(v, digits, signed) for v in self[:3])
        return estimate if self.low == self.high else f"{estimate} [{low}, {high}]"


def _decimal(value: float, digits: int, signed: bool) -> str:
    """With a true minus sign, and none before a zero."""
    rounded = round(value, digits) + 0.0
    text = f"{rounded:+.{digits}f}" if signed and rounded else f"{rounded:.{digits}f}"
    return text.replace("-", "−")


def bootstrap(values: Sequence[float] | np.ndarray, level: float = 0.95) -> Interval:
    """The mean of independent values and its expanded percentile interval.

    The plain percentile interval of five values covers their mean four times out of
    five. Its tails are therefore taken as far out as those of Student's t (Hesterberg
    2015, What teachers should know about the bootstrap, section 4.3): the ends are those
    of the sample where it is that small. One value has no interval: nan.
    """
    sample = np.asarray(values, dtype=float)
    n = len(sample)
    if n < 2 or not np.isfinite(sample).all():
        mean = float(sample.mean()) if n else math.nan
        return Interval(mean, math.nan, math.nan, n)
    if np.ptp(sample) == 0:  # nothing to resample
        same = float(sample[0])
        return Interval(same, same, same, n)
    far = stats.t.ppf((1 + level) / 2, n - 1) * math.sqrt(n / (n - 1))
    tail = max(float(stats.norm.sf(far)), 1e-9)  # of two values: their two ends
    found = stats.bootstrap(
        (sample,),
        np.mean,
        confidence_level=1 - 2 * tail,
        n_resamples=RESAMPLES,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return Interval(float(sample.mean()), float(found.low), float(found.high), n)


def of_point(finals: pd.DataFrame, where: Mapping[str, Any]) -> pd.DataFrame:
    """The finished runs of one point, by seed.

    `where` gives columns of results.IDENTITY; `target` is `norm`, `likelihood` mse and
    `reduction` sum unless it says otherwise. Raises UserError where that fits no run, or
    several points.
    """
    wanted = {"likelihood": "mse", "reduction": "sum", **where}
    wanted.setdefault("target", wanted["norm"])
    keep = (finals["status"] == "finished").to_numpy()
    for column, value in wanted.items():
        keep = keep & (finals[column] == value).to_numpy()
    found = finals[keep].set_index("seed").sort_index()
    text = " ".join(f"{column}={value}" for column, value in wanted.items())
    if not len(found):
        raise UserError(f"a comparison needs finished runs of {text}; this sweep has none")
    if len(found.filter(items=list(POINT)).drop_duplicates()) > 1:
        others = ", ".join(map(repr, found["other"].unique()))
        raise UserError(f"a comparison needs one point, got several of {text}: {others}")
    return found


def mean(finals: pd.DataFrame, column: str, where: Mapping[str, Any]) -> Interval:
    """Of `column` over the seeds of one point."""
    return bootstrap(of_point(finals, where)[column].to_numpy())


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
    return bootstrap(paired(finals, column, a, b).to_numpy())


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
