"""wdct: a picture's pixels to a small grid, and any part of the grid, also turned, to its code.

The picture is reduced once, to 128x128; every view of it (zoomed, trimmed, turned) is then made
from the grid alone, in a fraction of the time that reading the file took. All arithmetic is in a
fixed order, so equal pixels give equal codes everywhere. Source: our own, see
``docs/decisions/006-wdct.md``; contrast normalisation after Jarrett, Kavukcuoglu, Ranzato & LeCun,
"What is the best multi-stage architecture for object recognition?" (ICCV 2009), section 2.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numba import types

from nearsearch.kernels.jit import kernel, readonly, writable

if TYPE_CHECKING:
    from numpy.typing import NDArray

GRID = 128
"""Rows and columns of the reduced picture that views are made from."""
LOW = 18
"""Rows and columns of DCT coefficients; the code takes those of the lowest radial frequency."""

_SIDE = 64  # rows and columns of a view
_ROWS = 8  # that are narrowed together
_REACH = 4  # neighbours on each side in the local mean and deviation
_SAMPLES = 2 * _SIDE  # points taken along each side of a view, averaged in pairs
_FLOOR = np.float32(16)  # variance added to the local one: four levels, the noise of a JPEG
_HALF = 128
_ZERO, _ONE = np.float32(0), np.float32(1)
_QUARTER = np.float32(0.25)
_MIDDLE = np.float32(128)
_RED, _GREEN, _BLUE = np.float32(0.299), np.float32(0.587), np.float32(0.114)


def _lowest_frequencies() -> NDArray[np.int64]:
    """Return row and column of the 256 frequencies nearest to zero, without zero, row by row.

    254 have row² + column² <= 304; of the four with 305 the two nearest to the diagonal complete
    them, so that the transposed picture has the same frequencies.
    """
    found = [
        (row, column)
        for row in range(LOW)
        for column in range(LOW)
        if 0 < row * row + column * column <= 304 or (row, column) in {(7, 16), (16, 7)}
    ]
    return np.array(found, np.int64)


def _windowed_cosines() -> NDArray[np.float32]:
    """Return the DCT-II rows of frequencies 0..17 for 64 samples under a sine window."""
    rows = [
        [
            math.cos(math.pi * i * (j + 0.5) / _SIDE) * math.sin(math.pi * (j + 0.5) / _SIDE)
            for j in range(_SIDE)
        ]
        for i in range(LOW)
    ]
    return np.array(rows, np.float32)


_FREQUENCIES = _lowest_frequencies()
_COSINES = _windowed_cosines()
_COSINES_T = np.ascontiguousarray(_COSINES.T)
_WINDOW = _COSINES[0].copy()
# Of each view's row or column: 1 over the number of its neighbours that exist, itself included.
_SHARE = np.array(
    [1 / (min(i + _REACH, _SIDE - 1) - max(i - _REACH, 0) + 1) for i in range(_SIDE)], np.float32
)

_pixels = readonly(types.uint8, 2)
_grid = readonly(types.float32, 2)
_grid_out = writable(types.float32, 2)
_affine = readonly(types.float64)
_code_out = writable(types.uint8)
_i64_out = writable(types.int64)
_f32_out = writable(types.float32)


# --- the picture to the grid ------------------------------------------------------------------


@kernel(types.void(types.int64, _i64_out, _f32_out))
def _triangle(length: int, first: NDArray[np.int64], share: NDArray[np.float32]) -> None:
    """Write which of `GRID` cells each sample of an axis adds to, and how much of it to the first.

    A cell's weights are a triangle of twice its width, so a sample lies under two: `first` and the
    next, whose share is the rest. At both ends the outer cell does not exist and the inner one
    takes all. Requires: length >= GRID.
    """
    scale = GRID / length
    for i in range(length):
        position = (i + 0.5) * scale - 0.5
        cell = math.floor(position)
        if cell < 0:
            first[i], share[i] = 0, _ONE
        elif cell >= GRID - 1:
            first[i], share[i] = GRID - 2, _ZERO
        else:
            first[i], share[i] = cell, np.float32(cell + 1 - position)


@kernel(types.void(_pixels, types.int64, types.int64, _f32_out))
def _luma(pixels: NDArray[np.uint8], channels: int, row: int, out: NDArray[np.float32]) -> None:
    """Write one row of luma less 128: sums of small numbers keep more of their bits."""
    source = pixels[row]
    if channels == 1:
        for x in range(out.shape[0]):
            out[x] = np.float32(source[x]) - _MIDDLE
    else:
        for x in range(out.shape[0]):
            red, green, blue = source[3 * x], source[3 * x + 1], source[3 * x + 2]
            luma = np.float32(red) * _RED + np.float32(green) * _GREEN
            out[x] = (luma + np.float32(blue) * _BLUE) - _MIDDLE


@kernel(types.void(types.int64, _i64_out, _f32_out))
def _interpolation(length: int, first: NDArray[np.int64], share: NDArray[np.float32]) -> None:
    """Write between which two of few samples each cell of an axis lies, and the share of the first.

    Requires: length < GRID.
    """
    scale = length / GRID
    for cell in range(GRID):
        position = max((cell + 0.5) * scale - 0.5, 0.0)
        first[cell] = max(min(int(position), length - 2), 0)
        share[cell] = np.float32(max(1 - (position - first[cell]), 0.0)) if length > 1 else _ONE


@kernel(types.void(_grid_out, _i64_out, _f32_out, _f32_out, _grid_out))
def _narrow(
    columns: NDArray[np.float32],
    first: NDArray[np.int64],
    share: NDArray[np.float32],
    weight: NDArray[np.float32],
    out: NDArray[np.float32],
) -> None:
    """Reduce or enlarge up to eight rows at once to `GRID` samples, as the tables say.

    Requires: columns (width + 1, 8), the last of any finite values; weight (128,), the sum of the
    weights of each cell; out (8 or fewer, 128).
    Order: the samples of a cell from the left. Additions to one sum wait for each other: eight rows
    take as long as one, and half as long as all their additions to the grid itself.
    """
    n_rows, length = out.shape[0], columns.shape[0] - 1
    if length < GRID:
        for x in range(GRID):
            left, right = columns[first[x]], columns[first[x] + 1]
            for r in range(n_rows):
                out[r, x] = left[r] * share[x] + right[r] * (_ONE - share[x])
        return
    this, following = np.zeros(_ROWS, np.float32), np.zeros(_ROWS, np.float32)
    cell = 0
    for x in range(length):
        while cell < first[x]:
            for r in range(n_rows):
                out[r, cell] = this[r] / weight[cell]
            for r in range(_ROWS):
                this[r] = following[r]
                following[r] = _ZERO
            cell += 1
        for r in range(_ROWS):
            part = columns[x, r] * share[x]
            this[r] += part
            following[r] += columns[x, r] - part
    for r in range(n_rows):
        out[r, cell] = this[r] / weight[cell]
        out[r, cell + 1] = following[r] / weight[cell + 1]


@kernel(types.void(_pixels, types.int64, _grid_out))
def reduce(pixels: NDArray[np.uint8], channels: int, grid: NDArray[np.float32]) -> None:
    """Write the luma of the picture, less 128, squashed to `GRID` x `GRID`, each cell an average.

    Requires: pixels (h, w * channels), channels 1 (luma) or 3 (RGB), h and w >= 1; grid (128, 128).
    Order: the samples of a cell from the top, then from the left.
    Cost: each pixel is added to two rows of sums; a picture narrower or lower than the grid is
    interpolated.
    """
    height, width = pixels.shape[0], pixels.shape[1] // channels
    across, down = np.empty(max(width, GRID), np.int64), np.empty(max(height, GRID), np.int64)
    left, up = np.empty(max(width, GRID), np.float32), np.empty(max(height, GRID), np.float32)
    weight = np.zeros(GRID, np.float32)
    if width < GRID:
        _interpolation(width, across, left)
    else:
        _triangle(width, across, left)
        for x in range(width):
            weight[across[x]] += left[x]
            weight[across[x] + 1] += _ONE - left[x]
    luma = np.empty(width, np.float32)
    columns = np.zeros((width + 1, _ROWS), np.float32)
    if height < GRID:
        _interpolation(height, down, up)
        rows = np.zeros((height + 1, GRID), np.float32)
        for y in range(height):
            _luma(pixels, channels, y, luma)
            for x in range(width):
                columns[x, y % _ROWS] = luma[x]
            if y % _ROWS == _ROWS - 1 or y == height - 1:
                _narrow(columns, across, left, weight, rows[y - y % _ROWS : y + 1])
        for y in range(GRID):
            upper, lower = rows[down[y]], rows[down[y] + 1]
            for x in range(GRID):
                grid[y, x] = upper[x] * up[y] + lower[x] * (_ONE - up[y])
        return
    _triangle(height, down, up)
    this, following = np.zeros(width, np.float32), np.zeros(width, np.float32)
    this_weight, following_weight = _ZERO, _ZERO
    done, y = 0, 0
    while done < GRID:
        # The last row is complete with the last sample, like the one before it.
        while y < height and down[y] <= done:
            _luma(pixels, channels, y, luma)
            share = up[y]
            for x in range(width):
                part = luma[x] * share
                this[x] += part
                following[x] += luma[x] - part
            this_weight += share
            following_weight += _ONE - share
            y += 1
        for x in range(width):
            columns[x, done % _ROWS] = this[x] / this_weight
            this[x] = following[x]
            following[x] = _ZERO
        this_weight, following_weight = following_weight, _ZERO
        done += 1
        if done % _ROWS == 0:
            _narrow(columns, across, left, weight, grid[done - _ROWS : done])


# --- a part of the grid to coefficients -------------------------------------------------------


@kernel(types.void(types.float64, types.float64, _i64_out, _f32_out))
def _points(step: float, start: float, cell: NDArray[np.int64], share: NDArray[np.float32]) -> None:
    """Write after which cell of the grid each point of an axis lies, and the share of the next.

    Points outside of the picture have the value of its edge.
    """
    for i in range(_SAMPLES):
        position = ((i + 0.5) / _SAMPLES * step + start) * GRID - 0.5
        position = min(max(position, 0.0), float(GRID - 1))
        cell[i] = min(int(position), GRID - 2)
        share[i] = np.float32(position - cell[i])


@kernel(types.void(_grid, _affine, _grid_out))
def _sample_upright(
    grid: NDArray[np.float32], place: NDArray[np.float64], out: NDArray[np.float32]
) -> None:
    """Do what `_sample` does for a view that is not turned, in a sixth of the time."""
    across, right = np.empty(_SAMPLES, np.int64), np.empty(_SAMPLES, np.float32)
    down, low = np.empty(_SAMPLES, np.int64), np.empty(_SAMPLES, np.float32)
    _points(place[0], place[2], across, right)
    _points(place[4], place[5], down, low)
    line = np.empty(GRID, np.float32)
    for i in range(_SIDE):
        for x in range(GRID):
            line[x] = _ZERO
        for k in range(2 * i, 2 * i + 2):
            top, share = down[k], low[k]
            for x in range(GRID):
                line[x] += grid[top, x] * (_ONE - share) + grid[top + 1, x] * share
        for j in range(_SIDE):
            a, b = across[2 * j], across[2 * j + 1]
            first = line[a] * (_ONE - right[2 * j]) + line[a + 1] * right[2 * j]
            second = line[b] * (_ONE - right[2 * j + 1]) + line[b + 1] * right[2 * j + 1]
            out[i, j] = (first + second) * _QUARTER


@kernel(types.void(_grid, _affine, _grid_out))
def _sample(
    grid: NDArray[np.float32], place: NDArray[np.float64], out: NDArray[np.float32]
) -> None:
    """Write the view (64, 64): each cell the mean of four points, each between four of the grid.

    Points outside of the picture have the value of its nearest edge.
    """
    last = float(GRID - 1)
    for i in range(_SIDE):
        for j in range(_SIDE):
            out[i, j] = _ZERO
    for i in range(_SAMPLES):
        v = (i + 0.5) / _SAMPLES
        for j in range(_SAMPLES):
            u = (j + 0.5) / _SAMPLES
            x = (place[0] * u + place[1] * v + place[2]) * GRID - 0.5
            y = (place[3] * u + place[4] * v + place[5]) * GRID - 0.5
            x = min(max(x, 0.0), last)
            y = min(max(y, 0.0), last)
            left, top = min(int(x), GRID - 2), min(int(y), GRID - 2)
            right, low = np.float32(x - left), np.float32(y - top)
            above = grid[top, left] * (_ONE - right) + grid[top, left + 1] * right
            below = grid[top + 1, left] * (_ONE - right) + grid[top + 1, left + 1] * right
            out[i // 2, j // 2] += (above * (_ONE - low) + below * low) * _QUARTER


@kernel(types.void(_grid_out, _grid_out))
def _sum_neighbours(values: NDArray[np.float32], out: NDArray[np.float32]) -> None:
    """Write to each cell the mean of the 9x9 cells around it, of those that exist.

    Order: along columns from the top, then along rows from the left.
    """
    for i in range(_SIDE):
        for j in range(_SIDE):
            out[i, j] = _ZERO
        for near in range(max(i - _REACH, 0), min(i + _REACH + 1, _SIDE)):
            for j in range(_SIDE):
                out[i, j] += values[near, j]
    padded = np.zeros(_SIDE + 2 * _REACH, np.float32)
    for i in range(_SIDE):
        for j in range(_SIDE):
            padded[_REACH + j] = out[i, j] * _SHARE[i]
            out[i, j] = _ZERO
        for step in range(2 * _REACH + 1):
            for j in range(_SIDE):
                out[i, j] += padded[j + step]
        for j in range(_SIDE):
            out[i, j] *= _SHARE[j]


@kernel(types.int64(_grid_out))
def _normalise(view: NDArray[np.float32]) -> int:
    """Take the local mean off the view, divide by the local deviation; return the quality.

    The quality is 200 times the root mean square of the result under the window, at most 100: 0 for
    a flat picture, at most 14 for a linear gradient, 46 for a radial one, 40 for noise of six
    levels; of photographs one in a hundred is below 80.
    """
    mean = np.empty((_SIDE, _SIDE), np.float32)
    square = np.empty((_SIDE, _SIDE), np.float32)
    squares = np.empty((_SIDE, _SIDE), np.float32)
    _sum_neighbours(view, mean)
    for i in range(_SIDE):
        for j in range(_SIDE):
            square[i, j] = view[i, j] * view[i, j]
    _sum_neighbours(square, squares)
    energy = 0.0
    for i in range(_SIDE):
        row = 0.0
        for j in range(_SIDE):
            variance = max(squares[i, j] - mean[i, j] * mean[i, j], _ZERO)
            value = (view[i, j] - mean[i, j]) / math.sqrt(variance + _FLOOR)
            view[i, j] = value
            shown = value * _WINDOW[i] * _WINDOW[j]
            row += shown * shown
        energy += row
    # The mean square of the window is 1/4.
    return min(int(200 * math.sqrt(4 * energy / (_SIDE * _SIDE))), 100)


@kernel(types.int64(_grid, _affine, _grid_out))
def transform(
    grid: NDArray[np.float32], place: NDArray[np.float64], coefficients: NDArray[np.float32]
) -> int:
    """Write the DCT coefficients of a view of the grid, and return its quality, 0..100.

    All coefficients are zero where the quality is.

    Requires: grid as `reduce` writes it; place (6,): the point (u, v) of the view, 0..1 from its
    upper left corner, is at x = place[0] u + place[1] v + place[2] of the picture, likewise y by
    the other three; coefficients (18, 18), rows are frequencies along y.
    """
    view = np.empty((_SIDE, _SIDE), np.float32)
    if place[1] == 0 and place[3] == 0:
        _sample_upright(grid, place, view)
    else:
        _sample(grid, place, view)
    quality = _normalise(view)
    if quality == 0:  # what is left is rounding: all flat pictures have one code
        for i in range(_SIDE):
            for j in range(_SIDE):
                view[i, j] = _ZERO
    half = np.zeros((LOW, _SIDE), np.float32)
    for i in range(LOW):
        for k in range(_SIDE):
            for j in range(_SIDE):
                half[i, j] += _COSINES[i, k] * view[k, j]
    for i in range(LOW):
        for j in range(LOW):
            coefficients[i, j] = _ZERO
        for k in range(_SIDE):
            for j in range(LOW):
                coefficients[i, j] += half[i, k] * _COSINES_T[k, j]
    return quality


@kernel(types.void(_grid, types.boolean, types.boolean, types.boolean, _code_out))
def encode(
    coefficients: NDArray[np.float32],
    is_transposed: bool,
    is_flipped_down: bool,
    is_flipped_across: bool,
    code: NDArray[np.uint8],
) -> None:
    """Write the code (32,) of the view, of its transposition, or of either flipped.

    Flipping changes the sign of the odd frequencies. Order: transposed first, then flipped. A bit
    is set for each coefficient above the lower median, so that 128 are, unless some are equal; the
    first frequency has the highest bit of the first byte. The threshold by counting: see `pdq`.
    """
    values = np.empty(2 * _HALF, np.float32)
    for k in range(2 * _HALF):
        row, column = _FREQUENCIES[k, 0], _FREQUENCIES[k, 1]
        value = coefficients[column, row] if is_transposed else coefficients[row, column]
        is_negative = (is_flipped_down and row % 2 == 1) != (is_flipped_across and column % 2 == 1)
        values[k] = -value if is_negative else value
    n_smaller = np.zeros(2 * _HALF, np.int32)
    for m in range(2 * _HALF):
        value = values[m]
        for k in range(2 * _HALF):
            n_smaller[k] += np.int32(value < values[k])
    for byte in range(code.shape[0]):
        code[byte] = 0
    for k in range(2 * _HALF):
        if n_smaller[k] >= _HALF:
            code[k // 8] |= np.uint8(128 >> (k % 8))
