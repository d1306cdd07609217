"""The table of a sweep: in a terminal, and on a page with means over seeds."""

import math
import textwrap
from collections.abc import Iterable
from typing import Any, NamedTuple

import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vae_sweep.records.results import NUMBERS, Results, labels, numbers, table
from vae_sweep.reporting.style import DIVERGED, Look

BUILT_IN = dict(NUMBERS.values())  # column -> digits
HEADER = 16  # characters of a line in a header that breaks
NEAR_CAP = 0.3  # dB
PREDICTIONS = ("pred. PSNR", "pred. KL", "pred. units")  # not printed where narrow

DIFFERENCES = {  # prediction -> (name of what follows it, observed column)
    "pred. PSNR": ("PSNR diff.", "val PSNR (dB)"),
    "pred. KL": ("KL diff.", "KL (nats)"),
    "pred. units": ("units diff.", "active units"),
}
MEASURED = ("val PSNR (dB)", "KL (nats)", "active units", "calibrated bits/dim")


def print_table(results: Results, console: Console) -> None:
    """Prints `table`; a star marks a PSNR that the head, not the training, limits."""
    frame, digits = table(results), _digits_of(results)
    printed = _rich_table(frame, digits)
    unlimited = console.options.update_width(1000)
    if console.measure(printed, options=unlimited).maximum > console.width:
        kept = [name for name in (*digits, "status") if name not in PREDICTIONS]
        frame = frame.filter(items=kept)
        frame.insert(0, "run", list(labels(results.finals).values()))  # wraps at spaces
        printed = _rich_table(frame, digits)
    console.print(printed)


def _digits_of(results: Results) -> dict[str, int]:
    """Column of numbers -> digits, in their order."""
    return dict(numbers(results.runs).values())


def _rich_table(frame: pd.DataFrame, digits: dict[str, int]) -> Table:
    caption = "sigma: noise of the decoder"
    if PREDICTIONS[0] in frame:
        caption += "; pred.: a linear VAE at its optimum"
    if any(map(math.isfinite, frame["PSNR cap (dB)"])):
        caption += f"; *: within {NEAR_CAP} dB of the cap of the head's range"
    printed = Table(box=None, pad_edge=False, caption=caption, caption_justify="left")
    for name in frame.columns:
        shown = Text("\n".join(header(str(name))))
        justify = "right" if name in digits or name == "seed" else "left"
        printed.add_column(shown, justify=justify, no_wrap=name != "run", overflow="fold")
    for line in frame.to_dict("records"):
        cells = (_printed(str(name), line, digits) for name in frame.columns)
        printed.add_row(*map(Text, cells))
    return printed


def header(name: str) -> list[str]:
    """A column's name in lines: the unit, or the last word, is the last."""
    if " (" not in name:
        return name.rsplit(" ", 1)
    label, unit = name.split(" (", 1)
    return [*textwrap.wrap(label, HEADER), f"({unit}"]


def absent(name: str, value: float) -> str:
    """What stands for a number that is not finite: a cap of inf is no cap."""
    return "?" if name == "PSNR cap (dB)" and math.isnan(value) else "–"


def _printed(name: str, line: dict[Any, Any], digits: dict[str, int]) -> str:
    value = line[name]
    if name not in digits:
        return str(value)
    if not math.isfinite(value):
        return absent(name, value)
    return f"{_star(name, line)}{value:.{_shown(name, value, digits)}f}"


def _star(name: str, line: dict[Any, Any]) -> str:
    """What marks a PSNR near the cap of the head's range."""
    near = name == "val PSNR (dB)" and line[name] >= line["PSNR cap (dB)"] - NEAR_CAP
    return "*" if near else ""


def _shown(name: str, value: float, digits: dict[str, int]) -> int:
    return 1 if name == "sigma (8-bit)" and value < 9.95 else digits[name]


class Cell(NamedTuple):
    """A number as it is shown and as it is sorted by, exact; "" where unknown."""

    text: str
    value: str
    spread: str = ""  # standard deviation over seeds


class Row(NamedTuple):
    """A line of a table: of a run, or of all seeds of a point."""

    run_id: str  # "" of several
    anchor: str
    label: str
    look: Look
    identity: dict[str, str]
    cells: list[Cell]


class Board(NamedTuple):
    """A table: names of the columns, and its lines."""

    identity: list[str]
    numbers: list[str]
    rows: list[Row]


def runs_table(loaded: Results, looked: dict[str, Look]) -> Board:
    """`table` with the differences observed - predicted, in the same units."""
    frame, digits = _with_differences(table(loaded)), _digits_of(loaded)
    shown = _with_their_differences(digits)
    identity = [name for name in frame.columns if name not in shown]
    names = labels(loaded.finals)
    rows = [
        Row(
            run_id=run_id,
            anchor=f"run-{i}",
            label=names[run_id],
            look=looked[run_id],
            identity={name: str(line[name]) for name in identity},
            cells=[_cell(name, line, digits) for name in shown],
        )
        for i, (run_id, line) in enumerate(
            zip(loaded.finals["run_id"], frame.to_dict("records"), strict=True)
        )
    ]
    return Board(identity, shown, rows)


def means_table(loaded: Results, looked: dict[str, Look]) -> Board | None:
    """Means over the finished seeds of each point; None where no point has two runs.

    Units as in `table`. What was measured has its standard deviation (n - 1).
    """
    finals = loaded.finals
    frame, digits = _with_differences(table(loaded)), _digits_of(loaded)
    shown = _with_their_differences(digits)
    measured = [*MEASURED, *(name for name in digits if name not in BUILT_IN)]
    identity = [n for n in frame.columns if n not in (*shown, "seed", "status")]
    points = [looked[run_id].label for run_id in finals["run_id"]]
    if len(set(points)) == len(points):
        return None
    rows = []
    for point, look in points_of(looked).items():
        members = [i for i, other in enumerate(points) if other == point]
        ended = [i for i in members if finals["status"].iloc[i] == "finished"]
        finished = frame.iloc[ended]
        means = finished[shown].mean().to_dict()
        spread = finished[measured].std().to_dict() if len(finished) > 1 else {}
        own = {name: str(frame[name].iloc[members[0]]) for name in identity}
        seeds = f"{len(finished)} of {len(members)}"
        cells = [_cell(n, means, digits, spread.get(n, math.nan)) for n in shown]
        first = f"run-{members[0]}"
        rows.append(Row("", first, point, look, own | {"seeds": seeds}, cells))
    return Board([*identity, "seeds"], shown, rows)


def filters(board: Board) -> dict[str, list[str]]:
    """Columns of identity that differ -> their values, numbers first and by size."""
    values = {name: {row.identity[name] for row in board.rows} for name in board.identity}
    return {name: sorted(v, key=_order) for name, v in values.items() if len(v) > 1}


def points_of(looked: dict[str, Look]) -> dict[str, Look]:
    """Point -> its look, which is a diverged run's only where all its runs diverged."""
    points: dict[str, Look] = {}
    for look in looked.values():
        if look.label not in points or points[look.label].marker == DIVERGED:
            points[look.label] = look
    return points


def decimal(value: float, digits: int, sign: str = "-") -> str:
    """As printed, with a true minus; `sign` is "+" where zero and above carry one."""
    if not math.isfinite(value):
        return "–"
    return f"{round(value, digits) + 0.0:{sign}.{digits}f}".replace("-", "−")


def _order(value: str) -> tuple[bool, float, str]:
    try:
        return False, float(value), value
    except ValueError:
        return True, 0.0, value


def _with_their_differences(columns: Iterable[str]) -> list[str]:
    """Columns of numbers in their order, each difference after its prediction."""
    pairs = [(name, DIFFERENCES.get(name, ("",))[0]) for name in columns]
    return [name for pair in pairs for name in pair if name]


def _with_differences(frame: pd.DataFrame) -> pd.DataFrame:
    new = {of[0]: frame[of[1]] - frame[name] for name, of in DIFFERENCES.items()}
    return frame.assign(**new)


def _cell(
    name: str, line: dict[Any, Any], digits: dict[str, int], spread: float = math.nan
) -> Cell:
    value = float(line[name])
    signed = {of[0]: BUILT_IN[predicted] for predicted, of in DIFFERENCES.items()}
    if name in signed:
        return Cell(decimal(value, signed[name], "+"), _exact(value))
    if not math.isfinite(value):
        return Cell(absent(name, value), _exact(value))
    places = _shown(name, value, digits)
    noise = "" if math.isnan(spread) else f"±{decimal(spread, max(places, 1))}"
    return Cell(_star(name, line) + decimal(value, places), _exact(value), noise)


def _exact(value: float) -> str:
    """As JavaScript's Number reads it."""
    if math.isnan(value):
        return ""
    return repr(value) if math.isfinite(value) else "Infinity"
