"""Imports go down only: the layout of docs/architecture.md, read from the source."""

import subprocess
import sys
from graphlib import TopologicalSorter

import layout
import pytest

# folders of vae_sweep/ and modules beside them: each imports only from lines below
LINES = (
    ("__main__", "run", "predict", "show", "status", "report", "export", "dashboard"),
    ("api", "testing"),
    ("grid",),
    ("reporting",),
    ("training",),
    ("records",),
    ("theory",),
    ("data",),
    ("vae",),
    ("command",),
    ("config",),
    ("options",),
    ("files", "system"),
    ("errors",),
)
LINE = {unit: number for number, units in enumerate(LINES) for unit in units}


def test_every_folder_and_module_has_a_line():
    assert set(layout.graph()) == set(LINE)


@pytest.mark.parametrize("unit", LINE)
def test_imports_go_down(unit):
    for other in layout.graph()[unit]:
        assert LINE[other] > LINE[unit], f"{unit} imports {other}"


def test_no_circles():
    TopologicalSorter(layout.graph(str)).prepare()


def test_every_import_is_read():
    assert {"training.batches", "training.metrics", "vae.cohort"} <= layout.imports(
        "training.step"
    )
    assert "grid" in layout.imports("run")  # inside a function


def test_the_layout_stays_small():
    assert layout.floors(layout.graph()) <= 10
    assert sum(map(len, layout.graph().values())) <= 100
    assert len(layout.entries()) <= 27


LIGHT = {
    "config": ("torch", "pandas", "wandb", "hydra"),
    "run": ("torch", "pandas", "wandb", "matplotlib"),
    "predict": ("torch", "pandas", "wandb", "matplotlib"),
    "records.results": ("torch", "wandb", "matplotlib"),
    "records.loggers": ("torch", "wandb"),
    "reporting.overview": ("torch", "wandb", "matplotlib.pyplot"),
    "grid": ("wandb", "torchvision"),
    "api": ("torch", "wandb", "matplotlib"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LIGHT)
def test_heavy_imports_wait_until_they_are_used(name):
    code = f"import sys, vae_sweep.{name}; print(*sys.modules)"
    command = [sys.executable, "-c", code]
    modules = subprocess.run(command, capture_output=True, text=True, check=True)
    assert not set(LIGHT[name]) & set(modules.stdout.split())


def test_hydra_plugin_is_light():
    plugin = "hydra_plugins.vae_sweep_launcher"
    code = (
        f"import sys, {plugin}.grid_launcher, {plugin}.slurm_launcher; print(*sys.modules)"
    )
    command = [sys.executable, "-c", code]
    modules = subprocess.run(command, capture_output=True, text=True, check=True)
    assert not {"torch", "pandas", "wandb", "submitit"} & set(modules.stdout.split())
