"""``nearsearch hash``: codes and digests of files, without any index."""

from __future__ import annotations

import csv
import json
import sys
from typing import TYPE_CHECKING, Any, Final

from nearsearch.cli import limits
from nearsearch.cli.output import cell, printable, talk
from nearsearch.errors import UsageError
from nearsearch.spec import spec_names

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from nearsearch import FileHashes
    from nearsearch.matches import Failure

_COLUMNS: Final = (
    *("key", "spec", "code", "quality", "view", "time_ms", "end_ms", "format"),
    *("width", "height", "duration_ms", "size", "sha256", "md5", "sha1", "status", "problem"),
)


def register(commands: Any) -> None:
    """Add the subcommand to the parser."""
    parser = commands.add_parser(
        "hash",
        help="print codes and digests of pictures, without an index",
        description="Print one line for each code of each picture: key, spec, code, quality, view, "
        "digests. Folders are walked, archives opened. Files without a code, links and what "
        "cannot be read have a line too, with the problem, but not in pdq-csv.",
        epilog="pdq-csv has the columns of the reference PDQ tool: hash,quality,filename, without "
        "a header. In CSV, text that a spreadsheet would take for a formula gets a leading "
        "apostrophe, but not in pdq-csv. "
        "exit status: 0 all pictures hashed, 1 some failed, 2 error",
    )
    parser.add_argument("paths", metavar="PATH", nargs="+", help="picture files and folders")
    parser.add_argument(
        "--spec",
        metavar="S",
        action="append",
        help=f"what to compute; repeatable; default pdq; one of {', '.join(spec_names())}",
    )
    parser.add_argument(
        "--format", choices=("csv", "jsonl", "pdq-csv"), default="csv", help="default: csv"
    )
    limits.add_options(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Hash the files and print a line for each code."""
    from nearsearch.hashes import hash_found
    from nearsearch.ingest import walk

    if options.format == "pdq-csv" and options.spec not in (None, ["pdq"]):
        raise UsageError("--format pdq-csv is for the spec pdq only")
    write = _writer(options.format)
    progress, tell = limits.progress_of_files("hashing")
    failed = files = size = 0
    is_shown = not progress.disable and not sys.stdout.isatty()
    progress.disable = not is_shown  # the lines themselves are progress enough
    with progress:
        limits.count_in_background(progress, options.paths)
        hashed = hash_found(
            walk(options.paths),
            options.spec or ["pdq"],
            sampling=limits.sampling_of(options),
            limits=limits.limits_of(options),
            workers=options.workers,
        )
        for file in hashed:
            write(file)
            files, size = files + 1, size + (file.size or 0)
            if file.failure is not None and file.failure.status == "failed":
                failed += 1
                _tell(file.failure)
            tell(files, size, failed)
    sys.stdout.flush()
    return 1 if failed else 0


def _tell(failure: Failure) -> None:
    talk().print(f"failed: {printable(failure.key)}: {printable(failure.problem)}")


def _rows(file: FileHashes) -> list[dict[str, Any]]:
    """Return one row for each code, or one without any."""
    failure = file.failure
    status = failure.status if failure else "hashed"
    common = {name: getattr(file, name, None) for name in _COLUMNS}
    common |= {"status": status, "problem": failure.problem if failure else None}
    views = [(spec, view) for spec, views in file.views.items() for view in views]
    return [{**common, "spec": spec, **view._asdict()} for spec, view in views] or [common]


def _writer(form: str) -> Callable[[FileHashes], None]:
    lines = csv.writer(sys.stdout, lineterminator="\n")
    if form == "csv":
        lines.writerow(_COLUMNS)

    def write(file: FileHashes) -> None:
        if form == "pdq-csv":
            views = file.views.get("pdq", ())
            lines.writerows((view.code, view.quality, file.key) for view in views)
        elif form == "jsonl":
            sys.stdout.writelines(json.dumps(row) + "\n" for row in _rows(file))
        else:
            lines.writerows([cell(value) for value in row.values()] for row in _rows(file))

    return write
