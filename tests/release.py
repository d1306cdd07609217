"""`make release-check`: builds what would be released and uses it as a stranger would.

The sdist, and the wheel built from it, are each installed into an environment of its own,
from the package index; there the commands of README run in an empty folder, on settings
that take seconds. tests/test_release.py compares the lists of files.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pages import ROOT, blocks, commands, furnish

TINY = ("train.steps=4", "train.eval_every=2", "train.batch_size=8", "log=[]")
IMAGES = ("data.images=200", "data.val_images=20", "data.test_images=20")
UV = [sys.executable, "-m", "uv"]


def call(*command: str | Path, **options) -> None:
    """Runs a command; ends this one where it fails."""
    print("$", *command, flush=True)
    done = subprocess.run(command, **options, check=False)
    if done.returncode:
        sys.exit(f"error: exit code {done.returncode} of {command[0]}")


def readme() -> list[list[str]]:
    """The commands of README, the package's installation apart."""
    shell = [b for b in blocks("README.md") if b.language == "sh" and not b.no_run]
    return [line for block in shell for line in commands(block.code, ROOT)]


def use(made: Path, folder: Path) -> None:
    """Installs a built file and runs the commands of README."""
    environment = folder / "environment"
    python = environment / "bin/python"
    before = time.monotonic()
    call(*UV, "venv", "--quiet", environment)
    call(*UV, "pip", "install", "--quiet", "--python", python, made)
    size = sum(f.stat().st_size for f in environment.rglob("*") if f.is_file())
    seconds = time.monotonic() - before
    print(f"{made.name}: installed in {seconds:.0f} s, {size / 1e9:.1f} GB", flush=True)
    clean = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    clean |= {"VAE_SWEEP_CACHE": str(folder / "cache"), "COLUMNS": "120"}
    furnish(folder)
    for program, *typed in readme():
        images = () if "data=image_folder" in typed else IMAGES
        call(environment / "bin" / program, *typed, *TINY, *images, cwd=folder, env=clean)
    call(environment / "bin/vae-sweep", "report", "runs/main", cwd=folder, env=clean)
    call(python, "-m", "vae_sweep", "--version", cwd=folder, env=clean)


def main() -> None:
    """Builds, installs and runs both."""
    with tempfile.TemporaryDirectory() as folder:
        dist = Path(folder) / "dist"
        call(*UV, "build", "--quiet", "--out-dir", dist, ROOT)
        built = sorted(dist.glob("vae_sweep-*"))
        check = ("tool", "run", "--quiet", "twine", "check", "--strict")
        call(*UV, *check, *built)
        for made in built:
            place = Path(folder) / made.suffix[1:]
            place.mkdir()
            use(made, place)
    print("release-check: sdist and wheel install, and README's commands run", flush=True)


if __name__ == "__main__":
    main()
