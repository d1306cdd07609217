"""What a run's folder holds, read without torch: configuration, rows, summary.

Every reader raises Unreadable, with the reason, for a file that is damaged; what is not
there is None or empty. Nothing is unpickled.
"""

import hashlib
import io
import json
import re
import stat
from contextlib import suppress
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import yaml
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vae_sweep.config import MOST_STEPS, RunConfig, validate_recorded
from vae_sweep.errors import UserError
from vae_sweep.records.rows import Rows
from vae_sweep.records.summary import Summary

# of what is written; 1, of files that state none; 2, before finished runs kept no more than
# their weights and sweep.json listed the runs
SCHEMA = 3
METRICS, TRAINING = "metrics.csv", "training.csv"
CURVE = ("step", "loss", "mse", "kl")  # the columns of training.csv
RECONSTRUCTIONS, SAMPLES = "reconstructions.png", "samples.png"
# picture -> where the summary of a run that ended states its SHA-256
PICTURES = {RECONSTRUCTIONS: "picture_sha256", SAMPLES: "samples_sha256"}
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's, tens of times faster

SECTION = re.compile(r"\w+:.*\n(?:(?:  |- ).*\n)*")  # of a config.yaml


class Unreadable(Exception):
    """A file of a run that cannot be read, and why."""


class LeftAlone(Unreadable):
    """A file that cannot be read and is not damaged: it is never put aside."""

    remedy: str


class Later(LeftAlone):
    """A file that a later version of vae-sweep wrote."""

    remedy = "update vae-sweep"


class Forbidden(LeftAlone):
    """A file that this user may not read."""

    remedy = "change its permissions"


def check_schema(name: str, schema: Any) -> None:
    """Raises Later where this version does not know the `schema` that a file states."""
    if isinstance(schema, bool) or not isinstance(schema, int):
        raise Unreadable(f"{name} is damaged: schema must be a whole number")
    if schema > SCHEMA:
        raise Later(
            f"{name} was written by a later version (schema {schema}, this one reads up "
            f"to {SCHEMA})"
        )


class _Listed(BaseModel):
    """What a list states of a run; earlier versions stated less."""

    model_config = ConfigDict(extra="allow")
    command: str = ""
    time: str = ""
    total_steps: Annotated[int, Field(ge=1, le=MOST_STEPS)] | None = None
    label: str | None = None


class _Sweep(BaseModel):
    """What a sweep.json may hold."""

    schema_: int = Field(alias="schema")
    runs: dict[str, _Listed]


def _content(path: Path) -> bytes:
    """Of a regular file: a pipe, say, would be waited for without end."""
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        what = "directory" if stat.S_ISDIR(mode) else "pipe or device"
        raise Unreadable(f"{path.name} is damaged: it is a {what}")
    return path.read_bytes()


def _damaged(name: str, error: Exception) -> Unreadable:
    if isinstance(error, PermissionError):
        return Forbidden(f"{name} cannot be read: {error.strerror}")
    said = getattr(error, "strerror", None) or str(error).partition("\n")[0]
    return Unreadable(f"{name} is damaged: {said}")


class Stated(NamedTuple):
    """What a config.yaml states: the configuration, without keys that this version does not
    know, and the run_id, which those keys are part of."""

    config: RunConfig
    run_id: str


def read_config(folder: Path) -> RunConfig:
    """The configuration that a config.yaml states; raises as `read_stated`."""
    return read_stated(folder).config


def read_stated(folder: Path) -> Stated:
    """What config.yaml states.

    Raises:
        Unreadable: There is none, or it is damaged or another run's.
    """
    try:
        return _stated(_content(folder / "config.yaml").decode())
    except FileNotFoundError:
        raise Unreadable("config.yaml is missing") from None
    except PermissionError as error:
        raise _damaged("config.yaml", error) from None
    except (OSError, UserError, yaml.YAMLError, ValueError, RecursionError) as error:
        said = getattr(error, "strerror", None) or re.split("\n|; ", str(error))[0]
        raise Unreadable(f"config.yaml is damaged: {said}") from None


@lru_cache(20_000)  # a command reads each several times
def _stated(text: str) -> Stated:
    values = parsed(text)
    if not isinstance(values, dict):
        raise Unreadable("config.yaml holds no settings")
    schema, run_id = values.pop("schema", 1), values.pop("run_id", None)
    check_schema("config.yaml", schema)
    config, unknown_keys = validate_recorded(values)
    if run_id is not None and run_id != config.run_id and not unknown_keys:
        raise Unreadable(f"config.yaml was altered: it is not {run_id}'s")
    return Stated(config, run_id or config.run_id)


def parsed(text: str) -> Any:
    """What YAML holds. As vae-sweep writes it, key by key: those of a grid's runs are
    mostly the same.

    Raises:
        yaml.YAMLError, ValueError: It is not YAML.
    """
    sections = SECTION.findall(text)
    if sections and "".join(sections) == text:
        with suppress(yaml.YAMLError):
            parts = [*map(_section, sections)]
            if all(isinstance(part, dict) and len(part) == 1 for part in parts):
                return {key: value for part in parts for key, value in part.items()}
    return yaml.load(text, LOADER)


@lru_cache(20_000)
def _section(text: str) -> Any:
    return yaml.load(text, LOADER)


def lists(folder: Path) -> list[Path]:
    """The files that list a sweep's runs: sweep.json, then one for each command that added
    some, which are in no order."""
    first = folder / "sweep.json"
    return [*filter(Path.exists, [first]), *sorted(folder.glob("sweep-*.json"))]


def read_list(path: Path) -> dict[str, dict[str, Any]]:
    """run_id -> command and time of when it was asked for, of one such file; empty where
    there is none.

    Raises:
        Unreadable: It is damaged.
    """
    try:
        listed = _Sweep.model_validate_json(_content(path))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(path.name, error) from None
    check_schema(path.name, listed.schema_)
    return {k: about.model_dump(exclude_unset=True) for k, about in listed.runs.items()}


def read_sweep(folder: Path) -> dict[str, dict[str, Any]]:
    """As `read_list`, of all lists of a sweep, in the order of their times; one that
    cannot be read is left out."""
    found: list[dict[str, dict[str, Any]]] = []
    for path in lists(folder):
        with suppress(Unreadable):
            found.append(read_list(path))
    found = sorted(
        filter(None, found), key=lambda each: _asked(next(iter(each.values())).get("time"))
    )
    united: dict[str, dict[str, Any]] = {}
    for each in found:
        united |= {run_id: about for run_id, about in each.items() if run_id not in united}
    return united


def _asked(time: Any) -> float:
    """Seconds since 1970 of a stated time; 0 where it states none."""
    try:
        return datetime.fromisoformat(time).timestamp()
    except (TypeError, ValueError, OverflowError):
        return 0.0


def read_summary(folder: Path) -> Summary | None:
    """summary.json, or None where there is none.

    Raises:
        Unreadable: It is damaged.
    """
    try:
        content = json.loads(_content(folder / "summary.json").decode())
        if isinstance(content, dict):
            check_schema("summary.json", content.get("schema", 1))
        summary = Summary.model_validate(content)
    except FileNotFoundError:
        return None
    except ValidationError as error:
        first = error.errors()[0]
        said = ": ".join([*map(str, first["loc"]), first["msg"]])
        raise Unreadable(f"summary.json is damaged: {said}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged("summary.json", error) from None
    if "checksum" in content and content["checksum"] != checksum(content):
        raise Unreadable("summary.json was altered: it does not match its checksum")
    return summary


def checksum(summary: dict[str, Any]) -> str:
    """A digest of everything in a summary but the digest itself."""
    rest = {key: value for key, value in summary.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()[:16]


def read_rows(folder: Path, name: str = METRICS) -> Rows:
    """The whole rows of metrics.csv, or of training.csv, without a torn last line; none
    where it is missing.

    Raises:
        Unreadable: It is damaged.
    """
    return _rows(_whole_lines(folder, name), name)


def _rows(whole: bytes, name: str) -> Rows:
    try:
        return Rows(whole)
    except ValueError as error:
        raise _damaged(name, error) from None


def _whole_lines(folder: Path, name: str) -> bytes:
    try:
        content = _content(folder / name)
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise _damaged(name, error) from None
    return content[: content.rfind(b"\n") + 1]


def read_training(folder: Path, summary: Summary | None) -> Rows:
    """The rows of training.csv; none of a run of an earlier version.

    Raises:
        Unreadable: It is damaged, or is not the one that `summary`, an ended run's, states.
    """
    whole = _whole_lines(folder, TRAINING)
    stated = summary.training_sha256 if summary is not None else None
    if stated == hashlib.sha256(whole).hexdigest():
        return Rows(whole, known=True)
    rows = _rows(whole, TRAINING)
    if rows.columns not in ((), CURVE):
        raise Unreadable(f"{TRAINING} is damaged: its columns must be {', '.join(CURVE)}")
    if stated is not None:
        raise Unreadable(f"{TRAINING} has other rows than summary.json states")
    return rows


def read_picture(
    folder: Path, summary: Summary | None, name: str = RECONSTRUCTIONS
) -> Image.Image | None:
    """A picture of PICTURES, decoded; None where there is none that can be read, or where
    it is not the one that `summary`, an ended run's, states."""
    try:
        content = _content(folder / name)
        if summary is not None and not is_picture_of(summary, content, name):
            return None
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            return image
    except Exception:  # PIL's decoders raise what they like
        return None


def read_reconstructions(
    folder: Path, summary: Summary | None
) -> tuple[Image.Image, Image.Image] | None:
    """The halves of reconstructions.png, originals and what was made of them; None as
    `read_picture`."""
    image = read_picture(folder, summary)
    if image is None:
        return None
    width, height = image.size
    middle = height // 2
    return image.crop((0, 0, width, middle)), image.crop((0, middle, width, height))


def is_picture_of(summary: Summary, content: bytes, name: str) -> bool:
    """Whether a PNG is the one that a summary states of this name; those of running runs,
    and of schema 1, state none."""
    stated = getattr(summary, PICTURES[name])
    return stated in (None, hashlib.sha256(content).hexdigest())


def has_rows(folder: Path, summary: Summary) -> bool:
    """Whether metrics.csv has the rows that an ended run's summary states.

    Raises:
        Unreadable: It is damaged.
    """
    whole = _whole_lines(folder, METRICS)
    if summary.metrics_sha256 == hashlib.sha256(whole).hexdigest():
        return True  # a rerun asks this of all runs: nothing is parsed
    return fit(summary, read_rows(folder))


def fit(summary: Summary, rows: Rows) -> bool:
    """Whether `rows` are those that an ended run's summary states."""
    if summary.metrics_sha256 is not None:
        return summary.metrics_sha256 == rows.sha256
    # schema 1 stated the last step only, and of diverged runs not even that
    if summary.status == "diverged":
        return True
    return len(rows) > 0 and rows.steps[-1] == summary.steps
