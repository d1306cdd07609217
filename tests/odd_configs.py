"""Odd command lines: what a user may type, wrong or senseless, in any combination.

`lines()` draws them for Hypothesis. `outcome` takes one through all that comes before
training, in this process: composed, validated, prepared on 120 tiny images, predicted.
`through_command` takes one through `python -m vae_sweep.run` itself.

    python tests/odd_configs.py --odd-configs 3000 --through-command 100 --seed 0

draws so many (about ten minutes on two cores), prints a table of what came out, which
`--readme FILE` puts into a file, and exits 1 where one of them ended in an exception that
is neither ours nor Hydra's, in a traceback, or not within four minutes. Both arguments may
be 0.
"""

import argparse
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import traceback
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from helpers import TINY, make_images
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from omegaconf.errors import OmegaConfBaseException
from survival.__main__ import put_between

from hydra_plugins.vae_sweep_launcher.grid_sweeper import union
from vae_sweep.command import arguments
from vae_sweep.command.entry import CONF, config_of
from vae_sweep.config import keys
from vae_sweep.errors import UserError
from vae_sweep.reporting import prediction_table

HANG_S = 240  # in this process: the principal components of dead leaves take 15 s,
COMMAND_HANG_S = 240  # and a minute where other work is on the machine
BEGIN, END = "<!-- odd configs: make survival -->", "<!-- end of odd configs -->"
POINTS = 4  # of a grid that are prepared

# Values are drawn as they are typed. None takes long to train if it is legal: the command
# trains what it accepts.
NUMBERS = (
    *("0", "1", "2", "3", "-1", "0.5", ".5", "1e-3", "1e3", "1.5", "10", "40", "1_000"),
    *("1e160", "1e-320", "1e400", "-1e308", "nan", "inf", "-inf", "1e30", "1e-12", "1e15"),
    *("1000000000000", "9223372036854775807", "9223372036854775808", "1" + 400 * "0"),
    *("-9223372036854775809", 5000 * "9", "0x10", "1e", "--1", "1,", "007"),
)
WORDS = (
    *("", "null", "true", "false", "None", "auto", "~", "a b", "a/b", "../x", "/proc/x"),
    *("[]", "[1]", "[a,b]", "[[[]]]", "{}", "{a: 1}", "{name: npz}", "[null]", "[1,-2,x]"),
    *("${x}", "${norm}", "${seed}", "${oc.env:NOPE}", "${run_id:}", "${", "$", "%", "\\"),
    *("'quoted'", '"0.5"', "'", '"', "ünïcode", "β", "\u202e", "\ud800", "a\0b", "a\nb"),
    *("a\r", "\t", 300 * "x", 30_000 * "x", "[" * 200, "cuda:99999999999999999999"),
    *("cuda:-1", "cuda:1", "mps", "gpu", "cpu", "~nobody/x", '"~/x"', "x.npz", ".", "/"),
    *(1500 * "a/", "a/" + 300 * "b", "/dev/null", "/dev/zero/x"),
    *("images.npz", "conf", "(", "a=b", "=", "@", "+", ":", "#", "!", "*", "a,b,", ",a"),
)
SWEEPS = (
    *("range(3)", "range(1,4)", "range(0,1,0)", "range(5,1)", "range(0,1,0.5)"),
    *("range(1000000000000)", "range(inf)", "range(nan)", "range(a)", "choice()"),
    *(
        "choice(1,2)",
        "choice(a,[b],{c: d})",
        "shuffle(1,2,3)",
        "sort(2,1)",
        "interval(0,1)",
    ),
    *("glob(*)", "glob(z*)", "int(1.5)", "float(a)", "str(1)", "tag(a,b)", "json(1)"),
)
HYDRA = (
    *("hydra/launcher=nope", "hydra/launcher=basic", "hydra/sweeper=nope", "hydra=3"),
    *("hydra.mode=RUN", "hydra.mode=MULTIRUN", "hydra.mode=foo", "hydra.sweep.dir=null"),
    *("hydra.sweep.dir=elsewhere", "hydra.job.name=x", "hydra.job.num=a"),
    *("hydra.job.env_copy=[NOPE]", "hydra.verbose=true", "hydra.typo=1", "+hydra.x=1"),
    *("hydra.searchpath=[file://nowhere]", "hydra.searchpath=3", "hydra.sweep.subdir=x"),
    *("hydra.sweeper.max_batch_size=0", "hydra.sweeper.max_batch_size=1"),
    *("hydra.output_subdir=null", "hydra.launcher=3", "hydra.help.header=x"),
)
FLAGS = (
    *("-m", "--multirun", "--run", "--frob", "-x", "--", "-", "--cfg", "--resolve"),
    *("--cfg=job", "--info=defaults", "--version", "--typo=1", "--config-name=nope"),
    *("--config-dir=nowhere", "--config-path=nowhere", "--package=train", "--seed=1"),
)
# what is legal is also drawn, so that what is odd is not always refused for its neighbor
LEGAL = (
    *("norm=unit", "norm=zscore,unit", "norm=raw255", "target=minus1_1", "target=unit"),
    *("head=tanh", "head=sigmoid", "head=tanh_standardized", "head=hardtanh"),
    *("likelihood=l1", "likelihood=bernoulli", "likelihood=gaussian_learned"),
    *("likelihood=discretized_logistic", "likelihood=continuous_bernoulli"),
    *("reduction=mean", "reduction=gaussian", "beta=0", "beta=0.5,1", "beta=warmup"),
    *("beta=matched", "beta=matched,constant", "beta=0.5,cyclical", "beta=normalized"),
    *("beta.sigma=12", "beta.value=3", "beta.fraction=0", "beta.cycles=7", "beta.ramp=1"),
    *("model=linear", "model=small,linear", "model.depth=2", "model.norm_layer=batch"),
    *("model.kernel=5", "model.latent=8,2", "train.epochs=1", "train.steps=5"),
    *("train.optimizer=sgd", "train.optimizer=adamw", "train.precision=fp64"),
    *("train.precision=bf16", "train.clip=1", "train.lr=1e30", "train.lr=1e-5,1e-3"),
    *("train.weight_decay=0.1", "train.lr_warmup=0", "train.lr_warmup=99", "seed=1,2"),
    *("train.eval_every=3", "log.reconstructions=2", "experiments=null", "rerun=all"),
    *("data=dead_leaves,npz", "data.images=40", "data.val_images=5", "data.test_images=5"),
)
WHERE = ("data=npz", "data.path=images.npz", "data.cache=cache", "train.steps=4")


def lines() -> st.SearchStrategy[list[str]]:
    """Command lines of up to six arguments, two of them odd, after WHERE and TINY."""
    known = [key for key in keys() if key not in ("experiments", "data.cache")]
    value = st.sampled_from((*NUMBERS, *WORDS, *SWEEPS))
    # two chance values make a grid; free text is what no list has
    values = st.one_of(
        value,
        value,
        st.lists(value, min_size=2, max_size=3).map(",".join),
        st.integers().map(str),
        st.floats().map(repr),
        st.text(max_size=12),
    )
    odd = st.tuples(_keys(known), values).map("=".join)
    choice = st.sampled_from(
        [
            f"{group}={option}"
            for group, all in arguments.choices().items()
            for option in all
        ]
        + ["experiments=smoke", "experiments=nope", "experiments=[a,b]", "experiments=3"]
    ).filter(lambda line: not line.startswith("data=") or "dead" in line or "npz" in line)
    bare = st.sampled_from(known).flatmap(
        lambda key: st.sampled_from((key, f"~{key}", f"{key}=", f"+{key}", f"~{key}=1"))
    )
    legal = st.sampled_from(LEGAL)
    rare = st.one_of(st.sampled_from(HYDRA), st.sampled_from(FLAGS), bare, _typos(LEGAL))
    line = st.one_of(odd, odd, odd, odd, choice, rare, rare, st.text(max_size=20))
    some = st.tuples(st.lists(legal, max_size=4), st.lists(line, max_size=2))
    return some.flatmap(lambda both: st.permutations([*both[0], *both[1]]))


def _keys(known: list[str]) -> st.SearchStrategy[str]:
    """Keys, mostly right ones; with prefixes, packages, and letters lost."""
    key = st.sampled_from(known)
    return st.one_of(
        *[key] * 6,
        _typos(known),
        st.tuples(st.sampled_from(("+", "++", "~", "@", "/", ".")), key).map("".join),
        key.map(lambda k: f"{k}@x"),
        key.map(lambda k: f"{k}.x"),
        key.map(lambda k: k.replace(".", "/")),
        key.map(str.upper),
    )


def _typos(words: object) -> st.SearchStrategy[str]:
    """Words of which one letter is lost."""
    return st.sampled_from(
        list(words)
    ).flatmap(  # pyright: ignore
        lambda word: st.integers(0, len(word) - 1).map(lambda i: word[:i] + word[i + 1 :])
    )


class Foreign(AssertionError):
    """An exception that a user must not see."""


class Hang(Foreign):
    """A command line that takes longer than it may."""


def outcome(typed: list[str]) -> str:
    """What becomes of a command line before training: `accepted`, or the complaint's kind.

    The working folder holds images.npz. Raises Foreign where an exception leaves that is
    neither ours nor Hydra's, and Hang where nothing does.
    """
    try:
        with _limited(HANG_S):
            return _accepted([*WHERE, *TINY, *typed])
    except UserError as error:
        text = str(error)
        if not text or text.count("\n") > 1 or len(text) > 2500:
            raise Foreign(f"not one or two lines: {text!r} of {typed}") from error
        return "UserError"
    except (HydraException, OmegaConfBaseException) as error:
        return f"Hydra: {type(error).__name__}"
    except OSError as error:  # paths that the system refuses; the command says them
        return f"OSError: {type(error).__name__}"
    except Hang:
        raise Hang(f"more than {HANG_S} s: {typed!r:.2000}") from None
    except Exception as error:
        raise Foreign(f"{type(error).__name__}: {typed!r:.2000}") from error


def _accepted(typed: list[str]) -> str:
    read = arguments.read(typed)
    if read.instead or read.foreign:
        return "shown"
    parser = OverridesParser.create()
    task = [line for line in read.lines if not line.lstrip("+~").startswith("hydra")]
    jobs = union([arguments.parse(line, parser) for line in task])
    with initialize_config_dir(str(CONF), version_base="1.3"):
        configs = [config_of(compose("config", job)) for job in jobs[:POINTS]]
    assert len(configs[0].run_id) <= 64
    prediction_table.frame(configs, print)
    return "accepted"


@contextmanager
def _limited(seconds: int):
    """Raises Hang in what takes longer (a signal; not within one call into C)."""

    def stop(*_: object):
        raise Hang

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


class Told(NamedTuple):
    """How a command ended."""

    code: int
    err: str


def through_command(typed: list[str], folder: Path) -> Told:
    """Runs the command in `folder`, which holds images.npz.

    Raises Foreign where it ends in a traceback, in more than a few lines, or with another
    exit code than 0, 1, 2, and Hang where it does not end.
    """
    arguments = [*WHERE, *TINY, *typed]
    if any("\0" in argument for argument in arguments):
        return Told(2, "")  # no command line can hold it
    command = [sys.executable, "-m", "vae_sweep.run", *arguments]
    env = {**os.environ, "WANDB_MODE": "disabled", "OMP_NUM_THREADS": "1"}
    env["PYTHONPATH"] = str(Path(__file__).parents[1])
    try:
        ended = subprocess.run(
            [each.encode("utf-8", "surrogatepass") for each in command],
            cwd=folder,
            env=env,
            capture_output=True,
            timeout=COMMAND_HANG_S,
        )
    except subprocess.TimeoutExpired:
        raise Hang(f"more than {COMMAND_HANG_S} s: {typed!r:.2000}") from None
    except OSError as error:  # longer than a command line may be
        return Told(2, str(error))
    err = ended.stderr.decode(errors="replace")
    if ended.returncode not in (0, 1, 2) or "Traceback" in err:
        raise Foreign(
            f"exit code {ended.returncode} of {shlex.join(typed)!r:.2000}:\n{err}"
        )
    if ended.returncode == 2 and not 1 <= err.count("\n") <= 6:
        raise Foreign(f"not one or two lines of {typed!r:.2000}:\n{err}")
    return Told(ended.returncode, err)


def folder_with_images(folder: Path) -> Path:
    images = make_images(120).permute(0, 2, 3, 1).numpy()
    np.savez(folder / "images.npz", images=images)
    return folder


def drawn(count: int, check, number: int | None = None) -> None:
    """Calls `check` with `count` command lines; the first that fails is made small.

    The seed `number` decides them; without one they are always the same.
    """
    if not count:
        return
    quiet = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]

    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        derandomize=number is None,
        suppress_health_check=quiet,
        phases=[Phase.generate, Phase.shrink],
        print_blob=False,
    )
    @given(lines())
    def run(typed: list[str]) -> None:
        check(typed)

    (run if number is None else seed(number)(run))()


def table(kinds: Counter[str], failed: int) -> str:
    """Markdown: a line per way in which command lines ended."""
    lines = ["| how it was tried, and how it ended | command lines |", "|---|---:|"]
    lines += [f"| {kind} | {count} |" for kind, count in sorted(kinds.items())]
    lines.append(f"| foreign exceptions, tracebacks and hangs | {failed} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--odd-configs", type=int, default=300, metavar="N")
    parser.add_argument("--through-command", type=int, default=10, metavar="M")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn")
    parser.add_argument("--readme", type=Path, help="put the table into this file")
    asked = parser.parse_args()
    kinds: Counter[str] = Counter()
    failed: list[str] = []

    def noting(kind, call):
        def check(typed: list[str]) -> None:
            try:
                kinds[f"{kind}: {call(typed)}"] += 1
            except Foreign as error:
                cause = error.__cause__
                where = traceback.format_exception(cause)[-3:] if cause else []
                failed.append(f"{kind}: {error}\n{''.join(where)}")

        return check

    before = os.getcwd()
    with tempfile.TemporaryDirectory() as name:
        folder = folder_with_images(Path(name))
        os.chdir(folder)
        try:
            with open(os.devnull, "w") as nowhere:
                err, sys.stderr = sys.stderr, nowhere  # warnings of what trains
                try:
                    drawn(asked.odd_configs, noting("in process", outcome), asked.seed)
                finally:
                    sys.stderr = err
            ended = noting(
                "command", lambda typed: f"exit {through_command(typed, folder).code}"
            )
            drawn(asked.through_command, ended, asked.seed)
        finally:
            os.chdir(before)
    text = table(kinds, len(failed))
    print(text)
    if asked.readme is not None:
        put_between(asked.readme, BEGIN, END, text)
    for each in failed[:20]:
        print(each, file=sys.stderr)
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
