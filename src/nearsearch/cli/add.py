"""``nearsearch add``: hash pictures and add them to an index."""

from __future__ import annotations

import json
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nearsearch.cli.writing import add_options, open_writer
from nearsearch.errors import UsageError
from nearsearch.spec import spec_names

if TYPE_CHECKING:
    import argparse

    from nearsearch.ingest import IngestReport


def register(commands: Any) -> None:
    """Add the subcommand to the parser."""
    parser = commands.add_parser(
        "add",
        help="hash pictures and add them to an index",
        description="Hash pictures and add them to an index, which is created when absent. "
        "Folders are walked. Every file ends as added, replaced, unchanged, skipped (no picture) "
        "or failed; adding a folder again adds only what is new or has changed.",
        epilog="exit status: 0 all files accounted for without failure, 1 some failed, 2 error",
    )
    parser.add_argument("index", metavar="INDEX", help="the index directory")
    parser.add_argument("paths", metavar="PATH", nargs="+", help="picture files and folders")
    parser.add_argument("--contribution", metavar="NAME", default="", help="group of linked files")
    parser.add_argument("--source", metavar="NAME", default="", help="who the files come from")
    parser.add_argument(
        "--label", metavar="L", action="append", default=[], help="a word on each file; repeatable"
    )
    parser.add_argument(
        "--spec",
        metavar="S",
        action="append",
        help=f"what a new index holds of each picture; repeatable; default pdq; one of "
        f"{', '.join(spec_names())}",
    )
    parser.add_argument(
        "--failures", metavar="FILE", help="write skipped and failed files as JSONL"
    )
    parser.add_argument(
        "--workers", metavar="N", type=int, help="hashing processes; default: cores"
    )
    parser.add_argument(
        "--timeout", metavar="S", type=float, default=60.0, help="seconds one file may take"
    )
    parser.add_argument(
        "--max-pixels", metavar="N", type=int, default=200_000_000, help="largest picture"
    )
    add_options(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Add the files and print the account."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    from nearsearch import Limits
    from nearsearch.cli.output import talk
    from nearsearch.ingest import walk

    console = talk()
    if options.workers is not None and options.workers < 1:
        raise UsageError(f"--workers: expected at least 1, got {options.workers}")
    if options.failures:
        Path(options.failures).touch()  # to find out now, not after hours
    limits = Limits(seconds=options.timeout, max_pixels=options.max_pixels)
    columns = (
        TextColumn("hashing"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[remark]}"),
    )
    with (
        open_writer(options, create=True, specs=options.spec) as writer,
        Progress(*columns, console=console, disable=not console.is_terminal) as progress,
    ):
        task = progress.add_task("hashing", total=None, rate="", remark="")

        def count() -> None:  # a walk of its own: the total comes while hashing has begun
            progress.update(task, total=sum(1 for _ in walk(options.paths, exclude=options.index)))

        def tell(report: IngestReport) -> None:
            speed = progress.tasks[0].speed
            failed = f"{report.failed} failed" if report.failed else ""
            rate = f"{speed:.0f} files/s" if speed else ""
            progress.update(task, completed=report.total, rate=rate, remark=failed)

        if console.is_terminal:
            threading.Thread(target=count, daemon=True).start()
        report = writer.add_files(
            options.paths,
            contribution=options.contribution,
            source=options.source,
            labels=options.label,
            limits=limits,
            workers=options.workers,
            on_progress=tell,
        )
        generation = writer.commit()
    _tell_of_disabled(options)
    if options.failures:
        _write_failures(options.failures, report)
    if options.json:
        sys.stdout.write(json.dumps({**report.to_json(), "generation": generation}) + "\n")
    else:
        _explain(report, options.failures)
        sys.stdout.write(_summary(report, generation) + "\n")
    return 1 if report.failed else 0


def _summary(report: IngestReport, generation: int) -> str:
    counts = report.to_json()
    total = counts.pop("total")
    parts = ", ".join(f"{count:,} {status}" for status, count in counts.items())
    return f"{total:,} files: {parts} (generation {generation})"


def _explain(report: IngestReport, file: str | None, most: int = 10) -> None:
    """Name the first failed files; all of them are for `--failures`."""
    from nearsearch.cli.output import printable, talk

    console = talk()
    failed = [failure for failure in report.failures if failure.status == "failed"]
    for failure in failed[:most]:
        console.print(
            f"failed: {printable(failure.key)}: {failure.stage}: {printable(failure.reason)}"
        )
    if len(failed) > most:
        where = f"see {file}" if file else "--failures FILE writes them all"
        console.print(f"... and {len(failed) - most:,} more; {where}")

    skipped = Counter(f.reason for f in report.failures if f.status == "skipped")
    for reason, count in skipped.most_common(most):
        console.print(f"skipped: {count:,} x {printable(reason)}")


def _tell_of_disabled(options: argparse.Namespace) -> None:
    """Say so if what was added does not match, because its contribution or source is disabled."""
    from nearsearch import Index
    from nearsearch.cli.output import printable, talk

    with Index.open(options.index) as index:
        disabled = index.disabled
    for what in ("contribution", "source"):
        name = getattr(options, what)
        if name in disabled[f"{what}s"]:
            text = f"{what} {name} is disabled: its files do not match until nearsearch enable"
            talk().print(printable(text))


def _write_failures(path: str, report: IngestReport) -> None:
    with Path(path).open("w", encoding="utf-8") as file:
        for failure in report.failures:
            file.write(json.dumps({"status": failure.status, **failure._asdict()}) + "\n")
