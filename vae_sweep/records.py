"""A run's folder: configuration, rows, checkpoint, picture, summary.

Rows are appended and flushed to disk; everything else is written beside its place and
then moved there, so that a kill at any moment leaves whole files. Nothing is unpickled.
"""

import csv
import hashlib
import io
import json
import math
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from filelock import FileLock, Timeout
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from vae_sweep import metrics
from vae_sweep.config import RunConfig, UserError
from vae_sweep.files import write_atomically
from vae_sweep.trainer import State

SPLITS = ("train", "val", "test")
COLUMNS = ("step", "epoch", *(f"{s}/{name}" for s in SPLITS for name in metrics.NAMES))
DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # libyaml's, many times faster
DISTRIBUTIONS = ("vae-sweep", "torch", "torchvision", "numpy", "hydra-core")

Row = Mapping[str, float]


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Holds the sweep folder for this process; UserError where that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = FileLock(folder / ".lock")
        held.acquire(timeout=0)
    except Timeout:
        raise UserError(
            f"another sweep is running in {folder}; wait for it, or set sweep=NAME"
        ) from None
    except OSError as error:
        raise UserError(
            f"the sweep folder {folder} must be writable: {error.strerror}; "
            f"set runs=FOLDER or sweep=NAME"
        ) from None
    try:
        yield
    finally:
        held.release()


class RunFolder:
    """`runs/<sweep>/<run_id>/` of one config, trained on data with `fingerprint`.

    `steps` are those of the run where `train.epochs` sets them: what then follows from
    the images is part of the identity, though not of the run_id.
    """

    def __init__(self, config: RunConfig, fingerprint: str, steps: int | None = None):
        self.config = config
        self.path = config.run_dir
        decisive = {**config.decisive, "images": fingerprint}
        if steps is not None:
            warmup = config.train.warmup(steps)
            if warmup != decisive["train"]["lr_warmup"]:
                decisive["lr_warmup"] = warmup
        content = json.dumps(decisive, sort_keys=True)
        self.identity = hashlib.sha256(content.encode()).hexdigest()[:16]

    def open(self) -> None:
        """Makes the folder and states the configuration in it."""
        self.path.mkdir(parents=True, exist_ok=True)
        values = self.config.model_dump(mode="json")
        text = yaml.dump(values, Dumper=DUMPER, sort_keys=False)
        write_atomically(self.path / "config.yaml", text.encode())

    def summary(self) -> dict[str, Any] | None:
        """The summary of a run that ended, on the same images and with all its rows; None
        otherwise."""
        try:
            summary = json.loads((self.path / "summary.json").read_text())
        except (OSError, ValueError):
            return None
        if not isinstance(summary, dict) or summary.get("identity") != self.identity:
            return None
        last = self.rows()[-1:]
        whole = bool(last) and last[0]["step"] == summary.get("steps")
        return summary if whole or summary.get("status") == "diverged" else None

    def rows(self) -> list[dict[str, float]]:
        """The whole rows so far, without a torn last line; none if the file is damaged."""
        try:
            text = (self.path / "metrics.csv").read_text()
            whole = text[: text.rfind("\n") + 1]
            header, *lines = csv.reader(io.StringIO(whole))
            if tuple(header) != COLUMNS:
                return []
            numbers = [[float(cell or "nan") for cell in line] for line in lines]
            return [dict(zip(COLUMNS, row, strict=True)) for row in numbers]
        except (OSError, ValueError):
            return []

    def append(self, row: Row) -> None:
        """Adds a row, unless one of its step is there (a resumed run passes it again)."""
        path = self.path / "metrics.csv"
        kept = self.rows()
        if kept and kept[-1]["step"] >= row["step"]:
            return
        if not kept:
            write_atomically(path, (",".join(COLUMNS) + "\n").encode())
        size = path.read_bytes().rfind(b"\n") + 1
        with path.open("r+b") as file:
            file.truncate(size)
            file.seek(size)
            cells = (_cell(row.get(key, math.nan)) for key in COLUMNS)
            file.write((",".join(cells) + "\n").encode())
            file.flush()
            os.fsync(file.fileno())

    def save_state(self, state: State) -> None:
        meta = {"identity": self.identity, "step": str(state.step)}
        tensors = {name: t.contiguous() for name, t in state.tensors.items()}
        write_atomically(self.path / "state.safetensors", save(tensors, meta))

    def load_state(self) -> tuple[State | None, str | None]:
        """(checkpoint, None), (None, None) where there is none, or (None, complaint).

        A complaint says that the old files were put aside and the run starts over.
        """
        path = self.path / "state.safetensors"
        if not path.exists():
            return None, self._set_aside("has rows but no checkpoint", "metrics.csv")
        try:
            with safe_open(path, framework="pt") as file:
                meta = file.metadata() or {}
                if meta.get("identity") != self.identity:
                    return None, self._set_aside("is of another configuration or data")
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            state = State(int(meta["step"]), tensors)
        except (SafetensorError, OSError, KeyError, ValueError):
            return None, self._set_aside("is truncated or damaged")
        kept = self.rows()
        if not kept or kept[-1]["step"] < state.step:  # rows come before checkpoints
            return None, self._set_aside("has no rows in metrics.csv")
        return state, None

    def _set_aside(self, why: str, first: str = "state.safetensors") -> str | None:
        """Renames checkpoint, rows and summary to NAME.old-K; None if nothing is there."""
        moved = []
        for name in dict.fromkeys((first, "metrics.csv", "summary.json")):
            path = self.path / name
            if path.exists():
                k = 1
                while (old := self.path / f"{name}.old-{k}").exists():
                    k += 1
                os.replace(path, old)
                moved.append(old.name)
        if not moved:
            return None
        return f"{self.path / first} {why}: starting over, kept {', '.join(moved)}"

    def save_picture(self, originals: np.ndarray, reconstructions: np.ndarray) -> Path:
        """reconstructions.png: originals above reconstructions, uint8 [n, H, W, C]."""
        rows = [np.concatenate(list(row), axis=1) for row in (originals, reconstructions)]
        picture = np.concatenate(rows)
        if picture.shape[2] not in (3, 4):
            picture = picture[:, :, 0]  # gray, or the first of two channels
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, "png")
        path = self.path / "reconstructions.png"
        write_atomically(path, buffer.getvalue())
        return path

    def finish(self, summary: dict[str, Any]) -> None:
        """Writes summary.json, which makes the run an ended one. nan becomes null."""
        content = {**summary, **environment(), "identity": self.identity}
        text = json.dumps(_without_nan(content), indent=2, allow_nan=False)
        write_atomically(self.path / "summary.json", text.encode())


def _cell(value: float) -> str:
    if math.isnan(value):
        return ""
    return str(int(value)) if value % 1 == 0 and abs(value) < 1e15 else repr(float(value))


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


@cache
def environment() -> dict[str, Any]:
    """The command, versions of what computes, and this checkout's commit (or None)."""
    here = Path(__file__).parent
    git = ["git", "-C", str(here), "rev-parse", "HEAD"]
    try:
        commit = subprocess.run(git, capture_output=True, text=True).stdout.strip()
    except OSError:
        commit = ""
    return {
        "command": shlex.join(["python", "-m", "vae_sweep.run", *sys.argv[1:]]),
        "versions": {name: version(name) for name in DISTRIBUTIONS},
        "threads": torch.get_num_threads(),
        "commit": commit or None,
    }
