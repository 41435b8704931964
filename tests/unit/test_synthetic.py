"""The synthetic corpus: reproducible, labelled, as hard for a perceptual hash as photographs."""

import csv

import numpy as np
import pdqhash
import pytest
from PIL import Image

from nearsearch.errors import CodesError, UsageError
from nearsearch.synthetic import (
    ALTERATIONS,
    KINDS,
    MISSED_BY_PDQ,
    ORIGINAL,
    CorpusFile,
    make_picture,
    plant_neighbours,
    random_codes,
    write_corpus,
)


def distance(a, b):
    return np.bitwise_count(a ^ b).sum(axis=-1, dtype=int)


def pdq(pixels):
    bits, quality = pdqhash.compute(np.ascontiguousarray(pixels))
    return np.packbits(bits), quality


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_is_a_picture_in_any_order(kind):
    first = make_picture(7, kind, 96, 64)
    make_picture(8, kind, 96, 64)
    assert first.shape == (64, 96, 3)
    assert first.dtype == np.uint8
    assert first.flags.writeable
    np.testing.assert_array_equal(first, make_picture(7, kind, 96, 64))
    assert (first != make_picture(8, kind, 96, 64)).any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(32, 32), (33, 400), (400, 33)])
def test_odd_sizes_can_be_drawn(kind, size):
    assert make_picture(0, kind, *size).shape[:2] == size[::-1]


def test_impossible_pictures_are_refused():
    with pytest.raises(UsageError, match="leaves, text, shapes"):
        make_picture(0, "cats", 64, 64)
    with pytest.raises(UsageError, match="at least 32 pixels"):
        make_picture(0, "text", 31, 64)


@pytest.mark.slow
def test_distances_are_those_of_photographs():
    # Photographs under PDQ: unrelated pairs at 128 +- 9 bits, and mild alterations within 31.
    pictures = [make_picture(seed, KINDS[seed % 3], 256, 256) for seed in range(36)]
    codes, qualities = zip(*(pdq(picture) for picture in pictures), strict=True)
    codes = np.array(codes)
    assert min(qualities) >= 50
    pairs = distance(codes[:, None], codes[None])[np.triu_indices(len(codes), 1)]
    assert 125 < pairs.mean() < 131
    assert 6 < pairs.std() < 12
    assert pairs.min() > 60
    for name, alter in ALTERATIONS.items():
        copies = np.array([pdq(alter(p, np.random.default_rng(3)))[0] for p in pictures])
        found = (distance(codes, copies) <= 31).mean()
        if name in MISSED_BY_PDQ:
            assert found < 0.5, name
        else:
            assert found >= 0.9, name


def test_a_corpus_is_labelled_and_reproducible(tmp_path):
    progress = []
    size = {"seed": 3, "width": 64, "height": 48}
    files = write_corpus(
        tmp_path / "a", n_pictures=8, **size, on_progress=lambda *done: progress.append(done)
    )
    assert progress == [(n, 8) for n in range(1, 9)]
    assert len(files) == len({file.file for file in files}) == 8 * (1 + len(ALTERATIONS))
    with (tmp_path / "a" / "labels.csv").open(newline="") as stream:
        assert [CorpusFile(**row) for row in csv.DictReader(stream)] == files
    on_disk = {path.relative_to(tmp_path / "a").as_posix() for path in tmp_path.rglob("*.*")}
    assert on_disk == {file.file for file in files} | {"labels.csv"}
    assert {file.kind for file in files} == set(KINDS)
    assert {file.file.rsplit(".")[-1] for file in files} == {"jpg", "png", "webp"}
    originals = {file.original: file for file in files if file.alteration == ORIGINAL}
    for file in files:
        assert originals[file.original].kind == file.kind
        assert file.file.startswith("originals/" if file.alteration == ORIGINAL else "altered/")
        with Image.open(tmp_path / "a" / file.file) as picture:
            assert picture.size == {
                "resize-50": (32, 24),
                "crop-2": (62, 46),
                "border-5": (70, 52),
            }.get(file.alteration, (64, 48))

    # A shorter corpus with other alterations holds the same files.
    for file in write_corpus(
        tmp_path / "b", n_pictures=2, **size, alterations=["flip", "noise-10"]
    ):
        assert file in files
        assert (tmp_path / "b" / file.file).read_bytes() == (
            tmp_path / "a" / file.file
        ).read_bytes()


def test_an_unknown_alteration_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(UsageError, match="no alteration 'sepia'"):
        write_corpus(
            tmp_path / "c", n_pictures=1, seed=0, width=64, height=64, alterations=["sepia"]
        )
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("bits", [64, 256])
def test_neighbours_are_planted_at_exact_distances(bits):
    distances = np.arange(bits + 1)
    codes = random_codes(len(distances), bits, seed=1)
    before = codes.copy()
    neighbours = plant_neighbours(codes, distances, seed=2)
    assert neighbours.shape == codes.shape
    assert neighbours.dtype == np.uint8
    np.testing.assert_array_equal(distance(codes, neighbours), distances)
    np.testing.assert_array_equal(codes, before)
    np.testing.assert_array_equal(neighbours, plant_neighbours(codes, distances, seed=2))
    assert set(distance(codes, plant_neighbours(codes, 31, seed=3))) == {31}
    assert plant_neighbours(codes[:0], 5, seed=0).shape == (0, bits // 8)


def test_random_codes_are_uniform_and_seeded():
    codes = random_codes(4000, 256, seed=5)
    assert codes.shape == (4000, 32)
    assert codes.dtype == np.uint8
    share = np.unpackbits(codes, axis=1).mean(axis=0)  # standard deviation 0.008
    assert np.abs(share - 0.5).max() < 0.04
    np.testing.assert_array_equal(codes, random_codes(4000, 256, seed=5))
    assert (codes != random_codes(4000, 256, seed=6)).any()


def test_impossible_codes_are_refused():
    codes = random_codes(3, 64, seed=0)
    with pytest.raises(UsageError, match="multiples of 8"):
        random_codes(3, 63, seed=0)
    with pytest.raises(UsageError, match="0 to 64 bits"):
        plant_neighbours(codes, [0, 1, 65], seed=0)
    with pytest.raises(UsageError, match="0 to 64 bits"):
        plant_neighbours(codes, -1, seed=0)
    with pytest.raises(UsageError, match="expected 3 integers"):
        plant_neighbours(codes, [1, 2], seed=0)
    with pytest.raises(UsageError, match="expected 3 integers"):
        plant_neighbours(codes, 1.5, seed=0)
    with pytest.raises(CodesError):
        plant_neighbours(codes.view(np.uint64), 1, seed=0)
