"""Views: what else of a picture is hashed than the whole, of known pictures and of queries.

A known picture and a query meet if any view of the one is near any view of the other. So both have
a few: zooms and what is inside a border on the known side, where each costs a code that is kept;
the eight orientations, rotations and moves on the side of the query, where each costs a search.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from nearsearch.hashers import pdq
from nearsearch.hashers.wdct import ORIENTATIONS, WHOLE, Box, Place, Reduced

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from nearsearch.spec import Spec

_UPRIGHT: Final = ("",)
_MOST_BORDERS: Final = 2  # of those that are found, the most certain
_ZOOMS: Final = {"zoomed 0.9": Place(0.9), "zoomed 0.8": Place(0.8)}
_ROTATIONS: Final = {
    f"rotated {degrees}, zoomed {zoom}": Place(zoom, degrees=degrees)
    for zoom, steps in ((0.9, (-5, 5)), (0.8, (-18, -15, -12, -8, -4, 4, 8, 12, 15, 18)))
    for degrees in steps
}
_MOVES: Final = {
    f"moved {x:+d} {y:+d}, zoomed 0.9": Place(0.9, x * 0.05, y * 0.05)
    for y in (-1, 0, 1)
    for x in (-1, 0, 1)
    if x or y
}


class Ladder(NamedTuple):
    """Which views are hashed.

    Attributes
    ----------
    turns
        In which orientations the whole picture, and what is inside its border.
    places
        Further views of what is inside the border, or of the whole where there is none: upright.
    has_borders
        Whether borders are looked for.
    """

    turns: tuple[str, ...] = _UPRIGHT
    places: dict[str, Place] = {}  # noqa: RUF012
    has_borders: bool = True


LADDERS: Final = {
    "none": Ladder(has_borders=False),
    "known": Ladder(places=_ZOOMS),
    "fast": Ladder(ORIENTATIONS, {"zoomed 0.9": Place(0.9)}),
    "thorough": Ladder(
        ORIENTATIONS,
        {
            "zoomed 0.95": Place(0.95),
            "zoomed 0.9": Place(0.9),
            "zoomed 0.8": Place(0.8),
            **_ROTATIONS,
            **_MOVES,
        },
    ),
}
"""Views by name: those of known pictures, and the three choices for queries."""


FILM_LADDERS: Final = {
    "none": Ladder(has_borders=False),
    "known": Ladder(),
    "fast": Ladder(("", "mirrored")),
    "thorough": Ladder(ORIENTATIONS, {"zoomed 0.9": Place(0.9)}),
}
"""Those of each frame of a film: few, as there are many frames, and one that is found is enough."""

WITH_VIEWS: Final = ("pdq", "wdct")
"""Algorithms of which more than the picture as it is can be hashed."""


class View(NamedTuple):
    """A code of one view: its name is empty for the picture as it is."""

    name: str
    code: NDArray[np.uint8]
    quality: int


class Views:
    """The views of one picture, under as many specs as are asked; it is reduced only once.

    Parameters
    ----------
    pixels
        As for `hashers.hash_pixels`, C-contiguous.
    ladder
        A key of `LADDERS`.
    is_film
        Whether the picture is a frame of a film: `FILM_LADDERS` then.
    """

    def __init__(self, pixels: NDArray[np.uint8], ladder: str, *, is_film: bool = False) -> None:
        self._pixels = pixels
        self._ladder = (FILM_LADDERS if is_film else LADDERS)[ladder]
        self._reduced: Reduced | None = None
        self._borders: list[Box] | None = None

    def of(self, spec: Spec) -> Iterator[View]:
        """Yield the views under a spec, the whole picture first.

        ``pdq`` has orientations and what is inside borders, of queries only. Other specs than these
        two have no further views, as each would take their whole time again.
        """
        if spec.algorithm == "wdct":
            yield from self._of_wdct()
        elif spec.algorithm == "pdq":
            yield from self._of_pdq()

    def _of_wdct(self) -> Iterator[View]:
        turns, places, _ = self._ladder
        borders = self._find_borders()
        yield from self._turned("", WHOLE, turns)
        for number, box in enumerate(borders):
            yield from self._turned(_border_name(number), box, turns)
        name, box = ("", WHOLE) if not borders else (_border_name(0), borders[0])
        for place_name, place in places.items():
            (code,), quality = self._grid().codes(box, place)
            yield View(_joined(name, place_name), code, quality)

    def _turned(self, name: str, box: Box, turns: tuple[str, ...]) -> Iterator[View]:
        codes, quality = self._grid().codes(box, Place(), turns)
        for turn, code in zip(turns, codes, strict=True):
            yield View(_joined(name, turn), code, quality)

    def _of_pdq(self) -> Iterator[View]:
        yield from _pdq_turned("", self._pixels, self._ladder.turns)
        if len(self._ladder.turns) == 1:  # known pictures keep the code that others exchange
            return
        height, width = self._pixels.shape[:2]
        for number, box in enumerate(self._find_borders()):
            x, y = round(box.left * width), round(box.top * height)
            part = self._pixels[y : round(box.bottom * height), x : round(box.right * width)]
            pixels = np.ascontiguousarray(part)
            yield from _pdq_turned(_border_name(number), pixels, self._ladder.turns)

    def _grid(self) -> Reduced:
        if self._reduced is None:
            self._reduced = Reduced(self._pixels)
        return self._reduced

    def _find_borders(self) -> list[Box]:
        if self._borders is None:
            self._borders = _borders_of(self._grid()) if self._ladder.has_borders else []
        return self._borders


def _borders_of(reduced: Reduced) -> list[Box]:
    """Return what is inside the borders of a picture, the most certain first."""
    from nearsearch.kernels import borders

    found = np.empty((4, 4), np.float32)
    count = borders.find(reduced.grid, found)
    return [Box(*map(float, box)) for box in found[: min(count, _MOST_BORDERS)]]


def _border_name(number: int) -> str:
    return "trimmed" if number == 0 else "trimmed otherwise"


def _joined(*names: str) -> str:
    return ", ".join(filter(None, names))


_PDQ_ORDER: Final = (
    *("", "turned 90", "turned 180", "turned 270"),
    *("mirrored, turned 180", "mirrored", "mirrored, turned 90", "mirrored, turned 270"),
)
"""The orientations as PDQ's reference orders them."""


def _pdq_turned(name: str, pixels: NDArray[np.uint8], turns: tuple[str, ...]) -> Iterator[View]:
    code, quality = pdq.hash_pixels(pixels, 8 * pdq.CODE_BYTES)
    yield View(name, code, quality)
    if len(turns) > 1:
        codes = dict(zip(_PDQ_ORDER, pdq.dihedral_codes(pixels), strict=True))
        for turn in turns[1:]:
            yield View(_joined(name, turn), codes[turn], quality)
