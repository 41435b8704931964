"""Soundness: whether the tables of a shard fit together, which no checksum tells.

An index may come from anywhere, with checksums that fit whatever it says. What copies a shard, or
follows whole columns of it, asks here first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import pyarrow as pa

from nearsearch.store import digests, schema

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nearsearch.store.shard import Shard

TABLES: Final = ("items", "members", "keys", "digests")


def invalidity(shard: Shard, what: str) -> str | None:
    """Say whether a table of a shard leads outside its own buffers; None where it does not."""
    try:
        if (table := getattr(shard, what)) is not None:
            table.validate(full=True)
    except pa.ArrowException as error:
        return f"{what}.arrow is not valid: {error}"
    return None


def inconsistencies(shard: Shard) -> Iterator[str]:
    """Yield what is wrong with a shard that checksums do not show; reads its tables whole."""
    invalid = [problem for what in TABLES if (problem := invalidity(shard, what))]
    for spec, rows in shard.codes.items():
        try:
            rows.table.validate(full=True)
        except pa.ArrowException as error:
            invalid.append(f"{spec}.rows.arrow is not valid: {error}")
    if invalid:
        yield from invalid
        return
    for what, ids, strictly in (
        ("items", shard.item_ids, True),
        ("members", shard.member_ids, False),
    ):
        ordered = ids[:-1] < ids[1:] if strictly else ids[:-1] <= ids[1:]
        if not ordered.all():
            yield f"{what}.arrow is not sorted by item_id"
    members = np.sort(schema.numbers(shard.keys["member"]))
    if not np.array_equal(members, np.arange(len(shard.members))):
        yield "keys.arrow does not list every member once"
    hashes = schema.numbers(shard.keys["key_hash"])
    if not (hashes[:-1] <= hashes[1:]).all():
        yield "keys.arrow is not sorted by key_hash"
    expected = digests.look_up_table(shard.items)
    if (expected is None) != (shard.digests is None) or not (
        expected is None or expected.equals(shard.digests)
    ):
        yield "digests.arrow does not list every digest of items.arrow"
    for spec, rows in shard.codes.items():
        if len(rows.code) and not (rows.code[:-1] <= rows.code[1:]).all():
            yield f"{spec}.rows.arrow is not sorted by code"
        steps = np.diff(rows.code.astype(np.int64), prepend=-1)
        if not np.isin(steps, (0, 1)).all() or steps.sum() != len(rows.codes):
            yield f"{spec}.rows.arrow does not describe every code"
        if len(rows.item) and rows.item.max() >= len(shard.items):
            yield f"{spec}.rows.arrow points outside items.arrow"
