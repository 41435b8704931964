"""``nearsearch compact``: one shard instead of many, with the index that makes searches fast."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse


def register(commands: Any) -> None:
    """Add the subcommand to the parser."""
    parser = commands.add_parser(
        "compact",
        help="merge the shards of an index, so that searches are fastest",
        description="Merge all shards of an index into one, drop what was replaced, and build the "
        "band index that searches of 65,536 codes and more use. What the index answers does not "
        "change, and searches go on meanwhile. Damage is copied unseen: run `nearsearch verify` "
        "first where there is doubt. The disk needs room for a second copy; the old files stay "
        "until eight more commits were made.",
    )
    parser.add_argument("index", metavar="INDEX", help="the index directory")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Compact the index and say what became of it."""
    from nearsearch import Index, Writer
    from nearsearch.cli.output import talk

    start = time.monotonic()
    console = talk()
    with Writer.open(options.index) as writer:
        before, n_before = writer.generation, writer.n_shards
        if console.is_terminal:
            with console.status("compacting"):
                writer.compact()
        else:
            writer.compact()
        after, n_after = writer.generation, writer.n_shards
    with Index.open(options.index) as index:
        n_items = index.stats()["items"]
    seconds = time.monotonic() - start
    if options.json:
        facts = {
            "generation": after,
            "shards_before": n_before,
            "shards": n_after,
            "items": n_items,
            "seconds": round(seconds, 3),
        }
        sys.stdout.write(json.dumps(facts) + "\n")
    elif after == before:
        sys.stdout.write(f"nothing to do: generation {after}, {n_items:,} items\n")
    else:
        what = (
            "1 shard written anew" if n_before == 1 else f"{n_before:,} shards became {n_after:,}"
        )
        sys.stdout.write(f"{what}: generation {after}, {n_items:,} items, {seconds:.1f} s\n")
    return 0
