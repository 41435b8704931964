"""Draws 256-bit codes with given bit means and correlations, and makes some repeats of others.

Codes are drawn 64 at a time, one lane each, so that what happens to a bit of all of them is a short
loop that the compiler vectorises. All that is random follows from a key.

Source: Qaqish 2003 (a bit whose mean is linear in earlier bits keeps means and correlations);
Blackman, Vigna 2021 (xoshiro256++); Steele, Lea, Flood 2014 (splitmix64); Simon 1955 (copies of
what was drawn before).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from numba import types

from nearsearch.kernels.jit import kernel, readonly, writable

if TYPE_CHECKING:
    from numpy.typing import NDArray

BITS: Final = 256
TILE: Final = 64
"""Codes that are drawn together."""
PARENTS: Final = 8
"""Earlier bits that the mean of a bit depends on."""
ONE: Final = 1 << 14
"""Probability 1 in `base` and `weights`."""

NEW, EXACT, NEAR, BLANK = range(4)
"""What a row is: a new code, a repeat, a repeat with some bits swapped, a blank frame."""

_STREAMS: Final = 64
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_ZERO, _ONE = np.uint64(0), np.uint64(1)
_M1, _M2, _M4 = (
    np.uint64(0x5555555555555555),
    np.uint64(0x3333333333333333),
    np.uint64(0x0F0F0F0F0F0F0F0F),
)
_SUM = np.uint64(0x0101010101010101)
_EVERY_ROW = np.uint64(0x0001000100010001)  # a row of PDQ's 16 x 16 coefficients is 16 bits
_PAIRS, _MOST_PAIRS = np.uint64(0x3333), 4

_i64, _u64 = types.int64, types.uint64


@kernel(_u64(_u64))
def mix(z: np.uint64) -> np.uint64:
    """Return splitmix64's output for a state: all bits of it depend on all bits of `z`."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@kernel(types.void(_u64, writable(_u64, 2)))
def seed(key: np.uint64, state: NDArray[np.uint64]) -> None:
    """Set the state of generators, (4, n), one a column, each by splitmix64 as its authors say."""
    n = state.shape[1]
    for i in range(4):
        for j in range(n):
            state[i, j] = mix(key + np.uint64(i * n + j + 1) * _GOLDEN)


@kernel(types.void(writable(_u64, 2), writable(_u64)))
def fill(state: NDArray[np.uint64], out: NDArray[np.uint64]) -> None:
    """Fill `out` with random words: the next of each xoshiro256++ generator in turn.

    Requires: state is (4, n) as `seed` sets it; the length of out is a multiple of n. Unchecked
    here. Order: word i * n + j is number i of generator j. Changes: `state`.
    """
    n = state.shape[1]
    s0, s1, s2, s3 = state[0], state[1], state[2], state[3]
    for first in range(0, out.shape[0], n):
        for j in range(n):
            a, b, c, d = s0[j], s1[j], s2[j], s3[j]
            total = a + d
            out[first + j] = ((total << np.uint64(23)) | (total >> np.uint64(41))) + a
            shifted = b << np.uint64(17)
            c ^= a
            d ^= b
            s0[j], s1[j] = a ^ d, b ^ c
            s2[j], s3[j] = c ^ shifted, (d << np.uint64(45)) | (d >> np.uint64(19))


@kernel(_i64(_u64))
def _popcount(word: np.uint64) -> int:
    word -= (word >> _ONE) & _M1
    word = (word & _M2) + ((word >> np.uint64(2)) & _M2)
    return int((((word + (word >> np.uint64(4))) & _M4) * _SUM) >> np.uint64(56))


@kernel(_u64(_u64, _u64, _u64, _i64))
def _turn(word: np.uint64, place: np.uint64, value: np.uint64, left: int) -> np.uint64:
    """Return bit `place` modulo 64 alone if it has this value and any are left to turn, else 0."""
    place &= np.uint64(63)
    return np.uint64((((word >> place) & _ONE) == value) & (left > 0)) << place


@kernel(types.void(_u64, writable(_u64, 2), _i64))
def balance(key: np.uint64, codes: NDArray[np.uint64], row: int) -> None:
    """Turn random bits of a code over until 128 are set, as in PDQ, whose threshold is a median.

    The four words take turns, one of them first by chance: so they stay in registers, which takes
    half of the time. What is turned cannot be predicted, hence no branches.
    """
    first = np.int64(key & np.uint64(3))
    c0, c1 = codes[row, first], codes[row, first ^ 1]
    c2, c3 = codes[row, first ^ 2], codes[row, first ^ 3]
    left = _popcount(c0) + _popcount(c1) + _popcount(c2) + _popcount(c3) - BITS // 2
    value = _ONE if left > 0 else _ZERO
    left = abs(left)
    while left > 0:
        key += _GOLDEN
        z = mix(key)
        for _ in range(2):
            bit = _turn(c0, z, value, left)
            c0 ^= bit
            left -= int(bit != _ZERO)
            bit = _turn(c1, z >> np.uint64(6), value, left)
            c1 ^= bit
            left -= int(bit != _ZERO)
            bit = _turn(c2, z >> np.uint64(12), value, left)
            c2 ^= bit
            left -= int(bit != _ZERO)
            bit = _turn(c3, z >> np.uint64(18), value, left)
            c3 ^= bit
            left -= int(bit != _ZERO)
            z >>= np.uint64(24)
    codes[row, first], codes[row, first ^ 1] = c0, c1
    codes[row, first ^ 2], codes[row, first ^ 3] = c2, c3


@kernel(
    types.void(
        _u64,
        readonly(types.int16),
        readonly(types.uint8, 2),
        readonly(types.int16, 2),
        readonly(_u64, 2),
        writable(_u64),
        readonly(types.uint8, 2),
        writable(types.uint8, 2),
        writable(_u64, 2),
    )
)
def draw(
    key: np.uint64,
    base: NDArray[np.int16],
    parents: NDArray[np.uint8],
    weights: NDArray[np.int16],
    layouts: NDArray[np.uint64],
    noise: NDArray[np.uint64],
    noise_bytes: NDArray[np.uint8],
    packed: NDArray[np.uint8],
    out: NDArray[np.uint64],
) -> None:
    """Draw codes of which 128 bits are set.

    Bit i is 1 with probability (base[i] + sum of weights[i, k] where bit parents[i, k] is 1) / ONE,
    rounded to 256ths. Then each code takes some columns (bits with the same number modulo 16), one
    in four on average, from one of `layouts`, and is balanced: codes of one layout are nearer to
    each other than others, as pictures of one composition are. Columns c and c + 2 go together;
    the bits of these are those that depend on each other most. No code takes more than 8 columns:
    else, in a billion codes, some without relation would come within 31 bits.

    Requires: parents[i] < i, or weight 0; every partial sum fits 16 bits; the number of
    layouts is a power of 2, or 0 for none; noise has 2048 words and noise_bytes (256, 64) is the
    same memory; packed is (32, 64). Unchecked here.
    Order: the first rows follow from key, whatever the number of rows.
    Cost: 256 * 8 products and 256 random bytes a code; time in `data/synthetic/README.md`.
    """
    state = np.empty((4, _STREAMS), np.uint64)
    seed(key, state)
    own = mix(key)
    lanes = np.zeros((BITS, TILE), np.int16)  # 0 or -1
    sums = np.zeros(TILE, np.int16)
    words = np.empty((4, TILE), np.uint64)
    n_layouts = np.uint64(layouts.shape[0])
    for tile in range((out.shape[0] + TILE - 1) // TILE):
        fill(state, noise)
        for i in range(BITS):
            for half in range(0, PARENTS, 4):
                w0, w1 = weights[i, half], weights[i, half + 1]
                w2, w3 = weights[i, half + 2], weights[i, half + 3]
                x0, x1 = lanes[parents[i, half]], lanes[parents[i, half + 1]]
                x2, x3 = lanes[parents[i, half + 2]], lanes[parents[i, half + 3]]
                start = base[i]
                if half == 0:
                    for lane in range(TILE):
                        sums[lane] = np.int16(
                            start
                            + (w0 & x0[lane])
                            + (w1 & x1[lane])
                            + (w2 & x2[lane])
                            + (w3 & x3[lane])
                        )
                else:
                    for lane in range(TILE):
                        sums[lane] = np.int16(
                            sums[lane]
                            + (w0 & x0[lane])
                            + (w1 & x1[lane])
                            + (w2 & x2[lane])
                            + (w3 & x3[lane])
                        )
            bit, drawn = lanes[i], noise_bytes[i]
            for lane in range(TILE):
                is_set = sums[lane] > np.int16((np.int16(drawn[lane]) << 6) + 31)
                bit[lane] = np.int16(-1) if is_set else np.int16(0)
        for k in range(BITS // 8):
            byte = packed[k]
            b0, b1, b2, b3 = lanes[8 * k], lanes[8 * k + 1], lanes[8 * k + 2], lanes[8 * k + 3]
            for lane in range(TILE):
                byte[lane] = np.uint8(
                    (b0[lane] & 0x80) | (b1[lane] & 0x40) | (b2[lane] & 0x20) | (b3[lane] & 0x10)
                )
            b0, b1, b2, b3 = lanes[8 * k + 4], lanes[8 * k + 5], lanes[8 * k + 6], lanes[8 * k + 7]
            for lane in range(TILE):
                byte[lane] |= np.uint8(
                    (b0[lane] & 0x08) | (b1[lane] & 0x04) | (b2[lane] & 0x02) | (b3[lane] & 0x01)
                )
        for k in range(4):
            word = words[k]
            p0, p1, p2, p3 = packed[8 * k], packed[8 * k + 1], packed[8 * k + 2], packed[8 * k + 3]
            for lane in range(TILE):
                word[lane] = (
                    np.uint64(p0[lane])
                    | (np.uint64(p1[lane]) << np.uint64(8))
                    | (np.uint64(p2[lane]) << np.uint64(16))
                    | (np.uint64(p3[lane]) << np.uint64(24))
                )
            p0, p1, p2, p3 = (
                packed[8 * k + 4],
                packed[8 * k + 5],
                packed[8 * k + 6],
                packed[8 * k + 7],
            )
            for lane in range(TILE):
                word[lane] |= (
                    (np.uint64(p0[lane]) << np.uint64(32))
                    | (np.uint64(p1[lane]) << np.uint64(40))
                    | (np.uint64(p2[lane]) << np.uint64(48))
                    | (np.uint64(p3[lane]) << np.uint64(56))
                )
        for lane in range(min(TILE, out.shape[0] - tile * TILE)):
            row = tile * TILE + lane
            own += _GOLDEN
            z = mix(own)
            for k in range(4):
                out[row, k] = words[k, lane]
            if n_layouts:
                layout = np.int64((z >> np.uint64(32)) & (n_layouts - _ONE))
                columns = z & (z >> np.uint64(16)) & _PAIRS
                if _popcount(columns) > _MOST_PAIRS:
                    columns = _ZERO
                columns = (columns | (columns << np.uint64(2))) * _EVERY_ROW
                for k in range(4):
                    out[row, k] ^= (out[row, k] ^ layouts[layout, k]) & columns
            balance(~z, out, row)


@kernel(types.void(_u64, writable(_u64, 2), _i64, writable(_u64)))
def swap(key: np.uint64, codes: NDArray[np.uint64], row: int, turned: NDArray[np.uint64]) -> None:
    """Move a code 2 to 64 bits away: as many set bits are cleared as clear ones are set.

    Distances: three in four uniform over 2, 4 ... 64, the others fall by half with each step, about
    as those of real pictures to the nearest earlier one do.

    Requires: 32 bits of each kind at least; `turned`, which gets the bits, has 4 words. Unchecked
    here.
    """
    key += _GOLDEN
    z = mix(key)
    if z & np.uint64(3):
        n_swaps = np.int64((z >> np.uint64(2)) & np.uint64(31)) + np.int64(1)
    else:
        z >>= np.uint64(2)
        n_swaps = np.int64(1)
        while z & _ONE and n_swaps < 32:
            z >>= _ONE
            n_swaps += np.int64(1)
    set_left = clear_left = n_swaps
    for k in range(4):
        turned[k] = 0
    chosen, bytes_left = _ZERO, 0
    while set_left + clear_left > 0:
        if bytes_left == 0:
            key += _GOLDEN
            chosen, bytes_left = mix(key), 8
        place = np.int64(chosen & np.uint64(255))
        chosen >>= np.uint64(8)
        bytes_left -= 1
        word, bit = place >> 6, np.uint64(place & 63)
        is_free = ((turned[word] >> bit) & _ONE) == _ZERO
        is_set = ((codes[row, word] >> bit) & _ONE) == _ONE
        takes_set = is_free & is_set & (set_left > 0)
        takes_clear = is_free & (not is_set) & (clear_left > 0)
        turn = np.uint64(takes_set | takes_clear) << bit
        codes[row, word] ^= turn
        turned[word] |= turn
        set_left -= int(takes_set)
        clear_left -= int(takes_clear)


@kernel(_i64(_u64, _u64, _u64, _u64, writable(types.uint8)))
def choose(
    key: np.uint64, exact: np.uint64, near: np.uint64, blank: np.uint64, kinds: NDArray[np.uint8]
) -> int:
    """Say what the rows of a block are; return how many are `NEW`.

    Requires: `exact`, `near`, `blank` are shares in 2**-32 and sum to 2**32 at most. Unchecked.
    Order: kinds[row], `NEW`, `EXACT`, `NEAR` or `BLANK`, follows from key, row and the shares.
    """
    n_new = 0
    for row in range(kinds.shape[0]):
        chance = mix(key + np.uint64(row + 1) * _GOLDEN) >> np.uint64(32)
        kind = NEW
        if chance < blank:
            kind = BLANK
        elif chance < blank + exact:
            kind = EXACT
        elif chance < blank + exact + near:
            kind = NEAR
        kinds[row] = kind
        n_new += int(kind == NEW)
    return n_new


@kernel(
    types.void(
        _u64, _i64, readonly(_u64, 2), readonly(_u64, 2), readonly(_u64, 2), readonly(types.uint8),
        writable(_u64, 2),
    )
)  # fmt: skip
def arrange(
    key: np.uint64,
    octaves: int,
    pool: NDArray[np.uint64],
    blanks: NDArray[np.uint64],
    new: NDArray[np.uint64],
    kinds: NDArray[np.uint8],
    codes: NDArray[np.uint64],
) -> None:
    """Fill a block: new codes in their order, repeats of an earlier row or of the pool, blanks.

    Half of the repeats take a row before them, any of them equally often (copies are copied too);
    the others take a code of the pool: one of `octaves` octaves of it, 16, 32, 64 ... codes long,
    each equally often, and of these any. So the m-th code of the pool comes about 1/m as often.
    Where the row before is blank, the pool is taken.

    Requires: key and kinds as with `choose`; new has as many rows as it returned; the pool holds
    16 * (2**octaves - 1) codes; blanks a power of 2. Unchecked here.
    Order: row by row; a row depends on those before it in the block only.
    """
    n_blanks = np.uint64(blanks.shape[0])
    turned = np.empty(4, np.uint64)
    n_new = 0
    for row in range(codes.shape[0]):
        kind = kinds[row]
        if kind == NEW:
            for k in range(4):
                codes[row, k] = new[n_new, k]
            n_new += 1
            continue
        own = mix(key + np.uint64(row + 1) * _GOLDEN)
        if kind == BLANK:
            # The smaller of two: the first of 8 comes a quarter of the time, the last 1 in 64.
            one, two = own & (n_blanks - _ONE), (own >> np.uint64(16)) & (n_blanks - _ONE)
            for k in range(4):
                codes[row, k] = blanks[np.int64(min(one, two)), k]
            continue
        z = mix(own + _GOLDEN)
        part = (z >> np.uint64(32)) & np.uint64(0x7FFFFFFF)
        source = np.int64((part * np.uint64(row)) >> np.uint64(31))
        if z >> np.uint64(63) and row > 0 and kinds[source] != BLANK:
            for k in range(4):
                codes[row, k] = codes[source, k]
        else:
            octave = np.int64(((z & np.uint64(0xFFFF)) * np.uint64(octaves)) >> np.uint64(16))
            size = 16 << octave
            place = size - 16 + np.int64(mix(z) & np.uint64(size - 1))
            for k in range(4):
                codes[row, k] = pool[place, k]
        if kind == NEAR:
            swap(z, codes, row, turned)
