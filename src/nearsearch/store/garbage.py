"""Garbage: files of ours that no manifest names, left by writers that did not come to a commit."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from nearsearch.store import manifest
from nearsearch.store.shard import SHARDS, TOMBSTONES

if TYPE_CHECKING:
    from pathlib import Path

    from nearsearch.store.manifest import Manifest

_SHARD_NAME: Final = re.compile(r"[0-9]{6,}-[0-9a-f]{8}(\.tmp)?")
_TOMBSTONES_NAME: Final = re.compile(r"[0-9]{6,}-[0-9a-f]{8}-[0-9]{6,}-[0-9a-f]{8}\.arrow")


def garbage(root: Path, kept: list[Manifest]) -> list[Path]:
    """Return the shards and tombstones that none of the manifests names, by our names only."""
    named = {
        part
        for listed in kept
        for entry in listed.shards
        for file in [*entry.files.values(), *([entry.tombstones] if entry.tombstones else [])]
        for part in (file.name, file.name.rpartition("/")[0])
    }
    unnamed = [
        path
        for folder, pattern in ((SHARDS, _SHARD_NAME), (TOMBSTONES, _TOMBSTONES_NAME))
        for path in (root / folder).iterdir()
        if pattern.fullmatch(path.name) and f"{folder}/{path.name}" not in named
    ]
    return unnamed + manifest.temporaries(root)
