"""`Index.search` against FAISS's flat range search: the same answer, how much time.

Codes are uniform, the kindest case for any index; queries lie 0 to 64 bits from a stored code, so
that each radius has matches to find.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import faiss
import numpy as np
import pyarrow as pa
import pytest

from nearsearch import Index, Writer
from nearsearch.synthetic import plant_neighbours, random_codes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nearsearch import Matches

BITS = 256
MILLION = 1_000_000
QUERIES = 1024
THREADS = faiss.omp_get_max_threads()
FARTHEST = 64  # bits between a query and the code it was made from


@dataclass(frozen=True)
class Corpus:
    """The same codes twice: in an index on disk, and in FAISS's memory."""

    codes: np.ndarray
    index: Index
    flat: faiss.IndexBinaryFlat
    queries: np.ndarray
    distances: np.ndarray
    """Bits between each query and code number ``number * spacing``: known without any search."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    sizes = [MILLION, 10 * MILLION] if metafunc.config.getoption("--large") else [MILLION]
    ids = [f"{size // MILLION}M" for size in sizes]
    metafunc.parametrize("corpus", sizes, ids=ids, indirect=True, scope="module")


@pytest.fixture(scope="module")
def corpus(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Corpus]:
    size: int = request.param
    codes = random_codes(size, BITS, seed=size)
    root = tmp_path_factory.mktemp("search") / "known.ns"
    with Writer.open(root, create=True) as writer:
        for start in range(0, size, MILLION):
            part = codes[start : start + MILLION]
            # The key tells which code a match is, whatever order the index keeps them in.
            keys = pa.array(np.arange(start, start + len(part))).cast(pa.large_string())
            assert writer.add_codes(part, keys=keys).added == len(part)
    flat = faiss.IndexBinaryFlat(BITS)
    flat.add(codes)
    distances = np.arange(QUERIES) % (FARTHEST + 1)
    queries = plant_neighbours(codes[:: size // QUERIES][:QUERIES], distances, seed=1)
    with Index.open(root) as index:
        index.warm_up()
        assert index.stats()["specs"]["pdq"]["codes"] == size
        yield Corpus(codes, index, flat, queries, distances)


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("radius", [0, 16, 31, 48])
def test_single(bench: Any, corpus: Corpus, radius: int) -> None:
    """One query a call, another one each round."""
    _compare_single(bench, corpus, radius, THREADS)


@pytest.mark.timeout(1200)
def test_single_against_one_thread(bench: Any, corpus: Corpus) -> None:
    """The rival at its best: with more, FAISS waits for threads that have nothing to do."""
    _compare_single(bench, corpus, 31, 1)


def _compare_single(bench: Any, corpus: Corpus, radius: int, threads: int) -> None:
    answers, expected = bench(
        lambda i: corpus.index.search(corpus.queries[i], radius),
        rival=lambda i: _flat_search(corpus, corpus.queries[i : i + 1], radius, threads),
        rival_name=f"FAISS flat, threads: {threads}",
        rounds=100,
    )
    pairs = zip(answers, expected, strict=True)
    found = sum(_same_answer(*pair) for pair in pairs)
    # Each planted code within the radius, whatever FAISS says; more than these are possible.
    assert found >= (corpus.distances[: len(answers)] <= radius).sum()


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("radius", [0, 16, 31, 48])
def test_batch_64(bench: Any, corpus: Corpus, radius: int) -> None:
    _compare_batch(bench, corpus, 64, radius, rounds=7 if len(corpus.codes) == MILLION else 5)


@pytest.mark.timeout(1200)
def test_batch_1024(bench: Any, corpus: Corpus) -> None:
    _compare_batch(bench, corpus, 1024, 31, rounds=3)


def _compare_batch(bench: Any, corpus: Corpus, n: int, radius: int, rounds: int) -> None:
    queries = corpus.queries[:n]
    answers, expected = bench(
        lambda _: corpus.index.search(queries, radius),
        rival=lambda _: _flat_search(corpus, queries, radius, THREADS),
        rival_name=f"FAISS flat, threads: {THREADS}",
        rounds=rounds,
        note=lambda seconds: f"{1e6 * seconds / n:,.0f} us a query",
    )
    for answer in answers[1:]:  # every round gives the same
        for part in ("offsets", "rows", "distances"):
            assert np.array_equal(getattr(answer, part), getattr(answers[0], part))
    found = _same_answer(answers[0], expected[0])
    assert found >= (corpus.distances[:n] <= radius).sum()


def _flat_search(
    corpus: Corpus, queries: np.ndarray, radius: int, threads: int
) -> tuple[np.ndarray, ...]:
    faiss.omp_set_num_threads(threads)  # whatever our side set before
    try:
        return corpus.flat.range_search(queries, radius + 1)  # FAISS's radius is exclusive
    finally:
        faiss.omp_set_num_threads(THREADS)  # so that ours starts as in a fresh process


def _same_answer(matches: Matches, expected: tuple[np.ndarray, ...]) -> int:
    """Assert that both found the same (query, code, distance), and return how many."""
    limits, distances, numbers = expected
    counts = np.diff(limits.astype(np.int64))
    assert np.array_equal(np.diff(matches.offsets), counts)
    table = matches.to_arrow()
    assert len(table) == len(matches)  # one member an item here
    found = np.stack(
        [
            table["query_index"].to_numpy(),
            table["key"].cast(pa.int64()).to_numpy(),
            table["distance"].to_numpy().astype(np.int64),
        ]
    )
    query = np.repeat(np.arange(len(counts)), counts)
    wanted = np.stack([query, numbers, distances.astype(np.int64)])
    assert np.array_equal(found[:, np.lexsort(found[::-1])], wanted[:, np.lexsort(wanted[::-1])])
    return len(matches)
