"""Films made by PyAV, against an oracle that decodes all of them and picks with plain code."""

from __future__ import annotations

import builtins
import io
import struct
import sys
import tempfile
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from nearsearch.errors import MediaError, NotMediaError
from nearsearch.media.formats import is_film, sniff
from nearsearch.media.lengths import stated_length
from nearsearch.media.sampling import CUT, CUT_GAP, Sampling
from nearsearch.media.video import Film

av = pytest.importorskip("av")

EVERY = Sampling("every")
KEYFRAMES = Sampling("keyframes")
BY_TIME = Sampling(scenes=False)
LIMIT = 10_000_000

SUFFIX_OF = {
    "matroska": ("MKV", "mkv"),
    "webm": ("WEBM", "webm"),
    "mp4": ("MP4", "mp4"),
    "mov": ("MOV", "mov"),
    "avi": ("AVI", "avi"),
    "mpegts": ("MPEG", "ts"),
    "mpeg": ("MPEG", "mpg"),
    "flv": ("FLV", "flv"),
    "asf": ("WMV", "wmv"),
    "ogg": ("OGG", "ogv"),
}


def pictures(n: int, width: int = 96, height: int = 64) -> list[np.ndarray]:
    """Smooth RGB pictures without symmetry, each a little different from the one before."""
    y, x = np.mgrid[0:height, 0:width]
    return [
        np.dstack(
            [
                (x * 2 + 3 * number) % 256,
                (y * 3 + number) % 256,
                np.full_like(x, (number * 5) % 256),
            ]
        ).astype(np.uint8)
        for number in range(n)
    ]


def clip(
    frames: list[np.ndarray],
    container: str = "mp4",
    codec: str = "libx264",
    *,
    pix_fmt: str = "yuv420p",
    rate: int = 10,
    stamps: list[int] | None = None,
    gop: int = 12,
    turn: tuple[int, bool] | None = None,
    options: dict[str, str] | None = None,
    muxer: dict[str, str] | None = None,
) -> bytes:
    """Encode `frames`; `stamps` in thousandths of a second."""
    with tempfile.NamedTemporaryFile() as file:  # "faststart" reads again what it wrote
        with av.open(file.name, "w", format=container, options=muxer or {}) as output:
            stream = output.add_stream(codec, rate=rate, options=options or {})
            stream.height, stream.width = frames[0].shape[:2]
            stream.pix_fmt = pix_fmt
            stream.gop_size = gop
            if turn is not None:
                stream.set_display_rotation(turn[0], hflip=turn[1])
            if stamps is not None:
                stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
            for number, pixels in enumerate(frames):
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                frame.pts = number if stamps is None else stamps[number]
                frame.time_base = Fraction(1, rate) if stamps is None else Fraction(1, 1000)
                output.mux(stream.encode(frame))
            output.mux(stream.encode(None))
        return Path(file.name).read_bytes()


def film(data: bytes, sampling: Sampling = EVERY, **limits: int) -> Film:
    limits = {"max_pixels": LIMIT, "max_frames": 100_000, **limits}
    return Film(io.BytesIO(data), sampling=sampling, **limits)


def read(data: bytes, sampling: Sampling = EVERY, **limits: int) -> list:
    """The frames of a sound film."""
    made = film(data, sampling, **limits)
    frames = list(made)
    assert made.problem is None
    check(made, frames)
    return frames


def check(made: Film, frames: list) -> None:
    """What holds of every film."""
    assert frames[0].time_ms == 0
    for frame, later in pairwise(frames):
        assert frame.end_ms == later.time_ms
    assert frames[-1].end_ms == made.duration_ms >= frames[-1].time_ms
    for frame in frames:
        assert frame.view == "frame"
        assert frame.pixels.dtype == np.uint8
        assert frame.pixels.flags.c_contiguous
        assert frame.pixels.shape == (frame.height, frame.width)


def oracle(data: bytes) -> list[tuple[Fraction, np.ndarray]]:
    """All frames with their time in seconds after the first, and luma by libswscale."""
    with av.open(io.BytesIO(data)) as container:
        frames = [
            (frame.pts * frame.time_base, frame.reformat(format="gray").to_ndarray())
            for frame in container.decode(video=0)
        ]
    return [(at - frames[0][0], luma) for at, luma in frames]


def on_screen(frames: list[tuple[Fraction, np.ndarray]], seconds: Fraction) -> int:
    return max(number for number, (at, _) in enumerate(frames) if at <= seconds)


def same(frames: list, expected: list[tuple[Fraction, np.ndarray]]) -> None:
    assert [frame.time_ms for frame in frames] == [round(at * 1000) for at, _ in expected]
    for frame, (_, luma) in zip(frames, expected, strict=True):
        assert np.array_equal(frame.pixels, luma)


# --- which frames, of which formats -----------------------------------------------------------

FORMATS = [
    ("mp4", "libx264", "yuv420p"),
    ("mp4", "mpeg4", "yuv420p"),
    ("mov", "libx264", "yuv444p"),
    ("mov", "qtrle", "rgb24"),
    ("matroska", "libx264", "yuv420p10le"),
    ("matroska", "libx264", "yuv422p"),
    ("matroska", "libx264rgb", "rgb24"),
    ("matroska", "ffv1", "yuv420p"),
    ("matroska", "ffv1", "gray10le"),
    ("matroska", "ffv1", "gray"),
    ("matroska", "libx265", "yuv420p"),
    ("webm", "libvpx-vp9", "yuv420p"),
    ("webm", "libvpx", "yuv420p"),
    ("avi", "mpeg4", "yuv420p"),
    ("avi", "mjpeg", "yuvj420p"),
    ("avi", "rawvideo", "yuv420p"),
    ("avi", "rawvideo", "bgr24"),
    ("mpegts", "libx264", "yuv420p"),
    ("mpegts", "mpeg2video", "yuv420p"),
    ("mpeg", "mpeg2video", "yuv420p"),
    ("flv", "flv", "yuv420p"),
    ("asf", "wmv2", "yuv420p"),
]


@pytest.mark.parametrize(("container", "codec", "pix_fmt"), FORMATS)
def test_formats_and_samplings_against_the_oracle(container, codec, pix_fmt):
    if codec not in av.codecs_available:
        pytest.skip(f"this FFmpeg has no {codec}")
    data = clip(pictures(25), container, codec, pix_fmt=pix_fmt, gop=8)
    assert sniff(data) == SUFFIX_OF[container][0]
    expected = oracle(data)
    made = film(data)
    assert made.format == SUFFIX_OF[container][0]
    frames = list(made)
    assert made.problem is None
    assert len(frames) == made.n_frames >= 24
    check(made, frames)
    same(frames, expected)
    numbers = sorted({on_screen(expected, Fraction(t)) for t in range(len(expected) // 10 + 1)})
    same(read(data, BY_TIME), [expected[number] for number in numbers])


@pytest.mark.parametrize("interval_ms", [1, 99, 100, 101, 250, 700, 5000])
def test_interval(interval_ms):
    stamps = [0, 100, 130, 131, 400, 1000, 1001, 1999, 2000, 2001, 3500, 3700]
    data = clip(pictures(12), "matroska", "ffv1", stamps=stamps)
    expected = oracle(data)
    end = film(data)
    list(end)
    instants = range(0, end.duration_ms, interval_ms)
    numbers = sorted({on_screen(expected, Fraction(t, 1000)) for t in instants})
    same(
        read(data, Sampling(interval_ms=interval_ms, scenes=False)),
        [expected[number] for number in numbers],
    )


def test_variable_rate_gives_what_is_on_screen():
    stamps = [0, 300, 1700, 1800, 5200, 5300]
    frames = read(clip(pictures(6), "matroska", "ffv1", stamps=stamps), BY_TIME)
    # 1 s shows the frame of 0.3 s, 2 to 5 s that of 1.8 s
    assert [frame.time_ms for frame in frames] == [0, 300, 1800]


@pytest.mark.parametrize(("gop", "n"), [(5, 5), (10, 3), (100, 1)])
def test_keyframes(gop, n):
    data = clip(pictures(25), gop=gop, options={"sc_threshold": "0"})
    expected = oracle(data)
    made = film(data, KEYFRAMES)
    frames = list(made)
    check(made, frames)
    same(frames, expected[::gop])
    assert made.n_frames == len(frames) == n
    assert made.duration_ms == 2500


def scene(number: int) -> list[np.ndarray]:
    return [(pictures(1)[0] // 4 + (120 if number % 2 else 0)).astype(np.uint8)]


def test_scene_changes_are_sampled_when_they_appear():
    data = clip(scene(0) * 13 + scene(1) * 14 + scene(0) * 13, "matroska", "ffv1", gop=100)
    assert [frame.time_ms for frame in read(data, Sampling())] == [0, 1000, 1300, 2000, 2700, 3000]
    assert [frame.time_ms for frame in read(data, BY_TIME)] == [0, 1000, 2000, 3000]


def test_scene_changes_are_limited_in_rate():
    flicker = [scene(number)[0] for number in range(50)]
    data = clip(flicker, "matroska", "ffv1", rate=50)
    times = [frame.time_ms for frame in read(data, Sampling())]
    assert times[0] == 0
    assert 3 <= len(times) <= 1_000_000 // CUT_GAP + 1
    assert all(later - time >= CUT_GAP / 1000 for time, later in pairwise(times))
    assert 0 < CUT < 256


def test_equal_frames_share_their_pixels():
    still = pictures(2)
    frames = read(clip([still[0]] * 4 + [still[1]] * 3, "matroska", "ffv1"))
    shared = [frame.pixels is later.pixels for frame, later in pairwise(frames)]
    assert shared == [True] * 3 + [False] + [True] * 2


def test_every_frame_has_its_own_memory():
    frames = read(clip(pictures(30), "matroska", "rawvideo"))
    copies = [frame.pixels.copy() for frame in frames]
    for frame, copy in zip(frames, copies, strict=True):
        assert np.array_equal(frame.pixels, copy)
    assert len({frame.pixels.ctypes.data for frame in frames}) == 30


# --- pixels -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("codec", "pix_fmt", "tolerance"),
    [
        ("ffv1", "yuv444p", 2),
        ("ffv1", "yuv444p10le", 2),
        ("ffv1", "bgr0", 1),
        ("ffv1", "gray16le", 1),
        ("libx264", "yuvj444p", 2),
        ("rawvideo", "yuyv422", 3),
        ("rawvideo", "nv12", 3),
        ("png", "rgba", 1),
    ],
)
def test_luma_is_that_of_the_rgb_picture(codec, pix_fmt, tolerance):
    picture = pictures(8)[7]
    options = {"qp": "0"} if codec == "libx264" else {}
    container = "avi" if codec == "png" else "matroska"
    data = clip([picture] * 3, container, codec, pix_fmt=pix_fmt, options=options)
    expected = picture.astype(float) @ [0.299, 0.587, 0.114]
    worst = np.abs(read(data)[0].pixels - expected).max()
    assert worst <= tolerance + 1


def test_palettes():
    indices = np.arange(48 * 64, dtype=np.uint8).reshape(48, 64)
    palette = np.zeros((256, 4), np.uint8)  # alpha, red, green, blue
    palette[:, 0], palette[:, 1:] = 255, np.arange(255, -1, -1)[:, None]
    with tempfile.NamedTemporaryFile() as file:
        with av.open(file.name, "w", format="avi") as output:
            stream = output.add_stream("png", rate=10)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "pal8"
            frame = av.VideoFrame.from_ndarray((indices, palette), format="pal8")
            output.mux(stream.encode(frame))
            output.mux(stream.encode(None))
        (shown,) = read(Path(file.name).read_bytes())
    assert np.abs(shown.pixels.astype(int) - (255 - indices)).max() <= 1


def test_limited_range_is_expanded():
    black, white = np.zeros((32, 32, 3), np.uint8), np.full((32, 32, 3), 255, np.uint8)
    for pix_fmt in ("yuv420p", "yuv420p10le", "yuv422p"):
        first, second = read(clip([black, white], "matroska", "ffv1", pix_fmt=pix_fmt))
        assert (first.pixels.max(), second.pixels.min()) == (0, 255)


@pytest.mark.parametrize("size", [(2, 2), (64, 48), (98, 66), (99, 67), (1, 1), (33, 7), (640, 16)])
def test_sizes(size):
    width, height = size
    data = clip(pictures(3, width, height), "matroska", "ffv1", pix_fmt="yuv444p")
    made = film(data)
    frames = list(made)
    assert (made.width, made.height) == (width, height)
    assert frames[0].pixels.shape == (height, width)
    same(frames, oracle(data))


def test_padding_of_the_coder_is_not_seen():
    white = np.full((50, 70, 3), 255, np.uint8)
    (frame,) = read(clip([white], "mp4", "libx264"))
    assert frame.pixels.shape == (50, 70)
    assert frame.pixels.min() >= 250


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("degrees", [0, 90, 180, 270, 7, 83])
@pytest.mark.parametrize("container", ["mp4", "mov"])
def test_turned_as_the_display_matrix_asks(container, degrees, flip):
    flat = film(clip(pictures(3), container))
    stored = next(iter(flat)).pixels
    data = clip(pictures(3), container, turn=(degrees, flip))
    made = film(data)
    shown = next(iter(made))
    expected = np.rot90(stored, round(degrees / 90))  # anticlockwise, both
    if flip:
        expected = expected[:, ::-1]
    assert np.array_equal(shown.pixels, expected)
    assert (made.height, made.width) == (shown.height, shown.width) == expected.shape


def test_interlaced_fields_are_woven():
    data = clip(pictures(12), "mpegts", "mpeg2video", options={"flags": "+ilme+ildct"})
    same(read(data), oracle(data))


def test_resolution_changes_in_mid_stream():
    data = clip(pictures(5), "mpegts") + clip(pictures(5, 128, 80), "mpegts")
    made = film(data)
    frames = list(made)
    check(made, frames)
    assert [frame.pixels.shape for frame in frames] == [(64, 96)] * 5 + [(80, 128)] * 5
    assert (made.height, made.width) == (64, 96)
    # their clock begins anew: the second part follows the first, at its rate
    assert [frame.time_ms for frame in frames] == list(range(0, 1000, 100))


def test_a_later_frame_beyond_the_limit_is_told():
    data = clip(pictures(5), "mpegts") + clip(pictures(5, 128, 80), "mpegts")
    made = film(data, max_pixels=64 * 96)
    assert len(list(made)) == 5
    assert "5 frames of more than 6,144 pixels" in made.problem


# --- time stamps ------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [-5000, -50, 1, 7_000, 90_000_000])
def test_times_count_from_the_first_frame(offset):
    stamps = [offset + step for step in (0, 40, 500, 900, 1600)]
    data = clip(pictures(5), "matroska", "ffv1", stamps=stamps)
    frames = read(data, EVERY)
    assert [frame.time_ms for frame in frames] == [0, 40, 500, 900, 1600]


def test_missing_stamps_are_counted():
    raw = clip(pictures(10), "mpegts", "mpeg2video")
    with av.open(io.BytesIO(raw)) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    frames = read(b"".join(packets))  # the bare stream: it has a rate, and no times
    assert len(frames) == 10
    assert [frame.time_ms for frame in frames] == list(range(0, 1000, 100))


def test_b_frames_come_in_the_order_of_display():
    data = clip(pictures(25), "avi", "mpeg4", options={"bf": "2"})
    frames = read(data)
    same(frames, [(at, luma) for at, luma in oracle_in_order(data)])


def oracle_in_order(data):
    with av.open(io.BytesIO(data)) as container:
        lumas = [f.reformat(format="gray").to_ndarray() for f in container.decode(video=0)]
    return [(Fraction(number, 10), luma) for number, luma in enumerate(lumas)]


# --- what is no film --------------------------------------------------------------------------


def sound(container: str = "mp4", codec: str = "aac", cover: bytes | None = None) -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as output:
        stream = output.add_stream(codec, rate=44_100)
        image = None
        if cover is not None:
            image = output.add_stream("mjpeg", rate=1)
            image.width, image.height, image.pix_fmt = 64, 48, "yuvj420p"
            image.disposition = av.stream.Disposition.attached_pic
        for number in range(20):
            samples = np.zeros((1, 1024), np.float32)
            frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 44_100, 1024 * number
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
        if image is not None:
            output.mux(image.encode(av.VideoFrame.from_ndarray(pictures(1, 64, 48)[0])))
            output.mux(image.encode(None))
    return buffer.getvalue()


@pytest.mark.parametrize("container", ["mp4", "mov", "matroska", "mpegts", "avi"])
def test_sound_only(container):
    codec = "aac" if container != "avi" else "pcm_s16le"
    with pytest.raises(NotMediaError, match=r"no video stream \(audio only\)"):
        film(sound(container, codec))


def test_a_cover_is_no_film():
    data = sound("mp4", cover=b"")
    with av.open(io.BytesIO(data)) as container:
        assert len(container.streams.video) == 1
    with pytest.raises(NotMediaError, match=r"no video stream \(audio only\)"):
        film(data)


@pytest.mark.parametrize("data", [b"", b"nothing", b"\xff\xd8\xff\xe0", b"#EXTM3U\nfile:///x\n"])
def test_other_files(data):
    with pytest.raises(NotMediaError, match="no known film format"):
        film(data)


def test_formats_knows_films():
    assert is_film("MP4")
    assert not is_film("JPEG")


def test_without_pyav(monkeypatch):
    data = clip(pictures(2))
    really = builtins.__import__

    def without(name, *rest):
        if name.partition(".")[0] == "av":
            raise ImportError(name)
        return really(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    for name in [each for each in sys.modules if each.partition(".")[0] == "av"]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(MediaError) as caught:
        film(data)
    assert caught.value.stage == "decode"
    assert "need PyAV, which is not installed: pip install" in caught.value.reason


def test_an_old_pyav_is_refused(monkeypatch):
    monkeypatch.setattr(av, "__version__", "17.1.0")
    with pytest.raises(MediaError, match=r"video needs PyAV 18 or later, found 17\.1\.0"):
        film(clip(pictures(2)))


# --- damage -----------------------------------------------------------------------------------

NOISE = np.random.default_rng(7)


def noisy(n: int = 20) -> list[np.ndarray]:
    return [NOISE.integers(0, 256, (48, 64, 3), dtype=np.uint8) for _ in range(n)]


FASTSTART = clip(noisy(), "mp4", muxer={"movflags": "faststart"})
DAMAGED = {
    "mp4": FASTSTART,
    "fragmented": clip(noisy(), "mp4", muxer={"movflags": "frag_keyframe+empty_moov"}),
    "mkv": clip(noisy(), "matroska"),
    "avi": clip(noisy(), "avi", "mpeg4"),
    "ts": clip(noisy(), "mpegts"),
    "webm": clip(noisy(8), "webm", "libvpx-vp9"),
}


@pytest.mark.parametrize("share", [0.3, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("kind", ["mp4", "mkv", "avi", "fragmented"])
def test_of_a_truncated_film_the_rest_is_read(kind, share):
    data = DAMAGED[kind]
    whole = list(film(data))
    cut = data[: int(len(data) * share)]
    made = film(cut)
    frames = list(made)
    assert 0 < len(frames) <= len(whole)
    assert made.problem.startswith(f"truncated: {len(cut):,} bytes of at least ")
    check(made, frames)
    for frame, sound_one in zip(frames[:-2], whole, strict=False):
        assert np.array_equal(frame.pixels, sound_one.pixels)


@pytest.mark.parametrize("kind", DAMAGED)
def test_truncated_anywhere(kind):
    data = DAMAGED[kind]
    for length in [*range(0, 64, 7), *np.linspace(64, len(data), 25, dtype=int)[:-1].tolist()]:
        try:
            made = film(data[:length])
            check(made, list(made))
        except MediaError as error:
            assert error.reason


def test_an_mp4_without_its_index_says_that_it_is_cut():
    data = clip(pictures(10), "mp4")
    with pytest.raises(MediaError, match="truncated: "):
        film(data[: data.index(b"moov") - 100])


def test_no_frame_at_all():
    data = bytearray(FASTSTART)
    start = data.index(b"mdat") + 4
    data[start:] = bytes(len(data) - start)
    with pytest.raises(MediaError, match=r"no frame could be decoded; .*packets"):
        list(film(bytes(data)))


@pytest.mark.parametrize("kind", DAMAGED)
@pytest.mark.parametrize("sampling", [EVERY, KEYFRAMES, Sampling()])
def test_flipped_bytes(kind, sampling):
    rng = np.random.default_rng(len(kind))
    for _ in range(10):
        data = np.frombuffer(DAMAGED[kind], np.uint8).copy()
        reach = rng.choice([400, len(data)])
        places = rng.integers(0, reach, rng.choice([1, 5, 40]))
        data[places] ^= rng.integers(1, 256, len(places), dtype=np.uint8)
        try:
            made = film(data.tobytes(), sampling)
            check(made, list(made))
        except MediaError as error:
            assert error.reason


def test_corrupt_packets_are_passed_over_and_counted():
    data = bytearray(clip(noisy(), "avi", "png", pix_fmt="rgb24"))
    places = [at for at in range(len(data)) if data[at : at + 8] == b"\x89PNG\r\n\x1a\n"]
    assert len(places) == 20
    for number in (3, 4, 11):
        data[places[number] + 12] = 0  # its header, no longer one
    made = film(bytes(data))
    frames = list(made)
    assert len(frames) == 17
    assert made.problem == "3 packets that could not be decoded"


class Broken(io.BytesIO):
    """A disk that fails after the header was read."""

    limit = 1 << 60

    def read(self, n: int = -1) -> bytes:
        if self.tell() > self.limit:
            raise OSError(5, "Input/output error")
        return super().read(n)


def test_errors_of_the_file_itself_pass_through():
    data = clip(noisy(400), "matroska")
    source = Broken(data)
    made = Film(source, sampling=EVERY, max_pixels=LIMIT, max_frames=1000)
    source.limit = len(data) // 2
    with pytest.raises(OSError, match="Input/output error"):
        list(made)
    source = Broken(data)
    source.limit = 0
    with pytest.raises(OSError, match="Input/output error"):
        Film(source, sampling=EVERY, max_pixels=LIMIT, max_frames=1000)


# --- claims and traps -------------------------------------------------------------------------


def test_limit_of_pixels():
    data = clip(pictures(3))
    assert len(read(data, max_pixels=64 * 96)) == 3
    with pytest.raises(MediaError, match=r"96 x 64 pixels exceed the limit of 6,143"):
        film(data, max_pixels=64 * 96 - 1)


def patched(data: bytes, box: bytes, offset: int, value: bytes) -> bytes:
    start = data.index(box) + 4 + offset
    return data[:start] + value + data[start + len(value) :]


def test_a_header_that_claims_a_million_by_a_million():
    data = clip(pictures(3), "mp4", "mpeg4")
    data = patched(data, b"tkhd", 76, struct.pack(">II", 1_000_000 << 12, 1_000_000 << 12))
    data = patched(data, b"mp4v", 24, struct.pack(">HH", 65_535, 65_535))
    try:
        frames = list(film(data))
    except MediaError:
        return
    assert frames[0].pixels.shape == (64, 96)


def test_a_header_that_claims_ten_years():
    data = clip(pictures(12), "mp4", "mpeg4")
    years = struct.pack(">II", 1, 2**32 - 2)  # ticks of a second
    data = patched(patched(data, b"mvhd", 12, years), b"mdhd", 12, years)
    data = patched(data, b"stts", 8, struct.pack(">II", 12, 2**31 - 2))
    made = film(data, Sampling(scenes=False))
    assert made.duration_ms <= 2**31 - 1
    frames = list(made)
    check(made, frames)
    assert len(frames) <= 12
    assert frames[-1].end_ms <= 2**31 - 1


@pytest.mark.parametrize(("limit", "n"), [(1, 1), (7, 7), (25, 25), (26, 25)])
def test_limit_of_frames(limit, n):
    made = film(clip(pictures(25)), max_frames=limit)
    frames = list(made)
    check(made, frames)
    assert len(frames) == n
    assert made.problem == (f"stopped after {n} sampled frames" if limit < 25 else None)
    assert made.duration_ms == n * 100


def test_a_second_video_stream_is_told():
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska") as output:
        streams = [output.add_stream("ffv1", rate=10) for _ in range(2)]
        for stream in streams:
            stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for stream in streams:
            for picture in pictures(3):
                output.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
            output.mux(stream.encode(None))
    made = film(buffer.getvalue())
    assert len(list(made)) == 3
    assert made.problem == "1 of 2 video streams was read"


def test_a_reference_to_another_file_is_not_followed(tmp_path, monkeypatch):
    """A `dref` that names a file: the picture must not come from there."""
    monkeypatch.chdir(tmp_path)
    data = clip(pictures(4), "mov", "mpeg4", muxer={"movflags": "faststart"})
    (tmp_path / "other.mov").write_bytes(data)
    path = str(tmp_path / "other.mov").encode()
    # alias record of QuickTime: the parts that FFmpeg reads
    alias = bytes(10 + 1 + 27 + 12 + 1 + 63 + 16) + struct.pack(">hh", 1, 1) + bytes(16)
    for kind, text in ((2, path + b"\0" * (len(path) % 2)), (-1, b"")):
        alias += struct.pack(">hH", kind, len(text)) + text
    entry = struct.pack(">I4sI", 12 + len(alias), b"alis", 0) + alias
    outside = data
    at = outside.index(b"dref") - 4
    (old,) = struct.unpack(">I", outside[at : at + 4])
    new = struct.pack(">I4sII", 16 + len(entry), b"dref", 0, 1) + entry
    grown = len(new) - old
    outside = outside[:at] + new + outside[at + old :]
    for box in (b"dinf", b"minf", b"mdia", b"trak", b"moov"):
        where = outside.rindex(box, 0, at + 8) - 4
        (length,) = struct.unpack(">I", outside[where : where + 4])
        outside = outside[:where] + struct.pack(">I", length + grown) + outside[where + 4 :]
    # its own pictures go
    mdat = outside.index(b"mdat") + 4
    outside = outside[:mdat] + bytes(len(outside) - mdat)
    (tmp_path / "outside.mov").write_bytes(outside)
    with av.open("outside.mov", options={"enable_drefs": "1"}) as container:
        assert len(list(container.decode(video=0))) == 4  # it works where it is allowed
    with pytest.raises(MediaError, match="no frame could be decoded"):
        list(film(outside))
    with (
        open("outside.mov", "rb") as file,
        pytest.raises(MediaError, match="no frame could be decoded"),
    ):
        list(Film(file, sampling=EVERY, max_pixels=LIMIT, max_frames=9))


@pytest.mark.parametrize(
    "text",
    [
        b"ffconcat version 1.0\nfile /etc/passwd\n",
        b"#EXTM3U\n#EXTINF:1,\nhttp://localhost/x.ts\n",
        b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\n",
        b'<?xml version="1.0"?><MPD></MPD>',
    ],
)
def test_lists_of_other_files_are_no_films(text):
    with pytest.raises(NotMediaError):
        film(text)
    # not either behind the first bytes of a film
    for start in (b"\0\0\0\x08ftypisom", b"FLV\x01", b"\0\0\1\xba", b"\x1a\x45\xdf\xa3"):
        with pytest.raises(MediaError):
            list(film(start + text))


# --- how long it should be --------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mp4", "fragmented", "mkv", "avi", "ts", "webm"])
def test_stated_length(kind):
    data = DAMAGED[kind]
    stated = stated_length(io.BytesIO(data), sniff(data), len(data))
    assert stated == (0 if kind == "ts" else len(data))
    for length in range(0, 200, 3):
        stated_length(io.BytesIO(data[:length]), sniff(data), length)


def test_what_follows_the_last_box_does_not_count():
    data = DAMAGED["mp4"]
    for tail in (bytes(100), b"\xff" * 100, b"junk", b"TAG" + b" " * 125):
        more = data + tail
        assert stated_length(io.BytesIO(more), "MP4", len(more)) == len(data)
