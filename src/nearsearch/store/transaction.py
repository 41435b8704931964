"""A transaction: changes come in, and leave as shards, tombstones and one new manifest.

Decides what of a batch is new: members are known by (contribution, key), items by id. Nothing is
live before `commit`, and `discard` removes what was written.
"""

from __future__ import annotations

import difflib
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from nearsearch import codes as codes_module
from nearsearch import plan
from nearsearch.errors import (
    GenerationNotKeptError,
    MetadataError,
    OutcomeUnknownError,
    UnknownNameError,
)
from nearsearch.store import build, compaction, log, members, retention, schema, shard
from nearsearch.store import manifest as manifests
from nearsearch.store.shardset import ShardSet
from nearsearch.store.tombstones import contains

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from nearsearch.store.build import RawCodes
    from nearsearch.store.manifest import Disabled, Manifest, Pointer
    from nearsearch.store.shard import Shard

ADDED, REPLACED, UNCHANGED, DUPLICATE = (np.uint8(status) for status in range(4))


@dataclass(frozen=True, slots=True)
class Batch:
    """Records of one contribution and source; record i is row i of `items` and of `members`.

    `members` has the columns of `schema.MEMBERS` and the caller's own; keys may repeat only for
    equal items. `raw` maps spec names to codes whose column `item` counts records.
    """

    items: pa.Table
    members: pa.Table
    raw: Mapping[str, RawCodes]


class Transaction:
    """Changes to one snapshot, kept apart until `commit`. Needs the writer lock; one thread."""

    def __init__(
        self, root: Path, base: Manifest, pointer: Pointer, shards: Sequence[Shard]
    ) -> None:
        """Begin at the live manifest `base`, which `pointer` names, with its opened shards."""
        self._root, self._base, self._pointer = root, base, pointer
        self._shards = ShardSet(root, base, shards)
        self._columns = dict(base.columns)
        self._disabled = base.disabled
        self._actions: dict[str, None] = {}
        self._changed: set[str] = set()  # contributions
        self._counts = dict.fromkeys(("added", "replaced", "removed"), 0)
        self._remarks: list[str] = []
        self.may_be_live = False
        """Set when a commit begins: if it fails from here, nobody knows which manifest is live."""

    @property
    def base(self) -> Manifest:
        """The manifest that is live."""
        return self._base

    @property
    def shards(self) -> ShardSet:
        """The shards as they are now, pending ones too."""
        return self._shards

    @property
    def disabled(self) -> Disabled:
        """What is disabled as of now."""
        return self._disabled

    @property
    def has_changed(self) -> bool:
        """Whether anything was done that a commit would make live."""
        return bool(self._actions)

    def make_room(self) -> None:
        """Let what is in memory go to disk if it is much; raises as `check_usable` does."""
        self.check_usable()
        self._shards.flush_if_large()

    # --- adding -------------------------------------------------------------------------------

    def add(self, batch: Batch) -> NDArray[np.uint8]:
        """Take a batch in; return for each record ADDED, REPLACED, UNCHANGED or DUPLICATE.

        A record whose key exists with the same content, source, labels and columns is unchanged;
        with anything different it replaces the old member. An item that is known already is not
        stored again, nor are its codes: a member of it that is new is a duplicate.

        Raises
        ------
        DuplicateKeyError
            One key stands for different items within the batch; nothing was taken in.
        MetadataError
            A column has another type than before.
        CorruptFileError
            A shard that was looked into is damaged.
        """
        self.make_room()
        hashes, ids = members.hash_keys(batch.members), schema.ids_of(batch.members)
        status = np.full(len(ids), ADDED)
        kept = members.first_of_key(batch.members, hashes)
        status[~kept] = UNCHANGED
        self.check_columns(batch.members.schema)
        replaced: list[tuple[Shard, NDArray[np.int64]]] = []
        for opened, asked in self._shards.may_have_keys(hashes):
            known = batch.members.select(["contribution", "key"]).take(pa.array(asked))
            position, row = members.same_key(opened, known, hashes[asked])
            if len(row) == 0:
                continue
            position = asked[position]
            old, new = opened.take_members(row), batch.members.take(pa.array(position))
            stays = self._stays(opened, row, old, new, batch, position)
            kept[position[stays]] = False
            status[position[stays]] = UNCHANGED
            position, row = position[~stays], row[~stays]
            old, new = old.filter(pa.array(~stays)), new.filter(pa.array(~stays))
            same = (opened.member_ids[row] == ids[position]) & members.same_columns(old, new)
            status[position[same]] = UNCHANGED
            # The same in all but its time: the new time is kept, so that it is known next time.
            same &= members.same_values(old["mtime_ns"], new["mtime_ns"])
            kept[position[same]] = False
            changed = position[~same]
            status[changed[kept[changed] & (status[changed] == ADDED)]] = REPLACED
            replaced.append((opened, row[~same]))
        if kept.any():
            # Built before anything is buried: a fault on the way must not leave a key without both.
            rows = np.flatnonzero(kept)
            firsts = self._firsts(ids, rows)
            new = firsts[self._shards.are_new(ids[firsts])]
            fresh = firsts[~self._shards.have_members(ids[firsts])]
            built = self._build(batch, hashes, ids, rows, np.sort(new))
            for opened, dead in replaced:
                self._shards.bury(opened, dead)
            self._shards.place(built)
            n_added, n_replaced = (int((status == kind).sum()) for kind in (ADDED, REPLACED))
            self.count("add", n_added, n_replaced, built.members)
            rows = rows[status[rows] == ADDED]
            status[rows[~np.isin(rows, fresh)]] = DUPLICATE
        return status

    def count(
        self,
        action: str,
        added: int,
        replaced: int,
        changed: pa.Table,
    ) -> None:
        """Count members for the log, by action, and the contributions they are of."""
        self._actions[action] = None
        self._counts["added"] += added
        self._counts["replaced"] += replaced
        self._changed.update(schema.names_in(changed["contribution"])[1])

    def check_columns(self, found: pa.Schema) -> None:
        """Take note of the callers' columns; raise `MetadataError` if one has another type here."""
        new = {c.name: str(c.type) for c in found if c.name not in schema.MEMBERS.names}
        for name, kind in new.items():
            if self._columns.get(name, kind) != kind:
                known = self._columns[name]
                raise MetadataError(name, f"the index has it as {known}, this batch as {kind}")
        self._columns |= new

    def _stays(
        self,
        opened: Shard,
        row: NDArray[np.int64],
        old: pa.Table,
        new: pa.Table,
        batch: Batch,
        position: NDArray[np.int64],
    ) -> NDArray[np.bool_]:
        """Tell which old members say more of a file than the new ones: those are left out.

        What is known of a file that cannot be read now, or not any more as whole, is not forgotten.
        """
        ranks = members.standing(new)
        stays: NDArray[np.bool_] = (ranks == 0) & (members.standing(old) > 0)
        for i in np.flatnonzero(ranks == 1) if "sha256" in batch.items.column_names else ():
            digest = batch.items["sha256"][int(position[i])].as_py()
            stays[i] = digest == opened.member_ids[row[i]].ljust(schema.ID_BYTES, b"\0")
        return stays

    def _firsts(self, ids: NDArray[np.bytes_], kept: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the kept records that are the first of their item, in order of item ids."""
        first, _ = codes_module.distinct(ids[kept].view(np.uint8).reshape(len(kept), -1))
        firsts = kept[first]
        return firsts[build.order_by_id([ids[firsts]], None)]

    def _build(
        self,
        batch: Batch,
        hashes: NDArray[np.uint64],
        ids: NDArray[np.bytes_],
        kept: NDArray[np.int64],
        new: NDArray[np.int64],
    ) -> Shard:
        """Return a pending shard of the kept records and of the items of the `new` ones."""
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
            raw[spec] = build.RawCodes(codes, table)
        return build.build(
            self._shards.new_id(),
            schema.take(batch.items, new),
            schema.take(batch.members, kept),
            hashes[kept],
            raw,
        )

    # --- removing and hiding ------------------------------------------------------------------

    def remove(self, choose: Callable[[Shard], NDArray[np.int64]]) -> int:
        """Remove the members that `choose` names, rows of each shard; return how many they were.

        Shards are compared with their checksums before they are asked: what damage might choose is
        not removed.

        Raises
        ------
        CorruptFileError
            A shard is damaged; nothing was removed.
        """
        self.check_usable()
        for opened in self._shards:
            self._shards.check(opened, ("items", "members"))
        total, archives = 0, set[tuple[str, str]]()
        for opened in self._shards:
            rows = choose(opened)
            rows = rows[~contains(opened.tombstones.members, rows)]
            if len(rows):
                gone = opened.take_members(rows, ["contribution", "key"])
                self._changed.update(gone["contribution"].cast(pa.string()).unique().to_pylist())
                archives |= members.archives_of(gone)
                self._shards.bury(opened, rows)
                total += len(rows)
        # An archive of which a member was removed is no longer known as a whole.
        for opened in self._shards if archives else ():
            self._shards.bury(opened, members.opened_archives(opened, archives))
        if total:
            self._actions["remove"] = None
            self._counts["removed"] += total
        return total

    def switch(self, action: str, contribution: str | None, source: str | None) -> None:
        """``disable`` or ``enable`` a contribution and a source, those that are not None.

        Raises
        ------
        UnknownNameError
            There is no such contribution or source, or it is not disabled.
        CorruptFileError
            A shard is damaged.
        """
        is_enabling, after = action == "enable", {}
        for what, name in (("contribution", contribution), ("source", source)):
            names: frozenset[str] = getattr(self._disabled, f"{what}s")
            known = names if is_enabling else self._shards.living_names(what)
            if name is not None and name not in known:
                similar = difflib.get_close_matches(name, known)
                raise UnknownNameError(f"disabled {what}" if is_enabling else what, name, similar)
            changed = frozenset() if name is None else frozenset([name])
            after[f"{what}s"] = names - changed if is_enabling else names | changed
        self.set_disabled(manifests.Disabled(**after), action)

    def go_back(self, generation: int, author: str) -> tuple[Manifest, Pointer, list[Shard]]:
        """Make the content of an earlier generation live again; see `Writer.rollback`."""
        self.check_usable()
        base = self._base
        kept = {manifests.generation_of(old.name): old for old in base.kept}
        if generation not in kept:
            raise GenerationNotKeptError(self._root, generation, [*kept, base.generation])
        old = manifests.read(self._root, kept[generation])
        shards = [shard.open_shard(self._root, entry, old.columns) for entry in old.shards]
        new = replace(old, log=base.log, kept=base.kept, erased=base.erased)
        self.note("rollback")
        self.remark(f"to generation {generation}")
        self.may_be_live = True
        made, pointer = make_live(self._root, new, self.entry(new, author), self._pointer)
        return made, pointer, shards

    def set_disabled(self, disabled: Disabled, action: str) -> None:
        """Let exactly these contributions and sources be disabled, under that name in the log."""
        self.check_usable()
        if disabled != self._disabled:
            self._actions[action] = None
            self._changed |= disabled.contributions ^ self._disabled.contributions
            self._disabled = disabled
            for opened in self._shards:
                self._shards.check(opened, ("members",))
            self._shards.unmark()

    # --- compaction ---------------------------------------------------------------------------

    def compact(self) -> None:
        """Merge all shards into one, without the dead and with rings, if that changes anything.

        Raises
        ------
        CorruptFileError
            A shard is damaged; nothing was changed.
        """
        self.check_usable()
        self._shards.mark(self._disabled)
        parts = list(self._shards)
        if compaction.is_worthwhile(parts) or any(map(self._shards.has_damaged_ring, parts)):
            self._actions["compact"] = None
            self._shards.write(parts, plan.MIN_RING_CODES)

    def tidy(self) -> bool:
        """Do the merging that is due by `plan.tail_to_merge` or `plan.is_worn`; tell if any was."""
        self.check_usable()
        shards, done = self._shards, False
        count = plan.tail_to_merge(shards.sizes(), plan.SMALL_SHARD, plan.MOST_MERGED)
        if count > 1:
            shards.write(shards.last(count), plan.MIN_RING_CODES)
            done = True
        for part in shards:
            if plan.is_worn(len(part.members), len(part.tombstones.members)):
                shards.write([part], plan.MIN_RING_CODES)
                done = True
        if done:
            self._actions["compact"] = None
            self.remark("automatic")
        return done

    # --- commit -------------------------------------------------------------------------------

    def remark(self, text: str) -> None:
        """Let the log say this beside the actions."""
        self._remarks.append(text)

    def note(self, action: str) -> None:
        """Let the log name an action."""
        self._actions[action] = None

    def commit(
        self, author: str, *, erase: bool = False, repair: bool = False, continues: bool = False
    ) -> tuple[Manifest, Pointer, list[Shard]]:
        """Make everything live in one step, durably; return the new manifest and its shards.

        Without changes nothing is written and the old manifest is returned.

        Parameters
        ----------
        erase
            Also rewrite every shard that holds anything dead, forget the names in the log that no
            living member has, and keep no earlier generation.
        repair
            Commit also without changes; do not keep the generation before, and remove nothing.
        continues
            Do not keep the generation before, but for readers: it is a part of the same work.
        """
        self.check_usable()
        shards, base = self._shards, self._base
        shards.mark(self._disabled)
        shards.drop_empty()
        own = shards.unfinished()
        if own and not (len(own) == 1 and shards.is_written_with_ring(own[0])):
            shards.write(self._with_small_before(own), plan.MIN_RING_CODES_AT_COMMIT)
        if erase:
            for part in shards:
                if part.tombstones.has_dead:
                    shards.write([part], plan.MIN_RING_CODES)
            self.note("erase")
        shards.mark(self._disabled)
        entries = shards.entries()
        if (
            entries == base.shards
            and self._disabled == base.disabled
            and not (erase or repair)
            and base.generation > 0
        ):
            return base, self._pointer, list(shards)
        new = replace(base, shards=entries, columns=self._columns, disabled=self._disabled)
        if erase:
            new = self._without_traces(new)
        self.may_be_live = True
        commit = self.entry(new, author)
        live = None if repair else self._pointer
        made, pointer = make_live(self._root, new, commit, live, continues=continues)
        return made, pointer, list(shards)

    def _with_small_before(self, own: list[Shard]) -> list[Shard]:
        """Return what a commit makes one shard of: its own, and the small ones before them."""
        sizes = self._shards.sizes()
        sizes[len(sizes) - len(own) :] = [sum(len(part.members) for part in own)]
        count = plan.tail_to_merge(sizes, plan.SMALL_SHARD, plan.MOST_MERGED_AT_COMMIT)
        return self._shards.last(count - 1 + len(own))

    def entry(self, new: Manifest, author: str) -> log.Commit:
        """Return the entry of the log for what was done, which makes `new`."""
        return log.Commit(
            generation=self._base.generation + 1,
            time=datetime.now(UTC).isoformat(timespec="seconds"),
            author=author,
            actions=tuple(self._actions) or ("create",),
            **self._counts,
            items=new.items,
            members=new.members,
            contributions=tuple(sorted(self._changed)[: log.MOST_CONTRIBUTIONS]),
            remark="; ".join(self._remarks),
        )

    def _without_traces(self, new: Manifest) -> Manifest:
        """Take out of a manifest what only the dead gave it, now that no shard holds any."""
        names, sources = self._shards.names("contribution"), self._shards.names("source")
        columns = self._shards.columns()
        self._changed &= names
        self._remarks.clear()
        self._disabled = manifests.Disabled(
            self._disabled.contributions & names, self._disabled.sources & sources
        )
        return replace(
            new,
            columns={name: kind for name, kind in self._columns.items() if name in columns},
            disabled=self._disabled,
            log=log.without_names(self._root, new.log, names),
            erased=self._base.generation,
        )

    def discard(self) -> None:
        """Remove the shards this transaction wrote, unless a commit may have made them live."""
        if not self.may_be_live:  # else the next writer collects what turns out to be garbage
            self._shards.discard()

    def check_usable(self) -> None:
        """Raise `OutcomeUnknownError` if a commit failed after it had begun."""
        if self.may_be_live:
            raise OutcomeUnknownError(self._root, self._base.generation + 1)


def make_live(
    root: Path,
    new: Manifest,
    commit: log.Commit,
    live: Pointer | None,
    *,
    continues: bool = False,
) -> tuple[Manifest, Pointer]:
    """Write `new` as the manifest of `commit` and make it live; then remove what is not needed.

    `live` is the manifest until now; None to keep none but those that `new` keeps, and to remove
    nothing.
    """
    if new.erased == commit.generation - 1:
        kept: tuple[Pointer, ...] = ()
    elif live is None:
        kept = new.kept
    else:
        kept = retention.to_keep(root, new.kept, live, continues=continues)
    made = replace(
        new,
        generation=commit.generation,
        log=log.extended(root, new.log, commit),
        kept=kept,
    )
    pointer = manifests.make_current(root, made)
    if live is not None:
        with suppress(OSError):  # it is live: what could not be removed is garbage, for later
            retention.collect(root, made)
    return made, pointer
