import hashlib
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import numpy as np
import pytest

from nearsearch.errors import IndexLockedError
from nearsearch.store import fs


def test_created_files_are_private_and_described(tmp_path):
    written = fs.create_file(tmp_path / "a", [b"ab", memoryview(b"cd"), b""])
    assert (tmp_path / "a").read_bytes() == b"abcd"
    sha256 = hashlib.sha256(b"abcd").hexdigest()
    assert written == (4, sha256, sha256)
    assert fs.checksum(tmp_path / "a") == (written.size, written.sha256)
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


SIZES = [0, 1, 65535, 65536, 65537, 131072, 131073, 300_000]


def parts_of(data, how):
    if how == "whole":
        return [data]
    if how == "bytes at the borders":
        cuts = sorted({min(cut + d, len(data)) for cut in (0, 65536, 131072) for d in (0, 1, 2)})
    else:
        rng = np.random.default_rng(len(data))
        cuts = sorted(rng.integers(0, len(data) + 1, {"two": 1, "few": 5, "many": 200}[how]))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("how", ["whole", "two", "few", "many", "bytes at the borders"])
def test_edges_are_the_first_and_last_64_kib(tmp_path, size, how):
    data = np.random.default_rng(size).bytes(size)
    written = fs.create_file(tmp_path / "a", map(memoryview, parts_of(data, how)))
    assert (tmp_path / "a").read_bytes() == data
    assert (written.size, written.sha256) == (size, hashlib.sha256(data).hexdigest())
    ends = data if size <= 131072 else data[:65536] + data[-65536:]
    assert written.edges == hashlib.sha256(ends).hexdigest()
    assert (written.edges == written.sha256) == (size <= 131072)
    assert fs.edges_of(fs.map_file(tmp_path / "a", size)) == written.edges


def test_what_was_written_so_far_is_known(tmp_path):
    with fs.create(tmp_path / "a") as file:
        assert file.written.size == 0
        assert file.write(np.arange(3, dtype=np.uint16)) == 6
        assert file.written == (6, *[hashlib.sha256(b"\0\0\1\0\2\0").hexdigest()] * 2)


@pytest.mark.parametrize("size", [0, 1, 4096, 262_144, 262_145, 1_000_000])
def test_a_mapped_file_is_read_only_and_outlives_its_name(tmp_path, size):
    data = np.random.default_rng(size).bytes(size)
    fs.create_file(tmp_path / "a", [data])
    mapped = fs.map_file(tmp_path / "a", size)
    fs.remove(tmp_path / "a")
    assert mapped.dtype == np.uint8
    assert mapped.tobytes() == data
    with pytest.raises(ValueError, match="read-only"):
        mapped[:1] = 0
    with pytest.raises(FileNotFoundError):
        fs.map_file(tmp_path / "a", size)


def test_checksum_tells_how_far_it_is(tmp_path):
    data = np.random.default_rng(0).bytes(5_000_000)
    fs.create_file(tmp_path / "a", [data])
    told = []
    expected = len(data), hashlib.sha256(data).hexdigest()
    assert fs.checksum(tmp_path / "a", told.append) == expected
    assert sum(told) == len(data)
    assert len(told) > 1


def test_names_in_a_directory(tmp_path):
    for name in "bca":
        fs.create_file(tmp_path / name, [b""])
    fs.make_directory(tmp_path / "d")
    assert fs.list_directory(tmp_path) == ["a", "b", "c", "d"]
    assert fs.list_directory(tmp_path / "d") == []
    assert fs.list_directory(tmp_path / "none") == []
    assert fs.list_directory(tmp_path / "a") == []  # a file


def test_a_small_file_is_read_up_to_a_limit(tmp_path):
    fs.create_file(tmp_path / "a", [b"abcdef"])
    assert [fs.read_file(tmp_path / "a", limit) for limit in (0, 4, 100)] == [
        b"",
        b"abcd",
        b"abcdef",
    ]


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


def test_lock_is_waited_for_and_its_holder_named_once(tmp_path):
    lock, told = fs.Lock(tmp_path / "l"), []
    timer = threading.Timer(0.2, lock.release)
    timer.start()
    start = time.monotonic()
    fs.Lock(tmp_path / "l", 30, told.append).release()
    assert 0.15 < time.monotonic() - start < 10
    timer.join()
    assert len(told) == 1
    assert told[0].startswith("process ")
    fs.Lock(tmp_path / "l", 30, told.append).release()  # free: nothing to wait for
    assert len(told) == 1


def test_waiting_for_a_lock_ends(tmp_path):
    lock, told = fs.Lock(tmp_path / "l"), []
    start = time.monotonic()
    with pytest.raises(IndexLockedError, match="process "):
        fs.Lock(tmp_path / "l", 0.1, told.append)
    assert time.monotonic() - start >= 0.1
    assert len(told) == 1
    with pytest.raises(IndexLockedError):
        fs.Lock(tmp_path / "l", on_wait=told.append)
    assert len(told) == 1  # nobody waited
    lock.release()


@contextmanager
def another_process(code, *arguments):
    """Run code that prints a line when it is ready, and ends when its input does."""
    script = f"import sys; from pathlib import Path; from nearsearch.store import fs\n{code}\n"
    child = subprocess.Popen(
        [sys.executable, "-c", script + "print('ready', flush=True); sys.stdin.read()", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with child:
        assert child.stdout.readline() == b"ready\n"
        yield child
        child.stdin.close()


def test_what_several_hold_is_held_until_the_last_lets_go(tmp_path):
    fs.create_file(tmp_path / "a", [b"abc"])
    assert not fs.is_held(tmp_path / "a")
    assert not fs.is_held(tmp_path / "none")
    one, two = fs.Hold(tmp_path / "a"), fs.Hold(tmp_path / "a")
    assert fs.is_held(tmp_path / "a")
    assert (one.read(2), two.read(100)) == (b"ab", b"abc")
    one.release()
    one.release()
    assert fs.is_held(tmp_path / "a")
    del two  # as a snapshot does that nobody uses any more
    assert not fs.is_held(tmp_path / "a")


def test_what_another_process_holds(tmp_path):
    fs.create_file(tmp_path / "a", [b"abc"])
    with another_process("hold = fs.Hold(Path(sys.argv[1]))", tmp_path / "a") as child:
        assert fs.is_held(tmp_path / "a")
        fs.Hold(tmp_path / "a").release()  # it is shared
        assert fs.is_held(tmp_path / "a")
        child.kill()
        child.wait()
        assert not fs.is_held(tmp_path / "a")


def test_nobody_holds_what_was_removed(tmp_path):
    fs.create_file(tmp_path / "a", [b""])
    hold = fs.Hold(tmp_path / "a")
    fs.remove(tmp_path / "a")
    assert not fs.is_held(tmp_path / "a")
    hold.release()
    with pytest.raises(FileNotFoundError):
        fs.Hold(tmp_path / "a")


def test_a_file_that_is_removed_while_it_is_opened_is_not_held(tmp_path, monkeypatch):
    fs.create_file(tmp_path / "a", [b""])
    real = fs.fcntl.flock

    def removed_meanwhile(handle, how):
        fs.remove(tmp_path / "a")
        real(handle, how)

    with monkeypatch.context() as patch:
        patch.setattr(fs.fcntl, "flock", removed_meanwhile)
        with pytest.raises(FileNotFoundError, match="was removed"):
            fs.Hold(tmp_path / "a")


@pytest.mark.parametrize("is_removed", [True, False])
def test_whoever_would_hold_a_file_waits_for_its_removal(tmp_path, is_removed):
    fs.create_file(tmp_path / "a", [b""])
    remover = fs.os.open(tmp_path / "a", fs.os.O_RDONLY)
    fs.fcntl.flock(remover, fs.fcntl.LOCK_EX)  # as `remove_unless_held` has it for a moment
    found = []

    def hold():
        try:
            found.append(fs.Hold(tmp_path / "a"))
        except FileNotFoundError as error:
            found.append(str(error))

    thread = threading.Thread(target=hold)
    thread.start()
    thread.join(0.1)
    assert not found
    if is_removed:
        fs.remove(tmp_path / "a")
    fs.os.close(remover)
    thread.join()
    if is_removed:
        assert found == [f"{tmp_path / 'a'} was removed"]
    else:
        assert fs.is_held(tmp_path / "a")
        found[0].release()


def test_what_is_held_is_not_removed(tmp_path):
    fs.create_file(tmp_path / "a", [b""])
    with another_process("hold = fs.Hold(Path(sys.argv[1]))", tmp_path / "a"):
        assert not fs.remove_unless_held(tmp_path / "a")
        assert (tmp_path / "a").exists()
    assert fs.remove_unless_held(tmp_path / "a")
    assert not (tmp_path / "a").exists()
    assert fs.remove_unless_held(tmp_path / "a")  # it is gone


def test_without_locks_nothing_is_held_and_all_can_be_read(tmp_path, monkeypatch):
    """As on some network file systems."""
    fs.create_file(tmp_path / "a", [b"abc"])

    def not_supported(*_):
        raise OSError(95, "made by the test")

    monkeypatch.setattr(fs.fcntl, "flock", not_supported)
    hold = fs.Hold(tmp_path / "a")
    assert hold.read(9) == b"abc"
    assert not fs.is_held(tmp_path / "a")
    assert fs.remove_unless_held(tmp_path / "a")
    assert not (tmp_path / "a").exists()
    hold.release()
