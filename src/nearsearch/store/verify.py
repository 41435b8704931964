"""Verify: read every byte of an index and say what is damaged, and what the damage costs."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from nearsearch.errors import FormatError, FormatTooNewError, NearsearchError, RingWarning
from nearsearch.store import fs, schema
from nearsearch.store import manifest as manifests
from nearsearch.store import ring as rings
from nearsearch.store.shard import open_shard

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from os import PathLike

    from nearsearch.store.manifest import File, Manifest, ShardEntry
    from nearsearch.store.shard import Shard


class Damage(NamedTuple):
    """One thing that is wrong: the file, what is wrong with it, and what cannot be trusted."""

    path: str
    problem: str
    costs: str


def verify(
    path: str | PathLike[str], on_progress: Callable[[int, int], None] | None = None
) -> list[Damage]:
    """Check every file of an index against its checksum, and the tables against each other.

    Parameters
    ----------
    path
        The index directory.
    on_progress
        Called with the bytes read so far and the bytes there are.

    Returns
    -------
    list of Damage
        Empty when all is well.

    Raises
    ------
    IndexNotFoundError
        No index there.
    FormatTooNewError
        Written by a later version.
    """
    root = Path(path)
    try:
        manifest = manifests.read_current(root)
    except FormatError as error:
        if isinstance(error, FormatTooNewError):
            raise
        return [Damage(str(root), str(error), "the whole index: its list of files is unreadable")]
    return list(_check(root, manifest, on_progress or (lambda done, total: None)))


def _check(root: Path, manifest: Manifest, tell: Callable[[int, int], None]) -> Iterator[Damage]:
    total = sum(file.size for entry in manifest.shards for _, file in _files(entry))
    done = 0
    opened: list[Shard] = []
    for entry in manifest.shards:
        is_whole = True
        for role, file in _files(entry):
            problem = _problem(root / file.name, file)
            if problem and rings.is_role(role):
                costs = _costs_of_ring(root, manifest, entry, role.split("/")[1])
                yield Damage(str(root / file.name), problem, costs)
            elif problem:
                is_whole = False
                yield Damage(str(root / file.name), problem, _costs(entry))
            done += file.size
            tell(done, total)
        if not is_whole:
            continue
        try:
            shard = open_shard(root, entry)
        except NearsearchError as error:
            yield Damage(str(root / "shards" / entry.id), str(error), _costs(entry))
            continue
        problems = list(_inconsistencies(shard))
        for problem in problems:
            yield Damage(str(root / "shards" / entry.id), problem, _costs(entry))
        if not problems:
            opened.append(shard)
    if opened and len(opened) == len(manifest.shards):
        yield from _inconsistencies_between(root, opened)


def _files(entry: ShardEntry) -> list[tuple[str, File]]:
    """Return role and file of everything that belongs to a shard."""
    dead = [("tombstones", entry.tombstones)] if entry.tombstones else []
    return [*entry.files.items(), *dead]


def _problem(path: Path, file: File) -> str | None:
    try:
        found = fs.checksum(path)
    except OSError as error:
        return error.strerror or str(error)
    if found.size != file.size:
        return f"{found.size} bytes instead of {file.size}"
    if found.sha256 != file.sha256:
        return "its SHA-256 is not the one it was written with"
    return None


def _costs(entry: ShardEntry) -> str:
    return f"shard {entry.id}: {entry.items:,} items, {entry.members:,} members"


def _costs_of_ring(root: Path, manifest: Manifest, entry: ShardEntry, spec: str) -> str:
    bits = {known.name: known.bits for known in manifest.specs}[spec]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RingWarning)
        ring = rings.open_ring(root, entry.files, spec, entry.codes[spec], bits)
    remedy = "nearsearch compact builds it anew"
    if ring is None:
        return f"speed only: searches of shard {entry.id} scan its codes; {remedy}"
    return f"matches: searches of shard {entry.id} may miss some; {remedy}"


def _inconsistencies(shard: Shard) -> Iterator[str]:
    """Check what the checksums cannot: that a writer never wrote nonsense."""
    for what, ids, strictly in (
        ("items", shard.item_ids, True),
        ("members", shard.member_ids, False),
    ):
        ordered = ids[:-1] < ids[1:] if strictly else ids[:-1] <= ids[1:]
        if not ordered.all():
            yield f"{what}.arrow is not sorted by item_id"
    members = np.sort(schema.numbers(shard.keys["member"]))
    if not np.array_equal(members, np.arange(len(shard.members))):
        yield "keys.arrow does not list every member once"
    for what, dead, count in (
        ("items", shard.dead_items, len(shard.items)),
        ("members", shard.dead_members, len(shard.members)),
    ):
        if len(dead) and (dead[-1] >= count or (dead[:-1] >= dead[1:]).any()):
            yield f"the tombstones of {what} are not ascending rows of {what}.arrow"
    hashes = schema.numbers(shard.keys["key_hash"])
    if not (hashes[:-1] <= hashes[1:]).all():
        yield "keys.arrow is not sorted by key_hash"
    for spec, rows in shard.codes.items():
        if len(rows.code) and not (rows.code[:-1] <= rows.code[1:]).all():
            yield f"{spec}.rows.arrow is not sorted by code"
        if not np.array_equal(np.unique(rows.code), np.arange(len(rows.codes))):
            yield f"{spec}.rows.arrow does not describe every code"
        if len(rows.item) and rows.item.max() >= len(shard.items):
            yield f"{spec}.rows.arrow points outside items.arrow"


def _inconsistencies_between(root: Path, shards: list[Shard]) -> Iterator[Damage]:
    """Check what only all shards together show: items without members, members without items."""
    items = np.concatenate([shard.item_ids for shard in shards])
    living = []
    for shard in shards:
        alive = np.ones(len(shard.members), np.bool_)
        alive[shard.dead_members] = False
        living.append(shard.member_ids[alive])
    wanted = np.unique(np.concatenate(living))
    if len(np.unique(items)) < len(items):
        yield Damage(str(root), "an item stands in two shards", "each of its matches comes twice")
    for shard, members in zip(shards, living, strict=True):
        path = str(root / "shards" / shard.id)
        n_lost = int((~np.isin(members, items)).sum())
        if n_lost:
            problem = f"{n_lost:,} members belong to items that no shard holds"
            yield Damage(path, problem, f"{n_lost:,} members cannot be found by any search")
        dead = np.flatnonzero(~np.isin(shard.item_ids, wanted))
        if not np.array_equal(dead, shard.dead_items):
            n_wrong = len(np.setxor1d(dead, shard.dead_items))
            problem = f"the tombstones are wrong about {n_wrong:,} items"
            yield Damage(path, problem, f"{n_wrong:,} items are hidden, or found without a member")
