import os

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

import nearsearch as ns
from nearsearch.errors import (
    ClosedError,
    CodesError,
    CorruptFileError,
    DuplicateKeyError,
    IndexExistsError,
    IndexLockedError,
    IndexNotFoundError,
    MetadataError,
    SpecMismatchError,
    UsageError,
)
from nearsearch.synthetic import make_picture

CODES = np.random.default_rng(2).integers(0, 256, (6, 32), np.uint8)


@pytest.fixture
def root(tmp_path):
    return tmp_path / "i.ns"


@pytest.fixture
def writer(root):
    with ns.Writer.open(root, create=True) as opened:
        yield opened


def listed(root, *names):
    with ns.Index.open(root) as index:
        table = index.search(CODES, 0).to_arrow()
        return sorted(zip(*(table[name].to_pylist() for name in names), strict=True))


def test_no_index_is_not_made_by_mistake(root):
    with pytest.raises(IndexNotFoundError, match="there is no such directory"):
        ns.Writer.open(root)
    assert not root.exists()


def test_parents_are_made(tmp_path):
    with ns.Writer.open(tmp_path / "a" / "b" / "i.ns", create=True):
        pass
    with ns.Index.open(tmp_path / "a" / "b" / "i.ns") as index:
        assert index.generation == 1
        assert len(index.search(CODES, 256)) == 0


def test_somebody_elses_folder_is_left_alone(tmp_path):
    (tmp_path / "photo.jpg").touch()
    with pytest.raises(IndexExistsError, match="nothing was changed"):
        ns.Writer.open(tmp_path, create=True)
    assert [path.name for path in tmp_path.iterdir()] == ["photo.jpg"]
    with pytest.raises(IndexExistsError):
        ns.Writer.open(tmp_path / "photo.jpg", create=True)


def test_an_empty_folder_will_do(tmp_path):
    with ns.Writer.open(tmp_path, create=True) as writer:
        writer.add_codes(CODES)
    assert len(listed(tmp_path, "key")) == 6


def test_one_writer_at_a_time(root, writer):
    with pytest.raises(IndexLockedError):
        ns.Writer.open(root, create=True)


def test_specs_are_kept(root):
    with ns.Writer.open(root, create=True, specs=["phash", "pdq"]) as writer:
        assert [spec.name for spec in writer.specs] == ["phash", "pdq"]
    with ns.Writer.open(root, specs=["pdq", "phash"]) as writer:
        assert [spec.name for spec in writer.specs] == ["phash", "pdq"]
    with pytest.raises(SpecMismatchError, match="keeps the specs it was created with"):
        ns.Writer.open(root, specs=["pdq"])
    with pytest.raises(UsageError, match="each spec once"):
        ns.Writer.open(root, specs=["pdq", "pdq"])
    with pytest.raises(UsageError, match="at least one"):
        ns.Writer.open(root, specs=[])


def test_codes_of_a_spec_the_index_has_not(writer):
    with pytest.raises(SpecMismatchError, match=r"expected spec pdq .* got phash"):
        writer.add_codes(np.zeros((1, 8), np.uint8), spec="phash")
    with pytest.raises(CodesError):
        writer.add_codes(np.zeros((1, 8), np.uint8))


def test_the_same_picture_from_three_is_one_item(root):
    with ns.Writer.open(root, create=True) as writer:
        for source in ("NL", "DE", "FR"):
            report = writer.add_codes(CODES[:1], keys=["x"], contribution=source, source=source)
            is_first = source == "NL"
            assert (report.added, report.duplicate) == (is_first, not is_first)
            assert report.total == 1
    with ns.Index.open(root) as index:
        stats = index.stats()
        assert (stats["items"], stats["members"], stats["contributions"]) == (1, 3, 3)
        assert stats["specs"]["pdq"]["codes"] == 1
        matches = index.search(CODES[0], 0)
    assert len(matches) == 1


def test_replaced_and_unchanged(root):
    with ns.Writer.open(root, create=True) as writer:
        writer.add_codes(CODES[:3], keys=["a", "b", "c"], labels=["x"])
    with ns.Writer.open(root) as writer:
        same = writer.add_codes(CODES[:3], keys=["a", "b", "c"], labels=["x"])
        assert same.to_json() | {"unchanged": 0, "total": 0} == ns.IngestReport().to_json()
        assert same.unchanged == 3
        assert writer.commit() == 1  # nothing changed: no new generation
        report = writer.add_codes(CODES[[3, 1, 4]], keys=["a", "b", "d"], labels=["x"])
        assert (report.replaced, report.unchanged, report.added) == (1, 1, 1)
        relabelled = writer.add_codes(CODES[[2]], keys=["c"], labels=["y"])
        assert relabelled.replaced == 1
    assert listed(root, "key", "labels") == [("a", ["x"]), ("b", ["x"]), ("c", ["y"]), ("d", ["x"])]
    with ns.Index.open(root) as index:
        assert len(index.search(CODES[0], 0)) == 0  # the old content of "a" is gone
        assert index.stats()["items"] == 4
    with ns.Writer.open(root) as writer:
        writer.add_codes(CODES[[0]], keys=["back"])
    with ns.Index.open(root) as index:
        assert index.search(CODES[0], 0).to_arrow()["key"].to_pylist() == ["back"]
    assert ns.verify(root) == []


def test_keys_belong_to_contributions(root):
    with ns.Writer.open(root, create=True) as writer:
        writer.add_codes(CODES[:1], keys=["k"], contribution="A")
        report = writer.add_codes(CODES[1:2], keys=["k"], contribution="B")
        assert report.added == 1
    assert listed(root, "contribution", "key") == [("A", "k"), ("B", "k")]


def test_default_keys_are_the_codes(root):
    with ns.Writer.open(root, create=True) as writer:
        report = writer.add_codes(CODES[[0, 1, 0]])
    assert (report.added, report.unchanged) == (2, 1)
    assert listed(root, "key") == sorted((code.tobytes().hex(),) for code in CODES[:2])


def test_one_key_for_two_records_is_refused_whole(root):
    with ns.Writer.open(root, create=True) as writer:
        with pytest.raises(DuplicateKeyError, match="key 'b' stands for two different records"):
            writer.add_codes(CODES[:3], keys=["a", "b", "b"])
        with pytest.raises(DuplicateKeyError):
            table = pa.table({"n": [1, 2]})
            writer.add_codes(CODES[[0, 0]], keys=["a", "a"], metadata=table)
    assert listed(root, "key") == []


def test_metadata_comes_back_and_can_be_asked(root):
    table = pa.table(
        {
            "grade": ["A", "B", None],
            "page": pa.array([1, 2, 3], pa.int16()),
            "tags": [["x"], [], None],
            "box": [{"w": 1}, {"w": 2}, None],
        }
    )
    with ns.Writer.open(root, create=True) as writer:
        writer.add_codes(CODES[:3], keys=["a", "b", "c"], metadata=table)
        writer.add_codes(CODES[3:4], keys=["d"])
        same = writer.add_codes(CODES[:3], keys=["a", "b", "c"], metadata=table)
        assert same.unchanged == 3
    with ns.Index.open(root) as index:
        found = index.search(CODES, 0).to_arrow()
        assert found["grade"].to_pylist() == ["A", "B", None, None]
        assert found["box"].to_pylist() == [{"w": 1}, {"w": 2}, None, None]
        assert index.columns["page"] == pa.int16()
        assert len(index.search(CODES, 0, where="page >= 2")) == 2
        assert len(index.search(CODES, 0, where=pa.compute.field("grade") == "B")) == 1
        assert len(index.search(CODES, 0, where='"x" in tags')) == 1
    with ns.Writer.open(root) as writer, pytest.raises(MetadataError, match=r"as int16, .* string"):
        writer.add_codes(CODES[4:5], metadata=pa.table({"page": ["x"]}))


@pytest.mark.parametrize(
    ("metadata", "error", "words"),
    [
        (pa.table({"key": ["x"]}), MetadataError, "this name is taken"),
        (pa.table({"distance": [1]}), MetadataError, "this name is taken"),
        (pa.table({"match": [1]}), MetadataError, "this name is taken"),
        (pa.table({"": [1]}), MetadataError, "printable"),
        (pa.table({"a\nb": [1]}), MetadataError, "printable"),
        (pa.table([[1], [2]], names=["a", "a"]), MetadataError, "twice"),
        (pa.table({"a": [1, 2]}), UsageError, "expected 1 rows"),
        ({"a": [1]}, UsageError, "pyarrow.Table, got a dict"),
    ],
)
def test_metadata_that_does_not_fit(writer, metadata, error, words):
    with pytest.raises(error, match=words):
        writer.add_codes(CODES[:1], metadata=metadata)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"keys": ["a"]}, "expected 2, one a record, got 1"),
        ({"keys": ["a", None]}, "of which 1 null"),
        ({"keys": ["a", "\udcff"]}, "keys: expected text"),
        ({"keys": [b"\xff", b"a"]}, "keys"),
        ({"qualities": np.array([50])}, r"expected \(2,\) integers"),
        ({"qualities": np.array([50.0, 1.0])}, "integers"),
        ({"qualities": np.array([50, 101])}, "0..100, got 50..101"),
        ({"labels": ["a\x1fb"]}, "control characters"),
        ({"labels": [""]}, "empty label"),
        ({"labels": [7]}, "expected text, got a int"),
        ({"contribution": "a\nb"}, "contribution 'a.nb': control characters"),
        ({"source": None}, "source: expected text"),
    ],
)
def test_arguments_that_do_not_fit(writer, arguments, words):
    with pytest.raises(UsageError, match=words):
        writer.add_codes(CODES[:2], **arguments)


def test_callers_may_reuse_their_arrays(root):
    codes = CODES.copy()
    with ns.Writer.open(root, create=True) as writer:
        writer.add_codes(codes)
        codes[:] = 0
    assert len(listed(root, "key")) == 6


def test_unknown_quality_matches_and_low_quality_does_not(root):
    with ns.Writer.open(root, create=True) as writer:
        writer.add_codes(CODES[:3], keys=["low", "edge", "high"], qualities=np.array([49, 50, 100]))
        writer.add_codes(CODES[3:4], keys=["unknown"])
    assert listed(root, "key", "quality") == [("edge", 50), ("high", 100), ("unknown", None)]
    with ns.Index.open(root) as index:
        assert len(index.search(CODES, 0, min_quality=0)) == 4


def test_sources_may_disagree_about_quality(root):
    with ns.Writer.open(root, create=True) as writer:
        writer.add_codes(CODES[:1], keys=["a"], contribution="A", qualities=np.array([10]))
        writer.add_codes(CODES[:1], keys=["b"], contribution="B")
        writer.add_codes(CODES[:1], keys=["c"], contribution="C", qualities=np.array([95]))
    assert listed(root, "key") == [("b",), ("c",)]
    with ns.Writer.open(root) as writer:
        report = writer.add_codes(CODES[:1], keys=["a"], contribution="A", qualities=np.array([95]))
        assert report.replaced == 1
    assert listed(root, "key") == [("a",), ("b",), ("c",)]


def test_narrow_dictionaries_of_two_commits_fit_together(root):
    for start in (0, 100):
        names = [f"name {start + i}" for i in range(100)]
        column = pa.array(names).cast(pa.dictionary(pa.int8(), pa.string()))
        codes = np.random.default_rng(start).integers(0, 256, (100, 32), np.uint8)
        with ns.Writer.open(root, create=True) as writer:
            writer.add_codes(codes, metadata=pa.table({"name": column}))
    with ns.Index.open(root) as index:
        found = index.search(codes[:1], 256).to_arrow()
    assert sorted(found["name"].to_pylist()) == sorted(f"name {i}" for i in range(200))


def test_values_that_are_nearly_the_same(root):
    lists = [[[""]], [["a\x1fb"]], [[None]], [[]], [None], [["a", "b"]]]
    with ns.Writer.open(root, create=True) as writer:
        for value in lists:
            table = pa.table({"x": pa.array(value, pa.list_(pa.string())), "n": [float("nan")]})
            assert writer.add_codes(CODES[:1], metadata=table).unchanged == 0
            assert writer.add_codes(CODES[:1], metadata=table).unchanged == 1


def test_refused_batches_leave_no_columns(root):
    with ns.Writer.open(root, create=True) as writer:
        writer.add_codes(CODES[:1], metadata=pa.table({"b": [1]}))
        with pytest.raises(MetadataError):
            writer.add_codes(CODES[1:2], metadata=pa.table({"a": [1], "b": ["x"]}))
        writer.add_codes(CODES[1:2], metadata=pa.table({"a": ["text"]}))


def test_ordinary_names_of_the_world(root):
    name = "日本\u3000東京 \u200d🏳️"
    with ns.Writer.open(root, create=True) as writer:
        writer.add_codes(CODES[:1], contribution=name, source=name, labels=[name])
    with ns.Index.open(root) as index:
        assert len(index.search(CODES[0], 0, where=f'"{name}" in labels')) == 1


def test_folders_with_our_names_are_not_ours(tmp_path):
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "data-0001.tar").write_text("precious")
    with pytest.raises(IndexExistsError), ns.Writer.open(tmp_path, create=True):
        pytest.fail("it was taken for an index")
    assert (tmp_path / "shards" / "data-0001.tar").read_text() == "precious"


def test_an_index_without_current_is_not_overwritten(root):
    with ns.Writer.open(root, create=True) as writer:
        writer.add_codes(CODES)
    current = (root / "CURRENT").read_bytes()
    files = sorted(root.rglob("*"))
    (root / "CURRENT").unlink()
    with pytest.raises(CorruptFileError, match="CURRENT"):
        ns.Writer.open(root, create=True)
    (root / "CURRENT").write_bytes(current)
    assert sorted(root.rglob("*")) == files
    assert len(listed(root, "key")) == 6


def test_lost_empty_folders_are_made_again(root):
    with ns.Writer.open(root, create=True) as writer:
        writer.add_codes(CODES[:3], keys=["a", "b", "c"])
    (root / "tombstones").rmdir()
    with ns.Writer.open(root) as writer:
        writer.add_codes(CODES[3:4], keys=["a"])
    assert ns.verify(root) == []


def test_a_touched_file_is_read_once_more_and_then_known(root, tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(make_picture(1, "leaves", 64, 64)).save(path)
    generations = []
    for mtime in (None, -5_000_000_000, None):
        if mtime:
            os.utime(path, ns=(mtime, mtime))
        with ns.Writer.open(root, create=True) as writer:
            report = writer.add_files([path])
        assert (report.added, report.unchanged) == ((0, 1) if generations else (1, 0))
        with ns.Index.open(root) as index:
            generations.append(index.generation)
            assert index.stats()["members"] == 1
    assert generations == [1, 2, 2]


def test_closed_is_closed(root):
    writer = ns.Writer.open(root, create=True)
    writer.add_codes(CODES)
    writer.close()
    writer.close()
    assert not root.exists()
    for call in (writer.commit, lambda: writer.add_codes(CODES), lambda: writer.add_files([])):
        with pytest.raises(ClosedError, match="this writer is closed"):
            call()


def test_several_commits_of_one_writer(root):
    with ns.Writer.open(root, create=True) as writer:
        assert writer.commit() == 1
        writer.add_codes(CODES[:2], keys=["a", "b"])
        assert writer.commit() == 2
        assert len(listed(root, "key")) == 2
        writer.add_codes(CODES[2:3], keys=["a"])
    assert listed(root, "key") == [("a",), ("b",)]
    assert ns.verify(root) == []


def test_many_small_calls_make_one_shard(root):
    with ns.Writer.open(root, create=True) as writer:
        for i in range(100):
            writer.add_codes(CODES[[i % 6]], keys=[str(i)])
    with ns.Index.open(root) as index:
        stats = index.stats()
    assert (stats["shards"], stats["items"], stats["members"]) == (1, 6, 100)
