"""The walk through an archive, and the archives inside it: every member's bytes, in place.

Nothing is written to disk, no name is ever used as a path, and no size is believed. The walk names
each member before its bytes are touched: it belongs into worker processes, and when one of them
dies, the caller knows at which member, and goes on behind it.
"""

from __future__ import annotations

import io
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
    unique,
)
from nearsearch.media.streams import CHUNK, Entry, in_words, read_some

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = ["Bounds", "Loaded", "Member", "MembersFollow", "container_format", "members"]

_FREE_BYTES: Final = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What one walk may cost. The limits count what really comes out, whatever headers say.

    None of them is a time, and the time limit of the workers is for each member: a million small
    members, each as slow as it may be, occupy a process for days.
    """

    max_bytes: int
    """Of one member, and of a zip inside another archive, which must be held in memory."""
    max_members: int = 1_000_000
    """Folders included."""
    max_depth: int = 4
    """Archives around a member, the outermost included; a compressed tar is one."""
    max_expansion: int = 200
    """Decompressed bytes for each byte of the outermost file, after the first 64 MiB.

    Where members of a zip are looked for without its directory, the bytes searched count too.
    """


class MembersFollow(NotMediaError):  # noqa: N818 - no error: where the walk goes next
    """A member is an archive itself; what is in it comes next."""


class Loaded(NamedTuple):
    """The bytes of a member that came out, and what is wrong with them, if anything is."""

    data: bytes
    problem: str | None


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
        Returns the bytes, also those of a damaged member. Call it once, before the next member is
        asked for; if it is not called, the member is passed over with all that is in it. What it is
        called with is given the beginning of what is no archive, and may raise before the rest is
        read. Raises `MembersFollow` for archives, `NotMediaError` for links; `MediaError` where a
        limit is reached, or nothing comes out.
    """

    name: str
    size: int | None
    place: tuple[int, ...]
    load: Callable[[Callable[[bytes], None]], Loaded]


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
            yield _problem("", (0,), in_words(error))
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
        problem: str | None = None,
    ) -> Iterator[Member]:
        """Walk one archive, and the archives in it; `after` is relative to it.

        `problem` is what is wrong with `file` itself, to be told at the end.
        """
        taken: dict[str, int] = {}
        number = -1
        try:
            for number, entry in enumerate(entries(kind, file, name, self.spend)):
                self._count_member()
                if entry.open is None:
                    continue
                own = unique(entry.name, taken)
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
                    kind_, file_, wrong = pending.inner
                    yield from self.level(kind_, file_, own, f"{prefix}{own}!", here, deeper, wrong)
                if self.reached is not None:
                    raise self.reached
            if problem is not None:
                raise MediaError(problem, "container")
        except Exception as error:
            if self.reached is not None and place:
                return  # the outermost level says it, once
            if (number + 1,) > after[:1]:
                yield _problem(prefix, (*place, number + 1), in_words(error))


@dataclass(slots=True)
class _Pending:
    """A member from its announcement to the next one."""

    walk: _Walk
    entry: Entry
    depth: int
    inner: tuple[str, BinaryIO, str | None] | None = None
    """Set by loading: the member is an archive of this kind, to be walked next; its problem."""
    over: bool = False

    def load(self, check: Callable[[bytes], None]) -> Loaded:
        """See `Member`."""
        if self.over:
            raise UsageError("load: only once, and before the next member is asked for")
        self.over = True
        try:
            return self._load(check)
        except Exception as error:
            problem = in_words(error)
            if problem is error:
                raise
            raise problem from error

    def enter(self) -> None:
        """Load for the sake of `inner` alone."""
        try:
            self._load(lambda _: None)
        except Exception as error:
            if self.inner is None:
                raise in_words(error) from error

    def _load(self, check: Callable[[bytes], None]) -> Loaded:
        if self.entry.open is None:
            raise NotMediaError("a folder")
        stream = self.entry.open()
        head = stream.peek(HEAD)[:HEAD]
        kind = sniff_head(head)
        if kind is None and not is_program(head):
            check(head)
        source: BinaryIO = stream
        loaded = Loaded(b"", None)
        if kind in REFUSED:
            raise _unreadable(kind)
        if kind in {None, "ZIP"}:  # a zip is read from its end; the others are walked as they come
            loaded = self._read(stream)
            source = io.BytesIO(loaded.data)
            if is_program(head):
                kind = container_format(source)
        if kind is None:
            return loaded
        if self.depth >= self.walk.bounds.max_depth:
            limit = f"the limit of {self.walk.bounds.max_depth}"
            raise MediaError(f"{kind} archive inside {self.depth} others: {limit}", "container")
        self.inner = kind, source, loaded.problem
        raise MembersFollow(f"{kind} archive: its members follow")

    def _read(self, stream: io.BufferedReader) -> Loaded:
        stated, limit = self.entry.size, self.walk.bounds.max_bytes
        buffer = io.BytesIO()
        problem = None
        while True:
            try:
                chunk = read_some(stream, CHUNK)
            except Exception as error:
                if self.walk.reached is not None or not buffer.tell():
                    raise
                problem = in_words(error).reason
                break
            if not chunk:
                break
            if buffer.tell() + len(chunk) > limit:
                # Not asked before: one wrong bit makes a size of gigabytes.
                if stated is not None and stated > limit:
                    reason = f"{stated:,} bytes exceed the limit of {limit:,}"
                else:
                    claim = "" if stated is None else f"; {stated:,} were stated"
                    reason = f"more than {limit:,} bytes, the limit{claim}"
                raise MediaError(reason, "container")
            buffer.write(chunk)
        if problem is None and stated not in {None, buffer.tell()}:
            problem = f"damaged: {buffer.tell():,} bytes, where {stated:,} were stated"
            if not buffer.tell():
                raise MediaError(problem, "container")
        return Loaded(buffer.getvalue(), problem)


def _problem(name: str, place: tuple[int, ...], error: MediaError) -> Member:
    def load(_: Callable[[bytes], None]) -> Loaded:
        raise error

    return Member(name, None, place, load)


def _unreadable(kind: str | None) -> MediaError:
    if kind is None:
        return NotMediaError("no known archive format")
    return MediaError(f"{kind} archives are not read by this version", "container")
