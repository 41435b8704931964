"""A process that adds files, and may be killed; what an index holds, and whether all is accounted.

``python -m faults.ingesting`` reads an order as JSON, runs it, and prints the report as JSON.
"""

import base64
import json
import os
import resource
import subprocess
import sys
import warnings
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

import nearsearch as ns
from nearsearch import ingest, intake, workers
from nearsearch.ingest import key_of
from nearsearch.matches import Failure

TESTS = Path(__file__).parent.parent


# --- what an index holds ----------------------------------------------------------------------


class Content(NamedTuple):
    """All that is alive in an index, but not when it was added, nor where it is stored."""

    members: frozenset
    items: frozenset
    rows: frozenset
    """Spec, item, view, time, quality, code."""

    @property
    def by_key(self):
        return {row["key"]: row for row in map(dict, self.members)}

    def is_part_of(self, other):
        return all(mine <= theirs for mine, theirs in zip(self, other, strict=True))


def content(path):
    """Read an index; nothing in it may be there twice."""
    members, items, rows = [], [], []
    with ns.Index.open(path) as index:
        for shard in index.snapshot.shards:
            dead = set(shard.tombstones.items.tolist())
            living = [row for row in range(len(shard.items)) if row not in dead]
            members += _frozen(shard.take_members(shard.living_members()), {"added_at"})
            items += _frozen(shard.items.take(pa.array(living, pa.int64())), set())
            for spec, codes in shard.codes.items():
                names = ("code", "item", "view", "time_ms", "quality")
                ids = shard.items["item_id"].to_pylist()
                columns = (codes.table[name].to_pylist() for name in names)
                for code, item, *rest in zip(*columns, strict=True):
                    if item not in dead:
                        rows.append((spec, ids[item], *rest, codes.codes[code].tobytes()))
    found = Content(frozenset(members), frozenset(items), frozenset(rows))
    assert [len(part) for part in found] == [len(members), len(items), len(rows)]
    return found


def _frozen(table, without):
    for row in table.to_pylist():
        yield tuple(
            (name, tuple(value) if isinstance(value, list) else value)
            for name, value in sorted(row.items())
            if name not in without and value is not None
        )


def status_of(member):
    problem = member.get("problem")
    return Failure.of(member["key"], problem).status if problem else "hashed"


# --- the account ------------------------------------------------------------------------------


def counts_of(report):
    return {name: count for name, count in report.items() if isinstance(count, int)}


def check_account(report, found, files, members=()):
    """Check that all `files` of a first run are accounted for, each once, and these `members`."""
    counts = counts_of(report)
    hashed = sum(counts[name] for name in ("added", "replaced", "unchanged", "duplicate"))
    assert counts["total"] == hashed + counts["skipped"] + counts["failed"]
    noted = Counter(Failure(*failure).status for failure in report["failures"])
    assert noted == +Counter({name: counts[name] for name in ("skipped", "failed", "damaged")})
    for key, reason, stage in report["failures"]:
        assert key, (reason, stage)
        assert reason.strip(), (key, stage)
        assert stage.strip(), (key, reason)
    known = found.by_key
    assert len(known) == len(found.members)
    of_archives = {key for key in known if "!" in key}
    assert known.keys() - of_archives == {key_of(os.fsdecode(file)) for file in files}
    assert {key.partition("!")[0] for key in of_archives} <= known.keys()
    assert set(members) <= of_archives
    kept = Counter(map(status_of, known.values()))
    assert kept["opened"] + counts["total"] == len(known)
    assert (kept["skipped"], kept["failed"]) == (counts["skipped"], counts["failed"])
    assert kept["hashed"] + kept["damaged"] == hashed
    assert kept["damaged"] == counts["damaged"]
    ids = {row["item_id"] for row in known.values()}
    assert {dict(item)["item_id"] for item in found.items} == ids
    coded = {row[1] for row in found.rows}
    assert coded == {r["item_id"] for r in known.values() if status_of(r) in ("hashed", "damaged")}


def check_second(first, second, may_read):
    """Check the report of the same tree once more: nothing else is read than `may_read`."""
    before, after = counts_of(first), counts_of(second)
    assert set(second["asked"]) <= set(may_read)
    assert after["added"] == after["replaced"] == after["duplicate"] == 0
    hashed = before["added"] + before["replaced"] + before["duplicate"] + before["unchanged"]
    assert after["unchanged"] == hashed
    for name in ("skipped", "failed", "total"):
        assert after[name] == before[name], name


# --- in a process of its own ------------------------------------------------------------------


def patched_command(code):
    """The hashing process, which runs `code` first."""
    encoded = base64.b64encode(code.encode()).decode()
    return workers._COMMAND.replace(
        "from nearsearch.media.worker",
        f"import base64; exec(base64.b64decode('{encoded}').decode(), {{}}); "
        "from nearsearch.media.worker",
    )


def add(order):
    """Add the paths of an order; return the report, and which files were read."""
    asked, failures = [], []
    their_map = workers.WorkerPool.map

    def note(requests):
        for request in requests:
            asked.append(request.path)
            yield request

    def new_map(self, requests, *rest, **named):
        return their_map(self, note(requests), *rest, **named)

    workers.WorkerPool.map = new_map
    try:
        limits = ns.Limits(**order.get("limits", {}))
        with ns.Writer.open(order["index"], create=True) as writer:
            report = writer.add_files(
                order["paths"],
                commit_every=order.get("commit_every"),
                limits=limits,
                workers=order.get("workers", 2),
                on_progress=(lambda _: print(flush=True)) if order.get("tells") else None,
                on_failure=failures.append,
            )
    finally:
        workers.WorkerPool.map = their_map
    assert report.failures == failures[: ingest.MOST_FAILURES]
    return {**report.to_json(), "failures": failures, "asked": asked}


def main():
    warnings.simplefilter("error")
    order = json.loads(sys.stdin.readline())
    if "batch" in order:  # so that a small tree is committed often
        intake._FILES_A_BATCH = order["batch"]
    if "code" in order:
        workers._COMMAND = patched_command(order["code"])
    os.chdir(order.get("folder", "."))
    print("begun", flush=True)
    reports = [add(order) for _ in range(order.get("times", 1))]
    peak = int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) << 10
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss << 10
    print(json.dumps({"reports": reports, "peak": peak, "workers": children}), flush=True)


def start(order, **options):
    """Start the process in a group of its own; it has said that it begins."""
    process = subprocess.Popen(
        [sys.executable, *options.pop("flags", ()), "-m", "faults.ingesting"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=TESTS,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        start_new_session=True,
        **options,
    )
    process.stdin.write(json.dumps(order).encode() + b"\n")
    process.stdin.close()
    return process


def run(order, **options):
    """Run it to its end; return what it said."""
    process = start(order, **options)
    with process.stdout:
        lines = process.stdout.read().splitlines()
    assert process.wait() == 0, f"it ended with {process.returncode}"
    return json.loads(lines[-1])


if __name__ == "__main__":
    main()
