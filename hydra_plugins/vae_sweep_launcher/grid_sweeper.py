"""The sweeper `grid`: products of what is typed, and unions by `experiments=NAME`."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from hydra_plugins.vae_sweep_launcher.grid_launcher import GridLauncher
from vae_sweep.command import arguments, experiments
from vae_sweep.command.entry import config_of
from vae_sweep.errors import UserError


@dataclass
class GridSweeperConf:
    """hydra/sweeper=grid. `params` are overrides as typed, key -> value; a batch has at
    most `max_batch_size` jobs, all where that is null."""

    _target_: str = "hydra_plugins.vae_sweep_launcher.grid_sweeper.GridSweeper"
    max_batch_size: int | None = None
    params: dict[str, str] = field(default_factory=dict)


ConfigStore.instance().store(
    group="hydra/sweeper", name="grid", node=GridSweeperConf, provider="vae_sweep"
)


class GridSweeper(Sweeper):
    """Makes the jobs of all grids of an experiment one batch, each job once.

    Unlike Hydra's basic one it writes no multirun.yaml: a command that only looks at a
    sweep, or is refused, writes nothing.
    """

    def __init__(self, max_batch_size: int | None, params: dict[str, str] | None):
        if max_batch_size is not None and max_batch_size < 1:
            raise UserError(
                f"hydra.sweeper.max_batch_size must be null or at least 1, got "
                f"{max_batch_size}; leave it out"
            )
        self.max_batch_size, self.params = max_batch_size, params or {}

    def setup(
        self,
        *,
        hydra_context: HydraContext,
        task_function: TaskFunction,
        config: DictConfig,
    ) -> None:
        self.hydra_context, self.config = hydra_context, config
        self.task: Any = task_function
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        assert self.launcher is not None
        assert self.hydra_context is not None
        parser = OverridesParser.create(self.hydra_context.config_loader)
        params = [f"{key}={value}" for key, value in self.params.items()]
        jobs = union(parser.parse_overrides([*params, *arguments]), parser)
        alone = not isinstance(self.launcher, GridLauncher)  # which sees all points before
        if alone:
            self._validate(jobs)
        size = self.max_batch_size or len(jobs)
        returns: list[Sequence[Any]] = []
        for start in range(0, len(jobs), size):
            batch = jobs[start : start + size]
            returns.append(self.launcher.launch(batch, initial_job_idx=start))
            # raises what a job raised
            outcomes = [result.return_value for result in returns[-1]]
            if alone and hasattr(self.task, "note"):
                self.task.note(outcomes)  # of jobs in processes of their own
        return returns

    def _validate(self, jobs: list[list[str]]) -> None:
        """Raises UserError, or what Hydra raises, where a point is wrong."""
        assert self.hydra_context is not None
        assert self.config is not None
        from vae_sweep.vae import point  # torch, which --help need not wait for

        loader = self.hydra_context.config_loader
        for job in jobs:
            point.check(config_of(loader.load_sweep_config(self.config, job)))


def union(
    overrides: list[Override], parser: OverridesParser | None = None
) -> list[list[str]]:
    """The jobs of all grids that `overrides` name, each job once."""
    parser = parser or OverridesParser.create()
    jobs: dict[tuple[str, ...], None] = {}
    for grid in _grids(overrides, parser):
        arguments.check_size(grid)
        fitted = arguments.fitted(_product(grid), grid, parser)
        jobs |= dict.fromkeys(tuple(job) for job in fitted)
    return [list(job) for job in jobs]


def _product(overrides: list[Override]) -> list[list[str]]:
    """The jobs of one grid; of several overrides of a key the last one counts."""
    axes = {}
    for override in overrides:
        key = override.get_key_element()
        if override.is_sweep_override():
            axes[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
        else:
            axes[key] = [f"{key}={override.get_value_element_as_str()}"]
    return [list(job) for job in itertools.product(*axes.values())]


def _grids(overrides: list[Override], parser: OverridesParser) -> list[list[Override]]:
    """The one grid that was typed, or those of the experiments that were."""
    typed = [o for o in overrides if o.key_or_group != "experiments"]
    named = [o for o in overrides if o.key_or_group == "experiments"]
    names = arguments.experiment_names(named[-1]) if named else []
    if not names:
        return [typed]
    grids = []
    for name in names:
        for lines in experiments.load(name):
            lines = arguments.beside([f"experiments={name}", *lines], typed)
            grids.append([*_checked(lines, name, parser), *typed])
    return grids


def _checked(lines: list[str], name: str, parser: OverridesParser) -> list[Override]:
    """An experiment's lines; a UserError names its file."""
    try:
        overrides = [arguments.parse(line, parser) for line in lines]
        known = arguments.known_keys(overrides)
        for override in overrides:
            arguments.check(override, known)
    except UserError as error:
        raise UserError(f"in {experiments.available()[name]}: {error}") from None
    return [part for override in overrides for part in arguments.constant_beta(override)]
