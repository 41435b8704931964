"""Benign films to find again: what each shows, decided by a seed.

Shots over synthetic or given pictures (pans, zooms), moving shapes, test patterns, slides, and a
head that hardly moves before a still background; cut hard or with fades.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
from film_files import CODECS, generator, given
from PIL import Image, ImageDraw, ImageFont

from nearsearch.synthetic import KINDS as PAINTED
from nearsearch.synthetic import make_picture

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Shot = Callable[[float, float], Image.Image]
    """Seconds since it began, and the part of it that has passed, to a frame."""

KINDS: Final = ("pans", "zooms", "slides", "shapes", "talk", "pattern")
OVER_PICTURES: Final = ("pans", "zooms", "slides")
"""Kinds that can show given pictures."""
SIZES: Final = ((320, 240), (426, 240), (480, 270), (640, 360))
RATES: Final = (24, 25, 30)
_SHARES: Final = {"h264": 0.7, "mpeg4": 0.13, "vp9": 0.12, "ffv1": 0.05}
_FADE: Final = 0.6  # seconds of a cross-fade
_DARK: Final = 0.8  # and from and to black


class Original(NamedTuple):
    """What a film is made from: all that decides it."""

    name: str
    kind: str
    seed: int
    size: tuple[int, int]
    rate: int
    frames: int
    codec: str
    has_fades: bool
    pictures: tuple[str, ...] = ()
    """Files that it shows, as far as they go; drawn ones else."""

    @property
    def seconds(self) -> float:
        return self.frames / self.rate

    @property
    def file(self) -> str:
        return self.name + CODECS[self.codec][1]


def planned(
    group: str, number: int, seed: int, pictures: Iterator[str], longest: float = 40
) -> Original:
    """Decide on a film; it takes the pictures it shows from those that are left."""
    rng = generator(seed, group, number)
    kind = KINDS[number % len(KINDS)]
    has_real = kind in OVER_PICTURES and number // len(KINDS) % 2 == 1
    shown = tuple(path for path, _ in zip(pictures, range(5 * has_real), strict=False))
    rate = int(rng.choice(RATES))
    return Original(
        f"{group}-{number:03d}-{kind}" + "-real" * bool(shown),
        kind,
        int(rng.integers(1 << 31)),
        SIZES[int(rng.integers(len(SIZES)))],
        rate,
        round(math.exp(rng.uniform(math.log(10), math.log(longest))) * rate),
        str(rng.choice(list(_SHARES), p=list(_SHARES.values()))),
        bool(rng.random() < 0.5),
        shown,
    )


def frames(film: Original) -> Iterator[Image.Image]:
    """Draw a film, one frame after the other."""
    rng = generator(film.seed, "cuts")
    lengths = {"slides": (2.5, 6.0), "shapes": (5.0, 12.0), "talk": (60.0, 61.0)}
    shortest, longest = lengths.get(film.kind, (3.0, 8.0))
    ends = [0.0]
    while ends[-1] < film.seconds - shortest:
        ends.append(ends[-1] + float(rng.uniform(shortest, longest)))
    ends = [*ends[1:-1], film.seconds]
    shot, following, began = _shot(film, 0), None, 0.0
    number = 0
    for frame in range(film.frames):
        at = frame / film.rate
        if at >= ends[number] and number + 1 < len(ends):
            began, number = ends[number], number + 1
            shot, following = following or _shot(film, number), None
        picture = shot(at - began, (at - began) / (ends[number] - began))
        left = ends[number] - at
        if film.has_fades and left < _FADE and number + 1 < len(ends):
            following = following or _shot(film, number + 1)
            picture = Image.blend(following(0.0, 0.0), picture, left / _FADE)
        if film.has_fades:
            light = min(1.0, at / _DARK, (film.seconds - at) / _DARK)
            if light < 1:
                picture = picture.point([round(light * level) for level in range(256)] * 3)
        yield picture


def picture(film: Original, number: int, scale: float, kind: str | None = None) -> Image.Image:
    """Return a picture that the film shows, `scale` times as large as a frame."""
    width, height = (round(side * scale) for side in film.size)
    if number < len(film.pictures):
        return given(film.pictures[number], (width, height))
    kind = kind or PAINTED[(film.seed + number) % len(PAINTED)]
    return Image.fromarray(make_picture(film.seed + number, kind, width, height))


# --- shots --------------------------------------------------------------------------------------


def _shot(film: Original, number: int) -> Shot:
    rng = generator(film.seed, "shot", number)
    return _SHOTS[film.kind](film, number, rng)


def _pan(film: Original, number: int, rng: np.random.Generator) -> Shot:
    """Move over a picture that is larger than the frame."""
    (width, height), large = film.size, picture(film, number, 1.5)
    room = np.array([large.width - width, large.height - height])
    begin, end = rng.random((2, 2)) * room
    if np.abs(end - begin).sum() < room.sum() / 3:
        end = room - begin

    def at(_: float, part: float) -> Image.Image:
        x, y = begin + part * (end - begin)
        return large.resize(film.size, Image.Resampling.BILINEAR, (x, y, x + width, y + height))

    return at


def _zoom(film: Original, number: int, rng: np.random.Generator) -> Shot:
    large, centre = picture(film, number, 1.4), rng.uniform(0.3, 0.7, 2)
    near, far = sorted(rng.uniform([0.45, 0.8], [0.6, 1.0]))
    begin, end = (near, far) if rng.random() < 0.5 else (far, near)

    def at(_: float, part: float) -> Image.Image:
        share = begin + part * (end - begin)
        side = share * np.array(large.size)
        x, y = (1 - share) * centre * large.size
        return large.resize(film.size, Image.Resampling.BILINEAR, (x, y, x + side[0], y + side[1]))

    return at


def _slide(film: Original, number: int, _: np.random.Generator) -> Shot:
    still = picture(film, number, 1.0)
    return lambda _, __: still


def _shapes(film: Original, number: int, rng: np.random.Generator) -> Shot:
    """Let discs and boxes bounce before a picture."""
    back = picture(film, number, 1.0, "shapes" if number % 2 else "leaves")
    count = int(rng.integers(5, 10))
    start, speed = rng.random((count, 2)), rng.uniform(-0.25, 0.25, (count, 2))
    radius = rng.uniform(0.05, 0.2, count) * film.size[1]
    colours = [tuple(map(int, colour)) for colour in rng.integers(0, 256, (count, 3))]

    def at(seconds: float, _: float) -> Image.Image:
        out = back.copy()
        draw = ImageDraw.Draw(out)
        places = np.abs((start + speed * seconds) % 2 - 1) * film.size
        for n, ((x, y), r) in enumerate(zip(places.tolist(), radius.tolist(), strict=True)):
            box = (x - r, y - r, x + r, y + r)
            (draw.ellipse if n % 2 else draw.rectangle)(box, colours[n])
        return out

    return at


def _talk(film: Original, number: int, rng: np.random.Generator) -> Shot:
    """Show a head and shoulders that sway by a few pixels, and a mouth that moves."""
    back = picture(film, number, 1.0, "leaves")
    width, height = film.size
    side, across = height * rng.uniform(0.2, 0.3), rng.uniform(0.35, 0.65)
    skin, dress, lips = (tuple(map(int, c)) for c in rng.integers(40, 230, (3, 3)))
    pace = rng.uniform(0.3, 0.9, 3)

    def at(seconds: float, _: float) -> Image.Image:
        out = back.copy()
        draw = ImageDraw.Draw(out)
        x = width * across + 0.03 * height * math.sin(seconds * pace[0] * 2)
        y = height * 0.42 + 0.015 * height * math.sin(seconds * pace[1] * 3)
        draw.ellipse((x - 2 * side, y + 1.1 * side, x + 2 * side, y + 5 * side), dress)
        draw.ellipse((x - 0.75 * side, y - side, x + 0.75 * side, y + side), skin)
        for eye in (x - 0.3 * side, x + 0.3 * side):
            draw.ellipse((eye - side / 10, y - side / 4, eye + side / 10, y - side / 20), "black")
        gap = side * 0.18 * abs(math.sin(seconds * 7) * math.sin(seconds * pace[2]))
        draw.ellipse((x - side / 4, y + side / 2 - gap, x + side / 4, y + side / 2 + gap), lips)
        return out

    return at


def _pattern(film: Original, number: int, rng: np.random.Generator) -> Shot:
    """Show a test picture: bars, rings, ramps, a hand that turns and a counter."""
    width, height = film.size
    still = Image.new("RGB", film.size)
    draw = ImageDraw.Draw(still)
    left = 0
    while left < width:
        right = left + int(rng.integers(width // 16, width // 4))
        split = int(rng.integers(height // 4, height))
        above, below = (tuple(map(int, colour)) for colour in rng.integers(0, 256, (2, 3)))
        draw.rectangle((left, 0, right, split), above)
        draw.rectangle((left, split, right, height), below)
        left = right
    for _ in range(int(rng.integers(2, 6))):
        x, y, r = rng.uniform(0, [width, height, height / 3])
        ink = tuple(map(int, rng.integers(0, 256, 3)))
        draw.ellipse((x - r, y - r, x + r, y + r), outline=ink, width=6)
    hand, pace = height * rng.uniform(0.3, 0.45), rng.uniform(0.5, 1.5)
    font = ImageFont.load_default(height / 4)
    place = rng.uniform(0.1, 0.6, 2) * film.size
    speed = rng.uniform(0.1, 0.3)

    def at(seconds: float, _: float) -> Image.Image:
        out = still.copy()
        draw = ImageDraw.Draw(out)
        band = int((seconds * speed % 1) * 1.3 * width - 0.15 * width)
        draw.rectangle((band, 0, band + 0.15 * width, height), "grey")
        x, y = width / 2, height / 2
        tip = x + hand * math.sin(seconds * pace), y - hand * math.cos(seconds * pace)
        draw.line((x, y, *tip), "white", 10)
        text = f"{number}:{seconds:04.1f}"
        draw.text(tuple(place), text, "white", font, stroke_width=3, stroke_fill="black")
        return out

    return at


_SHOTS: Final[dict[str, Callable[[Original, int, np.random.Generator], Shot]]] = {
    "pans": _pan,
    "zooms": _zoom,
    "slides": _slide,
    "shapes": _shapes,
    "talk": _talk,
    "pattern": _pattern,
}
