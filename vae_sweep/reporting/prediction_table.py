"""A list of points, from validation to the table of their predictions."""

import errno
import math
from collections.abc import Callable
from typing import Any

import pandas as pd
from rich.table import Table
from rich.text import Text

from vae_sweep.config import RunConfig
from vae_sweep.data.dataset import Datasets
from vae_sweep.errors import UserError
from vae_sweep.files import write_atomically
from vae_sweep.records import results
from vae_sweep.reporting.console import Console
from vae_sweep.theory.prediction import predict
from vae_sweep.training.locate import locate
from vae_sweep.training.prepare import prepare

# printed column -> (column of the frame, format)
NUMBERS = {
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
# of a table that would be wider than the terminal; the file has them all
LESS = (
    *("floor_mse", "floor_mse_pixel", "beta_pixel", "mse_pixel"),
    *("psnr_cap_val", "psnr_cap_test", "psnr_clipped"),
)
FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)  # as of a sweep that is another's
NAMED = 6  # points named beside a sentence that several share


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
    console.print(_table(predicted, console))
    _print_sentences(predicted, console)
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
            console.say(f"warning: the table was not kept in {said}")
        else:
            console.say(f"table: {path}")


def _table(predicted: pd.DataFrame, console: Console) -> Table:
    identity = results.distinguishing(predicted)
    table = _rich_table(predicted, identity, list(NUMBERS))
    unlimited = console.options.update_width(1000)
    if console.measure(table, options=unlimited).maximum <= console.width:
        return table
    labels = results.labels(predicted)  # of two sweeps, a point may stand in both
    names = pd.DataFrame({"run": [labels[run_id] for run_id in predicted["run_id"]]})
    kept = [name for name, (column, _) in NUMBERS.items() if column not in LESS]
    return _rich_table(predicted, names, kept)


def _rich_table(predicted: pd.DataFrame, identity: pd.DataFrame, numbers: list[str]):
    table = Table(box=None, pad_edge=False, caption_justify="left")
    table.caption = "active units to bits/dim: of a linear VAE at its optimum"
    for name in identity.columns:
        table.add_column(Text(str(name)), no_wrap=name != "run", overflow="fold")
    for name in ("targets", *numbers):
        table.add_column(Text(name), justify="right", no_wrap=True)
    for i, line in enumerate(predicted.to_dict("records")):
        ends = f"{line['target_low']:.3g}..{line['target_high']:.3g}"
        cells = (_cell(line, name) for name in numbers)
        table.add_row(*map(str, identity.iloc[i]), ends, *cells)
    return table


def _cell(line: dict[Any, Any], name: str) -> str:
    column, form = NUMBERS[name]
    value = line[column]
    if column in ("outside", "floor_mse", "floor_mse_pixel") and value == 0:
        return "–"
    return form.format(value) if math.isfinite(value) else "–"


def _print_sentences(predicted: pd.DataFrame, console: Console) -> None:
    """Each sentence once, under the points that it is of."""
    names = results.labels(predicted)
    for sentence, rows in predicted.groupby("sentence", sort=False):
        of = [names[str(run_id)] for run_id in rows["run_id"]]
        more = f" and {len(of) - NAMED} more" if len(of) > NAMED else ""
        console.print(Text("; ".join(of[:NAMED]) + more, "bold"), soft_wrap=True)
        console.print(Text(f"  {sentence}."), soft_wrap=True)
