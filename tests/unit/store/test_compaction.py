import numpy as np
import pyarrow as pa
import pytest

import nearsearch as ns
from nearsearch import plan
from nearsearch.errors import CorruptFileError, RingWarning
from nearsearch.store import build, fs, shard, shardset

CODES = np.random.default_rng(5).integers(0, 256, (300, 32), np.uint8)


def add(root, rows, **call):
    with ns.Writer.open(root, create=True) as writer:
        writer.add_codes(CODES[rows], keys=[f"k{row}" for row in rows], **call)


def members(root):
    """All members, as a search of everything sees them, in whichever generation."""
    with ns.Index.open(root) as index:
        table = index.search(np.zeros((1, 32), np.uint8), 256, min_quality=0).to_arrow()
        # What was removed counts as compared until it is left out: the estimate falls then.
        left_out = ["added_at", "generation", "expected_false"]
        return sorted(map(repr, table.drop_columns(left_out).to_pylist()))


def shards(root):
    with ns.Index.open(root) as index:
        return index.snapshot.shards


@pytest.fixture
def unmerged(monkeypatch):
    """Every commit with members leaves a shard of its own."""
    for name in ("SMALL_SHARD", "MOST_MERGED_AT_COMMIT", "MOST_MERGED"):
        monkeypatch.setattr(plan, name, 0)


@pytest.fixture
def many(tmp_path, unmerged):
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
    assert len(only.tombstones.items) == len(only.tombstones.members) == 0
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


@pytest.fixture
def ringed(tmp_path, monkeypatch):
    """An index of one shard, compacted; of its ring's postings most bytes are not at the edges."""
    monkeypatch.setattr(plan, "MIN_RING_CODES", 100)
    root = tmp_path / "i.ns"
    codes = np.random.default_rng(6).integers(0, 256, (1500, 32), np.uint8)
    with ns.Writer.open(root, create=True) as writer:
        writer.add_codes(codes)
    assert shards(root)[0].codes["pdq"].ring is None
    with ns.Writer.open(root) as writer:
        assert writer.compact() == 2
    assert shards(root)[0].codes["pdq"].ring is not None
    return root


def flip(path, position):
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def postings_of(root):
    (path,) = (root / "shards" / shards(root)[0].id).glob("*.postings.npy")
    assert path.stat().st_size > 3 * fs.EDGE
    return path


def test_ring_is_built_anew_where_it_is_damaged(ringed):
    path = postings_of(ringed)
    flip(path, path.stat().st_size // 2)
    (damage,) = ns.verify(ringed)
    assert damage.path == str(path)
    assert "may miss some" in damage.costs
    assert "nearsearch compact" in damage.costs
    with ns.Writer.open(ringed) as writer:
        assert writer.compact() == 3
    (damage,) = ns.verify(ringed)  # the generation before is kept as it was
    assert damage.path == str(path)
    assert damage.costs == "generation 2, which is kept; nothing of today's"
    assert shards(ringed)[0].codes["pdq"].ring is not None


def test_ring_is_built_anew_where_it_does_not_open(ringed):
    path = postings_of(ringed)
    flip(path, -1)
    with pytest.warns(RingWarning, match="SHA-256 of its edges"):
        assert shards(ringed)[0].codes["pdq"].ring is None
    with pytest.warns(RingWarning):
        (damage,) = ns.verify(ringed)
    assert damage.path == str(path)
    assert damage.costs.startswith("speed only")
    assert "nearsearch compact" in damage.costs
    with pytest.warns(RingWarning), ns.Writer.open(ringed) as writer:
        assert writer.compact() == 3
    (damage,) = ns.verify(ringed)
    assert damage.costs == "generation 2, which is kept; nothing of today's"
    assert shards(ringed)[0].codes["pdq"].ring is not None


def test_order_of_several_parts_with_equal_first_words():
    rng = np.random.default_rng(0)
    parts, ties = [], []
    for n in (0, 7, 30, 1):
        ids = np.zeros((n, 32), np.uint8)
        ids[:, 0], ids[:, 20] = rng.integers(0, 3, n), rng.integers(0, 4, n)
        parts.append(np.sort(np.ascontiguousarray(ids).view("S32").ravel()))
        ties.append(rng.integers(0, 5, n).astype(np.uint64))
    order = build.order_by_id(parts, ties)
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
    monkeypatch.setattr(shardset, "FLUSH_MEMBERS", 20)
    root = tmp_path / "i.ns"
    with ns.Writer.open(root, create=True) as writer:
        for start in range(0, 300, 10):
            rows = range(start, start + 10)
            writer.add_codes(CODES[rows], keys=[f"k{row}" for row in rows])
            writer.add_codes(CODES[rows], keys=[f"k{row}" for row in rows])  # known, on disk or not
        report = writer.add_codes(CODES[:100], keys=[f"k{row}" for row in range(100)])
        assert (report.unchanged, report.added) == (100, 0)
        report = writer.add_codes(CODES[:50], keys=[f"other{row}" for row in range(50)])
        assert (report.added, report.duplicate) == (0, 50)
    assert len(list((root / "shards").iterdir())) == 1
    (only,) = shards(root)
    assert (len(only.items), len(only.members)) == (300, 350)
    assert fs.size_of(root / "CURRENT")


def test_a_shard_that_does_not_open_costs_nothing(many, monkeypatch):
    """As with too many open files: nothing is let go before the new shard is there."""
    before = members(many)
    real, calls = shard.open_shard, []

    def fails_once(root, entry, columns):
        calls.append(entry.id)
        if len(calls) == 1:
            raise OSError("too many open files (made by the test)")
        return real(root, entry, columns)

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


def test_small_commits_leave_one_shard(tmp_path, monkeypatch):
    root = tmp_path / "i.ns"
    for start in range(0, 50, 10):
        add(root, range(start, start + 10))
        (only,) = shards(root)
        assert len(only.members) == start + 10
    monkeypatch.setattr(plan, "SMALL_SHARD", 0)
    monkeypatch.setattr(plan, "MOST_MERGED_AT_COMMIT", 0)
    monkeypatch.setattr(plan, "MOST_MERGED", 0)
    add(root, range(50, 60))
    assert [len(shard.members) for shard in shards(root)] == [50, 10]
    assert ns.verify(root) == []


def damage_a_hidden_byte(root, name):
    """Alter a file where opening does not look: only a comparison with its checksum can tell."""
    path = root / "shards" / shards(root)[0].id / name
    size = path.stat().st_size
    assert size > 3 * fs.EDGE
    flip(path, size // 2)
    return path


@pytest.mark.parametrize("name", ["members.arrow", "items.arrow", "keys.arrow", "pdq.faiss"])
@pytest.mark.parametrize("how", ["compact", "commit"])
def test_damage_is_not_copied_into_new_shards(tmp_path, monkeypatch, how, name):
    monkeypatch.setattr(plan, "MIN_RING_CODES", 1)
    root = tmp_path / "i.ns"
    codes = np.random.default_rng(7).integers(0, 256, (18_000, 32), np.uint8)
    with ns.Writer.open(root, create=True) as writer:
        writer.add_codes(codes, keys=list(map(str, range(len(codes)))))
    path = damage_a_hidden_byte(root, name)
    before = sorted(root.rglob("*"))
    with ns.Writer.open(root) as writer:
        if how == "commit":
            writer.add_codes(CODES, keys=[f"new{i}" for i in range(len(CODES))])
        monkeypatch.setattr(plan, "SMALL_SHARD", len(codes))
        with pytest.raises(CorruptFileError, match="SHA-256") as caught:
            writer.compact() if how == "compact" else writer.commit()
        assert caught.value.path == str(path)
        writer.close()
    assert sorted(root.rglob("*")) == before
    assert [damage.path for damage in ns.verify(root)] == [str(path)]
