"""A user's own images: what a function, a class or a torch Dataset of theirs gives.

A function or class is called with its keyword parameters, the keys data.*. It returns, and
a Dataset is, the training images in one of these forms:

- a numpy array, uint8 [n, H, W] or [n, H, W, C]: channels last, C in 1..4;
- a torch tensor, uint8 [n, H, W] or [n, C, H, W]: channels first;
- a map-style torch Dataset, of which each item is an image or a tuple that begins with
  one: a PIL image of mode L or RGB, or uint8 as above without the n.

The type alone, numpy's or torch's, says where the channels are: sizes are never guessed
from. A dict {"train": ..., "val": ..., "test": ...} of such has splits of its own; only
"train" is needed. It may also hold "transform": see random_transform.py.

The images must be the same at every call: by them a run is found again. What is read in
less than REPEAT_S is therefore read twice; of a Dataset the first items always are.
"""

import inspect
import sys
import time
from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vae_sweep import options
from vae_sweep.config import OwnData
from vae_sweep.data import arrays
from vae_sweep.data.arrays import NUMPY, NUMPY_ITEM, TORCH, TORCH_ITEM
from vae_sweep.data.cache import Pixels, tracked
from vae_sweep.data.source import DRAWN, Given, Source
from vae_sweep.errors import UserError, nearest, shown

if TYPE_CHECKING:
    from vae_sweep.data.random_transform import Transform

SPLITS = ("train", "val", "test")
REPEAT_S = 1.0  # seconds; a source that takes longer is read once
REPEATED = 8  # items of a Dataset that are always read twice
MANY_ITEMS = 5_000  # of a Dataset, take seconds to read
WHAT = "a function or a class that returns images, or a torch Dataset"


def accepted(given: Any) -> Source | None:
    """A source that reads a user's object; None of what is none."""
    if not (callable(given) or _is_dataset(given)):
        return None
    return Source(
        read=lambda config: read(given, f"data={config.name}", config.parameters),
        transform=_transform,
    )


@cache
def _transform(config: OwnData) -> "Transform | None":
    """The random transform of a source, of which no Dataset is read."""
    given = options.own("data", config.name)
    return _parts(given, f"data={config.name}", config.parameters)[1]


def read(given: Any, what: str, parameters: Mapping[str, Any]) -> Given:
    """The images of a user's object; `what` names it as it was typed, data=mine:blobs.

    Raises:
        UserError: It raises, or gives something else than the module says, or other images
            when it is asked again.
    """
    started = time.perf_counter()
    found = _read(given, what, parameters)
    if time.perf_counter() - started < REPEAT_S:
        _check_same(found, _read(given, what, parameters), what)
    return found


def check(given: Any, what: str = "data", /, **parameters: Any) -> None:
    """Verifies a user's object: it gives images, the same ones when it is asked again, and
    its transform, if it has one, draws as it must. `parameters` are its keywords.

    Raises:
        UserError: It does not.
    """
    if accepted(given) is None:
        raise UserError(f"{what} must be {WHAT}, got a {type(given).__name__}")
    found = _read(given, what, parameters)
    _check_same(found, _read(given, what, parameters), what)
    if found.transform is not None:
        import torch

        from vae_sweep.data.random_transform import fixed

        fixed(what, found.transform, torch.from_numpy(found.train.copy()), "train")


def _check_same(one: Given, other: Given, what: str) -> None:
    for split in SPLITS:
        a, b = getattr(one, split), getattr(other, split)
        if a is not b and (a is None or b is None or not np.array_equal(a, b)):
            raise UserError(_varies(what, split))


def _varies(what: str, split: str) -> str:
    return (
        f"{what}: the {split} images must be the same whenever they are read, or no "
        f"run could be found again, got others the second time; draw them from a seed, "
        f"np.random.default_rng(0), and drop random transforms"
    )


def _read(given: Any, what: str, parameters: Mapping[str, Any]) -> Given:
    parts, transform = _parts(given, what, parameters)
    splits = {split: _pixels(part, what, split) for split, part in parts.items()}
    arrays.check_shapes(splits, what)
    said = arrays.notes(splits["train"])
    if transform is not None:
        said.append(DRAWN)
    return Given(
        splits["train"], splits.get("val"), splits.get("test"), {}, tuple(said), transform
    )


def _parts(
    given: Any, what: str, parameters: Mapping[str, Any]
) -> "tuple[dict[str, Any], Transform | None]":
    """The splits as the user gives them, and the transform."""
    if not _is_dataset(given):
        given = _called(what, what, given, **parameters)
    parts = given if isinstance(given, dict) else {"train": given}
    for key in parts:
        if key not in (*SPLITS, "transform"):
            meant = isinstance(key, str) and nearest(key, (*SPLITS, "transform"))
            raise UserError(
                f"{what} must return a dict of train, val, test and transform, got "
                f"the key {shown(key)}; "
                + (f"did you mean {meant}?" if meant else "rename or remove it")
            )
    splits = {key: parts[key] for key in SPLITS if parts.get(key) is not None}
    if "train" not in splits:
        got = ", ".join(map(str, splits)) or "no images"
        raise UserError(f"{what} must give train images, got {got}; add train")
    transform: Any = parts.get("transform")
    if transform is not None and not callable(transform):
        raise UserError(
            f"{what}: transform must be a function (u, generator) -> u, got a "
            f"{type(transform).__name__}; write one"
        )
    return splits, parts.get("transform")


def _pixels(given: Any, source: str, split: str) -> Pixels:
    """[n, C, H, W]."""
    what = f"{source}: {split}"
    if isinstance(given, np.ndarray) or _is_tensor(given):
        images = _array(given, what)
        if images.ndim > 0 and len(images) == 0:
            raise UserError(f"{what} must hold images, got none; give some or leave it out")
        return arrays.channels_first(what, images, TORCH if _is_tensor(given) else NUMPY)
    if _is_dataset(given):
        return _of_dataset(given, source, split)
    raise UserError(
        f"{what} must be a numpy array, a torch tensor or a torch Dataset with __len__, "
        f"got a {type(given).__name__}; {_remedy(given)}"
    )


def _remedy(given: Any) -> str:
    if isinstance(given, list | tuple):
        return "stack its images: np.stack(images)"
    if inspect.isclass(given):
        return "call it"
    return "return uint8 images"


def _of_dataset(dataset: Any, source: str, split: str) -> Pixels:
    what = f"{source}: {split}"
    count = _called(source, what, len, dataset)
    if count == 0:
        raise UserError(f"{what} must hold images, got none; give some or leave it out")
    first = _item(dataset, 0, source, split)
    try:
        images = np.empty((count, *first.shape), np.uint8)
    except MemoryError:
        size = count * first.size / 2**30
        raise UserError(
            f"all images are held in memory, here {count} in {what}, {size:.0f} GiB; give "
            f"fewer or smaller ones"
        ) from None
    numbers = range(count)
    if count >= MANY_ITEMS:
        numbers = tracked(
            numbers, count, f"reading {count} {split} images", f" of {source}"
        )
    for i in numbers:
        image = _item(dataset, i, source, split)
        if image.shape != first.shape:
            raise UserError(
                f"{what} must have images of one shape, got {list(first.shape)} (C, H, W) "
                f"in item 0 and {list(image.shape)} in item {i}; resize or crop them"
            )
        images[i] = image
    for i in range(min(count, REPEATED)):
        if not np.array_equal(images[i], _item(dataset, i, source, split)):
            raise UserError(_varies(source, split))
    return images


def _item(dataset: Any, i: int, source: str, split: str) -> Pixels:
    """[C, H, W]."""
    what = f"{source}: item {i} of {split}"
    image = _called(source, what, dataset.__getitem__, i)
    if isinstance(image, tuple | list) and len(image) > 0:
        image = image[0]
    form = TORCH_ITEM if _is_tensor(image) else NUMPY_ITEM
    if isinstance(image, Image.Image):
        if image.mode not in ("L", "RGB"):
            raise UserError(
                f"{what} must be a PIL image of mode L or RGB, got {image.mode}; convert "
                f'it: image.convert("RGB")'
            )
        image = _called(source, what, np.asarray, image)  # decodes a file
    if not (isinstance(image, np.ndarray) or _is_tensor(image)):
        raise UserError(
            f"{what} must be an image or (image, ...), a PIL image, a uint8 tensor or a "
            f"uint8 array, got a {type(image).__name__}; return one"
        )
    return arrays.channels_first(what, _array(image, what), form)[0]


def _array(given: Any, what: str) -> NDArray:
    """A numpy array of an array or a tensor."""
    if isinstance(given, np.ndarray):
        return given
    try:
        tensor = given.detach().cpu()
        wide = tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor
        return wide.numpy()
    except (RuntimeError, TypeError):  # sparse or quantized, say
        raise UserError(
            f"{what} must be a plain tensor of uint8, got {given.layout}, {given.dtype}; "
            f"make it one"
        ) from None


def _called(
    source: str, what: str, function: Callable[..., Any], /, *given: Any, **keys: Any
) -> Any:
    """What the user's code makes; UserError says what it raised."""
    try:
        return function(*given, **keys)
    except (Exception, SystemExit) as error:
        raise UserError(
            f"{what} raised {options.raised(error, source.partition('=')[2])}"
        ) from None


def _is_tensor(given: Any) -> bool:
    torch = sys.modules.get("torch")  # who has a tensor has imported it
    return torch is not None and isinstance(given, torch.Tensor)


def _is_dataset(given: Any) -> bool:
    """Whether it is a map-style torch Dataset."""
    torch = sys.modules.get("torch")
    kind = getattr(getattr(torch, "utils", None), "data", None)
    is_one = kind is not None and isinstance(given, kind.Dataset)
    return is_one and hasattr(given, "__len__")
