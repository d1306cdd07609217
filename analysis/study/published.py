"""A sweep as a few small files: what notebooks read and a repository can keep.

finals.csv           a row per run: results.Results.finals
curves.csv           a row per run and evaluation: its columns of val/
theory.csv           the linear optimum's curves, each once
histogram.csv        how many training pixels have each of the 256 levels, per channel
reconstructions.png  validation images, then a row of each picture in about.json
about.json           command, commit, versions, hardware, data

A sweep of several data sets has no histogram and no pictures.
"""

import io
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from PIL import Image

from vae_sweep.config import Norm, RunConfig
from vae_sweep.data.dataset import Dataset, Datasets
from vae_sweep.errors import UserError, counted, reason
from vae_sweep.files import write_atomically
from vae_sweep.records import results
from vae_sweep.records.reader import read_picture
from vae_sweep.records.results import Results, Run
from vae_sweep.records.run_folder import processor
from vae_sweep.records.summary import Summary

DIGITS = "%.6g"
TEXTS = (
    *results.IDENTITY[:-2],
    "other",
    "status",
    "reason",
    "sentence",
    "device",
)  # columns that are no numbers
MOST_PICTURES = 48
NORMS: tuple[Norm, ...] = ("unit", "minus1_1", "zscore")  # that the study compares


class Published(NamedTuple):
    """What the runs of a sweep measured, and what belongs beside it.

    `histogram` has a row per level 0..255 and a column per channel, of the training
    split. `pictures` maps run ids to uint8 [H, n * W, C] reconstructions of the same
    validation images `originals`. All three are empty where the sweep has several data
    sets. `about` is about.json.
    """

    results: Results
    histogram: pd.DataFrame
    originals: np.ndarray
    pictures: dict[str, np.ndarray]
    about: dict[str, Any]

    @property
    def counts(self) -> torch.Tensor:
        """The histogram as int64 [C, 256]."""
        return torch.from_numpy(self.histogram.to_numpy().T.copy())

    @property
    def seeds(self) -> str:
        """How many, as in `5 seeds`."""
        return counted(self.results.finals["seed"].nunique(), "seed")

    @property
    def caption(self) -> str:
        """One line that says what the numbers rest on."""
        about = self.about
        images = about["images"]
        sets = images if isinstance(images, list) else [images]
        shown = [f"{s['train']:,} training, {s['test']:,} test images" for s in sets]
        if len(sets) > 1:
            sizes = ["x".join(map(str, s["shape"])) for s in sets]
            shown = [f"{s} of {size}" for s, size in zip(shown, sizes, strict=True)]
        return (
            f"{about['data']}: {', '.join(shown)}; {about['network']}; "
            f"{about['steps']} steps of batch {about['batch_size']}, "
            f"{self.seeds}; {about['hardware']}, "
            f"torch {about['versions']['torch']}"
        )


def publish(folder: Path, to: Path, data: str | None = None) -> None:
    """Writes the sweep in `folder`, runs/<sweep>, as small files into `to`.

    `data` is what to call the images, if not by the configuration's name. Their
    histogram is taken from the images themselves, so that they must be at hand, and the
    machine is the one that trained. Raises UserError where no run has ended.
    """
    loaded = results.load(folder)
    configs = [run.config for run in loaded.runs]
    sets = [*map(Datasets().of, dict.fromkeys(config.data for config in configs))]
    named = data or _one(config.data.name for config in configs)
    about = _about(named, sets, loaded.runs) | {
        "batch_size": _range(config.train.batch_size for config in configs),
        "network": _network(configs),
    }
    to.mkdir(parents=True, exist_ok=True)
    pictures = _pictures(loaded, folder) if len(sets) == 1 else {}
    if pictures:
        _save_pictures([*pictures.values()], to / "reconstructions.png")
    _save(loaded.finals, to / "finals.csv")
    curves = loaded.curves.filter(regex=r"^(run_id|step|epoch|val/.*)$")
    _save(curves, to / "curves.csv")
    _save(_distinct(loaded.theory), to / "theory.csv")
    if len(sets) == 1:
        counts = sets[0].counts
        names = [f"channel{c}" for c in range(len(counts))]
        _save(pd.DataFrame(counts.T.numpy(), columns=names), to / "histogram.csv")
    about["pictures"] = [*pictures]
    write_atomically(to / "about.json", (json.dumps(about, indent=2) + "\n").encode())


def load(sweep: Path | str) -> Published:
    """Reads a published sweep, or runs/<sweep> as if it had been published.

    Raises UserError where `sweep` is neither.
    """
    folder = Path(sweep)
    if (folder / "about.json").exists():
        return _read(folder)
    with tempfile.TemporaryDirectory() as made:
        publish(folder, Path(made))
        return _read(Path(made))


def results_of(sweep: Path | str) -> Results:
    """The numbers of any sweep: runs/<sweep>, ended or not, or a published table."""
    folder = Path(sweep)
    published = (folder / "about.json").exists()
    return _read(folder).results if published else results.load(folder)


class Unpublished(UserError):
    """An experiment whose table is not there yet."""


class Study:
    """Published sweeps by the name of their experiment."""

    def __init__(self, sweep: Path | str):
        """`sweep` is a folder of published sweeps, or one sweep, which is then used
        for every experiment."""
        folder = Path(sweep)
        parts = sorted(path.parent for path in folder.glob("*/about.json"))
        self.by_name = {part.name: _read(part) for part in parts}
        self.single = None if parts else load(folder)

    def of(self, experiment: str) -> Published:
        """Raises Unpublished where the study lacks it."""
        if self.single is not None:
            return self.single
        if experiment not in self.by_name:
            there = ", ".join(self.by_name)
            raise Unpublished(f"the study needs {experiment}, published; there are {there}")
        return self.by_name[experiment]


def _about(data: str, sets: Sequence[Dataset], runs: Sequence[Run]) -> dict[str, Any]:
    ended = [
        run.summary
        for run in runs
        if run.summary is not None and run.status in ("finished", "diverged")
    ]
    if not ended:
        raise UserError("a published sweep has ended runs, this one has none; let it end")
    images = [
        {name: len(split) for name, split in dataset.splits._asdict().items()}
        | {"shape": list(dataset.shape)}
        for dataset in sets
    ]
    return {
        "data": data,
        "images": images if len(images) > 1 else images[0],
        "command": _one(s.command or "" for s in ended),
        "commit": _one(s.commit or "" for s in ended),
        "versions": ended[0].versions,
        "hardware": _hardware(ended[0]),
        "run_seconds": round(sum((s.seconds or 0) / (s.cohort_size or 1) for s in ended)),
        "steps": _range(s.steps for s in ended if s.status == "finished"),
    }


def _network(configs: Sequence[RunConfig]) -> str:
    """`conv network, latent=64 norm_layer=batch`: the keys on which all agree."""
    found = [
        {"name": config.model.name, **results.flattened(config.model.model_dump())}
        for config in configs
    ]
    agreed = {k: v for k, v in found[0].items() if all(f.get(k) == v for f in found)}
    told = " ".join(f"{key}={value}" for key, value in agreed.items() if key != "name")
    return f"{agreed.get('name', 'several')} network, {told}"


def _one(values: Any) -> str:
    """What all agree on, or each of them."""
    return " | ".join(dict.fromkeys(values))


def _range(values: Any) -> str:
    """`1000`, or `600 to 1000`."""
    found = sorted(set(values))
    return " to ".join(str(value) for value in dict.fromkeys(found[:1] + found[-1:]))


def _hardware(summary: Summary) -> str:
    if summary.device != "cpu":
        return summary.device or "unknown"
    return summary.processor or processor()


def _save(frame: pd.DataFrame, path: Path) -> None:
    text = frame.to_csv(index=False, float_format=DIGITS, lineterminator="\n")
    write_atomically(path, text.encode())


def _distinct(theory: pd.DataFrame) -> pd.DataFrame:
    """Each curve once, under the first run that has it."""
    kept: list[pd.DataFrame] = []
    for _, curve in theory.groupby("run_id", sort=False):
        points = curve[["kl", "psnr"]].to_numpy()
        same = (k[["kl", "psnr"]].to_numpy() for k in kept)
        if not any(s.shape == points.shape and np.allclose(s, points) for s in same):
            kept.append(curve)
    return pd.concat(kept) if kept else theory


def _pictures(loaded: Results, folder: Path) -> dict[str, np.ndarray]:
    """Those of the runs of the lowest seed that have one, at most MOST_PICTURES of them."""
    lowest = min(run.config.seed for run in loaded.runs)
    found = {
        run.run_id: read_picture(folder / run.run_id, run.summary)
        for run in loaded.runs
        if run.config.seed == lowest
    }
    have = [(run_id, image) for run_id, image in found.items() if image is not None]
    step = -(-len(have) // MOST_PICTURES)
    return {run_id: np.asarray(image) for run_id, image in have[:: step or 1]}


def _save_pictures(pictures: Sequence[np.ndarray], path: Path) -> None:
    """The originals, then the lower half of each picture."""
    halves = [np.array_split(picture, 2) for picture in pictures]
    stacked = np.concatenate([halves[0][0], *(lower for _, lower in halves)])
    content = io.BytesIO()
    Image.fromarray(stacked).save(content, "png", optimize=True)
    write_atomically(path, content.getvalue())


def _pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def _read(folder: Path) -> Published:
    """Raises UserError where a file is damaged or missing."""
    try:
        return _whole(folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"the published tables in {folder} are damaged ({reason(error)}); restore them "
            f"with git checkout, or publish them again"
        ) from None


def _whole(folder: Path) -> Published:
    texts: Any = dict.fromkeys(TEXTS, str)
    about = json.loads((folder / "about.json").read_text())
    finals, curves = (
        _numbers(pd.read_csv(folder / name, dtype=texts, keep_default_na=False))
        for name in ("finals.csv", "curves.csv")
    )
    if sorted(finals["run_id"]) != sorted(set(curves["run_id"])):
        raise ValueError("finals.csv and curves.csv are of other runs")
    first = [name for name in results.IDENTITY if name in finals]
    curves = finals[first].merge(curves, on="run_id")
    theory = pd.read_csv(folder / "theory.csv", dtype=texts)
    _ = theory["kl"], theory["psnr"]
    levels = folder / "histogram.csv"
    histogram = pd.read_csv(levels) if levels.exists() else pd.DataFrame()
    rows = [np.zeros((0, 0, 3), np.uint8)]
    if about["pictures"]:
        stacked = _pixels(folder / "reconstructions.png")
        rows = np.split(stacked, len(about["pictures"]) + 1)
    pictures = dict(zip(about["pictures"], rows[1:], strict=True))
    loaded = Results(curves, finals, theory)
    return Published(loaded, histogram, rows[0], pictures, about)


def _numbers(frame: pd.DataFrame) -> pd.DataFrame:
    """All columns but TEXTS as numbers, an empty cell as nan."""
    others = [str(column) for column in frame if column not in TEXTS]
    return frame.assign(**{c: pd.to_numeric(frame[c]) for c in others})
