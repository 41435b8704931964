"""Searching while a writer commits, and many small commits against a single one.

    python bench/live.py [--commits 600] [--readers 8] [--start 100000] [--out DIR]
    python bench/live.py --loop 10000 [--reopen] [--out DIR]

The first: after every small commit, how long until a reader finds what is new, and what do readers
and writer cost each other? A reader refreshes before each query; half of its queries are for
neighbours of codes that were committed last, and what was acknowledged before the refresh must be
found. The second: commits of one code each, then searches of what they left and of the same codes
added in one commit, taking turns. `--out` keeps a CSV and a table.
"""

from __future__ import annotations

import argparse
import csv
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from measures import disk_bytes, quantiles

import nearsearch as ns
from nearsearch.synthetic import plant_neighbours, random_codes

if TYPE_CHECKING:
    from numpy.typing import NDArray

RADIUS: Final = 31
MOST_CODES: Final = 20  # of a commit
NEW_CONTRIBUTIONS: Final = 265 / 615  # of the commits; the others add to one that is there
NEAR: Final = 8  # bits between a query and the code it is to find
N_QUERIES: Final = 2000


# --- many readers and one writer ----------------------------------------------------------------


def plan_commits(count: int, start: int) -> tuple[NDArray[np.uint8], NDArray[np.int64], list[str]]:
    """Return all codes, the number of the first code of each commit, and its contribution."""
    rng = np.random.default_rng(1)
    sizes = rng.integers(1, MOST_CODES + 1, count)
    is_new = rng.random(count) < NEW_CONTRIBUTIONS
    is_new[0] = True
    known = np.cumsum(is_new)
    chosen = np.where(is_new, known, rng.integers(1, known + 1))
    firsts = start + np.concatenate([[0], np.cumsum(sizes)])
    return random_codes(int(firsts[-1]), 256, 2), firsts, [f"case-{n}" for n in chosen]


def read(root: Path, number: int, commits: int, start: int, shared: tuple[Any, ...]) -> None:
    """Refresh and search until told to stop; hand in the time of each query and of each find."""
    ready, committed, stop, results = shared
    codes, firsts, _ = plan_commits(commits, start)
    queries = plant_neighbours(codes, NEAR, 3)
    rng = np.random.default_rng([4, number])
    found_at, latencies, behind, wrong = np.full(commits, np.inf), [], [], []
    awaited, errors = 0, ""  # the first commit that was not found yet
    try:
        with ns.Index.open(root) as index:
            index.warm_up()
            index.search(queries[0], RADIUS)
            ready.release()
            while not stop.is_set():
                acknowledged = committed.value
                commit = min(awaited, commits - 1) if rng.random() < 0.5 else -1
                wanted = int(firsts[commit] if commit >= 0 else rng.integers(start))
                begun = time.perf_counter()
                index.refresh()
                refreshed = time.perf_counter()
                matches = index.search(queries[wanted], RADIUS)
                done = time.perf_counter()
                behind.append(refreshed - begun)
                latencies.append(done - begun)
                if len(matches) and f"r{wanted}" in matches.to_arrow()["key"].to_pylist():
                    if commit >= 0:
                        found_at[commit] = min(found_at[commit], time.monotonic())
                        awaited = max(awaited, commit + 1)
                elif commit < acknowledged:
                    wrong.append((wanted, acknowledged, matches.generation))
    except Exception:
        errors = traceback.format_exc()
        ready.release()
    results.put((found_at, latencies, behind, wrong, errors))


def live(folder: Path, commits: int, readers: int, start: int) -> dict[str, Any]:
    """Commit while others search; return what was measured."""
    root = folder / "live.ns"
    codes, firsts, contributions = plan_commits(commits, start)
    keys = [f"r{i}" for i in range(len(codes))]
    with ns.Writer.open(root, create=True) as writer:
        writer.add_codes(codes[:start], keys=keys[:start], contribution="start")
        writer.compact()
    processes = multiprocessing.get_context("spawn")
    ready, stop = processes.Semaphore(0), processes.Event()
    committed, results = processes.Value("q", 0), processes.Queue()
    shared = (ready, committed, stop, results)
    started = [
        processes.Process(target=read, args=(root, number, commits, start, shared))
        for number in range(readers)
    ]
    for process in started:
        process.start()
    for _ in started:
        ready.acquire()
    returned, seconds, peak, begun = np.zeros(commits), [], 0, time.monotonic()
    with ns.Writer.open(root) as writer:
        for commit, contribution in enumerate(contributions):
            part = slice(int(firsts[commit]), int(firsts[commit + 1]))
            before = time.monotonic()
            writer.add_codes(codes[part], keys=keys[part], contribution=contribution)
            writer.commit()
            returned[commit] = time.monotonic()
            seconds.append(returned[commit] - before)
            committed.value = commit + 1
            if commit % 20 == 0:  # between commits nothing comes or goes
                peak = max(peak, disk_bytes(root)[1])
        took = time.monotonic() - begun
        shards = writer.n_shards
    time.sleep(1)  # for the last commit to be found
    stop.set()
    answers = [results.get() for _ in started]
    for process in started:
        process.join()
    found_at, latencies, behind, wrong, errors = zip(*answers, strict=True)
    print(*filter(None, errors), *filter(None, wrong), file=sys.stderr, sep="\n")
    first_found = np.min(found_at, axis=0)  # infinite where it was not
    files, size = disk_bytes(root)
    return {
        "commits": commits,
        "readers": readers,
        "start_codes": start,
        "reader_errors": sum(map(bool, errors)),
        "wrong_answers": sum(map(len, wrong)),
        "queries": sum(map(len, latencies)),
        **quantiles("until_found", np.maximum(first_found - returned, 0)),  # 0: before it returned
        **quantiles("refresh", np.concatenate(behind)),
        **quantiles("refresh_and_query", np.concatenate(latencies)),
        "commits_per_s": round(commits / took, 1),
        **quantiles("commit", seconds),
        "shards": shards,
        "files": files,
        "end_mb": round(size / 1e6, 1),
        "peak_mb": round(max(peak, size) / 1e6, 1),
    }


# --- many commits of one code -------------------------------------------------------------------


def loop(folder: Path, commits: int, reopen: bool) -> dict[str, Any]:
    """Commit codes one by one and all at once, and search both; return what was measured."""
    codes = random_codes(commits, 256, 5)
    keys = [f"r{i}" for i in range(commits)]
    one, many = folder / "one.ns", folder / "many.ns"
    with ns.Writer.open(one, create=True) as writer:
        writer.add_codes(codes, keys=keys, contribution="case-1")
    seconds, begun = [], time.perf_counter()
    writer = ns.Writer.open(many, create=True)
    for i in range(commits):
        before = time.perf_counter()
        if reopen:
            writer.close()
            writer = ns.Writer.open(many, create=True)
        writer.add_codes(codes[i : i + 1], keys=keys[i : i + 1], contribution="case-1")
        writer.commit()
        seconds.append(time.perf_counter() - before)
    took, shards = time.perf_counter() - begun, writer.n_shards
    writer.close()
    queries = plant_neighbours(codes[np.arange(N_QUERIES) % commits], NEAR, 6)
    times: dict[Path, list[float]] = {one: [], many: []}
    with ns.Index.open(one) as single, ns.Index.open(many) as index:
        index.warm_up()
        for query in queries:
            distances = []
            for root, opened in ((one, single), (many, index)):
                before = time.perf_counter()
                matches = opened.search(query, RADIUS)
                times[root].append(time.perf_counter() - before)
                distances.append(matches.distances.tolist())
            assert distances[0] == distances[1] != []
    medians = {root: float(np.median(found)) for root, found in times.items()}
    files, size = disk_bytes(many)
    return {
        "one_code_commits": commits,
        "reopened": reopen,
        "seconds": round(took, 1),
        **quantiles("commit", seconds),
        "search_p50_us": round(1e6 * medians[many], 1),
        "search_one_commit_p50_us": round(1e6 * medians[one], 1),
        "ratio": round(medians[many] / medians[one], 2),
        "shards": shards,
        "files": files,
        "bytes": size,
        "bytes_one_commit": disk_bytes(one)[1],
    }


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--commits", type=int, default=600)
    parser.add_argument("--readers", type=int, default=8)
    parser.add_argument("--start", type=int, default=100_000)
    parser.add_argument("--loop", type=int, default=0, help="commits of one code; the second run")
    parser.add_argument("--reopen", action="store_true", help="open the writer for each commit")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="nearsearch-live-"))
    try:
        if options.loop:
            row = loop(folder, options.loop, options.reopen)
        else:
            row = live(folder, options.commits, options.readers, options.start)
        name = "live" if not options.loop else "loop-reopen" if options.reopen else "loop"
        row |= {"cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1)}
        print(*(f"{key:26} {value}" for key, value in row.items()), sep="\n")
        if options.out:
            options.out.mkdir(parents=True, exist_ok=True)
            with (options.out / f"{name}.csv").open("w", newline="") as file:
                csv.writer(file, lineterminator="\n").writerows([row, row.values()])
            lines = [f"| {key} | {value} |\n" for key, value in row.items()]
            (options.out / f"{name}.md").write_text("| | |\n| --- | ---: |\n" + "".join(lines))
        assert row.get("reader_errors", 0) == row.get("wrong_answers", 0) == 0
        assert row.get("until_found_max_ms", 0) < 1000, "a commit was not found within a second"
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
