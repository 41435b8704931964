import contextlib
import hashlib
import json
from dataclasses import fields, replace
from pathlib import Path

import pytest

from nearsearch.errors import (
    CorruptFileError,
    FormatTooNewError,
    FormatTooOldError,
    IndexNotFoundError,
)
from nearsearch.spec import get_spec
from nearsearch.store import manifest as manifests
from nearsearch.store.files import File
from nearsearch.store.log import Commit, Log
from nearsearch.store.manifest import Disabled, Manifest, Pointer, ShardEntry

FILE = File("shards/000001-00000000/items.arrow", 10, "0" * 64, "0" * 64)
LONG = File("shards/000001-00000000/members.arrow", 10**6, "1" * 64, "2" * 64)
TOMBSTONES = File("tombstones/000001-00000000-000002-00000000.arrow", 10, "3" * 64, "3" * 64)
ENTRY = ShardEntry(
    id="000001-00000000",
    items=3,
    members=4,
    codes={"pdq": 2},
    rows={"pdq": 3},
    files={"items": FILE, "members": LONG},
    tombstones=TOMBSTONES,
    dead_items=1,
    dead_members=2,
    disabled_items=1,
    disabled_members=1,
)
WHOLE = ShardEntry("000002-00000000", 5, 5, {"pdq": 5}, {"pdq": 5}, {"items": FILE})
COMMIT = Commit(7, "2026-01-01T00:00:00+00:00", "me", ("add", "remove"), 2, 1, 1, 7, 7, ("A",), "x")
LOG_FILE = File("log/000001-00000000.jsonl", 99, "4" * 64, "4" * 64)
MANIFEST = Manifest(
    generation=7,
    specs=(get_spec("pdq"), get_spec("phash")),
    shards=(ENTRY, WHOLE),
    columns={"note": "int64"},
    disabled=Disabled(frozenset(["A", "B"]), frozenset(["NL"])),
    log=Log((LOG_FILE,), (replace(COMMIT, generation=6), COMMIT)),
    kept=(Pointer("manifest-000005.json", "5" * 64), Pointer("manifest-000006.json", "6" * 64)),
    erased=4,
)


def test_what_is_encoded_is_decoded():
    assert manifests.decode(Path("m"), MANIFEST.encode()) == MANIFEST
    empty = Manifest(0, (get_spec("pdq"),))
    assert manifests.decode(Path("m"), empty.encode()) == empty


def test_the_example_has_no_field_as_it_is_by_default():
    for example in (MANIFEST, ENTRY, COMMIT):
        blank = type(example).__dataclass_fields__
        for field in fields(example):
            assert getattr(example, field.name) != blank[field.name].default


def test_what_is_counted():
    assert (MANIFEST.items, MANIFEST.members) == (3 - 1 + 5, 4 - 2 + 5)
    assert MANIFEST.commit == COMMIT
    assert Manifest(0, ()).commit is None
    assert (Manifest(0, ()).items, Manifest(0, ()).members) == (0, 0)


def test_all_files_are_named_with_their_roles():
    assert list(MANIFEST.named_files()) == [
        *(("items", FILE), ("members", LONG), ("tombstones", TOMBSTONES)),
        *(("items", FILE), ("log", LOG_FILE)),
    ]


def test_unknown_fields_are_ignored():
    value = json.loads(MANIFEST.encode())
    value["later"] = {"a": 1}
    value["shards"][0]["later"] = 2
    value["shards"][0]["files"]["items"]["later"] = 3
    value["log"]["newest"][0]["later"] = 4
    value["disabled"]["later"] = 5
    assert manifests.decode(Path("m"), json.dumps(value).encode()) == MANIFEST


def test_commit_and_read_back(tmp_path):
    pointer = manifests.make_current(tmp_path, MANIFEST)
    assert manifests.read_current(tmp_path) == MANIFEST
    assert manifests.read_pointer(tmp_path) == pointer
    assert manifests.read(tmp_path, pointer) == MANIFEST
    line = (tmp_path / "CURRENT").read_text()
    data = (tmp_path / "manifest-000007.json").read_bytes()
    assert line == f"{hashlib.sha256(data).hexdigest()}  manifest-000007.json\n"
    assert pointer == ("manifest-000007.json", hashlib.sha256(data).hexdigest())


def test_a_manifest_that_is_not_the_one_that_was_named(tmp_path):
    pointer = manifests.make_current(tmp_path, MANIFEST)
    with pytest.raises(CorruptFileError, match=r"manifest-000007\.json: SHA-256"):
        manifests.read(tmp_path, pointer._replace(sha256="0" * 64))
    with pytest.raises(CorruptFileError, match=r"manifest-000008\.json: manifest"):
        manifests.read(tmp_path, pointer._replace(name="manifest-000008.json"))


def test_a_later_format_is_refused():
    value = json.loads(MANIFEST.encode()) | {"format_version": 4}
    with pytest.raises(
        FormatTooNewError, match="format_version 4, this version reads up to 3"
    ) as e:
        manifests.decode(Path("m"), json.dumps(value).encode())
    assert (e.value.found, e.value.supported) == (4, 3)


@pytest.mark.parametrize("version", [2, 1, 0, -1])
def test_an_earlier_format_is_refused(version):
    value = json.loads(MANIFEST.encode()) | {"format_version": version}
    words = f"format_version {version}, this version reads 3; add the files again, to a new index"
    with pytest.raises(FormatTooOldError, match=words) as e:
        manifests.decode(Path("m"), json.dumps(value).encode())
    assert (e.value.found, e.value.supported) == (version, 3)


OUTSIDE = ["../x", "/etc/passwd", "a/../../b", "a//b", "shards/../../../secret", ""]


def files_of(value):
    entry = value["shards"][0]
    return [entry["files"]["items"], entry["tombstones"], value["log"]["files"][0]]


@pytest.mark.parametrize("which", range(3))
@pytest.mark.parametrize("name", OUTSIDE)
def test_file_names_stay_in_the_index(name, which):
    value = json.loads(MANIFEST.encode())
    files_of(value)[which]["name"] = name
    with pytest.raises(CorruptFileError, match="manifest"):
        manifests.decode(Path("m"), json.dumps(value).encode())


@pytest.mark.parametrize("name", [*OUTSIDE, "manifest-1.json", "a/manifest-000001.json", "CURRENT"])
def test_only_manifests_are_kept(name):
    value = json.loads(MANIFEST.encode())
    value["kept"][0]["name"] = name
    with pytest.raises(CorruptFileError, match="manifest"):
        manifests.decode(Path("m"), json.dumps(value).encode())


def at(value, way):
    for step in way:
        value = value[step]
    return value


OBJECTS = [
    *((), ("disabled",), ("log",), ("log", "newest", 0), ("kept", 0)),
    *(("shards", 0), ("shards", 0, "files", "items"), ("specs", 0)),
]
ENCODED = json.loads(MANIFEST.encode())
FIELDS = [(*way, name) for way in OBJECTS for name in at(ENCODED, way) if name != "written_by"]
UNLIKE_NULL = [
    way
    for way in FIELDS
    if not isinstance(at(ENCODED, way), str) and way[-1] not in ("tombstones", "format_version")
]


@pytest.mark.parametrize(
    ("way", "is_missing"),
    [
        *((way, True) for way in FIELDS if way != ("checksum",)),
        *((way, False) for way in UNLIKE_NULL),
    ],
    ids=str,
)
def test_missing_and_mistyped_fields(way, is_missing):
    value = json.loads(MANIFEST.encode())
    if is_missing:
        del at(value, way[:-1])[way[-1]]
    else:
        at(value, way[:-1])[way[-1]] = None
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


def test_names_of_manifests():
    assert manifests.generation_of("manifest-000007.json") == 7
    assert manifests.generation_of("manifest-12345678.json") == 12345678
    assert Manifest(7, ()).name == "manifest-000007.json"
    for name in ("manifest-7.json", "manifest-000007.json.bak", "xmanifest-000007.json", "CURRENT"):
        assert manifests.generation_of(name) is None


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\n",
        b"x",
        b"0" * 64 + b"  manifest-000001.json",
        b"0" * 64 + b"  ../manifest-1.json\n",
    ],
)
def test_what_is_no_pointer(tmp_path, line):
    (tmp_path / "CURRENT").write_bytes(line)
    with pytest.raises(CorruptFileError, match="CURRENT: content"):
        manifests.read_pointer(tmp_path)


def test_a_manifest_knows_its_own_bytes():
    """Also where CURRENT, which has their SHA-256, is lost: no changed byte passes as another."""
    for position in range(len(MANIFEST.encode())):
        data = bytearray(MANIFEST.encode())
        data[position] ^= 1
        with contextlib.suppress(CorruptFileError):
            assert manifests.decode(Path("m"), bytes(data)) == MANIFEST, position
