"""``nearsearch compact``, ``merge`` and ``repair``: the shards of an index, made into others."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nearsearch.cli.writing import add_options, busy, open_writer, summarise, tell_of_wait

if TYPE_CHECKING:
    import argparse


def register(commands: Any) -> None:
    """Add the subcommands to the parser."""
    compact = commands.add_parser(
        "compact",
        help="merge the shards of an index, so that searches are fastest",
        description="Merge all shards of an index into one, drop what was removed, and build the "
        "band index that searches of 65,536 codes and more use. What the index answers does not "
        "change, and searches go on meanwhile. Commits do the same for small shards by themselves. "
        "Every byte is compared with its checksum before it is copied. The disk needs room for a "
        "second copy; the old files stay until eight more commits were made.",
    )
    compact.add_argument("index", metavar="INDEX", help="the index directory")
    add_options(compact)
    compact.set_defaults(run=run_compact)
    merge = commands.add_parser(
        "merge",
        help="take in everything that other indexes hold",
        description="Take in everything that other indexes hold, without reading a picture again. "
        "INTO is created when absent. The others are only read. Of two different files with the "
        "same contribution and key the one that was added later stays, and examples are named: "
        "give each case or agency contributions of its own. The order does not matter, and merging "
        "again changes nothing. What is disabled in any of them is disabled.",
    )
    merge.add_argument("index", metavar="INTO", help="the index that grows")
    merge.add_argument("others", metavar="FROM", nargs="+", help="indexes of the same specs")
    add_options(merge)
    merge.set_defaults(run=run_merge)
    repair = commands.add_parser(
        "repair",
        help="make a working index of what is whole in a damaged one",
        description="Read every file of an index; make a new generation of the shards that are "
        "whole, and list what is lost. What cannot be made anew is not deleted: it is moved to the "
        "folder damaged/ in the index. Earlier generations that are whole are kept: `nearsearch "
        "log`, then `nearsearch rollback`, may bring back more.",
        epilog="exit status: 0 nothing was lost, 1 something was, 2 error",
    )
    repair.add_argument("index", metavar="INDEX", help="the index directory")
    add_options(repair)
    repair.set_defaults(run=run_repair)


def run_compact(options: argparse.Namespace) -> int:
    """Compact the index and say what became of it."""
    from nearsearch import Index

    start = time.monotonic()
    with open_writer(options) as writer, busy("compacting"):
        before, n_before = writer.generation, writer.n_shards
        after = writer.compact()
        n_after = writer.n_shards
    with Index.open(options.index) as index:
        n_items = index.stats()["items"]
    seconds = time.monotonic() - start
    facts = {
        "generation": after,
        "shards_before": n_before,
        "shards": n_after,
        "items": n_items,
        "seconds": round(seconds, 3),
    }
    if after == before:
        text = f"nothing to do: generation {after}, {n_items:,} items"
    else:
        what = (
            "1 shard written anew" if n_before == 1 else f"{n_before:,} shards became {n_after:,}"
        )
        text = f"{what}: generation {after}, {n_items:,} items, {seconds:.1f} s"
    summarise(options, facts, text)
    return 0


def run_merge(options: argparse.Namespace) -> int:
    """Merge all of the others in one commit."""
    from nearsearch import Index
    from nearsearch.cli.output import printable, talk

    specs = None
    if not (Path(options.index) / "CURRENT").exists():
        with Index.open(options.others[0]) as first:
            specs = first.specs
    reports = {}
    with open_writer(options, create=True, specs=specs) as writer, busy("merging"):
        for other in options.others:
            reports[other] = writer.merge(other)
        generation = writer.commit()
    lines = []
    for other, report in reports.items():
        lines.append(
            f"{other}: {report.added:,} members added, {report.replaced:,} replaced older ones, "
            f"{report.left_out:,} left out for newer ones, {report.unchanged:,} unchanged"
        )
        for contribution, key in report.examples:
            talk().print(printable(f"the later one stays: {key} in contribution {contribution!r}"))
    if not options.json:
        sys.stdout.writelines(printable(line) + "\n" for line in lines[:-1])
    merged = [{"from": other, **report._asdict()} for other, report in reports.items()]
    facts = {"merged": merged, "generation": generation}
    summarise(options, facts, f"{lines[-1]} (generation {generation})")
    return 0


def run_repair(options: argparse.Namespace) -> int:
    """Repair the index and list what was wrong."""
    from nearsearch import repair
    from nearsearch.cli.output import printable, talk

    with busy("reading every file"):
        done = repair(options.index, author=options.author, wait=options.wait, on_wait=tell_of_wait)
    is_lossless = not (done.lost_items or done.lost_members or done.returned_members)
    if options.json:
        facts = done._asdict() | {"damage": [entry._asdict() for entry in done.damage]}
        sys.stdout.write(json.dumps(facts) + "\n")
        return 0 if is_lossless else 1
    for entry in done.damage:
        line = f"{entry.path}: {entry.problem} (costs {entry.costs})"
        sys.stdout.write(printable(line) + "\n")
    if not done.damage:
        sys.stdout.write(f"nothing to repair: generation {done.generation}\n")
        return 0
    if done.moved:
        talk().print(f"put aside, not deleted: {printable(', '.join(done.moved))}")
    lost = f"{done.lost_items:,} items and {done.lost_members:,} members are lost"
    if done.returned_members:
        lost += f", {done.returned_members:,} that had been removed are back"
    sys.stdout.write(f"repaired: {lost} (generation {done.generation})\n")
    return 0 if is_lossless else 1
