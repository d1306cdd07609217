"""Settings as they are read: of points, and of a recorded run with its numbers."""

import math
from pathlib import Path
from typing import Any

import yaml
from rich.table import Table
from rich.text import Text

from vae_sweep.config import RunConfig
from vae_sweep.records import results
from vae_sweep.reporting import prediction_table
from vae_sweep.reporting.console import Console

SPLITS = ("train", "val", "test")
# fields of a Prediction, as they are said of one point
THEORY = {
    "psnr_cap_val": "PSNR cap, val (dB)",
    "sigma": "noise, sigma (8-bit levels)",
    "beta_pixel": "beta in pixels",
    "active_units": "active units",
    "kl": "KL (nats)",
    "psnr": "PSNR (dB)",
    "bits_per_dim_calibrated": "calibrated bits/dim",
}
UNSET = ("experiments", "rerun", "extend", "sources")  # shown where set


def print_points(configs: list[RunConfig]) -> None:
    """Prints what the points share as YAML, what differs, and what theory says."""
    configs = list({c.run_dir: c for c in configs}.values())
    console = Console(least=120)
    predicted = prediction_table.frame(configs, console.say)
    plain = [_values(config) for config in configs]
    if len(configs) == 1:
        where = "there is a run of it" if configs[0].run_dir.is_dir() else "to be kept"
        console.say(f"# {where} in {configs[0].run_dir}\n{_yaml(plain[0])}")
    else:
        shared, differ = _shared(plain)
        console.say(f"# what all {len(configs)} points have\n{_yaml(shared)}")
        lines = [f"{key}: {', '.join(values)}" for key, values in differ.items()]
        console.say("# where they differ\n" + "\n".join(lines))
    console.print()
    prediction_table.print_predictions(predicted, console)


def print_run(folder: Path) -> None:
    """Prints a recorded run: status, settings, last numbers and files.

    Raises:
        UserError: The run cannot be read.
    """
    console = Console(least=80)
    found = results.read(folder.parent, [folder.name])
    [run] = found.runs
    [line] = found.finals.to_dict("records")
    console.print(Text(str(folder), "bold"), soft_wrap=True)
    console.say(results.progress(line))
    console.say(_about(line, run))
    console.say(f"\n{_yaml(_values(run.config))}\n")
    console.print(_numbers(run))
    if run.summary is not None and run.summary.predicted is not None:
        stated = run.summary.predicted
        console.print(_theory(stated.model_dump()))
        if stated.sentence:
            console.say(f"{stated.sentence}.")
    sizes = [
        f"  {path.name:24s} {path.stat().st_size / 1e3:10,.1f} kB"
        for path in sorted(folder.iterdir())
        if path.is_file() and not path.name.startswith(".")
    ]
    console.say("\n".join(["", "files", *sizes]))


def _about(line: dict[Any, Any], run: results.Run) -> str:
    """When and on what it was trained, as far as that is recorded."""
    summary = run.summary
    parts = []
    if math.isfinite(line["seconds"]):
        many = summary.cohort_size if summary and summary.cohort_size else 1
        together = f", beside {many - 1} more" if many > 1 else ""
        parts.append(f"{line['seconds']:.0f} s on {line['device']}{together}")
    if summary is not None and summary.versions:
        named = ("vae-sweep", "torch")
        parts.append(", ".join(f"{n} {summary.versions.get(n, '?')}" for n in named))
    if summary is not None and summary.command:
        parts.append(summary.command)
    return "\n".join(parts)


def _numbers(run: results.Run) -> Table:
    """The metrics of the last row, a column for each split."""
    row = run.rows[-1] if len(run.rows) else {}
    names = dict.fromkeys(key.partition("/")[2] for key in row if "/" in key)
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column(f"step {row['step']:.0f}" if row else "no row yet")
    for split in SPLITS:
        table.add_column(split, justify="right")
    for name in names:
        values = [row.get(f"{split}/{name}", math.nan) for split in SPLITS]
        if any(map(math.isfinite, values)):
            cells = (f"{v:.5g}" if math.isfinite(v) else "–" for v in values)
            table.add_row(name, *cells)
    return table


def _theory(stated: dict[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("what theory said")
    table.add_column("", justify="right")
    for name, label in THEORY.items():
        value = stated.get(name)
        if value is not None and math.isfinite(value):
            table.add_row(label, f"{value:.5g}")
    return table


def _values(config: RunConfig) -> dict[str, Any]:
    values = config.model_dump(mode="json", exclude={"versions"})
    for key, section in values.items():
        if isinstance(section, dict) and "name" in section:
            values[key] = {"name": section["name"], **section}
    return {key: v for key, v in values.items() if v or key not in UNSET}


class _Dumper(yaml.SafeDumper):
    """Lists in a line: widths=[32, 64]."""


_Dumper.add_representer(
    list,
    lambda dumper, items: dumper.represent_sequence("tag:yaml.org,2002:seq", items, True),
)


def _yaml(values: dict[str, Any]) -> str:
    """Readable YAML, in the order of a point's keys."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False).rstrip()


def _shared(plain: list[dict[str, Any]]) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """(what all points have, dotted key -> the values of those that differ)."""
    flat = [results.flattened(values) for values in plain]
    keys = dict.fromkeys(key for values in flat for key in values)
    seen = {key: dict.fromkeys(v[key] for v in flat if key in v) for key in keys}
    differ = {
        key: list(values)
        for key, values in seen.items()
        if len(values) > 1 or any(key not in v for v in flat)
    }
    return _without(plain[0], set(differ)), differ


def _without(values: dict[str, Any], dotted: set[str], prefix: str = "") -> dict[str, Any]:
    """Nested values without some keys, and without sections that are then empty."""
    kept: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            inner = _without(value, dotted, f"{prefix}{key}.")
            if inner:
                kept[key] = inner
        elif prefix + key not in dotted:
            kept[key] = value
    return kept
