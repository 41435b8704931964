"""Kernels of chains against the slow and obvious."""

from itertools import combinations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from nearsearch.kernels import chains

SEEDS = st.integers(0, 2**31)


def frames(rng, n_frames, most, width=5000):
    """Groups, frames that do not overlap, and for each up to `most` spans of the other film."""
    rows, start = [], 0
    for _ in range(n_frames):
        end = start + int(rng.integers(1, 2000))
        edges = np.unique(rng.integers(0, width, 2 * int(rng.integers(1, most + 1))))
        pairs = edges[: len(edges) // 2 * 2].reshape(-1, 2)
        rows += [(start // 20_000, start, end, a, b) for a, b in pairs]
        start = end + int(rng.integers(0, 4000))
    return np.array(rows, np.int64).reshape(-1, 5)


@given(SEEDS, st.integers(0, 12), st.integers(0, 3000))
@settings(deadline=None)
def test_bars(seed, n_frames, slack):
    rng = np.random.default_rng(seed)
    rows = frames(rng, n_frames, 6)
    matches = np.column_stack([rows, rng.integers(0, 40, len(rows))])
    expected = []
    for group, start, end, low, high, distance in matches.tolist():
        bar = expected[-1] if expected else None
        if bar and bar[:2] == [group, start] and low - bar[4] <= slack:
            expected[-1] = [
                group,
                start,
                end,
                bar[3],
                max(bar[4], high),
                low,
                min(bar[6], distance),
            ]
        else:
            expected.append([group, start, end, low, high, low, distance])
    out = np.empty((7, len(matches)), np.int64)
    count = chains.bars(np.ascontiguousarray(matches.T), slack, out)
    assert out[:, :count].T.tolist() == expected


def linked(group, start, end, other_start, other_end, low, high, gain, limits):
    """The chains of `chains.link`, every step tried."""
    max_gap, jump, slower, faster = limits
    n = len(group)
    score, covered = list(gain), list(gain)
    counts, pictures, begin, previous = [1] * n, [1] * n, list(start), [-1] * n
    held, moment = list(zip(low, high, strict=True)), list(other_end)
    for k in range(n):
        best, before = 0, -1
        earlier = [j for j in range(k) if group[j] == group[k] and start[j] < start[k]]
        for j in sorted(earlier, key=lambda j: (-start[j], j)):
            passed = start[k] - start[j]
            up, down = low[k] - held[j][1], held[j][0] - high[k]
            is_step = up <= jump + int(faster * passed) and down <= jump + int(slower * passed)
            gained = score[j] - max(up, down, 0)
            if start[k] - end[j] <= max_gap and is_step and gained > best:
                best, before = gained, j
        if before >= 0:
            previous[k], score[k] = before, gain[k] + best
            covered[k], counts[k] = gain[k] + covered[before], counts[before] + 1
            pictures[k], begin[k] = pictures[before], begin[before]
            if other_start[k] >= moment[before]:
                pictures[k] += 1
            else:
                moment[k] = min(moment[before], other_end[k])
            held_low, held_high = held[before]
            held[k] = min(max(held_low, low[k]), high[k]), max(min(held_high, high[k]), low[k])
    return [score, covered, counts, pictures, begin, previous]


@given(SEEDS, st.integers(0, 14), st.integers(0, 6000), st.integers(0, 800))
@settings(deadline=None)
def test_link(seed, n_frames, max_gap, jump):
    rng = np.random.default_rng(seed)
    rows = frames(rng, n_frames, 5)
    group, start, end, other_start, other_end = np.ascontiguousarray(rows.T)
    reach = int(rng.integers(0, 1500))
    low, high = other_start - start - reach, other_end - start + reach
    gain = rng.integers(1, 2000, len(rows))
    out = [np.empty(len(rows), np.int64) for _ in range(6)]
    limits = max_gap, jump, 0.25, 0.35
    columns = (group, start, end, other_start, other_end, low, high, gain)
    chains.link(*columns, *limits, *out)
    assert [column.tolist() for column in out] == linked(*(c.tolist() for c in columns), limits)


@given(st.data())
def test_label(data):
    n = data.draw(st.integers(0, 20))
    previous = [data.draw(st.integers(-1, k - 1)) for k in range(n)]
    order = data.draw(st.permutations(range(n)))
    expected, count = [-1] * n, 0
    for last in order:
        path, k = [], last
        while k >= 0 and expected[k] < 0:
            path.append(k)
            k = previous[k]
        for k in path:
            expected[k] = count
        count += bool(path)
    out = np.empty(n, np.int64)
    chains.label(np.array(order, np.int64), np.array(previous, np.int64), out)
    assert out.tolist() == expected


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(1, 6)), max_size=7))
def test_stabs(pairs):
    spans = sorted(((a, a + length) for a, length in pairs), key=lambda span: span[1])
    met, count = set(), 0
    # The fewest moments that meet all spans, by trying sets of one more each time.
    while len(met) < len(spans):
        count += 1
        for moments in combinations(range(19), count):
            met = {i for i, (a, b) in enumerate(spans) if any(a <= t < b for t in moments)}
            if len(met) == len(spans):
                break
    start, end = np.array(spans, np.int64).reshape(-1, 2).T
    assert chains.stabs(np.ascontiguousarray(start), np.ascontiguousarray(end)) == count


@given(SEEDS, st.integers(1, 8), st.floats(0.75, 1.35))
@settings(deadline=None)
def test_miss(seed, n, speed):
    rng = np.random.default_rng(seed)
    own = np.sort(rng.integers(0, 500, (2, n)), axis=0)
    other = np.sort(rng.integers(0, 500, (2, n)), axis=0)
    boxes = np.ascontiguousarray(np.concatenate([own, other]))
    missed, offset = chains.miss(speed, boxes, np.empty(2 * n))
    low, high = other[0] - speed * own[1], other[1] - speed * own[0]

    def cost(at):
        return np.maximum(np.maximum(low - at, at - high), 0).mean()

    np.testing.assert_allclose(missed, cost(offset), atol=1e-9)
    # It is convex and straight between the ends: one of them is best.
    assert missed <= min(map(cost, [*low, *high])) + 1e-9
