"""Which frames of a film are looked at, and from when until when each is shown.

It knows no decoder. Times are whole microseconds since the first frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeVar, get_args

from nearsearch.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import numpy as np
    from numpy.typing import NDArray

T = TypeVar("T")

Frames = Literal["interval", "keyframes", "every"]

CUT: Final = 30.0
"""Mean difference of two glances, in grey levels, from which on they are two scenes."""

CUT_GAP: Final = 250_000
"""Least time between a sampled frame and one that is sampled as a new scene."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """Which frames of a film to give.

    Attributes
    ----------
    frames
        ``"interval"``: those on screen at each multiple of `interval_ms`. ``"keyframes"``: those
        that are coded without others, all of them and no more: fast, as no other is decoded.
        ``"every"``: all.
    interval_ms
        At least 1; of ``"interval"`` only.
    scenes
        With ``"interval"``: also a frame that differs strongly from the last one that was given.
        Such frames come at most every quarter of a second; a shorter scene can be missed.
    """

    frames: Frames = "interval"
    interval_ms: int = 1000
    scenes: bool = True

    def __post_init__(self) -> None:
        if self.frames not in get_args(Frames):
            known = ", ".join(get_args(Frames))
            raise UsageError(f"unknown choice of frames {self.frames!r}; known: {known}")
        if self.interval_ms < 1:
            raise UsageError(f"interval_ms: expected at least 1, got {self.interval_ms}")


ASKED: Final = Sampling(interval_ms=250)
"""Of films that are asked: denser than known ones, so that some frame lies near each known one.

Of two hand-held films that are out of step few frames match: of the 19 seconds that two of them
share, 3 were found with one frame a second on both sides, 13 with four asked, 14 with eight.
"""


def shown(frames: Iterable[tuple[T, int | None, int]], step: int) -> Iterator[tuple[T, int, int]]:
    """Yield each frame with when it appears and when the next one does.

    Parameters
    ----------
    frames
        In the order of display, each with its time stamp (any origin; None if it has none) and
        how long it lasts (0 if that is not known).
    step
        How long a frame lasts on average, at least 1.

    Yields
    ------
    frame, start, end
        Starts begin at 0 and rise. They follow the stamps, unless one is missing or does not rise:
        then the frame starts one `step` after that before it, or, if the stamp before is the one
        that is out of line, that one is replaced. It was then too late to correct the `end` of the
        frame before both. Only the last frame ends by how long it lasts.
    """
    origin: int | None = None
    before, start = -1, 0
    held: tuple[T, int] | None = None
    for frame, stamp, lasts in frames:
        if held is None:
            held, origin = (frame, lasts), stamp
            continue
        at = start + step
        if stamp is not None:
            if origin is None:
                origin = stamp - at
            at = stamp - origin
        if before + 1 < at < start:
            start = min(before + step, (before + at) // 2)
        elif at <= start:
            at = start + step
        yield held[0], start, at
        before, start, held = start, at, (frame, lasts)
    if held is not None:
        yield held[0], start, start + (held[1] if held[1] > 0 else step)


class Chooser:
    """Says of one frame after the other whether it is sampled."""

    def __init__(self, sampling: Sampling) -> None:
        self._all = sampling.frames != "interval"
        self._interval = sampling.interval_ms * 1000
        self._scenes = sampling.scenes
        self._glance: NDArray[np.int16] | None = None
        self._last = 0

    def wants(self, start: int, end: int, glance: Callable[[], NDArray[np.uint8]]) -> bool:
        """Return whether to sample the frame that is shown in ``start <= t < end``.

        `glance` gives it at a small size, the same for all frames; called if needed.
        """
        if self._all:
            return True
        chosen = -(-start // self._interval) * self._interval < end
        if self._scenes and (chosen or start - self._last >= CUT_GAP):
            seen = glance().astype("int16")
            if not chosen and self._glance is not None:
                chosen = bool(abs(seen - self._glance).mean() >= CUT)
            if chosen:
                self._glance = seen
        if chosen:
            self._last = start
        return chosen
