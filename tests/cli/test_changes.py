"""The commands that change an index, and those that tell what it went through."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nearsearch import Index, Writer


@pytest.fixture
def mine(tmp_path, small_index, monkeypatch):
    """A copy of the small index that may be changed, at ./mine.ns: two commits, six pictures."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(small_index.path, "mine.ns")
    return Path("mine.ns")


def keys(root) -> list[str]:
    with Index.open(root) as index:
        table = index.search(["00" * 32], 256, min_quality=0).to_arrow()
    return sorted(table["key"].to_pylist())


def last_commit(cli, root) -> dict:
    return json.loads(cli("log", root, "--json").out)["commits"][0]


def test_contributions(mine, cli):
    ran = cli("contributions", mine)
    assert ran.code == 0
    assert ran.err == ""
    lines = [line.split() for line in ran.out.splitlines() if line.strip()]
    assert [line[:4] for line in lines[2:]] == [["alpha", "NL", "3", "3"], ["beta", "DE", "3", "3"]]
    facts = json.loads(cli("contributions", mine, "--json").out)
    assert facts["generation"] == 2
    alpha, beta = facts["contributions"]
    assert (alpha["contribution"], alpha["sources"], alpha["items"]) == ("alpha", ["NL"], 3)
    assert alpha["first_added"] <= alpha["last_added"] < beta["first_added"]
    assert not alpha["disabled"]


def test_by_contribution(mine, small_index, cli):
    code = small_index.codes["a.jpg"]
    ask = ("query", mine, "--code", code, "--radius", "64", "--by", "contribution")
    rows = [json.loads(line) for line in cli(*ask, "--format", "jsonl").out.splitlines()]
    assert [row["contribution"] for row in rows] == ["alpha", "beta"]
    assert [(row["items"], row["members"]) for row in rows] == [(1, 1), (1, 1)]
    assert rows[0]["distance"] == 0 < rows[1]["distance"]
    assert {row["generation"] for row in rows} == {2}
    ran = cli(*ask)
    names = ["query", "contribution", "match", "distance", "items", "members", "key"]
    assert ran.out.split()[:7] == names
    assert {row["match"] for row in rows} == {"near"}
    assert ran.err == "2 matches (2 members) for 1 of 1 queries (pdq, generation 2)\n"
    for form in ("csv", "jsonl", "table"):
        ran = cli("query", mine, "--code", "00" * 32, "--by", "contribution", "--format", form)
        assert ran.code == 1


def test_log_says_who_did_what(mine, cli, monkeypatch):
    monkeypatch.setenv("NEARSEARCH_AUTHOR", "from the environment")
    cli("disable", mine, "--contribution", "alpha")
    cli("enable", mine, "--contribution", "alpha", "--author", "by option")
    commits = json.loads(cli("log", mine, "--json").out)["commits"]
    assert [commit["generation"] for commit in commits] == [4, 3, 2, 1]
    assert [commit["actions"] for commit in commits] == [["enable"], ["disable"], ["add"], ["add"]]
    assert [commit["author"] for commit in commits[:2]] == ["by option", "from the environment"]
    assert commits[0]["contributions"] == ["alpha"]
    assert all(commit["kept"] for commit in commits)
    assert (commits[2]["added"], commits[2]["members"]) == (3, 6)
    shown = cli("log", mine, "--limit", "1").out
    assert "by option" in shown
    assert "from the environment" not in shown
    assert cli("log", mine, "--limit", "0").code == 2
    ran = cli("disable", mine, "--contribution", "alpha", "--author", "evil\x1b[2J")
    assert ran.code == 2
    assert "\x1b" not in ran.err


def test_disable_and_enable(mine, small_index, cli):
    ask = ("query", mine, "--code", small_index.codes["a.jpg"])
    ran = cli("disable", mine, "--contribution", "alpha", "--source", "DE")
    assert ran.code == 0
    assert ran.out == (
        "disabled contribution 'alpha', source 'DE': 6 of 6 members are disabled (generation 3)\n"
    )
    assert cli(*ask).code == 1
    assert "disabled" in cli("contributions", mine).out
    picture = small_index.pictures / "a.jpg"
    ran = cli("add", mine, picture, "--contribution", "alpha", "--source", "FR")
    assert ran.err == (
        "contribution alpha is disabled: its files do not match until nearsearch enable\n"
    )
    assert cli(*ask).code == 1
    cli("remove", mine, "--source", "FR")
    ran = cli("enable", mine, "--contribution", "alpha", "--json")
    assert json.loads(ran.out)["disabled_members"] == 3
    assert cli(*ask).code == 0
    ran = cli("disable", mine, "--contribution", "alhpa")
    assert ran.code == 2
    assert ran.err == (
        "nearsearch: error: the index has no contribution 'alhpa'; is it one of 'alpha'?\n"
    )
    assert cli("enable", mine, "--contribution", "beta").code == 2
    assert cli("disable", mine).code == 2


def test_remove(mine, cli):
    ran = cli("remove", mine, "--contribution", "alpha", "--dry-run")
    assert (ran.code, ran.out) == (0, "3 members would be removed (generation 2)\n")
    assert len(keys(mine)) == 6
    ran = cli("remove", mine, "--key", "a.jpg", "--key", "b.jpg", "--contribution", "alpha")
    assert (ran.code, ran.out) == (0, "2 members removed (generation 3)\n")
    assert keys(mine) == ["again.jpg", "c.jpg", "d.jpg", "flat.png"]
    assert last_commit(cli, mine)["removed"] == 2
    ran = cli("remove", mine, "--where", "width < 200 and format == 'JPEG'", "--json")
    assert json.loads(ran.out) == {"removed": 1, "erased": False, "generation": 4}
    assert keys(mine) == ["c.jpg", "d.jpg", "flat.png"]
    ran = cli("remove", mine, "--source", "nobody")
    assert (ran.code, ran.out) == (1, "0 members removed (generation 4)\n")
    assert cli("remove", mine).code == 2
    assert cli("remove", mine, "--where", "no_column == 1").code == 2


def test_erase(mine, cli):
    cli("remove", mine, "--key", "a.jpg")
    ran = cli("remove", mine, "--contribution", "mistyped", "--erase")
    assert (ran.code, ran.out) == (1, "0 members removed (generation 3)\n")
    ran = cli("remove", mine, "--erase")
    assert (ran.code, ran.out) == (
        0,
        "0 members removed, everything removed erased (generation 4)\n",
    )
    assert b"a.jpg" not in b"".join(p.read_bytes() for p in mine.rglob("*") if p.is_file())
    assert cli("rollback", mine, "3").code == 2
    assert cli("verify", mine).code == 0


def test_rollback(mine, cli):
    cli("remove", mine, "--source", "NL")
    ran = cli("rollback", mine, "2")
    assert (ran.code, ran.out) == (0, "as of generation 2: 6 items, 6 members (generation 4)\n")
    assert len(keys(mine)) == 6
    assert last_commit(cli, mine)["remark"] == "to generation 2"
    ran = cli("rollback", mine, "17")
    assert (ran.code, ran.out) == (2, "")
    assert "generation 17 is not kept; those that are: 0, 1, 2, 3, 4" in ran.err
    ran = cli("query", mine, "--code", "00" * 32, "--generation", "3", "--radius", "256")
    assert "generation 3" in ran.err


def test_merge(mine, small_index, cli):
    with Writer.open("other.ns", create=True, specs=["pdq"]) as writer:
        writer.add_files([small_index.pictures / "a.jpg"], contribution="gamma")
    ran = cli("merge", mine, "other.ns")
    assert (ran.code, ran.out) == (
        0,
        "other.ns: 1 members added, 0 replaced older ones, 0 left out for newer ones, "
        "0 unchanged (generation 3)\n",
    )
    ran = cli("merge", mine, "other.ns", "--json")
    merged = {"from": "other.ns", "added": 0, "replaced": 0, "unchanged": 1, "left_out": 0}
    merged["examples"] = []
    assert json.loads(ran.out) == {"merged": [merged], "generation": 3}
    ran = cli("merge", "new.ns", "other.ns", mine)
    assert ran.code == 0
    assert keys("new.ns") == keys(mine)
    assert len(ran.out.splitlines()) == 2
    with Writer.open(
        "newer.ns", create=True, specs=["pdq"]
    ) as writer:  # another picture of the same name
        name = str(small_index.pictures / "a.jpg")
        writer.add_codes(["ab" * 32], keys=[name], contribution="gamma")
    ran = cli("merge", "newer.ns", "other.ns")
    assert "0 members added, 0 replaced older ones, 1 left out for newer ones" in ran.out
    assert f"the later one stays: {name} in contribution 'gamma'" in ran.err
    assert "1 replaced older ones" in cli("merge", mine, "newer.ns").out
    with Writer.open("phash.ns", create=True, specs=["phash"]) as writer:
        writer.add_codes(["00" * 8])
    ran = cli("merge", mine, "phash.ns")
    assert ran.code == 2
    assert "only indexes of the same specs can be merged" in ran.err
    assert cli("merge", mine, mine).code == 2
    assert cli("merge", mine, "nowhere.ns").code == 2


def test_repair(mine, cli):
    assert cli("repair", mine).out == "nothing to repair: generation 2\n"
    manifest = json.loads((mine / "manifest-000002.json").read_text())
    (shard,) = manifest["shards"]
    victim = mine / shard["files"]["items"]["name"]
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data)
    ran = cli("query", mine, "--code", "00" * 32)
    assert ran.code == 2
    assert "nearsearch repair" in ran.err
    ran = cli("repair", mine)
    assert ran.code == 1
    assert str(victim) in ran.out
    assert ran.out.endswith("repaired: 6 items and 6 members are lost (generation 3)\n")
    assert "put aside, not deleted: damaged/000003/" in ran.err
    assert cli("verify", mine).code == 0
    ran = cli("rollback", mine, "1")  # the shard of the first commit is whole
    assert ran.out == "as of generation 1: 3 items, 3 members (generation 4)\n"
    assert json.loads(cli("repair", mine, "--json").out)["damage"] == []


def test_waiting_for_another_writer(mine, cli):
    script = (
        "import sys, time, nearsearch as ns\n"
        "writer = ns.Writer.open(sys.argv[1])\n"
        "print('open', flush=True); time.sleep(1.5); writer.close()\n"
    )
    child = subprocess.Popen([sys.executable, "-c", script, mine], stdout=subprocess.PIPE)
    with child:
        assert child.stdout.readline() == b"open\n"
        ran = cli("remove", mine, "--key", "a.jpg")
        assert ran.code == 2
        assert f"is being written by process {child.pid}" in ran.err
        ran = cli("remove", mine, "--key", "a.jpg", "--wait-at-most", "0.1")
        assert ran.code == 2
        start = time.monotonic()
        ran = cli("remove", mine, "--key", "a.jpg", "--wait")
        assert ran.code == 0
        assert ran.err.startswith(f"waiting for process {child.pid} ")
        assert time.monotonic() - start < 10
