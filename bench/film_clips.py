"""Labelled clips: films that are known, altered copies of them, and films that share nothing.

    python bench/film_clips.py FOLDER [--count 40] [--media DIR] [--seed 1]

A *copy* is put together of pieces of other films, each at its speed, and every frame is altered in
the same way. `Span` says which part of it shows what of which known film. All is decided by the
seed; what is in the folder already is not made again.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import zlib
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import film_files as files
import film_scenes as scenes
import numpy as np
from film_files import CODECS, FIT, Piece, generator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from film_scenes import Original

VERSION: Final = 1  # of the content: raise it when any clip changes


class Span(NamedTuple):
    """Milliseconds of a query that show milliseconds of something known."""

    known: str
    query_start: float
    query_end: float
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Copy:
    """A film to ask with. `alter` is a list of (name, severity) of `alterations`."""

    name: str
    transform: str
    kind: str
    pieces: tuple[Piece, ...]
    rate: int
    alter: tuple[tuple[str, float], ...] = ()
    codec: str = "h264"
    drops: bool = False
    spans: tuple[Span, ...] = ()

    @property
    def file(self) -> str:
        return self.name + CODECS[self.codec][1]


@dataclass(slots=True)
class Clips:
    """All of a set: what is known, pictures that are known, what is asked."""

    folder: Path
    known: list[Original]
    others: list[Original]
    """Known as well, shown by no copy."""
    strangers: list[Original]
    """Not known: they are asked, and copies begin and end with them."""
    pictures: list[str] = field(default_factory=list)
    copies: list[Copy] = field(default_factory=list)


# --- the transforms -----------------------------------------------------------------------------


class _Maker(NamedTuple):
    """What a transform is made of: a known film, the next one, a stranger of the same shape."""

    film: Original
    other: Original
    host: Original
    rng: np.random.Generator

    def copy(self, *pieces: Piece, **options: Any) -> dict[str, Any]:
        return {"pieces": pieces or (self.all(),), "rate": self.film.rate, **options}

    def all(self, speed: float = 1.0) -> Piece:
        return Piece(self.film.file, 0.0, self.film.seconds, speed)

    def altered(self, name: str, severity: float) -> dict[str, Any]:
        return self.copy(alter=((name, severity),))


def _recoded(m: _Maker) -> dict[str, Any]:
    codecs = [codec for codec in ("vp9", "mpeg4", "h264") if codec != m.film.codec]
    return m.copy(codec=codecs[int(m.rng.integers(2))])


def _trim(m: _Maker) -> dict[str, Any]:
    start, end = m.rng.uniform([0.05, 0.75], [0.25, 0.95]) * m.film.seconds
    return m.copy(Piece(m.film.file, start, end))


def _cut(m: _Maker) -> dict[str, Any]:
    length = float(m.rng.uniform(5, 8))
    start = float(m.rng.uniform(1, m.film.seconds - length - 1))
    return m.copy(Piece(m.film.file, start, start + length))


def _insert(m: _Maker) -> dict[str, Any]:
    at = float(m.rng.uniform(0.3, 0.7)) * m.host.seconds
    before = Piece(m.host.file, 0.0, at)
    after = Piece(m.host.file, at, m.host.seconds)
    return m.copy(before, m.all(), after, alter=((FIT, 0),), rate=m.host.rate)


def _letterbox(m: _Maker) -> dict[str, Any]:
    wide = m.film.size[0] / m.film.size[1] > 1.5
    return m.altered("letterbox", 4 / 3 if wide else 16 / 9)


def _black(m: _Maker) -> dict[str, Any]:
    at = np.sort(m.rng.uniform(0.2, 0.8, 2)) * m.film.seconds
    dark = m.rng.uniform(0.5, 2, 2)
    film = m.film.file
    return m.copy(
        Piece(film, 0.0, at[0]),
        Piece(None, 0.0, dark[0]),
        Piece(film, at[0], at[1]),
        Piece(None, 0.0, dark[1]),
        Piece(film, at[1], m.film.seconds),
    )


def _both(m: _Maker) -> dict[str, Any]:
    other = Piece(m.other.file, 0.0, m.other.seconds)
    return m.copy(m.all(), other, alter=((FIT, 0),))


_FAMILIES: Final[dict[str, Callable[[_Maker], dict[str, Any]]]] = {
    "re-encode crf 35": lambda m: m.copy(codec="h264 crf 35"),
    "re-encode other codec": _recoded,
    "trim": _trim,
    "insert": _insert,
    "letterbox": _letterbox,
    "cut of 5 to 8 s": _cut,
    "resize 0.5": lambda m: m.altered("resize", 0.5),
    "speed 0.8": lambda m: m.copy(m.all(0.8)),
    "speed 0.9": lambda m: m.copy(m.all(0.9)),
    "speed 1.1": lambda m: m.copy(m.all(1.1)),
    "speed 1.25": lambda m: m.copy(m.all(1.25)),
    "every third frame dropped": lambda m: m.copy(drops=True),
    "12 frames a second": lambda m: m.copy() | {"rate": 12},
    "black inserted": _black,
    "greyscale": lambda m: m.altered("greyscale", 1),
    "tone": lambda m: m.copy(alter=(("gamma", 1.5), ("contrast", 0.7))),
    "logo": lambda m: m.altered("logo", 0.2),
    "caption bar": lambda m: m.altered("caption bar", 0.15),
    "mirrored": lambda m: m.altered("flip", 1),
    "two known films": _both,
    "twice": lambda m: m.copy(m.all(), m.all()),
}
TRANSFORMS: Final = tuple(_FAMILIES)
TARGETED: Final = TRANSFORMS[:5]
"""Those that a share is promised of; every known film is altered in these ways."""
PICTURE_SHOWN: Final = "picture shown"


def plan(
    folder: Path, count: int, seed: int, media: Path | None, *, longest: float = 40.0
) -> Clips:
    """Decide on a set of clips; makes nothing."""
    found = sorted(path for path in media.rglob("*") if path.is_file()) if media else []
    real = files.usable(found)
    order = generator(seed, "pictures").permutation(len(real))
    key = zlib.crc32(repr((VERSION, seed, count, real, longest)).encode())
    # Known pictures are shown by nothing else: they come first.
    n_shown = max(4, count // 2)
    pictures = iter([real[i] for i in order])
    shown = [path for path, _ in zip(pictures, range(min(n_shown, len(real) // 5)), strict=False)]
    shown += [f"shown-{n:03d}.jpg" for n in range(len(shown), n_shown)]
    groups = {"known": count, "other": count // 2, "stranger": max(4, count)}
    made = {
        group: [scenes.planned(group, n, seed, pictures, longest) for n in range(of)]
        for group, of in groups.items()
    }
    clips = Clips(folder / f"films-{key:08x}", *made.values(), shown)
    for row, (transform, make) in enumerate(_FAMILIES.items()):
        for number, film in enumerate(clips.known):
            if transform not in TARGETED and (number + number // 6 + row) % 2:
                continue
            clips.copies.append(_copy(clips, transform, make, number, film, seed))
    for number, path in enumerate(clips.pictures):
        clips.copies.append(_with_picture(clips, number, path, seed))
    return clips


def _copy(
    clips: Clips,
    transform: str,
    make: Callable[[_Maker], dict[str, Any]],
    number: int,
    film: Original,
    seed: int,
) -> Copy:
    rng = generator(seed, transform, number)
    alike = [s for s in clips.strangers if _is_wide(s) == _is_wide(film)] or clips.strangers
    other = clips.known[(number + 1) % len(clips.known)]
    host = alike[int(rng.integers(len(alike)))]
    options = make(_Maker(film, other, host, rng))
    known = {each.file for each in clips.known}
    name = f"{transform.replace(' ', '-')}--{film.name}"
    return Copy(name, transform, film.kind, **options, spans=_spans(options, known))


def _with_picture(clips: Clips, number: int, path: str, seed: int) -> Copy:
    """Let a stranger be interrupted by a known picture for one to four seconds."""
    rng = generator(seed, PICTURE_SHOWN, number)
    host = clips.strangers[number % len(clips.strangers)]
    at = float(rng.uniform(0.2, 0.8)) * host.seconds
    pieces = (
        Piece(host.file, 0.0, at),
        Piece(path, 0.0, float(rng.uniform(1, 4))),
        Piece(host.file, at, host.seconds),
    )
    options = {"pieces": pieces, "rate": host.rate, "alter": ((FIT, 0),)}
    spans = _spans(options, {path})
    return Copy(f"picture-shown--{number:03d}", PICTURE_SHOWN, host.kind, **options, spans=spans)


def _is_wide(film: Original) -> bool:
    return film.size[0] / film.size[1] > 1.5


def _spans(options: dict[str, Any], known: set[str]) -> tuple[Span, ...]:
    spans, at = [], 0
    for piece in options["pieces"]:
        frames = round(piece.seconds * options["rate"])
        if piece.source in known:
            times = (at, at + frames)
            begin, end = (1000 * time / options["rate"] for time in times)
            spans.append(Span(piece.source, begin, end, 1000 * piece.start, 1000 * piece.end))
        at += frames
    return tuple(spans)


# --- making them --------------------------------------------------------------------------------


def make(clips: Clips) -> int:
    """Write the files that are not there yet, in two processes; return how many were written."""
    clips.folder.mkdir(parents=True, exist_ok=True)
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    originals = [*clips.known, *clips.others, *clips.strangers]
    drawn = [name for name in clips.pictures if not Path(name).is_absolute()]
    written = 0
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        for what, function, jobs in (
            ("films", _make_original, originals),
            ("pictures", _make_picture, drawn),
            ("copies", _make_copy, clips.copies),
        ):
            done = pool.map(function, [clips.folder] * len(jobs), jobs)
            written += sum(told(what, done, len(jobs)))
    (clips.folder / "clips.json").write_text(
        json.dumps([{"file": copy.file, "spans": copy.spans} for copy in clips.copies], indent=1)
    )
    return written


def told(what: str, results: Iterable[Any], count: int) -> Iterator[Any]:
    """Pass results on, and say how far it is."""
    begun = time.monotonic()
    for done, result in enumerate(results, start=1):
        yield result
        seconds = time.monotonic() - begun
        print(f"\r{what}: {done} of {count}, {seconds:.0f} s", end="", file=sys.stderr)
    print(file=sys.stderr)


def _make_original(folder: Path, film: Original) -> bool:
    path = folder / film.file
    if path.exists():
        return False
    files.write(path, scenes.frames(film), film.rate, film.codec)
    return True


def _make_picture(folder: Path, name: str) -> bool:
    path = folder / name
    if path.exists():
        return False
    drawn = scenes.planned("shown", int(path.stem.split("-")[1]), 0, iter(()))
    scenes.picture(drawn, 0, 1.0).save(path, quality=90)
    return True


def _make_copy(folder: Path, copy: Copy) -> bool:
    path = folder / copy.file
    if path.exists():
        return False
    files.write(path, files.frames_of(folder, copy), copy.rate, copy.codec, drops=copy.drops)
    return True


def main() -> None:
    """Make a set."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=40, help="known films")
    parser.add_argument("--media", type=Path, metavar="DIR", help="pictures to pan over")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    clips = plan(options.folder, options.count, options.seed, options.media)
    print(f"{len(clips.copies)} copies in {clips.folder}, {make(clips)} files written")


if __name__ == "__main__":
    main()
