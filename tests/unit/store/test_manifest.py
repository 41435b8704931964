import hashlib
import json
from pathlib import Path

import pytest

from nearsearch.errors import (
    CorruptFileError,
    FormatTooNewError,
    IndexExistsError,
    IndexNotFoundError,
)
from nearsearch.spec import get_spec
from nearsearch.store import manifest as manifests
from nearsearch.store.manifest import File, Manifest, ShardEntry

FILE = File("shards/000001-00000000/items.arrow", 10, "0" * 64)
ENTRY = ShardEntry("000001-00000000", 3, 4, {"pdq": 2}, {"pdq": 3}, {"items": FILE}, FILE, 1, 2)
MANIFEST = Manifest(7, "2026-01-01T00:00:00+00:00", (get_spec("pdq"),), (ENTRY,), {"note": "int64"})


def test_what_is_encoded_is_decoded():
    assert manifests.decode(Path("m"), MANIFEST.encode()) == MANIFEST


def test_unknown_fields_are_ignored():
    value = json.loads(MANIFEST.encode())
    value["later"] = {"a": 1}
    value["shards"][0]["later"] = 2
    assert manifests.decode(Path("m"), json.dumps(value).encode()) == MANIFEST


def test_commit_and_read_back(tmp_path):
    manifests.make_current(tmp_path, MANIFEST)
    assert manifests.read_current(tmp_path) == MANIFEST
    line = (tmp_path / "CURRENT").read_text()
    data = (tmp_path / "manifest-000007.json").read_bytes()
    assert line == f"{hashlib.sha256(data).hexdigest()}  manifest-000007.json\n"


def test_a_later_format_is_refused():
    value = json.loads(MANIFEST.encode()) | {"format_version": 2}
    with pytest.raises(
        FormatTooNewError, match="format_version 2, this version reads up to 1"
    ) as e:
        manifests.decode(Path("m"), json.dumps(value).encode())
    assert (e.value.found, e.value.supported) == (2, 1)


@pytest.mark.parametrize(
    "name", ["../x", "/etc/passwd", "a/../../b", "a//b", "shards/../../../secret", ""]
)
def test_file_names_stay_in_the_index(name):
    value = json.loads(MANIFEST.encode())
    value["shards"][0]["files"]["items"]["name"] = name
    with pytest.raises(CorruptFileError, match="manifest"):
        manifests.decode(Path("m"), json.dumps(value).encode())


@pytest.mark.parametrize("field", ["generation", "specs", "shards", "columns", "created_at"])
@pytest.mark.parametrize("wrong", [None, "missing"])
def test_missing_and_mistyped_fields(field, wrong):
    value = json.loads(MANIFEST.encode())
    if wrong is None and field != "created_at":
        value[field] = None
    else:
        del value[field]
    with pytest.raises(CorruptFileError):
        manifests.decode(Path("m"), json.dumps(value).encode())


@pytest.mark.parametrize("data", [b"", b"[]", b"7", b"{}", b"{", b"\xff"])
def test_what_is_no_manifest(data):
    with pytest.raises(CorruptFileError):
        manifests.decode(Path("m"), data)


def test_no_index(tmp_path):
    with pytest.raises(IndexNotFoundError, match="there is no such directory"):
        manifests.read_current(tmp_path / "none")
    with pytest.raises(IndexNotFoundError, match="no file CURRENT"):
        manifests.read_current(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(IndexNotFoundError):
        manifests.read_current(tmp_path / "file")


def test_where_an_index_may_be_created(tmp_path):
    folders = {"shards", "tombstones"}
    manifests.check_creatable(tmp_path / "none", folders, "writer.lock")
    manifests.check_creatable(tmp_path, folders, "writer.lock")
    for name in ["writer.lock", "manifest-000000.json", "CURRENT.0123abcd.tmp"]:
        (tmp_path / name).touch()
    (tmp_path / "shards").mkdir()
    manifests.check_creatable(tmp_path, folders, "writer.lock")
    assert [path.name for path in manifests.temporaries(tmp_path)] == ["CURRENT.0123abcd.tmp"]
    for name in ["manifest-1.json", "manifest-000000.json.bak", "CURRENT.tmp", "photo.jpg"]:
        (tmp_path / name).touch()
        with pytest.raises(IndexExistsError):
            manifests.check_creatable(tmp_path, folders, "writer.lock")
        (tmp_path / name).unlink()
    (tmp_path / "shards" / "mine").touch()
    with pytest.raises(IndexExistsError):
        manifests.check_creatable(tmp_path, folders, "writer.lock")
    (tmp_path / "shards" / "mine").unlink()
    (tmp_path / "manifest-000007.json").touch()
    with pytest.raises(
        CorruptFileError,
        match=r"CURRENT: content: expected the output of 'sha256sum manifest-N.json'",
    ):
        manifests.check_creatable(tmp_path, folders, "writer.lock")


def test_superseded_manifests(tmp_path):
    for generation in range(1, 12):
        (tmp_path / f"manifest-{generation:06d}.json").touch()
    (tmp_path / "manifest-1.json").touch()
    current = Manifest(11, "", ())
    names = sorted(path.name for path in manifests.superseded(tmp_path, current))
    assert names == ["manifest-000001.json", "manifest-000002.json", "manifest-000003.json"]
