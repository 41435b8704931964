"""The figures of a folder of results: read from its raw files, shown, and compared with others.

A figure has a name, a unit, a value and, where they are known, the quartiles (of rates found, the
95 % interval) of what it is the median of. `REDUCERS` says which files hold which.
"""

from __future__ import annotations

import json
from collections import defaultdict
from statistics import mean
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import scenario_tables
from ingest_tables import table
from measures import figure, read_csv, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Row = dict[str, Any]
    Raw = list[dict[str, str]]

NOISE: Final = 0.2
"""Part by which a figure may differ where its quartiles are not known."""
MORE_IS_BETTER: Final = ("%", "times")
"""Units of which more is better, beside all that end in "/s"; of all others less is."""
PLAIN: Final = ""
"""Unit of counts and sizes of a run, which are neither better nor worse."""


class Figure(NamedTuple):
    """One number of a run."""

    suite: str
    name: str
    unit: str
    value: float
    low: float | None = None
    high: float | None = None

    @property
    def has_quartiles(self) -> bool:
        return self.low is not None and self.high is not None


# --- from raw files to figures ------------------------------------------------------------------


def plain(suite: str, rows: Raw) -> Iterator[Figure]:
    """Read a CSV of figures, as `measures.figure` makes them."""
    for row in rows:
        low, high = (float(row[name]) if row.get(name) else None for name in ("low", "high"))
        yield Figure(suite, row["figure"], row["unit"], float(row["value"]), low, high)


def search(suite: str, rows: Raw) -> Iterator[Figure]:
    """Read `results.csv` of `search.py`."""
    facts = {
        "add_s": ("add", "s"),
        "compact_s": ("compact", "s"),
        "batch_per_s": ("batch of 10,000", "queries/s"),
        "warm_open_ms": ("open", "ms"),
        "warm_first_ms": ("first query", "ms"),
        "cold_open_ms": ("cold open", "ms"),
        "cold_first_ms": ("cold first query", "ms"),
        "bytes_a_code": ("codes and ring, a code", "bytes"),
        "disk_bytes_a_code": ("all files, a code", "bytes"),
    }
    times = {
        "p50_us": ("p50", "us"),
        "p99_us": ("p99", "us"),
        "faiss_flat_us": ("FAISS flat", "us"),
    }
    known = set()
    for row in rows:
        what = f"{int(row['codes']):,} {row['kind']}"
        if what not in known:
            known.add(what)
            for column, (name, unit) in facts.items():
                if row.get(column):
                    yield Figure(suite, f"{what}: {name}", unit, float(row[column]))
        for column, (name, unit) in times.items():
            if row.get(column):
                name = f"{what}, radius {row['radius']}: {name}"
                yield Figure(suite, name, unit, float(row[column]))


def ingest(suite: str, rows: Raw) -> Iterator[Figure]:
    """Read `ingest.csv`: files a second of a process, round by round."""
    groups: defaultdict[str, list[float]] = defaultdict(list)
    for row in rows:
        groups[row["case"]].append(float(row["files"]) / float(row["seconds"]))
    for case, rates in groups.items():
        yield _median(suite, case, "files/s", rates)


def many(suite: str, rows: Raw) -> Iterator[Figure]:
    """Read `many.csv`."""
    for row in rows:
        yield Figure(
            suite, f"{int(row['files']):,} files, {row['case']}", "files/s", float(row["files/s"])
        )


def quality(suite: str, rows: Raw) -> Iterator[Figure]:
    """Read `quality.csv`: what is found at shipped radii, in the mean of all alterations."""
    groups: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    rates = {row["rate"] for row in rows}
    for row in rows:
        is_shipped = row["system"].startswith("as shipped") or row["system"] == "pdq at 31"
        if is_shipped and row["rate"] == min(rates, key=float):  # the radii do not depend on it
            groups[row["kind"], row["system"]].append(float(row["share"]))
    for (kind, system), shares in groups.items():
        yield Figure(suite, f"{kind} found, {system}", "%", float(shown(mean(shares))))


def films(suite: str, rows: Raw) -> Iterator[Figure]:
    """Read `films.csv`: what is found of each transform, and how much is false."""
    groups: defaultdict[str, list[int]] = defaultdict(list)
    for row in rows:
        if row["found"]:
            groups[row["transform"]].append(int(row["found"]))
    for transform, found in groups.items():
        share, of = mean(found), len(found)
        half = 1.96 * ((share * (1 - share) + 0.96 / of) / of) ** 0.5 / (1 + 3.84 / of)
        centre = (share + 1.92 / of) / (1 + 3.84 / of)  # the interval of Wilson's
        low, high = (100 * float(shown(end)) for end in (centre - half, centre + half))
        yield Figure(suite, f"{transform}: found", "%", float(shown(100 * share)), low, high)
    wrong = sum(int(row["false"] or 0) for row in rows)
    yield Figure(suite, "false segments", "segments", wrong)


def film_speed(suite: str, rows: Raw) -> Iterator[Figure]:
    """Read `films-speed.csv`: ratios, and seconds."""
    for row in rows:
        number, _, unit = row["ratio"].partition(" ")
        if number:
            ends = (
                [float(end) for end in row["quartiles"].split(" to ")] if row["quartiles"] else []
            )
            yield Figure(suite, row["what"], unit or "times", float(number), *ends)


def scenario_queries(suite: str, rows: Raw) -> Iterator[Figure]:
    """Read `scenario-queries.csv`: latencies of each kind and phase."""
    for row in scenario_tables.latencies(rows):
        what = f"{row['asked with']}, {row['phase']}"
        for name in ("p50", "p99", "max"):  # without quartiles: queries differ more than runs
            yield Figure(suite, f"{what}: {name}", "ms", row[f"{name}, ms"])
        for name in ("p50", "p99"):
            yield Figure(suite, f"{what}: {name} of search", "ms", row[f"search alone, {name}"])
            yield Figure(suite, f"{what}: {name} with table", "ms", row[f"with table, {name}"])
        yield Figure(suite, f"{what}: a code", "us", row["us a code"])


def scenario_commits(suite: str, rows: Raw) -> Iterator[Figure]:
    """Read `scenario-commits.csv`."""
    for row in scenario_tables.commit_times(rows):
        for name in ("p50", "p99", "max"):
            yield Figure(suite, f"{row['of a commit']}: {name}", "ms", row[f"{name}, ms"])


def _median(suite: str, name: str, unit: str, values: Any) -> Figure:
    low, middle, high = (float(shown(end)) for end in np.quantile(values, [0.25, 0.5, 0.75]))
    return Figure(suite, name, unit, middle, low, high)


REDUCERS: Final[dict[str, tuple[str, Callable[[str, Raw], Iterator[Figure]]]]] = {
    "results.csv": ("search", search),
    "hashing-figures.csv": ("hashing", plain),
    "ingest.csv": ("ingest", ingest),
    "many.csv": ("ingest", many),
    "store-figures.csv": ("store", plain),
    "startup-figures.csv": ("startup", plain),
    "memory-figures.csv": ("memory", plain),
    "quality.csv": ("quality", quality),
    "films.csv": ("video", films),
    "films-speed.csv": ("video", film_speed),
    "scenario-queries.csv": ("scenario", scenario_queries),
    "scenario-commits.csv": ("scenario", scenario_commits),
    "scenario-figures.csv": ("scenario", plain),
}
"""Name of a raw file to its suite, and to what reads it."""


def of_folder(folder: Path) -> list[Figure]:
    """Return the figures of a folder of results, also of one that was filled by hand."""
    found = []
    for name, (suite, reduce) in REDUCERS.items():
        for path in sorted(folder.rglob(name)):
            found += reduce(suite, read_csv(path))
    return found


def of_benchmarks(path: Path) -> list[Row]:
    """Return the figures of a JSON file of pytest-benchmark, without what names the machine."""
    rows = []
    for bench in json.loads(path.read_text())["benchmarks"]:
        name, stats = bench["name"].removeprefix("test_"), bench["stats"]
        ends = {"low": 1e3 * stats["q1"], "high": 1e3 * stats["q3"], "n": stats["rounds"]}
        rows.append(figure(name, "ms", 1e3 * stats["median"], **ends))
        extra = bench["extra_info"]
        if extra.get("ratio"):
            low, high = extra["ratio_quartiles"]
            title = f"{name}: {extra['rival']} / ours"
            rows.append(
                figure(title, "times", extra["ratio"], low=low, high=high, n=stats["rounds"])
            )
    return rows


# --- tables -------------------------------------------------------------------------------------


def tables(figures: list[Figure]) -> dict[str, str]:
    """Return a table of figures for each suite."""
    groups: defaultdict[str, list[Row]] = defaultdict(list)
    for one in figures:
        spread = f"{shown(one.low)} to {shown(one.high)}" if one.has_quartiles else ""
        groups[one.suite].append(
            {"figure": one.name, "value": shown(one.value), "unit": one.unit, "quartiles": spread}
        )
    return {suite: table(rows) for suite, rows in groups.items()}


def differs(old: Figure, new: Figure) -> bool:
    """Tell whether two figures differ by more than noise.

    Their quartiles do not overlap, or, where those of one are not known, one is a fifth more.
    """
    if old.has_quartiles and new.has_quartiles:
        return bool(old.high < new.low or new.high < old.low)  # type: ignore[operator]
    small, large = sorted((abs(old.value), abs(new.value)))
    return large > small * (1 + NOISE)


def verdict(old: Figure, new: Figure) -> str:
    """Return "better" or "worse" where the difference is more than noise, else nothing."""
    if not differs(old, new):
        return ""
    if new.unit == PLAIN:
        return "other"
    wants_more = new.unit in MORE_IS_BETTER or new.unit.endswith("/s")
    return "better" if (new.value > old.value) == wants_more else "**worse**"


def compare(old: list[Figure], new: list[Figure]) -> list[Row]:
    """Return a row for each figure that both have: old, new, ratio, and whether it is noise."""
    known = {(one.suite, one.name, one.unit): one for one in old}
    rows = []
    for one in new:
        before = known.get((one.suite, one.name, one.unit))
        if before is not None:
            ratio = f"{one.value / before.value:.2f}" if before.value else ""
            rows.append(
                {
                    "suite": one.suite,
                    "figure": one.name,
                    "old": shown(before.value),
                    "new": shown(one.value),
                    "unit": one.unit,
                    "new / old": ratio,
                    "beyond noise": verdict(before, one),
                }
            )
    return rows
