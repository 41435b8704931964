"""The PDQ kernels against Meta's C++ (the pdqhash package): every bit, every quality."""

from __future__ import annotations

import numpy as np
import pdqhash
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nearsearch.hashers import dihedral_codes, hash_pixels, picture_quality
from nearsearch.spec import get_spec

PDQ = get_spec("pdq")

# Around everything that changes with size: the smallest side, the strip of 8 rows, the 64 samples,
# and the windows, which grow by one at each multiple of 128.
EDGES = [1, 2, 3, 4, 5, 6, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 130]
EDGES += [255, 256, 257, 384, 385, 513]
# Of stripes most coefficients are zero but for rounding, which any change of order shows.
KINDS = ["noise", "smooth", "smooth and noise", "constant", "black and white", "stripes"]

sides = st.sampled_from(EDGES) | st.integers(1, 400)
kinds = st.sampled_from(KINDS)
seeds = st.integers(0, 2**32 - 1)
fast = settings(deadline=None, max_examples=150)


def picture(height: int, width: int, kind: str, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    shape = (height, width, 3)
    if kind == "constant":
        return np.broadcast_to(rng.integers(0, 256, 3, np.uint8), shape).copy()
    if kind == "black and white":
        return np.where(rng.random((height, width, 1)) < 0.5, 0, 255).repeat(3, 2).astype(np.uint8)
    if kind == "stripes":
        sides = (height, 1, 3) if seed % 2 else (1, width, 3)
        return np.broadcast_to(rng.integers(0, 256, sides, np.uint8), shape).copy()
    if kind == "noise":
        return rng.integers(0, 256, shape, np.uint8)
    down, across, phase = rng.uniform(-9, 9, (3, 3))
    y = np.linspace(0, 1, height)[:, None, None]
    x = np.linspace(0, 1, width)[None, :, None]
    values = 128 + 120 * np.sin(y * down + x * across + phase)
    if kind == "smooth and noise":
        values += rng.normal(0, rng.uniform(1, 60), shape)
    return values.clip(0, 255).astype(np.uint8)


def assert_equals_reference(pixels: np.ndarray) -> None:
    vector, expected_quality = pdqhash.compute(pixels)
    code, quality = hash_pixels(pixels, PDQ)
    assert code.tobytes() == np.packbits(vector).tobytes()
    assert quality == expected_quality


@fast
@given(sides, sides, kinds, seeds)
def test_code_and_quality_equal_the_reference(height, width, kind, seed):
    assert_equals_reference(picture(height, width, kind, seed))


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 12), st.integers(1_000, 9_000), st.booleans(), kinds, seeds)
def test_long_strips_equal_the_reference(short, long, is_tall, kind, seed):
    height, width = (long, short) if is_tall else (short, long)
    assert_equals_reference(picture(height, width, kind, seed))


@fast
@given(sides, sides, kinds, seeds)
def test_dihedral_codes_equal_the_reference(height, width, kind, seed):
    pixels = picture(height, width, kind, seed)
    vectors, _ = pdqhash.compute_dihedral(pixels)
    expected = [np.packbits(vector).tobytes() for vector in vectors]
    assert [code.tobytes() for code in dihedral_codes(pixels, PDQ)] == expected


@fast
@given(sides, sides, kinds, seeds)
def test_luma_equals_rgb_of_equal_channels(height, width, kind, seed):
    luma = picture(height, width, kind, seed)[:, :, 0]
    from_luma, luma_quality = hash_pixels(luma, PDQ)
    from_rgb, rgb_quality = hash_pixels(np.repeat(luma[:, :, None], 3, axis=2), PDQ)
    assert from_luma.tobytes() == from_rgb.tobytes()
    assert luma_quality == rgb_quality
    luma_variants = dihedral_codes(luma, PDQ)
    rgb_variants = dihedral_codes(np.repeat(luma[:, :, None], 3, axis=2), PDQ)
    assert np.array_equal(luma_variants, rgb_variants)


@fast
@given(sides, sides, kinds, seeds)
def test_quality_alone_equals_quality_with_the_code(height, width, kind, seed):
    pixels = picture(height, width, kind, seed)
    assert picture_quality(pixels) == hash_pixels(pixels, PDQ)[1]


@pytest.mark.parametrize("height", EDGES)
def test_every_edge_size_equals_the_reference(height):
    for width in EDGES:
        assert_equals_reference(picture(height, width, "noise", 1_000 * height + width))


@pytest.mark.parametrize("seed", range(8))
def test_64x64_is_taken_as_it_is_but_blurred_for_the_orientations(seed):
    # The box of one sample adds and subtracts, which rounds: only stripes make that visible.
    pixels = picture(64, 64, "stripes", seed)
    vectors, _ = pdqhash.compute_dihedral(pixels)
    assert not np.array_equal(pdqhash.compute(pixels)[0], vectors[0])
    assert_equals_reference(pixels)
    assert dihedral_codes(pixels, PDQ)[0].tobytes() == np.packbits(vectors[0]).tobytes()


@pytest.mark.parametrize("value", range(0, 256, 15))
def test_flat_pictures_equal_the_reference(value):
    # Flat pictures are all rounding noise: any change of the order of additions shows here.
    for height, width in [(5, 5), (64, 64), (65, 200), (700, 300)]:
        assert_equals_reference(np.full((height, width, 3), value, np.uint8))


@pytest.mark.slow
def test_a_thousand_random_pictures_equal_the_reference():
    seed = 1009
    rng = np.random.default_rng(seed)
    for number in range(1_000):
        height, width = np.exp(rng.uniform(np.log(5), np.log(3_001), 2)).astype(int).tolist()
        assert_equals_reference(picture(height, width, KINDS[number % len(KINDS)], seed + number))
