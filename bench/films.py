"""What is found of altered films, where, and what is found that is not there.

    python bench/films.py --folder DIR [--media DIR] [--count 40] [--out DIR] [--quick]
    python bench/films.py --speed [--codes 36e6] [--folder DIR] [--out DIR]

Makes labelled clips (`film_clips.py`) in the folder, or takes those that are there, puts the known
ones into an index, asks with all others at default settings and compares the segments with what was
shown. Writes `films.csv`, a row for each copy and known film that it shows, and `films.md`.
``--speed`` measures instead (`film_speed.py`): `films-speed.csv` and `films-speed.md`.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Final

import film_clips as clips_of
import film_files as files
import film_speed
from film_clips import PICTURE_SHOWN, TARGETED, told
from ingest_tables import keep, table

import nearsearch as ns

if TYPE_CHECKING:
    from collections.abc import Iterable

    from film_clips import Clips, Copy, Span

    Row = dict[str, Any]

COVERED: Final = 0.8
"""Part of what is shared that the segments must cover, in the query."""
OFF: Final = 1500
"""Milliseconds that a segment may be off."""
BEYOND: Final = 2000
"""Milliseconds that it may reach beyond what is shared."""
AIM: Final = 0.95
UNRELATED: Final = "unrelated"
STILL: Final = "still of a known film"
A_CALL: Final = 12  # films that are asked at once
STILLS: Final = 4  # of each known film
COLUMNS: Final = (
    *("query", "query_time_ms", "query_end_ms", "key", "time_ms", "end_ms", "distance", "spec"),
    *("frames", "query_share", "item_share", "speed"),
)


def segments_of(index: ns.Index, paths: list[str]) -> list[Row]:
    """Ask with films or pictures; return what was found as rows."""
    matches = index.query(paths)
    for failure in matches.failures:
        print(f"\n{failure.key}: {failure.problem}")
    return matches.segments().select(list(COLUMNS)).to_pylist()


def build(clips: Clips, root: Path) -> ns.Index:
    """Index what is known."""
    names = [film.file for film in (*clips.known, *clips.others)]
    with ns.Writer.open(root, create=True) as writer:
        report = writer.add_files([clips.folder / name for name in [*names, *clips.pictures]])
    if report.failures:
        raise SystemExit(f"not indexed: {report.failures}")
    return ns.Index.open(root)


def ask(index: ns.Index, clips: Clips, names: list[str], what: str) -> dict[str, list[Row]]:
    """Return what each file finds, by its name in the folder; so are keys named."""
    found: dict[str, list[Row]] = {name: [] for name in names}
    parts = [names[first : first + A_CALL] for first in range(0, len(names), A_CALL)]
    answers = (segments_of(index, [str(clips.folder / name) for name in part]) for part in parts)
    for rows in told(what, answers, len(parts)):
        for row in rows:
            row["key"] = _name(clips, row["key"])
            found[_name(clips, row["query"])].append(row)
    return found


def _name(clips: Clips, key: str) -> str:
    return key.removeprefix(f"{clips.folder}/")


# --- what was found, and where ------------------------------------------------------------------


def judge(copy: Copy, rows: list[Row]) -> list[Row]:
    """Return a row for each known thing that a copy shows, and of an unrelated film one."""
    shown: defaultdict[str, list[Span]] = defaultdict(list)
    for span in copy.spans:
        shown[span.known].append(span)
    wrong = [_told(row) for row in rows if not _is_right(row, shown.get(row["key"], []))]
    least = 1e-9 if copy.transform == PICTURE_SHOWN else COVERED
    results = []
    for known, spans in shown.items():
        of_it = [row for row in rows if row["key"] == known]
        covered, errors, misplaced = _placed(of_it, spans)
        results.append(
            {
                "known": Path(known).name,
                "shared_s": round(sum(s.query_end - s.query_start for s in spans) / 1000, 2),
                "covered": round(covered, 3),
                "found": int(covered >= least),
                "any": int(bool(errors)),
                "off_ms": round(errors[0]) if errors else "",
                "misplaced": misplaced,
                "segments": "; ".join(map(_told, of_it)),
            }
        )
    results = results or [{}]
    results[0] |= {"false": len(wrong), "false_segments": "; ".join(wrong)}
    head = {"transform": copy.transform, "kind": copy.kind, "copy": copy.file}
    return [head | result for result in results]


def _placed(rows: list[Row], spans: list[Span]) -> tuple[float, list[float], int]:
    """Return the share of the spans that is covered, how far segments are off, how many too far.

    The longest segment first; each is looked at in the middle of what it has in common with a span.
    """
    parts, errors, misplaced = [], [], 0
    for row in sorted(rows, key=lambda row: row["query_time_ms"] - row["query_end_ms"]):
        begin, end, item, item_end = _times(row)
        off = []
        for span in spans:
            low, high = max(begin, span.query_start), min(end, span.query_end)
            if low >= high:
                continue
            middle = (low + high) / 2
            if row["frames"] is None:  # a known picture
                off.append(0.0)
            else:
                part = (middle - span.query_start) / (span.query_end - span.query_start)
                is_at = item + (middle - begin) / (end - begin) * (item_end - item)
                off.append(abs(is_at - span.start - part * (span.end - span.start)))
            if off[-1] <= OFF:
                parts.append((low, high))
        misplaced += min(off, default=0.0) > OFF
        errors += [min(off)] if off else []
    total = sum(span.query_end - span.query_start for span in spans)
    return _length(parts) / total, errors, misplaced


def _length(parts: Iterable[tuple[float, float]]) -> float:
    """Return the length of the union of intervals."""
    length, until = 0.0, float("-inf")
    for begin, end in sorted(parts):
        length += max(0.0, end - max(begin, until))
        until = max(until, end)
    return length


def _times(row: Row) -> tuple[float, ...]:
    names = ("query_time_ms", "query_end_ms", "time_ms", "end_ms")
    return tuple(float(row[name] or 0) for name in names)


def _is_right(row: Row, spans: list[Span]) -> bool:
    """Tell whether a segment is of something shown, and does not reach far beyond it."""
    if not spans:
        return False
    begin, end, item, item_end = _times(row)
    in_query = _beyond(begin, end, [(s.query_start, s.query_end) for s in spans])
    if row["frames"] is None:
        return in_query <= BEYOND
    return max(in_query, _beyond(item, item_end, [(s.start, s.end) for s in spans])) <= BEYOND


def _beyond(begin: float, end: float, spans: list[tuple[float, float]]) -> float:
    """Return the longest stretch of an interval that is in none of the spans."""
    longest, until = 0.0, begin
    for low, high in [*sorted(spans), (end, end)]:
        longest = max(longest, min(low, end) - until)
        until = max(until, high)
    return longest


def _told(row: Row) -> str:
    begin, end, item, item_end = (time / 1000 for time in _times(row))
    frames = f" {row['frames']} frames" if row["frames"] else ""
    place = f"{begin:.1f}-{end:.1f} is {Path(row['key']).name} {item:.1f}-{item_end:.1f}"
    return f"{place} ({row['spec']} {row['distance']},{frames} x {row['speed'] or 1:.2f})"


# --- stills -------------------------------------------------------------------------------------


def grab(clips: Clips) -> dict[str, tuple[str, float]]:
    """Write frames of the known films as JPEGs; return of which film each is, and when shown."""
    folder = clips.folder / "stills"
    folder.mkdir(exist_ok=True)
    stills = {}
    for film in told("stills", clips.known, len(clips.known)):
        rng = files.generator(film.seed, "stills")
        numbers = rng.integers(film.rate, film.frames - film.rate, STILLS)
        names = {int(n): f"stills/{film.name}-{n:04d}.jpg" for n in numbers}
        if not all((clips.folder / name).exists() for name in names.values()):
            for number, frame in enumerate(files.decoded(clips.folder / film.file)):
                if number in names:
                    frame.to_image().save(clips.folder / names[number], quality=75)
        stills |= {name: (film.file, 1000 * n / film.rate) for n, name in names.items()}
    return stills


def judge_still(name: str, film: str, time_ms: float, rows: list[Row]) -> Row:
    """Return the row of a picture that was grabbed."""
    off = []
    for row in rows:
        if row["key"] == film and row["time_ms"] is not None:
            begin, end = row["time_ms"], row["end_ms"]
            off.append(max(begin - time_ms, time_ms - end, 0.0))
    wrong = [_told(row) for row in rows if row["key"] != film]
    return {
        "transform": STILL,
        "kind": film.split(".")[0].split("-", 2)[2],
        "copy": name,
        "known": film,
        "found": int(min(off, default=1e9) <= OFF),
        "any": int(bool(off)),
        "covered": "",
        "off_ms": round(min(off)) if off else "",
        "misplaced": int(min(off, default=0.0) > OFF),
        "false": len(wrong),
        "false_segments": "; ".join(wrong),
    }


# --- tables -------------------------------------------------------------------------------------


def interval(found: int, of: int) -> str:
    """Return a share in per cent, with the 95 % interval of Wilson's."""
    if not of:
        return ""
    share, z = found / of, 1.96
    centre = (share + z * z / (2 * of)) / (1 + z * z / of)
    half = z / (1 + z * z / of) * (share * (1 - share) / of + z * z / (4 * of * of)) ** 0.5
    low, high = max(0.0, centre - half), min(1.0, centre + half)
    return f"{share:.1%} ({low:.0%} to {high:.0%})"


def summary(rows: list[Row], by: str) -> list[Row]:
    """Return a line for each group."""
    groups: defaultdict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row[by]].append(row)
    lines = []
    for name, part in groups.items():
        shown = [row for row in part if "known" in row]
        covered = [row["covered"] for row in shown if row["covered"] != ""]
        lines.append(
            {
                by: name,
                "copies": len({row["copy"] for row in part}),
                "shared films": len(shown),
                "found": interval(sum(row["found"] for row in shown), len(shown)),
                "any segment": f"{sum(r['any'] for r in shown) / len(shown):.1%}" if shown else "",
                "median covered": f"{median(covered):.1%}" if covered else "",
                "misplaced": sum(row["misplaced"] for row in shown) if shown else "",
                "false": sum(row.get("false", 0) for row in part),
            }
        )
    return lines


def report(rows: list[Row], out: Path | None) -> None:
    """Print and write the tables."""
    aimed = [line for line in summary(rows, "transform") if line["transform"] in TARGETED]
    short = [line["transform"] for line in aimed if float(line["found"].split("%")[0]) < 100 * AIM]
    n_false = sum(row.get("false", 0) for row in rows if row["transform"] != STILL)
    films = [row for row in rows if row["transform"] not in (STILL, PICTURE_SHOWN, UNRELATED)]
    missed = [
        {name: row[name] for name in ("transform", "copy", "covered", "segments")}
        for row in films
        if not row["found"]
    ]
    wrong = [
        {"copy": row["copy"], "false": row["false_segments"]} for row in rows if row.get("false")
    ]
    texts = [
        f"Found: {COVERED:.0%} of what is shared is covered by segments that are at most "
        f"{OFF / 1000} s off. At least {AIM:.0%} is the aim for {', '.join(TARGETED)}; below it: "
        f"{', '.join(short) or 'none'}. False, of which there should be none: {n_false}.\n",
        table(summary(rows, "transform")),
        "By what the known film shows:\n",
        table(summary(films, "kind")),
        "The same of the transforms with an aim:\n",
        table(summary([row for row in films if row["transform"] in TARGETED], "kind")),
        *(["Not found:\n", table(missed)] if missed else []),
        *(["False:\n", table(wrong)] if wrong else []),
    ]
    keep(out, "films", texts, rows)


def quality(options: argparse.Namespace, folder: Path) -> None:
    """Make, index, ask, judge."""
    longest = 12.0 if options.quick else 40.0
    clips = clips_of.plan(folder, options.count, options.seed, options.media, longest=longest)
    print(f"{len(clips.copies)} copies, {clips_of.make(clips)} files written")
    stills = grab(clips)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as scratch, build(clips, Path(scratch) / "i.ns") as index:
        found = ask(index, clips, [copy.file for copy in clips.copies], "copies asked")
        for copy in clips.copies:
            rows += judge(copy, found[copy.file])
        found = ask(index, clips, [film.file for film in clips.strangers], "unrelated asked")
        for film in clips.strangers:
            wrong = [_told(row) for row in found[film.file]]
            head = {"transform": UNRELATED, "kind": film.kind, "copy": film.file}
            rows.append(head | {"false": len(wrong), "false_segments": "; ".join(wrong)})
        found = ask(index, clips, list(stills), "stills asked")
        rows += [judge_still(name, *shown, found[name]) for name, shown in stills.items()]
    report(rows, options.out)


def main() -> None:
    """Measure what is found, or how fast."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--folder", type=Path, metavar="DIR", help="where clips stay; else nowhere")
    parser.add_argument("--media", type=Path, metavar="DIR", help="pictures to pan over")
    parser.add_argument("--count", type=int, default=40, help="known films that are altered")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, metavar="DIR")
    parser.add_argument("--quick", action="store_true", help="a few short films: a minute or two")
    parser.add_argument("--speed", action="store_true", help="times instead of what is found")
    parser.add_argument("--codes", type=float, default=36e6, help="of --speed: known frames")
    parser.add_argument("--rounds", type=int, default=5, help="of --speed")
    options = parser.parse_args()
    if options.quick:
        options.count, options.codes, options.rounds = 4, min(options.codes, 1e6), 3
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch)
        if options.speed:
            film_speed.measure(folder, options)
        else:
            quality(options, folder)


if __name__ == "__main__":
    main()
