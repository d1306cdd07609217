"""Every block of code on every page runs, or says why not; every link leads somewhere."""

import doctest
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pages
import pytest
from pages import PAGES, ROOT, Reader, blocks

BLOCKS = [block for page in PAGES for block in blocks(page)]
RUN = [b for b in BLOCKS if b.language in pages.LANGUAGES and not b.no_run]
NOT_RUN = [b for b in BLOCKS if b.no_run]

# what holds after a page's own code
LAST = {
    "docs/python.md": """
assert predicted["psnr_cap"].notna().all() and len(predicted) == 4
assert found.finals["status"].tolist() == ["finished"] * 4
assert mean.shape == (1, 64) and pixels.shape == (1, 32, 32, 3)
assert drawn.shape == (16, 32, 32, 3) and between.shape == (8, 32, 32, 3)
assert z.grad.abs().sum() > 0
assert np.abs(again.permute(0, 2, 3, 1).numpy() - pixels).max() < 1e-4
assert Image.open("reconstruction.png").size == (32, 32)
assert Path("photo_vae/README.md").exists()
""",
    "docs/extending.md": """
found = vae_sweep.results("runs/main").finals
assert (found["status"] == "finished").all()
for own in ("softsign:SOFTSIGN", "robust:ROBUST", "student:Student"):
    assert own in found[["head", "norm", "likelihood"]].to_numpy(), own
assert len(found) == 15 and found["val/mae"].notna().sum() == 1
assert found["other"].str.contains("residual:Residual").sum() == 2
assert len(list(Path("runs/main/film").glob("*/samples-000004.png"))) == 1
assert vae_sweep.predict(norm="robust:ROBUST", head="tanh")["psnr_cap"].notna().all()
""",
    "docs/running.md": """
assert len(vae_sweep.results("runs/main").finals) == 1
assert Path("both.html").exists() and Path("runs/core/report.html").exists()
""",
    "README.md": """
assert len(found.finals) == 4 and pixels.shape[0] == 16
assert Path("runs/main/predicted.csv").exists()
""",
}
FIRST = "import vae_sweep\nfrom pathlib import Path\n"


def test_blocks_are_counted():
    """Prints how many blocks run, and why the others do not: pytest -rP shows it."""
    reasons = "\n".join(f"  {b.page}:{b.line}: {b.no_run}" for b in NOT_RUN)
    print(f"{len(RUN)} blocks on {len(PAGES)} pages run, {len(NOT_RUN)} do not:\n{reasons}")
    assert len(RUN) > 40
    assert len(RUN) > 3 * len(NOT_RUN)
    assert {block.page for block in RUN} >= LAST.keys()


@pytest.mark.parametrize("page", PAGES)
def test_every_block_states_its_language(page):
    text = (ROOT / page).read_text()
    assert 2 * len(list(blocks(page))) == len(re.findall(r"^\s*```", text, re.MULTILINE))
    assert {block.language for block in blocks(page)} <= {*pages.LANGUAGES, *pages.SHOWN}
    stated = len(re.findall(r"^<!-- no-run: \S.* -->$", text, re.MULTILINE))
    assert stated == sum(bool(block.no_run) for block in blocks(page))


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.mark.long
@pytest.mark.parametrize("page", sorted({block.page for block in RUN}))
def test_a_page_runs_as_it_is(page, tmp_path, cache):
    last = FIRST + LAST[page] if page in LAST else ""
    Reader(tmp_path, cache).read(page, last)


def test_a_block_that_fails_fails_the_test(tmp_path, cache, monkeypatch):
    monkeypatch.setattr(pages, "blocks", lambda _: [pages.Block("", 1, "sh", "ls\n")])
    with pytest.raises(AssertionError, match=r"ls: (No such file|command not found)"):
        Reader(tmp_path, cache).read("README.md")


@pytest.mark.slow
def test_a_command_that_fails_fails_the_test(tmp_path, cache):
    reader = Reader(tmp_path, cache)
    with pytest.raises(AssertionError, match=r"(?s)2\n.*did you mean tanh"):
        reader("vae-sweep", "head=tahn")
    (tmp_path / "wrong.py").write_text("1 / 0")
    with pytest.raises(AssertionError, match=r"(?s)1\n.*ZeroDivisionError"):
        reader("python", "wrong.py")


# --- links ---


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for link in pages.links(page):
        if link.startswith(("https://", "http://", "data:")):
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), link
        if anchor:
            assert anchor in pages.anchors(target), link


def test_every_page_is_linked():
    linked = {
        ((ROOT / page).parent / link.partition("#")[0]).resolve()
        for page in PAGES
        for link in pages.links(page)
    }
    lost = [page for page in PAGES if (ROOT / page).resolve() not in linked]
    assert not lost


def test_the_front_page_has_two_screens():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


# --- what is typed, in tables ---

OPTION = re.compile(r"-m|[a-z_.]+=\S+")
FILLED = {"FOLDER": "photos", "FILE": "images.npz", "NAME": "mine"}
OWN = "import torch\nfrom vae_sweep import Head, Metric\n"
OWN += "SOFTSIGN = Head(torch.nn.functional.softsign, -1, 1)\n"
OWN += "MAE = Metric('mae', lambda p: (p.u - p.u_hat).abs().mean((-3, -2, -1)))\n"


def typed(page: str) -> list[list[str]]:
    """The options that tables of a page name, a command line each."""
    rows = [line for line in pages.prose(page).splitlines() if line.startswith("|")]
    spans = [shlex.split(s) for row in rows for s in re.findall(r"`([^`]+)`", row)]
    lines = [span for span in spans if all(OPTION.fullmatch(word) for word in span)]
    filled = re.compile("|".join(rf"(?<==){word}$" for word in FILLED))
    return [
        [filled.sub(lambda found: FILLED[found[0]], word) for word in line]
        for line in lines
        if not any("extend=" in word for word in line)
    ]


def test_options_in_tables_make_points(tmp_path, monkeypatch):
    """Each line composes and validates, and makes as many points as it says."""
    from vae_sweep.command import entry

    pages.furnish(tmp_path)
    (tmp_path / "mine.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    lines = typed("docs/options.md")
    assert len(lines) > 35
    for line in lines:
        monkeypatch.setattr("sys.argv", ["run.py", *line])
        found = []
        entry.main(lambda configs, to=found: to.extend(configs), "")
        choices = (re.sub(r"\[.*?\]", "", word).count(",") + 1 for word in line)
        expected = 1
        for count in choices:
            expected *= count
        assert len(found) == expected, line


@pytest.mark.parametrize("page", PAGES)
def test_commands_in_prose_exist(page):
    from vae_sweep.__main__ import COMMANDS

    spans = re.findall(r"`(?:python -m )?vae[-_]sweep[ .](\w+)[ `]", pages.prose(page))
    for word in spans:
        assert word in COMMANDS or not word.islower() or hasattr_of_package(word), word


def hasattr_of_package(word: str) -> bool:
    import vae_sweep

    return word in vae_sweep.__all__ or (ROOT / "vae_sweep" / f"{word}.py").exists()


@pytest.mark.parametrize("page", PAGES)
def test_targets_of_make_exist(page):
    made = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    text = (ROOT / page).read_text()
    for target in re.findall(r"(?:`|^)make ([a-z][a-z-]*)", text, re.MULTILINE):
        assert target in made, target


# --- docstrings ---


@pytest.mark.long
def test_examples_of_docstrings_run(tmp_path, cache):
    """All in turn, of functions that are found as vae_sweep.NAME."""
    import vae_sweep

    parser, code = doctest.DocTestParser(), []
    for name in ("sweep", "predict", "results", "load", "export"):
        text = getattr(vae_sweep, name).__doc__
        code += [example.source for example in parser.get_examples(text)]
    assert len(code) >= 9
    reader = Reader(tmp_path, cache)
    script = "".join(code).replace('"0e718e1e"', "found.runs[0]")
    first = "import numpy as np\nimport vae_sweep\n"
    first += "images = np.full((3, 40, 40, 3), 90, np.uint8)\n"  # as photos/ has them
    (tmp_path / "examples.py").write_text(first + script)
    reader("python", "examples.py")


# --- the site ---


@pytest.mark.long
def test_the_site_builds_strictly_and_loads_nothing(tmp_path):
    pytest.importorskip("sphinx")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "-c", "docs", "."]
    done = subprocess.run(
        [*command, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    made = sorted(tmp_path.rglob("*.html"))
    assert len(made) > len(PAGES)
    for path in made:
        text = path.read_text()
        tags = re.findall(r"<(?:script|img|iframe|source)\b[^>]*>", text)
        tags += [tag for tag in re.findall(r"<link\b[^>]*>", text) if "stylesheet" in tag]
        assert not [tag for tag in tags if re.search(r'(src|href)="(https?:)?//', tag)]
    for path in tmp_path.rglob("*.css"):
        assert not re.search(r"(@import|url\()\s*['\"]?(https?:)?//", path.read_text())
