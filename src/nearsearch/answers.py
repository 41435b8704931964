"""Answers: a snapshot asked with codes, hashed files or digests, as `Matches`.

Arguments were checked by `Index`. Filters come checked too, as expressions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from nearsearch.codes import to_hex
from nearsearch.confidence import expected_false
from nearsearch.matches import Failure, Matches, canonical, first_of_each
from nearsearch.search import range_search
from nearsearch.store.schema import HIT_COLUMNS

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow.compute as pc
    from numpy.typing import NDArray

    from nearsearch.hashes import Hashes
    from nearsearch.spec import Spec
    from nearsearch.store.snapshot import Snapshot

_NOTHING: Final = np.empty(0, np.int64), np.empty(0, np.uint16)
_MOST_SHARED: Final = 100
"""Rows of one code that match near. Of 18,000 real pictures at most 26 share a code beyond the
quality gate, among them unrelated grills and stripes; what more share is taken for such."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked of a spec: how near matches must be, and of what quality the pictures."""

    spec: Spec
    radius: int
    min_quality: int


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which of the matches are wanted: members that pass, so many of each query, common codes."""

    where: pc.Expression | None = None
    limit: int | None = None
    with_common: bool = False


def by_codes(snapshot: Snapshot, codes: NDArray[np.uint8], asked: Asked, wanted: Wanted) -> Matches:
    """Return what lies within the radius of each code; see `Index.search`."""
    near = _near(snapshot, codes, np.arange(len(codes)), len(codes), asked, wanted)
    offsets, rows, distances = canonical(near.queries, near.rows, near.distances, len(codes))
    specs, compared = (asked.spec,), near.compared[:, None]
    matches = _matches(
        snapshot, specs, to_hex(codes), offsets, rows, distances, compared, near.held_out
    )
    return matches.narrowed(wanted.where, wanted.limit)


def by_digests(snapshot: Snapshot, digests: Sequence[bytes], wanted: Wanted) -> Matches:
    """Return the items that have each digest; see `Index.lookup`."""
    queries, rows = snapshot.find_digests(digests)
    found = canonical(queries, rows, np.zeros(len(rows), np.uint16), len(digests))
    matches = _matches(snapshot, (), [digest.hex() for digest in digests], *found)
    return matches.narrowed(wanted.where, wanted.limit)


def by_hashes(
    snapshot: Snapshot,
    hashes: Sequence[Hashes],
    asked: Sequence[Asked],
    wanted: Wanted,
    *,
    is_gathered: bool,
) -> Matches:
    """Return what has a digest of each file, then what lies within the radius of any view of it.

    Parameters
    ----------
    hashes, asked
        Of the same files, under specs in the order of the index.
    is_gathered
        One match for each item, time and page, and each frame of a film that asks: the most certain
        one. Else one for each row.
    """
    keys, specs = hashes[0].keys, tuple(one.spec for one in asked)
    found, parts = [], []
    names: dict[str, int] = {}
    for number, (one, of) in enumerate(zip(hashes, asked, strict=True)):
        usable = np.flatnonzero(one.qualities >= of.min_quality)
        codes = np.ascontiguousarray(one.codes[usable])
        near = _near(snapshot, codes, one.file_index[usable], len(keys), of, wanted)
        named = np.array([names.setdefault(name, len(names)) for name in one.views], np.int32)
        views = usable[near.views]
        spans = np.full((len(views), 2), -1) if one.spans is None else one.spans[views]
        variant = named[views] if len(named) else np.full(len(views), -1, np.int32)
        number_of = np.full(len(views), number)
        parts.append((near.queries, near.rows, near.distances, variant, views, number_of, spans))
        found.append(near)
    compared = np.stack([near.compared for near in found], axis=1)
    columns = zip(*parts, strict=True)
    queries, rows, distances, variant, views, number_of, spans = map(np.concatenate, columns)
    # The most certain first, of equal ones the first view of the query.
    by = [views, rows, distances]
    if len(specs) > 1:
        by.append(expected_false(specs, number_of, distances, compared[queries]))
    order = np.lexsort((*by, queries))
    owner, exact = _exact(snapshot, hashes[0])
    if is_gathered or len(exact):
        shown = snapshot.shown_by(rows[order])
        as_shown = [shown.item, shown.time_ms, shown.page, spans[order, 0]]
        shown_as = as_shown if is_gathered else [rows[order]]
        first = first_of_each(queries[order], *shown_as)
        is_near = ~_are_among(queries[order[first]], shown.item[first], owner, exact)
        order = order[first[is_near]]
    else:
        order = order[first_of_each(queries[order], rows[order])]
    # Exact ones come first: the sort is stable.
    queries = np.concatenate([owner, queries[order]])
    rows = np.concatenate([exact, rows[order]])
    distances = np.concatenate([np.zeros(len(exact), np.uint16), distances[order]])
    variant = np.concatenate([np.full(len(exact), -1, np.int32), variant[order]])
    spans = np.concatenate([np.full((len(exact), 2), -1, np.int32), spans[order]]).astype(np.int32)
    order = np.argsort(queries, kind="stable")
    counts = np.bincount(queries, minlength=len(keys))
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    matches = replace(
        _matches(snapshot, specs, keys, offsets, rows[order], distances[order]),
        failures=(*hashes[0].failures, *_featureless(hashes, asked)),
        compared=compared,
        held_out=np.sum([near.held_out for near in found], axis=0),
        variants=variant[order],
        variant_names=list(names),
        query_spans=spans[order],
        durations_ms=tuple(hashes[0].durations_ms),
    )
    return matches.narrowed(wanted.where, wanted.limit)


class _Near(NamedTuple):
    """What is near the codes of some queries, in any order, and what was compared."""

    views: NDArray[np.int64]  # positions among the codes
    queries: NDArray[np.int64]
    rows: NDArray[np.int64]
    distances: NDArray[np.uint16]
    compared: NDArray[np.int64]  # of each query
    held_out: NDArray[np.int64]


def _near(
    snapshot: Snapshot,
    codes: NDArray[np.uint8],
    owners: NDArray[np.int64],
    n_queries: int,
    asked: Asked,
    wanted: Wanted,
) -> _Near:
    """Find what lies within the radius of codes, of which `owners` says whose they are."""
    name = asked.spec.name
    views, rows, distances = range_search(snapshot, name, codes, asked.radius, asked.min_quality)
    compared = np.bincount(owners, minlength=n_queries) * snapshot.n_codes(name)
    held_out = np.zeros(n_queries, np.int64)
    if not wanted.with_common and len(rows) > _MOST_SHARED:
        is_common = _is_common(views, snapshot.codes_of(name, rows))
        queries = owners[views[is_common]]
        once = first_of_each(queries, rows[is_common])
        held_out = np.bincount(queries[once], minlength=n_queries)
        views, rows, distances = views[~is_common], rows[~is_common], distances[~is_common]
    return _Near(views, owners[views], rows, distances, compared, held_out)


def _is_common(views: NDArray[np.int64], codes: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Tell which of the rows that were found are of a code that very many of them share."""
    words = codes if codes.shape[1] % 8 else codes.view(np.uint64)
    keys = (*words.T, views)
    order = np.lexsort(keys)  # a tenth of what np.unique(axis=0) takes
    is_first = np.ones(len(order), np.bool_)
    is_first[1:] = False
    for key in keys:
        is_first[1:] |= key[order[1:]] != key[order[:-1]]
    group = np.cumsum(is_first) - 1
    is_common = np.empty(len(order), np.bool_)
    is_common[order] = np.bincount(group)[group] > _MOST_SHARED
    return is_common


def _exact(snapshot: Snapshot, hashes: Hashes) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return which files have a digest of which items, as rows that stand for these; sorted."""
    of_digest = [(i, d) for i, digests in enumerate(hashes.digests) for d in digests]
    position, exact = snapshot.find_digests([digest for _, digest in of_digest])
    # A file has up to three digests, which find the same item.
    owner = np.array([i for i, _ in of_digest], np.int64)[position]
    owner, exact = np.unique(np.stack([owner, exact]), axis=1)
    return owner, exact


def _are_among(
    queries: NDArray[np.int64],
    items: NDArray[np.int64],
    owners: NDArray[np.int64],
    exact: NDArray[np.int64],
) -> NDArray[np.bool_]:
    """Tell which pairs (query, item) are among the pairs (owner, exact)."""
    width = int(max(items.max(initial=0), exact.max(initial=0))) + 1
    return np.isin(queries * width + items, owners * width + exact)


def _featureless(hashes: Sequence[Hashes], asked: Sequence[Asked]) -> list[Failure]:
    """Name the files of which no view is good enough to ask with, under any spec."""
    best = np.full(len(hashes[0].keys), -1)
    is_asked = np.zeros(len(best), np.bool_)
    for one, of in zip(hashes, asked, strict=True):
        np.maximum.at(best, one.file_index, one.qualities)
        is_asked[one.file_index[one.qualities >= of.min_quality]] = True
    least = min(of.min_quality for of in asked)
    return [
        Failure(
            hashes[0].keys[int(i)], f"featureless: quality {best[i]} is below {least}", "quality"
        )
        for i in np.flatnonzero((best >= 0) & ~is_asked)
    ]


def nearest(
    snapshot: Snapshot,
    codes: NDArray[np.uint8],
    asked: Asked,
    k: int,
    wanted: Wanted,
) -> Matches:
    """Return the `k` nearest rows of each code, within the radius; see `Index.nearest`."""
    spec, end = asked.spec, asked.radius
    wanted = replace(wanted, limit=k)
    found: list[tuple[NDArray[np.int64], NDArray[np.uint16]]] = [_NOTHING] * len(codes)
    waiting, radius = np.arange(len(codes)), min(end, spec.bits // 16)
    while len(waiting):
        # Wide radii return a good part of the index: one query at a time bounds the memory.
        step = len(waiting) if 4 * radius <= spec.bits else 1
        for start in range(0, len(waiting), step):
            part = waiting[start : start + step]
            matches = by_codes(snapshot, codes[part], replace(asked, radius=radius), wanted)
            for i, query in enumerate(part):
                here = slice(matches.offsets[i], matches.offsets[i + 1])
                found[query] = matches.rows[here], matches.distances[here]
        counts = np.array([len(found[query][0]) for query in waiting])
        waiting = waiting[counts < k] if radius < end else waiting[:0]
        radius = min(end, radius + radius // 2 + 1)
    lengths = [len(rows) for rows, _ in found]
    matches = _matches(
        snapshot,
        (spec,),
        to_hex(codes),
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        np.concatenate([_NOTHING[0], *(rows for rows, _ in found)]),
        np.concatenate([_NOTHING[1], *(distances for _, distances in found)]),
    )
    compared = np.full((len(codes), 1), snapshot.n_codes(spec.name))
    return replace(matches, where=wanted.where, compared=compared)


def _matches(
    snapshot: Snapshot,
    specs: tuple[Spec, ...],
    names: Sequence[str],
    offsets: NDArray[np.int64],
    rows: NDArray[np.int64],
    distances: NDArray[np.uint16],
    compared: NDArray[np.int64] | None = None,
    held_out: NDArray[np.int64] | None = None,
) -> Matches:
    return Matches(
        offsets,
        rows,
        distances,
        specs,
        snapshot.manifest.generation,
        names,
        HIT_COLUMNS,
        snapshot.describe,  # which outlives the closing of the index
        snapshot.shown_by,
        np.array([snapshot.first_rows(spec.name)[-1] for spec in specs], np.int64),
        snapshot.n_rows(),
        np.zeros((len(names), len(specs)), np.int64) if compared is None else compared,
        np.zeros(len(names), np.int64) if held_out is None else held_out,
    )
