"""Segments: whatever the films, the order of the matches, and the noise around them."""

import numpy as np
from footage import Clip, matched, noise, shuffled, together
from hypothesis import given, settings
from hypothesis import strategies as st

from nearsearch.segments import find_segments

SEEDS = st.integers(0, 2**31)
SPEEDS = st.floats(0.8, 1.25)


def planted(seed, speed, seconds, dropout, n_noise):
    """A clip between others in a query, and between yet others in an item, and noise."""
    rng = np.random.default_rng(seed)
    at = int(rng.integers(0, 500_000))
    clip = Clip(1, at, at + round(seconds * 1000 * speed), speed)
    before, lead = int(rng.integers(0, 60_000)), int(rng.integers(0, min(at, 60_000) + 1))
    query = [Clip(2, 0, before + 1), clip, Clip(3, 0, 30_000)]
    item = [Clip(1, at - lead, clip.end + 20_000)]
    phase = float(rng.integers(1000))
    match = matched(query, item, seed=seed, dropout=dropout, phase=phase)
    stray = noise(rng, n_noise, before + 60_000, lead + 20_000 + clip.end - at)
    span = before, before + seconds * 1000, lead, lead + clip.end - at
    if len(match.query):
        lengths = {
            name: stray.query * 0 + getattr(match, name)[0] for name in ("query_ms", "item_ms")
        }
        stray = stray._replace(**lengths)
    return together(match, stray), span


@given(SEEDS, SPEEDS, st.integers(30, 90), st.floats(0, 0.4), st.integers(0, 10))
@settings(max_examples=50, deadline=None)
def test_what_is_planted_is_found(seed, speed, seconds, dropout, n_noise):
    match, (start, end, item_start, _) = planted(seed, speed, seconds, dropout, n_noise)
    found = find_segments(match)
    covered = np.minimum(found.query_end_ms, end) - np.maximum(found.query_start_ms, start)
    true = slice(len(match.query) - n_noise)  # frames at the ends may have found nothing
    least = match.query_end_ms[true].max() - match.query_start_ms[true].min()
    assert covered.clip(0).sum() >= 0.8 * least
    best = int(covered.argmax())
    drift = found.item_start_ms[best] - item_start - speed * (found.query_start_ms[best] - start)
    assert abs(drift) <= 3000


@given(SEEDS, SPEEDS, st.integers(3, 60), st.integers(0, 300))
@settings(max_examples=30, deadline=None)
def test_order_does_not_matter(seed, speed, seconds, n_noise):
    match, _ = planted(seed, speed, seconds, 0.2, n_noise)
    match = together(match, match._replace(item=match.item + 1, query=match.query + seed % 2))
    one, other = find_segments(match), find_segments(shuffled(match, seed))
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


@given(SEEDS, SPEEDS, st.integers(3, 60), st.integers(0, 300))
@settings(max_examples=30, deadline=None)
def test_segments_lie_within_what_matched(seed, speed, seconds, n_noise):
    match, _ = planted(seed, speed, seconds, 0.2, n_noise)
    found = find_segments(match)
    for side in ("query", "item"):
        starts, ends = getattr(found, f"{side}_start_ms"), getattr(found, f"{side}_end_ms")
        assert (starts < ends).all()
        assert (starts >= getattr(match, f"{side}_start_ms").min(initial=2**40)).all()
        assert (ends <= getattr(match, f"{side}_end_ms").max(initial=0)).all()
        share = getattr(found, f"{side}_share")
        assert ((share > 0) & (share <= 1)).all()
    assert ((found.speed >= 0.75) & (found.speed <= 1.35)).all()
    assert (found.matched_ms <= found.query_end_ms - found.query_start_ms).all()
    assert (found.pictures <= found.frames).all()


@given(SEEDS, SPEEDS, st.integers(10, 60), st.integers(0, 3000), st.integers(0, 3000))
@settings(max_examples=30, deadline=None)
def test_later_matches_give_later_segments(seed, speed, seconds, query_s, item_s):
    match, _ = planted(seed, speed, seconds, 0.2, 20)
    longer = {"query_ms": match.query_ms + 10**7, "item_ms": match.item_ms + 10**7}
    match = match._replace(**longer)
    moved = {}
    for side, by in (("query", query_s), ("item", item_s)):
        for end in ("start", "end"):
            name = f"{side}_{end}_ms"
            moved[name] = getattr(match, name) + by * 1000
    one, other = find_segments(match), find_segments(match._replace(**moved))
    assert len(one.query) == len(other.query)
    for name in moved:
        by = (query_s if name.startswith("query") else item_s) * 1000
        # The line is found in numbers, which round another way at another place.
        assert np.abs(getattr(one, name) + by - getattr(other, name)).max(initial=0) <= 2


@given(
    SEEDS,
    st.sampled_from([(60, 60), (300, 300), (1000, 60), (1000, 1000)]),
    st.integers(1, 30),
    st.integers(1, 30),
)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_noise_gives_no_segment(seed, lengths, a_pair, n_items):
    """Always the same examples: one call in some thousands does find one by chance."""
    rng = np.random.default_rng(seed)
    query_ms, item_ms = (1000 * each for each in lengths)
    match = noise(rng, a_pair * n_items, query_ms, item_ms, n_items)
    assert len(find_segments(match).query) == 0
