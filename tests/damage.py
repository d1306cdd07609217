"""Damages every file of a sweep in every way, and sees what the command and readers do.

`python tests/damage.py --readme tests/README.md` tries all cases, with every figure drawn,
and puts the table of outcomes between its two lines there; `test_damage.py` tries the same
cases with figures left out, which take most of the time.
"""

import argparse
import contextlib
import io
import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import pandas as pd
import torch
from helpers import TINY, make_config, make_images
from PIL import Image
from safetensors.numpy import load_file, save_file
from survival.__main__ import put_between

from vae_sweep import grid, report
from vae_sweep.command import entry
from vae_sweep.config import RunConfig
from vae_sweep.errors import Failed, UserError
from vae_sweep.records import results
from vae_sweep.reporting import figures, overview, progress

BEGIN, END = "<!-- damage: python tests/damage.py -->", "<!-- end of damage -->"
SWEEP = Path("runs/main")
SHARED = (
    *("runs=runs", "data.cache=cache", "model.widths=[4]", "train.steps=20"),
    *("train.eval_every=5", "log.every=2"),
)
DATA = {
    "npz": ("data=npz", "data.path=images.npz"),
    "dead_leaves": (
        *("data=dead_leaves", "data.images=50", "data.size=8"),
        *("data.val_images=5", "data.test_images=5"),
    ),
    "image_folder": ("data=image_folder", "data.path=pictures"),
}
STOPPED_AT = 10  # the step after which the interrupted sweep was killed
LATER = "a schema to come"  # which this version neither reads nor rewrites
IN_THE_WAY = ("a directory", "a file", "a dangling link")  # may be left to the user
ALLOWED = (UserError, Failed, OSError)  # what the command says in a line
Damage = Callable[[Path, Path], None]  # of a file, given the same file of another run


class Case(NamedTuple):
    """`harm` is done to `file` of the first run, or of the sweep or cache, in `state`."""

    data: str
    file: str
    kind: str
    state: str
    harm: Damage

    def __str__(self) -> str:
        return f"{self.file}, {self.kind}, {self.state}"


class Outcome(NamedTuple):
    """What readers show of the damaged sweep, what the command does, what went wrong."""

    read: str
    run: str
    failures: list[str]


# --- what can happen to any file ---


def missing(path: Path, _: Path) -> None:
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def empty(path: Path, _: Path) -> None:
    path.write_bytes(b"")


def truncated(path: Path, _: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def junk(path: Path, _: Path) -> None:
    path.write_bytes(np.random.default_rng(0).bytes(500))


def a_directory(path: Path, _: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "inside").write_text("kept")


def a_dangling_link(path: Path, twin: Path) -> None:
    missing(path, twin)
    path.symlink_to("nowhere")


def another_runs(path: Path, twin: Path) -> None:
    shutil.copyfile(twin, path)


ANY = {
    "missing": missing,
    "empty": empty,
    "truncated": truncated,
    "junk": junk,
    "a directory": a_directory,
    "a dangling link": a_dangling_link,
}


# --- metrics.csv and training.csv ---


def table(change: Callable[[list[list[str]]], Any]) -> Damage:
    """Changes the cells of a table: the first line is the header."""

    def harm(path: Path, _: Path) -> None:
        cells = [line.split(",") for line in path.read_text().splitlines()]
        cells = change(cells) or cells
        path.write_text("".join(",".join(line) + "\n" for line in cells))

    return harm


def other_digit(cells: list[list[str]]) -> None:
    old = cells[2][3]
    place = max(i for i, c in enumerate(old) if c in "12345678")
    cells[2][3] = old[:place] + str(int(old[place]) + 1) + old[place + 1 :]


def swap_columns(cells: list[list[str]]) -> None:
    for line in cells:
        line[2], line[3] = line[3], line[2]


def swap_names(cells: list[list[str]]) -> None:
    cells[0][2], cells[0][3] = cells[0][3], cells[0][2]


def put(line: int, column: int, cell: str) -> Callable[[list[list[str]]], None]:
    def change(cells: list[list[str]]) -> None:
        cells[line][column] = cell

    return change


def insert(position: int, content: bytes) -> Damage:
    def harm(path: Path, _: Path) -> None:
        old = path.read_bytes()
        place = position if position >= 0 else len(old) + position
        path.write_bytes(old[:place] + content + old[place:])

    return harm


TABLE = {
    "a digit changed": table(other_digit),
    "the first row missing": table(lambda cells: cells[:1] + cells[2:]),
    "a row missing": table(lambda cells: cells[:2] + cells[3:]),
    "the last row missing": table(lambda cells: cells[:-1]),
    "a row doubled": table(lambda cells: [*cells[:3], cells[2], *cells[3:]]),
    "two rows swapped": table(lambda cells: [*cells[:2], cells[3], cells[2], *cells[4:]]),
    "two columns swapped": table(swap_columns),
    "two names swapped": table(swap_names),
    "a column doubled": table(lambda cells: [[*line, line[2]] for line in cells]),
    "a column missing": table(lambda cells: [line[:2] + line[3:] for line in cells]),
    "the header alone": table(lambda cells: cells[:1]),
    "a huge number": table(put(2, 3, "1e999")),
    "a huge step": table(put(-1, 0, "9" * 400)),
    "a step beyond the end": table(put(-1, 0, "1000000")),
    "a negative step": table(put(1, 0, "-5")),
    "a step of nan": table(put(-1, 0, "nan")),
    "a step of 2.5": table(put(1, 0, "2.5")),
    "no number": table(put(2, 3, "oops")),
    "an empty cell": table(put(2, 3, "")),
    "a torn last line": insert(-1, b"\n10,0.1,3"),
    "no UTF-8": insert(-20, b"\xff\xfe"),
    "NUL bytes": insert(-20, b"\0\0"),
    "a quote": insert(-20, b'"'),
    "other line ends": lambda path, _: (
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n")) and None
    ),
    "another run's": another_runs,
}


# --- summary.json ---


def text(content: str | bytes) -> Damage:
    def harm(path: Path, _: Path) -> None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())

    return harm


def fields(**changed: Any) -> Damage:
    """Sets fields of a JSON object; Ellipsis removes one."""

    def harm(path: Path, _: Path) -> None:
        values = {**json.loads(path.read_text()), **changed}
        kept = {key: value for key, value in values.items() if value is not ...}
        path.write_text(json.dumps(kept))

    return harm


def other_final(path: Path, _: Path) -> None:
    values = json.loads(path.read_text())
    values["psnr_cap"] = 7.5
    values["final"] = {**(values.get("final") or {}), "val/psnr": 99.5, "val/kl": 0.5}
    path.write_text(json.dumps(values))


FIELDS = ("status", "run_id", "identity", "steps", "final", "predicted")
SUMMARY = {
    "a list": text("[]"),
    "a number": text("3"),
    "null": text("null"),
    "an empty object": text("{}"),
    "a text": text('"finished"'),
    "nested too deep": text("[" * 100_000),
    "a number of 5,000 digits": text('{"status": ' + "9" * 5000 + "}"),
    "no UTF-8": text(b'{"status": "\xff"}'),
    "NaN": fields(steps=float("nan")),
    **{f"{name} missing": fields(**{name: ...}) for name in FIELDS},
    **{f"{name} null": fields(**{name: None}) for name in FIELDS},
    **{f"{name} a list": fields(**{name: [1, None, {}]}) for name in FIELDS},
    "final a text": fields(final="good"),
    "predicted without fields": fields(predicted={"curve": 7, "kl": "many"}),
    "versions a number": fields(versions=7),
    "an unknown status": fields(status="done"),
    "finished": fields(status="finished", steps=20),
    "diverged": fields(status="diverged", diverged_at=3),
    "running": fields(status="running"),
    "failed": fields(status="failed", reason="so"),
    LATER: fields(schema=99),
    "other numbers": other_final,
    "another run's": another_runs,
}


# --- state.safetensors ---


def tensors(change: Callable[[dict[str, Any], dict[str, str]], Any]) -> Damage:
    """Changes a checkpoint's arrays and its metadata (texts) in place."""

    def harm(path: Path, _: Path) -> None:
        from safetensors import safe_open

        arrays = load_file(path)
        with safe_open(path, framework="numpy") as file:
            meta = dict(file.metadata() or {})
        change(arrays, meta)
        save_file(arrays, path, meta)

    return harm


def some(arrays: dict[str, Any], prefix: str = "") -> str:
    """The first array whose name starts so; without a prefix, a weight."""
    ending = "" if prefix else "weight"
    return min(n for n in arrays if n.startswith(prefix) and n.endswith(ending))


def change_one(of: Callable[[Any], Any], prefix: str = "") -> Damage:
    def change(arrays: dict[str, Any], _: dict[str, str]) -> None:
        name = some(arrays, prefix)
        arrays[name] = np.ascontiguousarray(of(arrays[name].copy()))

    return tensors(change)


def with_first(array: Any, value: float) -> Any:
    flat = array.reshape(-1)
    flat[0] = value
    return flat.reshape(array.shape)


STATE = {
    "a tensor missing": tensors(lambda a, _: a.pop(some(a))),
    "a moment missing": tensors(lambda a, _: a.pop(some(a, "optimizer"))),
    "no moments": tensors(
        lambda a, _: [a.pop(n) for n in list(a) if n.startswith("optimizer")]
    ),
    "the generator missing": tensors(lambda a, _: a.pop(some(a, "generator"))),
    "a tensor too many": tensors(lambda a, _: a.update(foreign=np.zeros(3, np.float32))),
    "another shape": change_one(lambda a: a.reshape(-1)[:-1]),
    "no elements": change_one(lambda a: a.reshape(-1)[:0]),
    "transposed": change_one(lambda a: a.T),
    "another dtype": change_one(lambda a: a.astype(np.float64)),
    "whole numbers": change_one(lambda a: a.astype(np.int32)),
    "a short moment": change_one(lambda a: a[:-3], "optimizer"),
    "a long moment": change_one(lambda a: np.append(a, a[:16]), "optimizer"),
    "a short generator": change_one(lambda a: a[:-8], "generator"),
    "a generator of zeros": change_one(np.zeros_like, "generator"),
    "a value changed": change_one(lambda a: with_first(a, 7.5)),
    "a moment changed": change_one(lambda a: with_first(a, 7.5), "optimizer"),
    "a value of nan": change_one(lambda a: with_first(a, np.nan)),
    "a step beyond the end": tensors(lambda _, meta: meta.update(step=str(10**12))),
    "a step further on": tensors(lambda _, meta: meta.update(step="15")),
    "a step between rows": tensors(lambda _, meta: meta.update(step="7")),
    "step 0": tensors(lambda _, meta: meta.update(step="0")),
    "a negative step": tensors(lambda _, meta: meta.update(step="-5")),
    "no number as step": tensors(lambda _, meta: meta.update(step="soon")),
    "no step": tensors(lambda _, meta: meta.pop("step")),
    LATER: tensors(lambda _, meta: meta.update(schema="99")),
    "no metadata": tensors(lambda _, meta: meta.clear()),
    "another identity": tensors(lambda _, meta: meta.update(identity="0" * 16)),
    "an endless header": lambda path, _: (
        path.write_bytes(b"\xff" * 8 + path.read_bytes()[8:]) and None
    ),
    "another run's": another_runs,
}


# --- config.yaml ---


def lines(change: Callable[[str], str]) -> Damage:
    def harm(path: Path, _: Path) -> None:
        path.write_text(change(path.read_text()))

    return harm


CONFIG = {
    "a list": text("- a\n- b\n"),
    "a text": text("zscore\n"),
    "an unknown key": insert(0, b"unheard: 3\n"),
    "a key missing": lines(lambda t: t.replace("reduction: sum\n", "")),
    "a section missing": lines(lambda t: re.sub(r"(?m)^train:\n( .*\n)+", "", t)),
    "another value": lines(lambda t: re.sub(r"lr: .*", "lr: 0.5", t)),
    "another type": lines(lambda t: re.sub(r"(?m)^seed: .*", "seed: many", t)),
    "a huge number": lines(lambda t: re.sub(r"(?m)^seed: .*", "seed: " + "9" * 5000, t)),
    LATER: lines(lambda t: "schema: 99\n" + re.sub(r"(?m)^schema.*\n", "", t)),
    "no YAML": text("a: [b\nc: }"),
    "a Python object": text("!!python/object/apply:os.getcwd []\n"),
    "aliases of aliases": text(
        "a: &a [x, x]\n"
        + "".join(
            f"{n}: &{n} [*{p}, *{p}]\n" for p, n in zip("abcdefgh", "bcdefghi", strict=True)
        )
    ),
    "nested too deep": text("[" * 3000),
    "no UTF-8": insert(0, b"# \xff\xfe\n"),
    "NUL bytes": insert(0, b"# \0\n"),
    "another run's": another_runs,
}


# --- pictures, and what is of the whole sweep ---


def bomb(path: Path, _: Path) -> None:
    """A PNG of a few bytes that says that it is 100,000 pixels wide and high."""
    buffer = io.BytesIO()
    Image.new("L", (1, 1)).save(buffer, "png")
    content = bytearray(buffer.getvalue())
    content[16:24] = (100_000).to_bytes(4, "big") * 2
    import zlib

    content[29:33] = zlib.crc32(bytes(content[12:29])).to_bytes(4, "big")
    path.write_bytes(bytes(content))


PICTURE = {
    "a JPEG": lambda path, _: Image.new("RGB", (8, 8)).save(path, "jpeg"),
    "100,000 pixels wide": bomb,
    "another run's": another_runs,
}


def a_file(path: Path, _: Path) -> None:
    shutil.rmtree(path)
    path.write_text("in the way")


def emptied(path: Path, _: Path) -> None:
    for each in path.iterdir():
        missing(each, each)


FOLDER = {
    "missing": missing,
    "empty": emptied,
    "a file": a_file,
    "a dangling link": a_dangling_link,
    "without rows and checkpoint": lambda path, _: (
        [(path / name).unlink() for name in ("metrics.csv", "state.safetensors")] and None
    ),
    "another run's": lambda path, twin: (
        [shutil.copyfile(each, path / each.name) for each in twin.iterdir()] and None
    ),
}


def stray(name: str, content: bytes = b"- 1\n") -> Damage:
    def harm(path: Path, _: Path) -> None:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)

    return harm


STRAYS = {
    "a foreign file beside": stray("notes.txt"),
    "a foreign folder beside": stray("notes/readme.md"),
    "a foreign config beside": stray("notes/config.yaml"),
    "an empty config beside": stray("notes/config.yaml", b""),
    "a temporary file beside": stray(".overview.png.1.tmp"),
}


# --- the cache ---


def archive(change: Callable[[dict[str, Any]], Any]) -> Damage:
    """Changes the arrays of an .npz in place."""

    def harm(path: Path, _: Path) -> None:
        with np.load(path) as file:
            arrays = {name: file[name] for name in file.files}
        change(arrays)
        with path.open("wb") as file:
            np.savez(file, **arrays)

    return harm


def altered(arrays: dict[str, Any]) -> None:
    """Every number array by one: the same names, shapes and types."""
    for name, array in arrays.items():
        if array.dtype.kind in "iuf":
            arrays[name] = (array + 1).astype(array.dtype)


def renamed(arrays: dict[str, Any]) -> None:
    arrays["other"] = arrays.pop(next(iter(arrays)))


def as_objects(arrays: dict[str, Any]) -> None:
    name = next(iter(arrays))
    arrays[name] = arrays[name].astype(object)


CACHE = {
    "other numbers": archive(altered),
    "another name": archive(renamed),
    "Python objects": archive(as_objects),
    "fewer elements": archive(lambda a: a.update({n: v[:-1] for n, v in a.items()})),
    "another type": archive(
        lambda a: a.update({n: v.astype(np.float32) for n, v in a.items()})
    ),
    "an array too many": archive(lambda a: a.update(foreign=np.zeros(3))),
}  # fmt: skip


# of what a checkpoint holds beside the weights, which are all that a finished run keeps
OF_TRAINING = [kind for kind in STATE if "moment" in kind or "generator" in kind]
OF_A_RUN = {
    "config.yaml": CONFIG,
    "metrics.csv": TABLE,
    "training.csv": TABLE,
    "summary.json": SUMMARY,
    "state.safetensors": STATE,
    "reconstructions.png": PICTURE,
    "samples.png": PICTURE,
}


def run_cases() -> Iterator[Case]:
    for file, kinds in OF_A_RUN.items():
        for kind, harm in {**ANY, **kinds}.items():
            for state in ("finished", "interrupted"):
                if state == "finished" and kind in OF_TRAINING:
                    continue
                yield Case("npz", file, kind, state, harm)
    for kind, harm in FOLDER.items():
        for state in ("finished", "interrupted"):
            yield Case("npz", "the run's folder", kind, state, harm)


def sweep_cases() -> Iterator[Case]:
    for file in ("overview.png", "table.csv", "report.html", "sweep.json"):
        for kind, harm in ANY.items():
            yield Case("npz", file, kind, "finished", harm)
    for kind, harm in STRAYS.items():
        yield Case("npz", "the sweep's folder", kind, "finished", harm)


def cache_cases() -> Iterator[Case]:
    for data, file in (
        ("image_folder", "image_folder-*.npz"),
        ("dead_leaves", "dead_leaves-*.npz"),
        ("npz", "spectrum-*.npz"),
    ):
        for kind, harm in {**ANY, **CACHE}.items():
            for state in ("finished", "new"):
                yield Case(data, file, kind, state, harm)


def cases() -> list[Case]:
    return [*run_cases(), *sweep_cases(), *cache_cases()]


# --- trying a case ---


class Frames(NamedTuple):
    """What readers give of a sweep, without what a repeated run may change."""

    curves: pd.DataFrame
    finals: pd.DataFrame
    theory: pd.DataFrame
    training: pd.DataFrame
    skipped: dict[str, str]  # runs that were left out, and why


class _Killed(BaseException):
    pass


class Workshop:
    """Sweeps that are whole, finished or interrupted, of which every case gets a copy."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.configs = {data: _configs(data) for data in DATA}
        self.files: dict[tuple[str, str], dict[str, bytes]] = {}
        self.frames: dict[tuple[str, str], Frames] = {}
        for data in DATA:
            for state in ("new", "interrupted", "finished"):
                self._prepare(data, state)

    def template(self, data: str, state: str) -> Path:
        return self.folder / "templates" / data / state

    def _prepare(self, data: str, state: str) -> None:
        folder = self.template(data, state)
        folder.mkdir(parents=True)
        pixels = make_images(50).permute(0, 2, 3, 1).numpy()
        if data == "npz":
            np.savez(folder / "images.npz", images=pixels)
        if data == "image_folder":
            (folder / "pictures").mkdir()
            for i, image in enumerate(pixels):
                Image.fromarray(image).save(folder / "pictures" / f"{i:02}.png")
        configs = self.configs[data]
        with contextlib.chdir(folder), quiet(), drawing(state == "finished"):
            if state == "interrupted":
                with contextlib.suppress(_Killed), killed_at(STOPPED_AT, len(configs)):
                    grid.run(configs)
            else:
                grid.run(configs)
            if state == "finished" and data == "npz":
                report.write(SWEEP)
            if state == "new":  # the cache is there, the runs are not
                shutil.rmtree("runs")
                return
            self.frames[data, state] = frames()
            self.files[data, state] = contents()

    def try_out(self, case: Case, folder: Path, draws: bool) -> Outcome:
        """What comes of a case, in a copy at `folder`; `draws`: figures are drawn, too."""
        shutil.copytree(self.template(case.data, case.state), folder, symlinks=True)
        configs = self.configs[case.data]
        with contextlib.chdir(folder), drawing(draws):
            path, twin = _places(case, configs)
            if not path.exists():
                return Outcome("–", "–", [f"there is no {case.file} of {case.state} runs"])
            case.harm(path, twin)
            failures: list[str] = []
            read = self._read(case, failures, draws)
            run = self._run(case, failures, draws)
        return Outcome(read, run, failures)

    def _read(self, case: Case, failures: list[str], draws: bool) -> str:
        """Readers on the damaged sweep: this run may be left out, the other is whole."""
        if case.state == "new":
            return "–"
        first, other = (config.run_id for config in self.configs[case.data])
        try:
            found = frames()
        except UserError as error:
            failures.append(f"results.load shows nothing: {error}")
            return "refused"
        except Exception as error:
            failures.append(f"results.load: {error!r}")
            return "traceback"
        if draws or not case.file.endswith(".npz"):
            self._report(case, failures, "before")
        expected = self.frames[case.data, case.state]
        failures += _differs(found, expected, other, "before, of the other run")
        if first not in set(found.finals["run_id"]):
            return "skipped" if first in found.skipped else "not listed"
        # a whole folder under another name is shown with its own settings: it may have
        # been renamed by the user
        is_copy = (case.file, case.kind) == ("the run's folder", "another run's")
        status = found.finals.set_index("run_id").loc[first, "status"]
        if status == "finished":
            own, when = other if is_copy else first, "before, of the damaged run"
            failures += _differs(found, expected, first, when, own, _has_lost_curve(case))
        return "shown"

    def _report(self, case: Case, failures: list[str], when: str) -> None:
        try:
            report.write(SWEEP)
        except ALLOWED as error:
            if case.file != "report.html" or "report.html" not in str(error):
                failures.append(f"report {when}: {error}")
        except Exception as error:
            failures.append(f"report {when}: {error!r}")

    def _run(self, case: Case, failures: list[str], draws: bool) -> str:
        """The same command on the damaged sweep, and once more."""
        configs = self.configs[case.data]
        before = contents()
        said, error = command_of(configs)
        if error is not None:
            line = entry.one_line(error)
            if not isinstance(error, ALLOWED):
                failures.append(f"the command: {error!r}")
                return "traceback"
            if case.kind == LATER:
                if contents() != before:
                    failures.append("files of a later version were changed")
            elif case.kind not in IN_THE_WAY:
                failures.append(f"the sweep is blocked: {line}")
            if len(line.splitlines()) > 2 or not re.search(r"[/.]\w", line):
                failures.append(f"no line with path and remedy: {line}")
            failures += _lost(before)
            return "refused"
        if case.kind == LATER and case.file != "state.safetensors":
            failures.append("files of a later version were taken for damaged ones")
        failures += self._ended(case)
        if case.state == "finished":
            other = f"runs/main/{configs[-1].run_id}/"
            kept = {name: content for name, content in before.items() if other in name}
            if not kept.items() <= contents().items():
                failures.append("the other run's files were changed")
        again, error = command_of(configs)
        if error is not None or re.search(r"(?m)^training \d", again):
            failures.append(f"the third command: {error!r} {again[:200]}")
        if draws:  # else the frames, which equal the undamaged ones, say enough
            self._report(case, failures, "after")
        left = [str(p) for p in Path().rglob("*.tmp")]
        if left and case.kind != "a temporary file beside":
            failures.append(f"temporary files: {left}")
        return self._what_it_did(case, said)

    def _ended(self, case: Case) -> list[str]:
        failures = []
        expected = self.files[case.data, "finished"]
        for config in self.configs[case.data]:
            name = f"{SWEEP}/{config.run_id}/metrics.csv"
            if not Path(name).is_file() or Path(name).read_bytes() != expected[name]:
                failures.append(f"{name} differs at the end")
        try:
            found = frames()
        except Exception as error:
            return [*failures, f"results.load at the end: {error!r}"]
        for config in self.configs[case.data]:
            wanted = self.frames[case.data, "finished"]
            lost = config is self.configs[case.data][0] and _has_lost_curve(case)
            failures += _differs(found, wanted, config.run_id, "at the end", lost=lost)
        return failures

    def _what_it_did(self, case: Case, said: str) -> str:
        head = self.configs[case.data][0].head  # names the run in the display
        steps = [int(s) for s in re.findall(rf"(?m)^.*\b{head}\b.*  step (\d+)/", said)]
        start = 0 if case.state in ("finished", "new") else STOPPED_AT
        if case.state == "new":
            return "trains"
        if not steps:
            return "is finished"
        old = sorted({p.name for p in SWEEP.rglob("*.old-*")})
        kept = f", keeps {', '.join(old)}" if old else ""
        if steps[0] == 0:
            return f"starts over{kept}"
        return "goes on" if start else f"repeats from step {steps[0]}{kept}"


def _configs(data: str) -> list[RunConfig]:
    heads = ("head=tanh", "head=linear")
    return [make_config(*TINY, *DATA[data], *SHARED, head) for head in heads]


def _places(case: Case, configs: list[RunConfig]) -> tuple[Path, Path]:
    """The file to damage, and the same of another run."""
    first, second = (config.run_dir for config in configs)
    if case.file == "the run's folder":
        return first, second
    if case.file == "the sweep's folder":
        return SWEEP, SWEEP
    if case.file.endswith(".npz"):
        found = sorted(Path("cache").glob(case.file))
        return found[0], found[-1]
    if case.file in OF_A_RUN:
        return first / case.file, second / case.file
    return SWEEP / case.file, SWEEP / case.file


@contextlib.contextmanager
def quiet() -> Iterator[io.StringIO]:
    with contextlib.redirect_stdout(io.StringIO()) as said:
        with contextlib.redirect_stderr(said):
            yield said


@contextlib.contextmanager
def drawing(drawn: bool) -> Iterator[None]:
    """Whether figures are drawn; they take most of the time of a small sweep."""
    if drawn:
        yield
        return
    first = mock.patch.object(overview, "save_overview", return_value="overview.png")
    with first, mock.patch.object(figures, "of_page", return_value=()):
        yield


@contextlib.contextmanager
def killed_at(step: int, runs: int) -> Iterator[None]:
    """Training ends after all runs were evaluated at `step`, as if it were killed."""
    real, evaluated = progress.Display.row, set()

    def row(self: Any, name: str, values: Any) -> None:
        real(self, name, values)
        if values["step"] == step:
            evaluated.add(name)
        if len(evaluated) == runs:
            raise _Killed

    with mock.patch.object(progress.Display, "row", row):
        yield


def command_of(configs: list[RunConfig]) -> tuple[str, Exception | None]:
    """What the command says, and what ended it."""
    error = None
    with quiet() as said:
        try:
            grid.run(configs)
        except Exception as raised:
            error = raised
    return said.getvalue(), error


def frames() -> Frames:
    loaded = results.read(SWEEP)
    changing = ["seconds", "cohort_size"]
    finals = loaded.finals.drop(columns=changing, errors="ignore")
    frames = loaded.curves, finals, loaded.theory, loaded.training
    return Frames(*frames, dict(loaded.skipped))


def _has_lost_curve(case: Case) -> bool:
    """Whether rows of training.csv may be missing at the end: it is not made again."""
    return case.file == "training.csv"


def _differs(
    found: Frames,
    expected: Frames,
    run_id: str,
    when: str,
    own: str | None = None,
    lost: bool = False,
) -> list[str]:
    """Where a run differs from what is expected of it, or of the run `own`; where its
    training curve may have lost rows, those that are left must be right."""
    failures = []
    for name in ("curves", "finals", "theory", "training"):
        ours, theirs = (
            frame[frame["run_id"] == of].drop(columns="run_id").reset_index(drop=True)
            for frame, of in (
                (getattr(found, name), run_id),
                (getattr(expected, name), own or run_id),
            )
        )
        if name == "training" and lost:
            theirs = theirs[theirs["step"].isin(ours["step"])].reset_index(drop=True)
        if ours.equals(theirs):
            continue
        try:
            pd.testing.assert_frame_equal(ours, theirs, check_exact=True, check_dtype=False)
        except AssertionError as error:
            said = " ".join(str(error).split())
            failures.append(f"{name} {when}: {said[:150]}")
    return failures


def _lost(before: dict[str, bytes]) -> list[str]:
    """Rows that a command which refused has lost."""
    after = contents()
    return [
        f"{name}: rows are lost"
        for name, content in before.items()
        if name.endswith("metrics.csv")
        and not after.get(name, b"").startswith(content)
        and content not in after.values()
    ]


def contents() -> dict[str, bytes]:
    """Every file of the runs, by its path."""
    files = (p for p in Path("runs").rglob("*") if p.is_file())
    return {str(p): p.read_bytes() for p in files if p.name not in (".lock", "report.html")}


# --- the table ---


def markdown(tried: list[tuple[Case, Outcome]]) -> str:
    """A line per file and outcome, with all kinds of damage that led to it."""
    grouped: dict[tuple[str, str, str, str], list[str]] = defaultdict(list)
    for case, outcome in tried:
        result = "; ".join(outcome.failures)[:200] or "as undamaged"
        grouped[case.file, f"{outcome.read} / {outcome.run}", case.state, result].append(
            case.kind
        )
    rows = [
        "| file | damage | state | readers / the same command | numbers at the end |",
        "|---|---|---|---|---|",
    ]
    for (file, did, state, result), kinds in grouped.items():
        cells = (file, ", ".join(kinds), state, did, result.replace("|", "\\|"))
        rows.append(f"| {' | '.join(cells)} |")
    bad = sum(bool(outcome.failures) for _, outcome in tried)
    rows += ["", f"{len(tried)} cases, {bad} of them with a traceback or a wrong number."]
    return "\n".join(rows) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python tests/damage.py", description=__doc__)
    parser.add_argument("--readme", type=Path, help="put the table into this file")
    parser.add_argument("--only", default="", help="cases whose name has this text")
    parser.add_argument("--fast", action="store_true", help="draw no figures")
    asked = parser.parse_args()
    torch.set_num_threads(2)
    tried = []
    with tempfile.TemporaryDirectory() as folder:
        workshop = Workshop(Path(folder))
        started = time.monotonic()
        for number, case in enumerate(cases()):
            if asked.only not in str(case):
                continue
            outcome = workshop.try_out(case, Path(folder) / str(number), not asked.fast)
            shutil.rmtree(Path(folder) / str(number))
            tried.append((case, outcome))
            print(f"{time.monotonic() - started:6.1f} s  {case}: {outcome}", flush=True)
    text = markdown(tried)
    print(text)
    if asked.readme is not None:
        put_between(asked.readme, BEGIN, END, text)
    return int(any(outcome.failures for _, outcome in tried))


if __name__ == "__main__":
    os.environ.setdefault("WANDB_MODE", "disabled")
    sys.exit(main())
