"""uint8 images from the arrays that a user has, or what makes such images of them."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vae_sweep.data.cache import Pixels
from vae_sweep.errors import UserError


class Form(NamedTuple):
    """How images lie in an array, and how code turns other arrays into such ones."""

    shapes: str
    axis: int  # of the channels, from the end
    turn: str  # what moves the channels there from where the other library has them
    cast: str
    floats: str = ""  # a simpler remedy of floats, said first

    @property
    def many(self) -> bool:
        """Whether it is of several images, [n, ...]."""
        return self.shapes.startswith("[n")


NUMPY = Form("[n, H, W] or [n, H, W, C]", -1, ".transpose(0, 2, 3, 1)", ".astype(np.uint8)")
NUMPY_ITEM = Form("[H, W] or [H, W, C]", -1, ".transpose(1, 2, 0)", ".astype(np.uint8)")
TORCH = Form("[n, H, W] or [n, C, H, W]", -3, ".permute(0, 3, 1, 2)", ".to(torch.uint8)")
TORCH_ITEM = Form(
    "[H, W] or [C, H, W]", -3, ".permute(2, 0, 1)", ".to(torch.uint8)",
    "drop ToTensor() and Normalize() from its transform, or ",
)  # fmt: skip


def channels_first(what: str, array: NDArray, form: Form = NUMPY) -> Pixels:
    """[n, C, H, W] from an array of `form`, n = 1 of a single image.

    Raises UserError where it is of another shape or type; `what` names it.
    """
    images = array if form.many else array[None]
    if images.ndim == 3:
        images = np.expand_dims(images, form.axis)
    shaped = images.ndim == 4 and images.size > 0 and images.shape[form.axis] <= 4
    if array.dtype != np.uint8 or not shaped:
        raise UserError(
            f"{what} must be uint8 {form.shapes} with C in 1..4, got "
            f"{array.dtype} {list(array.shape)}; convert it: {_remedy(array, shaped, form)}"
        )
    return np.moveaxis(images, form.axis, 1)


def _remedy(array: NDArray, shaped: bool, form: Form) -> str:
    """What makes uint8 images of `form` of an array, in code or in words."""
    images = "images" if form.many else "image"
    if array.size == 0:
        return "it holds no images; leave it out"
    if not shaped:
        dims = 4 if form.many else 3
        other = -3 if form.axis == -1 else -1
        if array.ndim != dims or not 0 < array.shape[other] <= 4:
            return "reshape or crop it, pixels 0..255"
        images += form.turn
    if array.dtype == np.uint8:
        return images
    if array.dtype == bool:
        return f"{images}{form.cast} * 255"
    floats = form.floats if array.dtype.kind == "f" else ""
    return floats + _scaled(array, images, form.cast)


def _scaled(array: NDArray, images: str, cast: str) -> str:
    low, high = (float(f(array)) for f in (np.min, np.max)) if _counts(array) else (-1, -1)
    if 0 <= low <= high <= 1:
        return f"({images} * 255).round(){cast}"
    if -1 <= low < 0 < high <= 1:
        return f"({images} * 127.5 + 127.5).round(){cast}"
    if 0 <= low <= high <= 255:
        return f"{images}.round(){cast}"
    if array.dtype == np.uint16:
        return f"({images} / 257).round(){cast}"
    return "scale its pixels to 0..255 and save them as uint8"


def _counts(array: NDArray) -> bool:
    """Whether it holds numbers that can be compared."""
    return array.size > 0 and array.dtype.kind in "iuf"


def check_shapes(splits: Mapping[str, Pixels], place: str) -> None:
    """Raises UserError where splits [n, C, H, W] have images of unequal shape."""
    shapes = {key: images.shape[1:] for key, images in splits.items()}
    if len(set(shapes.values())) > 1:
        received = ", ".join(f"{key} {list(shape)}" for key, shape in shapes.items())
        raise UserError(
            f"all splits must have images of one shape, got {received} (C, H, W) in "
            f"{place};\nmake them equal"
        )


def notes(images: Pixels) -> list[str]:
    """What a person should know of how images [n, C, H, W] are read."""
    channels = images.shape[1]
    if channels not in (2, 4):
        return []
    return [
        f"{channels} channels, all of them data (if the last is an alpha, composite "
        f"the images and save 1 or 3)"
    ]
