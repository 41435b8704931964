"""Pixels to codes: one module per algorithm family, chosen by the spec's algorithm.

Owns the validation of pixels. Refuses to know where pixels come from (`media`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from nearsearch.errors import UsageError
from nearsearch.hashers import imagehash_family, pdq, wdct
from nearsearch.hashers.views import Views
from nearsearch.spec import FAMILIES, get_spec, spec_names

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from nearsearch.spec import Spec

__all__ = ["Views", "dihedral_codes", "hash_array", "hash_pixels", "picture_quality"]

_HASHERS: Final[dict[str, Callable[[NDArray[np.uint8], int], tuple[NDArray[np.uint8], int]]]] = {
    "pdq": pdq.hash_pixels,
    "wdct": wdct.hash_pixels,
    "phash": imagehash_family.phash,
    "dhash": imagehash_family.dhash,
    "ahash": imagehash_family.ahash,
    "whash": imagehash_family.whash,
}


def hash_pixels(pixels: NDArray[np.uint8], spec: Spec) -> tuple[NDArray[np.uint8], int]:
    """Return the code and the quality of one picture.

    Parameters
    ----------
    pixels
        (height, width, 3) RGB or (height, width) luma, uint8, sides >= 1, any strides; not
        modified, and copied only if not C-contiguous.
    spec
        The kind of code; its decode profile is the caller's business.

    Returns
    -------
    code
        (spec.bits // 8,) uint8 in hex byte order; a new array.
    quality
        0 (flat) to 100: of ``wdct`` its own measure, else PDQ's of texture.

    Raises
    ------
    UsageError
        `pixels` has another type or shape, or is empty; or this version does not compute `spec`.

    Notes
    -----
    ``pdq`` equals Meta's reference (facebook/ThreatExchange, ``pdq/``) bit for bit, ``wdct`` is our
    own, the others equal the imagehash package. PDQ's code of a picture with a side below 5 pixels
    is zero. Safe to call from many threads.
    """
    pixels = _checked(pixels)
    hasher = _HASHERS.get(spec.algorithm)
    if hasher is None or spec.bits not in FAMILIES[spec.algorithm].bits:
        raise UsageError(
            f"this version does not compute {spec.algorithm!r} codes of {spec.bits} bits; "
            f"it computes: {', '.join(spec_names())}"
        )
    return hasher(pixels, spec.bits)


def hash_array(
    pixels: NDArray[np.uint8], spec: str | Spec = "pdq"
) -> tuple[NDArray[np.uint8], int]:
    """Return the code and the quality of one picture under a spec given by name.

    The same as `hash_pixels`; of a big picture, `hash_files` may see a reduced decode, so its
    codes can differ from those of its full pixels by a bit or two.

    Raises
    ------
    UnknownSpecError
        No spec of that name.
    UsageError
        As for `hash_pixels`.
    """
    return hash_pixels(pixels, get_spec(spec))


def dihedral_codes(pixels: NDArray[np.uint8], spec: str | Spec = "pdq") -> NDArray[np.uint8]:
    """Return the eight codes of one picture as it is, turned and mirrored: to search with all.

    They come from one transform, as in PDQ's reference, and differ by a few bits from the codes of
    the turned pictures themselves.

    Parameters
    ----------
    pixels
        As for `hash_pixels`.
    spec
        A ``pdq`` spec: of the other algorithms no code can be turned.

    Returns
    -------
    NDArray[np.uint8]
        (8, spec.bits // 8): original, turned counter-clockwise by 90, 180 and 270 degrees, top and
        bottom swapped, left and right swapped, mirrored at the main and at the other diagonal.
        A new array. Of pictures of exactly 64x64 pixels the first may differ from `hash_pixels`
        by rounding, as in the reference.

    Raises
    ------
    UsageError
        `pixels` as in `hash_pixels`; or `spec` is of another algorithm than PDQ.
    """
    if get_spec(spec).algorithm != "pdq":
        raise UsageError(
            f"dihedral codes: expected a pdq spec, got {spec}; hash the turned pictures themselves"
        )
    return pdq.dihedral_codes(_checked(pixels))


def picture_quality(pixels: NDArray[np.uint8]) -> int:
    """Return PDQ's measure of texture of one picture: 0 (flat) to 100.

    Parameters
    ----------
    pixels
        As for `hash_pixels`.

    Raises
    ------
    UsageError
        As for `hash_pixels`.
    """
    return pdq.picture_quality(_checked(pixels))


def _checked(pixels: object) -> NDArray[np.uint8]:
    """Return `pixels` C-contiguous, or say what is wrong with them."""
    if not isinstance(pixels, np.ndarray):
        actual = f"a {type(pixels).__name__}"
    elif (
        pixels.dtype == np.uint8
        and pixels.size > 0
        and (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3))
    ):
        return np.ascontiguousarray(pixels)
    else:
        actual = f"{pixels.shape} {pixels.dtype}"
    raise UsageError(
        f"pixels: expected (height, width, 3) RGB or (height, width) luma, uint8, at least one "
        f"pixel, got {actual}; convert first"
    )
