"""Evidence: which chains of frame matches are segments, and which may be chance. Pure.

A *picture* is a moment of a segment that differs from its others on both sides: a still that is
held for a minute is one picture, whatever the number of frames and rows that match. A segment has

- at least 3 frames, 2 pictures and 2 s, or 2 frames and pictures if it is the whole of a film, and
- so many pictures in a row as are not expected by chance, where frames match as often as those of
  the same two films that are not in it, those just beside it, those of films that have no chain at
  all, or as its own frames do in all other items, but for one match a second in each;
- or it agrees for long: for most of both films, for 10 s and half of one, or for 30 s.

The last is for stills, of which a minute is no more than one coincidence: blank frames match
everywhere. Matches of unrelated films come one by one, and rarely line up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

NEAR: Final = 1500
"""Milliseconds off the line of a segment: films are sampled once a second, and at cuts."""

SLOWEST: Final = 0.75
FASTEST: Final = 1.35
"""Item time a query time, of a step; speeds from 0.8 to 1.25 are meant to be found."""

WHOLE: Final = 0.8
"""The part of a film that is as good as all: its first and last frames often find nothing."""

_LEAST_TIME: Final = 2000
_STILL_TIME: Final = 10_000
_LONG_TIME: Final = 30_000

# With these, 4 of 8,100 calls with noise only, most of it dense, gave a segment; clips of 4, 6 and
# 10 s inside longer films were found in 76, 93 and 98 of a hundred, up to 40 % of frames missing.
_PRIOR: Final = 0.01  # bars of noise in a pair that has no others
_CHANCE: Final = 1e-3  # segments by chance in one call, about
_CHANCE_WHOLE: Final = 0.01  # that it begins and ends with a film is evidence too


class Films(NamedTuple):
    """Pairs of films: how long they are, how much matches in them and in films without a chain."""

    query_ms: NDArray[np.int64]
    item_ms: NDArray[np.int64]
    bars: NDArray[np.int64]
    """See `kernels.chains`."""
    noise_bars: float
    noise_area: float
    """Query times item duration of the pairs without a chain, all in all, in square ms."""

    def take(self, where: NDArray[np.int64]) -> Films:
        """Return the pairs at some places."""
        query_ms, item_ms, bars = self.query_ms[where], self.item_ms[where], self.bars[where]
        return Films(query_ms, item_ms, bars, self.noise_bars, self.noise_area)


class Counts(NamedTuple):
    """What is known of chains, in arrays of equal length."""

    frames: NDArray[np.int64]
    pictures: NDArray[np.int64]
    matched: NDArray[np.int64]
    """Query time with a match, in milliseconds."""
    span: NDArray[np.int64]
    """From first to last match in the query, in milliseconds."""


def is_evidence(
    counts: Counts, films: Films, height: float = 0.0, around: float = 0.0
) -> NDArray[np.bool_]:
    """Tell which chains are segments.

    Parameters
    ----------
    films
        Of each chain, or one pair.
    height
        For how long a frame matches on the other side without a break, on average, in
        milliseconds: one beside the chain, or in it where there is none.
    around
        How many bars there are beside the chain, in a square millisecond.
    """
    least = np.minimum(films.query_ms, films.item_ms)
    whole = counts.matched >= WHOLE * least
    enough = (counts.frames >= 3) & (counts.matched >= _LEAST_TIME) | (counts.frames >= 2) & whole
    # A clip that is looped all along the other film must not pass for noise of its own.
    others = np.where(whole, 0, films.bars - counts.frames)
    chance = _chance(counts, films, others, height, np.where(whole, 0.0, around))
    rare = chance <= np.where(whole, _CHANCE_WHOLE, _CHANCE)
    return enough & (counts.pictures >= 2) & rare | _is_long(counts, films)


def _chance(
    counts: Counts,
    films: Films,
    others: NDArray[np.int64],
    height: float,
    around: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return how many chains of so many pictures in so short a time noise alone would make.

    Each bar may begin one; each step then finds another in a window of time and offset.
    """
    area = films.query_ms.astype(np.float64) * films.item_ms
    elsewhere = films.noise_bars / (films.noise_area + area)
    density = np.maximum(np.maximum((others + _PRIOR) / area, elsewhere), around)
    steps = np.maximum(counts.pictures - 1, 0)
    gap = counts.span / np.maximum(steps, 1)
    window = gap * (2 * NEAR + (FASTEST - SLOWEST) * gap + height)
    chance: NDArray[np.float64] = np.minimum(density * window, 1.0) ** steps
    return chance * (films.noise_bars + others + counts.frames)


def _is_long(counts: Counts, films: Films) -> NDArray[np.bool_]:
    """Tell which films agree for so long that a single picture is enough."""
    matched = counts.matched
    half = matched >= 0.5 * np.minimum(films.query_ms, films.item_ms)
    both = matched >= WHOLE * np.maximum(films.query_ms, films.item_ms)
    on_end = (matched >= _LONG_TIME) & (matched >= 0.6 * counts.span)
    return both | (half & (matched >= _STILL_TIME)) | on_end
