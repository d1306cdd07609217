"""W&B as a logger of one run. Only this file imports wandb, when the first run opens.

Where the first online run cannot start, all are kept offline.
"""

import configparser
import logging
import netrc
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, Literal
from urllib.parse import urlsplit

from vae_sweep.config import RunConfig, WandbConfig
from vae_sweep.errors import UserError, reason
from vae_sweep.records.tracker import CAPTIONS
from vae_sweep.system import scratch
from vae_sweep.system.machine import open_files

INIT_TIMEOUT_S = 30  # how long wandb may look for its server
START_TIMEOUT_S = 120  # and wait for its service process, which a busy machine delays
OPEN_FILES = 64  # of this process that wandb needs: with few its threads print tracebacks
FINISH_TIMEOUT_S = 30  # and upload what is left of a run; the rest stays in its folder

log = logging.getLogger("vae_sweep")

Mode = Literal["online", "offline", "disabled"]

_reached: bool | None = None  # what the first online run found
_written: dict[Path, Path] = {}  # sweep folder -> where its offline files really are


class WandbLogger:
    """The W&B run of one grid point."""

    shown_as: ClassVar[str] = "W&B"

    def __init__(self, config: RunConfig) -> None:
        global _reached
        self._config = config
        self._run: Any = None
        self._next = 0  # the first step that the server lacks
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
        if not sys.modules.get("wandb"):  # else it looks for the service of another
            os.environ.pop("WANDB_SERVICE", None)
        import wandb

        mode = "offline" if _reached is False else wandb_mode(_section(config))
        try:
            self._start(mode)
        except Exception as error:
            if mode == "offline" or _reached:
                raise
            _reached = False
            log.warning(
                "W&B does not start online (%s). Runs are kept offline; "
                "sync them later with: wandb sync %s/offline-run-*",
                *(reason(error), wandb_folder(config)),
            )
            with suppress(Exception, SystemExit):
                wandb.teardown()  # else the run's id stays taken
            self._start("offline")
        else:
            _reached = mode == "online" or _reached

    @staticmethod
    def is_on(config: RunConfig) -> bool:
        """Whether W&B is not disabled; raises UserError as `wandb_mode`."""
        return wandb_mode(_section(config)) != "disabled"

    @staticmethod
    def note(config: RunConfig) -> str:
        """Where the W&B runs of this sweep are."""
        mode = wandb_mode(_section(config))
        folder = _written.get(config.sweep_dir, wandb_folder(config))
        if mode == "offline" or config.sweep_dir in _written:
            if not folder.exists():
                return "W&B: no files were written"
            return f"W&B: {folder}; sync it with: wandb sync {folder}/offline-run-*"
        if mode == "online":
            return f"W&B: online, project {_project(config)}, group {_group(config)}"
        return "W&B: disabled"

    @staticmethod
    def teardown() -> None:
        """Shuts wandb's service process down: left to wandb's own exit hook, an unreachable
        server holds the interpreter, and a dead service prints a traceback."""
        global _reached
        _reached = None
        if "wandb" in sys.modules:
            sys.modules["wandb"].teardown()

    def row(self, row: Mapping[str, float]) -> None:
        """See loggers.Logger."""
        step = int(row["step"])
        if step >= self._next:
            self._run.log(dict(row), step=step)

    def images(self, step: int, path: Path) -> None:
        """See loggers.Logger."""
        import wandb

        if step >= self._next:
            image = wandb.Image(str(path), caption=CAPTIONS.get(path.stem))
            self._run.log({path.stem: image, "step": step}, step=step)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """See loggers.Logger."""
        # else the last row, still open for a picture, is written after the summary
        self._run.log({}, commit=True)
        self._run.summary.update(dict(summary))
        self._run.finish(exit_code=int(summary["status"] != "finished"))

    def _start(self, mode: Mode) -> None:
        import wandb

        config = self._config
        if mode == "offline":
            self._supersede()
        # process-wide and first: else wandb may ask for a key at the terminal
        singleton = wandb.setup(
            settings=wandb.Settings(silent=True, x_service_wait=START_TIMEOUT_S)
        )
        self._run = wandb.init(
            project=_project(config),
            entity=_section(config).entity,
            group=_group(config),
            id=config.run_id,
            name=config.run_id,
            dir=str(_root(config)),
            config=config.model_dump(mode="json"),
            mode=mode,
            resume="allow",
            reinit="create_new",
            settings=wandb.Settings(
                console="off",
                silent=True,
                init_timeout=INIT_TIMEOUT_S if mode == "online" else START_TIMEOUT_S,
                finish_timeout=FINISH_TIMEOUT_S,
                # they measure the machine, R times over where R runs share it
                x_disable_stats=True,
            ),
        )
        if mode == "offline":
            _written[config.sweep_dir] = Path(self._run.settings.sync_dir).parent
        else:  # rows that an earlier start has uploaded
            self._next = int(self._run.starting_step)
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


def wandb_mode(config: WandbConfig) -> Mode:
    """Whether W&B runs online, offline or not at all: found as wandb does, without it.

    `auto`: WANDB_MODE, else online where a key is configured, else offline. Raises
    UserError where WANDB_MODE is none of wandb's.
    """
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


def wandb_folder(config: RunConfig) -> Path:
    """Where wandb keeps its files: in WANDB_DIR if it can be written, else in the sweep's
    folder."""
    root = _root(config)
    return root / (".wandb" if (root / ".wandb").exists() else "wandb")


def _root(config: RunConfig) -> Path:
    given = os.environ.get("WANDB_DIR")
    if given:  # else wandb would take the TMPDIR that all share
        with suppress(OSError, RuntimeError):
            folder = Path(given).expanduser()
            folder.mkdir(parents=True, exist_ok=True)
            if os.access(folder, os.W_OK):
                return folder
    return config.sweep_dir


def _section(config: RunConfig) -> WandbConfig:
    assert config.log.wandb is not None, "asked only where log.wandb is there"
    return config.log.wandb


def _project(config: RunConfig) -> str:
    return _section(config).project or os.environ.get("WANDB_PROJECT") or "vae-sweep"


def _group(config: RunConfig) -> str:
    return os.environ.get("WANDB_RUN_GROUP") or config.sweep
