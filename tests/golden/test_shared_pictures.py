"""The whole job on the shared real pictures: every file accounted for, every answer exact."""

import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest
from oracle import distances

import nearsearch as ns

PICTURES = Path(__file__).parents[2].parent / "shared" / "media" / "images"

pytestmark = [
    pytest.mark.skipif(not PICTURES.is_dir(), reason="no shared pictures beside the checkout"),
    pytest.mark.slow,
]


@pytest.fixture(scope="module")
def paths():
    return sorted(str(path) for path in PICTURES.iterdir())


@pytest.fixture(scope="module")
def index(tmp_path_factory, paths):
    root = tmp_path_factory.mktemp("shared") / "known.ns"
    with ns.Writer.open(root, create=True, specs=["pdq", "phash"]) as writer:
        report = writer.add_files([PICTURES], contribution="NL-0042", source="NL")
    assert report.total == len(paths) == 326
    distinct = {hashlib.sha256(Path(path).read_bytes()).digest() for path in paths}
    assert len(distinct) == 324
    assert (report.added, report.duplicate) == (324, 2)
    assert (report.failed, report.skipped, report.damaged) == (0, 0, 0)
    assert report.bytes == sum(Path(path).stat().st_size for path in paths)
    with ns.Writer.open(root) as writer:
        again = writer.add_files([PICTURES], contribution="NL-0042", source="NL")
    assert again.unchanged == again.total == 326
    assert again.bytes == report.bytes
    with ns.Index.open(root) as opened:
        assert opened.generation == 1  # the second time was a no-op
        yield opened


@pytest.fixture(scope="module")
def hashes(paths):
    return {spec: ns.hash_files(paths, spec) for spec in ("pdq", "phash")}


@pytest.mark.parametrize("spec", ["pdq", "phash"])
def test_every_picture_finds_itself(index, paths, spec):
    matches = index.query(paths, 0, spec=spec, min_quality=0)
    assert matches.failures == ()
    table = matches.to_arrow()
    found = set(zip(table["query"].to_pylist(), table["key"].to_pylist(), strict=True))
    assert found >= {(path, path) for path in paths}
    assert set(table["distance"].to_pylist()) == {0}
    exact = table.filter(pc.equal(table["match"].cast("string"), "exact"))
    found = set(zip(exact["query"].to_pylist(), exact["key"].to_pylist(), strict=True))
    data = {path: Path(path).read_bytes() for path in paths}
    assert len(exact) == len(found)
    assert found == {(one, other) for one in paths for other in paths if data[one] == data[other]}


@pytest.mark.parametrize("spec", ["pdq", "phash"])
@pytest.mark.parametrize("radius", [0, 16, 31, 64])
@pytest.mark.parametrize("min_quality", [0, 50])
def test_search_equals_brute_force(index, paths, hashes, spec, radius, min_quality):
    found = hashes[spec]
    assert found.failures == ()
    gap = distances(found.codes, found.codes)
    good = found.qualities >= min_quality
    # What has the same digest matches whatever its quality, once, as exact.
    expected = Counter(
        (paths[q], paths[c], 0, "exact")
        for q in range(len(paths))
        for c in range(len(paths))
        if found.digests[q] == found.digests[c]
    )
    # Of the views of a file the nearest counts, to each code of another file.
    gap[~good] = 1 << 14
    for q, path in enumerate(paths):
        of_file = gap[found.file_index == q].min(axis=0, initial=1 << 14)
        for code in np.flatnonzero((of_file <= radius) & good):
            c = found.file_index[code]
            if found.digests[q] != found.digests[c]:
                expected[path, paths[c], int(of_file[code]), "near"] += 1
    table = index.search(found, radius, min_quality=min_quality).to_arrow()
    names = ("query", "key", "distance", "match")
    rows = Counter(zip(*(table[name].to_pylist() for name in names), strict=True))
    assert rows == expected
    assert len(expected) > 300


def test_featureless_pictures_are_kept_and_flagged(index, paths, hashes):
    found = hashes["pdq"]
    best = np.full(len(paths), -1)
    np.maximum.at(best, found.file_index, found.qualities)
    flat = [path for path, quality in zip(paths, best, strict=True) if 0 <= quality < 50]
    assert len(flat) == 11
    matches = index.query(flat, spec="pdq", variants="none")
    assert len(matches) == 11
    assert matches.is_exact.all()
    assert np.diff(matches.offsets).tolist() == [1] * 11
    assert set(flat) <= set(matches.to_arrow()["key"].to_pylist())
    asked = np.isin(found.file_index, [paths.index(path) for path in flat])
    assert len(index.search(found.codes[asked], 0)) == 0
    assert [failure.stage for failure in matches.failures] == ["quality"] * 11
    assert index.stats()["specs"]["pdq"]["featureless_rows"] == 11
