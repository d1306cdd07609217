"""One HTML page of a sweep, for any browser: `python -m vae_sweep.report runs/main`.

Writes runs/<sweep>/report.html, which needs nothing but itself: no network, no files.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

from vae_sweep.command import plain
from vae_sweep.errors import UserError
from vae_sweep.files import write_atomically


def write(
    folder: Path,
    output: Path | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> Path:
    """Writes the page of a sweep, replaced as a whole; returns its path.

    `output` is the file, else `folder`/report.html; `tell` hears of runs that are left
    out. Raises UserError where `folder` holds
    no runs or the page cannot be written.
    """
    from vae_sweep.reporting import html

    content = html.page(folder, tell).encode()
    path = output or folder / "report.html"
    try:
        write_atomically(path, content)
    except OSError as error:
        raise UserError(
            f"the report is written to {path}: {error.strerror}; name another file: "
            f"--output FILE"
        ) from None
    return path


def main() -> None:
    """`vae-sweep report`. Exit codes: 0, 2 bad input."""
    about = "Writes one HTML page of a sweep, which needs nothing but itself."
    examples = ["runs/main", "runs/main -o page.html", "runs/main --output /tmp/main.html"]
    parser = plain.Parser("report", about, examples)
    parser.add_argument("folder", type=Path, help="runs/<sweep>")
    parser.add_argument(
        "-o", "--output", type=Path, help="the page's file; folder/report.html unless set"
    )
    plain.main(parser, _run)


def _run(typed: argparse.Namespace) -> None:
    path = write(typed.folder, typed.output, print)
    print(f"report: {path} ({path.stat().st_size / 1e6:.1f} MB)", flush=True)


if __name__ == "__main__":
    main()
