"""One HTML page of sweeps, for any browser: `vae-sweep report runs/main`.

Writes runs/<sweep>/report.html, which needs nothing but itself: no network, no files.
"""

import argparse
import math
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from vae_sweep.command import plain
from vae_sweep.errors import UserError
from vae_sweep.files import write_atomically
from vae_sweep.records import claim

EVERY_S = 5.0
SHARE = 0.2  # of a core, that following may take
LOOKS = 5  # within a second, for a process that trains


def write(
    *folders: Path,
    output: Path | None = None,
    tell: Callable[[str], None] = lambda line: None,
    every: float | None = None,
) -> Path:
    """Writes the page of sweeps, and each one's table.csv, replaced as a whole; returns the
    page's path.

    Args:
        folders: runs/<sweep>, one or several.
        output: The page's file; report.html in the first folder unless set.
        tell: Hears of runs that are left out.
        every: Seconds after which the page loads itself again; None: never.

    Raises:
        UserError: A folder holds no runs, `output` is a folder, or the page cannot be
            written.
    """
    from vae_sweep.records import results
    from vae_sweep.reporting import html, tables

    if output is not None and output.is_dir():
        raise UserError(f"--output {output} is a folder; name a file: --output FILE")
    loaded = results.read_all(folders)
    path = output or folders[0] / "report.html"
    content = html.page(folders, tell, every, loaded, path.parent).encode()
    try:
        write_atomically(path, content)
        for folder in folders:
            with suppress(OSError):  # of another user, say, whom the page is not
                alone = loaded if len(folders) == 1 else results.read(folder)
                tables.save_table(alone, folder)
    except OSError as error:
        raise UserError(
            f"the report is written to {path}: {error.strerror}; name another file: "
            f"--output FILE"
        ) from None
    return path


def follow(folders: Sequence[Path], output: Path | None, every: float) -> Path:
    """Writes the page anew until none of the sweeps trains any more; returns its path.

    It makes way for the training: at low priority, and less often where a page takes long.
    """
    named = " ".join(map(str, folders))
    heard = set[str]()

    def tell(line: str) -> None:
        if line not in heard:
            heard.add(line)
            print(line, flush=True)

    with suppress(AttributeError, OSError):  # Windows has none
        os.nice(10)
    trained = False
    while True:
        trains = _trains(folders)
        began = time.process_time()
        try:
            path = write(
                *folders, output=output, tell=tell, every=every if trains else None
            )
        except UserError:
            if trained or not trains:
                raise
            tell(f"waiting for the first run of {named}")
            time.sleep(1)
            continue
        if not trains:
            what = "has ended" if trained else "is not training"
            tell(f"{named} {what}: the page is final")
            return path
        tell(f"report: {path}, written anew every {every:g} s while {named} trains")
        trained = True
        time.sleep(max(every, (time.process_time() - began) / SHARE))


def _trains(folders: Sequence[Path]) -> bool:
    """Whether a process trains one of the sweeps; between two runs it holds none, for a
    moment."""
    for look in range(LOOKS):
        if any(claim.trains(folder) for folder in folders):
            return True
        if look < LOOKS - 1:
            time.sleep(1 / LOOKS)
    return False


def main() -> None:
    """`vae-sweep report`. Exit codes: 0, 2 bad input."""
    about = "Writes one HTML page of sweeps, which needs nothing but itself."
    examples = ["runs/main", "runs/main --follow", "runs/a runs/b -o page.html"]
    parser = plain.Parser("report", about, examples)
    parser.add_argument("folder", type=Path, nargs="+", help="runs/<sweep>, one or several")
    parser.add_argument(
        "-o", "--output", type=Path, help="the page's file; report.html in the first folder"
    )
    parser.add_argument(
        "--follow",
        action="store_true",
        help="rewrite it while a sweep trains",
    )
    parser.add_argument(
        "--every",
        type=float,
        metavar="SECONDS",
        help=f"with --follow, between two pages; {EVERY_S:g} unless set",
    )
    plain.main(parser, _run)


def _run(typed: argparse.Namespace) -> None:
    if typed.every is not None and not typed.follow:
        raise UserError("--every goes with --follow; add --follow, or leave --every out")
    every = EVERY_S if typed.every is None else typed.every
    if not (math.isfinite(every) and every >= 1):
        raise UserError(f"--every takes seconds, at least 1; got {every:g}")
    if typed.follow:
        path = follow(typed.folder, typed.output, every)
    else:
        path = write(*typed.folder, output=typed.output, tell=print)
    print(f"report: {path} ({path.stat().st_size / 1e6:.1f} MB)", flush=True)


if __name__ == "__main__":
    main()
