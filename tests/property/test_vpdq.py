"""vPDQ: frames come back from either form, whatever stands between; percentages by definition."""

import json
import tempfile
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from nearsearch.errors import ExchangeError
from nearsearch.exchange.frames import FrameHashes, match_percentages
from nearsearch.exchange.vpdq import from_json, read_text, to_json, write_text

milliseconds = st.integers(0, 10**12).map(lambda ms: ms / 1000)
rows = st.lists(
    st.tuples(
        st.binary(min_size=32, max_size=32),
        st.integers(0, 100),
        st.integers(0, 10**18 - 1),
        milliseconds | st.floats(0, 1e6),
    ),
    max_size=8,
)
junk = st.text(st.characters(exclude_characters="\n"), max_size=90).map(
    lambda text: text.encode("utf-8", "surrogatepass")
)


def frames_of(rows):
    codes = np.frombuffer(b"".join(row[0] for row in rows), np.uint8).reshape(-1, 32)
    columns = [np.array([row[i] for row in rows], kind) for i, kind in ((1, "i1"), (2, "i8"))]
    return FrameHashes(codes, *columns, np.array([row[3] for row in rows], "f8"))


def columns(frames, *, digits=None):
    seconds = frames.seconds if digits is None else [round(s, digits) for s in frames.seconds]
    return frames.codes.tobytes(), frames.qualities.tolist(), list(seconds)


@settings(deadline=None)
@given(rows, st.data())
def test_text_comes_back_without_the_lines_that_are_none(rows, data):
    frames = frames_of(rows)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "film.txt"
        write_text(frames, path)
        written = path.read_bytes()
        lines = written.splitlines(keepends=True)
        assert len(lines) == len(rows)
        bad = data.draw(st.lists(st.tuples(st.integers(0, len(lines)), junk), max_size=3))
        for place, line in sorted(bad, reverse=True):
            lines.insert(place, line + data.draw(st.sampled_from([b"\n", b"\r\n"])))
        path.write_bytes(b"".join(lines))
        faults = []
        again = read_text(path, on_bad=faults.append)
        n_blank = sum(not line.removeprefix(b"\xef\xbb\xbf").strip() for line in lines)
        assert len(faults) + len(again) >= len(lines) - n_blank
        assert again.numbers.tolist() == frames.numbers.tolist()
        assert columns(again) == columns(frames, digits=3)
        write_text(again, path)
        assert path.read_bytes() == written


@settings(deadline=None)
@given(rows)
def test_signals_come_back_exactly(rows):
    frames = frames_of(rows)
    text = to_json(frames)
    assert columns(from_json(text)) == columns(frames)
    assert to_json(from_json(text)) == text


@settings(deadline=None)
@given(rows)
def test_signals_as_python_threatexchange_writes_them_stay_as_they_are(rows):
    text = json.dumps([f"{code.hex()},{quality},{time:.3}" for code, quality, _, time in rows])
    assert to_json(from_json(text)) == text


@settings(deadline=None)
@given(
    st.recursive(
        st.none() | st.floats() | st.text(), lambda s: st.lists(s) | st.dictionaries(st.text(), s)
    )
)
def test_any_json_is_read_or_refused(value):
    faults = []
    try:
        frames = from_json(json.dumps(value), on_bad=faults.append)
    except ExchangeError:
        assert not isinstance(value, list | dict)
    else:
        assert len(frames) + len(faults) == len(value)


near_codes = st.lists(
    st.tuples(st.integers(0, 2), st.sets(st.integers(0, 255), max_size=40), st.integers(48, 52)),
    max_size=7,
)


def varied(entries):
    """Frames of three pictures with some bits turned over, of good and of low quality."""
    pictures = np.random.default_rng(5).integers(0, 2, (3, 256), np.uint8)
    bits = np.array([pictures[picture] for picture, _, _ in entries], np.uint8).reshape(-1, 256)
    for row, (_, flips, _) in zip(bits, entries, strict=True):
        row[list(flips)] ^= 1
    codes, n = np.packbits(bits, axis=1), len(entries)
    return FrameHashes(
        codes, np.array([q for *_, q in entries], np.int8), np.arange(n), np.zeros(n)
    )


@settings(deadline=None)
@given(near_codes, near_codes, st.integers(0, 256))
def test_percentages_are_those_of_the_definition(query, known, radius):
    films = varied(query), varied(known)
    ours, theirs = (
        {c.tobytes() for c, q in zip(f.codes, f.qualities, strict=True) if q >= 50} for f in films
    )

    def share(some, others):
        def far(a, b):
            return (int.from_bytes(a) ^ int.from_bytes(b)).bit_count()

        near = [any(far(a, b) <= radius for b in others) for a in some]
        return 100 * sum(near) / len(near) if near and others else 0

    expected = (share(ours, theirs), share(theirs, ours))
    assert np.allclose(match_percentages(*films, radius), expected)
