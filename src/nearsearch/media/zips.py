"""The bytes of a zip -> its entries, by its central directory, read record by record.

Not by `zipfile.ZipFile`: it holds the whole directory in memory, and loses all of it for one record
that it does not understand. Its decompression of single entries is used.
"""

from __future__ import annotations

import io
import struct
import zipfile
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from nearsearch.errors import MediaError
from nearsearch.media.streams import CHUNK, Entry, Part, exactly, metered

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_END: Final = struct.Struct("<4s8xIIH")  # signature, size and offset of directory, comment
_END64: Final = struct.Struct("<4s36xQQ")
_LOCATOR: Final = struct.Struct("<4s16x")
# signature, flags, method, crc, both sizes, lengths of name, extra and comment, offset
_RECORD: Final = struct.Struct("<4s4xHH4xIIIHHH8xI")
_LOCAL: Final = struct.Struct("<4s22xHH")
_FULL: Final = 0xFFFFFFFF  # the true number is in the zip64 extra field
_ENCRYPTED: Final = 1


def find_directory(file: BinaryIO) -> tuple[int, int, int] | None:
    """Return start and size of the central directory, and what to add to the offsets in it.

    They are counted from the beginning of the archive, and a program may stand before that. The
    last end record that points to a directory counts: a comment may hold a false one.
    """
    length = file.seek(0, io.SEEK_END)
    base = max(0, length - _END.size - 0xFFFF)
    file.seek(base)
    tail = file.read()
    at = len(tail)
    while (at := tail.rfind(b"PK\x05\x06", 0, at + 3)) >= 0:
        if at + _END.size > len(tail):
            continue
        _, size, offset, _ = _END.unpack_from(tail, at)
        end = base + at
        locator = at - _LOCATOR.size
        if locator >= _END64.size and tail.startswith(b"PK\x06\x07", locator):
            record = locator - _END64.size
            if tail.startswith(b"PK\x06\x06", record):
                _, size, offset = _END64.unpack_from(tail, record)
                end = base + record
        start = end - size
        if size == 0 and at == 0 == base:
            return start, 0, 0
        if size >= _RECORD.size and start >= 0:
            file.seek(start)
            if file.read(4) == b"PK\x01\x02":
                return start, size, start - offset
    return None


def zip_entries(file: BinaryIO, spend: Callable[[int], None]) -> Iterator[Entry]:
    """Yield what the directory names, as `archives.entries` does; the entries may overlap."""
    found = find_directory(file)
    if found is None:
        raise MediaError("the zip directory is missing: truncated or damaged", "container")
    start, size, shift = found
    directory: BinaryIO = io.BufferedReader(Part(file, size, start), CHUNK)
    number = 0
    while record := directory.read(_RECORD.size):
        number += 1
        fields = _RECORD.unpack(record) if len(record) == _RECORD.size else None
        if fields is None or fields[0] != b"PK\x01\x02":
            raise MediaError(f"the zip directory is damaged at its record {number:,}", "container")
        name, extra, _ = (exactly(directory, length) for length in fields[6:9])
        yield _zip_entry(file, fields, name, extra, shift, spend)


def _zip_entry(
    file: BinaryIO,
    fields: tuple[Any, ...],
    name: bytes,
    extra: bytes,
    shift: int,
    spend: Callable[[int], None],
) -> Entry:
    _, flags, method, crc, packed, size, *_, offset = fields
    size, packed, offset = _zip64(extra, (size, packed, offset))
    text = name.decode("utf-8", "surrogateescape")
    if text.endswith("/") and size == 0 and packed <= 2:  # more than nothing deflated: no folder
        return Entry(text, 0, None)

    def open_() -> io.BufferedReader:
        if flags & _ENCRYPTED:
            raise MediaError("encrypted", "container")
        at = offset + shift
        file.seek(at)
        local = file.read(_LOCAL.size)
        if len(local) < _LOCAL.size or not local.startswith(b"PK\x03\x04"):
            raise MediaError(f"no zip entry at byte {at:,}, where the directory says", "container")
        _, name_length, extra_length = _LOCAL.unpack(local)
        info = zipfile.ZipInfo()
        info.compress_type, info.compress_size, info.CRC = method, packed, crc
        # All that is there: what the size in the directory would cut off might be a picture.
        info.file_size = 1 << 62
        start = at + _LOCAL.size + name_length + extra_length
        try:
            source = zipfile.ZipExtFile(Part(file, packed, start), "r", info)
        except NotImplementedError:
            reason = f"zip compression method {method} is not read by this version"
            raise MediaError(reason, "container") from None
        return metered(source, spend)

    return Entry(text, size, open_)


def _zip64(extra: bytes, numbers: tuple[int, ...]) -> Iterator[int]:
    """Yield `numbers` with those that did not fit into 32 bits taken from the extra field."""
    at, values = 0, b""
    while at + 4 <= len(extra):
        tag, length = struct.unpack_from("<HH", extra, at)
        if tag == 1:
            values = extra[at + 4 : at + 4 + length]
            break
        at += 4 + length
    for number in numbers:
        if number == _FULL and len(values) >= 8:
            yield int.from_bytes(values[:8], "little")
            values = values[8:]
        else:
            yield number
