"""Merging: what another index holds is taken into a transaction, without hashing anything again."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa

from nearsearch.errors import SpecMismatchError, UsageError
from nearsearch.store import compaction, fs, members, schema
from nearsearch.store.manifest import Disabled
from nearsearch.store.shardset import ShardSet
from nearsearch.store.tombstones import union, without

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from nearsearch.store.shard import Shard
    from nearsearch.store.snapshot import Snapshot
    from nearsearch.store.transaction import Transaction


class Merged(NamedTuple):
    """Numbers of members of the other index."""

    added: int
    replaced: int
    unchanged: int


def merge(transaction: Transaction, root: Path, other: Snapshot) -> Merged:
    """Take everything of `other` into a transaction on the index at `root`.

    Raises
    ------
    UsageError
        `other` is that index.
    SpecMismatchError
        It has other specs.
    CorruptFileError
        A shard of it is damaged; nothing was taken in.
    MetadataError
        A column of it has another type here; nothing was taken in.
    """
    if fs.is_same(other.root, root):
        raise UsageError(f"{other.root} is the index itself: it cannot be merged into itself")
    ours, theirs = transaction.base, other.manifest
    if set(ours.specs) != set(theirs.specs):
        raise SpecMismatchError(
            str(other.root),
            ", ".join(map(str, ours.specs)),
            ", ".join(map(str, theirs.specs)),
            "only indexes of the same specs can be merged",
        )
    others = ShardSet(other.root, theirs, other.shards)
    for shard in other.shards:  # all of them before any is taken in
        others.check(shard)
        transaction.check_columns(shard.members.schema)
    added = replaced = total = 0
    for shard in other.shards:
        counts = _take_in(transaction, shard)
        added, replaced = added + counts[0], replaced + counts[1]
        total += len(shard.living_members())
    disabled = transaction.disabled
    both = Disabled(
        disabled.contributions | theirs.disabled.contributions,
        disabled.sources | theirs.disabled.sources,
    )
    transaction.disable(both, "disable")
    if added or replaced:
        transaction.remark(f"from {other.root.name}")
    return Merged(added, replaced, total - added - replaced)


def _take_in(transaction: Transaction, theirs: Shard) -> tuple[int, int]:
    """Take in a shard of another index, of the shards of which none may be left out.

    Returns how many members were added, and how many replaced one that was here. Of two members
    with the same contribution and key the one that was added later stays; of two of the same time
    the one that sorts later, so that the order of merging does not matter.

    """
    shards = transaction.shards
    transaction.make_room()
    rows = theirs.living_members()
    hash_of = np.empty(len(theirs.members), np.uint64)
    hash_of[schema.numbers(theirs.keys["member"])] = schema.numbers(theirs.keys["key_hash"])
    wanted, hashes = theirs.members.take(pa.array(rows)), hash_of[rows]
    kept, wins = np.ones(len(rows), np.bool_), np.zeros(len(rows), np.bool_)
    losers: list[tuple[Shard, NDArray[np.int64]]] = []
    for opened, asked in shards.may_have_keys(hashes):
        known = wanted.select(["contribution", "key"]).take(pa.array(asked))
        position, row = members.same_key(opened, known, hashes[asked])
        position = asked[position]
        is_later = members.are_later(wanted.take(pa.array(position)), opened.take_members(row))
        kept[position[~is_later]] = False
        wins[position[is_later]] = True
        losers.append((opened, row[is_later]))
    living = without(np.arange(len(theirs.items), dtype=np.uint32), theirs.tombstones.items)
    is_known = ~shards.are_new(theirs.item_ids[living])
    if not kept.any() and is_known.all():
        return 0, 0
    left_out = replace(
        theirs.tombstones,
        members=union(theirs.tombstones.members, rows[~kept]),
        items=union(theirs.tombstones.items, living[is_known]),
    )
    merged = compaction.merge(shards.new_id(), [replace(theirs, tombstones=left_out)])
    shards.touch(theirs.member_ids[rows[~kept]])
    shards.touch(merged.item_ids)  # they may have lost all their members, here or there
    for opened, lost in losers:
        shards.bury(opened, lost)
    shards.place(merged)
    transaction.count("merge", kept & ~wins, wins, wanted)
    return int((kept & ~wins).sum()), int(wins.sum())
