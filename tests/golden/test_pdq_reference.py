"""PDQ of real pictures, against values that the reference published or computed."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from nearsearch.hashers import hash_pixels
from nearsearch.spec import get_spec

MEDIA = Path(__file__).parents[2].parent / "shared" / "media"
BRIDGE = "pdq__reg-test-input_dih__bridge-1-original.jpg"
# PDQHasherTest.java of facebook/ThreatExchange: full resolution, no reduction before the blur.
BRIDGE_PDQ = "f8f8f0cee0f4a84f06370a22038f63f0b36e2ed596621e1d33e6b39c4e9c9b22"

pytestmark = pytest.mark.skipif(
    not (MEDIA / "expected_pdq.csv").exists(), reason="the shared pictures are not here"
)


def decode(path: Path) -> np.ndarray:
    """Decode as the expected values were: in full, EXIF orientation, alpha over white, RGB."""
    with Image.open(path) as opened:
        image = ImageOps.exif_transpose(opened)
        if image.has_transparency_data:
            rgba = image.convert("RGBA")
            white = Image.new("RGBA", rgba.size, "white")
            image = Image.alpha_composite(white, rgba)
        return np.asarray(image.convert("RGB"))


def test_published_hash_of_bridge_1():
    code, quality = hash_pixels(decode(MEDIA / "images" / BRIDGE), get_spec("pdq"))
    assert code.tobytes().hex() == BRIDGE_PDQ
    assert quality == 100


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # odd pictures are part of the set
def test_every_picture_equals_the_reference():
    with (MEDIA / "expected_pdq.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert rows
    differing = []
    for row in rows:
        pixels = decode(MEDIA / "images" / row["file"])
        assert pixels.shape == (int(row["height"]), int(row["width"]), 3), row["file"]
        code, quality = hash_pixels(pixels, get_spec("pdq"))
        if (code.tobytes().hex(), quality) != (row["pdq"], int(row["quality"])):
            differing.append(row["file"])
    assert differing == []
