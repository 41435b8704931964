"""Verify: read every byte of an index and say what is damaged, and what the damage costs."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from nearsearch.errors import (
    CorruptFileError,
    FormatError,
    FormatTooNewError,
    GenerationNotKeptError,
    NearsearchError,
    RingWarning,
)
from nearsearch.store import build
from nearsearch.store import manifest as manifests
from nearsearch.store import ring as rings
from nearsearch.store.files import problem_of
from nearsearch.store.shard import SHARDS, open_shard
from nearsearch.store.snapshot import hold
from nearsearch.store.soundness import inconsistencies
from nearsearch.store.tombstones import contains

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from os import PathLike

    from numpy.typing import NDArray

    from nearsearch.store.files import File
    from nearsearch.store.manifest import Manifest, Pointer, ShardEntry
    from nearsearch.store.shard import Shard


class Damage(NamedTuple):
    """One thing that is wrong.

    Attributes
    ----------
    path
        The file.
    problem
        What is wrong with it.
    costs
        What cannot be trusted, or is lost.
    """

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
    while True:
        try:
            manifest, held, _, _ = hold(root, None)
        except FormatError as error:
            if isinstance(error, FormatTooNewError):
                raise
            where = error.path if isinstance(error, CorruptFileError) else str(root)
            costs = "the whole index: its list of files is unreadable"
            return [Damage(where, str(error), costs)]
        damage = list(_check(root, manifest, on_progress or (lambda done, total: None)))
        held.release()
        if not damage or manifests.read_current(root).erased < manifest.generation:
            return damage
        # Something was erased meanwhile: files went that were held, and all is to be read again.


def _check(root: Path, manifest: Manifest, tell: Callable[[int, int], None]) -> Iterator[Damage]:
    total = sum(file.size for _, file in manifest.named_files())
    done = 0

    def count(read: int) -> None:
        nonlocal done
        done += read
        tell(done, total)

    seen: set[str] = set()
    opened: list[Shard] = []
    for entry in manifest.shards:
        is_whole = True
        for role, file in entry.all_files():
            seen.add(file.name)
            problem = damage_of(root, file, count)
            if problem and rings.is_role(role):
                costs = _costs_of_ring(root, manifest, entry, role.split("/")[1])
                yield Damage(str(root / file.name), problem, costs)
            elif problem:
                is_whole = False
                yield Damage(str(root / file.name), problem, _costs(entry))
        if not is_whole:
            continue
        try:
            shard = open_shard(root, entry, manifest.columns)
        except NearsearchError as error:
            yield Damage(str(root / SHARDS / entry.id), str(error), _costs(entry))
            continue
        problems = list(inconsistencies(shard))
        for problem in problems:
            yield Damage(str(root / SHARDS / entry.id), problem, _costs(entry))
        if not problems:
            opened.append(shard)
    if opened and len(opened) == len(manifest.shards):
        yield from _inconsistencies_between(root, opened)
    for file in manifest.log.files:
        seen.add(file.name)
        if problem := damage_of(root, file, count):
            yield Damage(str(root / file.name), problem, "commits of the log; no match")
    for pointer in manifest.kept:
        yield from _check_kept(root, pointer, seen)


def _check_kept(root: Path, pointer: Pointer, seen: set[str]) -> Iterator[Damage]:
    """Check an earlier generation, so far as its files are not those of a later one."""
    generation = manifests.generation_of(pointer.name)
    costs = f"generation {generation}, which is kept; nothing of today's"
    try:
        manifest, held, _, _ = hold(root, generation)
    except GenerationNotKeptError:
        return  # no longer, since this began
    except (FormatError, OSError) as error:
        yield Damage(str(root / pointer.name), str(error), costs)
        return
    for _, file in manifest.named_files():
        if file.name not in seen:
            seen.add(file.name)
            if problem := damage_of(root, file):
                yield Damage(str(root / file.name), problem, costs)
    held.release()


def damage_of(root: Path, file: File, on_read: Callable[[int], None] | None = None) -> str | None:
    """Say what is wrong with a file; a disk that cannot read it is wrong too."""
    try:
        return problem_of(root, file, on_read)
    except OSError as error:
        return error.strerror or str(error)


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


def _inconsistencies_between(root: Path, shards: list[Shard]) -> Iterator[Damage]:
    """Check what only all shards together show: items without members, members without items."""
    living, shown = [], []
    for shard in shards:
        rows = shard.living_members()
        living.append(shard.member_ids[rows])
        is_shown = ~contains(shard.tombstones.disabled_members, rows)
        shown.append(shard.member_ids[rows[is_shown]])
    items = build.distinct_ids([shard.item_ids for shard in shards])
    wanted, visible = build.distinct_ids(living), build.distinct_ids(shown)
    if len(items) < sum(len(shard.items) for shard in shards):
        yield Damage(str(root), "an item stands in two shards", "each of its matches comes twice")
    for shard, members in zip(shards, living, strict=True):
        path = str(root / SHARDS / shard.id)
        n_lost = int((~_are_among(items, members)).sum())
        if n_lost:
            problem = f"{n_lost:,} members belong to items that no shard holds"
            yield Damage(path, problem, f"{n_lost:,} members cannot be found by any search")
        marks = shard.tombstones
        is_dead = ~_are_among(wanted, shard.item_ids)
        is_disabled = ~is_dead & ~_are_among(visible, shard.item_ids)
        for found, recorded in ((is_dead, marks.items), (is_disabled, marks.disabled_items)):
            wrong = np.setxor1d(np.flatnonzero(found), recorded)
            if len(wrong):
                problem = f"the tombstones are wrong about {len(wrong):,} items"
                costs = f"{len(wrong):,} items are hidden, or found without a member"
                yield Damage(path, problem, costs)


def _are_among(ascending: NDArray[np.bytes_], ids: NDArray[np.bytes_]) -> NDArray[np.bool_]:
    if len(ascending) == 0:
        return np.zeros(len(ids), np.bool_)
    place = np.minimum(np.searchsorted(ascending, ids), len(ascending) - 1)
    return ascending[place] == ids  # type: ignore[no-any-return]
