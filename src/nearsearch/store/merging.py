"""Merging: what another index holds is taken into a transaction, without hashing anything again."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import pyarrow as pa

from nearsearch.errors import SpecMismatchError, UsageError
from nearsearch.store import compaction, fs, members
from nearsearch.store.manifest import Disabled
from nearsearch.store.shardset import ShardSet
from nearsearch.store.tombstones import union, without

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from nearsearch.store.shard import Shard
    from nearsearch.store.snapshot import Snapshot
    from nearsearch.store.transaction import Transaction

_MOST_EXAMPLES: Final = 10


class MergeReport(NamedTuple):
    """What became of the members of another index.

    Attributes
    ----------
    added
        New here.
    replaced
        Added later than the member here of the same contribution and key, which went.
    unchanged
        The same as here.
    left_out
        Added earlier than the member here of the same contribution and key, which stayed.
    examples
        Contribution and key of some that were replaced or left out.
    """

    added: int = 0
    replaced: int = 0
    unchanged: int = 0
    left_out: int = 0
    examples: tuple[tuple[str, str], ...] = ()

    @property
    def total(self) -> int:
        """Number of members of the other index."""
        return self.added + self.replaced + self.unchanged + self.left_out


def merge(transaction: Transaction, root: Path, other: Snapshot) -> MergeReport:
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
    report = MergeReport()
    for shard in other.shards:
        part = _take_in(transaction, shard)
        report = MergeReport(
            report.added + part.added,
            report.replaced + part.replaced,
            report.unchanged + part.unchanged,
            report.left_out + part.left_out,
            (report.examples + part.examples)[:_MOST_EXAMPLES],
        )
    disabled = transaction.disabled
    both = Disabled(
        disabled.contributions | theirs.disabled.contributions,
        disabled.sources | theirs.disabled.sources,
    )
    transaction.set_disabled(both, "disable")
    if report.added or report.replaced:
        transaction.remark(f"from {other.root.name}")
    return report


def _take_in(transaction: Transaction, theirs: Shard) -> MergeReport:
    """Take in a shard of another index, of the shards of which none may be left out.

    Of two members
    with the same contribution and key the one that was added later stays; of two of the same time
    the one that sorts later, so that the order of merging does not matter.

    """
    shards = transaction.shards
    transaction.make_room()
    rows = theirs.living_members()
    wanted, hashes = theirs.members.take(pa.array(rows)), theirs.hash_of_member[rows]
    kept, wins, is_same = (np.full(len(rows), value) for value in (True, False, False))
    losers: list[tuple[Shard, NDArray[np.int64]]] = []
    for opened, asked in shards.may_have_keys(hashes):
        known = wanted.select(["contribution", "key"]).take(pa.array(asked))
        position, row = members.same_key(opened, known, hashes[asked])
        position = asked[position]
        pairs = wanted.take(pa.array(position)), opened.take_members(row)
        is_same[position] = members.are_same(*pairs)
        is_later = members.are_later(*pairs)
        kept[position[~is_later]] = False
        wins[position[is_later]] = True
        losers.append((opened, row[is_later]))
    living = without(np.arange(len(theirs.items), dtype=np.uint32), theirs.tombstones.items)
    is_known = ~shards.are_new(theirs.item_ids[living])
    disputed = wanted.take(pa.array(np.flatnonzero(wins | ~(kept | is_same))[:_MOST_EXAMPLES]))
    report = MergeReport(
        int((kept & ~wins).sum()),
        int(wins.sum()),
        int(is_same.sum()),
        int((~kept & ~is_same).sum()),
        tuple(zip(*(disputed[n].to_pylist() for n in ("contribution", "key")), strict=True)),
    )
    if not kept.any() and is_known.all():
        return report
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
    transaction.count("merge", report.added, report.replaced, merged.members)
    return report
