"""False matches: how near unrelated pictures come under a system, and which distance that allows.

A pair is one picture asked and another one known, whatever the number of their views: the distance
of a pair is the least over these. Rates are counted as far down as the pairs reach; below that they
are read off a line through the logarithms of what was counted, and so are estimates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import faiss
import numpy as np
from quality_systems import distances

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from quality_systems import Codes, System

RATES: Final = (1e-6, 1e-9)
_LEAST_COUNTED: Final = 10  # pairs within a distance from which on its rate is part of the line
_HIGHEST_RATE: Final = 1e-3  # beyond, the line would follow the bulk and not the tail
_CHUNK: Final = 256


class Owned(NamedTuple):
    """Codes of many pictures: row i is of picture ``owners[i]``."""

    codes: Codes
    owners: NDArray[np.int64]


class Curve(NamedTuple):
    """How many of the pairs lie within each distance, and the line through the tail."""

    n_pairs: int
    distances: NDArray[np.int64]
    counts: NDArray[np.int64]
    slope: float
    start: float

    def threshold(self, rate: float) -> tuple[int, bool]:
        """Return the largest distance within that rate, -1 if none, and whether it was counted."""
        within = self.counts / self.n_pairs <= rate
        counted = int(self.distances[within].max(initial=-1))
        if rate * self.n_pairs >= 1:
            return counted, True
        if not np.isfinite(self.slope):  # too few distances were met to tell
            return -1, False
        fitted = int(np.floor((np.log10(rate) - self.start) / self.slope))
        least = int(self.distances[0])
        return max(-1, min(fitted, least - 1)), False


def joined(parts: Sequence[Codes]) -> Owned:
    """Return the codes of pictures as one array."""
    owners = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    filled = [part for part in parts if len(part)]
    return Owned(np.ascontiguousarray(np.concatenate(filled)), owners)


def nearest_pairs(
    system: System, asked: Owned, known: Owned, n_known: int, reach: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return the pairs of pictures within `reach`, as (asked, known, distance)."""
    found: list[tuple[NDArray[np.int64], ...]] = []
    index = None
    if system.apart == "bits":
        index = faiss.IndexBinaryFlat(8 * known.codes.shape[1])
        index.add(known.codes)
    for begin in range(0, len(asked.codes), _CHUNK):
        part = asked.codes[begin : begin + _CHUNK]
        if index:
            limits, far, row = index.range_search(part, reach + 1)
            lengths = np.diff(limits.astype(np.int64))
            query, far = np.repeat(np.arange(len(part)), lengths), far.astype(np.int64)
        else:
            apart = distances(part, known.codes, system.apart)
            query, row = np.nonzero(apart <= reach)
            far = apart[query, row]
        pair = asked.owners[begin + query] * n_known + known.owners[row]
        found.append((pair, far))
    pair, far = (np.concatenate(column) for column in zip(*found, strict=True))
    order = np.lexsort((far, pair))
    pair, far = pair[order], far[order]
    first = np.concatenate([[True], pair[1:] != pair[:-1]]) if len(pair) else np.zeros(0, np.bool_)
    return pair[first] // n_known, pair[first] % n_known, far[first]


def curve(far: NDArray[np.int64], n_pairs: int) -> Curve:
    """Return the curve of the least distances of pairs, of which only the nearest are given."""
    steps, counts = np.unique(far, return_counts=True)
    counts = np.cumsum(counts)
    is_tail = (counts >= _LEAST_COUNTED) & (counts / n_pairs <= _HIGHEST_RATE)
    if is_tail.sum() < 3:
        return Curve(n_pairs, steps, counts, np.inf, -np.inf)
    slope, start = np.polyfit(steps[is_tail], np.log10(counts[is_tail] / n_pairs), 1)
    return Curve(n_pairs, steps, counts, float(slope), float(start))
