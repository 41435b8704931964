"""Films from end to end: added, asked with films and stills, and what the answers came to."""

import zipfile

import numpy as np
import pytest
from PIL import Image

import nearsearch as ns
from nearsearch.errors import UsageError
from nearsearch.synthetic import make_picture

av = pytest.importorskip("av")

RATE = 10


def frames_of(seeds, seconds=3):
    """Frames of pans over pictures, `seconds` each: every moment differs from every other."""
    frames = []
    for seed in seeds:
        wide = make_picture(seed, "leaves", 320, 180)
        steps = seconds * RATE
        frames += [wide[:, x : x + 240] for x in np.linspace(0, 80, steps).astype(int)]
    return frames


def write(path, frames, codec="mpeg4", rate=RATE):
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt, stream.bit_rate = "yuv420p", 2_000_000
        for frame in frames:
            pixels = np.ascontiguousarray(frame)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        container.mux(stream.encode(None))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An index of two films, one of them in an archive, and a picture; and what to ask with."""
    root = tmp_path_factory.mktemp("films")
    known, other = frames_of(range(5)), frames_of(range(10, 14))
    write(root / "known.avi", known)
    write(root / "other.mp4", other)
    with zipfile.ZipFile(root / "some.zip", "w") as archive:
        archive.write(root / "other.mp4", "in/other.mp4")
    Image.fromarray(known[40]).save(root / "still.png")
    write(root / "cut.mp4", [frame[10:-10] for frame in known[40:120]])
    write(root / "unrelated.avi", frames_of(range(20, 23)))
    names = [str(root / name) for name in ("known.avi", "some.zip", "still.png")]
    with ns.Writer.open(root / "k.ns", create=True) as writer:
        report = writer.add_files(names, contribution="C")
        assert (report.added, report.failed, report.skipped) == (3, 0, 0)
    return root


def asked(folder, name, **options):
    with ns.Index.open(folder / "k.ns") as index:
        return index.query([folder / name], **options)


def test_a_cut_is_a_segment_of_its_film(folder):
    rows = asked(folder, "cut.mp4").segments().to_pylist()
    (row,) = [row for row in rows if row["kind"] == "video"]
    assert row["key"].endswith("known.avi")
    assert abs(row["time_ms"] - row["query_time_ms"] - 4000) <= 500
    assert abs(row["end_ms"] - row["query_end_ms"] - 4000) <= 500
    assert row["query_end_ms"] - row["query_time_ms"] >= 6500
    assert row["query_share"] > 0.8
    assert 0.4 < row["item_share"] < 0.6
    assert row["speed"] == pytest.approx(1, abs=0.05)
    assert row["frames"] >= 6
    assert row["duration_ms"] == 15_000


@pytest.mark.parametrize("interval", [1000, 500, 250, 100])
def test_segments_do_not_depend_on_how_densely_is_asked(folder, interval):
    sampling = ns.Sampling(interval_ms=interval)
    rows = asked(folder, "cut.mp4", sampling=sampling).segments().to_pylist()
    (row,) = [row for row in rows if row["kind"] == "video"]
    assert row["query_end_ms"] - row["query_time_ms"] >= 6000


def test_a_film_with_the_same_bytes_is_all_of_it(folder):
    first, *rest = asked(folder, "known.avi").segments().to_pylist()
    assert (first["match"], first["query_time_ms"], first["query_end_ms"]) == ("exact", 0, 15_000)
    assert (first["time_ms"], first["end_ms"]) == (0, 15_000)
    assert (first["query_share"], first["item_share"], first["speed"]) == (1, 1, 1)
    # The known still is met where it is from.
    (still,) = [row for row in rest if row["kind"] == "image"]
    assert still["query_time_ms"] <= 4000 <= still["query_end_ms"]
    assert still["frames"] is None


def test_a_film_in_an_archive_is_found(folder):
    (row,) = asked(folder, "other.mp4").segments().to_pylist()
    assert (row["match"], row["key"].rpartition("!")[2]) == ("exact", "in/other.mp4")
    assert row["kind"] == "video"


def test_unrelated_films_share_nothing(folder):
    assert len(asked(folder, "unrelated.avi").segments()) == 0


def test_a_still_finds_when_it_is_shown(folder):
    rows = asked(folder, "still.png").segments().to_pylist()
    (row,) = [row for row in rows if row["kind"] == "video"]
    assert row["time_ms"] <= 4000 < row["end_ms"]
    assert row["query_time_ms"] is None


def test_stretches_of_one_film_do_not_hide_gaps_of_another(tmp_path):
    still, black = make_picture(30, "leaves", 240, 180), np.zeros((180, 240, 3), np.uint8)
    write(tmp_path / "long.avi", [still] * 300)
    write(tmp_path / "gap.avi", [still] * 30 + [black] * 100 + [still] * 30)
    Image.fromarray(still).save(tmp_path / "still.png")
    with ns.Writer.open(tmp_path / "k.ns", create=True) as writer:
        writer.add_files([tmp_path / "long.avi", tmp_path / "gap.avi"])
    rows = asked(tmp_path, "still.png").segments().to_pylist()
    spans = [
        (row["key"].rpartition("/")[2], round(row["time_ms"], -3), round(row["end_ms"], -3))
        for row in rows
    ]
    assert sorted(spans) == [
        ("gap.avi", 0, 3000),
        ("gap.avi", 13_000, 16_000),
        ("long.avi", 0, 30_000),
    ]


def test_limit_counts_segments(folder):
    matches = asked(folder, "known.avi")
    assert len(matches.segments(limit=1)) == 1
    for limit in (0, -1):
        with pytest.raises(UsageError, match="limit"):
            matches.segments(limit=limit)


def test_removed_films_are_found_no_more(folder, tmp_path):
    write(tmp_path / "a.avi", frames_of([40, 41]))
    with ns.Writer.open(tmp_path / "k.ns", create=True) as writer:
        writer.add_files([tmp_path / "a.avi"], contribution="X")
        writer.commit()
        assert len(asked(tmp_path, "a.avi").segments()) == 1
        writer.remove(contribution="X")
    assert len(asked(tmp_path, "a.avi").segments()) == 0
