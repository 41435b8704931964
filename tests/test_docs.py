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
PAGES = sorted(path.relative_to(ROOT) for path in (ROOT / "docs").rglob("*.md"))
DOCUMENTS = [
    *(Path(name) for name in ("README.md", "CHANGELOG.md", "data/synthetic/README.md")),
    *sorted(path.relative_to(ROOT) for path in (ROOT / "bench").rglob("*.md")),
    *PAGES,
]
RESULTS = ROOT / "bench" / "results"
QUALITY = RESULTS / "2026-11-29-epyc-2-cores" / "quality.md"


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


def commands() -> dict:
    """The parser of each command, by name."""
    from nearsearch.cli import build_parser

    (found,) = (a for a in build_parser()._actions if type(a).__name__ == "_SubParsersAction")
    return found.choices


def test_every_command_is_in_the_documents_and_has_help():
    from nearsearch.cli import main

    page = (ROOT / "docs" / "cli.md").read_text()
    assert len(commands()) >= 14
    for command in commands():
        assert f"nearsearch {command}" in README
        assert f"### nearsearch {command}\n\n```{{command-help}} {command}\n" in page
        with pytest.raises(SystemExit) as stopped:
            main([command, "-h"])
        assert stopped.value.code == 0


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_commands_that_documents_name_have_these_options(document):
    parsers = commands()
    text = (ROOT / document).read_text()
    named = re.findall(r"`nearsearch ([a-z]+)([^`]*)`", re.sub(r"\s+", " ", text))
    for block in blocks(text, "console"):
        named += re.findall(r"^nearsearch ([a-z]+)(.*)$", block, re.MULTILINE)
    for command, rest in named:
        options = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", rest))
        assert options <= parsers[command]._option_string_actions.keys(), (command, rest)


def test_every_spec_is_in_the_page_about_matching():
    from nearsearch.spec import FAMILIES

    page = (ROOT / "docs" / "matching.md").read_text()
    for algorithm, family in FAMILIES.items():
        row = next(line for line in page.splitlines() if line.startswith(f"| `{algorithm}`"))
        cells = [cell.strip() for cell in row.split("|")]
        assert cells[2] == ", ".join(map(str, family.bits))
        assert cells[3] == str(family.radius)


def anchors(text: str) -> set[str]:
    """The places that a link can lead to: its headings, as forges and MyST name them."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    words = [re.sub(r"[^\w\- ]", "", heading.strip().lower()) for heading in headings]
    return {word.replace(" ", "-") for word in words}


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_links_lead_somewhere(document):
    text = re.sub(r"^```.*?^```", "", (ROOT / document).read_text(), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)]+)\)", re.sub(r"`[^`]*`", "", text)):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        there = (ROOT / document).parent / path if path else ROOT / document
        assert there.exists(), target
        assert ROOT in there.resolve().parents, target
        assert not anchor or anchor in anchors(there.read_text()), target


def test_documents_name_no_machine():
    words = re.compile(r"/(home|root|work|tmp)/|://(?!www\.apache|creativecommons)")
    for document in DOCUMENTS:
        assert not words.search((ROOT / document).read_text()), document


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_block_of_a_page_is_run_or_says_that_it_is_not(page):
    fences = re.findall(r"^```(.*)$", (ROOT / page).read_text(), re.MULTILINE)
    known = re.compile(r"python|console|text||\{[a-z-]+\}.*")
    assert not [words for words in fences[::2] if not known.fullmatch(words)]


BLOCK = re.compile(
    r"^```(python|console)\n(.*?)^```\n(?:\s*<!-- output -->\s*^```text\n(.*?)^```\n)?",
    re.DOTALL | re.MULTILINE,
)
RUNNABLE = [page for page in PAGES if BLOCK.search((ROOT / page).read_text())]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """What the blocks of the pages find: photos/, a picture and a film to ask with, an index.

    `known.ns` has photos/ and film.mp4; suspect.jpg and turned.jpg are copies of photos/a.jpg,
    clip.mp4 is a part of the film; seized.zip has a picture that is not known.
    """
    import contextlib

    import av
    import numpy as np
    from PIL import Image

    import nearsearch as ns
    from nearsearch.synthetic import make_picture

    root = tmp_path_factory.mktemp("prepared")
    (root / "data").symlink_to(ROOT / "data")
    for folder, seeds in (("photos", "abc"), ("seized", "d")):
        (root / folder).mkdir()
        for number, name in enumerate(seeds, ord(seeds[0])):
            picture = Image.fromarray(make_picture(number, "leaves", 240, 180))
            picture.save(root / folder / f"{name}.jpg", quality=92)
    shutil.make_archive(str(root / "seized"), "zip", root / "seized")
    shutil.rmtree(root / "seized")
    with Image.open(root / "photos" / "a.jpg") as picture:
        picture.save(root / "suspect.jpg", quality=40)
        picture.transpose(Image.Transpose.ROTATE_90).save(root / "turned.jpg", quality=80)

    def write(path, frames):
        with av.open(str(path), "w") as container:
            stream = container.add_stream("mpeg4", rate=10)
            stream.height, stream.width = frames[0].shape[:2]
            stream.pix_fmt, stream.bit_rate = "yuv420p", 2_000_000
            for frame in frames:
                pixels = np.ascontiguousarray(frame)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
            container.mux(stream.encode(None))

    wides = [make_picture(seed, "leaves", 320, 180) for seed in range(4)]
    frames = [wide[:, x : x + 240] for wide in wides for x in range(0, 75, 3)]
    write(root / "film.mp4", frames)
    write(root / "clip.mp4", frames[30:90])
    with contextlib.chdir(root), ns.Writer.open("known.ns", create=True) as writer:
        writer.add_files(["photos/"], contribution="NL-0042", source="NL", workers=1)
        writer.add_files(["film.mp4"], contribution="FILMS", source="NL", workers=1)
    return root


def scripts(text: str):
    """Yield what to run of a page, in its order, and what it should print.

    Blocks of Python that follow each other are one script; what names one block knows, the next
    knows, whatever stands between.
    """
    python, said = "", ""
    for language, code, output in BLOCK.findall(text):
        if language == "console":
            if python:
                yield [sys.executable, "-W", "error", "-c", python], said
                python, said = "", ""
            yield ["bash", "-euc", code], output
        else:
            python, said = python + code, said + output
    if python:
        yield [sys.executable, "-W", "error", "-c", python], said


def check_printed(expected: str, printed: str) -> None:
    """Each line that is expected is printed, in this order; ``...`` stands for anything."""
    lines = [" ".join(line.split()) for line in printed.splitlines()]
    for wanted in filter(None, (" ".join(line.split()) for line in expected.splitlines())):
        pattern = re.compile(".*".join(map(re.escape, re.split(r" ?\.\.\. ?", wanted))))
        while lines and not pattern.fullmatch(lines[0]):
            lines.pop(0)
        assert lines, f"not printed, or not in this place: {wanted}\n{printed}"


@pytest.mark.parametrize("page", RUNNABLE, ids=str)
def test_blocks_of_a_page_run(page, prepared, tmp_path):
    folder = tmp_path / "folder"
    shutil.copytree(prepared, folder, symlinks=True)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    for command, expected in scripts((ROOT / page).read_text()):
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, env={**os.environ, "PATH": path}
        )
        assert done.returncode == 0, (command[-1], done.stderr)
        check_printed(expected, done.stdout)


def test_api_page_has_every_public_name():
    import nearsearch
    from nearsearch import corpora, synthetic
    from nearsearch.exchange import frames, vpdq

    page = (ROOT / "docs" / "api.md").read_text()
    for name in set(nearsearch.__all__) - {"__version__", "errors"}:
        assert re.search(rf"^\.\. auto\w+:: nearsearch\.{name}(\(\))?$", page, re.MULTILINE), name
    for module in (frames, vpdq, synthetic):
        section = page.split(f".. automodule:: {module.__name__}\n")[1].split("```")[0]
        for name, value in vars(module).items():
            is_ours = getattr(value, "__module__", None) == module.__name__
            assert not is_ours or name[0] == "_" or re.search(rf"\b{name}\b", section), name
    section = page.split(f".. automodule:: {corpora.__name__}\n")[1].split("```")[0]
    for name in corpora.__all__:
        assert re.search(rf"\b{name}\b", section), name


def benchmarked(n: int) -> tuple[str, str]:
    """Median and ratio to the faster of FAISS's two scans, of the committed run at radius 31."""
    path = RESULTS / "2026-11-29-epyc-2-cores" / "search" / "results.csv"
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


def test_costs_on_the_page_about_scale_are_those_of_the_committed_run():
    page = (ROOT / "docs" / "scale.md").read_text()
    shown = rows_of(page.partition("<!-- measured:")[2].partition("\nThe rest")[0])[1:]
    path = RESULTS / "2026-11-29-epyc-2-cores" / "search" / "results.csv"
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["kind"] == "uniform"]
    sizes = sorted({int(row["codes"]) for row in rows})
    assert [int(row[0].replace(",", "")) for row in shown] == sizes
    for n, cells in zip(sizes, shown, strict=True):
        at = {row["radius"]: row for row in rows if int(row["codes"]) == n}
        near, wide = at["31"], at["40"]
        scans = [float(near[name]) for name in ("faiss_flat_us", "faiss_mapped_us") if near[name]]
        build = (float(near["add_s"]) + float(near["compact_s"])) / (n / 1e6)
        assert cells[1:] == [
            f"{float(near['bytes_a_code']):.0f}",
            f"{float(near['disk_bytes_a_code']):.0f}",
            f"{build:.1f}",
            f"{float(near['p50_us']) / 1e3:.3f} ms",
            f"{float(near['p99_us']) / 1e3:.3f} ms",
            f"{float(wide['p50_us']) / 1e3:.3f} ms",
            f"{min(scans) / 1e3:.2f} ms",
            f"{float(near['batch_per_s']):,.0f}",
            f"{float(near['cold_first_ms']):.0f} ms",
        ]


def test_the_model_on_the_page_about_scale_is_that_of_the_planner():
    from nearsearch import plan

    page = (ROOT / "docs" / "scale.md").read_text()
    for count, bands, size, _, time in rows_of(
        page.partition("<!-- model:")[2].partition("\nUp to")[0]
    )[1:]:
        n = int(count.replace(",", ""))
        parts = 3 if n > 4e9 else 1  # a shard numbers its codes with 32 bits
        widths = plan.band_widths(n // parts, 256)
        held = 32 + 6 * len(widths) + 4 * sum(2**width for width in widths) / (n // parts)
        assert int(bands) == len(widths)
        number, unit = size.split()
        assert float(number) == round(held * n / {"MB": 1e6, "GB": 1e9, "TB": 1e12}[unit], 1)
        assert time == f"{parts * plan._even_cost(n // parts, widths, 31) / 1e6:.3f} ms"


def rows_of(table: str) -> list[list[str]]:
    """The cells of each row of a Markdown table, the head first, without the line below it."""
    rows = [line.strip().strip("|").split("|") for line in table.splitlines() if line[:1] == "|"]
    rows = [[cell.strip() for cell in row] for row in rows]
    return [row for row in rows if not set("".join(row)) <= set("-: ")]


def section(title: str) -> str:
    """The text below a heading of the results about quality."""
    (found,) = re.findall(
        rf"^## {title}.*?$(.*?)(?=^## |\Z)", QUALITY.read_text(), re.DOTALL | re.MULTILINE
    )
    return found


SHIPPED = ("pdq at 31", "as shipped, fast", "as shipped, thorough")


def test_recall_in_the_readme_is_that_of_the_committed_run():
    head, *measured = rows_of(section("Photographs"))[:10]
    columns = [head.index(name) for name in SHIPPED]
    shown = rows_of(README.partition("<!-- recall:")[2])[1:10]
    assert [row[1:] for row in shown] == [[row[i] for i in columns] for row in measured]


def test_facts_of_the_readme_are_those_of_the_committed_runs():
    facts = " ".join(README.partition("\n- **Fast.**")[2].partition("\nTry it")[0].split())
    median, ratio = benchmarked(10_000_000)
    assert f"within 31 bits in {median} on one core, {ratio} times" in facts
    head, *measured = rows_of(section("Photographs"))[:10]
    (mean,) = (row for row in measured if row[0].startswith("mean"))
    pdq, fast, thorough = (mean[head.index(name)] for name in SHIPPED)
    assert f"Of 160 photographs in 88 altered copies each it finds {fast} per cent, " in facts
    assert f"{thorough} when asked thoroughly; PDQ alone finds {pdq} " in facts
    folder = RESULTS / "2026-11-25-epyc-2-cores"
    ingest, many = (rows_of((folder / name).read_text()) for name in ("ingest.md", "many.md"))
    (rate,) = (row[1] for row in ingest if row[0] == "add")
    (big,) = (row[3] for row in ingest if re.fullmatch(r"JPEGs > 3 MP .*\+ pdqhash / add", row[0]))
    (again,) = (int(row[3]) for row in many if row[0] == "add again 1")
    assert f"{rate} mixed pictures a second and core" in facts
    assert f"{float(big):.1f} times as fast as with Pillow and the reference" in facts
    assert f"{again:,} unchanged files a second" in facts


def test_rates_of_false_matches_are_those_of_the_committed_run():
    page = (ROOT / "docs" / "matching.md").read_text()
    shown = [row[1:] for row in rows_of(page.partition("<!-- rates:")[2].partition("\nTimes")[0])]
    kinds = []
    for kind in ("photographs", "drawings"):
        rates = {row[0]: row[1] for row in rows_of(section(f"False matches of {kind}"))}
        kinds.append([rates[name] for name in SHIPPED])
    assert shown[1:] == [list(pair) for pair in zip(*kinds, strict=True)]


def test_what_is_blind_is_that_of_the_committed_run():
    page = (ROOT / "docs" / "limits.md").read_text()
    shown = rows_of(page.partition("<!-- blind:")[2].partition("\n- ")[0])[1:]
    tables = rows_of(section("Photographs"))
    measured = {row[0]: row[-3 if len(row) > 11 else -1] for row in tables}
    assert len(shown) > 10
    for name, found in shown:
        assert found == measured[name.removesuffix(", all three strengths")], name


def test_films_in_the_limits_are_those_of_the_committed_run():
    page = " ".join((ROOT / "docs" / "limits.md").read_text().split())
    found = {row[0]: row[3] for row in rows_of(QUALITY.with_name("films.md").read_text())[:25]}
    for transform, said in (
        ("still of a known film", "{} of the stills of the generated films were found"),
        ("cut of 5 to 8 s", "cuts of 5 to 8 seconds were found in {}"),
        ("black inserted", "Black inserted at two places: {} found"),
    ):
        share = found[transform].partition("%")[0]
        assert said.format(f"{float(share):.0f} %") in page, transform


def test_filters_that_the_page_about_commands_shows_can_be_read(prepared):
    import nearsearch as ns

    page = (ROOT / "docs" / "cli.md").read_text()
    shown = page.partition("| form | for instance |")[2].partition("\n\n")[0]
    filters = re.findall(r"`([^`]+)`", shown)
    assert len(filters) >= 9
    with ns.Index.open(prepared / "known.ns") as index:
        for text in filters:
            index.search(["00" * 32], where=text)
