"""Named grids: the files behind `experiments=NAME`."""

import itertools
import shlex
from collections import Counter
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from vae_sweep.errors import UserError, nearest, shown

PACKAGE = Path(__file__).parents[1]
# experiments/ lies inside the package in a wheel, beside it in a checkout
OURS = next(
    p / "experiments" for p in (PACKAGE, PACKAGE.parent) if (p / "experiments").is_dir()
)


class _Unique(yaml.SafeLoader):
    """Refuses a key that a mapping has twice, of which YAML's loader keeps the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> Any:
        """The mapping of a node; raises ConstructorError."""
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for key, count in Counter(keys).items():
            if count > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{shown(key)} {count} times", node.start_mark
                )
        return super().construct_mapping(node, deep)


class Experiment(BaseModel):
    """experiments/NAME.yaml: a union of grids, each as one would type it.

    The points of every grid have what `common` says; what is typed beside
    `experiments=NAME` overrides both. `about`, where given, says something of each grid,
    in whatever keys its reader knows; running ignores it.
    """

    model_config = ConfigDict(extra="forbid")
    common: str = ""
    grids: list[str] = Field(min_length=1)
    about: list[dict[str, Any]] | None = None

    @model_validator(mode="after")
    def _about_each(self) -> "Experiment":
        if self.about is not None and len(self.about) != len(self.grids):
            counts = {"about": len(self.about), "grids": len(self.grids)}
            raise PydanticCustomError(
                "about", "{about} in about beside {grids} in grids", counts
            )
        return self


def available() -> dict[str, Path]:
    """Names and files: those of ./experiments hide ours of the same name."""
    folders = (OURS, Path("experiments"))
    files = [path for folder in folders for path in sorted(folder.glob("*.yaml"))]
    ours = [path for path in files if path.is_file() and path.stem != "wandb_sweep"]
    return {path.stem: path for path in ours}


def find(name: str) -> Path:
    """The file of an experiment; UserError where there is none."""
    files = available()
    if name not in files:
        meant = nearest(Path(name).stem, files)
        raise UserError(
            f"experiments=NAME needs a file experiments/NAME.yaml, got {shown(name)}; "
            + (f"did you mean {meant}, of " if meant else "there are ")
            + ", ".join(files)
        )
    return files[name]


def read(path: Path) -> Experiment:
    """The file of an experiment as it stands; UserError where it is none."""
    try:
        content = Experiment.model_validate(yaml.load(path.read_text("utf-8"), _Unique))
        for line in (content.common, *content.grids):
            shlex.split(line)
    except (OSError, ValidationError, yaml.YAMLError, ValueError, RecursionError) as error:
        said = _said(error) if isinstance(error, ValidationError) else _of_yaml(error)
        raise UserError(
            f"{path} must have `grids`, a list of lines as typed after vae_sweep.run -m, "
            f"and may have `common`, a line, and `about`, an entry for each of `grids`; "
            f"got {said}"
        ) from None
    return content


def load(name: str) -> list[list[str]]:
    """The overrides of each grid; UserError where there is no such experiment, or its file
    cannot be read."""
    path = find(name)
    content = read(path)
    common = shlex.split(content.common)
    grids = [[*common, *shlex.split(grid)] for grid in content.grids]
    for line in itertools.chain(*(shlex.split(grid) for grid in content.grids), common):
        if line.startswith("experiments=") or (
            line.startswith("sweep=") and line not in common
        ):
            raise UserError(
                f"a line of {path} says what a point is, and `common` may name its sweep; "
                f"got {line}; remove it"
            )
    sweep = "" if any(line.startswith("sweep=") for line in common) else f"sweep={name}"
    return [[sweep, *grid] if sweep else grid for grid in grids]


def _said(error: ValidationError) -> str:
    """What a file holds in place of an Experiment."""
    first = error.errors()[0]
    key = ".".join(map(str, first["loc"]))
    match first["type"]:
        case "model_type":
            return f"no keys but {shown(first['input'])}"
        case "extra_forbidden":
            return f"another key, {key}"
        case "missing":
            return f"no {key}"
        case "too_short":
            return f"no line in {key}"
        case "about":
            return first["msg"]
    return f"{key}: {shown(first['input'])}"


def _of_yaml(error: Exception) -> str:
    """What cannot be read, on which line, in the words of who reads it."""
    mark = getattr(error, "problem_mark", None)
    said = getattr(error, "problem", None) or getattr(error, "strerror", None) or str(error)
    where = f" in line {mark.line + 1}" if mark is not None else ""
    return f"{str(said).splitlines()[0]}{where}"
