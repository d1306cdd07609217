"""Options as Python objects, in place of what is typed after a command."""

import re
from collections.abc import Mapping
from os import PathLike
from typing import Any

from hydra.core.override_parser.types import Quote, QuotedString

from vae_sweep.command.arguments import SEVERAL
from vae_sweep.errors import UserError, shown

KEY = re.compile(r"[A-Za-z_][\w.]*", re.ASCII)
# text that needs no quotes: Hydra's grammar reads it as text
WORD = re.compile(r"(?!(null|true|false|inf|nan)$)[A-Za-z_][\w./:-]*", re.ASCII | re.I)


def lines(options: Mapping[str, Any]) -> list[str]:
    """Options as they are typed: {"head": ["tanh", "linear"]} as head=tanh,linear.

    A list, a range or a one-dimensional array is an axis of the grid, a tuple one value
    that is a list; of groups that take several at once either is the latter. A dict sets
    keys of its section: train={"steps": 500} is train.steps=500.

    Raises:
        UserError: A key or a value is none.
    """
    found = []
    for key, value in options.items():
        if not isinstance(key, str) or not KEY.fullmatch(key):
            raise UserError(f"an option is named by a key as train.steps, got {shown(key)}")
        if key.partition(".")[0] == "hydra":
            raise UserError(f"{key} is Hydra's, which only the command has; leave it out")
        if isinstance(value, Mapping):
            found += lines({f"{key}.{k}": v for k, v in value.items()})
        else:
            found.append(f"{key}={_typed(key, value)}")
    return found


def _typed(key: str, value: Any) -> str:
    if hasattr(value, "tolist"):  # of NumPy, PyTorch or pandas
        value = value.tolist()
    if key in SEVERAL and value is not None:
        value = tuple(value) if isinstance(value, list | tuple) else (value,)
    if not isinstance(value, list | range):
        return _one(key, value)
    if not len(value):
        raise UserError(f"a grid has at least one point, got {key}=[]")
    return ",".join(_one(key, each) for each in value)


def _one(key: str, value: Any) -> str:
    """A value of one point."""
    if isinstance(value, tuple):
        return f"[{','.join(_one(key, each) for each in value)}]"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, PathLike):
        value = value.__fspath__()
    if isinstance(value, str):
        quoted = QuotedString(value, Quote.single).with_quotes()
        return value if WORD.fullmatch(value) else quoted
    if isinstance(value, list):
        example = f"{key}=[({', '.join(map(repr, value))}), ...]"
        raise UserError(f"in a list each value that is a list is a tuple, as {example}")
    raise UserError(
        f"{key} takes text, numbers, True, False or None, lists of them (an axis) or "
        f"tuples (one value), got {shown(value)}"
    )
