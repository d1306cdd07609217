"""The launcher `grid`, in Hydra's own terms."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra import initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

import vae_sweep
from hydra_plugins.vae_sweep_launcher import grid_launcher
from hydra_plugins.vae_sweep_launcher.compositions import Compositions
from hydra_plugins.vae_sweep_launcher.grid_launcher import GridLauncher
from vae_sweep.command.entry import CONF

pytestmark = pytest.mark.slow

JOBS = [
    ["norm=zscore", "head=tanh"],
    ["norm=zscore", "head=tanh", "seed=3", "beta.sigma=20"],
    ["beta=matched", "beta.sigma=12", "norm=zscore", "head=tanh", "seed=4"],
    ["model=small", "model.widths=[4,8]", "+train.new=1", "~log.reconstructions"],
    ["seed=5", "seed=6", "train.clip=1e-3", "data.cache='a b'"],
    ["norm=zscore", "head=tanh", "seed=3", "beta.sigma=20"],
    ["hydra.job.name=other", "seed=7"],
    ["norm=unit", "head=linear", "target=raw255", "reduction=mean", "beta=warmup"],
    ["norm=unit", "norm=zscore"],
    ["data=image_folder", "norm=unit", "hydra/job_logging=default"],
    ["data=mnist", "beta=cyclical", "beta.cycles=2", "model=small", "norm=minus1_1"],
]


def test_hydra_finds_the_plugin():
    found = [launcher.__name__ for launcher in Plugins.instance().discover(Launcher)]
    assert GridLauncher.__name__ in found


@pytest.fixture
def loader() -> Iterator[ConfigLoader]:
    """As Hydra gives it to a launcher."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield GlobalHydra.instance().config_loader()


def master_of(loader: ConfigLoader) -> DictConfig:
    return loader.load_configuration("config", [], run_mode=RunMode.MULTIRUN)


@pytest.mark.parametrize("loaded_twice", [False, True])
def test_a_job_that_is_put_together_is_hydras_own(loader, loaded_twice, monkeypatch):
    master = master_of(loader)
    if loaded_twice:  # as Hydra's scans of plugins do: the class is another than it was
        monkeypatch.setattr(grid_launcher, "GridLauncherConf", object())
    compositions = Compositions(loader, master)
    put_together = 0
    for lines in JOBS:
        job = compositions.job(lines)
        put_together += job.choices is not None
        ours = compositions.hydras(lines, job)
        expected = loader.load_sweep_config(master, lines)
        assert OmegaConf.to_container(ours) == OmegaConf.to_container(expected)
        plain = OmegaConf.to_container(expected)
        assert job.config == {k: v for k, v in plain.items() if k != "hydra"}
        ours.seed = 99  # a job's own: the next must not see it
    assert put_together == 7  # the others add, delete, repeat, or set what is Hydra's


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("trane.steps=1", "trane"),
        ("norm=foo", "norm/foo"),
        ("train.stps=1", "stps"),
        ("train.steps.more=1", "steps"),
    ],
)
def test_what_hydra_refuses_is_refused(loader, override, named):
    master = master_of(loader)
    for load in (loader.load_sweep_config, lambda m, o: Compositions(loader, m).job(o)):
        with pytest.raises(Exception, match=named):
            load(master, [override])


def test_the_plugin_enters_by_hydras_public_doors():
    folder = Path(grid_launcher.__file__).parent
    sources = [*folder.glob("*.py"), *Path(vae_sweep.__file__).parent.rglob("*.py")]
    assert len(sources) > 20
    for path in sources:
        assert "hydra._internal" not in path.read_text()
