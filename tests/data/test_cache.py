"""Every file of the cache in every state: remade, without a traceback or a wrong number."""

import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers import load_images, make_images
from numpy.typing import NDArray
from PIL import Image

from vae_sweep.config import DeadLeavesConfig, ImageFolderConfig
from vae_sweep.data.cache import cached, cached_json, keep_json
from vae_sweep.data.spectrum import Spectra

ONES = np.ones(3)


def leaves(root: Path, seed: int) -> NDArray:
    sizes = {"images": 12, "size": 8, "val_images": None, "test_images": None}
    values = {"name": "dead_leaves", "seed": seed, "cache": str(root / "cache")} | sizes
    return load_images(DeadLeavesConfig.model_validate(values)).train.numpy()


def folder(root: Path, seed: int) -> NDArray:
    path = root / f"set{seed}"
    path.mkdir(exist_ok=True)
    for i, image in enumerate(make_images(12, seed=seed).permute(0, 2, 3, 1).numpy()):
        Image.fromarray(image).save(path / f"{i:02}.png")
    values = {"name": "image_folder", "path": str(path), "cache": str(root / "cache")}
    values |= {"size": None, "grayscale": False, "val_images": None, "test_images": None}
    return load_images(ImageFolderConfig.model_validate(values)).train.numpy()


def spectrum(root: Path, seed: int) -> NDArray:
    spectra = Spectra(make_images(12, seed=seed).numpy(), f"digest{seed}", root / "cache")
    found = spectra.of(ONES, 8)
    assert found is not None
    return found.values


CACHES = {"dead leaves": leaves, "folder": folder, "spectrum": spectrum}


def altered(content: bytes) -> bytes:
    """One number changed, in an archive that is sound."""
    with np.load(io.BytesIO(content)) as file:
        arrays = dict(file)
    name = max(arrays, key=lambda key: arrays[key].nbytes)
    arrays[name] = arrays[name].copy()
    arrays[name].flat[5] += 1
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def without_checksum(content: bytes) -> bytes:
    """As earlier versions wrote it."""
    with np.load(io.BytesIO(content)) as file:
        arrays = {key: file[key] for key in file.files if key != "checksum"}
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def other_arrays(content: bytes) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, images=np.zeros((12, 3, 8, 8), np.uint8), values=np.zeros(8))
    return buffer.getvalue()


def pickled(content: bytes) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, images=np.array([{"an": "object"}]))
    return buffer.getvalue()


SPOILED: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "truncated": lambda content: content[: len(content) // 2],
    "without its end": lambda content: content[:-10],
    "junk": lambda content: os.urandom(1000),
    "junk in its middle": lambda content: content[:400] + b"junk" + content[404:],
    "one number changed": altered,
    "without a checksum": without_checksum,
    "other arrays": other_arrays,
    "objects": pickled,
}


def only_file(cache: Path) -> Path:
    [path] = [p for p in cache.iterdir() if p.suffix == ".npz"]
    return path


@pytest.mark.parametrize("state", SPOILED)
@pytest.mark.parametrize("which", CACHES)
def test_a_spoiled_file_is_made_again(which, state, tmp_path):
    make = CACHES[which]
    first = make(tmp_path, 0)
    path = only_file(tmp_path / "cache")
    whole = path.read_bytes()
    path.write_bytes(SPOILED[state](whole))
    assert make(tmp_path, 0).tobytes() == first.tobytes()
    assert path.read_bytes() == whole  # and kept again
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("which", CACHES)
def test_a_file_of_something_else_under_its_name_is_made_again(which, tmp_path):
    make = CACHES[which]
    first = make(tmp_path, 0)
    path = only_file(tmp_path / "cache")
    path.rename(tmp_path / "kept")
    other = make(tmp_path, 1)
    assert other.tobytes() != first.tobytes()
    only_file(tmp_path / "cache").rename(path)
    assert make(tmp_path, 0).tobytes() == first.tobytes()


@pytest.mark.parametrize("which", CACHES)
def test_a_folder_or_a_link_in_the_place_of_a_file_stops_nothing(which, tmp_path):
    make = CACHES[which]
    first = make(tmp_path, 0)
    path = only_file(tmp_path / "cache")
    path.unlink()
    (path / "in it").mkdir(parents=True)  # a folder
    for _ in range(2):
        assert make(tmp_path, 0).tobytes() == first.tobytes()
    path.unlink()  # which is a file again
    path.symlink_to(path)  # a link to itself
    for _ in range(2):
        assert make(tmp_path, 0).tobytes() == first.tobytes()
    aside = path.with_name(f"{path.name}.old-1")
    assert {*path.parent.iterdir()} == {path, aside}
    assert [p.name for p in aside.iterdir()] == ["in it"]


@pytest.mark.parametrize("which", CACHES)
def test_a_cache_folder_that_is_a_file_stops_nothing(which, tmp_path):
    first = CACHES[which](tmp_path, 0)
    cache = tmp_path / "cache"
    only_file(cache).unlink()
    cache.rmdir()
    cache.write_text("no folder")
    assert CACHES[which](tmp_path, 0).tobytes() == first.tobytes()


def test_a_checksum_is_of_names_types_shapes_and_values(tmp_path):
    """Whatever of these changes under the same bytes, the file is another."""
    kept = {"a": np.arange(6, dtype=np.uint8)}
    path = tmp_path / "a.npz"
    cached(path, lambda: kept, lambda arrays: True)
    with np.load(path) as file:
        checksum = file["checksum"]
    for arrays in (
        {"b": kept["a"]},
        {"a": kept["a"].astype(np.int8)},
        {"a": kept["a"].reshape(2, 3)},
        {"a": kept["a"][::-1]},
        {**kept, "b": kept["a"]},
        {},
    ):
        np.savez(path, checksum=checksum, **arrays)
        found = cached(path, lambda: {"made": np.zeros(1)}, lambda arrays: True)
        assert list(found) == ["made"]
    cached(path, lambda: kept, lambda arrays: True)
    path.rename(tmp_path / "b.npz")
    assert "made" in cached(
        tmp_path / "b.npz", lambda: {"made": np.zeros(1)}, lambda arrays: True
    )


def test_json_is_kept_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a.json"
    assert cached_json(path) == {}
    keep_json(path, {"a": {"b": "c"}})
    whole = path.read_text()
    assert cached_json(path) == {"a": {"b": "c"}}
    for content in (
        *("", "{", "null", "[]", "3", '"text"', "{}", '{"content": 3}', "[" * 10**5),
        *(whole[:-5], whole.replace('"c"', '"d"'), '{"a": {"b": "c"}}', "\x00"),
    ):
        path.write_text(content)
        assert cached_json(path) == {}
    path.write_bytes(b"\xff\xfe")
    assert cached_json(path) == {}
    path.unlink()
    path.mkdir()
    assert cached_json(path) == {}
    keep_json(path, {"a": 1})
    assert cached_json(path) == {"a": 1}
    assert {p.name for p in tmp_path.iterdir()} == {"a.json", "a.json.old-1"}
