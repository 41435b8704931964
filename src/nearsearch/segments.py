"""Segments: from matches of single frames to which span of a film shows which span of another.

Pure, and after the search: nothing is compared here. Matches are sorted by pair of films, pairs
that cannot hold a segment are dropped all at once, and `alignment` looks at the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from nearsearch.alignment import Elsewhere, joined, linked, promising, segments_of
from nearsearch.evidence import WHOLE, Films

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from nearsearch.alignment import Chains, Segment
    from nearsearch.lines import Bars


class FrameMatches(NamedTuple):
    """Which sampled frame of a query matches which known frame: arrays of m entries, in any order.

    Times are in milliseconds since the first frame of the film. The spans of one film's frames do
    not overlap; equal frames in a row may be one frame with a long span.
    """

    query: NDArray[np.int64]
    item: NDArray[np.int64]
    query_start_ms: NDArray[np.int64]
    query_end_ms: NDArray[np.int64]
    item_start_ms: NDArray[np.int64]
    item_end_ms: NDArray[np.int64]
    distance: NDArray[np.uint16]
    query_ms: NDArray[np.int64]
    """How long the whole query is; items of no length (pictures) are left out."""
    item_ms: NDArray[np.int64]


class Segments(NamedTuple):
    """One entry for each segment, by query; then stills last, and the most certain first.

    That is: by fewer than two pictures, longest `matched_ms`, least median distance, item, start.

    Attributes
    ----------
    query, item : int64
    query_start_ms, query_end_ms, item_start_ms, item_end_ms : int64
        Half-open, within what matched.
    frames : int64
        Distinct frames of the query that matched in it.
    pictures : int64
        How many of them differ from each other, on both sides; see the module.
    matched_ms : int64
        For how much of its span in the query there is a match.
    median_distance : float64
        Over the frames, of each the nearest row in the segment, in bits.
    query_share, item_share : float64
        The segment's part of the whole film, 0 to 1.
    speed : float64
        Milliseconds of the item for one of the query; 1 unless the matches say otherwise.
    """

    query: NDArray[np.int64]
    item: NDArray[np.int64]
    query_start_ms: NDArray[np.int64]
    query_end_ms: NDArray[np.int64]
    item_start_ms: NDArray[np.int64]
    item_end_ms: NDArray[np.int64]
    frames: NDArray[np.int64]
    pictures: NDArray[np.int64]
    matched_ms: NDArray[np.int64]
    median_distance: NDArray[np.float64]
    query_share: NDArray[np.float64]
    item_share: NDArray[np.float64]
    speed: NDArray[np.float64]


def find_segments(matches: FrameMatches) -> Segments:
    """Return the segments that frame matches make, of every query and item.

    Deterministic, whatever the order of the matches; it checks nothing. Two segments of the same
    query and item never lie mostly within each other on both sides. Speeds are constant within a
    segment; cuts that take out a few seconds only may pass as another speed.

    Cost: with the sort 0.3 us a match; then 1 to 2 ms for each chain that may be a segment.
    """
    matches = _of_films(matches)
    order, starts = _grouped(matches)
    if not len(order):
        return _assembled(matches, [])
    is_first = np.zeros(len(order), np.int64)
    is_first[starts[1:]] = 1
    table = np.empty((6, len(order)), np.int64)
    table[0] = np.cumsum(is_first)
    for row, column in enumerate(matches[2:6], 1):
        table[row] = column[order]
    table[5] = matches.distance[order]
    bars = joined(table)
    chains = linked(bars)
    films = _films(matches, order[starts], bars, chains)
    elsewhere = _elsewhere(matches.query[order[starts]], films, bars)
    stops = np.append(starts[1:], len(order))
    found: list[tuple[int, Segment]] = []
    for pair in np.unique(bars.group[promising(chains, bars, films)]):
        here = table[:, starts[pair] : stops[pair]].copy()
        here[0] = 0
        of_pair = segments_of(here, films.take(np.array([pair])), elsewhere(pair))
        found.extend((int(order[starts[pair]]), segment) for segment in of_pair)
    return _assembled(matches, found)


def _films(matches: FrameMatches, firsts: NDArray[np.int64], bars: Bars, chains: Chains) -> Films:
    """Return the pairs of films that begin with matches `firsts`, as `bars` count them.

    Noise is what those without a chain have: of three frames, or of all of a shorter film.
    """
    query_ms, item_ms = matches.query_ms[firsts], matches.item_ms[firsts]
    last = np.flatnonzero(chains.frames > 1)
    of_pair = bars.group[last]
    whole = chains.covered[last] >= WHOLE * np.minimum(query_ms, item_ms)[of_pair]
    is_noise = np.ones(len(firsts), np.bool_)
    is_noise[of_pair[whole | (chains.frames[last] > 2)]] = False
    n_bars = np.bincount(bars.group)
    area = query_ms[is_noise].astype(np.float64) @ item_ms[is_noise]
    return Films(query_ms, item_ms, n_bars, float(n_bars[is_noise].sum()), float(area))


def _elsewhere(queries: NDArray[np.int64], films: Films, bars: Bars) -> Callable[[int], Elsewhere]:
    """Return what gives, for each pair of films, what its query matches in all items.

    `queries` are those of the pairs, ascending.
    """
    firsts = np.unique(queries, return_index=True)[1]
    number = np.searchsorted(queries[firsts], queries)
    seconds = np.maximum.reduceat(films.query_ms, firsts) // 1000 + 1
    begins = np.concatenate([[0], np.cumsum(seconds)])
    of_bar = number[bars.group]
    second = np.minimum(bars.start // 1000, seconds[of_bar] - 1) + begins[of_bar]
    until = np.concatenate([[0], np.cumsum(np.bincount(second, minlength=begins[-1]))])
    item_ms, n_items = np.add.reduceat(films.item_ms, firsts), np.bincount(number)

    def of_pair(pair: int) -> Elsewhere:
        query = number[pair]
        part = until[begins[query] : begins[query + 1] + 1]
        return Elsewhere(part, int(n_items[query]), float(item_ms[query]))

    return of_pair


def _of_films(matches: FrameMatches) -> FrameMatches:
    kept = (matches.query_ms > 0) & (matches.item_ms > 0)
    return matches if kept.all() else FrameMatches._make(column[kept] for column in matches)


def _grouped(matches: FrameMatches) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the order by query, item, query time, item time, and where each pair begins in it."""
    keys = [matches.query, matches.item, matches.query_start_ms, matches.item_start_ms]
    packed = _packed(keys)
    if packed is None and (pairs := _packed(keys[:2])) is not None:
        packed = _packed([np.unique(pairs, return_inverse=True)[1], *keys[2:]])
    # One packed key sorts a million in 0.09 s, four take 0.53 s.
    order = np.lexsort(keys[::-1]) if packed is None else np.argsort(packed)
    query, item = matches.query[order], matches.item[order]
    is_new = np.ones(len(order), np.bool_)
    is_new[1:] = (query[1:] != query[:-1]) | (item[1:] != item[:-1])
    return order, np.flatnonzero(is_new)


def _packed(keys: list[NDArray[np.int64]]) -> NDArray[np.int64] | None:
    """Return one number that orders as the keys do one after the other; None if it is too long."""
    if not len(keys[0]):
        return np.zeros(0, np.int64)
    lows = [int(key.min()) for key in keys]
    bits = [(int(key.max()) - low).bit_length() for key, low in zip(keys, lows, strict=True)]
    if sum(bits) > 63:
        return None
    packed = np.zeros(len(keys[0]), np.int64)
    for key, low, width in zip(keys, lows, bits, strict=True):
        packed = (packed << width) | (key - low)
    return packed


def _assembled(matches: FrameMatches, found: list[tuple[int, Segment]]) -> Segments:
    """Return segments in their order; each comes with one of its matches."""
    of = np.array([match for match, _ in found], np.int64)
    rows = [each for _, each in found]
    whole = np.array([row[:7] for row in rows], np.int64).reshape(-1, 7)
    median, speed = np.array([row[7:] for row in rows], np.float64).reshape(-1, 2).T
    query, item = matches.query[of].astype(np.int64), matches.item[of].astype(np.int64)
    query_share = np.minimum((whole[:, 1] - whole[:, 0]) / matches.query_ms[of], 1.0)
    item_share = np.minimum((whole[:, 3] - whole[:, 2]) / matches.item_ms[of], 1.0)
    is_still = whole[:, 5] < 2
    order = np.lexsort((whole[:, 2], whole[:, 0], item, median, -whole[:, 6], is_still, query))
    columns = (query, item, *whole.T, median, query_share, item_share, speed)
    return Segments(*(np.ascontiguousarray(column[order]) for column in columns))
