"""Each kernel against a slow one that follows the definition, and the symmetries of the code."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nearsearch.kernels import wdct
from nearsearch.kernels.grid import GRID, reduce
from nearsearch.synthetic import make_picture

SIDE = 64
WHOLE = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
UPRIGHT = {
    "whole": WHOLE,
    "part": (0.7, 0.0, 0.2, 0.0, 0.6, 0.1),
    "more": (1.3, 0.0, -0.1, 0.0, 1.2, -0.2),
    "mirrored": (-1.0, 0.0, 1.0, 0.0, 1.0, 0.0),
    "single point": (0.0, 0.0, 0.4, 0.0, 0.0, 0.6),
}
TURNED = {
    "transposed": (0.0, 1.0, 0.0, 1.0, 0.0, 0.0),
    "a little": (0.9, 0.1, 0.0, -0.1, 0.9, 0.1),
    "by 45 degrees": (0.5, -0.5, 0.5, 0.5, 0.5, 0.0),
    "past the edge": (1.2, 0.3, -0.2, -0.3, 1.2, 0.1),
}
PLACES = UPRIGHT | TURNED


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).integers(0, 256, shape, np.uint8)


def reduced(picture: np.ndarray) -> np.ndarray:
    channels = 1 if picture.ndim == 2 else 3
    grid = np.full((GRID, GRID), np.nan, np.float32)
    reduce(picture.reshape(picture.shape[0], -1), channels, grid)
    return grid


def transformed(grid: np.ndarray, place: tuple[float, ...]) -> tuple[np.ndarray, int]:
    coefficients = np.full((wdct.LOW, wdct.LOW), np.nan, np.float32)
    quality = wdct.transform(grid, np.array(place), coefficients)
    return coefficients, quality


def encoded(
    coefficients: np.ndarray, transposed: bool = False, down: bool = False, across: bool = False
) -> np.ndarray:
    code = np.full(32, 0xAA, np.uint8)
    wdct.encode(coefficients, transposed, down, across, code)
    return code


def distance(a: np.ndarray, b: np.ndarray) -> int:
    return int(np.bitwise_count(a ^ b).sum())


def photograph() -> np.ndarray:
    return make_picture(1, "leaves", 640, 480)


# --- reduce -----------------------------------------------------------------------------------


def weights(length: int) -> np.ndarray:
    """Return the weight of each sample of an axis in each cell."""
    cells = np.arange(GRID)[:, None]
    samples = np.arange(length)[None, :]
    if length >= GRID:
        # Those past the outer cells are wholly theirs.
        position = np.clip((samples + 0.5) * GRID / length - 0.5, 0, GRID - 1)
        found = np.maximum(1 - np.abs(position - cells), 0)
    else:
        position = np.clip((cells + 0.5) * length / GRID - 0.5, 0, length - 1)
        found = np.maximum(1 - np.abs(position - samples), 0)
    return found / found.sum(axis=1, keepdims=True)


def slowly_reduced(picture: np.ndarray) -> np.ndarray:
    luma = picture.astype(np.float64)
    if picture.ndim == 3:
        luma = luma @ np.array([0.299, 0.587, 0.114])
    return weights(luma.shape[0]) @ luma @ weights(luma.shape[1]).T


SIDES = [1, 2, 7, 127, 128, 129, 255]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("width", "height"),
    [(side, side) for side in SIDES]
    + [(640, 480), (450, 340), (513, 131), (1030, 700), (1, 300), (300, 1), (3, 1000), (2000, 50)]
    + [(127, 129), (129, 127), (128, 64), (128, 65)],
)
def test_reduce_is_a_triangle_filter(width, height, channels):
    picture = noise(height, width, channels)
    picture = picture[:, :, 0].copy() if channels == 1 else picture
    np.testing.assert_allclose(reduced(picture), slowly_reduced(picture), atol=3e-4)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 400), st.integers(1, 400), st.sampled_from([1, 3]))
def test_reduce_any_size(width, height, channels):
    picture = noise(height, width, channels)
    picture = picture[:, :, 0].copy() if channels == 1 else picture
    np.testing.assert_allclose(reduced(picture), slowly_reduced(picture), atol=3e-4)


@pytest.mark.parametrize("width", [640, 129, 128])
def test_interior_is_that_of_pillow(width):
    image = pytest.importorskip("PIL.Image")
    picture = photograph()[:, :width].copy()
    luma = picture.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    expected = image.fromarray(luma).resize((GRID, GRID), image.Resampling.BILINEAR)
    inside = slice(1, -1)
    np.testing.assert_allclose(
        reduced(picture)[inside, inside], np.asarray(expected)[inside, inside], atol=1e-3
    )


def test_grey_rgb_is_luma():
    picture = noise(300, 200)
    grey = np.repeat(picture[:, :, None], 3, axis=2)
    np.testing.assert_allclose(reduced(grey), reduced(picture), atol=1e-4)


def test_read_only_pixels():
    picture = noise(200, 150)
    picture.flags.writeable = False
    np.testing.assert_array_equal(reduced(picture), reduced(picture.copy()))


# --- transform --------------------------------------------------------------------------------


def sampled(grid: np.ndarray, place: tuple[float, ...]) -> np.ndarray:
    """Return the view: each cell the mean of 2x2 points, each between four cells of the grid."""
    n = 2 * SIDE
    v, u = np.meshgrid((np.arange(n) + 0.5) / n, (np.arange(n) + 0.5) / n, indexing="ij")
    last = GRID - 1
    x = np.clip((place[0] * u + place[1] * v + place[2]) * GRID - 0.5, 0, last)
    y = np.clip((place[3] * u + place[4] * v + place[5]) * GRID - 0.5, 0, last)
    left, top = np.minimum(x.astype(int), last - 1), np.minimum(y.astype(int), last - 1)
    right, low = x - left, y - top
    values = grid.astype(np.float64)
    above = values[top, left] * (1 - right) + values[top, left + 1] * right
    below = values[top + 1, left] * (1 - right) + values[top + 1, left + 1] * right
    points = above * (1 - low) + below * low
    return points.reshape(SIDE, 2, SIDE, 2).mean(axis=(1, 3))


def slowly_transformed(grid: np.ndarray, place: tuple[float, ...]) -> tuple[np.ndarray, float]:
    view = sampled(grid, place)
    normal = np.empty_like(view)
    for i in range(SIDE):
        for j in range(SIDE):
            near = view[max(i - 4, 0) : i + 5, max(j - 4, 0) : j + 5]
            normal[i, j] = (view[i, j] - near.mean()) / np.sqrt(near.var() + 16)
    middles = (np.arange(SIDE) + 0.5) / SIDE
    window = np.sin(np.pi * middles)
    shown = normal * window[:, None] * window
    quality = 200 * np.sqrt(4 * np.mean(shown**2))
    cosines = np.cos(np.pi * np.arange(wdct.LOW)[:, None] * middles)
    return cosines @ shown @ cosines.T, quality


PICTURES = {
    "photograph": photograph,
    "noise": lambda: noise(300, 200),
    "a faint one": lambda: noise(300, 200) // 64 + np.uint8(90),
    "a gradient": lambda: np.tile(np.arange(256, dtype=np.uint8), (200, 1)),
}


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES.keys())
@pytest.mark.parametrize("picture", PICTURES.values(), ids=PICTURES.keys())
def test_transform(picture, place):
    grid = reduced(picture())
    coefficients, quality = transformed(grid, place)
    expected, expected_quality = slowly_transformed(grid, place)
    np.testing.assert_allclose(coefficients, expected, atol=2e-3)
    assert quality in {min(int(expected_quality + e), 100) for e in (-1e-3, 1e-3)}


@pytest.mark.parametrize("place", UPRIGHT.values(), ids=UPRIGHT.keys())
def test_upright_views_are_those_of_the_general_path(place):
    grid = reduced(photograph())
    barely_turned = (*place[:1], 1e-12, *place[2:])
    np.testing.assert_allclose(
        transformed(grid, place)[0], transformed(grid, barely_turned)[0], atol=2e-3
    )


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES.keys())
@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (13, 77, 200), (201, 3, 94)])
@pytest.mark.parametrize("size", [(1, 1), (100, 90), (129, 300), (450, 340), (60, 300)])
def test_flat_pictures_have_the_zero_code(size, colour, place):
    for picture in (np.full((*size, 3), colour, np.uint8), np.full(size, colour[0], np.uint8)):
        grid = reduced(picture)
        assert np.ptp(grid) == 0
        coefficients, quality = transformed(grid, place)
        assert quality == 0
        assert not coefficients.any()
        for flags in range(8):
            assert not encoded(
                coefficients, bool(flags & 1), bool(flags & 2), bool(flags & 4)
            ).any()


# --- encode -----------------------------------------------------------------------------------


def frequencies() -> list[tuple[int, int]]:
    """Return the 256 of the lowest radius, row by row; of equal ones those near the diagonal."""
    every = [(i, j) for i in range(wdct.LOW) for j in range(wdct.LOW) if (i, j) != (0, 0)]
    return sorted(sorted(every, key=lambda f: (f[0] ** 2 + f[1] ** 2, abs(f[0] - f[1])))[:256])


def slowly_encoded(
    coefficients: np.ndarray, transposed: bool, down: bool, across: bool
) -> np.ndarray:
    turned = coefficients.T.copy() if transposed else coefficients.copy()
    if down:
        turned[1::2] *= -1
    if across:
        turned[:, 1::2] *= -1
    values = np.array([turned[i, j] for i, j in frequencies()])
    return np.packbits(values > np.sort(values)[127])


@settings(deadline=None)
@given(
    st.integers(0, 2**32),
    st.sampled_from([1, 3, 1000, 10**6]),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
def test_encode(seed, n_values, transposed, down, across):
    shape = (wdct.LOW, wdct.LOW)
    values = np.random.default_rng(seed).integers(-n_values, n_values, shape, endpoint=True)
    coefficients = values.astype(np.float32)
    code = encoded(coefficients, transposed, down, across)
    np.testing.assert_array_equal(code, slowly_encoded(coefficients, transposed, down, across))
    assert np.bitwise_count(code).sum() <= 128


@settings(deadline=None)
@given(st.permutations(range(wdct.LOW * wdct.LOW)), st.integers(0, 7))
def test_half_of_the_bits_are_set_when_none_are_equal(order, flags):
    coefficients = np.array(order, np.float32).reshape(wdct.LOW, wdct.LOW) + 1
    code = encoded(coefficients, bool(flags & 1), bool(flags & 2), bool(flags & 4))
    assert np.bitwise_count(code).sum() == 128


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("down", [False, True])
@pytest.mark.parametrize("across", [False, True])
def test_turned_codes_are_those_of_the_turned_picture(transposed, down, across):
    picture = photograph()
    turned = picture.transpose(1, 0, 2) if transposed else picture
    turned = turned[::-1] if down else turned
    turned = np.ascontiguousarray(turned[:, ::-1] if across else turned)
    from_coefficients = encoded(transformed(reduced(picture), WHOLE)[0], transposed, down, across)
    from_pixels = encoded(transformed(reduced(turned), WHOLE)[0])
    assert distance(from_coefficients, from_pixels) <= 4


def test_another_picture_has_another_code():
    codes = [
        encoded(transformed(reduced(make_picture(seed, "leaves", 320, 240)), WHOLE)[0])
        for seed in range(4)
    ]
    assert all(distance(a, b) > 60 for i, a in enumerate(codes) for b in codes[:i])
