"""Repair: a working index of what is whole, and an account of what is not. Nothing is deleted."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import pyarrow as pa

from nearsearch import plan
from nearsearch.checks import check_name, seconds
from nearsearch.errors import (
    CorruptFileError,
    FormatError,
    FormatTooNewError,
    FormatTooOldError,
    IndexNotFoundError,
    UsageError,
)
from nearsearch.store import creation, digests, fs, members, retention, schema
from nearsearch.store import manifest as manifests
from nearsearch.store import ring as rings
from nearsearch.store.log import author_or_default
from nearsearch.store.shard import SHARDS, open_shard
from nearsearch.store.soundness import inconsistencies
from nearsearch.store.transaction import Transaction
from nearsearch.store.verify import Damage, damage_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from os import PathLike

    from nearsearch.store.files import File
    from nearsearch.store.manifest import Manifest, Pointer, ShardEntry
    from nearsearch.store.shard import Shard
    from nearsearch.store.shardset import ShardSet

DAMAGED: Final = "damaged"


def check_erasable(root: Path) -> None:
    """Raise `UsageError` while something lies aside that may hold what is to be erased."""
    if fs.exists(root / DAMAGED):
        raise UsageError(
            f"{root / DAMAGED} holds what could not be read, perhaps also what is to be erased; "
            "move it away first"
        )


class Repair(NamedTuple):
    """What a repair came to.

    Attributes
    ----------
    generation
        That is live now; the one from before where nothing had to be done.
    damage
        What was wrong, and what it costs for good.
    lost_items, lost_members
        How many the damaged manifest had more than the index has now.
    returned_members
        How many it has more now: what had been removed, and the record of that was damaged.
    moved
        What was put aside below ``damaged/``, names below the index directory.
    """

    generation: int
    damage: list[Damage]
    lost_items: int
    lost_members: int
    returned_members: int
    moved: list[str]


def repair(
    path: str | PathLike[str],
    *,
    author: str | None = None,
    wait: float = 0.0,
    on_wait: Callable[[str], None] | None = None,
) -> Repair:
    """Make a new generation of the shards that are whole, and put the others aside.

    Of a damaged look-up table or ring nothing is lost: the table is made anew, the ring left out
    until `Writer.compact`. Members whose item is lost are removed, so that it can be added again.
    What cannot be made anew is not deleted: it moves to the folder ``damaged`` in the index. Reads
    every file.

    Parameters
    ----------
    path
        The index directory.
    author, wait, on_wait
        As in `Writer.open`.

    Raises
    ------
    IndexNotFoundError
        There is no index, or no manifest of it that can be read: no list of what belongs together.
    IndexLockedError
        A writer is at work.
    FormatTooNewError, FormatTooOldError
        Written by a later version.
    """
    root, name = Path(path), author_or_default(author)
    check_name("author", name)
    if not fs.exists(root):
        raise IndexNotFoundError(root, "there is no such directory")
    if not any(manifests.generation_of(name) is not None for name in fs.list_directory(root)):
        raise IndexNotFoundError(root, "it has no manifest")
    lock = fs.Lock(root / creation.LOCK, seconds("wait", wait), on_wait)
    try:
        creation.ensure_folders(root)
        return _repair(root, name)
    finally:
        lock.release()


def _repair(root: Path, author: str) -> Repair:
    damage: list[Damage] = []
    base, pointer = _newest_readable(root, damage)
    is_readable = not damage
    whole, shards, rebuilt = [], [], dict[str, set[str]]()
    for entry in base.shards:
        found = _salvaged(root, base, entry, damage)
        if found is not None:
            kept_entry, opened, rebuilt[kept_entry.id] = found
            whole.append(kept_entry)
            shards.append(opened)
    log_files = tuple(f for f in base.log.files if not _is_damaged(root, f, "commits", damage))
    kept = tuple(old for old in base.kept if _is_whole(root, old, damage))
    n_orphans = _n_orphans(shards)
    if n_orphans:
        problem = f"{n_orphans:,} members belong to items that are lost"
        damage.append(Damage(str(root), problem, f"{n_orphans:,} members, removed"))
    if not damage:
        return Repair(base.generation, [], 0, 0, 0, [])
    salvaged_generation = base.generation if is_readable else _last_generation(root)
    salvaged = replace(
        base,
        generation=salvaged_generation,
        shards=tuple(whole),
        log=replace(base.log, files=log_files),
        kept=kept,
    )
    # Put aside before the commit, so that nothing which is damaged is ever collected as garbage.
    moved = [_put_aside(root, salvaged, path) for path in _unneeded(root, salvaged, False)]
    transaction = Transaction(root, salvaged, pointer, shards)
    for opened in shards:
        for role in rebuilt[opened.id]:
            transaction.shards.trust(opened, role)
        if rebuilt[opened.id]:
            transaction.shards.write([opened], plan.MIN_RING_CODES)
    _mend(transaction.shards)
    transaction.note("repair")
    transaction.remark(f"{base.items:,} items and {base.members:,} members before")
    made, _, _ = transaction.commit(author, repair=True)
    gain, lost_items = made.members - base.members, max(0, base.items - made.items)
    if moved or gain or lost_items:
        moved += [_put_aside(root, salvaged, path) for path in _unneeded(root, made, True)]
    else:
        retention.collect(root, made)
    return Repair(made.generation, damage, lost_items, max(0, -gain), max(0, gain), moved)


def _mend(shards: ShardSet) -> None:
    """Remove members whose item is lost, and let all tombstones be found anew."""
    items = np.concatenate([np.empty(0, "S32"), *(part.item_ids for part in shards)])
    for part in shards:
        rows = part.living_members()
        shards.bury(part, rows[~np.isin(part.member_ids[rows], items)])
        shards.touch(part.item_ids)
    shards.unmark()


def _newest_readable(root: Path, damage: list[Damage]) -> tuple[Manifest, Pointer]:
    """Return the live manifest, or else the newest that is whole by its own checksum."""
    try:
        pointer = manifests.read_pointer(root)
        return manifests.read(root, pointer), pointer
    except (FormatTooNewError, FormatTooOldError):
        raise
    except (FormatError, IndexNotFoundError) as error:
        costs = "what was committed after the manifest that was used instead"
        where = error.path if isinstance(error, CorruptFileError) else str(root)
        damage.append(Damage(where, str(error), costs))
    found: list[Manifest] = []
    for name in fs.list_directory(root):
        number = manifests.generation_of(name)
        if number is not None:
            with suppress(CorruptFileError):
                read = manifests.decode(root / name, fs.read_file(root / name, manifests.LIMIT))
                found += [read] if read.generation == number else []
    if not found:
        raise IndexNotFoundError(root, "no manifest of it can be read")
    newest = max(found, key=lambda manifest: manifest.generation)
    return newest, manifests.Pointer(newest.name, fs.checksum(root / newest.name)[1])


def _last_generation(root: Path) -> int:
    """Return the highest generation that any reader may have seen."""
    names = fs.list_directory(root)
    with suppress(FormatError, IndexNotFoundError):
        names.append(manifests.read_pointer(root).name)
    return max(manifests.generation_of(name) or 0 for name in names)


def _salvaged(
    root: Path, base: Manifest, entry: ShardEntry, damage: list[Damage]
) -> tuple[ShardEntry, Shard, set[str]] | None:
    """Return a shard without what is damaged and can be done without; None if it is lost.

    And the roles of those of its tables that were made anew.
    """
    all_of_it = f"shard {entry.id}: {entry.items:,} items, {entry.members:,} members"
    is_lost, derived = False, set[str]()
    for role, file in entry.all_files():
        problem = damage_of(root, file)
        if problem is None:
            continue
        costs = all_of_it
        if rings.is_role(role):
            costs = "speed only, until nearsearch compact"
            spec = role.split("/")[1]
            files = {r: f for r, f in entry.files.items() if not r.startswith(f"ring/{spec}/")}
            entry = replace(entry, files=files)
        elif role in ("keys", "digests"):
            costs = "nothing: made anew"
            derived.add(role)
        elif role == "tombstones":
            earlier = _earlier_tombstones(root, base, entry)
            costs = "what was removed or disabled of this shard since may be back"
            if earlier is None:
                costs = "what was removed or disabled of this shard is back"
                earlier = replace(
                    entry,
                    tombstones=None,
                    dead_items=0,
                    dead_members=0,
                    disabled_items=0,
                    disabled_members=0,
                )
            entry = replace(earlier, files=entry.files)
        else:
            is_lost = True
        damage.append(Damage(str(root / file.name), problem, costs))
    if is_lost:
        return None
    try:
        keys = _rebuilt_keys(root, entry) if "keys" in derived else None
        files = {role: file for role, file in entry.files.items() if role != "digests"}
        sound = replace(entry, files=files) if "digests" in derived else entry
        opened = open_shard(root, sound, base.columns, keys=keys)
        if "digests" in derived:
            opened = replace(opened, digests=digests.look_up_table(opened.items))
    except (FormatError, pa.ArrowException, IndexError) as error:
        damage.append(Damage(str(root / SHARDS / entry.id), str(error), all_of_it))
        return None
    problems = list(inconsistencies(opened))
    damage += [Damage(str(root / SHARDS / entry.id), problem, all_of_it) for problem in problems]
    return None if problems else (entry, opened, derived)


def _rebuilt_keys(root: Path, entry: ShardEntry) -> pa.Table:
    """Make the look-up table of a shard's members anew."""
    table = schema.from_ipc(root, entry.files["members"], schema.MEMBERS)
    table.validate(full=True)
    hashes = members.hash_keys(table)
    order = np.argsort(hashes, kind="stable")
    return pa.table([pa.array(hashes[order]), pa.array(order.astype(np.uint32))], schema.KEYS)


def _earlier_tombstones(root: Path, base: Manifest, entry: ShardEntry) -> ShardEntry | None:
    """Return the newest earlier entry of the same shard whose tombstones are whole."""
    for pointer in reversed(base.kept):
        try:
            earlier = {old.id: old for old in manifests.read(root, pointer).shards}.get(entry.id)
        except (FormatError, OSError):
            continue
        if earlier is not None and (
            earlier.tombstones is None or damage_of(root, earlier.tombstones) is None
        ):
            return earlier
    return None


def _is_damaged(root: Path, file: File, costs: str, damage: list[Damage]) -> bool:
    problem = damage_of(root, file)
    if problem:
        damage.append(Damage(str(root / file.name), problem, costs))
    return problem is not None


def _is_whole(root: Path, pointer: Pointer, damage: list[Damage]) -> bool:
    """Tell whether an earlier generation can still be gone back to."""
    costs = f"generation {manifests.generation_of(pointer.name)}, which was kept"
    try:
        manifest = manifests.read(root, pointer)
    except (FormatError, OSError) as error:
        damage.append(Damage(str(root / pointer.name), str(error), costs))
        return False
    known = {entry.path for entry in damage}
    for _, file in manifest.named_files():
        if str(root / file.name) in known or _is_damaged(root, file, costs, damage):
            return False
    return True


def _n_orphans(shards: list[Shard]) -> int:
    if not shards:
        return 0
    items = np.concatenate([shard.item_ids for shard in shards])
    living = [shard.member_ids[shard.living_members()] for shard in shards]
    return sum(int((~np.isin(ids, items)).sum()) for ids in living)


def _unneeded(root: Path, manifest: Manifest, with_manifests: bool) -> list[Path]:
    """Return what neither the manifest nor those it keeps need, held by a reader or not."""
    needed = [manifest, *(manifests.read(root, old) for old in manifest.kept)]
    paths = retention.unneeded(root, needed)
    return [path for path in paths if with_manifests or path.parent != root]


def _put_aside(root: Path, base: Manifest, path: Path) -> str:
    """Move a file or folder of the index below `damaged/`; return its new name."""
    target = root / DAMAGED / f"{base.generation + 1:06d}" / path.relative_to(root)
    if not fs.exists(target.parent):
        fs.make_directory(target.parent, parents=True)
    fs.rename(path, target)
    return str(target.relative_to(root))
