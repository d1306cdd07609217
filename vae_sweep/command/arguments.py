"""What a user types after a command, held against the options and keys that there are.

Hydra reads one line at a time and knows nothing of what was probably meant. Here all
lines are read first: flags may stand anywhere, `beta=4` is a constant beta, a wrong name is
answered with the nearest right one, and a grid is counted before it is made.
"""

import inspect
import itertools
import math
import os
import re
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, get_args

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import (
    ChoiceSweep,
    Override,
    OverrideType,
    QuotedString,
    RangeSweep,
    ValueType,
)
from hydra.errors import HydraException
from omegaconf import MISSING

from vae_sweep import options
from vae_sweep.command import experiments
from vae_sweep.config import (
    GROUPS,
    keys,
    own_keys,
    own_model,
    owns,
    sections,
    unknown,
)
from vae_sweep.errors import UserError, nearest, shown

LONGEST = 20_000  # characters of an option; Hydra's parser reads 10,000 in a second
LARGEST_GRID = 100_000  # points
SEVERAL = ("log", "metric")  # groups of which a point may have several options
OPEN = (*GROUPS, "log")  # groups that a user's own module:object may be of
ONCE = ("rerun", "extend", "experiments")  # of a command, no axes of its points

# flags that Hydra knows -> the values that each takes, or None for any
SHOWN = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
FLAGS: dict[str, tuple[str, ...] | None] = {
    **dict.fromkeys(("--options", "--hydra-help", "--version"), ()),
    **dict.fromkeys(("--multirun", "-m", "--run", "-r"), ()),
    **dict.fromkeys(("--resolve", "--shell-completion", "-sc"), ()),
    **dict.fromkeys(("--cfg", "-c"), ("job", "hydra", "all")),
    **dict.fromkeys(("--info", "-i"), SHOWN),
    **dict.fromkeys(("--package", "-p", "--config-path", "-cp"), None),
    **dict.fromkeys(("--config-name", "-cn", "--config-dir", "-cd"), None),
    "--experimental-rerun": None,
}
NO_COMMAND = ("--multirun", "-m", "--run", "-r")  # as Hydra spells what we do unasked
# flags that do something else than to call the command, and those that need one of them
INSTEAD = ("--options", "--hydra-help", "--version", "--cfg", "-c", "--info", "-i")
INSTEAD += ("--shell-completion", "-sc", "--experimental-rerun")
ONE_POINT = "hydra.mode=RUN"
HASHED = re.compile(r"extend=[0-9a-f]+")  # 12345e67 is no number here
HOME = re.compile(r"[\w.]+=~[^\"',]*")  # which no shell expands, and Hydra cannot read
FOREIGN = ("--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd")


class Typed(NamedTuple):
    """A command line: `flags` with their values, and `lines` like seed=0,1."""

    flags: list[str]
    lines: list[str]

    @property
    def instead(self) -> bool:
        """Whether something is shown instead of calling the command."""
        return any(flag.partition("=")[0] in INSTEAD for flag in self.flags)

    @property
    def foreign(self) -> bool:
        """Whether options may come from folders that are not ours."""
        flags = {flag.partition("=")[0] for flag in self.flags}
        return bool(flags & set(FOREIGN)) or any(
            "hydra.searchpath" in x for x in self.lines
        )

    def argv(self) -> list[str]:
        """The command line as Hydra reads it."""
        alone = self.instead or ONE_POINT in self.lines
        flags = ["--help" if flag == "--options" else flag for flag in self.flags]
        return [*([] if alone else ["--multirun"]), *flags, *self.lines]


def read(typed: list[str]) -> Typed:
    """Sorts and checks a command line; `beta=4` becomes beta=constant beta.value=4.

    Raises UserError where Hydra would not understand it, names what there is not, or
    would ask for --multirun.
    """
    flags, lines = _sorted(typed)
    found = Typed(flags, lines)
    if "-sc" in flags or "--shell-completion" in flags:
        return found
    parser = OverridesParser.create()
    overrides = [parse(line, parser) for line in lines]
    if not found.foreign:  # a group of Hydra's cannot be null
        overrides = [o for o in overrides if not _is_no_experiment(o)]
    alone = found.instead or ONE_POINT in lines
    known = known_keys(overrides)
    for override in overrides:
        if not found.foreign:
            check(override, known)
        if alone and override.is_sweep_override():
            raise UserError(
                f"one point is shown or run here, got {shown(override.input_line)[1:-1]}; "
                f"type one value, or leave out {' '.join(flags) or ONE_POINT}"
            )
    _warn_of_repeated(overrides)
    several = {
        o.key_or_group
        for o in overrides
        if o.key_or_group in sections() and o.is_sweep_override()
    }
    if any(o.key_or_group == "experiments" for o in overrides):  # may choose any
        several |= sections().keys()
    parts = [part for override in overrides for part in constant_beta(override)]
    return Typed(flags, [_conditional(part, several) for part in parts])


def _warn_of_repeated(overrides: list[Override]) -> None:
    """Says on stderr which choices do not count, since a later one is of the same axis.

    Of other keys, such as train.steps, a later line often overrides one in a script.
    """
    last = {o.key_or_group: o for o in overrides}
    for override in overrides:
        counted = last[override.key_or_group]
        if counted is not override and "." not in override.key_or_group:
            ignored, used = (shown(o.input_line)[1:-1] for o in (override, counted))
            print(f"warning: {ignored} is ignored: {used} follows", file=sys.stderr)


def _conditional(override: Override, several: set[str]) -> str:
    """`beta.sigma=12` as a sweep over 12 where `several` options of beta may be chosen:
    Hydra applies sweeps to points alone, the rest to the default option as well."""
    line = str(override.input_line)
    key, _, value = line.partition("=")
    group = key.partition(".")[0]
    if group in several and key != group and not override.is_sweep_override():
        return f"{key}=choice({value})"
    return line


def _sorted(typed: list[str]) -> tuple[list[str], list[str]]:
    """Flags, with the values they take, and lines."""
    flags: list[str] = []
    lines: list[str] = []
    rest = iter(typed)
    for argument in rest:
        if not argument.startswith("-"):
            lines.append(argument)
            continue
        name, equals, value = argument.partition("=")
        if name not in FLAGS:
            meant, option = nearest(name, FLAGS), name.lstrip("-")
            remedy = f"did you mean {meant}?" if meant else "--help shows examples"
            if option in keys() or option in choices():
                remedy = f"options have no dashes: type {option}={value or '...'}"
            raise UserError(f"unknown flag {shown(argument)[1:-1]}; {remedy}")
        values = FLAGS[name]
        if values == () and equals:
            raise UserError(f"{name} takes no value, got {shown(argument)[1:-1]}")
        if name in NO_COMMAND:
            continue
        if values == ():
            flags.append(argument)
            continue
        value = value if equals else next(rest, None)
        if value is None and name in ("--info", "-i"):
            value = "all"
        if value is None or (values is not None and value not in values):
            wanted = " or ".join(values) if values else "a value"
            raise UserError(f"{name} takes {wanted}, got {shown(value or '')}")
        flags.append(f"{name}={value}" if name.startswith("--") else name)
        if not name.startswith("--"):
            flags.append(value)
    names = [flag.partition("=")[0] for flag in flags]
    if sum(name in INSTEAD for name in set(names)) > 1:
        raise UserError(f"one thing is shown at a time, got {' '.join(names)}; type one")
    needs = {"--resolve": ("--cfg", "-c", "--options"), "--package": ("--cfg", "-c")}
    for name, others in (*needs.items(), ("-p", needs["--package"])):
        if name in names and not set(others) & set(names):
            raise UserError(f"{name} says how --cfg shows a config; type --cfg job {name}")
    return flags, lines


def parse(line: str, parser: OverridesParser) -> Override:
    """One option, as Hydra reads it; UserError where it cannot."""
    text = shown(line)[1:-1]
    if HASHED.fullmatch(line) or HOME.fullmatch(line):
        line = line.replace("=", "='") + "'"
    if len(line) > LONGEST:
        raise UserError(f"an option has at most {LONGEST:,} characters, got {text}")
    if line.startswith("=") or ("=" not in line.removeprefix("~") and line[:1] != "~"):
        meant = nearest(line.lstrip("+"), [*keys(), *choices()]) or "KEY"
        raise UserError(f"an option is key=value, got {text!r}; type {meant}=...")
    try:
        line.encode()
        override = parser.parse_override(line)
    except UnicodeEncodeError:
        raise UserError(f"an option is UTF-8 text, got {text}; type it again") from None
    except (HydraException, ValueError, RecursionError):
        key, _, value = text.partition("=")
        if key == "sweep":
            remedy = "name it with letters a-z, A-Z, digits and . _ = , -"
        elif line.rstrip().endswith(","):
            remedy = "remove the comma at its end"
        elif set(value) & set("\"'"):
            remedy = "check its quotes"
        else:
            remedy = f"quote a value that is not a plain word: '{key}=\"{value}\"'"
        raise UserError(f"cannot read the option {text}; {remedy}") from None
    return override


def choices() -> dict[str, tuple[str, ...]]:
    """Group -> its options, ours and those of a user's ./conf."""
    groups = sorted(p.name for p in options.CONF.iterdir() if p.is_dir())
    return {g: (*options.words(g), *options.own_files(g)) for g in groups}


def own_name(group: str, option: str) -> str | None:
    """The module:object of a user's option; None for a built-in one."""
    own = options.own_option(group, option)
    return own["name"] if own else None


def own_option(group: str, option: str) -> tuple[dict[str, Any], str]:
    """(keys, package) that a user's option composes to: those that it sets, and the others
    of its section at their defaults."""
    own = options.own_option(group, option)
    assert own is not None
    name = own["name"]
    if group not in owns() and len(own) > 1:
        typed = ", ".join(key for key in own if key != "name")
        raise UserError(
            f"{options.own_files(group)[option]} sets {typed}, but a {group} has no keys "
            f"of its own; write an object for each setting"
        )
    if group in SEVERAL:
        return {name: {}}, group
    if group not in owns():
        return {group: name}, "_global_"
    ours = yaml.safe_load((options.CONF / group / f"{defaults()[group]}.yaml").read_text())
    common = {
        key: None
        if type(None) in get_args(field.annotation)
        else ours.get(key, field.default)
        for key, field in owns()[group].model_fields.items()
        if key != "name"
    }
    given = options.parameters(group, name)
    for key in common:  # latent, of a network's own default
        if key in given and given[key].default is not inspect.Parameter.empty:
            common[key] = given[key].default
    fields = own_model(group, name).model_fields
    values = {k: MISSING if f.is_required() else f.default for k, f in fields.items()}
    return {**common, **values, **own}, group


def known_keys(overrides: Iterable[Override]) -> Mapping[str, tuple[str, ...]]:
    """`keys`, and those of the user's options that `overrides` or their experiments choose;
    imports the modules of these."""
    chosen: dict[tuple[str, str], None] = {}
    found = list(overrides)
    for override in list(found):
        if override.key_or_group == "experiments" and not _is_no_experiment(override):
            with suppress(UserError, HydraException):  # said when the experiment is read
                parser = OverridesParser.create()
                for name in experiment_names(override):
                    for line in itertools.chain(*experiments.load(name)):
                        found.append(parser.parse_override(line))
    for override in found:
        group = override.key_or_group
        if group in owns() and override.type is OverrideType.CHANGE:
            values: list[Any] = []
            with suppress(UserError):  # said when it is checked
                values = values_of(override, 10_000)
            for value in values:
                name = own_name(group, value) if isinstance(value, str) else None
                if name is not None:
                    chosen[group, name] = None
    known = dict(keys())
    for group, name in chosen:
        for key in own_keys(group, name):
            known[key] = (*known.get(key, ()), name)
    return known


@cache
def defaults() -> dict[str, str]:
    """Group -> the option that it has unless another is chosen."""
    listed = yaml.safe_load((options.CONF / "config.yaml").read_text())["defaults"]
    pairs = [item for line in listed if isinstance(line, dict) for item in line.items()]
    return {str(group): str(option) for group, option in pairs}


def name_of(group: str, option: str) -> str | None:
    """The `name` that an option's file sets, conv for model=small, or module:object;
    None without a file."""
    if option not in options.words(group):
        return own_name(group, option)
    return _name_of_ours(group, option)


@cache
def _name_of_ours(group: str, option: str) -> str | None:
    content = yaml.safe_load((options.CONF / group / f"{option}.yaml").read_text())
    if "name" in content:
        return content["name"]
    return name_of(group, content["defaults"][0]) if "defaults" in content else None


def check(override: Override, known: Mapping[str, tuple[str, ...]] | None = None) -> None:
    """Raises UserError where an option names what there is not, of the keys `known`."""
    known = keys() if known is None else known
    key, text = override.key_or_group, shown(override.input_line)[1:-1]
    if override.is_hydra_override() or key == "hydra":
        return
    if override.package is not None:
        raise UserError(f"an option has one place, got {text}; type {key}=...")
    if key not in known:
        raise UserError(_unknown(key, text, known))
    if override.is_delete():
        raise UserError(f"every point has {key}, got {text}; leave it out")
    if override.is_add() or override.is_force_add():
        raise UserError(f"{key} is there already, got {text}; type {text.lstrip('+')}")
    if key in ONCE and override.is_sweep_override() and key != "experiments":
        one = "all" if key == "rerun" else "RUN"
        raise UserError(
            f"{key} takes one value for all points, got {text}; set {key}={one}"
        )
    if key in choices():
        _check_choice(override, text)
    if key == "experiments":
        for name in experiment_names(override):
            experiments.find(name)


def _is_no_experiment(override: Override) -> bool:
    """Whether it is experiments=null, which is so unless set."""
    plain = override.key_or_group == "experiments" and override.type is OverrideType.CHANGE
    return plain and not override.is_sweep_override() and override.value() is None


def experiment_names(chosen: Override) -> list[str]:
    """The experiments that were typed; none for null."""
    values = values_of(chosen)
    if values == [None]:
        return []
    if not all(isinstance(value, str | int) for value in values):
        raise UserError(
            f"experiments takes names, got {chosen.input_line}; "
            f"type them with commas, without brackets: experiments=a,b"
        )
    return [str(value) for value in values]


def _unknown(key: str, text: str, known: Mapping[str, tuple[str, ...]]) -> str:
    said = unknown(key, known)
    if "did you mean" not in said and "/" in key:
        meant = nearest(key.replace("/", "."), known)
        said = f"unknown key {key}; " + (
            f"did you mean {meant}?" if meant else "see --options"
        )
    return said.replace("unknown key", "unknown option", 1)


def _check_choice(override: Override, text: str) -> None:
    """A group's option must be one of its files; a number under beta is one as well."""
    group = override.key_or_group
    known = choices()[group]
    if group in SEVERAL:
        _check_brackets(override, text)
    elif override.value_type == ValueType.GLOB_CHOICE_SWEEP:
        return
    values = values_of(override, 10_000)
    if group in SEVERAL and isinstance(values[0], list):
        [values] = values
    for value in values:
        if value in known or (group == "beta" and _number(value) is not None):
            continue
        if options.is_own(value) and group in OPEN:
            continue
        also = "a number, or one of " if group == "beta" else ""
        if isinstance(value, list):
            raise UserError(
                f"{group} takes {also or 'one of '}{', '.join(known)}, got {text}; commas "
                f"without brackets make a grid"
            )
        file = Path("conf") / group / f"{value}.yaml"
        if group in OPEN and isinstance(value, str) and os.path.lexists(file):
            raise UserError(
                f"{file} must say name: module:object, of an object of yours; it does not, "
                f"or cannot be read: correct it"
            )
        meant = nearest(value, known) if isinstance(value, str) else None
        if (meant is None and group == "beta") or not isinstance(value, str):
            remedy = f"{group} takes {also or 'one of '}{', '.join(known)}"
        elif group == "data" and Path(value).exists():
            kind = "image_folder" if Path(value).is_dir() else "npz"
            remedy = f"images of your own are data={kind} data.path={shown(value)[1:-1]}"
        elif meant is None:
            own = ", or your own by module:object" if group in OPEN else ""
            remedy = f"there are {', '.join(known)}{own}"
        else:
            remedy = f"did you mean {meant}?"
        words: dict[Any, str] = {None: "null", True: "true", False: "false"}
        said = words[value] if value is None or isinstance(value, bool) else str(value)
        raise UserError(f"unknown option {group}={shown(said)[1:-1]}; {remedy}")


def _check_brackets(override: Override, text: str) -> None:
    """Raises UserError where several options of a group are to make a grid."""
    group = override.key_or_group
    if override.is_sweep_override():
        names = "NAME,NAME"
        if override.value_type != ValueType.GLOB_CHOICE_SWEEP:
            names = ",".join(map(str, values_of(override, 10)))
        raise UserError(
            f"a point may have several of {group}, in brackets, got {text}; "
            f"type {group}=[{names.strip('[]')}]"
        )


def values_of(override: Override, most: int | None = None) -> list[Any]:
    """An option's value, quotes removed; of a sweep each value, up to `most`."""
    if not override.is_sweep_override():
        return [override.value()]
    count(override)
    values = itertools.islice(override.sweep_iterator(), most)
    return [value.text if isinstance(value, QuotedString) else value for value in values]


def count(override: Override) -> int:
    """How many values an option names; UserError where none or too many."""
    if not override.is_sweep_override():
        return 1
    if override.is_interval_sweep():
        raise UserError(
            f"an interval names no values, got {override.input_line}; "
            f"type {override.key_or_group}=range(START,STOP,STEP)"
        )
    value: Any = override.value()
    if isinstance(value, RangeSweep):
        ends = (value.start, value.stop, value.step)
        finite = all(isinstance(x, int) or math.isfinite(x or 0) for x in ends)
        if not finite or not value.step:
            raise UserError(
                f"a range takes finite numbers and a step other than 0, got "
                f"{override.input_line}; type {override.key_or_group}=range(0,5)"
            )
        start, stop, step = (value.start or 0, value.stop or 0, value.step)
        try:
            number = max(0, math.ceil((stop - start) / step))
        except OverflowError:
            number = LARGEST_GRID + 1
    elif isinstance(value, ChoiceSweep):
        number = len(value.list)
    else:
        number = len(list(override.sweep_iterator()))
    if not number:
        raise UserError(f"a grid has at least one point, got {override.input_line}")
    _check_count(number)
    return number


def _check_count(number: int) -> None:
    if number > LARGEST_GRID:
        raise UserError(
            f"a grid has at most {LARGEST_GRID:,} points, got more; split it into sweeps"
        )


def check_size(overrides: Iterable[Override]) -> None:
    """Raises UserError where a grid has more than LARGEST_GRID points."""
    number = 1
    for override in {o.get_key_element(): o for o in overrides}.values():
        number *= count(override)
        _check_count(number)


def _number(value: Any) -> float | None:
    """The number that a value is, in quotes or not; None where it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return None


def constant_beta(override: Override) -> list[Override]:
    """`beta=0.5,1,4` as `beta=constant beta.value=0.5,1,4`; any other as it is."""
    line = str(override.input_line)
    prefix = "beta="
    if not line.startswith(prefix) or override.value_type == ValueType.GLOB_CHOICE_SWEEP:
        return [override]
    values = values_of(override)
    numbers = [_number(value) for value in values]
    if not numbers or None in numbers:
        return [override]
    typed = line.removeprefix(prefix)
    if any(isinstance(value, str) for value in values):  # '"0.5"'
        typed = ",".join(map(str, numbers))
    lines = ["beta=constant", f"beta.value={typed}"]
    return OverridesParser.create().parse_overrides(lines)


def beside(lines: list[str], typed: list[Override]) -> list[str]:
    """The lines of an experiment that hold beside what was `typed`: those of other keys,
    but for keys of a section whose typed options all lack them. A number under beta is a
    beta.value that was typed."""
    known, given = known_keys(typed), {o.key_or_group: o for o in typed}
    keys = {*given}
    if "beta" in given and any(_number(b) is not None for b in values_of(given["beta"])):
        keys.add("beta.value")

    def holds(key: str) -> bool:
        above = {key[: dot.start()] for dot in re.finditer(r"\.", key)} & keys
        if key in keys or above - sections().keys():
            return False
        owners = {*known.get(key.lstrip("+"), ())}
        return all(_names(group, values_of(given[group])) & owners for group in above)

    return [line for line in lines if holds(line.partition("=")[0])]


def fitted(
    jobs: Iterable[list[str]], overrides: list[Override], parser: OverridesParser
) -> list[list[str]]:
    """The lines of each point, a key only where the point's option has it.

    `beta=matched,constant beta.sigma=12` sets the noise of the matched points alone. In
    each point a number under beta is a constant one. Raises UserError where no option that
    was chosen has a key.
    """
    known = known_keys(overrides)
    chosen: dict[str, set[str]] = {}
    for override in overrides:
        group = override.key_or_group
        if group in sections() and not override.is_hydra_override():
            chosen[group] = set(map(str, values_of(override)))
    if not any(len(names) > 1 for names in chosen.values()):
        for override in overrides:
            key = override.key_or_group
            group = key.partition(".")[0]
            if key != group and group in sections():
                _check_owner(key, group, chosen.get(group) or {defaults()[group]}, known)
        return list(jobs)
    found = []
    betas: dict[str, list[str]] = {}
    for job in jobs:
        for line in job:
            if line.startswith("beta=") and line not in betas:
                parts = constant_beta(parse(line, parser))
                betas[line] = [str(part.input_line) for part in parts]
        lines = [part for line in job for part in betas.get(line, [line])]
        pairs = (line.partition("=")[::2] for line in lines)
        option = {g: v.replace("\\:", ":") for g, v in pairs if g in sections()}
        if sum(line.startswith("beta.value=") for line in lines) > 1:
            raise UserError("beta=NUMBER sets beta.value, got both; leave one of them out")
        kept = []
        for line in lines:
            key = line.partition("=")[0]
            group = key.partition(".")[0]
            if key == group or group not in sections():
                kept.append(line)
                continue
            names = chosen.get(group) or {defaults()[group]}
            here = option.get(group, defaults()[group])
            if _check_owner(key, group, names, known, here):
                kept.append(line)
        found.append(kept)
    return found


def _names(group: str, chosen: Iterable[Any]) -> set[str | None]:
    """What the options `chosen` of a group are named; a number is a constant beta."""
    return {name_of(group, str(c) if _number(c) is None else "constant") for c in chosen}


def _check_owner(
    key: str,
    group: str,
    chosen: set[str],
    known: Mapping[str, tuple[str, ...]],
    option: str | None = None,
) -> bool:
    """Whether `option` has `key`, one of those `known`; UserError where none of the options
    `chosen` has it."""
    owners = known.get(key.lstrip("+"), ())
    names = _names(group, chosen)
    if not owners or None in names:  # of another's folder: Hydra's to judge
        return True
    if not names & set(owners):
        got = ", ".join(f"{group}={c}" for c in sorted(chosen))
        raise UserError(unknown(key.lstrip("+"), known).replace(";", f", got {got};", 1))
    return option is None or name_of(group, option) in owners
