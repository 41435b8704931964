"""Confidence: how many unrelated pictures are as near by chance.

The curves come from 16 million pairs of unrelated photographs (``bench/quality.py``); drawings and
screenshots are a thousand times as often alike. Below the smallest distances that were met they are
fitted lines, and so estimates; never a binomial: bits of pictures are not independent, and no
formula knows how much.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from nearsearch.spec import Spec


class Curve(NamedTuple):
    """The share of pairs of unrelated codes within a distance: ``10 ** (slope * d + start)``."""

    slope: float
    start: float


_CURVES: Final = {
    "pdq": Curve(0.103, -13.7),
    "wdct": Curve(0.146, -17.0),
}


def false_match_rate(spec: Spec, distances: NDArray[np.uint16]) -> NDArray[np.float64]:
    """Return the share of pairs of unrelated codes that lie within each distance.

    Parameters
    ----------
    distances
        Hamming distances in bits.

    Returns
    -------
    (n,) float64, rising with the distance, at most 1; NaN for specs that were not measured.
    """
    curve = _CURVES.get(spec.algorithm)
    if curve is None:
        return np.full(len(distances), np.nan)
    exponent = curve.slope * distances.astype(np.float64) + curve.start
    return np.minimum(10.0**exponent, 1.0)


def expected_false(
    specs: Sequence[Spec],
    spec_index: NDArray[np.int64],
    distances: NDArray[np.uint16],
    compared: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Return how many false matches are expected within each distance; see `Matches`.

    Parameters
    ----------
    spec_index
        Which of `specs` each distance is of, (m,); past them it is an exact match: 0.
    compared
        Pairs of codes under each spec, (m, number of specs).
    """
    expected = np.zeros(len(distances))
    for number, spec in enumerate(specs):
        of_spec = spec_index == number
        rate = false_match_rate(spec, distances[of_spec])
        expected[of_spec] = rate * compared[of_spec, number]
    return expected
