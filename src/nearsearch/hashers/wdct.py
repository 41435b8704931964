"""wdct: our own 256-bit code, which survives thumbnails, tones, small crops and rotations.

Pixels are (height, width, 3) RGB or (height, width) luma, uint8, C-contiguous, checked by the
package's own functions. How it was found, and its figures: ``docs/decisions/006-wdct.md``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

CODE_BYTES: Final = 32

# Transposed, flipped up to down, flipped left to right: in that order, one after the other.
_TURNED: Final = {
    "": (False, False, False),
    "turned 90": (True, True, False),
    "turned 180": (False, True, True),
    "turned 270": (True, False, True),
    "mirrored": (False, False, True),
    "mirrored, turned 90": (True, False, False),
    "mirrored, turned 180": (False, True, False),
    "mirrored, turned 270": (True, True, True),
}
ORIENTATIONS: Final = tuple(_TURNED)
"""The eight ways to lay a picture: mirrored left to right or not, then turned counter-clockwise."""


class Box(NamedTuple):
    """A part of a picture, its sides as shares of the picture's width and height."""

    left: float
    top: float
    right: float
    bottom: float


WHOLE: Final = Box(0, 0, 1, 1)


class Place(NamedTuple):
    """A view of a part of a picture: enlarged, moved, turned about its middle.

    `zoom` is the share of each side that is seen; `across` and `down` move the middle, as shares of
    the part's sides; `degrees` turn counter-clockwise what is seen of the picture.
    """

    zoom: float = 1
    across: float = 0
    down: float = 0
    degrees: float = 0


class Reduced:
    """A picture of which views are hashed: reduced once, so that each takes 30 microseconds."""

    def __init__(self, pixels: NDArray[np.uint8]) -> None:
        # Numba takes half a second to import: only processes that hash should pay for it.
        from nearsearch.kernels import grid

        height, width = pixels.shape[:2]
        self._aspect = width / height
        self.grid: NDArray[np.float32] = np.empty((grid.GRID, grid.GRID), np.float32)
        channels = 1 if pixels.ndim == 2 else 3
        grid.reduce(pixels.reshape(height, -1), channels, self.grid)

    def codes(
        self, box: Box, place: Place, turns: tuple[str, ...] = ("",)
    ) -> tuple[list[NDArray[np.uint8]], int]:
        """Return the code of a view in each of some `ORIENTATIONS`, and its quality, 0..100."""
        from nearsearch.kernels import wdct

        coefficients = np.empty((wdct.LOW, wdct.LOW), np.float32)
        where = _affine(box, place, self._aspect)
        quality = wdct.transform(self.grid, where, coefficients)
        codes = []
        for turn in turns:
            code = np.empty(CODE_BYTES, np.uint8)
            wdct.encode(coefficients, *_TURNED[turn], code)
            codes.append(code)
        return codes, quality


def hash_pixels(pixels: NDArray[np.uint8], bits: int) -> tuple[NDArray[np.uint8], int]:
    """Return the code, (32,) uint8, and the quality, 0..100; `bits` can only be 256."""
    (code,), quality = Reduced(pixels).codes(WHOLE, Place())
    return code, quality


def _affine(box: Box, place: Place, aspect: float) -> NDArray[np.float64]:
    """Return how points of the view come from points of the picture (see the kernel).

    A turn is one of real pictures, not of squares: lengths across count `aspect` times.
    """
    width, height = (box.right - box.left) * place.zoom, (box.bottom - box.top) * place.zoom
    x = (box.left + box.right) / 2 + place.across * (box.right - box.left)
    y = (box.top + box.bottom) / 2 + place.down * (box.bottom - box.top)
    angle = np.deg2rad(place.degrees)
    cos, sin = np.cos(angle), np.sin(angle)
    across = width * cos, -height * sin / aspect
    down = width * sin * aspect, height * cos
    return np.array(
        [*across, x - sum(across) / 2, *down, y - sum(down) / 2],
        np.float64,
    )
