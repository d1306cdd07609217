"""One HTML page of a sweep, for any browser: `python -m vae_sweep.report runs/main`.

Writes runs/<sweep>/report.html, which needs nothing but itself: no network, no files.
"""

import argparse
import sys
from pathlib import Path
from typing import NoReturn

from vae_sweep.config import UserError
from vae_sweep.files import write_atomically


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; type python -m vae_sweep.report runs/<sweep>")


def write(folder: Path) -> Path:
    """Writes folder/report.html, replaced as a whole; returns its path.

    Raises UserError where `folder` holds no runs or cannot be written to.
    """
    from vae_sweep import report_page  # pandas takes a second to import

    content = report_page.page(folder).encode()
    path = folder / "report.html"
    try:
        write_atomically(path, content)
    except OSError as error:
        raise UserError(f"the report is written to {path}: {error.strerror}") from None
    return path


def main() -> None:
    """The command. Exit codes: 0, 2 bad input."""
    parser = _Parser(prog="python -m vae_sweep.report", description=__doc__)
    parser.add_argument("folder", type=Path, help="runs/<sweep>")
    try:
        path = write(parser.parse_args().folder)
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    print(f"report: {path} ({path.stat().st_size / 1e6:.1f} MB)")


if __name__ == "__main__":
    main()
