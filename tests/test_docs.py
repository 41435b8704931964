"""The documents say what the code does."""

import csv
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
FORMAT = (ROOT / "docs" / "format.md").read_text()


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_ci_runs_exactly_the_two_commands_of_the_readme():
    promised = blocks(README, "console")[0].splitlines()
    assert len(promised) == 2
    done = [
        line
        for line in (ROOT / ".ci" / "run").read_text().splitlines()
        if line.startswith("python3")
    ]
    assert done == promised


@pytest.fixture
def folder(tmp_path):
    from PIL import Image

    from nearsearch.synthetic import make_picture

    (tmp_path / "photos").mkdir()
    picture = Image.fromarray(make_picture(1, "leaves", 200, 160))
    picture.save(tmp_path / "photos" / "a.jpg")
    picture.save(tmp_path / "suspect.jpg", quality=40)
    return tmp_path


@pytest.mark.parametrize("number", range(len(blocks(README, "python"))))
def test_python_of_the_readme_runs(number, folder):
    """As a plain script: it has no __main__ guard, and needs none."""
    script = folder / "script.py"
    script.write_text(blocks(README, "python")[number])
    done = subprocess.run(
        [sys.executable, "-W", "error", script], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    if number == 0:
        assert done.stdout.startswith("photos/a.jpg ")
        assert done.stdout.endswith(" NL-0042\n")


def test_shell_of_the_readme_runs(folder):
    shutil.make_archive(folder / "seized", "zip", folder / "photos")
    commands = blocks(README, "console")[1].splitlines()
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    for command in commands:
        done = subprocess.run(
            command,
            shell=True,
            cwd=folder,
            capture_output=True,
            text=True,
            env={**os.environ, "PATH": path},
        )
        assert done.returncode == 0, done.stderr
    assert '"key": "photos/a.jpg"' in done.stdout


def test_format_page_reads_an_index(folder):
    import nearsearch as ns

    with ns.Writer.open(folder / "known.ns", create=True) as writer:
        writer.add_codes(["ab" * 32, "cd" * 32])
    done = subprocess.run(
        [sys.executable, "-c", blocks(FORMAT, "python")[0]],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.stdout.split()[1:] == ["2", "2"], done.stderr
    check = subprocess.run(["sha256sum", "-c", "CURRENT"], cwd=folder / "known.ns", text=True)
    assert check.returncode == 0


@pytest.mark.parametrize(
    ("heading", "name"),
    [
        ("items.arrow", "ITEMS"),
        ("members.arrow", "MEMBERS"),
        ("keys.arrow", "KEYS"),
        ("digests.arrow", "PREFIXES"),
        ("<spec>.rows.arrow", "ROWS"),
        ("tombstones", "TOMBSTONES"),
    ],
)
def test_format_page_has_the_schemas(heading, name):
    from nearsearch.store import schema

    section = FORMAT.split(f"### {heading}\n")[1].split("\n## ")[0].split("\n### ")[0]
    tables = [
        re.findall(r"^\| (\w+) \| (.+?) \| .+ \|$", table, re.MULTILINE)[1:]
        for table in re.findall(r"(?:^\|.+\n)+", section, re.MULTILINE)
    ]
    schemas = [getattr(schema, name), *([schema.DIGESTS] if name == "ITEMS" else [])]
    assert tables == [[(field.name, str(field.type)) for field in fields] for fields in schemas]


def test_format_page_has_every_kind_of_item():
    from nearsearch.store import schema

    section = FORMAT.split("### items.arrow\n")[1].split("\n### ")[0]
    for kind in (schema.IMAGE, schema.RECORD, schema.UNHASHED, schema.NOTHING):
        assert f"`{kind}`" in section


def test_format_page_has_the_ids_of_items(tmp_path):
    """Computed as the page says, from what the page says they are made of."""
    from PIL import Image

    import nearsearch as ns
    from nearsearch.store import manifest as manifests
    from nearsearch.store.shard import open_shard
    from nearsearch.synthetic import make_picture

    (tmp_path / "cut.jpg").write_bytes(b"\xff\xd8\xff cut")
    stream = io.BytesIO()
    Image.fromarray(make_picture(1, "leaves", 200, 200)).save(stream, "JPEG")
    (tmp_path / "part.jpg").write_bytes(stream.getvalue()[:-2000])
    (tmp_path / "note.txt").write_text("not read")
    code, md5, sha1 = bytes([0xAB] * 32), bytes([1] * 16), bytes([2] * 20)
    with ns.Writer.open(tmp_path / "i.ns", create=True) as writer:
        report = writer.add_files([tmp_path / f"{n}" for n in ("cut.jpg", "note.txt", "part.jpg")])
        writer.add_codes([code.hex()], keys=["code"])
        writer.add_codes([code.hex()], keys=["both"], digests={"md5": [md5]})
        writer.add_digests({"sha1": [sha1]}, keys=["digest"])
    manifest = manifests.read_current(tmp_path / "i.ns")
    (entry,) = manifest.shards
    shard = open_shard(tmp_path / "i.ns", entry, manifest.columns)
    members = shard.members.select(["key", "item_id"]).to_pylist()
    found = {Path(row["key"]).name: row["item_id"] for row in members}
    kinds = dict(zip(shard.item_ids.tolist(), shard.items["kind"].to_pylist(), strict=True))
    assert {name: kinds.get(item.rstrip(b"\0")) for name, item in found.items()} == {
        "cut.jpg": "unhashed",
        "part.jpg": "image",
        "note.txt": "nothing",
        "code": "record",
        "both": "record",
        "digest": "record",
    }

    def blake2b(data: bytes, person: bytes, salt: bytes = b"") -> bytes:
        assert person.decode() in FORMAT.replace("\n", " ")
        return hashlib.blake2b(data, digest_size=32, person=person, salt=salt).digest()

    quality = (-1).to_bytes(8, "little", signed=True)
    own, nothing = blake2b(code + quality, b"nearsearch code", b"pdq-256/1"), bytes(32)
    sha256 = hashlib.sha256((tmp_path / "cut.jpg").read_bytes()).digest()
    part = hashlib.sha256((tmp_path / "part.jpg").read_bytes()).digest()
    (damage,) = (failure.reason for failure in report.failures if failure.status == "damaged")
    assert found == {
        "cut.jpg": blake2b(sha256, b"nearsearch file"),
        "part.jpg": blake2b(part + damage.encode(), b"nearsearch file"),
        "note.txt": nothing,
        "code": own,
        "both": blake2b(own + md5.ljust(32, b"\0") + nothing * 2, b"nearsearch hash"),
        "digest": blake2b(nothing * 2 + sha1.ljust(32, b"\0") + nothing, b"nearsearch hash"),
    }
    digests = shard.digests.to_pylist()
    assert [row["prefix"] for row in digests] == sorted(row["prefix"] for row in digests)
    assert int.from_bytes(md5[:8], "big") in {row["prefix"] for row in digests}


def test_format_page_has_every_field_of_a_manifest(tmp_path):
    import nearsearch as ns

    with ns.Writer.open(tmp_path / "i.ns", create=True) as writer:
        writer.add_codes(["ab" * 32])
    (path,) = (tmp_path / "i.ns").glob("manifest-000001.json")
    manifest = json.loads(path.read_text())
    section = FORMAT.split("\n## Manifest\n")[1].split("\n## ")[0]
    fields, commit = section.split("### A commit in the log")
    bullets = set(re.findall(r"^- `(\w+)`:", fields, re.MULTILINE))
    assert bullets == manifest.keys() - {"format_version", "generation", "written_by"}
    named = set(re.findall(r"`([\w/<>]+)`", fields))
    (shard,) = manifest["shards"]
    for value in (manifest, shard, shard["files"]["items"], manifest["specs"][0], manifest["log"]):
        assert value.keys() <= named
    roles = {re.sub("pdq", "<spec>", role) for role in shard["files"]}
    assert roles <= named
    rows = re.findall(r"^\| (\w+) \| .+ \|$", commit, re.MULTILINE)
    assert rows[1:] == list(manifest["log"]["newest"][0])


def test_format_page_has_the_numbers_of_the_code():
    from nearsearch.store import fs, log, manifest

    assert f"`format_version` is {manifest.FORMAT_VERSION}." in FORMAT
    assert f"{fs.EDGE:,} bytes" in FORMAT
    assert f"more than {2 * fs.EDGE:,}\nbytes" in FORMAT
    assert f"{log.ENTRIES_A_FILE} commits from" in FORMAT
    assert f"at most {log.MOST_CONTRIBUTIONS};" in FORMAT
    words = {8: "eight"}
    assert f"the last {words[manifest.KEPT_MANIFESTS]}" in FORMAT


def test_every_command_is_in_the_readme_and_has_help():
    from nearsearch.cli import build_parser, main

    (commands,) = (a for a in build_parser()._actions if type(a).__name__ == "_SubParsersAction")
    assert len(commands.choices) >= 14
    for command in commands.choices:
        assert f"nearsearch {command}" in README
        with pytest.raises(SystemExit) as stopped:
            main([command, "-h"])
        assert stopped.value.code == 0


def test_every_spec_is_in_the_readme():
    from nearsearch.spec import FAMILIES

    for algorithm, family in FAMILIES.items():
        row = next(line for line in README.splitlines() if line.startswith(f"| `{algorithm}`"))
        cells = [cell.strip() for cell in row.split("|")]
        assert cells[2] == ", ".join(map(str, family.bits))
        assert cells[3] == str(family.radius)


def test_links_lead_somewhere():
    for document in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), ROOT / "bench/README.md"]:
        for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document}: {target}"


def test_documents_name_no_machine():
    words = re.compile(r"/(home|root|work|tmp)/|://(?!www\.apache|creativecommons)")
    for path in [ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")]:
        assert not words.search(path.read_text()), path


def benchmarked(n: int) -> tuple[str, str]:
    """Median and ratio to the faster of FAISS's two scans, of the committed run at radius 31."""
    path = ROOT / "bench" / "results" / "2026-11-23-xeon-2-cores" / "results.csv"
    with path.open(newline="") as file:
        (row,) = [
            row
            for row in csv.DictReader(file)
            if (row["kind"], row["codes"], row["radius"]) == ("uniform", str(n), "31")
        ]
    scans = [float(row[name]) for name in ("faiss_flat_us", "faiss_mapped_us") if row[name]]
    p50 = float(row["p50_us"])
    return f"{p50 / 1e3:.3f} ms", f"{min(scans) / p50:.0f}"


def test_figures_are_those_of_the_committed_run():
    from nearsearch.cli import demo

    for codes, median, ratio in demo._BENCHMARK:
        assert (median, ratio) == benchmarked(int(codes.replace(",", "")))
    readme = (ROOT / "README.md").read_text()
    for n in (10_000_000, 100_000_000):
        median, ratio = benchmarked(n)
        assert f"| {n:,} | {median} | {ratio} |" in readme


def test_recall_in_the_readme_is_that_of_the_committed_run():
    folder = ROOT / "bench" / "results" / "2026-11-29-epyc-2-cores"
    table = (folder / "quality.md").read_text().partition("## Drawings")[0]
    rows = [line.strip("| ").split(" | ") for line in table.splitlines() if " | " in line]
    head, measured = rows[0], rows[2:11]
    columns = [
        head.index(name) for name in ("pdq at 31", "as shipped, fast", "as shipped, thorough")
    ]
    readme = (ROOT / "README.md").read_text().partition("<!-- recall:")[2]
    shown = [line.strip("| ").split(" | ")[1:] for line in readme.splitlines() if line[:2] == "| "]
    assert shown[2:11] == [[row[column] for column in columns] for row in measured]
