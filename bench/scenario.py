"""The whole job: many people ask an index of millions while contributions come in.

    python bench/scenario.py [--items 1e7] [--readers 25] [--folder DIR] [--out DIR]
    python bench/scenario.py --quick
    python bench/scenario.py --tables DIR

Reader processes ask, each with a pause to think: mostly with one code of a picture, some with those
of the eight orientations, three of them now and then with all files of a contribution. One writer
adds 265 contributions of 2 to 5,000 files and extends 350 others, each in a commit of its own.
Watchers beside them poll for what was committed last. A reader refreshes before it asks; every
query has a known neighbour, and an answer without it is wrong, also where the neighbour had been
committed just before. First comes a quiet phase without the writer, to compare with.

Writes `scenario-queries.csv` (a row a query), `scenario-commits.csv`, `scenario-figures.csv`, and
from them `scenario.md` and `scenario.svg`, which ``--tables`` makes again.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from queue import Empty
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import scenario_tables
from measures import disk_bytes, figure, memory, write_csv
from scenario_data import CHUNK, Plan, build, keys_of, make_codes, sizes_of

import nearsearch as ns
from nearsearch.synthetic import plant_neighbours

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

    Codes = NDArray[np.uint8]
    Row = dict[str, Any]

LARGEST: Final = 5000  # files of a contribution
FARTHEST: Final = 24  # bits between a query and its known neighbour; the radius is 31
ORIENTATIONS: Final = 8
POLL: Final = 0.02  # seconds between two looks of a watcher
OF_NEW: Final = 0.3  # of the single queries: for what was committed during the run
PHASES: Final = ("quiet", "writing")


# --- the processes ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shared:
    """What the processes tell each other."""

    ready: Any
    phase: Any
    """Place in `PHASES`."""
    over: Any
    committed: Any
    """Commits that were acknowledged to the writer."""
    returned: Any
    """When each of them was, on the monotonic clock."""
    results: Any


def misses(matches: ns.Matches, table: pa.Table, wanted: Any, distances: Any) -> tuple[int, int]:
    """Return how many of the wanted items are not found at their distance; first what is wrong.

    Then those that may have been held out, as codes are that more than a hundred items share.
    """
    names = ("query_index", "key", "distance")
    found = set(zip(*(table[name].to_pylist() for name in names), strict=True))
    distances = np.broadcast_to(distances, len(wanted)).tolist()
    asked = enumerate(zip(wanted.tolist(), distances, strict=True))
    absent = [n for n, (item, bits) in asked if (n, f"r{item}", bits) not in found]
    held_out = sum(bool(matches.held_out[n]) for n in absent)
    return len(absent) - held_out, held_out


class Reader:
    """One process that asks; every answer is checked."""

    def __init__(self, index: ns.Index, root: Path, plan: Plan, shared: Shared, number: int):
        self._index, self._plan, self._shared, self._number = index, plan, shared, number
        with np.load(root.with_name("codes.npz")) as codes:
            self._numbers, self._known = codes["numbers"], codes["known"]
            self._incoming, self._unrelated = codes["incoming"], codes["unrelated"]
        self._firsts, self._rng = plan.contributions()[1], np.random.default_rng([5, number])
        self.rows: list[Row] = []

    def ask(self, kind: str, wanted: NDArray[np.int64], codes: Codes, fillers: int = 0) -> bool:
        """Refresh and search; note times, and whether each neighbour is among the answers."""
        distances = self._rng.integers(0, FARTHEST + 1, len(codes))
        seed = int(self._rng.integers(1 << 30))
        queries = plant_neighbours(codes, distances, seed)
        if fillers:  # the other orientations of a picture look like other pictures
            other = self._rng.integers(0, len(self._unrelated), fillers)
            queries = np.concatenate([queries, self._unrelated[other]])
        phase = PHASES[self._shared.phase.value]
        at, begun = time.monotonic(), time.perf_counter()
        self._index.refresh()
        refreshed = time.perf_counter()
        matches = self._index.search(queries)
        searched = time.perf_counter()
        table = matches.to_arrow()
        done = time.perf_counter()
        missed, held_out = misses(matches, table, wanted, distances)
        self.rows.append(
            {
                "at_s": at,
                "phase": phase,
                "reader": self._number,
                "kind": kind,
                "codes": len(queries),
                "refresh_ms": 1e3 * (refreshed - begun),
                "search_ms": 1e3 * (searched - refreshed),
                "table_ms": 1e3 * (done - searched),
                "matches": len(matches),
                "wrong": missed,
                "held_out": held_out,
                "generation": matches.generation,
            }
        )
        return not missed

    def ask_for_new(self, kind: str, commits: NDArray[np.int64]) -> bool:
        """Ask for one item of each of these commits."""
        sizes = self._firsts[commits + 1] - self._firsts[commits]
        wanted = self._firsts[commits] + self._rng.integers(0, sizes)
        return self.ask(kind, wanted, self._incoming[wanted - self._plan.items])

    def ask_for_known(self, kind: str, count: int, fillers: int = 0) -> None:
        """Ask for items that were there from the beginning."""
        places = self._rng.integers(0, len(self._numbers), count)
        self.ask(kind, self._numbers[places], self._known[places], fillers)

    def person(self) -> None:
        """Ask what a person would, with pauses, until it is over."""
        shared, rng = self._shared, self._rng
        is_batcher = self._number < self._plan.batchers
        sizes = sizes_of(1000, self._plan.largest, 7)
        while not shared.over.wait(rng.exponential(self._plan.pause)):
            acknowledged = shared.committed.value
            if is_batcher and rng.random() < 0.5:
                self.ask_for_known("contribution", int(rng.choice(sizes)))
            elif rng.random() < 0.2:
                self.ask_for_known("orientations", 1, ORIENTATIONS - 1)
            elif acknowledged and rng.random() < OF_NEW:
                newest = acknowledged - 1 - int(rng.integers(0, min(acknowledged, 3)))
                self.ask_for_new("single", np.array([newest]))
            else:
                self.ask_for_known("single", 1)

    def watch(self) -> NDArray[np.float64]:
        """Poll for what was committed last; return when something of each commit was found."""
        shared, awaited = self._shared, 0
        found_at = np.full(self._plan.commits, np.nan)
        while not shared.over.wait(POLL):
            acknowledged = shared.committed.value
            if awaited < acknowledged:
                commits = np.arange(awaited, acknowledged)
                if self.ask_for_new("newest", commits):
                    found_at[commits] = time.monotonic()
                    awaited = acknowledged
        return found_at


def read(root: Path, plan: Plan, shared: Shared, number: int) -> None:
    """Run a reader, or from `plan.readers` on a watcher; hand in what it measured."""
    found_at, rows, errors, resident = None, [], "", {}
    try:
        with ns.Index.open(root) as index:
            index.warm_up()
            reader = Reader(index, root, plan, shared, number)
            before = memory()
            reader.ask_for_known("first", 1)
            reader.ask_for_known("first", 1, ORIENTATIONS - 1)
            shared.ready.release()
            if number < plan.readers:
                reader.person()
            else:
                found_at = reader.watch()
            rows = reader.rows
            resident = memory() | {f"{name}_before": size for name, size in before.items()}
    except Exception:
        errors = traceback.format_exc()
        shared.ready.release()
    shared.results.put(("reader", number, rows, found_at, resident, os.times()[:2], errors))


def write(root: Path, plan: Plan, shared: Shared) -> None:
    """Add and extend contributions, a commit each; hand in what it measured."""
    names, firsts = plan.contributions()
    rows, errors, peak_disk, resident = [], "", 0, {}
    rng = np.random.default_rng(8)
    try:
        with np.load(root.with_name("codes.npz")) as codes:
            incoming = codes["incoming"]
        with ns.Writer.open(root) as writer:
            resident = {"before": memory()["rss"]}
            for commit, name in enumerate(names):
                time.sleep(rng.exponential(plan.writer_pause))
                first, end = int(firsts[commit]), int(firsts[commit + 1])
                part = incoming[first - plan.items : end - plan.items]
                keys = keys_of(first, end - first)
                at, begun = time.monotonic(), time.perf_counter()
                report = writer.add_codes(part, keys=keys, contribution=name)
                added = time.perf_counter()
                writer.commit()
                done = time.perf_counter()
                assert report.added + report.duplicate == end - first, report
                shared.returned[commit] = time.monotonic()
                shared.committed.value = commit + 1
                rows.append(
                    {
                        "commit": commit,
                        "contribution": name,
                        "codes": end - first,
                        "at_s": at,
                        "add_ms": 1e3 * (added - begun),
                        "commit_ms": 1e3 * (done - added),
                        "shards": writer.n_shards,
                    }
                )
                if commit % 20 == 0:  # between commits nothing comes or goes
                    peak_disk = max(peak_disk, disk_bytes(root)[1])
                    print(f"\r{commit} commits", end="", file=sys.stderr, flush=True)
        resident |= memory()
    except Exception:
        errors = traceback.format_exc()
    shared.results.put(("writer", peak_disk, rows, None, resident, os.times()[:2], errors))


# --- the run ------------------------------------------------------------------------------------


def run(folder: Path, plan: Plan) -> dict[str, list[Row]]:
    """Build, ask, write, count; return the rows of the three files."""
    root = folder / "i.ns"
    ends = np.cumsum(sizes_of(plan.extended, plan.largest, 3))
    built = build(root, plan.items, ends[ends <= plan.items].tolist())
    added = int(plan.contributions()[1][-1]) - plan.items
    codes = {
        "numbers": built["numbers"],
        "known": built["known"],
        "incoming": np.concatenate([codes for _, codes in make_codes(added, 4)]),
        "unrelated": next(make_codes(1000, 6))[1],
    }
    np.savez(folder / "codes.npz", **codes)
    processes = multiprocessing.get_context("spawn")
    shared = Shared(
        processes.Semaphore(0),
        processes.Value("b", 0),
        processes.Event(),
        processes.Value("q", 0),
        processes.Array("d", plan.commits),
        processes.Queue(),
    )
    before = disk_bytes(root)
    readers = [
        processes.Process(target=read, args=(root, plan, shared, number), daemon=True)
        for number in range(plan.readers + plan.watchers)
    ]
    writer = processes.Process(target=write, args=(root, plan, shared), daemon=True)
    for process in readers:
        process.start()
    for _ in readers:
        shared.ready.acquire()
    print(f"{len(readers)} processes ask; no writer yet", file=sys.stderr)
    origin, load = time.monotonic(), [os.getloadavg()[0]]
    time.sleep(plan.quiet)
    load.append(os.getloadavg()[0])
    busy = [_busy()]
    shared.phase.value = 1
    begun = time.monotonic()
    writer.start()
    results = [handed_in(shared, [*readers, writer])]  # of the writer, unless a reader failed
    wrote = time.monotonic() - begun
    busy.append(_busy())
    load.append(os.getloadavg()[0])
    time.sleep(1)  # for the last commit to be found
    shared.over.set()
    results += [handed_in(shared, [*readers, writer]) for _ in readers]
    for process in (*readers, writer):
        process.join()
    return collect(root, plan, codes["incoming"], results, shared, origin) | {
        "machine": [
            figure("time of the writing phase", "s", wrote),
            figure("processor time in use then, all cores", "%", 100 * _share(busy)),
            *(
                figure(f"load {when}", "", found)
                for when, found in zip(
                    ("before", "without writer", "at the end"), load, strict=True
                )
            ),
            figure("build: add and commit", "s", built["add_s"]),
            figure("build: compact", "s", built["compact_s"]),
            figure("disk before", "MB", before[1] / 1e6),
            figure("files before", "", before[0]),
        ]
    }


def handed_in(shared: Shared, processes: list[Any]) -> Any:
    """Wait for what the next process hands in; one that was killed never will."""
    while True:
        try:
            return shared.results.get(timeout=5)
        except Empty:
            killed = [process.exitcode for process in processes if process.exitcode]
            assert not killed, f"processes ended with {killed}"


def _busy() -> tuple[float, float]:
    """Return the processor time that was in use, and all there was, since the start."""
    values = [float(word) for word in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
    return sum(values) - values[3] - values[4], sum(values)


def _share(busy: list[tuple[float, float]]) -> float:
    (used, total), (used_later, total_later) = busy
    return (used_later - used) / max(total_later - total, 1.0)


def collect(
    root: Path, plan: Plan, codes: Codes, results: list[Any], shared: Shared, origin: float
) -> dict[str, list[Row]]:
    """Check counts, look for everything once more, and put what was measured into rows."""
    (of_writer,) = [found for found in results if found[0] == "writer"]
    of_readers = sorted((found for found in results if found[0] == "reader"), key=lambda r: r[1])
    queries = [row for found in of_readers for row in found[2]]
    errors = [found[-1] for found in results if found[-1]]
    print(*errors, sep="\n", file=sys.stderr)
    commits = of_writer[2]
    returned = np.array(shared.returned)
    watched = [found[3] for found in of_readers if found[3] is not None]
    for row in commits:
        seen = [float(at[row["commit"]] - returned[row["commit"]]) for at in watched]
        row["found_after_ms"] = "" if np.isnan(seen).all() else 1e3 * np.nanmax(seen)
        row["at_s"] -= origin
    unseen = sum(row["found_after_ms"] == "" for row in commits) if watched else 0
    for row in queries:
        row["at_s"] -= origin
    missing = 0
    with ns.Index.open(root) as index:
        for first in range(0, len(codes), CHUNK):
            part = plant_neighbours(codes[first : first + CHUNK], FARTHEST, 9)
            matches = index.search(part)
            numbers = plan.items + first + np.arange(len(part))
            missing += misses(matches, matches.to_arrow(), numbers, FARTHEST)[0]
        members = index.stats()["members"]
    size = disk_bytes(root)
    added = len(codes)
    resident = [found[4] for found in of_readers[: plan.readers] if found[4]]
    cpu = [sum(found[5]) for found in of_readers]
    figures = [
        figure("items at the beginning", "", plan.items),
        figure("items added", "", added),
        figure("contributions added", "", plan.new),
        figure("contributions extended", "", plan.extended),
        figure("readers", "", plan.readers),
        figure("mean pause of a reader", "s", plan.pause),
        figure("mean pause of the writer", "s", plan.writer_pause),
        figure("processes that failed", "", len(errors), "0"),
        figure("wrong answers", "", sum(row["wrong"] for row in queries), "0"),
        figure("held out as common", "", sum(row["held_out"] for row in queries)),
        figure("new items not found in the end", "", missing, "0"),
        figure("commits that no watcher found", "", unseen, "0"),
        figure("members missing or too many", "", members - plan.items - added, "0"),
        figure("disk at the end", "MB", size[1] / 1e6),
        figure("files at the end", "", size[0]),
        figure("disk, most between commits", "MB", max(of_writer[1], size[1]) / 1e6),
        figure("processor time of the readers, all", "s", float(sum(cpu))),
        figure("processor time of the writer", "s", float(sum(of_writer[5]))),
        *_memory(resident, of_writer[4]),
    ]
    return {"queries": queries, "commits": commits, "figures": figures}


def _memory(readers: list[dict[str, int]], writer: dict[str, int]) -> list[Row]:
    names = {
        "pss": "reader, shared memory in parts (PSS)",
        "private": "reader, memory of its own",
        "private_before": "reader, memory of its own, before the first query",
        "rss": "reader, resident (RSS)",
    }
    rows = []
    for name, title in names.items():
        values = [found[name] / 1e6 for found in readers if name in found]
        if values:
            low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
            rows.append(figure(title, "MB", middle, low=low, high=high, n=len(values)))
    if readers and all("pss" in found for found in readers):
        total = sum(found["pss"] for found in readers) / 1e6
        rows.append(figure("all readers together (PSS)", "MB", total))
    if "peak" in writer:
        rows.append(figure("writer, once it is open", "MB", writer["before"] / 1e6))
        rows.append(figure("writer, peak", "MB", writer["peak"] / 1e6))
    return rows


def rounded(rows: list[Row]) -> list[Row]:
    """Return rows with microseconds as the last digits of times."""
    return [
        {
            name: round(value, 3) if isinstance(value, float) else value
            for name, value in row.items()
        }
        for row in rows
    ]


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=float, default=1e7)
    parser.add_argument("--new", type=int, default=265, help="contributions that are added")
    parser.add_argument("--extended", type=int, default=350, help="contributions that grow")
    parser.add_argument("--largest", type=int, default=LARGEST, help="files of a contribution")
    parser.add_argument("--readers", type=int, default=25)
    parser.add_argument("--batchers", type=int, default=3, help="readers with contributions too")
    parser.add_argument("--watchers", type=int, default=2, help="more processes, that poll")
    parser.add_argument(
        "--pause",
        type=float,
        default=2.0,
        help="mean seconds of a reader between queries: 2 keeps two cores far from busy",
    )
    parser.add_argument("--writer-pause", type=float, default=0.5, help="mean seconds, of commits")
    parser.add_argument("--quiet", type=float, default=60.0, help="seconds without the writer")
    parser.add_argument("--folder", type=Path, help="where the index is made: a real disk")
    parser.add_argument("--quick", action="store_true", help="20,000 items, 6 readers, 30 commits")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--tables", type=Path, metavar="DIR", help="only make the tables again")
    options = parser.parse_args()
    if options.tables:
        scenario_tables.write(options.tables)
        return
    if options.quick:
        options.items, options.new, options.extended, options.largest = 20_000, 13, 17, 500
        options.readers, options.batchers, options.pause = 6, 1, 0.3
        options.writer_pause, options.quiet = 0.3, 5.0
    names = ("new", "extended", "largest", "readers", "batchers", "watchers", "pause")
    chosen = {name: getattr(options, name) for name in (*names, "writer_pause", "quiet")}
    plan = Plan(items=int(options.items), **chosen)
    folder = Path(tempfile.mkdtemp(prefix="nearsearch-scenario-", dir=options.folder))
    out = options.out or folder
    try:
        rows = run(folder, plan)
        write_csv(out / "scenario-queries.csv", rounded(rows["queries"]))
        write_csv(out / "scenario-commits.csv", rounded(rows["commits"]))
        write_csv(out / "scenario-figures.csv", rows["figures"] + rows["machine"])
        print(scenario_tables.write(out))
    finally:
        shutil.rmtree(folder)
    bad = [row for row in rows["figures"] if row["target"] == "0" and row["value"] != 0]
    assert not bad, bad


if __name__ == "__main__":
    main()
