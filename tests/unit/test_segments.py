"""Segments of films that show each other in every way we know, and of those that do not."""

import time

import numpy as np
import pytest
from footage import BLACK, Clip, length, matched, noise, shuffled, table, together

from nearsearch.segments import find_segments

A = Clip(1, 0, 60_000)
OTHER, ANOTHER = Clip(2, 0, 33_000), Clip(3, 0, 70_000)
SECOND = 1000


def spans(found):
    """Query and item spans in whole seconds, in the order of the query."""
    columns = found[2:6]
    return sorted(
        tuple(round(column[i] / SECOND) for column in columns) for i in range(len(found[0]))
    )


def is_near(found, expected, tolerance=1.5):
    got = spans(found)
    assert len(got) == len(expected), got
    assert np.abs(np.array(got) - np.array(expected)).max() <= tolerance, got
    return True


def grid(is_match, queries, items):
    """Matches of frames of a second each, where `is_match` says so."""
    rows = [
        (0, 0, q * SECOND, (q + 1) * SECOND, i * SECOND, (i + 1) * SECOND, 3)
        for q in range(queries)
        for i in range(items)
        if is_match(q, i)
    ]
    return table(rows, queries * SECOND, items * SECOND)


def test_a_copy_is_one_segment_exactly():
    found = find_segments(matched([A], [A], phase=0))
    assert spans(found) == [(0, 60, 0, 60)]
    assert found.query_share[0] == found.item_share[0] == found.speed[0] == 1
    assert found.matched_ms[0] == 60_000


@pytest.mark.parametrize("phase", [100, 370, 500, 900])
def test_reencoded_with_other_sampling(phase):
    assert is_near(find_segments(matched([A], [A], phase=phase)), [(0, 60, 0, 60)])


def test_trimmed():
    assert is_near(find_segments(matched([Clip(1, 20_400, 45_000)], [A])), [(0, 24.6, 20.4, 45)])


def test_query_within_a_longer_film():
    film = [OTHER, A, ANOTHER]
    assert is_near(find_segments(matched([Clip(1, 10_000, 45_000)], film)), [(0, 35, 43, 78)])


def test_known_clip_within_a_longer_query():
    found = find_segments(matched([OTHER, Clip(1, 0, 20_000), ANOTHER], [Clip(1, 0, 20_000)]))
    assert is_near(found, [(33, 53, 0, 20)])
    assert found.item_share[0] > 0.9
    assert found.query_share[0] == pytest.approx(20 / 123, abs=0.02)


def test_the_same_clip_twice_in_the_query():
    clip = Clip(1, 0, 20_000)
    found = find_segments(matched([OTHER, clip, Clip(3, 0, 7000), clip], [clip]))
    assert is_near(found, [(33, 53, 0, 20), (60, 80, 0, 20)])


def test_the_same_clip_twice_in_the_item():
    clip = Clip(1, 0, 20_000)
    found = find_segments(matched([clip], [clip, OTHER, clip]))
    assert is_near(found, [(0, 20, 0, 20), (0, 20, 53, 73)])


def test_a_clip_that_is_looped():
    found = find_segments(grid(lambda q, i: (q - i) % 4 == 0, 40, 4))
    assert is_near(found, [(4 * n, 4 * n + 4, 0, 4) for n in range(10)], 0.5)


@pytest.mark.parametrize("speed", [0.8, 0.9, 24 / 25, 25 / 24, 1.1, 1.25])
def test_speed(speed):
    found = find_segments(matched([OTHER, A._replace(speed=speed)], [ANOTHER, A]))
    assert is_near(found, [(33, 33 + 60 / speed, 70, 130)], 2)
    assert found.speed[0] == pytest.approx(speed, abs=0.02)


@pytest.mark.parametrize("dropout", [0.3, 0.6])
def test_frames_that_find_nothing(dropout):
    assert is_near(find_segments(matched([A], [A], dropout=dropout)), [(0, 60, 0, 60)], 3)


@pytest.mark.parametrize(("gap", "n_segments"), [(3, 1), (9, 1), (12, 2), (20, 2)])
def test_a_gap_splits_only_if_long(gap, n_segments):
    match = grid(lambda q, i: q == i and not 30 <= q < 30 + gap, 60, 60)
    expected = (
        [(0, 60, 0, 60)] if n_segments == 1 else [(0, 30, 0, 30), (30 + gap, 60, 30 + gap, 60)]
    )
    assert is_near(find_segments(match), expected, 0.5)


def test_black_put_over_the_query():
    film = [Clip(1, 0, 20_000), Clip(BLACK, 0, 4000), Clip(1, 24_000, 60_000)]
    assert is_near(find_segments(matched(film, [A])), [(0, 60, 0, 60)])


def test_a_long_pause_put_in_makes_two():
    film = [Clip(1, 0, 25_000), Clip(BLACK, 0, 8000), Clip(1, 25_000, 60_000)]
    assert is_near(find_segments(matched(film, [A])), [(0, 25, 0, 25), (33, 68, 25, 60)], 2)


def test_a_long_cut_makes_two():
    film = [Clip(1, 0, 30_000), Clip(1, 39_000, 60_000)]
    assert is_near(find_segments(matched(film, [A])), [(0, 30, 0, 30), (30, 51, 39, 60)], 2)


def test_jitter_of_a_second_does_not_split():
    rng = np.random.default_rng(0)
    rows = []
    for q in range(60):
        start = max(0, q * SECOND + int(rng.integers(-1000, 1001)))
        rows.append((0, 0, q * SECOND, (q + 1) * SECOND, start, start + SECOND, 5))
    assert is_near(find_segments(table(rows, 60_000, 62_000)), [(0, 60, 0, 60)])


def test_a_show_of_stills():
    film = [A, OTHER]
    found = find_segments(matched(film, film, stills=1.0))
    assert is_near(found, [(0, 93, 0, 93)])


def test_a_still_that_is_held_in_both():
    still = [Clip(BLACK, 0, 60_000)]
    found = find_segments(matched(still, still))
    assert is_near(found, [(0, 60, 0, 60)], 0.5)
    assert found.pictures[0] == 1


def test_a_still_of_many_rows():
    assert is_near(find_segments(grid(lambda *_: True, 60, 60)), [(0, 60, 0, 60)], 0.5)


def test_a_still_at_the_edge_is_cut_where_it_begins():
    """The query holds its first picture for 30 s, of which the item has the last 10."""
    rows = [(0, 0, 0, 30_000, 0, 10_000, 3)]
    rows += [(0, 0, t, t + 1000, t - 20_000, t - 19_000, 3) for t in range(30_000, 60_000, 1000)]
    assert is_near(find_segments(table(rows, 60_000, 40_000)), [(20, 60, 0, 40)])


def test_a_real_segment_comes_before_a_longer_still():
    still = [Clip(BLACK, 0, 60_000)]
    real = [Clip(1, 0, 20_000)]
    film = still + real
    found = find_segments(together(matched(film, still, item=1), matched(film, real, item=2)))
    assert found.item.tolist() == [2, 1]


def test_blank_stretches_do_not_hide_what_is_shown():
    film = [Clip(BLACK, 0, 8000), A, Clip(BLACK, 0, 8000)]
    found = find_segments(matched(film, [OTHER, *film]))
    assert is_near(found, [(0, 76, 33, 109)])


def test_no_segment_of_a_few_frames_that_match_everywhere():
    query = [Clip(2, 0, 40_000), Clip(BLACK, 0, 8000), Clip(3, 0, 40_000), Clip(BLACK, 0, 3000)]
    item = [Clip(BLACK, 0, 3000), Clip(4, 0, 40_000), Clip(BLACK, 0, 7000), Clip(5, 0, 50_000)]
    assert spans(find_segments(matched(query, item))) == []
    assert spans(find_segments(matched(query, item, runs=False))) == []


def test_no_segment_of_scattered_blank_frames():
    flags = np.random.default_rng(0).random(300) < 0.3
    assert spans(find_segments(grid(lambda q, i: flags[q] and flags[i], 300, 300))) == []
    assert spans(find_segments(grid(lambda q, i: q % 4 == 0 and i % 4 == 0, 300, 300))) == []


def test_no_segment_of_reversed_or_shuffled_frames():
    place = np.random.default_rng(0).permutation(60)
    assert spans(find_segments(grid(lambda q, i: q + i == 59, 60, 60))) == []
    assert spans(find_segments(grid(lambda q, i: place[q] == i, 60, 60))) == []


@pytest.mark.parametrize("n", [1, 2])
def test_no_segment_of_one_or_two_frames(n):
    assert spans(find_segments(grid(lambda q, i: q == i and q < n, 60, 60))) == []


def test_three_frames_are_the_least():
    assert is_near(
        find_segments(grid(lambda q, i: q == i - 5 and 20 <= q < 23, 300, 300)),
        [(20, 23, 25, 28)],
        0.5,
    )


def test_all_of_a_short_film():
    assert is_near(find_segments(grid(lambda q, i: i == q + 7, 2, 300)), [(0, 2, 7, 9)], 0.5)
    assert is_near(find_segments(grid(lambda q, i: q == i + 7, 300, 2)), [(7, 9, 0, 2)], 0.5)
    assert is_near(find_segments(grid(lambda q, i: True, 1, 1)), [(0, 1, 0, 1)], 0.5)


def test_nothing_and_pictures_give_nothing():
    empty = find_segments(table([], 0, 0))
    assert len(empty.query) == 0
    assert [column.dtype.kind for column in empty] == list("iiiiiiiiiffff")
    assert len(find_segments(table([(0, 0, 0, 1000, 0, 0, 3)], 60_000, 0)).query) == 0


def test_order_is_by_query_then_certainty():
    short, long = [Clip(1, 0, 20_000)], [Clip(1, 0, 40_000)]
    parts = [
        matched(short, short, query=1, item=5),
        matched(long, short, query=0, item=9),
        matched(long, long, query=0, item=3),
        matched(long, short, query=0, item=8),
    ]
    found = find_segments(shuffled(together(*parts)))
    assert list(zip(found.query.tolist(), found.item.tolist(), strict=True)) == [
        (0, 3), (0, 8), (0, 9), (1, 5),
    ]  # fmt: skip


def test_median_distance_is_of_the_nearest_row_of_each_frame():
    rows = []
    for q in range(10):
        for i, distance in ((q, 2 * q), (q + 1, 31)):
            rows.append(
                (0, 0, q * SECOND, (q + 1) * SECOND, i * SECOND, (i + 1) * SECOND, distance)
            )
    assert find_segments(table(rows, 10_000, 11_000)).median_distance.tolist() == [9]


def test_numbers_that_need_more_than_63_bits_together():
    match = matched([A], [A])
    far = match._replace(item=match.item + 2**62, query=match.query - 2**61)
    pair = together(match, far, match._replace(query=match.query + 2**40))
    found = find_segments(shuffled(pair))
    assert found.query.tolist() == [-(2**61), 0, 2**40]
    assert len({tuple(column[i] for column in found[2:]) for i in range(3)}) == 1


@pytest.mark.parametrize("item_s", [4, 60, 1000])
def test_a_million_matches_of_noise(item_s):
    rng = np.random.default_rng(item_s)
    scattered = noise(rng, 1_000_000, 1_000_000, item_s * SECOND, 100_000)
    real = matched([Clip(1, 0, 50_000)], [A, OTHER], item=200_000)
    real = real._replace(query_ms=real.query_ms * 0 + 1_000_000)
    match = together(scattered, real)
    find_segments(real)
    began = time.process_time()
    found = find_segments(match)
    assert found.item.tolist() == [200_000]
    assert is_near(found, [(0, 50, 0, 50)])
    assert time.process_time() - began < 3  # 0.3 s on an idle core


def test_static_scenes_are_fast():
    match = grid(lambda *_: True, 300, 300)
    began = time.process_time()
    assert is_near(find_segments(match), [(0, 300, 0, 300)], 0.5)
    assert time.process_time() - began < 0.5  # 0.03 s on an idle core


def test_half_an_hour():
    film = [Clip(1, 0, 1_800_000)]
    assert length(film) == 1_800_000
    found = find_segments(matched(film, film, dropout=0.3))
    assert is_near(found, [(0, 1800, 0, 1800)], 2)
