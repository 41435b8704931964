"""How fast films are hashed, against decoding them only, and how fast one is searched for.

Called by `films.py --speed`. In each round all that is compared takes turns; a ratio is that of a
round, and the median of the rounds is shown. CPU time is that of the process.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from unittest import mock

import av
import film_files as files
import film_scenes as scenes
import numpy as np
import pyarrow as pa
from film_clips import Copy
from film_files import Piece
from ingest_tables import keep, table
from PIL import Image

import nearsearch as ns
from nearsearch import index as index_module
from nearsearch.hashes import hash_under
from nearsearch.media import seen
from nearsearch.media.containers import Bounds
from nearsearch.media.sampling import ASKED, Sampling
from nearsearch.spec import get_spec
from nearsearch.synthetic import random_codes

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

SIZES: Final = {"480p": (854, 480), "720p": (1280, 720)}
RATE: Final = 30
GRAIN: Final = 3.0  # grey levels, as of a camera: drawn films are too easy to decode
QUERY_SECONDS: Final = 300
A_CHUNK: Final = 1_000_000
_WANTED: Final = {
    "specs": [get_spec("pdq"), get_spec("wdct")],
    "digests": (),
    "max_pixels": 1 << 28,
    "bounds": Bounds(max_bytes=1 << 30),
}


# --- the films ----------------------------------------------------------------------------------


def _film(name: str, seconds: int, seed: int) -> scenes.Original:
    size = SIZES.get(name.split("-")[0], (320, 240))
    codec = "h264 long" if name[0] in "47" else "h264"
    return scenes.Original(name, "pans", seed, size, RATE, seconds * RATE, codec, False)


def _grained(film: scenes.Original) -> Iterator[Image.Image]:
    rng = files.generator(film.seed, "grain")
    width, height = film.size
    field = rng.normal(0, GRAIN, (2 * height, 2 * width, 1)).astype(np.float32)
    for picture in scenes.frames(film):
        y, x = rng.integers(0, (height, width))
        pixels = np.asarray(picture) + field[y : y + height, x : x + width]
        yield Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _write(folder: Path, film: scenes.Original) -> None:
    if not (folder / film.file).exists():
        pictures = _grained(film) if film.size in SIZES.values() else scenes.frames(film)
        files.write(folder / film.file, pictures, film.rate, film.codec)


def _write_query(folder: Path, known: str, host: scenes.Original) -> str:
    """Write a film of which the middle is known."""
    length, half = 40.0, (QUERY_SECONDS - 40.0) / 2
    pieces = (
        Piece(host.file, 0.0, half),
        Piece(known, 0.0, length),
        Piece(host.file, half, 2 * half),
    )
    copy = Copy("query", "query", "pans", pieces, host.rate, ((files.FIT, 0),))
    if not (folder / copy.file).exists():
        files.write(folder / copy.file, files.frames_of(folder, copy), copy.rate, copy.codec)
    return copy.file


# --- what takes turns ---------------------------------------------------------------------------


def decode(path: str) -> int:
    """Decode all frames on one thread, and do nothing else."""
    count = 0
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        stream.codec_context.thread_type = "NONE"
        for _ in container.decode(stream):
            count += 1
    return count


def pipeline(path: str, sampling: Sampling) -> int:
    """Do what a hashing process does with a film that is added; return the number of codes."""
    wanted = seen.Wanted(views="known", sampling=sampling, **_WANTED)
    with Path(path).open("rb") as source:
        *_, facts = seen.film(source, wanted)
    return sum(map(len, (facts or {})["codes"].values()))


def timed(call: Callable[[], Any]) -> tuple[float, float, Any]:
    """Return wall and CPU seconds, and what came out."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = call()
    return time.perf_counter() - wall, time.process_time() - cpu, result


def _row(what: str, ratios: list[float], aim: float, note: str = "") -> dict[str, Any]:
    low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
    return {
        "what": what,
        "ratio": f"{middle:.2f}",
        "quartiles": f"{low:.2f} to {high:.2f}",
        "aim": f">= {aim}" if aim else "",
        "note": note,
    }


def one_process(folder: Path, films: list[scenes.Original], rounds: int) -> list[dict[str, Any]]:
    """Compare the pipeline with decoding only, and with keyframes only."""
    rows = []
    full, keys = Sampling(), Sampling(frames="keyframes")
    for film in films:
        path = folder / film.file
        name = str(path)
        pipeline(name, keys)  # compiles
        cases: dict[str, Callable[[], int]] = {
            "decode": lambda name=name: decode(name),
            "pipeline": lambda name=name: pipeline(name, full),
            "keyframes": lambda name=name: pipeline(name, keys),
        }
        times = []
        for number in range(rounds):
            order = list(cases)[number % 3 :] + list(cases)[: number % 3]
            times.append({case: timed(cases[case]) for case in order})
        mbits = 8e-6 * path.stat().st_size / film.seconds
        last = times[-1]
        speed = np.median([film.frames / each["decode"][1] for each in times])
        note = f"{mbits:.1f} Mbit/s, {film.frames} frames, {speed:.0f} decoded a CPU second"
        for place, clock in enumerate(("wall", "CPU")):
            rates = [each["decode"][place] / each["pipeline"][place] for each in times]
            rows.append(_row(f"pipeline / decode only, {film.name}, {clock}", rates, 0.85, note))
            rates = [each["pipeline"][place] / each["keyframes"][place] for each in times]
            note_keys = f"{last['keyframes'][2]} codes, {last['pipeline'][2]} in full"
            rows.append(_row(f"keyframes / full, {film.name}, {clock}", rates, 5, note_keys))
    return rows


def two_processes(folder: Path, pair: list[str], small: list[str], rounds: int) -> Any:
    """Compare two hashing processes with one, and two that only decode with one after the other."""
    names = [str(folder / name) for name in pair]
    added, ceiling = [], []
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        list(pool.map(decode, names))
        for number in range(rounds):
            took = {n: _adding(folder, pair, small, n) for n in ((1, 2), (2, 1))[number % 2]}
            added.append(took[1] / took[2])
            alone = timed(lambda: [pool.submit(decode, name).result() for name in names])[0]
            both = timed(lambda: list(pool.map(decode, names)))[0]
            ceiling.append(alone / both)
    return [
        _row("add_files, 2 workers / 1", added, 1.8),
        _row("decode only, 2 processes / 1", ceiling, 0, "what the machine has"),
    ]


def _adding(folder: Path, pair: list[str], small: list[str], workers: int) -> float:
    with tempfile.TemporaryDirectory() as scratch:
        with ns.Writer.open(Path(scratch) / "i.ns", create=True) as writer:
            writer.add_files([folder / name for name in small], workers=workers)  # starts them
            begun = time.perf_counter()
            report = writer.add_files([folder / name for name in pair], workers=workers)
            took = time.perf_counter() - begun
        if report.added != len(pair):
            raise SystemExit(f"not added: {report}")
    return took


# --- the search ---------------------------------------------------------------------------------


def search(folder: Path, known: str, query: str, count: int, rounds: int) -> list[dict[str, Any]]:
    """Ask `count` random codes and a film with a film of five minutes."""
    root = Path(tempfile.mkdtemp(prefix="i-", dir=folder))
    try:
        with ns.Writer.open(root / "i.ns", create=True, specs=["pdq"]) as writer:
            begun = time.perf_counter()
            for first in range(0, count, A_CHUNK):
                size = min(A_CHUNK, count - first)
                keys = pa.array([f"f{n}" for n in range(first, first + size)], pa.large_string())
                writer.add_codes(random_codes(size, 256, 7 + first), keys=keys)
                print(f"\r{first + size:,} codes", end="", flush=True)
            writer.add_files([folder / known])
            writer.commit()
            writer.compact()
            built = time.perf_counter() - begun
            print(f", {built:.0f} s")
        size = sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
        with ns.Index.open(root / "i.ns") as index:
            index.warm_up()
            note = f"{count:,} codes, {size / 1e9:.2f} GB, built in {built:.0f} s"
            rows = _searched(index, str(folder / query), rounds)
        return [*rows, {"what": "index of synthetic codes", "note": note}]
    finally:
        shutil.rmtree(root)


def _searched(index: ns.Index, query: str, rounds: int) -> list[dict[str, Any]]:
    """Time what `Index.query` does after hashing."""
    hashed = timed(lambda: hash_under([query], index.specs, variants="fast", sampling=ASKED))
    hashes, times = hashed[2], []
    with mock.patch.object(index_module, "hash_under", return_value=hashes):
        for _ in range(rounds + 2):
            asked = timed(lambda: index.query([query]))
            times.append((asked[0], timed(asked[2].segments)[0]))
    matches = asked[2]
    segments = matches.segments().to_pylist()
    searched, grouped = np.median(times[2:], axis=0)
    found = "; ".join(
        f"{row['query_time_ms'] / 1000:.0f}-{row['query_end_ms'] / 1000:.0f} s is "
        f"{row['time_ms'] / 1000:.0f}-{row['end_ms'] / 1000:.0f} s of {Path(row['key']).name}"
        for row in segments
    )
    facts = f"{len(hashes[0].codes):,} codes asked, {len(matches):,} frame matches; found: {found}"
    total = np.sum(times[2:], axis=1)
    return [
        {
            "what": f"{QUERY_SECONDS} s film, search and segments",
            "ratio": f"{np.median(total):.3f} s",
            "quartiles": " to ".join(f"{q:.3f}" for q in np.quantile(total, [0.25, 0.75])),
            "aim": "< 1 s of 36 M",
            "note": facts,
        },
        {"what": "of it the search", "ratio": f"{searched:.3f} s"},
        {"what": "of it the segments", "ratio": f"{grouped:.3f} s"},
        {"what": "first call, not warm", "ratio": f"{sum(times[0]):.3f} s"},
        {"what": "hashing, apart", "ratio": f"{hashed[0]:.1f} s"},
    ]


def measure(folder: Path, options: argparse.Namespace) -> None:
    """Make the films that are not there, and measure everything."""
    folder = folder / "speed"
    folder.mkdir(parents=True, exist_ok=True)
    length = 12 if options.quick else 40
    timed_films = [_film(f"{name}-{length}", length, 1) for name in SIZES]
    second = _film(f"480p-{length}-b", length, 2)
    small = [_film(f"small-{n}", 2, 10 + n) for n in range(4)]
    host = _film("host", QUERY_SECONDS - 40, 3)
    known = _film("480p-40", 40, 1)
    films = list(dict.fromkeys([host, *timed_films, second, known, *small]))
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        list(pool.map(_write, [folder] * len(films), films))
    query = _write_query(folder, known.file, host)
    rows = one_process(folder, timed_films, options.rounds)
    pair = [timed_films[0].file, second.file]
    rows += two_processes(folder, pair, [film.file for film in small], options.rounds)
    rows += search(folder, known.file, query, int(options.codes), options.rounds)
    names = ("what", "ratio", "quartiles", "aim", "note")
    rows = [{name: row.get(name, "") for name in names} for row in rows]
    keep(options.out, "films-speed", [table(rows)], rows)
