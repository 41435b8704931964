"""The bytes of a zip -> its entries, by its central directory, and without it where it is damaged.

Not by `zipfile.ZipFile`: it holds the whole directory in memory, and loses all of it for one record
that it does not understand. Its decompression of single entries is used.

Before each entry stands a local header, that says nearly what the directory says. Where the
directory is lost, damaged, or does not account for all bytes of the file, they are searched for,
and yield what the directory does not name.
"""

from __future__ import annotations

import io
import struct
import zipfile
from array import array
from typing import TYPE_CHECKING, Any, BinaryIO, Final, NamedTuple

import numpy as np

from nearsearch.errors import MediaError
from nearsearch.media.streams import Entry, Part, checked, find, inflated_end, metered, read_at

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Spend = Callable[[int], None]

_END: Final = struct.Struct("<4s8xIIH")  # signature, size and offset of directory, comment
_END64: Final = struct.Struct("<4s36xQQ")
_LOCATOR: Final = struct.Struct("<4s16x")
# signature, flags, method, crc, both sizes, lengths of name, extra and comment, offset
_RECORD: Final = struct.Struct("<4s4xHH4xIIIHHH8xI")
# signature, flags, method, crc, both sizes, lengths of name and extra
_LOCAL: Final = struct.Struct("<4s2xHH4xIIIHH")
_FULL: Final = 0xFFFFFFFF  # the true number is in the zip64 extra field
_METHODS: Final = frozenset({0, 8, 12, 14})  # what `zipfile` can decompress
_ENCRYPTED: Final = 1
_DESCRIBED: Final = 8  # sizes and checksum come behind the data
_SLACK: Final = 96
"""Bytes between entries that no record accounts for: local extra fields and data descriptors.

No picture fits into them, with a local header.
"""


class Directory(NamedTuple):
    """Where the central directory is, and what to add to the offsets in it.

    They are counted from the beginning of the archive, and a program may stand before that. `stop`
    is where the end record ends, but for its comment.
    """

    start: int
    size: int
    shift: int
    stop: int


class _Facts(NamedTuple):
    """What a header says of an entry; None: it does not."""

    flags: int
    method: int
    crc: int | None
    packed: int
    size: int | None


def find_directory(file: BinaryIO) -> Directory | None:
    """Find the last end record that points to a directory: a comment may hold a false one."""
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
        stop = end + _END.size
        locator = at - _LOCATOR.size
        if locator >= _END64.size and tail.startswith(b"PK\x06\x07", locator):
            record = locator - _END64.size
            if tail.startswith(b"PK\x06\x06", record):
                _, size, offset = _END64.unpack_from(tail, record)
                end = base + record
        start = end - size
        if size == 0 and at == 0 == base:
            return Directory(start, 0, 0, stop)
        if size >= _RECORD.size and start >= 0 and read_at(file, start, 4) == b"PK\x01\x02":
            return Directory(start, size, start - offset, stop)
    return None


def zip_entries(file: BinaryIO, spend: Spend) -> Iterator[Entry]:
    """Yield what the directory names, then what it does not; see `archives.entries`.

    The entries may overlap. `spend` is told of the bytes searched, too.
    """
    length = file.seek(0, io.SEEK_END)
    directory = find_directory(file)
    named = _Named()
    problem = "" if directory else "the zip directory is missing: truncated or damaged"
    if directory is not None:
        for number, record in enumerate(_records(file, directory, spend), 1):
            if record is None:
                problem = problem or f"the zip directory is damaged near its record {number:,}"
                continue
            fields, name, extra = record
            _, flags, method, crc, packed, size, *_, offset = fields
            size, packed, offset = _zip64(extra, (size, packed, offset))
            at = offset + directory.shift
            if 0 <= at < length:
                named.add(at, min(at + _LOCAL.size + len(name) + packed, length))
            facts = _Facts(flags, method, crc, packed, size)
            yield _entry(file, at, name, facts, spend)
    if named.cover(directory, length) and not problem:
        return
    count = 0
    for entry in _unnamed(file, length, named, spend):
        count += entry.open is not None
        yield entry
    found = f"{count:,} members were" if count > 1 else "1 member was"
    if problem and count:
        problem += f"; {found} found without it"
    elif count:
        problem = f"{found} found that the zip directory does not name"
    if problem:
        raise MediaError(problem, "container")


def _records(
    file: BinaryIO, directory: Directory, spend: Spend
) -> Iterator[tuple[tuple[Any, ...], bytes, bytes] | None]:
    """Yield fields, name and extra field of each record; None for bytes that are none.

    A record counts if another one, or the end, stands where its lengths say: else they are not to
    be believed, and what it describes is found by its local header.
    """
    at, stop = directory.start, directory.start + directory.size
    while at < stop:
        fixed = read_at(file, at, _RECORD.size)
        if fixed.startswith(b"PK\x05\x05"):  # a signature of the directory, at its end
            return
        if len(fixed) == _RECORD.size and fixed.startswith(b"PK\x01\x02"):
            fields = _RECORD.unpack(fixed)
            name, extra, comment = fields[6:9]
            after = at + _RECORD.size + name + extra + comment
            if after <= stop and read_at(file, after, 2) == b"PK":
                text = read_at(file, at + _RECORD.size, name + extra)
                yield fields, text[:name], text[name:]
                at = after
                continue
        yield None
        at = find(file, b"PK\x01\x02", at + 1, stop, spend)


def _unnamed(file: BinaryIO, length: int, named: _Named, spend: Spend) -> Iterator[Entry]:
    """Yield, in the order they stand there, the entries that only their local headers name.

    What is in an entry is passed over only where two things agree on its end: an entry that is a
    zip itself has headers in it, and a size that is damaged must not hide what follows.
    """
    at = 0
    while (at := find(file, b"PK\x03\x04", at, length, spend)) < length:
        header = read_at(file, at, _LOCAL.size)
        if len(header) < _LOCAL.size:
            return
        _, flags, method, crc, packed, size, name_length, extra_length = _LOCAL.unpack(header)
        text = read_at(file, at + _LOCAL.size, name_length + extra_length)
        size, packed = _zip64(text[name_length:], (size, packed))
        start = at + _LOCAL.size + len(text)
        facts = _Facts(flags, method, crc, packed, size)
        open_ended = bool(flags & _DESCRIBED) and not packed
        end = named.end(at)
        if end is not None:
            end += extra_length
            at = end if end <= length and (open_ended or end == start + packed) else start
            continue
        if not name_length:  # chance
            at += 4
            continue
        here, at = at, start
        if open_ended:
            if method == zipfile.ZIP_DEFLATED:
                end = inflated_end(file, start, spend)
            else:
                end = _described_end(file, start, length, spend)
            if end is None:
                end = find(file, b"PK\x03\x04", start, length, spend)
                facts = facts._replace(crc=None, packed=end - start, size=None)
            else:
                at = end
                crc = _described_crc(file, end)
                facts = facts._replace(crc=crc, packed=end - start, size=None)
        elif start + packed == length or read_at(file, start + packed, 2) == b"PK":
            at = start + packed
        yield _entry(file, here, text[:name_length], facts, spend)


def _described_end(file: BinaryIO, start: int, length: int, spend: Spend) -> int | None:
    """Return where a descriptor stands that says how far from `start` it is."""
    at = start
    while (at := find(file, b"PK\x07\x08", at, length, spend)) < length:
        if read_at(file, at + 8, 4) == (at - start & _FULL).to_bytes(4, "little"):
            return at
        at += 4
    return None


def _described_crc(file: BinaryIO, at: int) -> int | None:
    descriptor = read_at(file, at, 8)
    crc = descriptor[4:] if descriptor.startswith(b"PK\x07\x08") else descriptor[:4]
    return int.from_bytes(crc, "little") if len(crc) == 4 else None


class _Named:
    """Where the entries that a directory names begin, and the least bytes they reach to."""

    def __init__(self) -> None:
        self._spans = array("q")  # a million of them are 16 MB

    def add(self, start: int, end: int) -> None:
        self._spans.extend((start, end))

    def cover(self, directory: Directory | None, length: int) -> bool:
        """Tell whether they and the directory leave no room in the file, and do not overlap.

        Call it before `end`, which needs them in order.
        """
        spans = np.array(self._spans, np.int64).reshape(-1, 2)
        self._starts, self._ends = spans[np.argsort(spans[:, 0], kind="stable")].T
        if directory is None:
            return False
        gaps = np.append(self._starts, directory.start) - np.append(0, self._ends)
        return bool(((gaps >= 0) & (gaps <= _SLACK)).all()) and length - directory.stop <= _SLACK

    def end(self, start: int) -> int | None:
        """Return what the entry at `start` reaches to, None if there is none."""
        index = int(np.searchsorted(self._starts, start))
        if index == len(self._starts) or self._starts[index] != start:
            return None
        return int(self._ends[index])


def _entry(file: BinaryIO, at: int, name: bytes, facts: _Facts, spend: Spend) -> Entry:
    """Return the entry whose local header is at `at`."""
    text = name.decode("utf-8", "surrogateescape")
    # More than nothing deflated: no folder.
    if text.endswith("/") and not facts.size and facts.packed <= 2:
        return Entry(text, 0, None)

    def open_() -> io.BufferedReader:
        local = read_at(file, at, _LOCAL.size)
        if len(local) < _LOCAL.size or not local.startswith(b"PK\x03\x04"):
            raise MediaError(f"no zip entry at byte {at:,}, where the directory says", "container")
        _, flags, method, _, packed, _, name_length, extra_length = _LOCAL.unpack(local)
        if flags & facts.flags & _ENCRYPTED:  # one alone is a damaged bit
            raise MediaError("encrypted", "container")
        start = at + _LOCAL.size + name_length + extra_length
        # Of two sizes that differ, the one that leads to the next header.
        sizes = (facts.packed, packed or facts.packed)
        fitting = (size for size in sizes if read_at(file, start + size, 2) == b"PK")
        packed = next(fitting, facts.packed)
        info = zipfile.ZipInfo()
        info.compress_type = facts.method if facts.method in _METHODS else method
        info.compress_size = packed
        # All that is there: what the size in the directory would cut off might be a picture.
        info.file_size = 1 << 62
        try:
            source = zipfile.ZipExtFile(Part(file, packed, start), "r", info)
        except NotImplementedError:
            reason = f"zip compression method {method} is not read by this version"
            raise MediaError(reason, "container") from None
        return metered(checked(source, facts.crc), spend)

    return Entry(text, facts.size, open_)


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
