"""A writer is killed within its commits, again and again, while two processes search.

After each kill the index opens, is sound, and holds what it held before the operation in flight or
what it holds after it; what was acknowledged is never lost, and the next writer goes on at once.
Every answer of the readers is that of the very generation it names. 12 kills, with `--thorough`
300.

This process keeps the books: it chooses each operation, and knows from a dictionary what an index
holds after it. Writers, readers and checks are forked from one process that has loaded everything.
"""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
import traceback
import warnings
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import NamedTuple
from unittest.mock import Mock

import numpy as np
import pytest

import nearsearch as ns
from nearsearch import plan, records
from nearsearch.codes import record_ids
from nearsearch.store import log, shardset
from nearsearch.store import manifest as manifests
from nearsearch.synthetic import plant_neighbours, random_codes

RADIUS = 31
FAMILIES = random_codes(60, 256, 1)
CODES = np.concatenate([FAMILIES, *(plant_neighbours(FAMILIES, n, n) for n in (3, 9, 25))])
QUERIES = [np.zeros(32, np.uint8), *CODES[:60]]  # the first is asked for everything
DISTANCES = np.array([np.unpackbits(CODES ^ query, axis=1).sum(axis=1) for query in QUERIES])
CONTRIBUTIONS = {"A": "NL", "B": "NL", "C": "DE", "D": "DE", "E": ""}  # and the usual source
KEYS = [f"k{i}" for i in range(40)]
TUNING = {  # so that all kinds of merging happen with few members
    "shardset.FLUSH_MEMBERS": (8, 1 << 21),
    "plan.SMALL_SHARD": (0, 8, 1 << 13),
    "plan.MOST_MERGED_AT_COMMIT": (0, 24, 1 << 16),
    "plan.MIN_RING_CODES": (16,),
    "log.ENTRIES_A_FILE": (5,),
}


class State(NamedTuple):
    """What an index holds: (contribution, key) to (code number, source, time); what is disabled."""

    members: dict
    disabled: frozenset = frozenset()

    def shown(self):
        return [
            (contribution, key, number, source)
            for (contribution, key), (number, source, _) in self.members.items()
            if not {("contribution", contribution), ("source", source)} & self.disabled
        ]

    def answer(self, query, only):
        """What a search finds, in any order; see `ask`."""
        radius = RADIUS if query else 256
        return sorted(
            [int(DISTANCES[query, number]), contribution, key, source, number]
            for contribution, key, number, source in self.shown()
            if DISTANCES[query, number] <= radius and only in (None, contribution)
        )

    def after(self, operation, history):
        """What it holds after an operation; `history` are the states of generations."""
        name, *rest = operation
        members, disabled = dict(self.members), self.disabled
        if name == "add":
            for contribution, source, batch in rest[1]:
                for key, number in batch:
                    if members.get((contribution, key), ())[:2] != (number, source):
                        members[contribution, key] = number, source, rest[0]
        elif name == "merge":
            time, contribution, source, batch = rest
            for key, number in batch:
                if time > members.get((contribution, key), (0, "", 0))[2]:
                    members[contribution, key] = number, source, time
        elif name in ("remove", "erase"):
            keys, contribution = rest
            if keys or contribution:
                for known in [*members]:
                    if contribution in (None, known[0]) and (not keys or known[1] in keys):
                        del members[known]
            if name == "erase":
                living = {("contribution", contribution) for contribution, _ in members}
                living |= {("source", source) for _, source, _ in members.values()}
                disabled &= living
        elif name == "disable":
            disabled |= {tuple(rest)}
        elif name == "enable":
            disabled -= {tuple(rest)}
        elif name == "rollback":
            return history[rest[0]]
        return State(members, disabled)


def batch(rng):
    return [(key, rng.randrange(len(CODES))) for key in rng.sample(KEYS, rng.randint(1, 8))]


def choose(rng, state, kept):
    """Choose an operation, as JSON; `kept` are the generations to go back to."""
    contribution = rng.choice([*CONTRIBUTIONS])
    source = rng.choice([CONTRIBUTIONS[contribution]] * 5 + ["NL"])
    names = rng.choices(
        ("add", "merge", "remove", "erase", "disable", "enable", "compact", "rollback"),
        (40, 8, 12, 8, 8, 8, 8, 8),
    )
    living = sorted(state.members)
    match names[0]:
        case "merge":
            age = rng.choice([0, 3600])  # of two members with one key the younger stays
            return ["merge", time.time() - age, contribution, source, batch(rng)]
        case "remove" if living:
            return ["remove", *rng.choice([(None, contribution), (rng.sample(KEYS, 8), None)])]
        case "erase" if living:
            return ["erase", *rng.choice([(None, None), (rng.sample(KEYS, 4), contribution)])]
        case "disable" if living:
            name = rng.choice(living)
            column = rng.choice(["contribution", "source"])
            return ["disable", column, name[0] if column[0] == "c" else state.members[name][1]]
        case "enable" if state.disabled:
            return ["enable", *rng.choice(sorted(state.disabled))]
        case "compact":
            return ["compact"]
        case "rollback" if kept:
            return ["rollback", rng.choice(kept)]
    calls = [(contribution, source, batch(rng))]
    calls += [(rng.choice([*CONTRIBUTIONS]), source, batch(rng)) for _ in range(rng.randrange(3))]
    return ["add", time.time(), calls]


# --- in processes of their own ----------------------------------------------------------------


def serve():
    """Fork a process for each order on standard input, and say how it ended unless it stays.

    Until it has ended, a process has standard input and output to itself.
    """
    import faiss  # noqa: F401

    import nearsearch.kernels.blake2b
    import nearsearch.kernels.ring  # noqa: F401

    warnings.simplefilter("error")
    readers = []
    while order := receive():
        task, *arguments = order
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                {"write": write, "check": check, "read": read}[task](*arguments)
                status = 0
            except BaseException:
                (Path(arguments[0]).parent / f"{os.getpid()}.error").write_text(
                    f"{order} {traceback.format_exc()}"
                )
            finally:
                os._exit(status)
        if task == "read":
            readers.append(pid)
        else:
            send(ended=os.waitpid(pid, 0)[1])
    for pid in readers:  # the file ``stop`` is there
        os.waitpid(pid, 0)


def receive():
    line = b""
    while not line.endswith(b"\n"):
        part = os.read(0, 1)
        if not part:
            return None
        line += part
    return json.loads(line)


def send(**words):
    os.write(1, json.dumps(words).encode() + b"\n")


def write(path, tuning):
    """Do what is ordered, one commit each; tell when it begins and when it has returned."""
    for name, value in tuning.items():
        module, name = name.split(".")
        setattr({"plan": plan, "log": log, "shardset": shardset}[module], name, value)
    root = Path(path)
    start = time.perf_counter()
    writer = ns.Writer.open(root, create=True)
    send(pid=os.getpid(), generation=writer.generation, seconds=time.perf_counter() - start)
    while order := receive():
        name, *rest = order
        other = make_other(root, *rest) if name == "merge" else None
        send(begun=name)
        perform(writer, name, rest, other)
        with ns.Index.open(root) as index:
            send(generation=writer.generation, kept=index.kept_generations())
    writer.close()


def make_other(root, time, contribution, source, batch):
    """Make an index to merge, as if at some time."""
    other = root.with_name(f"other-{time}.ns")
    with pytest.MonkeyPatch.context() as patch, ns.Writer.open(other, create=True) as writer:
        patch.setattr(
            records, "datetime", Mock(now=lambda zone: datetime.fromtimestamp(time, zone))
        )
        add(writer, contribution, source, batch)
    return other


def add(writer, contribution, source, batch):
    keys, numbers = zip(*batch, strict=True)
    writer.add_codes(CODES[[*numbers]], keys=keys, contribution=contribution, source=source)


def perform(writer, name, rest, other):
    match name:
        case "add":
            for call in rest[1]:
                add(writer, *call)
        case "merge":
            writer.merge(other)
        case "remove" | "erase":
            keys, contribution = rest
            writer.remove(keys=keys, contribution=contribution, erase=name == "erase")
        case "disable" | "enable":
            getattr(writer, name)(**{rest[0]: rest[1]})
        case "compact":
            writer.compact()
        case "rollback":
            writer.rollback(*rest)
    writer.commit()


def ask(index, query, only):
    """Search for one of `QUERIES`, perhaps in one contribution; as `State.answer` has it."""
    where = None if only is None else f'contribution == "{only}"'
    found = index.search(QUERIES[query], RADIUS if query else 256, where=where)
    table = found.to_arrow()
    names = ("distance", "contribution", "key", "source", "item_id")
    rows = zip(*(table[name].to_pylist() for name in names), strict=True)
    assert found.distances.tolist() == sorted(found.distances.tolist())
    return found.generation, sorted([*row[:-1], NUMBERS[row[-1]]] for row in rows)


NUMBERS = {
    bytes(digest): number
    for number, digest in enumerate(
        record_ids(CODES, np.full(len(CODES), -1, np.int8), ns.get_spec("pdq"))
    )
}


def check(path):
    """Read every byte, and tell all that is there, also in the generations that are kept."""
    with ns.Index.open(path, check="full") as index:
        generation, answer = ask(index, 0, None)
        stats = index.stats()
        kept = index.kept_generations()
        counts = [stats["members"], stats["disabled_members"]]
    old = {}
    for number in kept:
        with ns.Index.open(path, generation=number) as index:
            old[number] = ask(index, 0, None)[1]
    damage = [str(entry) for entry in ns.verify(path)]
    send(generation=generation, answer=answer, counts=counts, damage=damage, old=old)


def read(path, seed):
    """Search until told to stop, and write down every answer with its generation."""
    rng, folder = random.Random(seed), Path(path).parent
    index = ns.Index.open(path)
    with (folder / f"answers-{seed}").open("w", buffering=1) as answers:
        while not (folder / "stop").exists():
            live = int.from_bytes((folder / "acknowledged").read_bytes(), "little")
            how = rng.random()
            if how < 0.05:
                time.sleep(0.3 * rng.random())  # and go on with what has become old
                live = -1
            elif how < 0.1:
                live = -1
                try:
                    number = rng.choice(index.kept_generations())
                    other = ns.Index.open(path, generation=number)
                    assert other.generation == number
                    index.close()
                    index = other
                except ns.errors.GenerationNotKeptError:
                    continue
            elif how < 0.2:
                index.close()
                index = ns.Index.open(path)
            else:
                index.refresh()
            query = rng.choice([0, rng.randrange(1, len(QUERIES))])
            only = rng.choice([None, None, *CONTRIBUTIONS])
            generation, answer = ask(index, query, only)
            answers.write(json.dumps([live, generation, query, only, answer]) + "\n")
            time.sleep(0.004 * rng.random())


# --- the test ---------------------------------------------------------------------------------


class Server:
    """The process that forks the others."""

    def __init__(self, folder):
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(sys.path),
            "OPENBLAS_NUM_THREADS": "1",  # threads do not survive a fork
            "ARROW_DEFAULT_MEMORY_POOL": "system",
        }
        self._folder = folder
        self._process = subprocess.Popen(
            [sys.executable, "-c", "from faults.test_soak import serve; serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            start_new_session=True,
        )

    def send(self, *order):
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        self._process.stdin.flush()

    def receive(self):
        line = self._process.stdout.readline()
        return json.loads(line) if line else self.fail("the server ended")

    def expect(self, word):
        answer = self.receive()
        return answer if word in answer else self.fail(f"{answer} instead of {word}")

    def fail(self, what):
        """Fail, with what the processes wrote when they failed."""
        pytest.fail("\n".join([what, *(path.read_text() for path in self.errors())]))

    def errors(self):
        return list(self._folder.glob("*.error"))

    def stop(self):
        """Let the readers end."""
        (self._folder / "stop").touch()
        self._process.stdin.close()
        self._process.wait(60)

    def kill(self):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process.stdout.close()
        self._process.stdin.close()


class Soak:
    """One index, and what is known of each of its generations."""

    def __init__(self, folder, seed):
        self.root, self.rng, self.server = folder / "index.ns", random.Random(seed), Server(folder)
        self.history, self.kept = {0: State({})}, []
        self.generation = 0
        self.seconds = {}  # of the last operation of each name
        self.counts, self.kills, self.opening = Counter(), Counter(), 0.0
        self._acknowledged = folder / "acknowledged"
        self._acknowledged.write_bytes(bytes(8))

    def start_writer(self):
        tuning = {name: self.rng.choice(values) for name, values in TUNING.items()}
        self.server.send("write", str(self.root), tuning)
        started = self.server.expect("pid")
        assert started["generation"] == self.generation
        self.opening = max(self.opening, started["seconds"])
        return started["pid"]

    def begin(self):
        """Let the writer begin an operation; return its name and the state it is to lead to."""
        state = self.history[self.generation]
        operation = choose(self.rng, state, self.kept)
        self.server.send(*operation)
        self.server.expect("begun")
        return operation[0], state.after(operation, self.history)

    def is_now(self, generation, state, kept):
        """Take note that a generation is live: what came since the last one holds `state`."""
        for number in range(self.generation + 1, generation + 1):
            self.history[number] = state
        self.generation = generation
        self.kept = [number for number in kept if number < generation]
        with self._acknowledged.open("r+b", buffering=0) as file:
            file.write(generation.to_bytes(8, "little"))

    def operate(self):
        """Let the writer do an operation, and wait until its commit has returned."""
        name, after = self.begin()
        start = time.perf_counter()
        done = self.server.expect("generation")
        self.seconds[name] = time.perf_counter() - start
        assert done["generation"] - self.generation in (0, 1, 2)
        if done["generation"] == self.generation:
            assert after == self.history[self.generation], name
        self.is_now(done["generation"], after, done["kept"])
        self.counts[name] += 1

    def end_writer(self, pid):
        """Kill the writer; return what it said last."""
        os.kill(pid, signal.SIGKILL)
        said = self.server.receive()
        if "ended" in said:
            return None
        self.server.expect("ended")
        return said

    def live_and_die(self):
        """One writer: some operations, and a kill within the last."""
        pid = self.start_writer()
        for _ in range(self.rng.randrange(3)):
            self.operate()
        before, old = self.generation, self.history[self.generation]
        name, after = self.begin()
        time.sleep(self.rng.random() * self.seconds.get(name, 0.03))
        said = self.end_writer(pid)
        found = self.check()
        assert found["generation"] - before in (0, 1, 2), name  # the second one is for tidiness
        if said is not None:
            assert found["generation"] == said["generation"], name
        if found["generation"] == before:
            assert said is None or after == old, name
            after = old
        is_live = found["generation"] > before
        self.kills["acknowledged" if said else "live" if is_live else "not live"] += 1
        self.is_now(found["generation"], after, map(int, found["old"]))
        assert found["answer"] == after.answer(0, None), (name, found["generation"])
        assert found["counts"] == [len(after.members), len(after.members) - len(after.shown())]
        for number, answer in found["old"].items():
            assert answer == self.history[int(number)].answer(0, None), (name, number)
        assert found["damage"] == []
        if self.server.errors():
            self.server.fail("a reader failed")

    def check(self):
        self.server.send("check", str(self.root))
        found = self.server.expect("answer")
        assert self.server.expect("ended")["ended"] == 0
        return found

    def check_answers(self, seed):
        """Compare what a reader wrote down with what is known of the generations; count."""
        known, n, live_at = {}, 0, set()
        with (self.root.parent / f"answers-{seed}").open() as file:
            for line in file:
                live, generation, query, only, answer = json.loads(line)
                asked = generation, query, only
                if asked not in known:
                    known[asked] = self.history[generation].answer(query, only)
                assert answer == known[asked], asked
                assert generation >= live, asked
                live_at.add(generation)
                n += 1
        return n, live_at


@pytest.fixture
def soak(tmp_path):
    seed = random.randrange(1000)
    print(f"seed {seed}")
    soak = Soak(tmp_path, seed)
    yield soak
    soak.server.kill()


@pytest.mark.timeout(3600)
def test_kills(soak, thorough):
    n_kills, start = 300 if thorough else 12, time.perf_counter()
    pid = soak.start_writer()
    for _ in range(5):
        soak.operate()
    soak.end_writer(pid)
    for seed in (1, 2):
        soak.server.send("read", str(soak.root), seed)
    for _ in range(n_kills):
        soak.live_and_die()
    soak.server.stop()
    if soak.server.errors():
        soak.server.fail("a reader failed")
    answers, seen = 0, set()
    for seed in (1, 2):
        n, at = soak.check_answers(seed)
        answers, seen = answers + n, seen | at
    assert answers > 10 * n_kills
    with ns.Writer.open(soak.root):
        pass  # which removes what the killed left
    live = manifests.read_current(soak.root)
    needed = [live, *(manifests.read(soak.root, old) for old in live.kept)]
    names = {file.name for manifest in needed for _, file in manifest.named_files()}
    names |= {manifest.name for manifest in needed} | {"CURRENT", "writer.lock"}
    assert names == {
        str(path.relative_to(soak.root)) for path in soak.root.rglob("*") if path.is_file()
    }
    print(
        f"{n_kills} kills in {time.perf_counter() - start:.0f} s: {dict(soak.kills)} when it came; "
        f"{sum(soak.counts.values())} commits between them: {dict(soak.counts)}; "
        f"{answers} answers at {len(seen)} of {soak.generation} generations, none wrong; "
        f"a writer opened within {soak.opening:.3f} s"
    )
