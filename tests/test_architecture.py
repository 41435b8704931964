"""The floors of the house: who may import whom, and which library has which single home."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "nearsearch"

# Lowest floor first; within a floor, a module may import those that stand before it.
FLOORS = [
    ["version", "errors", "checks", "spec"],
    [
        "kernels",
        "kernels.jit",
        "kernels.blake2b",
        "kernels.borders",
        "kernels.chains",
        "kernels.corpora",
        "kernels.grid",
        "kernels.keys",
        "kernels.perceptual",
        "kernels.ring",
        "kernels.wdct",
    ],
    [
        "codes",
        "plan",
        "confidence",
        "evidence",
        "lines",
        "alignment",
        "segments",
        "sightings",
        "matches",
        "hashers.pdq",
        "hashers.imagehash_family",
        "hashers.wdct",
        "hashers.views",
        "hashers",
    ],
    [
        "store",
        "store.fs",
        "store.files",
        "store.schema",
        "store.log",
        "store.manifest",
        "store.untrusted",
        "store.tombstones",
        "store.ring",
        "store.shard",
        "store.digests",
        "store.build",
        "store.compaction",
        "store.seen",
        "store.members",
        "store.retention",
        "store.creation",
        "store.snapshot",
        "store.census",
        "store.soundness",
        "store.shardset",
        "store.selection",
        "store.transaction",
        "store.merging",
        "store.verify",
        "store.repair",
        "media",
        "media.formats",
        "media.pixels",
        "media.apng",
        "media.frames",
        "media.image",
        "media.sampling",
        "media.lengths",
        "media.luma",
        "media.video",
        "media.streams",
        "media.zips",
        "media.tars",
        "media.archives",
        "media.containers",
        "media.seen",
        "media.fingerprint",
        "media.worker",
    ],
    [
        "exchange",
        "exchange.frames",
        "exchange.vpdq",
        "where",
        "workers",
        "ingest",
        "hashes",
        "records",
        "intake",
        "search",
        "answers",
        "session",
        "writer",
        "index",
        "synthetic",
        "corpora",
    ],
    [
        "",
        "cli.output",
        "cli.limits",
        "cli.writing",
        "cli.add",
        "cli.hash",
        "cli.query",
        "cli.inspect",
        "cli.change",
        "cli.listing",
        "cli.maintain",
        "cli.demo",
        "cli",
        "__main__",
    ],
]
RANK = {
    name: (floor, place) for floor, names in enumerate(FLOORS) for place, name in enumerate(names)
}

# Library to the modules that may import it. The imagehash package takes PIL pictures, and
# synthetic pictures are drawn and encoded with PIL; all decoding is in media.image and what
# it stands on.
HOMES = {
    "numba": {
        "kernels.jit",
        "kernels.blake2b",
        "kernels.borders",
        "kernels.chains",
        "kernels.corpora",
        "kernels.grid",
        "kernels.keys",
        "kernels.perceptual",
        "kernels.ring",
        "kernels.wdct",
    },
    "PIL": {
        "media.formats",
        "media.pixels",
        "media.apng",
        "media.image",
        "hashers.imagehash_family",
        "synthetic",
    },
    "av": {"media.video"},
    "imagehash": {"hashers.imagehash_family"},
    "faiss": {"store.shard", "search", "cli.demo"},
    "fcntl": {"store.fs", "media.worker"},
    "mmap": {"store.fs"},
    "subprocess": {"workers"},
    "rich": {"cli.output", "cli.limits", "cli.query", "cli.inspect", "cli.demo"},
    "argparse": {"cli", "cli.add", "cli.query", "cli.inspect", "cli.demo"},
}
BANNED = {"pickle", "marshal", "shelve", "socketserver", "urllib", "http", "requests"}


def module_name(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(SOURCE.rglob("*.py"))}


def imports(path: Path, *, with_typing: bool = False):
    """Yield (module, names) of each import, those for type checkers only left out."""
    tree = ast.parse(path.read_text())
    typing_only = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            typing_only.update(id(child) for child in ast.walk(node))
    for node in ast.walk(tree):
        if id(node) in typing_only and not with_typing:
            continue
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, []
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module, [alias.name for alias in node.names]


def ours(module: str, names: list[str]):
    """Yield the modules of the house that an import statement means."""
    if module != "nearsearch" and not module.startswith("nearsearch."):
        return
    base = module.partition(".")[2]
    for name in names or [""]:
        inner = f"{base}.{name}".strip(".")
        yield inner if inner in MODULES else base


def test_every_module_has_a_floor():
    assert set(MODULES) == set(RANK)


@pytest.mark.parametrize("name", MODULES)
def test_imports_go_down(name):
    for module, names in imports(MODULES[name]):
        for target in ours(module, names):
            assert RANK[target] < RANK[name], f"{name} imports {target}, which is not below it"


@pytest.mark.parametrize("name", MODULES)
def test_libraries_stay_in_their_homes(name):
    for module, _ in imports(MODULES[name]):
        library = module.partition(".")[0]
        assert library not in BANNED, f"{name} imports {library}"
        assert name in HOMES.get(library, {name}), f"{name} imports {library}"


def test_store_and_kernels_do_not_look_up():
    """The store never computes distances or hashes; kernels know nobody but kernels."""
    for name, path in MODULES.items():
        targets = {t for module, names in imports(path) for t in ours(module, names)}
        if name.startswith("kernels"):
            assert all(target.startswith("kernels") for target in targets)
        if name.startswith("store"):
            assert not any(target.startswith(("hashers", "media", "search")) for target in targets)


@pytest.mark.parametrize("name", MODULES)
def test_module_is_of_a_readable_size(name):
    assert len(MODULES[name].read_text().splitlines()) <= 500


@pytest.mark.parametrize("command", ["import nearsearch", "import nearsearch.cli"])
def test_import_is_light(command):
    heavy = "numba faiss pyarrow PIL imagehash scipy numpy rich av"
    check = f"import sys; {command}; print(*(set({heavy!r}.split()) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_help_is_light():
    check = (
        "import sys, nearsearch.cli\n"
        "try: nearsearch.cli.main(['add', '-h'])\n"
        "except SystemExit: pass\n"
        "print('LOADED', *({'numba', 'faiss', 'pyarrow', 'PIL', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1].split() == ["LOADED"]


def test_kernels_are_only_made_by_the_one_decorator():
    for name, path in MODULES.items():
        if name != "kernels.jit":
            text = path.read_text()
            assert "njit" not in text
            assert "@jit" not in text
            assert "prange" not in text


def test_only_fs_changes_files():
    """Every write, rename, removal and sync of the store goes through the one seam."""
    words = (
        "os.fsync",
        "os.replace",
        "os.rename",
        "os.unlink",
        "shutil.",
        ".unlink(",
        "write_bytes",
    )
    for name, path in MODULES.items():
        if name.startswith("store") and name != "store.fs":
            assert not [word for word in words if word in path.read_text()], name


def test_public_names_exist_and_are_documented():
    import nearsearch

    for name in nearsearch.__all__:
        assert getattr(nearsearch, name).__doc__ or name == "__version__"
    assert dir(nearsearch) == nearsearch.__all__
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = nearsearch.nonsense
