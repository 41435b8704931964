import numpy as np
import pyarrow as pa
import pytest

import nearsearch as ns
from nearsearch import plan
from nearsearch.store import fs, shard

CODES = np.random.default_rng(5).integers(0, 256, (300, 32), np.uint8)


def add(root, rows, **call):
    with ns.Writer.open(root, create=True) as writer:
        writer.add_codes(CODES[rows], keys=[f"k{row}" for row in rows], **call)


def members(root):
    """All members, as a search of everything sees them."""
    with ns.Index.open(root) as index:
        table = index.search(np.zeros((1, 32), np.uint8), 256, min_quality=0).to_arrow()
        return sorted(map(repr, table.drop_columns(["added_at"]).to_pylist()))


def shards(root):
    with ns.Index.open(root) as index:
        return index.snapshot.shards


@pytest.fixture
def many(tmp_path):
    """Five shards: items in two contributions, replaced members, other columns, one code twice."""
    root = tmp_path / "many.ns"
    add(root, range(100), contribution="A", qualities=np.full(100, 80))
    add(root, range(50, 150), contribution="B", source="NL", labels=["x"])
    add(root, range(90, 200), metadata=pa.table({"note": ["n"] * 110}))
    with ns.Writer.open(root) as writer:  # k0..k9 become other content: the old is dead
        writer.add_codes(CODES[200:210], keys=[f"k{i}" for i in range(10)], contribution="A")
    with ns.Writer.open(root) as writer:  # the code of k20 with another quality: another item
        writer.add_codes(CODES[20:21], keys=["again"], qualities=np.array([10]))
    return root


def test_compacting_changes_no_answer(many):
    before = members(many)
    assert len(shards(many)) == 5
    with ns.Writer.open(many) as writer:
        generation = writer.compact()
        assert writer.n_shards == 1
        assert writer.compact() == generation  # nothing more to do
    assert members(many) == before
    assert ns.verify(many) == []
    (only,) = shards(many)
    assert len(only.dead_items) == len(only.dead_members) == 0
    codes = only.codes["pdq"]
    assert (len(codes.codes), len(codes.table)) == (200, 251)  # codes of two qualities: two items


def test_uncommitted_records_are_compacted_with_the_rest(many):
    with ns.Writer.open(many) as writer:
        writer.add_codes(CODES[250:260], keys=[f"new{i}" for i in range(10)])
        writer.compact()
    assert len(shards(many)) == 1
    assert sum("'new" in member for member in members(many)) == 10


def test_compacting_nothing(tmp_path):
    with ns.Writer.open(tmp_path / "i.ns", create=True) as writer:
        writer.commit()
        assert writer.compact() == writer.generation
        assert writer.n_shards == 0


def test_all_dead_leaves_no_shard_of_them(tmp_path):
    root = tmp_path / "i.ns"
    add(root, [0])
    with ns.Writer.open(root) as writer:
        writer.add_codes(CODES[1:2], keys=["k0"])
        writer.compact()
    (only,) = shards(root)
    assert len(only.members) == len(only.items) == 1


def test_ring_is_built_and_built_anew_where_it_is_damaged(tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "MIN_RING_CODES", 100)
    root = tmp_path / "i.ns"
    add(root, range(300))
    assert shards(root)[0].codes["pdq"].ring is None
    with ns.Writer.open(root) as writer:
        generation = writer.compact()
    assert shards(root)[0].codes["pdq"].ring is not None
    (path,) = (root / "shards" / shards(root)[0].id).glob("*.postings.npy")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    (damage,) = ns.verify(root)
    assert "may miss some" in damage.costs
    assert "nearsearch compact" in damage.costs
    with ns.Writer.open(root) as writer:
        assert writer.compact() == generation + 1
    assert ns.verify(root) == []


def test_order_of_several_parts_with_equal_first_words():
    rng = np.random.default_rng(0)
    parts, ties = [], []
    for n in (0, 7, 30, 1):
        ids = np.zeros((n, 32), np.uint8)
        ids[:, 0], ids[:, 20] = rng.integers(0, 3, n), rng.integers(0, 4, n)
        parts.append(np.sort(np.ascontiguousarray(ids).view("S32").ravel()))
        ties.append(rng.integers(0, 5, n).astype(np.uint64))
    order = shard.order_by_id(parts, ties)
    all_ids = [bytes(i).ljust(32, b"\0") for part in parts for i in part]
    all_ties = [int(tie) for part in ties for tie in part]
    expected = sorted((all_ids[i], all_ties[i]) for i in range(len(all_ids)))
    assert sorted(order.tolist()) == list(range(len(all_ids)))
    assert [(all_ids[i], all_ties[i]) for i in order] == expected


def test_readers_keep_what_they_opened(many):
    with ns.Index.open(many) as index:
        before = index.search(CODES[:5], 31).to_arrow()["key"].to_pylist()
        with ns.Writer.open(many) as writer:
            writer.compact()
        assert index.search(CODES[:5], 31).to_arrow()["key"].to_pylist() == before


def test_a_commit_is_one_shard_however_often_it_went_to_disk(tmp_path, monkeypatch):
    from nearsearch.store import transaction

    monkeypatch.setattr(transaction, "FLUSH_MEMBERS", 20)
    root = tmp_path / "i.ns"
    with ns.Writer.open(root, create=True) as writer:
        for start in range(0, 300, 10):
            rows = range(start, start + 10)
            writer.add_codes(CODES[rows], keys=[f"k{row}" for row in rows])
            writer.add_codes(CODES[rows], keys=[f"k{row}" for row in rows])  # known, on disk or not
        report = writer.add_codes(CODES[:100], keys=[f"k{row}" for row in range(100)])
        assert (report.unchanged, report.added) == (100, 0)
        report = writer.add_codes(CODES[:50], keys=[f"other{row}" for row in range(50)])
        assert report.added == 50
    assert len(list((root / "shards").iterdir())) == 1
    (only,) = shards(root)
    assert (len(only.items), len(only.members)) == (300, 350)
    assert fs.size_of(root / "CURRENT")


def test_a_shard_that_does_not_open_costs_nothing(many, monkeypatch):
    """As with too many open files: nothing is let go before the new shard is there."""
    before = members(many)
    real, calls = shard.open_shard, []

    def fails_once(root, entry):
        calls.append(entry.id)
        if len(calls) == 1:
            raise OSError("too many open files (made by the test)")
        return real(root, entry)

    with ns.Writer.open(many) as writer:
        with monkeypatch.context() as patch:
            patch.setattr(shard, "open_shard", fails_once)
            with pytest.raises(OSError, match="made by the test"):
                writer.compact()
            assert not (many / "shards" / calls[0]).exists()
            writer.compact()
        assert writer.n_shards == 1
    assert members(many) == before
    assert ns.verify(many) == []
