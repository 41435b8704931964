"""Selection: which members of a shard a removal means."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nearsearch.errors import UsageError
from nearsearch.store import members, schema

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from nearsearch.store.shard import Shard
    from nearsearch.store.shardset import ShardSet

_ROWS_A_PART: Final = 1 << 20  # members that are joined with their items at a time
_ITEM_FIELDS: Final = [field for field in schema.ITEMS if field.name != "item_id"]


def columns(shards: ShardSet) -> Mapping[str, pa.DataType]:
    """Return name and type of each column that `choose` can filter by."""
    types = {field.name: field.type for field in [*schema.MEMBERS, *_ITEM_FIELDS]}
    for shard in shards:
        types.update({field.name: field.type for field in shard.members.schema})
    return types


def chooser(
    shards: ShardSet,
    keys: Sequence[str] | None,
    contribution: str | None,
    source: str | None,
    where: pc.Expression | None,
) -> Callable[[Shard], NDArray[np.int64]]:
    """Return what gives the members of a shard that meet all conditions but None, ascending.

    It reads whole columns: the shard must have been compared with its checksums.

    Raises
    ------
    UsageError
        Keys that are one text, not several.
    """
    if isinstance(keys, str):
        raise UsageError(f"keys: expected a list of keys, not one: write [{keys!r}]")
    try:
        wanted = None if keys is None else pa.array(list(keys), pa.large_string())
    except (pa.ArrowException, TypeError, UnicodeEncodeError) as error:
        raise UsageError(f"keys: expected texts, {error}") from error
    return partial(_choose, shards, columns(shards), wanted, contribution, source, where)


def _choose(
    shards: ShardSet,
    known: Mapping[str, pa.DataType],
    keys: pa.Array | None,
    contribution: str | None,
    source: str | None,
    where: pc.Expression | None,
    shard: Shard,
) -> NDArray[np.int64]:
    mask = np.ones(len(shard.members), np.bool_)
    for column, name in (("contribution", contribution), ("source", source)):
        if name is not None:
            mask &= members.named(shard.members, column, frozenset([name]))
    if keys is not None:
        mask &= pc.is_in(shard.members["key"], keys).to_numpy(zero_copy_only=False)
    rows = np.flatnonzero(mask)
    if where is None:
        return rows
    parts = [
        _passing(shards, known, shard, rows[start : start + _ROWS_A_PART], where)
        for start in range(0, len(rows), _ROWS_A_PART)
    ]
    return np.concatenate([np.empty(0, np.int64), *parts])


def _passing(
    shards: ShardSet,
    known: Mapping[str, pa.DataType],
    shard: Shard,
    rows: NDArray[np.int64],
    where: pc.Expression,
) -> NDArray[np.int64]:
    table = shard.members.take(pa.array(rows))
    ids = shard.member_ids[rows]
    row_name = "row"
    for name, kind in known.items():
        if name not in table.column_names:
            table = table.append_column(name, pa.nulls(len(rows), kind))
        row_name += name  # so that it is the name of no column
    for field in _ITEM_FIELDS:
        table = table.set_column(
            table.column_names.index(field.name), field, _item_column(shards, ids, field)
        )
    return table.append_column(row_name, pa.array(rows)).filter(where)[row_name].to_numpy()  # type: ignore[no-any-return]


def _item_column(shards: ShardSet, ids: NDArray[np.bytes_], field: pa.Field) -> Any:
    """Return what the items of these ids have in a column, whichever shard they are in."""
    place, values = np.full(len(ids), -1), [pa.array([], field.type)]
    count = 0
    for holder in shards:
        row = holder.find_items(ids)
        known = np.flatnonzero(row >= 0)
        place[known] = np.arange(count, count + len(known))
        values.append(schema.one_array(holder.take_items(row[known], [field.name])[field.name]))
        count += len(known)
    joined = schema.one_array(pa.chunked_array(values, field.type).unify_dictionaries())
    return joined.take(pa.array(place, mask=place < 0))
