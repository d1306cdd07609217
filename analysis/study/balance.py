"""What the balance of the two terms does: KL over beta, noise, and either scale."""

import math
from typing import Any

import numpy as np
import pandas as pd

from study.published import NORMS, Published
from vae_sweep.config import Norm
from vae_sweep.errors import UserError
from vae_sweep.records.comparisons import Interval, difference, interval, of_point
from vae_sweep.vae.normalize import fit


def matched_labels(finals: pd.DataFrame) -> list[str]:
    """The labels of beta=matched in a sweep, the noise rising.

    Raises UserError where there is none.
    """
    labels = {beta for beta in finals["beta"] if beta.startswith("matched")}
    if not labels:
        raise UserError(
            "a comparison at equal noise needs beta=matched; this sweep has none"
        )
    return sorted(labels, key=lambda label: float(label.removeprefix("matched")))


def matched(finals: pd.DataFrame) -> str:
    """The middle one of them."""
    labels = matched_labels(finals)
    return labels[len(labels) // 2]


def linear(norm: str, beta: str, target: str | None = None) -> dict[str, str]:
    """The point of a linear head."""
    where = {"norm": norm, "head": "linear", "beta": beta}
    return where | ({"target": target} if target else {})


def beta_factor(published: Published, a: Norm, b: Norm) -> float:
    """What to multiply beta by when the targets go from normalization `a` to `b`, so
    that the implied noise stays: (scale_a / scale_b)^2, where scale is what u - shift is
    divided by, and its square the channels' mean."""
    squares = [float(fit(norm, published.counts).scale.square().mean()) for norm in (a, b)]
    return squares[0] / squares[1]


def measured_factor(finals: pd.DataFrame, a: str, b: str) -> Interval:
    """The factor on beta that gives normalization `b` the KL that `a` has, measured.

    Between the betas of the grid log KL is taken as linear in log beta; KL of less than
    a nat is left out. The interval is that of the mean logarithm over seeds, and knows
    nothing of the interpolation; nan where the KL does not fall as beta rises.
    """
    curves = {norm: _kl_curves(finals, norm) for norm in (a, b)}
    logs: list[float] = []
    for seed in curves[a].index.intersection(curves[b].index):
        wanted, offered = (curves[norm].loc[seed] for norm in (a, b))
        offered = offered[offered > 1]
        x, y = np.log(offered.index.to_numpy(float)), np.log(offered.to_numpy(float))
        inside = wanted[
            (wanted > 1) & (wanted <= offered.max()) & (wanted >= offered.min())
        ]
        if len(inside) == 0 or (np.diff(y) >= 0).any():
            return Interval(math.nan, math.nan, math.nan, 0)
        found = np.interp(np.log(inside), y[::-1], x[::-1])
        logs.append(float(np.mean(found - np.log(inside.index.to_numpy(float)))))
    return interval(logs).mapped(math.exp)


def linear_runs(finals: pd.DataFrame, **where: Any) -> pd.DataFrame:
    """Finished runs of linear heads by mse, whose target is the norm, and `where`."""
    keep = (finals["status"] == "finished") & (finals["head"] == "linear")
    keep &= (finals["likelihood"] == "mse") & (finals["norm"] == finals["target"])
    for column, value in where.items():
        keep &= finals[column] == value
    return finals[keep]


def constant_betas(finals: pd.DataFrame) -> pd.DataFrame:
    """The runs at a constant beta above 0, which has a logarithm."""
    return finals[pd.to_numeric(finals["beta"], errors="coerce") > 0]


def _kl_curves(finals: pd.DataFrame, norm: str) -> pd.DataFrame:
    """Test KL of linear heads at constant betas, rows by seed, columns by beta."""
    runs = constant_betas(linear_runs(finals, norm=norm, reduction="sum"))
    return runs.pivot_table("test/kl", "seed", "beta_value").dropna()


def _log_spread(finals: pd.DataFrame, beta: str, likelihood: str = "mse") -> pd.Series:
    """Largest minus least logarithm of the test KL over normalizations, by seed."""
    columns = [
        of_point(finals, {**linear(norm, beta), "likelihood": likelihood})["test/kl"]
        for norm in NORMS
    ]
    logs = np.log(pd.concat(columns, axis=1, join="inner"))
    return logs.max(axis=1) - logs.min(axis=1)


def kl_spread(finals: pd.DataFrame, beta: str, likelihood: str = "mse") -> Interval:
    """Percent by which the largest test KL over normalizations exceeds the least; the
    interval is that of the mean logarithm."""
    found = interval(_log_spread(finals, beta, likelihood).dropna().to_numpy())
    return found.mapped(lambda log: 100 * math.expm1(log))


def kl_spread_left(finals: pd.DataFrame, likelihood: str = "mse") -> Interval:
    """Percent of the log KL's spread over normalizations at beta = 1 that is left at
    equal noise: the mean over all matched ones, or the one that `likelihood` finds."""
    at_one = _log_spread(finals, "1")
    if likelihood == "mse":
        spreads = [_log_spread(finals, beta) for beta in matched_labels(finals)]
        left = pd.concat(spreads, axis=1, join="inner").mean(axis=1)
    else:
        left = _log_spread(finals, "1", likelihood)
    return interval((100 * left / at_one).dropna().to_numpy())


def by_door(finals: pd.DataFrame) -> dict[str, Interval]:
    """Nats of test KL at beta = 1 that z-scoring adds: of the target under either input,
    and of the input under either target."""
    corner = {
        (norm, target): linear(norm, "1", target)
        for norm in ("unit", "zscore")
        for target in ("unit", "zscore")
    }
    pairs = {
        "target z-scored, input [0, 1]": (("unit", "zscore"), ("unit", "unit")),
        "target z-scored, input z-scored": (("zscore", "zscore"), ("zscore", "unit")),
        "input z-scored, target [0, 1]": (("zscore", "unit"), ("unit", "unit")),
        "input z-scored, target z-scored": (("zscore", "zscore"), ("unit", "zscore")),
    }
    return {
        said: difference(finals, "test/kl", corner[a], corner[b])
        for said, (a, b) in pairs.items()
    }
