from __future__ import annotations

import io
import struct
import sys
import warnings
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile, ImageOps, PngImagePlugin, features

from nearsearch.errors import MediaError, NotMediaError, UsageError
from nearsearch.media.formats import sniff
from nearsearch.media.image import Picture, Pictures

LIMIT = 200_000_000
ORIENTATION = 0x0112
needs_avif = pytest.mark.skipif(not features.check("avif"), reason="Pillow was built without AVIF")


def pattern(height: int = 40, width: int = 56) -> np.ndarray:
    """A smooth RGB picture without any symmetry, so that no turn of it equals another."""
    y, x = np.mgrid[0:height, 0:width]
    planes = [x * 255 // (width - 1), y * 255 // (height - 1), (x * y) % 200]
    return np.dstack(planes).astype(np.uint8)


RGB = Image.fromarray(pattern())
GREY = Image.fromarray(pattern()[..., 0])
ALPHA = Image.fromarray(np.linspace(0, 255, 40 * 56).reshape(40, 56).astype(np.uint8))


def encode(image: Image.Image, file_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def decode(data: bytes, profile: str, *, max_pixels: int) -> Picture:
    """The first picture of a sound file."""
    pictures = Pictures(data, profile, max_pixels=max_pixels)
    first = next(iter(pictures))
    assert pictures.problem is None
    assert (first.view, first.time_ms) == ("image", None)
    return first


def full(data: bytes) -> Picture:
    return decode(data, "full", max_pixels=LIMIT)


def luma(data: bytes) -> Picture:
    return decode(data, "luma-2048", max_pixels=LIMIT)


def pillow(data: bytes, mode: str = "RGB") -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert(mode))


def over_white(values: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Exact blend, rounded to nearest: the definition, in float."""
    share = alpha.astype(float) / 255
    share = share[..., None] if values.ndim == 3 else share
    return np.rint(values * share + 255 * (1 - share)).astype(np.uint8)


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *chunks: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = [chunk(b"IHDR", header), *chunks, chunk(b"IDAT", zlib.compress(rows))]
    return b"\x89PNG\r\n\x1a\n" + b"".join(body) + chunk(b"IEND", b"")


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + crc(kind + content)


def crc(content: bytes) -> bytes:
    return struct.pack(">I", zlib.crc32(content))


def tiff(
    width: int, height: int, bits: int, strip: bytes, sample_format: int = 1, photometric: int = 1
) -> bytes:
    """One uncompressed little-endian grey strip."""
    tags = [
        (256, 4, width),
        (257, 4, height),
        (258, 3, bits),
        (259, 3, 1),
        (262, 3, photometric),
        (273, 4, 8),
        (277, 3, 1),
        (278, 4, height),
        (279, 4, len(strip)),
        (339, 3, sample_format),
    ]
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    return b"II*\0" + struct.pack("<I", 8 + len(strip)) + strip + directory


# --- sniffing ---------------------------------------------------------------------------------

FTYP = b"\0\0\0\x18ftyp"


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"\xff\xd8\xff\xe0\0\x10JFIF", "JPEG"),
        (b"\x89PNG\r\n\x1a\n", "PNG"),
        (b"GIF87a", "GIF"),
        (b"GIF89a", "GIF"),
        (b"RIFF\x24\0\0\0WEBPVP8 ", "WEBP"),
        (b"BM" + bytes(12) + b"\x28\0\0\0", "BMP"),
        (b"II*\0\x08\0\0\0", "TIFF"),
        (b"MM\0*\0\0\0\x08", "TIFF"),
        (b"II+\0\x08\0\0\0", "TIFF"),
        (FTYP + b"avif\0\0\0\0mif1", "AVIF"),
        (FTYP + b"mif1\0\0\0\0miafavif", "AVIF"),
        (FTYP + b"mif1\0\0\0\0mif1heic", "HEIC"),
        (FTYP + b"heic\0\0\0\0mif1", "HEIC"),
        (FTYP + b"heix\0\0\0\0mif1", "HEIC"),
        (FTYP + b"crx \0\0\0\x01", "CR3"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "JP2"),
        (b"\xff\x4f\xff\x51", "JP2"),
        (b"\xff\x0a", "JXL"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JXL"),
        (b"\0\0\x01\0\x01\0", "ICO"),
        (b"8BPS\0\x01", "PSD"),
        (b"qoif", "QOI"),
        (b"\x0a\x05\x01\x08", "PCX"),
        (b"P6\n640 480\n255\n", "PPM"),
        (b"P4 8 8 ", "PPM"),
        (b"Pf\n1 1\n-1.0\n", "PPM"),
        (FTYP + b"isom\0\0\x02\0", "MP4"),
        (FTYP + b"mp42\0\0\0\0", "MP4"),
        (FTYP + b"qt  \0\0\0\0", "MOV"),
        (b"\0\0\x10\0moov\0\0\0\x6cmvhd", "MOV"),
        (FTYP + b"3gp5\0\0\0\0", "3GP"),
        (b"RIFF\x24\0\0\0AVI LIST", "AVI"),
        (b"\x1a\x45\xdf\xa3\x9f\x42\x82\x84webm", "WEBM"),
        (b"\x1a\x45\xdf\xa3\x9f\x42\x82\x88matroska", "MKV"),
        (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "WMV"),
        (b"FLV\x01\x05", "FLV"),
        (b"\0\0\x01\xba\x44", "MPEG"),
        (b"\0\0\x01\xb3\x28", "MPEG"),
        ((b"G" + bytes(187)) * 3, "MPEG"),
        (b"OggS" + bytes(24) + b"\x80theora", "OGG"),
        (b".RMF\0\0", "RM"),
        (b"", None),
        (b"\xff\xd8", None),
        (b"%PDF-1.7", None),
        (b"<svg xmlns=", None),
        (b"BMW and other words that begin so", None),
        (b"PK\x03\x04", None),
        (b"P1 is the first paragraph", None),
        (b"II. Chapter", None),
        (b"RIFF\x24\0\0\0WAVEfmt ", None),
        (b"OggS" + bytes(24) + b"\x01vorbis", None),
        (FTYP + b"M4A \0\0\0\0", None),
        (b"\0\x01\0\0\0\x0f", None),  # TrueType font
        (bytes(64), None),
    ],
)
def test_sniff_reads_only_the_first_bytes(head: bytes, name: str | None) -> None:
    assert sniff(head) == name
    assert sniff(head + b"\xa5" * 600) == name


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"just text", "no known picture format"),
        (FTYP + b"isom", "a film (MP4), not a picture"),
        (b"\x1a\x45\xdf\xa3", "a film (MKV), not a picture"),
    ],
)
def test_files_that_are_no_picture_are_skipped(data: bytes, reason: str) -> None:
    with pytest.raises(NotMediaError) as caught:
        full(data)
    assert (caught.value.reason, caught.value.stage) == (reason, "sniff")


@pytest.mark.parametrize(
    ("brand", "reason"),
    [
        (
            b"heic",
            "HEIC needs pillow-heif, which is not installed: pip install pillow-heif",
        ),
        (b"crx ", "CR3 needs a plug-in that is not installed"),
    ],
)
def test_pictures_that_we_cannot_read_have_failed(
    brand: bytes, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
    with pytest.raises(MediaError) as caught:
        full(FTYP + brand)
    assert (caught.value.reason, caught.value.stage) == (reason, "decode")
    assert not isinstance(caught.value, NotMediaError)


def test_a_registered_plug_in_opens_heic(monkeypatch: pytest.MonkeyPatch) -> None:
    def open_as_png(stream: io.BytesIO, name: str) -> PngImagePlugin.PngImageFile:
        del stream
        return PngImagePlugin.PngImageFile(io.BytesIO(encode(RGB, "PNG")), name)

    monkeypatch.setitem(Image.OPEN, "HEIF", (open_as_png, None))
    pictures = Pictures(FTYP + b"heic", "full", max_pixels=LIMIT)
    (picture,) = pictures
    assert pictures.format == "HEIC"
    np.testing.assert_array_equal(picture.pixels, pattern())


def test_unknown_profile() -> None:
    with pytest.raises(UsageError, match="'half'; known: luma-2048, full"):
        decode(encode(RGB, "PNG"), "half", max_pixels=LIMIT)


# --- formats and modes ------------------------------------------------------------------------

COLOUR_SAMPLES = {
    "JPEG": encode(RGB, "JPEG"),
    "JPEG progressive": encode(RGB, "JPEG", progressive=True, subsampling=0),
    "JPEG stored as RGB": encode(RGB, "JPEG", keep_rgb=True),
    "JPEG CMYK": encode(RGB.convert("CMYK"), "JPEG"),
    "MPO": encode(RGB, "MPO", save_all=True, append_images=[ImageOps.invert(RGB)]),
    "PNG": encode(RGB, "PNG"),
    "PNG palette": encode(RGB.quantize(64), "PNG"),
    "GIF": encode(RGB, "GIF"),
    "WEBP": encode(RGB, "WEBP"),
    "WEBP lossless": encode(RGB, "WEBP", lossless=True),
    "BMP": encode(RGB, "BMP"),
    "TIFF": encode(RGB, "TIFF"),
    "TIFF LZW": encode(RGB, "TIFF", compression="tiff_lzw"),
    "TIFF JPEG": encode(RGB.convert("YCbCr"), "TIFF", compression="jpeg"),
    "TIFF CMYK": encode(RGB.convert("CMYK"), "TIFF"),
    "TIFF YCbCr": encode(RGB.convert("YCbCr"), "TIFF"),
    "TIFF LAB": encode(RGB.convert("LAB"), "TIFF"),
    "JP2": encode(RGB, "JPEG2000"),
    "ICO": encode(RGB.resize((32, 32)), "ICO", sizes=[(32, 32)]),
    "PCX": encode(RGB, "PCX"),
    "PPM": encode(RGB, "PPM"),
    "QOI": b"qoif\0\0\0\x02\0\0\0\x01\x03\0" + b"\xfe\x10\x20\x30" * 2 + bytes(7) + b"\x01",
}
if features.check("avif"):
    COLOUR_SAMPLES["AVIF"] = encode(RGB, "AVIF")
GREY_SAMPLES = {
    "JPEG grey": encode(GREY, "JPEG"),
    "PNG grey": encode(GREY, "PNG"),
    "PNG 1-bit": encode(GREY.convert("1"), "PNG"),
    "TIFF grey": encode(GREY, "TIFF"),
    "TIFF fax": encode(GREY.convert("1"), "TIFF", compression="group4"),
    "PGM": encode(GREY, "PPM"),
    "PBM": encode(GREY.convert("1"), "PPM"),
}
SAMPLES = COLOUR_SAMPLES | GREY_SAMPLES


@pytest.mark.parametrize("name", COLOUR_SAMPLES)
def test_colour_equals_pillows_own_conversion(name: str) -> None:
    data = COLOUR_SAMPLES[name]
    picture = full(data)
    expected = pillow(data)
    np.testing.assert_array_equal(picture.pixels, expected)
    assert picture.pixels.dtype == np.uint8
    assert picture.pixels.flags.c_contiguous
    assert (picture.height, picture.width) == expected.shape[:2]
    pictures = Pictures(data, "full", max_pixels=LIMIT)
    assert pictures.format == {"MPO": "JPEG"}.get(name, name.split()[0])


@pytest.mark.parametrize("name", GREY_SAMPLES)
def test_grey_is_one_plane(name: str) -> None:
    data = GREY_SAMPLES[name]
    picture = full(data)
    np.testing.assert_array_equal(picture.pixels, pillow(data, "L"))
    np.testing.assert_array_equal(picture.pixels, pillow(data, "RGB")[..., 1])
    assert picture.pixels.flags.c_contiguous


@pytest.mark.parametrize("name", [n for n in SAMPLES if not n.startswith(("JPEG", "MPO"))])
def test_profiles_agree_on_everything_but_jpeg(name: str) -> None:
    np.testing.assert_array_equal(luma(SAMPLES[name]).pixels, full(SAMPLES[name]).pixels)


def test_lossless_colours_come_through() -> None:
    np.testing.assert_array_equal(full(COLOUR_SAMPLES["PNG"]).pixels, pattern())
    np.testing.assert_array_equal(full(COLOUR_SAMPLES["BMP"]).pixels, pattern())


def test_lab_comes_back_as_the_colours_it_was_made_from() -> None:
    drift = np.abs(full(COLOUR_SAMPLES["TIFF LAB"]).pixels.astype(int) - pattern())
    assert drift.mean() < 2


@pytest.mark.parametrize(("values", "expected"), [((0, 255), (0, 255)), ((255, 0), (255, 0))])
def test_one_bit_is_black_and_white(values: tuple[int, int], expected: tuple[int, int]) -> None:
    image = Image.fromarray(np.array([values], np.uint8)).convert("1")
    np.testing.assert_array_equal(full(encode(image, "PNG")).pixels, [expected])


def test_the_name_of_the_file_is_not_asked_and_neither_are_other_plug_ins() -> None:
    # A PNG's magic before a JPEG's body: it claims to be PNG, so only the PNG parser may try.
    with pytest.raises(MediaError, match="not readable as PNG"):
        full(b"\x89PNG\r\n\x1a\n" + COLOUR_SAMPLES["JPEG"])


@pytest.mark.parametrize(
    "file_format",
    ["GIF", "PNG", "WEBP", "TIFF", pytest.param("AVIF", marks=needs_avif)],
)
def test_animations_give_their_first_frame(file_format: str) -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "lime", "blue")]
    data = encode(frames[0], file_format, save_all=True, append_images=frames[1:])
    mean = full(data).pixels.reshape(-1, 3).mean(axis=0)
    np.testing.assert_allclose(mean, [255, 0, 0], atol=3)


# --- transparency -----------------------------------------------------------------------------


def test_every_alpha_over_white_is_exactly_rounded() -> None:
    value, alpha = np.mgrid[0:256, 0:256].astype(np.uint8)
    expected = over_white(value, alpha)
    grey = full(encode(Image.fromarray(np.dstack([value, alpha]), "LA"), "PNG"))
    np.testing.assert_array_equal(grey.pixels, expected)
    rgba = full(encode(Image.fromarray(np.dstack([value, value, value, alpha])), "PNG"))
    np.testing.assert_array_equal(rgba.pixels, np.dstack([expected] * 3))


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "WEBP"])
def test_rgba(file_format: str) -> None:
    image = RGB.copy()
    image.putalpha(ALPHA)
    options = {"lossless": True, "exact": True} if file_format == "WEBP" else {}
    picture = full(encode(image, file_format, **options))
    np.testing.assert_array_equal(picture.pixels, over_white(pattern(), np.asarray(ALPHA)))


def test_premultiplied_tiff() -> None:
    image = Image.fromarray(np.full((2, 2, 4), [200, 100, 0, 128], np.uint8)).convert("RGBa")
    data = encode(image.convert("RGBA"), "TIFF", tiffinfo={338: 1})
    pixels = full(data).pixels
    with Image.open(io.BytesIO(data)) as opened:
        layer = opened.convert("RGBA")
    np.testing.assert_array_equal(
        pixels, over_white(np.asarray(layer)[..., :3], np.asarray(layer)[..., 3])
    )


@pytest.mark.parametrize("mode", ["RGBa", "La", "PA"])
def test_modes_that_only_plug_ins_produce(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = Image.new("LA" if mode == "La" else "RGBA", (3, 2), (0, 128) if mode == "La" else None)
    if mode != "La":
        layer = Image.new("RGBA", (3, 2), (0, 0, 0, 128))
    image = layer.convert(mode)
    monkeypatch.setitem(Image.OPEN, "QOI", (lambda _stream, _name: image, None))
    pixels = full(b"qoif").pixels
    assert pixels.shape == ((2, 3) if mode == "La" else (2, 3, 3))
    np.testing.assert_array_equal(pixels, 127)


def test_hsv(monkeypatch: pytest.MonkeyPatch) -> None:
    image = RGB.convert("HSV")
    monkeypatch.setitem(Image.OPEN, "QOI", (lambda _stream, _name: image, None))
    np.testing.assert_array_equal(full(b"qoif").pixels, np.asarray(image.convert("RGB")))


def test_palette_with_one_transparent_entry() -> None:
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "P")
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    for file_format in ("PNG", "GIF"):
        pixels = full(encode(image, file_format, transparency=1)).pixels
        np.testing.assert_array_equal(pixels, [[[10, 20, 30], [255, 255, 255], [70, 80, 90]]])


def test_palette_with_an_alpha_for_each_entry() -> None:
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "P")
    image.putpalette([0, 0, 0] * 3)
    pixels = full(encode(image, "PNG", transparency=b"\x00\x33\xff")).pixels
    np.testing.assert_array_equal(pixels, [[[255] * 3, [204] * 3, [0] * 3]])


def test_colour_key_in_rgb_and_grey() -> None:
    rows = b"\0" + bytes([1, 2, 3, 4, 5, 6])
    rgb = png(2, 1, 8, 2, rows, chunk(b"tRNS", bytes([0, 1, 0, 2, 0, 3])))
    np.testing.assert_array_equal(full(rgb).pixels, [[[255] * 3, [4, 5, 6]]])
    grey = png(2, 1, 8, 0, b"\0\x07\x08", chunk(b"tRNS", b"\0\x08"))
    np.testing.assert_array_equal(full(grey).pixels, [[7, 255]])
    one_bit = png(2, 1, 1, 0, b"\0\x40", chunk(b"tRNS", b"\0\0"))
    np.testing.assert_array_equal(full(one_bit).pixels, [[255, 255]])


# --- more than 8 bits -------------------------------------------------------------------------

DEEP = np.array([[0, 128, 129, 385], [257, 32768, 65406, 65535]], np.uint16)
DEEP_AS_8_BIT = [[0, 0, 1, 1], [1, 128, 254, 255]]  # value / 257, rounded


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "PPM"])
def test_16_bit_grey_is_scaled_not_clipped(file_format: str) -> None:
    picture = full(encode(Image.fromarray(DEEP), file_format))
    np.testing.assert_array_equal(picture.pixels, DEEP_AS_8_BIT)


def test_16_bit_big_endian_tiff() -> None:
    image = Image.frombytes("I;16B", (4, 2), DEEP.astype(">u2").tobytes())
    np.testing.assert_array_equal(full(encode(image, "TIFF")).pixels, DEEP_AS_8_BIT)


def test_16_bit_jpeg_2000() -> None:
    image = Image.fromarray(np.tile(DEEP, (8, 4)))
    pixels = full(encode(image, "JPEG2000", irreversible=False)).pixels
    np.testing.assert_array_equal(pixels, np.tile(DEEP_AS_8_BIT, (8, 4)))


def test_16_bit_colour_key() -> None:
    key = chunk(b"tRNS", b"\x01\x01")
    data = png(2, 1, 16, 0, b"\0\x01\x01\x02\x02", key)
    np.testing.assert_array_equal(full(data).pixels, [[255, 2]])


def test_12_bit_tiff_reaches_white() -> None:
    data = tiff(2, 1, 12, b"\x80\x0f\xff")  # 0x800, 0xfff
    np.testing.assert_array_equal(full(data).pixels, [[128, 255]])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 1, 200, 255], [0, 1, 200, 255]),  # looks like 8 bits
        ([0, 257, 32768, 65535], [0, 1, 128, 255]),  # looks like 16 bits
        ([0, 1 << 20, 1 << 21, 1 << 22], [0, 64, 128, 255]),  # neither: lowest to highest
        ([-100, 0, 0, 100], [0, 128, 128, 255]),
        ([7, 7, 7, 7], [7, 7, 7, 7]),
        ([1 << 20] * 4, [0, 0, 0, 0]),  # one value far beyond: no contrast to show
    ],
)
def test_32_bit_integers(values: list[int], expected: list[int]) -> None:
    image = Image.fromarray(np.array([values], np.int32))
    np.testing.assert_array_equal(full(encode(image, "TIFF")).pixels, [expected])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.25, 0.5, 1.0], [0, 64, 128, 255]),
        ([0.0, 1.4, 200.0, 255.0], [0, 1, 200, 255]),
        ([0.0, 257.0, 32768.0, 65535.0], [0, 1, 128, 255]),
        ([-1.0, -0.5, 0.0, 1.0], [0, 64, 128, 255]),
        ([np.nan, 0.0, np.inf, 1.0], [0, 0, 255, 255]),
        ([-np.inf, np.nan, -1.0, 1.0], [0, 0, 0, 255]),
        ([-3.4e38, 0.0, 0.0, 3.4e38], [0, 128, 128, 255]),
        ([np.nan] * 4, [0] * 4),
        ([0.0] * 4, [0] * 4),
    ],
)
def test_floats(values: list[float], expected: list[int]) -> None:
    image = Image.fromarray(np.array([values], np.float32))
    np.testing.assert_array_equal(full(encode(image, "TIFF")).pixels, [expected])


# --- orientation ------------------------------------------------------------------------------


def upright(stored: np.ndarray, orientation: int) -> np.ndarray:
    """EXIF 2.3, 4.6.4: which side of the stored picture is the visual top and left."""
    return {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: a[::-1].swapaxes(0, 1),
        7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: a.swapaxes(0, 1)[::-1],
    }[orientation](stored)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    "file_format",
    ["JPEG", "PNG", "WEBP", "TIFF", "TIFF LZW", pytest.param("AVIF", marks=needs_avif)],
)
def test_orientation(file_format: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    name = file_format.split()[0]
    # the reference is the same encoding without the tag: all differences are turns
    options: dict[str, Any] = {
        "WEBP": {"lossless": True},
        "TIFF LZW": {"compression": "tiff_lzw"},
    }.get(file_format, {})
    stored = full(encode(RGB, name, **options)).pixels
    picture = full(encode(RGB, name, exif=exif, **options))
    expected = upright(stored, orientation)
    np.testing.assert_array_equal(picture.pixels, expected)
    assert (picture.height, picture.width) == expected.shape[:2]
    assert picture.pixels.flags.c_contiguous


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_of_a_reduced_jpeg(orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    wide = Image.fromarray(pattern(4096, 4200))
    stored = luma(encode(wide, "JPEG")).pixels
    picture = luma(encode(wide, "JPEG", exif=exif))
    assert stored.shape == (2048, 2100)
    np.testing.assert_array_equal(picture.pixels, upright(stored, orientation))
    expected = (4200, 4096) if orientation < 5 else (4096, 4200)
    assert (picture.width, picture.height) == expected


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_is_ignored(orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    np.testing.assert_array_equal(full(encode(RGB, "PNG", exif=exif)).pixels, pattern())


@pytest.mark.parametrize(
    "block",
    [
        b"Exif\0\0",
        b"Exif\0\0garbage that is no TIFF header at all",
        b"Exif\0\0II*\0\xff\xff\xff\x7f",
        b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\x12\x01\x02\x00\xff\xff\xff\xff\xff\xff\xff\xff",
        # orientation as text, as a fraction 1/0
        b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\x03\0\0\0six\0\0\0\0\0",
        b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x05\0\x01\0\0\0\x1a\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0",
    ],
)
def test_broken_exif_does_not_cost_the_picture(block: bytes) -> None:
    expected = full(COLOUR_SAMPLES["JPEG"]).pixels
    np.testing.assert_array_equal(full(encode(RGB, "JPEG", exif=block)).pixels, expected)
    np.testing.assert_array_equal(full(encode(RGB, "PNG", exif=block)).pixels, pattern())


# --- reduced decoding -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((1, 1), (1, 1)),
        ((2048, 2048), (2048, 2048)),
        ((4095, 8000), (4095, 8000)),
        ((8000, 4095), (8000, 4095)),
        ((4096, 4096), (2048, 2048)),
        ((4097, 4099), (2049, 2050)),
        ((4096, 9000), (2048, 4500)),
        ((8191, 8193), (4096, 4097)),
        ((8192, 8192), (2048, 2048)),
    ],
)
def test_reduction_keeps_both_sides_at_2048(
    size: tuple[int, int], expected: tuple[int, int]
) -> None:
    data = encode(Image.new("L", size, 128), "JPEG", quality=10)
    picture = luma(data)
    assert picture.pixels.shape == expected[::-1]
    assert (picture.width, picture.height) == size
    assert picture.pixels.flags.c_contiguous


def test_colour_jpeg_gives_its_luma_plane() -> None:
    for name in ("JPEG", "JPEG progressive", "JPEG stored as RGB", "MPO"):
        pixels = luma(COLOUR_SAMPLES[name]).pixels
        assert pixels.shape == (40, 56)
        drift = np.abs(pixels.astype(int) - pillow(COLOUR_SAMPLES[name], "L"))
        assert drift.mean() < 1.5  # not 0: RGB clips what the luma plane still holds


def test_cmyk_jpeg_is_decoded_in_full() -> None:
    data = encode(RGB.resize((4100, 4100)).convert("CMYK"), "JPEG")
    picture = luma(data)
    np.testing.assert_array_equal(picture.pixels, pillow(data))
    assert picture.pixels.shape == (4100, 4100, 3)


def test_full_profile_never_reduces() -> None:
    assert full(encode(Image.new("RGB", (4096, 4096)), "JPEG")).pixels.shape == (4096, 4096, 3)


# --- hostile and damaged bytes ----------------------------------------------------------------


def test_a_bomb_is_refused_by_its_header() -> None:
    data = png(60_000, 60_000, 8, 2, b"")
    with pytest.raises(MediaError) as caught:
        full(data)
    assert caught.value.reason == "60,000 x 60,000 pixels exceed the limit of 200,000,000"
    assert caught.value.stage == "decode"
    assert not isinstance(caught.value, NotMediaError)


def test_the_limit_is_inclusive() -> None:
    data = COLOUR_SAMPLES["PNG"]
    assert decode(data, "full", max_pixels=40 * 56).width == 56
    with pytest.raises(MediaError, match="56 x 40 pixels exceed the limit of 2,239"):
        decode(data, "full", max_pixels=40 * 56 - 1)


def test_a_reduced_jpeg_is_measured_before_reduction() -> None:
    data = encode(Image.new("L", (4096, 4096)), "JPEG")
    with pytest.raises(MediaError, match="4,096 x 4,096 pixels exceed"):
        decode(data, "luma-2048", max_pixels=4096 * 4096 - 1)


def test_an_icon_may_not_hide_a_bomb() -> None:
    inner = png(20_000, 20_000, 8, 2, b"")
    entry = struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(inner), 22)
    with pytest.raises(MediaError, match="more pixels than the limit of 200,000,000"):
        full(b"\0\0\x01\0\x01\0" + entry + inner)


def test_pillows_own_limits_neither_matter_nor_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)

    def unchanged() -> bool:
        now = PngImagePlugin.MAX_TEXT_CHUNK, list(warnings.filters)
        return now == before and Image.MAX_IMAGE_PIXELS == 10 and ImageFile.LOAD_TRUNCATED_IMAGES

    before = PngImagePlugin.MAX_TEXT_CHUNK, list(warnings.filters)
    assert full(COLOUR_SAMPLES["PNG"]).width == 56
    with pytest.raises(MediaError):
        full(COLOUR_SAMPLES["PNG"][:40])
    for data in (COLOUR_SAMPLES["MPO"], COLOUR_SAMPLES["PNG"][:-100]):
        for _ in Pictures(data, "full", max_pixels=LIMIT):
            assert unchanged()  # also while a picture is used
    assert unchanged()


def test_a_long_text_does_not_cost_the_picture() -> None:
    text = chunk(b"zTXt", b"history\0\0" + zlib.compress(bytes(2 << 20)))
    np.testing.assert_array_equal(full(png(1, 1, 8, 0, b"\0\x2a", text)).pixels, [[42]])


def test_the_cause_is_kept() -> None:
    with pytest.raises(MediaError) as caught:
        full(COLOUR_SAMPLES["PNG"][:60])
    assert isinstance(caught.value.__cause__, OSError)


@pytest.mark.parametrize(
    "error",
    [
        OSError("o"),
        SyntaxError("s"),
        ValueError("v"),
        struct.error("s"),
        EOFError(),
        OverflowError("o"),
        MemoryError(),
        ZeroDivisionError("z"),
        IndexError("i"),
        KeyError("k"),
        zlib.error("z"),
        AssertionError(),
        RecursionError("r"),
        Image.DecompressionBombError("b"),
    ],
)
def test_whatever_a_plug_in_raises_is_a_media_error(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(_self: object) -> None:
        warnings.warn("a warning from inside Pillow", stacklevel=1)
        raise error

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", load)
    with pytest.raises(MediaError) as caught:
        full(COLOUR_SAMPLES["PNG"])
    assert caught.value.__cause__ is error
    assert caught.value.reason


def survives(data: bytes) -> None:
    """Pictures or a `MediaError`; pytest turns any escaped warning into a failure."""
    for profile in ("full", "luma-2048"):
        n_pictures = 0
        try:
            for picture in Pictures(data, profile, max_pixels=1_000_000):
                assert picture.pixels.dtype == np.uint8
                assert picture.pixels.shape[:2] == (picture.height, picture.width)
                n_pictures += 1
        except MediaError as error:
            assert error.reason
            assert n_pictures == 0


@pytest.mark.parametrize("name", SAMPLES)
def test_every_prefix_is_a_picture_or_a_failure(name: str) -> None:
    data = SAMPLES[name]
    cuts = {*range(min(len(data), 64)), *np.linspace(0, len(data) - 1, 100).astype(int).tolist()}
    for cut in cuts:
        survives(data[:cut])


@pytest.mark.parametrize("name", SAMPLES)
def test_every_damaged_header_byte_is_a_picture_or_a_failure(name: str) -> None:
    data = SAMPLES[name]
    for position in range(min(len(data), 128)):
        for value in (0, 0xFF, data[position] ^ 0x10):
            survives(data[:position] + bytes([value]) + data[position + 1 :])


@settings(max_examples=300, deadline=None)
@given(
    name=st.sampled_from(sorted(SAMPLES)),
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), max_size=8),
)
def test_random_damage_is_a_picture_or_a_failure(name: str, flips: list[tuple[float, int]]) -> None:
    data = bytearray(SAMPLES[name])
    for place, mask in flips:
        data[int(place * len(data))] ^= mask
    survives(bytes(data))


@settings(max_examples=200, deadline=None)
@given(name=st.sampled_from(sorted(SAMPLES)), tail=st.binary(max_size=200))
def test_random_bytes_behind_a_magic_are_a_picture_or_a_failure(name: str, tail: bytes) -> None:
    survives(SAMPLES[name][:16] + tail)
