"""What was erased is in no file of the index: not its bytes, nor as text, nor in hex."""

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from faults.traces import (
    ALL,
    CODES,
    SECRET,
    SECRET_MARKS,
    SECRET_METADATA,
    add_open,
    add_secret,
    make,
    of_codes,
    of_keys,
    of_marks,
    secret_keys,
    traces,
)

import nearsearch as ns
from nearsearch.errors import GenerationNotKeptError, MetadataError, UsageError
from nearsearch.store import manifest as manifests


def erase(root, **conditions):
    with ns.Writer.open(root) as writer:
        writer.remove(erase=True, **conditions)


def by_contribution(root):
    erase(root, contribution=SECRET_MARKS["contribution"])


def by_key(root):
    erase(root, keys=secret_keys())


def by_source_and_filter(root):
    erase(root, source=SECRET_MARKS["source"], where='"spoed-55" in labels')


def removed_earlier(root):
    with ns.Writer.open(root) as writer:
        writer.remove(keys=secret_keys())
        writer.commit()
        add_open(writer, 50)
    erase(root)


def compacted_between(root):
    with ns.Writer.open(root) as writer:
        writer.remove(keys=secret_keys()[:5])
        writer.compact()
        writer.remove(keys=secret_keys())
    erase(root)


def added_again_between(root):
    with ns.Writer.open(root) as writer:
        writer.remove(contribution=SECRET_MARKS["contribution"])
        writer.commit()
        add_secret(writer)
        writer.commit()
        writer.remove(contribution=SECRET_MARKS["contribution"])
        writer.compact()
        writer.remove(erase=True)


def disabled_before(root):
    with ns.Writer.open(root) as writer:
        writer.disable(contribution=SECRET_MARKS["contribution"])
        writer.disable(source=SECRET_MARKS["source"])
        writer.commit()
    by_contribution(root)


def replaced(root):
    with ns.Writer.open(root) as writer:
        # Other contents under the same keys: all but the keys is of the old ones.
        writer.add_codes(CODES[50:], keys=secret_keys(), contribution="zaak-7731")
        writer.commit()
        writer.remove(contribution="zaak-7731", erase=True)


def rolled_back(root):
    with ns.Writer.open(root) as writer:
        writer.rollback(1)
    erase(root)


def in_the_commit_that_adds(root):
    by_contribution(root)
    with ns.Writer.open(root) as writer:
        add_secret(writer)
        writer.remove(keys=secret_keys(), erase=True)


def in_a_commit_that_was_on_disk(root):
    by_contribution(root)
    with pytest.MonkeyPatch.context() as patch, ns.Writer.open(root) as writer:
        patch.setattr("nearsearch.store.shardset.FLUSH_MEMBERS", 1)
        add_secret(writer)
        add_open(writer, 50)
        writer.remove(keys=secret_keys(), erase=True)


WAYS = [
    *(by_contribution, by_key, by_source_and_filter, removed_earlier, compacted_between),
    *(added_again_between, disabled_before, replaced, rolled_back),
    *(in_the_commit_that_adds, in_a_commit_that_was_on_disk),
]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A shard without secrets, and then one with; with rings, and entries of the log in files."""
    return make(tmp_path_factory.mktemp("base") / "i.ns", is_one_shard=False)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """The same in one shard."""
    return make(tmp_path_factory.mktemp("mixed") / "i.ns", is_one_shard=True)


@pytest.fixture(params=["base", "mixed"])
def root(request, tmp_path):
    return shutil.copytree(request.getfixturevalue(request.param), tmp_path / "i.ns")


def open_keys_after(way):
    """Return the keys that match after one of the ways."""
    starts = [20] if way is rolled_back else [20, 30]
    starts += [50] if way in (removed_earlier, in_a_commit_that_was_on_disk) else []
    return {f"open-{i}" for start in starts for i in range(start, start + 10)}


def open_keys(root):
    with ns.Index.open(root, check="full") as index:
        assert len(index.search(CODES[SECRET], 0)) == 0
        table = index.search(CODES, 0).to_arrow()
        return set(table["key"].to_pylist())


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_nothing_is_left(root, way):
    assert {secret for _, secret in traces(root, ALL)} == set(ALL)  # else the test sees nothing
    way(root)
    assert traces(root, ALL) == []
    assert ns.verify(root) == []
    assert open_keys(root) == open_keys_after(way)
    with ns.Index.open(root) as index:
        (erased,) = [entry for entry in index.log()[::-1] if "erase" in entry.actions][:1]
        assert index.kept_generations() == [*range(erased.generation, index.generation + 1)]
        assert any("open-1" in entry.contributions for entry in index.log())
        for generation in range(erased.generation):
            with pytest.raises(GenerationNotKeptError):
                ns.Index.open(root, generation=generation)
            with ns.Writer.open(root) as writer, pytest.raises(GenerationNotKeptError):
                writer.rollback(generation)


def test_of_a_shared_item_only_the_member_goes(root):
    with ns.Writer.open(root) as writer:
        add_open(writer, 0, keys=[f"shared-{i}" for i in range(10)])
    by_contribution(root)
    codes = of_codes(CODES[SECRET])
    assert {secret for _, secret in traces(root, ALL)} == set(codes)
    with ns.Index.open(root) as index:
        table = index.search(CODES[SECRET], 0).to_arrow()
        assert table["key"].to_pylist() == [f"shared-{i}" for i in range(10)]
        assert set(table["contribution"].to_pylist()) == {"open-1"}
    erase(root, keys=[f"shared-{i}" for i in range(10)])
    assert traces(root, ALL) == []


def test_a_replaced_version_goes_by_a_bare_erase(root):
    with ns.Writer.open(root) as writer:
        add_secret(writer, contribution="open-1", metadata=None)
        writer.commit()
        keys = secret_keys()
        writer.add_codes(CODES[50:], keys=keys, contribution="open-1", source="NL")
        writer.commit()
        writer.remove(contribution="zaak-7731")
    erase(root)
    assert {secret for _, secret in traces(root, ALL)} == set(keys)
    with ns.Index.open(root) as index:
        assert index.search(CODES[50:], 0).to_arrow()["key"].to_pylist() == keys


def test_a_reader_goes_on_while_nothing_is_on_the_disk(root):
    with ns.Index.open(root) as index, ns.Index.open(root, generation=2) as old:
        before = [i.search(CODES, 31).to_arrow() for i in (index, old)]
        by_contribution(root)
        assert traces(root, ALL) == []
        after = [i.search(CODES, 31).to_arrow() for i in (index, old)]
        assert after == before
        assert secret_keys()[3] in after[0]["key"].to_pylist()
        assert index.refresh()
        assert len(index.search(CODES[SECRET], 0)) == 0
    ns.Writer.open(root).close()
    assert traces(root, ALL) == []


def test_a_column_that_only_the_erased_had(root):
    with ns.Writer.open(root) as writer:
        table = pa.table({"geheime_kolom": range(10)})
        writer.add_codes(CODES[50:], keys=secret_keys(10), contribution="more", metadata=table)
    assert traces(root, ["geheime_kolom"])
    erase(root, contribution="more")
    assert manifests.read_current(root).columns.keys() == SECRET_METADATA.keys()
    assert traces(root, ["geheime_kolom"]) == []


def rare_columns(texts):
    """Columns of which Arrow may keep more than the rows that are taken."""
    plain, ends = pa.array(texts), pa.array(np.arange(len(texts) + 1, dtype=np.int32))
    names, ones = plain.dictionary_encode(), pa.array(np.ones(len(texts), np.int32))
    return {
        "dictionaries in lists": pa.ListArray.from_arrays(ends, names),
        "dictionaries of structs": pa.DictionaryArray.from_arrays(
            ends[:-1], pa.StructArray.from_arrays([plain], ["in"])
        ),
        "dictionaries in structs": pa.StructArray.from_arrays([names], ["in"]),
        "views": plain.cast(pa.string_view()),
        "list views": pa.ListViewArray.from_arrays(ends[:-1], ones, plain),
        "maps": pa.MapArray.from_arrays(ends, plain, plain),
        "lists of one": pa.FixedSizeListArray.from_arrays(plain, 1),
        "structs, half of them null": pa.StructArray.from_arrays(
            [plain], ["in"], mask=pa.array([i % 2 == 0 for i in range(len(texts))])
        ),
        "unions": pa.UnionArray.from_sparse(pa.array(np.zeros(len(texts), np.int8)), [plain]),
        "runs": pa.RunEndEncodedArray.from_arrays(ends[1:], plain),
    }


RARE = rare_columns([f"geheim-rare-{i}" for i in range(10)])


@pytest.mark.parametrize("kind", RARE)
def test_columns_of_rare_types_are_erased_or_refused(tmp_path, kind):
    root, others = tmp_path / "i.ns", rare_columns([f"open-rare-{i}" for i in range(10)])
    field = pa.field("rare", RARE[kind].type, metadata={"note": "geheim-note"})
    with ns.Writer.open(root, create=True) as writer:
        try:
            add_secret(writer, metadata=pa.table([RARE[kind]], pa.schema([field])))
        except MetadataError:
            return
        add_open(writer, 20, metadata=pa.table({"rare": others[kind]}))
    secrets = [f"geheim-rare-{i}" for i in range(10)]
    assert traces(root, secrets)
    by_contribution(root)
    assert traces(root, [*ALL, *secrets, "geheim-note"]) == []
    with ns.Index.open(root) as index:
        table = index.search(CODES, 0).to_arrow()
    assert table["rare"].to_pylist() == others[kind].to_pylist()


def test_what_may_hold_the_erased_must_be_moved_away_first(root):
    (root / "damaged").mkdir()
    with ns.Writer.open(root) as writer:
        with pytest.raises(UsageError, match="damaged holds what could not be read"):
            writer.remove(contribution="zaak-7731", erase=True)
        writer.remove(contribution="zaak-7731")
    assert traces(root, ALL)
    (root / "damaged").rmdir()
    erase(root)
    assert traces(root, ALL) == []


def test_pictures(tmp_path, picture):
    folder, root = tmp_path / "geheime-map", tmp_path / "i.ns"
    folder.mkdir()
    for seed in range(3):
        picture(seed).save(folder / f"foto-{seed}.png")
    paths = [str(path) for path in sorted(folder.iterdir())]
    with ns.Writer.open(root, create=True) as writer:
        report = writer.add_files(paths, **SECRET_MARKS)
        assert report.added == 3
        add_open(writer, 20)
    hashes = ns.hash_files(paths)
    secrets = [
        *(code.tobytes() for code in hashes.codes),
        *(hashlib.sha256(Path(path).read_bytes()).digest() for path in paths),
        *of_keys(paths, "zaak-7731"),
        *of_marks(**SECRET_MARKS),
    ]
    assert {secret for _, secret in traces(root, secrets)} == set(secrets)
    by_contribution(root)
    assert traces(root, [*secrets, "PNG", "image/png"]) == []
    assert len(open_keys(root)) == 10
