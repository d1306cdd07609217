"""The command line that the entry points share: Hydra's, with one-line errors."""

import functools
import gc
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
from hydra.errors import HydraException
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

import vae_sweep
from vae_sweep import options
from vae_sweep.command import arguments, experiments, plain
from vae_sweep.config import RunConfig, expanded, provenance, unknown, validate
from vae_sweep.errors import Failed, UserError, shown
from vae_sweep.options import CONF
from vae_sweep.system import machine, stop

Grid = Callable[[list[RunConfig]], list[Any] | None]
Plain = dict[str, Any]


def config_of(root: DictConfig) -> RunConfig:
    """The validated config of a composed Hydra config; UserError where it is wrong."""
    return _validated(_container(root))


def configs_of(points: list[Plain]) -> list[RunConfig]:
    """As `config_of`, of plain containers, in which interpolations stand as they are."""
    known: dict[str, Any] = {}
    configs = []
    for point in points:
        try:
            values = _resolved(point, known)
        except OmegaConfBaseException:  # a key is missing, or refers to another
            values = _container(OmegaConf.create(point))
        configs.append(_validated(values))
    return configs


def _resolved(value: Any, known: dict[str, Any]) -> Any:
    """`value` with its interpolations resolved, each once, that refer to no other key.

    Raises OmegaConfBaseException for the others, and where a value is missing.
    """
    if isinstance(value, dict):
        return {k: _resolved(v, known) for k, v in value.items()}
    if isinstance(value, list):
        return [_resolved(v, known) for v in value]
    if value == MISSING:
        raise MissingMandatoryValue(MISSING)
    if not isinstance(value, str) or "${" not in value:
        return value
    if value not in known:
        known[value] = OmegaConf.create({"alone": value})["alone"]
    return known[value]


def _container(root: DictConfig) -> Plain:
    """All but `hydra`, resolved; UserError where that cannot be."""
    try:
        return {
            str(key): OmegaConf.to_container(root[key], resolve=True, throw_on_missing=True)
            if OmegaConf.is_config(root[key])
            else root[key]
            for key in root
            if key != "hydra"
        }
    except MissingMandatoryValue as error:
        raise UserError(f"{error.full_key} is missing; set {error.full_key}=...") from None
    except OmegaConfBaseException as error:
        raise UserError(f"{one_line(error)}; type the value itself") from None
    except Exception as error:  # what an interpolation calls raises what it likes
        raise UserError(
            f"cannot resolve an interpolation ${{...}} ({type(error).__name__}: "
            f"{shown(str(error))[1:-1]}); type the value itself"
        ) from None


def _validated(values: Plain) -> RunConfig:
    for key in ("versions", "sources"):
        if key in values:
            raise UserError(unknown(key))
    try:
        config = validate({**values, **provenance(values)})
    except UserError as error:
        name = values.get("experiments")
        of = f" (in a point of experiments={name})" if name else ""
        raise UserError(f"{error}{of}") from None
    _ = config.sweep_dir, config.data.cache_dir  # raise where ~ is no known folder
    if place := config.data.place:
        expanded(f"data.{place}", getattr(config.data, place))
    return config


OmegaConf.register_new_resolver(
    "run_id", lambda *, _root_: config_of(_root_).run_id, replace=True
)


def one_line(error: BaseException) -> str:
    """Hydra's and OmegaConf's messages, which span lines, as one."""
    causes = [error]
    while causes[-1].__cause__ is not None:
        causes.append(causes[-1].__cause__)
    for cause in reversed(causes):
        if isinstance(cause, UserError):
            return str(cause)
    if isinstance(error, OSError) and not isinstance(error, HydraException):
        return machine.of_system(error)
    said = next((str(cause) for cause in causes if str(cause)), repr(error))
    text = re.sub(r"\s+", " ", said).strip()
    text = re.sub(r"^\w+ raised while resolving interpolation: ", "", text)
    text = re.sub(r" (Config search path|See https:|full_key: |object_type=).*", "", text)
    found = re.search(r"Could not override '(\S+?)'", text)
    found = found or re.search(r"is not in struct full_key: (\S+)", said)
    if found is not None and not found[1].startswith("hydra"):
        return unknown(found[1])
    return text[:300]


def _has_no_record(folder: Path) -> bool:
    """Whether Hydra's record is to be added to a run's folder; of images that were moved
    the run may be kept in another."""
    return folder.is_dir() and not (folder / ".hydra").is_dir()


class _Task:
    """What Hydra calls with composed points: the launcher `grid` with all at once,
    others with one by one, perhaps in processes of their own.

    `is_portable` says whether points are configs and records alone, which any process of
    `vae_sweep.grid` can train.
    """

    def __init__(self, grid: Grid, argv: list[str], is_portable: bool):
        functools.update_wrapper(self, grid)  # Hydra names the job by its module
        self._grid, self._argv, self.is_portable = grid, argv, is_portable
        self.composed = False
        self.failed: list[Exception] = []

    def configs(self, points: list[Plain]) -> list[RunConfig]:
        """The validated configs of all points, of which errors are no more Hydra's."""
        configs = configs_of(points)
        self.composed = True
        sys.argv = self._argv
        return configs

    def note(self, outcomes: list[Any]) -> None:
        """Keeps what went wrong, for the end of the command."""
        self.failed += [each for each in outcomes if isinstance(each, Exception)]

    def grid(self, points: list[Plain]) -> list[Any]:
        """An outcome per point, None of those that keep a record of Hydra's already; those
        that failed are kept, and no error to Hydra."""
        configs = self.configs(points)
        outcomes = self._grid(configs) or [None] * len(points)
        self.note(outcomes)
        return [
            outcome if _has_no_record(config.run_dir) else None
            for config, outcome in zip(configs, outcomes, strict=True)
        ]

    def __call__(self, config: DictConfig) -> Any:
        """A point's outcome, an error as well: where this is another process, the sweeper
        hands it to the command's own task."""
        try:
            configs = [config_of(config)]
            self.composed = True
            sys.argv = self._argv
            [outcome] = self._grid(configs) or [None]
        except (UserError, OSError) as error:
            outcome = error
        self.note([outcome])
        return outcome


def _own_options() -> str:
    """The options that files of the working folder's ./conf name, a line per group."""
    lines = []
    for group in arguments.OPEN:
        words = {word: arguments.own_name(group, word) for word in options.own_files(group)}
        if words:
            named = ", ".join(f"{word} ({name})" for word, name in words.items())
            lines.append(f"{group}: {named}")
    return "\n".join(lines) or "no files here"


def main(grid: Grid, about: str, is_portable: bool = False) -> None:
    """A command on sys.argv: calls `grid` with all points at once, unless it `is_portable`
    and a launcher has others train them.

    `about` heads its help. `grid` returns an outcome per point, of which a Failed is said
    in a line, or None where there is none to keep. Exit codes: 0, 1 where a point failed,
    2 bad input.
    """
    gc.set_threshold(100_000)  # a composed point is thousands of objects, all to be kept
    debug = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # so that errors come here, not to a traceback
    OmegaConf.register_new_resolver("about", lambda: about, replace=True)
    names = ", ".join(sorted(experiments.available()))
    OmegaConf.register_new_resolver("named_grids", lambda: names, replace=True)
    OmegaConf.register_new_resolver("own_options", _own_options, replace=True)
    task = _Task(grid, sys.argv, is_portable)
    try:
        machine.start()
        plain.see_working_folder()
        typed = arguments.read(sys.argv[1:])
        if "--version" in typed.flags:
            print(f"vae-sweep {vae_sweep.__version__}")
            return
        sys.argv = [sys.argv[0], *typed.argv()]
        decorate = hydra.main(
            version_base="1.3", config_path=str(CONF), config_name="config"
        )
        with stop.undisguised():
            decorate(task)()
        for error in task.failed:
            if not isinstance(error, Failed):
                raise error
        if task.failed:
            raise Failed("\n".join(dict.fromkeys(map(str, task.failed))))
    except BrokenPipeError:  # `... | head`
        plain.leave_pipe()
    except (UserError, HydraException, OmegaConfBaseException, OSError) as error:
        if debug:
            raise
        print(f"error: {one_line(error)}", file=sys.stderr)
        sys.exit(2)
    except Failed as error:
        if debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except Exception as error:  # of Hydra's, or of what its own options name
        if debug or task.composed:
            raise
        said = f"{type(error).__name__}: {shown(str(error))[1:-1]}"
        print(
            f"error: Hydra cannot compose these options ({said}); remove those of hydra",
            file=sys.stderr,
        )
        sys.exit(2)
