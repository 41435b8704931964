"""A pool of hashing processes: files in, fingerprints out, whatever the files do.

Plain child processes that talk JSON lines over pipes: nothing is pickled, the caller's main module
is not imported again (so a script needs no ``__main__`` guard), and a child that dies or hangs
costs the one file it was given.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, NamedTuple

from nearsearch.errors import UsageError, WorkerStartError
from nearsearch.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Self

    from nearsearch.spec import Spec

_START_SECONDS: Final = 300  # the first start on a machine compiles the kernels
_COMMAND: Final = (
    "import sys; sys.path.append(sys.argv[2]); from nearsearch.media.worker import main; main()"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one file may cost."""

    max_pixels: int = 200_000_000
    max_bytes: int = 1 << 30
    seconds: float = 60.0
    memory: int = 6 << 30
    """Address space of a hashing process, bytes; the libraries alone reserve about 1 GB."""

    def __post_init__(self) -> None:
        for name in ("max_pixels", "max_bytes", "seconds", "memory"):
            value = getattr(self, name)
            if not value > 0:  # also refuses NaN
                raise UsageError(f"limits: {name} must be above 0, got {value}")


class Answer(NamedTuple):
    """What became of one file: `status` is ``hashed``, ``skipped`` or ``failed``.

    `facts` has the fields of `media.fingerprint.Fingerprint`, or ``reason`` and ``stage``.
    """

    path: str
    status: str
    facts: dict[str, Any]


class WorkerPool:
    """Hashing processes, started on first use and kept until `close`. For one thread at a time."""

    def __init__(self, count: int | None = None, limits: Limits | None = None) -> None:
        if count is not None and count < 1:
            raise UsageError(f"workers: expected at least 1 process, got {count}")
        self._count = count or len(os.sched_getaffinity(0))
        self._limits = limits or Limits()
        self._workers: list[_Worker] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self, count: int | None = None) -> None:
        """Start up to `count` processes without waiting for them to be ready."""
        while len(self._workers) < min(count or self._count, self._count):
            self._workers.append(_Worker(self._limits))

    def close(self) -> None:
        """End all processes at once; files in work are given up."""
        for worker in self._workers:
            worker.end()
        self._workers.clear()

    def map(self, paths: Iterable[str], specs: Sequence[Spec]) -> Iterator[Answer]:
        """Hash each file under `specs` and yield its answer, in order of completion.

        Every path gets exactly one answer. Leaving the iteration early ends the processes.

        Raises
        ------
        WorkerStartError
            A process did not come up at all: a broken installation, not a broken file.
        """
        waiting = iter(paths)
        wanted = [spec.to_json() for spec in specs]
        done = False
        try:
            with selectors.DefaultSelector() as selector:
                while True:
                    self._feed(selector, waiting, wanted)
                    busy = [key.data for key in selector.get_map().values()]
                    if not busy:
                        break
                    soonest = min(worker.deadline for worker in busy)
                    ready = selector.select(min(3600.0, max(0.0, soonest - time.monotonic())))
                    arrived = {key.data for key, _ in ready}
                    for worker in arrived | _late(busy):
                        # What has arrived counts, however late we come for it.
                        answer = worker.answer() if worker in arrived else worker.overdue()
                        if answer is not None:
                            selector.unregister(worker.output)
                            if worker.ended:
                                self._workers.remove(worker)
                            yield answer
            done = True
        finally:
            if not done:
                self.close()

    def _feed(
        self, selector: selectors.BaseSelector, waiting: Iterator[str], specs: list[Any]
    ) -> None:
        """Give each idle worker a file, starting workers while there are files for them."""
        for worker in [worker for worker in self._workers if worker.is_dead]:
            worker.end()
            self._workers.remove(worker)
        idle = [worker for worker in self._workers if worker.path is None]
        while idle or len(self._workers) < self._count:
            path = next(waiting, None)
            if path is None:
                return
            if not idle:
                self._workers.append(_Worker(self._limits))
                idle.append(self._workers[-1])
            worker = idle.pop()
            worker.ask(path, specs)
            selector.register(worker.output, selectors.EVENT_READ, worker)


def _late(workers: Sequence[_Worker]) -> set[_Worker]:
    now = time.monotonic()
    return {worker for worker in workers if worker.deadline <= now}


class _Worker:
    """One hashing process and the file it is at."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `end`
        # Parallelism is one process a core; library threads would only get in the way.
        threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        package_root = str(Path(__file__).resolve().parents[1])
        self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            # -P: never import from the folder the caller happens to be in; it may hold evidence.
            [sys.executable, "-P", "-c", _COMMAND, str(limits.memory), package_root],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, **threads},
            bufsize=0,
        )
        if self._process.stdin is None or self._process.stdout is None:
            raise WorkerStartError("no pipes")
        self._input, self.output = self._process.stdin, self._process.stdout
        self._buffer = bytearray()
        self._is_ready = False
        self.path: str | None = None
        self.deadline = time.monotonic() + _START_SECONDS
        self.ended = False

    @property
    def is_dead(self) -> bool:
        """Whether the process ended while it had nothing to do (killed from outside)."""
        return self.ended or (self.path is None and self._process.poll() is not None)

    def ask(self, path: str, specs: list[Any]) -> None:
        """Hand over one file."""
        request = {
            "path": os.path.join(os.getcwd(), path),  # the worker has a folder of its own
            "specs": specs,
            "max_pixels": self._limits.max_pixels,
            "max_bytes": self._limits.max_bytes,
        }
        self.path = path
        seconds = self._limits.seconds if self._is_ready else _START_SECONDS
        self.deadline = time.monotonic() + seconds
        try:
            self._input.write(json.dumps(request).encode("ascii") + b"\n")
        except BrokenPipeError:
            return  # it died idle: the end of its output, which is read next, says so

    def answer(self) -> Answer | None:
        """Take what has arrived; return the file's answer once it is there."""
        path = self.path or ""
        data = os.read(self.output.fileno(), 1 << 16)
        if not data:
            return self._died(path)
        self._buffer += data
        while (end := self._buffer.find(b"\n")) >= 0:
            line = bytes(self._buffer[:end])
            del self._buffer[: end + 1]
            try:
                facts = json.loads(line)
                status = facts.pop("status")
            except (ValueError, KeyError, TypeError, AttributeError):
                status = None
            if status == "ready":
                if facts != {"version": __version__}:
                    self._fail_to_start(f"it is another nearsearch than {__version__}: {facts}")
                self._is_ready = True
                self.deadline = time.monotonic() + self._limits.seconds
                continue
            if status not in ("hashed", "skipped", "failed"):
                self.end()
                return _failed(path, "the hashing process answered nonsense")
            self.path = None
            return Answer(path, status, facts)
        return None

    def overdue(self) -> Answer:
        """Give up the file: its time is over."""
        if not self._is_ready:
            self._fail_to_start(f"not ready after {_START_SECONDS} s")
        self.end()
        return _failed(self.path or "", f"took longer than {self._limits.seconds:g} s")

    def end(self) -> None:
        """Kill the process and forget it."""
        if not self.ended:
            self.ended = True
            self._process.kill()
            self._process.wait()
            self._input.close()
            self.output.close()
            self._errors.close()

    def _died(self, path: str) -> Answer:
        code = self._process.wait()
        if not self._is_ready:
            self._fail_to_start(f"exit status {code}")
        self.end()
        cause = f"exit status {code}"
        if code < 0:
            names = {known.value: known.name for known in signal.Signals}
            cause = names.get(-code, f"signal {-code}")
        return _failed(path, f"the hashing process crashed on it ({cause})")

    def _fail_to_start(self, why: str) -> None:
        self._errors.seek(0)
        detail = self._errors.read()[-2000:].decode("utf-8", "replace").strip()
        self.end()
        raise WorkerStartError(f"{why}: {detail}" if detail else why)


def _failed(path: str, reason: str) -> Answer:
    return Answer(path, "failed", {"reason": reason, "stage": "worker"})
