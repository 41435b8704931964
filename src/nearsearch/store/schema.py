"""The Arrow tables of the index: their schemas, and tables to and from IPC files.

The schemas below are the format; `docs/format.md` prints them from here. Every file is one Arrow
IPC file with one uncompressed record batch, so its columns can be used where they are mapped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa

from nearsearch.errors import CorruptFileError, MetadataError
from nearsearch.store import fs
from nearsearch.store.files import File, map_checked

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

ID_BYTES: Final = 32
LABEL_SEPARATOR: Final = "\x1f"  # joins labels for comparison; no label contains it
_WRITE_BUFFER: Final = 1 << 16  # Arrow writes many small pieces: 25 calls become 2
_NAME: Final = pa.dictionary(pa.int32(), pa.string())

ITEMS: Final = pa.schema(
    [
        pa.field("item_id", pa.binary(ID_BYTES), nullable=False),  # sorted, unique in the index
        pa.field("kind", _NAME, nullable=False),  # IMAGE, ... below
        pa.field("format", _NAME),  # of the file's bytes: "JPEG", ...
        pa.field("width", pa.int32()),  # pixels, as displayed
        pa.field("height", pa.int32()),
        pa.field("duration_ms", pa.int32()),  # of a film
    ]
)
"""One row per item. `item_id` is the SHA-256 of the file, or of the code of a bare record."""

DIGESTS: Final = pa.schema(
    [
        pa.field("md5", pa.binary(16)),
        pa.field("sha1", pa.binary(20)),
        pa.field("sha256", pa.binary()),  # where `item_id` is not it
    ]
)
"""More columns of `items.arrow`, each there if any item of the shard has it."""

DIGEST_TYPES: Final = {field.name: str(field.type) for field in DIGESTS}

IMAGE, VIDEO, RECORD, UNHASHED, NOTHING = "image", "video", "record", "unhashed", "nothing"
"""Kinds of items: a picture; a film; what no file was seen of; a file that was read and has no
code; and what members stand for whose file was not read, one item of `NOTHING_ID`."""
NOTHING_ID: Final = bytes(ID_BYTES)

MEMBERS: Final = pa.schema(
    [
        pa.field("item_id", pa.binary(ID_BYTES), nullable=False),  # sorted; maybe another shard's
        pa.field("key", pa.large_string(), nullable=False),
        pa.field("contribution", _NAME, nullable=False),
        pa.field("source", _NAME, nullable=False),
        pa.field("labels", pa.list_(pa.string()), nullable=False),
        pa.field("added_at", pa.timestamp("us", "UTC"), nullable=False),
        pa.field("mtime_ns", pa.int64()),  # of the file, nanoseconds since 1970
        pa.field("size", pa.int64()),  # of the file, bytes
        pa.field("problem", _NAME),  # what kept the file from being hashed, or hashed whole
    ]
)
"""One row per appearance of an item, before the caller's own columns."""

ROWS: Final = pa.schema(
    [
        pa.field("code", pa.uint32(), nullable=False),  # number in the .faiss file; sorted
        pa.field("item", pa.uint32(), nullable=False),  # row of this shard's items.arrow
        pa.field("view", _NAME, nullable=False),  # what of the item the code describes
        pa.field("time_ms", pa.int32()),  # of a frame: when it appears
        pa.field("end_ms", pa.int32()),  # of a film's: when another one does
        pa.field("quality", pa.int8(), nullable=False),  # 0..100, -1 where it is not known
    ]
)
"""One row per (code, item, view)."""

KEYS: Final = pa.schema(
    [
        pa.field("key_hash", pa.uint64(), nullable=False),  # of contribution and key; sorted
        pa.field("member", pa.uint32(), nullable=False),  # row of members.arrow
    ]
)
"""Finds a member by its key."""

PREFIXES: Final = pa.schema(
    [
        pa.field("prefix", pa.uint64(), nullable=False),  # first 8 bytes, big-endian; sorted
        pa.field("item", pa.uint32(), nullable=False),  # row of items.arrow
    ]
)
"""Finds an item by a digest of `DIGESTS`; there if any item of the shard has one."""

TOMBSTONES: Final = pa.schema(
    [
        pa.field("members", pa.list_(pa.uint32()), nullable=False),  # removed or replaced; sorted
        pa.field("items", pa.list_(pa.uint32()), nullable=False),  # without a living member
        pa.field("disabled_members", pa.list_(pa.uint32()), nullable=False),  # living
        pa.field("disabled_items", pa.list_(pa.uint32()), nullable=False),  # with such members only
    ]
)
"""One row: what is hidden of one shard."""

HIT_COLUMNS: Final = (
    *(
        "query",
        "query_index",
        "query_time_ms",
        "query_end_ms",
        "match",
        "key",
        "distance",
        "spec",
        "expected_false",
        "quality",
        "contribution",
        "source",
    ),
    *(
        "labels",
        "added_at",
        "variant",
        "view",
        "time_ms",
        "end_ms",
        "kind",
        "format",
        "size",
        "width",
        "height",
        "duration_ms",
    ),
    *("md5", "sha1", "sha256", "item_id", "mtime_ns", "problem", "generation"),
)
"""Columns of a table of hits, in order, before the callers' own, which cannot take these names."""


def one_chunk(table: pa.Table) -> pa.Table:
    """Return `table` with each column in a single chunk and one dictionary per column."""
    return table.unify_dictionaries().combine_chunks()


def create_ipc(path: Path, table: pa.Table) -> fs.Written:
    """Write `table` as a new, durable Arrow IPC file with one record batch, without a copy of it.

    Raises
    ------
    MetadataError
        A column has more text than one batch can hold.
    """
    joined = one_chunk(table)
    batches = joined.to_batches()
    if len(batches) > 1:  # columns of 32-bit offsets, 2 GB of text or more
        longest = max(joined.column_names, key=lambda name: joined[name].num_chunks)
        raise MetadataError(longest, "more than 2 GB of text; give it as large_string")
    with (
        fs.create(path) as file,
        pa.BufferedOutputStream(pa.PythonFile(file, "w"), _WRITE_BUFFER) as stream,
        pa.ipc.new_file(stream, table.schema) as writer,
    ):
        writer.write_batch(batches[0] if batches else _empty_batch(table.schema))
    return file.written


def from_ipc(
    root: Path, file: File, expected: pa.Schema, own: Mapping[str, str] | None = None
) -> pa.Table:
    """Map an Arrow IPC file and check that it holds the columns of `expected`.

    `own` are the callers' columns that it may hold besides, by name, with their types as text;
    columns of other names are then left out.

    Only the file's ends and dictionaries are read here; columns are read when they are used, and
    what they say is checked there (`nearsearch.store.untrusted`).

    Raises
    ------
    CorruptFileError
        Missing, cut short, altered at an end, not an Arrow file, more than one batch, or a column
        missing or of another type.
    """
    data, path = map_checked(root, file), root / file.name
    try:
        reader = pa.ipc.open_file(pa.BufferReader(pa.py_buffer(data)))
        if reader.num_record_batches != 1:
            raise CorruptFileError(path, "record batches", 1, reader.num_record_batches)
        table = pa.Table.from_batches([reader.get_batch(0)], reader.schema)
        table.validate()
        names = table.column_names
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise CorruptFileError(path, "Arrow IPC file", "a readable file", error) from error
    if len(set(names)) < len(names):
        raise CorruptFileError(path, "columns", "names that differ", names)
    types = {field.name: str(field.type) for field in table.schema}
    wanted = {field.name: str(field.type) for field in expected}
    wanted |= {name: kind for name, kind in (own or {}).items() if name in types}
    for name, kind in wanted.items():
        if types.get(name) != kind:
            found = types.get(name, "no such column")
            raise CorruptFileError(path, f"column {name}", kind, found)
    return table if own is None or len(wanted) == len(types) else table.select(list(wanted))


def ids_of(table: pa.Table) -> NDArray[np.bytes_]:
    """Return the column `item_id` as (n,) ``S32``, sharing its memory; compares like bytes."""
    return ids_view(fixed_bytes(table["item_id"]))


def ids_view(ids: NDArray[np.uint8]) -> NDArray[np.bytes_]:
    """View (n, 32) uint8 as (n,) ``S32``. All have 32 bytes, so numpy's padding rule is moot."""
    return np.ascontiguousarray(ids).view(f"S{ID_BYTES}").ravel()


def fixed_bytes(array: Any) -> NDArray[np.uint8]:
    """Return a fixed-size binary array as (n, width) uint8, sharing its memory."""
    array = one_array(array)
    width = array.type.byte_width
    data = np.frombuffer(array.buffers()[1] or b"", np.uint8)
    return data[array.offset * width : (array.offset + len(array)) * width].reshape(-1, width)


def from_fixed_bytes(values: NDArray[np.uint8]) -> pa.Array:
    """Return (n, width) uint8 as a fixed-size binary array, sharing its memory."""
    values = np.ascontiguousarray(values)
    return pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(values.shape[1]), len(values), [None, pa.py_buffer(values)]
    )


def numbers(column: Any) -> NDArray[Any]:
    """Return a column of integers without nulls as a read-only array, sharing its memory."""
    return one_array(column).to_numpy(zero_copy_only=True)  # type: ignore[no-any-return]


def take(table: pa.Table, rows: NDArray[np.int64]) -> pa.Table:
    """Return the given rows of `table` in one chunk; all of them, ascending, cost nothing."""
    return one_chunk(table if len(rows) == len(table) else table.take(pa.array(rows)))


def pruned(table: pa.Table) -> pa.Table:
    """Return `table`, in one chunk, without the dictionary entries that no row uses.

    Rows that are left out must not leave their names behind.
    """
    for position, field in enumerate(table.schema):
        if not pa.types.is_dictionary(field.type):
            continue
        column = one_array(table[field.name])
        # A slice of an array shares its buffers: what is not null is looked at by itself.
        indices = column.indices.drop_null().to_numpy()
        used = np.flatnonzero(np.bincount(indices, minlength=len(column.dictionary)))
        if len(used) == len(column.dictionary):
            continue
        rank = np.zeros(len(column.dictionary), np.int32)
        rank[used] = np.arange(len(used), dtype=np.int32)
        renumbered = pa.array(rank).take(column.indices).cast(field.type.index_type)
        values = column.dictionary.take(pa.array(used))
        array = pa.DictionaryArray.from_arrays(renumbered, values, ordered=field.type.ordered)
        table = table.set_column(position, field, array)
    return table


def names_in(column: Any, *, nullable: bool = False) -> tuple[NDArray[np.int64], list[str]]:
    """Return a dictionary column as the number of each row's name, and the names.

    Nulls, where they may be, have the number -1.

    Raises
    ------
    IndexError
        A row has a number without a name: the column is damaged.
    """
    array = one_array(column)
    names, indices = array.dictionary.to_pylist(), array.indices
    lowest = -1 if nullable and indices.null_count else 0
    numbers_ = (indices.fill_null(-1) if lowest else indices).to_numpy().astype(np.int64)
    if len(numbers_) and not lowest <= numbers_.min() <= numbers_.max() < len(names):
        raise IndexError("a row has no name")
    return numbers_, names


def constant(value: str, length: int) -> pa.DictionaryArray:
    """Return a dictionary column that holds one name `length` times."""
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(length, np.int32)), pa.array([value]))


def one_array(column: Any) -> Any:
    """Return a column as one Arrow array."""
    if not isinstance(column, pa.ChunkedArray):
        return column
    # combine_chunks copies even a single chunk
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _empty_batch(schema: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array([], field.type) for field in schema], schema=schema)
