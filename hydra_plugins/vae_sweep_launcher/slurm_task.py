"""What a task of Slurm's does, as submitit calls it."""

import json
import os
import sys
from typing import Any

CORES = ("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE")


class Part:
    """Trains a part of a sweep's points.

    All that is pickled is the name of this class, and text. Nothing heavy is imported here:
    the number of threads is set before torch is there.
    """

    def __call__(self, points: str, arguments: list[str]) -> None:
        """Trains `points`, a JSON list of configs, for the command that had `arguments`.

        SIGUSR2 writes checkpoints, and then does what submitit made of it, which asks
        `checkpoint` and queues the task again. Exit codes are those of `vae-sweep run`.
        """
        cores = [os.environ[name] for name in CORES if name in os.environ]
        os.environ["OMP_NUM_THREADS"] = cores[0] if cores else "1"
        from vae_sweep.command import plain
        from vae_sweep.config import validate
        from vae_sweep.errors import Failed
        from vae_sweep.records.run_folder import carrying_out
        from vae_sweep.system import machine, stop

        with plain.said(), stop.borrowed(), carrying_out(arguments):
            machine.start()
            plain.see_working_folder()
            from vae_sweep import grid

            configs = [validate(values) for values in json.loads(points)]
            outcomes = grid.run(configs, part=True)
        failed = [str(each) for each in outcomes if isinstance(each, Failed)]
        if failed:
            print("error: " + "\n".join(dict.fromkeys(failed)), file=sys.stderr)
            sys.exit(1)

    def checkpoint(self, points: str, arguments: list[str]) -> Any:
        """What the task does once it is queued again: the same, from runs' checkpoints."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, points, arguments)
