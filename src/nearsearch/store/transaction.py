"""A transaction: records come in, and leave as shards, tombstones and one new manifest.

Decides what of a batch is new: members are known by (contribution, key), items by id. Nothing is
live before `commit`, and `discard` removes what was written.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nearsearch import codes as codes_module
from nearsearch import plan
from nearsearch.errors import DuplicateKeyError, MetadataError, OutcomeUnknownError
from nearsearch.kernels.keys import hash_strings
from nearsearch.store import compaction, fs, manifest, schema, shard
from nearsearch.store import ring as rings
from nearsearch.store.seen import Seen

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from nearsearch.store.manifest import Manifest, ShardEntry
    from nearsearch.store.shard import RawCodes, Shard

FLUSH_MEMBERS: Final = 2_000_000  # held in memory before they go to disk, uncommitted
ADDED, REPLACED, UNCHANGED = np.uint8(0), np.uint8(1), np.uint8(2)
_NEVER: Final = 1 << 62  # codes: no ring, the shard will be merged into another


@dataclass(frozen=True, slots=True)
class Batch:
    """Records of one contribution and source; record i is row i of `items` and of `members`.

    `members` has the columns of `schema.MEMBERS` and the caller's own; keys may repeat only for
    equal items. `raw` maps spec names to codes whose column `item` counts records.
    """

    contribution: str
    items: pa.Table
    members: pa.Table
    raw: Mapping[str, RawCodes]


class Transaction:
    """Changes to one snapshot, kept apart until `commit`. Needs the writer lock; one thread."""

    def __init__(self, root: Path, base: Manifest, shards: list[Shard]) -> None:
        self._root = root
        self._base = base
        self._entries = {entry.id: entry for entry in base.shards}
        self._shards = {opened.id: opened for opened in shards}  # on disk and pending, in order
        self._live = {entry.id for entry in base.shards}
        self._seen_keys, self._seen_items = Seen(), Seen()  # of shards that are written, not live
        self._touched: list[NDArray[np.bytes_]] = []
        self._columns = dict(base.columns)
        self.may_be_live = False
        """Set when a commit begins: if it fails from here, nobody knows which manifest is live."""

    # --- look-ups -----------------------------------------------------------------------------

    def unchanged_files(
        self,
        contribution: str,
        source: str,
        labels: str,
        keys: list[str],
        stats: NDArray[np.int64],
    ) -> NDArray[np.bool_]:
        """Tell which files are already members, by key, size and modification time.

        Parameters
        ----------
        labels
            The labels, joined by `schema.LABEL_SEPARATOR`; a member with others has changed.
        stats
            (n, 2): size in bytes and modification time in nanoseconds.
        """
        key_array = pa.array(keys, pa.large_string())
        hashes = hash_keys(contribution, key_array)
        unchanged = np.zeros(len(keys), np.bool_)
        for opened in self._shards.values():
            position, row = self._same_key(opened, contribution, key_array, hashes)
            if len(row) == 0:
                continue
            found = opened.members.select(["source", "labels", "mtime_ns"]).take(pa.array(row))
            known = pa.array(stats[position, 1])
            same = _same_values(found["mtime_ns"], known) & _same_marks(found, source, labels)
            sizes = self._sizes(opened.member_ids[row])
            unchanged[position] |= same & (sizes == stats[position, 0])
        return unchanged

    def _sizes(self, ids: NDArray[np.bytes_]) -> NDArray[np.int64]:
        sizes = np.full(len(ids), -1, np.int64)
        for opened in self._shards.values():
            row = opened.find_items(ids)
            known = np.flatnonzero(row >= 0)
            size = opened.items["size"].take(pa.array(row[known])).fill_null(-1)
            sizes[known] = size.to_numpy()
        return sizes

    @staticmethod
    def _same_key(
        opened: Shard, contribution: str, keys: pa.Array, hashes: NDArray[np.uint64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the live members with these keys: (position in keys, member row)."""
        position, row = opened.find_keys(hashes)
        if len(row) == 0:
            return position, row
        found = opened.members.select(["key", "contribution"]).take(pa.array(row))
        same_key = pc.equal(found["key"], keys.take(pa.array(position)))
        same_contribution = pc.equal(found["contribution"].cast(pa.string()), contribution)
        same = pc.and_(same_key, same_contribution).to_numpy()
        return position[same], row[same]

    # --- adding -------------------------------------------------------------------------------

    def add(self, batch: Batch) -> NDArray[np.uint8]:
        """Take a batch in; return for each record ADDED, REPLACED or UNCHANGED.

        A record whose key exists with the same content, source, labels and columns is unchanged;
        with anything different it replaces the old member. An item that is known already is not
        stored again, nor are its codes.

        Raises
        ------
        DuplicateKeyError
            One key stands for different items within the batch; nothing was taken in.
        MetadataError
            A column has another type than before.
        """
        self._check_usable()
        self._flush_if_large()
        keys = schema.one_array(batch.members["key"])
        hashes = hash_keys(batch.contribution, keys)
        ids = schema.ids_of(batch.members)
        status = np.full(len(ids), ADDED)
        kept = _first_of_key(batch, keys, hashes, ids)
        status[~kept] = UNCHANGED
        self._check_columns(batch.members.schema)
        replaced: list[tuple[Shard, NDArray[np.int64]]] = []
        for opened, asked in self._to_ask(self._seen_keys, hashes):
            known = keys.take(pa.array(asked)), hashes[asked]
            position, row = self._same_key(opened, batch.contribution, *known)
            if len(row) == 0:
                continue
            position = asked[position]
            old, new = opened.members.take(pa.array(row)), batch.members.take(pa.array(position))
            same = (opened.member_ids[row] == ids[position]) & _same_columns(old, new)
            status[position[same]] = UNCHANGED
            # The same in all but its time: the new time is kept, so that it is known next time.
            same &= _same_values(old["mtime_ns"], new["mtime_ns"])
            kept[position[same]] = False
            changed = position[~same]
            status[changed[kept[changed] & (status[changed] == ADDED)]] = REPLACED
            replaced.append((opened, row[~same]))
        if kept.any():
            # Built before anything is buried: a fault on the way must not leave a key without both.
            built = self._build(batch, hashes, ids, np.flatnonzero(kept))
            self._shards[built.id] = built
            for opened, rows in replaced:
                self._bury_members(opened, rows)
            self._settle()
        return status

    def _to_ask(
        self, seen: Seen, hashes: NDArray[np.uint64]
    ) -> list[tuple[Shard, NDArray[np.int64]]]:
        """Return the shards that may hold some of the hashes, each with the positions of those."""
        known, everything = seen.find(hashes), np.arange(len(hashes))
        written = self._entries.keys() - self._live
        return [
            (opened, known if key in written else everything)
            for key, opened in self._shards.items()
        ]

    def _check_columns(self, found: pa.Schema) -> None:
        new = {c.name: str(c.type) for c in found if c.name not in schema.MEMBERS.names}
        for name, kind in new.items():
            if self._columns.get(name, kind) != kind:
                known = self._columns[name]
                raise MetadataError(name, f"the index has it as {known}, this batch as {kind}")
        self._columns |= new

    def _bury_members(self, opened: Shard, rows: NDArray[np.int64]) -> None:
        if len(rows):
            dead = np.union1d(opened.dead_members, rows).astype(np.uint32)
            self._shards[opened.id] = replace(opened, dead_members=dead)
            self._touched.append(opened.member_ids[rows])

    def _build(
        self,
        batch: Batch,
        hashes: NDArray[np.uint64],
        ids: NDArray[np.bytes_],
        kept: NDArray[np.int64],
    ) -> Shard:
        """Return a pending shard of the kept records and of the items that are new."""
        first, _ = codes_module.distinct(ids[kept].view(np.uint8).reshape(len(kept), -1))
        candidates = kept[first]
        candidates = candidates[shard.order_by_id([ids[candidates]], None)]
        is_new = np.ones(len(candidates), np.bool_)
        for opened, asked in self._to_ask(self._seen_items, shard.first_words(ids[candidates])):
            row = opened.find_items(ids[candidates[asked]])
            is_new[asked] &= row < 0
            back = row[shard.contains(opened.dead_items, row)]
            if len(back):
                self._touched.append(opened.item_ids[back])
        new = np.sort(candidates[is_new])
        item_of_record = np.full(len(ids), -1)
        item_of_record[new] = np.arange(len(new))
        raw = {}
        for spec, part in batch.raw.items():
            item = item_of_record[schema.numbers(part.table["item"])]
            rows = np.flatnonzero(item >= 0)
            position = part.table.schema.get_field_index("item")
            table = schema.take(part.table, rows).set_column(
                position, schema.ROWS.field("item"), pa.array(item[rows].astype(np.uint32))
            )
            codes = part.codes if len(rows) == len(part.codes) else part.codes[rows]
            raw[spec] = shard.RawCodes(codes, table)
        return shard.build(
            self._new_id(),
            schema.take(batch.items, new),
            schema.take(batch.members, kept),
            hashes[kept],
            raw,
        )

    def _new_id(self) -> str:
        return f"{self._base.generation + 1:06d}-{secrets.token_hex(4)}"

    # --- pending shards -----------------------------------------------------------------------

    def _pending(self) -> list[Shard]:
        return [opened for opened in self._shards.values() if opened.id not in self._entries]

    def _settle(self) -> None:
        """Merge pending shards of similar size, so that n small batches cost n log n."""
        pending = self._pending()
        if sum(len(part.members) for part in pending) >= FLUSH_MEMBERS:
            return  # the next batch writes them
        tail = [pending.pop()]
        size = len(tail[0].members)
        while pending and len(pending[-1].members) <= 2 * size:
            tail.append(pending.pop())
            size += len(tail[-1].members)
        if len(tail) > 1:
            merged = compaction.merge(self._new_id(), tail[::-1])
            for old in tail:
                del self._shards[old.id]
            self._shards[merged.id] = merged

    def _flush_if_large(self) -> None:
        """Write what is pending if it is much; it is on disk then, and still not live."""
        pending = self._pending()
        if sum(len(part.members) for part in pending) < FLUSH_MEMBERS:
            return
        self._mark_dead_items()
        written = self._write(self._pending(), _NEVER)
        if written:
            self._seen_keys.add(schema.numbers(written.keys["key_hash"]))
            self._seen_items.add(shard.first_words(written.item_ids))

    def _write(self, parts: list[Shard], min_ring_codes: int) -> Shard | None:
        """Put one shard on disk in the place of several, without their dead, if any is alive."""
        is_whole = len(parts) == 1 and not parts[0].has_dead
        if is_whole and parts[0].id not in self._entries:
            entry = shard.write(self._root, parts[0], min_ring_codes=min_ring_codes)
        else:
            new = self._new_id()
            entry = compaction.write_merged(self._root, new, parts, min_ring_codes=min_ring_codes)
        try:
            written = shard.open_shard(self._root, entry)
        except BaseException:  # the old ones stay, and the caller may try again
            fs.remove(self._root / shard.SHARDS / entry.id)
            raise
        for old in parts:
            del self._shards[old.id]
            if self._entries.pop(old.id, None) and old.id not in self._live:
                fs.remove(self._root / shard.SHARDS / old.id)
        if not entry.items and not entry.members:
            fs.remove(self._root / shard.SHARDS / entry.id)
            return None
        self._entries[entry.id], self._shards[entry.id] = entry, written
        return written

    def compact(self) -> None:
        """Merge all shards into one, without the dead and with rings, if that changes anything."""
        self._check_usable()
        self._mark_dead_items()
        parts = list(self._shards.values())
        if compaction.is_worthwhile(parts) or any(map(self._has_damaged_ring, parts)):
            self._write(parts, plan.MIN_RING_CODES)

    def _is_finished(self, opened: Shard) -> bool:
        return opened.id in self._entries and all(
            rows.ring is not None or len(rows.codes) < plan.MIN_RING_CODES_AT_COMMIT
            for rows in opened.codes.values()
        )

    def _has_damaged_ring(self, opened: Shard) -> bool:
        """Read the rings of a shard: what else is damaged cannot be built anew."""
        entry = self._entries.get(opened.id)
        files = [] if entry is None else entry.files.items()
        return any(
            fs.size_of(self._root / file.name) != file.size
            or fs.checksum(self._root / file.name).sha256 != file.sha256
            for role, file in files
            if rings.is_role(role)
        )

    # --- commit -------------------------------------------------------------------------------

    def commit(self) -> tuple[Manifest, list[Shard]]:
        """Make everything live in one step, durably; return the new manifest and its shards.

        Without changes nothing is written and the old manifest is returned.
        """
        self._check_usable()
        self._mark_dead_items()
        own = [opened for opened in self._shards.values() if opened.id not in self._live]
        if own and not (len(own) == 1 and self._is_finished(own[0])):
            self._write(own, plan.MIN_RING_CODES_AT_COMMIT)
        entries = tuple(
            self._bury(self._shards[key], entry) for key, entry in self._entries.items()
        )
        if entries == self._base.shards and self._base.generation > 0:
            return self._base, list(self._shards.values())
        committed = replace(
            self._base,
            generation=self._base.generation + 1,
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
            shards=entries,
            columns=self._columns,
        )
        self.may_be_live = True
        manifest.make_current(self._root, committed)
        for path in manifest.superseded(self._root, committed):
            fs.remove(path)
        return committed, list(self._shards.values())

    def discard(self) -> None:
        """Remove the shards this transaction wrote, unless a commit may have made them live."""
        if self.may_be_live:
            return  # what turns out to be garbage, the next writer collects
        for key in self._entries.keys() - self._live:
            fs.remove(self._root / shard.SHARDS / key)

    def _check_usable(self) -> None:
        if self.may_be_live:
            raise OutcomeUnknownError(self._root, self._base.generation + 1)

    def _mark_dead_items(self) -> None:
        """Bring each shard's dead items up to date with the members that came and went."""
        if not self._touched:
            return
        ids = np.unique(np.concatenate(self._touched))
        self._touched.clear()
        alive = np.zeros(len(ids), np.bool_)
        for opened in self._shards.values():
            position, _ = opened.members_of(ids)
            alive[position] = True
        for key, opened in list(self._shards.items()):
            row = opened.find_items(ids)
            back = row[(row >= 0) & alive]
            gone = row[(row >= 0) & ~alive]
            dead = np.union1d(np.setdiff1d(opened.dead_items, back), gone).astype(np.uint32)
            if not np.array_equal(dead, opened.dead_items):
                self._shards[key] = replace(opened, dead_items=dead)

    def _bury(self, opened: Shard, entry: ShardEntry) -> ShardEntry:
        """Write the tombstones of a shard if they are not what its entry says."""
        changed = len(opened.dead_members) != entry.dead_members or not np.array_equal(
            opened.dead_items, self._recorded_dead_items(entry)
        )
        if not changed:
            return entry
        table = pa.table(
            {
                "members": pa.array([opened.dead_members], pa.list_(pa.uint32())),
                "items": pa.array([opened.dead_items], pa.list_(pa.uint32())),
            },
            schema.TOMBSTONES,
        )
        name = f"{shard.TOMBSTONES}/{entry.id}-{self._new_id()}.arrow"
        written = schema.create_ipc(self._root / name, table)
        fs.sync_directory(self._root / shard.TOMBSTONES)
        return replace(
            entry,
            tombstones=manifest.File(name, written.size, written.sha256),
            dead_items=len(opened.dead_items),
            dead_members=len(opened.dead_members),
        )

    def _recorded_dead_items(self, entry: ShardEntry) -> NDArray[np.uint32]:
        if entry.tombstones is None:
            return shard.NO_ROWS
        table = schema.from_ipc(self._root / entry.tombstones.name, schema.TOMBSTONES)
        return schema.numbers(table["items"].combine_chunks().flatten())


# --- helpers ----------------------------------------------------------------------------------


def hash_keys(contribution: str, keys: pa.Array) -> NDArray[np.uint64]:
    """Return the 64-bit hash of each (contribution, key); `keys` is a large_string array."""
    seed = _hash(pa.array([contribution], pa.large_string()), np.zeros(1, np.uint64))
    return _hash(keys, np.full(len(keys), seed[0]))


def _hash(texts: pa.Array, seeds: NDArray[np.uint64]) -> NDArray[np.uint64]:
    _, offset_buffer, data_buffer = texts.buffers()
    offsets = np.frombuffer(offset_buffer, np.int64)[texts.offset : texts.offset + len(texts) + 1]
    data = np.frombuffer(data_buffer or b"", np.uint8)
    hashes = np.empty(len(texts), np.uint64)
    hash_strings(offsets, data, seeds, hashes)
    return hashes


def _first_of_key(
    batch: Batch, keys: pa.Array, hashes: NDArray[np.uint64], ids: NDArray[np.bytes_]
) -> NDArray[np.bool_]:
    """Tell which records are the first of their key; refuse keys of two different items."""
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
        old, new = (batch.members.take(pa.array(rows)) for rows in (earlier, later))
        differs = (ids[earlier] != ids[later]) | ~_same_columns(old, new)
        if differs.any():
            key = keys[int(later[np.argmax(differs)])].as_py()
            raise DuplicateKeyError(key, batch.contribution)
        kept[later] = False
    return kept


def _same_marks(found: pa.Table, source: str, labels: str) -> NDArray[np.bool_]:
    same_source = pc.equal(found["source"].cast(pa.string()), source)
    same_labels = pc.equal(pc.binary_join(found["labels"], schema.LABEL_SEPARATOR), labels)
    return pc.and_(same_source, same_labels).to_numpy()  # type: ignore[no-any-return]


def _same_columns(old: pa.Table, new: pa.Table) -> NDArray[np.bool_]:
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
        same &= _same_values(left, right)
    return same


def _same_values(left: Any, right: Any) -> NDArray[np.bool_]:
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
