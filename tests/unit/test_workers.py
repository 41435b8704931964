"""The pool of hashing processes: one answer for every file, whatever the files do to a process.

Most tests put a stand-in for the hashing process in its place, which does what the path asks for:
it starts in an instant, and hangs and crashes on demand. The last part uses the real one.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import os
import signal
import time
import zlib
from collections import Counter
from pathlib import Path

import pytest

from nearsearch import Limits, workers
from nearsearch.errors import UsageError, WorkerStartError
from nearsearch.matches import Failure
from nearsearch.spec import get_spec
from nearsearch.version import __version__
from nearsearch.workers import Answer, Request, WorkerPool

pytestmark = pytest.mark.timeout(60)

PDQ = get_spec("pdq")

STAND_IN = r"""
import json, os, signal, sys, time

signal.signal(signal.SIGINT, signal.SIG_IGN)

def say(text):
    os.write(1, text.encode() + b"\n")

def answer(**facts):
    say(json.dumps({"status": "hashed", "pid": os.getpid(), **facts}))

say('{"status": "ready", "version": "%s"}')
for line in sys.stdin:
    request = json.loads(line)
    verb, _, rest = request["path"].rpartition("/")[2].partition(":")
    if verb == "hang":
        time.sleep(60)
    elif verb == "slow":
        time.sleep(float(rest))
    elif verb == "kill":
        os.kill(os.getpid(), int(rest))
    elif verb == "fickle":
        with open(request["path"], "a+") as tries:
            tries.write("x")
            if tries.tell() <= int(rest):
                os.kill(os.getpid(), signal.SIGKILL)
    elif verb == "exit":
        sys.exit(int(rest))
    elif verb == "say":
        say(rest)
        continue
    elif verb == "chatter":
        os.write(2, b"decoder: warning\n" * 60_000)
    elif verb == "pieces":
        text = json.dumps({"status": "hashed", "long": "x" * 500_000}) + "\n"
        for start in range(0, len(text), 100_000):
            os.write(1, text[start : start + 100_000].encode())
            time.sleep(0.005)
        continue
    elif verb == "skip":
        say(json.dumps({"status": "skipped", "reason": "a text", "stage": "sniff"}))
        continue
    answer(request=request)
    if verb == "last":
        sys.exit(0)
""".replace("%s", __version__)


@pytest.fixture
def stand_in(monkeypatch):
    monkeypatch.setattr(workers, "_COMMAND", STAND_IN)


@pytest.fixture
def pool(stand_in):
    with WorkerPool(2, Limits(seconds=20)) as pool:
        yield pool


@pytest.fixture(autouse=True)
def no_process_left(processes):
    """Whatever a test does to a pool, its processes are gone when the pool is closed."""
    before = processes()
    yield
    assert sorted(processes()) == sorted(before)


def ask(pool: WorkerPool, *paths: str) -> dict[str, Answer]:
    """Map the paths and check that each has exactly one answer."""
    answers = list(pool.map(paths, [PDQ]))
    assert Counter(answer.path for answer in answers) == Counter(paths)
    return {answer.path: answer for answer in answers}


def reason(answer: Answer) -> str:
    assert answer.status == "failed"
    assert answer.facts.keys() == {"reason", "stage"}
    assert answer.facts["stage"] == "worker"
    return answer.facts["reason"]


# --- answers ----------------------------------------------------------------------------------


def test_every_path_has_one_answer_in_whatever_order_they_come(pool):
    paths = [f"slow:0.0{3 if n % 5 == 0 else 0}{n:03}" for n in range(40)]
    answers = list(pool.map(paths, [PDQ]))
    assert sorted(answer.path for answer in answers) == sorted(paths)
    assert {
        answer.path: os.path.basename(answer.facts["request"]["path"]) for answer in answers
    } == {path: path for path in paths}


def test_a_slow_file_holds_up_only_the_one_that_was_handed_over_with_it(pool):
    answers = [answer.path for answer in pool.map(["slow:0.3", *map(str, range(20))], [PDQ])]
    assert answers[-2:] == ["slow:0.3", "1"]


def test_of_small_files_sixteen_are_handed_over_ahead(pool):
    """The two processes get them in turn, the slow file's process those of odd number."""
    small = [Request(str(number), 100) for number in range(60)]
    answers = [answer.path for answer in pool.map([Request("slow:0.3", 100), *small], [PDQ])]
    assert answers[-17:] == ["slow:0.3", *map(str, range(1, 32, 2))]
    assert sorted(answers[:-17], key=int) == [str(n) for n in range(60) if n > 31 or n % 2 == 0]


def test_what_is_handed_over_ahead_is_a_megabyte_at_most(pool):
    files = [Request(str(number), 1 << 18) for number in range(20)]
    answers = [answer.path for answer in pool.map([Request("slow:0.3", 1 << 30), *files], [PDQ])]
    assert answers[-5:] == ["slow:0.3", "1", "3", "5", "7"]


@pytest.mark.parametrize("first", ["slow:0.3", "fickle:1"])
def test_files_run_ahead_of_the_oldest_no_further_than_the_window(
    pool, tmp_path, monkeypatch, first
):
    monkeypatch.chdir(tmp_path)
    taken = []

    def requests():
        for number in range(100):
            taken.append(number)
            yield first if number == 0 else str(number)

    unanswered = set(range(100))
    for answer in pool.map(requests(), [PDQ], window=10):
        assert answer.status == "hashed"
        assert answer.number < min(unanswered) + 10
        assert len(taken) <= min(unanswered) + 10
        unanswered.remove(answer.number)
    assert not unanswered


def test_what_is_not_to_be_read_needs_no_process(pool, processes):
    before = processes()
    gone, link = Failure("k", "no such file", "read"), Failure("k", "a link", "walk")
    requests = [Request("1", failure=gone), Request("2", failure=link)]
    assert list(pool.map(requests, [PDQ], window=1)) == [
        Answer("1", "failed", {"reason": "no such file", "stage": "read"}, None, 0),
        Answer("2", "skipped", {"reason": "a link", "stage": "walk"}, None, 1),
    ]
    assert processes() == before
    answers = pool.map([requests[0], "3", requests[1]], [PDQ])
    assert sorted((answer.number, answer.path) for answer in answers) == [
        (0, "1"),
        (1, "3"),
        (2, "2"),
    ]


def test_thousands_of_small_requests(stand_in):
    with WorkerPool(3) as pool:
        answers = ask(pool, *map(str, range(4000)))
        assert {answer.status for answer in answers.values()} == {"hashed"}
        assert len({answer.facts["pid"] for answer in answers.values()}) == 3


def test_the_request_holds_the_path_the_specs_and_the_limits(stand_in):
    path = os.fsdecode(b"caf\xe9\n\x1b.jpg")
    limits = Limits(max_pixels=7, max_bytes=8, max_members=9, max_depth=10, max_expansion=11)
    with WorkerPool(1, limits) as pool:
        (answer,) = pool.map([path], [PDQ, get_spec("phash-256")])
        (other,) = pool.map([Request(path, 5, "ab" * 32)], [PDQ], ["sha1"])
    request = other.facts["request"]
    assert (other.path, other.number) == (path, 0)
    assert request["path"] == os.path.join(os.getcwd(), path)
    assert (request["known"], request["digests"]) == ("ab" * 32, ["sha1"])
    assert request["specs"] == [PDQ.to_json()]
    request = answer.facts["request"]
    assert (answer.path, answer.number) == (path, 0)
    assert request["path"] == os.path.join(os.getcwd(), path)
    assert request["known"] is request["after"] is None
    limits = ("max_pixels", "max_bytes", "max_members", "max_depth", "max_expansion")
    assert [request[name] for name in limits] == [7, 8, 9, 10, 11]
    assert request["digests"] == ["md5", "sha1"]
    assert request["specs"] == [PDQ.to_json(), get_spec("phash-256").to_json()]


def test_skipped_is_passed_on(pool):
    (answer,) = pool.map(["skip:"], [PDQ])
    assert answer == Answer("skip:", "skipped", {"reason": "a text", "stage": "sniff"}, None, 0)


def test_another_nearsearch_is_refused(monkeypatch):
    """The process may find another installation than the caller's own."""
    monkeypatch.setattr(workers, "_COMMAND", STAND_IN.replace(__version__, "9.9"))
    with (
        WorkerPool(1) as pool,
        pytest.raises(WorkerStartError, match=r"another nearsearch .* '9\.9'"),
    ):
        list(pool.map(["1"], [PDQ]))


def test_long_answers_in_pieces_and_noise_on_standard_error(pool):
    answers = ask(pool, "pieces:1", "chatter:1", "pieces:2", "chatter:2")
    assert len(answers["pieces:1"].facts["long"]) == 500_000
    assert {answer.status for answer in answers.values()} == {"hashed"}


def test_no_paths(pool, processes):
    before = processes()
    assert list(pool.map([], [PDQ])) == []
    assert processes() == before


# --- pipes that are full ----------------------------------------------------------------------


def test_a_request_longer_than_a_pipe_does_not_wait_for_a_process_that_waits_for_us(stand_in):
    paths = ["pieces:1", "x" * 200_000, "pieces:2", "y" * 200_000]
    with WorkerPool(1, Limits(seconds=20)) as pool:
        answers = ask(pool, *paths)
        assert {answer.status for answer in answers.values()} == {"hashed"}


@pytest.mark.parametrize("long", ["hang:" + "x" * 200_000, "x" * 200_000])
def test_a_process_that_hangs_is_given_up_whatever_waits_for_it(stand_in, long):
    with WorkerPool(1, Limits(seconds=0.5)) as pool:
        answers = ask(pool, "hang:", long)
        assert reason(answers["hang:"]) == "took longer than 0.5 s"
        if long.startswith("hang"):
            assert reason(answers[long]) == "took longer than 0.5 s"
        else:
            assert answers[long].status == "hashed"


def test_a_process_that_starts_slowly_is_not_waited_for(stand_in, monkeypatch):
    monkeypatch.setattr(workers, "_COMMAND", "import time; time.sleep(60)")
    monkeypatch.setattr(workers, "_START_SECONDS", 0.3)
    with WorkerPool(1) as pool, pytest.raises(WorkerStartError, match=r"not ready after 0\.3 s"):
        list(pool.map(["x" * 200_000], [PDQ]))


def test_pipes_may_hold_a_page_only(stand_in):
    """As they do once a user has many."""
    names = [f"{n}" + "é" * 700 for n in range(300)]  # each longer than a page, as JSON
    with WorkerPool(2, Limits(seconds=20)) as pool:
        pool.start()
        for worker in pool._workers:
            for pipe in (worker.input, worker.output):
                fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, 4096)
        answers = ask(pool, *names)
        assert {answer.status for answer in answers.values()} == {"hashed"}
        paths = {os.path.basename(answer.facts["request"]["path"]) for answer in answers.values()}
        assert paths == set(names)


# --- processes --------------------------------------------------------------------------------


def test_processes_are_started_for_files_only_and_kept(pool, processes):
    before = len(processes())
    first = ask(pool, "1")["1"].facts["pid"]
    assert len(processes()) == before + 1
    second = {answer.facts["pid"] for answer in ask(pool, *"23456789").values()}
    assert first in second
    assert len(processes()) == before + len(second) == before + 2


def test_start_does_not_wait_and_starts_no_more_than_the_pool_holds(monkeypatch, processes):
    monkeypatch.setattr(workers, "_COMMAND", "import time; time.sleep(60)")
    before = len(processes())
    with WorkerPool(2) as pool:
        began = time.monotonic()
        pool.start(1)
        assert len(processes()) == before + 1
        pool.start(9)
        pool.start()
        assert len(processes()) == before + 2
        assert time.monotonic() - began < 5


def test_close_ends_everything_and_may_be_called_again(stand_in, processes):
    before = processes()
    pool = WorkerPool(2)
    pool.close()
    pool.start()
    assert len(processes()) == len(before) + 2
    pool.close()
    assert processes() == before
    pool.close()
    assert ask(pool, "1")["1"].status == "hashed"  # it starts anew
    pool.close()


def test_leaving_the_iteration_early_ends_the_processes(pool, processes):
    before = processes()
    answers = pool.map(["1", "hang:", "2", "3"], [PDQ])
    assert next(answers).status == "hashed"
    assert len(processes()) > len(before)
    answers.close()
    assert processes() == before
    assert ask(pool, "4")["4"].status == "hashed"


def test_an_error_of_the_caller_ends_the_processes(pool, processes):
    before = processes()

    def paths():
        yield from ("1", "2", "3")
        raise RuntimeError("the walk broke")

    with pytest.raises(RuntimeError, match="the walk broke"):
        list(pool.map(paths(), [PDQ]))
    assert processes() == before


@pytest.mark.parametrize("count", [-1, -8])
def test_a_pool_without_processes_would_answer_nothing(count):
    with pytest.raises(UsageError):
        WorkerPool(count)


@pytest.mark.parametrize(
    "wrong",
    [
        {"seconds": 0},
        {"seconds": -1.0},
        {"seconds": float("nan")},
        {"max_pixels": 0},
        {"max_bytes": -1},
        {"memory": 0},
        {"max_members": 0},
        {"max_depth": -1},
        {"max_expansion": 0},
    ],
    ids=str,
)
def test_limits_that_no_file_could_meet_are_refused(wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        Limits(**wrong)


@pytest.mark.parametrize("seconds", [float("inf"), 1e10, 1e300])
def test_there_may_be_no_limit_of_time(stand_in, seconds):
    with WorkerPool(1, Limits(seconds=seconds)) as pool:
        assert ask(pool, "1", "2")["2"].status == "hashed"


# --- files that take a process with them ------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "cause"),
    [
        ("kill:9", "SIGKILL"),
        ("kill:11", "SIGSEGV"),
        ("kill:6", "SIGABRT"),
        ("kill:40", "40"),  # a real-time signal, without a name
        ("exit:3", "exit status 3"),
        ("exit:0", "exit status 0"),
    ],
)
def test_a_crash_costs_one_file(pool, path, cause):
    answers = ask(pool, "1", path, "2", "3", "4")
    assert "crashed" in reason(answers[path])
    assert cause in reason(answers[path])
    assert [answers[n].status for n in "1234"] == ["hashed"] * 4


def test_a_file_that_takes_too_long_costs_one_file(stand_in):
    with WorkerPool(2, Limits(seconds=0.4)) as pool:
        answers = ask(pool, "1", "hang:", "2", "3", "4")
        assert reason(answers["hang:"]) == "took longer than 0.4 s"
        assert [answers[n].status for n in "1234"] == ["hashed"] * 4


def test_all_of_it_at_once(stand_in):
    bad = ["hang:", "kill:9", "exit:3", "kill:11", "hang: again"]
    good = [str(n) for n in range(30)]
    with WorkerPool(3, Limits(seconds=0.4)) as pool:
        answers = ask(pool, *good[:10], *bad, *good[10:])
        assert [path for path in bad if reason(answers[path])] == bad
        assert {answers[path].status for path in good} == {"hashed"}
        assert ask(pool, "after")["after"].status == "hashed"


@pytest.mark.parametrize(
    "garbage",
    ["Segmentation fault?", "{", "[1]", "17", "{}", '{"status": "done"}', "", "\x00\x1b", "null"],
)
def test_an_answer_that_makes_no_sense_costs_one_file(stand_in, garbage):
    with WorkerPool(1) as pool:
        answers = ask(pool, "1", f"say:{garbage}", "2")
        reason(answers[f"say:{garbage}"])
        assert answers["1"].status == answers["2"].status == "hashed"


def test_a_crash_in_the_middle_of_an_answer_costs_one_file(monkeypatch):
    half = STAND_IN.replace("say(rest)\n        continue", "os.write(1, b'{\"sta'); sys.exit(1)")
    monkeypatch.setattr(workers, "_COMMAND", half)
    with WorkerPool(1) as pool:
        answers = ask(pool, "say:", "1")
        assert "exit status 1" in reason(answers["say:"])
        assert answers["1"].status == "hashed"


def test_a_process_that_dies_idle_costs_no_file(stand_in, processes):
    others = processes()
    with WorkerPool(1) as pool:
        first = ask(pool, "last:")["last:"]
        assert first.status == "hashed"
        assert not processes(besides=others, within=5)
        # Its pipes are closed too: what is dropped open warns, and warnings fail.
        second = ask(pool, "1")["1"]
        assert second.status == "hashed"
        assert second.facts["pid"] != first.facts["pid"]


def test_dead_processes_leave_no_files_open(stand_in, processes):
    def n_open() -> int:
        return len(os.listdir("/proc/self/fd"))

    others = processes()
    with WorkerPool(1) as pool:
        before = n_open()
        for number in range(3):
            ask(pool, f"last:{number}")
            assert not processes(besides=others, within=5)
            ask(pool, "kill:9")
        pool.close()
        assert n_open() == before


def test_a_process_killed_from_outside_costs_no_file(pool, processes):
    others = processes()
    answers = pool.map(["slow:1", "slow:3", "2"], [PDQ])  # by then the other is ready too
    first = next(answers)
    assert first.path == "slow:1"
    (at_the_slow_one,) = processes(besides=[*others, first.facts["pid"]])
    os.kill(at_the_slow_one, signal.SIGKILL)
    rest = {answer.path: answer for answer in answers}
    assert {path: answer.status for path, answer in rest.items()} == {
        "slow:3": "hashed",
        "2": "hashed",
    }
    assert at_the_slow_one not in {answer.facts["pid"] for answer in rest.values()}


def test_a_file_that_two_processes_died_at_has_failed(pool, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answers = ask(pool, "1", "fickle:1", "2", "fickle:2", "3", "fickle:9")
    assert [answers[n].status for n in ("1", "2", "3", "fickle:1")] == ["hashed"] * 4
    for path in ("fickle:2", "fickle:9"):
        assert reason(answers[path]) == "the hashing process crashed on it (SIGKILL)"
    tries = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert tries == {"fickle:1": 2, "fickle:2": 2, "fickle:9": 2}


# --- time -------------------------------------------------------------------------------------


def test_starting_up_does_not_count_as_time_of_the_file(monkeypatch):
    monkeypatch.setattr(workers, "_COMMAND", "import time; time.sleep(0.6)" + STAND_IN)
    with WorkerPool(1, Limits(seconds=0.3)) as pool:
        assert ask(pool, "1")["1"].status == "hashed"


def test_what_a_process_says_while_it_starts_is_logged(monkeypatch, caplog):
    said = 'import os; os.write(1, b\'{"status": "said", "text": "compiling"}\\n\')\n'
    monkeypatch.setattr(workers, "_COMMAND", said + STAND_IN)
    monkeypatch.setattr(workers, "_told", set())
    with caplog.at_level("INFO", "nearsearch"), WorkerPool(2) as pool:
        pool.start()
        assert {answer.status for answer in ask(pool, "1", "2").values()} == {"hashed"}
    assert [(record.name, record.getMessage()) for record in caplog.records] == [
        ("nearsearch", "compiling")
    ]


def test_a_process_started_early_may_wait_long_for_its_first_file(stand_in, monkeypatch):
    """As `query -` does, when the first path is typed minutes after the start."""
    monkeypatch.setattr(workers, "_START_SECONDS", 0.5)
    with WorkerPool(1) as pool:
        pool.start()
        time.sleep(0.7)
        assert ask(pool, "1")["1"].status == "hashed"


def test_a_slow_reader_of_the_answers_is_not_the_files_fault(stand_in):
    """An answer that is there counts, however late the caller comes for it."""
    with WorkerPool(2, Limits(seconds=0.3)) as pool:
        ask(pool, "slow:0.05", "slow:0.06")  # both processes are up
        answers = {}
        for answer in pool.map("123", [PDQ]):
            answers[answer.path] = answer.status
            time.sleep(0.35)
        assert answers == dict.fromkeys("123", "hashed")


# --- starting ---------------------------------------------------------------------------------


def test_a_start_that_fails_says_what_the_process_said(monkeypatch, processes):
    monkeypatch.setattr(workers, "_COMMAND", "import sys; sys.exit('libfaiss.so: cannot open')")
    before = processes()
    with WorkerPool(2) as pool:
        with pytest.raises(WorkerStartError) as caught:
            list(pool.map(["1", "2", "3"], [PDQ]))
        assert caught.value.detail == "exit status 1: libfaiss.so: cannot open"
        assert processes() == before


def test_a_start_that_failed_before_there_was_work_is_found_when_there_is(monkeypatch, processes):
    monkeypatch.setattr(workers, "_COMMAND", "import sys; sys.exit('broken')")
    before = processes()
    with WorkerPool(1) as pool:
        pool.start()
        assert not processes(besides=before, within=5)
        with pytest.raises(WorkerStartError, match="broken"):
            list(pool.map(["1"], [PDQ]))
        assert processes() == before


def test_a_process_that_is_never_ready_does_not_start(monkeypatch, processes):
    monkeypatch.setattr(workers, "_START_SECONDS", 0.3)
    monkeypatch.setattr(
        workers, "_COMMAND", "import sys, time; sys.stderr.write('compiling'); time.sleep(60)"
    )
    before = processes()
    with WorkerPool(1) as pool:
        with pytest.raises(WorkerStartError) as caught:
            list(pool.map(["1"], [PDQ]))
        assert caught.value.detail == "not ready after 0.3 s: compiling"
        assert processes() == before


def test_memory_that_does_not_hold_the_libraries_is_a_failed_start():
    with WorkerPool(1, Limits(memory=1 << 26)) as pool, pytest.raises(WorkerStartError):
        list(pool.map(["1"], [PDQ]))


# --- the real hashing process -----------------------------------------------------------------


@pytest.fixture(scope="module")
def real():
    with WorkerPool(1) as pool:
        pool.start()
        yield pool


def memory_bomb(path: Path) -> None:
    """A PNG of some bytes that takes 1.6 gigabytes to decode."""

    def chunk(name: bytes, data: bytes) -> bytes:
        body = name + data
        return len(data).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")

    side = 40_000
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", side.to_bytes(4, "big") * 2 + b"\x01\x00\x00\x00\x00")
        + chunk(b"IDAT", zlib.compress(bytes(1 + side // 8)))
        + chunk(b"IEND", b"")
    )


def test_the_facts_of_a_picture(real, small_index):
    path = str(small_index.pictures / "a.jpg")
    (answer,) = real.map([path], [PDQ])
    facts = answer.facts
    assert answer.status == "hashed"
    assert (facts["format"], facts["width"], facts["height"]) == ("JPEG", 240, 180)
    assert facts["size"] == os.stat(path).st_size
    assert facts["mtime_ns"] == os.stat(path).st_mtime_ns
    assert facts["codes"] == {"pdq": [["image", None, small_index.codes["a.jpg"], 100, None]]}
    data = Path(path).read_bytes()
    for name in ("md5", "sha1", "sha256"):
        assert facts[name] == hashlib.new(name, data).hexdigest()


def test_what_is_no_picture(real, tmp_path):
    (tmp_path / "note.txt").write_text("hello")
    os.utime(tmp_path / "note.txt", ns=(1, 1_700_000_000_123_456_789))
    answers = ask(real, str(tmp_path / "note.txt"), str(tmp_path / "gone.jpg"), "null\0byte")
    by_name = {Path(path).name: answer for path, answer in answers.items()}
    assert by_name["note.txt"][1:] == (
        "skipped",
        {
            "reason": "no known picture format",
            "stage": "sniff",
            "size": 5,
            "mtime_ns": 1_700_000_000_123_456_789,
        },
        None,
        0,
    )
    assert by_name["gone.jpg"][1:] == (
        "failed",
        {"reason": "No such file or directory", "stage": "read"},
        None,
        1,
    )
    assert by_name["null\0byte"].status == "failed"


def test_a_path_that_no_file_can_have_costs_one_answer(real, small_index):
    """Also while the system is to read it ahead."""
    good, long = str(small_index.pictures / "a.jpg"), "x" * 200_000
    answers = ask(real, good, "null\0byte", long, "\ud800", *(f"null\0{n}" for n in range(9)))
    assert answers[good].status == "hashed"
    assert answers[long].facts == {"reason": "File name too long", "stage": "read"}
    others = [answer for path, answer in answers.items() if path != good]
    assert {answer.status for answer in others} == {"failed"}
    assert "worker" not in {answer.facts["stage"] for answer in others}


def test_nothing_keeps_what_decoders_print(real, small_index, processes):
    """Once it was a file without bounds."""
    ask(real, str(small_index.pictures / "a.jpg"))
    for process in processes():
        for stream in (1, 2):
            assert os.readlink(f"/proc/{process}/fd/{stream}") == os.devnull


def test_ctrl_c_is_for_the_parent(real, small_index, processes):
    path = str(small_index.pictures / "a.jpg")
    (before,) = real.map([path], [PDQ])
    for process in processes():
        os.kill(process, signal.SIGINT)
    (after,) = real.map([path], [PDQ])
    assert after == before


def test_what_a_decoder_prints_or_raises_is_not_an_answer(tmp_path, monkeypatch):
    """The real loop around a decoder that misbehaves as the file asks for."""
    patch = """
import os
import nearsearch.media.seen as module
def Pictures(data, profile, **limits):
    word = data[3:].decode()
    print('{"status": "hashed"}', flush=True)
    os.write(1, b'libtiff: warning\\n')
    if word == "interrupt":
        raise RecursionError("too deep")
    raise {"memory": MemoryError, "bug": ZeroDivisionError}[word]("of C")
module.Pictures = Pictures
"""
    encoded = base64.b64encode(patch.encode()).decode()
    command = workers._COMMAND.replace(
        "from nearsearch.media",
        f"import base64; exec(base64.b64decode('{encoded}').decode()); from nearsearch.media",
    )
    monkeypatch.setattr(workers, "_COMMAND", command)
    monkeypatch.chdir(tmp_path)
    facts = {}
    for name in ("memory", "bug", "interrupt"):
        data = b"\xff\xd8\xff" + name.encode()
        Path(name).write_bytes(data)
        facts[name] = {"size": len(data), "mtime_ns": os.stat(name).st_mtime_ns}
        for digest in ("md5", "sha1", "sha256"):
            facts[name][digest] = hashlib.new(digest, data).hexdigest()
    with WorkerPool(1) as pool:
        answers = ask(pool, "memory", "bug", "interrupt")
    reasons = {
        "memory": {"reason": "out of memory", "stage": "decode"},
        "bug": {"reason": "ZeroDivisionError: of C", "stage": "hash"},
        "interrupt": {"reason": "RecursionError: too deep", "stage": "hash"},
    }
    assert answers == {
        name: Answer(name, "failed", {**reasons[name], **facts[name]}, None, number)
        for number, name in enumerate(("memory", "bug", "interrupt"))
    }


def test_a_memory_bomb_costs_one_file(real, small_index, tmp_path, processes):
    good, bomb = str(small_index.pictures / "a.jpg"), tmp_path / "bomb.png"
    memory_bomb(bomb)
    ask(real, good)
    peaks = [
        Path(f"/proc/{process}/status").read_text().partition("VmPeak:")[2].split()[0]
        for process in processes()
    ]
    needed = 1024 * max(map(int, peaks))
    with WorkerPool(1, Limits(max_pixels=2 * 10**9, memory=needed + (200 << 20))) as pool:
        answers = ask(pool, str(bomb), good)
    assert answers[str(bomb)].status == "failed"
    assert "memory" in answers[str(bomb)].facts["reason"]
    assert answers[str(bomb)].facts["stage"] == "decode"
    assert answers[good].status == "hashed"
