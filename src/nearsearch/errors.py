"""Every error nearsearch raises: one class per fault, with its facts in fields.

Messages are built here from the fields (what, where, expected against actual, what to do next).
`OSError` (disk full, permission) passes through unwrapped: the system's own words are the best.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from os import PathLike


class NearsearchError(Exception):
    """Base of everything raised on purpose. Survives pickling: callers use process pools."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuilt, (type(self), str(self)), vars(self)


def _rebuilt(cls: type[NearsearchError], message: str) -> NearsearchError:
    """Make an error again from its message; its fields are set by the unpickler."""
    error = cls.__new__(cls, message)
    error.args = (message,)
    return error


# --- the caller's request ---------------------------------------------------------------------


class UsageError(NearsearchError, ValueError):
    """An argument that cannot be meant: wrong type, shape, range or combination."""


class UnknownSpecError(UsageError):
    """A spec name this version does not know."""

    def __init__(self, name: str, known: Sequence[str]) -> None:
        self.name, self.known = name, list(known)
        super().__init__(f"unknown spec {name!r}; this version knows: {', '.join(known)}")


class SpecMismatchError(UsageError):
    """Codes of one spec met an index, or codes, of another: they can not be compared."""

    def __init__(self, what: str, expected: str, actual: str, remedy: str) -> None:
        self.what, self.expected, self.actual = what, expected, actual
        super().__init__(f"{what}: expected spec {expected}, got {actual}; {remedy}")


class CodesError(UsageError):
    """Codes of the wrong shape, dtype or spelling."""

    def __init__(self, expected: str, actual: str) -> None:
        self.expected, self.actual = expected, actual
        super().__init__(f"codes: expected {expected}, got {actual}")


class DigestError(UsageError):
    """What was given is no digest of a file."""

    def __init__(self, kind: str | None, value: object) -> None:
        self.kind, self.value = kind, value
        expected = {"md5": "32", "sha1": "40", "sha256": "64"}
        lengths = expected.get(kind or "", "32, 40 or 64")
        super().__init__(
            f"{kind or 'digest'}: expected {lengths} hexadecimal digits, got {value!r}"
        )


class DuplicateKeyError(UsageError):
    """One call names the same key twice within a contribution, with different content."""

    def __init__(self, key: str, contribution: str) -> None:
        self.key, self.contribution = key, contribution
        super().__init__(
            f"key {key!r} stands for two different records in contribution {contribution!r}; "
            "keys are unique within a contribution: give each record its own key"
        )


class UnknownColumnError(UsageError):
    """A filter names a column that the index does not have."""

    def __init__(self, column: str, columns: Sequence[str]) -> None:
        self.column, self.columns = column, list(columns)
        super().__init__(f"no column {column!r}; the columns are: {', '.join(columns)}")


class UnknownNameError(UsageError):
    """There is no member of this contribution or source."""

    def __init__(self, what: str, name: str, similar: Sequence[str]) -> None:
        self.what, self.name, self.similar = what, name, list(similar)
        hint = f"; is it one of {', '.join(map(repr, similar))}?" if similar else ""
        super().__init__(f"the index has no {what} {name!r}{hint}")


class FilterSyntaxError(UsageError):
    """A filter expression that cannot be read."""

    def __init__(self, text: str, reason: str) -> None:
        self.text, self.reason = text, reason
        super().__init__(
            f"cannot read the filter {text!r}: {reason}; "
            """write for instance: contribution == "NL-0042" and source in ["NL", "DE"]"""
        )


class MetadataError(UsageError):
    """Extra columns that do not fit: reserved name, wrong length, or another type than before."""

    def __init__(self, column: str, reason: str) -> None:
        self.column, self.reason = column, reason
        super().__init__(f"metadata column {column!r}: {reason}")


# --- the index as a whole ---------------------------------------------------------------------


class IndexNotFoundError(NearsearchError, FileNotFoundError):
    """There is no index at this path."""

    def __init__(self, path: str | PathLike[str], reason: str) -> None:
        self.path, self.reason = str(path), reason
        super().__init__(f"no index at {self.path}: {reason}; `nearsearch add` creates one")


class IndexExistsError(NearsearchError, FileExistsError):
    """Something that is not an index stands where one should be created."""

    def __init__(self, path: str | PathLike[str]) -> None:
        self.path = str(path)
        super().__init__(
            f"{self.path} exists and is not a nearsearch index; choose another path, nothing was "
            "changed"
        )


class IndexLockedError(NearsearchError):
    """Another writer holds the index."""

    def __init__(self, path: str | PathLike[str], owner: str) -> None:
        self.path, self.owner = str(path), owner
        super().__init__(
            f"{self.path} is being written by {owner}; readers are not affected. "
            "Wait for it to finish (--wait) and try again"
        )


class GenerationNotKeptError(NearsearchError, LookupError):
    """A generation that never was, or whose files are no longer kept."""

    def __init__(
        self, path: str | PathLike[str], generation: int, kept: Sequence[int | None]
    ) -> None:
        self.path, self.generation, self.kept = str(path), generation, list(kept)
        super().__init__(
            f"{self.path}: generation {generation} is not kept; "
            f"those that are: {', '.join(map(str, kept))}"
        )


class EraseIncompleteError(NearsearchError):
    """An erase is committed, but files that hold what was erased could not be removed."""

    def __init__(self, path: str | PathLike[str], left: Sequence[str]) -> None:
        self.path, self.left = str(path), list(left)
        super().__init__(
            f"{self.path}: what was erased is still in {', '.join(self.left)}, which could not be "
            "removed; remove them, or open the index for writing once more"
        )


class OutcomeUnknownError(NearsearchError):
    """A commit failed after it had begun: it may be live, or not."""

    def __init__(self, path: str | PathLike[str], generation: int) -> None:
        self.path, self.generation = str(path), generation
        super().__init__(
            f"{self.path}: the commit of generation {generation} failed after it had begun, and "
            "may be live or not; close this writer and open the index again to see"
        )


class ClosedError(NearsearchError):
    """A writer or index was used after it was closed."""

    def __init__(self, what: str) -> None:
        self.what = what
        super().__init__(f"this {what} is closed; open it again")


# --- the bytes on disk ------------------------------------------------------------------------


class FormatError(NearsearchError):
    """A file of the index is not what the manifest says, or not readable by this version."""


class CorruptFileError(FormatError):
    """A file of the index is missing, cut short or altered."""

    def __init__(
        self, path: str | PathLike[str], what: str, expected: object, actual: object
    ) -> None:
        self.path, self.what, self.expected, self.actual = str(path), what, expected, actual
        super().__init__(
            f"{self.summary}; run `nearsearch verify` to see what else is damaged, and restore "
            "from a copy, or save what is whole with `nearsearch repair`"
        )

    @property
    def summary(self) -> str:
        """What is wrong, without what to do."""
        return f"{self.path}: {self.what}: expected {self.expected}, found {self.actual}"


class FormatTooNewError(FormatError):
    """The index was written by a later version, in a format this one cannot read."""

    def __init__(self, path: str | PathLike[str], found: int, supported: int) -> None:
        self.path, self.found, self.supported = str(path), found, supported
        super().__init__(
            f"{self.path}: format_version {found}, this version reads up to {supported}; "
            "upgrade nearsearch"
        )


class FormatTooOldError(FormatError):
    """The index was written by an earlier version, in a format this one no longer reads."""

    def __init__(self, path: str | PathLike[str], found: int, supported: int) -> None:
        self.path, self.found, self.supported = str(path), found, supported
        super().__init__(
            f"{self.path}: format_version {found}, this version reads {supported}; add the files "
            "again, to a new index"
        )


class RingWarning(UserWarning):
    """A shard's ring is missing or damaged: searches of it are as exact, and slower."""

    def __init__(self, path: str | PathLike[str], spec: str, reason: str) -> None:
        self.path, self.spec, self.reason = str(path), spec, reason
        super().__init__(
            f"{self.path}: the ring of {spec} cannot be used ({reason}); searches scan all codes "
            f"of the shard, with the same answers. To build it anew: nearsearch compact {self.path}"
        )


class CompactionWarning(UserWarning):
    """What was to be committed is; the merging of shards after it failed, and will be due again."""

    def __init__(self, path: str | PathLike[str], reason: str) -> None:
        self.path, self.reason = str(path), reason
        super().__init__(
            f"{self.path}: everything is committed, but shards could not be merged after that "
            f"({reason}); the next commit will try again"
        )


# --- media ------------------------------------------------------------------------------------


class MediaError(NearsearchError):
    """A file that could not become codes; `stage` says where: read, decode, hash or worker."""

    def __init__(self, reason: str, stage: str) -> None:
        self.reason, self.stage = reason, stage
        super().__init__(f"{stage}: {reason}")


class NotMediaError(MediaError):
    """A file whose bytes are of no picture format we know: skipped, not failed."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason, "sniff")


class WorkerStartError(NearsearchError):
    """A hashing process could not be started."""

    def __init__(self, detail: Any) -> None:
        self.detail = str(detail)
        super().__init__(f"a hashing process did not start: {self.detail}")


# --- exchange ---------------------------------------------------------------------------------


class ExchangeError(NearsearchError, ValueError):
    """A place in somebody's hash list that does not say what it should; counted from 1."""

    def __init__(
        self,
        path: str | PathLike[str],
        line: int,
        expected: str,
        actual: str,
        unit: str = "line",
    ) -> None:
        self.path, self.line, self.expected = str(path), line, expected
        self.actual, self.unit = actual, unit
        super().__init__(
            f"{self.path}: {unit} {line}: expected {expected}, found {actual}; correct it, or ask "
            "its sender for it again; on_bad, where given, passes over single lines and entries"
        )
