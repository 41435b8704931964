from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pdqhash
import pytest

from nearsearch.errors import UsageError
from nearsearch.hashers import dihedral_codes, hash_pixels, picture_quality
from nearsearch.spec import Spec, get_spec, spec_names

PDQ = get_spec("pdq")


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, shape, np.uint8)


WRONG = {
    "float": np.zeros((8, 8, 3)),
    "signed": np.zeros((8, 8), np.int8),
    "one axis": np.zeros(8, np.uint8),
    "four axes": np.zeros((1, 8, 8, 3), np.uint8),
    "one channel": np.zeros((8, 8, 1), np.uint8),
    "alpha": np.zeros((8, 8, 4), np.uint8),
    "no rows": np.zeros((0, 8, 3), np.uint8),
    "no columns": np.zeros((8, 0), np.uint8),
    "a list": [[0, 1], [2, 3]],
    "none": None,
}


@pytest.mark.parametrize("pixels", WRONG.values(), ids=WRONG.keys())
@pytest.mark.parametrize(
    "function",
    [
        lambda pixels: hash_pixels(pixels, PDQ),
        lambda pixels: dihedral_codes(pixels, PDQ),
        picture_quality,
    ],
    ids=["hash_pixels", "dihedral_codes", "picture_quality"],
)
def test_wrong_pixels_are_refused(function, pixels):
    with pytest.raises(UsageError, match=r"pixels: expected .* got "):
        function(pixels)


def test_the_refusal_says_what_came():
    with pytest.raises(UsageError, match=r"got \(8, 8, 4\) uint8"):
        hash_pixels(WRONG["alpha"], PDQ)
    with pytest.raises(UsageError, match="got a list"):
        hash_pixels(WRONG["a list"], PDQ)


@pytest.mark.parametrize(
    ("algorithm", "bits"), [("photodna", 1152), ("pdq", 64), ("whash", 576), ("phash", 100)]
)
def test_codes_no_hasher_computes_are_refused(algorithm, bits):
    with pytest.raises(
        UsageError, match=rf"'{algorithm}' codes of {bits} bits; .*: pdq, wdct, phash"
    ):
        hash_pixels(noise(8, 8, 3), Spec(algorithm, bits, 1, "full"))


def test_only_pdq_has_dihedral_codes():
    with pytest.raises(UsageError, match="expected a pdq spec, got phash-256"):
        dihedral_codes(noise(8, 8, 3), get_spec("phash-256"))


@pytest.mark.parametrize("name", spec_names())
def test_a_code_is_as_long_as_its_spec_says(name):
    spec = get_spec(name)
    code, quality = hash_pixels(noise(90, 70, 3), spec)
    assert code.shape == (spec.code_bytes,)
    assert code.dtype == np.uint8
    assert type(quality) is int
    assert quality == 100


@pytest.mark.parametrize("name", ["pdq", "phash", "dhash", "ahash", "whash"])
def test_strides_and_writability_do_not_matter(name):
    spec = get_spec(name)
    whole = noise(180, 140, 3)
    view = whole[::-2, 10:130, ::-1]
    expected = hash_pixels(view.copy(), spec)[0]
    whole.flags.writeable = False
    assert np.array_equal(hash_pixels(view, spec)[0], expected)
    assert np.array_equal(hash_pixels(np.asfortranarray(view), spec)[0], expected)


def test_pixels_are_not_modified():
    pixels = noise(70, 80, 3)
    before = pixels.copy()
    hash_pixels(pixels, PDQ)
    dihedral_codes(pixels, PDQ)
    assert np.array_equal(pixels, before)


def test_threads_do_not_disturb_each_other():
    pictures = [noise(50 + 7 * number, 300, 3) for number in range(32)]
    expected = [hash_pixels(pixels, PDQ)[0].tobytes() for pixels in pictures]
    with ThreadPoolExecutor(4) as pool:
        codes = pool.map(lambda pixels: hash_pixels(pixels, PDQ)[0].tobytes(), pictures)
        assert list(codes) == expected


@pytest.mark.parametrize("height", [7, 8, 9, 15, 16, 17, 31, 32, 33, 639, 640, 641])
@pytest.mark.parametrize("channels", [1, 3])
def test_strip_edges_equal_the_reference(height, channels):
    pixels = noise(height, 150, channels)
    vector, quality = pdqhash.compute(np.repeat(pixels, 3 // channels, axis=2))
    code, actual_quality = hash_pixels(pixels[:, :, 0] if channels == 1 else pixels, PDQ)
    assert code.tobytes() == np.packbits(vector).tobytes()
    assert actual_quality == quality


@pytest.mark.parametrize("shape", [(4, 100, 3), (100, 4, 3), (1, 1), (4, 4)])
def test_too_small_for_pdq_is_the_zero_code(shape):
    code, quality = hash_pixels(noise(*shape), PDQ)
    assert not code.any()
    assert quality == 0
    assert not dihedral_codes(noise(*shape), PDQ).any()


def test_importing_the_hashers_loads_no_heavy_library():
    program = (
        "import sys, nearsearch.hashers; "
        "print([m for m in ('numba', 'imagehash', 'PIL', 'scipy') if m in sys.modules])"
    )
    printed = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert printed.stdout.strip() == "[]"
