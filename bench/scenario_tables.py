"""The summary and the plot of `bench/scenario.py`, made from its CSV files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from ingest_tables import table
from measures import read_csv, shown

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    Row = dict[str, Any]

KINDS: Final = {
    "single": "one code",
    "orientations": "the eight codes of a picture",
    "newest": "what was committed last, by the watchers",
    "contribution": "all files of a contribution",
}
TARGET: Final = "p50 <= 2 ms, p99 <= 10 ms"
FOUND_TARGET: Final = 1000.0  # ms from the return of a commit


def waits(rows: list[dict[str, str]]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the milliseconds of each query: refresh and search, and the table of matches too."""
    names = ("refresh_ms", "search_ms", "table_ms")
    parts = np.array([[float(row[name]) for name in names] for row in rows])
    return parts[:, :2].sum(axis=1), parts.sum(axis=1)


def latencies(queries: list[dict[str, str]]) -> list[Row]:
    """Return a row for each kind of query and phase: quantiles, of which part, counts."""
    rows = []
    for kind, title in KINDS.items():
        for phase in ("quiet", "writing"):
            part = [row for row in queries if (row["kind"], row["phase"]) == (kind, phase)]
            if not part:
                continue
            answered, whole = waits(part)
            p50, p99, most = np.quantile(answered, [0.5, 0.99, 1])
            with_table = np.quantile(whole, [0.5, 0.99])
            refreshed = np.median([float(row["refresh_ms"]) for row in part])
            alone = np.quantile([float(row["search_ms"]) for row in part], [0.5, 0.99])
            codes = np.array([float(row["codes"]) for row in part])
            rows.append(
                {
                    "asked with": title,
                    "phase": phase,
                    "queries": len(part),
                    "p50, ms": shown(p50),
                    "p99, ms": shown(p99),
                    "max, ms": shown(most),
                    "of it refresh, p50": shown(refreshed),
                    "search alone, p50": shown(alone[0]),
                    "search alone, p99": shown(alone[1]),
                    "with table, p50": shown(with_table[0]),
                    "with table, p99": shown(with_table[1]),
                    "codes, median": shown(float(np.median(codes))),
                    "us a code": shown(1e3 * answered.sum() / codes.sum()),
                    "wrong": sum(int(row["wrong"]) for row in part),
                    "target": TARGET if (kind, phase) == ("single", "writing") else "",
                }
            )
    return rows


def commit_times(commits: list[dict[str, str]]) -> list[Row]:
    """Return quantiles of the times of commits, and of the waits until something was found."""
    names = {
        "add_ms": ("add_codes", ""),
        "commit_ms": ("commit, durable", ""),
        "found_after_ms": ("from its return until all watchers found it", "max <= 1000 ms"),
    }
    rows = []
    for name, (title, target) in names.items():
        values = [float(row[name]) for row in commits if row[name]]
        if values:
            p50, p99, most = np.quantile(values, [0.5, 0.99, 1])
            numbers = {"p50, ms": shown(p50), "p99, ms": shown(p99), "max, ms": shown(most)}
            rows.append({"of a commit": title, "commits": len(values), **numbers, "target": target})
    return rows


def verdicts(queries: list[Row], commits: list[Row], figures: list[dict[str, str]]) -> list[str]:
    """Return a line for each target: met or not."""
    lines = []
    for row in queries:
        if row["target"]:
            what = f"one code while the writer runs, {row['target']}"
            parts = {
                "search alone": "search alone, {}",
                "refresh and search": "{}, ms",
                "with the table": "with table, {}",
            }
            for part, name in parts.items():
                p50, p99 = (row[name.format(end)] for end in ("p50", "p99"))
                met = p50 <= 2 and p99 <= 10
                lines.append((f"{what}; {part}: {p50} and {p99} ms", met))
    for row in commits:
        if row["target"]:
            met = row["max, ms"] <= FOUND_TARGET
            lines.append((f"new items are found, {row['target']}: {row['max, ms']} ms", met))
    failed = [row["figure"] for row in figures if row["target"] == "0" and row["value"] != "0"]
    wrong = ", ".join(failed)
    lines.append(("nothing wrong, nothing failed" + (f": {wrong}" if wrong else ""), not failed))
    return [f"- {'met' if met else '**not met**'}: {text}\n" for text, met in lines]


def write(folder: Path) -> str:
    """Write `scenario.md` and, with matplotlib, `scenario.svg`; return the text."""
    queries = read_csv(folder / "scenario-queries.csv")
    commits = read_csv(folder / "scenario-commits.csv")
    figures = read_csv(folder / "scenario-figures.csv")
    asked, committed = latencies(queries), commit_times(commits)
    facts = [{name: row[name] for name in ("figure", "value", "unit", "target")} for row in figures]
    text = "\n".join(
        [
            "# Many ask while one writes\n",
            "".join(verdicts(asked, committed, figures)),
            "Times inside the library, as a caller waits for them: refresh and search; with the "
            "table: and `to_arrow`, the matches as rows with keys and contributions.\n",
            table(asked),
            table(committed) if committed else "",
            table(facts),
        ]
    )
    (folder / "scenario.md").write_text(text)
    draw(folder / "scenario.svg", queries, commits)
    return text


def draw(path: Path, queries: list[dict[str, str]], commits: list[dict[str, str]]) -> None:
    """Draw each single query and commit over time; without matplotlib nothing."""
    try:
        import matplotlib as mpl
    except ImportError:
        return
    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "nearsearch"
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 4.2))
    for kind, color in (("single", "C0"), ("orientations", "C2"), ("contribution", "C1")):
        part = [row for row in queries if row["kind"] == kind]
        if not part:
            continue
        times = [float(row["at_s"]) for row in part]
        many = len(part) > 5000  # as a picture: thousands of dots make a large file
        look = {"color": color, "ms": 2.5, "label": KINDS[kind], "rasterized": many}
        axes.plot(times, waits(part)[0], ".", **look)
    times = (
        [float(row["at_s"]) for row in commits],
        [float(row["commit_ms"]) for row in commits],
    )
    axes.plot(*times, "|", color="C3", ms=5, label="commit")
    axes.set(yscale="log", xlabel="seconds", ylabel="milliseconds")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8, ncols=4, loc="upper center", bbox_to_anchor=(0.5, 1.12))
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
