"""Retention: which old generations are kept, and the removal of what no kept one names.

Only names that can be parsed as ours are ever removed, and nothing that belongs to a generation
which some open index holds.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from nearsearch.errors import FormatError
from nearsearch.store import fs
from nearsearch.store import manifest as manifests
from nearsearch.store.log import LOG
from nearsearch.store.shard import SHARDS
from nearsearch.store.tombstones import TOMBSTONES

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from nearsearch.store.manifest import Manifest, Pointer

_NAMES: Final = {
    SHARDS: re.compile(r"[0-9]{6,}-[0-9a-f]{8}(\.tmp)?"),
    TOMBSTONES: re.compile(r"[0-9]{6,}-[0-9a-f]{8}-[0-9]{6,}-[0-9a-f]{8}\.arrow"),
    LOG: re.compile(r"[0-9]{6,}-[0-9a-f]{8}\.jsonl"),
}
FOLDERS: Final = tuple(sorted(_NAMES))
_read: Final = lru_cache(16)(manifests.read)  # the SHA-256 in a pointer says all of its content
_TEMPORARY_NAME: Final = re.compile(r"(CURRENT|manifest-[0-9]{6,}\.json)\.[0-9a-f]{8}\.tmp")


def to_keep(
    root: Path, kept: tuple[Pointer, ...], live: Pointer, *, continues: bool = False
) -> tuple[Pointer, ...]:
    """Return which manifests the next commit keeps beside its own.

    Those are the newest, and any that a reader holds: `kept` and `live` are those of now. What
    `continues` the live one, in parts of one work, lets only readers keep it.
    """
    if continues:
        return (*kept, live) if fs.is_held(root / live.name) else kept
    everything = (*kept, live)
    old = everything[: -manifests.KEPT_MANIFESTS]
    new = everything[-manifests.KEPT_MANIFESTS :]
    return (*(pointer for pointer in old if fs.is_held(root / pointer.name)), *new)


def collect(root: Path, live: Manifest) -> None:
    """Remove all files of ours that neither `live` nor a manifest it keeps needs.

    Does nothing while a kept manifest cannot be read: nobody can say then what is garbage. Leaves
    all in place while a reader holds a manifest that is not kept, unless its generation was erased.
    """
    needed = [live]
    for pointer in live.kept:
        try:
            needed.append(_read(root, pointer))
        except (FormatError, OSError):
            return
    paths = unneeded(root, needed)
    for path in paths:
        generation = manifests.generation_of(path.name)
        if generation is not None and generation > live.erased and not fs.remove_unless_held(path):
            return
    for path in paths:
        fs.remove(path)


def unneeded(root: Path, needed: Iterable[Manifest]) -> list[Path]:
    """Return what bears a name of ours and belongs to none of the manifests."""
    names = {manifest.name for manifest in needed}
    paths = [
        root / name
        for name in fs.list_directory(root)
        if (manifests.generation_of(name) is not None and name not in names)
        or _TEMPORARY_NAME.fullmatch(name)
    ]
    used = {
        part
        for manifest in needed
        for _, file in manifest.named_files()
        for part in (file.name, file.folder)
    }
    paths += [
        root / folder / name
        for folder, pattern in _NAMES.items()
        for name in fs.list_directory(root / folder)
        if pattern.fullmatch(name) and f"{folder}/{name}" not in used
    ]
    return paths


def is_ours(name: str) -> bool:
    """Tell whether a name in the index directory may stand there before the first commit."""
    return name == manifests.Manifest(0, ()).name or bool(_TEMPORARY_NAME.fullmatch(name))
