"""A snapshot: the shards of one commit, opened, and what each row of them stands for."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nearsearch.errors import CorruptFileError, GenerationNotKeptError
from nearsearch.matches import Shown
from nearsearch.store import digests, fs, schema, untrusted
from nearsearch.store import manifest as manifests
from nearsearch.store.files import problem_of
from nearsearch.store.shard import open_shard
from nearsearch.store.tombstones import contains

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from nearsearch.store.manifest import Manifest, Pointer, ShardEntry
    from nearsearch.store.shard import Shard


_PAGE: Final = re.compile(r"page \d{1,9}")
_TRIES: Final = 10  # to open what a writer removes at the same moment


class Snapshot:
    """The live shards of one generation. Never changes; writers cannot touch what it maps.

    As long as it lives, what it needs stays on the disk, unless it is erased. Even then it goes on
    to work: it has mapped all its files.
    """

    def __init__(self, root: Path, generation: int | None = None, old: Snapshot | None = None):
        """Open a generation, by default the newest; reads headers and sizes only.

        Parameters
        ----------
        old
            A snapshot of the same index: shards that are the same are not opened again.

        Raises
        ------
        IndexNotFoundError, CorruptFileError, FormatTooNewError
        GenerationNotKeptError
            There is no such generation, or no longer.
        """
        self.manifest: Manifest
        self.shards: list[Shard]
        known: dict[tuple[str, ...], Shard] = {}
        if old is not None:
            keys = map(_identity, old.manifest.shards)
            known = dict(zip(keys, old.shards, strict=True))
        self.root = root
        for tries_left in reversed(range(_TRIES)):
            self.manifest, self.hold, self.pointer, live = hold(root, generation)
            columns = self.manifest.columns
            try:
                self.shards = [
                    known.get(_identity(entry)) or open_shard(root, entry, columns)
                    for entry in self.manifest.shards
                ]
                break
            except CorruptFileError:
                # What was just read may have been erased, or collected where there are no locks.
                if manifests.read_pointer(root) == live or not tries_left:
                    raise
        self._first_row: dict[str, NDArray[np.int64]] = {}

    def check(self) -> None:
        """Compare every byte with its checksum; raise `CorruptFileError` for the first damage."""
        for _, file in self.manifest.named_files():
            problem = problem_of(self.root, file)
            if problem:
                raise CorruptFileError(
                    self.root / file.name, "content", "the bytes written", problem
                )

    def first_rows(self, spec: str) -> NDArray[np.int64]:
        """Return the snapshot's number of each shard's first row of `spec`, and the end.

        Rows are numbered spec by spec, in the order of the manifest; then come the items.
        """
        if not self._first_row:
            end = 0
            for known in self.manifest.specs:
                name = known.name
                tables = [shard.codes.get(name) for shard in self.shards]
                counts = [end, *(len(rows.table) if rows else 0 for rows in tables)]
                self._first_row[name] = np.cumsum(counts, dtype=np.int64)
                end = int(self._first_row[name][-1])
        return self._first_row[spec]

    def n_rows(self) -> int:
        """Return the number of rows of all specs: from here on row numbers stand for items."""
        return int(self.first_rows(self.manifest.specs[-1].name)[-1])

    def n_codes(self, spec: str) -> int:
        """Return the number of rows of `spec`, hidden ones included."""
        first_rows = self.first_rows(spec)
        return int(first_rows[-1] - first_rows[0])

    def first_items(self) -> NDArray[np.int64]:
        """Return the snapshot's number of each shard's first item, and the end."""
        counts = [len(shard.items) for shard in self.shards]
        return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)

    def find_digests(self, wanted: Sequence[bytes]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Find the items that have a digest and are not hidden.

        Parameters
        ----------
        wanted
            MD5s, SHA-1s and SHA-256s, of 16, 20 and 32 bytes.

        Returns
        -------
        position, row
            Positions in `wanted`, and rows that stand for items; in no particular order.
        """
        positions, rows = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        first_items, n_rows = self.first_items(), self.n_rows()
        for shard, first in zip(self.shards, first_items, strict=False):
            position, item = digests.find(shard, wanted)
            positions.append(position)
            rows.append(item + (first + n_rows))
        return np.concatenate(positions), np.concatenate(rows)

    def shown_by(self, rows: NDArray[np.int64]) -> Shown:
        """Return what each row is a view of, so that the zooms of a picture are one thing.

        Parameters
        ----------
        rows
            Rows of any spec, or that stand for items; in any order.
        """
        item, page = rows.copy(), np.zeros_like(rows)
        time, end, duration = (np.full_like(rows, -1) for _ in range(3))
        first_items, n_rows = self.first_items(), self.n_rows()
        for spec, number, inside in self._parts(rows):
            shard = self.shards[number]
            local = rows[inside] - self.first_rows(spec)[number]
            codes = shard.codes[spec]
            of_shard = codes.item[local].astype(np.int64)
            item[inside] = of_shard + first_items[number] + n_rows
            path = shard.folder and shard.folder / f"{spec}.rows.arrow"
            wanted = codes.table.select(["view", "time_ms", "end_ms"])
            if path:
                untrusted.check_dictionaries(wanted, path)
            of = untrusted.take(wanted, local, path)
            time[inside], end[inside] = (_or_less(of[name]) for name in ("time_ms", "end_ms"))
            views, names = schema.names_in(of["view"])
            pages = [int(name[5:]) if _PAGE.fullmatch(name) else 0 for name in names]
            page[inside] = np.array(pages, np.int64)[views]
            is_film = np.flatnonzero(inside)[end[inside] >= 0]
            if len(is_film):
                items = item[is_film] - first_items[number] - n_rows
                duration[is_film] = _or_less(
                    shard.take_items(items, ["duration_ms"])["duration_ms"]
                )
        return Shown(item, time, page, end, duration)

    def codes_of(self, spec: str, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the codes of rows of `spec`, (n, bytes)."""
        width = {known.name: known.code_bytes for known in self.manifest.specs}[spec]
        codes = np.empty((len(rows), width), np.uint8)
        for name, number, inside in self._parts(rows):
            of_shard = self.shards[number].codes[name]
            local = rows[inside] - self.first_rows(name)[number]
            codes[inside] = of_shard.codes[of_shard.code[local]]
        return codes

    def _parts(self, rows: NDArray[np.int64]) -> Iterator[tuple[str, int, NDArray[np.bool_]]]:
        """Yield the shards that some of the rows are of: spec, number, and which rows."""
        for spec in self.manifest.specs:
            first_rows = self.first_rows(spec.name)
            for number in range(len(self.shards)):
                inside = (rows >= first_rows[number]) & (rows < first_rows[number + 1])
                if inside.any():
                    yield spec.name, number, inside

    def columns(self) -> Mapping[str, pa.DataType]:
        """Return name and type of each column that `describe` gives."""
        fields = [*_ROW_FIELDS, *_ITEM_FIELDS, *schema.MEMBERS]
        types = {field.name: field.type for field in fields}
        for shard in self.shards:
            types.update({field.name: field.type for field in shard.members.schema})
        return types

    def describe(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], pa.Table]:
        """Return what is known of rows: their view, their item, its live members.

        Parameters
        ----------
        rows
            Ascending row numbers of this snapshot; from ``n_rows()`` on they stand for items.

        Returns
        -------
        position : (n,) int64
            Ascending positions in `rows`, one for each member of the row's item.
        table
            n rows: columns of the row, the item and the member, members of one position sorted
            by contribution, then key.
        """
        parts, ids = self._rows_and_items(rows)
        unique_ids, inverse = np.unique(ids, return_inverse=True)
        holder, members = self._members(unique_ids)
        # Pair each row with the members of its item: both sides are sorted by the unique item.
        low = np.searchsorted(holder, inverse, "left")
        counts = np.searchsorted(holder, inverse, "right") - low
        position = np.repeat(np.arange(len(rows)), counts)
        starts = np.repeat(low - (np.cumsum(counts) - counts), counts)
        left = parts.take(pa.array(position))
        right = members.take(pa.array(np.arange(len(position)) + starts))
        for name in left.column_names:
            right = right.append_column(left.schema.field(name), left[name])
        return position, right

    def _rows_and_items(self, rows: NDArray[np.int64]) -> tuple[pa.Table, NDArray[np.bytes_]]:
        tables, ids = [], []
        for spec, number, inside in self._parts(rows):
            shard = self.shards[number]
            local = rows[inside] - self.first_rows(spec)[number]
            code_rows = shard.codes[spec]
            item = code_rows.item[local].astype(np.int64)
            path = shard.folder and shard.folder / f"{spec}.rows.arrow"
            wanted = code_rows.table.select([field.name for field in _ROW_FIELDS])
            if path:
                untrusted.check_dictionaries(wanted, path)
            table = untrusted.take(wanted, local, path)
            quality = table["quality"]
            known = pc.if_else(pc.less(quality, 0), pa.scalar(None, pa.int8()), quality)
            items = shard.take_items(item, [field.name for field in _ITEM_FIELDS])
            columns = [known, *table.columns[1:], *items.columns]
            tables.append(pa.table(columns, _DESCRIPTION))
            ids.append(shard.item_ids[item])
        first_items, n_rows = self.first_items(), self.n_rows()
        bounds = np.searchsorted(rows, first_items + n_rows)
        for number, shard in enumerate(self.shards):
            item = rows[bounds[number] : bounds[number + 1]] - n_rows - first_items[number]
            if len(item):
                items = shard.take_items(item, [field.name for field in _ITEM_FIELDS])
                no_code = [pa.nulls(len(item), field.type) for field in _ROW_FIELDS]
                tables.append(pa.table([*no_code, *items.columns], _DESCRIPTION))
                ids.append(shard.item_ids[item])
        if not tables:
            return _DESCRIPTION.empty_table(), np.empty(0, f"S{schema.ID_BYTES}")
        found = np.concatenate(ids)
        return _with_sha256(schema.one_chunk(pa.concat_tables(tables)), found), found

    def _members(self, ids: NDArray[np.bytes_]) -> tuple[NDArray[np.int64], pa.Table]:
        """Return all members of the items that are neither dead nor disabled, and whose they are.

        Position in `ids`, ascending, and table.
        """
        holders, tables = [np.empty(0, np.int64)], [_all_columns(self).empty_table()]
        for shard in self.shards:
            position, row = shard.members_of(ids)
            shown = ~contains(shard.tombstones.disabled_members, row)
            if shown.any():
                holders.append(position[shown])
                tables.append(shard.take_members(row[shown]))
        table = schema.one_chunk(pa.concat_tables(tables, promote_options="default"))
        holder = np.concatenate(holders)
        by = pa.table(
            {
                "holder": pa.array(holder),
                "contribution": table["contribution"].cast(pa.string()),
                "key": table["key"],
            }
        )
        order = pc.sort_indices(by, [(name, "ascending") for name in by.column_names])
        return holder[order.to_numpy()], table.take(order)


_ROW_FIELDS = [schema.ROWS.field(name) for name in ("quality", "view", "time_ms", "end_ms")]
_ITEM_FIELDS = [*(field for field in schema.ITEMS if field.name != "item_id"), *schema.DIGESTS]
_DESCRIPTION = pa.schema([field.with_nullable(True) for field in (*_ROW_FIELDS, *_ITEM_FIELDS)])


def _or_less(column: Any) -> NDArray[np.int64]:
    """Return a column of numbers, -1 for what is null."""
    numbers: NDArray[np.int64] = column.fill_null(-1).to_numpy().astype(np.int64)
    return numbers


def _with_sha256(table: pa.Table, ids: NDArray[np.bytes_]) -> pa.Table:
    """Fill in the SHA-256 of files that were hashed whole: it is their id."""
    own = schema.from_fixed_bytes(ids.view(np.uint8).reshape(-1, schema.ID_BYTES))
    is_file = pc.is_in(table["kind"].cast(pa.string()), pa.array([schema.IMAGE, schema.VIDEO]))
    is_whole = pc.and_(is_file, pc.is_null(table["sha256"]))
    filled = pc.if_else(is_whole, own.cast(pa.binary()), table["sha256"])
    return table.set_column(table.column_names.index("sha256"), "sha256", filled)


def _all_columns(snapshot: Snapshot) -> pa.Schema:
    fields = {field.name: field for field in schema.MEMBERS}
    for shard in snapshot.shards:
        fields.update({field.name: field for field in shard.members.schema})
    return pa.schema(list(fields.values()))


def _identity(entry: ShardEntry) -> tuple[str, ...]:
    """Return what two entries share if and only if the shard they open is the same."""
    dead = entry.tombstones.name if entry.tombstones else ""
    return entry.id, dead, *entry.files


def hold(root: Path, generation: int | None) -> tuple[Manifest, fs.Hold, Pointer, Pointer]:
    """Read the manifest of a generation, by default the newest, and keep writers from removing it.

    Also returns its name and SHA-256, and those of the one that was live then.

    Raises
    ------
    IndexNotFoundError, CorruptFileError, FormatTooNewError, GenerationNotKeptError
    """
    for tries_left in reversed(range(_TRIES)):
        live = pointer = manifests.read_pointer(root)
        try:
            if generation is not None and manifests.generation_of(live.name) != generation:
                pointer = _kept(root, live, generation)
            held = fs.Hold(root / pointer.name)
            data = held.read(manifests.LIMIT)
            manifest = manifests.decode_checked(root / pointer.name, data, pointer.sha256)
        except (FileNotFoundError, CorruptFileError) as error:
            # A writer may have moved on between the two reads.
            if manifests.read_pointer(root) != live and tries_left:
                continue
            if isinstance(error, CorruptFileError):
                raise
            raise CorruptFileError(root / pointer.name, "manifest", "a file", "none") from None
        return manifest, held, pointer, live
    raise AssertionError("the last try returns or raises")


def _kept(root: Path, live: Pointer, generation: int) -> Pointer:
    kept = manifests.read(root, live).kept
    named = {manifests.generation_of(old.name): old for old in kept}
    if generation not in named:
        known = [*named, manifests.generation_of(live.name)]
        raise GenerationNotKeptError(root, generation, known)
    return named[generation]
