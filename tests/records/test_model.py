"""A loaded run against what its training recorded."""

import json
import re
import shutil
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import TINY, load_images, make_config, make_images
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import vae_sweep
from vae_sweep import UserError, grid
from vae_sweep.data import dataset
from vae_sweep.records.model import LAYOUTS, Model, to_uint8
from vae_sweep.reporting.console import Console

GOLDEN = Path(__file__).parents[1] / "golden"
OWN = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, shape, latent, *, width: int = 6):
        super().__init__()
        size = shape[0] * shape[1] * shape[2]
        norm = nn.BatchNorm1d(width)
        self.inner = nn.Sequential(nn.Flatten(), nn.Linear(size, width), norm)
        self.ends = nn.Linear(width, 2 * latent)
        self.out = nn.Linear(latent, size)
        self.shape = shape

    def encode(self, x):
        return self.ends(self.inner(x).relu()).chunk(2, 1)

    def decode(self, z):
        return self.out(z).unflatten(1, self.shape)
"""
POINTS = {
    "zscore and tanh": ("norm=zscore", "head=tanh"),
    "other target": ("norm=zscore", "target=minus1_1", "head=tanh_rescaled"),
    "standardized": ("norm=unit", "head=tanh_standardized", "beta.value=0.01"),
    "learned noise": ("likelihood=gaussian_learned", "seed=3"),
    "another mean": (
        *("likelihood=continuous_bernoulli", "target=unit", "head=sigmoid"),
        "norm=raw255",
    ),
    "binarized": ("data.binarize=true", "target=unit", "head=sigmoid", "norm=unit"),
    "from the data": ("model.output_init=data", "head=linear"),
    "batch norm": ("model.norm_layer=batch", "model.depth=2", "model.residual=true"),
    "linear": ("model=linear", "model.latent=4"),
    "mlp": ("model=mlp", "model.latent=4", "model.widths=[12,6]"),
    "own": ("model=own_net_of_a_run:Net", "model.latent=4", "norm=zscore_global"),
    "double": ("train.precision=fp64",),
    "bfloat16": ("train.precision=bf16",),
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """What of POINTS -> (folder of the run, its validation images)."""
    folder = tmp_path_factory.mktemp("runs")
    images = make_images(120).permute(0, 2, 3, 1).numpy()
    np.savez(folder / "images.npz", images=images)
    (folder / "own_net_of_a_run.py").write_text(OWN)
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(str(folder))
        common = ("data=npz", f"data.path={folder}/images.npz", f"runs={folder}/runs")
        common += ("train.steps=6", "train.eval_every=3", f"data.cache={folder}/cache")
        configs = {
            name: make_config(
                *(TINY[4:] if point[0].startswith("model=") else TINY),
                *common,
                *point,
            )
            for name, point in POINTS.items()
        }
        ended = grid.train([*configs.values()], Console(120, quiet=True), table=False)
        val = {name: load_images(config.data).val for name, config in configs.items()}
        (folder / "images.npz").unlink()  # a run's folder is all that is needed
        folders = {name: end.folder for name, end in zip(configs, ended, strict=True)}
        yield {name: (folders[name], val[name]) for name in configs}


def pictured(folder: Path, count: int) -> np.ndarray:
    """The reconstructions of reconstructions.png, uint8 [n, H, W, C]."""
    picture = np.asarray(Image.open(folder / "reconstructions.png"))
    return np.stack(np.split(picture[len(picture) // 2 :], count, axis=1))


def last_row(folder: Path) -> dict[str, float]:
    return json.loads((folder / "summary.json").read_text())["final"]


@pytest.mark.slow
@pytest.mark.parametrize("name", POINTS)
def test_it_is_the_network_that_was_evaluated(trained, name):
    folder, val = trained[name]
    model = vae_sweep.load(folder)
    shown = val[: model.config.log.reconstructions]
    made = model.reconstruct(shown, seed=model.config.seed)
    found = to_uint8(made).permute(0, 2, 3, 1).numpy()
    off = np.abs(found.astype(int) - pictured(folder, len(shown)))
    assert off.max() <= (name == "bfloat16")  # z is rounded otherwise on its way
    drawn = to_uint8(model.sample(16, seed=model.config.seed))
    rows = np.split(np.asarray(Image.open(folder / "samples.png")), 2)
    tiles = np.concatenate([np.split(row, 8, axis=1) for row in rows])
    off = np.abs(drawn.astype(int) - tiles)
    assert off.max() <= (name == "bfloat16")
    mean, logvar = model.encode(val)
    kl = 0.5 * (mean**2 + logvar.exp() - logvar - 1).sum(1).mean()
    assert kl.item() == pytest.approx(last_row(folder)["val/kl"], rel=1e-5)
    again = model.decode(mean)
    torch.testing.assert_close(again, model.reconstruct(val))
    assert model.status == "finished"
    assert repr(model).endswith("8x8x3 images, 4 latents, finished at step 6>")


@pytest.mark.slow
def test_what_the_summary_states_of_the_images(trained):
    folder, _ = trained["other target"]
    stated = json.loads((folder / "summary.json").read_text())
    u = make_images(120).double() / 255  # of which the training split is a part
    norm = stated["normalization"]["norm"]
    assert stated["shape"] == [3, 8, 8]
    assert norm["shift"] == pytest.approx(u.mean((0, 2, 3)).tolist(), abs=0.05)
    assert norm["scale"] == pytest.approx(u.std((0, 2, 3)).tolist(), abs=0.05)
    target = stated["normalization"]["target"]
    assert target == {"shift": [0.5] * 3, "scale": [0.5] * 3}
    assert "zscore" not in stated["normalization"]
    folder, _ = trained["standardized"]
    stated = json.loads((folder / "summary.json").read_text())["normalization"]
    assert stated["zscore"]["shift"] == pytest.approx(norm["shift"])


@pytest.fixture(scope="module")
def model(trained) -> Model:
    return vae_sweep.load(trained["zscore and tanh"][0])


@pytest.fixture(scope="module")
def val(trained) -> torch.Tensor:
    return trained["zscore and tanh"][1]


@pytest.mark.slow
def test_arrays_are_channels_last_and_tensors_channels_first(model, val):
    expected = model.encode(val)
    assert expected.mean.shape == (len(val), 4)
    last = val.permute(0, 2, 3, 1)
    for images in (val, last, val / 255, last.double() / 255):
        assert torch.equal(model.encode(images).mean, expected.mean)
        array = model.encode(images.numpy())
        assert np.array_equal(array.mean, expected.mean.numpy())
        assert model.reconstruct(images).shape == val.shape
        assert model.reconstruct(images.numpy()).shape == last.shape
    assert model.decode(expected.mean).shape == val.shape
    assert model.decode(expected.mean.tolist()).shape == last.shape
    one = model.reconstruct(Image.fromarray(last[0].numpy()))
    np.testing.assert_allclose(one, model.reconstruct(last[:1].numpy()), atol=1e-6)
    assert model.decode(np.zeros(4)).shape == (1, 8, 8, 3)


@pytest.mark.slow
def test_pixels_are_clipped_unless_told_otherwise(trained):
    model = vae_sweep.load(trained["from the data"][0])  # linear
    z = 40 * torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    free, clipped = model.decode(z, clip=False), model.decode(z)
    assert free.min() < 0
    assert free.max() > 1
    assert torch.equal(clipped, free.clamp(0, 1))
    assert to_uint8(free).tolist() == to_uint8(free.numpy()).tolist()


@pytest.mark.slow
def test_samples_are_decoded_from_the_prior(model):
    some = model.sample(300, seed=1)
    assert some.shape == (300, 8, 8, 3)
    assert some.dtype == np.float32
    assert np.array_equal(some[:5], model.sample(300, seed=1)[:5])
    assert not np.array_equal(some, model.sample(300, seed=2))
    latents = torch.randn(4000, 4, generator=torch.Generator().manual_seed(0))
    of_prior = model.decode(latents).permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(some.mean(0), of_prior.mean(0), atol=0.05)
    with pytest.raises(UserError, match="at least one"):
        model.sample(0)


@pytest.mark.slow
def test_gradients_flow_where_they_are_asked_for(model, val):
    assert not model.reconstruct(val).requires_grad
    z = torch.zeros(2, 4, requires_grad=True)
    model.decode(z).sum().backward()
    assert z.grad.abs().sum() > 0
    pixels = (val[:2] / 255).requires_grad_()
    model.encode(pixels).mean.sum().backward()
    assert pixels.grad.abs().sum() > 0
    assert not any(p.requires_grad for p in model.cohort.parameters())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("images", "said"),
    [
        (np.zeros((2, 8, 9, 3), np.uint8), "as [n, 8, 8, 3] or [n, 3, 8, 8], got [2, 8, 9"),
        (np.zeros((0, 8, 8, 3), np.uint8), "got [0, 8, 8, 3]"),
        (np.zeros((8, 8), np.uint8), "8x8 with 3 channels"),
        (np.zeros((2, 8, 8, 3), int), "got torch.int64"),
        (np.full((2, 8, 8, 3), 255.0), "got 255 to 255; divide levels by 255"),
        (np.full((2, 8, 8, 3), -1.0), "before any normalization"),
        (np.full((2, 8, 8, 3), np.nan), "got nan to nan"),
        ([np.zeros((8, 8, 3)), np.zeros((9, 8, 3))], "must be one array"),
        ("photo.png", "must be one array"),
    ],
)
def test_what_are_no_images_is_refused(model, images, said):
    with pytest.raises(UserError, match=re.escape(said)):
        model.encode(images)


@pytest.mark.slow
def test_latents_of_another_size_are_refused(model):
    with pytest.raises(
        UserError, match=re.escape("z must be [n, 4], got torch.float64 [5")
    ):
        model.decode(np.zeros(5))


# --- layouts, by the shapes alone ---


def laid_out(images: torch.Tensor, shape, layout=None) -> torch.Tensor:
    return Model._laid_out(SimpleNamespace(shape=shape), images, layout)


@given(
    st.tuples(st.sampled_from([1, 3]), st.integers(2, 5), st.integers(2, 5)),
    st.integers(1, 4),
    st.sampled_from(LAYOUTS),
)
def test_every_layout_is_understood_or_asked_for(shape, n, layout):
    n = n if "n" in layout else 1
    if "c" not in layout:
        shape = (1, *shape[1:])
    images = torch.rand(n, *shape)
    sizes = dict(zip("nchw", range(4), strict=True))
    ones = [a for a in "nchw" if a not in layout]
    given = images.permute([sizes[a] for a in (*layout, *ones)])
    given = given.reshape([images.shape[sizes[a]] for a in layout])
    assert torch.equal(laid_out(given, shape, layout), images)
    try:
        assert torch.equal(laid_out(given, shape), images)
    except UserError as error:
        assert "may be" in str(error)  # noqa: PT017
        assert shape[0] in shape[1:] or shape[0] == 1


def test_what_may_be_either_is_asked_for():
    images = torch.rand(2, 3, 3, 3)
    with pytest.raises(UserError, match="may be nhwc or nchw; say which: layout='nhwc'"):
        laid_out(images, (3, 3, 3))
    assert torch.equal(laid_out(images, (3, 3, 3), "nchw"), images)
    with pytest.raises(UserError, match=r"layout is one of nhwc, .*, got 'NHWC'"):
        laid_out(images, (3, 3, 3), "NHWC")


def test_one_gray_image_is_one_however_it_lies():
    image = torch.rand(1, 5, 4)
    assert torch.equal(laid_out(image, (1, 5, 4)), image[None])  # chw, or n = 1
    assert torch.equal(laid_out(image[0], (1, 5, 4)), image[None])


# --- runs of every kind and age ---


@pytest.fixture
def golden(tmp_path, monkeypatch) -> Path:
    for name in ("schema1", "schema2", "schema3", "folder"):
        shutil.copytree(GOLDEN / name, tmp_path / name)
    shutil.copy(GOLDEN / "images.npz", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def loaded(folder: Path) -> tuple[Model, list[str]]:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        return vae_sweep.load(folder), [str(w.message) for w in told]


@pytest.mark.slow
def test_runs_of_earlier_versions_are_loaded_by_their_images(golden):
    folders = [path.parent for path in golden.glob("schema*/*/*/state.safetensors")]
    assert len(folders) == 27
    for folder in folders:
        model, told = loaded(folder)
        assert bool(told) == (folder.parent.name in ("interrupted", "diverged"))
        val = dataset.load(model.config.data, lambda _: None).images.val
        mean, logvar = model.encode(val)
        kl = 0.5 * (mean**2 + logvar.exp() - logvar - 1).sum(1).mean().item()
        rows = np.genfromtxt(folder / "metrics.csv", delimiter=",", names=True)
        [row] = np.atleast_1d(rows)[-1:]
        assert row["step"] == model.step
        assert kl == pytest.approx(float(row["valkl"]), rel=1e-4, abs=1e-6)
        shown = val[: model.config.log.reconstructions]
        made = to_uint8(model.reconstruct(shown.numpy(), seed=model.config.seed))
        same = np.array_equal(made, pictured(folder, len(shown)))
        # whose running statistics lagged behind what was drawn
        lagged = folder.parts[-3:-1] == ("schema1", "interrupted")
        assert same or (lagged and "tanh_standardized" in folder.name)


@pytest.mark.slow
def test_of_earlier_versions_other_images_or_none_are_refused(golden):
    [folder] = golden.glob("schema3/finished/zscore-linear-*")
    np.savez("images.npz", images=make_images(120, seed=7).permute(0, 2, 3, 1).numpy())
    with pytest.raises(UserError, match=r"these have changed \(data=npz, images.npz\)"):
        vae_sweep.load(folder)
    Path("images.npz").unlink()
    with pytest.raises(UserError, match=r"images.npz.*; bring them back to load it"):
        vae_sweep.load(folder)


@pytest.mark.slow
def test_a_run_that_did_not_finish_says_so(golden):
    [folder] = golden.glob("schema3/interrupted/zscore-linear-*")
    model, told = loaded(folder)
    assert told == [f"{folder.name} is interrupted: its weights are those of step 20 of 40"]
    assert (model.status, model.step) == ("interrupted", 20)
    [folder] = golden.glob("schema3/diverged/*-7c72b9de")
    model, [said] = loaded(folder)
    assert "is diverged: its weights are those of step 0 of 40" in said


@pytest.mark.slow
def test_weights_that_cannot_be_used_are_refused(golden):
    [folder] = golden.glob("schema3/finished/zscore-linear-*")
    [other] = golden.glob("schema3/finished/unit-linear-*")
    weights = folder / "state.safetensors"
    kept = weights.read_bytes()
    shutil.copy(other / weights.name, weights)
    with pytest.raises(UserError, match=r"another configuration or other images than"):
        vae_sweep.load(folder)
    weights.write_bytes(kept[:-1])
    with pytest.raises(UserError, match=r"state.safetensors is truncated or damaged"):
        vae_sweep.load(folder)
    weights.write_bytes(kept[:-5] + bytes(5))
    with pytest.raises(UserError, match=r"was altered"):
        vae_sweep.load(folder)
    weights.unlink()
    with pytest.raises(UserError, match=r"has no weights \(state.safetensors\)"):
        vae_sweep.load(folder)


@pytest.mark.slow
def test_a_users_network_must_be_the_one_that_was_trained(trained, tmp_path, monkeypatch):
    folder, _ = trained["own"]
    config = (folder / "config.yaml").read_text()
    copy = tmp_path / folder.name
    shutil.copytree(folder, copy)
    digest = re.search(r"own_net_of_a_run: (\w+)", config)[1]
    (copy / "config.yaml").write_text(config.replace(digest, "a" * 64))
    with pytest.raises(UserError, match=r"config.yaml was altered"):
        vae_sweep.load(copy)
    monkeypatch.setattr("vae_sweep.options.sha256", lambda module: "f" * 64)
    with pytest.raises(UserError, match=r"trained with another own_net_of_a_run .*ffff"):
        vae_sweep.load(folder)


@pytest.mark.slow
def test_a_device_that_there_is_not(trained):
    with pytest.raises(UserError, match="device=nowhere: "):
        vae_sweep.load(trained["zscore and tanh"][0], device="nowhere")


@pytest.mark.slow
def test_by_its_hash(trained):
    folder, _ = trained["mlp"]
    found = vae_sweep.load(folder.name[-8:], runs=folder.parents[1])
    assert found.run_id == folder.name
    [run] = vae_sweep.results(folder.parent, [folder.name]).runs
    assert vae_sweep.load(run).folder == folder
