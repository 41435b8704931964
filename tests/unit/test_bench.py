"""What of the benches is logic: the table of suites, figures from raw files, two runs compared.

That the benches run, and what they measure, no test says: they take too long.
"""

import csv
import getpass
import json
import math
import shlex
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

ROOT = Path(__file__).parents[2]
BENCH = ROOT / "bench"

sys.path.insert(0, str(BENCH))  # its scripts know each other by bare names
try:
    import figures
    import measures
    import scenario
    import scenario_data
    import scenario_tables
    import suites
finally:
    sys.path.remove(str(BENCH))


def one(value, low=None, high=None, *, unit="ms", name="p50", suite="search"):
    return figures.Figure(suite, name, unit, value, low, high)


# --- the suites -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", suites.SUITES)
def test_suite_names_scripts_and_options_that_exist(name):
    suite = suites.SUITES[name]
    assert set(suite.commands) == set(suite.minutes) == set(suites.SCALES)
    for command in {command for commands in suite.commands.values() for command in commands}:
        script, *words = shlex.split(command)
        if script == suites.PYTEST:
            assert all((BENCH / word).exists() for word in words)
            continue
        text = (BENCH / script).read_text()
        options = [word for word in words if word.startswith("--")]
        options += [f"--{folder}" for folder in suite.takes] if script != "variants.py" else []
        assert all(f'"{option}"' in text for option in options), command
        assert "--out" in words


def test_every_suite_has_a_reducer_and_every_reducer_a_suite():
    assert {suite for suite, _ in figures.REDUCERS.values()} == set(suites.SUITES)


def test_command_gets_its_folder_and_those_of_the_caller(tmp_path):
    suite = suites.SUITES["ingest"]
    folders = {"media": Path("pictures"), "folder": None}
    quick, many = (
        suites.words_of(command, suite, tmp_path, folders) for command in suite.commands["quick"]
    )
    assert quick[:3] == [sys.executable, str(BENCH / "ingest.py"), "--quick"]
    assert quick[3:] == ["--out", str(tmp_path), "--media", "pictures"]
    assert many[2:] == ["--many", "5000", "--out", str(tmp_path)]  # makes its own pictures
    store = suites.SUITES["store"]
    words = suites.words_of("pytest test_store.py", store, tmp_path, folders)
    assert words[1:4] == ["-m", "pytest", str(BENCH / "test_store.py")]


def test_failures_are_told_and_the_next_suite_runs(tmp_path, monkeypatch, capsys):
    (tmp_path / "bad.py").write_text("import sys\nprint('why')\nsys.exit(3)\n")
    (tmp_path / "good.py").write_text(
        "import pathlib, sys\n"
        "folder = pathlib.Path(sys.argv[2])\n"
        "(folder / 'many.csv').write_text('files,case,files/s\\n10,add,7\\n')\n"
        "(folder / 'nearest.txt').write_text('not kept')\n"
    )
    minutes = dict.fromkeys(suites.SCALES, 0.0)

    def suite(script, *needs):
        commands = suites.same(f"{script} --out {{out}}")
        return suites.Suite("", commands, minutes, needs)

    table = {
        "bad": suite("bad.py"),
        "poor": suite("good.py", "no_such"),
        "ingest": suite("good.py"),
    }
    monkeypatch.setattr(suites, "SUITES", table)
    monkeypatch.setattr(suites, "BENCH", tmp_path)
    out = tmp_path / "out"
    assert suites.run(list(table), "quick", out, {}, verbose=False) == ["bad", "poor"]
    told = capsys.readouterr().err
    assert "exit status 3\n    why" in told
    assert "needs no_such: pip install" in told
    assert [path.name for path in (out / "ingest").iterdir()] == ["many.csv"]
    assert not (out / "bad").exists()
    facts = json.loads((out / "environment.json").read_text())
    assert list(facts["suites"]) == ["ingest"]
    assert "| 10 files, add |     7 | files/s |" in (out / "summary.md").read_text()


def test_both_ways_to_start_it():
    for words in (["-m", "bench"], [str(BENCH)]):
        done = subprocess.run(
            [sys.executable, *words, "--list"], cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert all(f"| {name} " in done.stdout for name in suites.SUITES)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--suites", "search,nothing"], "no suite nothing: there are search, hashing,"),
        (["--tables", "nowhere"], "no folder nowhere"),
        (["--scale", "huge"], "invalid choice"),
    ],
)
def test_what_it_cannot_do_it_says(words, told):
    done = subprocess.run(
        [sys.executable, "-m", "bench", *words], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert told in done.stderr


# --- the machine ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cpu", "cores", "name"),
    [
        ("AMD EPYC", 2, "epyc-2-cores"),
        ("AMD EPYC 7763 64-Core Processor", 64, "epyc-64-cores"),
        ("Intel(R) Xeon(R) Processor", 2, "xeon-2-cores"),
        ("Intel(R) Core(TM) i7-8550U CPU @ 1.80GHz", 8, "core-8-cores"),
        ("AMD Ryzen 9 7950X 16-Core Processor", 1, "ryzen-1-core"),
        ("aarch64", 4, "aarch64-4-cores"),
        ("", 4, "machine-4-cores"),
    ],
)
def test_machine_name(cpu, cores, name):
    assert suites.machine_name(cpu, cores) == name


def test_environment_names_nobody_and_no_path():
    facts = suites.environment()
    text = json.dumps(facts)
    assert {"cpu", "cores", "memory_gib", "system", "python", "versions", "commit"} < set(facts)
    assert "/" not in text
    values = [facts["commit"], facts["system"], facts["cpu"], *facts["versions"].values()]
    names = [socket.gethostname(), str(Path.home()), getpass.getuser()]
    assert not any(name and name in value.split() for name in names for value in values)
    assert facts["versions"]["numpy"] == np.__version__


# --- figures --------------------------------------------------------------------------------------


def test_figure_is_written_and_read_again(tmp_path):
    rows = [
        measures.figure("codes", "", 100_000),
        measures.median_of("open", "ms", [1.0, 2.0, 3.0, 4.0, 5.12345]),
    ]
    measures.write_csv(tmp_path / "memory-figures.csv", rows)
    assert figures.of_folder(tmp_path) == [
        one(100_000, unit="", name="codes", suite="memory"),
        one(3.0, 2.0, 4.0, name="open", suite="memory"),
    ]


@pytest.mark.parametrize(
    ("value", "text"), [(0.123456, "0.1235"), (1234.56, "1235"), (7, "7"), ("many", "many")]
)
def test_numbers_are_shown_with_four_digits(value, text):
    assert str(measures.shown(value)) == text


def test_benchmarks_become_figures_without_the_machine(tmp_path):
    stats = {"q1": 0.001, "q3": 0.003, "median": 0.002, "rounds": 9}
    extra = {"ratio": 4.0, "ratio_quartiles": [3.0, 5.0], "rival": "FAISS"}
    told = {
        "machine_info": {"node": "secret"},
        "benchmarks": [
            {"name": "test_open", "stats": stats, "extra_info": extra},
            {"name": "test_add", "stats": stats, "extra_info": {}},
        ],
    }
    (tmp_path / "raw.json").write_text(json.dumps(told))
    rows = figures.of_benchmarks(tmp_path / "raw.json")
    assert [
        (row["figure"], row["unit"], row["value"], row["low"], row["high"]) for row in rows
    ] == [
        ("open", "ms", 2, 1, 3),
        ("open: FAISS / ours", "times", 4, 3, 5),
        ("add", "ms", 2, 1, 3),
    ]
    assert "secret" not in str(rows)


@pytest.mark.parametrize("name", [p.name for p in sorted((BENCH / "results").iterdir())])
def test_committed_results_have_figures(name):
    found = figures.of_folder(BENCH / "results" / name)
    assert found
    assert len({(one.suite, one.name) for one in found}) == len(found)
    assert all(math.isfinite(one.value) and one.name and one.suite for one in found)
    assert all(row["beyond noise"] == "" for row in figures.compare(found, found))


def test_reducers_give_what_the_raw_files_say():
    results = BENCH / "results"
    found = {
        (one.suite, one.name): one.value
        for name in (
            "2026-11-23-xeon-2-cores",
            "2026-11-25-epyc-2-cores",
            "2026-11-29-epyc-2-cores",
        )
        for one in figures.of_folder(results / name)
    }
    # Of figures that several folders have the last counts.
    path = results / "2026-11-29-epyc-2-cores" / "search" / "results.csv"
    with path.open(newline="") as file:
        row = next(
            r for r in csv.DictReader(file) if (r["codes"], r["radius"]) == ("10000000", "31")
        )
    assert found["search", "10,000,000 uniform, radius 31: p50"] == float(row["p50_us"])
    assert found["ingest", "200,000 files, add"] == 7644
    assert round(found["quality", "photographs found, as shipped, thorough"], 1) == 91.5  # README
    assert found["video", "black inserted: found"] == 70
    assert found["video", "false segments"] == 0


# --- two runs compared ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "is_different"),
    [
        (one(10, 9, 11), one(11, 10.5, 12), False),  # quartiles overlap
        (one(10, 9, 11), one(10.9, 11.5, 12), True),
        (one(10, 9, 11), one(8, 7, 8.9), True),
        (one(10), one(12), False),  # a fifth
        (one(10), one(12.1), True),
        (one(12.1), one(10), True),
        (one(10, 9, 11), one(12.1), True),  # those of one are not known
        (one(0), one(0), False),
        (one(0), one(1), True),
    ],
)
def test_noise(old, new, is_different):
    assert figures.differs(old, new) is is_different


@pytest.mark.parametrize(
    ("unit", "more"),
    [
        ("ms", "**worse**"),
        ("bytes", "**worse**"),
        ("files/s", "better"),
        ("%", "better"),
        ("times", "better"),
        ("", "other"),
    ],
)
def test_direction(unit, more):
    less = {"better": "**worse**", "**worse**": "better", "other": "other"}[more]
    assert figures.verdict(one(10, unit=unit), one(20, unit=unit)) == more
    assert figures.verdict(one(20, unit=unit), one(10, unit=unit)) == less
    assert figures.verdict(one(20, unit=unit), one(20, unit=unit)) == ""


def test_compared_is_what_both_have():
    old = [one(10, name="a"), one(5, name="b"), one(0, name="c")]
    new = [one(30, name="a"), one(5, name="b", unit="us"), one(0, name="c"), one(1, name="d")]
    rows = figures.compare(old, new)
    assert [tuple(row.values()) for row in rows] == [
        ("search", "a", 10, 30, "ms", "3.00", "**worse**"),
        ("search", "c", 0, 0, "ms", "", ""),
    ]


# --- the scenario ---------------------------------------------------------------------------------


def test_sizes_of_contributions():
    sizes = scenario_data.sizes_of(615, 5000, 1)
    assert sizes.min() == 2
    assert sizes.max() == 5000
    assert np.median(sizes) < 6
    assert np.array_equal(sizes, scenario_data.sizes_of(615, 5000, 1))


def test_plan_of_commits():
    plan = scenario_data.Plan(1000, 265, 350, 5000, 25, 3, 2, 2.0, 0.5, 60.0)
    names, firsts = plan.contributions()
    assert len(names) == plan.commits == len(firsts) - 1 == 615
    assert len(set(names)) == 615
    assert sum(name.startswith("case-") for name in names) == 350  # in the index before
    assert firsts[0] == 1000
    assert np.diff(firsts).min() >= 2


def test_an_item_is_missed_unless_it_is_found_at_its_distance():
    table = pa.table({"query_index": [0, 1, 1], "key": ["r7", "r8", "r5"], "distance": [3, 2, 9]})
    matches = SimpleNamespace(held_out=np.array([0, 0, 4]))
    wanted = np.array([7, 8, 9])
    assert scenario.misses(matches, table, wanted, np.array([3, 2, 1])) == (0, 1)
    assert scenario.misses(matches, table, wanted, 3) == (1, 1)
    assert scenario.misses(matches, table, np.array([7, 1]), np.array([3, 2])) == (1, 0)


def query_row(kind, phase, search_ms, wrong=0):
    times = {"refresh_ms": "0.5", "search_ms": str(search_ms), "table_ms": "3"}
    return {"kind": kind, "phase": phase, "codes": "1", "wrong": str(wrong)} | times


def test_scenario_tables_say_whether_targets_are_met():
    queries = [query_row("single", "writing", ms) for ms in (1, 1, 1, 1)]
    queries += [query_row("single", "quiet", 99), query_row("single", "over", 99)]
    commits = [{"add_ms": "1", "commit_ms": "9", "found_after_ms": f"{ms}"} for ms in (20, 40)]
    asked = scenario_tables.latencies(queries)
    assert [(row["phase"], row["queries"], row["p50, ms"]) for row in asked] == [
        ("quiet", 1, 99.5),
        ("writing", 4, 1.5),
    ]
    assert asked[1]["with table, p50"] == 4.5
    facts = [{"figure": "wrong answers", "target": "0", "value": "1"}]
    lines = scenario_tables.verdicts(asked, scenario_tables.commit_times(commits), facts)
    assert [line.partition(":")[0] for line in lines] == [
        "- met",
        "- met",
        "- **not met**",  # with the table
        "- met",
        "- **not met**",
    ]
    assert "wrong answers" in lines[-1]
