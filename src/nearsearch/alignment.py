"""Alignment of two films whose frames match: chains of bars, and the line through each. Pure.

Bars (`kernels.chains`) are chained along time, a line of constant speed is laid through each chain,
and what lies along it is a segment if it is `evidence` enough.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from nearsearch.evidence import FASTEST, SLOWEST, Counts, Films, is_evidence
from nearsearch.kernels import chains
from nearsearch.lines import SAMPLE, Bars, is_near, line_through, shown

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

MAX_GAP: Final = 10_000
"""Milliseconds of the query without a match, up to which a segment goes on."""

_SLACK: Final = 1000  # ms by which a chain may miss each bar, and rows of one bar lie apart
_STEP: Final = 500  # ms that it may drift at each step, beside its speed
_ROUNDS: Final = 5
_AROUND: Final = 5000  # ms


class Chains(NamedTuple):
    """What `chains.link` gives: of the best chain that ends in each bar."""

    score: NDArray[np.int64]
    covered: NDArray[np.int64]
    frames: NDArray[np.int64]
    pictures: NDArray[np.int64]
    begin: NDArray[np.int64]
    previous: NDArray[np.int64]


class Segment(NamedTuple):
    """One segment of a pair of films; see `segments.Segments`."""

    query_start: int
    query_end: int
    item_start: int
    item_end: int
    frames: int
    pictures: int
    matched: int
    median_distance: float
    speed: float


class Elsewhere(NamedTuple):
    """What the frames of a query match in all items together: blank ones match everywhere.

    Attributes
    ----------
    until
        How many bars begin before each second of the query, int64.
    n_items
    item_ms
        How long all these items are.
    """

    until: NDArray[np.int64]
    n_items: int
    item_ms: float

    def density(self, start: int, end: int, bars: Bars) -> float:
        """Return how many bars begin in a span of the query, but for `bars`, in a square ms.

        One a second in each item is not counted: all of them may be copies.
        """
        first = min(start // 1000, len(self.until) - 2)
        stop = min(max(-(-end // 1000), first + 1), len(self.until) - 1)
        own = (bars.start >= 1000 * first) & (bars.start < 1000 * stop)
        others = int(self.until[stop] - self.until[first]) - int(own.sum())
        others -= (stop - first) * (self.n_items - 1)
        return max(others, 0) / (1000 * (stop - first)) / self.item_ms


def joined(matches: NDArray[np.int64]) -> Bars:
    """Return the bars of matches, (6, m) int64, in the order that `chains.bars` asks for."""
    out = np.empty((7, matches.shape[1]), np.int64)
    return Bars(*out[:, : chains.bars(matches, _SLACK, out)])


def linked(bars: Bars) -> Chains:
    """Return the best chains of bars, of any number of pairs of films."""
    last, other_last = bars.moments()
    low, high = bars.other_start - last - _SLACK, other_last - bars.start + _SLACK
    other = bars.other_end - bars.other_start
    # A frame of a dense query stands for its known row: most of its neighbours find none.
    time = np.maximum(bars.end - bars.start, np.minimum(other, SAMPLE))
    gain = np.minimum(time, other + 2 * _SLACK)
    out = Chains._make(np.empty((6, len(gain)), np.int64))
    rates = 1 - SLOWEST, FASTEST - 1
    chains.link(*bars[:5], low, high, gain, MAX_GAP, _STEP, *rates, *out)
    return out


def promising(found: Chains, bars: Bars, films: Films) -> NDArray[np.int64]:
    """Return the bars that end a chain which may be evidence.

    Parameters
    ----------
    films
        The pairs of films that ``bars.group`` counts.
    """
    # Nine in ten bars of noise are alone: only a film of one frame is whole with them.
    most = int(np.maximum(films.query_ms, films.item_ms).min())
    last = np.flatnonzero((found.frames > 1) | (found.covered >= min(10_000, most // 2)))
    span = bars.end[last] - found.begin[last]
    covered = np.minimum(found.covered[last], span + SAMPLE)
    counts = Counts(found.frames[last], found.pictures[last], covered, span)
    return last[is_evidence(counts, films.take(bars.group[last]))]


def segments_of(
    matches: NDArray[np.int64], films: Films, elsewhere: Elsewhere
) -> Iterator[Segment]:
    """Yield the segments of one pair of films, the best chains first.

    Parameters
    ----------
    matches
        As `joined` takes them, of group 0.
    films
        This pair.
    """
    every = bars = joined(matches)
    swapped = matches[[0, 3, 4, 1, 2, 5]]
    of_rows = joined(np.ascontiguousarray(swapped[:, np.lexsort((swapped[3], swapped[1]))]))
    accepted: list[Segment] = []
    while len(bars.start):
        found = linked(bars)
        chain = np.empty(len(bars.start), np.int64)
        order = np.argsort(-found.score, kind="stable")
        chains.label(order, found.previous, chain)
        hopeful = np.zeros(len(order), np.bool_)
        hopeful[promising(found, bars, films)] = True
        left = np.ones(len(order), np.bool_)
        for number in dict.fromkeys(chain[order[hopeful[order]]].tolist()):
            member = np.flatnonzero((chain == number) & left)
            laid = _laid(bars, of_rows, member, left) if len(member) else None
            if laid is None:
                continue
            segment, member, counts, height, density = laid
            density = max(density, elsewhere.density(*segment[:2], every))
            if not is_evidence(counts, films, height, density)[0]:
                continue
            left[member] = False
            left &= ~_is_within(bars, segment)
            if not any(_is_same(segment, other) for other in accepted):
                accepted.append(segment)
                yield segment
        if left.all():
            return
        bars = bars.take(left)  # a chain may have gone on into another segment: link the rest anew


def _laid(
    bars: Bars, of_rows: Bars, member: NDArray[np.int64], left: NDArray[np.bool_]
) -> tuple[Segment, NDArray[np.int64], Counts, float, float] | None:
    """Return the segment along the line through a chain, its bars, and what `is_evidence` asks."""
    for _ in range(_ROUNDS):  # each line is free of what does not belong, and meets more that does
        speed, offset = line_through(bars.take(member))
        near = np.flatnonzero(is_near(bars, speed, offset) & left)
        if not len(near):
            return None
        before, member = member, near[_best_run(bars.take(near), speed, offset)]
        if np.array_equal(before, member):
            break
    here = bars.take(member)
    entered, leaves = shown(here, speed, offset)
    query_start, query_end = int(entered.min()), int(leaves.max())
    low, high = int(here.other_start.min()), int(here.other_end.max())
    item_start, item_end = (
        min(max(round(speed * at + offset), low), high) for at in (query_start, query_end)
    )
    if item_end <= item_start:
        return None
    rows = of_rows.take(is_near(of_rows, 1 / speed, -offset / speed))
    rows = rows.take((rows.start < item_end) & (rows.end > item_start))
    pictures = min(_stabs(here), _stabs(rows))
    _, first = np.unique(here.start, return_index=True)  # one bar of each frame
    matched = min(_matched(here, entered, leaves, first), query_end - query_start)
    numbers = len(first), pictures, matched
    counts = Counts(*np.array([*numbers, query_end - query_start]).reshape(4, 1))
    around, height = _density(bars, (query_start, query_end, item_start, item_end), speed, offset)
    height = height or float((here.other_end - here.other_start).mean())
    median = float(np.median(np.minimum.reduceat(here.distance, first)))
    segment = Segment(query_start, query_end, item_start, item_end, *numbers, median, speed)
    return segment, member, counts, height, around


def _best_run(bars: Bars, speed: float, offset: float) -> slice:
    """Return the run of bars that gains most: matched time less a tenth of all gaps.

    A bar counts as the longer of its two sides, up to a sample: where one film is looked at more
    often than the other, most frames between two samples find none. No gap is beyond `MAX_GAP`.
    """
    entered, leaves = shown(bars, speed, offset)
    time = np.maximum(leaves - entered, np.minimum(bars.other_end - bars.other_start, SAMPLE))
    gap = np.zeros(len(entered), np.int64)
    gap[1:] = np.maximum(entered[1:] - np.maximum.accumulate(leaves)[:-1], 0)
    cost = np.cumsum(np.where(gap > MAX_GAP, 1 << 40, gap // 10))
    gain = np.cumsum(time)
    before = gain - time - cost
    last = int((gain - cost - np.minimum.accumulate(before)).argmax())
    return slice(int(before[: last + 1].argmin()), last + 1)


def _matched(
    bars: Bars, entered: NDArray[np.int64], leaves: NDArray[np.int64], first: NDArray[np.int64]
) -> int:
    """Return for how long a frame or the known row that it matches is shown, overlaps once."""
    until = np.maximum(leaves, entered + np.minimum(bars.other_end - bars.other_start, SAMPLE))
    start, end = entered[first], np.maximum.accumulate(until[first])
    before = np.concatenate([start[:1], end[:-1]])
    return int(np.maximum(end - np.maximum(start, before), 0).sum())


def _density(
    bars: Bars, box: tuple[int, int, int, int], speed: float, offset: float
) -> tuple[float, float]:
    """Return how many bars are around a segment and off its line, in a square ms; how high."""
    query_start, query_end, item_start, item_end = box
    off = ~is_near(bars, speed, offset)
    off &= (bars.start < query_end + _AROUND) & (bars.end > query_start - _AROUND)
    off &= (bars.other_start < item_end + _AROUND) & (bars.other_end > item_start - _AROUND)
    sides = query_end - query_start + 2 * _AROUND, item_end - item_start + 2 * _AROUND
    heights = (bars.other_end - bars.other_start)[off]
    return len(heights) / sides[0] / sides[1], float(heights.mean()) if len(heights) else 0.0


def _stabs(bars: Bars) -> int:
    order = np.argsort(bars.other_end, kind="stable")
    return chains.stabs(bars.other_start[order], bars.other_end[order])


def _is_within(bars: Bars, box: Segment) -> NDArray[np.bool_]:
    """Tell which bars begin within the spans of a segment, on both sides."""
    in_query = (bars.start >= box.query_start) & (bars.start < box.query_end)
    return in_query & (bars.other_start >= box.item_start) & (bars.other_start < box.item_end)


def _is_same(one: Segment, other: Segment) -> bool:
    """Tell whether more than half of one, on both sides, is within the other."""
    in_query = min(one.query_end, other.query_end) - max(one.query_start, other.query_start)
    in_item = min(one.item_end, other.item_end) - max(one.item_start, other.item_start)
    return (
        2 * in_query > one.query_end - one.query_start
        and 2 * in_item > one.item_end - one.item_start
    )
