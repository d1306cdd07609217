"""Composes the jobs of a grid from what they share.

Hydra composes every job from its files, twice: the sweeper checks it, the launcher runs
it. That takes 60 ms each time, of which most is the same for all jobs. Here each option
of a group is composed once (norm=unit alone, head=tanh alone): where options touch
different keys, a job's composition is theirs put together. Values (`seed=3`) are what
Hydra applies last, so they are applied to a copy. Whatever does not fit goes to Hydra.
"""

import copy
import pickle
from collections.abc import Callable
from functools import partial
from typing import Any

from hydra._internal.config_loader_impl import get_overrides_dirname
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import ConfigCompositionException
from omegaconf import DictConfig, OmegaConf


class Compositions:
    """A ConfigLoader that remembers compositions; for all else it is `loader`."""

    def __init__(self, loader: ConfigLoader):
        self._loader = loader
        self._parser = OverridesParser.create()
        self._composed: dict[tuple[str, ...], Callable[[], DictConfig]] = {}
        self._plain: dict[tuple[str, ...], dict[str, Any]] = {}
        self._checked: dict[tuple[str, ...], DictConfig] = {}
        self._is_group: dict[str, bool] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def load_sweep_config(
        self, master_config: DictConfig, sweep_overrides: list[str]
    ) -> DictConfig:
        """The config of one job, as the sweeper asks for it to see that it is legal."""
        lines = tuple(sweep_overrides)
        self._checked[lines] = self._put_together(master_config, lines)
        return self._checked[lines]

    def take(self, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        """The config of one job, for the caller alone: the sweeper's, if it made one."""
        lines = tuple(sweep_overrides)
        checked = self._checked.pop(lines, None)
        return self._put_together(master_config, lines) if checked is None else checked

    def _put_together(self, master: DictConfig, lines: tuple[str, ...]) -> DictConfig:
        overrides = self._parser.parse_overrides(list(lines))
        values = [o for o in overrides if self._is_plain(o, group=False)]
        options = [o for o in overrides if self._is_plain(o, group=True)]
        rest = [o for o in overrides if o not in values and o not in options]
        config = self._assemble(master, rest, options)
        if config is None:
            groups = [o for o in overrides if o not in values]
            config = self._compose(master, groups)
        for override in values:
            OmegaConf.update(config, override.key_or_group, override.value(), merge=True)
        task = [o for o in overrides if not o.is_hydra_override()]
        config.hydra.overrides.task = [o.input_line for o in task]
        names = config.hydra.job.config.override_dirname
        config.hydra.job.override_dirname = get_overrides_dirname(
            task, names.exclude_keys, names.item_sep, names.kv_sep
        )
        return config

    def _compose(self, master: DictConfig, overrides: list[Override]) -> DictConfig:
        """What Hydra makes of the overrides, for the caller alone."""
        lines = tuple(str(o.input_line) for o in overrides)
        if lines not in self._composed:
            composed = self._loader.load_sweep_config(master, list(lines))
            self._composed[lines] = _copies(composed)
        return self._composed[lines]()

    def _plain_of(self, master: DictConfig, overrides: list[Override]) -> dict[str, Any]:
        lines = tuple(str(o.input_line) for o in overrides)
        if lines not in self._plain:
            self._plain[lines] = _without_hydra(self._compose(master, overrides))
        return self._plain[lines]

    def _assemble(
        self, master: DictConfig, rest: list[Override], options: list[Override]
    ) -> DictConfig | None:
        """What Hydra composes of `rest` and `options`; None where options may meet."""
        try:
            config = self._compose(master, rest)
        except ConfigCompositionException:  # an option is mandatory
            return None
        before = self._plain_of(master, rest)
        touched: set[str] = set()
        for option in options:
            alone = self._plain_of(master, [*rest, option])
            changed = {k: v for k, v in alone.items() if v != before.get(k)}
            reach = {*changed, option.key_or_group.split("/")[0]}
            if reach & touched or alone.keys() != before.keys():
                return None
            touched |= reach
            for key, value in changed.items():
                config[key] = value
            config.hydra.runtime.choices[option.key_or_group] = option.value()
        return config

    def _is_plain(self, override: Override, group: bool) -> bool:
        """Whether it sets a key (or a group's option); not added, deleted, or Hydra's."""
        key = override.key_or_group
        if key not in self._is_group:
            self._is_group[key] = bool(self._loader.get_group_options(key))
        plain = not (override.is_add() or override.is_delete() or override.package)
        plain = plain and not override.is_hydra_override() and "@" not in key
        if group:
            plain = plain and isinstance(override.value(), str)
        return plain and self._is_group[key] == group


def _copies(config: DictConfig) -> Callable[[], DictConfig]:
    """Makes copies by pickle, four times as fast as deepcopy, which takes all classes."""
    try:
        return partial(pickle.loads, pickle.dumps(config))
    except pickle.PicklingError:
        return partial(copy.deepcopy, config)


def _without_hydra(config: DictConfig) -> dict[str, Any]:
    """All but the node `hydra`, as plain containers, interpolations as they stand."""
    keys = [str(key) for key in config if key != "hydra"]
    plain = OmegaConf.to_container(OmegaConf.masked_copy(config, keys))
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}
