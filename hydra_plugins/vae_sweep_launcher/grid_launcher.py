"""The launcher `grid`: all points of a multirun at once, in this process."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import cast

from hydra.core.config_loader import ConfigLoader
from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, configure_log, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from hydra_plugins.vae_sweep_launcher.compositions import Compositions


@dataclass
class GridLauncherConf:
    """hydra/launcher=grid."""

    _target_: str = "hydra_plugins.vae_sweep_launcher.grid_launcher.GridLauncher"


ConfigStore.instance().store(
    group="hydra/launcher", name="grid", node=GridLauncherConf, provider="vae_sweep"
)


class GridLauncher(Launcher):
    """Hands all points to the task's `grid` function, which trains them together.

    A task function without one is called job by job, as by Hydra's basic launcher. What
    `grid` returns of a point is its job's value, an exception as well: Hydra would print
    one that a job raises. A `grid` that returns None has no jobs to keep records of, so
    that none are made.
    """

    def setup(
        self,
        *,
        hydra_context: HydraContext,
        task_function: TaskFunction,
        config: DictConfig,
    ) -> None:
        # the sweeper, which set this up, validates its batch with the same loader
        self.compositions = Compositions(hydra_context.config_loader)
        hydra_context.config_loader = cast(ConfigLoader, self.compositions)
        self.hydra_context, self.task_function = hydra_context, task_function
        self.config = config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        configs = [
            self._compose(list(overrides), initial_job_idx + i)
            for i, overrides in enumerate(job_overrides)
        ]
        grid = getattr(self.task_function, "grid", None)
        if grid is None:
            return [self._run(config, self.task_function) for config in configs]
        outcomes = grid(configs)
        if outcomes is None:
            return []
        kept: list[JobReturn] = []
        for config, outcome in zip(configs, outcomes, strict=True):
            # .hydra is no more than a record: there is none in a folder that is read-only
            with suppress(OSError):
                kept.append(self._run(config, lambda _, outcome=outcome: outcome))
        return kept

    def _compose(self, overrides: list[str], index: int) -> DictConfig:
        config = self.compositions.take(self.config, overrides)
        with open_dict(config):
            config.hydra.job.id = index
            config.hydra.job.num = index
        return config

    def _run(self, config: DictConfig, task: TaskFunction) -> JobReturn:
        return run_job(
            hydra_context=self.hydra_context,
            task_function=task,
            config=config,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        )
