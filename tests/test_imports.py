"""Imports go down only: DESIGN's floors, read from the source."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import vae_sweep

PACKAGE = Path(vae_sweep.__file__).parent
FLOORS = {
    0: ("config", "files", "stop", "system", "console", "scratch"),
    1: (
        "normalize",
        "heads",
        "objective",
        "likelihoods",
        "schedules",
        "dead_leaves",
        "layers",
        "cache",
        "image_folder",
        "decode",
        "layout",
        "data",
        "wandb_mode",
        "spectrum",
        "process",
        "captured",
        "arguments",
        "experiment",
        "recorded",
    ),
    2: (
        *("models", "theory", "cohort", "metrics", "trainer", "records", "loggers"),
        *("dataset", "feed", "footprint", "tune", "feasible"),
    ),
    3: (
        *("predictions", "train", "results", "progress", "points", "plan", "workers"),
        "intervals",
    ),
    4: (
        *("grid", "panels", "plots", "prediction_table", "command"),
        *("report_page", "report_tables", "report_figures"),
        *("published", "balance", "figures", "ledger", "answers"),
    ),
    5: ("run", "predict", "report"),
}
FLOOR = {name: floor for floor, names in FLOORS.items() for name in names}


def imported(name: str) -> set[str]:
    """The modules of this package that a module imports anywhere in its text."""
    found = set()
    for node in ast.walk(ast.parse((PACKAGE / f"{name}.py").read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "vae_sweep":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(
            "vae_sweep."
        ):
            found.add((node.module or "").split(".")[1])
        elif isinstance(node, ast.Import):
            parts = [alias.name.split(".") for alias in node.names]
            found |= {p[1] for p in parts if p[0] == "vae_sweep" and len(p) > 1}
    return found


def test_every_module_has_a_floor():
    modules = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    assert modules == set(FLOOR)


@pytest.mark.parametrize("name", FLOOR)
def test_imports_go_down(name):
    for other in imported(name):
        assert FLOOR[other] <= FLOOR[name], f"{name} imports {other}"


def test_no_circles():
    TopologicalSorter({name: imported(name) for name in FLOOR}).prepare()


def test_every_import_is_read():
    assert {"cohort", "metrics", "feed"} <= imported("trainer")


LIGHT = {
    "config": ("torch", "pandas", "wandb", "hydra"),
    "run": ("torch", "pandas", "wandb", "matplotlib"),
    "predict": ("torch", "pandas", "wandb", "matplotlib"),
    "results": ("torch", "wandb", "matplotlib"),
    "plots": ("torch", "wandb"),
    "loggers": ("torch", "wandb"),
    "grid": ("wandb", "torchvision"),
}


@pytest.mark.parametrize("name", LIGHT)
def test_heavy_imports_wait_until_they_are_used(name):
    code = f"import sys, vae_sweep.{name}; print(*sys.modules)"
    command = [sys.executable, "-c", code]
    modules = subprocess.run(command, capture_output=True, text=True, check=True)
    assert not set(LIGHT[name]) & set(modules.stdout.split())


def test_hydra_plugin_is_light():
    code = "import sys, hydra_plugins.vae_sweep_launcher.grid_launcher; print(*sys.modules)"
    command = [sys.executable, "-c", code]
    modules = subprocess.run(command, capture_output=True, text=True, check=True)
    assert not {"torch", "pandas", "wandb"} & set(modules.stdout.split())
