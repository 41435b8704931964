"""The file system seam: the only place that opens, maps, syncs, renames, locks or removes.

Everything goes through this module's `os`, so a test can make any single call fail. New
directories are 0700 and new files 0600: a database of hashes is sensitive, since rough pictures
can be computed back from hashes.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import shutil
import socket
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from nearsearch.errors import IndexLockedError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

_CHUNK: Final = 1 << 22
_SMALL: Final = 1 << 18


class Written(NamedTuple):
    """What a file turned out to be: its length in bytes and its SHA-256 in hex."""

    size: int
    sha256: str


def make_directory(path: Path, *, parents: bool = False) -> None:
    """Create a directory that only its owner can enter, and make its name durable."""
    if parents and not path.parent.exists():
        make_directory(path.parent, parents=True)
    os.mkdir(path, 0o700)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make creations, renames and removals in a directory survive a power cut."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class NewFile:
    """A file that is being written; what libraries expect of one that is only written to."""

    closed = False

    def __init__(self, handle: int) -> None:
        """Use `create`."""
        self._handle, self._digest, self._size = handle, hashlib.sha256(), 0

    def write(self, data: Any) -> int:
        """Append bytes."""
        view = memoryview(data).cast("B")
        size = len(view)
        self._digest.update(view)
        self._size += size
        while len(view) > 0:
            view = view[os.write(self._handle, view) :]
        return size

    def flush(self) -> None:
        """Do nothing: `create` makes all durable at its end, and closes."""

    close = flush

    @property
    def written(self) -> Written:
        """Length and checksum of what was written so far."""
        return Written(self._size, self._digest.hexdigest())


@contextmanager
def create(path: Path) -> Iterator[NewFile]:
    """Open a new file for writing and make its bytes durable at the end of the block.

    It is an error if `path` exists.
    """
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        yield NewFile(handle)
        os.fsync(handle)
    finally:
        os.close(handle)


def create_file(path: Path, parts: Iterable[bytes | memoryview]) -> Written:
    """Write a new file from its parts and make it durable; it is an error if `path` exists."""
    with create(path) as file:
        for part in parts:
            file.write(part)
    return file.written


def replace_file(path: Path, data: bytes) -> Written:
    """Put `data` at `path` in one atomic, durable step: a reader sees the old file or the new."""
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        written = create_file(temporary, [data])
        os.replace(temporary, path)
    except BaseException:
        remove(temporary)
        raise
    sync_directory(path.parent)
    return written


def rename(source: Path, target: Path) -> None:
    """Rename within one directory, durably."""
    os.rename(source, target)
    sync_directory(target.parent)


def remove(path: Path) -> None:
    """Remove a file or a whole directory of ours if it is there; a failure leaves garbage only."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        try:
            os.unlink(path)
        except OSError:
            return


def remove_empty(path: Path) -> None:
    """Remove a directory if it is there and empty."""
    try:
        os.rmdir(path)
    except OSError:
        return


def read_file(path: Path, limit: int) -> bytes:
    """Read a small file whole; at most `limit` bytes, so a damaged one cannot fill the memory."""
    with open(path, "rb") as file:
        return file.read(limit)


def map_bytes(path: Path, offset: int, length: int) -> NDArray[np.uint8]:
    """Map `length` bytes of a file, read-only; the file must have them.

    Short ones are read instead: a mapping holds a file descriptor, of which a process has 1,024 by
    default, and an index of many small shards has more files than that.
    """
    if length <= _SMALL:
        with open(path, "rb") as file:
            file.seek(offset)
            return np.frombuffer(file.read(length), np.uint8)
    return np.memmap(path, np.uint8, "r", offset, (length,))


def size_of(path: Path) -> int | None:
    """Return the length of a file in bytes, or None where there is no regular file."""
    return path.stat().st_size if path.is_file() else None


def checksum(path: Path) -> Written:
    """Read a file to its end and return its length and SHA-256."""
    digest, size = hashlib.sha256(), 0
    with open(path, "rb") as file:
        while part := file.read(_CHUNK):
            digest.update(part)
            size += len(part)
    return Written(size, digest.hexdigest())


class Lock:
    """The right to write an index, held by one process at a time.

    An advisory `flock` on ``writer.lock``: the kernel drops it when the holder dies, however it
    dies, so there are no stale locks to break. The file tells others who holds it.
    """

    def __init__(self, path: Path) -> None:
        """Take the lock, or raise `IndexLockedError` at once."""
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not path.exists() or path.stat().st_ino != os.fstat(self._handle).st_ino:
                # Its holder removed the file with the index it gave up: the lock is worth nothing.
                raise BlockingIOError
            content = {"pid": os.getpid(), "host": socket.gethostname(), "since": int(time.time())}
            os.ftruncate(self._handle, 0)
            os.pwrite(self._handle, json.dumps(content).encode(), 0)
        except BaseException as error:
            owner = self._owner() if isinstance(error, BlockingIOError) else None
            self.release()
            if owner is None:
                raise
            raise IndexLockedError(path.parent, owner) from None

    def release(self) -> None:
        """Give the lock back; calling it again does nothing."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def _owner(self) -> str:
        try:
            owner = json.loads(os.pread(self._handle, 4096, 0))
            since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(owner["since"]))
            return f"process {owner['pid']} on {owner['host']} since {since}"
        except (ValueError, KeyError, TypeError):
            return "another process"
