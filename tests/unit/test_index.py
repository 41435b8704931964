import threading

import imagehash
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from PIL import Image

import nearsearch as ns
from nearsearch.errors import (
    ClosedError,
    CodesError,
    FilterSyntaxError,
    IndexNotFoundError,
    SpecMismatchError,
    UnknownColumnError,
    UsageError,
)
from nearsearch.store import schema
from nearsearch.synthetic import make_picture

CODES = np.random.default_rng(4).integers(0, 256, (5, 32), np.uint8)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    path = tmp_path_factory.mktemp("index") / "i.ns"
    with ns.Writer.open(path, create=True) as writer:
        writer.add_codes(CODES, keys=list("abcde"), contribution="A", source="NL")
    return path


@pytest.fixture(scope="module")
def index(root):
    with ns.Index.open(root) as opened:
        yield opened


def test_columns_are_those_of_the_answer(index):
    table = index.search(CODES, 0).to_arrow()
    assert dict(zip(table.schema.names, table.schema.types, strict=True)) == dict(index.columns)
    assert tuple(table.column_names) == schema.HIT_COLUMNS
    empty = index.search(CODES[:0], 0).to_arrow()
    assert empty.schema == table.schema
    assert len(empty) == 0


def test_radius_is_inclusive_and_checked(index):
    near = CODES[0].copy()
    near[0] ^= 0b111
    assert len(index.search(near, 2)) == 0
    assert index.search(near, 3).distances.tolist() == [3]
    assert len(index.search(near, 256)) == 5
    assert len(index.search(near)) == 1
    for radius in (-1, 257):
        with pytest.raises(UsageError, match=f"radius: expected 0 to 256, got {radius}"):
            index.search(near, radius)
    for radius in ("31", 31.0):
        with pytest.raises(UsageError, match="radius: expected a whole number"):
            index.search(near, radius)
    assert len(index.search(near, np.int64(3))) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"limit": 0}, "limit: expected 1"),
        ({"limit": "2"}, "limit: expected a whole number"),
        ({"min_quality": 101}, "min_quality: expected 0 to 100, got 101"),
        ({"where": 7}, "where: expected text or a pyarrow.compute.Expression, got int"),
        ({"where": pc.field("distance") + 1}, "where"),
    ],
)
def test_arguments_that_cannot_be(index, arguments, words):
    with pytest.raises(UsageError, match=words):
        index.search(CODES, 0, **arguments)


def test_filters(index):
    assert len(index.search(CODES, 0, where='key in ["a", "b"] and source == "NL"')) == 2
    assert len(index.search(CODES, 0, where=pc.field("key") != "a")) == 4
    assert len(index.search(CODES, 256, where="distance == 0")) == 5
    with pytest.raises(UnknownColumnError, match="no column 'colour'; the columns are: query, "):
        index.search(CODES, 0, where='colour == "red"')
    with pytest.raises(UnknownColumnError, match=r"colour.* the columns are: query, "):
        index.search(CODES, 0, where=pc.field("colour") == "red")
    with pytest.raises(FilterSyntaxError):
        index.search(CODES, 0, where="key ==")


def test_where_comes_before_limit(index):
    matches = index.search(CODES[0], 256, where='key != "a"', limit=1)
    assert len(matches) == 1
    assert matches.to_arrow()["key"].to_pylist() != ["a"]


def test_other_specs_are_errors_not_answers(index):
    with pytest.raises(SpecMismatchError, match=r"expected spec pdq .*, got phash"):
        index.search(np.zeros((1, 8), np.uint8), 5, spec="phash")
    with pytest.raises(SpecMismatchError):
        index.query(["x.jpg"], spec="phash")
    with pytest.raises(SpecMismatchError):
        index.search(CODES, spec=ns.Spec("pdq", 256, 2, "luma-2048"))
    with pytest.raises(CodesError):
        index.search(np.zeros((1, 8), np.uint8), 5)
    with pytest.raises(CodesError, match="ImageHash of 64 bits"):
        index.search(imagehash.ImageHash(np.ones((8, 8), bool)), 5)


def test_index_of_a_spec_we_compute_otherwise(tmp_path, monkeypatch):
    other = ns.Spec("pdq", 256, 9, "luma-2048")
    with ns.Writer.open(tmp_path / "i", create=True, specs=[other]) as writer:
        writer.add_codes(CODES, spec=other)
        with pytest.raises(SpecMismatchError, match=r"pdq \(version 9"):
            writer.add_files([tmp_path])
    with ns.Index.open(tmp_path / "i") as index:
        assert len(index.search(CODES, 0)) == 5  # codes of the caller's own are comparable
        with pytest.raises(SpecMismatchError, match=r"got pdq \(version 1"):
            index.query(["x.jpg"])


def test_closed_is_closed(root):
    index = ns.Index.open(root)
    matches = index.search(CODES, 0)
    index.close()
    index.close()
    assert len(matches.to_arrow()) == 5
    for call in (lambda: index.search(CODES), lambda: index.specs, lambda: index.query(["x"])):
        with pytest.raises(ClosedError, match="this index is closed"):
            call()


def test_no_index(tmp_path):
    with pytest.raises(IndexNotFoundError):
        ns.Index.open(tmp_path / "none")
    with pytest.raises(FileNotFoundError):
        ns.Index.open(tmp_path)


def test_hashes_know_their_spec(index):
    hashes = ns.Hashes(
        codes=CODES,
        qualities=np.full(5, 100, np.int16),
        file_index=np.arange(5),
        keys=list("abcde"),
        digests=[()] * 5,
        failures=(),
        spec=ns.get_spec("pdq"),
    )
    assert len(index.search(hashes, 0, spec="pdq")) == 5
    with pytest.raises(SpecMismatchError):
        index.search(hashes, 0, spec="phash")


def test_filter_on_lists_of_large_strings(tmp_path):
    table = pa.table({"tags": pa.array([["a", "b"]] * 5, pa.list_(pa.large_string()))})
    with ns.Writer.open(tmp_path / "i", create=True) as writer:
        writer.add_codes(CODES, metadata=table)
    with ns.Index.open(tmp_path / "i") as opened:
        assert len(opened.search(CODES, 0, where='"a" in tags')) == 5
        assert len(opened.search(CODES, 0, where='"ab" in tags')) == 0


def test_a_folder_of_evidence_is_never_imported_from(tmp_path, monkeypatch):
    """A numpy.py beside the pictures must not run in the hashing process."""
    for name in ("numpy.py", "PIL.py", "imagehash.py", "scipy.py", "nearsearch.py"):
        (tmp_path / name).write_text(f"open({str(tmp_path / 'ran')!r}, 'w').write(__name__)")
    Image.fromarray(make_picture(1, "leaves", 64, 64)).save(tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)
    assert ns.hash_files(["a.png"]).qualities.tolist() == [100]
    assert ns.hash_files(["a.png"], "phash").failures == ()
    assert not (tmp_path / "ran").exists()


def test_threads_get_the_same_answers(index):
    expected = index.search(CODES, 120).to_arrow()
    answers = []
    threads = [
        threading.Thread(target=lambda: answers.append(index.search(CODES, 120).to_arrow()))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(answer == expected for answer in answers)
    assert len(answers) == 8


def test_a_pool_of_the_caller_has_its_own_limits(root):
    with ns.Index.open(root) as index, ns.WorkerPool() as pool:
        with pytest.raises(UsageError, match="limits belong to the pool"):
            index.query([], pool=pool, limits=ns.Limits())
        assert len(index.query([], pool=pool)) == 0


def test_query_of_files(tmp_path):
    rgb = make_picture(5, "leaves", 160, 120)
    Image.fromarray(rgb).save(tmp_path / "a.png")
    Image.fromarray(rgb).save(tmp_path / "copy.jpg", quality=50)
    Image.new("RGB", (90, 90), "grey").save(tmp_path / "flat.png")
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff broken")
    paths = [str(tmp_path / name) for name in ("a.png", "copy.jpg", "flat.png", "broken.jpg")]
    with ns.Writer.open(tmp_path / "i.ns", create=True, specs=["pdq", "phash"]) as writer:
        report = writer.add_files(paths)
    assert (report.added, report.failed) == (3, 1)
    with ns.Index.open(tmp_path / "i.ns") as index:
        matches = index.query([*paths, paths[0]])
        assert np.diff(matches.offsets).tolist() == [2, 2, 1, 1, 2]
        assert matches.is_exact.tolist() == [True, False, True, False, True, True, True, False]
        found = matches.to_arrow().select(["query_index", "match", "key"]).to_pylist()
        assert [tuple(hit.values()) for hit in found] == [
            (0, "exact", paths[0]),
            (0, "near", paths[1]),
            (1, "exact", paths[1]),
            (1, "near", paths[0]),
            (2, "exact", paths[2]),
            (3, "exact", paths[3]),
            (4, "exact", paths[0]),
            (4, "near", paths[1]),
        ]
        assert [(f.key, f.stage) for f in matches.failures] == [
            (paths[3], "decode"),
            (paths[2], "quality"),
        ]
        assert matches.queries[4] == paths[0]
        every = index.query(paths[2:3], 0, min_quality=0)
        assert every.to_arrow()["key"].to_pylist() == [paths[2]]
        phash = imagehash.phash(Image.open(paths[0]))
        assert index.search(phash, 0, spec="phash").to_arrow()["key"][0].as_py() == paths[0]
        hashes = ns.hash_files(paths[:1], "phash")
        assert index.search(hashes, 0).specs == (ns.get_spec("phash"),)
        code, quality = ns.hash_array(rgb)
        assert index.search(code, 0).to_arrow()["key"].to_pylist()[0] == paths[0]
        assert quality == 100
        with pytest.raises(UsageError, match="expected a list of paths, not one path"):
            index.query(paths[0])
    assert pa.types.is_uint16(matches.to_arrow()["distance"].type)
