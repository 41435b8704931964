"""Pieces of streams: what the readers of archives have in common."""

from __future__ import annotations

import io
import zlib
from typing import TYPE_CHECKING, BinaryIO, Final, NamedTuple, cast

from nearsearch.errors import MediaError

if TYPE_CHECKING:
    import zipfile
    from collections.abc import Callable, Iterator

    from _typeshed import WriteableBuffer

CHUNK: Final = 1 << 16
STEP: Final = 8192
"""Of a decompressor, at most: what one call has decoded is lost where it meets a damage."""


class Entry(NamedTuple):
    """What one header says: the name unchanged (surrogate escapes), the size as stated.

    `open` gives the bytes as a stream with ``peek``; it may be called once, before the next entry
    is asked for, and raises whatever keeps the entry from being read. None: a folder.
    """

    name: str
    size: int | None
    open: Callable[[], io.BufferedReader] | None


class _Steps(io.RawIOBase):
    """Bytes that come in steps; all that come before a damage are read before its error."""

    _error: Exception | None = None

    def _step(self, size: int) -> bytes:
        """Return up to `size` bytes, none at the end."""
        raise NotImplementedError

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        view = memoryview(buffer)
        filled = 0  # to the brim: what a file is, is told by the first bytes read
        while filled < len(view) and self._error is None:
            try:
                data = self._step(len(view) - filled)
            except Exception as error:
                self._error = error
                break
            if not data:
                break
            view[filled : filled + len(data)] = data
            filled += len(data)
        if not filled and self._error is not None:
            raise self._error
        return filled


class Part(_Steps):
    """The next `left` bytes of `file`, or those at `start`, whoever else moves its position.

    An end before `left` bytes is an `EOFError`.
    """

    def __init__(self, file: BinaryIO, left: int, start: int | None = None) -> None:
        self._file, self.left, self._at = file, left, start

    def _step(self, size: int) -> bytes:
        if not self.left:
            return b""
        if self._at is not None:
            self._file.seek(self._at)
        data = read_some(self._file, min(size, self.left))
        if not data:
            raise EOFError(f"{self.left:,} bytes are missing")
        self.left -= len(data)
        if self._at is not None:
            self._at += len(data)
        return data


class _Pieces(_Steps):
    """`pieces`, none of them empty, as they are asked for."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces, self._rest = pieces, b""

    def _step(self, size: int) -> bytes:
        data = self._rest or next(self._pieces, b"")
        self._rest = data[size:]
        return data[:size]


def joined(pieces: Iterator[bytes]) -> io.BufferedReader:
    """Return `pieces`, none of them empty, as a stream."""
    return io.BufferedReader(_Pieces(pieces), CHUNK)


def metered(pieces: Iterator[bytes], spend: Callable[[int], None]) -> io.BufferedReader:
    """Do what `joined` does, with `spend` told of every byte."""

    def told() -> Iterator[bytes]:
        for piece in pieces:
            spend(len(piece))
            yield piece

    return joined(told())


def read_some(file: BinaryIO, size: int) -> bytes:
    """Read up to `size` bytes; no byte is lost before an error, as in ``read``."""
    return cast(io.BufferedReader, file).read1(size)


def exactly(file: BinaryIO, size: int) -> bytes:
    """Read `size` bytes, all of which must be there."""
    data = file.read(size)
    if len(data) < size:
        raise EOFError(f"{size - len(data):,} bytes are missing")
    return data


def skip(file: BinaryIO, size: int) -> None:
    """Pass over `size` bytes, all of which must be there."""
    if size and file.seekable():
        file.seek(size - 1, io.SEEK_CUR)
        exactly(file, 1)
        return
    while size:
        size -= len(exactly(file, min(size, CHUNK)))


def checked(source: zipfile.ZipExtFile, crc: int | None) -> Iterator[bytes]:
    """Yield all bytes, then check them: `zipfile` keeps the last ones if their sum is wrong."""
    found = 0
    while data := source.read1(STEP):
        found = zlib.crc32(data, found)
        yield data
    if crc is not None and found != crc:
        raise MediaError("damaged: the checksum (CRC-32) does not match", "container")


def read_at(file: BinaryIO, at: int, size: int) -> bytes:
    """Return what there is of `size` bytes at `at`, which may be any number."""
    if not 0 <= at < 1 << 62:
        return b""
    file.seek(at)
    return file.read(size)


def find(file: BinaryIO, what: bytes, at: int, stop: int, spend: Callable[[int], None]) -> int:
    """Return where `what` begins, at or behind `at`; `stop` if nowhere before that.

    `spend` is told of the bytes that were looked at.
    """
    step = STEP  # small at first: most of what is searched for is near
    while at < stop:
        chunk = read_at(file, at, min(step, stop - at))
        spend(len(chunk))
        found = chunk.find(what)
        if found >= 0:
            return at + found
        if len(chunk) < len(what):
            break
        at += len(chunk) - len(what) + 1
        step = min(step * 2, CHUNK)
    return stop


def inflated_end(file: BinaryIO, start: int, spend: Callable[[int], None]) -> int | None:
    """Return where the deflate stream at `start` ends, None if it does not."""
    decoder = zlib.decompressobj(-zlib.MAX_WBITS)
    at, data = start, b""  # `spend`: of what is read, too, as nothing may come out of it
    try:
        while not decoder.eof:
            if not data:
                data = read_at(file, at, CHUNK)
                at += len(data)
                if not data:
                    return None
                spend(len(data))
            spend(len(decoder.decompress(data, CHUNK)))
            data = decoder.unconsumed_tail
    except zlib.error:
        return None
    return at - len(decoder.unused_data)


def in_words(error: Exception) -> MediaError:
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
