import hashlib
import subprocess
import sys

import pytest

from nearsearch.errors import IndexLockedError
from nearsearch.store import fs


def test_created_files_are_private_and_described(tmp_path):
    written = fs.create_file(tmp_path / "a", [b"ab", memoryview(b"cd"), b""])
    assert (tmp_path / "a").read_bytes() == b"abcd"
    assert written == (4, hashlib.sha256(b"abcd").hexdigest())
    assert fs.checksum(tmp_path / "a") == written
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o600
    with pytest.raises(FileExistsError):
        fs.create_file(tmp_path / "a", [b""])


def test_replace_leaves_no_temporary_file(tmp_path):
    fs.replace_file(tmp_path / "a", b"old")
    fs.replace_file(tmp_path / "a", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == b"new"


def test_directories_are_private(tmp_path):
    fs.make_directory(tmp_path / "a" / "b" / "c", parents=True)
    for path in [tmp_path / "a", tmp_path / "a/b", tmp_path / "a/b/c"]:
        assert path.stat().st_mode & 0o777 == 0o700


def test_remove_takes_what_is_there(tmp_path):
    fs.make_directory(tmp_path / "a")
    fs.create_file(tmp_path / "a" / "f", [b""])
    for path in [tmp_path / "a", tmp_path / "none"]:
        fs.remove(path)
    assert list(tmp_path.iterdir()) == []


def test_remove_does_not_follow_links(tmp_path):
    fs.make_directory(tmp_path / "kept")
    fs.create_file(tmp_path / "kept" / "f", [b""])
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    fs.remove(tmp_path / "link")
    assert (tmp_path / "kept" / "f").exists()


def test_sizes(tmp_path):
    fs.create_file(tmp_path / "a", [b"abc"])
    assert fs.size_of(tmp_path / "a") == 3
    assert fs.size_of(tmp_path / "b") is None
    assert fs.size_of(tmp_path) is None
    assert fs.map_bytes(tmp_path / "a", 1, 2).tobytes() == b"bc"
    assert fs.map_bytes(tmp_path / "a", 3, 0).size == 0


def test_lock_is_exclusive_across_processes_and_names_its_owner(tmp_path):
    script = (
        "import sys; from pathlib import Path; from nearsearch.store import fs\n"
        "lock = fs.Lock(Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"
    )
    path = tmp_path / "writer.lock"
    child = subprocess.Popen(
        [sys.executable, "-c", script, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with child:
        assert child.stdout.readline() == b"held\n"
        with pytest.raises(IndexLockedError, match=f"process {child.pid} on .* since 20"):
            fs.Lock(path)
        child.kill()
        child.wait()
    lock = fs.Lock(path)  # the kernel gave it back
    with pytest.raises(IndexLockedError):
        fs.Lock(path)
    lock.release()
    lock.release()
    fs.Lock(path).release()


def test_lock_of_an_owner_that_has_not_said_who_it_is(tmp_path):
    lock = fs.Lock(tmp_path / "l")
    (tmp_path / "l").write_text("garbage")
    with pytest.raises(IndexLockedError, match="another process"):
        fs.Lock(tmp_path / "l")
    lock.release()
