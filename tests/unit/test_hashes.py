"""Files to hashes without an index: their order, their keys, and what stands for no picture."""

from __future__ import annotations

import os
import shutil
import zipfile
from pathlib import Path

import pytest

from nearsearch import Limits, hash_files, hash_stream, hashes, workers
from nearsearch.errors import UnknownSpecError, UsageError
from nearsearch.hashes import hash_found
from nearsearch.ingest import walk
from nearsearch.version import __version__
from nearsearch.workers import WorkerPool

pytestmark = pytest.mark.timeout(60)

STAND_IN = """
import json, sys, time
print('{"status": "ready", "version": "%s"}', flush=True)
for line in sys.stdin:
    name = json.loads(line)["path"].rpartition("/")[2]
    time.sleep(0.5 * name.startswith("slow"))
    print('{"status": "hashed"}', flush=True)
""".replace("%s", __version__)


@pytest.fixture
def folder(tmp_path, monkeypatch, small_index):
    """Pictures, an archive of one and a text, a file named as that text, and what is no file."""
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    for name in ("a.jpg", "d.jpg"):
        shutil.copy(small_index.pictures / name, "in")
    Path("in/b.jpg").symlink_to("a.jpg")
    with zipfile.ZipFile("in/c.zip", "w") as archive:
        archive.write("in/a.jpg", "a.jpg")
        archive.writestr("t.txt", "inside")
    Path("in/c.zip!t.txt").write_text("beside")
    with zipfile.ZipFile("empty.zip", "w"):
        pass


@pytest.fixture(scope="module")
def pool():
    with WorkerPool(2) as pool:
        yield pool


def told(files):
    return [(file.key, file.failure and file.failure.status) for file in files]


def test_files_come_in_the_order_of_their_paths(folder, pool, small_index):
    paths = ["in/d.jpg", "gone.jpg", b"in/c.zip", Path("in/a.jpg"), "in/d.jpg"]
    files = list(hash_stream(paths, ["pdq", "dhash"], digests=[], pool=pool))
    assert told(files) == [
        ("in/d.jpg", None),
        ("gone.jpg", "failed"),
        ("in/c.zip!a.jpg", None),
        ("in/c.zip!t.txt", "skipped"),
        ("in/a.jpg", None),
        ("in/d.jpg", None),
    ]
    assert [files[i].views["pdq"][0].code for i in (0, 2, 4)] == [
        small_index.codes[name] for name in ("d.jpg", "a.jpg", "a.jpg")
    ]
    assert files[2].sha256 == files[4].sha256
    assert files[4].md5 is None


def test_files_of_a_walk_have_its_keys_and_what_it_could_not_read_its_place(folder, pool):
    files = list(hash_found(walk(["in", "gone.jpg"]), ["pdq"], pool=pool))
    assert told(files) == [
        ("in/a.jpg", None),
        ("in/b.jpg", "skipped"),
        ("in/c.zip!a.jpg", None),
        ("in/c.zip!t.txt", "skipped"),
        (r"in/c.zip\x21t.txt", "skipped"),
        ("in/d.jpg", None),
        ("gone.jpg", "failed"),
    ]
    assert files[1].failure.problem == "walk: a symbolic link"
    assert (files[1].sha256, files[1].size, files[1].views) == (None, None, {})


def test_an_archive_without_files_is_told(folder, pool):
    files = list(hash_stream(["empty.zip", "in/c.zip", "empty.zip"], pool=pool))
    assert [file.key for file in files] == [
        "empty.zip",
        "in/c.zip!a.jpg",
        "in/c.zip!t.txt",
        "empty.zip",
    ]
    assert files[0] == files[3]
    assert files[0].failure == ("empty.zip", "an archive without files", "sniff")
    assert files[0].failure.status == "skipped"
    assert files[0].size == os.path.getsize("empty.zip")
    found = hash_files(["empty.zip"], pool=pool)
    assert (found.keys, len(found.codes), len(found.failures)) == (["empty.zip"], 0, 1)


def test_few_answers_wait_behind_a_slow_file(monkeypatch):
    monkeypatch.setattr(workers, "_COMMAND", STAND_IN)
    monkeypatch.setattr(hashes, "_MOST_HELD", 50)
    begun = 0

    def paths():
        nonlocal begun
        for begun in range(1, 1001):
            yield "slow" if begun == 1 else str(begun)

    files = hash_stream(paths(), workers=2)
    assert next(files).key == "slow"
    assert begun == 50
    assert [file.key for file in files] == list(map(str, range(2, 1001)))


@pytest.mark.parametrize("wrong", [{"workers": 2}, {"limits": Limits()}], ids=str)
def test_a_pool_has_its_own_processes_and_limits(pool, wrong):
    with pytest.raises(UsageError, match="give them to WorkerPool"):
        hash_stream([], pool=pool, **wrong)
    with pytest.raises(UnknownSpecError):
        hash_stream([], ["nonsense"], pool=pool)
