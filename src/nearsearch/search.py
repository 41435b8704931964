"""Exact range search over a snapshot: each shard by its ring or by a scan, whichever is cheaper."""

from __future__ import annotations

import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np

from nearsearch.plan import scan_cost
from nearsearch.store.shard import expand_ranges
from nearsearch.store.tombstones import contains

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from nearsearch.store.ring import Ring
    from nearsearch.store.shard import CodeRows, Shard
    from nearsearch.store.snapshot import Snapshot

    Hits = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint16]]

# FAISS gives control back only between calls: at about 1e9 comparisons a second and core, this
# many keep a call under a second, so Ctrl-C works, and bound what one call can return.
_COMPARISONS_A_CALL: Final = 1 << 30
_QUERIES_A_CALL: Final = 64  # of the ring: 6 ms at 10 million codes and radius 31
_FEWEST_A_CALL: Final = 16  # that a thread is worth: 4 ms at 3 million codes and radius 40
_WORTH_THREADS: Final = 4e6  # ns of a scan; waiting for a thread takes that on busy cores
_MOST_SCANNED: Final = 1 << 29  # bytes of codes: a cold disk gives them in a second or two
_LOADING: Final = 0.7e9  # ns in which a process loads the ring's kernels and Numba, once
_TO_SCAN: Final = 2  # state of a query that the ring leaves to the scan
_NO_QUERIES: Final = np.empty(0, np.int64)
_of_thread = threading.local()
_scanned = 0.0  # ns that scans took in place of rings


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
    found = []
    for shard, first_row in zip(snapshot.shards, first_rows, strict=False):
        rows = shard.codes.get(spec)
        if rows is None or len(rows.codes) == 0:
            continue
        for query, row, distance in _search_codes(rows, codes, radius):
            if len(rows.table) != len(rows.codes):  # else each code has just one row, its own
                hit, row = _rows_of(rows, row)
                query, distance = query[hit], distance[hit]
            kept = _allowed(shard, rows, row, min_quality)
            if not kept.all():
                query, row, distance = query[kept], row[kept], distance[kept]
            found.append((query, row + first_row, distance))
    return _joined(found)


def _search_codes(rows: CodeRows, codes: NDArray[np.uint8], radius: int) -> Iterator[Hits]:
    """Find the code numbers of a shard within the radius, by ring or by scan, query by query."""
    has_ring = rows.ring is not None and _is_ring_worth_loading(rows, len(codes))
    left = [_NO_QUERIES] if has_ring else [np.arange(len(codes))]
    if has_ring:
        share = -(-len(codes) // _cores()) if len(codes) > _FEWEST_A_CALL else 0
        step = min(_QUERIES_A_CALL, max(_FEWEST_A_CALL, share))
        starts = range(0, len(codes), step)
        parts = [codes[start : start + step] for start in starts]
        answers = _in_threads(lambda part: _probe(rows, part, radius), parts)
        for start, (hits, unanswered) in zip(starts, answers, strict=True):
            yield (hits[0] + start, hits[1], hits[2]) if start else hits
            if len(unanswered):
                left.append(unanswered + start)
    rest = np.concatenate(left)
    step = max(1, _COMPARISONS_A_CALL // len(rows.codes))
    for start in range(0, len(rest), step):
        part = rest[start : start + step]
        query, number, distance = _scan(rows, codes[part], radius)
        yield part[query], number, distance


def warm_up() -> None:
    """Load what searches need, now instead of in one of them."""
    import faiss  # noqa: F401

    import nearsearch.kernels.chains
    import nearsearch.kernels.ring  # noqa: F401


def _is_ring_worth_loading(rows: CodeRows, n_queries: int) -> bool:
    """Tell whether all scans of this process have taken as long as loading the ring's kernels.

    One question of the command line is answered by a scan of 10 million codes in 20 ms; who asks
    many loses once about what loading takes. Not of large shards: a scan reads all of their codes,
    which are not in the page cache when a disk was just connected.
    """
    global _scanned
    if "nearsearch.kernels.ring" in sys.modules or rows.codes.nbytes > _MOST_SCANNED:
        return True
    _scanned += n_queries * scan_cost(*rows.codes.shape)
    return _scanned > _LOADING


def _in_threads(task: Callable[[Any], Any], parts: Sequence[Any]) -> Iterator[Any]:
    """Run the task on each part, on all cores if there are several, and yield results in order."""
    if len(parts) < 2:
        yield from map(task, parts)
        return
    with ThreadPoolExecutor(_cores()) as pool:
        try:
            yield from pool.map(task, parts)
        except BaseException:
            pool.shutdown(cancel_futures=True)  # Ctrl-C waits for the calls in work only
            raise


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _probe(rows: CodeRows, codes: NDArray[np.uint8], radius: int) -> tuple[Hits, NDArray[np.int64]]:
    """Answer queries by the ring; return the hits, and the queries that are cheaper to scan."""
    from nearsearch.kernels.ring import search

    ring = cast("Ring", rows.ring)
    state = np.zeros(len(codes), np.uint8)
    room = max(4096, 64 * len(codes))
    query, number = np.empty(room, np.int64), np.empty(room, np.int64)
    distance = np.empty(room, np.uint16)
    found: list[Hits] = []
    first = 0
    while first < len(codes):
        count = search(
            codes,
            ring.table,
            ring.layout,
            ring.offsets,
            ring.postings,
            rows.words,
            radius,
            ring.parity,
            ring.costs,
            first,
            _scratch(),
            query,
            number,
            distance,
            state,
        )
        first = len(codes) if state[-1] else first + int(np.argmin(state[first:]))
        if first < len(codes):  # the output is full, and will be used again
            found.append((query[:count].copy(), number[:count].copy(), distance[:count].copy()))
        else:
            found.append((query[:count], number[:count], distance[:count]))
    has_rest = _TO_SCAN in state.tobytes()  # 0.1 us; the comparison takes 1.4
    return _joined(found), np.flatnonzero(state == _TO_SCAN) if has_rest else _NO_QUERIES


def _scratch() -> NDArray[np.int64]:
    """Return the scratch memory of this thread's probes."""
    if not hasattr(_of_thread, "scratch"):
        from nearsearch.kernels.ring import SCRATCH

        _of_thread.scratch = np.zeros((3, SCRATCH), np.int64)
    return cast("NDArray[np.int64]", _of_thread.scratch)


def _scan(rows: CodeRows, codes: NDArray[np.uint8], radius: int) -> Hits:
    """Compare every query with every code of a shard, by FAISS."""
    import faiss

    index = rows.faiss_index
    threads = faiss.omp_get_max_threads()
    if len(codes) == 1 or len(codes) * scan_cost(*rows.codes.shape) < _WORTH_THREADS:
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
    wanted = numbers.astype(np.uint32)
    low = np.searchsorted(rows.code, wanted, "left")
    return expand_ranges(low, np.searchsorted(rows.code, wanted, "right"))


def _allowed(
    shard: Shard, rows: CodeRows, row: NDArray[np.int64], min_quality: int
) -> NDArray[np.bool_]:
    quality = rows.quality[row]
    allowed = (quality >= min_quality) | (quality < 0)
    hidden = shard.tombstones.hidden_items
    if len(hidden):
        allowed &= ~contains(hidden, rows.item[row])
    return allowed


def _joined(found: list[Hits]) -> Hits:
    if len(found) == 1:
        return found[0]
    if not found:
        return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.uint16)
    queries, rows, distances = zip(*found, strict=True)
    return np.concatenate(queries), np.concatenate(rows), np.concatenate(distances)
