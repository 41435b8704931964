"""Rows of mapped tables whose bytes nobody has verified.

An index is opened without reading it, so what it maps may be altered, and Arrow follows offsets
and indices without asking. Here they are checked, for the rows that are wanted only, before Arrow
does: 75 us for a few rows of all columns, nothing that grows with the table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa

from nearsearch.errors import CorruptFileError
from nearsearch.store import schema

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

_FIRST: Final = -62_135_596_800_000_000  # microseconds: the years 1 to 9999
_LAST: Final = 253_402_300_799_999_999
_OFFSETS_32: Final = (pa.types.is_string, pa.types.is_binary, pa.types.is_list, pa.types.is_map)
_OFFSETS_64: Final = (pa.types.is_large_string, pa.types.is_large_binary, pa.types.is_large_list)


def take(table: pa.Table, rows: NDArray[np.int64], path: Path | None) -> pa.Table:
    """Return the given rows of a mapped table of one chunk.

    Parameters
    ----------
    rows
        Row numbers; those that come from other damaged files may be outside the table.
    path
        Where the table lies; None for one made in this process, which is not checked.

    Raises
    ------
    CorruptFileError
        A row is outside the table, or an offset or index of it outside its buffers, or text is
        not UTF-8.
    """
    if path is None:
        return table.take(pa.array(rows))
    if len(rows) and not 0 <= rows.min() <= rows.max() < len(table):
        raise CorruptFileError(path, "rows", f"numbers below {len(table)}", "others")
    for name in table.column_names:
        try:
            _check(schema.one_array(table[name]), rows)
        except (pa.ArrowException, IndexError) as error:
            raise CorruptFileError(path, f"column {name}", "whole values", error) from error
    taken = table.take(pa.array(rows))
    for name in table.column_names:
        try:
            if not pa.types.is_dictionary(taken[name].type):
                taken[name].validate(full=True)
        except pa.ArrowException as error:
            raise CorruptFileError(path, f"column {name}", "valid values", error) from error
    if "added_at" in taken.column_names:
        check_times(taken["added_at"], path)
    return taken


def check_times(column: Any, path: Path) -> None:
    """Raise `CorruptFileError` if a time is none that Python has."""
    times = schema.one_array(column).cast(pa.int64()).to_numpy(zero_copy_only=False)
    if len(times) and not _FIRST <= times.min() <= times.max() <= _LAST:
        raise CorruptFileError(path, "column added_at", "times", "none")


def check_dictionaries(table: pa.Table, path: Path) -> None:
    """Check the dictionaries of a mapped table whole: whoever unifies them reads all entries.

    Raises
    ------
    CorruptFileError
    """
    for name in table.column_names:
        if pa.types.is_dictionary(table[name].type):
            try:
                schema.one_array(table[name]).dictionary.validate(full=True)
            except pa.ArrowException as error:
                raise CorruptFileError(path, f"column {name}", "whole names", error) from error


def _check(array: Any, rows: NDArray[np.int64]) -> None:
    """Raise `IndexError` if following `rows` of an array would lead outside its buffers."""
    kind = array.type
    if pa.types.is_dictionary(kind):
        _check_dictionary(array, rows)
    elif pa.types.is_struct(kind):
        for number in range(kind.num_fields):
            _check(array.field(number), rows)
    elif pa.types.is_fixed_size_list(kind):
        size = kind.list_size
        inner = (rows[:, None] + array.offset) * size + np.arange(size)
        _check(array.values, inner.ravel())
    elif any(is_kind(kind) for is_kind in (*_OFFSETS_32, *_OFFSETS_64)):
        _check_offsets(array, rows)
    elif not (pa.types.is_primitive(kind) or pa.types.is_fixed_size_binary(kind)):
        array.validate(full=True)  # unions and other rare kinds: read whole
    # Values of a fixed width lie where they must: `Table.validate` has compared buffer sizes.


def _check_dictionary(array: Any, rows: NDArray[np.int64]) -> None:
    picked = array.indices.take(pa.array(rows)).drop_null().to_numpy()
    if len(picked) and not 0 <= picked.min() <= picked.max() < len(array.dictionary):
        raise IndexError("a row has no entry in the dictionary")


def _check_offsets(array: Any, rows: NDArray[np.int64]) -> None:
    kind = array.type
    width = np.int64 if any(is_kind(kind) for is_kind in _OFFSETS_64) else np.int32
    buffers = array.buffers()
    if len(array) == 0 or buffers[1] is None:
        return
    count = buffers[1].size // np.dtype(width).itemsize  # the size, too, is what the file says
    offsets = np.frombuffer(buffers[1], width, count)[array.offset :]
    low, high = offsets[rows].astype(np.int64), offsets[rows + 1].astype(np.int64)
    is_nested = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_map(kind)
    if is_nested:
        values = array.keys if pa.types.is_map(kind) else array.values
        end = len(values)
    else:
        end = buffers[2].size if buffers[2] is not None else 0
    if len(low) and not (low.min() >= 0 and (low <= high).all() and high.max() <= end):
        raise IndexError("an offset leads outside its values")
    if not is_nested:
        return
    counts = high - low
    ends = np.cumsum(counts)
    inner = np.arange(int(counts.sum())) + np.repeat(low - (ends - counts), counts)
    parts = [array.keys, array.items] if pa.types.is_map(kind) else [values]
    for part in parts:
        _check(part, inner)
