"""A list of points, from validation to the table of their predictions."""

import errno
import math
import re
from collections.abc import Callable
from typing import Any

import pandas as pd
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from vae_sweep.config import RunConfig
from vae_sweep.data.dataset import Datasets
from vae_sweep.errors import UserError, counted
from vae_sweep.files import write_atomically
from vae_sweep.records import results
from vae_sweep.reporting.console import Console
from vae_sweep.theory.prediction import predict
from vae_sweep.training.locate import locate
from vae_sweep.training.prepare import prepare

# printed column -> (column of the frame, format)
NUMBERS = {
    "targets": ("targets", "{}"),
    "outside\nrange": ("outside", "{:.1%}"),
    "floor, MSE\n(target)": ("floor_mse", "{:.4f}"),
    "floor, MSE\n(pixels)": ("floor_mse_pixel", "{:.5f}"),
    "PSNR cap\ntrain (dB)": ("psnr_cap", "{:.2f}"),
    "PSNR cap\nval (dB)": ("psnr_cap_val", "{:.2f}"),
    "PSNR cap\ntest (dB)": ("psnr_cap_test", "{:.2f}"),
    "sigma\n(8-bit)": ("sigma", "{:.3g}"),
    "beta\n(pixels)": ("beta_pixel", "{:.3g}"),
    "active\nunits": ("active_units", "{:.0f}"),
    "KL\n(nats)": ("kl", "{:.1f}"),
    "MSE\n(pixels)": ("mse_pixel", "{:.5f}"),
    "PSNR\n(dB)": ("psnr", "{:.2f}"),
    "in range\n(dB)": ("psnr_clipped", "{:.2f}"),
    "bits/dim": ("bits_per_dim", "{:.3f}"),
}
OPTIMUM = ("active_units", "kl", "mse_pixel", "psnr", "psnr_clipped", "bits_per_dim")
# of a table that would be wider than the terminal; the file has them all
LESS = (
    *("floor_mse", "floor_mse_pixel", "beta_pixel", "mse_pixel"),
    *("psnr_cap_val", "psnr_cap_test", "psnr_clipped"),
)
# of one that then still is, one after the other; the noise and the cap stay
LEAST = ("targets", "outside", "bits_per_dim", "active_units", "kl", "psnr")
FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)  # as of a sweep that is another's
NAMED = 6  # points named beside a sentence that several share
NUMBER = re.compile(r"(?<![\w.])\d+(?:\.\d+)?(?:e[+-]\d+)?(?![\w.]*\w)")


def frame(configs: list[RunConfig], tell: Callable[[str], None]) -> pd.DataFrame:
    """A row per point: results.IDENTITY, then the fields of Prediction but the curve.

    Points that lie in one folder have one row. `tell` hears what was read, and warnings.
    Raises UserError where prepare does.
    """
    datasets = Datasets()
    prepared = prepare(locate(configs, datasets), tell)
    datasets.say(tell)
    rows = []
    for p in prepared:
        prediction = predict(p.config, p.point, p.dataset)._asdict()
        rows.append({k: v for k, v in prediction.items() if k != "curve"})
    identities = results.identities([p.config for p in prepared])
    return pd.concat([identities, pd.DataFrame(rows)], axis=1)


def run(configs: list[RunConfig]) -> None:
    """Prints the table and the sentences, and writes predicted.csv per sweep.

    Where that is not permitted, a warning says so: what was asked for has been printed.
    Raises UserError where a point cannot be trained, or no folder can be where it must be.
    """
    configs = list({c.run_dir: c for c in configs}.values())
    console = Console(least=160)
    predicted = frame(configs, console.say)
    print_predictions(predicted, console)
    for folder in dict.fromkeys(c.sweep_dir for c in configs):
        rows = predicted[[c.sweep_dir == folder for c in configs]]
        path = folder / "predicted.csv"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically(path, rows.to_csv(index=False).encode())
        except OSError as error:
            said = f"{path}: {error.strerror or error}; set runs=FOLDER"
            if error.errno not in FORBIDDEN:
                raise UserError(f"predictions are written to {said}") from None
            console.say(f"warning: the table was not written to {said}")
        else:
            console.say(f"table: {path}")


def print_predictions(predicted: pd.DataFrame, console: Console) -> None:
    """Prints the table of `frame`, and what it means in words; points that differ in their
    seeds alone, of which theory knows nothing, are one line."""
    same = [name for name in predicted if name not in ("run_id", "seed")]
    shown = predicted.drop_duplicates(same).reset_index(drop=True)
    seeds = predicted["seed"].nunique()
    if len(shown) * seeds == len(predicted):
        shown = shown.assign(seed=shown["seed"].iloc[0])  # which tells no two apart
    targets = [
        f"{low:.3g}..{high:.3g}"
        for low, high in zip(shown["target_low"], shown["target_high"], strict=True)
    ]
    table = _table(shown.assign(targets=targets), console)
    headers = [str(column.header) for column in table.columns]
    of_optimum = [h for h in headers if h in NUMBERS and NUMBERS[h][0] in OPTIMUM]
    ends = [h.partition(" (")[0].replace("\n", " ") for h in of_optimum]
    span = " to ".join(dict.fromkeys([ends[0], ends[-1]])) if ends else ""
    said = [f"columns {span}: a linear VAE at its optimum"] if span else []
    said += [f"{seeds} seeds, all the same"] if len(shown) < len(predicted) else []
    table.caption = "; ".join(said) or None
    console.print(table)
    _print_sentences(shown, console)


def _table(predicted: pd.DataFrame, console: Console) -> Table:
    """The columns that there is room for."""
    labels = results.labels(predicted)  # of two sweeps, a point may stand in both
    names = pd.DataFrame({"point": [labels[run_id] for run_id in predicted["run_id"]]})
    less = {name: of for name, of in NUMBERS.items() if of[0] not in LESS}
    least = [
        [name for name, (column, _) in less.items() if column not in LEAST[:count]]
        for count in range(2, len(LEAST) + 1)
    ]
    choices = [
        (results.distinguishing(predicted), list(NUMBERS)),
        (names, list(less)),
        *((names, numbers) for numbers in least),
    ]
    unlimited = console.options.update_width(1000)
    table = _rich_table(predicted, *choices[0])
    for choice in choices[1:]:
        if console.measure(table, options=unlimited).maximum <= console.width:
            break
        table = _rich_table(predicted, *choice)
    return table


def _rich_table(
    predicted: pd.DataFrame, identity: pd.DataFrame, numbers: list[str]
) -> Table:
    table = Table(box=None, pad_edge=False, caption_justify="left")
    for name in identity.columns:
        table.add_column(Text(str(name)), no_wrap=name != "point", overflow="fold")
    for name in numbers:
        table.add_column(Text(name), justify="right", no_wrap=True)
    for i, line in enumerate(predicted.to_dict("records")):
        cells = (_cell(line, name) for name in numbers)
        table.add_row(*map(str, identity.iloc[i]), *cells)
    return table


def _cell(line: dict[Any, Any], name: str) -> str:
    column, form = NUMBERS[name]
    value = line[column]
    if isinstance(value, str):
        return value
    if column in ("outside", "floor_mse", "floor_mse_pixel") and value == 0:
        return "–"
    return form.format(value) if math.isfinite(value) else "–"


def _print_sentences(predicted: pd.DataFrame, console: Console) -> None:
    """What the head's range costs and what the noise means, each once, with its points."""
    pairs = [
        (sentence.replace(str(head), "the head", 1).partition("; "))
        for sentence, head in zip(predicted["sentence"], predicted["head"], strict=True)
    ]
    for number, title in ((0, "range"), (2, "noise")):
        groups: dict[str, list[int]] = {}
        for i, pair in enumerate(pairs):
            groups.setdefault(_template(pair[number]), []).append(i)
        console.print(Text(title, "bold"))
        words = {said: _in_words(predicted, rows) for said, rows in groups.items()}
        rest = [said for said, name in words.items() if name is None]
        for said, rows in sorted(groups.items(), key=lambda item: item[0] in rest):
            name = words[said]
            if name is None and len(rest) == 1 < len(groups):
                name = f"the other {counted(len(rows), 'point')}"
            merged = _merged([pairs[i][number] for i in rows])
            line = Text(f"{name or _named(predicted, rows)}: {merged}.")
            if console.is_terminal:
                console.print(Padding(line, (0, 0, 0, 2)))
            else:  # a line of a log has no edge
                console.print(Text("  ") + line, soft_wrap=True)


def _template(text: str) -> str:
    """A sentence without its numbers: those of one template are said as one."""
    return NUMBER.sub("#", text)


def _merged(texts: list[str]) -> str:
    """Sentences of one template as one, with the range of each number."""
    columns = zip(*(NUMBER.findall(text) for text in texts), strict=True)
    ranges = []
    for column in columns:
        low, high = min(column, key=float), max(column, key=float)
        ranges.append(low if low == high else f"{low} to {high}")
    found = iter(ranges)
    return NUMBER.sub(lambda _: next(found), texts[0])


def _in_words(predicted: pd.DataFrame, rows: list[int]) -> str | None:
    """Some points by what they alone have, `norm=zscore head=tanh (10 points)`; None where
    there is no such thing.

    Args:
        predicted: A row per point of the grid; results.IDENTITY.
        rows: Those that are meant.
    """
    if len(rows) == len(predicted) > 1:
        return f"all {counted(len(rows), 'point')}"
    chosen = predicted.iloc[rows]
    said, met = [], pd.Series(True, index=predicted.index)
    same = bool((predicted["target"] == predicted["norm"]).all())
    for column in results.IDENTITY[1:]:
        values = list(dict.fromkeys(chosen[column]))
        if len(values) < predicted[column].nunique() and not (same and column == "target"):
            met &= predicted[column].isin(values)
            name = "" if column == "other" else f"{column}="
            said.append(name + ",".join(map(str, values)))
    alone = said and int(met.sum()) == len(rows)
    return f"{' '.join(said)} ({counted(len(rows), 'point')})" if alone else None


def _named(predicted: pd.DataFrame, rows: list[int]) -> str:
    """The names of points, or of the first of many."""
    names = results.labels(predicted)
    of = [names[str(run_id)] for run_id in predicted["run_id"].iloc[rows]]
    more = f" and {len(of) - NAMED} more" if len(of) > NAMED else ""
    return "; ".join(of[:NAMED]) + more
