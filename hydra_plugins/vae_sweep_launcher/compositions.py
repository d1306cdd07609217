"""Composes the jobs of a grid, each choice of groups once.

Hydra composes every job from its files, twice: the sweeper checks it, the launcher runs
it. That takes 75 ms each time, of which most is the same for all jobs. Values
(`seed=3`, `beta.value=0.5`) are what Hydra applies last, so they can be applied here to
a copy of the composition that the job's groups give.
"""

import copy
from typing import Any

from hydra._internal.config_loader_impl import get_overrides_dirname
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf


class Compositions:
    """A ConfigLoader that remembers compositions; for all else it is `loader`."""

    def __init__(self, loader: ConfigLoader):
        self._loader = loader
        self._parser = OverridesParser.create()
        self._by_groups: dict[tuple[str, ...], DictConfig] = {}
        self._is_group: dict[str, bool] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def load_sweep_config(
        self, master_config: DictConfig, sweep_overrides: list[str]
    ) -> DictConfig:
        """The config of one job, a copy of its own."""
        overrides = self._parser.parse_overrides(sweep_overrides)
        values = [o for o in overrides if self._is_value(o)]
        groups = tuple(str(o.input_line) for o in overrides if o not in values)
        if groups not in self._by_groups:
            base = self._loader.load_sweep_config(master_config, list(groups))
            self._by_groups[groups] = base
        config = copy.deepcopy(self._by_groups[groups])
        for override in values:
            OmegaConf.update(config, override.key_or_group, override.value(), merge=True)
        task = [o for o in overrides if not o.is_hydra_override()]
        config.hydra.overrides.task = [o.input_line for o in task]
        names = config.hydra.job.config.override_dirname
        config.hydra.job.override_dirname = get_overrides_dirname(
            task, names.exclude_keys, names.item_sep, names.kv_sep
        )
        return config

    def _is_value(self, override: Override) -> bool:
        """Whether it sets a plain key: no group, nothing added, deleted, or Hydra's."""
        key = override.key_or_group
        if key not in self._is_group:
            self._is_group[key] = bool(self._loader.get_group_options(key))
        plain = not (override.is_add() or override.is_delete() or override.package)
        return plain and not override.is_hydra_override() and not self._is_group[key]
