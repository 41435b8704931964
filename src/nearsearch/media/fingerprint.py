"""One file to its digest and codes: what a worker process does."""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from nearsearch.errors import MediaError, NotMediaError
from nearsearch.hashers import hash_pixels
from nearsearch.media.image import check_readable, decode, sniff

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from nearsearch.spec import Spec

_HEAD: Final = 4096
MEDIA_SUFFIXES: Final = tuple(
    f".{name}"
    for name in (
        *("jpg", "jpeg", "jpe", "jfif", "png", "apng", "gif", "webp", "bmp", "tif", "tiff"),
        *("avif", "heic", "heif", "jp2", "ico", "ppm", "pgm", "pbm", "mpo"),
    )
)
"""Names that promise a picture: a file so named that is none has failed, others are skipped."""


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What is known of a file after it was read once.

    `codes` maps spec names to (hex of the code, quality 0..100).
    """

    sha256: str
    size: int
    mtime_ns: int
    format: str
    width: int
    height: int
    codes: Mapping[str, tuple[str, int]]


def fingerprint(
    path: str, specs: Sequence[Spec], *, max_pixels: int, max_bytes: int
) -> Fingerprint:
    """Read, decode and hash one picture file; the bytes are read once for digest and pixels.

    Raises
    ------
    NotMediaError
        The bytes are of no known picture format, and the name does not promise one.
    MediaError
        Anything else that kept the file from becoming codes, with reason and stage.
    """
    data, mtime_ns = _read(path, max_bytes)
    codes: dict[str, tuple[str, int]] = {}
    for profile in dict.fromkeys(spec.profile for spec in specs):
        picture = decode(data, profile, max_pixels=max_pixels)
        for spec in specs:
            if spec.profile == profile:
                code, quality = hash_pixels(picture.pixels, spec)
                codes[spec.name] = (code.tobytes().hex(), quality)
    return Fingerprint(
        hashlib.sha256(data).hexdigest(),
        len(data),
        mtime_ns,
        picture.format,
        picture.width,
        picture.height,
        codes,
    )


def _read(path: str, max_bytes: int) -> tuple[bytes, int]:
    try:
        # O_NONBLOCK: opening a pipe that nobody writes to must not wait for ever.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        raise MediaError(error.strerror or str(error), "read") from error
    before = os.fstat(handle)
    if not stat.S_ISREG(before.st_mode):  # before `fdopen`, which refuses folders
        os.close(handle)
        raise NotMediaError("not a regular file")
    with os.fdopen(handle, "rb") as file:
        try:
            head = file.read(_HEAD)
            _check_format(path, head)
            if before.st_size > max_bytes:
                reason = f"{before.st_size:,} bytes exceed the limit of {max_bytes:,}"
                raise MediaError(reason, "read")
            data = head + file.read(max_bytes + 1 - len(head))
        except OSError as error:
            raise MediaError(error.strerror or str(error), "read") from error
        after = os.fstat(handle)
    if (len(data), after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
        raise MediaError("changed while it was read", "read")
    return data, after.st_mtime_ns


def _check_format(path: str, head: bytes) -> None:
    """Refuse what is no picture by its first bytes, before a film is read to its end."""
    promised = path.lower().endswith(MEDIA_SUFFIXES)
    if not head:
        raise MediaError("empty file", "read") if promised else NotMediaError("empty file")
    try:
        check_readable(head)
    except NotMediaError:
        if promised and sniff(head) is None:
            reason = "named like a picture, but its bytes are of no known format"
            raise MediaError(reason, "decode") from None
        raise
