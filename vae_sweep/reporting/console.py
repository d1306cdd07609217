"""What commands, and the Python API, print to."""

import sys
from collections.abc import Callable
from typing import Any

from rich import console

WARNING = "warning: "  # how a line begins that is one


class Console(console.Console):
    """Standard output, at least `least` columns wide where it is no terminal.

    In a notebook lines are plain text, so that they are one output of a cell; only what
    updates in place is displayed there.

    Args:
        quiet: Whether nothing is printed, but warnings.
        warn: Hears of warnings, without the word; printed on stderr unless given.
    """

    def __init__(
        self, least: int, quiet: bool = False, warn: Callable[[str], None] | None = None
    ):
        nowhere = False if quiet else None
        super().__init__(quiet=quiet, force_terminal=nowhere, force_jupyter=nowhere)
        if not self.is_terminal:
            self.width = max(self.width, least)  # a log file has no edge at 80
        self._warn = warn or (lambda text: print(WARNING + text, file=sys.stderr))

    def print(self, *objects: Any, **arguments: Any) -> None:
        """As rich prints; in a notebook as text."""
        if self.is_jupyter:
            text = console.Console(force_jupyter=False, width=self.width)
            text.print(*objects, **arguments)
        else:
            super().print(*objects, **arguments)

    def say(self, text: str) -> None:
        """Prints a line as it is; one that is a warning goes where warnings go."""
        if text.startswith(WARNING):
            self._warn(text.removeprefix(WARNING))
        else:
            self.print(text, highlight=False, markup=False, soft_wrap=True)

    def on_broken_pipe(self) -> None:
        """Leaves `... | head` to the command; rich would end the process with code 1."""
        raise BrokenPipeError
