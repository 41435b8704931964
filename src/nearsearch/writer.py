"""The writer: adds files and codes to an index, and commits them in one atomic step."""

from __future__ import annotations

import os
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from nearsearch.errors import (
    ClosedError,
    NearsearchError,
    SpecMismatchError,
    UsageError,
)
from nearsearch.ingest import IngestReport, walk
from nearsearch.matches import Failure
from nearsearch.records import Marks, batch_of_codes, batch_of_files
from nearsearch.spec import check_computable, get_spec
from nearsearch.store import fs, schema
from nearsearch.store import manifest as manifests
from nearsearch.store.garbage import garbage
from nearsearch.store.shard import SHARDS, TOMBSTONES, open_shard
from nearsearch.store.transaction import ADDED, REPLACED, UNCHANGED, Transaction
from nearsearch.workers import WorkerPool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from os import PathLike
    from types import TracebackType
    from typing import Self

    import pyarrow as pa
    from numpy.typing import NDArray

    from nearsearch.ingest import FoundFile
    from nearsearch.ingest import PathLike as AnyPath
    from nearsearch.spec import Spec
    from nearsearch.workers import Answer, Limits

_LOCK: Final = "writer.lock"
_FOLDERS: Final = {SHARDS, TOMBSTONES}
_FILES_A_BATCH: Final = 1024  # hashed files taken in at a time: a second or so of two workers


class Writer:
    """Adds to an index; one at a time across processes, while any number of readers go on.

    Nothing is visible before `commit`, which is atomic and durable. As a context manager it
    commits when the block ends normally, and changes nothing when an exception leaves it. Not for
    several threads at once.
    """

    def __init__(
        self, root: Path, lock: fs.Lock, base: manifests.Manifest, *, is_new: bool
    ) -> None:
        """Use `Writer.open`."""
        self._root, self._lock, self._manifest, self._is_new = root, lock, base, is_new
        shards = [open_shard(root, entry) for entry in base.shards]
        self._transaction = Transaction(root, base, shards)
        self._closed = False

    @classmethod
    def open(
        cls,
        path: str | PathLike[str],
        *,
        create: bool = False,
        specs: Sequence[str | Spec] | None = None,
    ) -> Self:
        """Open an index for writing, and hold its lock until `close`.

        Parameters
        ----------
        path
            The index directory.
        create
            Make the index if there is none (also its parent directories).
        specs
            What a new index holds of each picture, by default ``("pdq",)``; the first is the one
            queries use by default. Of an existing index they are checked.

        Raises
        ------
        IndexNotFoundError
            No index there, and `create` is false.
        IndexExistsError
            Something else stands there.
        IndexLockedError
            Another writer is at work.
        SpecMismatchError
            The index has other specs.
        CorruptFileError, FormatTooNewError
            The index is damaged or of a later version.
        """
        root = Path(path)
        wanted = None if specs is None else tuple(get_spec(name) for name in specs)
        if wanted is not None and len(set(wanted)) < max(1, len(wanted)):
            raise UsageError("specs: name each spec once, and at least one")
        may_create = create and not (root / manifests.CURRENT).exists()
        if may_create:
            manifests.check_creatable(root, _FOLDERS, _LOCK)
            if not root.exists():
                fs.make_directory(root, parents=True)
        else:
            manifests.read_current(root)  # raises if there is no index
        lock = fs.Lock(root / _LOCK)
        try:
            is_new = may_create and not (root / manifests.CURRENT).exists()
            if is_new:
                _create(root, wanted or (get_spec("pdq"),))
            base = manifests.read_current(root)
            if wanted is not None and set(wanted) != set(base.specs):
                raise SpecMismatchError(
                    str(root),
                    ", ".join(str(spec) for spec in base.specs),
                    ", ".join(str(spec) for spec in wanted),
                    "an index keeps the specs it was created with",
                )
            for name in sorted(_FOLDERS):  # copying an index can lose empty folders
                if not (root / name).exists():
                    fs.make_directory(root / name)
            _collect_garbage(root)
            return cls(root, lock, base, is_new=is_new)
        except BaseException:
            lock.release()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None and not self._closed:
                self.commit()
        finally:
            self.close()

    @property
    def specs(self) -> tuple[Spec, ...]:
        """The specs of the index, the default one first."""
        return self._manifest.specs

    @property
    def generation(self) -> int:
        """Number of the last commit; 0 before the first."""
        return self._manifest.generation

    @property
    def n_shards(self) -> int:
        """Number of live shards; a search asks each in turn."""
        return len(self._manifest.shards)

    def add_files(
        self,
        paths: Iterable[AnyPath],
        *,
        contribution: str = "",
        source: str = "",
        labels: Sequence[str] = (),
        limits: Limits | None = None,
        workers: int | None = None,
        on_progress: Callable[[IngestReport], None] | None = None,
    ) -> IngestReport:
        """Hash pictures and add them; folders are walked. No file stops the others.

        A file is known by its key (the path as given) within the contribution. One that has the
        size, time, source and labels it had before is unchanged and not read; one with other
        content replaces what the key stood for.

        Parameters
        ----------
        paths
            Files and folders.
        contribution, source
            The group the files belong to, and who it comes from.
        labels
            Free words attached to each file.
        limits
            What one file may cost.
        workers
            Number of hashing processes; one a core by default.
        on_progress
            Called with the account so far, after each file.

        Returns
        -------
        IngestReport
            Counts that add up to the files seen, and every failure with its reason.

        Raises
        ------
        UsageError
            Labels or names that cannot be stored.
        WorkerStartError
            The hashing processes do not start.
        SpecMismatchError
            The index holds a spec that this version computes differently.
        """
        self._check_open()
        if isinstance(paths, str | bytes | os.PathLike):
            paths = [paths]
        marks = Marks(contribution, source, tuple(labels))
        for spec in self.specs:
            check_computable(spec, str(self._root))
        report = IngestReport()
        tell = on_progress or (lambda _: None)
        files = walk(paths, exclude=str(self._root.resolve()))
        with WorkerPool(workers, limits) as pool:
            while chunk := list(islice(files, _FILES_A_BATCH)):
                self._add_chunk(chunk, marks, pool, report, tell)
        return report

    def _add_chunk(
        self,
        chunk: list[FoundFile],
        marks: Marks,
        pool: WorkerPool,
        report: IngestReport,
        tell: Callable[[IngestReport], None],
    ) -> None:
        found = [file for file in chunk if file.failure is None]
        for file in chunk:
            if file.failure is not None:
                report.add_failure(file.status, file.failure)
        stats = np.array([(file.size, file.mtime_ns) for file in found], np.int64).reshape(-1, 2)
        known = self._transaction.unchanged_files(
            marks.contribution,
            marks.source,
            schema.LABEL_SEPARATOR.join(marks.labels),
            [file.key for file in found],
            stats,
        )
        report.unchanged += int(known.sum())
        tell(report)
        keys = {file.path: file.key for file, same in zip(found, known, strict=True) if not same}
        hashed: list[Answer] = []
        for answer in pool.map(keys, self.specs):
            if answer.status == "hashed":
                hashed.append(answer)
                report.added += 1  # for the progress; settled below
            else:
                facts = answer.facts
                failure = Failure(keys[answer.path], facts["reason"], facts["stage"])
                report.add_failure(answer.status, failure)
            tell(report)
        if hashed:
            report.added -= len(hashed)
            hashed.sort(key=lambda answer: keys[answer.path])  # not by order of completion
            batch = batch_of_files(hashed, keys, marks, self.specs)
            _count(report, self._transaction.add(batch))
            tell(report)

    def add_codes(
        self,
        codes: Any,
        *,
        keys: Any = None,
        contribution: str = "",
        source: str = "",
        labels: Sequence[str] = (),
        spec: str | Spec | None = None,
        qualities: NDArray[Any] | None = None,
        metadata: pa.Table | None = None,
    ) -> IngestReport:
        """Add records that are known by their codes only, as from a hash list.

        Records with equal codes are one item with several members. Durable after `commit`. Arrays
        are copied: the caller may reuse them.

        Parameters
        ----------
        codes
            (n, bytes) uint8, or whatever `codes.as_codes` takes: hex strings, ImageHash objects.
        keys
            n strings (a sequence or an Arrow array), by default the codes in hex.
        contribution, source, labels
            As in `add_files`.
        spec
            The spec the codes are of; by default the first of the index.
        qualities
            (n,) integers 0..100, or None where they are not known: such records match always.
        metadata
            n rows of further columns, of any Arrow type; kept, searched by `where`, and returned.

        Raises
        ------
        SpecMismatchError
            The index has no such spec.
        CodesError
            Codes of the wrong shape, dtype or spelling.
        DuplicateKeyError
            A key twice, for different records. Nothing of the call was taken in.
        MetadataError
            A column with a reserved name, or of another type or length than expected.
        UsageError
            Keys, qualities or labels that do not fit.
        """
        self._check_open()
        chosen = self.specs[0] if spec is None else get_spec(spec)
        if chosen not in self.specs:
            names = ", ".join(str(known) for known in self.specs)
            raise SpecMismatchError(str(self._root), names, str(chosen), "an index keeps its specs")
        marks = Marks(contribution, source, tuple(labels))
        batch = batch_of_codes(
            codes, chosen, marks, keys=keys, qualities=qualities, metadata=metadata
        )
        report = IngestReport()
        _count(report, self._transaction.add(batch))
        return report

    def commit(self) -> int:
        """Make everything added so far visible to new readers, durably, in one atomic step.

        Returns
        -------
        int
            The generation that is now live; the old one if nothing had changed.

        Raises
        ------
        OSError
            The disk is full, or another fault of the system. If the commit had begun, whether it is
            live is unknown; open the index again to see.
        MetadataError
            A column of 32-bit offsets has more than 2 GB of text.
        OutcomeUnknownError
            An earlier commit of this writer failed after it had begun.
        """
        self._check_open()
        self._manifest, shards = self._transaction.commit()
        self._transaction = Transaction(self._root, self._manifest, shards)
        return self._manifest.generation

    def compact(self) -> int:
        """Merge everything into one shard, drop what was replaced, and commit.

        Searches ask each shard in turn, so one is fastest; it gets a band index from 65,536 codes
        on, also where it had one that is damaged. Contents do not change. The old files stay until
        eight more commits were made. Other damage is copied unseen, and gets a checksum that fits:
        `nearsearch.verify` first where there is doubt.

        Returns
        -------
        int
            The generation that is now live; the old one if there was nothing to do.

        Raises
        ------
        OSError, MetadataError, OutcomeUnknownError
            As `commit`. There must be room for a second copy of the index.
        """
        self._check_open()
        self._transaction.compact()
        return self.commit()

    def close(self) -> None:
        """Give up what was not committed and release the lock. May be called again."""
        if self._closed:
            return
        self._closed = True
        self._transaction.discard()
        if self._is_new and self.generation == 0 and not self._transaction.may_be_live:
            _uncreate(self._root)
        self._lock.release()

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError("writer")


def _create(root: Path, specs: tuple[Spec, ...]) -> None:
    """Make an empty index: generation 0, before the first commit. Needs the lock."""
    manifests.check_creatable(root, _FOLDERS, _LOCK)
    for name in sorted(_FOLDERS):
        if not (root / name).exists():
            fs.make_directory(root / name)
    manifests.make_current(root, manifests.Manifest(0, "", specs))


def _uncreate(root: Path) -> None:
    """Take back what `_create` made, by name; where files are left, an empty index stays."""
    for name in sorted(_FOLDERS):
        fs.remove_empty(root / name)
    if any((root / name).exists() for name in _FOLDERS):
        return
    manifests.forget(root)
    fs.remove(root / _LOCK)
    fs.remove_empty(root)


def _collect_garbage(root: Path) -> None:
    """Remove what a writer left that did not come to its commit."""
    try:
        kept = manifests.read_all(root)
    except (NearsearchError, OSError):
        return  # with a manifest unreadable nobody can say what is garbage
    for path in garbage(root, kept):
        fs.remove(path)


def _count(report: IngestReport, status: NDArray[np.uint8]) -> None:
    report.added += int((status == ADDED).sum())
    report.replaced += int((status == REPLACED).sum())
    report.unchanged += int((status == UNCHANGED).sum())
