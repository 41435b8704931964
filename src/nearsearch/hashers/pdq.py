"""PDQ: 256-bit codes, equal bit for bit to Meta's reference on the same pixels.

Pixels are (height, width, 3) RGB or (height, width) luma, uint8, C-contiguous, checked by the
package's own functions. Source: facebook/ThreatExchange, ``pdq/``, and its paper ``hashing.pdf``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

CODE_BYTES = 32
_ORIENTATIONS = 8


def hash_pixels(pixels: NDArray[np.uint8], bits: int) -> tuple[NDArray[np.uint8], int]:
    """Return the code, (32,) uint8, and the quality, 0..100; `bits` can only be 256."""
    from nearsearch.kernels import perceptual

    luma, quality = _shrink(pixels)
    code = np.empty(bits // 8, np.uint8)
    perceptual.encode(luma, code)
    return code, quality


def dihedral_codes(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the codes of the eight orientations, (8, 32) uint8, in the reference's order."""
    from nearsearch.kernels import perceptual

    luma, _ = _shrink(pixels, always_blur=True)
    codes = np.empty((_ORIENTATIONS, CODE_BYTES), np.uint8)
    perceptual.encode_dihedral(luma, codes)
    return codes


def picture_quality(pixels: NDArray[np.uint8]) -> int:
    """Return the quality, 0..100, without the code."""
    return _shrink(pixels)[1]


def _shrink(
    pixels: NDArray[np.uint8], *, always_blur: bool = False
) -> tuple[NDArray[np.float32], int]:
    """Return the 64x64 luma and its quality."""
    # Numba takes half a second to import: only processes that hash should pay for it.
    from nearsearch.kernels import perceptual

    channels = 1 if pixels.ndim == 2 else 3
    luma = np.empty((perceptual.SIDE, perceptual.SIDE), np.float32)
    rows = pixels.reshape(pixels.shape[0], -1)
    return luma, perceptual.shrink(rows, channels, always_blur, luma)
