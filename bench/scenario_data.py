"""The codes, contributions and indexes that `bench/scenario.py` and others work on."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa

import nearsearch as ns
from nearsearch.corpora import Corpus

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    Codes = NDArray[np.uint8]

CHUNK: Final = 250_000  # items of one imported list
SAMPLE: Final = 20_000  # of the items that were there before: those that are asked for


def make_codes(n: int, seed: int) -> Iterator[tuple[int, Codes]]:
    """Yield (number of the first, codes) of `n` items, repeats and blanks among them."""
    return Corpus(n, seed).blocks(CHUNK)


def sizes_of(count: int, largest: int, seed: int) -> NDArray[np.int64]:
    """Return sizes of contributions: half below 5 files, a tenth above 30, one the largest."""
    sizes = np.floor(2 * (1 + np.random.default_rng(seed).pareto(0.8, count)))
    sizes = np.minimum(sizes, largest).astype(np.int64)
    sizes[count // 2] = largest
    return sizes


@dataclass(frozen=True)
class Plan:
    """What is there, what will come, and who asks; the same in every process."""

    items: int
    new: int
    extended: int
    largest: int
    readers: int
    batchers: int
    watchers: int
    pause: float
    writer_pause: float
    quiet: float

    @property
    def commits(self) -> int:
        return self.new + self.extended

    def contributions(self) -> tuple[list[str], NDArray[np.int64]]:
        """Return the contribution of each commit, and the numbers of the first item of each."""
        names = [f"case-{n}" for n in range(self.extended)] + [f"new-{n}" for n in range(self.new)]
        sizes = sizes_of(self.commits, self.largest, 1)
        order = np.random.default_rng(2).permutation(self.commits)
        firsts = self.items + np.concatenate([[0], np.cumsum(sizes[order])])
        return [names[place] for place in order], firsts


def keys_of(first: int, count: int) -> pa.Array:
    return pa.array([f"r{n}" for n in range(first, first + count)], pa.large_string())


def build(root: Path, items: int, ends: Sequence[int] = ()) -> dict[str, Any]:
    """Build an index and compact it; return what that took, and a sample of its codes.

    The first items are in contributions, case-0 and so on, that end at `ends`; the others in lists.
    """
    chosen = np.unique(np.linspace(0, items - 1, SAMPLE).astype(np.int64))
    kept, adding, case = [], 0.0, 0
    with ns.Writer.open(root, create=True, specs=["pdq"]) as writer:
        for first, codes in make_codes(items, 0):
            last = first + len(codes)
            part = chosen[(chosen >= first) & (chosen < last)]
            kept.append(codes[part - first])
            begun, place = time.perf_counter(), first
            while place < last:
                is_case = case < len(ends)
                end = min(int(ends[case]), last) if is_case else last
                writer.add_codes(
                    codes[place - first : end - first],
                    keys=keys_of(place, end - place),
                    contribution=f"case-{case}" if is_case else f"list-{first // CHUNK}",
                )
                case += is_case and end == ends[case]
                place = end
            adding += time.perf_counter() - begun
            print(f"\r{last:,} items", end="", file=sys.stderr, flush=True)
        begun = time.perf_counter()
        writer.commit()
        committed = time.perf_counter()
        writer.compact()
        compacted = time.perf_counter()
    print(f" in {compacted - begun + adding:.0f} s", file=sys.stderr)
    return {
        "numbers": chosen,
        "known": np.concatenate(kept),
        "add_s": adding + committed - begun,
        "compact_s": compacted - committed,
    }
