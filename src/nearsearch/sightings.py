"""Sightings: what matches came to, one row each, where frames of films matched.

A film that is asked and a known film share segments (`segments`); a film and a picture share
stretches of time, in which one frame after the other matches. All other matches stand for
themselves.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import NDArray

    from nearsearch.matches import Matches, Shown

STRETCH_GAP: Final = 2000
"""Milliseconds without a match, up to which a picture's stretch in a film goes on: two samples."""


class _Sightings(NamedTuple):
    """Arrays of equal length; -1 and NaN where there is nothing to say."""

    match: NDArray[np.int64]
    """The most certain match that it is made of."""
    query_start: NDArray[np.int64]
    query_end: NDArray[np.int64]
    start: NDArray[np.int64]
    end: NDArray[np.int64]
    distance: NDArray[np.uint16]
    frames: NDArray[np.int64]
    query_share: NDArray[np.float64]
    item_share: NDArray[np.float64]
    speed: NDArray[np.float64]


def sightings(matches: Matches, limit: int | None) -> pa.Table:
    """Return the table of `Matches.segments`."""
    rows = matches.shown_by(matches.rows)
    spans = np.full((len(matches), 2), -1, np.int64)
    if matches.query_spans is not None:
        spans[:] = matches.query_spans
    both = np.flatnonzero((spans[:, 0] >= 0) & (rows.end_ms >= 0))
    others = np.flatnonzero((spans[:, 0] < 0) | (rows.end_ms < 0))
    parts = [_segments(matches, rows, spans, both), _stretches(matches, rows, spans, others)]
    found = _Sightings._make(np.concatenate(column) for column in zip(*parts, strict=True))
    # Exact ones first, then what agrees for longest, then in the order of the matches.
    query = matches.query_index[found.match]
    order = np.lexsort((found.match, -found.frames, ~matches.is_exact[found.match], query))
    if limit is not None:
        first = np.searchsorted(query[order], query[order], "left")
        order = order[np.arange(len(order)) - first < limit]
    return _table(matches, _Sightings._make(column[order] for column in found))


def _segments(
    matches: Matches, rows: Shown, spans: NDArray[np.int64], both: NDArray[np.int64]
) -> _Sightings:
    """Return what films share with films."""
    if not len(both):
        return _NONE
    # Its kernels take most of a second to load, which only films should wait for.
    from nearsearch.segments import FrameMatches, find_segments

    query, item = matches.query_index[both], rows.item[both]
    found = find_segments(
        FrameMatches(
            query,
            item,
            spans[both, 0],
            spans[both, 1],
            rows.time_ms[both],
            rows.end_ms[both],
            matches.distances[both],
            _durations(matches)[query],
            rows.duration_ms[both],
        )
    )
    by_pair = np.lexsort((both, item, query))
    pairs = np.stack([query[by_pair], item[by_pair]], axis=1)
    nearest = np.empty(len(found.query), np.int64)
    for number, pair in enumerate(zip(found.query, found.item, strict=True)):
        begin, stop = (_place(pairs, pair, side) for side in ("left", "right"))
        here = both[by_pair[begin:stop]]
        inside = (
            (spans[here, 0] < found.query_end_ms[number])
            & (spans[here, 1] > found.query_start_ms[number])
            & (rows.time_ms[here] < found.item_end_ms[number])
            & (rows.end_ms[here] > found.item_start_ms[number])
        )
        nearest[number] = here[np.argmax(inside)]
    return _Sightings(
        nearest,
        found.query_start_ms,
        found.query_end_ms,
        found.item_start_ms,
        found.item_end_ms,
        np.rint(found.median_distance).astype(np.uint16),
        found.frames,
        found.query_share,
        found.item_share,
        found.speed,
    )


def _place(pairs: NDArray[np.int64], pair: tuple[np.int64, np.int64], side: Any) -> int:
    begin, stop = (np.searchsorted(pairs[:, 0], pair[0], of) for of in ("left", "right"))
    return int(begin + np.searchsorted(pairs[begin:stop, 1], pair[1], side))


def _stretches(
    matches: Matches, rows: Shown, spans: NDArray[np.int64], others: NDArray[np.int64]
) -> _Sightings:
    """Return what a film and a picture share, or two pictures."""
    is_asked = spans[others, 0] >= 0
    start = np.where(is_asked, spans[others, 0], rows.time_ms[others])
    end = np.where(is_asked, spans[others, 1], rows.end_ms[others])
    query, item, page = matches.query_index[others], rows.item[others], rows.page[others]
    # Frames of animations have no end, exact matches no time: each is a sighting of its own.
    alone = np.where(end < 0, others, -1)
    order = np.lexsort((start, alone, page, item, query))
    others, start, end, is_asked = others[order], start[order], end[order], is_asked[order]
    is_new = np.ones(len(order), np.bool_)
    for key in (query[order], item[order], page[order], alone[order]):
        is_new[1:] &= key[1:] == key[:-1]
    # Times of one group after the other rise, so that the latest end so far is that of the group.
    base = np.cumsum(np.concatenate([[0], ~is_new[1:]])) << 33
    is_new[1:] &= (start + base)[1:] - np.maximum.accumulate(end + base)[:-1] <= STRETCH_GAP
    is_new[1:] = ~is_new[1:]
    first = np.flatnonzero(is_new)
    if not len(first):
        return _NONE
    best = np.minimum.reduceat(others, first)
    until = np.maximum.reduceat(end, first)
    asked, none = is_asked[first], np.full(len(first), -1)
    time = rows.time_ms[best]
    # A film with the same bytes is all of it.
    duration = _durations(matches)[matches.query_index[best]]
    whole = np.where(matches.is_exact[best], duration, 0)
    is_whole = whole > 0
    one = np.where(is_whole, 1.0, np.nan)
    return _Sightings(
        best,
        np.where(is_whole, 0, np.where(asked, start[first], none)),
        np.where(is_whole, whole, np.where(asked, until, none)),
        np.where(is_whole, 0, np.where(asked | (time < 0), time, start[first])),
        np.where(is_whole, whole, np.where(asked, rows.end_ms[best], until)),
        matches.distances[best],
        none,
        *(one, one, one),
    )


def _durations(matches: Matches) -> NDArray[np.int64]:
    """Return the milliseconds of each query that is a film, 0 for others."""
    known = matches.durations_ms or [None] * len(matches.queries)
    return np.array([ms or 0 for ms in known], np.int64)


_NO_TIMES: Final = np.empty(0, np.int64)
_NO_SHARES: Final = np.empty(0, np.float64)
_NONE: Final = _Sightings(
    *(_NO_TIMES, _NO_TIMES, _NO_TIMES, _NO_TIMES, _NO_TIMES),
    *(np.empty(0, np.uint16), _NO_TIMES, _NO_SHARES, _NO_SHARES, _NO_SHARES),
)


def _table(matches: Matches, found: _Sightings) -> pa.Table:
    """Describe each sighting as its match is, with its own times, and how much it is."""
    match = found.match
    counts = np.bincount(matches.query_index[match], minlength=len(matches.offsets) - 1)
    table = replace(
        matches,
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        rows=matches.rows[match],
        distances=found.distance,
        variants=None if matches.variants is None else matches.variants[match],
        query_spans=np.stack([found.query_start, found.query_end], axis=1).astype(np.int32),
    ).joined()
    hit = table["hit"].to_numpy()
    for name, column in (("time_ms", found.start), ("end_ms", found.end)):
        place = table.column_names.index(name)
        table = table.set_column(place, name, _counts(column[hit]))
    table = table.append_column("frames", _counts(found.frames[hit]))
    for name in ("query_share", "item_share", "speed"):
        column = getattr(found, name)[hit]
        table = table.append_column(name, pa.array(column, mask=np.isnan(column)))
    return table.drop_columns(["hit"])


def _counts(numbers: NDArray[np.int64]) -> pa.Array:
    return pa.array(numbers.astype(np.int32), mask=numbers < 0)
