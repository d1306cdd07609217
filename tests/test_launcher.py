"""The launcher `grid`, in Hydra's own terms."""

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.types import RunMode
from omegaconf import OmegaConf

from hydra_plugins.vae_sweep_launcher.compositions import Compositions
from hydra_plugins.vae_sweep_launcher.grid_launcher import GridLauncher
from vae_sweep.command import CONF

JOBS = [
    ["norm=zscore", "head=tanh"],
    ["norm=zscore", "head=tanh", "seed=3", "beta.value=0.5"],
    ["beta=matched", "beta.sigma=12", "norm=zscore", "head=tanh", "seed=4"],
    ["model=small", "model.widths=[4,8]", "+train.new=1", "~log.reconstructions"],
    ["seed=5", "seed=6", "train.clip=1e-3", "data.cache='a b'"],
    ["norm=zscore", "head=tanh", "seed=3", "beta.value=0.5"],
    ["hydra.job.name=other", "seed=7"],
    ["norm=unit", "head=linear", "target=raw255", "reduction=mean", "beta=warmup"],
    ["norm=unit", "norm=zscore"],
    ["data=image_folder", "norm=unit", "hydra/job_logging=default"],
    ["data=mnist", "beta=cyclical", "beta.cycles=2", "model=small", "norm=minus1_1"],
]


def test_hydra_finds_the_plugin():
    found = [launcher.__name__ for launcher in Plugins.instance().discover(Launcher)]
    assert GridLauncher.__name__ in found


def test_a_remembered_composition_is_hydras_own():
    loader = ConfigLoaderImpl(create_config_search_path(str(CONF)))
    master = loader.load_configuration("config", [], run_mode=RunMode.MULTIRUN)
    compositions = Compositions(loader)
    for job in JOBS:
        ours = compositions.load_sweep_config(master, job)
        expected = loader.load_sweep_config(master, job)
        assert OmegaConf.to_container(ours) == OmegaConf.to_container(expected)
        ours.seed = 99  # a job's own: the next must not see it


@pytest.mark.parametrize(
    ("override", "named"),
    [("trane.steps=1", "trane"), ("norm=foo", "norm/foo"), ("train.stps=1", "stps")],
)
def test_what_hydra_refuses_is_refused(override, named):
    loader = ConfigLoaderImpl(create_config_search_path(str(CONF)))
    master = loader.load_configuration("config", [], run_mode=RunMode.MULTIRUN)
    for each in (loader, Compositions(loader)):
        with pytest.raises(Exception, match=named):
            each.load_sweep_config(master, [override])
