"""Films and pictures as files: written, read, and put together of pieces of others."""

from __future__ import annotations

import os
import zlib
from fractions import Fraction
from typing import TYPE_CHECKING, Final, NamedTuple

import av
import numpy as np
from alterations import ALTERATIONS
from PIL import Image, ImageOps

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from av import VideoFrame
    from film_clips import Copy

CODECS: Final = {
    "h264": ("libx264", ".mp4", {"preset": "superfast", "crf": "23"}),
    "h264 crf 35": ("libx264", ".mp4", {"preset": "superfast", "crf": "35"}),
    "mpeg4": ("mpeg4", ".avi", {"qmin": "4", "qmax": "10"}),
    "vp9": ("libvpx-vp9", ".webm", {"deadline": "realtime", "cpu-used": "8", "crf": "36"}),
    "ffv1": ("ffv1", ".mkv", {}),
    "h264 long": ("libx264", ".mp4", {"preset": "medium", "crf": "23", "g": "250"}),
}
"""Encoder, suffix, options."""
_CONTAINERS: Final = {".mp4": "mp4", ".avi": "avi", ".webm": "webm", ".mkv": "matroska"}
SUFFIXES: Final = tuple(_CONTAINERS)
_ALTER: Final = {alteration.name: alteration.alter for alteration in ALTERATIONS}
FIT: Final = "fit"  # into the first piece's size


def generator(*parts: object) -> np.random.Generator:
    """Return random numbers of their own for each purpose."""
    return np.random.default_rng([zlib.crc32(repr(part).encode()) for part in parts])


class Piece(NamedTuple):
    """A stretch of a film or picture file in seconds, shown `speed` times as fast; or black."""

    source: str | None
    start: float
    end: float
    speed: float = 1.0

    @property
    def seconds(self) -> float:
        return (self.end - self.start) / self.speed


def given(path: str, size: tuple[int, int], *, whole: bool = False) -> Image.Image:
    """Return a picture of a file, cut to that size, or all of it between black bars.

    Where it is transparent it is laid on white.
    """
    with Image.open(path) as image:
        layer = image.convert("RGBA")
    paper = Image.new("RGB", layer.size, "white")
    paper.paste(layer, mask=layer.getchannel("A"))
    return (ImageOps.pad if whole else ImageOps.fit)(paper, size, Image.Resampling.LANCZOS)


def write(
    path: Path,
    pictures: Iterable[Image.Image | av.VideoFrame],
    rate: int,
    codec: str,
    *,
    drops: bool = False,
) -> None:
    """Encode pictures of one size at `rate` a second; with `drops`, without every third of them."""
    encoder, suffix, options = CODECS[codec]
    part = path.with_name(f"{os.getpid()}-{path.stem}{suffix}.part")
    with av.open(part, "w", format=_CONTAINERS[suffix]) as container:
        stream = container.add_stream(encoder, rate=rate, options=dict(options))
        stream.codec_context.thread_count = 1
        stream.pix_fmt = "yuv420p"
        for number, picture in enumerate(pictures):
            if number == 0:
                stream.width, stream.height = picture.width & ~1, picture.height & ~1
            if drops and number % 3 == 2:
                continue
            frame = picture
            if isinstance(picture, Image.Image):
                even = picture.crop((0, 0, stream.width, stream.height))
                frame = av.VideoFrame.from_image(even)
            frame.pict_type = 0  # for the encoder to choose
            frame.pts, frame.time_base = number, Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    part.replace(path)


def decoded(path: str | Path) -> Iterator[av.VideoFrame]:
    """Yield the frames of a film."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        yield from container.decode(stream)


def rate_of(path: Path) -> float:
    """Return how many frames of a film are shown a second."""
    with av.open(str(path)) as container:
        return float(container.streams.video[0].average_rate or 25)


def usable(paths: Sequence[Path], least: int = 200) -> list[str]:
    """Return the pictures that are large enough, and of those that look alike only one."""
    import nearsearch as ns

    large = []
    for path in paths:
        try:
            with Image.open(path) as image:
                if min(image.size) >= least and image.width * image.height < 3e7:
                    image.load()
                    large.append(str(path))
        except Exception:  # a folder may hold damaged ones on purpose
            continue
    hashes = ns.hash_files(large, "wdct", variants="thorough")
    found: list[str] = []
    known = np.empty((0, 32), np.uint8)
    for number, path in enumerate(large):
        codes = hashes.codes[hashes.file_index == number]
        if not len(codes) or hashes.qualities[hashes.file_index == number][0] < 50:
            continue
        apart = np.bitwise_count(known[:, None] ^ codes[None]).sum(2)
        if not len(known) or apart.min() > 64:
            known = np.concatenate([known, codes[:1]])
            found.append(path)
    return found


# --- of pieces ---


def frames_of(folder: Path, copy: Copy) -> Iterator[Image.Image | VideoFrame]:
    size: tuple[int, int] | None = None
    for piece in copy.pieces:
        for frame in _shown(folder, piece, copy.rate, size or (320, 240)):
            size = size or (frame.width, frame.height)
            yield _altered(frame, copy, size)


def _altered(
    frame: Image.Image | VideoFrame, copy: Copy, size: tuple[int, int]
) -> Image.Image | VideoFrame:
    for name, severity in copy.alter:
        if name == FIT:
            if (frame.width, frame.height) != size:
                frame = frame.reformat(*size)
            continue
        image = frame if isinstance(frame, Image.Image) else frame.to_image()
        # The same in every frame.
        frame = _ALTER[name](image, severity, generator(copy.name, name))
    return frame


def _shown(
    folder: Path, piece: Piece, rate: int, size: tuple[int, int]
) -> Iterator[Image.Image | VideoFrame]:
    """Yield what a piece shows, `rate` times a second."""
    count = round(piece.seconds * rate)
    if piece.source is None:
        yield from [Image.new("RGB", size)] * count
        return
    path = folder / piece.source  # of an absolute one, itself
    if path.suffix not in SUFFIXES:
        yield from [given(str(path), size, whole=True)] * count
        return
    source = enumerate(decoded(path))
    of_source = rate_of(path)
    number, shown = next(source)
    for frame in range(count):
        wanted = int((piece.start + frame / rate * piece.speed) * of_source + 1e-6)
        while number < wanted:
            following = next(source, None)
            if following is None:
                break
            number, shown = following
        yield shown
