"""Write a made-up corpus of codes to a folder, as files that other tools open.

    python data/synthetic/codes.py --rows 1e7 --out DIR [--seed N] [--no-items] [--force] [--json]

Files: codes.npy, (rows, 32) uint8; items.arrow, a record for each; queries.npy, (queries, 32)
uint8; truth.arrow, for each query that was made from a row: that row and its distance. The last
queries were made from no row. `nearsearch.corpora` says what the rows are.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from nearsearch.corpora import BLANK, BLOCK, EXACT, NEAR, NEW, Corpus
from nearsearch.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

PART = 64 * BLOCK  # rows at a time
ITEM_BYTES = 50  # of items.arrow, about, for a row
NAMES = "codes.npy", "queries.npy", "truth.arrow", "items.arrow"


def write_codes(corpus: Corpus, path: Path, tell: Callable[[int], None]) -> None:
    """Write all codes as one .npy file, a part at a time."""
    header = {"descr": "|u1", "fortran_order": False, "shape": (corpus.n, 32)}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for first, codes in corpus.blocks(PART):
            file.write(codes.data)
            tell(first + len(codes))


def write_items(corpus: Corpus, path: Path, tell: Callable[[int], None]) -> None:
    """Write all records as one Arrow IPC file, a batch a block."""
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, corpus.items(0, 0).schema) as to:
        for first in range(0, corpus.n, PART):
            count = min(PART, corpus.n - first)
            to.write_table(corpus.items(first, count))
            tell(first + count)


def write_queries(corpus: Corpus, out: Path, count: int, strangers: int, radius: int) -> None:
    """Write queries, those that were made from no row last, and the truth of the others."""
    planted = corpus.queries(count, radius, seed=corpus.seed)
    codes = np.concatenate([planted.codes, corpus.strangers(strangers, seed=corpus.seed)])
    np.save(out / "queries.npy", codes)
    truth = planted.to_arrow()
    with (
        pa.OSFile(str(out / "truth.arrow"), "wb") as file,
        pa.ipc.new_file(file, truth.schema) as to,
    ):
        to.write_table(truth)


def progress(what: str, n: int) -> Callable[[int], None]:
    """Return what tells a terminal how many rows are done, each second."""
    began, told = time.monotonic(), [0.0]

    def tell(done: int) -> None:
        now = time.monotonic()
        if sys.stderr.isatty() and (now - told[0] >= 1 or done == n):
            told[0] = now
            rate = done / max(now - began, 1e-9) / 1e6
            end = "\n" if done == n else ""
            sys.stderr.write(f"\r{what}: {done:,} of {n:,} rows, {rate:.1f} million/s {end}")
            sys.stderr.flush()

    return tell


def number(text: str) -> int:
    """Return a whole number, which may be written as 1e9."""
    try:
        value = Decimal(text)  # exact, as a float would not be
    except InvalidOperation:
        value = Decimal("nan")
    if not value.is_finite() or value.adjusted() >= 30 or value != value.to_integral_value():
        raise argparse.ArgumentTypeError(
            f"expected a whole number of at most 30 digits, such as 1e9, got {text[:40]!r}"
        )
    return int(value)


def write(corpus: Corpus, options: argparse.Namespace) -> dict[str, Any]:
    """Write all files and return what was done."""
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    names = [name for name in NAMES if name != "items.arrow" or not options.no_items]
    taken = [out / name for name in NAMES if (out / name).exists()]
    if taken and not options.force:
        raise UsageError(f"{taken[0]} exists: choose another folder, or give --force")
    need = corpus.n * (32 + ITEM_BYTES * (not options.no_items))
    free = shutil.disk_usage(out).free + sum(path.stat().st_size for path in taken)
    if need > free:
        raise UsageError(f"{out}: about {need:,} bytes are needed, {free:,} are free")
    counts = options.queries, options.strangers, options.radius
    write_queries(corpus, out, *counts)
    for path in taken:
        if path.name not in names:
            path.unlink()  # records of other codes
    began = time.perf_counter()
    write_codes(corpus, out / "codes.npy", progress("codes", corpus.n))
    coded = time.perf_counter()
    if not options.no_items:
        write_items(corpus, out / "items.arrow", progress("items", corpus.n))
    ended = time.perf_counter()
    kinds = corpus.kinds(0, min(corpus.n, PART))
    return {
        "rows": corpus.n,
        "seed": corpus.seed,
        "shares": {
            name: round(float((kinds == kind).mean()), 4) if len(kinds) else 0.0
            for name, kind in {"new": NEW, "exact": EXACT, "near": NEAR, "blank": BLANK}.items()
        },
        "queries": options.queries,
        "strangers": options.strangers,
        "radius": options.radius,
        "codes_s": round(coded - began, 2),
        "items_s": round(ended - coded, 2),
        "bytes": {name: (out / name).stat().st_size for name in names},
    }


def main() -> int:
    """Run what the command line asks for."""
    text = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        description=text[0],
        epilog=text[2].strip(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rows", type=number, required=True, metavar="N", help="such as 1e9")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="made if need be")
    parser.add_argument("--seed", type=number, default=0, metavar="N")
    parser.add_argument("--duplicates", type=float, metavar="SHARE", help="exact repeats (0.2)")
    parser.add_argument("--near", type=float, metavar="SHARE", help="2 to 64 bits away (0.2)")
    parser.add_argument("--blanks", type=float, metavar="SHARE", help="one of 8 codes (0.01)")
    parser.add_argument("--queries", type=number, default=1000, metavar="N", help="(1000)")
    parser.add_argument("--strangers", type=number, default=1000, metavar="N", help="(1000)")
    parser.add_argument("--radius", type=number, default=31, metavar="BITS", help="(31)")
    parser.add_argument("--no-items", action="store_true", help="codes and queries only")
    parser.add_argument("--force", action="store_true", help="replace what is there")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    options = parser.parse_args()
    shares = {
        name: getattr(options, name)
        for name in ("duplicates", "near", "blanks")
        if getattr(options, name) is not None
    }
    try:
        done = write(Corpus(options.rows, options.seed, **shares), options)
    except (UsageError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    if options.json:
        print(json.dumps(done))
    else:
        rate = done["rows"] / max(done["codes_s"], 1e-9) / 1e6
        print(
            f"{options.out}: {done['rows']:,} codes in {done['codes_s']} s ({rate:.1f} million/s)"
        )
        print(", ".join(f"{name} {share:.1%}" for name, share in done["shares"].items()))
        print(", ".join(f"{name} {size:,} bytes" for name, size in done["bytes"].items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
