"""Run folders as tidy tables: every evaluation, every run's end, and the final table."""

import io
import json
import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import yaml
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vae_sweep.config import RunConfig, UserError, validate

# what tells the runs of a sweep apart: the first columns of every frame
IDENTITY = (
    *("run_id", "norm", "target", "head", "likelihood", "reduction", "beta", "seed"),
    "other",
)

# column of `finals` -> column of `table`, and the digits printed
NUMBERS = {
    "implied_sigma": ("sigma (8-bit)", 0),
    "psnr_cap_val": ("PSNR cap (dB)", 2),
    "val/psnr": ("val PSNR (dB)", 2),
    "predicted_psnr": ("pred. PSNR", 2),
    "val/kl": ("KL (nats)", 1),
    "predicted_kl": ("pred. KL", 1),
    "val/active_units": ("active units", 0),
    "predicted_active_units": ("pred. units", 0),
    "val/bits_per_dim_calibrated": ("calibrated bits/dim", 3),
}
DIGITS = dict(NUMBERS.values())
PREDICTED = (  # fields of predictions.Prediction that finals has as predicted_<name>
    *("floor_mse", "floor_mse_pixel", "sigma", "beta_pixel", "active_units", "kl"),
    *("mse_pixel", "psnr", "bits_per_dim", "bits_per_dim_calibrated"),
)
DRAWN = (
    *("step", "epoch", "val/mse_pixel", "val/kl", "val/elbo", "val/psnr"),
    *("val/elbo_discrete", "val/sigma"),
)
NEAR_CAP = 0.3  # dB
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's, tens of times faster
PREDICTIONS = ("pred. PSNR", "pred. KL", "pred. units")  # not printed where narrow


class Results(NamedTuple):
    """What the runs of a sweep measured.

    `curves` has a row per run and evaluation: IDENTITY, then the columns of metrics.csv.
    `finals` has a row per run: IDENTITY, status (finished, diverged, running),
    diverged_at (step), implied_sigma (8-bit levels), beta_value, psnr_cap (dB, inf
    without a floor) of the training split, psnr_cap_val and psnr_cap_test of the others,
    predicted_<name> of PREDICTED, seconds, device, then the columns of metrics.csv at the
    last finite row. `target` is resolved, `beta` is the
    schedule's label, and `other` states whatever else differs within the sweep. nan is
    not known. `theory` has a row per run and point of the curve of linear VAEs at
    their optimum, the noise falling: run_id, kl (nats per image), psnr (dB).
    """

    curves: pd.DataFrame
    finals: pd.DataFrame
    theory: pd.DataFrame


def load(folder: Path | str, run_ids: Sequence[str] | None = None) -> Results:
    """Reads the run folders in `folder`, runs/<sweep>; whole rows of unfinished ones too.

    Runs come in the order of `run_ids`, which also restricts them, else by name.
    Raises UserError where there is no such folder or run.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"results are read from runs/<sweep>; there is no folder {folder}")
    found = sorted(path.parent.name for path in folder.glob("[!.]*/config.yaml"))
    if not found:
        raise UserError(f"no sub-folder of {folder} has a config.yaml: it holds no runs")
    chosen = found if run_ids is None else list(dict.fromkeys(run_ids))
    missing = [run_id for run_id in chosen if run_id not in found]
    if missing or not chosen:
        raise UserError(
            f"asked for run {', '.join(missing) or 'none'}; {folder} holds {len(found)} "
            f"runs, the first of which is {found[0]}"
        )
    configs = [read_config(folder / run_id) for run_id in chosen]
    curves, finals, theory = [], [], []
    for run_id, identity in zip(chosen, _identities(chosen, configs), strict=True):
        rows, summary = _rows(folder / run_id), read_summary(folder / run_id)
        curves.append(pd.DataFrame({**identity, **rows}, index=rows.index))
        finals.append(identity | _final(summary, rows))
        kl, psnr = (summary.get("predicted") or {}).get("curve") or ([], [])
        theory.append(pd.DataFrame({"run_id": [run_id] * len(kl), "kl": kl, "psnr": psnr}))
    frames = [frame for frame in curves if len(frame)] or curves[:1]
    return Results(
        _with_columns(pd.concat(frames, ignore_index=True), DRAWN),
        _with_columns(pd.DataFrame(finals), (*DRAWN, *NUMBERS)),
        pd.concat(theory, ignore_index=True).astype({"kl": float, "psnr": float}),
    )


def identities(configs: Sequence[RunConfig]) -> pd.DataFrame:
    """A row of IDENTITY per config."""
    return pd.DataFrame(_identities([config.run_id for config in configs], configs))


def read_config(folder: Path) -> RunConfig:
    """The configuration of a run; UserError where it is none."""
    path = folder / "config.yaml"
    try:
        return validate(yaml.load(path.read_text(), LOADER))
    except (UserError, yaml.YAMLError, ValueError) as error:
        said = str(error).partition("\n")[0]
        raise UserError(
            f"{path} is no run's configuration ({said}); remove the run's folder"
        ) from None


def _identities(ids: Sequence[str], configs: Sequence[RunConfig]) -> list[dict[str, Any]]:
    """IDENTITY -> value per run; folders may have been renamed, so `ids` are given."""
    return [
        {
            "run_id": run_id,
            "norm": config.norm,
            "target": config.target_norm,
            "head": config.head,
            "likelihood": config.likelihood,
            "reduction": config.reduction,
            "beta": config.beta.label,
            "seed": config.seed,
            "other": other,
        }
        for run_id, config, other in zip(ids, configs, _others(configs), strict=True)
    ]


def _others(configs: Sequence[RunConfig]) -> list[str]:
    """Per run the settings that differ between runs and have no column of their own."""
    own = {*IDENTITY, "beta.name", "beta.value", "beta.sigma", "beta.beta_norm"}
    runs = [flattened(config.decisive) for config in configs]
    values: dict[str, set[str]] = {}
    for run in runs:
        for key, value in run.items():
            values.setdefault(key, set()).add(value)
    differing = [key for key, seen in values.items() if len(seen) > 1 and key not in own]
    return [
        " ".join(
            run[key] if key.endswith(".name") else f"{_short(key)}={run[key]}"
            for key in differing
            if key in run
        )
        for run in runs
    ]


def _short(key: str) -> str:
    return key.removeprefix("model.").removeprefix("train.")


def flattened(section: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """{"model": {"latent": 16}} as {"model.latent": "16"}."""
    flat: dict[str, str] = {}
    for key, value in section.items():
        if isinstance(value, dict):
            flat |= flattened(value, f"{prefix}{key}.")
        elif isinstance(value, str):
            flat[prefix + key] = value
        else:
            flat[prefix + key] = json.dumps(value, separators=(",", ":"))
    return flat


def _rows(folder: Path) -> pd.DataFrame:
    """The whole lines of metrics.csv; a torn last one has no line end."""
    path = folder / "metrics.csv"
    kinds: Any = defaultdict(lambda: "float64", step="int64")
    try:
        text = path.read_text() if path.exists() else ""
        whole = text[: text.rfind("\n") + 1]
        if not whole:
            return pd.DataFrame({"step": pd.Series(dtype="int64")})
        rows = pd.read_csv(io.StringIO(whole), dtype=kinds)
    except ValueError as error:  # no text, no table, no numbers
        said = str(error).partition("\n")[0]
        raise UserError(
            f"{path} is damaged ({said}); remove the run's folder to repeat it"
        ) from None
    if "step" not in rows:
        raise UserError(f"{path} has no column step; remove the run's folder to repeat it")
    return rows


def read_summary(folder: Path) -> dict[str, Any]:
    """The summary of a run that ended; empty for others."""
    try:
        summary = json.loads((folder / "summary.json").read_text())
    except (OSError, ValueError):  # none yet
        return {}
    ended = isinstance(summary, dict) and summary.get("status") in ("finished", "diverged")
    return summary if ended else {}


def _final(summary: dict[str, Any], rows: pd.DataFrame) -> dict[str, Any]:
    predicted = summary.get("predicted") or {}
    last = rows.iloc[-1].to_dict() if len(rows) else {}
    cap = summary.get("psnr_cap", math.nan)
    values = {
        "diverged_at": summary.get("diverged_at"),
        "implied_sigma": summary.get("implied_sigma"),
        "beta_value": summary.get("beta"),
        "psnr_cap": math.inf if cap is None else cap,
        **{name: _cap(predicted, name) for name in ("psnr_cap_val", "psnr_cap_test")},
        **{f"predicted_{name}": predicted.get(name) for name in PREDICTED},
        "seconds": summary.get("seconds"),
        **(summary.get("final") or last),
    }
    return {
        "status": summary.get("status", "running"),
        "device": summary.get("device") or "",
        **{key: math.nan if v is None else float(v) for key, v in values.items()},
    }


def _cap(predicted: dict[str, Any], name: str) -> float:
    """A split's cap; nan where it is not known, as in runs of earlier versions."""
    cap = predicted.get(name, math.nan)
    return math.inf if cap is None else cap


def _with_columns(frame: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """`frame` with columns of nan for those that no run has yet."""
    missing = [column for column in columns if column not in frame]
    return frame.assign(**dict.fromkeys(missing, math.nan))


def labels(finals: pd.DataFrame) -> dict[str, str]:
    """run_id -> what tells the run from the others: `zscore→unit · tanh · β 0.5`."""
    arrow = finals["norm"] + "→" + finals["target"]
    parts = {
        "norm": arrow.where(finals["norm"] != finals["target"], finals["norm"]),
        "head": finals["head"],
        "likelihood": finals["likelihood"],
        "reduction": finals["reduction"],
        "beta": "β " + finals["beta"],
        "seed": "seed " + finals["seed"].astype(str),
        "other": finals["other"],
    }
    shown = [part for part in parts.values() if len(set(part)) > 1]
    shown = shown or [parts[name] for name in ("norm", "head", "beta")]
    texts = [" · ".join(filter(None, row)) for row in zip(*shown, strict=True)]
    return dict(zip(finals["run_id"], texts, strict=True))


def table(results: Results) -> pd.DataFrame:
    """One line per run: what tells it from the others, then its last numbers.

    sigma is the decoder's noise in 8-bit levels, implied or learned; PSNR in dB; KL in
    nats per image; pred. is what a linear VAE reaches at its optimum.
    """
    finals = results.finals
    shown = distinguishing(finals).join(finals.filter(items=list(NUMBERS)))
    own = finals["implied_sigma"].fillna(finals["val/sigma"])  # else learned
    shown["implied_sigma"] = own
    if bool((finals["status"] != "finished").any()):
        shown["status"] = finals["status"]
    shown.columns = [NUMBERS[c][0] if c in NUMBERS else c for c in shown.columns]
    return shown


def distinguishing(frame: pd.DataFrame) -> pd.DataFrame:
    """Of the columns IDENTITY norm, head and beta, and those others that differ."""
    keep = {
        "norm": True,
        "target": bool((frame["target"] != frame["norm"]).any()),
        "head": True,
        "likelihood": len(set(frame["likelihood"])) > 1,
        "reduction": len(set(frame["reduction"])) > 1,
        "beta": True,
        "seed": len(set(frame["seed"])) > 1,
        "other": bool((frame["other"] != "").any()),
    }
    return frame.filter(items=[column for column, kept in keep.items() if kept])


def print_table(results: Results, console: Console) -> None:
    """Prints `table`; a star marks a PSNR that the head, not the training, limits."""
    frame = table(results)
    printed = _rich_table(frame)
    unlimited = console.options.update_width(1000)
    if console.measure(printed, options=unlimited).maximum > console.width:
        kept = [name for name in (*DIGITS, "status") if name not in PREDICTIONS]
        frame = frame.filter(items=kept)
        frame.insert(0, "run", list(labels(results.finals).values()))  # wraps at spaces
        printed = _rich_table(frame)
    console.print(printed)


def _rich_table(frame: pd.DataFrame) -> Table:
    caption = "sigma: noise of the decoder"
    if PREDICTIONS[0] in frame:
        caption += "; pred.: a linear VAE at its optimum"
    if any(map(math.isfinite, frame["PSNR cap (dB)"])):
        caption += f"; *: within {NEAR_CAP} dB of the cap of the head's range"
    printed = Table(box=None, pad_edge=False, caption=caption, caption_justify="left")
    for name in frame.columns:
        header = Text("\n".join(str(name).rsplit(" ", 1)))
        justify = "right" if name in DIGITS or name == "seed" else "left"
        printed.add_column(header, justify=justify, no_wrap=name != "run", overflow="fold")
    for line in frame.to_dict("records"):
        printed.add_row(*(Text(_cell(str(name), line)) for name in frame.columns))
    return printed


def _cell(name: str, line: dict[Any, Any]) -> str:
    value = line[name]
    if name not in DIGITS:
        return str(value)
    if name == "PSNR cap (dB)" and math.isnan(value):
        return "?"  # a dash is no limit
    if not math.isfinite(value):
        return "–"
    near = name == "val PSNR (dB)" and value >= line["PSNR cap (dB)"] - NEAR_CAP
    digits = 1 if name == "sigma (8-bit)" and value < 9.95 else DIGITS[name]
    return f"{'*' if near else ''}{value:.{digits}f}"
