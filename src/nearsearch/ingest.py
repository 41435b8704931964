"""Paths to files to hashes: the walk, the keys, and an account of every file."""

from __future__ import annotations

import os
import stat
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nearsearch.codes import as_codes
from nearsearch.errors import UsageError
from nearsearch.matches import Failure
from nearsearch.spec import get_spec
from nearsearch.workers import WorkerPool

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from nearsearch.spec import Spec
    from nearsearch.workers import Limits

PathLike = str | bytes | os.PathLike[str] | os.PathLike[bytes]


@dataclass(slots=True)
class IngestReport:
    """The account of an ingest: every file seen is counted exactly once.

    `skipped` files are none that can be hashed (other formats, links, devices); `failed` ones
    should have been. `failures` lists both, skipped ones under the stages ``walk`` and ``sniff``.
    """

    added: int = 0
    replaced: int = 0
    unchanged: int = 0
    skipped: int = 0
    failed: int = 0
    failures: list[Failure] = field(default_factory=list)

    @property
    def total(self) -> int:
        """Number of files seen."""
        return self.added + self.replaced + self.unchanged + self.skipped + self.failed

    def to_json(self) -> dict[str, Any]:
        """Return the counts as a JSON object."""
        counts = asdict(self)
        del counts["failures"]
        return {**counts, "total": self.total}

    def add_failure(self, status: str, failure: Failure) -> None:
        """Count one file that is ``skipped`` or ``failed``."""
        if status == "skipped":
            self.skipped += 1
        else:
            self.failed += 1
        self.failures.append(failure)


class FoundFile(NamedTuple):
    """A file of the walk, or what stood in its place (`status` and `failure` set)."""

    path: str
    key: str
    size: int
    mtime_ns: int
    status: str = "found"
    failure: Failure | None = None


def key_of(path: str) -> str:
    r"""Return the default key of a path: the path as given, as text that any file can hold.

    File names are bytes. Those that are not UTF-8 are written with backslash escapes, as in
    ``caf\xe9.jpg``; so that no two names share a key, backslashes are doubled in exactly those
    keys that contain ``\x``. All other names are their own keys.
    """
    raw = os.fsencode(path)
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
    seen: set[str] = set()
    excluded = _identity(exclude)
    # A stack, not recursion: a tree can be deeper than the interpreter's limit.
    waiting = [(os.fsdecode(path), True) for path in paths][::-1]
    while waiting:
        path, is_named = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        try:
            status = os.stat(path, follow_symlinks=is_named)
            if stat.S_ISDIR(status.st_mode):
                if (status.st_dev, status.st_ino) != excluded:
                    names = sorted(os.listdir(path), reverse=True)
                    waiting += [(os.path.join(path, name), False) for name in names]
                continue
        except (OSError, ValueError) as error:  # ValueError: a null byte in the path
            reason = getattr(error, "strerror", None) or str(error)
            yield _not_found(path, "failed", reason, "read")
            continue
        if stat.S_ISREG(status.st_mode):
            yield FoundFile(path, key_of(path), status.st_size, status.st_mtime_ns)
        else:
            kind = "a symbolic link" if stat.S_ISLNK(status.st_mode) else "not a regular file"
            yield _not_found(path, "skipped", kind, "walk")


def _identity(path: str | None) -> tuple[int, int] | None:
    try:
        status = os.stat(path) if path is not None else None
    except OSError:
        status = None
    return (status.st_dev, status.st_ino) if status else None


def _not_found(path: str, status: str, reason: str, stage: str) -> FoundFile:
    key = key_of(path)
    return FoundFile(path, key, 0, 0, status, Failure(key, reason, stage))


def path_list(paths: Iterable[PathLike]) -> list[str]:
    """Return paths as a list of text; one path alone is a mistake that would be read by letter."""
    if isinstance(paths, str | bytes | os.PathLike):
        raise UsageError(f"expected a list of paths, not one path: write [{paths!r}]")
    return [os.fsdecode(path) for path in paths]


@dataclass(frozen=True, slots=True, eq=False)
class Hashes:
    """Codes of files, in the order the files were given.

    Attributes
    ----------
    codes
        (n, bytes) uint8; zeros where a file failed.
    qualities
        (n,) int16, 0..100; -1 where a file failed.
    keys
        The key of each file.
    failures
        The files that failed or are no media.
    """

    codes: NDArray[np.uint8]
    qualities: NDArray[np.int16]
    keys: Sequence[str]
    failures: tuple[Failure, ...]
    spec: Spec


def hash_files(
    paths: Iterable[PathLike],
    spec: str | Spec = "pdq",
    *,
    limits: Limits | None = None,
    pool: WorkerPool | None = None,
) -> Hashes:
    """Hash picture files in worker processes, one a core.

    Parameters
    ----------
    paths
        Files; folders are not walked.
    spec
        Name of the spec, or the spec.
    limits
        What one file may cost; not together with `pool`.
    pool
        Processes to use and leave running; without it they are started for this call.

    Raises
    ------
    UnknownSpecError
        This version does not know the spec.
    WorkerStartError
        The processes do not start.
    """
    wanted = get_spec(spec)
    names = path_list(paths)
    codes = np.zeros((len(names), wanted.code_bytes), np.uint8)
    qualities = np.full(len(names), -1, np.int16)
    failures: dict[int, Failure] = {}
    positions: dict[str, list[int]] = {}
    for position, name in enumerate(names):
        positions.setdefault(name, []).append(position)
    used = pool or WorkerPool(limits=limits)
    try:
        for answer in used.map(positions, [wanted]):
            for position in positions[answer.path]:
                if answer.status == "hashed":
                    code, quality = answer.facts["codes"][wanted.name]
                    codes[position] = as_codes(code, wanted)[0]
                    qualities[position] = quality
                else:
                    facts = answer.facts
                    failures[position] = Failure(
                        key_of(answer.path), facts["reason"], facts["stage"]
                    )
    finally:
        if pool is None:
            used.close()
    ordered = tuple(failures[position] for position in sorted(failures))
    return Hashes(codes, qualities, [key_of(name) for name in names], ordered, wanted)
