"""vPDQ in and out: what is read, what is refused and in which words, and the percentages."""

from __future__ import annotations

import json
import tracemalloc

import numpy as np
import pytest

import nearsearch as ns
from nearsearch.errors import CodesError, ExchangeError, UsageError
from nearsearch.exchange.frames import FrameHashes, as_records, match_percentages
from nearsearch.exchange.vpdq import from_json, read_text, to_json, write_text

HEX = "e2f1017837246bacc5dea21b648fbfd62f435c89db299a2497667e216c8d055c"
GOOD = f"0,100,{HEX},0.000\n"


def film(n, *, seed=0, quality=100):
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 256, (n, 32), np.uint8)
    return FrameHashes(codes, np.full(n, quality, np.int8), np.arange(n), np.arange(n) / 30)


def joined(*films):
    names = ("codes", "qualities", "numbers", "seconds")
    return FrameHashes(*(np.concatenate([getattr(f, name) for f in films]) for name in names))


def flipped(frames, n_bits):
    """The frames with the first bits of each code turned over."""
    mask = np.packbits(np.arange(256) < n_bits)
    return FrameHashes(frames.codes ^ mask, frames.qualities, frames.numbers, frames.seconds)


def read(tmp_path, text, **options):
    path = tmp_path / "film.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_text(path, **options)


# --- text -------------------------------------------------------------------------------------


def test_a_line_is_a_frame(tmp_path):
    frames = read(tmp_path, f"{GOOD}31,7,{'0' * 63}1,1.033\n")
    assert frames.codes.tobytes() == bytes.fromhex(HEX) + bytes(31) + b"\x01"
    assert frames.qualities.tolist() == [100, 7]
    assert frames.numbers.tolist() == [0, 31]
    assert frames.seconds.tolist() == [0.0, 1.033]
    kinds = [np.uint8, np.int8, np.int64, np.float64]
    names = ("codes", "qualities", "numbers", "seconds")
    assert [getattr(frames, name).dtype for name in names] == kinds
    assert len(frames) == 2


@pytest.mark.parametrize(
    "text",
    [
        GOOD.replace("\n", "\r\n"),
        "\ufeff" + GOOD,
        GOOD.rstrip("\n"),
        f"\n{GOOD} \r\n\n",
        GOOD.upper(),
        GOOD.replace("0.000", "0"),
        GOOD.replace("0.000", "0e+00"),
    ],
)
def test_other_spellings_of_the_same(tmp_path, text):
    frames = read(tmp_path, text)
    write_text(frames, tmp_path / "again.txt")
    assert (tmp_path / "again.txt").read_bytes() == GOOD.encode()


def test_order_and_repeats_are_kept(tmp_path):
    text = f"9,1,{HEX},3.000\n2,1,{HEX},1.000\n2,1,{HEX},1.000\n"
    frames = read(tmp_path, text)
    assert frames.numbers.tolist() == [9, 2, 2]
    write_text(frames, tmp_path / "again.txt")
    assert (tmp_path / "again.txt").read_text() == text


BAD = [
    (f"-1,100,{HEX},0.0", "a frame number of up to 18 digits", "'-1'"),
    (f"{'9' * 19},100,{HEX},0.0", "a frame number", "'999"),
    (f"0,101,{HEX},0.0", "a quality from 0 to 100", "'101'"),
    (f"0,,{HEX},0.0", "a quality from 0 to 100", "''"),
    (f"0,\u0663,{HEX},0.0", "a quality from 0 to 100", "'\u0663'"),
    (f"0,100,{HEX[:-2]},0.0", "a code of 64 hexadecimal digits", repr(HEX[:-2])),
    (f"0,100,{HEX[:-3]} ab,0.0", "a code of 64 hexadecimal digits", " ab'"),
    (f"0,100,{HEX[:-1]}g,0.0", "a code of 64 hexadecimal digits", "5g'"),
    (f"0,100,{HEX},-1.0", "a time in seconds", "'-1.0'"),
    (f"0,100,{HEX},nan", "a time in seconds", "'nan'"),
    (f"0,100,{HEX},1e999", "a time in seconds", "'1e999'"),
    (f"0,100,{HEX},1e13", "0 to 1e12", "'1e13'"),
    (f"0,100,{HEX}", "a frame number", "'0,100,e2f1"),
    (f"0,100,{HEX},0.0,0", "a quality", "'0,100,e2f1"),
    ("\x00" * 20, "a frame number", r"'\x00\x00"),
    ("x" * 600, "a line of at most 512 bytes", "... ("),
    (" " * 600 + GOOD.strip(), "a line of at most 512 bytes", "... ("),
    (f"0,100,{HEX},0.{'0' * 600}", "a line of at most 512 bytes", "... ("),
]


@pytest.mark.parametrize(("line", "expected", "actual"), BAD)
def test_a_bad_line_is_named_and_the_rest_can_be_read(tmp_path, line, expected, actual):
    text = f"{GOOD}\n{line}\n{GOOD}"
    with pytest.raises(ExchangeError) as caught:
        read(tmp_path, text)
    error = caught.value
    assert (error.line, error.unit) == (3, "line")
    assert error.path == str(tmp_path / "film.txt")
    assert expected in error.expected
    assert actual in error.actual
    assert len(str(error)) < 500 + len(error.path)
    bad = []
    assert read(tmp_path, text, on_bad=bad.append).numbers.tolist() == [0, 0]
    assert [str(one) for one in bad] == [str(error)]


def test_bytes_that_are_no_text(tmp_path):
    with pytest.raises(ExchangeError, match=r"line 1: expected a frame number .*xff"):
        read(tmp_path, GOOD.encode("utf-16"))


@pytest.mark.parametrize("text", ["", "\n\r\n", "\ufeff"])
def test_an_empty_file_is_no_film(tmp_path, text):
    with pytest.raises(ExchangeError, match="line 1: expected a line for each frame, found an"):
        read(tmp_path, text)
    bad = []
    assert len(read(tmp_path, text, on_bad=bad.append)) == 0
    assert len(bad) == 1


def test_a_huge_line_costs_no_memory(tmp_path):
    path = tmp_path / "huge.txt"
    path.write_bytes(b"0" * (8 << 20) + b"\n" + GOOD.encode())
    bad = []
    tracemalloc.start()
    try:
        frames = read_text(path, on_bad=bad.append)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20
    assert [error.line for error in bad] == [1]
    assert len(frames) == 1


@pytest.mark.parametrize("n", range(400, 450))
def test_a_mark_does_not_hide_the_end_of_a_long_line(tmp_path, n):
    text = "\ufeff" + GOOD.strip() + " " * n + "and more\n" + GOOD
    with pytest.raises(ExchangeError, match="line 1: expected"):
        read(tmp_path, text)


def test_a_missing_file_is_the_systems_to_say(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_text(tmp_path / "none.txt")


def test_text_needs_frame_numbers(tmp_path):
    frames = from_json(json.dumps([f"{HEX},100,0.0"]))
    with pytest.raises(UsageError, match="needs a number for each frame"):
        write_text(frames, tmp_path / "film.txt")
    assert not (tmp_path / "film.txt").exists()


# --- JSON -------------------------------------------------------------------------------------

# The first frame of python-threatexchange's extensions/vpdq/tests/test_hash.txt, in its first form.
WORDS = [64596, 32820, 28068, 11427, 34520, 65353, 6205, 28646]
WORDS += [57607, 4082, 27039, 14395, 53857, 52056, 9913, 58409]
OLD = {"quality": 100, "hash": {"w": WORDS}, "timestamp": 0.5}
OLD_HEX = "e42926b9cb58d261383b699f0ff2e1076fe6183dff4986d82ca36da48034fc54"


def test_todays_signals_are_lists_of_text():
    text = json.dumps([f"{HEX},100,0.0", f"{OLD_HEX},7,0.0333", f"{OLD_HEX},7,1.23e+03"])
    frames = from_json(text)
    assert frames.codes.tobytes().hex() == HEX + 2 * OLD_HEX
    assert frames.qualities.tolist() == [100, 7, 7]
    assert frames.numbers.tolist() == [-1, -1, -1]
    assert frames.seconds.tolist() == [0, 0.0333, 1230]
    assert to_json(frames) == text


def test_times_are_not_cut_to_three_digits():
    frames = FrameHashes(np.zeros((3, 32), np.uint8), [1, 1, 1], [0, 1, 2], [1234.567, 22.367, 100])
    seconds = [entry.split(",")[2] for entry in json.loads(to_json(frames))]
    assert seconds == ["1234.567", "22.367", "1e+02"]


@pytest.mark.parametrize("code", [{"w": WORDS}, OLD_HEX])
def test_first_signals_are_objects(code):
    text = json.dumps({"30": {**OLD, "hash": code}, "7": {**OLD, "timestamp": 2}})
    frames = from_json(text.encode())
    assert frames.codes.tobytes().hex() == 2 * OLD_HEX
    assert frames.qualities.tolist() == [100, 100]
    assert frames.numbers.tolist() == [30, 7]
    assert frames.seconds.tolist() == [0.5, 2]


def test_a_frame_number_twice_is_two_frames():
    feature = json.dumps(OLD)
    assert from_json(f'{{"1": {feature}, "1": {feature}}}').numbers.tolist() == [1, 1]


@pytest.mark.parametrize("text", ["", b"", "[]", "{}", "\n[ ]"])
def test_nothing_is_no_frames(text):
    frames = from_json(text)
    assert len(frames) == 0
    assert to_json(frames) == "[]"


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        (f"{HEX},100", "a code of 64 hexadecimal digits, a quality"),
        (f"0,100,{HEX},0.0", "a code of 64 hexadecimal digits, a quality"),
        (f"{HEX[2:]},100,0.0", "a code of 64"),
        (f"{HEX},100.0,0.0", "a quality"),
        (f"{HEX},100,inf", "a time"),
        (5, "text"),
        (None, "text"),
        (OLD, "text"),
    ],
)
def test_bad_entries_of_a_list(entry, expected):
    text = json.dumps([f"{HEX},100,0.0", entry, f"{HEX},1,0.0"])
    with pytest.raises(ExchangeError, match=f"feed 7: entry 2: expected {expected}"):
        from_json(text, name="feed 7")
    bad = []
    assert from_json(text, on_bad=bad.append).qualities.tolist() == [100, 1]
    assert len(bad) == 1


@pytest.mark.parametrize(
    ("number", "change", "expected"),
    [
        ("x", {}, "a frame number"),
        ("2", {"quality": 100.0}, "a quality"),
        ("2", {"quality": True}, "a quality"),
        ("2", {"quality": None}, "a quality"),
        ("2", {"timestamp": float("nan")}, "a time"),
        ("2", {"timestamp": -0.5}, "a time"),
        ("2", {"hash": HEX[2:]}, "a code"),
        ("2", {"hash": {"w": WORDS[1:]}}, "a code"),
        ("2", {"hash": {"w": [65536, *WORDS[1:]]}}, "a code"),
        ("2", {"hash": {"w": [1.0, *WORDS[1:]]}}, "a code"),
        ("2", {"hash": {"w": 5}}, "a code"),
        ("2", {"hash": {}}, "a code"),
        ("2", None, "text, or quality"),
    ],
)
def test_bad_entries_of_an_object(number, change, expected):
    text = json.dumps({"1": OLD, number: change if change is None else {**OLD, **change}})
    with pytest.raises(ExchangeError, match=f"vPDQ signal: entry 2: expected {expected}"):
        from_json(text)
    bad = []
    assert from_json(text, on_bad=bad.append).numbers.tolist() == [1]
    assert len(bad) == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[", "line 1: expected JSON"),
        ("[\n\n1 2]", "line 3: expected JSON"),
        (b"\xff[]", "expected JSON"),
        ("[" * 100_000, "expected JSON"),
        ("9" * 5000, "expected JSON"),
        ("5", "a list or an object, found 5"),
        ('"x"', "a list or an object, found 'x'"),
    ],
)
def test_other_json_and_none(text, words):
    with pytest.raises(ExchangeError, match=words):
        from_json(text, on_bad=lambda _: None)


@pytest.mark.parametrize("depth", [100, 500, 900, 990])
@pytest.mark.parametrize("around", ["[%s]", '{"1": %s}', json.dumps({"1": OLD | {"hash": 0}})])
def test_deep_json_is_refused_in_words(around, depth):
    deep = '{"a":' * depth + "1" + "}" * depth
    text = around.replace('"hash": 0', '"hash": %s') % deep
    with pytest.raises(ExchangeError):
        from_json(text)


# --- the value --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"codes": np.zeros((2, 31), np.uint8)}, CodesError, r"\(n, 32\) uint8"),
        ({"qualities": [1]}, UsageError, r"qualities: expected \(2,\) int8, got \(1,\)"),
        ({"qualities": [1.0, 1.0]}, UsageError, "qualities: expected"),
        ({"qualities": [1, 101]}, UsageError, "expected 0 to 100"),
        ({"qualities": [1, -1]}, UsageError, "expected 0 to 100"),
        ({"numbers": [-2, 0]}, UsageError, "numbers"),
        ({"seconds": [0, np.nan]}, UsageError, "seconds"),
        ({"seconds": [0, np.inf]}, UsageError, "seconds"),
        ({"seconds": [[0, 1]]}, UsageError, "seconds"),
    ],
)
def test_arrays_that_do_not_fit(change, error, words):
    fits = {"codes": np.zeros((2, 32), np.uint8), "qualities": [1, 1], "numbers": [0, 1]}
    with pytest.raises(error, match=words):
        FrameHashes(**{**fits, "seconds": [0, 1], **change})


# --- percentages ------------------------------------------------------------------------------


def test_shares_of_both_films():
    clip, rest = film(10), film(30, seed=1)
    assert match_percentages(clip, joined(rest, clip)) == (100, 25)
    assert match_percentages(joined(rest, clip), clip)._asdict() == {"query": 25, "known": 100}
    assert match_percentages(clip, rest) == (0, 0)


def test_the_radius_is_inclusive():
    frames = film(5)
    assert match_percentages(frames, flipped(frames, 31)) == (100, 100)
    assert match_percentages(frames, flipped(frames, 32)) == (0, 0)
    assert match_percentages(frames, flipped(frames, 32), 32) == (100, 100)
    assert match_percentages(frames, frames, 0) == (100, 100)


def test_all_bits_differ():
    """256 does not fit in a byte, and must not be taken for 0."""
    frames = film(1)
    assert match_percentages(frames, flipped(frames, 256)) == (0, 0)
    assert match_percentages(frames, flipped(frames, 256), 255) == (0, 0)
    assert match_percentages(frames, flipped(frames, 256), 256) == (100, 100)


def test_repeats_count_once():
    clip, rest = film(1), film(3, seed=1)
    assert match_percentages(joined(clip, clip, clip, rest), clip) == (25, 100)


def test_frames_of_low_quality_do_not_count():
    clip, low = film(4), film(4, seed=1, quality=49)
    assert match_percentages(joined(clip, low), clip) == (100, 100)
    assert match_percentages(joined(clip, low), joined(clip, low), 31, 49) == (100, 100)
    assert match_percentages(low, low) == (0, 0)
    assert match_percentages(clip, low, min_quality=0) == (0, 0)


def test_a_code_counts_if_any_of_its_frames_is_good():
    low, good = film(2, quality=1), film(2)
    assert match_percentages(joined(low, good), joined(good, low)) == (100, 100)


def test_films_without_frames():
    assert match_percentages(film(0), film(3)) == (0, 0)
    assert match_percentages(film(3), film(0)) == (0, 0)


@pytest.mark.parametrize("size", [15, 16, 17, 4095, 4096, 4097])
def test_sizes_about_a_block(size):
    short, long = film(17), film(size, seed=1)
    expected = (100 / 18, 100 / (size + 1))
    end = film(1, seed=2)
    shares = match_percentages(joined(short, end), joined(long, flipped(end, 5)))
    assert shares == pytest.approx(expected)
    assert match_percentages(joined(long, end), joined(short, end)) == pytest.approx(expected[::-1])


@pytest.mark.parametrize("arguments", [(-1,), (257,), (31, -1), (31, 101), (1.5,)])
def test_bounds_of_the_arguments(arguments):
    with pytest.raises(UsageError):
        match_percentages(film(1), film(1), *arguments)


# --- into an index ----------------------------------------------------------------------------


def test_frames_go_into_an_index_and_are_found(tmp_path):
    low = film(2, seed=1, quality=10)
    frames = joined(film(3), FrameHashes(low.codes, low.qualities, [7, -1], [1.5, 2.5]))
    with ns.Writer.open(tmp_path / "known.ns", create=True, specs=("wdct", "pdq")) as writer:
        writer.add_codes(**as_records(frames, "a.mp4"), contribution="NL-0042")
    with ns.Index.open(tmp_path / "known.ns") as index:
        table = index.search(flipped(frames, 9).codes, spec="pdq", min_quality=0).to_arrow()
        assert index.search(low.codes, spec="pdq").to_arrow().num_rows == 0
    rows = sorted(table.to_pylist(), key=lambda row: row["query_index"])
    assert [row["key"] for row in rows] == [f"a.mp4#{place}" for place in (0, 1, 2, 7, 4)]
    assert {(row["film"], row["distance"]) for row in rows} == {("a.mp4", 9)}
    assert [row["frame"] for row in rows] == [0, 1, 2, 7, None]
    assert [row["seconds"] for row in rows] == frames.seconds.tolist()


def test_a_film_needs_a_name():
    with pytest.raises(UsageError, match="film"):
        as_records(film(1), "a\n")
