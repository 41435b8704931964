"""Matches: the answer to a range search, in one order, and as an Arrow table."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa

from nearsearch.checks import whole
from nearsearch.confidence import expected_false

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pyarrow.compute as pc
    from numpy.typing import NDArray

    from nearsearch.spec import Spec


class Failure(NamedTuple):
    """A file that did not become codes, or not all of it.

    Attributes
    ----------
    key
        Its key.
    reason
        Why, in words.
    stage
        Where: ``walk``, ``read``, ``sniff``, ``decode``, ``hash``, ``worker``, ``damaged``,
        ``archive`` or ``quality``.
    """

    key: str
    reason: str
    stage: str

    @property
    def status(self) -> str:
        """``skipped`` for what is no picture, ``damaged`` for what was hashed in part.

        ``opened`` for archives, of which it says what was found in them; else ``failed``.
        """
        return _STATUS_OF_STAGE.get(self.stage, "failed")

    @property
    def problem(self) -> str:
        """What the index keeps of it, `of` makes it again."""
        return f"{self.stage}: {self.reason}"

    @classmethod
    def of(cls, key: str, problem: str) -> Failure:
        """Return what is known of the file `key` from the column `problem` of its member."""
        stage, _, reason = problem.partition(": ")
        return cls(key, reason, stage)


_STATUS_OF_STAGE = {
    "walk": "skipped",
    "sniff": "skipped",
    "damaged": "damaged",
    "archive": "opened",
}


class Shown(NamedTuple):
    """What rows are views of: (n,) int64 each."""

    item: NDArray[np.int64]
    """The row that stands for the item."""
    time_ms: NDArray[np.int64]
    """When a frame appears; -1 for what has no time."""
    page: NDArray[np.int64]
    """The number of a page; 0 for what is none."""
    end_ms: NDArray[np.int64]
    """When another frame of the film is shown; -1 for what is no frame of a film."""
    duration_ms: NDArray[np.int64]
    """Of the film; -1 for what is no frame of one."""


@dataclass(frozen=True, eq=False)
class Matches:
    """All rows within the radius of each query; compressed rows, as scipy's CSR holds them.

    The matches of query i are ``rows[offsets[i]:offsets[i + 1]]`` and their `distances`, ordered
    by distance, then row; where several specs were compared, by `expected_false` before these. A
    row is one (code, item, view) of the snapshot that was searched; it means nothing in another
    generation, so keep keys, not rows. `to_arrow` adds what is known of each. Rows from
    `exact_from` on stand for items as such: the query has their digest. They come before the others
    of their query, at distance 0, and no other row of that item does.

    Attributes
    ----------
    offsets : (q + 1,) int64
    rows : (m,) int64
    distances : (m,) uint16, Hamming distance in bits
    specs
        The specs that were compared.
    generation
        The commit that the answer was made on.
    queries
        A name for each query: the path of a file as given, or the code in hex.
    compared : (q, specs) int64
        Pairs of codes that were compared: those of the query times those of the index.
    held_out : (q,) int64
        Rows left out although they are near: more than 100 share their code.
    variants : (m,) int32, or None
        Which of `variant_names` of the query file matched, -1 for exact matches; None if the
        queries were no files.
    failures
        Query files that could not be hashed, or not whole, which may match by digest. The stage
        ``quality`` marks featureless pictures, which match near only with a lower `min_quality`.
    """

    offsets: NDArray[np.int64]
    rows: NDArray[np.int64]
    distances: NDArray[np.uint16]
    specs: tuple[Spec, ...]
    generation: int
    queries: Sequence[str]
    columns: Sequence[str]
    """The leading columns of `to_arrow`, in order; the callers' own follow."""
    describe: Callable[[NDArray[np.int64]], tuple[NDArray[np.int64], pa.Table]]
    """Rows to their members: pairs (position in rows, row of the table). Owned by the index."""
    shown_by: Callable[[NDArray[np.int64]], Shown]
    """Rows to what they are views of. Owned by the index."""
    spec_ends: NDArray[np.int64]
    """After the last row of each of `specs`, ascending."""
    exact_from: int
    compared: NDArray[np.int64]
    held_out: NDArray[np.int64]
    where: pc.Expression | None = None
    failures: tuple[Failure, ...] = ()
    variants: NDArray[np.int32] | None = None
    variant_names: Sequence[str] = ()
    query_spans: NDArray[np.int32] | None = None
    """Of frames of films, (m, 2): milliseconds when each appears, and when another one does; -1 for
    what is no frame of a film."""
    durations_ms: Sequence[int | None] = ()
    """Of each query that is a film."""

    def __len__(self) -> int:
        """Return the number of matches of all queries together."""
        return len(self.rows)

    @property
    def query_index(self) -> NDArray[np.int64]:
        """The query of each match, (m,) int64, ascending."""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))

    @property
    def is_exact(self) -> NDArray[np.bool_]:
        """Whether a match is one by digest, (m,)."""
        return self.rows >= self.exact_from

    @property
    def spec_index(self) -> NDArray[np.int64]:
        """Which of `specs` a match is by, (m,); past them where it is by digest."""
        return np.searchsorted(self.spec_ends, self.rows, "right")

    @property
    def expected_false(self) -> NDArray[np.float64]:
        """How many unrelated codes of the index would be as near by chance, (m,).

        The share of unrelated pairs at that distance times the pairs that were compared: 0.001
        says that one such query in a thousand has a false match as near. It is an estimate, see
        `confidence`: NaN for specs that were not measured, 0 for exact matches.
        """
        compared = self.compared[self.query_index]
        return expected_false(self.specs, self.spec_index, self.distances, compared)

    def to_arrow(self) -> pa.Table:
        """Return one table row for each member of each match, in the order of the matches.

        A picture that came in three contributions gives three rows for one match, sorted by
        contribution, then key. The columns are those of `nearsearch.Index.columns`. Under a
        filter only the members that pass it are listed.

        Reads the mapped files of the index; it may have been closed meanwhile.
        """
        return self.joined().drop_columns(["hit"])

    def segments(self, limit: int | None = None) -> pa.Table:
        """Return what the matches came to where frames of films matched: one row for each member.

        A film that was asked shares *segments* with a known film: spans of time in which one shows
        the other, at a constant speed; single frames that look alike make none (`segments`). A
        film and a picture share stretches of time. Other matches are as in `to_arrow`.

        The columns are those of `to_arrow`, of its nearest match, but for ``query_time_ms`` and
        ``query_end_ms``, ``time_ms`` and ``end_ms``, which are those of the segment in the query
        and in the known film, and ``distance``, the median. Then come ``frames``, of the query
        that match in it; ``query_share`` and ``item_share``, the part of each film, 0 to 1; and
        ``speed``, milliseconds of the known film for one of the query; null where no two films
        are concerned. A film with the same bytes has all of both. By query, exact matches first,
        then by `frames`, descending.

        Parameters
        ----------
        limit
            At most so many for each query, the first.

        Raises
        ------
        UsageError
            `limit` is below 1.
        """
        from nearsearch.sightings import sightings

        return sightings(self, None if limit is None else whole("limit", limit, 1, 1 << 62))

    def joined(self) -> pa.Table:
        """Return the table of `to_arrow`, before it with a column `hit`: the position here."""
        unique_rows, inverse = np.unique(self.rows, return_inverse=True)
        position, described = self.describe(unique_rows)
        # Members of each unique row lie together: expand matches to (match, member) pairs.
        low = np.searchsorted(position, inverse, "left")
        counts = np.searchsorted(position, inverse, "right") - low
        match = np.repeat(np.arange(len(self.rows)), counts)
        starts = np.repeat(low - (np.cumsum(counts) - counts), counts)
        table = described.take(pa.array(np.arange(len(match)) + starts))
        query = self.query_index[match]
        names = pa.array(list(self.queries), pa.string()).take(pa.array(query))
        is_exact = self.is_exact[match]
        spec = np.where(is_exact, -1, self.spec_index[match])
        none = np.full(len(match), -1, np.int32)
        variant = none if self.variants is None else self.variants[match]
        expected = self.expected_false[match]
        columns = {
            "hit": pa.array(match),
            "query": names,
            "match": _names(is_exact, ["near", "exact"]),
            "query_index": pa.array(query),
            **self._times(match),
            "distance": pa.array(self.distances[match]),
            "spec": _names(spec, [spec.name for spec in self.specs]),
            "variant": _names(variant, list(self.variant_names)),
            "expected_false": pa.array(expected, mask=np.isnan(expected)),
            "generation": pa.repeat(pa.scalar(self.generation, pa.int64()), len(match)),
        }
        columns |= {name: table[name] for name in table.column_names}
        order = dict.fromkeys(["hit", *self.columns, *columns])
        joined = pa.table({name: columns[name] for name in order})
        return joined if self.where is None else joined.filter(self.where)

    def _times(self, match: NDArray[np.int64]) -> dict[str, pa.Array]:
        """Return the columns that say when the frame of a query film is shown."""
        spans = np.full((len(match), 2), -1, np.int32)
        if self.query_spans is not None:
            spans = self.query_spans[match]
        start, end = (pa.array(of, mask=of < 0) for of in np.ascontiguousarray(spans.T))
        return {"query_time_ms": start, "query_end_ms": end}

    def by_contribution(self) -> pa.Table:
        """Return one row for each query and contribution with a match: does it belong to a series?

        Columns: `query`, `query_index`, `contribution`, `match` (of the nearest), `distance` (of
        the nearest), `items` (distinct contents that match), `members` (their appearances in this
        contribution), `key`, `spec` and `expected_false` (of the nearest), `generation`. Ordered
        by query, `expected_false`, distance, contribution.
        """
        hits = self.to_arrow()
        for name in ("contribution", "match", "spec"):
            column = hits[name].cast(pa.string())
            hits = hits.set_column(hits.column_names.index(name), name, column)
        by = ["query_index", "query", "contribution"]
        of_nearest = ("distance", "key", "match", "spec", "expected_false")
        order = {"use_threads": False}  # hits come nearest first, and so does the first of a group
        items = hits.group_by([*by, "item_id"], **order).aggregate(
            [("key", "count"), *((name, "first") for name in of_nearest)]
        )
        groups = items.group_by(by, **order).aggregate(
            [
                ("key_count", "sum"),
                ("key_count", "count"),
                *((f"{name}_first", "first") for name in of_nearest),
            ]
        )
        table = pa.table(
            {
                "query": groups["query"],
                "query_index": groups["query_index"],
                "contribution": groups["contribution"],
                "match": groups["match_first_first"],
                "distance": groups["distance_first_first"],
                "items": groups["key_count_count"],
                "members": groups["key_count_sum"],
                "key": groups["key_first_first"],
                "spec": groups["spec_first_first"],
                "expected_false": groups["expected_false_first_first"],
                "generation": pa.repeat(pa.scalar(self.generation, pa.int64()), len(groups)),
            }
        )
        keys = ("query_index", "expected_false", "distance", "contribution")
        return table.sort_by([(name, "ascending") for name in keys])

    def narrowed(self, where: pc.Expression | None, limit: int | None) -> Matches:
        """Return these matches with those only that pass `where`, at most `limit` a query."""
        if where is None and limit is None:
            return self
        kept = np.ones(len(self.rows), np.bool_)
        narrowed = replace(self, where=where)
        if where is not None:
            kept[:] = False
            kept[narrowed.joined()["hit"].to_numpy()] = True
        if limit is not None:
            rank = np.cumsum(kept)
            before = np.concatenate([[0], rank])[self.offsets[:-1]]
            kept &= rank - before[self.query_index] <= limit
        if kept.all():
            return narrowed
        counts = np.concatenate([[0], np.cumsum(kept)])
        return replace(
            narrowed,
            offsets=counts[self.offsets],
            rows=self.rows[kept],
            distances=self.distances[kept],
            variants=None if self.variants is None else self.variants[kept],
            query_spans=None if self.query_spans is None else self.query_spans[kept],
        )


def _names(numbers: NDArray[Any], names: list[str]) -> pa.DictionaryArray:
    """Return a column of names by their numbers; null for -1."""
    indices = pa.array(numbers.astype(np.int32), mask=numbers < 0)
    return pa.DictionaryArray.from_arrays(indices, pa.array(names, pa.string()))


def canonical(
    queries: NDArray[np.int64],
    rows: NDArray[np.int64],
    distances: NDArray[np.uint16],
    n_queries: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint16]]:
    """Return offsets, rows and distances of matches in any order, sorted as `Matches` says."""
    if n_queries == 1:
        if len(rows) < 2:
            return np.array([0, len(rows)]), rows, distances
        order = np.lexsort((rows, distances))
        return np.array([0, len(rows)]), rows[order], distances[order]
    order = np.lexsort((rows, distances, queries))
    counts = np.bincount(queries, minlength=n_queries)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return offsets, rows[order], distances[order]


def first_of_each(*keys: NDArray[Any]) -> NDArray[np.int64]:
    """Return the first position of each different combination of keys, ascending."""
    order = np.lexsort(keys[::-1])  # stable: the first of equal ones comes first
    is_new = np.zeros(len(order), np.bool_)
    is_new[:1] = True
    for key in keys:
        is_new[1:] |= key[order][1:] != key[order][:-1]
    return np.sort(order[is_new])
