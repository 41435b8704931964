"""Manifests: the list of live shards at one commit, and the one step that makes it live.

``CURRENT`` holds the name and SHA-256 of the live manifest (``sha256sum -c CURRENT`` checks it);
a manifest holds the SHA-256 of every other file. Replacing ``CURRENT`` is the commit.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from nearsearch.errors import (
    CorruptFileError,
    FormatTooNewError,
    IndexExistsError,
    IndexNotFoundError,
)
from nearsearch.spec import Spec
from nearsearch.store import fs
from nearsearch.version import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

FORMAT_VERSION: Final = 1
CURRENT: Final = "CURRENT"
KEPT_MANIFESTS: Final = 8  # a reader that has just read CURRENT still finds what it names
_FIRST: Final = "manifest-000000.json"
_LIMIT: Final = 1 << 30  # bytes of a manifest; 1 kB a shard
_CURRENT_LINE: Final = re.compile(r"([0-9a-f]{64})  (manifest-[0-9]{6,}\.json)\n")
_MANIFEST_NAME: Final = re.compile(r"manifest-([0-9]{6,})\.json")
_TEMPORARY_NAME: Final = re.compile(r"(CURRENT|manifest-[0-9]{6,}\.json)\.[0-9a-f]{8}\.tmp")


@dataclass(frozen=True, slots=True)
class File:
    """A file of the index: name below the index directory, length in bytes, SHA-256 in hex."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class ShardEntry:
    """One live shard: its files by role, and its counts.

    Attributes
    ----------
    files
        Role to file: ``items``, ``members``, ``keys``, and ``codes/<spec>``, ``rows/<spec>``.
    codes, rows
        Spec name to the number of distinct codes, and of rows.
    tombstones
        The file of the shard's dead, if it has any, with their numbers.
    """

    id: str
    items: int
    members: int
    codes: Mapping[str, int]
    rows: Mapping[str, int]
    files: Mapping[str, File]
    tombstones: File | None = None
    dead_items: int = 0
    dead_members: int = 0


@dataclass(frozen=True, slots=True)
class Manifest:
    """Everything that is live at one commit."""

    generation: int
    created_at: str
    specs: tuple[Spec, ...]
    shards: tuple[ShardEntry, ...] = ()
    columns: Mapping[str, str] = field(default_factory=dict)
    """The callers' own member columns: name to Arrow type."""

    @property
    def name(self) -> str:
        """File name of this manifest."""
        return f"manifest-{self.generation:06d}.json"

    def encode(self) -> bytes:
        """Return the manifest as JSON text."""
        shards = [_encode_shard(shard) for shard in self.shards]
        value = {
            "format_version": FORMAT_VERSION,
            "generation": self.generation,
            "parent": self.generation - 1 if self.generation > 0 else None,
            "created_at": self.created_at,
            "written_by": f"nearsearch {__version__}",
            "specs": [spec.to_json() for spec in self.specs],
            "columns": dict(self.columns),
            "shards": shards,
        }
        return json.dumps(value, indent=1).encode() + b"\n"


def _encode_shard(shard: ShardEntry) -> dict[str, Any]:
    def encode(file: File) -> dict[str, Any]:
        return {"name": file.name, "size": file.size, "sha256": file.sha256}

    return {
        "id": shard.id,
        "items": shard.items,
        "members": shard.members,
        "codes": dict(shard.codes),
        "rows": dict(shard.rows),
        "files": {role: encode(file) for role, file in shard.files.items()},
        "tombstones": encode(shard.tombstones) if shard.tombstones else None,
        "dead_items": shard.dead_items,
        "dead_members": shard.dead_members,
    }


def decode(path: Path, data: bytes) -> Manifest:
    """Read a manifest from its JSON text; unknown fields are ignored.

    Raises
    ------
    FormatTooNewError
        Written in a later format.
    CorruptFileError
        Not JSON, or a field is missing or of another type.
    """
    try:
        value = json.loads(data)
        version = value["format_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptFileError(path, "manifest", "JSON with format_version", error) from error
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise FormatTooNewError(path, version, FORMAT_VERSION)
    try:
        return Manifest(
            generation=int(value["generation"]),
            created_at=str(value["created_at"]),
            specs=tuple(
                Spec(spec["algorithm"], int(spec["bits"]), int(spec["version"]), spec["profile"])
                for spec in value["specs"]
            ),
            shards=tuple(_decode_shard(shard) for shard in value["shards"]),
            columns={str(name): str(kind) for name, kind in value["columns"].items()},
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CorruptFileError(path, "manifest", "all fields of format 1", repr(error)) from error


def _decode_shard(value: Mapping[str, Any]) -> ShardEntry:
    def decode_file(entry: Mapping[str, Any]) -> File:
        parts = str(entry["name"]).split("/")
        if ".." in parts or "" in parts:  # never follow a manifest out of its directory
            raise ValueError(f"file name {entry['name']!r}")
        return File(str(entry["name"]), int(entry["size"]), str(entry["sha256"]))

    return ShardEntry(
        id=str(value["id"]),
        items=int(value["items"]),
        members=int(value["members"]),
        codes={str(spec): int(count) for spec, count in value["codes"].items()},
        rows={str(spec): int(count) for spec, count in value["rows"].items()},
        files={str(role): decode_file(entry) for role, entry in value["files"].items()},
        tombstones=decode_file(value["tombstones"]) if value["tombstones"] else None,
        dead_items=int(value["dead_items"]),
        dead_members=int(value["dead_members"]),
    )


def read_current(directory: Path) -> Manifest:
    """Read the live manifest of the index at `directory`.

    Raises
    ------
    IndexNotFoundError
        No directory, or none with a ``CURRENT``.
    CorruptFileError, FormatTooNewError
        ``CURRENT`` or the manifest is damaged, or written by a later version.
    """
    if not directory.exists():
        raise IndexNotFoundError(directory, "there is no such directory")
    current = directory / CURRENT
    try:
        line = fs.read_file(current, 4096).decode("ascii", "replace")
    except (FileNotFoundError, NotADirectoryError):
        raise IndexNotFoundError(directory, "it has no file CURRENT") from None
    parsed = _CURRENT_LINE.fullmatch(line)
    if parsed is None:
        raise CorruptFileError(current, "content", "the name of a manifest", repr(line[:100]))
    path = directory / parsed[2]
    try:
        data = fs.read_file(path, _LIMIT)
    except FileNotFoundError:
        raise CorruptFileError(path, "manifest", "a file", "none") from None
    digest = hashlib.sha256(data).hexdigest()
    if digest != parsed[1]:
        raise CorruptFileError(path, "SHA-256", parsed[1], digest)
    return decode(path, data)


def read_all(directory: Path) -> list[Manifest]:
    """Read every manifest that is there, live or kept; raises as `decode` does."""
    return [
        decode(path, fs.read_file(path, _LIMIT))
        for path in sorted(directory.iterdir())
        if _MANIFEST_NAME.fullmatch(path.name)
    ]


def make_current(directory: Path, manifest: Manifest) -> None:
    """Write `manifest` and make it the live one: the commit, durable when this returns."""
    written = fs.replace_file(directory / manifest.name, manifest.encode())
    fs.replace_file(directory / CURRENT, f"{written.sha256}  {manifest.name}\n".encode())


def superseded(directory: Path, manifest: Manifest) -> list[Path]:
    """Return the manifests that are too old for any reader that is just opening the index."""
    return [
        path
        for path in directory.iterdir()
        if (name := _MANIFEST_NAME.fullmatch(path.name))
        and int(name[1]) + KEPT_MANIFESTS <= manifest.generation
    ]


def temporaries(directory: Path) -> list[Path]:
    """Return the files of commits that were cut off before a rename."""
    return [path for path in directory.iterdir() if _TEMPORARY_NAME.fullmatch(path.name)]


def check_creatable(directory: Path, folders: set[str], lock: str) -> None:
    """Check that an index may be created in `directory`: it is absent, empty, or was begun before.

    `folders` are those of shards and tombstones, `lock` the name of the lock file.

    Raises
    ------
    IndexExistsError
        It holds anything that is not ours.
    CorruptFileError
        It holds an index whose ``CURRENT`` is gone: nothing must be written over that.
    """
    if not directory.exists():
        return
    if not directory.is_dir():
        raise IndexExistsError(directory)
    paths = list(directory.iterdir())
    if any(_MANIFEST_NAME.fullmatch(path.name) and path.name != _FIRST for path in paths):
        remedy = "the output of 'sha256sum manifest-N.json' for the highest N"
        raise CorruptFileError(directory / CURRENT, "content", remedy, "no file")
    for path in paths:
        is_ours = path.name in {lock, _FIRST} or _TEMPORARY_NAME.fullmatch(path.name)
        is_folder = path.name in folders and path.is_dir()
        if not is_ours and not (is_folder and not any(path.iterdir())):
            raise IndexExistsError(directory)


def forget(directory: Path) -> None:
    """Remove ``CURRENT`` and the manifest of an index that never came to its first commit."""
    fs.remove(directory / CURRENT)
    fs.remove(directory / _FIRST)
