"""Repairs where the list of files itself is damaged, where several files are, and cut short."""

import contextlib
import json
import os
import random
import re
import shutil
import warnings

import pytest
from faults.damaged import (
    EVERYTHING,
    HIDDEN,
    HOWS,
    KEYS,
    LIVE,
    OF_SHARD,
    contents,
    damage,
    files,
    make,
    name_of,
    repaired,
)
from faults.disk import Crash, Disk

import nearsearch as ns
from nearsearch.errors import FormatTooNewError, FormatTooOldError, IndexNotFoundError
from nearsearch.store import fs


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make(tmp_path_factory.mktemp("base") / "i.ns")


@pytest.fixture
def root(base, tmp_path):
    return shutil.copytree(base, tmp_path / "i.ns")


@pytest.mark.parametrize("how", HOWS)
def test_current_is_damaged(root, how):
    damage(root, "CURRENT", how)
    result = repaired(root)
    assert result.generation == 6
    assert len(result.damage) == 1
    assert (result.lost_items, result.lost_members) == (0, 0)
    assert contents(root) == EVERYTHING


@pytest.mark.parametrize("at", [3, 63, 80])  # in the checksum, and in the name
def test_current_has_one_wrong_digit(root, at):
    text = (root / "CURRENT").read_text()
    (root / "CURRENT").write_text(f"{text[:at]}{'7' if text[at] != '7' else '8'}{text[at + 1 :]}")
    assert (repaired(root).lost_items, contents(root)) == (0, EVERYTHING)


@pytest.mark.parametrize("how", HOWS)
def test_the_live_manifest_is_damaged(root, how):
    if how == "missing":
        (root / LIVE).unlink()
    else:
        text = (root / LIVE).read_bytes()
        (root / LIVE).write_bytes(b"\xff" + text[1:] if how == "altered" else text[:-10])
    result = repaired(root)
    assert result.generation == 6
    assert contents(root) == EVERYTHING | {("A", KEYS[4]), ("B", KEYS[14])}  # enabled until then
    assert "what was committed after the manifest that was used" in result.damage[0].costs
    if how != "missing":
        assert f"damaged/000006/{LIVE}" in result.moved


def test_no_manifest_can_be_read(root):
    for path in root.glob("manifest-*.json"):
        path.write_bytes(b"\xff" + path.read_bytes()[1:])
    before = files(root)
    with pytest.raises(IndexNotFoundError):
        ns.repair(root)
    assert files(root) == before
    for path in root.glob("manifest-*.json"):
        path.unlink()
    with pytest.raises(IndexNotFoundError):
        ns.repair(root)
    with pytest.raises(IndexNotFoundError):
        ns.repair(root / "nothing")
    assert not (root / "nothing").exists()


LIES = {
    "checksum": (lambda text: re.search(r'/items.arrow",\s*"size": \d+,\s*"sha256": "', text)),
    "disabled source": (lambda text: re.search('"DE', text)),
    "count": (lambda text: re.search('"dead_members": ', text)),
    "generation": (lambda text: re.search('"generation": ', text)),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_manifest_with_one_wrong_byte_is_not_believed(root, lie):
    """It can be read still, and says something wrong: nothing that is whole may be lost by it."""
    text = (root / LIVE).read_text()
    at = LIES[lie](text).end()
    (root / LIVE).write_text(f"{text[:at]}{'7' if text[at] != '7' else '8'}{text[at + 1 :]}")
    result = repaired(root)
    assert contents(root) - {("A", KEYS[4]), ("B", KEYS[14])} == EVERYTHING
    assert result.damage[0].path == str(root / LIVE)


@pytest.mark.parametrize(("version", "error"), [(4, FormatTooNewError), (2, FormatTooOldError)])
def test_another_format_is_left_alone(root, version, error):
    value = json.loads((root / LIVE).read_bytes()) | {"format_version": version}
    (root / LIVE).write_text(json.dumps(value))
    damage(root, "CURRENT", "missing")
    before = files(root)
    with pytest.raises(error):
        ns.repair(root)
    assert files(root) == before


class Dying(Disk):
    """A process that dies in its n-th file-system call; what it did before is on the disk."""

    def _call(self, name, *args, **kwargs):
        with self._lock:
            self._count(name, args)
            return getattr(os, name)(*args, **kwargs)


def test_a_repair_that_is_cut_short_is_done_by_the_next(root, thorough):
    damage(root, name_of(root, "items", 0))
    damage(root, name_of(root, "keys", 1))
    damage(root, "manifest-000002.json")
    original = shutil.copytree(root, root.with_name("original.ns"))
    n, is_done = 0, False
    while not is_done:
        n += 1 if thorough else random.randint(1, 12)
        shutil.rmtree(root)
        shutil.copytree(original, root)
        before, disk = files(root), Dying(n, "crash")
        with pytest.MonkeyPatch.context() as patch, contextlib.suppress(Crash):
            patch.setattr(fs, "os", disk)
            ns.repair(root)
        is_done = disk.failed is None
        assert ns.repair(root).generation in (6, 7), n
        assert contents(root) == OF_SHARD[1] - HIDDEN, n
        assert ns.verify(root) == []
        after = files(root)
        for name, data in before.items():
            assert name == "CURRENT" or data in after.values(), (n, name)
    assert n > 20


def test_any_damage(root, thorough):
    original, names = shutil.copytree(root, root.with_name("original.ns")), [*files(root)]
    for _ in range(2000 if thorough else 12):
        shutil.rmtree(root)
        shutil.copytree(original, root)
        for name in random.sample(names, random.randint(1, 3)):
            damage(root, name, random.choice(HOWS))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ns.errors.RingWarning)
            repaired(root)
        shown = contents(root) - {("A", KEYS[0]), ("A", KEYS[4]), ("B", KEYS[10]), ("B", KEYS[14])}
        assert shown <= EVERYTHING
