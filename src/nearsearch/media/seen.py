"""What is seen in a file: its pictures, or the frames of a film, as codes."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from nearsearch.hashers import Views, hash_pixels
from nearsearch.hashers.views import WITH_VIEWS
from nearsearch.media.formats import effective_profile
from nearsearch.media.image import Pictures
from nearsearch.media.sampling import Sampling

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from nearsearch.media.containers import Bounds
    from nearsearch.media.image import Picture
    from nearsearch.spec import Spec

TELL_SECONDS: Final = 0.2
"""How often those are told that something is at work who wait for it."""

_MOST_FRAMES: Final = 200_000  # of a film: two days of one a second


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What to find out of a file, and what that may cost."""

    specs: Sequence[Spec]
    digests: Sequence[str]
    """Names for `hashlib`, beside SHA-256."""
    views: str = "none"
    """Which further views of the first picture, or of frames: a key of `LADDERS`."""
    sampling: Sampling = field(default_factory=Sampling)
    """Which frames of a film."""
    max_pixels: int
    bounds: Bounds


def pictures(data: bytes, wanted: Wanted) -> dict[str, Any]:
    """Return format, size and codes of the pictures of a file, and what is wrong with it."""
    by_profile: dict[str, list[Spec]] = {}
    for spec in wanted.specs:
        by_profile.setdefault(effective_profile(data, spec.profile), []).append(spec)
    # By code: a later view that has one which is there already says nothing new.
    found: dict[str, dict[str, list[Any]]] = {spec.name: {} for spec in wanted.specs}
    shape = {}
    for profile, specs in by_profile.items():
        read = Pictures(data, profile, max_pixels=wanted.max_pixels)
        for picture in read:
            if picture.view == "image":
                shape = {"width": picture.width, "height": picture.height}
            ladder = wanted.views if picture.view == "image" else "none"
            for spec, (name, code, quality) in _views(picture, specs, ladder, is_film=False):
                text = code.tobytes().hex()
                found[spec.name].setdefault(text, [name, picture.time_ms, text, quality, None])
    codes = {name: list(views.values()) for name, views in found.items()}
    return {"format": read.format, **shape, "codes": codes, **_problem(read.problem)}


def film(source: BinaryIO, wanted: Wanted) -> Iterator[dict[str, Any] | None]:
    """Yield, last, format, size, duration and codes of a film, and what is wrong with it.

    Frames in succession with the same code are one view, from the first until the last ends.
    Before that it yields None from time to time.
    """
    from nearsearch.media.video import Film

    read = Film(
        source,
        sampling=wanted.sampling,
        max_pixels=wanted.max_pixels,
        max_frames=_MOST_FRAMES,
    )
    codes: dict[str, list[list[Any]]] = {spec.name: [] for spec in wanted.specs}
    running: dict[tuple[str, str], list[Any]] = {}  # the views that the frame before is part of
    pixels, told = None, time.monotonic()
    for frame in read:
        if time.monotonic() - told > TELL_SECONDS:
            yield None
            told = time.monotonic()
        if frame.pixels is pixels:
            for view in running.values():
                view[-1] = frame.end_ms
            continue
        pixels, before, running = frame.pixels, running, {}
        for spec, (name, code, quality) in _views(frame, wanted.specs, wanted.views, is_film=True):
            text = code.tobytes().hex()
            view = before.get((spec.name, name), [None] * 5)
            if view[2] != text:
                view = [name, frame.time_ms, text, quality, frame.end_ms]
                codes[spec.name].append(view)
            view[-1] = frame.end_ms
            running[spec.name, name] = view
    shape = {"width": read.width, "height": read.height, "duration_ms": read.duration_ms}
    yield {"format": read.format, **shape, "codes": codes, **_problem(read.problem)}


def _problem(reason: str | None) -> dict[str, str]:
    return {"reason": reason, "stage": "damaged"} if reason else {}


def _views(
    picture: Picture, specs: Sequence[Spec], ladder: str, *, is_film: bool
) -> Iterator[tuple[Spec, tuple[str, NDArray[np.uint8], int]]]:
    """Yield each view of a picture under each spec: what it is, its code, its quality."""
    views = Views(picture.pixels, ladder, is_film=is_film)
    for spec in specs:
        if ladder == "none" or spec.algorithm not in WITH_VIEWS:
            yield spec, (picture.view, *hash_pixels(picture.pixels, spec))
        else:
            for name, code, quality in views.of(spec):
                yield spec, (name or picture.view, code, quality)
