"""Everything that changes an index, and search, against a dictionary."""

import shutil
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from oracle import distances, flip, range_search

import nearsearch as ns
from nearsearch import plan
from nearsearch.store import log, shardset

# Few codes, near and equal ones among them, so that ties and duplicates are the rule.
_RNG = np.random.default_rng(7)
_BASE = _RNG.integers(0, 256, (4, 8), np.uint8)
CODES = np.array([flip(base, range(n)) for base in _BASE for n in (0, 1, 2, 5, 9, 30)])
QUALITIES = [-1, 10, 80]

# (key, (number of the code, its quality))
contents = st.tuples(st.integers(0, len(CODES) - 1), st.sampled_from(QUALITIES))
records = st.lists(st.tuples(st.integers(0, 9), contents), max_size=8)
contributions = st.sampled_from(["", "A", "B"])
sources = st.sampled_from(["", "NL"])
notes = st.sampled_from([None, 1, 2])


class Member(NamedTuple):
    """What a member says; `time` is the call that added it, later calls have larger ones."""

    number: int
    quality: int
    source: str
    note: int | None
    time: int

    @property
    def content(self) -> tuple[int, int]:
        return self.number, self.quality


class State(NamedTuple):
    """All that an index holds."""

    members: dict[tuple[str, str], Member]
    disabled: frozenset[tuple[str, str]] = frozenset()

    def shown(self) -> dict[tuple[str, str], Member]:
        return {
            (contribution, key): member
            for (contribution, key), member in self.members.items()
            if ("contribution", contribution) not in self.disabled
            and ("source", member.source) not in self.disabled
        }


class Machine(RuleBasedStateMachine):
    @initialize(
        flush=st.sampled_from([1, 5, 1 << 21]),
        small=st.sampled_from([0, 3, 1 << 13]),
        at_commit=st.sampled_from([0, 6, 1 << 16]),
    )
    def start(self, flush, small, at_commit):
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(shardset, "FLUSH_MEMBERS", flush)
        self.patch.setattr(plan, "SMALL_SHARD", small)
        self.patch.setattr(plan, "MOST_MERGED_AT_COMMIT", at_commit)
        self.patch.setattr(plan, "MIN_RING_CODES", 4)
        self.patch.setattr(log, "ENTRIES_A_FILE", 3)
        self.folder = Path(tempfile.mkdtemp())
        self.root = self.folder / "index.ns"
        self.clock = 0
        self.now = self.live = State({})
        self.history: dict[int, State] = {}
        self.erases = False
        self.writer = ns.Writer.open(self.root, create=True, specs=["phash"], author="me")
        self.done()
        self.reader = ns.Index.open(self.root)
        self.seen = self.live

    def done(self, commit=None):
        """Commit, and take note of what is live."""
        before = self.writer.generation
        has_changed = self.now != self.live or self.erases
        after = (commit or self.writer.commit)()
        assert after >= before + has_changed
        self.live = State(dict(self.now.members), self.now.disabled)
        if self.erases:
            names = {("contribution", c) for c, _ in self.live.members}
            names |= {("source", member.source) for member in self.live.members.values()}
            self.now = self.live = State(self.live.members, self.live.disabled & names)
            self.history.clear()
            self.erases = False
        for generation in range(before + 1, after + 1):  # the second one is for tidiness
            self.history[generation] = self.live

    def add_to(self, writer, state, batch, contribution, source, note):
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
                writer.add_codes(CODES[numbers], **call)
            return
        report = writer.add_codes(CODES[numbers], **call)
        added = replaced = duplicate = 0
        self.clock += 1
        known = {member.content for member in state.members.values()}
        for key in dict.fromkeys(keys):
            content = first[key]
            new = Member(*content, source, note, self.clock)
            old = state.members.get((contribution, key))
            duplicate += old is None and new.content in known
            added += old is None and new.content not in known
            known.add(new.content)
            if old is None or old[:-1] != new[:-1]:
                replaced += old is not None
                state.members[contribution, key] = new
        counts = (report.added, report.replaced, report.duplicate)
        assert counts == (added, replaced, duplicate)
        assert report.total == len(batch)

    @rule(batch=records, contribution=contributions, source=sources, note=notes)
    def add(self, batch, contribution, source, note):
        self.now = State(dict(self.now.members), self.now.disabled)
        self.add_to(self.writer, self.now, batch, contribution, source, note)

    @rule(
        by=st.sampled_from(["key", "contribution", "source", "where", "all"]),
        key=st.integers(0, 9),
        contribution=contributions,
        source=sources,
        erase=st.booleans(),
    )
    def remove(self, by, key, contribution, source, erase):
        call, passes = {
            "key": ({"keys": [f"k{key}", "no such"]}, lambda c, k, m: k == f"k{key}"),
            "contribution": (
                {"contribution": contribution},
                lambda c, k, m: c == contribution,
            ),
            "source": ({"source": source}, lambda c, k, m: m.source == source),
            "where": (
                {"where": f'key > "k{key}" and kind == "record"', "source": source},
                lambda c, k, m: k > f"k{key}" and m.source == source,
            ),
            "all": ({"where": 'key != ""'}, lambda c, k, m: True),
        }[by]
        kept = {ck: m for ck, m in self.now.members.items() if not passes(*ck, m)}
        removed = self.writer.remove(**call, erase=erase)
        assert removed == len(self.now.members) - len(kept)
        self.now = State(kept, self.now.disabled)
        self.erases |= erase

    @rule(what=st.sampled_from(["contribution", "source"]), name=st.sampled_from(["", "A", "NL"]))
    def disable(self, what, name):
        known = {c for c, _ in self.now.members}
        if what == "source":
            known = {member.source for member in self.now.members.values()}
        try:
            self.writer.disable(**{what: name})
        except ns.errors.UnknownNameError:
            assert name not in known
        else:
            self.now = State(self.now.members, self.now.disabled | {(what, name)})

    @rule(data=st.data())
    def enable(self, data):
        if self.now.disabled:
            what, name = data.draw(st.sampled_from(sorted(self.now.disabled)))
            self.writer.enable(**{what: name})
            self.now = State(self.now.members, self.now.disabled - {(what, name)})
        with pytest.raises(ns.errors.UnknownNameError):
            self.writer.enable(contribution="never disabled")

    @rule()
    def commit(self):
        self.done()

    @rule()
    def compact(self):
        self.done(self.writer.compact)
        with ns.Index.open(self.root) as index:
            assert len(index.snapshot.shards) <= 1
            for shard in index.snapshot.shards:
                assert not shard.tombstones.has_dead
                rows = shard.codes["phash"]
                assert (rows.ring is not None) == (len(rows.codes) >= 4)

    @rule(give_up=st.booleans())
    def reopen(self, give_up):
        if give_up:
            self.writer.close()
            self.now = State(dict(self.live.members), self.live.disabled)
            self.erases = False
        else:
            self.done()
            self.writer.close()
        self.writer = ns.Writer.open(self.root, author="someone else")

    @rule(data=st.data())
    def roll_back(self, data):
        self.done()
        with ns.Index.open(self.root) as index:
            kept = index.kept_generations()
        generation = data.draw(st.sampled_from(kept))
        with pytest.raises(ns.errors.GenerationNotKeptError):
            self.writer.rollback(kept[-1] + 1)
        if generation == 0:
            return  # before the first commit: the model has no such state
        self.writer.rollback(generation)
        state = self.history[generation]
        self.now = self.live = State(dict(state.members), state.disabled)
        self.history[self.writer.generation] = self.live

    @rule(
        batches=st.lists(st.tuples(records, contributions, sources, notes), min_size=1, max_size=3),
        disables=st.booleans(),
        is_newer=st.booleans(),
    )
    def merge(self, batches, disables, is_newer):
        other, theirs = self.folder / "other.ns", State({})
        clock = self.clock
        with ns.Writer.open(other, create=True, specs=["phash"]) as writer:
            for batch in batches:
                self.add_to(writer, theirs, *batch)
                writer.commit()
            if disables and any(c == "A" for c, _ in theirs.members):
                writer.disable(contribution="A")
                theirs = State(theirs.members, frozenset([("contribution", "A")]))
        self.now = State(dict(self.now.members), self.now.disabled)
        if not is_newer:  # something of ours is later than theirs
            self.add_to(self.writer, self.now, [(3, (1, 80)), (4, (2, 10))], "A", "", None)
        for repeated in (False, True):
            report = self.writer.merge(other)
            added = replaced = left_out = 0
            for name, member in theirs.members.items():
                old = self.now.members.get(name)
                added += old is None
                replaced += old is not None and old.time < member.time
                left_out += old is not None and old.time > member.time
                if old is None or old.time < member.time:
                    self.now.members[name] = member
            assert (report.added, report.replaced, report.left_out) == (added, replaced, left_out)
            assert report.total == len(theirs.members)
            assert len(report.examples) == min(10, replaced + left_out)
            assert not (repeated and (added or replaced))
        self.now = State(self.now.members, self.now.disabled | theirs.disabled)
        assert clock <= self.clock
        shutil.rmtree(other)

    @rule(query=st.integers(0, len(CODES) - 1), radius=st.integers(0, 64))
    def search(self, query, radius):
        with ns.Index.open(self.root, check="full") as index:
            self.check_index(index, self.live, query, radius)

    @rule(query=st.integers(0, len(CODES) - 1), radius=st.integers(0, 64), refresh=st.booleans())
    def search_of_an_open_index(self, query, radius, refresh):
        if refresh:
            moved = self.reader.generation != self.writer.generation
            assert self.reader.refresh() == moved
            self.seen = self.live
        self.check_index(self.reader, self.seen, query, radius)

    @rule(query=st.integers(0, len(CODES) - 1), data=st.data())
    def search_of_an_earlier_generation(self, query, data):
        with ns.Index.open(self.root) as index:
            kept = index.kept_generations()
        assert kept[-1] == self.writer.generation
        generation = data.draw(st.sampled_from(kept))
        with ns.Index.open(self.root, generation=generation) as index:
            assert index.generation == generation
            if generation:
                self.check_index(index, self.history[generation], query, 20)
        with pytest.raises(ns.errors.GenerationNotKeptError):
            ns.Index.open(self.root, generation=kept[-1] + 1)

    def check_index(self, index, state, query, radius):
        for min_quality in (0, 50):
            matches = index.search(CODES[[query]], radius, min_quality=min_quality)
            self.check(matches, state, query, radius, min_quality, lambda *_: True)
        where = 'contribution == "A" and key != "k3"'
        matches = index.search(CODES[[query]], radius, min_quality=0, where=where)
        self.check(matches, state, query, radius, 0, lambda c, key: c == "A" and key != "k3")

    def check(self, matches, state, query, radius, min_quality, passes):
        gap = distances(CODES[[query]], CODES)[0]
        expected = sorted(
            (int(gap[member.number]), contribution, key, member.source, member.note)
            for (contribution, key), member in state.shown().items()
            if gap[member.number] <= radius
            and (member.quality >= min_quality or member.quality < 0)
            and passes(contribution, key)
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
        assert set(table["generation"].to_pylist()) <= {matches.generation}
        # One match for each content that is alive: an item is stored once however often it came.
        assert len(matches) == len({state.members[c, k].content for _, c, k, _, _ in expected})
        groups = matches.by_contribution().to_pylist()
        nearest = {c: d for d, c, *_ in reversed(expected)}
        assert [(g["distance"], g["contribution"]) for g in groups] == sorted(
            (d, c) for c, d in nearest.items()
        )
        for group in groups:
            own = [(c, k) for _, c, k, _, _ in expected if c == group["contribution"]]
            assert group["members"] == len(own)
            assert group["items"] == len({state.members[name].content for name in own})

    @invariant()
    def is_sound(self):
        if not hasattr(self, "root"):
            return
        assert ns.verify(self.root) == []
        members = self.live.members
        with ns.Index.open(self.root) as index:
            stats, listed = index.stats(), index.contributions().to_pylist()
            commits = index.log()
        assert stats["members"] == len(members)
        assert stats["items"] == len({member.content for member in members.values()})
        shown = self.live.shown()
        assert stats["disabled_members"] == len(members) - len(shown)
        assert [row["contribution"] for row in listed] == sorted({c for c, _ in members})
        for row in listed:
            own = {ck: m for ck, m in members.items() if ck[0] == row["contribution"]}
            assert row["members"] == len(own)
            assert row["items"] == len({member.content for member in own.values()})
            assert row["sources"] == sorted({member.source for member in own.values()})
            assert row["disabled"] == (not own.keys() & shown.keys())
            assert row["first_added"] <= row["last_added"]
        assert [commit.generation for commit in commits] == list(range(1, stats["generation"] + 1))
        assert commits[-1].members == len(members)

    def teardown(self):
        if hasattr(self, "root"):
            self.patch.undo()
            self.writer.close()
            self.reader.close()
            shutil.rmtree(self.folder)


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
