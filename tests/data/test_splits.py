"""The sets against what was written into them; the errors against their three parts."""

import errno
import gzip
import hashlib
import os
import pickle
import sys
import tarfile
import tempfile
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from helpers import load_images
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision import datasets

from vae_sweep.config import (
    DeadLeavesConfig,
    ImageFolderConfig,
    NpzConfig,
    TorchvisionConfig,
)
from vae_sweep.data import dead_leaves, image_folder, torchvision_sets
from vae_sweep.errors import UserError

ARCHIVE = Path(__file__).parents[3] / "shared/data/cifar10-jpeg.tar.xz"


def npz(path, val=None, test=None):
    return NpzConfig(
        name="npz", path=str(path), val_images=val, test_images=test, cache="unused"
    )


def leaves(cache, images=20, size=8, seed=0):
    return DeadLeavesConfig(
        name="dead_leaves",
        images=images,
        size=size,
        seed=seed,
        val_images=None,
        test_images=None,
        cache=str(cache),
    )


def folder(path, size=None, grayscale=False, val=None, test=None, cache=None):
    return ImageFolderConfig(
        name="image_folder",
        path=str(path),
        size=size,
        grayscale=grayscale,
        val_images=val,
        test_images=test,
        cache=str(cache or path.parent / "cache"),
    )


def torchvision_set(name, cache, val=None):
    return TorchvisionConfig(name=name, val_images=val, cache=str(cache))


def random_pixels(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def write_image(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def write_folder(root, n, classes=("cat", "dog"), shape=(8, 8, 3), seed=0):
    """n PNGs (lossless), in turn in each class folder; their pixels by relative path."""
    images = random_pixels(n, *shape, seed=seed)
    paths = [root / classes[i % len(classes)] / f"{i:03}.png" for i in range(n)]
    for path, image in zip(paths, images, strict=True):
        write_image(path, image)
    return dict(zip(map(str, paths), images, strict=True))


def as_set(images):
    """The images, in any order, of [n, C, H, W] or (H, W[, C] each) from a list."""
    if isinstance(images, torch.Tensor):
        images = images.permute(0, 2, 3, 1).numpy()
    return {image.tobytes() for image in images}


def fails(config, *parts):
    with pytest.raises(UserError) as caught:
        load_images(config)
    message = str(caught.value)
    assert message.count("\n") <= 1
    for part in parts:
        assert str(part) in message
    return message


# --- splits ---


def load_numbered(n, val=None, test=None):
    """The numbers of the images in each split of a set of n."""
    numbers = np.arange(n, dtype="<u2").view(np.uint8).reshape(n, 1, 2)
    with tempfile.TemporaryDirectory() as tmp:
        np.savez(Path(tmp) / "numbered.npz", images=numbers)
        images = load_images(npz(Path(tmp) / "numbered.npz", val, test))
    return [split.numpy().copy().view("<u2").ravel().tolist() for split in images]


@given(st.data(), st.integers(3, 300))
def test_splits_are_a_partition(draw, n):
    test = draw.draw(st.none() | st.integers(1, n - 2))
    held = max(1, n // 10) if test is None else test
    val = draw.draw(st.none() | st.integers(1, n - held - 1))
    splits = load_numbered(n, val, test)
    assert sorted(i for split in splits for i in split) == list(range(n))
    expected = max(1, (n - held) // 10) if val is None else val
    assert [len(split) for split in splits] == [n - held - expected, expected, held]


def test_default_splits_are_at_most_a_thousand():
    train, val, test = load_numbered(25_000)
    assert (len(train), len(val), len(test)) == (23_000, 1000, 1000)


def test_splits_are_random_but_always_the_same():
    first, again = load_numbered(1000), load_numbered(1000)
    assert first == again
    for split in first[1:]:  # uniform over 0..999: mean 500, se about 30
        assert abs(np.mean(split) - 500) < 120
        assert np.std(split) > 200


@pytest.mark.parametrize(
    ("n", "val", "test", "key"),
    [
        (10, None, 10, "data.test_images"),
        (10, 9, None, "data.val_images"),
        (10, 5, 5, "data.val_images"),
        (2, None, None, "data.val_images"),
        (1, None, None, "data.test_images"),
    ],
)
def test_too_few_images_to_split(tmp_path, n, val, test, key):
    np.savez(tmp_path / "few.npz", images=random_pixels(n, 4, 4))
    fails(npz(tmp_path / "few.npz", val, test), key, "at least one", "give more images")


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_set_with_its_own_split_takes_no_size_for_it(tmp_path, split):
    images = random_pixels(10, 4, 4)
    arrays = {"train_images": images, f"{split}_images": images[:3]}
    np.savez(tmp_path / "own.npz", **arrays)
    config = npz(tmp_path / "own.npz", **{split: 2})
    fails(config, f"data.{split}_images", "of 3 images", "got 2", "=null")


def test_loading_draws_no_random_number_of_torchs(tmp_path):
    before = torch.get_rng_state()
    load_images(leaves(tmp_path))
    assert torch.equal(before, torch.get_rng_state())


# --- dead leaves and the cache ---


def test_dead_leaves_are_split_and_kept(tmp_path, monkeypatch):
    first = load_images(leaves(tmp_path))
    assert [tuple(split.shape) for split in first] == [
        (17, 3, 8, 8),
        (1, 3, 8, 8),
        (2, 3, 8, 8),
    ]
    assert all(s.dtype == torch.uint8 and s.is_contiguous() for s in first)
    made = dead_leaves.generate(20, 8, 0, (1.5, 16)).transpose(0, 2, 3, 1)
    assert set().union(*map(as_set, first)) == as_set(made)
    monkeypatch.setattr(dead_leaves, "generate", None)  # a second load must not need it
    second = load_images(leaves(tmp_path))
    assert all(map(torch.equal, first, second))
    assert len(list(tmp_path.iterdir())) == 1  # nothing temporary is left


def test_the_cache_tells_configurations_and_versions_apart(tmp_path, monkeypatch):
    load_images(leaves(tmp_path))
    load_images(leaves(tmp_path, images=21))
    load_images(leaves(tmp_path, size=9))
    load_images(leaves(tmp_path, seed=1))
    monkeypatch.setattr(dead_leaves, "VERSION", 1000)
    load_images(leaves(tmp_path))
    assert len(list(tmp_path.iterdir())) == 5


def flip_a_byte(content):
    return content[:2000] + bytes([content[2000] ^ 255]) + content[2001:]


@pytest.mark.parametrize(
    "spoil",
    [
        flip_a_byte,
        lambda content: content[:-100],
        lambda content: content[: len(content) // 2],
        lambda content: b"",
        lambda content: b"no archive",
    ],
)
def test_a_broken_cache_file_is_made_again(tmp_path, spoil):
    first = load_images(leaves(tmp_path))
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    file.write_bytes(spoil(whole))
    assert all(map(torch.equal, first, load_images(leaves(tmp_path))))
    with np.load(file) as again:
        assert again["images"].shape == (20, 3, 8, 8)


@pytest.mark.parametrize(
    "images", [np.zeros((19, 3, 8, 8), np.uint8), np.zeros((20, 3, 8, 8))]
)
def test_a_cache_file_of_something_else_is_made_again(tmp_path, images):
    first = load_images(leaves(tmp_path))
    (file,) = tmp_path.iterdir()
    np.savez(file, images=images)
    assert all(map(torch.equal, first, load_images(leaves(tmp_path))))


def test_no_cache_folder_stops_no_run(tmp_path):
    (tmp_path / "file").write_text("where the cache folder should be")
    assert len(load_images(leaves(tmp_path / "file")).train) == 17
    assert len(load_images(leaves(tmp_path / "file" / "below")).train) == 17


def test_a_full_disk_stops_no_run_and_leaves_nothing(tmp_path, monkeypatch):
    def full(file, **arrays):
        file.write(b"some of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    assert len(load_images(leaves(tmp_path)).train) == 17
    assert list(tmp_path.iterdir()) == []


def test_many_dead_leaves_are_announced(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(dead_leaves, "MANY_PIXELS", 100)
    load_images(leaves(tmp_path))
    assert capsys.readouterr().err.count("\n") == 1
    load_images(leaves(tmp_path))
    assert capsys.readouterr().err == ""


def test_more_images_than_memory_are_refused(tmp_path):
    fails(leaves(tmp_path, images=10**12), "in memory", "data.images=1000000000000", "GiB")


def test_a_home_that_is_not_there_is_named(tmp_path):
    for config in (npz("~nobody-of-this-name/a.npz"), folder(Path("~nobody-of-this-name"))):
        fails(config, "~nobody-of-this-name", "no such home folder", "set data.path=FOLDER")


# --- npz ---


@pytest.mark.parametrize("shape", [(8, 6), (8, 6, 1), (8, 6, 3), (8, 6, 4)])
def test_npz_with_its_own_splits(tmp_path, shape):
    train, val, test = (random_pixels(n, *shape, seed=n) for n in (12, 5, 7))
    labels = np.array([{"an": "object"}])  # never read, so never unpickled
    np.savez(
        tmp_path / "medmnist.npz",
        train_images=train,
        val_images=val,
        test_images=test,
        train_labels=labels,
    )
    images = load_images(npz(tmp_path / "medmnist.npz"))
    for split, array in zip(images, (train, val, test), strict=True):
        channels = shape[2] if len(shape) == 3 else 1
        assert tuple(split.shape) == (len(array), channels, 8, 6)
        assert split.is_contiguous()
        order = slice(None) if split is images.test else fixed_order(len(array))
        for c in range(channels):
            expected = array[..., c] if array.ndim == 4 else array
            np.testing.assert_array_equal(split[:, c], expected[order])


def fixed_order(n: int):
    """What training and validation images are shuffled by, whatever the set."""
    return np.random.default_rng(1).permutation(n)


def test_a_splits_first_images_stand_for_all_of_it(tmp_path):
    """A folder lists class after class; the first images of a split are of every one."""
    levels = np.repeat(np.arange(10, dtype=np.uint8), 100)
    images = np.broadcast_to(levels[:, None, None], (1000, 4, 4))
    np.savez(tmp_path / "a.npz", images=images)
    images = load_images(npz(tmp_path / "a.npz"))
    for split in (images.train, images.val):
        assert len(set(split[:80, 0, 0, 0].tolist())) == 10


def test_npz_without_a_validation_split(tmp_path):
    train, test = random_pixels(30, 4, 4, seed=1), random_pixels(7, 4, 4, seed=2)
    np.savez_compressed(tmp_path / "a.npz", train_images=train, test_images=test)
    images = load_images(npz(tmp_path / "a.npz", val=4))
    np.testing.assert_array_equal(images.test[:, 0], test)
    assert (len(images.train), len(images.val)) == (26, 4)
    assert as_set(images.train) | as_set(images.val) == as_set(train)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((9, 4, 4), np.float32),
        np.zeros((9, 4, 4), np.int64),
        np.zeros((9, 4), np.uint8),
        np.zeros((9, 3, 4, 5), np.uint8),
        np.zeros((9, 4, 4, 0), np.uint8),
        np.zeros((0, 4, 4), np.uint8),
        np.zeros((9, 4, 4, 3, 1), np.uint8),
    ],
)
def test_npz_of_a_wrong_type_or_shape(tmp_path, array):
    np.savez(tmp_path / "a.npz", images=array)
    config = npz(tmp_path / "a.npz")
    fails(config, "must be uint8", array.dtype, list(array.shape), "convert")


RAMP = np.linspace(0, 255, 9 * 4 * 5 * 3).round().astype(np.uint8).reshape(9, 4, 5, 3)


@pytest.mark.parametrize(
    ("array", "remedy"),
    [
        ((RAMP / 255).astype(np.float32), "(images * 255).round().astype(np.uint8)"),
        (RAMP / 127.5 - 1, "(images * 127.5 + 127.5).round().astype(np.uint8)"),
        (RAMP.astype(np.int64), "images.round().astype(np.uint8)"),
        (RAMP.astype(np.float64), "images.round().astype(np.uint8)"),
        (RAMP.astype(">u2") * np.uint16(257), "(images / 257).round().astype(np.uint8)"),
        (RAMP > 127, "images.astype(np.uint8) * 255"),
        (RAMP.transpose(0, 3, 1, 2), "images.transpose(0, 2, 3, 1)"),
        (
            (RAMP / 255).transpose(0, 3, 1, 2),
            "(images.transpose(0, 2, 3, 1) * 255).round().astype(np.uint8)",
        ),
    ],
)
def test_the_remedy_for_an_array_is_numpy_that_works(tmp_path, array, remedy):
    np.savez(tmp_path / "a.npz", images=array)
    fails(npz(tmp_path / "a.npz"), f"convert it: {remedy}")
    fixed = eval(remedy, {"images": array, "np": np})
    expected = RAMP if array.dtype != bool else np.where(RAMP > 127, 255, 0)
    assert fixed.dtype == np.uint8
    np.testing.assert_array_equal(fixed, expected)


@pytest.mark.parametrize(
    "array", [RAMP * 4.0, RAMP - 500.0, RAMP * np.nan, RAMP * 1j, RAMP.astype(str)]
)
def test_an_array_of_an_unknown_scale_gets_no_number_as_remedy(tmp_path, array):
    np.savez(tmp_path / "a.npz", images=array)
    fails(npz(tmp_path / "a.npz"), "convert it: scale its pixels to 0..255")


def test_arrays_in_fortran_order_are_the_same(tmp_path):
    np.savez(tmp_path / "c.npz", images=RAMP)
    np.savez(tmp_path / "f.npz", images=np.asfortranarray(RAMP))
    one, other = (load_images(npz(tmp_path / name)) for name in ("c.npz", "f.npz"))
    assert all(map(torch.equal, one, other))


def test_a_line_says_what_was_read_of_an_npz(tmp_path, capsys):
    train, test = random_pixels(30, 4, 4, 2, seed=1), random_pixels(7, 4, 4, 2, seed=2)
    labels = np.array([{"an": "object"}])
    path = tmp_path / "a.npz"
    np.savez(path, train_images=train, test_images=test, train_labels=labels, note=labels)
    load_images(npz(path))
    assert capsys.readouterr().err == (
        f"{path}: train 30 (train_images), val: 3 split off train, test 7 (test_images); "
        f"2 channels, all of them data (if the last is an alpha, composite the images and "
        f"save 1 or 3); ignored: train_labels, note\n"
    )
    np.savez(path, images=random_pixels(30, 4, 4))
    load_images(npz(path))
    said = "train 30 (images), val: 2 split off train, test: 3 split off train"
    assert capsys.readouterr().err == f"{path}: {said}\n"


def test_binary_arrays_are_warned_of_and_never_rescaled(tmp_path, capsys):
    path = tmp_path / "a.npz"
    np.savez(path, images=random_pixels(300, 8, 8) % 2)
    images = load_images(npz(path))
    assert images.train.unique().tolist() == [0, 1]
    [warning] = capsys.readouterr().err.splitlines()[1:]
    assert warning == (
        "warning: no pixel of the train images is above 1 of 255: they are almost "
        "black; if white is meant to be 1, save them as 0..255"
    )


def test_images_that_train_and_test_share_are_counted(tmp_path, capsys):
    train = random_pixels(30, 4, 4)
    test = np.concatenate([train[:3], random_pixels(4, 4, 4, seed=1)])
    np.savez(tmp_path / "a.npz", train_images=train, test_images=test, val_images=test[3:])
    load_images(npz(tmp_path / "a.npz"))
    first, second = capsys.readouterr().err.splitlines()[1:]
    assert "3 of 7 test images are in train too" in first
    assert "4 of 7 test images are in val too" in second


@pytest.mark.parametrize(
    "keys",
    [
        ("x", "y"),
        ("test_images",),
        ("val_images", "test_images"),
        ("images", "train_images"),
        ("images", "test_images"),
    ],
)
def test_npz_with_wrong_keys(tmp_path, keys):
    np.savez(tmp_path / "a.npz", **{key: random_pixels(9, 4, 4) for key in keys})
    fails(npz(tmp_path / "a.npz"), "train_images", "images alone", *keys)


def test_npz_with_splits_of_different_shapes(tmp_path):
    np.savez(
        tmp_path / "a.npz",
        train_images=random_pixels(9, 4, 4),
        test_images=random_pixels(9, 4, 5),
    )
    fails(npz(tmp_path / "a.npz"), "one shape", "[1, 4, 4]", "[1, 4, 5]", "make them")


def test_npz_that_cannot_be_read(tmp_path):
    path = tmp_path / "a.npz"
    fails(npz(path), path, "No such file", "set data.path=FILE")
    fails(npz(tmp_path), tmp_path, "set data.path=FILE")
    path.write_bytes(b"no archive")
    fails(npz(path), path, "set data.path=FILE")
    np.savez(path, images=random_pixels(9, 40, 40))
    whole = path.read_bytes()
    for content in (whole[:-50], flip_a_byte(whole)):
        path.write_bytes(content)
        fails(npz(path), path, "set data.path=FILE")
    with path.open("wb") as file:
        np.save(file, random_pixels(9, 4, 4))
    fails(npz(path), path, "np.savez(FILE, images=array)")
    np.savez(path, images=np.array([{"an": "object"}]))
    fails(npz(path), path, "allow_pickle=False")


# --- a folder of images ---


def test_folder_of_class_folders(tmp_path):
    written = write_folder(tmp_path / "pets", 30)
    images = load_images(folder(tmp_path / "pets"))
    assert [len(split) for split in images] == [25, 2, 3]
    assert set().union(*map(as_set, images)) == as_set(written.values())
    assert all(s.is_contiguous() and s.dtype == torch.uint8 for s in images)


@pytest.mark.parametrize("with_val", [False, True])
def test_folder_with_train_and_test(tmp_path, with_val):
    root = tmp_path / "pets"
    names = ("train", "val", "test") if with_val else ("train", "test")
    sizes = {"train": 12, "val": 3, "test": 5}
    written = {
        name: as_set(write_folder(root / name, sizes[name], seed=i).values())
        for i, name in enumerate(names)
    }
    images = load_images(folder(root, val=None if with_val else 2))
    assert as_set(images.test) == written["test"]
    if with_val:
        assert as_set(images.train) == written["train"]
        assert as_set(images.val) == written["val"]
    else:
        assert (len(images.train), len(images.val)) == (10, 2)
        assert as_set(images.train) | as_set(images.val) == written["train"]


@pytest.mark.parametrize("extra", [None, ".thumbnails"])
def test_flat_folder(tmp_path, extra):
    written = write_folder(tmp_path / "flat", 12, classes=("",))
    (tmp_path / "flat" / "notes.txt").write_text("no image")
    if extra:
        (tmp_path / "flat" / extra).mkdir()
    images = load_images(folder(tmp_path / "flat"))
    assert set().union(*map(as_set, images)) == as_set(written.values())


def test_folder_paths_may_be_relative_or_of_the_home(tmp_path, monkeypatch):
    written = write_folder(tmp_path / "pets", 6)
    monkeypatch.chdir(tmp_path / "pets")
    monkeypatch.setenv("HOME", str(tmp_path))
    for path in (".", "~/pets"):
        images = load_images(folder(Path(path), cache=tmp_path / "cache"))
        assert set().union(*map(as_set, images)) == as_set(written.values())
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_grayscale_is_pils_luma(tmp_path):
    written = write_folder(tmp_path / "pets", 6)
    images = load_images(folder(tmp_path / "pets", grayscale=True))
    assert images.train.shape[1:] == (1, 8, 8)
    luma = [np.asarray(Image.fromarray(x).convert("L")) for x in written.values()]
    assert set().union(*map(as_set, images)) == as_set(luma)


def test_gray_and_palette_images_become_rgb(tmp_path):
    gray, color = random_pixels(8, 8), random_pixels(8, 8, 3)
    for i in range(4):
        write_image(tmp_path / "mixed/a" / f"{i}.png", gray)
        write_image(tmp_path / "mixed/b" / f"{i}.png", color)
        Image.fromarray(gray).convert("P").save(tmp_path / "mixed/a" / f"{i}p.png")
    images = load_images(folder(tmp_path / "mixed"))
    expected = as_set([np.stack([gray] * 3, -1), color])
    assert set().union(*map(as_set, images)) == expected


def test_resized_to_the_short_side_and_cropped_at_the_centre(tmp_path):
    wide, tall = random_pixels(24, 40, 3, seed=1), random_pixels(36, 24, 3, seed=2)
    for i in range(2):
        write_image(tmp_path / "photos/wide" / f"{i}.png", wide)
        write_image(tmp_path / "photos/tall" / f"{i}.png", tall)
    images = load_images(folder(tmp_path / "photos", size=12))
    # PIL's resizing antialiases
    halves = [
        np.asarray(Image.fromarray(wide).resize((20, 12), Image.Resampling.BILINEAR)),
        np.asarray(Image.fromarray(tall).resize((12, 18), Image.Resampling.BILINEAR)),
    ]
    expected = as_set([halves[0][:, 4:16], halves[1][3:15]])
    assert set().union(*map(as_set, images)) == expected


def test_folder_is_decoded_once(tmp_path, monkeypatch):
    root = tmp_path / "pets"
    write_folder(root, 10)
    first = load_images(folder(root))
    decode = image_folder._decode_all

    def must_not(*args):
        raise AssertionError("decoded again")

    monkeypatch.setattr(image_folder, "_decode_all", must_not)
    assert all(map(torch.equal, first, load_images(folder(root))))
    monkeypatch.setattr(image_folder, "_decode_all", decode)
    assert load_images(folder(root, size=4)).train.shape[1:] == (3, 4, 4)
    assert load_images(folder(root, grayscale=True)).train.shape[1:] == (1, 8, 8)


@pytest.mark.parametrize("change", ["add", "remove", "rename", "rewrite"])
def test_a_changed_folder_is_decoded_again(tmp_path, change):
    root = tmp_path / "pets"
    written = write_folder(root, 10)
    load_images(folder(root))
    file = root / "cat" / "000.png"
    if change == "add":
        written["new"] = random_pixels(8, 8, 3, seed=7)
        write_image(root / "cat" / "new.png", written["new"])
    elif change == "remove":
        file.unlink()
        del written[str(file)]
    elif change == "rename":
        file.rename(root / "dog" / "zzz.png")
    else:
        written[str(file)] = random_pixels(8, 8, 3, seed=7)
        stat = write_image(file, written[str(file)]).stat()
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns + 10**9))
    images = load_images(folder(root))
    assert sum(map(len, images)) == len(written)
    assert set().union(*map(as_set, images)) == as_set(written.values())


@pytest.mark.parametrize("terminal", [False, True])
def test_many_files_are_announced(tmp_path, monkeypatch, capsys, terminal):
    monkeypatch.setattr(image_folder, "MANY_FILES", 5)
    if terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")  # rich then takes stderr for a terminal
    write_folder(tmp_path / "pets", 10)
    load_images(folder(tmp_path / "pets"))
    captured = capsys.readouterr()
    assert "decoding 10 images" in captured.err
    assert captured.out == ""
    assert ("100%" in captured.err) == terminal


def test_images_of_different_sizes(tmp_path):
    root = tmp_path / "photos"
    first = write_image(root / "a" / "0.png", random_pixels(8, 8, 3))
    other = write_image(root / "a" / "1.png", random_pixels(9, 7, 3))
    fails(folder(root), f"8x8 in {first}", f"7x9 in {other}", "set data.size=32")
    write_image(root / "a" / "2.png", random_pixels(9, 9, 3))
    assert sum(map(len, load_images(folder(root, size=8)))) == 3


def test_different_sizes_across_splits(tmp_path):
    write_folder(tmp_path / "pets/train", 3)
    write_folder(tmp_path / "pets/test", 3, shape=(9, 9, 3))
    fails(folder(tmp_path / "pets"), "8x8", "9x9", "set data.size=32")


def test_folder_that_is_missing_or_empty(tmp_path):
    fails(folder(tmp_path / "none"), tmp_path / "none", "not there", "set data.path=")
    (tmp_path / "file").touch()
    fails(folder(tmp_path / "file"), tmp_path / "file", "a file", "set data.path=")
    (tmp_path / "empty").mkdir()
    fails(folder(tmp_path / "empty"), tmp_path / "empty", "none", "set data.path=")
    (tmp_path / "empty" / "cat").mkdir()
    (tmp_path / "empty" / "cat" / "notes.txt").touch()
    fails(folder(tmp_path / "empty"), tmp_path / "empty", "none", "set data.path=")
    write_folder(tmp_path / "half/train", 4)
    (tmp_path / "half/test").mkdir()
    fails(folder(tmp_path / "half"), tmp_path / "half/test", "none")


def test_images_that_cannot_be_read(tmp_path):
    root = tmp_path / "pets"
    write_folder(root, 4)
    file = root / "dog" / "bad.jpg"
    Image.fromarray(random_pixels(64, 64, 3)).save(file)
    whole = file.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"no image"):
        file.write_bytes(content)
        fails(folder(root, size=8), file, "readable", "fix it or move it elsewhere")
    file.unlink()
    file.symlink_to(root / "nowhere.jpg")
    fails(folder(root, size=8), file, "readable", "fix it or move it elsewhere")


def test_images_that_cannot_be_read_are_named_together(tmp_path):
    root = tmp_path / "pets"
    write_folder(root, 4)
    for k in range(8):
        (root / "dog" / f"bad{k}.jpg").write_bytes(b"no image" if k % 2 else b"")
    first = [root / "dog" / f"bad{k}.jpg" for k in range(5)]
    fails(folder(root, size=8), *first, "and 3 more; fix them or move them elsewhere")


@pytest.mark.skipif(not ARCHIVE.is_file(), reason=f"{ARCHIVE} is not there")
def test_real_jpegs(tmp_path):
    with tarfile.open(ARCHIVE) as archive:
        for _, member in zip(range(400), archive, strict=False):
            archive.extract(member, tmp_path / "cifar", filter="data")
    files = sorted((tmp_path / "cifar").rglob("*.jpg"))
    assert len(files) > 300
    images = load_images(folder(tmp_path / "cifar", cache=tmp_path / "cache"))
    expected = as_set([np.asarray(Image.open(f).convert("RGB")) for f in files])
    assert set().union(*map(as_set, images)) == expected


# --- torchvision's sets ---


def md5(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


def write_cifar(root, monkeypatch, dataset, labels, train_files):
    """A small CIFAR: train [n, 3, 32, 32] and test, in the original's format."""
    base = root / dataset.base_folder
    base.mkdir(parents=True)
    train, test = random_pixels(30, 3, 32, 32), random_pixels(6, 3, 32, 32, seed=1)
    parts = np.split(train, len(train_files))
    files = dict(zip(train_files, parts, strict=True))
    for name, part in [*files.items(), (dataset.test_list[0][0], test)]:
        batch = {"data": part.reshape(len(part), -1), labels: [0] * len(part)}
        (base / name).write_bytes(pickle.dumps(batch))
    meta = base / dataset.meta["filename"]
    meta.write_bytes(pickle.dumps({dataset.meta["key"]: ["cat"]}))

    def listing(names):
        return [[name, md5(base / name)] for name in names]

    monkeypatch.setattr(dataset, "train_list", listing(train_files))
    monkeypatch.setattr(dataset, "test_list", listing([dataset.test_list[0][0]]))
    monkeypatch.setattr(dataset, "meta", {**dataset.meta, "md5": md5(meta)})
    return train, test


def check_splits(images, train, test):
    np.testing.assert_array_equal(images.test, test)
    assert (len(images.train), len(images.val)) == (len(train) - 3, 3)
    pixels = as_set(images.train) | as_set(images.val)
    assert pixels == as_set(torch.from_numpy(train))
    assert all(s.is_contiguous() and s.dtype == torch.uint8 for s in images)


@pytest.mark.parametrize(
    ("name", "labels", "train_files"),
    [
        ("cifar10", "labels", [f"data_batch_{i}" for i in range(1, 6)]),
        ("cifar100", "fine_labels", ["train"]),
    ],
)
def test_cifar(tmp_path, monkeypatch, name, labels, train_files):
    dataset = getattr(datasets, name.upper())
    root = tmp_path / "torchvision"
    written = write_cifar(root, monkeypatch, dataset, labels, train_files)
    check_splits(load_images(torchvision_set(name, tmp_path)), *written)


def test_without_torchvision_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)  # as if it were not installed
    config = torchvision_set("cifar10", tmp_path)
    fails(config, "data=cifar10 needs torchvision", "pip install 'vae-sweep[torchvision]'")


def test_cifar_from_an_archive_put_where_the_message_says(tmp_path, monkeypatch):
    monkeypatch.setattr("torchvision.datasets.utils._urlretrieve", no_network)
    monkeypatch.setattr("torchvision.datasets.utils._get_redirect_url", no_network)
    config = torchvision_set("cifar10", tmp_path)
    archive = tmp_path / "torchvision" / "cifar-10-python.tar.gz"
    fails(config, f"put {archive.name} into {archive.parent}")
    names = [f"data_batch_{i}" for i in range(1, 6)]
    written = write_cifar(tmp_path / "made", monkeypatch, datasets.CIFAR10, "labels", names)
    with tarfile.open(archive, "w:gz") as file:
        base = datasets.CIFAR10.base_folder
        file.add(tmp_path / "made" / base, base)
    monkeypatch.setattr(datasets.CIFAR10, "tgz_md5", md5(archive))
    check_splits(load_images(config), *written)


def idx(array):
    """The bytes of an idx file of uint8: magic number, big-endian sizes, values."""
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
    return header + array.tobytes()


@pytest.mark.parametrize(
    ("name", "dataset"),
    [("mnist", datasets.MNIST), ("fashion_mnist", datasets.FashionMNIST)],
)
def test_mnist_from_files_put_where_the_message_says(tmp_path, monkeypatch, name, dataset):
    monkeypatch.setattr("torchvision.datasets.utils._urlretrieve", no_network)
    monkeypatch.setattr("torchvision.datasets.utils._get_redirect_url", no_network)
    raw = tmp_path / "torchvision" / dataset.__name__ / "raw"
    names = [file for file, _ in dataset.resources]
    fails(torchvision_set(name, tmp_path), f"put {', '.join(names)} into {raw}")
    train, test = random_pixels(30, 28, 28), random_pixels(6, 28, 28, seed=1)
    arrays = (train, train[:, 0, 0], test, test[:, 0, 0])
    for file, array in zip(names, arrays, strict=True):
        (raw / file).write_bytes(gzip.compress(idx(array)))
    resources = [(file, md5(raw / file)) for file in names]
    monkeypatch.setattr(dataset, "resources", resources)
    images = load_images(torchvision_set(name, tmp_path))
    check_splits(images, train[:, None], test[:, None])
    (raw / "t10k-images-idx3-ubyte").write_bytes(idx(test)[:1000])
    fails(torchvision_set(name, tmp_path), raw, "use data=dead_leaves")


def test_svhn(tmp_path, monkeypatch):
    scipy_io = pytest.importorskip("scipy.io", reason="torchvision's SVHN needs scipy")
    root = tmp_path / "torchvision"
    root.mkdir()
    train, test = random_pixels(30, 3, 32, 32), random_pixels(6, 3, 32, 32, seed=1)
    split_list = {}
    for split, array in (("train", train), ("test", test)):
        path = root / f"{split}_32x32.mat"
        labels = np.ones((len(array), 1), np.uint8)
        scipy_io.savemat(path, {"X": array.transpose(2, 3, 1, 0), "y": labels})
        split_list[split] = ["http://nowhere", path.name, md5(path)]
    monkeypatch.setattr(datasets.SVHN, "split_list", split_list)
    check_splits(load_images(torchvision_set("svhn", tmp_path)), train, test)


def no_network(*args, **kwargs):
    raise URLError("Name or service not known")


FILES = {
    "cifar10": ("cifar-10-python.tar.gz",),
    "cifar100": ("cifar-100-python.tar.gz",),
    "svhn": ("train_32x32.mat", "test_32x32.mat"),
    "mnist": ("train-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz", "MNIST/raw"),
    "fashion_mnist": ("train-images-idx3-ubyte.gz", "FashionMNIST/raw"),
}


@pytest.mark.parametrize("name", torchvision_sets.TORCHVISION)
@pytest.mark.parametrize(
    "error",
    [
        URLError("Name or service not known"),
        ConnectionError("reset by peer"),
        RuntimeError("File not found\n or corrupted"),
        TimeoutError(),
    ],
)
def test_no_network(tmp_path, monkeypatch, capsys, name, error):
    def download(self):
        raise error

    dataset = getattr(datasets, torchvision_sets.TORCHVISION[name])
    monkeypatch.setattr(dataset, "download", download)
    root = tmp_path / "torchvision"
    config = torchvision_set(name, tmp_path)
    fails(config, f"data={name}", root, *FILES[name], "use data=dead_leaves")
    assert capsys.readouterr().err.count("\n") == 1


def test_downloads_are_quiet_where_nobody_watches(tmp_path, monkeypatch, capsys):
    class Downloaded:
        filename = "set.tar.gz"

        def __init__(self, root, train, download=False):
            if not download:
                raise RuntimeError("Dataset not found")
            print("\r12.5%", end="", file=sys.stderr)
            self.data = random_pixels(20, 4, 4, 3)

    monkeypatch.setattr(datasets, "CIFAR10", Downloaded)
    images = load_images(torchvision_set("cifar10", tmp_path))
    assert images.train.shape == (18, 3, 4, 4)
    assert "%" not in capsys.readouterr().err


def test_a_cache_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    config = torchvision_set("mnist", tmp_path / "file")
    fails(config, tmp_path / "file", "use data=dead_leaves")


def test_svhn_without_scipy(tmp_path, monkeypatch):
    class NoScipy:
        split_list = datasets.SVHN.split_list

        def __init__(self, root, split):
            raise ModuleNotFoundError("No module named 'scipy'", name="scipy")

    monkeypatch.setattr(datasets, "SVHN", NoScipy)
    fails(torchvision_set("svhn", tmp_path), "needs scipy", "pip install scipy")


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO])
@pytest.mark.parametrize("closed", ["", "train", "train/cat"])
def test_a_folder_that_cannot_be_listed(tmp_path, monkeypatch, closed, code):
    root, scandir, reason = tmp_path / "set", os.scandir, os.strerror(code)
    write_folder(root / "train", 3, ("dog",))
    for empty in ("train/cat", "test"):
        (root / empty).mkdir(parents=True)

    def denied(path):
        if Path(path) == root / closed:
            raise OSError(code, reason, str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", denied)
    fails(folder(root), f"got {root / closed} ({reason}); fix its permissions")


def test_a_folder_in_one_that_is_closed(tmp_path, monkeypatch):
    def denied(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_dir", denied)
    fails(folder(tmp_path), f"got {tmp_path} (Permission denied); fix its permissions")
