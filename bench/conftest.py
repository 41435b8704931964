"""What the benches share: the interleaved comparison with a rival, and the table at the end.

Nothing here fails because of a time. Benches assert answers; times are printed for a reader.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import faiss
import numpy as np
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

ENOUGH_FOR_P99 = 100  # rounds; below this the 99th percentile is one outlier

_ROWS = pytest.StashKey[list["Row"]]()


@dataclass(frozen=True)
class Row:
    """One line of the table; times in seconds."""

    name: str
    ours: np.ndarray
    rival: np.ndarray | None
    rival_name: str
    note: str

    @property
    def ratio(self) -> float | None:
        """Median of the rival over our median: above 1 we are faster."""
        if self.rival is None:
            return None
        return float(np.median(self.rival) / np.median(self.ours))

    @property
    def spread(self) -> tuple[float, float] | None:
        """Quartiles of the ratio round by round: how far the noise of this run reaches."""
        if self.rival is None:
            return None
        low, high = np.percentile(self.rival / self.ours, [25, 75])
        return float(low), float(high)


class Bench:
    """Measures our side by pytest-benchmark and a rival between its rounds."""

    def __init__(self, benchmark: Any, rows: list[Row], name: str) -> None:
        self._benchmark, self._rows, self._name = benchmark, rows, name

    def __call__(
        self,
        ours: Callable[[int], object],
        *,
        rounds: int,
        rival: Callable[[int], object] | None = None,
        rival_name: str = "",
        prepare: Callable[[int], object] | None = None,
        note: Callable[[float], str] = lambda _: "",
        warm: bool = True,
    ) -> tuple[list[Any], list[Any]]:
        """Run both sides in turn and return what they answered, round by round.

        Every round calls ``prepare(i)`` (untimed), ``rival(i)``, then ``ours(i)``, so noise that
        lasts longer than a round hits both; if `warm`, one untimed call of each goes before.
        `note` turns our median in seconds into a remark. All answers are kept until the test ends.
        """
        times: list[float] = []
        answers: list[Any] = []
        rival_answers: list[Any] = []
        prepare = prepare or (lambda _: None)

        def setup() -> tuple[tuple[int], dict[str, object]]:
            turn = len(answers)
            prepare(turn)
            if rival is not None:
                start = time.perf_counter()
                rival_answers.append(rival(turn))
                times.append(time.perf_counter() - start)
            return (turn,), {}

        def timed(turn: int) -> None:
            answers.append(ours(turn))

        if warm:
            prepare(0)
            if rival is not None:
                rival(0)
            ours(0)
        self._benchmark.pedantic(timed, setup=setup, rounds=rounds, iterations=1)
        if not self._benchmark.disabled:
            measured = np.array(self._benchmark.stats.stats.data)
            row = Row(
                self._name,
                measured,
                np.array(times[: len(measured)]) if rival else None,
                rival_name,
                note(float(np.median(measured))),
            )
            self._rows.append(row)
            self._record(row)
        return answers, rival_answers

    def _record(self, row: Row) -> None:
        extra = self._benchmark.extra_info
        extra["p50_ms"], extra["p99_ms"] = _percentiles(row.ours)
        extra["load_1min"] = os.getloadavg()[0]
        extra["faiss_threads"] = faiss.omp_get_max_threads()
        if row.note:
            extra["note"] = row.note
        if row.rival is not None:
            extra["rival"] = row.rival_name
            extra["rival_p50_ms"], extra["rival_p99_ms"] = _percentiles(row.rival)
            extra["ratio"] = row.ratio
            extra["ratio_quartiles"] = row.spread


def _percentiles(times: np.ndarray) -> tuple[float, float | None]:
    """Return p50 and p99 in milliseconds; no p99 of too few rounds."""
    p99 = 1e3 * float(np.percentile(times, 99)) if len(times) >= ENOUGH_FOR_P99 else None
    return 1e3 * float(np.median(times)), p99


# --- pytest -----------------------------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--large", action="store_true", help="also search 10 M codes: minutes, and 4 GB of memory"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_ROWS] = []


@pytest.fixture
def bench(benchmark: Any, request: pytest.FixtureRequest) -> Bench:
    """The comparison of one test."""
    name = request.node.name.removeprefix("test_")
    return Bench(benchmark, request.config.stash[_ROWS], name)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    rows = config.stash[_ROWS]
    if not rows:
        return
    write = terminalreporter.write_line
    terminalreporter.section("ours against rivals (milliseconds; ratio = rival / ours, medians)")
    load = ", ".join(f"{value:.2f}" for value in os.getloadavg())
    write(f"{os.cpu_count()} cores, load {load}; FAISS uses {faiss.omp_get_max_threads()} threads")
    heads = ("bench", "p50", "p99", "rival p50", "rival p99", "ratio", "quartiles", "n", "")
    table = [heads, *(_cells(row) for row in rows)]
    widths = [max(len(cell) for cell in column) for column in zip(*table, strict=True)]
    for cells in table:
        first, *middle, last = cells
        aligned = [cell.rjust(width) for cell, width in zip(middle, widths[1:-1], strict=True)]
        write("  ".join([first.ljust(widths[0]), *aligned, last]).rstrip())


def _cells(row: Row) -> tuple[str, ...]:
    rival = (None, None) if row.rival is None else _percentiles(row.rival)
    times = [_milliseconds(value) for value in (*_percentiles(row.ours), *rival)]
    ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
    spread = "" if row.spread is None else "{:.2f}..{:.2f}".format(*row.spread)
    remark = ", ".join(text for text in (row.rival_name, row.note) if text)
    return row.name, *times, ratio, spread, str(len(row.ours)), remark


def _milliseconds(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if value < 100 else f"{value:,.0f}"
