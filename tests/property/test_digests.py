"""Look-up by digest against a dictionary, whatever was added, removed and merged before."""

import hashlib
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nearsearch as ns
from nearsearch.errors import DigestError, DuplicateKeyError

LENGTHS = {"md5": 16, "sha1": 20, "sha256": 32}


def digest(kind: str, number: int) -> bytes:
    """A digest that shares its first eight bytes with others, of its kind and of others."""
    return bytes([number % 3]) * 8 + hashlib.sha256(b"%d" % number).digest()[: LENGTHS[kind] - 8]


numbers = st.none() | st.integers(0, 12)
records = st.lists(
    st.tuples(st.integers(0, 7), numbers, numbers, numbers, st.none() | st.integers(0, 3)),
    max_size=9,
)
steps = st.lists(
    st.tuples(st.sampled_from(["add", "remove", "compact", "commit"]), records), max_size=6
)
CODES = np.random.default_rng(3).integers(0, 256, (4, 32), np.uint8)


def add(writer, rows, known):
    """Add records (key, md5, sha1, sha256, number of a code or none) to index and oracle."""
    for with_code in (False, True):
        part = [row for row in rows if (row[4] is not None) == with_code]
        part = [row for row in part if with_code or any(n is not None for n in row[1:4])]
        part = list({row[0]: row for row in part}.values())
        if not part:
            continue
        digests = {
            kind: [None if row[i] is None else digest(kind, row[i]) for row in part]
            for i, kind in enumerate(LENGTHS, 1)
        }
        keys = [f"{row[0]}" for row in part]
        if with_code:
            writer.add_codes(CODES[[row[4] for row in part]], keys=keys, digests=digests)
        else:
            writer.add_digests(digests, keys=keys)
        for i, key in enumerate(keys):
            known[key] = {digests[kind][i] for kind in LENGTHS} - {None}


@settings(max_examples=60, deadline=None)
@given(steps=steps)
def test_lookup_finds_what_a_dictionary_does(steps):
    folder = Path(tempfile.mkdtemp())
    known: dict[str, set[bytes]] = {}
    try:
        with ns.Writer.open(folder / "i.ns", create=True) as writer:
            for step, rows in [("add", []), *steps]:
                if step == "add":
                    add(writer, rows, known)
                elif step == "remove":
                    keys = [str(row[0]) for row in rows]
                    writer.remove(keys=keys)
                    for key in keys:
                        known.pop(key, None)
                elif step == "compact":
                    writer.compact()
                else:
                    writer.commit()
        assert ns.verify(folder / "i.ns") == []
        asked = [digest(kind, n) for n in range(13) for kind in LENGTHS]
        with ns.Index.open(folder / "i.ns") as index:
            found = index.lookup(asked)
            assert found.is_exact.all()
            table = found.to_arrow()
            pairs = list(zip(table["query"].to_pylist(), table["key"].to_pylist(), strict=True))
            assert sorted(pairs) == sorted(
                (one.hex(), key) for one in asked for key, has in known.items() if one in has
            )
            assert set(table["match"].to_pylist()) <= {"exact"}
            # Each by itself gives the same as all together.
            for i in range(0, len(asked), 7):
                alone = index.lookup([asked[i].hex().upper()])
                assert alone.to_arrow()["key"].to_pylist() == [
                    key for name, key in pairs if name == asked[i].hex()
                ]
    finally:
        shutil.rmtree(folder)


@pytest.mark.parametrize("wrong", ["", "00", "0" * 31, "g" * 32, "0" * 65, 17, None, "0" * 33])
def test_what_is_no_digest_is_refused(tmp_path, wrong):
    with ns.Writer.open(tmp_path / "i.ns", create=True) as writer:
        writer.add_digests({"md5": ["0" * 32]})
        if wrong is not None:
            with pytest.raises(DigestError, match="expected 32 hexadecimal digits"):
                writer.add_digests({"md5": [wrong]})
    with ns.Index.open(tmp_path / "i.ns") as index:
        with pytest.raises(DigestError, match="expected 32, 40 or 64"):
            index.lookup([wrong])
        assert len(index.lookup(["0" * 32])) == 1
        assert len(index.lookup([])) == 0


def test_records_of_other_digests_are_other_items(tmp_path):
    with ns.Writer.open(tmp_path / "i.ns", create=True) as writer:
        md5s = [f"{n:032x}" for n in (1, 1, 2, 0)]
        sha1s = [None, f"{5:040x}", None, None]
        report = writer.add_digests({"md5": md5s, "sha1": sha1s}, keys=list("abcd"))
        assert report.added == 4
        with pytest.raises(DuplicateKeyError):
            writer.add_digests({"md5": md5s[1:3]}, keys=["e", "e"])
        again = writer.add_digests({"md5": [md5s[0]]}, keys=["other"])
        assert (again.added, again.duplicate) == (0, 1)
    with ns.Index.open(tmp_path / "i.ns") as index:
        keys = index.lookup([md5s[0]]).to_arrow()["key"].to_pylist()
        assert sorted(keys) == ["a", "b", "other"]
        assert index.stats()["items"] == 4
