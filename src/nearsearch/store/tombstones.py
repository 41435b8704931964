"""Tombstones: what of a shard no longer counts, because it was removed or is disabled.

A shard is never changed; each commit that hides more or less of it names another tombstone file.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa

from nearsearch.errors import CorruptFileError
from nearsearch.store import fs, schema
from nearsearch.store.files import File

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

TOMBSTONES: Final = "tombstones"


def _no_rows() -> NDArray[np.uint32]:
    return np.empty(0, np.uint32)


@dataclass(frozen=True, eq=False)
class Tombstones:
    """Rows of one shard, (n,) uint32 each, ascending. Immutable.

    Attributes
    ----------
    members
        Removed or replaced; a compaction leaves them out.
    items
        Without a living member in any shard; a compaction leaves them out.
    disabled_members
        Living, of a disabled contribution or source.
    disabled_items
        Living, all of whose living members, in any shard, are disabled.
    """

    members: NDArray[np.uint32] = field(default_factory=_no_rows)
    items: NDArray[np.uint32] = field(default_factory=_no_rows)
    disabled_members: NDArray[np.uint32] = field(default_factory=_no_rows)
    disabled_items: NDArray[np.uint32] = field(default_factory=_no_rows)

    @property
    def has_dead(self) -> bool:
        """Whether a compaction would leave anything out."""
        return len(self.members) > 0 or len(self.items) > 0

    @property
    def is_empty(self) -> bool:
        """Whether nothing is hidden."""
        return all(len(getattr(self, field.name)) == 0 for field in fields(self))

    @cached_property
    def hidden_items(self) -> NDArray[np.uint32]:
        """Items that do not match, ascending."""
        return union(self.items, self.disabled_items)

    def equals(self, other: Tombstones) -> bool:
        """Tell whether the same rows are hidden for the same reasons."""
        return all(
            np.array_equal(getattr(self, field.name), getattr(other, field.name))
            for field in fields(self)
        )


NO_TOMBSTONES: Final = Tombstones()


def write(root: Path, name: str, tombstones: Tombstones) -> File:
    """Write tombstones as a new, durable file of that name below the index directory."""
    table = pa.table(
        {field.name: pa.array([getattr(tombstones, field.name)]) for field in fields(tombstones)}
    ).cast(schema.TOMBSTONES)
    written = schema.create_ipc(root / name, table)
    fs.sync_directory(root / TOMBSTONES)
    return File(name, *written)


def read(root: Path, file: File, n_items: int, n_members: int) -> Tombstones:
    """Open a file of tombstones of a shard of so many items and members.

    Raises
    ------
    CorruptFileError
        Damaged, or its rows are not ascending rows of the shard.
    """
    table = schema.from_ipc(root, file, schema.TOMBSTONES)
    path = root / file.name
    if len(table) != 1:
        raise CorruptFileError(path, "rows", 1, len(table))
    table.validate(full=True)
    found: dict[str, Any] = {}
    for name, count in (("items", n_items), ("members", n_members)):
        for column in (name, f"disabled_{name}"):
            rows = schema.numbers(schema.one_array(table[column]).flatten())
            if len(rows) and (rows[-1] >= count or (rows[:-1] >= rows[1:]).any()):
                raise CorruptFileError(path, column, f"ascending rows below {count}", "others")
            found[column] = rows
    return Tombstones(**found)


# numpy's own set operations hash since 2.3: 0.6 s for a million rows, these 0.01.


def contains(ascending: NDArray[np.uint32], values: NDArray[Any]) -> NDArray[np.bool_]:
    """Tell for each value whether it stands in the ascending array."""
    if len(ascending) == 0:
        return np.zeros(len(values), np.bool_)
    slot = np.minimum(np.searchsorted(ascending, values), len(ascending) - 1)
    return ascending[slot] == values  # type: ignore[no-any-return]


def union(left: NDArray[np.uint32], right: NDArray[Any]) -> NDArray[np.uint32]:
    """Return the rows that are in either, ascending; `left` is ascending, rows may repeat."""
    if len(right) == 0:
        return left
    both: NDArray[np.uint32] = np.concatenate([left, right.astype(np.uint32)])
    both.sort(kind="stable")
    is_new: NDArray[np.bool_] = np.append(True, both[1:] != both[:-1])
    distinct: NDArray[np.uint32] = both[is_new]
    return distinct


def without(left: NDArray[np.uint32], right: NDArray[Any]) -> NDArray[np.uint32]:
    """Return the rows of `left` that are not in `right`, ascending as they were."""
    if len(left) == 0 or len(right) == 0:
        return left
    kept: NDArray[np.uint32] = left[~contains(np.sort(right).astype(np.uint32), left)]
    return kept
