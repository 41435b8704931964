"""The planner: how a shard's codes are cut into bands, and what a search may cost. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

# Nanoseconds, for 10 million uniform codes of 256 bits, warm, one core. For 12 bands they say 86 us
# at radius 31 (2,032 probes, 7,278 candidates) and 411 at 40 (10,362 and 32,328): measured 84, 367.
PROBE_COST: Final = 20.0
CANDIDATE_COST: Final = 6.3
SCAN_COST: Final = 0.06  # a byte of codes; 0.04 in the last-level cache, 0.13 from memory
MIN_RING_CODES: Final = 1 << 16  # see docs/decisions/002-the-ring.md
MIN_RING_CODES_AT_COMMIT: Final = 1 << 21
SMALL_SHARD: Final = 1 << 13  # members; up to here shards are merged whatever their sizes
MOST_MERGED_AT_COMMIT: Final = 1 << 16  # members: 0.1 s before a commit is live
MOST_MERGED: Final = 1 << 22  # members: what is merged by itself takes 2 GB and some seconds
_WORN: Final = 4  # a shard is written anew when one in so many of its members is dead
_DESIGN_RADIUS: Final = 32 / 256  # of the bits: where PDQ searches happen
_SAMPLE: Final = 10_000  # codes that decide which bits share a band


def tail_to_merge(sizes: Sequence[int], small: int, most: int) -> int:
    """Return how many of the last shards to make one of; 1 for nothing to do.

    A shard joins those behind it while it has at most twice their members, or `small`, and all
    together at most `most`. So sizes fall by more than half from shard to shard, their number grows
    with the logarithm of the members, and a member is written that often.

    Parameters
    ----------
    sizes
        Members of each shard, in order.
    """
    count = total = 0
    for size in reversed(sizes):
        if count and (size > max(small, 2 * total) or total + size > most):
            break
        count, total = count + 1, total + size
    return count


def is_worn(members: int, dead: int) -> bool:
    """Tell whether so much of a shard is dead that it should be written anew."""
    return dead * _WORN > members and SMALL_SHARD < members <= MOST_MERGED


def scan_cost(n_codes: int, code_bytes: int) -> float:
    """Return what a scan of a shard takes for one query, in nanoseconds."""
    return SCAN_COST * n_codes * code_bytes


def band_widths(n_codes: int, bits: int) -> list[int]:
    """Return the widths of the bands that make a search cheapest, for codes spread evenly.

    More bands are narrower: fewer values to look up, more candidates behind each. A directory may
    not have more entries than there are codes, which bounds it to half the size of the postings.
    """
    radius = round(_DESIGN_RADIUS * bits)
    best: tuple[float, list[int]] | None = None
    for n_bands in range(max(2, -(-bits // 32)), bits // 4 + 1):
        widths = [bits // n_bands + (i < bits % n_bands) for i in range(n_bands)]
        if 2 ** widths[0] > n_codes and n_bands < bits // 4:
            continue
        cost = _even_cost(n_codes, widths, radius)
        if best is None or cost < best[0]:
            best = cost, widths
    if best is None:
        raise ValueError(f"no bands for codes of {bits} bits")
    return best[1]


def chain_bits(n_codes: int, bits: int, width: int) -> int:
    """Return how many of the bits that follow a band of `width` stand beside each row.

    A posting has 48 bits, of which the number of a row takes what it needs: at 10 million codes 24
    are left. With 32 radius 31 took the same, and radius 48 a tenth less.
    """
    return min(32, 48 - (n_codes - 1).bit_length(), bits - width)


def _even_cost(n_codes: int, widths: list[int], radius: int) -> float:
    """Return the cost of a query when thresholds are shared out as evenly as they can be."""
    levels, wider = divmod(radius + 1, len(widths))
    cost = 0.0
    for number, width in enumerate(widths):
        shell = probes = 1.0
        for t in range(1, levels + (number < wider)):
            shell *= (width - t + 1) / t
            probes += shell
        if levels + (number < wider) > 0:
            cost += probes * (PROBE_COST + CANDIDATE_COST * n_codes / 2.0**width)
    return cost


def permutation(codes: NDArray[np.uint8], widths: list[int]) -> NDArray[np.int64]:
    """Return which bit of a code stands at each place of the bands, one after the other.

    Bits that go together make a band's values uneven, and its common values slow. Each bit, the
    most dependent first, goes to the band where it is least correlated with those already there.

    Parameters
    ----------
    codes
        (n, bytes) uint8, distinct; a regular sample of at most 10,000 is looked at.
    widths
        Of the bands; their sum is the number of bits.

    Notes
    -----
    The number of pairs of codes that share a band's value, against even spreading, for bands of 16
    bits of real PDQ codes: 5 to 8 in natural order, 1.8 to 6.6 at random.
    """
    bits = 8 * codes.shape[1]
    sample = np.unpackbits(codes[:: max(1, len(codes) // _SAMPLE)], axis=1).astype(np.float32)
    centred = sample - sample.mean(axis=0)
    spread = np.sqrt((centred**2).sum(axis=0))
    spread[spread == 0] = np.inf  # a bit that never changes tells nothing: correlation 0
    related = (centred.T @ centred / np.outer(spread, spread)) ** 2
    # A biased bit splits its band unevenly, as if correlated with itself.
    bias = (2 * sample.mean(axis=0) - 1) ** 2
    np.fill_diagonal(related, 0)
    room = list(widths)
    members: list[list[int]] = [[] for _ in widths]
    burden = np.zeros((len(widths), bits))
    held = np.zeros(len(widths))  # bias already in the band
    for bit in np.argsort(-(related.sum(axis=0) + bias), kind="stable"):
        open_bands = [band for band in range(len(widths)) if room[band]]
        band = min(open_bands, key=lambda b: (burden[b, bit] + bias[bit] * held[b], -room[b]))
        members[band].append(int(bit))
        burden[band] += related[bit]
        held[band] += bias[bit]
        room[band] -= 1
    return np.array([bit for band in members for bit in band], np.int64)
