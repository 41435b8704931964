"""Add, replace, commit, give up, reopen and search against a dictionary."""

import shutil
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from oracle import distances, flip, range_search

import nearsearch as ns
from nearsearch import plan
from nearsearch.store import transaction

# Few codes, near and equal ones among them, so that ties and duplicates are the rule.
_RNG = np.random.default_rng(7)
_BASE = _RNG.integers(0, 256, (4, 8), np.uint8)
CODES = np.array([flip(base, range(n)) for base in _BASE for n in (0, 1, 2, 5, 9, 30)])
QUALITIES = [-1, 10, 80]

# (key, (number of the code, its quality))
contents = st.tuples(st.integers(0, len(CODES) - 1), st.sampled_from(QUALITIES))
records = st.lists(st.tuples(st.integers(0, 9), contents), max_size=8)


class Machine(RuleBasedStateMachine):
    @initialize(flush=st.sampled_from([1, 5, 1 << 21]))
    def start(self, flush):
        self.root = Path(tempfile.mkdtemp()) / "index.ns"
        self.flush = transaction.FLUSH_MEMBERS
        transaction.FLUSH_MEMBERS = flush
        self.model: dict[tuple[str, str], tuple[tuple[int, int], str, int]] = {}
        self.uncommitted = dict(self.model)
        self.writer = ns.Writer.open(self.root, create=True, specs=["phash"])
        self.writer.commit()

    @rule(
        batch=records,
        contribution=st.sampled_from(["", "A", "B"]),
        source=st.sampled_from(["", "NL"]),
        note=st.sampled_from([None, 1, 2]),
    )
    def add(self, batch, contribution, source, note):
        keys = [f"k{key}" for key, _ in batch]
        numbers = np.array([number for _, (number, _) in batch], np.int64)
        qualities = np.array([quality for _, (_, quality) in batch], np.int64)
        metadata = None if note is None else pa.table({"note": pa.array([note] * len(batch))})
        call = {
            "keys": keys,
            "contribution": contribution,
            "source": source,
            "qualities": qualities,
            "metadata": metadata,
        }
        first = {key: content for key, (_, content) in zip(keys[::-1], batch[::-1], strict=True)}
        if any(first[key] != content for key, (_, content) in zip(keys, batch, strict=True)):
            with pytest.raises(ns.errors.DuplicateKeyError):
                self.writer.add_codes(CODES[numbers], **call)
            return
        report = self.writer.add_codes(CODES[numbers], **call)
        added = replaced = 0
        for key, content in first.items():
            new = (content, source, note)
            old = self.uncommitted.get((contribution, key))
            added += old is None
            replaced += old is not None and old != new
            self.uncommitted[contribution, key] = new
        assert (report.added, report.replaced) == (added, replaced)
        assert report.total == len(batch)

    @rule()
    def commit(self):
        before, changed = self.writer.generation, self.model != self.uncommitted
        after = self.writer.commit()
        assert after >= before + changed
        self.model = dict(self.uncommitted)

    @rule()
    def compact(self):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(plan, "MIN_RING_CODES", 4)
            self.writer.compact()
        self.model = dict(self.uncommitted)
        with ns.Index.open(self.root) as index:
            assert len(index.snapshot.shards) <= 1
            for shard in index.snapshot.shards:
                assert len(shard.dead_items) == len(shard.dead_members) == 0
                rows = shard.codes["phash"]
                assert (rows.ring is not None) == (len(rows.codes) >= 4)

    @rule(give_up=st.booleans())
    def reopen(self, give_up):
        if give_up:
            self.writer.close()
            self.uncommitted = dict(self.model)
        else:
            self.commit()
            self.writer.close()
        self.writer = ns.Writer.open(self.root)

    @rule(query=st.integers(0, len(CODES) - 1), radius=st.integers(0, 64))
    def search(self, query, radius):
        with ns.Index.open(self.root) as index:
            for min_quality in (0, 50):
                matches = index.search(CODES[[query]], radius, min_quality=min_quality)
                self.check(matches, query, radius, min_quality, lambda *_: True)
            matches = index.search(
                CODES[[query]], radius, min_quality=0, where='contribution == "A" and key != "k3"'
            )
            self.check(matches, query, radius, 0, lambda c, key, _: c == "A" and key != "k3")

    def check(self, matches, query, radius, min_quality, passes):
        gap = distances(CODES[[query]], CODES)[0]
        expected = sorted(
            (int(gap[number]), contribution, key, source, note)
            for (contribution, key), ((number, quality), source, note) in self.model.items()
            if gap[number] <= radius
            and (quality >= min_quality or quality < 0)
            and passes(contribution, key, source)
        )
        table = matches.to_arrow()
        notes = table["note"].to_pylist() if "note" in table.column_names else [None] * len(table)
        found = zip(
            table["distance"].to_pylist(),
            table["contribution"].to_pylist(),
            table["key"].to_pylist(),
            table["source"].to_pylist(),
            notes,
            strict=True,
        )
        assert sorted(found, key=repr) == sorted(expected, key=repr)
        # One match for each content that is alive: an item is stored once however often it came.
        assert len(matches) == len({self.model[c, k][0] for _, c, k, _, _ in expected})

    @invariant()
    def is_sound(self):
        if hasattr(self, "root"):
            assert ns.verify(self.root) == []
            with ns.Index.open(self.root) as index:
                stats = index.stats()
            assert stats["members"] == len(self.model)
            assert stats["items"] == len({content for content, _, _ in self.model.values()})

    def teardown(self):
        if hasattr(self, "root"):
            transaction.FLUSH_MEMBERS = self.flush
            self.writer.close()
            shutil.rmtree(self.root.parent)


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)


@settings(max_examples=25, deadline=None)
@given(
    spec=st.sampled_from(["phash", "pdq", "phash-576"]),
    n=st.sampled_from([0, 1, 2, 63, 64, 65, 300]),
    n_distinct=st.sampled_from([1, 3, 1000]),
    n_shards=st.integers(1, 4),
    seed=st.integers(0, 2**32 - 1),
    data=st.data(),
)
def test_search_equals_brute_force(spec, n, n_distinct, n_shards, seed, data):
    rng = np.random.default_rng(seed)
    known = ns.get_spec(spec)
    pool = rng.integers(0, 256, (n_distinct, known.code_bytes), np.uint8)
    for i in range(1, n_distinct, 2):
        pool[i] = flip(pool[i - 1], rng.integers(0, known.bits, 5))
    codes = pool[rng.integers(0, n_distinct, n)]
    radius = data.draw(st.sampled_from([0, 1, 5, 6, known.bits // 2, known.bits]))
    queries = np.concatenate([pool[:2], rng.integers(0, 256, (1, known.code_bytes), np.uint8)])
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "i.ns"
        for part in np.array_split(np.arange(n), n_shards):
            with ns.Writer.open(root, create=True, specs=[spec]) as writer:
                writer.add_codes(codes[part], keys=[f"{i:04d}" for i in part])
        with ns.Index.open(root) as index:
            table = index.search(queries, radius).to_arrow()
            one_by_one = [index.search(query, radius).to_arrow() for query in queries]
            limited = index.search(queries, radius, limit=2)
    found = zip(
        table["query_index"].to_pylist(),
        map(int, table["key"].to_pylist()),
        table["distance"].to_pylist(),
        strict=True,
    )
    assert sorted(found) == sorted(range_search(queries, codes, radius))
    assert pa.concat_tables(one_by_one)["key"].to_pylist() == table["key"].to_pylist()
    gap = distances(queries, np.unique(codes, axis=0).reshape(-1, known.code_bytes))
    for i in range(len(queries)):
        expected = sorted(gap[i][gap[i] <= radius])[:2]
        assert limited.distances[limited.offsets[i] : limited.offsets[i + 1]].tolist() == expected


@settings(max_examples=40, deadline=None)
@given(
    n=st.sampled_from([0, 1, 5, 200]),
    k=st.integers(1, 12),
    max_radius=st.sampled_from([None, 0, 3, 20, 64]),
    seed=st.integers(0, 2**32 - 1),
)
def test_nearest_equals_brute_force(n, k, max_radius, seed):
    rng = np.random.default_rng(seed)
    pool = rng.integers(0, 256, (50, 8), np.uint8)
    codes = np.array([flip(pool[i % 50], range(i // 50)) for i in range(n)]).reshape(-1, 8)
    codes = codes.astype(np.uint8)
    queries = np.concatenate([pool[:3], rng.integers(0, 256, (2, 8), np.uint8)])
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "i.ns"
        for part in np.array_split(np.arange(n), 2):
            with ns.Writer.open(root, create=True, specs=["phash"]) as writer:
                writer.add_codes(codes[part], keys=[f"{i:04d}" for i in part])
        with ns.Index.open(root) as index:
            matches = index.nearest(queries, k, max_radius)
            everything = index.search(queries, 64 if max_radius is None else max_radius, limit=k)
            filtered = index.nearest(queries, k, max_radius, where='key > "0099"')
    assert matches.offsets.tolist() == everything.offsets.tolist()
    assert matches.rows.tolist() == everything.rows.tolist()
    assert matches.distances.tolist() == everything.distances.tolist()
    gap = np.sort(distances(queries, codes), axis=1)
    for i, row in enumerate(gap):
        expected = [d for d in row if max_radius is None or d <= max_radius][:k]
        assert matches.distances[matches.offsets[i] : matches.offsets[i + 1]].tolist() == expected
        gap_filtered = np.sort(distances(queries[i : i + 1], codes[100:])[0])
        here = filtered.distances[filtered.offsets[i] : filtered.offsets[i + 1]].tolist()
        assert here == [d for d in gap_filtered if max_radius is None or d <= max_radius][:k]
