"""Hydra's own tests of launchers, on the launcher `grid`."""

import pytest
from hydra.core.singleton import Singleton
from hydra.test_utils.launcher_common_tests import IntegrationTestSuite, LauncherTestSuite

# its sweeps do not say which version's working folder they want
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:Future Hydra versions"),
]


@pytest.fixture(autouse=True)
def unspecified_version(monkeypatch):
    """As it is when no test before has told Hydra its version."""
    instances = Singleton._instances  # pyright: ignore
    kept = {k: v for k, v in instances.items() if k.__name__ != "VersionBase"}
    monkeypatch.setattr(Singleton, "_instances", kept)


@pytest.mark.parametrize(("launcher_name", "overrides"), [("grid", [])])
class TestGridLauncher(LauncherTestSuite):
    """Sweeps in this process."""


@pytest.mark.parametrize(
    ("task_launcher_cfg", "extra_flags"), [({}, ["-m", "hydra/launcher=grid"])]
)
class TestGridLauncherIntegration(IntegrationTestSuite):
    """Whole applications in processes of their own."""
