"""Lines through bars: which moment of a film is which of another, at one constant speed. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from nearsearch.evidence import FASTEST, NEAR, SLOWEST
from nearsearch.kernels import chains

if TYPE_CHECKING:
    from numpy.typing import NDArray

SAMPLE: Final = 1000
"""Milliseconds for which a sampled frame usually stands; the rest is repetition."""

_SPEED_COST: Final = 250.0  # ms; with 1000, 3 of 3,000 planted clips were found in part only
_SPEED_GAIN: Final = 1.05  # bars that another speed must meet, for one that speed 1 does
_CLOSE: Final = 250  # ms off the line
_MOST_FITTED: Final = 512
_GOLDEN: Final = 0.6180339887498949


class Bars(NamedTuple):
    """What `chains.bars` gives, as columns: of which pair of films each is, and its two spans."""

    group: NDArray[np.int64]
    start: NDArray[np.int64]
    end: NDArray[np.int64]
    other_start: NDArray[np.int64]
    other_end: NDArray[np.int64]
    other_last: NDArray[np.int64]
    distance: NDArray[np.int64]

    def take(self, where: NDArray[np.int64] | NDArray[np.bool_] | slice) -> Bars:
        """Return the bars at some places."""
        return Bars(*(column[where] for column in self))

    def moments(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the last moment of which each bar is a picture, in own and in other time.

        A frame is a picture of its first moment, a run of equal ones of all but its last sample.
        """
        last = np.maximum(self.start, self.end - SAMPLE)
        return last, np.maximum(self.other_last, self.other_end - SAMPLE)


def line_through(bars: Bars) -> tuple[float, float]:
    """Return speed and offset of a line through bars: one of two, whichever meets more of them.

    The one misses the bars by the least, all in all. That is convex in both: for a speed the best
    offset is the median of the ends of all ranges of offsets that the bars allow, and the speed is
    found by golden section. A hundredth more or less than 1 costs as much as missing each bar by
    2.5 ms: enough to decide where stills allow many. The other has speed 1: where a film was cut or
    a pause put in, a chain may go on at another offset, and the first line runs across both parts.
    """
    if len(bars.start) > _MOST_FITTED:
        bars = bars.take(np.linspace(0, len(bars.start) - 1, _MOST_FITTED).astype(np.int64))
    # From their first moments on, so that rounding is the same wherever in the films they are.
    origin, other_origin = bars.start[0], bars.other_start[0]
    bars = bars._replace(start=bars.start - origin, end=bars.end - origin)
    bars = bars._replace(
        other_start=bars.other_start - other_origin,
        other_end=bars.other_end - other_origin,
        other_last=bars.other_last - other_origin,
    )
    last, other_last = bars.moments()
    boxes = np.stack([bars.start, last, bars.other_start, other_last])
    scratch = np.empty(2 * len(last))

    def cost(speed: float) -> float:
        return chains.miss(speed, boxes, scratch)[0] + _SPEED_COST * abs(speed - 1)

    span = int(bars.end.max() - bars.start.min())
    below, above = SLOWEST, FASTEST
    while (above - below) * span > 20:  # milliseconds
        width = _GOLDEN * (above - below)
        if cost(above - width) <= cost(below + width):
            above = below + width
        else:
            below = above - width
    speed = (below + above) / 2
    offset = chains.miss(speed, boxes, scratch)[1]
    low, high = bars.other_start - last - _CLOSE, other_last - bars.start + _CLOSE
    # The offset that most bars allow: count those that begin and end on the way.
    ends = np.concatenate([low, high])
    order = np.argsort(ends, kind="stable")
    allowed = np.cumsum(np.repeat([1, -1], len(low))[order])
    most = ends[order[allowed.argmax()]]
    met = (low <= most) & (most <= high)
    if _SPEED_GAIN * met.sum() >= is_near(bars, speed, offset, _CLOSE).sum():
        speed = 1.0
        offset = chains.miss(speed, np.ascontiguousarray(boxes[:, met]), scratch)[1]
    return speed, float(offset + other_origin - speed * origin)


def is_near(bars: Bars, speed: float, offset: float, miss: int = NEAR) -> NDArray[np.bool_]:
    """Tell which bars a line misses by no more than `miss` milliseconds of other time."""
    last, other_last = bars.moments()
    near: NDArray[np.bool_] = bars.other_start - speed * last <= offset + miss
    return near & (offset - miss <= other_last - speed * bars.start)


def shown(bars: Bars, speed: float, offset: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return from when until when the line is in each bar, in own time.

    Frames keep their ends unless the line is farther off there than sampling explains.
    """
    low, high = (bars.other_start - offset) / speed, (bars.other_end - offset) / speed
    entered = np.where(bars.start < low - NEAR, low, bars.start)
    leaves = np.where(bars.end > high + NEAR, high, bars.end)
    entered = np.clip(entered, bars.start, bars.end)
    return entered.astype(np.int64), np.clip(leaves, entered, bars.end).astype(np.int64)
