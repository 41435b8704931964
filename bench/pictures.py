"""The pictures of `bench/ingest.py`: a realistic mix of files, and many small ones.

A few base pictures are drawn; each file is a crop of one, flipped, toned, resized, with the noise
of a sensor where it is a photograph. So a file takes some milliseconds to make, no two are the
same, and a decoder has as much to do as with real ones. Everything follows from the seed, except
the pictures of a folder that is given. The manifest says of each file what it is, in mixed order.
"""

from __future__ import annotations

import io
import json
import math
import multiprocessing
import shutil
import time
import warnings
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import ExifTags, Image

from nearsearch.synthetic import make_picture

BASES: Final = ("leaves", "leaves", "text", "leaves", "shapes", "leaves") * 4
BASE_SIZE: Final = 1280, 960
NOISE: Final = 16  # levels, twice: triangular, deviation about 4.7 after what follows
RESAMPLE: Final = Image.Resampling.BILINEAR
FORMATS: Final = {"JPEG": 0.7, "PNG": 0.16, "WEBP": 0.07, "GIF": 0.03, "BMP": 0.02, "TIFF": 0.02}
LARGEST: Final = {"JPEG": 0, "PNG": 1.6, "WEBP": 2.5, "GIF": 0.5, "BMP": 0.8, "TIFF": 1.2}
SUFFIX: Final = {"JPEG": "jpg", "TIFF": "tif"}
QUALITIES: Final = (60, 75, 80, 85, 90, 95)
# Cameras and screens know few sizes, and how long a size takes depends on the length of its rows.
BIG_SIZES: Final = (
    *((2048, 1536), (2272, 1704), (2560, 1600), (2592, 1944), (3264, 2448), (3840, 2160)),
    *((3872, 2592), (4000, 3000), (4032, 3024), (4032, 3024)),
)
COMMON_SIZES: Final = (
    *((640, 480), (800, 600), (1024, 768), (1280, 720), (1280, 960), (1600, 1200), (1920, 1080)),
)
MEDIA_SHARE: Final = 1 / 3  # of the files, at most: those of the folder that is given
MEDIA_COPIES: Final = 3  # altered ones of each
SMALL_SIDE: Final = 32
SMALL_A_FOLDER: Final = 100


# --- the mixed set ------------------------------------------------------------------------------


def make(folder: Path, count: int, seed: int, media: Path | None) -> list[dict[str, Any]]:
    """Write the pictures with two processes; return what they are, with their paths.

    What is there already of the same make is used again.
    """
    manifest = folder / "manifest.json"
    given = sorted(path for path in media.iterdir() if path.is_file()) if media else []
    make_of = {"count": count, "seed": seed, "media": [path.name for path in given]}
    if manifest.exists() and (known := json.loads(manifest.read_text()))["make"] == make_of:
        return [{**file, "path": str(folder / file["path"])} for file in known["files"]]
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    room = int(count * MEDIA_SHARE)
    chosen = rng.permutation(len(given))[: max(1, room // (1 + MEDIA_COPIES))] if room else []
    jobs: list[tuple[Any, ...]] = [
        (folder, seed, number, str(given[which]), copy)
        for number, (which, copy) in enumerate(
            (which, copy) for which in chosen for copy in range(1 + MEDIA_COPIES)
        )
    ]
    jobs += [(folder, seed, number, None, 0) for number in range(len(jobs), count)]
    jobs = [jobs[place] for place in rng.permutation(len(jobs))]
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        pool.map(_draw, [(folder, seed, number) for number in range(len(BASES))], chunksize=1)
        files = pool.map(_write, jobs, chunksize=16)
    for number in range(len(BASES)):
        _base_path(folder, number).unlink()
    manifest.write_text(json.dumps({"make": make_of, "files": files}))
    return [{**file, "path": str(folder / file["path"])} for file in files]


def _base_path(folder: Path, number: int) -> Path:
    return folder / f"base-{number}.npy"


def _draw(job: tuple[Path, int, int]) -> None:
    folder, seed, number = job
    picture = make_picture((seed << 32) + number, BASES[number], *BASE_SIZE)
    np.save(_base_path(folder, number), picture)


@cache
def _base(folder: Path, number: int) -> Image.Image:
    return Image.fromarray(np.load(_base_path(folder, number)))


@cache
def _noise() -> np.ndarray:
    """Return grey noise in all three channels, larger than any picture."""
    once = np.random.default_rng(0).integers(0, NOISE + 1, (2, 4200, 4200), np.uint8).sum(0)
    return np.repeat(once.astype(np.uint8)[..., None], 3, axis=2)


def _write(job: tuple[Path, int, int, str | None, int]) -> dict[str, Any]:
    """Write one file; return what it is, its path relative to the folder."""
    folder, seed, number, source, copy = job
    rng = np.random.default_rng([seed, number])
    parts = folder / f"{number % 16:02d}"
    parts.mkdir(exist_ok=True)
    if source is not None:
        data, suffix = _altered(rng, Path(source), copy)
    else:
        name = str(rng.choice(list(FORMATS), p=list(FORMATS.values())))
        data, suffix = _generated(rng, folder, name), SUFFIX.get(name, name.lower())
    path = parts / f"{number:06d}.{suffix}"
    path.write_bytes(data)
    return {"path": str(path.relative_to(folder)), "bytes": len(data), **_facts(data)}


def _facts(data: bytes) -> dict[str, Any]:
    """Say what a file is, by Pillow; a broken one is nothing in particular."""
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(data)) as image:
            upright = image.getexif().get(ExifTags.Base.Orientation, 1) == 1
            return {
                "format": str(image.format),
                "pixels": image.width * image.height,
                "plain": upright and image.mode in ("RGB", "L"),  # the rival sees the same picture
            }
    except Exception:
        return {"format": "other", "pixels": 0, "plain": False}


def _size(rng: np.random.Generator, name: str) -> tuple[int, int]:
    """Choose a size: mostly 0.3 to 3 megapixels, from 0.04; of JPEGs up to 12."""
    megapixels = math.exp(rng.uniform(math.log(0.3), math.log(LARGEST[name] or 3)))
    draw = rng.random()
    if draw < 0.15:
        megapixels = math.exp(rng.uniform(math.log(0.04), math.log(0.3)))
    elif name == "JPEG" and draw > 0.6:
        width, height = rng.choice(BIG_SIZES if draw > 0.87 else COMMON_SIZES).tolist()
        return (width, height) if rng.random() < 0.8 else (height, width)
    aspect = rng.choice([4 / 3, 3 / 2, 16 / 9, 1, 3 / 4])
    side = math.sqrt(1e6 * megapixels / aspect)
    return math.ceil(side * aspect), math.ceil(side)


def _generated(rng: np.random.Generator, folder: Path, name: str) -> bytes:
    which = int(rng.integers(len(BASES)))
    base = _base(folder, which)
    size = _size(rng, name)
    share = rng.uniform(0.5, 0.95)
    width, height = (min(share * side, share * BASE_SIZE[0]) for side in base.size)
    left, top = rng.random(2) * (base.width - width, base.height - height)
    image = base.resize(size, RESAMPLE, box=(left, top, left + width, top + height))
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    # Room for the noise at both ends, so that adding it needs no clipping.
    tone = np.clip((np.arange(256) / 255) ** rng.uniform(0.8, 1.25) * (255 - 2 * NOISE), 0, 255)
    image = image.point(tone.astype(np.uint8).tolist() * 3)
    if BASES[which] == "leaves" or rng.random() < 0.3:
        y, x = rng.integers(0, 150, 2)
        grain = _noise()[y : y + size[1], x : x + size[0]]
        if min(size) < 600:  # small ones were scaled down, and their noise with them
            grain = grain // 2
        image = Image.fromarray(np.asarray(image) + grain)
    return _encoded(rng, image, name)


def _encoded(rng: np.random.Generator, image: Image.Image, name: str) -> bytes:
    options: dict[str, Any] = {}
    if name == "JPEG":
        if rng.random() < 0.06:
            image = image.convert("L")
        options = {
            "quality": int(rng.choice(QUALITIES, p=[0.1, 0.2, 0.2, 0.25, 0.2, 0.05])),
            "subsampling": str(rng.choice(["4:2:0", "4:2:2", "4:4:4"], p=[0.7, 0.12, 0.18])),
            "progressive": bool(rng.random() < 0.2),
        }
        if rng.random() < 0.04:  # a camera that was held upright
            exif = Image.Exif()
            exif[ExifTags.Base.Orientation] = 6
            options["exif"] = exif
    elif name == "PNG":
        draw = rng.random()
        if draw < 0.1:
            image.putalpha(image.convert("L").point([min(255, 80 + v) for v in range(256)]))
        elif draw < 0.3:
            image = image.quantize(64, Image.Quantize.FASTOCTREE)
        options["compress_level"] = 3
    elif name == "WEBP":
        options = {"quality": int(rng.integers(60, 95)), "method": 1}
    elif name == "GIF":
        image = image.quantize(256, Image.Quantize.FASTOCTREE)
    elif name == "TIFF" and rng.random() < 0.5:
        options["compression"] = "tiff_lzw"
    buffer = io.BytesIO()
    image.save(buffer, name, **options)
    return buffer.getvalue()


def _altered(rng: np.random.Generator, source: Path, copy: int) -> tuple[bytes, str]:
    """Return a given picture as it is, or smaller or larger and encoded anew, and its suffix."""
    data = source.read_bytes()
    if copy:
        try:
            with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(data)) as image:
                picture = image.convert("RGB")
            share = rng.uniform(0.4, 1.5)
            size = tuple(min(4000, max(8, round(share * side))) for side in picture.size)
            name = str(rng.choice(["JPEG", "PNG", "WEBP"], p=[0.84, 0.08, 0.08]))
            resized = picture.resize(size, RESAMPLE)
            return _encoded(rng, resized, name), SUFFIX.get(name, name.lower())
        except Exception:  # it is broken, or Pillow cannot read it: once more as it is
            return data, source.suffix[1:]
    return data, source.suffix[1:]


# --- many small ones ----------------------------------------------------------------------------


def make_small(folder: Path, count: int, seed: int) -> None:
    """Write `count` distinct small pictures into nested folders with two processes."""
    starts = [(folder, seed, first, count) for first in range(0, count, SMALL_A_FOLDER)]
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        pool.map(_write_small, starts, chunksize=8)


def _write_small(job: tuple[Path, int, int, int]) -> None:
    folder, seed, first, count = job
    place = folder.joinpath(*f"{first // SMALL_A_FOLDER:06d}"[:5], f"{first // SMALL_A_FOLDER:06d}")
    place.mkdir(parents=True)
    rng = np.random.default_rng([seed, first])
    coarse = rng.integers(0, 256, (SMALL_A_FOLDER, 4, 4), np.uint8)
    pixels = coarse.repeat(SMALL_SIDE // 4, axis=1).repeat(SMALL_SIDE // 4, axis=2)
    for number in range(first, min(count, first + SMALL_A_FOLDER)):
        image = Image.fromarray(pixels[number - first])
        if number % 4:
            image.save(place / f"{number:08d}.jpg", quality=90)
        else:
            image.save(place / f"{number:08d}.png", compress_level=1)


def write_warm(folder: Path, count: int) -> list[str]:
    """Write the pictures that come first, so that processes are known to have started."""
    folder.mkdir(exist_ok=True)
    paths = [folder / f"warm-{number}.jpg" for number in range(count)]
    for number, path in enumerate(paths):
        Image.fromarray(make_picture(number, "shapes", 64, 64)).save(path)
    return [str(path) for path in paths]


if __name__ == "__main__":  # to look at a set
    import sys

    begun = time.perf_counter()
    made = make(Path(sys.argv[1]), int(sys.argv[2]), 1, Path(sys.argv[3]) if sys.argv[3:] else None)
    total = sum(file["bytes"] for file in made)
    print(len(made), f"{total / len(made):.0f} bytes each, {time.perf_counter() - begun:.1f} s")
