"""The launcher `grid`: all points of a multirun at once, in this process."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

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

    `grid` takes the points as plain containers and returns an outcome per point: None of
    one that had nothing to do, of which no record is made, else the value of its job, an
    exception as well, for Hydra would print one that a job raises. A task function without
    a `grid` is called job by job, as by Hydra's basic launcher.
    """

    def setup(
        self,
        *,
        hydra_context: HydraContext,
        task_function: TaskFunction,
        config: DictConfig,
    ) -> None:
        self.hydra_context, self.task_function = hydra_context, task_function
        self.config = config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        compositions = Compositions(self.hydra_context.config_loader, self.config)
        grid: Callable[[list[Any]], list[Any]] | None
        grid = getattr(self.task_function, "grid", None)
        jobs = [compositions.job(lines) for lines in job_overrides]
        outcomes = grid([job.config for job in jobs]) if grid else [None] * len(jobs)
        returned: list[JobReturn] = []
        for i, (lines, job) in enumerate(zip(job_overrides, jobs, strict=True)):
            outcome = outcomes[i]
            if grid is not None and outcome is None:
                continue
            config, number = compositions.hydras(lines, job), initial_job_idx + i
            if grid is None:
                returned.append(self.run(config, number, self.task_function))
                continue
            # .hydra is no more than a record: there is none in a folder that is read-only
            with suppress(OSError):
                returned.append(self.run(config, number, lambda _, value=outcome: value))
        return returned

    def run(self, config: DictConfig, number: int, task: TaskFunction) -> JobReturn:
        """Hydra's job of a point: calls `task`, and writes .hydra into the run's folder."""
        with open_dict(config):
            config.hydra.job.id = config.hydra.job.num = number
        return run_job(
            hydra_context=self.hydra_context,
            task_function=task,
            config=config,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        )
