"""What predict prints: a table that fits, and each thing said once."""

import io
import re

import pandas as pd
import pytest

from vae_sweep.reporting import prediction_table
from vae_sweep.reporting.console import Console

NORMS = {"zscore": (0.3, 21.0), "unit": (0.0, float("inf"))}


def grid(seeds=(0,), betas=("0.1", "1")) -> pd.DataFrame:
    """As `frame` makes it, of 2 norms, 2 heads, betas and seeds."""
    rows = []
    for norm, (outside, cap) in NORMS.items():
        for head in ("tanh", "linear"):
            for beta in betas:
                for seed in seeds:
                    limited = head == "tanh" and outside
                    said = f"{head} reaches every target"
                    if limited:
                        said = f"30 % lie outside {head}'s range: no network can pass 21 dB"
                    noise = f"implied noise {float(beta) * 10:g}/255 leaves 4 of 4 in use"
                    if beta == "1" and norm == "unit":
                        noise = "beta=1 is too much"
                    rows.append(
                        {
                            **{"run_id": f"r{len(rows)}", "norm": norm, "target": norm},
                            **{"head": head, "likelihood": "mse", "reduction": "sum"},
                            **{"beta": beta, "seed": seed, "other": "", "target_low": 0.0},
                            **{"target_high": 1.0, "sentence": f"{said}; {noise}"},
                            **dict.fromkeys(
                                [c for c, _ in prediction_table.NUMBERS.values()], 1.5
                            ),
                            **{"outside": outside if limited else 0.0},
                            **{"psnr_cap": cap if limited else float("inf")},
                        }
                    )
    return pd.DataFrame(rows).drop(columns="targets")


def printed(predicted: pd.DataFrame, width: int, monkeypatch, terminal=False) -> list[str]:
    console = Console(least=width)
    console.file = io.StringIO()
    console.width = width
    console._force_terminal = terminal
    prediction_table.print_predictions(predicted, console)
    text = re.sub(r"\x1b\[[0-9;]*m", "", console.file.getvalue())
    return [line.rstrip() for line in text.splitlines()]


def words_of(lines: list[str]) -> list[str]:
    return lines[lines.index("range") :]


def test_each_thing_is_said_once_with_the_points_that_share_it(monkeypatch):
    assert words_of(printed(grid(), 160, monkeypatch)) == [
        "range",
        "  norm=zscore head=tanh (2 points): 30 % lie outside the head's range: no network "
        "can pass 21 dB.",
        "  the other 6 points: the head reaches every target.",
        "noise",
        # 0.1 and 1 times 10
        "  norm=unit beta=1 (2 points): beta=1 is too much.",
        "  the other 6 points: implied noise 1 to 10/255 leaves 4 of 4 in use.",
    ]


def test_seeds_are_one_line(monkeypatch):
    once, thrice = grid(), grid(seeds=(0, 1, 2))
    lines = printed(thrice, 160, monkeypatch)
    assert words_of(lines) == words_of(printed(once, 160, monkeypatch))
    assert sum(line.startswith(("zscore", "unit")) for line in lines) == 8
    assert any("3 seeds, all the same" in line for line in lines)
    assert "seed" not in lines[0].split() + lines[1].split()


@pytest.mark.parametrize("width", [80, 120, 160])
def test_the_table_fits_with_whole_names(width, monkeypatch):
    lines = printed(grid(), width, monkeypatch, terminal=True)
    assert all(len(line) <= width for line in lines)
    names = [line for line in lines if line.startswith(("zscore", "unit"))]
    assert len(names) == 8  # none is broken over lines


@pytest.mark.parametrize(("width", "rest"), [(64, True), (40, False)])
def test_a_narrow_table_keeps_noise_and_cap_beside_the_points(width, rest, monkeypatch):
    lines = printed(grid(), width, monkeypatch, terminal=True)
    table = lines[: next(i for i, line in enumerate(lines) if line.startswith("range"))]
    assert all(len(line) <= width for line in table)
    assert "…" not in "".join(table)  # no number is cut
    assert "PSNR cap" in table[0]
    assert "sigma" in table[0]
    assert sum(line.startswith(("zscore", "unit")) for line in table) == 8
    assert any(": a linear VAE" in line for line in table) == rest


def test_one_point_has_its_name(monkeypatch):
    lines = words_of(printed(grid().head(1), 160, monkeypatch))
    assert lines[1].startswith("  zscore · tanh · β 0.1: 30 %")


def test_points_that_nothing_tells_from_the_rest_are_named(monkeypatch):
    predicted = grid()
    predicted["sentence"] = [f"case {'abc'[i % 3]}; same" for i in range(8)]
    lines = words_of(printed(predicted, 160, monkeypatch))
    assert len(lines) == 6  # three sentences of the range, one of the noise, two titles
    assert (
        "  zscore · tanh · β 0.1; zscore · linear · β 1; unit · linear · β 0.1: case a."
        in lines
    )
