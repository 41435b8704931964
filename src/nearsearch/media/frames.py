"""The pictures of a file after its first: how many there are, and each one by its number.

Every page counts, thumbnails and masks too: whoever makes a file decides what it calls a thumbnail,
and could hide a page that way. Those that say nothing new are dropped by their codes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from nearsearch.media.apng import Animation

if TYPE_CHECKING:
    from collections.abc import Callable

    from PIL import Image

MOST: Final = 10_000
"""Frames or pages of a file that are looked at: some bytes of header can claim billions."""

_KINDS: Final = {
    **dict.fromkeys(("GIF", "WEBP", "AVIF"), "frame"),
    **dict.fromkeys(("TIFF", "JPEG", "HEIC"), "page"),  # a JPEG may be an MPO
}


def frames_of(image: Any, name: str, data: bytes) -> Frames | Animation:
    """Return the frames of the file `data` of format `name`, which Pillow opened as `image`.

    Pillow's state moves: what `image` showed must have been used before.
    """
    if name == "PNG" and image.n_frames > 1:
        return Animation(data, image.size, MOST)
    return Frames(image, name)


class Frames:
    """The frames or pages of one file, to be shown in rising order.

    Attributes
    ----------
    kind
        ``"frame"``, which builds on those before it, or ``"page"``.
    first
        The number of the picture that was shown first; of HEIC files any.
    count
        Pictures in the file, `MOST` at most.
    stated
        The same: formats other than PNG do not say it twice.
    """

    def __init__(self, image: Any, name: str) -> None:
        self._image = image
        self.kind = _KINDS.get(name, "page")
        self.first: int = image.tell()
        self.count = self.stated = self._count(name)
        self._shown = self.first
        self._clock = 0.0

    def _count(self, name: str) -> int:
        if name == "GIF":  # Pillow's `n_frames` has no end: 80 million frames fit into a file
            count = self._count_by(lambda index: self._image._seek(index, False))
        elif name == "TIFF":  # takes the square of the pages there
            count = self._count_by(self._image.seek)
        elif name in _KINDS:
            count = getattr(self._image, "n_frames", 1)
        else:  # Pillow's frames are then layers, or sizes of one picture
            count = 1
        if count > 1:
            self._image.seek(self.first)
        return min(count, MOST)

    def _count_by(self, seek: Callable[[int], object]) -> int:
        """Count with a `seek` that decodes nothing; one that fails counts, so that it is told."""
        for index in range(1, MOST):
            try:
                seek(index)
            except EOFError:
                return index
            except Exception:
                if self._image.tell() != index:  # not even the way to the next is known
                    return index + 1
        return MOST

    def cost(self, index: int) -> int:
        """Return how many pixels have to be decoded for picture `index`; a page is moved to."""
        if self.kind == "page":
            self._image.seek(index)
            self._image.decoderconfig = ()  # or the second page of an MPO could not be reduced
            self._shown = index - 1
        width, height = self._image.size
        return int((index - self._shown) * width * height)

    def show(self, index: int) -> Image.Image:
        """Return picture `index`, above that of the last call; a page is not loaded yet.

        Whatever Pillow raises on a damaged one passes through, here and in `cost`.
        """
        if self.kind == "frame":
            for step in range(self._shown + 1, index + 1):
                self._clock += self._image.info.get("duration", 0)
                self._image.seek(step)
                self._shown = step
            self._image.load()
        return self._image  # type: ignore[no-any-return]

    def start_ms(self, index: int) -> float | None:
        """Return when the frame `index`, which was shown last, appears; None for pages."""
        del index
        return self._image.info.get("timestamp", self._clock) if self.kind == "frame" else None
