"""Digests: items found by the MD5, SHA-1 or SHA-256 of their bytes.

The first eight bytes of every digest, sorted, beside the row of its item: 12 bytes each, found by
binary search in microseconds; the digest itself stands in `items.arrow` and is compared there. The
SHA-256 of a file that was hashed is its id, and has no entry.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nearsearch.codes import DIGEST_BYTES
from nearsearch.store import schema
from nearsearch.store.shard import expand_ranges
from nearsearch.store.tombstones import contains

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from nearsearch.store.shard import Shard

KINDS: Final = {length: name for name, length in DIGEST_BYTES.items()}
"""Length in bytes to column of `items.arrow`."""


def look_up_table(items: pa.Table) -> pa.Table | None:
    """Return the table that finds the given items by their digests; None if they have none.

    `items` needs the columns of `schema.DIGESTS` only, those that it has.
    """
    prefixes, rows = [np.empty(0, np.uint64)], [np.empty(0, np.uint32)]
    for name in schema.DIGESTS.names:
        if name in items.column_names:
            column = schema.one_array(items[name])
            row = np.flatnonzero(column.is_valid().to_numpy(zero_copy_only=False))
            prefixes.append(_prefixes(column.drop_null()))
            rows.append(row.astype(np.uint32))
    prefix, item = np.concatenate(prefixes), np.concatenate(rows)
    if len(prefix) == 0:
        return None
    order = np.lexsort((item, prefix))
    return pa.table([pa.array(prefix[order]), pa.array(item[order])], schema.PREFIXES)


def _prefixes(column: pa.Array) -> NDArray[np.uint64]:
    """Return the first eight bytes of each digest as a number of the same order."""
    if not pa.types.is_fixed_size_binary(column.type):
        lengths = pc.binary_length(column)
        if not pc.all(pc.equal(lengths, schema.ID_BYTES)).as_py():  # another's file, and damaged
            return np.zeros(len(column), np.uint64)
        column = column.cast(pa.binary(schema.ID_BYTES))
    heads = np.ascontiguousarray(schema.fixed_bytes(column)[:, :8])
    return heads.view(">u8").ravel().astype(np.uint64)


def find(shard: Shard, digests: Sequence[bytes]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the items of a shard that have these digests and a living member that is not disabled.

    Parameters
    ----------
    digests
        Of 16, 20 or 32 bytes each.

    Returns
    -------
    position, row
        (n,) each: position in `digests`, ascending, and item row.

    Raises
    ------
    CorruptFileError
        The table is damaged.
    """
    positions, rows = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    of_length: dict[int, list[int]] = {length: [] for length in KINDS}
    for number, digest in enumerate(digests):
        of_length[len(digest)].append(number)
    for length, asked in of_length.items():
        if not asked:
            continue
        wanted = np.frombuffer(b"".join(digests[i] for i in asked), np.uint8).reshape(-1, length)
        place, row = _candidates(shard, wanted, KINDS[length])
        positions.append(np.array(asked)[place])
        rows.append(row)
        if length == schema.ID_BYTES:
            row = shard.find_items(schema.ids_view(wanted))
            known = np.flatnonzero(row >= 0)
            positions.append(np.array(asked)[known])
            rows.append(row[known])
    position, row = np.concatenate(positions), np.concatenate(rows)
    if len(row) == 0:  # the usual case, and what follows takes half of the time
        return position, row
    shown = ~contains(shard.tombstones.hidden_items, row)
    # Once each: other digests of an item may begin with the same bytes, and are entries too.
    position, row = np.unique(np.stack([position[shown], row[shown]]), axis=1)
    return position, row


def _candidates(
    shard: Shard, wanted: NDArray[np.uint8], kind: str
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return what the look-up table finds and `items.arrow` confirms: position, item row."""
    if shard.digests is None:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    prefix = schema.numbers(shard.digests["prefix"])
    asked = np.ascontiguousarray(wanted[:, :8]).view(">u8").ravel().astype(np.uint64)
    low = np.searchsorted(prefix, asked, "left")
    place, entry = expand_ranges(low, np.searchsorted(prefix, asked, "right"))
    if len(entry) == 0:
        return place, entry
    row = schema.numbers(shard.digests["item"])[entry].astype(np.int64)
    found = shard.take_items(row, [kind])[kind].to_pylist()
    same = np.array(
        [digest == wanted[i].tobytes() for digest, i in zip(found, place, strict=True)], np.bool_
    )
    return place[same], row[same]
