"""How long the command line takes, from the start of a process to its answer.

    python bench/startup.py [--items 1e6] [--rounds 15] [--folder DIR] [--out DIR]

One-shot commands, taking turns, files and compiled kernels warm: `nearsearch query` with a code and
with a picture, `nearsearch --version`, `import nearsearch`, and an interpreter that does nothing.
Answers are compared. Writes `startup-figures.csv`, `startup.csv` (every round) and `startup.md`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ingest_tables import table
from measures import figure, median_of, write_csv
from PIL import Image
from scenario_data import build

import nearsearch as ns
from nearsearch.synthetic import make_picture, plant_neighbours

if TYPE_CHECKING:
    Row = dict[str, Any]


def command() -> list[str]:
    """Return how the command is started: as installed, or as a module."""
    script = Path(sys.executable).with_name("nearsearch")
    return [str(script)] if script.exists() else [sys.executable, "-m", "nearsearch"]


def prepare(folder: Path, items: int) -> dict[str, tuple[list[str], str | None]]:
    """Build an index; return each case as a command, and the key it must find."""
    root, path = folder / "i.ns", folder / "suspect.jpg"
    built = build(root, items)
    Image.fromarray(make_picture(1, "leaves", 640, 480)).save(path, quality=85)
    with ns.Writer.open(root) as writer:
        writer.add_codes(ns.hash_files([str(path)], "pdq").codes[:1], keys=["the picture"])
    query = plant_neighbours(built["known"][:1], 20, 1)[0].tobytes().hex()
    number = built["numbers"][0]
    asked = [*command(), "query", str(root), "--format", "jsonl"]
    return {
        "python that does nothing": ([sys.executable, "-c", "pass"], None),
        "import nearsearch": ([sys.executable, "-c", "import nearsearch"], None),
        "nearsearch --version": ([*command(), "--version"], None),
        "nearsearch query --code": ([*asked, "--code", query], f"r{number}"),
        "nearsearch query, a picture": ([*asked, str(path)], "the picture"),
    }


def measure(cases: dict[str, tuple[list[str], str | None]], rounds: int) -> list[Row]:
    """Run all cases in turn, one round more than asked, which is not counted."""
    rows = []
    for turn in range(rounds + 1):
        for name, (words, key) in cases.items():
            begun = time.perf_counter()
            done = subprocess.run(words, capture_output=True, text=True)
            took = 1e3 * (time.perf_counter() - begun)
            assert done.returncode == 0, done.stderr
            if key:
                found = [json.loads(line)["key"] for line in done.stdout.splitlines()]
                assert key in found, f"{name}: {key} is not among {found}"
            if turn:
                rows.append({"round": turn, "case": name, "ms": round(took, 1)})
    return rows


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=float, default=1e6)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--folder", type=Path, help="where the index is made")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="nearsearch-startup-", dir=options.folder))
    try:
        rows = measure(prepare(folder, int(options.items)), options.rounds)
    finally:
        shutil.rmtree(folder)
    names = dict.fromkeys(row["case"] for row in rows)
    figures = [figure("codes", "", int(options.items))] + [
        median_of(name, "ms", [row["ms"] for row in rows if row["case"] == name]) for name in names
    ]
    kept = ("figure", "value", "low", "high", "unit", "n")
    text = table([{name: row[name] for name in kept} for row in figures])
    print(text)
    if options.out:
        write_csv(options.out / "startup-figures.csv", figures)
        write_csv(options.out / "startup.csv", rows)
        (options.out / "startup.md").write_text(text)


if __name__ == "__main__":
    main()
