"""All benches by one command.

    python -m bench                              # every suite, quick
    python -m bench --scale usual --suites search,store
    python -m bench --list
    python -m bench --tables bench/results/DIR   # tables and plots again, from raw files
    python -m bench --compare OLD NEW            # two folders of results

Results go to `bench/results/<date>-<machine>/`: `environment.json`, `summary.md`, and a folder of
raw files for each suite. The exit status is 1 if a suite failed; the others are run all the same.
"""

from __future__ import annotations

import argparse
import os
import sys
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # the scripts here know each other by bare names

import figures
import scenario_tables
import suites
from ingest_tables import table
from measures import cpu_name, read_csv


def chosen(text: str) -> list[str]:
    """Return the names of suites in a list with commas."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in suites.SUITES]
    if unknown or not names:
        known = ", ".join(suites.SUITES)
        raise argparse.ArgumentTypeError(f"no suite {', '.join(unknown)}: there are {known}")
    return names


def listing() -> str:
    """Return the table of suites."""
    return table(
        [
            {
                "suite": name,
                **{f"{scale}, min": f"{suite.minutes[scale]:g}" for scale in suites.SCALES},
                "lacks": ", ".join(suites.lacking(suite)),
                "what": suite.about,
            }
            for name, suite in suites.SUITES.items()
        ]
    )


def compare(old: Path, new: Path) -> str:
    """Return the table of figures that both folders have."""
    rows = figures.compare(figures.of_folder(old), figures.of_folder(new))
    if not rows:
        sys.exit(f"{old.name} and {new.name} have no figure in common")
    beyond = sum(bool(row["beyond noise"]) for row in rows)
    return table(rows) + f"\n{len(rows)} figures, {beyond} beyond noise\n"


def draw_again(folder: Path) -> None:
    """Make the tables and plots of the suites again from their raw files."""
    for path in sorted(folder.rglob("scenario-queries.csv")):
        scenario_tables.write(path.parent)
    for path in sorted(folder.rglob("results.csv")):
        import search

        search.write_results(path.parent, read_csv(path), is_new=False)
    for path in sorted(folder.rglob("distances.npz")):
        import quality_tables

        quality_tables.write(path.parent)


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--scale", choices=suites.SCALES, default="quick")
    parser.add_argument("--suites", type=chosen, default=list(suites.SUITES), metavar="A,B")
    parser.add_argument("--out", type=Path, metavar="DIR", help="instead of bench/results/...")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="for indexes: a real disk")
    parser.add_argument("--media", type=Path, metavar="DIR", help="pictures for ingest and video")
    parser.add_argument("--photographs", type=Path, metavar="DIR", help="for quality")
    parser.add_argument("--drawings", type=Path, metavar="DIR", help="for quality")
    parser.add_argument("--verbose", action="store_true", help="show what the benches print")
    parser.add_argument("--list", action="store_true", help="the suites, expected minutes of each")
    parser.add_argument("--tables", type=Path, metavar="DIR", help="only make tables again")
    parser.add_argument("--compare", type=Path, nargs=2, metavar=("OLD", "NEW"))
    options = parser.parse_args()
    if options.list:
        print(listing())
        return 0
    for folder in (options.tables, *(options.compare or ())):
        if folder is not None and not folder.is_dir():
            parser.error(f"no folder {folder}")
    if options.tables:
        draw_again(options.tables)
        print(suites.write_summary(options.tables))
        return 0
    if options.compare:
        print(compare(*options.compare))
        return 0
    names = ("folder", "media", "photographs", "drawings")
    folders = {name: path.resolve() if (path := getattr(options, name)) else None for name in names}
    machine = suites.machine_name(cpu_name(), len(os.sched_getaffinity(0)))
    out = options.out or suites.BENCH / "results" / f"{datetime.now(UTC):%Y-%m-%d}-{machine}"
    failed = suites.run(options.suites, options.scale, out, folders, verbose=options.verbose)
    print(f"{len(options.suites) - len(failed)} of {len(options.suites)} suites done")
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
