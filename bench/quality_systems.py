"""The systems of `bench/quality.py`: what of a picture each hashes, and how far two are apart.

Ours, and the libraries that are installed: pdqhash, imagehash, perception, OpenCV's img_hash. Each
is used as its documentation shows, on the same RGB pixels.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import imagehash
import numpy as np
from PIL import Image

from nearsearch.hashers import Views
from nearsearch.spec import MIN_QUALITY, get_spec

try:
    import pdqhash
except ImportError:
    pdqhash = None
try:
    import cv2
    from cv2 import img_hash
except ImportError:
    cv2 = None
try:
    from perception import hashers as perception
except ImportError:
    perception = None

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Pixels = NDArray[np.uint8]
    Codes = NDArray[Any]  # (views, bytes) uint8, or (views, n) float32


_FARTHEST: Final = 2**31 - 1


class System(NamedTuple):
    """What is hashed of a known picture, and of one that is asked; `apart` compares two codes."""

    name: str
    known: Callable[[Pixels], Codes]
    asked: Callable[[Pixels], Codes]
    apart: str = "bits"
    has_variants: bool = False


def distances(asked: Codes, known: Codes, apart: str) -> NDArray[np.int64]:
    """Return the distance of each pair, (asked, known), in whole steps.

    ``bits`` is Hamming's. ``steps`` is Euclid's in millionths of a unit, ``shifts`` the
    thousandths by which the best correlation over all shifts stays below 1, as OpenCV compares
    radial variance.
    """
    if apart == "bits":
        words = "<u8" if asked.shape[1] % 8 == 0 else np.uint8
        left, right = asked.view(words)[:, None], known.view(words)[None]
        return np.bitwise_count(left ^ right).sum(-1, dtype=np.int64)
    if apart == "steps":
        apart_by = np.linalg.norm(asked[:, None].astype(np.float64) - known[None], axis=-1)
        return np.minimum(np.rint(1e6 * apart_by), _FARTHEST).astype(np.int64)
    left, right = _standardised(asked), _standardised(known)
    best = np.full((len(asked), len(known)), -1.0, np.float32)
    for shift in range(asked.shape[1]):
        np.maximum(best, left @ np.roll(right, shift, axis=1).T, out=best)
    return np.rint(1000 * (1 - best)).astype(np.int64)


def _standardised(codes: Codes) -> Codes:
    less = codes - codes.mean(1, keepdims=True)
    return less / np.maximum(np.linalg.norm(less, axis=1, keepdims=True), 1e-6)


# --- ours -----------------------------------------------------------------------------------------


def _ours(spec: str, ladder: str) -> Callable[[Pixels], Codes]:
    """Return what hashes the views of a ladder that pass the gate of quality."""

    def codes(pixels: Pixels) -> Codes:
        views = list(Views(pixels, ladder).of(get_spec(spec)))
        good = [view.code for view in views if view.quality >= MIN_QUALITY]
        return np.array(good, np.uint8).reshape(-1, 32)

    return codes


OURS: Final = (
    System("pdq", _ours("pdq", "none"), _ours("pdq", "none")),
    System("pdq, fast", _ours("pdq", "known"), _ours("pdq", "fast"), has_variants=True),
    System("wdct", _ours("wdct", "none"), _ours("wdct", "none")),
    System("wdct, fast", _ours("wdct", "known"), _ours("wdct", "fast"), has_variants=True),
    System("wdct, thorough", _ours("wdct", "known"), _ours("wdct", "thorough"), has_variants=True),
)
BOTH: Final = {
    "both": ("pdq", "wdct"),
    "both, fast": ("pdq, fast", "wdct, fast"),
    "both, thorough": ("pdq, fast", "wdct, thorough"),
}
"""Two systems as one: what either finds, at half of the rate each."""


# --- rivals ---------------------------------------------------------------------------------------


def _one(bits: Any) -> Codes:
    return np.packbits(np.asarray(bits, np.bool_).ravel())[None]


def _alike(name: str, code: Callable[[Pixels], Codes], apart: str = "bits") -> System:
    return System(name, code, code, apart)


_LAST: Final[list[Any]] = [None, None]  # the picture that pdqhash saw last, and its codes


def _pdqhash(ways: int) -> Callable[[Pixels], Codes]:
    """Return what hashes with so many of the eight orientations, the upright one first."""

    def codes(pixels: Pixels) -> Codes:
        if _LAST[0] is not pixels:  # three systems ask for the same picture
            bits, quality = pdqhash.compute_dihedral(pixels)
            made = np.packbits(np.array(bits, np.bool_), axis=1)
            _LAST[:] = pixels, made if quality >= MIN_QUALITY else made[:0]
        return _LAST[1][:ways]

    return codes


def _imagehash(function: Callable[..., Any], size: int) -> Callable[[Pixels], Codes]:
    return lambda pixels: _one(function(Image.fromarray(pixels), hash_size=size).hash)


@cache
def _opencv_hasher(name: str) -> Any:
    return getattr(img_hash, name).create()


def _opencv(name: str) -> Callable[[Pixels], Codes]:
    def code(pixels: Pixels) -> Codes:
        made = _opencv_hasher(name).compute(np.ascontiguousarray(pixels[..., ::-1]))
        if name in ("ColorMomentHash", "RadialVarianceHash"):
            return made.astype(np.float32).reshape(1, -1)
        return made.reshape(1, -1)

    return code


@cache
def _perception_hasher(name: str) -> Any:
    return getattr(perception, name)()


def _perception(name: str) -> Callable[[Pixels], Codes]:
    def code(pixels: Pixels) -> Codes:
        vector = _perception_hasher(name).compute(Image.fromarray(pixels), hash_format="vector")
        return np.empty((0, 8), np.uint8) if vector is None else _one(vector)

    return code


def rivals() -> list[System]:
    """Return the systems of other libraries that are installed."""
    found = [
        _alike("imagehash phash", _imagehash(imagehash.phash, 8)),
        _alike("imagehash phash-256", _imagehash(imagehash.phash, 16)),
        _alike("imagehash dhash", _imagehash(imagehash.dhash, 8)),
        _alike("imagehash whash", _imagehash(imagehash.whash, 8)),
    ]
    if pdqhash:
        dihedral = System("pdqhash, 8 ways", _pdqhash(1), _pdqhash(8), has_variants=True)
        found = [_alike("pdqhash", _pdqhash(1)), dihedral, *found]
    if perception:
        names = ("PHash", "DHash", "WaveletHash", "AverageHash")
        found += [_alike(f"perception {name}", _perception(name)) for name in names]
    if cv2:
        cv2.setNumThreads(1)
        names = ("PHash", "AverageHash", "BlockMeanHash", "MarrHildrethHash")
        found += [_alike(f"OpenCV {name}", _opencv(name)) for name in names]
        found.append(_alike("OpenCV ColorMomentHash", _opencv("ColorMomentHash"), "steps"))
        found.append(_alike("OpenCV RadialVarianceHash", _opencv("RadialVarianceHash"), "shifts"))
    return found


def systems() -> list[System]:
    """Return all systems, ours first."""
    return [*OURS, *rivals()]
