"""What the writer refuses, and what it survives, beside adding."""

import os
import shutil
import signal

import numpy as np
import pyarrow as pa
import pytest

import nearsearch as ns
from nearsearch.errors import (
    CompactionWarning,
    CorruptFileError,
    IndexLockedError,
    MetadataError,
    UnknownNameError,
    UsageError,
)
from nearsearch.store import manifest as manifests
from nearsearch.store.transaction import Transaction

CODES = np.random.default_rng(4).integers(0, 256, (12, 32), np.uint8)
KEYS = [f"k{i}" for i in range(12)]


@pytest.fixture
def root(tmp_path):
    with ns.Writer.open(tmp_path / "i.ns", create=True) as writer:
        writer.add_codes(CODES[:6], keys=KEYS[:6], contribution="A", source="NL")
        writer.commit()
        writer.add_codes(CODES[6:], keys=KEYS[6:], contribution="B")
    return tmp_path / "i.ns"


@pytest.mark.parametrize(
    "call",
    [
        lambda writer: writer.remove(),
        lambda writer: writer.remove(keys="k1"),
        lambda writer: writer.remove(keys=[1, 2]),
        lambda writer: writer.remove(keys=["\udcff"]),
        lambda writer: writer.remove(contribution=["A"]),
        lambda writer: writer.remove(contribution=5),
        lambda writer: writer.remove(where="nothing == 1"),
        lambda writer: writer.disable(),
        lambda writer: writer.disable(contribution=3),
        lambda writer: writer.disable(contribution="C"),
        lambda writer: writer.enable(contribution="A"),
        lambda writer: writer.enable(source=["NL"]),
        lambda writer: writer.rollback([0]),
        lambda writer: writer.rollback("0"),
        lambda writer: writer.rollback(-1),
        lambda writer: writer.merge(writer._session.root),
    ],
)
def test_what_cannot_be_meant(root, call):
    with ns.Writer.open(root) as writer:
        with pytest.raises(UsageError):
            call(writer)
        assert writer.commit() == 2


@pytest.mark.parametrize("wait", ["x", -1, float("nan"), None])
def test_a_wait_is_a_time(root, wait):
    with pytest.raises(UsageError, match="wait"):
        ns.Writer.open(root, wait=wait)


@pytest.mark.parametrize("author", ["a\nb", 5, "\udcff"])
def test_an_author_is_a_name(root, author):
    for call in (ns.Writer.open, ns.repair):
        with pytest.raises(UsageError, match="author"):
            call(root, author=author)


def test_rollback_wants_nothing_unfinished(root):
    with ns.Writer.open(root) as writer:
        writer.remove(keys=["k0"])
        with pytest.raises(UsageError, match="commit what was changed first"):
            writer.rollback(1)
        writer.commit()
        assert writer.rollback(1) == 4
        assert writer.rollback(4) == 4


def test_only_what_lives_can_be_disabled(root):
    with ns.Writer.open(root) as writer:
        writer.remove(contribution="A")
        with pytest.raises(UnknownNameError) as caught:
            writer.disable(contribution="A")
        assert caught.value.similar == []


@pytest.mark.parametrize("name", ["_row", "row", "rowitem_id"])
def test_a_filter_whatever_columns_are_called(root, name):
    with ns.Writer.open(root) as writer:
        table = pa.table({name: [7]})
        writer.add_codes(CODES[:1], keys=["with"], metadata=table)
        assert writer.remove(where=f"{name} == 7 and kind == 'record'") == 1


def test_a_merge_after_the_commit_that_fails_is_a_warning(root, monkeypatch):
    def fail(self):
        raise MetadataError("text", "more than 2 GB")

    with ns.Writer.open(root) as writer, monkeypatch.context() as patch:
        patch.setattr(Transaction, "tidy", fail)
        writer.remove(keys=["k0"])
        with pytest.warns(CompactionWarning, match="everything is committed"):
            assert writer.commit() == 3
        patch.undo()
        writer.remove(keys=["k1"])
        assert writer.commit() == 4
    with ns.Index.open(root) as index:
        assert index.stats()["members"] == 10


def test_a_forked_child_does_not_keep_the_lock(root):
    writer, index = ns.Writer.open(root), ns.Index.open(root)
    child = os.fork()
    if child == 0:  # sleeps with all that it has inherited open
        signal.pause()
        os._exit(0)
    try:
        with pytest.raises(IndexLockedError):
            ns.Writer.open(root)
        writer.close()
        index.close()
        with ns.Writer.open(root) as again:
            for i in range(12):
                again.add_codes(CODES[:1], keys=[f"n{i}"])
                again.commit()
        assert not (root / "manifest-000002.json").exists()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_refresh_sees_another_index_at_the_same_place(root, tmp_path):
    with ns.Index.open(root) as index:
        shutil.rmtree(root)
        with ns.Writer.open(root, create=True) as writer:
            writer.add_codes(CODES[:1], keys=["new"])
            writer.commit()
            writer.add_codes(CODES[1:2], keys=["newer"])
        assert index.generation == 2
        assert index.refresh()
        assert index.stats()["members"] == 2
        assert not index.refresh()


@pytest.mark.parametrize("name", ["../../EVIL", "000001-0123456", "a/b", "", 7])
def test_a_shard_cannot_be_called_anything(root, tmp_path, name):
    manifest = manifests.read_current(root)
    text = manifest.encode().decode().rpartition(',\n"checksum"')[0] + "}"
    value = text.replace(f'"id": "{manifest.shards[0].id}"', f'"id": {name!r}'.replace("'", '"'))
    with pytest.raises(CorruptFileError, match="manifest"):
        manifests.decode(root, value.encode())


def test_names_of_the_other_index_stay_there(root, tmp_path):
    """Only what was taken in stands in the log: not what is dead there, nor what was left out."""
    other = tmp_path / "SECRET-FOLDER.ns"
    with ns.Writer.open(other, create=True) as writer:
        writer.add_codes(CODES[:1], keys=["x"], contribution="SECRET")
        writer.add_codes(CODES[1:2], keys=["y"], contribution="open")
        writer.commit()
        writer.remove(contribution="SECRET")
    with ns.Writer.open(root) as writer:
        report = writer.merge(other)
        assert (report.added, report.replaced, report.left_out) == (1, 0, 0)
        writer.commit()
        with ns.Index.open(root) as index:
            assert index.log()[-1].contributions == ("open",)
        writer.remove(contribution="open", erase=True)
    everything = b"".join(path.read_bytes() for path in root.rglob("*") if path.is_file())
    assert b"SECRET" not in everything


def test_of_two_files_of_the_same_name_the_later_stays_and_is_named(root, tmp_path):
    other = tmp_path / "other.ns"
    with ns.Writer.open(other, create=True) as writer:
        writer.add_codes(CODES[6:8], keys=KEYS[:2], contribution="A")
    with ns.Writer.open(root) as writer:
        report = writer.merge(other)
    assert (report.replaced, report.left_out, report.total) == (2, 0, 2)
    assert report.examples == (("A", "k0"), ("A", "k1"))
    with ns.Writer.open(other) as writer:
        writer.add_codes(CODES[8:9], keys=KEYS[:1], contribution="A")
    with ns.Writer.open(other) as writer:
        report = writer.merge(root)
    assert (report.left_out, report.unchanged, report.added) == (1, 1, 10)
    assert report.examples == (("A", "k0"),)
