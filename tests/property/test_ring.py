"""The ring finds exactly what brute force finds, whatever the codes, bands and thresholds."""

import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import flip, range_search

import nearsearch as ns
from nearsearch import plan
from nearsearch.errors import RingWarning
from nearsearch.kernels import ring as kernels
from nearsearch.store import fs
from nearsearch.store import ring as rings
from nearsearch.store.manifest import File

EVEN_BITS = st.sampled_from([64, 128, 256])


SCRATCH = np.zeros((3, kernels.SCRATCH), np.int64)


def make_codes(rng, n, bits, kind):
    """Distinct codes: even, skewed (some bits nearly constant), clustered, of even weight."""
    codes = rng.integers(0, 256, (n, bits // 8), np.uint8)
    if kind == "skewed":
        mask = np.unpackbits(rng.integers(0, 256, bits // 8, np.uint8)).astype(bool)
        unpacked = np.unpackbits(codes, axis=1)
        unpacked[:, mask] = rng.random((n, mask.sum())) < 0.02
        codes = np.packbits(unpacked, axis=1)
    elif kind == "clustered" and n:
        centres = codes[: max(1, n // 50)]
        codes = np.array(
            [flip(centres[i % len(centres)], rng.integers(0, bits, i % 40)) for i in range(n)]
        )
    elif kind == "even weight":
        odd = np.unpackbits(codes, axis=1).sum(axis=1) & 1
        codes[:, -1] ^= odd.astype(np.uint8)
    return np.unique(codes, axis=0).reshape(-1, bits // 8)


def build(folder, codes):
    written = rings.write(folder, "x", codes)
    return {rings.role("x", p): File(rings.file_name("x", p), *w) for p, w in written.items()}


def probe(ring, codes, queries, radius, costs=(1.0, 1.0, np.inf), room=10_000):
    """Call the kernel as `search` does; never leaves a query to the scan unless it must."""
    out = np.empty(room, np.int64), np.empty(room, np.int64), np.empty(room, np.uint16)
    state = np.zeros(len(queries), np.uint8)
    found, first = [], 0
    while first < len(queries):
        count = kernels.search(
            queries, ring.table, ring.layout, ring.offsets, ring.postings, codes.view("<u8"),
            radius, ring.parity, np.array(costs), first, SCRATCH, *out, state,
        )  # fmt: skip
        found += zip(*(column[:count].tolist() for column in out), strict=True)
        first = len(queries) if state[-1] else first + int(np.argmin(state[first:]))
    return found, state


def truth(queries, codes, radius):
    return [(q, c, d) for q, c, d in range_search(queries, codes, radius)]


@settings(max_examples=60, deadline=None)
@given(
    bits=EVEN_BITS,
    n=st.sampled_from([1, 2, 63, 64, 65, 1000, 4000]),
    kind=st.sampled_from(["even", "skewed", "clustered", "even weight"]),
    fraction=st.sampled_from([0.0, 0.004, 0.02, 0.06, 0.12, 0.2]),
    seed=st.integers(0, 2**32 - 1),
)
def test_ring_equals_brute_force(bits, n, kind, fraction, seed):
    rng = np.random.default_rng(seed)
    codes = make_codes(rng, n, bits, kind)
    radius = round(fraction * bits)
    near = [
        flip(codes[i % len(codes)], rng.permutation(bits)[: i % (radius + 2)]) for i in range(9)
    ]
    queries = np.concatenate([codes[:2], near, rng.integers(0, 256, (2, bits // 8), np.uint8)])
    with tempfile.TemporaryDirectory() as folder:
        files = build(Path(folder), codes)
        ring = rings.open_ring(Path(folder), files, "x", len(codes), bits)
    if kind == "even weight":
        assert ring.parity == 0
    expected = truth(queries, codes, radius)
    found, state = probe(ring, codes, queries, radius)
    answered = set(np.flatnonzero(state == 1).tolist())
    assert len(found) == len(set(found))  # each match comes once
    assert set(found) == {match for match in expected if match[0] in answered}
    # A query is left to the scan only where thresholds up to 4 cannot reach the radius.
    if radius + 1 <= (kernels.MAX_THRESHOLD + 1) * min(len(ring.layout), 8):
        assert answered == set(range(len(queries)))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), room=st.integers(1, 40))
def test_small_output_is_filled_again_and_again(seed, room):
    rng = np.random.default_rng(seed)
    codes = make_codes(rng, 300, 64, "clustered")
    with tempfile.TemporaryDirectory() as folder:
        files = build(Path(folder), codes)
        ring = rings.open_ring(Path(folder), files, "x", len(codes), 64)
    queries = codes[:40]
    found, state = probe(ring, codes, queries, 8, room=room)
    expected = truth(queries, codes, 8)
    per_query = np.bincount([q for q, _, _ in expected], minlength=len(queries))
    # Only a query with more matches than the whole output is left to the scan.
    assert (state == np.where(per_query > room, 2, 1)).all()
    assert sorted(found) == sorted(m for m in expected if per_query[m[0]] <= room)


def random_widths(rng, bits):
    widths = []
    while sum(widths) < bits:
        widths.append(int(rng.integers(1, 15)))
    widths[-1] -= sum(widths) - bits
    return widths if widths[-1] > 0 else random_widths(rng, bits)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), radius=st.integers(0, 14))
def test_any_bands_and_any_thresholds(seed, radius):
    """Random costs make the planner choose any thresholds that reach the radius."""
    rng = np.random.default_rng(seed)
    widths = random_widths(rng, 64)
    codes = make_codes(rng, 500, 64, "clustered")
    ring = in_memory(codes, widths, rng.permutation(64), longest_chain=int(rng.integers(1, 33)))
    queries = np.array([flip(codes[i], rng.permutation(64)[: i % 15]) for i in range(20)])
    costs = (float(rng.random()), float(rng.random() * 50), np.inf)
    found, state = probe(ring, codes, queries, radius, costs)
    assert (state == 1).all()
    assert sorted(found) == sorted(truth(queries, codes, radius))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), radius=st.integers(0, 14), limit=st.floats(0, 5000))
def test_a_query_that_turns_out_dear_is_left_to_the_scan_whole(seed, radius, limit):
    """Clusters fill buckets more than estimated; no half of such an answer may remain."""
    rng = np.random.default_rng(seed)
    codes = make_codes(rng, 500, 64, "clustered")
    ring = in_memory(codes, [16] * 4, rng.permutation(64))
    queries = np.array([flip(codes[i], rng.permutation(64)[: i % 15]) for i in range(20)])
    found, state = probe(ring, codes, queries, radius, (1.0, 5.0, limit))
    expected = [match for match in truth(queries, codes, radius) if state[match[0]] == 1]
    assert sorted(found) == sorted(expected)
    assert set(state.tolist()) <= {1, 2}


def in_memory(codes, widths, permutation, longest_chain=32):
    """A ring by the slow, obvious way: sort the keys of each band. Short chains, as rings of very
    many codes have them, must be as right as long ones."""
    n, bits = len(codes), 8 * codes.shape[1]
    layout, table = rings._layout(widths, n), rings._table(permutation, bits)
    layout[:, 3] = np.minimum(layout[:, 3], longest_chain)
    row_bits = np.uint64((n - 1).bit_length())
    unpacked = np.unpackbits(codes, axis=1)[:, permutation].astype(np.uint64)
    offsets, postings = [], []
    for start, width, _, n_chain in layout:
        places = np.arange(start, start + width)
        key = (unpacked[:, places] << np.arange(width, dtype=np.uint64)).sum(axis=1)
        chain_places = (start + width + np.arange(n_chain)) % bits
        shifts = np.arange(len(chain_places), dtype=np.uint64)
        chain = (unpacked[:, chain_places] << shifts).sum(axis=1)
        order = np.argsort(key, kind="stable")
        offsets.append(np.searchsorted(key[order], np.arange(2**width + 1, dtype=np.uint64)))
        posting = order.astype(np.uint64) | (chain[order] << row_bits)
        postings.append(posting.astype("<u8").view("<u2").reshape(-1, 4)[:, :3])
    return rings.Ring(
        layout,
        table,
        np.concatenate(offsets).astype(np.uint32),
        np.concatenate(postings).reshape(-1),
        parity_of(codes),
        np.array([1.0, 1.0, np.inf]),
    )


def parity_of(codes):
    parities = set((np.unpackbits(codes, axis=1).sum(axis=1) % 2).tolist())
    return parities.pop() if len(parities) == 1 else -1


@pytest.mark.parametrize("n", [1, 63, 64, 65, 5000])
@pytest.mark.parametrize("bits", [64, 128, 256, 576])
def test_fast_build_equals_the_slow_one(tmp_path, n, bits):
    codes = make_codes(np.random.default_rng(n), n, bits, "skewed")
    files = build(tmp_path, codes)
    ring = rings.open_ring(tmp_path, files, "x", len(codes), bits)
    widths = ring.layout[:, 1].tolist()
    slow = in_memory(codes, widths, plan.permutation(codes, widths))
    for name in ("layout", "table", "offsets", "postings", "parity"):
        assert np.array_equal(getattr(ring, name), getattr(slow, name)), name


def test_a_match_whose_first_band_is_dropped_by_the_chain_comes_from_a_later_one():
    """Bands of 16 bits, thresholds 1, radius 7. The code differs by 1 bit in band 0, by 4 in band
    1: d0 <= t0, but the chain d0 + d1 = 5 > 3 drops it there. It differs by 0 and 0 in bands 2 and
    3, where it must be found, and only once. "The first band with d <= t" would lose it."""
    code = np.zeros((1, 8), np.uint8)
    query = flip(code[0], [0, 16, 17, 18, 19])[None]
    ring = in_memory(code, [16] * 4, np.arange(64))
    thresholds = np.empty(4, np.int64)
    costs = np.array([[0.0, 1.0, 2.0, 9.0, 9.0, 9.0]] * 4)
    kernels.allocate(costs, 7, thresholds)
    assert thresholds.tolist() == [1, 1, 1, 1]
    limits = np.empty((4, 3), np.int64)
    kernels._limit_chains(ring.layout, thresholds, limits)
    assert limits[0].tolist() == [3, 16, 5]
    difference = np.uint64(0b1111)  # of band 1, beside the posting of band 0
    assert not kernels._passes(1, difference, limits[0, 0], np.uint64(0xFFFF), limits[0, 2])
    found, state = probe(ring, code, query, 7)
    assert found == [(0, 0, 5)]
    assert state.tolist() == [1]


@given(
    n_bands=st.integers(1, 6),
    radius=st.integers(0, 20),
    seed=st.integers(0, 2**32 - 1),
)
def test_thresholds_are_the_cheapest(n_bands, radius, seed):
    rng = np.random.default_rng(seed)
    costs = np.column_stack([np.zeros(n_bands), rng.random((n_bands, 5)).cumsum(axis=1)])
    thresholds = np.empty(n_bands, np.int64)
    cost = kernels.allocate(costs, radius, thresholds)
    best = {0: 0.0}
    for band in range(n_bands):
        step: dict[int, float] = {}
        for have, spent in best.items():
            for level in range(6):
                value = spent + costs[band, level]
                step[have + level] = min(value, step.get(have + level, np.inf))
        best = step
    assert cost == pytest.approx(best.get(radius + 1, np.inf))
    if cost < np.inf:
        assert (thresholds + 1).sum() == radius + 1
        assert sum(costs[b, t + 1] for b, t in enumerate(thresholds)) == pytest.approx(cost)


@pytest.fixture
def small_rings(monkeypatch):
    monkeypatch.setattr(plan, "MIN_RING_CODES_AT_COMMIT", 1)


def index_of(root, codes):
    with ns.Writer.open(root, create=True) as writer:
        writer.add_codes(codes, keys=[str(i) for i in range(len(codes))])
    return ns.Index.open(root)


@pytest.mark.parametrize("radius", [0, 1, 30, 31, 64, 128, 255, 256])
def test_index_answers_the_same_with_and_without(tmp_path, small_rings, monkeypatch, radius):
    rng = np.random.default_rng(radius)
    codes = make_codes(rng, 3000, 256, "clustered")[rng.integers(0, 2500, 3000)]  # duplicates
    queries = np.concatenate([codes[:200], rng.integers(0, 256, (50, 32), np.uint8)])
    if radius > 100:
        queries = queries[:3]
    with index_of(tmp_path / "ring.ns", codes) as index:
        assert index.snapshot.shards[0].codes["pdq"].ring is not None
        fast = index.search(queries, radius)
        singly = [index.search(query, radius).rows.tolist() for query in queries]
    monkeypatch.setattr(plan, "MIN_RING_CODES_AT_COMMIT", 1 << 40)
    with index_of(tmp_path / "scan.ns", codes) as index:
        assert index.snapshot.shards[0].codes["pdq"].ring is None
        slow = index.search(queries, radius)
    assert fast.offsets.tolist() == slow.offsets.tolist()
    assert fast.rows.tolist() == slow.rows.tolist()
    assert fast.distances.tolist() == slow.distances.tolist()
    assert singly == [
        slow.rows[slow.offsets[i] : slow.offsets[i + 1]].tolist() for i in range(len(queries))
    ]
    assert len(fast) > 0


@pytest.mark.parametrize("part", rings.PARTS)
@pytest.mark.parametrize("how", ["missing", "short", "other"])
def test_damaged_rings_cost_speed_only(tmp_path, small_rings, part, how):
    codes = make_codes(np.random.default_rng(1), 2000, 256, "even")
    root = tmp_path / "i.ns"
    index_of(root, codes).close()
    (path,) = root.rglob(f"*.ring.{part}.npy")
    if how == "missing":
        path.unlink()
    elif how == "short":
        path.write_bytes(path.read_bytes()[:-8])
    else:
        path.write_bytes(b"\x93NUMPY\x01\0" + b"\0" * (path.stat().st_size - 8))
    with pytest.warns(RingWarning, match="searches scan all codes of the shard, with the same"):
        index = ns.Index.open(root)
    with index:
        assert len(index.search(codes[:50], 31)) >= 50
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RingWarning)
        (damage,) = ns.verify(root)
    assert damage.path == str(path)
    assert damage.costs.startswith("speed only")


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_kernels_stay_inside_whatever_the_files_say(seed):
    rng = np.random.default_rng(seed)
    codes = make_codes(rng, 500, 64, "even")
    ring = in_memory(codes, plan.band_widths(len(codes), 64), rng.permutation(64))
    offsets = rng.integers(0, 2**32, len(ring.offsets), np.uint32)
    postings = rng.integers(0, 2**16, ring.postings.shape, np.uint16)
    offsets %= np.uint32(2 * len(codes))
    hostile = rings.Ring(ring.layout, ring.table, offsets, postings, ring.parity, ring.costs)
    found, _ = probe(hostile, codes, codes[:20], 8)
    for query, row, distance in found:  # whatever comes is at least true
        assert np.unpackbits(codes[query] ^ codes[row]).sum() == distance <= 8


def test_a_million_rows_of_ten_codes_have_a_small_ring(tmp_path, small_rings):
    codes = np.random.default_rng(0).integers(0, 256, (10, 32), np.uint8)
    rows = codes[np.random.default_rng(1).integers(0, 10, 100_000)]
    with index_of(tmp_path / "i.ns", rows) as index:
        assert len(index.snapshot.shards[0].codes["pdq"].codes) == 10
        table = index.search(codes[3], 0).to_arrow()
        assert len(table) == (rows == codes[3]).all(axis=1).sum()


@pytest.mark.parametrize("bits", [64, 128, 256, 576, 1024])
@pytest.mark.parametrize("n", [1, 10, 1000, 10**5, 10**7, 10**8])
def test_bands_make_up_the_code(n, bits):
    widths = plan.band_widths(n, bits)
    assert sum(widths) == bits
    assert len(widths) >= 2
    assert all(1 <= width <= 32 for width in widths)
    assert max(widths) - min(widths) <= 1
    assert 2 ** max(widths) <= max(n, 16)


def test_header_of_the_files_is_numpys(tmp_path):
    codes = make_codes(np.random.default_rng(2), 100, 64, "even")
    build(tmp_path, codes)
    postings = np.load(tmp_path / "x.ring.postings.npy", mmap_mode="r")
    offsets = np.load(tmp_path / "x.ring.offsets.npy")
    assert postings.dtype == np.uint16
    assert postings.shape[1] == 3
    assert offsets[0] == 0
    assert fs.size_of(tmp_path / "x.ring.layout.npy") > 128


def test_no_warnings_without_rings(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        index_of(tmp_path / "i.ns", make_codes(np.random.default_rng(0), 9, 256, "even")).close()
