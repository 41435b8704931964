"""Made-up 256-bit codes with known truth, up to billions: for benchmarks of what is large.

This module owns what such a corpus is: how codes are spread, which rows repeat others, which rows
are a contribution. It refuses to keep any of it: every row follows from the seed and its number, so
a corpus is a few numbers, and any part of it is made when it is asked for.

The numbers the codes are drawn with (``corpora.npz``) are fitted to PDQ codes of real, freely
licensed pictures by ``data/synthetic/fit.py``; no code of them is kept. How near that comes is in
``data/synthetic/README.md``.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nearsearch.checks import whole
from nearsearch.errors import UsageError
from nearsearch.kernels import corpora as kernels
from nearsearch.synthetic import plant_neighbours

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

__all__ = [
    "AGENCIES",
    "BLANK",
    "BLOCK",
    "CATEGORIES",
    "EXACT",
    "NEAR",
    "NEW",
    "Corpus",
    "Queries",
]

BLOCK: Final = 1 << 14
"""Rows that are made together; repeats within a block and contributions do not cross its end."""
FIT: Final = Path(__file__).with_name("corpora.npz")
MAX_ROWS: Final = 1 << 40

NEW: Final = kernels.NEW
"""A kind of row: a new code."""
EXACT: Final = kernels.EXACT
"""A kind of row: a code that other rows have as well."""
NEAR: Final = kernels.NEAR
"""A kind of row: a code 2 to 64 bits from such a code."""
BLANK: Final = kernels.BLANK
"""A kind of row: one of the 8 codes that stand for blank frames."""

AGENCIES: Final = tuple(f"agency-{number:02d}" for number in range(1, 23))
"""Who contributes; the m-th 1/m as often as the first."""
CATEGORIES: Final = ("picture", "frame", "drawing", "screenshot")
"""What a file is, the commonest first."""
_CATEGORY_SHARES: Final = (0.55, 0.8, 0.92)  # where each but the first begins
_SMALLEST, _LARGEST, _TAIL = 2, 5000, 0.8  # files of a contribution; Pareto exponent
_FIRST_DAY, _DAYS = np.datetime64("2016-01-01", "D"), 3653
_N_BLANKS, _MAX_OCTAVES, _QUERY_BLOCKS = 8, 16, 64
_DRAWS = 64  # of a block with rows that are not blank, before all are looked through
_SCHEMA: Final = pa.schema(
    {
        "key": pa.string(),
        "contribution": pa.string(),
        "agency": pa.dictionary(pa.int8(), pa.string()),
        "category": pa.dictionary(pa.int8(), pa.string()),
        "uploaded": pa.date32(),
    }
)


class Fit(NamedTuple):
    """What codes are drawn with; `kernels.draw` says what each number means."""

    base: NDArray[np.int16]
    parents: NDArray[np.uint8]
    weights: NDArray[np.int16]
    n_layouts: int


@dataclass(frozen=True, slots=True)
class Queries:
    """Codes to ask with, each a neighbour of a known row.

    Other rows may be as near: the repeats of that row, and those of which it is one. What is listed
    must be among the answers; it need not be all of them.
    """

    codes: NDArray[np.uint8]
    """(count, 32) uint8."""
    rows: NDArray[np.int64]
    """(count,) int64: the row each was made from."""
    distances: NDArray[np.int64]
    """(count,) int64: bits between the query and that row, 0 to the radius."""

    def to_arrow(self) -> pa.Table:
        """Return the truth: `query` (its number), `row`, `distance`."""
        numbers = np.arange(len(self.rows), dtype=np.int64)
        distances = self.distances.astype(np.uint16)
        return pa.table({"query": numbers, "row": self.rows, "distance": distances})


@dataclass(frozen=True, slots=True)
class Corpus:
    """`n` made-up codes of 256 bits and their records, made when asked for, by any range of rows.

    Equal fields give equal rows, whatever was asked before and in whichever parts. Of two corpora
    that differ in `n` or a share, no row need be equal. New codes have exactly 128 bits set; their
    bit means, correlations of bits and spread of distances are about those of real PDQ codes, with
    fewer near pairs: within 72 bits 0.35 times as many, within 96 bits 0.7 times. Memory: a few
    megabytes, and up to 34 MB for the codes that many rows share. Safe to use from several threads.

    Parameters
    ----------
    n
        Rows, 0 to 2**40.
    seed
        0 to 2**63 - 1.
    duplicates
        Share of rows that repeat a code exactly. By default 0.2: of the entries of two published
        case files 0.15 and 0.24 name a file that another one names. Half repeat a row a little
        earlier; the others a code that comes throughout, the m-th of these about 1/m as often.
    near
        Share of rows 2 to 64 bits from such a code: what other sizes and edits of a picture are. By
        default 0.2, as among the real codes.
    blanks
        Share of rows that are one of 8 codes, as blank frames are. By default 0.01: the commonest
        of the real codes are 0.006 of them. Their codes look like any other here.

    Raises
    ------
    UsageError
        A number out of its range; shares that sum to more than 1.
    """

    n: int
    seed: int = 0
    duplicates: float = 0.2
    near: float = 0.2
    blanks: float = 0.01

    def __post_init__(self) -> None:
        whole("n", self.n, 0, MAX_ROWS)
        whole("seed", self.seed, 0, (1 << 63) - 1)
        shares = {"duplicates": self.duplicates, "near": self.near, "blanks": self.blanks}
        for name, share in shares.items():
            _check_share(name, share)
        if sum(shares.values()) > 1:
            raise UsageError(f"shares: expected a sum of 1 at most, got {sum(shares.values()):g}")

    def codes(self, first: int = 0, count: int | None = None) -> NDArray[np.uint8]:
        """Return the codes of `count` rows from `first` on, by default all to the last.

        (count, 32) uint8 in hex order, owned by the caller. The rows before the first in its block
        of 16,384 are made as well, so ranges should be long, or begin where blocks do.

        Raises
        ------
        UsageError
            Rows that are not there.
        """
        return self._made(*self._range(first, count))[0]

    def kinds(self, first: int = 0, count: int | None = None) -> NDArray[np.uint8]:
        """Return what `count` rows from `first` on are: `NEW`, `EXACT`, `NEAR` or `BLANK`.

        (count,) uint8, constants of this module. Takes as long as `codes`, and raises as it does.
        Of the codes that come throughout, the first to come is called a repeat as well.
        """
        return self._made(*self._range(first, count))[1]

    def blocks(self, size: int = 1 << 16) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """Yield (first row, codes) of `size` rows each, in order; the last part may be shorter."""
        whole("size", size, 1, MAX_ROWS)
        for first in range(0, self.n, size):
            yield first, self.codes(first, min(size, self.n - first))

    def items(self, first: int = 0, count: int | None = None) -> pa.Table:
        """Return the records of `count` rows from `first` on, by default all to the last.

        Columns: `key`, unique; `contribution`; `agency` and `uploaded`, the same throughout a
        contribution; `category`. All but `contribution` can be passed to `Writer.add_codes` as keys
        and metadata; it takes one contribution a call, which `contributions` lists.

        Raises
        ------
        UsageError
            Rows that are not there.
        """
        start, stop = self._range(first, count)
        parts = [self._records(*part) for part in _by_block(start, stop)]
        return pa.concat_tables(parts) if parts else _SCHEMA.empty_table()

    def contributions(self, first: int = 0, count: int | None = None) -> list[tuple[int, int, str]]:
        """Return (first row, rows, name) of the contributions among `count` rows from `first` on.

        Contributions are runs of rows that lie beside each other: 2 to 5000, the last one of a
        single row where `n` leaves no more; the number of those of s files and more falls with
        s**-0.8. Those at the ends of the range are cut. Raises as `items`.
        """
        start, stop = self._range(first, count)
        found = []
        for block, low, high in _by_block(start, stop):
            edges = self._edges(block) + block * BLOCK
            for begin, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
                if begin < block * BLOCK + high and end > block * BLOCK + low:
                    cut = max(begin, block * BLOCK + low), min(end, block * BLOCK + high)
                    found.append((cut[0], cut[1] - cut[0], _name(begin)))
        return found

    def queries(self, count: int, radius: int, seed: int = 0) -> Queries:
        """Return codes at known distances of known rows: their truth needs no search.

        Distances are uniform from 0 to `radius`, in random directions. Rows come from 64 blocks at
        most, chosen at random, the shorter last one less often, so this takes a fraction of a
        second, unless nearly all rows are blank. Blank rows are left out: they would be answered
        with a share of the corpus.

        Parameters
        ----------
        count
            Queries, 0 and more.
        radius
            0 to 256 bits.
        seed
            Others give other queries of the same corpus.

        Raises
        ------
        UsageError
            A number out of its range; a corpus that has only blank rows, or none.
        """
        whole("count", count, 0, MAX_ROWS)
        whole("radius", radius, 0, kernels.BITS)
        rng = self._generator("queries", whole("seed", seed, 0, (1 << 63) - 1))
        if count and not self.n:
            raise UsageError("queries: the corpus has no rows")
        chosen = [self._draw_block(rng) for _ in range(min(count, _QUERY_BLOCKS))]
        codes = np.empty((count, 32), np.uint8)
        rows = np.empty(count, np.int64)
        for number, block in enumerate(chosen):
            mine = slice(number, count, len(chosen))
            made, kinds = self._made(block * BLOCK, min(self.n, (block + 1) * BLOCK))
            usable = np.flatnonzero(kinds != BLANK)
            picked = usable[rng.integers(0, len(usable), len(rows[mine]))]
            codes[mine], rows[mine] = made[picked], block * BLOCK + picked
        distances = rng.integers(0, radius + 1, count)
        planted = plant_neighbours(codes, distances, int(rng.integers(0, 1 << 62)))
        return Queries(planted, rows, distances)

    def strangers(self, count: int, seed: int = 0) -> NDArray[np.uint8]:
        """Return codes to ask with that were made from no row: neighbours of theirs are chance.

        (count, 32) uint8, spread as new codes of the corpus are. Another `seed` gives others.
        """
        whole("count", count, 0, MAX_ROWS)
        whole("seed", seed, 0, (1 << 63) - 1)
        drawn = draw(load_fit(), _key(self.seed, "strangers", seed), count, layouts())
        return drawn.view(np.uint8)

    def _range(self, first: int, count: int | None) -> tuple[int, int]:
        start = whole("first", first, 0, self.n)
        return start, start + whole(
            "count", self.n - start if count is None else count, 0, self.n - start
        )

    def _made(self, start: int, stop: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Return codes and kinds of a range of rows."""
        codes = np.empty((stop - start, 4), np.uint64)
        kinds = np.empty(stop - start, np.uint8)
        room = np.empty((2, min(BLOCK, stop), 4), np.uint64)  # pages of new arrays are dear
        for block, low, high in _by_block(start, stop):
            place = slice(block * BLOCK + low - start, block * BLOCK + high - start)
            if low == 0:
                self._make_block(block, codes[place], kinds[place], room[0])
            else:
                made, made_kinds = room[1, :high], np.empty(high, np.uint8)
                self._make_block(block, made, made_kinds, room[0])
                codes[place], kinds[place] = made[low:], made_kinds[low:]
        return codes.view(np.uint8), kinds

    def _make_block(
        self,
        block: int,
        codes: NDArray[np.uint64],
        kinds: NDArray[np.uint8],
        room: NDArray[np.uint64],
    ) -> None:
        """Make the first rows of a block, as many as `codes` has; new ones are drawn in `room`."""
        octaves = _octaves(self.n * (self.duplicates + self.near))
        new = room[: self._choose(block, kinds)]
        draw_into(new, load_fit(), _key(self.seed, "new", block), layouts())
        shared = _shared(self.seed, octaves), _blank(self.seed)
        kernels.arrange(_key(self.seed, "kinds", block), octaves, *shared, new, kinds, codes)

    def _choose(self, block: int, kinds: NDArray[np.uint8]) -> int:
        """Say what the first rows of a block are, as many as `kinds` has; return the new ones."""
        exact, near, blank = (
            np.uint64(round(share * (1 << 32)))
            for share in (self.duplicates, self.near, self.blanks)
        )
        return int(kernels.choose(_key(self.seed, "kinds", block), exact, near, blank, kinds))

    def _draw_block(self, rng: np.random.Generator) -> int:
        """Return a block that has rows which are not blank, longer ones more often."""
        block = 0
        for _ in range(_DRAWS):
            block = int(rng.integers(0, self.n)) // BLOCK
            if not self._is_blank(block):
                return block
        if self.blanks < 1:
            for other in chain(range(block, -(-self.n // BLOCK)), range(block)):
                if not self._is_blank(other):
                    return other
        raise UsageError("queries: the corpus has only blank rows")

    def _is_blank(self, block: int) -> bool:
        """Whether all rows of a block are blank; makes no codes."""
        kinds = np.empty(min(BLOCK, self.n - block * BLOCK), np.uint8)
        self._choose(block, kinds)
        return bool((kinds == BLANK).all())

    def _edges(self, block: int) -> NDArray[np.int64]:
        """Return where the contributions of a block begin, and where the last ends."""
        size = min(BLOCK, self.n - block * BLOCK)
        uniform = 1 - self._generator("contributions", block).random(size)
        drawn = np.minimum(_SMALLEST * uniform ** (-1 / _TAIL), _LARGEST).astype(np.int64)
        ends = np.cumsum(drawn)
        edges = [0, *ends[ends <= size - _SMALLEST].tolist()]
        if size - edges[-1] > _LARGEST:
            edges.append(edges[-1] + _SMALLEST)
        return np.array([*edges, size])

    def _records(self, block: int, low: int, high: int) -> pa.Table:
        edges = self._edges(block)
        rng = self._generator("records", block)
        n = len(edges) - 1
        weights = 1 / np.arange(1, len(AGENCIES) + 1)
        limits = np.cumsum(weights)[:-1] / weights.sum()
        agencies = np.searchsorted(limits, rng.random(n), side="right").astype(np.int8)
        days = _FIRST_DAY + rng.integers(0, _DAYS, n)
        categories = np.searchsorted(_CATEGORY_SHARES, rng.random(int(edges[-1])), side="right")
        rows = np.arange(low, high)
        mine = np.searchsorted(edges, rows, side="right") - 1
        names = pa.array([_name(block * BLOCK + edge) for edge in edges[:-1].tolist()], pa.string())
        keys = pc.utf8_lpad(pa.array(rows + block * BLOCK).cast(pa.string()), 13, "0")
        columns = [
            keys,
            names.take(pa.array(mine)),
            pa.DictionaryArray.from_arrays(agencies[mine], list(AGENCIES)),
            pa.DictionaryArray.from_arrays(categories[low:high].astype(np.int8), list(CATEGORIES)),
            pa.array(days[mine], pa.date32()),
        ]
        return pa.table(columns, _SCHEMA)

    def _generator(self, purpose: str, number: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, zlib.crc32(purpose.encode()), number])


def _check_share(name: str, value: Any) -> None:
    if not isinstance(value, int | float) or not 0 <= value <= 1:
        raise UsageError(f"{name}: expected a share, 0 to 1, got {value!r}")


def draw(fit: Fit, key: np.uint64, count: int, shared: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return `count` new codes as (count, 4) uint64, the first of however many `key` stands for."""
    codes = np.empty((count, 4), np.uint64)
    draw_into(codes, fit, key, shared)
    return codes


def draw_into(
    codes: NDArray[np.uint64], fit: Fit, key: np.uint64, shared: NDArray[np.uint64]
) -> None:
    """Fill `codes` as `draw` does."""
    noise = np.empty(kernels.BITS * kernels.TILE // 8, np.uint64)
    by_bit = noise.view(np.uint8).reshape(kernels.BITS, kernels.TILE)
    packed = np.empty((kernels.BITS // 8, kernels.TILE), np.uint8)
    numbers = fit.base, fit.parents, fit.weights, shared
    kernels.draw(key, *numbers, noise, by_bit, packed, codes)


def draw_layouts(fit: Fit) -> NDArray[np.uint64]:
    """Return a fit's layouts, (n_layouts, 4) uint64."""
    return draw(fit, np.uint64(0), fit.n_layouts, np.empty((0, 4), np.uint64))


@lru_cache(1)
def load_fit() -> Fit:
    """Return the numbers of ``corpora.npz``."""
    with np.load(FIT) as file:
        return Fit(file["base"], file["parents"], file["weights"], int(file["n_layouts"]))


@lru_cache(1)
def layouts() -> NDArray[np.uint64]:
    """Return the codes from which all others take some columns, the same for every seed."""
    return draw_layouts(load_fit())


@lru_cache(2)
def _shared(seed: int, octaves: int) -> NDArray[np.uint64]:
    """Return the codes that rows throughout the corpus repeat."""
    return draw(load_fit(), _key(seed, "shared", 0), 16 * ((1 << octaves) - 1), layouts())


@lru_cache(2)
def _blank(seed: int) -> NDArray[np.uint64]:
    return draw(load_fit(), _key(seed, "blanks", 0), _N_BLANKS, layouts())


def _octaves(n_repeats: float) -> int:
    """Return how many octaves of shared codes there are: the last come a few dozen times each."""
    return min(max(int(n_repeats / 2 / 64 / 16).bit_length(), 1), _MAX_OCTAVES)


def _key(seed: int, purpose: str, number: int) -> np.uint64:
    words = np.random.SeedSequence([seed, zlib.crc32(purpose.encode()), number])
    return np.uint64(words.generate_state(1, np.uint64)[0])


def _by_block(start: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """Yield (block, first row in it, end in it) of a range of rows."""
    for block in range(start // BLOCK, -(-stop // BLOCK) if stop > start else 0):
        origin = block * BLOCK
        yield block, max(start - origin, 0), min(stop - origin, BLOCK)


def _name(first_row: int) -> str:
    return f"C{first_row:013d}"
