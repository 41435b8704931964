"""``nearsearch add``: hash pictures and add them to an index."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nearsearch.cli import limits
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
        "Folders are walked, and zip, tar, gz, bz2, xz and zst archives opened. Every file ends as "
        "added, replaced, unchanged, duplicate (its content is known), skipped (no picture) or "
        "failed; adding a folder again reads only what is new or has changed, so an add that was "
        "interrupted goes on when it is repeated.",
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
        "--failures", metavar="FILE", help="write skipped, failed and damaged files as JSONL"
    )
    parser.add_argument(
        "--digests",
        metavar="D,...",
        default="md5,sha1",
        help="kept beside SHA-256: md5, sha1, both (default) or none",
    )
    parser.add_argument(
        "--commit-every",
        metavar="S",
        type=float,
        default=10.0,
        help="seconds after which what is done can be searched, and outlives a crash; default 10",
    )
    again = parser.add_argument_group(
        "known files", "without these, only what has another size or time is read"
    ).add_mutually_exclusive_group()
    for name, value, text in (
        ("--retry-failures", "failed", "read again what failed"),
        ("--check-digests", "all", "read all again, decode what has another SHA-256"),
        ("--rehash", "rehash", "read and decode all again"),
    ):
        again.add_argument(
            name,
            dest="read_again",
            action="store_const",
            const=value,
            default="changed",
            help=text,
        )
    limits.add_options(parser)
    add_options(parser)
    parser.set_defaults(run=run)


def _digests(text: str) -> tuple[str, ...]:
    names = tuple(name for name in text.lower().split(",") if name != "none")
    if not set(names) <= {"md5", "sha1"}:
        raise UsageError(f"--digests: expected md5, sha1, both with a comma, or none, got {text!r}")
    return names


def run(options: argparse.Namespace) -> int:
    """Add the files and print the account."""
    if options.failures:
        Path(options.failures).touch()  # to find out now, not after hours
    progress, tell = limits.progress_of_files("hashing")
    with open_writer(options, create=True, specs=options.spec) as writer, progress:
        limits.count_in_background(progress, options.paths, options.index)
        report = writer.add_files(
            options.paths,
            contribution=options.contribution,
            source=options.source,
            labels=options.label,
            digests=_digests(options.digests),
            read_again=options.read_again,
            commit_every=options.commit_every,
            limits=limits.limits_of(options),
            workers=options.workers,
            on_progress=lambda report: tell(report.paths, report.bytes, report.failed),
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
    statuses = ("added", "replaced", "unchanged", "duplicate", "skipped", "failed")
    parts = ", ".join(f"{getattr(report, status):,} {status}" for status in statuses)
    damaged = f"; {report.damaged:,} hashed in part" if report.damaged else ""
    return f"{report.total:,} files: {parts}{damaged} (generation {generation})"


def _explain(report: IngestReport, file: str | None, most: int = 10) -> None:
    """Name the first failed files; all of them are for `--failures`."""
    from nearsearch.cli.output import printable, talk

    console = talk()
    told = [f for f in report.failures if f.status in ("failed", "damaged", "opened")]
    for failure in told[:most]:
        word = "failed" if failure.status == "opened" else failure.status
        console.print(
            f"{word}: {printable(failure.key)}: {failure.stage}: {printable(failure.reason)}"
        )
    if len(told) > most:
        where = f"see {file}" if file else "--failures FILE writes them, info --failures lists them"
        console.print(f"... and {len(told) - most:,} more; {where}")

    skipped = Counter(f.reason for f in report.failures if f.status == "skipped")
    for reason, number in skipped.most_common(most):
        console.print(f"skipped: {number:,} x {printable(reason)}")


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
