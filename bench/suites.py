"""The suites of `python -m bench`: what each runs at which scale, and the run itself.

A suite is a row of `SUITES`: scripts of this folder with their arguments, each run in a process of
its own. What they write is kept in a folder of the suite; one that fails does not stop the others.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import figures
from measures import cpu_name, write_csv

BENCH: Final = Path(__file__).parent
ROOT: Final = BENCH.parent
SCALES: Final = ("quick", "usual", "full")
KEPT: Final = (".csv", ".md", ".svg", ".npz")
PACKAGES: Final = ("numpy", "faiss-cpu", "numba", "pyarrow", "pillow", "av")
FAMILIES: Final = (
    "epyc",
    "xeon",
    "ryzen",
    "threadripper",
    "core",
    "graviton",
    "neoverse",
    "ampere",
)
TAIL: Final = 25  # lines of the output of what failed
PYTEST: Final = "pytest"  # as a script: pytest-benchmark, whose JSON becomes a CSV of figures


@dataclass(frozen=True)
class Suite:
    """One row of the table; `{out}` in a command is the folder for its results."""

    about: str
    commands: dict[str, tuple[str, ...]]
    minutes: dict[str, float]
    """Expected on two cores; of quick measured, of the others partly estimated."""
    needs: tuple[str, ...] = ()
    """Modules of optional dependencies without which it cannot run."""
    takes: tuple[str, ...] = field(default=())
    """Folders of the caller that are handed on, as the options of the same name."""


def same(*commands: str) -> dict[str, tuple[str, ...]]:
    """Return the same commands for every scale."""
    return dict.fromkeys(SCALES, commands)


def minutes(quick: float, usual: float, full: float) -> dict[str, float]:
    return dict(zip(SCALES, (quick, usual, full), strict=True))


SUITES: Final = {
    "search": Suite(
        "exact search against FAISS and others, by size, kind and radius",
        {
            "quick": ("search.py --codes 1e5 --kinds uniform fitted --out {out}",),
            "usual": (
                "search.py --codes 1e5 1e6 1e7 --kinds uniform fitted duplicates --out {out}",
            ),
            "full": (
                "search.py --codes 1e5 1e6 1e7 --kinds uniform fitted duplicates --out {out}",
                "search.py --codes 1e6 --kinds templates --out {out}",
                "search.py --codes 1e8 --kinds uniform --out {out}",
            ),
        },
        minutes(1, 12, 30),
        ("matplotlib",),
    ),
    "hashing": Suite(
        "pictures in memory to codes, against Pillow and pdqhash",
        same("pytest test_hashing.py"),
        minutes(1.5, 1.5, 1.5),
        ("pytest_benchmark", "pdqhash"),
    ),
    "ingest": Suite(
        "files to a durable index, against decoding alone; many small files",
        {
            "quick": ("ingest.py --quick --out {out}", "ingest.py --many 5000 --out {out}"),
            "usual": (
                "ingest.py --pictures 1500 --rounds 3 --big 30 --out {out}",
                "ingest.py --many 50000 --out {out}",
            ),
            "full": ("ingest.py --out {out}", "ingest.py --many --out {out}"),
        },
        minutes(4, 10, 30),
        ("pdqhash",),
        ("media",),
    ),
    "store": Suite(
        "adding a million codes, opening, describing matches",
        same("pytest test_store.py"),
        minutes(1, 1, 1),
        ("pytest_benchmark",),
    ),
    "startup": Suite(
        "the command line from the start of the process to its answer",
        {
            "quick": ("startup.py --items 1e5 --rounds 10 --out {out}",),
            "usual": ("startup.py --items 1e6 --out {out}",),
            "full": ("startup.py --items 1e7 --out {out}",),
        },
        minutes(1, 1.5, 5),
    ),
    "memory": Suite(
        "resident memory of a reader and a writer, bytes a code, no leak",
        {
            "quick": ("memory.py --items 1e5 --out {out}",),
            "usual": ("memory.py --items 1e6 --out {out}",),
            "full": ("memory.py --items 1e7 --out {out}",),
        },
        minutes(1.5, 2, 6),
    ),
    "quality": Suite(
        "what is still found of altered pictures, at equal rates of false matches",
        {
            "quick": ("quality.py --quick --out {out}",),
            "usual": (
                "quality.py --count 40 --distractors 400 --out {out}",
                "variants.py --items 100000 --out {out}/variants.md",
            ),
            "full": ("quality.py --out {out}", "variants.py --out {out}/variants.md"),
        },
        minutes(0.5, 20, 120),
        ("matplotlib",),
        ("photographs", "drawings"),
    ),
    "video": Suite(
        "altered films found, and how fast films are read and asked",
        {
            "quick": ("films.py --quick --out {out}", "films.py --speed --quick --out {out}"),
            "usual": (
                "films.py --count 12 --out {out}",
                "films.py --speed --codes 1e6 --out {out}",
            ),
            "full": ("films.py --out {out}", "films.py --speed --out {out}"),
        },
        minutes(3, 25, 90),
        ("av",),
        ("media",),
    ),
    "scenario": Suite(
        "25 readers ask while a writer adds and extends contributions",
        {
            "quick": ("scenario.py --quick --out {out}",),
            "usual": ("scenario.py --items 1e6 --new 80 --extended 105 --quiet 30 --out {out}",),
            "full": ("scenario.py --out {out}",),
        },
        minutes(1, 4, 15),
    ),
}


# --- the machine --------------------------------------------------------------------------------


def machine_name(cpu: str, cores: int) -> str:
    """Return a short name of a machine, as results are called by: epyc-2-cores."""
    words = re.sub(r"\([^)]*\)", " ", cpu.lower())
    found = re.findall(r"[a-z][a-z0-9]*", words)
    known = [word for word in found if word in FAMILIES]
    other = [word for word in found if word not in ("amd", "intel", "cpu", "processor")]
    name = (known or other or ["machine"])[0]
    return f"{name}-{cores}-core{'s' if cores != 1 else ''}"


def environment() -> dict[str, Any]:
    """Return what a reader of the results must know of the machine; no names, no paths."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(pages / (1 << 30), 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": versions,
        "commit": commit(),
        "load_at_start": round(os.getloadavg()[0], 2),
    }


def commit() -> str:
    """Return the commit that is checked out, and whether something was changed since."""

    if shutil.which("git") is None:
        return ""

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else ""

    name = git("rev-parse", "--short=12", "HEAD")
    is_changed = name and git("status", "--porcelain", ".", ":!bench/results")
    return f"{name}, with changes" if is_changed else name


# --- the run ------------------------------------------------------------------------------------


def words_of(command: str, suite: Suite, out: Path, folders: dict[str, Path | None]) -> list[str]:
    """Return a command of the table as the words of a process."""
    script, *words = shlex.split(command)
    words = [word.replace("{out}", str(out)) for word in words]
    if script == PYTEST:
        tests = [str(BENCH / word) for word in words]
        more = ["-q", "-o", "addopts=--import-mode=importlib", "-p", "no:cacheprovider"]
        return [
            sys.executable,
            "-m",
            "pytest",
            *tests,
            *more,
            f"--benchmark-json={out / 'raw.json'}",
        ]
    if script != "variants.py" and "--many" not in words and "--speed" not in words:
        for name in suite.takes:
            if folders.get(name):
                words += [f"--{name}", str(folders[name])]
    return [sys.executable, str(BENCH / script), *words]


def lacking(suite: Suite) -> list[str]:
    """Return the modules that a suite needs and that are not installed."""
    return [name for name in suite.needs if find_spec(name) is None]


def run_suite(
    name: str, scale: str, kept: Path, folders: dict[str, Path | None], *, verbose: bool
) -> str:
    """Run one suite and keep what it writes; return what went wrong, or nothing."""
    suite = SUITES[name]
    absent = lacking(suite)
    if absent:
        return f"needs {', '.join(absent)}: pip install -e '.[test,bench]'"
    with tempfile.TemporaryDirectory(prefix="nearsearch-bench-", dir=folders.get("folder")) as home:
        out = Path(home) / "out"
        out.mkdir()
        for command in suite.commands[scale]:
            words = words_of(command, suite, out, folders)
            shown = re.sub(r" --out \S+", "", command)
            print(f"  {shown} ...", flush=True)
            begun = time.monotonic()
            problem = run_process(words, Path(home), verbose=verbose)
            if problem:
                return f"{shown}: {problem}"
            print(f"  {time.monotonic() - begun:.0f} s", flush=True)
        raw = out / "raw.json"
        if raw.exists():
            write_csv(out / f"{name}-figures.csv", figures.of_benchmarks(raw))
        shutil.rmtree(kept, ignore_errors=True)
        kept.mkdir(parents=True)
        for path in sorted(out.iterdir()):
            if path.suffix in KEPT:
                shutil.copy(path, kept / path.name)
    return ""


def run_process(words: list[str], scratch: Path, *, verbose: bool) -> str:
    """Run a process to its end; return what went wrong, with the end of what it said."""
    settings = os.environ | {"TMPDIR": str(scratch)}
    if verbose:
        status = subprocess.run(words, cwd=ROOT, env=settings).returncode
        return f"exit status {status}" if status else ""
    with (scratch / "said").open("w+") as said:
        done = subprocess.run(words, cwd=ROOT, env=settings, stdout=said, stderr=subprocess.STDOUT)
        if not done.returncode:
            return ""
        said.seek(0)
        last = said.read().splitlines()[-TAIL:]
    return "\n".join([f"exit status {done.returncode}", *(f"    {line}" for line in last)])


def run(
    names: list[str], scale: str, out: Path, folders: dict[str, Path | None], *, verbose: bool
) -> list[str]:
    """Run suites one after the other; return the names of those that failed."""
    known: dict[str, Any] = {}
    path = out / "environment.json"
    if path.exists():
        known = json.loads(path.read_text()).get("suites", {})
    facts = environment()
    out.mkdir(parents=True, exist_ok=True)
    failed, start = [], time.monotonic()
    for number, name in enumerate(names):
        expected = SUITES[name].minutes[scale]
        print(f"[{number + 1}/{len(names)}] {name}, {scale}, about {expected:g} min", flush=True)
        load, begun = round(os.getloadavg()[0], 2), time.monotonic()
        problem = run_suite(name, scale, out / name, folders, verbose=verbose)
        took = time.monotonic() - begun
        if problem:
            failed.append(name)
            print(f"  FAILED {problem}", file=sys.stderr, flush=True)
        else:
            known[name] = {
                "scale": scale,
                "seconds": round(took),
                "load_at_start": load,
                "commit": facts["commit"],
            }
        path.write_text(json.dumps(facts | {"suites": known}, indent=1) + "\n")
        write_summary(out)
        print(f"  {name} {took:.0f} s, all {time.monotonic() - start:.0f} s", flush=True)
    return failed


def write_summary(folder: Path) -> str:
    """Write `summary.md` from the raw files of a folder; return its text."""
    path = folder / "environment.json"
    facts = json.loads(path.read_text()) if path.exists() else {}
    lines = ["# Results of `python -m bench`\n"]
    if facts:
        versions = ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
        lines += [
            f"{facts['date']}, {facts['cores']} cores of {facts['cpu']}, "
            f"{facts['memory_gib']} GiB, {facts['system']}, Python {facts['python']}, {versions}; "
            f"commit {facts['commit']}; load at the start {facts['load_at_start']}.\n"
        ]
    for suite, text in figures.tables(figures.of_folder(folder)).items():
        lines.append(f"## {suite}\n")
        ran = facts.get("suites", {}).get(suite)
        if ran:
            lines.append(
                f"Scale {ran['scale']}, {ran['seconds']} s, "
                f"load at the start {ran['load_at_start']}, commit {ran['commit']}.\n"
            )
        files = sorted(
            path for path in (folder / suite).glob("*") if path.suffix in (".md", ".svg")
        )
        links = [f"[{path.name}]({suite}/{path.name})" for path in files]
        if links:
            lines.append(f"More: {', '.join(links)}.\n")
        lines.append(text)
    whole = "\n".join(lines)
    (folder / "summary.md").write_text(whole)
    return whole
