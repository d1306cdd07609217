"""Where rows go besides the local records: one small protocol and W&B behind it.

W&B may fail or be slow; training never notices. Its calls run on one daemon thread,
which imports wandb when the first run opens. Where the first online run cannot start,
all are kept offline; any other failure switches off that run's logger, with one
warning. The records in the run's folder are the truth.
"""

import configparser
import logging
import math
import netrc
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Literal, Protocol
from urllib.parse import urlsplit

from vae_sweep.config import RunConfig, WandbConfig
from vae_sweep.errors import UserError
from vae_sweep.system import scratch, stop
from vae_sweep.system.machine import open_files

OWED = ".wandb-owed"  # a file in a run's folder
INIT_TIMEOUT_S = 30  # how long wandb may look for its server
OPEN_FILES = 64  # of this process that wandb needs: with few its threads print tracebacks
FINISH_TIMEOUT_S = 30  # and upload what is left of a run; the rest stays in its folder

log = logging.getLogger("vae_sweep")


Mode = Literal["online", "offline", "disabled"]


class Logger(Protocol):
    """What the trainer tells about one run. No call blocks or raises."""

    def row(self, row: Mapping[str, float]) -> None:
        """One evaluation: `step`, `epoch`, `train/...`, `val/...`, `test/...`."""
        ...

    def images(self, step: int, path: Path) -> None:
        """A PNG, originals above reconstructions; before the row of a later step."""
        ...

    def finish(self, summary: Mapping[str, Any], exit_code: int = 0) -> None:
        """The final numbers; nothing follows."""
        ...


def open_wandb(config: RunConfig) -> Logger | None:
    """The W&B run of one grid point, or None where W&B is disabled.

    Until W&B has its end, the run's folder says that it is owed something.
    """
    mode = wandb_mode(config.log.wandb)
    if mode == "disabled":
        return None
    with suppress(OSError):
        (config.run_dir / OWED).touch()
    return _WandbRun(config, mode)


def wandb_mode(config: WandbConfig | None) -> Mode:
    """Whether W&B runs online, offline or not at all: found as wandb does, without it.

    `auto`: WANDB_MODE, else online where a key is configured, else offline. Raises
    UserError where WANDB_MODE is none of wandb's.
    """
    if config is None:
        return "disabled"
    if config.mode != "auto":
        return config.mode
    if os.environ.get("WANDB_DISABLED", "").lower() in {"1", "t", "true", "y", "yes"}:
        return "disabled"
    settings = _settings_files()
    mode = os.environ.get("WANDB_MODE") or settings.get("mode")
    match mode:
        case None | "":
            return "online" if _has_key(settings) else "offline"
        case "online" | "run" | "shared":
            return "online"
        case "offline" | "dryrun":
            return "offline"
        case "disabled":
            return "disabled"
    raise UserError(
        f"WANDB_MODE is online, offline or disabled, got {mode!r}; "
        "correct it or set log.wandb.mode=disabled"
    )


def _settings_files() -> dict[str, str]:
    """What `wandb login` and `wandb offline` keep; the workspace's file wins."""
    home = os.environ.get("WANDB_CONFIG_DIR") or "~/.config/wandb"
    workspace = os.environ.get("WANDB_DIR") or "."
    files = [f"{home}/settings", f"{workspace}/wandb/settings"]
    parser = configparser.ConfigParser(interpolation=None)
    with suppress(configparser.Error, OSError, UnicodeDecodeError):
        parser.read(os.path.expanduser(file) for file in files)
    return dict(parser["default"]) if parser.has_section("default") else {}


def _has_key(settings: Mapping[str, str]) -> bool:
    """Whether wandb would find a key; looks where wandb looks, without importing it."""
    keys = ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")
    if any(os.environ.get(key) for key in keys) or settings.get("api_key"):
        return True
    url = os.environ.get("WANDB_BASE_URL") or settings.get("base_url")
    # wandb 0.31 has moved its default host and reads the old one's entry, too
    default = ["api.forge.coreweave.com", "api.wandb.ai"]
    hosts = [urlsplit(url).netloc] if url else default
    given = os.environ.get("NETRC")
    for file in [given] if given else ["~/.netrc", "~/_netrc"]:
        with suppress(netrc.NetrcParseError, OSError, UnicodeDecodeError):
            entries = netrc.netrc(os.path.expanduser(file))
            found = [entries.authenticators(host) for host in hosts]
            return any(entry and entry[2] for entry in found)
    return False


def is_owed(config: RunConfig) -> bool:
    """Whether W&B was not told all of a run, for a signal, a kill or a failure."""
    return (config.run_dir / OWED).exists() and wandb_mode(config.log.wandb) != "disabled"


def tell(logger: Logger, rows: Iterable[Mapping[str, float]], picture: Path) -> None:
    """All rows so far and the picture of the last one; a logger skips those that it has."""
    step = None
    for row in rows:
        logger.row(row)
        step = int(row["step"])
    if step is not None and picture.exists():
        logger.images(step, picture)


def wandb_folder(config: RunConfig) -> Path:
    """Where wandb keeps its files: in WANDB_DIR if it can be written, else in the sweep's
    folder."""
    root = _wandb_root(config)
    return root / (".wandb" if (root / ".wandb").exists() else "wandb")


def wandb_note(config: RunConfig) -> str:
    """One line for the user: where the W&B runs of this sweep are."""
    mode = wandb_mode(config.log.wandb)
    folder = _written.get(config.sweep_dir, wandb_folder(config))
    if mode == "offline" or config.sweep_dir in _written:
        if not folder.exists():
            return "W&B: no files were written"
        return f"W&B: {folder}; sync it with: wandb sync {folder}/offline-run-*"
    if mode == "online":
        return f"W&B: online, project {_project(config)}, group {_group(config)}"
    return "W&B: disabled"


def abandon() -> None:
    """Drops what W&B has not done yet: the next start of the sweep tells it all again."""
    global _worker
    with _worker_lock:
        if _worker is not None:
            _worker.abandon()
        _worker = None


@contextmanager
def settled(records: Path) -> Iterator[None]:
    """Waits, at the end, for W&B to have what it was told; a signal drops that instead.

    `records` is what a warning names where W&B hangs.
    """
    try:
        yield
    except stop.Stopped:
        abandon()
        raise
    finally:
        drain(records)


def drain(records: Path, timeout_s: float = 60) -> bool:
    """Wait for W&B at the end of the process; False, with a warning, where it hangs.

    Call it in a `finally`, once every run is finished. It also shuts wandb's service
    process down: left to wandb's own exit hook, an unreachable server holds the
    interpreter, and a dead service prints a traceback.
    """
    global _worker
    with _worker_lock:
        worker, _worker = _worker, None
    if worker is None:
        return True
    worker.submit(_teardown)
    if worker.close(timeout_s):
        return True
    log.warning(
        "W&B did not finish within %g s; its data may lack the end. "
        "The local records are complete: %s",
        *(timeout_s, records),
    )
    # takes wandb's exit hook away at once, then waits where nobody waits for it
    last = threading.Thread(target=_teardown, daemon=True)
    last.start()
    last.join(1)
    return False


def _wandb_root(config: RunConfig) -> Path:
    given = os.environ.get("WANDB_DIR")
    if given:  # else wandb would take the TMPDIR that all share
        with suppress(OSError, RuntimeError):
            folder = Path(given).expanduser()
            folder.mkdir(parents=True, exist_ok=True)
            if os.access(folder, os.W_OK):
                return folder
    return config.sweep_dir


def _project(config: RunConfig) -> str:
    wandb = config.log.wandb
    assert wandb is not None
    return wandb.project or os.environ.get("WANDB_PROJECT") or "vae-sweep"


def _group(config: RunConfig) -> str:
    return os.environ.get("WANDB_RUN_GROUP") or config.sweep


class _Worker:
    """One daemon thread that runs what is submitted, in order."""

    def __init__(self) -> None:
        self._tasks: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._abandoned = threading.Event()
        self._thread = threading.Thread(target=self._work, name="wandb", daemon=True)
        self._thread.start()

    def submit(self, task: Callable[[], None]) -> None:
        self._tasks.put(task)

    def abandon(self) -> None:
        self._abandoned.set()

    def close(self, timeout_s: float) -> bool:
        """Whether all tasks were done in time; those that were not are dropped."""
        self._tasks.put(None)
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            self._abandoned.set()
        return not self._abandoned.is_set()

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None and not self._abandoned.is_set():
            task()


_worker: _Worker | None = None
_worker_lock = threading.Lock()
_warned: set[str] = set()  # causes of failures, said once; the worker's alone
_reached: bool | None = None  # what the first online run found; the worker's alone
_written: dict[Path, Path] = {}  # sweep folder -> where its offline files really are


def _submit(task: Callable[[], None]) -> None:
    global _worker
    with _worker_lock:
        _worker = _worker or _Worker()
        _worker.submit(task)


def _teardown() -> None:
    global _reached
    _reached = None
    _warned.clear()
    if "wandb" in sys.modules:
        # SystemExit: wandb leaves with its service's exit code
        with suppress(Exception, SystemExit):
            sys.modules["wandb"].teardown()


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".partition("\n")[0].rstrip(": ")


class _WandbRun:
    """A `Logger`: one W&B run, driven from the worker thread only."""

    def __init__(self, config: RunConfig, mode: Mode) -> None:
        self._config = config
        self._mode: Mode = mode
        self._run: Any = None
        self._failed = False
        self._told = -1  # the last step that W&B has
        self._row_step = -1  # that of the row which is still open for a picture
        self._submit(self._open)

    def row(self, row: Mapping[str, float]) -> None:
        # nan is "not measured here": left out, so that no panel is made of it
        values = {key: value for key, value in row.items() if not math.isnan(value)}
        step = int(row["step"])

        def log_row() -> None:
            if step > self._told:  # a resumed run tells all its rows again
                self._run.log(values, step=step)
                self._told = self._row_step = step

        self._submit(log_row)

    def images(self, step: int, path: Path) -> None:
        def log_image() -> None:
            import wandb

            image = wandb.Image(str(path), caption="above: originals")
            if step == self._row_step:
                self._run.log({"reconstructions": image, "step": step}, step=step)

        self._submit(log_image)

    def finish(self, summary: Mapping[str, Any], exit_code: int = 0) -> None:
        values = dict(summary)

        def finish_run() -> None:
            # else the last row, still open for a picture, is written after the summary
            self._run.log({}, commit=True)
            self._run.summary.update(values)
            self._run.finish(exit_code=exit_code)
            with suppress(OSError):
                (self._config.run_dir / OWED).unlink(missing_ok=True)

        self._submit(finish_run)

    def _submit(self, call: Callable[[], None]) -> None:
        _submit(lambda: self._attempt(call))

    def _attempt(self, call: Callable[[], None]) -> None:
        if self._failed:
            return
        try:
            call()
        except Exception as error:
            self._failed = True
            self._warn(error)

    def _warn(self, error: Exception) -> None:
        # what hits all runs of a cohort alike is said once
        cause = _reason(error).replace(self._config.run_id, "")
        log.log(
            logging.DEBUG if cause in _warned else logging.WARNING,
            "W&B is off for %s (%s). Training goes on; its records: %s",
            *(self._config.run_id, _reason(error), self._config.run_dir),
        )
        _warned.add(cause)

    def _open(self) -> None:
        global _reached
        # else wandb reports its own errors at exit, and waits for a server it lacks
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        if open_files() < OPEN_FILES:
            raise RuntimeError(
                f"it needs {OPEN_FILES} open files, this process may have {open_files()}: "
                f"ulimit -n 4096"
            )
        folder = scratch.use_own_folder()
        if "HOME" not in os.environ:  # else its service complains on stderr
            os.environ.setdefault("XDG_CACHE_HOME", str(folder))
        import wandb

        mode: Mode = "offline" if _reached is False else self._mode
        try:
            self._start(mode)
        except Exception as error:
            if mode == "offline" or _reached:
                raise
            _reached = False
            log.warning(
                "W&B does not start online (%s). Runs are kept offline; "
                "sync them later with: wandb sync %s/offline-run-*",
                *(_reason(error), wandb_folder(self._config)),
            )
            with suppress(Exception, SystemExit):
                wandb.teardown()  # else the run's id stays taken
            self._start("offline")
        else:
            _reached = mode == "online" or _reached

    def _start(self, mode: Mode) -> None:
        import wandb

        config = self._config
        if mode == "offline":
            self._supersede()
        # process-wide and first: else wandb may ask for a key at the terminal
        singleton = wandb.setup(settings=wandb.Settings(silent=True))
        self._run = wandb.init(
            project=_project(config),
            entity=config.log.wandb and config.log.wandb.entity,
            group=_group(config),
            id=config.run_id,
            name=config.run_id,
            dir=str(_wandb_root(config)),
            config=config.model_dump(mode="json"),
            mode=mode,
            resume="allow",
            reinit="create_new",
            settings=wandb.Settings(
                console="off",
                silent=True,
                init_timeout=INIT_TIMEOUT_S,
                finish_timeout=FINISH_TIMEOUT_S,
                # they measure the machine, R times over where R runs share it
                x_disable_stats=True,
            ),
        )
        if mode == "offline":
            _written[config.sweep_dir] = Path(self._run.settings.sync_dir).parent
        else:  # rows that an earlier start has uploaded
            self._told = int(self._run.starting_step) - 1
        if "WANDB_SWEEP_ID" in os.environ:
            # `wandb agent` waits for one run, with an id of its own, which wandb.init
            # gave to this one in place of ours; it would give it to the next ones, too
            singleton.settings.sweep_id = None
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def _supersede(self) -> None:
        """Moves offline files of earlier starts aside: the new one will hold all rows, and
        files of one id replace one another when they are uploaded."""
        folder = wandb_folder(self._config)
        for old in folder.glob(f"offline-run-*-{self._config.run_id}"):
            aside = folder / "superseded" / old.name
            with suppress(OSError):
                aside.parent.mkdir(exist_ok=True)
                os.replace(old, aside)
