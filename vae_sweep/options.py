"""From an option's name to its object: a word is built in, `module:object` is a user's.

Without torch, and without the user's module until the object itself is asked for: grids
that have ended, and records, are read without the code that made them.
"""

import ast
import hashlib
import importlib
import importlib.util
import inspect
import re
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import yaml

from vae_sweep.errors import UserError, nearest, shown

PACKAGE = Path(__file__).parent
# conf/ lies inside the package in a wheel, beside it in a checkout
CONF = next(p / "conf" for p in (PACKAGE, PACKAGE.parent) if (p / "conf").is_dir())
OWN = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)

T = TypeVar("T")


@cache
def words(group: str) -> tuple[str, ...]:
    """The options of a group that are ours: the files of conf/GROUP/."""
    return tuple(sorted(path.stem for path in (CONF / group).glob("*.yaml")))


@cache
def version(group: str, name: str) -> int:
    """How often the numbers of an option have changed, and 1: its file states
    `# @version N` where that is not 1. A user's own has none: its source decides."""
    if name not in words(group):
        return 1
    text = (CONF / group / f"{name}.yaml").read_text()
    found = re.search(r"^# @version (\d+)$", text, re.MULTILINE)
    return int(found[1]) if found else 1


def is_own(name: Any) -> bool:
    """Whether a name is a user's, module:object."""
    return isinstance(name, str) and OWN.fullmatch(name) is not None


def module_of(name: str) -> str:
    """The module of a user's name, module:object."""
    return name.partition(":")[0]


@cache
def source_file(module: str) -> Path:
    """A module's source, found without importing it (but the packages around it).

    Raises UserError where there is none.
    """
    if module == "__main__":
        raise UserError(
            "an option of your own must be in a module that worker processes can import, "
            "got __main__; write it to a file, mine.py, and name it mine:NAME (in a "
            "notebook a cell that begins with %%writefile mine.py writes one)"
        )
    try:
        spec = importlib.util.find_spec(module)
    except ImportError:
        spec = None
    except Exception as error:  # a package raises what it likes
        raise UserError(f"{module} cannot be imported: {_raised(error)}") from None
    if spec is None and module.endswith(".py"):
        raise UserError(f"{module} is a file; name its module, {module[:-3]}")
    if spec is None:
        raise UserError(
            f"there is no module {module}: it must be {module.replace('.', '/')}.py in the "
            f"working folder, {Path.cwd()}, or installed"
        )
    if not spec.has_location or spec.origin is None or not spec.origin.endswith(".py"):
        raise UserError(f"module {module} must be a file of Python; name another")
    return Path(spec.origin)


@cache
def sha256(module: str) -> str:
    """Of a module's source as this process first saw it: what a user's option is, beside
    its name."""
    try:
        return hashlib.sha256(source_file(module).read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(
            f"{source_file(module)} cannot be read: {error.strerror}; make it readable"
        ) from None


def check_sources(sources: Mapping[str, str]) -> None:
    """Raises UserError where this process has another source of a user's module than
    `sources`, module -> SHA-256: it was edited after the command had begun."""
    for module, digest in sources.items():
        if sha256(module) != digest:
            raise UserError(
                f"{source_file(module)} was edited while its runs trained; start the "
                f"command again: the edited file makes new runs"
            )


@cache
def _own(name: str) -> Any:
    """The object that a user's name refers to; imports its module."""
    module, _, attribute = name.partition(":")
    file = source_file(module)
    try:
        found = importlib.import_module(module)
    except (Exception, SystemExit) as error:
        raise UserError(f"{module} cannot be imported: {_raised(error, file)}") from None
    if not hasattr(found, attribute):
        meant = nearest(attribute, [n for n in vars(found) if not n.startswith("_")])
        remedy = f"did you mean {module}:{meant}?" if meant else "define it there"
        raise UserError(f"{file.name} has no {attribute}; {remedy}")
    return getattr(found, attribute)


def own(group: str, name: str) -> Any:
    """The object that a user's name refers to; a UserError names the option."""
    try:
        return _own(name)
    except UserError as error:
        raise UserError(f"{group}={name}: {error}") from None


def find(
    group: str,
    name: str,
    ours: Mapping[str, T],
    accept: Callable[[Any], T | None],
    what: str,
) -> T:
    """The option `name`: of `ours`, or what `accept` makes of a user's object.

    Raises:
        UserError: There is no such object, or `accept` made None of it; `what` is the kind
            that it must be.
    """
    if not is_own(name):
        return ours[name]
    given = own(group, name)
    made = accept(given)
    if made is None:
        raise UserError(
            f"{group}={name} must be {what}, got {_kind(given)} ({where(name)}); "
            f"docs/extending.md shows one"
        )
    return made


def function(given: Any) -> Any:
    """What `find` accepts of options that are functions."""
    return given if callable(given) else None


def _kind(given: Any) -> str:
    if inspect.isclass(given):
        return f"the class {given.__name__}"
    if inspect.isroutine(given):
        return f"the function {given.__name__}"
    return f"a {type(given).__name__}"


def where(name: str) -> str:
    """`mine.py, line 12`: where a user's object is defined."""
    module, _, attribute = name.partition(":")
    file = source_file(module)
    try:
        body = ast.parse(file.read_bytes()).body
    except (OSError, SyntaxError, ValueError):
        return file.name
    for node in body:
        names = [getattr(node, "name", None)]
        targets = node.targets if isinstance(node, ast.Assign) else []
        targets = [node.target] if isinstance(node, ast.AnnAssign) else targets
        names += [target.id for target in targets if isinstance(target, ast.Name)]
        if attribute in names:
            return f"{file.name}, line {node.lineno}"
    return file.name


def raised(error: BaseException, name: str) -> str:
    """What a user's object raised, and in which line of its module."""
    with suppress(UserError):  # in a test the object may have no such name
        return _raised(error, source_file(module_of(name)))
    return _raised(error)


def _raised(error: BaseException, file: Path | None = None) -> str:
    said = str(error).strip().partition("\n")[0] or "nothing said"
    if isinstance(error, SyntaxError) and error.filename:
        place = f" in {Path(error.filename).name}, line {error.lineno}"
        return f"{type(error).__name__}{place}: {error.msg}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if file is not None and Path(f.filename) == file]
    place = f" in {file.name}, line {own[-1].lineno}" if own and file else ""
    return f"{type(error).__name__}{place}: {shown(said)[1:-1]}"


def parameters(group: str, name: str, given: int = 0) -> dict[str, inspect.Parameter]:
    """Keyword parameters of a user's function or class, which are keys of its section; its
    first `given` parameters are what the product hands it."""
    target = own(group, name)
    if not callable(target):
        return {}
    try:
        found = list(inspect.signature(target, eval_str=True).parameters.values())
    except Exception as error:  # an annotation may raise what it likes
        raise UserError(
            f"{group}={name} ({where(name)}) has parameters that cannot be read: "
            f"{raised(error, name)}"
        ) from None
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {p.name: p for p in found[given:] if p.kind in kinds}


def own_files(group: str) -> dict[str, Path]:
    """Name -> file of the options in a user's ./conf/GROUP/; files that name no option of
    the group are another program's, and are left alone.

    Raises:
        UserError: One is named like an option of ours.
    """
    found: dict[str, Path] = {}
    for kind in ("norm", "target") if group == "target" else (group,):  # a target is a norm
        folder = Path("conf") / kind
        if folder.is_dir() and folder.resolve() != (CONF / kind).resolve():
            paths = sorted(folder.glob("*.yaml"))
            found |= {p.stem: p for p in paths if read_file(kind, p) is not None}
    taken = sorted(set(found) & set(words(group)))
    if taken:
        raise UserError(
            f"{found[taken[0]]} has the name of an option of ours, {group}={taken[0]}; "
            f"rename it"
        )
    return found


def own_option(group: str, option: str) -> dict[str, Any] | None:
    """The `name` of a user's option, typed or a word of ./conf, and the keys that its file
    sets; None of one of ours."""
    if is_own(option):
        return {"name": option}
    file = own_files(group).get(option)
    return read_file(group, file) if file else None


def read_file(group: str, path: Path) -> dict[str, Any] | None:
    """A user's option: its `name`, and the keys that it sets. None of a file that is none.

    `head: mine:SOFTSIGN` says the same as `name: mine:SOFTSIGN`.
    """
    try:
        content = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return None
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        return None
    said = ("name", group, path.parent.name)  # head: mine:HEAD, of conf/head
    name = next((content[key] for key in said if key in content), None)
    if not is_own(name):
        return None
    return {"name": name, **{k: v for k, v in content.items() if k not in said}}
