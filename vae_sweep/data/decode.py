"""One image file as a person sees it: turned upright, on a background, 8 bits a channel.

Values are taken as the file has them: no color profile is applied.
"""

import contextlib
import io
import sys
from enum import IntFlag
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from vae_sweep.data.cache import Pixels

Color = tuple[int, int, int]
Transpose = Image.Transpose

TURNED = {  # EXIF orientation -> what makes the image upright
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}
DEEP = 65535  # the largest value of 16 bits
BITS, PHOTOMETRIC, ORIENTATION, PLANAR = 258, 262, 274, 284  # tags of a TIFF
WHITE_IS_ZERO = 0  # photometric interpretation
IN_PLANES = 2  # planar configuration
OTHER = {  # byte order in a raw mode of Pillow -> the opposite one
    **{"16L": "16B", "16B": "16L"},
    "16N": "16B" if sys.byteorder == "little" else "16L",
}


class Done(IntFlag):
    """What was done to an image besides decoding it."""

    TURNED = 1
    COMPOSITED = 2
    ROUNDED = 4  # from more than 8 bits
    CUT = 8  # to the first of several frames


class Layers(NamedTuple):
    """Colors [H, W, 3] and alpha [H, W], integers in 0..`top`, before compositing.

    `multiplied` colors have been multiplied with alpha already.
    """

    color: NDArray[np.int64]
    alpha: NDArray[np.int64] | None
    top: int
    multiplied: bool = False


def decode(
    content: bytes, background: Color, size: int | None, gray: bool
) -> tuple[Pixels, Done]:
    """An image [C, H, W], C = 1 if `gray` and 3 otherwise, and what was done to it.

    It is turned as its EXIF orientation says, and composited on `background` before it is
    resized (bilinear, antialiased; the short side to `size`) and cropped at the center, so
    that hidden colors have no influence. Values v of 16 bits become round(v / 257). Of
    several frames it is the first.

    Raises:
        Exception: Whatever Pillow raises for a file that is damaged; ValueError for one
            that is no image, or whose values have no known range.
    """
    if not content:
        raise ValueError("the file is empty")
    try:
        opened = Image.open(io.BytesIO(content))
    except UnidentifiedImageError:
        raise ValueError("no image that Pillow can read") from None
    with opened as image:
        done = Done.CUT if _has_frames(image) else Done(0)
        raw = _raw_mode(image)
        stored = getattr(image, "tag_v2", {}).get(ORIENTATION)
        image.load()  # which turns a TIFF, and drops the tag
        orientation = _orientation(image)
        layers = _layers(image, content, raw)
        seen = Image.fromarray(_composite(layers, background)) if layers else image
        seen = seen.convert("RGB") if seen.mode == "LAB" else seen  # has no gray
        seen = seen.convert("L" if gray else "RGB")
    if orientation in TURNED:
        seen = seen.transpose(TURNED[orientation])
    if orientation in TURNED or stored in TURNED:
        done |= Done.TURNED
    if layers and layers.top > 255:
        done |= Done.ROUNDED
    if layers and layers.alpha is not None and layers.alpha.min() < layers.top:
        done |= Done.COMPOSITED
    if size is not None:
        seen = ImageOps.fit(seen, (size, size), Image.Resampling.BILINEAR)
    array = np.asarray(seen)
    return (array[None] if gray else array.transpose(2, 0, 1)), done


def _has_frames(image: Image.Image) -> bool:
    """Whether there are several; the other pictures of a camera's MPO are no frames."""
    if image.format == "MPO":
        return False
    with contextlib.suppress(Exception):  # damage beyond the first frame
        return bool(getattr(image, "is_animated", False))
    return False


def _orientation(image: Image.Image) -> int | None:
    """EXIF's, of a loaded image: a PNG may state it after its pixels."""
    with contextlib.suppress(Exception):  # EXIF data are often damaged, and then ignored
        return image.getexif().get(ExifTags.Base.Orientation)
    return None


def _composite(layers: Layers, background: Color) -> Pixels:
    """The colors over `background`, uint8 [H, W, 3], rounded once."""
    color, alpha, top, multiplied = layers
    if alpha is None:
        return ((2 * 255 * color + top) // (2 * top)).astype(np.uint8)
    alpha = alpha[..., None]
    front = color * (top if multiplied else alpha)
    behind = (top - alpha) * top * np.array(background)
    exact = 255 * front + behind  # over top^2, which is odd: nothing lies half-way
    return ((2 * exact + top**2) // (2 * top**2)).clip(max=255).astype(np.uint8)


def _layers(image: Image.Image, content: bytes, raw: str) -> Layers | None:
    """Of a loaded image that has an alpha, or more than 8 bits; None for others."""
    if image.mode == "F":
        raise ValueError(
            "its pixels are floats, of which the range is not known; "
            "save it with 8 or 16 bits a channel"
        )
    if image.mode.startswith("I"):
        return _layers_of_gray(image)
    tags = getattr(image, "tag_v2", {})
    if tags.get(PLANAR) == IN_PLANES and 16 in tags.get(BITS, ()):
        raise ValueError("its 16-bit channels lie in planes; save it as PNG")
    if ";16" in raw:
        return _layers_of_colors(image, content, raw)
    if raw == "RGBa":  # Pillow divides by alpha and rounds, which multiplying cannot undo
        rgba = _unpacked(content, "RGBA")
        return Layers(rgba[..., :3], rgba[..., 3], 255, multiplied=True)
    if not image.has_transparency_data:
        return None
    depth = content[24] if image.format == "PNG" else 8  # of the header's IHDR chunk
    if depth in (2, 4) and image.mode == "L":  # Pillow scales these levels to 0..255, but
        image.info["transparency"] *= 255 // (2**depth - 1)  # not the transparent one
    rgba = np.asarray(image.convert("RGBA")).astype(np.int64)
    return Layers(rgba[..., :3], rgba[..., 3], 255)


def _layers_of_gray(image: Image.Image) -> Layers:
    """Of levels of 12 or 16 bits, perhaps with one that is transparent."""
    levels = np.asarray(image).astype(np.int64)
    if levels.min() < 0 or levels.max() > DEEP:
        raise ValueError(
            f"its pixels are 32-bit numbers, {levels.min()}..{levels.max()} here; "
            f"save it with 8 or 16 bits a channel"
        )
    tags = getattr(image, "tag_v2", {})
    top = 4095 if tags.get(BITS) == (12,) else DEEP
    if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO:  # Pillow inverts those of 8 bits only
        levels = top - levels
    alpha = None
    if "transparency" in image.info:
        alpha = np.where(levels == image.info["transparency"], 0, top)
    return Layers(np.stack([levels] * 3, -1), alpha, top)


def _layers_of_colors(image: Image.Image, content: bytes, raw: str) -> Layers:
    """Of 16-bit colors.

    Pillow keeps the upper byte of each sample. If it is told the opposite byte order, that
    is the lower one.
    """
    kind, _, order = raw.partition(";")
    if kind == "LA":  # four bytes a pixel
        bytes_ = _unpacked(content, "RGBA")
        samples = bytes_[..., 0::2] * 256 + bytes_[..., 1::2]
        return Layers(samples[..., [0, 0, 0]], samples[..., 1], DEEP)
    kind = "RGBA" if kind == "RGBa" else kind
    upper = _unpacked(content, f"{kind};{order}")
    lower = _unpacked(content, f"{kind};{OTHER[order]}")
    samples = upper * 256 + lower
    if kind == "CMYK":
        inks = ((2 * 255 * samples + DEEP) // (2 * DEEP)).astype(np.uint8)
        ink = Image.frombytes("CMYK", inks.shape[1::-1], inks.tobytes())
        return Layers(np.asarray(ink.convert("RGB")).astype(np.int64) * 257, None, DEEP)
    color = samples[..., :3]
    alpha = samples[..., 3] if kind == "RGBA" else None
    if "transparency" in image.info:
        hidden = (color == np.array(image.info["transparency"])).all(-1)
        alpha = np.where(hidden, 0, DEEP)
    return Layers(color, alpha, DEEP, multiplied=raw.startswith("RGBa"))


def _raw_mode(image: Image.Image) -> str:
    """How Pillow is to unpack the pixels of an image that is not loaded: `RGB;16B`."""
    tiles = getattr(image, "tile", ())
    args = tiles[0].args if tiles else ""
    return str(args[0] if isinstance(args, tuple) else args)


def _unpacked(content: bytes, raw: str) -> NDArray[np.int64]:
    """The pixels of an image, unpacked as `raw`."""
    with Image.open(io.BytesIO(content)) as image:
        for i, tile in enumerate(image.tile):
            args = (raw, *tile.args[1:]) if isinstance(tile.args, tuple) else raw
            image.tile[i] = tile._replace(args=args)
        return np.asarray(image).astype(np.int64)
