"""The writer: changes an index, and commits in one atomic step."""

from __future__ import annotations

import os
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nearsearch.checks import check_name, check_names, seconds, whole
from nearsearch.errors import SpecMismatchError, UsageError
from nearsearch.ingest import IngestReport, walk
from nearsearch.intake import READ_AGAIN, Intake, count
from nearsearch.records import Marks, batch_of_codes, batch_of_digests
from nearsearch.session import Session
from nearsearch.spec import DEFAULT_SPECS, check_computable, get_spec
from nearsearch.store import creation, selection
from nearsearch.store.log import author_or_default
from nearsearch.store.merging import MergeReport, merge
from nearsearch.store.repair import check_erasable
from nearsearch.store.snapshot import Snapshot
from nearsearch.where import checked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from os import PathLike
    from types import TracebackType
    from typing import Self

    import pyarrow as pa
    import pyarrow.compute as pc
    from numpy.typing import NDArray

    from nearsearch.ingest import PathLike as AnyPath
    from nearsearch.matches import Failure
    from nearsearch.media.sampling import Sampling
    from nearsearch.spec import Spec
    from nearsearch.store.transaction import Batch
    from nearsearch.workers import Limits


class Writer:
    """Changes an index; one at a time across processes, while any number of readers go on.

    Nothing is visible before `commit`, which is atomic and durable. As a context manager it
    commits when the block ends normally, and changes nothing when an exception leaves it. Not for
    several threads at once.
    """

    def __init__(self, session: Session) -> None:
        """Use `Writer.open`."""
        self._session = session

    @classmethod
    def open(
        cls,
        path: str | PathLike[str],
        *,
        create: bool = False,
        specs: Sequence[str | Spec] | None = None,
        author: str | None = None,
        wait: float = 0.0,
        on_wait: Callable[[str], None] | None = None,
    ) -> Self:
        """Open an index for writing, and hold its lock until `close`.

        Parameters
        ----------
        path
            The index directory.
        create
            Make the index if there is none (also its parent directories).
        specs
            What a new index holds of each picture, by default ``("pdq", "wdct")``; the first is
            what bare codes are of. Of an existing index they are checked.
        author
            Who makes the commits, for the log; by default the environment variable
            ``NEARSEARCH_AUTHOR``, or else the name of the user.
        wait
            Seconds to wait for another writer to finish.
        on_wait
            Called once, with who that is, if there is something to wait for.

        Raises
        ------
        IndexNotFoundError
            No index there, and `create` is false.
        IndexExistsError
            Something else stands there.
        IndexLockedError
            Another writer is at work, and still was after `wait` seconds.
        SpecMismatchError, UsageError
            The index has other specs; `specs` names none, or one twice.
        CorruptFileError, FormatTooNewError, FormatTooOldError
            The index is damaged or of another version.
        """
        root = Path(path)
        wanted = None if specs is None else tuple(map(get_spec, specs))
        if wanted is not None and len(set(wanted)) < max(1, len(wanted)):
            raise UsageError("specs: name each spec once, and at least one")
        name = author_or_default(author)
        check_name("author", name)
        lock, pointer, is_new = creation.open_to_write(
            root,
            wanted,
            create_with=(wanted or tuple(map(get_spec, DEFAULT_SPECS))) if create else None,
            wait=seconds("wait", wait),
            on_wait=on_wait,
        )
        try:
            return cls(Session(root, lock, pointer, author=name, is_new=is_new))
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
            if kind is None and not self._session.closed:
                self.commit()
        finally:
            self.close()

    @property
    def specs(self) -> tuple[Spec, ...]:
        """The specs of the index, the default one first."""
        return self._session.manifest.specs

    @property
    def generation(self) -> int:
        """Number of the last commit; 0 before the first."""
        return self._session.manifest.generation

    @property
    def n_shards(self) -> int:
        """Number of live shards; a search asks each in turn."""
        return len(self._session.manifest.shards)

    def add_files(
        self,
        paths: Iterable[AnyPath],
        *,
        contribution: str = "",
        source: str = "",
        labels: Sequence[str] = (),
        digests: Sequence[str] = ("md5", "sha1"),
        read_again: str = "changed",
        sampling: Sampling | None = None,
        commit_every: float | None = None,
        limits: Limits | None = None,
        workers: int | None = None,
        on_progress: Callable[[IngestReport], None] | None = None,
        on_failure: Callable[[Failure], None] | None = None,
    ) -> IngestReport:
        """Hash files and add them; folders are walked, archives opened. No file stops others.

        A file is known by its key (the path as given; of a file in an archive, that of the archive,
        ``!`` and its name) within the contribution. One that has the size, time, source and labels
        it had before is not read again, whatever became of it then; one with other content replaces
        what the key stood for. Files that are skipped or failed are kept as well, as
        `Index.failures` gives them; `lookup` finds those that could be read.

        Parameters
        ----------
        paths
            Files and folders.
        contribution, source
            The group the files belong to, and who it comes from.
        labels
            Free words attached to each file.
        digests
            What is kept beside SHA-256; hash lists are keyed by these.
        read_again
            What to read that is known: ``"changed"``, what has another size or time; ``"failed"``,
            also what failed, and archives in which something did; ``"all"``, everything, to compare
            its SHA-256, decoding only what has another; ``"rehash"``, everything, and decode it.
        sampling
            Which frames of films: by default one a second, and new scenes.
        commit_every
            Seconds after which what is done so far is committed, so that it can be searched, and is
            not lost. Without it, everything is left to `commit`.
        limits
            What one file may cost.
        workers
            Number of hashing processes; one a core by default. They run until `close`.
        on_progress, on_failure
            Called with the account so far, after each file; with each entry of its `failures`.

        Returns
        -------
        IngestReport
            Counts that add up to the files seen, and every failure with its reason.

        Raises
        ------
        UsageError
            Labels or names that cannot be stored; an unknown `read_again`.
        WorkerStartError
            The hashing processes do not start.
        SpecMismatchError
            The index holds a spec that this version computes differently.
        OSError, CorruptFileError
            As `commit`.
        """
        self._session.check_open()
        paths = [paths] if isinstance(paths, str | bytes | os.PathLike) else paths
        if read_again not in READ_AGAIN:
            raise UsageError(f"read_again: expected {', '.join(READ_AGAIN)}, got {read_again!r}")
        intake = Intake(
            lambda: self._session.transaction,
            Marks(contribution, source, tuple(labels), tuple(digests)),
            IngestReport(),
            on_progress or (lambda _: None),
            on_failure or (lambda _: None),
            read_again,
            sampling,
            inf if commit_every is None else seconds("commit_every", commit_every),
            self._session.commit_part,
        )
        for spec in self.specs:
            check_computable(spec, str(self._session.root))
        files = walk(paths, exclude=str(self._session.root.resolve()))
        intake.run(files, self._session.pool(workers, limits))
        return intake.report

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
        digests: Mapping[str, Sequence[str | bytes | None]] | None = None,
        metadata: pa.Table | None = None,
    ) -> IngestReport:
        """Add records that are known by their codes only, as from a hash list.

        Records with equal codes are one item with several members. Durable after `commit`. Arrays
        are copied: the caller may reuse them.

        Parameters
        ----------
        codes
            (n, bytes) uint8 in hex order, hex strings, or `imagehash.ImageHash` objects.
        keys
            n strings (a sequence or an Arrow array), by default the codes in hex.
        contribution, source, labels
            As in `add_files`.
        spec
            The spec the codes are of; by default the first of the index.
        qualities
            (n,) integers 0..100, or None where they are not known: such records match always.
        digests
            ``md5``, ``sha1`` or ``sha256`` to n digests, in hex or as bytes, None where unknown.
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
        self._session.check_open()
        chosen = self.specs[0] if spec is None else get_spec(spec)
        if chosen not in self.specs:
            names = ", ".join(str(known) for known in self.specs)
            root = str(self._session.root)
            raise SpecMismatchError(root, names, str(chosen), "an index keeps its specs")
        marks = Marks(contribution, source, tuple(labels))
        given = {"keys": keys, "qualities": qualities, "digests": digests, "metadata": metadata}
        return self._add(batch_of_codes(codes, chosen, marks, **given))

    def add_digests(
        self,
        digests: Mapping[str, Sequence[str | bytes | None]],
        *,
        keys: Any = None,
        contribution: str = "",
        source: str = "",
        labels: Sequence[str] = (),
        metadata: pa.Table | None = None,
    ) -> IngestReport:
        """Add records that are known by digests only; `Index.lookup` and `query` find them.

        Parameters
        ----------
        digests
            ``md5``, ``sha1`` and ``sha256``, those that are known, to n digests each, in hex or as
            bytes, None where unknown. Record i needs one at least.
        keys
            n strings, by default the first known digest of each in hex.
        contribution, source, labels, metadata
            As in `add_codes`.

        Raises
        ------
        DigestError
            Something is no digest of that kind.
        DuplicateKeyError, MetadataError, UsageError
            As in `add_codes`.
        """
        self._session.check_open()
        marks = Marks(contribution, source, tuple(labels))
        return self._add(batch_of_digests(digests, marks, keys=keys, metadata=metadata))

    def _add(self, batch: Batch) -> IngestReport:
        report = IngestReport()
        count(report, self._session.transaction.add(batch))
        return report

    def remove(
        self,
        *,
        keys: Sequence[str] | None = None,
        contribution: str | None = None,
        source: str | None = None,
        where: pc.Expression | str | None = None,
        erase: bool = False,
    ) -> int:
        """Remove the members that meet all conditions given; what has none left matches no more.

        An item that has members elsewhere stays. What was removed is still in the files, and in
        earlier generations, until it is erased.

        Parameters
        ----------
        keys
            Any of these keys.
        contribution, source
            Of this contribution, from this source.
        where
            That pass a filter over the columns of members and items, as `Index.search` takes.
        erase
            The commit also rewrites every file that holds anything removed, now or earlier, and
            keeps no earlier generation, so that no byte of it is left in the index. May be given
            without a condition. An `Index` that is open keeps what it has in memory.

        Returns the number of members removed; live after `commit`.

        Raises
        ------
        UsageError
            No condition; or something is to be erased and ``damaged/`` may hold it.
        UnknownColumnError, FilterSyntaxError
            As in `Index.search`.
        CorruptFileError
            A shard is damaged; nothing was removed.
        """
        self._session.check_open()
        is_bare = keys is None and contribution is None and source is None and where is None
        if is_bare and not erase:
            raise UsageError("remove: name keys, a contribution, a source or a filter")
        check_names(contribution=contribution, source=source)
        if erase:
            check_erasable(self._session.root)
        shards = self._session.transaction.shards
        expression = checked(where, selection.columns(shards))
        choose = selection.chooser(shards, keys, contribution, source, expression)
        removed = 0 if is_bare else self._session.transaction.remove(choose)
        self._session.erases |= erase
        return removed

    def disable(self, *, contribution: str | None = None, source: str | None = None) -> None:
        """Let a contribution, or all from a source, match no more from the next `commit` on.

        Nothing is removed. What is added to it later is disabled as well.

        Raises
        ------
        UnknownNameError
            There is no such contribution or source.
        UsageError
            Neither is named.
        CorruptFileError
            A shard is damaged.
        """
        self._switch("disable", contribution, source)

    def enable(self, *, contribution: str | None = None, source: str | None = None) -> None:
        """Undo `disable` of a contribution or source; `UnknownNameError`: it is not disabled."""
        self._switch("enable", contribution, source)

    def _switch(self, action: str, contribution: str | None, source: str | None) -> None:
        self._session.check_open()
        if contribution is None and source is None:
            raise UsageError(f"{action}: name a contribution or a source")
        check_names(contribution=contribution, source=source)
        self._session.transaction.switch(action, contribution, source)

    def merge(self, path: str | PathLike[str]) -> MergeReport:
        """Take in what the index at `path` holds, without hashing again; that is only read.

        Members are known by contribution and key. Of two with different content the one that was
        added later stays, so that A and B merged hold the same either way, and merging again
        changes nothing. What is disabled in either is disabled.

        Returns what became of each of its members; live after `commit`. Look at `replaced` and
        `left_out`: different files may have come to share a contribution and key.

        Raises
        ------
        IndexNotFoundError, CorruptFileError, FormatTooNewError
            The other index; nothing of it was taken in if the error comes from opening it.
        SpecMismatchError
            It holds codes of other specs.
        MetadataError
            A column of it has another type here.
        UsageError
            It is this index.
        """
        self._session.check_open()
        other = Snapshot(Path(path))
        try:
            return merge(self._session.transaction, self._session.root, other)
        finally:
            other.hold.release()

    def rollback(self, generation: int) -> int:
        """Make an earlier generation's content live again, as a new commit, at once.

        The generation is one of `Index.kept_generations`. What was removed since comes back, and
        `disable` and `enable` are undone. Returns the new generation.

        Raises
        ------
        GenerationNotKeptError
            It is not kept.
        UsageError
            This writer has changes that are not committed.
        CorruptFileError
            A file of that generation is missing or damaged; nothing was changed.
        OSError, OutcomeUnknownError
            As `commit`.
        """
        self._session.check_open()
        self._session.go_back(whole("generation", generation, 0, 1 << 62))
        return self.generation

    def commit(self) -> int:
        """Make everything done so far visible to new readers, durably, in one atomic step.

        When it is live, shards that have become many or worn are merged in a second commit, so that
        searches stay fast; should that fail, a `CompactionWarning` says so.

        Returns the generation that is now live; the old one if nothing had changed.

        Raises
        ------
        OSError
            The disk is full, or another fault of the system. If the commit had begun, whether it is
            live is unknown; open the index again to see.
        MetadataError
            A column of 32-bit offsets has more than 2 GB of text.
        CorruptFileError
            A shard that would have been rewritten is damaged; nothing was changed.
        EraseIncompleteError
            The commit is live, but files with what was erased could not be removed.
        OutcomeUnknownError
            An earlier commit of this writer failed after it had begun.
        """
        self._session.check_open()
        self._session.commit()
        return self.generation

    def compact(self) -> int:
        """Merge everything into one shard, drop what was removed, and commit.

        Searches ask each shard in turn, so one is fastest; it gets a band index from 65,536 codes
        on, also where it had one that is damaged. Contents do not change. The old files stay until
        eight more commits were made, and as long as a reader has them open. Everything is compared
        with its checksum before it is copied.

        Returns the generation that is now live; the old one if there was nothing to do. There must
        be room for a second copy. Raises as `commit`.
        """
        self._session.check_open()
        self._session.transaction.compact()
        return self.commit()

    def close(self) -> None:
        """Give up what was not committed and release the lock. May be called again."""
        self._session.close()
