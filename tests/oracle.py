"""The slow, obvious truth that fast paths are compared with."""

import numpy as np


def distances(queries: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Hamming distance in bits of every query to every code, by unpacking the bits."""
    table = np.zeros((len(queries), len(codes)), np.int64)
    for i, query in enumerate(queries):
        table[i] = np.unpackbits(codes ^ query, axis=1).sum(axis=1)
    return table


def range_search(queries: np.ndarray, codes: np.ndarray, radius: int) -> list[tuple[int, int, int]]:
    """All (query, code number, distance) with distance <= radius, ordered by query, distance."""
    table = distances(queries, codes)
    found = [(q, int(table[q, c]), c) for q, c in zip(*np.nonzero(table <= radius), strict=True)]
    return [(int(q), int(c), d) for q, d, c in sorted(found)]


def flip(code: np.ndarray, bits) -> np.ndarray:
    """A copy of the code with the given bits turned over; bit 0 is the first of the hex."""
    flat = np.unpackbits(code)
    flat[list(bits)] ^= 1
    return np.packbits(flat)
