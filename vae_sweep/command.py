"""The command line that the entry points share: Hydra's, with one-line errors."""

import gc
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from vae_sweep import stop
from vae_sweep.config import Failed, RunConfig, UserError, current_versions, validate

PACKAGE = Path(__file__).parent
# conf/ lies inside the package in a wheel, beside it in a checkout
CONF = next(p / "conf" for p in (PACKAGE, PACKAGE.parent) if (p / "conf").is_dir())


def config_of(root: DictConfig) -> RunConfig:
    """The validated config of a composed Hydra config; UserError where it is wrong."""
    try:
        values = {
            str(key): OmegaConf.to_container(root[key], resolve=True, throw_on_missing=True)
            if OmegaConf.is_config(root[key])
            else root[key]
            for key in root
            if key != "hydra"
        }
    except MissingMandatoryValue as error:
        raise UserError(f"{error.full_key} is missing; set {error.full_key}=...") from None
    if "versions" in values:
        raise UserError("unknown key versions; remove it or mend its spelling")
    return validate({**values, "versions": current_versions(values)})


OmegaConf.register_new_resolver(
    "run_id", lambda *, _root_: config_of(_root_).run_id, replace=True
)


def constant_beta(argument: str, parser: OverridesParser) -> str:
    """`beta=0.5,1,4` as `beta.value=0.5,1,4`; anything else as it is.

    Raises UserError where numbers and schedules are mixed.
    """
    if not argument.startswith("beta="):
        return argument
    override: Override = parser.parse_override(argument)
    values = (
        list(override.sweep_iterator())
        if override.is_sweep_override()
        else [override.value()]
    )
    numbers = [isinstance(v, int | float) and not isinstance(v, bool) for v in values]
    if all(numbers):
        return "beta.value=" + argument.removeprefix("beta=")
    if any(numbers):
        raise UserError(
            f"beta takes numbers or schedules, not both; got {argument}; sweep "
            f"beta.value=0.5,1 and beta=constant,warmup apart"
        )
    return argument


def one_line(error: BaseException) -> str:
    """Hydra's and OmegaConf's messages, which span lines, as one."""
    causes = [error]
    while causes[-1].__cause__ is not None:
        causes.append(causes[-1].__cause__)
    for cause in reversed(causes):
        if isinstance(cause, UserError):
            return str(cause)
    if isinstance(error, OverrideParseException):
        return f"cannot read the option {error.override}: {error.message.splitlines()[0]}"
    said = next((str(cause) for cause in causes if str(cause)), repr(error))
    text = re.sub(r"\s+", " ", said).strip()
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}; set runs=FOLDER to write elsewhere"
    text = re.sub(r" (Config search path|See https:).*", "", text)
    found = re.search(r"Could not override '(\S+?)'", text)
    found = found or re.search(r"is not in struct full_key: (\S+)", text)
    if found is not None:
        return f"unknown option {found[1]}; see the groups and keys with --help"
    return text


def main(task: Callable[[DictConfig], Any]) -> None:
    """Runs Hydra's `task` on sys.argv. Exit codes: 0, 1 diverged, 2 bad input.

    The launcher `grid` calls task.grid with all points at once instead.
    """
    stop.install()
    gc.set_threshold(100_000)  # a composed point is thousands of objects, all to be kept
    debug = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # so that errors come here, not to a traceback
    try:
        parser = OverridesParser.create()
        sys.argv[1:] = [constant_beta(argument, parser) for argument in sys.argv[1:]]
        hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(task)()
    except stop.Stopped as stopped:
        stop.end(stopped)
    except BrokenPipeError:  # `... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)  # as a shell says of SIGPIPE
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
