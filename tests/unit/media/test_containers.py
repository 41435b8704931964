from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
import re
import struct
import tarfile
import time
import tracemalloc
import zipfile
import zlib
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from nearsearch.errors import MediaError, NotMediaError, UsageError
from nearsearch.media.containers import Bounds, Member, container_format, members
from nearsearch.media.fingerprint import outcomes
from nearsearch.media.seen import Wanted
from nearsearch.spec import Spec

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

BOUNDS = Bounds(max_bytes=1 << 20)
LINK = NotMediaError("a link, device or pipe in a tar")
FILES = {
    "a.jpg": b"first",
    "dir/b.png": bytes(range(256)) * 4,
    "dir/sub/c": b"",
    "z": random.Random(3).randbytes(9000),
}


class Outcome(NamedTuple):
    name: str
    place: tuple[int, ...]
    data: bytes | None
    reason: str
    skipped: bool


def take_all(head: bytes) -> None:
    pass


def walk(
    data: bytes, name: str = "x.zip", bounds: Bounds = BOUNDS, after: Sequence[int] = ()
) -> list[Outcome]:
    """Load every member; anything but bytes and `MediaError` fails the test."""
    return [outcome(member) for member in members(io.BytesIO(data), name, bounds, after=after)]


def outcome(member: Member) -> Outcome:
    try:
        data, problem = member.load(take_all)
    except MediaError as error:
        assert error.reason
        skipped = isinstance(error, NotMediaError)
        assert error.stage == ("sniff" if skipped else "container")
        return Outcome(member.name, member.place, None, error.reason, skipped)
    assert type(data) is bytes
    assert problem is None or (problem and data)
    return Outcome(member.name, member.place, data, problem or "", False)


def read(outcomes: list[Outcome]) -> dict[str, bytes]:
    return {found.name: found.data for found in outcomes if found.data is not None}


def reasons(outcomes: list[Outcome]) -> dict[str, str]:
    return {found.name: found.reason for found in outcomes if found.reason}


def make_zip(files: dict[str, bytes] | list[tuple[str, bytes]], method: int = 8) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in files.items() if isinstance(files, dict) else files:
            archive.writestr(zipfile.ZipInfo(name), data, method)
    return buffer.getvalue()


def make_tar(
    files: dict[str, bytes] | list[tuple[str, bytes]], layout: int = tarfile.PAX_FORMAT
) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=layout) as archive:
        for name, data in files.items() if isinstance(files, dict) else files:
            header = tarfile.TarInfo(name)
            header.size = len(data)
            archive.addfile(header, io.BytesIO(data))
    return buffer.getvalue()


def zstd(data: bytes) -> bytes:
    return pa.Codec("zstd").compress(data).to_pybytes()


COMPRESSORS = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zst": zstd}
NESTED = make_zip(
    [
        ("1", b"one"),
        ("in.tar.gz", gzip.compress(make_tar([("2", b"two"), ("deep.zip", make_zip(FILES))]))),
        ("3", b"three"),
        ("empty.zip", make_zip({})),
        ("4.bz2", bz2.compress(b"four")),
        ("5", b"five"),
    ]
)

# --- formats ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (make_zip(FILES), "ZIP"),
        (make_zip({}), "ZIP"),
        (b"MZ" + bytes(500) + make_zip(FILES), "ZIP"),
        (b"MZ" + bytes(5000), None),
        (b"#!/bin/sh\n", None),
        (make_tar(FILES), "TAR"),
        (make_tar(FILES)[:257] + bytes(8) + make_tar(FILES)[265:], None),  # checksum is now wrong
        (gzip.compress(b"x"), "GZIP"),
        (bz2.compress(b"x"), "BZIP2"),
        (lzma.compress(b"x"), "XZ"),
        (zstd(b"x"), "ZSTD"),
        (bz2.compress(b""), "BZIP2"),
        (b"7z\xbc\xaf\x27\x1c\0\4", "7Z"),
        (b"Rar!\x1a\x07\0", "RAR"),
        (b"Rar!\x1a\x07\x01\0", "RAR"),
        (b"MSCF\0\0\0\0", "CAB"),
        (b"\x04\x22\x4d\x18", "LZ4"),
        (b"", None),
        (b"PK", None),
        (bytes(10_000), None),
        (b"\xff\xd8\xff\xe0" + bytes(600), None),
    ],
)  # fmt: skip
def test_kind_is_told_by_the_bytes(data: bytes, kind: str | None) -> None:
    assert container_format(io.BytesIO(data)) == kind


def old_tar(name: bytes, data: bytes) -> bytes:
    """A tar of before POSIX: no magic, only a checksum."""
    block = bytearray(name.ljust(100, b"\0") + b"0000644\0" * 3)
    block += b"%011o\0%011o\0" % (len(data), 0) + b" " * 8 + b"0"
    block += bytes(512 - len(block))
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + data + bytes(-len(data) % 512) + bytes(1024)


@pytest.mark.parametrize("method", [0, 8, 12, 14])
def test_zip(method: int) -> None:
    found = walk(make_zip(FILES, method))
    assert read(found) == FILES
    assert [member.place for member in found] == [(i,) for i in range(len(FILES))]


@pytest.mark.parametrize("layout", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("pack", [bytes, *COMPRESSORS.values()])
def test_tar(layout: int, pack: type) -> None:
    long = {"d/" * 60 + "é": b"long", "ü" * 40: b"not ASCII"}
    found = walk(pack(make_tar(FILES | long, layout)))
    assert read(found) == FILES | long
    assert len(found) == len(FILES) + 2


def test_old_tar() -> None:
    data = old_tar(b"a.jpg", b"old")
    assert container_format(io.BytesIO(data)) == "TAR"
    assert read(walk(data)) == {"a.jpg": b"old"}


@pytest.mark.parametrize("suffix", COMPRESSORS)
def test_one_compressed_file(suffix: str) -> None:
    data = COMPRESSORS[suffix](b"one ") + COMPRESSORS[suffix](b"two")
    assert read(walk(data, f"dir/a.jpg.{suffix}")) == {"a.jpg": b"one two"}
    assert read(walk(data, "a")) == {"content": b"one two"}
    assert read(walk(COMPRESSORS[suffix](b""), "a.b")) == {"a": b""}
    (member,) = members(io.BytesIO(data), "a.jpg.gz", BOUNDS)
    assert member.size is None


def test_the_name_in_a_gzip_header_is_not_asked() -> None:
    buffer = io.BytesIO()
    with gzip.GzipFile("/etc/passwd", "wb", fileobj=buffer) as file:
        file.write(b"x")
    assert read(walk(buffer.getvalue(), "a.jpg.gz")) == {"a.jpg": b"x"}


def test_zstd_in_frames_with_things_between() -> None:
    skippable = b"\x50\x2a\x4d\x18\x04\0\0\0user"
    data = zstd(b"one ") + skippable + zstd(b"two")
    assert read(walk(data)) == read(walk(skippable + data)) == {"x": b"one two"}


def test_zip_behind_a_program_and_before_a_comment() -> None:
    archive = bytearray(make_zip(FILES))
    comment = b"PK\x05\x06" + bytes(30)
    archive[-2:] = struct.pack("<H", len(comment))
    assert read(walk(b"MZ" + bytes(700) + archive + comment)) == FILES
    assert walk(make_zip({})) == []


def test_zip64(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 100)
    data = make_zip(FILES)
    assert b"PK\x06\x06" in data
    assert read(walk(data)) == read(walk(b"MZ" + data)) == FILES


@pytest.mark.parametrize("magic", [b"7z\xbc\xaf\x27\x1c\0\4", b"Rar!\x1a\x07\0"])
def test_archives_that_are_not_read(magic: bytes) -> None:
    kind = container_format(io.BytesIO(magic))
    told = f"{kind} archives are not read by this version"
    assert reasons(walk(magic)) == {"": told}
    assert reasons(walk(make_zip({"a": magic, "b": b"1"}))) == {"a": told}


def test_what_is_no_archive() -> None:
    (found,) = walk(b"just text")
    assert found == Outcome("", (0,), None, "no known archive format", True)


def test_the_file_stays_open() -> None:
    for data in (NESTED, *(pack(make_tar(FILES)) for pack in COMPRESSORS.values())):
        file = io.BytesIO(data)
        for member in members(file, "x", BOUNDS):
            outcome(member)
        assert not file.closed


# --- one member after the other ---------------------------------------------------------------


def test_archives_inside_are_walked_where_they_stand() -> None:
    found = walk(NESTED)
    assert [(member.name, member.place, member.reason) for member in found] == [
        ("1", (0,), ""),
        ("in.tar.gz", (1,), "GZIP archive: its members follow"),
        ("in.tar.gz!2", (1, 0), ""),
        ("in.tar.gz!deep.zip", (1, 1), "ZIP archive: its members follow"),
        *((f"in.tar.gz!deep.zip!{name}", (1, 1, i), "") for i, name in enumerate(FILES)),
        ("3", (2,), ""),
        ("empty.zip", (3,), "ZIP archive: its members follow"),
        ("4.bz2", (4,), "BZIP2 archive: its members follow"),
        ("4.bz2!4", (4, 0), ""),
        ("5", (5,), ""),
    ]
    assert all(member.skipped for member in found if member.reason)
    assert {name.rpartition("!")[2]: data for name, data in read(found).items()} == FILES | {
        "1": b"one", "2": b"two", "3": b"three", "4": b"four", "5": b"five",
    }  # fmt: skip


def test_a_program_inside_is_asked_for_a_zip() -> None:
    found = walk(make_tar({"a.exe": b"MZ" + bytes(99) + make_zip(FILES), "b.exe": b"MZ plain"}))
    assert read(found) == {f"a.exe!{name}": data for name, data in FILES.items()} | {
        "b.exe": b"MZ plain"
    }


DAMAGED_INSIDE = make_tar(
    [
        ("t.zip", make_zip(FILES)[:-30]),
        ("a", b"1"),
        ("u.tar", make_tar(FILES)[:1200]),
        ("b", b"2"),
    ]
)


@pytest.mark.parametrize(
    "pack", [bytes, gzip.compress, lambda data: make_zip({"x": data, "y": b"2"})]
)
@pytest.mark.parametrize("archive", [NESTED, make_tar(FILES), DAMAGED_INSIDE])
def test_resumed_anywhere_the_rest_is_the_same(archive: bytes, pack: type) -> None:
    data = pack(archive)
    full = walk(data)
    assert len({found.name for found in full}) == len({found.place for found in full}) == len(full)
    assert [found.place for found in full] == sorted(found.place for found in full)
    for position, last in enumerate(full):
        rest = [
            found for found in full[position + 1 :] if found.place[: len(last.place)] != last.place
        ]
        assert walk(data, after=last.place) == rest


def test_a_zip_is_resumed_without_touching_what_came_before() -> None:
    data = bytearray(make_zip(FILES, 0))
    data[: data.index(FILES["z"])] = bytes(data.index(FILES["z"]))  # also all local headers
    data[:4] = b"PK\x03\x04"
    assert read(walk(bytes(data), after=(2,))) == {}
    data = bytearray(make_zip(FILES, 0))
    data[: data.index(b"PK\x03\x04", 40)] = b"PK\x03\x04".ljust(data.index(b"PK\x03\x04", 40), b"!")
    assert list(read(walk(bytes(data), after=(0,)))) == list(FILES)[1:]


@pytest.mark.parametrize("pack", [make_zip, make_tar, lambda files: gzip.compress(make_tar(files))])
def test_members_are_named_before_they_are_read_and_may_be_passed_over(pack: type) -> None:
    loaded = {}
    for member in members(io.BytesIO(pack(FILES | {"in.zip": make_zip(FILES)})), "x", BOUNDS):
        if member.name == "z":
            loaded[member.name] = member.load(take_all).data
        else:
            assert member.size == len(FILES.get(member.name, make_zip(FILES)))
    assert loaded == {"z": FILES["z"]}  # and nothing of the zip that was not opened


def test_load_is_for_once_and_now() -> None:
    walking = members(io.BytesIO(make_zip(FILES)), "x", BOUNDS)
    first = next(walking)
    first.load(take_all)
    with pytest.raises(UsageError, match="only once, and before the next"):
        first.load(take_all)
    second = next(walking)
    next(walking)
    with pytest.raises(UsageError, match="only once, and before the next"):
        second.load(take_all)


# --- names ------------------------------------------------------------------------------------

NAMES = ["/etc/passwd", "../../x", "a\nb", "C:\\x", "a/./b", "wow!.jpg", ".", " "]


@pytest.mark.parametrize("pack", [make_zip, make_tar])
def test_names_are_kept_as_they_are(pack: type) -> None:
    found = read(walk(pack({name: name.encode() for name in NAMES})))
    assert list(found) == [name.replace("!", "%21") for name in NAMES]


def test_bytes_that_are_no_utf8_and_nul() -> None:
    for flags in (0, 0x800):
        data = bytearray(make_zip([("abcd.jpg", b"1")]))
        data[data.index(b"PK\1\2") + 8 :][:2] = struct.pack("<H", flags)
        at = data.rindex(b"abcd")
        data[at : at + 4] = b"\xff\0\x80!"
        (name,) = read(walk(bytes(data)))
        assert name.replace("%21", "!").encode("utf-8", "surrogateescape") == b"\xff\0\x80!.jpg"
    (name,) = read(walk(old_tar(b"\xff.jpg", b"1")))
    assert name.encode("utf-8", "surrogateescape") == b"\xff.jpg"


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("pack", [make_zip, make_tar])
def test_equal_names_are_numbered(pack: type) -> None:
    names = ["a.jpg", "a.jpg", "a (2).jpg", "a.jpg", "d.e/f", "d.e/f", "n!", "n%21", "", "unnamed"]
    inner = pack([(name, str(i).encode()) for i, name in enumerate(names)])
    expected = [
        "a.jpg", "a (2).jpg", "a (2) (2).jpg", "a (3).jpg", "d.e/f", "d.e/f (2)",
        "n%21", "n%21 (2)", "unnamed", "unnamed (2)",
    ]  # fmt: skip
    assert list(read(walk(inner)).items()) == [
        (name, str(i).encode()) for i, name in enumerate(expected)
    ]
    outer = make_zip([("i.zip", inner), ("i.zip!a.jpg", b"x"), ("i.zip", inner)])
    found = [member.name for member in walk(outer)]
    assert len(set(found)) == len(found) == 2 * len(names) + 3
    assert "i.zip%21a.jpg" in found
    assert "i (2).zip!a.jpg" in found


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_very_long_names_are_cut() -> None:
    found = walk(make_tar([("x" * 5000 + "1", b"1"), ("x" * 5000 + "2", b"2")]))
    assert list(read(found)) == ["x" * 4096, "x" * 4096 + " (2)"]


# --- things that are no files -----------------------------------------------------------------


def test_folders_are_no_members() -> None:
    assert walk(make_zip({"dir/": b""})) == []
    assert read(walk(make_zip({"dir/": b"hidden"}))) == {"dir/": b"hidden"}
    header = tarfile.TarInfo("dir")
    header.type = tarfile.DIRTYPE
    assert walk(header.tobuf() + bytes(1024)) == []


@pytest.mark.parametrize(
    "kind",
    [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE],
)
def test_links_and_devices_are_skipped(kind: bytes) -> None:
    header = tarfile.TarInfo("evil.jpg")
    header.type, header.linkname = kind, "/etc/passwd"
    found = walk(header.tobuf() + make_tar(FILES))
    assert found[0] == Outcome("evil.jpg", (0,), None, LINK.reason, True)
    assert read(found) == FILES


def sparse(layout: str) -> bytes:
    header = tarfile.TarInfo("holes")
    header.size = 512
    if layout == "pax":
        header.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.name": "true name"}
        return header.tobuf(tarfile.PAX_FORMAT) + bytes(512)
    header.type = tarfile.GNUTYPE_SPARSE
    block = bytearray(header.tobuf(tarfile.GNU_FORMAT))
    block[482] = 1
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + bytes(504) + b"\1" + bytes(7) + b"\xff" * 504 + bytes(8) + b"\xff" * 512


@pytest.mark.parametrize("layout", ["pax", "gnu"])
def test_sparse_files_are_refused_and_the_rest_read(layout: str) -> None:
    found = walk(sparse(layout) + make_tar(FILES))
    assert read(found) == FILES
    name = {"pax": "true name", "gnu": "holes"}[layout]
    assert reasons(found) == {name: "sparse files in a tar are not read by this version"}


# --- limits -----------------------------------------------------------------------------------


@pytest.mark.parametrize("pack", [make_zip, make_tar])
def test_a_member_that_is_too_large(pack: type) -> None:
    found = walk(pack({"a": bytes(BOUNDS.max_bytes), "b": bytes(BOUNDS.max_bytes + 1), "c": b"1"}))
    assert list(read(found)) == ["a", "c"]
    assert reasons(found) == {"b": "1,048,577 bytes exceed the limit of 1,048,576"}


def restate(data: bytes, size: int) -> bytes:
    """Let the directory of a zip state another size for its first entry."""
    changed = bytearray(data)
    struct.pack_into("<I", changed, changed.index(b"PK\1\2") + 24, size)
    return bytes(changed)


def test_sizes_are_not_believed() -> None:
    data = make_zip({"a": bytes(BOUNDS.max_bytes + 1), "b": b"1"})
    assert reasons(walk(restate(data, 5))) == {
        "a": "more than 1,048,576 bytes, the limit; 5 were stated"
    }
    found = walk(restate(make_zip(FILES), 3))
    assert reasons(found) == {"a.jpg": "damaged: 5 bytes, where 3 were stated"}
    assert reasons(walk(gzip.compress(bytes(BOUNDS.max_bytes + 1)))) == {
        "x": "more than 1,048,576 bytes, the limit"
    }


def test_memory_is_bounded_by_the_limit() -> None:
    data = restate(make_zip({"a": bytes(50 << 20)}), 5)
    tracemalloc.start()
    try:
        walk(data)
        assert tracemalloc.get_traced_memory()[1] < 3 * BOUNDS.max_bytes
    finally:
        tracemalloc.stop()


def expansion(outcomes: list[Outcome]) -> str:
    assert sum("the limit: what follows" in found.reason for found in outcomes[:-1]) <= 1
    assert outcomes[-1].name == ""
    return outcomes[-1].reason


@pytest.mark.parametrize("where", ["zip", "tar.gz", "zip in zip", "tar.gz in tar"])
def test_expansion_ends_the_walk(where: str) -> None:
    bounds = Bounds(max_bytes=1 << 30, max_expansion=2)
    ending = [("bomb", bytes(70 << 20)), ("c", b"1")]
    data = {
        "zip": lambda: make_zip([("a", b"0"), *ending]),
        "tar.gz": lambda: gzip.compress(make_tar([("a", b"0"), *ending]), 1),
        "zip in zip": lambda: make_zip([("a", b"0"), ("b", make_zip(ending)), ("d", b"1")]),
        "tar.gz in tar": lambda: make_tar(
            [("a", b"0"), ("b", gzip.compress(make_tar(ending), 1)), ("d", b"1")]
        ),
    }[where]()
    found = walk(data, bounds=bounds)
    assert read(found) == {"a": b"0"}
    allowed = (64 << 20) + 2 * len(data)
    assert expansion(found) == (
        f"more than {allowed:,} bytes came out of {len(data):,}, the limit: "
        "what follows was not read"
    )
    if where == "tar.gz":  # the same when nobody loads anything
        unread = list(members(io.BytesIO(data), "x", bounds))
        assert [member.name for member in unread] == ["a", "bomb", ""]


def test_entries_that_overlap_are_bounded_by_what_they_yield() -> None:
    """One kernel of zeros, named by many records of the directory."""
    archive = make_zip({"a": bytes(1 << 20)})
    start = archive.index(b"PK\1\2")
    record, end = archive[start:-22], bytearray(archive[-22:])
    many = record * 500
    struct.pack_into("<I", end, 12, len(many))
    found = walk(
        archive[:start] + many + bytes(end), bounds=Bounds(max_bytes=1 << 20, max_expansion=1)
    )
    assert 60 <= len(read(found)) <= 66
    assert expansion(found).startswith("more than 67,")


def test_the_number_of_members_ends_the_walk() -> None:
    bounds = Bounds(max_bytes=1 << 20, max_members=5)
    found = walk(NESTED, bounds=bounds)
    assert [member.name for member in found][-3:] == [
        "in.tar.gz!deep.zip",
        "in.tar.gz!deep.zip!a.jpg",
        "",
    ]
    assert reasons(found)[""] == "more than 5 members, the limit: what follows was not read"


def test_a_million_names_cost_neither_time_nor_memory() -> None:
    archive = make_zip({"a": b""})
    start = archive.index(b"PK\1\2")
    record, end = archive[start:-22], bytearray(archive[-22:])
    many = record * 1_000_000
    struct.pack_into("<I", end, 12, len(many))
    data = archive[:start] + many + bytes(end)
    bounds = Bounds(max_bytes=1 << 20, max_members=20_000)
    began = time.monotonic()
    tracemalloc.start()
    try:
        count = sum(1 for _ in members(io.BytesIO(data), "x", bounds))
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
    assert count == 20_001
    assert time.monotonic() - began < 3


def test_depth() -> None:
    data = b"bottom"
    for level in range(6):
        data = make_zip([(f"{level}", data), ("side", b"x")])
    found = walk(data)
    assert reasons(found)["5!4!3!2"] == "ZIP archive inside 4 others: the limit of 4"
    assert set(read(found)) == {"side", "5!side", "5!4!side", "5!4!3!side"}
    flat = Bounds(max_bytes=1 << 20, max_depth=1)
    assert list(read(walk(NESTED, bounds=flat))) == ["1", "3", "5"]


def test_a_quine_ends_by_depth() -> None:
    """An archive that holds itself: here, a gzip whose reader is given the same bytes again."""
    data = b"x"
    for _ in range(8):
        data = gzip.compress(data)
    found = walk(data, "q.gz")
    assert len(found) == 4
    assert found[-1].reason == "GZIP archive inside 4 others: the limit of 4"


def test_headers_of_a_tar_are_bounded() -> None:
    header = tarfile.TarInfo("x")
    for kind in (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME):
        header.type, header.size = kind, (1 << 20) + 1
        bomb = header.tobuf() + bytes(2049 * 512)
        found = walk(make_tar({"a": b"0"})[:1024] + bomb + make_tar(FILES))
        assert read(found) == {"a": b"0"} | {
            "a (2)" if n == "a" else n: d for n, d in FILES.items()
        }
        assert reasons(found) == {
            "": "a tar header of 1,048,577 bytes exceeds the limit of 1,048,576, after 'a'"
        }
        header.size = 7 << 30  # octal digits end at 8 GiB
        assert reasons(walk(header.tobuf() + make_tar(FILES)))[""].startswith("truncated: ")


def test_a_pax_header_of_many_short_records_is_parsed_in_time() -> None:
    header = tarfile.TarInfo("x")
    records = b"5 a=\n" * 200_000
    header.type, header.size = tarfile.XHDTYPE, len(records)
    padding = bytes(-len(records) % 512)
    began = time.monotonic()
    assert read(walk(header.tobuf() + records + padding + make_tar(FILES))) == FILES
    many = header.tobuf() * 5000  # and headers of headers are no recursion
    walk(many)
    assert time.monotonic() - began < 3


# --- damage -----------------------------------------------------------------------------------


def patched(
    data: bytes, record_offset: int, layout: str, value: int, *, both: bool = False
) -> bytes:
    """Change the first record of a zip directory; `both`: and the local header."""
    changed = bytearray(data)
    struct.pack_into(layout, changed, changed.index(b"PK\1\2") + record_offset, value)
    if both:
        struct.pack_into(layout, changed, record_offset - 2, value)
    return bytes(changed)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (patched(make_zip(FILES), 8, "<H", 1, both=True), "encrypted"),
        (patched(make_zip(FILES), 10, "<H", 9, both=True), "zip compression method 9 is not read"),
        (patched(make_zip(FILES), 10, "<H", 98, both=True), "zip compression method 98 is not"),
        (patched(make_zip(FILES, 14), 20, "<I", 6, both=True), "damaged: |truncated: "),
        (patched(make_zip(FILES), 42, "<I", 0xFFFFFFF0), "no zip entry at byte 4,294,967,280"),
    ],
)  # fmt: skip
def test_a_damaged_member_costs_itself(data: bytes, reason: str) -> None:
    found = walk(data)
    ((name, told),) = reasons(found).items()
    assert name == "a.jpg"
    assert re.match(reason, told), told
    assert list(read(found)) == list(FILES)[1:]


BAD_SUM = "damaged: the checksum (CRC-32) does not match"


@pytest.mark.parametrize(
    ("data", "got", "reason"),
    [
        (patched(make_zip(FILES), 16, "<I", 7), b"first", BAD_SUM),
        (patched(make_zip(FILES), 20, "<I", 4, both=True), b"fir", BAD_SUM),
        (patched(make_zip(FILES, 0), 20, "<I", 4, both=True), b"firs", BAD_SUM),
        (restate(make_zip(FILES), 1 << 30), b"first", "damaged: 5 bytes, where 1,073,741,824 were"),
        (patched(make_zip(FILES), 24, "<I", 4), b"first", "damaged: 5 bytes, where 4 were stated"),
        (make_zip(FILES, 0).replace(b"first", b"fist!"), b"fist!", BAD_SUM),
        (make_tar({"a.jpg": b"first" * 99})[:600], (b"first" * 99)[:88], "truncated: 407 bytes"),
    ],
)  # fmt: skip
def test_what_came_out_of_a_damaged_member_comes_with_its_problem(
    data: bytes, got: bytes, reason: str
) -> None:
    first = walk(data)[0]
    assert (first.name, first.data) == ("a.jpg", got)
    assert first.reason.startswith(reason)
    again = walk(make_tar([("in", data), ("b", b"2")]))  # nothing of it is lost one level down
    assert read(again)["in!a.jpg"] == got
    assert read(again)["b"] == b"2"


def test_a_damaged_picture_in_an_archive_is_hashed_and_called_damaged(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    noise = random.Random(2).randbytes(120 * 100 * 3)
    Image.frombytes("RGB", (120, 100), noise).save(buffer, "JPEG")
    jpeg = buffer.getvalue()
    flipped = bytearray(make_zip({"a.jpg": jpeg, "b.jpg": jpeg[:20] * 9}, 0))
    flipped[flipped.index(jpeg) + len(jpeg) // 2] ^= 1
    at = flipped.index(jpeg[:20] * 9) + 21
    flipped[at] ^= 1
    cut = make_tar({"a.jpg": jpeg})[: 512 + len(jpeg) * 3 // 4]
    wanted = Wanted(
        specs=[Spec("pdq", 256, 1, "luma-2048")], digests=[], max_pixels=1 << 20, bounds=BOUNDS
    )
    for name, data in {"x.zip": flipped, "x.tar": cut}.items():
        (tmp_path / name).write_bytes(data)
    found = [out for out in outcomes(str(tmp_path / "x.zip"), wanted) if "member" in out]
    hashed, failed = (out for out in found if out["status"] != "at")
    assert (hashed["status"], hashed["stage"], hashed["size"]) == ("hashed", "damaged", len(jpeg))
    assert hashed["reason"].startswith(BAD_SUM)
    assert (failed["status"], failed["stage"]) == ("failed", "decode")
    assert failed["reason"].startswith(f"{BAD_SUM}; ")
    hashed = [out for out in outcomes(str(tmp_path / "x.tar"), wanted) if "member" in out][1]
    assert (hashed["status"], hashed["stage"]) == ("hashed", "damaged")
    assert re.match("truncated: [0-9,]+ bytes are missing; .", hashed["reason"])


@pytest.mark.parametrize("suffix", COMPRESSORS)
def test_one_compressed_file_that_is_cut_or_damaged(suffix: str) -> None:
    noise = random.Random(5).randbytes(400_000)
    whole = COMPRESSORS[suffix](noise)
    (cut,) = walk(whole[:-2], "a.jpg.x", Bounds(max_bytes=1 << 20))
    assert cut.reason.startswith("truncated: ")
    assert noise.startswith(cut.data or b"?")
    two = COMPRESSORS[suffix](b"one") + whole[:40]
    (cut,) = walk(two, "a.jpg.x")
    assert (cut.data or b"")[:3] == b"one"
    assert cut.reason.startswith("truncated: ")


def test_a_gz_whose_checksum_is_wrong_gives_all_its_bytes() -> None:
    data = random.Random(5).randbytes(100_000)
    packed = bytearray(gzip.compress(data))
    packed[-6] ^= 1
    (found,) = walk(bytes(packed), "a.jpg.gz")
    assert found.data == data
    assert found.reason == "damaged: Error -3 while decompressing data: incorrect data check"
    packed[50_000] ^= 1  # of a stored block
    (found,) = walk(bytes(packed), "a.jpg.gz")
    assert len(found.data or b"") == 100_000


@pytest.mark.parametrize("suffix", COMPRESSORS)
@pytest.mark.parametrize("content", [b"plain", make_tar(FILES)])
def test_what_follows_compressed_data_is_said(suffix: str, content: bytes) -> None:
    packed = COMPRESSORS[suffix](content)
    kind = container_format(io.BytesIO(packed))
    told = f"12,345 bytes follow that are no {kind} data"
    junk = b"junk!" * 2469
    for data, key in ((packed + junk, ""), (make_tar({"in": packed + bytes(9) + junk}), "in!")):
        found = walk(data, "x.y")
        if content == b"plain":
            assert [member.data for member in found if member.name in {"x", "in!content"}] == [
                b"plain"
            ]
            assert found[-1].reason == told
        else:
            assert {name.rpartition("!")[2]: got for name, got in read(found).items()} == FILES
            assert reasons(found)[key] == told
    padded = walk(packed + bytes(1000) + packed + bytes(512), "x.y")
    assert not reasons(padded)


def test_a_damaged_zip_inside_says_what_was_wrong_with_it() -> None:
    inner = make_zip({"b": b"2"})
    found = walk(make_zip({"a": b"1", "in.zip": inner}, 0).replace(inner, inner[:-1] + b"\1"))
    assert read(found) == {"a": b"1", "in.zip!b": b"2"}
    assert reasons(found)["in.zip!"] == BAD_SUM


# --- zips without a directory, or with one that does not tell all -----------------------------


def described(files: dict[str, bytes], method: int = 8) -> bytes:
    """A zip that was written to a pipe: sizes and sums come behind the data."""

    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

        def seek(self, *_: object) -> int:
            raise io.UnsupportedOperation

        tell = seek  # type: ignore[assignment]

    buffer = Pipe()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data, method)
    return buffer.getvalue()


MISSING = "the zip directory is missing: truncated or damaged"
LARGE = {f"{i}.jpg": random.Random(i).randbytes(300 + 70 * i) for i in range(5)}
LOST = LARGE | {"in.zip": make_zip(LARGE, 0), "e": b""}


@pytest.mark.parametrize("method", [0, 8, 12, 14])
@pytest.mark.parametrize("make", [make_zip, described])
@pytest.mark.parametrize("cut", ["end record", "directory", "part of the directory"])
def test_a_zip_that_lost_its_end_gives_all_its_members(make: type, method: int, cut: str) -> None:
    data = make(LOST, method)
    start = data.rindex(b"PK\1\2" if cut == "part of the directory" else b"PK\5\6")
    if cut == "directory":
        start = min(
            at for at in range(len(data)) if data.startswith(b"PK\1\2", at)
            and at > data.rindex(b"PK\3\4")
        )  # fmt: skip
    found = walk(data[:start])
    got = read(found)
    assert {name: got[name] for name in LARGE} == LARGE
    assert {name: got[f"in.zip!{name}"] for name in LARGE} == LARGE
    survives(data[:start])
    if method == 0:  # the directory of the zip inside is taken for that of the whole
        assert reasons(found)[""] == "7 members were found that the zip directory does not name"
        return
    assert set(got) == {*LARGE, "e", *(f"in.zip!{name}" for name in LARGE)}
    assert reasons(found) == {
        "in.zip": "ZIP archive: its members follow",
        "": f"{MISSING}; 7 members were found without it",
    }


def test_the_last_member_of_a_zip_that_is_cut_comes_with_its_problem() -> None:
    for make in (make_zip, described):
        data = make(LARGE, 0)
        found = walk(data[: data.index(LARGE["3.jpg"]) + 100])
        assert read(found) == {
            **{f"{i}.jpg": LARGE[f"{i}.jpg"] for i in range(3)}, "3.jpg": LARGE["3.jpg"][:100]
        }  # fmt: skip
        assert found[-1].reason == f"{MISSING}; 4 members were found without it"
    assert walk(make_zip(LARGE)[:20]) == [Outcome("", (0,), None, MISSING, False)]


def test_a_damaged_record_of_a_zip_directory_costs_nothing() -> None:
    data = make_zip(LARGE)
    starts = [at for at in range(len(data)) if data.startswith(b"PK\1\2", at)]
    for at in range(starts[1], starts[2]):
        for bit in (1, 0x80):
            changed = bytearray(data)
            changed[at] ^= bit
            found = walk(bytes(changed))
            got = read(found)
            assert set(LARGE.values()) <= set(got.values())
            survives(bytes(changed))
    changed = bytearray(data)
    changed[starts[1] + 28] ^= 0x80  # the length of a name
    found = walk(bytes(changed))
    assert list(read(found).items()) == [(f"{i}.jpg", LARGE[f"{i}.jpg"]) for i in (0, 2, 3, 4, 1)]
    told = "the zip directory is damaged near its record 2; 1 member was found without it"
    assert reasons(found) == {"": told}


def test_members_that_no_directory_names_are_found() -> None:
    other = {"x.jpg": random.Random(9).randbytes(999), "0.jpg": b"0" * 999}
    told = "2 members were found that the zip directory does not name"
    for method in (0, 8):
        one, two = make_zip(LARGE, method), make_zip(other, method)
        tail = two[: two.index(b"PK\1\2")]
        middle = one.index(b"PK\1\2")
        moved = bytearray(one[middle:])
        struct.pack_into("<I", moved, len(moved) - 6, middle + len(tail))
        for data in (
            two + one,
            tail + one,
            one + tail,
            one[:-2] + struct.pack("<H", len(tail)) + tail,  # in the comment
            one[:middle] + tail + bytes(moved),
        ):
            found = walk(data)
            expected = {**other, **LARGE, "0 (2).jpg": other["0.jpg"]}
            assert read(found) == expected
            assert reasons(found) == {"": told}
            survives(data)


def test_an_end_record_that_covers_only_the_last_record_hides_nothing() -> None:
    data = make_zip(LARGE)
    last = data.rindex(b"PK\1\2")
    end = bytearray(data[-22:])
    size = len(data) - 22 - last
    struct.pack_into("<HHII", end, 8, 1, 1, size, last)
    found = walk(data[:-22] + bytes(end))
    assert read(found) == LARGE
    assert found[0].name == "4.jpg"
    assert reasons(found) == {"": "4 members were found that the zip directory does not name"}


def test_a_wrong_place_in_a_directory_costs_nothing() -> None:
    found = walk(patched(make_zip(LARGE), 42, "<I", 7))
    assert reasons(found) == {
        "0.jpg": "no zip entry at byte 7, where the directory says",
        "": "1 member was found that the zip directory does not name",
    }
    assert read(found)["0 (2).jpg"] == LARGE["0.jpg"]


def test_an_intact_zip_is_not_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("searched")

    monkeypatch.setattr("nearsearch.media.zips._unnamed", fail)
    for data in (make_zip(LOST, 0), described(LOST), b"MZ" + make_zip(LOST)):
        assert set(reasons(walk(data))) == {"in.zip"}


def test_headers_that_overlap_are_bounded_by_what_they_cost() -> None:
    """Local headers by the thousand, each of which claims all that follows it."""
    name = b"a" * 8
    for flags, method, packed in ((0, 0, 1 << 24), (8, 0, 0), (8, 8, 0), (0, 0, 0)):
        header = struct.pack(
            "<4sHHHIIIIHH", b"PK\3\4", 20, flags, method, 0, 0, packed, packed, len(name), 0
        )
        data = (header + name + b"\0\0\0\xff\xff" * 8) * 20_000
        began = time.monotonic()
        found = walk(data, bounds=Bounds(max_bytes=1 << 24, max_members=500, max_expansion=2))
        assert len(found) <= 501
        assert "the limit" in found[-1].reason
        assert time.monotonic() - began < 20


def test_notes_in_a_tar_are_files_if_there_is_something_in_them() -> None:
    for kind in (b"V", b"M", b"D", b"N", b"Z", b"7", b"\x80"):
        header = tarfile.TarInfo("note.jpg")
        header.type, header.size = kind, 5
        data = header.tobuf(tarfile.GNU_FORMAT) + b"bytes".ljust(512, b"\0")
        assert read(walk(data + make_tar({"a": b"1"}))) == {"note.jpg": b"bytes", "a": b"1"}
        if kind in b"VMDN":
            header.size = 0
            assert list(read(walk(header.tobuf() + make_tar({"a": b"1"})))) == ["a"]


def test_a_damaged_tar_header_costs_what_it_described() -> None:
    data = bytearray(make_tar(FILES, tarfile.USTAR_FORMAT))
    data[1024] ^= 1  # the name of the second
    found = walk(bytes(data))
    assert read(found) == {name: FILES[name] for name in ("a.jpg", "dir/sub/c", "z")}
    assert reasons(found) == {"": "no tar header where one is due, after 'a.jpg'"}
    data[0] ^= 1
    found = walk(bytes(data))
    assert list(read(found)) == ["dir/sub/c", "z"]
    assert reasons(found) == {"": "no tar header where one is due, after the beginning"}


def test_what_follows_the_end_of_a_tar_is_read() -> None:
    found = walk(make_tar({"a": b"1"}) + b"junk" * 300 + bytes(336) + make_tar({"b": b"2"}))
    assert read(found) == {"a": b"1", "b": b"2"}
    assert reasons(found) == {}


def test_every_cut_of_a_tar_gives_what_came_before() -> None:
    data = make_tar(FILES, tarfile.USTAR_FORMAT)
    ends = {"a.jpg": 517, "dir/b.png": 2560, "dir/sub/c": 3072, "z": 12584}
    for cut in range(0, 13000, 97):
        found = walk(data[:cut])
        whole = {name: FILES[name] for name, end in ends.items() if end <= cut}
        assert {found.name: found.data for found in found if not found.reason} == whole
        for part in found:
            assert FILES.get(part.name, b"").startswith(part.data or b"")
        if 512 <= cut < 12584 and cut not in {1024, 2560, 3072}:
            assert reasons(found)
            assert found[-1].name == ""


@pytest.mark.parametrize("suffix", COMPRESSORS)
def test_a_cut_compressed_tar_gives_what_can_be_decoded(suffix: str) -> None:
    noise = {f"{i}": random.Random(i).randbytes(60_000) for i in range(40)}
    data = COMPRESSORS[suffix](make_tar(noise))
    found = walk(data[: len(data) // 2])
    assert 4 <= len(read(found)) <= 20
    for member in found[:-1]:
        assert noise[member.name].startswith(member.data or b"")
        assert (member.data == noise[member.name]) is not bool(member.reason)
    assert found[-1].name == ""
    assert found[-1].reason.startswith(("truncated: ", "damaged: "))


@pytest.mark.parametrize(
    "error",
    [
        struct.error("s"),
        NotImplementedError("n"),
        RecursionError("r"),
        OverflowError("o"),
        MemoryError(),
        EOFError(),
        zlib.error("z"),
        lzma.LZMAError("l"),
        UnicodeDecodeError("utf-8", b"", 0, 1, "u"),
        ValueError("v"),
        OSError("o"),
        zipfile.BadZipFile("b"),
        tarfile.ReadError("t"),
        RuntimeError("r"),
    ],
)
def test_whatever_a_library_raises_is_a_media_error(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> bytes:
        raise error

    monkeypatch.setattr(zipfile.ZipExtFile, "read1", fail)
    found = walk(make_zip(FILES))
    assert len(found) == len(reasons(found)) == len(FILES)
    monkeypatch.setattr(zlib, "decompressobj", fail)
    assert list(reasons(walk(gzip.compress(make_tar(FILES))))) == [""]


SMALL = {"a.jpg": b"first", "d/b": b"second" * 9, "in.zip": make_zip({"c": b"third"})}
ARCHIVES = {
    "zip": make_zip(SMALL),
    "stored": make_zip(SMALL, 0),
    "tar": make_tar(SMALL),
    "gnu": make_tar(SMALL | {"l" * 120: b"long"}, tarfile.GNU_FORMAT),
    "pax": sparse("pax") + make_tar(SMALL | {"ü" * 90: b"long"}),
    **{f"tar.{suffix}": pack(make_tar(SMALL)) for suffix, pack in COMPRESSORS.items()},
    "lzma zip": make_zip(SMALL, 14),
    "nested": make_zip({"t.tgz": gzip.compress(make_tar(SMALL)), "u.tar": make_tar(SMALL)}, 0),
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_every_damaged_byte_is_members_or_failures(name: str) -> None:
    data = ARCHIVES[name]
    places = {*range(min(len(data), 90)), *range(len(data) - 90, len(data))}
    for place in places | set(random.Random(1).sample(range(len(data)), min(len(data), 120))):
        for value in (0, 0xFF, data[place] ^ 0x10):
            survives(data[:place] + bytes([value]) + data[place + 1 :])
        survives(data[:place])


@settings(max_examples=200, deadline=None)
@given(
    name=st.sampled_from(sorted(ARCHIVES)),
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), max_size=8),
    cut=st.floats(0, 1),
)
def test_random_damage_is_members_or_failures(
    name: str, flips: list[tuple[float, int]], cut: float
) -> None:
    data = bytearray(ARCHIVES[name])
    for place, mask in flips:
        data[int(place * len(data))] ^= mask
    survives(bytes(data[: int(cut * len(data)) + 1]))


@settings(max_examples=100, deadline=None)
@given(name=st.sampled_from(sorted(ARCHIVES)), tail=st.binary(max_size=300))
def test_random_bytes_behind_a_magic_are_members_or_failures(name: str, tail: bytes) -> None:
    survives(ARCHIVES[name][:30] + tail)


def survives(data: bytes) -> None:
    """Each member has one outcome, all names differ, and a walk that is resumed goes on."""
    found = walk(data)
    assert len({member.name for member in found}) == len(found)
    assert [member.place for member in found] == sorted({member.place for member in found})
    if found:
        middle = found[len(found) // 2]
        rest = [member for member in found if member.place > middle.place]
        rest = [member for member in rest if member.place[: len(middle.place)] != middle.place]
        assert walk(data, after=middle.place) == rest


@settings(max_examples=200, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), mask=st.integers(1, 255), cut=st.booleans())
def test_members_of_a_tar_before_the_damage_come_out_right(
    place: float, mask: int, cut: bool
) -> None:
    data = bytearray(make_tar(FILES, tarfile.USTAR_FORMAT))
    at = int(place * 12800)
    data[at] ^= mask
    found = read(walk(bytes(data[:at] if cut else data)))
    ends = {"a.jpg": 517, "dir/b.png": 2560, "dir/sub/c": 3072, "z": 12584}
    for name, end in ends.items():
        if end <= at:
            assert found[name] == FILES[name]
