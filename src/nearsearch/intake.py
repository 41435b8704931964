"""Intake: files that a walk found are hashed, and become members of a transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from nearsearch.matches import Failure
from nearsearch.records import batch_of_files
from nearsearch.store import schema
from nearsearch.store.transaction import ADDED, REPLACED, UNCHANGED

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from nearsearch.ingest import FoundFile, IngestReport
    from nearsearch.records import Marks
    from nearsearch.store.transaction import Transaction
    from nearsearch.workers import Answer, WorkerPool


def add_chunk(
    transaction: Transaction,
    chunk: list[FoundFile],
    marks: Marks,
    pool: WorkerPool,
    report: IngestReport,
    tell: Callable[[IngestReport], None],
) -> None:
    """Hash those files of a chunk that are new or changed, add them, and count every one."""
    found = [file for file in chunk if file.failure is None]
    for file in chunk:
        if file.failure is not None:
            report.add_failure(file.status, file.failure)
    stats = np.array([(file.size, file.mtime_ns) for file in found], np.int64).reshape(-1, 2)
    asked = {
        "contribution": schema.constant(marks.contribution, len(found)),
        "key": pa.array([file.key for file in found], pa.large_string()),
    }
    labels = schema.LABEL_SEPARATOR.join(marks.labels)
    known = transaction.unchanged_files(pa.table(asked), marks.source, labels, stats)
    report.unchanged += int(known.sum())
    tell(report)
    keys = {file.path: file.key for file, same in zip(found, known, strict=True) if not same}
    specs = transaction.base.specs
    hashed: list[Answer] = []
    for answer in pool.map(keys, specs):
        if answer.status == "hashed":
            hashed.append(answer)
            report.added += 1  # for the progress; settled below
        else:
            facts = answer.facts
            failure = Failure(keys[answer.path], facts["reason"], facts["stage"])
            report.add_failure(answer.status, failure)
        tell(report)
    if hashed:
        report.added -= len(hashed)
        hashed.sort(key=lambda answer: keys[answer.path])  # not by order of completion
        count(report, transaction.add(batch_of_files(hashed, keys, marks, specs)))
        tell(report)


def count(report: IngestReport, status: NDArray[np.uint8]) -> None:
    """Count what became of each record of a batch."""
    report.added += int((status == ADDED).sum())
    report.replaced += int((status == REPLACED).sum())
    report.unchanged += int((status == UNCHANGED).sum())
