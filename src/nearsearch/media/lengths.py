"""How long a film has to be by its own words: what tells a cut one from a whole one.

Demuxers take the end of the file for the end of the film.
"""

from __future__ import annotations

import io
from typing import BinaryIO, Final

_MOST_BOXES: Final = 10_000
_UNKNOWN_32: Final = 0xFFFFFFFF


def stated_length(file: BinaryIO, name: str, size: int) -> int:
    """Return the least length in bytes that a film of format `name` states; 0 if it states none.

    Moves the position of `file`, which has `size` bytes.
    """
    if name in {"3GP", "MOV", "MP4"}:
        return _end_of_boxes(file, size)
    if name == "AVI":
        file.seek(4)
        stated = int.from_bytes(file.read(4), "little")
        return 8 + stated if stated != _UNKNOWN_32 else 0
    if name in {"WEBM", "MKV"}:
        return _end_of_segment(file)
    return 0


def _end_of_boxes(file: BinaryIO, size: int) -> int:
    """Walk over the boxes of the top level; one that is no box ends the walk."""
    end = 0
    for _ in range(_MOST_BOXES):
        file.seek(end)
        head = file.read(16)
        length, kind = int.from_bytes(head[:4], "big"), head[4:8]
        header = 8
        if length == 1:
            length, header = int.from_bytes(head[8:16], "big"), 16
        is_box = len(head) >= header <= length and kind.isascii() and kind.isalnum()
        if not is_box:
            break
        end += length
        if end >= size:
            break
    return end


def _end_of_segment(file: BinaryIO) -> int:
    """Return where the first segment of a Matroska file ends; 0 if it does not say."""
    file.seek(4)  # behind the magic number, which is an element's name
    header = _number(file)
    if header is None:
        return 0
    file.seek(header, io.SEEK_CUR)
    if file.read(4) != b"\x18\x53\x80\x67":
        return 0
    length = _number(file)
    return file.tell() + length if length is not None else 0


def _number(file: BinaryIO) -> int | None:
    """Read a number of EBML; None if it is broken, or the one that stands for unknown."""
    first = file.read(1)
    if not first or not first[0]:
        return None
    n_more = 8 - first[0].bit_length()
    rest = file.read(n_more)
    value = int.from_bytes(first + rest, "big") & ((1 << 7 * (n_more + 1)) - 1)
    is_unknown = value == (1 << 7 * (n_more + 1)) - 1
    return None if is_unknown or len(rest) < n_more else value
