"""The sweeper `grid`: Hydra's basic one, and unions of grids by `experiments=NAME`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper, BasicSweeperConf
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

from vae_sweep import arguments, experiment
from vae_sweep.config import UserError


@dataclass
class GridSweeperConf(BasicSweeperConf):
    """hydra/sweeper=grid."""

    _target_: str = "hydra_plugins.vae_sweep_launcher.grid_sweeper.GridSweeper"


ConfigStore.instance().store(
    group="hydra/sweeper", name="grid", node=GridSweeperConf, provider="vae_sweep"
)


class GridSweeper(BasicSweeper):
    """Makes the jobs of all grids of an experiment one batch, each job once.

    Unlike Hydra's it writes no multirun.yaml: a command that only looks at a sweep, or
    is refused, writes nothing.
    """

    def sweep(self, arguments: list[str]) -> Any:
        assert self.launcher is not None
        assert self.hydra_context is not None
        parser = OverridesParser.create(self.hydra_context.config_loader)
        typed = parser.parse_overrides([*self._parse_config(), *arguments])
        jobs = union(typed, parser)
        returns: list[Sequence[Any]] = []
        for batch in BasicSweeper.split_overrides_to_chunks(jobs, self.max_batch_size):
            self.validate_batch_is_legal(batch)
            done = sum(map(len, returns))
            returns.append(self.launcher.launch(batch, initial_job_idx=done))
            _ = [result.return_value for result in returns[-1]]  # raises what a job raised
        return returns


def union(
    overrides: list[Override], parser: OverridesParser | None = None
) -> list[list[str]]:
    """The jobs of all grids that `overrides` name, each job once."""
    parser = parser or OverridesParser.create()
    jobs: dict[tuple[str, ...], None] = {}
    for grid in _grids(overrides, parser):
        arguments.check_size(grid)
        [batch] = BasicSweeper.split_arguments(grid, None)
        fitted = arguments.fitted(batch, grid, parser)
        jobs |= dict.fromkeys(tuple(job) for job in fitted)
    return [list(job) for job in jobs]


def _grids(overrides: list[Override], parser: OverridesParser) -> list[list[Override]]:
    """The one grid that was typed, or those of the experiments that were."""
    typed = [o for o in overrides if o.key_or_group != "experiments"]
    named = [o for o in overrides if o.key_or_group == "experiments"]
    names = _names(named[-1]) if named else []
    if not names:
        return [typed]
    keys = {o.key_or_group for o in typed}
    grids = []
    for name in names:
        for lines in experiment.load(name):
            lines = experiment.overruled([f"experiments={name}", *lines], keys)
            grids.append([*_checked(lines, name, parser), *typed])
    return grids


def _names(chosen: Override) -> list[str]:
    """The experiments that were typed; none for null."""
    values = arguments.values_of(chosen)
    if values == [None]:
        return []
    if not all(isinstance(value, str | int) for value in values):
        raise UserError(
            f"experiments takes names, got {chosen.input_line}; "
            f"type them with commas, without brackets: experiments=a,b"
        )
    return [str(value) for value in values]


def _checked(lines: list[str], name: str, parser: OverridesParser) -> list[Override]:
    """An experiment's lines; a UserError names its file."""
    try:
        overrides = [arguments.parse(line, parser) for line in lines]
        for override in overrides:
            arguments.check(override)
        lines = [arguments.constant_beta(override) for override in overrides]
    except UserError as error:
        raise UserError(f"in {experiment.available()[name]}: {error}") from None
    return parser.parse_overrides(lines)
