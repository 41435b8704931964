import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nearsearch.matches import Matches, canonical
from nearsearch.spec import get_spec


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 9), st.integers(0, 3)), unique=True))
def test_canonical_is_sorting(hits):
    queries = np.array([q for q, _, _ in hits], np.int64)
    rows = np.array([r for _, r, _ in hits], np.int64)
    distances = np.array([d for _, _, d in hits], np.uint16)
    offsets, rows, distances = canonical(queries, rows, distances, 5)
    expected = sorted((q, d, r) for q, r, d in hits)
    found = [
        (q, int(distances[i]), int(rows[i]))
        for q in range(5)
        for i in range(offsets[q], offsets[q + 1])
    ]
    assert found == expected
    assert offsets[-1] == len(hits)


def matches(*counts):
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    n = int(offsets[-1])
    return Matches(
        offsets,
        np.arange(n),
        np.zeros(n, np.uint16),
        (get_spec("pdq"),),
        1,
        [""] * len(counts),
        (),
        lambda rows: pytest.fail("rows were described"),
        lambda rows: pytest.fail("rows were looked at"),
        np.array([n]),
        n,
        np.ones((len(counts), 1), np.int64),
        np.zeros(len(counts), np.int64),
    )


@given(st.lists(st.integers(0, 5), max_size=6), st.integers(1, 6))
def test_limit_keeps_the_first_of_each_query(counts, limit):
    narrowed = matches(*counts).narrowed(None, limit)
    assert np.diff(narrowed.offsets).tolist() == [min(count, limit) for count in counts]
    full = matches(*counts)
    kept = [
        row
        for q in range(len(counts))
        for row in full.rows[full.offsets[q] : full.offsets[q + 1]][:limit]
    ]
    assert narrowed.rows.tolist() == kept
    assert len(narrowed) == len(kept) == len(narrowed.distances)


def test_query_index():
    assert matches(2, 0, 1).query_index.tolist() == [0, 0, 2]
    assert matches().query_index.tolist() == []
