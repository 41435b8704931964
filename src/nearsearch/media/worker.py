"""The hashing process: one request a line on standard input, answers a line each on another pipe.

Decoders meet hostile files here and nowhere else. A crash, a hang or a memory bomb takes this
process, never the one that holds the index. Lines are JSON; file names travel with surrogate
escapes, so every byte of them survives.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import resource
import select
import signal
import stat
import sys
from collections import deque
from contextlib import suppress
from typing import IO, TYPE_CHECKING, Any, Final

from nearsearch.spec import Spec
from nearsearch.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator

_PIPE: Final = 1 << 16


def main() -> None:
    """Answer requests until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to stop
    answers = os.fdopen(os.dup(1), "w", encoding="ascii", buffering=1)
    os.dup2(2, 1)  # whatever a decoder prints must not look like an answer
    _limit_memory(int(sys.argv[1]))
    _end_with_parent(int(sys.argv[3]))
    _load_kernels(answers)
    from nearsearch.media.containers import Bounds
    from nearsearch.media.fingerprint import outcomes
    from nearsearch.media.sampling import Sampling
    from nearsearch.media.seen import Wanted

    _silence()
    answers.write(json.dumps({"status": "ready", "version": __version__}) + "\n")
    for request in _requests():
        names = ("max_bytes", "max_members", "max_depth", "max_expansion")
        wanted = Wanted(
            specs=[Spec(**spec) for spec in request["specs"]],
            digests=request["digests"],
            views=request["views"],
            sampling=Sampling(**request["sampling"]),
            max_pixels=request["max_pixels"],
            bounds=Bounds(**{name: request[name] for name in names}),
        )
        for outcome in outcomes(
            request["path"], wanted, known=request["known"], after=request["after"]
        ):
            answers.write(json.dumps(outcome) + "\n")


def _load_kernels(answers: IO[str]) -> None:
    """Load all kernels now, half a second, the time of no file; pass on that they are compiled."""
    logger, handler = logging.getLogger("nearsearch"), _PassOn()
    handler.answers = answers
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    # Numba asks SciPy for a library of linear algebra, which no kernel needs and takes 0.2 s.
    is_hidden = sys.modules.setdefault("scipy", None) is None  # type: ignore[arg-type]
    from nearsearch.kernels import borders, grid, perceptual, wdct  # noqa: F401

    if is_hidden:
        del sys.modules["scipy"]  # imagehash will want it
    logger.removeHandler(handler)


class _PassOn(logging.Handler):
    """Sends what is logged to the parent."""

    answers: IO[str]

    def emit(self, record: logging.LogRecord) -> None:
        self.answers.write(json.dumps({"status": "said", "text": record.getMessage()}) + "\n")


def _requests() -> Iterator[dict[str, Any]]:
    """Yield requests as they come; of those that wait already the system reads the files ahead."""
    text, waiting = bytearray(), deque[dict[str, Any]]()
    ended = False
    while True:
        while not ended and (not waiting or select.select([0], [], [], 0)[0]):
            piece = os.read(0, _PIPE)
            ended = not piece
            text += piece
            *lines, rest = text.split(b"\n")
            text = bytearray(rest)
            for line in lines:
                request = json.loads(line)
                if waiting:
                    _read_ahead(request["path"])
                waiting.append(request)
        if not waiting:
            return
        yield waiting.popleft()


def _read_ahead(path: str) -> None:
    """Let the system begin to read a file that comes next: a slow disk works while we do."""
    with suppress(OSError, ValueError):  # ValueError: a path that no file can have
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        try:
            if stat.S_ISREG(os.fstat(handle).st_mode):
                os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_WILLNEED)
        finally:
            os.close(handle)


def _silence() -> None:
    """Drop what decoders print from here on: only why a process does not start is ever read.

    A file would grow without end, as libtiff warns of each odd tag.
    """
    nothing = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nothing, stream)
    os.close(nothing)


def _end_with_parent(lifeline: int) -> None:
    """Let the system end this process when the other end of a pipe closes: the parent's.

    A parent that is killed ends nobody, and a decoder that hangs would go on for ever.
    """
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    flags = fcntl.fcntl(lifeline, fcntl.F_GETFL)
    fcntl.fcntl(lifeline, fcntl.F_SETFL, flags | os.O_ASYNC)  # SIGIO, which ends it
    if select.select([lifeline], [], [], 0)[0]:
        sys.exit("the parent has ended")


def _limit_memory(limit: int) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, highest = resource.getrlimit(resource.RLIMIT_AS)
    if highest != resource.RLIM_INFINITY:
        limit = min(limit, highest)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
