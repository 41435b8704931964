import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nearsearch.errors import CorruptFileError
from nearsearch.store import fs, schema, tombstones
from nearsearch.store.files import File
from nearsearch.store.tombstones import NO_TOMBSTONES, Tombstones

NAME = "tombstones/000001-00000000-000002-00000000.arrow"
COLUMNS = [field.name for field in schema.TOMBSTONES]


@pytest.fixture
def root(tmp_path):
    fs.make_directory(tmp_path / tombstones.TOMBSTONES)
    return tmp_path


def marks(**columns):
    return Tombstones(**{name: np.array(rows, np.uint32) for name, rows in columns.items()})


SOME = {"members": [0, 3, 9], "items": [4], "disabled_members": [1, 2], "disabled_items": [0, 1, 5]}


def test_what_is_written_is_read(root):
    written = marks(**SOME)
    file = tombstones.write(root, NAME, written)
    assert file.name == NAME
    found = tombstones.read(root, file, n_items=6, n_members=10)
    assert {name: getattr(found, name).tolist() for name in COLUMNS} == SOME
    assert all(getattr(found, name).dtype == np.uint32 for name in COLUMNS)
    assert found.equals(written)
    file = tombstones.write(root, NAME.replace("2", "3"), NO_TOMBSTONES)
    assert tombstones.read(root, file, 0, 0).equals(NO_TOMBSTONES)


@pytest.mark.parametrize("name", COLUMNS)
def test_one_is_enough_to_differ(name):
    assert not marks(**SOME).equals(marks(**SOME | {name: [7]}))
    assert not marks(**SOME).equals(marks(**SOME | {name: []}))


@pytest.mark.parametrize(
    ("columns", "has_dead", "is_empty"),
    [
        ({}, False, True),
        ({"members": [1]}, True, False),
        ({"items": [1]}, True, False),
        ({"disabled_members": [1]}, False, False),
        ({"disabled_members": [1], "disabled_items": [1]}, False, False),
    ],
)
def test_what_a_compaction_would_leave_out(columns, has_dead, is_empty):
    assert marks(**columns).has_dead is has_dead
    assert marks(**columns).is_empty is is_empty
    assert NO_TOMBSTONES.is_empty


ROWS = st.sets(st.integers(0, 20)).map(sorted)


@given(dead=ROWS, disabled=ROWS)
def test_hidden_is_dead_or_disabled(dead, disabled):
    both = marks(items=disabled, disabled_items=dead)
    assert both.hidden_items.tolist() == sorted({*dead, *disabled})


def write_table(root, table):
    return File(NAME, *schema.create_ipc(root / NAME, table))


@pytest.mark.parametrize("name", COLUMNS)
@pytest.mark.parametrize("rows", [[0, 0], [3, 1], [0, 6], [2**32 - 1]])
def test_rows_that_cannot_be(root, name, rows):
    columns = {column: [[]] for column in COLUMNS} | {name: [rows]}
    file = write_table(root, pa.table(columns).cast(schema.TOMBSTONES))
    with pytest.raises(CorruptFileError, match=f"{name}: expected ascending rows below 6"):
        tombstones.read(root, file, n_items=6, n_members=6)


def test_rows_are_counted_by_what_they_are_of(root):
    file = tombstones.write(root, NAME, marks(members=[7], items=[3]))
    assert not tombstones.read(root, file, n_items=4, n_members=8).is_empty
    for counts in ((3, 8), (4, 7)):
        with pytest.raises(CorruptFileError):
            tombstones.read(root, file, *counts)


@pytest.mark.parametrize("count", [0, 2])
def test_one_row_is_expected(root, count):
    table = pa.table({column: [[0]] * count for column in COLUMNS}).cast(schema.TOMBSTONES)
    file = write_table(root, table)
    with pytest.raises(CorruptFileError, match=f"rows: expected 1, found {count}"):
        tombstones.read(root, file, 6, 6)


def test_other_columns_and_altered_files(root):
    file = write_table(root, pa.table({"members": [[0]]}))
    with pytest.raises(CorruptFileError, match="column members"):
        tombstones.read(root, file, 6, 6)
    (root / NAME).write_bytes(bytes(file.size))
    with pytest.raises(CorruptFileError, match="SHA-256 of its edges"):
        tombstones.read(root, file, 6, 6)


@given(st.sets(st.integers(0, 30)), st.lists(st.integers(-3, 33)))
def test_contains(members, values):
    ascending = np.array(sorted(members), np.uint32)
    found = tombstones.contains(ascending, np.array(values, np.int64))
    assert found.tolist() == [value in members for value in values]


VALUES = st.lists(st.integers(0, 20))


@given(left=ROWS, right=VALUES)
def test_rows_are_put_in_and_taken_out(left, right):
    ascending, rows = np.array(left, np.uint32), np.array(right, np.int64)
    assert tombstones.union(ascending, rows).tolist() == sorted({*left, *right})
    assert tombstones.without(ascending, rows).tolist() == sorted(set(left) - set(right))
    for found in (tombstones.union(ascending, rows), tombstones.without(ascending, rows)):
        assert found.dtype == np.uint32
    assert ascending.tolist() == left
