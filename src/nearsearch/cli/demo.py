"""``nearsearch demo``: the whole job on synthetic pictures, and the speed on a million codes."""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from nearsearch.cli.output import print_table, talk
from nearsearch.errors import UsageError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from rich.progress import Progress

    from nearsearch import Matches
    from nearsearch.synthetic import CorpusFile

_N_PICTURES: Final = 24
_SIDE: Final = 320
_N_CODES: Final = 1_000_000
_N_QUERIES: Final = 51
_RADIUS: Final = 31


_BENCHMARK: Final = (
    ("1,000,000", "0.119 ms", "20"),
    ("10,000,000", "0.184 ms", "129"),
    ("100,000,000", "0.456 ms", "527"),
)
_BENCHMARKED: Final = (
    "benchmarked on two EPYC cores, one thread: python bench/search.py, "
    "bench/results/2026-11-29-epyc-2-cores"
)


def register(commands: Any) -> None:
    """Add the subcommand to the parser."""
    parser = commands.add_parser(
        "demo",
        help="try everything on synthetic pictures",
        description="Draw synthetic pictures, index them, look for altered copies of them, and "
        "compare the search time on a million codes with a scan by FAISS in the same run. Takes "
        "well under a minute; needs nothing and leaves nothing behind, unless --keep is given.",
    )
    parser.add_argument("--keep", metavar="DIR", help="a new folder to leave the results in")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Show the whole job."""
    if options.keep is None:
        folder = Path(tempfile.mkdtemp(prefix="nearsearch-demo-"))
    else:
        folder = Path(options.keep)
        if folder.exists():
            raise UsageError(f"--keep {folder}: it exists already; name a new folder")
        folder.mkdir(parents=True)
    try:
        return _demo(folder, keep=options.keep is not None)
    finally:
        if options.keep is None:
            shutil.rmtree(folder, ignore_errors=True)


def _demo(folder: Path, *, keep: bool) -> int:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from nearsearch import Index, Writer
    from nearsearch.synthetic import ORIGINAL, write_corpus

    console = talk()
    columns = (TextColumn("{task.description:<28}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console) as progress:
        drawing = progress.add_task("drawing pictures", total=_N_PICTURES)
        files = write_corpus(
            folder / "pictures",
            n_pictures=_N_PICTURES,
            seed=2025,
            width=_SIDE,
            height=_SIDE,
            on_progress=lambda done, _: progress.update(drawing, completed=done),
        )
        indexing = progress.add_task("indexing the originals", total=_N_PICTURES)
        index_path = folder / "known.ns"
        with Writer.open(index_path, create=True) as writer:
            writer.add_files(
                [folder / "pictures" / "originals"],
                contribution="DEMO-1",
                source="demo",
                on_progress=lambda report: progress.update(indexing, completed=report.total),
            )
        copies = [file for file in files if file.alteration != ORIGINAL]
        asking = progress.add_task("asking with altered copies", total=len(copies))
        with Index.open(index_path) as index:
            paths = [folder / "pictures" / file.file for file in copies]
            matches = index.query(paths)
            pdq_alone = index.query(paths, spec="pdq", variants="none")
            progress.update(asking, completed=len(copies))
            found, found_by_pdq = _answers(matches, copies), _answers(pdq_alone, copies)
            example = _example(matches, copies)
        timing = progress.add_task("a million codes", total=_N_QUERIES)
        times = _race(folder / "codes.ns", progress, timing)
    _show_hits(example)
    _show_recall(found, found_by_pdq)
    _show_race(times)
    if keep:
        console.print(f"pictures and index are in {folder}; try:")
        original = folder / "pictures" / copies[0].file
        console.print(f"  nearsearch query {index_path} {original}")
    return 0 if times["agree"] else 2


def _answers(matches: Matches, copies: Sequence[CorpusFile]) -> dict[str, int]:
    """Return for each alteration how many copies found their originals."""
    table = matches.to_arrow().select(["query_index", "key"]).to_pylist()
    is_found = {
        row["query_index"]
        for row in table
        if Path(row["key"]).name.partition("-")[0] == copies[row["query_index"]].original
    }
    found = dict.fromkeys((copy.alteration for copy in copies), 0)
    for number in is_found:
        found[copies[number].alteration] += 1
    return found


def _example(matches: Matches, copies: Sequence[CorpusFile]) -> list[tuple[Any, ...]]:
    """Return the hits of the first picture's copies, as `nearsearch query` shows them."""
    names = ("query", "distance", "key", "spec", "variant", "contribution", "source")
    rows = matches.to_arrow().to_pylist()
    first = [row for row in rows if copies[row["query_index"]].original == copies[0].original]
    return [
        tuple(Path(row[name]).name if name in ("query", "key") else row[name] for name in names)
        for row in first
    ]


def _race(path: Path, progress: Progress, task: Any) -> dict[str, Any]:
    """Time single queries on a million codes against FAISS, alternately, answers compared."""
    import faiss
    import numpy as np

    from nearsearch import Index, Writer
    from nearsearch.synthetic import plant_neighbours, random_codes

    codes = random_codes(_N_CODES, 256, seed=1)
    queries = plant_neighbours(codes[:: _N_CODES // _N_QUERIES][:_N_QUERIES], 20, seed=2)
    with Writer.open(path.with_name("warm.ns"), create=True) as writer:
        writer.add_codes(codes[:1])
    with Index.open(path.with_name("warm.ns")) as index:
        index.warm_up()  # all kernels are compiled now, and in no time that is told
    start = time.perf_counter()
    with Writer.open(path, create=True) as writer:
        writer.add_codes(codes)
    added = time.perf_counter() - start
    start = time.perf_counter()
    with Writer.open(path) as writer:
        writer.compact()
    compacted = time.perf_counter() - start
    flat = faiss.IndexBinaryFlat(256)
    flat.add(codes)
    faiss.omp_set_num_threads(1)  # for one query more only cost: 30 ms instead of 1.3 on busy cores
    ours, theirs, n_ours, n_theirs, agree = [], [], 0, 0, True
    start = time.perf_counter()
    with Index.open(path) as index:
        opened = time.perf_counter() - start
        index.search(queries[0], _RADIUS)  # both are timed warm
        for query in queries:
            start = time.perf_counter()
            matches = index.search(query, _RADIUS)
            middle = time.perf_counter()
            limits, distances, _ = flat.range_search(query[None], _RADIUS + 1)
            theirs.append(time.perf_counter() - middle)
            ours.append(middle - start)
            n_ours += len(matches)
            n_theirs += int(limits[-1])
            agree &= sorted(distances) == matches.distances.tolist() and len(matches) > 0
            progress.advance(task)
    return {
        "ours": 1e3 * float(np.median(ours)),
        "theirs": 1e3 * float(np.median(theirs)),
        "n_ours": n_ours,
        "n_theirs": n_theirs,
        "agree": agree,
        "added": _N_CODES / added,
        "compacted": compacted,
        "opened": 1e3 * opened,
    }


def _show_hits(example: list[tuple[Any, ...]]) -> None:
    print_table(
        ("query", "distance", "key", "spec", "variant", "contribution", "source"),
        example,
        ("distance",),
    )


def _show_recall(found: dict[str, int], found_by_pdq: dict[str, int]) -> None:
    rows = [
        (alteration, f"{n_found} of {_N_PICTURES}", f"{found_by_pdq[alteration]} of {_N_PICTURES}")
        for alteration, n_found in found.items()
    ]
    print_table(("altered by", "found", "by pdq alone"), rows, ("found", "by pdq alone"))


def _show_race(times: dict[str, Any]) -> None:
    ours, theirs = times["ours"], times["theirs"]
    print_table(
        ("exact search, 1,000,000 codes, radius 31", "median", "matches"),
        [
            ("nearsearch, from its files", f"{ours:.3f} ms", times["n_ours"]),
            ("FAISS IndexBinaryFlat, in memory, one thread", f"{theirs:.3f} ms", times["n_theirs"]),
        ],
        ("median", "matches"),
    )
    verdict = "the same matches" if times["agree"] else "DIFFERENT MATCHES: please report this"
    print_table(
        ("on this machine", "now"),
        [
            ("answers", verdict),
            ("times as fast as FAISS", f"{theirs / ours:.0f}"),
            ("opening the index", f"{times['opened']:.1f} ms"),
            ("adding codes, durably", f"{times['added']:,.0f} a second"),
            ("compacting them", f"{times['compacted']:.1f} s"),
        ],
    )
    print_table(
        ("codes", "radius 31, median", "times as fast as FAISS"),
        _BENCHMARK,
        ("codes", "radius 31, median", "times as fast as FAISS"),
    )
    talk().print(_BENCHMARKED)
