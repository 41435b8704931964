"""Borders that were put around a picture: where the picture inside begins and ends.

Three kinds are looked for, in a grid of 128x128 to which the whole picture was squashed.

Plain: frames, bars and pages of one colour. Lines of the box that show nothing but that colour are
taken off, rows and columns at once, until nothing changes; between such lines only the longest run
stays, which drops the text of a caption and the title bar of a window. What tells a border from a
sky is that its edge is straight: the share of the edge along which the picture begins where a
straight line says it does. That share ranks the results.

Rim: the dark rim of a screen or a print that was photographed, all around and a little askew; like
a frame, but its colour varies more.

Blurred: two bars as wide as each other which show no detail, a straight step, and detail inside.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from numba import types

from nearsearch.kernels.jit import kernel, readonly, writable

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIDE: Final = 128
"""Rows and columns of the grid."""
MAX_FOUND: Final = 4
"""Rectangles that `find` returns at most."""

# The sides are left, top, right, bottom: element j of line d counted from a side is at
# base + d * inwards + j * along of the grid. One code for all four keeps the results of turned and
# mirrored pictures turned and mirrored.
_BASE = (0, 0, SIDE - 1, (SIDE - 1) * SIDE)
_ALONG = (SIDE, 1, SIDE, 1)
_INWARDS = (1, SIDE, -1, -SIDE)

_ZERO, _ONE, _HALF = np.float32(0), np.float32(1), np.float32(0.5)
_PLAIN, _RIM = np.float32(8), np.float32(28)
_DARK = np.float32(90)
_STRAIGHT, _STRAIGHT_RIM = np.float32(0.5), np.float32(0.3)
_NEAR = _ONE
_SKEW = 8
_BINS, _FINE = 8 * (_SKEW + 3), np.float32(8)
_SMOOTH = np.float32(3.5)
_STEP, _FLOOR = np.float32(6), _ONE
_NARROWEST = 4
_DEEPEST = 46
_MIN_SIDE, _MAX_AREA = np.float32(0.3), np.float32(0.985)
_SAME, _FAR = np.float32(0.01), _HALF

_i64, _f32 = types.int64, types.float32
_cells = readonly(types.float32)
_ints = writable(types.int64)
_floats = writable(types.float32)
_found = writable(types.float32, 2)
import os

PAPER = int(os.environ.get("PAPER", "1"))
_PAPER = np.float32(os.environ.get("PTOL", "3"))
PMIN = float(os.environ.get("PMIN", "0"))
BLUR = int(os.environ.get("BLUR", "1"))


@kernel(_f32(_cells, _i64))
def _level(cells: NDArray[np.float32], side: int) -> np.float32:
    """Return the most common level of the outermost line of a side."""
    counts = np.zeros(65, np.int64)
    base, along = _BASE[side], _ALONG[side]
    for j in range(SIDE):
        counts[min(max(int(cells[base + j * along]), 0), 255) >> 2] += 1
    best, most = 0, -1
    for i in range(64):
        if counts[i] + counts[i + 1] > most:
            best, most = i, counts[i] + counts[i + 1]
    centre = np.float32(4 * best + 4)
    total, n = _ZERO, _ZERO
    for j in range(SIDE):
        level = cells[base + j * along]
        if abs(level - centre) <= _PLAIN:
            total += level
            n += _ONE
    return total / n


@kernel(types.boolean(_cells, _i64, _i64, _i64, _f32, _f32))
def _is_plain(
    cells: NDArray[np.float32], at: int, along: int, length: int, level: float, tolerance: float
) -> bool:
    """Whether at most 2 % of a stretch differ from the level. A coarse look first ends most."""
    n_other = 0
    for first in range(8):
        for j in range(first, length, 8):
            n_other += int(abs(cells[at + j * along] - level) > tolerance)
            if 50 * n_other > length:
                return False
    return True


@kernel(types.UniTuple(_i64, 2)(_cells, _ints, _i64, _f32, _f32, types.boolean))
def _inside(
    cells: NDArray[np.float32],
    box: NDArray[np.int64],
    axis: int,
    level: float,
    tolerance: float,
    longest: bool,
) -> tuple[int, int]:
    """Return the longest run of lines of the box that are not plain, or the hull of all runs."""
    along, across = _ALONG[axis], _INWARDS[axis]
    length = box[3 - axis] - box[1 - axis]
    begin, end, start = 0, 0, -1
    for i in range(box[axis], box[axis + 2] + 1):
        if i < box[axis + 2] and not _is_plain(
            cells, i * across + box[1 - axis] * along, along, length, level, tolerance
        ):
            if start < 0:
                start = i
        elif start >= 0:
            if not longest:
                begin, end = begin if end else start, i
            elif i - start > end - begin:
                begin, end = start, i
            start = -1
    return begin, end


@kernel(types.boolean(_cells, _f32, _f32, types.boolean, _ints))
def _settle(
    cells: NDArray[np.float32],
    level: float,
    tolerance: float,
    longest: bool,
    box: NDArray[np.int64],
) -> bool:
    """Take the plain lines off the whole grid until nothing changes; whether something is left."""
    box[0], box[1], box[2], box[3] = 0, 0, SIDE, SIDE
    for _ in range(4):
        left, right = _inside(cells, box, 0, level, tolerance, longest)
        top, bottom = _inside(cells, box, 1, level, tolerance, longest)
        if right - left + bottom - top == box[2] - box[0] + box[3] - box[1]:
            break
        box[0], box[1], box[2], box[3] = left, top, right, bottom
    return 4 * min(box[2] - box[0], box[3] - box[1]) > SIDE


@kernel(_f32(_cells, _i64, _i64, _i64))
def _median(starts: NDArray[np.float32], begin: int, end: int, depth: int) -> np.float32:
    """Return the median of those starts that exist, to an eighth; negative if fewer than half do."""
    counts = np.zeros(_BINS, np.int64)
    n = 0
    for j in range(begin, end):
        if starts[j] >= _ZERO:
            counts[
                min(max(int((starts[j] - np.float32(depth - 1)) * _FINE + _HALF), 0), _BINS - 1)
            ] += 1
            n += 1
    if 4 * n < end - begin:
        return -_ONE
    below = 0
    at = 0
    while 2 * (below + counts[at]) < n:
        below += counts[at]
        at += 1
    high = at
    above = below + counts[at]
    while 2 * above <= n and high < _BINS - 1:
        high += 1
        above += counts[high]
    return np.float32(depth - 1) + np.float32(at + high) / (_FINE + _FINE)


@kernel(types.UniTuple(_f32, 2)(_cells, _i64, _ints, _f32, _f32, _floats))
def _edge(
    cells: NDArray[np.float32],
    side: int,
    box: NDArray[np.int64],
    level: float,
    tolerance: float,
    starts: NDArray[np.float32],
) -> tuple[np.float32, np.float32]:
    """Return how far in the picture begins, in lines, and the share of it that begins there."""
    base, along, inwards = _BASE[side], _ALONG[side], _INWARDS[side]
    depth = box[side] if side < 2 else SIDE - box[side]
    begin, end = box[1 - side % 2], box[3 - side % 2]
    for j in range(begin, end):
        at = base + j * along + depth * inwards
        starts[j] = -_ONE
        for d in range(depth, min(depth + _SKEW, SIDE - 2)):
            inside = cells[at] - level
            if abs(inside) > tolerance:
                further = cells[at + inwards] - level
                before = cells[at - inwards] - level
                if inside * inside < inside * further:
                    mixed = (before + inside) / further
                else:
                    mixed = _ONE + before / inside
                starts[j] = np.float32(d + 1) - min(max(mixed, _ZERO), np.float32(1.5))
                break
            at += inwards
    half = (begin + end) // 2
    first = _median(starts, begin, half, depth)
    second = _median(starts, begin + end - half, end, depth)
    if first < _ZERO or second < _ZERO or abs(first - second) > np.float32(4):
        return np.float32(depth), _ZERO
    n_near = 0
    slope = (second - first) / np.float32(max(end - begin - half + begin, 1))
    middle = np.float32(begin + end - 1) / np.float32(2)
    centre = (first + second) * _HALF
    total, weight = _ZERO, _ZERO
    for j in range(begin, end):
        aside = starts[j] - (centre + slope * (np.float32(j) - middle))
        if starts[j] >= _ZERO and abs(aside) <= _NEAR:
            n_near += 1
    return centre, np.float32(n_near) / np.float32(end - begin)


@kernel(types.boolean(_cells, _f32, _f32))
def _is_framed(cells: NDArray[np.float32], level: float, tolerance: float) -> bool:
    """Whether the outermost lines of all four sides are plain."""
    for side in range(4):
        if not _is_plain(cells, _BASE[side], _ALONG[side], SIDE, level, tolerance):
            return False
    return True


@kernel(_f32(_cells, _ints, _f32, _f32, _floats, _floats))
def _measure(
    cells: NDArray[np.float32],
    box: NDArray[np.int64],
    level: float,
    tolerance: float,
    starts: NDArray[np.float32],
    found: NDArray[np.float32],
) -> np.float32:
    """Write the fractions of the box and return how straight its worst edge is; -1 without any."""
    worst = np.float32(2)
    for s in range(4):
        found[s] = np.float32(s // 2)
        if 0 < box[s] < SIDE:
            begins, straight = _edge(cells, s, box, level, tolerance, starts)
            found[s] = abs(found[s] - begins / np.float32(SIDE))
            worst = min(worst, straight)
    return worst


@kernel(types.UniTuple(_f32, 3)(_cells, _i64, _i64))
def _bends(
    cells: NDArray[np.float32], side: int, d: int
) -> tuple[np.float32, np.float32, np.float32]:
    """Return the mean bend across line d, across the opposite one, and along the rougher of both.

    The bend of three levels in a row is twice the middle one less its neighbours.
    """
    along, inwards = _ALONG[side], _INWARDS[side]
    at = _BASE[side] + d * inwards
    other = _BASE[side + 2] - d * inwards
    across, across_other, rough, rough_other = _ZERO, _ZERO, _ZERO, _ZERO
    for _ in range(1, SIDE - 1):
        at += along
        other += along
        twice, twice_other = cells[at] + cells[at], cells[other] + cells[other]
        across += abs(twice - cells[at - inwards] - cells[at + inwards])
        across_other += abs(twice_other - cells[other - inwards] - cells[other + inwards])
        rough += abs(twice - cells[at - along] - cells[at + along])
        rough_other += abs(twice_other - cells[other - along] - cells[other + along])
    n = np.float32(SIDE - 2)
    return across / n, across_other / n, max(rough, rough_other) / n


@kernel(_f32(_cells, _i64, _i64))
def _blurred_edge(cells: NDArray[np.float32], side: int, d: int) -> np.float32:
    """Return how far in the picture begins, when its step is near line d."""
    along, inwards = _ALONG[side], _INWARDS[side]
    at = _BASE[side] + d * inwards
    mixed, weight = _ZERO, np.float32(1e-3)
    for j in range(SIDE):
        p = at + j * along
        outside = cells[p - 2 * inwards]
        inside = cells[p + 3 * inwards] - outside
        for i in range(-1, 3):
            mixed += (cells[p + i * inwards] - outside) * inside
        weight += inside * inside
    return np.float32(d + 3) - min(max(mixed / weight, _ZERO), np.float32(4))


@kernel(types.boolean(_cells, _i64, _i64, _floats))
def _bars(cells: NDArray[np.float32], side: int, d: int, found: NDArray[np.float32]) -> bool:
    """Write the rectangle between the bars whose edges are near line d; False if d is 0."""
    if d == 0:
        return False
    found[0], found[1], found[2], found[3] = _ZERO, _ZERO, _ONE, _ONE
    found[side] = _blurred_edge(cells, side, d) / np.float32(SIDE)
    found[side + 2] = _ONE - _blurred_edge(cells, side + 2, d) / np.float32(SIDE)
    return True


@kernel(types.boolean(_cells, _i64, _floats))
def _blurred(cells: NDArray[np.float32], side: int, found: NDArray[np.float32]) -> bool:
    """Whether a side and the opposite one have blurred bars; write the rectangle between them."""
    bends = np.zeros((_DEEPEST + 2, 3), np.float32)
    one, other = _FLOOR, _FLOOR
    best, at = _STEP, 0
    for d in range(1, _DEEPEST + 2):
        bends[d, 0], bends[d, 1], bends[d, 2] = _bends(cells, side, d)
        k = d - 1  # the line around which the edge may be; those before k - 1 are the bar
        if k < _NARROWEST:
            continue
        for i in range(1 if k == _NARROWEST else k - 2, k - 1):
            if bends[i, 2] > _SMOOTH:
                return _bars(cells, side, at, found)
            one, other = max(one, bends[i, 0]), max(other, bends[i, 1])
        step = max(bends[k - 1, 0], bends[k, 0], bends[d, 0]) / one
        step = min(step, max(bends[k - 1, 1], bends[k, 1], bends[d, 1]) / other)
        if step > best:
            best, at = step, k
    return _bars(cells, side, at, found)


@kernel(_i64(_found, _i64, _floats, _f32, _floats))
def _keep(
    out: NDArray[np.float32],
    n: int,
    found: NDArray[np.float32],
    score: float,
    scores: NDArray[np.float32],
) -> int:
    """Insert the rectangle by its score, if it is of a useful size and new; return how many."""
    width, height = found[2] - found[0], found[3] - found[1]
    if min(width, height) < _MIN_SIDE or width * height > _MAX_AREA:
        return n
    for k in range(n):
        apart = _ZERO
        for s in range(4):
            apart = max(apart, abs(out[k, s] - found[s]))
        if apart < _SAME:
            return n
    if n == MAX_FOUND:
        return n
    at = n
    while at > 0 and scores[at - 1] < score:
        scores[at] = scores[at - 1]
        for s in range(4):
            out[at, s] = out[at - 1, s]
        at -= 1
    scores[at] = score
    for s in range(4):
        out[at, s] = found[s]
    return n + 1


@kernel(_f32(_floats))
def _sides(found: NDArray[np.float32]) -> np.float32:
    n = _ZERO
    for s in range(4):
        if abs(found[s] - np.float32(s // 2)) > np.float32(0.004):
            n += np.float32(0.25)
    return n


@kernel(_i64(readonly(_f32, 2), _found))
def find(grid: NDArray[np.float32], out: NDArray[np.float32]) -> int:
    """Find."""
    cells = grid.reshape(SIDE * SIDE)
    box = np.empty(4, np.int64)
    starts = np.empty(SIDE, np.float32)
    found = np.empty(4, np.float32)
    scores = np.empty(MAX_FOUND, np.float32)
    levels = np.empty(4, np.float32)
    n = 0
    for side in range(4):
        level = _level(cells, side)
        levels[side] = level
        seen = False
        for k in range(side):
            seen = seen or abs(level - levels[k]) < _ONE
        if seen:
            continue
        if _settle(cells, level, _PLAIN, True, box):
            straight = _measure(cells, box, level, _PLAIN, starts, found)
            if straight >= _STRAIGHT:
                n = _keep(out, n, found, straight + _sides(found), scores)
        if (
            level < _DARK
            and _is_framed(cells, level, _RIM)
            and _settle(cells, level, _RIM, True, box)
        ):
            straight = _measure(cells, box, level, _RIM, starts, found)
            if straight >= _STRAIGHT_RIM:
                n = _keep(out, n, found, straight + _sides(found), scores)
        if _is_framed(cells, level, _PAPER):
            for longest in (True, False):
                if _settle(cells, level, _PAPER, longest, box):
                    straight = _measure(cells, box, level, _PAPER, starts, found)
                    n = _keep(
                        out, n, found, (straight + np.float32(longest)) * np.float32(0.1), scores
                    )
    for side in range(2):
        if BLUR and _blurred(cells, side, found):
            known = False
            for k in range(n):
                known = known or max(
                    abs(out[k, side] - found[side]), abs(out[k, side + 2] - found[side + 2])
                ) < np.float32(0.02)
            if not known:
                n = _keep(out, n, found, np.float32(0.9) + _sides(found), scores)
    while n > 1 and scores[n - 1] < scores[0] - _FAR:
        n -= 1
    return n
