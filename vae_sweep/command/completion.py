"""Subcommands for the shell's completion, which Hydra has for options alone.

The shell function that Hydra installs asks `vae-sweep -sc query=SHELL` with the line so far
in COMP_LINE. What is printed here comes before what Hydra prints.
"""

import os
import sys
from collections.abc import Iterable

OF_POINTS = ("run", "predict", "show")  # commands that take options, which Hydra completes


def is_asked(arguments: list[str]) -> bool:
    """Whether a shell asks for completions."""
    flag, query = [*arguments, "", ""][:2]
    return flag in ("-sc", "--shell-completion") and query.startswith("query=")


def offer(commands: Iterable[str]) -> None:
    """Prints the commands that may be meant, and leaves in COMP_LINE what Hydra completes:
    the options alone. Ends the process where there are none to complete: files are then
    the shell's to offer."""
    line = os.environ.get("COMP_LINE", "")
    program, *words = line.split() or [""]
    current = "" if line[-1:].isspace() else (words or [""])[-1]
    before = words[: len(words) - bool(current)]
    if not before and "=" not in current:
        found = [name for name in commands if name.startswith(current)]
        print("\n".join(found), flush=True)
        if not current:  # every group and key would follow
            sys.exit(0)
    elif before and before[0] in commands:
        if before[0] not in OF_POINTS:
            sys.exit(0)
        os.environ["COMP_LINE"] = " ".join([program, *before[1:], current])
