"""Adding, opening and describing: how long the store takes around a search.

Where the temporary folder lies decides what durable means: give `--basetemp` on a real disk.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest

from nearsearch import Index, Writer, plan
from nearsearch.synthetic import plant_neighbours, random_codes

if TYPE_CHECKING:
    from pathlib import Path

BITS = 256
MILLION = 1_000_000
CLUSTER = 10_000  # codes within the default radius of code 0
SHARDS, CODES_A_SHARD = 100, 100


@pytest.fixture(scope="module")
def codes() -> np.ndarray:
    """A million uniform codes; the last `CLUSTER` lie 16 to 31 bits from code 0."""
    made = random_codes(MILLION, BITS, seed=5)
    near = np.repeat(made[:1], CLUSTER, axis=0)
    made[-CLUSTER:] = plant_neighbours(near, 16 + np.arange(CLUSTER) % 16, seed=6)
    return made


@pytest.fixture(scope="module")
def keys() -> pa.Array:
    return pa.array(np.arange(MILLION)).cast(pa.large_string())


@pytest.fixture(scope="module")
def million(tmp_path_factory: pytest.TempPathFactory, codes: np.ndarray, keys: pa.Array) -> Path:
    root = tmp_path_factory.mktemp("store") / "million.ns"
    with Writer.open(root, create=True) as writer:
        writer.add_codes(codes, keys=keys)
    return root


# --- adding -----------------------------------------------------------------------------------


def test_add(bench: Any, tmp_path: Path, codes: np.ndarray, keys: pa.Array) -> None:
    """Add and commit a million codes to a new index, durably: until it is on the disk."""
    root = tmp_path / "new.ns"

    def add(_: int) -> int:
        with Writer.open(root, create=True) as writer:
            return writer.add_codes(codes, keys=keys).added

    answers, _ = bench(
        add,
        prepare=lambda _: shutil.rmtree(root, ignore_errors=True),
        rounds=3,
        note=_codes_a_second,
    )
    assert set(answers) == {MILLION}
    _assert_holds(root, MILLION)


def test_add_again(bench: Any, million: Path, codes: np.ndarray, keys: pa.Array) -> None:
    """Add what is there already: nothing changes, not even the generation."""
    before = _assert_holds(million, MILLION)

    def add(_: int) -> int:
        with Writer.open(million) as writer:
            report = writer.add_codes(codes, keys=keys)
        assert report.added == report.replaced == 0
        return report.unchanged

    answers, _ = bench(add, rounds=3, note=_codes_a_second)
    assert set(answers) == {MILLION}
    assert _assert_holds(million, MILLION) == before


def _codes_a_second(seconds: float) -> str:
    return f"{MILLION / seconds / 1e6:.2f} M codes/s"


def _assert_holds(root: Path, count: int) -> int:
    """Assert the counts of an index, opened anew, and return its generation."""
    with Index.open(root) as index:
        stats = index.stats()
        assert stats["items"] == stats["members"] == stats["specs"]["pdq"]["codes"] == count
        return index.generation


# --- opening ----------------------------------------------------------------------------------


def test_open(bench: Any, million: Path, codes: np.ndarray) -> None:
    _time_open(bench, million, codes[MILLION // 2], shards=1)


def test_open_100_shards(bench: Any, many_shards: Path) -> None:
    code = random_codes(CODES_A_SHARD, BITS, seed=SHARDS - 1)[0]
    _time_open(bench, many_shards, code, shards=SHARDS)


@pytest.fixture(scope="module")
def many_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hundred commits of a hundred codes, never compacted."""
    root = tmp_path_factory.mktemp("store") / "shards.ns"
    patch = pytest.MonkeyPatch()
    for name in ("SMALL_SHARD", "MOST_MERGED_AT_COMMIT", "MOST_MERGED"):
        patch.setattr(plan, name, 0)  # or commits would merge them
    with Writer.open(root, create=True) as writer:
        for seed in range(SHARDS):
            writer.add_codes(random_codes(CODES_A_SHARD, BITS, seed=seed))
            writer.commit()
    patch.undo()
    _assert_holds(root, SHARDS * CODES_A_SHARD)
    return root


def _time_open(bench: Any, root: Path, code: np.ndarray, shards: int) -> None:
    """Time the opening alone, then see that it is really open."""
    answers, _ = bench(lambda _: Index.open(root), rounds=100 if shards == 1 else 30)
    assert answers[0].stats()["shards"] == shards
    for index in answers[:: len(answers) // 2 or 1]:
        assert index.search(code, 0).distances.tolist() == [0]
    for index in answers:
        index.close()


def test_open_and_search(bench: Any, million: Path, codes: np.ndarray) -> None:
    """Open, one query, close: what a short-lived process pays after its imports."""

    def ask(turn: int) -> list[int]:
        with Index.open(million) as index:
            return index.search(codes[turn], 0).distances.tolist()

    answers, _ = bench(ask, rounds=40)
    assert all(answer == [0] for answer in answers)


# --- describing -------------------------------------------------------------------------------


def test_to_arrow(bench: Any, million: Path, codes: np.ndarray) -> None:
    """Turn 10,000 matches of one query into a table, with all that is known of each."""
    with Index.open(million) as index:
        matches = index.search(codes[0], 31)
        answers, _ = bench(
            lambda _: matches.to_arrow(),
            rounds=25,
            note=lambda seconds: f"{1e6 * seconds / len(matches):.2f} us a match",
        )
    wanted = [0, *range(MILLION - CLUSTER, MILLION)]
    for table in answers:
        assert np.array_equal(np.sort(table["key"].cast(pa.int64()).to_numpy()), wanted)
    table = answers[0]
    apart = np.bitwise_count(codes[table["key"].cast(pa.int64()).to_numpy()] ^ codes[0])
    assert np.array_equal(table["distance"].to_numpy(), apart.sum(axis=1))
