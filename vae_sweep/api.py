"""The Python API: what the commands do, for scripts and notebooks.

Options are keyword arguments, and mistakes are UserErrors. Nothing of the process is
changed: neither sys.argv nor signal handlers, random numbers nor PyTorch's settings.
"""

import sys
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from hydra.version import VersionBase
from omegaconf.errors import OmegaConfBaseException

from hydra_plugins.vae_sweep_launcher.compositions import Compositions
from hydra_plugins.vae_sweep_launcher.grid_sweeper import union
from vae_sweep import options
from vae_sweep.command import arguments, entry, keywords
from vae_sweep.config import RunConfig
from vae_sweep.errors import UserError
from vae_sweep.records import results
from vae_sweep.records.results import Results
from vae_sweep.records.run_folder import carrying_out
from vae_sweep.reporting.console import Console
from vae_sweep.system import machine, stop

PACKAGE = Path(__file__).parent
NAMED = 5  # runs that a warning names
_one_at_a_time = threading.RLock()  # threads, sweeps train on all cores anyway


def sweep(*, quiet: bool = False, **options: Any) -> Results:
    """Trains a grid of VAEs and returns what they measured: `vae-sweep` as a function.

    Records go to `runs`/`sweep`/, and points that are there and have ended are not trained
    again; those that another process trains are waited for. Ctrl-C, or interrupting a
    notebook's cell, writes checkpoints and raises KeyboardInterrupt; the same call goes on
    from there. Scripts need no `__main__` guard.

    Args:
        quiet: Whether to print nothing, except one line when images are made or
            downloaded. Warnings are Python warnings in any case.
        **options: Groups and keys as on the command line, values as Python objects. A
            list is an axis of the grid, a tuple one value that is a list, as of
            model.widths; of `log` and `metric`, of which a point may have several, a list
            is one value. A key with a dot is given by `**{"train.steps": 500}` or
            `train={"steps": 500}`.

    Returns:
        The points that were asked for, in their order. A warning names those that failed
        or diverged, which are among them.

    Raises:
        UserError: An option is wrong, or something a user can correct is in the way.

    References:
        `vae-sweep --options` lists all groups and keys.

    Example:
        >>> found = vae_sweep.sweep(
        ...     norm=["zscore", "minus1_1"], head=["tanh", "linear"],
        ...     data="image_folder", **{"data.path": "photos", "train.steps": 500},
        ... )
        >>> found.finals[["norm", "head", "val/psnr", "val/kl"]]
    """
    with _borrowed():
        asked = _composed(options)
        with carrying_out(asked.lines):
            from vae_sweep import grid  # torch

            console = Console(least=120, quiet=quiet, warn=_warn)
            ended = grid.train(asked.configs, console, table=False, wait=True)
    found = results.of(dict.fromkeys(each.folder for each in ended))
    for line in [*results.left_out(found), *_unfinished(found)]:
        _warn(line)
    return found


def predict(*, quiet: bool = False, **options: Any) -> pd.DataFrame:
    """Says what theory says of a grid, without training: `vae-sweep predict` as a function.

    Writes nothing but caches of the images.

    Args:
        quiet: As of `sweep`.
        **options: As of `sweep`.

    Returns:
        A row per point: what tells it from others (norm, target, head, likelihood,
        reduction, beta, seed, other), then the columns of predicted.csv, among them
        `psnr_cap` (dB), `sigma` (8-bit levels), `kl` (nats per image) and the sentence.

    Raises:
        UserError: As `sweep`.

    References:
        Tipping & Bishop 1999 and Lucas et al. 2019 for the linear optimum.

    Example:
        >>> vae_sweep.predict(norm=["zscore", "minus1_1"], beta=[0.1, 1])
    """
    with _borrowed():
        asked = _composed(options)
        with carrying_out(asked.lines):
            from vae_sweep.reporting import prediction_table  # torch

            configs = list({c.run_dir: c for c in asked.configs}.values())
            console = Console(least=120, quiet=quiet, warn=_warn)
            return prediction_table.frame(configs, console.say)


class Asked(NamedTuple):
    """The points of a grid, and the lines that ask for it on a command line."""

    configs: list[RunConfig]
    lines: list[str]


def _composed(options: Mapping[str, Any]) -> Asked:
    """The points that keyword arguments ask for, each once, by the code of the command."""
    lines = keywords.lines(options)
    typed = arguments.read(lines)
    with _hydra() as hydra:
        loader = hydra.config_loader()
        parser = OverridesParser.create(loader)
        jobs = union(parser.parse_overrides(typed.lines), parser)
        master = loader.load_configuration("config", [], RunMode.MULTIRUN)
        compositions = Compositions(loader, master)
        configs = entry.configs_of([compositions.job(job).config for job in jobs])
    _check_sources(configs)
    return Asked(configs, lines)


@contextmanager
def _hydra() -> Iterator[GlobalHydra]:
    """Hydra on our conf/, whatever else this process has done with it."""
    version = VersionBase.instance().getbase()
    before = GlobalHydra.instance()
    GlobalHydra.set_instance(GlobalHydra.__new__(GlobalHydra))
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(entry.CONF), "vae_sweep", "1.3"):
            yield GlobalHydra.instance()
    finally:
        GlobalHydra.set_instance(before)
        VersionBase.instance().version_base = version


def _check_sources(configs: list[RunConfig]) -> None:
    """Raises UserError where a user's module was edited since this process imported it."""
    for module, digest in {k: v for c in configs for k, v in c.sources.items()}.items():
        if options.sha256.__wrapped__(module) != digest:
            raise UserError(
                f"{module} was edited after this process had imported it; restart "
                f"Python (in a notebook, the kernel)"
            )


@contextmanager
def _borrowed() -> Iterator[None]:
    """What a call does within a user's process: errors are UserErrors, and all is as it
    was afterwards."""
    import torch

    cudnn: Any = torch.backends.cudnn
    precision = cudnn.conv, torch.backends.cuda.matmul
    with ExitStack() as stack:
        stack.enter_context(_one_at_a_time)
        for each in precision:
            stack.callback(setattr, each, "fp32_precision", each.fp32_precision)
        stack.enter_context(stop.borrowed())
        try:
            yield
        except (HydraException, OmegaConfBaseException) as error:
            raise UserError(entry.one_line(error)) from None
        except OSError as error:
            raise UserError(machine.of_system(error)) from error


def _warn(text: str) -> None:
    """A Python warning that points at the caller of the API."""
    frame, level = sys._getframe(), 1
    while frame.f_back and Path(frame.f_code.co_filename).is_relative_to(PACKAGE):
        frame, level = frame.f_back, level + 1
    warnings.warn(text, stacklevel=level)


def _unfinished(found: Results) -> list[str]:
    """A line that names the points that failed or diverged."""
    odd = [run for run in found.finals.to_dict("records") if run["status"] != "finished"]
    if not odd:
        return []
    named = [f"{run['run_id']} {results.progress(run)}" for run in odd[:NAMED]]
    more = f"; and {len(odd) - NAMED} more" if len(odd) > NAMED else ""
    return [
        f"{len(odd)} of {len(found.finals)} points did not finish: {'; '.join(named)}{more}"
    ]
