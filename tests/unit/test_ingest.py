"""The walk, the keys, `hash_files`: every file has one place in the account."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import socket
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from nearsearch import Limits, hash_files
from nearsearch.errors import UnknownSpecError, UsageError
from nearsearch.ingest import IngestReport, key_of, walk
from nearsearch.matches import Failure
from nearsearch.media.containers import Bounds
from nearsearch.media.fingerprint import outcomes
from nearsearch.media.seen import Wanted
from nearsearch.spec import get_spec
from nearsearch.workers import WorkerPool


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(b"12345")


def found(*paths, **options) -> list[str]:
    return [file.path for file in walk(paths, **options) if file.failure is None]


def not_found(*paths, **options) -> list[tuple]:
    files = [file for file in walk(paths, **options) if file.failure is not None]
    assert all(file.size is file.mtime_ns is None for file in files)
    assert all(file.failure.key == file.key for file in files)
    return [
        (file.path, file.failure.status, file.failure.reason, file.failure.stage) for file in files
    ]


# --- walk -------------------------------------------------------------------------------------


def test_folders_are_walked_in_sorted_order_wherever_they_stand(here):
    make("x/b.jpg", "x/a/z.jpg", "x/a/B.jpg", "x/c/deep/er/1.jpg", "x/a.jpg", "y.jpg")
    in_x = ["x/a/B.jpg", "x/a/z.jpg", "x/a.jpg", "x/b.jpg", "x/c/deep/er/1.jpg"]
    assert found("x") == in_x
    assert found("y.jpg", "x") == ["y.jpg", *in_x]
    assert found("x", "y.jpg") == [*in_x, "y.jpg"]


def test_a_found_file_has_its_key_size_and_time(here):
    make("a.jpg")
    os.utime("a.jpg", ns=(1, 1_700_000_000_123_456_789))
    (file,) = walk(["a.jpg"])
    assert file == ("a.jpg", "a.jpg", 5, 1_700_000_000_123_456_789, None)


def test_paths_may_be_text_bytes_or_path_objects(here):
    make("a.jpg", "b/c.jpg")
    assert found(b"a.jpg", Path("b")) == ["a.jpg", "b/c.jpg"]


def test_a_path_given_twice_is_found_once(here):
    make("a/b.jpg", "a/c.jpg")
    assert found("a", "a", b"a", "a/b.jpg", Path("a/c.jpg")) == ["a/b.jpg", "a/c.jpg"]
    assert found("a", "a/") == found("a/", "a") == ["a/b.jpg", "a/c.jpg"]
    assert not_found("gone", "gone") == [("gone", "failed", "No such file or directory", "read")]


def test_nothing_gives_nothing(here):
    Path("empty/also/empty").mkdir(parents=True)
    assert list(walk([])) == []
    assert list(walk(["empty"])) == []


def test_the_excluded_folder_is_passed_over_wherever_it_is_met(here):
    make("a.jpg", "known.ns/items.arrow", "sub/known.ns/other.jpg")
    os.symlink("known.ns", "link")
    index = os.path.realpath("known.ns")
    assert found(".", exclude=index) == ["./a.jpg", "./sub/known.ns/other.jpg"]
    assert found(os.path.abspath("."), exclude=index) == [
        f"{here}/a.jpg",
        f"{here}/sub/known.ns/other.jpg",
    ]
    for name in ("known.ns", "./known.ns/", "sub/../known.ns", "link"):
        assert list(walk([name], exclude=index)) == []


def test_links_inside_folders_are_skipped_and_named_ones_followed(here):
    make("real/a.jpg", "folder/b.jpg")
    os.symlink("../real/a.jpg", "folder/file-link")
    os.symlink("../real", "folder/folder-link")
    os.symlink("nowhere", "folder/dangling")
    assert found("folder") == ["folder/b.jpg"]
    assert not_found("folder") == [
        ("folder/dangling", "skipped", "a symbolic link", "walk"),
        ("folder/file-link", "skipped", "a symbolic link", "walk"),
        ("folder/folder-link", "skipped", "a symbolic link", "walk"),
    ]
    assert found("folder/file-link", "folder/folder-link") == [
        "folder/file-link",
        "folder/folder-link/a.jpg",
    ]
    assert next(walk(["folder/file-link"])).size == 5  # of the file, not of the link
    assert not_found("folder/dangling") == [
        ("folder/dangling", "failed", "No such file or directory", "read")
    ]


@pytest.mark.timeout(20)
def test_loops_of_links_end(here):
    make("a/b/c.jpg")
    os.symlink("../..", "a/b/up")
    os.symlink("self", "self")
    assert found("a") == ["a/b/c.jpg"]
    assert not_found("a") == [("a/b/up", "skipped", "a symbolic link", "walk")]
    assert found("a/b/up/a") == ["a/b/up/a/b/c.jpg"]
    assert not_found("self") == [("self", "failed", "Too many levels of symbolic links", "read")]


@pytest.mark.timeout(20)
def test_pipes_sockets_and_devices_are_skipped_not_opened(here):
    os.mkfifo("pipe")
    make("z.jpg")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        assert not_found(".", "/dev/null", "pipe") == [
            ("./pipe", "skipped", "not a regular file", "walk"),
            ("./socket", "skipped", "not a regular file", "walk"),
            ("/dev/null", "skipped", "not a regular file", "walk"),
            ("pipe", "skipped", "not a regular file", "walk"),
        ]
    assert found(".") == ["./z.jpg"]


def test_a_folder_that_cannot_be_read_has_failed_and_the_rest_goes_on(here, monkeypatch):
    make("a/1.jpg", "b/2.jpg", "c/3.jpg")
    scandir = os.scandir

    def refuse(path):
        if path == "./b":
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr("nearsearch.ingest.os.scandir", refuse)
    assert found(".") == ["./a/1.jpg", "./c/3.jpg"]
    assert not_found(".") == [("./b", "failed", "Permission denied", "read")]


def test_what_vanishes_during_the_walk_has_failed(here):
    make("a/1.jpg", "a/2.jpg", "a/sub/3.jpg", "b.jpg")
    files = walk(["a", "b.jpg"])
    assert next(files).path == "a/1.jpg"
    os.unlink("a/2.jpg")
    os.unlink("a/sub/3.jpg")
    os.rmdir("a/sub")
    assert [(file.path, file.failure and file.failure.status) for file in files] == [
        ("a/2.jpg", "failed"),
        ("a/sub", "failed"),
        ("b.jpg", None),
    ]


def test_a_folder_that_vanishes_before_it_is_listed_has_failed(here, monkeypatch):
    make("a/1.jpg")

    def vanish(path):
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)

    monkeypatch.setattr("nearsearch.ingest.os.scandir", vanish)
    assert not_found("a") == [("a", "failed", "No such file or directory", "read")]


@contextlib.contextmanager
def deep_tree(levels: int):
    """Make d/d/d/... with a file at every 500th level, in the current folder."""
    start = Path.cwd()
    for level in range(levels):
        os.mkdir("d")
        os.chdir("d")
        if (level + 1) % 500 == 0:
            make("f")
    os.chdir(start)
    try:
        yield
    finally:
        subprocess.run(["rm", "-rf", start / "d"], check=True)  # shutil.rmtree recurses


@pytest.mark.timeout(60)
def test_trees_deeper_than_the_recursion_limit_are_walked(here):
    with deep_tree(1500):
        depths = [path.count("/") for path in found("d")]
        assert depths == [1500, 1000, 500]  # "d" sorts before "f"
        assert not_found("d") == []


def test_telling_the_excluded_folder_costs_the_same_at_any_depth(here, monkeypatch):
    calls = 0
    lstat = os.lstat

    def count(*arguments, **options):
        nonlocal calls
        calls += 1
        return lstat(*arguments, **options)

    with deep_tree(200):
        monkeypatch.setattr("nearsearch.ingest.os.lstat", count)
        assert list(walk(["d"], exclude=str(here / "known.ns"))) == []
    assert calls <= 400  # `realpath` of every folder would be 200 * 200 / 2 and more


def test_a_tree_beyond_the_longest_path_fails_where_it_ends(here):
    with deep_tree(2100):
        ((path, status, reason, stage),) = not_found("d")
        assert len(found("d")) == 4  # levels 500, 1000, 1500, 2000
    assert (status, reason, stage) == ("failed", "File name too long", "read")
    assert len(path) == 4097  # what does not fit: PATH_MAX counts the final zero


def test_names_are_bytes(here):
    names = [b"caf\xe9.jpg", b"new\nline.jpg", b"\x1b[31m.jpg", b"-dash", "日本.jpg".encode()]
    for name in names:
        Path(os.fsdecode(name)).write_bytes(b"x")
    files = list(walk(["."]))
    assert {os.fsencode(file.path)[2:] for file in files} == set(names)
    keys = {file.key for file in files}
    assert r"./caf\xe9.jpg" in keys
    assert "./日本.jpg" in keys
    assert "./\x1b[31m.jpg" in keys


def test_a_path_that_no_system_has_is_one_failure(here):
    """From a caller's list; the files before and after it still count."""
    make("a.jpg", "b.jpg")
    files = list(walk(["a.jpg", "null\0byte", "b.jpg"]))
    assert [file.failure and file.failure.status for file in files] == [None, "failed", None]


# --- key_of -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "key"),
    [
        (b"a/b.jpg", "a/b.jpg"),
        ("é.jpg".encode(), "é.jpg"),
        (b"caf\xe9.jpg", r"caf\xe9.jpg"),
        (rb"caf\xe9.jpg", r"caf\\xe9.jpg"),
        (rb"C:\new", r"C:\new"),
        (b"C:\\new\xff", r"C:\\new\xff"),
        (b"\xed\xa0\x80", r"\xed\xa0\x80"),  # an encoded surrogate is not UTF-8
        (b"a\nb\x1b", "a\nb\x1b"),
    ],
)
def test_key_of_examples(name, key):
    assert key_of(os.fsdecode(name)) == key


file_names = st.one_of(
    st.binary(max_size=12),
    st.lists(
        st.sampled_from([b"\\", b"x", b"\\x", b"e9", b"\xe9", "é".encode(), b"a", b"/"]),
        max_size=8,
    ).map(b"".join),
)


def name_of(key: str) -> bytes:
    """Read a key back into the name it stands for: nothing of it was lost."""
    if r"\x" not in key:
        return key.encode()
    return b"\\".join(_bytes(piece) for piece in key.split(r"\\"))


def _bytes(piece: str) -> bytes:
    first, *rest = piece.split(r"\x")
    return first.encode() + b"".join(bytes.fromhex(p[:2]) + p[2:].encode() for p in rest)


@given(file_names)
@example(b"\\x\\\xff")
@example(b"\\\\x")
@example(b"\xff\\xff")
def test_keys_can_be_stored_and_read_back(name):
    key = key_of(os.fsdecode(name))
    key.encode("utf-8")  # no surrogates: any file can hold it
    assert name_of(key) == name


@given(file_names, file_names)
@example(b"\xe9", rb"\xe9")
@example(rb"\xe9", rb"\\xe9")
@example(b"\\\xe9", rb"\\xe9")
def test_two_names_never_share_a_key(one, other):
    assert (key_of(os.fsdecode(one)) == key_of(os.fsdecode(other))) == (one == other)


# --- IngestReport -----------------------------------------------------------------------------


def test_the_account_adds_up():
    report = IngestReport(added=1, replaced=20, unchanged=300, duplicate=4000)
    report.paths, report.bytes = 77, 12345
    report.add_failure(Failure("a.txt", "no known picture format", "sniff"))
    report.add_failure(Failure("link", "a symbolic link", "walk"))
    for number, stage in enumerate(("read", "decode", "hash", "worker")):
        report.add_failure(Failure(f"{number}.jpg", "truncated", stage))
    for number in range(3):  # hashed in part: counted above
        report.add_failure(Failure(f"half-{number}.jpg", "truncated", "damaged"))
    assert report.total == 1 + 20 + 300 + 4000 + 2 + 4
    assert report.to_json() == {
        "added": 1,
        "replaced": 20,
        "unchanged": 300,
        "duplicate": 4000,
        "skipped": 2,
        "failed": 4,
        "damaged": 3,
        "featureless": 0,
        "paths": 77,
        "bytes": 12345,
        "total": 4327,
    }
    assert [failure.key for failure in report.failures] == [
        *("a.txt", "link", "0.jpg", "1.jpg", "2.jpg", "3.jpg"),
        *("half-0.jpg", "half-1.jpg", "half-2.jpg"),
    ]


def test_an_account_starts_empty_and_is_its_own():
    first, second = IngestReport(), IngestReport()
    first.add_failure(Failure("k", "r", "read"))
    assert second == IngestReport()
    assert second.total == 0
    assert second.failures == []


# --- hash_files -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory, picture):
    """A folder of every sort of file; the tests stand in it and change nothing."""
    root = tmp_path_factory.mktemp("pictures")
    for seed in range(3):
        picture(seed, 100, 80).save(root / f"{seed}.png")
    picture(7, 100, 80).save(root / os.fsdecode(b"caf\xe9.png"))
    Image.new("L", (64, 64), 128).save(root / "flat.png")
    (root / "note.txt").write_text("hello")
    (root / "liar.jpg").write_text("hello")
    (root / "cut.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    (root / "empty.jpg").touch()
    os.mkfifo(root / "pipe.jpg")
    return root


@pytest.fixture(scope="module")
def pool(folder):
    with WorkerPool(2) as pool, contextlib.chdir(folder):
        pool.start()
        yield pool


@pytest.fixture
def pictures(folder, monkeypatch):
    monkeypatch.chdir(folder)


PDQ = get_spec("pdq")


def truth(path: str, spec=PDQ) -> tuple[bytes, int]:
    bounds = Bounds(max_bytes=10**9)
    wanted = Wanted(specs=[spec], digests=[], max_pixels=10**9, bounds=bounds)
    (found,) = outcomes(path, wanted)
    ((view, time_ms, code, quality, _),) = found["codes"][spec.name]
    assert (view, time_ms) == ("image", None)
    return bytes.fromhex(code), quality


def digests(path: str) -> list[bytes]:
    data = Path(path).read_bytes()
    return [hashlib.new(name, data).digest() for name in ("md5", "sha1", "sha256")]


def test_codes_come_in_the_order_of_the_files(pictures, pool):
    names = ["2.png", "0.png", "flat.png", "1.png"]
    hashes = hash_files(names, pool=pool)
    expected = [truth(name) for name in names]
    assert [
        (c.tobytes(), q) for c, q in zip(hashes.codes, hashes.qualities, strict=True)
    ] == expected
    assert (hashes.codes.shape, hashes.codes.dtype) == ((4, 32), np.uint8)
    assert hashes.qualities.dtype == np.int16
    assert hashes.qualities[2] < 50 <= min(hashes.qualities[[0, 1, 3]])
    assert (hashes.file_index.tolist(), hashes.file_index.dtype) == ([0, 1, 2, 3], np.int64)
    assert list(map(list, hashes.digests)) == [digests(name) for name in names]
    assert list(hashes.keys) == names
    assert hashes.failures == ()
    assert hashes.spec == PDQ


def test_a_file_may_stand_in_the_list_several_times(pictures, pool):
    hashes = hash_files(
        ["0.png", "cut.jpg", b"0.png", "1.png", Path("0.png"), "cut.jpg"], pool=pool
    )
    assert list(hashes.keys) == ["0.png", "cut.jpg", "0.png", "1.png", "0.png", "cut.jpg"]
    assert hashes.file_index.tolist() == [0, 2, 3, 4]
    assert [code.tobytes() for code in hashes.codes] == [
        truth(f"{name}.png")[0] for name in (0, 0, 1, 0)
    ]
    assert (hashes.qualities >= 0).all()
    assert hashes.digests[0] == hashes.digests[2] == hashes.digests[4] == digests("0.png")
    assert hashes.digests[1] == hashes.digests[5] == digests("cut.jpg")
    assert [failure.key for failure in hashes.failures] == ["cut.jpg", "cut.jpg"]


def test_failures_are_listed_in_order_and_have_no_codes(pictures, pool):
    names = ["gone.jpg", "0.png", "note.txt", "cut.jpg", ".", "pipe.jpg", "empty.jpg", "liar.jpg"]
    hashes = hash_files(names, pool=pool)
    assert list(hashes.keys) == names
    assert hashes.file_index.tolist() == [1]
    assert [(c.tobytes(), q) for c, q in zip(hashes.codes, hashes.qualities, strict=True)] == [
        truth("0.png")
    ]
    # Those that were read to their end have digests.
    read = {"0.png", "cut.jpg", "liar.jpg"}
    assert list(map(list, hashes.digests)) == [digests(n) if n in read else [] for n in names]
    assert [(failure.key, failure.stage) for failure in hashes.failures] == [
        ("gone.jpg", "read"),
        ("note.txt", "sniff"),
        ("cut.jpg", "decode"),
        (".", "sniff"),
        ("pipe.jpg", "sniff"),
        ("empty.jpg", "read"),
        ("liar.jpg", "decode"),
    ]
    reasons = [failure.reason for failure in hashes.failures]
    assert reasons[0] == "No such file or directory"
    assert reasons[3] == reasons[4] == "not a regular file"
    assert reasons[5] == "empty file"


def test_an_empty_list_starts_no_process(processes):
    before = processes()
    hashes = hash_files([])
    assert hashes.codes.shape == (0, 32)
    assert hashes.qualities.shape == hashes.file_index.shape == (0,)
    assert list(hashes.keys) == list(hashes.digests) == []
    assert hashes.failures == ()
    assert processes() == before


def test_other_specs(pictures, pool):
    spec = get_spec("phash-256")
    hashes = hash_files(["0.png", "1.png"], "phash-256", pool=pool)
    assert hashes.spec == spec
    assert [code.tobytes() for code in hashes.codes] == [truth(f"{n}.png", spec)[0] for n in (0, 1)]


def test_names_that_are_not_utf8(pictures, pool):
    hashes = hash_files([b"caf\xe9.png", b"gone\xe9.png"], pool=pool)
    assert list(hashes.keys) == [r"caf\xe9.png", r"gone\xe9.png"]
    assert [code.tobytes() for code in hashes.codes] == [truth(os.fsdecode(b"caf\xe9.png"))[0]]
    assert hashes.file_index.tolist() == [0]
    assert hashes.failures == (Failure(r"gone\xe9.png", "No such file or directory", "read"),)


def test_relative_names_are_of_the_folder_the_caller_is_in_now(pictures, pool, here, picture):
    """Also when the processes were started elsewhere: the wrong file would be hashed in silence."""
    picture(11, 100, 80).save("0.png")
    picture(12, 100, 80).save("only-here.png")
    hashes = hash_files(["0.png", "only-here.png"], pool=pool)
    assert hashes.failures == ()
    assert [code.tobytes() for code in hashes.codes] == [
        truth("0.png")[0],
        truth("only-here.png")[0],
    ]


def test_folders_do_not_use_up_the_open_files_of_a_process(pictures, pool, processes):
    def n_open() -> int:
        return sum(len(os.listdir(f"/proc/{process}/fd")) for process in processes())

    hash_files(["0.png"], pool=pool)
    before = n_open()
    hashes = hash_files(["." + "/." * n for n in range(40)], pool=pool)
    assert {failure.reason for failure in hashes.failures} == {"not a regular file"}
    assert n_open() == before


@pytest.mark.parametrize("path", ["a.jpg", b"a.jpg", Path("a.jpg")])
def test_one_path_is_no_list(path):
    with pytest.raises(UsageError, match="a list of paths"):
        hash_files(path)


def test_an_unknown_spec_is_refused_before_any_work(processes):
    before = processes()
    with pytest.raises(UnknownSpecError):
        hash_files(["a.jpg"], "pqd")
    assert processes() == before


def test_processes_of_its_own_end_with_the_call_and_obey_the_limits(pictures, processes):
    before = processes()
    hashes = hash_files(["0.png", "flat.png"], limits=Limits(max_pixels=5000))
    assert processes() == before
    assert hashes.file_index.tolist() == [1]
    assert [code.tobytes() for code in hashes.codes] == [truth("flat.png")[0]]
    assert [(failure.key, failure.stage) for failure in hashes.failures] == [("0.png", "decode")]
    assert "100 x 80 pixels exceed the limit of 5,000" in hashes.failures[0].reason


def test_a_given_pool_is_left_running(pictures, pool, processes):
    hash_files(["0.png"], pool=pool)
    before = processes()
    hash_files(["1.png"], pool=pool)
    assert before
    assert set(before) <= set(processes())
