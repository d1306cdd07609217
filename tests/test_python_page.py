"""docs/python.md as a user has it: its blocks in turn, beside a folder of photos."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import make_images
from PIL import Image

PAGE = (Path(__file__).parents[1] / "docs/python.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
LAST = """
assert predicted["psnr_cap"].notna().all() and len(predicted) == 4
assert found.finals["status"].tolist() == ["finished"] * 4
assert mean.shape == (1, 64) and pixels.shape == (1, 32, 32, 3)
assert drawn.shape == (16, 32, 32, 3) and between.shape == (8, 32, 32, 3)
assert z.grad.abs().sum() > 0
assert np.abs(again.permute(0, 2, 3, 1).numpy() - pixels).max() < 1e-4
print("all of it")
"""


@pytest.mark.slow
def test_the_page_runs_as_it_is(tmp_path):
    (tmp_path / "photos").mkdir()
    for i, image in enumerate(make_images(60, size=40).permute(0, 2, 3, 1).numpy()):
        Image.fromarray(np.asarray(image)).save(tmp_path / f"photos/{i}.png")
    # small enough to train in seconds
    code = "\n".join(BLOCKS).replace('"steps": 500', '"steps": 2, "batch_size": 8')
    assert code.count('"steps": 2,') == 1
    (tmp_path / "page.py").write_text(code + LAST)
    environment = {**os.environ, "VAE_SWEEP_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "page.py"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all of it" in done.stdout
    assert (tmp_path / "photo_vae/README.md").exists()
    with Image.open(tmp_path / "reconstruction.png") as image:
        assert image.size == (32, 32)
