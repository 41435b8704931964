import pytest

import nearsearch as ns
from nearsearch.spec import get_spec
from nearsearch.store import fs, retention
from nearsearch.store import manifest as manifests
from nearsearch.store.files import File
from nearsearch.store.log import Log
from nearsearch.store.manifest import KEPT_MANIFESTS, Manifest, Pointer, ShardEntry

FOREIGN = [
    *("manifest-1.json", "CURRENT.bak", "CURRENT.0123abcd", "notes.txt", "writer.lock"),
    *("shards/mine", "shards/000001-0123abcd.bak", "shards/1-0123abcd"),
    *("tombstones/000001-0123abcd.arrow", "tombstones/x.arrow"),
    *("log/000001.jsonl", "log/mine.jsonl", "other/000001-0123abcd"),
]


def shard(number, tombstones=None):
    name = f"{number:06d}-0123abcd"
    file = File(f"shards/{name}/items.arrow", 1, "0", "0")
    hidden = tombstones and File(f"tombstones/{name}-{tombstones:06d}-0123abcd.arrow", 1, "0", "0")
    return ShardEntry(name, 1, 1, {}, {}, {"items": file}, hidden)


def log(*numbers):
    return Log(tuple(File(f"log/{n:06d}-0123abcd.jsonl", 1, "0", "0") for n in numbers))


def make(root, manifest):
    """Write a manifest and, empty, what it names."""
    for _, file in manifest.named_files():
        path = root / file.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return manifests.make_current(root, manifest)


def names(root):
    return {str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir()}


@pytest.fixture
def root(tmp_path):
    """Generations 1 to 3, the last live and keeping the second; what is foreign; what is left."""
    root = tmp_path / "i.ns"
    for folder in ("shards", "tombstones", "log", "other"):
        (root / folder).mkdir(parents=True)
    specs = (get_spec("pdq"),)
    make(root, Manifest(1, specs, (shard(1), shard(2))))
    second = make(root, Manifest(2, specs, (shard(2), shard(3, 5)), log=log(1)))
    make(root, Manifest(3, specs, (shard(3, 6), shard(4)), log=log(2), kept=(second,)))
    for name in FOREIGN:
        (root / name).touch()
    return root


NEEDED = {
    *("CURRENT", "manifest-000002.json", "manifest-000003.json"),
    *(f"shards/00000{n}-0123abcd/items.arrow" for n in (2, 3, 4)),
    *(f"tombstones/000003-0123abcd-00000{n}-0123abcd.arrow" for n in (5, 6)),
    *(f"log/00000{n}-0123abcd.jsonl" for n in (1, 2)),
    *FOREIGN,
}
GARBAGE = [
    *("manifest-000004.json", "CURRENT.0123abcd.tmp", "manifest-000004.json.0123abcd.tmp"),
    *("shards/000009-0123abcd/items.arrow", "shards/000009-0123abcd.tmp/items.arrow"),
    *("tombstones/000003-0123abcd-000009-0123abcd.arrow", "log/000009-0123abcd.jsonl"),
]


def litter(root):
    for name in GARBAGE:
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).touch()


def test_what_no_kept_generation_names_is_removed_and_nothing_else(root):
    litter(root)
    retention.collect(root, manifests.read_current(root))
    assert names(root) == NEEDED
    assert sorted(path.name for path in (root / "shards").iterdir() if path.is_dir()) == [
        *("000002-0123abcd", "000003-0123abcd", "000004-0123abcd"),
    ]
    before = names(root)
    retention.collect(root, manifests.read_current(root))
    assert names(root) == before


def test_unneeded_is_what_would_be_removed(root):
    litter(root)
    live = manifests.read_current(root)
    needed = [live, manifests.read(root, live.kept[0])]
    paths = retention.unneeded(root, needed)
    gone = {str(path.relative_to(root)) for path in paths}
    whole = {name.removesuffix("/items.arrow") for name in GARBAGE}
    assert gone == whole | {"manifest-000001.json", "shards/000001-0123abcd"}
    only_live = retention.unneeded(root, [live])
    assert {str(path.relative_to(root)) for path in only_live} == gone | {
        *("manifest-000002.json", "shards/000002-0123abcd", "log/000001-0123abcd.jsonl"),
        "tombstones/000003-0123abcd-000005-0123abcd.arrow",
    }


def test_an_empty_folder_holds_no_garbage(tmp_path):
    assert retention.unneeded(tmp_path, [Manifest(0, ())]) == []
    retention.collect(tmp_path, Manifest(0, ()))


@pytest.mark.parametrize("how", ["missing", "damaged", "of a later version"])
def test_nothing_is_removed_while_a_kept_manifest_cannot_be_read(root, how):
    litter(root)
    path = root / "manifest-000002.json"
    if how == "missing":
        path.unlink()
    elif how == "damaged":
        path.write_bytes(path.read_bytes()[:-3])
    else:
        path.write_bytes(b'{"format_version": 99}')
        live = manifests.read_current(root)
        kept = (Pointer(path.name, fs.checksum(path)[1]),)
        manifests.make_current(root, Manifest(3, live.specs, live.shards, log=live.log, kept=kept))
    before = names(root)
    retention.collect(root, manifests.read_current(root))
    assert names(root) == before


def test_nothing_is_removed_while_a_reader_holds_what_is_not_kept(root):
    litter(root)
    before = names(root)
    hold = fs.Hold(root / "manifest-000001.json")
    retention.collect(root, manifests.read_current(root))
    assert names(root) == before
    hold.release()
    retention.collect(root, manifests.read_current(root))
    assert names(root) == NEEDED


def test_what_was_erased_is_removed_though_a_reader_holds_it(root):
    live = manifests.read_current(root)
    erased = Manifest(4, live.specs, (shard(5),), erased=3)
    make(root, erased)
    holds = [fs.Hold(root / f"manifest-00000{n}.json") for n in (1, 2, 3)]
    retention.collect(root, erased)
    assert names(root) == {
        *("CURRENT", "manifest-000004.json", "shards/000005-0123abcd/items.arrow"),
        *FOREIGN,
    }
    for hold in holds:
        hold.release()


def pointers(root, count):
    made = []
    for generation in range(1, count + 1):
        made.append(manifests.make_current(root, Manifest(generation, ())))
    return made


@pytest.mark.parametrize("count", [1, 2, KEPT_MANIFESTS - 1, KEPT_MANIFESTS, 20])
def test_the_newest_are_kept(tmp_path, count):
    *kept, live = pointers(tmp_path, count)
    found = retention.to_keep(tmp_path, tuple(kept), live)
    assert found == (*kept, live)[-KEPT_MANIFESTS:]


def test_what_a_reader_holds_is_kept(tmp_path):
    *kept, live = pointers(tmp_path, 20)
    hold = fs.Hold(tmp_path / kept[4].name)
    found = retention.to_keep(tmp_path, tuple(kept), live)
    assert found == (kept[4], *(*kept, live)[-KEPT_MANIFESTS:])
    hold.release()
    assert kept[4] not in retention.to_keep(tmp_path, tuple(kept), live)


def test_what_is_gone_is_not_kept(tmp_path):
    *kept, live = pointers(tmp_path, 10)
    fs.remove(tmp_path / kept[0].name)
    assert retention.to_keep(tmp_path, tuple(kept), live)[0] == kept[2]


def test_an_index_keeps_eight_earlier_generations(tmp_path):
    root = tmp_path / "i.ns"
    for number in range(12):
        with ns.Writer.open(root, create=True) as writer:
            writer.add_codes([f"{number:064x}"])
        kept = list(range(number + 2))[-KEPT_MANIFESTS - 1 :]  # 0 is the empty index
        with ns.Index.open(root) as index:
            assert index.kept_generations() == kept
        for generation in kept:
            with ns.Index.open(root, generation=generation) as index:
                assert index.stats()["members"] == generation
        assert len(list(root.glob("manifest-*.json"))) == len(kept)
    assert len(list((root / "shards").iterdir())) == KEPT_MANIFESTS + 1
    with pytest.raises(ns.errors.GenerationNotKeptError):
        ns.Index.open(root, generation=3)


def test_names_that_may_stand_before_the_first_commit():
    first = "manifest-000000.json"
    for name in (first, f"{first}.0123abcd.tmp", "CURRENT.0123abcd.tmp"):
        assert retention.is_ours(name)
    for name in ("manifest-000001.json", "CURRENT", "CURRENT.tmp", "CURRENT.0123ABCD.tmp", "x"):
        assert not retention.is_ours(name)
