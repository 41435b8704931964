"""Files are added that are broken, hostile, or change while they are read, and processes die of it.

Whatever happens, the run ends, each file has its place in the account, and the index is sound. With
`--thorough` 10,000 mutated files instead of hundreds, and 50 kills instead of 6.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
import unicodedata
from collections import Counter
from pathlib import Path

import pytest
from faults import ingesting, mutations
from faults.ingesting import Content, check_account, check_second, content
from faults.mutations import png, zip_of

import nearsearch as ns
from nearsearch import workers
from nearsearch.ingest import key_of

pytestmark = pytest.mark.timeout(7200)

EMPTY = Content(frozenset(), frozenset(), frozenset())


def write(folder, files):
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def regular(folder):
    """Every file below a folder, as its path is given."""
    return [
        os.path.join(at, name)
        for at, _, names in os.walk(folder)
        for name in names
        if stat.S_ISREG(os.lstat(os.path.join(at, name)).st_mode)
    ]


def shown(found):
    """Key to what became of a file, or of a member of an archive."""
    return {key: ingesting.status_of(row) for key, row in found.by_key.items()}


def order(folder, **more):
    return {"folder": str(folder), "index": str(folder / "i.ns"), "paths": ["t"], **more}


def add(path, *paths, **options):
    with ns.Writer.open(path, create=True) as writer:
        return writer.add_files(paths, workers=1, **options)


def members_of(archives, folder):
    return {f"{folder}/{name}!{inner}" for name, (_, names) in archives.items() for inner in names}


# --- mutated files and bombs ------------------------------------------------------------------


@pytest.fixture(scope="module")
def seed(thorough):
    return random.randrange(1 << 20) if thorough else 1


@pytest.fixture(scope="module")
def hostile_run(tmp_path_factory, thorough, seed):
    """Two runs over pictures and archives that are whole, many that are not, and bombs."""
    root = tmp_path_factory.mktemp("mutated")
    count = 10_000 if thorough else 200
    archives = mutations.some_archives(random.Random(seed))
    write(root / "t/whole", mutations.pictures())
    write(root / "t/archives", {name: data for name, (data, _) in archives.items()})
    write(root / "t/bombs", mutations.bombs(100_000 if thorough else 500))
    write(root / "t/mutated", dict(mutations.mutated(seed, number) for number in range(count)))
    began = time.perf_counter()
    limits = {"seconds": 20.0, "max_expansion": 200 if thorough else 20}
    said = ingesting.run(order(root, times=2, limits=limits))
    seconds = time.perf_counter() - began
    return root, archives, said, seconds


def test_every_mutated_file_is_accounted(hostile_run, seed):
    root, archives, said, seconds = hostile_run
    print(f"seed {seed}")
    report, found = said["reports"][0], content(root / "i.ns")
    with contextlib.chdir(root):
        check_account(report, found, regular("t"), members_of(archives, "t/archives"))
    status = shown(found)
    for name in mutations.pictures():
        assert status[f"t/whole/{name}"] == "hashed"
    whole = members_of(archives, "t/archives")
    assert {status[key] for key in whole if not key.endswith(".txt")} == {"hashed"}
    for name in mutations.bombs(1):
        assert status[f"t/bombs/{name}"] in ("failed", "opened", "damaged"), name
    assert ns.verify(root / "i.ns") == []
    stages = Counter(stage for _, _, stage in report["failures"])
    surprises = [f for f in report["failures"] if f[2] in ("hash", "worker")]
    print(f"{ingesting.counts_of(report)} in {seconds:.0f} s, twice; {dict(stages)}; {surprises}")
    assert stages["hash"] == 0, surprises


def test_hostile_files_take_no_more_memory_than_allowed(hostile_run):
    _, _, said, _ = hostile_run
    print(f"{said['peak'] >> 20} MiB, the hashing processes {said['workers'] >> 20} MiB at most")
    assert said["peak"] < 1 << 30
    assert said["workers"] < ns.Limits().memory
    assert said["workers"] < 2 << 30


def test_a_second_run_gives_the_same_account(hostile_run, seed):
    print(f"seed {seed}")
    first, second = hostile_run[2]["reports"]
    check_second(first, second, [key for key, _, stage in first["failures"] if stage == "read"])


def test_only_what_could_not_be_read_is_read_again(hostile_run, seed):
    print(f"seed {seed}")
    first, second = hostile_run[2]["reports"]
    unread = {key for key, _, stage in first["failures"] if stage == "read"}
    assert set(second["asked"]) <= unread
    assert second["added"] == second["replaced"] == second["duplicate"] == 0


# --- hashing processes that die ---------------------------------------------------------------

HANG, CRASH = b"\0hang it", b"\0crash it"

# At the end of a file they do in the process that reads it; SHA-256 is what is taken of all.
DEADLY = f"""
import hashlib, os, signal, time
real = hashlib.sha256
def sha256(data=b"", **options):
    if data[-{len(HANG)}:] == {HANG!r}:
        time.sleep(600)
    if data[-{len(CRASH)}:] == {CRASH!r}:
        os.kill(os.getpid(), signal.SIGSEGV)
    return real(data, **options)
hashlib.sha256 = sha256
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t").mkdir()
    return tmp_path


@pytest.fixture(autouse=True)
def no_process_left(processes):
    before = processes()
    yield
    assert processes(besides=before, within=5) == []


def test_deadly_files_and_killed_processes_cost_only_the_deadly_files(
    here, monkeypatch, processes, seed, thorough
):
    monkeypatch.setattr(workers, "_COMMAND", ingesting.patched_command(DEADLY))
    rng, kills = random.Random(seed), 4 if thorough else 1
    hang, crash = {"hang.png": png(0) + HANG}, {"crash.png": png(0) + CRASH}
    inside = {"a.png": png(1000), **crash, "b.png": png(1001)}
    tree = {"050": hang, "070/x.zip": inside}
    if thorough:
        inside = {**inside, **hang, "c.png": png(1002)}
        tree |= {"051": crash, "070/x.zip": inside, "070/x.tar": inside, "070/y.tar": inside}
    keys = set()
    for place, files in tree.items():
        make = {"zip": zip_of, "tar": mutations.tar_of}.get(place.rpartition(".")[2])
        write(
            here / "t", {place: make(files)} if make else {f"{place}/{n}": files[n] for n in files}
        )
        keys |= {f"t/{place}{'!' if make else '/'}{name}" for name in files}
    write(here / "t", {f"{n:03}.png": png(n) for n in range(140)})
    before, killed = processes(), []

    def kill(report):
        if len(killed) < kills and report.total >= 25 * (1 + len(killed)):
            time.sleep(1.5)  # by then all are ready, and at a file
            alive = processes(besides=before)  # none, where all have just died of their files
            if alive:
                killed.append(rng.choice(alive))
                os.kill(killed[-1], signal.SIGKILL)

    with ns.Writer.open("i.ns", create=True) as writer:
        limits = ns.Limits(seconds=2)
        report = writer.add_files(["t"], workers=2, limits=limits, on_progress=kill)
    assert len(killed) == kills
    found = content("i.ns")
    members = {key for key in keys if "!" in key}
    check_account({**report.to_json(), "failures": report.failures}, found, regular("t"), members)
    causes = {
        "hang.png": "took longer than 2 s",
        "crash.png": "the hashing process crashed on it (SIGSEGV)",
    }
    assert {(failure.key, failure.reason) for failure in report.failures} == {
        (key, causes[name]) for key in keys for name in causes if key.endswith(name)
    }
    assert {failure.stage for failure in report.failures} == {"worker"}
    assert ns.verify("i.ns") == []


# The third one to start is killed before it is ready.
THIRD_IS_KILLED = """
import os, signal
for number in range(99):
    try:
        os.mkdir(f"started-{number}")
        break
    except FileExistsError:
        pass
if number == 2:
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_process_that_is_killed_while_it_starts_costs_no_file(here, monkeypatch):
    """Others did start: it is no broken installation, but memory that was short."""
    monkeypatch.setattr(workers, "_COMMAND", ingesting.patched_command(DEADLY + THIRD_IS_KILLED))
    write(here / "t", {f"{n:03}.png": png(n) for n in range(60)})
    write(here / "t", {"030.png": png(30) + CRASH})
    with ns.Writer.open("i.ns", create=True) as writer:
        report = writer.add_files(["t"], workers=2)
    assert (report.added, report.failed) == (59, 1)


# --- a tree for several tests -----------------------------------------------------------------


@pytest.fixture(scope="module")
def tree(tmp_path_factory, seed):
    """Pictures, the same ones again, archives and broken files; and the index of all of it."""
    root = tmp_path_factory.mktemp("tree")
    archives = mutations.some_archives(random.Random(seed), 2)
    write(root / "t/a", {f"{n:03}.png": png(n) for n in range(160)})
    write(root / "t/again", {f"{n:03}.png": png(n) for n in range(0, 160, 9)})
    write(root / "t/b", {name: data for name, (data, _) in archives.items()})
    write(root / "t/c", dict(mutations.mutated(seed, number) for number in range(60)))
    write(root / "t/d", mutations.pictures())
    began = time.perf_counter()
    said = ingesting.run(order(root, workers=2))
    seconds = time.perf_counter() - began
    truth = content(root / "i.ns")
    with contextlib.chdir(root):
        check_account(said["reports"][0], truth, regular("t"), members_of(archives, "t/b"))
    return root, said["reports"][0], truth, seconds


# --- the whole writer is killed ---------------------------------------------------------------


def held(path):
    """What the index holds, however its writer was killed."""
    try:
        return content(path)
    except ns.errors.IndexNotFoundError:
        return EMPTY


def test_a_killed_run_goes_on_where_it_was(tree, tmp_path, thorough, processes, seed):
    print(f"seed {seed}")
    root, _, truth, seconds = tree
    rng, index = random.Random(seed), tmp_path / "i.ns"
    task = order(root, index=str(index), commit_every=0.05, batch=16)
    sizes, runs = [], 0
    for _ in range(50 if thorough else 6):
        process = ingesting.start({**task, "tells": True})
        with process.stdout:
            process.stdout.readline()
            if rng.random() < 0.8:  # after some files, else while it starts
                for _ in range(rng.randrange(len(truth.members) * 2 // 3)):
                    process.stdout.readline()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(rng.uniform(0, 0.1 if rng.random() < 0.8 else seconds))
            process.kill()
            process.wait()
        assert processes(process.pid, within=20) == [], "processes without a parent"
        found = held(index)
        assert found.is_part_of(truth)
        sizes.append(len(found.members))
        if found.members == truth.members:
            finish(task, index, truth)
            runs, sizes = runs + 1, [*sizes, 0]
            shutil.rmtree(index)
    finish(task, index, truth)
    print(f"seed {seed}: {runs + 1} runs, members after each kill: {sizes}")
    assert any(0 < size < len(truth.members) for size in sizes), sizes


def test_no_process_outlives_a_killed_writer(here, processes):
    write(here / "t", {"a.png": png(0), "hang.png": png(1) + HANG, "z.png": png(2)})
    process = ingesting.start(order(here, code=DEADLY, tells=True))
    try:
        with process.stdout:
            for _ in range(3):  # that it began, and two files
                process.stdout.readline()
            time.sleep(0.5)
            process.kill()
            process.wait()
        assert processes(process.pid, within=5) == []
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def test_what_is_done_is_committed_while_files_are_slow(here):
    write(here / "t", {f"{n:03}.png": png(n) for n in range(100)})
    generations = []
    with ns.Writer.open("i.ns", create=True) as writer:

        def look(_):
            time.sleep(0.01)
            generations.append(writer.generation)

        writer.add_files(["t"], workers=1, commit_every=0.1, on_progress=look)
        assert generations[-1] > 1


def finish(task, index, truth):
    """Run it to its end; the index is as if nothing had happened."""
    (report,) = ingesting.run(task)["reports"]
    found = content(index)
    assert found == truth
    assert report["replaced"] == 0
    with ns.Writer.open(index) as writer:
        writer.compact()
    assert content(index) == truth
    assert ns.verify(index) == []


# --- order ------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 5])
def test_neither_order_nor_the_number_of_processes_matters(tree, tmp_path, count):
    root, report, truth, _ = tree
    with contextlib.chdir(root):
        paths = regular("t")
    random.Random(count).shuffle(paths)
    task = order(root, index=str(tmp_path / "i.ns"), paths=paths, workers=count)
    (other,) = ingesting.run(task)["reports"]
    assert content(tmp_path / "i.ns") == truth
    assert ingesting.counts_of(other) == ingesting.counts_of(report)
    assert sorted(map(tuple, other["failures"])) == sorted(map(tuple, report["failures"]))


# --- hostile trees ----------------------------------------------------------------------------

NAMES = [
    *(b"new\nline.png", b"\x1b[31m.png", b"\r\x08\x7f.png", b"caf\xe9.png", b"\xff\xfe", b"-rf"),
    *(rb"caf\xe9.png", rb"C:\x.png", b" .png ", b"'\"$(x)`.png", b"%s%n{}.png", b"~"),
    *(b"n" * 251 + b".png", "日".encode() * 83 + b".png", b"\xed\xa0\x80.png"),
    *("\u202egnp.exe".encode(), b"same.png", b"SAME.png", b"Same.PNG"),
    *(unicodedata.normalize(form, "é.png").encode() for form in ("NFC", "NFD")),
]


def test_names_are_bytes_of_any_kind(here):
    for number, name in enumerate(NAMES):
        Path("t", os.fsdecode(name)).write_bytes(png(number))
    report = add("i.ns", "t")
    assert (report.added, report.total) == (len(NAMES), len(NAMES))
    found = content("i.ns")
    assert found.by_key.keys() == {key_of(os.fsdecode(b"t/" + name)) for name in NAMES}
    assert len({row["item_id"] for row in found.by_key.values()}) == len(NAMES)
    assert add("i.ns", "t").unchanged == len(NAMES)
    assert ns.verify("i.ns") == []


def test_names_in_archives_are_bytes_of_any_kind(here):
    names = [os.fsdecode(name) for name in NAMES if b"\\" not in name]
    names += ["../../up.png", "/abs.png", "..", "a!b.png", "a\0b.png", "x" * 5000 + ".png"]
    write(here / "t", {"x.tar": mutations.tar_of(dict.fromkeys(names, png(0)))})
    report = add("i.ns", "t")
    assert (report.total, report.failed) == (len(names), 0)
    assert add("i.ns", "t").unchanged == len(names)
    assert content("i.ns").by_key.keys() > {"t/x.tar", "t/x.tar!../../up.png", "t/x.tar!/abs.png"}
    assert set(os.listdir(".")) == {"t", "i.ns"}


@contextlib.contextmanager
def deep_folder(start, levels):
    """Folders in folders beyond what any path can name, with a picture at each 50th level."""
    name = "d" * 100
    with contextlib.chdir(start):
        for level in range(1, levels + 1):
            os.mkdir(name)
            os.chdir(name)
            if level % 15 == 0:
                Path("p.png").write_bytes(png(level))
    try:
        yield
    finally:
        subprocess.run(["rm", "-rf", Path(start, name)], check=True)


def test_a_tree_of_what_is_no_file(here):
    write(here, {"outside/secret.png": png(1), "t/sub/a.png": png(2), "t/z.png": png(3)})
    os.symlink(here / "outside", "t/out")
    os.symlink(here / "outside/secret.png", "t/secret.png")
    os.symlink("..", "t/sub/loop")
    os.symlink("self", "t/self")
    os.symlink("/dev/zero", "t/zero.png")
    os.mkfifo("t/pipe.png")
    odd = ["t/out", "t/secret.png", "t/sub/loop", "t/self", "t/zero.png", "t/pipe.png"]
    with contextlib.suppress(PermissionError):
        os.mknod("t/device.png", stat.S_IFCHR | 0o600, os.makedev(1, 5))
        odd.append("t/device.png")
    with socket.socket(socket.AF_UNIX) as server, deep_folder("t", 60):
        server.bind("t/socket.png")
        report = add("i.ns", "t")
        again = add("i.ns", "t")
    status = shown(content("i.ns"))
    assert {key for key in status if status[key] == "skipped"} == {*odd, "t/socket.png"}
    (too_deep,) = (key for key in status if status[key] == "failed")
    assert len(too_deep) > 4000
    hashed = {key for key in status if status[key] == "hashed"}
    assert {"t/sub/a.png", "t/z.png"} < hashed
    assert len(hashed) == 2 + 2  # at the levels 15 and 30
    assert report.total == len(status)
    assert again.to_json() == {**report.to_json(), "added": 0, "unchanged": report.added}
    assert ns.verify("i.ns") == []


# Root reads everything; this drops what lets it.
_DROP = "import ctypes; p = ctypes.CDLL(None).prctl; [p(24, n, 0, 0, 0) for n in (1, 2)]"


def test_what_must_not_be_read_has_failed(here):
    write(here / "t", {"a.png": png(1), "shut.png": png(2), "shut/b.png": png(3)})
    write(here / "t", {"shut.zip": zip_of({"c.png": png(4)}), "z.png": png(5)})
    shut = ["t/shut.png", "t/shut", "t/shut.zip"]
    modes = {path: os.stat(path).st_mode for path in shut}
    for path in shut:
        os.chmod(path, 0)
    try:
        drop = [
            sys.executable,
            "-c",
            f"{_DROP}; import os, sys; os.execv(sys.argv[1], sys.argv[1:])",
        ]
        probe = subprocess.run(
            [*drop, shutil.which("ls"), "t/shut"], capture_output=True, check=False
        )
        if probe.returncode == 0:
            pytest.skip("this user reads everything")
        code = (
            "import sys; from faults.ingesting import *; from faults.test_ingest import add;"
            "print(json.dumps(add('i.ns', 't').to_json()))"
        )
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        subprocess.run([*drop, sys.executable, "-c", code], check=True, env=environment)
        status = {}
        for key, row in content("i.ns").by_key.items():
            status[key] = row.get("problem", "hashed")
        assert status == {
            "t/a.png": "hashed",
            "t/z.png": "hashed",
            **dict.fromkeys(shut, "read: Permission denied"),
        }
    finally:
        for path, mode in modes.items():
            os.chmod(path, mode)
    report = add("i.ns", "t")  # now they can be read, though no time and no size has changed
    status = shown(content("i.ns"))
    assert (report.failed, report.unchanged) == (0, 2)
    for key in ("t/shut.png", "t/shut/b.png", "t/shut.zip!c.png"):
        assert status[key] == "hashed"


# What is done to a file after its first bytes were read; by its name.
RACES = r"""
import io, os
def act(path):
    folder, name = os.path.split(path)
    verb = name.partition(".")[0]
    if verb == "first":
        os.unlink(folder + "/gone.png")
        os.unlink(folder + "/pipe.png")
        os.mkfifo(folder + "/pipe.png")
        os.replace(folder + "/../new/swapped.png", folder + "/swapped.png")
    elif verb == "grows":
        with open(path, "ab") as file:
            file.write(b"more" * 1000)
    elif verb == "shrinks":
        os.truncate(path, os.path.getsize(path) // 2)
    elif verb == "replaced":
        os.replace(folder + "/../new/" + name, path)
    elif verb == "touched":
        os.utime(path, (1, 1))
    elif verb == "removed":
        os.unlink(path)

class Racing(io.BufferedReader):
    done = False
    def read(self, *arguments):
        data = super().read(*arguments)
        if not self.done:
            self.done = True
            act(os.readlink(f"/proc/self/fd/{self.fileno()}"))
        return data

real = os.fdopen
os.fdopen = lambda h, mode="r", **o: Racing(io.FileIO(h)) if mode == "rb" else real(h, mode, **o)
"""


def test_files_that_change_while_they_are_read(here, monkeypatch):
    """None is taken for what it is not, and the next run, in peace, makes all good."""
    verbs = ("grows", "shrinks", "replaced", "touched", "removed")
    write(here / "t", {f"{verb}.png": png(n) for n, verb in enumerate(verbs)})
    archive = {f"{n}.png": png(10 + n) for n in range(20)}
    write(here / "t", {f"{verb}.zip": zip_of(archive) for verb in verbs})
    write(here / "t", {f"{verb}.tar": mutations.tar_of(archive) for verb in verbs})
    write(here / "t", {f"{name}.png": png(9) for name in ("first", "gone", "pipe", "swapped")})
    other = {name: png(99) for name in archive}
    write(here / "new", {"swapped.png": png(98), "replaced.png": png(97)})
    write(here / "new", {"replaced.zip": zip_of(other), "replaced.tar": mutations.tar_of(other)})
    files = regular("t")
    # Names in order: `first` is read before those that it does something to.
    with monkeypatch.context() as patch:
        patch.setattr(workers, "_COMMAND", ingesting.patched_command(RACES))
        report = add("i.ns", "t/first.png", "t")
    found = content("i.ns")
    check_account({**report.to_json(), "failures": report.failures}, found, files)
    problems = {key: row.get("problem", "hashed") for key, row in found.by_key.items()}
    assert problems["t/gone.png"] == "read: No such file or directory"
    assert problems["t/pipe.png"].endswith("not a regular file")
    changed = "read: changed while it was read"
    for verb in ("grows", "touched"):
        for kind in ("png", "zip", "tar"):
            assert problems[f"t/{verb}.{kind}"].startswith(changed), (verb, kind)
    assert problems["t/shrinks.png"] == changed
    for kind in ("zip", "tar"):  # or by what is missing at its end
        assert problems[f"t/shrinks.{kind}"].startswith(("container: ", changed)), kind
    for name in ("first", "swapped", "replaced", "removed"):
        assert problems[f"t/{name}.png"] == "hashed"
    assert ns.verify("i.ns") == []
    for name in ("gone.png", "removed.png", "removed.zip", "removed.tar"):
        assert not Path("t", name).exists()
    add("i.ns", "t")
    add("fresh.ns", "t")
    fresh, found = content("fresh.ns"), content("i.ns")
    lost = fresh.members - found.members
    assert lost == set()
    for key, row in found.by_key.items():
        if row not in map(dict, fresh.members):
            assert key.startswith(("t/gone", "t/removed", "t/shrinks.")), key


def test_changed_files_replace_what_they_were(here):
    write(here / "t", {f"{n}.png": png(n) for n in range(30)})
    add("i.ns", "t")
    write(here / "t", {f"{n}.png": png(100 + n) for n in range(0, 30, 3)})
    write(here / "t", {"new.png": png(200), "again.png": png(1)})
    report = add("i.ns", "t")
    add("fresh.ns", "t")
    assert (report.replaced, report.added, report.duplicate, report.unchanged) == (10, 1, 1, 20)
    assert content("i.ns") == content("fresh.ns")


def test_what_a_changed_archive_no_longer_has_stays_as_what_a_folder_no_longer_has(here):
    write(here / "t", {"old.png": png(4)})
    write(here / "t", {"x.zip": zip_of({"a.png": png(1), "b.png": png(2)})})
    add("i.ns", "t")
    write(here / "t", {"x.zip": zip_of({"a.png": png(1), "c.png": png(3)})})
    (here / "t" / "old.png").unlink()
    report = add("i.ns", "t")
    assert (report.added, report.unchanged, report.total) == (1, 1, 2)
    keys = {"t/x.zip", "t/old.png", *(f"t/x.zip!{name}.png" for name in "abc")}
    assert content("i.ns").by_key.keys() == keys


@pytest.mark.parametrize("name", ["x.zip!a.png", "x.zip!x.zip!a.png"])
def test_a_file_named_as_a_member_of_an_archive_hides_nothing(here, name):
    files = {"x.zip": zip_of({"a.png": png(1), "x.zip": zip_of({"a.png": png(2)})})}
    write(here / "t", {**files, name: png(3)})
    for _ in range(2):
        report = add("i.ns", "t")
        assert (report.total, report.failed, report.replaced) == (3, 0, 0)
        assert len(content("i.ns").items) == 4  # with what stands for the archives


def test_the_same_file_by_several_names(here):
    write(here / "t", {"a.png": png(1), "x.zip": zip_of({"a.png": png(1), "b.png": png(2)})})
    os.link("t/a.png", "t/hard.png")
    names = ["t/a.png", "t", b"t/a.png", Path("t/a.png"), "./t/a.png", str(here / "t/a.png")]
    report = add("i.ns", *names)
    assert (report.added, report.duplicate, report.total) == (2, 4, 6)
    again = add("i.ns", *reversed(names))
    assert (again.unchanged, again.total) == (6, 6)


def test_archives_that_hold_the_same_name_often(here):
    """Zip and tar may; the pictures are different, and none is lost."""
    data = b"".join(mutations.tar_of({"a.png": png(n)})[:-1024] for n in range(5))
    write(here / "t", {"x.tar": data})
    report = add("i.ns", "t")
    assert (report.added, report.total) == (5, 5)
    assert add("i.ns", "t").unchanged == 5


@pytest.mark.parametrize("seconds", [1 << 40, -(1 << 40)])
def test_times_that_no_file_should_have(here, seconds):
    """NTFS holds times to the year 60056, and Btrfs any number of 64 bits."""
    write(here / "t", {"a.png": png(1), "b.zip": zip_of({"c.png": png(2)}), "d.png": png(3)})
    for name in ("a.png", "b.zip"):
        os.utime(Path("t", name), (0, seconds))
    if os.stat("t/a.png").st_mtime_ns != seconds * 10**9:
        pytest.skip("this file system holds no such times")
    assert add("i.ns", "t").added == 3
    assert add("i.ns", "t").unchanged == 3


def test_sizes_that_no_file_should_have(here):
    for name, data in {"a.jpg": mutations.pictures()["baseline.jpg"], "b.tar": b""}.items():
        with Path("t", name).open("wb") as file:
            file.write(data)
            try:
                file.truncate(1 << 60)
            except OSError:
                pytest.skip("this file system holds no such sizes")
    write(here / "t", {"z.png": png(1)})
    report = add("i.ns", "t")
    assert (report.added, report.total) == (1, 3)


def test_a_path_that_no_file_can_have_is_one_failure(here):
    write(here / "t", {"a.png": png(1), "z.png": png(2)})
    report = add("i.ns", "t/a.png", "\ud800", "null\0byte", "x" * 5000, "", "t/z.png")
    assert (report.added, report.failed, report.total) == (2, 4, 6)


def test_names_in_archives_where_the_locale_has_no_such_letters(here):
    write(here / "t", {"x.zip": zip_of({"日本.png": png(1)}), "z.png": png(2)})
    locale = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}
    path = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    code = "from faults.test_ingest import add; r = add('i.ns', 't'); assert r.added == 2, r"
    ended = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **locale, **path}, check=False
    )
    assert ended.returncode == 0
