"""Members: how they are told apart, by contribution and key, and when two say the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nearsearch.errors import DuplicateKeyError
from nearsearch.kernels.keys import hash_strings
from nearsearch.matches import Failure
from nearsearch.store import schema
from nearsearch.store.tombstones import without

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from nearsearch.store.manifest import Disabled
    from nearsearch.store.shard import Shard


class KnownFiles(NamedTuple):
    """What is known of files that were looked up: (n,) arrays; the last two where `is_known`."""

    is_known: NDArray[np.bool_]
    item_ids: NDArray[np.bytes_]
    problems: NDArray[np.object_]  # text or None


def hash_keys(members: pa.Table) -> NDArray[np.uint64]:
    """Return the 64-bit hash of each member's contribution and key."""
    number, names = schema.names_in(members["contribution"])
    seeds = _hash(pa.array(names, pa.large_string()), np.zeros(len(names), np.uint64))
    return _hash(schema.one_array(members["key"]), seeds[number])


def named(members: pa.Table, column: str, wanted: frozenset[str]) -> NDArray[np.bool_]:
    """Tell which members have one of the wanted names in a dictionary column."""
    number, names = schema.names_in(members[column])
    return np.array([name in wanted for name in names], np.bool_)[number]


def disabled_rows(opened: Shard, disabled: Disabled) -> NDArray[np.uint32]:
    """Return the living members of a shard that are disabled, ascending."""
    mask = np.zeros(len(opened.members), np.bool_)
    for column, names in (
        ("contribution", disabled.contributions),
        ("source", disabled.sources),
    ):
        if names:
            mask |= named(opened.members, column, names)
    return without(np.flatnonzero(mask).astype(np.uint32), opened.tombstones.members)


def same_key(
    opened: Shard, wanted: pa.Table, hashes: NDArray[np.uint64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Find living members with these contributions and keys: (position in wanted, member row)."""
    position, row = opened.find_keys(hashes)
    if len(row) == 0:
        return position, row
    found = opened.take_members(row, ["key", "contribution"])
    asked = wanted.select(["key", "contribution"]).take(pa.array(position))
    same = same_values(found["key"], asked["key"])
    same &= same_values(found["contribution"], asked["contribution"])
    return position[same], row[same]


def known_files(
    shards: Iterable[Shard], wanted: pa.Table, source: str, labels: str, stats: NDArray[np.int64]
) -> KnownFiles:
    """Look which files are already members, by key, size and modification time.

    Parameters
    ----------
    wanted
        Columns `contribution` and `key`.
    labels
        The labels, joined by `schema.LABEL_SEPARATOR`; a member with others has changed.
    stats
        (n, 2): size in bytes and modification time in nanoseconds.
    """
    hashes = hash_keys(wanted)
    known = KnownFiles(
        np.zeros(len(wanted), np.bool_),
        np.zeros(len(wanted), f"S{schema.ID_BYTES}"),
        np.full(len(wanted), None, object),
    )
    for opened in shards:
        position, row = same_key(opened, wanted, hashes)
        if len(row) == 0:
            continue
        names = ["source", "labels", "mtime_ns", "size", "problem"]
        found = opened.take_members(row, names)
        same = same_marks(found, source, labels)
        for name, column in (("size", 0), ("mtime_ns", 1)):
            same &= same_values(found[name], pa.array(stats[position, column]))
        position, row = position[same], row[same]
        known.is_known[position] = True
        known.item_ids[position] = opened.member_ids[row]
        problems = found["problem"].filter(pa.array(same)).cast(pa.string())
        if problems.null_count < len(problems):
            known.problems[position] = problems.to_pylist()
    return known


def _hash(texts: pa.Array, seeds: NDArray[np.uint64]) -> NDArray[np.uint64]:
    _, offset_buffer, data_buffer = texts.buffers()
    offsets = np.frombuffer(offset_buffer, np.int64)[texts.offset : texts.offset + len(texts) + 1]
    data = np.frombuffer(data_buffer or b"", np.uint8)
    hashes = np.empty(len(texts), np.uint64)
    hash_strings(offsets, data, seeds, hashes)
    return hashes


def archives_of(gone: pa.Table) -> set[tuple[str, str]]:
    """Return contribution and key of what members may be in, by their keys ``archive!name``."""
    inside = gone.filter(pc.match_substring(gone["key"], "!"))
    pairs = zip(inside["contribution"].to_pylist(), inside["key"].to_pylist(), strict=True)
    return {
        (contribution, key[:end])
        for contribution, key in pairs
        for end, sign in enumerate(key)
        if sign == "!"
    }


def opened_archives(opened: Shard, wanted: set[tuple[str, str]]) -> NDArray[np.int64]:
    """Return the members of these contributions and keys that stand for archives that were read."""
    contributions, keys = zip(*sorted(wanted), strict=True)
    table = pa.table(
        {
            "contribution": pa.array(contributions).dictionary_encode(),
            "key": pa.array(keys, pa.large_string()),
        }
    )
    _, row = same_key(opened, table, hash_keys(table))
    problems = opened.take_members(row, ["problem"])["problem"].to_pylist()
    is_opened = [p is not None and Failure.of("", p).status == "opened" for p in problems]
    return np.sort(row[np.array(is_opened, np.bool_)])


def first_of_key(members: pa.Table, hashes: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Tell which members of a batch, all of one contribution, are the first of their key.

    Raises
    ------
    DuplicateKeyError
        A key stands for different items, or says different things of one.
    """
    keys, ids = schema.one_array(members["key"]), schema.ids_of(members)
    kept = np.ones(len(keys), np.bool_)
    ordered = np.sort(hashes)
    if (ordered[1:] != ordered[:-1]).all():
        return kept
    repeated = np.isin(hashes, ordered[1:][ordered[1:] == ordered[:-1]])
    first: dict[str, int] = {}
    pairs = []
    for row in np.flatnonzero(repeated):
        earlier = first.setdefault(keys[int(row)].as_py(), int(row))
        if earlier != row:
            pairs.append((earlier, row))
    if pairs:
        earlier, later = np.array(pairs).T
        old, new = (members.take(pa.array(rows)) for rows in (earlier, later))
        differs = (ids[earlier] != ids[later]) | ~same_columns(old, new)
        if differs.any():
            key = keys[int(later[np.argmax(differs)])].as_py()
            raise DuplicateKeyError(key, members["contribution"][0].as_py())
        kept[later] = False
    return kept


def same_marks(found: pa.Table, source: str, labels: str) -> NDArray[np.bool_]:
    """Tell which members have this source and these labels, joined by the separator."""
    same_source = pc.equal(found["source"].cast(pa.string()), source)
    same_labels = pc.equal(pc.binary_join(found["labels"], schema.LABEL_SEPARATOR), labels)
    return pc.and_(same_source, same_labels).to_numpy()  # type: ignore[no-any-return]


def same_columns(old: pa.Table, new: pa.Table) -> NDArray[np.bool_]:
    """Compare what callers say of members (not times of adding), row by row; null equals null."""
    names = [*dict.fromkeys([*new.column_names, *old.column_names])]
    same = np.ones(len(old), np.bool_)
    for name in names:
        if name in ("item_id", "key", "contribution", "added_at", "mtime_ns"):
            continue
        left, right = (
            table[name] if name in table.column_names else pa.nulls(len(old))
            for table in (old, new)
        )
        if name == "labels":  # no label is empty or contains the separator
            left, right = (pc.binary_join(part, schema.LABEL_SEPARATOR) for part in (left, right))
        same &= same_values(left, right)
    return same


def standing(members: pa.Table) -> NDArray[np.int8]:
    """Rank members by what is known of the file: 2 all, 1 a part, or an opened archive; else 0."""
    found = np.full(len(members), 2, np.int8)
    problems = schema.one_array(members["problem"])
    if problems.null_count < len(problems):
        ranks = {"damaged": 1, "opened": 1}
        for row, problem in enumerate(problems.to_pylist()):
            if problem is not None:
                found[row] = ranks.get(Failure.of("", problem).status, 0)
    return found


def same_values(left: Any, right: Any) -> NDArray[np.bool_]:
    """Compare two columns row by row; null equals null, and NaN equals NaN."""
    if pa.types.is_dictionary(left.type):
        left, right = left.cast(left.type.value_type), right.cast(left.type.value_type)
    try:
        equal = pc.fill_null(pc.equal(left, right), False)
        equal = pc.or_(equal, pc.and_(pc.is_null(left), pc.is_null(right)))
        if pa.types.is_floating(left.type) and pa.types.is_floating(right.type):
            both_nan = pc.and_(pc.is_nan(left), pc.is_nan(right))
            equal = pc.or_(equal, pc.fill_null(both_nan, False))
        return equal.to_numpy(zero_copy_only=False)  # type: ignore[no-any-return]
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):  # nested types, or null against typed
        pairs = zip(left.to_pylist(), right.to_pylist(), strict=True)
        return np.fromiter((a == b for a, b in pairs), np.bool_, len(left))


def are_same(left: pa.Table, right: pa.Table) -> NDArray[np.bool_]:
    """Tell for each pair of members whether all that they say is the same, times of adding too."""
    same: NDArray[np.bool_] = schema.ids_of(left) == schema.ids_of(right)
    same &= same_columns(left, right)
    for name in ("mtime_ns", "added_at"):
        same &= same_values(left[name], right[name])
    return same


def are_later(left: pa.Table, right: pa.Table) -> NDArray[np.bool_]:
    """Tell for each pair of members whether the left one is to replace the right one.

    A total order, so that the answer for both ways is never twice yes: a file that was hashed goes
    before one that was not, then by time of adding, then by everything else. Members that are the
    same do not replace each other.
    """
    ranks = standing(left), standing(right)
    times = [
        schema.one_array(part["added_at"]).cast(pa.int64()).to_numpy() for part in (left, right)
    ]
    later: NDArray[np.bool_] = times[0] > times[1]
    tied = np.flatnonzero((times[0] == times[1]) & ~are_same(left, right))
    if len(tied):
        names = sorted({*left.column_names, *right.column_names})
        texts = [_texts(part.take(pa.array(tied)), names) for part in (left, right)]
        later[tied] = [ours > theirs for ours, theirs in zip(*texts, strict=True)]
    return np.where(ranks[0] == ranks[1], later, ranks[0] > ranks[1])


def _texts(table: pa.Table, names: list[str]) -> list[list[str]]:
    """Return what each member says as texts, for comparison; a missing column is null."""
    columns = [
        table[name].to_pylist() if name in table.column_names else [None] * len(table)
        for name in names
    ]
    return [[repr(value) for value in row] for row in zip(*columns, strict=True)]
