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

from nearsearch.kernels.grid import GRID
from nearsearch.kernels.jit import inner, kernel, readonly, writable

if TYPE_CHECKING:
    from numpy.typing import NDArray

LOW = 18
"""Rows and columns of DCT coefficients; the code takes those of the lowest radial frequency."""

_SIDE = 64  # rows and columns of a view
_REACH = 4  # neighbours on each side in the local mean and deviation
_SAMPLES = 2 * _SIDE  # points taken along each side of a view, averaged in pairs
_FLOOR = np.float32(16)  # variance added to the local one: four levels, the noise of a JPEG
_HALF = 128
_LANES = 16  # whole vectors that nine frequencies fit in
_ZERO, _ONE = np.float32(0), np.float32(1)
_QUARTER = np.float32(0.25)
_LAST, _LAST_PAIR = np.float32(GRID - 1), np.int32(GRID - 2)  # where points lie, at most
# As indices, unsigned: Numba adds its length to a negative one, which stops the vectors.
_RIGHT, _BELOW, _BELOW_RIGHT = np.uint32(1), np.uint32(GRID), np.uint32(GRID + 1)


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
# Columns of even and of odd frequencies for the first half of the samples, then zeros.
_EVEN = np.zeros((_SIDE // 2, _LANES), np.float32)
_ODD = np.zeros((_SIDE // 2, _LANES), np.float32)
_EVEN[:, : LOW // 2] = _COSINES[::2, : _SIDE // 2].T
_ODD[:, : LOW // 2] = _COSINES[1::2, : _SIDE // 2].T
_WINDOW = _COSINES[0].copy()
# Of each view's row or column: 1 over the number of its neighbours that exist, itself included.
_SHARE = np.array(
    [1 / (min(i + _REACH, _SIDE - 1) - max(i - _REACH, 0) + 1) for i in range(_SIDE)], np.float32
)

_grid = readonly(types.float32, 2)
_grid_out = writable(types.float32, 2)
_affine = readonly(types.float64)
_code_out = writable(types.uint8)


# --- a part of the grid to coefficients -------------------------------------------------------
# Every interpolation is a + (b - a) * share, which is exactly a where a and b are equal.
#
# Measured on one x86-64 core with AVX-512 (Zen 5), warm, microseconds: an upright view takes 15 (5
# to sample, 4.5 to normalise, the rest for the products), a turned one 25 (15 to sample), a code 2
# to 3; restricted to AVX2 18, 28 and 3. Positions in float64 and points added one by one to the
# view took 79 to sample a turned view; sums of nine added row by row to memory, and one running sum
# for the energy, 16 to normalise; products that are not folded 8.


@inner
def _points(step: float, start: float, cell: NDArray[np.int64], share: NDArray[np.float32]) -> None:
    """Write after which cell of the grid each point of an axis lies, and the share of the next.

    Points outside of the picture have the value of its edge.
    """
    for i in range(_SAMPLES):
        position = ((i + 0.5) / _SAMPLES * step + start) * GRID - 0.5
        position = min(max(position, 0.0), float(GRID - 1))
        cell[i] = min(int(position), GRID - 2)
        share[i] = np.float32(position - cell[i])


@inner
def _sample_upright(
    grid: NDArray[np.float32], place: NDArray[np.float64], out: NDArray[np.float32]
) -> None:
    """Do what `_sample` does for a view that is not turned, in a third of the time."""
    across, right = np.empty(_SAMPLES, np.int64), np.empty(_SAMPLES, np.float32)
    down, low = np.empty(_SAMPLES, np.int64), np.empty(_SAMPLES, np.float32)
    _points(place[0], place[2], across, right)
    _points(place[4], place[5], down, low)
    line, rise = np.empty(GRID, np.float32), np.empty(GRID, np.float32)
    for i in range(_SIDE):
        a0, a1 = grid[down[2 * i]], grid[down[2 * i] + 1]
        b0, b1 = grid[down[2 * i + 1]], grid[down[2 * i + 1] + 1]
        a_low, b_low = low[2 * i], low[2 * i + 1]
        for x in range(GRID):
            line[x] = (a0[x] + (a1[x] - a0[x]) * a_low) + (b0[x] + (b1[x] - b0[x]) * b_low)
        for x in range(GRID - 1):
            rise[x] = line[x + 1] - line[x]
        for j in range(_SIDE):
            a, b = across[2 * j], across[2 * j + 1]
            first = line[a] + rise[a] * right[2 * j]
            second = line[b] + rise[b] * right[2 * j + 1]
            out[i, j] = (first + second) * _QUARTER


@inner
def _sample(
    grid: NDArray[np.float32], place: NDArray[np.float64], out: NDArray[np.float32]
) -> None:
    """Write the view (64, 64): each cell the mean of four points, each between four of the grid.

    Points outside of the picture have the value of its nearest edge. Positions are float32:
    within 1/40,000 of a cell for views up to twice as large as the picture.
    """
    flat = grid.reshape(GRID * GRID)
    x_of, y_of = np.empty(_SAMPLES, np.float32), np.empty(_SAMPLES, np.float32)
    at = np.empty(_SAMPLES, np.uint32)
    right, low = np.empty(_SAMPLES, np.float32), np.empty(_SAMPLES, np.float32)
    values = np.empty(_SAMPLES, np.float32)
    for j in range(_SAMPLES):
        u = (j + 0.5) / _SAMPLES
        x_of[j], y_of[j] = np.float32(place[0] * u * GRID), np.float32(place[3] * u * GRID)
    for i in range(_SAMPLES):
        v = (i + 0.5) / _SAMPLES
        x_start = np.float32((place[1] * v + place[2]) * GRID - 0.5)
        y_start = np.float32((place[4] * v + place[5]) * GRID - 0.5)
        for j in range(_SAMPLES):
            x = min(max(x_of[j] + x_start, _ZERO), _LAST)
            y = min(max(y_of[j] + y_start, _ZERO), _LAST)
            left, top = min(np.int32(x), _LAST_PAIR), min(np.int32(y), _LAST_PAIR)
            right[j], low[j] = x - np.float32(left), y - np.float32(top)
            at[j] = top * GRID + left
        for j in range(_SAMPLES):
            k = at[j]
            a, b = flat[k], flat[k + _RIGHT]
            c, d = flat[k + _BELOW], flat[k + _BELOW_RIGHT]
            above, below = a + (b - a) * right[j], c + (d - c) * right[j]
            values[j] = above + (below - above) * low[j]
        if i % 2 == 0:
            for j in range(_SIDE):
                out[i // 2, j] = values[2 * j] + values[2 * j + 1]
        else:
            for j in range(_SIDE):
                out[i // 2, j] = (out[i // 2, j] + (values[2 * j] + values[2 * j + 1])) * _QUARTER


@inner
def _nine_rows(rows: NDArray[np.float32], first: int, out: NDArray[np.float32]) -> None:
    """Write the sums of nine rows to the middle of `out`; the same if the rows are reversed."""
    r0, r1, r2, r3 = rows[first], rows[first + 1], rows[first + 2], rows[first + 3]
    r4, r5, r6, r7 = rows[first + 4], rows[first + 5], rows[first + 6], rows[first + 7]
    r8, sums = rows[first + 8], out[_REACH:]
    for j in range(_SIDE):
        outer = ((r0[j] + r8[j]) + (r1[j] + r7[j])) + ((r2[j] + r6[j]) + (r3[j] + r5[j]))
        sums[j] = outer + r4[j]


@inner
def _nine_columns(row: NDArray[np.float32], out: NDArray[np.float32]) -> None:
    """Write the sums of nine neighbours in a row that has four zeros at each end."""
    for j in range(_SIDE):
        outer = ((row[j] + row[j + 8]) + (row[j + 1] + row[j + 7])) + (
            (row[j + 2] + row[j + 6]) + (row[j + 3] + row[j + 5])
        )
        out[j] = outer + row[j + 4]


@inner
def _normalise(view: NDArray[np.float32]) -> int:
    """Take the local mean off the view, divide by the local deviation; return the quality.

    Local: the 9x9 cells around, those that exist. The quality is 200 times the root mean square of
    the result under the window, at most 100: 0 for a flat picture, at most 14 for a linear
    gradient, 46 for a radial one, 40 for noise of six levels; of photographs one in a hundred is
    below 80.
    Order: additions along columns, then along rows, each as written. What is subtracted first, so
    that a flat view is exactly zero, is the upper left corner.
    """
    padded = np.zeros((_SIDE + 2 * _REACH, _SIDE), np.float32)
    squares = np.zeros((_SIDE + 2 * _REACH, _SIDE), np.float32)
    corner = view[0, 0]
    for i in range(_SIDE):
        row, square, source = padded[i + _REACH], squares[i + _REACH], view[i]
        for j in range(_SIDE):
            value = source[j] - corner
            row[j] = value
            square[j] = value * value
    sums = np.zeros(_SIDE + 2 * _REACH, np.float32)
    near, near_squares = np.empty(_SIDE, np.float32), np.empty(_SIDE, np.float32)
    energies = np.zeros(_SIDE, np.float32)
    for i in range(_SIDE):
        _nine_rows(padded, i, sums)
        _nine_columns(sums, near)
        _nine_rows(squares, i, sums)
        _nine_columns(sums, near_squares)
        row, out = padded[i + _REACH], view[i]
        share, window = _SHARE[i], _WINDOW[i]
        for j in range(_SIDE):
            mean = near[j] * (share * _SHARE[j])
            square = near_squares[j] * (share * _SHARE[j])
            variance = max(square - mean * mean, _ZERO)
            value = (row[j] - mean) / np.sqrt(variance + _FLOOR)
            out[j] = value
            shown = value * (window * _WINDOW[j])
            energies[j] += shown * shown
    energy = 0.0
    for j in range(_SIDE):
        energy += energies[j]
    # The mean square of the window is 1/4.
    return min(int(200 * math.sqrt(4 * energy / (_SIDE * _SIDE))), 100)


@kernel(types.int64(_grid, _affine, _grid_out))
def transform(
    grid: NDArray[np.float32], place: NDArray[np.float64], coefficients: NDArray[np.float32]
) -> int:
    """Write the DCT coefficients of a view of the grid, and return its quality, 0..100.

    All coefficients are zero where the quality is: what is left of flat views is rounding.
    Requires: grid as `grid.reduce` writes it; place (6,), finite: the point (u, v) of the view,
    0..1 from its upper left corner, is at x = place[0] u + place[1] v + place[2] of the picture,
    likewise y by the other three; coefficients (18, 18), rows are frequencies along y.
    Even frequencies are the same from both ends, odd ones differ in sign: rows, then columns, are
    added to and subtracted from those opposite, which halves the products.
    """
    view = np.empty((_SIDE, _SIDE), np.float32)
    if place[1] == 0 and place[3] == 0:
        _sample_upright(grid, place, view)
    else:
        _sample(grid, place, view)
    quality = _normalise(view)
    if quality == 0:
        for i in range(LOW):
            for j in range(LOW):
                coefficients[i, j] = _ZERO
        return 0
    # The sums of opposite rows, for even frequencies, then the differences, for odd ones.
    folded = np.empty((_SIDE, _SIDE), np.float32)
    for k in range(_SIDE // 2):
        upper, lower = view[k], view[_SIDE - 1 - k]
        plus, minus = folded[k], folded[_SIDE // 2 + k]
        for j in range(_SIDE):
            plus[j] = upper[j] + lower[j]
            minus[j] = upper[j] - lower[j]
    half = np.empty(_SIDE, np.float32)
    low = np.empty((2, _LANES), np.float32)
    for i in range(LOW):
        start = _SIDE // 2 * (i % 2)
        for j in range(_SIDE):
            half[j] = _ZERO
        c = _COSINES[i]
        for k in range(0, _SIDE // 2, 4):
            r0, r1 = folded[start + k], folded[start + k + 1]
            r2, r3 = folded[start + k + 2], folded[start + k + 3]
            c0, c1, c2, c3 = c[k], c[k + 1], c[k + 2], c[k + 3]
            for j in range(_SIDE):
                half[j] += (r0[j] * c0 + r1[j] * c1) + (r2[j] * c2 + r3[j] * c3)
        even, odd = low[0], low[1]
        for j in range(_LANES):
            even[j] = _ZERO
            odd[j] = _ZERO
        for k in range(_SIDE // 2):
            plus_k, minus_k = half[k] + half[_SIDE - 1 - k], half[k] - half[_SIDE - 1 - k]
            for j in range(_LANES):
                even[j] += plus_k * _EVEN[k, j]
                odd[j] += minus_k * _ODD[k, j]
        for j in range(LOW // 2):
            coefficients[i, 2 * j] = even[j]
            coefficients[i, 2 * j + 1] = odd[j]
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
