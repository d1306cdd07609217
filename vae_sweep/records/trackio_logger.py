"""trackio as a logger of one run. Only this file imports trackio, when the first run opens.

A run is a run of the project `log.trackio.project`, in the folder where trackio keeps its
own: TRACKIO_DIR, or the Hugging Face cache. No server and no account is asked.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from vae_sweep.config import RunConfig, TrackioConfig
from vae_sweep.records.tracker import CAPTIONS, check_installed, hyperparameters, numbers


class TrackioLogger:
    """The trackio run of one grid point."""

    shown_as: ClassVar[str] = "trackio"

    def __init__(self, config: RunConfig) -> None:
        import trackio.run
        from trackio.sqlite_storage import SQLiteStorage

        # it would write into the display that a run has finished
        trackio.run.print = lambda *_, **__: None  # pyright: ignore
        project, name = _section(config).project, config.run_id
        # of the folder, since two sweeps may have a run of one name
        run_id = hashlib.sha256(str(config.run_dir.resolve()).encode()).hexdigest()[:32]
        SQLiteStorage.delete_run(project, name, run_id=run_id)  # it is told all anew
        # not trackio.init, which ends the run before, and knows runs by their names alone
        self._run = trackio.run.Run(
            url=None,
            project=project,
            client=None,
            name=name,
            run_id=run_id,
            group=config.sweep,
            config=dict(hyperparameters(config)),
        )

    @staticmethod
    def is_on(config: RunConfig) -> bool:
        """True; raises UserError where trackio is not installed."""
        check_installed("trackio", "log=trackio", "trackio")
        return True

    @staticmethod
    def note(config: RunConfig) -> str:
        """How to look at the runs of this sweep."""
        project = _section(config).project
        return (
            f"trackio: project {project}, group {config.sweep}; look at it with: "
            f"trackio show --project {project}"
        )

    def row(self, row: Mapping[str, float]) -> None:
        """See loggers.Logger."""
        self._run.log(numbers(row), step=int(row["step"]))

    def images(self, step: int, path: Path) -> None:
        """See loggers.Logger."""
        import trackio

        image = trackio.Image(str(path), caption=CAPTIONS.get(path.stem))
        self._run.log({path.stem: image}, step=step)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """See loggers.Logger."""
        self._run.finish()


def _section(config: RunConfig) -> TrackioConfig:
    assert config.log.trackio is not None, "asked only where log.trackio is there"
    return config.log.trackio
