"""Pillow's pictures to upright 8-bit pixels: which way to turn, transparency, deep greys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from PIL import ExifTags, Image

if TYPE_CHECKING:
    from numpy.typing import NDArray

_TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
QUARTER_TURNS: Final = frozenset(_TURNS[orientation] for orientation in (5, 6, 7, 8))
"""The turns that swap width and height."""


def turn_of(image: Image.Image) -> Image.Transpose | None:
    """Return how to turn a loaded image upright, as its EXIF or XMP asks.

    Not `ImageOps.exif_transpose`: that also rewrites the metadata, and fails where it is broken.
    """
    try:
        return _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # a broken EXIF block must not cost us the picture
        return None


def flatten(image: Image.Image) -> Image.Image:
    """Return the loaded `image` in mode L (grey pictures) or RGB, its transparency over white."""
    if image.mode in {"I", "F"} or image.mode.startswith("I;16"):
        return Image.fromarray(_deep_to_luma(image))
    is_grey = image.mode in {"1", "L", "LA", "La"}
    mode = "L" if is_grey else "RGB"
    if not image.has_transparency_data:
        return image if image.mode == mode else image.convert(mode)
    layer = image.convert("LA" if is_grey else "RGBA")
    paper = Image.new(mode, image.size, "white")
    paper.paste(layer, mask=layer.getchannel("A"))
    return paper


def _deep_to_luma(image: Image.Image) -> NDArray[np.uint8]:
    """Scale a grey picture of more than 8 bits to (h, w) uint8; Pillow's `convert` would clip it.

    16-bit sources are divided by 257, rounded (12-bit ones by 4095 / 255). Other integers and
    floats say nothing about their range, so their finite values decide: within 0..1 (floats only)
    times 255; within 0..255 as they are; within 0..65535 as 16 bits; else lowest to 0, highest to
    255. NaN becomes 0, an infinity the end of the range it points to.
    """
    values = np.asarray(image)
    if image.mode != "F" and (image.mode != "I" or image.format in {"PNG", "PPM"}):
        white = 4095 if _bits_per_sample(image) == 12 else 65535
        table = _rescale(np.arange(65536), 0, white)
        luma = table.take(values, mode="clip")
        colour_key = image.info.get("transparency")  # PNG's tRNS: one grey means "see through"
        if colour_key is not None:
            luma[values == colour_key] = 255
        return luma
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    if low >= 0 and high <= 65535:
        low = 0
        high = 1 if image.mode == "F" and high <= 1 else 255 if high <= 255 else 65535
    return _rescale(values, low, high)


def _rescale(values: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    """Map low..high to 0..255, rounded half to even; beyond is clipped, NaN is 0."""
    scaled = values.astype(np.float64)  # the one copy; float32 would overflow on its own range
    np.nan_to_num(scaled, copy=False, nan=low, posinf=high, neginf=low)
    scaled -= low
    scaled *= 255  # before the division: 100 of 200 is then 127.5 and not a little less
    scaled /= high - low or 1
    return np.rint(scaled.clip(0, 255, out=scaled), out=scaled).astype(np.uint8)


def _bits_per_sample(image: Image.Image) -> int | None:
    """Return TIFF's BitsPerSample: Pillow unpacks 12 bits into 16 without scaling them."""
    tags = getattr(image, "tag_v2", {})
    return next(iter(tags.get(258, ())), None)
