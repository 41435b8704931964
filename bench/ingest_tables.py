"""The tables of `bench/ingest.py`: ratios of what was measured, rates, memory, and the files."""

from __future__ import annotations

import csv
import os
import platform
from collections import defaultdict
from pathlib import Path
from statistics import median, quantiles
from typing import Any, Final

BIG: Final = 3_000_000  # pixels
STAGES: Final = ("read", "sha256", "md5", "sha1", "decode", "kernel")
ONE, TWO = "add, 1 process", "add, 2 processes"
Results = dict[str, list[dict[str, Any]]]
"""Case to what was measured in a round, by each of its processes."""


def figures(found: list[Results], big: list[Results], drift: list[int]) -> list[dict[str, Any]]:
    """Return the table of ratios, round by round and of all."""
    rows: list[dict[str, Any]] = []

    def ratio(name: str, target: str, over: Any, under: Any, rounds: list[Results] = found) -> None:
        pairs = [(over(results), under(results)) for results in rounds]
        each = [top / bottom for top, bottom in pairs]
        low, _, high = quantiles(each, n=4, method="inclusive") if len(each) > 1 else each * 3
        total = sum(top for top, _ in pairs) / sum(bottom for _, bottom in pairs)
        numbers = [f"{value:.3f}" for value in (median(each), low, high, total)]
        names = ("median", "low", "high", "total")
        basic = {"figure": name, "target": target, "rounds": len(each)}
        rows.append(basic | dict(zip(names, numbers, strict=True)))

    def seconds(case: str, key: str = "seconds") -> Any:
        return lambda results: max(part[key] for part in results[case])

    def cpu(case: str) -> Any:
        return lambda results: results[case][0]["parent_cpu"] + results[case][0]["workers_cpu"]

    def unread(results: Results) -> float:
        return float(results["decode"][0]["seconds"] - results["decode"][0]["read"])

    decode, add, bare = seconds("decode"), seconds("add"), seconds("add, no digests")
    one = "one core: "
    ratio(one + "read and decode / add", ">= 0.80", decode, add)
    ratio(one + "the same, start of the process included", "", decode, seconds("add", "with_start"))
    ratio(one + "decode without reading / add", "", unread, add)
    ratio(one + "read and decode / add, both by CPU time", "", cpu("decode"), cpu("add"))
    ratio(one + "read and decode / add, SHA-256 only", "", decode, bare)
    ratio(one + "the same by CPU time", "", cpu("decode"), cpu("add, no digests"))
    staged = [results for results in found if "stages" in results]
    for stage in STAGES:
        ratio(f"CPU time of add: {stage}", "", seconds("stages", stage), cpu("add"), staged)

    def worker_rest(results: Results) -> float:
        staged_all = sum(results["stages"][0][stage] for stage in STAGES)
        return float(results["add"][0]["workers_cpu"] - staged_all)

    def index(results: Results) -> float:
        return float(results["add"][0]["parent_cpu"] - results["stream"][0]["parent_cpu"])

    ratio("CPU time of add: rest of the hashing process", "", worker_rest, cpu("add"), staged)
    pipes, rest = seconds("stream", "parent_cpu"), "CPU time of add: parent, "
    ratio(rest + "pipes and JSON", "", pipes, cpu("add"), staged)
    ratio(rest + "index and commit", "", index, cpu("add"), staged)
    ratio("time of add: commit alone", "", seconds("add", "commit"), add)
    free, two = seconds(ONE), seconds(TWO)
    ratio("2 processes: add with 1 / add with 2", ">= 1.8", free, two)
    starts = [seconds(case, "with_start") for case in (ONE, TWO)]
    ratio("2 processes: the same, start included", "", *starts)
    ratio("2 processes: CPU time with 1 / with 2", "", cpu(ONE), cpu(TWO))
    ceiling = seconds("decode, 2 processes")
    ratio("2 processes: decode alone / two at once (ceiling)", "", decode, ceiling)
    if drift:
        bits = f"drift mean {sum(drift) / len(drift):.2f}, most {max(drift)} bits"
        name = f"JPEGs > 3 MP ({len(drift)}, {bits}): Pillow + pdqhash / add"
        rival = seconds("Pillow + pdqhash, big")
        ratio(name, ">= 10", rival, seconds("add, big"), big)
        with_start = seconds("add, big", "with_start")
        ratio("JPEGs > 3 MP: the same, start included", "", rival, with_start, big)
        ratio("JPEGs > 3 MP: by CPU time", "", cpu("Pillow + pdqhash, big"), cpu("add, big"), big)
    return rows


def rates(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what each case does in a second, and the most memory it took."""
    groups: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[row["case"]].append(row)
    return [
        {
            "case": case,
            "files/s of a process": f"{median(r['files'] / r['seconds'] for r in part):.1f}",
            "peak of the parent, MiB": max(row["peak"] for row in part) >> 20,
            "of a child": max(row["peak_worker"] for row in part) >> 20 or "",
            "failed": sum(row["failed"] for row in part) if "failed" in part[0] else "",
        }
        for case, part in groups.items()
    ]


def composition(files: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what the set is made of."""
    groups: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for file in files:
        groups[file["format"]].append(file)
        groups["all"].append(file)
    return [
        {
            "format": name,
            "files": len(part),
            "share": f"{len(part) / len(files):.1%}",
            "mean kB": round(sum(file["bytes"] for file in part) / len(part) / 1e3),
            "mean Mpixel": f"{sum(file['pixels'] for file in part) / len(part) / 1e6:.2f}",
            "> 3 Mpixel": sum(file["pixels"] > BIG for file in part),
        }
        for name, part in sorted(groups.items(), key=lambda group: -len(group[1]))
    ]


# --- what is printed and kept -------------------------------------------------------------------


def table(rows: list[dict[str, Any]]) -> str:
    """Return rows as a Markdown table, aligned."""
    lines = [list(rows[0]), *([str(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    texts = [
        "| "
        + " | ".join(
            text.rjust(width) if place else text.ljust(width)
            for place, (text, width) in enumerate(zip(line, widths, strict=True))
        )
        + " |"
        for line in lines
    ]
    rule = "|" + "|".join(" " + "-" * w + (":" if n else " ") for n, w in enumerate(widths)) + "|"
    return "\n".join([texts[0], rule, *texts[1:]]) + "\n"


def keep(out: Path | None, name: str, tables: list[str], rows: list[dict[str, Any]]) -> None:
    """Print the tables; with a folder, write them there, and every row as CSV."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.split(": ")[1] for line in lines if line.startswith("model name")), "")
    host = f"{len(os.sched_getaffinity(0))} cores of {cpu or platform.machine()}"
    head = f"{host}, Python {platform.python_version()}, load {os.getloadavg()[0]:.1f}\n"
    text = "\n".join([head, *tables])
    print(text)
    if out:
        out.mkdir(parents=True, exist_ok=True)
        (out / f"{name}.md").write_text(text)
        columns = list(dict.fromkeys(column for row in rows for column in row))
        with (out / f"{name}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
