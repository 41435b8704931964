"""The command line on files: hash, look-up by digest, the account, limits."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import shutil
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def folder(tmp_path, monkeypatch, small_index):
    """Two pictures, one of them in an archive too, a broken one and a text, in ./in."""
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    for name in ("a.jpg", "b.jpg"):
        shutil.copy(small_index.pictures / name, "in")
    Path("in/broken.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(90))
    Path("in/note.txt").write_text("hello")
    with zipfile.ZipFile("in/z.zip", "w") as archive:
        archive.write("in/a.jpg", "=a.jpg")
    return tmp_path


KEYS = ["in/a.jpg", "in/b.jpg", "in/broken.png", "in/note.txt", "in/z.zip!=a.jpg"]


def test_hash_as_csv_has_a_line_for_each_file_and_code(folder, cli, small_index):
    ran = cli("hash", "in")
    assert ran.code == 1
    rows = list(csv.DictReader(io.StringIO(ran.out)))
    assert [row["key"] for row in rows] == KEYS
    first = rows[0]
    data = Path("in/a.jpg").read_bytes()
    assert (first["code"], first["spec"], first["quality"]) == (
        small_index.codes["a.jpg"],
        "pdq",
        "100",
    )
    assert (first["view"], first["format"], first["status"]) == ("image", "JPEG", "hashed")
    assert first["size"] == str(len(data))
    for name in ("sha256", "md5", "sha1"):
        assert first[name] == hashlib.new(name, data).hexdigest() == rows[4][name]
    assert [row["status"] for row in rows] == ["hashed", "hashed", "failed", "skipped", "hashed"]
    assert (rows[2]["code"], rows[2]["problem"].split(":")[0]) == ("", "decode")
    assert rows[2]["md5"] == hashlib.md5(Path("in/broken.png").read_bytes()).hexdigest()
    assert "failed: in/broken.png: decode: " in ran.err


def test_hash_as_json_lines_with_several_specs(folder, cli, small_index):
    ran = cli("hash", "in/a.jpg", "--spec", "pdq", "--spec", "dhash", "--format", "jsonl")
    assert ran.code == 0
    rows = [json.loads(line) for line in ran.out.splitlines()]
    assert [row["spec"] for row in rows] == ["pdq", "dhash"]
    assert rows[0]["code"] == small_index.codes["a.jpg"]
    assert len(rows[1]["code"]) == 16
    assert rows[0]["time_ms"] is None


def test_hash_in_the_columns_of_the_reference_tool(folder, cli, small_index):
    ran = cli("hash", "in", "--format", "pdq-csv")
    lines = ran.out.splitlines()
    assert lines[0] == f"{small_index.codes['a.jpg']},100,in/a.jpg"
    assert [line.split(",")[2] for line in lines] == ["in/a.jpg", "in/b.jpg", "in/z.zip!=a.jpg"]
    refused = cli("hash", "in", "--format", "pdq-csv", "--spec", "phash")
    assert refused.code == 2
    assert "pdq-csv is for the spec pdq only" in refused.err


def test_hash_names_what_is_not_there(folder, cli):
    Path("in/link.jpg").symlink_to("a.jpg")
    Path("in/z.zip!=a.jpg").write_text("beside its namesake")
    ran = cli("hash", "gone.jpg", "in", "--format", "jsonl")
    assert ran.code == 1
    assert "failed: gone.jpg: read: No such file or directory\n" in ran.err
    assert "link" not in ran.err
    rows = [json.loads(line) for line in ran.out.splitlines()]
    keys = ["gone.jpg", *KEYS[:3], "in/link.jpg", *KEYS[3:], r"in/z.zip\x21=a.jpg"]
    assert [row["key"] for row in rows] == keys
    assert (rows[0]["status"], rows[0]["problem"]) == ("failed", "read: No such file or directory")
    assert (rows[4]["status"], rows[4]["problem"]) == ("skipped", "walk: a symbolic link")
    assert rows[4]["code"] is rows[4]["size"] is rows[4]["sha256"] is None
    ran = cli("hash", "in/link.jpg", "--format", "pdq-csv")  # named, so it is followed
    assert (ran.code, len(ran.out.splitlines())) == (0, 1)


def test_query_finds_digests_first(folder, cli):
    assert cli("add", "k.ns", "in").code == 1
    data = Path("in/broken.png").read_bytes()
    for name in ("sha256", "md5", "sha1"):
        ran = cli(
            "query", "k.ns", "--digest", hashlib.new(name, data).hexdigest(), "--format", "jsonl"
        )
        assert ran.code == 0
        (row,) = map(json.loads, ran.out.splitlines())
        assert (row["key"], row["match"], row["kind"]) == ("in/broken.png", "exact", "unhashed")
        assert row[name] == hashlib.new(name, data).hexdigest()
    ran = cli("query", "k.ns", "in/a.jpg", "in/broken.png", "--format", "csv")
    assert ran.code == 0  # the second could not be hashed, and was found all the same
    assert ran.err.startswith("failed: in/broken.png: ")
    assert ran.err.splitlines()[0].endswith(" (found by digest)")
    found = [(row["match"], row["key"]) for row in csv.DictReader(io.StringIO(ran.out))]
    assert found == [
        ("exact", "in/a.jpg"),
        ("exact", "in/z.zip!=a.jpg"),
        ("exact", "in/broken.png"),
    ]
    assert cli("query", "k.ns", "--digest", "00" * 16).code == 1
    wrong = cli("query", "k.ns", "--digest", "00" * 15)
    assert wrong.code == 2
    assert "digest: expected 32, 40 or 64 hexadecimal digits" in wrong.err


def test_query_skips_what_is_no_picture(folder, cli):
    assert cli("add", "k.ns", "in").code == 1
    with zipfile.ZipFile("mixed.zip", "w") as archive:
        archive.write("in/a.jpg")
        archive.write("in/note.txt")
    with zipfile.ZipFile("empty.zip", "w"):
        pass
    ran = cli("query", "k.ns", "mixed.zip", "empty.zip")
    assert ran.code == 0
    assert ran.err.splitlines() == [
        "skipped: mixed.zip!in/note.txt: no known picture format",
        "skipped: empty.zip: an archive without files",
        "1 matches (2 members) for 1 of 3 queries (pdq, wdct, generation 1)",
    ]
    assert cli("query", "k.ns", "empty.zip").code == 1
    # What failed and was found by nothing could be known material.
    Path("other.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(91))
    ran = cli("query", "k.ns", "in/a.jpg", "other.png")
    assert ran.code == 2
    assert not ran.err.splitlines()[0].endswith(" (found by digest)")


def test_a_table_of_hits_says_which_page_or_frame_it_is(folder, cli, picture):
    first, *rest = (picture(seed) for seed in (30, 31, 32))
    first.save("pages.tif", save_all=True, append_images=rest)
    picture(31).save("second.png")
    picture(30).save("first.png")
    assert cli("add", "k.ns", "pages.tif", "in/a.jpg").code == 0
    ran = cli("query", "k.ns", "in/a.jpg", "second.png")
    lines = [line.split() for line in ran.out.splitlines() if line.strip()]
    names = ["query", "match", "distance", "chance", "key", "view", "spec", "contribution"]
    assert lines[0][:8] == names
    assert lines[2][:4] == ["in/a.jpg", "exact", "0", "0"]
    second = next(line for line in lines if line[0] == "second.png")
    assert second[4:7] == ["pages.tif", "page", "2"]
    ran = cli("query", "k.ns", "first.png")
    assert "view" not in ran.out.splitlines()[0] + ran.out.splitlines()[1]
    assert "pages.tif" in ran.out


def test_info_lists_what_was_not_hashed(folder, cli):
    cli("add", "k.ns", "in", "--contribution", "C")
    failed = cli("info", "k.ns", "--failures", "--json")
    (row,) = map(json.loads, failed.out.splitlines())
    assert (row["status"], row["key"], row["contribution"]) == ("failed", "in/broken.png", "C")
    both = cli("info", "k.ns", "--failures", "--skipped")
    assert "in/note.txt" in both.out
    assert both.err.startswith("1 failed, 0 damaged, 1 skipped; nearsearch add --retry-failures")
    assert cli("info", "k.ns", "--skipped").err == "1 skipped\n"
    assert "unhashed" not in cli("info", "k.ns").out
    facts = json.loads(cli("info", "k.ns", "--json").out)
    assert (facts["failed"], facts["skipped"], facts["archives"]) == (1, 1, 1)


def test_add_reads_again_what_it_is_asked_to(folder, cli):
    first = json.loads(cli("add", "k.ns", "in", "--json").out)
    assert (first["added"], first["duplicate"], first["failed"], first["skipped"]) == (2, 1, 1, 1)
    assert (first["total"], first["paths"]) == (5, 5)
    for option in ((), ("--retry-failures",), ("--check-digests",), ("--rehash",)):
        again = json.loads(cli("add", "k.ns", "in", "--json", *option).out)
        assert (again["unchanged"], again["failed"], again["generation"]) == (3, 1, 1), option
    two = cli("add", "k.ns", "in", "--rehash", "--check-digests")
    assert two.code == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--max-memory", "5x"), "--max-memory: expected bytes, such as 4096, 512K or 2G"),
        (("--max-file-size", "-1"), "--max-file-size: expected bytes"),
        (("--max-file-size", "0"), "limits: max_bytes must be above 0"),
        (("--digests", "crc"), "--digests: expected md5, sha1, both with a comma, or none"),
        (("--commit-every", "-1"), "commit_every"),
        (("--max-depth", "0"), "limits: max_depth must be above 0"),
    ],
)
def test_limits_that_cannot_be_are_refused(folder, cli, arguments, words):
    ran = cli("add", "k.ns", "in", *arguments)
    assert ran.code == 2
    assert words in ran.err
    assert not Path("k.ns").exists()


def test_limits_hold(folder, cli):
    ran = cli("add", "k.ns", "in/a.jpg", "in/z.zip", "--max-file-size", "1K")
    assert ran.code == 1
    assert ran.err.count("bytes exceed the limit of 1,024") == 2
    ran = cli("add", "k.ns", "in/z.zip", "--max-pixels", "100", "--retry-failures")
    assert "240 x 180 pixels exceed the limit of 100" in ran.err
