"""Every operation fails, or the power goes, at every single file-system call.

After each the index opens, is sound, and holds exactly what it held before or after; once a call
has returned, what it did survives any loss of unsynced data. Every call is tried with `--thorough`
(15,000 points); an ordinary run takes calls at random, others each time.
"""

import errno
import random
import shutil
import warnings

import numpy as np
import pytest
from faults.disk import Crash, Disk

import nearsearch as ns
from nearsearch import plan
from nearsearch.store import fs, log, shardset

CODES = np.random.default_rng(3).integers(0, 256, (60, 32), np.uint8)
KEYS = [f"k{i}" for i in range(60)]
LOSSES = ("all", "data", "none", "random")


def contents(root):
    """All that an index answers, but for the generation, which tells how often it was tidied."""
    with ns.Index.open(root, check="full") as index:
        table = index.search(np.zeros((1, 32), np.uint8), 256, min_quality=0).to_arrow()
        names = ("item_id", "key", "contribution", "source")
        listed = zip(*(table[name].to_pylist() for name in names), strict=True)
        disabled = index.stats()["disabled_members"], index.stats()["members"]
        return sorted(listed), disabled


def add(root):
    """Replace some, add some: shards, tombstones, manifest and CURRENT are written."""
    with ns.Writer.open(root) as writer:
        md5 = [bytes([i]) * 16 for i in range(20)]
        writer.add_codes(CODES[20:40], keys=KEYS[10:30], digests={"md5": md5})


def add_in_parts(root):
    """The same, and more goes to disk before the commit, which then makes it one shard."""
    with pytest.MonkeyPatch.context() as patch, ns.Writer.open(root) as writer:
        patch.setattr(shardset, "FLUSH_MEMBERS", 1)
        for start in range(0, 20, 5):
            part = slice(start, start + 5)
            writer.add_codes(CODES[20:40][part], keys=KEYS[10:30][part])


def add_and_tidy(root):
    """A commit, and the merging that follows it in a commit of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "MOST_MERGED_AT_COMMIT", 0)
        add(root)


def compact(root):
    """Replace some, and merge all shards into one with a ring."""
    with pytest.MonkeyPatch.context() as patch, ns.Writer.open(root) as writer:
        patch.setattr(plan, "MIN_RING_CODES", 1)
        writer.add_codes(CODES[20:40], keys=KEYS[10:30])
        writer.compact()


def remove(root):
    with ns.Writer.open(root) as writer:
        assert writer.remove(contribution="A") == 10


def erase(root):
    with ns.Writer.open(root) as writer:
        assert writer.remove(contribution="A", erase=True) == 10


def disable(root):
    with ns.Writer.open(root) as writer:
        writer.disable(contribution="A")


def rollback(root):
    with ns.Writer.open(root) as writer:
        writer.rollback(2)


def merge(root):
    with ns.Writer.open(root) as writer:
        writer.merge(root.parent / "other.ns")


OPERATIONS = [add, add_in_parts, add_and_tidy, compact, remove, erase, disable, rollback, merge]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Two shards, tombstones, a file of the log, and generations to go back to."""
    folder = tmp_path_factory.mktemp("base")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "SMALL_SHARD", 0)
        patch.setattr(plan, "MOST_MERGED_AT_COMMIT", 0)
        patch.setattr(plan, "MOST_MERGED", 0)
        patch.setattr(log, "ENTRIES_A_FILE", 2)
        with ns.Writer.open(folder / "i.ns", create=True) as writer:
            writer.add_codes(CODES[:20], keys=KEYS[:20])
            writer.commit()
            writer.add_codes(CODES[10:25], keys=KEYS[10:25], contribution="A", source="NL")
            writer.commit()
            writer.remove(keys=KEYS[20:25])
    with ns.Writer.open(folder / "other.ns", create=True) as writer:
        writer.add_codes(CODES[15:50], keys=KEYS[15:50], contribution="B")
        writer.commit()
        writer.add_codes(CODES[50:55], keys=KEYS[:5])
    return folder


@pytest.fixture
def copy(base, tmp_path):
    def make(name):
        folder = tmp_path / name
        shutil.copytree(base, folder)
        return folder / "i.ns"

    return make


def run(disk, operation, root):
    """Run an operation on a simulated disk; return whether it came to its end."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        # A merge after the commit that fails is a warning: the commit is live.
        warnings.simplefilter("ignore", ns.errors.CompactionWarning)
        warnings.simplefilter("ignore", ns.errors.RingWarning)  # it cannot be read back
        patch.setattr(fs, "os", disk)
        try:
            operation(root)
        except (OSError, ns.errors.EraseIncompleteError, Crash) as error:
            assert disk.failed, error
            return False
    return True


@pytest.fixture(scope="module")
def before_and_after(base, tmp_path_factory):
    """What the index holds before and after each operation."""
    before = contents(base / "i.ns")
    after = {}
    for operation in OPERATIONS:
        folder = tmp_path_factory.mktemp("after") / "copy"
        shutil.copytree(base, folder)
        operation(folder / "i.ns")
        after[operation] = contents(folder / "i.ns")
        assert after[operation] != before
    return before, after


@pytest.fixture
def points(thorough, copy):
    """The calls of an operation to fail at, in the end one that it does not come to."""

    def choose(operation, how, most):
        disk, root = Disk(0, how), copy("counted")
        run(disk, operation, root)
        disk.power_cut("none")
        every = range(1, disk.calls + 1)
        some = every if thorough else sorted(random.sample(every, min(most, len(every))))
        return [*some, 2 * disk.calls]  # which may count other calls as well

    return choose


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
def test_one_failing_call(copy, operation, before_and_after, points):
    before, after = before_and_after[0], before_and_after[1][operation]
    tried = points(operation, "error", 20)
    for n in tried:
        root = copy(str(n))
        disk = Disk(n, "error")
        run(disk, operation, root)
        disk.power_cut("none")  # the process ends, and its locks
        if disk.failed is None:
            assert contents(root) == after
            continue
        found = contents(root)
        assert found in (before, after), disk.failed
        assert ns.verify(root) == []
        if found == before:
            operation(root)  # the next writer takes up where the last one failed
            assert contents(root) == after
        ns.Writer.open(root).close()
        assert not [path.name for path in root.rglob("*") if path.name.endswith(".tmp")]
        shutil.rmtree(root.parent)
    assert disk.failed is None
    assert tried[-1] > 80
    print(f"{operation.__name__}: {len(tried) - 1} calls failed")


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
def test_power_cut_at_every_call(copy, operation, before_and_after, points):
    before, after = before_and_after[0], before_and_after[1][operation]
    tried = [(n, loss) for n in points(operation, "crash", 8) for loss in LOSSES]
    for n, loss in tried:
        root = copy(f"{n}-{loss}")
        disk = Disk(n, "crash", torn=n % 2 == 0)
        is_done = run(disk, operation, root) and disk.failed is None
        disk.power_cut(loss, seed=n)
        found = contents(root)
        assert found in ((after,) if is_done else (before, after)), (n, loss, disk.failed)
        assert ns.verify(root) == []
        if not is_done:
            with ns.Writer.open(root) as writer:  # collects what was left
                writer.add_codes(CODES[59:], keys=["last"])
            assert len(contents(root)[0]) == len(found[0]) + 1
        shutil.rmtree(root.parent)
    assert is_done
    print(f"{operation.__name__}: {len(tried) - len(LOSSES)} power cuts")


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EROFS])
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
def test_the_disk_is_full_from_some_call_on(copy, operation, error, before_and_after, points):
    before, after = before_and_after[0], before_and_after[1][operation]
    tried = points(operation, "full", 8)
    for n in tried:
        root = copy(f"{n}")
        disk = Disk(n, "full", error=error)
        run(disk, operation, root)
        disk.power_cut("none")
        if disk.failed is None:
            assert contents(root) == after
            continue
        assert contents(root) in (before, after), disk.failed
        assert ns.verify(root) == []
        shutil.rmtree(root.parent)
    assert disk.failed is None
    print(f"{operation.__name__}: full from each of {len(tried) - 1} calls on")


@pytest.mark.parametrize("how", ["error", "crash"])
def test_creation_leaves_nothing_or_all(tmp_path, how):
    def create(root):
        with ns.Writer.open(root, create=True) as writer:
            writer.add_codes(CODES, keys=KEYS)

    for n in range(1, 500):
        root = tmp_path / f"{n}.ns"
        disk = Disk(n, how)
        run(disk, create, root)
        disk.power_cut("all" if how == "crash" else "none")
        if disk.failed is None:
            break
        create(root)
        assert len(contents(root)[0]) == 60
        assert ns.verify(root) == []
        shutil.rmtree(root)
    else:
        pytest.fail("the creation never ran to its end")
    assert n > 20
