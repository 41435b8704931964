"""Films that are broken are added: with `--thorough` 500 of them.

Whatever happens, the run ends, each film has its place in the account, and the index is sound.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections import Counter

import pytest
from faults import ingesting, mutations
from faults.ingesting import check_account, check_second, content

import nearsearch as ns

pytestmark = pytest.mark.timeout(3600)


@pytest.fixture(scope="module")
def seed(thorough):
    return random.randrange(1 << 20) if thorough else 1


@pytest.fixture(scope="module")
def run(tmp_path_factory, thorough, seed):
    """Two runs over films that are whole and many that are not."""
    root = tmp_path_factory.mktemp("films")
    films = mutations.films() | dict(
        mutations.mutated_film(seed, number) for number in range(500 if thorough else 25)
    )
    (root / "t").mkdir()
    for name, data in films.items():
        (root / "t" / name).write_bytes(data)
    began = time.perf_counter()
    order = {"folder": str(root), "index": str(root / "i.ns"), "paths": ["t"], "times": 2}
    said = ingesting.run({**order, "limits": {"seconds": 20.0}})
    return root, said, time.perf_counter() - began


def test_every_mutated_film_is_accounted(run, seed):
    root, said, seconds = run
    report, found = said["reports"][0], content(root / "i.ns")
    with contextlib.chdir(root):
        check_account(report, found, [f"t/{path.name}" for path in (root / "t").iterdir()])
    status = {key: ingesting.status_of(row) for key, row in found.by_key.items()}
    assert {status[f"t/{name}"] for name in mutations.films()} == {"hashed"}
    assert ns.verify(root / "i.ns") == []
    stages = Counter(stage for _, _, stage in report["failures"])
    surprises = [each for each in report["failures"] if each[2] in ("hash", "worker")]
    print(f"seed {seed}: {ingesting.counts_of(report)} in {seconds:.0f} s, twice; {dict(stages)}")
    print(f"{said['peak'] >> 20} MiB, hashing processes {said['workers'] >> 20}; {surprises}")
    assert not surprises
    assert said["workers"] < ns.Limits().memory


def test_a_second_run_gives_the_same_account(run):
    first, second = run[1]["reports"]
    check_second(first, second, [key for key, _, stage in first["failures"] if stage == "read"])
