"""``nearsearch contributions`` and ``nearsearch log``: who gave what, and who did what."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any, Final

from nearsearch.checks import whole

if TYPE_CHECKING:
    import argparse

_COUNTS: Final = ("items", "members", "failed", "skipped")
_COLUMNS: Final = ("contribution", "sources", *_COUNTS, "first_added", "last_added")


def register(commands: Any) -> None:
    """Add the subcommands to the parser."""
    contributions = commands.add_parser(
        "contributions",
        help="list the groups of linked files",
        description="List all contributions with their sources, the number of distinct pictures "
        "(items) and of their appearances (members), and when the first and the last was added.",
    )
    contributions.add_argument("index", metavar="INDEX", help="the index directory")
    contributions.add_argument("--json", action="store_true", help="print one JSON object")
    contributions.set_defaults(run=run_contributions)
    log = commands.add_parser(
        "log",
        help="list the commits of an index",
        description="List the commits of an index, newest first: when, who, what, and how many "
        "members. Those marked as kept can be opened and gone back to.",
    )
    log.add_argument("index", metavar="INDEX", help="the index directory")
    log.add_argument("--limit", metavar="K", type=int, help="at most K commits")
    log.add_argument("--json", action="store_true", help="print one JSON object")
    log.set_defaults(run=run_log)


def run_contributions(options: argparse.Namespace) -> int:
    """Print one line for each contribution."""
    from nearsearch import Index
    from nearsearch.cli.output import plain, print_table

    with Index.open(options.index) as index:
        rows = index.contributions().to_pylist()
        generation = index.generation
    if options.json:
        facts = {"generation": generation, "contributions": rows}
        sys.stdout.write(json.dumps(facts, default=plain) + "\n")
        return 0
    table = [
        (
            row["contribution"] or "(none)",
            ", ".join(row["sources"]),
            *(f"{row[name]:,}" for name in _COUNTS),
            *(f"{row[name]:%Y-%m-%d %H:%M}" for name in _COLUMNS[-2:]),
            "disabled" if row["disabled"] else "",
        )
        for row in rows
    ]
    names = (*(name.replace("_", " ") for name in _COLUMNS), "state")
    print_table(names, table, _COUNTS)
    return 0


def run_log(options: argparse.Namespace) -> int:
    """Print one line for each commit."""
    from nearsearch import Index
    from nearsearch.cli.output import print_table

    with Index.open(options.index) as index:
        commits, kept = index.log()[::-1], set(index.kept_generations())
    if options.limit is not None:
        commits = commits[: whole("--limit", options.limit, 1, 1 << 62)]
    if options.json:
        entries = [{**c.to_json(), "kept": c.generation in kept} for c in commits]
        sys.stdout.write(json.dumps({"commits": entries}) + "\n")
        return 0
    rows = []
    for commit in commits:
        changes = [
            f"{count:,} {word}"
            for word in ("added", "replaced", "removed")
            if (count := getattr(commit, word))
        ]
        rows.append(
            (
                commit.generation,
                commit.time.replace("T", " ").removesuffix("+00:00"),
                commit.author,
                ", ".join(commit.actions),
                ", ".join(changes),
                f"{commit.members:,}",
                ", ".join(commit.contributions),
                commit.remark,
                "kept" if commit.generation in kept else "",
            )
        )
    names = ("generation", "time (UTC)", "author", "what", "changes", "members", "contributions")
    print_table((*names, "remark", "state"), rows, ("generation", "members"))
    return 0
