"""What the commands that read files share: limits on what one file may cost, and progress."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from nearsearch.errors import UsageError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

    from rich.progress import Progress

    from nearsearch import Limits, Sampling

_UNITS: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def add_options(parser: argparse.ArgumentParser, interval: str = "1") -> None:
    """Add the options for limits, frames of films and processes.

    `interval` is what the library takes where none is given: it is only told here.
    """
    group = parser.add_argument_group("limits on one file", "sizes may end with K, M, G or T")
    group.add_argument(
        "--timeout",
        metavar="S",
        type=float,
        default=60.0,
        help="seconds it may take, a film until its next sampled frame; default 60",
    )
    group.add_argument(
        "--max-pixels", metavar="N", type=int, default=200_000_000, help="default 200,000,000"
    )
    group.add_argument(
        "--max-file-size", metavar="N", default="1G", help="bytes, but of films; default 1G"
    )
    group.add_argument(
        "--max-memory",
        metavar="N",
        default="6G",
        help="address space of a hashing process; default 6G",
    )
    group.add_argument(
        "--max-members", metavar="N", type=int, default=1_000_000, help="files in an archive"
    )
    group.add_argument(
        "--max-depth", metavar="N", type=int, default=4, help="archives in archives; default 4"
    )
    group.add_argument(
        "--max-expansion",
        metavar="N",
        type=int,
        default=200,
        help="bytes out of an archive for each that it has, beyond 64M; default 200",
    )
    films = parser.add_argument_group("films", "which frames are hashed, beside new scenes")
    which = films.add_mutually_exclusive_group()
    which.add_argument(
        "--interval",
        metavar="S",
        type=float,
        help=f"one in S seconds; default {interval}",
    )
    which.add_argument(
        "--keyframes", action="store_true", help="those that are coded without others: fast"
    )
    which.add_argument("--every-frame", action="store_true", help="all")
    parser.add_argument(
        "--workers", metavar="N", type=int, help="hashing processes; default: cores"
    )


def limits_of(options: argparse.Namespace) -> Limits:
    """Return the limits that the options ask for."""
    from nearsearch import Limits

    return Limits(
        seconds=options.timeout,
        max_pixels=options.max_pixels,
        max_bytes=_size("--max-file-size", options.max_file_size),
        memory=_size("--max-memory", options.max_memory),
        max_members=options.max_members,
        max_depth=options.max_depth,
        max_expansion=options.max_expansion,
    )


def sampling_of(options: argparse.Namespace) -> Sampling | None:
    """Return which frames of films the options ask for, None for the usual ones."""
    from nearsearch import Sampling

    if options.keyframes:
        return Sampling("keyframes")
    if options.every_frame:
        return Sampling("every")
    if options.interval is None:
        return None
    if not 0.001 <= options.interval <= 1e6:
        raise UsageError(
            f"--interval: expected 0.001 to 1,000,000 seconds, got {options.interval:g}"
        )
    return Sampling(interval_ms=round(1000 * options.interval))


def _size(option: str, text: str) -> int:
    """Read a number of bytes: ``4096``, ``512K``, ``2G``."""
    match = re.fullmatch(r"(\d+)([KMGT]?)i?B?", text.strip(), re.IGNORECASE)
    if match is None:
        raise UsageError(f"{option}: expected bytes, such as 4096, 512K or 2G, got {text!r}")
    return int(match[1]) * _UNITS[match[2].upper()]


def progress_of_files(what: str) -> tuple[Progress, Callable[[int, int, int], None]]:
    """Return a display for a terminal, and what tells it files, bytes and failures so far."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from nearsearch.cli.output import talk

    console = talk()
    progress = Progress(
        TextColumn(what),
        BarColumn(),
        TextColumn("{task.fields[files]}"),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(elapsed_when_finished=True),
        TextColumn("{task.fields[remark]}"),
        console=console,
        disable=not console.is_terminal,
    )
    task = progress.add_task(what, total=None, files="", rate="", remark="")
    start = progress.get_time()

    def tell(files: int, size: int, failed: int) -> None:
        seconds = max(progress.get_time() - start, 1e-3)
        fields = progress.tasks[0].fields
        total = fields.get("total_files", 0)
        progress.update(
            task,
            completed=size,
            # those in archives count as well, and are not in the total
            files=f"{files:,}/{total:,} files" if files <= total else f"{files:,} files",
            rate=f"{files / seconds:,.0f} files/s, {size / seconds / 1e6:,.1f} MB/s",
            remark=f"{failed:,} failed" if failed else "",
        )

    return progress, tell


def count_in_background(
    progress: Progress, paths: Sequence[Any], exclude: str | None = None
) -> None:
    """Find out how much there is, by a walk of its own, while the work has begun."""
    import threading

    from nearsearch.ingest import walk

    def run() -> None:
        n_files = n_bytes = 0
        for file in walk(paths, exclude=exclude):
            n_files += 1
            n_bytes += file.size or 0
        progress.update(progress.task_ids[0], total=n_bytes, total_files=n_files)

    if not progress.disable:
        threading.Thread(target=run, daemon=True).start()
