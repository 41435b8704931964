"""What several benches measure or write alike: quantiles, memory, disk, CSV files, the machine."""

from __future__ import annotations

import csv
import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    Row = dict[str, Any]

FIGURES: Final = ("figure", "unit", "value", "low", "high", "n", "target")
"""Columns of the CSV files of figures; `low` and `high` are quartiles where they are known."""


def quantiles(name: str, seconds: Any) -> dict[str, float]:
    """Return median, 99th percentile and maximum, in milliseconds."""
    found = 1e3 * np.quantile(np.asarray(seconds, float), [0.5, 0.99, 1])
    names = (f"{name}_p50_ms", f"{name}_p99_ms", f"{name}_max_ms")
    return dict(zip(names, found.round(2).tolist(), strict=True))


def figure(name: str, unit: str, value: Any, target: str = "", **more: Any) -> Row:
    """Return one figure as a row of a CSV."""
    return dict.fromkeys(FIGURES, "") | {
        "figure": name,
        "unit": unit,
        "value": shown(value),
        "target": target,
        **{key: shown(number) for key, number in more.items()},
    }


def median_of(name: str, unit: str, values: Iterable[float], target: str = "") -> Row:
    """Return the median of repeated measurements as a figure, with its quartiles."""
    low, middle, high = np.quantile(list(values), [0.25, 0.5, 0.75])
    return figure(name, unit, middle, target, low=low, high=high, n=len(list(values)))


def shown(value: Any) -> Any:
    """Return a number with four significant digits, and anything else as it is."""
    if isinstance(value, float | np.floating):
        value = float(f"{value:.4g}")
        return int(value) if value.is_integer() else value
    return value


def disk_bytes(root: Path) -> tuple[int, int]:
    """Return how many files there are, and the bytes they take on the disk."""
    sizes = [512 * path.stat().st_blocks for path in root.rglob("*") if path.is_file()]
    return len(sizes), sum(sizes)


def drop_cached(root: Path) -> None:
    """Drop the files of an index from the page cache, written out before."""
    for path in root.rglob("*"):
        if path.is_file():
            handle = os.open(path, os.O_RDONLY)
            os.fsync(handle)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(handle)


def memory() -> dict[str, int]:
    """Return the resident memory of this process in bytes.

    `rss`, all of it; `private`, what it alone has written (anonymous memory); `pss`, where what is
    shared counts in parts: the sum over all processes is what they take together, files in the page
    cache included. Without `/proc/self/smaps_rollup` there is `rss` and `peak` only.
    """
    status = _kilobytes(Path("/proc/self/status"))
    found = {"rss": status["VmRSS"], "peak": status["VmHWM"]}
    try:
        rollup = _kilobytes(Path("/proc/self/smaps_rollup"))
    except OSError:
        return found
    return found | {"pss": rollup["Pss"], "private": rollup["Anonymous"]}


def mapped(root: Path) -> int:
    """Return how many bytes of the files of an index this process has in memory, mapped."""
    found, is_ours = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        word = line.split(maxsplit=1)[0]
        if not word.endswith(":"):  # the head of a mapping: addresses, and the path at its end
            is_ours = str(root) in line
        elif is_ours and word == "Rss:":
            found += int(line.split()[1]) << 10
    return found


def _kilobytes(path: Path) -> dict[str, int]:
    lines = [line.split() for line in path.read_text().splitlines()]
    return {line[0].rstrip(":"): int(line[1]) << 10 for line in lines if line[-1] == "kB"}


def cpu_name() -> str:
    """Return what the processor calls itself."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":")[1].strip()
    return platform.machine()


def read_csv(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV with a head."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write_csv(path: Path, rows: list[Row]) -> None:
    """Write rows; the columns are those of all of them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = list(dict.fromkeys(column for row in rows for column in row))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
