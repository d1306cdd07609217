"""Folders laid out in every usual way, and a few unusual ones, against lists by hand."""

import json
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
import yaml
from helpers import load_images, make_config, prepared
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision.datasets import ImageFolder

from vae_sweep.config import ImageFolderConfig, provenance, validate
from vae_sweep.data import dataset, image_folder, layout
from vae_sweep.errors import UserError
from vae_sweep.records.run_folder import RunFolder
from vae_sweep.reporting.console import Console
from vae_sweep.reporting.prediction_table import frame

README = Path(__file__).parents[1] / "README.md"


def write(root: Path, files: list[str]) -> None:
    """Files, each PNG of other pixels; `a -> b` is a link, `a/` a folder."""
    for i, name in enumerate(files):
        name, _, target = name.partition(" -> ")
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if target:
            path.symlink_to(target)
        elif name.endswith("/"):
            path.mkdir(exist_ok=True)
        elif path.suffix.lower() in layout.EXTENSIONS and not path.name.startswith("._"):
            pixels = np.random.default_rng(i).integers(0, 256, (4, 4, 3), np.uint8)
            Image.fromarray(pixels).save(path, "png")
        else:
            path.write_text("no image")


def config(root: Path, **changes: object) -> ImageFolderConfig:
    values = {"size": None, "grayscale": False, "val_images": None, "test_images": None}
    values |= {
        "name": "image_folder",
        "path": str(root),
        "cache": str(root.parent / "cache"),
    }
    return ImageFolderConfig.model_validate(values | changes)


def of(folder: str, count: int, extension: str = "png") -> list[str]:
    return [f"{folder}{i}.{extension}" for i in range(count)]


def split_like(train: str, other: str) -> list[str]:
    return [*of(f"{train}/cat/", 5), *of(f"{other}/cat/", 2)]


# what -> (files, what the line says, images of each split in order)
READ: dict[str, tuple[list[str], str, dict[str, list[str]]]] = {
    "images alone": (of("", 5), "train 5, ", {"train": of("", 5)}),
    "class folders": (
        [*of("dog/", 3), *of("cat/", 2)],
        "train 5 (2 folders), ",
        {"train": [*of("cat/", 2), *of("dog/", 3)]},
    ),
    "images beside class folders": (
        [*of("cat/", 3), *of("", 2)],
        "train 5 (1 folder and 2 beside them), ",
        {"train": [*of("", 2), *of("cat/", 3)]},
    ),
    "folders in class folders": (
        [*of("cat/old/", 2), *of("cat/", 2), *of("dog/a/b/c/", 1)],
        "train 5 (2 folders), ",
        {"train": [*of("cat/", 2), *of("cat/old/", 2), *of("dog/a/b/c/", 1)]},
    ),
    "train and test": (
        split_like("train", "test"),
        "train 5 (train/), val: 1 split off train, test 2 (test/)",
        {"train": of("train/cat/", 5), "test": of("test/cat/", 2)},
    ),
    "train and val": (
        split_like("train", "val"),
        "train 5 (train/), val 2 (val/), test: 1 split off train",
        {"train": of("train/cat/", 5), "val": of("val/cat/", 2)},
    ),
    "train, val and test": (
        [*split_like("train", "val"), *of("test/", 1)],
        "train 5 (train/), val 2 (val/), test 1 (test/)",
        {"train": of("train/cat/", 5), "val": of("val/cat/", 2), "test": of("test/", 1)},
    ),
    "train alone": (
        of("train/cat/", 5),
        "train 5 (train/), ",
        {"train": of("train/cat/", 5)},
    ),
    "splits in a folder": (
        split_like("data/images/train", "data/images/test"),
        "train 5 (data/images/train/), val: 1 split off train, test 2 (data/images/test/)",
        {"train": of("data/images/train/cat/", 5), "test": of("data/images/test/cat/", 2)},
    ),
    "splits in each class folder": (
        [*split_like("cat/train", "cat/test"), *split_like("dog/train", "dog/test")],
        "train 10 (cat/train/, dog/train/), val: 1 split off train, "
        "test 4 (cat/test/, dog/test/)",
        {
            "train": [*of("cat/train/cat/", 5), *of("dog/train/cat/", 5)],
            "test": [*of("cat/test/cat/", 2), *of("dog/test/cat/", 2)],
        },
    ),
    "a split of the training folder": (
        [*split_like("train/train", "train/val"), *of("test/", 1)],
        "train 5 (train/train/), val 2 (train/val/), test 1 (test/)",
        {
            "train": of("train/train/cat/", 5),
            "val": of("train/val/cat/", 2),
            "test": of("test/", 1),
        },
    ),
    "images and folders beside the splits": (
        [*split_like("train", "test"), *of("", 2), *of("extra/", 3)],
        "ignored: 5 beside the splits",
        {"train": of("train/cat/", 5), "test": of("test/cat/", 2)},
    ),
    "labels beside the images": (
        [*of("train/images/", 5), *of("train/labels/", 5, "txt"), *of("valid/images/", 2)],
        "train 5 (train/), val 2 (valid/), test: 1 split off train; ignored: 5 .txt",
        {"train": of("train/images/", 5), "val": of("valid/images/", 2)},
    ),
    "a class that is called train": (
        [*of("bus/", 3), *of("train/", 2)],
        "train 5 (2 folders), val: 1 split off train, test: 1 split off train; "
        "train/ taken for class folders like the others, as there is no val/ or test/ "
        "beside",
        {"train": [*of("bus/", 3), *of("train/", 2)]},
    ),
    "a class that is called test": (
        [*of("bus/", 3), *of("test/", 2)],
        "test/ taken for class folders like the others, as there is no train/ beside",
        {"train": [*of("bus/", 3), *of("test/", 2)]},
    ),
    "class folders that only contain a split's word": (
        [*of("train_station/", 3), *of("test_tube/", 2)],
        "train 5 (2 folders), ",
        {"train": [*of("test_tube/", 2), *of("train_station/", 3)]},
    ),
    "hidden files and folders": (
        [*of("a", 4), ".b.png", "._a0.png", *of(".thumbs/", 2), ".DS_Store"],
        "ignored: 5 hidden",
        {"train": of("a", 4)},
    ),
    "copies of notebooks": (
        [*split_like("train", "test"), *of("train/.ipynb_checkpoints/", 3)],
        "ignored: 3 hidden",
        {"train": of("train/cat/", 5), "test": of("test/cat/", 2)},
    ),
    "what archives and file servers leave": (
        [
            *of("", 3),
            *of("__MACOSX/", 1),
            *of("@eaDir/a/", 1),
            "Thumbs.db",
            *of("#recycle/", 1),
        ],
        "ignored: 4 hidden",
        {"train": of("", 3)},
    ),
    "other files": (
        [*of("", 4), *of("", 2, "gif"), *of("", 1, "GIF"), "notes.txt", "LICENSE"],
        "ignored: 3 .gif, 1 .txt, 1 without extension",
        {"train": of("", 4)},
    ),
    "every extension, in any case": (
        [f"{i}{ext.upper() if i % 2 else ext}" for i, ext in enumerate(layout.EXTENSIONS)],
        "train 9, ",
        {
            "train": sorted(
                f"{i}{e.upper() if i % 2 else e}" for i, e in enumerate(layout.EXTENSIONS)
            )
        },
    ),
    "a folder that is named like an image": (
        [*of("cat.png/", 4)],
        "train 4 (1 folder), ",
        {"train": of("cat.png/", 4)},
    ),
    "a link to the folder above": (
        [*of("cat/", 4), "cat/loop -> ..", "cat/self -> ."],
        "train 4 (1 folder), val: 1 split off train, test: 1 split off train; "
        "ignored: 2 linked folders reached twice",
        {"train": of("cat/", 4)},
    ),
    "a link to another class folder": (
        [*of("dog/", 4), "cat -> dog"],
        "ignored: 1 linked folders reached twice",
        {"train": of("dog/", 4)},
    ),
    "a link from train to test": (
        [*split_like("train", "test"), "train/more -> ../test"],
        "ignored: 1 linked folders reached twice",
        {"train": of("train/cat/", 5), "test": of("test/cat/", 2)},
    ),
    "a link to an image of the same split": (
        [*of("", 4), "z.png -> 0.png"],
        "ignored: 1 reached twice",
        {"train": of("", 4)},
    ),
    "a link that leads to itself": (
        [*of("", 4), "loop -> loop"],
        "ignored: 1 without extension",
        {"train": of("", 4)},
    ),
}
SPELLINGS = [
    *[("train", "test"), ("Train", "Test"), ("TRAIN", "TEST"), ("training", "testing")],
    *[("training_set", "test_set"), ("TrainSet", "TestSet"), ("trainset", "testset")],
    *[("train2017", "test2017"), ("train", "test1"), ("seg_train", "seg_test")],
    *[
        ("train-images", "test-images"),
        ("images_train", "images_test"),
        ("trainA", "testA"),
    ],
    *[
        ("train", "eval"),
        ("train", "evaluation"),
        ("trainval", "test"),
        ("train_val", "test"),
    ],
    *[("train", "val"), ("Train", "Valid"), ("train", "validation"), ("train", "dev")],
    *[("Training", "Validation"), ("train_32x32", "valid_32x32")],
    *[("DIV2K_train_HR", "DIV2K_valid_HR"), ("train", "val_images")],
]
# what -> (files, parts of the message)
REFUSED: dict[str, tuple[list[str], tuple[str, ...]]] = {
    "val and valid": (
        [*split_like("train", "val"), *of("valid/", 2)],
        ("one folder of val images", "/val and ", "/valid", "move all but one elsewhere"),
    ),
    "train and Train": (
        [*split_like("train", "test"), *of("Train/", 2)],
        ("one folder of train images", "/Train and ", "/train"),
    ),
    "two series of splits": (
        [*split_like("trainA", "testA"), *split_like("trainB", "testB")],
        ("one folder of train images", "trainA and ", "trainB"),
    ),
    "val twice, once in train": (
        [*split_like("train/train", "train/val"), *of("val/", 1)],
        ("one folder of val images", "/val and ", "train/val"),
    ),
    "val and test without train": (
        [*of("val/", 3), *of("test/", 3)],
        ("training images", "test/, val/ but no train/", "add train/, or set data.path"),
    ),
    "test alone": (of("test/", 3), ("test/ but no train/",)),
    "nothing": (["cat/"], ("must hold images", "got none in", "set data.path=FOLDER")),
    "other files alone": (
        [*of("", 20, "gif"), ".a.png"],
        ("got none in", "(20 .gif, 1 hidden)"),
    ),
    "an empty split": (
        [*of("train/", 4), "test/"],
        ("got none in", "/test"),
    ),
    "a broken link": ([*of("", 4), "z.png -> gone.png"], ("z.png (No such file",)),
    "a link to itself that is named like an image": (
        [*of("", 4), "z.png -> z.png"],
        ("z.png (Too many levels of symbolic links)", "fix it or move it elsewhere"),
    ),
}


@pytest.mark.parametrize("what", READ)
def test_a_layout_is_read_and_told(what, tmp_path, capsys):
    files, line, expected = READ[what]
    root = tmp_path / "set"
    write(root, files)
    found = layout.find(root)
    relative = {
        split: [os.path.relpath(path, root) for path in paths]
        for split, paths in found.splits.items()
    }
    assert relative == expected
    told = []
    for _ in range(2):  # decoded, then from the cache
        load_images(config(root))
        err = capsys.readouterr().err
        assert err.startswith(f"{root}: train ")
        assert line in err
        assert err.count("\n") == 1
        told.append(err)
    assert told[0] == told[1]


def predicted(configs):
    return frame(configs, Console(least=120).say)


def test_points_on_the_same_folder_are_told_of_it_once(tmp_path, capsys):
    root = tmp_path / "set"
    write(root, of("", 5))
    datasets = dataset.Datasets()
    for changes in ({}, {"background": "black"}, {"grayscale": True}, {}):
        datasets.of(config(root, **changes))
    assert capsys.readouterr() == ("", "")  # an error would be said alone
    datasets.say(Console(least=120).say)
    out, err = capsys.readouterr()
    assert (out.count("\n"), err) == (1, "")


@pytest.mark.parametrize("command", [prepared, predicted])
def test_commands_say_what_they_read_and_a_mistake_alone(command, tmp_path, capsys):
    root = tmp_path / "set"
    write(root, of("", 5))
    data_of = ("data=image_folder", f"data.path={root}", f"data.cache={tmp_path}")
    good = make_config("model.widths=[4]", "train.batch_size=1", *data_of)
    command([good, good])
    said = "train 5, val: 1 split off train, test: 1 split off train"
    assert capsys.readouterr() == (f"{root}: {said}\n", "")
    with pytest.raises(UserError):
        command([good, make_config("model.widths=[4,4,4,4]", *data_of)])
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("what", REFUSED)
def test_a_layout_that_is_ambiguous_is_refused(what, tmp_path):
    files, parts = REFUSED[what]
    root = tmp_path / "set"
    write(root, files)
    with pytest.raises(UserError) as caught:
        load_images(config(root))
    assert str(caught.value).count("\n") <= 1
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize(("train", "other"), SPELLINGS)
def test_splits_in_any_spelling(train, other, tmp_path):
    write(tmp_path / "set", split_like(train, other))
    found = layout.find(tmp_path / "set")
    second = "val" if "val" in other.lower() or other == "dev" else "test"
    if "eval" in other:
        second = "test"
    assert list(found.splits) == ["train", second]
    assert found.where == {"train": f"{train}/", second: f"{other}/"}
    assert [len(files) for files in found.splits.values()] == [5, 2]


@given(
    st.lists(
        st.sampled_from(["", "a", "b", "a/b", "a-b", "a/b-c", "a/b/c", "B", "b/a", "ä"]),
        min_size=1,
        max_size=8,
    )
)
def test_class_folders_come_in_the_order_of_torchvision(folders):
    with tempfile.TemporaryDirectory() as tmp:
        root = Path(tmp)
        for i, folder in enumerate(folders):
            for name in (f"{9 - i}.png", f"x{i}.JPG"):
                path = root / "set" / (folder or "c") / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
        expected = [path for path, _ in ImageFolder(root / "set").samples]
        assert layout.find(root / "set").splits == {"train": expected}


def test_a_deep_tree_is_read(tmp_path):
    deep = tmp_path / "set" / "/".join("a" * 900)
    deep.mkdir(parents=True)
    (deep / "0.png").touch()
    assert layout.find(tmp_path / "set").splits == {"train": [str(deep / "0.png")]}


# --- leaks and levels ---


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().err.splitlines()


def test_images_that_two_splits_share_are_counted(tmp_path, capsys):
    root = tmp_path / "set"
    write(root, [*of("train/", 6), *of("val/", 3), *of("test/", 4)])
    for copy, original in (
        ("test/0", "train/1"),
        ("test/1", "train/2"),
        ("val/0", "test/3"),
    ):
        Image.open(root / f"{original}.png").save(root / f"{copy}.png", compress_level=0)
    load_images(config(root))
    [_, *warnings] = lines(capsys)
    assert warnings == [
        "warning: 2 of 4 test images are in train too, pixel by pixel: the test numbers "
        "do not measure unseen images",
        "warning: 1 of 4 test images are in val too, pixel by pixel: the test numbers "
        "do not measure unseen images",
    ]


@pytest.mark.parametrize(("top", "white"), [(0, 1), (1, 1), (9, 9), (31, 31)])
def test_dark_images_are_warned_of_and_never_rescaled(tmp_path, capsys, top, white):
    rng = np.random.default_rng(0)
    (tmp_path / "set").mkdir()
    for i in range(10):
        pixels = rng.integers(0, top + 1, (8, 8), np.uint8)
        pixels[0, 0] = top
        Image.fromarray(pixels).save(tmp_path / "set" / f"{i}.png")
    images = load_images(config(tmp_path / "set"))
    assert int(images.train.max()) == top
    said = f"is above {top} of 255: they are almost black; if white is meant to be {white}"
    [found] = [line for line in lines(capsys) if "almost black" in line]
    assert said in found


def test_a_test_split_of_another_scale_is_warned_of(tmp_path, capsys):
    write(tmp_path / "set", [*of("train/", 9), "test/"])
    dark = np.random.default_rng(0).integers(0, 2, (4, 4, 3), np.uint8)
    Image.fromarray(dark).save(tmp_path / "set/test/0.png")
    load_images(config(tmp_path / "set"))
    [_, warning] = lines(capsys)
    assert warning.startswith("warning: no pixel of the test images is above 1 of 255")


def test_images_that_are_bright_somewhere_are_not(tmp_path, capsys):
    (tmp_path / "set").mkdir()
    for i in range(10):
        pixels = np.full((4, 4), 32 + i, np.uint8)
        Image.fromarray(pixels).save(tmp_path / "set" / f"{i}.png")
    load_images(config(tmp_path / "set"))
    assert len(lines(capsys)) == 1


# --- identity from content ---


def images_of(root: Path, **changes: object) -> np.ndarray:
    return image_folder.read(config(root, **changes)).train


def test_folders_of_equal_names_sizes_and_times_are_told_apart(tmp_path):
    """As `tar --mtime` and reproducible builds make them."""
    for name, level in (("one", 10), ("two", 200)):
        (tmp_path / name).mkdir()
        for i in range(4):
            file = tmp_path / name / f"{i}.png"
            Image.fromarray(np.full((4, 4, 3), level + i, np.uint8)).save(
                file, compress_level=0
            )
            os.utime(file, ns=(0, 0))
    sizes = [
        [f.stat().st_size for f in sorted((tmp_path / n).iterdir())] for n in ("one", "two")
    ]
    assert sizes[0] == sizes[1]
    assert images_of(tmp_path / "one")[:, 0, 0, 0].tolist() == [10, 11, 12, 13]
    assert images_of(tmp_path / "two")[:, 0, 0, 0].tolist() == [200, 201, 202, 203]


def test_a_file_that_changes_under_equal_name_size_and_time_is_read_again(tmp_path):
    root = tmp_path / "set"
    write(root, of("", 4))
    images_of(root)
    for level in (3, 250):
        Image.fromarray(np.full((4, 4, 3), level, np.uint8)).save(
            root / "0.png", compress_level=0
        )
        os.utime(root / "0.png", ns=(0, 0))
        assert (images_of(root)[0] == level).all()


def test_a_folder_that_is_moved_keeps_its_entry(tmp_path, monkeypatch):
    write(tmp_path / "set", of("a/", 4))
    first = images_of(tmp_path / "set")
    (tmp_path / "set").rename(tmp_path / "moved")
    monkeypatch.setattr(image_folder, "decode", None)
    assert (images_of(tmp_path / "moved") == first).all()


def test_what_is_made_of_the_files_is_part_of_their_identity(tmp_path):
    write(tmp_path / "set", of("", 4))
    changes = [{}, {"size": 3}, {"grayscale": True}, {"background": "black"}]
    made = [images_of(tmp_path / "set", **change) for change in changes]
    assert [image.shape[1:] for image in made] == [
        (3, 4, 4),
        (3, 3, 3),
        (1, 4, 4),
        (3, 4, 4),
    ]
    assert len(list((tmp_path / "cache").iterdir())) == 4


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path, monkeypatch):
    write(tmp_path / "set", of("", 4))
    hashed = image_folder._digests

    def then_changed(files):
        digests = hashed(files)
        Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(files[2])
        return digests

    monkeypatch.setattr(image_folder, "_digests", then_changed)
    with pytest.raises(UserError, match=r"must not change .*2\.png; start again"):
        images_of(tmp_path / "set")
    assert not (tmp_path / "cache").exists()


# --- golden runs ---

GOLDEN = Path(__file__).parents[1] / "golden"


def test_the_golden_run_on_a_folder_is_still_finished(monkeypatch, tmp_path):
    """Its identity holds every pixel of its images, in order, and no background."""
    monkeypatch.chdir(GOLDEN)
    [path] = (GOLDEN / "schema1/image_folder").glob("*/")
    values = yaml.safe_load((path / "config.yaml").read_text())
    assert "background" not in values["data"]
    values["data"] |= {"background": "white", "cache": str(tmp_path)}
    values |= {"runs": str(GOLDEN / "schema1")}
    run = validate(values)
    assert run.run_id == path.name
    folder = RunFolder(run, dataset.load(run.data).fingerprint)
    summary = json.loads((path / "summary.json").read_text())
    assert folder.identity == summary["identity"]
    values["data"] |= {"background": [10, 20, 30]}
    assert validate(values).run_id != path.name


def test_golden_runs_of_the_old_standardized_head_keep_their_id():
    for config in GOLDEN.glob("schema1/*/*tanh_standardized*/config.yaml"):
        values = yaml.safe_load(config.read_text())
        assert validate(values).run_id == config.parent.name
        now = validate({**values, **provenance(values)})
        assert now.versions == {"head": 2}
        assert now.run_id != config.parent.name


# --- the table ---


def rows() -> list[str]:
    outcomes = {what: line for what, (_, line, _) in READ.items()}
    outcomes |= {f"{a}/ and {b}/": "two splits" for a, b in SPELLINGS}
    outcomes |= {
        what: f"refused: {' … '.join(parts)}" for what, (_, parts) in REFUSED.items()
    }
    return [f"| {what} | {said.strip(', ')} |" for what, said in outcomes.items()]


def test_the_readme_has_the_table():
    text = README.read_text()
    assert "| layout | outcome |\n|---|---|\n" + "\n".join(rows()) in text


if __name__ == "__main__":
    print("\n".join(rows()))
