"""phash, dhash, ahash and whash against the imagehash package on the same pixels."""

from __future__ import annotations

import math

import imagehash
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from nearsearch.hashers import hash_pixels, picture_quality
from nearsearch.spec import FAMILIES, get_spec, spec_names

ORACLES = {
    "phash": imagehash.phash,
    "dhash": imagehash.dhash,
    "ahash": imagehash.average_hash,
    "whash": imagehash.whash,
}
NAMES = [name for name in spec_names() if name.partition("-")[0] in ORACLES]

sides = st.sampled_from([1, 2, 7, 8, 9, 15, 16, 31, 32, 33, 64, 65]) | st.integers(1, 300)
channels = st.sampled_from([1, 3])


def picture(height: int, width: int, n_channels: int, is_flat: bool, seed: int) -> np.ndarray:
    shape = (height, width) if n_channels == 1 else (height, width, 3)
    rng = np.random.default_rng(seed)
    if is_flat:
        return np.full(shape, rng.integers(0, 256), np.uint8)
    return rng.integers(0, 256, shape, np.uint8)


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None, max_examples=30)
@given(
    height=sides,
    width=sides,
    n_channels=channels,
    is_flat=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_code_equals_the_package(name, height, width, n_channels, is_flat, seed):
    spec = get_spec(name)
    pixels = picture(height, width, n_channels, is_flat, seed)
    code, quality = hash_pixels(pixels, spec)
    expected = ORACLES[spec.algorithm](Image.fromarray(pixels), hash_size=math.isqrt(spec.bits))
    assert code.tobytes() == bytes.fromhex(str(expected))
    assert quality == picture_quality(pixels)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (50, 1, 3), (3, 3, 3)])
def test_pictures_smaller_than_the_code_have_a_code(name, shape):
    spec = get_spec(name)
    code, quality = hash_pixels(np.full(shape, 200, np.uint8), spec)
    assert code.shape == (spec.code_bytes,)
    assert quality == 0


def test_every_family_but_ours_and_pdq_is_the_packages():
    assert set(FAMILIES) - {"pdq", "wdct"} == set(ORACLES)
