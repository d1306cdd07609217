"""Composes the jobs of a grid from what they share.

Hydra composes every job from its files, which takes 60 ms, most of it the same for all.
Here each option of a group is composed once (norm=unit alone, head=tanh alone): where
options touch different keys, a job is theirs put together. Values (`seed=3`) are what
Hydra applies last, so they are set in the result. Whatever does not fit goes to Hydra.
"""

import copy
from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import ConfigCompositionException
from omegaconf import DictConfig, OmegaConf

Plain = dict[str, Any]


class Job(NamedTuple):
    """A job's config as plain containers (of which jobs share parts), without the node
    `hydra`, interpolations as they stand; and the options of groups that it chose, None
    where Hydra composed it."""

    config: Plain
    choices: dict[str, str] | None


class Compositions:
    """The jobs of one sweep; its `master` config has what Hydra's keys were set to."""

    def __init__(self, loader: ConfigLoader, master: DictConfig):
        self._loader, self._master = loader, master
        self._parser = OverridesParser.create()
        self._parsed: dict[str, Override] = {}
        self._is_group: dict[str, bool] = {}
        self._changes: dict[str, Plain] = {}

    def job(self, lines: Sequence[str]) -> Job:
        """What a job's overrides make. Raises what Hydra raises where they are wrong."""
        overrides = [self._override(line) for line in lines]
        options = [o for o in overrides if self._is_plain(o, group=True)]
        values = [o for o in overrides if self._is_plain(o, group=False)]
        if len(options) + len(values) == len(overrides) and self._base is not None:
            config = self._with_values(self._with_options(options), values)
            if config is not None:
                return Job(config, {o.key_or_group: str(o.value()) for o in options})
        return Job(_plain(self._loaded(lines)), None)

    def hydras(self, lines: Sequence[str], job: Job) -> DictConfig:
        """`job` as Hydra composes it, with the node `hydra`, for the caller alone."""
        if job.choices is None:
            return self._loaded(lines)
        config = copy.deepcopy(self._whole)
        for key, value in job.config.items():
            config[key] = value
        recorded = config.hydra.runtime.choices  # not of groups with several options
        recorded.update({k: v for k, v in job.choices.items() if k in recorded})
        config.hydra.overrides.task = list(lines)
        style = config.hydra.job.config.override_dirname
        shown = [
            str(override.input_line)
            for override in map(self._override, lines)
            if override.key_or_group not in style.exclude_keys
        ]
        name = style.item_sep.join(sorted(shown))
        config.hydra.job.override_dirname = name.replace("=", style.kv_sep)
        return config

    def _loaded(self, lines: Sequence[str]) -> DictConfig:
        return self._loader.load_sweep_config(self._master, list(lines))

    @cached_property
    def _whole(self) -> DictConfig:
        """What no override makes."""
        return self._loaded([])

    @cached_property
    def _base(self) -> Plain | None:
        """What no override makes, as plain containers; None where one is needed."""
        try:
            return _plain(self._whole)
        except ConfigCompositionException:
            return None

    def _override(self, line: str) -> Override:
        if line not in self._parsed:
            [self._parsed[line]] = self._parser.parse_overrides([line])
        return self._parsed[line]

    def _is_plain(self, override: Override, group: bool) -> bool:
        """Whether it sets a key (or a group's option); not added, deleted, or Hydra's."""
        key = override.key_or_group
        if key not in self._is_group:
            self._is_group[key] = bool(self._loader.get_group_options(key))
        plain = not (override.is_add() or override.is_delete() or override.package)
        plain = plain and not override.is_hydra_override() and "@" not in key
        if group:
            value = override.value()
            names = value if isinstance(value, list) else [value]  # log=[wandb,mine:LOGGER]
            plain = plain and all(isinstance(name, str) for name in names)
        return plain and self._is_group[key] == group

    def _with_options(self, options: list[Override]) -> Plain | None:
        """The base with the changes of all `options`; None where these may meet."""
        assert self._base is not None
        config, touched = dict(self._base), set()
        for option in options:
            line = str(option.input_line)
            if line not in self._changes:
                alone = _plain(self._loaded([line]))
                changed = {k: v for k, v in alone.items() if v != self._base.get(k)}
                if alone.keys() != self._base.keys():
                    changed["hydra"] = None  # keys were added: Hydra's to compose
                self._changes[line] = changed
            changed = self._changes[line]
            reach = {*changed, option.key_or_group.split("/")[0]}
            if reach & touched or "hydra" in changed:
                return None
            touched |= reach
            config |= changed
        return config

    def _with_values(self, config: Plain | None, values: list[Override]) -> Plain | None:
        """Sets keys that are there; None where one is not, or is no leaf."""
        copied: set[str] = set()  # nodes that belong to this job alone
        for override in values if config is not None else ():
            *path, last = override.key_or_group.split(".")
            node: Any = config
            for depth, name in enumerate(path):
                if not isinstance(node.get(name), dict):
                    return None
                place = ".".join(path[: depth + 1])
                if place not in copied:
                    node[name] = dict(node[name])
                    copied.add(place)
                node = node[name]
            value = override.value()
            if last not in node or isinstance(node[last], dict) or isinstance(value, dict):
                return None
            node[last] = value
        return config


def _plain(config: DictConfig) -> Plain:
    """All but the node `hydra`, as plain containers, interpolations as they stand."""
    plain = OmegaConf.to_container(config)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items() if key != "hydra"}
