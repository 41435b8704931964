"""An index that holds secrets among other things, and a search for them in its files."""

import numpy as np
import pyarrow as pa
import pytest

import nearsearch as ns
from nearsearch import plan
from nearsearch.codes import record_ids
from nearsearch.spec import get_spec
from nearsearch.store import log, members, schema

CODES = np.random.default_rng(21).integers(0, 256, (60, 32), np.uint8)
SECRET = slice(0, 10)  # of the codes; the others may stay
SECRET_MARKS = {"contribution": "zaak-7731", "source": "bureau-é", "labels": ["spoed-55"]}
MARKS = {"contribution": "open-1", "source": "NL", "labels": ["plain"]}


def metadata(name, numbers):
    """Values of a kind for each number, none of which stands for anything else."""
    texts = [f"{name}-text-{i}" for i in numbers]
    return {
        "text": pa.array(texts),
        "tags": pa.array([[f"{name}-tag-{i}", f"{name}-tag-{i}b"] for i in numbers]),
        "place": pa.array([f"{name}-place-{i % 3}" for i in numbers]).dictionary_encode(),
        "number": pa.array([int.from_bytes(f"{name[:6]}{i:02}".encode()) for i in numbers]),
        "digest": pa.array([f"{name}-digest-{i}".encode() for i in numbers], pa.binary()),
        "box": pa.array([{"in": f"{name}-box-{i}"} for i in numbers]),
    }


SECRET_METADATA = metadata("geheim", range(10))


def secret_keys(start=0):
    return [f"map/foto-ü-{i}.jpg" for i in range(start, start + 10)]


def add_secret(writer, **changes):
    call = {"keys": secret_keys(), "metadata": pa.table(SECRET_METADATA), **SECRET_MARKS}
    writer.add_codes(CODES[SECRET], **call | changes)


def add_open(writer, start, **changes):
    part = slice(start, start + 10)
    keys, table = [f"open-{i}" for i in range(start, start + 10)], metadata("open", range(10))
    writer.add_codes(CODES[part], **{"keys": keys, "metadata": pa.table(table), **MARKS} | changes)


# --- what is looked for -----------------------------------------------------------------------


def of_codes(codes, quality=-1):
    ids = record_ids(codes, np.full(len(codes), quality, np.int8), get_spec("pdq"))
    return [row.tobytes() for row in (*codes, *ids)]


def of_keys(keys, contribution):
    table = pa.table({"contribution": [contribution] * len(keys), "key": keys})
    table = table.cast(pa.schema([schema.MEMBERS.field(n) for n in ("contribution", "key")]))
    return [*keys, *(value.tobytes() for value in members.hash_keys(table))]


def of_marks(contribution, source, labels):
    return [contribution, source, *labels]


def of_metadata(columns):
    found = []
    for name, array in columns.items():
        values = array.to_pylist()
        if name == "number":
            values = [value.to_bytes(8, "little") for value in values]
        for value in values:
            while isinstance(value, dict | list):
                value = value["in"] if isinstance(value, dict) else value[-1]
            found.append(value)
    return found


def forms(secret):
    """Yield the bytes of a secret, of its text as JSON has it, and of its hex."""
    data = secret.encode() if isinstance(secret, str) else secret
    yield data
    yield data.hex().encode()
    yield data.hex().upper().encode()
    if isinstance(secret, str):
        yield secret.encode("ascii", "backslashreplace").replace(b"\\x", b"\\u00")


def traces(root, secrets):
    """Return which secrets are in which file, or in its name."""
    files = {str(path.relative_to(root)): path for path in root.rglob("*") if path.is_file()}
    contents = {name: name.encode() + path.read_bytes() for name, path in files.items()}
    return [
        (name, secret)
        for name, content in contents.items()
        for secret in secrets
        if any(form in content for form in forms(secret))
    ]


ALL = [
    *of_codes(CODES[SECRET]),
    *of_keys(secret_keys(), SECRET_MARKS["contribution"]),
    *of_marks(**SECRET_MARKS),
    *of_metadata(SECRET_METADATA),
]


def make(root, is_one_shard):
    with pytest.MonkeyPatch.context() as patch:
        if not is_one_shard:
            patch.setattr(plan, "SMALL_SHARD", 0)
            patch.setattr(plan, "MOST_MERGED_AT_COMMIT", 0)
            patch.setattr(plan, "MOST_MERGED", 0)
        patch.setattr(plan, "MIN_RING_CODES_AT_COMMIT", 1)
        patch.setattr(log, "ENTRIES_A_FILE", 2)
        with ns.Writer.open(root, create=True) as writer:
            add_open(writer, 20)
            writer.commit()
            add_open(writer, 30)
            add_secret(writer)
            writer.commit()
            add_open(writer, 40, contribution="open-2")
            writer.commit()
            writer.disable(contribution="open-2")
    return root
