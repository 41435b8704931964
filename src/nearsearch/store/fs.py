"""The file system seam: the only place that opens, maps, syncs, renames, locks or removes.

Everything goes through this module's `os`, so a test can make any single call fail, or end the
process there and drop what was not synced. New directories are 0700 and new files 0600: a database
of hashes is sensitive, since rough pictures can be computed back from hashes.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import mmap
import os
import secrets
import socket
import stat
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from nearsearch.errors import IndexLockedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

EDGE: Final = 1 << 16
_CHUNK: Final = 1 << 22
_SMALL: Final = 1 << 18
_WAIT_STEP: Final = 0.005  # seconds between two tries of a lock


class Written(NamedTuple):
    """What a file turned out to be: length in bytes, SHA-256 of all of it, SHA-256 of its edges.

    The edges are the first and the last `EDGE` bytes: all of a file of up to twice that length.
    They hold what is read when a file is opened, so that can be checked whatever the length.
    """

    size: int
    sha256: str
    edges: str


def make_directory(path: Path, *, parents: bool = False) -> None:
    """Create a directory that only its owner can enter, and make its name durable."""
    if parents and not exists(path.parent):
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
        self._head, self._tail = b"", b""

    def write(self, data: Any) -> int:
        """Append bytes."""
        view = memoryview(data).cast("B")
        size = len(view)
        self._digest.update(view)
        self._size += size
        room = EDGE - len(self._head)
        self._head += bytes(view[:room])
        self._tail = (self._tail + bytes(view[max(room, size - EDGE) :]))[-EDGE:]
        while len(view) > 0:
            view = view[os.write(self._handle, view) :]
        return size

    def flush(self) -> None:
        """Do nothing: `create` makes all durable at its end, and closes."""

    close = flush

    @property
    def written(self) -> Written:
        """Length and checksums of what was written so far."""
        edges = hashlib.sha256(self._head + self._tail)
        return Written(self._size, self._digest.hexdigest(), edges.hexdigest())


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
    """Rename durably, also into another directory."""
    os.rename(source, target)
    sync_directory(target.parent)
    if source.parent != target.parent:
        sync_directory(source.parent)


def remove(path: Path) -> None:
    """Remove a file or a whole directory of ours if it is there; a failure leaves garbage only."""
    try:
        if is_directory(path):
            for name in list_directory(path):
                remove(path / name)
            os.rmdir(path)
        else:
            os.unlink(path)
    except OSError:
        return


def remove_empty(path: Path) -> None:
    """Remove a directory if it is there and empty."""
    try:
        os.rmdir(path)
    except OSError:
        return


# --- reading ----------------------------------------------------------------------------------


def exists(path: Path) -> bool:
    """Tell whether anything stands at `path`."""
    return _status(path) is not None


def is_same(left: Path, right: Path) -> bool:
    """Tell whether two paths lead to the same file or directory."""
    a, b = os.stat(left), os.stat(right)
    return (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino)


def is_directory(path: Path) -> bool:
    """Tell whether a directory stands at `path`, not a link to one."""
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def size_of(path: Path) -> int | None:
    """Return the length of a file in bytes, or None where there is no regular file."""
    status = _status(path)
    return status.st_size if status and stat.S_ISREG(status.st_mode) else None


def _status(path: Path) -> os.stat_result | None:
    try:
        return os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def list_directory(path: Path) -> list[str]:
    """Return the names in a directory, ascending; none where there is no such directory."""
    try:
        return sorted(os.listdir(path))
    except (FileNotFoundError, NotADirectoryError):
        return []


def read_file(path: Path, limit: int) -> bytes:
    """Read a small file whole; at most `limit` bytes, so a damaged one cannot fill the memory."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return _read(handle, limit)
    finally:
        os.close(handle)


def _read(handle: int, limit: int) -> bytes:
    parts = []
    while limit > 0 and (part := os.read(handle, min(limit, _CHUNK))):
        parts.append(part)
        limit -= len(part)
    return b"".join(parts)


def map_file(path: Path, length: int) -> NDArray[np.uint8]:
    """Map a file of `length` bytes, read-only.

    A short one is read instead: a mapping holds a file descriptor, of which a process has 1,024 by
    default, and an index of many small shards has more files than that.
    """
    if length <= _SMALL:
        return np.frombuffer(read_file(path, length), np.uint8)
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return np.frombuffer(mmap.mmap(handle, length, access=mmap.ACCESS_READ), np.uint8)
    finally:
        os.close(handle)


def edges_of(data: NDArray[np.uint8]) -> str:
    """Return the SHA-256 of the edges of a mapped file, as `Written` has it."""
    digest = hashlib.sha256(data[:EDGE].data)
    digest.update(data[max(EDGE, len(data) - EDGE) :].data)
    return digest.hexdigest()


def checksum(path: Path, on_read: Callable[[int], None] | None = None) -> tuple[int, str]:
    """Read a file to its end and return its length and SHA-256; tell how many bytes were read."""
    digest, size = hashlib.sha256(), 0
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        while part := os.read(handle, _CHUNK):
            digest.update(part)
            size += len(part)
            if on_read:
                on_read(len(part))
    finally:
        os.close(handle)
    return size, digest.hexdigest()


# --- locks ------------------------------------------------------------------------------------


class Lock:
    """The right to write an index, held by one process at a time.

    An advisory `flock` on ``writer.lock``: the kernel drops it when the holder dies, however it
    dies, so there are no stale locks to break. The file tells others who holds it.
    """

    def __init__(
        self, path: Path, wait: float = 0.0, on_wait: Callable[[str], None] | None = None
    ) -> None:
        """Take the lock; try again for `wait` seconds, then raise `IndexLockedError`.

        `on_wait` is called once, with who holds the lock, when there is something to wait for.
        """
        end = time.monotonic() + wait
        while True:
            owner = self._take(path)
            if owner is None:
                return
            if time.monotonic() >= end:
                raise IndexLockedError(path.parent, owner)
            if on_wait:
                on_wait(owner)
                on_wait = None
            time.sleep(_WAIT_STEP)

    def _take(self, path: Path) -> str | None:
        """Try once; return who holds it."""
        self._pid = os.getpid()
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            status = _status(path)
            if status is None or status.st_ino != os.fstat(self._handle).st_ino:
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
            return owner
        return None

    def release(self) -> None:
        """Give the lock back; calling it again does nothing."""
        self._handle = _unlock(self._handle, self._pid)

    def _owner(self) -> str:
        try:
            owner = json.loads(os.pread(self._handle, 4096, 0))
            since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(owner["since"]))
            return f"process {owner['pid']} on {owner['host']} since {since}"
        except (ValueError, KeyError, TypeError):
            return "another process"


class Hold:
    """A file that is in use: `remove_unless_held` leaves it in place, for all processes.

    A shared `flock`, which the kernel drops when the process dies. File systems without such locks
    give none; there a reader keeps what it has mapped all the same, since removed files live on
    until they are unmapped.
    """

    _handle = _pid = -1

    def __init__(self, path: Path) -> None:
        """Open and hold `path`; raises `FileNotFoundError` where it is gone, also just now."""
        self._pid = os.getpid()
        self._handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            try:
                fcntl.flock(self._handle, fcntl.LOCK_SH)  # a writer has it for a moment only
            except OSError:
                return
            if os.fstat(self._handle).st_nlink == 0:
                raise FileNotFoundError(f"{path} was removed")
        except BaseException:
            self.release()
            raise

    def read(self, limit: int) -> bytes:
        """Read the file, at most `limit` bytes; once."""
        return _read(self._handle, limit)

    def release(self) -> None:
        """Let go of the file; calling it again does nothing."""
        self._handle = _unlock(self._handle, self._pid)

    __del__ = release


def _unlock(handle: int, pid: int) -> int:
    """Close a locked file. Unlocked first: a forked child may hold it open, and with it the lock.

    The child itself only closes it: what it has inherited is not its own to give back.
    """
    if handle >= 0:
        if pid == os.getpid():
            with suppress(OSError):
                fcntl.flock(handle, fcntl.LOCK_UN)
        os.close(handle)
    return -1


def is_held(path: Path) -> bool:
    """Tell whether any process holds the file; one that is not there is not held."""
    return not _unless_held(path, lambda: None)


def remove_unless_held(path: Path) -> bool:
    """Remove a file that no process holds, so that none can take hold of it; tell if it is gone."""
    return _unless_held(path, lambda: remove(path))


def _unless_held(path: Path, act: Callable[[], None]) -> bool:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            pass  # a file system without such locks
        act()
    finally:
        os.close(handle)
    return True
