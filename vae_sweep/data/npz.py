"""Images in an .npz: arrays that a user saved with numpy."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vae_sweep.config import NpzConfig, expanded
from vae_sweep.data.cache import Pixels, read_npz
from vae_sweep.data.source import Source
from vae_sweep.errors import UserError

NPZ_KEYS = ("train_images", "val_images", "test_images", "images")


def read(config: NpzConfig) -> Source:
    """The arrays as they are: of four channels the last need not be an alpha."""
    path = expanded("data.path", config.path)
    rule = "data.path must be an .npz that holds train_images (with test_images, "
    rule += "val_images if there are any) or images alone"
    try:
        arrays, others = _read_npz(path)
    except Exception as error:  # zip, zlib and numpy raise what they like
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise UserError(
            f"{rule}, got {path} ({reason});\nset data.path=FILE, or save it with "
            f"np.savez(FILE, images=array)"
        ) from None
    if set(arrays) != {"images"} and ("images" in arrays or "train_images" not in arrays):
        raise UserError(f"{rule}, got {path} with {', '.join(arrays)};\nrename its keys")
    splits = {key: _channels_first(key, array) for key, array in arrays.items()}
    shapes = {key: images.shape[1:] for key, images in splits.items()}
    if len(set(shapes.values())) > 1:
        received = ", ".join(f"{key} {list(shape)}" for key, shape in shapes.items())
        raise UserError(
            f"all splits must have images of one shape, got {received} (C, H, W) in "
            f"{path};\nmake them equal"
        )
    train_key = "images" if "images" in splits else "train_images"
    channels = splits[train_key].shape[1]
    notes = []
    if channels in (2, 4):
        notes.append(
            f"{channels} channels, all of them data (if the last is an alpha, composite "
            f"the images and save 1 or 3)"
        )
    if others:
        notes.append(f"ignored: {', '.join(others)}")
    return Source(
        splits[train_key],
        splits.get("val_images"),
        splits.get("test_images"),
        {(key.removesuffix("_images") if "_" in key else "train"): key for key in splits},
        tuple(notes),
    )


def _read_npz(path: Path) -> tuple[dict[str, NDArray], list[str]]:
    """The arrays of NPZ_KEYS, and the keys of the others."""
    arrays = read_npz(path, NPZ_KEYS)
    with np.load(path, allow_pickle=False) as file:
        return arrays, [key for key in file.files if key not in arrays]


def _channels_first(key: str, array: NDArray) -> Pixels:
    """[n, C, H, W] from [n, H, W] or [n, H, W, C]; UserError where it is neither."""
    images = array[..., None] if array.ndim == 3 else array
    shaped = images.ndim == 4 and images.size > 0 and images.shape[3] <= 4
    if array.dtype != np.uint8 or not shaped:
        raise UserError(
            f"{key} must be uint8 [n, H, W] or [n, H, W, C] with C in 1..4, got "
            f"{array.dtype} {list(array.shape)}; convert it: {_remedy(array, shaped)}"
        )
    return images.transpose(0, 3, 1, 2)


def _remedy(array: NDArray, shaped: bool) -> str:
    """What makes uint8 images [n, H, W, C] of an array, in numpy or in words."""
    images = "images"
    if array.size == 0:
        return "it holds no images; leave it out"
    if not shaped:
        if array.ndim != 4 or not 0 < array.shape[1] <= 4:
            return "reshape or crop it, pixels 0..255"
        images += ".transpose(0, 2, 3, 1)"
    if array.dtype == np.uint8:
        return images
    if array.dtype == bool:
        return f"{images}.astype(np.uint8) * 255"
    low, high = (float(f(array)) for f in (np.min, np.max)) if _counts(array) else (-1, -1)
    if 0 <= low <= high <= 1:
        return f"({images} * 255).round().astype(np.uint8)"
    if -1 <= low < 0 < high <= 1:
        return f"({images} * 127.5 + 127.5).round().astype(np.uint8)"
    if 0 <= low <= high <= 255:
        return f"{images}.round().astype(np.uint8)"
    if array.dtype == np.uint16:
        return f"({images} / 257).round().astype(np.uint8)"
    return "scale its pixels to 0..255 and save them as uint8"


def _counts(array: NDArray) -> bool:
    """Whether it holds numbers that can be compared."""
    return array.size > 0 and array.dtype.kind in "iuf"
