"""One file to its digests and codes, or each file in an archive: what a worker process does."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from nearsearch.checks import file_time
from nearsearch.codes import unhashed_id
from nearsearch.errors import MediaError, NotMediaError
from nearsearch.media.containers import MembersFollow, container_format, members
from nearsearch.media.formats import check_readable, is_film, sniff
from nearsearch.media.seen import TELL_SECONDS, film, pictures

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

    from nearsearch.media.seen import Wanted

_HEAD: Final = 4096
_CHUNK: Final = 1 << 20
_AT_WORK: Final = {"status": "at", "member": None, "place": None}
MEDIA_SUFFIXES: Final = tuple(
    f".{name}"
    for name in (
        *("jpg", "jpeg", "jpe", "jfif", "png", "apng", "gif", "webp", "bmp", "tif", "tiff"),
        *("avif", "heic", "heif", "jp2", "ico", "ppm", "pgm", "pbm", "mpo"),
        *("mp4", "m4v", "mov", "3gp", "mkv", "webm", "avi", "wmv", "flv", "mpg", "mpeg"),
        *("m2ts", "mts", "vob", "ogv", "rm", "rmvb"),
    )
)
"""Names that promise a picture or a film: a file so named that is none has failed, others are
skipped."""


def outcomes(
    path: str, wanted: Wanted, *, known: str | None = None, after: Sequence[int] | None = None
) -> Iterator[dict[str, Any]]:
    """Read a file once and yield what became of it, last; of an archive first its members.

    Parameters
    ----------
    known
        The id, in hex, of the item that the file was; if its bytes still are, it is not decoded.
    after
        The place of the member of an archive that was reached before.

    Yields
    ------
    dict
        ``status`` is ``hashed``, with the digests, ``size``, ``mtime_ns``, ``format``, ``width``,
        ``height`` and ``codes``: spec name to views, each a list of what it is, its time in
        milliseconds, its code in hex and its quality. With ``reason`` and ``stage`` too where the
        picture is damaged.

        Or ``skipped`` or ``failed``, with ``reason`` and ``stage``, and as much of the above as is
        known; ``unchanged``; ``opened`` for an archive.

        Members have their name as ``member``. Before one is read, ``at`` announces it and its
        ``place``; without either it says that the file itself is at work.
    """
    facts: dict[str, Any] = {}
    try:
        with _open(path) as file:
            before = os.fstat(file.fileno())
            facts = {"size": before.st_size, "mtime_ns": file_time(before)}
            if container_format(file):
                facts |= yield from _digests_of(file, wanted)
                if unhashed_id(bytes.fromhex(facts["sha256"])).hex() == known:
                    yield {"status": "unchanged", **facts}
                    return
                yield from _archive(path, file, wanted, facts, after)
            elif _is_film(path, file):
                facts |= yield from _digests_of(file, wanted)
                if facts["sha256"] == known:
                    yield {"status": "unchanged", **facts}
                    return
                for outcome in _film(file, wanted, facts):
                    if outcome is not _AT_WORK:
                        _check_same(file, facts)
                    yield outcome
            else:
                data = _read(file, wanted.bounds.max_bytes)
                _check_same(file, facts, len(data))
                yield from _content(data, wanted, facts, known)
    except Exception as error:  # one file's surprise must not end the others' work
        outcome = {**_explained(error), **facts}
        is_readable = 0 < facts.get("size", 0) <= wanted.bounds.max_bytes
        if outcome["status"] == "failed" and "sha256" not in outcome and is_readable:
            # What cannot be decoded can still be known by its digest; but all empty files have one.
            with suppress(OSError, MediaError), _open(path) as file:
                outcome |= yield from _digests_of(file, wanted)
        yield outcome


def _digests_of(file: BinaryIO, wanted: Wanted) -> Generator[dict[str, Any], None, dict[str, str]]:
    """Return the digests of a file that is not held in memory, by name, in hex.

    Yields that it is at work: an archive may take longer than the time that a file has.
    """
    hashes = {name: _hash(name) for name in ("sha256", *wanted.digests)}
    file.seek(0)
    told = time.monotonic()
    while chunk := file.read(_CHUNK):
        for made in hashes.values():
            made.update(chunk)
        if time.monotonic() - told > TELL_SECONDS:
            yield _AT_WORK
            told = time.monotonic()
    file.seek(0)
    return {name: made.hexdigest() for name, made in hashes.items()}


def _hash(name: str, data: bytes = b"") -> Any:
    return hashlib.new(name, data, usedforsecurity=False)


def _nothing(_: bytes) -> None:
    pass


def _explained(error: Exception) -> dict[str, Any]:
    """Say what kept a file from becoming codes."""
    if isinstance(error, NotMediaError):
        return {"status": "skipped", "reason": error.reason, "stage": error.stage}
    if isinstance(error, MediaError):
        return {"status": "failed", "reason": error.reason, "stage": error.stage}
    if isinstance(error, OSError):
        return {"status": "failed", "reason": error.strerror or str(error), "stage": "read"}
    if isinstance(error, MemoryError):
        return {"status": "failed", "reason": "out of memory", "stage": "decode"}
    reason = f"{type(error).__name__}: {error}"
    return {"status": "failed", "reason": reason, "stage": "hash"}


def _open(path: str) -> BinaryIO:
    # O_NONBLOCK: opening a pipe that nobody writes to must not wait for ever.
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(handle).st_mode):  # before `fdopen`, which refuses folders
        os.close(handle)
        raise NotMediaError("not a regular file")
    return os.fdopen(handle, "rb")


def _is_film(path: str, file: BinaryIO) -> bool:
    """Tell by its first bytes whether a file is a film; it is a picture if it is none."""
    file.seek(0)
    head = file.read(_HEAD)
    _check_format(path, head)
    return is_film(sniff(head))


def _check_same(file: BinaryIO, facts: dict[str, Any], size: int | None = None) -> None:
    """Check that the file is as it was when it was opened."""
    now = os.fstat(file.fileno())
    read = now.st_size if size is None else size
    if (read, file_time(now)) != (facts["size"], facts["mtime_ns"]):
        raise MediaError("changed while it was read", "read")


def _read(file: BinaryIO, max_bytes: int) -> bytes:
    """Read a picture to its end."""
    size = os.fstat(file.fileno()).st_size
    if size > max_bytes:
        raise MediaError(f"{size:,} bytes exceed the limit of {max_bytes:,}", "read")
    file.seek(0)
    return file.read(size + 1)


def _archive(
    path: str,
    file: BinaryIO,
    wanted: Wanted,
    facts: dict[str, Any],
    after: Sequence[int] | None,
) -> Iterator[dict[str, Any]]:
    """Yield the outcomes of the members of an archive, then its own."""
    for member in members(file, os.path.basename(path), wanted.bounds, after=after or ()):
        if not member.name:  # the archive itself: what kept the rest from being read
            member.load(_nothing)
            continue
        yield {"status": "at", "member": member.name, "place": member.place}
        own: dict[str, Any] = {"mtime_ns": facts["mtime_ns"]}
        problem = None
        try:
            data, problem = member.load(partial(_check_format, member.name))
            own["size"] = len(data)
            _check_format(member.name, data[:_HEAD])
            for outcome in _content(data, wanted, own, None):
                if outcome["status"] == "at":
                    yield {"status": "at", "member": member.name, "place": member.place}
        except MembersFollow:
            continue
        except Exception as error:
            outcome = {**_explained(error), **own}
        if problem is not None:
            told = "; ".join(filter(None, (problem, outcome.get("reason"))))
            outcome = {"stage": "damaged", **outcome, "reason": told}
        yield {**outcome, "member": member.name}
    _check_same(file, facts)
    yield {"status": "opened", "reason": "an archive", "stage": "archive", **facts}


def _content(
    data: bytes, wanted: Wanted, facts: dict[str, Any], known: str | None
) -> Iterator[dict[str, Any]]:
    """Yield the outcome of a picture or film that was read whole, last."""
    digest = hashlib.sha256(data).hexdigest()
    if digest == known:
        yield {"status": "unchanged", **facts}
        return
    facts["sha256"] = digest
    facts |= {name: _hash(name, data).hexdigest() for name in wanted.digests}
    if is_film(sniff(data)):
        yield from _film(io.BytesIO(data), wanted, facts)
    else:
        yield {"status": "hashed", **facts, **pictures(data, wanted)}


def _film(source: BinaryIO, wanted: Wanted, facts: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield that it is at work, and last what was seen of a film."""
    for seen in film(source, wanted):
        yield _AT_WORK if seen is None else {"status": "hashed", **facts, **seen}


def _check_format(path: str, head: bytes) -> None:
    """Refuse what is no picture or film by its first bytes, before it is read to its end."""
    promised = path.lower().endswith(MEDIA_SUFFIXES)
    if not head:
        raise MediaError("empty file", "read") if promised else NotMediaError("empty file")
    try:
        if not is_film(sniff(head)):
            check_readable(head)
    except NotMediaError:
        if promised and sniff(head) is None:
            reason = "named like a picture or film, but its bytes are of no known format"
            raise MediaError(reason, "decode") from None
        raise
