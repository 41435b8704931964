"""Answers: a snapshot asked with codes, hashed files or digests, as `Matches`.

Arguments were checked by `Index`. Filters come checked too, as expressions.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np

from nearsearch.codes import to_hex
from nearsearch.matches import Failure, Matches, canonical, nearest_views
from nearsearch.search import range_search
from nearsearch.store.schema import HIT_COLUMNS

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa
    import pyarrow.compute as pc
    from numpy.typing import NDArray

    from nearsearch.hashes import Hashes
    from nearsearch.spec import Spec
    from nearsearch.store.snapshot import Snapshot

_NOTHING: Final = np.empty(0, np.int64), np.empty(0, np.uint16)


def by_codes(
    snapshot: Snapshot,
    codes: NDArray[np.uint8],
    spec: Spec,
    radius: int,
    min_quality: int,
    where: pc.Expression | None,
    limit: int | None,
) -> Matches:
    """Return what lies within the radius of each code; see `Index.search`."""
    queries, rows, distances = range_search(snapshot, spec.name, codes, radius, min_quality)
    found = canonical(queries, rows, distances, len(codes))
    return _matches(snapshot, *found, spec, to_hex(codes)).narrowed(where, limit)


def by_digests(
    snapshot: Snapshot,
    digests: Sequence[bytes],
    spec: Spec,
    where: pc.Expression | None,
    limit: int | None,
) -> Matches:
    """Return the items that have each digest; see `Index.lookup`."""
    queries, rows = snapshot.find_digests(spec.name, digests)
    found = canonical(queries, rows, np.zeros(len(rows), np.uint16), len(digests))
    names = [digest.hex() for digest in digests]
    return _matches(snapshot, *found, spec, names).narrowed(where, limit)


def by_hashes(
    snapshot: Snapshot,
    hashes: Hashes,
    radius: int,
    min_quality: int,
    where: pc.Expression | None,
    limit: int | None,
) -> Matches:
    """Return what has a digest of each file, then what lies within the radius of any view of it."""
    spec = hashes.spec
    usable = np.flatnonzero(hashes.qualities >= min_quality)
    asked = np.ascontiguousarray(hashes.codes[usable])
    views, rows, distances = range_search(snapshot, spec.name, asked, radius, min_quality)
    views = usable[views]
    if len(usable) > len(np.unique(hashes.file_index[usable])):
        nearest_ = nearest_views(hashes.file_index[views], rows, distances, views)
        views, rows, distances = views[nearest_], rows[nearest_], distances[nearest_]
    queries = hashes.file_index[views]
    names = list(dict.fromkeys(hashes.views))
    number_of = {name: number for number, name in enumerate(names)}
    variant_of = np.array([number_of[name] for name in hashes.views], np.int32)
    variants = variant_of[views] if names else np.full(len(views), -1, np.int32)
    of_digest = [(i, d) for i, digests in enumerate(hashes.digests) for d in digests]
    position, exact = snapshot.find_digests(spec.name, [digest for _, digest in of_digest])
    # A file has up to three digests, which find the same item.
    owner = np.array([i for i, _ in of_digest], np.int64)[position]
    owner, exact = np.unique(np.stack([owner, exact]), axis=1)
    if len(exact):
        item = snapshot.items_of(spec.name, rows)
        is_near = ~_are_among(queries, item, owner, exact)
        queries, rows, distances = queries[is_near], rows[is_near], distances[is_near]
        variants = variants[is_near]
    queries, rows = np.concatenate([owner, queries]), np.concatenate([exact, rows])
    distances = np.concatenate([np.zeros(len(exact), np.uint16), distances])
    variants = np.concatenate([np.full(len(exact), -1, np.int32), variants])
    # Digests first: such rows have the highest numbers.
    order = np.lexsort((rows, distances, rows < snapshot.n_rows(spec.name), queries))
    counts = np.bincount(queries, minlength=len(hashes.keys))
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    failures = (*hashes.failures, *_featureless(hashes, min_quality))
    matches = _matches(
        snapshot, offsets, rows[order], distances[order], spec, hashes.keys, failures
    )
    matches = replace(matches, variants=variants[order], variant_names=names)
    return matches.narrowed(where, limit)


def _are_among(
    queries: NDArray[np.int64],
    items: NDArray[np.int64],
    owners: NDArray[np.int64],
    exact: NDArray[np.int64],
) -> NDArray[np.bool_]:
    """Tell which pairs (query, item) are among the pairs (owner, exact)."""
    width = int(max(items.max(initial=0), exact.max(initial=0))) + 1
    return np.isin(queries * width + items, owners * width + exact)


def _featureless(hashes: Hashes, min_quality: int) -> list[Failure]:
    """Name the files of which no view is good enough to ask with."""
    best = np.full(len(hashes.keys), -1)
    np.maximum.at(best, hashes.file_index, hashes.qualities)
    return [
        Failure(
            hashes.keys[int(i)],
            f"featureless: quality {best[i]} is below {min_quality}",
            "quality",
        )
        for i in np.flatnonzero((best >= 0) & (best < min_quality))
    ]


def nearest(
    snapshot: Snapshot,
    codes: NDArray[np.uint8],
    spec: Spec,
    k: int,
    end: int,
    min_quality: int,
    where: pc.Expression | None,
) -> Matches:
    """Return the `k` nearest rows of each code, within `end` bits; see `Index.nearest`."""
    found: list[tuple[NDArray[np.int64], NDArray[np.uint16]]] = [_NOTHING] * len(codes)
    waiting, radius = np.arange(len(codes)), min(end, spec.bits // 16)
    while len(waiting):
        # Wide radii return a good part of the index: one query at a time bounds the memory.
        step = len(waiting) if 4 * radius <= spec.bits else 1
        for start in range(0, len(waiting), step):
            part = waiting[start : start + step]
            matches = by_codes(snapshot, codes[part], spec, radius, min_quality, where, k)
            for i, query in enumerate(part):
                here = slice(matches.offsets[i], matches.offsets[i + 1])
                found[query] = matches.rows[here], matches.distances[here]
        counts = np.array([len(found[query][0]) for query in waiting])
        waiting = waiting[counts < k] if radius < end else waiting[:0]
        radius = min(end, radius + radius // 2 + 1)
    lengths = [len(rows) for rows, _ in found]
    return replace(
        _matches(
            snapshot,
            np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            np.concatenate([_NOTHING[0], *(rows for rows, _ in found)]),
            np.concatenate([_NOTHING[1], *(distances for _, distances in found)]),
            spec,
            to_hex(codes),
        ),
        where=where,
    )


def _matches(
    snapshot: Snapshot,
    offsets: NDArray[np.int64],
    rows: NDArray[np.int64],
    distances: NDArray[np.uint16],
    spec: Spec,
    names: Sequence[str],
    failures: tuple[Failure, ...] = (),
) -> Matches:
    def describe(rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], pa.Table]:
        return snapshot.describe(spec.name, rows)  # which outlives the closing of the index

    return Matches(
        offsets,
        rows,
        distances,
        spec,
        snapshot.manifest.generation,
        names,
        HIT_COLUMNS,
        describe,
        None,
        failures,
        snapshot.n_rows(spec.name),
    )
