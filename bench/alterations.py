"""Labelled altered copies of a picture: what people and programs do to pictures on their way.

Each alteration is a function of an RGB picture, a severity and a generator of random numbers, and
returns another picture. `ALTERATIONS` lists them with their severities, in the order of the tables;
the name of the group says what they are about. All is decided by the generator.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont

if TYPE_CHECKING:
    from collections.abc import Callable

    Alter = Callable[[Image.Image, float, np.random.Generator], Image.Image]

LANCZOS: Final = Image.Resampling.LANCZOS
BICUBIC: Final = Image.Resampling.BICUBIC
_WORDS: Final = (
    *("look", "at", "this", "one", "from", "last", "summer", "when"),
    *("we", "all", "went", "to", "the", "lake", "again"),
)


class Alteration(NamedTuple):
    """One row of the table: a name, what a severity means, and the severities."""

    group: str
    name: str
    alter: Alter
    severities: tuple[float, ...]


def _coded(image: Image.Image, name: str, **options: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, name, **options)
    with Image.open(buffer) as decoded:
        return decoded.convert("RGB")


def _jpeg(image: Image.Image, quality: float, _: np.random.Generator) -> Image.Image:
    return _coded(image, "JPEG", quality=int(quality))


def _webp(image: Image.Image, quality: float, _: np.random.Generator) -> Image.Image:
    return _coded(image, "WEBP", quality=int(quality), method=0)


def _gif(image: Image.Image, _: float, __: np.random.Generator) -> Image.Image:
    return _coded(image, "GIF")


def _palette(image: Image.Image, colours: float, _: np.random.Generator) -> Image.Image:
    return image.quantize(int(colours)).convert("RGB")


def _resize(image: Image.Image, factor: float, _: np.random.Generator) -> Image.Image:
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    return image.resize(size, BICUBIC)


def _stretch(image: Image.Image, factor: float, _: np.random.Generator) -> Image.Image:
    return image.resize((max(1, round(image.width * factor)), image.height), BICUBIC)


def _thumbnail(image: Image.Image, side: float, _: np.random.Generator) -> Image.Image:
    small = image.copy()
    small.thumbnail((int(side), int(side)), LANCZOS)
    return small


def _blur(image: Image.Image, radius: float, _: np.random.Generator) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(radius))


def _noise(image: Image.Image, deviation: float, rng: np.random.Generator) -> Image.Image:
    pixels = np.asarray(image, np.float32)
    noisy = pixels + rng.standard_normal(pixels.shape, np.float32) * np.float32(deviation)
    return Image.fromarray(np.rint(noisy.clip(0, 255)).astype(np.uint8))


def _sharpen(image: Image.Image, percent: float, _: np.random.Generator) -> Image.Image:
    return image.filter(ImageFilter.UnsharpMask(2, int(percent), 0))


def _brightness(image: Image.Image, factor: float, _: np.random.Generator) -> Image.Image:
    return ImageEnhance.Brightness(image).enhance(factor)


def _contrast(image: Image.Image, factor: float, _: np.random.Generator) -> Image.Image:
    return ImageEnhance.Contrast(image).enhance(factor)


def _gamma(image: Image.Image, gamma: float, _: np.random.Generator) -> Image.Image:
    table = [round(255 * (level / 255) ** gamma) for level in range(256)]
    return image.point(table * 3)


def _grey(image: Image.Image, _: float, __: np.random.Generator) -> Image.Image:
    return image.convert("L").convert("RGB")


def _cast(image: Image.Image, strength: float, rng: np.random.Generator) -> Image.Image:
    gains = 1 + strength * rng.permutation([1, 0, -1])
    pixels = np.asarray(image, np.float32) * gains.astype(np.float32)
    return Image.fromarray(np.rint(pixels.clip(0, 255)).astype(np.uint8))


def _font(size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(max(6, size))


def _text(image: Image.Image, size: float, rng: np.random.Generator) -> Image.Image:
    """Write a line over the picture, its height a share of the picture's."""
    out = image.copy()
    height = size * image.height
    words = " ".join(rng.permutation(_WORDS)[: int(rng.integers(3, 6))])
    draw = ImageDraw.Draw(out)
    at = (rng.uniform(0.03, 0.2) * image.width, rng.uniform(0.05, 0.95 - size) * image.height)
    draw.text(
        at,
        words,
        "white",
        _font(height),
        stroke_width=max(1, int(height / 16)),
        stroke_fill="black",
    )
    return out


def _logo(image: Image.Image, size: float, rng: np.random.Generator) -> Image.Image:
    """Put a disc with a letter into a corner, its side a share of the shorter one."""
    side = max(8, round(size * min(image.size)))
    margin = side // 4
    logo = Image.new("RGB", (side, side), tuple(int(c) for c in rng.integers(0, 256, 3)))
    ImageDraw.Draw(logo).text((side / 4, 0), "N", "white", _font(side * 0.8))
    mask = Image.new("L", (side, side))
    ImageDraw.Draw(mask).ellipse((0, 0, side - 1, side - 1), fill=230)
    x = margin if rng.random() < 0.5 else image.width - side - margin
    y = margin if rng.random() < 0.5 else image.height - side - margin
    out = image.copy()
    out.paste(logo, (x, y), mask)
    return out


def _mosaic(image: Image.Image, share: float, rng: np.random.Generator) -> Image.Image:
    """Coarsen one rectangle, its area a share of the picture's."""
    width = round(image.width * share**0.5)
    height = round(image.height * share**0.5)
    x = int(rng.integers(0, image.width - width + 1))
    y = int(rng.integers(0, image.height - height + 1))
    box = (x, y, x + width, y + height)
    cells = max(2, width * 24 // image.width), max(2, height * 24 // image.height)
    part = image.crop(box).resize(cells, Image.Resampling.BOX)
    out = image.copy()
    out.paste(part.resize((width, height), Image.Resampling.NEAREST), box)
    return out


def _caption(image: Image.Image, share: float, rng: np.random.Generator) -> Image.Image:
    """Add a bar with text above or below, its height a share of the picture's."""
    bar = max(8, round(share * image.height))
    is_white = rng.random() < 0.5
    out = Image.new("RGB", (image.width, image.height + bar), "white" if is_white else "black")
    on_top = rng.random() < 0.5
    out.paste(image, (0, bar if on_top else 0))
    _write(out, 0 if on_top else image.height, bar, "black" if is_white else "white", rng)
    return out


def _meme(image: Image.Image, share: float, rng: np.random.Generator) -> Image.Image:
    """Add bars with text above and below."""
    bar = max(8, round(share * image.height))
    is_white = rng.random() < 0.5
    out = Image.new("RGB", (image.width, image.height + 2 * bar), "white" if is_white else "black")
    out.paste(image, (0, bar))
    ink = "black" if is_white else "white"
    _write(out, 0, bar, ink, rng)
    _write(out, image.height + bar, bar, ink, rng)
    return out


def _write(image: Image.Image, top: int, height: int, ink: str, rng: np.random.Generator) -> None:
    draw = ImageDraw.Draw(image)
    size = min(height * 0.5, image.width / 12)
    words = " ".join(rng.permutation(_WORDS)[: int(rng.integers(2, 6))])
    draw.text((image.width * 0.04, top + (height - size) / 2), words, ink, _font(size))


def _border(image: Image.Image, share: float, rng: np.random.Generator) -> Image.Image:
    """Add a frame of one colour, its width a share of each side."""
    colours = ((0, 0, 0), (255, 255, 255), tuple(int(c) for c in rng.integers(0, 256, 3)))
    colour = colours[int(rng.integers(3))]
    x, y = max(1, round(share * image.width)), max(1, round(share * image.height))
    out = Image.new("RGB", (image.width + 2 * x, image.height + 2 * y), colour)
    out.paste(image, (x, y))
    return out


def _padded(image: Image.Image, aspect: float) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the size of that aspect which holds the picture, and where in it the picture is."""
    width, height = image.size
    size = (
        (width, round(width / aspect))
        if width / height > aspect
        else (round(height * aspect), height)
    )
    return size, ((size[0] - width) // 2, (size[1] - height) // 2)


def _letterbox(image: Image.Image, aspect: float, _: np.random.Generator) -> Image.Image:
    """Fit into a screen of that aspect, with black bars."""
    size, at = _padded(image, aspect)
    out = Image.new("RGB", size, "black")
    out.paste(image, at)
    return out


def _blurred_fill(image: Image.Image, aspect: float, _: np.random.Generator) -> Image.Image:
    """Fit into a screen of that aspect; the bars show the picture itself, enlarged and blurred."""
    size, at = _padded(image, aspect)
    scale = max(size[0] / image.width, size[1] / image.height)
    large = image.resize((round(image.width * scale), round(image.height * scale)), BICUBIC)
    x, y = (large.width - size[0]) // 2, (large.height - size[1]) // 2
    out = large.crop((x, y, x + size[0], y + size[1]))
    out = out.filter(ImageFilter.GaussianBlur(max(size) / 40))
    out = ImageEnhance.Brightness(out).enhance(0.8)
    out.paste(image, at)
    return out


def _crop(image: Image.Image, kept: float, _: np.random.Generator) -> Image.Image:
    """Cut to a share of each side, around the centre."""
    width, height = round(image.width * kept), round(image.height * kept)
    x, y = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((x, y, x + width, y + height))


def _crop_aside(image: Image.Image, kept: float, rng: np.random.Generator) -> Image.Image:
    """Cut to a share of each side, anywhere."""
    width, height = round(image.width * kept), round(image.height * kept)
    x = int(rng.integers(0, image.width - width + 1))
    y = int(rng.integers(0, image.height - height + 1))
    return image.crop((x, y, x + width, y + height))


def _crop_edge(image: Image.Image, kept: float, rng: np.random.Generator) -> Image.Image:
    """Cut a strip off one side."""
    x, y = round(image.width * (1 - kept)), round(image.height * (1 - kept))
    box = [0, 0, *image.size]
    side = int(rng.integers(4))
    box[side] += (x, y, -x, -y)[side]
    return image.crop(tuple(box))


def _rotate(image: Image.Image, degrees: float, rng: np.random.Generator) -> Image.Image:
    """Turn within the frame; black corners."""
    sign = 1 if rng.random() < 0.5 else -1
    return image.rotate(sign * degrees, BICUBIC)


def _quarter(image: Image.Image, degrees: float, _: np.random.Generator) -> Image.Image:
    turns = {90: Image.Transpose.ROTATE_90, 180: Image.Transpose.ROTATE_180}
    return image.transpose(turns.get(int(degrees), Image.Transpose.ROTATE_270))


def _flip(image: Image.Image, _: float, __: np.random.Generator) -> Image.Image:
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def _perspective(image: Image.Image, share: float, rng: np.random.Generator) -> Image.Image:
    """Move each corner inwards by up to a share of each side, what is outside is cut."""
    width, height = image.size
    corners = np.array([(0, 0), (width, 0), (width, height), (0, height)], float)
    inwards = np.array([(1, 1), (-1, 1), (-1, -1), (1, -1)], float)
    source = corners + inwards * rng.uniform(0, share, (4, 2)) * (width, height)
    return image.transform(image.size, Image.Transform.PERSPECTIVE, _map(corners, source), BICUBIC)


def _map(target: np.ndarray, source: np.ndarray) -> list[float]:
    """Return the eight numbers with which Pillow takes points of the target from the source."""
    rows, right = [], []
    for (x, y), (u, v) in zip(target, source, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        right += [u, v]
    return [float(value) for value in np.linalg.solve(np.array(rows), np.array(right))]


def _inset(image: Image.Image, share: float, rng: np.random.Generator) -> Image.Image:
    """Show the picture in a window of a program, on a screen; a share of the screen's width."""
    width = round(image.width / share)
    height = max(round(width * 0.625), round(image.height * 1.3))
    dark = rng.random() < 0.5
    paper, ink = ((32, 33, 36), "white") if dark else ((245, 245, 247), "black")
    out = Image.new("RGB", (width, height), paper)
    draw = ImageDraw.Draw(out)
    bar = height // 12
    draw.rectangle((0, 0, width, bar), fill=(60, 64, 72) if dark else (222, 225, 230))
    draw.text((bar, bar / 4), "album | photos | share", ink, _font(bar * 0.4))
    x = (width - image.width) // 2
    y = bar + (height - bar - image.height) // 3
    out.paste(image, (x, y))
    line = height // 40
    for row in range(y + image.height + line, height - line, round(line * 1.6)):
        words = " ".join(rng.choice(_WORDS, 8))
        draw.text((x, row), words, ink, _font(line))
    return out


def _photographed(image: Image.Image, strength: float, rng: np.random.Generator) -> Image.Image:
    """Take a photograph of a screen: a dark rim, askew, a raster, soft, paler, noisy."""
    width, height = image.size
    rim = 0.02 * strength
    x, y = round(rim * width) + 2, round(rim * height) + 2
    framed = Image.new("RGB", (width + 2 * x, height + 2 * y), (18, 18, 20))
    framed.paste(image, (x, y))
    pixels = np.asarray(framed, np.float32)
    rows, columns = np.mgrid[: pixels.shape[0], : pixels.shape[1]]
    raster = 1 + 0.06 * strength * np.sin(rows * 2.1 + columns * 0.03) * np.sin(columns * 2.2)
    shine = (
        20
        * strength
        * np.exp(
            -(((rows / height - rng.uniform(0.2, 0.8)) / 0.4) ** 2)
            - ((columns / width - rng.uniform(0.2, 0.8)) / 0.4) ** 2
        )
    )
    pixels = pixels * raster[..., None].astype(np.float32) + shine[..., None].astype(np.float32)
    seen = Image.fromarray(np.rint(pixels.clip(0, 255)).astype(np.uint8))
    corners = np.array([(0, 0), (seen.width, 0), seen.size, (0, seen.height)], float)
    target = corners + rng.uniform(-0.012, 0.012, (4, 2)) * strength * seen.size
    seen = seen.transform(seen.size, Image.Transform.PERSPECTIVE, _map(corners, target), BICUBIC)
    seen = _contrast(seen.filter(ImageFilter.GaussianBlur(1)), 0.85, rng)
    return _jpeg(_noise(_cast(seen, 0.05, rng), 6, rng), 80, rng)


ALTERATIONS: Final = (
    Alteration("mild", "jpeg", _jpeg, (75, 50, 30, 20, 10)),
    Alteration("mild", "webp", _webp, (80, 30)),
    Alteration("mild", "gif", _gif, (256,)),
    Alteration("mild", "palette", _palette, (64, 16)),
    Alteration("mild", "resize", _resize, (2, 0.5, 0.25, 0.125)),
    Alteration("mild", "stretch", _stretch, (0.75, 1.33)),
    Alteration("mild", "thumbnail", _thumbnail, (256, 128)),
    Alteration("mild", "blur", _blur, (1, 2, 4)),
    Alteration("mild", "noise", _noise, (5, 15, 30)),
    Alteration("mild", "sharpen", _sharpen, (100, 200)),
    Alteration("tone", "brightness", _brightness, (0.7, 1.3)),
    Alteration("tone", "contrast", _contrast, (0.7, 1.3)),
    Alteration("tone", "gamma", _gamma, (0.5, 0.7, 1.4, 2)),
    Alteration("tone", "greyscale", _grey, (1,)),
    Alteration("tone", "colour cast", _cast, (0.15, 0.3)),
    Alteration("overlay", "text", _text, (0.04, 0.1)),
    Alteration("overlay", "logo", _logo, (0.1, 0.2)),
    Alteration("overlay", "mosaic", _mosaic, (0.05, 0.1, 0.25)),
    Alteration("frame", "caption bar", _caption, (0.1, 0.2)),
    Alteration("frame", "meme bars", _meme, (0.12, 0.2)),
    Alteration("frame", "border", _border, (0.02, 0.05, 0.1, 0.2)),
    Alteration("frame", "letterbox", _letterbox, (2.0, 1.0)),
    Alteration("frame", "blurred fill", _blurred_fill, (2.0, 1.0)),
    Alteration("frame", "screenshot inset", _inset, (0.9, 0.6)),
    Alteration("frame", "photo of a screen", _photographed, (1, 2)),
    Alteration("crop", "crop, centred", _crop, (0.98, 0.95, 0.9, 0.85, 0.8)),
    Alteration("crop", "crop, anywhere", _crop_aside, (0.98, 0.95, 0.9, 0.85, 0.8)),
    Alteration("crop", "crop, one edge", _crop_edge, (0.95, 0.9, 0.8)),
    Alteration("turn", "rotation", _rotate, (1, 2, 3, 5, 8, 10, 15, 20)),
    Alteration("turn", "quarter turn", _quarter, (90, 180, 270)),
    Alteration("turn", "flip", _flip, (1,)),
    Alteration("turn", "perspective", _perspective, (0.03, 0.06, 0.1)),
)
"""Every alteration, in the order of the tables."""
