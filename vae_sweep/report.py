"""One HTML page of a sweep, for any browser: `python -m vae_sweep.report runs/main`.

Writes runs/<sweep>/report.html, which needs nothing but itself: no network, no files.
"""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import vae_sweep
from vae_sweep.errors import UserError
from vae_sweep.files import write_atomically
from vae_sweep.system import machine, stop


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; type python -m vae_sweep.report runs/<sweep>")


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
    """The command. Exit codes: 0, 2 bad input."""
    with stop.handled():
        _main()


def _main() -> None:
    parser = _Parser(
        prog="python -m vae_sweep.report", description=__doc__, allow_abbrev=False
    )
    parser.add_argument("folder", type=Path, help="runs/<sweep>")
    parser.add_argument(
        "-o", "--output", type=Path, help="the page's file; folder/report.html unless set"
    )
    version = f"vae-sweep {vae_sweep.__version__}"
    parser.add_argument("--version", action="version", version=version)
    try:
        machine.start()
        typed = parser.parse_args()
        path = write(typed.folder, typed.output, print)
        print(f"report: {path} ({path.stat().st_size / 1e6:.1f} MB)", flush=True)
    except BrokenPipeError:  # `... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        print(f"error: {machine.of_system(error)}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
