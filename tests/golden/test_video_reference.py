"""The vPDQ hashes of Meta's sample films: one for every frame, made with FFmpeg and RGB pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nearsearch.hashers import hash_pixels
from nearsearch.media.sampling import Sampling
from nearsearch.media.video import Film
from nearsearch.spec import get_spec

pytest.importorskip("av")

VIDEOS = Path(__file__).parents[2].parent / "shared" / "media" / "videos"
pytestmark = pytest.mark.skipif(not VIDEOS.is_dir(), reason="the shared films are not here")

FAR = 31  # vPDQ's own tests ask for less, where both qualities are at least GOOD
GOOD = 50
RATE = 30


def reference(name: str) -> list[tuple[int, bytes]]:
    text = (VIDEOS / "vpdq-hashes" / f"{name}.txt").read_text()
    rows = [line.split(",") for line in text.split()]
    return [(int(quality), bytes.fromhex(code)) for _, quality, code, _ in rows]


@pytest.mark.parametrize("path", sorted(VIDEOS.glob("*.mp4")), ids=lambda path: path.stem)
def test_codes_are_those_of_vpdq(path):
    expected = reference(path.stem)
    pdq = get_spec("pdq")
    distances = []
    with path.open("rb") as file:
        film = Film(file, sampling=Sampling(), max_pixels=10_000_000, max_frames=1000)
        for frame in film:
            quality, code = expected[round(frame.time_ms * RATE / 1000)]
            own, own_quality = hash_pixels(frame.pixels, pdq)
            if min(quality, own_quality) >= GOOD:
                distances.append(np.bitwise_count(own ^ np.frombuffer(code, np.uint8)).sum())
    assert film.problem is None
    assert film.n_frames == len(expected)
    assert film.duration_ms == round(len(expected) * 1000 / RATE)
    # Measured: 0 to 4 bits here. Of all 4,139 good frames 57 % are at 0, 96 % within 2, 99.9 %
    # within 10, the farthest at 16.
    assert max(distances) < FAR
    assert np.mean(distances) <= 2
