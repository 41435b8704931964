"""The bytes of a tar -> its entries, read forward, header by header.

Not by `tarfile.TarFile`: it reads headers of any size, keeps all of them, and stops at the first
that is damaged. Its parser of single headers is used.
"""

from __future__ import annotations

import io
import re
import tarfile
from typing import TYPE_CHECKING, BinaryIO, Final

from nearsearch.errors import MediaError, NotMediaError
from nearsearch.media.streams import CHUNK, Entry, Part, exactly, skip

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_BLOCK: Final = tarfile.BLOCKSIZE
_MAX_HEADER: Final = 1 << 20  # of a pax header or a long name
_PAX_RECORD: Final = re.compile(rb"(\d{1,9}) ([^=]{1,128})=")
_LINKS: Final = frozenset(
    {tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE}
)
# Volume label, continuation, old names, list of a folder: no members, if there is nothing in them.
_GNU_NOTES: Final = frozenset({b"V", b"M", b"N", b"D"})


def tar_header(block: bytes) -> tarfile.TarInfo | None:
    """Return the header in `block` if its checksum holds and its numbers can be."""
    try:
        header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (tarfile.HeaderError, ValueError):
        return None
    return header if header.size >= 0 else None


def tar_entries(file: BinaryIO) -> Iterator[Entry]:
    """Read a tar forward.

    A damaged header costs what it described: reading goes on at the next block that is one. It
    also goes on after the mark of the end, behind which another archive may have been put.
    """
    problem = ""
    trusted = True  # a header is due here; else only one with a magic counts
    last = "the beginning"
    shared: dict[str, str] = {}
    own: dict[str, str] = {}
    while block := file.read(_BLOCK):
        if not any(block):
            trusted = False
            continue
        plausible = trusted or block[257:262] == b"ustar"
        header = tar_header(block) if plausible else None
        if header is None:
            if trusted:
                problem = problem or f"no tar header where one is due, after {last}"
            trusted, own = False, {}
            continue
        trusted = True
        size = header.size
        if header.type in {b"L", b"K", b"x", b"X", b"g"}:
            if size > _MAX_HEADER:
                limit = f"{size:,} bytes exceeds the limit of {_MAX_HEADER:,}"
                problem = problem or f"a tar header of {limit}, after {last}"
                skip(file, _padded(size))
                continue
            data = exactly(file, _padded(size))[:size]
            if header.type == b"L":
                own["path"] = data.partition(b"\0")[0].decode("utf-8", "surrogateescape")
            elif header.type != b"K":
                try:
                    (shared if header.type == b"g" else own).update(_pax(data))
                except ValueError:
                    problem = problem or f"a damaged pax header, after {last}"
            continue
        told, own = {**shared, **own}, {}
        name = told.get("GNU.sparse.name") or told.get("path") or header.name
        if header.type in _LINKS:
            yield Entry(name, 0, _refuse(NotMediaError("a link, device or pipe in a tar")))
            continue
        if header.isdir():
            yield Entry(name, 0, None)
            continue
        if told.get("size", "").isdecimal():
            size = int(told["size"])
        sparse = header.type == b"S" or any(key.startswith("GNU.sparse") for key in told)
        if header.type == b"S":
            more = block[482]
            while more:
                more = exactly(file, _BLOCK)[504]
        part = Part(file, size)
        last = ascii(name[:200])
        if header.type in _GNU_NOTES and not size:
            yield Entry(name, size, None)
        elif sparse:
            refusal = MediaError("sparse files in a tar are not read by this version", "container")
            yield Entry(name, size, _refuse(refusal))
        else:
            yield Entry(name, size, lambda part=part: io.BufferedReader(part, CHUNK))  # type: ignore[misc]
        skip(file, part.left + _padded(size) - size)
    if problem:
        raise MediaError(problem, "container")


def _refuse(error: MediaError) -> Callable[[], io.BufferedReader]:
    def open_() -> io.BufferedReader:
        raise error

    return open_


def _pax(data: bytes) -> dict[str, str]:
    """Parse records of the form ``length key=value``, the length that of the whole record."""
    told = {}
    at = 0
    while at < len(data):
        match = _PAX_RECORD.match(data, at)
        end = at + int(match[1]) if match else 0
        if match is None or end <= match.end() or end > len(data):
            raise ValueError("no pax record")
        value = data[match.end() : end - 1]
        told[match[2].decode("utf-8", "surrogateescape")] = value.decode("utf-8", "surrogateescape")
        at = end
    return told


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK
