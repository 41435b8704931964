"""What each hash still finds of altered pictures, at equal rates of false matches.

    python bench/quality.py --photographs DIR [--drawings DIR] [--out DIR] [--quick]

Pictures of the folders (or of a list of files: ``@FILE``) and synthetic ones are altered in the
ways of `alterations.py`; each copy is compared with its original under every system of
`quality_systems.py`. Unrelated pictures are compared with each other, photographs also with the
quarters of others: they say which distance a system may have at a rate of false matches,
photographs and drawings apart. A run with ``--count 0`` measures only this, and ``--rates DIR``
takes it from there. Writes `distances.npz`, `rates.csv`, `quality.csv`, `quality.md`,
`quality-*.svg`, and, to look at, the nearest pairs that are taken to be unrelated, `nearest-*.png`:
those that show the same thing belong into the list that `--related` names. ``--tables DIR`` makes
the tables and heat maps of a run again.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import zlib
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import quality_rates as rates
import quality_tables as tables
from PIL import Image, ImageDraw
from quality_systems import distances, systems

from nearsearch.synthetic import KINDS, make_picture

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from quality_systems import Codes

SUFFIXES: Final = {".jpg", ".jpeg", ".png", ".webp"}
SIDE: Final = 768  # of the originals, at most
DISTRACTOR_SIDE: Final = 384  # of those that are only compared with each other
QUARTERS: Final = ((0, 0, 0.5, 0.5), (0.5, 0, 1, 0.5), (0, 0.5, 0.5, 1), (0.5, 0.5, 1, 1))
SHEET_PAIRS: Final = 24
PROBE: Final = 40  # pictures that tell how far unrelated ones are apart


def load(name: str, side: int) -> Image.Image:
    """Return a picture of a file, or a synthetic one (``leaves:7``), at most `side` long."""
    kind, _, number = name.partition(":")
    if kind in KINDS:
        return Image.fromarray(make_picture(int(number), kind, side, side * 3 // 4))
    with Image.open(name) as image:
        image.draft("RGB", (2 * side, 2 * side))
        if image.has_transparency_data:
            layer = image.convert("RGBA")
            paper = Image.new("RGB", image.size, "white")
            paper.paste(layer, mask=layer.getchannel("A"))
        else:
            paper = image.convert("RGB")
    paper.thumbnail((side, side), Image.Resampling.LANCZOS)
    return paper


def listed(given: str | None) -> list[str]:
    """Return the files of a folder, or those that a list names, in an order that mixes them."""
    if not given:
        return []
    if given.startswith("@"):
        found = Path(given[1:]).read_text().split("\n")
    else:
        found = [str(path) for path in Path(given).rglob("*") if path.suffix.lower() in SUFFIXES]
    return sorted(filter(None, found), key=lambda name: (zlib.crc32(name.encode()), name))


# --- what processes do ----------------------------------------------------------------------------


def altered(name: str) -> NDArray[np.int32]:
    """Return the distance of each altered copy from its original, (rows, systems); -1 for none."""
    image = load(name, SIDE)
    pixels, used = np.asarray(image), systems()
    known = [system.known(pixels) for system in used]
    far = np.full((len(tables.ROWS), len(used)), -1, np.int32)
    for row, (alteration, severity) in enumerate(tables.ROWS):
        rng = np.random.default_rng([zlib.crc32(f"{name}/{alteration.name}/{severity}".encode())])
        copy = np.asarray(alteration.alter(image, severity, rng))
        for column, system in enumerate(used):
            asked = system.asked(copy)
            if len(asked) and len(known[column]):
                far[row, column] = distances(asked, known[column], system.apart).min()
    return far


def distractor(name: str, quarters: bool) -> list[list[tuple[Codes, list[Codes]]]]:
    """Return for each part of a picture and each system what is known, and what is asked.

    Systems without variants also ask with the mirrored picture: two pairs and not one.
    """
    image = load(name, 2 * DISTRACTOR_SIDE if quarters else DISTRACTOR_SIDE)
    width, height = image.size
    parts = [image]
    if quarters:
        boxes = [(a * width, b * height, c * width, d * height) for a, b, c, d in QUARTERS]
        parts += [image.crop(tuple(map(round, box))) for box in boxes]
    found = []
    for part in parts:
        part.thumbnail((DISTRACTOR_SIDE, DISTRACTOR_SIDE), Image.Resampling.LANCZOS)
        pixels = np.asarray(part)
        mirrored = np.ascontiguousarray(pixels[:, ::-1])
        found.append(
            [
                (
                    system.known(pixels),
                    [system.asked(p) for p in ((pixels, mirrored)[: 2 - system.has_variants])],
                )
                for system in systems()
            ]
        )
    return found


def mapped(pool: Any, what: str, function: Any, names: list[str], *rest: Any) -> Iterator[Any]:
    """Do it for every name, and say how far it is."""
    begun = time.monotonic()
    columns = [[value] * len(names) for value in rest]
    for done, result in enumerate(pool.map(function, names, *columns, chunksize=1), start=1):
        seconds = time.monotonic() - begun
        print(f"\r{what}: {done} of {len(names)}, {seconds:.0f} s", end="", file=sys.stderr)
        yield result
    print(file=sys.stderr)


# --- false matches --------------------------------------------------------------------------------


def false_matches(
    found: list[list[list[tuple[Codes, list[Codes]]]]],
    names: list[str],
    related: set[frozenset[str]],
    out: Path,
    kind: str,
) -> dict[str, rates.Curve]:
    """Return the curve of every system from pictures that are taken to be unrelated."""
    parts = [part for picture in found for part in picture]
    picture = np.repeat(np.arange(len(found)), [len(parts_of) for parts_of in found])
    number = {name: i for i, name in enumerate(names)}
    excluded = {
        (number[one] * len(names) + number[other])
        for pair in related
        if len(pair) == 2 and pair <= number.keys()
        for one, other in (tuple(pair), tuple(pair)[::-1])
    }
    excluded |= {i * len(names) + i for i in range(len(names))}
    left_out = np.array(sorted(excluded))
    is_whole = np.concatenate([np.arange(len(parts_of)) == 0 for parts_of in found])
    n_parts = len(found[0])
    n_pairs = (2 * n_parts - 1) * (len(found) ** 2 - len(excluded))
    curves = {}
    for column, system in enumerate(systems()):
        known = rates.joined([part[column][0] for part in parts])
        ways = len(parts[0][column][1])
        asked = rates.joined([code for part in parts for code in part[column][1]])
        step = max(1, len(parts) // PROBE)
        is_probe = asked.owners // ways % step == 0
        probe = rates.Owned(asked.codes[is_probe], asked.owners[is_probe])
        one, other, far = rates.nearest_pairs(system, probe, known, len(parts), 10**9)
        far = np.sort(far[picture[one // ways] != picture[other]])
        reach = int(far[len(far) // 300]) + 2
        one, other, far = rates.nearest_pairs(system, asked, known, len(parts), reach)
        one = one // ways
        is_unrelated = ~np.isin(picture[one] * len(names) + picture[other], left_out)
        # Quarters of two pictures are no pictures of their own: those of discs are all alike.
        is_unrelated &= is_whole[one] | is_whole[other]
        one, other, far = one[is_unrelated], other[is_unrelated], far[is_unrelated]
        curves[system.name] = rates.curve(far, ways * n_pairs)
        if system.name in ("pdq", "wdct", "wdct, thorough"):
            nearest = np.argsort(far, kind="stable")
            pairs = [(names[picture[one[i]]], names[picture[other[i]]], far[i]) for i in nearest]
            draw_nearest(pairs, out / f"nearest-{kind}-{system.name.split(', ')[-1]}.png")
    return curves


def draw_nearest(pairs: list[tuple[str, str, int]], path: Path) -> None:
    """Draw the nearest pairs side by side, each two pictures once, with names and distance."""
    seen: dict[frozenset[str], tuple[str, str, int]] = {}
    for one, other, far in pairs:
        seen.setdefault(frozenset((one, other)), (one, other, far))
        if len(seen) == SHEET_PAIRS:
            break
    sheet = Image.new("RGB", (3 * 420, 220 * ((len(seen) + 2) // 3)), "white")
    lines = []
    for place, (one, other, far) in enumerate(seen.values()):
        x, y = place % 3 * 420, place // 3 * 220
        for image, left in ((load(one, 200), x), (load(other, 200), x + 205)):
            sheet.paste(image, (left, y))
        ImageDraw.Draw(sheet).text((x + 4, y + 202), f"{far}", "black")
        lines.append(f"{far}\t{one}\t{other}\n")
    sheet.save(path)
    path.with_suffix(".txt").write_text("".join(lines))


# --- the run --------------------------------------------------------------------------------------


def main() -> None:
    """Measure, or make the tables again."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--photographs", metavar="DIR|@FILE", help="pictures nobody tuned by")
    parser.add_argument("--drawings", metavar="DIR|@FILE", help="drawings, maps, screenshots")
    parser.add_argument(
        "--count", type=int, default=120, help="photographs that are altered; 0 for rates only"
    )
    parser.add_argument("--distractors", type=int, default=1500, help="of each kind, at most")
    parser.add_argument("--rates", metavar="DIR", type=Path, help="a run whose rates are taken")
    parser.add_argument("--related", metavar="FILE", help="pairs of files that are not unrelated")
    parser.add_argument("--out", type=Path, default=Path("quality"))
    parser.add_argument("--tables", metavar="DIR", type=Path, help="only make the tables again")
    parser.add_argument("--quick", action="store_true", help="synthetic pictures, a minute or two")
    options = parser.parse_args()
    if options.tables:
        tables.write(options.tables)
        return
    if options.quick:
        options.count, options.distractors = 12, 60
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    related = set()
    if options.related:
        lines = Path(options.related).read_text().splitlines()
        related = {frozenset(line.split("\t")[-2:]) for line in lines if line}
    n_synthetic = max(options.distractors // 8, options.count)
    synthetic = [f"{KINDS[i % len(KINDS)]}:{100_000 + i}" for i in range(n_synthetic)]
    sets = {
        "photographs": (listed(options.photographs), options.count, True),
        "drawings": (listed(options.drawings), options.count // 2, False),
        "synthetic": (synthetic, options.count // 4, True),
    }
    measured: dict[str, tuple[NDArray[np.int32], dict[str, rates.Curve]]] = {}
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        for kind, (names, count, quarters) in sets.items():
            chosen = names[: options.distractors]
            if not chosen:
                continue
            if options.rates:
                curves = tables.load_rates(options.rates)[kind]
            else:
                parts = list(mapped(pool, f"unrelated {kind}", distractor, chosen, quarters))
                curves = false_matches(parts, chosen, related, out, kind)
                del parts
            copies = list(mapped(pool, f"altered {kind}", altered, names[:count]))
            far = np.array(copies, np.int32).reshape(-1, len(tables.ROWS), len(systems()))
            measured[kind] = far, curves
            tables.save(out, [system.name for system in systems()], measured)
    tables.write(out)


if __name__ == "__main__":
    main()
