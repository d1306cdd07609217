"""The subcommands that take folders and flags, no options of points: argparse, with
one-line errors. It imports neither Hydra nor torch."""

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

import vae_sweep
from vae_sweep.errors import UserError, nearest, shown
from vae_sweep.system import machine, stop

BROKEN_PIPE = 141  # as a shell says of a process that SIGPIPE ended
OPTIONS = """\
GROUP=OPTION  norm target head likelihood reduction beta model data metric log
KEY=VALUE     train.steps train.lr train.batch_size seed sweep, and more
--options     lists all groups and keys, and what they are unless set
--cfg job     prints the config that is composed, before it is checked
--version"""


class Parser(argparse.ArgumentParser):
    """The arguments of `vae-sweep NAME`; what is wrong with them is a UserError.

    Args:
        name: The subcommand, a module of this package.
        about: What it does, at most a few lines.
        examples: What follows `vae-sweep NAME`, a line each; its --help shows them.
    """

    def __init__(self, name: str, about: str, examples: Sequence[str]):
        lines = [f"  vae-sweep {name} {example}".rstrip() for example in examples]
        super().__init__(
            prog=f"vae-sweep {name}",
            description=about,
            epilog="\n".join(["examples:", *lines]),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        version = f"vae-sweep {vae_sweep.__version__}"
        self.add_argument("--version", action="version", version=version)

    def parse_args(self, args=None, namespace=None):  # type: ignore[override]
        """The arguments of the process; an unknown flag is answered with the nearest."""
        typed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            flags = [flag for flag in self._option_string_actions if len(flag) > 2]
            meant = nearest(unknown[0].partition("=")[0], flags)
            remedy = f"did you mean {meant}?" if meant else f"{self.prog} --help lists them"
            raise UserError(f"unknown argument {shown(unknown[0])[1:-1]}; {remedy}")
        return typed

    def error(self, message: str) -> NoReturn:
        """Raises UserError with the message and where the help is."""
        raise UserError(f"{message}; {self.prog} --help shows examples")


def main(parser: Parser, run: Callable[[argparse.Namespace], None]) -> None:
    """A subcommand's life: `run` gets what was typed. Exit codes: 0, 2 bad input, 130, 143
    and 141 where Ctrl-C, SIGTERM or a closed pipe ended it."""
    with stop.handled(), said():
        machine.start()
        run(parser.parse_args())
        sys.stdout.flush()  # where the pipe is closed, here and not while Python ends


def helped(name: str, about: str, examples: Sequence[str]) -> bool:
    """Prints the help of a subcommand that takes options of points, if that is typed."""
    if not {"--help", "-h"} & {*sys.argv[1:]}:
        return False
    lines = [f"  vae-sweep {name} {example}" for example in examples]
    usage = f"usage: vae-sweep {name} [GROUP=OPTION | KEY=VALUE | FLAG ...]\n"
    with said():
        machine.start()
        print("\n".join([usage, about, "\nexamples:", *lines, "", OPTIONS]), flush=True)
    return True


def see_working_folder() -> None:
    """Lets modules of the working folder be imported, as `python -m` does by itself."""
    if not {"", os.getcwd()} & {*sys.path}:
        sys.path.insert(0, os.getcwd())


@contextmanager
def said() -> Iterator[None]:
    """Ends the process with a line on stderr and code 2 where the user, or the system, is
    to correct something, and with 141 where nobody reads stdout any more."""
    try:
        yield
    except BrokenPipeError:  # `... | head`
        leave_pipe()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        print(f"error: {machine.of_system(error)}", file=sys.stderr)
        sys.exit(2)


def leave_pipe() -> NoReturn:
    """Ends the process as SIGPIPE would, without a word of what was not written."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(BROKEN_PIPE)
