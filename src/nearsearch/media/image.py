"""File bytes -> upright 8-bit pixels: the only module that decodes pictures, with Pillow.

It decides what a file *is* (by its first bytes, never by its name) and which pixels a decode
profile sees. It refuses to know about paths, processes and hashes. Import it in worker processes
only: hostile bytes meet C decoders here.
"""

from __future__ import annotations

import io
import re
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from PIL import ExifTags, Image, PngImagePlugin

from nearsearch.errors import MediaError, NotMediaError, UsageError
from nearsearch.spec import PROFILES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

MIN_SIDE: Final = 2048
"""Profile ``luma-2048`` halves a JPEG only while both sides stay at least this long."""

# --- what a file is ---------------------------------------------------------------------------

_VIDEO: Final = ""  # in the plug-in column: recognised so that the report can name it
_FORMATS: Final = tuple(
    (re.compile(magic, re.DOTALL), name, plugin)
    for name, plugin, magic in (
        # our name, Pillow's plug-in, first bytes; the first match wins
        ("JPEG", "JPEG", rb"\xff\xd8\xff"),
        ("PNG", "PNG", rb"\x89PNG\r\n\x1a\n"),
        ("GIF", "GIF", rb"GIF8[79]a"),
        ("WEBP", "WEBP", rb"RIFF.{4}WEBP"),
        # two letters are too weak: the size of the second header must be one that exists
        ("BMP", "BMP", rb"BM.{12}[\x0c\x10\x28\x34\x38\x40\x6c\x7c]\0\0\0"),
        ("TIFF", "TIFF", rb"II[*+]\0|MM\0[*+]"),
        ("JP2", "JPEG2000", rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51"),
        ("JXL", "JXL", rb"\0\0\0\x0cJXL \r\n\x87\n|\xff\x0a"),
        ("ICO", "ICO", rb"\0\0\x01\0[^\0]\0"),
        ("PSD", "PSD", rb"8BPS\0\x01"),
        ("QOI", "QOI", rb"qoif"),
        ("PCX", "PCX", rb"\x0a[\0\x02\x03\x05]\x01[\x01\x02\x04\x08]"),
        ("PPM", "PPM", rb"P[1-6f]\s[\s\d#]"),
        # ISO containers: the major brand, or any compatible one where the major is generic
        ("AVIF", "AVIF", rb".{4}ftyp(?:avi[fs]|(?:mif1|msf1|miaf).{4}(?:.{4}){0,16}?avi[fs])"),
        ("HEIC", "HEIF", rb".{4}ftyp(?:hei[cxms]|hev[cxms]|mif1|msf1|miaf)"),
        ("CR3", "CR3", rb".{4}ftypcrx "),
        ("3GP", _VIDEO, rb".{4}ftyp3g"),
        ("MOV", _VIDEO, rb".{4}ftypqt  |\0.{3}(?:moov|wide|free|skip|pnot)|.{4}mdat"),
        ("MP4", _VIDEO, rb".{4}ftyp(?!M4[AB] )"),
        ("AVI", _VIDEO, rb"RIFF.{4}AVI "),
        ("WEBM", _VIDEO, rb"\x1a\x45\xdf\xa3.{0,60}?webm"),
        ("MKV", _VIDEO, rb"\x1a\x45\xdf\xa3"),
        ("WMV", _VIDEO, rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11"),
        ("FLV", _VIDEO, rb"FLV\x01"),
        ("MPEG", _VIDEO, rb"\0\0\x01[\xb3\xba]|G.{187}G.{187}G|.{4}G.{191}G.{191}G"),
        ("OGG", _VIDEO, rb"OggS.{0,250}?theora"),
        ("RM", _VIDEO, rb"\.RMF"),
    )
)
_PLUGINS: Final = {name: plugin for _, name, plugin in _FORMATS}


def sniff(data: bytes) -> str | None:
    """Return the format of `data` by its first bytes (``"JPEG"``, ``"MP4"``), None if unknown.

    A name means that the file claims to be this, not that this version can read it.
    """
    return next((name for magic, name, _ in _FORMATS if magic.match(data)), None)


# --- decoding ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Picture:
    """The first frame of a picture, upright, transparency laid over white.

    Attributes
    ----------
    pixels
        uint8, C-contiguous, possibly read-only: (h, w) luma or (h, w, 3) RGB.
    width, height
        Size in pixels as displayed, before any reduction inside the decoder, so it may exceed
        the shape of `pixels`.
    format
        What `sniff` said.
    """

    pixels: NDArray[np.uint8]
    width: int
    height: int
    format: str


def decode(data: bytes, profile: str, *, max_pixels: int) -> Picture:
    """Decode the whole file `data` into the pixels that `profile` (see `spec.PROFILES`) sees.

    Pixels equal Pillow's own conversion to RGB (to L, for grey pictures), except that greys of
    more than 8 bits are scaled, not clipped (see `_deep_to_luma`). Profile ``luma-2048`` takes the
    luma plane of a JPEG, reduced by the largest of 1/2, 1/4, 1/8 that leaves both sides, divided
    and not yet rounded up, at 2048 or more.

    Not thread-safe: Pillow's limits and the warning filters are process-wide while it runs.

    Raises
    ------
    NotMediaError
        No picture format we know, a video, or a format whose plug-in is not installed.
    MediaError
        The picture is damaged, truncated, or of more than `max_pixels` pixels. Whatever Pillow
        raises on hostile bytes ends here, as the cause.
    UsageError
        Unknown profile.
    """
    if profile not in PROFILES:
        raise UsageError(f"unknown decode profile {profile!r}; known: {', '.join(PROFILES)}")
    name, plugin = check_readable(data)
    try:
        with _pillow_limits(max_pixels):
            return _decode(data, name, plugin, profile, max_pixels)
    except MediaError:
        raise
    except Exception as exc:
        raise MediaError(_reason(exc, data, name, max_pixels), "decode") from exc


def check_readable(data: bytes) -> tuple[str, str]:
    """Return our name and Pillow's plug-in for a file of which `data` is the beginning.

    Raises
    ------
    NotMediaError
        It is no picture.
    MediaError
        It is a picture that we cannot read.
    """
    name = sniff(data)
    if name is None:
        raise NotMediaError("no known picture format" if data else "empty file")
    plugin = _PLUGINS[name]
    if plugin == _VIDEO:
        raise NotMediaError(f"video ({name}) is not read by this version")
    for load_plugins in (Image.preinit, Image.init):  # the common ones first; all take longer
        if plugin not in Image.OPEN:
            load_plugins()
    if plugin not in Image.OPEN:
        raise MediaError(f"{name} needs a plug-in that is not installed", "decode")
    return name, plugin


@contextmanager
def _pillow_limits(max_pixels: int) -> Iterator[None]:
    """Put our limits in place of Pillow's, silence its warnings, and restore all of it."""
    saved = Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        # Some plug-ins decode while they open, or hold more than they claim (a PNG inside an ICO).
        Image.MAX_IMAGE_PIXELS = max_pixels
        # Editing histories of some megabytes in a PNG's text are real and harmless; Pillow refuses
        # the whole picture beyond 1 MiB. Its total, 64 MiB, still holds.
        PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK = saved


def _decode(data: bytes, name: str, plugin: str, profile: str, max_pixels: int) -> Picture:
    # Straight to the plug-in of the sniffed format: no other parser meets these bytes, and unlike
    # `Image.open` it neither replaces the plug-in's own error nor refuses before the size is known.
    factory, _ = Image.OPEN[plugin]
    image: Image.Image = factory(io.BytesIO(data), "")
    width, height = image.size
    if width * height > max_pixels:
        raise MediaError(
            f"{width:,} x {height:,} pixels exceed the limit of {max_pixels:,}", "decode"
        )
    # A CMYK JPEG has no luma plane to take.
    luma_only = profile == "luma-2048" and name == "JPEG" and image.mode in {"RGB", "L"}
    if luma_only:
        image.draft("L", (MIN_SIDE, MIN_SIDE))
    image.load()
    turn = _turn(image)
    image = _flatten(image)
    if turn is not None:
        image = image.transpose(turn)
    pixels: NDArray[np.uint8] = np.asarray(image)
    if not luma_only:
        height, width = pixels.shape[:2]
    elif turn in _QUARTER_TURNS:
        width, height = height, width
    return Picture(pixels, width, height, name)


def _reason(exc: Exception, data: bytes, name: str, max_pixels: int) -> str:
    """Say what went wrong in words for the report; Pillow's own follow after the colon."""
    if isinstance(exc, Image.DecompressionBombWarning | Image.DecompressionBombError):
        return f"more pixels than the limit of {max_pixels:,}"
    if isinstance(exc, MemoryError):
        return f"not readable as {name}: not enough memory"
    if len(data) < (stated := _stated_length(data, name)):
        return f"truncated: {len(data):,} bytes of at least {stated:,}"
    detail = str(exc) or type(exc).__name__
    if isinstance(exc, EOFError) or _CUT_SHORT.search(detail):
        return f"truncated: {detail}"
    return f"not readable as {name}: {detail}"


_CUT_SHORT: Final = re.compile("truncated|requires a buffer|only got|incomplete", re.IGNORECASE)


def _stated_length(data: bytes, name: str) -> int:
    """Return the least length the header promises, for formats where Pillow's words hide a cut."""
    if name == "WEBP":
        return 8 + int.from_bytes(data[4:8], "little")
    if name == "TIFF":  # the directory often comes last; a missing one reads as an empty one
        return 2 + int.from_bytes(data[4:8], "little" if data[:2] == b"II" else "big")
    return 0


# --- pixels -----------------------------------------------------------------------------------

_TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_QUARTER_TURNS: Final = frozenset(_TURNS[orientation] for orientation in (5, 6, 7, 8))


def _turn(image: Image.Image) -> Image.Transpose | None:
    """Return how to turn a loaded image upright, as its EXIF or XMP asks.

    Not `ImageOps.exif_transpose`: that also rewrites the metadata, and fails where it is broken.
    """
    try:
        return _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # a broken EXIF block must not cost us the picture
        return None


def _flatten(image: Image.Image) -> Image.Image:
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
