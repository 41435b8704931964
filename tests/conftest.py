"""What several test files share: pictures, a small index, and two ways to run the command line."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from PIL import Image

import nearsearch.kernels.ring  # noqa: F401 - else the first searches would be scans

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

# Settings of whoever runs the tests that would change what the command prints, or when.
_FOREIGN = ("PYTHONUNBUFFERED", "PYTHONIOENCODING", "FORCE_COLOR", "NO_COLOR", "COLUMNS", "LINES")

# As `python -m nearsearch`, but Ctrl-C works even where the tests run in the background, where
# shells make their children ignore it. More code can be put before the call.
COMMAND = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); {patch};"
    "from nearsearch.cli import main; sys.exit(main())"
)


def as_words(arguments: Iterable[Any]) -> list[str]:
    return [
        str(argument) if isinstance(argument, int) else os.fsdecode(argument)
        for argument in arguments
    ]


class SmallIndex(NamedTuple):
    """An index to read, never to write; its keys are the names of the files in `pictures`.

    Contribution alpha, source NL, label urgent: a.jpg b.jpg c.jpg; contribution beta, source DE:
    d.jpg, again.jpg (a.jpg smaller and at low quality), flat.png (featureless).
    """

    path: Path
    pictures: Path
    codes: dict[str, str]
    """Name of a picture to its pdq code in hex."""


class Outcome(NamedTuple):
    """What a run of the command line came to."""

    code: int
    out: str
    err: str


def make_picture(seed: int, width: int = 240, height: int = 180) -> Image.Image:
    """A textured picture; those of different seeds are far apart."""
    from nearsearch.synthetic import make_picture

    return Image.fromarray(make_picture(seed, "leaves", width, height))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--thorough", action="store_true", help="try every fault, not a sample: hours, not minutes"
    )


@pytest.fixture(scope="session")
def thorough(request: pytest.FixtureRequest) -> bool:
    """Whether every fault is to be tried."""
    return bool(request.config.getoption("--thorough"))


@pytest.fixture(scope="session")
def picture() -> Callable[..., Image.Image]:
    """The function that makes pictures: ``picture(seed, width, height)``."""
    return make_picture


@pytest.fixture(scope="session")
def small_index(tmp_path_factory: pytest.TempPathFactory) -> SmallIndex:
    from nearsearch import Writer, hash_files

    root = tmp_path_factory.mktemp("small")
    pictures = root / "pictures"
    pictures.mkdir()
    for seed, name in enumerate("abcd"):
        make_picture(seed).save(pictures / f"{name}.jpg", quality=92)
    make_picture(0).resize((160, 120)).save(pictures / "again.jpg", quality=50)
    Image.new("RGB", (200, 150), "grey").save(pictures / "flat.png")
    with contextlib.chdir(pictures):
        with Writer.open(root / "known.ns", create=True, specs=["pdq"]) as writer:
            writer.add_files(
                ["a.jpg", "b.jpg", "c.jpg"], contribution="alpha", source="NL", labels=["urgent"]
            )
            writer.commit()
            writer.add_files(["d.jpg", "again.jpg", "flat.png"], contribution="beta", source="DE")
        hashes = hash_files(sorted(os.listdir(".")))
    codes = dict(zip(hashes.keys, (code.tobytes().hex() for code in hashes.codes), strict=True))
    return SmallIndex(root / "known.ns", pictures, codes)


@pytest.fixture(scope="session")
def cli_environment() -> dict[str, str]:
    """The environment of command lines under test: ours without what changes the output."""
    return {name: value for name, value in os.environ.items() if name not in _FOREIGN}


@pytest.fixture
def start_cli(cli_environment: dict[str, str]) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start a command line as a process of its own, in its own process group (as a shell does).

    ``start_cli(*arguments, patch="code to run first", **options of Popen)``
    """
    started: list[subprocess.Popen[bytes]] = []

    def start(*arguments: Any, patch: str = "pass", **options: Any) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", COMMAND.format(patch=patch), *as_words(arguments)]
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process = subprocess.Popen(
            command, start_new_session=True, **{"env": cli_environment, **pipes, **options}
        )
        started.append(process)
        return process

    yield start
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe:
                pipe.close()


@pytest.fixture
def run_cli(cli_environment: dict[str, str]) -> Callable[..., subprocess.CompletedProcess[bytes]]:
    """Run ``python -m nearsearch *arguments`` to its end; options go to `subprocess.run`."""

    def run(*arguments: Any, **options: Any) -> subprocess.CompletedProcess[bytes]:
        command = [sys.executable, "-m", "nearsearch", *as_words(arguments)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        if "input" not in options:
            pipes["stdin"] = subprocess.DEVNULL
        return subprocess.run(
            command, check=False, timeout=60, **{"env": cli_environment, **pipes, **options}
        )

    return run


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run the command line in this process: no start-up time, same printing."""

    def run(*arguments: Any) -> Outcome:
        from nearsearch.cli import main

        capsys.readouterr()
        try:
            code = main(as_words(arguments))
        except SystemExit as exit_:
            code = exit_.code
        return Outcome(code, *capsys.readouterr())

    return run


@pytest.fixture
def processes() -> Callable[..., list[int]]:
    """``processes(group)``: living members of a process group; ``processes()``: our children."""

    def living(
        group: int | None = None, *, besides: Iterable[int] = (), within: float = 0
    ) -> list[int]:
        """List them; with `within`, wait so many seconds at most until there are none left."""
        deadline = time.monotonic() + within
        while True:
            found = sorted(set(_processes(group)) - set(besides))
            if not found or time.monotonic() >= deadline:
                return found
            time.sleep(0.01)

    return living


def _processes(group: int | None) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                stat = (entry / "stat").read_text().rpartition(")")[2].split()
                state, parent, its_group = stat[0], int(stat[1]), int(stat[2])
                if state != "Z" and (
                    parent == os.getpid() if group is None else its_group == group
                ):
                    found.append(int(entry.name))
    return found
