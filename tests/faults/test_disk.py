"""The disk of the fault tests loses what it must lose, and nothing else."""

import errno
import fcntl
import os
import random
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from faults.disk import Crash, Disk

NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL


def write(disk, path, data, *, sync=True, flags=NEW):
    handle = disk.open(path, flags, 0o600)
    disk.write(handle, data)
    if sync:
        disk.fsync(handle)
    disk.close(handle)


def sync(disk, path):
    handle = disk.open(path, os.O_RDONLY)
    disk.fsync(handle)
    disk.close(handle)


def tree(root):
    """Return what is below `root`: path to bytes, None for directories."""
    return {
        str(path.relative_to(root)): None if path.is_dir() else path.read_bytes()
        for path in sorted(root.rglob("*"))
    }


def after(disk, loss, root, seed=0):
    disk.power_cut(loss, seed)
    return tree(root)


# --- power cuts -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loss", "left"), [("all", {}), ("data", {"a": b"one"}), ("none", {"a": b"one"})]
)
def test_synced_file_of_an_unsynced_name(tmp_path, loss, left):
    disk = Disk()
    write(disk, tmp_path / "a", b"one")
    assert after(disk, loss, tmp_path) == left


@pytest.mark.parametrize("loss", ["all", "data"])
def test_unsynced_data_are_lost_though_the_name_is_durable(tmp_path, loss):
    disk = Disk()
    write(disk, tmp_path / "a", b"one", sync=False)
    sync(disk, tmp_path)
    assert after(disk, loss, tmp_path) == {"a": b""}


def test_fsync_of_a_file_does_not_cover_what_is_written_later(tmp_path):
    disk = Disk()
    handle = disk.open(tmp_path / "a", NEW)
    disk.write(handle, b"one")
    disk.fsync(handle)
    disk.write(handle, b" two")
    sync(disk, tmp_path)
    assert after(disk, "data", tmp_path) == {"a": b"one"}


@pytest.mark.parametrize("flags", [os.O_RDWR, os.O_RDWR | os.O_TRUNC, os.O_RDWR | os.O_CREAT])
def test_changes_of_an_existing_file(tmp_path, flags):
    (tmp_path / "a").write_bytes(b"before")
    disk = Disk()
    handle = disk.open(tmp_path / "a", flags)
    disk.ftruncate(handle, 2)
    disk.pwrite(handle, b"xyz", 1)
    assert after(disk, "all", tmp_path) == {"a": b"before"}


def test_replacement(tmp_path):
    (tmp_path / "a").write_bytes(b"old")
    mode = (tmp_path / "a").stat().st_mode
    disk = Disk()
    write(disk, tmp_path / "a.tmp", b"new")
    disk.replace(tmp_path / "a.tmp", tmp_path / "a")
    assert after(disk, "all", tmp_path) == {"a": b"old"}
    assert (tmp_path / "a").stat().st_mode == mode
    write(disk, tmp_path / "a.tmp", b"new", sync=False)
    disk.replace(tmp_path / "a.tmp", tmp_path / "a")
    assert after(disk, "data", tmp_path) == {"a": b""}  # what forgetting an fsync does
    write(disk, tmp_path / "a.tmp", b"new")
    disk.replace(tmp_path / "a.tmp", tmp_path / "a")
    sync(disk, tmp_path)
    assert after(disk, "all", tmp_path) == {"a": b"new"}


def test_unsynced_replacement_by_a_file_whose_name_was_synced(tmp_path):
    (tmp_path / "a").write_bytes(b"old")
    disk = Disk()
    write(disk, tmp_path / "a.tmp", b"new")
    sync(disk, tmp_path)
    disk.replace(tmp_path / "a.tmp", tmp_path / "a")
    assert after(disk, "all", tmp_path) == {"a": b"old", "a.tmp": b"new"}


@pytest.mark.parametrize("synced", [False, True])
def test_removal(tmp_path, synced):
    (tmp_path / "d").mkdir(mode=0o700)
    (tmp_path / "d" / "a").write_bytes(b"old")
    before = tree(tmp_path)
    disk = Disk()
    disk.unlink(tmp_path / "d" / "a")
    disk.rmdir(tmp_path / "d")
    if synced:
        sync(disk, tmp_path)
    assert after(disk, "all", tmp_path) == ({} if synced else before)


def test_removal_of_a_file_that_is_still_open(tmp_path):
    disk = Disk()
    handle = disk.open(tmp_path / "a", os.O_RDWR | os.O_CREAT)
    disk.write(handle, b"one")
    disk.fsync(handle)
    sync(disk, tmp_path)
    disk.unlink(tmp_path / "a")
    assert disk.fstat(handle).st_nlink == 0
    disk.write(handle, b" two")
    assert after(disk, "all", tmp_path) == {"a": b"one"}


STEPS = ["mkdir", "parent", "a", "b", "inside", "rename", "parent again"]


def dance(disk, root, without=None):
    """Build a directory of files as the store does, but for one step."""
    draft, final = root / "x.tmp", root / "x"
    for step in STEPS:
        if step == "mkdir":
            disk.mkdir(draft, 0o700)
        elif step == "rename":
            disk.rename(draft, final)
        elif step in ("a", "b"):
            write(disk, draft / step, step.encode(), sync=step != without)
        elif step != without:
            sync(disk, draft if step == "inside" else root)


@pytest.mark.parametrize(
    ("without", "left"),
    [
        (None, {"x": None, "x/a": b"a", "x/b": b"b"}),
        ("parent again", {"x.tmp": None, "x.tmp/a": b"a", "x.tmp/b": b"b"}),
        ("inside", {"x": None}),
        ("b", {"x": None, "x/a": b"a", "x/b": b""}),
        ("parent", {"x": None, "x/a": b"a", "x/b": b"b"}),
    ],
)
def test_the_dance_of_the_store(tmp_path, without, left):
    disk = Disk()
    dance(disk, tmp_path, without)
    assert after(disk, "all", tmp_path) == left


def test_a_directory_whose_name_was_never_synced_takes_all_with_it(tmp_path):
    disk = Disk()
    disk.mkdir(tmp_path / "x.tmp")
    write(disk, tmp_path / "x.tmp" / "a", b"a")
    sync(disk, tmp_path / "x.tmp")
    disk.rename(tmp_path / "x.tmp", tmp_path / "x")
    assert after(disk, "all", tmp_path) == {}


def test_relative_paths_and_symbolic_links(tmp_path, monkeypatch):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    monkeypatch.chdir(tmp_path)
    disk = Disk()
    (tmp_path / "late").symlink_to("real/late")
    write(disk, "late", b"late", flags=os.O_WRONLY | os.O_CREAT)
    write(disk, "link/a", b"a")
    write(disk, Path("b"), b"b")
    write(disk, b"c", b"c")
    disk.mkdir("d/")
    assert sorted(os.listdir("real")) == ["a", "late"]
    disk.unlink("real/late")
    sync(disk, "real")
    write(disk, "late", b"late", flags=os.O_WRONLY | os.O_CREAT)
    assert after(disk, "all", tmp_path / "real") == {"a": b"a"}
    assert sorted(os.listdir()) == ["late", "link", "real"]


def test_random_loss_gives_every_outcome_and_the_same_one_for_a_seed(tmp_path):
    found = []
    for seed in [*range(100), *range(100)]:
        root = tmp_path / str(len(found))
        root.mkdir()
        (root / "a").write_bytes(b"one")
        (root / "z").write_bytes(b"zzz")
        disk = Disk()
        write(disk, root / "a", b"two", sync=False, flags=os.O_WRONLY | os.O_APPEND)
        disk.mkdir(root / "d")
        write(disk, root / "d" / "b", b"b")
        disk.unlink(root / "z")
        found.append(after(disk, "random", root, seed))
    assert found[:100] == found[100:]
    texts = {b"one", b"onet", b"onetw", b"onetwo", b"one\0\0\0"}
    assert {state["a"] for state in found} == texts
    assert {state.get("z") for state in found} == {None, b"zzz"}  # what was synced is whole
    names = {("a",), ("a", "d"), ("a", "d", "d/b")}
    assert {tuple(name for name in state if name != "z") for state in found} == names


def do_anything(disk, root, rng):
    """One random change of names or data."""
    found = sorted(root.rglob("*"))
    files = [path for path in found if path.is_file()]
    place = rng.choice([root, *(path for path in found if path.is_dir())])
    new = place / rng.choice("abcdef")
    action = rng.choice(["write", "write", "mkdir", "rename", "unlink", "rmdir"])
    if action == "write" and not new.is_dir():
        write(disk, new, rng.randbytes(5), sync=False, flags=os.O_WRONLY | os.O_CREAT)
    elif action == "mkdir" and not new.exists():
        disk.mkdir(new)
    elif action == "rename" and (old := rng.choice([new, *sorted(place.iterdir())])) != new:
        with suppress(OSError):  # one is a directory, or not empty
            disk.replace(old, new)
    elif action == "unlink" and files:
        disk.unlink(rng.choice(files))
    elif action == "rmdir" and place != root and not any(place.iterdir()):
        disk.rmdir(place)


def sync_everything(disk, root):
    for path in [root, *root.rglob("*")]:
        sync(disk, path)


@pytest.mark.parametrize("seed", range(20))
def test_any_series_of_changes_is_undone_to_the_last_sync(tmp_path, seed):
    rng = random.Random(seed)
    disk = Disk()
    for _ in range(3):
        for _ in range(40):
            do_anything(disk, tmp_path, rng)
        sync_everything(disk, tmp_path)
        durable = tree(tmp_path)
        for _ in range(40):
            do_anything(disk, tmp_path, rng)
        assert after(disk, "all", tmp_path) == durable
        for _ in range(40):
            do_anything(disk, tmp_path, rng)
        disk.power_cut("random", seed)


def test_no_loss_changes_nothing(tmp_path):
    rng, disk = random.Random(0), Disk()
    for _ in range(100):
        do_anything(disk, tmp_path, rng)
    before = tree(tmp_path)
    assert after(disk, "none", tmp_path) == before


def test_a_power_cut_closes_descriptors_and_drops_locks(tmp_path):
    disk = Disk(3, "crash")
    handle = disk.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    directory = disk.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    with pytest.raises(Crash):
        disk.fsync(directory)
    disk.close(handle)  # of a dead process: nothing happens
    other = os.open(tmp_path / "lock", os.O_RDWR)
    with pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    disk.power_cut("none")
    fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(other)
    for closed in (handle, directory):
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(closed)


def test_a_descriptor_that_was_closed_elsewhere_is_left_alone(tmp_path):
    disk = Disk()
    handle = disk.open(tmp_path / "a", NEW)
    os.close(handle)
    other = os.open(tmp_path, os.O_RDONLY)
    assert other == handle
    disk.power_cut("all")
    os.fstat(other)
    os.close(other)


def test_handles_are_given_back(tmp_path):
    before = os.listdir("/proc/self/fd")
    disk = Disk()
    dance(disk, tmp_path)
    disk.unlink(tmp_path / "x" / "a")
    assert len(os.listdir("/proc/self/fd")) > len(before)
    disk.power_cut("all")
    assert os.listdir("/proc/self/fd") == before
    dance(disk, tmp_path / "x")
    del disk
    assert os.listdir("/proc/self/fd") == before


# --- failures -------------------------------------------------------------------------------------


def count(change, *args, **options):
    disk = Disk(**options)
    change(disk, *args)
    return disk.calls


def test_every_call_of_the_dance_fails_in_turn(tmp_path):
    (tmp_path / "0").mkdir()
    total = count(dance, tmp_path / "0", how="error")
    seen = set()
    for n in range(1, total + 2):
        root = tmp_path / str(n)
        root.mkdir()
        disk = Disk(n, "error")
        if n > total:
            dance(disk, root)
            break
        with pytest.raises(OSError, match="made by the test") as caught:
            dance(disk, root)
        assert caught.value.errno == errno.ENOSPC
        assert disk.calls == n
        seen.add(disk.failed)
        disk.stat(root)
    assert disk.failed is None
    assert seen == {"mkdir", "open", "write", "fsync", "rename"}


def test_cleaning_up_fails_only_where_it_is_asked_to(tmp_path):
    disk = Disk(1, "error")
    (tmp_path / "d").mkdir()
    (tmp_path / "a").write_bytes(b"")
    disk.rmdir(tmp_path / "d")
    disk.unlink(tmp_path / "a")
    assert disk.calls == 0
    with pytest.raises(OSError, match="Input/output error") as caught:
        Disk(1, "error", error=errno.EIO).stat(tmp_path / "a")
    assert caught.value.filename == str(tmp_path / "a")


def test_full_disk(tmp_path):
    (tmp_path / "a").write_bytes(b"one")
    disk = Disk(3, "full")
    handle = disk.open(tmp_path / "a", os.O_RDWR)
    assert disk.write(handle, b"t") == 1
    assert disk.pread(handle, 9, 0) == b"tne"
    assert disk.failed is None
    for change in (
        lambda: disk.write(handle, b"w"),
        lambda: disk.pwrite(handle, b"w", 0),
        lambda: disk.ftruncate(handle, 0),
        lambda: disk.open(tmp_path / "b", NEW),
        lambda: disk.mkdir(tmp_path / "d"),
        lambda: disk.rename(tmp_path / "a", tmp_path / "b"),
        lambda: disk.replace(tmp_path / "a", tmp_path / "b"),
    ):
        with pytest.raises(OSError, match="No space left") as caught:
            change()
        assert caught.value.errno == errno.ENOSPC
    assert disk.failed == "write"
    with pytest.raises(FileExistsError):
        disk.mkdir(tmp_path)
    disk.close(disk.open(tmp_path / "a", os.O_RDWR | os.O_CREAT))
    disk.fsync(handle)
    disk.close(handle)
    disk.unlink(tmp_path / "a")
    assert tree(tmp_path) == {}


def test_read_only_disk(tmp_path):
    (tmp_path / "a").write_bytes(b"one")
    (tmp_path / "d").mkdir()
    disk = Disk(1, "full", error=errno.EROFS)
    for change in (
        lambda: disk.unlink(tmp_path / "a"),
        lambda: disk.rmdir(tmp_path / "d"),
        lambda: disk.open(tmp_path / "a", os.O_RDWR),
        lambda: disk.open(tmp_path / "b", os.O_RDONLY | os.O_CREAT),
        lambda: disk.mkdir(tmp_path / "e"),
    ):
        with pytest.raises(OSError, match="Read-only file system"):
            change()
    handle = disk.open(tmp_path / "a", os.O_RDONLY | os.O_CREAT)
    assert disk.read(handle, 9) == b"one"
    disk.close(handle)
    assert disk.failed == "unlink"


def test_crash_at_every_call_of_the_dance(tmp_path):
    (tmp_path / "0").mkdir()
    total = count(dance, tmp_path / "0")
    seen = set()
    for n in range(1, total + 1):
        root = tmp_path / str(n)
        root.mkdir()
        disk = Disk(n, "crash")
        with pytest.raises(Crash):
            dance(disk, root)
        seen.add(disk.failed)
        before = tree(root)
        for call, *arguments in [(disk.stat, root), (disk.mkdir, root / "y"), (disk.read, 0, 1)]:
            with pytest.raises(Crash):
                call(*arguments)
        assert disk.calls == n
        assert after(disk, "none", root) == before
    assert seen == {"mkdir", "open", "write", "fsync", "rename", "close"}


@pytest.mark.parametrize("name", ["close", "unlink", "rmdir"])
def test_cleaning_up_can_be_where_it_crashes(tmp_path, name):
    (tmp_path / "unlink").write_bytes(b"")
    (tmp_path / "rmdir").mkdir()
    (tmp_path / "close").write_bytes(b"")
    before = tree(tmp_path)
    disk = Disk(2, "crash")
    handle = disk.open(tmp_path / "close", os.O_RDONLY)
    with pytest.raises(Crash):
        getattr(disk, name)(handle if name == "close" else tmp_path / name)
    assert disk.failed == name
    os.fstat(handle)
    assert after(disk, "none", tmp_path) == before


@pytest.mark.parametrize("name", ["write", "pwrite"])
def test_torn_write(tmp_path, name):
    disk = Disk(2, "crash", torn=True)
    handle = disk.open(tmp_path / "a", NEW)
    with pytest.raises(Crash):
        getattr(disk, name)(handle, memoryview(b"12345678"), *([0] if name == "pwrite" else []))
    assert after(disk, "none", tmp_path) == {"a": b"1234"}


def test_no_handler_stops_a_crash():
    assert not issubclass(Crash, Exception)


def test_counts_across_threads(tmp_path):
    def work(disk, name, times):
        write(disk, tmp_path / name, name.encode())
        for _ in range(times):
            disk.stat(tmp_path)

    disk = Disk()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, [disk] * 4, "abcd", [500] * 4))
    assert disk.calls == 4 * 504
    disk = Disk(400, "crash")
    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(work, disk, name, 500) for name in "efgh"]
    assert all(isinstance(future.exception(), Crash) for future in futures)
    assert disk.calls == 400
    assert after(disk, "all", tmp_path) == {name: name.encode() for name in "abcd"}


def test_calls_run_one_at_a_time_but_a_finalizer_may_close_within_one(tmp_path, monkeypatch):
    disk = Disk()
    running = []

    def slow(path):
        running.append(path)
        together = len(running)
        disk.close(disk.open(path, os.O_RDONLY))
        time.sleep(0.005)
        running.pop()
        return together

    monkeypatch.setattr(os, "listdir", slow)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(disk.listdir, [tmp_path] * 8)) == [1] * 8


def test_what_is_no_file_system_call_passes_through_and_the_unknown_is_refused():
    disk = Disk(1, "crash")
    assert disk.path is os.path
    assert disk.O_CREAT == os.O_CREAT
    assert disk.environ is os.environ
    assert disk.stat_result is os.stat_result
    assert disk.getpid() == os.getpid()
    assert disk.fspath(Path("a")) == "a"
    assert disk.calls == 0
    with pytest.raises(AttributeError):
        _ = disk.nothing
    with pytest.raises(NotImplementedError, match=r"os\.link"):
        _ = disk.link


def test_renames_between_directories_are_refused(tmp_path):
    (tmp_path / "a").write_bytes(b"")
    (tmp_path / "d").mkdir()
    with pytest.raises(NotImplementedError):
        Disk().rename(tmp_path / "a", tmp_path / "d" / "a")


@pytest.mark.parametrize("call", [lambda: Disk(1, "sometimes"), lambda: Disk().power_cut("some")])
def test_unknown_words_are_refused(call):
    with pytest.raises(ValueError, match="some"):
        call()
