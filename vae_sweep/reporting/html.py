"""The report of sweeps as one HTML page: what the template is given."""

import base64
import hashlib
import io
import json
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from vae_sweep.errors import counted
from vae_sweep.records import heartbeat, results
from vae_sweep.records.reader import (
    PICTURES,
    SAMPLES,
    read_picture,
    read_reconstructions,
)
from vae_sweep.records.results import Results, Run
from vae_sweep.records.summary import Summary
from vae_sweep.reporting import figures, style, svg
from vae_sweep.reporting.progress import duration
from vae_sweep.reporting.style import Look
from vae_sweep.reporting.tables import (
    KEY,
    NEAR_CAP,
    Row,
    decimal,
    filters,
    header,
    means_table,
    points_of,
    runs_table,
)

MANY = 24  # runs, from which on a point shows one seed's pictures, the others on demand
COMMANDS = 5  # and other facts of this many kinds; the rest is counted
STATUSES = ("diverged", "failed", "interrupted", "running")  # of runs that did not finish
QUALITY = 95  # of JPEG without chroma subsampling: about 40 dB, far above any run's PSNR
ROOM = 6e6  # characters of the page for pictures; runs beyond link to theirs
# columns of numbers that are shown if asked
ASKED = ("PSNR diff.", "KL diff.", "units diff.")


class Pictures(NamedTuple):
    """What a run's folder shows: data URL, width, height of each; the images that were
    reconstructed are told by a digest."""

    originals: tuple[str, int, int] | None = None
    digest: str = ""
    reconstructions: tuple[str, int, int] | None = None
    samples: tuple[str, int, int] | None = None

    @property
    def size(self) -> int:
        """Bytes of what a page adds for this run."""
        return sum(len(shown[0]) for shown in self[2:] if shown)


class Card(NamedTuple):
    """A run's part of the page."""

    row: Row
    pictures: Pictures | None  # None of those for which the page has no room: see `links`


class Group(NamedTuple):
    """The runs that reconstructed the same images: point -> its seeds."""

    title: str
    originals: tuple[str, int, int] | None
    points: dict[str, list[Card]]


def page(
    folders: Sequence[Path],
    tell: Callable[[str], None] = lambda line: None,
    every: float | None = None,
    loaded: Results | None = None,
    beside: Path | None = None,
) -> str:
    """The HTML page of sweeps; UserError where one holds no runs.

    Args:
        folders: runs/<sweep>, one or several.
        tell: Hears, in a line, of runs that are left out.
        every: Seconds after which the page loads itself again; None: never.
        loaded: What the folders hold, where it is read already.
        beside: The folder that the page will lie in; the first one unless set.
    """
    loaded = loaded or results.read_all(folders)
    for line in results.left_out(loaded):
        tell(line)
    looked = style.of_points(loaded.finals)
    place = {run.run_id: i for i, run in enumerate(loaded.runs)}
    board = runs_table(loaded, looked)
    differing, shared = settings(loaded.runs)
    open_runs = unfinished(loaded, looked)
    running = [run for run in open_runs if run["status"] == "running"]
    points = points_of(looked)
    members: dict[str, list[int]] = {}  # label of a point -> places of its runs
    for run_id, look in looked.items():
        members.setdefault(look.label, []).append(place[run_id])
    mixed = results.mixed(loaded)
    names = [folder.resolve().name for folder in folders]
    groups = _groups(board.rows, loaded)
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            title=" + ".join(dict.fromkeys(names)),
            folders=[str(folder) for folder in folders],
            written=datetime.now().astimezone().isoformat(" ", "seconds"),
            every=every,
            now=time.time(),
            counts={**_counts(loaded.finals), "waiting": len(loaded.waiting)},
            overall=_overall(loaded) if running else None,
            facts=facts(loaded.runs),
            unfinished={
                "Diverged, failed or interrupted": [
                    u for u in open_runs if u not in running
                ],
                "Running": running,
            },
            warnings=[*([f"{mixed[0].upper()}{mixed[1:]}."] if mixed else [])],
            left_out=results.left_out(loaded),
            board=board,
            means=means_table(loaded, looked),
            filters=filters(board),
            header=header,
            near_cap=NEAR_CAP,
            key=KEY,
            asked=ASKED,
            figures=[
                svg.picture(figure, axes, looked, place)
                for figure, axes in figures.of_page(loaded, looked)
            ],
            themes=style.THEMES,
            markers=style.MARKERS,
            number_of={marker: i for i, marker in enumerate(style.MARKERS)},
            legend=[(label, look, members[label]) for label, look in points.items()],
            crowded=len(points) > style.COLORS,
            groups=groups,
            links=_links(groups, loaded, beside or folders[0]),
            many=len(board.rows) > MANY,
            differing=differing,
            shared=shared,
            labels=json.dumps([row.label for row in board.rows]).replace("<", "\\u003c"),
        )
    )


@lru_cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("vae_sweep.reporting", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def unfinished(loaded: Results, looked: dict[str, Look]) -> list[dict[str, Any]]:
    """Runs that have not finished, with numbers of their last finite row; those that need
    attention first."""
    names = results.labels(loaded.finals)
    found = []
    for i, run in enumerate(loaded.finals.to_dict("records")):
        if run["status"] == "finished":
            continue
        beat = heartbeat.read(loaded.runs[i].folder) if run["status"] == "running" else None
        row = {
            "step": decimal(run["step"], 0),
            "train loss": decimal(run.get("train/loss", math.nan), 3),
            "val PSNR (dB)": decimal(run["val/psnr"], 2),
            "val KL (nats)": decimal(run["val/kl"], 1),
        }
        found.append(
            {
                "run_id": run["run_id"],
                "anchor": f"run-{i}",
                "label": names[run["run_id"]],
                "look": looked[run["run_id"]],
                "status": run["status"],
                "what": _pace(beat) if beat else results.progress(run),
                "share": _share(run, beat),
                "row": row,
            }
        )
    return sorted(found, key=lambda run: STATUSES.index(run["status"]))


def _pace(beat: heartbeat.Heartbeat) -> str:
    """How far a run is, how fast, and for how long yet."""
    text = f"step {beat.step} of {beat.total_steps}"
    if not beat.rate:
        return text
    left = (beat.total_steps - beat.step) / beat.rate
    return f"{text}, {beat.rate:.3g} steps/s, {duration(left)} left"


def _share(run: dict[Any, Any], beat: heartbeat.Heartbeat | None) -> float | None:
    """Of a run's steps, those that are done; None where it is not known."""
    step = beat.step if beat else run.get("step", math.nan)
    share = step / run["total_steps"] if run["total_steps"] else math.nan
    return min(1.0, share) if math.isfinite(share) else None


def _overall(loaded: Results) -> float:
    """Of all steps of the sweep, those that are done; a run that has not begun is taken
    to be like the others."""
    done = [
        1.0
        if run["status"] in ("finished", "diverged")
        else _share(run, heartbeat.read(loaded.runs[i].folder)) or 0.0
        for i, run in enumerate(loaded.finals.to_dict("records"))
    ]
    return sum(done) / (len(done) + len(loaded.waiting))


def facts(runs: Sequence[Run]) -> dict[str, list[str]]:
    """Hardware, versions, commit and command as the runs recorded them."""
    summaries = [run.summary for run in runs if run.summary is not None]
    return {
        "command": _distinct(s.command or "unknown" for s in summaries),
        "hardware": _distinct(map(_hardware, summaries)),
        "versions": _distinct(
            ", ".join(f"{k} {v}" for k, v in s.versions.items()) for s in summaries
        ),
        "commit": _distinct(s.commit or "unknown" for s in summaries),
    }


def _hardware(summary: Summary) -> str:
    if summary.device != "cpu":
        return summary.device or "unknown"
    threads = summary.threads
    each = f", threads per process: {threads}" if threads else ""
    return (summary.processor or "cpu") + each


def settings(runs: Sequence[Run]) -> tuple[dict[str, Counter[str]], dict[str, str]]:
    """Of config.yaml: keys that differ -> values and their runs; shared keys -> value."""
    flat = [results.flattened(run.config.model_dump(mode="json")) for run in runs]
    keys = dict.fromkeys(key for each in flat for key in each)
    values = {key: Counter(each.get(key, "not a setting") for each in flat) for key in keys}
    differing = {key: found for key, found in values.items() if len(found) > 1}
    shared = {key: next(iter(v)) for key, v in values.items() if len(v) == 1}
    return differing, shared


def pictures(folder: Path, summary: Summary | None) -> Pictures:
    """The originals and reconstructions of reconstructions.png, which are its halves, and
    samples.png; those that are there and are the run's."""
    stated = [getattr(summary, name, None) for name in PICTURES.values()]
    key = [*(_stamp(folder / name) for name in PICTURES), *stated]
    if folder not in _KEPT or _KEPT[folder][0] != key:
        _KEPT[folder] = key, _read_pictures(folder, summary)
    return _KEPT[folder][1]


_KEPT: dict[Path, tuple[list[Any], Pictures]] = {}  # for a page that is made again


def _stamp(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_mtime_ns, found.st_size


def _read_pictures(folder: Path, summary: Summary | None) -> Pictures:
    samples = read_picture(folder, summary, SAMPLES)
    drawn = _jpeg(np.asarray(samples)) if samples else None
    halves = read_reconstructions(folder, summary)
    if halves is None:
        return Pictures(samples=drawn)
    originals, made = map(np.asarray, halves)
    digest = hashlib.sha256(originals.tobytes()).hexdigest()
    return Pictures(_jpeg(originals), digest, _jpeg(made), drawn)


def _jpeg(pixels: np.ndarray) -> tuple[str, int, int]:
    """uint8 [H, W] or [H, W, C] as a data URL, with its width and height."""
    image = Image.fromarray(pixels)
    content = io.BytesIO()
    image.convert("L" if image.mode == "L" else "RGB").save(
        content, "jpeg", quality=QUALITY, subsampling=0, optimize=True
    )
    url = "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode()
    return url, image.width, image.height


def _links(groups: list[Group], loaded: Results, beside: Path) -> dict[str, dict[str, str]]:
    """run_id -> name of a picture that the page has no room for -> address of its file,
    relative to the folder `beside`, where the page lies."""
    folders = {run.run_id: run.folder for run in loaded.runs}
    cards = [card for group in groups for of in group.points.values() for card in of]
    bare = [card.row.run_id for card in cards if card.pictures is None]
    return {
        run_id: {
            Path(name).stem: quote(os.path.relpath(folders[run_id] / name, beside))
            for name in PICTURES
            if (folders[run_id] / name).is_file()
        }
        for run_id in bare
    }


def _counts(finals: pd.DataFrame) -> dict[str, int]:
    statuses = Counter(finals["status"])
    return {name: statuses[name] for name in ("finished", *STATUSES)}


def _distinct(values: Iterable[str]) -> list[str]:
    """Each value once, with its number of runs where there are several."""
    by_value = Counter(values).most_common()
    shown = [
        f"{value} ({counted(n, 'run')})" if len(by_value) > 1 else value
        for value, n in by_value[:COMMANDS]
    ]
    more = len(by_value) - COMMANDS
    return [*shown, f"and {more} more"] if more > 0 else shown


def _groups(rows: list[Row], loaded: Results) -> list[Group]:
    """The cards by the images that were reconstructed; as many have pictures as the page
    has room for, those of the best points first, and one seed of each before the others."""
    by_point: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        by_point.setdefault(row.look.label, []).append(i)
    seeds = max(map(len, by_point.values()))
    bits = loaded.finals["val/bits_per_dim_calibrated"].fillna(math.inf).to_numpy()
    best = sorted(by_point.values(), key=lambda of: bits[of].mean())
    order = [of[k] for k in range(seeds) for of in best if k < len(of)]
    shown: dict[int, Pictures] = {}
    room = ROOM
    for i in order:
        if room > 0:
            shown[i] = pictures(loaded.runs[i].folder, loaded.runs[i].summary)
            room -= shown[i].size
    sets = results.data_sets(loaded.runs)
    originals = {p.digest: p.originals for p in shown.values() if p.digest}
    usual = {sets[i]: shown[i].digest for i in reversed(order) if i in shown}
    groups: dict[tuple[str, str], Group] = {}
    for point, members in by_point.items():
        for i in members:
            found = shown.get(i)
            digest = (found.digest if found else "") or usual.get(sets[i], "")
            new = Group(sets[i], originals.get(digest), {})
            group = groups.setdefault((sets[i], digest), new)
            group.points.setdefault(point, []).append(Card(rows[i], found))
    return list(groups.values())
