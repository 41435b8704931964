"""A picture's pixels to the small grid of luma that its `wdct` codes are made from.

All arithmetic is float32 in a fixed order, so equal pixels give equal grids everywhere.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from nearsearch.kernels.jit import inner, kernel, readonly, writable

if TYPE_CHECKING:
    from numpy.typing import NDArray

GRID = 128
"""Rows and columns of the reduced picture."""

_TOGETHER = 4  # samples that are added in one pass over the sums
_ROWS = 64  # that are narrowed together, in the lanes of vectors
_COLUMNS = GRID  # of these rows, that are transposed together: 32 KiB; not fewer than cells
_TILE = 8  # rows and columns that are transposed in registers; 16 need AVX-512
_ZERO, _ONE = np.float32(0), np.float32(1)
_RED, _GREEN, _BLUE = np.float32(0.299), np.float32(0.587), np.float32(0.114)

_pixels = readonly(types.uint8, 2)
_i64, _f32 = types.int64, types.float32
_grid_out = writable(types.float32, 2)

# A cell's weights are a triangle of twice its width, so a sample lies under two: the rows of the
# picture are added to two rows of sums each, then the columns of these to two columns each. Both
# times the lanes of a vector are sums that do not wait for each other: along columns they are so
# by themselves, along rows the sums are transposed before and after.
#
# Measured on one x86-64 core with AVX-512 (Zen 5), warm, microseconds for luma and for RGB: 450x340
# takes 38 and 49, 640x480 55 and 80, 1600x1200 215 and 380, 4000x3000 1,000 and 4,000. Restricted
# to AVX2: 43 and 68, 59 and 106, 231 and 531, 1,270 and 4,800. Half of the 38 is narrowing. With
# 32 rows at a time they are 50, with a loop in place of the tiles in registers 58; two running sums
# for each row alone took 60. 128 rows at a time take 41 and twice the memory. Strips of 512 columns
# from top to bottom of a cell do not help luma, and RGB of 4000x3000 takes 5,200 with them: the
# pieces of rows are too short for memory.


@inner
def _axis(
    length: int, first: NDArray[np.int64], share: NDArray[np.float32], weight: NDArray[np.float32]
) -> None:
    """Write how the samples of an axis make `GRID` cells, and the sum of the weights of each cell.

    Of a sample: which cell it adds to, and how much of it; the next cell gets the rest. At both
    ends the outer cell does not exist and the inner one takes all. If the samples are fewer than
    the cells, the tables are of a cell: which sample is before it, and how much of it; the rest is
    of the next sample.
    """
    if length < GRID:
        for cell in range(GRID):
            position = max((cell + 0.5) * length / GRID - 0.5, 0.0)
            first[cell] = max(min(int(position), length - 2), 0)
            share[cell] = np.float32(max(1 - (position - first[cell]), 0.0))
            weight[cell] = _ONE
            if length == 1:
                share[cell] = _ONE
        return
    for cell in range(GRID):
        weight[cell] = _ZERO
    for i in range(length):
        position = (i + 0.5) * GRID / length - 0.5
        cell = math.floor(position)
        if cell < 0:
            first[i], share[i] = 0, _ONE
        elif cell >= GRID - 1:
            first[i], share[i] = GRID - 2, _ZERO
        else:
            first[i], share[i] = cell, np.float32(cell + 1 - position)
        weight[first[i]] += share[i]
        weight[first[i] + 1] += _ONE - share[i]


@inner
def _luma(
    pixels: NDArray[np.uint8],
    channels: int,
    y: int,
    base: np.float32,
    out: NDArray[np.float32],
    row: int,
) -> None:
    """Write the luma of row y, less `base`, to a row of `out`."""
    source, luma = pixels[y], out[row]
    if channels == 1:
        for x in range(luma.shape[0]):
            luma[x] = np.float32(source[x]) - base
    else:
        for x in range(luma.shape[0]):
            red, green, blue = source[3 * x], source[3 * x + 1], source[3 * x + 2]
            both = np.float32(red) * _RED + np.float32(green) * _GREEN
            luma[x] = (both + np.float32(blue) * _BLUE) - base


@inner
def _add(
    samples: NDArray[np.float32],
    row: int,
    i: int,
    n: int,
    share: NDArray[np.float32],
    sums: NDArray[np.float32],
    cell: int,
) -> None:
    """Add one to four samples to the sums of a cell and of the next.

    The samples i, i + 1 .. of the axis are the rows `row`, `row` + 1 .. of `samples`. It has four
    from there on, all finite: those past the n-th add zero. Four at once halve the traffic of the
    sums. Views keep Numba from checking each index for its sign, which stops the vectors, and
    with `[cell]` in place of `[cell, 0:]` 450x340 takes 50 microseconds, not 38.
    """
    a0 = share[i]
    a1 = a2 = a3 = b1 = b2 = b3 = _ZERO
    if n > 1:
        a1, b1 = share[i + 1], _ONE - share[i + 1]
    if n > 2:
        a2, b2 = share[i + 2], _ONE - share[i + 2]
    if n > 3:
        a3, b3 = share[i + 3], _ONE - share[i + 3]
    b0 = _ONE - a0
    this, following = sums[cell, 0:], sums[cell + 1, 0:]
    s0, s1, s2, s3 = samples[row], samples[row + 1], samples[row + 2], samples[row + 3]
    for x in range(this.shape[0]):
        this[x] = (((this[x] + s0[x] * a0) + s1[x] * a1) + s2[x] * a2) + s3[x] * a3
        following[x] = (((following[x] + s0[x] * b0) + s1[x] * b1) + s2[x] * b2) + s3[x] * b3


@intrinsic  # type: ignore[untyped-decorator]
def _transpose_tile(
    context: Any, rows: Any, at: Any, step: Any, columns: Any, to: Any, step_to: Any
) -> Any:
    """Write the transposed 8x8 tile that begins at element `at` to element `to` of `columns`.

    Numba has no type for a vector in a register, so this is written in LLVM's instructions. The
    function runs once, when the kernel is compiled, and returns the program that it writes.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        vector = ir.VectorType(ir.FloatType(), _TILE)

        def address(array: int, start: int, row: int) -> Any:
            data = context.make_array(signature.args[array])(context, builder, arguments[array])
            index = ir.Constant(ir.IntType(64), row)
            index = builder.add(arguments[start], builder.mul(index, arguments[start + 1]))
            return builder.bitcast(builder.gep(data.data, [index]), ir.PointerType(vector))

        tile = [builder.load(address(0, 1, row), align=4) for row in range(_TILE)]
        half = 1
        while half < _TILE:  # swap the corners of the blocks of 2, 4 and 8
            lanes = range(_TILE)
            upper = [lane if not lane & half else _TILE + lane - half for lane in lanes]
            lower = [lane + half if not lane & half else _TILE + lane for lane in lanes]
            masks = [ir.Constant(ir.VectorType(ir.IntType(32), _TILE), m) for m in (upper, lower)]
            for i in [lane for lane in lanes if not lane & half]:
                a, b = tile[i], tile[i + half]
                tile[i], tile[i + half] = (builder.shuffle_vector(a, b, mask) for mask in masks)
            half *= 2
        for row in range(_TILE):
            builder.store(tile[row], address(3, 4, row), align=4)
        return context.get_dummy_value()

    i64 = types.int64
    return types.void(rows, i64, i64, columns, i64, i64), generate


@inner
def _transpose(rows: NDArray[np.float32], left: int, n: int, columns: NDArray[np.float32]) -> None:
    """Write `n` columns of `rows`, from `left` on, as the first rows of `columns`."""
    n_rows, length, step = rows.shape[0], rows.shape[1], columns.shape[1]
    for y in range(0, n_rows - _TILE + 1, _TILE):
        for x in range(0, n - _TILE + 1, _TILE):
            _transpose_tile(rows, y * length + left + x, length, columns, x * step + y, step)
    for y in range(n_rows):
        is_tiled = y < n_rows - n_rows % _TILE
        for x in range(n - n % _TILE if is_tiled else 0, n):
            columns[x, y] = rows[y, left + x]


@inner
def _narrow(
    rows: NDArray[np.float32],
    first: NDArray[np.int64],
    share: NDArray[np.float32],
    weight: NDArray[np.float32],
    row_weight: NDArray[np.float32],
    base: np.float32,
    out: NDArray[np.float32],
) -> None:
    """Reduce or enlarge up to `_ROWS` rows to `GRID` samples, divide by the weights, add `base`.

    Requires: the tables of `_axis`; row_weight with one weight for each row; out of as many rows.
    """
    n_rows, length = rows.shape
    columns = np.zeros((_COLUMNS + _TOGETHER - 1, _ROWS), np.float32)
    sums = np.zeros((GRID + 1, _ROWS), np.float32)
    if length < GRID:
        _transpose(rows, 0, length, columns)
        for cell in range(GRID):
            left, right = columns[first[cell]], columns[first[cell] + 1]
            this, part = sums[cell], share[cell]
            for y in range(_ROWS):
                this[y] = right[y] + (left[y] - right[y]) * part
    else:
        for left_end in range(0, length, _COLUMNS):
            right_end = min(left_end + _COLUMNS, length)
            _transpose(rows, left_end, right_end - left_end, columns)
            x = left_end
            while x < right_end:
                n = 1
                while n < _TOGETHER and x + n < right_end and first[x + n] == first[x]:
                    n += 1
                _add(columns, x - left_end, x, n, share, sums, first[x])
                x += n
    for cell in range(GRID):
        this = sums[cell]
        for y in range(n_rows):
            this[y] = this[y] / (weight[cell] * row_weight[y]) + base
    _transpose(sums[:GRID], 0, n_rows, out)


@kernel(types.void(_pixels, types.int64, _grid_out))
def reduce(pixels: NDArray[np.uint8], channels: int, grid: NDArray[np.float32]) -> None:
    """Write the luma of the picture, 0..255, squashed to `GRID` x `GRID`, each cell an average.

    Requires: pixels (h, w * channels), channels 1 (luma) or 3 (RGB), h and w >= 1; grid (128, 128).
    Order: the samples of a cell from the top, then from the left. A picture narrower or lower than
    the grid is interpolated. The first pixel is taken off all and added to the result: the sums of
    a picture of one colour are zero, and its cells exactly equal.
    Cost: see the measurement above; memory for 65 rows of floats.
    """
    height, width = pixels.shape[0], pixels.shape[1] // channels
    across, down = np.empty(max(width, GRID), np.int64), np.empty(max(height, GRID), np.int64)
    left, up = np.empty(max(width, GRID), np.float32), np.empty(max(height, GRID), np.float32)
    weight, row_weight = np.empty(GRID, np.float32), np.empty(GRID, np.float32)
    _axis(width, across, left, weight)
    _axis(height, down, up, row_weight)
    luma = np.zeros((_TOGETHER, width), np.float32)
    _luma(pixels, channels, 0, _ZERO, luma, 0)
    first = luma[0, 0]
    sums = np.zeros((_ROWS + 1, width), np.float32)
    if height < GRID:
        rows = np.zeros((GRID + 1, GRID), np.float32)
        for top in range(0, height, _ROWS):
            end = min(top + _ROWS, height)
            for y in range(top, end):
                _luma(pixels, channels, y, first, sums, y - top)
            few = sums[: end - top]
            _narrow(few, across, left, weight, row_weight[top:end], first, rows[top:end])
        for y in range(GRID):
            upper, lower, out, share = rows[down[y]], rows[down[y] + 1], grid[y], up[y]
            for x in range(GRID):
                out[x] = lower[x] + (upper[x] - lower[x]) * share
        return
    y = 0
    for top in range(0, GRID, _ROWS):
        for row in range(_ROWS):
            end = y
            while end < height and down[end] == top + row:
                end += 1
            for start in range(y, end, _TOGETHER):
                n = min(end - start, _TOGETHER)
                for k in range(n):
                    _luma(pixels, channels, start + k, first, luma, k)
                _add(luma, 0, start, n, up, sums, row)
            y = end
        end = top + _ROWS
        _narrow(sums[:_ROWS], across, left, weight, row_weight[top:end], first, grid[top:end])
        for x in range(width):
            sums[0, x] = sums[_ROWS, x]
        if top + _ROWS < GRID:
            for row in range(1, _ROWS + 1):
                for x in range(width):
                    sums[row, x] = _ZERO
