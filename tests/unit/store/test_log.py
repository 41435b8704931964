import json
from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

import nearsearch as ns
from nearsearch.errors import CorruptFileError
from nearsearch.store import fs, log
from nearsearch.store.files import File
from nearsearch.store.log import Commit, Log

COMMIT = Commit(
    generation=7,
    time="2026-01-01T00:00:00+00:00",
    author="jö",
    actions=("add", "compact"),
    added=3,
    replaced=2,
    removed=1,
    items=8,
    members=9,
    contributions=("A", "B"),
    remark="from b.ns",
)


def commits(count):
    return [replace(COMMIT, generation=n, remark=f"line\n{n}") for n in range(1, count + 1)]


@pytest.fixture
def root(tmp_path):
    fs.make_directory(tmp_path / log.LOG)
    return tmp_path


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(log, "ENTRIES_A_FILE", 3)


def logged(root, entries):
    made = Log()
    for commit in entries:
        made = log.extended(root, made, commit)
    return made


def test_an_entry_comes_back_and_unknown_fields_are_ignored():
    encoded = json.loads(json.dumps(asdict(COMMIT)))
    assert log.decode_commit(encoded) == COMMIT
    assert log.decode_commit(encoded | {"later": 1}) == COMMIT


@pytest.mark.parametrize("count", [0, 1, 3, 4, 6, 7, 11])
def test_entries_come_back_in_order(root, short, count):
    made = logged(root, commits(count))
    assert log.read(root, made) == commits(count)
    assert len(made.newest) <= 3
    assert len(made.files) == max(0, count - 1) // 3
    assert [path.name for path in sorted((root / log.LOG).iterdir())] == sorted(
        file.name.rpartition("/")[2] for file in made.files
    )


def test_a_commit_costs_no_more_after_many(root, short):
    made = logged(root, commits(9))
    old = {file.name: (root / file.name).stat().st_mtime_ns for file in made.files}
    made = logged_on(root, made, 10)
    assert {file.name for file in made.files} > set(old)
    for name, mtime in old.items():  # never written again
        assert (root / name).stat().st_mtime_ns == mtime


def logged_on(root, made, generation):
    return log.extended(root, made, replace(COMMIT, generation=generation))


def test_files_are_lines_of_json(root, short):
    (file,) = logged(root, commits(4)).files
    assert file.name.startswith("log/000001-")
    lines = (root / file.name).read_text().splitlines()
    assert [json.loads(line)["generation"] for line in lines] == [1, 2, 3]


@pytest.mark.parametrize("how", ["missing", "altered", "nonsense", "no object", "field missing"])
def test_damaged_files(root, short, how):
    made = logged(root, commits(4))
    path = root / made.files[0].name
    data = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "altered":
        path.write_bytes(data[:-20] + b"X" + data[-19:])
    else:  # as written by somebody else: the checksums are right
        path.unlink()
        bad = {"nonsense": b"\xff{\n", "no object": b"7\n", "field missing": b"{}\n"}[how]
        made = replace(made, files=(File(made.files[0].name, *fs.create_file(path, [bad])),))
    with pytest.raises(CorruptFileError) as caught:
        log.read(root, made)
    assert caught.value.path == str(path)


NAMES = st.lists(st.sampled_from("ABCD"), max_size=3, unique=True)


@given(named=st.lists(NAMES, max_size=8), kept=st.sets(st.sampled_from("ABCD")))
def test_names_are_taken_out(tmp_path_factory, named, kept):
    root = tmp_path_factory.mktemp("log")
    fs.make_directory(root / log.LOG)
    entries = [replace(COMMIT, generation=i, contributions=tuple(n)) for i, n in enumerate(named)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(log, "ENTRIES_A_FILE", 3)
        old = logged(root, entries)
        new = log.without_names(root, old, kept)
    assert log.read(root, new) == [
        replace(entry, contributions=tuple(n for n in entry.contributions if n in kept), remark="")
        for entry in entries
    ]
    assert (len(new.files), len(new.newest)) == (len(old.files), len(old.newest))
    assert not {file.name for file in new.files} & {file.name for file in old.files}


def test_names_are_forgotten_also_where_a_file_holds_them(root, short):
    entries = [replace(COMMIT, generation=n, contributions=("secret",)) for n in range(8)]
    new = log.without_names(root, logged(root, entries), {"other"})
    for file in new.files:
        assert b"secret" not in (root / file.name).read_bytes()


def test_the_log_of_an_index(tmp_path, short):
    for number in range(8):
        with ns.Writer.open(tmp_path / "i.ns", create=True, author=f"a{number}") as writer:
            names = [f"{number}-{i:02}" for i in range(20)]
            for name in names:
                writer.add_codes([f"{number:064x}"], contribution=name)
    with ns.Index.open(tmp_path / "i.ns") as index:
        entries = index.log()
        assert entries[-1] == index.snapshot.manifest.commit
    assert [entry.generation for entry in entries] == list(range(1, 9))
    assert [entry.author for entry in entries] == [f"a{number}" for number in range(8)]
    assert all(entry.actions == ("add",) and entry.added == 20 for entry in entries)
    assert [entry.members for entry in entries] == [20 * n for n in range(1, 9)]
    assert [entry.items for entry in entries] == list(range(1, 9))
    assert entries[-1].contributions == tuple(names[: log.MOST_CONTRIBUTIONS])
    assert ns.verify(tmp_path / "i.ns") == []
