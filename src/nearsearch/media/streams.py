"""Pieces of streams: what the readers of archives have in common."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, BinaryIO, Final, NamedTuple

if TYPE_CHECKING:
    import gzip
    from collections.abc import Callable

    from _typeshed import WriteableBuffer

CHUNK: Final = 1 << 16


class Entry(NamedTuple):
    """What one header says: the name unchanged (surrogate escapes), the size as stated.

    `open` gives the bytes as a stream with ``peek``; it may be called once, before the next entry
    is asked for, and raises whatever keeps the entry from being read. None: a folder.
    """

    name: str
    size: int | None
    open: Callable[[], io.BufferedReader] | None


class Part(io.RawIOBase):
    """The next `left` bytes of `file`, or those at `start`, whoever else moves its position."""

    def __init__(self, file: BinaryIO, left: int, start: int | None = None) -> None:
        self._file, self.left, self._at = file, left, start

    def readable(self) -> bool:
        """Return True, as `io` asks."""
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """Read on; an end before `left` bytes is an `EOFError`."""
        view = memoryview(buffer)
        if self._at is not None:
            self._file.seek(self._at)
        data = self._file.read(min(len(view), self.left))
        if not data and self.left and len(view):
            raise EOFError(f"{self.left:,} bytes are missing")
        view[: len(data)] = data
        self.left -= len(data)
        if self._at is not None:
            self._at += len(data)
        return len(data)


class _Metered(io.RawIOBase):
    """What a decompressor gives, told to `spend`; all before a damage comes before its error."""

    def __init__(self, source: gzip.GzipFile, spend: Callable[[int], None]) -> None:
        self._source, self._spend = source, spend
        self._error: Exception | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        view = memoryview(buffer)
        filled = 0
        while filled < len(view) and self._error is None:
            try:
                # Small steps: what one call has decoded is lost where it meets a damage.
                data = self._source.read1(min(len(view) - filled, 8192))
            except Exception as error:
                self._error = error
                break
            if not data:
                break
            view[filled : filled + len(data)] = data
            filled += len(data)
        if not filled and self._error is not None:
            raise self._error
        self._spend(filled)
        return filled


def metered(source: object, spend: Callable[[int], None]) -> io.BufferedReader:
    """Return the stream `source`, a decompressor, with `spend` told of every byte."""
    # All sources have `read1`, which is all that is asked of them; the libraries share no base.
    return io.BufferedReader(_Metered(source, spend), CHUNK)  # type: ignore[arg-type]


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
