"""From files to an index: how much of the time is decoding, two processes against one, many files.

    python bench/ingest.py [--pictures 5000] [--rounds 5] [--media DIR] [--folder DIR] [--out DIR]
    python bench/ingest.py --quick
    python bench/ingest.py --many [200000] [--folder DIR] [--out DIR]

The first makes a mixed set of pictures and splits it into rounds. In each, all cases take turns on
the same files, each in a fresh process; a figure is a ratio of two cases of a round, and its median
over the rounds is shown. Counts are asserted, times only printed. The second adds a tree of many
small files, then adds it again, unchanged. `--out` keeps a CSV and the tables.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

import pictures
from ingest_tables import BIG, composition, figures, keep, rates, table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ingest_tables import Results

CASES: Final = Path(__file__).with_name("ingest_cases.py")
BIG_ROUNDS: Final = 3
MAX_DRIFT: Final = 8  # bits
ALL_DIGESTS: Final = ("md5", "sha1")


class Case:
    """A case in a process of its own, on given cores: warm when made, measured by `result`."""

    def __init__(self, job: dict[str, Any], cores: set[int]) -> None:
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, cores)  # the process and all it starts inherit them
        try:
            self._process = subprocess.Popen(
                [sys.executable, str(CASES)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        finally:
            os.sched_setaffinity(0, before)
        self._input: IO[str] = self._process.stdin  # type: ignore[assignment]
        self._output: IO[str] = self._process.stdout  # type: ignore[assignment]
        self._say(json.dumps(job))

    def _say(self, text: str) -> None:
        self._input.write(text + "\n")
        self._input.flush()

    def wait_until_warm(self) -> None:
        assert self._output.readline() == "ready\n", "a case failed while it warmed up"

    def go(self) -> None:
        self._say("go")

    def result(self) -> dict[str, Any]:
        text, _ = self._process.communicate()
        assert self._process.returncode == 0, "a case failed"
        found: dict[str, Any] = json.loads(text)
        return found


def run(jobs: Sequence[dict[str, Any]], cores: set[int]) -> list[dict[str, Any]]:
    """Run jobs at the same time, once all are warm; return what each measured."""
    started = [Case(job, cores) for job in jobs]
    for case in started:
        case.wait_until_warm()
    for case in started:
        case.go()
    return [case.result() for case in started]


# --- the mixed set ------------------------------------------------------------------------------


class Mixed:
    """Measures the mixed set; `rows` is everything that was measured, for the CSV."""

    def __init__(self, folder: Path, files: list[dict[str, Any]]) -> None:
        self._folder, self._files = folder, files
        self._warm = pictures.write_warm(folder / "warm", 2)
        self._cores = sorted(os.sched_getaffinity(0))
        self.rows: list[dict[str, Any]] = []

    def _job(self, case: str, paths: list[str], workers: int = 1, **more: Any) -> dict[str, Any]:
        root, warm = str(self._folder / "index"), self._warm[:workers]
        basic = {"case": case, "paths": paths, "warm": warm, "workers": workers, "root": root}
        return {**basic, "digests": ALL_DIGESTS, **more}

    def _turn(self, number: int, plans: list[tuple[str, bool, list[dict[str, Any]]]]) -> Results:
        """Run each of (name, whether on one core, jobs), another one first each round."""
        results: Results = {}
        first = number % len(plans)
        for name, pinned, jobs in plans[first:] + plans[:first]:
            cores = {self._cores[number % len(self._cores)]} if pinned else set(self._cores)
            found = run(jobs, cores)
            results[name] = found
            size = sum(os.path.getsize(path) for job in jobs for path in job["paths"])
            for job, result in zip(jobs, found, strict=True):
                kept = {key: value for key, value in result.items() if key != "codes"}
                basic = {"round": number, "case": name, "cores": len(cores)}
                self.rows.append({**basic, "files": len(job["paths"]), "bytes": size, **kept})
            took = max(result["seconds"] for result in found)
            count = sum(len(job["paths"]) for job in jobs)
            print(f"  {name:24} {took:8.2f} s {count / took:9.1f} files/s", file=sys.stderr)
        return results

    def rounds(self, count: int, size: int) -> list[Results]:
        """Run all cases on each part of the set."""
        run([self._job("add", [])], set(self._cores))  # compiles the kernels
        found = []
        for number in range(count):
            print(f"round {number + 1} of {count}", file=sys.stderr)
            places = range(number * size, (number + 1) * size)
            part = [self._files[place % len(self._files)] for place in places]
            paths = [file["path"] for file in part]
            by_size = [file["path"] for file in sorted(part, key=lambda file: file["pixels"])]
            halves = by_size[::4] + by_size[3::4], by_size[1::4] + by_size[2::4]
            plans = [
                ("decode", True, [self._job("decode", paths)]),
                ("add", True, [self._job("add", paths)]),
                ("add, no digests", True, [self._job("add", paths, digests=())]),
                ("add, 1 process", False, [self._job("add", paths)]),
                ("add, 2 processes", False, [self._job("add", paths, 2)]),
                ("decode, 2 processes", False, [self._job("decode", half) for half in halves]),
            ]
            if number % 2 == 0:
                plans += [
                    ("stages", True, [self._job("stages", paths)]),
                    ("stream", True, [self._job("stream", paths)]),
                ]
            results = self._turn(number, plans)
            counts = {
                name: [sum(part[key] for part in parts) for key in ("hashed", "failed")]
                for name, parts in results.items()
            }
            assert all(each == counts["decode"] for each in counts.values()), counts
            assert sum(counts["decode"]) == len(paths), counts
            found.append(results)
        return found

    def big(self, most: int) -> tuple[list[Results], list[int]]:
        """Run ours and Pillow with the reference on big JPEGs; return also the bits of drift."""
        paths = [
            file["path"]
            for file in self._files
            if file["format"] == "JPEG" and file["plain"] and file["pixels"] > BIG
        ][:most]
        print(f"{len(paths)} JPEGs above {BIG:,} pixels", file=sys.stderr)
        ours = run([self._job("stream", paths, codes=True)], set(self._cores))[0]["codes"]
        plans = [
            ("add, big", True, [self._job("add", paths)]),
            ("Pillow + pdqhash, big", True, [self._job("rival", paths)]),
        ]
        found = [self._turn(number, plans) for number in range(BIG_ROUNDS)]
        for results in found:
            assert all(parts[0]["hashed"] == len(paths) for parts in results.values()), results
        codes = found[0]["Pillow + pdqhash, big"][0]["codes"]
        pairs = zip(ours, codes, strict=True)
        return found, [(int(a, 16) ^ int(b, 16)).bit_count() for a, b in pairs]


# --- many small files ---------------------------------------------------------------------------


def many(folder: Path, count: int, commit_every: float) -> list[dict[str, Any]]:
    """Add a tree of small files, then thrice again; return a row for each."""
    tree, root = folder / "tree", folder / "many"
    begun = time.perf_counter()
    shutil.rmtree(tree, ignore_errors=True)
    pictures.make_small(tree, count, 1)
    print(f"{count:,} files made in {time.perf_counter() - begun:.0f} s", file=sys.stderr)
    shutil.rmtree(root, ignore_errors=True)
    cores = os.sched_getaffinity(0)
    warm = pictures.write_warm(folder / "warm", 1)
    job = {"case": "many", "root": str(root), "tree": str(tree), "count": count, "workers": 2}
    job["warm"] = warm
    rows = []
    for number in range(4):
        again = number > 0
        more = {"again": again, "commit_every": commit_every}
        (found,) = run([job | more], cores)
        assert found["hashed"] == found["members"] == count, found
        assert not found["failed"], found
        name = f"add again {number}" if again else "add"
        each = found.pop("rates")
        rows.append(
            {
                "case": name,
                "files": count,
                "seconds": f"{found['seconds']:.2f}",
                "files/s": round(count / found["seconds"]),
                "first tenth": round(each[0]),
                "last tenth": round(each[-1]),
                "slowest tenth": round(min(each)),
                "longest pause, s": f"{found['longest_pause']:.2f}",
                "commits": found["commits"],
                "shards": found["shards"],
                "peak of the parent, MiB": found["peak"] >> 20,
            }
        )
        print(f"  {name}: {rows[-1]['files/s']:,} files/s", file=sys.stderr)
        assert not again or not found["commits"], "an unchanged tree was committed"
    return rows


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pictures", type=int, default=5000, help="files in the mixed set")
    parser.add_argument("--rounds", type=int, default=5, help="each on its part of the set")
    parser.add_argument("--a-round", type=int, help="files of a round; the set / rounds by default")
    parser.add_argument("--big", type=int, default=60, help="JPEGs above 3 megapixels, at most")
    parser.add_argument("--media", type=Path, help="a folder of pictures to mix in")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="400 pictures, 3 rounds, 12 big ones")
    parser.add_argument("--many", type=int, nargs="?", const=200_000, help="small files; that run")
    parser.add_argument("--commit-every", type=float, default=10.0, help="seconds; of --many")
    parser.add_argument("--folder", type=Path, help="where pictures, kept, and indexes are made")
    parser.add_argument("--out", type=Path, help="where a CSV and the tables are written")
    options = parser.parse_args()
    if options.quick:
        options.pictures, options.rounds, options.big = 400, 3, 12
    media = options.media if options.media and options.media.is_dir() else None
    folder = options.folder or Path(tempfile.mkdtemp(prefix="nearsearch-ingest-"))
    try:
        if options.many:
            rows = many(folder, options.many, options.commit_every)
            keep(options.out, "many", [table(rows)], rows)
            return
        begun = time.perf_counter()
        files = pictures.make(folder / "pictures", options.pictures, options.seed, media)
        print(f"{len(files)} files, {time.perf_counter() - begun:.0f} s", file=sys.stderr)
        mixed = Mixed(folder, files)
        found = mixed.rounds(options.rounds, options.a_round or len(files) // options.rounds)
        big, drift = mixed.big(options.big)
        ratios = figures(found, big, drift)
        tables = [table(composition(files)), table(ratios), table(rates(mixed.rows))]
        keep(options.out, "ingest", tables, mixed.rows)
        assert max(drift, default=0) <= MAX_DRIFT, f"codes drift by up to {max(drift)} bits"
    finally:
        if not options.folder:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
