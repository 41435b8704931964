"""Corpora: the same rows in any parts, as real codes are spread, with known truth."""

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import nearsearch as ns
from nearsearch import corpora
from nearsearch.corpora import BLANK, BLOCK, EXACT, NEAR, NEW, Corpus
from nearsearch.errors import UsageError

COMMAND = Path(__file__).parents[2] / "data" / "synthetic" / "codes.py"
N = 2 * BLOCK + 1000
WHOLE = Corpus(N, seed=3)


@pytest.fixture(scope="module")
def whole():
    return WHOLE.codes(), WHOLE.kinds(), WHOLE.items()


@pytest.fixture(scope="module")
def new():
    """Codes as they are drawn, without repeats."""
    return Corpus(12 * BLOCK, seed=9, duplicates=0, near=0, blanks=0).codes()


def distance(a, b):
    return np.bitwise_count(a ^ b).sum(axis=-1, dtype=int)


@given(st.integers(0, N), st.integers(0, N))
@example(0, 0)
@example(0, 1)
@example(0, BLOCK - 1)
@example(1, BLOCK)
@example(BLOCK - 1, BLOCK + 1)
@example(BLOCK, 2 * BLOCK + 1)
@example(N, N)
@settings(deadline=None, max_examples=25)
def test_any_part_is_that_of_the_whole(whole, a, b):
    first, stop = sorted((a, b))
    codes, kinds, items = whole
    np.testing.assert_array_equal(WHOLE.codes(first, stop - first), codes[first:stop])
    np.testing.assert_array_equal(WHOLE.kinds(first, stop - first), kinds[first:stop])
    assert WHOLE.items(first, stop - first).equals(items.slice(first, stop - first))


@pytest.mark.parametrize("size", [1000, BLOCK - 1, BLOCK, BLOCK + 1, N, N + 1])
def test_blocks_are_the_whole(whole, size):
    parts = list(WHOLE.blocks(size))
    assert [first for first, _ in parts] == list(range(0, N, size))
    np.testing.assert_array_equal(np.concatenate([codes for _, codes in parts]), whole[0])


def test_a_corpus_is_its_fields(whole):
    assert (Corpus(N, seed=3).codes() == whole[0]).all()
    assert (Corpus(N, seed=4).codes() != whole[0]).any(axis=1).mean() > 0.99
    assert whole[0].shape == (N, 32)
    assert whole[0].dtype == np.uint8
    assert whole[0].flags.writeable


@pytest.mark.parametrize("n", [0, 1, 2, 3, 5001])
def test_small_corpora(n):
    corpus = Corpus(n)
    assert corpus.codes().shape == (n, 32)
    assert corpus.items().num_rows == n
    assert sum(count for _, count, _ in corpus.contributions()) == n


def test_the_far_end_of_a_huge_corpus():
    corpus = Corpus(10**12, seed=1)
    assert corpus.codes(10**12 - 3).shape == (3, 32)
    assert corpus.items(10**12 - 3)["key"].to_pylist()[-1] == "0999999999999"


def test_bits_are_as_fitted(new):
    with np.load(corpora.FIT) as fit:
        mean, covariance, parents = fit["mean"], fit["covariance"], fit["parents"]
    bits = np.unpackbits(new, axis=1).astype(np.float32)
    ours = bits.mean(axis=0)
    assert abs(ours - mean).max() < 0.012
    products = bits.T @ bits / len(bits) - np.outer(ours, ours)
    error = np.take_along_axis(products, parents, axis=1)[8:] - covariance[8:]
    assert np.sqrt((error**2).mean()) < 0.015 * 0.25
    assert (np.bitwise_count(new).sum(axis=1) == 128).all()


def test_distances_are_those_of_real_codes(new):
    # Of the real codes: 128.0 +- 8.27, 5.6e-5 of pairs within 88 bits, 3.1e-4 within 96.
    words = np.ascontiguousarray(new).view(np.uint64)[::13]
    found = np.concatenate([distance(words[i], words[i + 1 :]) for i in range(800)])
    assert abs(found.mean() - 128) < 0.2
    assert 8.15 < found.std() < 8.35
    assert 2.5e-5 < (found <= 88).mean() < 1.2e-4
    assert 1.5e-4 < (found <= 96).mean() < 5e-4


def test_shares(whole):
    codes, kinds, _ = whole
    share = np.bincount(kinds, minlength=4) / N
    assert share[[EXACT, NEAR, BLANK, NEW]] == pytest.approx([0.2, 0.2, 0.01, 0.59], abs=0.012)
    repeats, counts = np.unique(codes[kinds != BLANK].view("V32").ravel(), return_counts=True)
    assert 1 - len(repeats) / (kinds != BLANK).sum() == pytest.approx(0.2, abs=0.02)
    assert counts.max() > 50
    assert np.median(counts[counts > 1]) <= 3
    assert len(np.unique(codes[kinds == BLANK], axis=0)) == 8


def test_codes_that_come_throughout_have_a_heavy_tail():
    codes = Corpus(16 * BLOCK, seed=2, duplicates=0.5, near=0, blanks=0).codes()
    counts = np.unique(codes.view("V32").ravel(), return_counts=True)[1]
    sizes = [(counts >= size).sum() for size in (2, 20, 100, 400)]
    assert sizes[0] > 4 * sizes[1] > 8 * sizes[2] > 16 * sizes[3] > 0


def test_planted_neighbours(whole):
    found = WHOLE.queries(500, 31, seed=1)
    rows, codes = found.rows, whole[0]
    np.testing.assert_array_equal(distance(found.codes, codes[rows]), found.distances)
    assert set(found.distances.tolist()) == set(range(32))
    assert (whole[1][rows] != BLANK).all()
    truth = found.to_arrow()
    assert truth.column_names == ["query", "row", "distance"]
    assert truth["row"].to_pylist() == rows.tolist()
    assert (WHOLE.queries(500, 31, seed=1).codes == found.codes).all()
    assert (WHOLE.queries(500, 31, seed=2).rows != rows).any()
    assert WHOLE.queries(0, 31).codes.shape == (0, 32)


@pytest.mark.parametrize("is_blank", [True, False])
def test_queries_are_spread_where_the_last_block_is_one_row(is_blank):
    made = (Corpus(BLOCK + 1, seed, blanks=0.5) for seed in range(100))
    corpus = next(c for c in made if (c.kinds(BLOCK)[0] == BLANK) == is_blank)
    rows = np.concatenate([corpus.queries(1000, 31, seed=seed).rows for seed in range(3)])
    assert (rows == BLOCK).sum() <= (0 if is_blank else 50)
    assert np.histogram(rows, 8, (0, BLOCK))[0].min() > 300
    assert np.unique(rows, return_counts=True)[1].max() <= 50


def test_queries_pass_over_blocks_of_blank_rows():
    corpus = Corpus(16 * BLOCK + 1, seed=1, duplicates=0, near=0, blanks=0.99995)
    usable = np.flatnonzero(corpus.kinds() != BLANK)
    blocks = set((usable // BLOCK).tolist())
    assert 1 < len(blocks) < 16
    rows = corpus.queries(1000, 31).rows
    assert set(rows.tolist()) <= set(usable.tolist())
    assert set((rows // BLOCK).tolist()) == blocks


def test_queries_find_the_only_row_that_is_not_blank(monkeypatch):
    monkeypatch.setattr(corpora, "_DRAWS", 1)
    made = (Corpus(20 * BLOCK, seed, blanks=1 - 3e-6, duplicates=0, near=0) for seed in range(100))
    corpus = next(c for c in made if (c.kinds() != BLANK).sum() == 1)
    assert set(corpus.queries(100, 31).rows) == set(np.flatnonzero(corpus.kinds() != BLANK))


def test_strangers_have_no_neighbour(whole):
    strangers = WHOLE.strangers(50)
    assert min(distance(code, whole[0]).min() for code in strangers) > 45
    assert (WHOLE.strangers(50, seed=1) != strangers).any()
    assert (WHOLE.strangers(20) == strangers[:20]).all()


@pytest.mark.parametrize("n", [N, BLOCK + 1, BLOCK + 2, 4 * BLOCK])
def test_contributions(n):
    corpus = Corpus(n, seed=5)
    runs, items = corpus.contributions(), corpus.items()
    assert [first for first, _, _ in runs] == [0, *np.cumsum([c for _, c, _ in runs])[:-1].tolist()]
    sizes = np.array([count for first, count, _ in runs if first < n - 1])
    assert sizes.min() >= 2
    assert sizes.max() <= 5000
    expected = [name for _, count, name in runs for _ in range(count)]
    assert items["contribution"].to_pylist() == expected
    assert len({name for _, _, name in runs}) == len(runs)
    assert len(set(items["key"].to_pylist())) == n
    for column in ("agency", "uploaded"):
        pairs = zip(expected, items[column].to_pylist(), strict=True)
        assert len(set(pairs)) == len(runs)
    cut = corpus.contributions(10, 50)
    assert (cut[0][0], cut[-1][0] + cut[-1][1]) == (10, 60)


def test_contributions_have_a_heavy_tail_and_agencies_are_skewed():
    corpus = Corpus(40 * BLOCK, seed=6)
    sizes = np.array([count for _, count, _ in corpus.contributions()])
    assert np.median(sizes) < 10
    assert (sizes > 1000).sum() > 10
    agencies = pa.chunked_array([a.dictionary_decode() for a in corpus.items()["agency"].chunks])
    counts = {row["values"]: row["counts"] for row in agencies.value_counts().to_pylist()}
    assert set(counts) == set(corpora.AGENCIES)
    assert counts["agency-01"] > 5 * counts["agency-22"]


def test_an_index_of_a_corpus_finds_what_was_planted(tmp_path):
    corpus = Corpus(3000, seed=8)
    codes, items = corpus.codes(), corpus.items()
    with ns.Writer.open(tmp_path / "i.ns", create=True) as writer:
        for first, count, name in corpus.contributions():
            rows = slice(first, first + count)
            part = items.slice(first, count)
            metadata = part.select(["agency", "category", "uploaded"])
            keys = part["key"]
            writer.add_codes(codes[rows], keys=keys, contribution=name, metadata=metadata)
    queries = corpus.queries(100, 31)
    with ns.Index.open(tmp_path / "i.ns") as index:
        hits = index.search(queries.codes, 31).to_arrow()
    found = set(zip(*(hits[c].to_pylist() for c in ("query", "key", "distance")), strict=True))
    keys = items["key"].to_pylist()
    for row in queries.to_arrow().to_pylist():
        assert any(key == keys[row["row"]] and d == row["distance"] for _, key, d in found)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Corpus(-1), "n: expected 0 to"),
        (lambda: Corpus(1.5), "n: expected a whole number"),
        (lambda: Corpus(1, seed=-1), "seed: expected 0 to"),
        (lambda: Corpus(1, near=1.5), "near: expected a share"),
        (lambda: Corpus(1, blanks="x"), "blanks: expected a share"),
        (lambda: Corpus(1, duplicates=float("nan")), "duplicates: expected a share"),
        (lambda: Corpus(1, duplicates=0.9, near=0.2), "a sum of 1 at most, got 1.11"),
        (lambda: Corpus(10).codes(11), "first: expected 0 to 10"),
        (lambda: Corpus(10).codes(5, 6), "count: expected 0 to 5"),
        (lambda: Corpus(10).items(5, 6), "count: expected 0 to 5"),
        (lambda: list(Corpus(10).blocks(0)), "size: expected 1 to"),
        (lambda: Corpus(10).queries(1, 257), "radius: expected 0 to 256"),
        (lambda: Corpus(0).queries(1, 31), "no rows"),
        (lambda: Corpus(9, duplicates=0, near=0, blanks=1).queries(1, 31), "only blank rows"),
        (
            lambda: Corpus(3 * BLOCK, duplicates=0, near=0, blanks=1 - 1e-9).queries(1, 31),
            "only blank rows",
        ),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(UsageError, match=message):
        make()


def run(*arguments):
    command = [sys.executable, COMMAND, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_command_writes_files_that_others_open(tmp_path):
    done = run(
        "--rows", "2e4", "--seed", 4, "--queries", 30, "--strangers", 5, "--out", tmp_path, "--json"
    )
    assert done.returncode == 0, done.stderr
    summary, corpus = json.loads(done.stdout), Corpus(20_000, seed=4)
    assert summary["rows"] == 20_000
    np.testing.assert_array_equal(np.load(tmp_path / "codes.npy"), corpus.codes())
    assert pa.ipc.open_file(tmp_path / "items.arrow").read_all().equals(corpus.items())
    queries = np.load(tmp_path / "queries.npy")
    assert queries.shape == (35, 32)
    truth = pa.ipc.open_file(tmp_path / "truth.arrow").read_all()
    rows, distances = truth["row"].to_numpy(), truth["distance"].to_numpy()
    np.testing.assert_array_equal(distance(queries[:30], corpus.codes()[rows]), distances)
    again = run("--rows", "10", "--out", tmp_path)
    assert again.returncode == 2
    assert "exists" in again.stderr


def test_what_was_there_is_refused_or_replaced_whole(tmp_path):
    first = run("--rows", 50, "--out", tmp_path)
    assert first.returncode == 0, first.stderr
    (tmp_path / "codes.npy").unlink()
    (tmp_path / "queries.npy").unlink()
    (tmp_path / "truth.arrow").unlink()
    refused = run("--rows", 10, "--out", tmp_path, "--no-items")
    assert refused.returncode == 2
    assert "items.arrow exists" in refused.stderr
    wrong = run("--rows", 10, "--out", tmp_path, "--no-items", "--force", "--radius", 999)
    assert wrong.returncode == 2
    assert (tmp_path / "items.arrow").exists()
    replaced = run("--rows", 10, "--out", tmp_path, "--no-items", "--force", "--json")
    assert replaced.returncode == 0, replaced.stderr
    written = {path.name for path in tmp_path.iterdir()}
    assert (
        written
        == {"codes.npy", "queries.npy", "truth.arrow"}
        == set(json.loads(replaced.stdout)["bytes"])
    )


@pytest.fixture
def command():
    spec = importlib.util.spec_from_file_location("codes_command", COMMAND)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_files_that_are_replaced_count_as_free(command, tmp_path, monkeypatch, capsys):
    usage = shutil.disk_usage(tmp_path)
    arguments = ["codes.py", "--rows", "1000", "--out", str(tmp_path), "--no-items", "--json"]
    monkeypatch.setattr(sys, "argv", arguments)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=31_999))
    assert command.main() == 2
    assert "about 32,000 bytes are needed, 31,999 are free" in capsys.readouterr().err
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=32_000))
    assert command.main() == 0
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=0))
    monkeypatch.setattr(sys, "argv", [*arguments, "--force"])
    assert command.main() == 0


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("1e9", 10**9),
        ("2.5e3", 2500),
        ("9007199254740993", 9007199254740993),
        ("9007199254740993.0", 9007199254740993),
        (str((1 << 63) - 1), (1 << 63) - 1),
        ("-1", -1),
    ],
)
def test_whole_numbers_are_read_exactly(command, text, value):
    assert command.number(text) == value


@pytest.mark.parametrize(
    "text", ["inf", "-inf", "nan", "1.5", "1e-3", "x", "", "1e999999999", "9" * 5000]
)
def test_what_is_no_whole_number_is_refused(command, monkeypatch, capsys, text):
    monkeypatch.setattr(sys, "argv", ["codes.py", f"--rows={text}", "--out", "unused"])
    with pytest.raises(SystemExit) as stopped:
        command.main()
    assert stopped.value.code == 2
    assert "argument --rows: expected a whole number" in capsys.readouterr().err
