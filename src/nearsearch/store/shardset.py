"""The shards of a transaction: those that are live, those that were written, those in memory.

They keep one order, that of their codes in a search, and a shard that replaces others stands where
the first of them stood.
"""

from __future__ import annotations

import secrets
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from nearsearch import plan
from nearsearch.errors import CorruptFileError
from nearsearch.store import build, compaction, fs, members, schema, shard
from nearsearch.store import ring as rings
from nearsearch.store import tombstones as tombstone_files
from nearsearch.store.files import problem_of
from nearsearch.store.seen import Seen
from nearsearch.store.soundness import inconsistencies, invalidity
from nearsearch.store.tombstones import contains, union, without

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from nearsearch.store.manifest import Disabled, Manifest, ShardEntry
    from nearsearch.store.shard import Shard

FLUSH_MEMBERS: Final = 2_000_000  # held in memory before they go to disk, uncommitted
_NEVER: Final = 1 << 62  # codes: no ring, the shard will be merged into another


class ShardSet:
    """Shards in order, and what of them is hidden. Nothing of it is live; one thread."""

    def __init__(self, root: Path, base: Manifest, shards: Sequence[Shard]) -> None:
        """Begin with the opened shards of the manifest `base`."""
        self._root, self._base = root, base
        self._entries = {entry.id: entry for entry in base.shards}  # of those on disk
        self._shards = {opened.id: opened for opened in shards}
        self._live = frozenset(self._entries)
        self._recorded = {opened.id: opened.tombstones for opened in shards}
        self._finished: set[str] = set()  # written for good, not to be merged at the commit
        self._checked: set[str] = set()  # files compared with checksums, shards that are sound
        self._seen_keys, self._seen_items = Seen(), Seen()  # of shards that are written, not live
        self._touched: list[NDArray[np.bytes_]] = []  # items whose members came or went
        self._unmarked: set[str] = set()  # shards whose disabled members are yet to be found

    def __iter__(self) -> Any:
        """Iterate over the shards as they are now; they may be changed meanwhile."""
        return iter(list(self._shards.values()))

    def __len__(self) -> int:
        """Return the number of shards."""
        return len(self._shards)

    def sizes(self) -> list[int]:
        """Return the number of members of each shard, the dead counted too."""
        return [len(opened.members) for opened in self]

    def last(self, count: int) -> list[Shard]:
        """Return the last `count` shards."""
        return list(self)[len(self) - count :]

    def unfinished(self) -> list[Shard]:
        """Return the shards that the commit is to make one of: the last ones, in order."""
        return [
            opened
            for opened in self
            if opened.id not in self._live and opened.id not in self._finished
        ]

    def names(self, column: str) -> set[str]:
        """Return the contributions or sources that stand in any shard, of the dead too."""
        return {name for part in self for name in part.names_in(column)[1]}

    def living_names(self, column: str) -> set[str]:
        """Return the contributions or sources that have a living member."""
        found: set[str] = set()
        for part in self:
            number, names = part.names_in(column)
            counts = np.bincount(number[part.living_members()], minlength=len(names))
            found.update(names[i] for i in np.flatnonzero(counts))
        return found

    def columns(self) -> set[str]:
        """Return the names of all member columns."""
        return {name for opened in self for name in opened.members.column_names}

    # --- who has it ---------------------------------------------------------------------------

    def may_have_keys(self, hashes: NDArray[np.uint64]) -> list[tuple[Shard, NDArray[np.int64]]]:
        """Return the shards that may hold some of these key hashes, each with their positions."""
        return self._to_ask(self._seen_keys, hashes)

    def are_new(self, ids: NDArray[np.bytes_]) -> NDArray[np.bool_]:
        """Tell which items, ascending, no shard has; `mark` will look at hidden ones again."""
        is_new = np.ones(len(ids), np.bool_)
        for opened, asked in self._to_ask(self._seen_items, shard.first_words(ids)):
            row = opened.find_items(ids[asked])
            is_new[asked] &= row < 0
            hidden = (row >= 0) & contains(opened.tombstones.hidden_items, row)
            self.touch(ids[asked[hidden]])
        return is_new

    def have_members(self, ids: NDArray[np.bytes_]) -> NDArray[np.bool_]:
        """Tell which items, ascending, have a member that was not removed."""
        has = np.zeros(len(ids), np.bool_)
        for opened, asked in self._to_ask(self._seen_items, shard.first_words(ids)):
            has[asked[opened.members_of(ids[asked])[0]]] = True
        return has

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

    # --- coming and going ---------------------------------------------------------------------

    def new_id(self) -> str:
        """Return a name that no shard of any index has."""
        return f"{self._base.generation + 1:06d}-{secrets.token_hex(4)}"

    def place(self, opened: Shard) -> None:
        """Put a shard in memory behind the others; merge those of similar size.

        So n small batches cost n log n.
        """
        self._shards[opened.id] = opened
        self._unmarked.add(opened.id)
        pending = self._pending()
        sizes = [len(part.members) for part in pending]
        if sum(sizes) >= FLUSH_MEMBERS:
            return  # the next batch writes them
        count = plan.tail_to_merge(sizes, 0, FLUSH_MEMBERS)
        if count > 1:
            tail = pending[-count:]
            self._swap(tail, compaction.merge(self.new_id(), tail))

    def _pending(self) -> list[Shard]:
        return [opened for opened in self if opened.id not in self._entries]

    def flush_if_large(self) -> None:
        """Write what is in memory if it is much; it is on disk then, and still not live."""
        pending = self._pending()
        if sum(len(part.members) for part in pending) < FLUSH_MEMBERS:
            return
        written = self._write(pending, _NEVER)
        if written:
            self._seen_keys.add(schema.numbers(written.keys["key_hash"]))
            self._seen_items.add(shard.first_words(written.item_ids))

    def write(self, parts: list[Shard], min_ring_codes: int) -> None:
        """Put one finished shard on disk in the place of several, without their dead.

        Raises
        ------
        CorruptFileError
            One of them is damaged; nothing was changed.
        """
        written = self._write(parts, min_ring_codes)
        if written:
            self._finished.add(written.id)

    def _write(self, parts: list[Shard], min_ring_codes: int) -> Shard | None:
        """Put one shard on disk in the place of several, without their dead, if any is alive."""
        for part in parts:
            self.check(part)
        is_whole = len(parts) == 1 and not parts[0].tombstones.has_dead
        if is_whole and parts[0].id not in self._entries:
            entry = build.write(self._root, parts[0], min_ring_codes=min_ring_codes)
        else:
            new = self.new_id()
            entry = compaction.write_merged(self._root, new, parts, min_ring_codes=min_ring_codes)
        try:
            columns = {f.name: str(f.type) for part in parts for f in part.members.schema}
            written = shard.open_shard(self._root, entry, columns)
        except BaseException:  # the old ones stay, and the caller may try again
            fs.remove(self._root / shard.SHARDS / entry.id)
            raise
        is_empty = not entry.items and not entry.members
        self._swap(parts, None if is_empty else written, entry)
        if is_empty:
            fs.remove(self._root / shard.SHARDS / entry.id)
            return None
        return written

    def _swap(
        self, parts: Sequence[Shard], new: Shard | None, entry: ShardEntry | None = None
    ) -> None:
        """Put one shard, or none, where the first of several stands; forget those."""
        old = {part.id for part in parts}
        first = next(key for key in self._shards if key in old)
        places = {
            key: [new] if key == first else [] if key in old else [opened]
            for key, opened in self._shards.items()
        }
        self._shards = {o.id: o for place in places.values() for o in place if o is not None}
        for part in parts:
            self._touched.append(part.item_ids[part.tombstones.disabled_items])
            if self._entries.pop(part.id, None) and part.id not in self._live:
                fs.remove(self._root / shard.SHARDS / part.id)
        if new is not None:
            self._unmarked.add(new.id)
            if entry is not None:
                self._entries[new.id] = entry
                self._checked.add(new.id)

    def drop_empty(self) -> None:
        """Forget the shards of which nothing is alive and that are not live yet."""
        for part in self.unfinished():
            marks = part.tombstones
            if len(marks.members) == len(part.members) and len(marks.items) == len(part.items):
                self._swap([part], None)

    def check(self, opened: Shard, roles: Collection[str] = ()) -> None:
        """Check before it is copied that a shard is what was written, and sound; each file once.

        All of it but the ring by default, else the tables of these roles.

        Raises
        ------
        CorruptFileError
        """
        entry = self._entries.get(opened.id)
        if entry is None or opened.id in self._checked:
            return
        for role, file in entry.all_files():
            is_wanted = role in roles if roles else not rings.is_role(role)
            if not is_wanted or file.name in self._checked:
                continue
            problem = problem_of(self._root, file)
            if problem:
                path = self._root / file.name
                raise CorruptFileError(path, "content", "the bytes written", problem)
            self._checked.add(file.name)
        found = (invalidity(opened, role) for role in roles) if roles else inconsistencies(opened)
        for problem in filter(None, found):
            path = self._root / shard.SHARDS / opened.id
            raise CorruptFileError(path, "content", "a sound shard", problem)
        if not roles:
            self._checked.add(opened.id)

    def trust(self, opened: Shard, role: str) -> None:
        """Let `check` pass over a file of a shard: what was opened is not what it holds."""
        self._checked.add(self._entries[opened.id].files[role].name)

    def has_damaged_ring(self, opened: Shard) -> bool:
        """Read the rings of a shard: what else is damaged cannot be built anew."""
        entry = self._entries.get(opened.id)
        return entry is not None and any(
            problem_of(self._root, file)
            for role, file in entry.files.items()
            if rings.is_role(role)
        )

    def is_written_with_ring(self, opened: Shard) -> bool:
        """Tell whether a shard is on disk as it would be written at a commit."""
        return opened.id in self._entries and all(
            rows.ring is not None or len(rows.codes) < plan.MIN_RING_CODES_AT_COMMIT
            for rows in opened.codes.values()
        )

    def discard(self) -> None:
        """Remove what was written and is not live."""
        for key in self._entries.keys() - self._live:
            fs.remove(self._root / shard.SHARDS / key)

    # --- hiding -------------------------------------------------------------------------------

    def touch(self, ids: NDArray[np.bytes_]) -> None:
        """Let `mark` look whether these items still have members."""
        self._touched.append(ids)

    def bury(self, opened: Shard, rows: NDArray[np.int64]) -> None:
        """Remove members of a shard, by row."""
        if len(rows):
            opened = self._shards[opened.id]
            old = opened.tombstones
            dead = union(old.members, rows)
            rest = without(old.disabled_members, rows)
            changed = replace(old, members=dead, disabled_members=rest)
            self._shards[opened.id] = replace(opened, tombstones=changed)
            self._touched.append(opened.member_ids[rows])

    def unmark(self) -> None:
        """Let `mark` find the disabled members of all shards anew."""
        self._unmarked.update(self._shards)

    def mark(self, disabled: Disabled) -> None:
        """Bring all tombstones up to date with the members that came, went or were disabled."""
        for key in self._unmarked & self._shards.keys():
            opened = self._shards[key]
            found = members.disabled_rows(opened, disabled)
            recorded = opened.tombstones.disabled_members
            changed = union(without(found, recorded), without(recorded, found))
            if len(changed):
                marks = replace(opened.tombstones, disabled_members=found)
                self._shards[key] = replace(opened, tombstones=marks)
                self.touch(opened.member_ids[changed])
        self._unmarked.clear()
        if not self._touched:
            return
        ids = build.distinct_ids(self._touched)
        self._touched.clear()
        alive, shown = np.zeros(len(ids), np.bool_), np.zeros(len(ids), np.bool_)
        for opened in self:
            position, row = opened.members_of(ids)
            alive[position] = True
            shown[position[~contains(opened.tombstones.disabled_members, row)]] = True
        for opened in self:
            row, old = opened.find_items(ids), opened.tombstones
            here = row >= 0
            new = replace(
                old,
                items=union(without(old.items, row[here]), row[here & ~alive]),
                disabled_items=union(
                    without(old.disabled_items, row[here]), row[here & alive & ~shown]
                ),
            )
            if not new.equals(old):
                self._shards[opened.id] = replace(opened, tombstones=new)

    def entries(self) -> tuple[ShardEntry, ...]:
        """Return the entries of all shards, with tombstones written where they have changed."""
        entries = []
        for key, opened in self._shards.items():
            entry, marks = self._entries[key], opened.tombstones
            recorded = self._recorded.get(key)
            if recorded is None or not marks.equals(recorded):
                file = None
                if not marks.is_empty:
                    name = f"{tombstone_files.TOMBSTONES}/{key}-{self.new_id()}.arrow"
                    file = tombstone_files.write(self._root, name, marks)
                entry = replace(
                    entry,
                    tombstones=file,
                    dead_items=len(marks.items),
                    dead_members=len(marks.members),
                    disabled_items=len(marks.disabled_items),
                    disabled_members=len(marks.disabled_members),
                )
            entries.append(entry)
        return tuple(entries)
