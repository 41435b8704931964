"""The walk through an archive, and the archives inside it: every member's bytes, in place.

Nothing is written to disk, no name is ever used as a path, and no size is believed. The walk names
each member before its bytes are touched: it belongs into worker processes, and when one of them
dies, the caller knows at which member, and goes on behind it.
"""

from __future__ import annotations

import io
import os.path
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Final, NamedTuple

from nearsearch.errors import MediaError, NotMediaError, UsageError
from nearsearch.media.archives import (
    HEAD,
    REFUSED,
    container_format,
    entries,
    is_program,
    sniff_head,
)
from nearsearch.media.streams import CHUNK, Entry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = ["Bounds", "Member", "MembersFollow", "container_format", "members"]

_FREE_BYTES: Final = 64 << 20
_MAX_NAME: Final = 4096  # PATH_MAX: no file that was ever packed had a longer one


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What one walk may cost. The limits count what really comes out, whatever headers say."""

    max_bytes: int
    """Of one member, and of a zip inside another archive, which must be held in memory."""
    max_members: int = 1_000_000
    """Folders included."""
    max_depth: int = 4
    """Archives around a member, the outermost included; a compressed tar is one."""
    max_expansion: int = 200
    """Decompressed bytes for each byte of the outermost file, after the first 64 MiB."""


class MembersFollow(NotMediaError):  # noqa: N818 - no error: where the walk goes next
    """A member is an archive itself; what is in it comes next."""


class Member(NamedTuple):
    """One member, named before it is read.

    Attributes
    ----------
    name
        Its path inside, as stored; in an archive within, that archive's own name and ``!`` come
        before it. Bytes that are no UTF-8 are surrogate escapes. A ``!`` of its own is written
        ``%21``, more than 4096 characters are cut, and no name is ``unnamed``. A name that an
        earlier member of the same archive has gets a number, as in ``a (2).jpg``. So names are
        unique in the outermost file. An empty name, or one that ends with ``!``, stands for the
        archive itself: what was not read of it.
    size
        In bytes as stated, which may be a lie; None if nothing states it.
    place
        Where it is: its number in the outermost archive, then in the next. For `members`.
    load
        Returns the bytes. Call it once, before the next member is asked for; if it is not called,
        the member is passed over with all that is in it. What it is called with is given the
        beginning of what is no archive, and may raise before the rest is read. Raises
        `MembersFollow` for archives, `NotMediaError` for links; `MediaError` for what cannot be
        read.
    """

    name: str
    size: int | None
    place: tuple[int, ...]
    load: Callable[[Callable[[bytes], None]], bytes]


def members(
    file: BinaryIO, name: str, bounds: Bounds, *, after: Sequence[int] = ()
) -> Iterator[Member]:
    """Walk the archive `file`, a buffered seekable file called `name`, in stored order.

    Archives inside are walked right behind the member that holds them, to `bounds.max_depth`. An
    archive of which something was not read ends with one member that says so when it is loaded.
    Reaching `max_members` or `max_expansion` ends the walk in the same way.

    `after` is the place of a member: the walk goes on behind it, and behind all that is in it,
    and yields what it would have yielded after it. What comes before is not decoded again where
    the format allows it (zip). The limits on the whole are counted anew.

    Nothing is raised but `UsageError`, for a `load` that comes twice or late.
    """
    try:
        kind = container_format(file)
        length = file.seek(0, io.SEEK_END)
        file.seek(0)
        if kind is None or kind in REFUSED:
            raise _unreadable(kind)
    except (MediaError, OSError) as error:
        if not after:
            yield _problem("", (0,), _in_words(error))
        return
    yield from _Walk(bounds, length).level(kind, file, name, "", (), tuple(after))


class _Walk:
    """What all levels of one walk share: the limits, and how much of them is used."""

    def __init__(self, bounds: Bounds, length: int) -> None:
        self.bounds = bounds
        self.reached: MediaError | None = None
        self._length, self._produced, self._members = length, 0, 0

    def spend(self, count: int) -> None:
        """Count bytes that came out of a decompressor."""
        self._produced += count
        allowed = _FREE_BYTES + self.bounds.max_expansion * self._length
        if self._produced > allowed:
            self._end(
                f"more than {allowed:,} bytes came out of {self._length:,}, the limit: "
                "what follows was not read"
            )

    def _count_member(self) -> None:
        self._members += 1
        if self._members > self.bounds.max_members:
            limit = f"{self.bounds.max_members:,}"
            self._end(f"more than {limit} members, the limit: what follows was not read")

    def _end(self, reason: str) -> None:
        self.reached = MediaError(reason, "container")
        raise self.reached

    def level(
        self,
        kind: str,
        file: BinaryIO,
        name: str,
        prefix: str,
        place: tuple[int, ...],
        after: tuple[int, ...],
    ) -> Iterator[Member]:
        """Walk one archive, and the archives in it; `after` is relative to it."""
        taken: dict[str, int] = {}
        number = -1
        try:
            for number, entry in enumerate(entries(kind, file, name, self.spend)):
                self._count_member()
                if entry.open is None:
                    continue
                own = _unique(entry.name, taken)
                if (number,) < after[:1] or (number,) == after:
                    continue
                here = (*place, number)
                pending = _Pending(self, entry, len(here))
                if after[:1] == (number,):
                    pending.enter()
                else:
                    yield Member(prefix + own, entry.size, here, pending.load)
                pending.over = True
                if pending.inner is not None:
                    deeper = after[1:] if after[:1] == (number,) else ()
                    yield from self.level(*pending.inner, own, f"{prefix}{own}!", here, deeper)
                if self.reached is not None:
                    raise self.reached
        except Exception as error:
            if self.reached is not None and place:
                return  # the outermost level says it, once
            if (number + 1,) > after[:1]:
                yield _problem(prefix, (*place, number + 1), _in_words(error))


@dataclass(slots=True)
class _Pending:
    """A member from its announcement to the next one."""

    walk: _Walk
    entry: Entry
    depth: int
    inner: tuple[str, BinaryIO] | None = None
    """Set by loading: the member is an archive of this kind, to be walked next."""
    over: bool = False

    def load(self, check: Callable[[bytes], None]) -> bytes:
        """See `Member`."""
        if self.over:
            raise UsageError("load: only once, and before the next member is asked for")
        self.over = True
        try:
            return self._load(check)
        except Exception as error:
            problem = _in_words(error)
            if problem is error:
                raise
            raise problem from error

    def enter(self) -> None:
        """Load for the sake of `inner` alone."""
        try:
            self._load(lambda _: None)
        except Exception as error:
            if self.inner is None:
                raise _in_words(error) from error

    def _load(self, check: Callable[[bytes], None]) -> bytes:
        if self.entry.open is None:
            raise NotMediaError("a folder")
        stream = self.entry.open()
        head = stream.peek(HEAD)[:HEAD]
        kind = sniff_head(head)
        if kind is None and not is_program(head):
            check(head)
        source: BinaryIO = stream
        data = b""
        if kind in REFUSED:
            raise _unreadable(kind)
        if kind in {None, "ZIP"}:  # a zip is read from its end; the others are walked as they come
            data = self._read(stream)
            source = io.BytesIO(data)
            if is_program(head):
                kind = container_format(source)
        if kind is None:
            return data
        if self.depth >= self.walk.bounds.max_depth:
            limit = f"the limit of {self.walk.bounds.max_depth}"
            raise MediaError(f"{kind} archive inside {self.depth} others: {limit}", "container")
        self.inner = kind, source
        raise MembersFollow(f"{kind} archive: its members follow")

    def _read(self, stream: io.BufferedReader) -> bytes:
        stated, limit = self.entry.size, self.walk.bounds.max_bytes
        if stated is not None and stated > limit:
            raise MediaError(f"{stated:,} bytes exceed the limit of {limit:,}", "container")
        buffer = io.BytesIO()
        while chunk := stream.read(CHUNK):
            if buffer.tell() + len(chunk) > limit:
                claim = "" if stated is None else f"; {stated:,} were stated"
                raise MediaError(f"more than {limit:,} bytes, the limit{claim}", "container")
            buffer.write(chunk)
        if stated is not None and buffer.tell() != stated:
            reason = f"damaged: {buffer.tell():,} bytes, where {stated:,} were stated"
            raise MediaError(reason, "container")
        return buffer.getvalue()


def _unique(stored: str, taken: dict[str, int]) -> str:
    """Return the name a member goes by, and take it; see `Member`.

    `taken` maps each name to the next number to try for it, so that a million equal names are not
    a million searches.
    """
    name = stored[:_MAX_NAME].replace("!", "%21") or "unnamed"
    if name not in taken:
        taken[name] = 2
        return name
    stem, suffix = os.path.splitext(name)
    while (candidate := f"{stem} ({taken[name]}){suffix}") in taken:
        taken[name] += 1
    taken[name] += 1
    taken[candidate] = 2
    return candidate


def _problem(name: str, place: tuple[int, ...], error: MediaError) -> Member:
    def load(_: Callable[[bytes], None]) -> bytes:
        raise error

    return Member(name, None, place, load)


def _unreadable(kind: str | None) -> MediaError:
    if kind is None:
        return NotMediaError("no known archive format")
    return MediaError(f"{kind} archives are not read by this version", "container")


def _in_words(error: Exception) -> MediaError:
    """Say what went wrong in words for the report; the library's own follow after the colon."""
    if isinstance(error, MediaError):
        return error
    detail = str(error) or type(error).__name__
    if isinstance(error, MemoryError):
        reason = "not enough memory"
    elif isinstance(error, EOFError) or "truncated" in detail.lower():
        reason = f"truncated: {detail}"
    else:
        reason = f"damaged: {detail}"
    return MediaError(reason, "container")
