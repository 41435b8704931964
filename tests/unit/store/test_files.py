import hashlib

import numpy as np
import pytest

from nearsearch.errors import CorruptFileError
from nearsearch.store import files, fs
from nearsearch.store.files import File

SIZES = [0, 1, 1000, 131_072, 131_073, 300_000]


@pytest.fixture(params=SIZES)
def written(tmp_path, request):
    """A folder and its one file, of each size; from 131,073 bytes on it is more than its edges."""
    fs.make_directory(tmp_path / "d")
    data = np.random.default_rng(0).bytes(request.param)
    return tmp_path, File("d/f", *fs.create_file(tmp_path / "d" / "f", [data])), data


def flip(path, position):
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def test_what_is_encoded_is_decoded(written):
    _, file, _ = written
    encoded = file.encode()
    assert files.decode_file(encoded) == file
    assert ("edges" in encoded) == (file.size > 131_072)  # else it is the SHA-256 of all


def test_folder():
    assert File("a/b/c", 0, "", "").folder == "a/b"
    assert File("c", 0, "", "").folder == ""


@pytest.mark.parametrize("name", ["", "/", "/etc/passwd", "..", "../a", "a/../b", "a//b", "a/"])
def test_names_that_lead_elsewhere(name):
    with pytest.raises(ValueError, match="file name"):
        files.decode_file({"name": name, "size": 1, "sha256": "0"})


def test_a_whole_file_is_mapped_and_has_no_problem(written):
    root, file, data = written
    assert files.map_checked(root, file).tobytes() == data
    told = []
    assert files.problem_of(root, file, told.append) is None
    assert sum(told) == len(data)


@pytest.mark.parametrize("how", ["missing", "short", "long", "folder"])
def test_files_of_another_length(written, how):
    root, file, data = written
    path = root / file.name
    if how in ("missing", "folder"):
        path.unlink()
    if how == "folder":
        path.mkdir()
    elif how == "short":
        path.write_bytes(data[:-1] or b"none can be shorter")
    elif how == "long":
        path.write_bytes(data + b"\0")
    with pytest.raises(CorruptFileError, match="length in bytes") as caught:
        files.map_checked(root, file)
    assert caught.value.path == str(path)
    assert caught.value.expected == file.size
    assert caught.value.actual == (path.stat().st_size if path.is_file() else "no file")
    if how == "missing":
        assert files.problem_of(root, file) == "there is no such file"
    elif how == "folder":  # not damage that a repair could do without: the system has a fault
        with pytest.raises(IsADirectoryError):
            files.problem_of(root, file)
    else:
        problem = f"{path.stat().st_size} bytes instead of {file.size}"
        assert files.problem_of(root, file) == problem


@pytest.mark.parametrize("position", [0, 65_535, 65_536, 150_000, -65_537, -65_536, -1])
def test_altered_bytes(tmp_path, position):
    data = np.random.default_rng(1).bytes(300_000)
    file = File("f", *fs.create_file(tmp_path / "f", [data]))
    flip(tmp_path / "f", position)
    assert files.problem_of(tmp_path, file) == "its SHA-256 is not the one it was written with"
    position %= len(data)
    if 65_536 <= position < len(data) - 65_536:
        files.map_checked(tmp_path, file)  # between the edges nobody looks
    else:
        with pytest.raises(CorruptFileError, match=r"f: SHA-256 of its edges") as caught:
            files.map_checked(tmp_path, file)
        ends = (tmp_path / "f").read_bytes()
        ends = hashlib.sha256(ends[:65_536] + ends[-65_536:]).hexdigest()
        assert (caught.value.expected, caught.value.actual) == (file.edges, ends)


def test_any_altered_byte_of_a_short_file_is_seen_when_it_is_mapped(tmp_path):
    data = np.random.default_rng(2).bytes(131_072)
    file = File("f", *fs.create_file(tmp_path / "f", [data]))
    for position in np.random.default_rng(3).integers(0, len(data), 20):
        flip(tmp_path / "f", position)
        with pytest.raises(CorruptFileError, match="SHA-256 of its edges"):
            files.map_checked(tmp_path, file)
        flip(tmp_path / "f", position)
    files.map_checked(tmp_path, file)
