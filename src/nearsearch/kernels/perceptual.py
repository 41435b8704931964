"""PDQ: a picture's pixels to its code and quality, bit for bit as Meta's reference computes them.

All arithmetic is float32 in the order of the reference, because the order of the additions is part
of the result. Source: facebook/ThreatExchange, ``pdq/cpp/hashing/pdqhashing.cpp`` and
``pdq/cpp/downscaling/downscaling.cpp``.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core.registry import cpu_target
from numba.extending import intrinsic

from nearsearch.kernels.jit import inner, kernel, readonly, writable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

SIDE = 64
"""Rows and columns of the reduced picture that quality and code are made of."""

_LOW = 16  # rows and columns of DCT coefficients
_HALF = _LOW * _LOW // 2
_MIN_SIDE = 5  # smaller pictures have the zero code
_LINE = 64  # bytes of a cache line
_SEGMENT = 256  # columns of luma ahead of the tiles; 128 and 512 cost more on some picture sizes

# Rows and columns of a tile. With AVX-512, 16 take three quarters of the time of 8; without, they
# do not fit the registers and take a third more with SSE2, a tenth more with AVX2. Numba's cache is
# keyed by the same features. NUMBA_CPU_NAME and NUMBA_CPU_FEATURES try another processor's.
_FEATURES = cpu_target.target_context.codegen().magic_tuple()[2]
_LANES = 16 if "+avx512f" in _FEATURES.split(",") else 8
_ZERO = np.float32(0)
_INFINITE = np.float32(math.inf)
_HUNDRED = np.float32(100)
_WHITE = np.float32(255)
_RED, _GREEN, _BLUE = np.float32(299), np.float32(587), np.float32(114)
_THOUSAND = np.float32(1000)


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
_grid = readonly(types.float32, 2)
_grid_out = writable(types.float32, 2)
_code_out = writable(types.uint8)
_codes_out = writable(types.uint8, 2)


# --- reduction to 64x64 -----------------------------------------------------------------------
# The reference blurs the whole picture with a box along rows, along columns, along rows and along
# columns again, then samples 64x64 points. Here tiles of 16x16 (or 8x8) pixels go through the first
# three in registers; what the third leaves at the 64 sampled columns goes through the fourth.
#
# A box of `window` samples is a running sum (add the sample that enters, subtract the one that
# leaves) divided by the number of samples inside, which shrinks at the edges. Output i covers the
# samples i - (window - 1 - ahead) .. i + ahead, ahead = window // 2, so it is complete when sample
# i + ahead has entered. Every box writes it there: each moves the picture on by `ahead`, and only
# the sampling takes that back. Outside the picture zeros enter, and zeros leave before anything has
# entered: they change no bit of a sum. The sums outside the picture are not zero, but the next box
# must not see them: their count is infinite.
#
# A running sum waits for its last addition, so many go side by side in the lanes of a vector: rows
# while sums run along rows, columns while they run along columns. In between the tile is
# transposed in registers: 64 shuffles for 256 pixels with AVX-512.
#
# Measured on one x86-64 core with AVX-512 (Zen 5), warm, ns a pixel of luma and of RGB: 0.43 and
# 0.58 for 640x480, 0.31 and 0.45 for 1600x1200, 0.32 and 0.67 for 4000x3000. Restricted to AVX2:
# 0.50 and 0.72, 0.43 and 0.65, 0.42 and 0.90. A pass over a strip of eight rows for each box, their
# sums as scalars, took 0.93 and 1.10, 0.84 and 1.01, 0.92 and 1.23; pdqhash takes 10 to 34. The box
# along columns costs 0.10 alone, 0.18 with reciprocals, which must be float64 to keep the bits.


@inner
def _box_counts(counts: NDArray[np.float32], length: int, window: int) -> None:
    """Write how many samples each box of an axis holds, in the order in which they are complete.

    The box of output i is at i + window // 2; infinity outside the axis.
    """
    ahead = window // 2
    for last in range(counts.shape[0]):
        inside = min(last, length - 1) - max(last - window, -1)
        counts[last] = np.float32(inside) if 0 <= last - ahead < length else _INFINITE


@inner
def _clear(out: NDArray[np.float32]) -> None:
    """Write zeros."""
    for x in range(out.shape[0]):
        out[x] = _ZERO


@inner
def _luma(
    pixels: NDArray[np.uint8], channels: int, top: int, left: int, out: NDArray[np.float32]
) -> None:
    """Write the luma of the part of the picture that begins at (top, left); zeros outside of it.

    The reference computes red * 0.299 + green * 0.587 + blue * 0.114 in float64 and rounds to
    float32. Whole numbers divided once give the same for all 2**24 colours, in half the time.
    """
    width = pixels.shape[1] // channels
    for r in range(out.shape[0]):
        row = out[r]
        n_inside = 0
        if top + r < pixels.shape[0] and left < width:
            n_inside = min(width - left, row.shape[0])
            source = pixels[top + r, left * channels :]
            if channels == 1:
                for x in range(n_inside):
                    row[x] = np.float32(source[x])
            else:
                for x in range(n_inside):
                    red, green, blue = source[3 * x], source[3 * x + 1], source[3 * x + 2]
                    thousandfold = np.float32(red) * _RED + np.float32(green) * _GREEN
                    row[x] = (thousandfold + np.float32(blue) * _BLUE) / _THOUSAND
        for x in range(n_inside, row.shape[0]):
            row[x] = _ZERO


# Numba has no type for a vector in a register, so the tile is written in LLVM's instructions, which
# become those of any processor. The functions below run once, when the kernel is compiled, and
# return values of the program they write: `vector` below is `_LANES` floats.

_VECTOR = ir.VectorType(ir.FloatType(), _LANES)


def _int(value: int) -> Any:
    """Return an index that is known while compiling."""
    return ir.Constant(ir.IntType(64), value)


def _shuffle(builder: Any, a: Any, b: Any, lanes: Sequence[int]) -> Any:
    """Return the vector of the given lanes of a (from 0) and b (from `_LANES`)."""
    mask = ir.Constant(ir.VectorType(ir.IntType(32), _LANES), list(lanes))
    return builder.shuffle_vector(a, b, mask)


def _vector_at(builder: Any, data: Any, index: Any) -> Any:
    """Return the address of the vector that begins at element `index`."""
    return builder.bitcast(builder.gep(data, [index]), ir.PointerType(_VECTOR))


def _load(builder: Any, data: Any, index: Any) -> Any:
    """Return the vector that begins at element `index`."""
    return builder.load(_vector_at(builder, data, index), align=4)


def _store(builder: Any, vector: Any, data: Any, index: Any) -> None:
    """Write the vector from element `index` on."""
    builder.store(vector, _vector_at(builder, data, index), align=4)


def _load_everywhere(builder: Any, data: Any, index: Any) -> Any:
    """Return a vector with element `index` in all lanes."""
    element = builder.load(builder.gep(data, [index]))
    undefined = ir.Constant(_VECTOR, ir.Undefined)
    first = builder.insert_element(undefined, element, ir.Constant(ir.IntType(32), 0))
    return _shuffle(builder, first, undefined, [0] * _LANES)


def _transpose(builder: Any, tile: Sequence[Any]) -> list[Any]:
    """Return the columns of a tile of rows: swap the corners of its blocks of 2, 4, 8 and 16."""
    out = list(tile)
    half = 1
    while half < _LANES:
        lanes = range(_LANES)
        upper = [lane if not lane & half else _LANES + lane - half for lane in lanes]
        lower = [lane + half if not lane & half else _LANES + lane for lane in lanes]
        for i in lanes:
            if not i & half:
                a, b = out[i], out[i + half]
                out[i] = _shuffle(builder, a, b, upper)
                out[i + half] = _shuffle(builder, a, b, lower)
        half *= 2
    return out


def _slide(
    builder: Any, columns: Sequence[Any], state: Any, x: Any, window: Any, mask: Any
) -> list[Any]:
    """Return the sum of each row's box after each of the columns, which begin at `x`.

    `state` holds the sums so far, then a ring of `mask` + 1 >= window columns: those still inside.
    """
    ring = builder.gep(state, [_int(_LANES)])

    def ring_index(column: Any) -> Any:
        return builder.mul(builder.and_(column, mask), _int(_LANES))

    total = _load(builder, state, _int(0))
    out = []
    for i, entering in enumerate(columns):
        column = builder.add(x, _int(i))
        leaving = _load(builder, ring, ring_index(builder.sub(column, window)))
        _store(builder, entering, ring, ring_index(column))
        total = builder.fsub(builder.fadd(total, entering), leaving)
        out.append(total)
    _store(builder, total, state, _int(0))
    return out


@intrinsic  # type: ignore[untyped-decorator]
def _blur_tile(
    context: Any,
    luma: Any,
    y: Any,
    x: Any,
    window: Any,
    mask: Any,
    first: Any,
    counts_across: Any,
    ring: Any,
    ring_at: Any,
    slots: Any,
    sums: Any,
    counts_down: Any,
    second: Any,
    out: Any,
) -> Any:
    """Take the tile at (y, x) through a box along rows, one along columns and one along rows.

    `luma` has the segment that contains x, `first` and `second` the state of the boxes along rows
    (see `_slide`). The box along columns has its sums in `sums`, and the rows inside in `ring` from
    `ring_at` on; row r of the tile replaces the one at `slots[r]`. `out` receives the columns.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        def data(i: int) -> Any:
            return context.make_array(signature.args[i])(context, builder, arguments[i]).data

        luma, first, counts_across, ring = data(0), data(5), data(6), data(7)
        slots, sums, counts_down, second, out = (data(i) for i in range(9, 14))
        y, x, window, mask = arguments[1:5]
        ring_at = arguments[8]

        at = builder.and_(x, _int(_SEGMENT - 1))
        rows = [_load(builder, luma, builder.add(at, _int(r * _SEGMENT))) for r in range(_LANES)]
        columns = _slide(builder, _transpose(builder, rows), first, x, window, mask)

        count_across = _load(builder, counts_across, x)
        total = _load(builder, sums, x)
        rows = []
        for r, summed in enumerate(_transpose(builder, columns)):
            slot = builder.add(ring_at, builder.load(builder.gep(slots, [_int(r)])))
            entering = builder.fdiv(summed, count_across)
            leaving = _load(builder, ring, slot)
            _store(builder, entering, ring, slot)
            total = builder.fsub(builder.fadd(total, entering), leaving)
            count_down = _load_everywhere(builder, counts_down, builder.add(y, _int(r)))
            rows.append(builder.fdiv(total, count_down))
        _store(builder, total, sums, x)

        columns = _slide(builder, _transpose(builder, rows), second, x, window, mask)
        for i, column in enumerate(columns):
            _store(builder, column, out, _int(i * _LANES))
        return context.get_dummy_value()

    i64 = types.int64
    arrays = (slots, sums, counts_down, second, out)
    return types.void(luma, i64, i64, i64, i64, first, counts_across, ring, i64, *arrays), generate


@inner
def _zeros(length: int) -> NDArray[np.float32]:
    """Return zeros that begin at a cache line, so that no vector of a tile lies across two."""
    scratch = np.zeros(length + _LANES, np.float32)
    begin = -scratch.ctypes.data % _LINE // 4
    return scratch[begin : begin + length]


@inner
def _blur_and_sample(pixels: NDArray[np.uint8], channels: int, out: NDArray[np.float32]) -> None:
    """Blur and sample the picture to `out` (64, 64).

    Requires: pixels (h, w * channels), channels 1 or 3, h and w >= 1.
    Cost: memory for h / 128 + 2 rows of floats. No views inside the loops: each counts references.
    """
    height, width = pixels.shape[0], pixels.shape[1] // channels
    across, down = (width + 2 * SIDE - 1) // (2 * SIDE), (height + 2 * SIDE - 1) // (2 * SIDE)
    ahead_across, ahead_down = across // 2, down // 2
    # A sample is complete 2 * ahead rows late. The last is about `down` rows before the end of the
    # picture, so at most one row of zeros completes it; along the rows likewise.
    n_rows = (height // _LANES + 1) * _LANES
    n_columns = (width // _LANES + 1) * _LANES
    counts_across, counts_down = _zeros(n_columns), _zeros(n_rows)
    _box_counts(counts_across, width, across)
    _box_counts(counts_down, height, down)
    ring_length = 1
    while ring_length < across:
        ring_length *= 2
    first = _zeros((1 + ring_length) * _LANES)
    second = _zeros((1 + ring_length) * _LANES)
    luma = _zeros(_LANES * _SEGMENT).reshape(_LANES, _SEGMENT)
    ring = _zeros(n_columns * down)
    slots = np.empty(_LANES, np.int64)
    sums = _zeros(n_columns)
    blurred = _zeros(_LANES * _LANES).reshape(_LANES, _LANES)
    sampled = np.empty((_LANES, SIDE), np.float32)
    sampled_ring = np.zeros((down, SIDE), np.float32)
    sampled_sums = np.zeros(SIDE, np.float32)
    sampled_at = np.empty(SIDE + 1, np.int64)
    sampled_counts = np.empty(SIDE, np.float32)
    for j in range(SIDE):
        x = (2 * j + 1) * width // (2 * SIDE) + ahead_across
        sampled_at[j] = x + ahead_across
        sampled_counts[j] = counts_across[x]
    sampled_at[SIDE] = n_columns

    n_done = 0
    for start in range(0, n_rows, _LANES):
        for r in range(_LANES):
            slots[r] = (start + r) % down * _LANES
        _clear(first)
        _clear(second)
        j = 0
        for x in range(0, n_columns, _LANES):
            if x % _SEGMENT == 0:
                _luma(pixels, channels, start, x, luma)
            _blur_tile(
                luma,
                start,
                x,
                across,
                ring_length - 1,
                first,
                counts_across,
                ring,
                x * down,
                slots,
                sums,
                counts_down,
                second,
                blurred,
            )
            while sampled_at[j] < x + _LANES:
                for r in range(_LANES):
                    sampled[r, j] = blurred[sampled_at[j] - x, r]
                j += 1

        for r in range(_LANES):
            y = start + r - 2 * ahead_down
            leaving = sampled_ring[(start + r) % down]
            for j in range(SIDE):
                entering = sampled[r, j] / sampled_counts[j]
                sampled_sums[j] = (sampled_sums[j] + entering) - leaving[j]
                leaving[j] = entering
            while n_done < SIDE and (2 * n_done + 1) * height // (2 * SIDE) == y:
                for j in range(SIDE):
                    out[n_done, j] = sampled_sums[j] / counts_down[y + ahead_down]
                n_done += 1


# --- quality and code of the 64x64 picture ----------------------------------------------------


@inner
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


@inner
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


@inner
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
        _luma(pixels, channels, 0, 0, luma)
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
