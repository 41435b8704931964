"""An index that is damaged in some way, and what holds of every repair of it."""

import os
import shutil

import numpy as np
import pytest

import nearsearch as ns
from nearsearch import plan
from nearsearch.store import log
from nearsearch.store import manifest as manifests

CODES = np.random.default_rng(31).integers(0, 256, (40, 32), np.uint8)
KEYS = [f"k{i:02}" for i in range(40)]
OF_SHARD = [{("A", key) for key in KEYS[:10]}, {("B", key) for key in KEYS[10:20]}]
ELSEWHERE = {("C", key) for key in KEYS[5:10]}  # members in the second shard, items in the first
HIDDEN = {("A", KEYS[0]), ("B", KEYS[10]), ("A", KEYS[4]), ("B", KEYS[14])}
EVERYTHING = (OF_SHARD[0] | OF_SHARD[1] | ELSEWHERE) - HIDDEN
LIVE = "manifest-000005.json"
HOWS = ("altered", "missing", "short")


def make(root):
    """Two shards with rings; removed and disabled members in both; a log in files."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("SMALL_SHARD", "MOST_MERGED_AT_COMMIT", "MOST_MERGED"):
            patch.setattr(plan, name, 0)
        patch.setattr(plan, "MIN_RING_CODES_AT_COMMIT", 1)
        patch.setattr(log, "ENTRIES_A_FILE", 2)
        with ns.Writer.open(root, create=True) as writer:
            for name, numbers in (("A", range(10)), ("B", range(10, 20))):
                for number in numbers:
                    add(writer, [number], name, "DE" if number % 10 == 4 else "NL")
                if name == "B":
                    add(writer, range(5, 10), "C")
                writer.commit()
            for key in (KEYS[0], KEYS[10]):
                writer.remove(keys=[key])
                writer.commit()
            writer.disable(source="DE")
    assert contents(root) == EVERYTHING
    return root


def add(writer, numbers, contribution, source=""):
    keys = [KEYS[number] for number in numbers]
    return writer.add_codes(CODES[[*numbers]], keys=keys, contribution=contribution, source=source)


def contents(root):
    with ns.Index.open(root, check="full") as index:
        table, stats = index.search(CODES, 0).to_arrow(), index.stats()
        assert stats["members"] == len(table) + stats["disabled_members"]
        return set(zip(table["contribution"].to_pylist(), table["key"].to_pylist(), strict=True))


def name_of(root, role, shard=0):
    manifest = manifests.read_current(root)
    return dict(manifest.shards[shard].all_files())[role].name


def damage(root, name, how="altered"):
    path = root / name
    data = path.read_bytes()
    middle = len(data) // 2
    if how == "missing":
        path.unlink()
    elif how == "short":
        os.truncate(path, len(data) - 1)
    else:
        path.write_bytes(data[:middle] + bytes([data[middle] ^ 0xFF]) + data[middle + 1 :])
    return str(path)


def files(root):
    paths = [path for path in root.rglob("*") if path.is_file() and path.name != "writer.lock"]
    return {str(path.relative_to(root)): path.read_bytes() for path in paths}


def repaired(root):
    """Repair an index, check what holds of every repair, and return what it came to."""
    before = files(root)
    result = ns.repair(root, author="me")
    after, aside = files(root), f"damaged/{result.generation:06}"
    for name, data in before.items():
        is_kept = data in (after.get(name), after.get(f"{aside}/{name}"))
        # Where everything else was made anew, only lists and copies of what there is go.
        assert is_kept or name == "CURRENT" or not result.moved, name
    assert result.moved or not (result.lost_items or result.lost_members)
    assert all((root / name).exists() and name.startswith(aside) for name in result.moved)
    assert result.damage
    assert result.generation > max(int(name[9:15]) for name in before if name[:9] == "manifest-")
    assert ns.verify(root) == []
    assert ns.repair(root) == (result.generation, [], 0, 0, 0, [])
    with ns.Index.open(root, check="full") as index:
        assert index.generation == result.generation
        assert (index.log()[-1].actions, index.log()[-1].author) == (("repair",), "me")
        for generation in index.kept_generations():
            ns.Index.open(root, generation=generation, check="full").close()
    copy = shutil.copytree(root, root.with_name("copy.ns"))
    with ns.Writer.open(copy) as writer:
        assert add(writer, range(30, 40), "new").added == 10
        writer.compact()
    assert contents(copy) == contents(root) | {("new", key) for key in KEYS[30:]}
    assert ns.verify(copy) == []
    shutil.rmtree(copy)
    return result
