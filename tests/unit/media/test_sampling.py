from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nearsearch.errors import UsageError
from nearsearch.media.sampling import CUT, CUT_GAP, Chooser, Sampling, shown

STEP = 40


def times(stamps, step=STEP):
    return [start for _, start, _ in shown([(None, stamp, 0) for stamp in stamps], step)]


@pytest.mark.parametrize(
    ("stamps", "expected"),
    [
        ([], []),
        ([None], [0]),
        ([7], [0]),
        ([None, None, None], [0, 40, 80]),
        ([5, 25, 100], [0, 20, 95]),
        ([-100, -60, 0], [0, 40, 100]),
        ([None, 500, 540], [0, 40, 80]),  # the first that is there says where the others are
        ([0, 40, 40, 40], [0, 40, 80, 120]),
        ([0, 40, 80, 20, 60, 100, 200], [0, 40, 80, 120, 160, 200, 240]),
        ([0, 40, 10**15, 120, 160], [0, 40, 80, 120, 160]),  # one stamp far ahead
        ([0, 40, 90, 80, 120], [0, 40, 60, 80, 120]),
        ([0, 40, 10**15], [0, 40, 10**15]),
    ],
)
def test_times(stamps, expected):
    got = times(stamps)
    assert got == expected
    assert len(got) == len(stamps)


@given(st.lists(st.none() | st.integers(-1000, 1000)), st.integers(1, 100))
def test_times_begin_at_zero_and_rise(stamps, step):
    got = times(stamps, step)
    assert len(got) == len(stamps)
    assert got[:1] == [0][: len(got)]
    assert all(time < later for time, later in pairwise(got))


@given(st.lists(st.integers(-1000, 10**9), unique=True, min_size=1).map(sorted))
def test_sound_stamps_are_kept(stamps):
    assert times(stamps) == [stamp - stamps[0] for stamp in stamps]


def test_ends():
    spans = list(shown([("a", 0, 9), ("b", 70, 9), ("c", 90, 500)], STEP))
    assert spans == [("a", 0, 70), ("b", 70, 90), ("c", 90, 590)]
    assert list(shown([("a", 0, 0)], STEP)) == [("a", 0, 40)]


@given(
    st.lists(st.integers(1, 5_000_000), min_size=1, max_size=30),
    st.integers(1, 3000),
)
def test_by_time_is_what_is_on_screen(lengths, interval_ms):
    starts = [sum(lengths[:n]) for n in range(len(lengths) + 1)]
    chooser = Chooser(Sampling(interval_ms=interval_ms, scenes=False))
    chosen = [
        n
        for n, (start, end) in enumerate(pairwise(starts))
        if chooser.wants(start, end, lambda: pytest.fail("not asked for"))
    ]
    instants = np.arange(0, starts[-1], interval_ms * 1000)
    assert chosen == sorted(set((np.searchsorted(starts, instants, side="right") - 1).tolist()))


def grey(level):
    return lambda: np.full((32, 32), level, np.uint8)


def test_scenes():
    chooser = Chooser(Sampling())
    step = CUT_GAP // 5
    levels = [0] * 3 + [200] * 7 + [int(200 - CUT) + 1] * 3 + [int(200 - CUT)]
    chosen = [
        n for n, level in enumerate(levels) if chooser.wants(n * step, n * step + step, grey(level))
    ]
    assert chosen == [0, 5, 13]


@pytest.mark.parametrize("frames", ["keyframes", "every"])
def test_all_of_them(frames):
    chooser = Chooser(Sampling(frames))
    assert all(chooser.wants(n, n + 1, grey(0)) for n in range(5))


def test_refusals():
    with pytest.raises(UsageError, match="unknown choice of frames 'some'"):
        Sampling("some")
    with pytest.raises(UsageError, match="interval_ms"):
        Sampling(interval_ms=0)
