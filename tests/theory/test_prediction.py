"""What is said of points before they are trained, on images small enough to check."""

import errno
import json
import math
import os
import tarfile
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import TINY, Cli, make_config, make_images
from PIL import Image
from sklearn.decomposition import PCA

from vae_sweep.data.dataset import Dataset
from vae_sweep.data.spectrum import Spectra
from vae_sweep.data.splits import Splits
from vae_sweep.errors import UserError
from vae_sweep.records import results
from vae_sweep.reporting import prediction_table
from vae_sweep.reporting.prediction_table import frame
from vae_sweep.theory.prediction import Prediction, predict
from vae_sweep.vae.point import point

ARCHIVE = Path(__file__).parents[3] / "shared/data/cifar10-jpeg.tar.xz"


def dataset_of(images: torch.Tensor, cache: Path) -> Dataset:
    spectra = Spectra(images.numpy(), "images", cache)
    return Dataset(Splits(*[images.numpy()] * 3), "images", spectra)


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Dataset:
    return dataset_of(make_images(300), tmp_path_factory.mktemp("cache"))


def predicted(dataset: Dataset, *overrides: str) -> Prediction:
    config = make_config(*TINY, *overrides)
    _, height, width = dataset.shape
    return predict(config, point(config, dataset.counts, height * width), dataset)


NORMS = ("unit", "minus1_1", "zscore", "zscore_global", "raw255")


def check_against_numpy(dataset: Dataset, norm: str, found: Prediction, latent: int, beta):
    """Every number again from the images as floats, by numpy and scikit-learn."""
    u = dataset.images.train.numpy() / 255
    n, pixels = len(u), u[0].size
    mean, std = u.mean((0, 2, 3)), u.std((0, 2, 3))
    shift, scale = {
        "unit": (0 * mean, 1 + 0 * std),
        "minus1_1": (0 * mean + 0.5, 0 * std + 0.5),
        "zscore": (mean, std),
        "zscore_global": (0 * mean + u.mean(), 0 * std + u.std()),
        "raw255": (0 * mean, 0 * std + 1 / 255),
    }[norm]
    t = (u - shift[:, None, None]) / scale[:, None, None]
    near = {"rel": 1e-6, "abs": 1e-12}
    assert found.target_low == pytest.approx(t.min(), **near)
    assert found.target_high == pytest.approx(t.max(), **near)
    missed = np.abs(t) - np.clip(np.abs(t), None, 1)  # tanh
    assert found.floor_mse == pytest.approx((missed**2).mean(), **near)
    in_pixels = ((missed * scale[:, None, None]) ** 2).mean()
    assert found.floor_mse_pixel == pytest.approx(in_pixels, **near)
    if missed.any():
        assert found.outside == pytest.approx((missed > 1e-9).mean(), **near)
        assert found.psnr_cap == pytest.approx(-10 * math.log10(in_pixels), **near)

    v = beta / 2  # sum reduction, in target space
    sigma = 255 * math.sqrt(v * (scale**2).mean())
    assert found.sigma == pytest.approx(sigma, **near)
    assert found.beta_pixel == pytest.approx(beta * (scale**2).mean(), **near)
    pca = PCA(svd_solver="full").fit(t.reshape(n, -1))
    lam = pca.explained_variance_ * (n - 1) / n  # it divides by n - 1
    used = (lam > v) & (np.arange(len(lam)) < latent)
    error = np.where(used, v, lam)
    kl = 0.5 * np.log(lam[used] / v).sum()
    assert found.active_units == used.sum()
    assert found.kl == pytest.approx(kl, **near)
    shares = (pca.components_**2).reshape(len(lam), 3, -1).sum(2)
    mse_pixel = (error * (shares * scale**2).sum(1)).sum() / pixels
    assert found.mse_pixel == pytest.approx(mse_pixel, **near)
    assert found.psnr == pytest.approx(-10 * math.log10(mse_pixel), **near)
    elbo = -pixels / 2 * math.log(2 * math.pi * v) - error.sum() / (2 * v) - kl
    elbo -= pixels / 3 * np.log(scale).sum()
    assert found.bits_per_dim == pytest.approx(8 - elbo / pixels / math.log(2), **near)
    elbo = -pixels / 2 * (math.log(2 * math.pi * mse_pixel) + 1) - kl
    bits = 8 - elbo / pixels / math.log(2)
    assert found.bits_per_dim_calibrated == pytest.approx(bits, **near)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("beta", [0.1, 1.0, 40.0])
def test_every_number_agrees_with_numpy_and_scikit_learn(small, norm, beta):
    found = predicted(small, f"norm={norm}", "head=tanh", f"beta.value={beta}")
    check_against_numpy(small, norm, found, 4, beta)


@pytest.mark.slow
@pytest.mark.skipif(not ARCHIVE.exists(), reason="no archive of CIFAR-10's JPEGs")
def test_on_real_images_too(tmp_path):
    """CIFAR-10, re-encoded as JPEG: the first 400 images, at their own size."""
    images = []
    with tarfile.open(ARCHIVE) as archive:
        for member in archive:
            if member.name.endswith(".jpg"):
                image = Image.open(archive.extractfile(member)).convert("RGB")
                images.append(np.asarray(image).transpose(2, 0, 1))
            if len(images) == 400:
                break
    dataset = dataset_of(torch.from_numpy(np.stack(images)), tmp_path)
    for norm in ("minus1_1", "zscore"):
        common = (f"norm={norm}", "head=tanh", "model.latent=32")
        found = predicted(dataset, *common)
        check_against_numpy(dataset, norm, found, 32, 1.0)


def test_a_floor_is_told_in_one_sentence(small):
    found = predicted(small, "norm=zscore", "head=tanh")
    share = f"{100 * found.outside:.2g} % of the training targets lie outside tanh's range"
    assert share in found.sentence
    cap = f"no network can pass {found.psnr_cap:.2f} dB on the training images, "
    assert cap in found.sentence
    found = predicted(small, "norm=minus1_1", "head=tanh")
    assert found.sentence.startswith("tanh reaches every target;")
    assert found.psnr_cap == math.inf


def test_each_split_has_the_cap_of_its_own_pixels(tmp_path):
    """tanh reaches z-scored targets in [-1, 1]; beyond, the error is (|t| - 1) * scale."""
    splits = [make_images(40), make_images(7, seed=1), make_images(9, seed=2) // 2 + 60]
    spectra = Spectra(splits[0].numpy(), "images", tmp_path)
    dataset = Dataset(Splits(*(split.numpy() for split in splits)), "images", spectra)
    found = predicted(dataset, "norm=zscore", "head=tanh")
    u = [split.numpy() / 255 for split in splits]
    mean, std = (f(u[0], (0, 2, 3), keepdims=True) for f in (np.mean, np.std))
    beyond = [np.maximum(np.abs((x - mean) / std) - 1, 0) * std for x in u]
    expected = [-10 * math.log10((each**2).mean()) for each in beyond]
    assert len({round(cap, 2) for cap in expected}) == 3
    caps = (found.psnr_cap, found.psnr_cap_val, found.psnr_cap_test)
    assert caps == pytest.approx(expected)
    said = "{:.2f} dB on the training images, {:.2f} dB on the val images, "
    said += "{:.2f} dB on the test images;"
    assert f"no network can pass {said.format(*expected)}" in found.sentence


def test_a_head_may_reach_the_training_targets_alone(tmp_path):
    """hardtanh under raw255: levels 0 and 1 are targets in its range, others are not."""
    dark, bright = make_images(20) % 2, make_images(5)
    spectra = Spectra(dark.numpy(), "images", tmp_path)
    dataset = Dataset(Splits(*(x.numpy() for x in (dark, bright, dark))), "images", spectra)
    found = predicted(dataset, "norm=raw255", "head=hardtanh")
    assert found.psnr_cap == found.psnr_cap_test == math.inf
    assert found.psnr_cap_val < 10
    said = "0 % of the training targets lie outside hardtanh's range: no network can pass "
    said += f"{found.psnr_cap_val:.2f} dB on the val images;"
    assert found.sentence.startswith(said)


def test_images_that_do_not_vary_are_told_of(tmp_path):
    dataset = dataset_of(torch.full((20, 3, 8, 8), 77, dtype=torch.uint8), tmp_path)
    for likelihood in ("mse", "gaussian_learned"):
        found = predicted(dataset, "norm=unit", f"likelihood={likelihood}")
        assert "and the images do not vary: expect all 4 latents to be" in found.sentence
        assert (found.kl, found.psnr, found.curve) == (0, math.inf, ([], []))


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["minus1_1", "zscore"])
def test_mean_reduction_names_the_noise_it_implies(norm, tmp_path):
    """N / D = 3072 / 32 = 96 times sum's beta: v = 48 in target space."""
    config = make_config("norm=" + norm, "reduction=mean", "model.latent=32")
    dataset = dataset_of(make_images(20, size=32), tmp_path)
    constants = point(config, dataset.counts, 1024)
    found = predict(config, constants, dataset)
    scale = 0.5 if norm == "minus1_1" else constants.target.scale.square().mean().sqrt()
    assert found.sigma == pytest.approx(255 * math.sqrt(48) * float(scale))
    assert f"implied noise {found.sigma:.0f}/255" in found.sentence
    assert "reduction=mean multiplies beta by 96" in found.sentence
    assert ("latents to be unused" in found.sentence) == (found.active_units < 16)


def test_sentences_for_too_little_noise_none_and_unknown_optima(small):
    assert "almost no effect" in predicted(small, "norm=raw255").sentence
    assert "autoencoder" in predicted(small, "beta.value=0").sentence
    common = ("norm=unit", "head=sigmoid")
    found = predicted(small, *common, "likelihood=bernoulli")
    assert "no linear optimum in closed form" in found.sentence
    assert math.isnan(found.kl)
    assert math.isnan(found.sigma)


def test_gaussian_noises_of_their_own_have_an_optimum(small):
    """The same for all of one target's scales; a mass has no density's bits."""
    found = {
        (name, norm): predicted(small, f"likelihood={name}", f"norm={norm}")
        for name in ("gaussian_learned", "gaussian_optimal", "discretized_gaussian")
        for norm in ("unit", "minus1_1")
    }
    first = found["gaussian_learned", "unit"]
    for (name, _), other in found.items():
        assert other.sigma == pytest.approx(first.sigma)
        assert other.kl == pytest.approx(first.kl)
        assert other.sigma == pytest.approx(255 * math.sqrt(other.mse_pixel))
        assert math.isnan(other.bits_per_dim) == (name == "discretized_gaussian")
        assert other.bits_per_dim_calibrated == pytest.approx(first.bits_per_dim)


def test_images_too_large_for_a_covariance_keep_their_floors(small, monkeypatch):
    monkeypatch.setattr("vae_sweep.data.spectrum.LARGEST", 10)
    found = predicted(small, "norm=zscore", "head=tanh")
    assert found.floor_mse > 0
    assert math.isnan(found.kl)
    assert found.curve == ([], [])


# --- the command ---


@pytest.fixture(scope="module")
def cli(tmp_path_factory) -> Cli:
    return Cli(tmp_path_factory.mktemp("predict"), "predict")


SMALL = ("data=npz", "data.path=images.npz", *TINY)


@pytest.mark.slow
def test_the_command_prints_a_table_and_writes_it_and_trains_nothing(cli):
    out, _ = cli("-m", "norm=unit,zscore", "head=tanh,linear", "beta=0.1,1", *SMALL)
    written = pd.read_csv(cli.folder / "runs/main/predicted.csv")
    assert len(written) == 8
    assert set(written.columns) >= {*results.IDENTITY, *Prediction._fields} - {"curve"}
    assert not list((cli.folder / "runs").glob("*/*/"))
    assert "no network can pass" in out
    assert "predicted.csv" in out
    assert "norm=unit (4 points): every" not in out
    one = written.query("norm == 'zscore' and head == 'tanh' and beta == 1").iloc[0]
    assert f"{one['psnr_cap']:.2f}" in out


@pytest.mark.slow
def test_a_narrow_terminal_gets_whole_cells(cli, monkeypatch):
    monkeypatch.setitem(cli.env, "COLUMNS", "80")
    monkeypatch.setitem(cli.env, "FORCE_COLOR", "1")
    out, _ = cli("-m", "norm=unit,zscore", "head=tanh,linear", *SMALL, "sweep=narrow")
    assert "…" not in out


@pytest.mark.slow
def test_a_point_of_two_sweeps_is_in_both_tables(cli):
    grid = ("-m", "norm=unit", "head=tanh,linear", "likelihood=mse,l1", "beta=1,2", *SMALL)
    cli(*grid, "sweep=one,two")
    one, two = (pd.read_csv(cli.folder / f"runs/{s}/predicted.csv") for s in ("one", "two"))
    assert len(one) == 8
    pd.testing.assert_frame_equal(one, two)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["norm=none"], "norm"),
        (["likelihood=bernoulli"], "needs target=unit, got target=zscore"),
        (["data.path=absent.npz"], "absent.npz"),
        (["runs=images.npz"], "set runs=FOLDER"),
    ],
)
def test_mistakes_are_told_in_a_line(cli, arguments, complaint):
    common = [
        s for s in SMALL if s.split("=")[0] not in {a.split("=")[0] for a in arguments}
    ]
    _, err = cli(*common, *arguments, code=2)
    assert complaint in err
    assert len(err.strip().splitlines()) <= 2


@pytest.mark.slow
def test_a_trained_point_keeps_what_was_predicted(tmp_path):
    run = Cli(tmp_path)
    overrides = (*SMALL, "train.steps=4", "train.eval_every=4", "beta=constant")
    out, _ = run("norm=zscore", "head=tanh", *overrides)
    [folder] = run.runs()
    kept = json.loads((folder / "summary.json").read_text())["predicted"]
    path = f"data.path={tmp_path / 'images.npz'}"
    cache = f"data.cache={tmp_path / 'cache'}"
    asked = make_config(*overrides, "head=tanh", path, cache)
    [fresh] = frame([asked], print).to_dict("records")
    for name in ("kl", "floor_mse", "sigma", "bits_per_dim", "sentence"):
        assert kept[name] == pytest.approx(fresh[name])
    assert len(kept["curve"][0]) == len(kept["curve"][1]) > 10
    assert "pred." in out
    assert f"{fresh['kl']:.1f}" in out


@pytest.mark.parametrize(
    ("number", "code"), [(errno.EACCES, 0), (errno.EROFS, 0), (errno.ENOSPC, 2)]
)
def test_a_table_that_cannot_be_kept_is_printed_and_that_is_said(
    npz, tmp_path, capsys, monkeypatch, number, code
):
    def refuse(path, content):
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(prediction_table, "write_atomically", refuse)
    paths = (f"data.path={npz()}", f"runs={tmp_path}/runs")
    config = make_config(*TINY, "data=npz", *paths)
    refused = pytest.raises(UserError, match="set runs=FOLDER") if code else nullcontext()
    with refused:
        prediction_table.run([config])
    out, err = capsys.readouterr()
    assert "bits/dim" in out
    assert ("was not written to" in err) == (code == 0)
