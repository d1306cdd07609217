"""A W&B workspace of panels: `vae-sweep dashboard --entity E --project P`.

Saving makes a new view of the project, whose URL is printed; views that are there stay as
they are.
"""

import argparse
import os

from vae_sweep.command import plain
from vae_sweep.config import WandbConfig
from vae_sweep.errors import UserError
from vae_sweep.records.wandb_logger import wandb_mode
from vae_sweep.reporting import workspace


def main() -> None:
    """`vae-sweep dashboard`. Exit codes: 0, 2 bad input."""
    about = "Builds a W&B workspace of a project's runs, a new view, and prints its URL."
    examples = [
        "--entity team",
        "--entity team --project vae-sweep --sweep main",
        "--entity team --by norm head beta.value",
    ]
    parser = plain.Parser("dashboard", about, examples)
    parser.add_argument(
        "--entity",
        default=os.environ.get("WANDB_ENTITY"),
        help="the user or team on W&B; WANDB_ENTITY unless given",
    )
    parser.add_argument(
        "--project",
        default=os.environ.get("WANDB_PROJECT", "vae-sweep"),
        help="what log.wandb.project was; %(default)s unless given",
    )
    parser.add_argument("--sweep", help="only the runs of sweep=NAME", metavar="NAME")
    parser.add_argument(
        "--by",
        nargs="+",
        default=workspace.GROUPS,
        metavar="KEY",
        help="average runs that agree in these keys: norm head; beta.value, if swept",
    )
    plain.main(parser, _run)


def _run(typed: argparse.Namespace) -> None:
    if typed.entity is None:
        raise UserError("a workspace is a user's or a team's on W&B; give --entity NAME")
    made = workspace.workspace(typed.entity, typed.project, typed.sweep, typed.by)
    if wandb_mode(WandbConfig(mode="auto", project=None, entity=None)) != "online":
        raise UserError(
            "a workspace is kept on W&B's server, which needs a key and W&B online; "
            "run `wandb login`, and unset WANDB_MODE if it is set"
        )
    print(workspace.save(made), flush=True)


if __name__ == "__main__":
    main()
