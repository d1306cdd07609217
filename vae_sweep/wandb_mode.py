"""Whether W&B runs online, offline or not at all: found as wandb does, without it."""

import configparser
import netrc
import os
from collections.abc import Mapping
from contextlib import suppress
from typing import Literal
from urllib.parse import urlsplit

from vae_sweep.config import WandbConfig
from vae_sweep.errors import UserError

Mode = Literal["online", "offline", "disabled"]


def wandb_mode(config: WandbConfig) -> Mode:
    """`auto`: WANDB_MODE, else online where a key is configured, else offline."""
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
        "mend it or set log.wandb.mode=disabled"
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
