"""The index as a reader sees it: a fixed snapshot that can be asked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from nearsearch import answers
from nearsearch.checks import whole
from nearsearch.codes import as_codes, as_digest
from nearsearch.errors import (
    ClosedError,
    CorruptFileError,
    SpecMismatchError,
    UsageError,
)
from nearsearch.hashes import Hashes, hash_under
from nearsearch.ingest import path_list
from nearsearch.media.sampling import ASKED
from nearsearch.search import warm_up
from nearsearch.spec import check_computable, check_equal, get_spec
from nearsearch.store import census
from nearsearch.store import manifest as manifests
from nearsearch.store.log import read as read_log
from nearsearch.store.schema import HIT_COLUMNS
from nearsearch.store.snapshot import Snapshot
from nearsearch.where import checked
from nearsearch.workers import WorkerPool

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from os import PathLike
    from typing import Self

    from nearsearch.ingest import PathLike as AnyPath
    from nearsearch.matches import Matches
    from nearsearch.media.sampling import Sampling
    from nearsearch.spec import Spec
    from nearsearch.store.log import Commit
    from nearsearch.workers import Limits


class Index:
    """One generation of an index, opened for search.

    Later commits do not change what it sees, until `refresh`. Searches, and `refresh`, may run in
    several threads at once; `query` in one at a time, since it drives its own processes.
    """

    def __init__(self, path: str | PathLike[str], generation: int | None = None) -> None:
        """Use `Index.open`."""
        self._root = Path(path)
        self._snapshot: Snapshot | None = Snapshot(self._root, generation)
        self._pool: WorkerPool | None = None

    @classmethod
    def open(
        cls, path: str | PathLike[str], *, generation: int | None = None, check: str = "headers"
    ) -> Self:
        """Open a generation of an index for search.

        Parameters
        ----------
        path
            The index directory. It may be on a medium that cannot be written to.
        generation
            By default the newest. Eight earlier ones are kept, unless something was erased since.
        check
            ``"headers"`` compares the length, the beginning and the end of each file with what the
            manifest says: milliseconds, whatever the size. ``"full"`` compares every byte.

        Raises
        ------
        IndexNotFoundError
            No index there.
        GenerationNotKeptError
            No such generation, or no longer.
        CorruptFileError
            A file is missing, of another length, or altered where it was checked.
        FormatTooNewError
            Written by a later version.
        UsageError
            An unknown `check`.
        """
        if check not in ("headers", "full"):
            raise UsageError(f"check: expected headers or full, got {check!r}")
        if generation is not None:
            generation = whole("generation", generation, 0, 1 << 62)
        opened = cls(path, generation)
        if check == "full":
            try:
                opened.snapshot.check()
            except CorruptFileError:
                if not opened.is_erased():
                    raise
                return cls.open(path, generation=generation, check=check)
        return opened

    def is_erased(self) -> bool:
        """Tell whether something was erased since the generation that this index sees.

        It goes on to answer from what it has mapped, also with what was erased, until `refresh`.
        """
        return manifests.read_current(self._root).erased >= self.generation

    def refresh(self) -> bool:
        """Move to the newest generation; tell whether there was a newer one.

        Searches that are under way keep the generation they began with, and so do `Matches`. Only
        what is new is opened.

        Raises
        ------
        IndexNotFoundError, CorruptFileError, FormatTooNewError
            As `open`; the index stays at the generation it had.
        """
        old = self.snapshot
        if manifests.read_pointer(self._root) == old.pointer:
            return False
        self._snapshot = Snapshot(self._root, old=old)
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the hashing processes and let go of the files. May be called again.

        Matches keep the files mapped that they describe.
        """
        self._snapshot = None
        if self._pool:
            self._pool.close()
            self._pool = None

    @property
    def snapshot(self) -> Snapshot:
        """The opened shards; for code that builds on the store."""
        if self._snapshot is None:
            raise ClosedError("index")
        return self._snapshot

    @property
    def generation(self) -> int:
        """Number of the commit that this index sees."""
        return self.snapshot.manifest.generation

    @property
    def specs(self) -> tuple[Spec, ...]:
        """The specs the index holds codes of; the first is the default."""
        return self.snapshot.manifest.specs

    @property
    def disabled(self) -> Mapping[str, list[str]]:
        """The names of ``contributions`` and of ``sources`` that do not match, ascending."""
        disabled = self.snapshot.manifest.disabled
        return {
            "contributions": sorted(disabled.contributions),
            "sources": sorted(disabled.sources),
        }

    @property
    def columns(self) -> Mapping[str, pa.DataType]:
        """Name and type of every column of `Matches.to_arrow`, for `where`."""
        described = self.snapshot.columns()
        types = {
            "query": pa.string(),
            "query_index": pa.int64(),
            "query_time_ms": pa.int32(),
            "query_end_ms": pa.int32(),
            "match": pa.dictionary(pa.int32(), pa.string()),
            "distance": pa.uint16(),
            "spec": pa.dictionary(pa.int32(), pa.string()),
            "variant": pa.dictionary(pa.int32(), pa.string()),
            "expected_false": pa.float64(),
            "generation": pa.int64(),
            **described,
        }
        return {name: types[name] for name in dict.fromkeys([*HIT_COLUMNS, *types])}

    def search(
        self,
        codes: Any,
        radius: int | None = None,
        *,
        spec: str | Spec | None = None,
        where: pc.Expression | str | None = None,
        limit: int | None = None,
        min_quality: int | None = None,
        with_common: bool = False,
    ) -> Matches:
        """Find all rows within `radius` bits of each code: exact, nothing is sampled or capped.

        Parameters
        ----------
        codes
            Queries: (q, bytes) uint8 in hex order, hex strings, `imagehash.ImageHash` objects, or
            the `Hashes` of `hash_files`. One query or many; the answer has the same shape.
        radius
            Largest distance that matches, in bits, inclusive; 0..bits. By default the spec's.
        spec
            The spec the codes are of; by default the first of the index.
        where
            Only members that pass: a `pyarrow.compute` expression or a text such as
            ``contribution == "NL-0042"`` over the names in `columns`. A match stays if one of its
            members passes.
        limit
            At most so many nearest matches for each query, after `where`.
        min_quality
            Rows of a known quality below this do not match; by default the spec's (50). 0 takes
            all. Queries given as `Hashes` are held to it as well.
        with_common
            Also rows of codes that more than 100 share, as blank frames and stripes do: they are
            left out, and counted in `Matches.held_out`.

        Returns
        -------
        Matches
            Ordered by query, distance, row. The same whatever the number of shards or threads.

        Raises
        ------
        SpecMismatchError
            The index has no codes of that spec.
        CodesError, UsageError
            Codes, radius, limit or quality that cannot be.
        UnknownColumnError, FilterSyntaxError
            A filter that names an unknown column, or cannot be read.
        """
        if isinstance(codes, Hashes):
            if spec is not None:
                check_equal(self._spec(spec), codes.spec)
            chosen = self._spec(codes.spec)
        else:
            chosen = self._spec(spec)
            codes = as_codes(codes, chosen)
        wanted = answers.Wanted(self._filter(where), _limit(limit), with_common)
        asked = _asked(chosen, radius, min_quality)
        if isinstance(codes, Hashes):
            return answers.by_hashes(self.snapshot, [codes], [asked], wanted, is_gathered=False)
        return answers.by_codes(self.snapshot, codes, asked, wanted)

    def nearest(
        self,
        codes: Any,
        k: int,
        max_radius: int | None = None,
        *,
        spec: str | Spec | None = None,
        where: pc.Expression | str | None = None,
        min_quality: int | None = None,
    ) -> Matches:
        """Find the `k` nearest rows of each code: exact, equal distances by ascending row.

        The radius grows until `k` rows lie within it, so near neighbours are found at once and a
        query without any costs scans.

        Parameters
        ----------
        codes, spec, where, min_quality
            As in `search`; not `Hashes`.
        k
            Number of rows; a query has fewer where there are not so many within `max_radius`.
        max_radius
            Largest distance in bits, inclusive; all bits by default.

        Raises
        ------
        SpecMismatchError, CodesError, UsageError, UnknownColumnError, FilterSyntaxError
            As in `search`.
        """
        chosen, snapshot = self._spec(spec), self.snapshot
        queries = as_codes(codes, chosen)
        k = whole("k", k, 1, 1 << 62)
        end = chosen.bits if max_radius is None else max_radius
        end = whole("max_radius", end, 0, chosen.bits)
        asked = _asked(chosen, end, min_quality)
        wanted = answers.Wanted(self._filter(where), with_common=True)
        return answers.nearest(snapshot, queries, asked, k, wanted)

    def lookup(
        self,
        digests: Iterable[str | bytes],
        *,
        where: pc.Expression | str | None = None,
        limit: int | None = None,
    ) -> Matches:
        """Find the files and records that have these digests: the same bytes.

        Parameters
        ----------
        digests
            MD5s, SHA-1s and SHA-256s, in hex or as bytes.
        where, limit
            As in `search`.

        Returns
        -------
        Matches
            All of them `Matches.is_exact`; also files that could not be decoded, and records
            without a code.

        Raises
        ------
        DigestError
            One of them is no digest.
        UnknownColumnError, FilterSyntaxError, UsageError
            As in `search`.
        """
        if isinstance(digests, str | bytes):
            raise UsageError(f"digests: expected a list, not one: write [{digests!r}]")
        wanted = [as_digest(digest) for digest in digests]
        narrowing = answers.Wanted(self._filter(where), _limit(limit))
        return answers.by_digests(self.snapshot, wanted, narrowing)

    def query(
        self,
        paths: Iterable[AnyPath],
        radius: int | None = None,
        *,
        spec: str | Spec | None = None,
        where: pc.Expression | str | None = None,
        limit: int | None = None,
        min_quality: int | None = None,
        with_common: bool = False,
        variants: str = "fast",
        sampling: Sampling | None = None,
        limits: Limits | None = None,
        pool: WorkerPool | None = None,
    ) -> Matches:
        """Hash picture files in worker processes and find each of them: exact, then near.

        Query i is ``paths[i]``. First come the items that have its digest, the same bytes (column
        ``match``: ``exact``), then those within the radius (``near``) under any spec of the index.
        Of the views of an item (its zooms, what is inside a border) the most certain stands for
        all; frames and pages stand for themselves. Files that cannot be hashed, and featureless
        ones (quality below `min_quality`), match by digest only and are in `Matches.failures`.

        Parameters
        ----------
        paths
            Picture files.
        radius, where, limit, min_quality, with_common
            As in `search`, under every spec that is asked.
        spec
            Only this one.
        variants
            Views of each picture to ask with, ``none``, ``fast`` or ``thorough``: see `hash_files`.
            The column ``variant`` says which of them was nearest, ``view`` what of the known one.
        sampling
            Which frames of films: by default four a second, and new scenes.
        limits
            What one file may cost; those of the first call hold as long as the index is open. Not
            beside `pool`.
        pool
            Processes to use and leave running. By default the index starts its own at the first
            call, which takes half a second, and ends them when it is closed.

        Raises
        ------
        SpecMismatchError
            The index has no such spec, or this version computes it differently.
        WorkerStartError
            The hashing processes do not start.
        UnknownColumnError, FilterSyntaxError, UsageError
            As in `search`; unknown `variants`; `limits` beside `pool`.
        """
        specs = self.specs if spec is None else (self._spec(spec),)
        for one in specs:
            check_computable(one, str(self._root))
        asked = [_asked(one, radius, min_quality) for one in specs]
        # Before any file is read.
        wanted = answers.Wanted(self._filter(where), _limit(limit), with_common)
        names = path_list(paths)
        if pool is None:
            self._pool = self._pool or WorkerPool(limits=limits)
        elif limits is not None:
            raise UsageError("limits belong to the pool: give them to WorkerPool")
        hashes = hash_under(
            names, specs, variants=variants, sampling=sampling or ASKED, pool=pool or self._pool
        )
        return answers.by_hashes(self.snapshot, hashes, asked, wanted, is_gathered=True)

    def warm_up(self) -> None:
        """Load the kernels that searches use, most of a second, so that none waits for them.

        For a process that will ask more than once. Else the first searches are scans by FAISS, but
        of large shards, and the one at which those have come to as much loads them.
        """
        warm_up()

    def stats(self) -> dict[str, Any]:
        """Return counts and sizes, as ``nearsearch info --json`` prints them."""
        columns = {name: str(kind) for name, kind in self.columns.items()}
        return {**census.statistics(self.snapshot), "columns": columns}

    def contributions(self) -> pa.Table:
        """Return one row for each contribution that has members, by name.

        Columns: `contribution`, `sources` (a list), `items` (distinct contents), `members`,
        `failed`, `skipped` (files that were not hashed, and are not among the members),
        `first_added`, `last_added` (UTC), `disabled` (whether all its members are). Reads all
        members: 0.2 s a million. Raises `CorruptFileError` if a name or time cannot be read.
        """
        return census.contributions(self.snapshot)

    def failures(self) -> pa.Table:
        """Return one row for each file that was not hashed, or only in part.

        Columns: `status` (``failed``, ``skipped`` or ``damaged``), `key`, `stage`, `reason`,
        `contribution`, `source`, `size` (bytes, null where it is not known), `added_at` (UTC).
        Ordered by contribution and key. Reads all members. Raises `CorruptFileError` if a table is
        damaged.
        """
        return census.failures(self.snapshot)

    def log(self) -> list[Commit]:
        """Return all commits up to this generation, oldest first.

        Raises `CorruptFileError` if a file of the log is damaged, or was erased since.
        """
        return read_log(self._root, self.snapshot.manifest.log)

    def kept_generations(self) -> list[int]:
        """Return the generations that can be opened and gone back to, ascending."""
        manifest = self.snapshot.manifest
        known = [manifests.generation_of(pointer.name) for pointer in manifest.kept]
        return sorted(number for number in (*known, manifest.generation) if number is not None)

    def _filter(self, where: pc.Expression | str | None) -> pc.Expression | None:
        return None if where is None else checked(where, self.columns)  # columns take 30 us

    def _spec(self, spec: str | Spec | None) -> Spec:
        specs = self.specs
        if spec is None:
            return specs[0]
        by_name = {known.name: known for known in specs}
        if isinstance(spec, str) and spec in by_name:
            return by_name[spec]
        wanted = get_spec(spec)
        if wanted not in specs:
            names = ", ".join(str(known) for known in specs)
            raise SpecMismatchError(
                str(self._root), names, str(wanted), "hash the query under a spec of the index"
            )
        return wanted


def _asked(spec: Spec, radius: int | None, min_quality: int | None) -> answers.Asked:
    bound = spec.default_radius if radius is None else whole("radius", radius, 0, spec.bits)
    return answers.Asked(spec, bound, _quality(spec, min_quality))


def _limit(limit: int | None) -> int | None:
    return None if limit is None else whole("limit", limit, 1, 1 << 62)


def _quality(spec: Spec, min_quality: int | None) -> int:
    if min_quality is None:
        return spec.default_min_quality
    return whole("min_quality", min_quality, 0, 100)
