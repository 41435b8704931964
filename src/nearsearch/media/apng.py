"""Animated PNGs: each frame composed as the PNG specification says.

Pillow decodes the frames; it does not compose them, because its own composition blends half
transparent pixels into their own alpha and palette pictures by the numbers of their colours.
"""

from __future__ import annotations

import io
import struct
import zlib
from typing import TYPE_CHECKING, Final, NamedTuple

from PIL import Image, PngImagePlugin

from nearsearch.media.pixels import flatten

if TYPE_CHECKING:
    from collections.abc import Iterator

_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_CONTROL: Final = struct.Struct(">IIIIIHHBB")  # the content of fcTL
_HEADER: Final = 16  # where the content of the first chunk begins
_TO_BACKGROUND, _TO_PREVIOUS = 1, 2  # dispose_op; 0 leaves the frame
_OVER = 1  # blend_op; 0 replaces


class _Frame(NamedTuple):
    """One fcTL chunk, its time summed up, and where in the file its compressed rows lie."""

    width: int
    height: int
    left: int
    top: int
    dispose: int
    blend: int
    start_ms: float
    rows: list[tuple[int, int]]


class Animation:
    """The frames of one animated PNG, to be shown in rising order.

    Attributes
    ----------
    first
        The number of the first picture, 0.
    count
        Pictures in the file, its default image included if that is not a frame itself.
    stated
        The number its header promises.
    """

    kind: Final = "frame"
    first: Final = 0

    def __init__(self, data: bytes, size: tuple[int, int], most: int) -> None:
        self._data = data
        self._frames: list[_Frame] = []
        self._shared: dict[bytes, bytes] = {}  # the chunks every frame needs
        self.stated = 1
        default = self._parse(most)
        self._skipped = int(default)
        self.count = max(len(self._frames) + self._skipped, 1)
        self.stated += self._skipped if self.stated > 1 else 0
        self._is_grey = not data[_HEADER + 9] & 2  # by its colour type
        self._canvas = Image.new("RGBA", size)
        self._before = self._canvas  # what lay under the last frame, if that must come back
        self._shown = -1  # of `_frames`

    def _parse(self, most: int) -> bool:
        """Find the frames, `most` of them; return whether the default image is none of them."""
        start, default, seen_rows = 0.0, False, False
        for kind, begin, end in _chunks(self._data):
            if kind == b"fcTL" and end - begin >= _CONTROL.size:
                if len(self._frames) == most:
                    break
                _, width, height, left, top, delay, unit, dispose, blend = _CONTROL.unpack_from(
                    self._data, begin
                )
                frame = _Frame(width, height, left, top, dispose, blend, start, [])
                self._frames.append(frame)
                start += 1000 * delay / (unit or 100)
            elif kind == b"IDAT":
                seen_rows = True
                if self._frames:
                    self._frames[0].rows.append((begin, end))
                else:
                    default = True
            elif kind == b"fdAT" and self._frames:
                self._frames[-1].rows.append((begin + 4, end))  # behind its sequence number
            elif kind == b"acTL" and end - begin >= 4:
                (self.stated,) = struct.unpack_from(">I", self._data, begin)
            elif kind in {b"PLTE", b"tRNS"} and not seen_rows:
                self._shared[kind] = _chunk(kind, self._data[begin:end])
        return default

    def cost(self, index: int) -> int:
        """Return how many pixels have to be decoded and composed to show `index`."""
        return (index - self._skipped - self._shown) * self._canvas.width * self._canvas.height

    def show(self, index: int) -> Image.Image:
        """Return picture `index`, above that of the last call, good until the next call."""
        for position in range(self._shown + 1, index - self._skipped + 1):
            if position:
                self._dispose(self._frames[position - 1])
            self._compose(self._frames[position])
            self._shown = position
        return self._canvas.convert("LA") if self._is_grey else self._canvas

    def start_ms(self, index: int) -> float:
        """Return when picture `index` appears, after the first frame did."""
        return self._frames[index - self._skipped].start_ms

    def _compose(self, frame: _Frame) -> None:
        layer = self._decode(frame)
        if frame.dispose == _TO_PREVIOUS:
            self._before = self._canvas.copy()
        if frame.blend == _OVER:
            self._canvas.alpha_composite(layer, (frame.left, frame.top))
        else:
            self._canvas.paste(layer, (frame.left, frame.top))

    def _dispose(self, frame: _Frame) -> None:
        if frame.dispose == _TO_PREVIOUS:
            self._canvas = self._before
        elif frame.dispose == _TO_BACKGROUND:
            right, bottom = frame.left + frame.width, frame.top + frame.height
            self._canvas.paste((0, 0, 0, 0), (frame.left, frame.top, right, bottom))

    def _decode(self, frame: _Frame) -> Image.Image:
        """Decode one frame as a PNG of its own."""
        right, bottom = frame.left + frame.width, frame.top + frame.height
        if right > self._canvas.width or bottom > self._canvas.height:
            raise ValueError("frame outside of the picture")
        header = struct.pack(">II", frame.width, frame.height)
        header += self._data[_HEADER + 8 : _HEADER + 13]
        rows = b"".join(self._data[begin:end] for begin, end in frame.rows)
        parts = [_chunk(b"IHDR", header), *self._shared.values()]
        parts += [_chunk(b"IDAT", rows), _chunk(b"IEND", b"")]
        image = PngImagePlugin.PngImageFile(io.BytesIO(_SIGNATURE + b"".join(parts)), "")
        image.load()
        deep = image.mode.startswith("I")
        return (flatten(image) if deep else image).convert("RGBA")


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield kind, begin and end of the content of each whole chunk."""
    at = len(_SIGNATURE)
    while at + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        if at + 12 + length > len(data):
            return
        yield kind, at + 8, at + 8 + length
        at += 12 + length


def _chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)
