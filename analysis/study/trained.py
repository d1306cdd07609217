"""Are the networks trained? Each run against the optimum of a linear VAE at its noise."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

from study.balance import COLLAPSED
from vae_sweep.records import results

BITS, PSNR = "bits_per_dim_calibrated", "psnr"
CLIPPED = {BITS: "bits_per_dim_clipped", PSNR: "psnr_clipped"}


class Share(NamedTuple):
    """How many of `runs` pass the linear optimum on the test split."""

    runs: int
    bits: int
    psnr: int

    def __str__(self) -> str:
        if not self.runs:
            return "no run is comparable with the linear optimum"
        bits, psnr = (f"{n / self.runs:.0%}" for n in (self.bits, self.psnr))
        return f"{bits} of {self.runs} runs pass it in calibrated bits, {psnr} in PSNR"


def compared(finals: pd.DataFrame) -> pd.DataFrame:
    """A row per run that has a linear optimum to pass: whose head reaches every target,
    whose optimum has an active unit, and with beta > 0. Runs of a capped head belong to
    them where the optimum clipped to the head's range is known.

    Columns: results.IDENTITY, status, `bits` and `psnr` (whether they pass), `short` of
    the optimum in bits per dim (positive is worse) and `kl`.
    """
    bars = {q: _bar(finals, q) for q in (BITS, PSNR)}
    keep = (finals["predicted_active_units"] >= 1) & bars[BITS].notna()
    keep &= finals["beta_value"] != 0
    bits, psnr = (_column(finals, f"test/{q}") for q in (BITS, PSNR))
    frame = finals.filter(items=[*results.IDENTITY, "status"]).assign(
        capped=np.isfinite(finals["psnr_cap"]),
        bits=bits < bars[BITS],
        psnr=psnr > bars[PSNR],
        short=bits - bars[BITS],
        kl=_column(finals, "test/kl"),
    )
    return frame[keep]


def _bar(finals: pd.DataFrame, quantity: str) -> pd.Series:
    """What a linear VAE reaches at its optimum, clipped to the head's range where that is
    capped."""
    clipped = _column(finals, f"predicted_{CLIPPED[quantity]}")
    return finals[f"predicted_{quantity}"].where(np.isinf(finals["psnr_cap"]), clipped)


def without_optimum(finals: pd.DataFrame) -> int:
    """How many runs have no such optimum: their likelihood's has no closed form."""
    return int(_bar(finals, BITS).isna().sum())


def _column(finals: pd.DataFrame, name: str) -> pd.Series:
    return finals.get(name, pd.Series(np.nan, index=finals.index))


def share(sweeps: Iterable[pd.DataFrame], capped: bool = False) -> Share:
    """Of the finished runs of several sweeps' finals whose head is not capped, or is."""
    frames = [compared(sweep) for sweep in sweeps]
    runs = pd.concat(
        [f[(f["status"] == "finished") & (f["capped"] == capped)] for f in frames]
    )
    return Share(len(runs), int(runs["bits"].sum()), int(runs["psnr"].sum()))


def failures(sweeps: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """The points of which a run does not pass, with the reason; nothing is left out.

    A row per experiment, point and reason: how many runs, and how far the mean of them is
    from the optimum in bits per dim.
    """
    rows = []
    for name, sweep in sweeps.items():
        frame = compared(sweep)
        ended = frame["status"] == "finished"
        reason = pd.Series("below the optimum", index=frame.index)
        reason = reason.where(frame["kl"] >= COLLAPSED, f"KL below {COLLAPSED} nats")
        reason = reason.where(ended, frame["status"])
        failed = frame.assign(reason=reason)[~(ended & frame["bits"])]
        labels = results.labels(frame.assign(seed=0)) if len(frame) else {}
        failed = failed.assign(point=failed["run_id"].map(labels))
        for (point, why), runs in failed.groupby(["point", "reason"], sort=False):
            of = int((frame["run_id"].map(labels) == point).sum())
            short = f"{runs['short'].mean():.3f}"
            rows.append((name, point, f"{len(runs)} of {of}", why, short))
    columns = ["experiment", "point", "runs", "reason", "bits per dim short of it"]
    return pd.DataFrame(rows, columns=columns)
