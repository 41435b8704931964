import faiss
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nearsearch as ns
from nearsearch.codes import record_ids
from nearsearch.store import build, schema, shard
from nearsearch.store.manifest import read_current


def ids_of(codes):
    return record_ids(codes, np.full(len(codes), -1, np.int8), ns.get_spec("pdq"))


CODES = np.random.default_rng(1).integers(0, 256, (65, 32), np.uint8)


@pytest.mark.parametrize("n", [1, 2, 65])
@pytest.mark.parametrize("spec", ["pdq", "phash", "phash-1024"])
def test_codes_are_a_faiss_file_to_the_byte(tmp_path, n, spec):
    width = ns.get_spec(spec).code_bytes
    codes = np.random.default_rng(n).integers(0, 256, (n, width), np.uint8)
    with ns.Writer.open(tmp_path / "i.ns", create=True, specs=[spec]) as writer:
        writer.add_codes(codes)
    (path,) = (tmp_path / "i.ns").rglob("*.faiss")
    flat = faiss.IndexBinaryFlat(8 * width)
    flat.add(codes)
    faiss.write_index_binary(flat, str(tmp_path / "theirs.faiss"))
    assert path.read_bytes() == (tmp_path / "theirs.faiss").read_bytes()


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 4)), max_size=9))
def test_expand_ranges(ranges):
    low = np.array([start for start, _ in ranges], np.int64)
    high = low + np.array([length for _, length in ranges], np.int64)
    position, value = shard.expand_ranges(low, high)
    expected = [(i, v) for i, (a, b) in enumerate(zip(low, high, strict=True)) for v in range(a, b)]
    assert list(zip(position, value, strict=True)) == expected


@pytest.fixture
def opened(tmp_path):
    with ns.Writer.open(tmp_path / "i.ns", create=True) as writer:
        writer.add_codes(CODES, keys=[f"a{i}" for i in range(65)], contribution="A")
        writer.add_codes(CODES[:9], keys=[f"b{i}" for i in range(9)], contribution="B")
    (entry,) = read_current(tmp_path / "i.ns").shards
    return shard.open_shard(tmp_path / "i.ns", entry, {})


def test_items_are_found_by_id(opened):
    ids = schema.ids_view(ids_of(CODES))
    rows = opened.find_items(ids)
    assert (opened.item_ids[rows] == ids).all()
    assert opened.find_items(np.array([b"\0" * 32, b"\xff" * 32], "S32")).tolist() == [-1, -1]
    assert (opened.item_ids[:-1] < opened.item_ids[1:]).all()


def test_members_of_an_item(opened):
    ids = schema.ids_view(ids_of(CODES[[0, 64]]))
    position, row = opened.members_of(ids)
    assert position.tolist() == [0, 0, 1]
    keys = opened.members["key"].take(pa.array(row)).to_pylist()
    assert sorted(keys[:2]) == ["a0", "b0"]
    assert keys[2] == "a64"


def test_empty_shards_find_nothing():
    empty = build.build(
        "x", schema.ITEMS.empty_table(), schema.MEMBERS.empty_table(), np.empty(0, np.uint64), {}
    )
    ids = np.array([b"a" * 32], "S32")
    assert empty.find_items(ids).tolist() == [-1]
    assert [len(part) for part in empty.members_of(ids)] == [0, 0]
    assert [len(part) for part in empty.find_keys(np.zeros(1, np.uint64))] == [0, 0]


def test_order_by_id_when_first_words_are_equal():
    ids = np.zeros((6, 32), np.uint8)
    ids[:, 31] = [3, 1, 2, 1, 0, 3]
    tie_break = np.array([1, 5, 0, 4, 9, 0], np.uint64)
    order = build.order_by_id([schema.ids_view(ids)], [tie_break])
    assert order.tolist() == [4, 3, 1, 2, 5, 0]


@given(st.lists(st.lists(st.integers(0, 9)), min_size=1, max_size=4))
def test_distinct_ids(parts):
    """Equal in their first words, and sorted within each part, as in shards."""
    made = []
    for part in parts:
        ids = np.zeros((len(part), 32), np.uint8)
        ids[:, [0, 31]] = np.array([divmod(number, 3) for number in sorted(part)]).reshape(-1, 2)
        made.append(schema.ids_view(ids))
    found = build.distinct_ids(made)
    assert found.tolist() == sorted({i for ids in made for i in ids.tolist()})
