import itertools
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers import config_values, make_images, write_run
from PIL import Image
from study import published
from study.published import Study

from vae_sweep.config import validate
from vae_sweep.errors import UserError
from vae_sweep.records import results

SUMMARY = {
    "status": "finished",
    "diverged_at": None,
    "beta": 1.0,
    "implied_sigma": 45.0,
    "psnr_cap": None,
    "predicted": {
        "curve": [[0.0, 2.0], [5.0, 7.5]],
        "kl": 3.25,
        "sentence": "tanh, reaching; 4",
    },
    "steps": 20,
    "cohort_size": 2,
    "seconds": 8.0,
    "device": "cpu",
    "command": "python -m vae_sweep.run -m seed=0,1",
    "commit": "abc",
    "versions": {"torch": "2.15.0"},
}


@pytest.fixture
def sweep(tmp_path, npz) -> Path:
    """runs/s with two seeds of zscore and minus1_1, each with a picture of its own."""
    data = {"name": "npz", "path": str(npz()), "val_images": 10, "test_images": 10}
    data["cache"] = str(tmp_path / "cache")
    folder = tmp_path / "runs" / "s"
    for k, (norm, seed) in enumerate(
        [(n, s) for n in ("zscore", "minus1_1") for s in (0, 1)]
    ):
        values = config_values(norm=norm, seed=seed, data=data, runs=str(tmp_path / "runs"))
        run = folder / validate(values).run_id
        run.mkdir(parents=True)
        (run / "config.yaml").write_text(json.dumps(values))  # YAML holds JSON
        rows = f"0,0,1,2,0.1,{k + 10},1,1,1,1,\n20,1,1,2,0.123456789,{k + 20},1,1,1,1,3.5\n"
        header = "step,epoch,train/loss,val/loss,val/mse_pixel,val/psnr,val/kl,val/elbo"
        header += ",val/active_units,val/bits_per_dim_calibrated,test/psnr\n"
        (run / "metrics.csv").write_text(header + rows)
        last = dict(
            zip(
                header.strip().split(","),
                map(float, rows.split()[1].split(",")),
                strict=True,
            )
        )
        (run / "summary.json").write_text(json.dumps({**SUMMARY, "final": last}))
        picture = np.full((16, 24, 3), 7, np.uint8)
        picture[8:] = 100 + k
        Image.fromarray(picture).save(run / "reconstructions.png")
    return folder


def test_what_was_published_is_what_was_measured(sweep, tmp_path):
    published.publish(sweep, tmp_path / "out", "my images")
    read, measured = published.load(tmp_path / "out"), results.load(sweep)
    finals = read.results.finals
    pd.testing.assert_frame_equal(finals, measured.finals, check_dtype=False, rtol=1e-5)
    seen = [c for c in measured.curves if not c.startswith("train/") and c != "test/psnr"]
    expected = measured.curves[seen]
    pd.testing.assert_frame_equal(
        read.results.curves[seen], expected, check_dtype=False, rtol=1e-5
    )
    assert finals["val/mse_pixel"].iloc[0] == 0.123457  # six digits
    assert set(finals["sentence"]) == {"tanh, reaching; 4"}
    # all share one curve, which is kept once
    assert read.results.theory[["kl", "psnr"]].to_numpy().tolist() == [[0, 5], [2, 7.5]]


def test_the_histogram_is_that_of_the_training_images(sweep, npz):
    read = published.load(sweep)
    pixels = np.load(npz())["images"]
    assert read.counts.shape == (3, 256)
    assert int(read.counts.sum()) == 100 * 8 * 8 * 3
    # the splits are of the same images, so that no level is more frequent than in all
    for c in range(3):
        whole = np.bincount(pixels[..., c].ravel(), minlength=256)
        assert (read.counts[c].numpy() <= whole).all()


def test_pictures_are_those_of_the_lowest_seed(sweep):
    read = published.load(sweep)
    seeds = read.results.finals.set_index("run_id")["seed"]
    assert sorted(read.pictures) == sorted(seeds[seeds == 0].index)
    assert (read.originals == 7).all()
    values = {int(picture[0, 0, 0]) for picture in read.pictures.values()}
    assert values == {100, 102}
    assert all(picture.shape == (8, 24, 3) for picture in read.pictures.values())


def test_the_caption_says_what_it_rests_on(sweep, tmp_path):
    published.publish(sweep, tmp_path / "out", "my images")
    read = published.load(tmp_path / "out")
    for part in ("my images", "100 training", "10 test", "20 steps of batch 8", "2 seeds"):
        assert part in read.caption
    assert "torch 2.15.0" in read.caption
    assert "norm_layer=none" in read.caption
    assert read.about["command"] == SUMMARY["command"]
    assert read.about["commit"] == "abc"
    assert read.about["run_seconds"] == 16  # 4 runs, two by two, of 8 s


def test_runs_without_pictures_are_published_too(sweep):
    for path in sweep.glob("*/reconstructions.png"):
        path.unlink()
    assert published.load(sweep).pictures == {}


def test_several_data_sets_are_published_without_histogram_and_pictures(sweep, tmp_path):
    data = {"name": "npz", "path": str(tmp_path / "gray.npz"), "val_images": 20}
    data |= {"test_images": 30, "cache": str(tmp_path / "cache")}
    np.savez(data["path"], images=make_images(150, 1, 12)[:, 0].numpy())
    write_run(sweep, {**SUMMARY, "final": {"val/psnr": 9.5}}, data=data)
    published.publish(sweep, tmp_path / "out")
    assert not (tmp_path / "out" / "histogram.csv").exists()
    assert not (tmp_path / "out" / "reconstructions.png").exists()
    read = published.load(tmp_path / "out")
    assert len(read.results.finals) == 5
    assert (read.pictures, len(read.histogram), read.originals.size) == ({}, 0, 0)
    sizes = {tuple(s["shape"]): (s["train"], s["test"]) for s in read.about["images"]}
    assert sizes == {(3, 8, 8): (100, 10), (1, 12, 12): (100, 30)}
    assert "100 training, 30 test images of 1x12x12" in read.caption
    assert read.caption.startswith("npz: ")


def test_an_unfinished_sweep_is_refused(sweep, tmp_path):
    for path in sweep.glob("*/summary.json"):
        path.unlink()
    with pytest.raises(UserError, match="ended"):
        published.publish(sweep, tmp_path / "out")


def test_what_is_no_sweep_is_refused(tmp_path):
    with pytest.raises(UserError, match="no folder"):
        published.load(tmp_path / "none")


def test_the_numbers_of_any_sweep(sweep, tmp_path):
    ended = published.results_of(sweep).finals
    published.publish(sweep, tmp_path / "out")
    read = published.results_of(tmp_path / "out").finals
    pd.testing.assert_frame_equal(read, ended, check_dtype=False, rtol=1e-5)
    for path in sweep.glob("*/summary.json"):
        path.unlink()
    assert set(published.results_of(sweep).finals["status"]) == {"interrupted"}


TABLES = ("finals.csv", "curves.csv", "theory.csv")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *itertools.product(("about.json", *TABLES), (b"", b"{}", b"[]")),
        *((name, None) for name in TABLES),  # without about.json it is no published table
    ],
)
def test_damaged_tables_are_said(sweep, tmp_path, name, content):
    published.publish(sweep, tmp_path / "there")
    path = tmp_path / "there" / name
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"there are damaged \(.*git checkout"):
        published.results_of(tmp_path / "there")


@pytest.mark.parametrize("damage", [lambda lines: lines[:2], lambda lines: [*lines, "x,y"]])
def test_rows_that_are_lost_or_added_are_said(sweep, tmp_path, damage):
    published.publish(sweep, tmp_path / "there")
    path = tmp_path / "there" / "finals.csv"
    path.write_text("\n".join(damage(path.read_text().splitlines())))
    with pytest.raises(UserError, match="of other runs"):
        published.results_of(tmp_path / "there")


def test_a_study_finds_its_experiments(sweep, tmp_path):
    published.publish(sweep, tmp_path / "all" / "one")
    published.publish(sweep, tmp_path / "all" / "two")
    study = Study(tmp_path / "all")
    assert len(study.of("two").results.finals) == 4
    with pytest.raises(UserError, match="one, two"):
        study.of("three")
    alone = Study(sweep)
    assert alone.of("one") is alone.of("anything")
