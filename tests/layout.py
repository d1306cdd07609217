"""The figures of the package's layout: `python tests/layout.py` prints them.

A unit is a folder of vae_sweep/, or a module beside the folders. Floors are the longest
chain of imports, arrows the pairs of which one imports the other, entries what `ls` shows.
With `--follow` a point is trained, and the files are listed that its RunConfig is handed
to, from the command line to the first row of metrics.csv; a folder is entered anew whenever
the way comes to it from another.
"""

import argparse
import ast
import sys
import tempfile
import threading
from collections import Counter
from contextlib import chdir
from functools import cache
from graphlib import TopologicalSorter
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

PACKAGE = Path(__file__).parents[1] / "vae_sweep"
SMALL = (
    *("model=small", "model.widths=[4,8]", "train.batch_size=8", "train.steps=4"),
    *("train.workers=1", "train.device=cpu", "log.wandb.mode=disabled"),
    *("data=npz", "data.path=images.npz", "data.cache=cache"),
)


def modules() -> dict[str, Path]:
    """Dotted name below vae_sweep -> file; a folder's own name for its __init__.py."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        found[".".join(parts)] = path
    return {name: path for name, path in found.items() if name}


@cache
def imports(name: str) -> frozenset[str]:
    """The modules of the package that a module imports anywhere in its text."""
    known = modules()
    found = set()
    for node in ast.walk(ast.parse(known[name].read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("vae_sweep"):
            base = (node.module or "").partition(".")[2]
            for alias in node.names:
                inner = f"{base}.{alias.name}".lstrip(".")
                found.add(inner if inner in known else base)
        elif isinstance(node, ast.Import):
            found |= {
                a.name.partition(".")[2] for a in node.names if "vae_sweep." in a.name
            }
    return frozenset(found & known.keys() - {name})


def unit(name: str) -> str:
    return name.partition(".")[0]


def graph(of=unit) -> dict[str, set[str]]:
    """Unit (or module, by `of=str`) -> those that it imports."""
    arrows: dict[str, set[str]] = {of(name): set() for name in modules()}
    for name in modules():
        arrows[of(name)] |= {of(other) for other in imports(name)} - {of(name)}
    return arrows


def floors(arrows: dict[str, set[str]]) -> int:
    """The length of the longest chain; CycleError where there is a circle."""
    height: dict[str, int] = {}
    for name in TopologicalSorter(arrows).static_order():
        height[name] = 1 + max((height[other] for other in arrows[name]), default=0)
    return max(height.values())


def entries() -> list[str]:
    return sorted(p.name for p in PACKAGE.iterdir() if p.name != "__pycache__")


def holds_config(value: Any) -> bool:
    """Whether it is a point's RunConfig, or has one; or a list of such."""
    from vae_sweep.config import RunConfig

    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        return any(holds_config(each) for each in value[:4])
    return isinstance(value, RunConfig) or isinstance(
        getattr(value, "config", None), RunConfig
    )


def followed() -> list[str]:
    """The files that a point's RunConfig is handed to, in turn, from the command to the
    first row of metrics.csv."""
    way: list[str] = []

    class Arrived(BaseException):
        pass

    def see(frame, event: str, _) -> None:
        path = Path(frame.f_code.co_filename)
        if event != "call" or not path.is_relative_to(PACKAGE):
            return
        name = str(path.relative_to(PACKAGE))
        sys.setprofile(None)  # what is looked at here is not on the way
        given = any(holds_config(value) for value in list(frame.f_locals.values()))
        sys.setprofile(see)
        if given and (not way or way[-1] != name):
            way.append(name)
        if frame.f_code.co_qualname == "RunFolder.append":
            raise Arrived

    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        pixels = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 3), np.uint8)
        np.savez("images.npz", images=pixels)
        from vae_sweep import run
        from vae_sweep.command import entry

        sys.argv = ["run.py", *SMALL]
        threading.setprofile(None)
        sys.setprofile(see)
        try:
            entry.main(run.run_grid, run.ABOUT)
        except Arrived:
            pass
        finally:
            sys.setprofile(None)
    return way


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--follow", action="store_true")
    asked = parser.parse_args()
    for kind, of in (("units", unit), ("modules", str)):
        arrows = graph(of)
        count = sum(map(len, arrows.values()))
        print(f"{len(arrows)} {kind}, {floors(arrows)} floors, {count} arrows")
    print(f"{len(entries())} entries in vae_sweep/")
    if asked.follow:
        way = followed()
        print(f"a point's way to its first row: {len(set(way))} files")
        print(" > ".join(way))
        units = [Path(name).parts[0] for name in way]
        turns = [unit for unit, _ in groupby(units)]
        print(f"{len(set(turns))} folders or modules, entered {len(turns)} times:")
        print(", ".join(f"{name} {count}" for name, count in Counter(turns).most_common()))


if __name__ == "__main__":
    main()
