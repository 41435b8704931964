"""Intake: the files that a walk finds become members of an index, and every one is counted."""

from __future__ import annotations

import re
import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Final

import numpy as np
import pyarrow as pa

from nearsearch.hashes import NO_FILES, answer_key, failure_of
from nearsearch.matches import Failure
from nearsearch.records import batch_of_files
from nearsearch.store import schema
from nearsearch.store.members import known_files
from nearsearch.store.transaction import ADDED, DUPLICATE, REPLACED, UNCHANGED
from nearsearch.workers import Answer, Request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from nearsearch.ingest import FoundFile, IngestReport
    from nearsearch.media.sampling import Sampling
    from nearsearch.records import Marks
    from nearsearch.store.transaction import Transaction
    from nearsearch.workers import WorkerPool

_FILES_A_LOOK: Final = 4096  # of the walk, looked up at a time: 8 us each, 20 in parts of 1,024
_FILES_A_BATCH: Final = 1024  # hashed, taken in at a time: a second or so of two processes
READ_AGAIN: Final = ("changed", "failed", "all", "rehash")
"""What to read of files that have the size and time they had, each more than the one before."""
_WHAT: Final = ("files", "failed", "skipped", "damaged")
_CONTENTS: Final = re.compile(r"(\d+) files, (\d+) failed, (\d+) skipped, (\d+) damaged$")


@dataclass(slots=True)
class Intake:
    """Files on their way into an index.

    `transaction` gives the one to add to now; `commit` is called when `interval` seconds have
    passed since the last time.
    """

    transaction: Callable[[], Transaction]
    marks: Marks
    report: IngestReport
    tell: Callable[[IngestReport], None]
    on_failure: Callable[[Failure], None]
    read_again: str
    sampling: Sampling | None
    interval: float
    commit: Callable[[], object]
    _last_commit: float = field(default_factory=time.monotonic)
    # By number of the request: the file, and what it was
    _found: dict[int, tuple[FoundFile, Failure | None]] = field(default_factory=dict)
    _batch: dict[str, Answer] = field(default_factory=dict)  # by key
    _contents: dict[int, Counter[str]] = field(default_factory=dict)  # of archives, by status

    def run(self, files: Iterator[FoundFile], pool: WorkerPool) -> None:
        """Take in all files; leave the last of them to the caller's commit."""
        specs = self.transaction().base.specs
        requests = self._requests(files)
        digests, sampling = self.marks.digests, self.sampling
        for answer in pool.map(requests, specs, digests, views="known", sampling=sampling):
            self._take(answer)
            self.tell(self.report)
        self._add()
        self.tell(self.report)

    # --- what is known already ----------------------------------------------------------------

    def _requests(self, files: Iterator[FoundFile]) -> Iterator[Request]:
        """Yield those files that must be read; count the others."""
        number = 0
        while chunk := list(islice(files, _FILES_A_LOOK)):
            for file in chunk:
                if file.failure is not None:
                    self._done(file)
                    answer = Answer(file.path, file.failure.status, _facts(file.failure))
                    self._put(file.key, answer, file.failure)
            found = [file for file in chunk if file.failure is None]
            for file, failure, item in self._to_read(found):
                self._found[number] = file, failure
                number += 1
                yield Request(file.path, file.size or 0, item)
            self.tell(self.report)

    def _to_read(
        self, found: list[FoundFile]
    ) -> Iterator[tuple[FoundFile, Failure | None, str | None]]:
        """Yield those that must be read, what they were, and the item that they may still be."""
        if self.read_again == "rehash":
            yield from ((file, None, None) for file in found)
            return
        stats = np.array([(file.size, file.mtime_ns) for file in found], np.int64).reshape(-1, 2)
        asked = {
            "contribution": schema.constant(self.marks.contribution, len(found)),
            "key": pa.array([file.key for file in found], pa.large_string()),
        }
        known = known_files(
            self.transaction().shards,
            pa.table(asked),
            self.marks.source,
            schema.LABEL_SEPARATOR.join(self.marks.labels),
            stats,
        )
        ids = known.item_ids.view(np.uint8).reshape(-1, schema.ID_BYTES)
        for i, file in enumerate(found):
            if not known.is_known[i]:
                yield file, None, None
                continue
            failure = Failure.of(file.key, known.problems[i]) if known.problems[i] else None
            status = failure.status if failure else "hashed"
            if self.read_again == "all":
                is_whole = status in ("hashed", "opened")
                yield file, failure, ids[i].tobytes().hex() if is_whole else None
            elif failure is None:
                self._done(file)
                self.report.unchanged += 1
            elif self._is_to_retry(failure):
                yield file, failure, None
            else:
                self._count_again(file, failure)

    def _is_to_retry(self, failure: Failure) -> bool:
        if failure.status == "failed" and failure.stage == "read":
            return True  # it may be readable now, without another time or size
        contents = _contents(failure)
        is_bad = failure.status in ("failed", "damaged") or contents["failed"] + contents["damaged"]
        return self.read_again == "failed" and bool(is_bad)

    def _count_again(self, file: FoundFile, failure: Failure) -> None:
        """Count a file as it was, without reading it."""
        self._done(file)
        contents = _contents(failure)
        for status in ("failed", "skipped", "damaged", "unchanged"):
            setattr(self.report, status, getattr(self.report, status) + contents[status])
        if failure.status != "opened":
            self.report.unchanged += failure.status == "damaged"
            self._count_failure(failure)
        elif contents["failed"] or contents["damaged"]:
            reason = f"when it was last read: {failure.reason}"
            noted = Failure(failure.key, reason, "container")
            self.report.note(noted)
            self.on_failure(noted)

    # --- what was read ------------------------------------------------------------------------

    def _take(self, answer: Answer) -> None:
        """Count an answer if it ends here, or put it into the batch."""
        contents = self._contents.setdefault(answer.number, Counter())
        file, known = self._found[answer.number]
        key = answer_key(answer, file.key)
        if answer.member is not None:
            failure = failure_of(answer, key)
            contents["files"] += 1
            contents[failure.status if failure else "hashed"] += 1
            self._put(key, answer, failure)
            return
        del self._found[answer.number]
        del self._contents[answer.number]
        facts = {"size": file.size, "mtime_ns": file.mtime_ns, **answer.facts}
        if answer.status == "unchanged" and known is not None:
            self._count_again(file, known)
            return
        self._done(file)
        if answer.status == "unchanged":
            self.report.unchanged += 1
            return
        if contents:
            words = ", ".join(f"{contents[what]} {what}" for what in _WHAT)
            before = "" if answer.status == "opened" else f"{facts['reason']}; before that "
            facts["reason"] = before + words
        elif answer.status == "opened":
            facts |= NO_FILES
        answer = answer._replace(facts=facts)
        # An archive is no file of the account; that it could not be read to its end is a failure.
        is_counted = answer.status != "opened" or not contents
        self._put(key, answer, failure_of(answer, key) if is_counted else None)

    def _done(self, file: FoundFile) -> None:
        self.report.paths += 1
        self.report.bytes += file.size or 0

    def _count_failure(self, failure: Failure) -> None:
        self.report.add_failure(failure)
        self.on_failure(failure)

    def _put(self, key: str, answer: Answer, failure: Failure | None) -> None:
        """Put a file into the batch, count it if it is skipped or failed; add or commit if due."""
        if key in self._batch:  # a file whose name is that of a member: the other goes first
            self._add()
        self._batch[key] = answer
        if failure is not None:
            self._count_failure(failure)
        if answer.status == "hashed":
            self.report.added += 1  # for the progress; settled by `_add`
            self.report.featureless += self._is_featureless(answer)
        is_time = time.monotonic() - self._last_commit >= self.interval
        if is_time or len(self._batch) >= _FILES_A_BATCH:
            self._add()
        if is_time:
            self.commit()
            self._last_commit = time.monotonic()

    def _is_featureless(self, answer: Answer) -> bool:
        """Tell whether no view that was hashed is good enough to match near."""
        least = {spec.name: spec.default_min_quality for spec in self.transaction().base.specs}
        codes: dict[str, list[tuple[str, int | None, str, int, int | None]]] = answer.facts["codes"]
        return all(view[3] < least[name] for name, views in codes.items() for view in views)

    def _add(self) -> None:
        """Add the batch to the transaction; say what became of those that were hashed."""
        if not self._batch:
            return
        keys = sorted(self._batch)  # not by order of completion
        answers = [self._batch[key] for key in keys]
        self._batch.clear()
        is_hashed = np.array([answer.status == "hashed" for answer in answers])
        transaction = self.transaction()
        status = transaction.add(batch_of_files(answers, keys, self.marks, transaction.base.specs))
        self.report.added -= int(is_hashed.sum())
        count(self.report, status[is_hashed])


def _facts(failure: Failure) -> dict[str, object]:
    return {"reason": failure.reason, "stage": failure.stage}


def _contents(failure: Failure) -> Counter[str]:
    """Return how many files an archive had, by what became of them."""
    match = _CONTENTS.search(failure.reason)
    found = Counter(dict(zip(_WHAT, map(int, match.groups()), strict=True)) if match else {})
    found["unchanged"] = found["files"] - found["failed"] - found["skipped"]
    return found


def count(report: IngestReport, status: NDArray[np.uint8]) -> None:
    """Count what became of each record of a batch."""
    report.added += int((status == ADDED).sum())
    report.replaced += int((status == REPLACED).sum())
    report.unchanged += int((status == UNCHANGED).sum())
    report.duplicate += int((status == DUPLICATE).sum())
