"""phash, dhash, ahash and whash: whatever the imagehash package computes on the same pixels.

The package is called, not imitated, so the codes are its own: ``bytes.fromhex(str(hash))``.
Pixels are (height, width, 3) RGB or (height, width) luma, uint8, C-contiguous, checked by the
package's own functions; `bits` is a square number that the spec allows. The quality is PDQ's.
Source: github.com/JohannesBuchner/imagehash, there with the origin of each algorithm.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from nearsearch.hashers import pdq

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray


def phash(pixels: NDArray[np.uint8], bits: int) -> tuple[NDArray[np.uint8], int]:
    """Return code and quality: low DCT frequencies against their median."""
    import imagehash

    return _hash_with(imagehash.phash, pixels, bits)


def dhash(pixels: NDArray[np.uint8], bits: int) -> tuple[NDArray[np.uint8], int]:
    """Return code and quality: each cell against its left neighbour."""
    import imagehash

    return _hash_with(imagehash.dhash, pixels, bits)


def ahash(pixels: NDArray[np.uint8], bits: int) -> tuple[NDArray[np.uint8], int]:
    """Return code and quality: each cell against the mean."""
    import imagehash

    return _hash_with(imagehash.average_hash, pixels, bits)


def whash(pixels: NDArray[np.uint8], bits: int) -> tuple[NDArray[np.uint8], int]:
    """Return code and quality: low Haar wavelet coefficients against their median."""
    import imagehash

    return _hash_with(imagehash.whash, pixels, bits)


def _hash_with(
    function: Callable[..., Any], pixels: NDArray[np.uint8], bits: int
) -> tuple[NDArray[np.uint8], int]:
    from PIL import Image

    hashed = function(Image.fromarray(pixels), hash_size=math.isqrt(bits))
    return np.packbits(hashed.hash.ravel()), pdq.picture_quality(pixels)
