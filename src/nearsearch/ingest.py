"""Paths to files to hashes: the walk, the keys, and an account of every file."""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from nearsearch.checks import file_time
from nearsearch.errors import UsageError
from nearsearch.matches import Failure

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


MOST_FAILURES: Final = 100_000  # that a report holds, some 30 MB
_LIKE_A_MEMBER: Final = re.compile(r"\.[^/]*!")
PathLike = str | bytes | os.PathLike[str] | os.PathLike[bytes]


@dataclass(slots=True)
class IngestReport:
    """The account of an ingest: every file seen is counted exactly once.

    A file in an archive counts as a file, and the archive that holds some does not.

    Attributes
    ----------
    added, replaced
        Files whose key is new; whose key stood for something else.
    unchanged
        Files that are what they were.
    duplicate
        Files whose key is new, and whose content the index had already, or met before.
    skipped
        Files that cannot be hashed: other formats, links, devices.
    failed
        Files that should have been.
    damaged
        Files that were hashed in part; they are counted above as well.
    featureless
        Files that were hashed, and have too little in them to match near: no view of theirs is of
        the quality that a spec asks for. They are counted above as well.
    paths, bytes
        What of the walk is done, archives as what they are: for progress.
    failures
        Those that are skipped, failed or damaged, with the reason (`Failure.status` says which):
        the first 100,000, and the index has all. Of an archive that was not read again, one says
        what became of its files.
    """

    added: int = 0
    replaced: int = 0
    unchanged: int = 0
    duplicate: int = 0
    skipped: int = 0
    failed: int = 0
    damaged: int = 0
    featureless: int = 0
    paths: int = 0
    bytes: int = 0
    failures: list[Failure] = field(default_factory=list)

    @property
    def total(self) -> int:
        """Number of files seen."""
        hashed = self.added + self.replaced + self.unchanged + self.duplicate
        return hashed + self.skipped + self.failed

    def to_json(self) -> dict[str, Any]:
        """Return the counts as a JSON object."""
        counts = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "failures"}
        return {**counts, "total": self.total}

    def add_failure(self, failure: Failure) -> None:
        """Count a file that is skipped or failed, or note a damaged one: as `failure` says."""
        status = failure.status
        setattr(self, status, getattr(self, status) + 1)
        self.note(failure)

    def note(self, failure: Failure) -> None:
        """Keep `failure`, unless there are 100,000 already."""
        if len(self.failures) < MOST_FAILURES:
            self.failures.append(failure)


class FoundFile(NamedTuple):
    """A file of the walk, or what stood in its place (`failure` set; size and time may be None)."""

    path: str
    key: str
    size: int | None
    mtime_ns: int | None
    failure: Failure | None = None


def key_of(path: str) -> str:
    r"""Return the default key of a path: the path as given, as text that any file can hold.

    File names are bytes. Those that are not UTF-8 are written with backslash escapes, as in
    ``caf\xe9.jpg``; so that no two names share a key, backslashes are doubled in exactly those
    keys that contain ``\x``. All other names are their own keys.
    """
    try:
        raw = os.fsencode(path)
    except UnicodeEncodeError:  # it is no name that this system can have
        raw = path.encode("utf-8", "surrogatepass")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        text = None
    if text is not None and "\\x" not in text:
        return text
    return raw.replace(b"\\", b"\\\\").decode("utf-8", "backslashreplace")


def walk(paths: Iterable[PathLike], *, exclude: str | None = None) -> Iterator[FoundFile]:
    """Yield every file at or below `paths`, folders in sorted order, each path once.

    Parameters
    ----------
    paths
        Files and folders. A link named here is followed; links met inside folders are not.
    exclude
        A folder that is passed over wherever it is met (the index itself).
    """
    given = map(os.fsdecode, paths)
    named = {path.rstrip("/") or path: path for path in reversed([*given])}
    seen: set[str] = set()  # of those only, not of a hundred million files
    excluded = _identity(exclude)
    for name, start in reversed(named.items()):
        # A stack, not recursion: a tree can be deeper than the interpreter's limit.
        waiting: list[os.DirEntry[str] | None] = [None]
        while waiting:
            entry = waiting.pop()
            path, place = (entry.path, entry.path) if entry else (start, name)
            if place in named:
                if place in seen:
                    continue
                seen.add(place)
            try:
                status = entry.stat(follow_symlinks=False) if entry else os.stat(path)
                mode = status.st_mode
                if stat.S_ISDIR(mode):
                    if (status.st_dev, status.st_ino) != excluded:
                        inside, failure = _entries(path)
                        waiting += inside
                        if failure is not None:
                            yield FoundFile(path, key_of(path), None, None, failure)
                    continue
            except (OSError, ValueError) as error:  # ValueError: a null byte in the path
                reason = getattr(error, "strerror", None) or str(error)
                yield _not_found(path, reason, "read")
                continue
            if stat.S_ISREG(mode):
                yield FoundFile(path, _file_key(path), status.st_size, file_time(status))
            else:
                kind = "a symbolic link" if stat.S_ISLNK(mode) else "not a regular file"
                yield _not_found(path, kind, "walk")


def _entries(path: str) -> tuple[list[os.DirEntry[str]], Failure | None]:
    """Return the entries of a folder, the first last; and what kept others from being read."""
    found: list[os.DirEntry[str]] = []
    failure = None
    with os.scandir(path) as inside:
        try:
            found.extend(inside)
        except OSError as error:
            reason = f"after {len(found):,} entries: {error.strerror or error}"
            failure = Failure(key_of(path), reason, "read")
    return sorted(found, key=lambda entry: entry.name, reverse=True), failure


def _file_key(path: str) -> str:
    r"""Return the key of a file; where it would look like that of a member, ``!`` is ``\x21``.

    So a file named ``x.zip!a.jpg`` beside ``x.zip`` has a key of its own, whatever stands where.
    """
    key = key_of(path)
    if "!" in path and _LIKE_A_MEMBER.search(path):
        doubled = key if "\\x" in key else key.replace("\\", "\\\\")
        return doubled.replace("!", "\\x21")
    return key


def _identity(path: str | None) -> tuple[int, int] | None:
    try:
        status = os.stat(path) if path is not None else None
    except OSError:
        status = None
    return (status.st_dev, status.st_ino) if status else None


def _not_found(path: str, reason: str, stage: str) -> FoundFile:
    key = key_of(path)
    return FoundFile(path, key, None, None, Failure(key, reason, stage))


def path_list(paths: Iterable[PathLike]) -> list[str]:
    """Return paths as a list of text; one path alone is a mistake that would be read by letter."""
    if isinstance(paths, str | bytes | os.PathLike):
        raise UsageError(f"expected a list of paths, not one path: write [{paths!r}]")
    return [os.fsdecode(path) for path in paths]
