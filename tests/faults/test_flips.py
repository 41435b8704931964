"""Every byte of every file of a small index is changed, one at a time: none in silence.

Each is tried with `--thorough`, with three masks; an ordinary run takes bytes at random, others
each time.
"""

import random
import warnings

import numpy as np
import pytest
from faults.victim import CODES, KEYS, changed, flip, make, metadata, problems

import nearsearch as ns
from nearsearch import plan
from nearsearch.store import fs
from nearsearch.store import manifest as manifests
from nearsearch.store import ring as rings

MASKS = (0x41, 0xFF, 0x01)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make(tmp_path_factory.mktemp("flips") / "i.ns")


def sizes(root):
    return {
        str(path.relative_to(root)): path.stat().st_size
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name != "writer.lock"
    }


def live_names(root):
    """What a reader of the live generation looks at."""
    manifest = manifests.read_current(root)
    return {"CURRENT", manifest.name, *(file.name for _, file in manifest.named_files())}


@pytest.fixture
def flips(root, thorough):
    """Each file with the bytes of it that are to be changed."""
    if thorough:
        places = [(name, at) for name, size in sizes(root).items() for at in range(size)]
        return [flip(root, name, at, mask) for name, at in places for mask in MASKS]
    return [
        flip(root, name, at, random.choice(MASKS))
        for name, size in sizes(root).items()
        for at in random.sample(range(size), 4)
    ]


def quietly(call, *arguments, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ns.errors.RingWarning)
        return call(*arguments, **options)


def test_the_index_has_every_kind_of_file(root):
    manifest = manifests.read_current(root)
    roles = {role for entry in manifest.shards for role, _ in entry.all_files()}
    assert len(manifest.shards) == 2
    assert {role.split("/")[0] for role in roles} == {
        *("items", "members", "keys", "digests", "codes", "rows", "ring", "tombstones")
    }
    assert all(entry.disabled_members and entry.dead_members for entry in manifest.shards)
    assert len(manifest.log.files) == 2
    assert len(manifest.kept) == 5
    old = {name.split("/")[0] for name in sizes(root).keys() - live_names(root)}
    assert old >= {"tombstones", "manifest-000004.json"}


def test_each_changed_byte_is_found(root, flips):
    manifest, live = manifests.read_current(root), live_names(root)
    rings_of = {f.name for role, f in manifest.named_files() if rings.is_role(role)}
    log_files = {file.name for file in manifest.log.files}
    for change in flips:
        name = change.name
        with changed(root, change):
            damage = [entry.path for entry in quietly(ns.verify, root)]
            if name == "CURRENT":  # it may name a manifest still, and be wrong about it
                assert len(damage) == 1, change
            else:
                assert damage == [str(root / name)], change
            if name not in live:
                ns.Index.open(root, check="full").close()
                continue
            with pytest.raises(ns.errors.CorruptFileError):
                quietly(ns.Index.open, root, check="full")
            if name in rings_of:
                with pytest.warns(ns.errors.RingWarning):
                    ns.Index.open(root).close()
            elif name in log_files:
                with ns.Index.open(root) as index, pytest.raises(ns.errors.CorruptFileError):
                    index.log()
            else:
                with pytest.raises(ns.errors.CorruptFileError):
                    ns.Index.open(root)
    assert ns.verify(root) == []


def test_the_lock_says_nothing_that_matters(root):
    for at in range((root / "writer.lock").stat().st_size):
        with changed(root, flip(root, "writer.lock", at, 0x41)):
            assert ns.verify(root) == []
            ns.Index.open(root, check="full").close()


def test_no_changed_byte_kills_a_reader_that_does_not_look(root, flips):
    """Nothing is compared with checksums here: between a byte and a crash stands only what looks
    at values, as it is in the middle of files too long to be compared when they are opened."""
    live = live_names(root)
    looked_at = [change for change in flips if change.name in live]
    assert problems(root, looked_at, "read-unchecked") == []


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """An index whose files are longer than what is compared when they are opened."""
    root = tmp_path_factory.mktemp("large") / "i.ns"
    more = np.random.default_rng(12).integers(0, 256, (20_000, 32), np.uint8)
    more[:16] = CODES
    with pytest.MonkeyPatch.context() as patch, ns.Writer.open(root, create=True) as writer:
        patch.setattr(plan, "MIN_RING_CODES_AT_COMMIT", 1)
        keys = [*KEYS, *(f"more {i}" for i in range(16, 20_000))]
        marks = {"contribution": "A", "source": "NL", "labels": ["urgent", "A"]}
        writer.add_codes(more, keys=keys, metadata=metadata(0, 20_000), **marks)
        writer.commit()
        writer.remove(keys=keys[9_000:])
        writer.commit()
    return root


@pytest.mark.parametrize("how", ["read", "write"])
def test_no_changed_byte_in_the_middle_of_a_file_kills(large, thorough, how):
    middle = {name: size - 2 * fs.EDGE for name, size in sizes(large).items()}
    middle = {name: size for name, size in middle.items() if size > 0}
    assert {name.rpartition("/")[2] for name in middle} == {
        *("items.arrow", "members.arrow", "keys.arrow", "pdq.faiss", "pdq.rows.arrow"),
        *("pdq.ring.offsets.npy", "pdq.ring.postings.npy"),
    }
    names = [*middle] * 100 if thorough else random.sample([*middle], 5 if how == "read" else 1)
    flips = [
        flip(large, name, fs.EDGE + random.randrange(middle[name]), random.choice(MASKS))
        for name in names
    ]
    assert problems(large, flips, how) == []
