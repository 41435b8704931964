"""The hashed frames of a film, and how much of one film is in another, as vPDQ defines it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from nearsearch.checks import check_name, whole
from nearsearch.codes import as_codes, distinct
from nearsearch.errors import UsageError
from nearsearch.spec import MIN_QUALITY, get_spec

if TYPE_CHECKING:
    from numpy.typing import NDArray

PDQ: Final = get_spec("pdq")
LATEST: Final = 1e12
"""The latest time of a frame, seconds: none that is meant is later."""
_BLOCK: Final = (16, 4096)  # frames compared at a time: 0.5 MB, which stays in the cache


@dataclass(frozen=True, slots=True, eq=False)
class FrameHashes:
    """The hashed frames of one film, in the order in which they were given.

    Attributes
    ----------
    codes
        (n, 32) uint8, PDQ, byte order = hex order.
    qualities
        (n,) int8, 0..100.
    numbers
        (n,) int64, the frame's number in the film, -1 where it is not known.
    seconds
        (n,) float64, 0..1e12: the frame's time in the film.

    Raises
    ------
    CodesError, UsageError
        Arrays of other shapes, kinds or ranges. Those that fit are kept as they are, not copied.
    """

    codes: NDArray[np.uint8]
    qualities: NDArray[np.int8]
    numbers: NDArray[np.int64]
    seconds: NDArray[np.float64]

    def __post_init__(self) -> None:
        object.__setattr__(self, "codes", as_codes(self.codes, PDQ))
        bounds: dict[str, tuple[type, float, float]] = {
            "qualities": (np.int8, 0, 100),
            "numbers": (np.int64, -1, 10**18 - 1),
            "seconds": (np.float64, 0, LATEST),
        }
        for name, (dtype, low, high) in bounds.items():
            values = np.asarray(getattr(self, name))
            fits = np.can_cast(values.dtype, dtype, "same_kind")
            if values.shape != (len(self.codes),) or not fits:
                expected = f"({len(self.codes)},) {np.dtype(dtype)}"
                raise UsageError(f"{name}: expected {expected}, got {values.shape} {values.dtype}")
            if not ((values >= low) & (values <= high)).all():  # also where it is not a number
                raise UsageError(f"{name}: expected {low} to {high}, got others")
            object.__setattr__(self, name, values.astype(dtype, copy=False))

    def __len__(self) -> int:
        return len(self.codes)


class MatchPercentages(NamedTuple):
    """Of the frames compared, the share that has a near one in the other film, 0..100.

    Attributes
    ----------
    query, known
        Of the frames of each film.
    """

    query: float
    known: float


def match_percentages(
    query: FrameHashes, known: FrameHashes, radius: int = 31, min_quality: int = MIN_QUALITY
) -> MatchPercentages:
    """Return how much of each film's frames is found in the other, as vPDQ defines it.

    Frames below `min_quality` are left out, then those whose code came before; of what is left of
    `query`, the share with any frame of `known` at most `radius` bits away, in percent, and the
    reverse. Time and order do not count. 0 and 0 where a film has no frames left.

    Parameters
    ----------
    query, known
        The films; memory is a few MB besides, whatever their length. 100,000 distinct frames
        against as many take half a minute of one core.
    radius
        Bits, inclusive, 0..256.
    min_quality
        0..100.

    Notes
    -----
    Source: facebook/ThreatExchange, ``vpdq/README.md``, "Comparison (Matching) Algorithm", and
    ``threatexchange/extensions/vpdq/vpdq_brute_matcher.py``. Implementations differ: the C++ one
    (``matchTwoHash.cpp``) counts every frame, repeated or not, and takes distances *below* its
    tolerance; the brute-force one drops repeats before it looks at qualities, ``VPDQIndex`` after,
    as here, which does not depend on the order of frames; the brute-force one divides by zero where
    a film has no frames left.
    Which percentages are a match is the caller's to say: the README's example asks 80 % of the
    known film and 0 % of the query, python-threatexchange's default 80 % of the *query* and 0 % of
    the known one.

    Raises
    ------
    UsageError
        `radius` or `min_quality` out of range.
    """
    whole("radius", radius, 0, PDQ.bits)
    whole("min_quality", min_quality, 0, 100)
    ours, theirs = _kept(query, min_quality), _kept(known, min_quality)
    if not len(ours) or not len(theirs):
        return MatchPercentages(0.0, 0.0)
    is_found, is_known = _near(ours, theirs, radius)
    return MatchPercentages(100 * float(is_found.mean()), 100 * float(is_known.mean()))


def as_records(frames: FrameHashes, film: str) -> dict[str, Any]:
    """Return arguments for `Writer.add_codes` that add each frame as a record of its own.

    Its key is ``film#number`` (its place in `frames` where it has no number), and it has the
    columns `film`, `frame` and `seconds`. Give it qualities as they are: a search leaves out those
    that are low.

    Examples
    --------
    >>> writer.add_codes(**as_records(frames, "a.mp4"), contribution="NL-0042")  # doctest: +SKIP
    """
    import pyarrow as pa

    check_name("film", film)
    places = np.where(frames.numbers < 0, np.arange(len(frames)), frames.numbers)
    columns = {
        "film": pa.array([film]).take(pa.array(np.zeros(len(frames), np.int32))),
        "frame": pa.array(frames.numbers, mask=frames.numbers < 0),
        "seconds": pa.array(frames.seconds),
    }
    return {
        "codes": frames.codes,
        "spec": PDQ,  # the index may have another of 256 bits, which would be taken for it
        "keys": [f"{film}#{place}" for place in places.tolist()],
        "qualities": frames.qualities,
        "metadata": pa.table(columns),
    }


def _kept(frames: FrameHashes, min_quality: int) -> NDArray[np.uint64]:
    """Return the distinct codes of good frames, (n, 4) uint64."""
    codes = frames.codes[frames.qualities >= min_quality]
    first, _ = distinct(codes)
    return codes[first].view(np.uint64)


def _near(
    ours: NDArray[np.uint64], theirs: NDArray[np.uint64], radius: int
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Tell of each code on either side whether any on the other is within `radius` bits."""
    left, right = (np.zeros(len(codes), np.bool_) for codes in (ours, theirs))
    columns = np.ascontiguousarray(theirs.T)
    for i in range(0, len(ours), _BLOCK[0]):
        rows = slice(i, i + _BLOCK[0])
        for j in range(0, len(theirs), _BLOCK[1]):
            others = slice(j, j + _BLOCK[1])
            if left[rows].all() and right[others].all():
                continue
            distances: Any = np.uint16(0)  # 256 is one too many for uint8
            for mine, column in zip(ours[rows].T, columns, strict=True):
                distances = distances + np.bitwise_count(mine[:, None] ^ column[others])
                near = distances <= radius
                if not near.any():  # in most blocks of other films, after half of the bits
                    break
            left[rows] |= near.any(axis=1)
            right[others] |= near.any(axis=0)
    return left, right
