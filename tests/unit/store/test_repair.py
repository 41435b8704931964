"""Repair: what is whole answers afterwards, what is not is put aside and accounted for."""

import json
import shutil

import pytest
from faults.damaged import (
    EVERYTHING,
    HIDDEN,
    HOWS,
    KEYS,
    OF_SHARD,
    add,
    contents,
    damage,
    files,
    make,
    name_of,
    repaired,
)

import nearsearch as ns
from nearsearch import plan
from nearsearch.errors import IndexLockedError, UsageError
from nearsearch.store import manifest as manifests


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make(tmp_path_factory.mktemp("base") / "i.ns")


@pytest.fixture
def root(base, tmp_path):
    return shutil.copytree(base, tmp_path / "i.ns")


def test_nothing_is_wrong(root):
    before = files(root)
    assert ns.repair(root) == (5, [], 0, 0, 0, [])
    assert files(root) == before


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("shard", [0, 1])
@pytest.mark.parametrize("role", ["items", "members", "codes/pdq", "rows/pdq"])
def test_a_shard_is_lost(root, role, shard, how):
    path = damage(root, name_of(root, role, shard), how)
    result = repaired(root)
    assert result.damage[0].path == path
    assert result.damage[0].costs.startswith("shard 00000")
    assert contents(root) == OF_SHARD[1 - shard] - HIDDEN
    assert (result.lost_items, result.lost_members) == (9, 9 + 5)
    if shard == 0:
        assert result.damage[-1].problem == "5 members belong to items that are lost"


def test_what_was_lost_can_be_added_again(root):
    damage(root, name_of(root, "items", 0))
    repaired(root)
    with ns.Writer.open(root) as writer:
        assert add(writer, range(5, 10), "C").added == 5
        report = add(writer, range(10), "A", "NL")
        assert (report.added, report.duplicate) == (5, 5)  # half of the items are back with C
    assert contents(root) == EVERYTHING | OF_SHARD[0]
    assert ns.verify(root) == []


@pytest.mark.parametrize("part", ["layout", "offsets", "postings"])
@pytest.mark.parametrize("how", HOWS)
def test_a_ring_is_left_out_and_built_anew(root, part, how, monkeypatch):
    path = damage(root, name_of(root, f"ring/pdq/{part}"), how)
    result = repaired(root)
    assert result.damage[0][::2] == (path, "speed only, until nearsearch compact")
    assert (result.lost_items, result.lost_members) == (0, 0)
    assert contents(root) == EVERYTHING
    assert "ring/pdq/layout" not in manifests.read_current(root).shards[0].files
    monkeypatch.setattr(plan, "MIN_RING_CODES", 1)
    with ns.Writer.open(root) as writer:
        writer.compact()
    (entry,) = manifests.read_current(root).shards
    assert "ring/pdq/layout" in entry.files
    assert contents(root) == EVERYTHING


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("shard", [0, 1])
def test_the_table_of_keys_is_made_anew(root, shard, how):
    path = damage(root, name_of(root, "keys", shard), how)
    result = repaired(root)
    assert result.damage[0][::2] == (path, "nothing: made anew")
    assert (result.lost_items, result.lost_members) == (0, 0)
    assert contents(root) == EVERYTHING
    with ns.Writer.open(root) as writer:
        assert add(writer, range(5, 10), "A", "NL").unchanged == 5
        assert add(writer, range(15, 20), "B", "NL").unchanged == 5
        assert add(writer, range(5, 10), "C").unchanged == 5
        assert add(writer, [10], "B", "NL").added == 1


@pytest.mark.parametrize("shard", [0, 1])
def test_tombstones_of_an_earlier_generation_are_used(root, shard):
    path = damage(root, name_of(root, "tombstones", shard))
    result = repaired(root)
    assert result.damage[0].path == path
    assert "since may be back" in result.damage[0].costs
    assert (result.lost_items, result.lost_members) == (0, 0)
    assert contents(root) == EVERYTHING  # what is disabled is known from the manifest


def test_without_any_tombstones_the_dead_are_back(root):
    for name in files(root):
        if name.startswith("tombstones/"):
            damage(root, name)
    for generation in (1, 2):  # in which there were none
        damage(root, f"manifest-00000{generation}.json")
    result = repaired(root)
    assert any(entry.costs.endswith("of this shard is back") for entry in result.damage)
    assert (result.lost_items, result.lost_members, result.returned_members) == (0, 0, 2)
    assert contents(root) == EVERYTHING | {("A", KEYS[0]), ("B", KEYS[10])}


@pytest.mark.parametrize("how", HOWS)
def test_only_what_is_kept_is_damaged(root, how):
    old = json.loads((root / "manifest-000003.json").read_bytes())
    name = old["shards"][0]["tombstones"]["name"]
    assert name != name_of(root, "tombstones", 0)
    paths = {damage(root, name, how), damage(root, "manifest-000001.json", how)}
    result = repaired(root)
    assert {entry.path for entry in result.damage} == paths
    assert all("which was kept" in entry.costs for entry in result.damage)
    with ns.Index.open(root) as index:
        assert index.kept_generations() == [0, 2, 6]
    assert contents(root) == EVERYTHING


@pytest.mark.parametrize("how", HOWS)
def test_the_log_loses_entries(root, how):
    name = manifests.read_current(root).log.files[0].name
    path = damage(root, name, how)
    result = repaired(root)
    assert result.damage[0].path == path
    assert contents(root) == EVERYTHING
    with ns.Index.open(root) as index:
        assert [entry.generation for entry in index.log()] == [3, 4, 5, 6]


def test_what_is_disabled_stays_so(root):
    damage(root, name_of(root, "items", 1))
    repaired(root)
    with ns.Writer.open(root) as writer:
        add(writer, [20], "A", "DE")
    assert contents(root) == OF_SHARD[0] - HIDDEN
    with ns.Writer.open(root) as writer:
        writer.enable(source="DE")
    assert contents(root) == (OF_SHARD[0] | {("A", KEYS[20])}) - {("A", KEYS[0])}


def test_a_writer_is_at_work(root):
    with ns.Writer.open(root):
        damage(root, "CURRENT")
        with pytest.raises(IndexLockedError):
            ns.repair(root)
    repaired(root)


def test_nothing_is_erased_while_some_of_it_may_lie_aside(root):
    damage(root, name_of(root, "items", 0))
    repaired(root)
    with ns.Writer.open(root) as writer, pytest.raises(UsageError, match="damaged"):
        writer.remove(contribution="B", erase=True)
    shutil.rmtree(root / "damaged")
    with ns.Writer.open(root) as writer:
        writer.remove(keys=[KEYS[11]], erase=True)
    assert contents(root) == OF_SHARD[1] - HIDDEN - {("B", KEYS[11])}


def test_a_shard_without_members_has_its_table_made_anew(root, monkeypatch):
    monkeypatch.setattr(plan, "SMALL_SHARD", 0)
    monkeypatch.setattr(plan, "MOST_MERGED", 0)
    with ns.Writer.open(root) as writer:
        writer.remove(contribution="A", erase=True)  # its items have members in the other shard
    assert manifests.read_current(root).shards[0].members == 0
    damage(root, name_of(root, "keys", 0))
    assert repaired(root).lost_members == 0
    assert contents(root) == EVERYTHING - OF_SHARD[0]
