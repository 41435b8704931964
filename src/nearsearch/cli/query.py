"""``nearsearch query``: ask an index with pictures or codes."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from nearsearch.cli import limits
from nearsearch.cli.output import GROUP_COLUMNS, HIT_COLUMNS, HitPrinter
from nearsearch.errors import UsageError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    import pyarrow as pa

    from nearsearch import Index, Matches, WorkerPool

_FILES_A_CALL: Final = 64  # hashed before their hits are printed; fewer if
_BYTES_A_CALL: Final = 64 << 20  # they are longer, as films are


def register(commands: Any) -> None:
    """Add the subcommand to the parser."""
    parser = commands.add_parser(
        "query",
        help="ask an index what is similar to a picture",
        description="Print every known file that has the digest of a query (match: exact), then "
        "every known picture within the radius (near): nothing is left out; of films, the segments "
        "that are known. Near matches are leads: a person must confirm them.",
        epilog="In CSV, text that a spreadsheet would take for a formula gets a leading "
        "apostrophe; the other formats give it as it is. "
        "exit status: 0 found, 1 nothing found, 2 error or a query file that failed and was not "
        "found by its digest either",
    )
    parser.add_argument("index", metavar="INDEX", help="the index directory")
    parser.add_argument(
        "files", metavar="FILE", nargs="*", help="pictures and films; - for paths on standard input"
    )
    parser.add_argument(
        "--code", metavar="HEX", action="append", default=[], help="a code to ask with; repeatable"
    )
    parser.add_argument(
        "--digest",
        metavar="HEX",
        action="append",
        default=[],
        help="an MD5, SHA-1 or SHA-256 to look up; repeatable",
    )
    parser.add_argument(
        "--radius",
        metavar="R",
        type=int,
        help="largest distance in bits; default: 31 for pdq, 40 for wdct",
    )
    parser.add_argument(
        "--spec", metavar="S", help="spec to compare; default: of pictures all, of codes the first"
    )
    parser.add_argument(
        "--with-common",
        action="store_true",
        help="also near matches of codes that more than 100 pictures share",
    )
    parser.add_argument(
        "--variants",
        choices=("none", "fast", "thorough"),
        default="fast",
        help="views of each picture to ask with: fast (default): the eight orientations, what is "
        "inside a border, a zoom; thorough: also zooms, rotations and moves",
    )
    parser.add_argument(
        "--where", metavar="EXPR", help="""filter, for instance 'contribution == "NL-0042"'"""
    )
    parser.add_argument("--limit", metavar="K", type=int, help="at most K nearest for each query")
    parser.add_argument(
        "--min-quality", metavar="Q", type=int, help="0..100; below it nothing matches; default 50"
    )
    parser.add_argument(
        "--by",
        choices=("contribution",),
        help="one line for each contribution: nearest distance, number of matching pictures "
        "(of those that --limit leaves)",
    )
    parser.add_argument(
        "--generation", metavar="N", type=int, help="ask an earlier generation that is kept"
    )
    parser.add_argument(
        "--format", choices=HitPrinter.FORMATS, default="table", help="default: table"
    )
    limits.add_options(parser, interval="0.25")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Answer all queries and print the hits."""
    if not (options.files or options.code or options.digest):
        raise UsageError("nothing to ask: name a picture, -, --code HEX or --digest HEX")
    if options.format == "arrow" and sys.stdout.isatty():
        raise UsageError("--format arrow is binary: send it to a file or a program")
    if not options.files:
        return _ask(options, None)
    from nearsearch import WorkerPool

    with WorkerPool(limits=limits.limits_of(options)) as pool:
        pool.start(1)  # comes up while the libraries load here
        return _ask(options, pool)


def _ask(options: argparse.Namespace, pool: WorkerPool | None) -> int:
    import pyarrow.compute as pc

    from nearsearch import Index

    columns = GROUP_COLUMNS if options.by else HIT_COLUMNS
    printer = HitPrinter(options.format, at_once="-" in options.files, columns=columns)
    tally = _Tally()
    with Index.open(options.index, generation=options.generation) as index:
        try:
            for matches in _answers(index, options, pool):
                hits = matches.by_contribution() if options.by else matches.segments(options.limit)
                before = tally.queries
                tally.add(matches, hits)
                number = hits.column_names.index("query_index")
                through = pc.add(hits["query_index"], before)  # of all calls together
                hits = hits.set_column(number, "query_index", through)
                printer.print(hits)
                if "-" in options.files:
                    tally.tell()
            if tally.queries == 0:  # an empty table has columns too
                none = index.search([], spec=options.spec)
                printer.print(none.by_contribution() if options.by else none.segments())
        finally:
            printer.close()
    if "-" not in options.files:
        tally.tell()
    return 2 if tally.failed else 0 if tally.found else 1


def _answers(
    index: Index, options: argparse.Namespace, pool: WorkerPool | None
) -> Iterator[Matches]:
    asked = {
        "radius": options.radius,
        "spec": options.spec,
        "where": options.where,
        "limit": options.limit,
        "min_quality": options.min_quality,
        "with_common": options.with_common,
    }
    asked_of_files = {
        **asked,
        # Of films segments are counted, not frames.
        "limit": options.limit if options.by else None,
        "variants": options.variants,
        "sampling": limits.sampling_of(options),
        "pool": pool,
    }
    if options.digest:
        yield index.lookup(options.digest, where=options.where, limit=options.limit)
    if options.code:
        yield index.search(options.code, **asked)
    for path in options.files:
        if path == "-":
            for line in sys.stdin.buffer:
                if name := line.rstrip(b"\r\n"):
                    yield index.query([name], **asked_of_files)
    for paths in _calls([path for path in options.files if path != "-"]):
        yield index.query(paths, **asked_of_files)


def _calls(paths: list[str]) -> Iterator[list[str]]:
    """Share files out so that hits are printed soon, and processes seldom wait for another."""
    fewest, call, size = 4 * len(os.sched_getaffinity(0)), list[str](), 0
    for path in paths:
        call.append(path)
        with suppress(OSError, ValueError):  # what cannot be read is told when it is
            size += Path(path).stat().st_size
        if len(call) == _FILES_A_CALL or (len(call) >= fewest and size > _BYTES_A_CALL):
            yield call
            call, size = [], 0
    if call:
        yield call


def _count(hits: pa.Table) -> int:
    """Return how many matches or segments the rows of members are of."""
    of_one = ["query_index", "item_id", "query_time_ms", "time_ms", "view"]
    return len(hits.group_by(of_one).aggregate([]))


class _Tally:
    """Counts what came of the queries, and says so on standard error."""

    def __init__(self) -> None:
        self.found = self.failed = self.queries = 0
        self._matches = self._members = 0
        self._made_on = ""

    def add(self, matches: Matches, hits: pa.Table) -> None:
        """Count the answers of one call, and name the files that could not be asked."""
        import numpy as np
        import pyarrow.compute as pc

        from nearsearch.cli.output import printable, talk

        has_matches = matches.offsets[1:] > matches.offsets[:-1]
        is_found = np.zeros(len(matches.queries), np.bool_)
        is_found[hits["query_index"].to_numpy()] = True
        for name in np.array(matches.queries, object)[has_matches & ~is_found]:
            talk().print(f"frames of {printable(name)} look like known ones, but make no segment")
        found = {name for name, is_in in zip(matches.queries, is_found, strict=True) if is_in}
        for failure in matches.failures:
            word, how = failure.status, ""
            if failure.stage == "quality":
                word = "not asked"
            elif word == "damaged":
                word = "damaged, asked with what is left"
            elif word == "failed" and failure.key in found:  # it has no code: not by another way
                how = " (found by digest)"
            elif word == "failed":
                self.failed += 1
            talk().print(f"{word}: {printable(failure.key)}: {printable(failure.reason)}{how}")
        self.found += int(is_found.sum())
        self.queries += len(matches.queries)
        is_grouped = "members" in hits.column_names
        self._members += (pc.sum(hits["members"]).as_py() or 0) if is_grouped else len(hits)
        self._matches += len(matches) if is_grouped else _count(hits)
        for name, count in zip(matches.queries, matches.held_out, strict=True):
            if count:
                talk().print(
                    f"held out: {count:,} near {printable(name)}, of codes that more than 100 "
                    f"share, as blank frames do; --with-common shows them"
                )
        specs = ", ".join(spec.name for spec in matches.specs) or "digests"
        self._made_on = f"{specs}, generation {matches.generation}"

    def tell(self) -> None:
        """Print the counts so far."""
        from nearsearch.cli.output import talk

        talk().print(
            f"{self._matches:,} matches ({self._members:,} members) for {self.found:,} of "
            f"{self.queries:,} queries ({self._made_on})"
        )
