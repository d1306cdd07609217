"""Finds a run by what a user calls it: its folder, its run_id, or its short hash."""

import re
from collections.abc import Mapping
from pathlib import Path

from vae_sweep.errors import UserError, nearest, no_folder, shown

LEAST = 4  # digits of a hash that name a run
NAMED = 4  # folders that an error names
HASH = re.compile(r"[0-9a-f]{8}")
FILES = ("config.yaml", "summary.json", "metrics.csv", "state.safetensors")


def is_run(path: Path) -> bool:
    """Whether a path is a run's folder, if only of a damaged one."""
    if path.name.startswith(".") or not path.is_dir():
        return False
    return any((path / name).exists() for name in FILES)


def copies(stated: Mapping[str, str]) -> dict[str, str]:
    """Folder -> the one that it is a copy of, where several hold one run. That which has
    the run's name is the original, or else the first.

    Args:
        stated: Folder -> the run_id that it states, named alike.
    """
    originals: dict[str, str] = {}
    for folder, run_id in sorted(stated.items(), key=lambda item: item[0] != item[1]):
        originals.setdefault(run_id, folder)
    return {f: originals[i] for f, i in stated.items() if originals[i] != f}


def short_hash(run_id: str) -> str:
    """The hash that a run_id ends in; the whole name of a folder that was renamed."""
    last = run_id.rpartition("-")[2]
    return last if HASH.fullmatch(last) else run_id


def run_folder(name: Path | str, runs: Path | str = "runs") -> Path:
    """The folder of the run that `name` means.

    Args:
        name: A run's folder (also relative to `runs`), its run_id, or the short hash that
            its run_id ends in: 8 hex digits, or the first 4 or more of them.
        runs: Where sweeps are looked for; one sweep's folder, too.

    Raises:
        UserError: No run has this name, or several have.
    """
    text, runs = str(name), Path(runs)
    for path in (Path(name), runs / name):
        if text and is_run(path):
            return path
    found = [path for path in _runs(runs) if path.name == text]
    if not found and re.fullmatch(rf"[0-9a-f]{{{LEAST},8}}", text.lower()):
        hashes = [(path, short_hash(path.name)) for path in _runs(runs)]
        found = [path for path, each in hashes if each.startswith(text.lower())]
    found = [path for path in found if is_run(path)]
    if len(found) == 1:
        return found[0]
    if found:
        more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
        raise UserError(
            f"{shown(text)} means {len(found)} runs: "
            f"{', '.join(map(str, found[:NAMED]))}{more}; name the folder"
        )
    raise UserError(_none(text, runs))


def _runs(runs: Path) -> list[Path]:
    """What may be a run's folder, of all sweeps in `runs` and of `runs` itself."""
    return sorted(path for pattern in ("*", "*/*") for path in runs.glob(pattern))


def _none(text: str, runs: Path) -> str:
    """What to say of a name that no run has."""
    for path in (Path(text), runs / text):
        inside = sorted(filter(is_run, path.iterdir())) if path.is_dir() and text else []
        if inside:
            return (
                f"{path} is a sweep of {len(inside)}, not a run; name one of its runs, "
                f"such as {inside[0]}"
            )
    rule = (
        f"a run is named by its folder, its run_id, or the first {LEAST} to 8 digits of "
        f"the hash at its end; got {shown(text)}"
    )
    if re.fullmatch(rf"[0-9a-f]{{1,{LEAST - 1}}}", text.lower()):
        return f"{rule}; type {LEAST} digits or more"
    if not runs.is_dir():
        return f"{rule}, and {no_folder(runs)}; name the run's folder"
    names = [path.name for path in _runs(runs) if is_run(path)]
    if not names:
        return f"{rule}, and {runs} holds no runs; name the run's folder"
    meant = nearest(text, [*names, *map(short_hash, names)])
    remedy = f"did you mean {meant}?" if meant else f"the first is {names[0]}"
    return f"{rule}, which none of the {len(names)} runs in {runs} has; {remedy}"
