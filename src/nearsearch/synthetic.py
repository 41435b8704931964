"""Made-up pictures and codes with known truth: for the demo, the tests and the benchmarks.

This module owns how they are drawn, altered and labelled. It refuses to know how pictures are
hashed or searched. Everything follows from a seed: the same seed gives the same pixels, whatever
was drawn before, as long as numpy and Pillow (which draws letters and resizes) stay the same.
Files may differ between versions of the encoders.
"""

from __future__ import annotations

import csv
import io
import math
import zlib
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from nearsearch.errors import CodesError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from os import PathLike

    from numpy.random import Generator
    from numpy.typing import ArrayLike, NDArray

    Pixels = NDArray[np.uint8]

VERSION: Final = 1
"""Rises whenever a picture of the same seed changes."""


# --- pictures -----------------------------------------------------------------------------------


def make_picture(seed: int, kind: str, width: int, height: int) -> Pixels:
    """Draw picture number `seed` of its kind.

    Parameters
    ----------
    seed
        Any non-negative integer; other sizes and kinds of the same seed are unrelated pictures.
    kind
        ``"leaves"``: overlapping textured shapes whose radii follow a power law, which gives the
        statistics of photographs (dead leaves model: Lee, Mumford & Huang, IJCV 2001).
        ``"text"``: a page with headings, words, boxes. ``"shapes"``: a poster.
    width, height
        Size in pixels, at least 32.

    Returns
    -------
    (height, width, 3) uint8, RGB, owned by the caller.

    Raises
    ------
    UsageError
        An unknown kind, or a picture too small to draw.
    """
    if kind not in _PAINTERS:
        raise UsageError(f"no kind of picture {kind!r}; there are: {', '.join(KINDS)}")
    if min(width, height) < 32:
        raise UsageError(f"pictures are at least 32 pixels a side, not {width} x {height}")
    rng = _generator(seed, kind, width, height)
    return _PAINTERS[kind](rng, width, height)


def _generator(seed: int, purpose: str, *numbers: int) -> Generator:
    """Return a stream of its own for each purpose, so that no order of calls matters."""
    return np.random.default_rng([seed, zlib.crc32(purpose.encode()), *numbers])


def _cloud(rng: Generator, width: int, height: int, octaves: int = 6) -> NDArray[np.float32]:
    """Return (height, width) noise of about -1..1, each octave half as strong: a 1/f spectrum."""
    cloud = np.zeros((height, width), np.float32)
    for octave in range(octaves):
        cells = 2 ** (octave + 1)
        grid = Image.fromarray(rng.uniform(-1, 1, (cells, cells)).astype(np.float32))
        cloud += np.asarray(grid.resize((width, height), Image.Resampling.BICUBIC)) / 2**octave
    return cloud


def _leaves(rng: Generator, width: int, height: int) -> Pixels:
    side = min(width, height)
    cloud = _cloud(rng, 2 * width, 2 * height, octaves=8)
    # Seen colours are mostly greyish: lightness differs more than hue does.
    palette = rng.uniform(30, 200, (6, 1)) + rng.normal(0, 28, (6, 3))
    canvas = (palette[0] + 50 * cloud[:height, :width, None]).astype(np.float32)
    # Radii with density r^-3: large enough shapes to cover each other, small ones at every scale.
    smallest, largest = 0.025 * side, 0.5 * side
    uniform = rng.random(350)
    for radius in (uniform * largest**-2 + (1 - uniform) * smallest**-2) ** -0.5:
        _paint_leaf(rng, canvas, cloud, radius, palette[rng.integers(6)])
    light = 1 + 0.3 * _cloud(rng, width, height, octaves=2)
    return _to_pixels(canvas * light[..., None])


def _paint_leaf(
    rng: Generator,
    canvas: NDArray[np.float32],
    cloud: NDArray[np.float32],
    radius: float,
    colour: NDArray[np.float64],
) -> None:
    """Paint one shaded, textured ellipse over `canvas` in place; every second one has lobes."""
    height, width, _ = canvas.shape
    angle, phase, slope = rng.uniform(0, 2 * np.pi), rng.uniform(0, 2 * np.pi), rng.normal(0, 0.2)
    slimness, depth = rng.uniform(0.3, 1), rng.choice([0, 0.15, 0, 0.3])
    centre_y, centre_x = rng.uniform(-0.1, 1.1, 2) * (height, width)
    reach = radius * (1 + depth)
    top, bottom = max(0, int(centre_y - reach)), min(height, int(centre_y + reach) + 2)
    left, right = max(0, int(centre_x - reach)), min(width, int(centre_x + reach) + 2)
    if left >= right or top >= bottom:
        return
    y = (np.arange(top, bottom, dtype=np.float32) - np.float32(centre_y))[:, None]
    x = (np.arange(left, right, dtype=np.float32) - np.float32(centre_x))[None, :]
    along = x * math.cos(angle) + y * math.sin(angle)
    across = (y * math.cos(angle) - x * math.sin(angle)) / slimness
    edge = radius
    if depth:
        lobes = int(rng.integers(3, 8))
        edge = radius * (1 + depth * np.cos(lobes * np.arctan2(across, along) + phase))
    cover = np.clip(edge - np.hypot(along, across) + 0.5, 0, 1)[..., None]
    skip_y, skip_x = rng.integers(0, (height, width))
    grain = cloud[skip_y : skip_y + bottom - top, skip_x : skip_x + right - left]
    texture = grain * rng.uniform(10, 75)
    if rng.random() < 0.15:
        texture = 30 * np.sin(along * rng.uniform(0.2, 1) + 3 * grain)
    shade = 1 + along * (slope / radius)
    paint = (colour + rng.normal(0, 15) + rng.normal(0, 10, 3)) * shade[..., None] + texture[
        ..., None
    ]
    area = canvas[top:bottom, left:right]
    area += cover * (paint.astype(np.float32) - area)


def _text(rng: Generator, width: int, height: int) -> Pixels:
    paper, ink = rng.uniform(190, 255, 3), rng.uniform(0, 90, 3)
    if rng.random() < 0.2:
        paper, ink = ink, paper
    page = Image.fromarray(_to_pixels(paper + 6 * _cloud(rng, width, height, 3)[..., None]))
    side = min(width, height)
    margin, n_columns = round(side * rng.uniform(0.02, 0.1)), int(rng.integers(1, 4))
    pitch = (width - margin) // n_columns
    for left in range(margin, margin + n_columns * pitch, pitch):
        top = round(margin * rng.uniform(0.3, 3))
        while top < height - margin:
            room = (left, top, left + pitch - margin, top + round(side * rng.uniform(0.05, 0.3)))
            top = _set_block(rng, page, room, _colour(ink)) + round(side * rng.uniform(0.02, 0.08))
    return np.asarray(page).copy()


def _set_block(
    rng: Generator, page: Image.Image, room: tuple[int, int, int, int], ink: tuple[int, int, int]
) -> int:
    """Fill `room` (left, top, right, bottom) with a thing found on pages; return where it ends."""
    draw = ImageDraw.Draw(page)
    left, top, right, bottom = room
    match rng.choice(["words", "words", "words", "heading", "box", "picture"]):
        case "words":
            size = 4 + round(min(page.size) * rng.uniform(0.02, 0.035))
            for y in range(top, bottom - size, round(1.3 * size)):
                line = _words(rng, right - left, size)
                draw.text((left, y), line, ink, ImageFont.load_default(size))
        case "heading":
            size = 6 + round(min(page.size) * rng.uniform(0.06, 0.14))
            line = _words(rng, right - left, size)
            draw.text((left, top), line, ink, ImageFont.load_default(size), stroke_width=1)
            return top + round(1.4 * size)
        case "box":
            tint = _colour(rng.uniform(0, 255, 3))
            draw.rectangle(room, tint, ink, int(rng.integers(0, 4)))
        case "picture":
            inset = _leaves(rng, right - left, bottom - top)
            page.paste(Image.fromarray(inset), (left, top))
    return bottom


def _words(rng: Generator, room: int, size: int) -> str:
    """Return words of random syllables that about fill `room` pixels at letter height `size`."""
    line, budget = "", 1.9 * room / size * rng.uniform(0.6, 1)
    while len(line) < budget:
        syllables = rng.integers(0, (20, 5), (int(rng.integers(1, 5)), 2))
        word = "".join("bcdfghjklmnprstvwxyz"[c] + "aeiou"[v] for c, v in syllables)
        line += (word.title() if rng.random() < 0.2 else word) + " "
    return line[: int(budget)]


def _shapes(rng: Generator, width: int, height: int) -> Pixels:
    # Drawn at twice the size and reduced: ImageDraw's edges are jagged.
    poster = _gradient(rng, 2 * width, 2 * height)
    radii = min(poster.size) * np.minimum(0.6, 0.08 * (1 + rng.pareto(1.5, rng.integers(12, 24))))
    for radius in sorted(radii.tolist(), reverse=True):  # no large figure hides all others
        stencil = _stencil(rng, *poster.size, radius)
        poster.paste(_gradient(rng, *poster.size), (0, 0), stencil)
    return np.asarray(poster.reduce(2)).copy()


def _gradient(rng: Generator, width: int, height: int) -> Image.Image:
    """Return a blend of four random colours, often nearly plain."""
    spread = rng.choice([10, 40, 120])
    corners = rng.uniform(0, 255, 3) + rng.normal(0, spread, (2, 2, 3))
    return Image.fromarray(_to_pixels(corners)).resize((width, height), Image.Resampling.BILINEAR)


def _stencil(rng: Generator, width: int, height: int, radius: float) -> Image.Image:
    """Return the mask of one figure, about `radius` large, somewhere in the frame."""
    stencil = Image.new("L", (width, height))
    draw = ImageDraw.Draw(stencil)
    x, y = float(rng.uniform(0, width)), float(rng.uniform(0, height))
    box = (x - radius, y - 0.8 * radius, x + radius, y + 0.8 * radius)
    match rng.choice(["polygon", "star", "ring", "disc", "curve", "glyph", "bars"]):
        case "polygon" | "star" as form:
            n = int(rng.integers(3, 9))
            spikes = rng.uniform(0.4, 1.2, n) if form == "polygon" else np.tile([1, 0.45], n)
            turn = np.linspace(0, 2 * np.pi, len(spikes), endpoint=False) + rng.uniform(0, 6)
            outline = spikes * radius * np.array([np.cos(turn), np.sin(turn)])
            draw.polygon([(x + dx, y + dy) for dx, dy in outline.T.tolist()], 255)
        case "ring":
            draw.ellipse(box, outline=255, width=int(radius * rng.uniform(0.2, 0.6)))
        case "disc":
            draw.ellipse(box, 255)
        case "curve":
            t = np.linspace(0, 1, 60)[:, None]
            a, b, c = rng.uniform(-0.2, 1.2, (3, 2)) * (width, height)
            bezier = a * (1 - t) ** 2 + 2 * b * t * (1 - t) + c * t**2
            draw.line([(px, py) for px, py in bezier.tolist()], 255, int(radius / 3) + 2, "curve")
        case "glyph":
            glyph = "ABCDEFGHKMNRSTXYZ&?!2345678"[rng.integers(27)]
            draw.text((x, y), glyph, 255, ImageFont.load_default(2 * radius), "mm")
        case _:
            for offset in np.linspace(-radius, radius, 7).tolist():
                draw.rectangle((x - radius, y + offset, x + radius, y + offset + radius / 7), 255)
    return stencil.rotate(rng.uniform(-60, 60), Image.Resampling.BILINEAR, center=(x, y))


def _to_pixels(values: NDArray[np.floating]) -> Pixels:
    pixels: Pixels = np.clip(values + 0.5, 0, 255).astype(np.uint8)
    return pixels


def _colour(values: NDArray[np.float64]) -> tuple[int, int, int]:
    red, green, blue = _to_pixels(values).tolist()
    return red, green, blue


_PAINTERS: Final[Mapping[str, Callable[[Generator, int, int], Pixels]]] = MappingProxyType(
    {"leaves": _leaves, "text": _text, "shapes": _shapes}
)
KINDS: Final = tuple(_PAINTERS)


# --- altered copies -----------------------------------------------------------------------------


def _jpeg(pixels: Pixels, quality: int) -> Pixels:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


def _resize(pixels: Pixels, share: float) -> Pixels:
    height, width, _ = pixels.shape
    size = max(1, round(width * share)), max(1, round(height * share))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))


def _blur(pixels: Pixels, radius: float) -> Pixels:
    return np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(radius)))


def _noise(pixels: Pixels, rng: Generator, deviation: float) -> Pixels:
    return _to_pixels(pixels + rng.normal(0, deviation, pixels.shape))


def _contrast(pixels: Pixels, factor: float) -> Pixels:
    return _to_pixels((pixels - pixels.mean()) * factor + pixels.mean())


def _gamma(pixels: Pixels, exponent: float) -> Pixels:
    return _to_pixels(255 * (np.arange(256) / 255) ** exponent)[pixels]


def _crop(pixels: Pixels, share: float) -> Pixels:
    height, width, _ = pixels.shape
    dy, dx = max(1, round(height * share)), max(1, round(width * share))
    return pixels[dy:-dy, dx:-dx]


def _border(pixels: Pixels, rng: Generator, share: float) -> Pixels:
    height, width, _ = pixels.shape
    dy, dx = max(1, round(height * share)), max(1, round(width * share))
    framed = np.empty((height + 2 * dy, width + 2 * dx, 3), np.uint8)
    framed[:] = rng.choice([0, 255])
    framed[dy:-dy, dx:-dx] = pixels
    return framed


def _rotate(pixels: Pixels, degrees: float) -> Pixels:
    return np.asarray(Image.fromarray(pixels).rotate(degrees, Image.Resampling.BICUBIC))


def _write_over(pixels: Pixels, rng: Generator, share: float, opacity: int, angle: float) -> Pixels:
    """Lay words of `share` of the height over the middle or, at `angle` 0, the lower edge."""
    picture = Image.fromarray(pixels)
    width, height = picture.size
    size = max(8, round(height * share))
    mask = Image.new("L", picture.size)
    middle = height - 0.7 * size if angle == 0 else height / 2
    words = _words(rng, width, size)
    font = ImageFont.load_default(size)
    ImageDraw.Draw(mask).text((width / 2, middle), words, opacity, font, "mm")
    picture.paste((255, 255, 255), (0, 0), mask.rotate(angle, Image.Resampling.BILINEAR))
    return np.asarray(picture)


ALTERATIONS: Final[Mapping[str, Callable[[Pixels, Generator], Pixels]]] = MappingProxyType(
    {
        "jpeg-30": lambda pixels, _: _jpeg(pixels, 30),
        "resize-50": lambda pixels, _: _resize(pixels, 0.5),
        "blur-2": lambda pixels, _: _blur(pixels, 2),
        "noise-10": lambda pixels, rng: _noise(pixels, rng, 10),
        "brightness+20": lambda pixels, _: _to_pixels(pixels * 1.2),
        "contrast-30": lambda pixels, _: _contrast(pixels, 0.7),
        "gamma-1.5": lambda pixels, _: _gamma(pixels, 1.5),
        "watermark-12": lambda pixels, rng: _write_over(pixels, rng, 0.12, 90, 30),
        "caption-6": lambda pixels, rng: _write_over(pixels, rng, 0.06, 255, 0),
        "crop-2": lambda pixels, _: _crop(pixels, 0.02),
        "border-5": lambda pixels, rng: _border(pixels, rng, 0.05),
        "rotate-2": lambda pixels, _: _rotate(pixels, 2),
        "flip": lambda pixels, _: pixels[:, ::-1],
    }
)
"""Ways to alter a picture, by name and strength.

Each takes (h, w, 3) uint8 pixels and a generator, and returns new pixels, read-only or a view in
some cases. Strengths: JPEG quality; per cent of the size, brightness or contrast; radius in pixels;
standard deviation in levels; exponent; height of letters, crop or border (a side) in per cent;
degrees. PDQ sees where things are in the frame, so those in `MISSED_BY_PDQ` are beyond it by
design: most of their copies are farther than 31 bits.
"""

ORIGINAL: Final = "none"
"""The alteration of a picture as it was made."""

MISSED_BY_PDQ: Final = frozenset({"crop-2", "border-5", "rotate-2", "flip"})
"""The alterations that PDQ, a hash of the whole frame, cannot be expected to see through."""


# --- a corpus on disk ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CorpusFile:
    """One file of a corpus, as ``labels.csv`` lists it."""

    file: str
    """Path relative to the corpus, with forward slashes."""
    original: str
    """Id of the picture it shows; files that share it are matches of each other."""
    kind: str
    """One of `KINDS`."""
    alteration: str
    """A name from `ALTERATIONS`, or `ORIGINAL` for the picture itself."""


def write_corpus(
    directory: str | PathLike[str],
    *,
    n_pictures: int,
    seed: int,
    width: int,
    height: int,
    alterations: Iterable[str] = tuple(ALTERATIONS),
    on_progress: Callable[[int, int], object] | None = None,
) -> list[CorpusFile]:
    """Write pictures, their altered copies and ``labels.csv`` into `directory`.

    Originals go to ``originals/``, copies to ``altered/``; most are JPEG, some PNG or WebP. Half
    the pictures are leaves, a quarter each shapes and text. Existing files of the same names are
    replaced. A picture is the same in a corpus of any length, with any choice of alterations.

    Parameters
    ----------
    n_pictures, seed, width, height
        How many originals, from which seed, of what size in pixels.
    alterations
        Names from `ALTERATIONS`, one copy of each original per name.
    on_progress
        Called with (originals done, `n_pictures`) after each original and its copies.

    Raises
    ------
    UsageError
        An unknown alteration, or a size too small to draw.
    """
    names = list(alterations)
    unknown = [name for name in names if name not in ALTERATIONS]
    if unknown:
        raise UsageError(f"no alteration {unknown[0]!r}; there are: {', '.join(ALTERATIONS)}")
    root = Path(directory)
    for folder in ("originals", "altered"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    files = []
    for number in range(n_pictures):
        kind = ("leaves", "shapes", "leaves", "text")[number % 4]
        original = f"{number:05d}"
        picture = make_picture((seed << 32) + number, kind, width, height)
        stem = f"originals/{original}-{kind}{_suffix(number, ORIGINAL)}"
        files.append(CorpusFile(stem, original, kind, ORIGINAL))
        _save(picture, root / stem, 90)
        for name in names:
            copy = ALTERATIONS[name](picture, _generator(seed, name, number))
            path = f"altered/{original}-{name}{_suffix(number, name)}"
            files.append(CorpusFile(path, original, kind, name))
            _save(copy, root / path, 30 if name == "jpeg-30" else 85)
        if on_progress is not None:
            on_progress(number + 1, n_pictures)
    with (root / "labels.csv").open("w", encoding="utf-8", newline="") as stream:
        rows = csv.writer(stream, lineterminator="\n")
        rows.writerow(field.name for field in fields(CorpusFile))
        rows.writerows(astuple(file) for file in files)
    return files


def _suffix(number: int, alteration: str) -> str:
    """Return the file type of a copy: one in sixteen PNG, one in sixteen WebP."""
    position = (ORIGINAL, *ALTERATIONS).index(alteration)
    return {3: ".png", 5: ".webp"}.get((number + position) % 16, ".jpg")


def _save(pixels: Pixels, path: Path, quality: int) -> None:
    picture = Image.fromarray(pixels)
    if path.suffix == ".png":
        picture.save(path)
    else:
        picture.save(path, quality=quality)


# --- codes --------------------------------------------------------------------------------------


def random_codes(n: int, bits: int, seed: int) -> NDArray[np.uint8]:
    """Return `n` uniformly random codes, (n, bits // 8) uint8, owned by the caller.

    The same `seed`, any non-negative integer, gives the same codes. Raises `UsageError` for an `n`
    below 0, and `bits` that are no multiple of 8 above 0.
    """
    if n < 0 or bits <= 0 or bits % 8:
        raise UsageError(f"cannot make {n} codes of {bits} bits: bits come in multiples of 8")
    return np.random.default_rng(seed).integers(0, 256, (n, bits // 8), np.uint8)


def plant_neighbours(
    codes: NDArray[np.uint8], distances: ArrayLike, seed: int
) -> NDArray[np.uint8]:
    """Return codes at exactly these Hamming distances from `codes`, in random directions.

    Parameters
    ----------
    codes
        (n, bits // 8) uint8; not changed.
    distances
        Bits to flip, 0 to all of them: one integer, or (n,) integers. Takes n * bits bytes.
    seed
        Any non-negative integer; the same flips the same bits.

    Raises
    ------
    CodesError
        `codes` of another shape or dtype.
    UsageError
        `distances` out of range, not integers, or not one for each code.
    """
    if codes.ndim != 2 or codes.dtype != np.uint8:
        raise CodesError("(n, bits // 8) uint8", f"{codes.shape} {codes.dtype}")
    n, bits = len(codes), 8 * codes.shape[1]
    wanted = np.asarray(distances)
    if wanted.shape not in ((), (n,)) or not np.issubdtype(wanted.dtype, np.integer):
        raise UsageError(f"distances: expected {n} integers, got {wanted.shape} {wanted.dtype}")
    if ((wanted < 0) | (wanted > bits)).any():
        raise UsageError(
            f"distances: expected 0 to {bits} bits, got {wanted.min()}..{wanted.max()}"
        )
    flips = np.arange(bits) < np.broadcast_to(wanted, n)[:, None]
    shuffled = np.random.default_rng(seed).permuted(flips, axis=1)
    return codes ^ np.packbits(shuffled, axis=1)
