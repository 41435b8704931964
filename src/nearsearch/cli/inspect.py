"""``nearsearch info`` and ``nearsearch verify``: what an index holds, and whether it is sound."""

from __future__ import annotations

import json
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse

    import pyarrow as pa


def register(commands: Any) -> None:
    """Add the subcommands to the parser."""
    info = commands.add_parser(
        "info", help="show what an index holds", description="Show what an index holds."
    )
    info.add_argument("index", metavar="INDEX", help="the index directory")
    info.add_argument(
        "--failures",
        action="store_true",
        help="list the files that failed, or were hashed in part, instead",
    )
    info.add_argument(
        "--skipped", action="store_true", help="list the files that were skipped, instead"
    )
    info.add_argument("--json", action="store_true", help="print JSON; of lists a line each")
    info.set_defaults(run=run_info)
    verify = commands.add_parser(
        "verify",
        help="check every byte of an index",
        description="Read every file of an index, compare it with its checksum, and check that "
        "the tables fit together. Nothing is changed.",
        epilog="exit status: 0 all is well, 2 something is damaged",
    )
    verify.add_argument("index", metavar="INDEX", help="the index directory")
    verify.add_argument("--json", action="store_true", help="print one JSON object")
    verify.set_defaults(run=run_verify)


def run_info(options: argparse.Namespace) -> int:
    """Print counts, specs and columns."""
    from nearsearch import Index
    from nearsearch.cli.output import print_table

    with Index.open(options.index) as index:
        if options.failures or options.skipped:
            return _list_failures(options, index.failures())
        stats = index.stats()
    if options.json:
        sys.stdout.write(json.dumps(stats) + "\n")
        return 0
    facts = [
        (name, f"{value:,}" if isinstance(value, int) else value)
        for name, value in stats.items()
        if name not in ("specs", "columns")
    ]
    print_table(("fact", "value"), facts)
    names = ("codes", "rows", "featureless_rows", "default_radius", "version", "profile")
    print_table(
        ("spec", *names),
        [(spec, *(facts[name] for name in names)) for spec, facts in stats["specs"].items()],
        names[:4],
    )
    print_table(("column", "type"), stats["columns"].items())
    return 0


def _list_failures(options: argparse.Namespace, failures: pa.Table) -> int:
    """Print the files that are asked for, one a line."""
    from nearsearch.cli.output import plain, print_table, talk

    wanted = [status for status in ("failed", "damaged") if options.failures]
    wanted += ["skipped"] if options.skipped else []
    rows = [row for row in failures.to_pylist() if row["status"] in wanted]
    if options.json:
        sys.stdout.writelines(json.dumps(row, default=plain) + "\n" for row in rows)
        return 0
    names = ("status", "key", "stage", "reason", "contribution", "source", "size")
    if rows:
        print_table(names, [[row[name] for name in names] for row in rows], ("size",))
    counts = Counter(row["status"] for row in rows)
    text = ", ".join(f"{counts[status]:,} {status}" for status in wanted)
    hint = "; nearsearch add --retry-failures reads again what failed" if counts["failed"] else ""
    talk().print(f"{text}{hint}")
    return 0


def run_verify(options: argparse.Namespace) -> int:
    """Check the index and print what is damaged."""
    from rich.progress import Progress

    from nearsearch import verify
    from nearsearch.cli.output import printable, talk

    console = talk()
    with Progress(console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task("verifying", total=None)
        damage = verify(
            options.index,
            on_progress=lambda done, total: progress.update(task, completed=done, total=total),
        )
    if options.json:
        found = [entry._asdict() for entry in damage]
        sys.stdout.write(json.dumps({"sound": not damage, "damage": found}) + "\n")
        return 2 if damage else 0
    for entry in damage:
        print_line = f"{entry.path}: {entry.problem} (costs {entry.costs})"
        sys.stdout.write(printable(print_line) + "\n")
    if damage:
        is_derived = all("nearsearch compact" in entry.costs for entry in damage)
        remedy = (
            f"nearsearch compact {options.index}"
            if is_derived
            else "restore from a copy, or nearsearch repair"
        )
        console.print(f"{len(damage):,} problems: {printable(remedy)}")
        return 2
    sys.stdout.write("sound: every file is as it was written\n")
    return 0
