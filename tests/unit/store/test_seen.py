import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from nearsearch.store.seen import Seen

HASHES = st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 5), max_size=20)


@given(batches=st.lists(HASHES, max_size=8), asked=HASHES)
def test_finds_what_was_added(batches, asked):
    seen = Seen()
    for batch in batches:
        seen.add(np.array(batch, np.uint64))
    known = {value for batch in batches for value in batch}
    asked = asked + list(known)[:5]
    found = seen.find(np.array(asked, np.uint64)).tolist()
    assert found == [i for i, value in enumerate(asked) if value in known]


def test_runs_stay_few():
    seen = Seen()
    for start in range(0, 1000, 10):
        seen.add(np.arange(start, start + 10, dtype=np.uint64))
    assert len(seen._runs) <= 7
    assert sum(map(len, seen._runs)) == 1000
