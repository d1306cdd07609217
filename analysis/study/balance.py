"""What the balance of the two terms does: KL over beta, noise, and either scale."""

import math
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from study.effects import (
    Effect,
    Measure,
    Where,
    at_typed,
    effect,
    matched_labels,
)
from study.published import NORMS, Published
from vae_sweep.config import Norm
from vae_sweep.records.comparisons import Interval, interval, of_point
from vae_sweep.vae.normalize import fit

COLLAPSED = 0.5  # nats of KL, below which a run's latents carry nothing
EDGE = 1.05  # how far beyond a measured KL another may be, which the factor then extends to


def linear(norm: str, target: str | None = None, **more: Any) -> Where:
    """The point of a linear head; `more` are columns of finals."""
    return {"norm": norm, "head": "linear", "target": target or norm, **more}


def beta_factor(published: Published, a: Norm, b: Norm) -> float:
    """What to multiply beta by when the targets go from normalization `a` to `b`, so
    that the implied noise stays: (scale_a / scale_b)^2, where scale is what u - shift is
    divided by, and its square the channels' mean."""
    squares = [float(fit(norm, published.counts).scale.square().mean()) for norm in (a, b)]
    return squares[0] / squares[1]


def _along(at: NDArray, x: NDArray, y: NDArray) -> NDArray:
    """np.interp, whose first and last pieces go on beyond the ends; x rises."""
    piece = np.clip(np.searchsorted(x, at), 1, len(x) - 1)
    slope = (y[piece] - y[piece - 1]) / (x[piece] - x[piece - 1])
    return y[piece] + (at - x[piece]) * slope


def factor(a: str, b: str) -> Measure:
    """Logarithm of the factor on beta that gives normalization `b` the KL that `a` has, of
    linear heads, measured.

    Between the betas of the grid log KL is taken as linear in log beta, and so up to EDGE
    beyond its ends. The betas of `a` that count are the same for every seed: those whose
    mean KL is in that range, else the seeds that happen to be in it would decide. KL of
    less than a nat is left out, and a seed whose KL does not fall as beta rises has no
    factor.
    """

    def measure(finals: pd.DataFrame, split: str) -> pd.Series:
        curves = {norm: _kl_curves(finals, norm, f"{split}/kl") for norm in (a, b)}
        logs: dict[int, float] = {}
        seeds = curves[a].index.intersection(curves[b].index)
        wanted, offered = (curves[norm].loc[seeds] for norm in (a, b))
        mean, there = wanted.mean(), offered.mean()
        there = there[there > 1]
        counts = (mean > 1) & mean.between(there.min() / EDGE, there.max() * EDGE)
        for seed in seeds:
            asked, known = wanted.loc[seed, counts].dropna(), offered.loc[seed]
            known = known[known > 1]
            x, y = (np.log(np.asarray(v, float)) for v in (known.index, known))
            if len(asked) and len(y) > 1 and (np.diff(y) < 0).all():
                found = _along(np.log(asked.to_numpy(float)), y[::-1], x[::-1])
                logs[seed] = float(np.mean(found - np.log(np.asarray(asked.index, float))))
        return pd.Series(logs, dtype=float)

    return measure


def measured_factor(published: Published, a: Norm, b: Norm, over: float = 1) -> Effect:
    """`factor`, over a number that it may equal."""
    found = factor(a, b)
    label = f"factor on β from {a} to {b}" + (f", over {over:.2f}" if over != 1 else "")
    return effect(published, label, "×", lambda f, s: found(f, s) - math.log(over))


def against_theory(published: Published, a: Norm, b: Norm) -> Effect:
    """The measured factor over the theory's, scale^2."""
    return measured_factor(published, a, b, beta_factor(published, a, b))


def linear_runs(finals: pd.DataFrame, **where: str) -> pd.DataFrame:
    """Finished runs of linear heads by mse, whose target is the norm, and `where`."""
    keep = (finals["status"] == "finished") & (finals["head"] == "linear")
    keep &= (finals["likelihood"] == "mse") & (finals["norm"] == finals["target"])
    for column, value in where.items():
        keep &= finals[column] == value
    return finals[keep]


def _kl_curves(finals: pd.DataFrame, norm: str, column: str) -> pd.DataFrame:
    """KL of linear heads at typed betas, rows by seed, columns by beta."""
    runs = at_typed(linear_runs(finals, norm=norm, reduction="sum"))
    return runs.pivot_table(column, "seed", "beta_value").dropna()


def at_one(norm: str, target: str | None = None, **more: Any) -> Where:
    """The point of a linear head at a typed beta of 1."""
    return linear(norm, target, beta_value=1.0, **more)


def log_spread(finals: pd.DataFrame, split: str, **more: Any) -> pd.Series:
    """Largest minus least logarithm of the KL over normalizations, by seed, of the linear
    heads at `more`."""
    columns = [of_point(finals, linear(norm, **more))[f"{split}/kl"] for norm in NORMS]
    logs = np.log(pd.concat(columns, axis=1, join="inner"))
    return logs.max(axis=1) - logs.min(axis=1)


def kl_spread(finals: pd.DataFrame, **more: Any) -> Interval:
    """Percent by which the largest test KL over normalizations exceeds the least; the
    interval is that of the mean logarithm."""
    found = interval(log_spread(finals, "test", **more).dropna().to_numpy())
    return found.mapped(lambda log: 100 * math.expm1(log))


def spread_left(finals: pd.DataFrame, likelihood: str = "mse") -> Interval:
    """Percent of the log KL's spread over normalizations at beta = 1 that is left at
    equal noise: the mean over all matched ones whose KL is not collapsed, or the one that
    `likelihood` finds."""
    typed = log_spread(finals, "test", beta_value=1.0)
    if likelihood == "mse":
        labels = [b for b in matched_labels(finals) if not collapsed(finals, b)]
        spreads = [log_spread(finals, "test", beta=b) for b in labels]
        left = pd.concat(spreads, axis=1, join="inner").mean(axis=1)
    else:
        left = log_spread(finals, "test", beta_value=1.0, likelihood=likelihood)
    return interval((100 * left / typed).dropna().to_numpy())


def collapsed(finals: pd.DataFrame, label: str) -> bool:
    """Whether a linear head at this beta has a mean KL below COLLAPSED under some
    normalization."""
    runs = linear_runs(finals, beta=label)
    return bool(runs.groupby("norm")["test/kl"].mean().min() < COLLAPSED)
