"""Compaction: several shards made into one, in memory or straight to disk, without their dead.

Ids and key hashes are sorted within each shard, so to merge them is to sort runs, which a stable
sort does in few passes. Each table is made when it is its turn to be written.
"""

from __future__ import annotations

from functools import cached_property, partial
from typing import TYPE_CHECKING, Final

import numpy as np
import pyarrow as pa

from nearsearch import codes as codes_module
from nearsearch import plan
from nearsearch.store import digests, schema
from nearsearch.store.build import order_by_id, write_parts
from nearsearch.store.shard import CodeRows, Shard

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from nearsearch.store.manifest import ShardEntry

_GONE: Final = np.iinfo(np.uint32).max  # new row of what is not taken over
_TWO_TABLES: Final = 1 << 24  # members up to which two tables at a time are made


def merge(shard_id: str, shards: Sequence[Shard]) -> Shard:
    """Return one in-memory shard with everything that is alive in `shards`."""
    merged = _Merged(shards)
    return Shard(
        shard_id,
        merged.items(),
        merged.members(),
        merged.keys(),
        {spec: CodeRows(*merged.codes(spec)) for spec in merged.specs},
        merged.digests(),
    )


def write_merged(
    root: Path, shard_id: str, shards: Sequence[Shard], *, min_ring_codes: int
) -> ShardEntry:
    """Write what is alive in `shards` as one shard; durable as `shard.write_parts` says.

    With mapped files counted, a process took 5 GB for 10 million members, 24 for 100 million.
    """
    merged = _Merged(shards)
    tables = {"items": merged.items, "members": merged.members, "keys": merged.keys}
    if (found := merged.digests()) is not None:
        tables["digests"] = lambda: found
    return write_parts(
        root,
        shard_id,
        tables,
        {spec: partial(merged.codes, spec) for spec in merged.specs},
        min_ring_codes=min_ring_codes,
        threads=2 if sum(len(shard.members) for shard in shards) <= _TWO_TABLES else 1,
    )


def is_worthwhile(shards: Sequence[Shard]) -> bool:
    """Tell whether merging would change anything: shards to join, dead to drop, rings to build."""
    if len(shards) != 1:
        return len(shards) > 1
    (shard,) = shards
    return shard.tombstones.has_dead or any(
        rows.ring is None and len(rows.codes) >= plan.MIN_RING_CODES
        for rows in shard.codes.values()
    )


class _Merged:
    """The tables of several shards as one. Rows of a kind are numbered through all shards."""

    def __init__(self, shards: Sequence[Shard]) -> None:
        self._shards = shards
        self.specs = list(dict.fromkeys(spec for shard in shards for spec in shard.codes))

    def items(self) -> pa.Table:
        """Return the living items, by id."""
        items = _taken([shard.items for shard in self._shards], self._item_order)
        return _without_empty(items, schema.ITEMS)

    def digests(self) -> pa.Table | None:
        """Return the table that finds the living items by their digests, if they have any."""
        if all(shard.digests is None for shard in self._shards):
            return None
        wanted = {"height", *schema.DIGESTS.names}  # one that all have, for the number of rows
        parts = [
            shard.items.select([name for name in shard.items.column_names if name in wanted])
            for shard in self._shards
        ]
        return digests.look_up_table(_taken(parts, self._item_order))

    def members(self) -> pa.Table:
        """Return the living members, by item id, then by the hash of their key."""
        table = _taken([shard.members for shard in self._shards], self._member_order)
        return _without_empty(table, schema.MEMBERS)

    def keys(self) -> pa.Table:
        """Return the look-up table of `members`."""
        hashes = np.concatenate([schema.numbers(s.keys["key_hash"]) for s in self._shards])
        counts = [len(shard.members) for shard in self._shards]
        member = np.concatenate(
            [
                schema.numbers(shard.keys["member"]).astype(np.int64) + first
                for shard, first in zip(self._shards, _firsts(counts), strict=True)
            ]
        )
        order = np.argsort(hashes, kind="stable")
        row = _new_rows(self._member_order, sum(counts))[member[order]]
        kept = row != _GONE
        return pa.table([pa.array(hashes[order][kept]), pa.array(row[kept])], schema.KEYS)

    def codes(self, spec: str) -> tuple[NDArray[np.uint8], pa.Table]:
        """Return the distinct codes of the living items, and the table of their rows."""
        counts = [len(shard.items) for shard in self._shards]
        new_item = _new_rows(self._item_order, sum(counts))
        codes, numbers, items, tables, n_codes = [], [], [], [], 0
        for shard, first in zip(self._shards, _firsts(counts), strict=True):
            if spec not in shard.codes:
                continue
            rows = shard.codes[spec]
            item = new_item[rows.item.astype(np.int64) + first]
            kept = np.flatnonzero(item != _GONE)
            living, number = rows.codes, rows.code.astype(np.int64)
            if len(kept) < len(item):
                used, number = np.unique(rows.code[kept], return_inverse=True)
                living = rows.codes[used]
            codes.append(living)
            numbers.append(number + n_codes)
            items.append(item[kept])
            tables.append(schema.take(rows.table.drop_columns(["code", "item"]), kept))
            n_codes += len(living)
        all_codes = np.concatenate(codes) if len(codes) > 1 else codes[0]
        first_row, new_number = codes_module.distinct(all_codes)
        number = new_number[np.concatenate(numbers)].astype(np.uint32)
        table = schema.one_chunk(pa.concat_tables(tables))
        table = table.add_column(0, schema.ROWS.field("item"), pa.array(np.concatenate(items)))
        table = table.add_column(0, schema.ROWS.field("code"), pa.array(number))
        if len(first_row) < n_codes:
            all_codes = all_codes[first_row]
            table = table.take(pa.array(np.argsort(number, kind="stable")))
        return all_codes, schema.pruned(schema.one_chunk(table))

    @cached_property
    def _item_order(self) -> NDArray[np.int64]:
        order = order_by_id([shard.item_ids for shard in self._shards], None)
        return _without(order, [(len(s.items), s.tombstones.items) for s in self._shards])

    @cached_property
    def _member_order(self) -> NDArray[np.int64]:
        if all(
            not shard.tombstones.has_dead and np.array_equal(shard.item_ids, shard.member_ids)
            for shard in self._shards
        ):
            return self._item_order  # one member for each item: the usual case
        hashes = [shard.hash_of_member for shard in self._shards]
        order = order_by_id([shard.member_ids for shard in self._shards], hashes)
        return _without(order, [(len(s.members), s.tombstones.members) for s in self._shards])


def _firsts(counts: Sequence[int]) -> list[int]:
    """Return the number of each shard's first row when rows are numbered through."""
    return [sum(counts[:i]) for i in range(len(counts))]


def _without(
    order: NDArray[np.int64], dead: Iterable[tuple[int, NDArray[np.uint32]]]
) -> NDArray[np.int64]:
    """Leave out the dead, given for each shard as (number of rows, dead rows)."""
    masks = []
    for count, rows in dead:
        mask = np.zeros(count, np.bool_)
        mask[rows] = True
        masks.append(mask)
    is_dead = np.concatenate(masks)
    return order[~is_dead[order]] if is_dead.any() else order


def _new_rows(order: NDArray[np.int64], count: int) -> NDArray[np.uint32]:
    """Return the new row of each of `count` old ones, `_GONE` for those not in `order`."""
    row = np.full(count, _GONE, np.uint32)
    row[order] = np.arange(len(order), dtype=np.uint32)
    return row


def _without_empty(table: pa.Table, needed: pa.Schema) -> pa.Table:
    """Leave out columns that say nothing: the dead must not leave even their names behind."""
    more = [name for name in table.column_names if name not in needed.names]
    return table.drop_columns([name for name in more if table[name].null_count == len(table)])


def _taken(tables: list[pa.Table], order: NDArray[np.int64]) -> pa.Table:
    table = pa.concat_tables(tables, promote_options="default").unify_dictionaries()
    return schema.pruned(schema.one_chunk(table.take(pa.array(order))))
