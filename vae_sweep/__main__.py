"""The command `vae-sweep`, also `python -m vae_sweep`: calls the module of a subcommand.

Only that module is imported, so that --help and status need not wait for Hydra or torch.
"""

import sys
from importlib import import_module

import vae_sweep
from vae_sweep.command import completion, plain
from vae_sweep.errors import UserError, nearest, shown
from vae_sweep.system import machine

COMMANDS = {  # module of the package, with a main() -> what it does
    "run": "trains a grid of VAEs and compares them; the word may be left out",
    "predict": "computes what is known of a grid before training",
    "show": "prints the settings of a point, or one recorded run",
    "status": "shows the state of sweeps, while they train and afterwards",
    "report": "writes sweeps as one HTML page",
    "export": "writes a trained model as plain PyTorch that needs no vae-sweep",
    "dashboard": "builds a workspace of panels in W&B",
}
EXAMPLES = (
    "norm=zscore,minus1_1 head=tanh,linear",
    "status runs/main",
    "report runs/main",
)
HELP = "\n".join(
    [
        "usage: vae-sweep [COMMAND] [ARGUMENT ...]",
        "",
        "Trains grids of VAEs over normalization x output head x beta, reports them in",
        "units that can be compared, and computes beforehand what each head can reach.",
        "",
        "commands:",
        *(f"  {name:10s} {does}" for name, does in COMMANDS.items()),
        "",
        "examples:",
        *(f"  vae-sweep {example}" for example in EXAMPLES),
        "",
        "vae-sweep COMMAND --help has the arguments and examples of each.",
        'Completion of words by TAB: eval "$(vae-sweep -sc install=bash)"',
    ]
)


def main() -> None:
    """The console script. Exit codes: those of the subcommand, 2 where there is none."""
    name, *rest = sys.argv[1:] or ["--help"]
    with plain.said():
        if completion.is_asked(sys.argv[1:]):
            completion.offer(COMMANDS)  # then Hydra completes what is an option
            name, rest = "run", sys.argv[1:]
        elif name in ("--help", "-h", "help") or name == "--version":
            if rest and rest[0] in COMMANDS:  # vae-sweep help status
                name, rest = rest[0], ["--help"]
            else:
                _say(f"vae-sweep {vae_sweep.__version__}" if name == "--version" else HELP)
                return
        elif name not in COMMANDS:
            _check_option(name)
            _check_order(rest)
            name, rest = "run", sys.argv[1:]
    sys.argv[1:] = rest
    import_module(f"vae_sweep.{name}").main()


def _say(text: str) -> None:
    machine.start()
    print(text, flush=True)


def _check_option(word: str) -> None:
    """Raises UserError where the first word is neither a command nor an option of `run`."""
    if word[:1] in ("-", "+", "~") or "=" in word:
        return
    meant = nearest(word, COMMANDS)
    remedy = f"did you mean {meant}?" if meant else f"there are {', '.join(COMMANDS)}"
    raise UserError(
        f"the first word is a command, or an option as KEY=VALUE, got {shown(word)}; "
        f"{remedy}"
    )


def _check_order(words: list[str]) -> None:
    """Raises UserError where a command stands behind options."""
    for word in words:
        if word in COMMANDS:
            raise UserError(f"a command comes first: vae-sweep {word} KEY=VALUE ...")


if __name__ == "__main__":
    main()
