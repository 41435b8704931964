"""What views cost: of hashing beside decoding, and of queries over a million pictures.

    python bench/variants.py [--items 1000000] [--media DIR] [--folder DIR] [--out FILE]

Prints tables, and writes them to a file if one is named. Times are medians; the cases of a round
take turns. Drawn pictures are smooth, and so cheap to decode; with --media those of a folder are
hashed as well. Nothing else should run on the machine.
"""

from __future__ import annotations

import argparse
import io
import shutil
import tempfile
import time
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from PIL import Image

import nearsearch as ns
from nearsearch.hashers import Views, hash_pixels
from nearsearch.hashes import VARIANTS
from nearsearch.media.image import Pictures
from nearsearch.spec import get_spec
from nearsearch.synthetic import make_picture, random_codes

if TYPE_CHECKING:
    from collections.abc import Callable

SIZES: Final = ((256, 256), (340, 256), (640, 480), (1280, 960), (2048, 1536), (4000, 3000))
ROUNDS: Final = 21
MIN_SIDE: Final = 256
TRIES: Final = 5  # of each real file; the quickest counts
PICTURES: Final = 41
KNOWN_VIEWS: Final = 3  # under wdct, of a picture without a border


def jpeg(seed: int, width: int, height: int) -> bytes:
    """Return a synthetic photograph as a file."""
    small = Image.fromarray(make_picture(seed, "leaves", min(width, 1280), min(height, 960)))
    buffer = io.BytesIO()
    small.resize((width, height), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def decoded(data: bytes) -> Any:
    """Return the pixels that both specs see."""
    (picture,) = Pictures(data, "luma-2048", max_pixels=10**9)
    return picture.pixels


def timed(function: Callable[[], object]) -> float:
    """Return the milliseconds that a call takes."""
    start = time.perf_counter()
    function()
    return 1e3 * (time.perf_counter() - start)


def hashing() -> list[str]:
    """Compare decoding with decoding and hashing."""
    pdq, wdct = get_spec("pdq"), get_spec("wdct")

    def all_views(pixels: Any, ladder: str) -> None:
        views = Views(pixels, ladder)
        for spec in (pdq, wdct):
            list(views.of(spec))

    cases: dict[str, Callable[[bytes], object]] = {
        "decode": decoded,
        "+ wdct": lambda data: hash_pixels(decoded(data), wdct),
        "+ pdq": lambda data: hash_pixels(decoded(data), pdq),
        "+ both, known": lambda data: all_views(decoded(data), "known"),
        "+ both, fast": lambda data: all_views(decoded(data), "fast"),
        "+ both, thorough": lambda data: all_views(decoded(data), "thorough"),
    }
    names = list(cases)
    text = [f"| JPEG | {' | '.join(names)} | wdct / decode |", "| --- |" + " ---: |" * 7]
    for width, height in SIZES:
        data = jpeg(7, width, height)
        times: dict[str, list[float]] = {name: [] for name in names}
        for turn in range(ROUNDS + 1):
            for name in names[turn % 6 :] + names[: turn % 6]:
                times[name].append(timed(lambda name=name, data=data: cases[name](data)))
        median = {name: float(np.median(of[1:])) for name, of in times.items()}
        pairs = zip(times["+ wdct"][1:], times["decode"][1:], strict=True)
        ratio = float(np.median([one / other for one, other in pairs]))
        shown = [f"{median[name]:.2f} ms" for name in names]
        text.append(f"| {width}x{height} | {' | '.join(shown)} | {ratio:.2f} |")
    return text


def of_media(media: Path) -> list[str]:
    """Compare decoding with `wdct` for the pictures of a folder whose sides are 256 or more."""
    wdct, times = get_spec("wdct"), defaultdict(list)
    for path in sorted(media.rglob("*")):
        try:
            with Image.open(path) as picture:
                name, is_large = str(picture.format), min(picture.size) >= MIN_SIDE
            data = path.read_bytes() if is_large else b""
            pixels = decoded(data) if is_large else None
        except (OSError, ValueError, ns.errors.NearsearchError):
            continue  # not a picture
        if pixels is not None:
            pairs = [
                (timed(partial(decoded, data)), timed(partial(hash_pixels, pixels, wdct)))
                for _ in range(TRIES)
            ]
            times[name].append(np.min(pairs, axis=0))
    text = ["| real files | number | wdct / decode, median | quartiles | of all time |"]
    text.append("| --- |" + " ---: |" * 4)
    everything = [pair for of in times.values() for pair in of]
    for name, of in [*sorted(times.items()), ("all", everything)]:
        decode, kernel = np.array(of).T
        low, middle, high = 1 + np.quantile(kernel / decode, [0.25, 0.5, 0.75])
        together = 1 + kernel.sum() / decode.sum()
        text.append(
            f"| {name} | {len(of)} | {middle:.2f} | {low:.2f} to {high:.2f} | {together:.2f} |"
        )
    return text


def queries(folder: Path, n_items: int) -> list[str]:
    """Time queries over as many codes as that many pictures have."""
    root = folder / "million.ns"
    with ns.Writer.open(root, create=True) as writer:
        for spec, views in (("pdq", 1), ("wdct", KNOWN_VIEWS)):
            for view in range(views):
                codes = random_codes(n_items, 256, seed=view)
                keys = [f"{spec}-{view}-{i}" for i in range(n_items)]
                writer.add_codes(codes, keys=keys, spec=spec, contribution=f"{spec}-{view}")
                writer.commit()
        writer.add_files([make_files(folder)], contribution="real")
        writer.commit()
        writer.compact()
    asked = sorted((folder / "pictures").iterdir())
    text = ["| variants | codes asked | whole query, p50 | p90 | search alone, p50 | matches |"]
    text.append("| --- |" + " ---: |" * 5)
    with ns.Index.open(root) as index, ns.WorkerPool() as pool:
        index.warm_up()
        index.query([str(asked[0])], variants="thorough", pool=pool)
        for variants in VARIANTS:
            whole = [
                timed(lambda p=path, v=variants: index.query([str(p)], variants=v, pool=pool))
                for path in asked
            ]
            alone, n_codes, n_matches = [], [], 0
            for path in asked:
                hashes = [
                    ns.hash_files([path], spec, variants=variants, pool=pool)
                    for spec in ("pdq", "wdct")
                ]
                n_codes.append(sum(len(of.codes) for of in hashes))
                start = time.perf_counter()
                n_matches += sum(len(index.search(of)) > 0 for of in hashes)
                alone.append(1e3 * (time.perf_counter() - start))
            p50, p90 = np.percentile(whole, [50, 90])
            text.append(
                f"| {variants} | {np.median(n_codes):.0f} | {p50:.1f} ms | {p90:.1f} ms | "
                f"{np.median(alone):.1f} ms | {n_matches} of {2 * len(asked)} |"
            )
    return text


def make_files(folder: Path) -> Path:
    """Draw the pictures that are asked for: 640x480, each known."""
    pictures = folder / "pictures"
    pictures.mkdir()
    for seed in range(PICTURES):
        (pictures / f"{seed:02}.jpg").write_bytes(jpeg(seed, 640, 480))
    return pictures


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--media", type=Path, help="a folder of real pictures")
    parser.add_argument("--folder", type=Path, help="where the index is made")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(dir=options.folder))
    try:
        text = [*hashing(), ""]
        if options.media:
            text += [*of_media(options.media), ""]
        text += queries(folder, options.items)
    finally:
        shutil.rmtree(folder)
    print("\n".join(text))
    if options.out:
        options.out.write_text("\n".join(text) + "\n")


if __name__ == "__main__":
    main()
