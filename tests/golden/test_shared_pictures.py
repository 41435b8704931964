"""The whole job on the shared real pictures: every file accounted for, every answer exact."""

from pathlib import Path

import numpy as np
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
    assert (report.added, report.failed, report.skipped) == (326, 0, 0)
    with ns.Writer.open(root) as writer:
        again = writer.add_files([PICTURES], contribution="NL-0042", source="NL")
    assert again.unchanged == 326
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


@pytest.mark.parametrize("spec", ["pdq", "phash"])
@pytest.mark.parametrize("radius", [0, 16, 31, 64])
@pytest.mark.parametrize("min_quality", [0, 50])
def test_search_equals_brute_force(index, paths, hashes, spec, radius, min_quality):
    found = hashes[spec]
    assert found.failures == ()
    gap = distances(found.codes, found.codes)
    good = found.qualities >= min_quality
    expected = {
        (paths[q], paths[c], int(gap[q, c]))
        for q, c in zip(*np.nonzero(gap <= radius), strict=True)
        if good[q] and good[c]
    }
    table = index.search(found, radius, min_quality=min_quality).to_arrow()
    rows = list(
        zip(*(table[name].to_pylist() for name in ("query", "key", "distance")), strict=True)
    )
    assert len(rows) == len(set(rows))
    assert set(rows) == expected
    assert len(expected) > 300


def test_featureless_pictures_are_kept_and_flagged(index, paths, hashes):
    quality = dict(zip(paths, hashes["pdq"].qualities.tolist(), strict=True))
    flat = [path for path in paths if quality[path] < 50]
    assert len(flat) == 11
    matches = index.query(flat)
    assert len(matches) == 0
    assert [failure.stage for failure in matches.failures] == ["quality"] * 11
    assert index.stats()["specs"]["pdq"]["featureless_rows"] == 11
