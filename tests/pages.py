"""The repository's pages as a reader uses them: their blocks of code, commands and links.

A page's blocks run in a folder of their own, in which there are some images: files that it
shows (a first line `# mine.py` or `# experiments/mine.yaml`) are written, its commands run
in turn, then its Python as one script. Bash expands the commands; each then runs in a fork
of a process that has imported everything, on settings that take a second instead of the
page's. A block that cannot run has a comment before it, `<!-- no-run: reason -->`.
"""

import io
import multiprocessing
import os
import re
import runpy
import shlex
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from helpers import make_images
from PIL import Image

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "docs/*.md", "[abet]*/README.md", "tests/golden/README.md")
    for path in ROOT.glob(pattern)
)
LANGUAGES = ("sh", "python", "yaml")
SHOWN = ("text", "{eval-rst}")  # output, which nobody types, and what Sphinx fills in
PRELOADED = (
    *("vae_sweep.grid", "vae_sweep.api", "vae_sweep.command.entry", "matplotlib.pyplot"),
    *("vae_sweep.reporting.html", "vae_sweep.reporting.prediction_table", "scipy.stats"),
    *("vae_sweep.reporting.figures", "vae_sweep.reporting.standalone"),
)
FEW = 8  # points of a grid that train
FENCE = re.compile(r"^```([\w{}-]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
NO_RUN = re.compile(r"<!-- no-run: (.+) -->\n\Z")


class Block(NamedTuple):
    """A fenced block; `line` is that of its fence, `no_run` why it does not run."""

    page: str
    line: int
    language: str
    code: str
    no_run: str = ""

    @property
    def file(self) -> str:
        """The file that it is to be written to, or nothing."""
        found = re.match(r"# ([\w/]+\.(py|yaml))\n", self.code)
        return found[1] if found else ""


def blocks(page: str) -> Iterator[Block]:
    """The blocks of a page of PAGES."""
    text = (ROOT / page).read_text()
    for found in FENCE.finditer(text):
        reason = NO_RUN.search(text[: found.start()])
        line = text.count("\n", 0, found.start()) + 1
        language, code = found.groups()
        yield Block(page, line, language, code, reason[1] if reason else "")


def prose(page: str) -> str:
    """A page without its blocks."""
    return FENCE.sub("", (ROOT / page).read_text())


def links(page: str) -> list[str]:
    """What a page links to and shows, as it is written."""
    text = re.sub(r"`[^`]*`", "", prose(page))
    return re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'src="([^"]+)"', text)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as code hosts make them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    plain = (re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", text) for text in headings)
    return {re.sub(r"[^\w\- ]", "", t.lower()).replace(" ", "-") for t in plain}


# --- running ---


def commands(code: str, folder: Path) -> list[list[str]]:
    """What a block of shell runs, each as bash expands it.

    Raises subprocess.CalledProcessError where it runs anything but vae-sweep and python.
    """
    functions = "".join(
        f"{name}() {{ printf '%q ' {name} \"$@\"; echo; }}\n"
        for name in ("vae-sweep", "python")
    )
    done = subprocess.run(
        ["/bin/bash", "-euc", functions + code],
        cwd=folder,
        env={"PATH": "/nowhere"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{code}\n{done.stderr}"
    return [shlex.split(line) for line in done.stdout.splitlines()]


def furnish(folder: Path) -> None:
    """Puts images where pages say that there are some."""
    images = make_images(60, size=40).permute(0, 2, 3, 1).numpy()
    for place, size in (("photos", 40), ("cifar/train", 32), ("cifar/test", 32)):
        (folder / place).mkdir(parents=True)
        for i, image in enumerate(images):
            Image.fromarray(image[:size, :size]).save(folder / place / f"{i}.png")
    np.savez(folder / "images.npz", images=images[:, :16, :16])


def small(values: dict[str, Any]) -> dict[str, Any]:
    """A point's settings as they train in a second."""
    data, model, train = ({**values[part]} for part in ("data", "model", "train"))
    if data["name"] in ("cifar10", "cifar100", "svhn", "mnist", "fashion_mnist"):
        data = {"name": "dead_leaves", "seed": 0, "cache": data["cache"]}
        data |= {"val_images": 20, "test_images": 20}
    if data["name"] == "dead_leaves":
        data |= {"images": 100, "size": 16, "val_images": 20, "test_images": 20}
    if "widths" in model and ":" not in model["name"]:
        model["widths"] = [4, 8]
    if train["epochs"] is None:
        train["steps"] = min(4, -(-train["steps"] // 250))  # 500 are fewer than 1,000
    train |= {"epochs": None, "eval_every": 2, "batch_size": 8, "device": "cpu"}
    train["importance_samples"] = min(2, train["importance_samples"])
    train["lr_warmup"] = 1
    log = {**values["log"]}
    if "wandb" in log and log["wandb"]["mode"] == "auto":
        log["wandb"] = {**log["wandb"], "mode": "disabled"}
    return {**values, "data": data, "model": model, "train": train, "log": log}


def carry_out(argv: list[str], folder: Path, env: dict[str, str], out: Path) -> None:
    """Runs a command in this process, which ends with its exit code."""
    os.chdir(folder)
    os.environ.update(env)
    sys.path.insert(0, str(folder))
    sys.argv = argv[1:]
    with out.open("a") as file, redirect_stdout(file), redirect_stderr(file):
        try:
            _on_small_settings()
            program, *rest = argv
            if program == "vae-sweep":
                sys.argv = argv
                import_module("vae_sweep.__main__").main()
            elif rest[0] == "-m":
                sys.argv = rest[1:]
                import_module(rest[1]).main()
            else:
                runpy.run_path(rest[0], run_name="__main__")
        except SystemExit:
            raise
        except BaseException:
            traceback.print_exc()
            sys.exit(1)


def _on_small_settings() -> None:
    """What is typed is validated as it is, and then trains on `small` settings."""
    from vae_sweep import grid
    from vae_sweep.command import entry

    validated, run = entry._validated, grid.run

    def of_page(values: dict[str, Any]) -> Any:
        validated(values)
        return validated(small(values))

    def run_few(configs: list[Any]) -> list[Any]:
        outcomes = run(configs[:FEW])
        return [*outcomes, *(None for _ in configs[FEW:])]

    entry._validated, grid.run = of_page, run_few


class Reader:
    """Someone who does what a page says, in `folder`."""

    def __init__(self, folder: Path, cache: Path):
        self.folder = folder
        self.env = {
            **{"VAE_SWEEP_CACHE": str(cache), "COLUMNS": "160", "MPLBACKEND": "agg"},
            **{"WANDB_MODE": "offline", "TRACKIO_DIR": str(folder / "trackio")},
        }
        furnish(folder)

    def __call__(self, *argv: str) -> str:
        """Runs a command; returns what it prints.

        Raises AssertionError where it fails.
        """
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(list(PRELOADED))
        out = self.folder / ".out"
        out.write_text("")
        argv_found = [self._named(word) for word in argv]
        process = context.Process(
            target=carry_out, args=(argv_found, self.folder, self.env, out)
        )
        process.start()
        process.join(120)
        said = out.read_text()
        assert process.exitcode == 0, f"{shlex.join(argv)}: {process.exitcode}\n{said}"
        return said

    def _named(self, word: str) -> str:
        """runs/NAME/RUN is the first run of that sweep."""
        found = re.search(r"(runs/\w+)/RUN$", word)
        if not found:
            return word
        runs = sorted(self.folder.glob(f"{found[1]}/*/summary.json"))
        return word.replace(found[0], str(runs[0].parent.relative_to(self.folder)))

    def read(self, page: str, last: str = "") -> io.StringIO:
        """Does all that a page says; `last` is Python that follows its own."""
        found = [block for block in blocks(page) if not block.no_run]
        for block in found:
            if block.file:
                (self.folder / block.file).parent.mkdir(exist_ok=True)
                (self.folder / block.file).write_text(block.code)
        said = io.StringIO()
        for block in found:
            if block.language == "sh":
                for argv in commands(block.code, self.folder):
                    said.write(self(*argv))
        code = [b.code for b in found if b.language == "python" and not b.file]
        if code or last:
            (self.folder / "page_.py").write_text("\n".join([*code, last]))
            said.write(self("python", "page_.py"))
        return said
