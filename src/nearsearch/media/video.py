"""Film -> upright 8-bit luma of its sampled frames, decoded with FFmpeg through PyAV.

It decides which stream of a file is read, when its frames are shown and what is left of damaged
ones. It refuses to know about paths, processes and hashes. Import it in worker processes only:
hostile bytes meet C decoders here.
"""

from __future__ import annotations

import io
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import numpy as np

from nearsearch.errors import MediaError, NotMediaError
from nearsearch.media.formats import is_film, sniff
from nearsearch.media.image import Picture
from nearsearch.media.lengths import stated_length
from nearsearch.media.luma import Luma
from nearsearch.media.sampling import Chooser, shown

if TYPE_CHECKING:
    from collections.abc import Iterator

    from av.container import InputContainer
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream
    from numpy.typing import NDArray

    from nearsearch.media.sampling import Sampling

_HEAD: Final = 4096
_LATEST: Final = 2**31 - 1  # milliseconds; headers can claim years
_LEAST_PYAV: Final = 18
_PATIENCE: Final = 100  # failed reads of a file until the rest of it is given up
_USUAL_STEP: Final = 40_000  # microseconds; a film that states no rate

_DEMUXERS: Final = {
    **dict.fromkeys(("3GP", "MOV", "MP4"), "mov"),
    **dict.fromkeys(("WEBM", "MKV"), "matroska"),
    "AVI": "avi",
    "WMV": "asf",
    "FLV": "flv",
    "OGG": "ogg",
    "RM": "rm",
}


@dataclass(frozen=True, slots=True)
class Frame(Picture):
    """One sampled frame: a `Picture` of luma only, with `time_ms` when it appears.

    Attributes
    ----------
    end_ms
        When the next sampled frame appears, or the film ends; not before `time_ms`.
    """

    end_ms: int


class Film:
    """The sampled frames of one film, to be iterated over once; decoded when they are asked for.

    Times count from the first frame that could be decoded. Frames are turned and mirrored as the
    file asks, in quarter turns. They stay as they were coded in every other way: not stretched to
    the sample aspect ratio, not deinterlaced, fields woven together, nor mapped from HDR, and an
    alpha channel is ignored. Luma is Y as coded, expanded to 0..255, or of RGB as libswscale
    converts it.

    A frame that equals the one before it has the very same object as `pixels`, so that it need not
    be hashed again.

    The first stream of moving pictures is read: no cover, no preview, and if there are more,
    `problem` says so. Damaged packets are passed over; of damaged frames whatever the decoder made
    is given.

    Parameters
    ----------
    source
        The file, seekable, open for as long as the film is read. No other file, no network is ever
        opened: what a file refers to reads as empty.
    sampling
        Which frames to give.
    max_pixels
        Limit of one frame's pixels, inclusive.
    max_frames
        Limit of the number of frames given, at least 1; `problem` says that there were more.

    Attributes
    ----------
    format
        What `sniff` said.
    width, height
        Size of the stream as its header has it, turned like the first frame once that is there.
    duration_ms
        What the file states, or None; after the last frame until when that was shown.
    n_frames
        How many frames were decoded so far.
    problem
        What is wrong with the file as far as it was read: complete after the last frame. None if
        nothing is.

    Raises
    ------
    NotMediaError
        No film format we know, or no moving pictures in it.
    MediaError
        PyAV is not installed, the file cannot be opened, a frame is of more than `max_pixels`
        pixels; while iterating, and before the first frame only: no frame could be decoded.
    OSError
        `source` cannot be read.
    """

    def __init__(
        self, source: BinaryIO, *, sampling: Sampling, max_pixels: int, max_frames: int
    ) -> None:
        source.seek(0)
        head = source.read(_HEAD)
        name = sniff(head)
        if name is None or not is_film(name):
            raise NotMediaError("no known film format")
        self.format = name
        self._av = _pyav()
        size = source.seek(0, io.SEEK_END)
        stated = stated_length(source, name, size)
        self._truncated = f"truncated: {size:,} bytes of at least {stated:,}" * (size < stated)
        self._sampling, self._max_pixels, self._max_frames = sampling, max_pixels, max_frames
        source.seek(0)
        self._container = self._opened(source, head)
        self._stream = self._moving_pictures()
        self.width, self.height = (
            self._stream.codec_context.width,
            self._stream.codec_context.height,
        )
        self._check_size(self.width, self.height)
        self.duration_ms = self._stated_duration()
        self.n_frames = 0
        self._bad: Counter[str] = Counter()
        self._stopped = ""
        self._luma = Luma(self._av.video.reformatter)

    @property
    def problem(self) -> str | None:
        """What is wrong with the file as far as it was read."""
        problems = [self._truncated, *(f"{n:,} {what}" for what, n in self._bad.items())]
        if self._n_streams > 1:
            problems.append(f"1 of {self._n_streams} video streams was read")
        return "; ".join(filter(None, (*problems, self._stopped))) or None

    def __iter__(self) -> Iterator[Frame]:
        """Decode on, and yield each sampled frame when the next one is there."""
        chooser = Chooser(self._sampling)
        held: tuple[NDArray[np.uint8], int] | None = None
        n_given, end_us = 0, 0
        with self._container:
            for frame, start_us, end_us in shown(self._stamped(), self._step()):
                if not chooser.wants(start_us, end_us, partial(self._luma.glance, frame)):
                    continue
                if n_given == self._max_frames:
                    self._stopped = f"stopped after {n_given:,} sampled frames"
                    end_us = start_us
                    break
                pixels = self._luma.of(frame)
                if held is None:
                    self.height, self.width = pixels.shape
                else:
                    if np.array_equal(pixels, held[0]):
                        pixels = held[0]
                    yield _given(*held, start_us)
                held = pixels, start_us
                n_given += 1
            if held is None:
                raise MediaError(self._no_frame(), "decode")
            end_ms = _milliseconds(end_us)
            if self._sampling.frames == "keyframes" and not (self._truncated or self._stopped):
                end_ms = max(end_ms, self.duration_ms or 0)
            self.duration_ms = end_ms
            yield _given(*held, end_ms * 1000)

    # --- the file ------------------------------------------------------------------------------

    def _opened(self, source: BinaryIO, head: bytes) -> InputContainer:
        """Open `source` with the demuxer of its sniffed format: no other parser meets the bytes."""
        try:
            return self._av.open(
                source,
                format=_DEMUXERS.get(self.format) or _mpeg_demuxer(head),
                options={"enable_drefs": "0", "max_pixels": self._decoder_limit()},
                io_open=lambda *_: io.BytesIO(),  # in place of each other file it may ask for
                metadata_errors="replace",
            )
        except Exception as exc:
            if self._is_of_source(exc):
                raise
            reason = self._truncated or f"not readable as {self.format}: {_detail(exc)}"
            raise MediaError(reason, "decode") from exc

    def _decoder_limit(self) -> str:
        # Decoders count whole blocks: 1920 x 1088 for 1920 x 1080.
        return str(min(2 * self._max_pixels + 2**16, 2**31 - 1))

    def _moving_pictures(self) -> VideoStream:
        marks = self._av.stream.Disposition
        still = marks.attached_pic | marks.timed_thumbnails | marks.still_image
        streams = [each for each in self._container.streams.video if not each.disposition & still]
        self._n_streams = len(streams)
        if not streams:
            others = self._container.streams
            raise NotMediaError("no video stream" + " (audio only)" * bool(others.audio))
        stream = next((each for each in streams if each.codec_context is not None), None)
        if stream is None:
            raise MediaError("no decoder for its codec", "decode")
        context = stream.codec_context
        context.options = {"max_pixels": self._decoder_limit()}
        context.thread_count = 1  # one process a core is at work already
        context.thread_type = "NONE"
        if self._sampling.frames == "keyframes":
            context.skip_frame = "NONKEY"
        return stream

    def _check_size(self, width: int, height: int) -> None:
        if width * height > self._max_pixels:
            raise MediaError(
                f"{width:,} x {height:,} pixels exceed the limit of {self._max_pixels:,}", "decode"
            )

    def _stated_duration(self) -> int | None:
        length, base = self._stream.duration, self._stream.time_base
        if length is None or base is None:
            length, base = self._container.duration, self._av.time_base**-1
        if length is None or length <= 0:
            return None
        return min(int(length * base * 1000 + 0.5), _LATEST)

    def _step(self) -> int:
        """Return how long a frame lasts on average, in microseconds."""
        rate = self._stream.average_rate or self._stream.guessed_rate
        return min(max(round(1_000_000 / rate), 1), 10_000_000) if rate else _USUAL_STEP

    # --- its frames ----------------------------------------------------------------------------

    def _stamped(self) -> Iterator[tuple[VideoFrame, int | None, int]]:
        """Yield the frames with time stamp and duration in microseconds, as the file has them."""
        base = self._stream.time_base
        ticks, second = (base.numerator * 1_000_000, base.denominator) if base else (0, 1)
        for frame in self._decoded():
            if frame.width * frame.height > self._max_pixels:
                if not self.n_frames:
                    self._check_size(frame.width, frame.height)
                self._bad[f"frames of more than {self._max_pixels:,} pixels"] += 1
                continue
            if self._sampling.frames == "keyframes" and not frame.key_frame:
                continue  # not every decoder knows how to skip them
            self.n_frames += 1
            self._bad_if("damaged frames", frame.is_corrupt)
            stamp = frame.dts if frame.pts is None else frame.pts
            lasts = (frame.duration or 0) * ticks // second
            yield frame, None if stamp is None else stamp * ticks // second, lasts

    def _decoded(self) -> Iterator[VideoFrame]:
        """Yield the frames of one packet after the other; those that fail are counted."""
        for packet in self._packets():
            self._bad_if("incomplete packets", packet.is_corrupt)
            try:
                frames = packet.decode()
            except Exception:
                self._bad["packets that could not be decoded"] += 1
            else:
                yield from frames
        with suppress(Exception):  # whatever is left in the decoder
            yield from self._stream.codec_context.decode(None)

    def _packets(self) -> Iterator[Packet[VideoStream]]:
        for _ in range(_PATIENCE):
            try:
                # An empty packet would end the decoder's work; we do that ourselves.
                for packet in self._container.demux(self._stream):
                    if packet.size:
                        yield packet
            except Exception as exc:
                if self._is_of_source(exc):
                    raise
                self._bad["failed reads"] += 1
            else:
                return

    def _bad_if(self, what: str, is_bad: bool) -> None:
        if is_bad:
            self._bad[what] += 1

    def _no_frame(self) -> str:
        return "; ".join(filter(None, ("no frame could be decoded", self.problem)))

    def _is_of_source(self, exc: Exception) -> bool:
        """Tell an error of the file object from FFmpeg's, which has classes of the same kind."""
        return isinstance(exc, OSError) and not isinstance(exc, self._av.FFmpegError)


def _pyav() -> Any:
    """Return PyAV: not loaded before a film is met, as it brings a hundred decoders."""
    try:
        import av
        import av.video.reformatter
    except ImportError as exc:
        reason = "films need PyAV, which is not installed: pip install av"
        raise MediaError(reason, "decode") from exc
    if int(av.__version__.partition(".")[0]) < _LEAST_PYAV:
        # Earlier ones do not offer libswscale's exact rounding.
        reason = f"video needs PyAV {_LEAST_PYAV} or later, found {av.__version__}"
        raise MediaError(reason, "decode")
    return av


def _detail(exc: Exception) -> str:
    return getattr(exc, "strerror", None) or str(exc) or type(exc).__name__


def _mpeg_demuxer(head: bytes) -> str:
    """Return which of the three kinds of MPEG stream this is."""
    return {b"\0\0\1\xba": "mpeg", b"\0\0\1\xb3": "mpegvideo"}.get(head[:4], "mpegts")


def _milliseconds(time_us: int) -> int:
    return min((time_us + 500) // 1000, _LATEST)


def _given(pixels: NDArray[np.uint8], start_us: int, end_us: int) -> Frame:
    height, width = pixels.shape
    start_ms = _milliseconds(start_us)
    end_ms = max(start_ms, _milliseconds(end_us))
    return Frame(pixels, width, height, "frame", start_ms, end_ms)
