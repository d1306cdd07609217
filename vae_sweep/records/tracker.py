"""What our loggers to experiment trackers share."""

import importlib.util
import json
from collections.abc import Mapping

from vae_sweep.config import RunConfig, leaves
from vae_sweep.errors import UserError

CAPTIONS = {  # of pictures, by their stems
    "reconstructions": "above: originals",
    "samples": "decoded from the prior",
}


def check_installed(package: str, what: str, extra: str) -> None:
    """Raises UserError where the package that `what` needs, of an extra, is missing."""
    if importlib.util.find_spec(package) is None:
        raise UserError(
            f"{what} needs the package {package}, which is not installed; type "
            f"pip install 'vae-sweep[{extra}]'"
        )


def hyperparameters(config: RunConfig) -> dict[str, str | float | int]:
    """What decides a run's numbers, by dotted keys; true, false and lists as text, without
    what is null."""
    return {
        key: json.dumps(value) if isinstance(value, bool | list) else value
        for key, value in leaves({**config.settings, "versions": config.versions})
        if value is not None
    }


def numbers(row: Mapping[str, float]) -> dict[str, float]:
    """A row without its step and epoch, which are no panel of their own."""
    return {key: value for key, value in row.items() if key not in ("step", "epoch")}
