import numpy as np
import pyarrow as pa
import pytest

from nearsearch.errors import CorruptFileError, MetadataError
from nearsearch.store import fs, schema
from nearsearch.store.files import File

TABLE = pa.table(
    {"key_hash": pa.array([1, 2], pa.uint64()), "member": pa.array([0, 1], pa.uint32())}
)


def written(root, name, table):
    return File(name, *schema.create_ipc(root / name, table))


def test_to_and_from_ipc(tmp_path):
    file = written(tmp_path, "t", TABLE.cast(schema.KEYS))
    assert schema.from_ipc(tmp_path, file, schema.KEYS).to_pydict() == TABLE.to_pydict()
    file = written(tmp_path, "e", schema.MEMBERS.empty_table())
    assert len(schema.from_ipc(tmp_path, file, schema.MEMBERS)) == 0


def test_many_chunks_become_one_batch(tmp_path):
    names = [pa.array(["a", "b"]).dictionary_encode(), pa.array(["c"]).dictionary_encode()]
    schema.create_ipc(tmp_path / "t", pa.table({"x": pa.chunked_array(names)}))
    with pa.ipc.open_file(tmp_path / "t") as reader:
        assert reader.num_record_batches == 1
        assert reader.read_all()["x"].to_pylist() == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (TABLE.drop_columns(["member"]), "column member: expected uint32, found no such column"),
        (TABLE.set_column(1, "member", pa.array([0, 1])), "expected uint32, found int64"),
    ],
)
def test_other_columns_than_expected(tmp_path, table, words):
    file = written(tmp_path, "t", table)
    with pytest.raises(CorruptFileError, match=words):
        schema.from_ipc(tmp_path, file, schema.KEYS)


@pytest.mark.parametrize("data", [b"", b"ARROW1", b"nonsense" * 100])
def test_no_arrow_file(tmp_path, data):
    file = File("t", *fs.create_file(tmp_path / "t", [data]))
    with pytest.raises(CorruptFileError, match="Arrow IPC file"):
        schema.from_ipc(tmp_path, file, schema.KEYS)


def test_fixed_bytes_share_memory_and_know_offsets():
    values = np.arange(96, dtype=np.uint8).reshape(3, 32)
    array = schema.from_fixed_bytes(values)
    assert array.type == pa.binary(32)
    assert (schema.fixed_bytes(array) == values).all()
    assert np.shares_memory(schema.fixed_bytes(array), values)
    assert (schema.fixed_bytes(array.slice(1)) == values[1:]).all()
    chunked = pa.chunked_array([array.slice(2), array.slice(0, 1)])
    assert (schema.fixed_bytes(chunked) == values[[2, 0]]).all()
    assert schema.ids_view(values)[1] == bytes(range(32, 64))


def test_ids_compare_like_bytes_also_when_they_end_in_zeros():
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 3, (200, 32), np.uint8)
    ids[:100, 1:] = 0
    view = schema.ids_view(ids)
    order = np.argsort(view, kind="stable")
    assert [ids[i].tobytes() for i in order] == sorted(row.tobytes() for row in ids)


def test_take_of_all_rows_is_the_table_itself():
    assert schema.take(TABLE, np.arange(2))["member"].chunk(0).equals(TABLE["member"].chunk(0))
    assert schema.take(TABLE, np.array([1]))["member"].to_pylist() == [1]


def test_a_table_that_needs_two_batches_is_refused_and_not_cut(tmp_path, monkeypatch):
    """Columns of 32-bit offsets stay in two chunks from 2 GB of text on."""
    two = pa.table(
        {"short": pa.chunked_array([["a", "b"]]), "long": pa.chunked_array([["c"], ["d"]])}
    )
    monkeypatch.setattr(schema, "one_chunk", lambda table: table)
    with pytest.raises(MetadataError, match="'long': more than 2 GB of text"):
        schema.create_ipc(tmp_path / "t", two)
    assert not (tmp_path / "t").exists()


def test_names_that_no_row_has_are_left_out():
    column = pa.array(["a", "b", None, "c", "b"]).dictionary_encode()
    table = schema.pruned(pa.table({"x": column, "n": range(5)}).slice(1, 2))
    assert table["x"].to_pylist() == ["b", None]
    assert schema.one_array(table["x"]).dictionary.to_pylist() == ["b"]
    assert table["n"].to_pylist() == [1, 2]
    empty = schema.pruned(pa.table({"x": column}).slice(0, 0))
    assert schema.one_array(empty["x"]).dictionary.to_pylist() == []


def test_names_of_rows():
    column = pa.array(["b", "a", "b"]).dictionary_encode()
    number, names = schema.names_in(column)
    assert [names[i] for i in number] == ["b", "a", "b"]
    for indices in ([0, 2], [-1]):
        damaged = pa.DictionaryArray.from_arrays(
            pa.array(indices, pa.int32()), pa.array(["a", "b"]), safe=False
        )
        with pytest.raises(IndexError):
            schema.names_in(damaged)
