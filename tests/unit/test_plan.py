"""When shards are merged. That bands make up the code is tested with the ring."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nearsearch import plan


@pytest.mark.parametrize(
    ("sizes", "small", "most", "expected"),
    [
        ([], 0, 100, 0),
        ([], 10, 0, 0),
        ([7], 10, 100, 1),
        ([7], 0, 0, 1),  # even if it is more than may be merged
        ([2, 1], 0, 100, 2),  # at most twice the members
        ([3, 1], 0, 100, 1),
        ([3, 1], 3, 100, 2),  # or small
        ([4, 1], 3, 100, 1),
        ([50, 50], 0, 100, 2),  # at most so many together
        ([51, 50], 0, 100, 1),
        ([51, 50], 100, 100, 1),
        ([1, 1], 10, 0, 1),
        ([4, 2, 1], 0, 100, 3),  # what joins counts for the next
        ([7, 2, 1], 0, 100, 2),
        ([1, 7, 2, 1], 0, 100, 2),  # a shard behind one that stays stays too
        ([1, 7, 2, 1], 10, 100, 4),
        ([6, 2, 1], 0, 8, 2),
        ([0, 0], 0, 0, 2),  # without members: items only
        ([1, 0], 0, 100, 1),
        ([1, 0], 1, 100, 2),
        ([0, 5], 0, 100, 2),
    ],
)
def test_examples_of_what_is_merged(sizes, small, most, expected):
    assert plan.tail_to_merge(sizes, small, most) == expected


SIZES = st.lists(st.integers(0, 50), max_size=12)
LIMIT = st.integers(0, 60)


@given(sizes=SIZES, small=LIMIT, most=LIMIT)
def test_as_many_are_merged_as_may_be(sizes, small, most):
    before = list(sizes)
    count = plan.tail_to_merge(sizes, small, most)
    assert sizes == before
    assert min(1, len(sizes)) <= count <= len(sizes)

    def may_join(position):
        behind = sum(sizes[position + 1 :])
        return sizes[position] <= max(small, 2 * behind) and sizes[position] + behind <= most

    joined = range(len(sizes) - count, len(sizes) - 1)
    assert all(may_join(position) for position in joined)
    if count < len(sizes):
        assert not may_join(len(sizes) - count - 1)


@given(batches=st.lists(st.integers(1, 50), max_size=200))
def test_shards_stay_few_and_are_not_written_often(batches):
    sizes, written = [], 0
    for batch in batches:
        sizes.append(batch)
        count = plan.tail_to_merge(sizes, 0, 1 << 40)
        written += sum(sizes[-count:])
        sizes[-count:] = [sum(sizes[-count:])]
        assert all(size > 2 * behind for size, behind in pairwise(sizes))
    total = sum(batches)
    assert sum(sizes) == total
    assert 2 ** (len(sizes) - 1) <= max(1, total)
    # Each time a member is written again, its shard has grown by half at least.
    assert written <= total * (1 + math.log(max(1, total), 1.5))


@given(batches=st.lists(st.integers(1, 30), max_size=60))
def test_small_shards_become_one(batches):
    sizes = []
    for batch in batches:
        sizes.append(batch)
        count = plan.tail_to_merge(sizes, 100, 1 << 40)
        sizes[-count:] = [sum(sizes[-count:])]
        assert sum(size <= 100 for size in sizes) <= 1


def test_the_limits_fit_together():
    """What a commit merges without delay, it may also merge afterwards; small is small."""
    assert plan.SMALL_SHARD < plan.MOST_MERGED_AT_COMMIT < plan.MOST_MERGED
    assert plan.MIN_RING_CODES <= plan.MIN_RING_CODES_AT_COMMIT


@pytest.mark.parametrize(
    ("members", "dead", "expected"),
    [
        (0, 0, False),
        (plan.SMALL_SHARD, plan.SMALL_SHARD, False),  # it is merged with its like sooner or later
        (plan.SMALL_SHARD + 1, plan.SMALL_SHARD + 1, True),
        (100_000, 0, False),
        (100_000, 25_000, False),  # a quarter
        (100_000, 25_001, True),
        (100_000, 100_000, True),
        (plan.MOST_MERGED, plan.MOST_MERGED, True),
        (plan.MOST_MERGED + 1, plan.MOST_MERGED, False),  # takes too long to be done by itself
    ],
)
def test_what_is_worn(members, dead, expected):
    assert plan.is_worn(members, dead) is expected
