"""wdct against a slow and obvious oracle: the grid, the coefficients, the bits of every way up."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nearsearch.hashers import hash_pixels
from nearsearch.hashers.wdct import ORIENTATIONS, WHOLE, Box, Place, Reduced
from nearsearch.kernels import wdct
from nearsearch.spec import get_spec
from nearsearch.synthetic import make_picture

WDCT = get_spec("wdct")
SIDES = st.sampled_from([1, 2, 3, 63, 64, 127, 128, 129, 255, 256, 257, 300, 513])
seeds = st.integers(0, 2**32 - 1)


def weights(length):
    """Return (128, length): a triangle a cell; interpolation where there are fewer samples."""
    table = np.zeros((128, length))
    if length < 128:
        for cell in range(128):
            position = min(max((cell + 0.5) * length / 128 - 0.5, 0), length - 1)
            at = min(int(position), max(length - 2, 0))
            table[cell, at] += 1 - (position - at)
            if length > 1:
                table[cell, at + 1] += position - at
        return table
    for sample in range(length):
        position = min(max((sample + 0.5) * 128 / length - 0.5, 0), 127)
        for cell in range(128):
            table[cell, sample] = max(0, 1 - abs(position - cell))
    return table / table.sum(axis=1, keepdims=True)


def luma(pixels):
    values = pixels.astype(np.float64)
    return values if values.ndim == 2 else values @ [0.299, 0.587, 0.114]


def reduced(pixels):
    grid = np.empty((128, 128), np.float32)
    channels = 1 if pixels.ndim == 2 else 3
    wdct.reduce(pixels.reshape(len(pixels), -1), channels, grid)
    return grid


@settings(deadline=None, max_examples=80)
@given(SIDES, SIDES, st.booleans(), seeds)
def test_the_grid_is_a_weighted_mean(height, width, is_grey, seed):
    shape = (height, width) if is_grey else (height, width, 3)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    expected = weights(height) @ (luma(pixels) - 128) @ weights(width).T
    np.testing.assert_allclose(reduced(pixels), expected, atol=2e-3)


def sampled(grid, place):
    view = np.zeros((64, 64))
    for i in range(128):
        for j in range(128):
            u, v = (j + 0.5) / 128, (i + 0.5) / 128
            x = (place[0] * u + place[1] * v + place[2]) * 128 - 0.5
            y = (place[3] * u + place[4] * v + place[5]) * 128 - 0.5
            x, y = min(max(x, 0), 127), min(max(y, 0), 127)
            left, top = min(int(x), 126), min(int(y), 126)
            a, b = x - left, y - top
            upper = grid[top, left] * (1 - a) + grid[top, left + 1] * a
            lower = grid[top + 1, left] * (1 - a) + grid[top + 1, left + 1] * a
            view[i // 2, j // 2] += (upper * (1 - b) + lower * b) / 4
    return view


def slow_transform(grid, place):
    view = sampled(grid.astype(np.float64), place)
    normal = np.empty((64, 64))
    for i in range(64):
        for j in range(64):
            near = view[max(i - 4, 0) : i + 5, max(j - 4, 0) : j + 5]
            normal[i, j] = (view[i, j] - near.mean()) / np.sqrt(near.var() + 16)
    at = (np.arange(64) + 0.5) / 64
    basis = np.cos(np.pi * np.arange(18)[:, None] * at) * np.sin(np.pi * at)
    return basis @ normal @ basis.T


PLACES = {
    "whole": [1, 0, 0, 0, 1, 0],
    "part": [0.8, 0, 0.13, 0, 0.7, 0.2],
    "turned": [0.77, -0.1, 0.2, 0.21, 0.75, 0.05],
    "beyond the edges": [1.2, 0, -0.1, 0, 1.3, -0.2],
}


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
@pytest.mark.parametrize("kind", ["leaves", "text"])
def test_coefficients_are_those_of_the_oracle(place, kind):
    grid = reduced(make_picture(5, kind, 320, 240))
    coefficients = np.empty((18, 18), np.float32)
    quality = wdct.transform(grid, np.array(place, np.float64), coefficients)
    np.testing.assert_allclose(coefficients, slow_transform(grid, place), atol=0.02)
    assert 50 <= quality <= 100


def frequencies():
    """Return the 256 lowest but zero, row by row; the last two places go to the diagonal's side."""
    places = sorted(
        ((i * i + j * j, abs(i - j), i, j) for i in range(18) for j in range(18) if i + j),
    )
    return sorted((i, j) for *_, i, j in places[:256])


def slow_code(coefficients):
    values = np.array([coefficients[i, j] for i, j in frequencies()])
    return np.packbits(values > np.sort(values)[127])


WAYS_UP = {
    "": lambda p: p,
    "turned 90": lambda p: np.rot90(p),
    "turned 180": lambda p: np.rot90(p, 2),
    "turned 270": lambda p: np.rot90(p, 3),
    "mirrored": lambda p: np.fliplr(p),
    "mirrored, turned 90": lambda p: np.rot90(np.fliplr(p)),
    "mirrored, turned 180": lambda p: np.rot90(np.fliplr(p), 2),
    "mirrored, turned 270": lambda p: np.rot90(np.fliplr(p), 3),
}


@pytest.mark.parametrize("turn", ORIENTATIONS)
@settings(deadline=None, max_examples=30)
@given(seed=seeds)
def test_codes_of_each_way_up_are_those_of_turned_coefficients(turn, seed):
    coefficients = np.random.default_rng(seed).standard_normal((18, 18)).astype(np.float32)
    signs = (-1.0) ** np.arange(18)
    # A coefficient of the turned picture: transposed, then the odd frequencies change sign.
    transposed, down, across = {
        "": (0, 0, 0),
        "turned 90": (1, 1, 0),
        "turned 180": (0, 1, 1),
        "turned 270": (1, 0, 1),
        "mirrored": (0, 0, 1),
        "mirrored, turned 90": (1, 0, 0),
        "mirrored, turned 180": (0, 1, 0),
        "mirrored, turned 270": (1, 1, 1),
    }[turn]
    turned = coefficients.T if transposed else coefficients
    turned = turned * (signs[:, None] if down else 1) * (signs[None] if across else 1)
    code = np.empty(32, np.uint8)
    wdct.encode(coefficients, bool(transposed), bool(down), bool(across), code)
    assert code.tolist() == slow_code(turned).tolist()


def test_equal_coefficients_at_the_median_have_no_bit():
    coefficients = np.zeros((18, 18), np.float32)
    code = np.empty(32, np.uint8)
    wdct.encode(coefficients, False, False, False, code)
    assert not code.any()
    coefficients[0, 1] = 1
    wdct.encode(coefficients, False, False, False, code)
    assert code.tolist() == [128] + [0] * 31


@pytest.mark.parametrize("turn", ORIENTATIONS)
@pytest.mark.parametrize("kind", ["leaves", "text", "shapes"])
def test_a_turned_picture_is_found_upright(turn, kind):
    pixels = make_picture(8, kind, 400, 300)
    turned = np.ascontiguousarray(WAYS_UP[turn](pixels))
    (code,), _ = Reduced(pixels).codes(WHOLE, Place(), (turn,))
    expected, _ = hash_pixels(turned, WDCT)
    assert np.bitwise_count(code ^ expected).sum() <= 2


@pytest.mark.parametrize("kind", ["leaves", "text"])
@pytest.mark.parametrize("shape", [(300, 400), (90, 200), (1, 1), (700, 130)])
def test_half_of_the_bits_are_set(kind, shape):
    pixels = make_picture(8, kind, 400, 700)[: shape[0], : shape[1]]
    code, quality = hash_pixels(np.ascontiguousarray(pixels), WDCT)
    if quality >= 50:
        assert np.bitwise_count(code).sum() == 128


def test_flat_pictures_and_gradients_have_no_quality():
    ramp = np.linspace(0, 255, 400).astype(np.uint8)
    for pixels in (np.full((300, 400), 77, np.uint8), np.broadcast_to(ramp, (300, 400))):
        _, quality = hash_pixels(np.ascontiguousarray(pixels), WDCT)
        assert quality < 50
    code, quality = hash_pixels(np.full((300, 400, 3), 77, np.uint8), WDCT)
    assert quality == 0
    assert not code.any()


def test_a_rotated_picture_is_met_half_way():
    from PIL import Image

    pixels = make_picture(3, "leaves", 480, 360)
    rotated = np.asarray(Image.fromarray(pixels).rotate(10, Image.Resampling.BICUBIC))
    known, _ = Reduced(pixels).codes(WHOLE, Place(0.8))
    query, _ = Reduced(rotated).codes(WHOLE, Place(0.8, degrees=-10))
    wrong, _ = Reduced(rotated).codes(WHOLE, Place(0.8, degrees=10))
    assert np.bitwise_count(known[0] ^ query[0]).sum() <= 12
    assert np.bitwise_count(known[0] ^ wrong[0]).sum() > 60


def test_a_part_is_the_picture_cut_there():
    pixels = make_picture(4, "leaves", 640, 480)
    part = np.ascontiguousarray(pixels[120:420, 64:576])
    (code,), _ = Reduced(pixels).codes(Box(0.1, 0.25, 0.9, 0.875), Place())
    expected, _ = hash_pixels(part, WDCT)
    assert np.bitwise_count(code ^ expected).sum() <= 12
