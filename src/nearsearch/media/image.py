"""File bytes -> upright 8-bit pixels: every picture of a file, decoded with Pillow.

It decides which pictures of a file are read, which pixels a decode profile sees and what is left of
damaged files. It refuses to know about paths, processes and hashes. Import it in worker processes
only: hostile bytes meet C decoders here.
"""

from __future__ import annotations

import io
import re
import warnings
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image, ImageFile, PngImagePlugin

from nearsearch.errors import MediaError, UsageError
from nearsearch.media.formats import check_readable
from nearsearch.media.frames import MOST, frames_of
from nearsearch.media.pixels import QUARTER_TURNS, flatten, turn_of
from nearsearch.spec import PROFILES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

MIN_SIDE: Final = 2048
"""Profile ``luma-2048`` halves a JPEG only while both sides stay at least this long."""

MAX_VIEWS: Final = 64
"""Pictures of one file that are read if the caller names no number."""

BUDGET: Final = 4
"""All pictures of one file together may have this many times the pixels that one may have."""

_LATEST: Final = 2**31 - 1  # milliseconds; headers can claim years


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture of a file, upright, transparency laid over white.

    Attributes
    ----------
    pixels
        uint8, C-contiguous, possibly read-only: (h, w) luma or (h, w, 3) RGB.
    width, height
        Size in pixels as displayed, before any reduction inside the decoder, so it may exceed
        the shape of `pixels`.
    view
        ``"image"`` for the first, ``"frame"`` for a later one of an animation, ``"page 2"`` for
        a later one of a TIFF, MPO or HEIC file.
    time_ms
        When a later frame appears, in milliseconds after the first; else None.
    """

    pixels: NDArray[np.uint8]
    width: int
    height: int
    view: str
    time_ms: int | None


class Pictures:
    """The pictures of one file, to be iterated over once; each is decoded when it is asked for.

    The first is what a viewer shows. Then come the frames of an animation, composed, or the pages:
    all of them, or if they are more than `max_views`, that many at even distances. Together they
    may take `BUDGET` times `max_pixels`, those passed over between two frames included.

    Pixels equal Pillow's own conversion to RGB (to L, for grey pictures), except that greys of
    more than 8 bits are scaled, not clipped (see `pixels`), and that APNGs are composed by the
    PNG specification. Profile ``luma-2048`` takes the luma plane of a JPEG, reduced by the largest
    of 1/2, 1/4, 1/8 that leaves both sides, divided and not yet rounded up, at 2048 or more.

    A damaged file gives what can be decoded of it, and `problem` says what is wrong: of the first
    picture whatever part came out, if that is not all of one colour; of the later ones those that
    are whole. Damage that a decoder passes over in silence, as libjpeg does with flipped bits
    inside the coded data, is not noticed.

    Not thread-safe: Pillow's limits and the warning filters are process-wide while it decodes.

    Parameters
    ----------
    data
        The whole file.
    profile
        Which pixels to give (see `spec.PROFILES`).
    max_pixels
        Limit of one picture's pixels, inclusive.
    max_views
        Limit of the number of pictures, at least 1.

    Attributes
    ----------
    format
        What `sniff` said.
    problem
        What is wrong with the file as far as it was read: complete after the last picture. None if
        nothing is.

    Raises
    ------
    NotMediaError
        No picture format we know, a video, or a format whose plug-in is not installed.
    MediaError
        While iterating, and before the first picture only: it is of more than `max_pixels` pixels,
        or nothing can be decoded. Whatever Pillow raises on hostile bytes ends here, as the cause.
    UsageError
        Unknown profile.
    """

    def __init__(
        self, data: bytes, profile: str, *, max_pixels: int, max_views: int = MAX_VIEWS
    ) -> None:
        if profile not in PROFILES:
            raise UsageError(f"unknown decode profile {profile!r}; known: {', '.join(PROFILES)}")
        self.format, self._plugin = check_readable(data)
        self.problem: str | None = None
        self._data, self._profile = data, profile
        self._max_pixels, self._max_views = max_pixels, max_views

    def __iter__(self) -> Iterator[Picture]:
        """Decode one picture after the other."""
        image, first = self._first()
        size = first.width * first.height
        left = BUDGET * self._max_pixels - size
        too_many = f"more than {BUDGET * self._max_pixels:,} pixels in all"
        failure, n_read = "", 1
        yield first
        del first  # its pixels may be half a gigabyte
        try:
            with _pillow_limits(self._max_pixels):
                frames = frames_of(image, self.format, self._data)
        except Exception as exc:
            self._note(f"after the first picture: {self._reason(exc)}")
            return
        is_page = frames.kind == "page"
        # The views of a long animation lie among the frames that can be composed at all.
        reach = frames.count if is_page else min(frames.count, 1 + left // size)
        for number in self._chosen(frames.first, reach):
            view = f"page {number + 1}" if is_page else "frame"
            try:
                with _pillow_limits(self._max_pixels):
                    left -= frames.cost(number)
                    if left < 0:
                        failure = (
                            failure or f"more than {BUDGET * self._max_pixels:,} pixels in all"
                        )
                        break
                    shown = frames.show(number)
                    picture = self._picture(
                        shown, view, frames.start_ms(number), None if is_page else image
                    )
            except Exception as exc:
                failure = failure or f"{frames.kind} {number + 1}: {self._reason(exc)}"
                if is_page:
                    continue
                break  # later ones build on this one
            n_read += 1
            yield picture
        if reach < frames.count:
            failure = failure or too_many
        elif frames.count >= MOST:
            failure = failure or "the rest was not looked at"
        elif frames.stated > frames.count:
            failure = failure or "the rest is missing"
        if failure:
            self._note(f"{failure}; {n_read:,} of {frames.stated:,} {frames.kind}s were read")

    def _first(self) -> tuple[Image.Image, Picture]:
        """Return the file as Pillow opened it, and its first picture."""
        try:
            return self._opened(lenient=False)
        except MediaError:
            raise
        except Exception as exc:
            reason = self._reason(exc)
            if not isinstance(exc, _TOO_MUCH):
                with suppress(Exception):
                    image, picture = self._opened(lenient=True)
                    # One colour is what a decoder leaves where it decoded nothing.
                    if (picture.pixels != picture.pixels[0, 0]).any():
                        self._note(reason)
                        return image, picture
            raise MediaError(reason, "decode") from exc

    def _opened(self, *, lenient: bool) -> tuple[Image.Image, Picture]:
        with _pillow_limits(self._max_pixels, lenient=lenient):
            # Straight to the plug-in of the sniffed format: no other parser meets these bytes, and
            # unlike `Image.open` it neither replaces the plug-in's own error nor refuses before
            # the size is known.
            factory, _ = Image.OPEN[self._plugin]
            image: Image.Image = factory(io.BytesIO(self._data), "")
            return image, self._picture(image, "image", None)

    def _picture(
        self,
        image: Image.Image,
        view: str,
        time_ms: float | None,
        animation: Image.Image | None = None,
    ) -> Picture:
        """Load and convert what Pillow is at; a frame is turned like its `animation`."""
        width, height = self._checked_size(image)
        # A CMYK JPEG has no luma plane to take.
        luma_only = (
            self._profile == "luma-2048" and self.format == "JPEG" and image.mode in {"RGB", "L"}
        )
        if luma_only:
            image.draft("L", (MIN_SIDE, MIN_SIDE))
        try:
            image.load()
        except OSError:
            # libtiff has written what it could before Pillow raises, and no tile is left to do
            if getattr(image, "tile", None) or not ImageFile.LOAD_TRUNCATED_IMAGES:
                raise
        self._checked_size(image)  # again: what libheif decodes need not be what it announced
        turn = turn_of(animation or image)
        image = flatten(image)
        if turn is not None:
            image = image.transpose(turn)
        pixels: NDArray[np.uint8] = np.asarray(image)
        if not luma_only:
            height, width = pixels.shape[:2]
        elif turn in QUARTER_TURNS:
            width, height = height, width
        if time_ms is not None:
            time_ms = min(max(round(time_ms), 0), _LATEST)
        return Picture(pixels, width, height, view, time_ms)

    def _checked_size(self, image: Image.Image) -> tuple[int, int]:
        width, height = image.size
        if width * height > self._max_pixels:
            raise MediaError(
                f"{width:,} x {height:,} pixels exceed the limit of {self._max_pixels:,}", "decode"
            )
        return width, height

    def _chosen(self, first: int, count: int) -> list[int]:
        """Return the numbers of the later pictures to read, at even distances."""
        numbers = [first, *(number for number in range(count) if number != first)]
        n_views = min(count, self._max_views)
        return [numbers[view * count // n_views] for view in range(1, n_views)]

    def _note(self, problem: str) -> None:
        self.problem = f"{self.problem}; {problem}" if self.problem else problem

    def _reason(self, exc: Exception) -> str:
        return _reason(exc, self._data, self.format, self._max_pixels)


@contextmanager
def _pillow_limits(max_pixels: int, *, lenient: bool = False) -> Iterator[None]:
    """Put our limits in place of Pillow's, silence its warnings, and restore all of it."""
    saved = Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK, ImageFile.LOAD_TRUNCATED_IMAGES
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        # Some plug-ins decode while they open, or hold more than they claim (a PNG inside an ICO).
        Image.MAX_IMAGE_PIXELS = max_pixels
        # Editing histories of some megabytes in a PNG's text are real and harmless; Pillow refuses
        # the whole picture beyond 1 MiB. Its total, 64 MiB, still holds.
        PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY
        ImageFile.LOAD_TRUNCATED_IMAGES = lenient
        try:
            yield
        finally:
            (
                Image.MAX_IMAGE_PIXELS,
                PngImagePlugin.MAX_TEXT_CHUNK,
                ImageFile.LOAD_TRUNCATED_IMAGES,
            ) = saved


def _reason(exc: Exception, data: bytes, name: str, max_pixels: int) -> str:
    """Say what went wrong in words for the report; Pillow's own follow after the colon."""
    if isinstance(exc, MediaError):
        return exc.reason
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


_TOO_MUCH: Final = (
    MemoryError,
    Image.DecompressionBombWarning,
    Image.DecompressionBombError,
)
"""What no leniency helps against."""

_CUT_SHORT: Final = re.compile("truncated|requires a buffer|only got|incomplete", re.IGNORECASE)


def _stated_length(data: bytes, name: str) -> int:
    """Return the least length the header promises, for formats where Pillow's words hide a cut."""
    if name == "WEBP":
        return 8 + int.from_bytes(data[4:8], "little")
    if name == "TIFF":  # the directory often comes last; a missing one reads as an empty one
        return 2 + int.from_bytes(data[4:8], "little" if data[:2] == b"II" else "big")
    return 0
