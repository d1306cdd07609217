"""Image files against pixels computed by hand, on small images without symmetry."""

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from vae_sweep.config import ImageFolderConfig
from vae_sweep.data import image_folder
from vae_sweep.data.decode import Done, decode
from vae_sweep.errors import UserError

README = Path(__file__).parents[1] / "README.md"
WHITE, BLACK, MIXED = (255, 255, 255), (0, 0, 0), (10, 20, 30)

# --- writers, where Pillow has none ---


def chunk(kind: bytes, data: bytes) -> bytes:
    return (
        struct.pack(">I", len(data))
        + kind
        + data
        + struct.pack(">I", zlib.crc32(kind + data))
    )


def png(
    rows: list[bytes], width: int, depth: int, kind: int, *before: bytes, after: bytes = b""
) -> bytes:
    """A PNG of unfiltered `rows`; kind 0 gray, 2 RGB, 3 palette, 4 gray + alpha, 6 RGBA."""
    header = struct.pack(">IIBBBBB", width, len(rows), depth, kind, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    parts = [chunk(b"IHDR", header), *before, chunk(b"IDAT", data), after]
    return b"\x89PNG\r\n\x1a\n" + b"".join([*parts, chunk(b"IEND", b"")])


def png16(samples: np.ndarray, kind: int, *before: bytes) -> bytes:
    """[H, W, channels] of 16 bits."""
    rows = [row.astype(">u2").tobytes() for row in samples]
    return png(rows, samples.shape[1], 16, kind, *before)


def tiff(
    samples: np.ndarray,
    photometric: int,
    extra: int | None = None,
    deflate: bool = False,
    order: str = "<",
    orientation: int = 1,
    predictor: bool = False,
    bits: int | None = None,
    raw: bytes | None = None,
    planar: int = 1,
) -> bytes:
    """[H, W, channels] in one strip per row, as stored."""
    height, width, channels = samples.shape
    depth = bits or 8 * samples.dtype.itemsize
    stored = samples.copy()
    if predictor:
        stored[:, 1:] -= samples[:, :-1]
    strips = [row.astype(row.dtype.newbyteorder(order)).tobytes() for row in stored]
    strips = strips if raw is None else [raw]
    strips = [zlib.compress(strip) if deflate else strip for strip in strips]
    tags: dict[int, tuple[str, list[int]]] = {
        256: ("H", [width]),
        257: ("H", [height]),
        258: ("H", [depth] * channels),
        259: ("H", [8 if deflate else 1]),
        262: ("H", [photometric]),
        273: ("I", [0] * len(strips)),
        274: ("H", [orientation]),
        277: ("H", [channels]),
        278: ("H", [height // len(strips)]),
        279: ("I", [len(strip) for strip in strips]),
        284: ("H", [planar]),
        317: ("H", [2 if predictor else 1]),
    }
    if extra is not None:
        tags[338] = ("H", [extra])
    start = 8 + 2 + 12 * len(tags) + 4
    lengths = {tag: struct.calcsize("=" + kind * len(v)) for tag, (kind, v) in tags.items()}
    data = start + sum(n for n in lengths.values() if n > 4)
    offsets = [data + sum(map(len, strips[:i])) for i in range(len(strips))]
    tags[273] = ("I", offsets)
    entries, values = b"", b""
    for tag, (kind, numbers) in sorted(tags.items()):
        packed = struct.pack(order + kind * len(numbers), *numbers)
        code = {"H": 3, "I": 4}[kind]
        entries += struct.pack(order + "HHI", tag, code, len(numbers))
        if len(packed) > 4:
            entries += struct.pack(order + "I", start + len(values))
            values += packed
        else:
            entries += packed.ljust(4, b"\0")
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8)
    body = struct.pack(order + "H", len(tags)) + entries + struct.pack(order + "I", 0)
    return head + body + values + b"".join(strips)


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)  # pyright: ignore[reportArgumentType]
    return buffer.getvalue()


def exif(orientation: int) -> bytes:
    data = Image.Exif()
    data[0x0112] = orientation
    return data.tobytes()


def array(*rows: list) -> np.ndarray:
    return np.array(rows)


# --- the images ---

RGB = array(
    [(10, 20, 30), (40, 50, 60), (70, 80, 90)],
    [(100, 110, 120), (130, 140, 150), (160, 170, 180)],
).astype(np.uint8)
GRAY = array([1, 2, 3], [4, 5, 6]).astype(np.uint8)
# a fifth, nothing, all; over white 0.2 * (200, 100, 0) + 0.8 * 255 = (244, 224, 204)
RGBA = array([(200, 100, 0, 51), (9, 8, 7, 0), (1, 2, 3, 255)]).astype(np.uint8)
OVER_WHITE = array([(244, 224, 204), (255, 255, 255), (1, 2, 3)])
OVER_BLACK = array([(40, 20, 0), (0, 0, 0), (1, 2, 3)])
OVER_MIXED = array([(48, 36, 24), (10, 20, 30), (1, 2, 3)])
# 128 / 257 = 0.498, 129 / 257 = 0.502, 385 / 257 = 1.498, 386 / 257 = 1.502
DEEP = array([0, 128, 129], [385, 386, 65535]).astype(np.uint16)
DEEP_SEEN = array([0, 0, 1], [1, 2, 255])
DEEP_RGB = np.stack([DEEP, DEEP[:, ::-1], DEEP[::-1]], -1)
DEEP_RGB_SEEN = np.stack([DEEP_SEEN, DEEP_SEEN[:, ::-1], DEEP_SEEN[::-1]], -1)
DEEP_RGBA = RGBA.astype(np.uint16) * 257
MULTIPLIED = array([(40, 20, 0, 51), (0, 0, 0, 0), (1, 2, 3, 255)]).astype(np.uint8)


def gray3(levels: np.ndarray) -> np.ndarray:
    return np.stack([levels] * 3, -1)


def frames(kind: str, **options: object) -> bytes:
    first, second = Image.fromarray(RGB), Image.fromarray(RGB[::-1].copy())
    return saved(first, kind, save_all=True, append_images=[second], **options)


def palette(alpha: bytes) -> bytes:
    """Three pixels of a palette of two bits."""
    colors = chunk(b"PLTE", bytes([200, 100, 0, 9, 8, 7, 1, 2, 3]))
    return png([b"\x18"], 3, 2, 3, colors, chunk(b"tRNS", alpha))


def transparent(*samples: int) -> bytes:
    return chunk(b"tRNS", struct.pack(f">{len(samples)}H", *samples))


def bomb() -> bytes:
    return png([b"\0"], 2**16, 8, 0).replace(
        chunk(b"IHDR", struct.pack(">IIBBBBB", 2**16, 1, 8, 0, 0, 0, 0)),
        chunk(b"IHDR", struct.pack(">IIBBBBB", 2**16, 2**16, 8, 0, 0, 0, 0)),
    )


CMYK = Image.frombytes("CMYK", (3, 1), bytes([0, 0, 0, 0, 255, 0, 0, 0, 0, 0, 0, 255]))
CMYK_SEEN = array([(255, 255, 255), (0, 255, 255), (0, 0, 0)])
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
PNG = saved(Image.fromarray(RGB), "png")
JPEG = saved(Image.fromarray(np.arange(64 * 64).reshape(64, 64).astype(np.uint8)), "jpeg")
NOISE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)

# what -> (file, pixels [H, W, 3] over white)
READ: dict[str, tuple[bytes, np.ndarray]] = {
    "RGB: PNG": (PNG, RGB),
    "RGB: BMP": (saved(Image.fromarray(RGB), "bmp"), RGB),
    "RGB: PPM": (saved(Image.fromarray(RGB), "ppm"), RGB),
    "RGB: TIFF": (saved(Image.fromarray(RGB), "tiff"), RGB),
    "RGB: TIFF, LZW": (saved(Image.fromarray(RGB), "tiff", compression="tiff_lzw"), RGB),
    "RGB: WebP, lossless": (saved(Image.fromarray(RGB), "webp", lossless=True), RGB),
    "RGB with a color profile: values as stored": (
        saved(Image.fromarray(RGB), "png", icc_profile=SRGB),
        RGB,
    ),
    "gray: PNG": (saved(Image.fromarray(GRAY), "png"), gray3(GRAY)),
    "gray: PGM": (saved(Image.fromarray(GRAY), "ppm"), gray3(GRAY)),
    "palette: PNG": (palette(b""), array([(200, 100, 0), (9, 8, 7), (1, 2, 3)])),
    "1 bit: PNG": (
        png([b"\xa0", b"\x40"], 3, 1, 0),
        gray3(array([255, 0, 255], [0, 255, 0])),
    ),
    "CMYK: TIFF": (saved(CMYK, "tiff"), CMYK_SEEN),
    "CMYK, 16 bits: TIFF": (
        tiff(np.asarray(CMYK).astype(np.uint16) * 257, 5),
        CMYK_SEEN,
    ),
    "alpha, RGB: PNG": (saved(Image.fromarray(RGBA), "png"), OVER_WHITE),
    "alpha, RGB: TIFF": (saved(Image.fromarray(RGBA), "tiff"), OVER_WHITE),
    "alpha, RGB: WebP, lossless": (
        saved(Image.fromarray(RGBA), "webp", lossless=True, exact=True),
        OVER_WHITE,
    ),
    "alpha, RGB, premultiplied: TIFF": (tiff(MULTIPLIED, 2, 1), OVER_WHITE),
    "alpha, RGB, premultiplied: TIFF, deflate": (
        tiff(MULTIPLIED, 2, 1, deflate=True, predictor=True),
        OVER_WHITE,
    ),
    "alpha, gray: PNG": (
        png([bytes([100, 51, 7, 0, 9, 255])], 3, 8, 4),
        gray3(array([224, 255, 9])),
    ),
    "alpha, palette: PNG": (palette(bytes([51, 0])), OVER_WHITE),
    "alpha, palette, one color hidden: PNG": (
        palette(bytes([255, 0])),
        array([(200, 100, 0), (255, 255, 255), (1, 2, 3)]),
    ),
    "one transparent color, RGB: PNG": (
        png([bytes([1, 2, 3, 4, 5, 6])], 2, 8, 2, transparent(4, 5, 6)),
        array([(1, 2, 3), (255, 255, 255)]),
    ),
    "one transparent level, gray: PNG": (
        png([bytes([1, 2, 3])], 3, 8, 0, transparent(2)),
        gray3(array([1, 255, 3])),
    ),
    "one transparent level, 4 bits: PNG": (
        png([b"\x01\x20"], 3, 4, 0, transparent(1)),
        gray3(array([0, 255, 34])),
    ),
    "one transparent level, 2 bits: PNG": (
        png([b"\x18"], 3, 2, 0, transparent(1)),
        gray3(array([0, 255, 170])),
    ),
    "one transparent level, 1 bit: PNG": (
        png([b"\xa0"], 3, 1, 0, transparent(0)),
        gray3(array([255, 255, 255])),
    ),
    "16 bits, gray: PNG": (png16(DEEP[..., None], 0), gray3(DEEP_SEEN)),
    "16 bits, gray: TIFF": (tiff(DEEP[..., None], 1), gray3(DEEP_SEEN)),
    "16 bits, gray: TIFF, big-endian": (
        tiff(DEEP[..., None], 1, order=">"),
        gray3(DEEP_SEEN),
    ),
    "16 bits, gray, white is zero: TIFF": (
        tiff(65535 - DEEP[..., None], 0),
        gray3(DEEP_SEEN),
    ),
    "16 bits, gray: PGM": (
        b"P5 3 2 65535\n" + DEEP.astype(">u2").tobytes(),
        gray3(DEEP_SEEN),
    ),
    "16 bits, gray, one transparent level: PNG": (
        png16(DEEP[..., None], 0, transparent(129)),
        gray3(array([0, 0, 255], [1, 2, 255])),
    ),
    "16 bits, gray with alpha: PNG": (
        png16(np.stack([DEEP, np.array([[0, 65535, 65535]] * 2, np.uint16)], -1), 4),
        gray3(array([255, 0, 1], [255, 2, 255])),
    ),
    "16 bits, RGB: PNG": (png16(DEEP_RGB, 2), DEEP_RGB_SEEN),
    "16 bits, RGB: PPM": (
        b"P6 3 2 65535\n" + DEEP_RGB.astype(">u2").tobytes(),
        DEEP_RGB_SEEN,
    ),
    "16 bits, RGB: TIFF": (tiff(DEEP_RGB, 2), DEEP_RGB_SEEN),
    "16 bits, RGB: TIFF, big-endian": (tiff(DEEP_RGB, 2, order=">"), DEEP_RGB_SEEN),
    "16 bits, RGB: TIFF, deflate": (tiff(DEEP_RGB, 2, deflate=True), DEEP_RGB_SEEN),
    "16 bits, RGB: TIFF, deflate, differences": (
        tiff(DEEP_RGB, 2, deflate=True, predictor=True, order=">"),
        DEEP_RGB_SEEN,
    ),
    "16 bits, RGB, one transparent color: PNG": (
        png16(gray3(DEEP), 2, transparent(129, 129, 129)),
        gray3(array([0, 0, 255], [1, 2, 255])),
    ),
    "16 bits, RGB with alpha: PNG": (png16(DEEP_RGBA, 6), OVER_WHITE),
    "16 bits, RGB with alpha: TIFF": (tiff(DEEP_RGBA, 2, 2), OVER_WHITE),
    "16 bits, RGB with premultiplied alpha: TIFF": (
        tiff(MULTIPLIED.astype(np.uint16) * 257, 2, 1),
        OVER_WHITE,
    ),
    "16 bits, RGB with a fourth channel that is no alpha: TIFF": (
        tiff(DEEP_RGBA, 2, 0),
        RGBA[..., :3],
    ),
    "12 bits, gray: TIFF": (  # 8 * 255 / 4095 = 0.498, 9 * 255 / 4095 = 0.560
        tiff(
            np.zeros((1, 4, 1), np.uint16),
            1,
            bits=12,
            raw=bytes([0, 0x80, 9, 0, 0x9F, 0xFF]),
        ),
        gray3(array([0, 1, 1, 255])),
    ),
    "several frames: PNG": (frames("png"), RGB),
    "several frames: WebP": (frames("webp", lossless=True), RGB),
    "several frames: TIFF": (frames("tiff"), RGB),
    "GIF that is named .png": (
        saved(Image.fromarray(GRAY), "gif"),
        gray3(GRAY),
    ),
}
# what -> (file, part of the message)
REFUSED: dict[str, tuple[bytes, str]] = {
    "float pixels: TIFF": (
        saved(Image.fromarray(GRAY.astype(np.float32)), "tiff"),
        "floats, of which the range is not known; save it with 8 or 16 bits",
    ),
    "32-bit pixels above 65535: TIFF": (
        saved(Image.fromarray(GRAY.astype(np.int32) * 20000), "tiff"),
        "32-bit numbers, 20000..120000 here; save it with 8 or 16 bits",
    ),
    "negative pixels: TIFF": (
        saved(Image.fromarray(-GRAY.astype(np.int32)), "tiff"),
        "32-bit numbers, -6..-1 here; save it with 8 or 16 bits",
    ),
    "16 bits, RGB in planes: TIFF": (
        tiff(DEEP_RGB, 2, planar=2),
        "its 16-bit channels lie in planes; save it as PNG",
    ),
    "empty file": (b"", "the file is empty"),
    "text": (b"no image", "no image that Pillow can read"),
    "truncated: PNG": (saved(Image.fromarray(NOISE), "png")[:-2000], ""),
    "truncated: JPEG": (JPEG[: len(JPEG) // 2], "truncated"),
    "truncated: WebP": (saved(Image.fromarray(NOISE), "webp")[:-500], ""),
    "truncated: TIFF": (saved(Image.fromarray(NOISE), "tiff")[:500], ""),
    "truncated, 16 bits, RGB: PNG": (
        png16(np.repeat(NOISE.astype(np.uint16), 2, 1) * 257, 2)[:-9000],
        "",
    ),
    "more pixels than any photograph (4 billion): PNG": (bomb(), "decompression bomb"),
}


def seen(content: bytes, background=WHITE, size=None, gray=False) -> np.ndarray:
    return decode(content, background, size, gray)[0].transpose(1, 2, 0)


@pytest.mark.parametrize("what", READ)
def test_pixels_are_those_computed_by_hand(what):
    content, expected = READ[what]
    found = seen(content)
    assert found.dtype == np.uint8
    assert found.tolist() == expected.tolist()


@pytest.mark.parametrize("what", READ)
def test_grayscale_is_the_luma_of_what_is_seen(what):
    """ITU-R 601, as Pillow rounds it."""
    content, expected = READ[what]
    luma = expected.astype(np.int64) @ np.array([19595, 38470, 7471]) + 0x8000 >> 16
    assert seen(content, gray=True)[..., 0].tolist() == luma.tolist()


def folder_of(path_: Path, **changes: object) -> ImageFolderConfig:
    values = {"size": None, "grayscale": False, "val_images": None, "test_images": None}
    values |= {
        "name": "image_folder",
        "path": str(path_),
        "cache": str(path_.parent / "cache"),
    }
    return ImageFolderConfig.model_validate(values | changes)


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_read_is_named_in_a_line(what, tmp_path):
    content, reason = REFUSED[what]
    file = tmp_path / "set" / ("a." + ("tif" if "TIFF" in what else "png"))
    file.parent.mkdir()
    file.write_bytes(content)
    with pytest.raises(UserError) as caught:
        image_folder.read(folder_of(file.parent))
    message = str(caught.value)
    assert "\n" not in message
    assert f"got {file} (" in message
    assert reason in message
    assert message.endswith("fix it or move it elsewhere")
    assert "0x" not in message  # no address of an object


@pytest.mark.parametrize(
    ("background", "expected"),
    [(WHITE, OVER_WHITE), (BLACK, OVER_BLACK), (MIXED, OVER_MIXED)],
)
@pytest.mark.parametrize(
    "what",
    [what for what in READ if READ[what][1].tolist() == OVER_WHITE.tolist()],
)
def test_transparent_pixels_show_the_background(what, background, expected):
    assert seen(READ[what][0], background).tolist() == expected.tolist()


def test_every_alpha_is_rounded_to_the_nearest_level():
    """Against exact fractions, on three backgrounds, of all pairs of (color, alpha)."""
    color, alpha = np.meshgrid(np.arange(256), np.arange(256))
    rgba = np.stack([color, 255 - color, color // 2, alpha], -1).astype(np.uint8)
    content = saved(Image.fromarray(rgba), "png")
    for background in (WHITE, BLACK, MIXED):
        a = rgba[..., 3:].astype(np.float64) / 255
        exact = a * rgba[..., :3] + (1 - a) * np.array(background)
        assert np.abs(seen(content, background) - exact).max() <= 0.5


def test_hidden_colors_have_no_influence_even_when_resized():
    rng = np.random.default_rng(0)
    rgba = rng.integers(0, 256, (24, 36, 4), np.uint8)
    rgba[..., 3] = np.where(rng.random((24, 36)) < 0.5, 0, rgba[..., 3])
    other = rgba.copy()
    other[rgba[..., 3] == 0, :3] = rng.integers(0, 256, ((rgba[..., 3] == 0).sum(), 3))
    for size in (None, 7):
        one, two = (
            seen(saved(Image.fromarray(x), "png"), size=size) for x in (rgba, other)
        )
        assert (one == two).all()
    whole = Image.fromarray(seen(saved(Image.fromarray(rgba), "png")))
    resized = whole.resize((12, 8), Image.Resampling.BILINEAR)
    expected = np.asarray(resized)[:, 2:10]
    assert (seen(saved(Image.fromarray(rgba), "png"), size=8) == expected).all()


def test_palette_with_alpha():
    image = Image.fromarray(RGBA).convert("PA")
    expected = np.asarray(image.convert("RGBA")).astype(float)
    a = expected[..., 3:] / 255
    exact = a * expected[..., :3] + (1 - a) * 255
    assert np.abs(seen(saved(image, "tiff")) - exact).max() <= 0.5


def test_lab_is_converted_to_srgb():
    """Lightness 100 % and 0 %, without a color."""
    lab = Image.frombytes("LAB", (2, 1), bytes([255, 0, 0, 0, 0, 0]))
    found = seen(saved(lab, "tiff")).astype(int)
    assert np.abs(found - array([(255, 255, 255), (0, 0, 0)])).max() <= 1
    assert np.abs(seen(saved(lab, "tiff"), gray=True)[0, :, 0] - [255, 0]).max() <= 1


# --- orientation ---

UPRIGHT = {  # of stored [[1, 2, 3], [4, 5, 6]]; EXIF 2.32, Orientation
    1: [[1, 2, 3], [4, 5, 6]],
    2: [[3, 2, 1], [6, 5, 4]],
    3: [[6, 5, 4], [3, 2, 1]],
    4: [[4, 5, 6], [1, 2, 3]],
    5: [[1, 4], [2, 5], [3, 6]],
    6: [[4, 1], [5, 2], [6, 3]],
    7: [[6, 3], [5, 2], [4, 1]],
    8: [[3, 6], [2, 5], [1, 4]],
}
TURNED: dict[str, Callable[[int], bytes]] = {
    "PNG": lambda o: saved(Image.fromarray(GRAY), "png", exif=exif(o)),
    "PNG, after the pixels": lambda o: png(
        [*map(bytes, GRAY)],
        3,
        8,
        0,
        after=chunk(b"eXIf", exif(o).removeprefix(b"Exif\0\0")),
    ),
    "PNG with alpha": lambda o: saved(
        Image.fromarray(GRAY).convert("LA"), "png", exif=exif(o)
    ),
    "PNG of 16 bits": lambda o: png16(
        gray3(GRAY).astype(np.uint16) * 257,
        2,
        chunk(b"eXIf", exif(o).removeprefix(b"Exif\0\0")),
    ),
    "WebP": lambda o: saved(
        Image.fromarray(gray3(GRAY)), "webp", lossless=True, exif=exif(o)
    ),
    "TIFF": lambda o: tiff(GRAY[..., None], 1, orientation=o),
    "TIFF, deflate": lambda o: tiff(gray3(GRAY), 2, deflate=True, orientation=o),
    "TIFF of 16 bits, gray": lambda o: tiff(
        GRAY[..., None].astype(np.uint16) * 257, 1, orientation=o
    ),
    "TIFF of 16 bits, RGB": lambda o: tiff(
        gray3(GRAY).astype(np.uint16) * 257, 2, orientation=o
    ),
    "TIFF with premultiplied alpha": lambda o: tiff(
        np.concatenate([gray3(GRAY), np.full((2, 3, 1), 255, np.uint8)], -1),
        *(2, 1),
        orientation=o,
    ),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("kind", TURNED)
def test_images_are_turned_upright(kind, orientation):
    pixels, done = decode(TURNED[kind](orientation), WHITE, None, gray=True)
    assert pixels[0].tolist() == UPRIGHT[orientation]
    assert (Done.TURNED in done) == (orientation > 1)


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_jpegs_are_turned_upright(orientation):
    """Blocks of 8 x 8, each of one level, are kept by JPEG but for rounding."""
    blocks = np.kron(GRAY * 40, np.ones((8, 8), np.uint8)).astype(np.uint8)
    content = saved(Image.fromarray(blocks), "jpeg", quality=100, exif=exif(orientation))
    found = seen(content, gray=True)[4::8, 4::8, 0]
    assert np.rint(found / 40).tolist() == UPRIGHT[orientation]


def test_a_turned_image_is_cropped_as_it_is_seen():
    """Upright 2 x 6, of which the short side becomes 2 and the two middle rows are kept."""
    stored = np.arange(1, 13, dtype=np.uint8).reshape(2, 6)
    content = saved(Image.fromarray(stored), "png", exif=exif(6))
    assert seen(content, size=2, gray=True)[..., 0].tolist() == [[9, 3], [10, 4]]


@pytest.mark.parametrize("orientation", [0, 9, 700])
def test_an_orientation_that_does_not_exist_is_none(orientation):
    content = saved(Image.fromarray(GRAY), "png", exif=exif(orientation))
    assert seen(content, gray=True)[..., 0].tolist() == GRAY.tolist()


def test_damaged_exif_is_none():
    broken = b"Exif\0\0II*\0\xff\xff\xff\xff"
    for data in (broken, b"Exif\0\0junk", b"junk"):
        content = saved(Image.fromarray(GRAY), "png", exif=data)
        assert seen(content, gray=True)[..., 0].tolist() == GRAY.tolist()


def test_a_cameras_second_picture_is_no_frame():
    content = frames("mpo")
    assert Image.open(io.BytesIO(content)).format == "MPO"
    assert decode(content, WHITE, None, False)[1] == Done(0)


def test_what_was_done_is_told(tmp_path):
    root = tmp_path / "set"
    root.mkdir()
    files = {
        "turned.png": TURNED["PNG"](3),
        "over.png": READ["alpha, RGB: PNG"][0],
        "deep.png": READ["16 bits, RGB: PNG"][0],
        "frames.png": READ["several frames: PNG"][0],
        "plain.png": PNG,
    }
    for name, content in files.items():
        (root / name).write_bytes(content)
    for _ in range(2):  # decoded, then from the cache
        source = image_folder.read(folder_of(root, size=2, background=[10, 20, 30]))
        assert source.notes == (
            "1 turned upright by EXIF",
            "1 transparent, put on (10, 20, 30)",
            "1 of 16 bits, rounded to 8",
            "1 of several frames, cut to the first",
        )


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_named_pipe_is_no_image(tmp_path):
    root = tmp_path / "set"
    root.mkdir()
    (root / "a.png").write_bytes(PNG)
    os.mkfifo(root / "b.png")
    assert image_folder.read(folder_of(root)).notes == ("ignored: 1 special files",)


# --- the background's spelling ---


@pytest.mark.parametrize(
    ("given", "kept", "rgb"),
    [
        ("white", "white", WHITE),
        (255, "white", WHITE),
        ([255, 255, 255], "white", WHITE),
        ("black", "black", BLACK),
        (0, "black", BLACK),
        ([0, 0, 0], "black", BLACK),
        (128, 128, (128,) * 3),
        ([128, 128, 128], 128, (128,) * 3),
        ([10, 20, 30], MIXED, MIXED),
        ((10, 20, 30), MIXED, MIXED),
    ],
)
def test_a_background_has_one_spelling(tmp_path, given, kept, rgb):
    config = folder_of(tmp_path, background=given)
    assert (config.background, config.background_rgb) == (kept, rgb)
    again = folder_of(tmp_path, **config.model_dump(mode="json"))
    assert again == config
    assert hash(again) == hash(config)


@pytest.mark.parametrize(
    "given",
    [
        *("red", "", "White", None, True, 256, -1, 1.0, 10**30, {}, [], [1], [1, 2]),
        *([1, 2, 3, 4], [1, 2, 256], [1, 2, "3"], [1, 2, 3.0], [True, 1, 2]),
    ],
)
def test_a_background_that_is_no_color_is_refused(tmp_path, given):
    with pytest.raises(ValueError, match=r"must be white, black, a gray level 0\.\.255 or"):
        folder_of(tmp_path, background=given)


# --- the table ---


def rows() -> list[str]:
    outcomes = dict.fromkeys(READ, "read")
    outcomes |= {f"orientation 1 to 8: {kind}": "turned upright" for kind in TURNED}
    outcomes |= {"orientation 1 to 8: JPEG": "turned upright"}
    outcomes |= {
        what: f"refused: {reason or 'it is damaged'}"
        for what, (_, reason) in REFUSED.items()
    }
    return [f"| {what} | {outcome} |" for what, outcome in outcomes.items()]


def test_the_readme_has_the_table():
    text = README.read_text()
    assert "| file | outcome |\n|---|---|\n" + "\n".join(rows()) in text


if __name__ == "__main__":
    print("\n".join(rows()))
