"""A session: a writer's lock on an index, the transaction under way, and its commits."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from nearsearch.errors import (
    ClosedError,
    CompactionWarning,
    EraseIncompleteError,
    NearsearchError,
    UsageError,
)
from nearsearch.store import creation, fs, retention
from nearsearch.store import manifest as manifests
from nearsearch.store.shard import open_shard
from nearsearch.store.transaction import Transaction
from nearsearch.workers import WorkerPool

if TYPE_CHECKING:
    from pathlib import Path

    from nearsearch.store.shard import Shard
    from nearsearch.workers import Limits


class Session:
    """What `Writer` works on. Each commit begins the next transaction."""

    def __init__(
        self,
        root: Path,
        lock: fs.Lock,
        pointer: manifests.Pointer,
        *,
        author: str,
        is_new: bool,
    ) -> None:
        """Begin at the live manifest, which `pointer` names, under the lock that is held."""
        self.root, self._lock, self._author, self._is_new = root, lock, author, is_new
        base = manifests.read(root, pointer)
        self._begin(base, pointer, [open_shard(root, entry, base.columns) for entry in base.shards])
        self.closed = self.erases = self._continues = False
        self._pool: tuple[tuple[int | None, Limits | None], WorkerPool] | None = None

    def _begin(
        self, manifest: manifests.Manifest, pointer: manifests.Pointer, shards: list[Shard]
    ) -> None:
        self.manifest, self._pointer = manifest, pointer
        self.transaction = Transaction(self.root, manifest, pointer, shards)

    def pool(self, workers: int | None, limits: Limits | None) -> WorkerPool:
        """Return hashing processes, those of the last call if they are what is asked for.

        They take most of a second to start, which many small contributions should pay once.
        """
        wanted = workers, limits
        if self._pool is None or self._pool[0] != wanted:
            made = WorkerPool(workers, limits)
            self._end_processes()
            self._pool = wanted, made
        return self._pool[1]

    def _end_processes(self) -> None:
        if self._pool is not None:
            self._pool[1].close()
            self._pool = None

    def check_open(self) -> None:
        """Raise `ClosedError` after `close`."""
        if self.closed:
            raise ClosedError("writer")

    def commit(self, *, is_part: bool = False) -> None:
        """See `Writer.commit`."""
        erases, before = self.erases, self.manifest.generation
        made = self.transaction.commit(self._author, erase=erases, continues=self._continues)
        self._begin(*made)
        self.erases = self._continues = False
        if erases:
            left = retention.unneeded(self.root, [self.manifest])
            if left:
                raise EraseIncompleteError(self.root, [str(path) for path in left])
        if self.manifest.generation > before:
            self._tidy(is_part)

    def commit_part(self) -> None:
        """Commit a part of a long work; the next commit does not keep that generation."""
        before, continues = self.manifest.generation, self._continues
        self.commit(is_part=True)
        self._continues = continues or self.manifest.generation > before

    def _tidy(self, is_part: bool) -> None:
        """Merge the shards that should be, as a commit of its own."""
        transaction, live = self.transaction, list(self.transaction.shards)
        try:
            if transaction.tidy():
                self._begin(*transaction.commit(self._author, continues=is_part))
        except (OSError, NearsearchError, MemoryError) as error:
            transaction.discard()
            if not transaction.may_be_live:
                self._begin(self.manifest, self._pointer, live)
            warnings.warn(CompactionWarning(self.root, str(error)), stacklevel=4)

    def go_back(self, generation: int) -> None:
        """See `Writer.rollback`."""
        if self.transaction.has_changed or self.erases:
            raise UsageError("rollback: commit what was changed first, or close and open again")
        if generation != self.manifest.generation:
            self._begin(*self.transaction.go_back(generation, self._author))

    def close(self) -> None:
        """See `Writer.close`."""
        if self.closed:
            return
        self.closed = True
        self._end_processes()
        try:
            self.transaction.discard()
            is_empty = self.manifest.generation == 0
            if self._is_new and is_empty and not self.transaction.may_be_live:
                creation.give_up(self.root)
        finally:
            self._lock.release()
