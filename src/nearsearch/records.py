"""Records: what callers hand in, checked once and brought into the columns of a batch."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from nearsearch.checks import check_name
from nearsearch.codes import as_codes, record_ids, to_hex
from nearsearch.errors import MetadataError, UsageError
from nearsearch.store import schema
from nearsearch.store.build import RawCodes
from nearsearch.store.transaction import Batch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from nearsearch.spec import Spec
    from nearsearch.workers import Answer


class Marks:
    """What a call says of all its records."""

    def __init__(self, contribution: str, source: str, labels: tuple[str, ...]) -> None:
        for what, text in [("contribution", contribution), ("source", source)] + [
            ("label", label) for label in labels
        ]:
            check_name(what, text)
        if "" in labels:
            raise UsageError("label: an empty label says nothing")
        self.contribution, self.source, self.labels = contribution, source, labels
        self.added_at = datetime.now(UTC)


_LISTS = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
_PLAIN = (
    *(pa.types.is_null, pa.types.is_primitive, pa.types.is_decimal, pa.types.is_fixed_size_binary),
    *(pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary),
)


def batch_of_files(
    answers: Sequence[Answer], keys: Mapping[str, str], marks: Marks, specs: Sequence[Spec]
) -> Batch:
    """Return the batch of hashed files; `keys` maps their paths to keys."""
    facts = [answer.facts for answer in answers]
    ids = np.frombuffer(
        b"".join(bytes.fromhex(fact["sha256"]) for fact in facts), np.uint8
    ).reshape(-1, schema.ID_BYTES)
    items = pa.table(
        [
            schema.from_fixed_bytes(ids),
            schema.constant("image", len(ids)),
            *([fact[name] for fact in facts] for name in ("format", "size", "width", "height")),
        ],
        names=schema.ITEMS.names,
    ).cast(schema.ITEMS)
    key_array = pa.array([keys[answer.path] for answer in answers], pa.large_string())
    mtime_ns = pa.array([fact["mtime_ns"] for fact in facts], pa.int64())
    members = _members(ids, key_array, marks, mtime_ns)
    raw = {}
    for spec in specs:
        pairs = [fact["codes"][spec.name] for fact in facts]
        codes = as_codes([code for code, _ in pairs], spec)
        raw[spec.name] = _raw_codes(codes, np.array([quality for _, quality in pairs], np.int8))
    return Batch(items, members, raw)


def _raw_codes(codes: NDArray[np.uint8], quality: NDArray[np.int8]) -> RawCodes:
    """Return one code a record, each of the whole picture."""
    n = len(codes)
    table = pa.table(
        [
            pa.array(np.arange(n, dtype=np.uint32)),
            schema.constant("image", n),
            pa.nulls(n, pa.int32()),
            pa.array(quality),
        ],
        pa.schema([field for field in schema.ROWS if field.name != "code"]),
    )
    return RawCodes(codes, table)


def _members(ids: NDArray[np.uint8], keys: pa.Array, marks: Marks, mtime_ns: pa.Array) -> pa.Table:
    n = len(keys)
    labels = pa.ListArray.from_arrays(
        pa.array(np.arange(n + 1, dtype=np.int32) * len(marks.labels)),
        pa.array(list(marks.labels), pa.string()).take(
            pa.array(np.tile(np.arange(len(marks.labels)), n))
        ),
    )
    return pa.table(
        [
            schema.from_fixed_bytes(ids),
            keys,
            schema.constant(marks.contribution, n),
            schema.constant(marks.source, n),
            labels,
            pa.array([marks.added_at], pa.timestamp("us", "UTC")).take(
                pa.array(np.zeros(n, np.int32))
            ),
            mtime_ns,
        ],
        schema.MEMBERS,
    )


def _key_array(keys: Any, codes: NDArray[np.uint8]) -> pa.Array:
    if keys is None:
        keys = to_hex(codes)
    try:
        array = pa.array(keys) if not isinstance(keys, pa.Array | pa.ChunkedArray) else keys
        if isinstance(array, pa.ChunkedArray):
            array = array.combine_chunks()
        array = array.cast(pa.large_string()) if len(array) else pa.array([], pa.large_string())
    except (pa.ArrowException, TypeError, UnicodeEncodeError) as error:
        raise UsageError(f"keys: expected text, {error}") from error
    if len(array) != len(codes) or array.null_count:
        raise UsageError(
            f"keys: expected {len(codes)}, one a code, got {len(array)} of which "
            f"{array.null_count} null"
        )
    return array


def _checked_qualities(qualities: Any, n: int) -> NDArray[np.int8]:
    if qualities is None:
        return np.full(n, -1, np.int8)
    array = np.asarray(qualities)
    if array.shape != (n,) or array.dtype.kind not in "iu":
        raise UsageError(f"qualities: expected ({n},) integers, got {array.shape} {array.dtype}")
    if n and (array.min() < -1 or array.max() > 100):
        raise UsageError(f"qualities: expected 0..100, got {array.min()}..{array.max()}")
    return array.astype(np.int8)


def _checked_metadata(metadata: Any, n: int) -> list[tuple[Any, pa.ChunkedArray]]:
    if metadata is None:
        return []
    if not isinstance(metadata, pa.Table):
        raise UsageError(f"metadata: expected a pyarrow.Table, got a {type(metadata).__name__}")
    if len(metadata) != n:
        raise UsageError(f"metadata: expected {n} rows, one a code, got {len(metadata)}")
    names = metadata.column_names
    for name in names:
        if name in schema.HIT_COLUMNS or name == "match":
            raise MetadataError(name, "this name is taken; rename the column")
        if names.count(name) > 1:
            raise MetadataError(name, "the name stands twice")
        if not name.isprintable() or not name:
            raise MetadataError(name, "a column needs a printable name")
    for field in metadata.schema:
        is_dictionary = pa.types.is_dictionary(field.type)  # Arrow joins those of plain values only
        if not (_is_plain(field.type.value_type) if is_dictionary else _is_storable(field.type)):
            raise MetadataError(field.name, f"columns of type {field.type} cannot be kept")
    metadata = _with_wide_dictionaries(metadata)
    # What else a field says is not kept: it belongs to no row, and could not be erased with one.
    fields = [pa.field(field.name, field.type) for field in metadata.schema]
    # A column without any value has no type yet, and says nothing: as if it were not there.
    return [(field, metadata[field.name]) for field in fields if field.type != pa.null()]


def _is_storable(kind: pa.DataType) -> bool:
    """Tell whether taking rows of a column leaves nothing of the others behind.

    Dictionaries within other types, views, unions and runs share what all rows say.
    """
    if pa.types.is_struct(kind):
        return all(_is_storable(kind.field(i).type) for i in range(kind.num_fields))
    if pa.types.is_map(kind):
        return _is_storable(kind.key_type) and _is_storable(kind.item_type)
    if any(is_list(kind) for is_list in _LISTS):
        return _is_storable(kind.value_type)
    return _is_plain(kind)


def _is_plain(kind: pa.DataType) -> bool:
    return any(is_kind(kind) for is_kind in _PLAIN)


def batch_of_codes(
    codes: Any,
    spec: Spec,
    marks: Marks,
    *,
    keys: Any,
    qualities: Any,
    metadata: Any,
) -> Batch:
    """Return the batch of bare codes, everything checked; see `Writer.add_codes`."""
    rows = np.array(as_codes(codes, spec))  # a copy: ours until the commit
    n = len(rows)
    quality = _checked_qualities(qualities, n)
    ids = record_ids(rows, quality, spec)
    members = _members(ids, _key_array(keys, rows), marks, pa.nulls(n, pa.int64()))
    for name, column in _checked_metadata(metadata, n):
        members = members.append_column(name, column)
    nothing = pa.nulls(n)
    items = pa.table(
        [members["item_id"], schema.constant("record", n), *[nothing] * 4],
        names=schema.ITEMS.names,
    ).cast(schema.ITEMS)
    raw = _raw_codes(rows, quality)
    return Batch(items, schema.one_chunk(members), {spec.name: raw})


def _with_wide_dictionaries(metadata: pa.Table) -> pa.Table:
    """Give dictionary columns 32-bit indices: of two with narrow ones the union may not fit."""
    fields = [
        field.with_type(pa.dictionary(pa.int32(), field.type.value_type))
        if pa.types.is_dictionary(field.type)
        else field
        for field in metadata.schema
    ]
    return metadata.cast(pa.schema(fields))
