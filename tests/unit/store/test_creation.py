import threading
import time

import pytest

from nearsearch.errors import (
    CorruptFileError,
    IndexExistsError,
    IndexLockedError,
    IndexNotFoundError,
    SpecMismatchError,
)
from nearsearch.spec import get_spec
from nearsearch.store import creation, fs
from nearsearch.store import manifest as manifests
from nearsearch.store.manifest import Manifest

PDQ, PHASH = get_spec("pdq"), get_spec("phash")


def open_to_write(root, specs=None, *, create_with=(PDQ,), wait=0.0, on_wait=None):
    return creation.open_to_write(root, specs, create_with=create_with, wait=wait, on_wait=on_wait)


def names(root):
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


def test_where_an_index_may_be_created(tmp_path):
    creation.check_creatable(tmp_path / "none")
    creation.check_creatable(tmp_path)
    for name in ["writer.lock", "manifest-000000.json", "CURRENT.0123abcd.tmp"]:
        (tmp_path / name).touch()
    for name in ("shards", "tombstones", "log"):
        (tmp_path / name).mkdir()
    creation.check_creatable(tmp_path)
    for name in ["manifest-1.json", "manifest-000000.json.bak", "CURRENT.tmp", "photo.jpg"]:
        (tmp_path / name).touch()
        with pytest.raises(IndexExistsError):
            creation.check_creatable(tmp_path)
        (tmp_path / name).unlink()
    for folder in ("shards", "tombstones", "log"):
        (tmp_path / folder / "mine").touch()
        with pytest.raises(IndexExistsError):
            creation.check_creatable(tmp_path)
        (tmp_path / folder / "mine").unlink()
    (tmp_path / "other").mkdir()
    with pytest.raises(IndexExistsError):
        creation.check_creatable(tmp_path)
    (tmp_path / "other").rmdir()
    (tmp_path / "log").rmdir()
    (tmp_path / "log").touch()  # no folder
    with pytest.raises(IndexExistsError):
        creation.check_creatable(tmp_path)
    (tmp_path / "log").unlink()
    creation.check_creatable(tmp_path)
    (tmp_path / "manifest-000007.json").touch()
    with pytest.raises(
        CorruptFileError,
        match=r"CURRENT: content: expected the output of 'sha256sum manifest-N.json'",
    ):
        creation.check_creatable(tmp_path)


def test_a_file_is_no_place_for_an_index(tmp_path):
    (tmp_path / "photo.jpg").touch()
    with pytest.raises(IndexExistsError):
        creation.check_creatable(tmp_path / "photo.jpg")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    creation.check_creatable(tmp_path / "link")


def test_an_index_is_made_and_given_up(tmp_path):
    root = tmp_path / "a" / "b.ns"
    lock, pointer, is_new = open_to_write(root, create_with=(PHASH, PDQ))
    assert is_new
    assert pointer == manifests.read_pointer(root)
    assert manifests.read_current(root) == Manifest(0, (PHASH, PDQ))
    assert names(root) == [
        *("CURRENT", "log", "manifest-000000.json", "shards", "tombstones", "writer.lock"),
    ]
    creation.give_up(root)
    lock.release()
    assert names(tmp_path) == ["a"]


def test_a_beginning_that_was_cut_off_is_taken_up(tmp_path):
    for name in ("CURRENT.0123abcd.tmp", "manifest-000000.json.0123abcd.tmp"):
        (tmp_path / name).write_text("half")
    (tmp_path / "shards").mkdir()
    lock, _, is_new = open_to_write(tmp_path)
    lock.release()
    assert is_new
    assert not list(tmp_path.glob("*.tmp"))
    assert manifests.read_current(tmp_path).specs == (PDQ,)


def test_where_files_are_left_an_empty_index_stays(tmp_path):
    root = tmp_path / "i.ns"
    lock, _, _ = open_to_write(root)
    (root / "shards" / "left").touch()
    creation.give_up(root)
    lock.release()
    assert manifests.read_current(root) == Manifest(0, (PDQ,))
    (root / "shards" / "left").unlink()
    lock, _, is_new = open_to_write(root)
    assert not is_new
    assert sorted(path.name for path in root.iterdir() if path.is_dir()) == [
        *("log", "shards", "tombstones"),
    ]
    (root / "mine").touch()  # of somebody else: ours go, theirs stays
    creation.give_up(root)
    lock.release()
    assert names(root) == ["mine"]


def test_an_index_that_exists_is_opened_and_its_folders_made_again(tmp_path):
    root = tmp_path / "i.ns"
    open_to_write(root)[0].release()
    (root / "log").rmdir()
    (root / "manifest-000009.json").touch()  # of a commit that never came to be
    for create_with in ((PHASH,), None):
        lock, pointer, is_new = open_to_write(root, create_with=create_with)
        assert not is_new
        assert pointer == manifests.read_pointer(root)
        with pytest.raises(IndexLockedError):
            open_to_write(root)
        lock.release()
    assert (root / "log").is_dir()
    assert not (root / "manifest-000009.json").exists()
    assert manifests.read_current(root).specs == (PDQ,)


def test_no_index_and_none_wanted(tmp_path):
    with pytest.raises(IndexNotFoundError):
        open_to_write(tmp_path / "i.ns", create_with=None)
    assert names(tmp_path) == []


def test_the_wrong_specs_let_go_of_the_lock(tmp_path):
    open_to_write(tmp_path, create_with=(PDQ, PHASH))[0].release()
    open_to_write(tmp_path, (PHASH, PDQ))[0].release()
    for specs in ((PDQ,), (PHASH,)):
        with pytest.raises(SpecMismatchError):
            open_to_write(tmp_path, specs)
    open_to_write(tmp_path)[0].release()


def test_an_index_that_was_made_while_waiting_is_not_made_again(tmp_path):
    (tmp_path / "i.ns").mkdir()
    lock, told, found = fs.Lock(tmp_path / "i.ns" / creation.LOCK), [], []

    def wait():
        found.append(open_to_write(tmp_path / "i.ns", wait=30, on_wait=told.append))

    thread = threading.Thread(target=wait)
    thread.start()
    while not told:
        time.sleep(0.01)
    creation.create(tmp_path / "i.ns", (PHASH,))
    lock.release()
    thread.join()
    ((lock, _, is_new),) = found
    lock.release()
    assert not is_new
    assert manifests.read_current(tmp_path / "i.ns").specs == (PHASH,)
