"""Manifests: the list of live shards at one commit, and the one step that makes it live.

``CURRENT`` holds the name and SHA-256 of the live manifest (``sha256sum -c CURRENT`` checks it);
a manifest holds the SHA-256 of every other file, older manifests that are kept among them.
Replacing ``CURRENT`` is the commit.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from nearsearch.errors import (
    CorruptFileError,
    FormatTooNewError,
    FormatTooOldError,
    IndexNotFoundError,
)
from nearsearch.spec import Spec
from nearsearch.store import fs
from nearsearch.store.files import File, decode_file
from nearsearch.store.log import Commit, Log, decode_commit
from nearsearch.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

FORMAT_VERSION: Final = 3
CURRENT: Final = "CURRENT"
KEPT_MANIFESTS: Final = 8  # earlier generations that can be opened and gone back to
LIMIT: Final = 1 << 30  # bytes of a manifest; 1 kB a shard
_CURRENT_LINE: Final = re.compile(r"([0-9a-f]{64})  (manifest-[0-9]{6,}\.json)\n")
_CHECKSUM: Final = re.compile(rb',\n"checksum": "([0-9a-f]{64})"\}\n\Z')
_SHARD_ID: Final = re.compile(r"[0-9]{6,}-[0-9a-f]{8}")
_MANIFEST_NAME: Final = re.compile(r"manifest-([0-9]{6,})\.json")


class Pointer(NamedTuple):
    """A manifest by name and SHA-256, as ``CURRENT`` names the live one."""

    name: str
    sha256: str


@dataclass(frozen=True, slots=True)
class ShardEntry:
    """One live shard: its files by role, and its counts.

    Attributes
    ----------
    files
        Role to file: ``items``, ``members``, ``keys``, ``codes/<spec>``, ``rows/<spec>``, and
        ``ring/<spec>/<part>``.
    codes, rows
        Spec name to the number of distinct codes, and of rows.
    tombstones
        The file of the shard's hidden rows, if it has any, with their numbers.
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
    disabled_items: int = 0
    disabled_members: int = 0

    def all_files(self) -> Iterator[tuple[str, File]]:
        """Yield role and file of everything that belongs to the shard."""
        yield from self.files.items()
        if self.tombstones:
            yield "tombstones", self.tombstones


@dataclass(frozen=True, slots=True)
class Disabled:
    """What is kept but does not match: names of contributions and of sources."""

    contributions: frozenset[str] = frozenset()
    sources: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Manifest:
    """Everything that is live at one commit.

    Attributes
    ----------
    columns
        The callers' own member columns: name to Arrow type.
    kept
        Manifests of earlier generations that can still be opened, oldest first.
    erased
        The last generation before something was erased: it and those before it must not be kept.
    """

    generation: int
    specs: tuple[Spec, ...]
    shards: tuple[ShardEntry, ...] = ()
    columns: Mapping[str, str] = field(default_factory=dict)
    disabled: Disabled = field(default_factory=Disabled)
    log: Log = field(default_factory=Log)
    kept: tuple[Pointer, ...] = ()
    erased: int = -1

    @property
    def name(self) -> str:
        """File name of this manifest."""
        return f"manifest-{self.generation:06d}.json"

    @property
    def commit(self) -> Commit | None:
        """The commit that made it; None of the empty index before the first."""
        return self.log.newest[-1] if self.log.newest else None

    @property
    def items(self) -> int:
        """Number of living items."""
        return sum(entry.items - entry.dead_items for entry in self.shards)

    @property
    def members(self) -> int:
        """Number of living members."""
        return sum(entry.members - entry.dead_members for entry in self.shards)

    def named_files(self) -> Iterator[tuple[str, File]]:
        """Yield role and file of everything it needs; older manifests are not among it."""
        for entry in self.shards:
            yield from entry.all_files()
        for file in self.log.files:
            yield "log", file

    def encode(self) -> bytes:
        """Return the manifest as JSON text."""
        value = {
            "format_version": FORMAT_VERSION,
            "generation": self.generation,
            "written_by": f"nearsearch {__version__}",
            "specs": [spec.to_json() for spec in self.specs],
            "columns": dict(self.columns),
            "disabled": {
                "contributions": sorted(self.disabled.contributions),
                "sources": sorted(self.disabled.sources),
            },
            "shards": [_encode_shard(shard) for shard in self.shards],
            "log": self.log.encode(),
            "erased": self.erased,
            "kept": [pointer._asdict() for pointer in self.kept],
        }
        body = _text(value).encode()[:-1]  # all but the last brace
        checksum = hashlib.sha256(body).hexdigest()
        return body + f',\n"checksum": "{checksum}"}}\n'.encode()


def _text(value: Any, depth: int = 2) -> str:
    """Return JSON text with an entry a line; json's own indentation takes ten times as long."""
    if depth and value and isinstance(value, dict):
        entries = (f"{json.dumps(name)}: {_text(part, depth - 1)}" for name, part in value.items())
        return "{\n" + ",\n".join(entries) + "}"
    if value and isinstance(value, list):
        return "[\n" + ",\n".join(map(json.dumps, value)) + "]"
    return json.dumps(value)


def _encode_shard(shard: ShardEntry) -> dict[str, Any]:
    return {
        "id": shard.id,
        "items": shard.items,
        "members": shard.members,
        "codes": dict(shard.codes),
        "rows": dict(shard.rows),
        "files": {role: file.encode() for role, file in shard.files.items()},
        "tombstones": shard.tombstones.encode() if shard.tombstones else None,
        "dead_items": shard.dead_items,
        "dead_members": shard.dead_members,
        "disabled_items": shard.disabled_items,
        "disabled_members": shard.disabled_members,
    }


def decode(path: Path, data: bytes) -> Manifest:
    """Read a manifest from its JSON text; unknown fields are ignored.

    Raises
    ------
    FormatTooNewError, FormatTooOldError
        Written in a later format, or an earlier one.
    CorruptFileError
        Not JSON, not of its own checksum, or a field is missing or of another type.
    """
    signed = _CHECKSUM.search(data)
    if signed:
        found = hashlib.sha256(data[: signed.start()]).hexdigest()
        if found != signed[1].decode():
            raise CorruptFileError(path, "checksum of its own", signed[1].decode(), found)
    try:
        value = json.loads(data)
        version = value["format_version"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CorruptFileError(path, "manifest", "JSON with format_version", error) from error
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise FormatTooNewError(path, version, FORMAT_VERSION)
    if version < FORMAT_VERSION:
        raise FormatTooOldError(path, version, FORMAT_VERSION)
    try:
        disabled = value["disabled"]
        return Manifest(
            generation=int(value["generation"]),
            specs=tuple(
                Spec(spec["algorithm"], int(spec["bits"]), int(spec["version"]), spec["profile"])
                for spec in value["specs"]
            ),
            shards=tuple(_decode_shard(shard) for shard in value["shards"]),
            columns={str(name): str(kind) for name, kind in value["columns"].items()},
            disabled=Disabled(
                frozenset(map(str, disabled["contributions"])),
                frozenset(map(str, disabled["sources"])),
            ),
            log=Log(
                tuple(decode_file(file) for file in value["log"]["files"]),
                tuple(decode_commit(commit) for commit in value["log"]["newest"]),
            ),
            kept=tuple(_decode_pointer(old) for old in value["kept"]),
            erased=int(value["erased"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise CorruptFileError(path, "manifest", "all fields of format 2", repr(error)) from error


def _decode_shard(value: Mapping[str, Any]) -> ShardEntry:
    if not _SHARD_ID.fullmatch(value["id"]):  # a part of file names to come
        raise ValueError(f"shard {value['id']!r}")
    return ShardEntry(
        id=value["id"],
        items=int(value["items"]),
        members=int(value["members"]),
        codes={str(spec): int(count) for spec, count in value["codes"].items()},
        rows={str(spec): int(count) for spec, count in value["rows"].items()},
        files={str(role): decode_file(entry) for role, entry in value["files"].items()},
        tombstones=decode_file(value["tombstones"]) if value["tombstones"] else None,
        dead_items=int(value["dead_items"]),
        dead_members=int(value["dead_members"]),
        disabled_items=int(value["disabled_items"]),
        disabled_members=int(value["disabled_members"]),
    )


def _decode_pointer(value: Mapping[str, Any]) -> Pointer:
    if generation_of(value["name"]) is None:  # never follow a manifest out of its directory
        raise ValueError(f"manifest name {value['name']!r}")
    return Pointer(value["name"], str(value["sha256"]))


def generation_of(name: str) -> int | None:
    """Return the generation whose manifest has this file name; None if it is no such name."""
    parsed = _MANIFEST_NAME.fullmatch(name)
    return int(parsed[1]) if parsed else None


def read_pointer(directory: Path) -> Pointer:
    """Read ``CURRENT``.

    Raises
    ------
    IndexNotFoundError
        No directory, or none with a ``CURRENT``.
    CorruptFileError
        It does not name a manifest.
    """
    if not fs.exists(directory):
        raise IndexNotFoundError(directory, "there is no such directory")
    current = directory / CURRENT
    try:
        line = fs.read_file(current, 4096).decode("ascii", "replace")
    except (FileNotFoundError, NotADirectoryError):
        raise IndexNotFoundError(directory, "it has no file CURRENT") from None
    parsed = _CURRENT_LINE.fullmatch(line)
    if parsed is None:
        raise CorruptFileError(current, "content", "the name of a manifest", repr(line[:100]))
    return Pointer(parsed[2], parsed[1])


def decode_checked(path: Path, data: bytes, sha256: str) -> Manifest:
    """Read a manifest of which the SHA-256 is known; raises `CorruptFileError` if it has another.

    Raises
    ------
    CorruptFileError, FormatTooNewError
        As `decode`.
    """
    digest = hashlib.sha256(data).hexdigest()
    if digest != sha256:
        raise CorruptFileError(path, "SHA-256", sha256, digest)
    return decode(path, data)


def read(directory: Path, pointer: Pointer) -> Manifest:
    """Read the manifest that `pointer` names.

    Raises
    ------
    CorruptFileError, FormatTooNewError
        It is missing or damaged, or written by a later version.
    """
    path = directory / pointer.name
    try:
        data = fs.read_file(path, LIMIT)
    except FileNotFoundError:
        raise CorruptFileError(path, "manifest", "a file", "none") from None
    return decode_checked(path, data, pointer.sha256)


def read_current(directory: Path) -> Manifest:
    """Read the live manifest of the index at `directory`.

    Raises
    ------
    IndexNotFoundError
        No directory, or none with a ``CURRENT``.
    CorruptFileError, FormatTooNewError
        ``CURRENT`` or the manifest is damaged, or written by a later version.
    """
    return read(directory, read_pointer(directory))


def make_current(directory: Path, manifest: Manifest) -> Pointer:
    """Write `manifest` and make it the live one: the commit, durable when this returns."""
    written = fs.replace_file(directory / manifest.name, manifest.encode())
    fs.replace_file(directory / CURRENT, f"{written.sha256}  {manifest.name}\n".encode())
    return Pointer(manifest.name, written.sha256)
