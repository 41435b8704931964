"""Exact search against its rivals, from a hundred thousand to a hundred million codes.

    python bench/search.py [--codes 1e5 1e6 1e7 1e8] [--kinds uniform fitted duplicates templates]
                           [--out DIR]

Every engine answers the same queries within one run, and all exact answers must be equal. Writes
`results.csv`, `README.md` (the tables) and `search.svg`; what `results.csv` holds of other sizes
and kinds stays.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import faiss
import numpy as np
import pyarrow as pa
import rivals
from measures import cpu_name, drop_cached, read_csv, write_csv

import nearsearch as ns
from nearsearch.corpora import Corpus
from nearsearch.synthetic import plant_neighbours, random_codes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

HERE: Final = Path(__file__).parent
RADII: Final = (0, 8, 16, 24, 31, 40, 48, 64)
CHUNK: Final = 1_000_000
N_OURS, N_RIVAL, N_BATCH = 400, 15, 10_000
HEAP_CODES: Final = 10_000_000  # beyond, FAISS reads the mapped file only
SLOW_RIVAL_CODES: Final = 1_000_000  # see "Unfair to rivals" in the notes below
SLOW_RIVAL_RADIUS: Final = 31

COLD: Final = """
import sys, time
start = time.perf_counter()
import faiss, numpy, pyarrow, nearsearch as ns, nearsearch.kernels.ring
imported = time.perf_counter()
index = ns.Index.open(sys.argv[1])
opened = time.perf_counter()
index.search(sys.argv[2], 31)
asked = time.perf_counter()
print(imported - start, opened - imported, asked - opened)
"""


def make_codes(kind: str, n: int) -> Iterator[NDArray[np.uint8]]:
    """Yield codes in chunks.

    Uniform; `fitted`, spread as real PDQ codes are, without repeats; `duplicates`, a tenth in ten
    codes; `templates`, half of which agree in their first 96 bits.
    """
    if kind == "fitted":
        for _, codes in Corpus(n, seed=3, duplicates=0, near=0, blanks=0).blocks(CHUNK):
            yield codes
        return
    heavy = random_codes(10, 256, 2)
    for start in range(0, n, CHUNK):
        count = min(CHUNK, n - start)
        rng = np.random.default_rng([3, start])
        codes = random_codes(count, 256, 1000 + start)
        if kind == "duplicates":
            codes[rng.permutation(count)[: count // 10]] = heavy[rng.integers(0, 10, count // 10)]
        elif kind == "templates":
            codes[::2, :12] = heavy[0, :12]
        yield codes


def build(root: Path, kind: str, n: int) -> dict[str, Any]:
    """Build an index in one commit and compact it; return what that took, without generating."""
    with ns.Writer.open(root.with_name("warm.ns"), create=True) as writer:
        writer.add_codes(random_codes(1, 256, 1))  # compiles the kernels
    adding, first = 0.0, 0
    with ns.Writer.open(root, create=True) as writer:
        for codes in make_codes(kind, n):
            keys = pa.array([f"r{i}" for i in range(first, first + len(codes))], pa.large_string())
            first += len(codes)
            start = time.perf_counter()
            writer.add_codes(codes, keys=keys)
            adding += time.perf_counter() - start
        start = time.perf_counter()
        writer.commit()
        committed = time.perf_counter()
        writer.compact()  # below 2,097,152 codes a commit builds no ring
        compacted = time.perf_counter()
    return {
        "add_s": round(adding + committed - start, 2),
        "compact_s": round(compacted - committed, 2),
    }


def start_up(root: Path, query: str) -> dict[str, Any]:
    """Time a fresh process, with the files of the index in the page cache and without."""
    facts = {}
    for state in ("warm", "cold"):
        found = []
        for _ in range(5):
            if state == "cold":
                drop_cached(root)
            command = [sys.executable, "-c", COLD, str(root), query]
            ran = subprocess.run(command, check=True, capture_output=True, text=True)
            found.append([1e3 * float(word) for word in ran.stdout.split()])
        imported, opened, asked = np.median(found, axis=0)
        facts["import_ms"] = round(float(imported))
        facts[f"{state}_open_ms"] = round(float(opened), 1)
        facts[f"{state}_first_ms"] = round(float(asked), 2)
    return facts


def measure(kind: str, n: int) -> list[dict[str, Any]]:
    """Build an index of `n` codes and measure every radius; return a row for each."""
    folder = Path(tempfile.mkdtemp(prefix="nearsearch-bench-"))
    root = folder / "i.ns"
    try:
        facts = {"kind": kind, "codes": n, **build(root, kind, n)}
        with ns.Index.open(root) as index:
            index.warm_up()
            (part,) = [shard.codes["pdq"] for shard in index.snapshot.shards]
            held = part.codes.nbytes
            if part.ring is not None:
                held += part.ring.offsets.nbytes + part.ring.postings.nbytes
                int(np.asarray(part.ring.postings[::1024]).sum())  # into the page cache
            facts["bytes_a_code"] = round(held / n, 1)
            (entry,) = index.snapshot.manifest.shards
            facts["disk_bytes_a_code"] = round(sum(f.size for f in entry.files.values()) / n, 1)
            sample = np.array(part.codes[:: max(1, len(part.codes) // 20_000)])
            engines: dict[str, Any] = {
                "faiss_mapped_us": faiss.read_index_binary(
                    str(index.snapshot.root / entry.files["codes/pdq"].name),
                    faiss.IO_FLAG_MMAP_IFC,
                )
            }
            if n <= HEAP_CODES:
                engines["faiss_flat_us"] = faiss.IndexBinaryFlat(256)
                engines["faiss_flat_us"].add(part.codes)
            if n <= SLOW_RIVAL_CODES:
                engines["multihash_us"] = rivals.MultiHash(part.codes)
                facts["multihash_bytes"] = round(engines["multihash_us"].bytes_a_code(), 1)
                if find_spec("pynear"):
                    engines["pynear_us"] = rivals.PyNear(part.codes)
                else:
                    sys.stderr.write("pynear is not installed: left out\n")
            rows = []
            for radius in RADII:
                rows.append(measure_radius(index, engines, part.codes, sample, radius))
                sys.stderr.write(f"{kind} {n:,} {rows[-1]}\n")
            facts |= measure_batches(index, engines["faiss_mapped_us"], sample)
        del engines, part  # what is mapped cannot be dropped from the page cache
        if kind == "uniform":
            facts |= start_up(root, sample[0].tobytes().hex())
        sys.stderr.write(f"{facts}\n")
        return [facts | row for row in rows]
    finally:
        shutil.rmtree(folder)


def measure_radius(
    index: ns.Index,
    engines: dict[str, Any],
    codes: NDArray[np.uint8],
    sample: NDArray[np.uint8],
    radius: int,
) -> dict[str, Any]:
    """Time single queries, near neighbours of known codes, at one radius, on one thread."""
    rng = np.random.default_rng(radius)
    chosen = sample[rng.integers(0, len(sample), N_OURS)]
    queries = plant_neighbours(chosen, rng.integers(0, radius + 1, N_OURS), seed=radius)
    rivals.timed(lambda query: index.search(query, radius), queries[:100])
    ours, answers = rivals.timed(lambda query: index.search(query, radius), queries)
    asked = queries[:N_RIVAL]
    # A code that several members share comes once for each of them; rivals hold it once.
    expected = [sorted(_of_codes(index, matches)) for matches in answers[:N_RIVAL]]
    row = {
        "radius": radius,
        "p50_us": round(float(np.median(ours)), 1),
        "p99_us": round(float(np.quantile(ours, 0.99)), 1),
        "matches": sum(len(matches) for matches in answers),
    }
    faiss.omp_set_num_threads(1)
    for name, engine in engines.items():
        if name in ("multihash_us", "pynear_us"):
            if radius <= SLOW_RIVAL_RADIUS:
                times, found = engine.search(asked, radius)
                row[name] = round(float(np.median(times)), 1)
                assert found == expected, f"{name} differs at radius {radius}"
            continue
        times, found = rivals.faiss_flat(engine, asked, radius)
        row[name] = round(float(np.median(times)))
        assert found == expected, f"{name} differs at radius {radius}: {found} {expected}"
    if "multihash_us" in engines and radius == SLOW_RIVAL_RADIUS:
        answer = rivals.usearch_exact(codes, asked[:5], radius)
        if answer is not None:
            row["usearch_us"] = round(float(np.median(answer[0])))
            assert answer[1] == expected[:5], f"usearch differs: {answer[1]} {expected[:5]}"
    faiss.omp_set_num_threads(os.cpu_count() or 1)
    for name in ("flat", "mapped"):
        if f"faiss_{name}_us" in row:
            row[f"against_{name}"] = round(row[f"faiss_{name}_us"] / row["p50_us"], 1)
    return row


def _of_codes(index: ns.Index, matches: Any) -> list[int]:
    """Return the distances of the distinct codes among matches of one query."""
    (part,) = [shard.codes["pdq"] for shard in index.snapshot.shards]
    pairs = zip(part.code[matches.rows].tolist(), matches.distances.tolist(), strict=True)
    return [distance for _, distance in set(pairs)]


def measure_batches(index: ns.Index, flat: Any, sample: NDArray[np.uint8]) -> dict[str, Any]:
    """Time many queries in one call, on all cores, at radius 31."""
    queries = plant_neighbours(sample[np.arange(N_BATCH) % len(sample)], 20, seed=5)
    rates = []
    for _ in range(3):
        start = time.perf_counter()
        index.search(queries, 31)
        rates.append(len(queries) / (time.perf_counter() - start))
    start = time.perf_counter()
    flat.range_search(queries[:64], 32)
    theirs = 64 / (time.perf_counter() - start)
    return {"batch_per_s": round(float(np.median(rates))), "faiss_batch_per_s": round(theirs)}


FACTS: Final = {
    "add_s": "add, s",
    "compact_s": "compact, s",
    "bytes_a_code": "codes and ring, bytes a code",
    "disk_bytes_a_code": "all files, bytes a code",
    "multihash_bytes": "MultiHash, bytes a code",
    "import_ms": "import, ms",
    "warm_open_ms": "open, ms",
    "warm_first_ms": "first query, ms",
    "cold_open_ms": "cold open, ms",
    "cold_first_ms": "cold first query, ms",
    "batch_per_s": "batch, queries/s",
    "faiss_batch_per_s": "FAISS batch, queries/s",
}
TIMES: Final = {
    "radius": "radius",
    "p50_us": "p50, us",
    "p99_us": "p99, us",
    "faiss_flat_us": "FAISS flat, us",
    "against_flat": "times",
    "faiss_mapped_us": "FAISS mapped, us",
    "against_mapped": "times",
    "multihash_us": "MultiHash, us",
    "pynear_us": "pynear MIH, us",
    "usearch_us": "usearch, us",
    "matches": "matches",
}
NOTES: Final = """\
One query at a time, one thread, warm, near neighbours of known codes; whole calls of
`Index.search` (400 of each radius; 15 of them of each rival, 5 of usearch). All answers that both
gave were equal: distances of the distinct codes found.

- **FAISS flat** is `IndexBinaryFlat.range_search` over a copy of the codes in memory, as a user of
  FAISS builds it; **FAISS mapped** the same over the file of the index. Which of the two is faster
  depends on the pages the system gives them; the columns "times" are their medians by our p50.
- **MultiHash** is FAISS `IndexBinaryMultiHash`, 16 hashes of 16 bits, nflip = radius // 16; its
  bytes are those of the serialised index. **pynear** is `MIHBinaryIndex(16)`, **usearch** the
  function `usearch.index.search` with `exact=True`; both know nearest neighbours only and were
  asked for 64, cut at the radius. These three were run up to a million codes and radius 31
  (usearch at 31 only).
- **Unfair to rivals**, found after this run: they were asked 15 queries without warming up, ours
  400 warm. `usearch.Index.search` with `exact=True` is about eight times as fast as the
  function used here: 8 to 9 ms at a million codes. MultiHash is feasible at ten million: built in
  13 to 17 s, 18 ms at radius 31. FAISS's batch was timed once. Later trials on the same machine,
  not in the table.
- **Where we are slower**: pynear at radius 0 (and 8 at 100,000 codes), where our time is mostly
  Python around the kernel; a plain scan where the radius is so wide that the ring is tried in vain.
- **add** is `Writer.add_codes` in calls of a million with keys, and the commit, durable;
  **compact** what `Writer.compact` then took: it builds the ring, or, from 2,097,152 codes on,
  reads the one that the commit built.
- **open** and **first query**: a fresh process, kernels compiled before. Open includes loading
  Python modules, all but some 4 ms of it when warm; the query, at radius 31, includes loading
  machine code. **cold**: after the files were dropped from the page cache.
  Of uniform codes only.
- **batch**: 10,000 queries at radius 31 in one call on all cores; FAISS: 64 queries.
"""


def write_results(out: Path, rows: list[dict[str, Any]], *, is_new: bool = True) -> None:
    """Write the CSV, the tables and the plot; of old results the heading stays."""
    out.mkdir(parents=True, exist_ok=True)
    if is_new:
        write_csv(out / "results.csv", rows)
    groups: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((str(row["kind"]), int(row["codes"])), []).append(row)
    facts = [
        {"kind": kind, "codes": f"{n:,}", **part[0]} | {"codes": f"{n:,}"}
        for (kind, n), part in groups.items()
    ]
    heading = [
        f"# Exact search, {datetime.now(UTC):%Y-%m-%d}",
        "",
        f"`python bench/search.py --codes N --kinds KIND` on {os.cpu_count()} cores of "
        f"{cpu_name()},",
        f"{platform.system()}, Python {platform.python_version()}, FAISS {faiss.__version__}, "
        f"nearsearch {ns.__version__}.",
        "",
    ]
    lines = [
        *(heading if is_new else (out / "README.md").read_text().split("\n")[: len(heading)]),
        NOTES,
        *table({"kind": "kind", "codes": "codes", **FACTS}, facts),
    ]
    for (kind, n), part in groups.items():
        lines += [f"## {n:,} codes, {kind}", "", *table(TIMES, part)]
    (out / "README.md").write_text("\n".join(lines))
    plot(out / "search.svg", groups)


def table(names: dict[str, str], rows: list[dict[str, Any]]) -> list[str]:
    """Return the lines of a Markdown table of the columns that have a value."""
    kept = [name for name in names if any(row.get(name, "") != "" for row in rows)]
    return [
        "| " + " | ".join(names[name] for name in kept) + " |",
        "|" + " ---: |" * len(kept),
        *(f"| {' | '.join(str(row.get(name, '')) for name in kept)} |" for row in rows),
        "",
    ]


def plot(path: Path, groups: dict[tuple[str, int], list[dict[str, Any]]]) -> None:
    """Draw the time of a query against the radius, a panel for each size."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "nearsearch"
    from matplotlib import pyplot as plt

    sizes = sorted({n for _, n in groups})
    figure, panels = plt.subplots(
        1, len(sizes), figsize=(2.6 * len(sizes) + 1.4, 3.9), sharey=True, squeeze=False
    )
    styles = {
        "p50_us": ("nearsearch", "C0", "o-"),
        "faiss_flat_us": ("FAISS flat", "C3", ":"),
        "faiss_mapped_us": ("FAISS flat, mapped", "C1", ":"),
        "multihash_us": ("FAISS MultiHash", "C2", "s--"),
        "pynear_us": ("pynear MIH", "C4", "^--"),
        "usearch_us": ("usearch exact", "C5", "D"),
    }
    for axes, n in zip(panels[0], sizes, strict=True):
        for kind in [kind for kind, size in groups if size == n]:
            rows = groups[kind, n]
            for name, (label, color, style) in styles.items():
                points = [
                    (float(row["radius"]), float(row[name]) / 1e3)
                    for row in rows
                    if row.get(name, "") != ""
                ]
                if not points or (kind != "uniform" and name != "p50_us"):
                    continue
                if kind == "uniform":
                    axes.plot(*zip(*points, strict=True), style, color=color, label=label, ms=4)
                else:
                    axes.plot(*zip(*points, strict=True), color=color, alpha=0.3, lw=1)
        axes.set(yscale="log", xlabel="radius, bits", title=f"{n:,} codes")
        axes.grid(alpha=0.3)
    panels[0][0].set_ylabel("median of a query, ms")
    handles = {
        label: handle
        for axes in panels[0]
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles, frameon=False, fontsize=8, loc="lower center", ncols=6)
    figure.tight_layout(rect=(0, 0.07, 1, 1))
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--codes", type=float, nargs="*", default=[1e5, 1e6, 1e7])
    parser.add_argument("--kinds", nargs="*", default=["uniform", "fitted", "duplicates"])
    parser.add_argument("--out", type=Path, default=HERE / "results" / "search")
    options = parser.parse_args()
    old: list[dict[str, Any]] = []
    if (options.out / "results.csv").exists():
        old = list(read_csv(options.out / "results.csv"))
    for kind in options.kinds:
        for n in map(int, options.codes):
            rows = measure(kind, n)
            old = [row for row in old if (row["kind"], int(row["codes"])) != (kind, n)] + rows
            old.sort(key=lambda row: (int(row["codes"]), row["kind"] != "uniform"))
            write_results(options.out, old)
    write_results(options.out, old)


if __name__ == "__main__":
    main()
