"""Files into an index: the account, what is read again, archives, digests, commits on the way."""

import hashlib
import io
import os
import shutil
import tarfile
import time
import zipfile
from collections import Counter

import pytest

import nearsearch as ns
from nearsearch.errors import UsageError

COUNTS = ("added", "replaced", "unchanged", "duplicate", "skipped", "failed")


@pytest.fixture
def tree(tmp_path, monkeypatch, small_index):
    """Pictures, a copy, a text, a broken picture, and archives of some, in ./t."""
    monkeypatch.chdir(tmp_path)
    os.makedirs("t/deep")
    for name in ("a.jpg", "b.jpg", "flat.png"):
        shutil.copy(small_index.pictures / name, "t")
    shutil.copy("t/a.jpg", "t/deep/copy.jpg")
    with open("t/broken.png", "wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n" + bytes(90))
    with open("t/note.txt", "w") as file:
        file.write("hello")
    with zipfile.ZipFile("t/some.zip", "w") as archive:
        archive.write(small_index.pictures / "c.jpg", "in/c.jpg")
        archive.write("t/a.jpg", "a.jpg")
        archive.write("t/broken.png", "broken.png")
        archive.write("t/note.txt", "note.txt")
    with tarfile.open("t/more.tar.gz", "w:gz") as archive:
        archive.add(small_index.pictures / "d.jpg", "d.jpg")
        archive.add("t/some.zip", "some.zip")
    return tmp_path


@pytest.fixture
def writer(tree):
    with ns.Writer.open("i.ns", create=True) as opened:
        yield opened


def counts(report):
    assert report.total == sum(getattr(report, name) for name in COUNTS)
    listed = Counter(failure.status for failure in report.failures)
    assert listed["skipped"] <= report.skipped
    return {name: getattr(report, name) for name in COUNTS if getattr(report, name)}


FIRST = {"added": 5, "duplicate": 4, "skipped": 3, "failed": 3}
AGAIN = {"unchanged": 9, "skipped": 3, "failed": 3}


def test_every_file_is_counted_once_those_in_archives_too(writer):
    told = []
    report = writer.add_files(["t"], workers=2, on_progress=lambda r: told.append(r.total))
    assert counts(report) == FIRST
    assert (report.paths, report.damaged) == (8, 0)
    assert report.bytes == sum(
        os.stat(os.path.join(folder, name)).st_size
        for folder, _, names in os.walk("t")
        for name in names
    )
    assert told == sorted(told)
    assert told[-1] == 15
    failed = sorted((f.key, f.stage) for f in report.failures if f.status == "failed")
    assert failed == [
        ("t/broken.png", "decode"),
        ("t/more.tar.gz!some.zip!broken.png", "decode"),
        ("t/some.zip!broken.png", "decode"),
    ]


def test_members_of_archives_have_keys_digests_and_sizes(writer, small_index):
    writer.add_files(["t"], contribution="C")
    writer.commit()
    data = (small_index.pictures / "c.jpg").read_bytes()
    with ns.Index.open("i.ns") as index:
        for name in ("md5", "sha1", "sha256"):
            table = index.lookup([hashlib.new(name, data).digest()]).to_arrow()
            assert table["key"].to_pylist() == [
                "t/more.tar.gz!some.zip!in/c.jpg",
                "t/some.zip!in/c.jpg",
            ]
            assert set(table["size"].to_pylist()) == {len(data)}
            assert table[name].to_pylist() == [hashlib.new(name, data).digest()] * 2
        near = index.search([small_index.codes["c.jpg"]], 0).to_arrow()
        assert near["key"].to_pylist() == table["key"].to_pylist()
        assert set(near["match"].to_pylist()) == {"near"}
        stats = index.stats()
        expected = {"items": 5, "members": 9, "failed": 3, "skipped": 3, "archives": 2}
        assert {name: stats[name] for name in expected} == expected
        (row,) = index.contributions().to_pylist()
        assert [row[name] for name in ("items", "members", "failed", "skipped")] == [5, 9, 3, 3]


def test_a_file_that_cannot_be_decoded_is_found_by_its_digest(writer):
    writer.add_files(["t"])
    writer.commit()
    with ns.Index.open("i.ns") as index:
        found = index.query(["t/broken.png", "t/note.txt"])
        assert found.to_arrow()["key"].to_pylist() == sorted(
            ["t/broken.png", "t/some.zip!broken.png", "t/more.tar.gz!some.zip!broken.png"]
        )
        assert found.to_arrow()["match"].to_pylist() == ["exact"] * 3
        assert [f.status for f in found.failures] == ["failed", "skipped"]
        table = index.failures()
        assert table.column_names[:4] == ["status", "key", "stage", "reason"]
        assert Counter(table["status"].to_pylist()) == {"failed": 3, "skipped": 3}


def test_nothing_is_read_twice(writer):
    writer.add_files(["t"])
    generation = writer.commit()
    again = writer.add_files(["t"])
    assert counts(again) == AGAIN
    assert writer.commit() == generation
    # What was found in an archive that failed is told in one line.
    assert sorted((f.key, f.stage) for f in again.failures if f.status != "skipped") == [
        ("t/broken.png", "decode"),
        ("t/more.tar.gz", "container"),
        ("t/some.zip", "container"),
    ]


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("changed", AGAIN),
        ("failed", AGAIN),
        ("all", AGAIN),
        ("rehash", AGAIN),
    ],
)
def test_reading_again_changes_nothing_where_nothing_changed(writer, mode, expected):
    writer.add_files(["t"])
    generation = writer.commit()
    assert counts(writer.add_files(["t"], read_again=mode)) == expected
    assert writer.commit() == generation


def test_an_unknown_way_to_read_again_is_refused(writer):
    with pytest.raises(UsageError, match="read_again: expected changed, failed, all, rehash"):
        writer.add_files(["t"], read_again="everything")


def swapped(path, data):
    """Give a file other content, with the size and time it had."""
    status = os.stat(path)
    assert len(data) == status.st_size
    with open(path, "wb") as file:
        file.write(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_content_that_changed_behind_size_and_time_is_found_by_its_digest(writer):
    writer.add_files(["t"])
    with open("t/a.jpg", "rb") as file:
        data = bytearray(file.read())
    data[-1] ^= 0xFF
    swapped("t/a.jpg", bytes(data))
    assert counts(writer.add_files(["t"])) == AGAIN
    found = counts(writer.add_files(["t"], read_again="all"))
    assert found == {**AGAIN, "unchanged": 8, "replaced": 1}


def test_what_failed_is_read_again_when_asked(writer, small_index):
    """As when a plug-in was installed: the same bytes, size and time."""
    with open("t/late.jpg", "wb") as file:
        file.write(bytes((small_index.pictures / "c.jpg").stat().st_size))
    writer.add_files(["t"])
    swapped("t/late.jpg", (small_index.pictures / "c.jpg").read_bytes())
    assert counts(writer.add_files(["t"]))["failed"] == 4
    found = counts(writer.add_files(["t"], read_again="failed"))
    assert found == {**AGAIN, "replaced": 1}
    assert counts(writer.add_files(["t"])) == {**AGAIN, "unchanged": 10}


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_what_could_not_be_read_is_tried_every_time(writer):
    os.chmod("t/a.jpg", 0)
    assert counts(writer.add_files(["t"]))["failed"] == 4
    os.chmod("t/a.jpg", 0o600)
    assert counts(writer.add_files(["t"]))["failed"] == 3


def test_an_archive_that_changed_is_read_again(writer, small_index):
    writer.add_files(["t/some.zip"])
    with zipfile.ZipFile("t/some.zip", "a") as archive:
        archive.write(small_index.pictures / "d.jpg", "d.jpg")
    # The time of what is in it is that of the archive, and content that is known is unchanged.
    assert counts(writer.add_files(["t/some.zip"])) == {
        "added": 1,
        "unchanged": 2,
        "skipped": 1,
        "failed": 1,
    }


def test_an_archive_without_files_is_skipped(writer):
    with zipfile.ZipFile("t/empty.zip", "w"):
        pass
    for _ in range(2):
        report = writer.add_files(["t/empty.zip"])
        assert counts(report) == {"skipped": 1}
        assert report.failures[0].reason == "an archive without files"


def test_a_damaged_archive_gives_what_can_be_read(writer, small_index):
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for name in ("a.jpg", "b.jpg", "c.jpg"):
            archive.add(small_index.pictures / name, name)
    with open("cut.tar", "wb") as file:
        file.write(data.getvalue()[: len(data.getvalue()) * 2 // 3 - 3000])
    report = writer.add_files(["cut.tar"])
    assert report.added >= 1
    assert report.failed >= 1
    stages = {failure.stage for failure in report.failures}
    assert "container" in stages
    # It is not taken for done: the next time it is read again if that is asked.
    again = writer.add_files(["cut.tar"])
    assert again.failed >= 1


def test_digests_can_be_left_out(writer):
    writer.add_files(["t/a.jpg"], digests=())
    writer.add_files(["t/b.jpg"], digests=("md5",))
    writer.commit()
    with ns.Index.open("i.ns") as index, open("t/a.jpg", "rb") as a, open("t/b.jpg", "rb") as b:
        one, other = a.read(), b.read()
        assert len(index.lookup([hashlib.sha256(one).digest()])) == 1
        assert len(index.lookup([hashlib.md5(one).digest(), hashlib.sha1(other).digest()])) == 0
        row = index.lookup([hashlib.md5(other).digest()]).to_arrow().to_pylist()[0]
        assert row["sha1"] is None
    with pytest.raises(UsageError, match="digests: expected md5 or sha1, got 'crc32'"):
        writer.add_files(["t"], digests=("crc32",))


def test_work_is_committed_on_the_way_and_earlier_generations_stay(writer, monkeypatch, tree):
    from nearsearch import intake

    writer.add_codes(["00" * 32], keys=["before"])
    before = writer.commit()
    monkeypatch.setattr(intake, "_FILES_A_BATCH", 2)
    monkeypatch.setattr(intake, "_FILES_A_LOOK", 3)
    seen = []

    def look(report):
        with ns.Index.open("i.ns") as index:
            seen.append((index.generation, index.stats()["members"]))

    report = writer.add_files(["t"], commit_every=0, on_progress=look, contribution="C")
    assert counts(report) == FIRST
    after = writer.commit()
    assert len({generation for generation, _ in seen}) > 3
    assert [members for _, members in seen] == sorted(members for _, members in seen)
    with ns.Index.open("i.ns") as index:
        # What was live before is kept, the parts are not.
        assert index.kept_generations() == [0, before, after]
        assert len(index.log()) > 4
        assert index.stats()["members"] == 1 + 9
    assert ns.verify("i.ns") == []
    writer.rollback(before)
    with ns.Index.open("i.ns") as index:
        assert index.stats()["members"] == 1


def test_an_error_leaves_the_parts_that_were_committed(tree, monkeypatch):
    from nearsearch import intake

    monkeypatch.setattr(intake, "_FILES_A_BATCH", 2)

    def stop(report):
        if report.added >= 3:
            raise KeyboardInterrupt

    with (
        pytest.raises(KeyboardInterrupt),
        ns.Writer.open("i.ns", create=True) as writer,
    ):
        writer.add_files(["t"], commit_every=0, on_progress=stop, workers=1)
    with ns.Index.open("i.ns") as index:
        done = index.stats()["members"]
        assert done >= 1
    with ns.Writer.open("i.ns") as writer:
        report = writer.add_files(["t"], commit_every=0)
        assert report.total == 15
    with ns.Index.open("i.ns") as index:
        assert index.stats()["members"] == 9


def test_damaged_pictures_are_hashed_and_flagged(writer, small_index):
    data = (small_index.pictures / "a.jpg").read_bytes()
    with open("t/cut.jpg", "wb") as file:
        file.write(data[: len(data) * 2 // 3])
    report = writer.add_files(["t/cut.jpg"])
    assert counts(report) == {"added": 1}
    assert report.damaged == 1
    (failure,) = report.failures
    assert (failure.status, failure.stage) == ("damaged", "damaged")
    assert "truncated" in failure.reason
    writer.commit()
    again = writer.add_files(["t/cut.jpg"])
    assert counts(again) == {"unchanged": 1}
    assert again.failures == report.failures
    with ns.Index.open("i.ns") as index:
        assert index.stats()["damaged"] == 1
        (row,) = index.query(["t/cut.jpg"]).to_arrow().to_pylist()
        assert (row["match"], row["problem"]) == ("exact", failure.problem)


def test_every_frame_of_an_animation_matches(writer, picture):
    frames = [picture(seed).convert("P") for seed in (50, 51, 52)]
    frames[0].save("t/film.gif", save_all=True, append_images=frames[1:], duration=500)
    for seed in (51, 99):
        picture(seed).save(f"{seed}.png")
    writer.add_files(["t/film.gif"])
    writer.commit()
    with ns.Index.open("i.ns") as index:
        (row,) = index.query(["51.png"]).to_arrow().to_pylist()
        assert (row["view"], row["time_ms"], row["match"]) == ("frame", 500, "near")
        assert len(index.query(["99.png"])) == 0
    # And asking with the animation finds one frame of it, once, however many views are near it.
    with ns.Writer.open("other.ns", create=True) as other:
        other.add_files(["51.png", "99.png"])
    with ns.Index.open("other.ns") as index:
        assert index.query(["t/film.gif"]).to_arrow()["key"].to_pylist() == ["51.png"]


def test_one_key_for_two_files_loses_neither_silently(writer, small_index):
    shutil.copy(small_index.pictures / "d.jpg", "t/some.zip!a.jpg")
    report = writer.add_files(["t"])
    assert report.total == 16
    assert report.replaced + report.added + report.duplicate == 10


def test_rescans_look_files_up_in_bulk(writer, tree, monkeypatch):
    """No process is started when there is nothing to read."""
    from nearsearch import workers

    writer.add_files(["t"])
    monkeypatch.setattr(workers, "_COMMAND", "raise SystemExit(3)")
    start = time.perf_counter()
    assert counts(writer.add_files(["t"])) == AGAIN
    assert time.perf_counter() - start < 5


# --- what is known is not forgotten -----------------------------------------------------------


def hits(path):
    with ns.Index.open("i.ns") as index:
        return index.query([path]).to_arrow()["key"].to_pylist()


def test_a_file_that_cannot_be_read_any_more_keeps_what_is_known_of_it(writer, small_index):
    shutil.copy("t/a.jpg", "query.jpg")
    writer.add_files(["t/a.jpg"])
    writer.commit()
    os.utime("t/a.jpg", (5, 5))
    for limits in (ns.Limits(max_bytes=10), ns.Limits(max_pixels=10)):
        for _ in range(2):
            assert counts(writer.add_files(["t/a.jpg"], limits=limits)) == {"failed": 1}
        writer.commit()
        assert hits("query.jpg") == ["t/a.jpg"]
    os.unlink("t/a.jpg")
    os.symlink("b.jpg", "t/a.jpg")
    assert counts(writer.add_files(["t"]))["skipped"] == 4
    writer.commit()
    assert "t/a.jpg" in hits("query.jpg")
    # Another picture in its place is another matter.
    os.unlink("t/a.jpg")
    shutil.copy(small_index.pictures / "c.jpg", "t/a.jpg")
    assert counts(writer.add_files(["t/a.jpg"])) == {"replaced": 1}


def test_a_merge_does_not_put_a_failure_in_the_place_of_a_code(writer):
    writer.add_files(["t/a.jpg"])
    writer.commit()
    with ns.Writer.open("later.ns", create=True) as later:
        later.add_files(["t/a.jpg"], limits=ns.Limits(max_pixels=10))
    report = writer.merge("later.ns")
    assert (report.replaced, report.left_out) == (0, 1)
    writer.commit()
    with ns.Index.open("i.ns") as index:
        assert index.stats()["failed"] == 0
    with ns.Writer.open("later.ns") as later:
        assert later.merge("i.ns").replaced == 1


def film(path, picture, n=6):
    frames = [picture(seed).convert("P") for seed in range(60, 60 + n)]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=500)


def test_what_was_read_in_part_can_be_completed_later(writer, picture):
    film("t/film.gif", picture)
    picture(65).save("last.png")
    few = ns.Limits(max_pixels=240 * 180)
    assert writer.add_files(["t/film.gif"], limits=few).damaged == 1
    writer.commit()
    assert hits("last.png") == []
    assert counts(writer.add_files(["t/film.gif"])) == {"unchanged": 1}
    report = writer.add_files(["t/film.gif"], read_again="failed")
    assert (counts(report), report.damaged) == ({"replaced": 1}, 0)
    writer.commit()
    assert hits("last.png") == ["t/film.gif"]
    # And what is whole is not replaced by less of the same.
    report = writer.add_files(["t/film.gif"], limits=few, read_again="rehash")
    assert (counts(report), report.damaged) == ({"unchanged": 1}, 1)
    writer.commit()
    assert hits("last.png") == ["t/film.gif"]
    assert ns.verify("i.ns") == []


def test_files_that_are_no_pictures_by_their_bytes_are_found_by_digest(writer):
    with open("t/garbage.jpg", "wb") as file:
        file.write(b"overwritten header" + bytes(5000))
    with open("t/some.zip", "rb") as file:
        archive = file.read()
    with open("t/cut.zip", "wb") as file:
        file.write(archive[:30])
    writer.add_files(["t"])
    writer.commit()
    with ns.Index.open("i.ns") as index:
        for name in ("garbage.jpg", "cut.zip", "some.zip"):
            with open(f"t/{name}", "rb") as file:
                digest = hashlib.file_digest(file, "md5").digest()
            (row,) = index.lookup([digest]).to_arrow().to_pylist()
            assert (row["key"], row["kind"]) == (f"t/{name}", "unhashed")


def test_members_of_archives_that_were_removed_come_back_when_added_again(writer):
    writer.add_files(["t/some.zip"])
    writer.commit()
    assert writer.remove(where='format == "JPEG"') == 2
    assert counts(writer.add_files(["t/some.zip"])) == {
        "added": 2,
        "skipped": 1,
        "failed": 1,
    }
    writer.commit()
    assert writer.remove(keys=["t/some.zip!a.jpg"]) == 1
    writer.commit()
    assert counts(writer.add_files(["t/some.zip"]))["added"] == 1
    assert ns.verify("i.ns") == []


def test_archives_with_the_same_digest_are_not_decoded_again(writer, monkeypatch):
    from nearsearch import workers

    writer.add_files(["t"])
    # A process that cannot decode any more still tells that nothing changed.
    command = workers._COMMAND.replace(
        "from nearsearch.media.worker import main;",
        "import nearsearch.media.fingerprint as f; f.pictures = None;"
        "from nearsearch.media.worker import main;",
    )
    assert command != workers._COMMAND
    monkeypatch.setattr(workers, "_COMMAND", command)
    report = writer.add_files(["t"], read_again="all", workers=1)
    assert counts(report) == AGAIN
    assert {f.key for f in report.failures if "NoneType" in f.reason} == {"t/broken.png"}


def test_damage_is_told_again_when_digests_are_checked(writer, small_index):
    data = (small_index.pictures / "a.jpg").read_bytes()
    with open("t/cut.jpg", "wb") as file:
        file.write(data[: len(data) * 2 // 3])
    first = writer.add_files(["t/cut.jpg"])
    for mode in ("all", "failed", "rehash"):
        again = writer.add_files(["t/cut.jpg"], read_again=mode)
        assert (counts(again), again.damaged) == ({"unchanged": 1}, 1), mode
        assert again.failures == first.failures


def test_long_runs_keep_the_generation_before_them(writer, monkeypatch):
    from nearsearch import intake, plan

    monkeypatch.setattr(intake, "_FILES_A_BATCH", 1)
    monkeypatch.setattr(plan, "MOST_MERGED_AT_COMMIT", 2)  # so that others come after it
    before = writer.commit()
    for number in range(60):
        os.symlink("a.jpg", f"t/link{number}")
    writer.add_files(["t"], commit_every=0)
    after = writer.commit()
    with ns.Index.open("i.ns") as index:
        assert any("compact" in commit.actions for commit in index.log())
        assert before in index.kept_generations()
        assert len(index.kept_generations()) <= 4
        assert after > 40  # also links are committed on the way


def test_what_can_be_read_of_a_folder_is_added(writer, monkeypatch):
    from nearsearch import ingest

    real = os.scandir

    class Failing:
        def __init__(self, path):
            self.inner, self.path = real(path), path

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.inner.close()

        def __iter__(self):
            for number, entry in enumerate(self.inner):
                if number == 4 and self.path == "t":
                    raise OSError(5, "Input/output error")
                yield entry

    monkeypatch.setattr(ingest.os, "scandir", Failing)
    found = list(ingest.walk(["t"]))
    problems = [file.failure for file in found if file.failure is not None]
    assert [(f.key, f.reason, f.stage) for f in problems] == [
        ("t", "after 4 entries: Input/output error", "read")
    ]
    assert len(found) >= 4


def test_a_large_archive_may_take_longer_than_a_file(tree, monkeypatch):
    """Its digests are taken before its first member is announced."""
    from nearsearch import workers

    slow = (
        "import time, nearsearch.media.fingerprint as f; f._CHUNK = 500; real = f._hash;"
        "Slow = type('Slow', (), dict(__init__=lambda s, n: setattr(s, 'h', real(n)),"
        "update=lambda s, c: (time.sleep(0.03), s.h.update(c)),"
        "hexdigest=lambda s: s.h.hexdigest()));"
        "f._hash = lambda n, d=None: Slow(n) if d is None else real(n, d);"
    )
    before = "from nearsearch.media.worker import main;"
    command = workers._COMMAND.replace(before, slow + before)
    assert command != workers._COMMAND
    monkeypatch.setattr(workers, "_COMMAND", command)
    took = time.perf_counter()
    with ns.Writer.open("one.ns", create=True, specs=["pdq"]) as writer:
        report = writer.add_files(["t/some.zip"], limits=ns.Limits(seconds=1), workers=1)
    took = time.perf_counter() - took
    assert counts(report) == {"added": 2, "skipped": 1, "failed": 1}, report.failures
    assert took > 1.5
