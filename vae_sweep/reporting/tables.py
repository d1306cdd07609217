"""The table of a sweep, and of its points with means over seeds: in a terminal, on a page,
and as table.csv."""

import math
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vae_sweep.files import write_atomically
from vae_sweep.records.comparisons import LEVEL, Interval, interval
from vae_sweep.records.results import (
    NUMBERS,
    Results,
    best,
    data_sets,
    labels,
    mixed,
    numbers,
    table,
)
from vae_sweep.reporting import style
from vae_sweep.reporting.style import Look, points_of

BUILT_IN = dict(NUMBERS.values())  # column -> digits
HEADER = 16  # characters of a line in a header that breaks
NEAR_CAP = 0.3  # dB
PREDICTIONS = ("pred. PSNR", "pred. KL", "pred. units")
TESTED = ("test PSNR (dB)", "test bits/dim")
NARROW = 60  # columns of a terminal, below which only LEAST have room
LEAST = ("val PSNR (dB)", "calibrated bits/dim", "run")
KEY = ("val PSNR (dB)", "calibrated bits/dim", "KL (nats)")  # what a phone shows as well

DIFFERENCES = {  # prediction -> (name of what follows it, observed column)
    "pred. PSNR": ("PSNR diff.", "val PSNR (dB)"),
    "pred. KL": ("KL diff.", "KL (nats)"),
    "pred. units": ("units diff.", "active units"),
}


def print_table(results: Results, console: Console) -> None:
    """Prints `table`, and where points have several seeds their means, the best of a column
    bold. A star marks a PSNR that the head, not the training, limits."""
    digits = _digits_of(results)
    frame = table(results)
    lines = frame.to_dict("records")
    columns = {
        name: [Text(_printed(name, line, digits)) for line in lines]
        for name in map(str, frame)
    }
    notes = ["sigma: noise of the decoder"]
    if any(map(math.isfinite, frame["PSNR cap (dB)"])):
        notes.append(f"*: within {NEAR_CAP} dB of the cap of the head's range")
    _print(columns, list(labels(results.finals).values()), notes, digits, console)
    points = _points(results, style.of_points(results.finals))
    if points:
        console.print()
        _print_means(results, points, console)
    warning = mixed(results)
    if warning:
        text = f"warning: {warning}"
        console.print(text, highlight=False, markup=False, soft_wrap=True)


def save_table(results: Results, folder: Path) -> Path:
    """Writes `table`, with its exact numbers, as folder/table.csv; returns its path."""
    path = folder / "table.csv"
    write_atomically(path, table(results).to_csv(index=False).encode())
    return path


def _digits_of(results: Results) -> dict[str, int]:
    """Column of numbers -> digits, in their order."""
    return dict(numbers(results.runs).values())


Columns = dict[str, list[Text]]


def _print_means(results: Results, points: "list[Point]", console: Console) -> None:
    """A line per point."""
    frame, digits = table(results), _digits_of(results)
    marked = _best_of(results, points)
    firsts = [point.members[0] for point in points]
    left_out = (*digits, "seed", "status", "run")
    identity = [name for name in map(str, frame) if name not in left_out]
    columns: Columns = {n: [Text(str(frame[n].iloc[i])) for i in firsts] for n in identity}
    columns["seeds"] = [Text(point.seeds) for point in points]
    for name in (name for name in digits if name in points[0].means):
        cells = [_mean_cell(name, point, digits) for point in points]
        columns[name] = [
            Text(f"{c.text} {c.spread}".strip(), "bold" if (i, name) in marked else "")
            for i, c in enumerate(cells)
        ]
    notes = [f"means over the finished seeds ± half of a {LEVEL:.0%} interval, Student's t"]
    notes += ["bold: the best"] if console.is_terminal and marked else []
    _print(columns, [point.look.label for point in points], notes, digits, console)


def _print(
    columns: Columns,
    names: list[str],
    notes: list[str],
    digits: dict[str, int],
    console: Console,
) -> None:
    """As many of the columns as fit: those that all lines share, and what matters least,
    are left out of a narrow terminal; `names` replace the first ones where it is not
    enough."""
    same = {
        name: cells[0].plain
        for name, cells in columns.items()
        if name not in KEY and len(names) > 1 and len({t.plain for t in cells}) == 1
    }
    steps = ((), (*same,), (*same, *TESTED), (*same, *TESTED, *PREDICTIONS))
    kept, left_out = columns, ()
    for left_out in steps:
        kept = {n: c for n, c in columns.items() if n not in left_out}
        if _fits(kept, digits, console):
            break
    else:
        kept = {n: c for n, c in kept.items() if n in (*digits, "status", "run")}
        kept = {"point": [Text(name) for name in names], **kept}  # wraps at spaces
        if console.width < NARROW:
            kept = {n: c for n, c in kept.items() if n in ("point", *LEAST)}
    if PREDICTIONS[0] in kept:
        notes = [*notes, "pred.: a linear VAE at its optimum"]
    shared = [f"{n} {text}" for n, text in same.items() if n in left_out and text != "–"]
    if shared:
        notes = [f"all: {', '.join(shared)}", *notes]
    console.print(_rich_table(kept, digits))
    console.print(Text("; ".join(notes), "italic dim"))


def _fits(columns: Columns, digits: dict[str, int], console: Console) -> bool:
    """Whether a table is as wide as the terminal, which its widest cells decide."""
    widest = {
        name: [max(cells, key=lambda cell: cell.cell_len)]
        for name, cells in columns.items()
    }
    unlimited = console.options.update_width(1000)
    measured = console.measure(_rich_table(widest, digits), options=unlimited)
    return measured.maximum <= console.width


def _rich_table(columns: Columns, digits: dict[str, int]) -> Table:
    printed = Table(box=None, pad_edge=False)
    for name in columns:
        justify = "right" if name in (*digits, "seed", "seeds") else "left"
        wraps = name in ("point", "other")
        head = Text("\n".join(header(name)))
        overflow = "fold" if wraps else "ellipsis"
        printed.add_column(head, justify=justify, no_wrap=not wraps, overflow=overflow)
    if any(column.no_wrap is False for column in printed.columns):
        for line in zip(*columns.values(), strict=True):
            printed.add_row(*line)
    else:  # a cell may hold a column: of thousands of lines less than half the time
        printed.add_row(*(Text("\n").join(cells) for cells in columns.values()))
    return printed


def header(name: str) -> list[str]:
    """A column's name in lines: the unit, or the last word, is the last."""
    if " (" not in name:
        return name.rsplit(" ", 1)
    label, unit = name.split(" (", 1)
    return [*textwrap.wrap(label, HEADER), f"({unit}"]


def absent(name: str, value: float) -> str:
    """How a number that is not finite is printed: a cap of inf is no cap."""
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
    spread: str = ""  # half of the interval of a mean over seeds
    best: bool = False  # of its column, among the points of one data set


class Row(NamedTuple):
    """A line of a table: of a run, or of all seeds of a point."""

    run_id: str  # "" of several
    short: str  # what names it in commands
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

    @property
    def marked(self) -> bool:
        """Whether a best one is marked."""
        return any(cell.best for row in self.rows for cell in row.cells)

    @property
    def same(self) -> dict[str, str]:
        """Columns that all of several lines share -> what they show."""
        shown = [
            row.identity | dict(zip(self.numbers, (c.text for c in row.cells), strict=True))
            for row in self.rows
        ]
        if len(shown) < 2:
            return {}
        first = {name: text for name, text in shown[0].items() if name not in KEY}
        return {n: t for n, t in first.items() if all(each[n] == t for each in shown)}


class Point(NamedTuple):
    """The seeds of a point: places of its runs in Results.finals, and the means of what
    has finished; column of `table` -> mean."""

    look: Look
    members: list[int]
    finished: int
    means: dict[str, Interval]

    @property
    def seeds(self) -> str:
        """How many seeds, and how many of them have finished."""
        count = len(self.members)
        return str(count) if self.finished == count else f"{self.finished} of {count}"


def _points(loaded: Results, looked: dict[str, Look]) -> list[Point]:
    """The points of a sweep; none where none has two runs, or no run has finished."""
    frame, digits = _with_differences(table(loaded)), _digits_of(loaded)
    shown = [name for name in _with_their_differences(digits) if name in frame]
    names = [looked[run_id].label for run_id in loaded.finals["run_id"]]
    ended = (loaded.finals["status"] == "finished").to_numpy()
    if len(set(names)) == len(names) or not ended.any():
        return []
    columns = {name: frame[name].to_numpy(dtype=float) for name in shown}
    members: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        members.setdefault(name, []).append(i)
    points = []
    for name, look in points_of(looked).items():
        finished = [i for i in members[name] if ended[i]]
        means = {column: interval(v[finished]) for column, v in columns.items()}
        points.append(Point(look, members[name], len(finished), means))
    return points


def _best_of(loaded: Results, points: Sequence[Point]) -> set[tuple[int, str]]:
    """(number of a point, column) of the best mean of each column, among the points of
    each data set."""
    sets = data_sets(loaded.runs)
    values = {
        column: [point.means[column].estimate for point in points]
        for column in (points[0].means if points else ())
    }
    return _best(loaded, [sets[point.members[0]] for point in points], values)


def _best(
    loaded: Results, sets: Sequence[str], values: dict[str, list[float]]
) -> set[tuple[int, str]]:
    headers, found = numbers(loaded.runs), set[tuple[int, str]]()
    for column, end in best(loaded.runs).items():
        header = headers[column][0] if column in headers else ""
        for name in set(sets) if header in values else ():
            those = [i for i, of in enumerate(sets) if of == name]
            finite = [i for i in those if math.isfinite(values[header][i])]
            if len(finite) > 1:
                choose = max if end == "highest" else min
                first = choose(values[header][i] for i in finite)
                found |= {(i, header) for i in finite if values[header][i] == first}
    return found


def runs_table(loaded: Results, looked: dict[str, Look]) -> Board:
    """`table` with the differences observed - predicted, in the same units.

    The best are marked where each run is a point of its own: among seeds it is noise.
    """
    frame, digits = _with_differences(table(loaded)), _digits_of(loaded)
    shown = [name for name in _with_their_differences(digits) if name in frame]
    identity = [name for name in frame.columns if name not in (*shown, "run")]
    names = labels(loaded.finals)
    marked = set[tuple[int, str]]()
    if len({look.label for look in looked.values()}) == len(looked):
        sound = (loaded.finals["status"] == "finished").to_numpy()
        values = {n: frame[n].where(sound).to_list() for n in shown}
        marked = _best(loaded, data_sets(loaded.runs), values)
    rows = [
        Row(
            run_id=run_id,
            short=line["run"],
            anchor=f"run-{i}",
            label=names[run_id],
            look=looked[run_id],
            identity={name: str(line[name]) for name in identity},
            cells=[_cell(n, line, digits)._replace(best=(i, n) in marked) for n in shown],
        )
        for i, (run_id, line) in enumerate(
            zip(loaded.finals["run_id"], frame.to_dict("records"), strict=True)
        )
    ]
    return Board(identity, shown, rows)


def means_table(loaded: Results, looked: dict[str, Look]) -> Board | None:
    """Means over the finished seeds of each point, with t intervals; None where no point
    has two runs. Units as in `table`."""
    points = _points(loaded, looked)
    if not points:
        return None
    frame, digits = table(loaded), _digits_of(loaded)
    shown = list(points[0].means)
    left_out = (*shown, "seed", "status", "run")
    identity = [name for name in frame.columns if name not in left_out]
    marked = _best_of(loaded, points)
    rows = []
    for i, point in enumerate(points):
        first = point.members[0]
        own = {name: str(frame[name].iloc[first]) for name in identity}
        own["seeds"] = point.seeds
        cells = [
            _mean_cell(name, point, digits)._replace(best=(i, name) in marked)
            for name in shown
        ]
        anchor = f"run-{first}"
        rows.append(Row("", "", anchor, point.look.label, point.look, own, cells))
    return Board([*identity, "seeds"], shown, rows)


def _mean_cell(name: str, point: Point, digits: dict[str, int]) -> Cell:
    mean = point.means[name]
    line = {column: of.estimate for column, of in point.means.items()}
    cell = _cell(name, line, digits)
    half = (mean.high - mean.low) / 2
    if not math.isfinite(half) or half == 0:
        return cell
    of = {after: before for before, (after, _) in DIFFERENCES.items()}
    places = digits[of.get(name, name)]
    return cell._replace(spread=f"±{decimal(half, max(places, 1))}")


def filters(board: Board) -> dict[str, list[str]]:
    """Columns of identity that differ -> their values, numbers first and by size."""
    values = {name: {row.identity[name] for row in board.rows} for name in board.identity}
    return {name: sorted(v, key=_order) for name, v in values.items() if len(v) > 1}


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


def _cell(name: str, line: dict[Any, Any], digits: dict[str, int]) -> Cell:
    value = float(line[name])
    signed = {of[0]: BUILT_IN[predicted] for predicted, of in DIFFERENCES.items()}
    if name in signed:
        return Cell(decimal(value, signed[name], "+"), _exact(value))
    if not math.isfinite(value):
        return Cell(absent(name, value), _exact(value))
    places = _shown(name, value, digits)
    return Cell(_star(name, line) + decimal(value, places), _exact(value))


def _exact(value: float) -> str:
    """As JavaScript's Number reads it."""
    if math.isnan(value):
        return ""
    return repr(value) if math.isfinite(value) else "Infinity"
