"""From the bytes of a file to its PDQ code on one core, against Pillow's full decode and pdqhash.

The oracle is Meta's C++ (pdqhash) on every pixel. Our decode profile reduces big JPEGs inside the
decoder, so codes drift by a few bits; kernels alone see the same pixels and must agree in all.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pdqhash
import pytest
from PIL import ExifTags, Image

from nearsearch.hashers import hash_pixels
from nearsearch.media.image import decode
from nearsearch.spec import get_spec
from nearsearch.synthetic import KINDS, make_picture

if TYPE_CHECKING:
    from collections.abc import Callable

PDQ = get_spec("pdq")
MAX_PIXELS = 200_000_000
BIG = 3_000_000  # pixels
SHARED = Path(__file__).parents[1].parent / "shared" / "media" / "images"

MEAN_DRIFT, MAX_DRIFT = 1.0, 8  # bits


# --- pictures ---------------------------------------------------------------------------------


def _jpeg(seed: int, kind: str, width: int, height: int) -> bytes:
    """Return a JPEG about as hard to decode as a photograph: drawn small, enlarged, sensor noise.

    Drawing at the full size would take ten seconds a picture.
    """
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
def generated() -> Callable[[int, int], list[bytes]]:
    return lambda width, height: [_jpeg(7, kind, width, height) for kind in KINDS]


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


@pytest.mark.parametrize(
    ("width", "height"), [(1600, 1200), (2560, 1600), (4000, 3000)], ids=lambda side: str(side)
)
def test_from_file_generated(
    bench: Any, generated: Callable[[int, int], list[bytes]], width: int, height: int
) -> None:
    _compare_files(bench, generated(width, height), rounds=7 if width < 4000 else 5)


def test_from_file_real(bench: Any, real: list[bytes]) -> None:
    _compare_files(bench, real, rounds=4)


def _compare_files(bench: Any, files: list[bytes], rounds: int) -> None:
    """Time one pass over all files on each side, and hold our codes against the oracle's."""
    pixels = sum(_size(data) for data in files)
    answers, expected = bench(
        lambda _: [_ours(data) for data in files],
        rival=lambda _: [_oracle(data) for data in files],
        rival_name="Pillow + pdqhash",
        rounds=rounds,
        note=lambda seconds: (
            f"{len(files) / seconds:.1f} files/s, {pixels / seconds / 1e6:.0f} Mpixel/s"
        ),
    )
    for answer in answers[1:]:
        assert np.array_equal(answer, answers[0])
    drift = np.bitwise_count(np.array(answers[0]) ^ np.array(expected[0])).sum(axis=1)
    bench.note(f"drift mean {drift.mean():.2f} max {drift.max()} bits")
    assert drift.mean() <= MEAN_DRIFT, drift
    assert drift.max() <= MAX_DRIFT, drift


def _ours(data: bytes) -> np.ndarray:
    return hash_pixels(decode(data, PDQ.profile, max_pixels=MAX_PIXELS).pixels, PDQ)[0]


def _oracle(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        bits, _ = pdqhash.compute(np.asarray(image.convert("RGB")))
    return np.packbits(bits)


def _size(data: bytes) -> int:
    with Image.open(io.BytesIO(data)) as image:
        return image.width * image.height


# --- kernels alone ----------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3], ids=["luma", "rgb"])
def test_kernel(bench: Any, channels: int) -> None:
    """Hash 2560x1600 pixels in memory; the same pixels, so the same bits and the same quality."""
    with Image.open(io.BytesIO(_jpeg(11, "leaves", 2560, 1600))) as image:
        pixels = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    # The rival takes RGB only; grey in all three channels is the same luma.
    rgb = np.repeat(pixels[..., None], 3, axis=2) if channels == 1 else pixels
    answers, expected = bench(
        lambda _: hash_pixels(pixels, PDQ),
        rival=lambda _: pdqhash.compute(rgb),
        rival_name="pdqhash",
        rounds=15,
        note=lambda seconds: f"{1e9 * seconds / (2560 * 1600):.2f} ns a pixel",
    )
    for (code, quality), (bits, expected_quality) in zip(answers, expected, strict=True):
        assert np.array_equal(code, np.packbits(bits))
        assert quality == expected_quality
