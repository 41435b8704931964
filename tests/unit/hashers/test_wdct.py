"""wdct of pictures: turned, cut, rotated, flat. The kernels have tests of their own."""

from __future__ import annotations

import numpy as np
import pytest

from nearsearch.hashers import hash_pixels
from nearsearch.hashers.wdct import ORIENTATIONS, WHOLE, Box, Place, Reduced
from nearsearch.spec import get_spec
from nearsearch.synthetic import make_picture

WDCT = get_spec("wdct")
WAYS_UP = {
    "": lambda p: p,
    "turned 90": lambda p: np.rot90(p),
    "turned 180": lambda p: np.rot90(p, 2),
    "turned 270": lambda p: np.rot90(p, 3),
    "mirrored": lambda p: np.fliplr(p),
    "mirrored, turned 90": lambda p: np.rot90(np.fliplr(p)),
    "mirrored, turned 180": lambda p: np.rot90(np.fliplr(p), 2),
    "mirrored, turned 270": lambda p: np.rot90(np.fliplr(p), 3),
}


@pytest.mark.parametrize("turn", ORIENTATIONS)
@pytest.mark.parametrize("kind", ["leaves", "text", "shapes"])
def test_a_turned_picture_is_found_upright(turn, kind):
    pixels = make_picture(8, kind, 400, 300)
    turned = np.ascontiguousarray(WAYS_UP[turn](pixels))
    (code,), _ = Reduced(pixels).codes(WHOLE, Place(), (turn,))
    expected, _ = hash_pixels(turned, WDCT)
    assert np.bitwise_count(code ^ expected).sum() <= 2


@pytest.mark.parametrize("kind", ["leaves", "text"])
@pytest.mark.parametrize("shape", [(300, 400), (90, 200), (1, 1), (700, 130)])
def test_half_of_the_bits_are_set(kind, shape):
    pixels = make_picture(8, kind, 400, 700)[: shape[0], : shape[1]]
    code, quality = hash_pixels(np.ascontiguousarray(pixels), WDCT)
    if quality >= 50:
        assert np.bitwise_count(code).sum() == 128


def test_flat_pictures_and_gradients_have_no_quality():
    ramp = np.linspace(0, 255, 400).astype(np.uint8)
    for pixels in (np.full((300, 400), 77, np.uint8), np.broadcast_to(ramp, (300, 400))):
        _, quality = hash_pixels(np.ascontiguousarray(pixels), WDCT)
        assert quality < 50
    code, quality = hash_pixels(np.full((300, 400, 3), 77, np.uint8), WDCT)
    assert quality == 0
    assert not code.any()


def test_a_rotated_picture_is_met_half_way():
    from PIL import Image

    pixels = make_picture(3, "leaves", 480, 360)
    rotated = np.asarray(Image.fromarray(pixels).rotate(10, Image.Resampling.BICUBIC))
    known, _ = Reduced(pixels).codes(WHOLE, Place(0.8))
    query, _ = Reduced(rotated).codes(WHOLE, Place(0.8, degrees=-10))
    wrong, _ = Reduced(rotated).codes(WHOLE, Place(0.8, degrees=10))
    assert np.bitwise_count(known[0] ^ query[0]).sum() <= 12
    assert np.bitwise_count(known[0] ^ wrong[0]).sum() > 60


def test_a_part_is_the_picture_cut_there():
    pixels = make_picture(4, "leaves", 640, 480)
    part = np.ascontiguousarray(pixels[120:420, 64:576])
    (code,), _ = Reduced(pixels).codes(Box(0.1, 0.25, 0.9, 0.875), Place())
    expected, _ = hash_pixels(part, WDCT)
    assert np.bitwise_count(code ^ expected).sum() <= 12
