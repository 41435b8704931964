"""The files of `bench/quality.py`: what was measured, and the tables and pictures made of that."""

from __future__ import annotations

import csv
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import quality_rates as rates
from alterations import ALTERATIONS
from quality_systems import BOTH

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

ROWS: Final = [(alteration, s) for alteration in ALTERATIONS for s in alteration.severities]
SHIPPED: Final = {
    "pdq at 31": {"pdq": 31},
    "as shipped, fast": {"pdq, fast": 31, "wdct, fast": 40},
    "as shipped, thorough": {"pdq, fast": 31, "wdct, thorough": 40},
}
"""What an index with both specs finds at their default radii, whatever the rate."""
SHOWN: Final = (
    *("pdq", "pdq, fast", "wdct", "wdct, fast", "wdct, thorough"),
    *("both, thorough", "pdq at 31", "as shipped, fast", "as shipped, thorough"),
)
OUR_NAMES: Final = ("pdq", "pdq at 31", "wdct", "both", "as shipped")
MILD: Final = {
    "jpeg": (75, 50, 30, 20),
    **dict.fromkeys(("webp", "gif", "resize", "thumbnail", "sharpen")),
    "blur": (1, 2),
    "noise": (5, 15),
    **dict.fromkeys(("brightness", "contrast", "greyscale")),
    "text": (0.04,),
    "logo": (0.1,),
}
TARGETS: Final[dict[str, tuple[dict[str, tuple[float, ...] | None], float]]] = {
    "mild": (MILD, 99),
    "gamma 0.5 to 2": ({"gamma": None}, 95),
    "flips and quarter turns": ({"flip": None, "quarter turn": None}, 99),
    "borders, letterbox, caption and meme bars, photo of a screen": (
        dict.fromkeys(
            ("border", "letterbox", "caption bar", "meme bars", "photo of a screen"), None
        ),
        97,
    ),
    "centred crop to 90 %, rotation to 5 degrees": (
        {"crop, centred": (0.98, 0.95, 0.9), "rotation": (1, 2, 3, 5)},
        96,
    ),
    "centred crop to 80 %": ({"crop, centred": (0.8,)}, 90),
    "crop anywhere to 80 %": ({"crop, anywhere": (0.8,)}, 90),
    "perspective": ({"perspective": None}, 93),
    "mean of the table": ({alteration.name: None for alteration in ALTERATIONS}, 88),
}
"""Rows, and the share of them that should be found, in per cent."""


class Cell(NamedTuple):
    """How many altered copies a system finds."""

    found: int
    of: int

    @property
    def share(self) -> float:
        """Per cent found."""
        return 100 * self.found / self.of

    def interval(self) -> tuple[float, float]:
        """Return Wilson's 95 % interval of the share, in per cent."""
        z, share = 1.96, self.found / self.of
        middle = share + z * z / (2 * self.of)
        half = z * np.sqrt(share * (1 - share) / self.of + z * z / (4 * self.of**2))
        scale = 100 / (1 + z * z / self.of)
        return scale * (middle - half), scale * (middle + half)


# --- what was measured ----------------------------------------------------------------------------


def save(
    out: Path,
    names: list[str],
    measured: dict[str, tuple[NDArray[np.int32], dict[str, rates.Curve]]],
) -> None:
    """Write distances and counts, of which all else can be made again."""
    arrays = {kind: far for kind, (far, _) in measured.items()}
    np.savez_compressed(out / "distances.npz", systems=np.array(names), **arrays)
    with (out / "rates.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["kind", "system", "pairs", "distance", "within"])
        for kind, (_, curves) in measured.items():
            for name, curve in curves.items():
                for far, count in zip(curve.distances, curve.counts, strict=True):
                    rows.writerow([kind, name, curve.n_pairs, far, count])


def load(
    folder: Path,
) -> tuple[list[str], dict[str, NDArray[np.int32]], dict[str, dict[str, rates.Curve]]]:
    """Read what `save` wrote."""
    with np.load(folder / "distances.npz", allow_pickle=False) as arrays:
        names = arrays["systems"].tolist()
        far = {kind: arrays[kind] for kind in arrays.files if kind != "systems"}
    return names, far, load_rates(folder)


def load_rates(folder: Path) -> dict[str, dict[str, rates.Curve]]:
    """Read the curves of a run, by kind and system."""
    curves: dict[str, dict[str, rates.Curve]] = {}
    with (folder / "rates.csv").open(newline="") as file:
        for (kind, name), of_one in groupby(
            csv.DictReader(file), key=lambda row: (row["kind"], row["system"])
        ):
            rows = list(of_one)
            within = np.array([int(row["within"]) for row in rows])
            steps = np.repeat([int(row["distance"]) for row in rows], np.diff(within, prepend=0))
            curves.setdefault(kind, {})[name] = rates.curve(steps, int(rows[0]["pairs"]))
    return curves


# --- what it comes to -----------------------------------------------------------------------------


class Contender(NamedTuple):
    """One system, or two of which either may find: the largest distance that each may have."""

    name: str
    limits: dict[str, int]
    is_counted: bool


def contenders(names: list[str], curves: dict[str, rates.Curve], rate: float) -> list[Contender]:
    """Return all systems with the distances that the rate allows them."""
    found = []
    for name in names:
        limit, is_counted = curves[name].threshold(rate)
        found.append(Contender(name, {name: limit}, is_counted))
    for name, parts in BOTH.items():
        allowed = {part: curves[part].threshold(rate / 2) for part in parts}
        limits = {part: limit for part, (limit, _) in allowed.items()}
        found.append(Contender(name, limits, all(is_counted for _, is_counted in allowed.values())))
    found += [Contender(name, limits, is_counted=False) for name, limits in SHIPPED.items()]
    return found


def cells(contender: Contender, names: list[str], far: NDArray[np.int32], rows: list[int]) -> Cell:
    """Count what is found in some rows of the table."""
    is_found = np.zeros((len(far), len(rows)), np.bool_)
    for name, limit in contender.limits.items():
        of_system = far[:, rows, names.index(name)]
        is_found |= (of_system >= 0) & (of_system <= limit)
    return Cell(int(is_found.sum()), is_found.size)


def is_ours(name: str) -> bool:
    """Tell whether a name is of one of our own systems."""
    return name.split(",")[0] in OUR_NAMES


def rows_of(wanted: dict[str, tuple[float, ...] | None]) -> list[int]:
    """Return the numbers of the rows that a target is about."""
    return [
        i
        for i, (alteration, severity) in enumerate(ROWS)
        if alteration.name in wanted
        and ((only := wanted[alteration.name]) is None or severity in only)
    ]


def write(folder: Path) -> None:
    """Make tables and pictures of what lies in a folder."""
    names, measured, all_curves = load(folder)
    text = ["# What is still found of altered pictures", "", _mild(), ""]
    lines: list[list[Any]] = []
    for kind, far in measured.items():
        # Synthetic pictures are too few, and too unlike each other, for rates of their own.
        if not len(far):
            continue
        curves = all_curves["photographs" if "photographs" in all_curves else kind]
        if kind == "drawings":
            curves = all_curves[kind]
        for rate in rates.RATES:
            for contender in contenders(names, curves, rate):
                for i, (alteration, severity) in enumerate(ROWS):
                    cell = cells(contender, names, far, [i])
                    low, high = cell.interval()
                    limits = "/".join(map(str, contender.limits.values()))
                    lines.append(
                        [
                            *(kind, alteration.group, alteration.name, severity, contender.name),
                            *(rate, limits, contender.is_counted, cell.found, cell.of),
                            *(f"{cell.share:.1f}", f"{low:.1f}", f"{high:.1f}"),
                        ]
                    )
        used = contenders(names, curves, 1e-9)
        text += [f"## {kind.capitalize()}: {len(far)} pictures, {len(ROWS)} copies each", ""]
        text += [*_targets(used, names, far), "", *_table(used, names, far), ""]
        _draw(used, names, far, folder / f"quality-{kind}.svg", kind)
    for kind, curves in all_curves.items():
        text += [f"## False matches of {kind}", "", *_rates(curves), ""]
    (folder / "quality.md").write_text("\n".join(text).rstrip() + "\n")
    with (folder / "quality.csv").open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        head = "kind,group,alteration,severity,system,rate,distance,counted,found,of,share,low,high"
        rows.writerow(head.split(","))
        rows.writerows(lines)


def _mild() -> str:
    """Say which rows are mild."""
    of = (
        f"{name} {', '.join(f'{s:g}' for s in only)}" if only else name
        for name, only in MILD.items()
    )
    return f"Mild are {'; '.join(of)}."


def _row(*values: Any) -> str:
    return "| " + " | ".join(str(value) for value in values) + " |"


def _head(*names: str) -> list[str]:
    return [_row(*names), _row(*("---", *["---:"] * (len(names) - 1)))]


def _targets(used: list[Contender], names: list[str], far: NDArray[np.int32]) -> list[str]:
    shown = [contender for contender in used if contender.name in SHOWN]
    text = _head("per cent found", "target", *(contender.name for contender in shown))
    for name, (wanted, target) in TARGETS.items():
        shares = [f"{cells(c, names, far, rows_of(wanted)).share:.1f}" for c in shown]
        text.append(_row(name, target, *shares))
    return text


def _table(used: list[Contender], names: list[str], far: NDArray[np.int32]) -> list[str]:
    shown = [contender for contender in used if contender.name in SHOWN]
    others = [contender for contender in used if not is_ours(contender.name)]
    text = _head("alteration", *(contender.name for contender in shown), "best rival", "which")
    for i, (alteration, severity) in enumerate(ROWS):
        shares = [cells(c, names, far, [i]).share for c in shown]
        best = max(others, key=lambda c: cells(c, names, far, [i]).found)
        rival = cells(best, names, far, [i]).share
        row = (*(f"{share:.0f}" for share in shares), f"{rival:.0f}", best.name if rival else "")
        text.append(_row(f"{alteration.name} {severity:g}", *row))
    return text


def _rates(curves: dict[str, rates.Curve]) -> list[str]:
    text = _head("system", "pairs", "distance at 1e-6", "at 1e-9, fitted", "nearest pair")
    for name, curve in curves.items():
        (at_6, is_counted), (at_9, _) = curve.threshold(1e-6), curve.threshold(1e-9)
        counted = "" if is_counted else " (fitted)"
        nearest = curve.distances[0] if len(curve.distances) else ""
        text.append(
            _row(name, f"{curve.n_pairs:,}", f"{_or_none(at_6)}{counted}", _or_none(at_9), nearest)
        )
    text += ["", *_head("as shipped", "false matches a pair, fitted")]
    for name, limits in SHIPPED.items():
        rate = sum(
            10 ** (curves[part].slope * limit + curves[part].start)
            for part, limit in limits.items()
        )
        text.append(_row(name, f"{rate:.0e}"))
    return text


def _or_none(distance: int) -> str:
    return "none" if distance < 0 else str(distance)


def _draw(
    used: list[Contender], names: list[str], far: NDArray[np.int32], path: Path, kind: str
) -> None:
    """Draw the shares as a heat map, one row an alteration and severity."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "quality"
    mpl.rcParams["font.size"] = 7
    from matplotlib import pyplot as plt

    ours = [contender for contender in used if is_ours(contender.name)]
    used = [*ours, *(contender for contender in used if not is_ours(contender.name))]
    shares = np.array([[cells(c, names, far, [i]).share for c in used] for i in range(len(ROWS))])
    means = shares.mean(0)
    figure, axes = plt.subplots(figsize=(8.5, 13), layout="constrained")
    axes.imshow(np.vstack([shares, means]), cmap="RdYlGn", vmin=0, vmax=100, aspect="auto")
    labels = [f"{alteration.name} {severity:g}" for alteration, severity in ROWS]
    axes.set_yticks(range(len(ROWS) + 1), [*labels, "mean"])
    axes.set_xticks(range(len(used)), [c.name for c in used], rotation=60, ha="left")
    axes.xaxis.tick_top()
    for row, of_row in enumerate([*shares, means]):
        for column, share in enumerate(of_row):
            ink = "white" if not 15 < share < 85 else "black"
            axes.text(column, row, f"{share:.0f}", ha="center", va="center", size=5, color=ink)
    axes.axvline(len(ours) - 0.5, color="black", linewidth=1.5)
    axes.axhline(len(ROWS) - 0.5, color="black", linewidth=1.5)
    groups: list[str] = [alteration.group for alteration, _ in ROWS]
    for row in range(1, len(ROWS)):
        if groups[row] != groups[row - 1]:
            axes.axhline(row - 0.5, color="black", linewidth=0.7)
    axes.set_title(
        f"{kind}, {len(far)} pictures: per cent of altered copies found\n"
        "at one false match in 1e9 pairs (ours as shipped: at the default radii)"
    )
    axes.spines[:].set_visible(False)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
