"""The launcher `slurm`: each cohort of a multirun is a task of a job array on a cluster."""

import io
import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, configure_log, setup_globals
from omegaconf import OmegaConf

from hydra_plugins.vae_sweep_launcher.compositions import Compositions
from hydra_plugins.vae_sweep_launcher.grid_launcher import GridLauncher
from vae_sweep.errors import UserError, counted, shown
from vae_sweep.files import write_atomically

if TYPE_CHECKING:
    from vae_sweep.config import RunConfig
    from vae_sweep.reporting.console import Console

FOLDER = ".slurm"  # of a sweep: submitit's files, and logs
PROGRAMS = ("sbatch", "srun", "squeue")
LOOK_S = 1.0, 10.0  # seconds from one look at the tasks to the next, at first and later


@dataclass
class SlurmLauncherConf:
    """hydra/launcher=slurm. Keys are sbatch's, by the names that Hydra's own launcher on
    submitit gives them; null leaves one to the cluster."""

    _target_: str = "hydra_plugins.vae_sweep_launcher.slurm_launcher.SlurmLauncher"
    wait: bool = False  # for the tasks, with progress and the final table
    name: str = "vae-sweep"
    timeout_min: int = 240  # of a task, which goes on in a new one
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    nodelist: str | None = None
    exclude: str | None = None
    comment: str | None = None
    cpus_per_task: int = 1
    gpus_per_node: int | str | None = None  # of a task: 1, or a100:1
    mem_gb: float | None = None
    array_parallelism: int = 256  # most tasks at a time
    signal_delay_s: int = 120  # from SIGUSR2 to the end of a task's time
    max_num_timeout: int = 1000  # times that a task may run out of it
    setup: list[str] | None = None  # lines of shell before the task
    additional_parameters: dict[str, Any] = field(default_factory=dict)  # of sbatch


ConfigStore.instance().store(
    group="hydra/launcher", name="slurm", node=SlurmLauncherConf, provider="vae_sweep"
)


class SlurmLauncher(GridLauncher):
    """Validates all points, hands those that have not ended to Slurm, and returns, or waits
    for them. A command that trains nothing is carried out here, as by GridLauncher."""

    def __init__(self, **keys: Any):
        self.keys: dict[str, Any] = {
            key: OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
            for key, value in keys.items()
        }

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        task: Any = self.task_function
        if not getattr(task, "is_portable", False):
            return super().launch(job_overrides, initial_job_idx)
        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        compositions = Compositions(self.hydra_context.config_loader, self.config)
        jobs = [compositions.job(lines) for lines in job_overrides]
        _check_programs()
        configs = task.configs([job.config for job in jobs])
        from vae_sweep import grid
        from vae_sweep.reporting.console import Console
        from vae_sweep.training.device import Elsewhere

        console = Console(least=120)
        queued = _queued_runs({config.sweep_dir for config in configs})
        found = {config.run_dir: config.run_dir.absolute() for config in configs}
        ours = {path: queued[run] for path, run in found.items() if run in queued}
        waited = set(ours.values())  # the jobs that train what was asked for
        if ours:
            points, names = counted(len(ours), "point"), ", ".join(sorted(waited))
            console.say(f"queued already: {points}, in job {names}; scancel takes them out")
        memory = self.keys["mem_gb"]
        elsewhere = Elsewhere(
            gpus=_gpus(self.keys),
            memory=None if memory is None else int(memory * 2**30),
            remedy="set hydra.launcher.gpus_per_node=1",
        )
        sent = grid.hand_out(
            [config for config in configs if config.run_dir not in ours],
            elsewhere,
            lambda cohorts: waited.add(submit(cohorts, self.keys, console)),
        )
        if sent is None and not ours:  # all have ended: a table is made here
            return super().launch(job_overrides, initial_job_idx)
        sweeps = list(dict.fromkeys(config.sweep_dir for config in configs))
        console.say(f"next: vae-sweep status {' '.join(map(str, sweeps))}")
        for i, (lines, job) in enumerate(zip(job_overrides, jobs, strict=True)):
            if configs[i].run_dir in (sent or ()):
                config = compositions.hydras(lines, job)
                self.run(config, initial_job_idx + i, lambda _: None)
        if self.keys["wait"]:
            wait(waited, [config.run_dir for config in configs], console)
            task.note(grid.report(configs))
        return []


def submit(
    cohorts: "list[list[RunConfig]]", keys: dict[str, Any], console: "Console"
) -> str:
    """Submits a task for each cohort, as one array; the job's id. Beside submitit's files
    stands JOB.json: which runs each task is to train.

    Raises:
        UserError: sbatch refuses, for a reason that is passed on.
    """
    import submitit
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    # here, as Hydra's scans load plugins anew, and pickle names a class as it is now
    from hydra_plugins.vae_sweep_launcher.slurm_task import Part

    folder = cohorts[0][0].sweep_dir / FOLDER
    folder.mkdir(exist_ok=True)
    executor = submitit.SlurmExecutor(folder, max_num_timeout=keys["max_num_timeout"])
    executor.update_parameters(**_parameters(keys))
    points = [json.dumps([c.model_dump(mode="json") for c in part]) for part in cohorts]
    arguments = [sys.argv[1:]] * len(points)
    before = set(folder.iterdir())
    try:
        with _outside_of_jobs(), redirect_stderr(io.StringIO()):
            jobs = executor.map_array(Part(), points, arguments)
    except (FailedJobError, FailedSubmissionError) as error:
        for path in set(folder.iterdir()) - before:
            path.unlink()
        said = [line for line in str(error).splitlines() if line.strip()]
        reason = said[-1].removeprefix("sbatch: error: ") if said else "no reason given"
        raise UserError(
            f"sbatch refuses the tasks: {reason}; set the keys of hydra.launcher to what "
            f"the cluster has"
        ) from None
    name = jobs[0].job_id.partition("_")[0]
    count, of = counted(sum(map(len, cohorts)), "point"), counted(len(jobs), "task")
    console.say(f"submitted {count} as job {name} of {of}, {_each(keys)}")
    console.say(f"logs: {folder}/{name}_*log.out; scancel {name} ends it with checkpoints")
    tasks = [[str(config.run_dir.absolute()) for config in part] for part in cohorts]
    content = json.dumps({job.job_id: runs for job, runs in zip(jobs, tasks, strict=True)})
    write_atomically(folder / f"{name}.json", content.encode())
    return name


def wait(jobs: set[str], folders: Sequence[Path], console: "Console") -> None:
    """Shows how far the runs are until Slurm has no task of the jobs any more."""
    from rich.console import Group
    from rich.live import Live

    from vae_sweep import status
    from vae_sweep.records import states

    begun, (least, most) = time.monotonic(), LOOK_S
    said: list[Counter[str]] = []
    ours = set(folders)

    def looked(folder: Path) -> states.Sweep:
        sweep = states.read(folder)
        return sweep._replace(runs=[r for r in sweep.runs if folder / r.run_id in ours])

    display = Live(console=console, auto_refresh=False)
    with display if console.is_terminal else nullcontext():
        while True:
            tasks = _queued()  # before the last look at the runs
            sweeps = [looked(folder) for folder in sorted({path.parent for path in ours})]
            lines = [status.summed_up(sweep) for sweep in sweeps]
            if console.is_terminal:
                display.update(Group(*lines), refresh=True)
            elif said != (said := [sweep.counts for sweep in sweeps]):
                console.print(*lines, sep="\n", soft_wrap=True)
            if tasks is not None and not jobs & {task.partition("_")[0] for task in tasks}:
                return
            time.sleep(min(most, max(least, (time.monotonic() - begun) / 10)))


def _queued() -> set[str] | None:
    """This user's tasks that wait or run, as JOB or JOB_TASK; None where Slurm does not
    answer. Unlike its accounting, which not every cluster has, it knows of a task that was
    killed."""
    asked = ["squeue", "--me", "--noheader", "--array", "--format=%i"]
    said = subprocess.run(asked, capture_output=True, text=True)
    return set(said.stdout.split()) if said.returncode == 0 else None


def _queued_runs(sweeps: set[Path]) -> dict[Path, str]:
    """The runs of which a task waits or runs -> its job."""
    tasks, found = _queued() or set(), {}
    for path in sorted(path for sweep in sweeps for path in sweep.glob(f"{FOLDER}/*.json")):
        with suppress(OSError, ValueError):
            for task, runs in json.loads(path.read_bytes()).items():
                found |= dict.fromkeys(map(Path, runs), path.stem) if task in tasks else {}
    return found


def _parameters(keys: dict[str, Any]) -> dict[str, Any]:
    """As submitit names them."""
    own = ("_target_", "wait", "name", "timeout_min", "mem_gb", "max_num_timeout")
    given = {k: v for k, v in keys.items() if k not in own and v is not None}
    if keys["mem_gb"] is not None:
        given["mem"] = f"{math.ceil(keys['mem_gb'] * 1024)}M"
    return {
        **given,
        "job_name": keys["name"],
        "time": keys["timeout_min"],
        "stderr_to_stdout": True,
        # since 22.05 srun does not take sbatch's number of CPUs for its own
        "srun_args": [f"--cpus-per-task={keys['cpus_per_task']}"],
    }


def _gpus(keys: dict[str, Any]) -> int:
    """Of a task, from `2` or `a100:2`. Raises UserError where it is neither."""
    typed = str(keys["gpus_per_node"] or 0)
    count = typed.rpartition(":")[2]
    if not count.isdecimal():
        raise UserError(
            f"hydra.launcher.gpus_per_node must be a number, or a type and a number, got "
            f"{shown(typed)}; set hydra.launcher.gpus_per_node={typed}:1"
        )
    return int(count)


def _each(keys: dict[str, Any]) -> str:
    """What a task has."""
    gpus, memory = _gpus(keys), keys["mem_gb"]
    said = [counted(keys["cpus_per_task"], "CPU")]
    said += [counted(gpus, "GPU")] if gpus else []
    said += [] if memory is None else [f"{memory:g} GB"]
    return "each " + ", ".join([*said, counted(keys["timeout_min"], "minute")])


def _check_programs() -> None:
    """Raises UserError where there is no Slurm, or no submitit, to submit by."""
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    if absent:
        raise UserError(
            f"hydra/launcher=slurm needs Slurm, and there is no {', '.join(absent)} on "
            f"PATH; type it on a login node of the cluster, or leave hydra/launcher out"
        )
    if find_spec("submitit") is None:
        raise UserError(
            "hydra/launcher=slurm needs submitit; pip install 'vae-sweep[slurm]'"
        )


@contextmanager
def _outside_of_jobs() -> Iterator[None]:
    """Whoever submits from within a job (salloc, srun) does not hand its settings on."""
    inside = "SLURM_JOB_ID" in os.environ
    ours = [k for k in os.environ if k.startswith(("SLURM_", "SRUN_")) and inside]
    kept = {k: os.environ.pop(k) for k in ours if k != "SLURM_CONF"}
    try:
        yield
    finally:
        os.environ.update(kept)
