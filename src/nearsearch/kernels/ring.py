"""The ring: exact range search that looks at a few thousand postings instead of every code.

A code is cut into bands after a fixed permutation of its bits. For each band there is a directory
(`offsets`, one entry per value of the band) into `postings` of 48 bits: the row, and as many as fit
of the code's bits that follow the band, cyclically. A search gives each band a threshold t >= -1
with sum(t + 1) = radius + 1, and looks up all values within t bits of the query's in each band.

Why nothing is missed: if every band had d > t, the sum of d would exceed the radius, so some band
has d <= t (pigeonhole). Sharper: with x = d - (t + 1) the sum of x over the ring of bands is below
0, so some start has *all* its running sums below 0 (cycle lemma). At that start the next bands
cannot break d_i + ... + d_j <= sum(t + 1) - 1, and the bits beside the row show most of those that
do. A match is emitted from the first band whose filter it passes, so it comes once.

Source: Norouzi, Punjani, Fleet 2012 (multi-index hashing); Qin et al. 2018 (GPH: thresholds by
cost); Qin, Xiao 2018 (pigeonring).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from nearsearch.kernels.jit import kernel, readonly, writable

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_THRESHOLD: Final = 4  # a ball of 25 bits and radius 4 has 15,000 keys
SCRATCH: Final = 1 << 16  # keys of the largest ball: width 32, radius 4 has 41,449

# Probes in flight. Radius 31 at 10 million codes takes 84 us; 24 and 12, 48 and 24 take the same,
# 64 and 40 take 88, 16 and 8 take 100. Without any prefetch an earlier kernel took twice as long.
_AHEAD_OFFSETS, _AHEAD_POSTINGS = 32, 16
_ZERO, _ONE, _ALL = np.uint64(0), np.uint64(1), np.uint64(0xFFFFFFFFFFFFFFFF)
_POSTING_BITS = np.uint64(48)

_i64, _u64, _f64 = types.int64, types.uint64, types.float64
_codes = readonly(types.uint8, 2)
_table = readonly(types.uint64, 3)
_words = readonly(types.uint64, 2)
_mapped_words = readonly(types.uint64, 2, aligned=False)  # FAISS's header has 33 bytes
_layout = readonly(types.int64, 2)
_offsets = readonly(types.uint32)
_postings = readonly(types.uint16)
_ints, _keys = readonly(types.int64), readonly(types.uint64)
_ints_out, _keys_out = writable(types.int64), writable(types.uint64)


@intrinsic  # type: ignore[untyped-decorator]
def _prefetch(context: Any, array: Any, index: Any) -> Any:
    """Ask for the cache line of element `index` of the array's memory; never faults."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        byte, i32 = ir.IntType(8), ir.IntType(32)
        pointer = builder.bitcast(builder.gep(data, [arguments[1]]), ir.PointerType(byte))
        kind = ir.FunctionType(ir.VoidType(), [ir.PointerType(byte), i32, i32, i32])
        call = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        builder.call(call, [pointer, i32(0), i32(3), i32(1)])  # for reading, keep, data
        return context.get_dummy_value()

    return types.void(array, types.int64), generate


@kernel(_i64(_u64))
def _popcount(x: np.uint64) -> int:
    """Count the bits. The multiply form is what LLVM knows as popcount (Hacker's Delight, 5-1)."""
    x = x - ((x >> _ONE) & np.uint64(0x5555555555555555))
    x = (x & np.uint64(0x3333333333333333)) + ((x >> np.uint64(2)) & np.uint64(0x3333333333333333))
    x = (x + (x >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((x * np.uint64(0x0101010101010101)) >> np.uint64(56))  # type: ignore[return-value]


@kernel(_u64(_keys, _i64, _i64))
def _slice(code: NDArray[np.uint64], start: int, width: int) -> np.uint64:
    """Return `width` <= 32 bits of a permuted code from position `start`, cyclically."""
    word, shift = start >> 6, np.uint64(start & 63)
    bits = code[word] >> shift
    if (start & 63) + width > 64:
        following = word + 1 if word + 1 < code.shape[0] else 0
        bits |= code[following] << (np.uint64(64) - shift)
    return bits & ((_ONE << np.uint64(width)) - _ONE)  # type: ignore[no-any-return]


@kernel(types.void(readonly(types.uint8), _table, _keys_out))
def _permute(code: NDArray[np.uint8], table: NDArray[np.uint64], out: NDArray[np.uint64]) -> None:
    """Write the permuted code; `table` (bytes, 256, words) says where the bits of a byte go."""
    last = out.shape[0] - 1
    for at in range(0, last + 1, 4):  # four words at a time: 58 ns a code of 256 bits, not 108
        second, third, fourth = min(at + 1, last), min(at + 2, last), min(at + 3, last)
        a = b = c = d = _ZERO
        for i in range(code.shape[0]):
            byte = code[i]
            a |= table[i, byte, at]
            b |= table[i, byte, second]
            c |= table[i, byte, third]
            d |= table[i, byte, fourth]
        out[fourth], out[third], out[second], out[at] = d, c, b, a


# --- building ---------------------------------------------------------------------------------


@kernel(_i64(_codes, _table, writable(types.uint64, 2)))
def permute_codes(
    codes: NDArray[np.uint8], table: NDArray[np.uint64], out: NDArray[np.uint64]
) -> int:
    """Write each code permuted; return how many have an odd weight. Requires: out (n, words)."""
    n_odd = 0
    for row in range(codes.shape[0]):
        _permute(codes[row], table, out[row])
        folded = _ZERO
        for word in range(out.shape[1]):
            folded ^= out[row, word]
        n_odd += _popcount(folded) & 1
    return n_odd


@kernel(types.void(_words, _i64, _i64, _i64, _ints_out))
def count_keys(
    codes: NDArray[np.uint64], start: int, width: int, low: int, counts: NDArray[np.int64]
) -> None:
    """Add to `counts` how many codes have each value of the band's bits above the `low` lowest."""
    for row in range(codes.shape[0]):
        counts[np.int64(_slice(codes[row], start, width) >> np.uint64(low))] += 1


@kernel(types.void(_words, _i64, _i64, _i64, _u64, _i64, _ints_out, _keys_out))
def partition(
    codes: NDArray[np.uint64],
    start: int,
    width: int,
    low: int,
    row_bits: np.uint64,
    chain: int,
    cursors: NDArray[np.int64],
    out: NDArray[np.uint64],
) -> None:
    """Write the posting of each code to its partition of `out` (n,), the low bits of the key above.

    Requires: cursors[p] is where partition p begins, from `count_keys`; low <= 16; row_bits +
    chain <= 48. Order: ascending row.
    Cost: one pass, 6 ns a code. One store of 64 bits: with three of 32 in a row it takes 55.
    """
    bits = 64 * codes.shape[1]
    mask = (_ONE << np.uint64(low)) - _ONE
    following = (start + width) % bits
    for row in range(codes.shape[0]):
        key = _slice(codes[row], start, width)
        part = np.int64(key >> np.uint64(low))
        at = cursors[part]
        cursors[part] = at + 1
        out[at] = np.uint64(row) | (_slice(codes[row], following, chain) << row_bits)
        out[at] |= (key & mask) << _POSTING_BITS


@kernel(types.void(_keys, _ints, _i64, writable(types.uint32), writable(types.uint16)))
def place(
    parted: NDArray[np.uint64],
    bounds: NDArray[np.int64],
    low: int,
    offsets: NDArray[np.uint32],
    postings: NDArray[np.uint16],
) -> None:
    """Sort each partition by its low bits into `postings` (3 * n,), and write the directory.

    Requires: bounds (parts + 1,); offsets (parts * 2**low + 1,). Order: rows ascending in a bucket.
    """
    n_keys = 1 << low
    cursors = np.empty(n_keys, np.int64)
    for part in range(bounds.shape[0] - 1):
        cursors[:] = 0
        for i in range(bounds[part], bounds[part + 1]):
            cursors[np.int64(parted[i] >> _POSTING_BITS)] += 1
        at = bounds[part]
        for key in range(n_keys):
            offsets[part * n_keys + key] = np.uint32(at)
            count, cursors[key] = cursors[key], at
            at += count
        for i in range(bounds[part], bounds[part + 1]):
            posting = parted[i]
            low_bits = np.int64(posting >> _POSTING_BITS)
            at = cursors[low_bits]
            cursors[low_bits] = at + 1
            for part_of_it in range(3):
                postings[3 * at + part_of_it] = np.uint16(posting >> np.uint64(16 * part_of_it))
    offsets[(bounds.shape[0] - 1) * n_keys] = np.uint32(bounds[bounds.shape[0] - 1])


# --- planning a query -------------------------------------------------------------------------


@kernel(_f64(readonly(types.float64, 2), _i64, _ints_out))
def allocate(costs: NDArray[np.float64], radius: int, thresholds: NDArray[np.int64]) -> float:
    """Write the cheapest thresholds with sum(t + 1) = radius + 1; return their cost.

    `costs[band, t + 1]`; infinity if no thresholds up to the last column reach the radius.
    Cost: bands * radius * columns steps. Source: GPH, section 5 (dynamic programming).
    """
    n_bands, n_levels, need = costs.shape[0], costs.shape[1], radius + 1
    best = np.full((n_bands + 1, need + 1), np.inf)
    choice = np.zeros((n_bands, need + 1), np.int64)
    best[0, 0] = 0.0
    for band in range(n_bands):
        for have in range(need + 1):
            if best[band, have] == np.inf:
                continue
            for level in range(min(n_levels, need - have + 1)):
                cost = best[band, have] + costs[band, level]
                if cost < best[band + 1, have + level]:
                    best[band + 1, have + level] = cost
                    choice[band, have + level] = level
    left = need
    for band in range(n_bands - 1, -1, -1):
        level = choice[band, left] if best[n_bands, need] < np.inf else 0
        thresholds[band] = level - 1
        left -= level
    return best[n_bands, need]  # type: ignore[no-any-return]


@kernel(types.void(_layout, _offsets, _keys, _i64, _f64, _f64, writable(types.float64, 2)))
def _estimate(
    layout: NDArray[np.int64],
    offsets: NDArray[np.uint32],
    keys: NDArray[np.uint64],
    n: int,
    probe_cost: float,
    candidate_cost: float,
    costs: NDArray[np.float64],
) -> None:
    """Write what each threshold of each band costs, so that a common value in one band turns the
    search to the others. The query's own bucket is counted exactly, and where it is far above the
    average the buckets one bit away too; further ones are taken to be like those, or average.
    """
    for band in range(layout.shape[0]):
        width, base = layout[band, 1], layout[band, 2]
        own = base + np.int64(keys[band])
        n_candidates = np.float64(np.int64(offsets[own + 1]) - np.int64(offsets[own]))
        average = n / np.float64(_ONE << np.uint64(width))
        if n_candidates > 16 + 4 * average:
            n_near = np.float64(0)
            for bit in range(width):
                near = base + np.int64(keys[band] ^ (_ONE << np.uint64(bit)))
                n_near += np.float64(np.int64(offsets[near + 1]) - np.int64(offsets[near]))
            average = max(average, n_near / width)
        n_probes = shell = 1.0
        costs[band, 0] = 0.0
        costs[band, 1] = probe_cost + candidate_cost * n_candidates
        for t in range(1, costs.shape[1] - 1):
            shell *= (width - t + 1) / t
            n_probes += shell
            n_candidates += shell * average
            costs[band, t + 1] = probe_cost * n_probes + candidate_cost * n_candidates
            if t > width:
                costs[band, t + 1] = np.inf


@kernel(_i64(_u64, _i64, _i64, _keys_out, _ints_out))
def _ball(
    key: np.uint64, width: int, radius: int, keys: NDArray[np.uint64], ends: NDArray[np.int64]
) -> int:
    """Write all values of `width` bits within `radius` bits of `key`, nearest first.

    `ends[d]` is where those at distance d end. Source: Gosper's hack (HAKMEM 175).
    """
    keys[0], ends[0], count = key, 1, 1
    limit = _ONE << np.uint64(width)
    for d in range(1, radius + 1):
        mask = (_ONE << np.uint64(d)) - _ONE
        while mask < limit:
            keys[count] = key ^ mask
            count += 1
            lowest = mask & (~mask + _ONE)
            carried = mask + lowest
            mask = (((carried ^ mask) >> np.uint64(2)) // lowest) | carried
        ends[d] = count
    return count


@kernel(types.void(_layout, _ints, writable(types.int64, 2)))
def _limit_chains(
    layout: NDArray[np.int64], thresholds: NDArray[np.int64], limits: NDArray[np.int64]
) -> None:
    """Write how many bits may differ from each band on: (through the next band, its width, through
    all bands that the chain touches). A band touched in part gives a lower bound, which is safe.
    """
    n_bands = layout.shape[0]
    for band in range(n_bands):
        following, chain = (band + 1) % n_bands, layout[band, 3]
        limits[band, 0] = thresholds[band] + 1 + thresholds[following]
        limits[band, 1] = min(layout[following, 1], chain)
        total, covered, reached = thresholds[band] + 1, 0, following
        while covered < chain and reached != band:
            total += thresholds[reached] + 1
            covered += layout[reached, 1]
            reached = (reached + 1) % n_bands
        limits[band, 2] = total - 1


@kernel(types.boolean(_i64, _u64, _i64, _u64, _i64))
def _passes(
    distance: int, difference: np.uint64, next_limit: int, next_mask: np.uint64, chain_limit: int
) -> bool:
    """Tell whether a posting may be the start of a match: the filter, in one place."""
    if distance + _popcount(difference) > chain_limit:
        return False
    return distance + _popcount(difference & next_mask) <= next_limit


# --- searching --------------------------------------------------------------------------------


@kernel(types.boolean(_keys, _i64, _layout, _ints, _keys, _keys, readonly(types.int64, 2)))
def _came_before(
    code: NDArray[np.uint64],
    band: int,
    layout: NDArray[np.int64],
    thresholds: NDArray[np.int64],
    keys: NDArray[np.uint64],
    chains: NDArray[np.uint64],
    limits: NDArray[np.int64],
) -> bool:
    """Tell whether a permuted code passes the filter of a band before `band`."""
    bits = 64 * code.shape[0]
    for earlier in range(band):
        start, width = layout[earlier, 0], layout[earlier, 1]
        distance = _popcount(_slice(code, start, width) ^ keys[earlier])
        if distance > thresholds[earlier]:
            continue
        chain = _slice(code, (start + width) % bits, layout[earlier, 3])
        next_mask = _ALL >> np.uint64(64 - limits[earlier, 1])
        difference = chain ^ chains[earlier]
        if _passes(distance, difference, limits[earlier, 0], next_mask, limits[earlier, 2]):
            return True
    return False


_SEARCH = types.int64(
    _codes,
    _table,
    _layout,
    _offsets,
    _postings,
    _mapped_words,
    _i64,
    _i64,
    readonly(types.float64),
    _i64,
    writable(types.int64, 2),
    _ints_out,
    _ints_out,
    writable(types.uint16),
    writable(types.uint8),
)


@kernel(_SEARCH)
def search(
    queries: NDArray[np.uint8],
    table: NDArray[np.uint64],
    layout: NDArray[np.int64],
    offsets: NDArray[np.uint32],
    postings: NDArray[np.uint16],
    codes: NDArray[np.uint64],
    radius: int,
    parity: int,
    costs: NDArray[np.float64],
    first: int,
    scratch: NDArray[np.int64],
    out_query: NDArray[np.int64],
    out_row: NDArray[np.int64],
    out_distance: NDArray[np.uint16],
    out_state: NDArray[np.uint8],
) -> int:
    """Append every row within `radius` bits of `queries[first:]`, as far as the output has room.

    Requires: layout (bands, 4): start, width, base in `offsets`, length of the chain; postings
    (3 * bands * n,); codes (n, words); parity of all codes' weights, -1 if they differ; costs: of a
    probe, of a candidate, and the most a query may cost before a scan is cheaper; scratch
    (3, SCRATCH), kept between calls (fresh memory costs 5 page faults, 10 us). A damaged directory
    or posting leads to wrong rows at worst, never outside the arrays.
    Order: by query; within a query by band. out_state of a query: 1 done, 2 to be scanned, 0 not
    reached (call again from there). Returns the number of rows written.
    Cost: 20 ns a probe and 6 ns a candidate at 10 million codes, warm.
    """
    n, n_words, n_bands = codes.shape[0], codes.shape[1], layout.shape[0]
    bits, n_out = 64 * n_words, 0
    row_bits = _ZERO
    while np.uint64(n - 1) >> row_bits:
        row_bits += _ONE
    row_mask = (_ONE << row_bits) - _ONE
    query, code = np.empty(n_words, np.uint64), np.empty(n_words, np.uint64)
    raw, found = np.empty(n_words, np.uint64), np.empty(8 * n_words, np.uint8)
    band_keys, chains = np.empty(n_bands, np.uint64), np.empty(n_bands, np.uint64)
    thresholds, limits = np.empty(n_bands, np.int64), np.empty((n_bands, 3), np.int64)
    estimates = np.empty((n_bands, MAX_THRESHOLD + 2), np.float64)
    keys, lows, highs = scratch[0].view(np.uint64), scratch[1], scratch[2]
    ends = np.empty(MAX_THRESHOLD + 2, np.int64)
    for q in range(first, queries.shape[0]):
        _permute(queries[q], table, query)
        weight = 0
        for word in range(n_words):
            weight += _popcount(query[word])
            raw[word] = np.uint64(0)
            for byte in range(8):
                raw[word] |= np.uint64(queries[q, 8 * word + byte]) << np.uint64(8 * byte)
        bound = radius
        if parity >= 0 and (weight + parity + radius) & 1:
            bound -= 1  # all distances have the other parity
        if bound < 0:
            out_state[q] = 1
            continue
        for band in range(n_bands):
            start, width = layout[band, 0], layout[band, 1]
            band_keys[band] = _slice(query, start, width)
            chains[band] = _slice(query, (start + width) % bits, layout[band, 3])
        _estimate(layout, offsets, band_keys, n, costs[0], costs[1], estimates)
        if not allocate(estimates, bound, thresholds) <= costs[2]:
            out_state[q] = 2
            continue
        _limit_chains(layout, thresholds, limits)
        n_before, is_full, budget = n_out, False, costs[2]
        for band in range(n_bands):
            if thresholds[band] < 0:
                continue
            base, first_posting, chain = layout[band, 2], band * n, chains[band]
            next_limit, chain_limit = limits[band, 0], limits[band, 2]
            next_mask = _ALL >> np.uint64(64 - limits[band, 1])
            count = _ball(band_keys[band], layout[band, 1], thresholds[band], keys, ends)
            budget -= costs[0] * count
            for i in range(min(_AHEAD_OFFSETS, count)):
                _prefetch(offsets, base + np.int64(keys[i]))
            distance = 0
            for step in range(-_AHEAD_POSTINGS, count):
                ahead = step + _AHEAD_OFFSETS
                if ahead < count:
                    _prefetch(offsets, base + np.int64(keys[ahead]))
                ahead = step + _AHEAD_POSTINGS
                if ahead < count:
                    at = base + np.int64(keys[ahead])
                    lows[ahead] = np.int64(offsets[at])
                    highs[ahead] = min(np.int64(offsets[at + 1]), n)
                    if lows[ahead] < highs[ahead]:
                        budget -= costs[1] * (highs[ahead] - lows[ahead])
                        _prefetch(postings, 3 * (first_posting + lows[ahead]))
                        _prefetch(postings, 3 * (first_posting + highs[ahead]) - 1)
                if step < 0:
                    continue
                if budget < 0:
                    break
                while step >= ends[distance]:
                    distance += 1
                for i in range(lows[step], highs[step]):
                    at = 3 * (first_posting + i)
                    posting = np.uint64(postings[at]) | np.uint64(postings[at + 1]) << np.uint64(16)
                    posting |= np.uint64(postings[at + 2]) << np.uint64(32)
                    difference = (posting >> row_bits) ^ chain
                    if not _passes(distance, difference, next_limit, next_mask, chain_limit):
                        continue
                    row = np.int64(posting & row_mask)
                    if row >= n:
                        continue
                    total = 0
                    for word in range(n_words):
                        total += _popcount(codes[row, word] ^ raw[word])
                    if total > bound:
                        continue
                    for word in range(n_words):
                        for byte in range(8):
                            value = (codes[row, word] >> np.uint64(8 * byte)) & np.uint64(255)
                            found[8 * word + byte] = np.uint8(value)
                    _permute(found, table, code)
                    if _came_before(code, band, layout, thresholds, band_keys, chains, limits):
                        continue
                    if n_out == out_row.shape[0]:
                        is_full = True
                        break
                    out_query[n_out], out_row[n_out] = q, row
                    out_distance[n_out] = np.uint16(total)
                    n_out += 1
                if is_full:
                    break
            if is_full or budget < 0:
                break
        if is_full and budget >= 0 and n_before > 0:
            return n_before  # the caller empties the output and comes back to this query
        # Scanned: more matches than room, or fuller buckets than estimated, which a scan bounds.
        out_state[q] = 2 if is_full or budget < 0 else 1
        if out_state[q] == 2:
            n_out = n_before
    return n_out
