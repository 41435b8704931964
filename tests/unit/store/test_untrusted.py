"""Damage that nobody has noticed: `take` returns, or says that the file is damaged.

Run as a program, this file damages tables and takes rows of them; a crash ends the program only.
"""

import ctypes
import hashlib
import json
import mmap
import struct
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from nearsearch.errors import CorruptFileError
from nearsearch.store import fs, schema, untrusted
from nearsearch.store.files import File

N = 40
ANY = pa.schema([])
NAMES = ["", "a", "bä", "日本 東京", "🏳️ x", "longer than the others"]
LISTS = [[], [1], [2, 3], [4, None, 6]]


def some(values, n, *, every=5):
    """n values in turn, every fifth of them null."""
    return [None if i % every == every - 1 else values[i % len(values)] for i in range(n)]


def dictionary(n, index=None, every=10**6):
    kind = pa.dictionary(index or pa.int32(), pa.string())
    return pa.array(some(NAMES, n, every=every), pa.string()).cast(kind)


def columns(n):
    """A column of each kind."""
    texts, words = some(NAMES, n), pa.list_(pa.string())
    structs = [{"a": NAMES[i], "b": LISTS[i % 4]} for i in range(6)]
    pairs = [[(NAMES[i], i), ("x", None)][: i % 3] for i in range(6)]
    maps = [[(i, NAMES[:i])] for i in range(6)]
    return {
        "string": pa.array(some(NAMES, n, every=10**6), pa.string()),
        "string, nullable": pa.array(texts, pa.string()),
        "large_string": pa.array(texts, pa.large_string()),
        "binary": pa.array([text and text.encode() for text in texts], pa.binary()),
        "large_binary": pa.array([text and text.encode() for text in texts], pa.large_binary()),
        "list<string>": pa.array(some([NAMES[:2], [], NAMES[3:]], n), words),
        "list<list<int>>": pa.array(
            some([LISTS, [], LISTS[2:]], n), pa.list_(pa.list_(pa.int32()))
        ),
        "large_list<int>": pa.array(some(LISTS, n), pa.large_list(pa.int64())),
        "list<large_string>": pa.array(some([NAMES, []], n), pa.list_(pa.large_string())),
        "map": pa.array(some(pairs, n), pa.map_(pa.string(), pa.int16())),
        "map of lists": pa.array(some(maps, n), pa.map_(pa.int32(), words)),
        "struct": pa.array(
            some(structs, n), pa.struct([("a", pa.string()), ("b", pa.list_(pa.int8()))])
        ),
        "dictionary": dictionary(n),
        "dictionary, nullable": dictionary(n, every=5),
        "dictionary<int8>": dictionary(n, pa.int8()),
        "list<dictionary>": pa.ListArray.from_arrays(range(n + 1), dictionary(n)),
        "struct<dictionary>": pa.StructArray.from_arrays([dictionary(n)], ["d"]),
        "fixed_size_list<string>": pa.array(
            some([NAMES[:2], NAMES[4:]], n), pa.list_(words.value_type, 2)
        ),
        "fixed_size_list<int>": pa.array(some([[1, None], [2, 3]], n), pa.list_(pa.int32(), 2)),
        "fixed_size_binary": pa.array(some([b"abcd", b"\0\0\0\0"], n), pa.binary(4)),
        "int": pa.array(some([0, 1, 2**60], n), pa.int64()),
        "bool": pa.array(some([True, False], n)),
        "timestamp": pa.array(some([0, 10**15], n), pa.timestamp("us", "UTC")),
        "decimal": pa.array(some([1, 2], n), pa.decimal128(10, 2)),
    }


KINDS = list(columns(0))
READ_BY_OFFSET = [
    kind
    for kind in KINDS
    if not kind.startswith(("int", "bool", "time", "fixed_size_b", "dec", "fixed_size_list<int"))
]


def opened(folder, table, damage=lambda data: data, expected=ANY):
    """Write a table, damage it, and open it as if its edges were as they should be."""
    path = folder / "t"
    path.unlink(missing_ok=True)
    schema.create_ipc(path, table)
    return open_damaged(folder, damage(path.read_bytes()), expected)


def open_damaged(folder, data, expected=ANY):
    (folder / "t").write_bytes(data)
    ends = hashlib.sha256(data[: fs.EDGE] + data[max(fs.EDGE, len(data) - fs.EDGE) :])
    file = File("t", len(data), "not looked at", ends.hexdigest())
    return schema.from_ipc(folder, file, expected)


# --- what is whole ----------------------------------------------------------------------------

ROWS = [[], [0], [N - 1], [3, 3, 0, 17], list(range(N)), list(range(N))[::-1]]


@pytest.mark.parametrize("rows", ROWS, ids=lambda rows: f"{len(rows)} rows")
@pytest.mark.parametrize("kind", KINDS)
def test_whole_tables_are_taken_from_as_arrow_does(tmp_path, kind, rows):
    table = pa.table({"x": columns(N)[kind], "n": range(N)})
    mapped = opened(tmp_path, table, expected=table.schema)
    rows = np.array(rows, np.int64)
    expected = table.take(pa.array(rows))
    untrusted.check_dictionaries(mapped, tmp_path / "t")
    assert untrusted.take(mapped, rows, tmp_path / "t").equals(expected)
    assert untrusted.take(table, rows, None).equals(expected)


@pytest.mark.parametrize("kind", KINDS)
def test_empty_tables(tmp_path, kind):
    table = pa.table({"x": columns(0)[kind]})
    mapped = opened(tmp_path, table)
    untrusted.check_dictionaries(mapped, tmp_path / "t")
    assert untrusted.take(mapped, np.empty(0, np.int64), tmp_path / "t").equals(table)
    with pytest.raises(CorruptFileError):
        untrusted.take(mapped, np.zeros(1, np.int64), tmp_path / "t")


@pytest.mark.parametrize("rows", [[N], [-1], [0, N, 1], [2**40], [-(2**40)]])
def test_rows_that_the_table_has_not(tmp_path, rows):
    mapped = opened(tmp_path, pa.table({"x": range(N)}))
    with pytest.raises(CorruptFileError, match=f"t: rows: expected numbers below {N}"):
        untrusted.take(mapped, np.array(rows), tmp_path / "t")


# --- what is damaged --------------------------------------------------------------------------


def replaced(old, new):
    """Return what replaces bytes that stand once in a file."""

    def damage(data):
        assert data.count(old) == 1
        assert len(old) == len(new)
        return data.replace(old, new)

    return damage


def check_row_7_alone_is_damaged(folder, mapped, words, rows=range(N)):
    path = folder / "t"
    for row in rows:
        if row == 7:
            with pytest.raises(CorruptFileError, match=words) as caught:
                untrusted.take(mapped, np.array([0, row]), path)
            assert caught.value.path == str(path)
        else:
            assert len(untrusted.take(mapped, np.array([0, row]), path)) == 2


@pytest.mark.parametrize(
    "kind",
    [pa.string(), pa.large_string(), pa.binary(), pa.large_binary()],
    ids=str,
)
@pytest.mark.parametrize("end", [2**31 - 1, -1, 0, 321, 10**6])
def test_offsets_are_checked_where_they_are_used(tmp_path, kind, end):
    table = pa.table({"x": pa.array(["eight by"] * N).cast(kind)})
    code = "<ii" if kind in (pa.string(), pa.binary()) else "<qq"
    good, bad = struct.pack(code, 56, 64), struct.pack(code, 56, end)
    mapped = opened(tmp_path, table, replaced(good, bad))
    others = [row for row in range(N) if row != 8]  # the offset is where row 8 begins
    check_row_7_alone_is_damaged(tmp_path, mapped, "column x: expected whole values", others)


def test_indices_are_checked_where_they_are_used(tmp_path):
    column = pa.DictionaryArray.from_arrays(
        pa.array([77] * 7 + [88] + [77] * 32, pa.int16()), range(99)
    )
    for bad in (99, 2**15 - 1, -1):
        damage = replaced(struct.pack("<hh", 77, 88), struct.pack("<hh", 77, bad))
        mapped = opened(tmp_path, pa.table({"x": column}), damage)
        check_row_7_alone_is_damaged(tmp_path, mapped, "column x: expected whole values")


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.list_(pa.string()), pa.struct([("a", pa.string())])]
)
def test_text_is_checked_where_it_is_used(tmp_path, kind):
    texts = ["good"] * 7 + ["evil"] + ["good"] * 32
    wrap = {"list": lambda text: [text], "struct": lambda text: {"a": text}}
    values = list(map(wrap.get(str(kind).partition("<")[0], str), texts))
    table = pa.table({"x": pa.array(values, kind)})
    mapped = opened(tmp_path, table, replaced(b"evil", b"\xff\xfe\xfd\xfc"))
    check_row_7_alone_is_damaged(tmp_path, mapped, "column x: expected valid values")


@pytest.mark.parametrize("bad", [b"\xff\xfe\xfd\xfc", None])
def test_dictionaries_are_checked_whole(tmp_path, bad):
    table = pa.table({"n": [1, 2], "x": pa.array(["good", "evil"]).dictionary_encode()})
    damage = replaced(b"evil", bad)
    if bad is None:  # an offset instead
        damage = replaced(struct.pack("<iii", 0, 4, 8), struct.pack("<iii", 0, 2**30, 8))
    mapped = opened(tmp_path, table, damage)
    with pytest.raises(CorruptFileError, match="column x: expected whole names"):
        untrusted.check_dictionaries(mapped, tmp_path / "t")
    untrusted.check_dictionaries(mapped.select(["n"]), tmp_path / "t")


@pytest.mark.parametrize("kind", ["string", "large_list<int>", "map", "dictionary"])
@pytest.mark.parametrize("more", [1, 2, 7])
def test_a_buffer_whose_length_is_no_multiple_of_its_values(tmp_path, kind, more):
    """Its length stands in the file, and is as good as the file."""
    table = pa.table({"x": columns(1000)[kind]})
    schema.create_ipc(tmp_path / "t", table)
    good = (tmp_path / "t").read_bytes()
    length = (8 if kind.startswith("large") else 4) * (1000 + (kind != "dictionary"))
    outcomes = set()
    for place in range(0, len(good) - 8, 8):
        if good[place : place + 8] == struct.pack("<q", length):
            bad = good[:place] + struct.pack("<q", length + more) + good[place + 8 :]
            try:
                mapped = open_damaged(tmp_path, bad)
                taken = untrusted.take(mapped, np.arange(1000), tmp_path / "t")
                outcomes.add(taken.equals(table))
            except CorruptFileError:
                outcomes.add("refused")
    assert outcomes
    assert outcomes <= {True, "refused"}


def test_names_of_columns_that_cannot_be(tmp_path):
    table = pa.table({"first": [1], "other": [2]})
    for bad in (b"\xff\xfe\xfd\xfc!", b"first"):
        with pytest.raises(CorruptFileError):
            opened(tmp_path, table, lambda data, bad=bad: data.replace(b"other", bad))


# --- anything, anywhere -----------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_whatever_is_damaged_the_process_lives(tmp_path, seed):
    """No crash, and no exception but `CorruptFileError`, from any damage of any kind of column."""
    command = [sys.executable, __file__, str(tmp_path), str(seed), "4000"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250)
    case = (tmp_path / "case.json").read_text()  # with the damaged file, t, beside it
    assert done.returncode == 0, f"ended with {done.returncode} at {case}\n{done.stderr}"
    outcomes = json.loads(done.stdout)
    assert outcomes["other"] == {}
    for kind in KINDS:
        assert outcomes["returned"][kind] > 5
    for kind in READ_BY_OFFSET:
        assert outcomes["refused"][kind] > 5


def guarded(path, length):
    """Stand in for `fs.map_file`: what is read beyond either end of the file ends the process."""
    page = mmap.PAGESIZE
    inner = -(-length // page) * page
    mapping = mmap.mmap(-1, inner + 2 * page)
    whole = np.frombuffer(mapping, np.uint8)
    for start in (0, page + inner):
        assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(whole.ctypes.data + start), page, 0) == 0
    first = page + inner - -(-length // 64) * 64  # the end of the file is the end of the page
    whole[first : first + length] = np.frombuffer(path.read_bytes(), np.uint8)
    return whole[first : first + length]


EXTREMES = [0, 1, -1, 1000, 100_000, 2**31 - 1, -(2**31)]
WIDE_EXTREMES = [*EXTREMES, 2**40, 2**62, -(2**63)]


def damaged(rng, data):
    """Alter a few places: bits, bytes, and aligned numbers, to others far away and near."""
    data = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        place, how = int(rng.integers(len(data))), rng.choice(["bit", "byte", "number", "nearby"])
        if how == "bit":
            data[place] ^= 1 << rng.integers(8)
        elif how == "byte":
            data[place] = rng.integers(256)
        else:
            width = int(rng.choice([4, 8]))
            place -= place % width
            number = int.from_bytes(data[place : place + width], "little", signed=True)
            if how == "number":
                number = int(rng.choice(EXTREMES if width == 4 else WIDE_EXTREMES))
            else:
                number += int(rng.choice([-8, -1, 1, 2, 4, 8, 64]))
            number &= (1 << 8 * width) - 1
            data[place : place + width] = number.to_bytes(width, "little")[: len(data) - place]
    return bytes(data)


def take_of_damaged(folder, seed, count):
    """Damage, open and take from `count` tables; return what became of each kind of column."""
    rng = np.random.default_rng(seed)
    returned, refused, other = Counter(), Counter(), Counter()
    for number in range(count):
        n = int(rng.choice([1, 5, 40, 300]))
        if number % 20 == 0:  # a new table
            kinds = [str(kind) for kind in rng.choice(KINDS, rng.integers(1, 4), replace=False)]
            every = columns(n)
            table = pa.table({kind: every[kind] for kind in kinds})
            (folder / "t").unlink(missing_ok=True)
            schema.create_ipc(folder / "t", table)
            good = (folder / "t").read_bytes()
        rows = rng.integers(0, len(table), rng.integers(0, 2 * len(table) + 1))
        if rng.random() < 0.1:  # as other damaged files may ask for
            rows = np.append(rows, rng.integers(-5, 2 * len(table)))
        case = {"seed": seed, "number": number, "kinds": kinds, "rows": rows.tolist()}
        (folder / "case.json").write_text(json.dumps(case))
        try:
            expected = table.schema if rng.random() < 0.8 else ANY
            mapped = open_damaged(folder, damaged(rng, good), expected)
        except CorruptFileError:
            continue
        except Exception as error:
            other[f"open: {error!r} at {number}"] += 1
            continue
        try:
            taken = untrusted.take(mapped, rows, folder / "t")
            if rng.random() < 0.7:
                untrusted.check_dictionaries(mapped, folder / "t")
                read_whole(taken)
            returned.update(kinds)
        except CorruptFileError:
            refused.update(kinds)
        except Exception as error:
            other[f"take: {error!r} at {number}"] += 1
    return {"returned": returned, "refused": refused, "other": other}


def read_whole(table):
    """Follow all that a table says."""
    for column in table.columns:
        column.validate(full=True)
    with pa.ipc.new_stream(pa.BufferOutputStream(), table.schema) as writer:
        writer.write_table(schema.one_chunk(table))


if __name__ == "__main__":
    fs.map_file = guarded
    print(json.dumps(take_of_damaged(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))
