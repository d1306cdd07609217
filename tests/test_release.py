"""What the sdist and the wheel hold, against a rule; `make release-check` installs them."""

import re
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder

ROOT = Path(__file__).parents[1]
ABOUT = {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE"}


@pytest.fixture(scope="module")
def tracked() -> set[str]:
    """The files of the repository that git has."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("needs a checkout")
    return {name for name in done.stdout.splitlines() if (ROOT / name).is_file()}


def test_the_sdist_is_the_repository(tmp_path, tracked):
    [made] = SdistBuilder(str(ROOT)).build(directory=str(tmp_path))
    with tarfile.open(made) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    assert names - {"PKG-INFO"} == tracked
    assert "PKG-INFO" in names


def test_the_wheel_is_the_package_and_its_settings(tmp_path, tracked):
    [made] = WheelBuilder(str(ROOT)).build(directory=str(tmp_path))
    with zipfile.ZipFile(made) as file:
        names = set(file.namelist())
        metadata = next(name for name in names if name.endswith("METADATA"))
        said = file.read(metadata).decode()
    folder = metadata.removesuffix("METADATA")
    expected = {
        name for name in tracked if name.startswith(("vae_sweep/", "hydra_plugins/"))
    }
    expected |= {f"vae_sweep/{name}" for name in tracked if name.startswith("conf/")}
    expected |= {
        f"vae_sweep/{name}"
        for name in tracked
        if name.startswith("experiments/") and name.count("/") == 1
        if name.endswith(".yaml")
    }
    assert names == expected | {folder + name for name in ABOUT}
    assert "License-Expression: MIT" in said
    needed = re.findall(r"^Requires-Dist: ([\w-]+)(?!.*extra ==)", said, re.MULTILINE)
    assert "torch" in needed
    assert not {"torchvision", "trackio", "tensorboard", "pytest", "sphinx"} & {*needed}
