"""Altered copies are found by views, and the hit says by which."""

from __future__ import annotations

import json

import pytest
from PIL import Image, ImageOps

import nearsearch as ns
from nearsearch.errors import UsageError
from nearsearch.synthetic import make_picture


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("variants")
    for seed in range(3):
        Image.fromarray(make_picture(seed, "leaves", 480, 360)).save(root / f"{seed}.png")
    image = Image.open(root / "1.png")
    image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(root / "mirrored.png")
    image.transpose(Image.Transpose.ROTATE_90).save(root / "turned.png")
    ImageOps.expand(image, 60, "white").save(root / "bordered.png")
    image.rotate(12, Image.Resampling.BICUBIC).save(root / "rotated.png")
    image.crop((48, 36, 432, 324)).save(root / "cut.png")
    for spec in ("pdq", "wdct"):
        with ns.Writer.open(root / f"{spec}.ns", create=True, specs=[spec]) as writer:
            writer.add_files([root / f"{seed}.png" for seed in range(3)])
    return root


FOUND = {  # by which variant of the query; None if not at all
    "mirrored": ("mirrored", "mirrored", "mirrored"),
    "turned": ("turned 270", "turned 270", "turned 270"),
    "bordered": ("trimmed", "trimmed", "trimmed"),
    "rotated": (None, None, "rotated -12, zoomed 0.8"),
    "cut": (None, "image", "image"),
}


@pytest.mark.parametrize("name", FOUND)
def test_a_copy_is_found_by_the_view_that_undoes_it(folder, name):
    asked = (("pdq", "thorough"), ("wdct", "fast"), ("wdct", "thorough"))
    for (spec, variants), expected in zip(asked, FOUND[name], strict=True):
        with ns.Index.open(folder / f"{spec}.ns") as index:
            hits = index.query([folder / f"{name}.png"], variants=variants).to_arrow().to_pylist()
            plain = index.query([folder / f"{name}.png"], variants="none").to_arrow()
        keys = {hit["key"] for hit in hits}
        assert keys == ({str(folder / "1.png")} if expected else set()), (spec, variants)
        if expected:
            assert hits[0]["variant"] == expected
            assert hits[0]["match"] == "near"
        if name != "cut":
            assert len(plain) == 0


def test_what_is_kept_of_a_known_picture(folder):
    with ns.Index.open(folder / "wdct.ns") as index:
        found = index.query([folder / "0.png"], 0, variants="none").to_arrow()
        assert found["variant"].to_pylist() == [None]  # exact
        hashes = ns.hash_files([folder / "0.png"], "wdct")
        assert hashes.views == ["image"]
        rows = index.search(hashes.codes, 0).to_arrow()
        assert rows["variant"].null_count == len(rows) == 1
        assert rows["view"].to_pylist() == ["image"]
        cut = ns.hash_files([folder / "cut.png"], "wdct")
        rows = index.search(cut.codes).to_arrow()
        assert "zoomed 0.8" in rows["view"].to_pylist()


def test_every_variant_has_a_name_of_its_own(folder):
    for variants, count in (("none", 1), ("fast", 9), ("thorough", 31)):
        hashes = ns.hash_files([folder / "2.png"], "wdct", variants=variants)
        assert len(hashes.codes) == len(set(hashes.views)) == count
        assert hashes.views[0] == "image"


def test_the_variant_is_printed(folder, cli):
    ran = cli("query", str(folder / "wdct.ns"), str(folder / "mirrored.png"))
    assert ran.code == 0
    assert "variant" in ran.out
    assert "mirrored" in ran.out
    ran = cli(
        *("query", str(folder / "wdct.ns"), str(folder / "rotated.png")),
        *("--variants", "thorough", "--format", "jsonl"),
    )
    (first, *_) = map(json.loads, ran.out.splitlines())
    assert first["variant"] == "rotated -12, zoomed 0.8"
    assert first["view"] == "zoomed 0.8"
    ran = cli("query", str(folder / "wdct.ns"), str(folder / "rotated.png"), "--variants", "none")
    assert ran.code == 1


def test_unknown_variants_are_refused(folder):
    with (
        ns.Index.open(folder / "wdct.ns") as index,
        pytest.raises(UsageError, match="none, fast, thorough, got 'all'"),
    ):
        index.query([folder / "0.png"], variants="all")
