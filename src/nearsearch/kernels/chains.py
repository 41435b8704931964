"""Chains of frame matches: bars of matching frames, the best steps between them, their evidence.

All times are whole milliseconds. A bar is what one frame matches without a break on the other side:
one or more rows of the other film that stand together. Static scenes, in which everything matches
everything, so become one bar a frame.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numba import types

from nearsearch.kernels.jit import kernel, readonly, writable

if TYPE_CHECKING:
    from numpy.typing import NDArray

_IN, _OUT = readonly(types.int64), writable(types.int64)


@kernel(types.int64(readonly(types.int64, 2), types.int64, writable(types.int64, 2)))
def bars(matches: NDArray[np.int64], slack: int, out: NDArray[np.int64]) -> int:
    """Join matches of one frame whose spans in the other film touch; return how many bars.

    Requires: matches (6, m) are group, start and end of the frame, start and end in the other film,
    distance; sorted by group, start, other start. out is (7, m). Unchecked here.
    Order: `out` gets group, start, end, other start, other end, start of the last row joined, and
    the least distance, in the order of the matches; the bars of a frame do not overlap.
    Cost: one pass, about 10 ns a match.
    """
    count = 0
    for k in range(matches.shape[1]):
        last = count - 1
        if (
            count
            and matches[0, k] == out[0, last]
            and matches[1, k] == out[1, last]
            and matches[3, k] - out[4, last] <= slack
        ):
            out[2, last] = max(out[2, last], matches[2, k])
            out[4, last] = max(out[4, last], matches[4, k])
            out[5, last] = matches[3, k]
            out[6, last] = min(out[6, last], matches[5, k])
        else:
            for column in range(5):
                out[column, count] = matches[column, k]
            out[5, count] = matches[3, k]
            out[6, count] = matches[5, k]
            count += 1
    return count


@kernel(
    types.void(
        _IN, _IN, _IN, _IN, _IN, _IN, _IN, _IN,
        types.int64, types.int64, types.float64, types.float64,
        _OUT, _OUT, _OUT, _OUT, _OUT, _OUT,
    )
)  # fmt: skip
def link(
    group: NDArray[np.int64],
    start: NDArray[np.int64],
    end: NDArray[np.int64],
    other_start: NDArray[np.int64],
    other_end: NDArray[np.int64],
    low: NDArray[np.int64],
    high: NDArray[np.int64],
    gain: NDArray[np.int64],
    max_gap: int,
    jump: int,
    slower: float,
    faster: float,
    score: NDArray[np.int64],
    covered: NDArray[np.int64],
    frames: NDArray[np.int64],
    pictures: NDArray[np.int64],
    begin: NDArray[np.int64],
    previous: NDArray[np.int64],
) -> None:
    """Find the best chain that ends in each of n bars.

    A bar allows offsets (other time less own time) from `low` to `high`. A chain holds the offsets
    that all its bars allow, or, where they drift, the nearest to them: a step drifts by the gap
    between both ranges, at most `jump` and `slower` or `faster` times the time it takes. The score
    of a chain is what its bars gain, less all drift. Also given are, for the best chain that ends
    in each bar, the sum of gains, the frames, how many different moments of the other film they are
    pictures of at most, when it begins, and the bar before, or -1.

    Requires: bars sorted by group, start, low; within a frame (one group and start) high rises too;
    frames of a group do not overlap; equal lengths. Unchecked here.
    Order: deterministic; of equally good steps the shortest is taken.
    Cost: frames within `max_gap` times a binary search, about 20 ns each: 0.1 us a bar in noise.
    Source: colinear chaining as in minimap2 (Li 2018, section 2.1), with ranges in place of points.
    """
    n = group.shape[0]
    firsts = np.empty(n, np.int64)  # the first bar of each frame
    n_frames = 0
    for k in range(n):
        if k == 0 or group[k] != group[k - 1] or start[k] != start[k - 1]:
            firsts[n_frames] = k
            n_frames += 1
        score[k], covered[k], frames[k], pictures[k] = gain[k], gain[k], 1, 1
        begin[k], previous[k] = start[k], -1
    held_low, held_high, moment = low.copy(), high.copy(), other_end.copy()
    for f in range(n_frames):
        first = firsts[f]
        stop = firsts[f + 1] if f + 1 < n_frames else n
        for k in range(first, stop):
            best = 0
            for g in range(f - 1, -1, -1):
                j = firsts[g]
                if group[j] != group[k] or start[k] - end[j] > max_gap:
                    break
                passed = start[k] - start[j]
                ahead, behind = jump + int(faster * passed), jump + int(slower * passed)
                frame_stop = firsts[g + 1]
                right = frame_stop
                while j < right:  # the first bar of the frame that can reach up to k
                    middle = (j + right) // 2
                    if high[middle] + ahead < low[k]:
                        j = middle + 1
                    else:
                        right = middle
                while j < frame_stop and low[j] - behind <= high[k]:
                    up, down = low[k] - held_high[j], held_low[j] - high[k]
                    drift = max(up, down, 0)
                    if up <= ahead and down <= behind and score[j] - drift > best:
                        best = score[j] - drift
                        previous[k] = j
                    j += 1
            j = previous[k]
            if j >= 0:
                score[k] = gain[k] + best
                covered[k] = gain[k] + covered[j]
                frames[k] = frames[j] + 1
                pictures[k] = pictures[j]
                if other_start[k] >= moment[j]:
                    pictures[k] += 1
                else:
                    moment[k] = min(moment[j], other_end[k])
                begin[k] = begin[j]
                held_low[k] = min(max(held_low[j], low[k]), high[k])
                held_high[k] = max(min(held_high[j], high[k]), low[k])


@kernel(types.void(_IN, _IN, _OUT))
def label(order: NDArray[np.int64], previous: NDArray[np.int64], out: NDArray[np.int64]) -> None:
    """Share the bars out among chains: each goes to the first chain of `order` it lies on.

    Requires: order, previous and out (n,) as `link` gave them; previous is -1 or lower than its
    place. Unchecked here.
    Order: `out` is the number of the chain, counted in `order` of their last bars.
    Cost: one step a bar.
    """
    out[:] = -1
    count = 0
    for last in order:
        k = last
        if out[k] < 0:
            while k >= 0 and out[k] < 0:
                out[k] = count
                k = previous[k]
            count += 1


@kernel(types.int64(_IN, _IN))
def stabs(start: NDArray[np.int64], end: NDArray[np.int64]) -> int:
    """Count the moments it takes to meet all spans ``start <= t < end``: the different pictures.

    Requires: equal lengths, sorted by end. Unchecked here.
    Cost: one pass.
    Source: the greedy stabbing of intervals, optimal when sorted by end.
    """
    count = 0
    moment = 0
    for k in range(start.shape[0]):
        if count == 0 or start[k] >= moment:
            moment = end[k]
            count += 1
    return count


@kernel(
    types.UniTuple(types.float64, 2)(
        types.float64, readonly(types.int64, 2), writable(types.float64)
    )
)
def miss(
    speed: float, boxes: NDArray[np.int64], scratch: NDArray[np.float64]
) -> tuple[float, float]:
    """Return by how much the best line of a speed misses n boxes on average, and its offset.

    The offset is a median of the ends of the ranges that the boxes allow: it minimises the sum of
    distances to them.

    Requires: boxes (4, n) are first and last own time, first and last other time, n >= 1; scratch
    of at least 2 n. Unchecked here.
    Cost: sorts 2 n numbers.
    """
    n = boxes.shape[1]
    for k in range(n):
        scratch[k] = boxes[2, k] - speed * boxes[1, k]
        scratch[n + k] = boxes[3, k] - speed * boxes[0, k]
    scratch[: 2 * n].sort()
    offset = (scratch[n - 1] + scratch[n]) / 2
    total = 0.0
    for k in range(n):
        low = boxes[2, k] - speed * boxes[1, k] - offset
        high = offset - (boxes[3, k] - speed * boxes[0, k])
        total += max(low, high, 0.0)
    return total / n, offset
