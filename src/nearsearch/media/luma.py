"""Frames as FFmpeg decodes them -> upright 8-bit luma."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from av.video.frame import VideoFrame
    from numpy.typing import NDArray

GLANCE: Final = 32
"""Side, in pixels, of what scenes are judged by."""

_STEPS: Final = np.arange(GLANCE)

_PLANAR: Final = re.compile(r"(gray|yuvj?a?4\d\dp|nv\d\d)$")  # 8 bits of luma in their own plane
_FULL_RANGE: Final = 2  # AVCOL_RANGE_JPEG
_BLOCK: Final = 64  # rows at a time stay in the cache; whole frames of 16 bits cost page faults


class Luma:
    """Takes the luma of frames.

    Parameters
    ----------
    reformatter
        The module `av.video.reformatter`, which is for `media.video` to import.
    """

    def __init__(self, reformatter: Any) -> None:
        ways = reformatter.Interpolation
        exact = ways.ACCURATE_RND | ways.BITEXACT
        self._smooth, self._nearest = ways.BILINEAR | exact, ways.POINT | exact
        # One for each size: they keep what they have worked out for it.
        self._converter, self._shrinker = (reformatter.VideoReformatter() for _ in range(2))

    def of(self, frame: VideoFrame) -> NDArray[np.uint8]:
        """Return (h, w) luma in 0..255, upright, C-contiguous, the caller's own.

        Where Y is stored in 8 bits it is expanded from 16..235 to 0..255, rounded to nearest, if
        the frame is not of full range; grey formats always are, as FFmpeg has it. All else is
        what libswscale makes of it.
        """
        if not _PLANAR.match(frame.format.name):
            luma = self._grey(self._converter, frame, frame.width, frame.height, self._smooth)
            luma = luma.copy()
        elif _is_full_range(frame):
            luma = _plane(frame).copy()
        else:
            luma = _expanded(_plane(frame))
        return np.ascontiguousarray(_upright(luma, frame))

    def glance(self, frame: VideoFrame) -> NDArray[np.uint8]:
        """Return (`GLANCE`, `GLANCE`) single pixels of `frame`, neither turned nor expanded."""
        if not _PLANAR.match(frame.format.name):
            return self._grey(self._shrinker, frame, GLANCE, GLANCE, self._nearest)
        # 0.03 ms a frame, libswscale 0.09: of 1280 x 720, where decoding one takes 3 ms
        plane = _plane(frame)
        down, across = (_STEPS * side // GLANCE for side in plane.shape)
        few: NDArray[np.uint8] = plane[down[:, None], across]
        return few

    def _grey(
        self, reformatter: Any, frame: VideoFrame, width: int, height: int, method: int
    ) -> NDArray[np.uint8]:
        grey = reformatter.reformat(
            frame,
            width,
            height,
            "gray",
            interpolation=method,
            dst_color_range=_FULL_RANGE,
            threads=1,
        )
        return _plane(grey)


def _expanded(limited: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Map 16..235 to 0..255, rounded to nearest; beyond is clipped.

    Equals libswscale's to the last bit: 1.3 instead of 3.4 ms for 1920 x 1080.
    """
    luma = np.empty(limited.shape, np.uint8)
    for top in range(0, len(limited), _BLOCK):
        deep = limited[top : top + _BLOCK].clip(16, 235).astype(np.uint16)
        deep -= 16
        deep *= 255
        deep += 109  # 219 is odd: no value lies half-way
        deep //= 219
        luma[top : top + _BLOCK] = deep
    return luma


def _is_full_range(frame: VideoFrame) -> bool:
    return bool(frame.color_range == _FULL_RANGE or frame.format.name.startswith(("gray", "yuvj")))


def _plane(frame: VideoFrame) -> NDArray[np.uint8]:
    """Return a view of the first plane of `frame`, (h, w) uint8."""
    plane = frame.planes[0]
    rows = np.frombuffer(plane, np.uint8).reshape(frame.height, abs(plane.line_size))
    rows = rows[:, : frame.width]
    return rows[::-1] if plane.line_size < 0 else rows


def _upright(pixels: NDArray[np.uint8], frame: VideoFrame) -> NDArray[np.uint8]:
    """Return a view of `pixels` turned and mirrored as the display matrix of `frame` asks.

    It says where a stored point (x, y) is displayed: (a x + c y, b x + d y), y downwards. Other
    than quarter turns are taken for the next of those.
    """
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None or matrix.buffer_size < 9 * 4:
        return pixels
    a, b, _, c, d = (int(each) for each in np.frombuffer(matrix, np.int32)[:5])
    if abs(a) + abs(d) < abs(b) + abs(c):
        pixels, a, d = pixels.T, c, b
    return pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
