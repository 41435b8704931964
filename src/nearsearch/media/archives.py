"""The bytes of an archive -> what kind it is, and its entries, each opened only when asked.

What hostile bytes make the libraries raise passes through: `media.containers` puts it into words.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os.path
import re
from typing import TYPE_CHECKING, BinaryIO, Final

from nearsearch.media.streams import Entry, metered
from nearsearch.media.tars import tar_entries, tar_header
from nearsearch.media.zips import find_directory, zip_entries

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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
    stream = metered(_decompressor(kind, file), spend)
    if sniff_head(stream.peek(HEAD)[:HEAD]) == "TAR":
        yield from tar_entries(stream)
        return
    # Not the name that a gzip header may hold: it says what the sender liked.
    stem, suffix = os.path.splitext(os.path.basename(name))
    yield Entry(stem if suffix else "content", None, lambda: stream)


def _decompressor(kind: str, file: BinaryIO) -> object:
    """Return a reader of all the streams or frames of `file`, one after the other."""
    if kind == "GZIP":
        return gzip.GzipFile(fileobj=file, mode="rb")
    if kind == "BZIP2":
        return bz2.BZ2File(file)
    if kind == "XZ":
        return lzma.LZMAFile(file)
    import pyarrow as pa  # here: few workers ever meet a zstd archive

    return pa.CompressedInputStream(pa.PythonFile(file, "r"), "zstd")
