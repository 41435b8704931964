"""Files that lie, with checksums that fit: nothing that reads or writes may follow them blindly.

Nobody's disk does this; a file from somebody else can. What is asked may be answered wrong, or
refused with an error of ours; the process lives.
"""

import random
import struct

import numpy as np
import pyarrow as pa
import pytest
from faults.victim import Change, make, problems

from nearsearch.store import manifest as manifests
from nearsearch.store import schema

WORDS = {"huge": b"\xff\xff\xff\x7f", "minus one": b"\xff" * 4, "least": b"\x00\x00\x00\x80"}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make(tmp_path_factory.mktemp("hostile") / "i.ns")


def integers(array, name):
    """Yield name, memory and type of all numbers, offsets and indices of an Arrow array."""
    kind = array.type
    if pa.types.is_dictionary(kind):
        yield f"{name} indices", array.indices.buffers()[1], np.int32
        yield from integers(array.dictionary, f"{name} names")
    elif pa.types.is_struct(kind):
        for number in range(kind.num_fields):
            yield from integers(array.field(number), f"{name} {number}")
    elif pa.types.is_list(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind):
        width = np.int64 if pa.types.is_large_string(kind) else np.int32
        yield f"{name} offsets", array.buffers()[1], width
        if pa.types.is_list(kind):
            yield from integers(array.values, f"{name} values")
    elif pa.types.is_integer(kind):
        yield name, array.buffers()[1], kind.to_pandas_dtype()


def lies(values, seed):
    """Yield names and other values for an array of integers."""
    limits = np.iinfo(values.dtype)
    middle = len(values) // 2
    for name, value in (("huge", limits.max), ("least", limits.min), ("just outside", 99)):
        for at in (0, middle, len(values) - 1):
            wrong = values.copy()
            wrong[at] = value
            yield f"{name} at {at}", wrong
        yield f"all {name}", np.full_like(values, value)
    yield "descending", values[::-1].copy()
    noise = np.random.default_rng(seed).bytes(values.nbytes)
    yield "noise", np.frombuffer(noise, values.dtype)


def lies_in_arrow(root, name):
    """Return changes of all offsets, indices and numbers in an Arrow file."""
    data = np.fromfile(root / name, np.uint8)
    table = pa.ipc.open_file(pa.py_buffer(data)).read_all()
    found = {}
    for column in table.column_names:
        for label, buffer, kind in integers(schema.one_array(table[column]), column):
            if buffer is None or buffer.size == 0:
                continue
            at = buffer.address - data.ctypes.data
            values = np.frombuffer(buffer, kind, buffer.size // np.dtype(kind).itemsize)
            for lie, wrong in lies(values, len(found)):
                found[f"{label}: {lie}"] = Change(name, at, wrong.tobytes().hex(), True)
    return found


def lies_in_schema(root, name):
    """Return changes of names and types of the columns that callers gave."""
    table = pa.ipc.open_file((root / name).read_bytes()).read_all()
    found = {}
    for column, kind in (
        *(("page", pa.int32()), ("grade", pa.binary()), ("tags", pa.list_(pa.binary()))),
        *(("place", pa.dictionary(pa.int8(), pa.string())), ("place", pa.string())),
        *(("box", pa.struct({"w": pa.int64(), "of": pa.binary()})), ("labels", pa.binary())),
    ):
        at, column_of = table.column_names.index(column), table[column]
        wrong = pa.nulls(len(table), kind) if column == "labels" else column_of.cast(kind)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, table.set_column(at, column, wrong).schema) as writer:
            writer.write_table(table.set_column(at, column, wrong))
        data = sink.getvalue().to_pybytes()
        found[f"{column} as {kind}"] = Change(name, None, data.hex(), True)
    data = (root / name).read_bytes()
    for text in (b"grade", b"tags", b"place", b"page", b"box", b"of", b"w", b"item"):
        at = data.rindex(len(text).to_bytes(4, "little") + text) + 4  # in the footer
        for wrong in (b"\xff" * len(text), b"\0" * len(text), b"key"[: len(text)]):
            found[f"{text} as {wrong}"] = Change(name, at, wrong.hex(), True)
    return found


def lies_in_headers(root, entry):
    """Return changes of the headers of FAISS and NumPy files, and of the ring."""
    found = {}
    codes = entry.files["codes/pdq"].name
    for at, form, value in ((4, "i", 512), (8, "i", 64), (12, "q", 10**9), (25, "Q", 1 << 40)):
        found[f"faiss {at}"] = Change(codes, at, struct.pack("<" + form, value).hex(), True)
    found["faiss"] = Change(codes, 0, b"IBxx".hex(), True)
    for part in ("layout", "offsets", "postings"):
        file = entry.files[f"ring/pdq/{part}"]
        text = (root / file.name).read_bytes()[:128]
        for old, new in (
            *((b"(", b"["), (b"}", b"{"), (b"<", b">"), (b"descr", b"dascr"), (b"'<", b"'O")),
            *((b"False", b"True "), (b"), ", b",),"), (b"\x93N", b"N\x93"), (b"\x00{", b"\xff{")),
        ):
            if old in text:
                at = text.index(old)
                found[f"{part} {old} {new}"] = Change(file.name, at, new.hex(), True)
        noise = np.random.default_rng(len(found)).bytes(file.size - 128)
        found[f"{part} noise"] = Change(file.name, 128, noise.hex(), True)
        found[f"{part} ones"] = Change(file.name, 128, "ff" * (file.size - 128), True)
        found[f"{part} zeros"] = Change(file.name, 128, "00" * (file.size - 128), True)
    return found


@pytest.fixture
def lies_of_all_kinds(root):
    entry = manifests.read_current(root).shards[0]
    found = lies_in_headers(root, entry) | lies_in_schema(root, entry.files["members"].name)
    for role, file in entry.all_files():
        if file.name.endswith(".arrow"):
            found |= {f"{role} {lie}": c for lie, c in lies_in_arrow(root, file.name).items()}
    return found


def explained(lies, found):
    names = {change: name for name, change in lies.items()}
    return [(names[change], text) for change, text in found]


@pytest.mark.parametrize("how", ["read", "write"])
def test_no_lie_kills(root, lies_of_all_kinds, thorough, how):
    lies = lies_of_all_kinds
    assert len(lies) > 400
    if not thorough:
        names = random.sample(sorted(lies), 150 if how == "read" else 12)
        lies = {name: lies[name] for name in names}
    assert explained(lies, problems(root, lies.values(), how)) == []


def test_no_wrong_word_anywhere_kills(root, thorough):
    """Lengths, offsets and footers of Arrow are words of four or eight bytes: wrong ones at every
    place, in the live manifest and CURRENT too."""
    manifest, places = manifests.read_current(root), []
    files = [file.name for _, file in manifest.named_files()]
    for name in ("CURRENT", manifest.name, *files):
        size = (root / name).stat().st_size
        places += [(name, at) for at in range(0, size - 8, 4)]
    changes = [
        Change(name, at, (word * count).hex())
        for name, at in places
        for word in WORDS.values()
        for count in (1, 2)
    ]
    if not thorough:
        changes = random.sample(changes, 100)
    assert problems(root, changes, "read-unchecked") == []
