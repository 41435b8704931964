"""Several specs in one answer, one match for each item, common codes, and how sure a match is."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import nearsearch as ns
from nearsearch import answers
from nearsearch.confidence import expected_false, false_match_rate
from nearsearch.matches import first_of_each
from nearsearch.synthetic import make_picture

PDQ, WDCT, PHASH = (ns.get_spec(name) for name in ("pdq", "wdct", "phash"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("answers")
    for seed in range(4):
        Image.fromarray(make_picture(seed, "leaves", 400, 300)).save(root / f"{seed}.png")
    image = Image.open(root / "2.png")
    image.save(root / "copy.jpg", quality=60)
    image.crop((20, 15, 380, 285)).save(root / "cut.png")
    for specs in (["pdq", "wdct"], ["wdct", "pdq"], ["wdct"]):
        with ns.Writer.open(root / f"{'-'.join(specs)}.ns", create=True, specs=specs) as writer:
            writer.add_files([root / f"{seed}.png" for seed in range(2)])
            writer.commit()
            writer.add_files([root / f"{seed}.png" for seed in range(2, 4)])
    return root


@pytest.mark.parametrize("name", ["pdq-wdct", "wdct-pdq"])
def test_every_spec_is_asked_and_each_item_comes_once(folder, name):
    paths = [folder / "copy.jpg", folder / "cut.png", folder / "2.png"]
    with ns.Index.open(folder / f"{name}.ns") as index:
        matches = index.query(paths)
        hits = matches.to_arrow().to_pylist()
        assert [(hit["query_index"], hit["match"]) for hit in hits] == [
            (0, "near"),
            (1, "near"),
            (2, "exact"),
        ]
        assert {hit["key"] for hit in hits} == {str(folder / "2.png")}
        assert hits[1]["spec"] == "wdct"  # which pdq does not see
        assert hits[1]["view"] == "zoomed 0.9"
        assert hits[2]["spec"] is None
        assert hits[2]["expected_false"] == 0
        # Under each spec alone it is what a search for the nearest view of all gives.
        for spec in ("pdq", "wdct"):
            alone = index.query(paths[:1], spec=spec)
            assert len(alone) == 1
            hashes = ns.hash_files(paths[:1], spec, variants="fast")
            every = index.search(hashes, spec=spec)
            assert alone.distances[0] == every.distances.min()
            assert len(every) == (2 if spec == "wdct" else 1)


def test_rows_of_several_specs_are_numbered_through(folder):
    with ns.Index.open(folder / "pdq-wdct.ns") as index:
        snapshot = index.snapshot
        assert snapshot.n_codes("pdq") == 4
        assert snapshot.n_codes("wdct") == 12
        assert snapshot.n_rows() == 16
        rows = np.arange(20)
        shown = snapshot.shown_by(rows)
        items, counts = np.unique(shown.item, return_counts=True)
        assert items.tolist() == [16, 17, 18, 19]
        assert counts.tolist() == [5] * 4
        assert shown.time_ms.tolist() == [-1] * 20
        position, _ = snapshot.describe(rows)
        assert position.tolist() == rows.tolist()
        for spec, of in (("pdq", rows[:4]), ("wdct", rows[4:16])):
            codes = snapshot.codes_of(spec, of)
            found = index.search(codes, 0, spec=spec)
            assert set(of.tolist()) == set(found.rows.tolist())


def test_frames_and_pages_are_matches_of_their_own(tmp_path):
    images = [Image.fromarray(make_picture(seed, "leaves", 200, 150)) for seed in (1, 1, 2)]
    images[1] = images[1].crop((4, 3, 196, 147))
    pages = tmp_path / "pages.tif"
    images[0].save(pages, save_all=True, append_images=images[1:])
    images[0].save(tmp_path / "one.jpg", quality=70)
    with ns.Writer.open(tmp_path / "k.ns", create=True, specs=["wdct"]) as writer:
        writer.add_files([pages])
    with ns.Index.open(tmp_path / "k.ns") as index:
        table = index.query([tmp_path / "one.jpg"]).to_arrow()
        assert sorted(table["view"].to_pylist()) == ["image", "page 2"]


def records(count, shared):
    """Return codes of which the first is of `shared` records."""
    codes = np.random.default_rng(3).integers(0, 256, (count, 32), np.uint8)
    digests = [f"{number:064x}" for number in range(count + shared)]
    return np.concatenate([np.repeat(codes[:1], shared, axis=0), codes]), digests


@pytest.mark.parametrize(("shared", "is_common"), [(99, False), (100, True), (300, True)])
def test_codes_that_very_many_share_are_held_out(tmp_path, shared, is_common):
    codes, digests = records(20, shared)  # the code itself is one more
    keys = [str(number) for number in range(len(codes))]
    with ns.Writer.open(tmp_path / "k.ns", create=True) as writer:
        for part in np.array_split(np.arange(len(codes)), 3):  # several shards share it
            writer.add_codes(
                codes[part],
                keys=[keys[i] for i in part],
                digests={"sha256": [digests[i] for i in part]},
            )
            writer.commit()
    near = codes[:1].copy()
    near[0, 0] ^= 1
    with ns.Index.open(tmp_path / "k.ns") as index:
        matches = index.search(np.concatenate([near, codes[-1:]]), 5)
        held, shown = (shared + 1, 0) if is_common else (0, shared + 1)
        assert matches.held_out.tolist() == [held, 0]
        assert np.diff(matches.offsets).tolist() == [shown, 1]
        every = index.search(near, 5, with_common=True)
        assert len(every) == shared + 1
        assert every.held_out.tolist() == [0]
        assert len(index.nearest(near, 3)) == 3


def test_an_item_with_the_digest_is_found_however_common_its_code_is(tmp_path):
    for number in range(120):
        flat = Image.new("L", (64, 48), 90)
        flat.putpixel((number % 64, number // 64), 91)
        flat.save(tmp_path / f"{number:03}.png")
    with ns.Writer.open(tmp_path / "k.ns", create=True, specs=["wdct"]) as writer:
        writer.add_files([tmp_path])
    with ns.Index.open(tmp_path / "k.ns") as index:
        asked = [tmp_path / "007.png"]
        matches = index.query(asked, min_quality=0)
        assert matches.is_exact.tolist() == [True]
        assert matches.held_out.tolist() == [120]
        assert len(index.query(asked, min_quality=0, with_common=True)) == 120


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=30))
def test_first_of_each(pairs):
    columns = np.array(pairs, np.int64).reshape(-1, 2).T
    expected = [i for i, pair in enumerate(pairs) if pair not in pairs[:i]]
    assert first_of_each(*columns).tolist() == expected


def test_rates_rise_with_the_distance_and_end_at_one():
    distances = np.arange(257, dtype=np.uint16)
    rates = false_match_rate(WDCT, distances)
    assert (np.diff(rates) >= 0).all()
    assert rates[-1] == 1
    assert rates[WDCT.default_radius] < 1e-11
    assert np.isnan(false_match_rate(PHASH, distances)).all()


def test_expected_false_counts_what_was_compared():
    specs = (WDCT, PHASH)
    spec_index = np.array([0, 0, 1, 2])
    distances = np.array([40, 40, 3, 0], np.uint16)
    compared = np.array([[10, 5], [1000, 5], [10, 5], [10, 5]])
    expected = expected_false(specs, spec_index, distances, compared)
    rate = false_match_rate(WDCT, distances[:1])[0]
    assert expected[:2].tolist() == [10 * rate, 1000 * rate]
    assert np.isnan(expected[2])
    assert expected[3] == 0


def test_what_was_compared_is_views_times_codes(folder):
    with ns.Index.open(folder / "wdct.ns") as index:
        for variants, views in (("none", 1), ("fast", 9), ("thorough", 31)):
            matches = index.query([folder / "copy.jpg"], variants=variants)
            assert matches.compared.tolist() == [[views * 12]]
        expected = index.query([folder / "cut.png"]).to_arrow()["expected_false"].to_pylist()
        assert 0 < expected[0] < 1e-9


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.sampled_from([1, 2, 5, 8, 32]),
    n=st.sampled_from([0, 1, 100, 101, 102, 700]),
)
def test_common_codes_are_those_that_one_query_meets_more_than_a_hundred_times(seed, size, n):
    rng = np.random.default_rng(seed)
    of_few = rng.integers(0, 256, (3, size), np.uint8)
    of_few[1] = of_few[0]
    of_few[1, -1] ^= 1
    codes = of_few[np.minimum(rng.geometric(0.7, n) - 1, 2)]
    views = np.minimum(rng.geometric(0.7, n) - 1, 2)
    pairs = list(zip(views.tolist(), map(bytes, codes), strict=True))
    counts = Counter(pairs)
    expected = [counts[pair] > 100 for pair in pairs]
    assert answers._is_common(views, codes).tolist() == expected
