"""The command line from end to end: what it prints where, its exit status, and hostile names."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pytest
from PIL import Image

from nearsearch import Index, Writer, plan
from nearsearch.media.sampling import ASKED, Sampling
from nearsearch.store.manifest import FORMAT_VERSION
from nearsearch.store.schema import HIT_COLUMNS
from nearsearch.version import __version__

pytestmark = pytest.mark.timeout(120)

FORMATS = ["table", "jsonl", "csv", "arrow"]
PRINTED = (*HIT_COLUMNS, "frames", "query_share", "item_share", "speed")
TABLE_COLUMNS = ["query", "match", "distance", "chance", "key", "spec", "contribution", "source"]
CONTROLS = "\x1b\x07\x9b\u202e\r\t"
HOSTILE = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202egpj.exe"


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def folder(here, small_index):
    """Two pictures, one featureless, a cut one and a text, in ./in."""
    Path("in").mkdir()
    for name in ("a.jpg", "b.jpg", "flat.png"):
        shutil.copy(small_index.pictures / name, "in")
    Path("in/cut.jpg").write_bytes(Path("in/a.jpg").read_bytes()[:500])
    Path("in/note.txt").write_text("hello")
    return here


@pytest.fixture
def mine(here, small_index):
    """A copy of the small index that may be changed, at ./mine.ns."""
    shutil.copytree(small_index.path, "mine.ns")
    return Path("mine.ns")


def one_clear_line(err: str) -> str:
    assert err.startswith("nearsearch: error: ")
    assert err.endswith("\n")
    assert err.count("\n") == 1, err
    return err


def counts(line: str) -> dict[str, int]:
    facts = json.loads(line)
    assert facts["paths"] == facts["total"]  # no archives
    left_out = ("generation", "paths", "bytes")
    return {key: value for key, value in facts.items() if value and key not in left_out}


def table_rows(out: str) -> list[list[str]]:
    lines = [line for line in out.splitlines() if line.strip()]
    shown = [name for name in TABLE_COLUMNS if name != "chance" or name in lines[0].split()]
    assert lines[0].split() == shown  # of exact matches there is none
    assert set(lines[1].strip()) == {"─"}
    return [line.split() for line in lines[2:]]


def snapshot_of(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name != "writer.lock"
    }


# --- add --------------------------------------------------------------------------------------


def test_add_accounts_for_every_file_and_names_the_failed(folder, run_cli):
    ran = run_cli("add", "k.ns", "in", "gone.jpg", "--failures", "f.jsonl", "--contribution", "C")
    assert ran.returncode == 1
    assert ran.stdout == (
        b"6 files: 3 added, 0 replaced, 0 unchanged, 0 duplicate, 1 skipped, 2 failed"
        b"; 1 too featureless to match near (generation 1)\n"
    )
    told = sorted(ran.stderr.decode().splitlines())
    assert [line.split(": ")[:3] for line in told] == [
        ["failed", "gone.jpg", "read"],
        ["failed", "in/cut.jpg", "decode"],
        ["skipped", "1 x no known picture format"],
    ]
    listed = [json.loads(line) for line in Path("f.jsonl").read_text().splitlines()]
    listed.sort(key=lambda entry: entry["key"])
    assert [set(entry) for entry in listed] == [{"status", "key", "reason", "stage"}] * 3
    assert [(entry["status"], entry["key"], entry["stage"]) for entry in listed] == [
        ("failed", "gone.jpg", "read"),
        ("failed", "in/cut.jpg", "decode"),
        ("skipped", "in/note.txt", "sniff"),
    ]
    assert listed[0]["reason"] == "No such file or directory"
    assert listed[1]["reason"].startswith("truncated")
    with Index.open("k.ns") as index:
        assert index.stats()["members"] == 3
    assert os.stat("k.ns").st_mode & 0o777 == 0o700


def test_add_says_what_was_hashed_in_part(folder, cli):
    half = Path("half.jpg")
    half.write_bytes(Path("in/a.jpg").read_bytes()[:20_000])
    ran = cli("add", "k.ns", "half.jpg", "in/a.jpg", "--failures", "f.jsonl")
    assert ran.code == 0
    assert ran.out == (
        "2 files: 2 added, 0 replaced, 0 unchanged, 0 duplicate, 0 skipped, 0 failed"
        "; 1 hashed in part (generation 1)\n"
    )
    (line,) = ran.err.splitlines()
    assert line.startswith("damaged: half.jpg: damaged: truncated: ")
    (entry,) = [json.loads(line) for line in Path("f.jsonl").read_text().splitlines()]
    assert (entry["status"], entry["key"], entry["stage"]) == ("damaged", "half.jpg", "damaged")
    again = cli("add", "k.ns", "half.jpg", "in/a.jpg", "--json")
    assert (again.code, again.err) == (0, "")
    assert counts(again.out) == {"unchanged": 2, "damaged": 1, "total": 2}
    ran = cli("query", "k.ns", "in/a.jpg", "--format", "jsonl")
    hits = [json.loads(line) for line in ran.out.splitlines()]
    assert [(hit["match"], hit["key"]) for hit in hits] == [
        ("exact", "in/a.jpg"),
        ("near", "half.jpg"),
    ]
    assert hits[1]["problem"].startswith("damaged: truncated: ")


def test_add_again_changes_nothing_and_replaces_what_changed(folder, cli, small_index):
    os.unlink("in/cut.jpg")
    first = cli("add", "k.ns", "in", "--json")
    assert first.code == 0
    assert first.err == ""
    size = sum(path.stat().st_size for path in Path("in").iterdir())
    assert list(json.loads(first.out).items()) == [
        *(("added", 3), ("replaced", 0), ("unchanged", 0), ("duplicate", 0)),
        *(("skipped", 1), ("failed", 0), ("damaged", 0), ("featureless", 1)),
        *(("paths", 4), ("bytes", size), ("total", 4), ("generation", 1)),
    ]
    before = snapshot_of(Path("k.ns"))
    again = cli("add", "k.ns", "in", "--json")
    assert again.code == 0
    assert counts(again.out) == {"unchanged": 3, "skipped": 1, "total": 4}
    assert json.loads(again.out)["generation"] == 1
    assert json.loads(again.out)["bytes"] == size
    assert snapshot_of(Path("k.ns")) == before
    shutil.copy(small_index.pictures / "c.jpg", "in/a.jpg")
    replaced = cli("add", "k.ns", "in", "--json")
    assert counts(replaced.out) == {"replaced": 1, "unchanged": 2, "skipped": 1, "total": 4}
    assert json.loads(replaced.out)["generation"] == 2
    assert cli("query", "k.ns", "--code", small_index.codes["a.jpg"]).code == 1
    assert cli("query", "k.ns", "--code", small_index.codes["c.jpg"]).code == 0


def test_add_marks_its_files(folder, cli, small_index):
    marks = ("--contribution", "NL-0042", "--source", "NL", "--label", "x", "--label", "y z")
    assert cli("add", "k.ns", "in/a.jpg", *marks).code == 0
    hit = json.loads(
        cli("query", "k.ns", "--code", small_index.codes["a.jpg"], "--format", "jsonl").out
    )
    assert (hit["contribution"], hit["source"], hit["labels"]) == ("NL-0042", "NL", ["x", "y z"])


def test_add_passes_over_the_index_itself(folder, cli):
    assert cli("add", "in/k.ns", "in/a.jpg").code == 0
    again = cli("add", "in/k.ns", "in/a.jpg", "in/b.jpg", "in/k.ns", "--json")
    assert counts(again.out) == {"added": 1, "unchanged": 1, "total": 2}


def test_add_of_several_specs(folder, cli, small_index):
    ran = cli("add", "k.ns", "in/a.jpg", "--spec", "phash", "--spec", "pdq")
    assert ran.code == 0
    hits = cli("query", "k.ns", "in/a.jpg", "--format", "jsonl")
    assert json.loads(hits.out)["spec"] is None  # it is the same file
    code = small_index.codes["a.jpg"]
    hits = cli("query", "k.ns", "--code", code, "--spec", "pdq", "--format", "jsonl")
    assert json.loads(hits.out)["spec"] == "pdq"


def test_add_nothing_makes_an_empty_index_that_can_be_asked(here, cli, small_index):
    Path("empty").mkdir()
    assert cli("add", "k.ns", "empty").out.startswith("0 files: ")
    asked = cli("query", "k.ns", "--code", small_index.codes["a.jpg"])
    assert (asked.code, asked.out) == (1, "")
    assert cli("verify", "k.ns").code == 0
    assert cli("info", "k.ns").code == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--spec", "pqd"), "unknown spec 'pqd'"),
        (("--spec", "pdq", "--spec", "pdq"), "each spec once"),
        (("--contribution", "a\x1b[31m"), r"'a\x1b[31m'"),
        (("--label", ""), "label"),
        (("--workers", "-1"), "workers"),
        (("--timeout", "0"), "seconds"),
        (("--timeout", "nan"), "seconds"),
        (("--max-pixels", "-5"), "max_pixels"),
        (("--failures", "no/such/folder/f.jsonl"), "no/such/folder/f.jsonl"),
    ],
    ids=str,
)
def test_add_refuses_before_any_work(folder, cli, arguments, words):
    ran = cli("add", "k.ns", "in/a.jpg", *arguments)
    assert ran.code == 2
    assert words in one_clear_line(ran.err)
    assert ran.out == ""
    assert not Path("k.ns").exists()


def test_add_refuses_what_is_no_index(folder, cli):
    before = snapshot_of(Path("in"))
    for wrong in ("in", "in/a.jpg"):
        ran = cli("add", wrong, "in/b.jpg")
        assert ran.code == 2
        assert f"{wrong} exists and is not a nearsearch index" in one_clear_line(ran.err)
    assert snapshot_of(Path("in")) == before


def test_the_interval_that_is_told_is_the_usual_one(cli):
    for command, usual in (("add", Sampling()), ("hash", Sampling()), ("query", ASKED)):
        told = " ".join(cli(command, "--help").out.split())
        assert f"one in S seconds; default {usual.interval_ms / 1000:g}" in told


# --- query ------------------------------------------------------------------------------------


def test_query_prints_a_table_and_talks_elsewhere(small_index, run_cli):
    ran = run_cli("query", small_index.path, "a.jpg", "d.jpg", cwd=small_index.pictures)
    assert ran.returncode == 0
    first, second, third = table_rows(ran.stdout.decode())
    # What is found by its digest is the file, not one of its codes: no chance, and no spec.
    assert first == ["a.jpg", "exact", "0", "0", "a.jpg", "alpha", "NL"]
    assert second[:2] == ["a.jpg", "near"]
    assert 0 < float(second[3]) < 1e-8
    assert second[4:] == ["again.jpg", "pdq", "beta", "DE"]
    assert 0 < int(second[2]) <= 31
    assert third == ["d.jpg", "exact", "0", "0", "d.jpg", "beta", "DE"]
    assert ran.stderr == b"3 matches (3 members) for 2 of 2 queries (pdq, generation 2)\n"


def test_query_that_finds_nothing(small_index, cli, run_cli):
    ask = ("query", small_index.path, "--code", "01" * 32, "--format")
    said = "0 matches (0 members) for 0 of 1 queries (pdq, generation 2)\n"
    assert cli(*ask, "table") == (1, "", said)
    assert cli(*ask, "jsonl") == (1, "", said)
    assert cli(*ask, "csv") == (1, ",".join(PRINTED) + "\r\n", said)
    ran = run_cli(*ask, "arrow")
    assert (ran.returncode, ran.stderr.decode()) == (1, said)
    assert pa.ipc.open_stream(ran.stdout).read_all().num_rows == 0


def test_query_of_files_that_cannot_be_asked(folder, small_index, cli):
    ran = cli("query", small_index.path, "in/a.jpg", "in/cut.jpg", "gone.jpg", "in", "in/note.txt")
    assert ran.code == 2
    assert len(table_rows(ran.out)) == 2
    *told, summary = ran.err.splitlines()
    assert [line.split(": ")[:2] for line in told] == [
        ["failed", "in/cut.jpg"],
        ["failed", "gone.jpg"],
        ["skipped", "in"],
        ["skipped", "in/note.txt"],
    ]
    assert told[1].endswith("No such file or directory")
    assert told[2].endswith("not a regular file")
    assert summary == "2 matches (2 members) for 1 of 5 queries (pdq, generation 2)"


def test_query_with_codes(small_index, cli):
    a, d = small_index.codes["a.jpg"], small_index.codes["d.jpg"]
    ran = cli("query", small_index.path, "--code", d, "--code", a.upper(), "--radius", 0)
    assert ran.code == 0
    assert [[*row[:3], *row[4:]] for row in table_rows(ran.out)] == [
        [d, "near", "0", "d.jpg", "pdq", "beta", "DE"],
        [a, "near", "0", "a.jpg", "pdq", "alpha", "NL"],
    ]


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("zz" * 32, "not hex"),
        ("ab" * 31, "got 248 bits"),
        ("", "got 0 bits"),
        ("a" * 63, "not hex"),
    ],
)
def test_query_with_bad_codes(small_index, cli, code, words):
    ran = cli("query", small_index.path, "--code", code)
    assert ran.code == 2
    assert words in one_clear_line(ran.err)
    assert "expected 256 bits" in ran.err
    assert ran.out == ""


def keys(ran) -> list[str]:
    return [json.loads(line)["key"] for line in ran.out.splitlines()]


def test_query_where_limit_and_radius(small_index, cli):
    ask = ("query", small_index.path, "--code", small_index.codes["a.jpg"], "--format", "jsonl")
    assert keys(cli(*ask)) == ["a.jpg", "again.jpg"]
    assert keys(cli(*ask, "--where", 'contribution == "beta"')) == ["again.jpg"]
    assert keys(cli(*ask, "--where", '"urgent" in labels')) == ["a.jpg"]
    assert keys(cli(*ask, "--limit", 1)) == ["a.jpg"]
    assert keys(cli(*ask, "--limit", 1, "--where", 'source != "NL"')) == ["again.jpg"]
    assert keys(cli(*ask, "--radius", 0)) == ["a.jpg"]
    everything = cli(*ask, "--radius", 256, "--min-quality", 0)
    assert sorted(keys(everything)) == sorted(small_index.codes)
    none = cli(*ask, "--where", 'contribution == "gamma"')
    assert (none.code, none.out) == (1, "")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--where", 'colour == "red"'), ("no column 'colour'", "contribution", "item_id")),
        (("--where", 'source = "NL"'), ("cannot read the filter", "write for instance")),
        (("--where", ""), ("cannot read the filter", "empty")),
        (("--where", "source == '\x1b[2J"), ("cannot read the filter", r"\x1b[2J")),
        (("--radius", "257"), ("radius", "0 to 256", "257")),
        (("--radius", "-1"), ("radius", "0 to 256", "-1")),
        (("--limit", "0"), ("limit", "got 0")),
        (("--min-quality", "101"), ("min_quality", "0 to 100", "101")),
        (("--spec", "phash"), ("phash", "pdq", "hash the query under a spec of the index")),
        (("--spec", "nope"), ("unknown spec 'nope'",)),
    ],
    ids=str,
)
def test_query_refuses_what_cannot_be_meant(small_index, cli, arguments, words):
    ran = cli("query", small_index.path, "--code", small_index.codes["a.jpg"], *arguments)
    assert ran.code == 2
    one_clear_line(ran.err)
    assert [word for word in words if word not in ran.err] == []
    assert ran.out == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ("INDEX", "a.jpg", "--format", "jsonl"),
        ("INDEX", "--format", "jsonl", "a.jpg"),
        ("--format", "jsonl", "INDEX", "a.jpg"),
        ("--format", "jsonl", "INDEX", "--", "a.jpg"),
        ("INDEX", "--format", "jsonl", "--", "a.jpg"),
        ("INDEX", "a.jpg", "--format", "jsonl", "b.jpg", "--", "d.jpg"),
    ],
    ids=" ".join,
)
def test_options_may_stand_anywhere(small_index, cli, monkeypatch, arguments):
    monkeypatch.chdir(small_index.pictures)
    words = [small_index.path if word == "INDEX" else word for word in arguments]
    ran = cli("query", "--radius", "0", *words)
    assert ran.code == 0, ran.err
    assert keys(ran) == [word for word in arguments if word.endswith(".jpg")]


def test_query_of_nothing(small_index, cli):
    ran = cli("query", small_index.path)
    assert ran.code == 2
    assert "nothing to ask" in one_clear_line(ran.err)


def test_featureless_pictures_match_by_digest_or_on_request(small_index, here, cli):
    flat = here / "flat.bmp"
    Image.open(small_index.pictures / "flat.png").save(flat)
    ran = cli("query", small_index.path, flat)
    assert (ran.code, ran.out) == (1, "")
    told, summary = ran.err.splitlines()
    assert told.startswith(f"not asked: {flat}: featureless: quality ")
    assert summary == "0 matches (0 members) for 0 of 1 queries (pdq, generation 2)"
    same = shutil.copy(small_index.pictures / "flat.png", "same.png")
    ran = cli("query", small_index.path, same)
    assert ran.code == 0
    assert table_rows(ran.out) == [["same.png", "exact", "0", "flat.png", "beta", "DE"]]
    told, summary = ran.err.splitlines()
    assert told.startswith("not asked: same.png: featureless: quality ")
    assert summary == "1 matches (1 members) for 1 of 1 queries (pdq, generation 2)"
    ran = cli("query", small_index.path, flat, "--min-quality", "0", "--format", "jsonl")
    assert ran.code == 0
    assert keys(ran) == ["flat.png"]
    assert json.loads(ran.out)["match"] == "near"


def read_line(process: subprocess.Popen[bytes], seconds: float = 30) -> bytes:
    line = b""
    deadline = time.monotonic() + seconds
    while not line.endswith(b"\n"):
        ready, _, _ = select.select([process.stdout], [], [], max(0, deadline - time.monotonic()))
        assert ready, "no answer in time"
        piece = os.read(process.stdout.fileno(), 1)
        assert piece, process.stderr.read().decode()
        line += piece
    return line


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_each_line_of_standard_input_is_answered_before_the_next(small_index, start_cli, form):
    process = start_cli(
        *("query", small_index.path, "-", "--format", form, "--radius", "0"),
        stdin=subprocess.PIPE,
        bufsize=0,
        cwd=small_index.pictures,
    )
    answers = []
    for name in (b"a.jpg", b"d.jpg", b"a.jpg"):
        process.stdin.write(name + b"\n")
        if form == "csv" and not answers:
            assert read_line(process).decode().strip() == ",".join(PRINTED)
        line = read_line(process).decode()
        answers.append(json.loads(line)["key"] if form == "jsonl" else line.split(",")[5])
    assert answers == ["a.jpg", "d.jpg", "a.jpg"]
    process.stdin.close()
    assert process.wait(30) == 0
    assert process.stdout.read() == b""
    assert process.stderr.read().decode().splitlines() == [
        f"{n} matches ({n} members) for {n} of {n} queries (pdq, generation 2)" for n in (1, 2, 3)
    ]


def test_standard_input_may_hold_any_name(small_index, here, run_cli):
    name = b"caf\xe9 \x1b[2J.jpg"
    shutil.copy(small_index.pictures / "b.jpg", name)
    lines = b"\n" + name + b"\r\ngone\xff.jpg\n\nnull\0byte\n" + name
    ran = run_cli("query", small_index.path, "-", "--format", "jsonl", input=lines)
    assert ran.returncode == 2
    hits = [json.loads(line) for line in ran.stdout.splitlines()]
    assert [hit["key"] for hit in hits] == ["b.jpg"] * 2
    assert hits[0]["query"] == "caf\\xe9 \x1b[2J.jpg"
    assert b"\x1b" not in ran.stderr
    failed = [line for line in ran.stderr.splitlines() if line.startswith(b"failed")]
    assert len(failed) == 2
    assert failed[0] == rb"failed: gone\xff.jpg: No such file or directory"


# --- formats ----------------------------------------------------------------------------------


NASTY = ["=cmd.jpg", "+1.jpg", "-2.jpg", "@x.jpg", "\tt.jpg", "\rr.jpg", 'q",\n.jpg', HOSTILE]


@pytest.fixture(scope="module")
def hostile(tmp_path_factory, small_index):
    """An index of one picture under names that attack whatever prints them."""
    root = tmp_path_factory.mktemp("hostile")
    with contextlib.chdir(root), Writer.open("h.ns", create=True) as writer:
        for name in NASTY:
            shutil.copy(small_index.pictures / "a.jpg", name)
        report = writer.add_files(NASTY, contribution="=C")
        assert (report.added, report.duplicate) == (1, len(NASTY) - 1)
    return root / "h.ns"


@pytest.fixture
def ask_hostile(hostile, small_index, cli):
    def ask(form):
        ran = cli("query", hostile, "--code", small_index.codes["a.jpg"], "--format", form)
        assert ran.code == 0
        return ran.out

    return ask


def test_jsonl_gives_every_column_as_it_is(ask_hostile, small_index):
    out = ask_hostile("jsonl")
    assert out.isascii()
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["key"] for row in rows] == sorted(NASTY)
    assert all(tuple(row) == PRINTED for row in rows)
    row = rows[0]
    data = (small_index.pictures / "a.jpg").read_bytes()
    for name in ("md5", "sha1", "sha256"):
        assert row[name] == hashlib.new(name, data).hexdigest()
    assert row["item_id"] == row["sha256"]
    assert (row["match"], row["size"], row["problem"]) == ("near", len(data), None)
    assert (row["kind"], row["format"], row["width"], row["height"]) == ("image", "JPEG", 240, 180)
    assert (row["distance"], row["quality"], row["labels"]) == (0, 100, [])
    assert (row["view"], row["time_ms"]) == ("image", None)
    assert row["added_at"].startswith("2")
    assert row["mtime_ns"] > 1e18


def test_csv_is_safe_to_open_in_a_spreadsheet(ask_hostile):
    header, *rows = csv.reader(io.StringIO(ask_hostile("csv"), newline=""))
    assert tuple(header) == PRINTED
    assert all(len(row) == len(header) for row in rows)
    found = [row[header.index("key")] for row in rows]
    assert found == [("'" + name) if name[0] in "=+-@\t\r" else name for name in sorted(NASTY)]
    assert {row[header.index("contribution")] for row in rows} == {"'=C"}
    assert {row[header.index("distance")] for row in rows} == {"0"}
    assert {row[header.index("time_ms")] for row in rows} == {""}


def test_arrow_is_one_stream_of_all_answers(small_index, run_cli):
    names = b"a.jpg\nd.jpg\nflat.png\nb.jpg\n"
    ran = run_cli(
        *("query", small_index.path, "-", "--format", "arrow"),
        input=names,
        cwd=small_index.pictures,
    )
    assert ran.returncode == 0
    table = pa.ipc.open_stream(ran.stdout).read_all()
    assert tuple(table.schema.names) == PRINTED
    assert table["key"].to_pylist() == ["a.jpg", "again.jpg", "d.jpg", "flat.png", "b.jpg"]
    assert table["contribution"].to_pylist() == ["alpha", "beta", "beta", "beta", "alpha"]
    assert table["query"].to_pylist() == ["a.jpg", "a.jpg", "d.jpg", "flat.png", "b.jpg"]
    assert table["match"].to_pylist() == ["exact", "near", "exact", "exact", "exact"]
    assert table["distance"].type == pa.uint16()
    distance = table["distance"].to_pylist()
    assert distance == [0, distance[1], 0, 0, 0]


def test_queries_are_numbered_through(small_index, run_cli):
    ran = run_cli(
        *("query", small_index.path, "-", "b.jpg", "--code", small_index.codes["c.jpg"]),
        *("--radius", "0", "--format", "jsonl"),
        input=b"a.jpg\nflat.png\nd.jpg\n",
        cwd=small_index.pictures,
    )
    hits = [json.loads(line) for line in ran.stdout.splitlines()]
    numbers = {hit["key"]: hit["query_index"] for hit in hits}
    assert len(hits) == len(numbers) == 5
    assert numbers == {"c.jpg": 0, "a.jpg": 1, "flat.png": 2, "d.jpg": 3, "b.jpg": 4}


def test_arrow_and_csv_without_any_query_can_still_be_read(small_index, run_cli):
    ran = run_cli("query", small_index.path, "-", "--format", "arrow", input=b"")
    assert ran.returncode == 1
    assert pa.ipc.open_stream(ran.stdout).read_all().num_rows == 0
    ran = run_cli("query", small_index.path, "-", "--format", "csv", input=b"")
    assert ran.stdout.decode().strip() == ",".join(PRINTED)


def test_tables_hold_hostile_names_in_one_line_each(ask_hostile):
    out = ask_hostile("table")
    assert len(table_rows(out)) == len(NASTY)
    assert set(out) & set(CONTROLS) == set()
    assert r"\x1b]0;owned\x07\x1b[2J\x9b31m\u202egpj.exe" in out
    assert r'q",\n.jpg' in out


def test_tables_in_a_pipe_are_not_cut_or_folded(here, small_index, cli, monkeypatch):
    deep = "/".join("n" * 200 for _ in range(8)) + "/a.jpg"
    Path(deep).parent.mkdir(parents=True)
    shutil.copy(small_index.pictures / "a.jpg", deep)
    monkeypatch.setenv("COLUMNS", "20")
    assert cli("add", "k.ns", deep).code == 0
    ran = cli("query", "k.ns", deep)
    ((query, match, distance, key, *_),) = table_rows(ran.out)
    assert (query, match, distance, key) == (deep, "exact", "0", deep)


@pytest.mark.parametrize("forced", [False, True], ids=["pipe", "pipe-in-colour"])
def test_a_table_in_a_pipe_is_as_wide_as_it_must_be(capsys, monkeypatch, forced):
    from nearsearch.cli.output import print_table

    if forced:
        monkeypatch.setenv("FORCE_COLOR", "1")
    print_table(["query", "key"], [["\x01" * 4000, "k" * 4000]])
    out = capsys.readouterr().out
    assert r"\x01" * 4000 in out
    assert "k" * 4000 in out


def test_output_that_is_not_utf8_holds_any_name(here, small_index, run_cli, cli_environment):
    shutil.copy(small_index.pictures / "a.jpg", "日本.jpg")
    ascii_only = {**cli_environment, "PYTHONIOENCODING": "ascii"}
    for form in ("table", "csv"):
        ran = run_cli("query", small_index.path, "日本.jpg", "--format", form, env=ascii_only)
        assert ran.returncode == 0, ran.stderr.decode()
        assert b"a.jpg" in ran.stdout


# --- names ------------------------------------------------------------------------------------

LONGEST = b"x" * 251 + b".jpg"
NAMES = [
    b"new\nline.jpg",
    b"\x1b[31mred\x1b[0m.jpg",
    b"caf\xe9.jpg",
    b"-dash.jpg",
    LONGEST,
    "日本 \u202e.jpg".encode(),
]
KEYS = ["new\nline.jpg", "\x1b[31mred\x1b[0m.jpg", r"caf\xe9.jpg", "-dash.jpg", LONGEST.decode()]
KEYS.append("日本 \u202e.jpg")


def test_any_name_can_be_added_asked_and_found(here, small_index, cli):
    for number, name in enumerate(NAMES):
        shutil.copy(small_index.pictures / f"{'abcd'[number % 4]}.jpg", name)
    ran = cli("add", "k.ns", "--json", "--", *NAMES)
    assert (ran.code, ran.err) == (0, "")
    assert counts(ran.out) == {"added": 4, "duplicate": 2, "total": 6}
    ran = cli("query", "--radius", "0", "--format", "jsonl", "--", "k.ns", *NAMES)
    assert ran.code == 0, ran.err
    hits = [json.loads(line) for line in ran.out.splitlines()]
    pairs = {(hit["query"], hit["key"]) for hit in hits}
    same = [{0, 4}, {1, 5}, {2}, {3}]
    assert pairs == {(KEYS[one], KEYS[other]) for group in same for one in group for other in group}
    ran = cli("query", "--radius", "0", "--", "k.ns", *NAMES)
    assert ran.code == 0
    assert len(table_rows(ran.out)) == len(pairs)
    assert set(ran.out + ran.err) & set(CONTROLS) == set()


def test_any_name_can_fail(here, run_cli):
    names = [*NAMES, b"y" * 300]
    with Writer.open("empty.ns", create=True):
        pass
    ran = run_cli("query", "--", "empty.ns", *names)
    assert ran.returncode == 2
    assert ran.stderr.count(b"\n") == len(names) + 1
    assert set(ran.stderr.decode()) & set(CONTROLS) == set()
    for text in (rb"new\nline.jpg", rb"\x1b[31mred", rb"caf\xe9.jpg", rb"\u202e"):
        assert text in ran.stderr
    ran = run_cli("add", "k.ns", "--failures", "f", "--", *names)
    assert ran.returncode == 1
    assert ran.stderr.count(b"\n") == len(names)
    assert b"File name too long" in ran.stderr
    assert set(ran.stderr.decode()) & set(CONTROLS) == set()
    listed = [json.loads(line)["key"] for line in Path("f").read_text().splitlines()]
    assert listed == [*KEYS, "y" * 300]


def test_reasons_cannot_steer_the_terminal_either(folder, small_index, cli, monkeypatch):
    """They may quote what a file holds."""
    command = """
import json, sys
print('{"status": "ready", "version": "%s"}', flush=True)
for line in sys.stdin:
    print(json.dumps({"status": "failed", "reason": "tag \\x1b[2J\\n", "stage": "decode"}))
    sys.stdout.flush()
"""
    monkeypatch.setattr("nearsearch.workers._COMMAND", command.replace("%s", __version__))
    assert cli("query", small_index.path, "in/a.jpg").err.splitlines()[0] == (
        r"failed: in/a.jpg: tag \x1b[2J\n"
    )
    assert cli("add", "k.ns", "in/a.jpg").err == "failed: in/a.jpg: decode: tag \\x1b[2J\\n\n"


def test_a_name_taken_for_an_option_cannot_steer_the_terminal(small_index, cli):
    ran = cli("query", small_index.path, f"-{HOSTILE}")
    assert ran.code == 2
    assert set(ran.err) & set(CONTROLS) == set()


@pytest.mark.parametrize("path", [f"gone{HOSTILE}", os.fsdecode(b"gone\xff\x1b[2J")])
def test_an_index_path_cannot_steer_the_terminal(here, cli, path):
    ran = cli("info", path)
    assert ran.code == 2
    one_clear_line(ran.err)
    assert "\x1b" not in ran.err


def on_terminal(arguments: list[str], environment: dict[str, str]) -> tuple[int, bytes]:
    """Run the command line on a terminal of its own; return its status and all it printed."""
    ours, its = pty.openpty()
    command = [sys.executable, "-m", "nearsearch", *arguments]
    with subprocess.Popen(
        command, stdin=its, stdout=its, stderr=its, env={**environment, "TERM": "xterm"}
    ) as process:
        os.close(its)
        printed = b""
        while True:
            try:
                piece = os.read(ours, 1 << 16)
            except OSError:  # the other side is closed
                break
            if not piece:
                break
            printed += piece
        os.close(ours)
        return process.wait(30), printed


@pytest.mark.parametrize("form", ["table", "jsonl", "csv"])
def test_hits_on_a_terminal(hostile, small_index, cli_environment, form):
    code = small_index.codes["a.jpg"]
    arguments = ["query", str(hostile), "--code", code, "--format", form]
    status, printed = on_terminal(arguments, cli_environment)
    assert status == 0
    assert b"cmd.jpg" in printed
    for attack in (b"\x1b]0;", b"\x1b[2J", b"\x07", "\x9b".encode(), "\u202e".encode()):
        assert attack not in printed


def test_add_and_verify_on_a_terminal(folder, cli_environment):
    Path(f"in/{HOSTILE}.jpg").write_text("no picture")
    status, printed = on_terminal(["add", "k.ns", "in"], cli_environment)
    assert status == 1
    account = b"6 files: 3 added, 0 replaced, 0 unchanged, 0 duplicate, 1 skipped, 2 failed"
    assert account in printed
    for attack in (b"\x1b]0;", b"\x07", "\x9b".encode(), "\u202e".encode()):
        assert attack not in printed
    status, printed = on_terminal(["verify", "k.ns"], cli_environment)
    assert status == 0
    assert b"sound" in printed


def test_arrow_is_not_for_terminals(small_index, cli_environment):
    arguments = ["query", str(small_index.path), "--code", "00" * 32, "--format", "arrow"]
    status, printed = on_terminal(arguments, cli_environment)
    assert status == 2
    assert b"--format arrow is binary" in printed


# --- info and verify --------------------------------------------------------------------------


def test_info(small_index, cli):
    ran = cli("info", small_index.path, "--json")
    assert (ran.code, ran.err) == (0, "")
    facts = json.loads(ran.out)
    with Index.open(small_index.path) as index:
        assert facts == index.stats()
    assert (facts["generation"], facts["items"], facts["members"]) == (2, 6, 6)
    assert facts["contributions"] == 2
    assert facts["specs"]["pdq"]["rows"] == 6
    assert facts["specs"]["pdq"]["featureless_rows"] == 1
    assert facts["specs"]["pdq"]["default_radius"] == 31
    assert set(HIT_COLUMNS) <= facts["columns"].keys()
    ran = cli("info", small_index.path)
    assert (ran.code, ran.err) == (0, "")
    lines = {tuple(line.split()) for line in ran.out.splitlines()}
    assert {("generation", "2"), ("members", "6"), ("path", str(small_index.path))} <= lines
    assert ("pdq", "6", "6", "1", "31", "1", "luma-2048") in lines
    assert ("key", "large_string") in lines


def test_verify_of_a_sound_index(small_index, cli):
    assert cli("verify", small_index.path) == (0, "sound: every file is as it was written\n", "")
    ran = cli("verify", small_index.path, "--json")
    assert ran.code == 0
    assert json.loads(ran.out) == {"sound": True, "damage": []}


def live_files(root: Path, suffix: str) -> list[Path]:
    """The files of the live generation; those of earlier ones lie beside them."""
    manifest = json.loads((root / (root / "CURRENT").read_text().split()[1]).read_text())
    names = [file["name"] for shard in manifest["shards"] for file in shard["files"].values()]
    return [root / name for name in names if name.endswith(suffix)]


def test_compact(small_index, mine, cli, monkeypatch):
    for name in ("SMALL_SHARD", "MOST_MERGED_AT_COMMIT", "MOST_MERGED"):
        monkeypatch.setattr(plan, name, 0)  # so that a small commit is a shard of its own
    cli("add", mine, small_index.pictures / "a.jpg", "--contribution", "gamma")
    ask = ("query", mine, "--code", small_index.codes["a.jpg"], "--format", "jsonl")
    answer = cli(*ask).out
    ran = cli("compact", mine)
    assert (ran.code, ran.err) == (0, "")
    assert re.fullmatch(r"2 shards became 1: generation 4, 6 items, \d+\.\d s\n", ran.out)
    assert cli("compact", mine).out == "nothing to do: generation 4, 6 items\n"
    ran = cli("compact", mine, "--json")
    facts = json.loads(ran.out)
    assert facts.pop("seconds") >= 0
    assert facts == {"generation": 4, "shards_before": 1, "shards": 1, "items": 6}
    assert cli("verify", mine).code == 0
    assert cli(*ask).out == answer.replace('"generation": 3', '"generation": 4') != ""
    assert cli("compact", "nowhere.ns").code == 2


def test_a_lost_ring_is_one_warning_and_compact_builds_it_anew(mine, cli, run_cli, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(plan, "MIN_RING_CODES", 1)
        cli("compact", mine)
    next(mine.rglob("*.ring.offsets.npy")).unlink()
    ran = run_cli("info", str(mine))
    assert ran.returncode == 0
    assert b"found no file" in ran.stderr
    warning = one_clear_line(ran.stderr.decode().replace("warning", "error"))
    assert warning.endswith(f"compact {mine}\n")
    ran = run_cli("verify", str(mine))
    assert ran.returncode == 2
    assert ran.stderr.decode().splitlines()[-1] == f"1 problems: nearsearch compact {mine}"
    ran = run_cli("compact", str(mine))
    assert ran.stdout.startswith(b"1 shard written anew: generation 4, ")
    (left,) = cli("verify", mine).out.splitlines()
    assert left.endswith("(costs generation 3, which is kept; nothing of today's)")


def test_verify_names_what_is_damaged(mine, cli):
    (damaged,) = live_files(mine, ".faiss")
    data = bytearray(damaged.read_bytes())
    data[-1] ^= 1
    damaged.chmod(0o600)
    damaged.write_bytes(data)
    ran = cli("verify", mine)
    assert ran.code == 2
    assert ran.out.startswith(f"{damaged}: its SHA-256 is not the one it was written with (costs ")
    assert ran.err == "1 problems: restore from a copy, or nearsearch repair\n"
    ran = cli("verify", mine, "--json")
    assert ran.code == 2
    report = json.loads(ran.out)
    assert not report["sound"]
    assert [entry["path"] for entry in report["damage"]] == [str(damaged)]


# --- an index that cannot be used -------------------------------------------------------------


def every_command(path: object, code: str) -> list[tuple]:
    return [("query", path, "--code", code), ("info", path), ("verify", path), ("compact", path)]


def test_no_index_there(here, small_index, cli):
    for command in every_command("gone.ns", small_index.codes["a.jpg"]):
        ran = cli(*command)
        assert (ran.code, ran.out) == (2, "")
        line = one_clear_line(ran.err)
        assert "no index at gone.ns: there is no such directory" in line
        assert "`nearsearch add` creates one" in line


def test_a_directory_that_is_no_index(small_index, cli):
    for command in every_command(small_index.pictures, small_index.codes["a.jpg"]):
        ran = cli(*command)
        assert (ran.code, ran.out) == (2, "")
        assert "it has no file CURRENT" in one_clear_line(ran.err)


def test_a_file_that_is_no_index(small_index, cli):
    for command in every_command(small_index.pictures / "a.jpg", small_index.codes["a.jpg"]):
        ran = cli(*command)
        assert (ran.code, ran.out) == (2, "")
        assert "no index at" in one_clear_line(ran.err)


def test_an_index_of_a_later_format(mine, small_index, cli):
    manifest = max(mine.glob("manifest-*.json"))
    text = manifest.read_text()
    text = text.replace(f'"format_version": {FORMAT_VERSION}', '"format_version": 99')
    body = text.rpartition(',\n"checksum"')[0]
    text = f'{body},\n"checksum": "{hashlib.sha256(body.encode()).hexdigest()}"}}\n'
    manifest.write_text(text)
    digest = hashlib.sha256(text.encode()).hexdigest()
    (mine / "CURRENT").write_text(f"{digest}  {manifest.name}\n")
    picture = small_index.pictures / "a.jpg"
    for command in [*every_command(mine, small_index.codes["a.jpg"]), ("add", mine, picture)]:
        ran = cli(*command)
        assert (ran.code, ran.out) == (2, "")
        line = one_clear_line(ran.err)
        assert f"format_version 99, this version reads up to {FORMAT_VERSION}" in line
        assert "upgrade nearsearch" in line


def test_a_damaged_index(mine, small_index, cli):
    (mine / "CURRENT").write_text("garbage \x1b[2J")
    commands = every_command(mine, small_index.codes["a.jpg"])
    for command in (commands[0], commands[1], ("add", mine, small_index.pictures)):
        ran = cli(*command)
        assert (ran.code, ran.out) == (2, "")
        assert "expected the name of a manifest" in one_clear_line(ran.err)
        assert "\x1b" not in ran.err
    ran = cli("verify", mine)
    assert ran.code == 2
    assert "CURRENT" in ran.out
    assert "\x1b" not in ran.out


@pytest.mark.parametrize("suffix", [".faiss", "items.arrow", "members.arrow"])
def test_a_file_cut_short(mine, small_index, cli, suffix):
    (victim,) = live_files(mine, suffix)
    victim.chmod(0o600)
    os.truncate(victim, victim.stat().st_size - 8)
    ran = cli("query", mine, "--code", small_index.codes["a.jpg"])
    assert (ran.code, ran.out) == (2, "")
    assert victim.name in one_clear_line(ran.err)
    assert cli("verify", mine).code == 2


def test_an_index_that_another_process_writes(mine, small_index, cli):
    holder = subprocess.Popen(
        [
            *(sys.executable, "-c"),
            "import sys; from nearsearch import Writer; w = Writer.open('mine.ns');"
            "print('locked', flush=True); sys.stdin.read(); w.close()",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with holder:
        assert holder.stdout.readline() == b"locked\n"
        ran = cli("add", mine, small_index.pictures / "a.jpg")
        assert (ran.code, ran.out) == (2, "")
        line = one_clear_line(ran.err)
        assert f"mine.ns is being written by process {holder.pid} on " in line
        assert "readers are not affected" in line
        assert cli("query", mine, "--code", small_index.codes["a.jpg"]).code == 0
        holder.stdin.close()
        assert holder.wait(30) == 0
    assert cli("add", mine, small_index.pictures / "a.jpg").code == 0


# --- help -------------------------------------------------------------------------------------

COMMANDS = ["add", "query", "info", "verify", "compact"]


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_help(cli, command):
    ran = cli(*([command] if command else []), "-h")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith(f"usage: nearsearch {command or '[-h]'}")
    assert "exit status: 0" in ran.out or command in ("info", "compact")


def test_every_argument_of_every_command_is_explained():
    from nearsearch.cli import build_parser

    (commands,) = (a for a in build_parser()._actions if type(a).__name__ == "_SubParsersAction")
    assert set(COMMANDS) <= set(commands.choices)
    unexplained = [
        (name, action.dest)
        for name, parser in commands.choices.items()
        for action in parser._actions
        if not action.help
    ]
    assert unexplained == []


def test_version_and_wrong_usage(cli):
    from nearsearch import __version__

    assert cli("--version") == (0, f"nearsearch {__version__}\n", "")
    for wrong in ((), ("nope",), ("add", "k.ns"), ("query",), ("query", "k", "--radius", "x")):
        ran = cli(*wrong)
        assert (ran.code, ran.out) == (2, "")
        assert ran.err.startswith("usage: nearsearch")


# --- a reader that leaves, a disk that is full, Ctrl-C ----------------------------------------


@pytest.fixture
def no_reader():
    """The writing end of a pipe that nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    yield writing
    os.close(writing)


def output_commands(index: Path, code: str) -> list[list[str]]:
    name = str(index)
    asks = [["query", name, "--code", code, "--format", form] for form in FORMATS]
    info = [["info", name], ["info", name, "--json"]]
    return [*asks, *info, ["verify", name], ["verify", name, "--json"]]


@pytest.mark.parametrize("number", range(8))
def test_output_that_nobody_reads_is_no_error(small_index, run_cli, no_reader, number):
    command = output_commands(small_index.path, small_index.codes["a.jpg"])[number]
    ran = run_cli(*command, stdout=no_reader)
    assert ran.returncode == 0
    assert b"Traceback" not in ran.stderr
    assert b"Exception ignored" not in ran.stderr
    assert b"rror" not in ran.stderr


@pytest.mark.parametrize("number", [0, 1, 4, 5, 6])
def test_output_that_does_not_fit_is_an_error(small_index, run_cli, number):
    command = output_commands(small_index.path, small_index.codes["a.jpg"])[number]
    with Path("/dev/full").open("wb") as full:
        ran = run_cli(*command, stdout=full)
    assert ran.returncode == 2
    last = ran.stderr.decode().splitlines()[-1]
    assert last == "nearsearch: error: [Errno 28] No space left on device"
    assert b"Traceback" not in ran.stderr


@pytest.mark.parametrize("form", FORMATS)
def test_a_reader_that_leaves_after_the_first_line(small_index, start_cli, form):
    codes = ["--code", small_index.codes["a.jpg"]] * 400  # more than a pipe holds
    process = start_cli("query", small_index.path, *codes, "--format", form)
    assert process.stdout.readline()
    process.stdout.close()
    err = process.stderr.read()
    assert process.wait(30) == 0
    assert b"Traceback" not in err
    assert b"Exception ignored" not in err


def start_long_add(start_cli, small_index) -> subprocess.Popen[bytes]:
    """Start to add files for longer than any test waits; return once hashing has begun."""
    shutil.copytree(small_index.pictures, "many")
    for number in range(4000):
        os.link("many/a.jpg", f"many/{number:04}.jpg")
    patch = (
        "import nearsearch.session as w; m = w.WorkerPool.map;"
        "w.WorkerPool.map = lambda *x, **named: ("
        "(sys.stderr.write('hashed' + chr(10)), y)[1] for y in m(*x, **named))"
    )
    process = start_cli("add", "mine.ns", "many", patch=patch)
    for _ in range(10):
        assert process.stderr.readline() == b"hashed\n"
    return process


@pytest.mark.parametrize("whole_group", [True, False], ids=["terminal", "kill"])
def test_ctrl_c_leaves_the_index_as_it_was(mine, small_index, start_cli, processes, whole_group):
    before = snapshot_of(mine)
    process = start_long_add(start_cli, small_index)
    assert len(processes(process.pid)) > 1
    (os.killpg if whole_group else os.kill)(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert out == b""
    said = err.decode().replace("hashed\n", "")
    assert said == "nearsearch: interrupted; what was committed is kept, the rest is not\n"
    assert processes(process.pid) == []
    assert snapshot_of(mine) == before
    with Writer.open(mine) as writer:  # not locked
        assert writer.generation == 2


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_add_leaves_the_index_as_it_was(
    mine, small_index, start_cli, processes, signal_number
):
    before = snapshot_of(mine)
    process = start_long_add(start_cli, small_index)
    process.send_signal(signal_number)
    process.communicate(timeout=30)
    assert processes(process.pid, within=10) == []
    assert snapshot_of(mine) == before
    with Writer.open(mine) as writer:
        assert writer.generation == 2


def test_ctrl_c_in_the_first_add_leaves_nothing(here, small_index, start_cli):
    process = start_long_add(start_cli, small_index)
    assert Path("mine.ns").is_dir()
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130
    assert not Path("mine.ns").exists()


def test_ctrl_c_in_a_query(small_index, start_cli, processes):
    process = start_cli(
        *("query", small_index.path, "-", "--format", "jsonl"),
        stdin=subprocess.PIPE,
        bufsize=0,
        cwd=small_index.pictures,
    )
    process.stdin.write(b"d.jpg\n")
    assert json.loads(read_line(process))["key"] == "d.jpg"
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err.decode().splitlines()[-1] == "nearsearch: interrupted"
    assert b"Traceback" not in err
    assert processes(process.pid) == []


def test_hits_of_long_files_are_not_held_back_by_many(tmp_path, monkeypatch):
    from nearsearch.cli import query

    monkeypatch.setattr(query.os, "sched_getaffinity", lambda _: {0, 1})
    names = [str(tmp_path / str(number)) for number in range(150)]
    for name in names:
        Path(name).touch()
    assert [len(call) for call in query._calls(names)] == [64, 64, 22]
    os.truncate(names[1], query._BYTES_A_CALL + 1)
    calls = list(query._calls(["nowhere", "\0", *names]))
    assert [len(call) for call in calls] == [8, 64, 64, 16]
    assert [name for call in calls for name in call] == ["nowhere", "\0", *names]
    assert list(query._calls([])) == []
