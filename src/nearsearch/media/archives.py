"""The bytes of an archive -> what kind it is, and its entries, each opened only when asked.

What hostile bytes make the libraries raise passes through: `media.containers` puts it into words.
"""

from __future__ import annotations

import bz2
import io
import lzma
import os.path
import re
import zlib
from typing import TYPE_CHECKING, BinaryIO, Final, Protocol

from nearsearch.errors import MediaError
from nearsearch.media.streams import CHUNK, STEP, Entry, joined, metered, read_some
from nearsearch.media.tars import tar_entries, tar_header
from nearsearch.media.zips import find_directory, zip_entries

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_MAX_NAME: Final = 4096  # PATH_MAX: no file that was ever packed had a longer one
HEAD: Final = 4096
"""The format of a file shows within so many bytes, but for self-extracting archives."""

# --- what a file is ---------------------------------------------------------------------------

_MAGIC: Final = tuple(
    (re.compile(magic, re.DOTALL), kind)
    for kind, magic in (
        ("ZIP", rb"PK(?:\x03\x04|\x05\x06|\x07\x08PK|00PK)"),
        ("GZIP", rb"\x1f\x8b\x08"),
        ("BZIP2", rb"BZh[1-9](?:1AY&SY|\x17\x72\x45\x38\x50\x90)"),
        ("XZ", rb"\xfd7zXZ\0"),
        ("ZSTD", rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18"),
        ("7Z", rb"7z\xbc\xaf\x27\x1c"),
        ("RAR", rb"Rar!\x1a\x07"),
        ("CAB", rb"MSCF\0\0\0\0"),
        ("LZ4", rb"\x04\x22\x4d\x18"),
        ("LZIP", rb"LZIP\x01"),
        ("LHA", rb".{2}-lh[\d]-"),
    )
)
_PROGRAM: Final = re.compile(rb"MZ|\x7fELF|#!")
REFUSED: Final = frozenset({"7Z", "RAR", "CAB", "LZ4", "LZIP", "LHA"})
"""Kinds that are recognised so that the report can name them, and not read."""


def container_format(file: BinaryIO) -> str | None:
    """Return the kind of archive `file` is by its bytes (``"ZIP"``, ``"7Z"``), None if it is none.

    A name means that the file claims to be this, not that it can be read. Programs are asked for a
    zip directory at their end, so that self-extracting archives are found. Needs a seekable file
    and moves its position. Ask this before `image.sniff`: a tar begins with the name of a file.

    A zip behind a picture is not found, as that would cost a read of every picture's end: the file
    is the picture that it begins with.
    """
    file.seek(0)
    head = file.read(HEAD)
    if is_program(head):
        return "ZIP" if find_directory(file) else None
    return sniff_head(head)


def is_program(head: bytes) -> bool:
    """Tell whether a zip directory may stand at the end of the file that begins with `head`."""
    return _PROGRAM.match(head) is not None


def sniff_head(head: bytes) -> str | None:
    """Do what `container_format` does with no more than the first `HEAD` bytes."""
    kind = next((kind for magic, kind in _MAGIC if magic.match(head)), None)
    if kind is None and (head[257:262] == b"ustar" or tar_header(head[:512]) is not None):
        return "TAR"
    return kind


# --- its entries ------------------------------------------------------------------------------


def entries(kind: str, file: BinaryIO, name: str, spend: Callable[[int], None]) -> Iterator[Entry]:
    """Yield the entries of the archive `file`, called `name`, in the order they are stored.

    `file` must be seekable for ``"ZIP"``; others are read forward. `spend` is told of every byte
    that a decompressor gave, and ends the work by raising.

    Raises
    ------
    MediaError
        After the entries that could be read: what was not.
    Exception
        The same, in the words of a library.
    """
    if kind == "ZIP":
        return zip_entries(file, spend)
    if kind == "TAR":
        return tar_entries(file)
    return _compressed_entries(kind, file, name, spend)


def _compressed_entries(
    kind: str, file: BinaryIO, name: str, spend: Callable[[int], None]
) -> Iterator[Entry]:
    stream = metered(_decoded(kind, file), spend)
    if sniff_head(stream.peek(HEAD)[:HEAD]) == "TAR":
        yield from tar_entries(stream)
        return
    # Not the name that a gzip header may hold: it says what the sender liked.
    stem, suffix = os.path.splitext(os.path.basename(name))
    yield Entry(stem if suffix else "content", None, lambda: stream)


def unique(stored: str, taken: dict[str, int]) -> str:
    """Return the name a member goes by, and take it; see `containers.Member`.

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


# --- decompression ----------------------------------------------------------------------------


class _Decoder(Protocol):
    """Of one stream, as in `bz2` and `lzma`: it keeps what it was not asked for yet."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Gunzip:
    """`zlib` as a `_Decoder`. All that comes before a damage is given, too: a checksum fails after
    the last byte, which by itself would cost the last step.
    """

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(31)
        self._error: zlib.error | None = None

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def needs_input(self) -> bool:
        return not self._inner.unconsumed_tail and self._error is None

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        if self._error is not None:
            raise self._error
        data = self._inner.unconsumed_tail + data
        again = self._inner.copy()
        try:
            return self._inner.decompress(data, max_length)
        except zlib.error as error:
            self._error = error
        whole = bytearray()
        try:
            for at in range(len(data)):
                whole += again.decompress(data[at : at + 1])
        except zlib.error:
            pass
        return bytes(whole)


_DECODERS: Final[dict[str, Callable[[], _Decoder]]] = {
    "GZIP": _Gunzip,
    "BZIP2": bz2.BZ2Decompressor,
    "XZ": lzma.LZMADecompressor,
}


class _Source:
    """A file, into which what was read too far can be put back."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._back = file, b""

    def some(self) -> bytes:
        data, self._back = self._back, b""
        return data or read_some(self._file, STEP)

    def upto(self, size: int) -> bytes:
        while len(self._back) < size and (more := read_some(self._file, STEP)):
            self._back += more
        data, self._back = self._back[:size], self._back[size:]
        return data

    def put_back(self, data: bytes) -> None:
        self._back = data + self._back

    def head(self) -> bytes:
        """Return what comes next, without the zeros that pad archives, and do not pass over it."""
        while (data := self.some()) and not (data := data.lstrip(b"\0")):
            pass
        self.put_back(data)
        data = self.upto(HEAD)
        self.put_back(data)
        return data

    def left(self) -> int:
        """Count the bytes that are left; they are passed over."""
        count = len(self._back)
        if self._file.seekable():
            at = self._file.tell()
            return count + self._file.seek(0, io.SEEK_END) - at
        while data := read_some(self._file, CHUNK):
            count += len(data)
        return count


def _decoded(kind: str, file: BinaryIO) -> Iterator[bytes]:
    """Yield what all the streams or frames of `file` hold, one after the other."""
    source = _Source(file)
    while sniff_head(head := source.head()) == kind:
        if kind == "ZSTD":
            yield from _zstd(source)
        else:
            yield from _stream(_DECODERS[kind](), source)
    if head:
        raise MediaError(f"{source.left():,} bytes follow that are no {kind} data", "container")


def _stream(decoder: _Decoder, source: _Source) -> Iterator[bytes]:
    while not decoder.eof:
        given = source.some() if decoder.needs_input else b""
        ended = decoder.needs_input and not given
        if data := decoder.decompress(given, STEP):
            yield data
        elif ended and not decoder.eof:
            raise EOFError("it ends within the compressed data")
    source.put_back(decoder.unused_data)


def _zstd(source: _Source) -> Iterator[bytes]:
    import pyarrow as pa  # here: few workers ever meet a zstd archive

    # Frame by frame: the library reads on into what follows, and loses all when it meets garbage.
    stream = pa.CompressedInputStream(pa.PythonFile(joined(_frame(source)), "r"), "zstd")
    while data := stream.read(STEP):
        yield data


def _frame(source: _Source) -> Iterator[bytes]:
    """Yield the bytes of one zstd frame (RFC 8878), as far as they are there."""
    yield (head := source.upto(5))
    if head[:1] != b"\x28":
        yield (rest := source.upto(3))  # of a length, little-endian; the first byte came already
        left = int.from_bytes(head[4:] + rest, "little")
        while left and (data := source.upto(min(left, CHUNK))):
            left -= len(data)
            yield data
        return
    flags = head[4] if len(head) == 5 else 0
    single, content = flags >> 5 & 1, flags >> 6
    yield source.upto((not single) + (0, 1, 2, 4)[flags & 3] + (single, 2, 4, 8)[content])
    last = 0
    while not last and len(block := source.upto(3)) == 3:
        header = int.from_bytes(block, "little")
        last, run = header & 1, header >> 1 & 3 == 1
        yield block + source.upto(1 if run else header >> 3)
    if last and flags & 4:
        yield source.upto(4)
