"""Run folders as tidy tables: every evaluation, every run's end, and the final table."""

import gc
import json
import math
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from vae_sweep.config import Own, RunConfig, leaves
from vae_sweep.errors import UserError, counted, no_folder
from vae_sweep.records import claim, reader, states
from vae_sweep.records.find import copies, is_run, short_hash
from vae_sweep.records.reader import TRAINING, Unreadable
from vae_sweep.records.rows import Rows
from vae_sweep.records.summary import Best, Predicted, Summary

# interrupted: "running", but no process trains it
Status = Literal["running", "interrupted", "failed", "diverged", "finished"]

# what tells the runs of a sweep apart: the first columns of every frame
IDENTITY = (
    *("run_id", "norm", "target", "head", "likelihood", "reduction", "beta", "seed"),
    "other",
)
CURVE = (*IDENTITY, *reader.CURVE)  # the columns of `training`

# column of `finals` -> column of `table`, and the digits printed
NUMBERS = {
    "implied_sigma": ("sigma (8-bit)", 0),
    "psnr_cap_val": ("PSNR cap (dB)", 2),
    "val/psnr": ("val PSNR (dB)", 2),
    "test/psnr": ("test PSNR (dB)", 2),
    "predicted_psnr": ("pred. PSNR", 2),
    "val/bits_per_dim_calibrated": ("calibrated bits/dim", 3),
    "test/bits_per_dim_calibrated": ("test bits/dim", 3),
    "val/kl": ("KL (nats)", 1),
    "predicted_kl": ("pred. KL", 1),
    "val/active_units": ("active units", 0),
    "predicted_active_units": ("pred. units", 0),
}
# those of which one end is better; of rate and of active units neither is
BEST: dict[str, Best] = {
    **dict.fromkeys(("val/psnr", "test/psnr"), "highest"),
    **dict.fromkeys(
        ("val/bits_per_dim_calibrated", "test/bits_per_dim_calibrated"), "lowest"
    ),
}
PREDICTED = (  # fields of predictions.Prediction that finals has as predicted_<name>
    *("floor_mse", "floor_mse_pixel", "sigma", "beta_pixel", "active_units", "kl"),
    *("mse_pixel", "psnr", "psnr_clipped", "bits_per_dim", "bits_per_dim_calibrated"),
    "bits_per_dim_clipped",
)
DRAWN = (
    *("step", "epoch", "val/mse_pixel", "val/kl", "val/elbo", "val/psnr"),
    *("val/elbo_discrete", "val/sigma", "val/bits_per_dim_calibrated"),
)
ENCODER = json.JSONEncoder(separators=(",", ":"))
MEASURED_LAST = ("test/psnr", "test/bits_per_dim_calibrated")  # of runs that have ended
REASONS = 5  # that are named of runs which cannot be read


@dataclass(frozen=True)
class Run:
    """A run as its folder holds it."""

    run_id: str  # the folder's name, which may have been changed
    config: RunConfig
    rows: Rows
    summary: Summary | None  # None before there is one, and of early versions' unfinished
    status: Status
    training: Rows = field(default_factory=lambda: Rows(b""))
    uncurved: str = ""  # why `training` has nothing, where training.csv cannot be read
    folder: Path = Path()
    sweep: str = ""  # where several are read of which two hold a run of this name
    stated: str = ""  # the run_id in config.yaml


@dataclass(frozen=True, repr=False)
class Results:
    """What the runs of a sweep measured.

    `curves` has a row per run and evaluation: IDENTITY, then the columns of metrics.csv.
    `finals` has a row per run: IDENTITY, status, diverged_at (step), total_steps, reason
    (of a failure), implied_sigma (8-bit levels), beta_value, psnr_cap (dB, inf without a
    floor) of the training split, psnr_cap_val and psnr_cap_test of the others,
    predicted_<name> of PREDICTED, their sentence, seconds, device, then the columns of
    metrics.csv at the last finite row. `target` is resolved, `beta` is the schedule's
    label, and `other` states whatever else differs within the sweep. nan is not known.
    `theory` has a row per run and point of the curve of linear VAEs at their optimum, the
    noise falling: run_id, kl (nats per image), psnr (dB).

    `runs` are what the frames were made of, in the order of `finals`; `skipped` maps
    folders that could not be read, or are copies of a run, to the reason, `uncurved` those
    whose
    training.csv could not; `waiting` names runs that the sweep is to hold and that have
    not begun.
    """

    curves: pd.DataFrame
    finals: pd.DataFrame
    theory: pd.DataFrame
    runs: tuple[Run, ...] = ()
    skipped: Mapping[str, str] = field(default_factory=dict)
    uncurved: Mapping[str, str] = field(default_factory=dict)
    waiting: Sequence[str] = ()

    @cached_property  # its rows are most of what the runs hold, and few ask for them
    def training(self) -> pd.DataFrame:
        """A row per run and training batch that training.csv has: IDENTITY, step, and
        before that step's update loss (the objective per image), mse (per element of the
        target) and kl (nats per image).

        Raises:
            UserError: A file is damaged, though a digest says that it is whole.
        """
        for run in self.runs:
            try:
                _ = run.training.columns
            except ValueError as error:
                name = run.folder / TRAINING
                raise UserError(f"{name} is damaged: {error}; remove it") from None
        tables = [run.training for run in self.runs]
        return _with_columns(_tidy(_identities(self.runs), tables), CURVE)

    @property
    def folders(self) -> list[Path]:
        """The sweeps that the runs lie in, runs/<sweep> each."""
        return list(dict.fromkeys(run.folder.parent for run in self.runs))

    def __repr__(self) -> str:
        return f"<Results of runs: {self._counts()}; {len(self.curves)} rows>"

    def _repr_html_(self) -> str:
        """What a notebook shows: the table, counts of statuses, and where the runs lie."""
        names, digits = table(self), dict(numbers(self.runs).values())
        cells = {
            name: lambda value, name=name: f"{value:,.{digits[name]}f}"
            for name in names.columns
            if name in digits
        }
        shown = names.replace(math.inf, math.nan).to_html(
            index=False, formatters=cells, na_rep="–", border=0
        )
        where = ", ".join(escape(str(folder)) for folder in self.folders)
        return f"{shown}<p>{self._counts()}{f' in <code>{where}</code>' if where else ''}"

    def _counts(self) -> str:
        counted = self.finals["status"].value_counts()
        counts = [f"{count} {status}" for status, count in counted.items()]
        counts += [f"{len(self.skipped)} left out"] if self.skipped else []
        counts += [f"{len(self.waiting)} waiting"] if self.waiting else []
        return ", ".join(counts)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Python's collector rests: of records that are all kept it goes through the first
    thousands again and again while others are read."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def load(
    folder: Path | str, run_ids: Sequence[str] | None = None, rest: bool = False
) -> Results:
    """Reads what a sweep measured; of runs that have not ended, the rows so far.

    Args:
        folder: runs/<sweep>.
        run_ids: The runs that are read, in this order; all, by name, unless given.
        rest: Whether the others follow those.

    Returns:
        Tidy tables: `finals`, `curves`, `training` and `theory`. Runs that cannot be read
        are left out, with a warning; `skipped` has them.

    Raises:
        UserError: There is no such folder or run, or no run that can be read.

    Example:
        >>> found = vae_sweep.results("runs/main")
        >>> found.curves.pivot(index="step", columns="run_id", values="val/psnr").plot()
    """
    found = read(folder, run_ids, rest)
    for line in left_out(found):
        warnings.warn(line, stacklevel=2)
    return found


def read(
    folder: Path | str, run_ids: Sequence[str] | None = None, rest: bool = False
) -> Results:
    """As `load`, without a word of runs that are left out."""
    return _framed(*_collected(Path(folder), run_ids, rest))


def read_all(folders: Sequence[Path]) -> Results:
    """Several sweeps as one, in this order. Where two hold runs of the same name, names
    begin with the sweep's, and `other` states it.

    Raises:
        UserError: As `load`, of any of them.
    """
    folders = [*{folder.resolve(): folder for folder in folders}.values()]
    if len(folders) == 1:
        return read(folders[0])
    names = [folder.resolve().name for folder in folders]
    if len({*names}) < len(names):
        names = [str(folder) for folder in folders]
    found = [_collected(folder, None, False) for folder in folders]
    counted = Counter(run.run_id for runs, _, _ in found for run in runs)
    named = max(counted.values()) > 1
    every = [
        replace(run, run_id=f"{name}/{run.run_id}", sweep=name) if named else run
        for name, (runs, _, _) in zip(names, found, strict=True)
        for run in runs
    ]
    skipped = {
        f"{name}/{run_id}": why
        for name, (_, those, _) in zip(names, found, strict=True)
        for run_id, why in those.items()
    }
    return _framed(every, skipped, [run_id for *_, waiting in found for run_id in waiting])


Collected = tuple[list[Run], dict[str, str], list[str]]  # runs, skipped, waiting


def _collected(folder: Path, run_ids: Sequence[str] | None, rest: bool) -> Collected:
    """What Results has of a sweep before it is made frames of."""
    if not folder.is_dir():
        raise UserError(f"results are read from runs/<sweep>; {no_folder(folder)}")
    found = sorted(path.name for path in folder.iterdir() if is_run(path))
    if not found:
        named = ", ".join(map(str, states.sweeps_in(folder)[:8]))
        remedy = f": {named}" if named else ""
        raise UserError(f"{folder} holds no runs; name one or several sweeps{remedy}")
    there = {*found}
    chosen = list(dict.fromkeys(found if run_ids is None else run_ids))
    missing = [run_id for run_id in chosen if run_id not in there]
    if missing or not chosen:
        raise UserError(
            f"asked for run {', '.join(missing) or 'none'}; {folder} holds {len(found)} "
            f"runs, the first of which is {found[0]}"
        )
    chosen = list(dict.fromkeys([*chosen, *(found if rest else ())]))
    runs, skipped = _readable(folder / run_id for run_id in chosen)
    waiting = [run_id for run_id in reader.read_sweep(folder) if run_id not in there]
    return runs, skipped, waiting


def of(folders: Iterable[Path]) -> Results:
    """What the runs in these folders measured, of one sweep or of several.

    Raises:
        UserError: None can be read.
    """
    return _framed(*_readable(folders), [])


@_uncollected()
def _readable(folders: Iterable[Path]) -> tuple[list[Run], dict[str, str]]:
    """The runs in `folders`, and by folder's name why others cannot be read.

    Raises:
        UserError: None can be read.
    """
    runs, skipped = [], {}
    sweeps: dict[Path, None] = {}
    for folder in folders:
        sweeps[folder.parent] = None
        try:
            runs.append(_read(folder))
        except Unreadable as error:
            skipped[folder.name] = str(error)
    places = {str(run.folder): str(run.folder.parent / run.stated) for run in runs}
    copied = copies(places)
    skipped |= {Path(f).name: f"copy of {Path(of).name}" for f, of in copied.items()}
    runs = [run for run in runs if str(run.folder) not in copied]
    if not runs:
        run_id, reason = next(iter(skipped.items()))
        where = ", ".join(map(str, sweeps))
        raise UserError(f"no run of {where} can be read: {run_id}/{reason}")
    return runs, skipped


@_uncollected()
def _framed(runs: list[Run], skipped: dict[str, str], waiting: list[str]) -> Results:
    identities = _identities(runs)
    finals = [i | _final(run) for run, i in zip(runs, identities, strict=True)]
    return Results(
        curves=_with_columns(_tidy(identities, [r.rows for r in runs]), DRAWN),
        finals=_with_columns(pd.DataFrame(finals), (*DRAWN, *numbers(runs))),
        theory=_theory(runs),
        runs=tuple(runs),
        skipped=skipped,
        uncurved={run.run_id: run.uncurved for run in runs if run.uncurved},
        waiting=waiting,
    )


def left_out(results: Results) -> list[str]:
    """Lines that count the runs, and the training curves, that are left out, with the first
    few reasons."""
    found = {"{}": results.skipped, "the training curves of {}": results.uncurved}
    return [_counted(text, runs) for text, runs in found.items() if runs]


def _counted(text: str, runs: Mapping[str, str]) -> str:
    count = counted(len(runs), "run")
    shown = [f"{run_id} ({why})" for run_id, why in runs.items()][:REASONS]
    return f"left out {text.format(count)}: {'; '.join(shown)}"


def _read(folder: Path) -> Run:
    """A run as it is.

    Raises:
        Unreadable: A file of it is damaged.
    """
    if not folder.is_dir():
        raise Unreadable("there is no such folder")
    (config, run_id), rows = reader.read_stated(folder), reader.read_rows(folder)
    summary = reader.read_summary(folder)
    if summary is None or summary.status == "running":
        status: Status = "running" if claim.is_held(folder) else "interrupted"
    else:
        status = summary.status
        if summary.states("steps") and not reader.fit(summary, rows):
            raise Unreadable("metrics.csv has other rows than summary.json states")
    if summary is not None and summary.run_id not in (None, run_id):
        raise Unreadable("summary.json is another run's")
    try:
        training, uncurved = reader.read_training(folder, summary), ""
    except Unreadable as error:
        training, uncurved = Rows(b""), str(error)
    return Run(
        *(folder.name, config, rows, summary, status, training, uncurved, folder),
        stated=run_id,
    )


def identities(configs: Sequence[RunConfig]) -> pd.DataFrame:
    """A row of IDENTITY per config."""
    none = Rows(b"")
    runs = [Run(config.run_id, config, none, None, "running") for config in configs]
    return pd.DataFrame(_identities(runs))


def _identities(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """IDENTITY -> value per run; folders may have been renamed, so they name the runs."""
    others, images = _others([run.config for run in runs]), _images(runs)
    return [
        {
            "run_id": run.run_id,
            "norm": run.config.norm,
            "target": run.config.target_norm,
            "head": run.config.head,
            "likelihood": run.config.likelihood,
            "reduction": run.config.reduction,
            "beta": run.config.beta.label,
            "seed": run.config.seed,
            "other": " ".join(filter(None, (run.sweep and f"sweep={run.sweep}", *more))),
        }
        for run, *more in zip(runs, others, images, strict=True)
    ]


def _others(configs: Sequence[RunConfig]) -> list[str]:
    """Per run the settings that differ between runs and have no column of their own."""
    own = {*IDENTITY, "beta.name", "beta.value", "beta.sigma", "beta.beta_norm"}
    runs = [flattened(config.settings) for config in configs]
    values: dict[str, set[str]] = {}
    for run in runs:
        for key, value in run.items():
            values.setdefault(key, set()).add(value)
    for key in (key for key in values if key.startswith("versions.")):
        option = key.removeprefix("versions.")
        pairs = {(run.get(option), run.get(key)) for run in runs}
        if len(pairs) == len({option for option, _ in pairs}):
            own.add(key)  # one version of each option, whose name says enough
    kept = _telling(runs)
    own |= {key for key in values if key.startswith("data.") and key not in kept}
    if all(config.train.lr_warmup == "auto" for config in configs):
        own.add("train.lr_warmup")  # it follows from the steps
    differing = [key for key, seen in values.items() if len(seen) > 1 and key not in own]
    labeled = [
        {f"beta.{key}" for key in config.beta.parameters}
        if isinstance(config.beta, Own)
        else set[str]()
        for config in configs
    ]
    return [
        " ".join(
            run[key] if key.endswith(".name") else f"{_short(key)}={run[key]}"
            for key in differing
            if key in run and key not in said
        )
        for run, said in zip(runs, labeled, strict=True)
    ]


def _telling(runs: Sequence[dict[str, str]]) -> list[str]:
    """The settings of data that tell the data sets of `runs` apart: not those that follow
    from the ones before them, as the sizes of a split mostly do from a name or a path."""
    keys = dict.fromkeys(key for run in runs for key in run if key.startswith("data."))
    known, telling = [()] * len(runs), list[str]()
    for key in dict.fromkeys(("data.name", "data.path", *keys)):
        more = [(*seen, run.get(key)) for seen, run in zip(known, runs, strict=True)]
        if len({*more}) > len({*known}):
            known = more
            telling.append(key)
    return telling


def data_sets(runs: Sequence[Run]) -> list[str]:
    """The data set of each run, told from those of the others: numbers of two are not
    comparable."""
    settings = [
        flattened({"data": run.config.data.model_dump(mode="json", exclude={"cache"})})
        for run in runs
    ]
    keys = [key for key in _telling(settings) if key != "data.name"]
    more = [[f"{_short(k)}={each[k]}" for k in keys if k in each] for each in settings]
    return [
        " ".join(filter(None, [each["data.name"], *others, images]))
        for each, others, images in zip(settings, more, _images(runs), strict=True)
    ]


def _images(runs: Sequence[Run]) -> list[str]:
    """Per run `images=1a2b3c4d` where runs of the same settings of data saw other images,
    as of a folder to which some were added between two commands; else nothing."""
    places = [run.config.data.model_dump_json(exclude={"cache"}) for run in runs]
    stated = [run.summary.images if run.summary else None for run in runs]
    seen: dict[str, set[str]] = {}
    for place, images in zip(places, stated, strict=True):
        seen.setdefault(place, set()).update(filter(None, [images]))
    return [
        f"images={images[:8]}" if images and len(seen[place]) > 1 else ""
        for place, images in zip(places, stated, strict=True)
    ]


def mixed(results: Results) -> str | None:
    """A line that warns of a sweep that mixes data sets; None where it does not."""
    names = list(dict.fromkeys(data_sets(results.runs)))
    if len(names) < 2:
        return None
    shown = ", ".join(names[:REASONS]) + (", ..." if len(names) > REASONS else "")
    return (
        f"these runs are of {len(names)} data sets ({shown}): compare numbers only within "
        f"one of them"
    )


def _short(key: str) -> str:
    for section in ("model.", "train.", "data."):
        key = key.removeprefix(section)
    return key


def flattened(section: dict[str, Any]) -> dict[str, str]:
    """{"model": {"latent": 16}} as {"model.latent": "16"}."""
    return {
        key: value if isinstance(value, str) else ENCODER.encode(value)
        for key, value in leaves(section)
    }


def _tidy(identities: list[dict[str, Any]], tables: Sequence[Rows]) -> pd.DataFrame:
    """The rows of all runs, one run after the other; nan where a run lacks a column."""
    columns = list(dict.fromkeys(c for rows in tables for c in rows.columns)) or ["step"]
    place = {name: k for k, name in enumerate(columns)}
    lengths = [len(rows) for rows in tables]
    cells = np.full((sum(lengths), len(columns)), math.nan)
    start = 0
    for rows in filter(len, tables):
        places = [place[name] for name in rows.columns]
        cells[start : start + len(rows), places] = np.reshape(rows.numbers, (len(rows), -1))
        start += len(rows)
    repeated = np.repeat(np.arange(len(tables)), lengths)
    of_runs = pd.DataFrame(identities, columns=IDENTITY).iloc[repeated]
    numbers = pd.DataFrame(cells, columns=columns).astype({"step": "int64"})
    return pd.concat([of_runs.reset_index(drop=True), numbers], axis=1)


def _theory(runs: Sequence[Run]) -> pd.DataFrame:
    """The curves of linear optima, of the runs that state one."""
    curves = [
        (run.run_id, run.summary.predicted.curve)
        for run in runs
        if run.summary and run.summary.predicted and run.summary.predicted.curve
    ]
    return pd.DataFrame(
        {
            "run_id": [run_id for run_id, curve in curves for _ in curve[0]],
            "kl": np.array([kl for _, curve in curves for kl in curve[0]], float),
            "psnr": np.array([psnr for _, curve in curves for psnr in curve[1]], float),
        }
    )


def _final(run: Run) -> dict[str, Any]:
    summary = run.summary or Summary(status="running")
    predicted = summary.predicted or Predicted()
    last = run.rows[-1] if len(run.rows) else {}
    own = predicted.model_dump(include={*PREDICTED})
    total = summary.total_steps if summary.states("total_steps") else summary.steps
    values = {
        "diverged_at": summary.diverged_at,
        "total_steps": total,
        "implied_sigma": summary.implied_sigma,
        "beta_value": summary.beta,
        "psnr_cap": _cap(summary, "psnr_cap"),
        **{name: _cap(predicted, name) for name in ("psnr_cap_val", "psnr_cap_test")},
        **{f"predicted_{name}": own[name] for name in PREDICTED},
        "seconds": summary.seconds,
        **(summary.final or last),
    }
    return {
        "status": run.status,
        "device": summary.device or "",
        "reason": summary.reason or "",
        "sentence": predicted.sentence or "",
        **{key: math.nan if v is None else float(v) for key, v in values.items()},
    }


def _cap(stated: Summary | Predicted, name: str) -> float:
    """A split's cap, which is stated as None where there is none; nan where it is not
    stated, as by earlier versions."""
    if name not in stated.model_fields_set:
        return math.nan
    cap = getattr(stated, name)
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


def numbers(runs: Sequence[Run]) -> dict[str, tuple[str, int]]:
    """Column of `finals` -> column of `table`, and the digits printed: NUMBERS, then
    metrics that not every run has, of which several may state one; the last one's words
    hold."""
    stated = [run.summary.metrics for run in runs if run.summary is not None]
    own = {name: metric for metrics in stated for name, metric in metrics.items()}
    found = dict(NUMBERS)
    for name, metric in own.items():
        unit = f" ({metric.unit})" if metric.unit else ""
        header = f"{metric.split} {metric.label or name}{unit}"
        if header in dict(found.values()):
            header += f" [{name}]"
        found.setdefault(f"{metric.split}/{name}", (header, metric.digits))
    return found


def best(runs: Sequence[Run]) -> dict[str, Best]:
    """Column of `finals` -> which end of it is better, where one is."""
    found = dict(BEST)
    for summary in (run.summary for run in runs if run.summary is not None):
        for name, metric in summary.metrics.items():
            if metric.best:
                found[f"{metric.split}/{name}"] = metric.best
    return found


def table(results: Results) -> pd.DataFrame:
    """One line per run: what tells it from the others, its last numbers, `run`.

    sigma is the decoder's noise in 8-bit levels, implied or learned; PSNR in dB; KL in
    nats per image; pred. is what a linear VAE reaches at its optimum. Metrics that not
    every run has follow: `<split> <label> (<unit>)`. Numbers of the test split are there
    where any run has them. `run` is the short hash, which names a run in every command.
    """
    finals, names = results.finals, numbers(results.runs)
    absent = {name for name in MEASURED_LAST if finals[name].isna().all()}
    there = [name for name in names if name not in absent]
    shown = distinguishing(finals).join(finals.filter(items=there))
    own = finals["implied_sigma"].fillna(finals["val/sigma"])  # else learned
    shown["implied_sigma"] = own
    if bool((finals["status"] != "finished").any()):
        shown["status"] = finals["status"]
    shown["run"] = finals["run_id"].map(short_hash)
    shown.columns = [names[c][0] if c in names else c for c in shown.columns]
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


def progress(run: dict[Any, Any]) -> str:
    """A line of finals in words: `running, step 20 of 40`, `diverged at step 7`."""
    status = run["status"]
    if status == "finished":
        return status
    if status == "diverged":
        at = run["diverged_at"]
        return f"{status} at step {at:.0f}" if math.isfinite(at) else status
    step = run.get("step", math.nan)
    where = f"step {step:.0f}" if math.isfinite(step) else "before its first row"
    total = f" of {run['total_steps']:.0f}" if math.isfinite(run["total_steps"]) else ""
    reason = f": {run['reason']}" if run["reason"] else ""
    return f"{status}, {where}{total if math.isfinite(step) else ''}{reason}"
