"""Printing: tables for people, lines for machines, and nothing a hostile file name can abuse."""

from __future__ import annotations

import csv
import io
import json
import math
import sys
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import pyarrow as pa
    from rich.console import Console

HIT_COLUMNS: Final = (
    "query",
    "query_time_ms",
    "query_end_ms",
    "match",
    "distance",
    "expected_false",
    "key",
    "variant",
    "view",
    "time_ms",
    "end_ms",
    "frames",
    "query_share",
    "item_share",
    "spec",
    "contribution",
    "source",
)
"""What a table of hits shows; the other formats have every column."""

_PLAIN: Final = {
    "variant": (("variant",), (None, "", "image", "frame")),
    "view": (("view",), (None, "", "image", "frame")),
    "query_time_ms": (("query_time_ms", "query_end_ms"), (None,)),
    "time_ms": (("time_ms",), (None,)),
    "end_ms": (("end_ms",), (None,)),
    "frames": (("frames", "query_share", "item_share"), (None,)),
    "expected_false": (("expected_false",), (None, 0)),
}
"""Columns that are left out where all of one have no more to say than this."""

_SHORT: Final = {
    "expected_false": "chance",
    "query_time_ms": "from",
    "query_end_ms": "to",
    "time_ms": "at",
    "end_ms": "until",
    "query_share": "of query",
    "item_share": "of known",
}
"""Headings that are shorter than the names of their columns."""

GROUP_COLUMNS: Final = ("query", "contribution", "match", "distance", "items", "members", "key")
"""What a table of hits by contribution shows."""

_TIMES: Final = ("query_time_ms", "query_end_ms", "time_ms", "end_ms")
_SHARES: Final = ("query_share", "item_share")
_NUMBERS: Final = (
    *(*_TIMES, *_SHARES),
    *("distance", "expected_false", "frames", "quality", "items", "members"),
)
_FORMULA_STARTS: Final = ("=", "+", "-", "@", "\t", "\r", "\n")


def talk() -> Console:
    """Return the console for progress and remarks, on standard error."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)


def printable(text: str) -> str:
    r"""Return `text` with control characters escaped: a name must not steer the terminal."""
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "replace").decode() for c in text
    )


def print_table(
    names: Sequence[str], rows: Iterable[Sequence[Any]], right: Sequence[str] = ()
) -> None:
    """Print a table on standard output; into a pipe it keeps its full width."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for name in names:
        table.add_column(name, justify="right" if name in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(_text(cell))) for cell in row))
    if sys.stdout.isatty():
        Console(highlight=False).print(table)
        return
    # Not `is_terminal`, which FORCE_COLOR sets. Written by us: rich ends the program with status 1
    # where the reader of a pipe has left.
    text = io.StringIO()
    Console(file=text, width=1 << 30, highlight=False).print(table)
    sys.stdout.write(text.getvalue())


class HitPrinter:
    """Prints tables of hits as they come, in one of `FORMATS`.

    The table for people is one table at the end, unless each answer is wanted `at_once`.
    """

    FORMATS: Final = ("table", "jsonl", "csv", "arrow")

    def __init__(self, form: str, *, at_once: bool, columns: Sequence[str] = HIT_COLUMNS) -> None:
        self._form, self._at_once, self._columns = form, at_once, columns
        self._stream: Any = None
        self._rows: list[dict[str, Any]] = []

    def print(self, hits: pa.Table) -> None:
        """Print the hits of some queries, and let a reader of our pipe have them at once."""
        getattr(self, f"_{self._form}")(hits)
        if self._form != "arrow":
            sys.stdout.flush()

    def close(self) -> None:
        """End the output: print the table, or the end of the Arrow stream."""
        if self._rows:
            hidden = {
                name
                for first, (names, plain) in _PLAIN.items()
                if all(row.get(first) in plain for row in self._rows)
                for name in names
            }
            names = [name for name in self._columns if name not in hidden]
            headings = [_SHORT.get(name, name) for name in names]
            right = [_SHORT.get(name, name) for name in _NUMBERS]
            rows = ([_shown(name, row[name]) for name in names] for row in self._rows)
            print_table(headings, rows, right)
            self._rows = []
        if self._form == "arrow" and self._stream is not None:
            self._stream.close()

    def _table(self, hits: pa.Table) -> None:
        self._rows += hits.select(list(self._columns)).to_pylist()
        if self._at_once:
            self.close()

    def _jsonl(self, hits: pa.Table) -> None:
        for row in hits.to_pylist():
            sys.stdout.write(json.dumps(_finite(row), default=plain) + "\n")

    def _csv(self, hits: pa.Table) -> None:
        if self._stream is None:
            self._stream = csv.writer(sys.stdout)
            self._stream.writerow([cell(name) for name in hits.column_names])
        for row in hits.to_pylist():
            cells = [cell(value) for value in row.values()]
            if sys.stdout.isatty():
                cells = [printable(cell) if isinstance(cell, str) else cell for cell in cells]
            self._stream.writerow(cells)

    def _arrow(self, hits: pa.Table) -> None:
        import pyarrow as pa

        if self._stream is None:
            self._stream = pa.ipc.new_stream(sys.stdout.buffer, hits.schema)
        self._stream.write_table(hits)
        sys.stdout.buffer.flush()


def _finite(value: Any) -> Any:
    """Return `value` with null for NaN and infinities, which JSON does not have."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {name: _finite(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [_finite(entry) for entry in value]
    return value


def plain(value: Any) -> Any:
    """Return what JSON does not have as text."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value)


def _shown(name: str, value: Any) -> Any:
    """Return a value as people read it: times as 0:01:02.5, shares in per cent."""
    if value is None or name not in (*_TIMES, *_SHARES):
        return value
    if name in _SHARES:
        return f"{100 * value:.0f} %"
    seconds = value / 1000
    return f"{int(seconds // 3600)}:{int(seconds // 60) % 60:02}:{seconds % 60:04.1f}"


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.0e}" if 0 < value < 0.01 else f"{value:.2g}"
    return "" if value is None else str(value)


def cell(value: Any) -> Any:
    """Return a CSV cell that a spreadsheet does not take for a formula."""
    if isinstance(value, list):
        value = " ".join(str(entry) for entry in value)
    elif value is not None and not isinstance(value, int | float | str):
        value = plain(value)
    if isinstance(value, str) and value.startswith(_FORMULA_STARTS):
        return "'" + value
    return value
