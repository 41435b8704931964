"""PDQ: a picture's pixels to its code and quality, bit for bit as Meta's reference computes them.

All arithmetic is float32 in the order of the reference, because the order of the additions is part
of the result. Source: facebook/ThreatExchange, ``pdq/cpp/hashing/pdqhashing.cpp`` and
``pdq/cpp/downscaling/downscaling.cpp``.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numba import types

from nearsearch.kernels.jit import kernel, readonly, writable

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIDE = 64
"""Rows and columns of the reduced picture that quality and code are made of."""

_LOW = 16  # rows and columns of DCT coefficients
_HALF = _LOW * _LOW // 2
_MIN_SIDE = 5  # smaller pictures have the zero code
_ROWS = 8  # rows that are summed side by side
_ZERO = np.float32(0)
_INFINITE = np.float32(math.inf)
_HUNDRED = np.float32(100)
_WHITE = np.float32(255)


def _dct_matrix() -> NDArray[np.float32]:
    """Return the DCT-II rows of frequencies 1..16 for 64 samples, rounded as the reference does."""
    scale = float(np.float32(math.sqrt(2.0 / SIDE)))
    rows = [
        [scale * math.cos((math.pi / 2.0 / SIDE) * (i + 1) * (2 * j + 1)) for j in range(SIDE)]
        for i in range(_LOW)
    ]
    return np.array(rows, np.float32)


_DCT = _dct_matrix()
_DCT_T = np.ascontiguousarray(_DCT.T)

# The coefficients of the turned and mirrored pictures are those of the picture itself, transposed
# or not, with the sign of every other row, column or diagonal flipped. In the reference's order:
# original, rotate90, rotate180, rotate270, flipx, flipy, flip_plus1, flip_minus1.
_ROW, _COLUMN = np.indices((_LOW, _LOW)) % 2
_SAME = np.ones((_LOW, _LOW), np.int64)
_BY_ROW, _BY_COLUMN, _BY_DIAGONAL = 2 * _ROW - 1, 2 * _COLUMN - 1, 1 - 2 * (_ROW ^ _COLUMN)
_TRANSPOSED = np.array([0, 1, 0, 1, 0, 0, 1, 1], np.bool_)
_SIGNS = np.array(
    [_SAME, _BY_ROW, _BY_DIAGONAL, _BY_COLUMN, _BY_ROW, _BY_COLUMN, _SAME, _BY_DIAGONAL],
    np.float32,
)

_pixels = readonly(types.uint8, 2)
_f32 = readonly(types.float32)
_f32_out = writable(types.float32)
_grid = readonly(types.float32, 2)
_grid_out = writable(types.float32, 2)
_code_out = writable(types.uint8)
_codes_out = writable(types.uint8, 2)


# --- reduction to 64x64 -----------------------------------------------------------------------
# The reference blurs the whole picture with a box along rows, along columns, along rows and along
# columns again, then samples 64x64 points. Here the rows stream through all four, eight at a time,
# so only a few strips of the picture exist as floats, and they stay in the second-level cache.
#
# A box of `window` samples is a running sum (add the sample that enters, subtract the one that
# leaves) divided by the number of samples inside, which shrinks at the edges. Laying zeros around
# the samples makes the edges ordinary: adding and subtracting zero changes no bit of a sum.
# Output i covers the samples i - (window - 1 - ahead) .. i + ahead, ahead = window // 2.
#
# Measured on one x86-64 core, warm, 2560x1600, whole hash: luma 1.25 ns a pixel, RGB 1.65, pdqhash
# 33.7 (10 to 27 on smaller pictures). More than half are the two row boxes, whose additions wait
# for each other; a quarter are the two divisions, which no reciprocal may replace.


@kernel(types.void(_f32_out, types.int64))
def _box_counts(counts: NDArray[np.float32], window: int) -> None:
    """Write how many samples the box holds at each position of an axis."""
    length = counts.shape[0]
    ahead = window // 2
    for i in range(length):
        first = max(i + ahead - window + 1, 0)
        last = min(i + ahead, length - 1)
        counts[i] = np.float32(last - first + 1)


@kernel(types.void(_f32_out))
def _clear(out: NDArray[np.float32]) -> None:
    """Write zeros."""
    for x in range(out.shape[0]):
        out[x] = _ZERO


@kernel(types.void(_pixels, types.int64, types.int64, _f32_out))
def _luma_row(pixels: NDArray[np.uint8], channels: int, y: int, out: NDArray[np.float32]) -> None:
    """Write the luma of row `y`: of RGB in float64, then rounded, as pdqhash does with NumPy."""
    row = pixels[y]
    if channels == 1:
        for x in range(out.shape[0]):
            out[x] = np.float32(row[x])
    else:
        for x in range(out.shape[0]):
            red, green, blue = row[3 * x], row[3 * x + 1], row[3 * x + 2]
            out[x] = np.float32(red * 0.299 + green * 0.587 + blue * 0.114)


@kernel(types.void(_grid_out, types.int64))
def _slide_rows(a: NDArray[np.float32], n: int) -> None:
    """Turn eight rows into their running sums over `n` samples, in place and `n` to the left.

    Each sum waits for its last addition (about 8 cycles), so eight rows go side by side to fill
    the wait. Requires: n zeros at the left of each row of `a`, (8, width) with width > n.
    Cost: 0.35 ns a pixel, against 0.9 with rows transposed into vector lanes and back.
    """
    s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = _ZERO
    for x in range(a.shape[1] - n):
        s0 = (s0 + a[0, x + n]) - a[0, x]
        s1 = (s1 + a[1, x + n]) - a[1, x]
        s2 = (s2 + a[2, x + n]) - a[2, x]
        s3 = (s3 + a[3, x + n]) - a[3, x]
        s4 = (s4 + a[4, x + n]) - a[4, x]
        s5 = (s5 + a[5, x + n]) - a[5, x]
        s6 = (s6 + a[6, x + n]) - a[6, x]
        s7 = (s7 + a[7, x + n]) - a[7, x]
        a[0, x], a[1, x], a[2, x], a[3, x] = s0, s1, s2, s3
        a[4, x], a[5, x], a[6, x], a[7, x] = s4, s5, s6, s7


@kernel(types.void(_f32, _f32, _f32_out, _f32_out, types.float32, _f32_out))
def _slide_column(
    row_sums: NDArray[np.float32],
    row_counts: NDArray[np.float32],
    ring_row: NDArray[np.float32],
    sums: NDArray[np.float32],
    count: np.float32,
    out: NDArray[np.float32],
) -> None:
    """Finish one row of the row box and move the column box down by it.

    `ring_row` holds the row that leaves the box and receives the one that enters. Requires: all as
    long as `sums`, or longer.
    """
    for x in range(sums.shape[0]):
        entering = row_sums[x] / row_counts[x]
        moved = (sums[x] + entering) - ring_row[x]
        ring_row[x] = entering
        sums[x] = moved
        out[x] = moved / count


@kernel(types.void(_pixels, types.int64, _grid_out))
def _blur_and_sample(pixels: NDArray[np.uint8], channels: int, out: NDArray[np.float32]) -> None:
    """Blur and sample the picture to `out` (64, 64).

    Requires: pixels (h, w * channels), channels 1 or 3, h and w >= 1.
    Cost: memory for two strips of 8 rows and one of h / 128 rows.
    """
    height, width = pixels.shape[0], pixels.shape[1] // channels
    across, down = (width + 2 * SIDE - 1) // (2 * SIDE), (height + 2 * SIDE - 1) // (2 * SIDE)
    ahead = down // 2
    left = 2 * across - across // 2  # zeros before the first sample; across // 2 after the last
    strip = np.zeros((_ROWS, width + 2 * across), np.float32)
    blurred = np.zeros((_ROWS, width + 2 * across), np.float32)
    ring = np.zeros((down, width), np.float32)
    sums = np.zeros(width, np.float32)
    sampled_ring = np.zeros((down, SIDE), np.float32)
    sampled_sums = np.zeros(SIDE, np.float32)
    counts_across = np.empty(width, np.float32)
    counts_down = np.empty(height, np.float32)
    _box_counts(counts_across, across)
    _box_counts(counts_down, down)

    n_done = 0
    # A column box needs `ahead` rows below its output, so an output comes 2 * ahead rows late. The
    # last sample lies `down` rows before the end of the picture: one row of zeros completes it.
    for start in range(0, height + 1, _ROWS):
        for r in range(_ROWS):
            row = strip[r, left:]
            if start + r < height:
                _luma_row(pixels, channels, start + r, row[:width])
            else:
                _clear(row)
            _clear(strip[r, :left])
        _slide_rows(strip, across)

        for r in range(_ROWS):
            y = start + r - ahead
            # Rows outside the picture must count as zero in the second round.
            count = counts_down[y] if 0 <= y < height else _INFINITE
            summed, leaving = strip[r, across:], ring[(start + r) % down]
            _slide_column(summed, counts_across, leaving, sums, count, blurred[r, left:])
            _clear(blurred[r, :left])
        _slide_rows(blurred, across)

        for r in range(_ROWS):
            y = start + r - 2 * ahead
            leaving = sampled_ring[(start + r) % down]
            for j in range(SIDE):
                x = (2 * j + 1) * width // (2 * SIDE)
                entering = blurred[r, across + x] / counts_across[x]
                sampled_sums[j] = (sampled_sums[j] + entering) - leaving[j]
                leaving[j] = entering
            while n_done < SIDE and (2 * n_done + 1) * height // (2 * SIDE) == y:
                for j in range(SIDE):
                    out[n_done, j] = sampled_sums[j] / counts_down[y]
                n_done += 1


# --- quality and code of the 64x64 picture ----------------------------------------------------


@kernel(types.int64(_grid))
def _quality(luma: NDArray[np.float32]) -> int:
    """Return how much gradient the 64x64 picture has: 0 (flat) to 100."""
    total = 0
    for i in range(SIDE):
        for j in range(SIDE):
            if i + 1 < SIDE:
                total += abs(int((luma[i, j] - luma[i + 1, j]) * _HUNDRED / _WHITE))
            if j + 1 < SIDE:
                total += abs(int((luma[i, j] - luma[i, j + 1]) * _HUNDRED / _WHITE))
    return min(total // 90, 100)


@kernel(types.void(_grid, _grid_out))
def _low_frequencies(luma: NDArray[np.float32], out: NDArray[np.float32]) -> None:
    """Write the DCT coefficients of frequencies 1..16 by 1..16 of the 64x64 picture.

    Order: each coefficient sums its products over ascending k; the inner loop runs over j, which
    keeps that order and still fills vector lanes.
    """
    half = np.zeros((_LOW, SIDE), np.float32)
    for i in range(_LOW):
        for k in range(SIDE):
            for j in range(SIDE):
                half[i, j] += _DCT[i, k] * luma[k, j]
    for i in range(_LOW):
        _clear(out[i])
        for k in range(SIDE):
            for j in range(_LOW):
                out[i, j] += half[i, k] * _DCT_T[k, j]


@kernel(types.void(_grid, _code_out))
def _threshold(coefficients: NDArray[np.float32], code: NDArray[np.uint8]) -> None:
    """Set the bit of every coefficient above the lower median; the last coefficient's bit first.

    A coefficient is above the 128th smallest if and only if at least 128 are smaller. Counting
    fills vector lanes (5 microseconds) and compiles in a moment; np.partition takes 4 seconds.
    """
    flat = coefficients.reshape(_LOW * _LOW)
    n_smaller = np.zeros(_LOW * _LOW, np.int32)
    for m in range(_LOW * _LOW):
        value = flat[m]
        for k in range(_LOW * _LOW):
            n_smaller[k] += np.int32(value < flat[k])
    for byte in range(code.shape[0]):
        code[byte] = 0
    for k in range(_LOW * _LOW):
        if n_smaller[k] >= _HALF:
            code[code.shape[0] - 1 - k // 8] |= np.uint8(1 << (k % 8))


# --- what the hashers call --------------------------------------------------------------------


@kernel(types.int64(_pixels, types.int64, types.boolean, _grid_out))
def shrink(
    pixels: NDArray[np.uint8], channels: int, always_blur: bool, luma: NDArray[np.float32]
) -> int:
    """Write the 64x64 luma of the picture and return its quality, 0..100.

    Requires: pixels (h, w * channels), channels 1 (luma) or 3 (RGB), h and w >= 1; luma (64, 64).
    The reference takes a picture of 64x64 as it is, but blurs it too before the eight
    orientations: `always_blur`. A side below 5 gives black, whose code is zero and quality 0.
    Cost: see the measurement above; allocates its strips, which takes no measurable time.
    """
    height, width = pixels.shape[0], pixels.shape[1] // channels
    if height < _MIN_SIDE or width < _MIN_SIDE:
        for y in range(SIDE):
            _clear(luma[y])
    elif height == SIDE and width == SIDE and not always_blur:
        for y in range(SIDE):
            _luma_row(pixels, channels, y, luma[y])
    else:
        _blur_and_sample(pixels, channels, luma)
    return _quality(luma)


@kernel(types.void(_grid, _code_out))
def encode(luma: NDArray[np.float32], code: NDArray[np.uint8]) -> None:
    """Write the code (32,) of the 64x64 luma."""
    coefficients = np.empty((_LOW, _LOW), np.float32)
    _low_frequencies(luma, coefficients)
    _threshold(coefficients, code)


@kernel(types.void(_grid, _codes_out))
def encode_dihedral(luma: NDArray[np.float32], codes: NDArray[np.uint8]) -> None:
    """Write the codes (8, 32) of the 64x64 luma as it is, turned and mirrored (see `_SIGNS`)."""
    coefficients = np.empty((_LOW, _LOW), np.float32)
    turned = np.empty((_LOW, _LOW), np.float32)
    _low_frequencies(luma, coefficients)
    for variant in range(codes.shape[0]):
        for i in range(_LOW):
            for j in range(_LOW):
                value = coefficients[j, i] if _TRANSPOSED[variant] else coefficients[i, j]
                turned[i, j] = value * _SIGNS[variant, i, j]
        _threshold(turned, codes[variant])
