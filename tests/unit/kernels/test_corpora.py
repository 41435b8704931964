"""Kernels of corpora against the slow and obvious."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nearsearch.kernels import corpora as kernels

KEYS = st.integers(0, 2**64 - 1)
ALL = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15
NO_LAYOUTS = np.empty((0, 4), np.uint64)


def mixed(z):
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & ALL
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & ALL
    return z ^ (z >> 31)


class Xoshiro:
    """xoshiro256++, as published."""

    def __init__(self, *state):
        self.state = list(state)

    def next(self):
        def turned(x, k):
            return ((x << k) | (x >> (64 - k))) & ALL

        s = self.state
        result = (turned((s[0] + s[3]) & ALL, 23) + s[0]) & ALL
        t = (s[1] << 17) & ALL
        s[2] ^= s[0]
        s[3] ^= s[1]
        s[1] ^= s[2]
        s[0] ^= s[3]
        s[2] ^= t
        s[3] = turned(s[3], 45)
        return result


def generators(key, n):
    """The generators that `seed` sets, one a column."""
    words = [mixed((key + (i + 1) * GOLDEN) & ALL) for i in range(4 * n)]
    return [Xoshiro(*words[j::n]) for j in range(n)]


def integer(code):
    return int.from_bytes(np.ascontiguousarray(code).tobytes(), "little")


def weight(codes):
    return np.bitwise_count(codes).sum(axis=-1, dtype=int)


def some_codes(n, seed=0):
    codes = np.random.default_rng(seed).integers(0, 2**64, (n, 4), np.uint64)
    for row in range(n):
        kernels.balance(np.uint64(row), codes, row)
    return codes


def test_mix_is_splitmix64():
    # The first outputs for state 0, as the authors' C code gives them.
    assert kernels.mix(np.uint64(GOLDEN)) == 0xE220A8397B1DCDAF
    assert kernels.mix(np.uint64(2 * GOLDEN & ALL)) == 0x6E789E6AA1B965F4


def test_xoshiro_of_the_test_is_the_published_one():
    generator = Xoshiro(1, 2, 3, 4)
    assert [generator.next() for _ in range(3)] == [41943041, 58720359, 3588806011781223]


@given(KEYS, st.integers(1, 5), st.integers(1, 9))
@settings(deadline=None, max_examples=20)
def test_fill(key, rounds, n):
    state, out = np.empty((4, n), np.uint64), np.empty(rounds * n, np.uint64)
    kernels.seed(np.uint64(key), state)
    expected = generators(key, n)
    for _ in range(2):
        kernels.fill(state, out)
        words = [g.next() for _ in range(rounds) for g in expected]
        assert out.tolist() == words


@given(KEYS, st.integers(0, 256), st.integers(0, 2**31))
@settings(deadline=None, max_examples=50)
def test_balance_turns_what_is_too_many_and_no_more(key, n_set, seed):
    bits = np.random.default_rng(seed).permutation(np.arange(256) < n_set)
    codes = np.packbits(bits).view(np.uint64).reshape(1, 4)
    before = codes.copy()
    kernels.balance(np.uint64(key), codes, 0)
    assert weight(codes)[0] == 128
    assert weight(codes ^ before)[0] == abs(n_set - 128)


def test_balance_turns_all_bits_equally_often():
    codes = np.zeros((4000, 4), np.uint64)
    for row in range(len(codes)):
        kernels.balance(np.uint64(row * 977), codes, row)
    share = np.unpackbits(codes.view(np.uint8), axis=1).mean(axis=0)
    assert abs(share - 0.5).max() < 4.5 * 0.5 / np.sqrt(len(codes))


def drawn(key, base, parents, weights, layouts, n):
    """Codes as `draw` makes them, before they are balanced."""
    streams, state = generators(key, 64), mixed(key)
    codes = []
    for _ in range(n // 64):
        noise = b"".join(g.next().to_bytes(8, "little") for _ in range(32) for g in streams)
        tile = np.zeros((64, 256), int)
        for lane in range(64):
            for i in range(256):
                total = base[i] + sum(weights[i, tile[lane, parents[i]] == 1])
                tile[lane, i] = noise[64 * i + lane] < (total + 32) // 64
            code = np.packbits(tile[lane])
            state = (state + GOLDEN) & ALL
            z = mixed(state)
            if len(layouts):
                layout = layouts[(z >> 32) % len(layouts)].view(np.uint8)
                pairs = (z & (z >> 16)) & 0x3333
                pairs *= pairs.bit_count() <= 4
                columns = [c for c in range(16) if (pairs | (pairs << 2)) >> c & 1]
                for c in columns:  # of a little-endian 16-bit word
                    byte, mask = c // 8, np.uint8(1 << (c % 8))
                    code[byte::2] = (code[byte::2] & ~mask) | (layout[byte::2] & mask)
            codes.append(code)
    return np.array(codes)


def scratch():
    noise = np.empty(2048, np.uint64)
    by_bit = noise.view(np.uint8).reshape(256, 64)
    return noise, by_bit, np.empty((32, 64), np.uint8)


@pytest.mark.parametrize("n_layouts", [0, 1, 4])
def test_draw(n_layouts):
    rng = np.random.default_rng(n_layouts)
    base = rng.integers(-9000, 16384, 256).astype(np.int16)
    weights = rng.integers(-1500, 1500, (256, 8)).astype(np.int16)
    parents = np.array([rng.integers(0, max(i, 1), 8) for i in range(256)], np.uint8)
    weights[0] = 0
    layouts = some_codes(n_layouts)
    out = np.empty((128, 4), np.uint64)
    kernels.draw(np.uint64(77), base, parents, weights, layouts, *scratch(), out)
    raw = drawn(77, base.astype(int), parents, weights.astype(int), layouts, 128)
    assert (weight(out) == 128).all()
    changed = weight(out.view(np.uint8) ^ raw)
    np.testing.assert_array_equal(changed, abs(weight(raw) - 128))


def test_draw_gives_the_same_first_rows_whatever_the_number():
    base = np.full(256, 8192, np.int16)
    parents, weights = np.zeros((256, 8), np.uint8), np.zeros((256, 8), np.int16)
    parts = [np.empty((n, 4), np.uint64) for n in (0, 1, 63, 64, 65, 192)]
    for out in reversed(parts):
        kernels.draw(np.uint64(5), base, parents, weights, NO_LAYOUTS, *scratch(), out)
        np.testing.assert_array_equal(out, parts[-1][: len(out)])
    assert len(np.unique(parts[-1], axis=0)) == 192


def test_swap():
    codes = some_codes(6000)
    before, turned = codes.copy(), np.empty(4, np.uint64)
    for row in range(len(codes)):
        kernels.swap(np.uint64(row), codes, row, turned)
        assert integer(turned) == integer(codes[row] ^ before[row])
    assert (weight(codes) == 128).all()
    distances = weight(codes ^ before)
    assert set(distances.tolist()) == set(range(2, 65, 2))
    assert abs((distances > 32).mean() - 0.75 / 2) < 0.03
    assert abs((distances == 2).mean() - (0.75 / 32 + 0.25 / 2)) < 0.02


@given(KEYS, st.integers(1, 3), st.sampled_from([(0, 0, 0), (1, 0, 0), (0.3, 0.3, 0.1), (0, 1, 0)]))
@settings(deadline=None, max_examples=20)
def test_choose_and_arrange(key, octaves, shares):
    exact, near, blank = (np.uint64(round(share * 2**32)) for share in shares)
    pool, blanks = some_codes(16 * (2**octaves - 1), 1), some_codes(8, 2)
    codes, kinds = np.empty((400, 4), np.uint64), np.empty(400, np.uint8)
    n_new = kernels.choose(np.uint64(key), exact, near, blank, kinds)
    assert n_new == (kinds == kernels.NEW).sum()
    new = some_codes(n_new, 3)
    kernels.arrange(np.uint64(key), octaves, pool, blanks, new, kinds, codes)
    np.testing.assert_array_equal(codes[kinds == kernels.NEW], new)
    for row, kind in enumerate(kinds):
        nearest = min(weight(np.concatenate([pool, codes[:row]]) ^ codes[row]))
        if kind == kernels.BLANK:
            assert (codes[row] == blanks).all(axis=1).any()
        elif kind == kernels.EXACT:
            assert nearest == 0
        elif kind == kernels.NEAR:
            assert nearest <= 64
    got = np.bincount(kinds, minlength=4) / len(kinds)
    for kind, share in zip((kernels.EXACT, kernels.NEAR, kernels.BLANK), shares, strict=True):
        assert abs(got[kind] - share) <= 6 * np.sqrt(share * (1 - share) / len(kinds))
