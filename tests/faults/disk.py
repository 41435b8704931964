"""A stand-in for the module `os` in `nearsearch.store.fs`: calls fail, and power cuts lose data.

Files are changed for real. Beside that a `Disk` keeps what a power cut would take away: for each
file its bytes at the last fsync, for each directory the changes of names since its last fsync. It
is pessimistic where file systems differ: fsync of a file makes its bytes durable but not its name,
fsync of a directory makes the names in it durable but neither the bytes nor what is in directories
below. What was there before its first change through the `Disk` is durable.

Every file and directory that was changed is held open until the next power cut: so it is found
wherever it moves, its inode is not given to another, and its link count stays what it is.
"""

import errno
import os
import random
import shutil
import stat
import threading
import weakref
from collections import Counter
from contextlib import suppress
from functools import partial
from typing import NamedTuple

CLEANUP = {"close", "unlink", "rmdir"}
GROWTH = {"write", "pwrite", "mkdir", "rename", "replace", "ftruncate"}
READING = {"open", "read", "pread", "fsync", "fstat", "stat", "lstat", "listdir"}
CALLS = CLEANUP | GROWTH | READING
HARMLESS = {"getpid", "fspath", "fsencode", "fsdecode", "strerror", "getenv", "cpu_count"}


class Crash(BaseException):
    """The process is dead; not an `Exception`, so that no handler in the store lives on."""


class Node:
    """A file or directory that was changed, by its handle rather than by its path."""

    def __init__(self, path):
        info = os.lstat(path)
        assert not stat.S_ISLNK(info.st_mode), "the store makes and removes no links"
        self.is_directory = stat.S_ISDIR(info.st_mode)
        self.mode = stat.S_IMODE(info.st_mode)
        self.gone = False  # removed, or replaced by another
        self._hold(os.open(path, os.O_RDONLY if self.is_directory else os.O_RDWR))
        self.synced = None if self.is_directory else self.read()

    def _hold(self, handle):
        self.handle = handle
        weakref.finalize(self, os.close, handle)

    def read(self):
        return os.pread(self.handle, os.fstat(self.handle).st_size, 0)

    def write(self, data):
        os.ftruncate(self.handle, 0)
        os.pwrite(self.handle, data, 0)

    def lose(self, rng=None):
        """Make of the bytes those of the last fsync; with `rng`, what of later ones may be left."""
        live, kept = self.read(), self.synced
        if live == kept:
            return
        if rng is not None:
            shorter = min(len(live), len(kept))
            same = next((i for i in range(shorter) if live[i] != kept[i]), shorter)
            cut = rng.randint(same, len(live))
            zeros = live[:same] + bytes(len(live) - same)
            kept = rng.choice([zeros, live[:cut] + kept[cut:]])
        self.write(kept)

    def restore(self, parent, name):
        """Put back what was removed: a file with its last bytes, a directory empty, as it was."""
        at = {"dir_fd": parent.handle}
        if self.is_directory:
            os.mkdir(name, **at)
            self._hold(os.open(name, os.O_RDONLY, **at))
        else:
            data = self.read()
            self._hold(os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL, **at))
            self.write(data)
        os.fchmod(self.handle, self.mode)
        self.gone = False


class Change(NamedTuple):
    """One change of the names in a directory: something is new there, moved, or lost."""

    directory: Node
    name: str
    moved_from: str | None = None
    lost: Node | None = None

    def undo(self):
        """Make the directory what it was; all later changes in it must be undone already."""
        if self.directory.gone:
            return
        at = self.directory.handle
        if self.moved_from is not None:
            os.rename(self.name, self.moved_from, src_dir_fd=at, dst_dir_fd=at)
        elif self.lost is None:
            if stat.S_ISDIR(os.lstat(self.name, dir_fd=at).st_mode):
                shutil.rmtree(self.name, dir_fd=at)
            else:
                os.unlink(self.name, dir_fd=at)
        if self.lost is not None:
            self.lost.restore(self.directory, self.name)


class Disk:
    """The module `os`, of which the n-th file-system call from now on fails.

    `how` it fails:

    - "error": that one raises `error`. Cleaning up (`CLEANUP`) is neither counted nor failed.
    - "full": from then on all that needs space on the disk raises `error`. With EROFS it is a disk
      that became read-only: nothing can be opened for writing or removed either.
    - "crash": it raises `Crash` before it does anything, and so do all later calls. `torn` lets a
      write get half of its bytes to the file first.
    - "never": calls are counted, as for "crash".

    Counts and records are exact with several threads, since calls run one at a time. A call that
    is not understood is refused, because its changes would survive every power cut unnoticed.
    """

    def __init__(self, fail_at=0, how="never", *, error=errno.ENOSPC, torn=False):
        if how not in ("error", "full", "crash", "never"):
            raise ValueError(how)
        self.calls = 0
        self.failed = None  # the name of the first call that failed
        self._fail_at, self._how, self._error, self._torn = fail_at, how, error, torn
        self._read_only = how == "full" and error == errno.EROFS
        self._counted = CALLS if how in ("crash", "never") or self._read_only else CALLS - CLEANUP
        self._dead = False
        self._lock = threading.RLock()  # a finalizer may close in the midst of a call
        self._nodes = {}  # identity -> Node
        self._changes = []  # of names, not yet durable, in the order they were made
        self._descriptors = {}  # open ones -> identity of the file

    def __getattr__(self, name):
        real = getattr(os, name)
        if name in CALLS:
            return partial(self._call, name)
        if callable(real) and not isinstance(real, type) and name not in HARMLESS:
            raise NotImplementedError(f"tests/faults/disk.py does not know os.{name}")
        return real

    def _call(self, name, *args, **kwargs):
        with self._lock:
            self._count(name, args)
            own = getattr(Disk, f"_{name}", None)
            return own(self, *args, **kwargs) if own else getattr(os, name)(*args, **kwargs)

    def _count(self, name, args):
        """Count the call, and raise if it is to fail."""
        if self._dead and name != "close":
            raise Crash(f"os.{name} after the crash in os.{self.failed}")
        if self._dead or name not in self._counted:
            return
        self.calls += 1
        if self._how == "crash" and self.calls == self._fail_at:
            self._dead, self.failed = True, name
            if self._torn and name in ("write", "pwrite"):
                handle, data, *offset = args
                view = memoryview(data).cast("B")
                getattr(os, name)(handle, view[: len(view) // 2], *offset)
            raise Crash(f"os.{name}, call {self.calls}")
        is_turn = self._how == "error" and self.calls == self._fail_at
        is_full = self._how == "full" and 0 < self._fail_at <= self.calls
        if is_turn or (is_full and self._needs_space(name, args)):
            self.failed = self.failed or name
            path = None if isinstance(args[0], int) else os.fspath(args[0])
            raise OSError(self._error, f"{os.strerror(self._error)} (made by the test)", path)

    def _needs_space(self, name, args):
        if name == "open":
            path, flags = args[:2]
            writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_TRUNC)
            creates = flags & os.O_CREAT and not os.path.exists(path)
            return creates or (self._read_only and writes)
        if name == "mkdir":
            return not os.path.lexists(args[0])  # else the kernel says first that it is there
        return name in GROWTH or (self._read_only and name in ("unlink", "rmdir"))

    def _open(self, path, flags, mode=0o777):
        target = os.path.realpath(path)
        is_new = flags & os.O_CREAT and not os.path.lexists(target)
        if is_new:
            directory, name = self._place(target)
        elif flags & (os.O_WRONLY | os.O_RDWR):
            self._node(target)  # what is in it now is durable, whatever is written or cut off
        handle = os.open(path, flags, mode)
        self._descriptors[handle] = _identity(os.fstat(handle))
        if is_new:
            self._node(target)
            self._changes.append(Change(directory, name))
        return handle

    def _close(self, handle):
        """Close; or, in a dead process, leave it to `power_cut`, which also drops its locks.

        That raises no `Crash`: finalizers close, and pytest would report what they raise. Objects
        that close only once then do not close a number that belongs to another file meanwhile.
        """
        if not self._dead:
            os.close(handle)
            self._descriptors.pop(handle, None)

    def _fsync(self, handle):
        """Note what is durable now; a real fsync would add nothing but time."""
        node = self._nodes.get(_identity(os.fstat(handle)))
        if node and not node.is_directory:
            node.synced = node.read()
        elif node:
            self._changes = [c for c in self._changes if c.directory is not node]

    def _mkdir(self, path, mode=0o777):
        directory, name = self._place(path)
        os.mkdir(path, mode)
        self._changes.append(Change(directory, name))

    def _rename(self, source, target):
        (directory, old), (other, new) = self._place(source), self._place(target)
        if directory is not other:
            raise NotImplementedError("the store renames within one directory only")
        lost = self._node(target) if os.path.lexists(target) else None
        os.rename(source, target)
        if lost is not None:
            lost.gone = True
        self._changes.append(Change(directory, new, moved_from=old, lost=lost))

    _replace = _rename

    def _remove(self, real, path):
        directory, name = self._place(path)
        lost = self._node(path)
        real(path)
        lost.gone = True
        self._changes.append(Change(directory, name, lost=lost))

    def _unlink(self, path):
        self._remove(os.unlink, path)

    def _rmdir(self, path):
        self._remove(os.rmdir, path)

    def _node(self, path):
        """Return the record of what is at `path`, a new one at its first change."""
        key = _identity(os.lstat(path))
        if key not in self._nodes:
            self._nodes[key] = Node(path)
        return self._nodes[key]

    def _place(self, path):
        """Return the directory of a path and the name in it."""
        parent, name = os.path.split(os.fsdecode(path).rstrip("/"))
        return self._node(os.path.realpath(parent)), name

    def power_cut(self, loss, seed=0):
        """Close all descriptors and leave of the unsynced changes what a power cut might leave.

        "all" is lost, or only the "data" of files while all names persist, or "none"; or "random":
        of each directory perhaps the latest changes, of each file the data from a random byte on,
        or all unsynced data are zeros. What is in a directory that vanishes vanishes with it.
        """
        if loss not in ("all", "data", "none", "random"):
            raise ValueError(loss)
        rng = random.Random(seed)
        with self._lock:
            for handle, identity in list(self._descriptors.items()):
                with suppress(OSError):  # the real `os` may have closed it and used it again
                    if _identity(os.fstat(handle)) == identity:
                        os.close(handle)
            for change in self._lost_changes(loss, rng):
                change.undo()
            for node in self._nodes.values():
                if not node.is_directory and loss != "none":
                    node.lose(rng if loss == "random" else None)
            self._descriptors.clear()
            self._changes.clear()
            self._nodes.clear()

    def _lost_changes(self, loss, rng):
        """Return the changes to undo, the latest first."""
        if loss != "random":
            return self._changes[::-1] if loss == "all" else []
        made = Counter(c.directory for c in self._changes)
        left = {d: rng.choice([0, rng.randint(1, count)]) for d, count in made.items()}
        lost = []
        for change in reversed(self._changes):
            if left[change.directory] > 0:
                left[change.directory] -= 1
                lost.append(change)
        return lost


def _identity(info):
    return info.st_dev, info.st_ino
