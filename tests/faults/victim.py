"""A process that opens damaged indexes, and may die of it; and what to call to find out.

``python -m faults.victim INDEX HOW`` reads changes as lines of JSON, makes one after the other, and
tries what users do. It tells which one it is at, so that the one that killed it is known.
"""

import contextlib
import faulthandler
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import traceback
import warnings
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import numpy as np
import pyarrow as pa
import pytest

import nearsearch as ns
from nearsearch import plan
from nearsearch.store import fs, log
from nearsearch.store import manifest as manifests
from nearsearch.store.files import File

CODES = np.random.default_rng(11).integers(0, 256, (16, 32), np.uint8)
KEYS = [f"k{i}" for i in range(16)]
MOST_SECONDS, MOST_MEMORY = 60, 16 << 30  # for one change
FILTER = 'page >= 0 and (grade != "A" or "x" in tags) and width == None and kind == "record"'


class Change(NamedTuple):
    """Other bytes in a file; `is_recorded`: the manifest says that they belong there."""

    name: str
    offset: int | None  # None: these are all
    data: str  # in hex
    is_recorded: bool = False


def flip(root, name, offset, mask):
    """Return the change of one byte."""
    with (root / name).open("rb") as file:
        file.seek(offset)
        return Change(name, offset, bytes([file.read(1)[0] ^ mask]).hex())


def metadata(start, end):
    """Columns of the kinds whose bytes can lead astray."""
    numbers = range(start, end)
    return pa.table(
        {
            "grade": pa.array([None if i % 7 == 0 else "ABC"[i % 3] for i in numbers]),
            "tags": [["x", "yy"][: i % 3] for i in numbers],
            "place": pa.array([f"city {i % 4}" for i in numbers]).dictionary_encode(),
            "page": pa.array(numbers, pa.int16()),
            "box": [{"w": i, "of": f"box {i}"} for i in numbers],
        }
    )


def digests(first, end):
    """Known of some, of two kinds; those of neighbours begin with the same bytes."""
    return {
        "md5": [bytes([i // 2]) * 8 + bytes([i]) * 8 if i % 3 else None for i in range(first, end)],
        "sha256": [bytes([i]) * 32 if i % 4 else None for i in range(first, end)],
    }


def make(root):
    """Make an index of two shards with rings, hidden rows of all kinds, files of the log."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("SMALL_SHARD", "MOST_MERGED_AT_COMMIT", "MOST_MERGED"):
            patch.setattr(plan, name, 0)
        patch.setattr(plan, "MIN_RING_CODES_AT_COMMIT", 1)
        patch.setattr(log, "ENTRIES_A_FILE", 2)
        with ns.Writer.open(root, create=True) as writer:
            for start, contribution, source in ((0, "A", "NL"), (6, "B", "DE")):
                part, few = slice(start, start + 9), slice(start, start + 2)
                marks = {"source": source, "labels": ["urgent", contribution]}
                writer.add_codes(
                    CODES[part],
                    keys=KEYS[part],
                    contribution=contribution,
                    metadata=metadata(start, start + 9),
                    qualities=np.arange(9) * 12,
                    digests=digests(start, start + 9),
                    **marks,
                )
                writer.add_codes(CODES[few], keys=KEYS[few], contribution="C", **marks)
                writer.commit()
            writer.remove(keys=KEYS[4:8], contribution="A")
            writer.commit()
            writer.disable(contribution="C")
            writer.commit()
            writer.remove(keys=[KEYS[14]])
    return root


# --- what users do ----------------------------------------------------------------------------


def _search(count, **options):
    def search(index):
        matches = index.search(CODES[:count], min_quality=0, **options)
        matches.to_arrow().to_pylist()
        matches.by_contribution().to_pylist()

    return search


READS = [
    *(_search(8, radius=radius) for radius in (0, 31, 80)),
    _search(1, radius=256),
    _search(2, radius=256, where=FILTER, limit=3),
    lambda index: index.nearest(CODES[:2], 3).to_arrow().to_pylist(),
    lambda index: index.contributions().to_pylist(),
    lambda index: [
        matches.to_arrow().to_pylist()
        for kind, values in digests(0, 16).items()
        for matches in [index.lookup([value for value in values if value])]
    ],
    lambda index: index.failures().to_pylist(),
    lambda index: (index.stats(), index.log(), index.kept_generations(), index.columns),
]


def _with_writer(change):
    def call(root):
        with ns.Writer.open(root) as writer:
            change(writer)

    return call


def _merge(root):
    with ns.Writer.open(root.with_name("new.ns"), create=True) as writer:
        writer.add_codes(CODES[:3], keys=KEYS[:3], contribution="A")
        writer.merge(root)


def _add(writer):
    marks = {"contribution": "A", "source": "NL", "labels": ["urgent", "A"]}
    known = {"metadata": metadata(0, 16), "digests": digests(0, 16)}
    writer.add_codes(CODES, keys=KEYS, **known, **marks)
    writer.add_digests(digests(1, 3), keys=["d", "e"])


WRITES = {
    "add": _with_writer(_add),
    "remove": _with_writer(lambda writer: writer.remove(keys=KEYS[3:5])),
    "remove where": _with_writer(lambda writer: writer.remove(where=FILTER)),
    "erase": _with_writer(lambda writer: writer.remove(source="NL", erase=True)),
    "disable": _with_writer(lambda writer: writer.disable(contribution="B")),
    "compact": _with_writer(lambda writer: writer.compact()),
    "merge": _merge,
    "repair": ns.repair,
}


def read(root):
    """Do all that a reader does; return the errors that no user should see."""
    found = []
    index = _try("open", lambda: ns.Index.open(root), found)
    for number, operation in enumerate(READS if index else ()):
        _try(f"read {number}", lambda operation=operation: operation(index), found)
    return found


def write(root):
    """Do all that a writer does, each on a copy, and verify; the same for what to return."""
    found = []
    _try("verify", lambda: ns.verify(root), found)
    for name, operation in WRITES.items():
        with tempfile.TemporaryDirectory() as folder:
            copy = shutil.copytree(root, Path(folder) / "i.ns")
            _try(name, lambda operation=operation, copy=copy: operation(copy), found)
            found += [f"after {name}: {text}" for text in read(copy)]
    return found


def _try(name, operation, found):
    print("+", name, flush=True)
    try:
        return operation()
    except ns.errors.NearsearchError:
        pass
    except Exception:
        found.append(f"{name}: {traceback.format_exc()}")
    return None


# --- in the process that may die --------------------------------------------------------------


@contextlib.contextmanager
def changed(root, change):
    """Change a file as long as the block runs."""
    saved = {name: (root / name).read_bytes() for name in (change.name, "CURRENT")}
    manifest = manifests.read_current(root)
    saved[manifest.name] = (root / manifest.name).read_bytes()
    try:
        with (root / change.name).open("r+b" if change.offset is not None else "wb") as file:
            file.seek(change.offset or 0)
            file.write(bytes.fromhex(change.data))
        if change.is_recorded:
            manifests.make_current(root, _recorded(root, manifest, change.name))
        yield
    finally:
        for name, data in saved.items():
            (root / name).write_bytes(data)


def _recorded(root, manifest, name):
    def new(file):
        if file is None or file.name != name:
            return file
        data = np.fromfile(root / name, np.uint8)
        return File(name, *fs.checksum(root / name), fs.edges_of(data))

    shards = tuple(
        replace(
            entry,
            files={role: new(file) for role, file in entry.files.items()},
            tombstones=new(entry.tombstones),
        )
        for entry in manifest.shards
    )
    commits = replace(manifest.log, files=tuple(map(new, manifest.log.files)))
    return replace(manifest, shards=shards, log=commits)


def _decode(path, data, _):
    return manifests.decode(path, data)


def main(root, how):
    faulthandler.enable()
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    plan.SCAN_COST = 1e9  # searches use the ring
    do, _, without_checks = how.partition("-")
    for number, line in enumerate(sys.stdin):
        print("at", number, flush=True)
        faulthandler.dump_traceback_later(MOST_SECONDS, exit=True)
        with changed(root, Change(*json.loads(line))), pytest.MonkeyPatch.context() as patch:
            if without_checks:
                patch.setattr(fs, "edges_of", lambda _: mock.ANY)
                patch.setattr(manifests, "decode_checked", _decode)
            for text in {"read": read, "write": write}[do](root):
                print("!", json.dumps(text), flush=True)
        faulthandler.cancel_dump_traceback_later()
    print("end", flush=True)


# --- in the test's process --------------------------------------------------------------------


def problems(root, changes, how="read"):
    """Try changes in other processes; return (change, what went wrong) of those that went wrong.

    `how`: ``read`` or ``write``, or ``read-unchecked``: without the checks when files are opened.
    """
    found, left = [], list(changes)
    while left:
        with tempfile.TemporaryDirectory() as folder:  # the dead put nothing back
            copy = shutil.copytree(root, Path(folder) / "i.ns")
            child = subprocess.run(
                [sys.executable, "-m", "faults.victim", copy, how],
                input="".join(json.dumps(change) + "\n" for change in left),
                capture_output=True,
                text=True,
                cwd=Path(__file__).parent.parent,
                check=False,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
        number, doing = 0, ""
        for line in child.stdout.splitlines():
            word, _, rest = line.partition(" ")
            if word == "at":
                number, doing = int(rest), "the beginning"
            elif word == "+":
                doing = rest
            elif word == "!":
                found.append((left[number], json.loads(rest)))
        if child.stdout.endswith("end\n"):
            break
        trace = child.stderr.partition("Extension modules")[0][-4000:]
        found.append((left[number], f"died in {doing}: {child.returncode}\n{trace}"))
        left = left[number + 1 :]
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
