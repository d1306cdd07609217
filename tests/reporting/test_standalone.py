"""Exported folders, loaded by a Python that has no vae_sweep, against the runs."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from helpers import TINY, leave_signals, make_config, make_images
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image
from torch import Tensor

import vae_sweep
from vae_sweep import UserError
from vae_sweep.config import RunConfig
from vae_sweep.data.decode import decode
from vae_sweep.export import main
from vae_sweep.records.checkpoint import State
from vae_sweep.records.run_folder import RunFolder
from vae_sweep.records.summary import Summary
from vae_sweep.reporting import standalone
from vae_sweep.vae import heads, networks, normalize, point
from vae_sweep.vae.cohort import Cohort

BLOCKED = """
import json, sys, warnings

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("vae_sweep", "hydra_plugins"):
            raise ImportError(f"{name} is not installed here")

sys.meta_path.insert(0, Blocked())
warnings.simplefilter("error")
import torch
torch.manual_seed(0)
out = {}
for folder in sys.argv[1:]:
    sys.path.insert(0, folder)
    from model import load
    vae = load()
    with open(f"{folder}/config.json") as file:
        config = json.load(file)
    c, h, w = config["shape"]
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (3, c, h, w), generator=draw, dtype=torch.uint8)
    z = torch.randn(3, config["latent"], generator=draw)
    with torch.no_grad():
        mean, logvar = vae.encode(images)
        assert torch.equal(mean, vae.encode(images / 255)[0]) or mean.dtype == torch.float64
        found = [mean, logvar, vae.decode(z.to(mean)), vae.reconstruct(images)]
        some = vae.sample(5, generator=torch.Generator().manual_seed(1))
    assert some.shape == (5, c, h, w) and some.min() >= 0 and some.max() <= 1
    names = [n for n, _ in vae.named_parameters()]
    out[folder] = [t.double().tolist() for t in found], names
    sys.path.remove(folder)
    for name in list(sys.modules):
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(folder):
            del sys.modules[name]
assert "vae_sweep" not in sys.modules
json.dump(out, sys.stdout)
"""
OWN = """
from torch import nn

from blocks_of_a_test.deep import Deep


class Net(nn.Module):
    def __init__(self, shape, latent, *, width: int = 5, sizes: list[int] = [3, 4]):
        super().__init__()
        size = shape[0] * shape[1] * shape[2]
        self.inner = nn.Sequential(nn.Flatten(), nn.Linear(size, width), Deep(width))
        self.ends, self.out = nn.Linear(width, 2 * latent), nn.Linear(latent, size)
        self.shape = shape

    def encode(self, x):
        return self.ends(self.inner(x)).chunk(2, 1)

    def decode(self, z):
        return self.out(z).unflatten(1, self.shape)
"""
NETWORKS = {
    "conv": (),
    "odd": ("model.kernel=5", "model.widths=[4,6,8]"),
    "odd sides": ("model.kernel=3", "model.depth=2", "model.activation=leaky_relu"),
    "batch": ("model.norm_layer=batch", "model.depth=2", "model.activation=gelu"),
    "residual": (
        *("model.norm_layer=group", "model.depth=3", "model.residual=true"),
        *("model.widths=[16,32]", "model.activation=relu"),
    ),
    "mlp": ("model=mlp", "model.latent=4", "model.widths=[12,6]", "model.activation=tanh"),
    "linear": ("model=linear", "model.latent=1"),
    "own": ("model=net_of_a_test:Net", "model.latent=3", "model.width=7"),
}
SHAPES = {"odd": (1, 9, 7), "odd sides": (3, 7, 8), "mlp": (1, 4, 4)}


def untrained(folder: Path, shape: tuple[int, int, int], *options: str) -> Path:
    """A run's folder as training leaves it, with weights and statistics at random."""
    small = TINY if not any(o.startswith("model=") for o in options) else TINY[4:]
    config = make_config(*small, "data=npz", "data.path=x.npz", f"runs={folder}", *options)
    images = make_images(40, shape[0], 16)
    constants = point.point(config, normalize.histograms(images), shape[1] * shape[2])
    cohort = Cohort([config], [constants], shape)
    draw = torch.Generator().manual_seed(config.seed + 1)
    with torch.no_grad():
        for t in (*cohort.parameters(), *cohort.buffers()):
            if t.is_floating_point():  # of a variance, too
                t.copy_(t + 0.5 * torch.rand(t.shape, generator=draw, dtype=t.dtype))
    run = RunFolder(config, "", None)
    about = {"status": "running", "run_id": config.run_id, "shape": shape}
    about["normalization"] = constants.normalization()
    run.open(Summary.of(about), ("step",))
    state = {name: value[0] for name, value in cohort.state_dict().items()}
    run.save_state(State(8, state))
    run.finish(Summary.of(about).but(status="finished", steps=8, final={}))
    return run.path


@pytest.fixture
def own_network(tmp_path, monkeypatch) -> None:
    (tmp_path / "blocks_of_a_test").mkdir()
    (tmp_path / "blocks_of_a_test/__init__.py").touch()
    deep = "from .more import nn\n\nclass Deep(nn.Linear):\n"
    deep += "    def __init__(self, n):\n        super().__init__(n, n)\n"
    (tmp_path / "blocks_of_a_test/deep.py").write_text(deep)
    (tmp_path / "blocks_of_a_test/more.py").write_text("from torch import nn\n")
    (tmp_path / "net_of_a_test.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))


def alone(folders: list[Path]) -> dict[str, tuple[list[Tensor], list[str]]]:
    """What the folders compute in a Python without vae_sweep, and their parameters."""
    command = [sys.executable, "-c", BLOCKED, *map(str, folders)]
    environment = {**os.environ, "PYTHONPATH": ""}
    done = subprocess.run(
        command, capture_output=True, text=True, cwd="/", env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    read = json.loads(done.stdout)
    return {k: ([*map(torch.tensor, v)], names) for k, (v, names) in read.items()}


def compare(pairs: dict[Path, Path]) -> None:
    """Exported folder -> run."""
    found = alone([*pairs])
    for out, run in pairs.items():
        model = vae_sweep.load(run)
        draw = torch.Generator().manual_seed(0)
        shape = (3, *model.shape)
        images = torch.randint(0, 256, shape, generator=draw, dtype=torch.uint8)
        z = torch.randn(3, model.latent, generator=draw)
        expected = *model.encode(images), model.decode(z), model.reconstruct(images)
        for a, b in zip(found[str(out)][0], expected, strict=True):
            torch.testing.assert_close(a.to(b), b, rtol=1e-4, atol=1e-5)


def check_style(folders: list[Path]) -> None:
    files = [str(folder / "model.py") for folder in folders]
    for command in (["check", "--select", "E4,E7,E9,F,I,UP,B,RUF"], ["format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--isolated", *files],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout


@pytest.mark.slow
@pytest.mark.usefixtures("own_network")
def test_every_network_head_and_norm_without_vae_sweep(tmp_path):
    norms = [*normalize.OURS]
    pairs = {}
    for i, (name, options) in enumerate(NETWORKS.items()):
        for k, head in enumerate(heads.OURS):
            if i and (i + k) % 7 > 2:  # all heads of the first, and three of each other one
                continue
            norm, target = norms[(i + k) % 5], [*norms, "same"][(i + 2 * k) % 6]
            point = *options, f"norm={norm}", f"target={target}", f"head={head}"
            run = untrained(tmp_path / "runs", SHAPES.get(name, (3, 8, 8)), *point)
            pairs[tmp_path / f"out-{i}-{k}"] = run
    others = [
        ("likelihood=continuous_bernoulli", "target=unit", f"head={head}", "norm=zscore")
        for head in ("sigmoid", "tanh_rescaled")
    ]
    others += [("train.precision=fp64", "head=tanh"), ("train.precision=fp64",)]
    for k, options in enumerate(others):
        run = untrained(tmp_path / "runs", (3, 8, 8), *options)
        pairs[tmp_path / f"out-other-{k}"] = run
    for out, run in pairs.items():
        assert vae_sweep.export(run, out) == out
    compare(pairs)
    check_style([*pairs])


@pytest.mark.slow
@settings(max_examples=12)
@given(
    st.sampled_from([1, 2, 3]),
    st.integers(5, 12),
    st.integers(5, 12),
    st.sampled_from([3, 4, 5]),
    st.lists(st.integers(1, 6), min_size=1, max_size=2),
    st.integers(1, 2),
    st.sampled_from(["none", "batch", "group"]),
)
def test_convolutions_of_any_size(
    tmp_path_factory, channels, height, width, kernel, widths, depth, norm_layer
):
    """`export` itself compares what it wrote with the run."""
    folder = tmp_path_factory.mktemp("any")
    options = f"model.kernel={kernel}", f"model.depth={depth}", f"model.widths={widths}"
    options += (f"model.norm_layer={norm_layer}",)
    shape = (channels, height, width)
    run = untrained(folder, shape, *(o.replace(" ", "") for o in options))
    vae_sweep.export(run, folder / "out")


@pytest.fixture
def run(tmp_path) -> Path:
    return untrained(tmp_path / "runs", (3, 8, 8), "head=tanh")


@pytest.mark.slow
def test_model_py_has_nothing_that_its_network_has_not(run, tmp_path):
    out = vae_sweep.export(run, tmp_path / "out")
    text = (out / "model.py").read_text()
    for absent in ("Residual", "Norm", "clip", "standardize", "float64", "functional"):
        assert absent not in text
    tree = ast.parse(text)
    assert sum(isinstance(node, ast.If) for node in ast.walk(tree)) == 1  # of uint8
    assert "nn.Conv2d(3, 4, 4, stride=2, padding=1)," in text
    assert "return self.gain * torch.tanh(a) + self.bias" in text
    other = untrained(
        *(tmp_path / "runs", (3, 8, 8), "head=linear", "model.depth=2"),
        *("model.residual=true", "model.norm_layer=batch"),
    )
    text = (vae_sweep.export(other, tmp_path / "other") / "model.py").read_text()
    assert "class Residual(nn.Sequential)" in text
    assert "pixels = self.gain * a + self.bias" in text
    assert "pixels.clamp(0, 1) if clip else pixels" in text


@pytest.mark.slow
@pytest.mark.usefixtures("own_network")
def test_a_users_network_comes_with_its_source_and_what_that_imports(tmp_path):
    options = ("model=net_of_a_test:Net", "model.latent=3", "model.sizes=[5,6]")
    run = untrained(tmp_path / "runs", (3, 8, 8), *options)
    out = vae_sweep.export(run, tmp_path / "out")
    names = sorted(str(p.relative_to(out)) for p in out.rglob("*.py"))
    assert names == [
        *(f"blocks_of_a_test/{name}.py" for name in ("__init__", "deep", "more")),
        *("model.py", "net_of_a_test.py"),
    ]
    text = (out / "model.py").read_text()
    assert "from net_of_a_test import Net" in text
    assert "self.network = Net((3, 8, 8), 3, width=5, sizes=[5, 6])" in text
    card = (out / "README.md").read_text()
    assert "| `net_of_a_test.py` | the network's source |" in card
    assert "vae_sweep, which" not in card


def test_folders_that_hold_something_are_refused(tmp_path, monkeypatch, capsys):
    run = untrained(tmp_path / "runs", (3, 8, 8), "head=tanh")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").write_text("mine")
    monkeypatch.setattr("sys.argv", ["export", str(run), str(tmp_path / "full")])
    leave_signals(monkeypatch)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {tmp_path}/full must be a new or an empty folder")
    assert said.count("\n") == 1
    assert [p.name for p in (tmp_path / "full").iterdir()] == ["mine.txt"]
    (tmp_path / "empty").mkdir()
    assert vae_sweep.export(run, tmp_path / "empty").is_dir()
    assert not list(tmp_path.glob(".*"))


def test_where_nothing_can_be_written_is_said(tmp_path):
    run = untrained(tmp_path / "runs", (3, 8, 8), "head=tanh")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError) as refused:
        vae_sweep.export(run, tmp_path / "file/model")
    where = f"the export is written to {tmp_path}/file/model"
    assert str(refused.value) == f"{where}: File exists; name another folder"


def test_what_cannot_be_written_down_is_refused(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "heads_of_a_test.py").write_text(
        "from torch.nn.functional import softsign\nfrom vae_sweep import Head\n"
        "NAMED = Head(softsign, low=-1, high=1)\n"
        "LAMBDA = Head(lambda a: softsign(a), low=-1, high=1)\n"
    )
    run = untrained(tmp_path / "runs", (3, 8, 8), "head=heads_of_a_test:LAMBDA")
    with pytest.raises(UserError, match="LAMBDA has a function that is neither"):
        vae_sweep.export(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    run = untrained(tmp_path / "runs", (3, 8, 8), "head=heads_of_a_test:NAMED")
    text = (vae_sweep.export(run, tmp_path / "out") / "model.py").read_text()
    assert "self.gain * F.softsign(a) + self.bias" in text
    check_style([tmp_path / "out"])


def test_a_model_that_computes_otherwise_is_not_left_there(run, tmp_path, monkeypatch):
    real = standalone._source
    monkeypatch.setattr(
        standalone, "_source", lambda *given: real(*given).replace("SiLU", "ReLU")
    )
    with pytest.raises(UserError, match=r"encode of the written model.py differs"):
        vae_sweep.export(run, tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["runs"]


@pytest.mark.parametrize("channels", [1, 3])
def test_the_cards_code_reads_a_photo_as_training_does(channels, tmp_path, monkeypatch):
    run = untrained(tmp_path / "runs", (channels, 8, 8), "head=tanh")
    out = vae_sweep.export(run, tmp_path / "out")
    levels = np.random.default_rng(0).integers(0, 256, (30, 41, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.fromarray(levels).save(out / "photo.jpg", exif=exif)
    expected, _ = decode((out / "photo.jpg").read_bytes(), (0, 0, 0), 8, channels == 1)

    monkeypatch.chdir(out)
    monkeypatch.syspath_prepend(str(out))
    monkeypatch.setitem(sys.modules, "model", standalone._imported(out / "model.py"))
    blocks = re.findall(r"```python\n(.*?)```", (out / "README.md").read_text(), re.DOTALL)
    names = {}
    for block in blocks:
        exec(block, names)
    assert names["samples"].shape == (8, channels, 8, 8)
    np.testing.assert_array_equal(names["images"].numpy(), expected[None])
    with Image.open("reconstruction.png") as image:
        written = torch.from_numpy(np.array(image)).reshape(8, 8, channels) / 255
    assert (written.permute(2, 0, 1) - names["pixels"]).abs().max() <= 0.5 / 255 + 1e-6


@pytest.mark.slow
def test_the_card_has_the_numbers(tmp_path):
    golden = Path(__file__).parents[1] / "golden"
    shutil.copytree(golden / "schema3", tmp_path / "runs")
    shutil.copy(golden / "images.npz", tmp_path)
    [run] = (tmp_path / "runs/finished").glob("zscore-tanh-gaussian_learned*")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(tmp_path)
        out = vae_sweep.export(run, tmp_path / "out")
    card = (out / "README.md").read_text()
    final = json.loads((run / "summary.json").read_text())["final"]
    predicted = json.loads((run / "summary.json").read_text())["predicted"]
    val, test = final["val/psnr"], final["test/psnr"]
    assert f"| PSNR (dB) | {val:.2f} | {test:.2f} | {predicted['psnr']:.2f} |" in card
    assert predicted["sentence"] in card
    assert "python -m vae_sweep.run model=small" in card
    assert "torch 2.15.0" in card
    assert "![Validation images above" in card
    assert (out / "reconstructions.png").read_bytes() == (
        run / "reconstructions.png"
    ).read_bytes()
    front, _ = re.match(r"---\n(.*?)---\n(.*)", card, re.DOTALL).groups()
    assert yaml.safe_load(front) == {"library_name": "pytorch", "tags": ["vae"]}
    assert RunConfig.model_validate(
        {
            k: v
            for k, v in yaml.safe_load((out / "config.yaml").read_text()).items()
            if k not in ("schema", "run_id")
        }
    )
    block, _ = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", block], cwd=out, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_every_network_of_ours_has_a_template():
    folder = Path(standalone.__file__).parent / "templates"
    assert {f"{name}.py.j2" for name in networks.OURS} <= {p.name for p in folder.iterdir()}
