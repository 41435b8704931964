"""vPDQ: the PDQ codes of a film's frames, in the forms in which others keep and send them.

The text form is that of vPDQ's own tools (facebook/ThreatExchange, ``vpdq/cpp/vpdq/cpp/io/
vpdqio.cpp``), the JSON forms those of python-threatexchange, now and formerly (``threatexchange/
extensions/vpdq/vpdq_util.py``). Codes are of the spec ``pdq``. Nothing is skipped in silence: the
first thing that cannot be read raises, unless the caller takes the faults and so gets the rest.
"""

from __future__ import annotations

import codecs
import json
import re
from array import array
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from nearsearch.codes import to_hex
from nearsearch.errors import ExchangeError, UsageError
from nearsearch.exchange.frames import LATEST, PDQ, FrameHashes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from os import PathLike
    from typing import BinaryIO

_LONGEST: Final = 512  # bytes of a line; the longest that can be read has fewer than 200
_SHOWN: Final = 80  # characters of what was found that a message repeats

_FieldKind = tuple[str, re.Pattern[str]]  # what is expected, and how it is spelt
_NUMBER: Final = ("a frame number of up to 18 digits", re.compile(r"[0-9]{1,18}"))
_QUALITY: Final = ("a quality from 0 to 100", re.compile(r"[0-9]{1,2}|100"))
_CODE: Final = ("a code of 64 hexadecimal digits", re.compile(r"[0-9a-fA-F]{64}"))
_TIME: Final = (
    "a time in seconds, 0 to 1e12",
    re.compile(r"[0-9]{1,18}(\.[0-9]{0,60})?([eE][-+]?[0-9]{1,3})?"),
)
_LINE: Final = (_NUMBER, _QUALITY, _CODE, _TIME)
_ENTRY: Final = (_CODE, _QUALITY, _TIME)


def read_text(
    path: str | PathLike[str], *, on_bad: Callable[[ExchangeError], None] | None = None
) -> FrameHashes:
    """Read a hash file of vPDQ: ``frame number,quality,hex code,seconds``, a line for each frame.

    Lines end in LF or CRLF; blank ones and a UTF-8 byte order mark are passed over, capital digits
    and exponents are read. Order is kept, repeats are.

    Parameters
    ----------
    path
        The file. One line at a time is in memory, and 49 bytes for each frame.
    on_bad
        Called with the fault of each line that cannot be read; the others are returned. Without
        it, the first fault is raised.

    Raises
    ------
    ExchangeError
        A line that is something else, or a file without any (vPDQ's own reader refuses it too).
    OSError
        The file cannot be read.
    """
    found = _Found(str(path), "line", on_bad)
    lines = 0
    with Path(path).open("rb") as file:
        for number, line in enumerate(_lines(file), 1):
            if len(line) > _LONGEST:
                found.bad(number, f"a line of at most {_LONGEST} bytes", _shown(_text(line)))
            elif line.strip():
                found.take(number, _text(line.strip()).split(","), _LINE)
            else:
                continue
            lines += 1
    if not lines:
        found.bad(1, "a line for each frame", "an empty file")
    return found.frames()


def write_text(frames: FrameHashes, path: str | PathLike[str]) -> None:
    """Write a hash file of vPDQ, byte for byte as its own tools do; replaces an existing file.

    Times are rounded to milliseconds, as there.

    Parameters
    ----------
    frames
        The frames of one film; each has a number.
    path
        The file.

    Raises
    ------
    UsageError
        A frame has no number.
    OSError
        The file cannot be written.
    """
    if len(frames) and frames.numbers.min() < 0:
        raise UsageError(
            "numbers: vPDQ's text form needs a number for each frame; if the order is all that is "
            "known, replace them by np.arange(n)"
        )
    columns = (frames.numbers.tolist(), frames.qualities.tolist(), to_hex(frames.codes))
    rows = zip(*columns, frames.seconds.tolist(), strict=True)
    # A time of -0.0 is none before the beginning.
    text = "".join(f"{n},{quality},{code},{abs(time):.3f}\n" for n, quality, code, time in rows)
    Path(path).write_bytes(text.encode("ascii"))


def from_json(
    text: str | bytes,
    *,
    name: str = "vPDQ signal",
    on_bad: Callable[[ExchangeError], None] | None = None,
) -> FrameHashes:
    """Read a vPDQ signal of python-threatexchange, of today or of its first versions.

    Today it is a list of strings ``hex code,quality,seconds``, without frame numbers. Formerly it
    was an object, frame number to ``{"quality": 0..100, "hash": code, "timestamp": seconds}``, in
    which the code is ``{"w": [16 words of 16 bits, the last first in hex]}``, or is hex. Nothing
    at all is read as no frames, as there.

    Parameters
    ----------
    text
        One signal.
    name
        What errors call it: where it came from, say the file or the signal's id.
    on_bad
        As in `read_text`, for each entry, counted from 1.

    Raises
    ------
    ExchangeError
        An entry is something else; or, whatever `on_bad` is, the whole is no JSON, or other JSON.
    """
    found = _Found(name, "entry", on_bad)
    try:
        # Objects become tuples of pairs: a dict would lose frames whose number stands twice.
        signal = json.loads(text or "[]", object_pairs_hook=tuple)
    except (ValueError, RecursionError) as error:
        raise ExchangeError(name, getattr(error, "lineno", 1), "JSON", str(error)) from error
    if not isinstance(signal, list | tuple):
        raise ExchangeError(name, 1, "a list or an object", _shown(signal))
    for number, entry in enumerate(signal, 1):
        if isinstance(entry, str):
            found.take(number, entry.split(","), _ENTRY)
        elif isinstance(signal, tuple) and _is_object(entry[1], "quality", "hash", "timestamp"):
            feature = dict(entry[1])
            values = (feature["quality"], _hex_of(feature["hash"]), feature["timestamp"])
            found.take(number, [entry[0], *map(_spelt, values)], _LINE)
        else:
            found.bad(number, "text, or quality, hash and timestamp of a frame", _shown(entry))
    return found.frames()


def to_json(frames: FrameHashes) -> str:
    """Return the frames as a vPDQ signal of python-threatexchange, as it is today.

    It has no frame numbers. Times are spelt as there, with three significant digits
    (``1.23e+03``), unless that would change them: then in full, which is read there as well. So
    signals from there are the same again, and long films keep their times.
    """
    columns = (to_hex(frames.codes), frames.qualities.tolist(), frames.seconds.tolist())
    rows = zip(*columns, strict=True)
    return json.dumps([f"{code},{quality},{_seconds(time)}" for code, quality, time in rows])


class _Found:
    """What was read so far; faults are raised or handed on."""

    def __init__(
        self, path: str, unit: str, on_bad: Callable[[ExchangeError], None] | None
    ) -> None:
        self._path, self._unit, self._on_bad = path, unit, on_bad
        self._codes = bytearray()
        self._qualities, self._numbers, self._seconds = array("b"), array("q"), array("d")

    def take(self, place: int, values: Sequence[str], kinds: Sequence[_FieldKind]) -> None:
        """Take in one frame; `values` should be of `kinds`, of which `_NUMBER` may be missing."""
        if len(values) != len(kinds):
            expected = ", ".join(what for what, _ in kinds)
            self.bad(place, expected, _shown(",".join(values)))
            return
        for value, (expected, pattern) in zip(values, kinds, strict=True):
            if not pattern.fullmatch(value) or (pattern is _TIME[1] and float(value) > LATEST):
                self.bad(place, expected, _shown(value))
                return
        number, quality, code = values[:3] if kinds is _LINE else ("-1", values[1], values[0])
        self._numbers.append(int(number))
        self._qualities.append(int(quality))
        self._codes += bytes.fromhex(code)
        self._seconds.append(float(values[-1]))

    def bad(self, place: int, expected: str, actual: str) -> None:
        error = ExchangeError(self._path, place, expected, actual, self._unit)
        if self._on_bad is None:
            raise error
        self._on_bad(error)

    def frames(self) -> FrameHashes:
        return FrameHashes(
            np.frombuffer(self._codes, np.uint8).reshape(-1, PDQ.code_bytes),
            np.frombuffer(self._qualities, np.int8),
            np.frombuffer(self._numbers, np.int64),
            np.frombuffer(self._seconds, np.float64),
        )


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Yield the lines; of one that is longer than `_LONGEST` a beginning that is longer, too."""
    longest = _LONGEST + 1 + len(codecs.BOM_UTF8)  # or the mark would hide that more follows
    line = file.readline(longest).removeprefix(codecs.BOM_UTF8)
    while line:
        yield line
        while line and not line.endswith(b"\n"):
            line = file.readline(_LONGEST)
        line = file.readline(_LONGEST + 1)


def _text(line: bytes) -> str:
    return line.decode("utf-8", "backslashreplace")


def _spelt(value: object) -> str:
    """Return a plain value as text; lists and objects may be too deep to be written out."""
    kinds: dict[type, str] = {list: "a list", tuple: "an object"}
    return kinds.get(type(value)) or str(value)


def _shown(value: object) -> str:
    text = repr(value) if isinstance(value, str) else _spelt(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... ({len(text)} characters)"


def _is_object(value: Any, *names: str) -> bool:
    """Tell whether a value of `from_json` was an object with these names."""
    return isinstance(value, tuple) and set(names) <= dict(value).keys()


def _hex_of(code: Any) -> Any:
    """Return the hex of a code given in words; anything else as it is, to be refused."""
    words = dict(code)["w"] if _is_object(code, "w") else None
    if not isinstance(words, list) or len(words) != PDQ.bits // 16:
        return code
    if not all(type(word) is int and 0 <= word < 1 << 16 for word in words):
        return code
    return "".join(f"{word:04x}" for word in reversed(words))


def _seconds(time: float) -> str:
    short = f"{abs(time):.3}"
    return short if float(short) == time else repr(time)
