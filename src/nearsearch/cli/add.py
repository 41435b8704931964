"""``nearsearch add``: hash pictures and add them to an index."""

from __future__ import annotations

import json
import sys
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nearsearch.cli import limits
from nearsearch.cli.writing import add_options, open_writer
from nearsearch.errors import UsageError
from nearsearch.spec import DEFAULT_SPECS, spec_names

if TYPE_CHECKING:
    import argparse
    from typing import TextIO

    from nearsearch.ingest import IngestReport
    from nearsearch.matches import Failure


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
        help=f"what a new index holds of each picture; repeatable; default "
        f"{' and '.join(DEFAULT_SPECS)}; one of {', '.join(spec_names())}",
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
    progress, tell = limits.progress_of_files("hashing")
    path = options.failures
    with (
        # First, to find out now, not after hours, that it cannot be written.
        Path(path).open("w", encoding="utf-8") if path else nullcontext() as file,
        open_writer(options, create=True, specs=options.spec) as writer,
        progress,
    ):
        told = _Failures(file)
        limits.count_in_background(progress, options.paths, options.index)
        report = writer.add_files(
            options.paths,
            contribution=options.contribution,
            source=options.source,
            labels=options.label,
            digests=_digests(options.digests),
            read_again=options.read_again,
            commit_every=options.commit_every,
            sampling=limits.sampling_of(options),
            limits=limits.limits_of(options),
            workers=options.workers,
            on_progress=lambda report: tell(report.paths, report.bytes, report.failed),
            on_failure=told.add,
        )
        generation = writer.commit()
    _tell_of_disabled(options)
    if options.json:
        sys.stdout.write(json.dumps({**report.to_json(), "generation": generation}) + "\n")
    else:
        told.explain()
        sys.stdout.write(_summary(report, generation) + "\n")
    return 1 if report.failed else 0


def _summary(report: IngestReport, generation: int) -> str:
    statuses = ("added", "replaced", "unchanged", "duplicate", "skipped", "failed")
    parts = ", ".join(f"{getattr(report, status):,} {status}" for status in statuses)
    damaged = f"; {report.damaged:,} hashed in part" if report.damaged else ""
    poor = f"; {report.featureless:,} too featureless to match near" if report.featureless else ""
    return f"{report.total:,} files: {parts}{damaged}{poor} (generation {generation})"


class _Failures:
    """What was not hashed, or not whole: written to a file as it comes, and told at the end."""

    def __init__(self, file: TextIO | None, most: int = 10) -> None:
        self._file, self._most = file, most
        self._first: list[Failure] = []
        self._n_failed, self._skipped = 0, Counter[str]()

    def add(self, failure: Failure) -> None:
        """Take one."""
        if self._file:
            entry = {"status": failure.status, **failure._asdict()}
            self._file.write(json.dumps(entry) + "\n")
        if failure.status == "skipped":
            self._skipped[failure.reason] += 1
            return
        self._n_failed += 1
        if len(self._first) < self._most:
            self._first.append(failure)

    def explain(self) -> None:
        """Name the first that failed, and count why others were skipped."""
        from nearsearch.cli.output import printable, talk

        console = talk()
        for failure in self._first:
            console.print(
                f"{failure.status}: {printable(failure.key)}: {failure.stage}: "
                f"{printable(failure.reason)}"
            )
        if self._n_failed > len(self._first):
            more = f"... and {self._n_failed - len(self._first):,} more"
            where = f"see {self._file.name}" if self._file else "info --failures lists them"
            console.print(f"{more}; {where}")
        for reason, number in self._skipped.most_common(self._most):
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
