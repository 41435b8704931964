"""Records: what callers hand in, checked once and brought into the columns of a batch."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from nearsearch.checks import check_name
from nearsearch.codes import DIGEST_BYTES, as_codes, as_digest, record_ids, to_hex, unhashed_id
from nearsearch.errors import MetadataError, UsageError
from nearsearch.matches import Failure
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

    def __init__(
        self,
        contribution: str,
        source: str,
        labels: tuple[str, ...],
        digests: tuple[str, ...] = (),
    ) -> None:
        for what, text in [("contribution", contribution), ("source", source)] + [
            ("label", label) for label in labels
        ]:
            check_name(what, text)
        if "" in labels:
            raise UsageError("label: an empty label says nothing")
        for name in digests:
            if name not in ("md5", "sha1"):
                raise UsageError(f"digests: expected md5 or sha1, got {name!r}")
        self.contribution, self.source, self.labels = contribution, source, labels
        self.digests = digests
        self.added_at = datetime.now(UTC)


_RAW = pa.schema([field for field in schema.ROWS if field.name != "code"])
_LISTS = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
_PLAIN = (
    *(pa.types.is_null, pa.types.is_primitive, pa.types.is_decimal, pa.types.is_fixed_size_binary),
    *(pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary),
)


def batch_of_files(
    answers: Sequence[Answer], keys: Sequence[str], marks: Marks, specs: Sequence[Spec]
) -> Batch:
    """Return the batch of files, hashed or not; `keys` are theirs, in the same order."""
    facts = [answer.facts for answer in answers]
    ids = np.frombuffer(b"".join(map(_file_id, facts)), np.uint8).reshape(-1, schema.ID_BYTES)
    items = pa.table(
        [
            schema.from_fixed_bytes(ids),
            pa.array([_kind(fact) for fact in facts]).dictionary_encode(),
            *([fact.get(name) for fact in facts] for name in schema.ITEMS.names[2:]),
        ],
        names=schema.ITEMS.names,
    ).cast(schema.ITEMS)
    digests = {name: [_digest(fact, name) for fact in facts] for name in schema.DIGESTS.names}
    is_whole = ["codes" in fact and "reason" not in fact for fact in facts]  # it is the id then
    pairs = zip(digests["sha256"], is_whole, strict=True)
    digests["sha256"] = [None if whole else digest for digest, whole in pairs]
    items = _with_digests(items, digests)
    members = _members(
        ids,
        pa.array(keys, pa.large_string()),
        marks,
        pa.array([fact.get("mtime_ns") for fact in facts], pa.int64()),
        pa.array([fact.get("size") for fact in facts], pa.int64()),
        pa.array([problem_of(fact) for fact in facts], pa.string()),
    )
    raw = {}
    for spec in specs:
        views = [
            (record, *view)
            for record, fact in enumerate(facts)
            for view in fact.get("codes", {}).get(spec.name, ())
        ]
        table = pa.table(
            [
                pa.array([record for record, *_ in views], pa.uint32()),
                pa.array([view for _, view, *_ in views], pa.string()).dictionary_encode(),
                pa.array([time for _, _, time, *_ in views], pa.int32()),
                pa.array([end for *_, end in views], pa.int32()),
                pa.array([quality for *_, quality, _ in views], pa.int8()),
            ],
            names=_RAW.names,
        ).cast(_RAW)
        raw[spec.name] = RawCodes(as_codes([code for _, _, _, code, *_ in views], spec), table)
    return Batch(items, members, raw)


def _kind(facts: Mapping[str, Any]) -> str:
    """Return what kind of item a file is."""
    if "codes" in facts:
        return schema.IMAGE if facts.get("duration_ms") is None else schema.VIDEO
    return schema.UNHASHED if "sha256" in facts else schema.NOTHING


def problem_of(facts: Mapping[str, Any]) -> str | None:
    """Return what `members.arrow` says of a file that was not hashed, or not whole."""
    return Failure("", facts["reason"], facts["stage"]).problem if "reason" in facts else None


def _file_id(facts: Mapping[str, Any]) -> bytes:
    """Return the id of the item that a file is."""
    if "sha256" not in facts:
        return schema.NOTHING_ID
    digest = bytes.fromhex(facts["sha256"])
    if "codes" not in facts:
        return unhashed_id(digest)
    return unhashed_id(digest, facts["reason"]) if "reason" in facts else digest


def _digest(facts: Mapping[str, Any], name: str) -> bytes | None:
    return bytes.fromhex(facts[name]) if facts.get(name) else None


def _with_digests(items: pa.Table, digests: Mapping[str, Sequence[bytes | None]]) -> pa.Table:
    """Append those columns of `schema.DIGESTS` in which anything stands."""
    for field in schema.DIGESTS:
        values = digests.get(field.name)
        if values is not None and any(value is not None for value in values):
            items = items.append_column(field, pa.array(values, field.type))
    return items


def _raw_codes(codes: NDArray[np.uint8], quality: NDArray[np.int8]) -> RawCodes:
    """Return one code a record, each of the whole picture."""
    n = len(codes)
    table = pa.table(
        [
            pa.array(np.arange(n, dtype=np.uint32)),
            schema.constant("image", n),
            *[pa.nulls(n, pa.int32())] * 2,
            pa.array(quality),
        ],
        _RAW,
    )
    return RawCodes(codes, table)


def _members(
    ids: NDArray[np.uint8],
    keys: pa.Array,
    marks: Marks,
    mtime_ns: pa.Array,
    size: pa.Array,
    problem: pa.Array,
) -> pa.Table:
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
            size,
            problem.dictionary_encode(),
        ],
        schema.MEMBERS,
    )


def _key_array(keys: Any, n: int) -> pa.Array:
    try:
        array = pa.array(keys) if not isinstance(keys, pa.Array | pa.ChunkedArray) else keys
        if isinstance(array, pa.ChunkedArray):
            array = array.combine_chunks()
        array = array.cast(pa.large_string()) if len(array) else pa.array([], pa.large_string())
    except (pa.ArrowException, TypeError, UnicodeEncodeError) as error:
        raise UsageError(f"keys: expected text, {error}") from error
    if len(array) != n or array.null_count:
        raise UsageError(
            f"keys: expected {n}, one a record, got {len(array)} of which {array.null_count} null"
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
        if name in schema.HIT_COLUMNS or name == "hit":
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
    digests: Any,
    metadata: Any,
) -> Batch:
    """Return the batch of bare codes, everything checked; see `Writer.add_codes`."""
    rows = np.array(as_codes(codes, spec))  # a copy: ours until the commit
    quality = _checked_qualities(qualities, len(rows))
    ids = record_ids(rows, quality, spec)
    known = _checked_digests(digests, len(rows))
    if known:
        ids = _ids_with_digests(ids, known)
    key_array = _key_array(to_hex(rows) if keys is None else keys, len(rows))
    return _batch_of_records(ids, key_array, marks, known, metadata, {spec.name: (rows, quality)})


def batch_of_digests(digests: Any, marks: Marks, *, keys: Any, metadata: Any) -> Batch:
    """Return the batch of records that have digests only; see `Writer.add_digests`."""
    known = _checked_digests(digests, None)
    if not known:
        raise UsageError("digests: give md5, sha1 or sha256")
    n = len(next(iter(known.values())))
    firsts = [next(filter(None, row), None) for row in zip(*known.values(), strict=True)]
    if None in firsts:
        raise UsageError(f"digests: record {firsts.index(None)} has none")
    ids = _ids_with_digests(np.zeros((n, schema.ID_BYTES), np.uint8), known)
    names = [first.hex() for first in firsts if first] if keys is None else keys
    return _batch_of_records(ids, _key_array(names, n), marks, known, metadata, {})


def _batch_of_records(
    ids: NDArray[np.uint8],
    keys: pa.Array,
    marks: Marks,
    digests: Mapping[str, Sequence[bytes | None]],
    metadata: Any,
    codes: Mapping[str, tuple[NDArray[np.uint8], NDArray[np.int8]]],
) -> Batch:
    n = len(ids)
    no_numbers = pa.nulls(n, pa.int64())
    members = _members(ids, keys, marks, no_numbers, no_numbers, pa.nulls(n, pa.string()))
    for name, column in _checked_metadata(metadata, n):
        members = members.append_column(name, column)
    items = pa.table(
        [members["item_id"], schema.constant(schema.RECORD, n), *[pa.nulls(n)] * 4],
        names=schema.ITEMS.names,
    ).cast(schema.ITEMS)
    raw = {spec: _raw_codes(*pair) for spec, pair in codes.items()}
    return Batch(_with_digests(items, digests), schema.one_chunk(members), raw)


def _checked_digests(digests: Any, n: int | None) -> dict[str, list[bytes | None]]:
    """Return the columns of digests that were given, as bytes."""
    known: dict[str, list[bytes | None]] = {}
    for name, values in dict(digests or {}).items():
        if name not in DIGEST_BYTES:
            raise UsageError(f"digests: expected md5, sha1 or sha256, got {name!r}")
        if isinstance(values, str | bytes):
            raise UsageError(f"digests: {name}: expected a list, not one: write [{values!r}]")
        known[name] = [None if value is None else as_digest(value, name) for value in values]
        n = len(known[name]) if n is None else n
        if len(known[name]) != n:
            raise UsageError(f"digests: {name}: expected {n}, got {len(known[name])}")
    return known


def _ids_with_digests(
    ids: NDArray[np.uint8], digests: Mapping[str, Sequence[bytes | None]]
) -> NDArray[np.uint8]:
    """Return ids that also tell records of different digests apart."""
    empty = [None] * len(ids)
    columns = [digests.get(name, empty) for name in DIGEST_BYTES]
    mixed = [
        hashlib.blake2b(
            own.tobytes() + b"".join(part.ljust(32, b"\0") for part in ((d or b"") for d in row)),
            digest_size=schema.ID_BYTES,
            person=b"nearsearch hash",
        ).digest()
        for own, row in zip(ids, zip(*columns, strict=True), strict=True)
    ]
    return np.frombuffer(b"".join(mixed), np.uint8).reshape(-1, schema.ID_BYTES)


def _with_wide_dictionaries(metadata: pa.Table) -> pa.Table:
    """Give dictionary columns 32-bit indices: of two with narrow ones the union may not fit."""
    fields = [
        field.with_type(pa.dictionary(pa.int32(), field.type.value_type))
        if pa.types.is_dictionary(field.type)
        else field
        for field in metadata.schema
    ]
    return metadata.cast(pa.schema(fields))
