import hashlib

import imagehash
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nearsearch import codes as codes_module
from nearsearch.codes import as_codes, distinct, record_ids, to_hex
from nearsearch.errors import CodesError
from nearsearch.spec import Spec, get_spec

PDQ, PHASH = get_spec("pdq"), get_spec("phash")
BRIDGE = "f8f8f0cee0f4a84f06370a22038f63f0b36e2ed596621e1d33e6b39c4e9c9b22"


def test_hex_is_the_bytes_in_order():
    codes = as_codes(BRIDGE, PDQ)
    assert codes.shape == (1, 32)
    assert codes[0, 0] == 0xF8
    assert codes[0, -1] == 0x22
    assert to_hex(codes) == [BRIDGE]


def test_image_hash_equals_its_hex():
    bits = np.random.default_rng(1).random((8, 8)) < 0.5
    image_hash = imagehash.ImageHash(bits)
    assert (as_codes(image_hash, PHASH) == as_codes(str(image_hash), PHASH)).all()
    assert as_codes([image_hash, str(image_hash)], PHASH).shape == (2, 8)


def test_arrays_that_fit_are_not_copied():
    codes = np.zeros((3, 32), np.uint8)
    assert np.shares_memory(as_codes(codes, PDQ), codes)
    assert as_codes(codes[0], PDQ).shape == (1, 32)
    strided = np.zeros((6, 32), np.uint8)[::2]
    assert as_codes(strided, PDQ).flags.c_contiguous
    assert as_codes(list(codes), PDQ).shape == (3, 32)


def test_nothing_is_a_set_of_codes():
    assert as_codes([], PDQ).shape == (0, 32)
    assert as_codes(np.empty((0, 32), np.uint8), PDQ).shape == (0, 32)
    assert to_hex(np.empty((0, 32), np.uint8)) == []


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (np.zeros((2, 8), np.uint8), r"\(n, 32\) uint8 \(pdq\), got \(2, 8\) uint8"),
        (np.zeros((2, 32), np.int64), r"got \(2, 32\) int64"),
        (np.zeros((1, 2, 32), np.uint8), r"got \(1, 2, 32\) uint8"),
        ("f8f8", "256 bits .* got 16 bits at position 0"),
        ("zz" * 32, "not hex"),
        ([BRIDGE, BRIDGE[:-2]], "248 bits at position 1"),
        ([BRIDGE, 7], "a int at position 1"),
        (7, "a int"),
        (None, "a NoneType"),
        (imagehash.ImageHash(np.ones((8, 8), bool)), "an ImageHash of 64 bits at position 0"),
    ],
)
def test_what_cannot_be_codes(value, words):
    with pytest.raises(CodesError, match=words):
        as_codes(value, PDQ)


def expected_id(code, quality, salt):
    message = code.tobytes() + int(quality).to_bytes(8, "little", signed=True)
    return hashlib.blake2b(message, digest_size=32, salt=salt, person=b"nearsearch code").digest()


@pytest.mark.parametrize("name", ["pdq", "phash", "phash-576", "phash-1024"])
@pytest.mark.parametrize("n", [0, 1, 7, 8, 9, 1000])
def test_record_ids_are_personalised_blake2b(name, n):
    spec, rng = get_spec(name), np.random.default_rng(n)
    codes = rng.integers(0, 256, (n, spec.code_bytes), np.uint8)
    qualities = rng.integers(-1, 101, n).astype(np.int8)
    salt = f"{spec.algorithm}-{spec.bits}/1".encode()
    expected = [expected_id(*pair, salt) for pair in zip(codes, qualities, strict=True)]
    ids = record_ids(codes, qualities, spec)
    assert ids.shape == (n, 32)
    assert ids.tobytes() == b"".join(expected)


def test_record_ids_of_codes_beyond_one_block():
    spec = Spec("wonderhash", 2048, 1, "full")
    codes = np.random.default_rng(0).integers(0, 256, (2, 256), np.uint8)
    ids = record_ids(codes, np.array([-1, 7], np.int8), spec)
    assert ids[1].tobytes() == expected_id(codes[1], 7, b"wonderhash-2048/")


def test_record_ids_differ_between_specs_and_qualities():
    code, quality = as_codes("00" * 8, PHASH), np.array([50], np.int8)
    ids = [
        record_ids(code, quality, PHASH),
        record_ids(code, quality, get_spec("dhash")),
        record_ids(code, np.array([51], np.int8), PHASH),
    ]
    assert len({row.tobytes() for row in ids}) == 3


@given(st.lists(st.integers(0, 5), max_size=40), st.sampled_from([8, 16, 32]))
def test_distinct_is_first_appearance(values, width):
    table = np.random.default_rng(0).integers(0, 256, (6, width), np.uint8)
    codes = table[values].reshape(-1, width)
    first, number = distinct(codes)
    seen: list[int] = []
    for value in values:
        if value not in seen:
            seen.append(value)
    assert [values[i] for i in first] == seen
    assert [seen[i] for i in number] == values
    assert (codes[first][number] == codes).all()


def test_distinct_when_mixes_collide(monkeypatch):
    """Codes built to share the 64-bit mix go the slow way and stay apart."""
    a = np.zeros((1, 16), np.uint8)
    words = np.zeros((2, 2), np.uint64)
    words[1, 0] = 1

    def mixed(first):
        mix = np.uint64(first)
        with np.errstate(over="ignore"):
            mix = mix * np.uint64(0x9E3779B97F4A7C15)
        return mix ^ (mix >> np.uint64(29))

    # The second word is xor-ed into the mix of the first: choose it to undo the difference.
    words[1, 1] = mixed(0) ^ mixed(1)
    codes = np.concatenate([words.view(np.uint8).reshape(2, 16), a])
    first, number = codes_module.distinct(codes)
    assert first.tolist() == [0, 1]
    assert number.tolist() == [0, 1, 0]
