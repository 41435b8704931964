"""Real pictures: pixels equal the recipe behind the expected PDQ hashes; reduction costs little.

The pictures lie beside the repository and are not part of it; without them nothing here runs.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pdqhash
import pytest
from PIL import Image, ImageOps

from nearsearch.errors import MediaError
from nearsearch.media.image import Picture, Pictures

MEDIA = Path(__file__).parents[2].parent / "shared" / "media"
EXPECTED = MEDIA / "expected_pdq.csv"
LIMIT = 200_000_000
BRIDGE = "pdq__reg-test-input_dih__bridge-1-original.jpg"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not EXPECTED.exists(), reason="the shared pictures are not here"),
]


def rows() -> list[dict[str, str]]:
    if not EXPECTED.exists():
        return []
    with EXPECTED.open(newline="") as lines:
        return list(csv.DictReader(lines))


ROWS = {row["file"]: row for row in rows()}


def read(file: str, profile: str) -> Picture:
    """The first picture."""
    return next(iter(Pictures((MEDIA / "images" / file).read_bytes(), profile, max_pixels=LIMIT)))


def recipe(data: bytes) -> np.ndarray:
    """The media README's words: full decode, EXIF orientation, alpha over white, RGB."""
    with Image.open(io.BytesIO(data)) as opened:
        image = ImageOps.exif_transpose(opened)
    if image.has_transparency_data:
        paper = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(paper, image.convert("RGBA"))
    return np.asarray(image.convert("RGB"))


def three_channels(pixels: np.ndarray) -> np.ndarray:
    return pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)


def pdq_drift(file: str) -> int:
    """Bits between the reference on a full decode, and on what profile luma-2048 sees."""
    bits, _ = pdqhash.compute(three_channels(read(file, "luma-2048").pixels))
    expected = np.unpackbits(np.frombuffer(bytes.fromhex(ROWS[file]["pdq"]), np.uint8))
    return int((bits != expected).sum())


def test_every_file_is_a_picture_or_a_failure() -> None:
    failures = {}
    for path in sorted((MEDIA / "images").iterdir()):
        try:
            pictures = Pictures(path.read_bytes(), "full", max_pixels=LIMIT)
            for _ in pictures:
                pass
            if pictures.problem:
                failures[path.name] = pictures.problem
        except MediaError as error:
            failures[path.name] = error.reason
    assert failures == {}  # all 326 are readable and sound, the odd ones included


@pytest.mark.parametrize("file", ROWS)
def test_full_profile_equals_the_recipe(file: str) -> None:
    picture = read(file, "full")
    expected = recipe((MEDIA / "images" / file).read_bytes())
    np.testing.assert_array_equal(three_channels(picture.pixels), expected)
    assert (picture.width, picture.height) == (int(ROWS[file]["width"]), int(ROWS[file]["height"]))


def test_the_published_hash() -> None:
    bits, quality = pdqhash.compute(three_channels(read(BRIDGE, "full").pixels))
    published = "f8f8f0cee0f4a84f06370a22038f63f0b36e2ed596621e1d33e6b39c4e9c9b22"
    assert (np.packbits(bits).tobytes().hex(), quality) == (published, 100)


def test_reduction_hardly_moves_pdq() -> None:
    """Measured with Pillow 13: all JPEGs mean 0.38, above 3 megapixels mean 0.46, all max 2."""
    jpegs = [file for file in ROWS if read_format(file) == "JPEG"]
    drift = {file: pdq_drift(file) for file in jpegs}
    large = [drift[file] for file in jpegs if megapixels(file) > 3]
    small = [drift[file] for file in jpegs if megapixels(file) <= 3]
    assert (len(large), len(small)) == (13, 93)
    for bits in (large, small):
        assert np.mean(bits) <= 1
        assert max(bits) <= 8


def test_other_formats_do_not_drift() -> None:
    others = [file for file in ROWS if read_format(file) != "JPEG"]
    assert {file: bits for file in others if (bits := pdq_drift(file))} == {}


def read_format(file: str) -> str | None:
    with Image.open(MEDIA / "images" / file) as image:
        return image.format


def megapixels(file: str) -> float:
    return int(ROWS[file]["width"]) * int(ROWS[file]["height"]) / 1e6
