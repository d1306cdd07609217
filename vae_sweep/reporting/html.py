"""The report of a sweep as one HTML page: what the template is given."""

import base64
import io
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from vae_sweep.records import results
from vae_sweep.records.reader import RECONSTRUCTIONS, SAMPLES, read_picture
from vae_sweep.records.results import Results, Run
from vae_sweep.records.summary import Summary
from vae_sweep.reporting import figures, style
from vae_sweep.reporting.style import Look
from vae_sweep.reporting.tables import (
    NEAR_CAP,
    Row,
    decimal,
    filters,
    header,
    means_table,
    points_of,
    runs_table,
)

MANY = 24  # runs, from which on a point shows one seed's picture, the others on demand
COMMANDS = 5  # and other facts of this many kinds; the rest is counted
STATUSES = ("diverged", "failed", "interrupted", "running")  # of runs that did not finish
PICTURES = {
    RECONSTRUCTIONS: "originals above, reconstructions below",
    SAMPLES: "samples from the prior",
}
QUALITY = 95  # of JPEG without chroma subsampling: about 40 dB, far above any run's PSNR


def page(folder: Path, tell: Callable[[str], None] = lambda line: None) -> str:
    """The HTML page of runs/<sweep>; UserError where it holds no runs.

    `tell` hears, in a line, of runs that are left out.
    """
    loaded = results.read(folder)
    for line in results.left_out(loaded):
        tell(line)
    looked = style.of_points(loaded.finals)
    board = runs_table(loaded, looked)
    environment = Environment(
        loader=PackageLoader("vae_sweep.reporting", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    differing, shared = settings(loaded.runs)
    pictures = {
        run.run_id: [
            (words, found)
            for name, words in PICTURES.items()
            if (found := picture(folder / run.run_id, run.summary, name))
        ]
        for run in loaded.runs
    }
    open_runs = unfinished(loaded, looked)
    running = [run for run in open_runs if run["status"] == "running"]
    return environment.get_template("report.html.j2").render(
        sweep=folder.resolve().name,
        written=datetime.now().astimezone().isoformat(" ", "minutes"),
        counts={**_counts(loaded.finals), "waiting": len(loaded.waiting)},
        facts=facts(loaded.runs),
        unfinished={
            "Diverged, failed or interrupted": [u for u in open_runs if u not in running],
            "Running": running,
        },
        left_out=results.left_out(loaded),
        board=board,
        means=means_table(loaded, looked),
        filters=filters(board),
        header=header,
        near_cap=NEAR_CAP,
        figures=figures.draw(loaded, looked),
        shapes=style.MARKERS,
        legend=points_of(looked),
        crowded=len(points_of(looked)) > style.COLORS,
        groups=_groups(board.rows, pictures),
        many=len(board.rows) > MANY,
        differing=differing,
        shared=shared,
    )


def unfinished(loaded: Results, looked: dict[str, Look]) -> list[dict[str, Any]]:
    """Runs that have not finished, with numbers of their last finite row; those that need
    attention first."""
    names = results.labels(loaded.finals)
    found = []
    for i, run in enumerate(loaded.finals.to_dict("records")):
        if run["status"] == "finished":
            continue
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
                "what": results.progress(run),
                "row": row,
            }
        )
    return sorted(found, key=lambda run: STATUSES.index(run["status"]))


def facts(runs: Sequence[Run]) -> dict[str, list[str]]:
    """Hardware, versions, commit and command as the runs recorded them."""
    summaries = [run.summary for run in runs if run.summary is not None]
    return {
        "hardware": _distinct(map(_hardware, summaries)),
        "versions": _distinct(
            ", ".join(f"{k} {v}" for k, v in s.versions.items()) for s in summaries
        ),
        "commit": _distinct(s.commit or "unknown" for s in summaries),
        "command": _distinct(s.command or "unknown" for s in summaries),
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


def picture(
    folder: Path, summary: Summary | None, name: str = RECONSTRUCTIONS
) -> tuple[str, int, int] | None:
    """A picture as a JPEG's data URL, width, height; None where there is none."""
    image = read_picture(folder, summary, name)
    if image is None:
        return None
    content = io.BytesIO()
    image.convert("L" if image.mode == "L" else "RGB").save(
        content, "jpeg", quality=QUALITY, subsampling=0, optimize=True
    )
    url = "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode()
    return url, image.width, image.height


def _counts(finals: pd.DataFrame) -> dict[str, int]:
    counted = Counter(finals["status"])
    return {name: counted[name] for name in ("finished", *STATUSES)}


def _distinct(values: Iterable[str]) -> list[str]:
    """Each value once, with its number of runs where there are several."""
    counted = Counter(values).most_common()
    shown = [f"{v} ({_runs(n)})" if len(counted) > 1 else v for v, n in counted[:COMMANDS]]
    more = len(counted) - COMMANDS
    return [*shown, f"and {more} more"] if more > 0 else shown


def _runs(count: int) -> str:
    return f"{count} run{'' if count == 1 else 's'}"


def _groups(rows: list[Row], pictures: dict[str, Any]) -> dict[str, list[Any]]:
    """Point -> (row, pictures) of each of its seeds."""
    groups: dict[str, list[Any]] = {}
    for row in rows:
        groups.setdefault(row.look.label, []).append((row, pictures[row.run_id]))
    return groups
