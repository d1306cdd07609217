"""Errors that end a command with a line, and what such lines are made of."""

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any


class UserError(Exception):
    """What a user can correct: one or two lines with rule, what was received, remedy."""


class Failed(Exception):
    """What ends a run though its input was right: said in a line, exit code 1."""


def shown(value: Any) -> str:
    """`value` as a message shows it: at most 80 characters, all of them printable."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # thousands of digits, or of brackets
        text = f"a {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:77]}..."


def counted(count: int, noun: str) -> str:
    """`1 run`, `2 runs`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def reason(error: BaseException) -> str:
    """An exception in a line: its type and the first line of what it says."""
    return f"{type(error).__name__}: {error}".partition("\n")[0].rstrip(": ")


def no_folder(path: Path) -> str:
    """What is wrong with a `path` that was to be a folder."""
    return f"{path} is a file" if path.exists() else f"there is no folder {path}"


def nearest(word: str, words: Iterable[str]) -> str | None:
    """The one of `words` that was most likely meant by `word`, if any.

    Of dotted keys the last part counts as well: `lr` is train.lr.
    """
    known = list(words)
    ends: dict[str, list[str]] = {}
    for each in known:
        ends.setdefault(each.rpartition(".")[2], []).append(each)
    folded = {each.lower(): each for each in known}
    word = word[:200].lower()
    if word in folded:
        return folded[word]
    if word in ends:
        return ends[word][0]
    found = difflib.get_close_matches(word, folded, 1, 0.7)
    if found:
        return folded[found[0]]
    last = difflib.get_close_matches(word.rpartition(".")[2], ends, 1, 0.7)
    return ends[last[0]][0] if last else None
