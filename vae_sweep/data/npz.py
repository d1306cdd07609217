"""Images in an .npz: arrays that a user saved with numpy."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vae_sweep.config import NpzConfig, expanded
from vae_sweep.data.arrays import channels_first, check_shapes, notes
from vae_sweep.data.cache import read_npz
from vae_sweep.data.source import Given, Source
from vae_sweep.errors import UserError

NPZ_KEYS = ("train_images", "val_images", "test_images", "images")


def read(config: NpzConfig) -> Given:
    """The arrays as they are: of four channels the last need not be an alpha."""
    path = expanded("data.path", config.path)
    rule = "data.path must be an .npz that holds train_images (with test_images, "
    rule += "val_images if there are any) or images alone"
    try:
        arrays, others = _read_npz(path)
    except Exception as error:  # zip, zlib and numpy raise what they like
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise UserError(
            f"{rule}, got {path} ({reason});\nset data.path=FILE, or save one array of "
            f"uint8 [n, H, W, C] with np.savez(FILE, images=array)"
        ) from None
    if set(arrays) != {"images"} and ("images" in arrays or "train_images" not in arrays):
        raise UserError(f"{rule}, got {path} with {', '.join(arrays)};\nrename its keys")
    splits = {key: channels_first(key, array) for key, array in arrays.items()}
    check_shapes(splits, str(path))
    train_key = "images" if "images" in splits else "train_images"
    said = notes(splits[train_key])
    if others:
        said.append(f"ignored: {', '.join(others)}")
    return Given(
        splits[train_key],
        splits.get("val_images"),
        splits.get("test_images"),
        {(key.removesuffix("_images") if "_" in key else "train"): key for key in splits},
        tuple(said),
    )


def _read_npz(path: Path) -> tuple[dict[str, NDArray], list[str]]:
    """The arrays of NPZ_KEYS, and the keys of the others."""
    arrays = read_npz(path, NPZ_KEYS)
    with np.load(path, allow_pickle=False) as file:
        return arrays, [key for key in file.files if key not in arrays]


SOURCE = Source(read)
