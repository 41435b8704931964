"""The PDQ kernels against Meta's C++ (the pdqhash package): every bit, every quality."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pdqhash
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nearsearch.hashers import dihedral_codes, hash_pixels, picture_quality
from nearsearch.kernels.perceptual import SIDE, shrink
from nearsearch.spec import get_spec

PDQ = get_spec("pdq")

# Around everything that changes with size: the smallest side, the tiles of 8 or 16, the 64 samples,
# the segments of 256 columns, and the windows, which grow by one at each multiple of 128.
EDGES = [1, 2, 3, 4, 5, 6, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 130]
EDGES += [255, 256, 257, 384, 385, 513]
# Windows of 2, 3, 4, 5, 8, 9, 16, 17, 257 and 258 samples: the ring has a power of two.
LONG = [129, 257, 385, 513, 1_024, 1_025, 2_048, 2_049, 32_895, 32_896, 32_897]
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


def box(rows: np.ndarray) -> np.ndarray:
    """Blur along each row in float32, in the order of the reference."""
    length = rows.shape[1]
    window = -(-length // 128)
    ahead = window // 2
    zero = np.zeros(rows.shape[0], np.float32)
    columns = np.ascontiguousarray(rows.T)
    out = np.empty_like(columns)
    total = zero
    for last in range(length + ahead):
        entering = columns[last] if last < length else zero
        leaving = columns[last - window] if last >= window else zero
        total = (total + entering) - leaving
        if last >= ahead:
            inside = min(last, length - 1) - max(last - window, -1)
            out[last - ahead] = total / np.float32(inside)
    return np.ascontiguousarray(out.T)


def assert_reduction_equals_numpy(pixels: np.ndarray) -> None:
    """Compare all 64x64 values, of which a code shows no more than a bit each."""
    height, width = pixels.shape[:2]
    weights = np.array([0.299, 0.587, 0.114])
    luma = pixels
    if pixels.ndim == 3:
        red, green, blue = (pixels[:, :, i] * weights[i] for i in range(3))
        luma = red + green + blue
    expected = luma.astype(np.float32)
    for _ in range(2):
        expected = box(box(expected).T).T
    y, x = ((2 * np.arange(SIDE) + 1) * side // (2 * SIDE) for side in (height, width))
    reduced = np.empty((SIDE, SIDE), np.float32)
    shrink(pixels.reshape(height, -1), pixels.size // (height * width), True, reduced)
    assert np.array_equal(reduced, expected[y][:, x])


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
@given(
    st.integers(5, 600) | st.sampled_from(EDGES[4:]), sides.filter(lambda n: n > 4), kinds, seeds
)
def test_every_value_of_the_reduction_equals_numpy(height, width, kind, seed):
    pixels = picture(height, width, kind, seed)
    assert_reduction_equals_numpy(pixels)
    assert_reduction_equals_numpy(np.ascontiguousarray(pixels[:, :, 0]))


@pytest.mark.parametrize("long", LONG)
@pytest.mark.parametrize("short", [5, 16, 18])
def test_reduction_of_tall_and_wide_equals_numpy(short, long):
    for shape in [(short, long), (long, short)]:
        for kind in ["noise", "stripes"]:
            pixels = picture(*shape, kind, long)
            assert_reduction_equals_numpy(pixels)
            assert_reduction_equals_numpy(np.ascontiguousarray(pixels[:, :, 1]))


def test_luma_of_every_colour_equals_numpy():
    green, blue = (side.astype(np.uint8) for side in np.indices((256, 256)))
    luma = np.empty((SIDE, SIDE), np.float32)
    for red in range(256):
        pixels = np.stack([np.full_like(green, red), green, blue], axis=2)
        expected = (red * 0.299 + green * 0.587 + blue * 0.114).astype(np.float32)
        parts = pixels.reshape(-1, SIDE, SIDE * 3)
        for part, values in zip(parts, expected.reshape(-1, SIDE, SIDE), strict=True):
            shrink(part, 3, False, luma)
            assert np.array_equal(luma, values)


@pytest.mark.slow
def test_a_processor_without_wide_vectors_computes_the_same(tmp_path):
    environment = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}
    environment["NUMBA_CACHE_DIR"] = str(tmp_path)
    command = [sys.executable, "-m", "pytest", "-q", "-k", "equals_numpy", "-m", "not slow"]
    command += ["-p", "no:cacheprovider", __file__]
    subprocess.run(command, env=os.environ | environment, check=True)


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
