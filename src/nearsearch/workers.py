"""A pool of hashing processes: files in, fingerprints out, whatever the files do.

Plain child processes that talk JSON lines over pipes: nothing is pickled, the caller's main module
is not imported again (so a script needs no ``__main__`` guard), and a child that dies or hangs
costs the one file it was given, or the one member of an archive.
"""

from __future__ import annotations

import json
import logging
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, NamedTuple

from nearsearch.errors import UsageError, WorkerStartError
from nearsearch.media.sampling import Sampling
from nearsearch.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Self

    from nearsearch.matches import Failure
    from nearsearch.spec import Spec

_START_SECONDS: Final = 300  # the first start on a machine compiles the kernels
_COMMAND: Final = (
    "import sys; sys.path.append(sys.argv[2]); from nearsearch.media.worker import main; main()"
)
# Files handed over before their turn, so that a process never waits for us: while we add a batch
# of small ones, or commit. Few, because they wait where another process may be idle.
_MOST_AHEAD: Final = 16
_BYTES_AHEAD: Final = 1 << 20  # of files
_NO_WINDOW: Final = 1 << 62
_TRIES: Final = 2  # a process may be killed by others, as when memory is short
_MOST_FAILED_STARTS: Final = 3  # in a row
_MOST_CRASHES: Final = 16  # of one archive
_told: Final = set[str]()  # what processes said: those that start together say the same


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one file may cost; all above 0.

    Raises
    ------
    UsageError
        One of them is not.
    """

    max_pixels: int = 200_000_000
    """Of a picture, or a frame of a film."""
    max_bytes: int = 1 << 30
    """Of a picture, or of a file in an archive; films by themselves are not held in memory."""
    seconds: float = 60.0
    """Without a sign of progress: of a film, until its next sampled frame."""
    memory: int = 6 << 30
    """Address space of a hashing process, bytes; the libraries alone reserve about 1 GB."""
    max_members: int = 1_000_000
    """Files in an archive, those of archives in it too."""
    max_depth: int = 4
    """Archives in archives."""
    max_expansion: int = 200
    """Bytes that come out of an archive for each that it has, beyond the first 64 MiB."""

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not value > 0:  # also refuses NaN
                raise UsageError(f"limits: {name} must be above 0, got {value}")


class Request(NamedTuple):
    """A file to hash. Its size in bytes, if known, helps to share files out.

    `known` is the id, in hex, of the item it was: if its bytes still are, it is not decoded and its
    status is ``unchanged``. Where `failure` is set the file is not read: that is its answer.
    """

    path: str
    size: int = _BYTES_AHEAD
    known: str | None = None
    failure: Failure | None = None


class Answer(NamedTuple):
    """What became of a file, or of a member of an archive.

    `status` is ``hashed``, ``unchanged``, ``skipped``, ``failed``, or ``opened`` for an archive
    whose members all had their answers. `facts` are those of `media.fingerprint.outcomes`: with
    ``codes`` where it was hashed, else with ``reason`` and ``stage``.
    """

    path: str
    status: str
    facts: dict[str, Any]
    member: str | None = None
    number: int = 0
    """Which of the requests it answers."""


class _Task:
    """A request on its way, and how far its archive was read."""

    def __init__(self, number: int, request: Request) -> None:
        self.number, self.request = number, request
        self.member: str | None = None  # of an archive, that is being read,
        self.place: list[int] | None = None  # where that is,
        self.after: list[int] | None = None  # and where the last is that had its answer
        self.n_members = 0  # that had their answers
        self.tries = self.crashes = 0

    def answer(self, status: str, facts: dict[str, Any], member: str | None = None) -> Answer:
        return Answer(self.request.path, status, facts, member, self.number)

    def pass_member(self) -> None:
        self.after = self.place
        self.n_members += 1

    def failed(self, reason: str) -> Answer:
        member, self.member = self.member, None
        return self.answer("failed", {"reason": reason, "stage": "worker"}, member)


class _Queue:
    """Requests that wait for a process: those to be tried again, then new ones."""

    def __init__(self, requests: Iterable[str | Request], window: int) -> None:
        self._new, self._window = iter(requests), window
        self._number, self._end = 0, window  # of the next new one; too far ahead from here
        self.again: deque[_Task] = deque()

    def next(self, workers: Sequence[_Worker]) -> _Task | None:
        """Return the next task, or None if there is none, or none for now."""
        if self.again:
            return self.again.popleft()
        if self._number >= self._end:
            tasks = (task.number for worker in workers for task in worker.tasks)
            self._end = min(tasks, default=self._number) + self._window
        request = next(self._new, None) if self._number < self._end else None
        if request is None:
            return None
        self._number += 1
        if isinstance(request, str):
            request = Request(request)
        return _Task(self._number - 1, request)


class WorkerPool:
    """Hashing processes, started on first use and kept until `close`. For one thread at a time.

    Parameters
    ----------
    count
        How many, at most; by default one a core.
    limits
        What one file may cost.

    Raises
    ------
    UsageError
        Fewer than one.
    """

    def __init__(self, count: int | None = None, limits: Limits | None = None) -> None:
        if count is not None and count < 1:
            raise UsageError(f"workers: expected at least 1 process, got {count}")
        self._count = count or len(os.sched_getaffinity(0))
        self._limits = limits or Limits()
        self._workers: list[_Worker] = []
        self._has_started, self._failed_starts = False, 0

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

    def map(
        self,
        requests: Iterable[str | Request],
        specs: Sequence[Spec],
        digests: Sequence[str] = ("md5", "sha1"),
        *,
        views: str = "none",
        sampling: Sampling | None = None,
        window: int = _NO_WINDOW,
    ) -> Iterator[Answer]:
        """Hash each file under `specs` and yield its answer, in order of completion.

        Every request gets exactly one answer without a `member`, after those of its members.
        Leaving the iteration early ends the processes. A file that a process dies at is tried
        again once: it may have been killed by others.

        Parameters
        ----------
        requests
            Paths, or what else is to be known of the files.
        specs
            Under which to hash each picture.
        digests
            Which digests to take beside SHA-256.
        views
            Which further views of each picture to hash: a key of `hashers.views.LADDERS`.
        sampling
            Which frames of films to hash.
        window
            How far files may run ahead of the oldest that has no answer. A caller who needs their
            order holds that many behind a slow one; meanwhile the other processes may idle.

        Raises
        ------
        WorkerStartError
            A process did not come up at all: a broken installation, not a broken file.
        """
        queue = _Queue(requests, window)
        wanted: dict[str, Any] = {"specs": [spec.to_json() for spec in specs], "views": views}
        wanted |= {"digests": list(digests), "sampling": asdict(sampling or Sampling())}
        wanted |= asdict(self._limits)  # all of this takes 20 us: not for each file
        done = False
        try:
            with selectors.DefaultSelector() as selector:
                while True:
                    yield from self._feed(selector, queue, wanted)
                    busy = {key.data for key in selector.get_map().values()}
                    if not busy:
                        break
                    soonest = min(worker.deadline for worker in busy)
                    ready = selector.select(min(3600.0, max(0.0, soonest - time.monotonic())))
                    for key, events in ready:
                        if events & selectors.EVENT_WRITE and key.data.send():
                            selector.unregister(key.fileobj)
                    arrived = {key.data for key, events in ready if events & selectors.EVENT_READ}
                    for worker in arrived | _late(busy):
                        # What has arrived counts, however late we come for it.
                        answers = self._answers(worker, worker in arrived)
                        if not worker.tasks or worker.ended:
                            for key in [*selector.get_map().values()]:
                                if key.data is worker:
                                    selector.unregister(key.fileobj)
                        if worker.ended:
                            self._workers.remove(worker)
                            queue.again.extend(worker.tasks)
                        yield from answers
            done = True
        finally:
            if not done:
                self.close()

    def _answers(self, worker: _Worker, has_arrived: bool) -> list[Answer]:
        """Return what a process says, or that its time is over."""
        try:
            answers = worker.answers() if has_arrived else worker.overdue()
        except WorkerStartError:
            # Where others came up the installation is whole: memory may be short for a moment.
            self._failed_starts += 1
            if not self._has_started or self._failed_starts > _MOST_FAILED_STARTS:
                raise
            return []
        if worker.is_ready:
            self._has_started, self._failed_starts = True, 0
        return answers

    def _feed(
        self,
        selector: selectors.BaseSelector,
        queue: _Queue,
        wanted: dict[str, Any],
    ) -> Iterator[Answer]:
        """Hand files to the processes that have room, starting some while there are files.

        Yields the answers that need no process.
        """
        for worker in [worker for worker in self._workers if worker.is_dead]:
            worker.end()
            self._workers.remove(worker)
        while True:
            # Those without work first, and new ones, before anything is handed over ahead.
            with_room = [worker for worker in self._workers if worker.has_room]
            idlest = min(with_room, key=lambda worker: len(worker.tasks), default=None)
            if len(self._workers) < self._count and (idlest is None or idlest.tasks):
                idlest = None
            elif idlest is None:
                return
            task = queue.next(self._workers)
            if task is None:
                return
            failure = task.request.failure
            if failure is not None:
                facts = {"reason": failure.reason, "stage": failure.stage}
                yield task.answer(failure.status, facts)
                continue
            if idlest is None:
                self._workers.append(_Worker(self._limits))
            worker = idlest or self._workers[-1]
            if not worker.tasks:
                selector.register(worker.output, selectors.EVENT_READ, worker)
            if not worker.ask(task, wanted):
                selector.register(worker.input, selectors.EVENT_WRITE, worker)


def _late(workers: Iterable[_Worker]) -> set[_Worker]:
    now = time.monotonic()
    return {worker for worker in workers if worker.deadline <= now}


class _Worker:
    """One hashing process and the files it was given."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `end`
        # Parallelism is one process a core; library threads would only get in the way.
        threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        package_root = str(Path(__file__).resolve().parents[1])
        lifeline, self._lifeline = os.pipe()  # closed when this process ends, however it does
        self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            # -P: never import from the folder the caller happens to be in; it may hold evidence.
            [
                *(sys.executable, "-P", "-c", _COMMAND),
                *(str(limits.memory), package_root, str(lifeline)),
            ],
            pass_fds=[lifeline],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, **threads},
            bufsize=0,
        )
        os.close(lifeline)
        if self._process.stdin is None or self._process.stdout is None:
            raise WorkerStartError("no pipes")
        self.input, self.output = self._process.stdin, self._process.stdout
        # Never wait for it to read: it may wait for us to read its answers, or hang.
        os.set_blocking(self.input.fileno(), False)
        self._unsent, self._buffer = bytearray(), bytearray()
        self._searched = 0  # bytes of the buffer in which no line ends; that of a film is long
        self.is_ready = False
        self.tasks: deque[_Task] = deque()  # the first is in work
        self.deadline = time.monotonic() + _START_SECONDS
        self.ended = False

    @property
    def is_dead(self) -> bool:
        """Whether the process ended while it had nothing to do (killed from outside)."""
        return self.ended or (not self.tasks and self._process.poll() is not None)

    @property
    def has_room(self) -> bool:
        """Whether it should be given another file."""
        return not self.tasks or (
            len(self.tasks) <= _MOST_AHEAD
            and sum(task.request.size for task in list(self.tasks)[1:]) < _BYTES_AHEAD
            and not self._unsent
            and all(task.tries == 0 for task in self.tasks)
        )

    def ask(self, task: _Task, wanted: dict[str, Any]) -> bool:
        """Hand over one file; return whether the pipe took all of the request, as `send`."""
        request = {
            # the worker has a folder of its own
            "path": os.path.join(os.getcwd(), task.request.path),
            "known": task.request.known,
            "after": task.after,
            **wanted,
        }
        if not self.tasks:
            self._set_deadline()
        self.tasks.append(task)
        self._unsent += json.dumps(request).encode("ascii") + b"\n"
        return self.send()

    def send(self) -> bool:
        """Write what the pipe takes of the requests; return whether that was all."""
        try:
            del self._unsent[: self.input.write(self._unsent) or 0]
        except BrokenPipeError:
            self._unsent.clear()  # it died: the end of its output, which is read next, says so
        return not self._unsent

    def answers(self) -> list[Answer]:
        """Take what has arrived; return the answers that are complete."""
        data = os.read(self.output.fileno(), 1 << 16)
        if not data:
            return self._died()
        self._buffer += data
        found: list[Answer] = []
        while self.tasks and (end := self._buffer.find(b"\n", self._searched)) >= 0:
            line = bytes(self._buffer[:end])
            del self._buffer[: end + 1]
            self._searched = 0
            try:
                facts = json.loads(line)
                status, member = facts.pop("status"), facts.pop("member", None)
            except (ValueError, KeyError, TypeError, AttributeError):
                status = None
            if status == "said" and not self.is_ready:
                if (text := str(facts.get("text"))) not in _told:
                    _told.add(text)
                    logging.getLogger("nearsearch").info(text)
                continue
            if status == "ready":
                if facts != {"version": __version__}:
                    self._fail_to_start(f"it is another nearsearch than {__version__}: {facts}")
                self.is_ready = True
                self._set_deadline()
                continue
            task = self.tasks[0]
            if status == "at":
                task.member, task.place = member, facts.get("place")
            elif status in ("hashed", "unchanged", "skipped", "failed", "opened"):
                found.append(task.answer(status, facts, member))
                task.member, task.tries = None, 0
                if member is None:
                    self.tasks.popleft()
                else:
                    task.pass_member()
            else:
                found += self._blame("the hashing process answered nonsense")
                break
            self._set_deadline()
        self._searched = len(self._buffer)
        return found

    def overdue(self) -> list[Answer]:
        """Give up the file: its time is over."""
        if not self.is_ready:
            self._fail_to_start(f"not ready after {_START_SECONDS} s")
        return self._blame(f"took longer than {self._limits.seconds:g} s")

    def end(self) -> None:
        """Kill the process and forget it."""
        if not self.ended:
            self.ended = True
            self._process.kill()
            self._process.wait()
            self.input.close()
            self.output.close()
            self._errors.close()
            os.close(self._lifeline)

    def _set_deadline(self) -> None:
        seconds = self._limits.seconds if self.is_ready else _START_SECONDS
        self.deadline = time.monotonic() + seconds

    def _died(self) -> list[Answer]:
        code = self._process.wait()
        if not self.is_ready:
            self._fail_to_start(f"exit status {code}")
        self.tasks[0].tries += 1
        if self.tasks[0].tries < _TRIES:
            self.end()
            return []
        cause = f"exit status {code}"
        if code < 0:
            names = {known.value: known.name for known in signal.Signals}
            cause = names.get(-code, f"signal {-code}")
        return self._blame(f"the hashing process crashed on it ({cause})")

    def _blame(self, reason: str) -> list[Answer]:
        """End the process; let the file fail, or that member of the archive it was at."""
        self.end()
        task = self.tasks[0]
        task.tries = 0
        answers = [task.failed(reason)]
        if answers[0].member is not None:  # the rest of the archive is read by another process
            task.pass_member()
            task.crashes += 1
            if task.crashes < _MOST_CRASHES:
                return answers
            reason = f"given up after {_MOST_CRASHES} of its files ended the hashing process"
            answers.append(task.failed(f"{reason}; {task.n_members:,} were read"))
        self.tasks.popleft()
        return answers

    def _fail_to_start(self, why: str) -> None:
        self._errors.seek(0)
        detail = self._errors.read()[-2000:].decode("utf-8", "replace").strip()
        self.end()
        raise WorkerStartError(f"{why}: {detail}" if detail else why)
