"""What an index takes: resident memory of a reader and of a writer, and the disk.

    python bench/memory.py [--items 1e6] [--queries 10000] [--folder DIR] [--out DIR]

A fresh process opens an index and asks one near neighbour at a time, each answer made into a table;
another builds the index, a third adds a little to it. Writes `memory-figures.csv`, `memory.csv`
(the memory at each moment) and `memory.md`. Memory of its own must not grow with the queries.
"""

from __future__ import annotations

import argparse
import multiprocessing
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from ingest_tables import table
from measures import disk_bytes, figure, mapped, memory, write_csv
from scenario_data import CHUNK, SAMPLE, keys_of, make_codes

import nearsearch as ns
from nearsearch.synthetic import plant_neighbours

if TYPE_CHECKING:
    Row = dict[str, Any]

LITTLE: Final = 1000  # codes of the commit to a big index
WARM: Final = 2000  # queries after which nothing may grow any more
MOST_A_QUERY: Final = 512  # bytes of its own that a process may gain with each later query
CODE: Final = 32  # bytes


def moment(who: str, what: str, count: int = 0) -> Row:
    """Return the memory of this process as a row; `count`, of codes or queries so far."""
    return {"process": who, "moment": what, "count": count, **memory()}


def write(root: Path, codes_file: Path, items: int) -> list[Row]:
    """Build an index from a file of codes; return the memory on the way."""
    who = "writer, new index"
    rows = [moment(who, "libraries loaded")]
    with codes_file.open("rb") as file, ns.Writer.open(root, create=True, specs=["pdq"]) as writer:
        rows.append(moment(who, "open"))
        for first in range(0, items, CHUNK):
            count = min(CHUNK, items - first)
            codes = np.fromfile(file, np.uint8, CODE * count).reshape(-1, CODE)
            writer.add_codes(codes, keys=keys_of(first, count), contribution=f"list-{first}")
            rows.append(moment(who, "added", first + count))
        writer.commit()
        rows.append(moment(who, "committed", items))
        writer.compact()
        rows.append(moment(who, "compacted", items))
    return rows


def write_little(root: Path, items: int) -> list[Row]:
    """Add a little to what is there."""
    who, codes = "writer, small commit", next(make_codes(LITTLE, 4))[1]
    with ns.Writer.open(root) as writer:
        rows = [moment(who, "open")]
        writer.add_codes(codes, keys=keys_of(items, LITTLE), contribution="new")
        writer.commit()
        rows.append(moment(who, "committed", LITTLE))
    return rows


def read(root: Path, sample: Path, queries: int) -> list[Row]:
    """Ask; return the memory on the way."""
    who = "reader"
    known, step = np.load(sample), max(1, min(1000, queries // 10))
    asked = plant_neighbours(known[np.arange(queries) % len(known)], 20, 5)
    rows = [moment(who, "libraries loaded")]
    with ns.Index.open(root) as index:
        rows.append(moment(who, "open"))
        index.warm_up()
        for number, query in enumerate(asked):
            distances = index.search(query).to_arrow()["distance"].to_pylist()
            assert 20 in distances, f"query {number} was not answered"
            if number == 0:
                rows.append(moment(who, "asked", 1))
            elif (number + 1) % step == 0:
                rows.append(moment(who, "asked", number + 1) | {"index": mapped(root)})
    return rows


def measure(folder: Path, items: int, queries: int) -> tuple[list[Row], list[Row]]:
    """Run each in a process of its own; return figures, and the memory at each moment."""
    root, codes_file, sample = folder / "i.ns", folder / "codes", folder / "sample.npy"
    with codes_file.open("wb") as file:
        for _, codes in make_codes(items, 0):
            codes.tofile(file)
    codes = np.fromfile(codes_file, np.uint8).reshape(-1, CODE)
    np.save(sample, codes[:: max(1, items // SAMPLE)])
    del codes
    jobs = [
        (write, (root, codes_file, items)),
        (read, (root, sample, queries)),
        (write_little, (root, items)),
    ]
    sizes, rows = {}, []
    for function, arguments in jobs:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            part = pool.apply(function, arguments)
        sizes[function.__name__] = disk_bytes(root)[1]
        rows += part
        if function is write:
            with ns.Index.open(root) as index:
                shards = index.snapshot.manifest.shards
                live = sum(file.size for entry in shards for file in entry.files.values())
    built, asked = (
        [row for row in rows if row["process"] == who] for who in ("writer, new index", "reader")
    )
    loaded, opened, first, *later = asked
    warm = next((row for row in later if row["count"] >= WARM), first)
    figures = [
        figure("codes", "", items),
        figure("reader, libraries loaded", "MB", loaded["rss"] / 1e6),
        figure("reader, opening takes", "MB", (opened["rss"] - loaded["rss"]) / 1e6),
        figure("reader, the first query takes", "MB", (first["rss"] - opened["rss"]) / 1e6),
        figure(f"reader after {queries:,} queries", "MB", asked[-1]["rss"] / 1e6),
        figure("of it files of the index", "MB", asked[-1]["index"] / 1e6),
        figure("files of the index in memory, a code", "bytes", asked[-1]["index"] / items),
        figure("live files on the disk, a code", "bytes", live / items),
        figure("with the generation before compact, a code", "bytes", sizes["write"] / items),
    ]
    gained = 0.0
    if "private" in loaded:
        since = max(1, asked[-1]["count"] - warm["count"])
        gained = (asked[-1]["private"] - warm["private"]) / since
        figures += [
            figure("of it memory of its own", "MB", asked[-1]["private"] / 1e6),
            figure(f"own memory gained a query after {WARM:,}", "bytes", gained, "<= 512"),
        ]
    figures += [
        figure("writer of a new index, open", "MB", built[1]["rss"] / 1e6),
        figure("writer of a new index, peak", "MB", built[-1]["peak"] / 1e6),
        figure(
            "peak above open, bytes a code",
            "bytes",
            (built[-1]["peak"] - built[1]["rss"]) / items,
        ),
        figure("writer of 1,000 more, open", "MB", rows[-2]["rss"] / 1e6),
        figure("writer of 1,000 more, peak", "MB", rows[-1]["peak"] / 1e6),
    ]
    return figures, rows


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=float, default=1e6)
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--folder", type=Path, help="where the index is made")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="nearsearch-memory-", dir=options.folder))
    try:
        figures, rows = measure(folder, int(options.items), options.queries)
    finally:
        shutil.rmtree(folder)
    text = table([{name: row[name] for name in ("figure", "value", "unit")} for row in figures])
    print(text)
    if options.out:
        write_csv(options.out / "memory-figures.csv", figures)
        write_csv(options.out / "memory.csv", rows)
        (options.out / "memory.md").write_text(text)
    grown = [row for row in figures if row["target"] and row["value"] > MOST_A_QUERY]
    assert not grown, f"memory grows with the queries: {grown}"


if __name__ == "__main__":
    main()
