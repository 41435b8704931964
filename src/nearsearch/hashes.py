"""Files to hashes, without an index: digests, codes, and why there are none."""

from __future__ import annotations

from collections import defaultdict, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from nearsearch.codes import DIGEST_BYTES, as_codes
from nearsearch.errors import UsageError
from nearsearch.ingest import FoundFile, key_of, path_list
from nearsearch.matches import Failure
from nearsearch.spec import get_spec
from nearsearch.workers import Request, WorkerPool

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from nearsearch.ingest import PathLike
    from nearsearch.media.sampling import Sampling
    from nearsearch.spec import Spec
    from nearsearch.workers import Answer, Limits

NO_FILES: Final = {"reason": "an archive without files", "stage": "sniff"}
VARIANTS: Final = ("none", "fast", "thorough")
"""Which views of a query to ask with, each more than the one before."""
_MOST_HELD: Final = 1024  # files, whose answers wait for their turn


class View(NamedTuple):
    """A code of one view of a file."""

    view: str
    """``image`` for the whole or first picture, else which it is."""
    time_ms: int | None
    """Of a frame: when it appears, in milliseconds from the start."""
    code: str
    """In hex."""
    quality: int
    """0..100."""
    end_ms: int | None = None
    """Of a frame of a film: when another one is shown, in milliseconds."""


@dataclass(frozen=True, slots=True)
class FileHashes:
    """What was found out about one file, or one member of an archive.

    Attributes
    ----------
    key
        The path as text; that of a member after its archive's and ``!``.
    sha256, md5, sha1
        In hex; None where the file was not read, or the digest not asked for.
    size, width, height
        Bytes, and pixels as displayed.
    duration_ms
        Of a film.
    format
        What the bytes are: ``JPEG``.
    views
        Spec name to views; empty where there is no code.
    failure
        What kept it from being hashed, or hashed whole.
    """

    key: str
    sha256: str | None
    md5: str | None
    sha1: str | None
    size: int | None
    format: str | None
    width: int | None
    height: int | None
    duration_ms: int | None
    views: Mapping[str, Sequence[View]]
    failure: Failure | None


def hash_stream(
    paths: Iterable[PathLike],
    specs: Sequence[str | Spec] = ("pdq",),
    *,
    digests: Sequence[str] = ("md5", "sha1"),
    sampling: Sampling | None = None,
    limits: Limits | None = None,
    workers: int | None = None,
    pool: WorkerPool | None = None,
) -> Iterator[FileHashes]:
    """Hash files in worker processes, and yield them as they come, in the order of `paths`.

    What comes behind a slow file waits for it: 1,024 files at most, then no more are begun.

    Parameters
    ----------
    paths
        Files; folders are not walked. Archives are opened: their members come in their place.
    specs
        What to compute of each picture.
    digests
        Digests to take beside SHA-256.
    sampling
        Which frames of films: by default one a second, and new scenes.
    limits, workers
        What one file may cost; how many processes, by default one a core. Not beside `pool`.
    pool
        Processes to use and leave running; without it they are started for this call.

    Raises
    ------
    UnknownSpecError
        This version does not know a spec.
    UsageError
        `limits` or `workers` beside `pool`, which has its own.
    WorkerStartError
        The processes do not start.
    """
    texts = map(_text, paths)
    files = (FoundFile(text, key_of(text), None, None) for text in texts)
    return hash_found(
        files,
        specs,
        digests=digests,
        sampling=sampling,
        limits=limits,
        workers=workers,
        pool=pool,
    )


def hash_found(
    files: Iterable[FoundFile],
    specs: Sequence[str | Spec],
    *,
    digests: Sequence[str] = ("md5", "sha1"),
    views: str = "none",
    sampling: Sampling | None = None,
    limits: Limits | None = None,
    workers: int | None = None,
    pool: WorkerPool | None = None,
) -> Iterator[FileHashes]:
    """Hash the files of a walk under their keys, and of each picture these views.

    See `hash_stream`, and `hashers.views.LADDERS`.

    What the walk found in place of a file has its place too.
    """
    if pool is not None and (limits, workers) != (None, None):
        raise UsageError("limits and workers belong to the pool: give them to WorkerPool")
    wanted = [get_spec(spec) for spec in specs]
    used = pool or WorkerPool(workers, limits)
    return _hashed(files, wanted, digests, views, sampling, used, is_ours=pool is None)


def _hashed(
    files: Iterable[FoundFile],
    specs: Sequence[Spec],
    digests: Sequence[str],
    views: str,
    sampling: Sampling | None,
    pool: WorkerPool,
    *,
    is_ours: bool,
) -> Iterator[FileHashes]:
    keys: deque[str] = deque()  # of the files whose turn has not ended

    def requests() -> Iterator[Request]:
        for file in files:
            keys.append(file.key)
            request = Request(file.path, failure=file.failure)
            yield request if file.size is None else request._replace(size=file.size)

    is_empty = True  # of the archive whose members come
    try:
        found = pool.map(
            requests(), specs, digests, views=views, sampling=sampling, window=_MOST_HELD
        )
        for answer in in_order(found):
            if answer.member is not None:
                is_empty = False
                yield _file_hashes(answer, keys[0])
                continue
            key = keys.popleft()
            if answer.status != "opened":
                yield _file_hashes(answer, key)
            elif is_empty:
                yield _file_hashes(answer._replace(facts={**answer.facts, **NO_FILES}), key)
            is_empty = True
    finally:
        if is_ours:
            pool.close()


def _text(path: PathLike) -> str:
    return path_list([path])[0]


def in_order(answers: Iterable[Answer]) -> Iterator[Answer]:
    """Yield answers by the number of their request, those of its members before its own.

    Holds what came before its turn: the files that the other processes finish while one is at work,
    no more of them than the `window` of `WorkerPool.map`.
    """
    waiting: defaultdict[int, list[Answer]] = defaultdict(list)
    turn = 0
    for answer in answers:
        if answer.number != turn:
            waiting[answer.number].append(answer)
            continue
        yield answer
        while answer.member is None:
            turn += 1
            early = waiting.pop(turn, None)
            if not early:
                break
            yield from early
            answer = early[-1]


def answer_key(answer: Answer, key: str) -> str:
    """Return the key of a file with that key, or of its member that the answer is about."""
    return key if answer.member is None else f"{key}!{key_of(answer.member)}"


def failure_of(answer: Answer, key: str) -> Failure | None:
    """Return what kept a file or member with that key from being hashed, or hashed whole."""
    facts = answer.facts
    return Failure(key, facts["reason"], facts["stage"]) if "reason" in facts else None


def _file_hashes(answer: Answer, key: str) -> FileHashes:
    facts: dict[str, Any] = answer.facts
    key = answer_key(answer, key)
    names = ("sha256", "md5", "sha1", "size", "format", "width", "height", "duration_ms")
    views = {
        spec: [View(*view) for view in views] for spec, views in facts.get("codes", {}).items()
    }
    known = {name: facts.get(name) for name in names}
    return FileHashes(key, **known, views=views, failure=failure_of(answer, key))


@dataclass(frozen=True, slots=True, eq=False)
class Hashes:
    """Codes of files, in the order the files were given; a file of several views has several.

    Attributes
    ----------
    codes
        (m, bytes) uint8.
    qualities
        (m,) int16, 0..100.
    file_index
        (m,) int64, ascending: whose code it is, a position in `keys`.
    keys
        The key of each file.
    digests
        SHA-256, MD5 and SHA-1 of each file, those that are known, as bytes.
    failures
        The files that failed or are no media, and those that were hashed in part.
    spec
        The spec that the codes are of.
    """

    codes: NDArray[np.uint8]
    qualities: NDArray[np.int16]
    file_index: NDArray[np.int64]
    keys: Sequence[str]
    digests: Sequence[Sequence[bytes]]
    failures: tuple[Failure, ...]
    spec: Spec
    views: Sequence[str] = ()
    """What each code is of, (m,): ``image``, ``mirrored``, ``frame``, ..."""
    spans: NDArray[np.int32] | None = None
    """Of frames of films, (m, 2): milliseconds when each appears, and when another one does; -1 for
    what is no frame of a film."""
    durations_ms: Sequence[int | None] = ()
    """Of each file that is a film."""


def hash_files(
    paths: Iterable[PathLike],
    spec: str | Spec = "pdq",
    *,
    variants: str = "none",
    sampling: Sampling | None = None,
    limits: Limits | None = None,
    pool: WorkerPool | None = None,
) -> Hashes:
    """Hash picture files in worker processes, one a core.

    Parameters
    ----------
    paths
        Files; folders are not walked. Archives are opened: their members stand in their place.
    spec
        Name of the spec, or the spec.
    variants
        Which further views of each picture to hash, to ask with: ``none``, ``fast`` (the eight
        orientations, what is inside a border, a zoom) or ``thorough`` (also zooms, rotations up to
        20 degrees, moves). ``wdct`` has all of them, ``pdq`` orientations and borders, others none.
        Frames of films have fewer: ``fast`` mirrors them.
    sampling
        Which frames of films: by default one a second, and new scenes.
    limits
        What one file may cost; not beside `pool`, which has its own.
    pool
        Processes to use and leave running; without it they are started for this call.

    Raises
    ------
    UnknownSpecError
        This version does not know the spec.
    UsageError
        `limits` beside `pool`; unknown `variants`.
    WorkerStartError
        The processes do not start.
    """
    specs = [get_spec(spec)]
    return hash_under(paths, specs, variants=variants, sampling=sampling, limits=limits, pool=pool)[
        0
    ]


def hash_under(
    paths: Iterable[PathLike],
    specs: Sequence[Spec],
    *,
    variants: str = "none",
    sampling: Sampling | None = None,
    limits: Limits | None = None,
    pool: WorkerPool | None = None,
) -> list[Hashes]:
    """Do what `hash_files` does under several specs, reading each file once."""
    if variants not in VARIANTS:
        raise UsageError(f"variants: expected {', '.join(VARIANTS)}, got {variants!r}")
    found = (FoundFile(path, key_of(path), None, None) for path in path_list(paths))
    files = list(
        hash_found(found, specs, views=variants, sampling=sampling, limits=limits, pool=pool)
    )
    return [_hashes(files, spec) for spec in specs]


def _hashes(files: Sequence[FileHashes], wanted: Spec) -> Hashes:
    """Return the codes of files under one spec."""
    views = [(i, view) for i, file in enumerate(files) for view in file.views.get(wanted.name, ())]
    return Hashes(
        as_codes([view.code for _, view in views], wanted),
        np.array([view.quality for _, view in views], np.int16),
        np.array([i for i, _ in views], np.int64),
        [file.key for file in files],
        [
            [bytes.fromhex(digest) for name in DIGEST_BYTES if (digest := getattr(file, name))]
            for file in files
        ],
        tuple(file.failure for file in files if file.failure is not None),
        wanted,
        [view.view for _, view in views],
        np.array([_span(view) for _, view in views], np.int32).reshape(-1, 2),
        [file.duration_ms for file in files],
    )


def _span(view: View) -> tuple[int, int]:
    """Return when a frame of a film is shown; frames of animations and pages have no span."""
    return (-1, -1) if view.time_ms is None or view.end_ms is None else (view.time_ms, view.end_ms)
