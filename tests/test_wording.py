"""Words that readers stumbled over, in everything that the repository says.

`make lint` has spelling (codespell, American).
"""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = {".py", ".md", ".yaml", ".yml", ".j2", ".js", ".css", ".ipynb", ".toml", ".cff"}
WORDS = {  # a pattern -> what to write
    r"\bmend(s|ed|ing)?\b": "fix",
    r"\bstands? for\b": "is, means, or the thing itself",
    r"\b(?:front|back)?door\b": "say which function or command",
    r"\bwhat (?:\w+ )?[\w-]+ (?:is|are) for\b": "what it does",
    r"\bcan go under\b": "can go below",
    r"\bgo(?:es)? under\b": "falls below",
    r"\bweighs? next to nothing\b": "has almost no effect",
    r"\bnot yet comparable\b": "say which rows may be compared",
    r"\b(?:put|puts) a block where\b": "copy it into ...",
    r"\bbehind its back\b": "without any code of yours",
}
# what was published keeps its words, as do this list and records of earlier versions
KEPT = ("tests/golden/", "experiments/results/", "tests/test_wording.py")
PUBLISHED = {"docs/in_the_wild.md", "docs/calculator.html", "analysis/study/wild.py"}


def files() -> list[str]:
    """The texts that are tracked, or are to be."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    names = done.stdout.splitlines()
    return [
        name
        for name in names
        if Path(name).suffix in TEXT and (ROOT / name).is_file()
        if not name.startswith(KEPT) and name not in PUBLISHED
    ]


@pytest.mark.parametrize("pattern", WORDS)
def test_no_file_has_them(pattern):
    found = [
        f"{name}:{text.count(chr(10), 0, hit.start()) + 1}: {hit[0]!r}"
        for name in files()
        for text in [(ROOT / name).read_text("utf-8")]
        for hit in re.finditer(pattern.replace(" ", r"\s+"), text, re.IGNORECASE)
    ]
    assert not found, f"write {WORDS[pattern]!r} instead: {found}"


def test_the_patterns_find_the_examples():
    examples = (
        *("no beta mends it", "a word stands for an option", "what each file is for"),
        *("the error that no network can go under", "the front door of the package"),
        "Its rows are not yet comparable",
    )
    for text in examples:
        assert any(re.search(p, text, re.IGNORECASE) for p in WORDS), text
