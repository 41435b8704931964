"""What a long transaction has written already, as hashes in memory.

Each batch must be compared with all that came before it. Asking every shard on disk would cost
batches times shards; this answers for all of them at once, and almost always with no.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Seen:
    """A growing set of 64-bit hashes, 8 bytes each.

    Kept as sorted runs, each more than twice as long as the next, so that n hashes are sorted
    log n times and looked up in log n runs.
    """

    def __init__(self) -> None:
        self._runs: list[NDArray[np.uint64]] = []

    def add(self, hashes: NDArray[np.uint64]) -> None:
        """Take (n,) hashes in; they may repeat."""
        run = np.sort(hashes)
        while self._runs and len(self._runs[-1]) <= 2 * len(run):
            run = np.sort(np.concatenate([self._runs.pop(), run]))
        self._runs.append(run)

    def find(self, hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return the positions, ascending, of the hashes that are in the set."""
        if not self._runs:
            return np.empty(0, np.int64)
        order = np.argsort(hashes)
        needles = hashes[order]
        found = np.zeros(len(hashes), np.bool_)
        for run in self._runs:
            if len(run):
                place = np.minimum(np.searchsorted(run, needles), len(run) - 1)
                found |= run[place] == needles
        return np.sort(order[found])
