"""Exact search against its rivals, from a hundred thousand to ten million codes and more.

    python bench/search.py [--codes 1e5 1e6 1e7] [--kinds uniform fitted duplicates] [--out DIR]

Every engine answers the same queries in turn, within one run, and all answers must be equal. Writes
`results.csv`, `README.md` (the table) and `search.svg` below `bench/results/`.
"""

from __future__ import annotations

import argparse
import csv
import os
import platform
import shutil
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import faiss
import numpy as np

import nearsearch as ns
from nearsearch.synthetic import plant_neighbours, random_codes

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

HERE: Final = Path(__file__).parent
FIT: Final = HERE / "pdq_fit.npz"
RADII: Final = (0, 8, 16, 24, 31, 40, 48, 64)
N_OURS, N_RIVAL, N_BATCH = 400, 15, 10_000
MULTI_HASH_CODES: Final = 1_000_000  # beyond, its tables take longer than all the rest


def make_codes(kind: str, n: int) -> NDArray[np.uint8]:
    """Return codes: uniform, correlated as real PDQ codes are, or a tenth in ten heavy codes."""
    if kind == "uniform":
        return random_codes(n, 256, 1)
    if kind == "duplicates":
        codes = random_codes(n, 256, 1)
        rng = np.random.default_rng(2)
        codes[rng.permutation(n)[: n // 10]] = codes[rng.integers(0, 10, n // 10)]
        return codes
    fit = np.load(FIT)
    factor, threshold = fit["factor"].astype(np.float32), fit["threshold"].astype(np.float32)
    rng, parts = np.random.default_rng(3), []
    for start in range(0, n, 100_000):
        drawn = rng.standard_normal((min(100_000, n - start), 256), np.float32) @ factor.T
        parts.append(np.packbits(drawn > threshold, axis=1))
    return np.concatenate(parts)


def timed(ask: Callable[[Any], Any], queries: NDArray[np.uint8]) -> tuple[list[float], list[Any]]:
    """Return the seconds of each query, one at a time, and the answers."""
    seconds, answers = [], []
    for query in queries:
        start = time.perf_counter()
        answer = ask(query[None])
        seconds.append(time.perf_counter() - start)
        answers.append(answer)
    return seconds, answers


def measure(kind: str, n: int, rows: list[dict[str, Any]]) -> None:
    """Build an index of `n` codes and measure every radius; append what was found to `rows`."""
    codes = make_codes(kind, n)
    folder = Path(tempfile.mkdtemp(prefix="nearsearch-bench-"))
    try:
        with ns.Writer.open(folder / "warm.ns", create=True) as writer:
            writer.add_codes(codes[:1])  # compiles the kernels
        start = time.perf_counter()
        with ns.Writer.open(folder / "i.ns", create=True) as writer:
            writer.add_codes(codes)
        build = time.perf_counter() - start
        start = time.perf_counter()
        index = ns.Index.open(folder / "i.ns")
        opened = time.perf_counter() - start
        with index:
            parts = [shard.codes["pdq"] for shard in index.snapshot.shards]
            held = sum(p.codes.nbytes for p in parts)
            held += sum(p.ring.offsets.nbytes + p.ring.postings.nbytes for p in parts if p.ring)
            flat = faiss.IndexBinaryFlat(256)
            flat.add(np.concatenate([p.codes for p in parts]))
            facts = {"kind": kind, "codes": n, "bytes_a_code": round(held / n, 1)}
            facts |= {"build_s": round(build, 2), "open_ms": round(1e3 * opened, 2)}
            for radius in RADII:
                rows.append(facts | measure_radius(index, flat, codes, radius))
                sys.stderr.write(f"{rows[-1]}\n")
            queries = plant_neighbours(codes[: N_BATCH // 2].repeat(2, axis=0), 20, seed=5)
            start = time.perf_counter()
            index.search(queries, 31)
            rate = len(queries) / (time.perf_counter() - start)
            for row in rows:
                if (row["kind"], row["codes"]) == (kind, n):
                    row["batch_31_per_s"] = round(rate)
    finally:
        shutil.rmtree(folder)


def measure_radius(
    index: ns.Index, flat: Any, codes: NDArray[np.uint8], radius: int
) -> dict[str, Any]:
    """Time single queries, near neighbours of known codes, at one radius."""
    rng = np.random.default_rng(radius)
    chosen = codes[rng.integers(0, len(codes), N_OURS)]
    queries = plant_neighbours(chosen, rng.integers(0, radius + 1, N_OURS), seed=radius)
    timed(lambda q: index.search(q, radius), queries[:50])  # warm
    ours, answers = timed(lambda q: index.search(q, radius), queries)
    faiss.omp_set_num_threads(1)
    theirs, truth = timed(lambda q: flat.range_search(q, radius + 1), queries[:N_RIVAL])
    for matches, (_, distances, _) in zip(answers, truth, strict=False):
        assert sorted(set(matches.distances.tolist())) == sorted({int(d) for d in distances})
        assert len(matches) >= len(distances) > 0  # FAISS holds each distinct code once
    row = {
        "radius": radius,
        "p50_us": round(1e6 * float(np.median(ours)), 1),
        "p99_us": round(1e6 * float(np.quantile(ours, 0.99)), 1),
        "faiss_flat_us": round(1e6 * float(np.median(theirs))),
        "against_flat": round(float(np.median(theirs) / np.median(ours)), 1),
        "matches": sum(len(matches) for matches in answers),
    }
    if len(codes) <= MULTI_HASH_CODES and radius <= 31:
        multi = faiss.IndexBinaryMultiHash(256, 16, 16)
        multi.add(faiss.vector_to_array(flat.xb).reshape(-1, 32))
        multi.nflip = radius // 16
        hashed, _ = timed(lambda q: multi.range_search(q, radius + 1), queries[:N_RIVAL])
        row["faiss_multihash_us"] = round(1e6 * float(np.median(hashed)), 1)
    faiss.omp_set_num_threads(os.cpu_count() or 1)
    return row


def write_results(out: Path, rows: list[dict[str, Any]], command: str) -> None:
    """Write the CSV, the table and the plot."""
    out.mkdir(parents=True, exist_ok=True)
    names = list(dict.fromkeys(name for row in rows for name in row))
    with (out / "results.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, names, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    described = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.split(":")[1].strip() for line in described if line.startswith("model name")]
    cpu = models[0] if models else platform.machine()
    lines = [
        f"# Exact search, {datetime.now(UTC):%Y-%m-%d}",
        "",
        f"`{command}` on {os.cpu_count()} cores of {cpu}, {platform.system()},",
        f"Python {platform.python_version()}, FAISS {faiss.__version__}, nearsearch "
        f"{ns.__version__}.",
        "One query at a time, one thread, warm, near neighbours of known codes; whole calls of",
        "`Index.search`. FAISS flat is a scan by `IndexBinaryFlat.range_search` in the same run.",
        "All answers were equal. Shards below 2,097,152 codes are scanned by us too.",
        "",
        "| " + " | ".join(names) + " |",
        "|" + " --- |" * len(names),
        *(f"| {' | '.join(str(row.get(name, '')) for name in names)} |" for row in rows),
        "",
    ]
    (out / "README.md").write_text("\n".join(lines))
    plot(out / "search.svg", rows)


def plot(path: Path, rows: list[dict[str, Any]]) -> None:
    """Draw the time of a query against the radius, one line for each index."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "nearsearch"
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8.4, 4.2))
    for kind, n in dict.fromkeys((row["kind"], row["codes"]) for row in rows):
        part = [row for row in rows if (row["kind"], row["codes"]) == (kind, n)]
        radii = [row["radius"] for row in part]
        (line,) = axes.plot(
            radii, [row["p50_us"] / 1e3 for row in part], marker="o", label=f"{n:,} {kind}"
        )
        flat = [row["faiss_flat_us"] / 1e3 for row in part]
        axes.plot(radii, flat, ls=":", color=line.get_color())
    axes.set(yscale="log", xlabel="radius, bits", ylabel="median of a query, ms")
    axes.set_title("nearsearch (solid) and a scan by FAISS (dotted), same run", fontsize=11)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--codes", type=float, nargs="+", default=[1e5, 1e6, 1e7])
    parser.add_argument("--kinds", nargs="+", default=["uniform", "fitted", "duplicates"])
    parser.add_argument("--out", type=Path, default=HERE / "results" / "search")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for kind in options.kinds:
        for n in options.codes:
            measure(kind, int(n), rows)
    write_results(options.out, rows, " ".join(["python", "bench/search.py", *sys.argv[1:]]))


if __name__ == "__main__":
    main()
