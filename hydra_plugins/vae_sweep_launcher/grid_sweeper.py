"""The sweeper `grid`: Hydra's basic one, and unions of grids by `experiments=NAME`."""

from dataclasses import dataclass

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper, BasicSweeperConf
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

from vae_sweep import command, experiment


@dataclass
class GridSweeperConf(BasicSweeperConf):
    """hydra/sweeper=grid."""

    _target_: str = "hydra_plugins.vae_sweep_launcher.grid_sweeper.GridSweeper"


ConfigStore.instance().store(
    group="hydra/sweeper", name="grid", node=GridSweeperConf, provider="vae_sweep"
)


class GridSweeper(BasicSweeper):
    """Makes the jobs of all grids of an experiment one batch, each job once."""

    def split_arguments(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, overrides: list[Override], max_batch_size: int | None
    ) -> list[list[list[str]]]:
        jobs = union(overrides)
        return list(BasicSweeper.split_overrides_to_chunks(jobs, max_batch_size))


def union(overrides: list[Override]) -> list[list[str]]:
    """The jobs of all grids that `overrides` stand for, each job once."""
    jobs: dict[tuple[str, ...], None] = {}
    for grid in _grids(overrides):
        [batch] = BasicSweeper.split_arguments(grid, None)
        jobs |= dict.fromkeys(tuple(job) for job in batch)
    return [list(job) for job in jobs]


def _grids(overrides: list[Override]) -> list[list[Override]]:
    """The one grid that was typed, or those of the experiments that were."""
    typed = [o for o in overrides if o.key_or_group != "experiments"]
    named = [o for o in overrides if o.key_or_group == "experiments"]
    if not named:
        return [typed]
    keys = {o.key_or_group for o in typed}
    parser = OverridesParser.create()
    chosen = named[-1]
    names = chosen.sweep_iterator() if chosen.is_sweep_override() else [chosen.value()]
    grids = []
    for name in names:
        for lines in experiment.load(str(name)):
            lines = experiment.overruled([f"experiments={name}", *lines], keys)
            lines = [command.constant_beta(line, parser) for line in lines]
            grids.append([*parser.parse_overrides(lines), *typed])
    return grids
