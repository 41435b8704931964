"""Other libraries that search binary codes, asked the same questions as `bench/search.py` asks.

Each function returns the microseconds of each query, and the distances it found within the radius,
ascending, or None where the library is not installed.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any, Final

import faiss
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Answers = tuple[list[float], list[list[int]]]

NEIGHBOURS: Final = 64  # asked of libraries that know no radius; planted queries have few matches


def timed(ask: Callable[[Any], Any], queries: NDArray[np.uint8]) -> tuple[list[float], list[Any]]:
    """Ask one query at a time; return the microseconds of each, and the answers."""
    times, answers = [], []
    for query in queries:
        start = time.perf_counter()
        answer = ask(query[None])
        times.append(1e6 * (time.perf_counter() - start))
        answers.append(answer)
    return times, answers


def faiss_flat(index: Any, queries: NDArray[np.uint8], radius: int) -> Answers:
    """Scan with `IndexBinaryFlat.range_search`; FAISS's radius is exclusive."""
    times, answers = timed(lambda query: index.range_search(query, radius + 1), queries)
    return times, [sorted(int(d) for d in distances) for _, distances, _ in answers]


class MultiHash:
    """FAISS `IndexBinaryMultiHash`, 16 hashes of 16 bits: exact with nflip = radius // 16."""

    def __init__(self, codes: NDArray[np.uint8]) -> None:
        self.index = faiss.IndexBinaryMultiHash(256, 16, 16)
        self.index.add(codes)

    def bytes_a_code(self) -> float:
        """Return the serialised size, codes included; in memory it is larger."""
        return float(len(faiss.serialize_index_binary(self.index)) / self.index.ntotal)

    def search(self, queries: NDArray[np.uint8], radius: int) -> Answers:
        """Search within a radius; of 16 parts one has at most a 16th of the differing bits."""
        self.index.nflip = radius // 16
        return faiss_flat(self.index, queries, radius)


def usearch_exact(
    codes: NDArray[np.uint8], queries: NDArray[np.uint8], radius: int
) -> Answers | None:
    """Search exactly with usearch: the 64 nearest, cut at the radius, one thread."""
    try:
        from usearch.index import MetricKind, search
    except ImportError:
        sys.stderr.write("usearch is not installed: left out\n")
        return None

    def ask(query: NDArray[np.uint8]) -> Any:
        return search(
            codes, query, NEIGHBOURS, MetricKind.Hamming, exact=True, threads=1, dtype="b1"
        )

    times, answers = timed(ask, queries)
    distances = [np.ravel(answer.distances) for answer in answers]
    return times, [sorted(int(d) for d in found if d <= radius) for found in distances]


class PyNear:
    """pynear `MIHBinaryIndex` of 16 parts: nearest neighbours within a radius of each part."""

    def __init__(self, codes: NDArray[np.uint8]) -> None:
        from pynear import MIHBinaryIndex

        self.index = MIHBinaryIndex(16)
        self.index.set(codes)

    def search(self, queries: NDArray[np.uint8], radius: int) -> Answers:
        """Ask for the 64 nearest, cut at the radius."""
        times, answers = timed(
            lambda query: self.index.searchKNN_arrays(query, NEIGHBOURS, radius), queries
        )
        return times, [
            sorted(int(d) for i, d in zip(ids[0], found[0], strict=True) if i >= 0 and d <= radius)
            for ids, found in answers
        ]
