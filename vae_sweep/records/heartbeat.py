"""progress.json in a run's folder: how far it is, said by the process that trains it.

It is written every few seconds and gone when the run has ended. Nothing resumes from it; of
a process that was killed it stays behind. Whether a run trains is said by its claim.
"""

import json
import os
import platform
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vae_sweep.files import write_atomically
from vae_sweep.records.reader import SCHEMA

NAME = "progress.json"
EVERY_S = 5.0
SHARE = 0.01  # of the time, that writing it may take
SILENT_S = 60.0  # after which a rate that was stated says nothing any more


class Heartbeat(BaseModel):
    """What progress.json states.

    `step` of `total_steps` are done, at `rate` steps a second (None before the first);
    `time` is in seconds since 1970, by the clock of `host`, where process `pid` trains.
    """

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)
    schema_: int = Field(SCHEMA, alias="schema")
    step: int
    total_steps: int
    rate: float | None
    time: float
    host: str
    pid: int

    @property
    def age(self) -> float:
        """Seconds since it was written."""
        return max(0.0, time.time() - self.time)


class Pulse:
    """Writes progress.json of runs that train together.

    Args:
        step: The updates that they have made when training begins.
        total_steps: Those that they are to make.
    """

    def __init__(self, step: int, total_steps: int):
        self._first, self._total = step, total_steps
        self._began = time.monotonic()
        self._due = 0.0

    @property
    def is_due(self) -> bool:
        """Whether it is time to beat."""
        return time.monotonic() >= self._due

    def beat(self, folders: Iterable[Path], step: int) -> None:
        """Says in each folder that `step` updates are made; a file that cannot be written
        is no matter to training."""
        now = time.monotonic()
        made = step - self._first
        content = Heartbeat(
            schema=SCHEMA,
            step=step,
            total_steps=self._total,
            rate=made / (now - self._began) if made else None,
            time=time.time(),
            host=platform.node(),
            pid=os.getpid(),
        ).model_dump_json(by_alias=True)
        for folder in folders:
            with suppress(OSError):
                write_atomically(folder / NAME, content.encode(), sync=False)
        took = time.monotonic() - now
        self._due = now + max(EVERY_S, took / SHARE)


def read(folder: Path) -> Heartbeat | None:
    """What a run's progress.json states; None where there is none that can be read."""
    try:
        found = Heartbeat.model_validate(json.loads((folder / NAME).read_bytes()))
    except (OSError, ValueError, ValidationError, RecursionError):
        return None
    return found if found.schema_ <= SCHEMA else None


def remove(folder: Path) -> None:
    """Of a run that has ended, or that a process opens which has not begun to train it."""
    with suppress(OSError):
        (folder / NAME).unlink(missing_ok=True)
