"""Which way a shard is searched; that all ways agree is tested in tests/property/test_ring.py."""

import subprocess
import sys

import numpy as np
import pytest

import nearsearch as ns
from nearsearch import search
from nearsearch.plan import MIN_RING_CODES
from nearsearch.synthetic import plant_neighbours, random_codes

CODES = random_codes(MIN_RING_CODES, 256, 1)
QUERIES = plant_neighbours(CODES[:40], np.arange(40), seed=2)

FRESH = """
import sys
import nearsearch as ns
from nearsearch import search
root, *queries = sys.argv[1:]
with ns.Index.open(root) as index:
    assert index.snapshot.shards[0].codes["pdq"].ring is not None
    answers = []
    for query in queries:
        matches = index.search(query, 31)
        assert len(matches.segments()) == len(matches)
        answers.append((matches.rows.tolist(), matches.distances.tolist()))
    assert "numba" not in sys.modules, "loaded"
    index.warm_up()
    assert {"nearsearch.kernels.ring", "nearsearch.kernels.chains"} <= set(sys.modules)
    for query, answer in zip(queries, answers):
        matches = index.search(query, 31)
        assert (matches.rows.tolist(), matches.distances.tolist()) == answer
print(sum(len(rows) for rows, _ in answers))
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    path = tmp_path_factory.mktemp("ring") / "i.ns"
    with ns.Writer.open(path, create=True, specs=["pdq"]) as writer:
        writer.add_codes(CODES)
        writer.commit()
        writer.compact()
    return path


def test_the_first_searches_of_a_process_load_no_kernels_and_answer_the_same(root):
    command = [sys.executable, "-c", FRESH, root, *(query.tobytes().hex() for query in QUERIES)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "32"), done.stderr


def test_kernels_are_loaded_when_scans_have_cost_as_much(root, monkeypatch):
    monkeypatch.delitem(sys.modules, "nearsearch.kernels.ring")
    monkeypatch.setattr(search, "_scanned", 0.0)
    a_scan = search.scan_cost(*CODES.shape)
    asked = []
    with ns.Index.open(root) as index:
        (shard,) = index.snapshot.shards
        rows = shard.codes["pdq"]
        while not search._is_ring_worth_loading(rows, 1):
            asked.append(a_scan)
    assert sum(asked) <= search._LOADING < sum(asked) + a_scan


def test_large_shards_are_not_scanned_in_place_of_a_ring(root, monkeypatch):
    monkeypatch.delitem(sys.modules, "nearsearch.kernels.ring")
    monkeypatch.setattr(search, "_scanned", 0.0)
    with ns.Index.open(root) as index:
        rows = index.snapshot.shards[0].codes["pdq"]
        monkeypatch.setattr(search, "_MOST_SCANNED", rows.codes.nbytes)
        assert not search._is_ring_worth_loading(rows, 1)
        monkeypatch.setattr(search, "_MOST_SCANNED", rows.codes.nbytes - 1)
        assert search._is_ring_worth_loading(rows, 1)


@pytest.mark.parametrize("cores", [1, 2, 3, 64])
@pytest.mark.parametrize("count", [0, 1, 16, 17, 33, 40, 129])
def test_however_queries_are_shared_out_the_answer_is_that_of_each(root, monkeypatch, cores, count):
    monkeypatch.setattr(search, "_cores", lambda: cores)
    queries = np.tile(QUERIES, (4, 1))[:count]
    with ns.Index.open(root) as index:
        together = index.search(queries, 31)
        alone = [index.search(query, 31) for query in queries]
    assert np.diff(together.offsets).tolist() == [len(matches) for matches in alone]
    assert together.rows.tolist() == [row for matches in alone for row in matches.rows]
    assert together.distances.tolist() == [d for matches in alone for d in matches.distances]
