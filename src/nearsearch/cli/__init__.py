"""The command line: each subcommand parses, makes one call of the public API, and prints.

Results go to standard output, talk and progress to standard error. Exit status: 0 found (or
done), 1 nothing found (or some files failed), 2 error.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

from nearsearch.errors import NearsearchError
from nearsearch.version import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

_EPILOG = """\
exit status: 0 found or done, 1 nothing found or some files failed, 2 error
a first try: nearsearch demo
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    # Each module is imported here and not above, so that `-h` of one does not load the others.
    from nearsearch.cli import add, demo, inspect, query

    parser = argparse.ArgumentParser(
        prog="nearsearch",
        description="Find all known material similar to this: exact search for pictures.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"nearsearch {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in (add, query, inspect, demo):
        module.register(commands)
    options = parser.parse_args(arguments)
    try:
        return int(options.run(options))
    except KeyboardInterrupt:
        sys.stderr.write("nearsearch: interrupted; what was not committed is not kept\n")
        return 130
    except BrokenPipeError:  # the reader of our output has left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except (NearsearchError, OSError) as error:
        from nearsearch.cli.output import printable

        sys.stderr.write(f"nearsearch: error: {printable(str(error))}\n")
        return 2
