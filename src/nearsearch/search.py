"""Exact range search over a snapshot: every shard, every row within the radius."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from nearsearch.store.shard import contains, expand_ranges

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nearsearch.store.shard import CodeRows, Shard
    from nearsearch.store.snapshot import Snapshot

    Hits = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint16]]

# FAISS gives control back only between calls: at about 1e9 comparisons a second and core, this
# many keep a call under a second, so Ctrl-C works, and bound what one call can return.
_COMPARISONS_A_CALL: Final = 1 << 30


def range_search(
    snapshot: Snapshot, spec: str, codes: NDArray[np.uint8], radius: int, min_quality: int
) -> Hits:
    """Return every live row of `spec` within `radius` bits of each query.

    Parameters
    ----------
    codes
        Queries, (q, bytes) uint8, C-contiguous.
    radius
        Inclusive, 0..bits.
    min_quality
        Rows of a known quality below this are left out.

    Returns
    -------
    queries, rows, distances
        (m,) each, in no particular order; rows count through the snapshot.
    """
    first_rows = snapshot.first_rows(spec)
    found = [_no_hits()]
    for shard, first_row in zip(snapshot.shards, first_rows, strict=False):
        rows = shard.codes.get(spec)
        if rows is None or len(rows.codes) == 0:
            continue
        step = max(1, _COMPARISONS_A_CALL // len(rows.codes))
        for start in range(0, len(codes), step):
            query, code, distance = _scan(rows, codes[start : start + step], radius)
            hit, row = _rows_of(rows, code)
            kept = _allowed(shard, rows, row, min_quality)
            hit, row = hit[kept], row[kept]
            found.append((query[hit] + start, row + first_row, distance[hit]))
    queries, all_rows, distances = zip(*found, strict=True)
    return np.concatenate(queries), np.concatenate(all_rows), np.concatenate(distances)


def _scan(rows: CodeRows, codes: NDArray[np.uint8], radius: int) -> Hits:
    """Compare every query with every code of a shard, by FAISS."""
    import faiss

    index = rows.faiss_index
    threads = faiss.omp_get_max_threads()
    if len(codes) == 1:
        # FAISS shares queries among its threads: for one query the others only cost, 1.3 ms become
        # 9 to 24 when the cores are busy. The setting is this thread's own.
        faiss.omp_set_num_threads(1)
    try:
        # FAISS's radius is exclusive; this is the one place that knows.
        limits, distances, numbers = index.range_search(codes, radius + 1)
    finally:
        faiss.omp_set_num_threads(threads)
    queries = np.repeat(np.arange(len(codes)), np.diff(limits.astype(np.int64)))
    return queries, numbers, distances.astype(np.uint16)


def _rows_of(
    rows: CodeRows, numbers: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Turn code numbers into rows, as pairs (position in `numbers`, row)."""
    if len(rows.table) == len(rows.codes):  # every code has a row, so each has just one
        return np.arange(len(numbers)), numbers
    wanted = numbers.astype(np.uint32)
    low = np.searchsorted(rows.code, wanted, "left")
    return expand_ranges(low, np.searchsorted(rows.code, wanted, "right"))


def _allowed(
    shard: Shard, rows: CodeRows, row: NDArray[np.int64], min_quality: int
) -> NDArray[np.bool_]:
    quality = rows.quality[row]
    allowed = (quality >= min_quality) | (quality < 0)
    if len(shard.dead_items):
        allowed &= ~contains(shard.dead_items, rows.item[row])
    return allowed


def _no_hits() -> Hits:
    return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.uint16)
