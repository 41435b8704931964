"""One case of `bench/ingest.py` in a process of its own: a job as JSON in, what was measured out.

The parent starts it with the cores it is to have, so all its threads and children have them too.
It warms up, says "ready", waits for a line, measures, and answers.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import resource
import shutil
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pdqhash
from PIL import Image

import nearsearch as ns
from nearsearch.errors import NearsearchError
from nearsearch.hashers import hash_pixels
from nearsearch.media import image as media
from nearsearch.spec import get_spec
from nearsearch.workers import Limits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

PDQ: Final = get_spec("pdq")
MAX_PIXELS: Final = Limits().max_pixels
TENTHS: Final = 10
SETTLED: Final = 1024  # files: the first ones come while processes start


def pictures(data: bytes) -> Iterator[media.Picture]:
    """Decode a file as the product does: the one place that knows how."""
    yield from media.Pictures(data, PDQ.profile, max_pixels=MAX_PIXELS)


# A case is a generator: it yields once when it is warm, then what it measured, then tidies up.

# --- without the product's processes and index --------------------------------------------------


def decode(job: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Read and decode each file, nothing else."""
    _decode_all(job["warm"])
    yield {}
    yield _decode_all(job["paths"])


def _decode_all(paths: Sequence[str]) -> dict[str, Any]:
    hashed, reading, begun = 0, 0.0, time.perf_counter()
    for path in paths:
        start = time.perf_counter()
        with open(path, "rb") as file:
            data = file.read()
        reading += time.perf_counter() - start
        try:
            for picture in pictures(data):
                assert picture.pixels.size
            hashed += 1
        except NearsearchError:
            pass
    seconds = time.perf_counter() - begun
    return {"seconds": seconds, "read": reading, "hashed": hashed, "failed": len(paths) - hashed}


def stages(job: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Do in one process what a hashing process does to a file, and take the CPU time of each."""
    _stages_all(job["warm"])
    yield {}
    yield _stages_all(job["paths"])


def _stages_all(paths: Sequence[str]) -> dict[str, Any]:
    took: Counter[str] = Counter()
    hashed, clock, begun = 0, time.process_time, time.perf_counter()
    for path in paths:
        marks = [clock()]
        with open(path, "rb") as file:
            data = file.read()
        marks.append(clock())
        for name in ("sha256", "md5", "sha1"):
            hashlib.new(name, data, usedforsecurity=False).hexdigest()
            marks.append(clock())
        names = ("read", "sha256", "md5", "sha1")
        took.update(dict(zip(names, np.diff(marks).tolist(), strict=True)))
        start = clock()
        try:
            for picture in pictures(data):
                decoded = clock()
                hash_pixels(picture.pixels, PDQ)
                took["decode"] += decoded - start
                start = clock()
                took["kernel"] += start - decoded
            hashed += 1
        except NearsearchError:
            took["decode"] += clock() - start
    return {
        "seconds": time.perf_counter() - begun,
        "hashed": hashed,
        "failed": len(paths) - hashed,
        **took,
    }


def rival(job: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Decode in full with Pillow and hash with the reference."""
    for path in job["warm"]:
        _reference(path)
    yield {}
    begun = time.perf_counter()
    codes = [_reference(path) for path in job["paths"]]
    yield {"seconds": time.perf_counter() - begun, "hashed": len(codes), "codes": codes}


def _reference(path: str) -> str:
    with open(path, "rb") as file:
        data = file.read()
    with Image.open(io.BytesIO(data)) as image:
        bits, _ = pdqhash.compute(np.asarray(image.convert("RGB")))
    return np.packbits(bits).tobytes().hex()


# --- the product --------------------------------------------------------------------------------


def stream(job: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Hash the files without an index."""
    options = {"digests": job["digests"], "workers": job["workers"]}
    list(ns.hash_stream(job["warm"], ["pdq"], **options))
    yield {}
    found, first, begun = [], 0.0, time.perf_counter()
    for file in ns.hash_stream(job["warm"] + job["paths"], ["pdq"], **options):
        first = first or time.perf_counter()
        found.append(file)
    done = time.perf_counter()
    codes = [file.views["pdq"][0].code if file.views else None for file in found]
    hashed = sum(code is not None for code in codes) - len(job["warm"])
    yield {
        "seconds": done - first,
        "with_start": done - begun,
        "hashed": hashed,
        "failed": len(job["paths"]) - hashed,
        "codes": codes[len(job["warm"]) :] if job.get("codes") else None,
    }


def add(job: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Add the files to a new index and commit.

    `seconds` begins with the first answer, when a hashing process has started, and ends when the
    commit is durable and the index closed.
    """
    root = Path(job["root"])
    _add_all(root, job, job["warm"])
    shutil.rmtree(root)
    yield {}
    yield _add_all(root, job, job["warm"] + job["paths"])
    shutil.rmtree(root)


def _add_all(root: Path, job: dict[str, Any], paths: list[str]) -> dict[str, Any]:
    first: list[float] = []

    def tell(report: ns.IngestReport) -> None:
        if not first and report.total:
            first.append(time.perf_counter())

    begun = time.perf_counter()
    with ns.Writer.open(root, create=True) as writer:
        report = writer.add_files(
            paths, workers=job["workers"], digests=job["digests"], on_progress=tell
        )
        added = time.perf_counter()
    done = time.perf_counter()
    hashed = report.added + report.duplicate
    assert report.total == len(paths), report.to_json()
    return {
        "seconds": done - first[0],
        "with_start": done - begun,
        "commit": done - added,
        "hashed": hashed - len(job["warm"]),
        "failed": report.failed + report.skipped,
    }


# --- many small files ---------------------------------------------------------------------------


def many(job: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Add a tree; with `again`, its index is there, and nothing has changed."""
    root, count = Path(job["root"]), job["count"]
    times, totals = [], []

    def tell(report: ns.IngestReport) -> None:
        if not totals or report.total > totals[-1]:
            times.append(time.perf_counter())
            totals.append(report.total)

    _add_all(root.with_name("warm-index"), job | {"digests": ()}, job["warm"])
    shutil.rmtree(root.with_name("warm-index"))
    yield {}
    begun = time.perf_counter()
    with ns.Writer.open(root, create=True) as writer:
        before = writer.generation
        report = writer.add_files(
            [job["tree"]],
            workers=job["workers"],
            commit_every=job["commit_every"],
            on_progress=tell,
        )
    done = time.perf_counter()
    with ns.Index.open(root) as index:
        generation, members = index.generation, index.stats()["members"]
    shards = sum(path.is_dir() for path in root.glob("shards/*"))
    marks = np.linspace(0, count, TENTHS + 1)
    if not job["again"]:  # the start of the processes is no part of the first tenth
        marks[0] = min(SETTLED, marks[1] / 2)
    rates = np.diff(marks) / np.diff(np.interp(marks, [0, *totals], [begun, *times]))
    yield {
        "seconds": done - begun,
        "hashed": report.unchanged if job["again"] else report.added + report.duplicate,
        "failed": report.failed + report.skipped,
        "members": members,
        "commits": generation - before,
        "shards": shards,
        "rates": rates.round(1).tolist(),
        "longest_pause": float(np.diff(times).max()) if len(times) > 1 else 0.0,
    }


# --- one job ------------------------------------------------------------------------------------

CASES: Final[dict[str, Callable[[dict[str, Any]], Any]]] = {
    case.__name__: case for case in (decode, stages, rival, stream, add, many)
}


def peak_bytes() -> int:
    """Return the most memory this process had, from its own beginning on.

    As `ru_maxrss`, which also counts what the process that started this one had.
    """
    (line,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return 1024 * int(line)


def _cpu(who: int) -> float:
    usage = resource.getrusage(who)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    answers = sys.stdout
    sys.stdout = sys.stderr
    job = json.loads(sys.stdin.readline())
    steps = CASES[job["case"]](job)
    next(steps)
    print("ready", file=answers, flush=True)
    sys.stdin.readline()
    starting, own = _cpu(resource.RUSAGE_CHILDREN), _cpu(resource.RUSAGE_SELF)
    found = next(steps)
    found["parent_cpu"] = _cpu(resource.RUSAGE_SELF) - own
    # That of the hashing processes of both runs, while they warmed up and now; twice they started.
    found["workers_cpu"] = _cpu(resource.RUSAGE_CHILDREN) - 2 * starting
    next(steps, None)  # tidy up
    found["peak"] = peak_bytes()
    found["peak_worker"] = 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    print(json.dumps(found), file=answers, flush=True)


if __name__ == "__main__":
    main()
