"""The command line: each subcommand parses, makes one call of the public API, and prints.

Results go to standard output, talk and progress to standard error. Exit status: 0 found or done,
1 nothing found, 2 error; where some files failed `add` and `hash` end with 1, `query` with 2.
"""

from __future__ import annotations

import argparse
import logging
import os
import resource
import sys
import traceback
import warnings
from typing import TYPE_CHECKING, NoReturn

from nearsearch.errors import NearsearchError
from nearsearch.version import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

_EPILOG = """\
exit status: 0 found or done, 1 nothing found, 2 error; where some files failed
  add and hash end with 1, query with 2
a first try: nearsearch demo
"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    # Each module is imported here and not above, so that `-h` of one does not load the others.
    from nearsearch.cli import add, change, demo, hash, inspect, listing, maintain, query

    parser = _Parser(
        prog="nearsearch",
        description="Find all known material similar to this: exact search for pictures.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"nearsearch {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in (add, query, hash, listing, change, maintain, inspect, demo):
        module.register(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    _allow_many_files()
    options = argparse.Namespace()
    warnings.showwarning = _show_warning  # type: ignore[assignment]
    _show_log()
    try:
        options = _parsed(arguments)
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="backslashreplace")
        status = int(options.run(options))
        sys.stdout.flush()
    except KeyboardInterrupt:
        # Only those who commit can name an author.
        kept = "; what was committed is kept, the rest is not" if hasattr(options, "author") else ""
        sys.stderr.write(f"nearsearch: interrupted{kept}\n")
        return 130
    except BrokenPipeError:  # the reader of our output has left, as `head` does
        _drop_output()
        return 0
    except (NearsearchError, OSError) as error:
        from nearsearch.cli.output import printable

        sys.stderr.write(f"nearsearch: error: {printable(str(error))}\n")
        _drop_output()
        return 2
    except Exception:  # a fault of ours must not look like "nothing found", which is 1
        sys.stderr.write("nearsearch: internal error, please report it\n")
        traceback.print_exc()
        _drop_output()
        return 2
    return status


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = build_parser()
    options, rest = parser.parse_known_args(arguments)
    # argparse gives `query INDEX --option FILE` an empty FILE list, and FILE back as a rest.
    end = rest.index("--") if "--" in rest else len(rest)
    if any(word.startswith("-") and word != "-" for word in rest[:end]) or (
        rest and not hasattr(options, "files")
    ):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        options.files += rest[:end] + rest[end + 1 :]
    return options


def _show_warning(message: Warning | str, *_: object) -> None:
    """Print a warning as one line, without the place in our code that it comes from."""
    from nearsearch.cli.output import printable

    sys.stderr.write(f"nearsearch: warning: {printable(str(message))}\n")


def _show_log() -> None:
    """Print what the library logs: why it takes long."""
    logger = logging.getLogger("nearsearch")
    if not any(isinstance(handler, _Printer) for handler in logger.handlers):
        logger.addHandler(_Printer())
    logger.setLevel(logging.INFO)


def _allow_many_files() -> None:
    """Raise the number of open files to what the system allows: each mapped file holds one."""
    _, highest = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest, highest))


def _drop_output() -> None:
    """Send what cannot be written to nowhere, or the interpreter complains of it when it ends."""
    try:
        sys.stdout.flush()
    except OSError:
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, 1)
        os.close(nothing)


class _Printer(logging.Handler):
    """Prints what is logged to what standard error is at the time."""

    def emit(self, record: logging.LogRecord) -> None:
        from nearsearch.cli.output import printable

        sys.stderr.write(f"nearsearch: {printable(record.getMessage())}\n")


class _Parser(argparse.ArgumentParser):
    """As argparse's, but no name steers the terminal."""

    def error(self, message: str) -> NoReturn:
        from nearsearch.cli.output import printable

        super().error(printable(message))
