"""No code but an option's own file tests its name: read from the source."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from vae_sweep import options
from vae_sweep.config import GROUPS, sections

ROOT = Path(__file__).parents[1]
FILES = sorted(
    path.relative_to(ROOT)
    for folder in ("vae_sweep", "hydra_plugins")
    for path in (ROOT / folder).rglob("*.py")
)
WORDS = {word for group in (*GROUPS, "log") for word in options.words(group)}
WORDS |= {name for names in sections().values() for name in names}
# classes of config.py of one option, or a few
MODELS = {model.__name__ for names in sections().values() for model in names.values()}


def compared(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, word) of each option's name that a comparison, a `match`, a prefix or suffix
    test holds something against; and each class of one that isinstance does."""
    for node in ast.walk(tree):
        parts: list[ast.AST] = []
        if isinstance(node, ast.Compare):
            parts = [node.left, *node.comparators]
        elif isinstance(node, ast.MatchValue):
            parts = [node.value]
        elif isinstance(node, ast.Call):
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if called in ("startswith", "endswith", "isinstance", "issubclass"):
                parts = list(node.args)
        for part in parts:
            for leaf in ast.walk(part):
                if isinstance(leaf, ast.Constant) and leaf.value in WORDS:
                    yield node.lineno, str(leaf.value)
                if isinstance(leaf, ast.Name | ast.Attribute):
                    name = getattr(leaf, "id", getattr(leaf, "attr", ""))
                    if name in MODELS:
                        yield node.lineno, name


def tables(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, words) of each literal dict with two keys or more that are all options."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict) and len(node.keys) > 1:
            keys = [getattr(key, "value", None) for key in node.keys]
            if all(key in WORDS for key in keys):
                yield node.lineno, ", ".join(map(str, keys))


# where the objects of a group stand, by name
OWN = {
    *("vae_sweep/vae/normalize.py", "vae_sweep/vae/heads.py"),
    *("vae_sweep/vae/likelihoods.py", "vae_sweep/vae/objective.py"),
    *("vae_sweep/vae/networks.py", "vae_sweep/vae/schedules.py"),
    *("vae_sweep/data/splits.py", "vae_sweep/data/torchvision_sets.py"),
    *("vae_sweep/training/metrics.py", "vae_sweep/records/loggers.py"),
}


@pytest.mark.parametrize("path", FILES, ids=str)
def test_no_name_of_an_option_is_tested(path):
    found = [word for _, word in compared(ast.parse((ROOT / path).read_text()))]
    if path.name == "wandb_logger.py":  # whether its own package is imported
        found.remove("wandb")
    assert found == []


@pytest.mark.parametrize("path", FILES, ids=str)
def test_no_table_of_options_stands_outside_their_own_file(path):
    if str(path) not in OWN:
        assert list(tables(ast.parse((ROOT / path).read_text()))) == []


@pytest.mark.parametrize(
    "source",
    [
        "if name == 'mse': ...",
        "if config.head in ('tanh', 'sigmoid'): ...",
        "if {'mse'} == names: ...",
        "if head.endswith('tanh'): ...",
        "match name:\n    case 'conv': ...",
        "isinstance(config, NpzConfig | ImageFolderConfig)",
        "isinstance(beta, config.MatchedBeta)",
    ],
)
def test_every_way_to_test_a_name_is_seen(source):
    assert list(compared(ast.parse(source)))


def test_every_table_is_seen():
    assert list(tables(ast.parse("KINDS = {'mse': 1, 'l1': 2}")))
