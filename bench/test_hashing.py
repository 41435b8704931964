"""From the bytes of a file to its PDQ code on one core, against Pillow's full decode and pdqhash.

The oracle is Meta's C++ (pdqhash) on every pixel. Our decode profile reduces big JPEGs inside the
decoder, so codes drift by a few bits; kernels alone see the same pixels and must agree in all.
"""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pdqhash
import pytest
from PIL import ExifTags, Image

from nearsearch.hashers import hash_pixels
from nearsearch.media.image import Pictures
from nearsearch.spec import get_spec
from nearsearch.synthetic import KINDS, make_picture

if TYPE_CHECKING:
    from collections.abc import Callable

PDQ = get_spec("pdq")
MAX_PIXELS = 200_000_000
BIG = 3_000_000  # pixels
SHARED = Path(__file__).parents[1].parent / "shared" / "media" / "images"

SIZES = ("1600x1200", "2560x1600", "4000x3000")
MEAN_DRIFT, MAX_DRIFT = 1.0, 8  # bits


# --- pictures ---------------------------------------------------------------------------------


def _jpeg(seed: int, kind: str, size: str) -> bytes:
    """Return a JPEG about as hard to decode as a photograph: drawn small, enlarged, sensor noise.

    Drawing at the full size would take ten seconds a picture.
    """
    width, height = (int(side) for side in size.split("x"))
    small = Image.fromarray(make_picture(seed, kind, width // 4, height // 4))
    pixels = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC), np.float32)
    rng = np.random.default_rng([seed, width, height])
    noise = rng.standard_normal((height, width, 1), np.float32) * 4
    buffer = io.BytesIO()
    Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8)).save(
        buffer, "JPEG", quality=88
    )
    return buffer.getvalue()


@pytest.fixture(scope="module")
def real() -> list[bytes]:
    files = []
    for path in sorted(SHARED.glob("*.jp*g")):
        with Image.open(path) as image:
            # The oracle does not turn pictures upright, so only those that already are.
            upright = image.getexif().get(ExifTags.Base.Orientation, 1) == 1
            if image.format == "JPEG" and upright and image.width * image.height > BIG:
                files.append(path.read_bytes())
    if not files:
        pytest.skip(f"no JPEGs above {BIG:,} pixels in {SHARED}")
    return files


# --- from bytes to code -----------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_from_file_generated(bench: Any, size: str) -> None:
    _compare_files(bench, [_jpeg(7, kind, size) for kind in KINDS], rounds=3)


def test_from_file_real(bench: Any, real: list[bytes]) -> None:
    drift = _compare_files(bench, real, rounds=3)
    assert drift.mean() <= MEAN_DRIFT, drift
    assert drift.max() <= MAX_DRIFT, drift


def _compare_files(bench: Any, files: list[bytes], rounds: int) -> np.ndarray:
    """Time passes over all files on each side, see that all agree, and return our drift."""
    pixels = sum(_pixels(data) for data in files)
    _ours(files[0]), _oracle(files[0])  # compiled and imported
    answers, expected = bench(
        lambda _: [_ours(data) for data in files],
        rival=lambda _: [_oracle(data) for data in files],
        rival_name="Pillow + pdqhash",
        rounds=rounds,
        note=lambda seconds: (
            f"{len(files) / seconds:.1f} files/s, {pixels / seconds / 1e6:.0f} Mpixel/s"
        ),
        warm=False,  # passes take seconds
    )
    for side in (answers, expected):
        assert all(np.array_equal(answer, side[0]) for answer in side)
    return _drifts(answers[0], expected[0])


# --- drift, untimed ---------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_drift_generated(size: str, drifts: Callable[[str], np.ndarray]) -> None:
    assert drifts(size).mean() <= MEAN_DRIFT, drifts(size)
    assert drifts(size).max() <= MAX_DRIFT, drifts(size)


@pytest.fixture(scope="module")
def drifts() -> Callable[[str], np.ndarray]:
    """Return the drift of six pictures of a size, computed once."""

    @cache
    def of_size(size: str) -> np.ndarray:
        files = [_jpeg(seed, kind, size) for seed in (20, 21) for kind in KINDS]
        return _drifts([_ours(data) for data in files], [_oracle(data) for data in files])

    return of_size


def _drifts(codes: list[np.ndarray], expected: list[np.ndarray]) -> np.ndarray:
    """Return the distances in bits, code by code."""
    return np.bitwise_count(np.array(codes) ^ np.array(expected)).sum(axis=1)


def _ours(data: bytes) -> np.ndarray:
    (picture,) = Pictures(data, PDQ.profile, max_pixels=MAX_PIXELS)
    return hash_pixels(picture.pixels, PDQ)[0]


def _oracle(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        bits, _ = pdqhash.compute(np.asarray(image.convert("RGB")))
    return np.packbits(bits)


def _pixels(data: bytes) -> int:
    with Image.open(io.BytesIO(data)) as image:
        return image.width * image.height


# --- kernels alone ----------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3], ids=["luma", "rgb"])
def test_kernel(bench: Any, channels: int) -> None:
    """Hash 2560x1600 pixels in memory; the same pixels, so the same bits and the same quality."""
    with Image.open(io.BytesIO(_jpeg(11, "leaves", "2560x1600"))) as image:
        pixels = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    # The rival takes RGB only; grey in all three channels is the same luma.
    rgb = np.repeat(pixels[..., None], 3, axis=2) if channels == 1 else pixels
    answers, expected = bench(
        lambda _: hash_pixels(pixels, PDQ),
        rival=lambda _: pdqhash.compute(rgb),
        rival_name="pdqhash",
        rounds=9,
        note=lambda seconds: f"{1e9 * seconds / (2560 * 1600):.2f} ns a pixel",
    )
    for (code, quality), (bits, expected_quality) in zip(answers, expected, strict=True):
        assert np.array_equal(code, np.packbits(bits))
        assert quality == expected_quality
