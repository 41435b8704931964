"""Files of several pictures, damaged files and odd formats, each against an independent oracle."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps, features

from nearsearch.errors import MediaError
from nearsearch.media import apng, frames, image
from nearsearch.media.containers import Bounds
from nearsearch.media.fingerprint import outcomes
from nearsearch.media.image import Picture, Pictures
from nearsearch.media.seen import Wanted
from nearsearch.spec import Spec, get_spec

LIMIT = 10_000_000
needs_avif = pytest.mark.skipif(not features.check("avif"), reason="Pillow was built without AVIF")


def pattern(number: int = 0, height: int = 40, width: int = 56) -> np.ndarray:
    """Smooth and without any symmetry; another for each number."""
    y, x = np.mgrid[0:height, 0:width]
    planes = [x * 3 + number * 20, y * 5, (x * y) // 10 + number * 9]
    return (np.dstack(planes) % 230).astype(np.uint8)


def scene(number: int = 0, height: int = 40, width: int = 56) -> Image.Image:
    return Image.fromarray(pattern(number, height, width))


def encode(picture: Image.Image, file_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.copy().save(buffer, file_format, **options)  # a copy: JPEG leaves its settings there
    return buffer.getvalue()


def animate(pictures: list[Image.Image], file_format: str, **options: Any) -> bytes:
    later = [picture.copy() for picture in pictures[1:]]
    return encode(pictures[0], file_format, save_all=True, append_images=later, **options)


def read(data: bytes, profile: str = "full", **limits: Any) -> tuple[list[Picture], str | None]:
    pictures = Pictures(data, profile, **{"max_pixels": LIMIT} | limits)
    return list(pictures), pictures.problem


def near(actual: np.ndarray, expected: np.ndarray, mean: float) -> None:
    assert actual.shape == expected.shape
    assert np.abs(actual.astype(int) - expected).mean() <= mean


# --- frames -----------------------------------------------------------------------------------

SCENES = [scene(number) for number in range(5)]
DURATIONS = [100, 200, 300, 400, 500]
FEW_COLOURS = [s.quantize(64) for s in SCENES]
ANIMATIONS = {  # with how far their pixels may be from the scenes
    "GIF": (animate(FEW_COLOURS, "GIF", duration=DURATIONS), 0),
    "PNG": (animate(SCENES, "PNG", duration=DURATIONS), 0),
    "WEBP": (animate(SCENES, "WEBP", duration=DURATIONS, lossless=True), 0),
}
if features.check("avif"):
    ANIMATIONS["AVIF"] = (animate(SCENES, "AVIF", duration=DURATIONS, quality=95), 4)


def shown(name: str, number: int) -> np.ndarray:
    return np.asarray((FEW_COLOURS if name == "GIF" else SCENES)[number].convert("RGB"))


@pytest.mark.parametrize("name", ANIMATIONS)
def test_frames_and_their_times(name: str) -> None:
    data, drift = ANIMATIONS[name]
    found, problem = read(data)
    assert problem is None
    assert [p.view for p in found] == ["image"] + ["frame"] * 4
    assert [p.time_ms for p in found] == [None, 100, 300, 600, 1000]
    for number, picture in enumerate(found):
        near(picture.pixels, shown(name, number), drift)
        assert (picture.width, picture.height) == (56, 40)


@pytest.mark.parametrize("name", ANIMATIONS)
def test_of_many_frames_some_are_read_at_even_distances(name: str) -> None:
    data, _ = ANIMATIONS[name]
    every, _ = read(data)
    for most, numbers in {1: [0], 2: [0, 2], 3: [0, 1, 3], 4: [0, 1, 2, 3], 9: range(5)}.items():
        found, problem = read(data, max_views=most)
        assert problem is None
        assert [p.time_ms for p in found] == [every[number].time_ms for number in numbers]
        for picture, number in zip(found, numbers, strict=True):
            np.testing.assert_array_equal(picture.pixels, every[number].pixels)


@pytest.mark.parametrize("name", ANIMATIONS)
def test_frames_end_at_four_times_the_pixels_of_one(name: str) -> None:
    found, problem = read(ANIMATIONS[name][0], max_pixels=56 * 40)
    assert len(found) == (3 if name == "PNG" else 4)  # a PNG's first is composed once more
    assert problem == f"more than 8,960 pixels in all; {len(found)} of 5 frames were read"


@pytest.mark.parametrize("name", ANIMATIONS)
def test_frames_that_are_passed_over_count_too(name: str) -> None:
    data = animate([scene(number) for number in range(12)], name, duration=100)
    found, problem = read(data, max_pixels=56 * 40, max_views=3)
    assert [p.time_ms for p in found] == [None, 100, 200]  # of the four that can be composed
    assert problem == f"more than 8,960 pixels in all; {len(found)} of 12 frames were read"


def test_the_views_of_a_long_animation_lie_where_its_pixels_end() -> None:
    data = animate([scene(number) for number in range(20)], "GIF", duration=100)
    found, problem = read(data, max_pixels=56 * 40 * 2, max_views=4)  # eight are composed
    assert [p.time_ms for p in found] == [None, 200, 400, 600]
    assert problem == "more than 17,920 pixels in all; 4 of 20 frames were read"


def test_64_frames_unless_told_otherwise() -> None:
    dots = [Image.new("L", (8, 8), number) for number in range(130)]
    found, problem = read(animate(dots, "PNG", duration=10))
    assert (len(found), problem) == (64, None)
    assert [p.pixels[0, 0] for p in found] == [view * 130 // 64 for view in range(64)]


@pytest.mark.parametrize("name", ["GIF", "PNG"])
def test_a_cut_animation_keeps_its_whole_frames(name: str) -> None:
    data, drift = ANIMATIONS[name]
    found, problem = read(data[: len(data) * 7 // 10])
    assert 2 <= len(found) <= 4
    assert problem.endswith(f"; {len(found)} of 5 frames were read") or name == "GIF"
    for number, picture in enumerate(found):
        near(picture.pixels, shown(name, number), drift)


@pytest.mark.parametrize("orientation", [2, 6])
@pytest.mark.parametrize("name", ["PNG", "WEBP"])
def test_frames_are_turned_like_the_first(name: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if name == "WEBP" else {}
    found, _ = read(animate(SCENES[:3], name, exif=exif, **options))
    for number, picture in enumerate(found):
        expected = (
            ImageOps.mirror(scene(number))
            if orientation == 2
            else scene(number).rotate(-90, expand=True)
        )
        np.testing.assert_array_equal(picture.pixels, np.asarray(expected))


def gif(*blocks: bytes, size: tuple[int, int] = (4, 4)) -> bytes:
    """A GIF with a global palette of black, red, green, blue."""
    head = struct.pack("<HHBBB", *size, 0x81, 0, 0)
    palette = bytes([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255])
    return b"GIF89a" + head + palette + b"".join(blocks) + b";"


def gif_frame(
    box: tuple[int, int, int, int], colours: list[int], dispose: int, clear: int | None, delay: int
) -> bytes:
    """Codes of three bits, with a clear code before every two pixels, so that they never grow."""
    flags = dispose << 2 | (clear is not None)
    control = b"!\xf9\x04" + struct.pack("<BHBB", flags, delay, clear or 0, 0)
    codes: list[int] = []
    for position, colour in enumerate(colours):
        codes += [4, colour] if position % 2 == 0 else [colour]
    bits = "".join(f"{code:03b}"[::-1] for code in [*codes, 5])
    packed = bytes(int(bits[at : at + 8][::-1], 2) for at in range(0, len(bits), 8))
    return (
        control
        + b","
        + struct.pack("<HHHHB", *box, 0)
        + b"\x02"
        + bytes([len(packed)])
        + packed
        + b"\0"
    )


def test_gif_disposal() -> None:
    black, red, green, blue = [0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255]
    data = gif(
        gif_frame((0, 0, 4, 4), [1] * 16, 1, None, 10),  # all red, stays
        gif_frame((1, 1, 2, 2), [2, 3, 3, 2], 3, 3, 20),  # green corners; then what was before
        gif_frame((0, 0, 2, 1), [3, 3], 1, None, 30),  # blue on red
        gif_frame((3, 3, 1, 1), [0], 1, None, 40),
    )
    found, problem = read(data)
    assert problem is None
    assert [p.time_ms for p in found] == [None, 100, 300, 600]
    one = np.full((4, 4, 3), red)
    np.testing.assert_array_equal(found[0].pixels, one)
    two = one.copy()
    two[1, 1] = two[2, 2] = green
    np.testing.assert_array_equal(found[1].pixels, two)
    three = one.copy()
    three[0, :2] = blue
    np.testing.assert_array_equal(found[2].pixels, three)
    four = three.copy()
    four[3, 3] = black
    np.testing.assert_array_equal(found[3].pixels, four)


def test_a_gif_frame_disposed_to_transparent_is_white() -> None:
    data = gif(
        gif_frame((0, 0, 4, 4), [1] * 16, 2, 0, 10),
        gif_frame((0, 0, 1, 1), [2], 1, 0, 10),
    )
    found, _ = read(data)
    expected = np.full((4, 4, 3), 255)
    expected[0, 0] = [0, 255, 0]
    np.testing.assert_array_equal(found[1].pixels, expected)


def test_a_gif_of_more_frames_than_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "MOST", 7)
    monkeypatch.setattr(image, "MOST", 7)
    data = gif(*[gif_frame((0, 0, 1, 1), [n % 4], 1, None, 1) for n in range(20)])
    found, problem = read(data)
    assert len(found) == 7
    assert problem == "the rest was not looked at; 7 of 7 frames were read"


# --- APNG against a compositor in floats --------------------------------------------------------


def chunk(kind: bytes, content: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + checksum


class Frame:
    def __init__(self, box: tuple[int, int, int, int], dispose: int, blend: int, seed: int) -> None:
        self.box, self.dispose, self.blend = box, dispose, blend
        rng = np.random.default_rng(seed)
        self.pixels = rng.integers(0, 256, (box[3], box[2], 4), np.uint8)
        self.pixels[rng.random((box[3], box[2])) < 0.3, 3] = 0
        self.pixels[rng.random((box[3], box[2])) < 0.3, 3] = 255


def make_apng(items: list[Frame], default: np.ndarray | None = None, stated: int = 0) -> bytes:
    """Truecolour with alpha; the first frame covers the picture."""
    left, top, width, height = items[0].box
    parts = [chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0))]
    parts.append(chunk(b"acTL", struct.pack(">II", stated or len(items), 0)))
    if default is not None:
        parts.append(chunk(b"IDAT", rows(default)))
    sequence = 0
    for number, item in enumerate(items):
        left, top, width, height = item.box
        control = (sequence, width, height, left, top, 1, 10, item.dispose, item.blend)
        parts.append(chunk(b"fcTL", struct.pack(">IIIIIHHBB", *control)))
        sequence += 1
        if number == 0 and default is None:
            parts.append(chunk(b"IDAT", rows(item.pixels)))
        else:
            parts.append(chunk(b"fdAT", struct.pack(">I", sequence) + rows(item.pixels)))
            sequence += 1
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b"")


def rows(pixels: np.ndarray) -> bytes:
    return zlib.compress(b"".join(b"\0" + row.tobytes() for row in pixels))


def composed(items: list[Frame]) -> list[np.ndarray]:
    """The specification's own words, in floats: what is seen over white, frame by frame."""
    width, height = items[0].box[2:]
    canvas = np.zeros((height, width, 4))
    seen = []
    for item in items:
        left, top, width, height = item.box
        before = canvas.copy()
        area = canvas[top : top + height, left : left + width]
        new = item.pixels / 255.0
        if item.blend == 0:
            area[:] = new
        else:
            alpha = new[..., 3:] + area[..., 3:] * (1 - new[..., 3:])
            colour = new[..., :3] * new[..., 3:] + area[..., :3] * area[..., 3:] * (
                1 - new[..., 3:]
            )
            area[..., :3] = np.divide(colour, alpha, out=np.zeros_like(colour), where=alpha > 0)
            area[..., 3:] = alpha
        seen.append(255 * (canvas[..., :3] * canvas[..., 3:] + 1 - canvas[..., 3:]))
        if item.dispose == 1:
            area[:] = 0
        elif item.dispose == 2:
            canvas = before
    return seen


@pytest.mark.parametrize("seed", range(6))
def test_apng_is_composed_by_its_specification(seed: int) -> None:
    rng = np.random.default_rng(seed)
    items = [Frame((0, 0, 24, 16), int(rng.integers(3)), int(rng.integers(2)), seed)]
    for number in range(1, 8):
        width, height = int(rng.integers(1, 25)), int(rng.integers(1, 17))
        left, top = int(rng.integers(25 - width)), int(rng.integers(17 - height))
        box = (left, top, width, height)
        items.append(Frame(box, int(rng.integers(3)), int(rng.integers(2)), 100 * seed + number))
    found, problem = read(make_apng(items))
    assert problem is None
    assert [p.time_ms for p in found] == [None, *range(100, 800, 100)]
    expected = composed(items)
    for picture, exact in zip(found, expected, strict=True):
        assert np.abs(picture.pixels - exact).max() <= 4  # eight bits at every step
    some, _ = read(make_apng(items), max_views=3)
    for picture, number in zip(some, (0, 2, 5), strict=True):
        np.testing.assert_array_equal(picture.pixels, found[number].pixels)


def test_an_apngs_default_image_may_be_none_of_its_frames() -> None:
    default = Frame((0, 0, 24, 16), 0, 0, 9)
    items = [Frame((0, 0, 24, 16), 0, 0, 1), Frame((2, 2, 9, 9), 0, 1, 2)]
    found, problem = read(make_apng(items, default.pixels))
    assert problem is None
    assert [(p.view, p.time_ms) for p in found] == [("image", None), ("frame", 0), ("frame", 100)]
    for picture, exact in zip(found, composed([default]) + composed(items), strict=True):
        assert np.abs(picture.pixels - exact).max() <= 2


@pytest.mark.parametrize("stated", [3, 1000, 2**31 - 1])
def test_an_apng_that_promises_more_frames_than_it_has(stated: int) -> None:
    items = [Frame((0, 0, 24, 16), 0, 0, 1), Frame((2, 2, 9, 9), 0, 1, 2)]
    found, problem = read(make_apng(items, stated=stated))
    assert len(found) == 2
    assert problem == f"the rest is missing; 2 of {stated:,} frames were read"


def test_an_apng_frame_outside_of_the_picture() -> None:
    items = [Frame((0, 0, 24, 16), 0, 0, 1), Frame((20, 2, 9, 9), 0, 1, 2)]
    found, problem = read(make_apng(items))
    assert len(found) == 1
    assert problem.endswith("1 of 2 frames were read")
    assert "frame 2: " in problem


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "I;16"])
def test_apng_frames_of_every_mode(mode: str) -> None:
    pictures = [s.convert("L").convert(mode) if mode == "I;16" else s.convert(mode) for s in SCENES]
    data = animate(pictures[:2], "PNG", duration=100)
    found, problem = read(data)
    assert (len(found), problem) == (2, None)
    for number, picture in enumerate(found):
        single, _ = read(encode(pictures[number], "PNG"))
        expected = single[0].pixels
        if picture.pixels.ndim != expected.ndim:  # frames are RGB, grey ones too
            expected = np.repeat(expected[..., None], 3, axis=2)
        near(picture.pixels, expected, 3 if mode == "P" else 0)


# --- pages ------------------------------------------------------------------------------------

SIZES = [(40, 56), (30, 20), (64, 48)]
PAGES = [scene(number, *size) for number, size in enumerate(SIZES)]


@pytest.mark.parametrize(
    "options",
    [{}, {"compression": "tiff_lzw"}, {"compression": "tiff_adobe_deflate"}, {"big_tiff": True}],
    ids=str,
)
def test_pages_of_a_tiff(options: dict[str, Any]) -> None:
    found, problem = read(animate(PAGES, "TIFF", **options))
    assert problem is None
    assert [(p.view, p.time_ms) for p in found] == [
        ("image", None),
        ("page 2", None),
        ("page 3", None),
    ]
    for picture, page in zip(found, PAGES, strict=True):
        np.testing.assert_array_equal(picture.pixels, np.asarray(page))
        assert (picture.width, picture.height) == page.size


def test_pages_of_all_modes_in_one_tiff() -> None:
    pages = [PAGES[0], PAGES[1].convert("L"), PAGES[2].convert("1"), PAGES[0].convert("CMYK")]
    found, problem = read(animate(pages, "TIFF"))
    assert problem is None
    for picture, page in zip(found, pages, strict=True):
        mode = "RGB" if page.mode == "CMYK" else "L" if page.mode == "1" else page.mode
        np.testing.assert_array_equal(picture.pixels, np.asarray(page.convert(mode)))


@pytest.mark.parametrize("profile", ["full", "luma-2048"])
def test_pages_of_an_mpo(profile: str) -> None:
    found, problem = read(animate(PAGES, "MPO", quality=95), profile)
    assert problem is None
    assert [p.view for p in found] == ["image", "page 2", "page 3"]
    for picture, page in zip(found, PAGES, strict=True):
        expected = np.asarray(page if profile == "full" else page.convert("L"))
        near(picture.pixels, expected, 6)


def test_reduced_pages_of_an_mpo() -> None:
    pages = [scene(0, 100, 100).resize(size) for size in ((4100, 4100), (4200, 4096), (50, 60))]
    found, problem = read(animate(pages, "MPO"), "luma-2048", max_pixels=30_000_000)
    assert problem is None
    assert [p.pixels.shape for p in found] == [(2050, 2050), (2048, 2100), (60, 50)]
    assert [(p.width, p.height) for p in found] == [page.size for page in pages]


def test_a_broken_page_does_not_cost_the_others() -> None:
    data = bytearray(animate(PAGES, "TIFF", compression="tiff_adobe_deflate"))
    (first,) = struct.unpack_from("<I", data, 4)
    second = next_directory(data, first)
    set_tag(data, second, 259, 34892)  # a compression that nobody has
    found, problem = read(bytes(data))
    assert [p.view for p in found] == ["image", "page 3"]
    assert problem.startswith("page 2: ")
    assert problem.endswith("; 2 of 3 pages were read")


def test_a_page_over_the_limit_is_left_out() -> None:
    found, problem = read(animate(PAGES, "TIFF"), max_pixels=56 * 40)
    assert [p.view for p in found] == ["image", "page 2"]
    assert problem == ("page 3: 48 x 64 pixels exceed the limit of 2,240; 2 of 3 pages were read")


def test_pages_in_a_circle_end() -> None:
    data = bytearray(animate(PAGES[:2], "TIFF"))
    (first,) = struct.unpack_from("<I", data, 4)
    second = next_directory(data, first)
    (count,) = struct.unpack_from("<H", data, second)
    struct.pack_into("<I", data, second + 2 + 12 * count, first)
    found, problem = read(bytes(data))
    assert (len(found), problem) == (2, None)


def next_directory(data: bytearray, at: int) -> int:
    (count,) = struct.unpack_from("<H", data, at)
    return int(struct.unpack_from("<I", data, at + 2 + 12 * count)[0])


def set_tag(data: bytearray, directory: int, tag: int, value: int) -> None:
    (count,) = struct.unpack_from("<H", data, directory)
    for entry in range(directory + 2, directory + 2 + 12 * count, 12):
        if struct.unpack_from("<H", data, entry)[0] == tag:
            struct.pack_into("<H", data, entry + 8, value)


def test_an_icon_gives_its_largest_picture() -> None:
    found, problem = read(encode(scene(0, 64, 64), "ICO", sizes=[(16, 16), (64, 64), (32, 32)]))
    assert (len(found), problem) == (1, None)
    np.testing.assert_array_equal(found[0].pixels, pattern(0, 64, 64))


# --- formats ----------------------------------------------------------------------------------


def tiff(fields: dict[int, tuple[int, list[int]]], blocks: list[bytes], offsets: int) -> bytes:
    """A little-endian TIFF of `blocks`, whose places go into tag `offsets`, sizes into the next."""
    body, places = b"", []
    for block in blocks:
        places.append(8 + len(body))
        body += block
    sizes_tag = {273: 279, 324: 325}[offsets]
    fields = fields | {offsets: (4, places), sizes_tag: (4, [len(block) for block in blocks])}
    start = 8 + len(body)
    extra_at = start + 2 + 12 * len(fields) + 4
    entries, extra = b"", b""
    for tag, (kind, values) in sorted(fields.items()):
        packed = struct.pack("<" + {3: "H", 4: "I"}[kind] * len(values), *values)
        if len(packed) > 4:
            entries += struct.pack("<HHII", tag, kind, len(values), extra_at + len(extra))
            extra += packed
        else:
            entries += struct.pack("<HHI", tag, kind, len(values)) + packed.ljust(4, b"\0")
    directory = struct.pack("<H", len(fields)) + entries + bytes(4)
    return b"II*\0" + struct.pack("<I", start) + body + directory + extra


def tags(height: int, width: int, bits: list[int], photometric: int) -> dict[int, Any]:
    return {
        256: (4, [width]),
        257: (4, [height]),
        258: (3, bits),
        259: (3, [1]),
        262: (3, [photometric]),
        277: (3, [len(bits)]),
    }


def test_planar_tiff() -> None:
    pixels = pattern()
    fields = tags(40, 56, [8, 8, 8], 2) | {278: (4, [40]), 284: (3, [2])}
    found, _ = read(tiff(fields, [pixels[..., band].tobytes() for band in range(3)], 273))
    np.testing.assert_array_equal(found[0].pixels, pixels)


def test_tiled_tiff() -> None:
    pixels = pattern(0, 48, 64)
    fields = tags(48, 64, [8, 8, 8], 2) | {322: (4, [32]), 323: (4, [16])}
    tiles = [
        pixels[y : y + 16, x : x + 32].tobytes() for y in range(0, 48, 16) for x in range(0, 64, 32)
    ]
    found, _ = read(tiff(fields, tiles, 324))
    np.testing.assert_array_equal(found[0].pixels, pixels)


def test_tiff_of_16_bits_a_colour_gives_the_upper_eight() -> None:
    pixels = pattern().astype("<u2") * 257
    fields = tags(40, 56, [16, 16, 16], 2) | {278: (4, [40])}
    found, _ = read(tiff(fields, [pixels.tobytes()], 273))
    np.testing.assert_array_equal(found[0].pixels, pattern())


def test_png_of_16_bits_a_colour_gives_the_upper_eight() -> None:
    lines = b"".join(b"\0" + row.tobytes() for row in pattern().astype(">u2") * 257)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 56, 40, 16, 2, 0, 0, 0))
    data = (
        b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    )
    found, _ = read(data)
    np.testing.assert_array_equal(found[0].pixels, pattern())


def test_tiff_of_floats() -> None:
    found, _ = read(encode(Image.fromarray(pattern()[..., 0].astype(np.float32)), "TIFF"))
    np.testing.assert_array_equal(found[0].pixels, pattern()[..., 0])


def test_jpeg_2000_without_loss() -> None:
    found, _ = read(encode(scene(), "JPEG2000", irreversible=False))
    np.testing.assert_array_equal(found[0].pixels, pattern())


def test_cmyk_as_adobe_writes_it() -> None:
    """Inverted, with Adobe's marker: Pillow writes so; without ink it is white."""
    white = encode(Image.new("CMYK", (16, 16)), "JPEG")
    assert b"Adobe" in white
    np.testing.assert_array_equal(read(white)[0][0].pixels, 255)
    cyan = encode(Image.new("CMYK", (16, 16), (255, 0, 0, 0)), "JPEG")
    near(read(cyan)[0][0].pixels, np.full((16, 16, 3), [0, 255, 255]), 1)


def test_ycck_is_cmyk_transformed() -> None:
    data = bytearray(encode(Image.new("CMYK", (16, 16), (0, 0, 0, 128)), "JPEG"))
    data[data.index(b"Adobe") + 11] = 2  # the four planes are Y, Cb, Cr and K
    pixels = read(bytes(data))[0][0].pixels
    # stored are 255, 255, 255, 127: as Y, Cb, Cr they make the inverse of C, M, Y, inverted again
    y, chroma, k = 255, 255 - 128, 127
    stored = np.clip([y + 1.402 * chroma, y - 1.058 * chroma, y + 1.772 * chroma], 0, 255)
    near(pixels, np.full((16, 16, 3), (255 - stored) * k / 255), 2)


def test_jpegs_of_12_bits_are_refused() -> None:
    data = bytearray(encode(scene(), "JPEG"))
    data[data.index(b"\xff\xc0") + 4] = 12
    with pytest.raises(MediaError, match="not readable as JPEG"):
        read(bytes(data))


def test_heic() -> None:
    heif = pytest.importorskip("pillow_heif")
    file = heif.from_pillow(PAGES[0])
    file.add_from_pillow(PAGES[2])
    buffer = io.BytesIO()
    file.save(buffer, quality=95, chroma=444)
    found, problem = read(buffer.getvalue())
    assert problem is None
    assert [p.view for p in found] == ["image", "page 2"]
    for picture, page in zip(found, (PAGES[0], PAGES[2]), strict=True):
        near(picture.pixels, np.asarray(page), 4)
    half, problem = buffer.getvalue()[:-200], None
    try:
        _, problem = read(half)
    except MediaError as error:
        problem = error.reason
    assert problem


# --- damage -----------------------------------------------------------------------------------

BIG = scene(0, 200, 300)
WHOLE = {
    "JPEG": encode(BIG, "JPEG", quality=90),
    "JPEG progressive": encode(BIG, "JPEG", quality=90, progressive=True),
    "PNG": encode(BIG, "PNG"),
    "GIF": encode(BIG.quantize(64), "GIF"),
    "BMP": encode(BIG, "BMP"),
    "PPM": encode(BIG, "PPM"),
    "TIFF": encode(BIG, "TIFF"),
}
OTHERS = {
    "WEBP": encode(BIG, "WEBP"),
    "JP2": encode(BIG, "JPEG2000"),
    "ICO": encode(scene(0, 64, 64), "ICO", sizes=[(64, 64)]),
    "TIFF LZW": encode(BIG, "TIFF", compression="tiff_lzw"),
    "TIFF pages": animate(PAGES, "TIFF"),
    "MPO": animate(PAGES, "MPO"),
    "CMYK": encode(BIG.convert("CMYK"), "JPEG"),
    **{f"{name} frames": data for name, (data, _) in ANIMATIONS.items()},
}
if features.check("avif"):
    OTHERS["AVIF"] = encode(BIG, "AVIF")


@pytest.mark.parametrize("profile", ["full", "luma-2048"])
@pytest.mark.parametrize("name", WHOLE)
def test_three_quarters_of_a_file_give_most_of_the_picture(name: str, profile: str) -> None:
    data = WHOLE[name]
    whole = read(data, profile)[0][0]
    found, problem = read(data[: len(data) * 3 // 4], profile)
    assert problem.startswith("truncated: ")
    assert len(found) == 1
    assert found[0].pixels.shape == whole.pixels.shape
    same = slice(140, None) if name == "BMP" else slice(0, 60)  # bottom up
    drift = np.abs(found[0].pixels[same].astype(int) - whole.pixels[same]).mean()
    assert drift <= (4 if name == "JPEG progressive" else 0)


@pytest.mark.parametrize("name", OTHERS | WHOLE)
def test_a_cut_file_is_flagged_or_refused(name: str) -> None:
    data = (OTHERS | WHOLE)[name]
    sound, problem = read(data)
    assert problem is None
    for share in (0.1, 0.5, 0.9):
        try:
            found, problem = read(data[: int(len(data) * share)])
        except MediaError as error:
            assert error.stage == "decode"
            assert "0x" not in error.reason  # no memory address: reports must be reproducible
        else:
            # a GIF has no count of its frames
            assert problem or (name == "GIF frames" and len(found) < len(sound))


def test_a_file_cut_before_its_first_pixel_is_refused() -> None:
    data = WHOLE["JPEG"]
    with pytest.raises(MediaError, match=r"^decode: truncated: "):
        read(data[: data.index(b"\xff\xda") + 9])
    with pytest.raises(MediaError):
        read(WHOLE["PNG"][:45])


def test_what_comes_out_in_one_colour_is_refused() -> None:
    data = encode(Image.new("RGB", (300, 200), (9, 9, 9)), "BMP")
    assert len(read(data)[0]) == 1
    with pytest.raises(MediaError, match="truncated"):
        read(data[:60])


def test_a_strip_that_libtiff_cannot_read() -> None:
    data = bytearray(encode(BIG, "TIFF", compression="tiff_adobe_deflate", strip_size=300 * 3 * 20))
    data[8 + len(data) // 3] ^= 0xFF
    found, problem = read(bytes(data))
    assert problem.startswith("not readable as TIFF: ")
    np.testing.assert_array_equal(found[0].pixels[:20], pattern(0, 200, 300)[:20])


def test_a_broken_checksum_of_a_side_chunk() -> None:
    data = bytearray(encode(BIG, "PNG", dpi=(72, 72)))
    data[data.index(b"pHYs") + 13] ^= 1
    found, problem = read(bytes(data))
    assert problem == "not readable as PNG: broken PNG file (bad header checksum in b'pHYs')"
    np.testing.assert_array_equal(found[0].pixels, pattern(0, 200, 300))


def mutants(data: bytes, seed: int) -> list[bytes]:
    """Flipped, cut, with a piece left out or doubled, and with an edited header."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(6):
        flipped = bytearray(data)
        for _ in range(int(rng.integers(1, 9))):
            flipped[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
        made.append(bytes(flipped))
    for _ in range(4):
        made.append(data[: int(rng.integers(1, len(data)))])
    for _ in range(4):
        first, last = sorted(rng.integers(0, len(data), 2).tolist())
        made += [data[:first] + data[last:], data[:last] + data[first:]]
    for _ in range(12):
        edited = bytearray(data)
        at = int(rng.integers(min(len(data) - 4, 600)))
        edited[at : at + 4] = [b"\0\0\0\0", b"\xff\xff\xff\xff", rng.bytes(4)][rng.integers(3)]
        made.append(bytes(edited))
    return made


@pytest.mark.parametrize("name", WHOLE | OTHERS)
def test_mutants_give_pictures_or_a_media_error(name: str) -> None:
    """pytest turns any escaped warning into a failure."""
    for mutant in mutants((WHOLE | OTHERS)[name], sum(name.encode())):
        for profile in ("full", "luma-2048"):
            try:
                found, problem = read(mutant, profile, max_pixels=300_000)
            except MediaError as error:
                assert error.reason
                continue
            assert found[0].view == "image"
            assert problem is None or problem
            for picture in found:
                assert picture.pixels.dtype == np.uint8
                assert picture.pixels.shape[:2] == (picture.height, picture.width)
                assert picture.time_ms is None or 0 <= picture.time_ms < 2**31


# --- codes ------------------------------------------------------------------------------------


def wanted(*specs: Spec) -> Wanted:
    bounds = Bounds(max_bytes=LIMIT)
    return Wanted(specs=specs, digests=[], max_pixels=LIMIT, bounds=bounds)


def test_codes_of_all_views_are_kept_once(tmp_path: Any) -> None:
    still = [SCENES[0], SCENES[1], SCENES[0], SCENES[2]]
    path = tmp_path / "a.png"
    path.write_bytes(animate(still, "PNG", duration=100))
    specs = [get_spec("pdq"), get_spec("phash")]
    (found,) = outcomes(str(path), wanted(*specs))
    assert found["status"] == "hashed"
    assert not found.keys() & {"reason", "stage"}
    assert (found["format"], found["width"], found["height"]) == ("PNG", 56, 40)
    assert [row[:2] for row in found["codes"]["pdq"]] == [
        ["image", None],
        ["frame", 100],
        ["frame", 300],
    ]
    hexes = [row[2] for row in found["codes"]["phash"]]
    assert len(set(hexes)) == len(hexes) >= 1


def test_a_damaged_file_has_codes_and_a_problem(tmp_path: Any) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(WHOLE["JPEG"][:-900])
    (found,) = outcomes(str(path), wanted(get_spec("pdq")))
    assert (found["status"], found["stage"]) == ("hashed", "damaged")
    assert found["reason"].startswith("truncated: ")
    assert len(found["codes"]["pdq"]) == 1


def test_one_chunk_walker_reads_what_is_whole() -> None:
    data = encode(scene(), "PNG")
    kinds = [kind for kind, _, _ in apng._chunks(data)]
    assert (kinds[0], kinds[-1]) == (b"IHDR", b"IEND")
    assert [kind for kind, _, _ in apng._chunks(data[:-1])] == kinds[:-1]
