"""A trained run as ordinary PyTorch: `vae-sweep export RUN FOLDER`."""

import argparse
from pathlib import Path

from vae_sweep.command import plain


def main() -> None:
    """`vae-sweep export`. Exit codes: 0, 2 bad input."""
    about = (
        "Writes a trained run as a folder that needs PyTorch alone: model.py, weights,\n"
        "the constants of the normalization, and a model card with the numbers."
    )
    examples = [
        "runs/main/zscore-linear-b1-s0-da8ff6f0 my_vae",
        "da8ff6f0 my_vae",
        "da8f my_vae --runs ~/runs",
    ]
    parser = plain.Parser("export", about, examples)
    parser.add_argument("run", help="the run's folder, its run_id, or the hash at its end")
    parser.add_argument("out", type=Path, help="a new or an empty folder")
    parser.add_argument(
        "--runs", type=Path, default=Path("runs"), help="where runs are looked for by name"
    )
    plain.main(parser, _run)


def _run(typed: argparse.Namespace) -> None:
    plain.see_working_folder()  # where a user's own network is
    from vae_sweep.reporting import standalone  # torch

    out = standalone.export(typed.run, typed.out, typed.runs.expanduser())
    names = sorted(path.name for path in out.iterdir())
    print(f"exported: {out} ({', '.join(names)})", flush=True)


if __name__ == "__main__":
    main()
