"""wdct, version 1: codes of pixels that a formula gives. They never change; a version does."""

from __future__ import annotations

import numpy as np
import pytest

from nearsearch.hashers import hash_pixels
from nearsearch.hashers.wdct import WHOLE, Box, Place, Reduced
from nearsearch.spec import Spec, get_spec

WDCT = get_spec("wdct")


def formula(height, width):
    y, x = np.indices((height, width))
    values = x * x * 7 + y * y * 5 + x * y * 3 + (x // 17) * 40 + (y // 23) * 60
    return (values % 256).astype(np.uint8)


def coloured():
    luma = formula(480, 640)
    return np.ascontiguousarray(np.stack([luma, luma[::-1], luma[:, ::-1]], axis=2))


def test_the_spec():
    assert Spec("wdct", 256, 1, "luma-2048") == WDCT


@pytest.mark.parametrize(
    ("height", "width", "code"),
    [
        (300, 400, "9ce0b73198f4749ce6f21d669341c69e1923391e331b2d9e43668cad3e267c55"),
        (64, 64, "f213b233349641dccd169c9896b0e4d3da96c6c676663b4667233cc60e66fc87"),
        (129, 700, "41e2313368c5dcd9ef37a634db6616723193b1266c1c8c9cc21a3ce3f2ced999"),
        (1000, 33, "133e19b4dad9996cf71a47ce741b4b2cf2486f2661da736671212a71467651d4"),
    ],
)
def test_luma(height, width, code):
    assert hash_pixels(formula(height, width), WDCT)[0].tobytes().hex() == code


def test_colour():
    code, quality = hash_pixels(coloured(), WDCT)
    assert quality == 100
    assert code.tobytes().hex() == (
        "61a4a7648994becd96c2d933b3cf6c9359a4b4d2637216b71766430e9672631e"
    )


@pytest.mark.parametrize(
    ("box", "place", "code"),
    [
        (
            WHOLE,
            Place(0.8),
            "6967936dd1ae024932d6d9b197cb49d318c66d9683b321e1d863d6b1ca5a1b71",
        ),
        (
            WHOLE,
            Place(0.8, degrees=12),
            "6cdb034cd18b67a930c7cd4b28c61c04362e4cf26cf37c187c6e3ce49cb696bd",
        ),
        (
            Box(0.1, 0.05, 0.9, 0.8),
            Place(0.9, 0.05, -0.05),
            "ad324204d9a47bd9132598c6cd9e99d334d91f8724b0db49ac6926f9cb73b686",
        ),
    ],
    ids=["zoomed", "rotated", "moved"],
)
def test_views(box, place, code):
    (found,), _ = Reduced(coloured()).codes(box, place)
    assert found.tobytes().hex() == code
