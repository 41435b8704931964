"""Faults at one chosen place, damaged files, and readers beside writers."""

import errno
import os
import shutil
import struct
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

import nearsearch as ns
from nearsearch import plan
from nearsearch.store import fs, schema
from nearsearch.store import manifest as manifests
from nearsearch.store.files import File

CODES = np.random.default_rng(3).integers(0, 256, (40, 32), np.uint8)
KEYS = [f"k{i}" for i in range(40)]


def contents(root):
    with ns.Index.open(root) as index:
        table = index.search(CODES, 0).to_arrow()
        return sorted(
            zip(table["query"].to_pylist(), table["key"].to_pylist(), strict=True)
        ), index.generation


def change(root):
    """Replace some, add some: shards, tombstones, manifest and CURRENT are written."""
    with ns.Writer.open(root) as writer:
        writer.add_codes(CODES[20:40], keys=KEYS[10:30])


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    root = tmp_path_factory.mktemp("base") / "i.ns"
    with ns.Writer.open(root, create=True) as writer:
        writer.add_codes(CODES[:20], keys=KEYS[:20])
    return root


def test_exception_in_the_block_changes_nothing(base, tmp_path):
    root = tmp_path / "i.ns"
    shutil.copytree(base, root)
    before = contents(root)
    with pytest.raises(RuntimeError, match="mine"), ns.Writer.open(root) as writer:
        writer.add_codes(CODES[20:], keys=KEYS[20:])
        raise RuntimeError("mine")
    assert contents(root) == before
    new = tmp_path / "new.ns"
    with pytest.raises(RuntimeError), ns.Writer.open(new, create=True) as writer:
        writer.add_codes(CODES)
        raise RuntimeError
    assert not new.exists()


def test_a_failed_replacement_keeps_the_old_even_if_the_caller_goes_on(base, tmp_path, monkeypatch):
    root = tmp_path / "i.ns"
    shutil.copytree(base, root)
    before = contents(root)[0]

    def fail(*_):
        raise MemoryError("made by the test")

    with ns.Writer.open(root) as writer, monkeypatch.context() as patch:
        patch.setattr("nearsearch.store.build.build", fail)
        with pytest.raises(MemoryError):
            writer.add_codes(CODES[20:30], keys=KEYS[:10])
    assert contents(root)[0] == before
    assert ns.verify(root) == []


def test_killed_writer_leaves_a_sound_index_and_no_lock(base, tmp_path):
    root = tmp_path / "i.ns"
    shutil.copytree(base, root)
    before = contents(root)
    script = (
        "import sys, time, numpy as np, nearsearch as ns\n"
        "from nearsearch.store import shardset\n"
        "shardset.FLUSH_MEMBERS = 1\n"
        "writer = ns.Writer.open(sys.argv[1])\n"
        "codes = (np.arange(320) % 251).astype(np.uint8).reshape(10, 32)\n"
        "writer.add_codes(codes[:5])\n"
        "writer.add_codes(codes[5:])\n"  # writes what the first call left in memory
        "print('flushed', flush=True)\n"
        "time.sleep(60)\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script, str(root)],
        stdout=subprocess.PIPE,
    )
    with child:
        assert child.stdout.readline() == b"flushed\n"
        with pytest.raises(ns.errors.IndexLockedError, match=f"process {child.pid} on "):
            ns.Writer.open(root)
        child.kill()
    old = {entry.id for entry in manifests.read_current(root).shards}
    (left,) = {path.name for path in (root / "shards").iterdir()} - old
    assert contents(root) == before
    change(root)
    new = {entry.id for entry in manifests.read_current(root).shards}
    # The dead writer's shard is gone; that of the generation before is kept.
    assert {path.name for path in (root / "shards").iterdir()} == old | new
    assert left not in old | new


def flip_bytes(path, positions):
    data = bytearray(path.read_bytes())
    for position in positions:
        data[position] ^= 0x41
    path.write_bytes(data)


def shard_files(root):
    return sorted(p for p in (root / "shards").rglob("*") if p.is_file())


def test_verify_names_every_damaged_file(base, tmp_path):
    for number, original in enumerate(shard_files(base)):
        root = tmp_path / f"{number}.ns"
        shutil.copytree(base, root)
        path = root / original.relative_to(base)
        flip_bytes(path, [path.stat().st_size // 2])
        (damage,) = ns.verify(root)
        assert damage.path == str(path)
        assert "SHA-256" in damage.problem
        assert "20 items, 20 members" in damage.costs


@pytest.mark.parametrize("how", ["missing", "short", "long"])
def test_open_refuses_files_of_another_length(base, tmp_path, how):
    for number, original in enumerate(shard_files(base)):
        root = tmp_path / f"{number}.ns"
        shutil.copytree(base, root)
        path = root / original.relative_to(base)
        if how == "missing":
            path.unlink()
        elif how == "short":
            os.truncate(path, path.stat().st_size - 1)
        else:
            path.write_bytes(path.read_bytes() + b"\0")
        with pytest.raises(ns.errors.CorruptFileError) as caught:
            ns.Index.open(root)
        assert caught.value.path == str(path)
        assert ns.verify(root)[0].path == str(path)


def test_faiss_header_is_checked_before_faiss_sees_it(base, tmp_path):
    """FAISS would read beyond the mapping if the header promised more codes than there are."""
    root = tmp_path / "i.ns"
    shutil.copytree(base, root)
    (path,) = root.rglob("pdq.faiss")
    for offset, value in [
        (12, struct.pack("<q", 10**9)),
        (25, struct.pack("<Q", 1 << 40)),
        (0, b"IBxx"),
        (4, struct.pack("<i", 512)),
        (8, struct.pack("<i", 64)),
    ]:
        good = path.read_bytes()
        path.write_bytes(good[:offset] + value + good[offset + len(value) :])
        with pytest.raises(ns.errors.CorruptFileError, match=r"pdq\.faiss"):
            ns.Index.open(root)
        path.write_bytes(good)
    assert contents(root)[1] == 1


def test_any_damage_to_arrow_files_is_an_error_or_noticed_by_verify(base, tmp_path):
    """No single damaged byte may crash the process; verify sees each of them."""
    root = tmp_path / "i.ns"
    shutil.copytree(base, root)
    rng = np.random.default_rng(5)
    for path in shard_files(root):
        good = path.read_bytes()
        for position in rng.integers(0, len(good), 25):
            flip_bytes(path, [position])
            assert [d.path for d in ns.verify(root)] == [str(path)]
            path.write_bytes(good)


@pytest.mark.parametrize("text", [b"", b"nonsense\n", b"\xff\xfe", b"0" * 5000])
def test_damaged_current(base, tmp_path, text):
    root = tmp_path / "i.ns"
    shutil.copytree(base, root)
    (root / "CURRENT").write_bytes(text)
    with pytest.raises(ns.errors.CorruptFileError, match="CURRENT"):
        ns.Index.open(root)
    assert ns.verify(root)[0].costs.startswith("the whole index")


def test_damaged_manifest_is_noticed_at_open(base, tmp_path):
    root = tmp_path / "i.ns"
    shutil.copytree(base, root)
    flip_bytes(root / "manifest-000001.json", [100])
    with pytest.raises(ns.errors.CorruptFileError, match="SHA-256"):
        ns.Index.open(root)


def kept_by(root):
    names = [manifests.generation_of(path.name) for path in root.glob("manifest-*.json")]
    return sorted(names)


def test_readers_are_not_disturbed_by_writers(base, tmp_path):
    root = tmp_path / "i.ns"
    shutil.copytree(base, root)
    (shard,) = (root / "shards").iterdir()
    with ns.Index.open(root) as index:
        old = index.search(CODES, 31).to_arrow()
        for _ in range(12):  # more commits than manifests are kept
            with ns.Writer.open(root) as writer:
                writer.add_codes(CODES[20:], keys=[f"{time.time_ns()}-{i}" for i in range(20)])
        assert index.search(CODES, 31).to_arrow() == old
        assert index.generation == 1
        assert shard.exists()
    # What the reader held was kept, beside the newest and the eight before it.
    assert kept_by(root) == [1, *range(5, 14)]
    with ns.Index.open(root, generation=1) as index:
        assert index.search(CODES, 31).to_arrow() == old
    del index
    change(root)
    assert kept_by(root) == list(range(6, 15))
    assert not shard.exists()
    assert contents(root)[1] == 14
    assert ns.verify(root) == []


def test_permissions_are_the_owners_alone(base):
    for path in [base, *base.rglob("*")]:
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path


def test_many_shards_need_few_file_descriptors(tmp_path, monkeypatch):
    for name in ("SMALL_SHARD", "MOST_MERGED_AT_COMMIT", "MOST_MERGED"):
        monkeypatch.setattr(plan, name, 0)
    root = tmp_path / "i.ns"
    rng = np.random.default_rng(6)
    for i in range(40):
        with ns.Writer.open(root, create=True) as writer:
            writer.add_codes(rng.integers(0, 256, (2, 32), np.uint8), keys=[f"{i}a", f"{i}b"])
    script = (
        "import resource, sys, numpy as np, nearsearch as ns\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32))\n"
        "with ns.Index.open(sys.argv[1]) as index:\n"
        "    matches = index.search(np.zeros((1, 32), np.uint8), 256)\n"
        "    print(len(matches.to_arrow()), index.stats()['shards'])\n"
    )
    done = subprocess.run([sys.executable, "-c", script, root], capture_output=True, text=True)
    assert done.stdout == "80 40\n", done.stderr


def test_after_a_failed_commit_nobody_guesses(base, tmp_path, monkeypatch):
    """CURRENT may have been replaced before the fault: the writer must not write over it."""
    root = tmp_path / "i.ns"
    shutil.copytree(base, root)
    with ns.Writer.open(root) as writer:
        writer.add_codes(CODES[20:], keys=KEYS[20:])
        real = fs.sync_directory

        def fail_after_current(path):
            real(path)
            if (path / "CURRENT").exists() and "manifest-000002" in (path / "CURRENT").read_text():
                raise OSError(errno.EIO, "made by the test")

        with monkeypatch.context() as patch:
            patch.setattr(fs, "sync_directory", fail_after_current)
            with pytest.raises(OSError, match="made by the test"):
                writer.commit()
        for call in (writer.commit, lambda: writer.add_codes(CODES)):
            with pytest.raises(ns.errors.OutcomeUnknownError, match="generation 2"):
                call()
        writer.close()
    assert contents(root)[1] == 2
    assert len(contents(root)[0]) == 40
    assert ns.verify(root) == []


def test_a_lock_whose_file_was_removed_is_worth_nothing(tmp_path, monkeypatch):
    path = tmp_path / "writer.lock"
    real = fs.fcntl.flock

    def removed_meanwhile(handle, how):
        path.unlink()
        real(handle, how)

    with monkeypatch.context() as patch:
        patch.setattr(fs.fcntl, "flock", removed_meanwhile)
        with pytest.raises(ns.errors.IndexLockedError):
            fs.Lock(path)
    fs.Lock(path).release()


@pytest.mark.parametrize(
    ("column", "row"),
    [
        *(("items", 0), ("items", 10**6), ("members", 10**6)),
        *(("disabled_items", 0), ("disabled_items", 10**6), ("disabled_members", 10**6)),
    ],
)
def test_verify_sees_wrong_tombstones(base, tmp_path, column, row):
    root = tmp_path / "i.ns"
    shutil.copytree(base, root)
    manifest = manifests.read_current(root)
    (entry,) = manifest.shards
    hidden = {name: [] for name in schema.TOMBSTONES.names} | {column: [row]}
    table = pa.table({name: [rows] for name, rows in hidden.items()}).cast(schema.TOMBSTONES)
    written = schema.create_ipc(root / "tombstones" / "t.arrow", table)
    file = File("tombstones/t.arrow", *written)
    wrong = replace(
        entry,
        tombstones=file,
        dead_items=len(hidden["items"]),
        disabled_items=len(hidden["disabled_items"]),
    )
    manifests.make_current(root, replace(manifest, generation=2, shards=(wrong,)))
    damage = ns.verify(root)
    assert len(damage) == 1
    assert "tombstones" in damage[0].problem


@pytest.mark.parametrize("n", [20, 20_000])  # short files are read, long ones mapped
def test_files_that_vanish_after_opening(tmp_path, n):
    """What is open is mapped, FAISS's file too, though FAISS sees it only when it is needed."""
    root = tmp_path / "i.ns"
    codes = np.random.default_rng(8).integers(0, 256, (n, 32), np.uint8)
    with ns.Writer.open(root, create=True) as writer:
        writer.add_codes(codes, keys=[str(i) for i in range(n)])
    with ns.Index.open(root) as index:
        before = index.search(codes[:20], 31).to_arrow()
    with ns.Index.open(root) as index:
        shutil.rmtree(root)
        assert index.search(codes[:20], 31).to_arrow() == before
        assert sorted(before["key"].to_pylist()) == sorted(str(i) for i in range(20))
