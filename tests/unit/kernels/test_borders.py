"""Borders on constructed grids whose rectangles are known to a fraction of a cell."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nearsearch.kernels import borders

SIDE = borders.SIDE
FINE = 1024  # pixels from which grids are reduced
TURNS = [(turns, mirrored) for turns in range(4) for mirrored in (False, True)]


def find(grid):
    out = np.full((borders.MAX_FOUND, 4), np.nan, np.float32)
    n = borders.find(np.ascontiguousarray(grid, np.float32), out)
    assert np.isfinite(out[:n]).all()
    return out[:n]


def reduced(pixels):
    cell = FINE // SIDE
    return pixels.reshape(SIDE, cell, SIDE, cell).mean((1, 3)).astype(np.float32)


def texture(height, width, seed=1, low=70, high=230):
    """A picture of patches a few cells wide, some smooth, with detail on top."""
    rng = np.random.default_rng(seed)
    patches = rng.uniform(low, high, (height // 24 + 2, width // 24 + 2))
    rows, columns = np.arange(height) / 24, np.arange(width) / 24
    r, c = rows.astype(int), columns.astype(int)
    u, v = (rows - r)[:, None], (columns - c)[None]
    smooth = (
        patches[r][:, c] * (1 - u) * (1 - v)
        + patches[r + 1][:, c] * u * (1 - v)
        + patches[r][:, c + 1] * (1 - u) * v
        + patches[r + 1][:, c + 1] * u * v
    )
    return (smooth + rng.normal(0, 12, smooth.shape)).clip(0, 255)


def framed(box, level=0.0, seed=1):
    """Pixels of one level with a picture in the box (left, top, right, bottom)."""
    left, top, right, bottom = box
    pixels = np.full((FINE, FINE), level)
    pixels[top:bottom, left:right] = texture(bottom - top, right - left, seed)
    return pixels


def letters(pixels, top, height, ink, seed=3, left=40, right=900):
    """Something like a line of text: strokes with gaps between them."""
    rng = np.random.default_rng(seed)
    for x in range(left, right, 16):
        begin = top + int(rng.integers(0, height // 2))
        pixels[begin : top + height, x : x + int(rng.integers(4, 12))] = ink


def turned(grid, turns, mirrored):
    grid = np.rot90(grid, turns)
    return grid[:, ::-1] if mirrored else grid


def turned_box(box, turns, mirrored):
    left, top, right, bottom = box
    for _ in range(turns):  # counterclockwise, as np.rot90
        left, top, right, bottom = top, 1 - right, bottom, 1 - left
    return (1 - right, top, 1 - left, bottom) if mirrored else (left, top, right, bottom)


def assert_first(grid, box, within=0.002):
    found = find(grid)
    assert len(found) >= 1
    assert np.abs(found[0] - np.array(box) / FINE).max() < within, found * FINE


@pytest.mark.parametrize("level", [0, 20, 128, 201, 255])
@pytest.mark.parametrize("box", [(21, 19, 1004, 1003), (102, 99, 922, 900), (205, 230, 811, 777)])
def test_frame(box, level):
    picture = framed(box, level)
    if level == 128:  # a picture on both sides of the colour still has an edge
        assert_first(reduced(picture), box, 0.004)
    else:
        assert_first(reduced(picture), box)


@pytest.mark.parametrize("level", [0, 255])
@pytest.mark.parametrize("box", [(0, 131, 1024, 893), (251, 0, 773, 1024), (0, 0, 1024, 900)])
def test_bars(box, level):
    assert_first(reduced(framed(box, level)), box)


@pytest.mark.parametrize(("level", "ink"), [(0, 255), (255, 0)])
@pytest.mark.parametrize("top", [True, False])
def test_caption(level, ink, top):
    box = (0, 170, 1024, 1024) if top else (0, 0, 1024, 854)
    pixels = framed(box, level)
    letters(pixels, 45 if top else 899, 80, ink)
    assert_first(reduced(pixels), box)


@pytest.mark.parametrize(("level", "ink"), [(0, 255), (255, 0)])
def test_meme_bars(level, ink):
    box = (0, 171, 1024, 853)
    pixels = framed(box, level)
    letters(pixels, 45, 80, ink)
    letters(pixels, 899, 80, ink)
    assert_first(reduced(pixels), box)


def test_program_window():
    box = (202, 209, 822, 611)
    pixels = framed(box, 246)
    pixels[:83] = 225
    letters(pixels, 20, 40, 0, right=400)
    for top in range(640, 1000, 42):
        letters(pixels, top, 18, 0, seed=top, left=202)
    assert_first(reduced(pixels), box)


@pytest.mark.parametrize("width", [66, 158, 301])
def test_blurred_bars(width):
    pixels = texture(FINE, FINE)
    rows, columns = np.mgrid[:FINE, :FINE] / FINE
    bar = 110 + 60 * np.sin(3 * rows + 1) * np.cos(4 * columns)
    pixels[:, :width] = bar[:, :width]
    pixels[:, FINE - width :] = bar[:, FINE - width :]
    assert_first(reduced(pixels), (width, 0, FINE - width, FINE), 0.004)


def test_rim_askew_with_shine():
    rows, columns = np.mgrid[:FINE, :FINE]
    left, right = 30 + rows / FINE * 20, 1000 - rows / FINE * 16
    top, bottom = 42 - columns / FINE * 18, 990 + columns / FINE * 12
    inside = (columns > left) & (columns < right) & (rows > top) & (rows < bottom)
    shine = 35 * np.exp(-(((rows - 300) / 400) ** 2) - ((columns - 600) / 400) ** 2)
    pixels = np.where(inside, texture(FINE, FINE), 30) + shine
    assert_first(reduced(pixels.clip(0, 255)), (40, 33, 992, 996), 0.005)


def test_drawing_on_paper_is_trimmed_to_the_drawing():
    pixels = np.full((FINE, FINE), 255.0)
    rows, columns = np.mgrid[:FINE, :FINE]
    pixels[((rows - 500) / 330) ** 2 + ((columns - 540) / 390) ** 2 < 1] = 90
    assert_first(reduced(pixels), (150, 170, 930, 830), 0.008)


def test_noise_on_pixels_moves_little():
    box = (102, 99, 922, 900)
    noisy = framed(box, 30) + np.random.default_rng(4).normal(0, 6, (FINE, FINE))
    assert_first(reduced(noisy.clip(0, 255)), box)


@pytest.mark.parametrize("seed", range(20))
def test_textures_have_no_border(seed):
    assert len(find(reduced(texture(FINE, FINE, seed, 0, 255)))) == 0


def test_sky_has_no_border():
    """The horizon is no straight line, and the sky is not of one level."""
    rng = np.random.default_rng(5)
    rows, _ = np.mgrid[:FINE, :FINE]
    sky = 250 - rows / FINE * 40
    hills = 400 + 120 * np.sin(np.arange(FINE) / 90) + np.cumsum(rng.normal(0, 3, FINE))
    assert len(find(reduced(np.where(rows > hills, texture(FINE, FINE), sky)))) == 0


@pytest.mark.parametrize("level", [0, 17.3, 128, 255])
def test_flat_grid_has_none(level):
    assert len(find(np.full((SIDE, SIDE), level))) == 0


@pytest.mark.parametrize("box", [(400, 400, 640, 640), (0, 370, 1024, 650), (2, 1, 1022, 1023)])
def test_too_small_or_nearly_everything(box):
    assert len(find(reduced(framed(box)))) == 0


@pytest.mark.parametrize(("turns", "mirrored"), TURNS)
@pytest.mark.parametrize(
    ("box", "level"),
    [
        ((71, 33, 901, 1000), 255),
        ((0, 170, 1024, 1024), 0),
        ((133, 0, 800, 1024), 0),
        ((205, 230, 811, 777), 20),
    ],
)
def test_turned_grids_have_turned_rectangles(box, level, turns, mirrored):
    grid = reduced(framed(box, level))
    found, other = find(grid), find(turned(grid, turns, mirrored))
    assert len(found) == len(other) >= 1
    for one, two in zip(found, other, strict=True):
        assert np.allclose(turned_box(one, turns, mirrored), two, atol=1e-4)


@given(
    seed=st.integers(0, 2**32 - 1),
    n_boxes=st.integers(0, 6),
    noise=st.sampled_from([0, 2, 40, 255]),
    turn=st.sampled_from(TURNS),
)
def test_any_grid_gives_rectangles_of_a_useful_size(seed, n_boxes, noise, turn):
    rng = np.random.default_rng(seed)
    grid = np.full((SIDE, SIDE), rng.uniform(0, 255))
    for _ in range(n_boxes):
        (left, right), (top, bottom) = np.sort(rng.integers(0, SIDE + 1, (2, 2)))
        grid[top:bottom, left:right] = rng.uniform(0, 255)
    grid = (grid + rng.normal(0, 1, grid.shape) * noise).clip(0, 255)
    found = find(grid)
    assert ((found >= 0) & (found <= 1)).all()
    width, height = found[:, 2] - found[:, 0], found[:, 3] - found[:, 1]
    assert (np.minimum(width, height) >= np.float32(0.3)).all()
    assert (width * height <= 0.99).all()
    assert len(find(turned(grid, *turn))) == len(found)


def test_read_only_grid():
    grid = reduced(framed((102, 99, 922, 900)))
    grid.flags.writeable = False
    out = np.empty((borders.MAX_FOUND, 4), np.float32)
    assert borders.find(grid, out) == 1
