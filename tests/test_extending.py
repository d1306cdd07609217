"""The options of docs/extending.md together, in an empty folder, against a wheel.

test_pages.py runs each command of the page."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
import yaml
from hatchling.builders.wheel import WheelBuilder
from pages import blocks

ROOT = Path(__file__).parents[1]
LONGEST = 15  # lines of code that an option takes

# what a command of the page gets besides, so that it takes seconds
SHORT = ("train.steps=4", "train.eval_every=2", "train.batch_size=16", "train.device=cpu")
IMAGES = ("data.images=200", "data.size=16", "data.val_images=20", "data.test_images=20")


BLOCKS = list(blocks("docs/extending.md"))
FILES = [block for block in BLOCKS if block.language == "python"]
COMMANDS = [
    line for block in BLOCKS if block.language == "sh" for line in block.code.splitlines()
]


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """What a wheel of this checkout installs."""
    folder = tmp_path_factory.mktemp("site")
    [wheel] = WheelBuilder(str(ROOT)).build(directory=str(folder / "dist"))
    with zipfile.ZipFile(wheel) as file:
        file.extractall(folder / "installed")
    return folder / "installed"


class User:
    """An empty folder with the page's files, and commands in it."""

    def __init__(self, folder: Path, site: Path):
        self.folder = folder
        for block in FILES:
            (folder / block.file).write_text(block.code)
        self.env = {
            **os.environ,
            "PYTHONPATH": str(site),
            "VAE_SWEEP_CACHE": str(folder / "cache"),
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "160",
        }

    def start(self, *typed: str, **options) -> subprocess.Popen[str]:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        options = {"cwd": self.folder, "env": self.env, **pipes, **options}
        return subprocess.Popen([sys.executable, *typed], **options)

    def __call__(self, *typed: str, code: int = 0, **options) -> str:
        process = self.start(*typed, **options)
        out, err = process.communicate(timeout=400)
        assert process.returncode == code, out + err
        assert "Traceback" not in err
        return out + err


@pytest.fixture
def user(tmp_path, site) -> User:
    return User(tmp_path, site)


@pytest.mark.parametrize("block", FILES, ids=lambda block: block.file)
def test_an_option_takes_few_lines(block):
    lines = [line for line in block.code.splitlines()[1:] if line.strip()]
    assert len(lines) <= LONGEST


def test_the_page_has_every_kind():
    said = " ".join(COMMANDS)
    for group in (
        "norm",
        "head",
        "likelihood",
        "reduction",
        "beta",
        "model",
        "data",
        "log",
    ):
        assert re.search(rf"\b{group}=\S*\b[a-z_]+:\w+", said), group
    assert "metric=[default,mae:MAE]" in said


def test_a_check_of_the_page_refuses_what_is_wrong(user):
    (user.folder / "wrong.py").write_text(
        "import torch, vae_sweep\nfrom vae_sweep import testing\n"
        "testing.check_head(vae_sweep.Head(torch.tanh, -1, 2))"
    )
    process = user.start("wrong.py")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "high=2 where they end at 1" in err


# --- one of each kind, at once ---

EVERYTHING = (
    *("norm=robust:ROBUST", "target=zscore", "head=tanh,softsign:SOFTSIGN"),
    *("likelihood=student:Student", "reduction=half_mean:HALF_MEAN"),
    *("beta=cosine:cosine", "beta.share=0.25", "model=residual:Residual"),
    *("model.latent=4", "model.width=8", "model.blocks=1", "data=squares:Squares"),
    *("data.images=200", "data.val_images=20", "data.test_images=20"),
    *("metric=[default,mae:MAE]", "log=[wandb,film:Film]"),
    *("log.wandb.mode=offline", "train.workers=2", "train.cohort=1"),
    *("train.steps=60", "train.eval_every=10", "train.batch_size=16", "train.device=cpu"),
)


def grid(sweep: str) -> list[str]:
    return ["-m", "vae_sweep.run", *EVERYTHING, f"sweep={sweep}"]


def rows(folder: Path) -> dict[str, str]:
    """run_id -> metrics.csv."""
    found = folder.glob("*/metrics.csv")
    return {path.parent.name: path.read_text() for path in found}


@pytest.fixture(scope="module")
def trained(tmp_path_factory, site) -> User:
    """A user whose grid of everything has been trained in two processes."""
    user = User(tmp_path_factory.mktemp("everything"), site)
    out = user(*grid("whole"))
    assert "training 2 points on cpu: 2 processes" in out
    return user


@pytest.mark.slow
def test_options_of_every_kind_train_together(trained):
    folder = trained.folder / "runs/whole"
    found = rows(folder)
    assert len(found) == 2
    for run_id, text in found.items():
        table = list(csv.DictReader(text.splitlines()))
        assert [int(row["step"]) for row in table] == [0, 10, 20, 30, 40, 50, 60]
        assert 0 < float(table[-1]["val/mae"]) < 255
        stated = yaml.safe_load((folder / run_id / "config.yaml").read_text())
        assert sorted(stated["sources"]) == sorted(
            {
                *("robust", "student", "half_mean", "cosine", "residual", "squares", "mae"),
                *(["softsign"] if "softsign" in run_id else []),
            }
        )
        film = folder / "film" / run_id
        told = [*map(json.loads, (film / "rows.jsonl").read_text().splitlines())]
        assert [row["step"] for row in told] == [0, 10, 20, 25, 30, 40, 50, 60]
        last = film / "samples-000060.png"
        assert last.read_bytes() == (folder / run_id / "samples.png").read_bytes()
        assert len(list(film.glob("*.png"))) == 2 * 7
    assert len(list((folder / "wandb").glob("offline-run-*"))) == 2


@pytest.mark.slow
def test_prediction_results_and_report_know_them(trained):
    typed = [x for x in EVERYTHING if not x.startswith(("train.workers", "log"))]
    out = trained("-m", "vae_sweep.predict", *typed, "sweep=whole")
    assert "softsign:SOFTSIGN" in out
    predicted = trained.folder / "runs/whole/predicted.csv"
    lines = list(csv.DictReader(predicted.read_text().splitlines()))
    assert {line["head"] for line in lines} == {"tanh", "softsign:SOFTSIGN"}
    # z-scored targets lie beyond softsign's range, and what a head caps is known exactly
    assert all(float(line["psnr_cap"]) > 0 for line in lines)


@pytest.mark.slow
def test_records_are_read_where_the_code_is_not(trained, tmp_path):
    runs = trained.folder / "runs/whole"
    code = (
        f"import sys, vae_sweep; r = vae_sweep.results({str(runs)!r}); "
        "print(len(r.finals), sorted(set(r.finals['head'])), "
        "bool((r.curves['val/mae'] > 0).all())); "
        "from vae_sweep.records.results import table; "
        "print(table(r).columns.tolist()); "
        "assert not {'softsign', 'torch', 'mae'} & set(sys.modules)"
    )
    out = trained("-c", code, cwd=tmp_path)
    assert "2 ['softsign:SOFTSIGN', 'tanh'] True" in out
    assert "val mean absolute error (8-bit levels)" in out
    page = tmp_path / "page.html"
    trained("-m", "vae_sweep.report", str(runs), "--output", str(page), cwd=tmp_path)
    text = page.read_text()
    assert "softsign:SOFTSIGN" in text
    assert "val mean <br>absolute error <br>(8-bit levels)" in text


@pytest.mark.long
def test_a_killed_grid_goes_on_to_the_same_numbers(trained):
    killed = trained.folder / "runs/killed"
    process = trained.start(*grid("killed"), start_new_session=True)
    deadline = time.monotonic() + 120
    while not any(text.count("\n") > 3 for text in rows(killed).values()):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert any(text.count("\n") < 8 for text in rows(killed).values()) or len(
        rows(killed)
    ) < len(rows(trained.folder / "runs/whole"))
    out = trained(*grid("killed"))
    assert re.search(r"go(es)? on from step", out)
    assert rows(killed) == rows(trained.folder / "runs/whole")
    again = trained(*grid("killed"))
    assert "2 points have ended already" in again
    assert "training" not in again


@pytest.mark.slow
def test_an_edited_option_is_another_run(trained):
    path = trained.folder / "softsign.py"
    before = path.read_text()
    try:
        path.write_text(before.replace("low=-1", "low=-1.0"))
        out = trained(*grid("whole"))
    finally:
        path.write_text(before)
    assert "1 point has ended already" in out  # that of tanh
    assert "training 1 point" in out
    assert len(rows(trained.folder / "runs/whole")) == 3


@pytest.mark.slow
def test_the_console_script_finds_the_working_folder_too(user):
    """Its own folder stands first in sys.path, not the user's."""
    (user.folder / "bin").mkdir()
    script = user.folder / "bin/vae-sweep"
    script.write_text("import sys\nfrom vae_sweep.run import main\nsys.exit(main())\n")
    typed = (
        "head=softsign:SOFTSIGN",
        "model=small",
        "log=[]",
        "train.workers=2",
        "seed=0,1",
    )
    user(str(script), *typed, *SHORT, *IMAGES)
    found = user.folder.glob("runs/main/*/summary.json")
    assert ['"status": "finished"' in path.read_text() for path in found] == [True, True]
